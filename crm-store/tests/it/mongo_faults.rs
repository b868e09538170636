//! What MongoDB's store promises under fire: ordered failures, deadlines, dropped calls, a server without transactions,
//! and one that is killed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::query::{Assign, Claim, Filter, Query, Relation};
use crm_core::record::{Field, FieldType, Record, Schema, Write};
use crm_core::testkit::fixtures::{self, Dice};
use crm_core::{Clock, Context, Effect, Error, ErrorKind, Provider, Result, Retry, SystemClock};
use crm_store::mongo::{MongoConfig, MongoStore};
use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection, Database};
use tempfile::TempDir;

use crate::mongo::{Scratch, note, note_schema, patient, url};
use crate::stores::skipped;

/// Orders failures of the commands of one application name: those of other tests are left alone.
struct Orders {
    admin: Database,
    app: String,
}

impl Orders {
    async fn of(scratch: &Scratch, app: &str) -> Self {
        Self {
            admin: scratch.raw().await.client().database("admin"),
            app: app.to_owned(),
        }
    }

    /// `times` is how often; always when `None`.
    async fn fail(&self, times: Option<i32>, mut how: Document) {
        let mode = times.map_or(Bson::from("alwaysOn"), |times| doc! { "times": times }.into());
        how.insert("appName", &self.app);
        let order = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": how };
        self.admin.run_command(order).await.unwrap();
    }

    async fn stop(&self) {
        let order = doc! { "configureFailPoint": "failCommand", "mode": "off" };
        self.admin.run_command(order).await.unwrap();
    }
}

fn pair(name: &str) -> [Write; 2] {
    ["left", "right"].map(|side| Write::insert(fixtures::id(), note(&format!("{name} {side}"))))
}

/// How many of a name's notes are there, by a connection of its own.
async fn there(notes: &Collection<Document>, name: &str) -> u64 {
    let filter = doc! { "text": { "$regex": format!("^{name}( |$)") } };
    notes.count_documents(filter).await.unwrap()
}

fn said(error: &Error) -> (ErrorKind, Effect) {
    (error.kind(), error.effect())
}

