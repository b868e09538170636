//! Every store there is: memory, a SQLite file, and the servers that the environment names, each with a place of its own.

use std::any::Any;
use std::sync::Arc;

use crm_core::capability::RecordStore;
use crm_core::memory::MemoryStore;

/// A store to test with.
pub(crate) struct Opened {
    pub(crate) name: &'static str,
    pub(crate) store: Arc<dyn RecordStore>,
    /// How many random sequences are worth their time here.
    pub(crate) seeds: u64,
    /// Keeps the store's place as long as it is used.
    _place: Box<dyn Any + Send + Sync>,
}

impl Opened {
    fn new(
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
}

/// All stores, empty.
pub(crate) async fn stores() -> Vec<Opened> {
    let (file, folder) = crate::conformance::on_file().await;
    let memory = Arc::new(MemoryStore::new("records"));
    #[allow(unused_mut)]
    let mut stores = vec![
        Opened::new("memory", memory, 20, ()),
        Opened::new("sqlite", file, 3, folder),
    ];
    #[cfg(feature = "mongodb")]
    if let Some((store, scratch)) = crate::mongo::fresh().await {
        stores.push(Opened::new("mongodb", store, 2, scratch));
    }
    stores
}
