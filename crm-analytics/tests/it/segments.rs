//! Rules as conditions on customers: a store must find exactly those of whom the rules hold.

use std::collections::BTreeSet;
use std::time::Duration;

use crm_analytics::features::{FeaturePlan, Features, Monetary, WithoutOrders};
use crm_analytics::insights::SegmentationPlan;
use crm_analytics::segments::{Meaning, Vocabulary};
use crm_core::capability::RecordStore;
use crm_core::query::{Filter, Query};
use crm_core::record::Entity;
use crm_core::segment::{SEGMENT, Segment, SegmentKind};
use crm_core::{Context, CustomerId, ErrorKind, Timestamp, Uuid};
use proptest::prelude::Rng;
use proptest::test_runner::{Config, TestRng, TestRunner};

use crate::insights::{House, ctx, day, house, plan};

type Way = Vec<(String, bool, f64)>;

/// Whom the store finds, at an instant.
async fn found(house: &House, ctx: &Context, filter: &Filter, now: Timestamp) -> BTreeSet<Uuid> {
    let filter = crm_core::segment::resolve(house.store(), ctx, now, filter)
        .await
        .unwrap();
    let query = Query::new(filter).limit(1000);
    let page = house
        .store()
        .find(ctx, &crm_core::customer::CUSTOMER, &query)
        .await
        .unwrap();
    assert!(page.next.is_none(), "the test looks at one page");
    page.items.into_iter().map(|stored| stored.id).collect()
}

#[tokio::test]
async fn segments_become_dynamic_ones_that_find_their_members() {
    let house = house().await;
    let shop = ctx("shop");
    house.three_kinds(&shop).await;
    let plan: SegmentationPlan = plan();
    let segmentation = house.insights.preview(&shop, &plan, &mut |_| ()).await.unwrap();
    let words = Vocabulary::of(&plan.features);
    let described = words.describe(&segmentation).unwrap();
    assert_eq!(described.len(), segmentation.segments.len());
    for one in &described {
        // Written as a segment and read back, as a host does.
        let segment = Segment {
            id: Uuid::from_u128(one.segment as u128 + 1).into(),
            version: Default::default(),
            name: format!("rule {}", one.segment),
            description: String::new(),
            kind: one.kind(),
            size: 0,
            created_at: day(180),
        };
        let write = crm_core::record::Write::insert(segment.id.uuid(), segment.to_record().unwrap());
        house.store().apply(&shop, &[write]).await.unwrap();
        let stored = house
            .store()
            .get(&shop, &SEGMENT, &[segment.id.uuid()])
            .await
            .unwrap()
            .remove(0)
            .unwrap();
        let SegmentKind::Dynamic { filter } = Segment::from_stored(stored).unwrap().kind else {
            panic!("a dynamic segment");
        };
        assert_eq!(filter, one.filter);
        let here = found(&house, &shop, &filter, day(180)).await;
        let members: BTreeSet<Uuid> = segmentation
            .ids
            .iter()
            .zip(&segmentation.assignments)
            .filter(|(_, segment)| **segment == Some(one.segment))
            .map(|(id, _)| id.uuid())
            .collect();
        let hits = here.intersection(&members).count() as f64;
        assert_eq!(here.len(), one.rows);
        assert!((hits / here.len() as f64 - one.precision).abs() < 1e-12);
        assert!((hits / members.len() as f64 - one.recall).abs() < 1e-12);
        assert!(one.precision > 0.95 && one.recall > 0.95, "{one:?}");
    }
    // No rule is that pure: nothing is described.
    assert!(words.min_purity(1.1).describe(&segmentation).unwrap().is_empty());
}

