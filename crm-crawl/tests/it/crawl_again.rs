//! Crawls that stop and go on: killed, finished, broken by a spider of one's own.

use std::sync::Arc;
use std::time::Duration;

use crm_core::Result;
use crm_core::capability::{Collector, Delivery, DraftSink};
use crm_core::customer::Draft;
use crm_crawl::spider::{CrawlConfig, Output, Page, Spider, WebCollector};
use url::Url;

use crate::site::{Answer, Site, list, next, person};
use crate::{Kept, ctx, run};

/// Drops what was not stored: stands for a process that dies after `lives` deliveries.
struct Mortal<'a> {
    kept: &'a mut Kept,
    lives: usize,
}

#[async_trait::async_trait]
impl DraftSink for Mortal<'_> {
    async fn deliver(&mut self, delivery: Delivery) -> Result<()> {
        if self.lives == 0 {
            std::future::pending::<()>().await;
        }
        self.lives -= 1;
        self.kept.deliver(delivery).await
    }
}

#[tokio::test]
async fn a_crawl_that_is_killed_goes_on_without_gap_or_repeat() {
    const PAGES: usize = 60;
    let site = Site::start(|path, _| match path {
        "/" => {
            Answer::html((0..PAGES).map(|i| next(&format!("/p/{i}"))).collect::<String>() + &person("home"))
        }
        other => list(other, PAGES - 1).map_or(Answer::status(404), |a| a.after(Duration::from_millis(3))),
    })
    .await;
    let mut spec = site.spec("/");
    spec.crawl.concurrency_per_host = 4;
    let mut kept = Kept::default();
    let mut kills = 0;
    for lives in (1..).map(|n| n * 3 % 11) {
        // A new process each time: nothing is left but what was delivered.
        let collector = WebCollector::from_spec(&spec).unwrap();
        let checkpoint = kept.checkpoint();
        let mut sink = Mortal {
            kept: &mut kept,
            lives,
        };
        let ctx = ctx();
        let crawl = collector.collect(&ctx, checkpoint.as_ref(), &mut sink);
        match tokio::time::timeout(Duration::from_millis(400), crawl).await {
            Ok(result) => {
                result.unwrap();
                break;
            }
            Err(_) => kills += 1,
        }
    }
    assert!(kills >= 5, "{kills}");
    let mut wanted: Vec<String> = (0..PAGES)
        .flat_map(|i| [format!("a{i}@example.com"), format!("b{i}@example.com")])
        .collect();
    wanted.push("home@example.com".into());
    wanted.sort();
    assert_eq!(kept.emails(), wanted, "every person once");
    // What was in flight or not stored is fetched again, nothing else: at most 4 in flight and 4 parsed at each kill.
    assert!(
        site.page_hits() <= PAGES + 1 + kills * 8,
        "{} fetches, {kills} kills",
        site.page_hits()
    );
    assert!(site.page_hits() > PAGES + 1, "the kills did hit something");
}

#[tokio::test]
async fn a_finished_crawl_has_nothing_left_to_do() {
    let site = Site::start(|path, _| list(path, 4).unwrap_or(Answer::status(404))).await;
    let collector = site.collector("/p/0");
    let (kept, result) = run(&collector, None).await;
    let end = result.unwrap();
    let hits = site.page_hits();
    let (again, result) = run(&collector, kept.checkpoint().as_ref()).await;
    assert_eq!(
        (result.unwrap().drafts, again.0.len(), site.page_hits()),
        (end.drafts, 0, hits)
    );
}

#[derive(Debug)]
struct Shaky(Url);

impl Spider for Shaky {
    fn name(&self) -> &str {
        "shaky"
    }
    fn seeds(&self) -> Vec<Url> {
        vec![self.0.clone(), self.0.join("/other").unwrap()]
    }
    fn allows(&self, url: &Url) -> bool {
        url.host() == self.0.host()
    }
    fn parse(&self, page: &Page, output: &mut Output) {
        assert!(page.url().path() != "/bad", "cannot read this");
        let mut draft = Draft::new(page.provenance(1));
        draft.emails.push("x@example.com".into());
        output.draft(draft);
        output.follow(page.link("/bad").unwrap());
    }
}

#[tokio::test]
async fn a_spider_of_ones_own_that_panics_costs_one_page() {
    let site = Site::start(|path, _| match path {
        "/robots.txt" => Answer::status(404),
        _ => Answer::html("<p>"),
    })
    .await;
    let spec = site.spec("/");
    let spider = Arc::new(Shaky(site.url("/").parse().unwrap()));
    let config = CrawlConfig {
        max_pages: 10,
        ..spec.crawl
    };
    let (kept, result) = run(&WebCollector::new(spider, config).unwrap(), None).await;
    assert_eq!(result.unwrap().done, 3);
    assert_eq!(kept.drafts().len(), 2);
    assert!(kept.rejects()[0].reason.contains("panicked"));
}
