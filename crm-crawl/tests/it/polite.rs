use std::sync::Arc;
use std::time::Duration;

use crm_core::{ErrorKind, ManualClock, Retry};
use crm_crawl::spider::WebCollector;

use crate::run;
use crate::site::{Answer, Site, list, next, person};

const RULES: &str = "User-agent: *\nDisallow: /private/\n";

fn with_trap(
    robots: impl Fn(usize) -> Answer + Send + Sync + 'static,
) -> impl Fn(&str, usize) -> Answer + Send + Sync {
    move |path, before| match path {
        "/robots.txt" => robots(before),
        "/" => Answer::html(person("home") + &next("/private/trap") + &next("/p/0")),
        "/private/trap" => Answer::html(person("trap")),
        other => list(other, 0).unwrap_or(Answer::status(404)),
    }
}

/// CRW-1, and CRW-15's robots decision.
#[tokio::test]
async fn what_robots_txt_forbids_is_never_asked_for() {
    let site = Site::start(with_trap(|_| Answer::text(RULES))).await;
    let (kept, result) = run(&site.collector("/"), None).await;
    result.unwrap();
    assert_eq!(
        (
            site.hits("/private/trap"),
            site.hits("/robots.txt"),
            site.hits("/p/0")
        ),
        (0, 1, 1)
    );
    assert_eq!(kept.emails().len(), 3);
    assert!(kept.rejects()[0].reason.contains("robots.txt forbids"));
    assert_eq!(
        kept.drafts()[0].attributes.get("crawl_robots").unwrap(),
        "allowed by robots.txt"
    );

    // Negative control: the same link is followed when the rules permit it. So the counter does count.
    for permitting in [
        "User-agent: *\nAllow: /\n",
        "User-agent: other-bot\nDisallow: /\n",
        "",
    ] {
        let site = Site::start(with_trap(move |_| Answer::text(permitting))).await;
        run(&site.collector("/"), None).await.1.unwrap();
        assert_eq!(site.hits("/private/trap"), 1, "{permitting:?}");
    }
}

/// CRW-1: at the server, over the rules' own tests.
#[tokio::test]
async fn rules_are_matched_as_the_rfc_says() {
    for (rules, path, allowed) in [
        ("User-agent: *\nDisallow: /\n", "/x", false),
        (
            "User-agent: TEST-BOT\nDisallow: /\n\nUser-agent: *\nAllow: /\n",
            "/x",
            false,
        ),
        (
            "User-agent: test-bot\nAllow: /\n\nUser-agent: *\nDisallow: /\n",
            "/x",
            true,
        ),
        ("User-agent: a\nUser-agent: test-bot\nDisallow: /x\n", "/x", false),
        (
            "User-agent: test-bot\nDisallow: /a\n\nUser-agent: test-bot\nDisallow: /x\n",
            "/x",
            false,
        ),
        ("User-agent: *\nDisallow: /x\nAllow: /x/y\n", "/x/y", true),
        ("User-agent: *\nAllow: /x\nDisallow: /x\n", "/x", true),
        ("User-agent: *\nDisallow: /*.php$\n", "/a.php", false),
        ("User-agent: *\nDisallow: /*.php$\n", "/a.php5", true),
        ("User-agent: *\nDisallow: /%7Eana\n", "/~ana", false),
        ("User-agent: *\nDisallow: /x # why\n", "/x", false),
        ("\u{feff}User-agent: *\r\nDisallow: /x\r\n", "/x", false),
        ("<html><body>not found</body></html>", "/x", true),
        ("User-agent: *\nDisallow:\n", "/x", true),
        ("User-agent: *\nDisallow: /list?page\n", "/list?page=2", false),
    ] {
        let site = Site::start(move |path, _| match path {
            "/robots.txt" => Answer::text(rules),
            _ => Answer::html(person("x")),
        })
        .await;
        let (kept, result) = run(&site.collector(path), None).await;
        assert_eq!(
            (site.page_hits(), kept.drafts().len()),
            (usize::from(allowed), usize::from(allowed)),
            "{rules:?} {path}"
        );
        assert_eq!(result.is_ok(), allowed);
    }
}

