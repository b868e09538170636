//! robots.txt (RFC 9309): how it is fetched, and what follows from what comes back.

pub(super) mod rules;

use std::time::Duration;

use crm_core::http::{HttpClient, Response};
use crm_core::{Error, ErrorKind, Result, Timestamp};
use url::Url;

use self::rules::Rules;

/// What is parsed; RFC 9309, 2.5 asks for at least 500 KiB.
pub(super) const MAX_BYTES: usize = 512 * 1024;
/// RFC 9309, 2.3.1.2.
pub(super) const MAX_REDIRECTS: usize = 5;
/// RFC 9309, 2.4: not to be used longer without asking again.
pub(super) const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_DELAY: Duration = Duration::from_secs(30);

/// Longer texts are read off the async workers.
const LONG: usize = 32 * 1024;

/// The rules of one scheme, host and port.
pub(super) struct Robots {
    /// `None`: there are none, everything may be fetched.
    rules: Option<Rules>,
    pub(super) delay: Duration,
    pub(super) fetched_at: Timestamp,
}

/// What the rules say of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Allowed(&'static str),
    Forbidden,
}

impl Robots {
    pub(super) fn decide(&self, url: &Url) -> Decision {
        match &self.rules {
            None => Decision::Allowed("no robots.txt"),
            Some(rules) if rules.allows(url) => Decision::Allowed("allowed by robots.txt"),
            Some(_) => Decision::Forbidden,
        }
    }

    /// The sitemaps it names.
    pub(super) fn sitemaps(&self) -> &[Url] {
        self.rules.as_ref().map_or(&[], |rules| &rules.sitemaps)
    }

    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        now.since(self.fetched_at) < MAX_AGE
    }
}

/// Fetches and reads the rules for `site`, any URL of it. An error means: fetch nothing there.
///
/// 4xx is "there are no rules" (2.3.1.3), but 429 asks to slow down and is treated as 5xx: unreachable, everything
/// forbidden (2.3.1.4). More than 5 redirects may be taken for either; the careful reading counts.
pub(super) async fn fetch(client: &HttpClient, site: &Url, token: &str, now: Timestamp) -> Result<Robots> {
    let mut url = site.clone();
    url.set_path("/robots.txt");
    url.set_query(None);
    url.set_fragment(None);
    let answer = client
        .get(&url, &http::HeaderMap::new())
        .await
        .map_err(|error| unreachable(site, Some(error)))?;
    let rules = match answer.status.as_u16() {
        200..=299 => Some(parse(&answer, token, site).await?),
        429 => {
            let after = super::fetch::retry_after(&answer, now);
            return Err(unreachable(site, None)
                .with("status", 429)
                .with_retry(crm_core::Retry::Allowed { after }));
        }
        400..=499 => None,
        status => {
            let after = super::fetch::retry_after(&answer, now);
            let error = unreachable(site, None).with("status", status);
            return Err(if after.is_some() {
                error.with_retry(crm_core::Retry::Allowed { after })
            } else {
                error
            });
        }
    };
    let delay = rules
        .as_ref()
        .and_then(|rules| rules.delay)
        .map_or(Duration::ZERO, |seconds| {
            Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
        });
    if delay > MAX_DELAY {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            "robots.txt asks for a crawl delay of more than 30 s: nothing is fetched from this site",
        )
        .operation("crawl.robots")
        .with("site", super::canonical::authority(site)));
    }
    Ok(Robots {
        rules,
        delay,
        fetched_at: now,
    })
}

async fn parse(answer: &Response, token: &str, site: &Url) -> Result<Rules> {
    let mut text = answer.body.clone();
    if answer.truncated {
        // A rule that is cut in the middle would forbid or allow more than it says.
        text.truncate(text.iter().rposition(|b| matches!(b, b'\n' | b'\r')).unwrap_or(0));
    }
    if text.len() <= LONG {
        return Ok(Rules::parse(&text, token));
    }
    let token = token.to_owned();
    tokio::task::spawn_blocking(move || Rules::parse(&text, &token))
        .await
        .map_err(|error| {
            Error::unexpected("robots.txt could not be read")
                .operation("crawl.robots")
                .with("site", super::canonical::authority(site))
                .source(error)
        })
}

fn unreachable(site: &Url, cause: Option<Error>) -> Error {
    let kind = match cause.as_ref().map(Error::kind) {
        Some(ErrorKind::Timeout) => ErrorKind::Timeout,
        _ => ErrorKind::Unavailable,
    };
    let error = Error::new(
        kind,
        "robots.txt cannot be read: nothing is fetched from this site (RFC 9309, 2.3.1.4)",
    )
    .operation("crawl.robots")
    .with("site", super::canonical::authority(site));
    match cause {
        // The guard forbids the address: nothing was asked, and that is the thing to say.
        Some(cause) if cause.kind() == ErrorKind::PermissionDenied => cause.operation("crawl.robots"),
        Some(cause) => error.with_retry(cause.retry()).source(cause),
        None => error,
    }
}

/// A page that the rules forbid.
pub(super) fn forbidden(url: &Url) -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        "the site's robots.txt forbids this page; ask its owner, or begin at a page that is allowed",
    )
    .operation("crawl.robots")
    .with(
        "robots",
        format!("{}/robots.txt", super::canonical::authority(url)),
    )
    .with("host", url.host_str().unwrap_or_default())
    .with("path", url.path())
}
