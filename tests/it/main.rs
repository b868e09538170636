//! What crosses crates: the whole way of the data, wrong inputs, and a process that is killed.
#![cfg(feature = "full")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../../examples/demo/mod.rs"]
mod demo;

mod bad_input;
mod files;
mod kill;
mod nginx;
mod parquet;
mod whole_way;

use std::path::Path;
use std::sync::Arc;

use open_crm::crawl::spider::{SpiderSpec, WebCollector};
use open_crm::prelude::*;

/// A key for addresses; any will do in a test.
fn key() -> Secret {
    Secret::new("a key that tests use and nobody else")
}

fn context() -> Context {
    Context::new(TenantId::new("shop").unwrap())
}

fn sqlite(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("crm.db").display())
}

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
