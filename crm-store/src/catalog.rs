//! Stores by the scheme of their URL.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use crm_core::capability::RecordStore;
//! use crm_core::registry::Catalog;
//!
//! let mut catalog = Catalog::new();
//! crm_store::catalog::register(&mut catalog);
//! let store = catalog.open::<dyn RecordStore>("memory:").await.unwrap();
//! assert_eq!(store.info().scheme, "memory");
//! let error = catalog.open::<dyn RecordStore>("oracle://host/crm").await.unwrap_err();
//! assert!(error.to_string().contains("oracle"), "{error}");
//! # });
//! ```

use std::sync::Arc;

use crm_core::capability::RecordStore;
use crm_core::memory::MemoryStore;
use crm_core::registry::Catalog;

/// Adds every store of this crate that is compiled in: `memory:`; `sqlite:`, `mysql:` and `mariadb:`, `postgres:` and
/// `postgresql:` with the features of those names. The others are known by the feature that brings them.
pub fn register(catalog: &mut Catalog) {
    catalog.register::<dyn RecordStore, _, _>("memory", |_url| async {
        Ok(Arc::new(MemoryStore::new("memory")) as Arc<dyn RecordStore>)
    });
    #[cfg(feature = "sqlite")]
    catalog.register::<dyn RecordStore, _, _>("sqlite", |url| async move {
        let store = crate::SqliteStore::open_url(&url).await?;
        Ok(Arc::new(store) as Arc<dyn RecordStore>)
    });
    #[cfg(feature = "mongodb")]
    for scheme in ["mongodb", "mongodb+srv"] {
        catalog.register::<dyn RecordStore, _, _>(scheme, |url| async move {
            let store = crate::MongoStore::open_url(&url).await?;
            Ok(Arc::new(store) as Arc<dyn RecordStore>)
        });
    }
    #[cfg(feature = "mysql")]
    for scheme in ["mysql", "mariadb"] {
        catalog.register::<dyn RecordStore, _, _>(scheme, |url| async move {
            let store = crate::MysqlStore::open_url(&url).await?;
            Ok(Arc::new(store) as Arc<dyn RecordStore>)
        });
    }
    #[cfg(feature = "postgres")]
    for scheme in ["postgres", "postgresql"] {
        catalog.register::<dyn RecordStore, _, _>(scheme, |url| async move {
            let store = crate::PostgresStore::open_url(&url).await?;
            Ok(Arc::new(store) as Arc<dyn RecordStore>)
        });
    }
    for (scheme, feature) in [
        ("sqlite", "sqlite"),
        ("mysql", "mysql"),
        ("mariadb", "mysql"),
        ("postgres", "postgres"),
        ("postgresql", "postgres"),
        ("mongodb", "mongodb"),
    ] {
        catalog.absent::<dyn RecordStore>(scheme, feature);
    }
    catalog.absent::<dyn RecordStore>("mongodb+srv", "mongodb");
}
