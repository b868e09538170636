//! The data keys: one a person, one a tenant, one for its blind indexes; wrapped, in a table of their own.

mod change;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use crm_core::capability::{DataKey, KeyProvider, RecordStore, ToUnwrap, ToWrap, WrappedKey};
use crm_core::record::{Field, FieldType, Index, Outcome, Record, Schema, Stored, Value, Version, Write};
use crm_core::{Clock, Context, Error, ErrorKind, Result, TenantId, Timestamp, Uuid};
use moka::sync::Cache;
use ring::digest;

use super::code::part;
use super::config::SealConfig;
use super::envelope::{Algorithm, random};

/// How a data key is stored: wrapped, and after an erasure not at all. May lie in another store than the data, so that a
/// backup of the data has no keys.
pub static SUBJECT_KEY: Schema = Schema {
    name: "crm_subject_key",
    fields: &[
        Field::new("kind", FieldType::Text),
        Field::new("subject", FieldType::Uuid).nullable().pseudonym(),
        Field::new("generation", FieldType::Int),
        Field::new("kek", FieldType::Text).nullable(),
        Field::new("wrapped", FieldType::Bytes).nullable(),
        Field::new("created_at", FieldType::Timestamp),
        Field::new("destroyed_at", FieldType::Timestamp).nullable(),
        Field::new("swept_at", FieldType::Timestamp).nullable(),
    ],
    indexes: &[
        Index::new("crm_subject_key_kek", &["kek"]),
        Index::new("crm_subject_key_destroyed", &["destroyed_at"]),
    ],
};

/// How many keys go to the provider in one call.
const BATCH: usize = 500;

/// Whose data key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Owner {
    /// A person.
    Subject(Uuid),
    /// Nobody: records without a person.
    Tenant,
    /// The tenant's blind indexes.
    Index,
}

impl Owner {
    fn kind(self) -> &'static str {
        match self {
            Self::Subject(_) => "subject",
            Self::Tenant => "tenant",
            Self::Index => "index",
        }
    }

    fn subject(self) -> Option<Uuid> {
        match self {
            Self::Subject(id) => Some(id),
            _ => None,
        }
    }

    /// The key's record id: a hash, so that no person's id is taken for the tenant's.
    pub(super) fn row(self) -> Uuid {
        let mut what = b"open-crm data key".to_vec();
        part(&mut what, self.kind().as_bytes());
        part(&mut what, self.subject().unwrap_or_default().as_bytes());
        let hash = digest::digest(&digest::SHA256, &what);
        let first = hash.as_ref().first_chunk::<16>().copied().unwrap_or_default();
        Uuid::from_bytes(first)
    }

    pub(super) fn algorithm(self) -> Algorithm {
        match self {
            Self::Subject(_) => Algorithm::Own,
            Self::Tenant | Self::Index => Algorithm::Shared,
        }
    }

    /// What a wrapped key is bound to.
    fn bound(self, tenant: &TenantId, generation: u32) -> Vec<u8> {
        let mut out = b"open-crm data key 1".to_vec();
        part(&mut out, tenant.as_str().as_bytes());
        part(&mut out, self.kind().as_bytes());
        part(&mut out, self.subject().unwrap_or_default().as_bytes());
        part(&mut out, &generation.to_be_bytes());
        out
    }

    fn of(stored: &Stored) -> Result<Self> {
        match stored.record.text("kind")? {
            "subject" => stored.record.uuid("subject").map(Self::Subject),
            "tenant" => Ok(Self::Tenant),
            "index" => Ok(Self::Index),
            _ => Err(stored.record.damaged("kind")),
        }
    }
}

/// A data key in use.
pub(super) struct Held {
    pub(super) key: DataKey,
    pub(super) generation: u32,
    unwrapped_at: Timestamp,
}

/// What became of a data key.
#[derive(Clone)]
pub(super) enum Found {
    Key(Arc<Held>),
    /// Destroyed: what was encrypted with it is gone.
    Erased,
    /// There never was one.
    Missing,
}

#[derive(Clone)]
struct Kept {
    held: Arc<Held>,
    checked_at: Timestamp,
}

/// The data keys of all tenants.
pub(super) struct Keys {
    store: Arc<dyn RecordStore>,
    provider: Arc<dyn KeyProvider>,
    clock: Arc<dyn Clock>,
    cache: Cache<(TenantId, Owner), Kept>,
    keep_micros: i64,
    recheck_micros: i64,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("store", self.store.info())
            .field("provider", self.provider.info())
            .field("cache", &"REDACTED")
            .finish_non_exhaustive()
    }
}

/// One row of the key table, read.
struct Row {
    owner: Owner,
    version: Version,
    generation: u32,
    wrapped: Option<WrappedKey>,
    record: Record,
}

