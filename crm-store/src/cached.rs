//! A cache in front of any store: records by id, and lookups by the fields that name a customer.
//!
//! What it may answer is never older than the last write of the same process, and never older than
//! [`CacheConfig::stale_after`] when others write. Everything that is not a plain lookup goes to the store.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::capability::RecordStore;
//! use crm_core::customer::CUSTOMER;
//! use crm_core::memory::MemoryStore;
//! use crm_core::{Context, SystemClock, TenantId, Uuid};
//! use crm_store::cached::{CacheConfig, CachedStore};
//!
//! let slow = Arc::new(MemoryStore::new("records"));
//! let store = CachedStore::new(slow, SystemClock::shared(), CacheConfig::default()).unwrap();
//! store.migrate(&[&CUSTOMER]).await.unwrap();
//! let ctx = Context::new(TenantId::new("shop").unwrap());
//! assert_eq!(store.get(&ctx, &CUSTOMER, &[Uuid::nil()]).await.unwrap(), [None]);
//! assert_eq!(store.stats().misses, 1);
//! # });
//! ```

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::{RecordStore, StoreCapability};
use crm_core::customer::{CONTACT_POINT, CUSTOMER, EXTERNAL_REF};
use crm_core::query::{Aggregate, Claim, Compare, FieldRef, Filter, Page, Query, Scan};
use crm_core::record::{FieldType, Outcome, Record, Schema, Stored, Value, Write};
use crm_core::{
    Clock, Context, Error, Health, Provider, ProviderInfo, Result, Table, TenantId, Timestamp, Uuid,
};
use moka::sync::Cache;

/// A kind of record that is kept, and the fields it is looked up by.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// The kind.
    pub schema: &'static Schema,
    /// The text and UUID fields for which `field = value` and `field in (..)` are answered from the cache: those with
    /// few records a value.
    pub lookups: &'static [&'static str],
}

/// What is kept, how much of it, and how old it may be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CacheConfig {
    /// The provider's name in a registry; `cached` unless set.
    pub name: String,
    /// The most memory for records and lookups, in bytes, counted by their values; 64 MiB unless set.
    pub max_bytes: u64,
    /// How old an answer may be when other processes write; 30 seconds unless set. Writes of this process show at once.
    pub stale_after: Duration,
    /// The kinds; customers with their contact points and external references unless set.
    pub kept: Vec<Kept>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        let kept = |schema, lookups| Kept { schema, lookups };
        Self {
            name: "cached".to_owned(),
            max_bytes: 64 << 20,
            stale_after: Duration::from_secs(30),
            kept: vec![
                kept(&CUSTOMER, &[]),
                kept(&CONTACT_POINT, &["match_key", "customer_id"]),
                kept(&EXTERNAL_REF, &["customer_id"]),
            ],
        }
    }
}

impl CacheConfig {
    /// Sets the provider's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
    /// Sets the most memory, in bytes.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }
    /// Sets how old an answer may be when other processes write.
    #[must_use]
    pub fn stale_after(mut self, age: Duration) -> Self {
        self.stale_after = age;
        self
    }
    /// Keeps a kind of record too, looked up by these fields.
    #[must_use]
    pub fn keep(mut self, schema: &'static Schema, lookups: &'static [&'static str]) -> Self {
        self.kept.retain(|kept| kept.schema.name != schema.name);
        self.kept.push(Kept { schema, lookups });
        self
    }

    fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if self.name.is_empty() {
            return wrong("name", "a provider needs a name");
        }
        if self.max_bytes < 1 << 16 {
            return wrong("max_bytes", "a cache of less than 64 KiB keeps nothing");
        }
        if self.stale_after.is_zero() {
            return wrong(
                "stale_after",
                "answers that may not have any age cannot be kept; leave out the cache",
            );
        }
        for kept in &self.kept {
            for name in kept.lookups {
                match kept.schema.field(name) {
                    Some((_, field)) if matches!(field.ty, FieldType::Text | FieldType::Uuid) => {}
                    _ => {
                        return Err(Error::config("a lookup needs a text or UUID field")
                            .with("setting", "kept")
                            .with("schema", kept.schema.name)
                            .with("field", *name));
                    }
                }
            }
        }
        Ok(())
    }
}

