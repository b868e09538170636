//! One page: fetched or taken from the cache, judged by its status, decoded, parsed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::DateTime;
use crm_core::http::{HttpClient, Response, redacted};
use crm_core::{Context, Error, ErrorKind, Retry, Timestamp};
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::Semaphore;
use url::Url;

use super::body::{content_type, decode};
use super::cache::{self, CachedPage, PageCache};
use super::cookies::Jar;
use super::frontier::Kind;
use super::link::{Link, Links, MAX_LINKS};
use super::sitemap::{self, Listing};
use super::{Middleware, Output, Page, Spider};

/// What became of a page.
pub(super) enum Fetched {
    /// What the spider found, and the links of it that may be followed.
    Parsed(Output, Links),
    Listed(Listed),
    Redirect(Url),
    /// It may work later; not before `after` if the site said so.
    Again {
        error: Error,
        after: Option<Duration>,
    },
    Failed(Error),
}

/// What a sitemap lists.
pub(super) struct Listed {
    pub(super) pages: Vec<Link>,
    pub(super) parts: Vec<Link>,
    /// There was more.
    pub(super) cut: bool,
}

/// Where a page came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Site,
    /// The site was not asked.
    Cache,
    /// The site was asked, and said that nothing changed.
    NotModified,
}

/// A page, and how it was to get it.
pub(super) struct Visit {
    pub(super) fetched: Fetched,
    pub(super) source: Source,
    /// How long the answer took; `None` when there was none.
    pub(super) latency: Option<Duration>,
    /// It was the page that was asked for.
    pub(super) good: bool,
    pub(super) bytes: u64,
}

impl Visit {
    fn without(fetched: Fetched) -> Self {
        Self {
            fetched,
            source: Source::Site,
            latency: None,
            good: false,
            bytes: 0,
        }
    }
}

/// All that a visit needs; one a run.
pub(super) struct Visitor {
    pub(super) ctx: Context,
    pub(super) client: HttpClient,
    pub(super) spider: Arc<dyn Spider>,
    pub(super) middleware: Arc<[Arc<dyn Middleware>]>,
    pub(super) cache: Option<Arc<dyn PageCache>>,
    pub(super) jar: Option<Mutex<Jar>>,
    /// Pages that are parsed at the same time.
    pub(super) parsers: Semaphore,
    pub(super) sort_query: bool,
}

impl Visitor {
    /// Gets one page. The cache is asked first.
    pub(super) async fn visit(self: Arc<Self>, url: Url, kind: Kind, now: Timestamp) -> Visit {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static(match kind {
                Kind::Page => "text/html,application/xhtml+xml;q=0.9",
                _ => "application/xml,text/xml;q=0.9,text/plain;q=0.5,application/gzip;q=0.5",
            }),
        );
        if let Some(cookies) = self.jar.as_ref().and_then(|jar| lock(jar).header(&url, now)) {
            headers.insert(header::COOKIE, cookies);
        }
        for one in self.middleware.iter() {
            if let Err(error) = one.before_request(&url, &mut headers) {
                return Visit::without(Fetched::Failed(error.with("url", redacted(&url))));
            }
        }
        // What is meant for one visitor is not kept for others.
        let anonymous = !headers.contains_key(header::COOKIE) && !headers.contains_key(header::AUTHORIZATION);
        let cache = self.cache.as_ref().filter(|_| anonymous && kind == Kind::Page);
        let mut cached = None;
        if let Some(cache) = cache {
            cached = cache.get(&self.ctx, &url).await.unwrap_or_else(|error| {
                tracing::warn!("the page cache cannot be read: {error}");
                None
            });
            if let Some(page) = cached.take_if(|page| page.fresh_until > now) {
                return self.from_cache(url, page, now).await;
            }
            if let Some(page) = &cached {
                page.ask(&mut headers);
            }
        }
        let answer = match self.client.get(&url, &headers).await {
            Ok(answer) => answer,
            Err(error) => {
                return Visit::without(match error.retry() {
                    Retry::Allowed { after } => Fetched::Again { error, after },
                    _ => Fetched::Failed(error),
                });
            }
        };
        if let Some(jar) = &self.jar
            && answer.headers.contains_key(header::SET_COOKIE)
        {
            lock(jar).take(&url, &answer.headers, now);
        }
        let latency = Some(answer.elapsed);
        let bytes = answer.body.len() as u64;
        if answer.status == http::StatusCode::NOT_MODIFIED
            && let Some(page) = cached
        {
            let page = page.confirmed(&answer, now);
            self.keep(&url, &page).await;
            let mut visit = self.from_cache(url, page, now).await;
            (visit.source, visit.latency) = (Source::NotModified, latency);
            return visit;
        }
        let good = answer.status == http::StatusCode::OK;
        if good
            && cache.is_some()
            && !answer.truncated
            && !answer.headers.contains_key(header::SET_COOKIE)
            && let Some(page) = cache::keep(&answer, now)
        {
            self.keep(&url, &page).await;
        }
        let fetched = match judge(&answer, &url, kind, now) {
            Some(fetched) => fetched,
            None => self.read(answer, url, kind, now).await,
        };
        Visit {
            fetched,
            source: Source::Site,
            latency,
            good,
            bytes,
        }
    }

    fn listed(&self, listing: &Listing) -> Listed {
        let links = |urls| Links::of(urls, &*self.spider, self.sort_query, usize::MAX).links;
        Listed {
            pages: links(&listing.pages),
            parts: links(&listing.parts),
            cut: listing.cut,
        }
    }

    async fn keep(&self, url: &Url, page: &CachedPage) {
        if let Some(cache) = &self.cache
            && let Err(error) = cache.put(&self.ctx, url, page).await
        {
            tracing::warn!("the page cache cannot be written: {error}");
        }
    }

    async fn from_cache(self: Arc<Self>, url: Url, page: CachedPage, now: Timestamp) -> Visit {
        let mut headers = HeaderMap::new();
        if let Some(value) = page
            .content_type
            .and_then(|value| HeaderValue::from_str(&value).ok())
        {
            headers.insert(header::CONTENT_TYPE, value);
        }
        let answer = Response {
            status: http::StatusCode::OK,
            final_url: url.clone(),
            headers,
            body: page.body,
            truncated: false,
            elapsed: Duration::ZERO,
        };
        let fetched = match content_type(&answer, &url) {
            Ok(()) => self.read(answer, url, Kind::Page, now).await,
            Err(error) => Fetched::Failed(error),
        };
        Visit {
            fetched,
            source: Source::Cache,
            latency: None,
            good: true,
            bytes: 0,
        }
    }

    /// Building the tree and picking it apart costs CPU, so it is done off the async workers; a spider that panics costs
    /// its page only.
    async fn read(self: Arc<Self>, mut answer: Response, url: Url, kind: Kind, now: Timestamp) -> Fetched {
        let visitor = self.clone();
        let max = self.client.config().max_body;
        let Ok(_permit) = self.parsers.acquire().await else {
            return Fetched::Failed(
                Error::new(ErrorKind::Cancelled, "the crawl has ended").operation("crawl.parse"),
            );
        };
        let read = tokio::task::spawn_blocking(move || {
            if kind != Kind::Page {
                return match sitemap::read(&answer.body, max) {
                    Ok(listing) => Fetched::Listed(visitor.listed(&listing)),
                    Err(error) => Fetched::Failed(error.with("url", redacted(&url))),
                };
            }
            for one in visitor.middleware.iter() {
                if let Err(error) = one.after_response(&url, &mut answer) {
                    return Fetched::Failed(error.with("url", redacted(&url)));
                }
            }
            let page = match Page::new(url.clone(), visitor.spider.name(), &decode(&answer), now) {
                Ok(page) => page,
                Err(error) => return Fetched::Failed(error.with("url", redacted(&url))),
            };
            let mut output = Output::new();
            visitor.spider.parse(&page, &mut output);
            for one in visitor.middleware.iter() {
                output.sift(|draft| one.on_item(&url, draft));
            }
            let links = Links::of(output.links(), &*visitor.spider, visitor.sort_query, MAX_LINKS);
            Fetched::Parsed(output, links)
        })
        .await;
        read.unwrap_or_else(|error| {
            Fetched::Failed(
                Error::unexpected("the spider panicked on this page")
                    .operation("crawl.parse")
                    .source(error),
            )
        })
    }
}

