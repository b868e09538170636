//! One form for all ways to write a URL, and what looks like a trap.

use sha2::{Digest, Sha256};
use url::{Host, Url};

/// Parameters that say where a visitor came from, and nothing about the page.
const TRACKING: &[&str] = &[
    "fbclid",
    "gclid",
    "dclid",
    "msclkid",
    "yclid",
    "mc_cid",
    "mc_eid",
    "igshid",
    "_ga",
    "phpsessid",
    "jsessionid",
    "sessionid",
    "sid",
];

/// The canonical form: no fragment, no credentials, no dot after the host, no tracking parameters, upper-case percent
/// escapes, none for unreserved characters, `/` for an empty path. Scheme, host, default port and dot segments are
/// already plain after [`Url::parse`]. The order of parameters stays unless `sort` says otherwise: some sites mind it.
pub(super) fn canonical(url: &Url, sort: bool) -> Url {
    let mut url = url.clone();
    if url.fragment().is_some() {
        url.set_fragment(None);
    }
    if !url.username().is_empty() || url.password().is_some() {
        let _ = url.set_username("");
        let _ = url.set_password(None);
    }
    if let Some(host) = url
        .host_str()
        .filter(|host| host.ends_with('.'))
        // All of them: what is left has one form. Not when it would become an address: `2130706433..` is a name,
        // `2130706433` is 127.0.0.1.
        .map(|host| host.trim_end_matches('.').to_owned())
        .filter(|host| matches!(Host::parse(host), Ok(Host::Domain(name)) if name == *host))
    {
        let _ = url.set_host(Some(&host));
    }
    if url.path().contains('%') {
        let path = plain_escapes(url.path());
        url.set_path(&path);
    }
    if url.path().contains(';') {
        let path = without_session(url.path());
        url.set_path(&path);
    }
    if let Some(query) = url.query() {
        let mut kept: Vec<String> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(plain_escapes)
            .filter(|pair| {
                let name = pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
                !name.starts_with("utm_") && !TRACKING.contains(&name.as_str())
            })
            .collect();
        if sort {
            kept.sort();
        }
        if kept.is_empty() {
            url.set_query(None)
        } else {
            let kept = kept.join("&");
            if url.query() != Some(kept.as_str()) {
                url.set_query(Some(&kept));
            }
        }
    }
    url
}

/// Without the session that servers write behind a path segment: `/list;jsessionid=0A1B`.
fn without_session(path: &str) -> String {
    let plain = |segment: &str| {
        let mut parts = segment.split(';');
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let name = part.split('=').next().unwrap_or_default();
            if !["jsessionid", "phpsessid", "sid"]
                .iter()
                .any(|session| name.eq_ignore_ascii_case(session))
            {
                out.push(';');
                out.push_str(part);
            }
        }
        out
    };
    path.split('/').map(plain).collect::<Vec<_>>().join("/")
}

