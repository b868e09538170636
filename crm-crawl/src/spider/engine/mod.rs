mod end;
mod run;
mod start;
mod tell;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use crm_core::capability::{Checkpoint, Collector, CollectorCapability, DraftSink, Progress};
use crm_core::http::{HttpClient, HttpConfig, Resolver, SystemResolver};
use crm_core::{
    Clock, Context, Error, Health, IdSource, Provider, ProviderInfo, RandomIds, Result, SystemClock,
};
use tokio::sync::{Notify, Semaphore};

use super::cookies::Jar;
use super::fetch::Visitor;
use super::robots::{self, Robots};
use super::stats::Board;
use super::{CrawlConfig, CrawlStats, Middleware, PageCache, Spider, SpiderSpec, StoredFrontier};
use run::Run;

/// Sites whose robots.txt is remembered between runs.
const MAX_REMEMBERED: usize = 1024;

/// Crawls a site with a [`Spider`]. A [`Collector`]: register it, or hand it to `Collection`.
///
/// It goes on from every checkpoint: what was delivered is not fetched again, what was in flight is. A page is
/// delivered with the checkpoint that marks it done; a long crawl puts some pages together, so that its checkpoints
/// stay cheap. A crawl that is larger than a checkpoint may be (about 30,000 URLs), or that several processes share, needs
/// [`WebCollector::with_frontier`].
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
/// assert_eq!(collector.stats().pages, 0);
/// ```
pub struct WebCollector {
    info: ProviderInfo,
    pub(super) spider: Arc<dyn Spider>,
    pub(super) config: Arc<CrawlConfig>,
    pub(super) pages: HttpClient,
    pub(super) robots: HttpClient,
    pub(super) clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    frontier: Option<StoredFrontier>,
    cache: Option<Arc<dyn PageCache>>,
    middleware: Arc<[Arc<dyn Middleware>]>,
    remembered: Mutex<HashMap<String, Arc<Robots>>>,
    board: Board,
    stop: Stop,
}

/// Asks a run to end.
#[derive(Default)]
struct Stop {
    asked: AtomicBool,
    wake: Notify,
}

/// While a run lasts, however it ends.
struct Running<'a>(&'a WebCollector);

impl<'a> Running<'a> {
    fn begin(collector: &'a WebCollector) -> Self {
        let now = collector.clock.now();
        collector.board.write(|stats| {
            *stats = CrawlStats {
                started_at: Some(now),
                running: true,
                ..CrawlStats::default()
            };
        });
        Self(collector)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.board.write(|stats| {
            stats.running = false;
            stats.in_flight = 0;
        });
        self.0.stop.asked.store(false, Ordering::Relaxed);
    }
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
        Self::with_resolver(spider, config, Arc::new(SystemResolver))
    }

    /// A collector that asks `resolver` for addresses; the guard filters what it answers ([`crm_core::http`]).
    ///
    /// # Errors
    /// As [`WebCollector::new`].
    pub fn with_resolver(
        spider: Arc<dyn Spider>,
        config: CrawlConfig,
        resolver: Arc<dyn Resolver>,
    ) -> Result<Self> {
        config.validate()?;
        let token = config.product_token();
        if token.is_empty() {
            return Err(Error::config(
                "the user agent begins with a product token of letters, '-' and '_', by which robots.txt calls it",
            )
            .with("setting", "http.user_agent"));
        }
        let pages = HttpConfig {
            max_redirects: 0,
            ..config.http.clone()
        };
        let robots = HttpConfig {
            max_redirects: robots::MAX_REDIRECTS,
            max_body: robots::MAX_BYTES,
            ..config.http.clone()
        };
        Ok(Self {
            info: ProviderInfo::new("spider", spider.name()),
            spider,
            config: Arc::new(config),
            pages: HttpClient::with_resolver(pages, resolver.clone())?,
            robots: HttpClient::with_resolver(robots, resolver)?,
            clock: SystemClock::shared(),
            ids: Arc::new(RandomIds::new(SystemClock::shared())),
            frontier: None,
            cache: None,
            middleware: Arc::new([]),
            remembered: Mutex::default(),
            board: Board::default(),
            stop: Stop::default(),
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

    /// The name of the collector, under which it is registered and its import job is kept; the spider's own name unless
    /// said otherwise, which stays the source of the persons. Processes that share a frontier need different ones, such
    /// as `shops@machine-1`: an import has one writer.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.info = ProviderInfo::new("spider", name);
        self
    }

    /// Keeps the URLs in a store instead of the checkpoint: for crawls of any size, and for several processes.
    #[must_use]
    pub fn with_frontier(mut self, frontier: StoredFrontier) -> Self {
        self.frontier = Some(frontier);
        self
    }

    /// Keeps pages between runs: what is fresh is not asked for, what may have changed is asked about (`If-None-Match`,
    /// `If-Modified-Since`). Pages that came with cookies or for which credentials were sent are not kept.
    #[must_use]
    pub fn with_cache(mut self, cache: Arc<dyn PageCache>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Adds one that looks at requests, answers and persons; those added before are asked before.
    #[must_use]
    pub fn with_middleware(mut self, middleware: Arc<dyn Middleware>) -> Self {
        self.middleware = self.middleware.iter().cloned().chain([middleware]).collect();
        self
    }

    /// How the run goes, or the last one went. Cheap enough to ask each second. Of two runs at the same time the figures
    /// are mixed: give each a collector.
    pub fn stats(&self) -> CrawlStats {
        self.board.read()
    }

    /// Asks the run to end: nothing more is asked for, what is under way is finished and delivered, and `collect` answers
    /// [`crm_core::ErrorKind::Cancelled`], so that a job goes on later from its checkpoint. Without a run nothing happens.
    pub fn stop(&self) {
        if self.board.read().running {
            self.stop.asked.store(true, Ordering::Relaxed);
            self.stop.wake.notify_one();
        }
    }

    pub(super) fn visitor(&self, ctx: &Context) -> Arc<Visitor> {
        // More parsers than cores would only add stacks and trees.
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Arc::new(Visitor {
            ctx: ctx.clone(),
            client: self.pages.clone(),
            spider: self.spider.clone(),
            middleware: self.middleware.clone(),
            cache: self.cache.clone(),
            jar: self.config.cookies.then(|| Mutex::new(Jar::default())),
            parsers: Semaphore::new(cores),
            sort_query: self.config.sort_query,
        })
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
        Ok(
            if self.spider.seeds().is_empty() && self.config.sitemaps.is_empty() {
                Health::Down
            } else {
                Health::Ready
            },
        )
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
    /// first; the rest waits in the last checkpoint. With a stored frontier the checkpoint names it, and the frontier
    /// alone says where the crawl goes on.
    async fn collect(
        &self,
        ctx: &Context,
        resume: Option<&Checkpoint>,
        sink: &mut dyn DraftSink,
    ) -> Result<Progress> {
        let _running = Running::begin(self);
        let frontier = self
            .frontier
            .as_ref()
            .map(|f| f.for_run(&self.ids.fresh().to_string()));
        let run = Run::new(self, ctx, frontier, resume).await?;
        run.run(sink).await
    }
}
