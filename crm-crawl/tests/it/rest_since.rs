//! What a second run of an interface asks for: what is new since, or nothing when nothing changed.

use std::sync::{Arc, Mutex};

use crm_core::ErrorKind;
use crm_core::ManualClock;
use crm_core::capability::RecordStore;
use crm_core::memory::MemoryStore;
use crm_crawl::rest::RestCollector;
use serde_json::{Value as Json, json};

use crate::api::{Api, all, page, people, status, ten};
use crate::run;

#[tokio::test]
async fn only_what_changed_since_the_last_run() {
    let api = Api::start(|_, n| {
        let changed = [
            "2026-02-01T10:00:00Z",
            "2026-02-03T10:00:00Z",
            "2026-02-02T10:00:00Z",
        ][n % 3];
        page(json!({"items": [{"id": n, "changed": changed}]})).with("date", "Sun, 01 Mar 2026 08:00:00 GMT")
    })
    .await;
    let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("memory"));
    let clock = Arc::new(ManualClock::at("2026-03-01T09:00:00Z".parse().unwrap()));
    let collector = |since: Json| {
        RestCollector::with_store(api.spec(json!({"since": since})), store.clone())
            .unwrap()
            .with_clock(clock.clone())
            .unwrap()
    };
    // By the interface's own clock.
    let by_clock = collector(json!({"param": "since"}));
    run(&by_clock, None).await.1.unwrap();
    run(&by_clock, None).await.1.unwrap();
    assert_eq!(api.asked("since"), ["", "2026-03-01T07:59:00Z"]);
    // By what the items say; the newest counts, and it never goes back.
    let store_again: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("other"));
    let fielded = || {
        let since = json!({"param": "q", "value": "changed>{}", "field": "changed", "overlap": 0});
        RestCollector::with_store(api.spec(json!({"since": since})), store_again.clone()).unwrap()
    };
    api.log.lock().unwrap().clear();
    for _ in 0..4 {
        run(&fielded(), None).await.1.unwrap();
    }
    assert_eq!(
        api.asked("q"),
        [
            "",
            "changed>2026-02-01T10:00:00Z",
            "changed>2026-02-03T10:00:00Z",
            "changed>2026-02-03T10:00:00Z"
        ]
    );
    // Without a store there is no last run.
    let error = RestCollector::new(api.spec(json!({"since": {"param": "s"}}))).unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("since"))
    );
}

#[tokio::test]
async fn a_run_that_stopped_leaves_no_gap_for_the_next() {
    let broken = Arc::new(Mutex::new(true));
    let flag = broken.clone();
    let api = Api::start(move |asked, _| match ten(asked, "page") {
        1 => page(json!({"items": people(0..5)})),
        2 if *flag.lock().unwrap() => status(400),
        2 => page(json!({"items": people(5..10)})),
        _ => page(json!({"items": []})),
    })
    .await;
    let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("memory"));
    let spec = || api.spec(json!({"pages": {"type": "page", "param": "page"}, "since": {"param": "since"}}));
    let collector = RestCollector::with_store(spec(), store).unwrap();
    let (kept, end) = run(&collector, None).await;
    assert_eq!(
        (end.unwrap_err().kind(), kept.emails().len()),
        (ErrorKind::Invalid, 5)
    );
    *broken.lock().unwrap() = false;
    // Anew: nothing was kept of a run that did not come to its end.
    let before = api.log().len();
    let (again, end) = run(&collector, None).await;
    end.unwrap();
    assert_eq!(
        (again.emails(), api.asked("since")[before].as_str()),
        (all(10), "")
    );
    // From its checkpoint: the first page is not asked for again.
    let before = api.log().len();
    let (rest, end) = run(&collector, kept.checkpoint().as_ref()).await;
    end.unwrap();
    assert_eq!(rest.emails().len(), 5);
    assert_eq!(api.asked("page")[before..], ["2", "3"]);
}

#[tokio::test]
async fn a_page_that_did_not_change_is_not_sent_again() {
    let api = Api::start(
        |asked, _| match asked.headers.get("if-none-match").map(|v| v.to_str().unwrap()) {
            Some("\"v1\"") => status(304),
            _ => page(json!({"items": people(0..3)})).with("etag", "\"v1\""),
        },
    )
    .await;
    let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("memory"));
    let collector = RestCollector::with_store(api.spec(json!({"conditional": true})), store).unwrap();
    for drafts in [3, 0, 0] {
        let (kept, end) = run(&collector, None).await;
        assert_eq!((kept.drafts().len(), end.unwrap().done), (drafts, 1));
    }
    assert_eq!(api.log().len(), 3);
}
