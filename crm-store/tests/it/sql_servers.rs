//! What is particular to database servers: encryption, durability that is asked for, names in a shared database,
//! interrupted migrations, indexes that are used, time limits of the configuration.

use crm_core::capability::RecordStore;
use crm_core::query::{Filter, Query};
use crm_core::record::{Record, Value, Write};
use crm_core::registry::Catalog;
use crm_core::testkit::fixtures;
use crm_core::testkit::store::{JOB, SAMPLE};
use crm_core::{Context, ErrorKind, Result, Uuid};
use crm_store::sql::Tls;
use crm_store::{MysqlConfig, MysqlStore, PostgresConfig, PostgresStore};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqlSafeStr as _};

use crate::own::{Own, run_mysql, run_postgres};
use crate::stores::{AUTHORITY, setting};

fn sample(code: &str) -> Record {
    Record::new(&SAMPLE)
        .with("label", "x")
        .and_then(|record| record.with("code", code))
        .unwrap()
}

async fn words_mysql(url: &str, text: &str) -> Vec<String> {
    let mut connection = sqlx::MySqlConnection::connect(url).await.unwrap();
    let rows = sqlx::query(AssertSqlSafe(text.to_owned()).into_sql_str())
        .fetch_all(&mut connection)
        .await
        .unwrap();
    rows.iter()
        .map(|row| {
            row.try_get_unchecked::<Option<String>, _>(0)
                .unwrap()
                .unwrap_or_default()
        })
        .collect()
}

async fn words_postgres(url: &str, text: &str) -> Vec<String> {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    let rows = sqlx::query(AssertSqlSafe(text.to_owned()).into_sql_str())
        .fetch_all(&mut connection)
        .await
        .unwrap();
    rows.iter().map(|row| row.try_get(0).unwrap()).collect()
}

/// The servers of the tests are fast, not durable: a store refuses them by name of the setting, unless told otherwise;
/// then it does not promise what they do not keep.
#[tokio::test]
async fn a_server_that_can_lose_data_is_refused() {
    fn refused(opened: Result<impl Sized>, setting: &str) {
        let Err(error) = opened else {
            panic!("it was opened");
        };
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some(setting))
        );
        assert!(!format!("{error:?}").contains("s3cret"));
    }
    if let Some(own) = Own::mysql().await {
        refused(
            MysqlStore::open(&own.url, MysqlConfig::default()).await,
            "innodb_flush_log_at_trx_commit",
        );
        let store = own.open_mysql(MysqlConfig::default()).await;
        assert!(!store.capability().durable && store.capability().shared);
    }
    if let Some(own) = Own::postgres_database().await {
        refused(
            PostgresStore::open(&own.url, PostgresConfig::default()).await,
            "fsync",
        );
        let weak = PostgresConfig::default().dangerous_accept_weak_durability();
        assert!(
            !PostgresStore::open(&own.url, weak)
                .await
                .unwrap()
                .capability()
                .durable
        );
        // By URL, as a catalog opens it.
        let mut catalog = Catalog::new();
        crm_store::catalog::register(&mut catalog);
        refused(catalog.open::<dyn RecordStore>(&own.url).await, "fsync");
        let url = format!("{}?durability=weak&prefix=shop_&connections=3", own.url);
        let store = catalog.open::<dyn RecordStore>(&url).await.unwrap();
        store.migrate(&[&JOB]).await.unwrap();
        let tables = words_postgres(
            &own.url,
            "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'",
        )
        .await;
        assert!(tables.contains(&"shop_kit_job".to_owned()), "{tables:?}");
    }
}

