//! Who may be looked at for a purpose.

use crm_analytics::features::FeaturePlan;
use crm_analytics::insights::SegmentationPlan;
use crm_analytics::privacy::Audience;
use crm_core::capability::RecordStore;
use crm_core::consent::{
    CONSENT_EVENT, ConsentAction, ConsentEvent, Evidence, LegalBasis, Purpose, PurposeClass,
};
use crm_core::customer::{CUSTOMER_ALIAS, ContactKind, CustomerId};
use crm_core::memory::MemoryStore;
use crm_core::record::{Entity, Record, Write};
use crm_core::{Context, Timestamp, Uuid};

use crate::insights::{ctx, house};

fn day(n: u32) -> Timestamp {
    Timestamp::from_ymd(2026, 1, n).unwrap()
}

fn who(n: u128) -> CustomerId {
    Uuid::from_u128(n).into()
}

struct Log {
    store: MemoryStore,
    ctx: Context,
}

impl Log {
    async fn new() -> Self {
        let store = MemoryStore::new("records");
        store.migrate(&[&CONSENT_EVENT, &CUSTOMER_ALIAS]).await.unwrap();
        Self {
            store,
            ctx: ctx("shop"),
        }
    }

    async fn say(&self, customer: u128, address: &str, purpose: &str, action: ConsentAction, at: u32) {
        say(
            &self.store,
            &self.ctx,
            who(customer),
            address,
            purpose,
            action,
            at,
        )
        .await;
    }

    async fn audience(&self, purpose: &Purpose) -> Audience {
        Audience::read(&self.ctx, &self.store, purpose, day(20))
            .await
            .unwrap()
    }
}

async fn say(
    store: &dyn RecordStore,
    ctx: &Context,
    customer: CustomerId,
    address: &str,
    purpose: &str,
    action: ConsentAction,
    at: u32,
) {
    let id = Uuid::from_u128(u128::from(at) << 64 | customer.uuid().as_u128() << 8 | address.len() as u128);
    let event = ConsentEvent {
        id: id.into(),
        purpose: purpose.to_owned(),
        kind: ContactKind::Email,
        channel: None,
        address_key: address.to_owned(),
        customer_id: customer,
        action,
        at: day(at),
        expires_at: None,
        basis: None,
        evidence: Evidence::new("web", "May we look at what you buy?").unwrap(),
    };
    let record = event.to_record().unwrap();
    store.apply(ctx, &[Write::insert(id, record)]).await.unwrap();
}

#[tokio::test]
async fn a_legitimate_interest_ends_where_somebody_objects() {
    use ConsentAction::{Granted, Objected, Withdrawn};
    let log = Log::new().await;
    log.say(1, "a", "profiling", Objected, 1).await;
    log.say(2, "bb", "profiling", Withdrawn, 1).await;
    log.say(3, "ccc", "profiling", Objected, 1).await;
    log.say(3, "ccc", "profiling", Granted, 2).await;
    log.say(4, "dddd", "other", Objected, 1).await;
    // Not yet said at the moment looked at.
    log.say(5, "eeeee", "profiling", Objected, 25).await;
    let interest = Purpose::new(
        "profiling",
        PurposeClass::Transactional,
        LegalBasis::LegitimateInterest,
    )
    .unwrap();
    let audience = log.audience(&interest).await;
    let admitted: Vec<u128> = (1..=6).filter(|n| audience.admits(who(*n))).collect();
    assert_eq!(admitted, [3, 4, 5, 6]);
    let contract = Purpose::transactional("profiling").unwrap();
    let audience = log.audience(&contract).await;
    assert!((1..=6).all(|n| audience.admits(who(n))), "a contract asks nobody");
}

#[tokio::test]
async fn consent_is_needed_where_the_purpose_says_so() {
    use ConsentAction::{Confirmed, Granted, Objected};
    let log = Log::new().await;
    log.say(1, "a", "offers", Granted, 1).await;
    log.say(2, "bb", "offers", Granted, 1).await;
    log.say(2, "bb2", "offers", Objected, 2).await;
    log.say(3, "ccc", "offers", Granted, 1).await;
    log.say(3, "ccc", "offers", Confirmed, 2).await;
    let admitted = |audience: &Audience| {
        (1..=4)
            .filter(|n| audience.admits(who(*n)))
            .collect::<Vec<u128>>()
    };
    let single = Purpose::marketing("offers").unwrap();
    assert_eq!(admitted(&log.audience(&single).await), [1, 3]);
    let double = Purpose::marketing("offers").unwrap().with_double_opt_in();
    assert_eq!(admitted(&log.audience(&double).await), [3]);
}

#[tokio::test]
async fn merged_people_are_one() {
    let log = Log::new().await;
    log.say(1, "a", "profiling", ConsentAction::Objected, 1).await;
    let alias = Record::from_values(
        &CUSTOMER_ALIAS,
        vec![
            Uuid::from_u128(9).into(),
            Uuid::from_u128(77).into(),
            day(3).into(),
        ],
    );
    let alias = Write::insert(Uuid::from_u128(1), alias.unwrap());
    log.store.apply(&log.ctx, &[alias]).await.unwrap();
    let interest = Purpose::new(
        "profiling",
        PurposeClass::Transactional,
        LegalBasis::LegitimateInterest,
    )
    .unwrap();
    let audience = log.audience(&interest).await;
    assert!(!audience.admits(who(9)), "what one of them said counts for both");
    assert!(audience.admits(who(8)));
}

#[tokio::test]
async fn features_for_a_purpose_leave_objectors_out_and_count_them() {
    let house = house().await;
    let ctx = ctx("shop");
    house
        .store()
        .migrate(&[&CONSENT_EVENT, &CUSTOMER_ALIAS])
        .await
        .unwrap();
    house.three_kinds(&ctx).await;
    let plan = FeaturePlan::rfm(Timestamp::from_ymd(2027, 1, 1).unwrap());
    let all = plan.read(&ctx, house.store(), &mut |_| ()).await.unwrap();
    assert!(all.ids.len() > 2 && all.report.audience.is_none());
    say(
        house.store(),
        &ctx,
        all.ids[1],
        "a",
        "profiling",
        ConsentAction::Objected,
        1,
    )
    .await;
    let interest = Purpose::new(
        "profiling",
        PurposeClass::Transactional,
        LegalBasis::LegitimateInterest,
    )
    .unwrap();
    let audience = Audience::read(&ctx, house.store(), &interest, day(20))
        .await
        .unwrap();
    let some = plan
        .read_for(&ctx, house.store(), &audience, &mut |_| ())
        .await
        .unwrap();
    let mut wanted = all.ids.clone();
    wanted.remove(1);
    assert_eq!(some.ids, wanted);
    assert_eq!(some.table.rows(), wanted.len());
    let report = some.report.audience.unwrap();
    assert_eq!((report.objected, report.without_consent), (1, 0));
    assert_eq!(report.purpose, "profiling");

    let plan = SegmentationPlan::new("value", plan).purpose(interest);
    house.clock_at(day(20));
    let found = house.insights.preview(&ctx, &plan, &mut |_| ()).await.unwrap();
    assert_eq!(found.ids.len(), wanted.len());
    assert!(
        found.notes.iter().any(|note| note.contains("profiling")),
        "{:?}",
        found.notes
    );
}
