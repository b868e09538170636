//! A store that takes its time: who opts out while it writes down that a message is begun, and what a dispatcher does whose
//! heartbeat is due while it writes down what became of one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crm_channels::{DispatchSettings, OUTBOX, OutboxState, TickReport};
use crm_core::capability::{RecordStore, StoreCapability};
use crm_core::message::MessageId;
use crm_core::query::{Aggregate, Claim, Filter, Page, Query, Scan};
use crm_core::record::{Outcome, Schema, Stored, Write};
use crm_core::table::Table;
use crm_core::{Context, Health, Provider, ProviderInfo, Result, Uuid};
use tokio::sync::Semaphore;

use crate::common::{World, email, evidence, news};

/// A store that waits before it makes certain writes.
struct Waiting {
    inner: Arc<dyn RecordStore>,
    before: fn(&Write) -> bool,
    reached: Semaphore,
    go: Semaphore,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiting")
    }
}

fn begins(write: &Write) -> bool {
    match write {
        Write::Update { record, .. } => {
            record.schema().name == OUTBOX.name
                && record.text("state").unwrap() == OutboxState::Leased.as_str()
                && record.get("send_started_at").is_some_and(|at| !at.is_null())
        }
        _ => false,
    }
}

fn ends(write: &Write) -> bool {
    match write {
        Write::Update { record, .. } => {
            record.schema().name == OUTBOX.name && record.text("state").unwrap() == OutboxState::Sent.as_str()
        }
        _ => false,
    }
}

#[async_trait]
impl Provider for Waiting {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }
    async fn check(&self) -> Result<Health> {
        self.inner.check().await
    }
}

#[async_trait]
impl RecordStore for Waiting {
    fn capability(&self) -> StoreCapability {
        self.inner.capability()
    }
    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        self.inner.migrate(schemas).await
    }
    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        if writes.iter().any(self.before) {
            self.reached.add_permits(1);
            self.go.acquire().await.unwrap().forget();
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

/// The opt-out is stored while the message is being marked as begun, which takes so long.
async fn opted_out_for(time: Duration) -> (World, MessageId, TickReport) {
    let mut w = World::new().await;
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let id = w.enqueue(ana, "ana@example.org", news()).await;
    let (plain, by_hand) = (w.store.clone(), w.outreach());
    let slow = Arc::new(Waiting {
        inner: plain.clone(),
        before: begins,
        reached: Semaphore::new(0),
        go: Semaphore::new(0),
    });
    w.store = slow.clone();
    let (dispatcher, ctx) = (
        w.dispatcher_with(w.mailer.clone(), DispatchSettings::default()),
        w.ctx.clone(),
    );
    let running = tokio::spawn(async move { dispatcher.tick(&ctx).await.unwrap() });
    slow.reached.acquire().await.unwrap().forget();
    let address = email("ana@example.org");
    by_hand
        .withdraw(&w.ctx, ana, &address, &news(), evidence())
        .await
        .unwrap();
    w.clock.advance(time);
    slow.go.add_permits(10);
    let report = running.await.unwrap();
    w.store = plain;
    (w, id, report)
}

#[tokio::test]
async fn who_opts_out_while_it_takes_long_to_begin_gets_nothing() {
    let (w, id, report) = opted_out_for(Duration::from_secs(2)).await;
    assert_eq!((report.refused, report.sent), (1, 0));
    assert!(w.mailer.sent().is_empty(), "nothing a second after the opt-out");
    let entry = w.outreach().message(&w.ctx, id).await.unwrap();
    assert_eq!(entry.state, OutboxState::Refused);
    let why = entry.last_error.unwrap();
    assert!(why.starts_with("consent"), "{why}");
    // Within the second it is one of those that were being handed over at that moment.
    let (w, _, report) = opted_out_for(Duration::from_millis(100)).await;
    assert_eq!((report.refused, report.sent), (0, 1));
    assert_eq!(w.mailer.sent().len(), 1);
}

/// The heartbeat comes due while the end of the only message is being written, and the time to look for more with it: then
/// nothing is in hand any more, and nothing else would ever wake the dispatcher.
#[tokio::test]
async fn a_heartbeat_with_nothing_in_hand_does_not_put_the_dispatcher_to_sleep() {
    let mut w = World::new().await;
    let ana = w.subscriber("Ana", "ana@example.org").await;
    let first = w.enqueue(ana, "ana@example.org", news()).await;
    let plain = w.store.clone();
    let slow = Arc::new(Waiting {
        inner: plain.clone(),
        before: ends,
        reached: Semaphore::new(0),
        go: Semaphore::new(0),
    });
    w.store = slow.clone();
    let settings = DispatchSettings {
        lease: Duration::from_millis(300),
        idle: Duration::from_millis(10),
        ..DispatchSettings::default()
    };
    let (dispatcher, ctx) = (w.dispatcher_with(w.mailer.clone(), settings), w.ctx.clone());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move {
        let stopped = async move { drop(stopped.await) };
        dispatcher.run(&ctx, stopped).await.unwrap()
    });
    slow.reached.acquire().await.unwrap().forget();
    // A heartbeat is due every 100 ms.
    tokio::time::sleep(Duration::from_millis(250)).await;
    slow.go.add_permits(10);
    w.store = plain;
    let second = w.enqueue(ana, "ana@example.org", news()).await;
    for _ in 0..1_000 {
        if w.state(second).await == OutboxState::Sent {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(w.state(first).await, OutboxState::Sent);
    assert_eq!(w.state(second).await, OutboxState::Sent, "the dispatcher went on");
    stop.send(()).unwrap();
    assert_eq!(running.await.unwrap().sent, 2);
}
