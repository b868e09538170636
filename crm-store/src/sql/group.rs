//! Group commit: callers that come together share one commit, and so one wait for the disk.
//!
//! One caller leads: it takes the writing connection, begins, carries out its own unit of work and then those of everybody
//! who came meanwhile, each on its own: one that fails leaves no trace and gets its own error. After the commit all get
//! their answers. Nothing is spawned: the common work is a future that the leader drives, and that goes to another of
//! those waiting when the leader is dropped. So nobody loses anything through somebody else's cancellation, and nobody
//! hears of a success before the commit.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crm_core::record::{Outcome, Schema, Value, Version, Write};
use crm_core::{Error, Result, TenantId, Uuid};
use tokio::sync::Notify;

use super::compile::{self, Control, control};
use super::driver::{Dialect, Fault};
use super::lane::{Lane, Lanes, busy};
use super::write;

/// Units of work of one commit at most: what comes later waits for the next one.
const UNITS: usize = 256;
/// Writes of a unit that is copied so that somebody else can carry it out; larger ones lead.
const WRITES: usize = 64;
/// Statements handed to the connection at once at most.
const STATEMENTS: usize = 64;

/// The callers that share commits.
pub(super) struct Group<D: Dialect> {
    writer: Arc<Lanes<D>>,
    wait: Duration,
    state: Mutex<State<D>>,
}

struct State<D: Dialect> {
    /// Somebody leads, or is about to.
    led: bool,
    waiting: VecDeque<Waiting<D>>,
    /// Those whose units are in the transaction that is open now.
    members: Vec<Member<D>>,
}

struct Waiting<D: Dialect> {
    seat: Arc<Seat<D>>,
    /// None when this caller carries out its own.
    unit: Option<Unit>,
}

struct Member<D: Dialect> {
    seat: Arc<Seat<D>>,
    outcome: Option<Result<Vec<Outcome>>>,
}

#[derive(Clone)]
struct Unit {
    tenant: TenantId,
    writes: Vec<Write>,
}

/// What a waiting caller is told.
enum Note<D: Dialect> {
    Answer(Result<Vec<Outcome>>),
    Baton(Baton<D>),
}

/// Where a caller waits.
struct Seat<D: Dialect> {
    note: Mutex<Slot<D>>,
    told: Notify,
}

enum Slot<D: Dialect> {
    Empty,
    Full(Note<D>),
    /// The caller is gone.
    Left,
}

impl<D: Dialect> Seat<D> {
    fn new() -> (Arc<Self>, Place<D>) {
        let seat = Arc::new(Self {
            note: Mutex::new(Slot::Empty),
            told: Notify::new(),
        });
        (seat.clone(), Place(seat))
    }

    fn slot(&self) -> MutexGuard<'_, Slot<D>> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_left(&self) -> bool {
        matches!(*self.slot(), Slot::Left)
    }

    /// Leaves a note, or gives it back when nobody is there to read it.
    fn tell(&self, note: Note<D>) -> Result<(), Note<D>> {
        let mut slot = self.slot();
        if matches!(*slot, Slot::Left) {
            return Err(note);
        }
        *slot = Slot::Full(note);
        drop(slot);
        self.told.notify_one();
        Ok(())
    }
}

/// A caller's hold on its seat.
struct Place<D: Dialect>(Arc<Seat<D>>);

impl<D: Dialect> Place<D> {
    async fn next(&self) -> Note<D> {
        loop {
            {
                let mut slot = self.0.slot();
                if let Slot::Full(note) = mem::replace(&mut *slot, Slot::Empty) {
                    return note;
                }
            }
            self.0.told.notified().await;
        }
    }
}

impl<D: Dialect> Drop for Place<D> {
    fn drop(&mut self) {
        let unread = mem::replace(&mut *self.0.slot(), Slot::Left);
        // A baton in there goes on to somebody else.
        drop(unread);
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The right and duty to lead: dropped, it goes to the next one, with what is left of the common work.
struct Baton<D: Dialect> {
    group: Option<Arc<Group<D>>>,
    work: Option<Work>,
}

impl<D: Dialect> Baton<D> {
    /// Carries on with the common work to its end.
    async fn drive(&mut self) {
        if let Some(work) = &mut self.work {
            work.await;
        }
        self.work = None;
    }
}

impl<D: Dialect> Drop for Baton<D> {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            group.hand_over(self.work.take());
        }
    }
}

