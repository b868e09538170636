//! Personal data encrypted in front of any store (feature `sealed`).
//!
//! A [`SealedStore`] is a [`RecordStore`] like any other, around one that keeps what it is given: every field that its
//! schema marks personal lies there encrypted (AES-256-GCM) with a data key of the person it is about. Data keys are
//! wrapped by a [`KeyProvider`] with a key of the tenant. Whoever has the database, its log or a backup, and not the
//! keys, reads nothing; whoever destroys a person's key has erased the person from all of them ([`SealedStore::erase`]).
//!
//! - **Equality** on encrypted fields that are in an index (e-mail addresses, phone numbers), and uniqueness, go through
//!   a blind index: HMAC-SHA-256 with a key of its own for each tenant and field.
//! - **Everything else on encrypted fields** (parts of names, ranges, order, sums) is decided after decryption, over what
//!   the rest of the question lets through, at most [`SealConfig::max_opened`] records.
//! - **What still shows** in the database: ids, times and states that are not marked personal; whether a field is absent;
//!   how long a value is; which records of a tenant have equal values in an indexed field. `docs/security.md` says what
//!   follows from it.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::capability::RecordStore;
//! use crm_core::memory::MemoryStore;
//! use crm_core::query::{Filter, Query};
//! use crm_core::record::{Field, FieldType, Index, Record, Schema, Value, Write};
//! use crm_core::{Context, RandomIds, IdSource, Secret, SystemClock, TenantId};
//! use crm_store::sealed::{KeyRing, SealConfig, SealedStore};
//!
//! static GUEST: Schema = Schema {
//!     name: "guest",
//!     fields: &[Field::new("email", FieldType::Text).personal()],
//!     indexes: &[Index::unique("guest_email", &["email"])],
//! };
//!
//! let plain = Arc::new(MemoryStore::new("data"));
//! let ring = KeyRing::new("ring", [("2026", Secret::new("0".repeat(64)))]).unwrap();
//! let store = SealedStore::new(plain.clone(), Arc::new(ring), SystemClock::shared(), SealConfig::default()).unwrap();
//! store.migrate(&[&GUEST]).await.unwrap();
//!
//! let ctx = Context::new(TenantId::new("hotel").unwrap());
//! let guest = Record::new(&GUEST).with("email", "ana@example.com").unwrap();
//! store.apply(&ctx, &[Write::insert(RandomIds::shared().fresh(), guest)]).await.unwrap();
//!
//! let ana = Query::new(Filter::eq("email", "ana@example.com"));
//! assert_eq!(store.find(&ctx, &GUEST, &ana).await.unwrap().items.len(), 1);
//! # });
//! ```

mod apply;
mod blind;
mod code;
mod config;
mod cursor;
mod envelope;
mod erase;
mod key_ring;
mod keys;
#[cfg(feature = "kms")]
mod kms;
mod plan;
mod push;
mod read;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use crm_core::capability::{KeyProvider, RecordStore, StoreCapability};
use crm_core::query::{Aggregate, Assign, Claim, Filter, Page, Query, Scan};
use crm_core::record::{Field, FieldType, Outcome, Record, Schema, Stored, Value, Write};
use crm_core::{
    Clock, Context, Error, ErrorKind, Health, Provider, ProviderInfo, Result, Table, TenantId, Timestamp,
    Uuid,
};

pub use config::{Fields, SealConfig, Subject};
pub use erase::{Erased, Erasure};
pub use key_ring::KeyRing;
pub use keys::SUBJECT_KEY;
#[cfg(feature = "kms")]
pub use kms::{HttpKms, HttpKmsConfig};

use keys::{Found, Keys, Owner};
use plan::Plan;
use push::{Pushed, Pusher};

/// In which shape the records of each schema were stored: encrypted columns do not show their types.
static SHAPE: Schema = Schema {
    name: "crm_sealed_shape",
    fields: &[
        Field::new("schema_name", FieldType::Text),
        Field::new("shape", FieldType::Json),
    ],
    indexes: &[],
};

/// Whose records the shapes are: they hold for all tenants.
const SHAPES_OF: &str = "crm-sealed-shapes";

/// A [`RecordStore`] that encrypts personal data before the store behind sees them. `Debug` shows no keys and no data.
#[derive(Debug)]
pub struct SealedStore {
    info: ProviderInfo,
    inner: Arc<dyn RecordStore>,
    keys: Keys,
    config: SealConfig,
    /// By the schema's address: two statics of one name are two shapes.
    plans: Mutex<HashMap<usize, Arc<Plan>>>,
    known: Mutex<BTreeMap<&'static str, &'static Schema>>,
    /// One claim that has to decrypt at a time: they would only take the same records from each other.
    claims: tokio::sync::Mutex<()>,
}

