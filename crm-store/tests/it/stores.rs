//! Every store there is: memory, a SQLite file, and the servers that the environment names, each with a place of its own.

use std::sync::Arc;

use crm_core::capability::RecordStore;
use crm_core::memory::MemoryStore;
use tempfile::TempDir;

/// A store to test with.
pub(crate) struct Opened {
    pub(crate) name: &'static str,
    pub(crate) store: Arc<dyn RecordStore>,
    /// How many random sequences are worth their time here.
    pub(crate) seeds: u64,
    _folder: Option<TempDir>,
}

/// All stores, empty for whoever asks with a tenant of its own.
pub(crate) async fn stores(_part: &str) -> Vec<Opened> {
    let (file, folder) = crate::conformance::on_file().await;
    vec![
        Opened {
            name: "memory",
            store: Arc::new(MemoryStore::new("records")),
            seeds: 20,
            _folder: None,
        },
        Opened {
            name: "sqlite",
            store: file,
            seeds: 3,
            _folder: Some(folder),
        },
    ]
}
