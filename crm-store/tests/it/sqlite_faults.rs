//! Faults put in from outside: processes killed at a chosen write, disks that fill up or fail, pools that are too small.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::query::{Filter, Query};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Write};
use crm_core::testkit::fixtures;
use crm_core::{Clock, ErrorKind, SystemClock};
use crm_store::customers::SCHEMAS;
use crm_store::{SqliteConfig, SqliteStore};
use sqlx::Row;

use crate::sqlite::raw;

static PART: Schema = Schema {
    name: "part",
    fields: &[
        Field::new("pair", FieldType::Int),
        Field::new("text", FieldType::Text),
    ],
    indexes: &[Index::new("part_pair", &["pair"])],
};

const PATH: &str = "CRM_STORE_TEST_FAULTS";
const MODE: &str = "CRM_STORE_TEST_FAULTS_MODE";

fn child() -> Option<(String, String)> {
    Some((std::env::var(PATH).ok()?, std::env::var(MODE).unwrap_or_default()))
}

/// Whether strace can put faults into programs here; said loudly when not.
fn can_inject() -> bool {
    let there = Command::new("strace")
        .args(["-e", "inject=fdatasync:error=EIO:when=1", "true"])
        .output()
        .is_ok_and(|out| out.status.success());
    if !there {
        assert!(
            std::env::var("OPEN_CRM_REQUIRE_BACKENDS").is_err(),
            "strace cannot inject faults here"
        );
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"SKIPPED: strace cannot inject faults here, so no write was made to fail\n",
        );
    }
    there
}

/// Runs the named test of this binary under strace with a fault.
fn with_fault(test: &str, path: &Path, mode: &str, fault: &str) -> Output {
    Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={fault}")])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(PATH, path)
        .env(MODE, mode)
        .output()
        .unwrap()
}

async fn number(path: &Path, sql: &'static str) -> i64 {
    sqlx::query(sql)
        .fetch_one(&mut raw(path).await)
        .await
        .unwrap()
        .get(0)
}

async fn sound(path: &Path) {
    let found: String = sqlx::query("PRAGMA integrity_check")
        .fetch_one(&mut raw(path).await)
        .await
        .unwrap()
        .get(0);
    assert_eq!(found, "ok");
}

/// STO-5: a migration killed at its first, second, .. twentieth write to the disk is there whole or not at all, and the
/// next start finishes it. Made table by table, the control, it is found half.
#[tokio::test]
async fn a_killed_migration_is_whole_or_not_there() {
    const TEST: &str = "sqlite_faults::a_killed_migration_is_whole_or_not_there";
    if let Some((path, mode)) = child() {
        let store = SqliteStore::open_file(&path, SqliteConfig::default())
            .await
            .unwrap();
        if mode == "torn" {
            for schema in SCHEMAS {
                store.migrate(&[schema]).await.unwrap();
            }
        } else {
            store.migrate(&SCHEMAS).await.unwrap();
        }
        return;
    }
    if !can_inject() {
        return;
    }
    // (killed, ledger entries, tables) after a kill at this write.
    async fn killed(folder: &Path, mode: &str, at: usize) -> (bool, i64, i64) {
        let path = folder.join(format!("{mode}-{at}.db"));
        let out = with_fault(TEST, &path, mode, &format!("pwrite64:signal=SIGKILL:when={at}"));
        let killed = !out.status.success();
        sound(&path).await;
        let tables = number(&path, "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name LIKE 'crm\\_%' ESCAPE '\\' AND name <> 'crm_ledger'").await;
        let ledger = match number(
            &path,
            "SELECT count(*) FROM sqlite_schema WHERE name = 'crm_ledger'",
        )
        .await
        {
            0 => 0,
            _ => number(&path, "SELECT count(*) FROM crm_ledger WHERE name NOT LIKE '#%'").await,
        };
        let config = SqliteConfig::default().wait(Duration::from_secs(60));
        let store = SqliteStore::open_file(&path, config).await.unwrap();
        store.migrate(&SCHEMAS).await.unwrap();
        let after = number(&path, "SELECT count(*) FROM crm_ledger WHERE name NOT LIKE '#%'").await;
        assert_eq!(after as usize, SCHEMAS.len(), "the next start does not finish it");
        (killed, ledger, tables)
    }
    let folder = tempfile::tempdir().unwrap();
    let all = SCHEMAS.len() as i64;
    let mut kills = 0;
    for at in 1..=20 {
        let (dead, ledger, tables) = killed(folder.path(), "whole", at * 4 - 3).await;
        kills += i32::from(dead);
        assert!(
            [(0, 0), (all, all)].contains(&(ledger, tables)),
            "killed at write {at}: {ledger} entries, {tables} tables"
        );
    }
    assert!(kills >= 10, "only {kills} of 20 were killed");
    let mut half = 0;
    for at in 1..=20 {
        let (_, ledger, _) = killed(folder.path(), "torn", at * 4 - 3).await;
        half += i32::from(ledger > 0 && ledger < all);
    }
    assert!(half > 0, "the oracle cannot see half a migration");
}