impl Row {
    fn read(stored: Stored) -> Result<Self> {
        let owner = Owner::of(&stored)?;
        let record = stored.record;
        let generation =
            u32::try_from(record.int("generation")?).map_err(|_| record.damaged("generation"))?;
        let wrapped = match (record.get("kek"), record.get("wrapped")) {
            (Some(Value::Text(kek)), Some(Value::Bytes(bytes))) => Some(WrappedKey {
                key_id: kek.clone(),
                bytes: bytes.clone(),
            }),
            _ => None,
        };
        if wrapped.is_none() && record.get("destroyed_at").is_none_or(Value::is_null) {
            return Err(record.damaged("wrapped"));
        }
        Ok(Self {
            owner,
            version: stored.version,
            generation,
            wrapped,
            record,
        })
    }
}

impl Keys {
    pub(super) fn new(
        store: Arc<dyn RecordStore>,
        provider: Arc<dyn KeyProvider>,
        clock: Arc<dyn Clock>,
        config: &SealConfig,
    ) -> Self {
        let micros = |seconds: u64| {
            i64::try_from(seconds)
                .unwrap_or(i64::MAX)
                .saturating_mul(1_000_000)
        };
        Self {
            store,
            provider,
            clock,
            cache: Cache::new(config.kept_keys),
            keep_micros: micros(config.keep_seconds),
            recheck_micros: micros(config.recheck_seconds),
        }
    }

    pub(super) fn store(&self) -> &Arc<dyn RecordStore> {
        &self.store
    }

    pub(super) fn provider(&self) -> &Arc<dyn KeyProvider> {
        &self.provider
    }

    pub(super) fn forget(&self, tenant: &TenantId, owner: Owner) {
        self.cache.invalidate(&(tenant.clone(), owner));
        // What was invalidated is dropped, and so wiped, now and not at some later time.
        self.cache.run_pending_tasks();
    }

    /// Younger than `limit` microseconds; a clock that went back says nothing.
    fn young(&self, since: Timestamp, limit: i64) -> bool {
        let age = self.clock.now().as_micros().saturating_sub(since.as_micros());
        (0..limit).contains(&age)
    }

    fn keep(&self, tenant: &TenantId, owner: Owner, held: Arc<Held>, checked_at: Timestamp) {
        self.cache
            .insert((tenant.clone(), owner), Kept { held, checked_at });
    }

    /// The keys of these owners, from the cache where they are.
    pub(super) async fn load(
        &self,
        ctx: &Context,
        owners: &BTreeSet<Owner>,
    ) -> Result<HashMap<Owner, Found>> {
        let mut found = HashMap::with_capacity(owners.len());
        let mut unsure = Vec::new();
        for owner in owners {
            match self.cache.get(&(ctx.tenant().clone(), *owner)) {
                Some(kept)
                    if self.young(kept.checked_at, self.recheck_micros)
                        && self.young(kept.held.unwrapped_at, self.keep_micros) =>
                {
                    found.insert(*owner, Found::Key(kept.held));
                }
                _ => unsure.push(*owner),
            }
        }
        for owners in unsure.chunks(BATCH) {
            self.look_up(ctx, owners, &mut found).await?;
        }
        Ok(found)
    }

    async fn look_up(
        &self,
        ctx: &Context,
        owners: &[Owner],
        found: &mut HashMap<Owner, Found>,
    ) -> Result<()> {
        let ids: Vec<Uuid> = owners.iter().map(|owner| owner.row()).collect();
        let now = self.clock.now();
        let rows = self.store.get(ctx, &SUBJECT_KEY, &ids).await?;
        let mut wrapped = Vec::new();
        for (owner, row) in owners.iter().zip(rows) {
            let Some(row) = row.map(Row::read).transpose()? else {
                found.insert(*owner, Found::Missing);
                continue;
            };
            let Some(key) = row.wrapped else {
                self.forget(ctx.tenant(), *owner);
                found.insert(*owner, Found::Erased);
                continue;
            };
            // Changing the tenant's key wraps the same data key anew: what is in memory stays good.
            match self.cache.get(&(ctx.tenant().clone(), *owner)) {
                Some(kept)
                    if kept.held.generation == row.generation
                        && self.young(kept.held.unwrapped_at, self.keep_micros) =>
                {
                    self.keep(ctx.tenant(), *owner, kept.held.clone(), now);
                    found.insert(*owner, Found::Key(kept.held));
                }
                _ => wrapped.push((*owner, row.generation, key)),
            }
        }
        let keys = self.unwrap(ctx, &wrapped).await?;
        for ((owner, generation, _), key) in wrapped.into_iter().zip(keys) {
            let held = Arc::new(Held {
                key,
                generation,
                unwrapped_at: now,
            });
            self.keep(ctx.tenant(), owner, held.clone(), now);
            found.insert(owner, Found::Key(held));
        }
        Ok(())
    }

