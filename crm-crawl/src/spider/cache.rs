//! Pages that were fetched before (RFC 9111, as far as one private cache of a crawler needs it).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use crm_core::capability::RecordStore;
use crm_core::http::Response;
use crm_core::query::{Filter, Query};
use crm_core::record::{Field, FieldType, Index, MAX_VALUE_BYTES, Record, Schema, Value, Write};
use crm_core::{Context, Result, Timestamp, Uuid};
use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};
use url::Url;

/// The longest time a page counts as fresh, whatever the site says.
const MAX_FRESH: Duration = Duration::from_secs(365 * 86_400);

/// A page as it came, and what is needed to ask whether it changed.
#[derive(Clone, PartialEq, Eq)]
pub struct CachedPage {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// When it came, or was last said to be unchanged.
    pub stored_at: Timestamp,
    /// Until then the site need not be asked.
    pub fresh_until: Timestamp,
    /// The body, decompressed.
    pub body: Bytes,
}

/// Shows no content.
impl fmt::Debug for CachedPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedPage")
            .field("stored_at", &self.stored_at)
            .field("fresh_until", &self.fresh_until)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Keeps pages between runs. Hand it to [`super::WebCollector::with_cache`]; [`StoredCache`] keeps them in a store.
///
/// An error of the cache is logged, and the page is fetched as if there were no cache.
#[async_trait]
pub trait PageCache: fmt::Debug + Send + Sync + 'static {
    /// The page of this URL.
    ///
    /// # Errors
    /// What kept it from being read.
    async fn get(&self, ctx: &Context, url: &Url) -> Result<Option<CachedPage>>;

    /// Keeps a page instead of the one before.
    ///
    /// # Errors
    /// What kept it from being kept.
    async fn put(&self, ctx: &Context, url: &Url, page: &CachedPage) -> Result<()>;
}

/// What a site says about keeping an answer; `None`: not to be kept. Answers to requests with credentials are not asked
/// about here: they are never kept.
pub(super) fn keep(answer: &Response, now: Timestamp) -> Option<CachedPage> {
    let control = Control::of(&answer.headers);
    let etag = answer.header("etag").map(str::to_owned);
    let last_modified = answer.header("last-modified").map(str::to_owned);
    let fresh = control.fresh(&answer.headers, now);
    let useless = etag.is_none() && last_modified.is_none() && fresh.is_zero();
    // What these say is the same in every request; anything else may be another page next time.
    let same = |name: &str| {
        ["accept", "accept-encoding", "user-agent"]
            .iter()
            .any(|other| name.trim().eq_ignore_ascii_case(other))
    };
    let varies = answer.headers.get_all(header::VARY).iter().any(|line| {
        !line
            .to_str()
            .is_ok_and(|line| line.split(',').all(|name| name.trim().is_empty() || same(name)))
    });
    if control.no_store || varies || useless || answer.body.len() > MAX_VALUE_BYTES {
        return None;
    }
    Some(CachedPage {
        etag,
        last_modified,
        content_type: answer.header("content-type").map(str::to_owned),
        stored_at: now,
        fresh_until: now.plus(fresh),
        body: answer.body.clone(),
    })
}

impl CachedPage {
    /// Adds the questions whether the page changed.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        for (name, value) in [
            (header::IF_NONE_MATCH, &self.etag),
            (header::IF_MODIFIED_SINCE, &self.last_modified),
        ] {
            if let Some(value) = value
                .as_deref()
                .and_then(|value| HeaderValue::from_str(value).ok())
            {
                headers.insert(name, value);
            }
        }
    }

    /// It has not changed: it is fresh again for as long as the answer says (RFC 9111, 4.3.4).
    pub(super) fn confirmed(mut self, answer: &Response, now: Timestamp) -> Self {
        if let Some(etag) = answer.header("etag") {
            self.etag = Some(etag.to_owned());
        }
        self.stored_at = now;
        self.fresh_until = now.plus(Control::of(&answer.headers).fresh(&answer.headers, now));
        self
    }
}

#[derive(Default)]
struct Control {
    no_store: bool,
    no_cache: bool,
    max_age: Option<u64>,
}

