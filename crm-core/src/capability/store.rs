use async_trait::async_trait;

use crate::query::{Aggregate, Claim, Filter, Page, Query, Scan};
use crate::record::{Outcome, Schema, Stored, Write};
use crate::{Context, Provider, Result, Table, Timestamp, Uuid};

/// What a store promises beyond the contract.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreCapability {
    /// A unit of work happens whole or not at all, also when the process dies.
    pub atomic: bool,
    /// What was acknowledged is still there after a crash.
    pub durable: bool,
    /// Other processes may use the same data at the same time.
    pub shared: bool,
}

impl StoreCapability {
    /// Atomic; durable and shared as said.
    pub const fn new(durable: bool, shared: bool) -> Self {
        Self {
            atomic: true,
            durable,
            shared,
        }
    }
}

/// Keeps records: a handful of methods over a closed schema and filter language, the same meaning on every store
/// (`crm_core::testkit::store` is the proof). Every call stays within the tenant of its context.
#[async_trait]
pub trait RecordStore: Provider {
    /// What it promises.
    fn capability(&self) -> StoreCapability;

    /// What time it is where the records are, for what several machines must agree on; `None` where that is this process's
    /// own clock.
    ///
    /// # Errors
    /// Only those of the connection.
    async fn now(&self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    /// Makes room for these schemas: creates what is missing, adds new nullable fields and indexes. Safe to call by
    /// several processes at once and again at every start.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] when a schema is wrong or does not fit what is stored, naming the difference.
    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()>;

    /// The schemas room was made for through this store since it was opened. Whoever must not overlook a kind of record
    /// (a merge, an erasure) asks here; a store that wraps another one passes the question on.
    fn schemas(&self) -> Vec<&'static Schema> {
        Vec::new()
    }

    /// Carries out one unit of work: all writes, in order, or none. Answers one outcome a write.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when a version is not the expected one, or an id or unique key is taken: its
    /// context has `schema`, `write` (position in the batch) and `index` (the unique index's name, `id`, or `version`).
    /// [`crate::ErrorKind::Invalid`] when a record does not fit its schema.
    /// [`crate::Effect::Unknown`] when the answer to the commit was lost.
    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>>;

    /// Gets records by id, in the order asked; `None` for those that are not there.
    ///
    /// # Errors
    /// Only those of the connection.
    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>>;

    /// Finds records, one page at a time.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the field or setting that is wrong.
    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>>;

    /// Counts the records that match.
    ///
    /// # Errors
    /// As [`RecordStore::find`].
    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64>;

    /// Atomically takes and marks due records: two claimers never get the same one. Answers them as they are after the
    /// marking, in the claim's order.
    ///
    /// # Errors
    /// As [`RecordStore::find`].
    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>>;

    /// Hands out columns of all records that match, chunk by chunk, ordered by id, without holding them all.
    ///
    /// # Errors
    /// As [`RecordStore::find`]; an error of `take` stops the scan and is passed on.
    async fn scan(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()>;

    /// Groups and sums where the data lives.
    ///
    /// # Errors
    /// As [`RecordStore::find`].
    async fn aggregate(&self, ctx: &Context, schema: &'static Schema, aggregate: &Aggregate)
    -> Result<Table>;
}
