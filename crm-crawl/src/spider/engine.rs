use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::{
    Checkpoint, Collector, CollectorCapability, Delivery, DraftSink, Progress, Reject, RejectKind,
};
use crm_core::customer::Draft;
use crm_core::http::{HttpClient, HttpConfig, redacted};
use crm_core::{Clock, Context, Error, Health, Provider, ProviderInfo, Result, Retry, SystemClock};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use url::Url;

use super::canonical::authority;
use super::fetch::{self, Fetched};
use super::frontier::{Found, Frontier, Waiting};
use super::robots::{self, Decision, Robots};
use super::site::{Rules, Site};
use super::{CrawlConfig, Output, Spider, SpiderSpec};

/// Sites whose robots.txt is remembered between runs.
const MAX_REMEMBERED: usize = 1024;
/// Drafts after which a delivery is not put off any more.
const MAX_DRAFTS: usize = 1000;

/// Crawls a site with a [`Spider`]. A [`Collector`]: register it, or hand it to `Collection`.
///
/// It goes on from every checkpoint: what was delivered is not fetched again, what was in flight is. A page is
/// delivered with the checkpoint that marks it done; a long crawl puts some pages together, so that its checkpoints
/// stay cheap.
///
/// ```
/// use crm_core::Provider;
/// use crm_crawl::spider::{SpiderSpec, WebCollector};
///
/// let spec: SpiderSpec = serde_json::from_str(
///     r#"{"name": "shop-site", "start": ["https://shop.example/"], "item": "div.customer",
///         "fields": [{"selector": "p > a", "target": "email"}]}"#,
/// )
/// .unwrap();
/// let collector = WebCollector::from_spec(&spec).unwrap();
/// assert_eq!(collector.info().name, "shop-site");
/// ```
pub struct WebCollector {
    info: ProviderInfo,
    pub(super) spider: Arc<dyn Spider>,
    pub(super) config: Arc<CrawlConfig>,
    pub(super) pages: HttpClient,
    pub(super) robots: HttpClient,
    pub(super) clock: Arc<dyn Clock>,
    remembered: Mutex<HashMap<String, Arc<Robots>>>,
}

impl fmt::Debug for WebCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebCollector")
            .field("name", &self.info.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl WebCollector {
    /// A collector that crawls with `spider`.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting that is wrong.
    pub fn new(spider: Arc<dyn Spider>, config: CrawlConfig) -> Result<Self> {
        config.validate()?;
        let token = config.product_token();
        if token.is_empty() {
            return Err(Error::config(
                "the user agent begins with a product token of letters, '-' and '_', by which robots.txt calls it",
            )
            .with("setting", "http.user_agent"));
        }
        let pages = HttpClient::new(HttpConfig {
            max_redirects: 0,
            ..config.http.clone()
        })?;
        let robots = HttpClient::new(HttpConfig {
            max_redirects: robots::MAX_REDIRECTS,
            max_body: robots::MAX_BYTES,
            ..config.http.clone()
        })?;
        Ok(Self {
            info: ProviderInfo::new("spider", spider.name()),
            spider,
            config: Arc::new(config),
            pages,
            robots,
            clock: SystemClock::shared(),
            remembered: Mutex::default(),
        })
    }

    /// A collector that crawls as `spec` says.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting that is wrong.
    pub fn from_spec(spec: &SpiderSpec) -> Result<Self> {
        Self::new(Arc::new(spec.compile()?), spec.crawl.clone())
    }

    /// Takes the time of observation, and the age of a robots.txt, from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn recall(&self, site: &str) -> Option<Arc<Robots>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered
            .get(site)
            .filter(|rules| rules.is_fresh(self.clock.now()))
            .cloned()
    }

    fn remember(&self, site: &str, rules: &Arc<Robots>) {
        let now = self.clock.now();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, rules| rules.is_fresh(now));
        }
        if remembered.len() < MAX_REMEMBERED {
            remembered.insert(site.to_owned(), rules.clone());
        }
    }
}

