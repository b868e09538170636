//! Cookies, caches, sitemaps, middleware, figures, stopping, trials: against a site whose log is the oracle.

use std::sync::Arc;
use std::time::Duration;

use crm_core::capability::Collector;
use crm_core::customer::Draft;
use crm_core::memory::MemoryStore;
use crm_core::{ErrorKind, ManualClock, Timestamp};
use crm_crawl::spider::{Middleware, StoredCache, WebCollector};
use http::{HeaderMap, HeaderValue};
use url::Url;

use crate::site::{Answer, Site, list, next, person};
use crate::{Kept, ctx, run};

fn now() -> Timestamp {
    "2026-03-01T09:00:00Z".parse().unwrap()
}

/// CRW-14: a jar a job.
#[tokio::test]
async fn cookies_live_as_long_as_the_run() {
    let site = Site::start(|path, _| match path {
        "/robots.txt" => Answer::status(404),
        "/" => Answer::html(person("home") + &next("/in")).header("set-cookie", "visit=1; Path=/"),
        "/in" => Answer::html(person("in")),
        _ => Answer::status(404),
    })
    .await;
    let cookies = |site: &Site| -> Vec<(String, String)> {
        site.log()
            .iter()
            .map(|hit| (hit.path.clone(), hit.header("cookie")))
            .collect()
    };
    let collector = site.collector("/");
    run(&collector, None).await.1.unwrap();
    run(&collector, None).await.1.unwrap();
    let seen: Vec<_> = cookies(&site)
        .into_iter()
        .filter(|(path, _)| path != "/robots.txt")
        .collect();
    let pair = |path: &str, cookie: &str| (path.to_owned(), cookie.to_owned());
    assert_eq!(
        seen,
        [
            pair("/", ""),
            pair("/in", "visit=1"),
            pair("/", ""),
            pair("/in", "visit=1")
        ]
    );

    // Negative control: without them the site sees none.
    let site = Site::start(|path, _| match path {
        "/" => Answer::html(person("home") + &next("/in")).header("set-cookie", "visit=1; Path=/"),
        "/in" => Answer::html(person("in")),
        _ => Answer::status(404),
    })
    .await;
    let mut spec = site.spec("/");
    spec.crawl.cookies = false;
    run(&WebCollector::from_spec(&spec).unwrap(), None)
        .await
        .1
        .unwrap();
    assert!(cookies(&site).iter().all(|(_, cookie)| cookie.is_empty()));
    assert_eq!(site.hits("/in"), 1);
}

/// `/` may be kept for an hour, `/p/0` is to be asked about each time, `/p/1` may not be kept.
fn keeping(path: &str, _: usize, conditional: bool) -> Answer {
    match path {
        "/" => Answer::html(person("home") + &next("/p/0")).header("cache-control", "max-age=3600"),
        "/p/0" if conditional => Answer::status(304).header("etag", "\"v1\""),
        "/p/0" => Answer::html(person("a0") + &next("/p/1")).header("etag", "\"v1\""),
        "/p/1" => Answer::html(person("a1"))
            .header("cache-control", "no-store")
            .header("etag", "\"v1\""),
        _ => Answer::status(404),
    }
}

#[tokio::test]
async fn pages_that_did_not_change_are_not_sent_again() {
    let site =
        Site::start_with(|hit, before| keeping(&hit.path, before, hit.header("if-none-match") == "\"v1\""))
            .await;
    let store = Arc::new(MemoryStore::new("records"));
    let clock = Arc::new(ManualClock::at(now()));
    let spec = site.spec("/");
    let wanted = ["a0@example.com", "a1@example.com", "home@example.com"];
    // Hits on each page after each run; one hour and a second later the first one is stale, too.
    for (advance, hits) in [(0, (1, 1, 1)), (10, (1, 2, 2)), (3600, (2, 3, 3))] {
        clock.advance(Duration::from_secs(advance));
        let cache = StoredCache::open(store.clone()).await.unwrap();
        let collector = WebCollector::from_spec(&spec)
            .unwrap()
            .with_cache(Arc::new(cache))
            .with_clock(clock.clone());
        let (kept, result) = run(&collector, None).await;
        result.unwrap();
        assert_eq!(
            kept.emails(),
            wanted,
            "the same persons from the site and from the cache"
        );
        assert_eq!((site.hits("/"), site.hits("/p/0"), site.hits("/p/1")), hits);
        let stats = collector.stats();
        assert_eq!(stats.pages, 3);
        assert_eq!(stats.not_modified, u64::from(advance > 0));
        assert_eq!(stats.from_cache, u64::from(advance == 10));
    }
    // The second and third time /p/0 was asked about, /p/1 never.
    let asked: Vec<bool> = site
        .log()
        .iter()
        .filter(|h| h.path == "/p/0")
        .map(|h| !h.header("if-none-match").is_empty())
        .collect();
    assert_eq!(asked, [false, true, true]);
    assert!(
        site.log()
            .iter()
            .filter(|h| h.path == "/p/1")
            .all(|h| h.header("if-none-match").is_empty())
    );
    let cache = StoredCache::open(store).await.unwrap();
    assert_eq!(
        cache
            .purge(&ctx(), now().plus(Duration::from_secs(86_400)))
            .await
            .unwrap(),
        2
    );
}

