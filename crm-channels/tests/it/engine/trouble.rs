use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crm_channels::{DispatchSettings, OUTBOX, OutboxState};
use crm_core::capability::{MailCapability, Mailer};
use crm_core::message::{Email, MessageId, Permitted, Receipt};
use crm_core::query::{Filter, Query};
use crm_core::record::Value;
use crm_core::{Clock as _, Context, Error, ErrorKind, Health, ManualClock, Provider, ProviderInfo, Result};
use tokio::sync::Semaphore;

use crate::common::{Held, World, news, receipt};

/// A mailer in whose call the process dies when it gets one certain message.
#[derive(Debug)]
struct Deadly {
    info: ProviderInfo,
    clock: Arc<ManualClock>,
    poison: MessageId,
    died: Semaphore,
    calls: std::sync::Mutex<BTreeMap<MessageId, u32>>,
}

#[async_trait]
impl Provider for Deadly {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Mailer for Deadly {
    fn capability(&self) -> MailCapability {
        MailCapability::new(1 << 20, false, true)
    }
    async fn send(&self, _ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        let id = mail.message().id;
        *self.calls.lock().unwrap().entry(id).or_insert(0) += 1;
        if id == self.poison {
            self.died.add_permits(1);
            std::future::pending::<()>().await;
        }
        Ok(Receipt::new("deadly", id.to_string(), self.clock.now()))
    }
}

#[tokio::test]
async fn a_message_that_kills_its_process_is_given_up_and_takes_nobody_with_it() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(w.enqueue(ana, "ana@example.org", receipt()).await);
    }
    let deadly = Arc::new(Deadly {
        info: ProviderInfo::new("deadly", "deadly"),
        clock: w.clock.clone(),
        poison: ids[7],
        died: Semaphore::new(0),
        calls: std::sync::Mutex::default(),
    });
    let settings = DispatchSettings {
        concurrency: 10,
        ..DispatchSettings::default()
    };
    let mut deaths = 0;
    for _ in 0..100 {
        let dispatcher = w.dispatcher_with(deadly.clone(), settings.clone());
        tokio::select! {
            biased;
            died = deadly.died.acquire() => {
                died.unwrap().forget();
                deaths += 1;
            }
            done = dispatcher.drain(&w.ctx) => { done.unwrap(); }
        }
        w.pass(31);
    }
    assert_eq!(deaths, 3);
    for id in &ids {
        let entry = w.outreach().message(&w.ctx, *id).await.unwrap();
        if *id == ids[7] {
            // It was in a server's hands each time.
            assert_eq!(entry.state, OutboxState::Unknown);
            assert!(entry.last_error.unwrap().starts_with("poison"));
        } else {
            assert_eq!(entry.state, OutboxState::Sent, "{id}");
        }
    }
    let calls = deadly.calls.lock().unwrap().clone();
    let twice = calls.values().filter(|n| **n > 1).count();
    assert!(
        twice <= 10,
        "{twice} sent twice: only what was in flight at the first death"
    );
}

#[tokio::test]
async fn patience_with_what_is_being_sent_has_an_end() {
    let w = World::new().await;
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let (mail, campaign) = (
        w.enqueue(ana, "ana@example.org", receipt()).await,
        w.enqueue(ana, "ana@example.org", news()).await,
    );
    let held = Held::new("stuck", &w.clock);
    let settings = DispatchSettings {
        grace: Duration::from_millis(50),
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
    held.begun.acquire_many(2).await.unwrap().forget();
    stop.send(()).unwrap();
    let report = running.await.unwrap();
    assert_eq!((report.retried, report.unknown), (1, vec![campaign]));
    let entry = w.outreach().message(&w.ctx, mail).await.unwrap();
    assert_eq!((entry.state, entry.attempt), (OutboxState::Queued, 1));
    w.pass(60);
    let report = w.dispatcher().tick(&w.ctx).await.unwrap();
    assert_eq!((report.rescued, report.sent), (0, 1));
}

#[tokio::test]
async fn one_provider_in_trouble_stops_only_its_own_channel() {
    let p = super::Phones::new().await;
    let ana = p.customer(1).await;
    let refused = || Error::new(ErrorKind::Unauthenticated, "the account is closed");
    p.sms.fail_next(refused());
    let text = p
        .enqueue(crm_channels::Outgoing::sms(p.text(1), ana, super::code()))
        .await;
    p.w.enqueue(ana, "ana1@example.org", receipt()).await;
    let dispatcher = p.dispatcher(DispatchSettings::default());
    let report = dispatcher.tick(&p.w.ctx).await.unwrap();
    assert_eq!(
        (report.sent, report.paused),
        (1, Some(ErrorKind::Unauthenticated))
    );
    // For a while nobody is asked; mails go on.
    let second = p
        .enqueue(crm_channels::Outgoing::sms(p.text(1), ana, super::code()))
        .await;
    p.w.enqueue(ana, "ana1@example.org", receipt()).await;
    let report = dispatcher.tick(&p.w.ctx).await.unwrap();
    assert_eq!((report.sent, report.released), (1, 1));
    for id in [text, second] {
        let entry = p.w.outreach().message(&p.w.ctx, id).await.unwrap();
        assert_eq!((entry.state, entry.attempt), (OutboxState::Queued, 0));
    }
    p.w.pass(301);
    assert_eq!(dispatcher.tick(&p.w.ctx).await.unwrap().sent, 2);
}

#[tokio::test]
async fn the_last_ten_errors_are_kept() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    let id = w.enqueue(ana, "ana@example.org", receipt()).await;
    for n in 1..=16 {
        let message = format!("busy for the {n}th time");
        w.mailer.fail_next(Error::new(ErrorKind::Unavailable, message));
        w.dispatcher().tick(&w.ctx).await.unwrap();
        w.pass(7 * 3600);
    }
    let entry = w.outreach().message(&w.ctx, id).await.unwrap();
    assert_eq!((entry.state, entry.attempt), (OutboxState::Dead, 16));
    let attempts: Vec<i64> = entry.errors.iter().map(|e| e.attempt).collect();
    assert_eq!(attempts, (7..=16).collect::<Vec<_>>());
    assert!(entry.errors[9].error.contains("16th"));
    assert_eq!(entry.errors[0].provider.as_deref(), Some("mailer"));
}

#[tokio::test]
async fn what_is_begun_at_once_is_never_more_than_the_concurrency() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    for _ in 0..50 {
        w.enqueue(ana, "ana@example.org", receipt()).await;
    }
    let held = Held::new("slow", &w.clock);
    let settings = DispatchSettings {
        concurrency: 6,
        ..DispatchSettings::default()
    };
    let dispatcher = w.dispatcher_with(held.clone(), settings);
    let ctx = w.ctx.clone();
    let running = tokio::spawn(async move { dispatcher.drain(&ctx).await.unwrap() });
    for _ in 0..50 {
        held.begun.acquire().await.unwrap().forget();
        // Read from outside: the records themselves.
        let query = Query::new(Filter::eq("state", "leased")).limit(100);
        let leased = w.store.find(&w.ctx, &OUTBOX, &query).await.unwrap();
        let begun = leased
            .items
            .iter()
            .filter(|s| {
                s.record
                    .get("send_started_at")
                    .is_some_and(|at| *at != Value::Null)
            })
            .count();
        assert!((1..=6).contains(&begun), "{begun} may have been sent");
        held.go.add_permits(1);
    }
    assert_eq!(running.await.unwrap().sent, 50);
}
