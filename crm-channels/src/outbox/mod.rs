//! The outbox: messages waiting in the store. A message and the business that caused it go in with one
//! [`RecordStore::apply`](crm_core::capability::RecordStore::apply): both are there, or neither.
//!
//! ```
//! use crm_channels::Outgoing;
//! use crm_core::consent::Purpose;
//! use crm_core::customer::EmailAddress;
//! use crm_core::message::{Email, Mailbox};
//! use crm_core::{Timestamp, Uuid};
//!
//! let mailbox = |a: &str| Mailbox::new(EmailAddress::parse(a).unwrap(), "").unwrap();
//! let mail = Email::new(Uuid::nil().into(), mailbox("shop@example.com"), mailbox("ana@example.org"), "Receipt", "Thanks!");
//! let write = Outgoing::email(mail, Uuid::nil().into(), Purpose::transactional("receipt").unwrap())
//!     .dedupe_key("receipt:4711")
//!     .write(Timestamp::EPOCH)
//!     .unwrap();
//! // store.apply(&ctx, &[order_write, write]): the order and its receipt, or neither.
//! assert_eq!(write.schema().name, "crm_outbox");
//! ```

mod entry;

use std::collections::BTreeMap;
use std::fmt;

use crm_core::consent::Purpose;
use crm_core::customer::{ContactPointId, CustomerId};
use crm_core::message::{Email, Message, MessageId, Sendable, Sms, VoiceCall};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Write};
use crm_core::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

pub use entry::{Attempt, OutboxEntry};
pub(crate) use entry::{
    Entry, channel_word, delivery, join_blame, join_delivery, message, news_kind, resolved,
};

/// How many tries a message gets when nothing is said: with the default backoff about a day and a half.
pub const MAX_ATTEMPTS: i64 = 16;

/// Where a message in the outbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutboxState {
    /// Waits until it is due.
    Queued,
    /// A dispatcher has it.
    Leased,
    /// A live mailer took it.
    Sent,
    /// It was only recorded, as the mode asks.
    Recorded,
    /// The gate did not let it out.
    Refused,
    /// It will never be taken: message or recipient are refused for good.
    Failed,
    /// Given up after too many tries, or it took its process down again and again.
    Dead,
    /// It may have been sent: the answer was lost, and a second one would do harm.
    Unknown,
    /// Its time was over before it could be sent.
    Expired,
    /// It was called back before it was sent.
    Cancelled,
    /// Kept back: its campaign is paused.
    Held,
}

impl OutboxState {
    /// All states.
    pub const ALL: [Self; 11] = [
        Self::Queued,
        Self::Leased,
        Self::Sent,
        Self::Recorded,
        Self::Refused,
        Self::Failed,
        Self::Dead,
        Self::Unknown,
        Self::Expired,
        Self::Cancelled,
        Self::Held,
    ];

    /// The state as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Leased => "leased",
            Self::Sent => "sent",
            Self::Recorded => "recorded",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Held => "held",
        }
    }

    /// Whether nothing more happens by itself.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Leased | Self::Held)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for OutboxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What goes first when several messages are due. Within one of them the longest due goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// When nothing else is due: campaigns.
    Bulk,
    /// As they come.
    #[default]
    Normal,
    /// Before everything else: somebody waits for it.
    Urgent,
}

impl Priority {
    /// All of them, in the order in which they are taken.
    pub(crate) const TAKEN: [Self; 3] = [Self::Urgent, Self::Normal, Self::Bulk];

    /// As it is stored.
    pub(crate) fn level(self) -> i64 {
        match self {
            Self::Bulk => -1,
            Self::Normal => 0,
            Self::Urgent => 1,
        }
    }
}

