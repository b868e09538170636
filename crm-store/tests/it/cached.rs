//! The cache answers what the store would: the suite of all stores, writes of this process at once, those of others
//! after a bounded time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::{RecordStore, StoreCapability};
use crm_core::customer::{CONTACT_POINT, ContactKind, Draft, PersonName, Provenance};
use crm_core::memory::MemoryStore;
use crm_core::query::{Aggregate, Claim, Filter, Page, Query, Scan};
use crm_core::record::{Outcome, Record, Schema, Stored, Write};
use crm_core::testkit::fixtures::{self, Dice};
use crm_core::testkit::store::{LINK, SAMPLE, agrees_with_memory};
use crm_core::{
    Context, ErrorKind, Health, ManualClock, Provider, ProviderInfo, RandomIds, Result, SystemClock, Table,
    Timestamp, Uuid,
};
use crm_store::cached::{CacheConfig, CachedStore};
use crm_store::customers::Customers;

use crate::stores::sequences;

fn keeping() -> CacheConfig {
    CacheConfig::default()
        .keep(&SAMPLE, &["label", "t", "u", "code"])
        .keep(&LINK, &["sample_id"])
}

fn cached(inner: Arc<dyn RecordStore>) -> Arc<dyn RecordStore> {
    Arc::new(CachedStore::new(inner, SystemClock::shared(), keeping()).unwrap())
}

async fn on_memory() -> Arc<dyn RecordStore> {
    cached(Arc::new(MemoryStore::new("behind")))
}

crm_core::store_suite!(memory, on_memory());

#[tokio::test]
async fn any_sequence_of_operations_ends_as_in_the_model() {
    agrees_with_memory(on_memory().await, 31, sequences(100), 50).await;
}

/// Counts what gets through, and can hold a read between the store and the one who asked.
#[derive(Debug)]
struct Behind {
    inner: MemoryStore,
    reads: AtomicUsize,
    slow: AtomicBool,
}

impl Behind {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new("behind"),
            reads: AtomicUsize::new(0),
            slow: AtomicBool::new(false),
        })
    }
    async fn read(&self) {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.slow.load(Ordering::SeqCst) {
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
        }
    }
    fn reads(&self) -> usize {
        self.reads.swap(0, Ordering::SeqCst)
    }
}

#[async_trait]
impl Provider for Behind {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }
    async fn check(&self) -> Result<Health> {
        self.inner.check().await
    }
}

#[async_trait]
impl RecordStore for Behind {
    fn capability(&self) -> StoreCapability {
        self.inner.capability()
    }
    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        self.inner.migrate(schemas).await
    }
    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        let done = self.inner.apply(ctx, writes).await;
        if self.slow.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        done
    }
    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        let found = self.inner.get(ctx, schema, ids).await;
        self.read().await;
        found
    }
    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        let found = self.inner.find(ctx, schema, query).await;
        self.read().await;
        found
    }
    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        self.inner.count(ctx, schema, filter).await
    }
    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
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

fn labelled(label: &str) -> Record {
    Record::new(&SAMPLE).with("label", label).unwrap()
}