/// One test, because the server keeps one order at a time.
#[tokio::test]
async fn ordered_failures_are_healed_or_told() {
    let Some(url) = url() else { return };
    let app = format!("crm-faults-{}", std::process::id());
    // An ordered failure changes nothing that the server would tell by itself, so it is asked often.
    let often = "serverMonitoringMode=poll&heartbeatFrequencyMS=500";
    let scratch = Scratch::new(format!("{url}&appName={app}&{often}"));
    let config = MongoConfig::default().wait(Duration::from_secs(2));
    let store = scratch.open(config).await;
    store.migrate(&[note_schema()]).await.unwrap();
    let ctx = fixtures::context();
    let plain = Scratch {
        url,
        name: scratch.name.clone(),
    };
    let notes = plain.raw().await.collection::<Document>("note");
    let orders = Orders::of(&plain, &app).await;
    let two = |name: &'static str| {
        let (store, ctx) = (&store, &ctx);
        async move { store.apply(ctx, &pair(name)).await }
    };
    let one = |name: &'static str| {
        let (store, ctx) = (&store, &ctx);
        async move {
            store
                .apply(ctx, &[Write::insert(fixtures::id(), note(name))])
                .await
        }
    };
    let closed = |command: &str| doc! { "failCommands": [command], "closeConnection": true };

    // The primary steps down while the first write of a transaction is on its way: begun again.
    let stepping_down =
        doc! { "failCommands": ["insert"], "errorCode": 10107, "errorLabels": ["TransientTransactionError"] };
    orders.fail(Some(1), stepping_down).await;
    two("healed").await.unwrap();
    assert_eq!(there(&notes, "healed").await, 2);

    // Another transaction is in the way, more often than the driver or five tries would bear.
    let in_the_way =
        doc! { "failCommands": ["insert"], "errorCode": 112, "errorLabels": ["TransientTransactionError"] };
    orders.fail(Some(8), in_the_way.clone()).await;
    two("patient").await.unwrap();
    assert_eq!(there(&notes, "patient").await, 2);
    orders.fail(None, in_the_way).await;
    let error = two("impatient").await.unwrap_err();
    orders.stop().await;
    assert_eq!(
        (said(&error), error.retry()),
        ((ErrorKind::Unavailable, Effect::None), Retry::Exhausted),
        "{error}"
    );
    assert_eq!(there(&notes, "impatient").await, 0);

    // The answer to a commit is lost twice; the driver asks again once, the store goes on asking.
    orders.fail(Some(2), closed("commitTransaction")).await;
    two("asked").await.unwrap();
    assert_eq!(there(&notes, "asked").await, 2);
    // The control: with the driver alone, the same order is an error.
    orders.fail(Some(2), closed("commitTransaction")).await;
    let bare = scratch.raw().await;
    let mut session = bare.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let other = bare.collection::<Document>("note");
    other
        .insert_one(doc! { "text": "bare" })
        .session(&mut session)
        .await
        .unwrap();
    assert!(session.commit_transaction().await.is_err());
    orders.stop().await;
    // Asked once more it ends; left open, it would hold its locks for a minute.
    session.commit_transaction().await.unwrap();

    // It stays lost: it may have happened. Here it did not ..
    orders.fail(None, closed("commitTransaction")).await;
    let error = two("lost").await.unwrap_err();
    orders.stop().await;
    assert_eq!(error.effect(), Effect::Unknown, "{error}");
    assert!(!error.is_retryable());
    assert_eq!(there(&notes, "lost").await, 0);
    // .. and here it did, though the majority was never heard of.
    let unconfirmed = doc! { "failCommands": ["commitTransaction"], "writeConcernError": { "code": 64, "errmsg": "ordered" } };
    orders.fail(None, unconfirmed).await;
    let error = two("unconfirmed").await.unwrap_err();
    orders.stop().await;
    assert_eq!(error.effect(), Effect::Unknown, "{error}");
    assert_eq!(there(&notes, "unconfirmed").await, 2);

    // A single write: sent again under its number, and written once.
    orders.fail(Some(1), closed("insert")).await;
    one("again").await.unwrap();
    assert_eq!(there(&notes, "again").await, 1);
    // The control: without numbers the same order is an error.
    let mut options = ClientOptions::parse(&scratch.url).await.unwrap();
    options.retry_writes = Some(false);
    let careless = Client::with_options(options).unwrap().database(&scratch.name);
    orders.fail(Some(1), closed("insert")).await;
    let careless = careless.collection::<Document>("other");
    assert!(careless.insert_one(doc! {}).await.is_err());
    orders.fail(None, closed("insert")).await;
    let error = one("silent").await.unwrap_err();
    orders.stop().await;
    assert_eq!(said(&error), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
    // No primary, said by the server: nothing happened.
    orders
        .fail(None, doc! { "failCommands": ["insert"], "errorCode": 10107 })
        .await;
    let error = one("headless").await.unwrap_err();
    orders.stop().await;
    assert_eq!(said(&error), (ErrorKind::Unavailable, Effect::None), "{error}");
    assert!(error.is_retryable());
    assert_eq!(there(&notes, "headless").await, 0);

    // A read is asked again once; then it is told, and may be asked again.
    let all = Query::new(Filter::All);
    orders.fail(Some(1), closed("aggregate")).await;
    assert!(
        !store
            .find(&ctx, note_schema(), &all)
            .await
            .unwrap()
            .items
            .is_empty()
    );
    orders.fail(None, closed("aggregate")).await;
    let error = store.find(&ctx, note_schema(), &all).await.unwrap_err();
    orders.stop().await;
    assert_eq!(said(&error), (ErrorKind::Unavailable, Effect::None), "{error}");
    assert!(error.is_retryable());

    // The server's own time limit, and what a user may not do.
    for (code, kind) in [
        (50, ErrorKind::Timeout),
        (13, ErrorKind::PermissionDenied),
        (14031, ErrorKind::Unavailable),
    ] {
        let ordered = doc! { "failCommands": ["aggregate", "insert"], "errorCode": code };
        orders.fail(None, ordered).await;
        let read = store.find(&ctx, note_schema(), &all).await.unwrap_err();
        let written = two("never").await.unwrap_err();
        orders.stop().await;
        assert_eq!(said(&read), (kind, Effect::None), "{read}");
        assert_eq!(said(&written), (kind, Effect::None), "{written}");
    }
    assert_eq!(there(&notes, "never").await, 0);
    two("after").await.unwrap();
    assert_eq!(there(&notes, "after").await, 2);
}

