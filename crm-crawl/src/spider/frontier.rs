//! What is known of a crawl: what waits, what is done, what was said once. A checkpoint is this, written down.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use crm_core::capability::Checkpoint;
use crm_core::record::{MAX_VALUE_BYTES, Version};
use crm_core::{Error, Result, Timestamp, Uuid};
use serde::{Deserialize, Serialize};
use url::Url;

use super::canonical::{authority, canonical, digest, trap, variants_key};
use super::config::CrawlConfig;

const KIND: &str = "crawl/2";
/// URLs that a run with a stored frontier remembers; the store recognises the others.
const MAX_SEEN: usize = 1 << 20;

/// What is expected at a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    #[default]
    Page,
    Sitemap,
    /// A sitemap that an index listed; it may not be an index itself.
    Part,
}

impl Kind {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Page => 0,
            Self::Sitemap => 1,
            Self::Part => 2,
        }
    }

    pub(super) fn of(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::Page,
            1 => Self::Sitemap,
            2 => Self::Part,
            _ => return None,
        })
    }
}

/// The record of a URL in a stored frontier, as it was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) id: Uuid,
    pub(super) version: Version,
    pub(super) until: Timestamp,
    /// Where it stands in the queue.
    pub(super) position: i64,
}

/// A URL that waits to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) url: Url,
    /// Links from a seed.
    pub(super) depth: u32,
    /// Attempts made.
    pub(super) attempt: u32,
    pub(super) kind: Kind,
    /// The redirects that led here, by digest.
    pub(super) chain: Vec<u64>,
    /// With a stored frontier: what holds it.
    pub(super) lease: Option<Lease>,
}

impl Waiting {
    pub(super) fn new(url: Url, depth: u32, kind: Kind) -> Self {
        Self {
            url,
            depth,
            attempt: 0,
            kind,
            chain: Vec::new(),
            lease: None,
        }
    }

    /// One line; the attempts are not kept.
    fn write(&self, out: &mut String) {
        use std::fmt::Write as _;
        let _ = write!(out, "{} {} ", self.depth, self.kind.code());
        for (i, hop) in self.chain.iter().enumerate() {
            let _ = write!(out, "{}{hop:x}", if i == 0 { "" } else { "," });
        }
        let _ = writeln!(out, " {}", self.url);
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        let (depth, kind, chain, url) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let chain: Option<Vec<u64>> = chain
            .split(',')
            .filter(|hop| !hop.is_empty())
            .map(|hop| u64::from_str_radix(hop, 16).ok())
            .collect();
        let mut waiting = Self::new(
            Url::parse(url).ok()?,
            depth.parse().ok()?,
            Kind::of(kind.parse().ok()?)?,
        );
        waiting.chain = chain?;
        Some(waiting)
    }
}

/// What to do with a URL that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Taken,
    Known,
    /// Not fetched; the reason is told once.
    Left(Option<String>),
}

/// What a run with a stored frontier has to write down.
#[derive(Debug, Default)]
pub(super) struct News {
    /// URLs that were found.
    pub(super) found: Vec<Waiting>,
    /// URLs that are dealt with for good.
    pub(super) done: Vec<Waiting>,
}

#[derive(Debug, Default)]
pub(super) struct Frontier {
    /// By scheme, host and port, so that a slow site does not hold up the others.
    queues: BTreeMap<String, VecDeque<Waiting>>,
    in_flight: HashMap<u64, Waiting>,
    pending: usize,
    seen: HashSet<u64>,
    /// Empty with a stored frontier.
    done: Vec<u64>,
    done_count: u64,
    variants: HashMap<u64, u32>,
    told: BTreeSet<String>,
    /// With a stored frontier: what is found goes there, not into the queues.
    news: Option<News>,
    /// Bytes of the checkpoint's list of what waits, about.
    waiting_bytes: usize,
}

/// A checkpoint. Long lists are texts: a tree of values would cost more than the crawl.
#[derive(Serialize, Deserialize)]
pub(super) struct Stand {
    kind: String,
    spider: String,
    /// A line each.
    waiting: String,
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
    /// One that is the local part of a stored frontier, in which `done` URLs are done and these numbers of variants
    /// were found.
    pub(super) fn stored(done: u64, variants: HashMap<u64, u32>) -> Self {
        Self {
            done_count: done,
            variants,
            news: Some(News::default()),
            ..Self::default()
        }
    }

