//! What is known of a crawl: what waits, what is done, what was said once. A checkpoint is this, written down.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use crm_core::capability::Checkpoint;
use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};
use url::Url;

use super::canonical::{authority, canonical, digest, trap, variants_key};
use super::config::CrawlConfig;

const KIND: &str = "crawl/1";

/// A URL that waits to be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) url: Url,
    /// Links from a seed.
    pub(super) depth: u32,
    /// Attempts made.
    #[serde(default)]
    pub(super) attempt: u32,
    /// The redirects that led here, by digest.
    #[serde(default)]
    pub(super) chain: Vec<u64>,
}

/// What to do with a URL that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Taken,
    Known,
    /// Not fetched; the reason is told once.
    Left(Option<String>),
}

#[derive(Debug, Default)]
pub(super) struct Frontier {
    /// By scheme, host and port, so that a slow site does not hold up the others.
    queues: BTreeMap<String, VecDeque<Waiting>>,
    in_flight: HashMap<u64, Waiting>,
    pending: usize,
    seen: HashSet<u64>,
    done: Vec<u64>,
    variants: HashMap<u64, u32>,
    told: BTreeSet<String>,
}

/// A checkpoint. Written by hand only in its keys: the rest is the frontier.
#[derive(Serialize, Deserialize)]
pub(super) struct Stand {
    kind: String,
    spider: String,
    waiting: Vec<Waiting>,
    /// Digests of what is done, 16 hexadecimal digits each.
    done: String,
    variants: Vec<(u64, u32)>,
    told: BTreeSet<String>,
    /// Pages read.
    pub(super) read: u64,
    pub(super) drafts: u64,
    pub(super) rejects: u64,
}

impl Frontier {
    /// Takes a URL if it is new and sensible.
    pub(super) fn offer(&mut self, url: &Url, depth: u32, config: &CrawlConfig) -> Found {
        let url = canonical(url);
        let key = digest(&url);
        if self.seen.contains(&key) {
            return Found::Known;
        }
        let left = if let Some(reason) = trap(&url) {
            Some(format!("{reason}; it is taken for a trap"))
        } else if depth > config.max_depth {
            Some(format!(
                "more than max_depth={} links from the start",
                config.max_depth
            ))
        } else if self.pending >= config.max_pending {
            Some(format!("max_pending={} URLs wait already", config.max_pending))
        } else if url.query().is_some() && self.count_variant(&url) > config.max_variants {
            Some(format!(
                "more than max_variants={} pages differ in their query only",
                config.max_variants
            ))
        } else {
            None
        };
        if let Some(reason) = left {
            let new = self.told.insert(reason.clone());
            return Found::Left(new.then_some(reason));
        }
        self.seen.insert(key);
        self.push(
            Waiting {
                url,
                depth,
                attempt: 0,
                chain: Vec::new(),
            },
            false,
        );
        Found::Taken
    }

    fn count_variant(&mut self, url: &Url) -> u32 {
        let count = self.variants.entry(variants_key(url)).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }

    /// Follows a redirect: the target waits first in line, with the way that led to it.
    pub(super) fn redirect(&mut self, from: &Waiting, to: &Url) -> Result<()> {
        let wrong = |message: &'static str| Err(Error::invalid(message).operation("crawl.fetch"));
        let url = canonical(to);
        let (here, there) = (digest(&from.url), digest(&url));
        if there == here || from.chain.contains(&there) {
            return wrong("the redirects go round in a circle");
        }
        if from.chain.len() >= 10 {
            return wrong("more than 10 redirects");
        }
        if let Some(reason) = trap(&url) {
            return wrong(reason);
        }
        if self.seen.insert(there) {
            let mut chain = from.chain.clone();
            chain.push(here);
            self.push(
                Waiting {
                    url,
                    depth: from.depth,
                    attempt: 0,
                    chain,
                },
                true,
            );
        }
        Ok(())
    }

    fn push(&mut self, waiting: Waiting, first: bool) {
        let queue = self.queues.entry(authority(&waiting.url)).or_default();
        if first {
            queue.push_front(waiting)
        } else {
            queue.push_back(waiting)
        }
        self.pending += 1;
    }

    /// The sites for which something waits, with the next URL of each.
    pub(super) fn sites(&self) -> Vec<(String, Url)> {
        self.queues
            .iter()
            .filter_map(|(site, queue)| queue.front().map(|waiting| (site.clone(), waiting.url.clone())))
            .collect()
    }

    /// The next URL of a site; it is in flight until it is done or given back.
    pub(super) fn take(&mut self, site: &str) -> Option<Waiting> {
        let waiting = self.queues.get_mut(site)?.pop_front()?;
        self.pending -= 1;
        self.in_flight.insert(digest(&waiting.url), waiting.clone());
        Some(waiting)
    }

    /// It is dealt with for good.
    pub(super) fn done(&mut self, waiting: &Waiting) {
        let key = digest(&waiting.url);
        self.in_flight.remove(&key);
        self.done.push(key);
    }

    /// It is to be tried again.
    pub(super) fn give_back(&mut self, waiting: Waiting) {
        self.in_flight.remove(&digest(&waiting.url));
        self.push(waiting, true);
    }

    /// Whether something is said for the first time in this crawl.
    pub(super) fn say_once(&mut self, what: &str) -> bool {
        self.told.insert(what.to_owned())
    }

    pub(super) fn done_count(&self) -> u64 {
        self.done.len() as u64
    }

