//! A tenant with a hundred thousand messages that are due, and one with a single one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use open_crm::capability::{MailCapability, Mailer};
use open_crm::channels::{DispatchSettings, Outgoing};
use open_crm::message::{Email, Permitted, Receipt};
use open_crm::record::Write;
use open_crm::{Clock as _, Context, Health, Provider, ProviderInfo, Result, SystemClock};
use tokio::sync::Notify;

use super::worker::{fill, outreach, receipt};
use super::{Place, contact, fresh, mail, table};

const BACKLOG: usize = 100_000;
/// Enough for the check to see what is not fair.
const FEW: usize = 2_000;
/// The address of the one.
const ONE: usize = 999_999_999;

/// Counts what it gets, and tells after how many others the one came.
#[derive(Debug)]
struct Counter {
    info: ProviderInfo,
    others: AtomicUsize,
    before: AtomicUsize,
    came: Notify,
}

#[async_trait]
impl Provider for Counter {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Mailer for Counter {
    fn capability(&self) -> MailCapability {
        MailCapability::new(1 << 20, false, true)
    }
    async fn send(&self, _ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        if mail.message().to.address == super::address(ONE) {
            self.before
                .store(self.others.load(Ordering::SeqCst), Ordering::SeqCst);
            self.came.notify_one();
        } else {
            self.others.fetch_add(1, Ordering::SeqCst);
        }
        Ok(Receipt::new(
            self.info.name.clone(),
            mail.message().id.to_string(),
            SystemClock.now(),
        ))
    }
}

/// Whether so many that go before the one are few.
fn is_fair(place: usize, backlog: usize) -> bool {
    // What is begun, what is claimed, and what goes while the idle one rests a second.
    place < backlog / 5
}

/// A tenant with so many messages, each due a microsecond after the one before.
async fn backlog(big: &Place, messages: usize) {
    fill(big, 1, false).await;
    // The database itself makes the others: as the first one, each with an id of its own.
    let columns: Vec<String> = big.ask(&format!(
        "select column_name from information_schema.columns where table_name = '{}' and table_schema = current_schema() and column_name not in ('id', 'seq') and is_generated = 'NEVER' and is_identity = 'NO'",
        table()
    ));
    let columns = columns.join(", ");
    let values = columns.replace("run_at", "run_at - n");
    big.tell(&format!(
        "insert into {0} (id, {columns}) select gen_random_uuid(), {values} from {0}, generate_series(2, {messages}) as s (n) where tenant = $tenant",
        table()
    ));
    let due = format!(
        "select count(*) from {} where tenant = $tenant and state = 'queued'",
        table()
    );
    assert_eq!(big.ask(&due), [messages.to_string()]);
}

fn counter() -> Arc<Counter> {
    Arc::new(Counter {
        info: ProviderInfo::new("counter", "counter"),
        others: AtomicUsize::new(0),
        before: AtomicUsize::new(usize::MAX),
        came: Notify::new(),
    })
}

/// The message of the other tenant, and the customer's address.
fn one() -> (Outgoing, Vec<Write>) {
    let customer = fresh().into();
    let one = Outgoing::email(mail(ONE), customer, receipt());
    (one, vec![contact(customer, ONE)])
}

fn clear(place: &Place) {
    place.tell(&format!("delete from {} where tenant = $tenant", table()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_messages_of_one_tenant_hold_up_no_other() {
    let Some(big) = Place::server("OPEN_CRM_TEST_POSTGRES_URL") else {
        return;
    };
    let small = Place::new(&big.url);
    backlog(&big, BACKLOG).await;
    let counter = counter();
    let store = big.open().await;
    let outreach = outreach(store, counter.clone()).settings(DispatchSettings::default());

    // The other tenant comes when the first one's backlog is being worked on.
    let dispatcher = outreach.dispatcher().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let tenants = [big.ctx(), small.ctx()];
    let running = tokio::spawn(async move {
        dispatcher
            .run_all(&tenants, async { stopped.await.unwrap() })
            .await
            .unwrap()
    });
    while counter.others.load(Ordering::SeqCst) < 1000 {
        tokio::task::yield_now().await;
    }
    let (one, also) = one();
    outreach.enqueue(&small.ctx(), one, also).await.unwrap();
    let queued = counter.others.load(Ordering::SeqCst);
    counter.came.notified().await;
    stop.send(()).unwrap();
    let report = running.await.unwrap();
    let place = counter.before.load(Ordering::SeqCst) - queued;
    println!("{place} of {BACKLOG} went before it; {} sent in all", report.sent);
    assert!(is_fair(place, BACKLOG), "behind {place} others");
    assert_eq!(report.claimed, report.sent + report.released);
    let left = format!(
        "select count(*) from {} where tenant = $tenant and state = 'leased'",
        table()
    );
    assert_eq!(big.ask(&left), ["0"]);
    clear(&big);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenant_after_the_other_is_not_fair_and_that_shows() {
    let Some(big) = Place::server("OPEN_CRM_TEST_POSTGRES_URL") else {
        return;
    };
    let small = Place::new(&big.url);
    backlog(&big, FEW).await;
    let counter = counter();
    let store = big.open().await;
    let outreach = outreach(store, counter.clone()).settings(DispatchSettings::default());
    // It waits from the beginning, and still comes last.
    let (one, also) = one();
    outreach.enqueue(&small.ctx(), one, also).await.unwrap();
    let dispatcher = outreach.dispatcher().unwrap();
    for tenant in [&big, &small] {
        dispatcher.drain(&tenant.ctx()).await.unwrap();
    }
    let place = counter.before.load(Ordering::SeqCst);
    assert_eq!(place, FEW);
    assert!(!is_fair(place, FEW));
    clear(&big);
}