static OWNER: Schema = Schema {
    name: "owner",
    fields: &[Field::new("n", FieldType::Int)],
    indexes: &[],
};
/// Without an index on its key: every look at it reads all of it.
static OWNED: Schema = Schema {
    name: "owned",
    fields: &[Field::new("owner_id", FieldType::Uuid)],
    indexes: &[],
};

/// Operations that the server works on for an application, leaving out what waits for the next command.
async fn working(admin: &Database, app: &str) -> usize {
    let stages = [
        doc! { "$currentOp": { "allUsers": true } },
        doc! { "$match": { "appName": app, "active": true, "command.aggregate": "owner" } },
    ];
    let found: Vec<Document> = admin
        .aggregate(stages)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    found.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_stops_at_the_deadline() {
    let Some(url) = url() else { return };
    let app = format!("crm-deadline-{}", std::process::id());
    let scratch = Scratch::new(format!("{url}&appName={app}"));
    let store = Arc::new(scratch.open(patient()).await);
    store.migrate(&[&OWNER, &OWNED]).await.unwrap();
    let ctx = fixtures::context();
    let writes: Vec<Write> = (0..6000)
        .map(|n| match n % 2 {
            0 => Write::insert(fixtures::id(), Record::new(&OWNER).with("n", n).unwrap()),
            _ => Write::insert(
                fixtures::id(),
                Record::new(&OWNED).with("owner_id", fixtures::id()).unwrap(),
            ),
        })
        .collect();
    let (owners, owned): (Vec<Write>, Vec<Write>) = writes
        .into_iter()
        .partition(|write| write.schema().name == "owner");
    store.apply(&ctx, &owners).await.unwrap();
    store.apply(&ctx, &owned).await.unwrap();
    let slow = Filter::at_least(1, Relation::new(&OWNED, "owner_id"), Filter::All);
    let plain = Scratch {
        url,
        name: scratch.name.clone(),
    };
    let admin = plain.raw().await.client().database("admin");

    // The control: without a deadline the server works on it long after.
    let endless = tokio::spawn({
        let (store, ctx, slow) = (store.clone(), ctx.clone(), slow.clone());
        async move { store.count(&ctx, &OWNER, &slow).await }
    });
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(working(&admin, &app).await, 1);
    endless.abort();

    let now = SystemClock.now();
    let hurried = ctx.clone().deadline(now.plus(Duration::from_millis(500)));
    let error = store.count(&hurried, &OWNER, &slow).await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::Timeout, Effect::None), "{error}");
    let mut looks = 0;
    while working(&admin, &app).await > 0 {
        looks += 1;
        assert!(looks < 100, "the server still works on what nobody waits for");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What has passed is not begun.
    let late = ctx.clone().deadline(now);
    for error in [
        store.count(&late, &OWNER, &Filter::All).await.unwrap_err(),
        store.apply(&late, &owners[..1]).await.unwrap_err(),
    ] {
        assert_eq!(said(&error), (ErrorKind::Timeout, Effect::None), "{error}");
    }
    let leisurely = ctx.deadline(SystemClock.now().plus(Duration::from_secs(600)));
    assert_eq!(store.count(&leisurely, &OWNER, &Filter::All).await.unwrap(), 3000);
}

