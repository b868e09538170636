//! What somebody wants to get, as a page shows it.

use std::collections::BTreeSet;

use crate::customer::{Address, CONTACT_POINT, ContactKind, CustomerId, EmailAddress, PhoneNumber};
use crate::message::Channel;
use crate::query::Filter;
use crate::{Context, Result};

use super::facts::Merged;
use super::{ConsentEvent, ConsentState, Gate, Recipient, RegisteredPurpose, Suppression};

/// What one person wants for one purpose by one channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Preference {
    /// The purpose, as it is on record.
    pub purpose: RegisteredPurpose,
    /// The channel.
    pub channel: Channel,
    /// Where the consent stands.
    pub state: ConsentState,
    /// The suppression that keeps it back, if one does.
    pub suppression: Option<Suppression>,
    /// Whether messages go out: now, as far as consent and suppressions are concerned.
    pub on: bool,
}

/// What one person wants at one address.
#[derive(Debug, Clone, PartialEq)]
pub struct Preferences {
    /// The address.
    pub address: Address,
    /// For every purpose on record and every channel that reaches it, by purpose and channel.
    pub choices: Vec<Preference>,
}

impl Gate {
    /// What a customer wants, at each of their addresses: for every purpose on record and every channel.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn preferences(&self, ctx: &Context, customer: CustomerId) -> Result<Vec<Preferences>> {
        let mut all = Vec::new();
        let mut points = self
            .stored(ctx, &CONTACT_POINT, Filter::eq("customer_id", customer))
            .await?;
        points.sort_by_key(|point| point.id);
        for point in points {
            let r = &point.record;
            let value = r.text("value")?;
            let kind: ContactKind = r.text("kind")?.parse().map_err(|_| r.damaged("kind"))?;
            let address = match kind {
                ContactKind::Email => EmailAddress::parse(value).map(Address::Email),
                ContactKind::Phone => PhoneNumber::parse(value, None).map(Address::Phone),
            };
            let address = address.map_err(|_| r.damaged("value"))?;
            all.push(self.preferences_at(ctx, customer, &address).await?);
        }
        Ok(all)
    }

    /// What a customer wants at one address, whether it is stored as theirs or not.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn preferences_at(
        &self,
        ctx: &Context,
        customer: CustomerId,
        address: &Address,
    ) -> Result<Preferences> {
        let key = self.key.of_address(address);
        let kind = Recipient::new(customer, address).kind();
        let purposes = self.purposes(ctx).await?;
        let events: Vec<ConsentEvent> = self.all(ctx, Filter::eq("address_key", key.as_str())).await?;
        let suppressions: Vec<Suppression> = self.all(ctx, Filter::eq("address_key", key.as_str())).await?;
        let merged = Merged::load(self, ctx, BTreeSet::from([customer.uuid()])).await?;
        let now = self.clock.now();
        let mut choices = Vec::new();
        for registered in &purposes {
            let purpose = &registered.purpose;
            let about: Vec<&ConsentEvent> = events.iter().filter(|e| e.purpose == purpose.name).collect();
            for channel in Channel::ALL.into_iter().filter(|c| c.contact_kind() == kind) {
                let state = merged.state(about.iter().copied(), customer, purpose, channel, now);
                let suppression = suppressions.iter().find(|s| s.covers(purpose, channel, now));
                choices.push(Preference {
                    purpose: registered.clone(),
                    channel,
                    on: suppression.is_none() && super::rules::agrees(purpose, &state),
                    state,
                    suppression: suppression.cloned(),
                });
            }
        }
        Ok(Preferences {
            address: address.clone(),
            choices,
        })
    }
}
