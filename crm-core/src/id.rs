//! Identifiers: UUIDv7 (RFC 9562, 5.7), typed by what they name, made from the injected clock and a source of
//! randomness that tests can seed.
//!
//! ```
//! use std::sync::Arc;
//! use crm_core::{CustomerId, IdSource, ManualClock, SeededIds};
//!
//! let ids = SeededIds::new(Arc::new(ManualClock::default()), 7);
//! let a: CustomerId = ids.fresh().into();
//! let b: CustomerId = ids.fresh().into();
//! assert!(a < b, "ids of one source sort by the order they were made");
//! assert_eq!(a.to_string().parse::<CustomerId>().unwrap(), a);
//! ```

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
pub use uuid::Uuid;

use crate::{Clock, Error, Result, SystemClock};

/// The identifier of a `T`: a UUID that cannot be mistaken for another thing's.
pub struct Id<T: ?Sized>(Uuid, PhantomData<fn() -> Box<T>>);

impl<T: ?Sized> Id<T> {
    /// The bare UUID.
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl<T: ?Sized> From<Uuid> for Id<T> {
    fn from(uuid: Uuid) -> Self {
        Self(uuid, PhantomData)
    }
}

impl<T: ?Sized> From<Id<T>> for Uuid {
    fn from(id: Id<T>) -> Self {
        id.0
    }
}

impl<T: ?Sized> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: ?Sized> Copy for Id<T> {}
impl<T: ?Sized> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T: ?Sized> Eq for Id<T> {}
impl<T: ?Sized> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T: ?Sized> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}
impl<T: ?Sized> Hash for Id<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<T: ?Sized> fmt::Display for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}
impl<T: ?Sized> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}
impl<T: ?Sized> FromStr for Id<T> {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let uuid = Uuid::parse_str(text).map_err(|e| Error::invalid("not an id; ids are UUIDs").source(e))?;
        Ok(uuid.into())
    }
}
impl<T: ?Sized> Serialize for Id<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}
impl<'de, T: ?Sized> Deserialize<'de> for Id<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Uuid::deserialize(deserializer).map(Self::from)
    }
}

/// Where fresh identifiers come from.
pub trait IdSource: fmt::Debug + Send + Sync + 'static {
    /// A fresh UUIDv7. Those of one source never repeat and sort by the order they were made.
    fn fresh(&self) -> Uuid;
}

#[derive(Debug, Default)]
struct Order {
    millis: u64,
    counter: u16,
}

impl Order {
    /// Milliseconds and a counter within the millisecond (RFC 9562, 6.2, method 1): a clock that stands still or goes
    /// back borrows from the future instead of breaking the order.
    fn next(&mut self, now: u64) -> (u64, u16) {
        if now > self.millis {
            self.millis = now;
            self.counter = 0;
        } else if self.counter >= 0x0fff {
            self.millis += 1;
            self.counter = 0;
        } else {
            self.counter += 1;
        }
        (self.millis, self.counter)
    }
}

fn v7(clock: &dyn Clock, order: &Mutex<Order>, random: [u8; 8]) -> Uuid {
    let now = u64::try_from(clock.now().as_micros() / 1000).unwrap_or(0);
    let (millis, counter) = order.lock().unwrap_or_else(PoisonError::into_inner).next(now);
    let [c0, c1] = counter.to_be_bytes();
    let [r0, r1, r2, r3, r4, r5, r6, r7] = random;
    uuid::Builder::from_unix_timestamp_millis(millis, &[c0, c1, r0, r1, r2, r3, r4, r5, r6, r7]).into_uuid()
}

/// Identifiers from the clock and the operating system's randomness.
#[derive(Debug)]
pub struct RandomIds {
    clock: Arc<dyn Clock>,
    order: Mutex<Order>,
}

impl RandomIds {
    /// Identifiers stamped by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            order: Mutex::default(),
        }
    }

    /// Identifiers stamped by the machine's clock, ready to be shared.
    pub fn shared() -> Arc<dyn IdSource> {
        Arc::new(Self::new(SystemClock::shared()))
    }
}

impl IdSource for RandomIds {
    fn fresh(&self) -> Uuid {
        let mut random = [0; 8];
        // The operating system's generator only fails on systems without one; the time and the counter still keep the
        // ids of this source apart.
        if getrandom::fill(&mut random).is_err() {
            tracing::warn!(
                "the operating system gave no randomness; ids are only unique within this process"
            );
        }
        v7(&*self.clock, &self.order, random)
    }
}

/// Identifiers from the clock and a seed: same seed and times, same identifiers.
#[derive(Debug)]
pub struct SeededIds {
    clock: Arc<dyn Clock>,
    order: Mutex<Order>,
    state: Mutex<u64>,
}

impl SeededIds {
    /// Identifiers stamped by `clock` with random bits from `seed`.
    pub fn new(clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self {
            clock,
            order: Mutex::default(),
            state: Mutex::new(seed),
        }
    }
}

impl IdSource for SeededIds {
    fn fresh(&self) -> Uuid {
        let random = split_mix(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        v7(&*self.clock, &self.order, random.to_be_bytes())
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): a seeded sequence for ids and jitter, never for secrets.
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    #[test]
    fn order_and_uniqueness_hold_while_the_clock_stands_still() {
        let ids = RandomIds::new(Arc::new(ManualClock::at(crate::Timestamp::from_micros(
            1_000_000,
        ))));
        let made: Vec<Uuid> = (0..10_000).map(|_| ids.fresh()).collect();
        assert!(made.windows(2).all(|w| w[0] < w[1]));
        assert!(made.iter().all(|id| id.get_version_num() == 7));
    }

    #[test]
    fn same_seed_same_ids() {
        let make = || SeededIds::new(Arc::new(ManualClock::default()), 42).fresh();
        assert_eq!(make(), make());
    }

    #[test]
    fn split_mix_matches_the_published_sequence() {
        // First outputs for seed 1234567, as listed for the reference implementation.
        let mut state = 1_234_567;
        assert_eq!(split_mix(&mut state), 6_457_827_717_110_365_317);
        assert_eq!(split_mix(&mut state), 3_203_168_211_198_807_973);
    }
}
