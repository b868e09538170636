//! Callers that share commits: each keeps its own answer, nobody loses anything through somebody else.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crm_core::ErrorKind;
use crm_core::capability::RecordStore;
use crm_core::query::Filter;
use crm_core::record::{Field, FieldType, Index, Outcome, Record, Schema, Write};
use crm_core::testkit::fixtures::{self, Dice};
use crm_store::{SqliteConfig, SqliteStore};
use sqlx::Row;

use crate::sqlite::raw;

static ITEM: Schema = Schema {
    name: "item",
    fields: &[
        Field::new("key", FieldType::Text),
        Field::new("n", FieldType::Int),
    ],
    indexes: &[Index::unique("item_key", &["key"])],
};
/// Never migrated: a write to it fails in the database.
static GHOST: Schema = Schema {
    name: "ghost",
    fields: &[Field::new("n", FieldType::Int)],
    indexes: &[],
};

fn item(key: &str, n: i64) -> Record {
    Record::from_values(&ITEM, vec![key.into(), n.into()]).unwrap()
}

async fn open(path: &Path) -> Arc<SqliteStore> {
    let config = SqliteConfig::default().wait(Duration::from_secs(60));
    let store = SqliteStore::open_file(path, config).await.unwrap();
    store.migrate(&[&ITEM]).await.unwrap();
    Arc::new(store)
}

async fn number(path: &Path, sql: &'static str) -> i64 {
    sqlx::query(sql)
        .fetch_one(&mut raw(path).await)
        .await
        .unwrap()
        .get(0)
}

/// 64 callers write, collide and err at once; what each was told is what an independent reader finds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_their_own_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let store = open(&path).await;
    let ctx = fixtures::context();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..64_i64 {
        let (store, ctx) = (store.clone(), ctx.clone());
        tasks.spawn(async move {
            let (mut written, mut refused) = (BTreeSet::new(), 0);
            for round in 0..20_i64 {
                let own = format!("{caller}-{round}");
                let shared = format!("shared-{round}-{}", caller / 2);
                let done = match round % 4 {
                    // One statement; two callers each want the same key.
                    0 => store
                        .apply(&ctx, &[Write::insert(fixtures::id(), item(&shared, 0))])
                        .await
                        .map(|_| vec![shared]),
                    // Two that belong together, the second of which collides for one of two callers.
                    1 => {
                        let pair =
                            [item(&own, 1), item(&shared, 1)].map(|item| Write::insert(fixtures::id(), item));
                        store.apply(&ctx, &pair).await.map(|_| vec![own, shared])
                    }
                    // A version that is not there.
                    2 => {
                        let writes = [Write::update(fixtures::id(), 3, item(&own, 2))];
                        store.apply(&ctx, &writes).await.map(|_| vec![own])
                    }
                    _ => {
                        let skip = Write::insert_or_skip(fixtures::id(), item(&shared, 3));
                        let own_item = Write::insert(fixtures::id(), item(&own, 3));
                        store.apply(&ctx, &[skip, own_item]).await.map(|outcomes| {
                            let mut keys = vec![own];
                            keys.extend((outcomes[0] != Outcome::Skipped).then_some(shared));
                            keys
                        })
                    }
                };
                match done {
                    Ok(keys) => written.extend(keys),
                    Err(error) => {
                        let index = if round % 4 == 2 { "version" } else { "item_key" };
                        let write = if round % 4 == 1 { "1" } else { "0" };
                        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                        assert_eq!(
                            (error.context("index"), error.context("write")),
                            (Some(index), Some(write)),
                            "{error}"
                        );
                        assert_eq!(error.operation_name(), Some("store.apply"));
                        refused += 1;
                    }
                }
            }
            (written, refused)
        });
    }
    let (mut written, mut refused, mut told) = (BTreeSet::new(), 0, 0);
    while let Some(done) = tasks.join_next().await {
        let (keys, no) = done.unwrap();
        told += keys.len();
        written.extend(keys);
        refused += no;
    }
    assert_eq!(
        written.len(),
        told,
        "two callers were told that they wrote one key"
    );
    // Of each pair of callers one loses at rounds of kind 0 and 1, and every caller at kind 2.
    assert_eq!(refused, 32 * 5 + 32 * 5 + 64 * 5);
    let mut found = BTreeSet::new();
    for row in sqlx::query("SELECT key FROM item")
        .fetch_all(&mut raw(&path).await)
        .await
        .unwrap()
    {
        found.insert(row.get::<String, _>(0));
    }
    assert_eq!(found, written);
}

