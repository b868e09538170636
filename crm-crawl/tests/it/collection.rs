use std::sync::Arc;
use std::time::Duration;

use crm_core::capability::{Collector, CollectorCapability, Progress};
use crm_core::{Clock, Consumer, ErrorKind, ManualClock, Registry};
use crm_crawl::Collection;
use crm_crawl::file::{CsvCollector, CsvConfig};

use crate::csv::Folder;
use crate::{Kept, ctx};

fn people(folder: &Folder, name: &str) -> Arc<dyn Collector> {
    let rows: String = (0..25).map(|i| format!("p{i}@example.com\n")).collect();
    let mut config = CsvConfig::new(folder.file(format!("email\n{rows}")), name);
    config.batch = 10;
    Arc::new(CsvCollector::new(config).unwrap())
}

#[tokio::test]
async fn runs_by_name_reports_and_goes_on() {
    let folder = Folder::new();
    let registry = Registry::builder()
        .provide(0, people(&folder, "people"))
        .build()
        .unwrap();
    let collection = Collection::bind(&registry).unwrap();
    let mut sink = Kept::default();
    let mut seen: Vec<Progress> = Vec::new();
    let report = collection
        .run(&ctx(), "people", None, &mut sink, &mut |p| seen.push(*p))
        .await
        .unwrap();
    assert_eq!((report.deliveries, report.drafts, report.rejects), (3, 25, 0));
    assert_eq!(seen.len(), 3);
    assert!(seen.windows(2).all(|w| w[0].drafts < w[1].drafts));
    assert_eq!(report.checkpoint, sink.checkpoint());

    let from = sink.0[1].checkpoint.clone();
    let mut rest = Kept::default();
    let report = collection
        .run(&ctx(), "people", from.as_ref(), &mut rest, &mut |_| {})
        .await
        .unwrap();
    assert_eq!((report.drafts, report.progress.drafts), (5, 25));

    let error = collection
        .run(&ctx(), "peple", None, &mut sink, &mut |_| {})
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("registered")),
        (ErrorKind::NotFound, Some("people"))
    );
}

#[tokio::test]
async fn needs_a_collector() {
    let error = Collection::bind(&Registry::builder().build().unwrap()).unwrap_err();
    assert_eq!(
        (error.kind(), error.context("missing")),
        (ErrorKind::Unsupported, Some("Collector"))
    );
}

#[tokio::test]
async fn one_that_fails_does_not_stop_the_others() {
    let (a, b) = (Folder::new(), Folder::new());
    let gone: Arc<dyn Collector> =
        Arc::new(CsvCollector::new(CsvConfig::new("/nowhere/people.csv", "gone")).unwrap());
    let registry = Registry::builder()
        .provide(3, people(&a, "first"))
        .provide(2, gone)
        .provide(1, people(&b, "last"))
        .build()
        .unwrap();
    let collection = Collection::bind(&registry).unwrap();
    assert_eq!(collection.names(), ["first", "gone", "last"]);
    let mut sink = Kept::default();
    let mut names = Vec::new();
    let results = collection
        .run_all(&ctx(), &|_| None, &mut sink, &mut |name, _| {
            names.push(name.to_owned())
        })
        .await;
    let ok: Vec<bool> = results.iter().map(|(_, result)| result.is_ok()).collect();
    assert_eq!(ok, [true, false, true]);
    assert_eq!(
        results[1].1.as_ref().unwrap_err().context("collector"),
        Some("gone")
    );
    assert_eq!(sink.drafts().len(), 50);
    assert_eq!(names.len(), 6);
}

#[tokio::test]
async fn the_deadline_counts() {
    let folder = Folder::new();
    let registry = Registry::builder()
        .provide(0, people(&folder, "people"))
        .build()
        .unwrap();
    let clock = Arc::new(ManualClock::at("2026-03-01T09:00:00Z".parse().unwrap()));
    let collection = Collection::bind(&registry).unwrap().with_clock(clock.clone());
    let ctx = ctx().deadline("2100-01-01T00:00:00Z".parse().unwrap());
    let mut sink = Kept::default();
    let mover = clock.clone();
    let error = collection
        .run(&ctx, "people", None, &mut sink, &mut move |_| {
            mover.advance(Duration::from_secs(40 * 365 * 86_400))
        })
        .await
        .unwrap_err();
    // The clock passed the deadline during the second delivery's turn.
    assert_eq!((error.kind(), sink.0.len()), (ErrorKind::Timeout, 2));
    assert!(clock.now() > "2100-01-01T00:00:00Z".parse().unwrap());
}

#[test]
fn a_file_can_be_gone_on_with() {
    let folder = Folder::new();
    assert_eq!(
        people(&folder, "people").capability(),
        CollectorCapability::new(true, true)
    );
}