/// Writes pairs of records until the child is through; says what it was told.
async fn pairs(path: &str) {
    let store = Arc::new(
        SqliteStore::open_file(path, SqliteConfig::default())
            .await
            .unwrap(),
    );
    store.migrate(&[&PART]).await.unwrap();
    let ctx = fixtures::context();
    let (mut failed, mut well) = (0, 0);
    for pair in 0..2_000_i64 {
        let both = [0, 1].map(|_| {
            let values = vec![pair.into(), format!("canary {}", "x".repeat(9_000)).into()];
            Write::insert(fixtures::id(), Record::from_values(&PART, values).unwrap())
        });
        // Two callers at once, so that shared commits fail too.
        let other = [Write::insert(
            fixtures::id(),
            Record::from_values(&PART, vec![(-1_i64).into(), "alone".into()]).unwrap(),
        )];
        let (one, two) = tokio::join!(store.apply(&ctx, &both), store.apply(&ctx, &other));
        for done in [one.map(|_| Some(pair)), two.map(|_| None)] {
            match done {
                Ok(Some(pair)) => {
                    println!("ack {pair}");
                    well = if failed > 0 { well + 1 } else { 0 };
                }
                Ok(None) => println!("alone"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    assert!(error.context("sqlite_code").is_some(), "{error}");
                    assert!(!format!("{error:?}").contains("canary"));
                    println!("refused {:?}", error.effect());
                    failed += 1;
                }
            }
        }
        // The same process works again after the fault.
        if well >= 5 {
            println!("recovered after {failed}");
            std::process::exit(0);
        }
    }
    panic!("the fault never came, or never ended");
}

/// T-STO-2: the disk is full, or fails, for a while: every caller is told so with a typed error, acknowledged pairs are
/// there and whole, and the same process goes on when the fault is over.
#[tokio::test]
async fn a_disk_that_fails_for_a_while() {
    const TEST: &str = "sqlite_faults::a_disk_that_fails_for_a_while";
    if let Some((path, _)) = child() {
        return pairs(&path).await;
    }
    if !can_inject() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (n, fault) in [
        "pwrite64:error=ENOSPC:when=120..150",
        "pwrite64:error=EIO:when=121..140",
        "fsync,fdatasync:error=EIO:when=12..18",
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.path().join(format!("{n}.db"));
        let out = with_fault(TEST, &path, "", fault);
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success() && said.contains("recovered") && said.contains("refused"),
            "{fault}: {said} {}",
            String::from_utf8_lossy(&out.stderr)
        );
        sound(&path).await;
        let halves =
            "SELECT count(*) FROM (SELECT pair FROM part WHERE pair >= 0 GROUP BY pair HAVING count(*) <> 2)";
        assert_eq!(
            number(&path, "SELECT count(*) FROM part WHERE pair >= 0").await % 2,
            0
        );
        let mut raw = raw(&path).await;
        let torn: i64 = sqlx::query(halves).fetch_one(&mut raw).await.unwrap().get(0);
        assert_eq!(torn, 0, "{fault}: pairs were torn");
        for pair in said
            .lines()
            .filter_map(|line| line.rsplit("ack ").next()?.parse::<i64>().ok())
        {
            let found: i64 = sqlx::query("SELECT count(*) FROM part WHERE pair = ?")
                .bind(pair)
                .fetch_one(&mut raw)
                .await
                .unwrap()
                .get(0);
            assert_eq!(found, 2, "{fault}: pair {pair} was acknowledged");
        }
        let alone = said.lines().filter(|line| line.ends_with("alone")).count() as i64;
        let found: i64 = sqlx::query("SELECT count(*) FROM part WHERE pair = -1")
            .fetch_one(&mut raw)
            .await
            .unwrap()
            .get(0);
        assert!(found >= alone, "{fault}: {alone} acknowledged, {found} there");
    }
    // The control: an oracle that knows halves when it sees them.
    let path = folder.path().join("torn.db");
    let store = SqliteStore::open_file(&path, SqliteConfig::default())
        .await
        .unwrap();
    store.migrate(&[&PART]).await.unwrap();
    let half = Record::from_values(&PART, vec![7_i64.into(), "half".into()]).unwrap();
    store
        .apply(&fixtures::context(), &[Write::insert(fixtures::id(), half)])
        .await
        .unwrap();
    assert_eq!(
        number(&path, "SELECT count(*) FROM part WHERE pair >= 0").await % 2,
        1
    );
}

