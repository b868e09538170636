//! Undoing an import: who came in goes, who was changed is as before, and what was changed since stays and is named.

use std::collections::BTreeMap;

use crm_core::activity::{INTERACTION, ORDER};
use crm_core::consent::CONSENT_EVENT;
use crm_core::customer::CUSTOMER;
use crm_core::query::{Filter, Query};
use crm_core::record::{Schema, Stored, Version, Write};
use crm_core::segment::SEGMENT_MEMBER;
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Uuid};
use serde::{Deserialize, Serialize};

use super::import::job::{ImportJob, ImportState, read_job};
use super::import::journal::{Before, read_row};
use super::import::{job_record, taken_over};
use super::{Customers, IMPORT_ROW, SCHEMAS, plain, shape};

/// Customers of one unit of work.
const UNIT: usize = 200;
/// Rows read at once.
const ROWS: u32 = 1000;
/// Customers named in the report.
const NAMED: usize = 1000;
/// How often a unit of work is planned anew when somebody else writes at the same time.
const TRIES: usize = 20;

/// A customer an undo left as it is.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Who.
    pub customer_id: CustomerId,
    /// Why.
    pub reason: KeptReason,
}

/// Why an undo left a customer as it is.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptReason {
    /// It was changed since, by a person or another import.
    ChangedSince,
    /// It came in with the import, but there are consents, memberships or events about it from elsewhere.
    HasMore,
    /// A key it had before belongs to somebody else now.
    KeyTaken,
    /// What it was before was purged ([`Customers::purge`]).
    Purged,
}

/// What an undo did.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UndoReport {
    /// Customers that came in with the import and are gone.
    pub removed: u64,
    /// Customers that are as they were before.
    pub restored: u64,
    /// Customers who had only said nothing new, or got orders and interactions that are gone.
    pub cleared: u64,
    /// Customers that were left as they are.
    pub kept: u64,
    /// Who, up to 1,000 of them.
    pub kept_customers: Vec<Kept>,
    /// Orders and interactions that are gone, with whom they came or from those who stay.
    pub events_removed: u64,
}

impl UndoReport {
    fn keep(&mut self, customer: Uuid, reason: KeptReason) {
        self.kept += 1;
        if self.kept_customers.len() < NAMED {
            self.kept_customers.push(Kept {
                customer_id: customer.into(),
                reason,
            });
        }
    }
}

/// What a run did to one customer.
#[derive(Default)]
struct Deeds {
    /// The journal's rows, to be removed with the deed.
    rows: Vec<Stored>,
    /// By record, what it was before the run's first write and the version its last write gave it.
    before: BTreeMap<(String, Uuid), (Before, Version)>,
    added: BTreeMap<(String, Uuid), &'static Schema>,
    /// Some of what was before was purged.
    purged: bool,
}

impl Customers {
    /// Undoes the last run of an import: whom it made is removed with contact points, references, orders and
    /// interactions; whom it changed gets the values back that were there before the run. A customer that was changed
    /// since, or about whom there is more by now, stays and is named. Works in units of some hundred customers, each
    /// whole; stopped or killed, the call goes on when repeated. The job's rows are forgotten, so that the same file can
    /// be read anew.
    ///
    /// A run that is still open is fenced off first: its next unit of work fails.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such job; [`ErrorKind::Unsupported`] when its last run kept no journal;
    /// [`ErrorKind::Conflict`] when another run has taken over; the store's.
    pub async fn undo_import(
        &self,
        ctx: &Context,
        job: &str,
        progress: &mut (dyn FnMut(&UndoReport) + Send),
    ) -> Result<UndoReport> {
        self.undone(ctx, job, progress)
            .await
            .map_err(|error| error.operation("customers.undo_import"))
    }

    async fn undone(
        &self,
        ctx: &Context,
        name: &str,
        progress: &mut (dyn FnMut(&UndoReport) + Send),
    ) -> Result<UndoReport> {
        self.prepare().await?;
        let stored = self
            .stored_job(ctx, name)
            .await?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no import of this name ran").with("job", name))?;
        let mut job = read_job(&stored)?;
        let seen = job.report.created + job.report.updated + job.report.unchanged;
        let Some(run) = job.run else {
            return Err(no_journal(name));
        };
        let mut report = UndoReport::default();
        if job.state == ImportState::Undone {
            return Ok(report);
        }
        let of_run = Filter::eq("run", run);
        let rows = self.store.count(ctx, &IMPORT_ROW, &of_run).await?;
        if rows == 0 && job.state != ImportState::Undoing && seen > job.report.repeated {
            return Err(no_journal(name));
        }
        let created = stored.record.timestamp("created_at")?;
        let mut version = stored.version;
        job.state = ImportState::Undoing;
        self.note(ctx, &stored, &job, (created, version)).await?;
        version += 1;
        loop {
            ctx.check(&*self.clock)?;
            let query = Query::new(of_run.clone()).ascending("customer_id").limit(ROWS);
            let page = self.store.find(ctx, &IMPORT_ROW, &query).await?;
            let mut customers: Vec<Uuid> = Vec::new();
            for stored in &page.items {
                let customer = stored.record.uuid("customer_id")?;
                if customers.last() != Some(&customer) {
                    customers.push(customer);
                }
            }
            if customers.is_empty() {
                break;
            }
            for some in customers.chunks(UNIT) {
                self.undo_some(ctx, run, some, &mut report).await?;
                progress(&report);
            }
        }
        job.state = ImportState::Undone;
        job.checkpoint = None;
        self.note(ctx, &stored, &job, (created, version)).await?;
        Ok(report)
    }

