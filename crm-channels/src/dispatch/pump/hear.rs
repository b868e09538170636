//! What a pump does when something it waited for has happened.

use std::collections::{HashMap, HashSet};

use crm_core::record::Stored;
use crm_core::{Effect, Error, ErrorKind, Uuid};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, abortable};
use tokio::sync::OwnedSemaphorePermit;

use super::super::SECOND;
use super::super::begin::{Begun, Job};
use super::super::claim::Claimed;
use super::super::commit::Lease;
use super::super::hand::{Handed, Parcel, bundled};
use super::super::report::Done;
use super::super::settle::{Settled, What};
use super::{Ended, Event, Feed, Pump, Sending};
use crate::outbox::Entry;

impl<'a> Pump<'a> {
    pub(super) fn hear(&mut self, event: Event) {
        match event {
            Event::Claimed(claimed) => {
                self.busy.claiming = false;
                match claimed {
                    Ok(claimed) => self.take(claimed),
                    Err(error) => self.no_claim(error),
                }
            }
            Event::Slots(permit, alone) => {
                self.busy.asking = false;
                self.slots = Some((permit, alone));
            }
            Event::Begun(begun, permit) => {
                self.busy.beginning = false;
                self.hand_over(begun, permit);
            }
            Event::Handed(handed) => handed.into_iter().for_each(|handed| self.handed(handed)),
            Event::Settled(settled, slots) => {
                self.busy.settling = false;
                drop(slots);
                settled.into_iter().for_each(|settled| self.settled(settled));
            }
            Event::Unreadable(id, done) => {
                self.busy.unreadable -= 1;
                self.count(id, done);
            }
            Event::Beaten(held, stored) => {
                self.busy.beating = false;
                match stored {
                    Ok(stored) => self.beaten(&held, stored),
                    Err(error) => tracing::warn!(%error, "a heartbeat failed"),
                }
            }
            Event::BeatDue => self.beat_due = true,
            Event::SweepDue => self.sweep = true,
            Event::Rested => self.resting = false,
            Event::Stopped => {
                self.stopping = true;
                self.wait(self.d.settings.grace, Event::Grace);
            }
            Event::Grace => self.cut_short(),
            Event::Aborted => {}
            Event::Upkept(done) => {
                self.busy.upkeep = false;
                match done {
                    Ok(done) => {
                        self.report.adopted += done.adopted;
                        self.report.reconciled += done.reconciled;
                    }
                    Err(error) => tracing::warn!(%error, "what nobody knows could not be looked into"),
                }
            }
        }
    }

    fn take(&mut self, claimed: Claimed) {
        let (d, ctx) = (self.d, self.ctx);
        self.last = claimed.stored.len() as u64;
        self.report.claimed += self.last;
        self.report.rescued += claimed.rescued;
        self.fed = self.feed == Feed::Once || self.last == 0;
        if self.feed == Feed::Forever && self.last == 0 {
            self.rest(d.settings.idle);
        }
        if self.feed != Feed::Once {
            if claimed.rescued > 0 {
                self.sweep = true; // those that come one at a time
            } else if !self.sweep {
                self.wait(d.settings.lease / 6, Event::SweepDue);
            }
        }
        for stored in claimed.stored {
            let lease = Lease::of(stored);
            match Entry::read(lease.id, &lease.record) {
                Ok(entry) => self.queue.push_back(Job { lease, entry }),
                Err(error) => {
                    self.busy.unreadable += 1;
                    let id = lease.id;
                    self.flights.push(
                        async move { Event::Unreadable(id, d.end_unreadable(ctx, lease, &error).await) }
                            .boxed(),
                    );
                }
            }
        }
    }

    fn rest(&mut self, time: std::time::Duration) {
        if !self.resting {
            self.resting = true;
            self.wait(time, Event::Rested);
        }
    }

    fn no_claim(&mut self, error: Error) {
        self.sweep = true;
        // A claim whose answer was lost may have taken messages: they come back when the lease ends that nobody holds.
        let passes = error.is_retryable() || error.effect() == Effect::Unknown;
        match self.feed {
            Feed::Forever if passes => {
                tracing::warn!(%error, "the outbox cannot be read; trying again");
                self.rest(self.d.settings.idle.max(SECOND));
            }
            _ => {
                self.wrong = Some(error);
                self.stopping = true;
            }
        }
    }

