//! What is known of a crawl: what waits, what is done, what was said once. A checkpoint is this, written down.

mod stand;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use crm_core::{Error, Result};
use url::Url;

use super::canonical::{authority, variants_key};
use super::config::CrawlConfig;
use super::link::Link;
use super::stored::FrontierCount;
pub(super) use waiting::{Kind, Lease, Waiting};

/// URLs that a run with a stored frontier remembers; the store recognises the others.
const MAX_SEEN: usize = 1 << 20;

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
    /// URLs that are to be tried again, by whoever comes first.
    pub(super) back: Vec<Waiting>,
}

#[derive(Debug, Default)]
pub(super) struct Frontier {
    /// By scheme, host and port, so that a slow site does not hold up the others. None is empty.
    queues: BTreeMap<String, VecDeque<Waiting>>,
    in_flight: HashMap<u64, Waiting>,
    pending: usize,
    seen: HashSet<u64>,
    /// Digests of what is done, as a checkpoint writes them; empty with a stored frontier.
    done: String,
    done_count: u64,
    variants: HashMap<u64, u32>,
    told: BTreeSet<String>,
    /// With a stored frontier: what is found goes there, not into the queues.
    news: Option<News>,
    /// With a stored frontier: URLs that wait there, about.
    stored: usize,
    /// With a stored frontier: something was there already.
    resumed: bool,
    /// Bytes of the checkpoint's list of what waits, about.
    waiting_bytes: usize,
}

impl Frontier {
    /// One that is the local part of a stored frontier, which is as far as `count` says, and in which these numbers of
    /// variants were found.
    pub(super) fn stored(count: FrontierCount, variants: HashMap<u64, u32>) -> Self {
        let mut frontier = Self {
            variants,
            news: Some(News::default()),
            resumed: count != FrontierCount::default(),
            ..Self::default()
        };
        frontier.counted(count);
        frontier
    }

    /// How far all processes together are.
    pub(super) fn counted(&mut self, count: FrontierCount) {
        let unwritten = self.news.as_ref().map_or(0, |news| news.done.len() as u64);
        self.done_count = self.done_count.max(count.done + unwritten);
        self.stored = usize::try_from(count.waiting).unwrap_or(usize::MAX);
    }

    /// Takes a URL to begin with. One that a stored frontier has already is known there, not here, and its limits were
    /// kept when it was new.
    pub(super) fn seed(&mut self, link: Link, kind: Kind, config: &CrawlConfig) -> Found {
        if self.resumed && link.trap.is_none() && !self.is_known(link.key) {
            self.remember(link.key);
            self.put(Waiting::new(link, 0, kind), false);
            return Found::Taken;
        }
        self.offer(link, 0, kind, config)
    }