    pub(super) fn in_flight_count(&self) -> u64 {
        self.in_flight.len() as u64
    }

    pub(super) fn pending_count(&self) -> u64 {
        self.pending as u64
    }

    /// Writes it down; what is in flight waits again.
    pub(super) fn checkpoint(
        &self,
        spider: &str,
        read: u64,
        drafts: u64,
        rejects: u64,
    ) -> Result<Checkpoint> {
        let mut in_flight: Vec<&Waiting> = self.in_flight.values().collect();
        in_flight.sort_by_key(|waiting| &waiting.url);
        let stand = Stand {
            kind: KIND.to_owned(),
            spider: spider.to_owned(),
            waiting: in_flight
                .into_iter()
                .chain(self.queues.values().flatten())
                .cloned()
                .collect(),
            done: self.done.iter().map(|key| format!("{key:016x}")).collect(),
            variants: self
                .variants
                .iter()
                .map(|(key, count)| (*key, *count))
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect(),
            told: self.told.clone(),
            read,
            drafts,
            rejects,
        };
        serde_json::to_value(&stand)
            .map(Checkpoint)
            .map_err(|error| Error::unexpected("a checkpoint cannot be written").source(error))
    }

    /// Reads it back.
    pub(super) fn resume(checkpoint: &Checkpoint, spider: &str) -> Result<(Self, Stand)> {
        let wrong = || {
            Error::invalid("the checkpoint is not one of this spider; start anew without it")
                .operation("crawl.resume")
                .with("spider", spider)
        };
        let mut stand: Stand = serde_json::from_value(checkpoint.0.clone()).map_err(|_| wrong())?;
        if stand.kind != KIND || stand.spider != spider || !stand.done.is_ascii() {
            return Err(wrong());
        }
        let mut frontier = Self::default();
        for hex in stand.done.as_bytes().chunks(16) {
            let key = std::str::from_utf8(hex)
                .ok()
                .and_then(|hex| u64::from_str_radix(hex, 16).ok())
                .ok_or_else(wrong)?;
            frontier.seen.insert(key);
            frontier.done.push(key);
        }
        for mut waiting in std::mem::take(&mut stand.waiting) {
            if frontier.seen.insert(digest(&waiting.url)) {
                waiting.attempt = 0;
                frontier.push(waiting, false);
            }
        }
        frontier.variants = std::mem::take(&mut stand.variants).into_iter().collect();
        frontier.told = std::mem::take(&mut stand.told);
        Ok((frontier, stand))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_url_is_taken_once_and_comes_back_from_a_checkpoint() {
        let config = CrawlConfig::default();
        let mut frontier = Frontier::default();
        assert_eq!(
            frontier.offer(&url("http://s.example/a#x"), 0, &config),
            Found::Taken
        );
        assert_eq!(
            frontier.offer(&url("http://s.example/a"), 0, &config),
            Found::Known
        );
        assert_eq!(
            frontier.offer(&url("http://s.example/b"), 0, &config),
            Found::Taken
        );
        assert_eq!(
            frontier.offer(&url("http://s.example/c"), 0, &config),
            Found::Taken
        );
        let a = frontier.take("http://s.example").unwrap();
        let _b = frontier.take("http://s.example").unwrap();
        frontier.done(&a);
        let (mut back, stand) = Frontier::resume(&frontier.checkpoint("s", 1, 3, 1).unwrap(), "s").unwrap();
        assert_eq!(
            (
                stand.drafts,
                stand.rejects,
                back.done_count(),
                back.pending_count()
            ),
            (3, 1, 1, 2)
        );
        assert_eq!(back.offer(&url("http://s.example/a"), 0, &config), Found::Known);
        let mut rest = [
            back.take("http://s.example").unwrap(),
            back.take("http://s.example").unwrap(),
        ];
        rest.sort_by(|x, y| x.url.cmp(&y.url));
        assert_eq!(rest[0].url.path(), "/b");
        assert_eq!(rest[1].url.path(), "/c");
        assert!(Frontier::resume(&frontier.checkpoint("s", 0, 0, 0).unwrap(), "other").is_err());
        assert!(Frontier::resume(&Checkpoint(serde_json::json!({"kind": "csv/1"})), "s").is_err());
    }

    #[test]
    fn traps_end_and_are_told_once() {
        let config = CrawlConfig {
            max_variants: 5,
            ..CrawlConfig::default()
        };
        let mut frontier = Frontier::default();
        let found: Vec<Found> = (0..20)
            .map(|day| frontier.offer(&url(&format!("http://s.example/cal?day={day}")), 1, &config))
            .collect();
        assert_eq!(found.iter().filter(|f| **f == Found::Taken).count(), 5);
        assert_eq!(
            found.iter().filter(|f| matches!(f, Found::Left(Some(_)))).count(),
            1
        );
    }

    #[test]
    fn redirects_in_a_circle_are_seen() {
        let mut frontier = Frontier::default();
        frontier.offer(&url("http://s.example/a"), 0, &CrawlConfig::default());
        let a = frontier.take("http://s.example").unwrap();
        frontier.redirect(&a, &url("http://s.example/b")).unwrap();
        frontier.done(&a);
        let b = frontier.take("http://s.example").unwrap();
        assert!(frontier.redirect(&b, &url("http://s.example/a")).is_err());
        assert!(frontier.redirect(&b, &url("http://s.example/b")).is_err());
    }
}
