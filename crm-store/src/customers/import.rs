//! Bulk: a stream of drafts becomes units of work, each stored together with how far it got.

use async_trait::async_trait;
use crm_core::activity::{INTERACTION, ORDER};
use crm_core::capability::{Checkpoint, Delivery, DraftSink, Reject};
use crm_core::customer::{CONTACT_POINT, CUSTOMER, Draft, EXTERNAL_REF};
use crm_core::query::{Cursor, Filter, Page, Query};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Version, Write};
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Retry, Timestamp, Uuid};
use serde::{Deserialize, Serialize};

use super::Customers;
use super::matching::{self, Change, Plan};
use super::normalise::{self, Clean};

/// How often a unit of work is planned anew after somebody else was faster. Each time somebody else got on.
const TRIES: usize = 100;

/// How an import is kept: its name, where it stood, and what it did.
pub static IMPORT_JOB: Schema = Schema {
    name: "crm_import_job",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("state", FieldType::Text),
        Field::new("checkpoint", FieldType::Json).nullable(),
        Field::new("report", FieldType::Json),
        Field::new("created_at", FieldType::Timestamp),
        Field::new("updated_at", FieldType::Timestamp),
    ],
    indexes: &[Index::unique("crm_import_job_name", &["name"])],
};

/// How rejects of imports are kept.
pub static IMPORT_REJECT: Schema = Schema {
    name: "crm_import_reject",
    fields: &[
        Field::new("job", FieldType::Text),
        Field::new("place", FieldType::Text),
        Field::new("line", FieldType::Int).nullable(),
        Field::new("field", FieldType::Text).nullable(),
        Field::new("reason", FieldType::Text),
        Field::new("created_at", FieldType::Timestamp),
    ],
    indexes: &[Index::new("crm_import_reject_job", &["job"])],
};

/// What an import did so far. `created + updated + unchanged + rejected` is the number of rows and drafts seen.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportReport {
    /// Drafts that became new customers.
    pub created: u64,
    /// Drafts that said more about a known customer.
    pub updated: u64,
    /// Drafts that said nothing new.
    pub unchanged: u64,
    /// Rows and drafts left out whole.
    pub rejected: u64,
    /// Fields left out of drafts that were taken: an e-mail address that is none, or one of another customer.
    pub fields_rejected: u64,
    /// Orders added.
    pub orders: u64,
    /// Interactions added.
    pub interactions: u64,
}

impl ImportReport {
    /// Rows and drafts seen.
    pub fn seen(&self) -> u64 {
        self.created + self.updated + self.unchanged + self.rejected
    }
}

/// Whether an import came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportState {
    /// Not yet: it runs, or was stopped and can go on.
    Running,
    /// It did; the next run under the same name begins anew.
    Finished,
}

/// An import as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportJob {
    /// Its name, unique within the tenant.
    pub name: String,
    /// Whether it came to its end.
    pub state: ImportState,
    /// Where the collector goes on.
    pub checkpoint: Option<Checkpoint>,
    /// What it did so far.
    pub report: ImportReport,
}

type OnProgress = Box<dyn FnMut(&ImportReport) + Send>;

/// Settings of an import.
pub struct ImportOptions {
    batch: usize,
    progress: Option<OnProgress>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            batch: 1000,
            progress: None,
        }
    }
}

impl ImportOptions {
    /// How many drafts one unit of work holds at most (1 to 10,000); 1,000 unless set.
    #[must_use]
    pub fn batch(mut self, drafts: usize) -> Self {
        self.batch = drafts;
        self
    }
    /// Called after each stored unit of work with what the import did so far.
    #[must_use]
    pub fn on_progress(mut self, progress: impl FnMut(&ImportReport) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }
}

impl std::fmt::Debug for ImportOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportOptions")
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

/// The outcome of a number of drafts.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// One a draft; `None` for a draft of nobody.
    pub(super) outcomes: Vec<Option<(CustomerId, Change)>>,
    pub(super) rejects: Vec<Reject>,
    pub(super) report: ImportReport,
}

