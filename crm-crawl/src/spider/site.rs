//! One scheme, host and port during a crawl: its rules, its pace, its state.

use std::sync::Arc;
use std::time::Duration;

use crm_core::Error;
use tokio::time::Instant;

use super::robots::Robots;

/// Failed pages in a row, each after all its attempts, after which a site is left alone.
const MAX_FAILURES: u32 = 5;

pub(super) enum Rules {
    Unknown { attempt: u32 },
    Fetching { attempt: u32 },
    Known(Arc<Robots>),
}

pub(super) struct Site {
    pub(super) rules: Rules,
    /// No request before this.
    pub(super) not_before: Instant,
    pub(super) in_flight: usize,
    /// Why nothing more is fetched here in this run.
    pub(super) parked: Option<Parked>,
    failures: u32,
    delay: Duration,
}

pub(super) struct Parked {
    pub(super) error: Error,
    /// The site served before and is to be visited again: the run is not whole.
    pub(super) unfinished: bool,
}

impl Site {
    pub(super) fn new(now: Instant, delay: Duration) -> Self {
        Self {
            rules: Rules::Unknown { attempt: 0 },
            not_before: now,
            in_flight: 0,
            parked: None,
            failures: 0,
            delay,
        }
    }

    /// The rules are known; the longer of the two delays counts.
    pub(super) fn ruled(&mut self, rules: Arc<Robots>, delay: Duration) {
        self.delay = delay.max(rules.delay);
        self.rules = Rules::Known(rules);
    }

    pub(super) fn started(&mut self, now: Instant) {
        self.in_flight += 1;
        self.not_before = self.not_before.max(now + self.delay);
    }

    /// With one request at a time the delay counts from its end, so that the site sees the whole of it.
    pub(super) fn ended(&mut self, now: Instant, concurrency: usize) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if concurrency == 1 {
            self.not_before = self.not_before.max(now + self.delay);
        }
    }

    pub(super) fn wait(&mut self, now: Instant, at_least: Duration) {
        self.not_before = self.not_before.max(now + at_least);
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// A page failed after all its attempts. True when there were too many in a row.
    pub(super) fn failed(&mut self) -> bool {
        self.failures += 1;
        self.failures >= MAX_FAILURES
    }

    pub(super) fn park(&mut self, error: Error, unfinished: bool) {
        self.parked.get_or_insert(Parked { error, unfinished });
    }
}