/// How a waiting message is stored. The record's id is the message's id.
///
/// `lease_token` stays after the end: it names the dispatcher run that finished the message.
pub static OUTBOX: Schema = Schema {
    name: "crm_outbox",
    fields: &[
        Field::new("channel", FieldType::Text),
        Field::new("state", FieldType::Text),
        Field::new("priority", FieldType::Int),
        Field::new("run_at", FieldType::Timestamp),
        Field::new("attempt", FieldType::Int),
        Field::new("max_attempts", FieldType::Int),
        Field::new("crash_count", FieldType::Int),
        Field::new("maybe_sent", FieldType::Bool),
        Field::new("lease_token", FieldType::Uuid).nullable(),
        Field::new("lease_until", FieldType::Timestamp).nullable(),
        Field::new("send_started_at", FieldType::Timestamp).nullable(),
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("contact_point_id", FieldType::Uuid)
            .nullable()
            .pseudonym(),
        Field::new("purpose", FieldType::Json),
        Field::new("message", FieldType::Json).personal(),
        Field::new("campaign", FieldType::Text).nullable(),
        Field::new("variant", FieldType::Text).nullable(),
        Field::new("dedupe_key", FieldType::Text).nullable().pseudonym(),
        Field::new("decision", FieldType::Json).nullable(),
        Field::new("provider", FieldType::Text).nullable(),
        Field::new("provider_ref", FieldType::Text).nullable(),
        // How far it is known to have come: the dispatcher's own knowledge and the news from outside, joined.
        Field::new("delivery", FieldType::Text).nullable(),
        Field::new("delivered_at", FieldType::Timestamp).nullable(),
        Field::new("last_error", FieldType::Text).nullable(),
        Field::new("created_at", FieldType::Timestamp),
        Field::new("finished_at", FieldType::Timestamp).nullable(),
        Field::new("expires_at", FieldType::Timestamp).nullable(),
        Field::new("snoozes", FieldType::Int).nullable(),
        Field::new("rescues", FieldType::Int).nullable(),
        Field::new("order_key", FieldType::Text).nullable().pseudonym(),
        Field::new("tags", FieldType::Json).nullable(),
        Field::new("errors", FieldType::Json).nullable(),
        Field::new("receipt", FieldType::Json).nullable(),
        // Who is to blame that it did not arrive, as far as anybody said: what pauses a campaign looks at it.
        Field::new("blame", FieldType::Text).nullable(),
    ],
    indexes: &[
        Index::unique("crm_outbox_dedupe", &["dedupe_key"]),
        // What is due, of each priority; under a lease there are few at a time.
        Index::new("crm_outbox_ready", &["state", "priority", "run_at"]),
        Index::new("crm_outbox_campaign", &["campaign", "state"]),
        Index::new("crm_outbox_customer", &["customer_id"]),
        Index::new("crm_outbox_ref", &["provider_ref"]),
        Index::new("crm_outbox_order", &["order_key", "state"]),
    ],
};

/// A message on its way into the outbox. `Debug` shows neither address nor content.
#[derive(Debug, Clone)]
pub struct Outgoing {
    message: Message,
    customer: CustomerId,
    purpose: Purpose,
    priority: Priority,
    run_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    max_attempts: i64,
    contact_point: Option<ContactPointId>,
    campaign: Option<String>,
    variant: Option<String>,
    dedupe_key: Option<String>,
    order_key: Option<String>,
    tags: BTreeMap<String, String>,
}

impl Outgoing {
    /// A message of any channel to a customer for a purpose, due at once.
    pub fn new(message: impl Into<Message>, customer: CustomerId, purpose: Purpose) -> Self {
        Self {
            message: message.into(),
            customer,
            purpose,
            priority: Priority::default(),
            run_at: None,
            expires_at: None,
            max_attempts: MAX_ATTEMPTS,
            contact_point: None,
            campaign: None,
            variant: None,
            dedupe_key: None,
            order_key: None,
            tags: BTreeMap::new(),
        }
    }

    /// An e-mail to a customer for a purpose, due at once.
    pub fn email(email: Email, customer: CustomerId, purpose: Purpose) -> Self {
        Self::new(email, customer, purpose)
    }

    /// A text message to a customer for a purpose, due at once.
    pub fn sms(sms: Sms, customer: CustomerId, purpose: Purpose) -> Self {
        Self::new(sms, customer, purpose)
    }

    /// A phone call to a customer for a purpose, due at once.
    pub fn voice(call: VoiceCall, customer: CustomerId, purpose: Purpose) -> Self {
        Self::new(call, customer, purpose)
    }

    /// Not before this instant.
    #[must_use]
    pub fn not_before(mut self, at: Timestamp) -> Self {
        self.run_at = Some(at);
        self
    }

    /// Not from this instant on: what could not be sent until then (a server that was down, quiet hours) ends as
    /// [`OutboxState::Expired`]. A reminder for nine o'clock is of no use the next day.
    #[must_use]
    pub fn expires_at(mut self, at: Timestamp) -> Self {
        self.expires_at = Some(at);
        self
    }

