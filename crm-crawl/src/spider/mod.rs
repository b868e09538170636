//! The web spider (feature `crawl`): crawls a site politely and picks people out of its pages.
//!
//! [`WebCollector`] fetches, [`Spider`] parses. Most sites need no code: a [`SpiderSpec`] says with CSS selectors where
//! the people and the links are.
//!
//! What is promised: robots.txt is kept (RFC 9309); one request at a time and one second between requests to a host
//! unless set otherwise; `Retry-After` is waited for; every URL is fetched once; pages, bodies and trees are bounded;
//! only public addresses are dialled ([`crm_core::http`]); what could not be read is reported; a crawl that was killed
//! goes on where it was.
//!
//! ```
//! use crm_crawl::spider::{Document, Spider, SpiderSpec};
//!
//! let spec: SpiderSpec = serde_json::from_str(
//!     r#"{
//!         "name": "shop-site",
//!         "start": ["https://shop.example/customers"],
//!         "follow": ["a.next"],
//!         "item": "div.customer",
//!         "fields": [
//!             {"selector": "h2", "target": "name"},
//!             {"selector": "p > a", "target": "email"}
//!         ]
//!     }"#,
//! )
//! .unwrap();
//! let spider = spec.compile().unwrap();
//! let page = r#"<div class="customer"><h2>Ana Kask</h2><p><a href="mailto:ana@example.com">write</a></p></div>
//!     <a class="next" href="?page=2">more</a>"#;
//! let output = spider.try_on("https://shop.example/customers", page).unwrap();
//! assert_eq!(output.drafts()[0].emails, ["ana@example.com"]);
//! assert_eq!(output.links()[0].as_str(), "https://shop.example/customers?page=2");
//! ```

mod body;
mod bounds;
mod cache;
mod canonical;
mod clean;
mod compiled;
mod config;
mod cookies;
#[cfg(any(test, fuzzing))]
pub(crate) mod doors;
mod engine;
mod fetch;
mod follow;
mod frontier;
mod html;
mod link;
mod middleware;
mod order;
mod query;
mod robots;
mod site;
mod sitemap;
mod spec;
mod stats;
mod stored;
mod trial;
mod xpath;

use std::fmt;

use crm_core::capability::Reject;
use crm_core::customer::{Draft, Provenance};
use crm_core::{Result, Timestamp};
use url::Url;

pub use cache::{CachedPage, PageCache, StoredCache};
pub use clean::Clean;
pub use compiled::CompiledSpec;
pub use config::CrawlConfig;
pub use engine::WebCollector;
pub use follow::FollowSpec;
pub use html::{Document, Element, Match, Selector};
pub use middleware::Middleware;
pub use query::Query;
pub use spec::{Extract, FieldSpec, PageRange, Part, SpiderSpec};
pub use stats::{CrawlStats, SiteStats};
pub use stored::{FrontierCount, StoredFrontier};
pub use trial::Trial;
pub use xpath::XPath;

/// Knows a site: where to begin, and what a page says. Parsing is pure and synchronous; it runs off the async workers.
pub trait Spider: fmt::Debug + Send + Sync + 'static {
    /// The name: the collector's, and the source in the drafts' provenance.
    fn name(&self) -> &str;

    /// Where to begin.
    fn seeds(&self) -> Vec<Url>;

    /// Whether a link may be followed. Asked for every link and redirect; robots.txt is minded besides.
    fn allows(&self, url: &Url) -> bool;

    /// Reads a page.
    fn parse(&self, page: &Page, output: &mut Output);
}

/// A fetched page.
pub struct Page {
    url: Url,
    source: String,
    document: Document,
    /// What links count from.
    base: Url,
    seen_at: Timestamp,
}

impl Page {
    /// A page at `url` as seen at `seen_at`; `source` is the spider's name.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when the tree would be too deep or too large.
    pub fn new(url: Url, source: &str, html: &str, seen_at: Timestamp) -> Result<Self> {
        let document = Document::parse(html)?;
        // A base on another host would let a page hide where its links lead.
        let base = document
            .base()
            .and_then(|base| url.join(base).ok())
            .filter(|base| base.host() == url.host())
            .unwrap_or_else(|| url.clone());
        Ok(Self {
            url,
            source: source.to_owned(),
            document,
            base,
            seen_at,
        })
    }

    /// Where it is.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// What is in it.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Where and when the item of this number (1 is the first) was seen.
    pub fn provenance(&self, item: u64) -> Provenance {
        Provenance::new(self.source.as_str(), self.seen_at)
            .at(self.url.as_str())
            .line(item)
    }

    /// A link of the page as an absolute URL; `None` when it is no http or https URL.
    pub fn link(&self, href: &str) -> Option<Url> {
        self.base
            .join(href.trim())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
    }
}

/// Shows the URL's path only: a query may hold a person's data.
impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page")
            .field("url", &crm_core::http::redacted(&self.url))
            .finish_non_exhaustive()
    }
}

/// What a spider found on a page.
#[derive(Debug, Default)]
pub struct Output {
    drafts: Vec<Draft>,
    rejects: Vec<Reject>,
    links: Vec<Url>,
    passed: Vec<(Url, String)>,
}

impl Output {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// A person.
    pub fn draft(&mut self, draft: Draft) {
        self.drafts.push(draft);
    }
    /// Something that is no person, though it should be.
    pub fn reject(&mut self, reject: Reject) {
        self.rejects.push(reject);
    }
    /// A page to look at, too.
    pub fn follow(&mut self, url: Url) {
        self.links.push(url);
    }
    /// A page not to look at, and why; what a trial run shows.
    pub fn pass(&mut self, url: Url, reason: impl Into<String>) {
        self.passed.push((url, reason.into()));
    }
    /// The persons.
    pub fn drafts(&self) -> &[Draft] {
        &self.drafts
    }
    /// The rejects.
    pub fn rejects(&self) -> &[Reject] {
        &self.rejects
    }
    /// The links.
    pub fn links(&self) -> &[Url] {
        &self.links
    }
    /// The links that are not followed, and why.
    pub fn passed(&self) -> &[(Url, String)] {
        &self.passed
    }
    /// Changes each person, or leaves them out.
    fn sift(&mut self, change: impl FnMut(Draft) -> Option<Draft>) {
        self.drafts = std::mem::take(&mut self.drafts)
            .into_iter()
            .filter_map(change)
            .collect();
    }
    fn into_parts(self) -> (Vec<Draft>, Vec<Reject>, Vec<Url>) {
        (self.drafts, self.rejects, self.links)
    }
}