/// How the cache does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStats {
    /// Records and lookups answered from the cache.
    pub hits: u64,
    /// Those that went to the store.
    pub misses: u64,
    /// Records and lookups kept, about.
    pub entries: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Record(TenantId, &'static str, Uuid),
    /// By field and value; UUIDs as text.
    Lookup(TenantId, &'static str, &'static str, Arc<str>),
}

#[derive(Clone)]
enum What {
    Record(Arc<Stored>),
    /// The ids of all records with the value. A record may have lost it since; whoever reads looks again.
    Lookup(Arc<[Uuid]>),
}

#[derive(Clone)]
struct Entry {
    read_at: Timestamp,
    what: What,
}

/// How many counters guard the filling; keys share them by hash.
const GUARDS: usize = 256;

/// A [`RecordStore`] with a cache in front. `Debug` shows no data.
pub struct CachedStore {
    info: ProviderInfo,
    inner: Arc<dyn RecordStore>,
    clock: Arc<dyn Clock>,
    config: CacheConfig,
    cache: Cache<Key, Entry>,
    /// Counts the writes to the keys of each guard: what was read before a write is not kept after it.
    guards: Vec<Mutex<u64>>,
    hasher: RandomState,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl fmt::Debug for CachedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedStore")
            .field("info", &self.info)
            .field("inner", self.inner.info())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl CachedStore {
    /// Puts a cache in front of a store.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn new(inner: Arc<dyn RecordStore>, clock: Arc<dyn Clock>, config: CacheConfig) -> Result<Self> {
        config.validate().map_err(|error| error.operation("store.open"))?;
        let cache = Cache::builder()
            .max_capacity(config.max_bytes)
            .weigher(|key: &Key, entry: &Entry| {
                let key = match key {
                    Key::Record(..) => 48,
                    Key::Lookup(_, _, _, value) => 64 + value.len(),
                };
                let value = match &entry.what {
                    What::Record(stored) => stored.record.values().iter().map(weight).sum(),
                    What::Lookup(ids) => 16 * ids.len(),
                };
                u32::try_from(key + value + 96).unwrap_or(u32::MAX)
            })
            .build();
        Ok(Self {
            info: ProviderInfo::new("cached", config.name.clone()),
            inner,
            clock,
            config,
            cache,
            guards: (0..GUARDS).map(|_| Mutex::new(0)).collect(),
            hasher: RandomState::new(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    /// The store behind it.
    pub fn inner(&self) -> &Arc<dyn RecordStore> {
        &self.inner
    }

    /// How it does.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: self.cache.entry_count(),
        }
    }

    /// Forgets everything: when another process is known to have written.
    pub fn clear(&self) {
        for guard in &self.guards {
            *guard.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        self.cache.invalidate_all();
    }

    fn kept(&self, schema: &'static Schema) -> Option<&Kept> {
        self.config
            .kept
            .iter()
            .find(|kept| kept.schema.name == schema.name)
    }

    fn guard(&self, key: &Key) -> Option<&Mutex<u64>> {
        let at = self.hasher.hash_one(key) as usize % GUARDS;
        self.guards.get(at)
    }

    /// What is kept and still young enough.
    fn fresh(&self, key: &Key) -> Option<What> {
        let entry = self.cache.get(key)?;
        let age = self.clock.now().since(entry.read_at);
        (age < self.config.stale_after).then_some(entry.what)
    }

    /// The count of a key's guard, to be taken before the store is asked.
    fn before(&self, key: &Key) -> u64 {
        self.guard(key)
            .map_or(0, |guard| *guard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps what was read unless somebody wrote meanwhile.
    fn keep(&self, key: Key, before: u64, read_at: Timestamp, what: What) {
        if let Some(guard) = self.guard(&key) {
            let count = guard.lock().unwrap_or_else(PoisonError::into_inner);
            if *count == before {
                self.cache.insert(key, Entry { read_at, what });
            }
        }
    }

    fn forget(&self, key: &Key) {
        if let Some(guard) = self.guard(key) {
            *guard.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        self.cache.invalidate(key);
    }

    fn count(&self, hits: usize, misses: usize) {
        self.hits.fetch_add(hits as u64, Ordering::Relaxed);
        self.misses.fetch_add(misses as u64, Ordering::Relaxed);
    }

    /// The keys a record of these values is kept under.
    fn keys_of(kept: &Kept, tenant: &TenantId, id: Uuid, record: Option<&Record>) -> Vec<Key> {
        let mut keys = vec![Key::Record(tenant.clone(), kept.schema.name, id)];
        for field in kept.lookups {
            let value = record.and_then(|record| record.get(field)).and_then(lookup_text);
            keys.extend(value.map(|value| Key::Lookup(tenant.clone(), kept.schema.name, field, value)));
        }
        keys
    }

    /// Records by id, from the cache where they are; `None` for those that are not there.
    async fn records(&self, ctx: &Context, kept: &Kept, ids: &[Uuid]) -> Result<HashMap<Uuid, Arc<Stored>>> {
        let mut found = HashMap::with_capacity(ids.len());
        let mut missing = Vec::new();
        for id in ids {
            let key = Key::Record(ctx.tenant().clone(), kept.schema.name, *id);
            match self.fresh(&key) {
                Some(What::Record(stored)) => {
                    found.insert(*id, stored);
                }
                _ => missing.push((*id, self.before(&key), key)),
            }
        }
        self.count(ids.len() - missing.len(), missing.len());
        if missing.is_empty() {
            return Ok(found);
        }
        let read_at = self.clock.now();
        let wanted: Vec<Uuid> = missing.iter().map(|(id, _, _)| *id).collect();
        let stored = self.inner.get(ctx, kept.schema, &wanted).await?;
        for ((id, before, key), stored) in missing.into_iter().zip(stored) {
            if let Some(stored) = stored.map(Arc::new) {
                self.keep(key, before, read_at, What::Record(stored.clone()));
                found.insert(id, stored);
            }
        }
        Ok(found)
    }

    /// All records with one of the values in `field`, by id; `None` when there are more than a page holds.
    async fn look_up(
        &self,
        ctx: &Context,
        kept: &Kept,
        field: &'static str,
        values: &[Value],
        most: u32,
    ) -> Result<Option<Vec<Stored>>> {
        let mut known = Vec::new();
        let mut missing = Vec::new();
        for value in values {
            let Some(text) = lookup_text(value) else {
                return Ok(None);
            };
            let key = Key::Lookup(ctx.tenant().clone(), kept.schema.name, field, text);
            match self.fresh(&key) {
                Some(What::Lookup(ids)) => known.extend_from_slice(&ids),
                _ => missing.push((value.clone(), self.before(&key), key)),
            }
        }
        self.count(values.len() - missing.len(), missing.len());
        let still = |stored: &Stored| {
            let value = stored.record.get(field);
            value.is_some_and(|value| values.contains(value))
        };
        let mut answer: HashMap<Uuid, Stored> = HashMap::new();
        if !known.is_empty() {
            let records = self.records(ctx, kept, &known).await?;
            let there = records.into_values().filter(|stored| still(stored));
            answer.extend(there.map(|stored| (stored.id, (*stored).clone())));
        }
        if !missing.is_empty() {
            let filter = Filter::In {
                field: FieldRef::from(field),
                values: missing.iter().map(|(value, _, _)| value.clone()).collect(),
            };
            // Records are kept under guards taken before they are read, as lookups are.
            let guards: Vec<u64> = self
                .guards
                .iter()
                .map(|guard| *guard.lock().unwrap_or_else(PoisonError::into_inner))
                .collect();
            let read_at = self.clock.now();
            let page = self
                .inner
                .find(ctx, kept.schema, &Query::new(filter).limit(most))
                .await?;
            if page.next.is_some() {
                return Ok(None);
            }
            for (value, before, key) in missing {
                let ids: Vec<Uuid> = page
                    .items
                    .iter()
                    .filter(|stored| stored.record.get(field) == Some(&value))
                    .map(|stored| stored.id)
                    .collect();
                self.keep(key, before, read_at, What::Lookup(ids.into()));
            }
            for stored in page.items {
                let key = Key::Record(ctx.tenant().clone(), kept.schema.name, stored.id);
                let at = self.hasher.hash_one(&key) as usize % GUARDS;
                let before = guards.get(at).copied().unwrap_or_default();
                self.keep(key, before, read_at, What::Record(Arc::new(stored.clone())));
                answer.insert(stored.id, stored);
            }
        }
        if answer.len() > most as usize {
            return Ok(None);
        }
        let mut answer: Vec<Stored> = answer.into_values().collect();
        answer.sort_unstable_by_key(|stored| stored.id);
        Ok(Some(answer))
    }

    /// The field and values of a question that is nothing but a lookup.
    fn asked<'q>(&self, schema: &'static Schema, query: &'q Query) -> Option<Asked<'q>> {
        let kept = *self.kept(schema)?;
        if !query.order.is_empty() || query.after.is_some() {
            return None;
        }
        let (field, values) = match &query.filter {
            Filter::Is {
                field,
                op: Compare::Eq,
                value,
            } => (field, std::slice::from_ref(value)),
            Filter::In { field, values } => (field, values.as_slice()),
            _ => return None,
        };
        if !field.path.is_empty() {
            return None;
        }
        let field = kept.lookups.iter().find(|name| **name == field.field)?;
        Some(Asked { kept, field, values })
    }
}

struct Asked<'q> {
    kept: Kept,
    field: &'static str,
    values: &'q [Value],
}

fn lookup_text(value: &Value) -> Option<Arc<str>> {
    match value {
        Value::Text(text) => Some(Arc::from(text.as_str())),
        Value::Uuid(id) => Some(Arc::from(id.to_string())),
        _ => None,
    }
}

fn weight(value: &Value) -> usize {
    24 + match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        // A tree of small allocations: several times its text.
        Value::Json(json) => 4 * json.to_string().len(),
        _ => 0,
    }
}

/// Forgets the keys of writes when dropped: whether they were carried out, refused, or given up halfway.
struct Forgets<'a> {
    store: &'a CachedStore,
    keys: Vec<Key>,
}

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        for key in &self.keys {
            self.store.forget(key);
        }
    }
}

#[async_trait]
impl Provider for CachedStore {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        self.inner.check().await
    }
}

