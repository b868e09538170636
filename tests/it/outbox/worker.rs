//! A process that works on an outbox until it is killed.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use open_crm::capability::{Mailer, RecordStore};
use open_crm::channels::{DispatchSettings, Mode, OUTBOX, Outgoing, Outreach};
use open_crm::consent::{Evidence, Purpose};
use open_crm::customer::Address;
use open_crm::message::MessageId;
use open_crm::query::{Assign, Claim, Filter};
use open_crm::record::{Entity as _, Write};
use open_crm::{Clock as _, Consumer, Registry, SystemClock};

use super::points::{self, Point};
use super::{Place, address, contact, fresh, key, mail};

const ROLE: &str = "OPEN_CRM_OUTBOX_ROLE";
const URL: &str = "OPEN_CRM_OUTBOX_URL";
const TENANT: &str = "OPEN_CRM_OUTBOX_TENANT";
const SMTP: &str = "OPEN_CRM_OUTBOX_SMTP";
/// Messages a worker has begun at the same time: so many may be in doubt when it is killed.
pub(super) const CONCURRENCY: usize = 8;
pub(super) const LEASE: Duration = Duration::from_secs(2);

pub(super) fn receipt() -> Purpose {
    Purpose::transactional("receipt").unwrap()
}

pub(super) fn news() -> Purpose {
    Purpose::marketing("news").unwrap()
}

pub(super) async fn mailer(smtp: &str) -> Arc<dyn Mailer> {
    let mut catalog = open_crm::registry::Catalog::new();
    open_crm::channels::register(&mut catalog);
    let url = format!("smtp://{smtp}?tls=dangerous-plaintext");
    catalog.open::<dyn Mailer>(&url).await.unwrap()
}

pub(super) fn outreach(store: Arc<dyn RecordStore>, mailer: Arc<dyn Mailer>) -> Outreach {
    let registry = Registry::builder()
        .provide::<dyn RecordStore>(0, store)
        .provide::<dyn Mailer>(0, mailer)
        .build()
        .unwrap();
    let settings = DispatchSettings {
        batch: 50,
        concurrency: CONCURRENCY,
        lease: LEASE,
        backoff_base: Duration::from_millis(100),
        idle: Duration::from_millis(100),
        ..DispatchSettings::default()
    };
    Outreach::bind(&registry)
        .unwrap()
        .address_key(key())
        .mode(Mode::Live)
        .settings(settings)
}

/// In a child process: does what its role says until it is killed, or until its standard input ends.
#[test]
fn worker() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let place = Place {
        url: std::env::var(URL).unwrap(),
        tenant: std::env::var(TENANT).unwrap(),
    };
    let smtp = std::env::var(SMTP).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut store = place.open_again().await;
        let mut mailer = mailer(&smtp).await;
        if let Some(point) = Point::parse(&role) {
            (store, mailer) = points::trapped(point, store, mailer);
        }
        let outreach = outreach(store.clone(), mailer);
        if role == "forgetful" {
            return forget(&place, &*store, &outreach, &smtp).await;
        }
        let (stop, stopped) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = stop.send(());
        });
        let dispatcher = outreach.dispatcher().unwrap();
        let report = dispatcher
            .run(&place.ctx(), async {
                let _ = stopped.await;
            })
            .await
            .unwrap();
        println!("sent={} lease_lost={}", report.sent, report.lease_lost);
    });
}

/// What not to do: a message is called sent, and sent then.
async fn forget(place: &Place, store: &dyn RecordStore, outreach: &Outreach, smtp: &str) {
    let mailer = mailer(smtp).await;
    loop {
        let claim = Claim {
            due: Filter::eq("state", "queued"),
            order: Vec::new(),
            limit: 20,
            assign: vec![Assign::Set("state", "sent".into())],
        };
        let claimed = store.claim(&place.ctx(), &OUTBOX, &claim).await.unwrap();
        if claimed.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for stored in claimed {
            let json = stored.record.get("message").unwrap().as_json().unwrap().clone();
            let email: open_crm::message::Email = serde_json::from_value(json).unwrap();
            let customer = stored.record.uuid("customer_id").unwrap().into();
            let gate = outreach.gate().unwrap();
            if let Ok(permitted) = gate.permit(&place.ctx(), email, &receipt(), customer).await {
                let _ = mailer.send(&place.ctx(), &permitted).await;
            }
        }
    }
}

pub(super) fn start(place: &Place, role: &str, smtp: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "outbox::worker::worker",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROLE, role)
        .env(URL, &place.url)
        .env(TENANT, &place.tenant)
        .env(SMTP, smtp)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Queues as many messages: receipts, and every second one a piece of news when `both`.
pub(super) async fn fill(place: &Place, count: usize, both: bool) -> Vec<MessageId> {
    let store = place.open().await;
    let outreach = outreach(store.clone(), mailer("127.0.0.1:9").await);
    let gate = outreach.gate().unwrap();
    let now = store.now().await.unwrap().unwrap_or_else(|| SystemClock.now());
    let (mut ids, mut writes) = (Vec::new(), Vec::new());
    for n in 0..count {
        let customer = fresh().into();
        writes.push(contact(customer, n));
        let purpose = if both && n % 2 == 0 { news() } else { receipt() };
        if purpose == news() {
            let evidence = Evidence::new("form", "Yes").unwrap();
            let email = Address::Email(address(n));
            let action = open_crm::consent::ConsentAction::Granted;
            let event = gate.event(customer, &email, &news(), action, evidence).unwrap();
            writes.push(Write::insert(event.id, event.to_record().unwrap()));
        }
        let outgoing = Outgoing::email(mail(n), customer, purpose);
        writes.push(outgoing.write(now).unwrap());
        ids.push(outgoing.id());
        if writes.len() > 500 || n + 1 == count {
            store
                .apply(&place.ctx(), &std::mem::take(&mut writes))
                .await
                .unwrap();
        }
    }
    ids
}
