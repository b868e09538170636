//! How a dispatcher works, and what really goes out.

use std::fmt;
use std::time::Duration;

use crm_core::customer::{Address, EmailAddress, PhoneNumber};
use crm_core::message::{Message, Sendable};
use crm_core::{Error, Result, TenantId};

use crate::limits::RateRule;

/// Whether messages really go out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mode {
    /// No live provider is asked, whatever is registered. Everything else happens, and messages end as `recorded`.
    #[default]
    Record,
    /// Everything goes out, but to these addresses: for staging systems. Whether it may is decided about the recipient it
    /// was meant for.
    Redirect(Redirect),
    /// What is addressed to one of these goes out, everything else is recorded.
    Allowlist(Vec<Allowed>),
    /// Messages go out.
    Live,
}

/// Where messages go instead of to their recipients. A channel without an address is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redirect {
    /// Where e-mails go.
    pub email: Option<EmailAddress>,
    /// Where text messages and calls go.
    pub phone: Option<PhoneNumber>,
}

/// An address, or many of them, that messages may go to. `Debug` shows no address.
#[derive(Clone, PartialEq, Eq)]
pub enum Allowed {
    /// This address.
    Address(Address),
    /// Every e-mail address of this domain, not of those below it.
    Domain(String),
}

impl fmt::Debug for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(_) => f.write_str("Address(..)"),
            Self::Domain(domain) => write!(f, "Domain({domain})"),
        }
    }
}

impl Allowed {
    fn covers(&self, message: &Message) -> bool {
        let recipient = message.recipient();
        match self {
            Self::Address(Address::Email(email)) => email.as_str() == recipient,
            Self::Address(Address::Phone(phone)) => phone.as_str() == recipient,
            Self::Domain(domain) => recipient
                .rsplit_once('@')
                .is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain)),
        }
    }
}

impl Mode {
    /// Whether a live provider is asked for this message.
    pub(crate) fn is_live(&self, message: &Message) -> bool {
        match self {
            Self::Record => false,
            Self::Redirect(to) => match message {
                Message::Email(_) => to.email.is_some(),
                Message::Sms(_) | Message::Voice(_) => to.phone.is_some(),
            },
            Self::Allowlist(allowed) => allowed.iter().any(|one| one.covers(message)),
            Self::Live => true,
        }
    }
}

/// How a dispatcher works. Leases and waits of messages are counted on the clock that all who share the store go by (the
/// store's own, else the injected one), everything else is real time.
#[derive(Debug, Clone)]
pub struct DispatchSettings {
    /// How many messages are claimed at once, 1 to 1000.
    pub batch: u32,
    /// How many are begun and not yet settled at the same time, at least 1: so many may be `unknown` after a crash. Half
    /// of them are begun together and share a commit, while the others come to their end.
    pub concurrency: usize,
    /// How long a claim holds without a heartbeat; one is made every third of it.
    pub lease: Duration,
    /// The first wait before a retry is up to this long, and doubles with every try.
    pub backoff_base: Duration,
    /// No wait is longer.
    pub backoff_cap: Duration,
    /// How long a provider is left alone that cannot be used for reasons of its own (log-in, settings).
    pub pause: Duration,
    /// How long [`Dispatcher::run`](super::Dispatcher::run) rests when nothing is due.
    pub idle: Duration,
    /// How long a dispatcher that is told to stop waits for what is being sent. What takes longer counts as an unknown
    /// outcome.
    pub grace: Duration,
    /// How often [`Dispatcher::run`](super::Dispatcher::run) looks into what nobody knows: news that came in before the
    /// vendor's reference was stored are looked at again, and vendors are asked about texts and calls whose answer was
    /// lost. Each is looked at when this time has passed (vendors are given four minutes at least to file what they took),
    /// and then after twice as long each time, for three days. Zero: never.
    pub upkeep: Duration,
    /// How many messages may go. [`RateRule::aliyun`] unless said otherwise.
    pub limits: Vec<RateRule>,
    /// The tenant under whose name the limits are counted, for accounts at vendors that several tenants share; each
    /// tenant's own when there is none.
    pub limits_of: Option<TenantId>,
    /// Seed of the jitter: same seed, message and try, same wait.
    pub seed: u64,
}

impl Default for DispatchSettings {
    fn default() -> Self {
        Self {
            batch: 200,
            concurrency: 32,
            lease: Duration::from_secs(30),
            backoff_base: Duration::from_secs(15),
            backoff_cap: Duration::from_secs(6 * 3600),
            pause: Duration::from_secs(300),
            idle: Duration::from_secs(1),
            grace: Duration::from_secs(30),
            upkeep: Duration::from_secs(60),
            limits: RateRule::aliyun(),
            limits_of: None,
            seed: 0,
        }
    }
}

impl DispatchSettings {
    /// How far the limits look back.
    pub(crate) fn longest_window(&self) -> Duration {
        self.limits
            .iter()
            .map(RateRule::longest)
            .max()
            .unwrap_or_default()
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crm_core::ErrorKind::Config) naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if !(1..=1000).contains(&self.batch) {
            return wrong("batch", "a batch is 1 to 1000 messages");
        }
        if !(1..=10_000).contains(&self.concurrency) {
            return wrong("concurrency", "1 to 10,000 messages are sent at a time");
        }
        if self.lease < Duration::from_millis(100) {
            return wrong("lease", "a lease is at least 100 ms");
        }
        if self.backoff_base.is_zero() || self.backoff_cap < self.backoff_base {
            return wrong(
                "backoff_cap",
                "the waits are more than nothing, and the cap is not below the base",
            );
        }
        let mut names: Vec<&str> = self.limits.iter().map(|rule| rule.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() < self.limits.len() {
            return wrong("limits", "two limits of the same name would share their counts");
        }
        self.limits.iter().try_for_each(RateRule::validate)
    }
}
