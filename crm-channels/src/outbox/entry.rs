//! A message as it is read back from the outbox.

use std::collections::BTreeMap;

use crm_core::activity::Interaction;
use crm_core::consent::{Purpose, PurposeClass};
use crm_core::customer::{Attributes, ContactKind, CustomerId};
use crm_core::message::{Blame, Channel, DeliveryState, Email, Message, MessageId, Sendable, Sms, VoiceCall};
use crm_core::record::{Entity as _, Record, Stored, Value, Write};
use crm_core::{Result, Timestamp, Uuid};
use serde::{Deserialize, Serialize};

use super::OutboxState;

/// A message as it stands in the outbox, read for dispatch.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) message: Message,
    pub(crate) purpose: Purpose,
    pub(crate) customer: CustomerId,
    pub(crate) campaign: Option<String>,
    pub(crate) attempt: i64,
    pub(crate) max_attempts: i64,
    /// How often its dispatcher died while it was being handed over.
    pub(crate) crash_count: i64,
    /// How often its dispatcher died before it was begun.
    pub(crate) rescues: i64,
    pub(crate) maybe_sent: bool,
    pub(crate) send_started_at: Option<Timestamp>,
    pub(crate) delivery: Option<DeliveryState>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) order: Option<Place>,
    pub(crate) tags: BTreeMap<String, String>,
}

/// Where a message stands among those that go out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) key: String,
    /// When it was queued, and the id: earlier ones go first.
    pub(crate) at: (Timestamp, Uuid),
}

fn document<T: for<'de> Deserialize<'de>>(r: &Record, field: &'static str) -> Result<T> {
    let json = r
        .get(field)
        .and_then(Value::as_json)
        .ok_or_else(|| r.damaged(field))?;
    T::deserialize(json).map_err(|_| r.damaged(field))
}

fn text(r: &Record, field: &str) -> Option<String> {
    r.get(field).and_then(Value::as_str).map(str::to_owned)
}

impl Place {
    pub(crate) fn read(id: Uuid, r: &Record) -> Result<Option<Self>> {
        Ok(match text(r, "order_key") {
            Some(key) => Some(Self {
                key,
                at: (r.timestamp("created_at")?, id),
            }),
            None => None,
        })
    }
}

/// The message of an outbox record.
pub(crate) fn message(r: &Record) -> Result<Message> {
    let channel: Channel = r.text("channel")?.parse().map_err(|_| r.damaged("channel"))?;
    Ok(match channel {
        Channel::Email => Message::Email(document::<Email>(r, "message")?),
        Channel::Sms => Message::Sms(document::<Sms>(r, "message")?),
        Channel::Voice => Message::Voice(document::<VoiceCall>(r, "message")?),
    })
}

impl Entry {
    pub(crate) fn read(id: Uuid, r: &Record) -> Result<Self> {
        Ok(Self {
            message: message(r)?,
            purpose: document(r, "purpose")?,
            customer: r.uuid("customer_id")?.into(),
            campaign: text(r, "campaign"),
            attempt: r.int("attempt")?,
            max_attempts: r.int("max_attempts")?,
            crash_count: r.int("crash_count")?,
            rescues: r.get("rescues").and_then(Value::as_int).unwrap_or(0),
            maybe_sent: r.bool("maybe_sent")?,
            send_started_at: r.get("send_started_at").and_then(Value::as_timestamp),
            delivery: delivery(r)?,
            expires_at: r.get("expires_at").and_then(Value::as_timestamp),
            order: Place::read(id, r)?,
            tags: r.json("tags")?,
        })
    }

    pub(crate) fn channel(&self) -> Channel {
        self.message.channel()
    }

    pub(crate) fn contact_kind(&self) -> ContactKind {
        self.message.contact_kind()
    }

    /// Whether it may go out a second time when nobody knows whether it went out the first time: only what the
    /// recipient's system can recognise by its name, and what nobody minds to get twice.
    pub(crate) fn repeats(&self) -> bool {
        self.channel() == Channel::Email && self.purpose.class != PurposeClass::Marketing
    }

    /// The news on the customer's timeline when it has come so far.
    pub(crate) fn news(&self, state: DeliveryState) -> String {
        news_kind(self.channel(), state)
    }