    /// Takes a URL if it is new and sensible.
    pub(super) fn offer(&mut self, url: &Url, depth: u32, kind: Kind, config: &CrawlConfig) -> Found {
        let url = canonical(url, config.sort_query);
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
        } else if self.pending + self.found_count() >= config.max_pending {
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
        self.remember(key);
        self.put(Waiting::new(url, depth, kind), false);
        Found::Taken
    }

    fn found_count(&self) -> usize {
        self.news.as_ref().map_or(0, |news| news.found.len())
    }

    fn remember(&mut self, key: u64) -> bool {
        if self.news.is_some() && self.seen.len() >= MAX_SEEN {
            self.seen.clear();
        }
        self.seen.insert(key)
    }

    /// What was found goes where it belongs.
    fn put(&mut self, waiting: Waiting, first: bool) {
        match &mut self.news {
            Some(news) => news.found.push(waiting),
            None => self.push(waiting, first),
        }
    }

    fn count_variant(&mut self, url: &Url) -> u32 {
        let count = self.variants.entry(variants_key(url)).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }

    /// Follows a redirect: the target waits first in line, with the way that led to it.
    pub(super) fn redirect(&mut self, from: &Waiting, to: &Url, config: &CrawlConfig) -> Result<()> {
        let wrong = |message: &'static str| Err(Error::invalid(message).operation("crawl.fetch"));
        let url = canonical(to, config.sort_query);
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
        if self.remember(there) {
            let mut next = Waiting::new(url, from.depth, from.kind);
            next.chain.clone_from(&from.chain);
            next.chain.push(here);
            self.put(next, true);
        }
        Ok(())
    }

    fn push(&mut self, waiting: Waiting, first: bool) {
        self.waiting_bytes += waiting.url.as_str().len() + 8;
        let queue = self.queues.entry(authority(&waiting.url)).or_default();
        if first {
            queue.push_front(waiting)
        } else {
            queue.push_back(waiting)
        }
        self.pending += 1;
    }

    /// Takes in URLs that were claimed from a stored frontier.
    pub(super) fn claimed(&mut self, waiting: Vec<Waiting>) {
        for waiting in waiting {
            let key = digest(&waiting.url);
            if !self.in_flight.contains_key(&key) {
                self.remember(key);
                self.push(waiting, false);
            }
        }
    }

    /// The sites for which something waits.
    pub(super) fn sites(&self) -> impl Iterator<Item = &str> {
        self.queues
            .iter()
            .filter(|(_, queue)| !queue.is_empty())
            .map(|(site, _)| site.as_str())
    }

    /// The next URL of a site, without taking it.
    pub(super) fn first(&self, site: &str) -> Option<&Url> {
        Some(&self.queues.get(site)?.front()?.url)
    }

    /// The next URL of a site; it is in flight until it is done or given back.
    pub(super) fn take(&mut self, site: &str) -> Option<Waiting> {
        let waiting = self.queues.get_mut(site)?.pop_front()?;
        self.pending -= 1;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(waiting.url.as_str().len() + 8);
        self.in_flight.insert(digest(&waiting.url), waiting.clone());
        Some(waiting)
    }

    /// It is dealt with for good.
    pub(super) fn done(&mut self, waiting: Waiting) {
        let key = digest(&waiting.url);
        self.in_flight.remove(&key);
        self.done_count += 1;
        match &mut self.news {
            Some(news) => news.done.push(waiting),
            None => self.done.push(key),
        }
    }

    /// It is to be tried again.
    pub(super) fn give_back(&mut self, waiting: Waiting) {
        self.in_flight.remove(&digest(&waiting.url));
        self.push(waiting, true);
    }

    /// It is somebody else's now.
    pub(super) fn lost(&mut self, waiting: &Waiting) {
        self.in_flight.remove(&digest(&waiting.url));
    }

    /// What is to be written down, taken out. `None` without a stored frontier.
    pub(super) fn news(&mut self) -> Option<News> {
        self.news.as_mut().map(std::mem::take)
    }

