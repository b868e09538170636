//! CRW-3: many hosts at once, each at its own pace. The oracle is the log of the server, which plays all of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crm_core::Result;
use crm_core::http::Resolver;
use crm_crawl::spider::WebCollector;

use crate::run;
use crate::site::{Answer, Hit, Site, list};

const HOSTS: usize = 50;
const PAGES: usize = 4;
const DELAY: f64 = 0.2;
const WORK: Duration = Duration::from_millis(20);

/// Every host is this machine.
#[derive(Debug)]
struct Here;

#[async_trait]
impl Resolver for Here {
    async fn resolve(&self, _: &str) -> Result<Vec<IpAddr>> {
        Ok(vec!["127.0.0.1".parse().unwrap()])
    }
}

/// Crawls all hosts with so many requests to each at a time; answers the hits by host.
async fn crawl(at_once: usize, delay: f64) -> (Site, BTreeMap<String, Vec<Hit>>) {
    let site = Site::start(|path, _| list(path, PAGES - 1).unwrap_or(Answer::status(404)).after(WORK)).await;
    let mut spec = site.spec("/p/0");
    let port = site.address.port();
    // Two ways in for each host, so that there is something to overlap.
    spec.start = (0..HOSTS)
        .flat_map(|n| [0, PAGES / 2].map(|page| format!("http://h{n}.example:{port}/p/{page}")))
        .map(|url| url.parse().unwrap())
        .collect();
    spec.crawl.delay = delay;
    spec.crawl.concurrency = 16;
    spec.crawl.concurrency_per_host = at_once;
    let spider = Arc::new(spec.compile().unwrap());
    let collector = WebCollector::with_resolver(spider, spec.crawl, Arc::new(Here)).unwrap();
    let (kept, result) = run(&collector, None).await;
    result.unwrap();
    assert_eq!(kept.drafts().len(), 2 * PAGES * HOSTS);
    let mut hosts: BTreeMap<String, Vec<Hit>> = BTreeMap::new();
    for hit in site.log() {
        hosts.entry(hit.header("host")).or_default().push(hit);
    }
    assert_eq!(hosts.len(), HOSTS);
    (site, hosts)
}

/// The shortest time between the begins of two requests to one host.
fn shortest(hosts: &BTreeMap<String, Vec<Hit>>) -> Duration {
    let gaps = hosts
        .values()
        .flat_map(|hits| hits.windows(2).map(|pair| pair[1].at - pair[0].at));
    gaps.min().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_hosts_each_get_their_delay() {
    let (site, hosts) = crawl(1, DELAY).await;
    for (host, hits) in &hosts {
        assert_eq!(hits.len(), PAGES + 1, "{host}: robots.txt and every page, once");
    }
    // Longer than a request takes: so none overlaps another of its host either.
    let gap = shortest(&hosts);
    assert!(
        gap >= Duration::from_secs_f64(0.95 * DELAY) && gap > WORK,
        "{gap:?}"
    );
    assert!(
        (2..=16).contains(&site.most_at_once()),
        "the hosts are asked side by side: {}",
        site.most_at_once()
    );
    // Negative control: without the delay the same measure fails.
    let (_, hosts) = crawl(2, 0.0).await;
    assert!(shortest(&hosts) < Duration::from_secs_f64(0.95 * DELAY));
}
