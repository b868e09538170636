//! The frontier in a store: shared, leased, taken over. What kills and several processes do to it is in the root tests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crm_core::capability::Collector;
use crm_core::memory::MemoryStore;
use crm_core::{Clock as _, ErrorKind, ManualClock, SystemClock};
use crm_crawl::spider::{StoredFrontier, WebCollector};

use crate::site::{Answer, Site, list, next, person};
use crate::{Kept, ctx, run};

const PAGES: usize = 40;

/// A page that links to all others, each with two persons.
async fn star(delay: Duration) -> Site {
    Site::start(move |path, _| match path {
        "/" => {
            Answer::html((0..PAGES).map(|i| next(&format!("/p/{i}"))).collect::<String>() + &person("home"))
        }
        other => list(other, PAGES - 1).map_or(Answer::status(404), |answer| answer.after(delay)),
    })
    .await
}

fn everybody() -> BTreeSet<String> {
    (0..PAGES)
        .flat_map(|i| [format!("a{i}@example.com"), format!("b{i}@example.com")])
        .chain(["home@example.com".to_owned()])
        .collect()
}

#[tokio::test]
async fn several_collectors_share_the_work() {
    let site = star(Duration::from_millis(40)).await;
    let mut spec = site.spec("/");
    spec.crawl.concurrency = 4;
    spec.crawl.concurrency_per_host = 4;
    let store = Arc::new(MemoryStore::new("records"));
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let frontier = StoredFrontier::open(store.clone(), "star").await.unwrap();
        let collector = WebCollector::from_spec(&spec).unwrap().with_frontier(frontier);
        tasks.push(tokio::spawn(async move { run(&collector, None).await }));
    }
    let mut found = Vec::new();
    let mut shares = Vec::new();
    for task in tasks {
        let (kept, result) = task.await.unwrap();
        result.unwrap();
        shares.push(kept.emails().len());
        found.extend(kept.emails());
    }
    assert_eq!(found.len(), 2 * PAGES + 1, "every page by one of them");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), everybody());
    assert_eq!(site.page_hits(), PAGES + 1);
    assert!(shares.iter().filter(|n| **n > 0).count() >= 2, "{shares:?}");
    let frontier = StoredFrontier::open(store, "star").await.unwrap();
    let count = frontier.count(&ctx()).await.unwrap();
    assert_eq!(
        (count.waiting, count.leased, count.done),
        (0, 0, PAGES as u64 + 1)
    );

    // What is done stays done, until it is cleared.
    let again = WebCollector::from_spec(&spec)
        .unwrap()
        .with_frontier(frontier.clone());
    let (kept, result) = run(&again, None).await;
    assert_eq!(
        (result.unwrap().done, kept.drafts().len(), site.page_hits()),
        (PAGES as u64 + 1, 0, PAGES + 1)
    );
    frontier.clear(&ctx()).await.unwrap();
    run(&again, None).await.1.unwrap();
    assert_eq!(site.page_hits(), 2 * (PAGES + 1));
}

#[tokio::test]
async fn what_a_dead_process_held_is_taken_over() {
    // A named process takes its own back at once; another one waits for the leases to run out.
    for (second, waits) in [("one", false), ("two", true)] {
        let site = star(Duration::from_millis(20)).await;
        let mut spec = site.spec("/");
        spec.crawl.concurrency = 4;
        spec.crawl.concurrency_per_host = 4;
        let store = Arc::new(MemoryStore::new("records"));
        let clock = Arc::new(ManualClock::at(SystemClock::shared().now()));
        let open = async |worker: &str| {
            let frontier = StoredFrontier::open(store.clone(), "star").await.unwrap();
            let frontier = frontier
                .with_clock(clock.clone())
                .with_worker(worker)
                .with_lease(Duration::from_secs(90));
            WebCollector::from_spec(&spec).unwrap().with_frontier(frontier)
        };
        let first = open("one").await;
        let mut kept = Kept::default();
        let died =
            tokio::time::timeout(Duration::from_millis(120), first.collect(&ctx(), None, &mut kept)).await;
        assert!(died.is_err(), "it was killed in the middle");
        let frontier = StoredFrontier::open(store.clone(), "star").await.unwrap();
        assert!(
            frontier.count(&ctx()).await.unwrap().leased > 0,
            "something was leased when it died"
        );
        let (hits, in_flight) = (site.page_hits(), 4);
        let second = open(second).await;
        if waits {
            // Negative control: before the leases run out nothing of them is fetched, and the run does not end.
            let mut early = Kept::default();
            let waiting =
                tokio::time::timeout(Duration::from_secs(2), second.collect(&ctx(), None, &mut early)).await;
            assert!(waiting.is_err());
            kept.0.extend(early.0);
            assert!(!everybody().is_subset(&kept.emails().into_iter().collect()));
            clock.advance(Duration::from_secs(91));
        }
        second.collect(&ctx(), None, &mut kept).await.unwrap();
        assert_eq!(kept.emails().into_iter().collect::<BTreeSet<_>>(), everybody());
        assert!(
            site.page_hits() <= PAGES + 1 + in_flight,
            "{hits} before, {} in all",
            site.page_hits()
        );
    }
}

