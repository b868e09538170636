use std::time::Duration;

use crm_channels::{DispatchSettings, OutboxState};
use crm_core::Clock as _;
use crm_core::record::{Value, Write};

use crate::common::{Held, World, news, receipt};

/// Lets a dispatcher die in the middle of sending its first message.
async fn die(w: &World, settings: DispatchSettings) {
    let held = Held::new("held", &w.clock);
    let dispatcher = w.dispatcher_with(held.clone(), settings);
    tokio::select! {
        _ = dispatcher.tick(&w.ctx) => panic!("it was to die"),
        begun = held.begun.acquire() => begun.unwrap().forget(),
    }
}

#[tokio::test]
async fn after_a_crash_what_had_not_begun_goes_out_and_what_had_is_not_doubled() {
    let w = World::new().await;
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(w.enqueue(ana, "ana@example.org", news()).await);
    }
    die(
        &w,
        DispatchSettings {
            concurrency: 1,
            ..DispatchSettings::default()
        },
    )
    .await;
    assert_eq!(
        w.dispatcher().tick(&w.ctx).await.unwrap().claimed,
        0,
        "the leases still hold"
    );
    w.pass(31);
    let report = w.dispatcher().tick(&w.ctx).await.unwrap();
    assert_eq!((report.rescued, report.sent, report.unknown.len()), (3, 2, 1));
    let unknown = report.unknown[0];
    assert_eq!(w.state(unknown).await, OutboxState::Unknown);
    assert!(w.mailer.sent().iter().all(|m| m.message().id != unknown));
    // Looked into and found not to have arrived: a person may queue it again.
    assert!(w.dispatcher().requeue(&w.ctx, unknown).await.unwrap());
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().sent, 1);
}

#[tokio::test]
async fn a_receipt_is_sent_again_after_a_crash_under_the_same_name() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    let id = w.enqueue(ana, "ana@example.org", receipt()).await;
    die(&w, DispatchSettings::default()).await;
    w.pass(31);
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().sent, 1);
    assert_eq!(w.mailer.sent()[0].message().id, id);
}

#[tokio::test]
async fn what_takes_its_dispatcher_down_again_and_again_is_given_up() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    let id = w.enqueue(ana, "ana@example.org", receipt()).await;
    for _ in 0..3 {
        die(&w, DispatchSettings::default()).await;
        w.pass(31);
    }
    // It was being sent each time, so it may have gone out: that is said instead of "dead".
    let report = w.dispatcher().tick(&w.ctx).await.unwrap();
    assert_eq!((report.unknown, w.mailer.sent().len()), (vec![id], 0));
    assert!(
        w.outreach()
            .message(&w.ctx, id)
            .await
            .unwrap()
            .last_error
            .unwrap()
            .starts_with("poison")
    );

    // One whose dispatcher dies again and again before it is begun is dead.
    let id = w.enqueue(ana, "ana@example.org", receipt()).await;
    let mut stored = w.row(id).await;
    stored.record.set("state", "leased").unwrap();
    stored.record.set("rescues", 9_i64).unwrap();
    stored.record.set("lease_until", w.clock.now()).unwrap();
    stored.record.set("send_started_at", Value::Null).unwrap();
    w.store
        .apply(&w.ctx, &[Write::update(id, stored.version, stored.record)])
        .await
        .unwrap();
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().dead, 1);
    assert_eq!(w.state(id).await, OutboxState::Dead);
    assert_eq!(w.dispatcher().requeue_dead(&w.ctx, None).await.unwrap(), 1);
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().sent, 1);
}

#[tokio::test]
async fn shutdown_finishes_what_is_being_sent_and_hands_back_the_rest() {
    let w = World::new().await;
    let ana = w.subscriber("Ana", "ana@example.org").await;
    for _ in 0..5 {
        w.enqueue(ana, "ana@example.org", news()).await;
    }
    let held = Held::new("held", &w.clock);
    let settings = DispatchSettings {
        concurrency: 1,
        ..DispatchSettings::default()
    };
    let dispatcher = w.dispatcher_with(held.clone(), settings);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let ctx = w.ctx.clone();
    let running = tokio::spawn(async move {
        dispatcher
            .run(&ctx, async { stopped.await.unwrap() })
            .await
            .unwrap()
    });
    held.begun.acquire().await.unwrap().forget();
    stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    held.go.add_permits(1);
    let report = running.await.unwrap();
    assert_eq!((report.sent, report.released), (1, 4));
    // Nothing is left under a lease: the next one starts at once.
    let report = w.dispatcher().drain(&w.ctx).await.unwrap();
    assert_eq!((report.rescued, report.sent), (0, 4));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_dead_and_blocks_nothing() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    let broken = w.enqueue(ana, "ana@example.org", receipt()).await;
    let fine = w.enqueue(ana, "ana@example.org", receipt()).await;
    let mut stored = w.row(broken).await;
    stored
        .record
        .set("message", serde_json::json!({"id": "?"}))
        .unwrap();
    w.store
        .apply(&w.ctx, &[Write::update(broken, stored.version, stored.record)])
        .await
        .unwrap();
    let report = w.dispatcher().tick(&w.ctx).await.unwrap();
    assert_eq!((report.dead, report.sent), (1, 1));
    assert_eq!(
        (w.state(broken).await, w.state(fine).await),
        (OutboxState::Dead, OutboxState::Sent)
    );
}
