use std::sync::Arc;

use crm_core::capability::Collector;
use crm_core::customer::Draft;
use crm_core::{ErrorKind, ManualClock, Timestamp};
use crm_crawl::spider::WebCollector;

use crate::run;
use crate::site::{Answer, Site, list, next, person};

#[tokio::test]
async fn the_seed_case() {
    let site = Site::start(|path, _| match path {
        "/customers" => Answer::html(format!(
            "<html><body>{}<div class=\"customer\"><h2> Bo  <b>Berg</b></h2><p><a href=\"mailto:bo%2Bx@example.com?subject=Hi\">\
             mail</a></p><p><a href=\"tel:+61491570006\">call</a></p></div><div class=\"customer\"><h2>Nobody</h2></div></body></html>",
            person("Ana")
        )),
        _ => Answer::status(404),
    })
    .await;
    let now: Timestamp = "2026-03-01T09:00:00Z".parse().unwrap();
    let collector = site
        .collector("/customers")
        .with_clock(Arc::new(ManualClock::at(now)));
    let (kept, result) = run(&collector, None).await;
    let progress = result.unwrap();
    let drafts = kept.drafts();
    let found: Vec<_> = drafts
        .iter()
        .map(|d| (d.name.as_ref().unwrap().full(), d.emails.clone()))
        .collect();
    assert_eq!(
        found,
        [
            ("Ana".to_owned(), vec!["ana@example.com".to_owned()]),
            ("Bo Berg".to_owned(), vec!["bo+x@example.com".to_owned()])
        ]
    );
    let provenance = &drafts[1].provenance;
    assert_eq!(
        (
            provenance.source.as_str(),
            provenance.line,
            provenance.observed_at
        ),
        ("site", Some(2), now)
    );
    assert_eq!(
        provenance.location.as_deref(),
        Some(site.url("/customers").as_str())
    );
    assert_eq!(drafts[0].attributes.get("crawl_robots").unwrap(), "no robots.txt");
    // Whoever cannot be recognised is reported with their place.
    let rejects = kept.rejects();
    assert_eq!((rejects.len(), rejects[0].line), (1, Some(3)));
    assert_eq!((progress.done, progress.drafts, progress.rejects), (1, 2, 1));
    assert!(
        site.log()
            .iter()
            .all(|hit| hit.user_agent.starts_with("test-bot/1.0"))
    );
}

#[tokio::test]
async fn every_kind_of_field() {
    let site = Site::start(|path, _| match path {
        "/" => Answer::html(
            r#"<base href="http://evil.example/"><div class="customer" data-id="demo:7"><h2>Kask, Ana (38)</h2>
            <a class="mail" href="/contact">Write to ANA@example.com now</a><a class="tel" href="tel:0491-570-006">x</a>
            <span class="street">Pikk 1</span><span class="street">Haus B</span><span class="country">ee</span>
            <time datetime="1990-12-31">31 Dec</time><b>vip</b><b>new</b></div>"#,
        ),
        _ => Answer::status(404),
    })
    .await;
    let mut spec = site.spec("/");
    spec.reading.phone_region = Some("AU".into());
    spec.fields = serde_json::from_str(
        r#"[{"attr": "data-id", "target": "external:demo"},
            {"selector": "h2", "regex": "^(\\w+),", "target": "family"},
            {"selector": "h2", "regex": ", (\\w+)", "target": "given"},
            {"selector": "h2", "regex": "\\((\\d+)\\)", "target": "attribute:age:int"},
            {"selector": ".mail", "regex": "\\S+@\\S+", "target": "email"},
            {"selector": ".tel", "target": "phone"},
            {"selector": ".street", "target": "street"},
            {"selector": ".country", "target": "country"},
            {"selector": "time", "attr": "datetime", "target": "attribute:born:date"},
            {"selector": "b", "target": "tag"}]"#,
    )
    .unwrap();
    let (kept, result) = run(&WebCollector::from_spec(&spec).unwrap(), None).await;
    result.unwrap();
    let draft: &Draft = &kept.drafts()[0];
    let name = draft.name.as_ref().unwrap();
    assert_eq!((name.given.as_str(), name.family.as_str()), ("Ana", "Kask"));
    assert_eq!(
        (draft.emails[0].as_str(), draft.phones[0].as_str()),
        ("ANA@example.com", "0491-570-006")
    );
    assert_eq!(draft.phone_region.as_deref(), Some("AU"));
    assert_eq!(draft.external_refs[0].id, "demo:7");
    assert_eq!(
        (
            draft.addresses[0].lines.len(),
            draft.addresses[0].country.as_str()
        ),
        (2, "EE")
    );
    assert_eq!(draft.attributes.get("age").unwrap(), 38);
    assert_eq!(draft.attributes.get("born").unwrap(), "1990-12-31");
    assert_eq!(draft.tags, ["vip", "new"]);
}