/// STO-14: fifty tasks on one reading connection all get through; and when it is held, waiting ends with a typed error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_one_serves_fifty_and_refuses_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let config = SqliteConfig::default().readers(1).wait(Duration::from_secs(30));
    let store = Arc::new(SqliteStore::open_file(&path, config).await.unwrap());
    store.migrate(&[&PART]).await.unwrap();
    let ctx = fixtures::context();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..50_i64 {
        let (store, ctx) = (store.clone(), ctx.clone());
        tasks.spawn(async move {
            for _ in 0..10 {
                let id = fixtures::id();
                let record = Record::from_values(&PART, vec![n.into(), "x".into()]).unwrap();
                store.apply(&ctx, &[Write::insert(id, record)]).await.unwrap();
                assert!(
                    store.get(&ctx, &PART, &[id]).await.unwrap()[0].is_some(),
                    "a caller does not see its own write"
                );
                store
                    .find(&ctx, &PART, &Query::new(Filter::eq("pair", n)))
                    .await
                    .unwrap();
            }
        });
    }
    let all = async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .expect("somebody waits for ever");
    assert_eq!(number(&path, "SELECT count(*) FROM part").await, 500);

    let config = SqliteConfig::default()
        .readers(1)
        .wait(Duration::from_millis(100));
    let store = Arc::new(SqliteStore::open_file(&path, config).await.unwrap());
    // A call that is begun and not looked at again holds the only connection.
    let mut held = std::pin::pin!(store.count(&ctx, &PART, &Filter::All));
    std::future::poll_fn(|cx| {
        let _ = held.as_mut().poll(cx);
        std::task::Poll::Ready(())
    })
    .await;
    let error = store.count(&ctx, &PART, &Filter::All).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unavailable
            && error.is_retryable()
            && error.context("wait_ms") == Some("100"),
        "{error}"
    );
    assert_eq!(held.await.unwrap(), 500);
    store.count(&ctx, &PART, &Filter::All).await.unwrap();
}

/// Threads of SQLite connections in this process, as the kernel counts them.
fn connections() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks
        .flatten()
        .filter(|task| task.path().exists())
        .map(name)
        // Ours, and those of the plain connections that tests open.
        .filter(|name| name.starts_with("crm-sqlite") || name.starts_with("sqlx-sqlite"))
        .count()
}

/// STO-13: a question that nobody waits for any more stops at once, instead of keeping a thread and a core until its end.
/// The control is the same question on a plain connection: dropped as well, it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_question_stops() {
    const TEST: &str = "sqlite_faults::a_dropped_question_stops";
    // A process of its own: other tests have connections too.
    let Some((path, _)) = child() else {
        let folder = tempfile::tempdir().unwrap();
        let out = Command::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture", "--test-threads=1"])
            .env(PATH, folder.path().join("crm.db"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success() && said.contains("stopped"),
            "{said} {}",
            String::from_utf8_lossy(&out.stderr)
        );
        return;
    };
    let path = Path::new(&path);
    let store = SqliteStore::open_file(path, SqliteConfig::default().readers(1))
        .await
        .unwrap();
    store.migrate(&[&PART]).await.unwrap();
    let ctx = fixtures::context();
    for _ in 0..10 {
        let many: Vec<Write> = (0..100_i64)
            .map(|n| Record::from_values(&PART, vec![n.into(), "x".repeat(60_000).into()]).unwrap())
            .map(|record| Write::insert(fixtures::id(), record))
            .collect();
        store.apply(&ctx, &many).await.unwrap();
    }
    // Each condition walks through 60 MB of text.
    let slow = (0..400).fold(Filter::eq("pair", -1_i64), |all, n| {
        all.or(Filter::contains("text", format!("{n}")))
    });
    let before = connections();
    let asked = tokio::time::timeout(Duration::from_millis(300), store.count(&ctx, &PART, &slow)).await;
    assert!(asked.is_err(), "the question was too easy to be dropped");
    // The reader it used is closed; what is left is the writer.
    let mut looks = 0;
    while connections() > before {
        tokio::time::sleep(Duration::from_millis(20)).await;
        looks += 1;
        assert!(looks < 500, "ten seconds later the dropped question still runs");
    }
    store.count(&ctx, &PART, &Filter::All).await.unwrap();

    // A deadline in the context does the same, and says so.
    let before = connections();
    let hurried = ctx
        .clone()
        .deadline(SystemClock.now().plus(Duration::from_millis(300)));
    let late = store.count(&hurried, &PART, &slow).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout, "{late}");
    for look in 0.. {
        if connections() < before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(
            look < 500,
            "ten seconds after its deadline the question still runs"
        );
    }
    store.count(&ctx, &PART, &Filter::All).await.unwrap();

    let mut plain = raw(path).await;
    let there = connections();
    let conditions: Vec<String> = (0..400).map(|n| format!("instr(text, '{n}') > 0")).collect();
    let sql = format!(
        "SELECT count(*) FROM part WHERE pair = -1 OR {}",
        conditions.join(" OR ")
    );
    let asked = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(&mut plain);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), asked)
            .await
            .is_err()
    );
    drop(plain);
    for _ in 0..=looks.max(10) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        connections(),
        there,
        "a plain connection stopped as well: the test proves nothing"
    );
    println!("stopped");
    std::io::Write::flush(&mut std::io::stdout()).unwrap();
    std::process::exit(0);
}
