//! Every store there is: memory, a SQLite file, and the servers that the environment names (`scripts/services`). The one
//! place where tests find servers, and say so when there is none.

use std::any::Any;
use std::sync::Arc;

use crm_core::ErrorKind;
use crm_core::capability::RecordStore;
use crm_core::memory::MemoryStore;
use crm_core::registry::Catalog;
use crm_core::testkit::store::Under;

pub(crate) const MYSQL: &str = "OPEN_CRM_TEST_MYSQL_URL";
pub(crate) const POSTGRES: &str = "OPEN_CRM_TEST_POSTGRES_URL";
pub(crate) const MONGODB: &str = "OPEN_CRM_TEST_MONGODB_URL";
/// The authority that signed the servers' certificates.
pub(crate) const AUTHORITY: &str = "OPEN_CRM_TEST_SMTP_CA";

/// Says loudly what is not tested, and why; fails where everything is required.
pub(crate) fn skipped(why: &str) {
    use std::io::Write as _;
    assert!(
        std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(),
        "OPEN_CRM_REQUIRE_BACKENDS is set, but: {why}"
    );
    // The runner shows what a passing test wrote to the file descriptor, not what went through the macro.
    let _ = std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes());
}

/// What a variable of the environment names: a server's URL, a file; `None`, said loudly, when it is not set.
pub(crate) fn setting(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        skipped(&format!(
            "{variable} is not set; scripts/services starts the servers"
        ));
    }
    value
}

/// How many sequences the model is compared over: `OPEN_CRM_TEST_SEQUENCES`, or `usual`.
pub(crate) fn sequences(usual: usize) -> usize {
    std::env::var("OPEN_CRM_TEST_SEQUENCES").map_or(usual, |text| text.parse().unwrap())
}

/// The store that a variable names, in the database that all tests share: each takes a tenant of its own.
pub(crate) async fn shared(variable: &str) -> Option<Arc<dyn RecordStore>> {
    let url = setting(variable)?;
    let mut catalog = Catalog::new();
    crm_store::catalog::register(&mut catalog);
    match catalog.open::<dyn RecordStore>(&url).await {
        Ok(store) => Some(store),
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            skipped(&format!("{variable}: the store is not compiled in"));
            None
        }
        Err(error) => panic!("{variable}: {error:?}"),
    }
}

/// An empty store of the test's own, and what must live as long as it.
pub(crate) struct Opened {
    pub(crate) name: &'static str,
    pub(crate) store: Arc<dyn RecordStore>,
    /// How many random sequences are worth their time here.
    pub(crate) seeds: u64,
    _place: Box<dyn Any + Send + Sync>,
}

impl Opened {
    pub(crate) fn new(
        name: &'static str,
        store: Arc<dyn RecordStore>,
        seeds: u64,
        place: impl Any + Send + Sync,
    ) -> Self {
        Self {
            name,
            store,
            seeds,
            _place: Box::new(place),
        }
    }

    /// The same place with another store in front.
    #[cfg(feature = "sealed")]
    pub(crate) fn with(self, front: impl FnOnce(Arc<dyn RecordStore>) -> Arc<dyn RecordStore>) -> Self {
        Self {
            store: front(self.store.clone()),
            ..self
        }
    }

    pub(crate) fn memory() -> Self {
        Self::new("memory", Arc::new(MemoryStore::new("records")), 20, ())
    }

    pub(crate) async fn sqlite() -> Self {
        let (file, folder) = crate::conformance::on_file().await;
        Self::new("sqlite", file, 3, folder)
    }
}

impl Under for Opened {
    fn store(&self) -> Arc<dyn RecordStore> {
        self.store.clone()
    }
}

/// What a test of the suite runs on: the server's store, or, where there is none, one in memory, after that was said.
pub(crate) fn or_memory(opened: Option<Opened>) -> Opened {
    opened.unwrap_or_else(Opened::memory)
}

/// Every server there is, each with a place of the test's own.
pub(crate) async fn servers() -> Vec<Opened> {
    let mut servers = Vec::new();
    #[cfg(all(feature = "mysql", feature = "postgres"))]
    {
        servers.extend(crate::own::mysql().await);
        servers.extend(crate::own::postgres().await);
    }
    #[cfg(not(all(feature = "mysql", feature = "postgres")))]
    skipped("the stores of MySQL and PostgreSQL are not compiled in");
    #[cfg(feature = "mongodb")]
    servers.extend(crate::mongo::opened().await);
    #[cfg(not(feature = "mongodb"))]
    skipped("the store of MongoDB is not compiled in");
    servers
}

/// All stores, empty.
pub(crate) async fn stores() -> Vec<Opened> {
    let mut stores = vec![Opened::memory(), Opened::sqlite().await];
    stores.extend(servers().await);
    stores
}

/// Runs `async fn case(opened: Opened)` on every store, each in a test of its own, so that long ones run side by side.
macro_rules! on_each_store {
    ($($case:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)] async fn $case() {
                super::$case(crate::stores::Opened::memory()).await
            })*
        }
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)] async fn $case() {
                super::$case(crate::stores::Opened::sqlite().await).await
            })*
        }
        #[cfg(feature = "sealed")]
        mod on_sealed {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)] async fn $case() {
                super::$case(crate::stores::Opened::memory().with(crate::sealed::people)).await
            })*
        }
        #[cfg(all(feature = "mysql", feature = "postgres"))]
        mod on_mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)] async fn $case() {
                let Some(opened) = crate::own::mysql().await else { return };
                super::$case(opened).await
            })*
        }
        #[cfg(all(feature = "mysql", feature = "postgres"))]
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)] async fn $case() {
                let Some(opened) = crate::own::postgres().await else { return };
                super::$case(opened).await
            })*
        }
        #[cfg(feature = "mongodb")]
        mod on_mongodb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)] async fn $case() {
                let Some(opened) = crate::mongo::opened().await else { return };
                super::$case(opened).await
            })*
        }
    };
}
pub(crate) use on_each_store;

/// Runs `async fn case(desk: Desk)` on every store; each case gets a tenant of its own.
macro_rules! on_every_store {
    ($($case:ident),* $(,)?) => {
        mod on_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $case() {
                let store = std::sync::Arc::new(crm_core::memory::MemoryStore::new("memory"));
                super::$case(crate::customers::desk(store)).await
            })*
        }
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $case() {
                let (store, _folder) = crate::conformance::on_file().await;
                super::$case(crate::customers::desk(store)).await
            })*
        }
        #[cfg(feature = "sealed")]
        mod on_sealed {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $case() {
                let store = std::sync::Arc::new(crm_core::memory::MemoryStore::new("memory"));
                super::$case(crate::customers::desk(crate::sealed::people(store))).await
            })*
        }
        mod on_mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $case() {
                let Some(store) = crate::stores::shared(crate::stores::MYSQL).await else { return };
                super::$case(crate::customers::desk(store)).await
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $case() {
                let Some(store) = crate::stores::shared(crate::stores::POSTGRES).await else { return };
                super::$case(crate::customers::desk(store)).await
            })*
        }
        mod on_mongodb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $case() {
                let Some(store) = crate::stores::shared(crate::stores::MONGODB).await else { return };
                super::$case(crate::customers::desk(store)).await
            })*
        }
    };
}
pub(crate) use on_every_store;
