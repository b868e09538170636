//! What crawling costs: pages a second, pages a second of processor time (all threads of this process), and memory.
//!
//! ```sh
//! benches/peers/crawl/run                                     # makes the site, starts nginx, runs this and the peers
//! cargo bench --bench crawl --no-default-features --features crawl -- --url http://127.0.0.1:27480/0.html --pages 20000
//! ```
//!
//! The site is made by `benches/peers/crawl/site.py`: each page has one person with six fields and ten links. All programs
//! crawl it from its first page, follow every link once and extract the same six fields; each says how many persons it
//! found and a checksum of their addresses. A run with another number or sum does not count.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a program for people, not the library"
)]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser as _;
use open_crm::capability::{Collector as _, Delivery, DraftSink};
use open_crm::crawl::spider::{SpiderSpec, WebCollector};
use open_crm::{Context, TenantId};
use serde_json::json;

#[derive(clap::Parser)]
struct Options {
    /// The first page.
    #[arg(long)]
    url: Option<String>,
    /// How many pages the site has.
    #[arg(long, default_value_t = 20_000)]
    pages: u64,
    /// Requests at the same time.
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// Threads of the runtime.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Counts what comes and throws it away.
#[derive(Default)]
struct Counted {
    drafts: u64,
    sum: u64,
}

#[async_trait::async_trait]
impl DraftSink for Counted {
    async fn deliver(&mut self, delivery: Delivery) -> open_crm::Result<()> {
        for draft in &delivery.drafts {
            self.drafts += 1;
            // The same for any order: FNV-1a of each address, added up.
            for email in &draft.emails {
                let hash = email.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
                });
                self.sum = self.sum.wrapping_add(hash);
            }
        }
        Ok(())
    }
}

/// A line of `/proc/self/status` in MiB.
fn memory(name: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_default();
    let kib: f64 = line
        .trim_matches(|c: char| !c.is_ascii_digit())
        .parse()
        .unwrap_or(0.0);
    kib / 1024.0
}

/// User and system time of the process in seconds, from `/proc/self/stat` (in hundredths).
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields.get(at).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn main() -> Result<()> {
    let options = Options::parse();
    let Some(url) = &options.url else {
        println!("SKIPPED: --url names no site; benches/peers/crawl/run makes one");
        return Ok(());
    };
    let mut spec: SpiderSpec = serde_json::from_value(json!({
        "name": "bench",
        "start": [url],
        "follow": ["a"],
        "item": "div.customer",
        "fields": [
            {"selector": "h2", "target": "name"},
            {"selector": "a.mail", "target": "email"},
            {"selector": "span.phone", "target": "phone"},
            {"selector": "span.city", "target": "city"},
            {"selector": "span.id", "target": "external:shop"},
            {"selector": "span.plan", "target": "tag"}
        ]
    }))?;
    spec.reading.phone_region = Some("US".into());
    let start = spec.start[0].clone();
    let address = format!(
        "{}:{}",
        start.host_str().unwrap_or_default(),
        start.port_or_known_default().unwrap_or(80)
    );
    spec.crawl
        .http
        .allow
        .push(open_crm::http::AllowEntry::address(address.parse()?));
    spec.crawl.delay = 0.0;
    spec.crawl.max_pages = 1_000_000;
    spec.crawl.max_pending = 1_000_000;
    spec.crawl.concurrency = options.concurrency;
    spec.crawl.concurrency_per_host = options.concurrency.min(16);
    let runtime = match options.threads {
        1 => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?,
        threads => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()?,
    };
    let collector = WebCollector::from_spec(&spec)?;
    let ctx = Context::new(TenantId::new("bench")?);
    let (before, began) = (processor(), Instant::now());
    let mut sink = Counted::default();
    runtime.block_on(collector.collect(&ctx, None, &mut sink))?;
    let (wall, cpu) = (began.elapsed().as_secs_f64(), processor() - before);
    let stats = collector.stats();
    println!(
        "ours pages={} items={} sum={:016x} rejects={} wall={wall:.2} cpu={cpu:.2} pages_per_s={:.0} pages_per_cpu_s={:.0} rss_mib={:.1}",
        stats.pages,
        sink.drafts,
        sink.sum,
        stats.rejects,
        stats.pages as f64 / wall,
        stats.pages as f64 / cpu,
        memory("VmHWM:"),
    );
    ensure!(
        stats.pages == options.pages,
        "the site has {} pages",
        options.pages
    );
    ensure!(sink.drafts == options.pages, "every page has one person");
    Ok(())
}
