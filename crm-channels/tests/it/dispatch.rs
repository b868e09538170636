use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crm_channels::{DispatchSettings, Mode, OUTBOX, OutboxState, Outgoing};
use crm_core::capability::{MailCapability, Mailer};
use crm_core::consent::SuppressionReason;
use crm_core::memory::MemoryMailer;
use crm_core::query::Filter;
use crm_core::{Clock as _, Error, ErrorKind, Retry};

use crate::common::{Held, World, email, evidence, live, news, receipt};

fn busy() -> Error {
    Error::new(ErrorKind::Unavailable, "busy")
}

#[tokio::test]
async fn every_recipient_has_a_fate_of_their_own() {
    let w = World::new().await;
    let mut sent = Vec::new();
    for i in 1..=10 {
        let address = format!("p{i}@example.org");
        let customer = w.subscriber("Ana", &address).await;
        sent.push((customer, w.enqueue(customer, &address, news()).await));
    }
    w.mailer.refuse("p3@example.org", || {
        Error::invalid("there is no such mailbox")
            .with("reply", "550 5.1.1")
            .with("suppress", "recipient")
    });
    w.mailer.refuse("p7@example.org", busy);
    let report = w.dispatcher().tick(&w.ctx).await.unwrap();
    assert_eq!(
        (report.claimed, report.sent, report.failed, report.retried),
        (10, 8, 1, 1)
    );
    assert_eq!(w.mailer.sent().len(), 8);

    let (third, message) = sent[2];
    assert_eq!(w.state(message).await, OutboxState::Failed);
    assert_eq!(w.contact_state(third).await, "invalid");
    let decision = w
        .outreach()
        .explain(&w.ctx, third, &email("p3@example.org"), &receipt())
        .await
        .unwrap();
    assert_eq!(decision.rule(), "contact");
    let (seventh, message) = sent[6];
    let entry = w.outreach().message(&w.ctx, message).await.unwrap();
    assert_eq!((entry.state, entry.attempt), (OutboxState::Queued, 1));
    assert_eq!(
        w.contact_state(seventh).await,
        "unverified",
        "later is nobody's fault"
    );

    let kinds = w.timeline().await.into_iter().fold(BTreeMap::new(), |mut n, i| {
        *n.entry(i.kind).or_insert(0) += 1;
        n
    });
    assert_eq!(
        kinds,
        BTreeMap::from([("mail.accepted".to_owned(), 8), ("mail.failed".to_owned(), 1)])
    );
    // What is done is done: nothing goes out twice.
    w.pass(60);
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().claimed, 1);
    assert_eq!(w.mailer.sent().len(), 8);
}

#[tokio::test]
async fn policy_refusals_fail_the_message_and_spare_the_address() {
    let w = World::new().await;
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let id = w.enqueue(ana, "ana@example.org", news()).await;
    w.mailer.fail_next(
        Error::new(ErrorKind::PermissionDenied, "the server's policy refuses us").with("reply", "550 5.7.1"),
    );
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().failed, 1);
    assert_eq!(w.state(id).await, OutboxState::Failed);
    assert_eq!(w.contact_state(ana).await, "unverified");
    assert!(
        w.outreach()
            .explain(&w.ctx, ana, &email("ana@example.org"), &news())
            .await
            .unwrap()
            .allowed
    );
}

#[tokio::test]
async fn a_worker_without_its_lease_cannot_complete() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    let id = w.enqueue(ana, "ana@example.org", receipt()).await;
    let held = Held::new("a", &w.clock);
    let a = w.dispatcher_with(held.clone(), DispatchSettings::default());
    let ctx = w.ctx.clone();
    let first = tokio::spawn(async move { a.tick(&ctx).await.unwrap() });
    held.begun.acquire().await.unwrap().forget();
    let stale = w.row(id).await;

    // While the lease holds, nobody else gets it.
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().claimed, 0);
    w.pass(31);
    let report = w.dispatcher().tick(&w.ctx).await.unwrap();
    assert_eq!((report.rescued, report.sent), (1, 1));

    held.go.add_permits(1);
    let report = first.await.unwrap();
    assert_eq!(
        (report.sent, report.lease_lost),
        (0, 1),
        "the first one is told, and overwrites nothing"
    );
    assert_eq!(
        w.outreach()
            .message(&w.ctx, id)
            .await
            .unwrap()
            .provider
            .as_deref(),
        Some("mailer")
    );
    assert_eq!(w.timeline().await.len(), 1, "one completion");

    // The version is what fences: with it the stale write is refused, without it it would be taken.
    use crm_core::record::Write;
    let fenced = w
        .store
        .apply(&w.ctx, &[Write::update(id, stale.version, stale.record.clone())])
        .await
        .unwrap_err();
    assert_eq!(
        (fenced.kind(), fenced.context("schema")),
        (ErrorKind::Conflict, Some(OUTBOX.name))
    );
    w.store
        .apply(&w.ctx, &[Write::put(id, stale.record)])
        .await
        .unwrap();
    assert_eq!(
        w.state(id).await,
        OutboxState::Leased,
        "the finished message would be under way again"
    );
}

