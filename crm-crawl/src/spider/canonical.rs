//! One form for all ways to write a URL, and what looks like a trap.

use sha2::{Digest, Sha256};
use url::Url;

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
/// already plain after [`Url::parse`]. The order of parameters stays: some sites mind it.
pub(super) fn canonical(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if let Some(host) = url
        .host_str()
        .and_then(|host| host.strip_suffix('.'))
        .map(str::to_owned)
    {
        let _ = url.set_host(Some(&host));
    }
    let path = plain_escapes(url.path());
    url.set_path(&path);
    if let Some(query) = url.query() {
        let kept: Vec<String> = query
            .split('&')
            .filter(|pair| {
                let name = pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
                !pair.is_empty() && !name.starts_with("utm_") && !TRACKING.contains(&name.as_str())
            })
            .map(plain_escapes)
            .collect();
        if kept.is_empty() {
            url.set_query(None)
        } else {
            url.set_query(Some(&kept.join("&")))
        }
    }
    url
}

/// Escapes of unreserved characters (RFC 3986, 2.3) undone, the others in upper case.
pub(super) fn plain_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let code = escape
            .get(1..3)
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    out.push(char::from(byte));
                } else {
                    out.push_str(&format!("%{byte:02X}"));
                }
                rest = escape.get(3..).unwrap_or_default();
            }
            None => {
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
    fn one_form_for_one_page() {
        let groups: &[&[&str]] = &[
            &[
                "http://site.example/",
                "http://site.example",
                "HTTP://SITE.example:80/",
                "http://site.example/#top",
                "http://site.example./",
                "http://user:pw@site.example/",
                "http://site.example/?utm_source=x",
                "http://site.example/?",
                "http://site.example/a/..",
                "http://site.example/./",
                "http://site.example/?gclid=1&sid=2",
            ],
            &[
                "http://site.example/~ana",
                "http://site.example/%7Eana",
                "http://site.example/%7eana",
                "http://site.example/b/../%7Eana",
            ],
            &["http://site.example/a%2Fb", "http://site.example/a%2fb"],
            &[
                "http://site.example/l?page=2",
                "http://site.example/l?page=2&utm_medium=m#x",
                "http://site.example/l?&page=2",
                "http://site.example/l?p%61ge=2",
            ],
            &["https://site.example/", "https://site.example:443/"],
            &["http://bücher.example/", "http://xn--bcher-kva.example/"],
        ];
        let mut seen = Vec::new();
        for group in groups {
            let first = canonical(&Url::parse(group[0]).unwrap());
            for text in *group {
                let once = canonical(&Url::parse(text).unwrap());
                assert_eq!(once, first, "{text}");
                assert_eq!(canonical(&once), once, "again: {text}");
            }
            assert!(!seen.contains(&digest(&first)), "{first}");
            seen.push(digest(&first));
        }
        let different = [
            "http://site.example/l?a=1&b=2",
            "http://site.example/l?b=2&a=1",
            "http://site.example/L?a=1&b=2",
            "http://site.example/l/?a=1&b=2",
            "http://site.example:8080/l?a=1&b=2",
            "http://site.example/a/b",
            "http://site.example/a%25",
        ];
        for text in different {
            let digest = digest(&canonical(&Url::parse(text).unwrap()));
            assert!(!seen.contains(&digest), "{text}");
            seen.push(digest);
        }
    }

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
                let once = canonical(&url);
                proptest::prop_assert_eq!(canonical(&once), once.clone());
                proptest::prop_assert_eq!(Url::parse(once.as_str()).unwrap(), once);
            }
        }
    }
}