/// Encrypted when asked to be, and only with a certificate of the right authority when that is asked for.
#[tokio::test]
async fn connections_are_encrypted() {
    let Some(ca) = setting(AUTHORITY) else { return };
    let verified = |ca: Option<&str>| Tls::Verified {
        ca: ca.map(Into::into),
    };
    if let Some(own) = Own::mysql().await {
        // The server itself tells who is encrypted: it lets this user in no other way.
        let user = &own.name;
        run_mysql(
            &own.url,
            &[
                format!("CREATE OR REPLACE USER '{user}'@'%' IDENTIFIED BY 's3cret' REQUIRE SSL"),
                format!("GRANT ALL ON {user}.* TO '{user}'@'%'"),
            ],
        )
        .await;
        let url = own.url.replace("://crm:", &format!("://{user}:"));
        let open = |tls: Tls| {
            let config = MysqlConfig::default().tls(tls).connections(1);
            let url = url.clone();
            async move { MysqlStore::open(&url, config.dangerous_accept_weak_durability()).await }
        };
        for tls in [Tls::Required, Tls::Auto, verified(Some(&ca))] {
            open(tls).await.unwrap();
        }
        let error = open(Tls::Off).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        let error = open(verified(None)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some("tls")),
            "{error}"
        );
        run_mysql(&own.url, &[format!("DROP USER '{user}'@'%'")]).await;
    }
    if let Some(own) = Own::postgres_database().await {
        let open = |tls: Tls| {
            let config = PostgresConfig::default().tls(tls).connections(1);
            let url = own.url.clone();
            async move { PostgresStore::open(&url, config.dangerous_accept_weak_durability()).await }
        };
        let encrypted = format!(
            "SELECT s.ssl::text FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.datname = '{}' \
             AND a.application_name = 'open-crm' AND a.state IS NOT NULL ORDER BY a.backend_start DESC LIMIT 1",
            own.name
        );
        for (tls, wanted) in [
            (Tls::Off, "false"),
            (Tls::Required, "true"),
            (verified(Some(&ca)), "true"),
        ] {
            let store = open(tls.clone()).await.unwrap();
            store.migrate(&[&JOB]).await.unwrap();
            assert_eq!(words_postgres(&own.url, &encrypted).await, [wanted], "{tls:?}");
        }
        let error = open(verified(None)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some("tls")),
            "{error}"
        );
    }
}

/// Two stores with prefixes of their own share a database with a host's tables, and nothing of theirs meets.
#[tokio::test]
async fn prefixes_keep_stores_apart() {
    async fn apart(a: &dyn RecordStore, b: &dyn RecordStore) {
        for store in [a, b] {
            store.migrate(&[&SAMPLE, &JOB]).await.unwrap();
            store.migrate(&[&SAMPLE, &JOB]).await.unwrap();
        }
        let ctx = fixtures::context();
        let insert = || [Write::insert(fixtures::id(), sample("A"))];
        a.apply(&ctx, &insert()).await.unwrap();
        b.apply(&ctx, &insert()).await.unwrap();
        let error = b.apply(&ctx, &insert()).await.unwrap_err();
        assert_eq!(error.context("index"), Some("kit_sample_code"), "{error}");
        assert_eq!(a.count(&ctx, &SAMPLE, &Filter::eq("code", "A")).await.unwrap(), 1);
    }
    let wanted = |prefix: &str| ["crm_ledger", "kit_job", "kit_sample"].map(|name| format!("{prefix}{name}"));
    if let Some(own) = Own::mysql().await {
        run_mysql(&own.url, &["CREATE TABLE kit_sample (a INT)".to_owned()]).await;
        let open = |prefix: &str| own.open_mysql(MysqlConfig::default().with_prefix(prefix.to_owned()));
        apart(&open("one_").await, &open("two_").await).await;
        let tables = words_mysql(
            &own.url,
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY 1",
        )
        .await;
        let all: Vec<String> = ["kit_sample".to_owned()]
            .into_iter()
            .chain(wanted("one_"))
            .chain(wanted("two_"))
            .collect();
        assert_eq!(tables, all);
        // What is there and is not ours is left alone.
        let plain = own.open_mysql(MysqlConfig::default()).await;
        let error = plain.migrate(&[&SAMPLE]).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("schema")),
            (ErrorKind::Config, Some("kit_sample")),
            "{error}"
        );
    }
    if let Some(own) = Own::postgres().await {
        let open = |prefix: &str| own.open_postgres(PostgresConfig::default().with_prefix(prefix.to_owned()));
        apart(&open("one_").await, &open("two_").await).await;
        let tables = words_postgres(
            &own.url,
            &format!(
                "SELECT tablename::text FROM pg_tables WHERE schemaname = '{}' ORDER BY 1",
                own.name
            ),
        )
        .await;
        let all: Vec<String> = wanted("one_").into_iter().chain(wanted("two_")).collect();
        assert_eq!(tables, all);
        let indexes = words_postgres(
            &own.url,
            &format!(
                "SELECT indexname::text FROM pg_indexes WHERE schemaname = '{}' AND indexname LIKE '%code'",
                own.name
            ),
        )
        .await;
        assert_eq!(indexes.len(), 2, "{indexes:?}");
        let ours = format!("CREATE TABLE {}.kit_sample (a INT)", own.name);
        run_postgres(&own.url, &[ours]).await;
        let plain = own.open_postgres(PostgresConfig::default()).await;
        let error = plain.migrate(&[&SAMPLE]).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("schema")),
            (ErrorKind::Config, Some("kit_sample")),
            "{error}"
        );
    }
}

