//! The end of a message, or its way back into the queue: gathered, and written together.

use std::time::Duration;

use crm_core::customer::CONTACT_POINT;
use crm_core::message::{Blame, DeliveryState, Receipt};
use crm_core::record::{MAX_KEY_CHARS, Record, Value, Write};
use crm_core::{Context, Effect, Error, ErrorKind, Result, Retry, Timestamp, Uuid};
use sha2::{Digest, Sha256};

use super::Dispatcher;
use super::begin::Job;
use super::commit::{Fate as Outcome, Lease, Unit};
use super::report::Done;
use crate::outbox::{Attempt, Entry, OutboxState, join_blame, join_delivery, json, resolved};

/// How many errors of a message are kept.
const HISTORY: usize = 10;

/// What is to happen with a claimed message.
#[derive(Debug)]
pub(super) enum What {
    End(End),
    /// To be tried again after a wait that grows, is capped and spread (full jitter).
    Retry {
        provider: Option<String>,
        error: Error,
    },
    /// To be tried from then on, without having used up a try.
    Snooze {
        at: Timestamp,
        why: String,
    },
    /// As [`What::Snooze`], because something that must be asked cannot be.
    Trouble(Timestamp),
    /// The provider's own trouble, not the message's: no try is used up.
    Pause {
        kind: ErrorKind,
        provider: Option<String>,
        error: String,
    },
    /// Untouched: the dispatcher stops.
    Release,
}

impl What {
    pub(super) fn snooze(at: Timestamp, why: &str) -> Self {
        Self::Snooze {
            at,
            why: why.to_owned(),
        }
    }
}

/// How the end of a message is described.
#[derive(Debug)]
pub(super) struct End {
    pub(super) state: OutboxState,
    pub(super) reason: Option<String>,
    pub(super) receipt: Option<Receipt>,
    /// Who is to blame, and so what follows for the address.
    pub(super) blame: Blame,
    /// Who was asked last.
    provider: Option<String>,
    /// The error that made it end goes into the history.
    error: bool,
    /// How far the vendor says it came, when it was asked afterwards.
    pub(super) found: Option<DeliveryState>,
}

impl End {
    pub(super) fn new(state: OutboxState, reason: impl Into<String>) -> Self {
        Self {
            state,
            reason: Some(short(reason.into())),
            receipt: None,
            blame: Blame::Nobody,
            provider: None,
            error: false,
            found: None,
        }
    }
    /// What the vendor said about a message whose answer was lost.
    pub(super) fn found(
        state: OutboxState,
        delivery: DeliveryState,
        receipt: Option<Receipt>,
        reason: Option<String>,
        blame: Blame,
    ) -> Self {
        Self {
            reason: reason.map(short),
            receipt,
            blame,
            found: Some(delivery),
            ..Self::new(state, "")
        }
    }
    pub(super) fn by(state: OutboxState, receipt: Receipt) -> Self {
        Self {
            receipt: Some(receipt),
            reason: None,
            ..Self::new(state, "")
        }
    }
    fn failed(state: OutboxState, provider: Option<String>, error: &Error) -> Self {
        let suppress = error.context("suppress") == Some("recipient");
        Self {
            blame: if suppress {
                Blame::Recipient
            } else {
                error.blamed()
            },
            provider,
            error: true,
            ..Self::new(state, error.to_string())
        }
    }
}

/// How it went with a message, and when it comes again if it does.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) id: Uuid,
    pub(super) done: Done,
    /// Its key among those that go in order.
    pub(super) order: Option<String>,
    pub(super) again: Option<Timestamp>,
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

fn remember(record: &mut Record, attempt: Attempt) -> Result<()> {
    let mut errors: Vec<Attempt> = record.json("errors").unwrap_or_default();
    errors.push(attempt);
    let more = errors.len().saturating_sub(HISTORY);
    errors.drain(..more);
    record.set("errors", json("errors", &errors)?)
}

impl Dispatcher {
    /// What an answer of a provider means for the message.
    pub(super) fn judge(
        &self,
        job: &mut Job,
        provider: Option<String>,
        answer: Result<(Receipt, bool)>,
    ) -> What {
        let error = match answer {
            Ok((receipt, true)) => return What::End(End::by(OutboxState::Sent, receipt)),
            Ok((receipt, false)) => return What::End(End::by(OutboxState::Recorded, receipt)),
            Err(error) => error,
        };
        let entry = &mut job.entry;
        let mut again = matches!(error.retry(), Retry::Allowed { .. } | Retry::Exhausted);
        if error.effect() == Effect::Unknown {
            entry.maybe_sent = true;
            if !entry.repeats() {
                return What::End(End::failed(OutboxState::Unknown, provider, &error));
            }
            again = true; // the same Message-ID lets the recipient's system recognise a repetition
        } else if matches!(
            error.kind(),
            ErrorKind::Unauthenticated | ErrorKind::Config | ErrorKind::Unsupported
        ) {
            if let Some(provider) = &provider {
                let until = self.now().plus(self.settings.pause);
                self.router.pause(entry.channel(), provider, until);
                tracing::error!(%error, provider, "a provider cannot be used and is left alone for a while");
            }
            return What::Pause {
                kind: error.kind(),
                provider,
                error: error.to_string(),
            };
        } else if error.kind() == ErrorKind::Cancelled {
            return What::Release;
        }
        if again && entry.attempt < entry.max_attempts {
            return What::Retry { provider, error };
        }
        let state = if again {
            OutboxState::Dead
        } else {
            OutboxState::Failed
        };
        What::End(End::failed(state, provider, &error))
    }

