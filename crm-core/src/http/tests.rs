#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, Request};
use bytes::Bytes;
use url::Url;

use super::dns::Resolver;
use super::guard::Guard;
use super::{AllowEntry, HttpClient, HttpConfig};
use crate::{Effect, ErrorKind, Result};

/// A server that counts connections and answers each with the same bytes after reading the request's head.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let seen = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                seen.fetch_add(1, Ordering::SeqCst);
                let mut head = Vec::new();
                let mut buffer = [0u8; 4096];
                while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(0) | Err(_) => break,
                        Ok(n) => head.extend_from_slice(&buffer[..n]),
                    }
                }
                let _ = stream.write_all(&answer(&String::from_utf8_lossy(&head)));
            }
        });
        Self { address, connections }
    }

    fn url(&self, rest: &str) -> Url {
        format!("http://{}{rest}", self.address).parse().unwrap()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn client(&self) -> HttpClient {
        HttpClient::new(HttpConfig {
            allow: vec![AllowEntry::address(self.address)],
            ..HttpConfig::default()
        })
        .unwrap()
    }
}

fn ok(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn to(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

/// Answers every name with the same addresses.
#[derive(Debug)]
struct Says(Vec<IpAddr>);

#[async_trait::async_trait]
impl Resolver for Says {
    async fn resolve(&self, _: &str) -> Result<Vec<IpAddr>> {
        Ok(self.0.clone())
    }
}

/// Hosts as attackers write them. Each one would reach this machine or its network.
const FORBIDDEN: &[&str] = &[
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.1",
    "127.255.255.254",
    "0x7f000001",
    "0x7f.1",
    "2130706433",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "169.254.0.1",
    "169.254.169.254",
    "0xa9fea9fe",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "%31%32%37.0.0.1",
    "１２７.0.0.1",
    "[::]",
    "[::1]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::10.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[100::1]",
    "[2001::1]",
    "[2001:0:7f00:1::]",
    "[2001:db8::1]",
    "[2002:7f00:1::]",
    "[2002:a00:1::1]",
    "[3fff::1]",
    "[3fff:fff::1]",
    "[5f00::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fdff:ffff::1]",
    "[fe80::1]",
    "[febf::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[ff0e::1]",
];

/// Neighbours of the forbidden ranges, which are public.
const PUBLIC: &[&str] = &[
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.0.3.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "[2606:4700::1111]",
    "[2001:4860::8888]",
    "[2003::1]",
    "[3ffe::1]",
    "[2a00::1]",
    "[::ffff:1.1.1.1]",
];

#[tokio::test]
async fn forbidden_hosts_are_never_dialled() {
    assert!(FORBIDDEN.len() >= 60);
    let server = Server::answering(|_| ok("reached"));
    let port = server.address.port();
    // The port is open for public addresses, so that only the address can be the reason.
    let allow: AllowEntry = format!("0.0.0.0/0:{port}").parse().unwrap();
    let config = HttpConfig {
        allow: vec![allow, format!("[::]/0:{port}").parse().unwrap()],
        ..HttpConfig::default()
    };
    let client = HttpClient::new(config).unwrap();
    for host in FORBIDDEN {
        let url = Url::parse(&format!("http://{host}:{port}/")).unwrap();
        let error = client.get(&url, &HeaderMap::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{host}: {error}");
    }
    for name in ["localhost", "LOCALHOST"] {
        let url = Url::parse(&format!("http://{name}:{port}/")).unwrap();
        let error = client.get(&url, &HeaderMap::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{name}: {error:?}");
    }
    assert_eq!(server.connections(), 0);
    // The same host and port with an entry of its own is reached: the guard was the reason.
    let answer = server
        .client()
        .get(&server.url("/"), &HeaderMap::new())
        .await
        .unwrap();
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"reached"[..]));
    assert_eq!(server.connections(), 1);
}

#[test]
fn public_neighbours_are_open_at_web_ports_only() {
    let guard = Guard::default();
    for host in PUBLIC {
        let ip: IpAddr = host.trim_matches(['[', ']']).parse().unwrap();
        for (port, open) in [(80, true), (443, true), (22, false), (8080, false), (6379, false)] {
            assert_eq!(guard.permits(SocketAddr::new(ip, port)), open, "{host}:{port}");
        }
    }
    let guard = Guard::new(vec!["1.1.1.0/24:8080".parse().unwrap()]);
    assert!(guard.permits("1.1.1.1:8080".parse().unwrap()));
    assert!(!guard.permits("1.1.2.1:8080".parse().unwrap()));
}

#[tokio::test]
async fn names_are_judged_by_what_they_resolve_to() {
    let server = Server::answering(|_| ok("reached"));
    let port = server.address.port();
    let url: Url = format!("http://shop.example:{port}/").parse().unwrap();
    let wide = HttpConfig {
        allow: vec![format!("0.0.0.0/0:{port}").parse().unwrap()],
        ..HttpConfig::default()
    };
    for private in ["127.0.0.1", "10.0.0.1", "::1", "::ffff:127.0.0.1", "fd00::1"] {
        let resolver = Arc::new(Says(vec![private.parse().unwrap()]));
        let client = HttpClient::with_resolver(wide.clone(), resolver).unwrap();
        let error = client.get(&url, &HeaderMap::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{private}: {error:?}");
    }
    assert_eq!(server.connections(), 0);

    // A mixed answer: only the permitted address is dialled, the other one never.
    let config = HttpConfig {
        allow: vec![AllowEntry::address(server.address)],
        ..HttpConfig::default()
    };
    let resolver = Arc::new(Says(vec!["10.0.0.1".parse().unwrap(), server.address.ip()]));
    let client = HttpClient::with_resolver(config.clone(), resolver).unwrap();
    assert_eq!(
        &client.get(&url, &HeaderMap::new()).await.unwrap().body[..],
        b"reached"
    );
    assert_eq!(server.connections(), 1);

    let client = HttpClient::with_resolver(config, Arc::new(Says(vec![]))).unwrap();
    assert_eq!(
        client.get(&url, &HeaderMap::new()).await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
}

#[tokio::test]
async fn redirects_pass_the_same_guard() {
    let secret = Server::answering(|_| ok("secret"));
    for target in [
        format!("http://{}/", secret.address),
        "http://169.254.169.254/".into(),
        "//127.0.0.1/".into(),
        "file:///etc/passwd".into(),
        "gopher://127.0.0.1/".into(),
        "data:text/plain,x".into(),
    ] {
        let way = target.clone();
        let server = Server::answering(move |_| to(&way));
        let error = server
            .client()
            .get(&server.url("/"), &HeaderMap::new())
            .await
            .unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Invalid),
            "{target}: {error}"
        );
        assert_eq!(server.connections(), 1);
    }
    assert_eq!(secret.connections(), 0);
}

#[tokio::test]
async fn redirects_end() {
    let server = Server::answering(|_| to("/again?token=t"));
    let error = server
        .client()
        .get(&server.url("/"), &HeaderMap::new())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Invalid, Some("max_redirects"))
    );
    assert_eq!(server.connections(), 11);
    assert!(!error.to_string().contains("token"));
}

