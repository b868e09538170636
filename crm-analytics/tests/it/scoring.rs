//! Scores in the store: of everybody, then of those who changed; broken off anywhere, never lost; with their origin.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use crm_analytics::clean::CleaningPlan;
use crm_analytics::features::{Encoding, EncodingPlan, FeaturePlan, WithoutOrders};
use crm_analytics::model::ModelSpec;
use crm_analytics::pipeline::{
    Origins, Phase, PipelinePlan, Scored, Scorer, Scoring, Stage, StoredModels, Task,
};
use crm_core::activity::{Money, ORDER, Order};
use crm_core::capability::{ChangeReader, ChangedCustomers, RecordStore, StoreCapability};
use crm_core::consent::{CONSENT_EVENT, LegalBasis, Purpose, PurposeClass};
use crm_core::customer::{CUSTOMER, CUSTOMER_ALIAS, CustomerId};
use crm_core::memory::MemoryStore;
use crm_core::query::{Aggregate, Claim, Filter, Page, Query, Scan};
use crm_core::record::{Entity, Outcome, Record, Schema, Stored, Value, Write};
use crm_core::score::{SCORE, Score};
use crm_core::segment::{SEGMENT, SEGMENT_MEMBER};
use crm_core::testkit::fixtures;
use crm_core::{
    Clock, Context, Error, ErrorKind, Health, IdSource, ManualClock, Provider, ProviderInfo, Result,
    SeededIds, Table, Timestamp, Uuid,
};

fn day(n: u32) -> Timestamp {
    Timestamp::from_ymd(2026, 1, 1)
        .unwrap()
        .plus(std::time::Duration::from_secs(u64::from(n) * 86_400))
}

/// A store whose writes fail when told: some before, some after they were done.
#[derive(Debug)]
struct Torn {
    inner: MemoryStore,
    writes: AtomicUsize,
    /// Every so many-th write fails; never when 0.
    every: AtomicUsize,
}

#[async_trait]
impl Provider for Torn {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }
    async fn check(&self) -> Result<Health> {
        self.inner.check().await
    }
}

#[async_trait]
impl RecordStore for Torn {
    fn capability(&self) -> StoreCapability {
        self.inner.capability()
    }
    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        self.inner.migrate(schemas).await
    }
    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        let at = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        let every = self.every.load(Ordering::SeqCst);
        let fails = every > 0 && at.is_multiple_of(every);
        if fails && at.is_multiple_of(2) {
            return Err(Error::new(ErrorKind::Unavailable, "gone before it was written"));
        }
        let done = self.inner.apply(ctx, writes).await?;
        if fails {
            return Err(Error::new(ErrorKind::Unavailable, "gone after it was written").effect_unknown());
        }
        Ok(done)
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

/// A feed that the test writes.
#[derive(Debug, Default)]
struct Told {
    changes: Mutex<Vec<CustomerId>>,
    pruned: AtomicUsize,
}

#[async_trait]
impl ChangeReader for Told {
    async fn changed_customers(
        &self,
        _: &Context,
        cursor: Option<&str>,
        most: u32,
    ) -> Result<ChangedCustomers> {
        let all = self.changes.lock().unwrap();
        let from: usize = cursor.map_or(0, |cursor| cursor.parse().unwrap());
        if from < self.pruned.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::NotFound, "not kept any more").with("field", "cursor"));
        }
        let to = all.len().min(from + most as usize);
        let mut customers: Vec<CustomerId> = Vec::new();
        for id in &all[from..to] {
            if !customers.contains(id) {
                customers.push(*id);
            }
        }
        Ok(ChangedCustomers {
            customers,
            next: to.to_string(),
            behind: (all.len() - to) as u64,
        })
    }
    async fn latest(&self, _: &Context) -> Result<String> {
        Ok(self.changes.lock().unwrap().len().to_string())
    }
}

struct Shop {
    store: Arc<Torn>,
    scoring: Scoring,
    models: StoredModels,
    told: Told,
    clock: Arc<ManualClock>,
    ids: Arc<SeededIds>,
    ctx: Context,
}