/// Escapes of unreserved characters (RFC 3986, 2.3) undone, the others in upper case.
pub(super) fn plain_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // A `%` that begins no escape, in `out`: what is undone behind it must not make it one (`%%39d` is not `%9d`).
    let mut stray: Option<usize> = None;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let code = escape
            .get(1..3)
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                let opens = stray
                    .and_then(|at| out.get(at + 1..))
                    .is_some_and(|behind| behind.len() < 2 && behind.bytes().all(|b| b.is_ascii_hexdigit()));
                let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
                if unreserved && !(opens && byte.is_ascii_hexdigit()) {
                    out.push(char::from(byte));
                } else {
                    out.push_str(&format!("%{byte:02X}"));
                }
                rest = escape.get(3..).unwrap_or_default();
            }
            None => {
                stray = Some(out.len());
                out.push('%');
                rest = escape.get(1..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

/// A short name of a canonical URL: 64 bits are enough for the million URLs a crawl may have at most.
pub(super) fn digest(canonical: &Url) -> u64 {
    let hash = Sha256::digest(canonical.as_str().as_bytes());
    hash.iter()
        .take(8)
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Why a URL is not fetched although it was found; `None` for a sensible one.
pub(super) fn trap(url: &Url) -> Option<&'static str> {
    if url.as_str().len() > 2048 {
        return Some("the URL is longer than 2,048 characters");
    }
    let segments: Vec<&str> = url
        .path_segments()
        .map(|s| s.filter(|s| !s.is_empty()).collect())
        .unwrap_or_default();
    if segments.len() > 20 {
        return Some("the URL has more than 20 path segments");
    }
    let repeats = |segment: &&str| segments.iter().filter(|other| *other == segment).count() > 2;
    if segments.iter().any(repeats) {
        return Some("the URL repeats a path segment more than twice");
    }
    None
}

/// The path for which variants of the query are counted.
pub(super) fn variants_key(url: &Url) -> u64 {
    let mut url = url.clone();
    url.set_query(None);
    digest(&url)
}

/// Scheme, host and port: what a robots.txt and a delay are for.
pub(super) fn authority(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_that_begins_no_escape_never_becomes_one() {
        for (text, wanted) in [
            ("%%39d", "%%39d"),
            ("%%39z", "%%39z"),
            ("%2%35%39", "%2%359"),
            ("%zz%41", "%zzA"),
            ("%%7Ea", "%~a"),
            ("%", "%"),
            ("%4", "%4"),
        ] {
            assert_eq!(plain_escapes(text), wanted, "{text}");
            assert_eq!(plain_escapes(wanted), wanted, "{text}");
        }
    }

    #[test]
    fn a_name_never_becomes_an_address() {
        let of = |text: &str| canonical(&text.parse().unwrap(), false).to_string();
        assert_eq!(of("http://site.example../"), "http://site.example/");
        assert_eq!(of("http://2130706433../"), "http://2130706433../");
        assert_eq!(of("http://127.0.0.1./"), "http://127.0.0.1/");
    }

    /// Each line is one page, written in several ways; no two lines are the same page.
    const PAGES: &[&[&str]] = &[
        // Scheme, host, port.
        &[
            "http://site.example/",
            "http://site.example",
            "HTTP://site.example/",
            "http://SITE.Example/",
            "http://site.example:80/",
            "http://site.example:/",
            "http://site.example./",
            "http://site.example.:80",
            "http://user:pw@site.example/",
            "http://user@site.example",
            "http:\\\\site.example\\",
            "http:site.example/",
            " http://site.example/ ",
            "ht\ntp://site.ex\tample/",
            // Fragments.
            "http://site.example/#top",
            "http://site.example/#",
            // Dot segments.
            "http://site.example/.",
            "http://site.example/./",
            "http://site.example/a/..",
            "http://site.example/a/../",
            "http://site.example/../",
            "http://site.example/%2e/",
            "http://site.example/a/%2E%2e/",
            // Tracking.
            "http://site.example/?",
            "http://site.example/?&",
            "http://site.example/?utm_source=x",
            "http://site.example/?UTM_Source=x&utm_medium=y",
            "http://site.example/?utm%5Fsource=x",
            "http://site.example/?gclid=1&sid=2",
            "http://site.example/?fbclid=1#x",
            "http://site.example/?PHPSESSID=1",
        ],
        &[
            "https://site.example/",
            "https://site.example:443/",
            "HTTPS://site.example",
        ],
        &["http://site.example:443/"],
        &["https://site.example:80/"],
        &["http://site.example:8080/", "http://site.example.:8080"],
        &["http://www.site.example/"],
        &[
            "http://bücher.example/",
            "http://xn--bcher-kva.example/",
            "http://B%C3%BCcher.example/",
            "http://BÜCHER.example",
        ],
        &[
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://0177.0.0.1/",
        ],
        &["http://[::1]/", "http://[0:0:0:0:0:0:0:1]/", "http://[::0001]:80"],
        // Paths.
        &[
            "http://site.example/~ana",
            "http://site.example/%7Eana",
            "http://site.example/%7eana",
            "http://site.example/b/../%7Eana",
            "http://site.example/./~ana#x",
            "http://site.example/~%61na",
        ],
        &["http://site.example/~ana/"],
        &["http://site.example/~Ana"],
        &[
            "http://site.example/a/b",
            "http://site.example/a/./b",
            "http://site.example/a/c/../b",
            "http://site.example\\a\\b",
        ],
        &["http://site.example/a%2Fb", "http://site.example/a%2fb"],
        &["http://site.example/a//b"],
        &["http://site.example/a%25", "http://site.example/a%25#"],
        &[
            "http://site.example/%E3%83%84",
            "http://site.example/ツ",
            "http://site.example/%e3%83%84",
        ],
        &["http://site.example/a%20b", "http://site.example/a b"],
        &["http://site.example/a+b"],
        &["http://site.example/index.html"],
        &[
            "http://site.example/list;jsessionid=0A1B",
            "http://site.example/list;JSESSIONID=0A1B?sid=1",
            "http://site.example/list",
        ],
        &[
            "http://site.example/list;v=1",
            "http://site.example/list;v=1;sid=7",
        ],
        // Queries.
        &[
            "http://site.example/l?page=2",
            "http://site.example/l?page=2&utm_medium=m#x",
            "http://site.example/l?&page=2",
            "http://site.example/l?page=2&",
            "http://site.example/l?p%61ge=2",
            "http://site.example/l?utm_term=&page=2&gclid",
        ],
        &["http://site.example/l?page=3"],
        &["http://site.example/l?page"],
        &["http://site.example/l?page="],
        &["http://site.example/L?page=2"],
        &["http://site.example/l/?page=2"],
        &[
            "http://site.example/l?q=%C3%BC",
            "http://site.example/l?q=ü",
            "http://site.example/l?q=%c3%bc",
        ],
        &["http://site.example/l?q=a%26b"],
        &["http://site.example/l?q=a&b"],
        &["http://site.example/l?q=a%20b", "http://site.example/l?q=a b"],
        &["http://site.example/l?q=a+b"],
        &["http://site.example/l?sidebar=1"],
    ];

    /// CRW-10.
    #[test]
    fn one_form_for_one_page() {
        assert!(PAGES.iter().map(|ways| ways.len()).sum::<usize>() >= 60);
        let mut seen: Vec<(u64, &str)> = Vec::new();
        for ways in PAGES {
            let first = canonical(&Url::parse(ways[0]).unwrap(), false);
            for way in *ways {
                let once = canonical(&Url::parse(way).unwrap(), false);
                assert_eq!(once, first, "{way}");
                assert_eq!(canonical(&once, false), once, "again: {way}");
            }
            let name = digest(&first);
            assert!(seen.iter().all(|(other, _)| *other != name), "{first} {seen:?}");
            seen.push((name, ways[0]));
        }
    }

    #[test]
    fn parameters_in_order_only_when_asked() {
        let (one, other) = ("http://s.example/l?b=2&a=1&utm_x=3", "http://s.example/l?a=1&b=2");
        let form = |text: &str, sort| canonical(&Url::parse(text).unwrap(), sort);
        assert_eq!(form(one, true), form(other, true));
        assert_ne!(form(one, false), form(other, false));
    }

    /// CRW-9, bad input 20.
    #[test]
    fn traps() {
        let trapped = |text: &str| trap(&Url::parse(text).unwrap()).is_some();
        assert!(trapped("http://s.example/a/b/a/b/a/b"));
        assert!(trapped(&format!(
            "http://s.example/{}",
            (0..21).map(|i| i.to_string()).collect::<Vec<_>>().join("/")
        )));
        assert!(trapped(&format!("http://s.example/?q={}", "x".repeat(2100))));
        assert!(!trapped("http://s.example/a/b/a/b?page=9"));
    }

    proptest::proptest! {
        #[test]
        fn the_canonical_form_of_a_canonical_form_is_itself(rest in "[ -~\\t\u{e4}\u{4e00}]{0,60}") {
            if let Ok(url) = Url::parse(&format!("http://site.example/{rest}")) {
                let once = canonical(&url, false);
                proptest::prop_assert_eq!(canonical(&once, false), once.clone());
                let once = canonical(&url, true);
                proptest::prop_assert_eq!(canonical(&once, true), once.clone());
                proptest::prop_assert_eq!(Url::parse(once.as_str()).unwrap(), once);
            }
        }
    }
}
