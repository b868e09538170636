//! Recorded requests to our server: it answers what the public server answered.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::*;
use crate::discovery::http1::parse_head;

fn folder() -> PathBuf {
    Path::new("tests/data/eureka").to_path_buf()
}

fn split(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    (
        String::from_utf8(bytes[..end].to_vec()).unwrap(),
        &bytes[end + 4..],
    )
}

fn request(file: &Path) -> Request<Bytes> {
    let bytes = std::fs::read(file).unwrap();
    let (head, body) = split(&bytes);
    let mut request = parse_head(&head);
    let length = request
        .headers()
        .get("content-length")
        .map_or(0, |length| length.to_str().unwrap().parse().unwrap());
    *request.body_mut() = Bytes::copy_from_slice(&body[..length]);
    request
}

/// Status, headers (names in lower case) and uncompressed body.
fn recorded(stem: &Path) -> (u16, Vec<(String, String)>, String) {
    let with = |end: &str| PathBuf::from(format!("{}.{end}", stem.display()));
    let bytes = std::fs::read(with("response.http")).unwrap();
    let (head, body) = split(&bytes);
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_lowercase(), value.to_owned())
        })
        .collect();
    let text = match std::fs::read_to_string(with("response.body")) {
        Ok(text) => text,
        Err(_) => {
            let length = headers
                .iter()
                .find(|(name, _)| name == "content-length")
                .map_or(0, |(_, length)| length.parse().unwrap());
            let mut out = String::new();
            if length > 0 {
                flate2::read::GzDecoder::new(&body[..length])
                    .read_to_string(&mut out)
                    .unwrap();
            }
            out
        }
    };
    (status, headers, text)
}

/// Points in time become `T`: 13 digits are milliseconds.
fn timeless(text: &str) -> String {
    let mut out = String::new();
    let mut digits = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        out.push_str(if digits.len() == 13 { "T" } else { &digits });
        digits.clear();
        out.push(c);
    }
    out.pop();
    out
}

/// The counter of deltas depends on when the recorded server renewed its cache.
fn without_version(text: &str) -> String {
    let mut out = text.to_owned();
    for (from, to) in [("<versions__delta>", "<"), ("\"versions__delta\":\"", "\"")] {
        if let Some(at) = out.find(from) {
            let start = at + from.len();
            let end = start + out[start..].find(to).unwrap();
            out.replace_range(start..end, "V");
        }
    }
    out
}

/// What the HTTP library of the recorded server adds, and any library adds in its own way.
const TRANSPORT: [&str; 5] = [
    "date",
    "server",
    "content-length",
    "transfer-encoding",
    "connection",
];

fn compare(server: &EurekaServer, stem: &Path, adjust: impl Fn(String) -> String) {
    let name = stem.display();
    let answer = server.handle(&request(&PathBuf::from(format!("{name}.request.http"))));
    let (status, headers, body) = recorded(stem);
    assert_eq!(answer.status().as_u16(), status, "{name}");
    let wanted: Vec<(String, String)> = headers
        .into_iter()
        .filter(|(header, _)| !TRANSPORT.contains(&header.as_str()))
        .collect();
    let got: Vec<(String, String)> = answer
        .headers()
        .iter()
        .map(|(header, value)| (header.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    assert_eq!(got, wanted, "headers of {name}");
    assert_eq!(
        without_version(&timeless(&text(&answer))),
        without_version(&timeless(&adjust(body))),
        "body of {name}"
    );
}

/// All recordings in their order, on one server.
#[test]
fn recorded_requests_get_the_recorded_answers() {
    let clock = clock();
    let server = server(&clock);
    let at = |name: &str| folder().join(name);
    let play = |name: &str| {
        server.handle(&request(&folder().join(format!("{name}.request.http"))));
    };
    // The recorded server had seen the same a minute before: that is in its delta.
    play("server-01-register");
    play("server-17-register-xml");
    play("server-19-cancel");
    ask(&server, "DELETE", "/eureka/v2/apps/CRM/crm-1", None);
    clock.advance(seconds(60));

    let mut stems: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".request.http").map(str::to_owned)
        })
        .collect();
    stems.sort();
    assert_eq!(stems.len(), 27, "all recordings are there");
    for stem in &stems {
        if stem.starts_with("server-24") {
            clock.advance(seconds(18));
        }
        compare(&server, &at(stem), |body| match stem.as_str() {
            // This answer came out of the recorded server's cache, as it was before the change of exchange 13.
            "server-23-apps-accept-any" => body.replace(
                "        <weight>3</weight>\n",
                "        <weight>3</weight>\n        <tier>gold</tier>\n",
            ),
            _ => body,
        });
        clock.advance(Duration::from_millis(100));
    }

    // And a public client on the same server, a moment later. It read the cached list right after it registered.
    let py = folder().join("py");
    for number in [52, 51, 53, 54, 55, 56, 57, 58, 59, 60] {
        compare(&server, &py.join(format!("{number:03}")), |body| body);
        clock.advance(seconds(1));
    }
}

