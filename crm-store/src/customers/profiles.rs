//! Edits of many profiles in one run, kept like an import: under a name, with a journal, to be undone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{Checkpoint, EditRun, Edited, EditsUndone, ProfileEdit, ProfileWriter};
use crm_core::customer::{Attributes, CUSTOMER};
use crm_core::record::{Stored, Version, Write};
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Timestamp, Uuid};
use sha2::{Digest, Sha256};

use super::fields::Declared;
use super::import::job::{ImportJob, ImportReport, ImportState, read_job};
use super::import::journal::{Journal, Known};
use super::import::{dry, job_record, taken_over};
use super::matching::Change;
use super::{Customers, IMPORT_JOB, IMPORT_ROW};

/// Customers of one unit of work.
const UNIT: usize = 500;
/// How often a unit of work is planned anew after somebody else was faster.
const TRIES: usize = 20;
/// What the job of edits has in the place of a collector's checkpoint.
const MARK: &str = "edits";

/// Whether a job is one of edits.
pub(super) fn is_edits(job: &ImportJob) -> bool {
    let mark = |Checkpoint(json): &Checkpoint| json.get(MARK).is_some();
    job.checkpoint.as_ref().is_some_and(mark)
}

/// The job's record while edits run.
struct Open {
    id: Uuid,
    run: Uuid,
    version: Version,
    created_at: Timestamp,
    job: ImportJob,
}

impl Open {
    fn write(&self, job: &ImportJob, now: Timestamp) -> Result<Write> {
        let record = job_record(job, self.created_at, now)?;
        Ok(match self.version {
            0 => Write::insert(self.id, record),
            version => Write::update(self.id, version, record),
        })
    }

    /// What an edit is recognised by when the call is repeated.
    fn key(&self, edit: &ProfileEdit) -> Uuid {
        let mut hash = Sha256::new();
        hash.update(b"edit");
        hash.update(self.id.as_bytes());
        // An edit is plain data: writing it as JSON cannot fail.
        hash.update(serde_json::to_vec(edit).unwrap_or_default());
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(hash.finalize()) {
            *to = from;
        }
        Uuid::from_bytes(bytes)
    }
}

impl Customers {
    /// Changes fields of many profiles in one named run, which is kept like an import: what each customer was before is in
    /// its journal, [`Customers::undo_import`] or [`ProfileWriter::undo`] give it back, [`Customers::job`] tells how it went.
    /// Declared attributes are checked and their index follows. Works in units of 500 customers, each with its part of the
    /// journal and the run's count.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # use std::sync::Arc;
    /// # use crm_core::memory::MemoryStore;
    /// # use crm_core::{Context, RandomIds, SystemClock, TenantId, Timestamp};
    /// use crm_core::capability::{EditRun, Edited, ProfileEdit, ProfileWriter};
    /// use crm_core::customer::{Draft, PersonName, Provenance};
    /// use crm_store::Customers;
    ///
    /// # let store = Arc::new(MemoryStore::new("records"));
    /// # let customers = Customers::new(store, SystemClock::shared(), RandomIds::shared());
    /// # let ctx = Context::new(TenantId::new("shop").unwrap());
    /// let mut draft = Draft::new(Provenance::new("form", Timestamp::EPOCH));
    /// draft.name = Some(PersonName::new("ANA", "KASK"));
    /// let ana = customers.create(&ctx, draft).await.unwrap();
    ///
    /// let run = EditRun::new("names-2026-03", Provenance::new("cleaning", Timestamp::EPOCH));
    /// let edit = ProfileEdit::new(ana.id, ana.version).set("given_name".parse().unwrap(), "Ana");
    /// assert_eq!(customers.edit_profiles(&ctx, &run, &[edit]).await.unwrap(), [Edited::Written(2)]);
    /// assert_eq!(customers.get(&ctx, ana.id).await.unwrap().unwrap().name.given, "Ana");
    ///
    /// assert_eq!(customers.undo(&ctx, "names-2026-03").await.unwrap().restored, 1);
    /// assert_eq!(customers.get(&ctx, ana.id).await.unwrap().unwrap().name.given, "ANA");
    /// # });
    /// ```
    ///
    /// # Errors
    /// As [`ProfileWriter::edit`].
    pub async fn edit_profiles(
        &self,
        ctx: &Context,
        run: &EditRun,
        edits: &[ProfileEdit],
    ) -> Result<Vec<Edited>> {
        self.edited(ctx, run, edits)
            .await
            .map_err(|error| error.operation("customers.edit_profiles"))
    }

