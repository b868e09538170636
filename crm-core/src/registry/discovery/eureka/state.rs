//! What a register of Eureka keeps, and its rules: leases, statuses, what changed lately.
//!
//! The rules are those of the public server as its recorded answers show them. Among them are some that surprise, and
//! are kept, because clients count on them: a renewal adds the lease's duration to the time it ends at, so that a lease
//! that was ever renewed lives for two of them; and a registration does not change the status of an instance that is up
//! or out of service, unless it says that the instance is neither.

use std::collections::{BTreeMap, VecDeque};

use super::model::{Action, App, Apps, Info, SECURE_VIP, Status, VIP, hash_of};
use super::order;
use crate::id::split_mix;

/// How long a change stays in the delta.
const DELTA_MS: i64 = 180_000;
/// How long an override is remembered that nobody asks for.
const OVERRIDE_MS: i64 = 3_600_000;
/// Room of the delta. Who misses what fell out finds that the hash differs, and fetches everything.
const MAX_CHANGES: usize = 50_000;

#[derive(Debug, Clone)]
struct Lease {
    info: Info,
    duration_ms: i64,
    registered: i64,
    /// The last renewal, or the end of the lease it gave, see the module.
    renewed: i64,
    evicted: i64,
    up: i64,
    /// Which registration it is: a change in the delta is about this one.
    serial: u64,
}

impl Lease {
    fn renew(&mut self, now: i64) {
        self.renewed = now.saturating_add(self.duration_ms);
    }
    fn lapsed(&self, now: i64) -> bool {
        self.evicted > 0 || now > self.renewed.saturating_add(self.duration_ms)
    }
    fn serve(&mut self, now: i64) {
        if self.up == 0 {
            self.up = now;
        }
    }
    fn shown(&self) -> Info {
        let mut info = self.info.clone();
        info.lease.registered = self.registered;
        info.lease.renewed = self.renewed;
        info.lease.evicted = self.evicted;
        info.lease.up = self.up;
        info.coordinating = false;
        info
    }
}

#[derive(Debug, Clone)]
struct Change {
    at: i64,
    app: String,
    id: String,
    serial: u64,
    /// The lease as it ended, once it is not in the register any more.
    ended: Option<Box<Lease>>,
}

/// Why something was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No such instance, or the client knows something newer: register again.
    Unknown,
    /// No more room.
    Full,
}

/// How a register behaves.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) max_instances: usize,
    pub(super) evict_every_ms: i64,
    pub(super) self_preservation: bool,
}

#[derive(Debug)]
pub(super) struct State {
    rules: Rules,
    apps: BTreeMap<String, BTreeMap<String, Lease>>,
    count: usize,
    overrides: BTreeMap<String, (Status, i64)>,
    changes: VecDeque<Change>,
    serial: u64,
    /// How often a delta was made of other changes than the one before, and of which changes the last one was.
    deltas: i64,
    delta_of: Option<(u64, usize)>,
    changed: u64,
    evicted_at: Option<i64>,
    renewals: VecDeque<i64>,
    dice: u64,
}

