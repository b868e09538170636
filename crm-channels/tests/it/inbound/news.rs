//! News about messages: any order, any repetition, one end.

use std::collections::BTreeSet;

use crm_channels::inbound::INBOUND;
use crm_channels::{OutboxEntry, OutboxState};
use crm_core::consent::{SuppressionReason, SuppressionScope};
use crm_core::message::{Blame, Channel, DeliveryEvent, DeliveryState, InboundEvent};
use crm_core::query::{Filter, Query};
use crm_core::record::Write;
use crm_core::{Clock as _, Error, ErrorKind, Timestamp};
use proptest::prelude::*;

use super::{Office, other_tenant, phone, told};
use crate::common::{news, receipt};

const NUMBER: &str = "+15005550006";

fn all(events: &[DeliveryEvent]) -> Vec<InboundEvent> {
    events.iter().cloned().map(InboundEvent::Delivery).collect()
}

/// What is left of some news once everything came in.
#[derive(Debug, PartialEq)]
struct Trace {
    entry: OutboxEntry,
    kinds: Vec<String>,
    suppressed: BTreeSet<(String, &'static str)>,
    contact: Vec<(String, Option<String>)>,
}

/// Takes these news in, in this order, one by one.
async fn after(events: &[(usize, DeliveryState, Blame)]) -> Trace {
    let o = Office::new().await;
    let ana = o.w.customer("Ana", "ana@example.org").await;
    o.reached_at(ana, NUMBER).await;
    let id = o.sent_sms(ana, NUMBER).await;
    for (at, state, blame) in events {
        let mut event = told(
            id,
            &format!("e{at}"),
            *state,
            Timestamp::from_micros(1_000_000 * *at as i64),
        );
        event.blame = *blame;
        event.reason = Some(format!("reason {at}"));
        o.outreach.ingest(&o.w.ctx, all(&[event])).await.unwrap();
    }
    let query = Query::new(Filter::eq("customer_id", ana).and(Filter::eq("kind", "phone")));
    let points =
        o.w.store
            .find(&o.w.ctx, &crm_core::customer::CONTACT_POINT, &query)
            .await
            .unwrap();
    Trace {
        entry: o.outreach.message(&o.w.ctx, id).await.unwrap(),
        kinds: o.kinds().await,
        suppressed: o
            .suppressions(&o.w.ctx)
            .await
            .into_iter()
            .map(|s| (s.scope.to_string(), s.reason.as_str()))
            .collect(),
        contact: points
            .items
            .iter()
            .map(|p| {
                let deliverability = p.record.get("deliverability").and_then(|v| v.as_str());
                (
                    p.record.text("state").unwrap().to_owned(),
                    deliverability.map(str::to_owned),
                )
            })
            .collect(),
    }
}

/// Every order of these.
fn permutations<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    (0..items.len())
        .flat_map(|i| {
            let mut rest = items.to_vec();
            let first = rest.remove(i);
            permutations(&rest).into_iter().map(move |mut p| {
                p.insert(0, first.clone());
                p
            })
        })
        .collect()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn state() -> impl Strategy<Value = (DeliveryState, Blame)> {
    prop_oneof![
        Just((DeliveryState::Queued, Blame::Nobody)),
        Just((DeliveryState::Accepted, Blame::Nobody)),
        Just((DeliveryState::Unknown, Blame::Nobody)),
        Just((DeliveryState::Delivered, Blame::Nobody)),
        Just((DeliveryState::Failed, Blame::Nobody)),
        Just((DeliveryState::Failed, Blame::Recipient)),
        Just((DeliveryState::Failed, Blame::OptedOut)),
        Just((DeliveryState::Failed, Blame::RecipientForNow)),
        Just((DeliveryState::Failed, Blame::Sender)),
        Just((DeliveryState::Complained, Blame::Nobody)),
    ]
}

/// SMS-2: all 720 orders of six, once.
#[test]
fn every_order_of_six_news_has_one_end() {
    let six: Vec<_> = [
        (DeliveryState::Accepted, Blame::Nobody),
        (DeliveryState::Delivered, Blame::Nobody),
        (DeliveryState::Delivered, Blame::Nobody),
        (DeliveryState::Failed, Blame::Recipient),
        (DeliveryState::Failed, Blame::Sender),
        (DeliveryState::Complained, Blame::Nobody),
    ]
    .into_iter()
    .enumerate()
    .map(|(i, (state, blame))| (i + 1, state, blame))
    .collect();
    block_on(async {
        let first = after(&six).await;
        assert_eq!(first.entry.delivery, Some(DeliveryState::Complained));
        assert_eq!(first.entry.delivered_at, Some(Timestamp::from_micros(2_000_000)));
        let orders = permutations(&six);
        // The negative control: with "the last word counts" the same orders would have four ends.
        let last: BTreeSet<_> = orders
            .iter()
            .filter_map(|order| order.last())
            .map(|(_, state, _)| *state)
            .collect();
        assert_eq!(last.len(), 4);
        for order in orders {
            assert_eq!(after(&order).await, first, "{order:?}");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// SMS-2: any news, shuffled and repeated.
    #[test]
    fn news_in_any_order_with_repetitions_have_one_end(
        states in proptest::collection::vec(state(), 1..=6),
        shuffles in proptest::collection::vec(proptest::collection::vec(any::<proptest::sample::Index>(), 6..14), 4),
    ) {
        let events: Vec<_> = states.into_iter().enumerate().map(|(i, (s, b))| (i + 1, s, b)).collect();
        block_on(async {
            let first = after(&events).await;
            for shuffle in shuffles {
                let mut order: Vec<_> = shuffle.iter().map(|i| *i.get(&events)).collect();
                for event in &events {
                    if !order.contains(event) {
                        order.push(*event);
                    }
                }
                prop_assert_eq!(&after(&order).await, &first, "{:?}", order);
            }
            Ok(())
        })?;
    }
}

/// SMS-3.
#[tokio::test]
async fn a_thousand_replays_are_one_effect() {
    let o = Office::new().await;
    let ana = o.w.customer("Ana", "ana@example.org").await;
    o.reached_at(ana, NUMBER).await;
    let id = o.sent_sms(ana, NUMBER).await;
    let mut event = told(id, "e1", DeliveryState::Failed, o.w.clock.now());
    event.blame = Blame::Recipient;
    let first = o
        .outreach
        .ingest(&o.w.ctx, all(std::slice::from_ref(&event)))
        .await
        .unwrap();
    assert_eq!((first.applied, first.repeated), (1, 0));
    let (row, kinds) = (o.w.row(id).await, o.kinds().await);
    let again = o
        .outreach
        .ingest(&o.w.ctx, all(&vec![event; 1000]))
        .await
        .unwrap();
    assert_eq!((again.applied, again.repeated, again.total()), (0, 1000, 1000));
    assert_eq!(o.w.row(id).await, row, "not even the version moved");
    assert_eq!(o.kinds().await, kinds);
    assert_eq!(
        o.w.store.count(&o.w.ctx, &INBOUND, &Filter::All).await.unwrap(),
        1
    );
    assert_eq!(o.suppressions(&o.w.ctx).await.len(), 1);
}

/// The same at once: what is one effect one after the other is one effect side by side.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn news_that_come_at_once_all_count_and_count_once() {
    let o = Office::new().await;
    let ana = o.w.customer("Ana", "ana@example.org").await;
    o.reached_at(ana, NUMBER).await;
    let id = o.sent_sms(ana, NUMBER).await;
    let states = [
        DeliveryState::Accepted,
        DeliveryState::Delivered,
        DeliveryState::Failed,
    ];
    let mut tasks = Vec::new();
    for i in 0..48 {
        let (outreach, ctx) = (o.outreach.clone(), o.w.ctx.clone());
        let event = told(id, &format!("e{}", i % 3), states[i % 3], o.w.clock.now());
        tasks.push(tokio::spawn(async move {
            outreach.ingest(&ctx, all(&[event])).await.unwrap()
        }));
    }
    let mut applied = 0;
    for task in tasks {
        applied += task.await.unwrap().applied;
    }
    assert_eq!(applied, 3);
    let entry = o.outreach.message(&o.w.ctx, id).await.unwrap();
    assert_eq!(entry.delivery, Some(DeliveryState::Failed));
    assert_eq!(o.kinds().await, ["sms.accepted", "sms.delivered", "sms.failed"]);
}

#[tokio::test]
async fn news_resolve_an_outcome_that_nobody_knew() {
    for (state, end) in [
        (DeliveryState::Accepted, OutboxState::Sent),
        (DeliveryState::Delivered, OutboxState::Sent),
        (DeliveryState::Failed, OutboxState::Failed),
        (DeliveryState::Queued, OutboxState::Unknown),
    ] {
        let o = Office::new().await;
        let ana = o.w.customer("Ana", "ana@example.org").await;
        o.reached_at(ana, NUMBER).await;
        let id = o.text_to(ana, NUMBER).await;
        o.sms
            .fail_next(Error::new(ErrorKind::Timeout, "the answer was lost").effect_unknown());
        o.outreach.dispatcher().unwrap().drain(&o.w.ctx).await.unwrap();
        assert_eq!(o.w.state(id).await, OutboxState::Unknown);
        let mut event = told(id, "e", state, o.w.clock.now());
        event.provider_ref = Some("SM1".into());
        o.outreach.ingest(&o.w.ctx, all(&[event])).await.unwrap();
        let entry = o.outreach.message(&o.w.ctx, id).await.unwrap();
        assert_eq!(entry.state, end, "{state}");
        if end == OutboxState::Sent {
            assert_eq!(
                (entry.provider.as_deref(), entry.provider_ref.as_deref()),
                (Some("sms"), Some("SM1"))
            );
        }
        assert!(o.sms.sent().is_empty(), "never sent again");
    }
}

/// A receipt may wait for its answer: queued for a second try, but the first one arrived.
#[tokio::test]
async fn what_arrived_is_not_tried_again() {
    let o = Office::new().await;
    let ana = o.w.customer("Ana", "ana@example.org").await;
    let id = o.w.enqueue(ana, "ana@example.org", receipt()).await;
    o.w.mailer
        .fail_next(Error::new(ErrorKind::Timeout, "the answer was lost").effect_unknown());
    o.outreach.dispatcher().unwrap().tick(&o.w.ctx).await.unwrap();
    assert_eq!(o.w.state(id).await, OutboxState::Queued);
    o.outreach
        .ingest(
            &o.w.ctx,
            all(&[told(id, "e", DeliveryState::Delivered, o.w.clock.now())]),
        )
        .await
        .unwrap();
    assert_eq!(o.w.state(id).await, OutboxState::Sent);
    o.w.pass(7 * 86_400);
    assert_eq!(
        o.outreach
            .dispatcher()
            .unwrap()
            .drain(&o.w.ctx)
            .await
            .unwrap()
            .claimed,
        0
    );
    assert!(o.w.mailer.sent().is_empty());
}

#[tokio::test]
async fn blame_decides_what_follows_for_the_address() {
    let undeliverable = (SuppressionScope::All, SuppressionReason::Undeliverable);
    let unsubscribed = (SuppressionScope::Marketing, SuppressionReason::Unsubscribed);
    let complaint = (SuppressionScope::All, SuppressionReason::Complaint);
    for (state, blame, suppressed, contact) in [
        (
            DeliveryState::Failed,
            Blame::Recipient,
            Some(undeliverable),
            ("invalid", Some("bounced")),
        ),
        (
            DeliveryState::Failed,
            Blame::OptedOut,
            Some(unsubscribed),
            ("unverified", None),
        ),
        (
            DeliveryState::Failed,
            Blame::RecipientForNow,
            None,
            ("unverified", Some("deferred")),
        ),
        (DeliveryState::Failed, Blame::Sender, None, ("unverified", None)),
        (DeliveryState::Failed, Blame::Content, None, ("unverified", None)),
        (DeliveryState::Failed, Blame::Nobody, None, ("unverified", None)),
        (
            DeliveryState::Complained,
            Blame::Nobody,
            Some(complaint),
            ("unverified", Some("complained")),
        ),
        (
            DeliveryState::Delivered,
            Blame::Nobody,
            None,
            ("unverified", Some("delivered")),
        ),
        (DeliveryState::Accepted, Blame::Nobody, None, ("unverified", None)),
    ] {
        let trace = after(&[(1, state, blame)]).await;
        let expected: BTreeSet<_> = suppressed
            .map(|(scope, reason)| (scope.to_string(), reason.as_str()))
            .into_iter()
            .collect();
        assert_eq!(trace.suppressed, expected, "{state} {blame}");
        let (status, deliverability) = contact;
        assert_eq!(
            trace.contact,
            [(status.to_owned(), deliverability.map(str::to_owned))],
            "{state} {blame}"
        );
    }
}

#[tokio::test]
async fn three_full_mailboxes_keep_an_address_back_for_a_while() {
    let o = Office::new().await;
    let ana = o.w.subscriber("Ana", "ana@example.org").await;
    for i in 0..3 {
        assert!(o.suppressions(&o.w.ctx).await.is_empty(), "after {i}");
        let id = o.w.enqueue(ana, "ana@example.org", news()).await;
        o.outreach.dispatcher().unwrap().drain(&o.w.ctx).await.unwrap();
        let mut event = told(id, &format!("e{i}"), DeliveryState::Failed, o.w.clock.now());
        event.blame = Blame::RecipientForNow;
        // Told five times, counted once.
        o.outreach.ingest(&o.w.ctx, all(&vec![event; 5])).await.unwrap();
        o.w.pass(3600);
    }
    let suppressions = o.suppressions(&o.w.ctx).await;
    assert_eq!(suppressions.len(), 1);
    assert!(suppressions[0].expires_at.is_some() && suppressions[0].channel == Some(Channel::Email));
}

#[tokio::test]
async fn news_of_a_message_never_seen_are_kept_and_make_no_customer() {
    let o = Office::new().await;
    let id = o.w.ids.fresh().into();
    let mut event = told(id, "e1", DeliveryState::Failed, o.w.clock.now());
    event.blame = Blame::Recipient;
    event.recipient = Some(phone(NUMBER));
    let report = o
        .outreach
        .ingest(&o.w.ctx, all(&[event.clone(), event]))
        .await
        .unwrap();
    assert_eq!((report.orphans, report.repeated), (1, 1));
    assert!(o.w.timeline().await.is_empty());
    assert!(o.suppressions(&o.w.ctx).await.is_empty());
    let count = |schema| o.w.store.count(&o.w.ctx, schema, &Filter::All);
    assert_eq!(count(&crm_core::customer::CUSTOMER).await.unwrap(), 0);
    assert_eq!(count(&crm_core::customer::CONTACT_POINT).await.unwrap(), 0);
    assert_eq!(count(&INBOUND).await.unwrap(), 1);
}

/// Bad input 11: the message of somebody else.
#[tokio::test]
async fn news_told_to_another_tenant_change_nothing() {
    let o = Office::new().await;
    let ana = o.w.customer("Ana", "ana@example.org").await;
    o.reached_at(ana, NUMBER).await;
    let id = o.sent_sms(ana, NUMBER).await;
    let (row, kinds) = (o.w.row(id).await, o.kinds().await);
    let mut event = told(id, "e1", DeliveryState::Failed, o.w.clock.now());
    event.blame = Blame::Recipient;
    event.provider_ref = row.record.text("provider_ref").ok().map(str::to_owned);
    let report = o
        .outreach
        .ingest(&other_tenant(), all(std::slice::from_ref(&event)))
        .await
        .unwrap();
    assert_eq!(report.orphans, 1);
    assert_eq!((o.w.row(id).await, o.kinds().await), (row, kinds));
    assert!(o.suppressions(&other_tenant()).await.is_empty());
    // The negative control: the same news, told to whom they belong.
    assert_eq!(
        o.outreach.ingest(&o.w.ctx, all(&[event])).await.unwrap().applied,
        1
    );
    assert_eq!(o.suppressions(&o.w.ctx).await.len(), 1);
}

/// One reference of a vendor for a whole batch: the number tells which message is meant.
#[tokio::test]
async fn a_reference_of_many_messages_needs_the_recipient() {
    let o = Office::new().await;
    let numbers = ["+15005550006", "+15005550009"];
    let mut ids = Vec::new();
    for (i, number) in numbers.iter().enumerate() {
        let customer = o.w.customer("Ana", &format!("ana{i}@example.org")).await;
        o.reached_at(customer, number).await;
        let id = o.sent_sms(customer, number).await;
        let mut stored = o.w.row(id).await;
        stored.record.set("provider_ref", "batch-1").unwrap();
        let write = Write::update(stored.id, stored.version, stored.record);
        o.w.store.apply(&o.w.ctx, &[write]).await.unwrap();
        ids.push(id);
    }
    let mut event = told(ids[0], "e1", DeliveryState::Delivered, o.w.clock.now());
    event.message_id = None;
    event.provider_ref = Some("batch-1".into());
    let mut unclear = event.clone();
    unclear.event_id = "e2".into();
    event.recipient = Some(phone(numbers[1]));
    let mut elsewhere = event.clone();
    (elsewhere.event_id, elsewhere.provider) = ("e3".into(), "another".into());
    let report = o
        .outreach
        .ingest(&o.w.ctx, all(&[event, unclear, elsewhere]))
        .await
        .unwrap();
    assert_eq!((report.applied, report.orphans), (1, 2), "nobody guesses");
    let entry = |id| o.outreach.message(&o.w.ctx, id);
    assert_eq!(
        entry(ids[0]).await.unwrap().delivery,
        Some(DeliveryState::Accepted)
    );
    assert_eq!(
        entry(ids[1]).await.unwrap().delivery,
        Some(DeliveryState::Delivered)
    );
}

#[tokio::test]
async fn news_that_came_before_the_reference_find_their_message_later() {
    let o = Office::new().await;
    let ana = o.w.customer("Ana", "ana@example.org").await;
    o.reached_at(ana, NUMBER).await;
    let id = o.text_to(ana, NUMBER).await;
    let start = o.w.clock.now();
    let mut event = told(id, "e1", DeliveryState::Delivered, start);
    (event.message_id, event.provider_ref) = (None, Some("SM9".into()));
    assert_eq!(
        o.outreach
            .ingest(&o.w.ctx, all(std::slice::from_ref(&event)))
            .await
            .unwrap()
            .orphans,
        1
    );
    assert_eq!(o.outreach.adopt_orphans(&o.w.ctx, start).await.unwrap(), 0);
    o.outreach.dispatcher().unwrap().drain(&o.w.ctx).await.unwrap();
    let mut stored = o.w.row(id).await;
    stored.record.set("provider_ref", "SM9").unwrap();
    let write = Write::update(stored.id, stored.version, stored.record);
    o.w.store.apply(&o.w.ctx, &[write]).await.unwrap();
    assert_eq!(o.outreach.adopt_orphans(&o.w.ctx, start).await.unwrap(), 1);
    assert_eq!(o.outreach.adopt_orphans(&o.w.ctx, start).await.unwrap(), 0);
    let entry = o.outreach.message(&o.w.ctx, id).await.unwrap();
    assert_eq!(entry.delivery, Some(DeliveryState::Delivered));
    assert_eq!(
        o.outreach.ingest(&o.w.ctx, all(&[event])).await.unwrap().repeated,
        1
    );
}

/// Whatever a vendor calls things, it fits: names too long, NULs, odd words.
#[tokio::test]
async fn odd_names_and_words_are_taken_in() {
    let o = Office::new().await;
    let ana = o.w.customer("Ana", "ana@example.org").await;
    o.reached_at(ana, NUMBER).await;
    let id = o.sent_sms(ana, NUMBER).await;
    let mut event = told(
        id,
        &"x".repeat(5000),
        DeliveryState::Delivered,
        Timestamp::from_micros(i64::MIN),
    );
    event.code = Some("a\0b".repeat(1000));
    event.reason = Some("é\0".repeat(5000));
    event.provider_ref = Some("y".repeat(5000));
    let report = o
        .outreach
        .ingest(&o.w.ctx, all(&[event.clone(), event.clone()]))
        .await
        .unwrap();
    assert_eq!((report.applied, report.repeated), (1, 1));
    event.event_id = "x".repeat(5001);
    assert_eq!(
        o.outreach.ingest(&o.w.ctx, all(&[event])).await.unwrap().applied,
        1,
        "another name, other news"
    );
}