    /// The news on the timeline that the message was called back before it was sent, or may have been sent before.
    pub(crate) fn called_back(
        &self,
        news: Uuid,
        at: Timestamp,
        end: OutboxState,
        why: &str,
    ) -> Result<Write> {
        let id = self.message.message_id();
        let mut data = Attributes::default();
        data.set("message_id", id.to_string())?;
        data.set("purpose", self.purpose.name.as_str())?;
        data.set("campaign", self.campaign.clone())?;
        data.set("reason", why)?;
        let interaction = Interaction {
            id: news.into(),
            customer_id: self.customer,
            at,
            kind: self.news(end.delivery()),
            source: "outbox".to_owned(),
            event_id: format!("{id}:{end}"),
            data,
        };
        Ok(Write::insert_or_skip(interaction.id, interaction.to_record()?))
    }
}

/// The word for a channel on the timeline.
pub(crate) fn channel_word(channel: Channel) -> &'static str {
    match channel {
        Channel::Email => "mail",
        Channel::Sms => "sms",
        Channel::Voice => "call",
    }
}

/// What it is called on the timeline that a message has come so far: `sms.delivered`.
pub(crate) fn news_kind(channel: Channel, state: DeliveryState) -> String {
    format!("{}.{state}", channel_word(channel))
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

/// Joins who was to blame with who is: any order, any repetition, one result.
pub(crate) fn join_blame(r: &mut Record, news: Blame) -> Result<()> {
    let rank = |blame: Blame| Blame::ALL.iter().position(|one| *one == blame);
    let known = match r.get("blame").and_then(Value::as_str) {
        Some(text) => text.parse().map_err(|_| r.damaged("blame"))?,
        None => Blame::Nobody,
    };
    if rank(news) > rank(known) {
        r.set("blame", news.as_str())?;
    }
    Ok(())
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

/// A try that went wrong. Without personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it ended.
    pub at: Timestamp,
    /// Which one it was, counted from 1.
    pub attempt: i64,
    /// Who was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// What went wrong.
    pub error: String,
}

/// What the outside may know of a message in the outbox: where it stands and why, without content.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OutboxEntry {
    /// The message's id.
    pub id: MessageId,
    /// The way it goes.
    pub channel: Channel,
    /// To whom.
    pub customer_id: CustomerId,
    /// Where it stands.
    pub state: OutboxState,
    /// How far it is known to have come: what the dispatcher knows and news from outside, joined.
    pub delivery: Option<DeliveryState>,
    /// When it arrived, as the provider says; the earliest such news counts.
    pub delivered_at: Option<Timestamp>,
    /// How often it was tried.
    pub attempt: i64,
    /// How often it was put off (quiet hours, limits) without being tried.
    pub snoozes: i64,
    /// When it is tried next, while it waits.
    pub run_at: Timestamp,
    /// When it is of no use any more.
    pub expires_at: Option<Timestamp>,
    /// The campaign, if it belongs to one.
    pub campaign: Option<String>,
    /// Which of the things the campaign says, if it belongs to one.
    pub variant: Option<String>,
    /// Who took it, or was asked last.
    pub provider: Option<String>,
    /// The provider's reference.
    pub provider_ref: Option<String>,
    /// What went wrong last, or why it ended.
    pub last_error: Option<String>,
    /// The last tries that went wrong, the oldest first: at most ten.
    pub errors: Vec<Attempt>,
}

impl OutboxEntry {
    pub(crate) fn read(stored: &Stored) -> Result<Self> {
        let r = &stored.record;
        Ok(Self {
            id: stored.id.into(),
            channel: r.text("channel")?.parse().map_err(|_| r.damaged("channel"))?,
            customer_id: r.uuid("customer_id")?.into(),
            state: OutboxState::parse(r.text("state")?).ok_or_else(|| r.damaged("state"))?,
            delivery: delivery(r)?,
            delivered_at: r.get("delivered_at").and_then(Value::as_timestamp),
            attempt: r.int("attempt")?,
            snoozes: r.get("snoozes").and_then(Value::as_int).unwrap_or(0),
            run_at: r.timestamp("run_at")?,
            expires_at: r.get("expires_at").and_then(Value::as_timestamp),
            campaign: text(r, "campaign"),
            variant: text(r, "variant"),
            provider: text(r, "provider"),
            provider_ref: text(r, "provider_ref"),
            last_error: text(r, "last_error"),
            errors: r.json("errors")?,
        })
    }
}
