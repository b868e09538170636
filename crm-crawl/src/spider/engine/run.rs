//! One run of a collector: what is started, and what follows from what ends.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crm_core::capability::{Checkpoint, DraftSink, Progress, Reject};
use crm_core::customer::Draft;
use crm_core::http::redacted;
use crm_core::record::Version;
use crm_core::{Context, Error, Result};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use url::Url;

use super::WebCollector;
use crate::spider::fetch::{Visit, Visitor};
use crate::spider::frontier::{Found, Frontier, Kind, Waiting};
use crate::spider::link::Link;
use crate::spider::robots::Robots;
use crate::spider::site::{Site, Turn};
use crate::spider::{CrawlConfig, StoredFrontier};

/// The checkpoint of a crawl whose frontier is in a store.
pub(super) const STORED_KIND: &str = "crawl-frontier/1";
/// How often a run that has nothing to do looks whether other processes left something.
const IDLE: Duration = Duration::from_millis(100);
/// How long what was found is kept back, so that a checkpoint is worth its length.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a run that failed may take to give back what it leased.
const GRACE: Duration = Duration::from_secs(5);
/// How many times the processes that share a frontier count it while the room that is left is used up.
const COUNTS: u64 = 8;

pub(super) type Task = Pin<Box<dyn Future<Output = Ended> + Send>>;

pub(super) enum Ended {
    /// A turn at a site was asked for: its version, or how long to wait.
    Turn {
        site: String,
        answer: Result<Result<Version, Duration>>,
    },
    /// A turn was passed on.
    Passed(Result<()>),
    Robots {
        site: String,
        url: Url,
        rules: Result<Robots>,
    },
    Page {
        site: String,
        waiting: Waiting,
        robots: &'static str,
        visit: Visit,
    },
}

pub(super) struct Run<'a> {
    pub(super) collector: &'a WebCollector,
    pub(super) config: &'a CrawlConfig,
    pub(super) ctx: Context,
    pub(super) stored: Option<StoredFrontier>,
    pub(super) visitor: Arc<Visitor>,
    pub(super) frontier: Frontier,
    pub(super) sites: HashMap<String, Site>,
    pub(super) drafts: Vec<Draft>,
    pub(super) rejects: Vec<Reject>,
    pub(super) progress: Progress,
    /// Pages dealt with since the last delivery.
    pub(super) undelivered: u64,
    /// Pages read in this crawl, and before this run.
    pub(super) read: u64,
    pub(super) read_before: u64,
    pub(super) rejects_before: u64,
    /// Why the first page that could not be read could not.
    pub(super) first_problem: Option<Error>,
    /// Requests under way, robots.txt included.
    pub(super) requests: usize,
    /// When the stored frontier is asked again.
    claim_at: Instant,
    delivered_at: Instant,
    /// What the store could not do while requests were under way.
    pub(super) broken: Option<Error>,
    /// Which site is the first to be asked.
    pub(super) first: usize,
    /// With a stored frontier: it is counted again when so many URLs are done.
    count_at: u64,
}

