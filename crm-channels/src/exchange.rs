//! What all vendors over HTTP have in common: one question, one answer, and what either means where the vendor itself
//! says nothing.

// Each vendor needs some of it.
#![cfg_attr(
    not(all(feature = "twilio", feature = "aliyun", feature = "http-provider")),
    allow(dead_code, unused_imports, unused_macros)
)]

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::DateTime;
use crm_core::http::{HttpClient, Response};
use crm_core::message::Blame;
use crm_core::{Error, ErrorKind, Result, Retry, Timestamp};
use http::{HeaderValue, Method, Request, header};
use serde::de::DeserializeOwned;
use url::Url;

/// The longest wait a vendor may ask for that is believed; a header can say anything.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Headers that no log shows.
const SECRET: [&str; 2] = ["authorization", "x-acs-security-token"];

/// A question to a vendor.
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a Url,
    pub(crate) headers: Vec<(&'a str, String)>,
    pub(crate) body: String,
}

/// Asks. A status is no error here.
pub(crate) async fn ask(client: &HttpClient, question: Question<'_>) -> Result<Answer> {
    put(client, request(question)?).await
}

/// Puts a question that is ready to go.
pub(crate) async fn put(client: &HttpClient, request: Request<Bytes>) -> Result<Answer> {
    let safe = request.method().is_safe();
    client
        .send(request)
        .await
        .map(|response| Answer { response, safe })
}

/// A question as it goes to the client.
pub(crate) fn request(question: Question<'_>) -> Result<Request<Bytes>> {
    let mut request = Request::builder()
        .method(question.method)
        .uri(question.url.as_str());
    for (name, value) in &question.headers {
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            Error::invalid("a header's value has characters that no header may have").with("header", name)
        })?;
        value.set_sensitive(SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret)));
        request = request.header(*name, value);
    }
    request
        .body(Bytes::from(question.body))
        .map_err(|e| Error::invalid("the request cannot be built").source(e))
}

/// What the vendor answered.
pub(crate) struct Answer {
    response: Response,
    safe: bool,
}

impl Answer {
    /// The answer to a question that changes something all the same: some vendors send with a `GET`.
    pub(crate) fn changing(mut self) -> Self {
        self.safe = false;
        self
    }

    pub(crate) fn status(&self) -> u16 {
        self.response.status.as_u16()
    }

    pub(crate) fn is_success(&self) -> bool {
        self.response.status.is_success()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.response.body
    }

    /// The body as JSON of this shape; `None` when it is something else.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.response.body).ok()
    }

    /// How long the vendor asks to wait (RFC 9110, 10.2.3).
    pub(crate) fn retry_after(&self, now: Timestamp) -> Option<Duration> {
        let text = self.response.headers.get(header::RETRY_AFTER)?.to_str().ok()?;
        retry_after(text, now)
    }

    /// What the status says by itself, for answers without the vendor's own words.
    pub(crate) fn by_status(&self, now: Timestamp) -> Error {
        by_status(self.status(), self.safe, self.retry_after(now))
    }
}

fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let wait = match text.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => date(text)?.since(now),
    };
    Some(wait.min(LONGEST_WAIT))
}

/// A date as mails and HTTP headers have it: `Thu, 30 Jul 2026 20:12:31 +0000`.
pub(crate) fn date(text: &str) -> Option<Timestamp> {
    DateTime::parse_from_rfc2822(text.trim())
        .ok()
        .map(|time| Timestamp::from_micros(time.timestamp_micros()))
}

