//! Customer information on any database. Use it through the `open-crm` crate.
//!
//! - [`customers`]: customer information management, what a host calls
//! - [`segments`]: named groups of them, kept up to date
//! - [`changes`]: the change feed
//! - [`sql`]: the stores (feature `sqlite`, the default), each a [`crm_core::capability::RecordStore`]
//! - `sealed`: personal data encrypted in front of any of them (feature `sealed`)
//! - `cached`: a cache in front of any of them (feature `cached`)
//! - `api`: customers and segments as a REST interface (feature `api`)
//! - [`catalog`]: makes them from URLs
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use crm_core::capability::RecordStore;
//!
//! let mut catalog = crm_core::registry::Catalog::new();
//! crm_store::catalog::register(&mut catalog);
//! let store = catalog.open::<dyn RecordStore>("memory:").await.unwrap();
//! assert_eq!(store.info().scheme, "memory");
//! # });
//! ```

#[cfg(feature = "api")]
pub mod api;
#[cfg(feature = "cached")]
pub mod cached;
pub mod catalog;
pub mod changes;
pub mod copy;
pub mod customers;
#[cfg(feature = "mongodb")]
pub mod mongo;
#[cfg(feature = "sealed")]
pub mod sealed;
pub mod segments;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
pub mod sql;

#[cfg(feature = "cached")]
pub use cached::{CacheConfig, CachedStore};
pub use customers::Customers;
#[cfg(feature = "mongodb")]
pub use mongo::{MongoConfig, MongoStore};
#[cfg(feature = "sealed")]
pub use sealed::{KeyRing, SealConfig, SealedStore};
#[cfg(feature = "mysql")]
pub use sql::{MysqlConfig, MysqlStore};
#[cfg(feature = "postgres")]
pub use sql::{PostgresConfig, PostgresStore};
#[cfg(feature = "sqlite")]
pub use sql::{SqliteConfig, SqliteStore};
