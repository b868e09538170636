use std::time::Duration;

use crm_core::http::HttpConfig;
use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};
use url::Url;

/// How a crawl behaves. Times are in seconds.
///
/// ```
/// use crm_crawl::spider::CrawlConfig;
///
/// let config: CrawlConfig = serde_json::from_str(r#"{"max_pages": 50, "delay": 0.2}"#).unwrap();
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrawlConfig {
    /// The HTTP client: user agent, time-outs, the most bytes of a page, exceptions from the address guard. Its
    /// `max_redirects` does not count: redirects pass robots.txt, the delay and the spider's domains like any link.
    pub http: HttpConfig,
    /// The most pages that are fetched, 1 to 1,000,000. 1,000.
    pub max_pages: u64,
    /// The most links from a seed to a page. 199: a page that leads to another one without end ends after 200.
    pub max_depth: u32,
    /// The most pages of one path that differ in their query only: the end of endless calendars. 200.
    pub max_variants: u32,
    /// The most URLs that wait to be fetched. 10,000.
    pub max_pending: usize,
    /// The least time between two requests to one scheme, host and port; robots.txt may ask for more. 1 s. Lower it
    /// only for sites that are your own.
    pub delay: f64,
    /// Requests to one scheme, host and port at the same time, 1 to 16. 1.
    pub concurrency_per_host: usize,
    /// Requests at the same time, 1 to 64. 8.
    pub concurrency: usize,
    /// How often a page is asked for again after 408, 429, 5xx or a network error. 2.
    pub retries: u32,
    /// The adaptive throttle: how many requests a site is to work on at the same time, by how long its answers take. After
    /// each answer the delay moves halfway to latency / this, at once to it when that is longer; an answer other than 200
    /// never makes it shorter, and it never falls below `delay`. 0 switches it off, as does a `delay` of 0. 1.
    pub target_concurrency: f64,
    /// The longest delay the throttle comes to. 60 s.
    pub max_delay: f64,
    /// Keeps cookies for the time of a run and sends them where they belong (RFC 6265). true.
    pub cookies: bool,
    /// Sitemaps whose pages are seeds, too. An index is followed once, not the indexes in it.
    pub sitemaps: Vec<Url>,
    /// Takes the sitemaps that the robots.txt of a start URL's site names as well. false.
    pub robots_sitemaps: bool,
    /// Takes URLs whose parameters differ in their order only for one page. false.
    pub sort_query: bool,
    /// The first wait before asking again, doubled each time. 1 s.
    pub backoff: f64,
    /// The longest `Retry-After` that is waited for; a site that asks for more is left alone in this run. 120 s.
    pub max_retry_after: f64,
    /// By what right personal data is collected here, in your words (GDPR, Art. 6 and 14): `legitimate interest: B2B
    /// contacts, assessment 2026-03`. Kept with each person as the attribute `crawl_lawful_basis`. At most 500 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lawful_basis: Option<String>,
}

impl Default for CrawlConfig {
    fn default() -> Self {
        Self {
            http: HttpConfig::default(),
            max_pages: 1000,
            max_depth: 199,
            max_variants: 200,
            max_pending: 10_000,
            delay: 1.0,
            concurrency_per_host: 1,
            concurrency: 8,
            retries: 2,
            target_concurrency: 1.0,
            max_delay: 60.0,
            cookies: true,
            sitemaps: Vec::new(),
            robots_sitemaps: false,
            sort_query: false,
            backoff: 1.0,
            max_retry_after: 120.0,
            lawful_basis: None,
        }
    }
}

impl CrawlConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        self.http.validate()?;
        if !(1..=1_000_000).contains(&self.max_pages) {
            return wrong("max_pages", "a crawl has 1 to 1,000,000 pages");
        }
        if self.max_variants == 0 {
            return wrong("max_variants", "at least 1 page of a path is fetched");
        }
        if !(1..=1_000_000).contains(&self.max_pending) {
            return wrong("max_pending", "1 to 1,000,000 URLs may wait");
        }
        if !(1..=16).contains(&self.concurrency_per_host) {
            return wrong(
                "concurrency_per_host",
                "1 to 16 requests go to a host at the same time",
            );
        }
        if !(1..=64).contains(&self.concurrency) {
            return wrong("concurrency", "1 to 64 requests are made at the same time");
        }
        if self.retries > 10 {
            return wrong("retries", "a page is asked for again at most 10 times");
        }
        if !(0.0..=64.0).contains(&self.target_concurrency) {
            return wrong(
                "target_concurrency",
                "a site works on more than 0 to 64 requests at the same time; 0 switches the throttle off",
            );
        }
        if self.sitemaps.len() > 100
            || self
                .sitemaps
                .iter()
                .any(|url| !matches!(url.scheme(), "http" | "https"))
        {
            return wrong("sitemaps", "at most 100 http or https URLs");
        }
        if let Some(basis) = &self.lawful_basis
            && (basis.trim().is_empty() || basis.chars().count() > 500)
        {
            return wrong("lawful_basis", "1 to 500 characters, or left out");
        }
        for (setting, seconds) in [
            ("max_delay", self.max_delay),
            ("delay", self.delay),
            ("backoff", self.backoff),
            ("max_retry_after", self.max_retry_after),
        ] {
            if !(0.0..=86_400.0).contains(&seconds) {
                return wrong(setting, "a time is 0 to 86,400 s");
            }
        }
        Ok(())
    }

    pub(super) fn delay(&self) -> Duration {
        Duration::from_secs_f64(self.delay)
    }

    pub(super) fn max_delay(&self) -> Duration {
        Duration::from_secs_f64(self.max_delay.max(self.delay))
    }

    pub(super) fn max_retry_after(&self) -> Duration {
        Duration::from_secs_f64(self.max_retry_after)
    }

    /// The wait before the attempt after `attempt` (0 is the first).
    pub(super) fn backoff(&self, attempt: u32) -> Duration {
        Duration::from_secs_f64((self.backoff * f64::from(1u32 << attempt.min(10))).min(60.0))
    }

    /// What robots.txt calls us: the user agent up to the first character that is not of a product token (RFC 9309, 2.2.1).
    pub(super) fn product_token(&self) -> &str {
        let agent = self.http.user_agent.trim();
        let end = agent
            .find(|c: char| !(c.is_ascii_alphabetic() || c == '-' || c == '_'))
            .unwrap_or(agent.len());
        agent.get(..end).unwrap_or(agent)
    }
}