#[async_trait]
impl Provider for WebCollector {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    /// Ready when there is something to begin with; asks no site.
    async fn check(&self) -> Result<Health> {
        Ok(if self.spider.seeds().is_empty() {
            Health::Down
        } else {
            Health::Ready
        })
    }
}

#[async_trait]
impl Collector for WebCollector {
    fn capability(&self) -> CollectorCapability {
        CollectorCapability::new(true, false)
    }

    /// [`Progress`] counts pages. When no page at all could be read, the error is why the first one could not:
    /// [`crm_core::ErrorKind::PermissionDenied`] naming robots.txt when it forbids the start. When a site asks to be left alone
    /// for longer than `max_retry_after`, or fails again and again, what else can be read is delivered
    /// first; the rest waits in the last checkpoint.
    async fn collect(
        &self,
        ctx: &Context,
        resume: Option<&Checkpoint>,
        sink: &mut dyn DraftSink,
    ) -> Result<Progress> {
        let mut run = Run::new(self, resume)?;
        let mut tasks: FuturesUnordered<Task> = FuturesUnordered::new();
        loop {
            ctx.check(self.clock.as_ref())?;
            let wake = run.start(&mut tasks);
            let ended = match (tasks.is_empty(), wake) {
                (true, None) => break,
                (true, Some(at)) => {
                    tokio::time::sleep_until(at).await;
                    continue;
                }
                (false, None) => tasks.next().await,
                // Waiting for a task may be given up at any time: the task itself stays in the set.
                (false, Some(at)) => tokio::time::timeout_at(at, tasks.next()).await.ok().flatten(),
            };
            if let Some(ended) = ended {
                run.end(ended);
                if run.is_delivery_due() {
                    run.deliver(sink).await?;
                }
            }
        }
        run.close(sink).await
    }
}

type Task = Pin<Box<dyn Future<Output = Ended> + Send>>;

enum Ended {
    Robots {
        site: String,
        url: Url,
        rules: Result<Robots>,
    },
    Page {
        site: String,
        waiting: Waiting,
        robots: &'static str,
        fetched: Fetched,
    },
}

/// One run of a collector.
struct Run<'a> {
    collector: &'a WebCollector,
    config: &'a CrawlConfig,
    frontier: Frontier,
    sites: HashMap<String, Site>,
    drafts: Vec<Draft>,
    rejects: Vec<Reject>,
    progress: Progress,
    /// Pages dealt with since the last delivery.
    undelivered: u64,
    /// Pages read in this crawl, and before this run.
    read: u64,
    read_before: u64,
    /// Why the first page that could not be read could not.
    first_problem: Option<Error>,
}

impl<'a> Run<'a> {
    fn new(collector: &'a WebCollector, resume: Option<&Checkpoint>) -> Result<Self> {
        let config = collector.config.as_ref();
        let mut progress = Progress::default();
        let mut read = 0;
        let mut frontier = match resume {
            None => Frontier::default(),
            Some(checkpoint) => {
                let (frontier, stand) = Frontier::resume(checkpoint, &collector.info.name)?;
                (progress.drafts, progress.rejects) = (stand.drafts, stand.rejects);
                read = stand.read;
                frontier
            }
        };
        for seed in collector.spider.seeds() {
            if let Found::Left(Some(reason)) = frontier.offer(&seed, 0, config) {
                return Err(Error::config(reason)
                    .with("setting", "start")
                    .with("url", redacted(&seed)));
            }
        }
        progress.done = frontier.done_count();
        Ok(Self {
            collector,
            config,
            frontier,
            sites: HashMap::new(),
            drafts: Vec::new(),
            rejects: Vec::new(),
            progress,
            undelivered: 0,
            read,
            read_before: read,
            first_problem: None,
        })
    }

