//! SQLite in a file that belongs to the host: its tables, its transaction.

use std::path::Path;

use crm_core::ErrorKind;
use crm_core::capability::RecordStore as _;
use crm_core::query::Filter;
use crm_core::record::{Record, Write};
use crm_core::testkit::fixtures;
use crm_core::testkit::store::{JOB, SAMPLE};
use crm_store::sql::{SqliteConfig, SqliteStore, backup};
use rusqlite::{Connection, TransactionBehavior};

fn sample(code: &str) -> Record {
    Record::new(&SAMPLE)
        .with("label", "x")
        .and_then(|record| record.with("code", code))
        .unwrap()
}

fn words(path: &Path, sql: &str) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// What the host does and what the store does happen together or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("host.db");
    let store = SqliteStore::open_file(&path, SqliteConfig::default())
        .await
        .unwrap();
    store.migrate(&[&SAMPLE]).await.unwrap();
    let ctx = fixtures::context();
    let mut host = Connection::open(&path).unwrap();
    host.execute_batch("CREATE TABLE booking (a INTEGER)").unwrap();
    let look = Connection::open(&path).unwrap();
    let count = |table: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        look.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    let book = "INSERT INTO booking VALUES (1)";

    let unit = host
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    unit.execute(book, []).unwrap();
    let one = [Write::insert(fixtures::id(), sample("A"))];
    assert_eq!(store.apply_in(&unit, &ctx, &one).unwrap().len(), 1);
    unit.rollback().unwrap();
    assert_eq!((count("kit_sample"), count("booking")), (0, 0), "rolled back");

    let unit = host
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    unit.execute(book, []).unwrap();
    let many: Vec<Write> = (0..40)
        .map(|n| Write::insert(fixtures::id(), sample(&n.to_string())))
        .collect();
    store.apply_in(&unit, &ctx, &many).unwrap();
    assert_eq!(store.count(&ctx, &SAMPLE, &Filter::All).await.unwrap(), 0);
    unit.commit().unwrap();
    assert_eq!((count("kit_sample"), count("booking")), (40, 1), "committed");
    assert_eq!(store.count(&ctx, &SAMPLE, &Filter::All).await.unwrap(), 40);

    // A unit that fails is gone whole; what the host did stays its own business.
    let unit = host
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    unit.execute(book, []).unwrap();
    let taken = ["B", "7"].map(|code| Write::insert(fixtures::id(), sample(code)));
    let error = store.apply_in(&unit, &ctx, &taken).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(
        (error.context("write"), error.context("index")),
        (Some("1"), Some("kit_sample_code"))
    );
    unit.commit().unwrap();
    assert_eq!(
        (count("kit_sample"), count("booking")),
        (40, 2),
        "a failed unit leaves nothing"
    );

    // Without a transaction there is nothing to join, and in another file it would not be the store's.
    let error = store.apply_in(&host, &ctx, &one).unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Invalid, Some("connection")),
        "{error}"
    );
    let mut other = Connection::open(folder.path().join("other.db")).unwrap();
    let unit = other.transaction().unwrap();
    let error = store.apply_in(&unit, &ctx, &one).unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("connection")),
        "{error}"
    );
    // The store itself goes on as before.
    store.apply(&ctx, &one).await.unwrap();
    assert_eq!(count("kit_sample"), 41);
}

/// Two stores with prefixes of their own share a file with a host's tables, nothing of theirs meets, and a backup of the
/// file checks both.
#[tokio::test]
async fn prefixes_keep_stores_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("host.db");
    let host = Connection::open(&path).unwrap();
    host.execute_batch("CREATE TABLE kit_sample (a INTEGER)").unwrap();
    let ctx = fixtures::context();
    let insert = || [Write::insert(fixtures::id(), sample("A"))];
    let open = |prefix: &str| SqliteStore::open_file(&path, SqliteConfig::default().prefix(prefix));
    let url = format!("sqlite:{}?prefix=two_", path.display());
    let (one, two) = (
        open("one_").await.unwrap(),
        SqliteStore::open_url(&url).await.unwrap(),
    );
    for store in [&one, &two] {
        store.migrate(&[&SAMPLE, &JOB]).await.unwrap();
        store.migrate(&[&SAMPLE, &JOB]).await.unwrap();
        store.apply(&ctx, &insert()).await.unwrap();
        let error = store.apply(&ctx, &insert()).await.unwrap_err();
        assert_eq!(error.context("index"), Some("kit_sample_code"), "{error}");
        assert_eq!(
            store
                .count(&ctx, &SAMPLE, &Filter::eq("code", "A"))
                .await
                .unwrap(),
            1
        );
    }
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY 1";
    let ours = |prefix: &str| ["crm_ledger", "kit_job", "kit_sample"].map(|name| format!("{prefix}{name}"));
    let wanted: Vec<String> = [String::from("kit_sample")]
        .into_iter()
        .chain(ours("one_"))
        .chain(ours("two_"))
        .collect();
    assert_eq!(words(&path, tables), wanted);
    // The planner knows the tables by the names they have.
    let told = words(
        &path,
        "SELECT DISTINCT tbl FROM sqlite_stat1 WHERE tbl LIKE '%kit_sample' ORDER BY 1",
    );
    assert_eq!(told, ["one_kit_sample", "two_kit_sample"]);
    // What is there and is not ours is left alone.
    let error = open("").await.unwrap().migrate(&[&SAMPLE]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("schema")),
        (ErrorKind::Config, Some("kit_sample")),
        "{error}"
    );
    for wrong in ["Big_", "a-b", "1a_"] {
        let error = open(wrong).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some("prefix")),
            "{wrong}"
        );
    }

    let file = folder.path().join("whole.backup");
    assert_eq!(one.backup(&file, &mut |_| ()).await.unwrap().tables.len(), 7);
    // A table of the second store that is gone shows as well.
    host.execute_batch("DROP TABLE two_kit_job").unwrap();
    let error = one
        .backup(folder.path().join("less.backup"), &mut |_| ())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("table")),
        (ErrorKind::Corrupt, Some("two_kit_job")),
        "{error}"
    );
    assert_eq!(backup::verify(&file, &mut |_| ()).await.unwrap().tables.len(), 7);
}