/// Bad input 21.
#[tokio::test]
async fn sitemaps_are_seeds() {
    let site = Site::start_with(|hit, _| {
        let host = hit.header("host");
        let entry = |path: &str| format!("<url><loc>http://{host}{path}</loc></url>");
        match hit.path.as_str() {
            "/robots.txt" => Answer::text(format!("sitemap: http://{host}/named.xml\nuser-agent: *\ndisallow: /secret.xml\n")),
            "/index.xml" => Answer::xml(format!(
                "<sitemapindex><sitemap><loc>http://{host}/part.xml</loc></sitemap><sitemap><loc>http://{host}/again.xml</loc></sitemap>\
                 <sitemap><loc>http://{host}/secret.xml</loc></sitemap><sitemap><loc>http://other.example/x.xml</loc></sitemap></sitemapindex>"
            )),
            "/part.xml" => Answer::xml(format!(
                "<urlset>{}{}<url><loc>http://other.example/p</loc></url></urlset>", entry("/p/0"), entry("/p/0#again")
            )),
            // An index in an index, which lists itself and the first one.
            "/again.xml" => Answer::xml(format!(
                "<sitemapindex><sitemap><loc>http://{host}/index.xml</loc></sitemap><sitemap><loc>http://{host}/deep.xml</loc></sitemap></sitemapindex>"
            )),
            "/named.xml" => Answer::xml(format!("<urlset>{}</urlset>", entry("/p/1"))),
            "/secret.xml" | "/deep.xml" => Answer::xml(format!("<urlset>{}</urlset>", entry("/p/2"))),
            "/laughs.xml" => Answer::xml("<!DOCTYPE x [<!ENTITY a 'b'>]><urlset/>"),
            "/" => Answer::html("<p>nobody</p>"),
            other => other.strip_prefix("/p/").map_or(Answer::status(404), |n| Answer::html(person(&format!("a{n}")))),
        }
    })
    .await;
    let mut spec = site.spec("/");
    spec.crawl.sitemaps = vec![
        site.url("/index.xml").parse().unwrap(),
        site.url("/laughs.xml").parse().unwrap(),
    ];
    let (kept, result) = run(&WebCollector::from_spec(&spec).unwrap(), None).await;
    result.unwrap();
    assert_eq!(kept.emails(), ["a0@example.com"]);
    assert_eq!(
        (
            site.hits("/index.xml"),
            site.hits("/deep.xml"),
            site.hits("/secret.xml")
        ),
        (1, 0, 0)
    );
    let reasons: Vec<String> = kept.rejects().into_iter().map(|r| r.reason).collect();
    for wanted in [
        "document type",
        "only the first one is followed",
        "robots.txt forbids",
    ] {
        assert_eq!(
            reasons.iter().filter(|r| r.contains(wanted)).count(),
            1,
            "{wanted}: {reasons:?}"
        );
    }

    spec.crawl.sitemaps.clear();
    spec.crawl.robots_sitemaps = true;
    let (kept, result) = run(&WebCollector::from_spec(&spec).unwrap(), None).await;
    result.unwrap();
    assert_eq!(kept.emails(), ["a1@example.com"]);
}

#[derive(Debug)]
struct Picky;

