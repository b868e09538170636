//! One call on the deployment: its place among the others, its deadline, its patience.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crm_core::record::Schema;
use crm_core::{Context, Error, ErrorKind, Result, Retry};
use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};
use mongodb::error::Error as DriverError;
use mongodb::options::{AggregateOptions, FindOptions, ReadConcern};
use mongodb::{Client, ClientSession, Collection, Database};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::MongoConfig;
use super::error::{self, code};
use super::wire;

/// The deployment and how it is used.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) database: Database,
    pub(super) config: MongoConfig,
    places: Semaphore,
    /// Counts the waits, so that no two are of the same length.
    waits: AtomicU64,
    /// Sessions whose transaction may still be open on the server.
    left: Mutex<Vec<Left>>,
}

/// A session that was left in the middle of a transaction.
struct Left {
    session: ClientSession,
    /// How often its transaction was ended, and when it was last.
    ended: u32,
    last: Instant,
}

impl Left {
    /// Ended at once, and again when every command that was on its way has come: the first one may have been overtaken.
    fn is_due(&self, now: Instant) -> bool {
        self.ended == 0 || (self.ended == 1 && now - self.last >= ON_THE_WAY)
    }

    /// Whether the driver may use it again.
    fn is_done(&self, now: Instant) -> bool {
        self.ended > 1 && now - self.last >= QUARANTINE
    }
}

/// How long a command of a dropped call may be on its way.
const ON_THE_WAY: Duration = Duration::from_secs(2);

/// How many sessions are remembered to be ended; beyond that, the server ends the oldest by itself.
const MOST_LEFT: usize = 10_000;

/// How long an ended session is kept from being used again: the order to end it may have been given twice, the first
/// time by a call that was dropped, and come late.
const QUARANTINE: Duration = Duration::from_secs(30);

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("database", &self.database.name())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Why a step failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The driver or the server says so.
    Driver(DriverError),
    /// The caller's deadline came first.
    Late,
    /// Something else, already put in words.
    Told(Error),
}

impl Fault {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Driver(error) => error::classify(&error),
            Self::Late => late(),
            Self::Told(error) => error,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Told(error)
    }
}

pub(super) fn late() -> Error {
    Error::new(ErrorKind::Timeout, "the caller's deadline has passed")
}

impl Link {
    pub(super) fn new(client: Client, database: Database, config: MongoConfig) -> Self {
        Self {
            client,
            database,
            places: Semaphore::new(config.connections as usize),
            config,
            // Two processes do not wait in step either.
            waits: AtomicU64::new(u64::from(std::process::id()) << 32),
            left: Mutex::default(),
        }
    }

    fn left(&self) -> MutexGuard<'_, Vec<Left>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a session whose transaction nobody ends. It is not given back to the driver before: what is ended then
    /// could be somebody else's.
    pub(super) fn leave(&self, session: ClientSession) {
        let mut left = self.left();
        let oldest = (left.len() >= MOST_LEFT).then(|| left.remove(0));
        left.push(Left {
            session,
            ended: 0,
            last: Instant::now(),
        });
        drop(left);
        drop(oldest);
    }

    /// Ends what was left, on the server. A failure is of no interest here: the next call tries again.
    async fn end_left(&self, call: &Call<'_>) {
        let now = Instant::now();
        let due: Vec<Document> = {
            let left = self.left();
            let due = left.iter().filter(|one| one.is_due(now));
            due.map(|one| one.session.id().clone()).collect()
        };
        if due.is_empty() {
            return;
        }
        let step = self.database.run_command(doc! { "killSessions": &due });
        if call.run(async { step.await }).await.is_err() {
            return;
        }
        let now = Instant::now();
        let mut left = self.left();
        for one in left.iter_mut().filter(|one| due.contains(one.session.id())) {
            // Of two calls that ended it at the same time, one counts.
            one.ended += u32::from(one.is_due(now));
            one.last = now;
        }
        let (done, others) = std::mem::take(&mut *left)
            .into_iter()
            .partition::<Vec<_>, _>(|one| one.is_done(now));
        *left = others;
        drop(left);
        drop(done);
    }

    pub(super) fn records(&self, schema: &'static Schema) -> Collection<RawDocumentBuf> {
        self.database.collection(&self.name(schema))
    }

    pub(super) fn name(&self, schema: &'static Schema) -> String {
        format!("{}{}", self.config.prefix, schema.name)
    }

    /// Takes a place for one call. A call holds one connection at a time, so nobody waits for somebody who waits.
    pub(super) async fn call(&self, ctx: Option<&Context>) -> Result<Call<'_>> {
        let now = Instant::now();
        let left = match ctx.and_then(Context::until) {
            None => None,
            Some(deadline) => {
                let left = deadline.since(self.config.clock.now());
                if left.is_zero() {
                    return Err(late());
                }
                Some(left)
            }
        };
        let wait = left.map_or(self.config.wait, |left| left.min(self.config.wait));
        let place = match timeout(wait, self.places.acquire()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(Error::unexpected("the store was closed")),
            Err(_) if left.is_some_and(|left| left <= wait) => return Err(late()),
            Err(_) => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "all connections to MongoDB are busy; raise connections or wait",
                )
                .with("connections", self.config.connections));
            }
        };
        let call = Call {
            link: self,
            _place: place,
            // A deadline too far away to be told is none.
            until: left.and_then(|left| now.checked_add(left)),
        };
        self.end_left(&call).await;
        Ok(call)
    }
}

