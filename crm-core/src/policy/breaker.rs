use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{Call, Next, Policy};
use crate::id::split_mix;
use crate::{Clock, Effect, Error, ErrorKind, Result, Timestamp};

/// Stops calling a provider that keeps failing, and tries it again with one call after a while (circuit breaker; Nygard,
/// "Release It!", 2nd ed. 2018, ch. 5).
///
/// It opens after so many failures in a row. While it is open, calls fail at once with [`ErrorKind::Unavailable`] and
/// [`crate::Retry::Exhausted`] (context `after_ms`: when to come again), so that a retry further out does not wait for
/// it and a pool fails over. Then a single call is let through: if it succeeds, all are; if it fails, the wait doubles. Only what speaks of the provider's own state counts as a failure: that it cannot be
/// reached, is too slow, or broke off. A refused message is an answer like any other.
///
/// ```
/// use std::time::Duration;
/// use crm_core::SystemClock;
/// use crm_core::policy::Breaker;
///
/// let breaker = Breaker::new(SystemClock::shared(), 7).after(10).wait(Duration::from_secs(1), Duration::from_secs(60));
/// assert!(format!("{breaker:?}").contains("Closed"));
/// ```
pub struct Breaker {
    clock: Arc<dyn Clock>,
    circuit: Mutex<Circuit>,
}

impl Breaker {
    /// Opens after 5 failures in a row, for 5 s, then twice as long each time, up to 300 s; a random part of up to a
    /// fifth comes on top, from the seed.
    pub fn new(clock: Arc<dyn Clock>, seed: u64) -> Self {
        let circuit = Circuit {
            threshold: 5,
            base: Duration::from_secs(5),
            cap: Duration::from_secs(300),
            chance: seed,
            era: 0,
            opened: 0,
            state: State::Closed { failures: 0 },
        };
        Self {
            clock,
            circuit: Mutex::new(circuit),
        }
    }

    /// Opens after so many failures in a row; at least one.
    #[must_use]
    pub fn after(self, failures: u32) -> Self {
        self.circuit().threshold = failures.max(1);
        self
    }

    /// Sets the first and the longest wait.
    #[must_use]
    pub fn wait(self, base: Duration, cap: Duration) -> Self {
        {
            let mut circuit = self.circuit();
            (circuit.base, circuit.cap) = (base, cap);
        }
        self
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a call went, as far as the provider's state goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    Success,
    Failure,
    /// Says nothing about the provider: our own settings, or nobody waited for the answer.
    Nothing,
}

fn verdict(result: &Result<()>) -> Verdict {
    match result {
        Ok(()) => Verdict::Success,
        Err(error) if error.effect() == Effect::Unknown => Verdict::Failure,
        Err(error) => match error.kind() {
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Unexpected => Verdict::Failure,
            // It works, it only asks for less; the rate limit and the retry see to that.
            ErrorKind::RateLimited | ErrorKind::Cancelled | ErrorKind::Config | ErrorKind::Unsupported => {
                Verdict::Nothing
            }
            _ => Verdict::Success,
        },
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Timestamp,
    },
    /// One call is on its way to find out.
    Probing,
}

/// The state machine by itself: told the time, it never asks for it.
struct Circuit {
    threshold: u32,
    base: Duration,
    cap: Duration,
    chance: u64,
    /// Counts the changes of state: what was let through before the last one no longer has a say.
    era: u64,
    /// How often it opened since it last closed.
    opened: u32,
    state: State,
}

impl Circuit {
    /// Lets a call through, with the era to report back with; or says how long to wait.
    fn admit(&mut self, now: Timestamp) -> Result<u64, Duration> {
        match self.state {
            State::Closed { .. } => Ok(self.era),
            State::Open { until } if now < until => Err(until.since(now)),
            State::Open { .. } => {
                self.turn(State::Probing);
                Ok(self.era)
            }
            // The others come again when the probe should be back.
            State::Probing => Err(self.base),
        }
    }

    fn record(&mut self, era: u64, verdict: Verdict, now: Timestamp) {
        if era != self.era {
            return;
        }
        match (self.state, verdict) {
            (State::Closed { .. }, Verdict::Success) => self.state = State::Closed { failures: 0 },
            (State::Closed { failures }, Verdict::Failure) if failures + 1 >= self.threshold => {
                self.open(now)
            }
            (State::Closed { failures }, Verdict::Failure) => {
                self.state = State::Closed {
                    failures: failures + 1,
                }
            }
            (State::Probing, Verdict::Success) => {
                self.opened = 0;
                self.turn(State::Closed { failures: 0 });
            }
            (State::Probing, Verdict::Failure) => self.open(now),
            // The probe found out nothing: the next call is one.
            (State::Probing, Verdict::Nothing) => self.turn(State::Open { until: now }),
            (State::Closed { .. }, Verdict::Nothing) | (State::Open { .. }, _) => {}
        }
    }

    fn open(&mut self, now: Timestamp) {
        let doubled = 2_u32.checked_pow(self.opened).unwrap_or(u32::MAX);
        let wait = self.base.saturating_mul(doubled).min(self.cap);
        let share = (split_mix(&mut self.chance) >> 11) as f64 / (1_u64 << 53) as f64;
        self.opened = self.opened.saturating_add(1);
        self.turn(State::Open {
            until: now.plus(wait).plus(wait.mul_f64(share / 5.0)),
        });
    }

