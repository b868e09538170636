//! What is stored about those who would get a message, read with one question a kind of record.

use std::collections::{BTreeSet, HashMap};

use crate::customer::{CONTACT_POINT, CUSTOMER_ALIAS, ContactKind, ContactState, CustomerId};
use crate::query::Filter;
use crate::{Context, Result, Timestamp, Uuid};

use super::gate::Gate;
use super::{ConsentEvent, ConsentState, Purpose, Recipient, Suppression};

/// Who was merged into a customer, and when the last of them.
#[derive(Debug, Default)]
pub(super) struct Merged(HashMap<CustomerId, (Vec<CustomerId>, Timestamp)>);

impl Merged {
    pub(super) async fn load(gate: &Gate, ctx: &Context, customers: BTreeSet<Uuid>) -> Result<Self> {
        let mut merged: HashMap<_, (Vec<CustomerId>, Timestamp)> = HashMap::new();
        let filter = Filter::one_of("customer_id", customers);
        for stored in gate.stored(ctx, &CUSTOMER_ALIAS, filter).await? {
            let into: CustomerId = stored.record.uuid("customer_id")?.into();
            let at = stored.record.timestamp("created_at")?;
            let (members, last) = merged.entry(into).or_insert((Vec::new(), at));
            members.push(stored.id.into());
            *last = at.max(*last);
        }
        Ok(Self(merged))
    }

    pub(super) fn state(
        &self,
        events: &[ConsentEvent],
        customer: CustomerId,
        now: Timestamp,
    ) -> ConsentState {
        match self.0.get(&customer) {
            None => ConsentState::derive(events, customer, now),
            Some((members, at)) => ConsentState::derive_merged(events, customer, members, *at, now),
        }
    }
}

/// One question to the gate.
pub(super) struct Asked<'a> {
    pub(super) recipient: Recipient,
    pub(super) purpose: &'a Purpose,
    /// The keyed hash of the address.
    pub(super) key: String,
}

/// All that is stored about a chunk of recipients.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) contacts: HashMap<(CustomerId, ContactKind, String), ContactState>,
    pub(super) suppressions: HashMap<String, Vec<Suppression>>,
    /// By address and purpose.
    pub(super) consents: HashMap<(String, String), Vec<ConsentEvent>>,
    pub(super) merged: Merged,
}

impl Facts {
    pub(super) async fn load(gate: &Gate, ctx: &Context, asked: &[Asked<'_>]) -> Result<Self> {
        let mut facts = Self::default();
        let customers: BTreeSet<Uuid> = asked.iter().map(|a| a.recipient.customer.uuid()).collect();
        let keys: BTreeSet<&str> = asked.iter().map(|a| a.key.as_str()).collect();
        let consented: Vec<&Asked<'_>> = asked.iter().filter(|a| a.purpose.needs_consent()).collect();
        for stored in gate
            .stored(
                ctx,
                &CONTACT_POINT,
                Filter::one_of("customer_id", customers.clone()),
            )
            .await?
        {
            let r = &stored.record;
            let kind = r.text("kind")?.parse().map_err(|_| r.damaged("kind"))?;
            let state = r.text("state")?.parse().map_err(|_| r.damaged("state"))?;
            facts.contacts.insert(
                (r.uuid("customer_id")?.into(), kind, r.text("value")?.to_owned()),
                state,
            );
        }
        for suppression in gate
            .all::<Suppression>(ctx, Filter::one_of("address_key", keys))
            .await?
        {
            facts
                .suppressions
                .entry(suppression.address_key.clone())
                .or_default()
                .push(suppression);
        }
        if !consented.is_empty() {
            facts.merged = Merged::load(
                gate,
                ctx,
                consented.iter().map(|a| a.recipient.customer.uuid()).collect(),
            )
            .await?;
            let keys: BTreeSet<&str> = consented.iter().map(|a| a.key.as_str()).collect();
            let purposes: BTreeSet<&str> = consented.iter().map(|a| a.purpose.name.as_str()).collect();
            let filter = Filter::one_of("address_key", keys).and(Filter::one_of("purpose", purposes));
            for event in gate.all::<ConsentEvent>(ctx, filter).await? {
                facts
                    .consents
                    .entry((event.address_key.clone(), event.purpose.clone()))
                    .or_default()
                    .push(event);
            }
        }
        Ok(facts)
    }

    pub(super) fn state(&self, asked: &Asked<'_>, now: Timestamp) -> ConsentState {
        let events = self
            .consents
            .get(&(asked.key.clone(), asked.purpose.name.clone()))
            .map_or(&[][..], Vec::as_slice);
        self.merged.state(events, asked.recipient.customer, now)
    }
}