impl Middleware for Picky {
    fn before_request(&self, url: &Url, headers: &mut HeaderMap) -> crm_core::Result<()> {
        if url.path() == "/p/1" {
            return Err(crm_core::Error::invalid("not today"));
        }
        headers.insert("x-why", HeaderValue::from_static("survey"));
        Ok(())
    }
    fn after_response(&self, _: &Url, response: &mut crm_core::http::Response) -> crm_core::Result<()> {
        let text = String::from_utf8_lossy(&response.body).replace("b0", "c0");
        response.body = text.into_bytes().into();
        Ok(())
    }
    fn on_item(&self, url: &Url, mut draft: Draft) -> Option<Draft> {
        draft.tags.push(url.path().to_owned());
        (draft.emails != ["a0@example.com"]).then_some(draft)
    }
}

#[tokio::test]
async fn middleware_sees_requests_answers_and_persons() {
    let site = Site::start(|path, _| list(path, 2).unwrap_or(Answer::status(404))).await;
    let collector = site.collector("/p/0").with_middleware(Arc::new(Picky));
    let (kept, result) = run(&collector, None).await;
    result.unwrap();
    assert_eq!(kept.emails(), ["c0@example.com"]);
    assert_eq!(kept.drafts()[0].tags, ["/p/0"]);
    assert_eq!(site.hits("/p/1"), 0);
    assert!(kept.rejects()[0].reason.contains("not today"));
    let log = site.log();
    let why: Vec<String> = log.iter().map(|hit| hit.header("x-why")).collect();
    assert_eq!(why, ["", "survey"], "robots.txt is asked for without");
}

#[tokio::test]
async fn the_figures_are_the_servers() {
    let site = Site::start(|path, before| match path {
        "/p/3" => Answer::status(404),
        "/p/2" if before == 0 => Answer::status(500),
        "/" => Answer::html((0..6).map(|i| next(&format!("/p/{i}"))).collect::<String>()),
        other => list(other, 9).map_or(Answer::status(404), |mut answer| {
            answer.cut_links();
            answer
        }),
    })
    .await;
    let collector = site.collector("/");
    assert_eq!(collector.stats().started_at, None);
    let (kept, result) = run(&collector, None).await;
    let end = result.unwrap();
    let stats = collector.stats();
    assert_eq!(stats.requests, site.page_hits() as u64);
    assert_eq!(
        (stats.pages, stats.items, stats.retries),
        (6, kept.drafts().len() as u64, 1)
    );
    assert_eq!(
        stats
            .errors
            .iter()
            .map(|(kind, n)| (*kind, *n))
            .collect::<Vec<_>>(),
        [("not found", 1)]
    );
    assert_eq!(
        (stats.rejects, stats.queued, stats.in_flight, stats.running),
        (end.rejects, 0, 0, false)
    );
    assert_eq!(stats.bytes, site.bytes_sent("/robots.txt"));
    let (name, entry) = stats.sites.first_key_value().unwrap();
    assert_eq!(
        (name.as_str(), entry.requests, entry.errors),
        (site.url("").as_str(), stats.requests, 2)
    );
}

#[tokio::test]
async fn stopped_and_gone_on() {
    const PAGES: usize = 40;
    let site = Site::start(|path, _| {
        list(path, PAGES - 1).map_or(Answer::status(404), |a| a.after(Duration::from_millis(5)))
    })
    .await;
    let collector = Arc::new(site.collector("/p/0"));
    // A stop without a run is for nobody.
    collector.stop();
    let mut all = Vec::new();
    let mut checkpoint = None;
    let mut stops = 0;
    loop {
        let running = collector.clone();
        let from = checkpoint.clone();
        let task = tokio::spawn(async move { run(running.as_ref(), from.as_ref()).await });
        let wanted = site.page_hits() + 7;
        while site.page_hits() < wanted && !task.is_finished() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        collector.stop();
        let (kept, result) = task.await.unwrap();
        all.extend(kept.emails());
        checkpoint = kept.checkpoint().or(checkpoint);
        match result {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}"),
        }
        stops += 1;
    }
    assert!(stops >= 3, "{stops}");
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 2 * PAGES);
    assert_eq!(
        site.page_hits(),
        PAGES,
        "what was under way was finished: nothing is fetched twice"
    );
}