impl State {
    pub(super) fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            apps: BTreeMap::new(),
            count: 0,
            overrides: BTreeMap::new(),
            changes: VecDeque::new(),
            serial: 0,
            deltas: 0,
            delta_of: None,
            changed: 0,
            evicted_at: None,
            renewals: VecDeque::new(),
            dice: seed,
        }
    }

    fn lease_mut(&mut self, app: &str, id: &str) -> Option<&mut Lease> {
        self.apps.get_mut(app)?.get_mut(id)
    }

    /// The status that counts: what an instance says that cannot serve, else what was overridden, else what it was.
    fn effective(&mut self, info: &Info, existing: Option<Status>, now: i64) -> Status {
        if !matches!(info.status, Status::Up | Status::OutOfService) {
            return info.status;
        }
        if let Some(id) = info.id()
            && let Some((status, asked)) = self.overrides.get_mut(id)
        {
            *asked = now;
            return *status;
        }
        match existing {
            Some(status @ (Status::Up | Status::OutOfService)) => status,
            _ => info.status,
        }
    }

    pub(super) fn register(&mut self, mut info: Info, now: i64) -> Result<(), Refusal> {
        let (Some(app), Some(id)) = (info.app.clone(), info.id().map(str::to_owned)) else {
            return Err(Refusal::Unknown);
        };
        let existing = self.apps.get(&app).and_then(|leases| leases.get(&id)).cloned();
        let duration_ms = info.lease.duration_secs.clamp(1, 86_400) * 1000;
        match &existing {
            // What is here is newer than what the client says.
            Some(existing) if existing.info.last_dirty > info.last_dirty => info = existing.info.clone(),
            Some(_) => {}
            None if self.count >= self.rules.max_instances => return Err(Refusal::Full),
            None => self.count += 1,
        }
        if info.overridden != Status::Unknown {
            self.overrides.entry(id.clone()).or_insert((info.overridden, now));
        }
        if let Some((status, _)) = self.overrides.get(&id) {
            info.overridden = *status;
        }
        info.status = self.effective(&info, existing.as_ref().map(|lease| lease.info.status), now);
        info.action = Some(Action::Added);
        info.last_updated = now;
        self.serial += 1;
        let mut lease = Lease {
            duration_ms,
            registered: now,
            renewed: now,
            evicted: 0,
            up: existing.as_ref().map_or(0, |lease| lease.up),
            serial: self.serial,
            info,
        };
        if lease.info.status == Status::Up {
            lease.serve(now);
        }
        if let Some(existing) = existing {
            self.settle(&app, &id, &existing);
        }
        self.note(&app, &id, self.serial, now);
        self.apps.entry(app).or_default().insert(id, lease);
        Ok(())
    }

    /// Remembers that an instance changed.
    fn note(&mut self, app: &str, id: &str, serial: u64, now: i64) {
        self.changed += 1;
        if self.changes.len() >= MAX_CHANGES {
            self.changes.pop_front();
        }
        // Several changes of one registration are shown as one, at the place of the last.
        self.changes.push_back(Change {
            at: now,
            app: app.to_owned(),
            id: id.to_owned(),
            serial,
            ended: None,
        });
    }

    /// Keeps what a lease was at its end with the changes that are about it.
    fn settle(&mut self, app: &str, id: &str, lease: &Lease) {
        for change in &mut self.changes {
            if change.serial == lease.serial && change.app == app && change.id == id {
                change.ended = Some(Box::new(lease.clone()));
            }
        }
    }

    /// `dirty` is the client's own version of what it said of itself.
    pub(super) fn renew(&mut self, app: &str, id: &str, dirty: Option<i64>, now: i64) -> Result<(), Refusal> {
        let info = match self.apps.get(app).and_then(|leases| leases.get(id)) {
            Some(lease) => lease.info.clone(),
            None => return Err(Refusal::Unknown),
        };
        let status = self.effective(&info, Some(info.status), now);
        if status == Status::Unknown {
            // An override was taken away without saying what holds instead.
            return Err(Refusal::Unknown);
        }
        self.renewals.push_back(now);
        let minute = now - 60_000;
        while self.renewals.front().is_some_and(|at| *at < minute) {
            self.renewals.pop_front();
        }
        let Some(lease) = self.lease_mut(app, id) else {
            return Err(Refusal::Unknown);
        };
        lease.info.status = status;
        lease.renew(now);
        if dirty.is_some_and(|dirty| dirty > lease.info.last_dirty) {
            return Err(Refusal::Unknown);
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, app: &str, id: &str, now: i64) -> Result<(), Refusal> {
        self.overrides.remove(id);
        let Some(leases) = self.apps.get_mut(app) else {
            return Err(Refusal::Unknown);
        };
        let Some(mut lease) = leases.remove(id) else {
            return Err(Refusal::Unknown);
        };
        if leases.is_empty() {
            self.apps.remove(app);
        }
        self.count -= 1;
        if lease.evicted <= 0 {
            lease.evicted = now;
        }
        lease.info.action = Some(Action::Deleted);
        lease.info.last_updated = now;
        self.note(app, id, lease.serial, now);
        self.settle(app, id, &lease);
        Ok(())
    }

    /// An operator says what its status is. `None` takes the override away.
    pub(super) fn set_status(
        &mut self,
        app: &str,
        id: &str,
        overriding: bool,
        status: Status,
        dirty: Option<i64>,
        now: i64,
    ) -> Result<(), Refusal> {
        if self.get(app, id, now).is_none() {
            return Err(Refusal::Unknown);
        }
        let had = if overriding {
            None
        } else {
            self.overrides.remove(id)
        };
        let Some(lease) = self.lease_mut(app, id) else {
            return Err(Refusal::Unknown);
        };
        lease.renew(now);
        let changes = if overriding {
            lease.info.status != status
        } else {
            had.is_some()
        };
        if !changes {
            return Ok(());
        }
        if overriding && status == Status::Up {
            lease.serve(now);
        }
        lease.info.overridden = if overriding { status } else { Status::Unknown };
        lease.info.status = status;
        lease.info.last_dirty = lease.info.last_dirty.max(dirty.unwrap_or(0));
        lease.info.action = Some(Action::Modified);
        lease.info.last_updated = now;
        let serial = lease.serial;
        if overriding {
            self.overrides.insert(id.to_owned(), (status, now));
        }
        self.note(app, id, serial, now);
        Ok(())
    }

    /// Adds metadata; that counts as registering again.
    pub(super) fn add_metadata(
        &mut self,
        app: &str,
        id: &str,
        pairs: Vec<(String, String)>,
        now: i64,
    ) -> Result<(), Refusal> {
        if self.get(app, id, now).is_none() {
            return Err(Refusal::Unknown);
        }
        let Some(lease) = self.lease_mut(app, id) else {
            return Err(Refusal::Unknown);
        };
        let mut info = lease.info.clone();
        for (key, value) in pairs {
            if !super::model::put(&mut info.metadata, key, value) {
                return Err(Refusal::Full);
            }
        }
        self.register(info, now)
    }

    /// Whether leases end: not while so few renew that the network is more likely to be at fault than they.
    fn leases_end(&self, now: i64) -> bool {
        if !self.rules.self_preservation {
            return true;
        }
        let expected: f64 = self
            .apps
            .values()
            .flat_map(BTreeMap::values)
            .map(|lease| 60.0 / lease.info.lease.renewal_secs.max(1) as f64)
            .sum();
        let seen = self.renewals.iter().filter(|at| **at >= now - 60_000).count();
        seen as f64 > expected * 0.85
    }

    /// Ends the leases that lapsed, when a pass is due: at most so many that 85 % stay, and at least one, by chance.
    /// Gives the milliseconds until the next pass.
    pub(super) fn evict(&mut self, now: i64) -> i64 {
        let every = self.rules.evict_every_ms;
        let since = self.evicted_at.map(|at| now - at);
        match since {
            Some(since) if since < every => return every - since,
            _ => self.evicted_at = Some(now),
        }
        self.changes.retain(|change| change.at >= now - DELTA_MS);
        self.overrides.retain(|_, (_, asked)| *asked >= now - OVERRIDE_MS);
        if since.is_none() || !self.leases_end(now) {
            return every;
        }
        let mut lapsed: Vec<(String, String)> = self
            .apps
            .iter()
            .flat_map(|(app, leases)| {
                leases
                    .iter()
                    .filter(|(_, lease)| lease.lapsed(now))
                    .map(|(id, _)| (app.clone(), id.clone()))
            })
            .collect();
        let most = self.count - (self.count as f64 * 0.85) as usize;
        for _ in 0..lapsed.len().min(most) {
            let at = (split_mix(&mut self.dice) % lapsed.len() as u64) as usize;
            let (app, id) = lapsed.swap_remove(at);
            // It is there: it was found under the same lock.
            let _ = self.cancel(&app, &id, now);
        }
        every
    }

    /// One instance, unless its lease has lapsed.
    pub(super) fn get(&self, app: &str, id: &str, now: i64) -> Option<Info> {
        let lease = self.apps.get(app)?.get(id)?;
        (!lease.lapsed(now) || !self.leases_end(now)).then(|| lease.shown())
    }

    /// One instance, whatever its application.
    pub(super) fn find(&self, id: &str, now: i64) -> Option<Info> {
        self.apps.keys().find_map(|app| self.get(app, id, now))
    }

    pub(super) fn app(&self, name: &str) -> Option<App> {
        let leases = self.apps.get(name)?;
        let mut instances: Vec<(&String, &Lease)> = leases.iter().collect();
        order::by_table(&mut instances, |(id, _)| id.as_str());
        Some(App {
            name: name.to_owned(),
            instances: instances.into_iter().map(|(_, lease)| lease.shown()).collect(),
        })
    }

    fn hash(&self) -> String {
        hash_of(
            self.apps
                .values()
                .flat_map(BTreeMap::values)
                .map(|lease| &lease.info),
        )
    }

    /// Everything.
    pub(super) fn all(&self) -> Apps {
        let mut names: Vec<&String> = self.apps.keys().collect();
        order::by_table(&mut names, |name| name.as_str());
        Apps {
            version: 1,
            hash: self.hash(),
            apps: names.into_iter().filter_map(|name| self.app(name)).collect(),
        }
    }

    /// Those that answer to a virtual address; several are separated by commas.
    pub(super) fn by_address(&self, address: &str, secure: bool) -> Apps {
        let which = if secure { SECURE_VIP } else { VIP };
        let answers = |info: &Info| {
            info.text(which)
                .is_some_and(|list| list.split(',').any(|one| one == address))
        };
        let mut found = self.all();
        for app in &mut found.apps {
            app.instances.retain(answers);
        }
        found.apps.retain(|app| !app.instances.is_empty());
        found.hash = hash_of(found.apps.iter().flat_map(|app| &app.instances));
        found.version = -1;
        found
    }

    /// What changed within the last three minutes: applications in the order of their first change, instances in that
    /// of their last one.
    pub(super) fn delta(&mut self, now: i64) -> Apps {
        let recent = || self.changes.iter().filter(|change| change.at >= now - DELTA_MS);
        let mut last: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        let mut apps: Vec<App> = Vec::new();
        let mut counted = 0;
        for (at, change) in recent().enumerate() {
            counted = at + 1;
            last.insert((&change.app, &change.id), at);
        }
        for (at, change) in recent().enumerate() {
            let place = *places.entry(&change.app).or_insert_with(|| {
                apps.push(App {
                    name: change.app.clone(),
                    instances: Vec::new(),
                });
                apps.len() - 1
            });
            if last.get(&(change.app.as_str(), change.id.as_str())) != Some(&at) {
                continue;
            }
            let ended = change.ended.as_deref();
            if let Some(lease) = ended.or_else(|| self.apps.get(&change.app)?.get(&change.id))
                && let Some(app) = apps.get_mut(place)
            {
                app.instances.push(lease.shown());
            }
        }
        if self.delta_of != Some((self.changed, counted)) {
            self.delta_of = Some((self.changed, counted));
            self.deltas += 1;
        }
        Apps {
            version: self.deltas,
            hash: self.hash(),
            apps,
        }
    }
}
