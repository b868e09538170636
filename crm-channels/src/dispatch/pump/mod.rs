//! The work on one tenant's messages: claims, permissions, hand-overs and ends go on side by side, so that none waits for
//! the slowest, and what comes in while the store is busy is written together afterwards.

mod hear;

use std::collections::{HashMap, HashSet, VecDeque};

use crm_core::record::Stored;
use crm_core::{Context, Error, Result, Timestamp, Uuid};
use futures_util::FutureExt as _;
use futures_util::future::{AbortHandle, BoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Dispatcher;
use super::begin::{Begun, Job};
use super::claim::Claimed;
use super::commit::Lease;
use super::hand::Handed;
use super::report::{Done, TickReport};
use super::settle::{Settled, What};
use super::upkeep::Upkept;

/// How many ends go into one unit of work at most.
const TOGETHER: usize = 256;

/// What a pump works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    /// One batch, to its end.
    Once,
    /// What is due, until nothing is.
    Drain,
    /// Whatever comes, until it is told to stop.
    Forever,
}

enum Event {
    Claimed(Result<Claimed>),
    Slots(OwnedSemaphorePermit, bool),
    Begun(Begun, OwnedSemaphorePermit),
    Handed(Vec<Handed>),
    Settled(Vec<Settled>, Vec<OwnedSemaphorePermit>),
    Unreadable(Uuid, Done),
    Beaten(Vec<Uuid>, Result<Vec<Stored>>),
    BeatDue,
    SweepDue,
    Rested,
    Grace,
    Stopped,
    Aborted,
    Upkept(Result<Upkept>),
}

/// A message that is being handed over.
struct Sending {
    job: Job,
    slot: OwnedSemaphorePermit,
    abort: AbortHandle,
}

/// A message whose end is to be written, with its slot when it was begun.
struct Ended {
    job: Job,
    what: What,
    slot: Option<OwnedSemaphorePermit>,
}

/// What is under way: at most one of each.
#[derive(Default)]
struct Busy {
    claiming: bool,
    asking: bool,
    beginning: bool,
    settling: bool,
    beating: bool,
    /// Being written as unreadable.
    unreadable: usize,
    upkeep: bool,
}

pub(super) struct Pump<'a> {
    d: &'a Dispatcher,
    ctx: &'a Context,
    feed: Feed,
    /// How many slots this tenant may have.
    share: usize,
    flights: FuturesUnordered<BoxFuture<'a, Event>>,
    queue: VecDeque<Job>,
    sending: HashMap<Uuid, Sending>,
    ended: Vec<Ended>,
    slots: Option<(OwnedSemaphorePermit, bool)>,
    /// Keys of which a message is begun and not settled: the next one waits.
    in_order: HashSet<String>,
    busy: Busy,
    stopping: bool,
    /// Nothing more is claimed, unless something comes to an end first.
    fed: bool,
    /// How many were claimed the last time.
    last: u64,
    /// How many failed over the store since something went well.
    in_vain: u64,
    resting: bool,
    beat_due: bool,
    sweep: bool,
    /// When what nobody knows was looked into the last time.
    upkept: Option<Timestamp>,
    report: TickReport,
    wrong: Option<Error>,
}

impl<'a> Pump<'a> {
    pub(super) fn new(
        d: &'a Dispatcher,
        ctx: &'a Context,
        feed: Feed,
        share: usize,
        mut stop: watch::Receiver<bool>,
    ) -> Self {
        let pump = Self {
            d,
            ctx,
            feed,
            share: share.max(1),
            flights: FuturesUnordered::new(),
            queue: VecDeque::new(),
            sending: HashMap::new(),
            ended: Vec::new(),
            slots: None,
            in_order: HashSet::new(),
            busy: Busy::default(),
            stopping: false,
            fed: false,
            last: 0,
            in_vain: 0,
            resting: false,
            beat_due: false,
            sweep: true,
            upkept: None,
            report: TickReport::default(),
            wrong: None,
        };
        pump.flights.push(
            async move {
                // A sender that is gone never says stop.
                if stop.wait_for(|stop| *stop).await.is_err() {
                    std::future::pending::<()>().await;
                }
                Event::Stopped
            }
            .boxed(),
        );
        pump.wait(d.settings.lease / 3, Event::BeatDue);
        pump
    }

