//! A store that reads from another one and writes into memory: what a dry run works on.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use crm_core::capability::{RecordStore, StoreCapability};
use crm_core::memory::MemoryStore;
use crm_core::query::{Aggregate, Claim, Filter, Page, Query, Scan};
use crm_core::record::{Outcome, Schema, Stored, Version, Write};
use crm_core::{Context, Error, ErrorKind, Health, Provider, ProviderInfo, Result, Table, Timestamp, Uuid};

/// The most records a store gives at once.
const PAGE: u32 = 10_000;

/// What was written here is seen before what lies below; nothing is written below. Serves what an import asks: look-ups
/// of bounded size by keys.
#[derive(Debug)]
pub(in super::super) struct Overlay {
    below: Arc<dyn RecordStore>,
    above: MemoryStore,
    written: Mutex<Written>,
}

/// What was written: by schema and id the version, `None` when it was removed.
#[derive(Debug, Default)]
struct Written {
    versions: HashMap<(&'static str, Uuid), Option<Version>>,
    ready: HashSet<&'static str>,
}

impl Overlay {
    pub(in super::super) fn new(below: Arc<dyn RecordStore>) -> Self {
        Self {
            below,
            above: MemoryStore::new("dry-run"),
            written: Mutex::default(),
        }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn room(&self, schema: &'static Schema) -> Result<()> {
        if self.written().ready.contains(schema.name) {
            return Ok(());
        }
        self.above.migrate(&[schema]).await?;
        self.written().ready.insert(schema.name);
        Ok(())
    }

    /// The version of a record as it is seen here.
    async fn version(&self, ctx: &Context, schema: &'static Schema, id: Uuid) -> Result<Option<Version>> {
        if let Some(known) = self.written().versions.get(&(schema.name, id)) {
            return Ok(*known);
        }
        let found = self.below.get(ctx, schema, &[id]).await?;
        Ok(found.into_iter().flatten().next().map(|stored| stored.version))
    }

    fn as_seen(&self, schema: &'static Schema, stored: Stored) -> Stored {
        let version = self.written().versions.get(&(schema.name, stored.id)).copied();
        Stored {
            version: version.flatten().unwrap_or(stored.version),
            ..stored
        }
    }
}

fn not_here() -> Error {
    Error::new(ErrorKind::Unsupported, "a dry run does not ask this of its store")
}

#[async_trait]
impl Provider for Overlay {
    fn info(&self) -> &ProviderInfo {
        self.below.info()
    }
    async fn check(&self) -> Result<Health> {
        self.below.check().await
    }
}

#[async_trait]
impl RecordStore for Overlay {
    fn capability(&self) -> StoreCapability {
        self.above.capability()
    }

    async fn now(&self) -> Result<Option<Timestamp>> {
        self.below.now().await
    }

    async fn migrate(&self, _schemas: &[&'static Schema]) -> Result<()> {
        Ok(())
    }

    fn schemas(&self) -> Vec<&'static Schema> {
        self.below.schemas()
    }

    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        let mut above = Vec::with_capacity(writes.len());
        let mut after = Vec::with_capacity(writes.len());
        for (position, write) in writes.iter().enumerate() {
            let (schema, id) = (write.schema(), write.id());
            self.room(schema).await?;
            let stale = |index: &'static str| {
                Error::conflict("the record is not as it was read")
                    .with("schema", schema.name)
                    .with("write", position)
                    .with("index", index)
            };
            // An update needs the version as it is now, of a record that may lie below only. New ids are fresh.
            match write {
                Write::Insert { record, .. } => {
                    above.push(Write::put(id, record.clone()));
                    after.push((schema.name, id, Some(1)));
                }
                Write::Update { expected, record, .. } => {
                    if self.version(ctx, schema, id).await? != Some(*expected) {
                        return Err(stale("version"));
                    }
                    above.push(Write::put(id, record.clone()));
                    after.push((schema.name, id, Some(expected.saturating_add(1))));
                }
                Write::Put { record, .. } => {
                    let now = self.version(ctx, schema, id).await?.unwrap_or(0);
                    above.push(Write::put(id, record.clone()));
                    after.push((schema.name, id, Some(now.saturating_add(1))));
                }
                Write::Delete { .. } => {
                    if self
                        .above
                        .get(ctx, schema, &[id])
                        .await?
                        .into_iter()
                        .flatten()
                        .next()
                        .is_some()
                    {
                        above.push(Write::delete(schema, id, None));
                    }
                    after.push((schema.name, id, None));
                }
            }
        }
        self.above.apply(ctx, &above).await?;
        let outcomes = after
            .iter()
            .map(|(_, _, version)| version.map_or(Outcome::Deleted, Outcome::Written))
            .collect();
        let mut written = self.written();
        for (schema, id, version) in after {
            written.versions.insert((schema, id), version);
        }
        Ok(outcomes)
    }

    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        self.room(schema).await?;
        let below = self.below.get(ctx, schema, ids).await?;
        let above = self.above.get(ctx, schema, ids).await?;
        let gone = |id: &Uuid| matches!(self.written().versions.get(&(schema.name, *id)), Some(None));
        Ok(ids
            .iter()
            .zip(above.into_iter().zip(below))
            .map(|(id, (above, below))| match above {
                Some(stored) => Some(self.as_seen(schema, stored)),
                None if gone(id) => None,
                None => below,
            })
            .collect())
    }

    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        if !query.order.is_empty() || query.after.is_some() {
            return Err(not_here());
        }
        self.room(schema).await?;
        let mut items = Vec::new();
        for (store, is_below) in [(&*self.below, true), (&self.above as &dyn RecordStore, false)] {
            let mut query = Query::new(query.filter.clone()).limit(PAGE);
            loop {
                let page = store.find(ctx, schema, &query).await?;
                for stored in page.items {
                    if !is_below {
                        items.push(self.as_seen(schema, stored));
                    } else if !self.written().versions.contains_key(&(schema.name, stored.id)) {
                        items.push(stored);
                    }
                }
                match page.next {
                    None => break,
                    next => query.after = next,
                }
            }
        }
        items.sort_by_key(|stored| stored.id);
        Ok(Page { items, next: None })
    }

    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        let page = self.find(ctx, schema, &Query::new(filter.clone())).await?;
        Ok(page.items.len() as u64)
    }

    async fn claim(&self, _: &Context, _: &'static Schema, _: &Claim) -> Result<Vec<Stored>> {
        Err(not_here())
    }

    async fn scan(
        &self,
        _: &Context,
        _: &'static Schema,
        _: &Scan,
        _: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()> {
        Err(not_here())
    }

    async fn aggregate(&self, _: &Context, _: &'static Schema, _: &Aggregate) -> Result<Table> {
        Err(not_here())
    }
}