/// `safe` is whether the request changes nothing at the vendor's. Where it does, a failing server may have done it
/// nevertheless; 503 is said before the work (RFC 9110, 15.6.4).
pub(crate) fn by_status(status: u16, safe: bool, wait: Option<Duration>) -> Error {
    let (kind, message, blame, unknown) = match status {
        200..=299 => (
            ErrorKind::Unexpected,
            "the vendor took it, but its answer cannot be read",
            Blame::Nobody,
            true,
        ),
        300..=399 => (
            ErrorKind::Config,
            "the vendor sends us elsewhere; check the address in the settings",
            Blame::Sender,
            false,
        ),
        401 => (
            ErrorKind::Unauthenticated,
            "the vendor refuses our credentials",
            Blame::Sender,
            false,
        ),
        402 | 403 => (
            ErrorKind::PermissionDenied,
            "the vendor does not allow it to this account",
            Blame::Sender,
            false,
        ),
        404 | 405 | 410 => (
            ErrorKind::Config,
            "there is nothing at this address of the vendor's; check account, region and address in the settings",
            Blame::Sender,
            false,
        ),
        408 => (
            ErrorKind::Timeout,
            "the vendor waited too long for the request",
            Blame::Nobody,
            false,
        ),
        429 => (
            ErrorKind::RateLimited,
            "the vendor asks to slow down",
            Blame::Nobody,
            false,
        ),
        503 => (
            ErrorKind::Unavailable,
            "the vendor cannot serve now",
            Blame::Nobody,
            false,
        ),
        500..=599 => (
            ErrorKind::Unavailable,
            "the vendor's server failed",
            Blame::Nobody,
            true,
        ),
        _ => (
            ErrorKind::Invalid,
            "the vendor refuses the request",
            Blame::Nobody,
            false,
        ),
    };
    let error = Error::new(kind, message).with("status", status).blame(blame);
    let error = if error.is_retryable() {
        error.with_retry(Retry::Allowed { after: wait })
    } else {
        error
    };
    if unknown && !safe {
        error.effect_unknown()
    } else {
        error
    }
}

/// An error of a vendor's own code: kind, words and blame from its table.
pub(crate) fn by_code(
    kind: ErrorKind,
    message: &'static str,
    blame: Blame,
    code: &str,
    wait: Option<Duration>,
) -> Error {
    let mut error = Error::new(kind, message).with("code", code).blame(blame);
    if blame == Blame::Recipient {
        error = error.with("suppress", "recipient");
    }
    if error.is_retryable() {
        error = error.with_retry(Retry::Allowed { after: wait });
    }
    error
}

/// A vendor's code as it may stand in errors: short, and of harmless characters.
pub(crate) fn shown(code: &str) -> String {
    code.chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._-:".contains(*c))
        .take(64)
        .collect()
}

/// `Basic` credentials (RFC 7617).
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Percent-encodes all but the unreserved characters (RFC 3986, 2.3).
pub(crate) fn percent(text: &str) -> String {
    encoded(text, "%20")
}

/// As [`percent`], with `+` for a blank, as forms have it.
pub(crate) fn plus(text: &str) -> String {
    encoded(text, "+")
}

fn encoded(text: &str, blank: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len() + text.len() / 2);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            b' ' => out.push_str(blank),
            _ => {
                out.push('%');
                for half in [byte >> 4, byte & 15] {
                    out.push(DIGITS.get(usize::from(half)).copied().unwrap_or(b'0') as char);
                }
            }
        }
    }
    out
}

/// A form (`application/x-www-form-urlencoded`) in the order given; names may repeat.
pub(crate) fn form<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in fields {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(&plus(name));
        out.push('=');
        out.push_str(&plus(value));
    }
    out
}

/// Text as XML 1.0 takes it, in content and in attributes alike.
///
/// # Errors
/// [`ErrorKind::Invalid`] naming `field` for characters that no document holds.
pub(crate) fn xml(text: &str, field: &'static str) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => {
                out.push(c)
            }
            _ => return Err(Error::invalid("a character that XML cannot hold").with("field", field)),
        }
    }
    Ok(out)
}

/// What all providers over HTTP have in common: a type around a `Line`, and how that asks whether the vendor is there.
macro_rules! provider_over_http {
    ($provider:ident) => {
        impl $provider {
            /// Takes the time of receipts from `clock`, and that of signatures where requests are signed.
            #[must_use]
            pub fn with_clock(mut self, clock: std::sync::Arc<dyn crm_core::Clock>) -> Self {
                self.0.clock = clock;
                self
            }

            /// Goes through this client instead of one of its own, so that several providers share connections.
            #[must_use]
            pub fn with_client(mut self, client: crm_core::http::HttpClient) -> Self {
                self.0.client = client;
                self
            }
        }

        impl std::fmt::Debug for $provider {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($provider))
                    .field("name", &self.0.info.name)
                    .field("config", &self.0.config)
                    .finish_non_exhaustive()
            }
        }

        #[async_trait::async_trait]
        impl crm_core::Provider for $provider {
            fn info(&self) -> &crm_core::ProviderInfo {
                &self.0.info
            }

            async fn check(&self) -> crm_core::Result<crm_core::Health> {
                self.0.check().await
            }
        }
    };
}
pub(crate) use provider_over_http;