    /// Starts all that may start now; answers when the next thing may, if that is a matter of time only.
    fn start(&mut self, tasks: &mut FuturesUnordered<Task>) -> Option<Instant> {
        let now = Instant::now();
        let mut wake: Option<Instant> = None;
        for (name, url) in self.frontier.sites() {
            while tasks.len() < self.config.concurrency {
                let pages_left =
                    self.config.max_pages > self.frontier.done_count() + self.frontier.in_flight_count();
                let delay = self.config.delay();
                let site = self
                    .sites
                    .entry(name.clone())
                    .or_insert_with(|| Site::new(now, delay));
                if site.parked.is_some() || site.in_flight >= self.config.concurrency_per_host || !pages_left
                {
                    break;
                }
                match &site.rules {
                    Rules::Known(rules) if rules.is_fresh(self.collector.clock.now()) => {}
                    Rules::Fetching { .. } => break,
                    Rules::Unknown { .. } | Rules::Known(_) => {
                        if let Some(rules) = self.collector.recall(&name) {
                            site.ruled(rules, delay);
                            continue;
                        }
                    }
                }
                if site.not_before > now {
                    wake = Some(wake.map_or(site.not_before, |at| at.min(site.not_before)));
                    break;
                }
                let task = match &site.rules {
                    Rules::Known(rules) if rules.is_fresh(self.collector.clock.now()) => {
                        let Some(waiting) = self.frontier.take(&name) else {
                            break;
                        };
                        match rules.decide(&waiting.url) {
                            Decision::Forbidden => {
                                let error = robots::forbidden(&waiting.url);
                                self.leave(&waiting, error);
                                continue;
                            }
                            Decision::Allowed(robots) => self.page(name.clone(), waiting, robots),
                        }
                    }
                    Rules::Unknown { attempt } => {
                        site.rules = Rules::Fetching { attempt: *attempt };
                        self.rules(name.clone(), url.clone())
                    }
                    _ => {
                        site.rules = Rules::Fetching { attempt: 0 };
                        self.rules(name.clone(), url.clone())
                    }
                };
                if let Some(site) = self.sites.get_mut(&name) {
                    site.started(now);
                }
                tasks.push(task);
            }
        }
        wake
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
        let client = self.collector.pages.clone();
        let spider = self.collector.spider.clone();
        let now = self.collector.clock.now();
        Box::pin(async move {
            let fetched = fetch::page(&client, spider, waiting.url.clone(), now).await;
            Ended::Page {
                site,
                waiting,
                robots,
                fetched,
            }
        })
    }

