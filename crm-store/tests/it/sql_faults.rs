//! What goes wrong between a store and its server: dropped calls, cut and silent connections, lost answers, deadlocks,
//! deadlines. Each is watched from outside, on a connection that knows nothing of the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::query::{Filter, Query};
use crm_core::record::{Record, Write};
use crm_core::testkit::fixtures::{self, Dice};
use crm_core::testkit::store::SAMPLE;
use crm_core::{Clock as _, Context, Effect, ErrorKind, Retry, SystemClock, Uuid};
use crm_store::sql::Tls;
use crm_store::{MysqlConfig, PostgresConfig};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqlSafeStr as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::own::Own;

fn sample(label: &str) -> Record {
    Record::new(&SAMPLE).with("label", label).unwrap()
}

/// A server seen from outside.
struct Watch {
    own: Own,
    mysql: bool,
}

/// What of a configuration a test sets.
#[derive(Clone, Copy)]
struct Set {
    connections: usize,
    limit: Duration,
}

const USUAL: Set = Set {
    connections: 8,
    limit: Duration::from_secs(30),
};

impl Watch {
    async fn all() -> Vec<Self> {
        let mut all = Vec::new();
        if let Some(own) = Own::mysql().await {
            all.push(Self { own, mysql: true });
        }
        // A database of its own, by which its connections are known.
        if let Some(own) = Own::postgres_database().await {
            all.push(Self { own, mysql: false });
        }
        all
    }

    async fn open(&self, url: &str, set: Set) -> Arc<dyn RecordStore> {
        let store: Arc<dyn RecordStore> = if self.mysql {
            let config = MysqlConfig::default()
                .tls(Tls::Off)
                .connections(set.connections)
                .time_limit(set.limit);
            let config = config
                .wait(Duration::from_secs(20))
                .dangerous_accept_weak_durability();
            Arc::new(crm_store::MysqlStore::open(url, config).await.unwrap())
        } else {
            let config = PostgresConfig::default()
                .tls(Tls::Off)
                .connections(set.connections)
                .time_limit(set.limit);
            let config = config
                .wait(Duration::from_secs(20))
                .dangerous_accept_weak_durability();
            Arc::new(crm_store::PostgresStore::open(url, config).await.unwrap())
        };
        store.migrate(&[&SAMPLE]).await.unwrap();
        store
    }

    async fn store(&self) -> Arc<dyn RecordStore> {
        self.open(&self.own.url, USUAL).await
    }

    /// One number from a question on a fresh connection.
    async fn number(&self, mysql: &str, postgres: &str) -> i64 {
        if self.mysql {
            let mut connection = sqlx::MySqlConnection::connect(&self.own.url).await.unwrap();
            let row = sqlx::query(AssertSqlSafe(mysql.to_owned()).into_sql_str())
                .fetch_one(&mut connection)
                .await
                .unwrap();
            row.try_get_unchecked(0).unwrap()
        } else {
            let mut connection = sqlx::PgConnection::connect(&self.own.url).await.unwrap();
            let row = sqlx::query(AssertSqlSafe(postgres.to_owned()).into_sql_str())
                .fetch_one(&mut connection)
                .await
                .unwrap();
            row.try_get(0).unwrap()
        }
    }

    /// Transactions that are open on this database.
    async fn open_transactions(&self) -> i64 {
        self.number(
            &format!(
                "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p \
                 ON p.id = t.trx_mysql_thread_id WHERE p.db = '{}'",
                self.own.name
            ),
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND (state LIKE 'idle in transaction%' OR state = 'active')",
        )
        .await
    }

    /// Statements that are being worked on, this question aside.
    async fn working(&self) -> i64 {
        self.number(
            &format!(
                "SELECT count(*) FROM information_schema.processlist WHERE db = '{}' AND command <> 'Sleep' AND id <> connection_id()",
                self.own.name
            ),
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'",
        )
        .await
    }

    /// Rows with this label, whatever their tenant.
    async fn rows(&self, label: &str) -> i64 {
        let text = format!("SELECT count(*) FROM kit_sample WHERE label = '{label}'");
        self.number(&text, &text).await
    }

