//! The cookies of one job (RFC 6265): kept in memory, sent where they belong, gone with the job.

use std::collections::HashMap;

use chrono::{NaiveDate, NaiveTime};
use crm_core::Timestamp;
use http::{HeaderMap, HeaderValue, header};
use url::{Host, Url};

/// A name with its value, longer ones are not kept (RFC 6265, 6.1).
const MAX_BYTES: usize = 4096;
const MAX_PER_DOMAIN: usize = 50;
const MAX_DOMAINS: usize = 1000;

#[derive(Debug, Clone, PartialEq)]
struct Cookie {
    name: String,
    value: String,
    path: String,
    /// It goes to this very host, not to the names below it.
    host_only: bool,
    secure: bool,
    /// `None`: as long as the job.
    expires: Option<Timestamp>,
}

/// By domain.
#[derive(Default)]
pub(super) struct Jar(HashMap<String, Vec<Cookie>>);

impl Jar {
    /// Takes in the cookies of an answer from `url`.
    pub(super) fn take(&mut self, url: &Url, headers: &HeaderMap, now: Timestamp) {
        for line in headers.get_all(header::SET_COOKIE).iter().take(MAX_PER_DOMAIN) {
            if let Some((domain, cookie)) = line.to_str().ok().and_then(|line| read(line, url, now)) {
                self.put(domain, cookie, now);
            }
        }
    }

    fn put(&mut self, domain: String, cookie: Cookie, now: Timestamp) {
        if !self.0.contains_key(&domain) && self.0.len() >= MAX_DOMAINS {
            return;
        }
        let kept = self.0.entry(domain).or_default();
        kept.retain(|other| {
            (other.name != cookie.name || other.path != cookie.path)
                && other.expires.is_none_or(|at| at > now)
        });
        if cookie.expires.is_none_or(|at| at > now) {
            if kept.len() >= MAX_PER_DOMAIN {
                kept.remove(0);
            }
            kept.push(cookie);
        }
    }

    /// What goes along with a request for `url`, longer paths first (5.4).
    pub(super) fn header(&self, url: &Url, now: Timestamp) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let host = host(url)?;
        let mut found: Vec<&Cookie> = Vec::new();
        let mut name = Some(host.as_str());
        while let Some(domain) = name {
            let exact = domain.len() == host.len();
            found.extend(self.0.get(domain).into_iter().flatten().filter(|cookie| {
                (exact || !cookie.host_only)
                    && (!cookie.secure || url.scheme() == "https")
                    && cookie.expires.is_none_or(|at| at > now)
                    && covers(&cookie.path, url.path())
            }));
            name = domain.split_once('.').map(|(_, rest)| rest);
        }
        found.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let text: Vec<String> = found.iter().map(|c| format!("{}={}", c.name, c.value)).collect();
        (!text.is_empty())
            .then(|| HeaderValue::from_str(&text.join("; ")).ok())
            .flatten()
    }
}