#[tokio::test]
async fn a_start_that_is_forbidden_is_an_error_that_names_robots_txt() {
    let site = Site::start(with_trap(|_| Answer::text("User-agent: test-bot\nDisallow: /\n"))).await;
    let (kept, result) = run(&site.collector("/"), None).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.message().contains("robots.txt"), "{error}");
    assert_eq!(error.context("host"), Some("127.0.0.1"));
    assert_eq!(error.context("robots"), Some(site.url("/robots.txt").as_str()));
    assert_eq!((kept.0.len(), site.page_hits()), (0, 0));

    // One of two starts: the other one is read, the first is reported.
    let site = Site::start(with_trap(|_| Answer::text(RULES))).await;
    let mut spec = site.spec("/p/0");
    spec.start.insert(0, site.url("/private/trap").parse().unwrap());
    let (kept, result) = run(&WebCollector::from_spec(&spec).unwrap(), None).await;
    result.unwrap();
    assert_eq!((kept.drafts().len(), kept.rejects().len()), (2, 1));
}

/// CRW-2: every way not to be reachable.
#[tokio::test]
async fn robots_txt_that_cannot_be_read_forbids_everything() {
    let long = Duration::from_secs(30);
    type Robots = fn(usize) -> Answer;
    let cases: [(&str, Robots, usize); 8] = [
        ("500", |_| Answer::status(500), 3),
        ("503", |_| Answer::status(503), 3),
        ("429", |_| Answer::status(429), 3),
        ("six redirects", |_| Answer::redirect("/robots.txt"), 6),
        (
            "never ends",
            |_| Answer::text(RULES).after(Duration::from_secs(30)),
            3,
        ),
        (
            "broken",
            |_| Answer::text(RULES).header("content-encoding", "gzip"),
            3,
        ),
        (
            "slow down very much",
            |_| Answer::text("User-agent: *\nCrawl-delay: 31\n"),
            1,
        ),
        (
            "to loopback at another port",
            |_| Answer::redirect("http://127.0.0.1:9/robots.txt"),
            1,
        ),
    ];
    for (what, robots, asked) in cases {
        let site = Site::start(with_trap(robots)).await;
        let mut spec = site.spec("/");
        spec.crawl.http.total_timeout = Duration::from_millis(300);
        let collector = WebCollector::from_spec(&spec).unwrap();
        let (kept, result) = tokio::time::timeout(long, run(&collector, None)).await.unwrap();
        let error = result.unwrap_err();
        assert_eq!((site.page_hits(), kept.0.len()), (0, 0), "{what}");
        assert_eq!(site.hits("/robots.txt"), asked, "{what}");
        assert_eq!(
            error
                .operation_name()
                .map(|o| o.starts_with("crawl.") || o.starts_with("http.")),
            Some(true),
            "{what}: {error}"
        );
    }
    // Cut: the connection ends without an answer, each time.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cutting = listener.local_addr().unwrap();
    let asked = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let log = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await;
            let head = String::from_utf8_lossy(&buffer[..read.unwrap_or(0)]).into_owned();
            log.lock()
                .unwrap()
                .push(head.split(' ').nth(1).unwrap_or("no HTTP").to_owned());
        }
    });
    // Over TLS to a server that has none.
    let plain = Site::start(with_trap(|_| Answer::status(404))).await;
    for start in [
        format!("http://{cutting}/"),
        format!("https://{}/", plain.address),
    ] {
        let mut spec = plain.spec("/");
        spec.start = vec![start.parse().unwrap()];
        let address = format!("{}/32:{}", cutting.ip(), cutting.port());
        spec.crawl.http.allow.push(address.parse().unwrap());
        let (kept, result) = run(&WebCollector::from_spec(&spec).unwrap(), None).await;
        let error = result.unwrap_err();
        assert!(
            error.message().contains("robots.txt") && kept.0.is_empty(),
            "{start}: {error}"
        );
    }
    assert_eq!(*asked.lock().unwrap(), ["/robots.txt"; 3]);
    assert_eq!(plain.log().len(), 0);
    // Nobody listens: refused.
    let site = Site::start(with_trap(|_| Answer::status(404))).await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut spec = site.spec("/");
    spec.start = vec![format!("http://{gone}/").parse().unwrap()];
    spec.crawl.http.allow = vec![format!("{}/32:{}", gone.ip(), gone.port()).parse().unwrap()];
    let error = run(&WebCollector::from_spec(&spec).unwrap(), None)
        .await
        .1
        .unwrap_err();
    assert!(
        error.is_retryable() && error.message().contains("robots.txt"),
        "{error}"
    );
}