#[tokio::test]
async fn links_are_followed_once_and_within_the_site() {
    let site = Site::start(|path, _| match path {
        "/" => Answer::html(
            person("home")
                + &next("/p/0#top")
                + &next("/p/0")
                + &next("/p/0?utm_source=x")
                + &next("/%70/0")
                + &next("http://elsewhere.example/")
                + &next("http://169.254.169.254/")
                + &next("javascript:alert(1)")
                + &next("mailto:x@example.com")
                + &next("ftp://x.example/"),
        ),
        other => list(other, 3).unwrap_or(Answer::status(404)),
    })
    .await;
    let (kept, result) = run(&site.collector("/"), None).await;
    result.unwrap();
    assert_eq!(kept.emails().len(), 9);
    assert!(kept.rejects().is_empty(), "{:?}", kept.rejects());
    assert_eq!(site.page_hits(), 5);
    for page in 0..=3 {
        assert_eq!(site.hits(&format!("/p/{page}")), 1);
    }
    // Each page came with its checkpoint.
    assert_eq!(kept.0.len(), 5);
    assert!(kept.0.iter().all(|delivery| delivery.checkpoint.is_some()));
}

/// CRW-10: one fetch for all ways to write a URL.
#[tokio::test]
async fn one_page_is_fetched_once_however_it_is_written() {
    let site = Site::start(|path, _| match path {
        "/" => Answer::html(
            [
                "/~ana",
                "/%7Eana",
                "/%7eana",
                "/b/../%7Eana",
                "./~ana#x",
                "/l?page=2",
                "/l?page=2&utm_medium=m#x",
                "/l?&page=2",
                "/l?p%61ge=2",
                "/list;jsessionid=0A1B",
                "/list;JSESSIONID=FF?sid=9",
                "/list",
            ]
            .map(next)
            .concat(),
        ),
        _ => Answer::html(person("x")),
    })
    .await;
    run(&site.collector("/"), None).await.1.unwrap();
    let mut paths: Vec<String> = site.log().into_iter().map(|hit| hit.path).collect();
    paths.sort();
    assert_eq!(paths, ["/", "/l?page=2", "/list", "/robots.txt", "/~ana"]);
}

/// Bad input 20: 100,000 links, and what is no link.
#[tokio::test]
async fn a_page_of_links_is_followed_as_far_as_is_sensible() {
    let site = Site::start(|path, _| match path {
        "/" => Answer::html(
            (0..100_000)
                .map(|n| format!("<a class=next href=/{n}></a>"))
                .collect::<String>(),
        ),
        _ => Answer::html(person("x")),
    })
    .await;
    let mut spec = site.spec("/");
    spec.crawl.max_pages = 3;
    spec.crawl.max_pending = 20_000;
    let collector = WebCollector::from_spec(&spec).unwrap();
    let (kept, result) = run(&collector, None).await;
    assert_eq!(result.unwrap().done, 3);
    let reasons: Vec<String> = kept.rejects().into_iter().map(|r| r.reason).collect();
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("more than 10000 links")),
        "{reasons:?}"
    );
    assert!(
        reasons.iter().any(|reason| reason.contains("9998 URLs")),
        "{reasons:?}"
    );
}

/// CRW-15: where, when, by what leave, by what right.
#[tokio::test]
async fn every_person_says_where_they_come_from() {
    let site = Site::start(|path, _| list(path, 1).unwrap_or(Answer::status(404))).await;
    let now: Timestamp = "2026-03-01T09:00:00Z".parse().unwrap();
    let mut spec = site.spec("/p/0");
    spec.crawl.lawful_basis = Some("legitimate interest, assessment 2026-03".into());
    let clock = Arc::new(ManualClock::at(now));
    let collector = WebCollector::from_spec(&spec).unwrap().with_clock(clock);
    let (kept, result) = run(&collector, None).await;
    result.unwrap();
    let drafts = kept.drafts();
    assert_eq!(drafts.len(), 4);
    for (draft, (page, item)) in drafts.iter().zip([(0, 1), (0, 2), (1, 1), (1, 2)]) {
        let known = &draft.provenance;
        assert_eq!(
            (known.source.as_str(), known.observed_at, known.line),
            ("site", now, Some(item))
        );
        assert_eq!(
            known.location.as_deref(),
            Some(site.url(&format!("/p/{page}")).as_str())
        );
        assert_eq!(draft.attributes.get("crawl_robots").unwrap(), "no robots.txt");
        assert_eq!(
            draft.attributes.get("crawl_lawful_basis").unwrap(),
            "legitimate interest, assessment 2026-03"
        );
    }
    spec.crawl.lawful_basis = Some(" ".into());
    let error = WebCollector::from_spec(&spec).unwrap_err();
    assert_eq!(error.context("setting"), Some("lawful_basis"));
}