/// The first delta is number 1, as recorded, and the number grows only when something changed.
#[test]
fn deltas_are_counted() {
    let clock = clock();
    let server = server(&clock);
    post(&server, "/eureka/v2/apps/CRM", "application/json", CRM_1);
    let version = || {
        let body = text(&ask(
            &server,
            "GET",
            "/eureka/v2/apps/delta",
            Some("application/json"),
        ));
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["applications"]["versions__delta"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!((version(), version()), ("1".into(), "1".into()));
    ask(&server, "DELETE", "/eureka/v2/apps/CRM/crm-1", None);
    assert_eq!(version(), "2");
}

/// The times of the recordings, which the comparison above leaves out.
#[test]
fn times_are_those_of_the_recorded_rules() {
    let clock = clock();
    let server = server(&clock);
    let now = || clock.now().as_micros() / 1000;
    let info = || {
        let body = text(&ask(
            &server,
            "GET",
            "/eureka/v2/apps/CRM/crm-1",
            Some("application/json"),
        ));
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["instance"].clone()
    };
    let registered = now();
    assert_eq!(
        post(&server, "/eureka/v2/apps/CRM", "application/json", CRM_1).status(),
        204
    );
    let lease = &info()["leaseInfo"];
    for field in [
        "registrationTimestamp",
        "lastRenewalTimestamp",
        "serviceUpTimestamp",
    ] {
        assert_eq!(lease[field], registered, "{field}");
    }
    assert_eq!(lease["evictionTimestamp"], 0);
    clock.advance(seconds(1));
    ask(&server, "PUT", "/eureka/v2/apps/CRM/crm-1", None);
    // The time of the renewal plus the duration.
    assert_eq!(info()["leaseInfo"]["lastRenewalTimestamp"], now() + 6000);
    clock.advance(seconds(1));
    ask(
        &server,
        "PUT",
        "/eureka/v2/apps/CRM/crm-1/status?value=OUT_OF_SERVICE",
        None,
    );
    let out = info();
    assert_eq!(out["leaseInfo"]["lastRenewalTimestamp"], now() + 6000);
    assert_eq!(out["lastUpdatedTimestamp"], now().to_string());
    assert_eq!(out["lastDirtyTimestamp"], registered.to_string());
    // Registering again starts a new lease and keeps the time it first was up.
    clock.advance(seconds(1));
    post(&server, "/eureka/v2/apps/CRM", "application/json", CRM_1);
    let again = info();
    assert_eq!(again["leaseInfo"]["registrationTimestamp"], now());
    assert_eq!(again["leaseInfo"]["serviceUpTimestamp"], registered);
    assert_eq!(again["status"], "OUT_OF_SERVICE", "what an operator says holds");
}

/// A lease that was never renewed ends after its duration; one that was lives twice as long.
#[test]
fn leases_end_when_the_recorded_ones_did() {
    for (renewed, alive_at, dead_at) in [(false, 5, 9), (true, 11, 16)] {
        let clock = clock();
        let server = server(&clock);
        post(&server, "/eureka/v2/apps/CRM", "application/json", CRM_1);
        ask(&server, "GET", "/eureka/v2/apps", None);
        if renewed {
            ask(&server, "PUT", "/eureka/v2/apps/CRM/crm-1", None);
        }
        for second in 1..=dead_at {
            clock.advance(seconds(1));
            let status = ask(&server, "GET", "/eureka/v2/apps/CRM", None).status().as_u16();
            if second <= alive_at {
                assert_eq!(status, 200, "renewed {renewed}, after {second} s");
            }
            if second == dead_at {
                assert_eq!(status, 404, "renewed {renewed}, after {second} s");
            }
        }
    }
}
