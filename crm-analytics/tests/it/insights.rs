//! From a store to segments and back, with crashes in between.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use crm_analytics::Insights;
use crm_analytics::clean::{CleaningPlan, Fill};
use crm_analytics::features::{FeaturePlan, Monetary, WithoutOrders};
use crm_analytics::insights::{Groups, Progress, SegmentationPlan, Stage};
use crm_analytics::model::{
    CartTree, KMeansConfig, KMeansModel, LinfaKMeans, LinfaPca, PcaConfig, TreeConfig,
};
use crm_core::activity::{Money, ORDER, Order};
use crm_core::capability::{Classifier, ClusterModel, Clusterer, RecordStore, Reducer, StoreCapability};
use crm_core::customer::{Attributes, CUSTOMER};
use crm_core::memory::MemoryStore;
use crm_core::query::{Aggregate, Claim, Filter, Page, Query, Scan, Span};
use crm_core::record::{Entity, Outcome, Record, Schema, Stored, Write};
use crm_core::segment::{SEGMENT, SEGMENT_MEMBER, SEGMENT_OVERRIDE, SEGMENT_STATE, Segment, SegmentKind};
use crm_core::{
    Consumer, Context, Error, ErrorKind, Health, IdSource, ManualClock, Provider, ProviderInfo, Registry,
    Result, SeededIds, Table, TenantId, Timestamp, Uuid,
};

pub(crate) fn day(n: u32) -> Timestamp {
    Timestamp::from_ymd(2026, 1, 1)
        .unwrap()
        .plus(std::time::Duration::from_secs(86_400 * u64::from(n)))
}

pub(crate) fn ctx(tenant: &str) -> Context {
    Context::new(TenantId::new(tenant).unwrap())
}

/// A memory store whose `apply` fails at one call, before anything happens.
#[derive(Debug)]
struct Failing {
    inner: MemoryStore,
    calls: AtomicUsize,
    fail_at: AtomicUsize,
}

impl Failing {
    fn new() -> Self {
        Self {
            inner: MemoryStore::new("records"),
            calls: AtomicUsize::new(0),
            fail_at: AtomicUsize::new(usize::MAX),
        }
    }
    fn fail_at(&self, call: usize) {
        self.calls.store(0, Ordering::SeqCst);
        self.fail_at.store(call, Ordering::SeqCst);
    }
}

#[async_trait]
impl Provider for Failing {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }
    async fn check(&self) -> Result<Health> {
        self.inner.check().await
    }
}

#[async_trait]
impl RecordStore for Failing {
    fn capability(&self) -> StoreCapability {
        self.inner.capability()
    }
    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        self.inner.migrate(schemas).await
    }
    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.fail_at.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "the store is gone"));
        }
        self.inner.apply(ctx, writes).await
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

pub(crate) struct House {
    store: Arc<Failing>,
    pub(crate) insights: Insights,
    clock: Arc<ManualClock>,
    ids: SeededIds,
}

pub(crate) async fn house() -> House {
    let store = Arc::new(Failing::new());
    store
        .migrate(&[&CUSTOMER, &ORDER, &SEGMENT, &SEGMENT_MEMBER])
        .await
        .unwrap();
    let registry = Registry::builder()
        .provide::<dyn RecordStore>(0, store.clone())
        .provide::<dyn Clusterer>(0, LinfaKMeans::shared(KMeansConfig::new(3)).unwrap())
        .provide::<dyn Reducer>(0, LinfaPca::shared(PcaConfig::default()).unwrap())
        .provide::<dyn Classifier>(0, CartTree::shared(TreeConfig::default()).unwrap())
        .build()
        .unwrap();
    let clock = Arc::new(ManualClock::at(day(200)));
    let insights = Insights::bind(&registry).unwrap().with_clock(clock.clone());
    House {
        store,
        insights,
        clock: clock.clone(),
        ids: SeededIds::new(clock, 1),
    }
}

impl House {
    pub(crate) fn clock_at(&self, now: Timestamp) {
        self.clock.set(now);
    }

    pub(crate) fn store(&self) -> &MemoryStore {
        &self.store.inner
    }