    fn end(&mut self, ended: Ended) {
        let now = Instant::now();
        let name = match &ended {
            Ended::Robots { site, .. } | Ended::Page { site, .. } => site.clone(),
        };
        let delay = self.config.delay();
        let mut site = self.sites.remove(&name).unwrap_or_else(|| Site::new(now, delay));
        site.ended(now, self.config.concurrency_per_host);
        match ended {
            Ended::Robots { url, rules, .. } => self.ruled(&mut site, &name, &url, rules, now),
            Ended::Page {
                waiting,
                robots,
                fetched,
                ..
            } => match fetched {
                Fetched::Parsed(output) => {
                    site.succeeded();
                    self.read += 1;
                    self.take_in(&waiting, robots, output);
                }
                Fetched::Redirect(next) => {
                    site.succeeded();
                    self.redirect(&waiting, &next);
                }
                Fetched::Again { error, after } => self.again(&mut site, waiting, error, after, now),
                Fetched::Failed(error) => {
                    site.succeeded();
                    self.leave(&waiting, error);
                }
            },
        }
        self.sites.insert(name, site);
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
                site.ruled(rules, self.config.delay());
                site.wait(now, self.config.delay());
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
                    }
                }
            }
        }
    }

    fn longest_wait(&self) -> Duration {
        self.config
            .max_retry_after()
            .max(self.config.backoff(self.config.retries))
    }

    fn take_in(&mut self, waiting: &Waiting, robots: &'static str, output: Output) {
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
            self.follow(&link, waiting.depth + 1);
        }
        self.settle(waiting);
    }

    fn follow(&mut self, link: &Url, depth: u32) {
        if !matches!(link.scheme(), "http" | "https") || !self.collector.spider.allows(link) {
            return;
        }
        if let Found::Left(Some(reason)) = self.frontier.offer(link, depth, self.config) {
            self.reject(
                link,
                format!("not fetched: {reason}; told once, others like it follow in silence"),
            );
        }
    }

    fn redirect(&mut self, waiting: &Waiting, next: &Url) {
        let wrong = |message: &'static str| {
            Error::invalid(message)
                .operation("crawl.fetch")
                .with("url", redacted(&waiting.url))
                .with("to", redacted(next))
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
        match self.frontier.redirect(waiting, next) {
            Ok(()) => self.settle(waiting),
            Err(error) => self.leave(waiting, error.with("url", redacted(&waiting.url))),
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
            self.frontier.give_back(waiting);
        } else {
            if site.failed() {
                site.park(again_later(&error, after, &waiting.url), true);
            }
            self.leave(&waiting, error);
        }
    }

    /// A page that cannot be read: reported, and done.
    fn leave(&mut self, waiting: &Waiting, error: Error) {
        self.reject(&waiting.url, error.to_string());
        self.first_problem.get_or_insert(error);
        self.settle(waiting);
    }

    fn reject(&mut self, url: &Url, reason: String) {
        self.progress.rejects += 1;
        self.rejects.push(Reject {
            kind: RejectKind::Invalid,
            place: url.to_string(),
            line: None,
            field: None,
            reason,
        });
    }

    fn settle(&mut self, waiting: &Waiting) {
        self.frontier.done(waiting);
        self.undelivered += 1;
        self.progress.done = self.frontier.done_count();
        let known = self.progress.done + self.frontier.pending_count() + self.frontier.in_flight_count();
        self.progress.total = Some(known.min(self.config.max_pages.max(self.progress.done)));
    }

    /// A checkpoint is as long as the crawl, so the longer the crawl the more pages share one.
    ///
    /// Nothing is delivered before a page was read: a crawl that never begins leaves no checkpoint that says it did.
    fn is_delivery_due(&self) -> bool {
        self.read > 0
            && (self.undelivered > self.frontier.done_count() / 256
                || self.drafts.len() >= MAX_DRAFTS
                || self.rejects.len() >= MAX_DRAFTS)
    }

    async fn deliver(&mut self, sink: &mut dyn DraftSink) -> Result<()> {
        let checkpoint = self.frontier.checkpoint(
            &self.collector.info.name,
            self.read,
            self.progress.drafts,
            self.progress.rejects,
        )?;
        self.undelivered = 0;
        sink.deliver(Delivery {
            drafts: std::mem::take(&mut self.drafts),
            rejects: std::mem::take(&mut self.rejects),
            checkpoint: Some(checkpoint),
            progress: self.progress,
            ..Delivery::default()
        })
        .await
    }

    async fn close(mut self, sink: &mut dyn DraftSink) -> Result<Progress> {
        let left = self.frontier.pending_count();
        let parked: Vec<_> = self.sites.drain().filter_map(|(_, site)| site.parked).collect();
        let unfinished = parked.iter().any(|parked| parked.unfinished);
        let nothing_at_all = self.read == 0;
        let nothing_now = self.read == self.read_before && !parked.is_empty();
        if nothing_at_all || nothing_now {
            let problem = self.first_problem.take().filter(|_| nothing_at_all);
            return match problem.or_else(|| parked.into_iter().next().map(|parked| parked.error)) {
                Some(error) => Err(error
                    .operation("crawl.run")
                    .with("collector", &self.collector.info)),
                None => Ok(self.progress),
            };
        }
        if left > 0 && !unfinished && parked.is_empty() && self.frontier.say_once("max_pages") {
            let reason = format!(
                "max_pages={} reached; {left} URLs were not fetched",
                self.config.max_pages
            );
            self.progress.rejects += 1;
            self.rejects.push(Reject {
                kind: RejectKind::Invalid,
                place: self.collector.info.name.clone(),
                line: None,
                field: None,
                reason,
            });
        }
        if self.undelivered > 0 || !self.drafts.is_empty() || !self.rejects.is_empty() {
            self.deliver(sink).await?;
        }
        match parked.into_iter().find(|parked| parked.unfinished) {
            Some(parked) => Err(parked
                .error
                .with("collector", &self.collector.info)
                .with("left", left)),
            None => Ok(self.progress),
        }
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