#[tokio::test]
async fn limits_end_a_crawl_and_say_so() {
    let site = Site::start(|path, _| list(path, 1000).unwrap_or(Answer::status(404))).await;
    let mut spec = site.spec("/p/0");
    spec.crawl.max_pages = 5;
    let (kept, result) = run(&WebCollector::from_spec(&spec).unwrap(), None).await;
    assert_eq!(result.unwrap().done, 5);
    assert_eq!(site.page_hits(), 5);
    assert!(kept.rejects()[0].reason.contains("max_pages=5"));

    // The rest waits in the checkpoint for a larger limit.
    spec.crawl.max_pages = 8;
    let (more, result) = run(
        &WebCollector::from_spec(&spec).unwrap(),
        kept.checkpoint().as_ref(),
    )
    .await;
    assert_eq!(
        (result.unwrap().done, more.emails().len(), site.page_hits()),
        (8, 6, 8)
    );

    let mut spec = site.spec("/p/0");
    spec.crawl.max_depth = 2;
    let (kept, _) = run(&WebCollector::from_spec(&spec).unwrap(), None).await;
    assert_eq!(kept.emails().len(), 6);
    assert!(kept.rejects()[0].reason.contains("max_depth=2"));
}

/// CRW-9, bad input 20.
#[tokio::test]
async fn traps_end_by_themselves() {
    type Trap = fn(&str) -> String;
    let traps: [(&str, Trap); 5] = [
        ("/calendar?day=0", |path| {
            let digits: String = path.chars().filter(char::is_ascii_digit).collect();
            let day: u32 = digits.parse().unwrap();
            next(&format!("/calendar?day={}", day + 1)) + &next(&format!("/calendar?day={}&view=week", day))
        }),
        ("/a", |path| {
            next(&format!("{path}/b")) + &next(&format!("{path}/a"))
        }),
        ("/grow", |path| next(&format!("{path}/x{}", path.len()))),
        ("/session?sid=0", |path| {
            next(&format!("/session?sid={}", path.len() * 7919))
        }),
        ("/days/1", |path| {
            let day: u32 = path.rsplit('/').next().unwrap().parse().unwrap();
            next(&format!("/days/{}", day + 1))
        }),
    ];
    for (start, links) in traps {
        let site = Site::start(move |path, _| match path {
            "/robots.txt" => Answer::status(404),
            path => Answer::html(person("x") + &links(path)),
        })
        .await;
        let (_, result) = run(&site.collector(start), None).await;
        result.unwrap();
        assert!(site.page_hits() <= 200, "{start}: {}", site.page_hits());
    }
}