    /// Cuts every connection to this database but the asker's.
    async fn cut(&self) {
        if self.mysql {
            let mut connection = sqlx::MySqlConnection::connect(&self.own.url).await.unwrap();
            let text = format!(
                "SELECT id FROM information_schema.processlist WHERE db = '{}' AND id <> connection_id()",
                self.own.name
            );
            let rows = sqlx::query(AssertSqlSafe(text).into_sql_str())
                .fetch_all(&mut connection)
                .await
                .unwrap();
            for row in rows {
                let id: i64 = row.try_get_unchecked(0).unwrap();
                // One that has just left cannot be cut.
                let _ = sqlx::query(AssertSqlSafe(format!("KILL {id}")).into_sql_str())
                    .execute(&mut connection)
                    .await;
            }
        } else {
            self.number(
                "",
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
                 AND pid <> pg_backend_pid()",
            )
            .await;
        }
    }

    /// Holds the whole table until the answer is dropped.
    async fn hold(&self) -> Held {
        if self.mysql {
            let mut connection = sqlx::MySqlConnection::connect(&self.own.url).await.unwrap();
            sqlx::raw_sql("LOCK TABLES kit_sample WRITE")
                .execute(&mut connection)
                .await
                .unwrap();
            Held::Mysql {
                _connection: connection,
            }
        } else {
            let mut connection = sqlx::PgConnection::connect(&self.own.url).await.unwrap();
            sqlx::raw_sql("BEGIN; LOCK TABLE kit_sample IN ACCESS EXCLUSIVE MODE")
                .execute(&mut connection)
                .await
                .unwrap();
            Held::Postgres {
                _connection: connection,
            }
        }
    }
}

enum Held {
    Mysql { _connection: sqlx::MySqlConnection },
    Postgres { _connection: sqlx::PgConnection },
}

