//! Where a campaign stands.

use std::collections::BTreeMap;

use crm_core::message::{Channel, DeliveryState, MessageId};
use crm_core::query::{Aggregate, Filter, Measure, Query};
use crm_core::{Context, Result};

use super::Campaigns;
use super::preview::CampaignPreview;
use super::stored::CampaignState;
use crate::outbox::{OUTBOX, OutboxState};

/// What a refusal's reason begins with: the rules of the gate, and what the dispatcher says of campaigns.
const REASONS: [&str; 9] = [
    "purpose",
    "contact",
    "suppression",
    "consent",
    "quiet hours",
    "frequency",
    "audience",
    "campaign",
    "cancelled",
];

/// Counts of messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Tally {
    /// All of them.
    pub messages: u64,
    /// By state in the outbox.
    pub states: BTreeMap<OutboxState, u64>,
    /// By how far they are known to have come.
    pub delivery: BTreeMap<DeliveryState, u64>,
}

impl Tally {
    fn add(&mut self, state: Option<OutboxState>, delivery: Option<DeliveryState>, count: u64) {
        self.messages += count;
        if let Some(state) = state {
            *self.states.entry(state).or_default() += count;
        }
        if let Some(delivery) = delivery {
            *self.delivery.entry(delivery).or_default() += count;
        }
    }

    /// How many are in a state.
    pub fn count(&self, state: OutboxState) -> u64 {
        self.states.get(&state).copied().unwrap_or(0)
    }

    /// How many came so far.
    pub fn came(&self, delivery: DeliveryState) -> u64 {
        self.delivery.get(&delivery).copied().unwrap_or(0)
    }

    /// How many were taken or refused by the other side: those of which something is known.
    pub fn known(&self) -> u64 {
        use DeliveryState::{Accepted, Complained, Delivered, Failed};
        [Accepted, Delivered, Failed, Complained]
            .map(|state| self.came(state))
            .iter()
            .sum()
    }

    /// The share that did not arrive, of those of which something is known.
    pub fn bounce_rate(&self) -> f64 {
        share(self.came(DeliveryState::Failed), self.known())
    }

    /// The share that was complained about, of those of which something is known.
    pub fn complaint_rate(&self) -> f64 {
        share(self.came(DeliveryState::Complained), self.known())
    }
}

fn share(part: u64, all: u64) -> f64 {
    match all {
        0 => 0.0,
        all => part as f64 / all as f64,
    }
}

/// Where a campaign stands.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct CampaignStatus {
    /// Where it stands; nothing for messages of a name that is no campaign's.
    pub state: Option<CampaignState>,
    /// Why it is paused or cancelled.
    pub reason: Option<String>,
    /// Who was found when it was queued, and why others get nothing.
    pub found: CampaignPreview,
    /// Whether all members were gone through.
    pub queued: bool,
    /// How many messages are in each state; states without any are left out.
    pub counts: BTreeMap<OutboxState, u64>,
    /// All messages.
    pub all: Tally,
    /// By channel.
    pub channels: BTreeMap<Channel, Tally>,
    /// By variant.
    pub variants: BTreeMap<String, Tally>,
    /// Why messages were queued and not sent, by the rule that said so.
    pub refusals: BTreeMap<String, u64>,
    /// Those that may have been sent, to be looked into: at most 1,000 of them.
    pub unknown: Vec<MessageId>,
}

impl CampaignStatus {
    /// How many messages are in a state.
    pub fn count(&self, state: OutboxState) -> u64 {
        self.counts.get(&state).copied().unwrap_or(0)
    }

    /// True when nothing of it waits any more.
    pub fn is_finished(&self) -> bool {
        self.counts.keys().all(|state| state.is_final())
    }
}

impl Campaigns {
    /// Where a campaign stands: its messages by state, channel and variant, how far they came, and which outcomes are not
    /// known.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn status(&self, ctx: &Context, name: &str) -> Result<CampaignStatus> {
        let store = &self.outreach.store;
        let mut status = CampaignStatus::default();
        if let Some((_, run)) = self.found(ctx, name).await? {
            status.state = Some(run.state);
            status.reason = run.reason;
            status.found = run.found;
            status.queued = run.queued;
        }
        let of = Filter::eq("campaign", name);
        let groups = Aggregate::new(of.clone())
            .by("channel")
            .by("variant")
            .by("state")
            .by("delivery")
            .measure("messages", Measure::Count);
        let table = store.aggregate(ctx, &OUTBOX, &groups).await?;
        let column = |name: &str| table.column(name);
        let (channel, variant) = (column("channel")?, column("variant")?);
        let (state, delivery) = (column("state")?, column("delivery")?);
        let messages = column("messages")?;
        for row in 0..table.rows() {
            let count = messages.value(row).as_int().unwrap_or(0).unsigned_abs();
            let state = state.text_at(row).and_then(OutboxState::parse);
            let delivery = delivery.text_at(row).and_then(|text| text.parse().ok());
            status.all.add(state, delivery, count);
            if let Some(channel) = channel.text_at(row).and_then(|text| text.parse().ok()) {
                let tally: &mut Tally = status.channels.entry(channel).or_default();
                tally.add(state, delivery, count);
            }
            if let Some(variant) = variant.text_at(row) {
                let tally = status.variants.entry(variant.to_owned()).or_default();
                tally.add(state, delivery, count);
            }
        }
        status.counts.clone_from(&status.all.states);
        let refused = [OutboxState::Refused, OutboxState::Cancelled];
        if refused.iter().any(|state| status.count(*state) > 0) {
            let refused = of
                .clone()
                .and(Filter::one_of("state", refused.map(OutboxState::as_str)));
            for reason in REASONS {
                let filter = refused
                    .clone()
                    .and(Filter::prefix("last_error", format!("{reason}:")));
                let count = store.count(ctx, &OUTBOX, &filter).await?;
                if count > 0 {
                    status.refusals.insert(reason.to_owned(), count);
                }
            }
        }
        if status.count(OutboxState::Unknown) > 0 {
            let unknown = of.and(Filter::eq("state", OutboxState::Unknown.as_str()));
            let page = store.find(ctx, &OUTBOX, &Query::new(unknown).limit(1000)).await?;
            status.unknown = page.items.iter().map(|stored| stored.id.into()).collect();
        }
        Ok(status)
    }
}