    async fn edited(&self, ctx: &Context, run: &EditRun, edits: &[ProfileEdit]) -> Result<Vec<Edited>> {
        run.validate()?;
        self.prepare().await?;
        let mut customers = self.clone();
        if run.dry {
            customers.store = Arc::new(dry::Overlay::new(self.store.clone()));
        }
        let mut open = customers.open_edits(ctx, &run.name).await?;
        let mut seen = HashSet::new();
        let twice: Vec<bool> = edits.iter().map(|edit| !seen.insert(edit.customer)).collect();
        let mut done = Vec::with_capacity(edits.len());
        for (edits, twice) in edits.chunks(UNIT).zip(twice.chunks(UNIT)) {
            ctx.check(&*self.clock)?;
            let fresh: Vec<&ProfileEdit> = edits
                .iter()
                .zip(twice)
                .filter(|(_, twice)| !**twice)
                .map(|(edit, _)| edit)
                .collect();
            let mut answers = customers
                .edit_unit(ctx, run, &mut open, &fresh)
                .await?
                .into_iter();
            for twice in twice {
                done.push(match (*twice, answers.as_mut_slice()) {
                    (false, [_, ..]) => answers.next().unwrap_or(Edited::Unchanged),
                    _ => Edited::Refused {
                        field: None,
                        reason: "the customer is edited twice in one call; put the fields into one edit"
                            .to_owned(),
                    },
                });
            }
        }
        open.job.state = ImportState::Finished;
        let write = open.write(&open.job, customers.clock.now())?;
        customers
            .store
            .apply(ctx, &[write])
            .await
            .map(drop)
            .map_err(taken_over)?;
        Ok(done)
    }

    /// Begins a run, or goes on with the one of this name; another call that has it open is fenced off.
    async fn open_edits(&self, ctx: &Context, name: &str) -> Result<Open> {
        let mut open = Open {
            id: self.ids.fresh(),
            run: self.ids.fresh(),
            version: 0,
            created_at: self.clock.now(),
            job: ImportJob {
                name: name.to_owned(),
                state: ImportState::Running,
                checkpoint: None,
                report: ImportReport::default(),
                run: None,
            },
        };
        if let Some(stored) = self.stored_job(ctx, name).await? {
            let known = read_job(&stored)?;
            (open.id, open.version) = (stored.id, stored.version);
            open.created_at = stored.record.timestamp("created_at")?;
            match known.state {
                ImportState::Undone => {}
                ImportState::Undoing => {
                    return Err(Error::conflict(
                        "this run is being undone; let the undo come to its end first",
                    )
                    .with("run", name));
                }
                _ if is_edits(&known) => {
                    open.run = known.run.unwrap_or(open.run);
                    open.job.report = known.report;
                }
                _ => {
                    return Err(
                        Error::conflict("an import has this name; take another one for the edits")
                            .with("run", name),
                    );
                }
            }
        }
        open.job.run = Some(open.run);
        open.job.checkpoint = Some(Checkpoint(serde_json::json!({ MARK: true })));
        let write = open.write(&open.job, self.clock.now())?;
        self.store.apply(ctx, &[write]).await.map_err(taken_over)?;
        open.version += 1;
        Ok(open)
    }

    /// Edits some customers as one unit of work. When it cannot be stored, one by one, so that one does not keep the others.
    async fn edit_unit(
        &self,
        ctx: &Context,
        run: &EditRun,
        open: &mut Open,
        edits: &[&ProfileEdit],
    ) -> Result<Vec<Edited>> {
        if edits.is_empty() {
            return Ok(Vec::new());
        }
        let declared = self.declared(ctx).await?;
        for _ in 0..TRIES {
            let (answers, mut writes, outcomes, keys) =
                self.edit_writes(ctx, run, open, edits, &declared).await?;
            if writes.is_empty() {
                return Ok(answers);
            }
            let now = self.clock.now();
            let journal = Journal {
                job: open.id,
                run: open.run,
            };
            let rows = (keys.as_slice(), outcomes.as_slice());
            let entries = journal
                .entries((&*self.store, ctx), now, rows, &Known::default(), &writes)
                .await?;
            writes.extend(entries);
            let mut job = open.job.clone();
            job.report.updated += outcomes.len() as u64;
            writes.push(open.write(&job, now)?);
            let error = match self.commit(ctx, &writes).await {
                Ok(()) => {
                    open.job = job;
                    open.version += 1;
                    return Ok(answers);
                }
                Err(error) => error,
            };
            let ours = error.context("schema") == Some(IMPORT_JOB.name);
            match error.kind() {
                ErrorKind::Conflict if ours => return Err(taken_over(error)),
                ErrorKind::Conflict | ErrorKind::Invalid if edits.len() > 1 => {
                    let mut answers = Vec::with_capacity(edits.len());
                    for edit in edits {
                        answers.extend(Box::pin(self.edit_unit(ctx, run, open, &[*edit])).await?);
                    }
                    return Ok(answers);
                }
                // Whoever was faster is seen when it is looked at again: the customer has another version then.
                ErrorKind::Conflict if super::import::is_race(&error) => tokio::task::yield_now().await,
                ErrorKind::Conflict | ErrorKind::Invalid => return Ok(vec![refused(&error)]),
                _ => return Err(error),
            }
        }
        Err(Error::conflict(
            "others kept changing the same customers; try again later",
        ))
    }