impl Shop {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(day(200)));
        let ids = Arc::new(SeededIds::new(clock.clone(), 1));
        let store = Arc::new(Torn {
            inner: MemoryStore::new("records"),
            writes: AtomicUsize::new(0),
            every: AtomicUsize::new(0),
        });
        let own = [
            &CUSTOMER,
            &ORDER,
            &SEGMENT,
            &SEGMENT_MEMBER,
            &CONSENT_EVENT,
            &CUSTOMER_ALIAS,
        ];
        store.migrate(&own).await.unwrap();
        store.migrate(&Scoring::schemas()).await.unwrap();
        Self {
            scoring: Scoring::new(store.clone(), clock.clone(), ids.clone()),
            models: StoredModels::new(store.clone(), clock.clone(), ids.clone()),
            told: Told::default(),
            ctx: fixtures::context(),
            store,
            clock,
            ids,
        }
    }

    async fn customer(&self) -> CustomerId {
        let json = |text: &str| Value::Json(serde_json::from_str(text).unwrap());
        let mut record = Record::new(&CUSTOMER);
        for field in ["given_name", "family_name", "display_name"] {
            record.set(field, "").unwrap();
        }
        for (field, value) in [
            ("addresses", "[]"),
            ("tags", "[]"),
            ("provenance", "[]"),
            ("attributes", "{}"),
        ] {
            record.set(field, json(value)).unwrap();
        }
        record.set("created_at", day(0)).unwrap();
        record.set("updated_at", day(0)).unwrap();
        let id = self.ids.fresh();
        self.store
            .inner
            .apply(&self.ctx, &[Write::insert(id, record)])
            .await
            .unwrap();
        self.told.changes.lock().unwrap().push(id.into());
        id.into()
    }

    /// An order; told to the feed or not.
    async fn order(&self, customer: CustomerId, at: Timestamp, minor: i64, told: bool) {
        let id = self.ids.fresh();
        let order = Order {
            id: id.into(),
            customer_id: customer,
            at,
            total: Money::new(minor, "EUR").unwrap(),
            items: 1,
            source: "test".into(),
            event_id: id.to_string(),
        };
        let write = Write::insert(id, order.to_record().unwrap());
        self.store.inner.apply(&self.ctx, &[write]).await.unwrap();
        if told {
            self.told.changes.lock().unwrap().push(customer);
        }
    }

    async fn people(&self, count: usize) -> Vec<CustomerId> {
        let mut people = Vec::new();
        for n in 0..count {
            let id = self.customer().await;
            for m in 0..n % 4 {
                self.order(
                    id,
                    day(10 * m as u32 + n as u32 % 90),
                    1_000 + 37 * n as i64,
                    true,
                )
                .await;
            }
            people.push(id);
        }
        people
    }

    fn plan(&self) -> FeaturePlan {
        FeaturePlan::rfm(day(200)).without_orders(WithoutOrders::Include)
    }

    /// A model of the money spent, made the one in use.
    async fn model(&self, seed: u64) -> Scorer {
        let features = self
            .plan()
            .read(&self.ctx, &*self.store, &mut |_| ())
            .await
            .unwrap();
        let pipeline = PipelinePlan {
            name: "value".into(),
            cleaning: CleaningPlan::new().fill("recency_days", 0.0).derive(
                "often",
                crm_analytics::clean::Expr::column("frequency").above(2.0),
            ),
            encoding: EncodingPlan::new(seed)
                .feature("recency_days", Encoding::number())
                .feature("frequency", Encoding::number())
                .feature("often", Encoding::one_hot()),
            model: ModelSpec::new("cart-regressor").with("max_depth", 2 + seed),
            task: Task::Estimate("monetary".into()),
            seed,
            features: Some(self.plan()),
        };
        let artefact = pipeline.fit(&features.table, day(200)).unwrap();
        let record = self
            .models
            .publish(&self.ctx, "value", &artefact.to_bytes().unwrap())
            .await
            .unwrap();
        self.models
            .stage(&self.ctx, "value", record.number, Stage::Live)
            .await
            .unwrap();
        Scorer::new(&artefact.learned).unwrap()
    }

    /// Steps until nothing is left; errors of the store are what is to be lived with.
    async fn catch_up(&self) -> (usize, Vec<Phase>) {
        let (mut torn, mut phases) = (0, Vec::new());
        for _ in 0..500 {
            match self
                .scoring
                .step(&self.ctx, "value", Some(&self.told), None)
                .await
            {
                Ok(step) => {
                    if phases.last() != Some(&step.phase) {
                        phases.push(step.phase);
                    }
                    if !step.more {
                        return (torn, phases);
                    }
                }
                Err(error) => {
                    assert!(
                        matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Conflict),
                        "{error:?}"
                    );
                    torn += 1;
                }
            }
        }
        panic!("it does not come to an end");
    }

    async fn scores(&self) -> BTreeMap<CustomerId, Score> {
        let query = Query::new(Filter::eq("model", "value")).limit(10_000);
        let found = self
            .store
            .inner
            .find(&self.ctx, &SCORE, &query)
            .await
            .unwrap()
            .items;
        let count = found.len();
        let scores: BTreeMap<CustomerId, Score> = found
            .into_iter()
            .map(|stored| Score::from_stored(stored).unwrap())
            .map(|score| (score.customer_id, score))
            .collect();
        assert_eq!(scores.len(), count, "one score a customer");
        scores
    }

    /// What the scores should be, worked out without the store of scores: all rows at once, the column given by name.
    async fn wanted(&self, scorer: &Scorer) -> BTreeMap<CustomerId, u64> {
        let features = self
            .plan()
            .at(self.clock.now())
            .read(&self.ctx, &self.store.inner, &mut |_| ())
            .await
            .unwrap();
        let columns = scorer
            .input()
            .map(|(name, _)| features.table.column(name).unwrap().clone());
        let scored = scorer.score(&Table::new(columns.collect()).unwrap()).unwrap();
        let value = |scored| match scored {
            Scored::Number(value) => f64::to_bits(value),
            other => panic!("{other:?}"),
        };
        features
            .ids
            .into_iter()
            .zip(scored.into_iter().map(value))
            .collect()
    }

    async fn stored(&self) -> BTreeMap<CustomerId, u64> {
        let scores = self.scores().await;
        scores
            .into_iter()
            .map(|(id, score)| (id, score.value.unwrap().to_bits()))
            .collect()
    }
}

