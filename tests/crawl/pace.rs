//! Three processes on one database: the site sees one pace.

use std::time::Duration;

use open_crm::{Clock as _, SystemClock};
use serde_json::json;

use crate::site::{Hit, Site};
use crate::{Orders, ending, skipped};

const DELAY: f64 = 0.15;

/// Lets three workers crawl the site, whose answers take `work`, with so many requests at a time each; answers its log
/// in the order of the requests.
fn crawl(url: &str, pages: usize, together: bool, at_once: usize, work: Duration) -> Vec<Hit> {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(pages, work);
    let tenant = format!("crawl-{}-{together}", SystemClock.now().as_micros());
    let children: Vec<_> = (0..3)
        .map(|n| {
            let crawl = json!({"delay": DELAY, "concurrency": 4, "concurrency_per_host": at_once, "target_concurrency": 0});
            let mut orders = Orders::to(site.address, crawl);
            orders.store = Some(url.to_owned());
            orders.tenant.clone_from(&tenant);
            orders.name = format!("worker-{n}");
            orders.together = together;
            (orders.start(&folder.path().join(n.to_string())), n)
        })
        .collect();
    for (mut child, n) in children {
        let status = child.wait().unwrap();
        ending(&folder.path().join(n.to_string()), status.success());
    }
    let mut paths: Vec<String> = site.pages().into_iter().map(|hit| hit.path).collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), pages, "every page");
    assert_eq!(site.pages().len(), pages, "no page twice");
    assert_eq!(
        site.log().len(),
        pages + 3,
        "each of the three asked for robots.txt"
    );
    let mut log = site.log();
    log.sort_by_key(|hit| hit.began);
    log
}

/// The shortest time from the end of a request to the begin of the next; negative when two overlap.
fn shortest(log: &[Hit]) -> f64 {
    log.windows(2)
        .map(|pair| (pair[1].began.as_micros() - pair[0].ended.as_micros()) as f64 / 1e6)
        .fold(f64::INFINITY, f64::min)
}

/// The mean time from the begin of a request to the begin of the next.
fn mean(log: &[Hit]) -> f64 {
    let whole = log[log.len() - 1].began.as_micros() - log[0].began.as_micros();
    whole as f64 / 1e6 / (log.len() - 1) as f64
}

fn one_pace(variable: &str) {
    let Ok(url) = std::env::var(variable) else {
        return skipped(&format!("one pace of three processes ({variable} is not set)"));
    };
    let work = Duration::from_millis(10);
    let log = crawl(&url, 30, true, 1, work);
    assert!(shortest(&log) >= 0.95 * DELAY, "{} s", shortest(&log));
    // Negative control: when each keeps the delay for itself alone, the site does not get it.
    let log = crawl(&url, 30, false, 1, work);
    assert!(
        shortest(&log) < 0.95 * DELAY,
        "{} s: the measure cannot fail",
        shortest(&log)
    );
}

/// CRW-3 over processes: one request at a time, and the whole delay between two.
#[test]
fn three_processes_keep_one_pace_on_postgres() {
    one_pace("OPEN_CRM_TEST_POSTGRES_URL");
}

#[test]
fn three_processes_keep_one_pace_on_mysql() {
    one_pace("OPEN_CRM_TEST_MYSQL_URL");
}

/// Where several requests may be open, a delay lies between their begins, however long they take.
#[test]
fn three_processes_keep_one_pace_with_slow_pages() {
    let Ok(url) = std::env::var("OPEN_CRM_TEST_POSTGRES_URL") else {
        return skipped("one pace with slow pages (OPEN_CRM_TEST_POSTGRES_URL is not set)");
    };
    let work = Duration::from_millis(300);
    let log = crawl(&url, 60, true, 4, work);
    assert!(mean(&log) >= 0.95 * DELAY, "{} s", mean(&log));
    assert!(
        shortest(&log) < 0.0,
        "more than one was open, or nothing is tested"
    );
    // Negative control.
    let log = crawl(&url, 60, false, 4, work);
    assert!(
        mean(&log) < 0.95 * DELAY,
        "{} s: the measure cannot fail",
        mean(&log)
    );
}
