//! The HTTP client's bounds, against a server that sends compressed bodies.

use std::time::Duration;

use crm_core::ErrorKind;
use crm_core::http::{HttpClient, HttpConfig};

use crate::site::{Answer, Site};

/// `head -c 11534336 /dev/zero | gzip -9n`: 11 KiB that become 11 MiB.
const ZEROS: &[u8] = include_bytes!("zeros.gz");

fn client(site: &Site, change: impl FnOnce(&mut HttpConfig)) -> HttpClient {
    let mut config = site.spec("/").crawl.http;
    change(&mut config);
    HttpClient::new(config).unwrap()
}

#[tokio::test]
async fn a_bomb_is_cut_at_the_limit_of_decompressed_bytes() {
    let site = Site::start(|path, _| match path {
        "/bomb" => Answer::html("").body(ZEROS).header("content-encoding", "gzip"),
        "/nested" => Answer::html("x").header("content-encoding", "gzip, gzip"),
        _ => Answer::status(404),
    })
    .await;
    let url = site.url("/bomb").parse().unwrap();
    let answer = client(&site, |c| c.max_body = 10_000)
        .get(&url, &Default::default())
        .await
        .unwrap();
    assert_eq!((answer.body.len(), answer.truncated), (10_000, true));
    let answer = client(&site, |_| {})
        .get(&url, &Default::default())
        .await
        .unwrap();
    assert_eq!((answer.body.len(), answer.truncated), (10 * 1024 * 1024, true));
    let url = site.url("/nested").parse().unwrap();
    let error = client(&site, |_| {})
        .get(&url, &Default::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn the_whole_call_has_one_limit() {
    // Each redirect alone is quick enough.
    let site = Site::start(|path, _| {
        let n: u32 = path[1..].parse().unwrap();
        Answer::redirect(format!("/{}", n + 1)).after(Duration::from_millis(80))
    })
    .await;
    let url = site.url("/0").parse().unwrap();
    let error = client(&site, |c| c.total_timeout = Duration::from_millis(300))
        .get(&url, &Default::default())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Timeout, Some("total_timeout"))
    );
    assert!(site.log().len() <= 5);
}
