//! How many messages may go: rules, and the counts of them that all processes share through the store.
//!
//! A rule counts in rolling windows: in no stretch of that length more than that many, also across a restart, because the
//! counts are records. They are made before the vendor sees anything, and never given back. What does not fit waits until it
//! does, without using up a try. A key that everybody needs (a provider, a domain) is counted in handfuls, which each process
//! then hands out by itself, so that the record is not fought over; what is left of a handful after a moment is lost.
//!
//! ```
//! use std::time::Duration;
//! use crm_channels::limits::{RateRule, RateScope};
//! use crm_core::message::Channel;
//!
//! let rule = RateRule::new("gmail", RateScope::Domain)
//!     .only(Channel::Email)
//!     .at_most(20, Duration::from_secs(1))
//!     .at_most(5_000, Duration::from_secs(24 * 3600));
//! assert!(rule.validate().is_ok());
//! ```

mod log;
mod take;

use std::time::Duration;

use crm_core::message::Channel;
use crm_core::record::{Field, FieldType, Index, Schema};
use crm_core::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

pub(crate) use take::{Answer, Limits, Sender, Want};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a [`RateRule`] counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateScope {
    /// All messages through one provider.
    Provider,
    /// All e-mails to addresses of one domain.
    Domain,
    /// All messages to one address or number.
    Recipient,
    /// All messages to one address or number from one sender, as the recipient sees it: an address, a number, or the
    /// signature that a vendor puts before the text ([`crm_core::capability::SmsSender::sender`]).
    RecipientAndSender,
}

impl RateScope {
    /// Whether everybody needs the same few keys.
    fn is_hot(self) -> bool {
        matches!(self, Self::Provider | Self::Domain)
    }
}

/// At most so many in any stretch of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateWindow {
    /// How many.
    pub most: u32,
    /// The length.
    pub per: Duration,
}

/// A sender nobody knows yet begins small: so many on the first day, more by so many percent every day, until a day may
/// have `until`; then it counts no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmUp {
    /// The first day.
    pub since: Timestamp,
    /// How many on that day.
    pub first: u32,
    /// By how many percent it grows from day to day.
    pub percent: u32,
    /// How many a day it ends with.
    pub until: u32,
}

impl WarmUp {
    /// The window of that moment, if it still counts.
    fn window(&self, now: Timestamp) -> Option<RateWindow> {
        let mut most = u64::from(self.first);
        let days = now.since(self.since).as_secs() / DAY.as_secs();
        for _ in 0..days {
            // At least one more, so that it ends.
            most = (most + most * u64::from(self.percent) / 100).max(most + 1);
            if most >= u64::from(self.until) {
                return None;
            }
        }
        (most < u64::from(self.until)).then_some(RateWindow {
            most: u32::try_from(most).unwrap_or(u32::MAX),
            per: DAY,
        })
    }
}

/// A limit, as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateRule {
    /// Names its counts: they are found again under the same name, after a restart and by other processes.
    pub name: String,
    /// What it counts by.
    pub per: RateScope,
    /// The channels it is about; all when empty.
    #[serde(default)]
    pub channels: Vec<Channel>,
    /// The providers it is about, by name or by scheme; all when empty.
    #[serde(default)]
    pub providers: Vec<String>,
    /// The domains it is about, for [`RateScope::Domain`]; each when empty.
    #[serde(default)]
    pub domains: Vec<String>,
    /// The windows, all of which must have room.
    pub windows: Vec<RateWindow>,
    /// A sender nobody knows yet.
    #[serde(default)]
    pub warm_up: Option<WarmUp>,
}

impl RateRule {
    /// A rule without windows yet, about everything.
    pub fn new(name: impl Into<String>, per: RateScope) -> Self {
        Self {
            name: name.into(),
            per,
            channels: Vec::new(),
            providers: Vec::new(),
            domains: Vec::new(),
            windows: Vec::new(),
            warm_up: None,
        }
    }

    /// Only about this channel; called again, about that one too.
    #[must_use]
    pub fn only(mut self, channel: Channel) -> Self {
        self.channels.push(channel);
        self
    }

    /// Only about providers of this name or scheme; called again, about those too.
    #[must_use]
    pub fn provider(mut self, name: impl Into<String>) -> Self {
        self.providers.push(name.into());
        self
    }