#[tokio::test]
async fn everybody_first_then_those_who_changed() {
    let shop = Shop::new().await;
    let people = shop.people(1_203).await;
    let scorer = shop.model(1).await;
    let (_, phases) = shop.catch_up().await;
    assert_eq!(phases, [Phase::Everybody, Phase::Tidying, Phase::Changed]);
    assert_eq!(shop.stored().await, shop.wanted(&scorer).await);
    assert_eq!(shop.scores().await.len(), people.len());
    // Nothing changed: nothing to do.
    let step = shop
        .scoring
        .step(&shop.ctx, "value", Some(&shop.told), None)
        .await
        .unwrap();
    assert_eq!((step.looked_at, step.written, step.more), (0, 0, false));
    // Two changed: two are scored, the others keep their instant.
    shop.clock.set(day(201));
    for id in [people[7], people[700]] {
        shop.order(id, day(200), 990_000, true).await;
    }
    let step = shop
        .scoring
        .step(&shop.ctx, "value", Some(&shop.told), None)
        .await
        .unwrap();
    assert_eq!((step.phase, step.looked_at, step.written), (Phase::Changed, 2, 2));
    let scores = shop.scores().await;
    let fresh: Vec<_> = scores
        .values()
        .filter(|score| score.as_of == day(201))
        .map(|s| s.customer_id)
        .collect();
    assert_eq!(fresh.len(), 2);
    assert!(fresh.contains(&people[7]) && fresh.contains(&people[700]));
    // One is gone.
    let write = Write::delete(&CUSTOMER, people[9], None);
    shop.store.inner.apply(&shop.ctx, &[write]).await.unwrap();
    shop.told.changes.lock().unwrap().push(people[9]);
    let step = shop
        .scoring
        .step(&shop.ctx, "value", Some(&shop.told), None)
        .await
        .unwrap();
    assert_eq!((step.looked_at, step.written, step.removed), (1, 0, 1));
    assert!(!shop.scores().await.contains_key(&people[9]));
}