impl Customers {
    /// Stores drafts as one unit of work, together with what `also` adds for the report so far.
    pub(super) async fn store(
        &self,
        ctx: &Context,
        drafts: Vec<Draft>,
        also: impl Fn(&Done) -> Result<Vec<Write>> + Send + Sync,
    ) -> Result<Done> {
        let (mut clean, mut rejects, mut taken) = (Vec::new(), Vec::new(), Vec::with_capacity(drafts.len()));
        let (mut whole, mut fields) = (0, 0);
        for draft in drafts {
            let (draft, mut put_aside) = normalise::clean(draft);
            taken.push(draft.is_identified());
            if draft.is_identified() {
                fields += put_aside.len() as u64;
                clean.push(draft);
            } else {
                whole += 1;
            }
            rejects.append(&mut put_aside);
        }
        for _ in 0..TRIES {
            let Plan {
                mut writes,
                outcomes,
                rejects: foreign,
                orders,
                interactions,
            } = self.plan(ctx, &clean).await?;
            let mut report = ImportReport {
                rejected: whole,
                fields_rejected: fields + foreign.len() as u64,
                orders,
                interactions,
                ..ImportReport::default()
            };
            for (_, change) in &outcomes {
                match change {
                    Change::Created => report.created += 1,
                    Change::Updated => report.updated += 1,
                    Change::Unchanged => report.unchanged += 1,
                }
            }
            let mut of_taken = outcomes.into_iter();
            let outcomes = taken
                .iter()
                .map(|taken| if *taken { of_taken.next() } else { None })
                .collect();
            let rejects = rejects.iter().cloned().chain(foreign).collect();
            let done = Done {
                outcomes,
                rejects,
                report,
            };
            writes.extend(also(&done)?);
            match self.store.apply(ctx, &writes).await {
                Ok(_) => return Ok(done),
                Err(error) if is_race(&error) => {
                    tracing::debug!(
                        schema = error.context("schema"),
                        "somebody else was faster; matching again"
                    );
                    // Let whoever was faster get on, on a runtime of one thread too.
                    tokio::task::yield_now().await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(
            Error::conflict("others kept changing the same customers; try again later")
                .with("tries", TRIES)
                .with_retry(Retry::Exhausted),
        )
    }

    async fn plan(&self, ctx: &Context, drafts: &[Clean]) -> Result<Plan> {
        matching::plan(&*self.store, ctx, &*self.ids, self.clock.now(), drafts).await
    }

    /// Begins or goes on with an import: a sink for a collector. An unfinished job of this name goes on where it
    /// stood (see [`Customers::job`] for its checkpoint); a finished one begins anew. Whoever had it open is fenced off.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a wrong name or batch size; the store's.
    pub async fn sink(&self, ctx: &Context, job: &str, options: ImportOptions) -> Result<ImportSink> {
        let named = |error: Error| error.operation("customers.sink");
        if job.trim().is_empty() || job.len() > 255 || job.contains('\0') {
            return Err(named(
                Error::invalid("an import is named with 1 to 255 characters").with("field", "job"),
            ));
        }
        if !(1..=10_000).contains(&options.batch) {
            return Err(named(
                Error::invalid("a unit of work has 1 to 10,000 drafts").with("field", "batch"),
            ));
        }
        self.prepare().await?;
        let mut run = Run {
            customers: self.clone(),
            ctx: ctx.clone(),
            id: self.ids.fresh(),
            version: 0,
            created_at: self.clock.now(),
            job: ImportJob {
                name: job.to_owned(),
                state: ImportState::Running,
                checkpoint: None,
                report: ImportReport::default(),
            },
        };
        if let Some(stored) = self.stored_job(ctx, job).await.map_err(named)? {
            run.id = stored.id;
            run.version = stored.version;
            run.created_at = stored.record.timestamp("created_at").map_err(named)?;
            let known = read_job(&stored).map_err(named)?;
            if known.state == ImportState::Running {
                run.job = known;
            }
        }
        let write = run.job_write(&run.job)?;
        self.store
            .apply(ctx, &[write])
            .await
            .map_err(|e| named(taken_over(e)))?;
        run.version += 1;
        Ok(ImportSink { run, options })
    }

    /// An import by its name: where it stood and what it did.
    ///
    /// # Errors
    /// The store's.
    pub async fn job(&self, ctx: &Context, name: &str) -> Result<Option<ImportJob>> {
        self.prepare().await?;
        self.stored_job(ctx, name)
            .await?
            .map(|stored| read_job(&stored))
            .transpose()
    }

    /// What an import put aside, page by page.
    ///
    /// # Errors
    /// The store's.
    pub async fn rejects(
        &self,
        ctx: &Context,
        job: &str,
        limit: u32,
        after: Option<Cursor>,
    ) -> Result<Page<Reject>> {
        self.prepare().await?;
        let query = Query::new(Filter::eq("job", job)).limit(limit).after(after);
        self.store
            .find(ctx, &IMPORT_REJECT, &query)
            .await?
            .try_map(|stored| {
                let r = &stored.record;
                Ok(Reject {
                    place: r.text("place")?.to_owned(),
                    line: r
                        .get("line")
                        .and_then(|v| v.as_int())
                        .and_then(|line| u64::try_from(line).ok()),
                    field: r.get("field").and_then(|v| v.as_str()).map(str::to_owned),
                    reason: r.text("reason")?.to_owned(),
                })
            })
    }

    /// Stores drafts in bulk under a job's name. Stopped and called again with the same drafts, it goes on behind those
    /// that were stored. Holds one unit of work in memory.
    ///
    /// # Errors
    /// As [`Customers::sink`]; what kept a unit of work from being stored. What was stored before stays.
    pub async fn import<I>(
        &self,
        ctx: &Context,
        job: &str,
        drafts: I,
        options: ImportOptions,
    ) -> Result<ImportReport>
    where
        I: IntoIterator<Item = Draft>,
        I::IntoIter: Send,
    {
        let mut drafts = drafts.into_iter();
        let mut sink = self.sink(ctx, job, options).await?;
        let mut done = match sink.checkpoint() {
            None => 0,
            Some(Checkpoint(json)) => json.get("drafts").and_then(serde_json::Value::as_u64).ok_or_else(|| {
                Error::conflict("an unfinished import of this name came from a collector; finish it or take another name")
                    .operation("customers.import")
                    .with("job", job)
            })?,
        };
        if let Some(last) = done.checked_sub(1) {
            drafts.nth(usize::try_from(last).unwrap_or(usize::MAX));
        }
        loop {
            let some: Vec<Draft> = drafts.by_ref().take(sink.options.batch).collect();
            if some.is_empty() {
                return sink.finish().await;
            }
            done += some.len() as u64;
            let checkpoint = Some(Checkpoint(serde_json::json!({ "drafts": done })));
            sink.deliver(Delivery {
                drafts: some,
                checkpoint,
                ..Delivery::default()
            })
            .await?;
        }
    }

    async fn stored_job(&self, ctx: &Context, name: &str) -> Result<Option<Stored>> {
        let page = self
            .store
            .find(ctx, &IMPORT_JOB, &Query::new(Filter::eq("name", name)).limit(1))
            .await?;
        Ok(page.items.into_iter().next())
    }
}

/// Whether somebody else changed the same customers at the same time: worth matching again.
pub(super) fn is_race(error: &Error) -> bool {
    let ours = [
        CUSTOMER.name,
        CONTACT_POINT.name,
        EXTERNAL_REF.name,
        ORDER.name,
        INTERACTION.name,
    ];
    error.kind() == ErrorKind::Conflict
        && error
            .context("schema")
            .is_some_and(|schema| ours.contains(&schema))
}

fn taken_over(error: Error) -> Error {
    if error.kind() == ErrorKind::Conflict && error.context("schema") == Some(IMPORT_JOB.name) {
        return Error::conflict("another run of this import has taken over").source(error);
    }
    error
}

fn read_job(stored: &Stored) -> Result<ImportJob> {
    let r = &stored.record;
    Ok(ImportJob {
        name: r.text("name")?.to_owned(),
        state: match r.text("state")? {
            "running" => ImportState::Running,
            "finished" => ImportState::Finished,
            _ => return Err(r.damaged("state")),
        },
        checkpoint: r
            .get("checkpoint")
            .and_then(|v| v.as_json())
            .cloned()
            .map(Checkpoint),
        report: r.json("report")?,
    })
}

/// Takes what a collector delivers. Each delivery is stored in as few units of work as the batch size allows; the last
/// one carries the checkpoint, the counts and the rejects, so that a killed import goes on without a gap, and what it
/// takes in again is recognised.
///
/// After an error or a dropped call, open a new sink and go on from [`ImportSink::checkpoint`].
#[derive(Debug)]
pub struct ImportSink {
    run: Run,
    options: ImportOptions,
}

/// The job's record while it runs.
#[derive(Debug)]
struct Run {
    customers: Customers,
    ctx: Context,
    id: Uuid,
    version: Version,
    created_at: Timestamp,
    job: ImportJob,
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
    /// [`ErrorKind::Conflict`] when another run has taken over; the store's.
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
        checkpoint: Option<Checkpoint>,
    ) -> Result<()> {
        let report = self
            .run
            .unit(drafts, rejects, checkpoint)
            .await
            .map_err(taken_over)?;
        if let Some(progress) = &mut self.options.progress {
            progress(&report);
        }
        Ok(())
    }
}

impl Run {
    fn job_write(&self, job: &ImportJob) -> Result<Write> {
        let state = match job.state {
            ImportState::Running => "running",
            ImportState::Finished => "finished",
        };
        let report =
            serde_json::to_value(job.report).map_err(|e| Error::unexpected("a report as JSON").source(e))?;
        let record = Record::from_values(
            &IMPORT_JOB,
            vec![
                job.name.as_str().into(),
                state.into(),
                job.checkpoint.clone().map(|checkpoint| checkpoint.0).into(),
                report.into(),
                self.created_at.into(),
                self.customers.clock.now().into(),
            ],
        )?;
        Ok(match self.version {
            0 => Write::insert(self.id, record),
            version => Write::update(self.id, version, record),
        })
    }

    fn reject_write(&self, reject: &Reject) -> Result<Write> {
        let short = |text: &str| text.replace('\0', "").chars().take(2000).collect::<String>();
        let record = Record::from_values(
            &IMPORT_REJECT,
            vec![
                self.job.name.as_str().into(),
                short(&reject.place).into(),
                reject.line.and_then(|line| i64::try_from(line).ok()).into(),
                reject.field.as_deref().map(short).into(),
                short(&reject.reason).into(),
                self.customers.clock.now().into(),
            ],
        )?;
        Ok(Write::insert(self.customers.ids.fresh(), record))
    }

    async fn unit(
        &mut self,
        drafts: Vec<Draft>,
        rejects: &[Reject],
        checkpoint: Option<Checkpoint>,
    ) -> Result<ImportReport> {
        let mut next = self.job.clone();
        if checkpoint.is_some() {
            next.checkpoint = checkpoint;
        }
        let also = |done: &Done| {
            let mut job = next.clone();
            job.report.add(&done.report, rejects.len());
            let put_aside = rejects
                .iter()
                .chain(&done.rejects)
                .map(|reject| self.reject_write(reject));
            put_aside.chain([self.job_write(&job)]).collect()
        };
        let done = self.customers.store(&self.ctx, drafts, also).await?;
        next.report.add(&done.report, rejects.len());
        self.job = next;
        self.version += 1;
        Ok(self.job.report)
    }
}

impl ImportReport {
    fn add(&mut self, more: &Self, rejected: usize) {
        self.created += more.created;
        self.updated += more.updated;
        self.unchanged += more.unchanged;
        self.rejected += more.rejected + rejected as u64;
        self.fields_rejected += more.fields_rejected;
        self.orders += more.orders;
        self.interactions += more.interactions;
    }
}

#[async_trait]
impl DraftSink for ImportSink {
    async fn deliver(&mut self, delivery: Delivery) -> Result<()> {
        let named = |error: Error| error.operation("customers.import");
        let Delivery {
            mut drafts,
            rejects,
            checkpoint,
            ..
        } = delivery;
        while drafts.len() > self.options.batch {
            let rest = drafts.split_off(self.options.batch);
            self.unit(drafts, &[], None).await.map_err(named)?;
            drafts = rest;
        }
        self.unit(drafts, &rejects, checkpoint).await.map_err(named)
    }
}
