//! A crawler that is killed twenty times fetches every page, and hardly any twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::site::Site;
use crate::{Orders, ending, until};

const PAGES: usize = 2000;
const KILLS: usize = 20;
const CONCURRENCY: usize = 8;

/// One SQL question, asked with a client that is not ours.
fn ask(database: &Path, sql: &str) -> Vec<String> {
    let script = "import sqlite3, sys
for row in sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True).execute(sys.argv[2]):
    print('|'.join(str(v) for v in row))";
    let answer = Command::new("python3")
        .args(["-c", script])
        .arg(database)
        .arg(sql)
        .output()
        .unwrap();
    assert!(
        answer.status.success(),
        "{}",
        String::from_utf8_lossy(&answer.stderr)
    );
    String::from_utf8(answer.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// CRW-8, F14.
#[test]
fn every_page_is_fetched_and_hardly_any_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (database, log) = (folder.path().join("crm.db"), folder.path().join("log"));
    let site = Site::start(PAGES, Duration::from_millis(2));
    let mut orders = Orders::to(
        site.address,
        json!({
            "delay": 0.0, "max_pages": 100_000, "concurrency": CONCURRENCY, "concurrency_per_host": CONCURRENCY,
        }),
    );
    orders.store = Some(format!("sqlite:{}", database.display()));
    // Deaths after a number of pages that looks random and is the same each time; the last process lives.
    for kill in 0..KILLS {
        let mut child = orders.start(&log);
        let wanted = site.pages().len() + 1 + (kill * 37 + 11) % 90;
        until("pages are fetched", || {
            assert!(
                child.try_wait().unwrap().is_none(),
                "{}",
                std::fs::read_to_string(&log).unwrap()
            );
            site.pages().len() >= wanted
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(ask(&database, "PRAGMA integrity_check"), ["ok"]);
    }
    assert!(site.pages().len() < PAGES, "the kills were in the middle");
    let status = orders.start(&log).wait().unwrap();
    ending(&log, status.success());

    let mut hits: BTreeMap<String, usize> = BTreeMap::new();
    for hit in site.pages() {
        *hits.entry(hit.path).or_default() += 1;
    }
    let fetches: usize = hits.values().sum();
    assert_eq!(hits.len(), PAGES, "every page at least once");
    assert!(fetches <= PAGES + KILLS * CONCURRENCY, "{fetches} fetches");
    assert!(fetches > PAGES, "the kills did hit something");
    // Every person is stored, once.
    assert_eq!(
        ask(
            &database,
            "select state, count(*) from crm_frontier group by state"
        ),
        [format!("2|{PAGES}")]
    );
    assert_eq!(
        ask(&database, "select count(*) from crm_customer"),
        [PAGES.to_string()]
    );
    println!("{KILLS} kills: {fetches} fetches of {PAGES} pages");
}