    /// How much is to be written down: found, and done.
    pub(super) fn news_count(&self) -> (usize, usize) {
        self.news
            .as_ref()
            .map_or((0, 0), |news| (news.found.len(), news.done.len()))
    }

    /// Everything that waits here, taken out.
    pub(super) fn drain(&mut self) -> Vec<Waiting> {
        self.pending = 0;
        self.waiting_bytes = 0;
        std::mem::take(&mut self.queues).into_values().flatten().collect()
    }

    /// Whether something is said for the first time in this crawl.
    pub(super) fn say_once(&mut self, what: &str) -> bool {
        self.told.insert(what.to_owned())
    }

    pub(super) fn done_count(&self) -> u64 {
        self.done_count
    }

    pub(super) fn in_flight_count(&self) -> u64 {
        self.in_flight.len() as u64
    }

    pub(super) fn pending_count(&self) -> u64 {
        self.pending as u64
    }

    /// Whether a checkpoint would be longer than a store takes.
    pub(super) fn is_too_large(&self) -> bool {
        let rest = 40 * self.variants.len() + 200 * self.told.len() + 200 * self.in_flight.len() + 1024;
        self.waiting_bytes + 16 * self.done.len() + rest > MAX_VALUE_BYTES
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
        let mut waiting = String::with_capacity(self.waiting_bytes);
        for one in in_flight.into_iter().chain(self.queues.values().flatten()) {
            one.write(&mut waiting);
        }
        let mut done = String::with_capacity(16 * self.done.len());
        for key in &self.done {
            for digit in (0..16).rev() {
                let digit = u32::try_from(key >> (digit * 4) & 0xf).unwrap_or_default();
                done.push(char::from_digit(digit, 16).unwrap_or('0'));
            }
        }
        let stand = Stand {
            kind: KIND.to_owned(),
            spider: spider.to_owned(),
            waiting,
            done,
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
        frontier.done_count = frontier.done.len() as u64;
        for line in std::mem::take(&mut stand.waiting).lines() {
            let waiting = Waiting::read(line).ok_or_else(wrong)?;
            if frontier.seen.insert(digest(&waiting.url)) {
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
            frontier.offer(&url("http://s.example/a#x"), 0, Kind::Page, &config),
            Found::Taken
        );
        assert_eq!(
            frontier.offer(&url("http://s.example/a"), 0, Kind::Page, &config),
            Found::Known
        );
        assert_eq!(
            frontier.offer(&url("http://s.example/b"), 0, Kind::Page, &config),
            Found::Taken
        );
        assert_eq!(
            frontier.offer(&url("http://s.example/c"), 0, Kind::Page, &config),
            Found::Taken
        );
        let a = frontier.take("http://s.example").unwrap();
        let _b = frontier.take("http://s.example").unwrap();
        frontier.done(a.clone());
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
        assert_eq!(
            back.offer(&url("http://s.example/a"), 0, Kind::Page, &config),
            Found::Known
        );
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
            .map(|day| {
                frontier.offer(
                    &url(&format!("http://s.example/cal?day={day}")),
                    1,
                    Kind::Page,
                    &config,
                )
            })
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
        frontier.offer(&url("http://s.example/a"), 0, Kind::Page, &CrawlConfig::default());
        let a = frontier.take("http://s.example").unwrap();
        frontier
            .redirect(&a, &url("http://s.example/b"), &CrawlConfig::default())
            .unwrap();
        frontier.done(a.clone());
        let b = frontier.take("http://s.example").unwrap();
        assert!(
            frontier
                .redirect(&b, &url("http://s.example/a"), &CrawlConfig::default())
                .is_err()
        );
        assert!(
            frontier
                .redirect(&b, &url("http://s.example/b"), &CrawlConfig::default())
                .is_err()
        );
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let mut waiting = Waiting::new(url("http://s.example/a?b=c#d"), 7, Kind::Part);
        waiting.chain = vec![1, u64::MAX];
        let mut text = String::new();
        waiting.write(&mut text);
        assert_eq!(Waiting::read(text.trim_end()), Some(waiting));
        assert_eq!(Waiting::read("0 9  http://s.example/"), None);
    }
}
