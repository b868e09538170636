//! A dry run of one page, against a site on loopback.

use crm_core::ErrorKind;
use crm_crawl::spider::WebCollector;

use crate::ctx;
use crate::site::{Answer, Site};

const PAGE: &str = r#"<div class="customer"><h2>Ana Kask</h2><p><a href="mailto:ana@example.com">write</a></p></div>
    <div class="customer"><h2>Nobody</h2></div>
    <a class="next" href="/page/2#top">2</a><a class="next" href="/page/2">2</a><a class="next" href="/secret/x">s</a>
    <a class="next" href="https://elsewhere.example/">e</a><a class="next" href="/a/b/a/b/a/b/a">t</a><a class="next" href="/page/1">1</a>"#;

#[tokio::test]
async fn one_page_is_fetched_and_shown_and_nothing_else() {
    let site = Site::start(|path, _| match path {
        "/robots.txt" => Answer::text("User-agent: *\nDisallow: /secret/"),
        "/moved" => Answer::redirect("/page/1"),
        "/page/1" => Answer::html(PAGE),
        _ => Answer::status(404),
    })
    .await;
    let mut spec = site.spec("/page/1");
    spec.follow = vec!["a.next".into()];
    let collector = WebCollector::from_spec(&spec).unwrap();
    let url = |path: &str| site.url(path).parse().unwrap();
    let trial = collector.try_url(&ctx(), &url("/page/1")).await.unwrap();
    assert_eq!(trial.robots, "allowed by robots.txt");
    assert_eq!(trial.drafts.len(), 1);
    assert_eq!(trial.drafts[0].emails, ["ana@example.com"]);
    assert_eq!(trial.rejects.len(), 1);
    let follow: Vec<&str> = trial.follow.iter().map(|url| url.path()).collect();
    assert_eq!(follow, ["/page/2"]);
    let passed: Vec<(&str, &str)> = trial
        .passed
        .iter()
        .map(|(url, why)| (url.path(), why.as_str()))
        .collect();
    assert_eq!(
        passed,
        [
            ("/secret/x", "robots.txt forbids it"),
            ("/", "outside the spider's domains, or denied by it"),
            ("/a/b/a/b/a/b/a", "the URL repeats a path segment more than twice"),
        ]
    );
    let moved = collector.try_url(&ctx(), &url("/moved")).await.unwrap();
    assert_eq!(moved.redirect.unwrap().path(), "/page/1");
    let forbidden = collector.try_url(&ctx(), &url("/secret/x")).await.unwrap_err();
    assert_eq!(forbidden.kind(), ErrorKind::PermissionDenied);
    let missing = collector.try_url(&ctx(), &url("/none")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let outside = collector
        .try_url(&ctx(), &"https://elsewhere.example/".parse().unwrap())
        .await;
    assert_eq!(outside.unwrap_err().kind(), ErrorKind::PermissionDenied);
    // The site's own log: what was asked of it, and that nothing else was.
    let asked: Vec<String> = site
        .log()
        .into_iter()
        .map(|hit| hit.path)
        .filter(|path| path != "/robots.txt")
        .collect();
    assert_eq!(asked, ["/page/1", "/moved", "/none"]);
}
