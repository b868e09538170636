//! Customers from another system's interface (feature `crawl`): paged JSON over HTTP, described by data.
//!
//! A cursor in the body, as HubSpot pages its contacts:
//!
//! ```
//! use crm_crawl::rest::{RestCollector, RestSpec};
//!
//! let spec: RestSpec = serde_json::from_str(
//!     r#"{
//!         "name": "hubspot",
//!         "url": "https://api.hubapi.com/crm/v3/objects/contacts",
//!         "query": {"limit": "100", "properties": "email,firstname,lastname,phone"},
//!         "auth": {"type": "bearer", "token": "pat-..."},
//!         "pages": {"type": "cursor", "param": "after", "cursor": "paging.next.after"},
//!         "items": "results",
//!         "mapping": [
//!             {"column": "id", "target": "external:hubspot"},
//!             {"column": "properties.email", "target": "email"},
//!             {"column": "properties.firstname", "target": "given"},
//!             {"column": "properties.lastname", "target": "family"},
//!             {"column": "properties.phone", "target": "phone"}
//!         ]
//!     }"#,
//! )
//! .unwrap();
//! let collector = RestCollector::new(spec).unwrap();
//! assert!(!format!("{collector:?}").contains("pat-"));
//! ```
//!
//! Links in a header (RFC 8288), as Shopify does, only what changed since the last run, two requests a second:
//!
//! ```
//! use std::sync::Arc;
//! use crm_core::memory::MemoryStore;
//! use crm_crawl::rest::{RestCollector, RestSpec};
//!
//! let spec: RestSpec = serde_json::from_str(
//!     r#"{
//!         "name": "shopify",
//!         "url": "https://shop.myshopify.com/admin/api/2026-01/customers.json",
//!         "query": {"limit": "250"},
//!         "auth": {"type": "header", "name": "X-Shopify-Access-Token", "value": "shpat_..."},
//!         "pages": {"type": "link"},
//!         "items": "customers",
//!         "since": {"param": "updated_at_min"},
//!         "delay": 0.5
//!     }"#,
//! )
//! .unwrap();
//! let collector = RestCollector::with_store(spec, Arc::new(MemoryStore::new("memory"))).unwrap();
//! ```

mod collector;
mod fetch;
mod page;
mod since;
mod spec;

pub use collector::RestCollector;
pub use since::{REST_STATE, Since, TimeFormat};
pub use spec::{Pagination, RestAuth, RestSpec};

#[cfg(any(test, fuzzing))]
pub(crate) use page::{At, Reader};