    /// Writes what is to happen with them, as one unit of work as long as nothing is in the way.
    pub(super) async fn settle(&self, ctx: &Context, ending: Vec<(Job, What)>) -> Vec<Settled> {
        let mut settled = Vec::with_capacity(ending.len());
        let mut open = Vec::with_capacity(ending.len());
        for (mut job, what) in ending {
            match self.prepare(ctx, &mut job, &what).await {
                Ok((more, done)) => open.push((Unit::new(job.lease, more), job.entry, what, done)),
                Err(error) => {
                    tracing::warn!(message = %job.lease.id, %error, "the message stays leased until its lease ends");
                    settled.push(self.settled(&job.lease, &job.entry, Done::StoreError));
                }
            }
        }
        for round in 0..4 {
            let (mut units, rest): (Vec<_>, Vec<_>) = open
                .into_iter()
                .map(|(unit, entry, what, done)| (unit, (entry, what, done)))
                .unzip();
            self.commit(ctx, &mut units).await;
            open = Vec::new();
            for (unit, (entry, what, done)) in units.into_iter().zip(rest) {
                match unit.fate {
                    Some(Outcome::Refused(error)) if round < 3 => {
                        // Somebody edited the contact point at the same time: it is read again. In the end the message's
                        // own end counts more than the mark; the suppression keeps it back anyway.
                        let mark = round < 2 && error.context("schema") == Some(CONTACT_POINT.name);
                        let more = self.more(ctx, &unit.lease, &entry, &what, mark).await;
                        open.push((Unit::new(unit.lease, more.unwrap_or_default()), entry, what, done));
                    }
                    fate => settled.push(self.fate(unit.lease, &entry, fate, done)),
                }
            }
            if open.is_empty() {
                break;
            }
        }
        settled
    }

    fn fate(&self, lease: Lease, entry: &Entry, fate: Option<Outcome>, done: Done) -> Settled {
        let done = match fate {
            // News from outside may have said more than we knew.
            Some(Outcome::Written) => match lease.record.text("state").ok().and_then(OutboxState::parse) {
                Some(OutboxState::Sent) if done != Done::Sent => Done::Sent,
                Some(OutboxState::Failed) if done != Done::Failed => Done::Failed,
                _ => done,
            },
            Some(Outcome::Lost) => {
                tracing::warn!(message = %lease.id, "somebody else has the message now; nothing was overwritten");
                Done::LeaseLost
            }
            Some(Outcome::Refused(error)) => {
                tracing::warn!(message = %lease.id, %error, "the message stays leased until its lease ends");
                Done::StoreError
            }
            Some(Outcome::Failed) | None => {
                tracing::warn!(message = %lease.id, "the message stays leased until its lease ends");
                Done::StoreError
            }
        };
        self.settled(&lease, entry, done)
    }

    fn settled(&self, lease: &Lease, entry: &Entry, done: Done) -> Settled {
        let again = match done {
            Done::Retried | Done::Snoozed | Done::Paused(_) | Done::Released => {
                lease.record.timestamp("run_at").ok()
            }
            Done::LeaseLost | Done::StoreError => Some(self.lease_end(self.now())),
            _ => None,
        };
        Settled {
            id: lease.id,
            done,
            order: entry.order.as_ref().map(|place| place.key.clone()),
            again,
        }
    }

