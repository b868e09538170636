//! One scheme, host and port during a crawl: its rules, its pace, its state.

use std::sync::Arc;
use std::time::Duration;

use crm_core::Error;
use crm_core::record::Version;
use tokio::time::Instant;

use super::CrawlConfig;
use super::robots::Robots;

/// Failed pages in a row, each after all its attempts, after which a site is left alone.
const MAX_FAILURES: u32 = 5;

pub(super) enum Rules {
    Unknown { attempt: u32 },
    Fetching { attempt: u32 },
    Known(Arc<Robots>),
}

/// The right to make the next request, where several processes share a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// None is held: it has to be asked for.
    Open,
    Asking,
    /// Held, with the version of the site's record that says so.
    Held(Version),
}

pub(super) struct Site {
    pub(super) rules: Rules,
    /// No request before this.
    pub(super) not_before: Instant,
    pub(super) in_flight: usize,
    /// Why nothing more is fetched here in this run.
    pub(super) parked: Option<Parked>,
    pub(super) turn: Turn,
    /// When the next request was allowed before the one under way began.
    allowed: Instant,
    failures: u32,
    pace: Pace,
}

pub(super) struct Parked {
    pub(super) error: Error,
    /// The site served before and is to be visited again: the run is not whole.
    pub(super) unfinished: bool,
}

/// The time from one request to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    least: Duration,
    most: Duration,
    target: f64,
    now: Duration,
}

impl Pace {
    pub(super) fn new(config: &CrawlConfig) -> Self {
        Self {
            least: config.delay(),
            most: config.max_delay(),
            target: config.target_concurrency,
            now: config.delay(),
        }
    }

    /// The site asks for more.
    fn at_least(&mut self, delay: Duration) {
        self.least = self.least.max(delay);
        self.now = self.now.max(self.least);
    }

    /// An answer took so long; `good` when it was a page. A site that is in trouble answers quickly that it is: such an
    /// answer never makes the delay shorter.
    fn answered(&mut self, latency: Duration, good: bool) {
        if self.target <= 0.0 || self.least.is_zero() {
            return;
        }
        let target = latency.div_f64(self.target);
        let next = ((self.now + target) / 2)
            .max(target)
            .min(self.most)
            .max(self.least);
        if good || next > self.now {
            self.now = next;
        }
    }
}

impl Site {
    pub(super) fn new(now: Instant, config: &CrawlConfig) -> Self {
        Self {
            rules: Rules::Unknown { attempt: 0 },
            not_before: now,
            in_flight: 0,
            parked: None,
            turn: Turn::Open,
            allowed: now,
            failures: 0,
            pace: Pace::new(config),
        }
    }

    /// The rules are known; the longer of the two delays counts.
    pub(super) fn ruled(&mut self, rules: Arc<Robots>) {
        self.pace.at_least(rules.delay);
        self.rules = Rules::Known(rules);
    }

    /// The time from one request to the next, as it stands now.
    pub(super) fn delay(&self) -> Duration {
        self.pace.now
    }

    pub(super) fn answered(&mut self, latency: Duration, good: bool) {
        self.pace.answered(latency, good);
    }

    pub(super) fn started(&mut self, now: Instant) {
        if self.in_flight == 0 {
            self.allowed = self.not_before;
        }
        self.in_flight += 1;
        self.not_before = self.not_before.max(now + self.delay());
    }

    /// With one request at a time the delay counts from its end, so that the site sees the whole of it.
    pub(super) fn ended(&mut self, now: Instant, concurrency: usize) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if concurrency == 1 {
            self.not_before = self.not_before.max(now + self.delay());
        }
    }

    /// The site was not asked after all: nothing has to be waited for.
    pub(super) fn spared(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight == 0 {
            self.not_before = self.allowed;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(delay: f64, target_concurrency: f64) -> Pace {
        Pace::new(&CrawlConfig {
            delay,
            target_concurrency,
            max_delay: 10.0,
            ..CrawlConfig::default()
        })
    }

    /// CRW-4. Answers (seconds, good), and the delay after each, worked out by hand from Scrapy's formula.
    #[test]
    fn the_delay_follows_the_latency() {
        for (delay, target, answers) in [
            (
                1.0,
                1.0,
                &[
                    (0.2, true, 1.0),
                    (3.0, true, 3.0),
                    (1.0, true, 2.0),
                    (1.0, true, 1.5),
                    (0.1, true, 1.0),
                ][..],
            ),
            (1.0, 2.0, &[(3.0, true, 1.5), (8.0, true, 4.0), (1.0, true, 2.25)]),
            // Never faster on an error, but slower.
            (
                1.0,
                1.0,
                &[
                    (4.0, true, 4.0),
                    (0.01, false, 4.0),
                    (5.0, false, 5.0),
                    (0.01, false, 5.0),
                    (1.0, true, 3.0),
                ],
            ),
            (1.0, 1.0, &[(30.0, true, 10.0), (30.0, false, 10.0)]),
            (1.0, 0.0, &[(30.0, true, 1.0)]),
            (0.0, 1.0, &[(30.0, true, 0.0)]),
        ] {
            let mut pace = pace(delay, target);
            for (latency, good, wanted) in answers {
                pace.answered(Duration::from_secs_f64(*latency), *good);
                assert!(
                    (pace.now.as_secs_f64() - wanted).abs() < 1e-6,
                    "{delay} {target} {latency} {good}: {pace:?}"
                );
            }
        }
        let mut asked = pace(1.0, 1.0);
        asked.at_least(Duration::from_secs(7));
        asked.answered(Duration::from_millis(1), true);
        assert_eq!(asked.now, Duration::from_secs(7));
    }
}
