//! The Rust crate `spider` over the benchmark's site: spider-peer URL [THREADS [CONCURRENCY]]
//!
//! As quick as it lets itself be written: no delay, no robots.txt, no thread for its control, and each page read where it
//! arrives, in the callback that decides on its links: a subscription would clone every page and loses some when it lags.
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use scraper::{ElementRef, Html, Selector};
use spider::page::Page;
use spider::website::Website;

static ITEM: LazyLock<Selector> = LazyLock::new(|| selector("div.customer"));
static MAIL: LazyLock<Selector> = LazyLock::new(|| selector("a.mail"));
static FIELDS: LazyLock<[Selector; 5]> =
    LazyLock::new(|| ["h2", "span.phone", "span.city", "span.id", "span.plan"].map(selector));
static PAGES: AtomicU64 = AtomicU64::new(0);
static ITEMS: AtomicU64 = AtomicU64::new(0);
static SUM: AtomicU64 = AtomicU64::new(0);

fn selector(css: &str) -> Selector {
    Selector::parse(css).expect("a selector")
}

/// The text of the first element that matches.
fn text(item: ElementRef<'_>, selector: &Selector) -> String {
    item.select(selector).next().map(|found| found.text().collect()).unwrap_or_default()
}

/// The six fields of each person of a page; the checksum of the addresses, the same for any order.
fn read(page: &Page) -> bool {
    PAGES.fetch_add(1, Relaxed);
    let document = Html::parse_document(&page.get_html());
    for item in document.select(&ITEM) {
        let mail = item.select(&MAIL).next().and_then(|a| a.value().attr("href"));
        let mail = mail.and_then(|href| href.strip_prefix("mailto:")).unwrap_or_default();
        std::hint::black_box(FIELDS.each_ref().map(|field| text(item, field)));
        let hash = mail.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        ITEMS.fetch_add(1, Relaxed);
        SUM.fetch_add(hash, Relaxed);
    }
    true
}

/// User and system time of the process in seconds.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

fn peak_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().expect("spider-peer URL [THREADS [CONCURRENCY]]");
    let threads: usize = arguments.next().map_or(1, |n| n.parse().expect("threads"));
    let concurrency: usize = arguments.next().map_or(16, |n| n.parse().expect("concurrency"));
    let runtime = match threads {
        1 => spider::tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => spider::tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
    .expect("a runtime");
    let (before, began) = (processor(), Instant::now());
    runtime.block_on(async {
        let mut site = Website::new(&url);
        site.with_respect_robots_txt(false)
            .with_delay(0)
            .with_concurrency_limit(Some(concurrency))
            .with_no_control_thread(true)
            .with_on_should_crawl_callback(Some(read));
        site.crawl().await;
    });
    let (wall, cpu) = (began.elapsed().as_secs_f64(), processor() - before);
    let pages = PAGES.load(Relaxed);
    println!(
        "spider-rs-{threads} pages={pages} items={} sum={:016x} wall={wall:.2} cpu={cpu:.2} pages_per_s={:.0} pages_per_cpu_s={:.0} rss_mib={:.1}",
        ITEMS.load(Relaxed),
        SUM.load(Relaxed),
        pages as f64 / wall,
        pages as f64 / cpu,
        peak_mib(),
    );
}
