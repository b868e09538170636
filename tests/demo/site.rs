//! The web site, asked over plain TCP.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::PATIENCE;
use crate::demo::people::People;
use crate::demo::site::{DemoSite, PAGE_SIZE};

/// Status and body.
async fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let status = answer[9..12].parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, body.to_owned())
}

fn all<'a>(body: &'a str, before: &str, after: &str) -> Vec<&'a str> {
    body.split(before)
        .skip(1)
        .map(|rest| rest.split_once(after).unwrap().0)
        .collect()
}

#[tokio::test]
async fn following_next_shows_everybody_once() {
    let people = People::load().unwrap();
    let site = DemoSite::start(&people, 0).await.unwrap();
    let (status, home) = fetch(site.address(), "/").await;
    assert_eq!(status, 200);
    let mut path = Some(all(&home, "<a href=\"", "\"")[0].to_owned());
    let (mut ids, mut emails, mut names, mut pages) = (vec![], vec![], vec![], 0);
    while let Some(at) = path {
        let (status, body) = fetch(site.address(), &at).await;
        assert_eq!(status, 200, "{at}");
        pages += 1;
        let here = all(&body, "data-id=\"", "\"");
        assert!(!here.is_empty() && here.len() <= PAGE_SIZE);
        ids.extend(here.into_iter().map(str::to_owned));
        emails.extend(all(&body, "href=\"mailto:", "\"").into_iter().map(str::to_owned));
        names.extend(all(&body, "<h2>", "</h2>").into_iter().map(str::to_owned));
        assert_eq!(
            body.matches("href=\"tel:+61").count(),
            body.matches("div class=\"customer\"").count()
        );
        path = all(&body, "class=\"next\" rel=\"next\" href=\"", "\"")
            .first()
            .map(|next| next.to_string());
    }
    assert_eq!(pages, 30);
    assert_eq!(pages, site.pages());
    let expected: Vec<_> = people.on_site().map(|p| p.external_id.clone()).collect();
    assert_eq!(ids, expected);
    assert_eq!(
        emails,
        people.on_site().map(|p| p.email.clone()).collect::<Vec<_>>()
    );
    let quoted = people
        .on_site()
        .position(|person| person.name().contains('\''))
        .unwrap();
    assert!(names[quoted].contains("&#39;"), "{}", names[quoted]);
    assert_eq!(site.hits("/customers"), 30);
    assert_eq!(site.hits_by_path()["/customers?page=7"], 1);
    assert_eq!(site.hits("/private/"), 0);
}

#[tokio::test]
async fn the_trap_is_linked_forbidden_and_counted() {
    let site = DemoSite::start(&People::load().unwrap(), 0).await.unwrap();
    let (status, robots) = fetch(site.address(), "/robots.txt").await;
    assert_eq!(status, 200);
    assert!(robots.starts_with("User-agent: *\n") && robots.contains("\nDisallow: /private/\n"));
    assert!(!robots.contains("Crawl-delay"));
    for page in [1, site.pages()] {
        let (_, body) = fetch(site.address(), &format!("/customers?page={page}")).await;
        let trap = all(&body, "class=\"staff\" href=\"", "\"")[0];
        assert!(trap.starts_with("/private/"));
    }
    assert_eq!(site.hits("/private/"), 0);
    assert_eq!(fetch(site.address(), "/private/notes/1").await.0, 200);
    assert_eq!(fetch(site.address(), "/private/").await.0, 404);
    assert_eq!(site.hits("/private/"), 2);
}

#[tokio::test]
async fn pages_that_are_not_there_say_so() {
    let site = DemoSite::start(&People::load().unwrap(), 0).await.unwrap();
    for (path, status) in [
        ("/customers", 200),
        ("/customers?page=30", 200),
        ("/customers?page=31", 404),
        ("/customers?page=0", 404),
        ("/customers?page=-1", 400),
        ("/customers?page=two", 400),
        ("/customers/1", 404),
        ("/nothing", 404),
    ] {
        assert_eq!(fetch(site.address(), path).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn a_taken_port_is_avoided_and_a_free_one_is_kept() {
    let people = People::load().unwrap();
    let first = DemoSite::start(&people, 0).await.unwrap();
    let port = first.address().port();
    let second = DemoSite::start(&people, port).await.unwrap();
    assert_ne!(second.address().port(), port);
    assert_eq!(fetch(second.address(), "/robots.txt").await.0, 200);
    first.stop().await.unwrap();
    let again = DemoSite::start(&people, port).await.unwrap();
    assert_eq!(again.address().port(), port);

    let address = second.address();
    drop(second);
    let gone = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("dropping the site stops it");
}