    /// Only about this domain; called again, about that one too.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domains.push(domain.into());
        self
    }

    /// With one more window.
    #[must_use]
    pub fn at_most(mut self, most: u32, per: Duration) -> Self {
        self.windows.push(RateWindow { most, per });
        self
    }

    /// Beginning small.
    #[must_use]
    pub fn warm_up(mut self, warm_up: WarmUp) -> Self {
        self.warm_up = Some(warm_up);
        self
    }

    /// What Aliyun enforces on verification codes to one number, so that it need not refuse: 1 a minute, 5 an hour and 10
    /// a day from one signature, 40 a day in all (rolling windows, counted when handed over); calls 1 a minute, 5 an hour,
    /// 20 a day. Source: Aliyun's help on `isv.BUSINESS_LIMIT_CONTROL`.
    pub fn aliyun() -> Vec<Self> {
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        let rule = |name: &str, per, channel| Self::new(name, per).only(channel).provider("aliyun");
        vec![
            rule(
                "aliyun-sms-signature",
                RateScope::RecipientAndSender,
                Channel::Sms,
            )
            .at_most(1, minute)
            .at_most(5, hour)
            .at_most(10, DAY),
            rule("aliyun-sms-number", RateScope::Recipient, Channel::Sms).at_most(40, DAY),
            rule("aliyun-voice-number", RateScope::Recipient, Channel::Voice)
                .at_most(1, minute)
                .at_most(5, hour)
                .at_most(20, DAY),
        ]
    }

    /// Checks that it names itself and limits something.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crm_core::ErrorKind::Config) naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: &'static str| {
            Err(Error::config(message)
                .with("setting", "limits")
                .with("rule", &self.name))
        };
        if self.name.is_empty() || self.name.len() > 100 {
            return wrong("a limit has a name of 1 to 100 bytes");
        }
        if self.windows.is_empty() && self.warm_up.is_none() {
            return wrong("a limit has at least one window");
        }
        if self
            .windows
            .iter()
            .any(|w| w.most == 0 || w.per < Duration::from_millis(10))
        {
            return wrong("a window lets at least one message through, and is at least 10 ms long");
        }
        if self.warm_up.is_some_and(|w| w.first == 0 || w.until <= w.first) {
            return wrong("a warm-up begins with at least one message a day and grows");
        }
        Ok(())
    }

    /// How far it looks back.
    pub(crate) fn longest(&self) -> Duration {
        let ramp = self.warm_up.map(|_| DAY);
        let windows = self.windows.iter().map(|window| window.per);
        windows.chain(ramp).max().unwrap_or_default()
    }

    /// All windows of that moment.
    fn windows_at(&self, now: Timestamp) -> Vec<RateWindow> {
        let ramp = self.warm_up.and_then(|warm_up| warm_up.window(now));
        self.windows.iter().copied().chain(ramp).collect()
    }
}

/// How the counts of a rule for one key are stored. The key is a provider, a domain, or the keyed hash of an address.
pub static RATE: Schema = Schema {
    name: "crm_rate",
    fields: &[
        Field::new("rule", FieldType::Text),
        Field::new("key", FieldType::Text).pseudonym(),
        Field::new("taken", FieldType::Json),
        Field::new("updated_at", FieldType::Timestamp),
    ],
    indexes: &[Index::new("crm_rate_updated", &["updated_at"])],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_grows_until_it_ends() {
        let since = Timestamp::from_ymd(2026, 3, 1).unwrap();
        let ramp = WarmUp {
            since,
            first: 50,
            percent: 100,
            until: 1000,
        };
        let most = |days: u64| {
            let now = since.plus(DAY * u32::try_from(days).unwrap());
            ramp.window(now).map(|w| w.most)
        };
        assert_eq!(
            [most(0), most(1), most(2), most(4), most(5), most(4000)],
            [Some(50), Some(100), Some(200), Some(800), None, None]
        );
        let slow = WarmUp {
            percent: 1,
            first: 1,
            until: 4,
            ..ramp
        };
        let most = |days: u64| slow.window(since.plus(DAY * u32::try_from(days).unwrap()));
        assert_eq!(most(2).map(|w| w.most), Some(3));
        assert!(most(3).is_none(), "it ends although a percent of one is nothing");
    }

    #[test]
    fn rules_are_data_and_say_what_is_wrong() {
        let rules = RateRule::aliyun();
        let text = serde_json::to_string(&rules).unwrap();
        assert_eq!(serde_json::from_str::<Vec<RateRule>>(&text).unwrap(), rules);
        assert!(rules.iter().all(|rule| rule.validate().is_ok()));
        let empty = RateRule::new("empty", RateScope::Provider);
        assert_eq!(empty.validate().unwrap_err().context("rule"), Some("empty"));
        assert!(empty.at_most(0, DAY).validate().is_err());
    }
}
