//! The end of a message, or its way back into the queue: every write is fenced by the lease's version.

use std::time::Duration;

use crm_core::activity::Interaction;
use crm_core::consent::{SuppressionReason, SuppressionScope};
use crm_core::customer::{Attributes, CONTACT_POINT, ContactKind, ContactState};
use crm_core::message::Receipt;
use crm_core::query::{Filter, Query};
use crm_core::record::{Entity, MAX_KEY_CHARS, Outcome, Value, Write};
use crm_core::{Context, Effect, Error, ErrorKind, Result, Retry};
use sha2::{Digest, Sha256};

use super::Dispatcher;
use super::report::Done;
use super::work::Lease;
use crate::outbox::{Entry, OUTBOX, OutboxState, delivery, join_delivery, resolved};

/// How the end of a message is described.
pub(super) struct End {
    state: OutboxState,
    reason: Option<String>,
    receipt: Option<Receipt>,
    /// The address itself is dead: it is suppressed and the contact point marked.
    pub(super) dead_address: bool,
}

impl End {
    pub(super) fn new(state: OutboxState, reason: impl Into<String>) -> Self {
        Self {
            state,
            reason: Some(short(reason.into())),
            receipt: None,
            dead_address: false,
        }
    }
    pub(super) fn by(state: OutboxState, receipt: Receipt) -> Self {
        Self {
            state,
            reason: None,
            receipt: Some(receipt),
            dead_address: false,
        }
    }
}

fn short(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(500) {
        text.truncate(end);
    }
    text
}

/// A vendor's reference as it can be looked up.
fn key(text: &str) -> String {
    text.chars().take(MAX_KEY_CHARS).collect()
}

/// The refusal a dispatcher gets that no longer holds the message.
fn lease_lost() -> Error {
    Error::conflict("the lease is gone: another dispatcher has the message").with("lease", "lost")
}

pub(super) fn is_lease_lost(error: &Error) -> bool {
    error.context("lease") == Some("lost")
}

