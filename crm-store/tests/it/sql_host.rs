//! The host's own pool and transaction: what it does and what the store does happen together or not at all.

use crm_core::ErrorKind;
use crm_core::capability::RecordStore as _;
use crm_core::query::Filter;
use crm_core::record::{Record, Write};
use crm_core::testkit::fixtures;
use crm_core::testkit::store::SAMPLE;
use crm_store::{MysqlConfig, MysqlStore, PostgresConfig, PostgresStore};
use sqlx::{Executor as _, Row as _};

use crate::own::Own;

fn sample(code: &str) -> Record {
    Record::new(&SAMPLE)
        .with("label", "x")
        .and_then(|record| record.with("code", code))
        .unwrap()
}

macro_rules! host_and_store {
    ($pool:expr, $store:expr) => {{
        let (pool, store) = ($pool, $store);
        store.migrate(&[&SAMPLE]).await.unwrap();
        let ctx = fixtures::context();
        pool.execute(sqlx::raw_sql("CREATE TABLE booking (a BIGINT)"))
            .await
            .unwrap();
        let ours = async || store.count(&ctx, &SAMPLE, &Filter::All).await.unwrap();
        let theirs = async || {
            let row = sqlx::query("SELECT count(*) FROM booking")
                .fetch_one(&pool)
                .await
                .unwrap();
            row.try_get::<i64, _>(0).unwrap()
        };
        let book = || sqlx::raw_sql("INSERT INTO booking VALUES (1)");

        let mut host = pool.begin().await.unwrap();
        host.execute(book()).await.unwrap();
        let outcomes = store
            .apply_in(&mut host, &ctx, &[Write::insert(fixtures::id(), sample("A"))])
            .await
            .unwrap();
        assert_eq!(outcomes.len(), 1);
        host.rollback().await.unwrap();
        assert_eq!((ours().await, theirs().await), (0, 0), "rolled back");

        let mut host = pool.begin().await.unwrap();
        host.execute(book()).await.unwrap();
        let writes: Vec<Write> = (0..40)
            .map(|n| Write::insert(fixtures::id(), sample(&n.to_string())))
            .collect();
        store.apply_in(&mut host, &ctx, &writes).await.unwrap();
        assert_eq!(ours().await, 0, "the host has not committed yet");
        host.commit().await.unwrap();
        assert_eq!((ours().await, theirs().await), (40, 1), "committed");

        // A unit that fails is gone whole; what the host did stays its own business.
        let mut host = pool.begin().await.unwrap();
        host.execute(book()).await.unwrap();
        let taken = [
            Write::insert(fixtures::id(), sample("B")),
            Write::insert(fixtures::id(), sample("7")),
        ];
        let error = store.apply_in(&mut host, &ctx, &taken).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(
            (error.context("write"), error.context("index")),
            (Some("1"), Some("kit_sample_code"))
        );
        host.commit().await.unwrap();
        assert_eq!(
            (ours().await, theirs().await),
            (40, 2),
            "a failed unit leaves nothing"
        );

        // The pool is as it was: nothing of a dropped call stays open on it.
        for turns in 0..40 {
            let writes = [Write::insert(fixtures::id(), sample(&format!("drop-{turns}")))];
            let call = store.apply(&ctx, &writes);
            let _ = tokio::time::timeout(std::time::Duration::from_micros(turns * 100), call).await;
        }
        for _ in 0..8 {
            let mut host = pool.begin().await.expect("no connection has a transaction open");
            host.execute(book()).await.unwrap();
            host.rollback().await.unwrap();
        }
        assert_eq!(theirs().await, 2);
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_transaction_on_mysql() {
    let Some(own) = Own::mysql().await else { return };
    let pool = sqlx::mysql::MySqlPoolOptions::new()
        .max_connections(4)
        .connect(&own.url)
        .await
        .unwrap();
    let config = MysqlConfig::default().dangerous_accept_weak_durability();
    let store = MysqlStore::from_pool(pool.clone(), config).await.unwrap();
    host_and_store!(pool, store);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_transaction_on_postgres() {
    let Some(own) = Own::postgres_database().await else {
        return;
    };
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(4)
        .connect(&own.url)
        .await
        .unwrap();
    let config = PostgresConfig::default().dangerous_accept_weak_durability();
    let store = PostgresStore::from_pool(pool.clone(), config).await.unwrap();
    host_and_store!(pool, store);
}