    pub(crate) async fn customer(
        &self,
        ctx: &Context,
        created: Timestamp,
        attributes: &[(&str, serde_json::Value)],
    ) -> Uuid {
        let mut known = Attributes::default();
        attributes
            .iter()
            .for_each(|(name, value)| known.set(name, value.clone()).unwrap());
        let json = |value: &str| serde_json::from_str::<serde_json::Value>(value).unwrap();
        let mut record = Record::new(&CUSTOMER);
        for field in ["given_name", "family_name", "display_name"] {
            record.set(field, "").unwrap();
        }
        for (field, value) in [("addresses", "[]"), ("tags", "[]"), ("provenance", "[]")] {
            record.set(field, json(value)).unwrap();
        }
        record
            .set("attributes", serde_json::to_value(&known).unwrap())
            .unwrap();
        record.set("created_at", created).unwrap();
        record.set("updated_at", created).unwrap();
        let id = self.ids.fresh();
        self.store
            .inner
            .apply(ctx, &[Write::insert(id, record)])
            .await
            .unwrap();
        id
    }

    pub(crate) async fn order(
        &self,
        ctx: &Context,
        customer: Uuid,
        at: Timestamp,
        minor: i64,
        currency: &str,
    ) {
        let id = self.ids.fresh();
        let order = Order {
            id: id.into(),
            customer_id: customer.into(),
            at,
            total: Money::new(minor, currency).unwrap(),
            items: 1,
            source: "test".into(),
            event_id: id.to_string(),
        };
        self.store
            .inner
            .apply(ctx, &[Write::insert(id, order.to_record().unwrap())])
            .await
            .unwrap();
    }

    /// 40 who buy often and much and lately, 70 who buy seldom, 30 who stopped long ago.
    pub(crate) async fn three_kinds(&self, ctx: &Context) {
        for i in 0..140_u32 {
            let customer = self.customer(ctx, day(0), &[]).await;
            let (orders, last, minor) = match i {
                0..40 => (12 + i % 5, 178, 20_000 + i64::from(i) * 37),
                40..110 => (5, 150, 3_000 + i64::from(i) * 11),
                _ => (2, 30, 900 + i64::from(i) * 3),
            };
            for order in 0..orders {
                self.order(ctx, customer, day(last - order * 2 + i % 2), minor, "EUR")
                    .await;
            }
        }
    }

    async fn segments(&self, ctx: &Context) -> Vec<Segment> {
        let page = self
            .store
            .find(ctx, &SEGMENT, &Query::new(Filter::All))
            .await
            .unwrap();
        page.items
            .into_iter()
            .map(|stored| Segment::from_stored(stored).unwrap())
            .collect()
    }

    async fn members(&self, ctx: &Context) -> u64 {
        self.store
            .count(ctx, &SEGMENT_MEMBER, &Filter::All)
            .await
            .unwrap()
    }

    /// Every segment visible has all its members.
    async fn whole(&self, ctx: &Context) {
        for segment in self.segments(ctx).await {
            let members = self
                .store
                .count(ctx, &SEGMENT_MEMBER, &Filter::eq("segment_id", segment.id))
                .await
                .unwrap();
            assert_eq!(members as i64, segment.size, "{}", segment.name);
        }
    }
}

pub(crate) fn plan() -> SegmentationPlan {
    SegmentationPlan::new("value", FeaturePlan::rfm(day(180)))
        .groups(Groups::Choose { from: 2, to: 5 })
        .seed(7)
}