impl Control {
    fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        let lines = headers.get_all(header::CACHE_CONTROL);
        for directive in lines
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
        {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" => control.no_store = true,
                "no-cache" => control.no_cache = true,
                // Of two that contradict each other the shorter one is safe (4.2.1).
                "max-age" => {
                    let age = value.trim().trim_matches('"').parse().unwrap_or(0);
                    control.max_age = Some(control.max_age.map_or(age, |other: u64| other.min(age)));
                }
                _ => {}
            }
        }
        control
    }

    /// How long it need not be asked for again (4.2). Nothing is guessed: what says nothing is asked about each time.
    fn fresh(&self, headers: &HeaderMap, now: Timestamp) -> Duration {
        if self.no_cache {
            return Duration::ZERO;
        }
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let date = |name| {
            let at = DateTime::parse_from_rfc2822(text(name)?).ok()?;
            Some(Timestamp::from_micros(at.timestamp_micros()))
        };
        let life = match (self.max_age, date(header::EXPIRES)) {
            (Some(seconds), _) => Duration::from_secs(seconds.min(MAX_FRESH.as_secs())),
            (None, Some(at)) => at.since(date(header::DATE).unwrap_or(now)),
            (None, None) => Duration::ZERO,
        };
        let age = text(header::AGE)
            .and_then(|age| age.trim().parse().ok())
            .map_or(Duration::ZERO, Duration::from_secs);
        life.saturating_sub(age).min(MAX_FRESH)
    }
}

/// Kept pages; the body and the URL may hold personal data.
static PAGES: Schema = Schema {
    name: "crm_page_cache",
    fields: &[
        Field::new("url", FieldType::Text).personal(),
        Field::new("etag", FieldType::Text).nullable(),
        Field::new("last_modified", FieldType::Text).nullable(),
        Field::new("content_type", FieldType::Text).nullable(),
        Field::new("stored_at", FieldType::Timestamp),
        Field::new("fresh_until", FieldType::Timestamp),
        Field::new("body", FieldType::Bytes).personal(),
    ],
    indexes: &[Index::new("crm_page_cache_age", &["stored_at"])],
};

/// A [`PageCache`] in any record store. Pages of more than 1 MiB are not kept.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_core::memory::MemoryStore;
/// use crm_core::{Context, TenantId, Timestamp};
/// use crm_crawl::spider::{PageCache, StoredCache};
///
/// let cache = StoredCache::open(Arc::new(MemoryStore::new("records"))).await.unwrap();
/// let ctx = Context::new(TenantId::new("shop").unwrap());
/// assert!(cache.get(&ctx, &"http://site.example/".parse().unwrap()).await.unwrap().is_none());
/// // Once a day: what was not confirmed for a month goes.
/// let gone = cache.purge(&ctx, Timestamp::from_micros(0)).await.unwrap();
/// assert_eq!(gone, 0);
/// # });
/// ```
#[derive(Clone)]
pub struct StoredCache {
    store: Arc<dyn RecordStore>,
}

impl fmt::Debug for StoredCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredCache")
            .field("store", self.store.info())
            .finish()
    }
}

impl StoredCache {
    /// A cache in `store`; makes room for it there.
    ///
    /// # Errors
    /// The store's.
    pub async fn open(store: Arc<dyn RecordStore>) -> Result<Self> {
        store.migrate(&[&PAGES]).await?;
        Ok(Self { store })
    }

    /// Removes the pages that came, and were confirmed, before `before`. Answers how many.
    ///
    /// # Errors
    /// The store's.
    pub async fn purge(&self, ctx: &Context, before: Timestamp) -> Result<u64> {
        let mut gone = 0;
        loop {
            let old = Query::new(Filter::lt("stored_at", before)).limit(100);
            let page = self.store.find(ctx, &PAGES, &old).await?;
            if page.items.is_empty() {
                return Ok(gone);
            }
            let writes: Vec<Write> = page
                .items
                .iter()
                .map(|page| Write::delete(&PAGES, page.id, None))
                .collect();
            gone += writes.len() as u64;
            self.store.apply(ctx, &writes).await?;
        }
    }
}

