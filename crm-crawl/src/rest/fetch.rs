//! One page over the network: credentials, waits, repetitions.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use chrono::DateTime;
use crm_core::http::{HttpClient, Response, redacted};
use crm_core::{Clock, Error, ErrorKind, Result, Retry, Timestamp};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use url::Url;

use super::page::set;
use super::spec::{RestAuth, RestSpec};

/// Asks one interface.
pub(super) struct Asker {
    client: HttpClient,
    headers: HeaderMap,
    /// The parameter that holds the key.
    key: Option<(String, crm_core::Secret)>,
    delay: Duration,
    retries: u32,
    backoff: Duration,
    max_wait: Duration,
    clock: Arc<dyn Clock>,
    /// Before then nothing is asked.
    not_before: Mutex<Timestamp>,
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

impl Asker {
    pub(super) fn new(spec: &RestSpec, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let value = |text: &str, setting: &'static str| {
            HeaderValue::from_str(text)
                .map_err(|_| Error::config("not a header's value").with("setting", setting))
        };
        for (name, text) in &spec.headers {
            let name: HeaderName = name
                .parse()
                .map_err(|_| Error::config("not a header's name").with("setting", "headers"))?;
            headers.insert(name, value(text, "headers")?);
        }
        let mut key = None;
        let (name, mut secret) = match &spec.auth {
            None => (None, HeaderValue::from_static("")),
            Some(RestAuth::Bearer { token }) => (
                Some(header::AUTHORIZATION),
                value(&format!("Bearer {}", token.expose()), "auth.token")?,
            ),
            Some(RestAuth::Basic { user, password }) => {
                let pair = format!("{user}:{}", password.expose());
                let coded = base64::engine::general_purpose::STANDARD.encode(pair);
                (
                    Some(header::AUTHORIZATION),
                    value(&format!("Basic {coded}"), "auth")?,
                )
            }
            Some(RestAuth::Header { name, value: text }) => (
                Some(
                    name.parse()
                        .map_err(|_| Error::config("not a header's name").with("setting", "auth.name"))?,
                ),
                value(text.expose(), "auth.value")?,
            ),
            Some(RestAuth::Query { name, value }) => {
                key = Some((name.clone(), value.clone()));
                (None, HeaderValue::from_static(""))
            }
        };
        if let Some(name) = name {
            secret.set_sensitive(true);
            headers.insert(name, secret);
        }
        Ok(Self {
            client: HttpClient::new(spec.http.clone())?,
            headers,
            key,
            delay: seconds(spec.delay),
            retries: spec.retries,
            backoff: seconds(spec.backoff),
            max_wait: seconds(spec.max_wait),
            clock,
            not_before: Mutex::new(Timestamp::EPOCH),
        })
    }

    /// The name of the parameter that holds the key, which must not be kept.
    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_ref().map(|(name, _)| name.as_str())
    }

    /// An answer of 200, or of 304 when `etag` was handed over.
    pub(super) async fn get(&self, url: &Url, etag: Option<&str>) -> Result<Response> {
        let mut url = url.clone();
        if let Some((name, value)) = &self.key {
            set(&mut url, name, value.expose());
        }
        let mut headers = self.headers.clone();
        if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            headers.insert(header::IF_NONE_MATCH, etag);
        }
        let mut attempt = 0;
        loop {
            self.turn().await;
            let error = match self.client.get(&url, &headers).await {
                Ok(answer) => match refusal(&answer, self.clock.now(), etag.is_some()) {
                    None => return Ok(answer),
                    Some(error) => error,
                },
                Err(error) => error,
            };
            let error = error.operation("rest.get").with("page", redacted(&url));
            let Retry::Allowed { after } = error.retry() else {
                return Err(error);
            };
            if let Some(after) = after
                && after > self.max_wait
            {
                return Err(error
                    .with("setting", "max_wait")
                    .with("asked_for", format!("{after:?}")));
            }
            if attempt == self.retries {
                return Err(error.with_retry(Retry::Exhausted).with("attempts", attempt + 1));
            }
            let doubled = self.backoff.saturating_mul(1 << attempt.min(16));
            let wait = after.unwrap_or(doubled).max(self.backoff).min(self.max_wait);
            tracing::debug!(attempt, ?wait, kind = %error.kind(), "asking the interface again");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// Waits until the next request may be made, and takes its place.
    async fn turn(&self) {
        let now = self.clock.now();
        let wait = {
            let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
            // Never further ahead than one delay, also when the clock was set back.
            let at = (*not_before).max(now).min(now.plus(self.delay));
            *not_before = at.plus(self.delay);
            at.since(now)
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Why an answer cannot be used; `None` when it can.
fn refusal(answer: &Response, now: Timestamp, conditional: bool) -> Option<Error> {
    let status = answer.status;
    let after = asked_wait(answer, now);
    let error = match status {
        StatusCode::OK if answer.truncated => Error::invalid(
            "the page is longer than `http.max_body`; ask for fewer items a page, or allow more",
        )
        .with("setting", "http.max_body"),
        StatusCode::OK => return None,
        StatusCode::NOT_MODIFIED if conditional => return None,
        StatusCode::NO_CONTENT => Error::invalid("the interface answered without a body"),
        StatusCode::TOO_MANY_REQUESTS => Error::new(
            ErrorKind::RateLimited,
            "the interface asks for fewer requests; set `delay`",
        )
        .with_retry(Retry::Allowed { after }),
        // Some say it so.
        StatusCode::FORBIDDEN if answer.header("x-ratelimit-remaining") == Some("0") => Error::new(
            ErrorKind::RateLimited,
            "the interface's limit of requests is used up",
        )
        .with_retry(Retry::Allowed { after }),
        StatusCode::UNAUTHORIZED => Error::new(
            ErrorKind::Unauthenticated,
            "the interface does not accept the credentials; look at `auth`",
        ),
        StatusCode::FORBIDDEN => Error::new(
            ErrorKind::PermissionDenied,
            "the interface does not allow this; look at what the credentials may read",
        ),
        StatusCode::NOT_FOUND | StatusCode::GONE => Error::new(
            ErrorKind::NotFound,
            "the interface has nothing there; look at `url`",
        ),
        StatusCode::REQUEST_TIMEOUT => Error::new(ErrorKind::Timeout, "the interface timed out"),
        status if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
            Error::new(ErrorKind::Unavailable, "the interface failed").with_retry(Retry::Allowed { after })
        }
        _ => Error::invalid("the interface refused the request"),
    };
    Some(error.with("status", status.as_u16()))
}

/// How long to wait: `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), else when the limit is renewed.
fn asked_wait(answer: &Response, now: Timestamp) -> Option<Duration> {
    let until = |micros: i64| Timestamp::from_micros(micros).since(now);
    if let Some(text) = answer.header("retry-after") {
        let text = text.trim();
        return match text.parse::<u64>() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => DateTime::parse_from_rfc2822(text)
                .ok()
                .map(|time| until(time.timestamp_micros())),
        };
    }
    if answer.header("x-ratelimit-remaining") != Some("0") {
        return None;
    }
    let reset: u64 = answer.header("x-ratelimit-reset")?.trim().parse().ok()?;
    Some(if reset > 1_000_000_000 {
        until(i64::try_from(reset).ok()?.checked_mul(1_000_000)?)
    } else {
        Duration::from_secs(reset)
    })
}