/// The address of a vendor that a setting names: https, or http to this very machine, for tests.
pub(crate) fn endpoint(setting: &'static str, url: &Url) -> Result<()> {
    let here = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        _ => false,
    };
    let wrong = |message: &'static str| Err(Error::config(message).with("setting", setting));
    match url.scheme() {
        "https" => {}
        "http" if here => {}
        _ => {
            return wrong(
                "messages and credentials go over https only (http is for 127.0.0.1 and [::1], in tests)",
            );
        }
    }
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("credentials stand in settings of their own, not in this address");
    }
    if url.fragment().is_some() {
        return wrong("an address of a vendor has no fragment");
    }
    Ok(())
}

/// A time of day in China (UTC+8 all year) as Aliyun writes it: `2026-01-02 03:04:05`.
pub(crate) fn china(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if text.len() != 19 {
        return None;
    }
    format!("{}+08:00", text.replacen(' ', "T", 1)).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::Effect;

    #[test]
    fn encoding_is_that_of_the_rfc() {
        assert_eq!(
            percent("~*'()! +&=%/é张"),
            "~%2A%27%28%29%21%20%2B%26%3D%25%2F%C3%A9%E5%BC%A0"
        );
        assert_eq!(form([("A", "a b"), ("A", ""), ("é", "+")]), "A=a+b&A=&%C3%A9=%2B");
    }

    #[test]
    fn waits_are_read_and_bounded() {
        let now: Timestamp = "2026-07-30T20:12:31Z".parse().unwrap();
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Thu, 30 Jul 2026 20:13:31 GMT", Some(60)),
            ("Thu, 30 Jul 2026 20:00:00 GMT", Some(0)),
            ("99999999999", Some(24 * 3600)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn every_status_has_a_meaning() {
        let wait = Some(Duration::from_secs(7));
        for (status, kind, retried, unknown) in [
            (200, ErrorKind::Unexpected, false, true),
            (302, ErrorKind::Config, false, false),
            (400, ErrorKind::Invalid, false, false),
            (401, ErrorKind::Unauthenticated, false, false),
            (403, ErrorKind::PermissionDenied, false, false),
            (404, ErrorKind::Config, false, false),
            (408, ErrorKind::Timeout, true, false),
            (422, ErrorKind::Invalid, false, false),
            (429, ErrorKind::RateLimited, true, false),
            (500, ErrorKind::Unavailable, false, true),
            (502, ErrorKind::Unavailable, false, true),
            (503, ErrorKind::Unavailable, true, false),
            (504, ErrorKind::Unavailable, false, true),
        ] {
            let error = by_status(status, false, wait);
            assert_eq!(
                (
                    error.kind(),
                    error.is_retryable(),
                    error.effect() == Effect::Unknown
                ),
                (kind, retried, unknown),
                "{status}"
            );
            if retried {
                assert_eq!(error.retry(), Retry::Allowed { after: wait }, "{status}");
            }
            assert_eq!(by_status(status, true, wait).effect(), Effect::None, "{status}");
        }
    }

    #[test]
    fn text_in_xml() {
        assert_eq!(
            xml("<b> & \"x\" 'y'\n张", "text").unwrap(),
            "&lt;b&gt; &amp; &quot;x&quot; &apos;y&apos;\n张"
        );
        for bad in ["\u{7}", "\u{1b}", "\u{ffff}"] {
            assert_eq!(xml(bad, "text").unwrap_err().context("field"), Some("text"));
        }
    }

    #[test]
    fn times_of_china() {
        assert_eq!(
            china("2026-01-02 08:00:00").unwrap().to_string(),
            "2026-01-02T00:00:00.000000Z"
        );
        for bad in ["", "2026-01-02", "2026-13-02 08:00:00", "2026-01-02 08:00:00Z"] {
            assert_eq!(china(bad), None, "{bad}");
        }
    }
}
