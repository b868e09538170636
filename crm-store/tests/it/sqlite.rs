//! What is SQLite's own: opening, growing tables, damage, and calls that are dropped halfway.

use std::sync::Arc;
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::query::{Aggregate, Assign, Claim, Filter, Query};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Write};
use crm_core::testkit::fixtures::{self, Dice};
use crm_core::{ErrorKind, Health, Provider, Timestamp};
use crm_store::customers::SCHEMAS;
use crm_store::{SqliteConfig, SqliteStore};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Row};

static NOTE: Schema = Schema {
    name: "note",
    fields: &[
        Field::new("text", FieldType::Text),
        Field::new("stars", FieldType::Int),
    ],
    indexes: &[Index::unique("note_text", &["text"])],
};

fn note(text: &str) -> Record {
    Record::new(&NOTE)
        .with("text", text)
        .unwrap()
        .with("stars", 1_i64)
        .unwrap()
}

/// A connection that knows nothing of the store.
pub(crate) async fn raw(path: &std::path::Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(path)
        // The connection before it may still be closing: the last one brings the log into the file, and keeps all others out
        // for as long as the disk takes.
        .busy_timeout(Duration::from_secs(30))
        .connect()
        .await
        .unwrap()
}

#[tokio::test]
async fn what_cannot_be_opened_names_the_setting_and_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no/such/folder/crm.db");
    let error = SqliteStore::open_file(&missing, SqliteConfig::default())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("url")),
        "{error}"
    );
    assert_eq!(
        error.context("path"),
        Some(missing.display().to_string().as_str())
    );

    let error = SqliteStore::open_file(folder.path(), SqliteConfig::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "a folder is no file: {error}");

    let error = SqliteStore::open_url("sqlite:/proc/version").await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Config | ErrorKind::Corrupt),
        "{error}"
    );

    let url = format!("sqlite://{}?mode=rw", folder.path().join("absent.db").display());
    let error = SqliteStore::open_url(&url).await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Config,
        "rw does not make a file: {error}"
    );

    let garbage = folder.path().join("garbage.db");
    std::fs::write(&garbage, "This is a letter, not a database. ".repeat(200)).unwrap();
    let error = SqliteStore::open_file(&garbage, SqliteConfig::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn the_same_file_by_url_and_by_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("two words.db");
    let url = format!("sqlite:{}", path.display().to_string().replace(' ', "%20"));
    let (ctx, id) = (fixtures::context(), fixtures::id());
    {
        let store = SqliteStore::open(&url, SqliteConfig::default().name("main"))
            .await
            .unwrap();
        assert_eq!(
            (store.info().scheme.as_str(), store.info().name.as_str()),
            ("sqlite", "main")
        );
        assert_eq!(store.check().await.unwrap(), Health::Ready);
        assert!(store.capability().durable);
        store.migrate(&[&NOTE]).await.unwrap();
        store
            .apply(&ctx, &[Write::insert(id, note("kept"))])
            .await
            .unwrap();
    }
    let store = SqliteStore::open_file(&path, SqliteConfig::default())
        .await
        .unwrap();
    store.migrate(&[&NOTE]).await.unwrap();
    assert!(store.get(&ctx, &NOTE, &[id]).await.unwrap()[0].is_some());
    let mode: String = sqlx::query("PRAGMA journal_mode")
        .fetch_one(&mut raw(&path).await)
        .await
        .unwrap()
        .get(0);
    assert_eq!(mode, "wal");
}

