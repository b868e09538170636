//! Encryption in front of every store: the suite of all stores runs through it unchanged, and what is promised about it.

mod based;
mod canary;
mod erasure;
#[cfg(feature = "kms")]
mod kms;
mod people;
mod promises;
mod questions;
mod rotation;
mod stopped;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use crm_core::capability::{DataKey, KeyProvider, RecordStore, ToUnwrap, ToWrap, WrappedKey};
use crm_core::memory::MemoryStore;
use crm_core::record::{Field, FieldType, Index, Record, Schema};
use crm_core::testkit::store::{Under as _, agrees_with_memory};
use crm_core::{
    Clock, Error, ErrorKind, Health, Provider, ProviderInfo, Result, Secret, SystemClock, TenantId,
};
use crm_store::sealed::{KeyRing, SealConfig, SealedStore, Subject};

use crate::stores::{Opened, or_memory, sequences};

/// A ring of keys of these ids, the last one current.
pub(crate) fn ring(ids: &[&str]) -> KeyRing {
    let key = |id: &&str| {
        let digit = id
            .bytes()
            .fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        ((*id).to_owned(), Secret::new(format!("{digit:02x}").repeat(32)))
    };
    KeyRing::new("ring", ids.iter().map(key)).unwrap()
}

pub(crate) fn sealed_with(inner: Arc<dyn RecordStore>, config: SealConfig) -> SealedStore {
    SealedStore::new(inner, Arc::new(ring(&["2026"])), SystemClock::shared(), config).unwrap()
}

/// Customers and all that belongs to them, encrypted as a host gets it without a setting.
pub(crate) fn people(inner: Arc<dyn RecordStore>) -> Arc<dyn RecordStore> {
    Arc::new(sealed_with(inner, SealConfig::default()))
}

fn fields(of: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    of.iter()
        .map(|(schema, fields)| {
            let fields = fields.iter().map(|field| (*field).to_owned()).collect();
            ((*schema).to_owned(), fields)
        })
        .collect()
}

/// The suite's records, encrypted wherever that is possible: with keys of their own, of their owners and of the tenant.
fn everything() -> SealConfig {
    SealConfig {
        also: fields(&[
            (
                "kit_sample",
                &[
                    "label",
                    "flag",
                    "n",
                    "x",
                    "t",
                    "b",
                    "at",
                    "u",
                    "j",
                    "group_key",
                    "group_no",
                    "code",
                ],
            ),
            ("kit_link", &["kind", "n", "x", "at"]),
            ("kit_job", &["state", "run_at", "attempt", "holder", "seat"]),
            ("kit_growing", &["title", "amount"]),
        ]),
        searchable: fields(&[("kit_growing", &["title"])]),
        subjects: subjects(),
        ..SealConfig::default()
    }
}

fn subjects() -> BTreeMap<String, Subject> {
    BTreeMap::from([
        ("kit_sample".to_owned(), Subject::Record),
        ("kit_link".to_owned(), Subject::Field("sample_id".to_owned())),
        ("kit_job".to_owned(), Subject::Tenant),
    ])
}

/// Half of them, so that questions are answered partly here and partly there.
fn half() -> SealConfig {
    SealConfig {
        also: fields(&[
            ("kit_sample", &["n", "t", "j", "group_key", "code"]),
            ("kit_link", &["n", "at"]),
            ("kit_job", &["attempt", "seat"]),
        ]),
        searchable: fields(&[("kit_sample", &["t"]), ("kit_link", &["n"])]),
        subjects: subjects(),
        ..SealConfig::default()
    }
}

fn sealed(inner: Arc<dyn RecordStore>) -> Arc<dyn RecordStore> {
    Arc::new(sealed_with(inner, everything()))
}

fn half_sealed(inner: Arc<dyn RecordStore>) -> Arc<dyn RecordStore> {
    Arc::new(sealed_with(inner, half()))
}

crm_core::key_suite!(keys_in_a_ring, async {
    Arc::new(ring(&["2025", "2026"])) as Arc<dyn KeyProvider>
});