#[tokio::test]
async fn credentials_stay_with_their_origin() {
    let other = Server::answering(|head| {
        ok(if head.to_lowercase().contains("x-api-key") {
            "leaked"
        } else {
            "clean"
        })
    });
    let target = other.url("/");
    let server = Server::answering(move |_| to(target.as_str()));
    let allow = vec![
        AllowEntry::address(server.address),
        AllowEntry::address(other.address),
    ];
    let client = HttpClient::new(HttpConfig {
        allow,
        ..HttpConfig::default()
    })
    .unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", "k".parse().unwrap());
    assert_eq!(
        &client.get(&server.url("/"), &headers).await.unwrap().body[..],
        b"clean"
    );
    // Negative control: without a redirect it does arrive.
    assert_eq!(
        &client.get(&other.url("/"), &headers).await.unwrap().body[..],
        b"leaked"
    );
    let mut url = server.url("/");
    url.set_username("ana").unwrap();
    assert_eq!(
        client.get(&url, &headers).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

#[tokio::test]
async fn bodies_are_cut_and_slow_ones_given_up() {
    let server = Server::answering(|_| ok(&"x".repeat(5000)));
    let mut config = server.client().config().clone();
    config.max_body = 1000;
    let answer = HttpClient::new(config.clone())
        .unwrap()
        .get(&server.url("/"), &HeaderMap::new())
        .await
        .unwrap();
    assert_eq!((answer.body.len(), answer.truncated), (1000, true));
    config.max_body = 5000;
    let answer = HttpClient::new(config)
        .unwrap()
        .get(&server.url("/"), &HeaderMap::new())
        .await
        .unwrap();
    assert_eq!((answer.body.len(), answer.truncated), (5000, false));

    let slow = Server::answering(|_| {
        std::thread::sleep(Duration::from_secs(3));
        ok("late")
    });
    let mut config = slow.client().config().clone();
    config.total_timeout = Duration::from_millis(200);
    let client = HttpClient::new(config).unwrap();
    let error = client.get(&slow.url("/"), &HeaderMap::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::None));
    let post = Request::post(slow.url("/").as_str())
        .body(Bytes::from_static(b"x"))
        .unwrap();
    let error = client.send(post).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect(), error.is_retryable()),
        (ErrorKind::Timeout, Effect::Unknown, false)
    );
}

