use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::DateTime;
use crm_core::capability::{
    Checkpoint, Collector, CollectorCapability, Delivery, DraftSink, OriginalKind, Originals, Progress,
    RecordStore, Reject, RejectKind,
};
use crm_core::customer::Provenance;
use crm_core::http::{Response, redacted};
use crm_core::{Clock, Context, Error, Health, Provider, ProviderInfo, Result, SystemClock, Timestamp};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;

use super::fetch::Asker;
use super::page::{At, Reader, set, unset};
use super::since::{self, Left};
use super::spec::RestSpec;
use crate::file::document::Documents;

const KIND: &str = "rest/1";
/// Pages a checkpoint remembers, to recognise a circle after a resume too.
const REMEMBERED: usize = 32;

/// Collects customers from a system's interface, page by page: each item of a page a draft. A [`RestSpec`] says how.
///
/// - An item that cannot be read is one reject with the page, its number and the path, and the next goes on; an answer that is
///   no page is an error, never the end of the list.
/// - A page that came before, a cursor or link that leads back, and a list without an end are errors.
/// - Links are followed within the origin only: the credentials go nowhere else.
/// - One page is held at a time, of at most `http.max_body` bytes. It goes on from every checkpoint: a page that was stored is
///   not asked for again.
///
/// The guard of [`crm_core::http`] keeps it from addresses that are not public, unless `http.allow` names them.
pub struct RestCollector {
    info: ProviderInfo,
    spec: Arc<RestSpec>,
    reader: Reader,
    /// The same as long as what the checkpoints mean is.
    fingerprint: String,
    asker: Asker,
    store: Option<Arc<dyn RecordStore>>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for RestCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestCollector")
            .field("info", &self.info)
            .field("url", &redacted(&self.spec.url))
            .finish_non_exhaustive()
    }
}

/// What a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stand {
    kind: String,
    fingerprint: String,
    /// Where the next page is; `None` behind the last.
    next: Option<At>,
    pages: u64,
    items: u64,
    drafts: u64,
    rejects: u64,
    /// When the run began, by the interface's clock.
    began: Timestamp,
    /// Since when this run asks.
    since: Option<Timestamp>,
    /// The newest change seen.
    newest: Option<Timestamp>,
    /// The tag of the first page.
    etag: Option<String>,
    /// The last pages and places, as digests.
    seen: VecDeque<String>,
}

impl RestCollector {
    /// A collector that keeps nothing between its runs.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting that is wrong.
    pub fn new(spec: RestSpec) -> Result<Self> {
        if spec.since.is_some() || spec.conditional {
            let setting = if spec.conditional { "conditional" } else { "since" };
            return Err(Error::config(
                "what one run leaves for the next needs a store: RestCollector::with_store",
            )
            .with("setting", setting));
        }
        Self::build(spec, None)
    }

    /// A collector that keeps in `store` since when to ask the next time.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting that is wrong.
    pub fn with_store(spec: RestSpec, store: Arc<dyn RecordStore>) -> Result<Self> {
        Self::build(spec, Some(store))
    }

    fn build(spec: RestSpec, store: Option<Arc<dyn RecordStore>>) -> Result<Self> {
        spec.validate()?;
        let clock = SystemClock::shared();
        let mut hash = Sha256::new();
        hash.update(format!(
            "{} {:?} {:?} {}",
            spec.url, spec.query, spec.pages, spec.items
        ));
        Ok(Self {
            info: ProviderInfo::new("rest", spec.name.as_str()),
            reader: Reader::new(&spec.pages, &spec.items, &spec.url),
            fingerprint: hash
                .finalize()
                .iter()
                .take(8)
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            asker: Asker::new(&spec, clock.clone())?,
            spec: Arc::new(spec),
            store,
            clock,
        })
    }

    /// Takes the time from `clock`.
    ///
    /// # Errors
    /// As [`RestCollector::new`].
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Result<Self> {
        self.asker = Asker::new(&self.spec, clock.clone())?;
        self.clock = clock;
        Ok(self)
    }