#[tokio::test]
async fn broken_off_anywhere_every_change_is_scored() {
    for every in [2, 3, 5] {
        let shop = Shop::new().await;
        let people = shop.people(1_100).await;
        let scorer = shop.model(1).await;
        shop.store.every.store(every, Ordering::SeqCst);
        let (torn, _) = shop.catch_up().await;
        assert!(torn > 0, "every {every}: nothing was torn");
        assert_eq!(shop.stored().await, shop.wanted(&scorer).await, "every {every}");
        for (n, id) in people.iter().enumerate().filter(|(n, _)| n % 2 == 0) {
            shop.order(*id, day(199), 50_000 + n as i64, true).await;
        }
        let (torn, _) = shop.catch_up().await;
        assert!(every == 5 || torn > 0);
        assert_eq!(shop.stored().await, shop.wanted(&scorer).await, "every {every}");
        // Negative control: a change that is not told is seen by the oracle, and by nobody else.
        for m in 0..9 {
            shop.order(people[1], day(190 + m), 900_000, false).await;
        }
        shop.catch_up().await;
        let (stored, wanted) = (shop.stored().await, shop.wanted(&scorer).await);
        let stale: Vec<_> = wanted.keys().filter(|id| wanted[id] != stored[id]).collect();
        assert_eq!(stale, [&people[1]]);
        // Everybody anew finds it.
        shop.scoring
            .restart(&shop.ctx, "value", Some(&shop.told))
            .await
            .ok();
        while shop.scores().await.values().any(|score| {
            score.customer_id == people[1] && stored[&people[1]] == score.value.unwrap().to_bits()
        }) {
            shop.store.every.store(0, Ordering::SeqCst);
            shop.scoring
                .restart(&shop.ctx, "value", Some(&shop.told))
                .await
                .unwrap();
            shop.catch_up().await;
        }
        assert_eq!(shop.stored().await, wanted);
    }
}

#[tokio::test]
async fn a_new_version_and_a_lost_cursor_mean_everybody() {
    let shop = Shop::new().await;
    let people = shop.people(600).await;
    shop.model(1).await;
    shop.catch_up().await;
    let first = shop.scores().await;
    let second = shop.model(3).await;
    let (_, phases) = shop.catch_up().await;
    assert_eq!(phases, [Phase::Everybody, Phase::Tidying, Phase::Changed]);
    let scores = shop.scores().await;
    assert!(scores.values().all(|score| score.number == 2));
    assert!(
        scores
            .iter()
            .all(|(id, score)| score.id == first[id].id && score.run != first[id].run)
    );
    assert_eq!(shop.stored().await, shop.wanted(&second).await);
    // The feed forgot what was not read yet.
    shop.order(people[3], day(199), 70_000, true).await;
    let told = shop.told.changes.lock().unwrap().len();
    shop.told.pruned.store(told, Ordering::SeqCst);
    let (_, phases) = shop.catch_up().await;
    assert_eq!(
        phases,
        [Phase::Changed, Phase::Everybody, Phase::Tidying, Phase::Changed]
    );
    assert_eq!(shop.stored().await, shop.wanted(&second).await);
}

#[tokio::test]
async fn who_may_not_be_looked_at_has_no_score() {
    let shop = Shop::new().await;
    let people = shop.people(20).await;
    shop.model(1).await;
    shop.catch_up().await;
    assert_eq!(shop.scores().await.len(), 20);
    // A purpose that needs consent, and nobody agreed.
    let purpose = Purpose::new("profiling", PurposeClass::Marketing, LegalBasis::Consent).unwrap();
    let audience = crm_analytics::privacy::Audience::read(&shop.ctx, &*shop.store, &purpose, day(200))
        .await
        .unwrap();
    shop.order(people[4], day(199), 100, true).await;
    let step = shop
        .scoring
        .step(&shop.ctx, "value", Some(&shop.told), Some(&audience))
        .await
        .unwrap();
    assert_eq!((step.looked_at, step.written, step.removed), (1, 0, 1));
    assert_eq!(step.audience.unwrap().without_consent, 1);
    assert!(!shop.scores().await.contains_key(&people[4]));
}

#[tokio::test]
async fn a_customer_can_be_told_where_a_score_comes_from() {
    let shop = Shop::new().await;
    let people = shop.people(40).await;
    shop.model(1).await;
    shop.catch_up().await;
    let origins = Origins::of(&shop.ctx, &*shop.store, people[5]).await.unwrap();
    let [one] = origins.scores.as_slice() else {
        panic!("{origins:?}")
    };
    assert_eq!((one.score.model.as_str(), one.score.number), ("value", 1));
    let lineage = one.lineage.as_ref().unwrap();
    assert_eq!(
        (lineage.run, lineage.seed, lineage.as_of),
        (one.score.run, 1, day(200))
    );
    assert_eq!(
        lineage.features,
        ["recency_days", "frequency", "often=false", "often=true"]
    );
    assert!(
        lineage.method.starts_with("value v1 (") && lineage.metrics.contains_key("held_out_rmse"),
        "{lineage:?}"
    );
    // Another tenant is told nothing.
    let other = Origins::of(&fixtures::context(), &*shop.store, people[5])
        .await
        .unwrap();
    assert_eq!(other, Origins::default());
    let error = shop
        .scoring
        .step(&fixtures::context(), "value", None, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
