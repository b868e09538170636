//! The spider in processes of its own: `kill -9` in the middle, one polite rate over several of them, what hostile sites
//! cost, a real server with TLS. The processes are this test program, started anew as `worker`; the oracle is the log of
//! the site, which runs in the test itself or is nginx.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod hostile;
mod kill;
mod nginx;
mod pace;
mod site;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use open_crm::capability::{Collector as _, Delivery, DraftSink};
use open_crm::crawl::spider::{SpiderSpec, StoredFrontier, WebCollector};
use open_crm::prelude::*;
use serde_json::{Value, json};

/// What a worker is told, in one variable.
const ORDERS: &str = "OPEN_CRM_TEST_CRAWL_WORKER";

/// Orders for a worker.
struct Orders {
    /// Where the customers and the frontier are; without one the worker counts what it finds.
    store: Option<String>,
    tenant: String,
    site: SocketAddr,
    /// The worker's name.
    name: String,
    /// Settings of the crawl.
    crawl: Value,
    /// Whether the delay is kept by all workers together.
    together: bool,
    /// Variables of its environment.
    environment: Vec<(&'static str, String)>,
}

impl Orders {
    fn to(site: SocketAddr, crawl: Value) -> Self {
        Self {
            store: None,
            tenant: "shop".into(),
            site,
            name: "one".into(),
            crawl,
            together: true,
            environment: Vec::new(),
        }
    }

    fn start(&self, log: &Path) -> Child {
        let orders = json!({
            "store": self.store, "tenant": self.tenant, "site": self.site.to_string(), "name": self.name,
            "crawl": self.crawl, "together": self.together,
        });
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        Command::new(std::env::current_exe().unwrap())
            .args(["worker", "--exact", "--nocapture"])
            .env(ORDERS, orders.to_string())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Runs one that is to end well; answers what it said at its end.
    fn run(&self) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let status = self.start(&log).wait().unwrap();
        ending(&log, status.success())
    }
}

/// What a worker said at its end, in its log.
fn ending(log: &Path, success: bool) -> Value {
    let said = std::fs::read_to_string(log).unwrap();
    let last = said
        .lines()
        .rev()
        .find_map(|line| line.split_once("WORKER DONE "));
    match last {
        Some((_, figures)) if success => serde_json::from_str(figures).unwrap(),
        _ => panic!("{said}"),
    }
}

/// Counts what comes.
#[derive(Default)]
struct Counted {
    emails: Vec<String>,
    rejects: Vec<(String, String)>,
}

#[async_trait::async_trait]
impl DraftSink for Counted {
    async fn deliver(&mut self, delivery: Delivery) -> open_crm::Result<()> {
        self.emails
            .extend(delivery.drafts.into_iter().flat_map(|draft| draft.emails));
        self.rejects
            .extend(delivery.rejects.into_iter().map(|r| (r.place, r.reason)));
        Ok(())
    }
}

/// A line of `/proc/self/status` in KiB.
fn memory(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

/// What the other processes run; without orders there is nothing to do.
#[test]
fn worker() {
    let Ok(orders) = std::env::var(ORDERS) else {
        return;
    };
    let orders: Value = serde_json::from_str(&orders).unwrap();
    let text = |name: &str| orders[name].as_str().unwrap().to_owned();
    let mut spec: SpiderSpec = serde_json::from_value(json!({
        "name": "site", "start": [format!("http://{}/0", text("site"))], "follow": ["a"], "item": "div.customer",
        "fields": [{"selector": "h2", "target": "name"}, {"selector": "p", "target": "email"}],
        "crawl": orders["crawl"],
    }))
    .unwrap();
    spec.crawl
        .http
        .allow
        .push(open_crm::http::AllowEntry::address(text("site").parse().unwrap()));
    let collector = WebCollector::from_spec(&spec).unwrap();
    let ctx = Context::new(TenantId::new(&text("tenant")).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let before = memory("VmRSS:");
    let found = runtime.block_on(async {
        let mut found = Counted::default();
        let Some(url) = orders["store"].as_str() else {
            collector.collect(&ctx, None, &mut found).await.unwrap();
            return found;
        };
        let store = open_crm::catalog().open::<dyn RecordStore>(url).await.unwrap();
        let mut frontier = StoredFrontier::open(store, "site")
            .await
            .unwrap()
            .with_worker(&text("name"));
        if !orders["together"].as_bool().unwrap() {
            frontier = frontier.without_common_pace();
        }
        let name = format!("site@{}", text("name"));
        let collector = collector.with_frontier(frontier).named(&name);
        let crm = Crm::builder()
            .store(url)
            .collector(Arc::new(collector))
            .build()
            .await
            .unwrap();
        crm.collect(&ctx, &name, &mut |_, _| {}).await.unwrap();
        found
    });
    // The test runner's own words go to the same file: this one says that the end was reached.
    let figures = json!({
        "emails": found.emails, "rejects": found.rejects, "grown_kib": memory("VmHWM:") - before,
    });
    println!("\nWORKER DONE {figures}");
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
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    panic!("never: {what}");
}