    async fn begin(&self, ctx: &Context, resume: Option<&Checkpoint>) -> Result<(Stand, Option<String>)> {
        if let Some(Checkpoint(json)) = resume {
            let stand: Option<Stand> = serde_json::from_value(json.clone()).ok();
            return match stand.filter(|stand| stand.kind == KIND) {
                Some(stand) if stand.fingerprint == self.fingerprint => Ok((stand, None)),
                Some(_) => Err(Error::conflict(
                    "the interface's URL or pagination changed since the checkpoint; start anew without it",
                )
                .operation("rest.resume")),
                None => Err(Error::invalid(
                    "the checkpoint is not one of this collector; start anew without it",
                )
                .operation("rest.resume")),
            };
        }
        let left = match &self.store {
            Some(store) => since::load(store, ctx, &self.spec.name).await?,
            None => Left::default(),
        };
        let stand = Stand {
            kind: KIND.to_owned(),
            fingerprint: self.fingerprint.clone(),
            next: Some(At::First),
            pages: 0,
            items: 0,
            drafts: 0,
            rejects: 0,
            began: self.clock.now(),
            since: self.spec.since.as_ref().and(left.since),
            newest: None,
            etag: None,
            seen: VecDeque::new(),
        };
        Ok((stand, left.etag.filter(|_| self.spec.conditional)))
    }

    /// The first page's URL with its parameters.
    fn first(&self, stand: &Stand) -> Url {
        let mut url = self.spec.url.clone();
        for (name, value) in &self.spec.query {
            set(&mut url, name, value);
        }
        if let (Some(since), Some(time)) = (&self.spec.since, stand.since) {
            set(&mut url, &since.param, &since.parameter(time));
        }
        url
    }

    /// Takes one page: what it holds, and where `stand` is then.
    fn take(
        &self,
        answer: &Response,
        at: &At,
        stand: &mut Stand,
        seen: &mut HashSet<String>,
        documents: &mut Documents,
    ) -> Result<Delivery> {
        let place = redacted(&answer.final_url);
        let named = |error: Error, page: u64| {
            error
                .operation("rest.read")
                .with("url", &place)
                .with("page", page)
        };
        if stand.pages == 0 {
            stand.etag = answer.header("etag").map(str::to_owned);
            let date = answer
                .header("date")
                .and_then(|text| DateTime::parse_from_rfc2822(text).ok());
            if let Some(date) = date {
                stand.began = Timestamp::from_micros(date.timestamp_micros());
            }
        }
        let links = answer.headers.get_all(http::header::LINK);
        let links = links.iter().filter_map(|value| value.to_str().ok());
        let page = stand.pages + 1;
        let mut read = self
            .reader
            .read(&answer.body, links, at, &answer.final_url)
            .map_err(|error| {
                let kind = answer.header("content-type").unwrap_or("none").to_owned();
                named(error, page).with("content_type", kind)
            })?;
        if let Some(At::Url(url)) = &mut read.next
            && let (Some(key), Ok(mut plain)) = (self.asker.key(), Url::parse(url))
        {
            unset(&mut plain, key);
            *url = plain.into();
        }
        let place_digest = read.next.as_ref().map(|next| {
            let digest = Sha256::digest(format!("{next:?}"));
            format!(
                "@{}",
                digest
                    .iter()
                    .take(12)
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>()
            )
        });
        for digest in [read.digest.take(), place_digest].into_iter().flatten() {
            if !seen.insert(digest.clone()) {
                return Err(named(
                    Error::new(
                        crm_core::ErrorKind::Corrupt,
                        "the pages lead in a circle: this page, or the way to the next one, came before",
                    ),
                    page,
                )
                .with("setting", "pages"));
            }
            stand.seen.push_back(digest);
            if stand.seen.len() > REMEMBERED {
                stand.seen.pop_front();
            }
        }
        if let Some(since) = &self.spec.since {
            stand.newest = stand.newest.max(since.newest(&read.items));
        }
        let mut delivery = Delivery {
            originals: Originals {
                kind: OriginalKind::Json,
                ..Originals::default()
            },
            ..Delivery::default()
        };
        let now = self.clock.now();
        for item in read.items {
            if self.spec.max_items.is_some_and(|most| stand.items >= most) {
                read.next = None;
                break;
            }
            stand.items += 1;
            let number = stand.items;
            let provenance = Provenance::new(self.spec.name.as_str(), now)
                .at(place.as_str())
                .line(number);
            let found = if item.is_object() {
                documents.draft(&item, provenance)
            } else {
                Err((None, "an item is a JSON object".to_owned()))
            };
            match found {
                Ok(draft) => delivery.drafts.push(draft),
                Err((field, reason)) => delivery.rejects.push(Reject {
                    kind: RejectKind::Invalid,
                    place: place.clone(),
                    line: Some(number),
                    field,
                    reason,
                }),
            }
            delivery.originals.rows.insert(number, vec![item.to_string()]);
        }
        if self.spec.max_items.is_some_and(|most| stand.items >= most) {
            read.next = None;
        }
        stand.pages += 1;
        stand.drafts += delivery.drafts.len() as u64;
        stand.rejects += delivery.rejects.len() as u64;
        stand.next = read.next;
        Ok(delivery)
    }
}