/// STO-1: eight writers add one to one number 500 times each; every acknowledged addition counts. Without versions the
/// same storm loses some, so the test can fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let store = open(&path).await;
    let ctx = fixtures::context();
    let (careful, careless) = (fixtures::id(), fixtures::id());
    let new = [
        Write::insert(careful, item("careful", 0)),
        Write::insert(careless, item("careless", 0)),
    ];
    store.apply(&ctx, &new).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, ctx) = (store.clone(), ctx.clone());
        tasks.spawn(async move {
            let mut done = 0;
            for _ in 0..500 {
                let now = store.get(&ctx, &ITEM, &[careful, careless]).await.unwrap();
                let now: Vec<_> = now.into_iter().flatten().collect();
                let n = |i: usize| now[i].record.int("n").unwrap() + 1;
                let add = Write::update(careful, now[0].version, item("careful", n(0)));
                match store.apply(&ctx, &[add]).await {
                    Ok(outcomes) => {
                        assert_eq!(outcomes, [Outcome::Written(now[0].version + 1)]);
                        done += 1;
                    }
                    Err(error) => {
                        let found: i64 = error.context("found").unwrap().parse().unwrap();
                        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                        assert_eq!(
                            error.context("expected"),
                            Some(now[0].version.to_string().as_str())
                        );
                        assert!(found > now[0].version, "{error}");
                    }
                }
                let put = Write::Put {
                    id: careless,
                    record: item("careless", n(1)),
                };
                store.apply(&ctx, &[put]).await.unwrap();
            }
            done
        });
    }
    let mut done = 0_i64;
    while let Some(own) = tasks.join_next().await {
        done += own.unwrap();
    }
    assert!(
        (500..4000).contains(&done),
        "no storm: {done} of 4,000 went through"
    );
    assert_eq!(
        number(&path, "SELECT n FROM item WHERE key = 'careful'").await,
        done
    );
    assert!(
        number(&path, "SELECT n FROM item WHERE key = 'careless'").await < 4000,
        "without versions nothing was lost: the test proves nothing"
    );
}

/// The call's result, unless it takes more turns of the scheduler: then it is dropped where it is.
async fn within<T>(turns: usize, call: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = call => Some(done),
        () = async { for _ in 0..turns { tokio::task::yield_now().await; } } => None,
    }
}

