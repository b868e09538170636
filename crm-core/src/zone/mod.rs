//! Time zones: what the clock on somebody's wall shows, and which zones somebody may be in when nobody said.
//!
//! The rules come from the IANA time zone database that is compiled in; no file of the machine is read. Where somebody
//! may be is told by the beginning of a phone number (tables of libphonenumber) or by a country (`zone.tab`).
//!
//! ```
//! use crm_core::{TimeZone, Timestamp};
//!
//! let new_york: TimeZone = "America/New_York".parse().unwrap();
//! // The night in which the clocks go forward: 06:59 UTC is 01:59, a minute later it is 03:00.
//! let night = |text: &str| new_york.local(text.parse::<Timestamp>().unwrap()).time.to_string();
//! assert_eq!(night("2026-03-08T06:59:00Z"), "01:59");
//! assert_eq!(night("2026-03-08T07:00:00Z"), "03:00");
//! ```

mod place;

use std::fmt;
use std::str::FromStr;

use chrono::{
    DateTime, Datelike as _, Days, NaiveDate, NaiveDateTime, Offset as _, TimeZone as _, Timelike as _,
};
use serde::{Deserialize, Serialize};

pub use place::{Place, of_country, of_phone};

use crate::{Error, Result, Timestamp};

/// A time zone of the IANA database, by its name: `Europe/Tallinn`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeZone(chrono_tz::Tz);

/// What the clock and the calendar on the wall show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// The year.
    pub year: i32,
    /// The month, 1 to 12.
    pub month: u32,
    /// The day of the month, from 1.
    pub day: u32,
    /// The day of the week.
    pub weekday: Weekday,
    /// The time of day; seconds are left out.
    pub time: LocalTime,
}

impl TimeZone {
    /// Coordinated universal time.
    pub const UTC: Self = Self(chrono_tz::Tz::UTC);

    /// The zone of this name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] on `field=timezone` when the database has none of this name.
    pub fn parse(name: &str) -> Result<Self> {
        name.parse().map(Self).map_err(|_| {
            Error::invalid("no such time zone; write its IANA name, such as Europe/Tallinn")
                .with("field", "timezone")
        })
    }

    /// Its IANA name.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// What the wall shows at an instant.
    pub fn local(self, at: Timestamp) -> Local {
        let wall = self.wall(at);
        Local {
            year: wall.year(),
            month: wall.month(),
            day: wall.day(),
            weekday: wall.weekday().into(),
            time: LocalTime::of_minutes(wall.hour() * 60 + wall.minute()),
        }
    }

    /// The instant at which the wall first shows this time on this day, or goes past it: in the hour that is left out in
    /// spring the first instant after it, in the hour that comes twice in autumn the first of the two. `None` when there
    /// is no such day.
    pub fn instant(self, year: i32, month: u32, day: u32, time: LocalTime) -> Option<Timestamp> {
        let wall = time.on(NaiveDate::from_ymd_opt(year, month, day)?)?;
        self.shows(wall).into_iter().min()
    }

    pub(crate) fn wall(self, at: Timestamp) -> NaiveDateTime {
        let utc = utc(at);
        utc + self.0.offset_from_utc_datetime(&utc).fix()
    }

    /// The instants at which the wall shows this: one, two where it comes twice, the end of the gap where it never does.
    pub(crate) fn shows(self, wall: NaiveDateTime) -> Vec<Timestamp> {
        let stamp = |utc: NaiveDateTime| Timestamp::from_micros(utc.and_utc().timestamp_micros());
        // Offsets lie between -15 and +15 hours, and change at most once in a few days.
        let day = chrono::Duration::hours(24);
        let offset = |at: NaiveDateTime| self.0.offset_from_utc_datetime(&at).fix();
        let mut found: Vec<NaiveDateTime> = Vec::with_capacity(2);
        for offset_there in [offset(wall - day), offset(wall + day)] {
            let utc = wall - offset_there;
            if offset(utc) == offset_there && !found.contains(&utc) {
                found.push(utc);
            }
        }
        if found.is_empty() {
            found.extend(self.change(wall - day, wall + day));
        }
        found.into_iter().map(stamp).collect()
    }

    /// The first instant after `from` and not after `until` at which the wall jumps.
    pub(crate) fn jump(self, from: Timestamp, until: Timestamp) -> Option<Timestamp> {
        self.change(utc(from), utc(until))
            .map(|utc| Timestamp::from_micros(utc.and_utc().timestamp_micros()))
    }

    fn change(self, from: NaiveDateTime, until: NaiveDateTime) -> Option<NaiveDateTime> {
        let offset = |at: NaiveDateTime| self.0.offset_from_utc_datetime(&at).fix();
        let mut low = from;
        while low < until {
            let mut high = (low + chrono::Duration::hours(6)).min(until);
            if offset(low) == offset(high) {
                low = high;
                continue;
            }
            // Whole seconds: `low` still has the old offset, `high` the new one.
            while high - low > chrono::Duration::seconds(1) {
                let middle = low + (high - low) / 2;
                if offset(middle) == offset(low) {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            return Some(high.with_nanosecond(0).unwrap_or(high));
        }
        None
    }
}

fn utc(at: Timestamp) -> NaiveDateTime {
    DateTime::from_timestamp_micros(at.as_micros())
        .unwrap_or_default()
        .naive_utc()
}

impl fmt::Debug for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimeZone({})", self.name())
    }
}
impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
impl FromStr for TimeZone {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        Self::parse(name)
    }
}
impl TryFrom<String> for TimeZone {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        Self::parse(&name)
    }
}
impl From<TimeZone> for String {
    fn from(zone: TimeZone) -> Self {
        zone.name().to_owned()
    }
}

