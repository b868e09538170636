//! Features of the timeline: counts by kind and window, shares of channels, and nothing of what happened later.

use std::time::Duration;

use crm_analytics::features::{
    AsOf, ChannelMix, FeaturePlan, Features, InteractionCounts, MixOf, WithoutOrders,
};
use crm_analytics::privacy::Audience;
use crm_core::activity::{INTERACTION, Interaction, Money, ORDER, Order};
use crm_core::capability::RecordStore;
use crm_core::consent::{
    AddressKey, CONSENT_EVENT, LegalBasis, Purpose, PurposeClass, SUPPRESSION, Suppression,
    SuppressionReason, SuppressionScope,
};
use crm_core::customer::{CONTACT_POINT, CUSTOMER, CUSTOMER_ALIAS, ContactKind, CustomerId};
use crm_core::memory::MemoryStore;
use crm_core::record::{Entity, Record, Value, Write};
use crm_core::testkit::fixtures;
use crm_core::{Context, ErrorKind, Secret, Timestamp};
use proptest::prelude::*;

fn day(n: i32) -> Timestamp {
    let start = Timestamp::from_ymd(2026, 1, 1).unwrap();
    let length = Duration::from_secs(86_400 * u64::from(n.unsigned_abs()));
    if n < 0 {
        start.minus(length)
    } else {
        start.plus(length)
    }
}

struct Shop {
    store: MemoryStore,
    ctx: Context,
}

impl Shop {
    async fn new() -> Self {
        let store = MemoryStore::new("records");
        let schemas = [
            &CUSTOMER,
            &ORDER,
            &INTERACTION,
            &CONTACT_POINT,
            &CONSENT_EVENT,
            &CUSTOMER_ALIAS,
            &SUPPRESSION,
        ];
        store.migrate(&schemas).await.unwrap();
        Self {
            store,
            ctx: fixtures::context(),
        }
    }

    async fn put(&self, write: Write) {
        self.store.apply(&self.ctx, &[write]).await.unwrap();
    }

    async fn customer(&self, created: Timestamp) -> CustomerId {
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
        record.set("created_at", created).unwrap();
        record.set("updated_at", created).unwrap();
        let id = fixtures::id();
        self.put(Write::insert(id, record)).await;
        id.into()
    }

    async fn order(&self, customer_id: CustomerId, at: Timestamp, source: &str) {
        let id = fixtures::id();
        let order = Order {
            id: id.into(),
            customer_id,
            at,
            total: Money::new(1_250, "EUR").unwrap(),
            items: 1,
            source: source.into(),
            event_id: id.to_string(),
        };
        self.put(Write::insert(id, order.to_record().unwrap())).await;
    }

    async fn interaction(&self, customer_id: CustomerId, at: Timestamp, kind: &str, source: &str) {
        let id = fixtures::id();
        let one = Interaction {
            id: id.into(),
            customer_id,
            at,
            kind: kind.into(),
            source: source.into(),
            event_id: id.to_string(),
            data: Default::default(),
        };
        self.put(Write::insert(id, one.to_record().unwrap())).await;
    }

    async fn read(&self, plan: &FeaturePlan) -> Features {
        plan.read(&self.ctx, &self.store, &mut |_| ()).await.unwrap()
    }
}

fn plan(as_of: i32) -> FeaturePlan {
    FeaturePlan::rfm(day(as_of))
        .without_orders(WithoutOrders::Include)
        .window(30)
        .interpurchase()
        .interactions(InteractionCounts {
            kinds: vec!["call".into(), "visit".into()],
            days: vec![7, 0],
        })
        .channels(ChannelMix {
            of: MixOf::Orders,
            channels: vec!["web".into(), "shop".into()],
        })
        .channels(ChannelMix {
            of: MixOf::Kinds,
            channels: vec!["call".into()],
        })
}

fn row(features: &Features, customer: CustomerId) -> Vec<(String, Option<f64>)> {
    let at = features.ids.iter().position(|id| *id == customer).unwrap();
    let columns = features.table.columns().iter();
    columns
        .map(|column| (column.name().to_owned(), column.f64_at(at)))
        .collect()
}