#[tokio::test]
async fn what_really_fails_is_told_apart() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = HttpClient::new(HttpConfig {
        allow: vec![AllowEntry::address(gone)],
        ..HttpConfig::default()
    })
    .unwrap();
    let post = Request::post(format!("http://{gone}/?token=t"))
        .body(Bytes::new())
        .unwrap();
    let error = client.send(post).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Unavailable, Effect::None),
        "{error:?}"
    );
    assert!(!format!("{error:?}").contains("token"), "{error:?}");

    let rude = Server::answering(|_| Vec::new());
    let post = Request::post(rude.url("/?token=t").as_str())
        .body(Bytes::new())
        .unwrap();
    let error = rude.client().send(post).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Unavailable, Effect::Unknown),
        "{error:?}"
    );
    assert!(!format!("{error:?}").contains("token"), "{error:?}");
}

#[test]
fn allow_entries() {
    for text in ["127.0.0.1/32:8080", "10.0.0.0/8:80,443", "[fd00::]/8:8443"] {
        assert_eq!(text.parse::<AllowEntry>().unwrap().to_string(), text);
    }
    assert_eq!(
        "127.0.0.1:80".parse::<AllowEntry>().unwrap().to_string(),
        "127.0.0.1/32:80"
    );
    assert_eq!(
        "[::1]:80".parse::<AllowEntry>().unwrap().to_string(),
        "[::1]/128:80"
    );
    for text in [
        "",
        "127.0.0.1",
        "localhost:80",
        "127.0.0.1/33:80",
        "127.0.0.1/32:",
        "127.0.0.1/32:0",
        "1.2.3.4/8:70000",
        "::1",
        "*:80",
    ] {
        let error = text.parse::<AllowEntry>().unwrap_err();
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some("allow")),
            "{text}"
        );
    }
    let config: HttpConfig =
        serde_json::from_str(r#"{"total_timeout": 2.5, "allow": ["127.0.0.1/32:8080"]}"#).unwrap();
    assert_eq!(
        (config.total_timeout, config.allow.len()),
        (Duration::from_millis(2500), 1)
    );
    assert!(serde_json::from_str::<HttpConfig>(r#"{"total_timeout": -1}"#).is_err());
    assert!(serde_json::from_str::<HttpConfig>(r#"{"dangerous": true}"#).is_err());
}

#[test]
fn an_authority_of_ones_own_is_checked_at_once() {
    let here = std::env::temp_dir().join(format!("open-crm-ca-{}", std::process::id()));
    for (text, wanted) in [
        (None, "cannot be read"),
        (Some(""), "no certificate in the file"),
        (
            Some("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"),
            "no certificate in PEM",
        ),
        (
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "no certificate of an authority",
        ),
    ] {
        match text {
            Some(text) => std::fs::write(&here, text).unwrap(),
            None => assert!(!here.exists()),
        }
        let config = HttpConfig {
            ca_file: Some(here.clone()),
            ..HttpConfig::default()
        };
        let error = HttpClient::new(config).unwrap_err();
        assert_eq!(error.context("setting"), Some("ca_file"));
        assert!(error.message().contains(wanted), "{error}");
    }
    std::fs::remove_file(here).unwrap();
}
