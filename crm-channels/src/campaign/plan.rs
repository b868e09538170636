//! What a campaign is to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crm_core::consent::Purpose;
use crm_core::customer::CustomerId;
use crm_core::message::{Channel, Mailbox};
use crm_core::segment::SegmentId;
use crm_core::zone::{LocalTime, TimeZone};
use crm_core::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::outbox::Priority;
use crate::template::{Template, TemplateSource};

/// The most customers that can be listed in a plan; for more there are manual segments.
const MOST_LISTED: usize = 20_000;
/// How far ahead of the earliest recipient's time messages of a [`Schedule::Local`] are queued.
const LEAD: Duration = Duration::from_secs(3600);

/// Who may be in an audience.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Members {
    /// The members of a segment.
    Segment(SegmentId),
    /// These customers, at most 20,000.
    Customers(Vec<CustomerId>),
}

impl From<SegmentId> for Members {
    fn from(segment: SegmentId) -> Self {
        Self::Segment(segment)
    }
}
impl From<Vec<CustomerId>> for Members {
    fn from(customers: Vec<CustomerId>) -> Self {
        Self::Customers(customers)
    }
}

/// Who gets a campaign, and as of when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Those who are members when it is started: they are written down then. Who leaves the segment afterwards still gets
    /// it, who joins does not.
    Frozen(Members),
    /// Those who are members when their messages are queued, and still are right before each one is sent.
    Reevaluated(Members),
}

impl Audience {
    /// The members when it is started.
    pub fn frozen(members: impl Into<Members>) -> Self {
        Self::Frozen(members.into())
    }

    /// The members when it is queued and sent.
    pub fn reevaluated(members: impl Into<Members>) -> Self {
        Self::Reevaluated(members.into())
    }

    /// Whose.
    pub fn members(&self) -> &Members {
        match self {
            Self::Frozen(members) | Self::Reevaluated(members) => members,
        }
    }

    pub(super) fn is_frozen(&self) -> bool {
        matches!(self, Self::Frozen(_))
    }
}

/// The template of a variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateChoice {
    /// One that is kept in the store ([`crate::Templates`]): this version, or the newest when the campaign is started.
    Stored {
        /// Its name.
        name: String,
        /// Its version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<i64>,
    },
    /// One that is written down in the plan.
    Inline(TemplateSource),
}

impl From<&Template> for TemplateChoice {
    fn from(template: &Template) -> Self {
        match template.version() {
            Some(version) => Self::Stored {
                name: template.source().name.clone(),
                version: Some(version),
            },
            None => Self::Inline(template.source().clone()),
        }
    }
}

/// One of several things a campaign says, to see which works best.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name: `a`.
    pub name: String,
    /// How many get it, compared with the weights of the others.
    pub weight: u32,
    /// What it says.
    pub template: TemplateChoice,
}

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

/// When a campaign pauses by itself: looked at whenever it is ticked. What was counted before it was resumed by hand does
/// not count again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// The share of messages that did not arrive, of those of which something is known.
    pub bounces: f64,
    /// The share that was complained about.
    pub complaints: f64,
    /// Of how many messages something must be known before anything is concluded.
    pub sample: u64,
}

impl Default for Breaker {
    /// 5 % bounces, 0.3 % complaints (what the large mailbox providers bear: support.google.com/mail/answer/81126), of at
    /// least 500.
    fn default() -> Self {
        Self {
            bounces: 0.05,
            complaints: 0.003,
            sample: 500,
        }
    }
}

impl Breaker {
    /// One that never opens.
    pub const NEVER: Self = Self {
        bounces: 1.0,
        complaints: 1.0,
        sample: u64::MAX,
    };
}

/// What happens when a template names a variable of which some members have no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Incomplete {
    /// The campaign does not start.
    #[default]
    Refuse,
    /// They are left out, and counted.
    LeaveOut,
}