fn progress(stand: &Stand) -> Progress {
    let mut progress = Progress::default();
    (progress.done, progress.drafts, progress.rejects) = (stand.pages, stand.drafts, stand.rejects);
    progress.total = stand.next.is_none().then_some(stand.pages);
    progress
}

#[async_trait]
impl Provider for RestCollector {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    /// Whether the interface answers the first page.
    async fn check(&self) -> Result<Health> {
        self.asker.get(&self.spec.url, None).await?;
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Collector for RestCollector {
    fn capability(&self) -> CollectorCapability {
        CollectorCapability::new(true, false)
    }

    /// [`Progress`] counts pages. Errors as [`RestCollector`] says; [`crm_core::ErrorKind::Unauthenticated`],
    /// [`crm_core::ErrorKind::PermissionDenied`] and [`crm_core::ErrorKind::NotFound`] as the interface says,
    /// [`crm_core::ErrorKind::RateLimited`] when it asks for a longer wait than `max_wait`,
    /// [`crm_core::ErrorKind::Corrupt`] when its pages lead in a circle.
    async fn collect(
        &self,
        ctx: &Context,
        resume: Option<&Checkpoint>,
        sink: &mut dyn DraftSink,
    ) -> Result<Progress> {
        let (mut stand, etag) = self.begin(ctx, resume).await?;
        let mut seen: HashSet<String> = stand.seen.iter().cloned().collect();
        let mut documents = Documents::new(self.spec.mapping.as_ref(), &self.spec.reading, &self.spec.name);
        let first = self.first(&stand);
        let mut unchanged = None;
        while let Some(at) = stand.next.clone() {
            ctx.check(self.clock.as_ref())?;
            if stand.pages >= self.spec.max_pages {
                return Err(Error::invalid("there are more pages than `max_pages`")
                    .operation("rest.read")
                    .with("setting", "max_pages")
                    .with("pages", stand.pages));
            }
            let url = self.reader.url(&first, &at)?;
            let tag = etag.as_deref().filter(|_| stand.pages == 0);
            let answer = self.asker.get(&url, tag).await?;
            let mut delivery = if answer.status == StatusCode::NOT_MODIFIED {
                stand.pages += 1;
                stand.next = None;
                unchanged = etag.clone();
                Delivery::default()
            } else {
                self.take(&answer, &at, &mut stand, &mut seen, &mut documents)?
            };
            let checkpoint = serde_json::to_value(&stand)
                .map_err(|error| Error::unexpected("a checkpoint cannot be written").source(error))?;
            (delivery.checkpoint, delivery.progress) = (Some(Checkpoint(checkpoint)), progress(&stand));
            sink.deliver(delivery).await?;
        }
        if let Some(store) = &self.store {
            // A run that was cut short by `max_items` has not seen everything up to now.
            let whole = self.spec.max_items.is_none_or(|most| stand.items < most);
            let field = self
                .spec
                .since
                .as_ref()
                .is_some_and(|since| since.field.is_some());
            let reached = if field { stand.newest } else { Some(stand.began) };
            let left = Left {
                since: reached.max(stand.since),
                etag: unchanged.or(stand.etag.take()),
            };
            if whole {
                since::save(store, ctx, &self.spec.name, &left, self.clock.now()).await?;
            }
        }
        Ok(progress(&stand))
    }
}
