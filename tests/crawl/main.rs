//! One crawl, several processes: `kill -9` in the middle, and one polite rate over all of them. The processes are this
//! test program, started anew as `worker`; the oracle is the log of the site, which runs in the test itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod kill;
mod pace;
mod site;

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use open_crm::crawl::spider::{SpiderSpec, StoredFrontier, WebCollector};
use open_crm::prelude::*;
use serde_json::json;

/// What a worker is told, in one variable.
const ORDERS: &str = "OPEN_CRM_TEST_CRAWL_WORKER";

/// Orders for a worker.
struct Orders {
    store: String,
    tenant: String,
    site: std::net::SocketAddr,
    name: String,
    delay: f64,
    concurrency: usize,
    /// Whether the delay is kept by all workers together.
    together: bool,
}

impl Orders {
    fn start(&self, log: &Path) -> Child {
        let orders = json!({
            "store": self.store, "tenant": self.tenant, "site": self.site.to_string(), "name": self.name,
            "delay": self.delay, "concurrency": self.concurrency, "together": self.together,
        });
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        Command::new(std::env::current_exe().unwrap())
            .args(["worker", "--exact", "--nocapture", "--ignored"])
            .env(ORDERS, orders.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }
}

/// No test: what the other processes run.
#[test]
#[ignore = "started by the tests"]
fn worker() {
    let Ok(orders) = std::env::var(ORDERS) else {
        return;
    };
    let orders: serde_json::Value = serde_json::from_str(&orders).unwrap();
    let text = |name: &str| orders[name].as_str().unwrap().to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open_crm::catalog().open::<dyn RecordStore>(&text("store")).await.unwrap();
        let mut frontier = StoredFrontier::open(store, "site").await.unwrap().with_worker(&text("name"));
        if !orders["together"].as_bool().unwrap() {
            frontier = frontier.without_common_pace();
        }
        let mut spec: SpiderSpec = serde_json::from_value(json!({
            "name": "site", "start": [format!("http://{}/0", text("site"))], "follow": ["a"], "item": "div.customer",
            "fields": [{"selector": "h2", "target": "name"}, {"selector": "p", "target": "email"}],
        }))
        .unwrap();
        spec.crawl.max_pages = 100_000;
        spec.crawl.delay = orders["delay"].as_f64().unwrap();
        spec.crawl.concurrency = usize::try_from(orders["concurrency"].as_u64().unwrap()).unwrap();
        if spec.crawl.delay == 0.0 {
            spec.crawl.concurrency_per_host = spec.crawl.concurrency;
        }
        spec.crawl.http.allow.push(open_crm::http::AllowEntry::address(text("site").parse().unwrap()));
        let collector = WebCollector::from_spec(&spec).unwrap().with_frontier(frontier);
        let crm = Crm::builder().store(text("store")).collector(Arc::new(collector)).build().await.unwrap();
        let ctx = Context::new(TenantId::new(&text("tenant")).unwrap());
        crm.collect(&ctx, "site", &mut |_, _| {}).await.unwrap();
    });
    // The test runner's own words go to the same file: this one says that the end was reached.
    println!("WORKER DONE");
}

/// Says past the test runner's capture what is not tested, and fails where it must be.
fn skipped(what: &str) {
    let _ = std::io::stderr().write_all(format!("SKIPPED: {what}\n").as_bytes());
    assert!(std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(), "{what}");
}

/// Waits for something, for a generous time.
fn until(what: &str, mut happened: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if happened() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("never: {what}");
}
