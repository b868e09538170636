use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{Call, Next, Policy};
use crate::id::split_mix;
use crate::{Effect, Error, Result};

/// What a first attempt adds to the budget, in thousandths of a retry: one retry in five calls.
const DEPOSIT: u64 = 200;

/// Makes a call again when it failed, may be repeated ([`crate::Retry::Allowed`]) and did nothing or is idempotent.
///
/// The wait grows from `base` to `cap` with full jitter (a random part of it; Brooker, "Exponential Backoff And
/// Jitter", AWS Architecture Blog 2015), from a seed. What the other side asks for (`Retry-After`) is the least it
/// waits; when that is longer than `cap`, the error goes to the caller at once, still retryable, for a queue to wait.
///
/// A budget keeps retries from multiplying the load of an outage: a first attempt adds a fifth of a retry, a retry
/// takes a whole one, and at most 100 are saved up. An error that comes out after the last attempt, or because the
/// budget is empty, says [`crate::Retry::Exhausted`], so that a retry further out does not multiply this one.
///
/// ```
/// use std::time::Duration;
/// use crm_core::policy::Retry;
///
/// let retry = Retry::new(4, 7).backoff(Duration::from_millis(100), Duration::from_secs(5));
/// assert!(format!("{retry:?}").contains("attempts: 4"));
/// ```
pub struct Retry {
    attempts: u32,
    base: Duration,
    cap: Duration,
    reserve: u64,
    state: Mutex<State>,
}

struct State {
    /// Retries saved up, in thousandths.
    budget: u64,
    chance: u64,
}

impl Retry {
    /// At most `attempts` attempts, the first one included; waits of up to 200 ms, 400 ms and so on, at most 10 s.
    pub fn new(attempts: u32, seed: u64) -> Self {
        let reserve = 100_000;
        Self {
            attempts: attempts.max(1),
            base: Duration::from_millis(200),
            cap: Duration::from_secs(10),
            reserve,
            state: Mutex::new(State {
                budget: reserve,
                chance: seed,
            }),
        }
    }

    /// Sets the longest first wait and the longest wait of all.
    #[must_use]
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.base = base;
        self.cap = cap;
        self
    }

    /// Sets how many retries are saved up at most, and saves up as many.
    #[must_use]
    pub fn budget(mut self, retries: u32) -> Self {
        self.reserve = u64::from(retries) * 1000;
        self.state
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .budget = self.reserve;
        self
    }

    fn deposit(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.budget = (state.budget + DEPOSIT).min(self.reserve);
    }

    fn withdraw(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let left = state.budget.checked_sub(1000);
        state.budget = left.unwrap_or(state.budget);
        left.is_some()
    }

    /// The wait before attempt `attempt + 1`: a random part of the window, or what was asked for and a little more.
    fn wait(&self, attempt: u32, after: Option<Duration>) -> Duration {
        let chance = split_mix(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).chance);
        let share = (chance >> 11) as f64 / (1_u64 << 53) as f64;
        let doubled = 2_u32.checked_pow(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        match after {
            // Not all of those who were sent away come back in the same instant.
            Some(after) => after.saturating_add(self.base.mul_f64(share)),
            None => self.base.saturating_mul(doubled).min(self.cap).mul_f64(share),
        }
    }
}

fn exhausted(error: Error, attempts: u32) -> Error {
    error
        .with_retry(crate::Retry::Exhausted)
        .with("attempts", attempts)
}

#[async_trait]
impl Policy for Retry {
    async fn around<'a>(&'a self, call: Call<'a>, next: Next<'a>) -> Result<()> {
        if call.op.streams {
            return next.run().await;
        }
        self.deposit();
        let mut attempt = 1;
        loop {
            let Err(error) = next.run().await else {
                return Ok(());
            };
            let crate::Retry::Allowed { after } = error.retry() else {
                return Err(error);
            };
            let harmless = call.op.idempotent || error.effect() == Effect::None;
            if !harmless || after.is_some_and(|after| after > self.cap) {
                return Err(error);
            }
            if attempt >= self.attempts {
                return Err(exhausted(error, attempt));
            }
            if !self.withdraw() {
                return Err(exhausted(error, attempt).with("retry_budget", "empty"));
            }
            let wait = self.wait(attempt, after);
            tracing::debug!(op = call.op.name, provider = %call.provider, attempt, ?wait, kind = %error.kind(), "trying again");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("attempts", &self.attempts)
            .field("base", &self.base)
            .field("cap", &self.cap)
            .finish_non_exhaustive()
    }
}
