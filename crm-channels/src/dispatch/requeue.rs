//! Messages that come back, and messages that are called back.

use crm_core::message::MessageId;
use crm_core::query::{Filter, Query};
use crm_core::record::{Stored, Value, Write};
use crm_core::{Context, Error, ErrorKind, Result};

use super::Dispatcher;
use crate::outbox::{Entry, OUTBOX, OutboxState, join_delivery};

impl Dispatcher {
    /// Puts dead messages back into the queue with fresh tries, those of one campaign or all. Answers how many.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn requeue_dead(&self, ctx: &Context, campaign: Option<&str>) -> Result<u64> {
        let mut filter = Filter::eq("state", OutboxState::Dead.as_str());
        if let Some(campaign) = campaign {
            filter = filter.and(Filter::eq("campaign", campaign));
        }
        let mut count = 0;
        loop {
            let page = self
                .store
                .find(ctx, &OUTBOX, &Query::new(filter.clone()).limit(200))
                .await?;
            if page.items.is_empty() {
                return Ok(count);
            }
            for stored in page.items {
                count += u64::from(self.requeue_stored(ctx, stored).await?);
            }
        }
    }

    /// Puts one finished message back into the queue with fresh tries: a dead or failed one whose cause is gone, or an
    /// unknown one that is known not to have arrived. Answers false when somebody else changed it meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] for one that was sent, recorded or is still under way.
    pub async fn requeue(&self, ctx: &Context, id: MessageId) -> Result<bool> {
        let stored = self
            .store
            .get(ctx, &OUTBOX, &[id.uuid()])
            .await?
            .into_iter()
            .next()
            .flatten();
        let stored = stored.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "no such message in the outbox").with("message", id)
        })?;
        let state = stored.record.text("state")?;
        match OutboxState::parse(state) {
            Some(OutboxState::Dead | OutboxState::Failed | OutboxState::Unknown | OutboxState::Refused) => {
                self.requeue_stored(ctx, stored).await
            }
            _ => Err(
                Error::conflict("a message that was sent or is under way is not queued again")
                    .with("state", state),
            ),
        }
    }

    async fn requeue_stored(&self, ctx: &Context, stored: Stored) -> Result<bool> {
        let mut record = stored.record;
        record.set("state", OutboxState::Queued.as_str())?;
        record.set("run_at", self.now())?;
        record.set("attempt", 0_i64)?;
        record.set("crash_count", 0_i64)?;
        record.set("rescues", 0_i64)?;
        record.set("maybe_sent", false)?;
        for field in [
            "lease_until",
            "send_started_at",
            "finished_at",
            "delivery",
            "delivered_at",
            "blame",
        ] {
            record.set(field, Value::Null)?;
        }
        match self
            .store
            .apply(ctx, &[Write::update(stored.id, stored.version, record)])
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Calls a message back that was not handed over yet. It ends as [`OutboxState::Cancelled`] and gives its dedupe key
    /// back, and the customer's timeline says so. Answers false when it was cancelled already.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] for one that is being handed over or has ended.
    pub async fn cancel(&self, ctx: &Context, id: MessageId, why: &str) -> Result<bool> {
        loop {
            let stored = self
                .store
                .get(ctx, &OUTBOX, &[id.uuid()])
                .await?
                .into_iter()
                .next()
                .flatten();
            let stored = stored.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "no such message in the outbox").with("message", id)
            })?;
            let mut record = stored.record;
            let state = OutboxState::parse(record.text("state")?).ok_or_else(|| record.damaged("state"))?;
            let begun = record.get("send_started_at").is_some_and(|at| !at.is_null());
            match state {
                OutboxState::Cancelled => return Ok(false),
                OutboxState::Queued | OutboxState::Held => {}
                // A dispatcher has it, but has not begun: it will find the lease gone.
                OutboxState::Leased if !begun => {}
                _ => {
                    return Err(Error::conflict(
                        "a message that is being sent or has ended cannot be cancelled",
                    )
                    .with("message", id)
                    .with("state", state));
                }
            }
            // One that is to be repeated because its answer was lost may be there already.
            let end = match record.bool("maybe_sent")? {
                true => OutboxState::Unknown,
                false => OutboxState::Cancelled,
            };
            record.set("state", end.as_str())?;
            let now = self.now();
            record.set("finished_at", now)?;
            record.set("last_error", format!("cancelled: {why}"))?;
            for field in ["lease_until", "dedupe_key"] {
                record.set(field, Value::Null)?;
            }
            join_delivery(&mut record, end.delivery())?;
            // One that cannot be read is on nobody's timeline.
            let news = Entry::read(stored.id, &record).ok();
            let news = news
                .map(|entry| entry.called_back(self.ids.fresh(), now, end, &format!("cancelled: {why}")))
                .transpose()?;
            let mut writes = vec![Write::update(stored.id, stored.version, record)];
            writes.extend(news);
            match self.store.apply(ctx, &writes).await {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Conflict => {} // it moved on: look again
                Err(error) => return Err(error),
            }
        }
    }
}