/// Closing waits for what is under way; afterwards the file is whole by itself, nothing is open on it, and calls are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_store_leaves_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let store = Arc::new(
        SqliteStore::open_file(&path, SqliteConfig::default())
            .await
            .unwrap(),
    );
    store.migrate(&[&NOTE]).await.unwrap();
    let ctx = fixtures::context();
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..40 {
        let (store, ctx) = (store.clone(), ctx.clone());
        calls.spawn(async move {
            let done = store
                .apply(&ctx, &[Write::insert(fixtures::id(), note(&n.to_string()))])
                .await;
            store.count(&ctx, &NOTE, &Filter::All).await.ok();
            done.is_ok()
        });
    }
    let log = folder.path().join("crm.db-wal");
    assert!(log.exists(), "there would be nothing to see");
    store.close().await.unwrap();
    let stored = calls.join_all().await.into_iter().filter(|done| *done).count();
    assert!(!log.exists() && !folder.path().join("crm.db-shm").exists());
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let ours = open.filter(|file| std::fs::read_link(file.path()).is_ok_and(|file| file == path));
    assert_eq!(ours.count(), 0);

    let error = store.count(&ctx, &NOTE, &Filter::All).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let one_more = [Write::insert(fixtures::id(), note("late"))];
    let error = store.apply(&ctx, &one_more).await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
    store.close().await.unwrap();

    // Moved, it is the same store.
    let moved = folder.path().join("moved.db");
    std::fs::rename(&path, &moved).unwrap();
    let store = SqliteStore::open_file(&moved, SqliteConfig::default())
        .await
        .unwrap();
    assert_eq!(
        store.count(&ctx, &NOTE, &Filter::All).await.unwrap(),
        stored as u64
    );
}

#[tokio::test]
async fn stores_in_memory_do_not_share() {
    let (a, b) = (
        SqliteStore::open_url("sqlite::memory:").await.unwrap(),
        SqliteStore::open_url("sqlite::memory:").await.unwrap(),
    );
    let ctx = fixtures::context();
    for store in [&a, &b] {
        store.migrate(&[&NOTE]).await.unwrap();
    }
    a.apply(&ctx, &[Write::insert(fixtures::id(), note("a"))])
        .await
        .unwrap();
    assert_eq!(b.count(&ctx, &NOTE, &Filter::All).await.unwrap(), 0);
    assert!(!a.capability().durable);
}

#[tokio::test]
async fn without_migration_the_error_says_so() {
    let store = SqliteStore::open_url("sqlite::memory:").await.unwrap();
    let error = store
        .count(&fixtures::context(), &NOTE, &Filter::All)
        .await
        .unwrap_err();
    assert!(
        error.kind() == ErrorKind::Config && error.to_string().contains("migrate"),
        "{error}"
    );
}

#[tokio::test]
async fn schemas_grow_but_never_lose() {
    static GROWN: Schema = Schema {
        name: "note",
        fields: &[
            Field::new("text", FieldType::Text),
            Field::new("stars", FieldType::Int),
            Field::new("mood", FieldType::Text).nullable(),
        ],
        indexes: &[
            Index::unique("note_text", &["text"]),
            Index::new("note_mood", &["mood"]),
        ],
    };
    static LOST: Schema = Schema {
        name: "note",
        fields: &[Field::new("text", FieldType::Text)],
        indexes: &[],
    };
    static TYPED: Schema = Schema {
        name: "note",
        fields: &[
            Field::new("text", FieldType::Text),
            Field::new("stars", FieldType::Float),
        ],
        indexes: &[],
    };
    static REQUIRED: Schema = Schema {
        name: "note",
        fields: &[
            Field::new("text", FieldType::Text),
            Field::new("stars", FieldType::Int),
            Field::new("mood", FieldType::Text),
        ],
        indexes: &[Index::unique("note_text", &["text"])],
    };
    static COLLIDING: Schema = Schema {
        name: "note",
        fields: NOTE.fields,
        indexes: &[
            Index::unique("note_text", &["text"]),
            Index::unique("note_stars", &["stars"]),
        ],
    };
    let store = SqliteStore::open_url("sqlite::memory:").await.unwrap();
    let ctx = fixtures::context();
    store.migrate(&[&NOTE]).await.unwrap();
    let writes = [
        Write::insert(fixtures::id(), note("a")),
        Write::insert(fixtures::id(), note("b")),
    ];
    store.apply(&ctx, &writes).await.unwrap();
    for (schema, word) in [
        (&LOST, "field=stars"),
        (&TYPED, "stored=Int"),
        (&REQUIRED, "field=mood"),
        (&COLLIDING, "index=note_stars"),
    ] {
        let error = store.migrate(&[schema]).await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Config && error.to_string().contains(word),
            "{error}"
        );
    }
    store.migrate(&[&GROWN]).await.unwrap();
    store.migrate(&[&GROWN]).await.unwrap();
    let found = store
        .find(&ctx, &GROWN, &Query::new(Filter::null("mood")))
        .await
        .unwrap();
    assert_eq!(found.items.len(), 2);
}

