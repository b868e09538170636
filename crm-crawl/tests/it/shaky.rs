//! A store that fails now and then, half of the time after it did what was asked: as databases that start again do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use crm_core::capability::{RecordStore, StoreCapability};
use crm_core::memory::MemoryStore;
use crm_core::query::{Aggregate, Claim, Filter, Page, Query, Scan};
use crm_core::record::{Outcome, Schema, Stored, Write};
use crm_core::{Context, Error, ErrorKind, Health, Provider, ProviderInfo, Result, Retry, Table, Uuid};
use crm_crawl::spider::{StoredFrontier, WebCollector};

use crate::run;
use crate::site::{Answer, Site, list, next};

#[derive(Debug)]
struct Shaky {
    below: MemoryStore,
    calls: AtomicUsize,
    /// Every call of this number fails.
    each: usize,
    failures: AtomicUsize,
}

impl Shaky {
    fn new(each: usize) -> Arc<Self> {
        Arc::new(Self {
            below: MemoryStore::new("records"),
            calls: AtomicUsize::new(0),
            each,
            failures: AtomicUsize::new(0),
        })
    }

    /// Whether this call fails, and whether after it was carried out.
    fn fate(&self) -> Option<bool> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        (call % self.each == self.each - 1)
            .then(|| self.failures.fetch_add(1, Ordering::SeqCst).is_multiple_of(2))
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        match self.fate() {
            None => call.await,
            Some(carried_out) => {
                let error = Error::new(ErrorKind::Unavailable, "the store is gone");
                if !carried_out {
                    return Err(error.with_retry(Retry::Allowed { after: None }));
                }
                call.await?;
                Err(error.effect_unknown())
            }
        }
    }
}

#[async_trait]
impl Provider for Shaky {
    fn info(&self) -> &ProviderInfo {
        self.below.info()
    }
    async fn check(&self) -> Result<Health> {
        self.below.check().await
    }
}

#[async_trait]
impl RecordStore for Shaky {
    fn capability(&self) -> StoreCapability {
        self.below.capability()
    }
    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        self.below.migrate(schemas).await
    }
    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        self.call(self.below.apply(ctx, writes)).await
    }
    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        self.call(self.below.get(ctx, schema, ids)).await
    }
    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        self.call(self.below.find(ctx, schema, query)).await
    }
    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        self.call(self.below.count(ctx, schema, filter)).await
    }
    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
        self.call(self.below.claim(ctx, schema, claim)).await
    }
    async fn scan(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()> {
        self.below.scan(ctx, schema, scan, take).await
    }
    async fn aggregate(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        aggregate: &Aggregate,
    ) -> Result<Table> {
        self.call(self.below.aggregate(ctx, schema, aggregate)).await
    }
}

#[tokio::test]
async fn a_store_that_fails_now_and_then_costs_nothing_but_time() {
    const PAGES: usize = 30;
    let site = Site::start(|path, _| match path {
        "/" => Answer::html((0..PAGES).map(|i| next(&format!("/p/{i}"))).collect::<String>()),
        other => list(other, PAGES - 1).unwrap_or(Answer::status(404)),
    })
    .await;
    let spec = site.spec("/");
    let store = Shaky::new(4);
    // What was leased by a claim whose answer was lost comes back when its lease runs out.
    let frontier = StoredFrontier::open(store.clone(), "shaky").await.unwrap();
    let frontier = frontier.with_lease(std::time::Duration::from_millis(500));
    let collector = WebCollector::from_spec(&spec)
        .unwrap()
        .with_frontier(frontier.clone());
    let (kept, result) = run(&collector, None).await;
    result.unwrap();
    let mut emails = kept.emails();
    emails.dedup();
    assert_eq!((emails.len(), site.page_hits()), (2 * PAGES, PAGES + 1));
    assert!(store.failures.load(Ordering::SeqCst) >= 6);

    // Negative control: one that is gone for good ends the crawl with its error.
    let frontier = StoredFrontier::open(Shaky::new(1), "gone").await.unwrap();
    let collector = WebCollector::from_spec(&spec).unwrap().with_frontier(frontier);
    let error = run(&collector, None).await.1.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}
