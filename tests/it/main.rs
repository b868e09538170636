//! What crosses crates: the whole way of the data, wrong inputs, and a process that is killed.
#![cfg(all(feature = "sqlite", feature = "mysql", feature = "postgres", feature = "smtp"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[cfg(feature = "full")]
#[path = "../../examples/demo/mod.rs"]
mod demo;

#[cfg(feature = "full")]
mod bad_input;
#[cfg(feature = "full")]
mod files;
#[cfg(feature = "full")]
mod kill;
#[cfg(feature = "full")]
mod nginx;
mod outbox;
#[cfg(feature = "full")]
mod parquet;
#[cfg(feature = "full")]
mod whole_way;

#[cfg(feature = "full")]
use std::path::Path;
#[cfg(feature = "full")]
use std::sync::Arc;

#[cfg(feature = "full")]
use open_crm::crawl::spider::{SpiderSpec, WebCollector};
#[cfg(feature = "full")]
use open_crm::prelude::*;

#[cfg(feature = "full")]
/// A key for addresses; any will do in a test.
fn key() -> Secret {
    Secret::new("a key that tests use and nobody else")
}

#[cfg(feature = "full")]
fn context() -> Context {
    Context::new(TenantId::new("shop").unwrap())
}

#[cfg(feature = "full")]
fn sqlite(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("crm.db").display())
}

#[cfg(feature = "full")]
/// The spider of the seed's own case: people are `div.customer` with `h2` and `p > a`.
fn spider(start: &str, address: std::net::SocketAddr) -> Arc<dyn Collector> {
    let mut spec: SpiderSpec = serde_json::from_value(serde_json::json!({
        "name": "web",
        "start": [start],
        "follow": ["a.next", "a.staff"],
        "item": "div.customer",
        "fields": [
            {"selector": "h2", "target": "name"},
            {"selector": "p > a", "target": "email"}
        ]
    }))
    .unwrap();
    spec.crawl.delay = 0.0;
    spec.crawl
        .http
        .allow
        .push(open_crm::http::AllowEntry::address(address));
    Arc::new(WebCollector::new(Arc::new(spec.compile().unwrap()), spec.crawl.clone()).unwrap())
}