#[tokio::test]
async fn heartbeats_keep_a_long_send() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    w.enqueue(ana, "ana@example.org", receipt()).await;
    let held = Held::new("slow", &w.clock);
    let settings = DispatchSettings {
        lease: Duration::from_millis(150),
        ..DispatchSettings::default()
    };
    let slow = w.dispatcher_with(held.clone(), settings);
    let ctx = w.ctx.clone();
    let first = tokio::spawn(async move { slow.tick(&ctx).await.unwrap() });
    held.begun.acquire().await.unwrap().forget();
    for _ in 0..10 {
        // More time than the lease in all, less than the lease between two heartbeats.
        tokio::time::sleep(Duration::from_millis(100)).await;
        w.clock.advance(Duration::from_millis(60));
        assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().claimed, 0);
    }
    held.go.add_permits(1);
    assert_eq!(first.await.unwrap().sent, 1);
}

#[tokio::test]
async fn an_unknown_outcome_is_named_for_marketing_and_repeated_for_receipts() {
    let w = World::new().await;
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let id = w.enqueue(ana, "ana@example.org", news()).await;
    w.mailer.lose_next_answer();
    let report = w.dispatcher().tick(&w.ctx).await.unwrap();
    assert_eq!(report.unknown, vec![id]);
    w.pass(7 * 3600);
    assert_eq!(
        w.dispatcher().tick(&w.ctx).await.unwrap().claimed,
        0,
        "never sent again by itself"
    );
    assert_eq!(w.timeline().await[0].kind, "mail.unknown");

    let id = w.enqueue(ana, "ana@example.org", receipt()).await;
    w.mailer.lose_next_answer();
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().retried, 1);
    w.pass(60);
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().sent, 1);
    let names: Vec<String> = w
        .mailer
        .sent()
        .iter()
        .skip(1)
        .map(|m| m.message().message_id())
        .collect();
    assert_eq!(names.len(), 2);
    assert_eq!(names[0], names[1], "the same Message-ID");

    // What may have arrived is never called failed.
    let last = w.enqueue(ana, "ana@example.org", receipt()).await;
    w.mailer.lose_next_answer();
    w.dispatcher().tick(&w.ctx).await.unwrap();
    w.mailer.fail_next(Error::invalid("refused now"));
    w.pass(60);
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().unknown, vec![last]);
    assert_eq!(w.state(id).await, OutboxState::Sent);
}

#[tokio::test]
async fn retries_grow_are_spread_and_honour_the_wait_asked_for() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    let mut ids = Vec::new();
    for _ in 0..1000 {
        ids.push(w.enqueue(ana, "ana@example.org", receipt()).await);
    }
    w.mailer.refuse("ana@example.org", busy);
    let settings = DispatchSettings {
        batch: 1000,
        concurrency: 100,
        seed: 11,
        ..DispatchSettings::default()
    };
    for attempt in 1..=4_i32 {
        let report = w
            .dispatcher_with(w.mailer.clone(), settings.clone())
            .tick(&w.ctx)
            .await
            .unwrap();
        assert_eq!(report.retried, 1000);
        let (mut buckets, mut most) = (BTreeMap::new(), Duration::ZERO);
        for id in &ids {
            let wait = w
                .outreach()
                .message(&w.ctx, *id)
                .await
                .unwrap()
                .run_at
                .since(w.clock.now());
            *buckets.entry(wait.as_secs()).or_insert(0) += 1;
            most = most.max(wait);
        }
        let window = 15 * 2_u64.pow(attempt.unsigned_abs() - 1);
        assert!(most <= Duration::from_secs(window), "try {attempt}: {most:?}");
        assert!(
            most >= Duration::from_secs(window * 9 / 10),
            "try {attempt}: {most:?} uses the whole window"
        );
        if attempt >= 3 {
            assert!(
                buckets.values().all(|n| *n <= 50),
                "no second holds more than 5 %: {buckets:?}"
            );
        }
        w.pass(window + 1);
    }
    let other = World::new().await;
    let bo = other.customer("Bo", "bo@example.org").await;
    let id = other.enqueue(bo, "bo@example.org", receipt()).await;
    other.mailer.fail_next(
        Error::new(ErrorKind::RateLimited, "slow down").with_retry(Retry::Allowed {
            after: Some(Duration::from_secs(120)),
        }),
    );
    other.dispatcher().tick(&other.ctx).await.unwrap();
    let wait = other
        .outreach()
        .message(&other.ctx, id)
        .await
        .unwrap()
        .run_at
        .since(other.clock.now());
    assert!(wait >= Duration::from_secs(120), "{wait:?}");
}