/// Waits until a count is zero; the last count when it never was.
async fn zero<F: Future<Output = i64>>(mut count: impl FnMut() -> F) -> i64 {
    for _ in 0..100 {
        if count().await == 0 {
            return 0;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    count().await
}

/// 2,000 calls dropped after up to 3 ms, at whatever they were doing: no transaction stays open, and the store works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_dropped_calls_leaves_nothing_open() {
    for watch in Watch::all().await {
        let store = watch.store().await;
        let ctx = fixtures::context();
        let ids: Vec<Uuid> = (0..8).map(|_| fixtures::id()).collect();
        let finished = Arc::new(AtomicU64::new(0));
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..20_u64 {
            let (store, ctx, ids, finished) = (store.clone(), ctx.clone(), ids.clone(), finished.clone());
            callers.spawn(async move {
                let mut dice = Dice::new(caller);
                for _ in 0..100 {
                    let patience = Duration::from_micros(dice.below(3000) as u64);
                    let id = *dice.pick(&ids);
                    let call = async {
                        match dice.below(3) {
                            0 => store
                                .apply(&ctx, &[Write::put(id, sample("storm"))])
                                .await
                                .is_ok(),
                            1 => {
                                let fresh = Write::insert(fixtures::id(), sample("fresh"));
                                store
                                    .apply(&ctx, &[fresh, Write::put(id, sample("storm"))])
                                    .await
                                    .is_ok()
                            }
                            _ => store.find(&ctx, &SAMPLE, &Query::new(Filter::All)).await.is_ok(),
                        }
                    };
                    if tokio::time::timeout(patience, call).await == Ok(true) {
                        finished.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        callers.join_all().await;
        assert!(finished.load(Ordering::Relaxed) < 2000, "some calls were dropped");
        assert_eq!(
            zero(|| watch.open_transactions()).await,
            0,
            "a transaction stayed open"
        );
        for _ in 0..30 {
            store
                .apply(&ctx, &[Write::put(ids[0], sample("after"))])
                .await
                .expect("the store works after the storm");
        }
        // The watch would see one.
        let held = watch.stay().await;
        assert!(watch.open_transactions().await >= 1, "the watch is blind");
        drop(held);
    }
}

impl Watch {
    /// Leaves a transaction open.
    async fn stay(&self) -> Held {
        const TEXT: &str = "BEGIN; DELETE FROM kit_sample WHERE label = 'nobody'; ";
        if self.mysql {
            let mut connection = sqlx::MySqlConnection::connect(&self.own.url).await.unwrap();
            let text = "START TRANSACTION; UPDATE kit_sample SET n = 1 WHERE label = 'after'";
            sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
            Held::Mysql {
                _connection: connection,
            }
        } else {
            let mut connection = sqlx::PgConnection::connect(&self.own.url).await.unwrap();
            sqlx::raw_sql(TEXT).execute(&mut connection).await.unwrap();
            Held::Postgres {
                _connection: connection,
            }
        }
    }
}

/// Cut connections are told as such, may be tried again, and are replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_are_replaced() {
    for watch in Watch::all().await {
        let store = watch.store().await;
        let ctx = fixtures::context();
        let (a, b) = tokio::join!(
            store.count(&ctx, &SAMPLE, &Filter::All),
            store.count(&ctx, &SAMPLE, &Filter::All)
        );
        assert_eq!((a.unwrap(), b.unwrap()), (0, 0));
        watch.cut().await;
        let mut failures = 0;
        for _ in 0..10 {
            match store
                .apply(&ctx, &[Write::insert(fixtures::id(), sample("cut"))])
                .await
            {
                Ok(_) => {}
                Err(error) => {
                    failures += 1;
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    assert!(
                        error.is_retryable() && error.effect() == Effect::None,
                        "{error:?}"
                    );
                }
            }
        }
        assert!(
            failures <= 1,
            "one caller meets the loss, the others a new connection: {failures}"
        );
        assert_eq!(watch.rows("cut").await, 10 - failures);
    }
}

/// What a [`Proxy`] does with what goes through it.
#[derive(Default)]
struct Fault {
    /// Nothing goes through any more, and nobody is told.
    silent: AtomicBool,
    /// The next commit goes to the server; its answer does not come back.
    lose_commit: AtomicBool,
}

/// Stands between a store and its server.
async fn proxy(server: String) -> (u16, Arc<Fault>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let fault = Arc::new(Fault::default());
    let faults = fault.clone();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let Ok(server) = TcpStream::connect(&server).await else {
                continue;
            };
            tokio::spawn(forward(client, server, faults.clone()));
        }
    });
    (port, fault)
}

async fn forward(mut client: TcpStream, mut server: TcpStream, fault: Arc<Fault>) {
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        let upward = tokio::select! {
            read = client.read(&mut up) => (true, read),
            read = server.read(&mut down) => (false, read),
        };
        let (true_or_down, Ok(length)) = (upward.0, upward.1) else {
            return;
        };
        if length == 0 {
            return;
        }
        while fault.silent.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if true_or_down {
            let commit = up[..length].windows(6).any(|part| part == b"COMMIT")
                && !up[..length].windows(9).any(|part| part == b"COMMITTED");
            if server.write_all(&up[..length]).await.is_err() {
                return;
            }
            if commit && fault.lose_commit.swap(false, Ordering::SeqCst) {
                // The server answers; nobody hears it.
                let _ = server.read(&mut down).await;
                return;
            }
        } else if client.write_all(&down[..length]).await.is_err() {
            return;
        }
    }
}

/// The address of the server in a URL, and the URL with another port.
fn through(url: &str, port: u16) -> (String, String) {
    let (before, rest) = url.rsplit_once('@').unwrap();
    let (address, path) = rest.split_once('/').unwrap();
    (address.to_owned(), format!("{before}@127.0.0.1:{port}/{path}"))
}

/// A connection that went silent fails at its deadline and is given up; the answer to a commit that got lost is told as
/// unknown, and it did happen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_and_a_lost_answer() {
    for watch in Watch::all().await {
        let (address, _) = through(&watch.own.url, 0);
        let (port, fault) = proxy(address).await;
        let (_, url) = through(&watch.own.url, port);
        let set = Set {
            connections: 2,
            limit: Duration::from_secs(2),
        };
        let store = watch.open(&url, set).await;
        let ctx = fixtures::context();
        let write = |label: &str| [Write::insert(fixtures::id(), sample(label))];
        store.apply(&ctx, &write("before")).await.unwrap();

        fault.silent.store(true, Ordering::SeqCst);
        let soon = ctx
            .clone()
            .deadline(SystemClock.now().plus(Duration::from_millis(300)));
        let begun = tokio::time::Instant::now();
        let error = store.apply(&soon, &write("silent")).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.effect()),
            (ErrorKind::Timeout, Effect::None),
            "{error:?}"
        );
        let error = store.count(&ctx, &SAMPLE, &Filter::All).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "neither waited for the network"
        );
        let late = store.count(&soon, &SAMPLE, &Filter::All).await.unwrap_err();
        assert_eq!(
            late.kind(),
            ErrorKind::Timeout,
            "a deadline that has passed: {late:?}"
        );
        fault.silent.store(false, Ordering::SeqCst);
        store
            .apply(&ctx, &write("after"))
            .await
            .expect("a new connection");
        assert_eq!(zero(|| watch.rows("silent")).await, 0);

        fault.lose_commit.store(true, Ordering::SeqCst);
        let error = store.apply(&ctx, &write("lost")).await.unwrap_err();
        assert_eq!(
            (error.effect(), error.retry()),
            (Effect::Unknown, Retry::Never),
            "{error:?}"
        );
        assert_eq!(watch.rows("lost").await, 1, "this one did happen");
        store.apply(&ctx, &write("after")).await.unwrap();
        assert_eq!(watch.rows("after").await, 2);
    }
}

