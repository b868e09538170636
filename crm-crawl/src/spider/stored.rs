//! The frontier in a record store: it outlives the process, and several processes share it.
//!
//! A URL is one record. It waits, is leased, or is done; a lease ends in done, or runs out and is claimed again. The
//! record's version is the fence: who lost a lease cannot end it any more (docs/adr/0001). A site is one record, too: until
//! when nobody may ask it. Who moves that time on has the turn.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::query::{Aggregate, Assign, Claim, Filter, Measure, Order, Query};
use crm_core::record::{Field, FieldType, Index, OnConflict, Record, Schema, Stored, Value, Version, Write};
use crm_core::table::ColumnData;
use crm_core::{Clock, Context, Error, ErrorKind, Result, SystemClock, Timestamp, Uuid};
use serde_json::json;
use sha2::{Digest, Sha256};
use url::Url;

use super::canonical::{authority, variants_key};
use super::frontier::{Kind, Lease, News, Waiting};

/// Writes of one unit of work.
const BATCH: usize = 500;

const WAITING: i64 = 0;
const LEASED: i64 = 1;
const DONE: i64 = 2;

static URLS: Schema = Schema {
    name: "crm_frontier",
    fields: &[
        Field::new("job", FieldType::Text),
        Field::new("state", FieldType::Int),
        // Breadth first: what is nearer to a seed is claimed earlier.
        Field::new("position", FieldType::Int),
        Field::new("leased_until", FieldType::Timestamp),
        Field::new("worker", FieldType::Text).nullable(),
        Field::new("site", FieldType::Text),
        // A query may name a person.
        Field::new("url", FieldType::Text).personal(),
        Field::new("depth", FieldType::Int),
        Field::new("kind", FieldType::Int),
        Field::new("chain", FieldType::Json).nullable(),
        Field::new("variant", FieldType::Int).nullable(),
    ],
    indexes: &[
        Index::new("crm_frontier_due", &["job", "state", "position"]),
        Index::new("crm_frontier_variant", &["job", "variant"]),
    ],
};

