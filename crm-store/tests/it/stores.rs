//! Every store there is: memory, a SQLite file, and the servers that the environment names, each with a place of its own.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

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
    let mut stores = vec![
        Opened::new("memory", memory, 20, ()),
        Opened::new("sqlite", file, 3, folder),
    ];
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let part = format!("feed{}", COUNT.fetch_add(1, Ordering::Relaxed));
    for (name, store) in crate::servers::all(&part).await {
        stores.push(Opened::new(name, store, 2, ()));
    }
    stores
}
