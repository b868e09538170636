//! Sites that mean harm, or are ill: what they cost is bounded, and the rest of the site is read.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::Orders;
use crate::site::Site;

/// 11 MiB of zeros, by the reference implementation of Brotli (RFC 7932).
const BROTLI: &[u8] = b"\x9f\xff\xff\xaf\xf8\x27\x00\xe2\xb1\x40\x20\xf7\xfe\x15";
/// What a bomb becomes.
const HUGE: usize = 100 << 20;
/// Pages of people.
const PEOPLE: usize = ODD.len();
/// The other pages, and what is said of each; nothing of the ones that are read.
const ODD: [(&str, Option<&str>); 17] = [
    ("gzip", Some("larger than the limit")),
    ("gzip-gzip", Some("content encoding")),
    ("gzip-three-times", Some("content encoding")),
    ("deflate", Some("larger than the limit")),
    ("brotli", Some("larger than the limit")),
    ("zstd", Some("content encoding")),
    ("no-gzip", Some("damaged")),
    ("endless", Some("larger than the limit")),
    ("shorter-than-said", Some("cut off")),
    ("longer-than-said", None),
    ("slow-head", Some("no whole answer in time")),
    ("slow-body", Some("no whole answer in time")),
    ("endless-head", Some("connection broke")),
    ("long-header", Some("connection broke")),
    ("cookies", Some("connection broke")),
    ("never-an-answer", Some("connection broke")),
    ("sick-once", None),
];

fn person(name: &str) -> String {
    format!("<div class=customer><h2>{name}</h2><p>{name}@example.com</p></div>")
}

/// Zeros packed by zlib: gzip once, twice and three times, and deflate.
fn packed() -> [Vec<u8>; 4] {
    let script = "import gzip, sys, zlib
data = bytes(int(sys.argv[1]))
once = gzip.compress(data)
twice = gzip.compress(once)
for name, body in (('1', once), ('2', twice), ('3', gzip.compress(twice)), ('d', zlib.compress(data))):
    open(sys.argv[2] + '/' + name, 'wb').write(body)";
    let folder = tempfile::tempdir().unwrap();
    let packing = Command::new("python3")
        .args(["-c", script, &HUGE.to_string()])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(
        packing.status.success(),
        "{}",
        String::from_utf8_lossy(&packing.stderr)
    );
    ["1", "2", "3", "d"].map(|name| std::fs::read(folder.path().join(name)).unwrap())
}

fn ok(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/html\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// Writes until the other side has had enough.
fn trickle(mut stream: TcpStream, piece: &[u8], pause: Duration) {
    while stream.write_all(piece).is_ok() {
        std::thread::sleep(pause);
    }
}

struct Hostile {
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Hostile {
    /// A site whose first page leads to these pages.
    fn start(pages: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let shared = log.clone();
        let links: String = pages
            .iter()
            .map(|page| format!("<a href=\"/{page}\">{page}</a>"))
            .collect();
        let content = Arc::new((links, packed()));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, content) = (shared.clone(), content.clone());
                std::thread::spawn(move || answer(stream, &log, &content.0, &content.1));
            }
        });
        Self { address, log }
    }
}

fn answer(mut stream: TcpStream, log: &Mutex<Vec<String>>, links: &str, bodies: &[Vec<u8>; 4]) {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => head.extend_from_slice(&buffer[..n]),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap()[1..].to_owned();
    let before = {
        let mut log = log.lock().unwrap();
        log.push(path.clone());
        log.iter().filter(|other| **other == path).count() - 1
    };
    let [once, twice, thrice, deflate] = bodies;
    let open = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n";
    let answer = match path.as_str() {
        "robots.txt" => "HTTP/1.1 404 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".into(),
        "0" => ok("", links.as_bytes()),
        "gzip" => ok("content-encoding: gzip\r\n", once),
        "gzip-gzip" => ok("content-encoding: gzip, gzip\r\n", twice),
        "gzip-three-times" => ok("content-encoding: gzip, gzip, gzip\r\n", thrice),
        "deflate" => ok("content-encoding: deflate\r\n", deflate),
        "brotli" => ok("content-encoding: br\r\n", BROTLI),
        "zstd" => ok("content-encoding: zstd\r\n", b"\x28\xb5\x2f\xfd"),
        "no-gzip" => ok("content-encoding: gzip\r\n", b"<p>plain"),
        "endless" => {
            let _ = stream.write_all(format!("{open}transfer-encoding: chunked\r\n\r\n").as_bytes());
            let chunk = [b"10000\r\n".as_slice(), &[0; 0x10000], b"\r\n"].concat();
            return trickle(stream, &chunk, Duration::ZERO);
        }
        "shorter-than-said" => format!("{open}content-length: 1000\r\n\r\n<p>").into(),
        "longer-than-said" => {
            let person = person("longer");
            format!(
                "{open}content-length: {}\r\nconnection: close\r\n\r\n{person}{}",
                person.len(),
                "x".repeat(1000)
            )
            .into()
        }
        "slow-head" => return trickle(stream, b"H", Duration::from_millis(100)),
        "slow-body" => {
            let _ = stream.write_all(format!("{open}\r\n").as_bytes());
            return trickle(stream, b"x", Duration::from_millis(100));
        }
        "endless-head" => {
            let _ = stream.write_all(open.as_bytes());
            return trickle(
                stream,
                &b"x-more: and more\r\n".repeat(1000),
                Duration::from_millis(1),
            );
        }
        "long-header" => {
            let _ = stream.write_all(format!("{open}x-long: ").as_bytes());
            return trickle(stream, &[b'x'; 1 << 16], Duration::from_millis(1));
        }
        "cookies" => ok(
            &(0..10_000)
                .map(|n| format!("set-cookie: k{n}=v\r\n"))
                .collect::<String>(),
            person("cookies").as_bytes(),
        ),
        "never-an-answer" => return,
        "sick-once" if before == 0 => return,
        "sick-once" => ok("", person("sick").as_bytes()),
        other => match other.strip_prefix("person-") {
            Some(n) => ok("", person(&format!("p{n}")).as_bytes()),
            None => "HTTP/1.1 404 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".into(),
        },
    };
    let _ = stream.write_all(&answer);
}