/// How leading ended.
enum Led<D: Dialect> {
    /// Alone, with this result.
    Alone(Result<Vec<Outcome>>),
    /// With others: the answer comes as a note.
    Together(Place<D>),
}

impl<D: Dialect> Group<D> {
    pub(super) fn new(writer: Arc<Lanes<D>>, wait: Duration) -> Arc<Self> {
        Arc::new(Self {
            writer,
            wait,
            state: Mutex::new(State {
                led: false,
                waiting: VecDeque::new(),
                members: Vec::new(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State<D>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out one unit of work, alone or with others.
    pub(super) async fn apply(self: &Arc<Self>, tenant: &TenantId, writes: &[Write]) -> Result<Vec<Outcome>> {
        let mut baton = None;
        let mut place = match self.enter(tenant, writes) {
            Ok(leads) => match self.lead(leads, tenant, writes).await {
                Led::Alone(done) => return done,
                Led::Together(place) => place,
            },
            Err(place) => match tokio::time::timeout(self.wait, place.next()).await {
                Ok(Note::Answer(done)) => return done,
                Ok(Note::Baton(given)) => {
                    baton = Some(given);
                    place
                }
                Err(_) if self.leave(&place) => return Err(busy(self.wait)),
                // Somebody is at it.
                Err(_) => place,
            },
        };
        loop {
            match baton.take() {
                Some(mut baton) if baton.work.is_some() => baton.drive().await,
                Some(baton) => match self.lead(baton, tenant, writes).await {
                    Led::Alone(done) => return done,
                    Led::Together(new) => place = new,
                },
                None => match place.next().await {
                    Note::Answer(done) => return done,
                    Note::Baton(given) => baton = Some(given),
                },
            }
        }
    }

    /// The lead when nobody has it, else a place to wait at.
    fn enter(self: &Arc<Self>, tenant: &TenantId, writes: &[Write]) -> Result<Baton<D>, Place<D>> {
        let mut state = self.state();
        if !state.led {
            state.led = true;
            return Ok(Baton {
                group: Some(self.clone()),
                work: None,
            });
        }
        let unit = (writes.len() <= WRITES).then(|| Unit {
            tenant: tenant.clone(),
            writes: writes.to_vec(),
        });
        let (seat, place) = Seat::new();
        state.waiting.push_back(Waiting { seat, unit });
        Err(place)
    }

    /// Gives up waiting; false when the unit is already being carried out, or its turn has come.
    fn leave(&self, place: &Place<D>) -> bool {
        let mut state = self.state();
        let before = state.waiting.len();
        state
            .waiting
            .retain(|waiting| !Arc::ptr_eq(&waiting.seat, &place.0));
        state.waiting.len() < before
    }

    async fn lead(self: &Arc<Self>, mut baton: Baton<D>, tenant: &TenantId, writes: &[Write]) -> Led<D> {
        let mut lane = match self.writer.take().await {
            Ok(lane) => lane,
            Err(error) => return Led::Alone(Err(error)),
        };
        if let Err(error) = lane.begin().await {
            return Led::Alone(Err(error));
        }
        let outcomes = match write::all(&mut lane, tenant, writes).await {
            Ok(outcomes) if !self.state().waiting.is_empty() => outcomes,
            done => return Led::Alone(lane.end(done).await),
        };
        let (seat, place) = Seat::new();
        self.state().members.push(Member {
            seat,
            outcome: Some(Ok(outcomes)),
        });
        baton.work = Some(Box::pin(together(self.clone(), lane)));
        baton.drive().await;
        Led::Together(place)
    }

    /// Gives the lead, and the work that is under way, to somebody who is still there.
    fn hand_over(self: Arc<Self>, mut work: Option<Work>) {
        loop {
            let next = {
                let mut state = self.state();
                if work.is_some() {
                    let there = state.members.iter().find(|member| !member.seat.is_left());
                    there.map(|member| member.seat.clone())
                } else {
                    match state.waiting.pop_front() {
                        Some(next) => Some(next.seat),
                        None => {
                            state.led = false;
                            return;
                        }
                    }
                }
            };
            let Some(next) = next else {
                // Everybody with a unit in it has left: the connection closes, and what was begun is given up.
                drop(work.take());
                self.state().members.clear();
                continue;
            };
            let baton = Baton {
                group: Some(self.clone()),
                work: work.take(),
            };
            match next.tell(Note::Baton(baton)) {
                Ok(()) => return,
                Err(Note::Baton(mut baton)) => {
                    baton.group = None;
                    work = baton.work.take();
                }
                Err(Note::Answer(_)) => {}
            }
        }
    }

    /// Takes those who wait into the open transaction, with their places among the members; none when nobody waits, the
    /// next one leads itself, or the group is full.
    fn gather(&self) -> Vec<(usize, Unit)> {
        let mut state = self.state();
        let mut units = Vec::new();
        while state.members.len() < UNITS
            && state
                .waiting
                .front()
                .is_some_and(|next| next.unit.is_some() || next.seat.is_left())
        {
            if let Some(Waiting {
                seat,
                unit: Some(unit),
            }) = state.waiting.pop_front()
                && !seat.is_left()
            {
                units.push((state.members.len(), unit));
                state.members.push(Member { seat, outcome: None });
            }
        }
        units
    }

    fn note(&self, member: usize, outcome: Result<Vec<Outcome>>) {
        if let Some(member) = self.state().members.get_mut(member) {
            member.outcome = Some(outcome);
        }
    }

    /// Tells every member how it ended.
    fn answer(&self, committed: Result<(), Error>) {
        let members = mem::take(&mut self.state().members);
        for member in members {
            let own = member
                .outcome
                .unwrap_or_else(|| Err(Error::unexpected("a unit of work was passed over")));
            let answer = match (&committed, own) {
                (Ok(()), own) => own,
                (Err(error), Ok(_)) => Err(same(error).effect_unknown()),
                // It failed on its own, perhaps over a record that is not there now: it may try again.
                (Err(error), Err(_)) => Err(same(error)),
            };
            // Who has left does not want to know.
            let _ = member.seat.tell(Note::Answer(answer));
        }
    }

    /// After a failure that took the whole transaction with it: who caused it is told, the others go first in the line,
    /// each on its own.
    fn scatter(&self, culprit: usize, error: Error) {
        let mut state = self.state();
        let members = mem::take(&mut state.members);
        let mut told = None;
        for (at, member) in members.into_iter().enumerate().rev() {
            if at == culprit {
                told = Some(member.seat);
            } else {
                let alone = Waiting {
                    seat: member.seat,
                    unit: None,
                };
                state.waiting.push_front(alone);
            }
        }
        drop(state);
        if let Some(seat) = told {
            let _ = seat.tell(Note::Answer(Err(error)));
        }
    }
}

/// An error once more, for somebody else.
fn same(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.message().to_owned()).with_retry(error.retry());
    match error.context("sqlite_code") {
        Some(code) => copy.with("sqlite_code", code),
        None => copy,
    }
}

/// The common work: everything that waits, then the commit, then the answers.
async fn together<D: Dialect>(group: Arc<Group<D>>, mut lane: Lane<D>) {
    loop {
        let units = group.gather();
        if units.is_empty() {
            break;
        }
        if let Err((culprit, error)) = carry_out(&group, &mut lane, units).await {
            if lane.execute(control::<D>(Control::Rollback)).await.is_ok() {
                lane.put_back();
            }
            return group.scatter(culprit, error);
        }
    }
    match lane.execute(control::<D>(Control::Commit)).await {
        Ok(_) => {
            lane.put_back();
            group.answer(Ok(()));
        }
        Err(fault) => {
            drop(lane);
            group.answer(Err(fault.into_error()));
        }
    }
}

/// Carries out these units in the open transaction and notes their outcomes.
///
/// # Errors
/// The unit and its error that ended the whole transaction.
async fn carry_out<D: Dialect>(
    group: &Group<D>,
    lane: &mut Lane<D>,
    units: Vec<(usize, Unit)>,
) -> Result<(), (usize, Error)> {
    let (mut singles, mut whole) = (Vec::new(), Vec::new());
    let mut before = known(lane, &units).await;
    for (member, unit) in units {
        let values = match unit.writes.as_slice() {
            [Write::Update { id, expected, .. }] => before
                .remove(&(unit.tenant.clone(), *id))
                .filter(|(version, _)| version == expected)
                .map(|(_, values)| values),
            _ => None,
        };
        match write::single::<D>(&unit.tenant, &unit.writes, &values.unwrap_or_default()) {
            // One statement is a unit of work by itself.
            Some(sql) => singles.push((member, unit, sql)),
            None => whole.push((member, unit)),
        }
    }
    // Those with the same text are one prepared run, in lengths of which there are few.
    singles.sort_by(|(_, _, a), (_, _, b)| a.text().cmp(b.text()));
    let mut rest = singles.as_slice();
    while let Some((_, _, first)) = rest.first() {
        let alike = rest
            .iter()
            .take(STATEMENTS)
            .take_while(|(_, _, sql)| sql.text() == first.text())
            .count();
        let (now, later) = rest.split_at(1 << alike.ilog2());
        let statements = now.iter().map(|(_, _, sql)| sql.clone()).collect();
        let (changed, fault) = lane.pipeline(statements).await;
        let done = changed.len();
        for ((member, unit, _), changed) in now.iter().zip(changed) {
            let outcome = write::single_done(lane, &unit.tenant, &unit.writes, changed).await;
            group.note(*member, outcome);
        }
        rest = match (fault, now.get(done)) {
            (None, _) | (_, None) => later,
            (Some(fault @ Fault::Taken(_)), Some((member, unit, _))) => {
                group.note(*member, Err(write::single_failed(&unit.writes, fault)));
                rest.get(done + 1..).unwrap_or_default()
            }
            (Some(fault), Some((member, unit, _))) => {
                return Err((*member, write::single_failed(&unit.writes, fault)));
            }
        };
    }
    for (member, unit) in whole {
        let outcome = apart(lane, &unit).await.map_err(|error| (member, error))?;
        group.note(member, outcome);
    }
    Ok(())
}

type Known = HashMap<(TenantId, Uuid), (Version, Vec<Value>)>;

/// The records that units of one update are about, as they are: what such an update leaves as it is need not be written,
/// and neither do its indexes. A record that changes meanwhile has another version, and then the update does not happen.
/// What cannot be read is just not known.
async fn known<D: Dialect>(lane: &mut Lane<D>, units: &[(usize, Unit)]) -> Known {
    let mut asked: Vec<(&'static Schema, &TenantId, Vec<Uuid>)> = Vec::new();
    for (_, unit) in units {
        let [
            Write::Update {
                id,
                record,
                before: None,
                ..
            },
        ] = unit.writes.as_slice()
        else {
            continue;
        };
        let same = |(schema, tenant, _): &&mut (&'static Schema, &TenantId, Vec<Uuid>)| {
            std::ptr::eq(*schema, record.schema()) && *tenant == &unit.tenant
        };
        match asked.iter_mut().find(same) {
            Some((_, _, ids)) => ids.push(*id),
            None => asked.push((record.schema(), &unit.tenant, vec![*id])),
        }
    }
    let mut known = Known::new();
    for (schema, tenant, ids) in asked {
        // For one record the question costs more than it saves.
        if schema.indexes.is_empty() || ids.len() < 2 {
            continue;
        }
        let (sql, types) = compile::get::<D>(schema, tenant, &ids);
        for row in lane.query(sql, &types).await.unwrap_or_default() {
            let mut row = row.into_iter();
            if let (Some(Value::Uuid(id)), Some(Value::Int(version))) = (row.next(), row.next()) {
                known.insert((tenant.clone(), id), (version, row.collect()));
            }
        }
    }
    known
}

/// Carries out a unit so that it leaves no trace when it fails.
///
/// # Errors
/// When it took the whole transaction with it.
async fn apart<D: Dialect>(lane: &mut Lane<D>, unit: &Unit) -> Result<Result<Vec<Outcome>>> {
    lane.step(Control::Mark).await?;
    match write::all(lane, &unit.tenant, &unit.writes).await {
        Ok(outcomes) => {
            lane.step(Control::Keep).await?;
            Ok(Ok(outcomes))
        }
        Err(error) => {
            if lane.step(Control::Undo).await.is_err() || lane.step(Control::Keep).await.is_err() {
                return Err(error);
            }
            Ok(Err(error))
        }
    }
}
