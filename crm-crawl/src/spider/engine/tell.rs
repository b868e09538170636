//! What a run tells: deliveries to the sink, news to the stored frontier, figures to the board, the end to the host.

use std::time::Duration;

use crm_core::capability::{Checkpoint, Delivery, DraftSink, Progress, Reject, RejectKind};
use crm_core::{Error, ErrorKind, Result, Retry};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use url::Url;

use super::run::{Ended, Run, Task};
use crate::spider::site::Turn;

/// Drafts after which a delivery is not put off any more.
const MAX_DRAFTS: usize = 1000;

impl Run<'_> {
    pub(super) fn reject(&mut self, url: &Url, reason: String) {
        self.note(url.to_string(), reason);
    }

    fn note(&mut self, place: String, reason: String) {
        self.progress.rejects += 1;
        self.rejects.push(Reject {
            kind: RejectKind::Invalid,
            place,
            line: None,
            field: None,
            reason,
        });
    }

    /// A checkpoint is as long as the crawl, so the longer the crawl the more pages share one, but not for long. With a stored frontier as
    /// much is written at once as half the requests that may be under way.
    ///
    /// Nothing is delivered before a page was read: a crawl that never begins leaves no checkpoint that says it did.
    pub(super) fn is_delivery_due(&self) -> bool {
        if self.stored.is_some() {
            let (found, done) = self.frontier.news_count();
            let idle = self.frontier.pending_count() == 0;
            return done > 0 && (idle || done >= self.config.concurrency.div_ceil(2))
                || found >= 10 * MAX_DRAFTS;
        }
        // What waits is written anew each time, what is done was written when it was.
        let share = self.frontier.pending_count() / 64 + self.frontier.done_count() / 512;
        self.read > 0
            && (self.undelivered > share
                || self.undelivered > 0 && self.is_long_ago()
                || self.drafts.len() >= MAX_DRAFTS
                || self.rejects.len() >= MAX_DRAFTS)
    }

    /// Delivers what there is, while the requests under way go on; what ends meanwhile is handed back.
    pub(super) async fn deliver(
        &mut self,
        sink: &mut dyn DraftSink,
        tasks: &mut FuturesUnordered<Task>,
    ) -> Result<Vec<Ended>> {
        let checkpoint = self.checkpoint()?;
        self.undelivered = 0;
        let delivery = Delivery {
            drafts: std::mem::take(&mut self.drafts),
            rejects: std::mem::take(&mut self.rejects),
            checkpoint,
            progress: self.progress,
            ..Delivery::default()
        };
        let news = self.frontier.news();
        let (stored, ctx) = (self.stored.clone(), self.ctx.clone());
        // First the persons, then the mark that their page is done: a death in between repeats the page, and a person that
        // comes again changes nothing.
        let mut all = Box::pin(async move {
            if stored.is_none() || !delivery.drafts.is_empty() || !delivery.rejects.is_empty() {
                sink.deliver(delivery).await?;
            }
            match (stored, news) {
                (Some(stored), Some(news)) => stored.write(&ctx, news).await,
                _ => Ok(()),
            }
        });
        let mut ended = Vec::new();
        while !tasks.is_empty() {
            match select(all, tasks.next()).await {
                Either::Left((result, _)) => return result.map(|()| ended),
                Either::Right((one, rest)) => {
                    ended.extend(one);
                    all = rest;
                }
            }
        }
        all.await.map(|()| ended)
    }

    fn checkpoint(&mut self) -> Result<Option<Checkpoint>> {
        let name = &self.collector.info.name;
        if let Some(stored) = &self.stored {
            return Ok(Some(Checkpoint(json!({
                "kind": super::run::STORED_KIND,
                "spider": name,
                "job": stored.job(),
                "read": self.read,
                "drafts": self.progress.drafts,
                "rejects": self.progress.rejects,
            }))));
        }
        if self.frontier.is_too_large() {
            if self.frontier.say_once("checkpoint") {
                self.note(
                    self.collector.info.name.clone(),
                    "the crawl has become too large for a checkpoint; should it be stopped, it goes on from here; give it a \
                     frontier in a store"
                        .to_owned(),
                );
            }
            return Ok(None);
        }
        self.frontier
            .checkpoint(name, self.read, self.progress.drafts, self.progress.rejects)
            .map(Some)
    }

    /// The figures as they stand.
    pub(super) fn show(&self) {
        self.collector.board.write(|stats| {
            stats.queued = self.frontier.pending_count();
            stats.in_flight = self.frontier.in_flight_count();
            stats.rejects = self.progress.rejects.saturating_sub(self.rejects_before);
        });
    }

    /// The end: what is left is delivered, and the answer says whether the crawl is whole.
    pub(super) async fn close(mut self, sink: &mut dyn DraftSink, stopped: bool) -> Result<Progress> {
        let left = self.frontier.pending_count();
        if let Some(stored) = &self.stored {
            for (name, site) in &self.sites {
                if let Turn::Held(turn) = site.turn {
                    stored.pass(&self.ctx, name, turn, Duration::ZERO).await?;
                }
            }
        }
        let parked: Vec<_> = self.sites.drain().filter_map(|(_, site)| site.parked).collect();
        let unfinished = parked.iter().any(|parked| parked.unfinished);
        let nothing_at_all = self.read == 0;
        let nothing_now = self.read == self.read_before && !parked.is_empty();
        let mut none = FuturesUnordered::new();
        if let Some(stored) = &self.stored {
            let waiting = self.frontier.drain();
            stored.release(&self.ctx, &waiting).await?;
            if self.frontier.news_count() != (0, 0) || !self.drafts.is_empty() || !self.rejects.is_empty() {
                self.deliver(sink, &mut none).await?;
            }
        }
        if !stopped && (nothing_at_all || nothing_now) {
            let problem = self.first_problem.take().filter(|_| nothing_at_all);
            return match problem.or_else(|| parked.into_iter().next().map(|parked| parked.error)) {
                Some(error) => Err(error
                    .operation("crawl.run")
                    .with("collector", &self.collector.info)),
                None => Ok(self.progress),
            };
        }
        if left > 0 && !unfinished && !stopped && parked.is_empty() && self.frontier.say_once("max_pages") {
            let reason = format!(
                "max_pages={} reached; {left} URLs were not fetched",
                self.config.max_pages
            );
            self.note(self.collector.info.name.clone(), reason);
        }
        if (self.undelivered > 0 && self.read > 0) || !self.drafts.is_empty() || !self.rejects.is_empty() {
            self.deliver(sink, &mut none).await?;
        }
        if stopped {
            return Err(Error::new(
                ErrorKind::Cancelled,
                "the crawl was stopped; it goes on from the last checkpoint",
            )
            .operation("crawl.run")
            .with("collector", &self.collector.info)
            .with("left", left)
            .with_retry(Retry::Allowed { after: None }));
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