#[tokio::test]
async fn features_are_what_a_hand_computes() {
    let house = house().await;
    let shop = ctx("shop");
    let a = house.customer(&shop, day(1), &[("plan", "pro".into())]).await;
    let b = house.customer(&shop, day(100), &[]).await;
    house.order(&shop, a, day(10), 1_050, "EUR").await;
    house.order(&shop, a, day(170), 2_000, "EUR").await;
    house.order(&shop, a, day(180), 9_999, "EUR").await; // at the instant: not before it
    house.order(&shop, Uuid::from_u128(5), day(20), 100, "EUR").await; // of nobody
    house.order(&ctx("other"), a, day(20), 100, "USD").await; // of another tenant
    let plan = FeaturePlan::rfm(day(180)).profile("attributes.plan");
    let found = plan.read(&shop, &*house.store, &mut |_| ()).await.unwrap();
    assert_eq!(found.ids, [a.into()]);
    let row: Vec<Option<f64>> = found.table.columns()[..4]
        .iter()
        .map(|column| column.f64_at(0))
        .collect();
    assert_eq!(row, [10.0, 2.0, 30.5, 170.0].map(Some));
    assert_eq!(
        found.table.column("attributes.plan").unwrap().text_at(0),
        Some("pro")
    );
    let report = &found.report;
    assert_eq!(
        (
            report.customers,
            report.with_orders,
            report.left_out,
            report.orders,
            report.strangers
        ),
        (2, 1, 1, 2, 1)
    );
    assert_eq!(report.currency.as_deref(), Some("EUR"));

    let all = plan
        .clone()
        .without_orders(WithoutOrders::Include)
        .monetary(Monetary::Mean);
    let found = all.read(&shop, &*house.store, &mut |_| ()).await.unwrap();
    assert_eq!(found.ids.len(), 2);
    let at = found.ids.iter().position(|id| id.uuid() == b).unwrap();
    let row: Vec<Option<f64>> = found.table.columns()[..4]
        .iter()
        .map(|column| column.f64_at(at))
        .collect();
    assert_eq!(row, [80.0, 0.0, 0.0, 80.0].map(Some));
    assert_eq!(
        found.table.column("monetary").unwrap().f64_at(1 - at),
        Some(15.25)
    );
    assert_eq!(found.table.column("attributes.plan").unwrap().text_at(at), None);

    house.order(&shop, b, day(120), 100, "USD").await;
    let error = plan.read(&shop, &*house.store, &mut |_| ()).await.unwrap_err();
    assert!(error.to_string().contains("currencies=EUR USD"), "{error}");
    let dollars = plan
        .clone()
        .currency("USD")
        .read(&shop, &*house.store, &mut |_| ())
        .await
        .unwrap();
    assert_eq!(dollars.ids, [b.into()]);
}

