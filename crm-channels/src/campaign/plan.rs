//! What a campaign is to do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crm_core::consent::Purpose;
use crm_core::customer::CustomerId;
use crm_core::message::{Channel, Mailbox};
use crm_core::segment::SegmentId;
use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::schedule::Schedule;
use crate::outbox::Priority;
use crate::template::{Template, TemplateSource};

/// The most customers that can be listed in a plan; for more there are manual segments.
const MOST_LISTED: usize = 20_000;

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

/// When a campaign pauses by itself: looked at whenever it is ticked. What was counted before it was resumed by hand does
/// not count again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// The share of messages that did not arrive, of those of which something is known.
    pub bounces: f64,
    /// The share that was complained about.
    pub complaints: f64,
    /// Of how many messages something must be known before anything is concluded from the shares.
    pub sample: u64,
    /// How many messages may be refused for what they say or for who we are (reputation, authentication, account), which
    /// is the same for everybody: it pauses at the first one after that, whatever the shares.
    #[serde(default = "refusals")]
    pub refusals: u64,
}

const fn refusals() -> u64 {
    20
}

impl Default for Breaker {
    /// 5 % bounces, 0.3 % complaints (what the large mailbox providers bear: support.google.com/mail/answer/81126), of at
    /// least 500; and 20 that were refused for our own sake.
    fn default() -> Self {
        Self {
            bounces: 0.05,
            complaints: 0.003,
            sample: 500,
            refusals: refusals(),
        }
    }
}

impl Breaker {
    /// One that never opens.
    pub const NEVER: Self = Self {
        bounces: 1.0,
        complaints: 1.0,
        sample: u64::MAX,
        refusals: u64::MAX,
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
