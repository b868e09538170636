//! One message from claim to end.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use crm_core::consent::PurposeClass;
use crm_core::message::{DeliveryState, Email, MessageId, Permitted, Receipt};
use crm_core::record::{Record, Stored, Value, Version};
use crm_core::{Context, Effect, Error, ErrorKind, Result, Retry, Uuid};

use super::report::Done;
use super::settle::{End, is_lease_lost};
use super::{Batch, Dispatcher, Mode};
use crate::outbox::{Entry, OutboxState, resolved};

/// A message that takes its process down this often is given up.
const POISON: i64 = 3;

/// A claimed record and the version that fences it.
pub(super) struct Lease {
    pub(super) id: Uuid,
    pub(super) version: Version,
    pub(super) record: Record,
}

impl Dispatcher {
    pub(super) async fn work(
        &self,
        ctx: &Context,
        batch: &Batch,
        stop: &AtomicBool,
        stored: Stored,
    ) -> (MessageId, Done) {
        let id = stored.id;
        let mut lease = Lease {
            id,
            version: stored.version,
            record: stored.record,
        };
        let done = match self.handle(ctx, batch, stop, &mut lease).await {
            Ok(done) => done,
            Err(error) if is_lease_lost(&error) => {
                tracing::warn!(message = %id, "another dispatcher took the message over; nothing was overwritten");
                Done::LeaseLost
            }
            Err(error) => {
                tracing::warn!(message = %id, %error, "the message stays leased until its lease ends");
                Done::StoreError
            }
        };
        (id.into(), done)
    }

    async fn handle(
        &self,
        ctx: &Context,
        batch: &Batch,
        stop: &AtomicBool,
        lease: &mut Lease,
    ) -> Result<Done> {
        let mut entry = match Entry::read(&lease.record) {
            Ok(entry) => entry,
            Err(error) => return self.end_unreadable(ctx, lease, &error).await,
        };
        if entry.send_started_at.is_some() {
            // Its dispatcher died while sending: nobody knows how far it came.
            entry.maybe_sent = true;
            lease.record.set("maybe_sent", true)?;
            lease.record.set("send_started_at", Value::Null)?;
            if entry.purpose.class == PurposeClass::Marketing {
                let why = "the dispatcher died while sending; not repeated";
                return self
                    .end(ctx, lease, &entry, End::new(OutboxState::Unknown, why))
                    .await;
            }
        }
        let known = resolved(OutboxState::Queued, entry.maybe_sent, entry.delivery);
        if known != OutboxState::Queued {
            let why = "its answer was lost, but news about it came in; not repeated";
            return self.end(ctx, lease, &entry, End::new(known, why)).await;
        }
        if entry.crash_count >= POISON {
            let why = format!("poison: it took its dispatcher down {} times", entry.crash_count);
            return self
                .end(ctx, lease, &entry, End::new(OutboxState::Dead, why))
                .await;
        }
        // Held until the message is settled: the limit counts the whole way.
        let _slot = match self.keeping(ctx, lease, batch.slots.acquire()).await? {
            Ok(slot) => slot,
            Err(_) => return self.release(ctx, lease, Done::Released, None).await,
        };
        if stop.load(Ordering::Relaxed) || batch.stop.load(Ordering::Relaxed) {
            return self.release(ctx, lease, Done::Released, None).await;
        }
        let asked = self
            .gate
            .permit(ctx, entry.email.clone(), &entry.purpose, entry.customer);
        let permitted = match self.keeping(ctx, lease, asked).await? {
            Ok(permitted) => permitted,
            Err(error) if error.kind() == ErrorKind::Refused => {
                let end = End::new(OutboxState::Refused, error.message().to_owned());
                return self.end(ctx, lease, &entry, end).await;
            }
            Err(error) if error.kind() == ErrorKind::Invalid => {
                return self
                    .end(
                        ctx,
                        lease,
                        &entry,
                        End::new(OutboxState::Failed, error.to_string()),
                    )
                    .await;
            }
            Err(error) => {
                self.release(ctx, lease, Done::Released, None).await?;
                return Err(error);
            }
        };
        let decision = serde_json::to_value(permitted.decision())
            .map_err(|e| Error::unexpected("a decision cannot be written as JSON").source(e))?;
        lease.record.set("decision", decision)?;
        if self.mode == Mode::Record && self.mailers.is_empty() {
            let end = End::new(OutboxState::Recorded, "recorded: the mode is not live");
            return self.end(ctx, lease, &entry, end).await;
        }
        // From here on a crash leaves a mark: the message may have gone out.
        let now = self.clock.now();
        lease.record.set("send_started_at", now)?;
        lease.record.set("lease_until", self.lease_end(now))?;
        self.write(ctx, lease, &[]).await?;
        let sending = self.hand_over(ctx, &permitted);
        match self.keeping(ctx, lease, sending).await? {
            Ok((receipt, live)) => {
                let state = if live {
                    OutboxState::Sent
                } else {
                    OutboxState::Recorded
                };
                self.end(ctx, lease, &entry, End::by(state, receipt)).await
            }
            Err(error) => self.settle(ctx, batch, lease, entry, error).await,
        }
    }

