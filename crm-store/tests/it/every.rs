//! Every case of a module on every store: memory, SQLite, and the servers that the environment names.

use std::sync::Arc;

use crm_core::ErrorKind;
use crm_core::capability::RecordStore;
use crm_core::registry::Catalog;

/// The store a variable names; `None`, said loudly, when there is none to test on.
pub(crate) async fn server(variable: &str) -> Option<Arc<dyn RecordStore>> {
    let skipped = |why: &str| -> Option<Arc<dyn RecordStore>> {
        let message = format!("SKIPPED: {variable}: {why}");
        assert!(
            std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(),
            "{message}"
        );
        // The runner shows what a passing test wrote to the file descriptor, not what went through the macro.
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{message}");
        None
    };
    let Ok(url) = std::env::var(variable) else {
        return skipped("not set; scripts/services starts the servers");
    };
    let mut catalog = Catalog::new();
    crm_store::catalog::register(&mut catalog);
    match catalog.open::<dyn RecordStore>(&url).await {
        Ok(store) => Some(store),
        Err(error) if error.kind() == ErrorKind::Unsupported => skipped("not compiled in"),
        Err(error) => panic!("{variable}: {error:?}"),
    }
}

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
        mod on_mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $case() {
                let Some(store) = crate::every::server("OPEN_CRM_TEST_MYSQL_URL").await else { return };
                super::$case(crate::customers::desk(store)).await
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $case() {
                let Some(store) = crate::every::server("OPEN_CRM_TEST_POSTGRES_URL").await else { return };
                super::$case(crate::customers::desk(store)).await
            })*
        }
        mod on_mongodb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $case() {
                let Some(store) = crate::every::server("OPEN_CRM_TEST_MONGODB_URL").await else { return };
                super::$case(crate::customers::desk(store)).await
            })*
        }
    };
}
pub(crate) use on_every_store;