/// CRW-7, bad input 16.
#[tokio::test]
async fn redirects_go_through_the_same_rules() {
    let site = Site::start(|path, _| match path {
        "/robots.txt" => Answer::text("User-agent: *\nDisallow: /private/\n"),
        "/" => Answer::html(
            person("home")
                + &[
                    "/moved",
                    "/circle",
                    "/self",
                    "/away",
                    "/hidden",
                    "/metadata",
                    "/metadata2",
                    "/file",
                    "/gopher",
                    "/refresh",
                    "/0",
                ]
                .map(next)
                .concat(),
        ),
        "/moved" => Answer::redirect("/p/3"),
        "/circle" => Answer::redirect("/circle2"),
        "/circle2" => Answer::redirect("/circle"),
        "/self" => Answer::redirect("/self"),
        "/away" => Answer::redirect("http://elsewhere.example/"),
        "/hidden" => Answer::redirect("/private/x"),
        "/metadata" => Answer::redirect("http://169.254.169.254/latest"),
        "/metadata2" => Answer::redirect("//169.254.169.254/latest"),
        "/file" => Answer::redirect("file:///etc/passwd"),
        "/gopher" => Answer::redirect("gopher://127.0.0.1/_GET"),
        // What a browser would do by itself is no link.
        "/refresh" => Answer::html("<meta http-equiv=refresh content='0; url=/private/x'><meta http-equiv=refresh content='0; url=/secret'>"),
        other => match other.strip_prefix('/').and_then(|n| n.parse::<u32>().ok()) {
            Some(n) => Answer::redirect(format!("/{}", n + 1)),
            None => list(other, 3).unwrap_or(Answer::html(person("secret"))),
        },
    })
    .await;
    let (kept, result) = run(&site.collector("/"), None).await;
    result.unwrap();
    assert_eq!(
        kept.emails(),
        ["a3@example.com", "b3@example.com", "home@example.com"]
    );
    assert_eq!((site.hits("/private/x"), site.hits("/secret")), (0, 0));
    let reasons: Vec<String> = kept.rejects().into_iter().map(|r| r.reason).collect();
    for (what, times) in [
        ("circle", 2),
        ("may not be visited", 3),
        ("robots.txt forbids", 1),
        ("no http or https", 2),
        ("more than 10", 1),
    ] {
        assert_eq!(
            reasons.iter().filter(|r| r.contains(what)).count(),
            times,
            "{what}: {reasons:?}"
        );
    }
    // The chain of redirects was followed ten times.
    assert_eq!(
        site.log()
            .iter()
            .filter(|hit| hit.path[1..].parse::<u32>().is_ok())
            .count(),
        11
    );
}

/// CRW-5, CRW-6, CRW-11.
#[tokio::test]
async fn what_is_no_page_is_reported_and_the_rest_goes_on() {
    let site = Site::start(|path, _| match path {
        "/" => Answer::html(
            person("home")
                + &["/gone", "/pdf", "/binary", "/deep", "/large", "/bomb", "/p/0"]
                    .map(next)
                    .concat(),
        ),
        "/pdf" => Answer::html(person("pdf")).header("content-type", "application/pdf"),
        "/binary" => Answer::html("").body(vec![0u8; 4000]),
        "/deep" => Answer::html("<ul><li>".repeat(100_000)),
        "/large" => Answer::html("x".repeat(3_000_000)),
        // The header lies: not gzip at all.
        "/bomb" => Answer::html(person("x")).header("content-encoding", "gzip"),
        other => list(other, 0).unwrap_or(Answer::status(404)),
    })
    .await;
    let mut spec = site.spec("/");
    spec.crawl.http.max_body = 2_000_000;
    let start = std::time::Duration::from_secs(20);
    let collector = WebCollector::from_spec(&spec).unwrap();
    let (kept, result) = tokio::time::timeout(start, run(&collector, None)).await.unwrap();
    result.unwrap();
    assert_eq!(
        kept.emails(),
        ["a0@example.com", "b0@example.com", "home@example.com"]
    );
    let rejects = kept.rejects();
    for (path, reason) in [
        ("/gone", "no such page"),
        ("/pdf", "not HTML"),
        ("/binary", "binary"),
        ("/deep", "deeper than 512"),
        ("/large", "larger than the limit"),
        ("/bomb", "damaged"),
    ] {
        let reject = rejects
            .iter()
            .find(|r| r.place.ends_with(path))
            .unwrap_or_else(|| panic!("{path}: {rejects:?}"));
        assert!(reject.reason.contains(reason), "{path}: {}", reject.reason);
    }
}

#[tokio::test]
async fn a_start_that_cannot_be_read_is_an_error() {
    let site = Site::start(|_, _| Answer::status(404)).await;
    let (kept, result) = run(&site.collector("/nowhere"), None).await;
    assert_eq!(
        (result.unwrap_err().kind(), kept.0.len()),
        (ErrorKind::NotFound, 0)
    );

    // Without an allow entry loopback is out of reach.
    let mut spec = site.spec("/");
    spec.crawl.http.allow.clear();
    let before = site.log().len();
    let (_, result) = run(&WebCollector::from_spec(&spec).unwrap(), None).await;
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("host")),
        (ErrorKind::PermissionDenied, Some("127.0.0.1")),
        "{error}"
    );
    assert_eq!(site.log().len(), before);
}

crm_core::collector_suite!(conforms, async {
    let site = Site::start(|path, _| match path {
        "/p/2" => Answer::status(404),
        "/" => Answer::html((0..6).map(|i| next(&format!("/p/{i}"))).collect::<String>()),
        other => list(other, 6).unwrap_or(Answer::status(404)),
    })
    .await;
    Arc::new(site.collector("/")) as Arc<dyn Collector>
});