#[tokio::test]
async fn a_ledger_of_a_newer_version_and_a_foreign_table_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let store = SqliteStore::open_file(&path, SqliteConfig::default())
        .await
        .unwrap();
    let mut other = raw(&path).await;
    sqlx::query("CREATE TABLE note (mine TEXT)")
        .execute(&mut other)
        .await
        .unwrap();
    let error = store.migrate(&[&NOTE]).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Config && error.to_string().contains("schema=note"),
        "{error}"
    );
    sqlx::query("DROP TABLE note").execute(&mut other).await.unwrap();
    store.migrate(&[&NOTE]).await.unwrap();
    sqlx::query("UPDATE crm_ledger SET shape = '2' WHERE name = '#format'")
        .execute(&mut other)
        .await
        .unwrap();
    let error = store.migrate(&[&NOTE]).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Corrupt && error.to_string().contains("newer"),
        "{error}"
    );
}

#[tokio::test]
async fn a_lock_held_by_another_process_is_told_and_can_be_retried() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let config = SqliteConfig::default().wait(Duration::from_millis(200));
    let store = SqliteStore::open_file(&path, config).await.unwrap();
    store.migrate(&[&NOTE]).await.unwrap();
    let ctx = fixtures::context();
    let mut other = raw(&path).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let error = store
        .apply(&ctx, &[Write::insert(fixtures::id(), note("secret name"))])
        .await
        .unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unavailable && error.is_retryable(),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("secret"));
    assert_eq!(
        store.count(&ctx, &NOTE, &Filter::All).await.unwrap(),
        0,
        "readers are not held up"
    );
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    store
        .apply(&ctx, &[Write::insert(fixtures::id(), note("x"))])
        .await
        .unwrap();
}

