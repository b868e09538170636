//! When the messages of a campaign are due.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crm_core::zone::{LocalTime, TimeZone};
use crm_core::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

/// How far ahead of the earliest recipient's time messages of a [`Schedule::Local`] are queued.
const LEAD: Duration = Duration::from_secs(3600);

/// A day of the calendar, written `2026-03-08`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Day {
    year: i32,
    month: u32,
    day: u32,
}

impl Day {
    /// A day; `None` when there is no such day.
    pub fn new(year: i32, month: u32, day: u32) -> Option<Self> {
        let there = (0..=9999).contains(&year) && Timestamp::from_ymd(year, month, day).is_some();
        there.then_some(Self { year, month, day })
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}
impl FromStr for Day {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('-');
        let mut part = |digits: usize| {
            parts
                .next()
                .filter(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|part| part.parse::<u32>().ok())
        };
        let read = (part(4), part(2), part(2));
        match (read, parts.next()) {
            ((Some(year), Some(month), Some(day)), None) => {
                Self::new(i32::try_from(year).unwrap_or(-1), month, day)
            }
            _ => None,
        }
        .ok_or_else(|| Error::invalid("a day is written 2026-03-08").with("field", "day"))
    }
}
impl TryFrom<String> for Day {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}
impl From<Day> for String {
    fn from(day: Day) -> Self {
        day.to_string()
    }
}

/// When the messages of a campaign are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// When it is started.
    #[default]
    Now,
    /// At this instant, everywhere.
    At(Timestamp),
    /// When the clock on the recipient's wall shows this time, in the time zone the gate infers
    /// ([`crm_core::consent::Gate::zones`]); where several are possible, when it has shown it in all of them. A time that
    /// the clocks leave out in spring is its first instant after the gap; of one that comes twice in autumn the first
    /// counts.
    Local {
        /// On this day.
        day: Day,
        /// At this time.
        time: LocalTime,
        /// The zone for those of whom nothing is known.
        otherwise: TimeZone,
    },
}

impl Schedule {
    /// From when on its messages are queued.
    pub(super) fn begins(&self) -> Option<Timestamp> {
        match self {
            Self::Now => None,
            Self::At(at) => Some(*at),
            // No place is further ahead than UTC+14.
            Self::Local { day, time, .. } => TimeZone::UTC
                .instant(day.year, day.month, day.day, *time)
                .map(|at| at.minus(Duration::from_secs(14 * 3600) + LEAD)),
        }
    }

    /// When a message to somebody in these zones is due.
    pub(super) fn due(&self, zones: &[TimeZone], now: Timestamp) -> Timestamp {
        match self {
            Self::Now => now,
            Self::At(at) => *at,
            Self::Local { day, time, otherwise } => {
                let shown = |zone: &TimeZone| zone.instant(day.year, day.month, day.day, *time);
                let latest = zones.iter().filter_map(shown).max();
                latest.or_else(|| shown(otherwise)).unwrap_or(now)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_and_written() {
        for text in ["2026-03-08", "2024-02-29"] {
            assert_eq!(text.parse::<Day>().unwrap().to_string(), text);
        }
        for text in [
            "2025-02-29",
            "2026-3-8",
            "2026-03-08-1",
            "",
            "x",
            "2026-13-01",
            "+026-01-01",
        ] {
            assert!(text.parse::<Day>().is_err(), "{text}");
        }
    }

    #[test]
    fn local_times_are_due_when_every_possible_wall_has_shown_them() {
        let zone = |name: &str| TimeZone::parse(name).unwrap();
        let due = |day: &str, time: &str, zones: &[TimeZone]| {
            Schedule::Local {
                day: day.parse().unwrap(),
                time: time.parse().unwrap(),
                otherwise: zone("Europe/Berlin"),
            }
            .due(zones, Timestamp::EPOCH)
            .to_string()
        };
        let (ny, la) = (zone("America/New_York"), zone("America/Los_Angeles"));
        // The day on which the clocks of New York go forward, and the day before.
        assert_eq!(due("2026-03-07", "09:00", &[ny]), "2026-03-07T14:00:00.000000Z");
        assert_eq!(due("2026-03-08", "09:00", &[ny]), "2026-03-08T13:00:00.000000Z");
        // 02:30 is left out; 01:30 in November comes twice.
        assert_eq!(due("2026-03-08", "02:30", &[ny]), "2026-03-08T07:00:00.000000Z");
        assert_eq!(due("2026-11-01", "01:30", &[ny]), "2026-11-01T05:30:00.000000Z");
        assert_eq!(
            due("2026-03-08", "09:00", &[ny, la]),
            "2026-03-08T16:00:00.000000Z"
        );
        assert_eq!(due("2026-03-08", "09:00", &[]), "2026-03-08T08:00:00.000000Z");
    }

    #[test]
    fn nobody_is_due_before_the_queueing_begins() {
        let schedule = Schedule::Local {
            day: "2026-03-08".parse().unwrap(),
            time: "00:00".parse().unwrap(),
            otherwise: TimeZone::UTC,
        };
        let kiritimati = TimeZone::parse("Pacific/Kiritimati").unwrap();
        assert_eq!(
            schedule
                .due(&[kiritimati], Timestamp::EPOCH)
                .since(schedule.begins().unwrap()),
            LEAD
        );
    }
}