#[tokio::test]
async fn what_was_done_is_counted_and_shared_out() {
    let shop = Shop::new().await;
    let (ana, bea) = (shop.customer(day(0)).await, shop.customer(day(0)).await);
    for (at, source) in [(10, "web"), (20, "web"), (30, "app"), (40, "shop")] {
        shop.order(ana, day(at), source).await;
    }
    for (at, kind) in [
        (10, "call"),
        (94, "call"),
        (95, "visit"),
        (99, "call"),
        (99, "mail"),
    ] {
        shop.interaction(ana, day(at), kind, "desk").await;
    }
    let features = shop.read(&plan(100)).await;
    let wanted = [
        ("call_7d", Some(2.0)),
        ("visit_7d", Some(1.0)),
        ("call_ever", Some(3.0)),
        ("visit_ever", Some(1.0)),
        ("orders_by=web", Some(0.5)),
        ("orders_by=shop", Some(0.25)),
        ("orders_by=#other", Some(0.25)),
        ("interactions_of=call", Some(0.6)),
        ("interactions_of=#other", Some(0.4)),
    ];
    let found = row(&features, ana);
    for (name, value) in wanted {
        let (_, found) = found.iter().find(|(one, _)| one == name).unwrap();
        assert_eq!(*found, value, "{name}");
    }
    let names: Vec<String> = features
        .table
        .columns()
        .iter()
        .map(|column| column.name().to_owned())
        .collect();
    assert_eq!(names, plan(100).columns());
    // Without an event there is no share, and a count of 0.
    for (name, value) in row(&features, bea) {
        let share = name.contains('=');
        if share || name.ends_with("_7d") || name.ends_with("_ever") {
            assert_eq!(value, (!share).then_some(0.0), "{name}");
        }
    }
    let text = serde_json::to_string(&plan(100)).unwrap();
    assert_eq!(serde_json::from_str::<FeaturePlan>(&text).unwrap(), plan(100));
    assert!(
        text.contains("\"as_of\":\"2026-04-11"),
        "the instant is written as it was: {text}"
    );
    let twice = plan(100).channels(ChannelMix {
        of: MixOf::Orders,
        channels: vec!["web".into()],
    });
    let error = twice.read(&shop.ctx, &shop.store, &mut |_| ()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("feature")),
        (ErrorKind::Invalid, Some("orders_by=web"))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens at the instant or after it, nothing is different.
    #[test]
    fn nothing_leaks_from_after_the_instant(
        before in prop::collection::vec((0_i32..100, 0_usize..3, any::<bool>()), 0..20),
        later in prop::collection::vec((100_i32..300, 0_usize..3, any::<bool>()), 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let shop = Shop::new().await;
            let mut people = Vec::new();
            for _ in 0..3 {
                people.push(shop.customer(day(-5)).await);
            }
            for (at, who, order) in before {
                match order {
                    true => shop.order(people[who], day(at), "web").await,
                    false => shop.interaction(people[who], day(at), "call", "desk").await,
                }
            }
            let wanted = shop.read(&plan(100)).await;
            for (at, who, order) in later {
                let who = people[who];
                match order {
                    true => shop.order(who, day(at), "shop").await,
                    false => shop.interaction(who, day(at), "visit", "app").await,
                }
            }
            let found = shop.read(&plan(100)).await;
            prop_assert_eq!(&found.table, &wanted.table);
            prop_assert_eq!(&found.ids, &wanted.ids);
            // Negative control: seen from later, it is all there.
            let later = shop.read(&plan(301)).await;
            prop_assert_ne!(&later.table, &wanted.table);
            Ok(())
        })?;
    }
}

#[test]
fn an_instant_knows_what_was_before_it() {
    let as_of = AsOf::from(day(10));
    assert!(as_of.knows(day(9)) && !as_of.knows(day(10)) && !as_of.knows(day(11)));
    assert_eq!(
        (as_of.days_since(day(7)), as_of.days_since(day(10))),
        (Some(3.0), None)
    );
    assert_eq!(as_of.instant(), day(10));
}

#[tokio::test]
async fn who_wants_to_be_left_alone_at_an_address_is_left_out() {
    let shop = Shop::new().await;
    let key = AddressKey::new(&Secret::new("0123456789abcdef")).unwrap();
    let mut people = Vec::new();
    for n in 0..5 {
        let id = shop.customer(day(0)).await;
        let email = format!("p{n}@example.com");
        let record = Record::from_values(
            &CONTACT_POINT,
            vec![
                id.into(),
                "email".into(),
                email.as_str().into(),
                Value::Null,
                true.into(),
                "active".into(),
                day(0).into(),
                Value::Null,
                Value::Null,
                Value::Null,
            ],
        )
        .unwrap();
        shop.put(Write::insert(fixtures::id(), record)).await;
        people.push((id, key.of(ContactKind::Email, &email)));
    }
    let one = |n: usize, reason, at| {
        Suppression::new(
            ContactKind::Email,
            &*people[n].1,
            SuppressionScope::All,
            reason,
            day(at),
        )
    };
    for write in [
        one(0, SuppressionReason::Unsubscribed, 1),
        one(1, SuppressionReason::Undeliverable, 1),
        one(2, SuppressionReason::Erased, 50),
        one(3, SuppressionReason::Complaint, 1).until(Some(day(10))),
    ] {
        shop.put(write.write().unwrap()).await;
    }
    let interest = Purpose::new(
        "profiling",
        PurposeClass::Transactional,
        LegalBasis::LegitimateInterest,
    )
    .unwrap();
    let admitted = async |at: i32| {
        let audience = Audience::read(&shop.ctx, &shop.store, &interest, day(at))
            .await
            .unwrap();
        let all = people.iter().filter(|(id, _)| audience.admits(*id)).count();
        let audience = audience
            .with_suppressions(&shop.ctx, &shop.store, &key)
            .await
            .unwrap();
        let mut report = audience.report();
        let left: Vec<bool> = people
            .iter()
            .map(|(id, _)| audience.judge(*id, &mut report))
            .collect();
        assert_eq!(report.admitted + report.suppressed, 5);
        (all, left)
    };
    assert_eq!(admitted(5).await, (5, vec![false, true, true, false, true]));
    assert_eq!(admitted(60).await, (5, vec![false, true, false, true, true]));
    // Another key finds nobody.
    let other = AddressKey::new(&Secret::new("another 16 bytes")).unwrap();
    let audience = Audience::read(&shop.ctx, &shop.store, &interest, day(60))
        .await
        .unwrap();
    let audience = audience
        .with_suppressions(&shop.ctx, &shop.store, &other)
        .await
        .unwrap();
    assert!(people.iter().all(|(id, _)| audience.admits(*id)));
}
