//! When somebody may be reached, by the clock on their own wall.

use chrono::{Datelike as _, NaiveDateTime};
use serde::{Deserialize, Serialize};

use crate::message::Channel;
use crate::zone::{LocalTime, Place, TimeZone, Weekday, of_country, of_phone};
use crate::{Error, Result, Timestamp};

use super::{Purpose, PurposeClass};

/// How far ahead a free moment is looked for: every week has the same hours, and a holiday of the clocks fits in twice.
const AHEAD: u64 = 15;

/// A stretch of every week in which messages may go out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// On these days; on all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Weekday>,
    /// From this time of day.
    pub from: LocalTime,
    /// Until before this one. Earlier than `from`: past midnight into the next day.
    pub until: LocalTime,
}

/// The hours in which messages may go out; all others are quiet. Judged in the recipient's time zone, at the moment of
/// sending; a message that comes too early or too late waits.
///
/// ```
/// use crm_core::consent::QuietHours;
///
/// let tcpa = QuietHours::us_tcpa();
/// assert_eq!(tcpa.allowed[0].from.to_string(), "08:00");
/// let own: QuietHours = serde_json::from_str(
///     r#"{"name": "nights", "allowed": [{"days": ["mon", "tue"], "from": "22:00", "until": "02:00"}]}"#,
/// ).unwrap();
/// assert!(own.channels.is_empty(), "holds for every channel");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuietHours {
    /// Its name, as a purpose is named.
    pub name: String,
    /// Only these channels; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Channel>,
    /// Only purposes of this class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<PurposeClass>,
    /// Only recipients who are, or may be, in this country (ISO 3166-1 alpha-2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// When messages may go out.
    pub allowed: Vec<Window>,
}

impl QuietHours {
    /// Every day between two times, for every channel and purpose everywhere.
    pub fn daily(name: impl Into<String>, from: LocalTime, until: LocalTime) -> Self {
        Self {
            name: name.into(),
            channels: Vec::new(),
            class: None,
            country: None,
            allowed: vec![Window {
                days: Vec::new(),
                from,
                until,
            }],
        }
    }

    /// Telephone marketing in the USA: 8 a.m. to 9 p.m. where the person called is (47 CFR 64.1200(c)(1)).
    pub fn us_tcpa() -> Self {
        Self::phone_marketing("us-tcpa", "US", 21)
    }

    /// Marketing by telephone and SMS in China: 8:00 to 22:00, outside of which the carriers' gateways refuse it.
    pub fn china_marketing() -> Self {
        Self::phone_marketing("cn-marketing", "CN", 22)
    }

