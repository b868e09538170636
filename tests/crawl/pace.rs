//! Three processes on one PostgreSQL: the site sees one request at a time, and the whole delay between two.

use std::time::Duration;

use open_crm::{Clock as _, SystemClock};

use crate::site::{Hit, Site};
use crate::{Orders, skipped};

const PAGES: usize = 30;
const DELAY: f64 = 0.15;

/// Lets three workers crawl the site; answers its log in the order of the requests, and the number of workers that
/// fetched something is checked by there being three.
fn crawl(url: &str, together: bool) -> Vec<Hit> {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(PAGES, Duration::from_millis(10));
    let tenant = format!("crawl-{}-{together}", SystemClock.now().as_micros());
    let children: Vec<_> = (0..3)
        .map(|n| {
            let orders = Orders {
                store: url.to_owned(),
                tenant: tenant.clone(),
                site: site.address,
                name: format!("worker-{n}"),
                delay: DELAY,
                concurrency: 4,
                together,
            };
            (orders.start(&folder.path().join(n.to_string())), n)
        })
        .collect();
    for (mut child, n) in children {
        let status = child.wait().unwrap();
        let said = std::fs::read_to_string(folder.path().join(n.to_string())).unwrap();
        assert!(status.success() && said.contains("WORKER DONE"), "{said}");
    }
    let mut paths: Vec<String> = site.pages().into_iter().map(|hit| hit.path).collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), PAGES, "every page");
    assert_eq!(site.pages().len(), PAGES, "no page twice");
    assert_eq!(site.log().len(), PAGES + 3, "each of the three asked for robots.txt");
    let mut log = site.log();
    log.sort_by_key(|hit| hit.began);
    log
}

/// The shortest time from the end of a request to the begin of the next; none when two overlap.
fn shortest(log: &[Hit]) -> f64 {
    log.windows(2)
        .map(|pair| (pair[1].began.as_micros() - pair[0].ended.as_micros()) as f64 / 1e6)
        .fold(f64::INFINITY, f64::min)
}

#[test]
fn three_processes_keep_one_pace() {
    let Ok(url) = std::env::var("OPEN_CRM_TEST_POSTGRES_URL") else {
        return skipped("one pace of three processes on PostgreSQL (OPEN_CRM_TEST_POSTGRES_URL is not set)");
    };
    let log = crawl(&url, true);
    assert!(shortest(&log) >= 0.95 * DELAY, "{} s", shortest(&log));
    // Negative control: when each keeps the delay for itself alone, the site does not get it.
    let log = crawl(&url, false);
    assert!(shortest(&log) < 0.95 * DELAY, "{} s: the measure cannot fail", shortest(&log));
}