    fn wait(&self, time: std::time::Duration, event: Event) {
        self.flights.push(
            async move {
                tokio::time::sleep(time).await;
                event
            }
            .boxed(),
        );
    }

    /// Works until there is nothing more to do. Dropped, it is a crash, which the leases are made for.
    pub(super) async fn work(mut self) -> Result<TickReport> {
        loop {
            self.plan();
            if self.is_done() {
                return match self.wrong {
                    Some(error) => Err(error),
                    None => Ok(self.report),
                };
            }
            if let Some(event) = self.flights.next().await {
                self.hear(event);
            }
            // Where nothing ever has to be waited for, the others get their turn all the same.
            tokio::task::yield_now().await;
        }
    }

    fn is_done(&self) -> bool {
        let busy = &self.busy;
        let idle = !busy.claiming
            && !self.hungry()
            && !busy.beginning
            && !busy.settling
            && !busy.beating
            && busy.unreadable == 0
            && self.queue.is_empty()
            && self.sending.is_empty()
            && self.ended.is_empty();
        idle && (self.stopping || self.feed != Feed::Forever)
    }

    /// Whether more is to be claimed.
    fn hungry(&self) -> bool {
        let low = self.queue.len() * 2 <= self.d.settings.batch as usize;
        !self.stopping
            && match self.feed {
                Feed::Once => !self.fed,
                Feed::Drain => {
                    let in_vain = self.in_vain > 0 && self.in_vain >= self.last;
                    !self.fed && low && !in_vain && self.report.paused.is_none()
                }
                Feed::Forever => !self.resting && low,
            }
    }

    /// Starts whatever can be started now.
    fn plan(&mut self) {
        // A heartbeat moves the versions, so nothing else may be writing, and it goes first when it is due.
        if self.beat_due && !self.busy.beginning && !self.busy.settling && !self.busy.beating {
            self.beat();
        }
        // One with nothing in hand is over at once, and must not keep from claiming: nothing else might ever come.
        if self.beat_due || self.busy.beating {
            return;
        }
        if self.stopping && !self.busy.beginning {
            self.slots = None;
            for job in self.queue.drain(..) {
                self.ended.push(Ended {
                    job,
                    what: What::Release,
                    slot: None,
                });
            }
        }
        if !self.busy.settling && !self.ended.is_empty() {
            self.settle();
        }
        if self.stopping {
            return;
        }
        if self.slots.is_some() && !self.busy.beginning {
            self.begin();
        }
        if self.slots.is_none() && !self.busy.asking && !self.busy.beginning {
            self.ask();
        }
        if self.hungry() && !self.busy.claiming {
            self.claim();
        }
        if self.feed == Feed::Forever && !self.busy.upkeep {
            self.upkeep();
        }
    }

    /// Looks into what nobody knows, when that was long ago. A stop does not wait for it: what it has not done, another
    /// one does.
    fn upkeep(&mut self) {
        let (d, ctx, now) = (self.d, self.ctx, self.d.now());
        let every = d.settings.upkeep;
        let last = self.upkept;
        if every.is_zero() || last.is_some_and(|last| now < last.plus(every)) {
            return;
        }
        self.upkept = Some(now);
        self.busy.upkeep = true;
        self.flights
            .push(async move { Event::Upkept(d.upkeep(ctx, last, now).await) }.boxed());
    }

    fn claim(&mut self) {
        let (d, ctx, rescue) = (self.d, self.ctx, self.sweep);
        let held = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        let room = d.settings.batch.saturating_sub(held).max(1);
        self.busy.claiming = true;
        self.sweep = false;
        self.flights
            .push(async move { Event::Claimed(d.claim(ctx, rescue, room).await) }.boxed());
    }

    /// The messages that may be begun now: none whose key is busy, and of those with the same key the first.
    fn eligible(&self) -> Vec<Uuid> {
        let mut first: HashMap<&str, (Timestamp, Uuid)> = HashMap::new();
        for place in self.queue.iter().filter_map(|job| job.entry.order.as_ref()) {
            let at = first.entry(&place.key).or_insert(place.at);
            *at = place.at.min(*at);
        }
        self.queue
            .iter()
            .filter(|job| match &job.entry.order {
                None => true,
                Some(place) => {
                    !self.in_order.contains(&place.key) && first.get(place.key.as_str()) == Some(&place.at)
                }
            })
            .map(|job| job.lease.id)
            .take(self.d.settings.concurrency)
            .collect()
    }