/// One call's place and deadline.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) link: &'a Link,
    _place: SemaphorePermit<'a>,
    until: Option<Instant>,
}

impl Call<'_> {
    /// What is left for the server, if there is a deadline.
    pub(super) fn left(&self) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(Instant::now());
        Some(left.max(Duration::from_millis(1)))
    }

    /// Waits for a step of the driver, until the deadline at most.
    pub(super) async fn run<T>(
        &self,
        step: impl Future<Output = Result<T, DriverError>>,
    ) -> Result<T, Fault> {
        match self.until {
            None => step.await.map_err(Fault::Driver),
            Some(until) => match timeout_at(until, step).await {
                Ok(done) => done.map_err(Fault::Driver),
                Err(_) => Err(Fault::Late),
            },
        }
    }

    /// Hands out the documents a pipeline gives, one by one; `at_once` says how many come in one answer, `one_moment`
    /// that all parts of the pipeline see the same state.
    pub(super) async fn read(
        &self,
        schema: &'static Schema,
        pipeline: Vec<Document>,
        at_once: Option<usize>,
        one_moment: bool,
        take: &mut (dyn FnMut(&RawDocument) -> Result<()> + Send),
    ) -> Result<()> {
        let mut options = AggregateOptions::default();
        options.allow_disk_use = Some(true);
        options.max_time = self.left();
        options.batch_size = at_once.and_then(|n| u32::try_from(n).ok());
        if one_moment {
            options.read_concern = Some(ReadConcern::snapshot());
        }
        let records = self.link.records(schema);
        let asked = records.aggregate(pipeline).with_options(options);
        let mut cursor = self.run(async { asked.await }).await.map_err(Fault::into_error)?;
        while self.run(cursor.advance()).await.map_err(Fault::into_error)? {
            take(cursor.current())?;
        }
        Ok(())
    }

    /// Hands out the documents of these keys, in no order.
    pub(super) async fn get(
        &self,
        schema: &'static Schema,
        mut keys: Vec<Bson>,
        take: &mut (dyn FnMut(&RawDocument) -> Result<()> + Send),
    ) -> Result<()> {
        let mut options = FindOptions::default();
        options.max_time = self.left();
        options.batch_size = u32::try_from(keys.len() + 1).ok();
        // One key alone takes the server's shortest way.
        let filter = match keys.pop() {
            Some(key) if keys.is_empty() => doc! { wire::ID: key },
            last => {
                keys.extend(last);
                doc! { wire::ID: { "$in": keys } }
            }
        };
        let records = self.link.records(schema);
        let asked = records.find(filter).with_options(options);
        let mut cursor = self.run(async { asked.await }).await.map_err(Fault::into_error)?;
        while self.run(cursor.advance()).await.map_err(Fault::into_error)? {
            take(cursor.current())?;
        }
        Ok(())
    }

    /// The patience of this call with others that are in its way.
    pub(super) fn patience(&self) -> Patience<'_> {
        let end = Instant::now() + self.link.config.wait;
        Patience {
            call: self,
            end: self.until.map_or(end, |until| until.min(end)),
            tries: 0,
        }
    }
}

/// Counts the tries of something that others may be in the way of, with longer and longer waits between.
#[derive(Debug)]
pub(super) struct Patience<'a> {
    call: &'a Call<'a>,
    end: Instant,
    tries: u32,
}

impl Patience<'_> {
    /// Waits before the next try.
    ///
    /// # Errors
    /// The given one, when the time is over.
    pub(super) async fn again(&mut self, error: Error) -> Result<()> {
        self.tries += 1;
        if Instant::now() >= self.end {
            return Err(error.with_retry(Retry::Exhausted).with("tries", self.tries));
        }
        let most = 1000_u64 << self.tries.min(6); // 2 to 64 milliseconds
        let turn = self.call.link.waits.fetch_add(1, Ordering::Relaxed);
        let wait = Duration::from_micros(most / 4 + mixed(turn) % most);
        sleep(wait.min(self.end.saturating_duration_since(Instant::now()))).await;
        Ok(())
    }
}

/// Spreads a counter over all numbers (the finaliser of SplitMix64).
fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Whether another unit of work was in the way, or the primary went away before anything was committed.
pub(super) fn is_passing(error: &DriverError) -> bool {
    error.contains_label(mongodb::error::TRANSIENT_TRANSACTION_ERROR)
        || matches!(
            error::code_of(error),
            Some(code::WRITE_CONFLICT | code::LOCK_TIMEOUT | code::NO_SUCH_TRANSACTION)
        )
}