    /// Takes a URL if it is new and sensible.
    pub(super) fn offer(&mut self, link: Link, depth: u32, kind: Kind, config: &CrawlConfig) -> Found {
        if self.is_known(link.key) {
            return Found::Known;
        }
        let left = if let Some(reason) = link.trap {
            Some(format!("{reason}; it is taken for a trap"))
        } else if depth > config.max_depth {
            Some(format!(
                "more than max_depth={} links from the start",
                config.max_depth
            ))
        } else if self.pending + self.found_count() + self.stored >= config.max_pending {
            Some(format!("max_pending={} URLs wait already", config.max_pending))
        } else if link.url.query().is_some() && self.count_variant(&link.url) > config.max_variants {
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
        self.remember(link.key);
        self.put(Waiting::new(link, depth, kind), false);
        Found::Taken
    }

    pub(super) fn is_known(&self, key: u64) -> bool {
        self.seen.contains(&key)
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
    pub(super) fn redirect(&mut self, from: &Waiting, to: Link) -> Result<()> {
        let wrong = |message: &'static str| Err(Error::invalid(message).operation("crawl.fetch"));
        if to.key == from.key || from.chain.contains(&to.key) {
            return wrong("the redirects go round in a circle");
        }
        if from.chain.len() >= 10 {
            return wrong("more than 10 redirects");
        }
        if let Some(reason) = to.trap {
            return wrong(reason);
        }
        if self.remember(to.key) {
            let mut next = Waiting::new(to, from.depth, from.kind);
            next.chain.clone_from(&from.chain);
            next.chain.push(from.key);
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
        self.stored = self.stored.saturating_sub(waiting.len());
        for waiting in waiting {
            if !self.in_flight.contains_key(&waiting.key) {
                self.remember(waiting.key);
                self.push(waiting, false);
            }
        }
    }

    /// The sites for which something waits.
    pub(super) fn sites(&self) -> impl Iterator<Item = &str> {
        self.queues.keys().map(String::as_str)
    }

    /// The next URL of a site, without taking it.
    pub(super) fn first(&self, site: &str) -> Option<&Url> {
        Some(&self.queues.get(site)?.front()?.url)
    }

    /// The next URL of a site; it is in flight until it is done or given back.
    pub(super) fn take(&mut self, site: &str) -> Option<Waiting> {
        let queue = self.queues.get_mut(site)?;
        let waiting = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(site);
        }
        self.pending -= 1;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(waiting.url.as_str().len() + 8);
        self.in_flight.insert(waiting.key, waiting.clone());
        Some(waiting)
    }

    /// It is dealt with for good.
    pub(super) fn done(&mut self, waiting: Waiting) {
        self.in_flight.remove(&waiting.key);
        self.done_count += 1;
        match &mut self.news {
            Some(news) => news.done.push(waiting),
            None => stand::write_key(&mut self.done, waiting.key),
        }
    }

    /// It is to be tried again: first in line here, or by whoever comes first where several processes share a frontier.
    pub(super) fn give_back(&mut self, waiting: Waiting) {
        self.in_flight.remove(&waiting.key);
        match &mut self.news {
            Some(news) => news.back.push(waiting),
            None => self.push(waiting, true),
        }
    }

    /// What is to be written down, taken out. `None` without a stored frontier.
    pub(super) fn news(&mut self) -> Option<News> {
        let news = self.news.as_mut().map(std::mem::take)?;
        self.stored += news.found.len() + news.back.len();
        Some(news)
    }

    /// How much is to be written down: found, and dealt with.
    pub(super) fn news_count(&self) -> (usize, usize) {
        self.news.as_ref().map_or((0, 0), |news| {
            (news.found.len(), news.done.len() + news.back.len())
        })
    }

    /// Everything that waits here, taken out.
    pub(super) fn drain(&mut self) -> Vec<Waiting> {
        self.pending = 0;
        self.waiting_bytes = 0;
        std::mem::take(&mut self.queues).into_values().flatten().collect()
    }

    /// Everything that is leased here, taken out: what waits, what is under way, and what was not written down.
    pub(super) fn give_up(&mut self) -> Vec<Waiting> {
        let mut all = self.drain();
        all.extend(self.in_flight.drain().map(|(_, waiting)| waiting));
        if let Some(news) = self.news() {
            all.extend(news.done);
            all.extend(news.back);
        }
        all
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(text: &str) -> Link {
        Link::new(&Url::parse(text).unwrap(), false)
    }

    #[test]
    fn a_url_is_taken_once_and_comes_back_from_a_checkpoint() {
        let config = CrawlConfig::default();
        let mut frontier = Frontier::default();
        for (url, wanted) in [
            ("http://s.example/a#x", Found::Taken),
            ("http://s.example/a", Found::Known),
            ("http://s.example/b", Found::Taken),
            ("http://s.example/c", Found::Taken),
        ] {
            assert_eq!(frontier.offer(link(url), 0, Kind::Page, &config), wanted, "{url}");
        }
        let a = frontier.take("http://s.example").unwrap();
        let _b = frontier.take("http://s.example").unwrap();
        frontier.done(a);
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
            back.offer(link("http://s.example/a"), 0, Kind::Page, &config),
            Found::Known
        );
        let mut rest = [
            back.take("http://s.example").unwrap(),
            back.take("http://s.example").unwrap(),
        ];
        rest.sort_by(|x, y| x.url.cmp(&y.url));
        assert_eq!(rest[0].url.path(), "/b");
        assert_eq!(rest[1].url.path(), "/c");
        assert_eq!(
            back.sites().count(),
            0,
            "a site for which nothing waits is forgotten"
        );
        assert!(Frontier::resume(&frontier.checkpoint("s", 0, 0, 0).unwrap(), "other").is_err());
        let foreign = crm_core::capability::Checkpoint(serde_json::json!({"kind": "csv/1"}));
        assert!(Frontier::resume(&foreign, "s").is_err());
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
                let day = link(&format!("http://s.example/cal?day={day}"));
                frontier.offer(day, 1, Kind::Page, &config)
            })
            .collect();
        assert_eq!(found.iter().filter(|f| **f == Found::Taken).count(), 5);
        assert_eq!(
            found.iter().filter(|f| matches!(f, Found::Left(Some(_)))).count(),
            1
        );
    }

    #[test]
    fn a_stored_frontier_is_bounded_too() {
        let config = CrawlConfig {
            max_pending: 10,
            ..CrawlConfig::default()
        };
        let count = FrontierCount {
            waiting: 4,
            ..FrontierCount::default()
        };
        let mut frontier = Frontier::stored(count, HashMap::new());
        for n in 0..20 {
            frontier.offer(link(&format!("http://s.example/{n}")), 1, Kind::Page, &config);
            // Written down now and then: what is written waits as well.
            if n % 3 == 0 {
                frontier.news();
            }
        }
        assert_eq!(frontier.stored + frontier.found_count(), 10);
    }

    #[test]
    fn redirects_in_a_circle_are_seen() {
        let mut frontier = Frontier::default();
        frontier.offer(link("http://s.example/a"), 0, Kind::Page, &CrawlConfig::default());
        let a = frontier.take("http://s.example").unwrap();
        frontier.redirect(&a, link("http://s.example/b")).unwrap();
        frontier.done(a);
        let b = frontier.take("http://s.example").unwrap();
        assert!(frontier.redirect(&b, link("http://s.example/a")).is_err());
        assert!(frontier.redirect(&b, link("http://s.example/b")).is_err());
    }
}