/// The attempts at a URL are kept with it: a wait that is longer than the lease does not begin them anew.
#[tokio::test]
async fn attempts_outlive_a_lease() {
    let site = Site::start(|path, _| match path {
        "/" => Answer::html(person("home") + &next("/busy")),
        "/busy" => Answer::status(503).header("retry-after", "1"),
        _ => Answer::status(404),
    })
    .await;
    let store = Arc::new(MemoryStore::new("records"));
    let frontier = StoredFrontier::open(store, "busy").await.unwrap();
    let frontier = frontier.with_lease(Duration::from_millis(200));
    let collector = site.collector("/").with_frontier(frontier.clone());
    let crawl = tokio::time::timeout(Duration::from_secs(30), run(&collector, None));
    let (kept, result) = crawl.await.expect("the crawl ends");
    result.unwrap();
    assert_eq!((kept.emails().len(), site.hits("/busy")), (1, 3));
    assert_eq!(frontier.count(&ctx()).await.unwrap().done, 2);
}

#[tokio::test]
async fn several_collectors_keep_one_limit_of_pages() {
    const MOST: u64 = 20;
    let site = star(Duration::from_millis(10)).await;
    let mut spec = site.spec("/");
    (spec.crawl.concurrency, spec.crawl.concurrency_per_host) = (2, 2);
    spec.crawl.max_pages = MOST;
    let store = Arc::new(MemoryStore::new("records"));
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let frontier = StoredFrontier::open(store.clone(), "star").await.unwrap();
        let collector = WebCollector::from_spec(&spec).unwrap().with_frontier(frontier);
        tasks.push(tokio::spawn(async move { run(&collector, None).await.1 }));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    // Give or take what each has under way.
    let hits = site.page_hits() as u64;
    assert!((MOST..=MOST + 3 * 2).contains(&hits), "{hits}");
}

/// A run that ends with an error gives back what it leased: the next one need not wait.
#[tokio::test]
async fn an_end_that_is_no_crash_leaves_no_lease() {
    let site = star(Duration::from_millis(20)).await;
    let clock = Arc::new(ManualClock::at(SystemClock::shared().now()));
    let store = Arc::new(MemoryStore::new("records"));
    let frontier = StoredFrontier::open(store, "star").await.unwrap();
    let collector = site
        .collector("/")
        .with_frontier(frontier.clone())
        .with_clock(clock.clone());
    let late = ctx().deadline(clock.now().plus(Duration::from_secs(5)));
    let advance = async {
        while site.page_hits() < 10 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        clock.advance(Duration::from_secs(6));
    };
    let mut kept = Kept::default();
    let (result, ()) = tokio::join!(collector.collect(&late, None, &mut kept), advance);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Timeout);
    let count = frontier.count(&ctx()).await.unwrap();
    assert_eq!(count.leased, 0, "{count:?}");
    assert!(count.waiting > 0);
    collector.collect(&ctx(), None, &mut kept).await.unwrap();
    assert_eq!(kept.emails().into_iter().collect::<BTreeSet<_>>(), everybody());
}

#[tokio::test]
async fn redirects_retries_and_limits_hold_with_a_store() {
    let site = Site::start(|path, before| match path {
        "/" => Answer::html(
            next("/moved")
                + &next("/busy")
                + &next("/gone")
                + &(0..30)
                    .map(|i| next(&format!("/cal?day={i}")))
                    .collect::<String>(),
        ),
        "/moved" => Answer::redirect("/there"),
        "/there" => Answer::html(person("there")),
        "/busy" if before < 2 => Answer::status(503),
        "/busy" => Answer::html(person("busy")),
        "/round" => Answer::redirect("/round2"),
        "/round2" => Answer::redirect("/round"),
        other if other.starts_with("/cal") => Answer::html(next("/round")),
        _ => Answer::status(404),
    })
    .await;
    let mut spec = site.spec("/");
    spec.crawl.max_variants = 5;
    let store = Arc::new(MemoryStore::new("records"));
    let frontier = StoredFrontier::open(store.clone(), "mixed").await.unwrap();
    let (kept, result) = run(
        &WebCollector::from_spec(&spec).unwrap().with_frontier(frontier),
        None,
    )
    .await;
    result.unwrap();
    assert_eq!(kept.emails(), ["busy@example.com", "there@example.com"]);
    assert_eq!(
        (
            site.hits("/there"),
            site.hits("/busy"),
            site.hits("/gone"),
            site.hits("/round")
        ),
        (1, 3, 1, 1)
    );
    assert_eq!(
        site.log()
            .iter()
            .filter(|hit| hit.path.starts_with("/cal"))
            .count(),
        5
    );
    let reasons: Vec<String> = kept.rejects().into_iter().map(|reject| reject.reason).collect();
    assert!(
        reasons.iter().any(|reason| reason.contains("circle")),
        "{reasons:?}"
    );

    // Begun again at its limits, it has nothing to do, and nothing to say against its own seeds.
    spec.start = vec![site.url("/cal?day=0").parse().unwrap()];
    spec.crawl.max_pending = 1;
    let frontier = StoredFrontier::open(store.clone(), "mixed").await.unwrap();
    let hits = site.page_hits();
    let again = WebCollector::from_spec(&spec).unwrap().with_frontier(frontier);
    run(&again, None).await.1.unwrap();
    assert_eq!(site.page_hits(), hits);

    // A checkpoint of the one is none of the other.
    let other = StoredFrontier::open(store, "other").await.unwrap();
    let error = run(
        &WebCollector::from_spec(&spec).unwrap().with_frontier(other),
        kept.checkpoint().as_ref(),
    )
    .await
    .1
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        StoredFrontier::open(Arc::new(MemoryStore::new("records")), "")
            .await
            .is_err()
    );
}