/// CRW-2: what is not there forbids nothing.
#[tokio::test]
async fn robots_txt_that_is_not_there_forbids_nothing() {
    for status in [400, 401, 403, 404, 410] {
        let site = Site::start(with_trap(move |_| Answer::status(status))).await;
        let (kept, result) = run(&site.collector("/"), None).await;
        result.unwrap();
        assert_eq!((site.page_hits(), kept.drafts().len()), (3, 4), "{status}");
    }
    // Up to five redirects are followed; one failure is forgiven.
    let site = Site::start(|path, before| match path {
        "/robots.txt" if before == 0 => Answer::status(500),
        "/robots.txt" => Answer::redirect("/r1"),
        "/r1" => Answer::redirect("/r2"),
        "/r2" => Answer::redirect("/r3"),
        "/r3" => Answer::redirect("/r4"),
        "/r4" => Answer::redirect("/r5"),
        "/r5" => Answer::text(RULES),
        other => with_trap(|_| Answer::status(500))(other, before),
    })
    .await;
    run(&site.collector("/"), None).await.1.unwrap();
    assert_eq!((site.hits("/private/trap"), site.hits("/p/0")), (0, 1));
}

/// CRW-2: at least 500 KiB.
#[tokio::test]
async fn the_first_half_mebibyte_counts() {
    for (at, obeyed) in [(490_000, true), (590_000, false)] {
        let mut rules = String::from("User-agent: *\n");
        while rules.len() < at {
            rules.push_str("# a line of no importance at all, sixty-four bytes long with LF..\n");
        }
        rules.push_str("Disallow: /private/\n");
        while rules.len() < 620_000 {
            rules.push_str("Allow: /nothing\n");
        }
        let site = Site::start(with_trap(move |_| Answer::text(rules.clone()))).await;
        run(&site.collector("/"), None).await.1.unwrap();
        assert_eq!(site.hits("/private/trap") == 0, obeyed, "rule at byte {at}");
    }
}

/// Bad input 13.
#[tokio::test]
async fn hostile_rules_end_in_time() {
    let wildcards = format!("User-agent: *\nDisallow: /{}$\n", "*a".repeat(2000));
    let groups = (0..20_000)
        .map(|i| format!("User-agent: b{i}\nDisallow: /\n"))
        .collect::<String>();
    for rules in [
        wildcards.into_bytes(),
        groups.into_bytes(),
        vec![0u8; 400_000],
        b"Disallow".repeat(60_000),
    ] {
        let site = Site::start(with_trap(move |_| Answer::text(rules.clone()))).await;
        let collector = site.collector("/");
        let ended = tokio::time::timeout(Duration::from_secs(20), run(&collector, None)).await;
        // Either they are read, or nothing is fetched: never a hang, a crash or a guess.
        if let Err(error) = ended.unwrap().1 {
            assert_eq!(
                (error.kind(), site.page_hits()),
                (ErrorKind::PermissionDenied, 0),
                "{error}"
            );
        }
    }
}

/// CRW-3.
#[tokio::test]
async fn one_request_at_a_time_and_the_whole_delay_between() {
    let site = Site::start(|path, _| match path {
        "/robots.txt" => Answer::status(404),
        "/" => Answer::html((0..6).map(|i| next(&format!("/p/{i}"))).collect::<String>()),
        other => list(other, 9)
            .unwrap_or(Answer::status(404))
            .after(Duration::from_millis(20)),
    })
    .await;
    let mut spec = site.spec("/");
    spec.crawl.delay = 0.15;
    spec.crawl.max_pages = 6;
    run(&WebCollector::from_spec(&spec).unwrap(), None)
        .await
        .1
        .unwrap();
    let log = site.log();
    assert_eq!((log.len(), site.most_at_once()), (7, 1));
    for pair in log.windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(
            gap >= Duration::from_millis(142),
            "{gap:?} between {} and {}",
            pair[0].path,
            pair[1].path
        );
    }
    // Negative control: without a delay the same gaps are shorter, and more than one request is open.
    let mut spec = site.spec("/");
    spec.crawl.concurrency_per_host = 4;
    let before = site.log().len();
    run(&WebCollector::from_spec(&spec).unwrap(), None)
        .await
        .1
        .unwrap();
    let log = site.log().split_off(before);
    assert!(
        log.windows(2)
            .any(|pair| pair[1].at - pair[0].at < Duration::from_millis(100))
    );
    assert!((2..=4).contains(&site.most_at_once()), "{}", site.most_at_once());
}

/// CRW-3.
#[tokio::test]
async fn a_crawl_delay_of_the_site_is_kept() {
    let site = Site::start(|path, _| match path {
        "/robots.txt" => Answer::text("User-agent: *\nCrawl-delay: 0.4\n"),
        other => list(other, 2).unwrap_or(Answer::status(404)),
    })
    .await;
    run(&site.collector("/p/0"), None).await.1.unwrap();
    let log = site.log();
    assert_eq!(log.len(), 4);
    for pair in log[1..].windows(2) {
        assert!(pair[1].at - pair[0].at >= Duration::from_millis(380), "{pair:?}");
    }
}