    fn phone_marketing(name: &str, country: &str, until: u16) -> Self {
        let hour = |hour| LocalTime::new(hour, 0).unwrap_or(LocalTime::MIDNIGHT);
        Self {
            channels: vec![Channel::Sms, Channel::Voice],
            class: Some(PurposeClass::Marketing),
            country: Some(country.to_owned()),
            ..Self::daily(name, hour(8), hour(until))
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        let wrong = |message: &'static str, field: &'static str| {
            Err(Error::config(message)
                .with("setting", field)
                .with("rule", &self.name))
        };
        super::purpose::named(&self.name)
            .map_err(|_| Error::config("a rule is named as a purpose is").with("setting", "quiet.name"))?;
        if self.allowed.is_empty() {
            return wrong("quiet hours leave some hours free", "quiet.allowed");
        }
        if self.allowed.iter().any(|window| window.from == window.until) {
            return wrong(
                "a window has a length; a whole day is 00:00 to 24:00",
                "quiet.allowed",
            );
        }
        if self
            .country
            .as_deref()
            .is_some_and(|code| of_country(code).is_empty())
        {
            return wrong("not an ISO 3166-1 alpha-2 code", "quiet.country");
        }
        Ok(())
    }

    /// Whether it is about such messages to people in its country.
    pub(super) fn may_concern(&self, purpose: &Purpose, channel: Channel) -> bool {
        self.class.is_none_or(|class| class == purpose.class)
            && (self.channels.is_empty() || self.channels.contains(&channel))
    }

    pub(super) fn concerns(&self, purpose: &Purpose, channel: Channel, whereabouts: &Whereabouts) -> bool {
        self.may_concern(purpose, channel)
            && self
                .country
                .as_deref()
                .is_none_or(|country| whereabouts.may_be_in(country))
    }

    /// The zones to be judged in: those where the recipient may be; where nothing is known, those of the country the rule
    /// is about.
    pub(super) fn zones<'a>(&self, whereabouts: &'a Whereabouts) -> &'a [TimeZone] {
        match (&self.country, whereabouts.zones.is_empty()) {
            (Some(country), true) => of_country(country),
            _ => &whereabouts.zones,
        }
    }

    /// The first moment, not before `from`, at which it is free in all of the zones; `None` when there is none.
    pub(super) fn free_at(&self, zones: &[TimeZone], from: Timestamp) -> Option<Timestamp> {
        let end = from.plus(std::time::Duration::from_secs(AHEAD * 86_400));
        let mut at = from;
        // Every step goes to where one zone opens; all open at once, or the end comes.
        while at < end {
            let mut latest = at;
            for zone in zones {
                latest = latest.max(self.opens(*zone, at)?);
            }
            if latest == at {
                return Some(at);
            }
            at = latest;
        }
        None
    }

    fn is_open(&self, wall: NaiveDateTime) -> bool {
        self.allowed.iter().any(|window| {
            let today = window.span(wall.date());
            let yesterday = wall.date().pred_opt().and_then(|day| window.span(day));
            [today, yesterday]
                .into_iter()
                .flatten()
                .any(|(from, until)| from <= wall && wall < until)
        })
    }

    /// The first moment, not before `from`, at which it is free in one zone.
    fn opens(&self, zone: TimeZone, from: Timestamp) -> Option<Timestamp> {
        let wall = zone.wall(from);
        if self.is_open(wall) {
            return Some(from);
        }
        let mut moments: Vec<Timestamp> = Vec::new();
        let mut day = wall.date().pred_opt()?;
        for _ in 0..=8 {
            for window in &self.allowed {
                if let Some((start, _)) = window.span(day) {
                    moments.extend(zone.shows(start));
                }
            }
            day = day.succ_opt()?;
        }
        // The wall may also jump into a window.
        let mut since = from;
        let end = from.plus(std::time::Duration::from_secs(8 * 86_400));
        while let Some(jump) = zone.jump(since, end) {
            moments.push(jump);
            since = jump;
        }
        moments.retain(|at| *at > from);
        moments.sort_unstable();
        moments.into_iter().find(|at| self.is_open(zone.wall(*at)))
    }
}

impl Window {
    /// From when until when it is open, if it opens on this day.
    fn span(&self, day: chrono::NaiveDate) -> Option<(NaiveDateTime, NaiveDateTime)> {
        if !self.days.is_empty() && !self.days.contains(&day.weekday().into()) {
            return None;
        }
        let end = if self.until > self.from {
            day
        } else {
            day.succ_opt()?
        };
        Some((self.from.on(day)?, self.until.on(end)?))
    }
}

/// Where a recipient may be, and how that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Whereabouts {
    /// Every zone that is possible; none when nothing is known.
    pub(super) zones: Vec<TimeZone>,
    countries: Vec<String>,
    /// How the zones are known.
    pub(super) source: &'static str,
}

impl Whereabouts {
    /// From what the customer said, else the number's beginning, else the country, else what the tenant says.
    pub(super) fn of(
        said: Option<&str>,
        phone: Option<&str>,
        country: Option<&str>,
        default: Option<TimeZone>,
    ) -> Self {
        let told: Option<TimeZone> = said.and_then(|name| name.parse().ok());
        let place: Option<&Place> = phone.and_then(of_phone);
        let home = country.map_or(&[][..], of_country);
        let (zones, source) = match (told, place, home, default) {
            (Some(zone), ..) => (vec![zone], "the customer's"),
            (None, Some(place), ..) => (place.zones.clone(), "by the number"),
            (None, None, [_, ..], _) => (home.to_vec(), "by the country"),
            (None, None, [], Some(zone)) => (vec![zone], "the default"),
            (None, None, [], None) => (Vec::new(), "not known"),
        };
        let countries = place
            .map_or(&[][..], |place| place.countries.as_slice())
            .iter()
            .copied()
            .chain(country)
            .map(str::to_ascii_uppercase)
            .collect();
        Self {
            zones,
            countries,
            source,
        }
    }