/// A `Set-Cookie` line (5.2, 5.3); `None` when it is not to be kept.
fn read(line: &str, url: &Url, now: Timestamp) -> Option<(String, Cookie)> {
    let host = host(url)?;
    let mut parts = line.split(';');
    let (name, value) = parts.next()?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let plain = |text: &str| text.bytes().all(|b| (0x20..0x7f).contains(&b));
    if name.is_empty() || name.len() + value.len() > MAX_BYTES || !plain(name) || !plain(value) {
        return None;
    }
    let (mut domain, mut path, mut secure) = (None, None, false);
    let (mut expires, mut age) = (None, None);
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim();
        match key.trim().to_ascii_lowercase().as_str() {
            "domain" => domain = Some(value.trim_start_matches('.').to_ascii_lowercase()),
            "path" => path = value.starts_with('/').then(|| value.to_owned()),
            "secure" => secure = true,
            "expires" => expires = date(value).or(expires),
            "max-age" => age = value.parse::<i64>().ok().or(age),
            _ => {}
        }
    }
    // The longer of the two lives is the one that was meant: Max-Age comes first (5.3, 3).
    let expires = match age {
        Some(seconds) if seconds <= 0 => Some(Timestamp::EPOCH),
        Some(seconds) => Some(now.plus(std::time::Duration::from_secs(
            seconds.unsigned_abs().min(400 * 86_400),
        ))),
        None => expires,
    };
    let (domain, host_only) = match domain.filter(|domain| !domain.is_empty()) {
        None => (host, true),
        // An end of names that belongs to everybody is good for the very host only (5.3, 5).
        Some(domain) if is_public(&domain) => {
            if domain != host {
                return None;
            }
            (host, true)
        }
        Some(domain) => {
            let below = host
                .strip_suffix(&domain)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            if !below || (matches!(url.host(), Some(Host::Ipv4(_) | Host::Ipv6(_))) && domain != host) {
                return None;
            }
            (domain, false)
        }
    };
    if secure && url.scheme() != "https" {
        return None;
    }
    let named = |prefix: &str| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    if (named("__Secure-") && !secure)
        || (named("__Host-") && !(secure && host_only && path.as_deref() == Some("/")))
    {
        return None;
    }
    let cookie = Cookie {
        name: name.to_owned(),
        value: value.to_owned(),
        path: path.unwrap_or_else(|| folder(url.path()).to_owned()),
        host_only,
        secure,
        expires,
    };
    Some((domain, cookie))
}

fn host(url: &Url) -> Option<String> {
    url.host_str().map(|host| host.trim_end_matches('.').to_owned())
}

/// Whether names below this one belong to different owners (publicsuffix.org).
fn is_public(domain: &str) -> bool {
    psl::suffix_str(domain).is_some_and(|suffix| suffix == domain)
}

/// The path up to the last slash (5.1.4).
fn folder(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(at) => path.get(..at).unwrap_or("/"),
    }
}

/// Whether a cookie's path covers a request's (5.1.4).
fn covers(cookie: &str, path: &str) -> bool {
    path.strip_prefix(cookie)
        .is_some_and(|rest| rest.is_empty() || cookie.ends_with('/') || rest.starts_with('/'))
}