/// A time of day, to the minute: `00:00` to `24:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LocalTime(u16);

impl LocalTime {
    /// The beginning of a day.
    pub const MIDNIGHT: Self = Self(0);
    /// The end of a day.
    pub const END: Self = Self(24 * 60);

    /// Hours and minutes; `None` beyond 24:00.
    pub const fn new(hour: u16, minute: u16) -> Option<Self> {
        if hour > 24 || minute > 59 || (hour == 24 && minute > 0) {
            return None;
        }
        Some(Self(hour * 60 + minute))
    }

    fn of_minutes(minutes: u32) -> Self {
        Self(u16::try_from(minutes).unwrap_or(0).min(24 * 60))
    }

    /// On this day; 24:00 is the beginning of the next one.
    pub(crate) fn on(self, day: NaiveDate) -> Option<NaiveDateTime> {
        match self.0 {
            1440 => day.checked_add_days(Days::new(1))?.and_hms_opt(0, 0, 0),
            minutes => day.and_hms_opt(u32::from(minutes / 60), u32::from(minutes % 60), 0),
        }
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}
impl FromStr for LocalTime {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let number = |part: &str| {
            (part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit()))
                .then(|| part.parse::<u16>().ok())
                .flatten()
        };
        text.split_once(':')
            .and_then(|(hour, minute)| Self::new(number(hour)?, number(minute)?))
            .ok_or_else(|| {
                Error::invalid("a time of day is written 08:00, at most 24:00").with("field", "time")
            })
    }
}
impl TryFrom<String> for LocalTime {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}
impl From<LocalTime> for String {
    fn from(time: LocalTime) -> Self {
        time.to_string()
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weekday {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl From<chrono::Weekday> for Weekday {
    fn from(day: chrono::Weekday) -> Self {
        match day {
            chrono::Weekday::Mon => Self::Mon,
            chrono::Weekday::Tue => Self::Tue,
            chrono::Weekday::Wed => Self::Wed,
            chrono::Weekday::Thu => Self::Thu,
            chrono::Weekday::Fri => Self::Fri,
            chrono::Weekday::Sat => Self::Sat,
            chrono::Weekday::Sun => Self::Sun,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_time_that_is_left_out_or_comes_twice_has_its_first_instant() {
        let ny = TimeZone::parse("America/New_York").unwrap();
        let time = |h, m| LocalTime::new(h, m).unwrap();
        for (day, time, expected) in [
            ((3, 8), time(1, 59), "2026-03-08T06:59:00Z"),
            ((3, 8), time(2, 30), "2026-03-08T07:00:00Z"),
            ((3, 8), time(3, 0), "2026-03-08T07:00:00Z"),
            ((11, 1), time(1, 30), "2026-11-01T05:30:00Z"),
            ((11, 1), time(2, 0), "2026-11-01T07:00:00Z"),
            ((3, 7), LocalTime::END, "2026-03-08T05:00:00Z"),
        ] {
            assert_eq!(
                ny.instant(2026, day.0, day.1, time),
                Some(at(expected)),
                "{day:?} {time}"
            );
        }
        assert_eq!(ny.instant(2026, 2, 30, time(1, 0)), None);
        let twice = chrono::NaiveDate::from_ymd_opt(2026, 11, 1)
            .unwrap()
            .and_hms_opt(1, 30, 0)
            .unwrap();
        assert_eq!(
            ny.shows(twice),
            [at("2026-11-01T05:30:00Z"), at("2026-11-01T06:30:00Z")]
        );
        assert_eq!(
            ny.jump(at("2026-10-20T00:00:00Z"), at("2026-11-10T00:00:00Z")),
            Some(at("2026-11-01T06:00:00Z"))
        );
        assert_eq!(
            ny.jump(at("2026-06-01T00:00:00Z"), at("2026-06-30T00:00:00Z")),
            None
        );
    }

    #[test]
    fn zones_and_times_are_data() {
        let zone: TimeZone = serde_json::from_str("\"Asia/Kathmandu\"").unwrap();
        assert_eq!(zone.local(at("2026-01-01T00:00:00Z")).time.to_string(), "05:45");
        assert_eq!(serde_json::to_string(&zone).unwrap(), "\"Asia/Kathmandu\"");
        let error = TimeZone::parse("Mars/Olympus").unwrap_err();
        assert_eq!(error.context("field"), Some("timezone"));
        assert!(serde_json::from_str::<TimeZone>("\"CEST \"").is_err());
        for wrong in [
            "",
            "8:00",
            "24:01",
            "12:60",
            "-1:00",
            "+1:00",
            "12",
            "12:0",
            "١٢:٠٠",
        ] {
            assert!(wrong.parse::<LocalTime>().is_err(), "{wrong}");
        }
        assert_eq!("24:00".parse::<LocalTime>().unwrap(), LocalTime::END);
    }
}
