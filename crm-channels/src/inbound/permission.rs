//! What comes in and touches permission: who stops, who starts again.

use std::collections::BTreeMap;

use crm_core::consent::{
    ConsentAction, ConsentEvent, Evidence, Suppression, SuppressionReason, SuppressionScope,
};
use crm_core::customer::{ContactKind, CustomerId};
use crm_core::message::Channel;
use crm_core::query::{Filter, Query};
use crm_core::record::{Entity, Write};
use crm_core::{Context, Result, Timestamp};

use crate::Outreach;

/// All that is on record about one address.
pub(super) struct Standing {
    pub(super) suppressions: Vec<Suppression>,
    pub(super) events: Vec<ConsentEvent>,
}

impl Standing {
    /// The newest word of each customer about each purpose, as far as it concerns a channel.
    pub(super) fn newest(&self, channel: Channel) -> BTreeMap<(&str, CustomerId), &ConsentEvent> {
        let mut newest: BTreeMap<_, &ConsentEvent> = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.concerns(channel)) {
            let known = newest
                .entry((event.purpose.as_str(), event.customer_id))
                .or_insert(event);
            if (event.at, event.action) >= (known.at, known.action) {
                *known = event;
            }
        }
        newest
    }

    /// Whether the last word about a purpose, whoever said it, is a no to every channel.
    pub(super) fn is_withdrawn(&self, purpose: &str) -> bool {
        let about = || self.events.iter().filter(|event| event.purpose == purpose);
        let no = about()
            .filter(|e| !e.action.agrees() && e.channel.is_none())
            .map(|e| e.at)
            .max();
        let yes = about().filter(|e| e.action.agrees()).map(|e| e.at).max();
        no.is_some_and(|no| yes.is_none_or(|yes| yes <= no))
    }

    /// Whether the person asked to be forgotten: such a one is not brought back by a message or a page.
    pub(super) fn is_erased(&self) -> bool {
        self.suppressions
            .iter()
            .any(|s| s.reason == SuppressionReason::Erased)
    }
}

/// Whose word it is, and about which address.
#[derive(Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) customer: CustomerId,
    pub(super) kind: ContactKind,
    pub(super) address_key: &'a str,
}

/// What somebody says about a purpose.
pub(super) struct Word<'a> {
    pub(super) purpose: &'a str,
    /// The one channel it is about; all of them when absent.
    pub(super) channel: Option<Channel>,
    pub(super) action: ConsentAction,
    pub(super) evidence: Evidence,
    pub(super) at: Timestamp,
}

impl Outreach {
    /// Reads what is on record about an address.
    pub(super) async fn standing(&self, ctx: &Context, address_key: &str) -> Result<Standing> {
        Ok(Standing {
            suppressions: self.every(ctx, address_key).await?,
            events: self.every(ctx, address_key).await?,
        })
    }

    async fn every<E: Entity>(&self, ctx: &Context, address_key: &str) -> Result<Vec<E>> {
        let mut query = Query::new(Filter::eq("address_key", address_key)).limit(1000);
        let mut all = Vec::new();
        loop {
            let page = self.store.find(ctx, E::schema(), &query).await?;
            for stored in page.items {
                all.push(E::from_stored(stored)?);
            }
            match page.next {
                Some(next) => query = query.after(Some(next)),
                None => return Ok(all),
            }
        }
    }

    /// The write that records a word about a purpose.
    pub(super) fn said(&self, ctx: &Context, who: Who<'_>, word: Word<'_>) -> Result<Write> {
        let Word {
            purpose,
            channel,
            action,
            mut evidence,
            at,
        } = word;
        evidence.actor.get_or_insert_with(|| ctx.acting().clone());
        let event = ConsentEvent {
            id: self.ids.fresh().into(),
            purpose: purpose.to_owned(),
            kind: who.kind,
            address_key: who.address_key.to_owned(),
            customer_id: who.customer,
            action,
            at,
            expires_at: None,
            channel,
            basis: None,
            evidence,
        };
        Ok(Write::insert_or_skip(event.id, event.to_record()?))
    }

    /// What keeps an address back because its owner said so.
    pub(super) fn unsubscribed(
        &self,
        who: Who<'_>,
        scope: SuppressionScope,
        channel: Option<Channel>,
    ) -> Suppression {
        let reason = SuppressionReason::Unsubscribed;
        Suppression::new(who.kind, who.address_key, scope, reason, self.clock.now()).by(channel)
    }
}
