//! Bulk: a stream of drafts becomes units of work, each stored together with how far it got.

pub(super) mod dry;
pub(super) mod job;
pub(super) mod journal;
mod rejects;
mod sink;

use std::borrow::Cow;
use std::sync::Arc;

use crm_core::activity::{INTERACTION, ORDER};
use crm_core::capability::{Checkpoint, Delivery, DraftSink, Reject};
use crm_core::customer::{CONTACT_POINT, CUSTOMER, Draft, EXTERNAL_REF};
use crm_core::query::{Filter, Query};
use crm_core::record::{Stored, Write};
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Retry};

pub use job::{IMPORT_JOB, ImportJob, ImportReport, ImportState};
pub use journal::IMPORT_ROW;
pub use rejects::{IMPORT_REJECT, RejectsWritten};
pub use sink::ImportSink;
pub(super) use sink::job_record;

use self::journal::{Journal, Known};
use super::fields::Declared;
use super::matching::{self, Change, Plan};
use super::normalise::{self, Clean};
use super::unique::is_taken;
use super::{ATTRIBUTE, Customers};

/// How often a unit of work is planned anew after somebody else was faster. Each time somebody else got on.
const TRIES: usize = 100;

type OnProgress = Box<dyn FnMut(&ImportReport) + Send>;
type OnReject = Box<dyn FnMut(&Reject) + Send>;

/// Settings of an import.
pub struct ImportOptions {
    batch: usize,
    dry: bool,
    journal: bool,
    progress: Option<OnProgress>,
    reject: Option<OnReject>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            batch: 1000,
            dry: false,
            journal: true,
            progress: None,
            reject: None,
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
    /// Nothing is stored, not even the job: the report says what a real run would do now. The same code decides; what
    /// it would write is remembered, so memory grows with the customers that are new or change.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.dry = true;
        self
    }
    /// Keeps no journal of rows: the run cannot be undone, and the same rows are matched again when they come again. One
    /// record less a row.
    #[must_use]
    pub fn without_journal(mut self) -> Self {
        self.journal = false;
        self
    }
    /// Called after each stored unit of work with what the import did so far.
    #[must_use]
    pub fn on_progress(mut self, progress: impl FnMut(&ImportReport) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }
    /// Called with everything that is put aside, after its unit of work was stored; in a dry run too, which keeps none.
    #[must_use]
    pub fn on_reject(mut self, reject: impl FnMut(&Reject) + Send + 'static) -> Self {
        self.reject = Some(Box::new(reject));
        self
    }
}