/// A limit on the size of files stands in for a disk that fails (the write ends with EFBIG).
#[tokio::test]
async fn a_failing_disk_is_told_and_leaves_nothing_half() {
    static PAGE: Schema = Schema {
        name: "page",
        fields: &[Field::new("text", FieldType::Text)],
        indexes: &[],
    };
    let page = |text: &str| Record::new(&PAGE).with("text", text).unwrap();
    let text = |n: usize| format!("secret {n} {}", "x".repeat(500_000));
    if let Ok(path) = std::env::var("CRM_STORE_TEST_LIMITED") {
        let store = SqliteStore::open_file(&path, SqliteConfig::default())
            .await
            .unwrap();
        store.migrate(&[&PAGE]).await.unwrap();
        let ctx = fixtures::context();
        let mut written = 0;
        let error = loop {
            let pair = [0, 1].map(|side| Write::insert(fixtures::id(), page(&text(written + side))));
            match store.apply(&ctx, &pair).await {
                Ok(_) => written += 2,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.context("sqlite_code").is_some() && !format!("{error:?}").contains("secret"));
        assert!(written > 0);
        assert_eq!(
            store.count(&ctx, &PAGE, &Filter::All).await.unwrap(),
            written as u64
        );
        println!("told");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // 16 MB in blocks of 512 bytes; a shell that ignores the signal hands that on.
    let out = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 32768; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args([
            "sqlite::a_failing_disk_is_told_and_leaves_nothing_half",
            "--exact",
            "--nocapture",
        ])
        .env("CRM_STORE_TEST_LIMITED", folder.path().join("crm.db"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && said.contains("told"),
        "{said} {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[tokio::test]
async fn errors_never_hold_values() {
    let store = SqliteStore::open_url("sqlite::memory:").await.unwrap();
    store.migrate(&[&NOTE]).await.unwrap();
    let ctx = fixtures::context();
    let twice = [
        Write::insert(fixtures::id(), note("ana@example.com")),
        Write::insert(fixtures::id(), note("ana@example.com")),
    ];
    let error = store.apply(&ctx, &twice).await.unwrap_err();
    assert_eq!(
        (
            error.context("schema"),
            error.context("write"),
            error.context("index")
        ),
        (Some("note"), Some("1"), Some("note_text"))
    );
    assert!(!format!("{error:?}").contains("ana@"));
}

/// The call's result, unless it takes more turns of the scheduler: then it is dropped where it is.
async fn within<T>(turns: usize, call: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = call => Some(done),
        () = async { for _ in 0..turns { tokio::task::yield_now().await; } } => None,
    }
}

/// Two thousand calls dropped at any moment: nothing stays open, nothing is half done, everything works afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_calls_leave_nothing_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let store = Arc::new(
        SqliteStore::open_file(&path, SqliteConfig::default())
            .await
            .unwrap(),
    );
    store.migrate(&[&NOTE]).await.unwrap();
    let ctx = fixtures::context();
    let mut dice = Dice::new(3);
    let mut dropped = 0;
    // How many turns of the scheduler a call gets, at most: follows the machine, so that about half of them are dropped.
    let mut most = 64_usize;
    for round in 0..2000 {
        let turns = 1 + dice.below(most);
        let pair = [
            Write::insert(fixtures::id(), note(&format!("{round} left"))),
            Write::insert(fixtures::id(), note(&format!("{round} right"))),
        ];
        let claim = Claim {
            due: Filter::eq("stars", 1_i64),
            order: vec![],
            limit: 5,
            assign: vec![Assign::Add("stars", 0)],
        };
        let ended = match round % 4 {
            0 | 1 => within(turns, store.apply(&ctx, &pair)).await.map(|done| {
                done.unwrap();
            }),
            2 => within(turns, store.claim(&ctx, &NOTE, &claim)).await.map(|done| {
                done.unwrap();
            }),
            _ => within(turns, store.find(&ctx, &NOTE, &Query::new(Filter::All)))
                .await
                .map(|done| {
                    done.unwrap();
                }),
        };
        match ended {
            Some(()) => most = (most - most / 8).max(8),
            None => {
                dropped += 1;
                most += most / 8 + 1;
            }
        }
    }
    assert!((100..1900).contains(&dropped), "the storm was none: {dropped}");
    // Somebody else gets the lock at once: no transaction was left behind.
    let mut other = raw(&path).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    let ends: i64 = sqlx::query(
        "SELECT count(*) FROM note a WHERE a.text LIKE '% left' AND NOT EXISTS \
         (SELECT 1 FROM note b WHERE b.text = replace(a.text, 'left', 'right'))",
    )
    .fetch_one(&mut other)
    .await
    .unwrap()
    .get(0);
    assert_eq!(ends, 0, "units of work were torn");
    store
        .apply(&ctx, &[Write::insert(fixtures::id(), note("after"))])
        .await
        .unwrap();
    let all = Aggregate::new(Filter::All).measure("n", crm_core::query::Measure::Count);
    store.aggregate(&ctx, &NOTE, &all).await.unwrap();
}

#[tokio::test]
async fn months_before_1970_are_their_own() {
    static VISIT: Schema = Schema {
        name: "visit",
        fields: &[Field::new("at", FieldType::Timestamp)],
        indexes: &[],
    };
    let store = SqliteStore::open_url("sqlite::memory:").await.unwrap();
    store.migrate(&[&VISIT]).await.unwrap();
    let ctx = fixtures::context();
    let times = [-1, 0, -62_135_596_800_000_000, 253_402_300_799_999_999].map(Timestamp::from_micros);
    let visit = |at: Timestamp| Write::insert(fixtures::id(), Record::new(&VISIT).with("at", at).unwrap());
    store.apply(&ctx, &times.map(visit)).await.unwrap();
    let months = Aggregate::new(Filter::All).by_month("at");
    let table = store.aggregate(&ctx, &VISIT, &months).await.unwrap();
    let found: Vec<_> = (0..table.rows())
        .filter_map(|row| table.columns()[0].text_at(row))
        .collect();
    assert_eq!(found, ["0001-01", "1969-12", "1970-01", "9999-12"]);
    store
        .apply(&ctx, &[visit(Timestamp::from_micros(i64::MAX))])
        .await
        .unwrap();
    let error = store.aggregate(&ctx, &VISIT, &months).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Unsupported, Some("at"))
    );
}