crm_core::store_suite!(in_memory, async { Opened::memory().with(sealed) });
crm_core::store_suite!(in_memory_by_half, async { Opened::memory().with(half_sealed) });
crm_core::store_suite!(on_sqlite, async { Opened::sqlite().await.with(sealed) });
#[cfg(all(feature = "mysql", feature = "postgres"))]
crm_core::store_suite!(on_mysql, async {
    or_memory(crate::own::mysql().await).with(sealed)
});
#[cfg(all(feature = "mysql", feature = "postgres"))]
crm_core::store_suite!(on_postgres, async {
    or_memory(crate::own::postgres().await).with(sealed)
});
#[cfg(feature = "mongodb")]
crm_core::store_suite!(on_mongodb, async {
    or_memory(crate::mongo::opened().await).with(sealed)
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_sequence_of_operations_ends_as_in_the_model() {
    agrees_with_memory(
        Opened::memory().with(sealed).store(),
        20_261_123,
        sequences(40),
        50,
    )
    .await;
    agrees_with_memory(Opened::memory().with(half_sealed).store(), 7, sequences(60), 50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_sequence_of_operations_ends_as_in_the_model_on_a_file() {
    agrees_with_memory(
        Opened::sqlite().await.with(half_sealed).store(),
        11,
        sequences(10),
        50,
    )
    .await;
}

/// A person, as the promises need them: a unique address, a few more fields of every kind, and something open.
pub(crate) static GUEST: Schema = Schema {
    name: "seal_guest",
    fields: &[
        Field::new("email", FieldType::Text).nullable().personal(),
        Field::new("name", FieldType::Text).nullable().personal(),
        Field::new("age", FieldType::Int).nullable().personal(),
        Field::new("notes", FieldType::Json).nullable().personal(),
        Field::new("room", FieldType::Int).nullable(),
    ],
    indexes: &[
        Index::unique("seal_guest_email", &["email"]),
        Index::new("seal_guest_room", &["room"]),
    ],
};

/// What belongs to a person.
pub(crate) static STAY: Schema = Schema {
    name: "seal_stay",
    fields: &[
        Field::new("customer_id", FieldType::Uuid).nullable().pseudonym(),
        Field::new("wish", FieldType::Text).nullable().personal(),
        Field::new("nights", FieldType::Int).nullable(),
    ],
    indexes: &[Index::new("seal_stay_customer", &["customer_id"])],
};

pub(crate) fn guests() -> SealConfig {
    SealConfig {
        subjects: BTreeMap::from([("seal_guest".to_owned(), Subject::Record)]),
        ..SealConfig::default()
    }
}

pub(crate) fn guest(email: &str, name: &str) -> Record {
    Record::new(&GUEST)
        .with("email", email)
        .and_then(|record| record.with("name", name))
        .unwrap()
}

/// Guests on a store in memory.
pub(crate) async fn hotel() -> (Arc<MemoryStore>, SealedStore) {
    let plain = Arc::new(MemoryStore::new("plain"));
    let store = sealed_with(plain.clone(), guests());
    store.migrate(&[&GUEST, &STAY]).await.unwrap();
    (plain, store)
}

/// Keys of a ring that somebody can pull the plug of.
#[derive(Debug)]
pub(crate) struct Plugged {
    pub(crate) ring: KeyRing,
    pub(crate) down: AtomicBool,
    pub(crate) calls: AtomicU64,
}

impl Plugged {
    pub(crate) fn new(ring: KeyRing) -> Arc<Self> {
        Arc::new(Self {
            ring,
            down: AtomicBool::new(false),
            calls: AtomicU64::new(0),
        })
    }

    fn reached(&self) -> Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unavailable, "the keys cannot be reached"));
        }
        Ok(())
    }
}

#[async_trait]
impl Provider for Plugged {
    fn info(&self) -> &ProviderInfo {
        self.ring.info()
    }
    async fn check(&self) -> Result<Health> {
        self.reached().map(|()| Health::Ready)
    }
}

#[async_trait]
impl KeyProvider for Plugged {
    async fn current(&self, tenant: &TenantId) -> Result<String> {
        self.reached()?;
        self.ring.current(tenant).await
    }
    async fn wrap(&self, tenant: &TenantId, keys: &[ToWrap<'_>]) -> Result<Vec<WrappedKey>> {
        self.reached()?;
        self.ring.wrap(tenant, keys).await
    }
    async fn unwrap(&self, tenant: &TenantId, keys: &[ToUnwrap<'_>]) -> Result<Vec<DataKey>> {
        self.reached()?;
        self.ring.unwrap(tenant, keys).await
    }
}

pub(crate) fn opened_with(
    inner: Arc<dyn RecordStore>,
    provider: Arc<dyn KeyProvider>,
    clock: Arc<dyn Clock>,
) -> SealedStore {
    SealedStore::new(inner, provider, clock, guests()).unwrap()
}
