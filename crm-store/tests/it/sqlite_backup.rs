//! Backups of SQLite stores: taken under fire, proven, restored; and refused when anything about them is wrong (STO-15).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crm_core::ErrorKind;
use crm_core::capability::RecordStore;
use crm_core::query::Filter;
use crm_core::record::{Field, FieldType, Record, Schema, Write};
use crm_core::testkit::fixtures;
use crm_store::sql::backup::{self, Progress};
use crm_store::{SqliteConfig, SqliteStore};
use sqlx::Row;

use crate::sqlite::raw;

static NOTE: Schema = Schema {
    name: "note",
    fields: &[
        Field::new("text", FieldType::Text),
        Field::new("pair", FieldType::Int),
        Field::new("stars", FieldType::Float).nullable(),
    ],
    indexes: &[],
};

fn note(text: &str, pair: i64) -> Record {
    Record::from_values(&NOTE, vec![text.into(), pair.into(), 0.1.into()]).unwrap()
}

async fn open(path: &Path) -> Arc<SqliteStore> {
    let store = SqliteStore::open_file(path, SqliteConfig::default())
        .await
        .unwrap();
    store.migrate(&[&NOTE]).await.unwrap();
    Arc::new(store)
}

async fn number(path: &Path, sql: &'static str) -> i64 {
    sqlx::query(sql)
        .fetch_one(&mut raw(path).await)
        .await
        .unwrap()
        .get(0)
}

const HALVES: &str = "SELECT count(*) FROM (SELECT pair FROM note GROUP BY pair HAVING count(*) <> 2)";

/// All rows as an independent reader sees them.
async fn rows(path: &Path) -> Vec<(Vec<u8>, i64, String, i64, f64)> {
    let sql = "SELECT id, version, text, pair, stars FROM note ORDER BY tenant, id";
    let rows = sqlx::query(sql).fetch_all(&mut raw(path).await).await.unwrap();
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4)))
        .collect()
}

/// Pairs are written all the time; every backup has whole pairs, at least those acknowledged before it began and at most
/// those asked for before it ended. A plain copy of the file, the control, does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_one_moment_of_a_store_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let store = open(&path).await;
    let ctx = fixtures::context();
    let (stop, begun, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let writer = tokio::spawn({
        let (store, ctx, stop, begun, done) = (
            store.clone(),
            ctx.clone(),
            stop.clone(),
            begun.clone(),
            done.clone(),
        );
        async move {
            let mut pair = 0;
            while !stop.load(Ordering::SeqCst) {
                let both = [0, 1].map(|side| {
                    Write::insert(
                        fixtures::id(),
                        note(&format!("{pair} {side} {}", "x".repeat(400)), pair),
                    )
                });
                begun.fetch_add(1, Ordering::SeqCst);
                store.apply(&ctx, &both).await.unwrap();
                done.fetch_add(1, Ordering::SeqCst);
                pair += 1;
            }
        }
    });
    while done.load(Ordering::SeqCst) < 200 {
        tokio::task::yield_now().await;
    }
    let mut steps = Vec::new();
    for round in 0..5 {
        let file = folder.path().join(format!("{round}.backup"));
        let before = done.load(Ordering::SeqCst) as i64;
        let taken = store.backup(&file, &mut |step| steps.push(step)).await.unwrap();
        let after = begun.load(Ordering::SeqCst) as i64;
        let pairs = number(&file, "SELECT count(*) / 2 FROM note").await;
        assert!(
            (before..=after).contains(&pairs),
            "{before} <= {pairs} <= {after}"
        );
        assert_eq!(number(&file, HALVES).await, 0);
        let table = taken.tables.iter().find(|table| table.name == "note").unwrap();
        assert_eq!(table.rows as i64, pairs * 2);
        assert_eq!(taken.bytes, std::fs::metadata(&file).unwrap().len());
        assert_eq!(backup::verify(&file, &mut |_| ()).await.unwrap(), taken);
    }
    assert!(steps.contains(&Progress::Checking));
    assert!(
        steps
            .iter()
            .any(|step| matches!(step, Progress::Reading { table, .. } if table == "note"))
    );

    // The control: the file alone, without its log, is not what was acknowledged.
    let before = done.load(Ordering::SeqCst) as i64;
    let copy = folder.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    let mut plain = raw(&copy).await;
    let found = sqlx::query("SELECT count(*) / 2 FROM note")
        .fetch_one(&mut plain)
        .await;
    assert!(
        found.is_err() || found.unwrap().get::<i64, _>(0) < before,
        "a plain copy would have done"
    );

    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    let file = folder.path().join("last.backup");
    store.backup(&file, &mut |_| ()).await.unwrap();
    let restored = folder.path().join("restored.db");
    backup::restore(&file, &restored, &mut |_| ()).await.unwrap();
    assert_eq!(rows(&restored).await, rows(&path).await);
    let again = open(&restored).await;
    assert_eq!(
        again.count(&ctx, &NOTE, &Filter::All).await.unwrap(),
        2 * done.load(Ordering::SeqCst)
    );
    again
        .apply(&ctx, &[Write::insert(fixtures::id(), note("after", -1))])
        .await
        .unwrap();
    assert_eq!(
        number(
            &restored,
            "SELECT count(*) FROM sqlite_schema WHERE name = 'crm_backup'"
        )
        .await,
        0
    );
}

