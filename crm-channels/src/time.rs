//! What time it is for everybody who shares a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::{Clock, Timestamp};

/// How long a comparison of the clocks holds.
const FRESH: Duration = Duration::from_secs(30);
/// Nothing was compared yet.
const NEVER: i64 = i64::MIN;
/// There is nothing to compare with.
const NOWHERE: i64 = i64::MAX;

/// This process's clock, set by the store's where that has one of its own: then a machine whose clock is wrong by an hour
/// neither takes over what others are sending, nor sends an hour early, nor queues what is due an hour late.
#[derive(Debug)]
pub(crate) struct SharedTime {
    store: Arc<dyn RecordStore>,
    clock: Arc<dyn Clock>,
    /// By how many microseconds the store's clock is ahead.
    ahead: AtomicI64,
    compared: AtomicI64,
}

impl SharedTime {
    pub(crate) fn new(store: Arc<dyn RecordStore>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            store,
            clock,
            ahead: AtomicI64::new(0),
            compared: AtomicI64::new(NEVER),
        })
    }

    /// What time it is, as of the last comparison.
    pub(crate) fn now(&self) -> Timestamp {
        let micros = self.clock.now().as_micros();
        Timestamp::from_micros(micros.saturating_add(self.ahead.load(Ordering::Relaxed)))
    }

    /// What time it is; the clocks are compared when that was long ago.
    pub(crate) async fn fresh(&self) -> Timestamp {
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
    use crm_core::ManualClock;
    use crm_core::memory::MemoryStore;

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
