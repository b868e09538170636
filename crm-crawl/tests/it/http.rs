//! The HTTP client's bounds, against a server that sends compressed bodies.

use std::time::Duration;

use crm_core::ErrorKind;
use crm_core::http::{AllowEntry, HttpClient, HttpConfig};

use crate::site::{Answer, Site};

/// `head -c 11534336 /dev/zero | gzip -9n`: 11 KiB that become 11 MiB.
const ZEROS: &[u8] = include_bytes!("zeros.gz");

/// `head -c 11534336 /dev/zero | brotli -q 11`: 27 bytes that become 11 MiB.
const BROTLI_ZEROS: &[u8] = &[
    203, 255, 255, 63, 248, 39, 0, 226, 177, 64, 32, 247, 254, 47, 255, 255, 95, 240, 79, 0, 196, 97, 17,
    128, 238, 253, 11,
];

fn client(site: &Site, change: impl FnOnce(&mut HttpConfig)) -> HttpClient {
    let mut config = site.spec("/").crawl.http;
    change(&mut config);
    HttpClient::new(config).unwrap()
}

#[tokio::test]
async fn a_bomb_is_cut_at_the_limit_of_decompressed_bytes() {
    let site = Site::start(|path, _| match path {
        "/bomb" => Answer::html("").body(ZEROS).header("content-encoding", "gzip"),
        "/brotli" => Answer::html("")
            .body(BROTLI_ZEROS)
            .header("content-encoding", "br"),
        "/nested" => Answer::html("x").header("content-encoding", "gzip, gzip"),
        _ => Answer::status(404),
    })
    .await;
    for path in ["/bomb", "/brotli"] {
        let url = site.url(path).parse().unwrap();
        for (limit, set) in [(10_000, true), (10 * 1024 * 1024, false)] {
            let client = client(&site, |c| c.max_body = if set { limit } else { c.max_body });
            let answer = client.get(&url, &Default::default()).await.unwrap();
            assert_eq!((answer.body.len(), answer.truncated), (limit, true), "{path}");
        }
    }
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

/// Bad input 18: answers that no server of today gives, byte by byte. Each is one error of the page or is cut at a limit.
#[tokio::test]
async fn answers_that_lie_are_errors_or_cut() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n";
    type Rest = fn(usize) -> Vec<u8>;
    // What is sent at first, and then again and again, so long as there is something.
    let answers: [(&str, String, Rest); 6] = [
        (
            "shorter than said",
            format!("{OK}content-length: 100\r\n\r\nshort"),
            |_| Vec::new(),
        ),
        (
            "chunks without end",
            format!("{OK}transfer-encoding: chunked\r\n\r\n"),
            |_| format!("2000\r\n{}\r\n", "x".repeat(0x2000)).into_bytes(),
        ),
        (
            "a chunk without a size",
            format!("{OK}transfer-encoding: chunked\r\n\r\nzz\r\nx"),
            |_| Vec::new(),
        ),
        ("headers without end", OK.to_owned(), |n| {
            format!("x-{n}: {}\r\n", "y".repeat(8_000)).into_bytes()
        }),
        ("a header without end", format!("{OK}x: "), |_| vec![b'y'; 8_000]),
        ("no HTTP at all", "220 mail.example ESMTP\r\n".to_owned(), |_| {
            Vec::new()
        }),
    ];
    for (what, head, rest) in answers {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut sent = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 2048];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(head.as_bytes()).await;
                // No more than 64 MiB: a client that would take it all fails the count below.
                for n in 0..8_192 {
                    let bytes = rest(n);
                    if bytes.is_empty() || stream.write_all(&bytes).await.is_err() {
                        break;
                    }
                    sent += bytes.len();
                }
                drop(stream);
                if sent > 0 {
                    break;
                }
            }
            sent
        });
        let mut config = HttpConfig {
            max_body: 100_000,
            ..HttpConfig::default()
        };
        config.allow.push(AllowEntry::address(address));
        let url = format!("http://{address}/").parse().unwrap();
        let answer = HttpClient::new(config)
            .unwrap()
            .get(&url, &Default::default())
            .await;
        match answer {
            Ok(answer) => {
                assert_eq!(what, "chunks without end");
                assert_eq!((answer.body.len(), answer.truncated), (100_000, true));
            }
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unavailable),
                "{what}: {error:?}"
            ),
        }
        if what.contains("without end") {
            let sent = server.await.unwrap();
            assert!(sent < 32 << 20, "{what}: {sent} bytes were taken");
        } else {
            server.abort();
        }
    }
}
