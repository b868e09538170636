//! The sink of an import: what a collector delivers goes in here.

use async_trait::async_trait;
use crm_core::capability::{Checkpoint, Delivery, DraftSink, Originals, Reject};
use crm_core::customer::Draft;
use crm_core::record::{Record, Version, Write};
use crm_core::{Context, Error, Result, Timestamp, Uuid};

use super::super::Customers;
use super::super::profiles::is_edits;
use super::journal::Journal;
use super::{
    Done, IMPORT_JOB, ImportJob, ImportOptions, ImportReport, ImportState, job, rejects, taken_over,
};

/// Takes what a collector delivers. Each delivery is stored in as few units of work as the batch size allows; the last
/// one carries the checkpoint, the counts and the rejects, so that a killed import goes on without a gap, and what it
/// takes in again is recognised.
///
/// After an error or a dropped call, open a new sink and go on from [`ImportSink::checkpoint`].
#[derive(Debug)]
pub struct ImportSink {
    run: Run,
    pub(super) options: ImportOptions,
}

/// The job's record while it runs.
#[derive(Debug)]
struct Run {
    customers: Customers,
    ctx: Context,
    id: Uuid,
    version: Version,
    /// This run; the same after a stop and a resume.
    run: Uuid,
    created_at: Timestamp,
    job: ImportJob,
    journal: bool,
}

impl ImportSink {
    /// Where the collector goes on.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.run.job.checkpoint.as_ref()
    }

    /// What the import did so far, over all its runs.
    pub fn report(&self) -> &ImportReport {
        &self.run.job.report
    }

    /// Notes that the import came to its end.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Conflict`] when another run has taken over; the store's.
    pub async fn finish(mut self) -> Result<ImportReport> {
        let run = &mut self.run;
        run.job.state = ImportState::Finished;
        let write = run.job_write(&run.job)?;
        let finished = run.customers.store.apply(&run.ctx, &[write]).await;
        finished.map_err(|error| taken_over(error).operation("customers.import"))?;
        Ok(run.job.report)
    }

    /// One unit of work.
    async fn unit(
        &mut self,
        drafts: Vec<Draft>,
        rejects: &[Reject],
        originals: &Originals,
        checkpoint: Option<Checkpoint>,
    ) -> Result<()> {
        let (report, put_aside) = self
            .run
            .unit(drafts, rejects, originals, checkpoint)
            .await
            .map_err(taken_over)?;
        if let Some(told) = &mut self.options.reject {
            put_aside.iter().for_each(told);
        }
        if let Some(progress) = &mut self.options.progress {
            progress(&report);
        }
        Ok(())
    }
}

/// Begins a run, or goes on with one that was stopped; whoever had it open is fenced off by the version.
pub(super) async fn open(
    customers: Customers,
    ctx: &Context,
    name: &str,
    options: ImportOptions,
) -> Result<ImportSink> {
    let mut run = Run {
        id: customers.ids.fresh(),
        run: customers.ids.fresh(),
        version: 0,
        created_at: customers.clock.now(),
        job: ImportJob {
            name: name.to_owned(),
            state: ImportState::Running,
            checkpoint: None,
            report: ImportReport::default(),
            run: None,
        },
        journal: options.journal,
        customers,
        ctx: ctx.clone(),
    };
    if let Some(stored) = run.customers.stored_job(ctx, name).await? {
        run.id = stored.id;
        run.version = stored.version;
        run.created_at = stored.record.timestamp("created_at")?;
        let known = job::read_job(&stored)?;
        if is_edits(&known) {
            return Err(Error::conflict(
                "edits of profiles were made under this name; take another one for the import",
            )
            .with("job", name));
        }
        match known.state {
            ImportState::Running => {
                run.run = known.run.unwrap_or(run.run);
                run.job = known;
            }
            ImportState::Undoing => {
                return Err(Error::conflict(
                    "this import is being undone; let customers.undo_import come to its end first",
                )
                .with("job", name));
            }
            ImportState::Finished | ImportState::Undone => {}
        }
    }
    run.job.run = Some(run.run);
    let write = run.job_write(&run.job)?;
    run.customers
        .store
        .apply(ctx, &[write])
        .await
        .map_err(taken_over)?;
    run.version += 1;
    Ok(ImportSink { run, options })
}

impl Run {
    fn job_write(&self, job: &ImportJob) -> Result<Write> {
        let record = job_record(job, self.created_at, self.customers.clock.now())?;
        Ok(match self.version {
            0 => Write::insert(self.id, record),
            version => Write::update(self.id, version, record),
        })
    }

    async fn unit(
        &mut self,
        drafts: Vec<Draft>,
        rejects: &[Reject],
        originals: &Originals,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(ImportReport, Vec<Reject>)> {
        let mut next = self.job.clone();
        if checkpoint.is_some() {
            next.checkpoint = checkpoint;
        }
        let journal = self.journal.then_some(Journal {
            job: self.id,
            run: self.run,
        });
        let all = |done: &Done| {
            let mut all: Vec<Reject> = rejects.iter().chain(&done.rejects).cloned().collect();
            // Those of one row next to each other.
            all.sort_by_key(|reject| reject.line);
            all
        };
        let also = |done: &Done| {
            let mut job = next.clone();
            job.report.add(&done.report, rejects.len());
            let now = self.customers.clock.now();
            let mut writes = Vec::new();
            for reject in all(done) {
                let about = (self.job.name.as_str(), self.run, self.customers.ids.fresh(), now);
                writes.push(rejects::write(about, &reject, originals)?);
            }
            writes.push(self.job_write(&job)?);
            Ok(writes)
        };
        let done = self
            .customers
            .store(&self.ctx, drafts, journal.as_ref(), also)
            .await?;
        next.report.add(&done.report, rejects.len());
        let put_aside = all(&done);
        self.job = next;
        self.version += 1;
        Ok((self.job.report, put_aside))
    }
}

/// The record of a job.
pub(in super::super) fn job_record(job: &ImportJob, created_at: Timestamp, now: Timestamp) -> Result<Record> {
    let report =
        serde_json::to_value(job.report).map_err(|e| Error::unexpected("a report as JSON").source(e))?;
    Record::from_values(
        &IMPORT_JOB,
        vec![
            job.name.as_str().into(),
            job.state.as_str().into(),
            job.checkpoint.clone().map(|checkpoint| checkpoint.0).into(),
            report.into(),
            created_at.into(),
            now.into(),
            job.run.into(),
        ],
    )
}

#[async_trait]
impl DraftSink for ImportSink {
    async fn deliver(&mut self, delivery: Delivery) -> Result<()> {
        let named = |error: Error| error.operation("customers.import");
        let Delivery {
            mut drafts,
            rejects,
            checkpoint,
            originals,
            ..
        } = delivery;
        while drafts.len() > self.options.batch {
            let rest = drafts.split_off(self.options.batch);
            self.unit(drafts, &[], &originals, None).await.map_err(named)?;
            drafts = rest;
        }
        self.unit(drafts, &rejects, &originals, checkpoint)
            .await
            .map_err(named)
    }
}