    fn turn(&mut self, state: State) {
        self.era += 1;
        self.state = state;
    }
}

/// Reports a call that nobody waited for, so that a dropped probe does not leave the circuit waiting for ever.
struct Report<'a> {
    breaker: &'a Breaker,
    era: u64,
    verdict: Verdict,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        let now = self.breaker.clock.now();
        self.breaker.circuit().record(self.era, self.verdict, now);
    }
}

#[async_trait]
impl Policy for Breaker {
    async fn around<'a>(&'a self, call: Call<'a>, next: Next<'a>) -> Result<()> {
        if call.op.streams {
            return next.run().await;
        }
        let admitted = self.circuit().admit(self.clock.now());
        let era = admitted.map_err(|wait| {
            Error::new(
                ErrorKind::Unavailable,
                "the provider kept failing and is not asked for now",
            )
            .operation(call.op.name)
            .with("provider", call.provider)
            .with("after_ms", wait.as_millis())
            .with_retry(crate::Retry::Exhausted)
        })?;
        let mut report = Report {
            breaker: self,
            era,
            verdict: Verdict::Nothing,
        };
        let result = next.run().await;
        report.verdict = verdict(&result);
        result
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("state", &self.circuit().state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn circuit() -> Circuit {
        let base = Duration::from_secs(5);
        Circuit {
            threshold: 3,
            base,
            cap: Duration::from_secs(40),
            chance: 1,
            era: 0,
            opened: 0,
            state: State::Closed { failures: 0 },
        }
    }

    fn fail(circuit: &mut Circuit, times: u32, now: Timestamp) {
        for _ in 0..times {
            let era = circuit.admit(now).unwrap();
            circuit.record(era, Verdict::Failure, now);
        }
    }

    fn until(circuit: &Circuit) -> Timestamp {
        match circuit.state {
            State::Open { until } => until,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_opens_only_after_failures_in_a_row() {
        let mut c = circuit();
        fail(&mut c, 2, at(0));
        let era = c.admit(at(0)).unwrap();
        c.record(era, Verdict::Success, at(0));
        fail(&mut c, 2, at(0));
        let era = c.admit(at(0)).unwrap();
        c.record(era, Verdict::Nothing, at(0));
        assert_eq!(c.state, State::Closed { failures: 2 });
        fail(&mut c, 1, at(0));
        let wait = c.admit(at(1)).unwrap_err();
        assert!(
            (4_000..=5_000).contains(&wait.as_millis()),
            "{wait:?}: 5 s and up to a fifth, less the one gone by"
        );
    }

    #[test]
    fn one_probe_decides_for_all() {
        let mut c = circuit();
        fail(&mut c, 3, at(0));
        let probe = c.admit(at(7)).unwrap();
        assert!(
            c.admit(at(7)).is_err() && c.admit(at(1000)).is_err(),
            "exactly one call is let through"
        );
        c.record(probe, Verdict::Success, at(8));
        assert_eq!((c.state, c.opened), (State::Closed { failures: 0 }, 0));
        fail(&mut c, 3, at(9));
        assert!(until(&c) >= at(14) && until(&c) <= at(15), "the first wait again");
    }

    #[test]
    fn the_wait_doubles_up_to_the_cap() {
        let mut c = circuit();
        fail(&mut c, 3, at(0));
        for seconds in [10, 20, 40, 40] {
            let now = until(&c);
            fail(&mut c, 1, now);
            let wait = until(&c).since(now).as_secs_f64();
            assert!(
                (f64::from(seconds)..=f64::from(seconds) * 1.2).contains(&wait),
                "{wait}"
            );
        }
    }

    #[test]
    fn late_reports_have_no_say() {
        let mut c = circuit();
        let early = c.admit(at(0)).unwrap();
        fail(&mut c, 3, at(0));
        c.record(early, Verdict::Success, at(1));
        assert!(matches!(c.state, State::Open { .. }));
        let probe = c.admit(at(7)).unwrap();
        c.record(early, Verdict::Failure, at(7));
        assert_eq!(c.state, State::Probing);
        c.record(probe, Verdict::Nothing, at(8));
        assert!(c.admit(at(8)).is_ok(), "a dropped probe is followed by another");
    }

    #[test]
    fn only_the_providers_own_state_counts() {
        use ErrorKind as K;
        let of = |kind| verdict(&Err(Error::new(kind, "x")));
        for kind in [K::Unavailable, K::Timeout, K::Unexpected] {
            assert_eq!(of(kind), Verdict::Failure, "{kind}");
        }
        for kind in [
            K::Invalid,
            K::NotFound,
            K::Conflict,
            K::Refused,
            K::PermissionDenied,
            K::Unauthenticated,
            K::Corrupt,
        ] {
            assert_eq!(of(kind), Verdict::Success, "{kind}");
        }
        for kind in [K::RateLimited, K::Cancelled, K::Config, K::Unsupported] {
            assert_eq!(of(kind), Verdict::Nothing, "{kind}");
        }
        assert_eq!(
            verdict(&Err(Error::invalid("x").effect_unknown())),
            Verdict::Failure
        );
        assert_eq!(verdict(&Ok(())), Verdict::Success);
    }
}