/// Customers by time gone by and by segment: counted back from the instant the plan looks at, and from now for a table.
#[tokio::test]
async fn customers_can_be_asked_for_by_time_and_by_segment() {
    let house = house().await;
    let shop = ctx("shop");
    house
        .store
        .migrate(&[&SEGMENT_STATE, &SEGMENT_OVERRIDE])
        .await
        .unwrap();
    let mut people = Vec::new();
    for created in [10, 100, 160, 195] {
        let id = house.customer(&shop, day(created), &[]).await;
        house.order(&shop, id, day(created), 100, "EUR").await;
        people.push(id);
    }
    let segment = |name: &str, kind: SegmentKind| Segment {
        id: house.ids.fresh().into(),
        version: 1,
        name: name.into(),
        description: String::new(),
        kind,
        size: 0,
        created_at: day(0),
    };
    let by_hand = segment("by hand", SegmentKind::Manual);
    let by_rule = segment(
        "within 30 days, and by hand",
        SegmentKind::Dynamic {
            filter: Filter::ago("created_at", Span::days(30)).and(Filter::InSegment(by_hand.id.uuid())),
        },
    );
    let mut writes: Vec<Write> = [&by_hand, &by_rule]
        .into_iter()
        .map(|one| Write::insert(one.id, one.to_record().unwrap()))
        .collect();
    for member in [people[0], people[2], people[3]] {
        let values = vec![by_hand.id.into(), member.into(), day(0).into()];
        let record = Record::from_values(&SEGMENT_MEMBER, values).unwrap();
        writes.push(Write::insert(house.ids.fresh(), record));
    }
    house.store.apply(&shop, &writes).await.unwrap();
    let of = |some: &[usize]| -> BTreeSet<Uuid> { some.iter().map(|at| people[*at]).collect() };

    // As of day 180, when the last of them was not there yet; the house's clock says day 200.
    let plan = FeaturePlan::rfm(day(180)).without_orders(WithoutOrders::Include);
    let read = |filter: Filter| {
        let (plan, house, shop) = (plan.clone().customers(filter), &house, &shop);
        async move {
            let found = plan.read(shop, &*house.store, &mut |_| ()).await?;
            Ok::<_, Error>(found.ids.into_iter().map(|id| id.uuid()).collect::<BTreeSet<_>>())
        }
    };
    let recent = || Filter::ago("created_at", Span::days(30));
    let within = |segment: &Segment| Filter::InSegment(segment.id.uuid());
    assert_eq!(read(recent()).await.unwrap(), of(&[2]));
    assert_eq!(read(within(&by_hand)).await.unwrap(), of(&[0, 2]));
    assert_eq!(read(!within(&by_hand)).await.unwrap(), of(&[1]));
    assert_eq!(read(within(&by_rule)).await.unwrap(), of(&[2]));
    let missing = read(Filter::InSegment(Uuid::from_u128(7))).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);

    let table = |filter: Filter| {
        let (house, shop) = (&house, &shop);
        async move {
            let scan = Scan::new(filter, ["id"]);
            let table = house.insights.table(shop, &CUSTOMER, &scan).await.unwrap();
            let ids = table.column("id").unwrap();
            (0..table.rows())
                .filter_map(|row| ids.uuid_at(row))
                .collect::<BTreeSet<_>>()
        }
    };
    assert_eq!(table(recent()).await, of(&[3]));
    assert_eq!(table(within(&by_rule)).await, of(&[3]));
    // The control: a store itself knows neither.
    let scan = Scan::new(recent(), ["id"]);
    let told = house.store.scan(&shop, &CUSTOMER, &scan, &mut |_| Ok(())).await;
    assert_eq!(told.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn three_kinds_of_customers_are_found_named_and_written() {
    let house = house().await;
    let shop = ctx("shop");
    house.three_kinds(&shop).await;
    let mut stages: Vec<Progress> = Vec::new();
    let (found, written) = house
        .insights
        .segment_customers(&shop, &plan(), &mut |p| stages.push(p))
        .await
        .unwrap();
    let sizes: Vec<usize> = found.segments.iter().map(|segment| segment.size).collect();
    assert_eq!(sizes, [70, 40, 30]);
    assert_eq!(found.choice.as_ref().unwrap().best, 3);
    assert!(found.segments[1].name.starts_with("value: ") && found.segments[1].name.contains("high spend"));
    assert!(
        found.segments[1].name.contains("frequent"),
        "{}",
        found.segments[1].name
    );
    assert!(
        found.segments[2].name.contains("lapsed"),
        "{}",
        found.segments[2].name
    );
    assert_eq!(
        (
            written.segments,
            written.members,
            written.resumed,
            written.replaced
        ),
        (3, 140, 0, 0)
    );
    assert_eq!(found.metrics["rule_accuracy"], 1.0, "{:?}", found.rules);
    assert!(found.rules.iter().any(|rule| rule.text.contains("recency_days")));
    let means = &found.segments[1].means;
    assert!(
        means[0] < 5.0 && means[1] > 11.0 && means[2] > 2_000.0,
        "in days, orders and euros: {means:?}"
    );
    let explained: f64 = found.projection.as_ref().unwrap().explained.iter().sum();
    assert!(explained > 0.8 && explained <= 1.0);
    house.whole(&shop).await;
    let stored = house.segments(&shop).await;
    let SegmentKind::Snapshot { lineage } = &stored[0].kind else {
        panic!("a snapshot")
    };
    assert_eq!(lineage, &found.lineage);
    assert_eq!(
        (lineage.seed, lineage.as_of, lineage.method.as_str()),
        (7, day(180), "linfa-kmeans(k=3)")
    );
    assert_eq!(lineage.schema_hash.len(), 64);
    for stage in [Stage::Reading, Stage::Computing, Stage::Writing] {
        assert!(stages.iter().any(|p| p.stage == stage));
    }

    // What was learned puts each customer where the run put them, all at once or one by one, after a trip through JSON.
    let text = serde_json::to_string(&found.pipeline).unwrap();
    let pipeline: crm_analytics::insights::Pipeline = serde_json::from_str(&text).unwrap();
    let features = plan()
        .features
        .read(&shop, &*house.store, &mut |_| ())
        .await
        .unwrap();
    let model = KMeansModel::from_json(pipeline.clusters.clone()).unwrap();
    assert_eq!(
        model
            .predict(&pipeline.prepare(&features.table).unwrap())
            .unwrap(),
        found.assignments
    );
    for row in [0, 77, 139] {
        let columns = features
            .table
            .columns()
            .iter()
            .map(|column| crm_core::Column::floats(column.name(), vec![column.f64_at(row).unwrap()]));
        let one = Table::new(columns.collect()).unwrap();
        assert_eq!(
            model.predict(&pipeline.prepare(&one).unwrap()).unwrap()[0],
            found.assignments[row]
        );
    }
}

#[tokio::test]
async fn the_same_again_changes_nothing_and_a_new_run_replaces() {
    let house = house().await;
    let shop = ctx("shop");
    house.three_kinds(&shop).await;
    let (first, _) = house
        .insights
        .segment_customers(&shop, &plan(), &mut |_| ())
        .await
        .unwrap();
    let before = house.segments(&shop).await;
    house.clock.set(day(210));
    let (second, written) = house
        .insights
        .segment_customers(&shop, &plan(), &mut |_| ())
        .await
        .unwrap();
    assert_eq!(first, second, "same plan, same rows, same seed");
    assert_eq!(
        (
            written.segments,
            written.members,
            written.resumed,
            written.replaced
        ),
        (0, 0, 140, 0)
    );
    assert_eq!(house.segments(&shop).await, before);

    let other = SegmentationPlan {
        groups: Groups::Fixed(2),
        ..plan()
    };
    let (third, written) = house
        .insights
        .segment_customers(&shop, &other, &mut |_| ())
        .await
        .unwrap();
    assert_ne!(third.run, first.run);
    assert_eq!((written.segments, written.members, written.replaced), (2, 140, 3));
    assert_eq!(house.segments(&shop).await.len(), 2);
    assert_eq!(
        house.members(&shop).await,
        140,
        "members of replaced segments are gone"
    );
    house.whole(&shop).await;

    // Another prefix stands beside; another tenant sees nothing.
    let beside = SegmentationPlan {
        name_prefix: "value2".into(),
        ..plan()
    };
    house
        .insights
        .segment_customers(&shop, &beside, &mut |_| ())
        .await
        .unwrap();
    assert_eq!(house.segments(&shop).await.len(), 5);
    assert!(house.segments(&ctx("other")).await.is_empty());
}

#[tokio::test]
async fn a_crash_anywhere_leaves_old_or_new_and_the_next_call_goes_on() {
    let house = house().await;
    let shop = ctx("shop");
    house.three_kinds(&shop).await;
    let old = SegmentationPlan {
        groups: Groups::Fixed(2),
        ..plan()
    };
    house
        .insights
        .segment_customers(&shop, &old, &mut |_| ())
        .await
        .unwrap();
    let before: Vec<String> = house.segments(&shop).await.into_iter().map(|s| s.name).collect();
    // 0: the members; 1: the switch; 2: tidying the first replaced segment; 3: the second.
    for (crash, visible) in [(0, 2), (1, 2), (2, 3)] {
        house.store.fail_at(crash);
        let error = house
            .insights
            .segment_customers(&shop, &plan(), &mut |_| ())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let now: Vec<String> = house.segments(&shop).await.into_iter().map(|s| s.name).collect();
        assert_eq!(now.len(), visible, "crash at {crash}");
        assert!(visible != 2 || now == before);
        house.whole(&shop).await;
    }
    house.store.fail_at(usize::MAX);
    let (_, written) = house
        .insights
        .segment_customers(&shop, &plan(), &mut |_| ())
        .await
        .unwrap();
    assert_eq!((written.members, written.resumed), (0, 140));
    // The tidying that broke off left members of the replaced segments: the sweep finds them, and only them.
    assert_eq!(house.members(&shop).await, 280);
    assert_eq!(
        house.insights.sweep(&shop, day(100)).await.unwrap(),
        0,
        "younger than asked for"
    );
    house.clock.set(day(250));
    assert_eq!(house.insights.sweep(&shop, day(240)).await.unwrap(), 140);
    assert_eq!(house.members(&shop).await, 140);
    house.whole(&shop).await;
}

#[tokio::test]
async fn names_of_other_segments_are_respected() {
    let house = house().await;
    let shop = ctx("shop");
    house.three_kinds(&shop).await;
    let found = house.insights.preview(&shop, &plan(), &mut |_| ()).await.unwrap();
    assert!(house.segments(&shop).await.is_empty(), "a preview writes nothing");
    let manual = Segment {
        id: house.ids.fresh().into(),
        version: 0,
        name: found.segments[0].name.clone(),
        description: String::new(),
        kind: SegmentKind::Manual,
        size: 0,
        created_at: day(1),
    };
    house
        .store
        .inner
        .apply(&shop, &[Write::insert(manual.id, manual.to_record().unwrap())])
        .await
        .unwrap();
    let error = house
        .insights
        .write(&shop, &found, &mut |_| ())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(house.members(&shop).await, 0);
}

#[tokio::test]
async fn wrong_plans_and_too_few_customers_are_named() {
    let house = house().await;
    let shop = ctx("shop");
    for (plan, part) in [
        (
            SegmentationPlan {
                name_prefix: "a:b".into(),
                ..plan()
            },
            "setting=name_prefix",
        ),
        (
            SegmentationPlan {
                groups: Groups::Choose { from: 1, to: 3 },
                ..plan()
            },
            "setting=groups",
        ),
        (
            SegmentationPlan {
                fit_rows: 1,
                ..plan()
            },
            "setting=fit_rows",
        ),
    ] {
        let error = house
            .insights
            .preview(&shop, &plan, &mut |_| ())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = house
        .insights
        .preview(&shop, &plan(), &mut |_| ())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("customers=0"), "{error}");
    house.three_kinds(&shop).await;
    let text = SegmentationPlan::new("value", FeaturePlan::rfm(day(180)).profile("city"));
    let error = house
        .insights
        .preview(&shop, &text, &mut |_| ())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("column=city"), "{error}");
    let late = Context::new(TenantId::new("shop").unwrap()).deadline(day(1));
    assert_eq!(
        house
            .insights
            .preview(&late, &plan(), &mut |_| ())
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Timeout
    );
    let bare = Registry::builder().build().unwrap();
    let error = Insights::bind(&bare).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("RecordStore, Clusterer, Reducer, Classifier"),
        "{error}"
    );
}

