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

use std::fmt;

use crm_core::consent::Purpose;
use crm_core::customer::{ContactPointId, CustomerId};
use crm_core::message::{DeliveryState, Email, MessageId};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Value, Write};
use crm_core::{Error, Result, Timestamp};
use serde::Deserialize;

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
}

impl OutboxState {
    /// All states.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Leased,
        Self::Sent,
        Self::Recorded,
        Self::Refused,
        Self::Failed,
        Self::Dead,
        Self::Unknown,
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
        }
    }

    /// Whether nothing more happens by itself.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Leased)
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
    ],
    indexes: &[
        Index::unique("crm_outbox_dedupe", &["dedupe_key"]),
        Index::new("crm_outbox_due", &["state", "run_at"]),
        Index::new("crm_outbox_lease", &["state", "lease_until"]),
        Index::new("crm_outbox_campaign", &["campaign", "state"]),
        Index::new("crm_outbox_ref", &["provider_ref"]),
    ],
};

/// A message on its way into the outbox. `Debug` shows neither address nor content.
#[derive(Debug, Clone)]
pub struct Outgoing {
    email: Email,
    customer: CustomerId,
    purpose: Purpose,
    priority: i64,
    run_at: Option<Timestamp>,
    max_attempts: i64,
    contact_point: Option<ContactPointId>,
    campaign: Option<String>,
    dedupe_key: Option<String>,
}

impl Outgoing {
    /// An e-mail to a customer for a purpose, due at once.
    pub fn email(email: Email, customer: CustomerId, purpose: Purpose) -> Self {
        Self {
            email,
            customer,
            purpose,
            priority: 0,
            run_at: None,
            max_attempts: MAX_ATTEMPTS,
            contact_point: None,
            campaign: None,
            dedupe_key: None,
        }
    }

    /// Not before this instant.
    #[must_use]
    pub fn not_before(mut self, at: Timestamp) -> Self {
        self.run_at = Some(at);
        self
    }

    /// Higher goes first; 0 by default.
    #[must_use]
    pub fn priority(mut self, priority: i64) -> Self {
        self.priority = priority;
        self
    }

    /// How many tries it gets, at least 1.
    #[must_use]
    pub fn max_attempts(mut self, tries: i64) -> Self {
        self.max_attempts = tries.max(1);
        self
    }

    /// Only one message with this key ever enters the outbox of a tenant: the store's unique index sees to it.
    #[must_use]
    pub fn dedupe_key(mut self, key: impl Into<String>) -> Self {
        self.dedupe_key = Some(key.into());
        self
    }

    pub(crate) fn campaign(mut self, name: &str, point: ContactPointId) -> Self {
        self.dedupe_key = Some(Self::campaign_key(name, point));
        self.campaign = Some(name.to_owned());
        self.contact_point = Some(point);
        self
    }

    /// What keeps a contact point from getting a campaign twice.
    pub(crate) fn campaign_key(name: &str, point: ContactPointId) -> String {
        format!("campaign:{name}:{point}")
    }

    /// The message's id, which is also the outbox record's.
    pub fn id(&self) -> MessageId {
        self.email.id
    }

    fn record(&self, now: Timestamp) -> Result<Record> {
        self.email.validate()?;
        self.purpose.validate()?;
        let json = |value: serde_json::Result<serde_json::Value>, field: &'static str| {
            value.map_err(|e| {
                Error::invalid("cannot be written as JSON")
                    .with("field", field)
                    .source(e)
            })
        };
        Record::new(&OUTBOX)
            .with("channel", "email")?
            .with("state", OutboxState::Queued.as_str())?
            .with("priority", self.priority)?
            .with("run_at", self.run_at.unwrap_or(now))?
            .with("attempt", 0_i64)?
            .with("max_attempts", self.max_attempts)?
            .with("crash_count", 0_i64)?
            .with("maybe_sent", false)?
            .with("customer_id", self.customer)?
            .with("contact_point_id", self.contact_point)?
            .with("purpose", json(serde_json::to_value(&self.purpose), "purpose")?)?
            .with("message", json(serde_json::to_value(&self.email), "message")?)?
            .with("campaign", self.campaign.clone())?
            .with("dedupe_key", self.dedupe_key.clone())?
            .with("created_at", now)
    }

    /// The write that puts it into the outbox; a taken dedupe key fails the unit of work with
    /// [`crm_core::ErrorKind::Conflict`] on `index=crm_outbox_dedupe`.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the field that is wrong ([`Email::validate`]).
    pub fn write(&self, now: Timestamp) -> Result<Write> {
        Ok(Write::insert(self.email.id, self.record(now)?))
    }

    /// As [`Outgoing::write`], but left out when the dedupe key is taken.
    ///
    /// # Errors
    /// As [`Outgoing::write`].
    pub fn write_once(&self, now: Timestamp) -> Result<Write> {
        Ok(Write::insert_or_skip(self.email.id, self.record(now)?))
    }
}