/// MySQL makes each table and index for good: a migration that was interrupted anywhere is finished by the next one.
#[tokio::test]
async fn an_interrupted_migration_is_finished() {
    let Some(own) = Own::mysql().await else { return };
    let store = own.open_mysql(MysqlConfig::default()).await;
    store.migrate(&[&SAMPLE]).await.unwrap();
    let entry = "SELECT shape FROM crm_ledger WHERE name = 'kit_sample'";
    let shape = words_mysql(&own.url, entry).await;
    // As if the process had died after the table, after one index, after all of them.
    for gone in [
        vec!["kit_sample_group", "kit_sample_code", "kit_sample_n"],
        vec!["kit_sample_code", "kit_sample_n"],
        vec![],
    ] {
        let mut statements = vec![
            "UPDATE crm_ledger SET name = '#unfinished:kit_sample' WHERE name = 'kit_sample'".to_owned(),
        ];
        statements.extend(
            gone.iter()
                .map(|index| format!("DROP INDEX {index} ON kit_sample")),
        );
        run_mysql(&own.url, &statements).await;
        let again = own.open_mysql(MysqlConfig::default()).await;
        again.migrate(&[&SAMPLE]).await.unwrap();
        assert_eq!(words_mysql(&own.url, entry).await, shape);
        let indexes = "SELECT DISTINCT index_name FROM information_schema.statistics WHERE table_schema = DATABASE() \
                       AND table_name = 'kit_sample' ORDER BY 1";
        assert_eq!(
            words_mysql(&own.url, indexes).await,
            ["kit_sample_code", "kit_sample_group", "kit_sample_n", "PRIMARY"]
        );
        let left = "SELECT name FROM crm_ledger WHERE name LIKE '#unfinished%'";
        assert_eq!(words_mysql(&own.url, left).await, [""; 0]);
    }
    // Without the mark a table of this name is somebody else's.
    run_mysql(
        &own.url,
        &["DELETE FROM crm_ledger WHERE name = 'kit_sample'".to_owned()],
    )
    .await;
    let error = store.migrate(&[&SAMPLE]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

/// A find by a unique key, and a page in the order of an index, go through that index.
#[tokio::test]
async fn keys_are_found_by_their_index() {
    let writes: Vec<Write> = (0..3000_i64)
        .map(|n| Write::insert(fixtures::id(), sample(&format!("code-{n}")).with("n", n).unwrap()))
        .collect();
    let ctx = fixtures::context();
    let tenant = ctx.tenant().as_str().to_owned();
    let by_key = Query::new(Filter::eq("code", "code-77"));
    if let Some(own) = Own::mysql().await {
        let store = own.open_mysql(MysqlConfig::default()).await;
        store.migrate(&[&SAMPLE]).await.unwrap();
        store.apply(&ctx, &writes).await.unwrap();
        run_mysql(&own.url, &["ANALYZE TABLE kit_sample".to_owned()]).await;
        assert_eq!(store.find(&ctx, &SAMPLE, &by_key).await.unwrap().items.len(), 1);
        let plan = |question: &str| {
            format!("EXPLAIN FORMAT=JSON SELECT * FROM kit_sample WHERE tenant = '{tenant}' AND {question}")
        };
        let found = words_mysql(
            &own.url,
            &plan("code IS NOT NULL AND code = 'code-77' ORDER BY id LIMIT 2"),
        )
        .await;
        assert!(found[0].contains("\"key\": \"kit_sample_code\""), "{found:?}");
        // The watch tells an index from none.
        let none = words_mysql(&own.url, &plan("t = 'x'")).await;
        assert!(none[0].contains("\"key\": \"PRIMARY\""), "{none:?}");
    }
    if let Some(own) = Own::postgres().await {
        let store = own.open_postgres(PostgresConfig::default()).await;
        store.migrate(&[&SAMPLE]).await.unwrap();
        store.apply(&ctx, &writes).await.unwrap();
        run_postgres(&own.url, &[format!("ANALYZE {}.kit_sample", own.name)]).await;
        assert_eq!(store.find(&ctx, &SAMPLE, &by_key).await.unwrap().items.len(), 1);
        let plan = |question: &str| {
            format!(
                "EXPLAIN SELECT * FROM {}.kit_sample WHERE tenant = '{tenant}' AND {question}",
                own.name
            )
        };
        let found = words_postgres(
            &own.url,
            &plan("(code IS NOT NULL AND code = 'code-77') ORDER BY id ASC LIMIT 2"),
        )
        .await
        .join("\n");
        assert!(found.contains("kit_sample_code"), "{found}");
        let page = words_postgres(&own.url, &plan("1 = 1 ORDER BY n ASC NULLS FIRST, id LIMIT 20"))
            .await
            .join("\n");
        assert!(page.contains("kit_sample_n"), "{page}");
        let none = words_postgres(&own.url, &plan("t = 'x'")).await.join("\n");
        assert!(!none.contains("kit_sample_code"), "{none}");
    }
}

/// A tenant that came after the statistics were made: its records are found and changed by their keys, not by reading
/// all that it has. The server counts the rows it read.
#[tokio::test]
async fn a_tenant_without_statistics_is_found_by_its_keys() {
    const ROWS: usize = 3000;
    let Some(own) = Own::postgres_database().await else {
        return;
    };
    // One connection, so that its counters can be asked for in between.
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .connect(&own.url)
        .await
        .unwrap();
    let run = async |text: String| {
        sqlx::query(AssertSqlSafe(text).into_sql_str())
            .fetch_all(&pool)
            .await
            .unwrap()
    };
    let read = async || -> i64 {
        run("SELECT pg_stat_force_next_flush()".to_owned()).await;
        let rows = run(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'kit_sample'"
                .to_owned(),
        )
        .await;
        rows[0].try_get(0).unwrap()
    };
    let config = PostgresConfig::default().dangerous_accept_weak_durability();
    let store = PostgresStore::from_pool(pool.clone(), config).await.unwrap();
    store.migrate(&[&SAMPLE]).await.unwrap();
    // As the store's own sessions have it.
    run("SET random_page_cost = 1.1".to_owned()).await;
    run("ALTER TABLE kit_sample SET (autovacuum_enabled = false)".to_owned()).await;
    let fill = async |ctx: &Context| -> Vec<(Uuid, Record)> {
        let rows: Vec<(Uuid, Record)> = (0..ROWS)
            .map(|n| (fixtures::id(), sample(&format!("code-{n}"))))
            .collect();
        let writes: Vec<Write> = rows
            .iter()
            .map(|(id, record)| Write::insert(*id, record.clone()))
            .collect();
        store.apply(ctx, &writes).await.unwrap();
        rows
    };
    fill(&fixtures::context()).await;
    run("ANALYZE kit_sample".to_owned()).await;
    let ctx = fixtures::context();
    let (rows, tenant) = (fill(&ctx).await, ctx.tenant().as_str().to_owned());
    let ids: Vec<Uuid> = rows.iter().step_by(30).map(|(id, _)| *id).collect();

    let before = read().await;
    let found = store.get(&ctx, &SAMPLE, &ids).await.unwrap();
    assert_eq!(found.iter().flatten().count(), 100);
    let by_id = read().await - before;
    let codes: Vec<Value> = (0..64).map(|n| format!("code-{}", n * 40).into()).collect();
    let filter = Filter::In {
        field: "code".into(),
        values: codes,
    };
    // So often that the server keeps one plan for all values.
    for _ in 0..7 {
        let found = store
            .find(&ctx, &SAMPLE, &Query::new(filter.clone()))
            .await
            .unwrap();
        assert_eq!(found.items.len(), 64);
    }
    let by_code = (read().await - before - by_id) / 7;
    let changes: Vec<Write> = rows
        .iter()
        .step_by(50)
        .map(|(id, record)| Write::Update {
            id: *id,
            expected: 1,
            record: record.clone().with("n", 7).unwrap(),
            before: None,
        })
        .collect();
    store.apply(&ctx, &changes).await.unwrap();
    let changed = read().await - before - by_id - by_code * 7;
    let most = ROWS as i64 / 4;
    assert!(
        (100..most).contains(&by_id) && (64..most).contains(&by_code) && (60..most).contains(&changed),
        "rows read: {by_id} for 100 ids, {by_code} for 64 codes, {changed} for 60 changes"
    );

    // Asked the plain way, the server reads them all.
    let list: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
    let before = read().await;
    run(format!(
        "SELECT * FROM kit_sample WHERE tenant = '{tenant}' AND id IN ({}) ORDER BY code, id",
        list.join(", ")
    ))
    .await;
    let plain = read().await - before;
    assert!(plain >= ROWS as i64, "{plain}");
    eprintln!(
        "rows read: {by_id} for 100 ids, {by_code} for 64 codes, {changed} for 60 changes; {plain} the plain way"
    );
}

/// Whom the server does not know, and what is not there, is told by name, without the password.
#[tokio::test]
async fn wrong_places_are_told() {
    let mut wrong = Vec::new();
    if let Some(own) = Own::mysql().await {
        for (url, kind) in [
            (own.url.replace("s3cret", "hunter2"), ErrorKind::Unauthenticated),
            (own.url.replace(&own.name, "crm_nowhere"), ErrorKind::Config),
            (
                "mysql://crm:hunter2@127.0.0.1:1/x".to_owned(),
                ErrorKind::Unavailable,
            ),
        ] {
            wrong.push((MysqlStore::open_url(&url).await.unwrap_err(), kind));
        }
    }
    if let Some(own) = Own::postgres_database().await {
        for (url, kind) in [
            (own.url.replace("s3cret", "hunter2"), ErrorKind::Unauthenticated),
            (own.url.replace(&own.name, "crm_nowhere"), ErrorKind::Config),
            (
                "postgres://crm:hunter2@127.0.0.1:1/x".to_owned(),
                ErrorKind::Unavailable,
            ),
        ] {
            wrong.push((PostgresStore::open_url(&url).await.unwrap_err(), kind));
        }
    }
    for (error, kind) in wrong {
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(!format!("{error:?}").contains("hunter2") && !format!("{error:?}").contains("s3cret"));
    }
}