    async fn unwrap(&self, ctx: &Context, wrapped: &[(Owner, u32, WrappedKey)]) -> Result<Vec<DataKey>> {
        if wrapped.is_empty() {
            return Ok(Vec::new());
        }
        let bound: Vec<Vec<u8>> = wrapped
            .iter()
            .map(|(owner, generation, _)| owner.bound(ctx.tenant(), *generation))
            .collect();
        let asked: Vec<ToUnwrap<'_>> = wrapped
            .iter()
            .zip(&bound)
            .map(|((_, _, wrapped), bound_to)| ToUnwrap { wrapped, bound_to })
            .collect();
        let keys = self.provider.unwrap(ctx.tenant(), &asked).await?;
        counted(keys, asked.len())
    }

    async fn wrap(&self, ctx: &Context, keys: &[(Owner, u32, DataKey)]) -> Result<Vec<WrappedKey>> {
        let bound: Vec<Vec<u8>> = keys
            .iter()
            .map(|(owner, generation, _)| owner.bound(ctx.tenant(), *generation))
            .collect();
        let asked: Vec<ToWrap<'_>> = keys
            .iter()
            .zip(&bound)
            .map(|((_, _, key), bound_to)| ToWrap { key, bound_to })
            .collect();
        let wrapped = self.provider.wrap(ctx.tenant(), &asked).await?;
        counted(wrapped, asked.len())
    }

    /// The keys of these owners, made where there is none; `true` beside an owner who probably has none yet, so that no
    /// look-up comes before.
    pub(super) async fn ensure(
        &self,
        ctx: &Context,
        owners: &BTreeMap<Owner, bool>,
    ) -> Result<HashMap<Owner, Arc<Held>>> {
        let known: BTreeSet<Owner> = owners
            .iter()
            .filter(|(owner, new)| !**new || self.cache.contains_key(&(ctx.tenant().clone(), **owner)))
            .map(|(owner, _)| *owner)
            .collect();
        let mut found = self.load(ctx, &known).await?;
        let missing: Vec<Owner> = owners
            .keys()
            .filter(|owner| !matches!(found.get(owner), Some(Found::Key(_) | Found::Erased)))
            .copied()
            .collect();
        for owners in missing.chunks(BATCH) {
            let taken = self.create(ctx, owners, &mut found).await?;
            // Somebody else was faster: theirs are the keys.
            let theirs = self.load(ctx, &taken).await?;
            found.extend(theirs);
        }
        let mut keys = HashMap::with_capacity(owners.len());
        for owner in owners.keys() {
            match found.remove(owner) {
                Some(Found::Key(held)) => {
                    keys.insert(*owner, held);
                }
                Some(Found::Erased) => {
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        "the person these data are about was erased; a new record of theirs needs a new id",
                    )
                    .with("subject", owner.subject().unwrap_or_default()));
                }
                _ => return Err(Error::unexpected("a data key was made and is not there")),
            }
        }
        Ok(keys)
    }

    /// Makes and stores keys; answers the owners who had one already.
    async fn create(
        &self,
        ctx: &Context,
        owners: &[Owner],
        found: &mut HashMap<Owner, Found>,
    ) -> Result<BTreeSet<Owner>> {
        let now = self.clock.now();
        let mut made = Vec::with_capacity(owners.len());
        for owner in owners {
            made.push((*owner, 1_u32, DataKey::new(random()?)));
        }
        let wrapped = self.wrap(ctx, &made).await?;
        let mut writes = Vec::with_capacity(made.len());
        for ((owner, generation, _), wrapped) in made.iter().zip(wrapped) {
            let record = Record::new(&SUBJECT_KEY)
                .with("kind", owner.kind())?
                .with("subject", owner.subject())?
                .with("generation", *generation)?
                .with("kek", wrapped.key_id)?
                .with("wrapped", wrapped.bytes)?
                .with("created_at", now)?;
            writes.push(Write::insert_or_skip(owner.row(), record));
        }
        let outcomes = self.store.apply(ctx, &writes).await?;
        let mut taken = BTreeSet::new();
        for ((owner, generation, key), outcome) in made.into_iter().zip(outcomes) {
            if outcome == Outcome::Skipped {
                taken.insert(owner);
                continue;
            }
            let held = Arc::new(Held {
                key,
                generation,
                unwrapped_at: now,
            });
            self.keep(ctx.tenant(), owner, held.clone(), now);
            found.insert(owner, Found::Key(held));
        }
        Ok(taken)
    }
}

fn counted<T>(answers: Vec<T>, asked: usize) -> Result<Vec<T>> {
    if answers.len() == asked {
        return Ok(answers);
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        "the key provider did not answer for every key",
    )
    .with("asked", asked)
    .with("answered", answers.len()))
}