/// CRW-5, CRW-12, CRW-13, F14, bad input 18: bombs, liars and slow ones cost a bounded part of memory and time.
#[test]
fn hostile_answers_are_bounded_and_the_rest_is_read() {
    // In turns: a site on which one page after another fails is left alone.
    let turns = ODD.iter().zip(0..PEOPLE);
    let pages = turns.flat_map(|((page, _), n)| [(*page).to_owned(), format!("person-{n}")]);
    let site = Hostile::start(pages.collect());
    let orders = |site: &Hostile, max_body: usize, patience: f64| {
        Orders::to(
            site.address,
            json!({
                "delay": 0.0, "backoff": 0.01, "retries": 1, "concurrency": 2, "concurrency_per_host": 2,
                "http": {"total_timeout": patience, "max_body": max_body},
            }),
        )
    };
    let figures = orders(&site, 10 << 20, 4.0).run();
    let strings = |name: &str| -> Vec<String> {
        let found = figures[name].as_array().unwrap();
        found.iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let mut wanted: BTreeSet<String> = (0..PEOPLE).map(|n| format!("p{n}@example.com")).collect();
    wanted.extend(["longer@example.com".into(), "sick@example.com".into()]);
    assert_eq!(strings("emails").into_iter().collect::<BTreeSet<_>>(), wanted);
    let rejects = figures["rejects"].as_array().unwrap();
    let mut wrong = Vec::new();
    for (path, reason) in ODD {
        let said: Vec<&str> = rejects
            .iter()
            .filter(|reject| reject[0].as_str().unwrap().ends_with(&format!("/{path}")))
            .map(|reject| reject[1].as_str().unwrap())
            .collect();
        let right = match reason {
            None => said.is_empty(),
            Some(reason) => said.len() == 1 && said[0].contains(reason),
        };
        if !right {
            wrong.push(format!("{path}: {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let log = site.log.lock().unwrap().clone();
    let hits = |path: &str| log.iter().filter(|other| *other == path).count();
    // What may pass is tried again once, what will not is not (CRW-12).
    for (path, times) in [
        ("gzip", 1),
        ("gzip-gzip", 1),
        ("zstd", 1),
        ("endless", 1),
        ("slow-body", 2),
        ("never-an-answer", 2),
        ("sick-once", 2),
        ("person-3", 1),
    ] {
        assert_eq!(hits(path), times, "{path}");
    }
    let grown = figures["grown_kib"].as_u64().unwrap();
    assert!(grown < 64 << 10, "{grown} KiB");
    // Negative control: without the limit a bomb does go off.
    let site = Hostile::start(vec!["gzip".into()]);
    let figures = orders(&site, 1 << 30, 300.0).run();
    let grown = figures["grown_kib"].as_u64().unwrap();
    assert!(grown > 96 << 10, "{grown} KiB: the measure cannot fail");
}

/// SSRF-7: a proxy of the environment is not asked.
#[test]
fn proxies_of_the_environment_are_ignored() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(b"HTTP/1.1 502 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let environment = |name| (name, proxy.clone());
    let variables = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].map(environment);
    let site = Site::start(3, Duration::ZERO);
    let mut orders = Orders::to(site.address, json!({"delay": 0.0}));
    orders.environment = variables.to_vec();
    let figures = orders.run();
    assert_eq!(
        (
            figures["emails"].as_array().unwrap().len(),
            asked.load(Ordering::SeqCst)
        ),
        (3, 0)
    );
    // Negative control: a program that honours them does ask it.
    let url = format!("http://{}/0", site.address);
    let fetch = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1])";
    Command::new("python3")
        .args(["-c", fetch, &url])
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .envs(variables)
        .output()
        .unwrap();
    assert!(asked.load(Ordering::SeqCst) > 0);
}