/// 32 callers, a third of whose calls are dropped anywhere, leaders included: what was acknowledged is there, nothing is
/// half there, nobody waits for ever, and nobody is told of an error because of somebody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_callers_do_no_harm_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let store = open(&path).await;
    let ctx = fixtures::context();
    let dropped = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..32_u64 {
        let (store, ctx, dropped) = (store.clone(), ctx.clone(), dropped.clone());
        tasks.spawn(async move {
            let mut dice = Dice::new(caller);
            let mut acknowledged = Vec::new();
            // How many turns a call gets follows the machine.
            let mut most = 200_usize;
            for round in 0..60 {
                let left = format!("{caller}-{round}-left");
                let pair = [
                    Write::insert(fixtures::id(), item(&left, 0)),
                    Write::insert(fixtures::id(), item(&format!("{caller}-{round}-right"), 0)),
                ];
                let writes = if dice.one_in(2) { &pair[..] } else { &pair[..1] };
                let call = store.apply(&ctx, writes);
                if dice.one_in(3) {
                    match within(1 + dice.below(most), call).await {
                        Some(done) => {
                            done.unwrap();
                            most = (most - most / 8).max(8);
                            acknowledged.push((left, writes.len()));
                        }
                        None => {
                            most += most / 8;
                            dropped.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                } else {
                    call.await.unwrap();
                    acknowledged.push((left, writes.len()));
                }
            }
            acknowledged
        });
    }
    let mut acknowledged = Vec::new();
    let all = async {
        while let Some(own) = tasks.join_next().await {
            acknowledged.extend(own.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all)
        .await
        .expect("somebody waits for ever");
    let dropped = dropped.load(Ordering::Relaxed);
    assert!(dropped > 50, "the storm was none: {dropped}");
    let rows = sqlx::query("SELECT key FROM item")
        .fetch_all(&mut raw(&path).await)
        .await
        .unwrap();
    let found: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    for (left, writes) in &acknowledged {
        assert!(found.contains(left), "{left} was acknowledged and is gone");
        assert_eq!(
            found.contains(&left.replace("left", "right")),
            *writes == 2,
            "{left}"
        );
    }
    for right in found.iter().filter(|key| key.ends_with("right")) {
        assert!(
            found.contains(&right.replace("right", "left")),
            "half of a unit: {right}"
        );
    }
    assert!(found.len() >= acknowledged.len());
    // And the store goes on as if nothing had been.
    let last = [Write::insert(fixtures::id(), item("after", 0))];
    let after = store.apply(&ctx, &last);
    tokio::time::timeout(Duration::from_secs(10), after)
        .await
        .unwrap()
        .unwrap();
}

/// A unit that the database itself refuses takes nobody along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_that_breaks_the_transaction_breaks_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let store = open(&path).await;
    let ctx = fixtures::context();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..32 {
        let (store, ctx) = (store.clone(), ctx.clone());
        tasks.spawn(async move {
            for round in 0..10 {
                let ghost = Write::insert(
                    fixtures::id(),
                    Record::from_values(&GHOST, vec![1_i64.into()]).unwrap(),
                );
                let own = Write::insert(fixtures::id(), item(&format!("{caller}-{round}"), 0));
                match caller % 8 {
                    0 => {
                        let error = store.apply(&ctx, &[ghost]).await.unwrap_err();
                        assert_eq!(
                            (error.kind(), error.context("schema")),
                            (ErrorKind::Config, Some("ghost")),
                            "{error}"
                        );
                    }
                    1 => {
                        let error = store.apply(&ctx, &[own, ghost]).await.unwrap_err();
                        assert_eq!(
                            (error.kind(), error.context("write")),
                            (ErrorKind::Config, Some("1")),
                            "{error}"
                        );
                    }
                    _ => {
                        store.apply(&ctx, &[own]).await.unwrap();
                    }
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(number(&path, "SELECT count(*) FROM item").await, 24 * 10);
}

/// Waiting has an end: while another process holds the lock, everybody is told in time, and nothing is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_has_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let config = SqliteConfig::default().wait(Duration::from_millis(200));
    let store = Arc::new(SqliteStore::open_file(&path, config).await.unwrap());
    store.migrate(&[&ITEM]).await.unwrap();
    let ctx = fixtures::context();
    let mut other = raw(&path).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let (store, ctx) = (store.clone(), ctx.clone());
        tasks.spawn(async move {
            store
                .apply(&ctx, &[Write::insert(fixtures::id(), item(&n.to_string(), 0))])
                .await
        });
    }
    while let Some(done) = tasks.join_next().await {
        let error = done.unwrap().unwrap_err();
        assert!(
            error.kind() == ErrorKind::Unavailable && error.is_retryable(),
            "{error}"
        );
    }
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(store.count(&ctx, &ITEM, &Filter::All).await.unwrap(), 0);
    store
        .apply(&ctx, &[Write::insert(fixtures::id(), item("after", 0))])
        .await
        .unwrap();
}

/// Commits in a write-ahead log: its frames that carry a size (<https://www.sqlite.org/fileformat2.html#walformat>).
pub(crate) fn commits(database: &Path) -> usize {
    let log = std::fs::read(format!("{}-wal", database.display())).unwrap();
    let word = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let frame = 24 + word(8) as usize;
    let salt = &log[16..24];
    (32..)
        .step_by(frame)
        .take_while(|at| at + frame <= log.len() && &log[at + 8..at + 16] == salt)
        .filter(|at| word(at + 4) != 0)
        .count()
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// STO-2: the disk is told to keep (`fdatasync`) at least as often as there are commits, and callers share them. Kill -9
/// does not show a missing sync (the page cache survives it), so the syncs are counted from outside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_commit_is_synced_and_callers_share_them() {
    const CALLERS: u64 = 32;
    const EACH: u64 = 25;
    if let Ok(path) = std::env::var("CRM_STORE_TEST_SYNCED") {
        let store = open(Path::new(&path)).await;
        let ctx = fixtures::context();
        let mut tasks = tokio::task::JoinSet::new();
        for caller in 0..CALLERS {
            let (store, ctx) = (store.clone(), ctx.clone());
            tasks.spawn(async move {
                for n in 0..EACH {
                    let write = Write::insert(fixtures::id(), item(&format!("{caller}-{n}"), 0));
                    store.apply(&ctx, &[write]).await.unwrap();
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        // Ends without closing, so that the log stays to be read.
        std::process::exit(0);
    }
    if !has("strace") || !has("sqlite3") {
        assert!(
            std::env::var("OPEN_CRM_REQUIRE_BACKENDS").is_err(),
            "strace and sqlite3 are not installed"
        );
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"SKIPPED: strace or sqlite3 is not installed, syncs were not counted\n",
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let traced = |database: &Path, command: &mut Command| {
        let trace = database.with_extension("trace");
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-e", "trace=fdatasync,fsync", "-o"])
            .arg(&trace);
        strace.arg(command.get_program()).args(command.get_args());
        strace.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let out = strace.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let trace = std::fs::read_to_string(&trace).unwrap();
        trace.lines().filter(|line| line.contains("sync(")).count()
    };
    let path = folder.path().join("crm.db");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args([
            "sqlite_group::every_commit_is_synced_and_callers_share_them",
            "--exact",
            "--nocapture",
        ])
        .env("CRM_STORE_TEST_SYNCED", &path);
    let syncs = traced(&path, &mut child);
    let groups = commits(&path);
    println!("{} units, {groups} commits, {syncs} syncs", CALLERS * EACH);
    assert!(syncs >= groups, "{groups} commits, {syncs} syncs");
    assert!(
        groups < (CALLERS * EACH) as usize / 2,
        "{groups} commits: nobody shared one"
    );
    assert_eq!(
        number(&path, "SELECT count(*) FROM item").await as u64,
        CALLERS * EACH
    );

    // The control: SQLite told not to sync must show as fewer syncs than commits, or the count proves nothing.
    let path = folder.path().join("off.db");
    let mut script = "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE t (n);".to_owned();
    (0..50).for_each(|n| script += &format!("INSERT INTO t VALUES ({n});"));
    // `.shell cp` keeps the log that closing would remove.
    let mut shell = Command::new("sqlite3");
    let kept = folder.path().join("kept.db-wal");
    shell
        .arg(&path)
        .arg(script)
        .arg(format!(".shell cp {}-wal {}", path.display(), kept.display()));
    let syncs = traced(&path, &mut shell);
    let commits = commits(&folder.path().join("kept.db"));
    assert!(
        commits >= 50 && syncs < commits,
        "{commits} commits, {syncs} syncs"
    );
}