/// A place that is not free in time is told, not waited for without end.
#[tokio::test]
async fn a_busy_store_says_so() {
    let Some(url) = url() else { return };
    let scratch = Scratch::new(url);
    let config = MongoConfig::default()
        .connections(1)
        .wait(Duration::from_millis(200));
    let store = Arc::new(scratch.open(config).await);
    store.migrate(&[note_schema()]).await.unwrap();
    let ctx = fixtures::context();
    let mut scan = crm_core::query::Scan::new(Filter::All, ["text"]);
    scan.chunk_rows = 1;
    store.apply(&ctx, &pair("held")).await.unwrap();
    // 50 calls on one connection: each gets its turn or is told.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (store, ctx) = (store.clone(), ctx.clone());
        tasks.spawn(async move { store.count(&ctx, note_schema(), &Filter::All).await });
    }
    let mut counted = 0;
    while let Some(done) = tasks.join_next().await {
        match done.unwrap() {
            Ok(n) => {
                assert_eq!(n, 2);
                counted += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
    }
    assert!(counted > 0);
    // A scan's taker may use the store: no connection is held while it works.
    let mut chunks = 0;
    store
        .scan(&ctx, note_schema(), &scan, &mut |_| {
            chunks += 1;
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(chunks, 2);
}

/// Transactions of an application that are open on the server, also while no command of theirs runs.
async fn open_transactions(admin: &Database, app: &str) -> usize {
    let stages = [
        doc! { "$currentOp": { "allUsers": true, "idleSessions": true } },
        doc! { "$match": { "appName": app, "transaction": { "$exists": true } } },
    ];
    let found: Vec<Document> = admin
        .aggregate(stages)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    found.len()
}

/// Two thousand calls dropped at any moment: nothing stays open, nothing is half done, everything works afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_calls_leave_nothing_open() {
    let Some(url) = url() else { return };
    let app = format!("crm-dropped-{}", std::process::id());
    let scratch = Scratch::new(format!("{url}&appName={app}"));
    let store = Arc::new(scratch.open(patient()).await);
    store.migrate(&[note_schema()]).await.unwrap();
    let ctx = fixtures::context();
    let plain = Scratch {
        url,
        name: scratch.name.clone(),
    };
    let admin = plain.raw().await.client().database("admin");

    // The control: a transaction that nobody ends shows.
    let bare = scratch.raw().await;
    let mut session = bare.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let other = bare.collection::<Document>("other");
    other.insert_one(doc! {}).session(&mut session).await.unwrap();
    assert_eq!(open_transactions(&admin, &app).await, 1);
    session.abort_transaction().await.unwrap();

    let mut dice = Dice::new(3);
    let mut dropped = 0;
    // How long a call gets, at most: follows the machine, so that about half of them are dropped.
    let mut most = Duration::from_millis(3);
    for round in 0..2000 {
        let limit = most.mul_f64(dice.below(1000) as f64 / 1000.0);
        let claim = Claim {
            due: Filter::eq("stars", 1_i64),
            order: vec![],
            limit: 3,
            assign: vec![Assign::Add("stars", 0)],
        };
        let writes = pair(&format!("r{round}"));
        let call = async {
            match round % 4 {
                0 | 1 => store.apply(&ctx, &writes).await.map(|_| ()),
                2 => store.claim(&ctx, note_schema(), &claim).await.map(|_| ()),
                _ => store
                    .find(&ctx, note_schema(), &Query::new(Filter::All))
                    .await
                    .map(|_| ()),
            }
        };
        match tokio::time::timeout(limit, call).await {
            Ok(done) => {
                done.unwrap();
                most = most.mul_f64(0.98);
            }
            Err(_) => {
                dropped += 1;
                most = (most.mul_f64(1.02)).max(Duration::from_micros(100));
            }
        }
    }
    assert!((400..1900).contains(&dropped), "{dropped} of 2000 were dropped");
    // The next calls end what was left: at once, and again what a late command opened after that.
    let mut looks = 0;
    store.apply(&ctx, &pair("after")).await.unwrap();
    while open_transactions(&admin, &app).await > 0 {
        looks += 1;
        assert!(looks < 200, "transactions are left open");
        tokio::time::sleep(Duration::from_millis(50)).await;
        store.check().await.unwrap();
    }
    let notes = plain.raw().await.collection::<Document>("note");
    let (left, right) = (sides(&notes, "left").await, sides(&notes, "right").await);
    assert_eq!(left, right, "nothing is half done");
    assert!(left.contains("after"));
}

/// The names of which there is a note of this side.
async fn sides(notes: &Collection<Document>, side: &str) -> BTreeSet<String> {
    let filter = doc! { "text": { "$regex": format!(" {side}$") } };
    let found: Vec<Document> = notes.find(filter).await.unwrap().try_collect().await.unwrap();
    found
        .iter()
        .map(|note| {
            note.get_str("text")
                .unwrap()
                .rsplit_once(' ')
                .unwrap()
                .0
                .to_owned()
        })
        .collect()
}

/// A server of this test alone, to be killed.
struct Server {
    folder: TempDir,
    binary: PathBuf,
    port: u16,
    set: bool,
    child: Option<Child>,
}

impl Server {
    /// Starts the server that `scripts/services` fetched; says so and answers nothing when it is not there.
    async fn start(set: bool) -> Option<Self> {
        url()?;
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        let binary = cache.unwrap_or_default().join("open-crm/mongodb-8.2.0/mongod");
        if !binary.exists() {
            skipped("a MongoDB server to kill: scripts/services has not fetched one");
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut server = Self {
            folder: tempfile::tempdir().unwrap(),
            binary,
            port,
            set,
            child: None,
        };
        server.up().await;
        Some(server)
    }

    fn url(&self) -> String {
        let set = if self.set { "?replicaSet=rs0" } else { "" };
        format!("mongodb://127.0.0.1:{}/crm{set}", self.port)
    }

    async fn up(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(&self.binary);
        command
            .env("LD_LIBRARY_PATH", self.binary.with_file_name("lib"))
            .args([
                "--bind_ip",
                "127.0.0.1",
                "--nounixsocket",
                "--wiredTigerCacheSizeGB",
                "0.25",
            ])
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            .args(["--port", &self.port.to_string(), "--dbpath"])
            .arg(self.folder.path())
            .stdout(log)
            .stderr(Stdio::null());
        if self.set {
            command.args(["--replSet", "rs0"]);
        }
        self.child = Some(command.spawn().unwrap());
        let direct = format!(
            "mongodb://127.0.0.1:{}/?directConnection=true&serverSelectionTimeoutMS=500",
            self.port
        );
        let admin = Client::with_uri_str(&direct).await.unwrap().database("admin");
        for _ in 0..240 {
            let hello = admin.run_command(doc! { "hello": 1 }).await;
            match hello {
                Ok(hello) if hello.get_bool("isWritablePrimary").unwrap_or(false) => return,
                Ok(hello) if self.set && !hello.contains_key("setName") => {
                    let host = format!("127.0.0.1:{}", self.port);
                    let set = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": host }] };
                    let _ = admin.run_command(doc! { "replSetInitiate": set }).await;
                }
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("mongod did not start");
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tokio::test]
async fn a_server_without_transactions_is_refused_or_used_one_by_one() {
    let Some(server) = Server::start(false).await else {
        return;
    };
    let error = MongoStore::open_url(&server.url()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("url")),
        "{error}"
    );
    assert!(error.to_string().contains("--replSet"), "{error}");

    let config = MongoConfig::default().dangerously_without_transactions();
    let store = MongoStore::open(&server.url(), config).await.unwrap();
    assert!(!store.capability().atomic && store.capability().durable);
    store.migrate(&[note_schema()]).await.unwrap();
    let ctx = fixtures::context();
    let error = store.apply(&ctx, &pair("refused")).await.unwrap_err();
    assert_eq!(said(&error), (ErrorKind::Unsupported, Effect::None), "{error}");
    assert_eq!(store.count(&ctx, note_schema(), &Filter::All).await.unwrap(), 0);
    let [left, right] = pair("one");
    for write in [&left, &right] {
        store.apply(&ctx, std::slice::from_ref(write)).await.unwrap();
    }
    let claim = Claim {
        due: Filter::eq("stars", 1_i64),
        order: vec![],
        limit: 10,
        assign: vec![Assign::Add("stars", 1)],
    };
    assert_eq!(store.claim(&ctx, note_schema(), &claim).await.unwrap().len(), 2);
    assert!(store.claim(&ctx, note_schema(), &claim).await.unwrap().is_empty());
    let stale = Write::update(left.id(), 1, note("stale"));
    let error = store.apply(&ctx, &[stale]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("found")),
        (ErrorKind::Conflict, Some("2"))
    );
}

/// How often the server is killed; each costs a start of some seconds.
const KILLS: usize = 4;

/// How a writer writes.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Pairs in one unit of work.
    Whole,
    /// Pairs in two units, one after the other: the control, which shows as halves.
    Torn,
    /// Pairs by the driver, acknowledged before they are on the journal: the control, which shows as losses.
    Careless,
}

/// Kills the server while pairs are written; answers pairs that were acknowledged and are gone, and halves.
async fn killed(way: Way) -> Option<(usize, usize)> {
    let mut server = Server::start(true).await?;
    let config = MongoConfig::default().wait(Duration::from_secs(2));
    let store = Arc::new(MongoStore::open(&server.url(), config).await.unwrap());
    store.migrate(&[note_schema()]).await.unwrap();
    let raw = Client::with_uri_str(&server.url()).await.unwrap().database("crm");
    let notes = raw.collection::<Document>("note");
    let mut acknowledged: BTreeSet<String> = BTreeSet::new();
    for round in 0..KILLS {
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let (store, told, raw) = (store.clone(), told.clone(), raw.clone());
            writers.spawn(async move {
                let ctx = fixtures::context();
                for n in 0.. {
                    let name = format!("k{round}-{writer}-{n}");
                    if write(way, &store, &raw, &ctx, &name).await.is_ok() {
                        let _ = told.send(name);
                    }
                }
            });
        }
        drop(told);
        for _ in 0..60 {
            acknowledged.insert(heard.recv().await.unwrap());
        }
        server.kill();
        writers.abort_all();
        while writers.join_next().await.is_some() {}
        while let Ok(name) = heard.try_recv() {
            acknowledged.insert(name);
        }
        server.up().await;
    }
    // The same store works on, without being opened again.
    let mut last = store.apply(&fixtures::context(), &pair("last")).await;
    for _ in 0..10 {
        if last.is_err() {
            last = store.apply(&fixtures::context(), &pair("last")).await;
        }
    }
    last.unwrap();
    let (left, right) = (sides(&notes, "left").await, sides(&notes, "right").await);
    let lost = acknowledged
        .iter()
        .filter(|name| !(left.contains(*name) && right.contains(*name)));
    Some((lost.count(), left.symmetric_difference(&right).count()))
}

async fn write(way: Way, store: &MongoStore, raw: &Database, ctx: &Context, name: &str) -> Result<()> {
    let pair = pair(name);
    match way {
        Way::Whole => store.apply(ctx, &pair).await.map(|_| ()),
        Way::Torn => {
            store.apply(ctx, &pair[..1]).await?;
            store.apply(ctx, &pair[1..]).await.map(|_| ())
        }
        Way::Careless => {
            let concern = mongodb::options::WriteConcern::builder()
                .w(mongodb::options::Acknowledgment::Nodes(1))
                .journal(false)
                .build();
            let both =
                ["left", "right"].map(|side| doc! { "text": format!("{name} {side}"), "careless": name });
            let notes = raw.collection::<Document>("note");
            let written = notes.insert_many(both).write_concern(concern).await;
            written.map(|_| ()).map_err(|_| Error::unexpected("not written"))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_is_there_and_nothing_is_half_when_the_server_is_killed() {
    let Some(found) = killed(Way::Whole).await else {
        return;
    };
    assert_eq!(found, (0, 0), "(lost, halves)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oracle_sees_halves() {
    let Some((_, halves)) = killed(Way::Torn).await else {
        return;
    };
    assert!(halves > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oracle_sees_losses() {
    let Some((lost, _)) = killed(Way::Careless).await else {
        return;
    };
    assert!(lost > 0);
}
