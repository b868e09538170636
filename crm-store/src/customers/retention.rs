//! What is kept so that it can be mended, taken back or answered again, and when it goes.

use std::time::Duration;

use crm_core::query::{Aggregate, Filter, Measure, Query};
use crm_core::record::{Schema, Stored, Value, Write};
use crm_core::{Context, Error, ErrorKind, Result, Timestamp, Uuid};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::import::journal::PURGED;
use super::{Customers, IDEMPOTENCY_KEY, IMPORT_REJECT, IMPORT_ROW, MERGE, MERGE_IMAGE, shape};

/// Records of one unit of work.
const UNIT: u32 = 500;
/// Merges looked at together.
const MERGES: u32 = 100;

/// How long is kept what holds personal data besides the customers themselves; without a time, for ever.
///
/// ```
/// use std::time::Duration;
/// use crm_store::customers::Retention;
///
/// let month = Duration::from_secs(30 * 24 * 60 * 60);
/// let mut keep = Retention::older_than(month);
/// keep.merges = None; // merges can be undone for ever
/// assert_eq!(keep.rejects, Some(month));
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// What imports put aside, with the rows as they stood in the file ([`IMPORT_REJECT`]). Gone, they cannot be written
    /// out any more; the job's report still counts them.
    pub rejects: Option<Duration>,
    /// What imports overwrote ([`IMPORT_ROW`]). Gone, customers whom the import changed cannot be restored by
    /// [`Customers::undo_import`] and are named by it; those it made still can be removed, and the same rows are still
    /// recognised.
    pub imports: Option<Duration>,
    /// What merges overwrote and removed ([`MERGE_IMAGE`]). Gone, a merge cannot be undone; old ids still resolve.
    pub merges: Option<Duration>,
    /// Answers to requests with a key ([`IDEMPOTENCY_KEY`]), from when they were given. Those past [`super::KEPT`] go
    /// anyway. A shorter time than that means that a repeated request is carried out again.
    pub answers: Option<Duration>,
}

impl Retention {
    /// Everything older than this goes.
    pub fn older_than(age: Duration) -> Self {
        Self {
            rejects: Some(age),
            imports: Some(age),
            merges: Some(age),
            answers: Some(age),
        }
    }
}

/// How much of each kind: what is there, or what went.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Leftovers {
    /// Rejects of imports.
    pub rejects: u64,
    /// Rows of imports that hold what was overwritten.
    pub imports: u64,
    /// Merges that can be undone.
    pub merges: u64,
    /// Answers to requests with a key.
    pub answers: u64,
}

impl Customers {
    /// Removes what is older than it is kept, by this instance's clock; answers how much. A host calls it now and then,
    /// for each tenant. Works in bounded units of work; stopped halfway, the next call goes on.
    ///
    /// # Errors
    /// The store's; [`ErrorKind::Timeout`] and [`ErrorKind::Cancelled`] as the context says.
    pub async fn purge(&self, ctx: &Context, keep: &Retention) -> Result<Leftovers> {
        self.purged(ctx, keep)
            .await
            .map_err(|error| error.operation("customers.purge"))
    }

    async fn purged(&self, ctx: &Context, keep: &Retention) -> Result<Leftovers> {
        self.prepare().await?;
        let now = self.clock.now();
        let before = |age: Duration| now.minus(age);
        let mut gone = Leftovers::default();
        if let Some(age) = keep.rejects {
            let old = Filter::le("created_at", before(age));
            gone.rejects = self.remove(ctx, &IMPORT_REJECT, old).await?;
        }
        if let Some(age) = keep.imports {
            gone.imports = self.blank(ctx, Filter::le("created_at", before(age))).await?;
        }
        if let Some(age) = keep.merges {
            gone.merges = self.seal(ctx, before(age)).await?;
        }
        if let Some(age) = keep.answers {
            let old = Filter::le("created_at", before(age)).or(Filter::le("expires_at", now));
            gone.answers = self.remove(ctx, &IDEMPOTENCY_KEY, old).await?;
        }
        Ok(gone)
    }

    /// Removes what an import left behind, of all its runs and whatever its age: rejects, and what it overwrote. The
    /// job with its counts stays, and the same rows are still recognised.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such import; the store's.
    pub async fn purge_import(&self, ctx: &Context, job: &str) -> Result<Leftovers> {
        let named = |error: Error| error.operation("customers.purge_import").with("job", job);
        let id = self.job_id(ctx, job).await.map_err(named)?;
        let rejects = Filter::eq("job", job);
        Ok(Leftovers {
            rejects: self.remove(ctx, &IMPORT_REJECT, rejects).await.map_err(named)?,
            imports: self.blank(ctx, Filter::eq("job", id)).await.map_err(named)?,
            ..Leftovers::default()
        })
    }