fn lock(jar: &Mutex<Jar>) -> std::sync::MutexGuard<'_, Jar> {
    jar.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the answer means; `None`: it is a page, to be read.
fn judge(answer: &Response, url: &Url, kind: Kind, now: Timestamp) -> Option<Fetched> {
    let status = answer.status.as_u16();
    let refused = |kind: ErrorKind, message: &'static str| {
        Error::new(kind, message)
            .operation("crawl.fetch")
            .with("url", redacted(url))
            .with("status", status)
    };
    let failed = |kind, message| Some(Fetched::Failed(refused(kind, message)));
    match status {
        200..=299 => {}
        301 | 302 | 303 | 307 | 308 => {
            let next = answer
                .headers
                .get(header::LOCATION)
                .and_then(|to| std::str::from_utf8(to.as_bytes()).ok());
            return match next.and_then(|to| url.join(to).ok()) {
                Some(next) => Some(Fetched::Redirect(next)),
                None => failed(ErrorKind::Invalid, "a redirect that leads nowhere"),
            };
        }
        429 | 503 => {
            let kind = if status == 429 {
                ErrorKind::RateLimited
            } else {
                ErrorKind::Unavailable
            };
            return Some(Fetched::Again {
                error: refused(kind, "the site asks to come back later"),
                after: retry_after(answer, now),
            });
        }
        408 | 500..=599 => {
            return Some(Fetched::Again {
                error: refused(ErrorKind::Unavailable, "the site cannot serve the page"),
                after: None,
            });
        }
        401 | 403 => return failed(ErrorKind::PermissionDenied, "the site does not show this page"),
        404 | 410 => return failed(ErrorKind::NotFound, "there is no such page"),
        _ => return failed(ErrorKind::Invalid, "an answer that is no page"),
    }
    if answer.truncated {
        let error = refused(ErrorKind::Invalid, "the page is larger than the limit");
        return Some(Fetched::Failed(error.with("setting", "http.max_body")));
    }
    if kind != Kind::Page {
        return None;
    }
    content_type(answer, url).err().map(Fetched::Failed)
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(answer: &Response, now: Timestamp) -> Option<Duration> {
    let text = answer.header("retry-after")?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let at = DateTime::parse_from_rfc2822(text).ok()?;
    Some(Timestamp::from_micros(at.timestamp_micros()).since(now))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn answer(headers: &[(&'static str, &'static str)], body: &'static [u8]) -> Response {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    header::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect();
        Response {
            status: http::StatusCode::OK,
            final_url: Url::parse("http://site.example/").unwrap(),
            headers,
            body: Bytes::from_static(body),
            truncated: false,
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn waits_that_sites_ask_for() {
        let now: Timestamp = "2026-03-01T09:00:00Z".parse().unwrap();
        let after = |text| retry_after(&answer(&[("retry-after", text)], b""), now);
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        assert_eq!(
            after("Sun, 01 Mar 2026 09:00:30 GMT"),
            Some(Duration::from_secs(30))
        );
        assert_eq!(after("Sun, 01 Mar 2026 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(after("soon"), None);
    }
}
