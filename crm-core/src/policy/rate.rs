use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{Call, Next, Policy};
use crate::{Clock, Result, Timestamp};

/// Lets at most so many calls begin in a time, and a few more at once when it was quiet: a token bucket, kept as the
/// generic cell rate algorithm (ITU-T I.371) on the injected clock. The others wait in line; one who gives up waiting
/// has used nothing.
///
/// ```
/// use std::time::Duration;
/// use crm_core::SystemClock;
/// use crm_core::policy::Rate;
///
/// // A hundred a second, and up to ten in one instant.
/// let rate = Rate::new(SystemClock::shared(), 100, Duration::from_secs(1)).burst(10);
/// assert!(format!("{rate:?}").contains("10ms"));
/// ```
pub struct Rate {
    clock: Arc<dyn Clock>,
    /// Microseconds between two calls.
    interval: i64,
    burst: i64,
    /// When the bucket is full again, in microseconds since the epoch.
    full_at: Mutex<i64>,
    /// Held by the first in line.
    line: tokio::sync::Mutex<()>,
}

impl Rate {
    /// At most `calls` in every `per`, one at a time.
    pub fn new(clock: Arc<dyn Clock>, calls: u32, per: Duration) -> Self {
        let interval = per.as_micros() / u128::from(calls.max(1));
        Self {
            clock,
            interval: i64::try_from(interval)
                .unwrap_or(i64::MAX / 2)
                .clamp(1, i64::MAX / 2),
            burst: 1,
            full_at: Mutex::new(i64::MIN),
            line: tokio::sync::Mutex::new(()),
        }
    }

    /// Sets how many may begin at once after a quiet time; at least one.
    #[must_use]
    pub fn burst(mut self, calls: u32) -> Self {
        self.burst = i64::from(calls.max(1));
        self
    }

    /// Takes a token, or says how long until there is one.
    fn take(&self, now: Timestamp) -> Result<(), Duration> {
        let now = now.as_micros();
        let room = self.interval.saturating_mul(self.burst);
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        // Never further ahead than an empty bucket, also when the clock was set back.
        let from = (*full_at).clamp(now, now.saturating_add(room));
        let next = from.saturating_add(self.interval);
        let wait = next.saturating_sub(now.saturating_add(room));
        if wait > 0 {
            return Err(Duration::from_micros(wait.unsigned_abs()));
        }
        *full_at = next;
        Ok(())
    }
}

#[async_trait]
impl Policy for Rate {
    async fn around<'a>(&'a self, call: Call<'a>, next: Next<'a>) -> Result<()> {
        if !call.op.streams {
            let _first = self.line.lock().await;
            while let Err(wait) = self.take(self.clock.now()) {
                tokio::time::sleep(wait).await;
            }
        }
        next.run().await
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interval = Duration::from_micros(self.interval.unsigned_abs());
        f.debug_struct("Rate")
            .field("every", &interval)
            .field("burst", &self.burst)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    #[test]
    fn a_bucket_gives_its_burst_then_one_an_interval() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_000_000)));
        let rate = Rate::new(clock.clone(), 10, Duration::from_secs(1)).burst(3);
        let take = || rate.take(clock.now());
        assert_eq!([take(), take(), take()], [Ok(()), Ok(()), Ok(())]);
        assert_eq!(take(), Err(Duration::from_millis(100)));
        assert_eq!(take(), Err(Duration::from_millis(100)), "asking takes nothing");
        clock.advance(Duration::from_millis(99));
        assert_eq!(take(), Err(Duration::from_millis(1)));
        clock.advance(Duration::from_millis(1));
        assert_eq!((take(), take().is_err()), (Ok(()), true));
        clock.advance(Duration::from_secs(3600));
        assert_eq!(
            (0..9).filter(|_| take().is_ok()).count(),
            3,
            "a quiet hour saves up no more than the burst"
        );
    }

    #[test]
    fn a_clock_set_back_does_not_stop_everything() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_ymd(2026, 1, 2).unwrap()));
        let rate = Rate::new(clock.clone(), 1, Duration::from_secs(1));
        assert!(rate.take(clock.now()).is_ok());
        clock.set(Timestamp::from_ymd(2026, 1, 1).unwrap());
        assert_eq!(
            rate.take(clock.now()),
            Err(Duration::from_secs(1)),
            "a day back costs one interval, not a day"
        );
    }
}
