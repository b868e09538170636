//! What was let through for one key: instants and numbers, the oldest first.

use std::time::Duration;

use crm_core::Timestamp;
use serde::{Deserialize, Serialize};

use super::RateWindow;

/// How many entries a log keeps at most; beyond that, neighbours are put together under the later instant, which lets too
/// little through rather than too much.
const MOST: usize = 256;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Log(Vec<(i64, u32)>);

impl Log {
    fn within(&self, now: Timestamp, per: Duration) -> impl Iterator<Item = &(i64, u32)> {
        let from = now.minus(per).as_micros();
        self.0.iter().filter(move |(at, _)| *at > from)
    }

    /// How many more may go now.
    pub(super) fn room(&self, windows: &[RateWindow], now: Timestamp) -> u32 {
        windows
            .iter()
            .map(|window| {
                let taken = self
                    .within(now, window.per)
                    .fold(0_u32, |sum, (_, n)| sum.saturating_add(*n));
                window.most.saturating_sub(taken)
            })
            .min()
            .unwrap_or(u32::MAX)
    }

    /// From when on one more may go, if nothing else happens meanwhile.
    pub(super) fn free_at(&self, windows: &[RateWindow], now: Timestamp) -> Timestamp {
        let mut free = now;
        for window in windows {
            let mut taken: u64 = self.within(now, window.per).map(|(_, n)| u64::from(*n)).sum();
            for (at, n) in self.within(now, window.per) {
                if taken < u64::from(window.most) {
                    break;
                }
                taken = taken.saturating_sub(u64::from(*n));
                free = free.max(Timestamp::from_micros(*at).plus(window.per));
            }
        }
        free
    }

    /// Counts `n` at that instant, and forgets what no window looks at any more.
    pub(super) fn take(&mut self, n: u32, at: Timestamp, windows: &[RateWindow], now: Timestamp) {
        let longest = windows.iter().map(|w| w.per).max().unwrap_or_default();
        let from = now.minus(longest).as_micros();
        self.0.retain(|(at, _)| *at > from);
        let at = at.as_micros();
        let place = self.0.partition_point(|(other, _)| *other <= at);
        match place.checked_sub(1).and_then(|before| self.0.get_mut(before)) {
            Some((last, count)) if *last == at => *count = count.saturating_add(n),
            _ => self.0.insert(place, (at, n)),
        }
        while self.0.len() > MOST {
            self.shorten(now);
        }
    }

    /// Puts those two neighbours together that lie closest for their age.
    fn shorten(&mut self, now: Timestamp) {
        let cost = |pair: &[(i64, u32)]| match pair {
            [(a, _), (b, _)] => {
                let age = now.as_micros().saturating_sub(*b).max(1_000);
                i128::from(b - a) * 1_000_000 / i128::from(age)
            }
            _ => i128::MAX,
        };
        let Some((place, _)) = self.0.windows(2).enumerate().min_by_key(|(_, pair)| cost(pair)) else {
            return;
        };
        let (_, n) = self.0.remove(place);
        if let Some((_, later)) = self.0.get_mut(place) {
            *later = later.saturating_add(n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn windows_roll() {
        let windows = [
            RateWindow { most: 1, per: MINUTE },
            RateWindow {
                most: 3,
                per: MINUTE * 60,
            },
        ];
        let mut log = Log::default();
        assert_eq!(log.room(&windows, at(0)), 1);
        log.take(1, at(0), &windows, at(0));
        assert_eq!(
            (log.room(&windows, at(59)), log.free_at(&windows, at(59))),
            (0, at(60))
        );
        assert_eq!(
            (log.room(&windows, at(60)), log.free_at(&windows, at(60))),
            (1, at(60))
        );
        log.take(1, at(60), &windows, at(60));
        log.take(1, at(200), &windows, at(200));
        assert_eq!(log.free_at(&windows, at(300)), at(3600), "the hour is full");
        assert_eq!(log.room(&windows, at(3600)), 1);
    }

    proptest! {
        /// Whatever is asked when: in no stretch of a window's length more than it allows, and `free_at` is the first
        /// instant at which there is room.
        #[test]
        fn never_more_than_allowed(
            steps in proptest::collection::vec((0_i64..40_000_000, 1_u32..4), 1..400),
            most in 1_u32..30,
        ) {
            let windows = [
                RateWindow { most, per: MINUTE },
                RateWindow { most: most * 20, per: MINUTE * 60 },
            ];
            let (mut log, mut now, mut taken) = (Log::default(), 0_i64, Vec::new());
            for (wait, wanted) in steps {
                now += wait;
                let time = Timestamp::from_micros(now);
                let room = log.room(&windows, time);
                let free = log.free_at(&windows, time);
                prop_assert_eq!(room > 0, free == time);
                if room == 0 {
                    prop_assert!(log.room(&windows, free) > 0);
                    prop_assert_eq!(log.room(&windows, Timestamp::from_micros(free.as_micros() - 1)), 0);
                }
                let n = wanted.min(room);
                if n > 0 {
                    log.take(n, time, &windows, time);
                    taken.push((now, n));
                }
            }
            for window in &windows {
                let per = i64::try_from(window.per.as_micros()).unwrap();
                for (end, _) in &taken {
                    let sum: u32 = taken.iter().filter(|(t, _)| *t <= *end && *t > end - per).map(|(_, n)| n).sum();
                    prop_assert!(sum <= window.most, "{} in {:?}", sum, window);
                }
            }
        }
    }
}