#[async_trait]
impl RecordStore for CachedStore {
    fn capability(&self) -> StoreCapability {
        self.inner.capability()
    }

    async fn now(&self) -> Result<Option<Timestamp>> {
        self.inner.now().await
    }

    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        let done = self.inner.migrate(schemas).await;
        self.clear();
        done
    }

    fn schemas(&self) -> Vec<&'static Schema> {
        self.inner.schemas()
    }

    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        let keys = writes
            .iter()
            .filter_map(|write| {
                let kept = self.kept(write.schema())?;
                let record = match write {
                    Write::Insert { record, .. }
                    | Write::Update { record, .. }
                    | Write::Put { record, .. } => Some(record),
                    Write::Delete { .. } => None,
                };
                Some(Self::keys_of(kept, ctx.tenant(), write.id(), record))
            })
            .flatten()
            .collect();
        let _forgets = Forgets { store: self, keys };
        self.inner.apply(ctx, writes).await
    }

    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        let Some(kept) = self.kept(schema).copied() else {
            return self.inner.get(ctx, schema, ids).await;
        };
        let found = self.records(ctx, &kept, ids).await?;
        Ok(ids
            .iter()
            .map(|id| found.get(id).map(|stored| (**stored).clone()))
            .collect())
    }

    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        if let Some(Asked { kept, field, values }) = self.asked(schema, query) {
            query
                .validate(schema)
                .map_err(|error| error.operation("store.find"))?;
            if let Some(items) = self.look_up(ctx, &kept, field, values, query.limit).await? {
                return Ok(Page { items, next: None });
            }
        }
        self.inner.find(ctx, schema, query).await
    }

    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        self.inner.count(ctx, schema, filter).await
    }

    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
        if self.kept(schema).is_none() {
            return self.inner.claim(ctx, schema, claim).await;
        }
        // Whose fields it sets is not known before, and a call given up halfway never tells.
        struct Clears<'a>(&'a CachedStore);
        impl Drop for Clears<'_> {
            fn drop(&mut self) {
                self.0.clear();
            }
        }
        let _clears = Clears(self);
        self.inner.claim(ctx, schema, claim).await
    }

    async fn scan(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()> {
        self.inner.scan(ctx, schema, scan, take).await
    }

    async fn aggregate(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        aggregate: &Aggregate,
    ) -> Result<Table> {
        self.inner.aggregate(ctx, schema, aggregate).await
    }
}