    /// What becomes of each edit, the writes of those that change something, whose they are, and their keys.
    async fn edit_writes(
        &self,
        ctx: &Context,
        run: &EditRun,
        open: &Open,
        edits: &[&ProfileEdit],
        declared: &Declared,
    ) -> Result<(Vec<Edited>, Vec<Write>, Vec<(CustomerId, Change)>, Vec<Uuid>)> {
        let keys: Vec<Uuid> = edits.iter().map(|edit| open.key(edit)).collect();
        let known = self.store.get(ctx, &IMPORT_ROW, &keys).await?;
        let ids: Vec<Uuid> = edits.iter().map(|edit| edit.customer.uuid()).collect();
        let stored = self.store.get(ctx, &CUSTOMER, &ids).await?;
        let missing: Vec<CustomerId> = edits
            .iter()
            .zip(&stored)
            .filter(|(_, stored)| stored.is_none())
            .map(|(edit, _)| edit.customer)
            .collect();
        let merged: HashMap<CustomerId, CustomerId> = self.merged_into(ctx, &missing).await?;
        let now = self.clock.now();
        let (mut answers, mut writes) = (Vec::new(), Vec::new());
        let (mut outcomes, mut written) = (Vec::new(), Vec::new());
        for (((edit, stored), key), known) in edits.iter().zip(stored).zip(keys).zip(known) {
            answers.push(match (known, stored) {
                (Some(_), _) => Edited::Repeated,
                (None, None) => match merged.get(&edit.customer) {
                    Some(winner) => Edited::Merged(*winner),
                    None => Edited::Gone,
                },
                (None, Some(stored)) if stored.version != edit.expected => {
                    Edited::ChangedSince(stored.version)
                }
                (None, Some(stored)) => match edited(edit, run, &stored, now, declared) {
                    Ok(None) => Edited::Unchanged,
                    Ok(Some(write)) => {
                        writes.push(write);
                        outcomes.push((edit.customer, Change::Updated));
                        written.push(key);
                        Edited::Written(stored.version + 1)
                    }
                    Err(error) if error.kind() == ErrorKind::Invalid => refused(&error),
                    Err(error) => return Err(error),
                },
            });
        }
        Ok((answers, writes, outcomes, written))
    }
}

/// The write of one edit; `None` when it changes nothing.
fn edited(
    edit: &ProfileEdit,
    run: &EditRun,
    stored: &Stored,
    now: Timestamp,
    declared: &Declared,
) -> Result<Option<Write>> {
    let Some(record) = edit.applied(stored, &run.said_by, now)? else {
        return Ok(None);
    };
    let before: Attributes = stored.record.json("attributes")?;
    let after: Attributes = record.json("attributes")?;
    declared.check_all(&after, Some(&before))?;
    Ok(Some(Write::update(stored.id, stored.version, record)))
}

fn refused(error: &Error) -> Edited {
    let field = error.context("field").or(error.context("key"));
    Edited::Refused {
        field: field.map(str::to_owned),
        reason: error.message().to_owned(),
    }
}

#[async_trait]
impl ProfileWriter for Customers {
    async fn edit(&self, ctx: &Context, run: &EditRun, edits: &[ProfileEdit]) -> Result<Vec<Edited>> {
        self.edit_profiles(ctx, run, edits).await
    }

    async fn undo(&self, ctx: &Context, run: &str) -> Result<EditsUndone> {
        self.prepare().await?;
        let job = self.job(ctx, run).await?;
        let is_run = |job: &ImportJob| {
            is_edits(job) || matches!(job.state, ImportState::Undone | ImportState::Undoing)
        };
        if !job.as_ref().is_some_and(is_run) {
            return Err(Error::new(ErrorKind::NotFound, "no edits of this name were made")
                .operation("customers.undo_edits")
                .with("run", run));
        }
        let report = self.undo_import(ctx, run, &mut |_| ()).await?;
        let mut undone = EditsUndone::default();
        (undone.restored, undone.kept) = (report.restored, report.kept);
        undone.kept_customers = report
            .kept_customers
            .iter()
            .map(|kept| kept.customer_id)
            .collect();
        Ok(undone)
    }
}