/// A deadline reaches the server: it stops working on what nobody waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_reach_the_server() {
    for watch in Watch::all().await {
        let store = watch.store().await;
        let ctx = fixtures::context();
        let held = watch.hold().await;
        let soon = ctx
            .clone()
            .deadline(SystemClock.now().plus(Duration::from_millis(400)));
        let error = store.count(&soon, &SAMPLE, &Filter::All).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        assert_eq!(zero(|| watch.working()).await, 0, "the server still works on it");
        // Who does not say when to stop is worked for on and on.
        let endless = tokio::spawn(ask_forever(watch.own.url.clone(), watch.mysql));
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(watch.working().await >= 1, "the watch is blind");
        drop(held);
        endless.await.unwrap();
        assert_eq!(zero(|| watch.working()).await, 0);
        assert_eq!(store.count(&ctx, &SAMPLE, &Filter::All).await.unwrap(), 0);
    }
}

async fn ask_forever(url: String, mysql: bool) {
    const TEXT: &str = "SELECT count(*) FROM kit_sample";
    if mysql {
        let mut connection = sqlx::MySqlConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(TEXT).execute(&mut connection).await.unwrap();
    } else {
        let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(TEXT).execute(&mut connection).await.unwrap();
    }
}

/// Units of work that take the same two records in opposite order are carried out all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_are_tried_again() {
    for watch in Watch::all().await {
        let store = watch.store().await;
        let ctx = fixtures::context();
        let (a, b) = (fixtures::id(), fixtures::id());
        // Two schemas' worth of statements, so that one statement does not take both.
        let unit = |first: Uuid, second: Uuid| {
            [
                Write::put(first, sample("x")),
                Write::insert(fixtures::id(), sample("between")),
                Write::put(second, sample("y")),
            ]
        };
        store.apply(&ctx, &unit(a, b)).await.unwrap();
        let mut done = 0;
        // Where everything is fast they meet seldom, and PostgreSQL counts a moment later.
        for round in 1.. {
            let mut writers = tokio::task::JoinSet::new();
            for writer in 0..4 {
                let (store, ctx) = (store.clone(), ctx.clone());
                let (first, second) = if writer % 2 == 0 { (a, b) } else { (b, a) };
                writers.spawn(async move {
                    let mut done = 0;
                    for _ in 0..40 {
                        match store.apply(&ctx, &unit(first, second)).await {
                            Ok(_) => done += 1,
                            Err(error) => {
                                // Only after five tries.
                                assert_eq!(error.retry(), Retry::Exhausted, "{error:?}");
                                assert_eq!(
                                    (error.effect(), error.context("tries")),
                                    (Effect::None, Some("5"))
                                );
                            }
                        }
                    }
                    done
                });
            }
            let now: i64 = writers.join_all().await.into_iter().sum();
            assert!(now >= 120, "trying again gets most of 160 through: {now}");
            done += now;
            assert_eq!(
                watch.rows("between").await,
                done + 1,
                "what was given up left nothing"
            );
            if watch.deadlocks().await >= 1 {
                break;
            }
            assert!(round < 30, "there was nothing to try again");
        }
        let found = store.get(&ctx, &SAMPLE, &[a, b]).await.unwrap();
        for record in found {
            assert_eq!(record.unwrap().version, done + 1);
        }
    }
}

impl Watch {
    /// The deadlocks the server counted, of anybody's.
    async fn deadlocks(&self) -> i64 {
        self.number(
            "SELECT CAST(variable_value AS SIGNED) FROM information_schema.global_status WHERE variable_name = 'innodb_deadlocks'",
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
        )
        .await
    }
}

/// With one connection and many callers, each gets its turn; with none free in time, the caller is told soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_share_one_connection() {
    for watch in Watch::all().await {
        let one = Set {
            connections: 1,
            ..USUAL
        };
        let store = watch.open(&watch.own.url, one).await;
        let ctx: Context = fixtures::context();
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (store, ctx) = (store.clone(), ctx.clone());
            callers.spawn(async move {
                store
                    .apply(&ctx, &[Write::insert(fixtures::id(), sample("turn"))])
                    .await
                    .map(|_| ())
            });
        }
        for done in callers.join_all().await {
            done.unwrap();
        }
        assert_eq!(watch.rows("turn").await, 50);
    }
}
