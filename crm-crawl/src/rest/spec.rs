use std::collections::BTreeMap;

use crm_core::http::HttpConfig;
use crm_core::{Error, Result, Secret};
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use url::Url;

use super::Since;
use crate::assemble::Reading;
use crate::file::Mapping;

/// An interface that lists customers as JSON, page by page.
///
/// Can be read from JSON or any other format of serde, but not written: it may hold a secret.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestSpec {
    /// The collector's name, the source in the drafts' provenance, and the system of ids that are recognised.
    pub name: String,
    /// The first page, without credentials.
    pub url: Url,
    /// Parameters that are added to the first page's URL.
    #[serde(default)]
    pub query: BTreeMap<String, String>,
    /// Headers of every request that are no secrets.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Who asks.
    #[serde(default)]
    pub auth: Option<RestAuth>,
    /// How the next page is found. Only one page when not set.
    #[serde(default)]
    pub pages: Pagination,
    /// The path of the list in the answer (`data.customers`, as in [`Mapping`]); the answer itself when empty.
    #[serde(default)]
    pub items: String,
    /// Which path of an item says what; usual names are recognised when not set, as in JSON Lines.
    #[serde(default)]
    pub mapping: Option<Mapping>,
    /// How dates, amounts and phone numbers are read.
    #[serde(default)]
    pub reading: Reading,
    /// Asks only for what changed since the last run; needs a store.
    #[serde(default)]
    pub since: Option<Since>,
    /// Asks with the tag of the last run whether the first page changed at all (`If-None-Match`, RFC 9110, 13.1.2), and ends
    /// when it did not: for interfaces of one page, or whose newest entries come first. Needs a store.
    #[serde(default)]
    pub conditional: bool,
    /// The least time between two requests, in seconds. 0.
    #[serde(default)]
    pub delay: f64,
    /// How often a request is made again after a failure that may pass: no connection, 408, 429, 5xx. 5.
    #[serde(default = "five")]
    pub retries: u32,
    /// The wait before the first repetition in seconds; it doubles with each. 0.5.
    #[serde(default = "half")]
    pub backoff: f64,
    /// The longest wait that the interface may ask for (`Retry-After`) in seconds; a longer one ends the run, to go on
    /// later. 120.
    #[serde(default = "two_minutes")]
    pub max_wait: f64,
    /// The most pages of a run; more is an error, because it would be a list without an end. 100,000.
    #[serde(default = "many")]
    pub max_pages: u64,
    /// The most items of a run; the rest is left.
    #[serde(default)]
    pub max_items: Option<u64>,
    /// The HTTP client: time-outs, the most bytes of a page, exceptions from the address guard.
    #[serde(default)]
    pub http: HttpConfig,
}

fn five() -> u32 {
    5
}

fn half() -> f64 {
    0.5
}

fn two_minutes() -> f64 {
    120.0
}

fn many() -> u64 {
    100_000
}

fn one() -> u64 {
    1
}

/// How a request says who asks. `Debug` shows no secret.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum RestAuth {
    /// `Authorization: Bearer ...` (RFC 6750).
    Bearer {
        /// The token.
        token: Secret,
    },
    /// `Authorization: Basic ...` (RFC 7617).
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A header of its own.
    Header {
        /// Its name.
        name: String,
        /// The key.
        value: Secret,
    },
    /// A parameter of the URL. It is kept out of errors, provenance and checkpoints.
    Query {
        /// Its name.
        name: String,
        /// The key.
        value: Secret,
    },
}

/// How the next page is found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Pagination {
    /// There is one page.
    #[default]
    None,
    /// The answer holds a cursor that is handed back; without one it was the last page.
    Cursor {
        /// The parameter that takes it.
        param: String,
        /// Its path in the answer: `paging.next.after`.
        cursor: String,
        /// The path of a flag that says whether there is more, where the cursor does not.
        #[serde(default)]
        more: Option<String>,
    },
    /// The last item's id is where the next page begins, as Stripe does (`starting_after`).
    LastId {
        /// The parameter that takes it.
        param: String,
        /// Its path in an item.
        id: String,
        /// The path of a flag that says whether there is more; else an empty page is the end.
        #[serde(default)]
        more: Option<String>,
    },
    /// Pages are numbered; an empty one is the end.
    Page {
        /// The parameter that takes the number.
        param: String,
        /// The first page's number. 1.
        #[serde(default = "one")]
        first: u64,
        /// The path of the number of pages, if the answer says it.
        #[serde(default)]
        total: Option<String>,
    },
    /// The place of the first item is handed over, counted from 0; an empty page is the end. The next place is behind the
    /// items that came, however many were asked for.
    Offset {
        /// The parameter that takes the place.
        param: String,
        /// The path of the number of items in all, if the answer says it.
        #[serde(default)]
        total: Option<String>,
    },
    /// A `Link` header (RFC 8288) leads to it.
    Link {
        /// Its relation. `next`.
        #[serde(default = "next")]
        rel: String,
    },
    /// The answer holds its URL, whole or relative; without one it was the last page.
    NextUrl {
        /// The path of the URL: `links.next`.
        path: String,
    },
}

