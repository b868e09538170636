//! The store around a store.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use crm_core::capability::{RecordStore, StoreCapability};
use crm_core::query::{Aggregate, Claim, Filter, Page, Query, Scan};
use crm_core::record::{Outcome, Schema, Stored, Write};
use crm_core::{
    Clock, Context, Error, ErrorKind, Health, IdSource, Provider, ProviderInfo, Result, Table, TenantId,
    Timestamp, Uuid,
};
use tokio::sync::watch;

use super::derive::Watch;
use super::feed::Feed;
use super::{CHANGE, CHANGE_HEAD, TAG, item};

/// Changes of one record; more are split into several of the same unit of work.
const ITEMS: usize = 8_000;

/// A [`RecordStore`] that writes down what every unit of work changes, in the same unit of work. It costs one record a
/// unit of work, whatever its size.
///
/// Watched are customers with all that belongs to them, consents and segments; [`ChangeLog::watch`] adds more. Claims on
/// watched kinds are refused, because a claim writes without a unit of work.
#[derive(Clone)]
pub struct ChangeLog {
    inner: Arc<dyn RecordStore>,
    info: ProviderInfo,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    watched: Arc<Watch>,
    wakes: Wakes,
}

impl fmt::Debug for ChangeLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeLog")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl ChangeLog {
    /// The change log of everything that is written through it into `inner`.
    pub fn new(inner: Arc<dyn RecordStore>, clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        let info = inner.info().clone().tag(TAG.0, TAG.1);
        Self {
            inner,
            info,
            clock,
            ids,
            watched: Arc::new(Watch::default()),
            wakes: Wakes::default(),
        }
    }

    /// Watches the records of one more kind: as entities of their own, or as what belongs to the customer named in the
    /// field `owner`.
    #[must_use]
    pub fn watch(mut self, schema: &'static Schema, owner: Option<&'static str>) -> Self {
        let mut watched = Arc::unwrap_or_clone(self.watched);
        watched.also(schema, owner);
        self.watched = Arc::new(watched);
        self
    }

    /// Reads the feed; its subscriptions hear of this log's writes at once.
    pub fn feed(&self) -> Feed {
        Feed::new(Arc::new(self.clone()), self.ids.clone(), self.wakes.clone())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Provider for ChangeLog {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        self.inner.check().await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RecordStore for ChangeLog {
    fn capability(&self) -> StoreCapability {
        self.inner.capability()
    }

    async fn now(&self) -> Result<Option<Timestamp>> {
        self.inner.now().await
    }

    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        let all: Vec<&'static Schema> = schemas.iter().copied().chain([&CHANGE, &CHANGE_HEAD]).collect();
        self.inner.migrate(&all).await
    }

    fn schemas(&self) -> Vec<&'static Schema> {
        self.inner.schemas()
    }

    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        let items = self.watched.changes(&*self.inner, ctx, writes).await?;
        if items.is_empty() {
            return self.inner.apply(ctx, writes).await;
        }
        let at = self.clock.now();
        let mut all = Vec::with_capacity(writes.len() + 1 + items.len() / ITEMS);
        all.extend_from_slice(writes);
        for items in items.chunks(ITEMS) {
            all.push(Write::insert(self.ids.fresh(), item::record(ctx, at, items)?));
        }
        // Also when this call is dropped after the commit: a subscriber that looks in vain loses nothing.
        let _wake = Wake(&self.wakes, ctx.tenant());
        let mut outcomes = self.inner.apply(ctx, &all).await?;
        outcomes.truncate(writes.len());
        Ok(outcomes)
    }

    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        self.inner.get(ctx, schema, ids).await
    }

    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        self.inner.find(ctx, schema, query).await
    }

    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        self.inner.count(ctx, schema, filter).await
    }

    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
        if self.watched.has(schema) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a claim would not be in the change feed; use find and apply with versions",
            )
            .operation("store.claim")
            .with("schema", schema.name));
        }
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

/// Tells the subscribers of a tenant that there may be something new.
#[derive(Debug, Clone, Default)]
pub(super) struct Wakes(Arc<Mutex<HashMap<TenantId, watch::Sender<()>>>>);

impl Wakes {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribe(&self, tenant: &TenantId) -> watch::Receiver<()> {
        self.lock()
            .entry(tenant.clone())
            .or_insert_with(|| watch::channel(()).0)
            .subscribe()
    }

    fn wake(&self, tenant: &TenantId) {
        let mut tenants = self.lock();
        if tenants.get(tenant).is_some_and(|sender| sender.send(()).is_err()) {
            tenants.remove(tenant);
        }
    }
}

/// Wakes when it goes.
struct Wake<'a>(&'a Wakes, &'a TenantId);

impl Drop for Wake<'_> {
    fn drop(&mut self) {
        self.0.wake(self.1);
    }
}