    fn hand_over(&mut self, begun: Begun, mut permit: OwnedSemaphorePermit) {
        let mut parcels = Vec::with_capacity(begun.go.len());
        let mut jobs = HashMap::with_capacity(begun.go.len());
        for go in begun.go {
            let id = go.job.lease.id;
            if let Some(slot) = permit.split(1) {
                jobs.insert(id, (go.job, slot));
            }
            parcels.push(Parcel {
                id,
                permitted: go.permitted,
                route: go.route,
            });
        }
        let ctx = self.ctx;
        let (bundles, single) = bundled(parcels);
        let bundles = bundles.into_iter().map(|bundle| {
            let ids: Vec<Uuid> = bundle.ids().collect();
            (ids, async move { bundle.hand_over(ctx).await }.boxed())
        });
        let single = single.into_iter().map(|parcel| {
            let id = parcel.id;
            (vec![id], async move { vec![parcel.hand_over(ctx).await] }.boxed())
        });
        for (ids, flight) in bundles
            .chain(single)
            .collect::<Vec<(Vec<Uuid>, BoxFuture<'a, Vec<Handed>>)>>()
        {
            let (flight, abort) = abortable(flight);
            for id in ids {
                if let Some((job, slot)) = jobs.remove(&id) {
                    let abort = abort.clone();
                    self.sending.insert(id, Sending { job, slot, abort });
                }
            }
            self.flights.push(
                flight
                    .map(|handed| handed.map_or(Event::Aborted, Event::Handed))
                    .boxed(),
            );
        }
        for (job, what) in begun.ended {
            self.ended.push(Ended {
                job,
                what,
                slot: None,
            });
        }
        for job in begun.again {
            self.free(job.entry.order.as_ref().map(|place| place.key.as_str()));
            self.queue.push_front(job);
        }
        for (job, done) in begun.gone {
            self.free(job.entry.order.as_ref().map(|place| place.key.as_str()));
            self.count(job.lease.id, done);
        }
    }

    fn count(&mut self, id: Uuid, done: Done) {
        self.report.count(id.into(), done);
        match done {
            Done::StoreError => self.in_vain += 1,
            _ => self.in_vain = 0,
        }
        if self.feed == Feed::Drain {
            self.fed = false; // it may be due again already
        }
    }

    fn free(&mut self, key: Option<&str>) {
        if let Some(key) = key {
            self.in_order.remove(key);
        }
    }

    fn handed(&mut self, handed: Handed) {
        // One whose lease was lost meanwhile is nobody's here.
        let Some(Sending { mut job, slot, .. }) = self.sending.remove(&handed.id) else {
            return;
        };
        let what = self.d.judge(&mut job, handed.provider, handed.answer);
        self.ended.push(Ended {
            job,
            what,
            slot: Some(slot),
        });
    }

    fn settled(&mut self, settled: Settled) {
        self.count(settled.id, settled.done);
        self.free(settled.order.as_deref());
        let (Some(key), Some(at)) = (settled.order, settled.again) else {
            return;
        };
        // What goes after it waits with it.
        let (wait, rest): (Vec<Job>, Vec<Job>) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|job| job.entry.order.as_ref().is_some_and(|place| place.key == key));
        self.queue = rest.into();
        let why = "an earlier message goes first";
        self.ended.extend(wait.into_iter().map(|job| Ended {
            job,
            what: What::snooze(at, why),
            slot: None,
        }));
    }

    fn beaten(&mut self, held: &[Uuid], stored: Vec<Stored>) {
        let d = self.d;
        let mut ours: HashMap<Uuid, Stored> = stored.into_iter().map(|s| (s.id, s)).collect();
        let mut lost: HashSet<Uuid> = held.iter().copied().collect();
        for lease in self.leases() {
            if let Some(stored) = ours.remove(&lease.id) {
                lost.remove(&lease.id);
                if let Err(error) = d.take_over(&mut lease.record, &stored.record) {
                    tracing::warn!(message = %lease.id, %error, "what came in meanwhile cannot be read");
                }
                lease.now_at(stored.version, stored.record);
            }
        }
        if lost.is_empty() {
            return;
        }
        // Whoever has them now decides about them.
        let mut gone: Vec<Job> = Vec::new();
        let (left, queue): (Vec<Job>, Vec<Job>) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|job| lost.contains(&job.lease.id));
        self.queue = queue.into();
        gone.extend(left);
        let (left, ended): (Vec<Ended>, Vec<Ended>) = std::mem::take(&mut self.ended)
            .into_iter()
            .partition(|ended| lost.contains(&ended.job.lease.id));
        self.ended = ended;
        gone.extend(left.into_iter().map(|ended| ended.job));
        for id in &lost {
            if let Some(sending) = self.sending.remove(id) {
                sending.abort.abort();
                gone.push(sending.job);
            }
        }
        for job in gone {
            tracing::warn!(message = %job.lease.id, "another dispatcher took the message over");
            self.free(job.entry.order.as_ref().map(|place| place.key.as_str()));
            self.count(job.lease.id, Done::LeaseLost);
        }
    }

    /// Patience is over: what is still being sent is not waited for, and nobody knows what became of it.
    fn cut_short(&mut self) {
        for (_, sending) in std::mem::take(&mut self.sending) {
            sending.abort.abort();
            let mut job = sending.job;
            let why = "the dispatcher stopped before the answer came";
            let lost = Error::new(ErrorKind::Timeout, why).effect_unknown();
            let what = self.d.judge(&mut job, None, Err(lost));
            self.ended.push(Ended {
                job,
                what,
                slot: Some(sending.slot),
            });
        }
    }
}