#[tokio::test]
async fn every_schema_of_customers_is_sound() {
    for schema in SCHEMAS {
        schema.validate().unwrap();
    }
}

/// Keys are found by their index, however the answer is ordered: else every lookup reads the whole tenant.
#[tokio::test]
async fn lookups_use_their_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let store = SqliteStore::open_file(&path, SqliteConfig::default())
        .await
        .unwrap();
    store.migrate(&SCHEMAS).await.unwrap();
    let mut other = raw(&path).await;
    let many = vec!["?"; 2048].join(", ");
    let mut plan = async |sql: String| {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
            .fetch_all(&mut other)
            .await
            .unwrap();
        rows.iter()
            .map(|row| row.get::<String, _>(3))
            .collect::<Vec<_>>()
            .join("; ")
    };
    for (table, condition, order, index) in [
        (
            "crm_contact_point",
            format!("match_key IS NOT NULL AND match_key IN ({many})"),
            "id",
            "crm_contact_point_match",
        ),
        (
            "crm_contact_point",
            "match_key IS NOT NULL AND match_key = ?".into(),
            "id",
            "crm_contact_point_match",
        ),
        (
            "crm_contact_point",
            "customer_id IN (?)".into(),
            "id",
            "crm_contact_point_customer",
        ),
        (
            "crm_external_ref",
            format!("(system = ? AND external_id IN ({many}))"),
            "id",
            "crm_external_ref_key",
        ),
        (
            "crm_external_ref",
            format!("customer_id IN ({many})"),
            "id",
            "crm_external_ref_customer",
        ),
        ("crm_order", "customer_id = ?".into(), "id", "crm_order_customer"),
        (
            "crm_order",
            "customer_id = ?".into(),
            "at DESC NULLS LAST, id",
            "crm_order_customer",
        ),
        (
            "crm_order",
            format!("(source = ? AND event_id IN ({many}))"),
            "id",
            "crm_order_event",
        ),
        (
            "crm_customer",
            "1 = 1".into(),
            "created_at ASC NULLS FIRST, id",
            "crm_customer_created_at",
        ),
        ("crm_customer", "id > ?".into(), "id", "PRIMARY KEY"),
        ("crm_customer", format!("id IN ({many})"), "id", "PRIMARY KEY"),
    ] {
        let sql = format!("SELECT * FROM {table} WHERE tenant = ? AND {condition} ORDER BY {order} LIMIT ?");
        let found = plan(sql).await;
        assert!(found.contains(index), "{table}: {condition:.60}: {found}");
        let telling = index == "crm_customer_created_at" || found.contains("tenant=? AND");
        assert!(telling, "{table}: {condition:.60}: {found}");
    }
}