#[tokio::test]
async fn a_customer_is_read_once_and_forgotten_when_it_is_written() {
    let behind = Behind::new();
    let clock = Arc::new(ManualClock::at(Timestamp::EPOCH));
    let store = Arc::new(CachedStore::new(behind.clone(), clock.clone(), CacheConfig::default()).unwrap());
    let customers = Customers::new(store.clone(), clock, RandomIds::shared());
    let ctx = fixtures::context();
    let mut draft = Draft::new(Provenance::new("shop", Timestamp::EPOCH));
    draft.name = Some(PersonName::new("Ana", "Kask"));
    draft.emails.push("ana@example.com".into());
    let id = customers.upsert(&ctx, draft).await.unwrap().id;

    let ana = || customers.by_contact(&ctx, ContactKind::Email, "ana@example.com");
    let first = ana().await.unwrap().unwrap();
    behind.reads();
    assert_eq!(ana().await.unwrap().as_ref(), Some(&first));
    assert_eq!(customers.get(&ctx, id).await.unwrap().as_ref(), Some(&first));
    assert_eq!(
        behind.reads(),
        0,
        "by contact point and by id, nothing is read again"
    );

    let mut changed = first.clone();
    changed.name = PersonName::new("Ana", "Tamm");
    changed.contact_points.clear();
    customers.update(&ctx, &changed).await.unwrap();
    let now = customers.get(&ctx, id).await.unwrap().unwrap();
    assert_eq!(now.name.family, "Tamm");
    assert!(now.contact_points.is_empty());
    assert!(ana().await.unwrap().is_none(), "the address is free again");
    customers.delete(&ctx, id).await.unwrap();
    assert!(customers.get(&ctx, id).await.unwrap().is_none());
}

#[tokio::test]
async fn what_others_write_shows_after_the_stated_time() {
    let inner: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("shared"));
    let clock = Arc::new(ManualClock::at(Timestamp::EPOCH));
    let config = keeping().stale_after(Duration::from_secs(10));
    let store = CachedStore::new(inner.clone(), clock.clone(), config).unwrap();
    store.migrate(&[&SAMPLE]).await.unwrap();
    let (ctx, id) = (fixtures::context(), fixtures::id());
    store
        .apply(&ctx, &[Write::insert(id, labelled("old"))])
        .await
        .unwrap();
    let version = async || {
        store.get(&ctx, &SAMPLE, &[id]).await.unwrap()[0]
            .as_ref()
            .map(|s| s.version)
    };
    let labels = async |label: &str| {
        let query = Query::new(Filter::eq("label", label));
        store.find(&ctx, &SAMPLE, &query).await.unwrap().items.len()
    };
    assert_eq!(
        (version().await, labels("old").await, labels("new").await),
        (Some(1), 1, 0)
    );
    // Another process, past the cache.
    inner
        .apply(&ctx, &[Write::update(id, 1, labelled("new"))])
        .await
        .unwrap();
    clock.advance(Duration::from_secs(10) - Duration::from_micros(1));
    assert_eq!(
        (version().await, labels("new").await),
        (Some(1), 0),
        "it is a cache"
    );
    clock.advance(Duration::from_micros(1));
    assert_eq!(
        (version().await, labels("old").await, labels("new").await),
        (Some(2), 0, 1)
    );
    inner
        .apply(&ctx, &[Write::delete(&SAMPLE, id, None)])
        .await
        .unwrap();
    assert_eq!(version().await, Some(2));
    store.clear();
    assert_eq!((version().await, labels("new").await), (None, 0));
}

