//! The database servers the tests talk to, and a place of its own on them for each test.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crm_core::capability::RecordStore;
use crm_core::memory::MemoryStore;
use crm_core::testkit::store::Under;
use crm_store::{MysqlConfig, MysqlStore, PostgresConfig, PostgresStore};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqlSafeStr as _};

/// A server's URL; says loudly when there is none, and fails where servers are required.
pub(crate) fn server(variable: &str) -> Option<String> {
    if let Ok(url) = std::env::var(variable) {
        return Some(url);
    }
    assert!(
        std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(),
        "OPEN_CRM_REQUIRE_BACKENDS is set, but {variable} is not"
    );
    let text = format!("SKIPPED: a test of a database server ({variable} is not set)\n");
    let _ = std::io::stderr().write_all(text.as_bytes());
    None
}

pub(crate) const MYSQL: &str = "OPEN_CRM_TEST_MYSQL_URL";
pub(crate) const POSTGRES: &str = "OPEN_CRM_TEST_POSTGRES_URL";

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
        let server = server(MYSQL)?;
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
        let server = server(POSTGRES)?;
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
        let server = server(POSTGRES)?;
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

/// A store and what must live as long as it; one in memory stands in where there is no server.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn RecordStore>,
    _own: Option<Own>,
}

impl Under for Opened {
    fn store(&self) -> Arc<dyn RecordStore> {
        self.store.clone()
    }
}

impl Opened {
    fn stand_in() -> Self {
        Self {
            store: Arc::new(MemoryStore::new("stand-in")),
            _own: None,
        }
    }
}

/// A MySQL store of the test's own.
pub(crate) async fn mysql() -> Opened {
    let Some(own) = Own::mysql().await else {
        return Opened::stand_in();
    };
    let config = MysqlConfig::default().wait(std::time::Duration::from_secs(30));
    Opened {
        store: Arc::new(own.open_mysql(config).await),
        _own: Some(own),
    }
}

/// A PostgreSQL store of the test's own.
pub(crate) async fn postgres() -> Opened {
    let Some(own) = Own::postgres().await else {
        return Opened::stand_in();
    };
    let config = PostgresConfig::default().wait(std::time::Duration::from_secs(30));
    Opened {
        store: Arc::new(own.open_postgres(config).await),
        _own: Some(own),
    }
}

/// How many sequences the model is compared over: `OPEN_CRM_TEST_SEQUENCES`, or `usual`.
pub(crate) fn sequences(usual: usize) -> usize {
    std::env::var("OPEN_CRM_TEST_SEQUENCES").map_or(usual, |text| text.parse().unwrap())
}
