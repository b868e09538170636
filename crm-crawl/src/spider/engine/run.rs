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
use crm_core::{Context, Error, Result, Retry};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use url::Url;

use super::WebCollector;
use crate::spider::canonical::authority;
use crate::spider::fetch::{Fetched, Source, Visit, Visitor};
use crate::spider::frontier::{Found, Frontier, Kind, Waiting};
use crate::spider::robots::{self, Decision, Robots};
use crate::spider::site::{Rules, Site, Turn};
use crate::spider::sitemap::Listing;
use crate::spider::{CrawlConfig, Output, StoredFrontier};

/// The checkpoint of a crawl whose frontier is in a store.
pub(super) const STORED_KIND: &str = "crawl-frontier/1";
/// How often a run that has nothing to do looks whether other processes left something.
const IDLE: Duration = Duration::from_millis(100);
/// What comes on top of the time-out while a turn at a site is held.
const SPARE: Duration = Duration::from_secs(5);

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
    visitor: Arc<Visitor>,
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
    requests: usize,
    /// When the stored frontier is asked again.
    claim_at: Instant,
    /// What the store could not do while requests were under way.
    broken: Option<Error>,
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
                let done = stored.count(ctx).await?.done;
                // Pages were read before: what fails now is no crawl that never began.
                read = read.max(done);
                Frontier::stored(done, stored.variants(ctx).await?)
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
            broken: None,
        };
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
            if let Found::Left(Some(reason)) = self.frontier.offer(&url, 0, kind, self.config) {
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
        let stopped = self.turn_over(sink).await?;
        self.close(sink, stopped).await
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
                for ended in more {
                    self.end(ended, &mut tasks);
                }
            }
            if let Some(error) = self.broken.take() {
                return Err(error);
            }
        }
    }

    /// Sleeps, but not through a request to stop.
    async fn rest(&self, until: Instant) {
        let stop = std::pin::pin!(self.collector.stop.wake.notified());
        let sleep = std::pin::pin!(tokio::time::sleep_until(until));
        match select(sleep, stop).await {
            Either::Left(_) | Either::Right(_) => {}
        }
    }

    /// Leases more from a stored frontier when little waits here.
    async fn refill(&mut self) -> Result<()> {
        let Some(stored) = &self.stored else {
            return Ok(());
        };
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
    fn has_room(&self) -> bool {
        self.config.max_pages > self.frontier.done_count() + self.frontier.in_flight_count()
    }

    /// Starts all that may start now; answers when the next thing may, if that is a matter of time only.
    fn start(&mut self, tasks: &mut FuturesUnordered<Task>) -> Option<Instant> {
        let now = Instant::now();
        let mut wake: Option<Instant> = None;
        let names: Vec<String> = self.frontier.sites().map(str::to_owned).collect();
        for name in names {
            // What is not written down yet would be fetched again after a death: it counts as under way.
            while self.requests + self.frontier.news_count().1 < self.config.concurrency {
                let has_room = self.has_room();
                let site = self
                    .sites
                    .entry(name.clone())
                    .or_insert_with(|| Site::new(now, self.config));
                if site.parked.is_some() || site.in_flight >= self.config.concurrency_per_host || !has_room {
                    break;
                }
                if matches!(site.rules, Rules::Fetching { .. }) || site.turn == Turn::Asking {
                    break;
                }
                let known = match &site.rules {
                    Rules::Known(rules) if rules.is_fresh(self.collector.clock.now()) => Some(rules.clone()),
                    _ => self
                        .collector
                        .recall(&name)
                        .inspect(|rules| site.ruled(rules.clone())),
                };
                if site.not_before > now {
                    wake = Some(wake.map_or(site.not_before, |at| at.min(site.not_before)));
                    break;
                }
                if let Some(stored) = self.stored.as_ref().filter(|stored| stored.is_paced())
                    && !site.delay().is_zero()
                    && site.turn == Turn::Open
                {
                    site.turn = Turn::Asking;
                    // With one request at a time the turn is held until its end; nobody knows how long that takes.
                    let hold = if self.config.concurrency_per_host == 1 {
                        self.config.http.total_timeout + site.delay() + SPARE
                    } else {
                        site.delay()
                    };
                    let (stored, ctx, site) = (stored.clone(), self.ctx.clone(), name.clone());
                    tasks.push(Box::pin(async move {
                        let answer = stored.turn(&ctx, &site, hold).await;
                        Ended::Turn { site, answer }
                    }));
                    break;
                }
                let task = match known {
                    Some(rules) => {
                        let Some(waiting) = self.frontier.take(&name) else {
                            break;
                        };
                        if !self.is_still_ours(&waiting) {
                            self.frontier.lost(&waiting);
                            continue;
                        }
                        match rules.decide(&waiting.url) {
                            Decision::Forbidden => {
                                let error = robots::forbidden(&waiting.url);
                                self.leave(waiting, error);
                                continue;
                            }
                            Decision::Allowed(robots) => self.page(name.clone(), waiting, robots),
                        }
                    }
                    None => {
                        let attempt = match site.rules {
                            Rules::Unknown { attempt } => attempt,
                            _ => 0,
                        };
                        let Some(url) = self.frontier.first(&name).cloned() else {
                            break;
                        };
                        site.rules = Rules::Fetching { attempt };
                        self.rules(name.clone(), url)
                    }
                };
                if let Some(site) = self.sites.get_mut(&name) {
                    site.started(now);
                }
                self.requests += 1;
                tasks.push(task);
            }
        }
        self.pass_unused(tasks);
        wake
    }

    /// A turn at a site for which nothing waits any more is of use to others only.
    fn pass_unused(&mut self, tasks: &mut FuturesUnordered<Task>) {
        let Some(stored) = &self.stored else {
            return;
        };
        for (name, site) in &mut self.sites {
            if let Turn::Held(turn) = site.turn
                && site.in_flight == 0
                && self.frontier.first(name).is_none()
            {
                site.turn = Turn::Open;
                let (stored, ctx, site) = (stored.clone(), self.ctx.clone(), name.clone());
                tasks.push(Box::pin(async move {
                    Ended::Passed(stored.pass(&ctx, &site, turn, Duration::ZERO).await)
                }));
            }
        }
    }

    /// Whether a lease lasts as long as a request may take.
    fn is_still_ours(&self, waiting: &Waiting) -> bool {
        let (Some(stored), Some(lease)) = (&self.stored, waiting.lease) else {
            return true;
        };
        let needed = self.config.http.total_timeout.min(stored.lease() / 2);
        lease.until > stored.now().plus(needed)
    }

    fn rules(&self, site: String, url: Url) -> Task {
        let client = self.collector.robots.clone();
        let token = self.config.product_token().to_owned();
        let now = self.collector.clock.now();
        Box::pin(async move {
            let rules = robots::fetch(&client, &url, &token, now).await;
            Ended::Robots { site, url, rules }
        })
    }

    fn page(&self, site: String, waiting: Waiting, robots: &'static str) -> Task {
        let visitor = self.visitor.clone();
        let now = self.collector.clock.now();
        Box::pin(async move {
            let visit = visitor.visit(waiting.url.clone(), waiting.kind, now).await;
            Ended::Page {
                site,
                waiting,
                robots,
                visit,
            }
        })
    }

    fn end(&mut self, ended: Ended, tasks: &mut FuturesUnordered<Task>) {
        let now = Instant::now();
        let name = match &ended {
            Ended::Passed(_) => String::new(),
            Ended::Turn { site, .. } | Ended::Robots { site, .. } | Ended::Page { site, .. } => site.clone(),
        };
        if let Ended::Passed(result) = ended {
            if let Err(error) = result {
                self.broken.get_or_insert(error);
            }
            return;
        }
        let mut site = self
            .sites
            .remove(&name)
            .unwrap_or_else(|| Site::new(now, self.config));
        match ended {
            Ended::Passed(_) => {}
            Ended::Turn { answer, .. } => {
                match answer {
                    Ok(Ok(version)) => site.turn = Turn::Held(version),
                    Ok(Err(wait)) => {
                        site.turn = Turn::Open;
                        // Who holds the turn may pass it on sooner than they said.
                        let patience = (site.delay() / 8).max(Duration::from_millis(10));
                        site.wait(now, wait.min(patience));
                    }
                    Err(error) => {
                        site.turn = Turn::Open;
                        self.broken.get_or_insert(error);
                    }
                }
                self.sites.insert(name, site);
                return;
            }
            Ended::Robots { url, rules, .. } => {
                self.requests -= 1;
                site.ended(now, self.config.concurrency_per_host);
                self.ruled(&mut site, &name, &url, rules, now);
            }
            Ended::Page {
                waiting,
                robots,
                visit,
                ..
            } => {
                self.requests -= 1;
                if let Some(latency) = visit.latency {
                    site.answered(latency, visit.good);
                }
                if visit.source == Source::Cache {
                    site.spared();
                } else {
                    site.ended(now, self.config.concurrency_per_host);
                }
                self.count(&name, &site, &visit);
                self.visited(&mut site, waiting, robots, visit, now);
            }
        }
        if let (Turn::Held(turn), Some(stored)) = (site.turn, &self.stored) {
            site.turn = Turn::Open;
            // The next turn of anybody begins when our own next one may.
            let wait = site.not_before.saturating_duration_since(now);
            let (stored, ctx, site) = (stored.clone(), self.ctx.clone(), name.clone());
            tasks.push(Box::pin(async move {
                Ended::Passed(stored.pass(&ctx, &site, turn, wait).await)
            }));
        }
        self.sites.insert(name, site);
    }

    fn count(&self, name: &str, site: &Site, visit: &Visit) {
        self.collector.board.write(|stats| {
            stats.bytes += visit.bytes;
            stats.requests += u64::from(visit.source != Source::Cache);
            match (&visit.fetched, visit.source) {
                (_, Source::Cache) => stats.from_cache += 1,
                (_, Source::NotModified) => stats.not_modified += 1,
                _ => {}
            }
            let failed = match &visit.fetched {
                Fetched::Parsed(output) => {
                    stats.pages += 1;
                    stats.items += output.drafts().len() as u64;
                    false
                }
                Fetched::Again { .. } => true,
                Fetched::Failed(error) => {
                    stats.failed(error.kind());
                    true
                }
                Fetched::Listed(_) | Fetched::Redirect(_) => false,
            };
            if let Some(entry) = stats.site(name) {
                entry.requests += u64::from(visit.source != Source::Cache);
                entry.bytes += visit.bytes;
                entry.errors += u64::from(failed);
                entry.delay = site.delay();
                entry.latency = visit.latency.unwrap_or(entry.latency);
            }
        });
    }

    fn visited(
        &mut self,
        site: &mut Site,
        waiting: Waiting,
        robots: &'static str,
        visit: Visit,
        now: Instant,
    ) {
        match visit.fetched {
            Fetched::Parsed(output) => {
                site.succeeded();
                self.read += 1;
                self.take_in(waiting, robots, output);
            }
            Fetched::Listed(listing) => {
                site.succeeded();
                self.listed(waiting, listing);
            }
            Fetched::Redirect(next) => {
                site.succeeded();
                self.redirect(waiting, &next);
            }
            Fetched::Again { error, after } => self.again(site, waiting, error, after, now),
            Fetched::Failed(error) => {
                site.succeeded();
                self.leave(waiting, error);
            }
        }
    }

    fn ruled(&mut self, site: &mut Site, name: &str, url: &Url, rules: Result<Robots>, now: Instant) {
        let attempt = match site.rules {
            Rules::Fetching { attempt } | Rules::Unknown { attempt } => attempt,
            Rules::Known(_) => 0,
        };
        match rules {
            Ok(rules) => {
                let rules = Arc::new(rules);
                self.collector.remember(name, &rules);
                self.name_sitemaps(&rules, url);
                site.ruled(rules);
                site.wait(now, site.delay());
            }
            Err(error) => {
                let wait = match error.retry() {
                    Retry::Allowed { after } => {
                        Some(after.unwrap_or_default().max(self.config.backoff(attempt)))
                    }
                    _ => None,
                };
                match wait {
                    Some(wait) if attempt < self.config.retries && wait <= self.longest_wait() => {
                        site.rules = Rules::Unknown { attempt: attempt + 1 };
                        site.wait(now, wait);
                    }
                    _ => {
                        tracing::warn!(collector = %self.collector.info, site = name, "site left alone: {error}");
                        if self.frontier.say_once(&format!("robots {name}")) {
                            self.reject(url, error.to_string());
                        }
                        site.park(error, false);
                        self.show_parked(name);
                    }
                }
            }
        }
    }

    fn show_parked(&self, name: &str) {
        self.collector.board.write(|stats| {
            if let Some(entry) = stats.site(name) {
                entry.parked = true;
            }
        });
    }

    /// The sitemaps of a start's site are seeds, too, if that is wished for.
    fn name_sitemaps(&mut self, rules: &Robots, site: &Url) {
        if !self.config.robots_sitemaps {
            return;
        }
        let starts = self.collector.spider.seeds();
        if starts.iter().any(|start| start.origin() == site.origin()) {
            for sitemap in rules
                .sitemaps()
                .iter()
                .filter(|url| self.collector.spider.allows(url))
            {
                self.offer(sitemap, 0, Kind::Sitemap);
            }
        }
    }

    fn listed(&mut self, waiting: Waiting, listing: Listing) {
        if listing.cut {
            self.reject(
                &waiting.url,
                "the sitemap is longer than the limit; the rest of it was not read".to_owned(),
            );
        }
        for page in &listing.pages {
            if self.collector.spider.allows(page) {
                self.offer(page, 0, Kind::Page);
            }
        }
        if waiting.kind == Kind::Part && !listing.parts.is_empty() {
            self.reject(
                &waiting.url,
                "a sitemap index lists this sitemap index; only the first one is followed".to_owned(),
            );
        } else {
            for part in &listing.parts {
                if self.collector.spider.allows(part) {
                    self.offer(part, 0, Kind::Part);
                }
            }
        }
        self.settle(waiting);
    }

    fn longest_wait(&self) -> Duration {
        self.config
            .max_retry_after()
            .max(self.config.backoff(self.config.retries))
    }

    fn take_in(&mut self, waiting: Waiting, robots: &'static str, output: Output) {
        let (drafts, rejects, links) = output.into_parts();
        self.progress.drafts += drafts.len() as u64;
        self.progress.rejects += rejects.len() as u64;
        for mut draft in drafts {
            // The name is a constant that is valid; were it not, the draft counts more.
            let _ = draft.attributes.set("crawl_robots", robots);
            self.drafts.push(draft);
        }
        self.rejects.extend(rejects);
        for link in links {
            if matches!(link.scheme(), "http" | "https") && self.collector.spider.allows(&link) {
                self.offer(&link, waiting.depth + 1, Kind::Page);
            }
        }
        self.settle(waiting);
    }

    fn offer(&mut self, link: &Url, depth: u32, kind: Kind) {
        if let Found::Left(Some(reason)) = self.frontier.offer(link, depth, kind, self.config) {
            self.reject(
                link,
                format!("not fetched: {reason}; told once, others like it follow in silence"),
            );
        }
    }

    fn redirect(&mut self, waiting: Waiting, next: &Url) {
        let (from, to) = (redacted(&waiting.url), redacted(next));
        let wrong = |message: &'static str| {
            Error::invalid(message)
                .operation("crawl.fetch")
                .with("url", from.clone())
                .with("to", to.clone())
        };
        if !matches!(next.scheme(), "http" | "https") {
            return self.leave(
                waiting,
                wrong("the page redirects to what is no http or https URL"),
            );
        }
        if !self.collector.spider.allows(next) {
            return self.leave(
                waiting,
                wrong("the page redirects to a site that may not be visited; add its domain if it is meant"),
            );
        }
        match self.frontier.redirect(&waiting, next, self.config) {
            Ok(()) => self.settle(waiting),
            Err(error) => self.leave(waiting, error.with("url", from)),
        }
    }

    fn again(
        &mut self,
        site: &mut Site,
        mut waiting: Waiting,
        error: Error,
        after: Option<Duration>,
        now: Instant,
    ) {
        let wait = after
            .unwrap_or_default()
            .max(self.config.backoff(waiting.attempt));
        if wait > self.longest_wait() {
            self.first_problem
                .get_or_insert_with(|| again_later(&error, after, &waiting.url));
            site.park(again_later(&error, after, &waiting.url), true);
            self.frontier.give_back(waiting);
        } else if waiting.attempt < self.config.retries {
            waiting.attempt += 1;
            site.wait(now, wait);
            self.collector.board.write(|stats| stats.retries += 1);
            self.frontier.give_back(waiting);
        } else {
            if site.failed() {
                site.park(again_later(&error, after, &waiting.url), true);
            }
            self.leave(waiting, error);
        }
    }

    /// A page that cannot be read: reported, and done.
    fn leave(&mut self, waiting: Waiting, error: Error) {
        self.reject(&waiting.url, error.to_string());
        self.first_problem.get_or_insert(error);
        self.settle(waiting);
    }

    fn settle(&mut self, waiting: Waiting) {
        self.frontier.done(waiting);
        self.undelivered += 1;
        self.progress.done = self.frontier.done_count();
        let known = self.progress.done + self.frontier.pending_count() + self.frontier.in_flight_count();
        self.progress.total = Some(known.min(self.config.max_pages.max(self.progress.done)));
    }
}

/// The site is to be visited again, and when.
fn again_later(error: &Error, after: Option<Duration>, url: &Url) -> Error {
    Error::new(
        error.kind(),
        "the site asks to be left alone, or failed again and again; go on later from the last checkpoint",
    )
    .operation("crawl.run")
    .with("site", authority(url))
    .with("reason", error.message())
    .with_retry(Retry::Allowed { after })
}
