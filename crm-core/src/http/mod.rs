//! The one HTTP client of the workspace (feature `http`): guarded, bounded, and silent about what it carries.
//!
//! - **Guarded.** Only public addresses at ports 80 and 443 are dialled, unless an [`AllowEntry`] says otherwise. The
//!   decision is taken on the address that is dialled, for literal and resolved hosts and for every redirect alike.
//!   Proxies of the environment are ignored, because a proxy would look names up itself.
//! - **Bounded.** Time-outs for connecting and for the whole call; the body is cut at a limit counted after
//!   decompression; redirects are followed here, hop by hop.
//! - **Silent.** URLs in errors have no query, no fragment and no credentials.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use crm_core::ErrorKind;
//! use crm_core::http::{HttpClient, HttpConfig};
//!
//! let client = HttpClient::new(HttpConfig::default()).unwrap();
//! // The address of a cloud's metadata service: nothing is sent.
//! let url = "http://169.254.169.254/latest/meta-data?token=x".parse().unwrap();
//! let error = client.get(&url, &Default::default()).await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::PermissionDenied);
//! assert!(!error.to_string().contains("token"));
//! # });
//! ```

mod client;
mod dns;
mod error;
mod guard;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use url::Url;

pub use client::HttpClient;
pub use dns::{Resolver, SystemResolver};
pub use guard::AllowEntry;

use crate::{Error, Result};

/// How the client behaves. Times are in seconds when written down.
///
/// ```
/// use crm_core::http::HttpConfig;
///
/// let mut config = HttpConfig::default();
/// config.allow.push("127.0.0.1/32:8080".parse().unwrap());
/// assert_eq!(config.max_body, 10 * 1024 * 1024);
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Who asks: a product token, a version and where to complain, `shop-bot/1.0 (+https://shop.example/bot)`.
    pub user_agent: String,
    /// The most time to connect, TLS included. 10 s.
    #[serde(with = "seconds")]
    pub connect_timeout: Duration,
    /// The most time for the whole call, redirects and body included, however slowly it goes on. 30 s.
    #[serde(with = "seconds")]
    pub total_timeout: Duration,
    /// The most bytes of a body after decompression; what is beyond is not read. 10 MiB.
    pub max_body: usize,
    /// The most redirects that are followed; 0 hands a redirect to the caller. 10.
    pub max_redirects: usize,
    /// Exceptions from the guard.
    pub allow: Vec<AllowEntry>,
    /// A file of certificates (PEM) that are trusted instead of the public ones: for sites behind an authority of your
    /// own. There is no setting that trusts everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            user_agent: concat!("open-crm/", env!("CARGO_PKG_VERSION")).into(),
            connect_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(30),
            max_body: 10 * 1024 * 1024,
            max_redirects: 10,
            allow: Vec::new(),
            ca_file: None,
        }
    }
}

impl HttpConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if self.user_agent.trim().is_empty() || ::http::HeaderValue::from_str(&self.user_agent).is_err() {
            return wrong("user_agent", "a user agent is a non-empty line of visible ASCII");
        }
        if self.connect_timeout.is_zero() {
            return wrong("connect_timeout", "a time-out is more than 0 s");
        }
        if self.total_timeout.is_zero() {
            return wrong("total_timeout", "a time-out is more than 0 s");
        }
        if self.max_body == 0 {
            return wrong("max_body", "a body may have at least 1 byte");
        }
        if self.max_redirects > 20 {
            return wrong("max_redirects", "at most 20 redirects are followed");
        }
        if self.allow.iter().map(|entry| entry.ports().len()).sum::<usize>() > 256 {
            return wrong("allow", "the allow entries have at most 256 ports in all");
        }
        Ok(())
    }
}

/// What came back. Any status is an answer: the caller decides what it means.
#[derive(Clone)]
pub struct Response {
    /// The status.
    pub status: ::http::StatusCode,
    /// The URL that answered, after redirects.
    pub final_url: Url,
    /// The headers; `Content-Encoding` and `Content-Length` are gone when the body was decompressed.
    pub headers: ::http::HeaderMap,
    /// The body, decompressed.
    pub body: Bytes,
    /// The body was longer than [`HttpConfig::max_body`] and is cut there.
    pub truncated: bool,
    /// From the first byte sent to the last byte read, redirects included.
    pub elapsed: Duration,
}

impl Response {
    /// A header as text, when it is there and is visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Shows no body, no query and no header's value.
impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("final_url", &error::shown(&self.final_url))
            .field("body_bytes", &self.body.len())
            .field("truncated", &self.truncated)
            .field("elapsed", &self.elapsed)
            .finish_non_exhaustive()
    }
}

/// A URL as it may stand in errors, logs and provenance: without user, password, query and fragment.
///
/// ```
/// let url = "https://u:p@shop.example/list?sid=1#a".parse().unwrap();
/// assert_eq!(crm_core::http::redacted(&url), "https://shop.example/list");
/// ```
pub fn redacted(url: &Url) -> String {
    error::shown(url)
}

/// Durations as a number of seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds)
            .map_err(|_| D::Error::custom("a time is a number of seconds, 0 or more"))
    }
}
