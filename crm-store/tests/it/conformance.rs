//! The one suite of all stores, on files and in memory.

use std::sync::Arc;
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::testkit::store::agrees_with_memory;
use crm_store::{SqliteConfig, SqliteStore};
use tempfile::TempDir;

use crate::stores::sequences;

/// A store on a file of its own; the folder goes with the guard.
pub(crate) async fn on_file() -> (Arc<dyn RecordStore>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = SqliteConfig::default().wait(Duration::from_secs(60));
    let store = SqliteStore::open_file(folder.path().join("crm.db"), config)
        .await
        .unwrap();
    (Arc::new(store), folder)
}

pub(crate) async fn in_memory() -> Arc<dyn RecordStore> {
    Arc::new(SqliteStore::open_url("sqlite::memory:").await.unwrap())
}

crm_core::store_suite!(file, on_file());
crm_core::store_suite!(memory, in_memory());

#[tokio::test]
async fn any_sequence_of_operations_ends_as_in_the_model() {
    agrees_with_memory(in_memory().await, 20_261_122, sequences(200), 50).await;
}

#[tokio::test]
async fn any_sequence_of_operations_ends_as_in_the_model_on_a_file() {
    let (store, _folder) = on_file().await;
    agrees_with_memory(store, 7, sequences(20), 50).await;
}
