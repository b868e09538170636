//! The frontier in a record store: it outlives the process, and several processes share it.
//!
//! A URL is one record. It waits, is leased, or is done; a lease ends in done, or runs out and is claimed again. The
//! record's version is the fence: who lost a lease cannot end it any more (docs/adr/0001). A site is one record, too: until
//! when nobody may ask it. Who moves that time on has the turn.

mod records;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::query::{Aggregate, Assign, Claim, Filter, Measure, Order, Query};
use crm_core::record::{OnConflict, Value, Version, Write};
use crm_core::{Clock, Context, Effect, Error, ErrorKind, Result, SharedTime, SystemClock, Timestamp};

use super::frontier::{News, Waiting};
use records::{DONE, LEASED, SITES, URLS, WAITING, pairs, site_id, site_record, url_id, url_record, waiting};

/// Writes of one unit of work.
const BATCH: usize = 500;
/// How often a unit of work is tried when the store is gone or two processes got in each other's way, and the first wait,
/// which doubles: some six seconds, in which a database starts again.
const TRIES: u32 = 7;
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// How far a job is, over all processes.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrontierCount {
    /// URLs that wait.
    pub waiting: u64,
    /// URLs that a process works on, or did when it died.
    pub leased: u64,
    /// URLs that are dealt with.
    pub done: u64,
}

/// The URLs of a crawl in a record store. Hand it to [`super::WebCollector::with_frontier`]: the crawl then goes on where
/// it was after any end of the process, may be larger than a checkpoint, and may be worked on by several processes on
/// several machines, each with a collector of the same spider, named differently ([`super::WebCollector::named`]), and a
/// frontier of the same job. All of them together keep
/// the delay of a site, because its next request is a record in the store that one of them moves on at a time. The store
/// says what time it is, if it has a clock; with one that has none (SQLite) all processes are on one machine anyway. A delay
/// of 0 is not shared: such a site is one's own. Each tenant keeps its own pace.
///
/// A job that is done stays done; [`StoredFrontier::clear`] begins anew. What a process fetched but had not written down
/// when it died is fetched again, which is at most as much as its `concurrency`. `max_pages` and `max_pending` count for
/// all processes together, give or take what each has under way.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_core::memory::MemoryStore;
/// use crm_core::{Context, TenantId};
/// use crm_crawl::spider::StoredFrontier;
///
/// let frontier = StoredFrontier::open(Arc::new(MemoryStore::new("records")), "shop-2026-11").await.unwrap();
/// let ctx = Context::new(TenantId::new("shop").unwrap());
/// assert_eq!(frontier.count(&ctx).await.unwrap().waiting, 0);
/// # });
/// ```
#[derive(Clone)]
pub struct StoredFrontier {
    store: Arc<dyn RecordStore>,
    time: Arc<SharedTime>,
    job: String,
    worker: String,
    named: bool,
    lease: Duration,
    paced: bool,
}

impl fmt::Debug for StoredFrontier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredFrontier")
            .field("store", self.store.info())
            .field("job", &self.job)
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

impl StoredFrontier {
    /// The frontier of `job` (1 to 100 characters) in `store`; makes room for it there.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a name that is none; the store's.
    pub async fn open(store: Arc<dyn RecordStore>, job: &str) -> Result<Self> {
        if job.is_empty() || job.chars().count() > 100 || job.contains('\0') {
            return Err(
                Error::config("a crawl's job is named with 1 to 100 characters").with("setting", "job")
            );
        }
        store.migrate(&[&URLS, &SITES]).await?;
        Ok(Self {
            time: SharedTime::new(store.clone(), SystemClock::shared()),
            store,
            job: job.to_owned(),
            worker: String::new(),
            named: false,
            lease: Duration::from_secs(120),
            paced: true,
        })
    }

