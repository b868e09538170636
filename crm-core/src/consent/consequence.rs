//! What follows for an address from what became of a message.

use serde_json::json;

use crate::customer::Address;
use crate::message::{Blame, Channel, DeliveryState};
use crate::record::{Field, FieldType, Record, Schema, Write};
use crate::{Context, Result, Timestamp, Uuid};

use super::key::named_id;
use super::{Gate, Suppression, SuppressionReason, SuppressionScope};

/// What follows for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consequence {
    /// Nothing.
    Nothing,
    /// It is suppressed for good, on the channel by which the message went.
    Suppress(SuppressionScope, SuppressionReason),
    /// It is counted; suppressed for a time when it happens again and again.
    Count,
    /// What was counted is forgotten: it works.
    Forget,
}

impl Consequence {
    /// What follows from how far a message came and whose fault it was: the one table for whoever learns about it.
    ///
    /// ```
    /// use crm_core::consent::Consequence;
    /// use crm_core::message::{Blame, DeliveryState};
    ///
    /// // We are on a block list: no reason to lose a single address.
    /// assert_eq!(Consequence::of(DeliveryState::Failed, Blame::Sender), Consequence::Nothing);
    /// assert_eq!(Consequence::of(DeliveryState::Failed, Blame::RecipientForNow), Consequence::Count);
    /// ```
    pub fn of(state: DeliveryState, blame: Blame) -> Self {
        let all = |reason| Self::Suppress(SuppressionScope::All, reason);
        match (state, blame) {
            (DeliveryState::Complained, _) => all(SuppressionReason::Complaint),
            (_, Blame::Recipient) => all(SuppressionReason::Undeliverable),
            (_, Blame::OptedOut) => {
                Self::Suppress(SuppressionScope::Marketing, SuppressionReason::Unsubscribed)
            }
            (_, Blame::RecipientForNow) => Self::Count,
            (DeliveryState::Delivered, _) => Self::Forget,
            _ => Self::Nothing,
        }
    }
}

/// News about what became of a message, as far as its address is concerned.
#[derive(Debug, Clone)]
pub struct Fate<'a> {
    /// To whom.
    pub address: &'a Address,
    /// By which channel.
    pub channel: Channel,
    /// What names the news: told twice, it counts once.
    pub event: &'a str,
    /// When it happened.
    pub at: Timestamp,
    /// How far the message came.
    pub state: DeliveryState,
    /// Whose fault it was.
    pub blame: Blame,
}

/// How failures that pass are stored: one record an address and channel, under the keyed hash of the address.
pub static SOFT_FAILURE: Schema = Schema {
    name: "crm_soft_failure",
    fields: &[
        Field::new("address_key", FieldType::Text).pseudonym(),
        Field::new("channel", FieldType::Text),
        // When, and by what news: `[[micros, name], ..]`.
        Field::new("failures", FieldType::Json).personal(),
        Field::new("updated_at", FieldType::Timestamp),
    ],
    indexes: &[],
};

impl Gate {
    /// The writes that carry out what follows from some news, to go into the unit of work that stores the news. Told
    /// again, they change nothing. On a [`crate::ErrorKind::Conflict`] somebody counted at the same time: ask again.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn follow(&self, ctx: &Context, news: &[Fate<'_>]) -> Result<Vec<Write>> {
        let mut writes = Vec::new();
        let mut counted: Vec<(Uuid, &Fate<'_>, Consequence)> = Vec::new();
        for fate in news {
            let address_key = self.key.of_address(fate.address);
            match Consequence::of(fate.state, fate.blame) {
                Consequence::Suppress(scope, reason) => {
                    let kind = fate.channel.contact_kind();
                    let suppression = Suppression::new(kind, address_key, scope, reason, self.clock.now());
                    writes.push(suppression.by(Some(fate.channel)).write()?);
                }
                Consequence::Nothing => {}
                consequence => {
                    let id = named_id(&["soft failure", &address_key, fate.channel.as_str()]);
                    counted.push((id, fate, consequence));
                }
            }
        }
        if !counted.is_empty() {
            writes.extend(self.count_failures(ctx, counted).await?);
        }
        Ok(writes)
    }

    async fn count_failures(
        &self,
        ctx: &Context,
        mut news: Vec<(Uuid, &Fate<'_>, Consequence)>,
    ) -> Result<Vec<Write>> {
        news.sort_by_key(|(id, fate, _)| (*id, fate.at));
        let mut ids: Vec<Uuid> = news.iter().map(|(id, ..)| *id).collect();
        ids.dedup();
        let stored = self.store.get(ctx, &SOFT_FAILURE, &ids).await?;
        let limits = self.rules.soft_failures;
        let now = self.clock.now();
        let mut writes = Vec::new();
        for (id, stored) in ids.into_iter().zip(stored) {
            let version = stored.as_ref().map(|stored| stored.version);
            let known: Vec<(i64, String)> = match &stored {
                Some(stored) => stored.record.json("failures")?,
                None => Vec::new(),
            };
            let mut failures = known.clone();
            let mut about = None;
            for (_, fate, consequence) in news.iter().filter(|(whose, ..)| *whose == id) {
                about = Some(*fate);
                if *consequence == Consequence::Forget {
                    failures.retain(|(at, _)| *at > fate.at.as_micros());
                } else if !failures.iter().any(|(_, name)| name == fate.event) {
                    failures.push((fate.at.as_micros(), fate.event.to_owned()));
                }
            }
            let Some(fate) = about else { continue };
            let since = now.minus(limits.per).as_micros();
            failures.retain(|(at, _)| *at > since);
            if failures == known {
                continue;
            }
            let address_key = self.key.of_address(fate.address);
            if failures.len() >= limits.most as usize && failures.len() > known.len() {
                let suppression = Suppression::new(
                    fate.channel.contact_kind(),
                    address_key.as_str(),
                    SuppressionScope::All,
                    SuppressionReason::Undeliverable,
                    now,
                );
                let until = now.plus(limits.suppressed_for);
                writes.push(suppression.by(Some(fate.channel)).until(Some(until)).write()?);
            }
            let record = Record::from_values(
                &SOFT_FAILURE,
                vec![
                    address_key.into(),
                    fate.channel.as_str().into(),
                    json!(failures).into(),
                    now.into(),
                ],
            )?;
            writes.push(match version {
                None if failures.is_empty() => continue,
                None => Write::insert(id, record),
                Some(version) if failures.is_empty() => Write::delete(&SOFT_FAILURE, id, Some(version)),
                Some(version) => Write::update(id, version, record),
            });
        }
        Ok(writes)
    }
}
