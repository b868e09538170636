//! The rules a host sets.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, TimeZone};

use super::{FrequencyCap, QuietHours};

/// What a host lets the gate enforce beyond consent and suppressions: as data, so that it may stand in a file.
///
/// ```
/// use crm_core::consent::{FrequencyCap, GateRules, PurposeClass, QuietHours};
///
/// let rules = GateRules {
///     quiet: vec![QuietHours::us_tcpa(), QuietHours::china_marketing()],
///     caps: vec![FrequencyCap::new("touches", 3, std::time::Duration::from_secs(7 * 86_400)).of_class(PurposeClass::Marketing)],
///     ..GateRules::default()
/// };
/// rules.validate().unwrap();
/// assert!(serde_json::from_str::<GateRules>(r#"{"quite": []}"#).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateRules {
    /// How often somebody may be written to.
    pub caps: Vec<FrequencyCap>,
    /// When messages may go out.
    pub quiet: Vec<QuietHours>,
    /// The time zone of those of whom nothing tells one. Quiet hours without a country need it.
    pub default_zone: Option<TimeZone>,
    /// Whether a purpose must be on record ([`super::Gate::register_purpose`]) before anything is sent for it.
    pub registered_purposes_only: bool,
    /// What follows when an address fails again and again.
    pub soft_failures: SoftFailures,
}

impl GateRules {
    /// Checks every rule.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] naming the setting and the rule.
    pub fn validate(&self) -> Result<()> {
        self.caps.iter().try_for_each(FrequencyCap::validate)?;
        self.quiet.iter().try_for_each(QuietHours::validate)?;
        self.soft_failures.validate()?;
        let mut names: Vec<&str> = self.caps.iter().map(|cap| cap.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.iter().zip(names.iter().skip(1)).find(|(a, b)| a == b) {
            return Err(Error::config("two caps of the same name would count together")
                .with("setting", "caps.name")
                .with("rule", *twice.0));
        }
        if self.default_zone.is_none()
            && let Some(rule) = self.quiet.iter().find(|rule| rule.country.is_none())
        {
            return Err(
                Error::config("quiet hours without a country need a default time zone")
                    .with("setting", "default_zone")
                    .with("rule", &rule.name),
            );
        }
        Ok(())
    }
}

/// When an address that fails for the time being (mailbox full, phone off) is left in peace: after so many failures in so
/// long, for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoftFailures {
    /// How many, 1 to 100.
    pub most: u32,
    /// In any stretch of this length; as data, whole seconds.
    #[serde(with = "seconds")]
    pub per: Duration,
    /// How long it is suppressed then; as data, whole seconds.
    #[serde(with = "seconds")]
    pub suppressed_for: Duration,
}

impl Default for SoftFailures {
    /// 3 in 14 days; 30 days.
    fn default() -> Self {
        let days = |n: u64| Duration::from_secs(n * 86_400);
        Self {
            most: 3,
            per: days(14),
            suppressed_for: days(30),
        }
    }
}

impl SoftFailures {
    fn validate(&self) -> Result<()> {
        let setting = if !(1..=100).contains(&self.most) {
            "soft_failures.most"
        } else if self.per < Duration::from_secs(1) {
            "soft_failures.per"
        } else if self.suppressed_for < Duration::from_secs(1) {
            "soft_failures.suppressed_for"
        } else {
            return Ok(());
        };
        Err(
            Error::config("1 to 100 failures, over at least a second, for at least a second")
                .with("setting", setting),
        )
    }
}

/// A length of time as whole seconds.
pub(super) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(length: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(length.as_secs())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}