#[tokio::test]
async fn given_up_messages_stay_and_can_be_queued_again() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    let outgoing = Outgoing::email(w.mail("ana@example.org"), ana, receipt()).max_attempts(2);
    let id = w.outreach().enqueue(&w.ctx, outgoing, vec![]).await.unwrap();
    w.mailer.fail_next(busy());
    w.mailer.fail_next(busy());
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().retried, 1);
    w.pass(60);
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().dead, 1);
    let entry = w.outreach().message(&w.ctx, id).await.unwrap();
    assert!(entry.last_error.unwrap().contains("busy"));
    assert_eq!(w.dispatcher().requeue_dead(&w.ctx, None).await.unwrap(), 1);
    assert_eq!(w.dispatcher().requeue_dead(&w.ctx, None).await.unwrap(), 0);
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().sent, 1);
    assert_eq!(
        w.dispatcher().requeue(&w.ctx, id).await.unwrap_err().kind(),
        ErrorKind::Conflict,
        "sent is sent"
    );
}

#[tokio::test]
async fn our_own_trouble_pauses_and_uses_up_no_tries() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(w.enqueue(ana, "ana@example.org", receipt()).await);
    }
    w.mailer.fail_next(Error::new(
        ErrorKind::Unauthenticated,
        "the server refuses our log-in",
    ));
    let settings = DispatchSettings {
        concurrency: 1,
        ..DispatchSettings::default()
    };
    let dispatcher = w.dispatcher_with(w.mailer.clone(), settings);
    let report = dispatcher.drain(&w.ctx).await.unwrap();
    assert_eq!(
        (report.paused, report.released, report.sent),
        (Some(ErrorKind::Unauthenticated), 20, 0)
    );
    for id in &ids {
        assert_eq!(w.outreach().message(&w.ctx, *id).await.unwrap().attempt, 0);
    }
    w.pass(301);
    assert_eq!(dispatcher.drain(&w.ctx).await.unwrap().sent, 20);
}

#[tokio::test]
async fn another_mailer_helps_out_but_never_after_an_unknown_outcome() {
    let w = World::new().await;
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let (first, second) = (live("first", &w.clock), live("second", &w.clock));
    let recorder: Arc<dyn Mailer> = Arc::new(MemoryMailer::new("recorder"));
    let outreach = w.outreach_with(vec![first.clone(), second.clone(), recorder]);
    let dispatcher = outreach.dispatcher().unwrap();
    w.enqueue(ana, "ana@example.org", news()).await;
    first.fail_next(busy());
    assert_eq!(dispatcher.tick(&w.ctx).await.unwrap().sent, 1);
    assert_eq!((first.sent().len(), second.sent().len()), (0, 1));
    w.enqueue(ana, "ana@example.org", news()).await;
    first.lose_next_answer();
    assert_eq!(dispatcher.tick(&w.ctx).await.unwrap().unknown.len(), 1);
    assert_eq!(second.sent().len(), 1);
    // Both busy: it waits; the recorder is no replacement for a live mailer.
    let id = w.enqueue(ana, "ana@example.org", news()).await;
    first.fail_next(busy());
    second.fail_next(busy());
    assert_eq!(dispatcher.tick(&w.ctx).await.unwrap().retried, 1);
    assert_eq!(w.state(id).await, OutboxState::Queued);
}

