//! Writes the records of many leases as one unit of work, each fenced by its version.

use std::time::Duration;

use crm_core::record::{Outcome, Record, Stored, Value, Version, Write};
use crm_core::{Context, Effect, Error, ErrorKind, Result, Uuid};

use super::Dispatcher;
use crate::outbox::{OUTBOX, OutboxState, delivery, join_blame, join_delivery, resolved};

/// A claimed record and the version that fences it.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) id: Uuid,
    pub(super) version: Version,
    pub(super) record: Record,
    /// What it is at that version.
    before: Record,
}

impl Lease {
    pub(super) fn of(stored: Stored) -> Self {
        Self {
            id: stored.id,
            version: stored.version,
            before: stored.record.clone(),
            record: stored.record,
        }
    }

    /// The record is stored now as `record` is, at this version.
    pub(super) fn now_at(&mut self, version: Version, record: Record) {
        self.version = version;
        self.before = record;
    }
}

/// A lease's record as it is to be written, with what belongs into the same unit of work.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) lease: Lease,
    pub(super) more: Vec<Write>,
    pub(super) fate: Option<Fate>,
}

impl Unit {
    pub(super) fn new(lease: Lease, more: Vec<Write>) -> Self {
        Self {
            lease,
            more,
            fate: None,
        }
    }
}

/// What became of a [`Unit`].
#[derive(Debug)]
pub(super) enum Fate {
    Written,
    /// Somebody else has the message now: nothing was written.
    Lost,
    /// What goes with it cannot be written: somebody changed that meanwhile, or it does not fit.
    Refused(Error),
    /// The store cannot be reached; nobody knows.
    Failed,
}

impl Dispatcher {
    /// Writes them all, in one unit of work as long as nothing is in the way; each gets a fate of its own. A store that
    /// fails for a moment is waited for.
    pub(super) async fn commit(&self, ctx: &Context, units: &mut [Unit]) {
        let mut waits = [50, 200, 800, 2000].into_iter();
        let mut alone = false;
        loop {
            let mut open: Vec<&mut Unit> = units.iter_mut().filter(|unit| unit.fate.is_none()).collect();
            if alone {
                open.truncate(1);
            }
            if open.is_empty() {
                return;
            }
            let Err(error) = self.commit_open(ctx, &mut open).await else {
                continue;
            };
            let lost = error.effect() == Effect::Unknown;
            if error.is_retryable() || lost {
                let Some(wait) = waits.next() else {
                    tracing::warn!(%error, "the store cannot be written");
                    for unit in units.iter_mut().filter(|unit| unit.fate.is_none()) {
                        unit.fate = Some(Fate::Failed);
                    }
                    return;
                };
                tokio::time::sleep(Duration::from_millis(wait)).await;
                if lost && let Err(error) = self.look_again(ctx, units).await {
                    tracing::warn!(%error, "the store cannot be read");
                }
            } else if open.len() > 1 {
                alone = true; // nobody says which one is in the way
            } else if let Some(unit) = open.pop() {
                unit.fate = Some(Fate::Refused(error));
            }
        }
    }

    /// One try. An error that could be laid on one of them is settled here.
    async fn commit_open(&self, ctx: &Context, open: &mut [&mut Unit]) -> Result<()> {
        let mut writes = Vec::with_capacity(open.len() * 2);
        let mut owners = Vec::with_capacity(open.len() * 2);
        // The records first, one after the other: a store may carry neighbours out together.
        for (place, unit) in open.iter().enumerate() {
            let lease = &unit.lease;
            let write = Write::update(lease.id, lease.version, lease.record.clone());
            writes.push(write.based_on(lease.before.clone()));
            owners.push((place, true));
        }
        for (place, unit) in open.iter().enumerate() {
            writes.extend_from_slice(&unit.more);
            owners.resize(writes.len(), (place, false));
        }
        let error = match self.store.apply(ctx, &writes).await {
            Ok(outcomes) => {
                for ((place, own), outcome) in owners.iter().zip(outcomes) {
                    if let (true, Some(unit)) = (own, open.get_mut(*place)) {
                        let version = match outcome {
                            Outcome::Written(version) => version,
                            _ => unit.lease.version + 1,
                        };
                        unit.lease.now_at(version, unit.lease.record.clone());
                        unit.fate = Some(Fate::Written);
                    }
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if error.kind() != ErrorKind::Conflict {
            return Err(error);
        }
        let at = error.context("write").and_then(|at| at.parse::<usize>().ok());
        let owner = at.and_then(|at| owners.get(at)).copied();
        match owner.and_then(|(place, own)| open.get_mut(place).map(|unit| (unit, own))) {
            Some((_, true)) => self.look_at(ctx, open).await,
            Some((unit, false)) => {
                unit.fate = Some(Fate::Refused(error));
                Ok(())
            }
            None => Err(error),
        }
    }

    async fn look_again(&self, ctx: &Context, units: &mut [Unit]) -> Result<()> {
        let mut open: Vec<&mut Unit> = units.iter_mut().filter(|unit| unit.fate.is_none()).collect();
        self.look_at(ctx, &mut open).await
    }

    /// Reads how the records stand: those that are written already (the answer was lost) are done, those that somebody
    /// else has are lost, and news that came in meanwhile ([`crate::Outreach`]'s, about messages that are being sent) are
    /// taken over, so that nothing of them is overwritten.
    async fn look_at(&self, ctx: &Context, open: &mut [&mut Unit]) -> Result<()> {
        let ids: Vec<Uuid> = open.iter().map(|unit| unit.lease.id).collect();
        let found = self.store.get(ctx, &OUTBOX, &ids).await?;
        for (unit, stored) in open.iter_mut().zip(found) {
            let Some(stored) = stored else {
                unit.fate = Some(Fate::Lost);
                continue;
            };
            if stored.version == unit.lease.version {
                continue;
            }
            let same = |fields: &[&str]| {
                fields
                    .iter()
                    .all(|field| stored.record.get(field) == unit.lease.record.get(field))
            };
            let ours = same(&["lease_token"]);
            if ours && same(&["state", "run_at", "attempt", "send_started_at", "finished_at"]) {
                unit.lease.now_at(stored.version, stored.record);
                unit.fate = Some(Fate::Written);
            } else if ours && stored.record.text("state")? == OutboxState::Leased.as_str() {
                self.take_over(&mut unit.lease.record, &stored.record)?;
                unit.lease.now_at(stored.version, stored.record);
            } else {
                unit.fate = Some(Fate::Lost);
            }
        }
        Ok(())
    }

    /// Takes over what is known of the message in the record as it is stored.
    pub(super) fn take_over(&self, record: &mut Record, theirs: &Record) -> Result<()> {
        record.set(
            "delivered_at",
            theirs.get("delivered_at").cloned().unwrap_or(Value::Null),
        )?;
        if let Some(blame) = theirs.get("blame").and_then(Value::as_str) {
            join_blame(record, blame.parse().map_err(|_| theirs.damaged("blame"))?)?;
        }
        let Some(news) = delivery(theirs)? else {
            return Ok(());
        };
        let known = join_delivery(record, news)?;
        let mine = OutboxState::parse(record.text("state")?).ok_or_else(|| record.damaged("state"))?;
        let state = resolved(mine, record.bool("maybe_sent")?, Some(known));
        if state != mine {
            record.set("state", state.as_str())?;
            record.set("finished_at", self.now())?;
        }
        Ok(())
    }
}
