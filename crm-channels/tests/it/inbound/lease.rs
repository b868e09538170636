//! News about a message that comes in while a dispatcher has it.

use crm_channels::{DispatchSettings, OutboxState};
use crm_core::message::{DeliveryState, MessageId};
use crm_core::record::Write;
use crm_core::{Clock as _, Error, ErrorKind};

use crate::common::{Held, World, news};

/// What news from outside do to the record, whoever has it.
async fn tell(w: &World, id: MessageId, state: DeliveryState) {
    let mut stored = w.row(id).await;
    stored.record.set("delivery", state.as_str()).unwrap();
    stored.record.set("delivered_at", w.clock.now()).unwrap();
    let write = Write::update(stored.id, stored.version, stored.record);
    w.store.apply(&w.ctx, &[write]).await.unwrap();
}

#[tokio::test]
async fn news_do_not_take_the_lease_away_and_are_not_overwritten() {
    let w = World::new().await;
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let id = w.enqueue(ana, "ana@example.org", news()).await;
    let held = Held::new("held", &w.clock);
    let dispatcher = w.dispatcher_with(held.clone(), DispatchSettings::default());
    let meanwhile = async {
        held.begun.acquire().await.unwrap().forget();
        tell(&w, id, DeliveryState::Delivered).await;
        held.go.add_permits(1);
    };
    let (report, ()) = tokio::join!(dispatcher.tick(&w.ctx), meanwhile);
    let report = report.unwrap();
    assert_eq!((report.sent, report.lease_lost), (1, 0));
    let entry = w.outreach().message(&w.ctx, id).await.unwrap();
    assert_eq!(entry.state, OutboxState::Sent);
    assert_eq!(
        entry.delivery,
        Some(DeliveryState::Delivered),
        "accepted comes later and is less"
    );
    assert_eq!(entry.delivered_at, Some(w.clock.now()));
}

#[tokio::test]
async fn a_lost_answer_is_no_question_when_the_news_came_first() {
    for (news_of, end) in [
        (Some(DeliveryState::Delivered), OutboxState::Sent),
        (Some(DeliveryState::Failed), OutboxState::Failed),
        (None, OutboxState::Unknown),
    ] {
        let w = World::new().await;
        let ana = w.subscriber("Ana", "ana@example.org").await;
        let id = w.enqueue(ana, "ana@example.org", news()).await;
        if let Some(state) = news_of {
            tell(&w, id, state).await;
        }
        let lost = Error::new(ErrorKind::Timeout, "the answer was lost").effect_unknown();
        w.mailer.fail_next(lost);
        w.dispatcher().tick(&w.ctx).await.unwrap();
        assert_eq!(w.state(id).await, end, "{news_of:?}");
    }
}