async fn small(folder: &Path) -> std::path::PathBuf {
    let store = open(&folder.join("crm.db")).await;
    let ctx = fixtures::context();
    let many: Vec<Write> = (0..500)
        .map(|n| {
            Write::insert(
                fixtures::id(),
                note(&format!("canary {n:04} {}", "y".repeat(300)), n / 2),
            )
        })
        .collect();
    store.apply(&ctx, &many).await.unwrap();
    let file = folder.join("a.backup");
    store.backup(&file, &mut |_| ()).await.unwrap();
    file
}

#[tokio::test]
async fn what_is_not_whole_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = small(folder.path()).await;
    let whole = std::fs::read(&file).unwrap();
    let target = folder.path().join("target.db");
    let broken = folder.path().join("broken.backup");

    for keep in [0, 50, 4096, whole.len() / 2, whole.len() - 4096, whole.len() - 1] {
        std::fs::write(&broken, &whole[..keep]).unwrap();
        let error = backup::restore(&broken, &target, &mut |_| ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{keep} bytes: {error}");
        assert!(!target.exists());
    }
    // One bit of one letter of one value: sound in structure, so only the contents tell.
    let at = whole
        .windows(11)
        .position(|bytes| bytes == b"canary 0321")
        .unwrap();
    let mut flipped = whole.clone();
    flipped[at + 9] ^= 1;
    std::fs::write(&broken, &flipped).unwrap();
    let check: String = sqlx::query("PRAGMA integrity_check")
        .fetch_one(&mut raw(&broken).await)
        .await
        .unwrap()
        .get(0);
    assert_eq!(
        check, "ok",
        "the flipped bit was to be one that SQLite does not see"
    );
    let error = backup::restore(&broken, &target, &mut |_| ()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("table")),
        (ErrorKind::Corrupt, Some("note")),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("canary"));

    // Rows removed with care, and a table.
    for sql in ["DELETE FROM note WHERE pair = 7", "DROP TABLE note"] {
        std::fs::write(&broken, &whole).unwrap();
        let mut tampered = raw(&broken).await;
        sqlx::query(sql).execute(&mut tampered).await.unwrap();
        sqlx::Connection::close(tampered).await.unwrap();
        let error = backup::verify(&broken, &mut |_| ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{sql}: {error}");
    }
    // Files that never were backups.
    std::fs::write(
        &broken,
        "not a database, but long enough to be looked at. ".repeat(100),
    )
    .unwrap();
    let error = backup::verify(&broken, &mut |_| ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let error = backup::verify(folder.path().join("crm.db"), &mut |_| ())
        .await
        .unwrap_err();
    assert!(
        error.kind() == ErrorKind::Corrupt && error.to_string().contains("no backup"),
        "{error}"
    );
    let error = backup::verify(folder.path().join("absent"), &mut |_| ())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("path")),
        "{error}"
    );

    // And the whole one is taken.
    backup::restore(&file, &target, &mut |_| ()).await.unwrap();
    assert_eq!(rows(&target).await, rows(&folder.path().join("crm.db")).await);
}

#[tokio::test]
async fn nothing_is_ever_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let file = small(folder.path()).await;
    let store = open(&folder.path().join("crm.db")).await;
    let refused = |error: crm_core::Error| {
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some("path")),
            "{error}"
        );
    };
    let before = std::fs::read(&file).unwrap();
    refused(store.backup(&file, &mut |_| ()).await.unwrap_err());
    assert_eq!(std::fs::read(&file).unwrap(), before);
    // The open store itself, another database, a folder, and a name whose old log is still there.
    refused(
        backup::restore(&file, folder.path().join("crm.db"), &mut |_| ())
            .await
            .unwrap_err(),
    );
    let other = folder.path().join("other.db");
    std::fs::write(&other, "mine").unwrap();
    refused(backup::restore(&file, &other, &mut |_| ()).await.unwrap_err());
    assert_eq!(std::fs::read(&other).unwrap(), b"mine");
    refused(
        backup::restore(&file, folder.path(), &mut |_| ())
            .await
            .unwrap_err(),
    );
    std::fs::write(folder.path().join("gone.db-wal"), "old").unwrap();
    refused(
        backup::restore(&file, folder.path().join("gone.db"), &mut |_| ())
            .await
            .unwrap_err(),
    );
    let nowhere = folder.path().join("no/such/folder/a.backup");
    assert!(store.backup(&nowhere, &mut |_| ()).await.is_err());

    let memory = SqliteStore::open_url("sqlite::memory:").await.unwrap();
    let error = memory
        .backup(folder.path().join("m.backup"), &mut |_| ())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// Dropped at any moment, a backup leaves no file, and the store works on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_backup_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    small(folder.path()).await;
    let store = open(&folder.path().join("crm.db")).await;
    let there = || {
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = there();
    let mut dropped = 0;
    for round in 0..40_u32 {
        let file = folder.path().join("dropped.backup");
        let mut steps = |_| ();
        let call = store.backup(&file, &mut steps);
        tokio::select! {
            biased;
            done = call => { done.unwrap(); std::fs::remove_file(&file).unwrap(); }
            () = async { for _ in 0..round * 8 { tokio::task::yield_now().await; } } => dropped += 1,
        }
        assert_eq!(there(), before, "round {round}");
    }
    assert!(dropped > 5, "no call was dropped");
    store
        .apply(
            &fixtures::context(),
            &[Write::insert(fixtures::id(), note("after", 0))],
        )
        .await
        .unwrap();
}