    async fn note(
        &self,
        ctx: &Context,
        stored: &Stored,
        job: &ImportJob,
        (created, version): (crm_core::Timestamp, Version),
    ) -> Result<()> {
        let record = job_record(job, created, self.clock.now())?;
        let write = Write::update(stored.id, version, record);
        self.store
            .apply(ctx, &[write])
            .await
            .map(drop)
            .map_err(taken_over)
    }

    /// Undoes what a run did to some customers, as one unit of work. When it cannot be stored, one by one, so that one
    /// who cannot be undone does not keep the others.
    async fn undo_some(
        &self,
        ctx: &Context,
        run: Uuid,
        customers: &[Uuid],
        report: &mut UndoReport,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let mut told = report.clone();
            let writes = self.undo_writes(ctx, run, customers, &mut told).await?;
            match self.commit(ctx, &writes).await {
                Ok(_) => {
                    *report = told;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    if customers.len() > 1 {
                        for one in customers {
                            Box::pin(self.undo_some(ctx, run, std::slice::from_ref(one), report)).await?;
                        }
                        return Ok(());
                    }
                    // A unique key: somebody else has it now. A version: somebody writes at this moment.
                    let index = error.context("index").unwrap_or_default().to_owned();
                    if index != "version" && index != "id" {
                        return self
                            .give_up(ctx, run, customers, KeptReason::KeyTaken, report)
                            .await;
                    }
                    tokio::task::yield_now().await;
                }
                Err(error) => return Err(error),
            }
        }
        self.give_up(ctx, run, customers, KeptReason::ChangedSince, report)
            .await
    }

    /// Leaves customers as they are: only the journal goes.
    async fn give_up(
        &self,
        ctx: &Context,
        run: Uuid,
        customers: &[Uuid],
        reason: KeptReason,
        report: &mut UndoReport,
    ) -> Result<()> {
        let rows = self.journal(ctx, run, customers).await?;
        let writes: Vec<Write> = rows
            .iter()
            .map(|row| Write::delete(&IMPORT_ROW, row.id, None))
            .collect();
        self.store.apply(ctx, &writes).await?;
        for customer in customers {
            report.keep(*customer, reason);
        }
        Ok(())
    }

    async fn journal(&self, ctx: &Context, run: Uuid, customers: &[Uuid]) -> Result<Vec<Stored>> {
        let filter = Filter::eq("run", run).and(Filter::one_of("customer_id", customers.iter().copied()));
        shape::all(&*self.store, ctx, &IMPORT_ROW, filter).await
    }

    async fn undo_writes(
        &self,
        ctx: &Context,
        run: Uuid,
        customers: &[Uuid],
        report: &mut UndoReport,
    ) -> Result<Vec<Write>> {
        let mut deeds: BTreeMap<Uuid, Deeds> = BTreeMap::new();
        for row in self.journal(ctx, run, customers).await? {
            let deed = deeds.entry(row.record.uuid("customer_id")?).or_default();
            let (before, added) = read_row(&row)?;
            deed.purged |= before.is_none();
            for one in before.unwrap_or_default() {
                let key = (one.schema.clone(), one.id);
                let wrote = one.wrote;
                deed.before
                    .entry(key)
                    .and_modify(|(first, last)| {
                        // The earliest values, the latest version.
                        if wrote < first.wrote {
                            *first = one.clone();
                        }
                        *last = wrote.max(*last);
                    })
                    .or_insert((one.clone(), wrote));
            }
            for one in added {
                if let Some(schema) = known_schema(&one.schema) {
                    deed.added.insert((one.schema, one.id), schema);
                }
            }
            deed.rows.push(row);
        }
        let now = self.records(ctx, &deeds).await?;
        let mut writes = Vec::new();
        for (customer, deed) in &deeds {
            let done = self.undo_one(ctx, *customer, deed, &now).await?;
            match done {
                Ok(Some(changes)) => {
                    let events = changes
                        .iter()
                        .filter(|w| {
                            matches!(w, Write::Delete { .. })
                                && [ORDER.name, INTERACTION.name].contains(&w.schema().name)
                        })
                        .count();
                    report.events_removed += events as u64;
                    let own = (CUSTOMER.name.to_owned(), *customer);
                    if deed.added.contains_key(&own) {
                        report.removed += 1;
                    } else if changes.len() > events {
                        report.restored += 1;
                    } else {
                        report.cleared += 1;
                    }
                    writes.extend(changes);
                }
                Ok(None) => report.cleared += 1,
                Err(reason) => report.keep(*customer, reason),
            }
            writes.extend(
                deed.rows
                    .iter()
                    .map(|row| Write::delete(&IMPORT_ROW, row.id, Some(row.version))),
            );
        }
        Ok(writes)
    }

    /// The records of the deeds as they are now.
    async fn records(
        &self,
        ctx: &Context,
        deeds: &BTreeMap<Uuid, Deeds>,
    ) -> Result<BTreeMap<(String, Uuid), Stored>> {
        let mut ids: BTreeMap<&str, Vec<Uuid>> = BTreeMap::new();
        for deed in deeds.values() {
            for (schema, id) in deed.before.keys().chain(deed.added.keys()) {
                ids.entry(schema).or_default().push(*id);
            }
        }
        let mut now = BTreeMap::new();
        for (name, ids) in ids {
            let Some(schema) = known_schema(name) else {
                continue;
            };
            for stored in self.store.get(ctx, schema, &ids).await?.into_iter().flatten() {
                now.insert((name.to_owned(), stored.id), stored);
            }
        }
        Ok(now)
    }

    /// The writes that undo what was done to one customer; `None` when there is nothing to undo.
    async fn undo_one(
        &self,
        ctx: &Context,
        customer: Uuid,
        deed: &Deeds,
        now: &BTreeMap<(String, Uuid), Stored>,
    ) -> Result<Result<Option<Vec<Write>>, KeptReason>> {
        if deed.purged {
            return Ok(Err(KeptReason::Purged));
        }
        if deed.before.is_empty() && deed.added.is_empty() {
            return Ok(Ok(None));
        }
        let mut writes = Vec::new();
        // What identifies is freed before it is given back.
        for (key, schema) in &deed.added {
            // The version the run itself left it with: 1, or more when a later row wrote it again.
            let expected = deed.before.get(key).map_or(1, |(_, wrote)| *wrote);
            match now.get(key) {
                Some(stored) if stored.version == expected => {
                    writes.push(Write::delete(schema, key.1, Some(stored.version)));
                }
                Some(_) => return Ok(Err(KeptReason::ChangedSince)),
                // Gone already: what was to be reached. The customer itself: then nothing is left to do.
                None => {}
            }
        }
        for (key, (before, wrote)) in &deed.before {
            if deed.added.contains_key(key) {
                continue;
            }
            let Some(schema) = known_schema(&key.0) else {
                continue;
            };
            let record = plain::record(schema, before.values.clone())
                .map_err(|error| Error::new(ErrorKind::Corrupt, "a journal cannot be read").source(error))?;
            match now.get(key) {
                Some(stored) if *wrote > 0 && stored.version == *wrote => {
                    writes.push(Write::update(key.1, stored.version, record));
                }
                // The run removed it.
                None if *wrote == 0 => writes.push(Write::insert(key.1, record)),
                _ => return Ok(Err(KeptReason::ChangedSince)),
            }
        }
        let own = (CUSTOMER.name.to_owned(), customer);
        let came_in = deed.added.contains_key(&own) && now.contains_key(&own);
        if came_in && self.has_more(ctx, customer, deed).await? {
            return Ok(Err(KeptReason::HasMore));
        }
        Ok(Ok(Some(writes)))
    }

    /// Whether there are records about a customer that the run did not bring.
    async fn has_more(&self, ctx: &Context, customer: Uuid, deed: &Deeds) -> Result<bool> {
        let of = Filter::eq("customer_id", customer);
        for schema in SCHEMAS {
            if schema.name == IMPORT_ROW.name || schema.field("customer_id").is_none() {
                continue;
            }
            let brought = deed.added.keys().filter(|(name, _)| name == schema.name).count() as u64;
            if self.store.count(ctx, schema, &of).await? > brought {
                return Ok(true);
            }
        }
        // Another run of this or another job said something about it too.
        let Some(run) = deed.rows.first().map(|row| row.record.uuid("run")).transpose()? else {
            return Ok(false);
        };
        let others = of.and(Filter::ne("run", run));
        Ok(self.store.count(ctx, &IMPORT_ROW, &others).await? > 0)
    }
}

fn known_schema(name: &str) -> Option<&'static Schema> {
    SCHEMAS
        .iter()
        .chain(&[&CONSENT_EVENT, &SEGMENT_MEMBER])
        .copied()
        .find(|schema| schema.name == name)
}

fn no_journal(job: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "the last run of this import kept no journal (ImportOptions::without_journal): it cannot be undone",
    )
    .with("job", job)
}
