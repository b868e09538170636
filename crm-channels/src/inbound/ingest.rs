use crm_core::customer::Address;
use crm_core::message::{DeliveryEvent, InboundEvent};
use crm_core::query::Filter;
use crm_core::record::{Field, FieldType, Index, MAX_KEY_CHARS, Schema, Write};
use crm_core::{Context, Error, Result, Timestamp};
use sha2::{Digest as _, Sha256};

use super::intake::Intake;
use super::key::hex;
use crate::Outreach;

/// The longest text of a message that is kept, in characters.
pub(super) const MAX_TEXT: usize = 16_000;

/// What came in from outside, each once: the store's unique index on provider and event id sees to it.
pub static INBOUND: Schema = Schema {
    name: "crm_inbound",
    fields: &[
        Field::new("provider", FieldType::Text),
        Field::new("event_id", FieldType::Text).pseudonym(),
        // `delivery` or `message`.
        Field::new("kind", FieldType::Text),
        // `applied`, `orphan`; of messages `stop`, `start`, `help`, `review`, `text`.
        Field::new("outcome", FieldType::Text),
        Field::new("message_id", FieldType::Uuid).nullable(),
        Field::new("provider_ref", FieldType::Text).nullable(),
        Field::new("address_key", FieldType::Text).nullable().pseudonym(),
        Field::new("state", FieldType::Text).nullable(),
        Field::new("code", FieldType::Text).nullable(),
        // What nobody could be found for, whole.
        Field::new("event", FieldType::Json).nullable().personal(),
        Field::new("at", FieldType::Timestamp),
        Field::new("received_at", FieldType::Timestamp),
    ],
    indexes: &[
        Index::unique("crm_inbound_event", &["provider", "event_id"]),
        Index::new("crm_inbound_outcome", &["outcome", "received_at"]),
    ],
};

/// What one [`Outreach::ingest`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IngestReport {
    /// News that were joined to a message of ours.
    pub applied: u64,
    /// News of a message that is not (or not yet) in the outbox: kept, see [`Outreach::adopt_orphans`].
    pub orphans: u64,
    /// What had come in before; it changed nothing.
    pub repeated: u64,
    /// Messages to us that ended messages.
    pub stopped: u64,
    /// Messages to us that began them again.
    pub started: u64,
    /// Messages to us that asked who writes.
    pub helped: u64,
    /// Messages to us that a person should read.
    pub review: u64,
    /// Any other messages to us.
    pub texts: u64,
}

impl IngestReport {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.applied
            + self.orphans
            + self.repeated
            + self.stopped
            + self.started
            + self.helped
            + self.review
            + self.texts
    }

    pub(super) fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Applied => &mut self.applied,
            Outcome::Orphan => &mut self.orphans,
            Outcome::Repeated => &mut self.repeated,
            Outcome::Stop => &mut self.stopped,
            Outcome::Start => &mut self.started,
            Outcome::Help => &mut self.helped,
            Outcome::Review => &mut self.review,
            Outcome::Text => &mut self.texts,
        } += 1;
    }
}

/// What became of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Applied,
    Orphan,
    Repeated,
    Stop,
    Start,
    Help,
    Review,
    Text,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Orphan => "orphan",
            Self::Repeated => "repeated",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Help => "help",
            Self::Review => "review",
            Self::Text => "text",
        }
    }
}

/// A unit of work that waits for the store.
pub(super) struct Work {
    pub(super) outcome: Outcome,
    pub(super) writes: Vec<Write>,
}

impl Outreach {
    /// Takes in what vendors, mail servers and people tell us. Each event is one unit of work and counts once, however
    /// often, late and in whatever order it comes:
    ///
    /// - news about a message are joined to its [`crm_core::message::DeliveryState`]; they end an unknown outcome, go on the
    ///   customer's timeline, and what they say about the address is done with the address;
    /// - a message to us ends or begins messages when it says so, and goes on the timeline;
    /// - what nobody can be found for is kept and changes nothing. No customer is ever made of it.
    ///
    /// When it fails, what came before the failure stays done: hand in all of it again.
    ///
    /// # Errors
    /// Those of the store; [`crm_core::ErrorKind::Config`] without an address key.
    pub async fn ingest(&self, ctx: &Context, events: Vec<InboundEvent>) -> Result<IngestReport> {
        let mut report = IngestReport::default();
        for event in events {
            report.count(match event {
                InboundEvent::Delivery(event) => self.intake()?.take_delivery(ctx, &cleaned(event)).await?,
                InboundEvent::Message(message) => self.take_message(ctx, message).await?,
                _ => continue,
            });
        }
        Ok(report)
    }

    /// Looks again for the messages of news that came too early: before the vendor's reference was stored. Answers how
    /// many found theirs. Those received before `since` are left alone. [`crate::Dispatcher::run`] does it by itself, now
    /// and then ([`crate::DispatchSettings::upkeep`]).
    ///
    /// # Errors
    /// As [`Outreach::ingest`].
    pub async fn adopt_orphans(&self, ctx: &Context, since: Timestamp) -> Result<u64> {
        self.intake()?.adopt(ctx, Filter::ge("received_at", since)).await
    }

    pub(super) fn intake(&self) -> Result<Intake<'_>> {
        Ok(Intake {
            store: &*self.store,
            time: &self.time,
            ids: &*self.ids,
            gate: self.gate()?,
        })
    }
}

pub(super) fn text_of(address: &Address) -> &str {
    match address {
        Address::Email(email) => email.as_str(),
        Address::Phone(phone) => phone.as_str(),
    }
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|e| Error::unexpected("an event cannot be written as JSON").source(e))
}

/// Text from outside as a store takes it: without NUL, and not longer than this many characters.
pub(super) fn clean(text: &str, most: usize) -> String {
    text.chars().filter(|c| *c != '\0').take(most).collect()
}

/// What names something, as an index takes it: what is too long is named by its hash.
pub(super) fn key(text: &str) -> String {
    let clean: String = text.chars().filter(|c| *c != '\0').collect();
    if clean.chars().nth(MAX_KEY_CHARS).is_none() {
        return clean;
    }
    format!("sha256:{}", hex(&Sha256::digest(clean.as_bytes())))
}

fn cleaned(event: DeliveryEvent) -> DeliveryEvent {
    DeliveryEvent {
        provider: key(&event.provider),
        event_id: key(&event.event_id),
        provider_ref: event.provider_ref.as_deref().map(key),
        code: event.code.map(|text| clean(&text, 100)),
        reason: event.reason.map(|text| clean(&text, 500)),
        ..event
    }
}