fn next() -> String {
    "next".to_owned()
}

impl RestSpec {
    /// The interface that a text of YAML or JSON describes.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`]: the text is neither, or has a setting that is none, with its place (never its value).
    pub fn parse(text: &str) -> Result<Self> {
        crate::written::read(text)
    }

    /// One page at `url`, its source named `name`, everything else found out.
    pub fn new(name: impl Into<String>, url: Url) -> Self {
        Self {
            name: name.into(),
            url,
            query: BTreeMap::new(),
            headers: BTreeMap::new(),
            auth: None,
            pages: Pagination::None,
            items: String::new(),
            mapping: None,
            reading: Reading::default(),
            since: None,
            conditional: false,
            delay: 0.0,
            retries: five(),
            backoff: half(),
            max_wait: two_minutes(),
            max_pages: many(),
            max_items: None,
            http: HttpConfig::default(),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if self.name.trim().is_empty() {
            return wrong("name", "a collector has a name");
        }
        if !matches!(self.url.scheme(), "http" | "https") || self.url.host().is_none() {
            return wrong("url", "an interface has an http or https URL");
        }
        if !self.url.username().is_empty() || self.url.password().is_some() {
            return wrong("url", "credentials do not belong into a URL; say them in `auth`");
        }
        for (name, value) in &self.headers {
            let sensitive = ["authorization", "cookie", "proxy-authorization"]
                .iter()
                .any(|secret| name.eq_ignore_ascii_case(secret));
            if sensitive {
                return wrong(
                    "headers",
                    "credentials belong into `auth`, where they are kept secret",
                );
            }
            if name.parse::<HeaderName>().is_err() || HeaderValue::from_str(value).is_err() {
                return Err(Error::config("not a header's name or value")
                    .with("setting", "headers")
                    .with("header", name.escape_default()));
            }
        }
        match &self.auth {
            Some(RestAuth::Bearer { token }) if !is_header(token) => {
                return wrong("auth.token", "a token is a non-empty line of visible characters");
            }
            Some(RestAuth::Header { name, value }) => {
                if name.parse::<HeaderName>().is_err() {
                    return wrong("auth.name", "not the name of a header");
                }
                if !is_header(value) {
                    return wrong("auth.value", "a key is a non-empty line of visible characters");
                }
            }
            Some(RestAuth::Query { name, .. }) if name.is_empty() => {
                return wrong("auth.name", "the parameter has no name");
            }
            Some(RestAuth::Basic { user, .. }) if user.contains(':') => {
                return wrong("auth.user", "a user's name has no colon (RFC 7617)");
            }
            _ => {}
        }
        let empty = match &self.pages {
            Pagination::None => false,
            Pagination::Cursor { param, cursor, .. } => param.is_empty() || cursor.is_empty(),
            Pagination::LastId { param, id, .. } => param.is_empty() || id.is_empty(),
            Pagination::Page { param, .. } | Pagination::Offset { param, .. } => param.is_empty(),
            Pagination::Link { rel } => rel.trim().is_empty(),
            Pagination::NextUrl { path } => path.is_empty(),
        };
        if empty {
            return wrong(
                "pages",
                "a parameter, path or relation of the pagination is empty",
            );
        }
        for (setting, seconds) in [
            ("delay", self.delay),
            ("backoff", self.backoff),
            ("max_wait", self.max_wait),
        ] {
            if !(0.0..=86_400.0).contains(&seconds) {
                return wrong(setting, "a time is 0 to 86,400 seconds");
            }
        }
        if self.retries > 20 {
            return wrong("retries", "a request is repeated at most 20 times");
        }
        if !(1..=10_000_000).contains(&self.max_pages) {
            return wrong("max_pages", "a run has 1 to 10,000,000 pages");
        }
        if let Some(since) = &self.since {
            since.validate()?;
        }
        self.reading.validate()?;
        if let Some(mapping) = &self.mapping {
            mapping.validate(&self.reading)?;
        }
        self.http.validate()
    }
}

fn is_header(secret: &Secret) -> bool {
    !secret.expose().is_empty() && HeaderValue::from_str(secret.expose()).is_ok()
}
