//! What follows from what ended.

use std::sync::Arc;
use std::time::Duration;

use crm_core::http::redacted;
use crm_core::{Error, Result, Retry};
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use url::Url;

use super::run::{Ended, Run, Task};
use crate::spider::Output;
use crate::spider::canonical::authority;
use crate::spider::fetch::{Fetched, Listed, Source, Visit};
use crate::spider::frontier::{Found, Kind, Waiting};
use crate::spider::link::{Link, Links, MAX_LINKS};
use crate::spider::robots::Robots;
use crate::spider::site::{Rules, Site, Turn};

impl Run<'_> {
    pub(super) fn end(&mut self, ended: Ended, tasks: &mut FuturesUnordered<Task>) {
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
        if let Some(stored) = &self.stored {
            // The next turn of anybody begins when our own next one may.
            let wait = site.not_before.saturating_duration_since(now);
            let (stored, ctx, place) = (stored.clone(), self.ctx.clone(), name.clone());
            if let Turn::Held(turn) = site.turn {
                site.turn = Turn::Open;
                tasks.push(Box::pin(async move {
                    Ended::Passed(stored.pass(&ctx, &place, turn, wait).await)
                }));
            } else if stored.is_paced() && wait > site.delay() {
                tasks.push(Box::pin(async move {
                    Ended::Passed(stored.defer(&ctx, &place, wait).await)
                }));
            }
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
                Fetched::Parsed(output, _) => {
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
            Fetched::Parsed(output, links) => {
                site.succeeded();
                self.read += 1;
                self.take_in(waiting, robots, output, links);
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
            for sitemap in rules.sitemaps() {
                if self.collector.spider.allows(sitemap) {
                    self.offer(Link::new(sitemap, self.config.sort_query), 0, Kind::Sitemap);
                }
            }
        }
    }

    fn listed(&mut self, waiting: Waiting, listed: Listed) {
        if listed.cut {
            self.reject(
                &waiting.url,
                "the sitemap is longer than the limit; the rest of it was not read".to_owned(),
            );
        }
        for page in listed.pages {
            self.offer(page, 0, Kind::Page);
        }
        if waiting.kind == Kind::Part && !listed.parts.is_empty() {
            self.reject(
                &waiting.url,
                "a sitemap index lists this sitemap index; only the first one is followed".to_owned(),
            );
        } else {
            for part in listed.parts {
                self.offer(part, 0, Kind::Part);
            }
        }
        self.settle(waiting);
    }

    fn longest_wait(&self) -> Duration {
        self.config
            .max_retry_after()
            .max(self.config.backoff(self.config.retries))
    }

    fn take_in(&mut self, waiting: Waiting, robots: &'static str, output: Output, links: Links) {
        let (drafts, rejects, _) = output.into_parts();
        self.progress.drafts += drafts.len() as u64;
        self.progress.rejects += rejects.len() as u64;
        for mut draft in drafts {
            // The names are constants that are valid; were they not, the draft counts more.
            let _ = draft.attributes.set("crawl_robots", robots);
            if let Some(basis) = &self.config.lawful_basis {
                let _ = draft.attributes.set("crawl_lawful_basis", basis.as_str());
            }
            self.drafts.push(draft);
        }
        self.rejects.extend(rejects);
        for link in links.links {
            self.offer(link, waiting.depth + 1, Kind::Page);
        }
        if links.cut {
            self.reject(
                &waiting.url,
                format!("the page has more than {MAX_LINKS} links; the rest of them are not followed"),
            );
        }
        self.settle(waiting);
    }

    fn offer(&mut self, link: Link, depth: u32, kind: Kind) {
        if self.frontier.is_known(link.key) {
            return;
        }
        let url = link.url.clone();
        if let Found::Left(Some(reason)) = self.frontier.offer(link, depth, kind, self.config) {
            self.reject(
                &url,
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
        match self
            .frontier
            .redirect(&waiting, Link::new(next, self.config.sort_query))
        {
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
    pub(super) fn leave(&mut self, waiting: Waiting, error: Error) {
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
