//! News about messages: each joined to its message once, in one unit of work with all that follows from it.

use crm_core::activity::Interaction;
use crm_core::capability::RecordStore;
use crm_core::consent::{Fate, Gate};
use crm_core::customer::{Address, Attributes, CONTACT_POINT, ContactState, CustomerId, Deliverability};
use crm_core::message::{Blame, DeliveryEvent, DeliveryState, Message, Sendable as _};
use crm_core::query::{Filter, Query};
use crm_core::record::{Entity, Record, Stored, Value, Write};
use crm_core::{Context, Error, ErrorKind, IdSource, Result, SharedTime, Timestamp};
use serde::Deserialize as _;

use super::ingest::{INBOUND, Outcome, Work, json, key, text_of};
use crate::outbox::{OUTBOX, OutboxState, delivery, join_blame, join_delivery, message, news_kind, resolved};

/// How often an event is tried again when somebody else writes the same records at the same time.
const TRIES: usize = 32;

/// What it takes to take in news.
#[derive(Clone, Copy)]
pub(crate) struct Intake<'a> {
    pub(crate) store: &'a dyn RecordStore,
    pub(crate) time: &'a SharedTime,
    pub(crate) ids: &'a dyn IdSource,
    pub(crate) gate: &'a Gate,
}

impl Intake<'_> {
    /// Looks for the messages of those news without one that match; answers how many have one now.
    pub(crate) async fn adopt(&self, ctx: &Context, which: Filter) -> Result<u64> {
        let filter = Filter::eq("outcome", Outcome::Orphan.as_str()).and(which);
        let mut query = Query::new(filter).limit(200);
        let mut adopted = 0;
        loop {
            let page = self.store.find(ctx, &INBOUND, &query).await?;
            for stored in page.items {
                let event = stored.record.get("event").and_then(Value::as_json);
                let Some(event) = event.and_then(|json| DeliveryEvent::deserialize(json).ok()) else {
                    continue; // a message to us, or one of a newer version
                };
                adopted += u64::from(self.adopt_one(ctx, stored, &event).await?);
            }
            match page.next {
                Some(next) => query = query.after(Some(next)),
                None => return Ok(adopted),
            }
        }
    }

    async fn adopt_one(&self, ctx: &Context, stored: Stored, event: &DeliveryEvent) -> Result<bool> {
        for _ in 0..TRIES {
            let Some(row) = self.row_of(ctx, event).await? else {
                return Ok(false);
            };
            let mut record = stored.record.clone();
            record.set("outcome", Outcome::Applied.as_str())?;
            record.set("message_id", row.id)?;
            record.set("event", Value::Null)?;
            let mut writes = vec![Write::update(stored.id, stored.version, record)];
            writes.extend(self.news(ctx, row, event).await?);
            match self.store.apply(ctx, &writes).await {
                Ok(_) => return Ok(true),
                Err(error) if is_conflict_on(&error, INBOUND.name) => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(crowded())
    }

    pub(super) async fn take_delivery(&self, ctx: &Context, event: &DeliveryEvent) -> Result<Outcome> {
        self.once(ctx, || async {
            let row = self.row_of(ctx, event).await?;
            let outcome = if row.is_some() {
                Outcome::Applied
            } else {
                Outcome::Orphan
            };
            let mut record = self.inbound(&event.provider, &event.event_id, "delivery", outcome, event.at)?;
            record.set("provider_ref", event.provider_ref.clone())?;
            record.set("state", event.state.as_str())?;
            record.set("code", event.code.clone())?;
            record.set("message_id", row.as_ref().map(|row| row.id))?;
            let mut writes = Vec::new();
            match row {
                Some(row) => writes = self.news(ctx, row, event).await?,
                None => record.set("event", json(event)?)?,
            }
            writes.insert(0, Write::insert(self.ids.fresh(), record));
            Ok(Work { outcome, writes })
        })
        .await
    }

    /// Does a unit of work that begins with the record of its event: again when somebody else was quicker, not at all
    /// when the event is there already.
    pub(super) async fn once<F>(&self, ctx: &Context, make: impl Fn() -> F) -> Result<Outcome>
    where
        F: Future<Output = Result<Work>>,
    {
        for _ in 0..TRIES {
            let work = make().await?;
            match self.store.apply(ctx, &work.writes).await {
                Ok(_) => return Ok(work.outcome),
                Err(error) if is_conflict_on(&error, INBOUND.name) => return Ok(Outcome::Repeated),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(crowded())
    }

    /// The record that makes an event count once.
    pub(super) fn inbound(
        &self,
        provider: &str,
        event_id: &str,
        kind: &str,
        outcome: Outcome,
        at: Timestamp,
    ) -> Result<Record> {
        Record::new(&INBOUND)
            .with("provider", key(provider))?
            .with("event_id", key(event_id))?
            .with("kind", kind)?
            .with("outcome", outcome.as_str())?
            .with("at", at)?
            .with("received_at", self.time.now())
    }

    /// The message that news are about, of this tenant alone: by our own id, else by the vendor's reference.
    async fn row_of(&self, ctx: &Context, event: &DeliveryEvent) -> Result<Option<Stored>> {
        if let Some(id) = event.message_id {
            let found = self.store.get(ctx, &OUTBOX, &[id.uuid()]).await?;
            if let Some(row) = found.into_iter().next().flatten() {
                return Ok(Some(row));
            }
        }
        let Some(reference) = &event.provider_ref else {
            return Ok(None);
        };
        let filter =
            Filter::eq("provider_ref", key(reference)).and(Filter::eq("provider", key(&event.provider)));
        let mut query = Query::new(filter).limit(200);
        let mut rows = Vec::new();
        loop {
            let page = self.store.find(ctx, &OUTBOX, &query).await?;
            for row in page.items {
                match &event.recipient {
                    // One reference of a batch stands for many messages.
                    Some(address) if recipient(&row.record)? != text_of(address) => {}
                    _ => rows.push(row),
                }
            }
            match page.next {
                Some(next) => query = query.after(Some(next)),
                // Which of several it is about nobody can say.
                None if rows.len() > 1 => return Ok(None),
                None => return Ok(rows.pop()),
            }
        }
    }

    /// What news about a message change.
    async fn news(&self, ctx: &Context, row: Stored, event: &DeliveryEvent) -> Result<Vec<Write>> {
        let message = message(&row.record)?;
        let customer: CustomerId = row.record.uuid("customer_id")?.into();
        let mut record = row.record.clone();
        let before = delivery(&record)?;
        let joined = join_delivery(&mut record, event.state)?;
        join_blame(&mut record, event.blame)?;
        if event.state == DeliveryState::Delivered {
            let known = record.get("delivered_at").and_then(Value::as_timestamp);
            record.set("delivered_at", known.map_or(event.at, |at| at.min(event.at)))?;
        }
        if event.state >= DeliveryState::Failed && event.state == joined {
            // The words of the highest news; of several the same ones, whatever their order.
            let known = record
                .get("last_error")
                .and_then(Value::as_str)
                .map(str::to_owned);
            let known = known.filter(|_| before == Some(joined));
            record.set("last_error", known.max(words(event)))?;
        }
        let was = record.text("state")?;
        let was = OutboxState::parse(was).ok_or_else(|| record.damaged("state"))?;
        let state = resolved(was, record.bool("maybe_sent")?, Some(joined));
        if state != was {
            record.set("state", state.as_str())?;
            record.set("finished_at", self.time.now())?;
            if record.get("provider").is_none_or(Value::is_null) {
                record.set("provider", key(&event.provider))?;
            }
            if record.get("provider_ref").is_none_or(Value::is_null) {
                record.set("provider_ref", event.provider_ref.as_deref().map(key))?;
            }
        }
        let mut writes = Vec::new();
        if record.values() != row.record.values() {
            writes.push(Write::update(row.id, row.version, record));
        }
        // Beyond what the dispatcher told when it handed the message over.
        let told = event.state >= DeliveryState::Delivered
            || (state != was && event.state >= DeliveryState::Accepted);
        if told {
            writes.push(self.told(customer, &message, event)?);
        }
        let address = address_of(&message);
        let fate = Fate {
            address: &address,
            channel: message.channel(),
            event: &event.event_id,
            at: event.at,
            state: event.state,
            blame: event.blame,
        };
        writes.extend(self.gate.follow(ctx, &[fate]).await?);
        writes.extend(
            self.marked(
                ctx,
                customer,
                &message,
                event,
                before.is_none_or(|b| b <= event.state),
            )
            .await?,
        );
        Ok(writes)
    }

    /// The news on the customer's timeline: each state of a message once, whoever tells it.
    fn told(&self, customer: CustomerId, message: &Message, event: &DeliveryEvent) -> Result<Write> {
        let id = message.message_id();
        let mut data = Attributes::default();
        data.set("message_id", id.to_string())?;
        data.set("provider", event.provider.as_str())?;
        data.set("provider_ref", event.provider_ref.clone())?;
        data.set("code", event.code.clone())?;
        data.set("reason", event.reason.clone())?;
        let interaction = Interaction {
            id: self.ids.fresh().into(),
            customer_id: customer,
            at: event.at,
            kind: news_kind(message.channel(), event.state),
            source: "delivery".to_owned(),
            event_id: format!("{id}:{}", event.state),
            data,
        };
        Ok(Write::insert_or_skip(interaction.id, interaction.to_record()?))
    }

    /// What is known of the contact point now, where it is still there.
    async fn marked(
        &self,
        ctx: &Context,
        customer: CustomerId,
        message: &Message,
        event: &DeliveryEvent,
        newest: bool,
    ) -> Result<Vec<Write>> {
        let state = match (event.state, event.blame) {
            (DeliveryState::Complained, _) => Deliverability::Complained,
            (DeliveryState::Failed, Blame::Recipient) => Deliverability::Bounced,
            (DeliveryState::Failed, Blame::RecipientForNow) => Deliverability::Deferred,
            (DeliveryState::Delivered, _) => Deliverability::Delivered,
            _ => return Ok(Vec::new()),
        };
        let filter = Filter::eq("value", message.recipient())
            .and(Filter::eq("customer_id", customer))
            .and(Filter::eq("kind", message.contact_kind().as_str()));
        let mut writes = Vec::new();
        for stored in self
            .store
            .find(ctx, &CONTACT_POINT, &Query::new(filter))
            .await?
            .items
        {
            let mut record = stored.record.clone();
            let known = record.get("deliverability").and_then(Value::as_str);
            let known: Deliverability = known
                .map(|text| text.parse().map_err(|_| record.damaged("deliverability")))
                .transpose()?
                .unwrap_or_default();
            // What arrived makes good what was refused for a while, unless the same message failed after all.
            let makes_good =
                newest && state == Deliverability::Delivered && known == Deliverability::Deferred;
            let now = if makes_good { state } else { known.max(state) };
            record.set("deliverability", now.as_str())?;
            if state == Deliverability::Bounced {
                record.set("state", ContactState::Invalid.as_str())?;
            }
            if record.values() != stored.record.values() {
                writes.push(Write::update(stored.id, stored.version, record));
            }
        }
        Ok(writes)
    }
}

fn is_conflict_on(error: &Error, schema: &str) -> bool {
    error.kind() == ErrorKind::Conflict && error.context("schema") == Some(schema)
}

fn crowded() -> Error {
    Error::conflict("others write the same records all the time; hand the event in again")
        .operation("outreach.ingest")
        .with_retry(crm_core::Retry::Allowed { after: None })
}

fn recipient(record: &Record) -> Result<String> {
    Ok(message(record)?.recipient().to_owned())
}

fn address_of(message: &Message) -> Address {
    match message {
        Message::Email(email) => Address::Email(email.to.address.clone()),
        Message::Sms(sms) => Address::Phone(sms.to.clone()),
        Message::Voice(call) => Address::Phone(call.to.clone()),
    }
}

fn words(event: &DeliveryEvent) -> Option<String> {
    match (&event.code, &event.reason) {
        (Some(code), Some(reason)) => Some(format!("{code}: {reason}")),
        (code, reason) => code.clone().or_else(|| reason.clone()),
    }
}