/// What a plan reads, with the columns that a cleaning would make of the profile.
struct Known {
    ids: Vec<CustomerId>,
    columns: Vec<(&'static str, Vec<Option<f64>>)>,
}

fn known(features: &Features) -> Known {
    let number = |name: &str| -> Vec<Option<f64>> {
        let column = features.table.column(name).unwrap();
        (0..features.ids.len()).map(|row| column.f64_at(row)).collect()
    };
    let text = |name: &str| -> Vec<Option<&str>> {
        let column = features.table.column(name).unwrap();
        (0..features.ids.len()).map(|row| column.text_at(row)).collect()
    };
    let visits: Vec<Option<f64>> = text("attributes.visits")
        .iter()
        .map(|text| text.and_then(|text| text.parse().ok()))
        .collect();
    let filled = visits.iter().map(|visits| visits.or(Some(4.0))).collect();
    let pro = text("attributes.plan")
        .iter()
        .map(|plan| Some(f64::from(u8::from(*plan == Some("pro")))))
        .collect();
    Known {
        ids: features.ids.clone(),
        columns: vec![
            ("recency_days", number("recency_days")),
            ("frequency", number("frequency")),
            ("monetary", number("monetary")),
            ("tenure_days", number("tenure_days")),
            ("orders_30d", number("orders_30d")),
            ("spend_30d", number("spend_30d")),
            ("orders_90d", number("orders_90d")),
            ("attributes.visits", visits),
            ("visits_filled", filled),
            ("plan_pro", pro),
        ],
    }
}

impl Known {
    /// The oracle: rules read row by row.
    fn follow(&self, ways: &[Way]) -> BTreeSet<Uuid> {
        let holds = |row: usize, (name, at_most, limit): &(String, bool, f64)| {
            let (_, values) = self.columns.iter().find(|(column, _)| column == name).unwrap();
            values[row].is_some_and(|value| (value <= *limit) == *at_most)
        };
        (0..self.ids.len())
            .filter(|row| ways.iter().any(|way| way.iter().all(|one| holds(*row, one))))
            .map(|row| self.ids[row].uuid())
            .collect()
    }

    /// Rules whose thresholds are values that occur, lie between two, or beyond all of them.
    fn ways(&self, rng: &mut TestRng) -> Vec<Way> {
        let mut below = |n: usize| (rng.next_u64() % n as u64) as usize;
        (0..=below(3))
            .map(|_| {
                (0..=below(3))
                    .map(|_| {
                        let (name, values) = &self.columns[below(self.columns.len())];
                        let mut pick = || values[below(values.len())].unwrap_or(0.0);
                        let (a, b) = (pick(), pick());
                        let limit = match below(4) {
                            0 | 1 => a,
                            2 => (a + b) / 2.0,
                            _ => a + (below(5) as f64 - 2.0) * 1000.0,
                        };
                        ((*name).to_owned(), below(2) == 0, limit)
                    })
                    .collect()
            })
            .collect()
    }
}

async fn everybody(house: &House, ctx: &Context) {
    for i in 0..60_u32 {
        let mut attributes = Vec::new();
        if i % 3 > 0 {
            attributes.push(("visits", serde_json::json!(i % 9)));
        }
        if i % 4 > 0 {
            attributes.push(("plan", if i % 8 > 4 { "pro" } else { "free" }.into()));
        }
        let customer = house.customer(ctx, day(i * 3), &attributes).await;
        for order in 0..i % 5 {
            let at = day(i + order * 20).plus(Duration::from_micros(u64::from(i * 7_919 + order)));
            // Also refunds, and sums that no binary fraction hits.
            let minor = i64::from(i) * 333 - 4_000 + i64::from(order) * 1_001;
            house.order(ctx, customer, at, minor, "EUR").await;
        }
        // Of another currency, and after the instant: neither counts.
        house.order(ctx, customer, day(5), 77_700, "USD").await;
        house.order(ctx, customer, day(400 + i), 100_000, "EUR").await;
    }
}

fn features(as_of: Timestamp, without: WithoutOrders) -> FeaturePlan {
    FeaturePlan::rfm(as_of)
        .currency("EUR")
        .without_orders(without)
        .window(30)
        .window(90)
        .profile("attributes.visits")
        .profile("attributes.plan")
}

fn words(plan: &FeaturePlan) -> Vocabulary {
    let filled = Meaning::Number {
        field: "attributes.visits".into(),
        filled: Some(4.0),
    };
    let pro = Meaning::OneHot {
        field: "attributes.plan".into(),
        text: "pro".into(),
    };
    Vocabulary::of(plan)
        .column("visits_filled", filled)
        .column("plan_pro", pro)
}

#[tokio::test]
async fn a_store_finds_whoever_follows_the_rules() {
    let house = house().await;
    let shop = ctx("shop");
    everybody(&house, &shop).await;
    let mut rng =
        TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(Default::default())).new_rng();
    let (mut some, mut none) = (0, 0);
    for without in [WithoutOrders::Exclude, WithoutOrders::Include] {
        let plan = features(day(150), without);
        let known = known(&plan.read(&shop, house.store(), &mut |_| ()).await.unwrap());
        let words = words(&plan);
        for _ in 0..400 {
            let ways = known.ways(&mut rng);
            let filter = words.filter(ways.iter().map(Vec::as_slice)).unwrap();
            let expected = known.follow(&ways);
            let here = found(&house, &shop, &filter, day(150)).await;
            assert_eq!(here, expected, "{without:?} {ways:?}\n{filter:?}");
            if expected.is_empty() { none += 1 } else { some += 1 }
        }
    }
    // Otherwise the comparison proves nothing.
    assert!(some > 200 && none > 20, "{some} {none}");
}

