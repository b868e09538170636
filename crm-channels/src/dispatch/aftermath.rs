//! What goes with the end of a message: the news on the timeline, and what follows for the address.

use crm_core::activity::Interaction;
use crm_core::consent::Fate;
use crm_core::customer::{Address, Attributes, CONTACT_POINT, ContactState};
use crm_core::message::{Blame, DeliveryState, Message, Sendable};
use crm_core::query::{Filter, Query};
use crm_core::record::{Entity, Write};
use crm_core::{Context, Result};

use super::Dispatcher;
use super::commit::Lease;
use super::settle::{End, What};
use crate::outbox::{Entry, OutboxState};

fn address(message: &Message) -> Address {
    match message {
        Message::Email(email) => Address::Email(email.to.address.clone()),
        Message::Sms(sms) => Address::Phone(sms.to.clone()),
        Message::Voice(call) => Address::Phone(call.to.clone()),
    }
}

impl Dispatcher {
    /// What goes with the end of a message: the news on the timeline, and what follows for the address.
    pub(super) async fn more(
        &self,
        ctx: &Context,
        lease: &Lease,
        entry: &Entry,
        what: &What,
        mark: bool,
    ) -> Result<Vec<Write>> {
        let What::End(end) = what else {
            return Ok(Vec::new());
        };
        let news = self.news(lease, entry, end)?;
        let mut more = vec![news];
        if end.blame != Blame::Nobody {
            let token = lease.record.uuid("lease_token")?;
            let fate = Fate {
                address: &address(&entry.message),
                channel: entry.channel(),
                event: &format!("{}:{token}", lease.id),
                at: self.now(),
                state: DeliveryState::Failed,
                blame: end.blame,
            };
            more.extend(self.gate.follow(ctx, &[fate]).await?);
        }
        if mark && end.blame == Blame::Recipient {
            more.extend(self.mark_dead(ctx, entry).await?);
        }
        Ok(more)
    }

    /// The news for the customer's timeline. One lease makes one piece of news, whatever is repeated.
    fn news(&self, lease: &Lease, entry: &Entry, end: &End) -> Result<Write> {
        let token = lease.record.uuid("lease_token")?;
        let state = OutboxState::parse(lease.record.text("state")?).unwrap_or(end.state);
        let mut data = Attributes::default();
        let id = entry.message.message_id();
        data.set("message_id", id.to_string())?;
        data.set("purpose", entry.purpose.name.as_str())?;
        data.set("campaign", entry.campaign.clone())?;
        data.set("reason", end.reason.clone())?;
        if let Some(receipt) = &end.receipt {
            data.set("provider", receipt.provider.as_str())?;
            data.set("provider_ref", receipt.provider_ref.as_str())?;
        }
        let interaction = Interaction {
            id: self.ids.fresh().into(),
            customer_id: entry.customer,
            at: self.now(),
            kind: entry.news(end.found.unwrap_or(state.delivery())),
            source: "outbox".to_owned(),
            event_id: match end.found {
                None => format!("{id}:{token}"),
                Some(_) => format!("{id}:{token}:found"),
            },
            data,
        };
        Ok(Write::insert_or_skip(interaction.id, interaction.to_record()?))
    }

    /// The writes that mark the contact point as not working, where it is still there.
    async fn mark_dead(&self, ctx: &Context, entry: &Entry) -> Result<Vec<Write>> {
        let filter = Filter::eq("customer_id", entry.customer)
            .and(Filter::eq("value", entry.message.recipient()))
            .and(Filter::eq("kind", entry.contact_kind().as_str()));
        let page = self.store.find(ctx, &CONTACT_POINT, &Query::new(filter)).await?;
        let mut writes = Vec::new();
        for stored in page.items {
            let mut record = stored.record;
            record.set("state", ContactState::Invalid.as_str())?;
            writes.push(Write::update(stored.id, stored.version, record));
        }
        Ok(writes)
    }
}
