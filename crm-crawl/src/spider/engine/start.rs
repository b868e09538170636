//! What may start now: the sites in turn, their rules first, then their pages.

use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use url::Url;

use super::run::{Ended, Run, Task};
use crate::spider::frontier::Waiting;
use crate::spider::robots::{self, Decision};
use crate::spider::site::{Rules, Site, Turn};

/// What comes on top of the time-out while a turn at a site is held.
const SPARE: Duration = Duration::from_secs(5);

/// What came of the attempt to start something at a site.
enum Next {
    Started,
    /// Something was decided without a request: there may be more.
    Decided,
    /// Nothing may start here, but for a time that may come.
    Nothing(Option<Instant>),
}

impl Run<'_> {
    /// Starts all that may start now; answers when the next thing may, if that is a matter of time only.
    pub(super) fn start(&mut self, tasks: &mut FuturesUnordered<Task>) -> Option<Instant> {
        let now = Instant::now();
        let mut wake: Option<Instant> = None;
        let mut names: Vec<String> = self.frontier.sites().map(str::to_owned).collect();
        // Another one is first each time, so that the first ones do not take all the room.
        if !names.is_empty() {
            self.first = (self.first + 1) % names.len();
            names.rotate_left(self.first);
        }
        for name in names {
            // What is not written down yet would be fetched again after a death: it counts as under way.
            while self.requests + self.frontier.news_count().1 < self.config.concurrency {
                match self.start_at(&name, now, tasks) {
                    Next::Started | Next::Decided => {}
                    Next::Nothing(None) => break,
                    Next::Nothing(Some(at)) => {
                        wake = Some(wake.map_or(at, |other| other.min(at)));
                        break;
                    }
                }
            }
        }
        self.pass_unused(tasks);
        wake
    }

    fn start_at(&mut self, name: &str, now: Instant, tasks: &mut FuturesUnordered<Task>) -> Next {
        let has_room = self.has_room();
        if !self.sites.contains_key(name) {
            self.sites.insert(name.to_owned(), Site::new(now, self.config));
        }
        let Some(site) = self.sites.get_mut(name) else {
            return Next::Nothing(None);
        };
        if site.parked.is_some() || site.in_flight >= self.config.concurrency_per_host || !has_room {
            return Next::Nothing(None);
        }
        if matches!(site.rules, Rules::Fetching { .. }) || site.turn == Turn::Asking {
            return Next::Nothing(None);
        }
        let known = match &site.rules {
            Rules::Known(rules) if rules.is_fresh(self.collector.clock.now()) => Some(rules.clone()),
            _ => self
                .collector
                .recall(name)
                .inspect(|rules| site.ruled(rules.clone())),
        };
        if site.not_before > now {
            return Next::Nothing(Some(site.not_before));
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
            let (stored, ctx, site) = (stored.clone(), self.ctx.clone(), name.to_owned());
            tasks.push(Box::pin(async move {
                let answer = stored.turn(&ctx, &site, hold).await;
                Ended::Turn { site, answer }
            }));
            return Next::Nothing(None);
        }
        let task = match known {
            Some(rules) => {
                let Some(waiting) = self.frontier.take(name) else {
                    return Next::Nothing(None);
                };
                if !self.is_still_ours(&waiting) {
                    self.frontier.give_back(waiting);
                    return Next::Decided;
                }
                match rules.decide(&waiting.url) {
                    Decision::Forbidden => {
                        let error = robots::forbidden(&waiting.url);
                        self.leave(waiting, error);
                        return Next::Decided;
                    }
                    Decision::Allowed(robots) => self.page(name.to_owned(), waiting, robots),
                }
            }
            None => {
                let attempt = match site.rules {
                    Rules::Unknown { attempt } => attempt,
                    _ => 0,
                };
                let Some(url) = self.frontier.first(name).cloned() else {
                    return Next::Nothing(None);
                };
                site.rules = Rules::Fetching { attempt };
                self.rules(name.to_owned(), url)
            }
        };
        if let Some(site) = self.sites.get_mut(name) {
            let turn = std::mem::replace(&mut site.turn, Turn::Open);
            site.started(now);
            match &self.stored {
                // The next request is due a delay after this one begins, not after it was permitted.
                Some(stored) if self.config.concurrency_per_host > 1 && turn != Turn::Open => {
                    let (stored, ctx, place, delay) =
                        (stored.clone(), self.ctx.clone(), name.to_owned(), site.delay());
                    tasks.push(Box::pin(async move {
                        Ended::Passed(stored.defer(&ctx, &place, delay).await)
                    }));
                }
                _ => site.turn = turn,
            }
        }
        self.requests += 1;
        tasks.push(task);
        Next::Started
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
}