    /// Takes the time from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.time = SharedTime::new(self.store.clone(), clock);
        self
    }

    /// How long a URL is leased; longer than a page takes with all its waits. 120 s. After this time what a dead process
    /// held is worked on by another one.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_millis(100));
        self
    }

    /// The name of this process among those that share the job, different for each. A process that is started again under
    /// its name takes at once what it held when it died, instead of waiting for the leases to run out.
    #[must_use]
    pub fn with_worker(mut self, worker: &str) -> Self {
        self.worker = worker.chars().take(100).collect();
        self.named = !self.worker.is_empty();
        self
    }

    /// Without the common pace: each process keeps the delay for itself alone. For sites of one's own only.
    #[must_use]
    pub fn without_common_pace(mut self) -> Self {
        self.paced = false;
        self
    }

    /// How far the job is.
    ///
    /// # Errors
    /// The store's.
    pub async fn count(&self, ctx: &Context) -> Result<FrontierCount> {
        let by_state = Aggregate::new(self.of_job())
            .by("state")
            .measure("n", Measure::Count);
        let table = self.again(|| self.store.aggregate(ctx, &URLS, &by_state)).await?;
        let mut count = FrontierCount::default();
        for (state, n) in pairs(&table) {
            let n = u64::try_from(n).unwrap_or_default();
            match state {
                WAITING => count.waiting = n,
                LEASED => count.leased = n,
                _ => count.done = n,
            }
        }
        Ok(count)
    }

    /// Forgets every URL of the job, so that it begins anew. Not while a process works on it.
    ///
    /// # Errors
    /// The store's.
    pub async fn clear(&self, ctx: &Context) -> Result<()> {
        loop {
            let some = Query::new(self.of_job()).limit(BATCH as u32);
            let page = self.store.find(ctx, &URLS, &some).await?;
            if page.items.is_empty() {
                return Ok(());
            }
            let writes: Vec<Write> = page
                .items
                .iter()
                .map(|url| Write::delete(&URLS, url.id, None))
                .collect();
            match self.store.apply(ctx, &writes).await {
                // Somebody else clears it, too.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                other => drop(other?),
            }
        }
    }

    pub(super) fn job(&self) -> &str {
        &self.job
    }

    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    pub(super) fn is_paced(&self) -> bool {
        self.paced
    }

    pub(super) fn now(&self) -> Timestamp {
        self.time.now()
    }

    /// The same, with a name for this run when the host gave none.
    pub(super) fn for_run(&self, random: &str) -> Self {
        let mut run = self.clone();
        if !run.named {
            random.clone_into(&mut run.worker);
        }
        run
    }

    fn of_job(&self) -> Filter {
        Filter::eq("job", self.job.as_str())
    }

    /// How many pages of one path differ in their query only, for every path.
    pub(super) async fn variants(&self, ctx: &Context) -> Result<HashMap<u64, u32>> {
        let filter = self.of_job().and(Filter::Not(Box::new(Filter::null("variant"))));
        let by_path = Aggregate::new(filter).by("variant").measure("n", Measure::Count);
        let table = self.again(|| self.store.aggregate(ctx, &URLS, &by_path)).await?;
        Ok(pairs(&table)
            .map(|(path, n)| (path.cast_unsigned(), u32::try_from(n).unwrap_or(u32::MAX)))
            .collect())
    }

    /// Gives back what a process of this name held when it died.
    pub(super) async fn reclaim(&self, ctx: &Context) -> Result<usize> {
        if !self.named {
            return Ok(0);
        }
        let mut count = 0;
        loop {
            let own = Claim {
                due: self
                    .of_job()
                    .and(Filter::eq("state", LEASED))
                    .and(Filter::eq("worker", self.worker.as_str())),
                order: Vec::new(),
                limit: 1000,
                assign: vec![
                    Assign::Set("state", WAITING.into()),
                    Assign::Set("worker", Value::Null),
                ],
            };
            let found = self.again(|| self.store.claim(ctx, &URLS, &own)).await?.len();
            count += found;
            if found < 1000 {
                return Ok(count);
            }
        }
    }

    /// Leases up to `limit` URLs of sites other than `busy`: those that wait, then those whose lease ran out.
    pub(super) async fn claim(&self, ctx: &Context, limit: usize, busy: &[&str]) -> Result<Vec<Waiting>> {
        let now = self.time.fresh().await;
        let until = now.plus(self.lease);
        let mut found = Vec::new();
        for due in [
            Filter::eq("state", WAITING),
            Filter::eq("state", LEASED).and(Filter::le("leased_until", now)),
        ] {
            if found.len() >= limit {
                break;
            }
            let mut due = self.of_job().and(due);
            if !busy.is_empty() {
                due = due.and(Filter::Not(Box::new(Filter::one_of(
                    "site",
                    busy.iter().copied(),
                ))));
            }
            let claim = Claim {
                due,
                order: vec![Order {
                    field: "position".into(),
                    descending: false,
                }],
                limit: u32::try_from(limit - found.len()).unwrap_or(1).clamp(1, 1000),
                assign: vec![
                    Assign::Set("state", LEASED.into()),
                    Assign::Set("leased_until", until.into()),
                    Assign::Set("worker", self.worker.as_str().into()),
                ],
            };
            for stored in self.again(|| self.store.claim(ctx, &URLS, &claim)).await? {
                found.push(waiting(&stored).ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, "a record of the frontier cannot be read")
                        .operation("crawl.claim")
                        .with("id", stored.id)
                })?);
            }
        }
        Ok(found)
    }

    /// Tries again while the store is gone. What a claim leased whose answer was lost is free again when the lease runs
    /// out.
    async fn again<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut tries = 0;
        loop {
            match call().await {
                Err(error) if may_try(&error, tries) => self.pause(&mut tries, &error).await,
                other => return other,
            }
        }
    }

    /// Writes down what was found, and only then what is done, so that a death in between loses nothing.
    pub(super) async fn write(&self, ctx: &Context, news: News) -> Result<()> {
        let now = self.time.now();
        let mut found = Vec::with_capacity(news.found.len());
        for one in &news.found {
            found.push((
                url_id(&self.job, &one.url),
                url_record(&self.job, one, WAITING, now)?,
            ));
        }
        // All processes take records in one order, so that none waits for another that waits for it.
        found.sort_unstable_by_key(|(id, _)| *id);
        let mut writes: Vec<Write> = found
            .into_iter()
            .map(|(id, record)| Write::Insert {
                id,
                record,
                on_conflict: OnConflict::Skip,
            })
            .collect();
        writes.extend(self.ends(&news.done, DONE)?);
        writes.extend(self.ends(&news.back, WAITING)?);
        self.apply(ctx, writes).await
    }

    /// Gives leases back before they run out.
    pub(super) async fn release(&self, ctx: &Context, leased: &[Waiting]) -> Result<()> {
        self.apply(ctx, self.ends(leased, WAITING)?).await
    }

    /// The writes that end leases.
    fn ends(&self, leased: &[Waiting], state: i64) -> Result<Vec<Write>> {
        let mut writes = Vec::with_capacity(leased.len());
        for (one, lease) in leased.iter().filter_map(|one| Some((one, one.lease?))) {
            let record = url_record(&self.job, one, state, self.time.now())?;
            writes.push((lease.id, Write::update(lease.id, lease.version, record)));
        }
        writes.sort_unstable_by_key(|(id, _)| *id);
        Ok(writes.into_iter().map(|(_, write)| write).collect())
    }

    /// Unit by unit. A lease that somebody else has by now is not ours to end: that write is left out. So it does no harm
    /// to try again a unit of which nobody knows whether it was carried out: what it inserted is there already, and the
    /// leases it ended are not ours any more.
    async fn apply(&self, ctx: &Context, mut writes: Vec<Write>) -> Result<()> {
        let mut tries = 0;
        while !writes.is_empty() {
            let rest = writes.split_off(writes.len().min(BATCH));
            while !writes.is_empty() {
                match self.store.apply(ctx, &writes).await {
                    Ok(_) => break,
                    Err(error) if error.kind() == ErrorKind::Conflict => {
                        let place = error
                            .context("write")
                            .and_then(|place| place.parse::<usize>().ok());
                        match place.filter(|place| *place < writes.len()) {
                            Some(place) => {
                                tracing::debug!(job = %self.job, "a lease was taken over; another process ends it");
                                writes.remove(place);
                            }
                            None if may_try(&error, tries) => self.pause(&mut tries, &error).await,
                            None => return Err(error),
                        }
                    }
                    Err(error) if may_try(&error, tries) => self.pause(&mut tries, &error).await,
                    Err(error) => return Err(error),
                }
            }
            writes = rest;
        }
        Ok(())
    }

    async fn pause(&self, tries: &mut u32, error: &Error) {
        tracing::warn!(job = %self.job, "the frontier's store is asked again: {error}");
        tokio::time::sleep(FIRST_WAIT * (1 << *tries)).await;
        *tries += 1;
    }

    /// Whether something is left that somebody works on or may work on, but for these sites.
    pub(super) async fn is_left(&self, ctx: &Context, parked: &[&str]) -> Result<bool> {
        let mut filter = self.of_job().and(Filter::one_of("state", [WAITING, LEASED]));
        if !parked.is_empty() {
            filter = filter.and(Filter::Not(Box::new(Filter::one_of(
                "site",
                parked.iter().copied(),
            ))));
        }
        let one = Query::new(filter).limit(1);
        let page = self.again(|| self.store.find(ctx, &URLS, &one)).await?;
        Ok(!page.items.is_empty())
    }

    /// Asks for the turn at a site, and moves its time on by `hold`. Without success: how long to wait before asking again.
    pub(super) async fn turn(
        &self,
        ctx: &Context,
        site: &str,
        hold: Duration,
    ) -> Result<Result<Version, Duration>> {
        let now = self.time.fresh().await;
        let ask = Claim {
            due: Filter::eq("site", site).and(Filter::le("next_allowed", now)),
            order: Vec::new(),
            limit: 1,
            assign: vec![Assign::Set("next_allowed", now.plus(hold).into())],
        };
        if let Some(held) = self.again(|| self.store.claim(ctx, &SITES, &ask)).await?.pop() {
            return Ok(Ok(held.version));
        }
        let ids = [site_id(site)];
        let stored = self.again(|| self.store.get(ctx, &SITES, &ids)).await?.pop();
        let Some(stored) = stored.flatten() else {
            let new = [Write::insert_or_skip(
                site_id(site),
                site_record(site, Timestamp::EPOCH)?,
            )];
            self.again(|| self.store.apply(ctx, &new)).await?;
            return Ok(Err(Duration::ZERO));
        };
        let next = stored.record.get("next_allowed").and_then(Value::as_timestamp);
        Ok(Err(next.unwrap_or(now).since(now)))
    }

    /// Ends a turn: the next one may begin after `wait`. When the turn was taken over in between, nothing happens.
    pub(super) async fn pass(&self, ctx: &Context, site: &str, turn: Version, wait: Duration) -> Result<()> {
        let record = site_record(site, self.time.now().plus(wait))?;
        let end = [Write::update(site_id(site), turn, record)];
        match self.again(|| self.store.apply(ctx, &end)).await {
            Err(error) if error.kind() != ErrorKind::Conflict => Err(error),
            _ => Ok(()),
        }
    }

    /// Nobody asks the site before `wait` is over: it said so, or is in trouble.
    pub(super) async fn defer(&self, ctx: &Context, site: &str, wait: Duration) -> Result<()> {
        let until = self.time.now().plus(wait);
        let ask = Claim {
            due: Filter::eq("site", site).and(Filter::lt("next_allowed", until)),
            order: Vec::new(),
            limit: 1,
            assign: vec![Assign::Set("next_allowed", until.into())],
        };
        self.again(|| self.store.claim(ctx, &SITES, &ask)).await.map(drop)
    }
}

/// A store that does not answer in time is not waited for again: the caller may have a deadline.
fn may_try(error: &Error, tries: u32) -> bool {
    error.kind() != ErrorKind::Timeout
        && (error.is_retryable() || error.effect() == Effect::Unknown)
        && tries + 1 < TRIES
}