impl std::fmt::Debug for ImportOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportOptions")
            .field("batch", &self.batch)
            .field("dry_run", &self.dry)
            .field("journal", &self.journal)
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
        journal: Option<&Journal>,
        also: impl Fn(&Done) -> Result<Vec<Write>> + Send + Sync,
    ) -> Result<Done> {
        // The drafts that can be stored, what the rows of those are recognised by, and what was put aside.
        let (mut taken, mut all_keys, mut rejects) = (Vec::new(), Vec::new(), Vec::new());
        let declared = self.declared(ctx).await?;
        let (mut places, mut whole, mut fields) = (Vec::with_capacity(drafts.len()), 0, 0);
        for draft in drafts {
            let key = journal.map(|journal| journal.key(&draft));
            let (mut clean, mut put_aside) = normalise::clean(draft);
            normalise::fit(&declared, &mut clean, &mut put_aside);
            places.push(clean.is_identified());
            if clean.is_identified() {
                fields += put_aside.len() as u64;
                taken.push(clean);
                all_keys.extend(key);
            } else {
                whole += 1;
            }
            rejects.append(&mut put_aside);
        }
        for _ in 0..TRIES {
            let known = match journal {
                Some(journal) => journal.known(&*self.store, ctx, &all_keys).await?,
                None => Known::default(),
            };
            // A row that is in already, and one that stands there twice, says nothing new.
            let mut seen = known.taken.clone();
            let fresh: Vec<bool> = match journal {
                Some(_) => all_keys.iter().map(|key| seen.insert(*key)).collect(),
                None => vec![true; taken.len()],
            };
            let mut clean = Cow::Borrowed(taken.as_slice());
            let mut keys = Cow::Borrowed(all_keys.as_slice());
            if fresh.contains(&false) {
                clean = only(&taken, &fresh);
                keys = only(&all_keys, &fresh);
            }
            let Plan {
                mut writes,
                outcomes,
                rejects: foreign,
                orders,
                interactions,
                ..
            } = self.plan(ctx, &declared, &clean).await?;
            let repeated = fresh.iter().filter(|fresh| !**fresh).count() as u64;
            let mut report = ImportReport {
                rejected: whole,
                unchanged: repeated,
                repeated,
                fields_rejected: fields + foreign.len() as u64,
                conflicts: foreign.len() as u64,
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
            let point = |write: &&Write| {
                matches!(write, Write::Insert { .. }) && write.schema().name == CONTACT_POINT.name
            };
            report.contact_points = writes.iter().filter(point).count() as u64;
            if let Some(journal) = journal {
                let now = self.clock.now();
                let rows = (&*keys, outcomes.as_slice());
                let entries = journal
                    .entries((&*self.store, ctx), now, rows, &known, &writes)
                    .await?;
                writes.extend(entries);
            }
            let mut of_fresh = outcomes.into_iter();
            let mut fresh = fresh.into_iter();
            let outcomes = places
                .iter()
                .map(|taken| {
                    if *taken && fresh.next() == Some(true) {
                        of_fresh.next()
                    } else {
                        None
                    }
                })
                .collect();
            let rejects = rejects.iter().cloned().chain(foreign).collect();
            let done = Done {
                outcomes,
                rejects,
                report,
            };
            writes.extend(also(&done)?);
            match self.commit(ctx, &writes).await {
                Ok(_) => {
                    // A customer that was only told events was not written, and may have been merged meanwhile.
                    if orders + interactions > 0 {
                        let told: Vec<CustomerId> = done
                            .outcomes
                            .iter()
                            .flatten()
                            .filter(|(_, change)| *change == Change::Unchanged)
                            .map(|(id, _)| *id)
                            .collect();
                        self.follow(ctx, &told).await?;
                    }
                    return Ok(done);
                }
                // A unique value that was free a moment ago is somebody's now: looked at again, it is put aside.
                Err(error) if is_race(&error) || is_taken(&error) => {
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

    async fn plan(&self, ctx: &Context, declared: &Declared, drafts: &[Clean]) -> Result<Plan> {
        let now = self.clock.now();
        matching::plan(&*self.store, ctx, &*self.ids, now, (declared, drafts)).await
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
        let mut customers = self.clone();
        if options.dry {
            customers.store = Arc::new(dry::Overlay::new(self.store.clone()));
        }
        sink::open(customers, ctx, job, options).await.map_err(named)
    }

    /// An import by its name: where it stood and what it did.
    ///
    /// # Errors
    /// The store's.
    pub async fn job(&self, ctx: &Context, name: &str) -> Result<Option<ImportJob>> {
        self.prepare().await?;
        self.stored_job(ctx, name)
            .await?
            .map(|stored| job::read_job(&stored))
            .transpose()
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

    pub(super) async fn stored_job(&self, ctx: &Context, name: &str) -> Result<Option<Stored>> {
        let page = self
            .store
            .find(ctx, &IMPORT_JOB, &Query::new(Filter::eq("name", name)).limit(1))
            .await?;
        Ok(page.items.into_iter().next())
    }
}

/// Those of the items that are marked.
fn only<'a, T: Clone>(items: &[T], marks: &[bool]) -> Cow<'a, [T]> {
    let marked = items.iter().zip(marks).filter(|(_, mark)| **mark);
    marked.map(|(item, _)| item.clone()).collect()
}

/// Whether somebody else changed the same customers at the same time: worth matching again.
pub(super) fn is_race(error: &Error) -> bool {
    let ours = [
        CUSTOMER.name,
        CONTACT_POINT.name,
        EXTERNAL_REF.name,
        ORDER.name,
        INTERACTION.name,
        IMPORT_ROW.name,
    ];
    // An index entry that somebody else wrote is a race, a value that somebody else has is none.
    let indexed = |schema: &str| schema == ATTRIBUTE.name && !is_taken(error);
    error.kind() == ErrorKind::Conflict
        && error
            .context("schema")
            .is_some_and(|schema| ours.contains(&schema) || indexed(schema))
}

pub(super) fn taken_over(error: Error) -> Error {
    if error.kind() == ErrorKind::Conflict && error.context("schema") == Some(IMPORT_JOB.name) {
        return Error::conflict("another run of this import has taken over").source(error);
    }
    error
}
