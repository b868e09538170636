//! The instant features are seen from.

use std::fmt;
use std::time::Duration;

use crm_core::Timestamp;
use crm_core::query::Filter;
use serde::{Deserialize, Serialize};

const DAY: f64 = 86_400e6;

/// The instant features are seen from: what happened then or later does not exist. Events are asked for through it alone,
/// so that no later one can leak into what a model learns from.
///
/// ```
/// use crm_analytics::features::AsOf;
/// use crm_core::Timestamp;
///
/// let as_of = AsOf::from(Timestamp::from_ymd(2026, 3, 1).unwrap());
/// assert_eq!(as_of.days_since(Timestamp::from_ymd(2026, 2, 1).unwrap()), Some(28.0));
/// assert_eq!(as_of.days_since(Timestamp::from_ymd(2026, 3, 1).unwrap()), None); // it has not happened
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AsOf(Timestamp);

impl From<Timestamp> for AsOf {
    fn from(instant: Timestamp) -> Self {
        Self(instant)
    }
}

impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsOf {
    /// The instant.
    pub fn instant(self) -> Timestamp {
        self.0
    }

    /// The days since something happened; `None` when it has not happened yet.
    pub fn days_since(self, at: Timestamp) -> Option<f64> {
        (at < self.0).then(|| self.0.as_micros().saturating_sub(at.as_micros()) as f64 / DAY)
    }

    /// Whether something has happened.
    pub fn knows(self, at: Timestamp) -> bool {
        at < self.0
    }

    /// Events that have happened, by the field that says when.
    pub(super) fn before(self, field: &'static str) -> Filter {
        Filter::lt(field, self.0)
    }

    /// Events of the last so many days.
    pub(super) fn within(self, field: &'static str, days: u32) -> Filter {
        let length = Duration::from_secs(86_400 * u64::from(days));
        self.before(field).and(Filter::ge(field, self.0.minus(length)))
    }
}