#[tokio::test]
async fn profile_columns_are_cleaned_and_take_part() {
    let house = house().await;
    let shop = ctx("shop");
    for i in 0..90_u32 {
        let known: Vec<(&str, serde_json::Value)> = match i % 3 {
            0 => vec![("plan", "pro".into()), ("visits", 40.into())],
            1 => vec![("plan", "free".into()), ("visits", 2.into())],
            _ => vec![],
        };
        let customer = house.customer(&shop, day(0), &known).await;
        house
            .order(&shop, customer, day(100 + i % 20), 1_000 + i64::from(i), "EUR")
            .await;
    }
    let features = FeaturePlan::rfm(day(180))
        .profile("attributes.plan")
        .profile("attributes.visits");
    let cleaning = CleaningPlan::new()
        .cast("attributes.visits", crm_analytics::clean::CastTo::Float)
        .fill("attributes.visits", Fill::Median)
        .dummies("attributes.plan");
    let plan = SegmentationPlan {
        fit_rows: 60,
        ..SegmentationPlan::new("plan", features).cleaning(cleaning)
    };
    let found = house.insights.preview(&shop, &plan, &mut |_| ()).await.unwrap();
    assert_eq!(
        found.columns,
        [
            "recency_days",
            "frequency",
            "monetary",
            "tenure_days",
            "attributes.plan_free",
            "attributes.plan_pro",
            "attributes.visits"
        ]
    );
    assert!(
        found.notes.iter().any(|note| note.contains("frequency")),
        "a constant column is said: {:?}",
        found.notes
    );
    assert!(
        found
            .notes
            .iter()
            .any(|note| note.contains("learned from 60 customers")),
        "{:?}",
        found.notes
    );
    assert_eq!(found.assignments.len(), 90);
    let filled = found
        .cleaning
        .lines
        .iter()
        .find(|line| line.step == "fill")
        .unwrap();
    assert_eq!((filled.missing_before, filled.missing_after), (30, 0));
}

