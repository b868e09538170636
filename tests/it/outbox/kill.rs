//! Workers that are killed, and one that is frozen.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use open_crm::capability::{Mailer, RecordStore};
use open_crm::channels::{DispatchSettings, Mode, OUTBOX, Outgoing, Outreach};
use open_crm::consent::{Evidence, Purpose};
use open_crm::customer::Address;
use open_crm::message::MessageId;
use open_crm::query::{Assign, Claim, Filter};
use open_crm::{Consumer, Registry};

use super::{Place, address, contact, fresh, key, mail, skipped, table};

const ROLE: &str = "OPEN_CRM_OUTBOX_ROLE";
const URL: &str = "OPEN_CRM_OUTBOX_URL";
const TENANT: &str = "OPEN_CRM_OUTBOX_TENANT";
const SMTP: &str = "OPEN_CRM_OUTBOX_SMTP";
/// Messages a worker has begun at the same time: so many may be in doubt when it is killed.
const CONCURRENCY: usize = 8;
const LEASE: Duration = Duration::from_secs(2);

fn receipt() -> Purpose {
    Purpose::transactional("receipt").unwrap()
}

fn news() -> Purpose {
    Purpose::marketing("news").unwrap()
}

async fn outreach(store: Arc<dyn RecordStore>, smtp: &str) -> Outreach {
    let mut catalog = open_crm::registry::Catalog::new();
    open_crm::channels::register(&mut catalog);
    let url = format!("smtp://{smtp}?tls=dangerous-plaintext");
    let mailer = catalog.open::<dyn Mailer>(&url).await.unwrap();
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
        let store = place.open().await;
        let outreach = outreach(store.clone(), &smtp).await;
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
    let mut catalog = open_crm::registry::Catalog::new();
    open_crm::channels::register(&mut catalog);
    let url = format!("smtp://{smtp}?tls=dangerous-plaintext");
    let mailer = catalog.open::<dyn Mailer>(&url).await.unwrap();
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

fn start(place: &Place, role: &str, smtp: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "outbox::kill::worker",
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

/// Postfix' sink, which writes every message into a file of its own.
struct Sink {
    child: Child,
    folder: tempfile::TempDir,
    at: String,
}

impl Sink {
    fn start() -> Option<Self> {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let program = ["/usr/sbin/smtp-sink", "/usr/bin/smtp-sink"]
            .into_iter()
            .find(|program| Path::new(program).exists());
        let Some(program) = program else {
            skipped("smtp-sink is not installed; it comes with Postfix (scripts/services up postfix)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = free.local_addr().unwrap().to_string();
        drop(free);
        let mut command = Command::new(program);
        if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
            command.args(["-u", "nobody"]);
        }
        command.arg("-d");
        let child = command
            .arg(folder.path().join("mail."))
            .args([&at, "256"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let sink = Self { child, folder, at };
        for _ in 0..200 {
            if TcpStream::connect(&sink.at).is_ok() {
                return Some(sink);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("smtp-sink does not answer");
    }

    /// How often each message is there, by its id without hyphens.
    fn mails(&self) -> BTreeMap<String, usize> {
        let mut mails = BTreeMap::new();
        for entry in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
            let text = String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned();
            // A file whose message was cut off has no end: the sink writes as it reads.
            let id = text
                .lines()
                .find_map(|line| line.strip_prefix("Message-ID: <"))
                .and_then(|rest| rest.split_once('@'));
            if let Some((id, _)) = id {
                *mails.entry(id.replace('-', "")).or_insert(0) += 1;
            }
        }
        mails
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Queues as many receipts, and as many pieces of news when `both`.
async fn fill(place: &Place, count: usize, both: bool) -> Vec<MessageId> {
    let store = place.open().await;
    let outreach = outreach(store.clone(), "127.0.0.1:9").await;
    let mut ids = Vec::new();
    for n in 0..count {
        let customer = fresh().into();
        let purpose = if both && n % 2 == 0 { news() } else { receipt() };
        let mut also = vec![contact(customer, n)];
        if purpose == news() {
            let gate = outreach.gate().unwrap();
            let evidence = Evidence::new("form", "Yes").unwrap();
            let email = Address::Email(address(n));
            let action = open_crm::consent::ConsentAction::Granted;
            let event = gate.event(customer, &email, &news(), action, evidence).unwrap();
            use open_crm::record::Entity as _;
            also.push(open_crm::record::Write::insert(
                event.id,
                event.to_record().unwrap(),
            ));
        }
        let outgoing = Outgoing::email(mail(n), customer, purpose);
        ids.push(outreach.enqueue(&place.ctx(), outgoing, also).await.unwrap());
    }
    ids
}

/// Kills one of some workers again and again, starting another one, until there is nothing left to do; then stops them.
fn kill_again_and_again(place: &Place, sink: &Sink, role: &str, kills: usize) {
    let mut workers: Vec<Child> = (0..3).map(|_| start(place, role, &sink.at)).collect();
    let open = format!(
        "select count(*) from {} where tenant = $tenant and state in ('queued', 'leased')",
        table()
    );
    for kill in 0..kills {
        std::thread::sleep(Duration::from_millis(350 + 37 * (kill as u64 % 7)));
        let n = kill % workers.len();
        workers[n].kill().unwrap(); // SIGKILL
        workers[n].wait().unwrap();
        workers[n] = start(place, role, &sink.at);
    }
    let mut patience = 600;
    while place.ask(&open) != ["0"] {
        assert!(patience > 0, "not done: {:?}", place.ask(&open));
        std::thread::sleep(Duration::from_millis(100));
        patience -= 1;
    }
    for mut worker in workers {
        if role == "forgetful" {
            worker.kill().unwrap();
        }
        drop(worker.stdin.take());
        worker.wait().unwrap();
    }
}

/// What the database says about each message: the id without hyphens, its state, its class, its crashes.
fn states(place: &Place) -> BTreeMap<String, (String, bool, i64)> {
    let sql = format!(
        "select replace(cast(id as text), '-', ''), state, cast(purpose as text), crash_count from {} where tenant = $tenant",
        table()
    );
    place
        .ask(&sql)
        .iter()
        .map(|row| {
            let columns: Vec<&str> = row.split('\t').collect();
            let marketing = columns[2].contains("marketing");
            (
                columns[0].to_owned(),
                (columns[1].to_owned(), marketing, columns[3].parse().unwrap()),
            )
        })
        .collect()
}

#[tokio::test]
async fn killed_workers_lose_nothing_and_double_only_what_was_in_their_hands() {
    let Some(place) = Place::server("OPEN_CRM_TEST_POSTGRES_URL") else {
        return;
    };
    let Some(sink) = Sink::start() else {
        return;
    };
    const KILLS: usize = 20;
    let ids = fill(&place, 3000, true).await;
    kill_again_and_again(&place, &sink, "worker", KILLS);

    let (states, mails) = (states(&place), sink.mails());
    assert_eq!(states.len(), ids.len());
    let of = |wanted: &str| states.values().filter(|(state, ..)| state == wanted).count();
    let (sent, unknown) = (of("sent"), of("unknown"));
    assert_eq!(sent + unknown, ids.len(), "every message has one end");
    for (id, (state, marketing, crashes)) in &states {
        let times = mails.get(id).copied().unwrap_or(0);
        if state == "sent" {
            assert!(
                times >= 1,
                "{id} is said to be sent, but the sink does not have it"
            );
        } else {
            // What may be repeated is left in doubt only when it seems to have taken three workers down.
            assert!(*marketing || *crashes >= 3, "{id}: {crashes} crashes");
        }
        if *marketing {
            assert!(times <= 1, "{id} was sent {times} times");
        }
    }
    assert!(mails.keys().all(|id| states.contains_key(id)));
    let doubled: usize = mails.values().map(|times| times - 1).sum();
    let most = KILLS * CONCURRENCY;
    assert!(
        doubled <= most && unknown <= most,
        "{doubled} twice, {unknown} in doubt"
    );
    // The kills hit: somebody died with messages, and others took them over.
    let rescued = states.values().filter(|(_, _, crashes)| *crashes > 0).count();
    assert!(rescued + unknown > 0, "no kill hit");
}

#[tokio::test]
async fn a_worker_that_says_sent_first_loses_messages_and_that_shows() {
    let Some(place) = Place::server("OPEN_CRM_TEST_POSTGRES_URL") else {
        return;
    };
    let Some(sink) = Sink::start() else {
        return;
    };
    fill(&place, 1500, false).await;
    kill_again_and_again(&place, &sink, "forgetful", 6);
    let (states, mails) = (states(&place), sink.mails());
    let lost = states
        .iter()
        .filter(|(id, (state, ..))| state == "sent" && !mails.contains_key(*id))
        .count();
    assert!(lost > 0, "nothing was lost: this way of looking finds nothing");
}

/// A mail server that takes one message and keeps the answer back until it is told.
fn silent() -> (SocketAddr, Receiver<()>, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let ((has, got), (go, may)) = (channel(), channel());
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let say = |text: &str| (&stream).write_all(text.as_bytes()).unwrap();
        say("220 silent\r\n");
        let mut data = false;
        while let Some(Ok(line)) = lines.next() {
            match (data, line.as_str()) {
                (true, ".") => {
                    has.send(()).unwrap();
                    let () = may.recv().unwrap();
                    data = false;
                    say("250 2.0.0 taken\r\n");
                }
                (true, _) => {}
                (false, "DATA") => {
                    data = true;
                    say("354 go on\r\n");
                }
                (false, line) if line.starts_with("EHLO") => say("250-silent\r\n250 8BITMIME\r\n"),
                (false, line) if line.starts_with("QUIT") => say("221 bye\r\n"),
                (false, _) => say("250 2.0.0 ok\r\n"),
            }
        }
    });
    (at, got, go)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_frozen_cannot_complete_what_another_one_has_done() {
    let Some(place) = Place::server("OPEN_CRM_TEST_POSTGRES_URL") else {
        return;
    };
    let Some(sink) = Sink::start() else {
        return;
    };
    let id = fill(&place, 1, false).await[0];
    let (silent, got, go) = silent();
    let signal = |child: &Child, name: &str| {
        let done = Command::new("kill")
            .args([name, &child.id().to_string()])
            .status();
        assert!(done.unwrap().success());
    };
    let mut frozen = start(&place, "worker", &silent.to_string());
    got.recv_timeout(Duration::from_secs(20)).unwrap();
    // It has handed the message over and waits for the answer; now it hears nothing any more.
    signal(&frozen, "-STOP");
    let mut other = start(&place, "worker", &sink.at);
    let state = format!("select state from {} where tenant = $tenant", table());
    let mut patience = 200;
    while place.ask(&state) != ["sent"] {
        assert!(patience > 0, "{:?}", place.ask(&state));
        std::thread::sleep(Duration::from_millis(50));
        patience -= 1;
    }
    let before = place.ask(&format!("select * from {} where tenant = $tenant", table()));
    go.send(()).unwrap();
    signal(&frozen, "-CONT");
    let mut told = String::new();
    for worker in [&mut frozen, &mut other] {
        std::thread::sleep(Duration::from_millis(500));
        drop(worker.stdin.take());
        let mut out = worker.stdout.take().unwrap();
        out.read_to_string(&mut told).unwrap();
        worker.wait().unwrap();
    }
    assert!(
        told.contains("sent=0 lease_lost=1"),
        "the first one is told: {told}"
    );
    assert!(told.contains("sent=1 lease_lost=0"), "{told}");
    assert_eq!(
        place.ask(&format!("select * from {} where tenant = $tenant", table())),
        before,
        "nothing was overwritten"
    );
    let news = "select kind from crm_interaction where tenant = $tenant";
    assert_eq!(place.ask(news), ["mail.accepted"], "one completion");
    // The recipient's system sees the same name twice.
    assert_eq!(sink.mails().get(&id.to_string().replace('-', "")), Some(&1));
}
