//! A place of a test's own on the SQL servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crm_store::{MysqlConfig, MysqlStore, PostgresConfig, PostgresStore};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqlSafeStr as _};

use crate::stores::{MYSQL, Opened, POSTGRES, setting};

/// A name that no other test uses.
fn own_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "crm_sql_{}_{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Runs statements on a fresh connection of the test's own.
pub(crate) async fn run_mysql(url: &str, statements: &[String]) {
    let mut connection = sqlx::MySqlConnection::connect(url).await.unwrap();
    for text in statements {
        connection
            .execute(sqlx::raw_sql(AssertSqlSafe(text.clone()).into_sql_str()))
            .await
            .unwrap();
    }
    connection.close().await.unwrap();
}

/// As [`run_mysql`].
pub(crate) async fn run_postgres(url: &str, statements: &[String]) {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    for text in statements {
        connection
            .execute(sqlx::raw_sql(AssertSqlSafe(text.clone()).into_sql_str()))
            .await
            .unwrap();
    }
    connection.close().await.unwrap();
}

/// A database (MySQL) or schema (PostgreSQL) of the test's own; dropped with this value.
pub(crate) struct Own {
    /// The server's URL, with the own database in it for MySQL.
    pub(crate) url: String,
    /// Its name.
    pub(crate) name: String,
    server: String,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Mysql,
    Schema,
    Database,
}

impl Own {
    pub(crate) async fn mysql() -> Option<Self> {
        let server = setting(MYSQL)?;
        let name = own_name();
        run_mysql(
            &server,
            &[
                format!("DROP DATABASE IF EXISTS {name}"),
                format!("CREATE DATABASE {name}"),
            ],
        )
        .await;
        let (before, _) = server.rsplit_once('/').unwrap();
        Some(Self {
            url: format!("{before}/{name}"),
            name,
            server,
            kind: Kind::Mysql,
        })
    }

    pub(crate) async fn postgres() -> Option<Self> {
        let server = setting(POSTGRES)?;
        let name = own_name();
        run_postgres(
            &server,
            &[
                format!("DROP SCHEMA IF EXISTS {name} CASCADE"),
                format!("CREATE SCHEMA {name}"),
            ],
        )
        .await;
        Some(Self {
            url: server.clone(),
            name,
            server,
            kind: Kind::Schema,
        })
    }

    /// A whole database on PostgreSQL, by which a test knows its connections.
    pub(crate) async fn postgres_database() -> Option<Self> {
        let server = setting(POSTGRES)?;
        let name = own_name();
        run_postgres(
            &server,
            &[
                format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
                format!("CREATE DATABASE {name}"),
                // The server looks for deadlocks once a second: a test that makes many has no time for that.
                format!("ALTER DATABASE {name} SET deadlock_timeout = '50ms'"),
            ],
        )
        .await;
        let (before, _) = server.rsplit_once('/').unwrap();
        Some(Self {
            url: format!("{before}/{name}"),
            name,
            server,
            kind: Kind::Database,
        })
    }

    pub(crate) async fn open_mysql(&self, config: MysqlConfig) -> MysqlStore {
        MysqlStore::open(&self.url, config.dangerous_accept_weak_durability())
            .await
            .unwrap()
    }

    pub(crate) async fn open_postgres(&self, config: PostgresConfig) -> PostgresStore {
        let config = config.with_schema(&self.name).dangerous_accept_weak_durability();
        PostgresStore::open(&self.url, config).await.unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let (server, name, kind) = (self.server.clone(), self.name.clone(), self.kind);
        let done = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                match kind {
                    Kind::Mysql => run_mysql(&server, &[format!("DROP DATABASE IF EXISTS {name}")]).await,
                    Kind::Schema => {
                        run_postgres(&server, &[format!("DROP SCHEMA IF EXISTS {name} CASCADE")]).await;
                    }
                    Kind::Database => {
                        run_postgres(&server, &[format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")])
                            .await;
                    }
                }
            });
        });
        let _ = done.join();
    }
}

/// A MySQL store of the test's own.
pub(crate) async fn mysql() -> Option<Opened> {
    let own = Own::mysql().await?;
    let config = MysqlConfig::default().wait(Duration::from_secs(30));
    let store = Arc::new(own.open_mysql(config).await);
    Some(Opened::new("mysql", store, 1, own))
}

/// A PostgreSQL store of the test's own.
pub(crate) async fn postgres() -> Option<Opened> {
    let own = Own::postgres().await?;
    let config = PostgresConfig::default().wait(Duration::from_secs(30));
    let store = Arc::new(own.open_postgres(config).await);
    Some(Opened::new("postgres", store, 1, own))
}