    /// A message that was rescued is handed over alone: when it takes the process down, nothing else is in doubt.
    fn on_trial(&self, id: Uuid) -> bool {
        self.queue
            .iter()
            .any(|job| job.lease.id == id && job.entry.crash_count > 0)
    }

    /// Waits for room, in line with the other tenants.
    fn ask(&mut self) {
        let eligible = self.eligible();
        let Some(first) = eligible.first() else {
            return;
        };
        let (all, slots) = (self.d.settings.concurrency, self.d.slots.clone());
        let alone = self.on_trial(*first);
        let wanted = match alone {
            true => all,
            false => {
                let room = self.share.saturating_sub(self.sending.len()).max(1);
                // Half of them, so that the others come to their end meanwhile.
                eligible.len().min(room).min(all.div_ceil(2))
            }
        };
        self.busy.asking = true;
        self.flights.push(
            async move {
                let many = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                let first = if alone { all } else { 1 };
                let Ok(mut permit) = slots.clone().acquire_many_owned(many(first)).await else {
                    return Event::Aborted; // never closed
                };
                let more = wanted.saturating_sub(first).min(slots.available_permits());
                if more > 0
                    && let Ok(rest) = slots.try_acquire_many_owned(many(more))
                {
                    permit.merge(rest);
                }
                Event::Slots(permit, alone)
            }
            .boxed(),
        );
    }

    fn begin(&mut self) {
        let Some((permit, alone)) = self.slots.take() else {
            return;
        };
        let most = if alone { 1 } else { permit.num_permits() };
        let chosen: HashSet<Uuid> = self
            .eligible()
            .into_iter()
            .filter(|id| self.on_trial(*id) == alone)
            .take(most)
            .collect();
        if chosen.is_empty() {
            return;
        }
        let (jobs, rest) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition::<Vec<_>, _>(|job| chosen.contains(&job.lease.id));
        self.queue = rest.into();
        let keys = jobs.iter().filter_map(|job| job.entry.order.as_ref());
        self.in_order.extend(keys.map(|place| place.key.clone()));
        let (d, ctx) = (self.d, self.ctx);
        self.busy.beginning = true;
        self.flights
            .push(async move { Event::Begun(d.begin(ctx, jobs).await, permit) }.boxed());
    }

    fn settle(&mut self) {
        let keep = self.ended.len().saturating_sub(TOGETHER);
        let ended = self.ended.split_off(keep);
        let (d, ctx) = (self.d, self.ctx);
        self.busy.settling = true;
        let (ending, slots): (Vec<_>, Vec<_>) = ended
            .into_iter()
            .map(|ended| ((ended.job, ended.what), ended.slot))
            .unzip();
        let slots = slots.into_iter().flatten().collect();
        self.flights
            .push(async move { Event::Settled(d.settle(ctx, ending).await, slots) }.boxed());
    }

    fn leases(&mut self) -> impl Iterator<Item = &mut Lease> {
        let queued = self.queue.iter_mut().map(|job| &mut job.lease);
        let sending = self.sending.values_mut().map(|sending| &mut sending.job.lease);
        let ended = self.ended.iter_mut().map(|ended| &mut ended.job.lease);
        queued.chain(sending).chain(ended)
    }

    fn beat(&mut self) {
        self.beat_due = false;
        self.wait(self.d.settings.lease / 3, Event::BeatDue);
        let held: Vec<(Uuid, Uuid)> = self
            .leases()
            .filter_map(|lease| Some((lease.id, lease.record.uuid("lease_token").ok()?)))
            .collect();
        if held.is_empty() {
            return;
        }
        let (d, ctx) = (self.d, self.ctx);
        self.busy.beating = true;
        self.flights.push(
            async move {
                let stored = d.beat(ctx, &held).await;
                Event::Beaten(held.into_iter().map(|(id, _)| id).collect(), stored)
            }
            .boxed(),
        );
    }
}