#[tokio::test]
async fn the_default_mode_reaches_no_live_mailer() {
    let w = World::new().await;
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let id = w.enqueue(ana, "ana@example.org", news()).await;
    let outreach = w.outreach().mode(Mode::default());
    assert_eq!(
        outreach
            .dispatcher()
            .unwrap()
            .drain(&w.ctx)
            .await
            .unwrap()
            .recorded,
        1
    );
    assert_eq!(w.mailer.sent().len(), 0);
    assert_eq!(w.state(id).await, OutboxState::Recorded);
    assert_eq!(w.timeline().await[0].kind, "mail.recorded");
    // A recorder beside it does get a copy.
    let recorder =
        Arc::new(MemoryMailer::new("recorder").with_capability(MailCapability::new(1 << 20, true, false)));
    let outreach = w
        .outreach_with(vec![w.mailer.clone(), recorder.clone()])
        .mode(Mode::Record);
    w.enqueue(ana, "ana@example.org", news()).await;
    assert_eq!(
        outreach
            .dispatcher()
            .unwrap()
            .drain(&w.ctx)
            .await
            .unwrap()
            .recorded,
        1
    );
    assert_eq!((w.mailer.sent().len(), recorder.sent().len()), (0, 1));
}

#[tokio::test]
async fn who_opts_out_after_queueing_gets_nothing() {
    let w = World::new().await;
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let id = w.enqueue(ana, "ana@example.org", news()).await;
    w.pass(1);
    w.outreach()
        .withdraw(&w.ctx, ana, &email("ana@example.org"), &news(), evidence())
        .await
        .unwrap();
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().refused, 1);
    assert_eq!(w.mailer.sent().len(), 0);
    assert!(
        w.outreach()
            .message(&w.ctx, id)
            .await
            .unwrap()
            .last_error
            .unwrap()
            .starts_with("consent: withdrawn")
    );
    let scope = crm_core::consent::SuppressionScope::All;
    w.outreach()
        .suppress(
            &w.ctx,
            &email("ana@example.org"),
            scope,
            SuppressionReason::Manual,
        )
        .await
        .unwrap();
    w.enqueue(ana, "ana@example.org", receipt()).await;
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().refused, 1);
}

#[tokio::test]
async fn the_message_and_its_business_go_in_together_or_not_at_all() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    let stored = w
        .store
        .find(
            &w.ctx,
            &crm_core::customer::CUSTOMER,
            &crm_core::query::Query::new(Filter::All),
        )
        .await
        .unwrap();
    let business = crm_core::record::Write::update(ana, 99, stored.items[0].record.clone());
    let outgoing = Outgoing::email(w.mail("ana@example.org"), ana, receipt());
    let error = w
        .outreach()
        .enqueue(&w.ctx, outgoing.clone(), vec![business])
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("write")),
        (ErrorKind::Conflict, Some("0"))
    );
    assert_eq!(w.store.count(&w.ctx, &OUTBOX, &Filter::All).await.unwrap(), 0);
    let good = crm_core::record::Write::update(ana, 1, stored.items[0].record.clone());
    w.outreach().enqueue(&w.ctx, outgoing, vec![good]).await.unwrap();
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().sent, 1);
    let mut forged = w.mail("ana@example.org");
    forged.subject = "x\r\nBcc: y@example.org".into();
    let error = w
        .outreach()
        .enqueue(&w.ctx, Outgoing::email(forged, ana, receipt()), vec![])
        .await
        .unwrap_err();
    assert_eq!(error.context("field"), Some("subject"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn unique_work_is_unique_whoever_queues_it() {
    let w = Arc::new(World::new().await);
    let ana = w.customer("Ana", "ana@example.org").await;
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let w = w.clone();
            tokio::spawn(async move {
                for key in 0..20 {
                    let outgoing = Outgoing::email(w.mail("ana@example.org"), ana, receipt())
                        .dedupe_key(format!("order:{key}"));
                    if let Err(error) = w.outreach().enqueue(&w.ctx, outgoing, vec![]).await {
                        assert_eq!(error.context("index"), Some("crm_outbox_dedupe"), "{error}");
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(w.store.count(&w.ctx, &OUTBOX, &Filter::All).await.unwrap(), 20);
    // Many dispatchers at once: each message once.
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let w = w.clone();
            let settings = DispatchSettings {
                batch: 3,
                ..DispatchSettings::default()
            };
            tokio::spawn(async move {
                w.dispatcher_with(w.mailer.clone(), settings)
                    .drain(&w.ctx)
                    .await
                    .unwrap()
                    .sent
            })
        })
        .collect();
    let mut sent = 0;
    for task in tasks {
        sent += task.await.unwrap();
    }
    assert_eq!((sent, w.mailer.sent().len()), (20, 20));
}