impl<'a> Run<'a> {
    pub(super) async fn new(
        collector: &'a WebCollector,
        ctx: &Context,
        stored: Option<StoredFrontier>,
        resume: Option<&Checkpoint>,
    ) -> Result<Self> {
        let config = collector.config.as_ref();
        let mut progress = Progress::default();
        let mut read = 0;
        let frontier = match (&stored, resume) {
            (None, None) => Frontier::default(),
            (None, Some(checkpoint)) => {
                let (frontier, stand) = Frontier::resume(checkpoint, &collector.info.name)?;
                (progress.drafts, progress.rejects) = (stand.drafts, stand.rejects);
                read = stand.read;
                frontier
            }
            (Some(stored), resume) => {
                if let Some(checkpoint) = resume {
                    let said = |name: &str| checkpoint.0.get(name).and_then(serde_json::Value::as_str);
                    if said("kind") != Some(STORED_KIND) || said("job") != Some(stored.job()) {
                        return Err(Error::invalid(
                            "the checkpoint is not one of this frontier; start anew without it",
                        )
                        .operation("crawl.resume")
                        .with("job", stored.job()));
                    }
                    let count = |name: &str| checkpoint.0.get(name).and_then(serde_json::Value::as_u64);
                    progress.drafts = count("drafts").unwrap_or_default();
                    progress.rejects = count("rejects").unwrap_or_default();
                    read = count("read").unwrap_or_default();
                }
                let back = stored.reclaim(ctx).await?;
                if back > 0 {
                    tracing::info!(
                        job = stored.job(),
                        urls = back,
                        "leases of an earlier process taken back"
                    );
                }
                let count = stored.count(ctx).await?;
                // Pages were read before: what fails now is no crawl that never began.
                read = read.max(count.done);
                Frontier::stored(count, stored.variants(ctx).await?)
            }
        };
        progress.done = frontier.done_count();
        let mut run = Self {
            collector,
            config,
            ctx: ctx.clone(),
            stored,
            visitor: collector.visitor(ctx),
            frontier,
            sites: HashMap::new(),
            drafts: Vec::new(),
            rejects: Vec::new(),
            progress,
            undelivered: 0,
            read,
            read_before: read,
            rejects_before: progress.rejects,
            first_problem: None,
            requests: 0,
            claim_at: Instant::now(),
            delivered_at: Instant::now(),
            broken: None,
            first: 0,
            count_at: 0,
        };
        run.count_at = run.next_count();
        run.seed().await?;
        Ok(run)
    }

    async fn seed(&mut self) -> Result<()> {
        let seeds = self
            .collector
            .spider
            .seeds()
            .into_iter()
            .map(|url| (url, Kind::Page, "start"));
        let sitemaps = self
            .config
            .sitemaps
            .iter()
            .map(|url| (url.clone(), Kind::Sitemap, "sitemaps"));
        for (url, kind, setting) in seeds.chain(sitemaps).collect::<Vec<_>>() {
            let link = Link::new(&url, self.config.sort_query);
            if let Found::Left(Some(reason)) = self.frontier.seed(link, kind, self.config) {
                return Err(Error::config(reason)
                    .with("setting", setting)
                    .with("url", redacted(&url)));
            }
        }
        if let (Some(stored), Some(news)) = (&self.stored, self.frontier.news()) {
            stored.write(&self.ctx, news).await?;
        }
        Ok(())
    }

    pub(super) async fn run(mut self, sink: &mut dyn DraftSink) -> Result<Progress> {
        match self.turn_over(sink).await {
            Ok(stopped) => self.close(sink, stopped).await,
            Err(error) => {
                self.give_up().await;
                Err(error)
            }
        }
    }

    /// Runs until nothing is left, or a stop is asked for (true).
    async fn turn_over(&mut self, sink: &mut dyn DraftSink) -> Result<bool> {
        let mut tasks: FuturesUnordered<Task> = FuturesUnordered::new();
        loop {
            self.ctx.check(self.collector.clock.as_ref())?;
            let stopped = self.collector.stop.asked.load(Ordering::Relaxed);
            if !stopped {
                self.refill().await?;
            }
            let wake = if stopped { None } else { self.start(&mut tasks) };
            self.show();
            if tasks.is_empty() {
                if stopped {
                    return Ok(true);
                }
                if self.is_delivery_due() && self.stored.is_some() {
                    self.deliver(sink, &mut tasks).await?;
                    self.claim_at = Instant::now();
                    continue;
                }
                match wake {
                    Some(at) => self.rest(at).await,
                    None if self.has_more().await? => self.rest(Instant::now() + IDLE).await,
                    None => return Ok(false),
                }
                continue;
            }
            // Waiting for a task may be given up at any time: the task itself stays in the set.
            let wake = match (wake, self.stored.is_some() && self.frontier.pending_count() == 0) {
                (wake, false) => wake,
                (wake, true) => Some(
                    wake.map_or(self.claim_at, |at| at.min(self.claim_at))
                        .max(Instant::now() + IDLE / 20),
                ),
            };
            let ended = match wake {
                None => tasks.next().await,
                Some(at) => tokio::time::timeout_at(at, tasks.next()).await.ok().flatten(),
            };
            let Some(ended) = ended else {
                continue;
            };
            self.end(ended, &mut tasks);
            while self.is_delivery_due() {
                let more = self.deliver(sink, &mut tasks).await?;
                self.claim_at = Instant::now();
                self.delivered_at = self.claim_at;
                for ended in more {
                    self.end(ended, &mut tasks);
                }
            }
            if let Some(error) = self.broken.take() {
                return Err(error);
            }
        }
    }