/// What a campaign sends, to whom, when, and for what purpose: plain data, kept in the store once it is created. `Debug`
/// shows no address.
///
/// ```
/// use crm_channels::{Audience, CampaignPlan, Schedule, Template};
/// use crm_core::consent::Purpose;
/// use crm_core::message::Channel;
/// use crm_core::segment::SegmentId;
///
/// let segment = SegmentId::from(crm_core::Uuid::nil());
/// let template = Template::for_sms("Hello {{ given_name | default('there') }}, the spring sale is on.").unwrap();
/// let mut plan = CampaignPlan::by(Channel::Sms, "spring", Audience::reevaluated(segment), Purpose::marketing("news").unwrap(), &template);
/// plan.schedule = serde_json::from_str(r#"{"local": {"day": "2026-03-08", "time": "09:00", "otherwise": "Europe/Berlin"}}"#).unwrap();
/// plan.hold_out = 0.1;
/// plan.validate().unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CampaignPlan {
    /// Its name, unique within the tenant: nobody gets a campaign of one name twice.
    pub name: String,
    /// Who gets it.
    pub audience: Audience,
    /// Members of these segments do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<SegmentId>,
    /// What for.
    pub purpose: Purpose,
    /// By which channels, the one to prefer first: everybody gets one message, by the first channel at which they can be
    /// reached and have agreed.
    pub channels: Vec<Channel>,
    /// What it says; who gets which of several is drawn from campaign, customer and [`CampaignPlan::seed`].
    pub variants: Vec<Variant>,
    /// Who e-mails are from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Mailbox>,
    /// Where answers to e-mails go, if not to `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Mailbox>,
    /// More headers of e-mails; variables are put in here too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The number or name that SMS and calls are from; without one, the provider's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// When.
    #[serde(default)]
    pub schedule: Schedule,
    /// How long after it is due a message is still worth sending; for ever when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Duration>,
    /// The share of the audience that gets nothing, to see what the campaign brings: 0 up to, and without, 1.
    #[serde(default)]
    pub hold_out: f64,
    /// What variants and hold-outs are drawn from.
    #[serde(default)]
    pub seed: u64,
    /// What goes first when several messages are due.
    #[serde(default = "bulk")]
    pub priority: Priority,
    /// A dress rehearsal: everything happens, but the messages end as `recorded` whatever the mode.
    #[serde(default)]
    pub rehearsal: bool,
    /// When it pauses by itself.
    #[serde(default)]
    pub breaker: Breaker,
    /// Members of whom a variable is not known.
    #[serde(default)]
    pub incomplete: Incomplete,
}

fn bulk() -> Priority {
    Priority::Bulk
}

impl CampaignPlan {
    /// A campaign by e-mail, due when it is started.
    pub fn new(name: &str, audience: Audience, purpose: Purpose, template: Template, from: Mailbox) -> Self {
        Self {
            from: Some(from),
            ..Self::by(Channel::Email, name, audience, purpose, &template)
        }
    }

    /// A campaign by one channel, due when it is started.
    pub fn by(
        channel: Channel,
        name: &str,
        audience: Audience,
        purpose: Purpose,
        template: &Template,
    ) -> Self {
        Self {
            name: name.to_owned(),
            audience,
            exclude: Vec::new(),
            purpose,
            channels: vec![channel],
            variants: vec![Variant {
                name: "a".to_owned(),
                weight: 1,
                template: template.into(),
            }],
            from: None,
            reply_to: None,
            headers: BTreeMap::new(),
            caller: None,
            schedule: Schedule::Now,
            window: None,
            hold_out: 0.0,
            seed: 0,
            priority: Priority::Bulk,
            rehearsal: false,
            breaker: Breaker::default(),
            incomplete: Incomplete::default(),
        }
    }

    /// With one more thing to say, to a share of the audience by its weight.
    #[must_use]
    pub fn variant(mut self, name: &str, weight: u32, template: &Template) -> Self {
        self.variants.push(Variant {
            name: name.to_owned(),
            weight,
            template: template.into(),
        });
        self
    }

    /// Checks all that can be checked without the store.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the field.
    pub fn validate(&self) -> Result<()> {
        self.purpose.validate()?;
        let wrong =
            |field: &'static str, message: &'static str| Err(Error::invalid(message).with("field", field));
        let named = |name: &str| {
            !name.trim().is_empty() && name.chars().count() <= 100 && !name.chars().any(char::is_control)
        };
        if !named(&self.name) {
            return wrong(
                "name",
                "a campaign is named with 1 to 100 characters, none a control character",
            );
        }
        if let Members::Customers(ids) = self.audience.members()
            && ids.len() > MOST_LISTED
        {
            return wrong(
                "audience",
                "a plan lists at most 20,000 customers; make a manual segment of them",
            );
        }
        let channels: BTreeSet<_> = self.channels.iter().collect();
        if channels.is_empty() || channels.len() < self.channels.len() {
            return wrong(
                "channels",
                "a campaign goes by at least one channel, and names each once",
            );
        }
        if self.channels.contains(&Channel::Email) && self.from.is_none() {
            return wrong("from", "an e-mail is from somebody");
        }
        let names: BTreeSet<&str> = self.variants.iter().map(|v| v.name.as_str()).collect();
        if self.variants.is_empty()
            || names.len() < self.variants.len()
            || !names.iter().all(|name| named(name))
        {
            return wrong(
                "variants",
                "a campaign has at least one variant, each with a name of its own",
            );
        }
        if self.variants.iter().all(|variant| variant.weight == 0) {
            return wrong("variants", "at least one variant has a weight");
        }
        if !(0.0..1.0).contains(&self.hold_out) {
            return wrong("hold_out", "the share held out is at least 0 and less than 1");
        }
        let share = |share: f64| (0.0..=1.0).contains(&share);
        if !share(self.breaker.bounces) || !share(self.breaker.complaints) || self.breaker.sample == 0 {
            return wrong(
                "breaker",
                "the shares are between 0 and 1, of a sample of at least 1",
            );
        }
        if self.window.is_some_and(|window| window.is_zero()) {
            return wrong("window", "the time in which messages may go is more than nothing");
        }
        Ok(())
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
