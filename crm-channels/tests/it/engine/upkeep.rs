//! What a dispatcher looks into by itself while it runs.

use std::time::Duration;

use crm_channels::{DispatchSettings, OutboxState, Outgoing, TickReport};
use crm_core::Clock as _;
use crm_core::message::{Blame, DeliveryEvent, DeliveryState, InboundEvent, MessageId};
use crm_core::record::Write;

use super::{Phones, code};
use crate::common::receipt;

/// A text whose answer was lost, and one whose news came before its reference was stored; five minutes ago.
async fn open_questions(p: &Phones) -> (MessageId, MessageId) {
    let ana = p.customer(1).await;
    let lost = p.enqueue(Outgoing::sms(p.text(1), ana, code())).await;
    p.sms.lose_next_answer();
    let settings = DispatchSettings::default;
    let report = p.dispatcher(settings()).tick(&p.w.ctx).await.unwrap();
    assert_eq!(report.unknown, vec![lost]);
    let early = p.enqueue(Outgoing::sms(p.text(1), ana, code())).await;
    let news = DeliveryEvent {
        provider: "sms".into(),
        event_id: "e1".into(),
        message_id: None,
        provider_ref: Some("SM9".into()),
        recipient: None,
        state: DeliveryState::Delivered,
        at: p.w.clock.now(),
        code: None,
        reason: None,
        blame: Blame::Nobody,
    };
    let outreach = p.w.outreach();
    let report = outreach
        .ingest(&p.w.ctx, vec![InboundEvent::Delivery(news)])
        .await
        .unwrap();
    assert_eq!(report.orphans, 1);
    assert_eq!(p.dispatcher(settings()).tick(&p.w.ctx).await.unwrap().sent, 1);
    let mut stored = p.w.row(early).await;
    stored.record.set("provider_ref", "SM9").unwrap();
    let write = Write::update(stored.id, stored.version, stored.record);
    p.w.store.apply(&p.w.ctx, &[write]).await.unwrap();
    p.w.pass(300);
    (lost, early)
}

/// Runs until five more mails went, one after the other.
async fn run(p: &Phones, upkeep: Duration) -> TickReport {
    let settings = DispatchSettings {
        upkeep,
        idle: Duration::from_millis(1),
        ..DispatchSettings::default()
    };
    let (dispatcher, ctx) = (p.dispatcher(settings), p.w.ctx.clone());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move { dispatcher.run(&ctx, async { stopped.await.unwrap() }).await });
    let bo = p.w.customer("Bo", "bo@example.org").await;
    for _ in 0..5 {
        let id = p.w.enqueue(bo, "bo@example.org", receipt()).await;
        while p.w.state(id).await != OutboxState::Sent {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    stop.send(()).unwrap();
    running.await.unwrap().unwrap()
}

#[tokio::test]
async fn what_nobody_knows_is_looked_into_while_it_runs() {
    let p = Phones::new().await;
    let (lost, early) = open_questions(&p).await;
    let report = run(&p, Duration::from_secs(60)).await;
    assert_eq!((report.adopted, report.reconciled, report.sent), (1, 1, 5));
    let entry = p.w.outreach().message(&p.w.ctx, lost).await.unwrap();
    assert_eq!(entry.state, OutboxState::Sent);
    assert!(entry.provider_ref.is_some());
    let entry = p.w.outreach().message(&p.w.ctx, early).await.unwrap();
    assert_eq!(entry.delivery, Some(DeliveryState::Delivered));
    assert_eq!(p.sms.sent().len(), 2, "nothing was sent again");
}

#[tokio::test]
async fn who_wants_no_upkeep_asks_by_hand() {
    let p = Phones::new().await;
    let (lost, early) = open_questions(&p).await;
    let report = run(&p, Duration::ZERO).await;
    assert_eq!((report.adopted, report.reconciled, report.sent), (0, 0, 5));
    assert_eq!(p.w.state(lost).await, OutboxState::Unknown);
    let entry = p.w.outreach().message(&p.w.ctx, early).await.unwrap();
    assert_eq!(entry.delivery, Some(DeliveryState::Accepted));
    let dispatcher = p.dispatcher(DispatchSettings::default());
    assert_eq!(dispatcher.reconcile(&p.w.ctx).await.unwrap().sent, 1);
}
