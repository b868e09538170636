use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::capability::RecordStore;
use crate::{Clock, Timestamp};

/// How long a comparison of the clocks holds.
const FRESH: Duration = Duration::from_secs(30);
/// Nothing was compared yet.
const NEVER: i64 = i64::MIN;
/// There is nothing to compare with.
const NOWHERE: i64 = i64::MAX;

/// What time it is for everybody who shares a store: this process's clock, set by the store's where that has one of its
/// own. A machine whose clock is wrong by an hour then neither takes over what others are working on, nor does what is due
/// an hour early or late. A clock that is told what it shows ([`Clock::is_real`]) is left as it is.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_core::memory::MemoryStore;
/// use crm_core::{Clock, ManualClock, SharedTime, Timestamp};
///
/// let clock = Arc::new(ManualClock::at(Timestamp::from_micros(5)));
/// let time = SharedTime::new(Arc::new(MemoryStore::new("records")), clock.clone());
/// assert_eq!(time.fresh().await, clock.now());
/// # });
/// ```
#[derive(Debug)]
pub struct SharedTime {
    store: Arc<dyn RecordStore>,
    clock: Arc<dyn Clock>,
    /// By how many microseconds the store's clock is ahead.
    ahead: AtomicI64,
    compared: AtomicI64,
}

impl SharedTime {
    /// Of `store` and this process's `clock`.
    pub fn new(store: Arc<dyn RecordStore>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            store,
            clock,
            ahead: AtomicI64::new(0),
            compared: AtomicI64::new(NEVER),
        })
    }

    /// What time it is, as of the last comparison.
    pub fn now(&self) -> Timestamp {
        let micros = self.clock.now().as_micros();
        Timestamp::from_micros(micros.saturating_add(self.ahead.load(Ordering::Relaxed)))
    }

    /// What time it is; the clocks are compared when that was long ago.
    pub async fn fresh(&self) -> Timestamp {
        let begun = self.clock.now();
        let compared = self.compared.load(Ordering::Relaxed);
        // A clock that was set back is compared at once.
        let age = begun.as_micros().saturating_sub(compared);
        let fresh = i64::try_from(FRESH.as_micros()).unwrap_or(i64::MAX);
        let due = compared == NEVER || !(0..fresh).contains(&age);
        if due && compared != NOWHERE && self.clock.is_real() {
            match self.store.now().await {
                Ok(Some(there)) => {
                    let here = self.clock.now();
                    // It was asked for somewhere between sending the question and hearing the answer.
                    let middle = (begun.as_micros() + here.as_micros()) / 2;
                    self.ahead.store(there.as_micros() - middle, Ordering::Relaxed);
                    self.compared.store(here.as_micros(), Ordering::Relaxed);
                }
                Ok(None) => self.compared.store(NOWHERE, Ordering::Relaxed),
                Err(error) => tracing::debug!(%error, "the clocks were not compared"),
            }
        }
        self.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;
    use crate::memory::MemoryStore;

    #[derive(Debug)]
    struct Real(ManualClock);
    impl Clock for Real {
        fn now(&self) -> Timestamp {
            self.0.now()
        }
    }

    #[tokio::test]
    async fn where_the_store_has_no_clock_our_own_counts() {
        let clock = Arc::new(Real(ManualClock::at(Timestamp::from_micros(5))));
        let time = SharedTime::new(Arc::new(MemoryStore::new("records")), clock.clone());
        assert_eq!((time.fresh().await, time.now()), (clock.now(), clock.now()));
        clock.0.advance(Duration::from_secs(3600));
        assert_eq!((time.fresh().await, time.now()), (clock.now(), clock.now()));
    }
}