    /// What goes first; [`Priority::Normal`] by default.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// How many tries it gets, at least 1.
    #[must_use]
    pub fn max_attempts(mut self, tries: i64) -> Self {
        self.max_attempts = tries.max(1);
        self
    }

    /// Only one message with this key ever enters the outbox of a tenant: the store's unique index sees to it. A
    /// cancelled message gives its key back.
    #[must_use]
    pub fn dedupe_key(mut self, key: impl Into<String>) -> Self {
        self.dedupe_key = Some(key.into());
        self
    }

    /// Messages with the same key go out one after the other, in the order in which they were queued: the next one is not
    /// begun before the one before it has ended, whichever dispatcher has it.
    #[must_use]
    pub fn order_key(mut self, key: impl Into<String>) -> Self {
        self.order_key = Some(key.into());
        self
    }

    /// [`Outgoing::order_key`] of the customer: what they get comes in order.
    #[must_use]
    pub fn in_order(self) -> Self {
        let key = format!("customer:{}", self.customer);
        self.order_key(key)
    }

    /// Only a provider with this tag ([`crm_core::ProviderInfo::tag`]) is asked.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }

    pub(crate) fn campaign(mut self, name: &str, variant: &str, point: ContactPointId) -> Self {
        self.dedupe_key = Some(Self::campaign_key(name, point));
        self.campaign = Some(name.to_owned());
        self.variant = Some(variant.to_owned());
        self.contact_point = Some(point);
        self
    }

    /// What keeps a contact point from getting a campaign twice.
    pub(crate) fn campaign_key(name: &str, point: ContactPointId) -> String {
        format!("campaign:{name}:{point}")
    }

    /// The message's id, which is also the outbox record's.
    pub fn id(&self) -> MessageId {
        self.message.message_id()
    }

    fn record(&self, now: Timestamp) -> Result<Record> {
        self.message.validate()?;
        self.purpose.validate()?;
        let run_at = self.run_at.unwrap_or(now);
        if self.expires_at.is_some_and(|at| at <= run_at) {
            return Err(
                Error::invalid("a message expires after it is due; it would never be sent")
                    .with("field", "expires_at"),
            );
        }
        let message = match &self.message {
            Message::Email(email) => json("message", email),
            Message::Sms(sms) => json("message", sms),
            Message::Voice(call) => json("message", call),
        }?;
        let tags = match self.tags.is_empty() {
            true => None,
            false => Some(json("tags", &self.tags)?),
        };
        Record::new(&OUTBOX)
            .with("channel", self.message.channel().as_str())?
            .with("state", OutboxState::Queued.as_str())?
            .with("priority", self.priority.level())?
            .with("run_at", run_at)?
            .with("attempt", 0_i64)?
            .with("max_attempts", self.max_attempts)?
            .with("crash_count", 0_i64)?
            .with("maybe_sent", false)?
            .with("customer_id", self.customer)?
            .with("contact_point_id", self.contact_point)?
            .with("purpose", json("purpose", &self.purpose)?)?
            .with("message", message)?
            .with("campaign", self.campaign.clone())?
            .with("variant", self.variant.clone())?
            .with("dedupe_key", self.dedupe_key.clone())?
            .with("created_at", now)?
            .with("expires_at", self.expires_at)?
            .with("snoozes", 0_i64)?
            .with("rescues", 0_i64)?
            .with("order_key", self.order_key.clone())?
            .with("tags", tags)
    }

    /// The write that puts it into the outbox; a taken dedupe key fails the unit of work with
    /// [`crm_core::ErrorKind::Conflict`] on `index=crm_outbox_dedupe`.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the field that is wrong ([`Message::validate`]).
    pub fn write(&self, now: Timestamp) -> Result<Write> {
        Ok(Write::insert(self.id(), self.record(now)?))
    }

    /// As [`Outgoing::write`], but left out when the dedupe key is taken.
    ///
    /// # Errors
    /// As [`Outgoing::write`].
    pub fn write_once(&self, now: Timestamp) -> Result<Write> {
        Ok(Write::insert_or_skip(self.id(), self.record(now)?))
    }
}

pub(crate) fn json(field: &'static str, value: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|e| {
        Error::invalid("cannot be written as JSON")
            .with("field", field)
            .source(e)
    })
}