    /// How much of what [`Customers::purge`] removes is there; with `job`, of that import.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such import; the store's.
    pub async fn leftovers(&self, ctx: &Context, job: Option<&str>) -> Result<Leftovers> {
        self.prepare().await?;
        let store = &self.store;
        let Some(job) = job else {
            let by_merge = Aggregate::new(Filter::eq("seq", 0_i64)).measure("merges", Measure::Count);
            let merges = store.aggregate(ctx, &MERGE_IMAGE, &by_merge).await?;
            return Ok(Leftovers {
                rejects: store.count(ctx, &IMPORT_REJECT, &Filter::All).await?,
                imports: store.count(ctx, &IMPORT_ROW, &overwritten()).await?,
                merges: merges
                    .column("merges")?
                    .value(0)
                    .as_int()
                    .map_or(0, i64::unsigned_abs),
                answers: store.count(ctx, &IDEMPOTENCY_KEY, &Filter::All).await?,
            });
        };
        let id = self.job_id(ctx, job).await?;
        let rows = Filter::eq("job", id).and(overwritten());
        Ok(Leftovers {
            rejects: store.count(ctx, &IMPORT_REJECT, &Filter::eq("job", job)).await?,
            imports: store.count(ctx, &IMPORT_ROW, &rows).await?,
            ..Leftovers::default()
        })
    }

    async fn job_id(&self, ctx: &Context, job: &str) -> Result<Uuid> {
        self.prepare().await?;
        let stored = self
            .stored_job(ctx, job)
            .await?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no import of this name ran").with("job", job))?;
        Ok(stored.id)
    }

    /// Carries out `change` for all records that match, page by page, until none is left; answers how many were changed.
    async fn each(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        filter: Filter,
        change: &(dyn Fn(&Stored) -> Result<Write> + Send + Sync),
    ) -> Result<u64> {
        let query = Query::new(filter).limit(UNIT);
        let mut done = 0;
        loop {
            ctx.check(&*self.clock)?;
            let page = self.store.find(ctx, schema, &query).await?;
            if page.items.is_empty() {
                return Ok(done);
            }
            let writes = page.items.iter().map(change).collect::<Result<Vec<_>>>()?;
            match self.store.apply(ctx, &writes).await {
                Ok(_) => done += writes.len() as u64,
                // Somebody else removes or changes the same ones: looked at again.
                Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn remove(&self, ctx: &Context, schema: &'static Schema, filter: Filter) -> Result<u64> {
        let gone = move |stored: &Stored| Ok(Write::delete(schema, stored.id, Some(stored.version)));
        self.each(ctx, schema, filter, &gone).await
    }

    /// Forgets what imports overwrote. The rows stay: the same ones are recognised by them.
    async fn blank(&self, ctx: &Context, filter: Filter) -> Result<u64> {
        let blank = |stored: &Stored| {
            let purged = Value::Json(json!({ PURGED: true }));
            let record = stored.record.clone().with("before", purged)?;
            Ok(Write::update(stored.id, stored.version, record))
        };
        self.each(ctx, &IMPORT_ROW, filter.and(overwritten()), &blank)
            .await
    }

    /// Forgets what merges overwrote and removed, a merge a unit of work: one that could be undone in part would be worse
    /// than one that cannot.
    async fn seal(&self, ctx: &Context, before: Timestamp) -> Result<u64> {
        let mut query = Query::new(Filter::le("applied_at", before)).limit(MERGES);
        let mut sealed = 0;
        loop {
            ctx.check(&*self.clock)?;
            let page = self.store.find(ctx, &MERGE, &query).await?;
            let ids = page.items.iter().map(|merge| merge.id);
            let counts = Aggregate::new(Filter::one_of("merge_id", ids))
                .by("merge_id")
                .measure("images", Measure::Count);
            let counts = self.store.aggregate(ctx, &MERGE_IMAGE, &counts).await?;
            let with_images = counts.column("merge_id")?;
            for row in 0..counts.rows() {
                let Some(merge) = with_images.uuid_at(row) else {
                    continue;
                };
                sealed += u64::from(self.seal_one(ctx, merge).await?);
            }
            match page.next {
                None => return Ok(sealed),
                next => query.after = next,
            }
        }
    }

    async fn seal_one(&self, ctx: &Context, merge: Uuid) -> Result<bool> {
        loop {
            let found = self.store.get(ctx, &MERGE, &[merge]).await?;
            let images = shape::all(&*self.store, ctx, &MERGE_IMAGE, Filter::eq("merge_id", merge)).await?;
            let (Some(stored), false) = (found.into_iter().flatten().next(), images.is_empty()) else {
                return Ok(false);
            };
            // Its version says that nobody undoes it at this moment.
            let mut writes = vec![Write::update(merge, stored.version, stored.record)];
            writes.extend(
                images
                    .iter()
                    .map(|image| Write::delete(&MERGE_IMAGE, image.id, Some(image.version))),
            );
            match self.store.apply(ctx, &writes).await {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Rows of journals that hold what was overwritten.
fn overwritten() -> Filter {
    let purged = format!("before.{PURGED}");
    Filter::Not(Box::new(Filter::null("before"))).and(Filter::null(purged.as_str()))
}