    /// The best mailer, or the next one where that cannot double the message ([`crm_core::registry::Pool::run`]).
    async fn hand_over(&self, ctx: &Context, permitted: &Permitted<Email>) -> Result<(Receipt, bool)> {
        self.mailers
            .run(|mailer| async move {
                let live = mailer.capability().live;
                mailer.send(ctx, permitted).await.map(|receipt| (receipt, live))
            })
            .await
    }

    /// What an error of the mailer means for the message.
    async fn settle(
        &self,
        ctx: &Context,
        batch: &Batch,
        lease: &mut Lease,
        mut entry: Entry,
        error: Error,
    ) -> Result<Done> {
        lease.record.set("send_started_at", Value::Null)?;
        let mut again = matches!(error.retry(), Retry::Allowed { .. } | Retry::Exhausted);
        if error.effect() == Effect::Unknown {
            entry.maybe_sent = true;
            lease.record.set("maybe_sent", true)?;
            if entry.purpose.class == PurposeClass::Marketing {
                return self
                    .end(
                        ctx,
                        lease,
                        &entry,
                        End::new(OutboxState::Unknown, error.to_string()),
                    )
                    .await;
            }
            again = true; // the same Message-ID lets the recipient's system recognise a repetition
        } else if matches!(
            error.kind(),
            ErrorKind::Unauthenticated | ErrorKind::Config | ErrorKind::Unsupported
        ) {
            // The mailer's own trouble, not the message's: no try is used up, and no log-in is hammered.
            batch.stop.store(true, Ordering::Relaxed);
            tracing::error!(%error, "sending pauses: the mailer cannot be used");
            return self
                .release(ctx, lease, Done::Paused(error.kind()), Some(&error))
                .await;
        } else if error.kind() == ErrorKind::Cancelled {
            return self.release(ctx, lease, Done::Released, Some(&error)).await;
        }
        if again && entry.attempt < entry.max_attempts {
            return self.retry(ctx, lease, &entry, &error).await;
        }
        let state = if again {
            OutboxState::Dead
        } else {
            OutboxState::Failed
        };
        let mut end = End::new(state, error.to_string());
        end.dead_address = error.context("suppress") == Some("recipient");
        self.end(ctx, lease, &entry, end).await
    }

    /// Does `work` and renews the lease while it lasts. When the lease turns out to be lost, `work` is dropped: whoever
    /// has the message now decides about it.
    async fn keeping<T>(&self, ctx: &Context, lease: &mut Lease, work: impl Future<Output = T>) -> Result<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                out = &mut work => return Ok(out),
                () = tokio::time::sleep(self.settings.lease / 3) => {
                    lease.record.set("lease_until", self.lease_end(self.clock.now()))?;
                    match self.write(ctx, lease, &[]).await {
                        Ok(()) => {}
                        Err(error) if is_lease_lost(&error) => return Err(error),
                        Err(error) => tracing::warn!(%error, "a heartbeat failed"),
                    }
                }
            }
        }
    }
}

impl OutboxState {
    /// The news that goes on the timeline with this end.
    pub(super) fn delivery(self) -> DeliveryState {
        match self {
            Self::Queued | Self::Leased => DeliveryState::Queued,
            Self::Sent => DeliveryState::Accepted,
            Self::Recorded => DeliveryState::Recorded,
            Self::Refused => DeliveryState::Refused,
            Self::Failed | Self::Dead => DeliveryState::Failed,
            Self::Unknown => DeliveryState::Unknown,
        }
    }
}