static SITES: Schema = Schema {
    name: "crm_frontier_site",
    fields: &[
        Field::new("site", FieldType::Text),
        Field::new("next_allowed", FieldType::Timestamp),
    ],
    indexes: &[Index::unique("crm_frontier_site_name", &["site"])],
};

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
/// several machines, each with a collector of the same spider and a frontier of the same job. All of them together keep
/// the delay of a site, because its next request is a record in the store that one of them moves on at a time; their
/// clocks must agree to a fraction of the delay (NTP). A delay of 0 is not shared: such a site is one's own.
///
/// A job that is done stays done; [`StoredFrontier::clear`] begins anew. What a process fetched but had not written down
/// when it died is fetched again, which is at most as much as its `concurrency`.
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
    clock: Arc<dyn Clock>,
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
            store,
            clock: SystemClock::shared(),
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
        self.clock = clock;
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
        let table = self.store.aggregate(ctx, &URLS, &by_state).await?;
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
        self.clock.now()
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
        let table = self.store.aggregate(ctx, &URLS, &by_path).await?;
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
            let found = self.store.claim(ctx, &URLS, &own).await?.len();
            count += found;
            if found < 1000 {
                return Ok(count);
            }
        }
    }

    /// Leases up to `limit` URLs of sites other than `busy`: those that wait, then those whose lease ran out.
    pub(super) async fn claim(&self, ctx: &Context, limit: usize, busy: &[&str]) -> Result<Vec<Waiting>> {
        let now = self.clock.now();
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
            for stored in self.store.claim(ctx, &URLS, &claim).await? {
                found.push(waiting(&stored).ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, "a record of the frontier cannot be read")
                        .operation("crawl.claim")
                        .with("id", stored.id)
                })?);
            }
        }
        Ok(found)
    }

    /// Writes down what was found and what is done, in this order, so that a death in between loses nothing.
    pub(super) async fn write(&self, ctx: &Context, news: News) -> Result<()> {
        let mut writes = Vec::with_capacity(news.found.len() + news.done.len());
        for found in &news.found {
            let record = self.record(found, WAITING, Timestamp::EPOCH)?;
            writes.push(Write::Insert {
                id: self.id(&found.url),
                record,
                on_conflict: OnConflict::Skip,
            });
        }
        for done in &news.done {
            if let Some(lease) = done.lease {
                writes.push(Write::update(
                    lease.id,
                    lease.version,
                    self.record(done, DONE, Timestamp::EPOCH)?,
                ));
            }
        }
        self.apply(ctx, writes).await
    }

    /// Gives leases back before they run out.
    pub(super) async fn release(&self, ctx: &Context, waiting: Vec<Waiting>) -> Result<()> {
        let mut writes = Vec::with_capacity(waiting.len());
        for one in &waiting {
            if let Some(lease) = one.lease {
                writes.push(Write::update(
                    lease.id,
                    lease.version,
                    self.record(one, WAITING, Timestamp::EPOCH)?,
                ));
            }
        }
        self.apply(ctx, writes).await
    }

    /// Unit by unit. A lease that somebody else has by now is not ours to end: that write is left out.
    async fn apply(&self, ctx: &Context, mut writes: Vec<Write>) -> Result<()> {
        while !writes.is_empty() {
            let rest = writes.split_off(writes.len().min(BATCH));
            while !writes.is_empty() {
                match self.store.apply(ctx, &writes).await {
                    Ok(_) => break,
                    Err(error) if error.kind() == ErrorKind::Conflict => {
                        let place = error
                            .context("write")
                            .and_then(|place| place.parse::<usize>().ok());
                        let Some(place) = place.filter(|place| *place < writes.len()) else {
                            return Err(error);
                        };
                        tracing::debug!(job = %self.job, "a lease was taken over; another process ends it");
                        writes.remove(place);
                    }
                    Err(error) => return Err(error),
                }
            }
            writes = rest;
        }
        Ok(())
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
        let page = self.store.find(ctx, &URLS, &Query::new(filter).limit(1)).await?;
        Ok(!page.items.is_empty())
    }

    /// Asks for the turn at a site, and moves its time on by `hold`. Without success: how long to wait before asking again.
    pub(super) async fn turn(
        &self,
        ctx: &Context,
        site: &str,
        hold: Duration,
    ) -> Result<Result<Version, Duration>> {
        let now = self.clock.now();
        let ask = Claim {
            due: Filter::eq("site", site).and(Filter::le("next_allowed", now)),
            order: Vec::new(),
            limit: 1,
            assign: vec![Assign::Set("next_allowed", now.plus(hold).into())],
        };
        if let Some(held) = self.store.claim(ctx, &SITES, &ask).await?.pop() {
            return Ok(Ok(held.version));
        }
        let id = site_id(site);
        let stored = self.store.get(ctx, &SITES, &[id]).await?.pop().flatten();
        let Some(stored) = stored else {
            let record = site_record(site, Timestamp::EPOCH)?;
            self.store
                .apply(ctx, &[Write::insert_or_skip(id, record)])
                .await?;
            return Ok(Err(Duration::ZERO));
        };
        let next = stored.record.get("next_allowed").and_then(Value::as_timestamp);
        Ok(Err(next.unwrap_or(now).since(now)))
    }

    /// Ends a turn: the next one may begin after `wait`. When the turn was taken over in between, nothing happens.
    pub(super) async fn pass(&self, ctx: &Context, site: &str, turn: Version, wait: Duration) -> Result<()> {
        let record = site_record(site, self.clock.now().plus(wait))?;
        match self
            .store
            .apply(ctx, &[Write::update(site_id(site), turn, record)])
            .await
        {
            Err(error) if error.kind() != ErrorKind::Conflict => Err(error),
            _ => Ok(()),
        }
    }

    fn id(&self, url: &Url) -> Uuid {
        name(&[self.job.as_bytes(), b"\0", url.as_str().as_bytes()])
    }

    fn record(&self, waiting: &Waiting, state: i64, until: Timestamp) -> Result<Record> {
        let position = waiting.lease.map_or_else(
            || {
                // Redirects go first: they belong to a page that was due already.
                let depth = if waiting.chain.is_empty() {
                    i64::from(waiting.depth.min(2000)) + 1
                } else {
                    0
                };
                depth << 52 | self.clock.now().as_micros() & ((1 << 52) - 1)
            },
            |lease| lease.position,
        );
        let chain = (!waiting.chain.is_empty()).then(|| {
            json!(
                waiting
                    .chain
                    .iter()
                    .map(|hop| format!("{hop:x}"))
                    .collect::<Vec<_>>()
            )
        });
        let variant = waiting
            .url
            .query()
            .map(|_| variants_key(&waiting.url).cast_signed());
        Record::from_values(
            &URLS,
            vec![
                self.job.as_str().into(),
                state.into(),
                position.into(),
                until.into(),
                Value::Null,
                authority(&waiting.url).into(),
                waiting.url.as_str().into(),
                waiting.depth.into(),
                i64::from(waiting.kind.code()).into(),
                chain.into(),
                variant.into(),
            ],
        )
    }
}

fn site_record(site: &str, next_allowed: Timestamp) -> Result<Record> {
    Record::from_values(&SITES, vec![site.into(), next_allowed.into()])
}

fn site_id(site: &str) -> Uuid {
    name(&[b"site\0", site.as_bytes()])
}

fn name(parts: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    Uuid::from_bytes(bytes)
}

fn waiting(stored: &Stored) -> Option<Waiting> {
    let int = |name| stored.record.get(name).and_then(Value::as_int);
    let url = Url::parse(stored.record.get("url").and_then(Value::as_str)?).ok()?;
    let kind = Kind::of(u64::try_from(int("kind")?).ok()?)?;
    let mut waiting = Waiting::new(url, u32::try_from(int("depth")?).ok()?, kind);
    if let Some(chain) = stored.record.get("chain").and_then(Value::as_json) {
        for hop in chain.as_array()? {
            waiting.chain.push(u64::from_str_radix(hop.as_str()?, 16).ok()?);
        }
    }
    waiting.lease = Some(Lease {
        id: stored.id,
        version: stored.version,
        until: stored.record.get("leased_until").and_then(Value::as_timestamp)?,
        position: int("position")?,
    });
    Some(waiting)
}

/// The two columns of integers of an answer.
fn pairs(table: &crm_core::Table) -> impl Iterator<Item = (i64, i64)> {
    let ints = |at: usize| match table.columns().get(at).map(crm_core::Column::data) {
        Some(ColumnData::Int(ints)) => ints.clone(),
        _ => Vec::new(),
    };
    ints(0).into_iter().zip(ints(1))
}
