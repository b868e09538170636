//! Links as the frontier takes them: in one form, each once. Made where pages are parsed, off the async workers.

use std::collections::HashSet;

use url::Url;

use super::Spider;
use super::canonical::{canonical, digest, trap};

/// The most links that are taken from one page; Heritrix stops at 6,000.
pub(super) const MAX_LINKS: usize = 10_000;

/// A canonical URL, and what is known of it from its looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) url: Url,
    /// Its digest.
    pub(super) key: u64,
    /// Why it is taken for a trap.
    pub(super) trap: Option<&'static str>,
}

impl Link {
    pub(super) fn new(url: &Url, sort_query: bool) -> Self {
        let url = canonical(url, sort_query);
        let (key, trap) = (digest(&url), trap(&url));
        Self { url, key, trap }
    }
}

/// The links of a page.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) links: Vec<Link>,
    /// There were more.
    pub(super) cut: bool,
}

impl Links {
    /// Each link that the spider allows, once; at most `most` of them.
    pub(super) fn of<'a>(
        found: impl IntoIterator<Item = &'a Url>,
        spider: &dyn Spider,
        sort_query: bool,
        most: usize,
    ) -> Self {
        let mut seen = HashSet::new();
        let mut links = Vec::new();
        for url in found {
            if !matches!(url.scheme(), "http" | "https") || !spider.allows(url) {
                continue;
            }
            let link = Link::new(url, sort_query);
            if seen.insert(link.key) {
                if links.len() == most {
                    return Self { links, cut: true };
                }
                links.push(link);
            }
        }
        Self { links, cut: false }
    }
}