    fn may_be_in(&self, country: &str) -> bool {
        let by_zone = || {
            let there = of_country(country);
            self.source != "the default"
                && self.zones.len() == 1
                && self.zones.iter().all(|zone| there.contains(zone))
        };
        self.countries
            .iter()
            .any(|known| known.eq_ignore_ascii_case(country))
            || by_zone()
    }
}

impl super::Gate {
    /// The time zones in which somebody may be, as quiet hours judge it: the one they said (an IANA name), else those of
    /// where their number begins, else those of their country, else the host's default; none when nothing is known.
    pub fn zones(&self, said: Option<&str>, phone: Option<&str>, country: Option<&str>) -> Vec<TimeZone> {
        Whereabouts::of(said, phone, country, self.rules().default_zone).zones
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by `tests/data/quiet.py`, which walks minute by minute with another implementation of time zones.
    static CASES: &str = include_str!("../../tests/data/quiet.tsv");

    fn window(text: &str) -> Window {
        let (days, times) = text.split_once(' ').unwrap();
        let (from, until) = times.split_once('-').unwrap();
        let days = if days == "*" {
            Vec::new()
        } else {
            days.split(',').collect()
        };
        serde_json::from_value(serde_json::json!({"days": days, "from": from, "until": until})).unwrap()
    }

    #[test]
    fn the_first_free_moment_is_the_one_found_by_walking_minute_by_minute() {
        let mut checked = 0;
        for line in CASES.lines() {
            let cells: Vec<&str> = line.split('\t').collect();
            let zones: Vec<TimeZone> = cells[0].split(',').map(|name| name.parse().unwrap()).collect();
            let rule = QuietHours {
                allowed: cells[1].split(';').map(window).collect(),
                ..QuietHours::daily("rule", LocalTime::MIDNIGHT, LocalTime::END)
            };
            rule.validate().unwrap();
            let found = rule.free_at(&zones, cells[2].parse().unwrap());
            let expected = (cells[3] != "-").then(|| cells[3].parse().unwrap());
            assert_eq!(found, expected, "{line}");
            checked += 1;
        }
        assert_eq!(checked, 300);
    }

    #[test]
    fn where_somebody_is_comes_from_the_best_source() {
        let berlin = TimeZone::parse("Europe/Berlin").ok();
        let source = |said, phone, country| Whereabouts::of(said, phone, country, berlin).source;
        assert_eq!(
            source(Some("Asia/Tokyo"), Some("+12125551234"), Some("DE")),
            "the customer's"
        );
        assert_eq!(
            source(Some("nonsense"), Some("+12125551234"), Some("DE")),
            "by the number"
        );
        assert_eq!(source(None, Some("+9"), Some("DE")), "by the country");
        assert_eq!(source(None, None, Some("??")), "the default");
        assert_eq!(Whereabouts::of(None, None, None, None).source, "not known");
        // Which law holds: that of the number, of the home, and of the zone.
        let here = |said, phone, country| Whereabouts::of(said, phone, country, berlin).may_be_in("US");
        assert!(here(None, Some("+12125551234"), None));
        assert!(here(None, Some("+442079460000"), Some("us")));
        assert!(here(Some("America/Chicago"), Some("+442079460000"), None));
        assert!(!here(None, Some("+442079460000"), Some("GB")) && !here(None, None, None));
        assert!(!here(None, Some("+14165551234"), None), "Toronto");
    }

    #[test]
    fn rules_that_make_no_sense_are_named() {
        let midnight = LocalTime::MIDNIGHT;
        let setting = |rule: &QuietHours| {
            rule.validate()
                .unwrap_err()
                .context("setting")
                .map(str::to_owned)
                .unwrap()
        };
        let good = QuietHours::us_tcpa();
        good.validate().unwrap();
        QuietHours::china_marketing().validate().unwrap();
        let rule = QuietHours {
            name: "No".into(),
            ..good.clone()
        };
        assert_eq!(setting(&rule), "quiet.name");
        let rule = QuietHours {
            country: Some("XX".into()),
            ..good.clone()
        };
        assert_eq!(setting(&rule), "quiet.country");
        let rule = QuietHours {
            allowed: Vec::new(),
            ..good
        };
        assert_eq!(setting(&rule), "quiet.allowed");
        assert_eq!(
            setting(&QuietHours::daily("x", midnight, midnight)),
            "quiet.allowed"
        );
    }
}