/// CRW-3, CRW-12: exact counts.
#[tokio::test]
async fn busy_sites_are_asked_again_when_they_say_so() {
    let site = Site::start(|path, before| match (path, before) {
        ("/p/0", 0) => Answer::status(429).header("retry-after", "1"),
        ("/p/1", 0) => Answer::status(503),
        ("/p/1", 1) => Answer::status(500),
        ("/p/2", _) => Answer::status(500),
        (other, _) => list(other, 3).unwrap_or(Answer::status(404)),
    })
    .await;
    let mut spec = site.spec("/p/0");
    spec.start.push(site.url("/p/3").parse().unwrap());
    let (kept, result) = run(&WebCollector::from_spec(&spec).unwrap(), None).await;
    result.unwrap();
    assert_eq!(
        ["/p/0", "/p/1", "/p/2", "/p/3"].map(|path| site.hits(path)),
        [2, 3, 3, 1]
    );
    assert_eq!(kept.emails().len(), 6);
    assert_eq!(kept.rejects().len(), 1);
    let log = site.log();
    let asked: Vec<_> = log.iter().filter(|hit| hit.path == "/p/0").collect();
    assert!(asked[1].at - asked[0].at >= Duration::from_millis(990));
    // Nobody else of the site was asked in between.
    assert!(
        log.iter()
            .all(|hit| hit.at <= asked[0].at || hit.at >= asked[1].at)
    );
}

#[tokio::test]
async fn a_site_that_wants_to_be_left_alone_is_and_the_rest_waits() {
    let site = Site::start(|path, before| match (path, before) {
        ("/p/2", 0) => Answer::status(503).header("retry-after", "3600"),
        (other, _) => list(other, 4).unwrap_or(Answer::status(404)),
    })
    .await;
    let collector = site.collector("/p/0");
    let (kept, result) = run(&collector, None).await;
    let error = result.unwrap_err();
    assert_eq!(
        error.retry(),
        Retry::Allowed {
            after: Some(Duration::from_secs(3600))
        },
        "{error}"
    );
    assert_eq!((kept.emails().len(), site.hits("/p/2")), (4, 1));
    let (rest, result) = run(&collector, kept.checkpoint().as_ref()).await;
    result.unwrap();
    assert_eq!(
        (rest.emails().len(), site.hits("/p/0"), site.hits("/p/2")),
        (6, 1, 2)
    );
}

/// CRW-12: the breaker.
#[tokio::test]
async fn a_site_that_fails_again_and_again_is_left_alone() {
    let site = Site::start(|path, _| match path {
        "/robots.txt" => Answer::status(404),
        "/" => Answer::html((0..50).map(|i| next(&format!("/x/{i}"))).collect::<String>() + &person("home")),
        _ => Answer::status(500),
    })
    .await;
    let mut spec = site.spec("/");
    spec.crawl.retries = 0;
    let (kept, result) = run(&WebCollector::from_spec(&spec).unwrap(), None).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("left")),
        (ErrorKind::Unavailable, Some("45")),
        "{error}"
    );
    assert_eq!(
        (site.page_hits(), kept.emails().len(), kept.rejects().len()),
        (6, 1, 5)
    );
}

/// CRW-2: for a day at most.
#[tokio::test]
async fn robots_txt_is_remembered_for_a_day_and_by_port() {
    let site = Site::start(with_trap(|_| Answer::text(RULES))).await;
    let other = Site::start(with_trap(|_| Answer::text("User-agent: *\nDisallow: /\n"))).await;
    let mut spec = site.spec("/");
    spec.start.push(other.url("/").parse().unwrap());
    spec.crawl.http.allow.extend(other.spec("/").crawl.http.allow);
    let clock = Arc::new(ManualClock::at("2026-03-01T09:00:00Z".parse().unwrap()));
    let collector = WebCollector::from_spec(&spec).unwrap().with_clock(clock.clone());
    for (hours, asked) in [(0, 1), (23, 1), (1, 2), (1, 2)] {
        clock.advance(Duration::from_secs(hours * 3600));
        run(&collector, None).await.1.unwrap();
        assert_eq!(site.hits("/robots.txt"), asked, "{hours}");
    }
    // The other port has rules of its own.
    assert_eq!((other.page_hits(), site.hits("/private/trap")), (0, 0));
}
