//! Spans of calendar time, counted back from an instant.

use chrono::{DateTime, Months};
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The unit of a [`Span`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// 60 seconds.
    Minutes,
    /// 60 minutes.
    Hours,
    /// 24 hours.
    Days,
    /// 7 days.
    Weeks,
    /// Calendar months (UTC): a month before 31 March is the last day of February.
    Months,
    /// 12 months.
    Years,
}

/// A length of time as people say it: 90 days, 3 months. Negative ones lie in the future.
///
/// ```
/// use crm_core::Timestamp;
/// use crm_core::query::Span;
///
/// let end_of_march = Timestamp::from_ymd(2026, 3, 31).unwrap();
/// assert_eq!(Span::months(1).before(end_of_march), Timestamp::from_ymd(2026, 2, 28).unwrap());
/// assert_eq!(Span::days(-1).before(end_of_march), Timestamp::from_ymd(2026, 4, 1).unwrap());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// How many.
    pub count: i32,
    /// Of what.
    pub unit: Unit,
}

impl Span {
    /// Hours.
    pub const fn hours(count: i32) -> Self {
        Self {
            count,
            unit: Unit::Hours,
        }
    }
    /// Days of 24 hours.
    pub const fn days(count: i32) -> Self {
        Self {
            count,
            unit: Unit::Days,
        }
    }
    /// Calendar months.
    pub const fn months(count: i32) -> Self {
        Self {
            count,
            unit: Unit::Months,
        }
    }

    /// The instant this long before `now`; stays within the range of time.
    #[must_use]
    pub fn before(self, now: Timestamp) -> Timestamp {
        let minutes = match self.unit {
            Unit::Minutes => 1,
            Unit::Hours => 60,
            Unit::Days => 60 * 24,
            Unit::Weeks => 60 * 24 * 7,
            Unit::Months => return months_before(now, i64::from(self.count)),
            Unit::Years => return months_before(now, i64::from(self.count) * 12),
        };
        let micros = i64::from(self.count) * minutes * 60_000_000;
        Timestamp::from_micros(now.as_micros().saturating_sub(micros))
    }
}

fn months_before(now: Timestamp, count: i64) -> Timestamp {
    let end = Timestamp::from_micros(if count > 0 { i64::MIN } else { i64::MAX });
    let months = Months::new(u32::try_from(count.unsigned_abs()).unwrap_or(u32::MAX));
    let moved = DateTime::from_timestamp_micros(now.as_micros()).and_then(|time| {
        if count >= 0 {
            time.checked_sub_months(months)
        } else {
            time.checked_add_months(months)
        }
    });
    moved.map_or(end, |time| Timestamp::from_micros(time.timestamp_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_reach_back_by_the_calendar() {
        let day = |y, m, d| Timestamp::from_ymd(y, m, d).unwrap();
        for (span, from, to) in [
            (Span::days(90), day(2026, 4, 1), day(2026, 1, 1)),
            (
                Span {
                    count: 2,
                    unit: Unit::Weeks,
                },
                day(2026, 1, 15),
                day(2026, 1, 1),
            ),
            (
                Span {
                    count: 1,
                    unit: Unit::Years,
                },
                day(2024, 2, 29),
                day(2023, 2, 28),
            ),
            (Span::months(-1), day(2026, 1, 31), day(2026, 2, 28)),
            (Span::hours(24), day(2026, 3, 1), day(2026, 2, 28)),
        ] {
            assert_eq!(span.before(from), to, "{span:?}");
        }
        let far = Timestamp::from_micros(i64::MIN + 1);
        assert_eq!(Span::days(1).before(far), Timestamp::from_micros(i64::MIN));
    }
}