#[tokio::test]
async fn a_trial_shows_what_a_page_would_yield() {
    let site = Site::start(|path, _| match path {
        "/robots.txt" => Answer::text("user-agent: *\ndisallow: /private"),
        "/moved" => Answer::redirect("/list"),
        "/list" => Answer::html(
            person("ana")
                + &next("/p/1")
                + &next("/p/1#again")
                + &next("/private/x")
                + &next("http://other.example/")
                + &next("/a/b/a/b/a/b")
                + &next("/list"),
        ),
        _ => Answer::status(404),
    })
    .await;
    let collector = site.collector("/list");
    let url = |path: &str| site.url(path).parse::<Url>().unwrap();
    let moved = collector.try_url(&ctx(), &url("/moved")).await.unwrap();
    assert_eq!((moved.redirect, moved.drafts.len()), (Some(url("/list")), 0));
    let trial = collector.try_url(&ctx(), &url("/list")).await.unwrap();
    assert_eq!(
        (trial.url.path(), trial.robots),
        ("/list", "allowed by robots.txt")
    );
    assert_eq!(trial.drafts[0].emails, ["ana@example.com"]);
    assert_eq!(trial.follow, [url("/p/1")]);
    let reasons: Vec<(&str, &str)> = trial
        .passed
        .iter()
        .map(|(url, why)| (url.path(), why.as_str()))
        .collect();
    assert!(
        reasons
            .iter()
            .any(|(path, why)| *path == "/private/x" && why.contains("robots.txt")),
        "{reasons:?}"
    );
    assert!(
        reasons
            .iter()
            .any(|(path, why)| *path == "/a/b/a/b/a/b" && why.contains("repeats")),
        "{reasons:?}"
    );
    for (path, kind) in [
        ("/private/x", ErrorKind::PermissionDenied),
        ("/nowhere", ErrorKind::NotFound),
    ] {
        assert_eq!(
            collector.try_url(&ctx(), &url(path)).await.unwrap_err().kind(),
            kind,
            "{path}"
        );
    }
    assert_eq!((site.hits("/p/1"), site.hits("/private/x")), (0, 0));
}

/// CRW-13: a server that sends one byte at a time never ends by itself.
#[tokio::test]
async fn a_page_that_trickles_ends_at_the_total_time_out() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let before = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                if before == 0 {
                    let _ = stream
                        .write_all(
                            b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                        )
                        .await;
                    return;
                }
                let head =
                    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<p>".to_owned() + &"x".repeat(10_000);
                for byte in head.bytes() {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
    });
    let site = Site::start(|_, _| Answer::status(404)).await;
    let mut spec = site.spec("/");
    spec.start = vec![format!("http://{address}/").parse().unwrap()];
    spec.crawl.http.allow = vec![format!("{}/32:{}", address.ip(), address.port()).parse().unwrap()];
    spec.crawl.http.total_timeout = Duration::from_millis(300);
    spec.crawl.retries = 1;
    let (kept, result) = run(&WebCollector::from_spec(&spec).unwrap(), None).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Timeout, Some("total_timeout")),
        "{error}"
    );
    assert_eq!(kept.0.len(), 0);
    assert_eq!(
        connections.load(std::sync::atomic::Ordering::SeqCst),
        3,
        "robots.txt, the page, the page again"
    );
}

#[tokio::test]
async fn a_crawl_too_large_for_a_checkpoint_says_so() {
    // 12,000 long links that wait: more than a store keeps in one value.
    let site = Site::start(|path, _| match path {
        "/robots.txt" => Answer::status(404),
        "/" => Answer::html(
            (0..12_000)
                .map(|i| next(&format!("/{i}/{}", "x".repeat(100))))
                .collect::<String>()
                + &person("home"),
        ),
        _ => Answer::html("<p>"),
    })
    .await;
    let mut spec = site.spec("/");
    spec.crawl.max_pending = 20_000;
    spec.crawl.max_pages = 300;
    let collector = WebCollector::from_spec(&spec).unwrap();
    let mut kept = Kept::default();
    collector.collect(&ctx(), None, &mut kept).await.unwrap();
    assert!(kept.checkpoint().is_none());
    assert_eq!(
        kept.rejects()
            .iter()
            .filter(|r| r.reason.contains("frontier in a store"))
            .count(),
        1
    );
    assert_eq!(kept.emails(), ["home@example.com"]);
}