#[tokio::test]
async fn windows_and_the_time_between_orders() {
    let house = house().await;
    let ctx = ctx("shop");
    let (often, once) = (
        house.customer(&ctx, day(0), &[]).await,
        house.customer(&ctx, day(0), &[]).await,
    );
    for (at, minor) in [(10, 1_000), (40, 2_050), (70, 300), (100, 99_999)] {
        house.order(&ctx, often, day(at), minor, "EUR").await;
    }
    house.order(&ctx, once, day(69), 500, "EUR").await;
    let never = house.customer(&ctx, day(0), &[]).await;
    let plan = FeaturePlan::rfm(day(100))
        .without_orders(WithoutOrders::Include)
        .window(30)
        .window(90)
        .interpurchase();
    let names = [
        "orders_30d",
        "spend_30d",
        "orders_90d",
        "spend_90d",
        "days_between_orders",
    ];
    assert_eq!(plan.columns()[4..], names);
    let found = plan.read(&ctx, house.store(), &mut |_| ()).await.unwrap();
    for (who, wanted) in [
        // The window begins with its first instant and ends before the last; the order of day 100 is not known yet.
        (often, [Some(1.0), Some(3.0), Some(3.0), Some(33.5), Some(30.0)]),
        (once, [Some(0.0), Some(0.0), Some(1.0), Some(5.0), None]),
        (never, [Some(0.0), Some(0.0), Some(0.0), Some(0.0), None]),
    ] {
        let row = found.ids.iter().position(|id| id.uuid() == who).unwrap();
        let values = names.map(|name| found.table.column(name).unwrap().f64_at(row));
        assert_eq!(values, wanted);
    }
}