impl Dispatcher {
    /// Writes the leased record at its version, with what belongs into the same unit of work.
    pub(super) async fn write(&self, ctx: &Context, lease: &mut Lease, more: &[Write]) -> Result<()> {
        loop {
            let mut writes = vec![Write::update(lease.id, lease.version, lease.record.clone())];
            writes.extend_from_slice(more);
            match self.store.apply(ctx, &writes).await {
                Ok(outcomes) => {
                    match outcomes.first() {
                        Some(Outcome::Written(version)) => lease.version = *version,
                        _ => lease.version += 1,
                    }
                    return Ok(());
                }
                Err(error)
                    if error.kind() == ErrorKind::Conflict
                        && error.context("schema") == Some(OUTBOX.name) =>
                {
                    if !self.still_held(ctx, lease).await? {
                        return Err(lease_lost());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the lease is ours although the record moved on: news about the message came in meanwhile
    /// ([`crate::Outreach::ingest`]). They are taken over, and nothing of them is overwritten.
    async fn still_held(&self, ctx: &Context, lease: &mut Lease) -> Result<bool> {
        let stored = self.store.get(ctx, &OUTBOX, &[lease.id]).await?;
        let Some(stored) = stored.into_iter().next().flatten() else {
            return Ok(false);
        };
        let theirs = &stored.record;
        let held = stored.version > lease.version
            && theirs.get("lease_token") == lease.record.get("lease_token")
            && theirs.text("state")? == OutboxState::Leased.as_str();
        if held {
            lease.version = stored.version;
            lease.record.set(
                "delivered_at",
                theirs.get("delivered_at").cloned().unwrap_or(Value::Null),
            )?;
            if let Some(news) = delivery(theirs)? {
                let known = join_delivery(&mut lease.record, news)?;
                let mine = OutboxState::parse(lease.record.text("state")?);
                let mine = mine.ok_or_else(|| lease.record.damaged("state"))?;
                let state = resolved(mine, lease.record.bool("maybe_sent")?, Some(known));
                if state != mine {
                    lease.record.set("state", state.as_str())?;
                    lease.record.set("finished_at", self.clock.now())?;
                }
            }
        }
        Ok(held)
    }

    /// [`Dispatcher::write`] for what must not get lost: tried again while the store fails for a moment.
    async fn insist(&self, ctx: &Context, lease: &mut Lease, more: &[Write]) -> Result<()> {
        let mut unsure = false;
        let mut waits = [50, 200, 800, 2000].into_iter();
        loop {
            let error = match self.write(ctx, lease, more).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if is_lease_lost(&error) && unsure {
                // An earlier answer was lost: it may be our own write that moved the version.
                let stored = self
                    .store
                    .get(ctx, &OUTBOX, &[lease.id])
                    .await?
                    .into_iter()
                    .next()
                    .flatten();
                let same = |field: &str| {
                    stored.as_ref().and_then(|s| s.record.get(field)) == lease.record.get(field)
                };
                return if same("lease_token") && same("state") && same("run_at") {
                    Ok(())
                } else {
                    Err(error)
                };
            }
            let passing = error.is_retryable() || error.effect() == Effect::Unknown;
            unsure |= error.effect() == Effect::Unknown;
            match waits.next() {
                Some(wait) if passing => tokio::time::sleep(Duration::from_millis(wait)).await,
                _ => return Err(error),
            }
        }
    }

    /// Ends the message: its state, the news on the timeline, and what follows for the address, all or nothing.
    pub(super) async fn end(
        &self,
        ctx: &Context,
        lease: &mut Lease,
        entry: &Entry,
        mut end: End,
    ) -> Result<Done> {
        // Never called failed while it may lie in the recipient's mailbox.
        if entry.maybe_sent
            && matches!(
                end.state,
                OutboxState::Dead | OutboxState::Failed | OutboxState::Refused
            )
        {
            end.state = OutboxState::Unknown;
        }
        end.state = resolved(end.state, entry.maybe_sent, entry.delivery);
        let now = self.clock.now();
        let record = &mut lease.record;
        record.set("state", end.state.as_str())?;
        record.set("lease_until", Value::Null)?;
        record.set("finished_at", now)?;
        record.set("last_error", end.reason.clone())?;
        if let Some(receipt) = &end.receipt {
            record.set("provider", receipt.provider.as_str())?;
            record.set("provider_ref", key(&receipt.provider_ref))?;
        }
        join_delivery(record, end.state.delivery())?;
        let mut more = vec![self.news(lease, entry, &end)?];
        if end.dead_address {
            let address = entry.email.to.address.as_str();
            let reason = SuppressionReason::Undeliverable;
            more.push(
                self.gate
                    .suppression(ContactKind::Email, address, SuppressionScope::All, reason)?,
            );
        }
        for _ in 0..3 {
            let mut writes = more.clone();
            if end.dead_address {
                writes.extend(self.mark_dead(ctx, entry).await?);
            }
            match self.insist(ctx, lease, &writes).await {
                // Somebody edited the contact point at the same time: read it again.
                Err(error)
                    if error.kind() == ErrorKind::Conflict
                        && error.context("schema") == Some(CONTACT_POINT.name) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    return Ok(match end.state {
                        OutboxState::Sent => Done::Sent,
                        OutboxState::Recorded => Done::Recorded,
                        OutboxState::Refused => Done::Refused,
                        OutboxState::Failed => Done::Failed,
                        OutboxState::Unknown => Done::Unknown,
                        OutboxState::Dead | OutboxState::Queued | OutboxState::Leased => Done::Dead,
                    });
                }
            }
        }
        // The message's own end counts more than the mark on its contact point; the suppression keeps it back anyway.
        self.insist(ctx, lease, &more).await?;
        Ok(if end.state == OutboxState::Unknown {
            Done::Unknown
        } else {
            Done::Failed
        })
    }

    /// The end of a record that cannot be read: nothing is known of its customer, so nothing goes on a timeline.
    pub(super) async fn end_unreadable(
        &self,
        ctx: &Context,
        lease: &mut Lease,
        error: &Error,
    ) -> Result<Done> {
        lease.record.set("state", OutboxState::Dead.as_str())?;
        lease.record.set("lease_until", Value::Null)?;
        lease.record.set("finished_at", self.clock.now())?;
        lease.record.set("last_error", short(error.to_string()))?;
        self.insist(ctx, lease, &[]).await?;
        Ok(Done::Dead)
    }

    /// Back into the queue, to be tried again after a wait that grows, is capped and spread (full jitter).
    pub(super) async fn retry(
        &self,
        ctx: &Context,
        lease: &mut Lease,
        entry: &Entry,
        error: &Error,
    ) -> Result<Done> {
        let jitter = self.jitter(lease, entry.attempt);
        let wait = match error.retry() {
            Retry::Allowed { after: Some(after) } => after.saturating_add(jitter),
            _ => jitter,
        };
        lease.record.set("state", OutboxState::Queued.as_str())?;
        lease.record.set("run_at", self.clock.now().plus(wait))?;
        lease.record.set("lease_until", Value::Null)?;
        lease.record.set("last_error", short(error.to_string()))?;
        self.insist(ctx, lease, &[]).await?;
        Ok(Done::Retried)
    }

    /// Back into the queue without using up a try.
    pub(super) async fn release(
        &self,
        ctx: &Context,
        lease: &mut Lease,
        done: Done,
        error: Option<&Error>,
    ) -> Result<Done> {
        let now = self.clock.now();
        let attempt = lease.record.int("attempt")?;
        let run_at = if matches!(done, Done::Paused(_)) {
            now.plus(self.settings.pause)
        } else {
            now
        };
        lease.record.set("state", OutboxState::Queued.as_str())?;
        lease.record.set("attempt", attempt.saturating_sub(1).max(0))?;
        lease.record.set("run_at", run_at)?;
        lease.record.set("lease_until", Value::Null)?;
        if let Some(error) = error {
            lease.record.set("last_error", short(error.to_string()))?;
        }
        self.insist(ctx, lease, &[]).await?;
        Ok(done)
    }

    /// Between nothing and `min(cap, base * 2^(attempt - 1))`, the same for the same seed, message and try. Full jitter
    /// keeps messages that failed together from coming back together.
    fn jitter(&self, lease: &Lease, attempt: i64) -> Duration {
        let doublings = u32::try_from(attempt.clamp(1, 32) - 1).unwrap_or(0);
        let base = self.settings.backoff_base.as_micros();
        let most = base
            .saturating_mul(1_u128 << doublings)
            .min(self.settings.backoff_cap.as_micros());
        let mut hash = Sha256::new();
        hash.update(self.settings.seed.to_be_bytes());
        hash.update(lease.id.as_bytes());
        hash.update(attempt.to_be_bytes());
        let random = hash
            .finalize()
            .iter()
            .take(8)
            .fold(0_u128, |n, byte| (n << 8) | u128::from(*byte));
        Duration::from_micros(u64::try_from(most * random / u128::from(u64::MAX)).unwrap_or(u64::MAX))
    }

    /// The news for the customer's timeline. One lease makes one piece of news, whatever is repeated.
    fn news(&self, lease: &Lease, entry: &Entry, end: &End) -> Result<Write> {
        let token = lease.record.uuid("lease_token")?;
        let mut data = Attributes::default();
        data.set("message_id", entry.email.id.to_string())?;
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
            at: self.clock.now(),
            kind: format!("mail.{}", end.state.delivery().as_str()),
            source: "outbox".to_owned(),
            event_id: format!("{}:{token}", entry.email.id),
            data,
        };
        Ok(Write::insert_or_skip(interaction.id, interaction.to_record()?))
    }

    /// The writes that mark the contact point as not working, where it is still there.
    async fn mark_dead(&self, ctx: &Context, entry: &Entry) -> Result<Vec<Write>> {
        let filter = Filter::eq("customer_id", entry.customer)
            .and(Filter::eq("value", entry.email.to.address.as_str()))
            .and(Filter::eq("kind", ContactKind::Email.as_str()));
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