/// Readers that are overtaken by writers must not leave what they read in the cache. The store behind is slow on its way
/// back, so that this happens all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_of_this_process_shows_at_once_however_slow_a_reader_is() {
    let behind = Behind::new();
    let store: Arc<dyn RecordStore> =
        Arc::new(CachedStore::new(behind.clone(), SystemClock::shared(), keeping()).unwrap());
    store.migrate(&[&SAMPLE]).await.unwrap();
    let (ctx, id) = (fixtures::context(), fixtures::id());
    store
        .apply(&ctx, &[Write::insert(id, labelled("0"))])
        .await
        .unwrap();
    behind.slow.store(true, Ordering::SeqCst);
    let acknowledged = Arc::new(AtomicI64::new(1));
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for seed in 0..6 {
        let (store, ctx) = (store.clone(), ctx.clone());
        let (acknowledged, done) = (acknowledged.clone(), done.clone());
        readers.push(tokio::spawn(async move {
            let mut dice = Dice::new(seed);
            let mut asked = 0;
            while !done.load(Ordering::SeqCst) {
                let least = acknowledged.load(Ordering::SeqCst);
                let stored = if dice.one_in(2) {
                    store.get(&ctx, &SAMPLE, &[id]).await.unwrap().remove(0).unwrap()
                } else {
                    // The one it has, or the one it gets next: that nobody has it yet must not be kept either.
                    let label = (least - i64::from(dice.one_in(2))).to_string();
                    let query = Query::new(Filter::eq("label", label.as_str()));
                    match store.find(&ctx, &SAMPLE, &query).await.unwrap().items.pop() {
                        Some(stored) => stored,
                        None => {
                            tokio::task::yield_now().await;
                            continue;
                        }
                    }
                };
                assert!(
                    stored.version >= least,
                    "version {} after {least} was acknowledged",
                    stored.version
                );
                asked += 1;
                tokio::task::yield_now().await;
            }
            asked
        }));
    }
    for version in 1..2000 {
        let write = Write::update(id, version, labelled(&version.to_string()));
        store.apply(&ctx, &[write]).await.unwrap();
        let query = Query::new(Filter::eq("label", version.to_string().as_str()));
        let found = store.find(&ctx, &SAMPLE, &query).await.unwrap().items;
        let versions: Vec<i64> = found.iter().map(|stored| stored.version).collect();
        assert_eq!(versions, [version + 1], "what was just written is found");
        acknowledged.store(version + 1, Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::SeqCst);
    let mut asked = 0;
    for reader in readers {
        asked += reader.await.unwrap();
    }
    assert!(asked > 1000, "only {asked} reads");
    let kept = behind.reads();
    assert!(kept > 0, "the readers did reach the store");
}

#[tokio::test]
async fn tenants_do_not_meet_in_the_cache() {
    let store = on_memory().await;
    store.migrate(&[&SAMPLE]).await.unwrap();
    let (a, b, id) = (fixtures::context(), fixtures::context(), fixtures::id());
    store
        .apply(&a, &[Write::insert(id, labelled("a"))])
        .await
        .unwrap();
    assert!(store.get(&a, &SAMPLE, &[id]).await.unwrap()[0].is_some());
    assert!(store.get(&b, &SAMPLE, &[id]).await.unwrap()[0].is_none());
    let query = Query::new(Filter::eq("label", "a"));
    assert_eq!(store.find(&a, &SAMPLE, &query).await.unwrap().items.len(), 1);
    assert_eq!(store.find(&b, &SAMPLE, &query).await.unwrap().items.len(), 0);
}

#[tokio::test]
async fn memory_is_bounded_and_settings_are_checked() {
    let inner: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("behind"));
    let config = CacheConfig::default().keep(&SAMPLE, &[]).max_bytes(1 << 18);
    let store = CachedStore::new(inner.clone(), SystemClock::shared(), config).unwrap();
    store.migrate(&[&SAMPLE]).await.unwrap();
    let ctx = fixtures::context();
    let ids: Vec<Uuid> = (0..2000).map(|_| fixtures::id()).collect();
    let writes: Vec<Write> = ids
        .iter()
        .map(|id| Write::insert(*id, labelled(&"x".repeat(900))))
        .collect();
    store.apply(&ctx, &writes).await.unwrap();
    for id in &ids {
        store.get(&ctx, &SAMPLE, &[*id]).await.unwrap();
    }
    // A record weighs over 1,000 bytes: at most 262 fit, plus those not yet thrown out.
    assert!(store.stats().entries < 600, "{:?}", store.stats());

    let refused =
        |config: CacheConfig| CachedStore::new(inner.clone(), SystemClock::shared(), config).unwrap_err();
    for (config, setting) in [
        (CacheConfig::default().stale_after(Duration::ZERO), "stale_after"),
        (CacheConfig::default().max_bytes(10), "max_bytes"),
        (CacheConfig::default().name(""), "name"),
        (
            CacheConfig::default().keep(&CONTACT_POINT, &["primary_point"]),
            "kept",
        ),
    ] {
        let error = refused(config);
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some(setting))
        );
    }
}
