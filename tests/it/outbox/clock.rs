//! Machines whose clocks are an hour off.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use open_crm::capability::{MailCapability, Mailer, RecordStore};
use open_crm::channels::{DispatchSettings, Dispatcher, Mode, Outgoing, Outreach};
use open_crm::consent::Purpose;
use open_crm::message::{Email, Permitted, Receipt};
use open_crm::{
    Clock, Consumer, Context, Health, Provider, ProviderInfo, Registry, Result, SystemClock, Timestamp,
};
use tokio::sync::Semaphore;

use super::{Place, contact, fresh, key, mail};

const HOUR: Duration = Duration::from_secs(3600);

/// A clock that is off.
#[derive(Debug)]
struct Off {
    ahead: bool,
}

impl Clock for Off {
    fn now(&self) -> Timestamp {
        match self.ahead {
            true => SystemClock.now().plus(HOUR),
            false => SystemClock.now().minus(HOUR),
        }
    }
}

/// A mailer that says when it has a message, and answers when it is told to.
#[derive(Debug)]
struct Slow {
    info: ProviderInfo,
    has: Semaphore,
    go: Semaphore,
}

#[async_trait]
impl Provider for Slow {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Mailer for Slow {
    fn capability(&self) -> MailCapability {
        MailCapability::new(1 << 20, false, true)
    }
    async fn send(&self, _ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        self.has.add_permits(1);
        self.go.acquire().await.unwrap().forget();
        let id = mail.message().id.to_string();
        Ok(Receipt::new(self.info.name.clone(), id, SystemClock.now()))
    }
}

fn mailer(go: usize) -> Arc<Slow> {
    Arc::new(Slow {
        info: ProviderInfo::new("slow", "slow"),
        has: Semaphore::new(0),
        go: Semaphore::new(go),
    })
}

fn outreach(store: &Arc<dyn RecordStore>, mailer: &Arc<Slow>, clock: Arc<dyn Clock>) -> Outreach {
    let registry = Registry::builder()
        .provide::<dyn RecordStore>(0, store.clone())
        .provide::<dyn Mailer>(0, mailer.clone())
        .build()
        .unwrap();
    Outreach::bind(&registry)
        .unwrap()
        .with_clock(clock)
        .address_key(key())
        .mode(Mode::Live)
        .settings(DispatchSettings::default())
}

fn dispatcher(store: &Arc<dyn RecordStore>, mailer: &Arc<Slow>, clock: Arc<dyn Clock>) -> Dispatcher {
    outreach(store, mailer, clock).dispatcher().unwrap()
}

async fn queue(place: &Place, outreach: &Outreach, n: usize, not_before: Option<Timestamp>) {
    let customer = fresh().into();
    let purpose = Purpose::transactional("receipt").unwrap();
    let mut outgoing = Outgoing::email(mail(n), customer, purpose);
    if let Some(at) = not_before {
        outgoing = outgoing.not_before(at);
    }
    let also = vec![contact(customer, n)];
    outreach.enqueue(&place.ctx(), outgoing, also).await.unwrap();
}

/// What a machine with a clock an hour ahead takes over or sends early, and what one that is behind leaves lying.
async fn mistakes(place: &Place) -> [u64; 3] {
    let store = place.open().await;
    let ctx = place.ctx();
    let (slow, quick) = (mailer(0), mailer(100));
    let right = outreach(&store, &slow, SystemClock::shared());
    queue(place, &right, 1, None).await;
    let first = right.dispatcher().unwrap();
    let (running, going) = (first.clone(), ctx.clone());
    let running = tokio::spawn(async move { running.tick(&going).await.unwrap() });
    slow.has.acquire().await.unwrap().forget();
    // One is being sent, another one is for later.
    queue(place, &right, 2, Some(SystemClock.now().plus(HOUR / 2))).await;
    let ahead = dispatcher(&store, &quick, Arc::new(Off { ahead: true }));
    let report = ahead.tick(&ctx).await.unwrap();
    let (rescued, early) = (report.rescued, report.claimed - report.rescued);
    slow.go.add_permits(1);
    running.await.unwrap();
    // Queued by a machine that is ahead, for now; the one that is behind is to send it.
    let hasty = outreach(&store, &quick, Arc::new(Off { ahead: true }));
    queue(place, &hasty, 3, None).await;
    let behind = dispatcher(&store, &quick, Arc::new(Off { ahead: false }));
    let late = 1 - behind.tick(&ctx).await.unwrap().sent;
    [rescued, early, late]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_off_do_no_harm_where_the_store_has_one() {
    for variable in [
        "OPEN_CRM_TEST_POSTGRES_URL",
        "OPEN_CRM_TEST_MYSQL_URL",
        #[cfg(feature = "mongodb")]
        "OPEN_CRM_TEST_MONGODB_URL",
    ] {
        if let Some(place) = Place::server(variable) {
            assert_eq!(mistakes(&place).await, [0, 0, 0], "{variable}");
        }
    }
    // A file is used on one machine, which has one clock; with three, all of it would go wrong.
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(mistakes(&Place::file(folder.path())).await, [1, 1, 1]);
}