    /// Sets the record as it is to be written; answers what goes with it.
    async fn prepare(&self, ctx: &Context, job: &mut Job, what: &What) -> Result<(Vec<Write>, Done)> {
        let (now, entry) = (self.now(), &job.entry);
        let begun = entry.send_started_at.is_some();
        let attempt = |provider: &Option<String>, error: String| Attempt {
            at: now,
            attempt: entry.attempt,
            provider: provider.clone(),
            error: short(error),
        };
        let record = &mut job.lease.record;
        record.set("maybe_sent", entry.maybe_sent)?;
        record.set("lease_until", Value::Null)?;
        if let What::End(end) = what {
            let mut state = end.state;
            // Never called failed while it may lie in the recipient's mailbox.
            let unsent = matches!(
                state,
                OutboxState::Dead
                    | OutboxState::Failed
                    | OutboxState::Refused
                    | OutboxState::Expired
                    | OutboxState::Cancelled
            );
            if entry.maybe_sent && unsent {
                state = OutboxState::Unknown;
            }
            state = resolved(state, entry.maybe_sent, entry.delivery);
            record.set("state", state.as_str())?;
            record.set("finished_at", now)?;
            record.set("last_error", end.reason.clone())?;
            if let (true, Some(reason)) = (end.error, &end.reason) {
                remember(record, attempt(&end.provider, reason.clone()))?;
            }
            if let Some(provider) = &end.provider {
                record.set("provider", provider.as_str())?;
            }
            if let Some(receipt) = &end.receipt {
                record.set("provider", receipt.provider.as_str())?;
                record.set("provider_ref", key(&receipt.provider_ref))?;
                record.set("receipt", json("receipt", receipt)?)?;
            }
            join_delivery(record, end.found.unwrap_or(state.delivery()))?;
            join_blame(record, end.blame)?;
            let more = self.more(ctx, &job.lease, entry, what, true).await?;
            let done = match state {
                OutboxState::Sent => Done::Sent,
                OutboxState::Recorded => Done::Recorded,
                OutboxState::Refused => Done::Refused,
                OutboxState::Failed => Done::Failed,
                OutboxState::Unknown => Done::Unknown,
                OutboxState::Expired => Done::Expired,
                OutboxState::Cancelled => Done::Cancelled,
                OutboxState::Dead | OutboxState::Queued | OutboxState::Leased | OutboxState::Held => {
                    Done::Dead
                }
            };
            return Ok((more, done));
        }
        record.set("state", OutboxState::Queued.as_str())?;
        record.set("send_started_at", Value::Null)?;
        let tries = match what {
            What::Retry { .. } => entry.attempt,
            _ => (entry.attempt - i64::from(begun)).max(0),
        };
        record.set("attempt", tries)?;
        let done = match what {
            What::Retry { provider, error } => {
                let jitter = self.jitter(&job.lease.id, entry.attempt);
                let wait = match error.retry() {
                    Retry::Allowed { after: Some(after) } => after.saturating_add(jitter),
                    _ => jitter,
                };
                record.set("run_at", now.plus(wait))?;
                record.set("last_error", short(error.to_string()))?;
                record.set("crash_count", 0_i64)?; // it came back
                record.set("rescues", 0_i64)?;
                remember(record, attempt(provider, error.to_string()))?;
                Done::Retried
            }
            What::Snooze { at, why } => {
                let snoozes = record.get("snoozes").and_then(Value::as_int).unwrap_or(0);
                record.set("snoozes", snoozes + 1)?;
                record.set("run_at", *at)?;
                record.set("last_error", short(why.clone()))?;
                Done::Snoozed
            }
            What::Trouble(at) => {
                record.set("run_at", *at)?;
                Done::StoreError
            }
            What::Pause {
                kind,
                provider,
                error,
            } => {
                record.set("run_at", now.plus(self.settings.pause))?;
                record.set("last_error", short(error.clone()))?;
                remember(record, attempt(provider, error.clone()))?;
                Done::Paused(*kind)
            }
            What::Release | What::End(_) => Done::Released,
        };
        Ok((Vec::new(), done))
    }

    /// The end of a record that cannot be read: nothing is known of its customer, so nothing goes on a timeline.
    pub(super) async fn end_unreadable(&self, ctx: &Context, mut lease: Lease, error: &Error) -> Done {
        let now = self.now();
        let set = |record: &mut Record| -> Result<()> {
            record.set("state", OutboxState::Dead.as_str())?;
            record.set("lease_until", Value::Null)?;
            record.set("finished_at", now)?;
            record.set("last_error", short(error.to_string()))
        };
        if set(&mut lease.record).is_err() {
            return Done::StoreError;
        }
        let mut units = [Unit::new(lease, Vec::new())];
        self.commit(ctx, &mut units).await;
        match units.into_iter().next().and_then(|unit| unit.fate) {
            Some(Outcome::Written) => Done::Dead,
            Some(Outcome::Lost) => Done::LeaseLost,
            _ => Done::StoreError,
        }
    }

    /// Between nothing and `min(cap, base * 2^(attempt - 1))`, the same for the same seed, message and try. Full jitter
    /// keeps messages that failed together from coming back together.
    fn jitter(&self, id: &Uuid, attempt: i64) -> Duration {
        let doublings = u32::try_from(attempt.clamp(1, 32) - 1).unwrap_or(0);
        let base = self.settings.backoff_base.as_micros();
        let most = base
            .saturating_mul(1_u128 << doublings)
            .min(self.settings.backoff_cap.as_micros());
        let mut hash = Sha256::new();
        hash.update(self.settings.seed.to_be_bytes());
        hash.update(id.as_bytes());
        hash.update(attempt.to_be_bytes());
        let random = hash
            .finalize()
            .iter()
            .take(8)
            .fold(0_u128, |n, byte| (n << 8) | u128::from(*byte));
        Duration::from_micros(u64::try_from(most * random / u128::from(u64::MAX)).unwrap_or(u64::MAX))
    }
}