/// Days that went by count, whatever the instant the rules were learned at.
#[tokio::test]
async fn rolling_segments_move_with_the_time() {
    let house = house().await;
    let shop = ctx("shop");
    everybody(&house, &shop).await;
    let way: Way = vec![
        ("recency_days".into(), true, 40.5),
        ("tenure_days".into(), false, 20.25),
        ("frequency".into(), false, 1.5),
        ("orders_30d".into(), true, 1.5),
    ];
    let filter = words(&features(day(150), WithoutOrders::Exclude))
        .rolling()
        .filter([&way[..]])
        .unwrap();
    let mut seen = BTreeSet::new();
    for now in [90, 120, 150] {
        let later = features(day(now), WithoutOrders::Exclude);
        let known = known(&later.read(&shop, house.store(), &mut |_| ()).await.unwrap());
        let expected = known.follow(std::slice::from_ref(&way));
        assert_eq!(
            found(&house, &shop, &filter, day(now)).await,
            expected,
            "day {now}"
        );
        assert!(!expected.is_empty());
        seen.insert(expected);
    }
    assert_eq!(seen.len(), 3, "it must move");
}

#[test]
fn what_cannot_be_said_is_an_error_that_names_the_column() {
    let plan = FeaturePlan::rfm(day(1)).interpurchase().profile("given_name");
    let filter = |words: &Vocabulary, column: &str, limit: f64| {
        let way = [(column.to_owned(), true, limit)];
        words.filter([&way[..]]).unwrap_err()
    };
    let words = Vocabulary::of(&plan);
    for (words, column, limit, kind) in [
        (&words, "score", 1.0, ErrorKind::Invalid),
        (&words, "given_name", 1.0, ErrorKind::Invalid),
        (&words, "frequency", f64::NAN, ErrorKind::Invalid),
        (&words, "days_between_orders", 9.0, ErrorKind::Unsupported),
        (
            &Vocabulary::of(&plan.clone().monetary(Monetary::Mean)),
            "monetary",
            1.0,
            ErrorKind::Unsupported,
        ),
    ] {
        let error = filter(words, column, limit);
        assert_eq!(error.kind(), kind, "{column}");
        assert!(error.to_string().contains(column), "{error}");
    }
    let nowhere = Vocabulary::of(&plan).column(
        "age",
        Meaning::Number {
            field: "years".into(),
            filled: None,
        },
    );
    assert!(filter(&nowhere, "age", 1.0).to_string().contains("years"));
    // Huge thresholds are none that somebody fails.
    for limit in [1e300, -1e300] {
        for column in ["recency_days", "frequency", "monetary", "tenure_days"] {
            let way = [(column.to_owned(), true, limit)];
            words.filter([&way[..]]).unwrap();
        }
    }
}
