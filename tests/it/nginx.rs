//! A web site served by nginx, crawled through the facade. The oracle is nginx's own access log.

use std::sync::Arc;

use open_crm::crawl::spider::{SpiderSpec, WebCollector};
use open_crm::prelude::*;

use super::{context, sqlite};

/// Requests that nginx saw from this agent, as paths.
fn seen(log: &str, agent: &str) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap();
    let ours = text.lines().filter(|line| line.contains(agent));
    ours.filter_map(|line| line.split(' ').nth(2))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_served_by_nginx_is_read_and_its_robots_txt_kept() {
    // tests/backends.rs names the missing server, and fails where it is required.
    let (Ok(url), Ok(log)) = (
        std::env::var("OPEN_CRM_TEST_NGINX_URL"),
        std::env::var("OPEN_CRM_TEST_NGINX_ACCESS_LOG"),
    ) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // A name of our own in nginx's log, apart from every other run.
    let agent = format!("whole-way-{}/1.0", std::process::id()).replace(|c: char| c.is_ascii_digit(), "x");
    let agent = format!("{agent} (run {})", std::process::id());
    let mut spec: SpiderSpec = serde_json::from_value(serde_json::json!({
        "name": "team",
        "start": [format!("{url}/")],
        "follow": ["a[href]"],
        "item": "div.person",
        "fields": [
            {"selector": "h1", "target": "name"},
            {"selector": "a[itemprop=email]", "target": "email"},
            {"selector": "a[itemprop=telephone]", "target": "phone"},
            {"selector": "[itemprop=addressLocality]", "target": "city"}
        ]
    }))
    .unwrap();
    spec.crawl.delay = 0.01;
    spec.crawl.http.user_agent = agent.clone();
    let authority = url.trim_start_matches("http://").trim_end_matches('/');
    let address: std::net::SocketAddr = authority.parse().unwrap();
    spec.crawl
        .http
        .allow
        .push(open_crm::http::AllowEntry::address(address));
    let spider = WebCollector::new(Arc::new(spec.compile().unwrap()), spec.crawl.clone()).unwrap();
    let crm = Crm::builder()
        .store(sqlite(folder.path()))
        .collector(Arc::new(spider))
        .build()
        .await
        .unwrap();
    let ctx = context();
    let report = crm.collect(&ctx, "team", &mut |_, _| ()).await.unwrap();
    assert_eq!((report.created, report.fields_rejected), (40, 0), "{report:?}");
    let third = crm
        .customers()
        .by_contact(&ctx, ContactKind::Email, "person3@test.example")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(third.name.full(), "Person Número 3");

    let seen = seen(&log, &agent);
    assert!(
        seen.iter().any(|path| path == "/robots.txt"),
        "it is asked for first: {seen:?}"
    );
    assert!(
        !seen.iter().any(|path| path == "/private/secret.html"),
        "robots.txt forbids it"
    );
    assert!(
        seen.iter().any(|path| path == "/private/open.html"),
        "robots.txt allows it, and the test can see such hits"
    );
    let people = seen.iter().filter(|path| path.starts_with("/people/")).count();
    assert_eq!(people, 40, "every page once: {seen:?}");
}