/// A date as cookies write it: in any order and with any marks between (5.1.1).
fn date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == ':')) {
        if word.contains(':') {
            let mut numbers = word.split(':').map(|n| n.parse::<u32>().ok());
            if let (Some(Some(h)), Some(Some(m)), Some(Some(s))) =
                (numbers.next(), numbers.next(), numbers.next())
            {
                time = time.or(NaiveTime::from_hms_opt(h, m, s));
            }
        } else if let Ok(number) = word.parse::<i32>() {
            if day.is_none() && word.len() <= 2 {
                day = u32::try_from(number).ok();
            } else if year.is_none() {
                year = Some(match number {
                    70..=99 => number + 1900,
                    0..=69 => number + 2000,
                    other => other,
                });
            }
        } else if let Some(start) = word.get(..3).filter(|_| month.is_none()) {
            month = MONTHS.iter().position(|name| start.eq_ignore_ascii_case(name));
        }
    }
    let month = u32::try_from(month? + 1).ok()?;
    let at = NaiveDate::from_ymd_opt(year.filter(|year| *year >= 1601)?, month, day?)?.and_time(time?);
    Some(Timestamp::from_micros(at.and_utc().timestamp_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-03-01T09:00:00Z".parse().unwrap()
    }

    /// What a request for `to` carries after `from` set `lines`.
    fn sent(from: &str, lines: &[&str], to: &str) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::SET_COOKIE, HeaderValue::from_str(line).unwrap());
        }
        let mut jar = Jar::default();
        jar.take(&Url::parse(from).unwrap(), &headers, now());
        let value = jar.header(&Url::parse(to).unwrap(), now());
        value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
    }

    /// CRW-14.
    #[test]
    fn where_cookies_go() {
        let (a, s) = ("http://www.shop.example/a/b", "https://www.shop.example/a/b");
        for (from, line, to, wanted) in [
            // Host and domain.
            (a, "k=v", "http://www.shop.example/a/c", "k=v"),
            (a, "k=v", "http://shop.example/a/c", ""),
            (a, "k=v", "http://x.www.shop.example/a/c", ""),
            (a, "k=v; Domain=shop.example", "http://shop.example/a/", "k=v"),
            (
                a,
                "k=v; Domain=.shop.example",
                "http://other.shop.example/a/",
                "k=v",
            ),
            (a, "k=v; Domain=SHOP.example", "http://shop.example/a/", "k=v"),
            (a, "k=v; Domain=other.example", "http://other.example/a/", ""),
            (a, "k=v; Domain=op.example", "http://op.example/a/", ""),
            (
                a,
                "k=v; Domain=x.www.shop.example",
                "http://x.www.shop.example/a/",
                "",
            ),
            (a, "k=v; Domain=example", "http://www.shop.example/a/", ""),
            // Ends of names that belong to everybody.
            ("http://a.co.uk/", "k=v; Domain=co.uk", "http://b.co.uk/", ""),
            ("http://a.co.uk/", "k=v; Domain=co.uk", "http://a.co.uk/", ""),
            ("http://a.com/", "k=v; Domain=com", "http://a.com/", ""),
            (
                "http://a.github.io/",
                "k=v; Domain=github.io",
                "http://b.github.io/",
                "",
            ),
            (
                "http://github.io/",
                "k=v; Domain=github.io",
                "http://github.io/",
                "k=v",
            ),
            (
                "http://github.io/",
                "k=v; Domain=github.io",
                "http://b.github.io/",
                "",
            ),
            ("http://1.2.3.4/", "k=v; Domain=3.4", "http://1.2.3.4/", ""),
            ("http://1.2.3.4/", "k=v", "http://1.2.3.4/x", "k=v"),
            // Path.
            (a, "k=v; Path=/a", "http://www.shop.example/a", "k=v"),
            (a, "k=v; Path=/a", "http://www.shop.example/ab", ""),
            (a, "k=v; Path=/a/", "http://www.shop.example/a", ""),
            (a, "k=v", "http://www.shop.example/", ""),
            (a, "k=v; Path=/", "http://www.shop.example/", "k=v"),
            (a, "k=v; Path=x", "http://www.shop.example/a/b", "k=v"),
            // Secure.
            (s, "k=v; Secure", "https://www.shop.example/a/", "k=v"),
            (s, "k=v; Secure", "http://www.shop.example/a/", ""),
            (a, "k=v; Secure", "https://www.shop.example/a/", ""),
            (s, "k=v", "http://www.shop.example/a/", "k=v"),
            (s, "__Host-k=v; Secure; Path=/", s, "__Host-k=v"),
            (s, "__Host-k=v; Secure; Path=/; Domain=shop.example", s, ""),
            (s, "__Secure-k=v", s, ""),
            // How long.
            (a, "k=v; Max-Age=60", a, "k=v"),
            (a, "k=v; Max-Age=0", a, ""),
            (a, "k=v; Max-Age=-1", a, ""),
            (
                a,
                "k=v; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
                a,
                "k=v",
            ),
            (a, "k=v; Expires=Thu, 01 Jan 1970 00:00:00 GMT", a, ""),
            (a, "k=v; Expires=Sun, 01-Mar-2026 10:00:00 GMT", a, "k=v"),
            (a, "k=v; Expires=Sun, 01-Mar-26 08:00:00 GMT", a, ""),
            (a, "k=v; Expires=Mar 1 10:00:00 2026", a, "k=v"),
            (a, "k=v; Expires=soon", a, "k=v"),
            // Forms.
            (a, "k=\"v w\"", a, "k=\"v w\""),
            (a, "k=", a, "k="),
            (a, "=v", a, ""),
            (a, "kv", a, ""),
        ] {
            assert_eq!(sent(from, &[line], to), wanted, "{from} {line} {to}");
        }
        assert_eq!(sent(a, &["k=1; Path=/", "k=2", "k=3; Path=/"], a), "k=2; k=3");
        let long = format!("k={}", "v".repeat(5000));
        assert_eq!(sent(a, &[&long], a), "");
        let many: Vec<String> = (0..10_000).map(|i| format!("k{i}=v")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(sent(a, &many, a).split("; ").count(), MAX_PER_DOMAIN);
    }
}