fn id(url: &Url) -> Uuid {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(Sha256::digest(url.as_str())) {
        *to = from;
    }
    Uuid::from_bytes(bytes)
}

#[async_trait]
impl PageCache for StoredCache {
    async fn get(&self, ctx: &Context, url: &Url) -> Result<Option<CachedPage>> {
        let found = self.store.get(ctx, &PAGES, &[id(url)]).await?.pop().flatten();
        Ok(found.and_then(|stored| {
            let record = stored.record;
            let text = |name| record.get(name).and_then(Value::as_str).map(str::to_owned);
            let time = |name| record.get(name).and_then(Value::as_timestamp);
            let Some(Value::Bytes(body)) = record.get("body") else {
                return None;
            };
            Some(CachedPage {
                etag: text("etag"),
                last_modified: text("last_modified"),
                content_type: text("content_type"),
                stored_at: time("stored_at")?,
                fresh_until: time("fresh_until")?,
                body: Bytes::copy_from_slice(body),
            })
        }))
    }

    async fn put(&self, ctx: &Context, url: &Url, page: &CachedPage) -> Result<()> {
        let record = Record::from_values(
            &PAGES,
            vec![
                url.as_str().into(),
                page.etag.clone().into(),
                page.last_modified.clone().into(),
                page.content_type.clone().into(),
                page.stored_at.into(),
                page.fresh_until.into(),
                page.body.to_vec().into(),
            ],
        )?;
        self.store.apply(ctx, &[Write::put(id(url), record)]).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(headers: &[(&'static str, &'static str)]) -> Response {
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
            body: Bytes::from_static(b"<p>"),
            truncated: false,
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn how_long_a_page_is_fresh() {
        let now: Timestamp = "2026-03-01T09:00:00Z".parse().unwrap();
        let tag = ("etag", "\"1\"");
        for (headers, wanted) in [
            (&[("cache-control", "max-age=60")][..], Some(60)),
            (&[("cache-control", "public, Max-Age=\"60\"")], Some(60)),
            (&[("cache-control", "max-age=60, max-age=30")], Some(30)),
            (&[("cache-control", "max-age=60"), ("age", "20")], Some(40)),
            (&[("cache-control", "max-age=60"), ("age", "100"), tag], Some(0)),
            (
                &[
                    ("cache-control", "max-age=60"),
                    ("expires", "Sun, 01 Mar 2026 10:00:00 GMT"),
                ],
                Some(60),
            ),
            (&[("expires", "Sun, 01 Mar 2026 10:00:00 GMT")], Some(3600)),
            (
                &[
                    ("expires", "Sun, 01 Mar 2026 10:00:00 GMT"),
                    ("date", "Sun, 01 Mar 2026 09:59:00 GMT"),
                ],
                Some(60),
            ),
            (&[("expires", "0"), tag], Some(0)),
            (&[("expires", "0")], None),
            (&[("cache-control", "no-cache, max-age=60"), tag], Some(0)),
            (&[("cache-control", "no-store, max-age=60"), tag], None),
            (&[("cache-control", "max-age=60"), ("vary", "*")], None),
            (
                &[
                    ("cache-control", "max-age=60"),
                    ("vary", "Accept-Encoding, user-agent"),
                ],
                Some(60),
            ),
            (
                &[("cache-control", "max-age=60"), ("vary", "accept-language")],
                None,
            ),
            (
                &[
                    ("cache-control", "max-age=60"),
                    ("vary", "accept"),
                    ("vary", "cookie"),
                ],
                None,
            ),
            (&[("cache-control", "max-age=x"), tag], Some(0)),
            (&[("last-modified", "Sun, 01 Mar 2026 08:00:00 GMT")], Some(0)),
            (&[("cache-control", "max-age=99999999999999")], Some(365 * 86_400)),
            (&[], None),
        ] {
            let kept = keep(&answer(headers), now).map(|page| page.fresh_until.since(now).as_secs());
            assert_eq!(kept, wanted, "{headers:?}");
        }
    }
}