/// A message as it stands in the outbox, read for dispatch.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) email: Email,
    pub(crate) purpose: Purpose,
    pub(crate) customer: CustomerId,
    pub(crate) campaign: Option<String>,
    pub(crate) attempt: i64,
    pub(crate) max_attempts: i64,
    pub(crate) crash_count: i64,
    pub(crate) maybe_sent: bool,
    pub(crate) send_started_at: Option<Timestamp>,
    pub(crate) delivery: Option<DeliveryState>,
}

impl Entry {
    pub(crate) fn read(r: &Record) -> Result<Self> {
        fn document<T: for<'de> Deserialize<'de>>(r: &Record, field: &'static str) -> Result<T> {
            let json = r
                .get(field)
                .and_then(Value::as_json)
                .ok_or_else(|| r.damaged(field))?;
            T::deserialize(json).map_err(|_| r.damaged(field))
        }
        Ok(Self {
            email: document(r, "message")?,
            purpose: document(r, "purpose")?,
            customer: r.uuid("customer_id")?.into(),
            campaign: r.get("campaign").and_then(Value::as_str).map(str::to_owned),
            attempt: r.int("attempt")?,
            max_attempts: r.int("max_attempts")?,
            crash_count: r.int("crash_count")?,
            maybe_sent: r.bool("maybe_sent")?,
            send_started_at: r.get("send_started_at").and_then(Value::as_timestamp),
            delivery: delivery(r)?,
        })
    }
}

/// How far the message of a record is known to have come.
pub(crate) fn delivery(r: &Record) -> Result<Option<DeliveryState>> {
    r.get("delivery")
        .and_then(Value::as_str)
        .map(|text| text.parse().map_err(|_| r.damaged("delivery")))
        .transpose()
}

/// Joins what is known already with something new: any order, any repetition, one result.
pub(crate) fn join_delivery(r: &mut Record, news: DeliveryState) -> Result<DeliveryState> {
    let joined = delivery(r)?.map_or(news, |known| known.join(news));
    r.set("delivery", joined.as_str())?;
    Ok(joined)
}

/// Where a message stands whose own end is not known, after news from outside: what a vendor took is sent, and what is
/// sent is not repeated.
pub(crate) fn resolved(state: OutboxState, maybe_sent: bool, known: Option<DeliveryState>) -> OutboxState {
    let open = state == OutboxState::Unknown || (state == OutboxState::Queued && maybe_sent);
    match known {
        Some(DeliveryState::Accepted | DeliveryState::Delivered | DeliveryState::Complained) if open => {
            OutboxState::Sent
        }
        Some(DeliveryState::Failed | DeliveryState::Refused) if open => OutboxState::Failed,
        _ => state,
    }
}

/// What the outside may know of a message in the outbox: where it stands and why, without content.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxEntry {
    /// The message's id.
    pub id: MessageId,
    /// To whom.
    pub customer_id: CustomerId,
    /// Where it stands.
    pub state: OutboxState,
    /// How often it was tried.
    pub attempt: i64,
    /// When it is tried next, while it waits.
    pub run_at: Timestamp,
    /// The campaign, if it belongs to one.
    pub campaign: Option<String>,
    /// Who took it.
    pub provider: Option<String>,
    /// The provider's reference.
    pub provider_ref: Option<String>,
    /// How far it is known to have come: what the dispatcher knows and news from outside, joined.
    pub delivery: Option<DeliveryState>,
    /// When it arrived, as the provider says; the earliest such news counts.
    pub delivered_at: Option<Timestamp>,
    /// What went wrong last.
    pub last_error: Option<String>,
}

impl OutboxEntry {
    pub(crate) fn read(stored: &Stored) -> Result<Self> {
        let r = &stored.record;
        let text = |field: &str| r.get(field).and_then(Value::as_str).map(str::to_owned);
        Ok(Self {
            id: stored.id.into(),
            customer_id: r.uuid("customer_id")?.into(),
            state: OutboxState::parse(r.text("state")?).ok_or_else(|| r.damaged("state"))?,
            attempt: r.int("attempt")?,
            run_at: r.timestamp("run_at")?,
            campaign: text("campaign"),
            provider: text("provider"),
            provider_ref: text("provider_ref"),
            delivery: delivery(r)?,
            delivered_at: r.get("delivered_at").and_then(Value::as_timestamp),
            last_error: text("last_error"),
        })
    }
}
