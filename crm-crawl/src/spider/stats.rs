use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crm_core::{ErrorKind, Timestamp};

/// Sites that are told apart; what is beyond counts in the sums only.
const MAX_SITES: usize = 1000;

/// How a crawl goes, or went: a copy taken at one moment by [`super::WebCollector::stats`].
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CrawlStats {
    /// When the run began.
    pub started_at: Option<Timestamp>,
    /// It goes on.
    pub running: bool,
    /// Requests for pages and sitemaps that were answered or failed, retries included.
    pub requests: u64,
    /// Pages that were read.
    pub pages: u64,
    /// Pages that were read from the cache without asking the site.
    pub from_cache: u64,
    /// Pages of which the site said that they have not changed.
    pub not_modified: u64,
    /// Persons found.
    pub items: u64,
    /// What could not be read.
    pub rejects: u64,
    /// Bytes of bodies, decompressed.
    pub bytes: u64,
    /// Requests that will be made again.
    pub retries: u64,
    /// Pages that could not be read, by kind of error.
    pub errors: BTreeMap<&'static str, u64>,
    /// URLs that wait here to be fetched.
    pub queued: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// By scheme, host and port; the first 1,000 of them.
    pub sites: BTreeMap<String, SiteStats>,
}

/// One scheme, host and port in [`CrawlStats`].
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SiteStats {
    /// Requests, retries included.
    pub requests: u64,
    /// Bytes of bodies, decompressed.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// The time from one request to the next, as it stands now.
    pub delay: Duration,
    /// How long the last answer took.
    pub latency: Duration,
    /// It is left alone for the rest of the run.
    pub parked: bool,
}

/// Where a run writes and the host reads.
#[derive(Debug, Clone, Default)]
pub(super) struct Board(Arc<Mutex<CrawlStats>>);

impl Board {
    pub(super) fn read(&self) -> CrawlStats {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn write(&self, change: impl FnOnce(&mut CrawlStats)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl CrawlStats {
    /// The entry of a site; `None` when there are too many.
    pub(super) fn site(&mut self, name: &str) -> Option<&mut SiteStats> {
        if !self.sites.contains_key(name) {
            if self.sites.len() >= MAX_SITES {
                return None;
            }
            self.sites.insert(name.to_owned(), SiteStats::default());
        }
        self.sites.get_mut(name)
    }

    pub(super) fn failed(&mut self, kind: ErrorKind) {
        *self.errors.entry(kind.as_str()).or_default() += 1;
    }
}