/// What a change of the tenant's key did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rotation {
    /// How many data keys were wrapped anew.
    pub rewrapped: u64,
}

impl SealedStore {
    /// Encrypts in front of `inner`, which also keeps the wrapped data keys.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn new(
        inner: Arc<dyn RecordStore>,
        provider: Arc<dyn KeyProvider>,
        clock: Arc<dyn Clock>,
        config: SealConfig,
    ) -> Result<Self> {
        let keys = inner.clone();
        Self::with_keys_in(keys, inner, provider, clock, config)
    }

    /// Encrypts in front of `inner`; the wrapped data keys lie in `keys`, another store, so that no backup of the data has
    /// them. An erasure then also holds for every backup, without being replayed.
    ///
    /// # Errors
    /// As [`SealedStore::new`].
    pub fn with_keys_in(
        keys: Arc<dyn RecordStore>,
        inner: Arc<dyn RecordStore>,
        provider: Arc<dyn KeyProvider>,
        clock: Arc<dyn Clock>,
        config: SealConfig,
    ) -> Result<Self> {
        config.validate().map_err(|error| error.operation("store.open"))?;
        Ok(Self {
            info: ProviderInfo::new("sealed", config.name.clone()),
            keys: Keys::new(keys, provider, clock, &config),
            inner,
            config,
            plans: Mutex::default(),
            known: Mutex::default(),
            claims: tokio::sync::Mutex::new(()),
        })
    }

    /// The store behind, where everything lies encrypted.
    pub fn inner(&self) -> &Arc<dyn RecordStore> {
        &self.inner
    }

    /// What the store behind sees of a schema: encrypted fields are bytes marked [`crm_core::record::Privacy::Sealed`],
    /// blind indexes are columns `<field>_bidx`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting, schema and field that do not fit each other.
    pub fn stored_as(&self, schema: &'static Schema) -> Result<&'static Schema> {
        self.plan(schema).map(|plan| plan.physical)
    }

    /// Wraps every data key of the context's tenant that is not under the provider's current key anew; data are not
    /// touched. Others read and write meanwhile; when it is stopped, the next call goes on where it was. Until it has
    /// answered, the provider must keep the older keys.
    ///
    /// # Errors
    /// Those of the key provider and of the store of the keys.
    pub async fn rotate(&self, ctx: &Context) -> Result<Rotation> {
        let mut done = Rotation::default();
        loop {
            let (rewrapped, passed) = self
                .keys
                .rewrap(ctx)
                .await
                .map_err(|error| error.operation("store.rotate"))?;
            done.rewrapped += rewrapped;
            if rewrapped == 0 && passed == 0 {
                return Ok(done);
            }
        }
    }

    fn plan(&self, schema: &'static Schema) -> Result<Arc<Plan>> {
        let address = std::ptr::from_ref(schema).addr();
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans.get(&address) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(Plan::new(schema, &self.config)?);
        plans.insert(address, plan.clone());
        Ok(plan)
    }

    /// The part of a filter that the store behind can answer.
    async fn pushed(&self, ctx: &Context, plan: &Plan, filter: &Filter) -> Result<Pushed> {
        let plan_of = |schema: &'static Schema| self.plan(schema);
        let mut blind = plan.has_blind();
        for related in filter.related_conditions() {
            blind |= self.plan(related.relation.schema())?.has_blind();
        }
        let root = if blind {
            let owners = BTreeSet::from([Owner::Index]);
            match self.keys.load(ctx, &owners).await?.remove(&Owner::Index) {
                Some(Found::Key(held)) => Some(held),
                _ => None,
            }
        } else {
            None
        };
        let pusher = Pusher {
            index_key: root.as_ref().map(|held| &held.key),
            plan_of: &plan_of,
        };
        pusher.push(plan, filter)
    }

    async fn check_shapes(&self, plans: &[Arc<Plan>]) -> Result<()> {
        let ctx = Context::new(TenantId::new(SHAPES_OF)?);
        let ids: Vec<Uuid> = plans.iter().map(|plan| shape_id(plan.logical)).collect();
        let stored = self.inner.get(&ctx, &SHAPE, &ids).await?;
        for (plan, stored) in plans.iter().zip(&stored) {
            match stored.as_ref().map(|stored| stored.record.get("shape")) {
                Some(Some(Value::Json(shape))) => plan.fits(shape)?,
                Some(_) => {
                    return Err(Error::new(ErrorKind::Corrupt, "a stored shape is not readable")
                        .with("schema", plan.logical.name));
                }
                None => {}
            }
        }
        Ok(())
    }

    async fn note_shapes(&self, plans: &[Arc<Plan>]) -> Result<()> {
        let ctx = Context::new(TenantId::new(SHAPES_OF)?);
        for plan in plans {
            let id = shape_id(plan.logical);
            loop {
                let stored = self
                    .inner
                    .get(&ctx, &SHAPE, &[id])
                    .await?
                    .into_iter()
                    .next()
                    .flatten();
                // What an older version of the program has, and this one has not, stays noted.
                let mut shape = match stored.as_ref().and_then(|stored| stored.record.get("shape")) {
                    Some(Value::Json(shape)) => shape.clone(),
                    _ => serde_json::json!({}),
                };
                if let (Some(all), serde_json::Value::Object(ours)) = (shape.as_object_mut(), plan.shape()) {
                    for (field, ours) in ours {
                        all.insert(field, ours);
                    }
                }
                let write = match stored {
                    Some(stored) if stored.record.get("shape").and_then(Value::as_json) == Some(&shape) => {
                        break;
                    }
                    Some(stored) => Write::update(id, stored.version, stored.record.with("shape", shape)?),
                    None => {
                        let record = Record::new(&SHAPE).with("schema_name", plan.logical.name)?;
                        Write::insert(id, record.with("shape", shape)?)
                    }
                };
                match self.inner.apply(&ctx, &[write]).await {
                    Ok(_) => break,
                    Err(error) if error.kind() == ErrorKind::Conflict => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

fn shape_id(schema: &Schema) -> Uuid {
    let hash = ::ring::digest::digest(&::ring::digest::SHA256, schema.name.as_bytes());
    Uuid::from_bytes(hash.as_ref().first_chunk::<16>().copied().unwrap_or_default())
}

#[async_trait]
impl Provider for SealedStore {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        let inner = self.inner.check().await?;
        let keys = self.keys.store().check().await?;
        // Without the provider, those whose keys are in memory can still be read.
        let provider = match self.keys.provider().check().await {
            Ok(Health::Down) | Err(_) => Health::Degraded,
            Ok(health) => health,
        };
        Ok(inner.min(keys).min(provider))
    }
}

#[async_trait]
impl RecordStore for SealedStore {
    fn capability(&self) -> StoreCapability {
        self.inner.capability()
    }

    async fn now(&self) -> Result<Option<Timestamp>> {
        self.inner.now().await
    }

    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        let named = |error: Error| error.operation("store.migrate");
        let plans = schemas
            .iter()
            .map(|schema| self.plan(schema))
            .collect::<Result<Vec<_>>>()
            .map_err(named)?;
        self.inner.migrate(&[&SHAPE]).await?;
        self.keys.store().migrate(&[&SUBJECT_KEY]).await?;
        self.check_shapes(&plans).await.map_err(named)?;
        let physical: Vec<&'static Schema> = plans.iter().map(|plan| plan.physical).collect();
        self.inner.migrate(&physical).await?;
        self.note_shapes(&plans).await.map_err(named)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(schemas.iter().map(|schema| (schema.name, *schema)));
        Ok(())
    }

    fn schemas(&self) -> Vec<&'static Schema> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().copied().collect()
    }

    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        self.seal_and_apply(ctx, writes)
            .await
            .map_err(|error| error.operation("store.apply"))
    }

    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        let named = |error: Error| error.operation("store.get");
        let plan = self.plan(schema).map_err(named)?;
        let found = self.inner.get(ctx, plan.physical, ids).await?;
        if !plan.seals() {
            return Ok(found);
        }
        let there: Vec<bool> = found.iter().map(Option::is_some).collect();
        let rows = found.into_iter().flatten().collect();
        let mut opened = self.open(ctx, &plan, rows).await.map_err(named)?.into_iter();
        Ok(there
            .into_iter()
            .map(|there| if there { opened.next().flatten() } else { None })
            .collect())
    }

    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        self.find_opened(ctx, schema, query)
            .await
            .map_err(|error| error.operation("store.find"))
    }

    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        self.count_opened(ctx, schema, filter)
            .await
            .map_err(|error| error.operation("store.count"))
    }

    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
        self.claim_opened(ctx, schema, claim)
            .await
            .map_err(|error| error.operation("store.claim"))
    }

    async fn scan(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()> {
        self.scan_opened(ctx, schema, scan, take).await
    }

    async fn aggregate(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        aggregate: &Aggregate,
    ) -> Result<Table> {
        self.aggregate_opened(ctx, schema, aggregate)
            .await
            .map_err(|error| error.operation("store.aggregate"))
    }
}

fn assigned(record: &mut Record, assign: &Assign) -> Result<()> {
    match assign {
        Assign::Set(field, value) => record.set(field, value.clone()),
        Assign::Add(field, by) => match record.get(field) {
            Some(Value::Int(now)) => {
                let sum = now
                    .checked_add(*by)
                    .ok_or_else(|| Error::invalid("adding goes beyond 64 bits").with("field", field))?;
                record.set(field, sum)
            }
            _ => Ok(()),
        },
    }
}