    /// Whether what was found has been kept back for long.
    pub(super) fn is_long_ago(&self) -> bool {
        self.delivered_at.elapsed() >= PATIENCE
    }

    /// Sleeps, but not through a request to stop.
    async fn rest(&self, until: Instant) {
        let stop = std::pin::pin!(self.collector.stop.wake.notified());
        let sleep = std::pin::pin!(tokio::time::sleep_until(until));
        match select(sleep, stop).await {
            Either::Left(_) | Either::Right(_) => {}
        }
    }

    /// What this run leased is free for others, before the leases run out. With a store that does not answer they do.
    async fn give_up(&mut self) {
        let Some(stored) = self.stored.take() else {
            return;
        };
        // The caller's own deadline may be what ended the run.
        let ctx = self.ctx.clone().deadline(self.collector.clock.now().plus(GRACE));
        let turns = self.sites.iter().filter_map(|(name, site)| match site.turn {
            Turn::Held(turn) => Some((name, turn, site.delay())),
            _ => None,
        });
        for (name, turn, delay) in turns {
            if stored.pass(&ctx, name, turn, delay).await.is_err() {
                return;
            }
        }
        let _ = stored.release(&ctx, &self.frontier.give_up()).await;
    }

    /// When the frontier is counted again: often when little room is left, so that several processes together keep
    /// `max_pages`.
    fn next_count(&self) -> u64 {
        let done = self.frontier.done_count();
        done + (self.config.max_pages.saturating_sub(done) / COUNTS).max(1)
    }

    /// Leases more from a stored frontier when little waits here.
    async fn refill(&mut self) -> Result<()> {
        let Some(stored) = self.stored.clone() else {
            return Ok(());
        };
        if self.frontier.done_count() >= self.count_at {
            let count = stored.count(&self.ctx).await?;
            self.frontier.counted(count);
            self.count_at = self.next_count();
        }
        let pending = usize::try_from(self.frontier.pending_count()).unwrap_or(usize::MAX);
        if pending >= self.config.concurrency || Instant::now() < self.claim_at || !self.has_room() {
            return Ok(());
        }
        // Sites that have something here, and those that are left alone, would only get in the others' way.
        let parked = self
            .sites
            .iter()
            .filter(|(_, site)| site.parked.is_some())
            .map(|(name, _)| name.as_str());
        let busy: Vec<&str> = self.frontier.sites().chain(parked).collect();
        let found = stored
            .claim(&self.ctx, 2 * self.config.concurrency, &busy)
            .await?;
        self.claim_at = Instant::now() + if found.is_empty() { IDLE } else { Duration::ZERO };
        self.frontier.claimed(found);
        Ok(())
    }

    /// Whether other processes work on something, or may leave something to us.
    async fn has_more(&self) -> Result<bool> {
        let Some(stored) = &self.stored else {
            return Ok(false);
        };
        if !self.has_room() {
            return Ok(false);
        }
        let parked: Vec<&str> = self
            .sites
            .iter()
            .filter(|(_, site)| site.parked.is_some())
            .map(|(name, _)| name.as_str())
            .collect();
        stored.is_left(&self.ctx, &parked).await
    }

    /// Whether the crawl may have more pages.
    pub(super) fn has_room(&self) -> bool {
        self.config.max_pages > self.frontier.done_count() + self.frontier.in_flight_count()
    }
}
