//! One store over every SQL database: what is common is here, what differs is behind a driver.
//!
//! ```
//! # #[cfg(feature = "sqlite")]
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use crm_core::capability::RecordStore;
//! use crm_store::sql::{SqliteConfig, SqliteStore};
//!
//! let store = SqliteStore::open("sqlite::memory:", SqliteConfig::default()).await.unwrap();
//! store.migrate(&[&crm_core::customer::CUSTOMER]).await.unwrap();
//! assert!(store.capability().atomic);
//! # });
//! ```

#[cfg(feature = "sqlite")]
pub mod backup;
mod compile;
mod ddl;
mod driver;
mod filter;
mod group;
mod lane;
#[cfg(feature = "unstable-raw")]
mod raw;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
#[cfg(feature = "sqlite")]
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::{RecordStore, StoreCapability};
use crm_core::query::{Aggregate, Claim, Cursor, Filter, GroupBy, Page, Query, Scan};
use crm_core::record::{FieldType, Outcome, Record, Schema, Stored, Value, Write};
use crm_core::{
    Column, Context, Error, ErrorKind, Health, Provider, ProviderInfo, Result, Retry, Table, TenantId,
    Timestamp, Uuid,
};

pub use driver::Driver;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub use driver::Tls;
#[cfg(feature = "mysql")]
pub use driver::{Mysql, MysqlConfig};
#[cfg(feature = "postgres")]
pub use driver::{Postgres, PostgresConfig};
#[cfg(feature = "sqlite")]
pub use driver::{Sqlite, SqliteConfig};

use compile::{Control, control};
use driver::{Fault, Role, TRIES};
use lane::{Lane, Lanes};

/// A [`RecordStore`] on SQLite: one file, nothing to install, fully durable (WAL, `synchronous=FULL`), or in memory.
///
/// Several processes may use one file. One connection writes, a few read; a dropped call leaves nothing open.
#[cfg(feature = "sqlite")]
pub type SqliteStore = SqlStore<Sqlite>;

/// A [`RecordStore`] on MySQL 8 or later, or MariaDB 10.6 or later.
#[cfg(feature = "mysql")]
pub type MysqlStore = SqlStore<Mysql>;

/// A [`RecordStore`] on PostgreSQL 13 or later.
#[cfg(feature = "postgres")]
pub type PostgresStore = SqlStore<Postgres>;

/// Ids asked for in one statement.
const IDS: usize = 512;

/// A [`RecordStore`] on a SQL database.
pub struct SqlStore<D: Driver> {
    info: ProviderInfo,
    driver: Arc<D>,
    writer: Arc<Lanes<D>>,
    readers: Option<Arc<Lanes<D>>>,
    group: Arc<group::Group<D>>,
    /// What room was made for through this store, by name.
    schemas: Mutex<BTreeMap<&'static str, &'static Schema>>,
    /// Keeps a database in memory alive while the writer is replaced.
    _anchor: Option<Anchor<D::Connection>>,
}

/// A connection that is only held, never used; behind a lock that nobody takes, so that the store can be shared.
struct Anchor<C>(#[allow(dead_code, reason = "held, not used")] std::sync::Mutex<C>);

impl<D: Driver> fmt::Debug for SqlStore<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore")
            .field("info", &self.info)
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "mysql")]
impl SqlStore<Mysql> {
    /// Opens a MySQL or MariaDB store by its URL: `mysql://user:password@host:3306/database`, with the parameters
    /// `prefix`, `connections`, `tls`, `ca` and `durability` (see [`MysqlConfig`]).
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting when the URL or configuration is wrong, or the server's settings do not
    /// keep what was acknowledged; [`ErrorKind::Unauthenticated`] and [`ErrorKind::Unavailable`] as the server answers.
    pub async fn open(url: &str, config: MysqlConfig) -> Result<Self> {
        let driver = Mysql::open(url, config)
            .await
            .map_err(|e| e.operation("store.open"))?;
        Self::connected(ProviderInfo::new("mysql", driver.name()), driver).await
    }

    /// [`SqlStore::open`] with the default configuration.
    ///
    /// # Errors
    /// As [`SqlStore::open`].
    pub async fn open_url(url: &str) -> Result<Self> {
        Self::open(url, MysqlConfig::default()).await
    }
}

#[cfg(feature = "postgres")]
impl SqlStore<Postgres> {
    /// Opens a PostgreSQL store by its URL: `postgres://user:password@host:5432/database`, with the parameters
    /// `schema`, `prefix`, `connections`, `tls`, `ca` and `durability` (see [`PostgresConfig`]).
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting when the URL or configuration is wrong, or the server's settings do not
    /// keep what was acknowledged; [`ErrorKind::Unauthenticated`] and [`ErrorKind::Unavailable`] as the server answers.
    pub async fn open(url: &str, config: PostgresConfig) -> Result<Self> {
        let driver = Postgres::open(url, config)
            .await
            .map_err(|e| e.operation("store.open"))?;
        Self::connected(ProviderInfo::new("postgres", driver.name()), driver).await
    }

    /// [`SqlStore::open`] with the default configuration.
    ///
    /// # Errors
    /// As [`SqlStore::open`].
    pub async fn open_url(url: &str) -> Result<Self> {
        Self::open(url, PostgresConfig::default()).await
    }
}

#[cfg(feature = "sqlite")]
impl SqlStore<Sqlite> {
    /// Opens a SQLite store by its URL: `sqlite:crm.db`, `sqlite:///var/lib/crm.db`, `sqlite::memory:`; with
    /// `?mode=rwc` (the default: made when missing), `?mode=rw` (must be there) or `?mode=memory`, and `?prefix=crm_`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting when the URL or configuration is wrong, the file cannot be opened or
    /// written, or SQLite did not take a setting that durability needs; [`ErrorKind::Corrupt`] when the file is no
    /// SQLite database.
    pub async fn open(url: &str, config: SqliteConfig) -> Result<Self> {
        Self::start(Sqlite::new(url, config).map_err(|e| e.operation("store.open"))?).await
    }

    /// [`SqlStore::open`] with the default configuration.
    ///
    /// # Errors
    /// As [`SqlStore::open`].
    pub async fn open_url(url: &str) -> Result<Self> {
        Self::open(url, SqliteConfig::default()).await
    }

    /// Opens the SQLite file at `path`, taken literally; made when missing.
    ///
    /// # Errors
    /// As [`SqlStore::open`].
    pub async fn open_file(path: impl AsRef<Path>, config: SqliteConfig) -> Result<Self> {
        Self::start(Sqlite::file(path.as_ref(), config).map_err(|e| e.operation("store.open"))?).await
    }

    async fn start(driver: Sqlite) -> Result<Self> {
        let info = ProviderInfo::new("sqlite", driver.name());
        Self::connected(info, driver).await
    }
}

impl<D: Driver> SqlStore<D> {
    async fn connected(info: ProviderInfo, driver: D) -> Result<Self> {
        let driver = Arc::new(driver);
        let anchor = match driver.capability().shared {
            true => None,
            false => Some(Anchor(std::sync::Mutex::new(driver.connect(Role::Writer).await?))),
        };
        let readers = driver.readers();
        let writer = Lanes::new(driver.clone(), Role::Writer, driver.writers());
        let store = Self {
            info,
            group: group::Group::new(writer.clone(), driver.wait()),
            writer,
            readers: (readers > 0).then(|| Lanes::new(driver.clone(), Role::Reader, readers)),
            schemas: Mutex::default(),
            driver,
            _anchor: anchor,
        };
        // A file that can be read but not written shows here, not at the first write.
        let mut lane = store.writer.take().await?;
        if let Err(error) = lane.begin().await {
            // Closed before the caller hears of it: who mends the place and opens again must not meet this connection, with
            // which SQLite would share what it knows of the file.
            lane.shut().await;
            return Err(error.operation("store.open"));
        }
        lane.end(Ok(()))
            .await
            .map_err(|error| error.operation("store.open"))?;
        Ok(store)
    }

    /// Waits for the calls that are under way and closes the connections; calls from now on are refused. A store that is just
    /// dropped closes them too, but a SQLite file may then still be written for a moment: what is in its log moves into
    /// it. Close before the file is moved, copied or deleted.
    ///
    /// # Errors
    /// What kept the database from being closed.
    pub async fn close(&self) -> Result<()> {
        let named = |error: Error| error.operation("store.close");
        if let Some(readers) = &self.readers {
            readers.close().await.map_err(named)?;
        }
        self.writer.close().await.map_err(named)
    }

    /// How long a call on behalf of `ctx` may take.
    fn time(&self, ctx: &Context) -> Result<Option<Duration>> {
        let Some(until) = ctx.until() else {
            return Ok(self.driver.limit());
        };
        let now = self.driver.clock().now();
        ctx.check(self.driver.clock())?;
        let left = until.since(now);
        Ok(Some(self.driver.limit().map_or(left, |limit| limit.min(left))))
    }

    /// Asks one question on a reading connection.
    async fn ask(&self, ctx: &Context, question: compile::Question) -> Result<Vec<Vec<Value>>> {
        self.asked(self.time(ctx)?, question).await
    }

    async fn asked(
        &self,
        limit: Option<Duration>,
        (sql, types): compile::Question,
    ) -> Result<Vec<Vec<Value>>> {
        let lanes = self.readers.as_ref().unwrap_or(&self.writer);
        let mut lane = lanes.take_for(limit).await?;
        let rows = lane.query(sql, &types).await.map_err(Fault::into_error)?;
        lane.put_back();
        Ok(rows)
    }

    /// Asks for columns on a reading connection.
    async fn ask_columns(
        &self,
        ctx: &Context,
        (sql, types): compile::Question,
        whole: &[bool],
        columns: &mut [Column],
    ) -> Result<(usize, Option<Uuid>)> {
        let lanes = self.readers.as_ref().unwrap_or(&self.writer);
        let mut lane = lanes.take_for(self.time(ctx)?).await?;
        let done = lane.columns(sql, &types, whole, columns).await;
        let done = done.map_err(Fault::into_error)?;
        lane.put_back();
        Ok(done)
    }

    async fn claim_within(
        lane: &mut Lane<D>,
        tenant: &TenantId,
        schema: &'static Schema,
        claim: &Claim,
    ) -> Result<Vec<Stored>> {
        let (sql, types) = compile::due::<D>(schema, tenant, claim)?;
        let due = lane.query(sql, &types).await.map_err(Fault::into_error)?;
        let due: Vec<Uuid> = due
            .iter()
            .filter_map(|row| row.first().and_then(Value::as_uuid))
            .collect();
        let mut taken = HashMap::with_capacity(due.len());
        for ids in due.chunks(IDS) {
            let (sql, types) = compile::mark::<D>(schema, tenant, claim, ids);
            let rows = if D::ANSWERS_ROWS {
                let rows = lane.query(sql, &types).await;
                rows.map_err(|fault| write::named(schema, fault))?
            } else {
                lane.execute(sql)
                    .await
                    .map_err(|fault| write::named(schema, fault))?;
                let (sql, types) = compile::get::<D>(schema, tenant, ids);
                lane.query(sql, &types).await.map_err(Fault::into_error)?
            };
            for row in rows {
                let stored = stored(schema, row)?;
                taken.insert(stored.id, stored);
            }
        }
        Ok(due.iter().filter_map(|id| taken.remove(id)).collect())
    }
}

/// The error of a unit of work that was tried as often as it may be.
fn given_up(error: Error, again: bool) -> Error {
    match again {
        true => error.with("tries", TRIES).with_retry(Retry::Exhausted),
        false => error,
    }
}

/// A row of id, version and values.
fn stored(schema: &'static Schema, row: Vec<Value>) -> Result<Stored> {
    let mut row = row.into_iter();
    let (Some(Value::Uuid(id)), Some(Value::Int(version))) = (row.next(), row.next()) else {
        return Err(
            Error::new(ErrorKind::Corrupt, "a stored record has no id or version")
                .with("schema", schema.name),
        );
    };
    let record = Record::from_values(schema, row.collect()).map_err(|error| {
        let field = error.context("field").unwrap_or("?").to_owned();
        Error::new(ErrorKind::Corrupt, "a stored value is not what its schema says")
            .with("schema", schema.name)
            .with("field", field)
    })?;
    Ok(Stored { id, version, record })
}

#[async_trait]
impl<D: Driver> Provider for SqlStore<D> {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        self.asked(
            self.driver.limit(),
            (control::<D>(Control::Ping), vec![FieldType::Int]),
        )
        .await
        .map_err(|e| e.operation("store.check"))?;
        Ok(Health::Ready)
    }
}

#[async_trait]
impl<D: Driver> RecordStore for SqlStore<D> {
    fn capability(&self) -> StoreCapability {
        self.driver.capability()
    }

    async fn now(&self) -> Result<Option<Timestamp>> {
        if D::NOW.is_empty() {
            return Ok(None);
        }
        let question = (control::<D>(Control::Now), vec![FieldType::Int]);
        let rows = self.asked(self.driver.limit(), question).await;
        let rows = rows.map_err(|error| error.operation("store.now"))?;
        let micros = rows.first().and_then(|row| row.first()).and_then(Value::as_int);
        Ok(micros.map(Timestamp::from_micros))
    }

    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        let named = |error: Error| error.operation("store.migrate");
        schemas
            .iter()
            .try_for_each(|schema| schema.validate())
            .map_err(named)?;
        // A migration takes the time it needs.
        let mut lane = self.writer.take_for(None).await.map_err(named)?;
        lane.begin().await.map_err(named)?;
        let done = ddl::locked(&mut lane, schemas).await;
        lane.end(done).await.map_err(named)?;
        let mut known = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(schemas.iter().map(|schema| (schema.name, *schema)));
        Ok(())
    }

    fn schemas(&self) -> Vec<&'static Schema> {
        let known = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().copied().collect()
    }

    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        let named = |error: Error| error.operation("store.apply");
        write::validate(writes).map_err(named)?;
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        if D::SHARES_COMMITS {
            return self.group.apply(ctx.tenant(), writes).await.map_err(named);
        }
        for tries in 1.. {
            let limit = self.time(ctx).map_err(named)?;
            let mut lane = self.writer.take_for(limit).await.map_err(named)?;
            lane.begin().await.map_err(named)?;
            let done = write::all(&mut lane, ctx.tenant(), writes).await;
            match lane.ended(done).await {
                (Err(_), true) if tries < TRIES => tokio::time::sleep(self.driver.pause(tries)).await,
                (done, again) => return done.map_err(|error| named(given_up(error, again))),
            }
        }
        Err(named(Error::unexpected("a unit of work was never tried")))
    }

    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        let mut found = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(IDS) {
            let rows = self.ask(ctx, compile::get::<D>(schema, ctx.tenant(), ids)).await;
            for row in rows.map_err(|error| error.operation("store.get"))? {
                let stored = stored(schema, row).map_err(|error| error.operation("store.get"))?;
                found.insert(stored.id, stored);
            }
        }
        if found.len() == ids.len() {
            return Ok(ids.iter().map(|id| found.remove(id)).collect());
        }
        // Asked twice for one id, both places get it.
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        let named = |error: Error| error.operation("store.find");
        query.validate(schema).map_err(named)?;
        let question = compile::find::<D>(schema, ctx.tenant(), query).map_err(named)?;
        let mut rows = self.ask(ctx, question).await.map_err(named)?;
        let more = rows.len() > query.limit as usize;
        rows.truncate(query.limit as usize);
        let items = rows
            .into_iter()
            .map(|row| stored(schema, row))
            .collect::<Result<Vec<Stored>>>()
            .map_err(named)?;
        let key = |last: &Stored, field: &str| match field {
            "id" => Value::Uuid(last.id),
            field => last.record.get(field).cloned().unwrap_or(Value::Null),
        };
        let next = items.last().filter(|_| more).map(|last| Cursor {
            keys: query.order.iter().map(|order| key(last, &order.field)).collect(),
            id: last.id,
        });
        Ok(Page { items, next })
    }

    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        let named = |error: Error| error.operation("store.count");
        filter.validate(schema).map_err(named)?;
        let question = compile::count::<D>(schema, ctx.tenant(), filter).map_err(named)?;
        let rows = self.ask(ctx, question).await.map_err(named)?;
        let counted = rows.first().and_then(|row| row.first()).and_then(Value::as_int);
        counted
            .and_then(|n| u64::try_from(n).ok())
            .ok_or_else(|| named(Error::unexpected("a count without a number")))
    }

    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
        let named = |error: Error| error.operation("store.claim");
        claim.validate(schema).map_err(named)?;
        for tries in 1.. {
            let limit = self.time(ctx).map_err(named)?;
            let mut lane = self.writer.take_for(limit).await.map_err(named)?;
            lane.begin().await.map_err(named)?;
            let done = Self::claim_within(&mut lane, ctx.tenant(), schema, claim).await;
            match lane.ended(done).await {
                (Err(_), true) if tries < TRIES => tokio::time::sleep(self.driver.pause(tries)).await,
                (done, again) => return done.map_err(|error| named(given_up(error, again))),
            }
        }
        Err(named(Error::unexpected("a claim was never tried")))
    }

    /// Each chunk is a question of its own that goes on behind the last id: no snapshot is held while the chunks are
    /// worked on, so a long scan neither blocks writers nor lets the log grow. Records added behind the current place
    /// meanwhile are seen, others not.
    async fn scan(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()> {
        let named = |error: Error| error.operation("store.scan");
        scan.validate(schema).map_err(named)?;
        let empty: Vec<Column> = scan
            .columns
            .iter()
            .map(|column| scan.column(schema, column))
            .collect::<Result<_>>()
            .map_err(named)?;
        let whole: Vec<bool> = scan.columns.iter().map(|column| column.path.is_empty()).collect();
        let mut after = None;
        loop {
            let question = compile::scan::<D>(schema, ctx.tenant(), scan, after).map_err(named)?;
            let mut columns = empty.clone();
            let (rows, last) = self
                .ask_columns(ctx, question, &whole, &mut columns)
                .await
                .map_err(named)?;
            if rows == 0 {
                return Ok(());
            }
            after = last;
            take(Table::new(columns).map_err(named)?)?;
            if rows < scan.chunk_rows {
                return Ok(());
            }
        }
    }

    async fn aggregate(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        aggregate: &Aggregate,
    ) -> Result<Table> {
        let named = |error: Error| error.operation("store.aggregate");
        aggregate.validate(schema).map_err(named)?;
        let question = compile::aggregate::<D>(schema, ctx.tenant(), aggregate).map_err(named)?;
        let names = aggregate
            .by
            .iter()
            .map(GroupBy::field)
            .chain(aggregate.measures.iter().map(|(name, _)| name.as_str()));
        let mut columns = names
            .zip(&question.1)
            .map(|(name, ty)| Column::empty(name, *ty))
            .collect::<Result<Vec<Column>>>()
            .map_err(named)?;
        let months: Vec<bool> = aggregate
            .by
            .iter()
            .map(|by| matches!(by, GroupBy::Month(_)))
            .collect();
        for row in self.ask(ctx, question).await.map_err(named)? {
            for (i, (column, value)) in columns.iter_mut().zip(row).enumerate() {
                if months.get(i) == Some(&true) && value.as_str() == Some("") {
                    return Err(named(
                        Error::new(
                            ErrorKind::Unsupported,
                            "months are grouped within the years 0 to 9999 only",
                        )
                        .with("field", column.name()),
                    ));
                }
                column.push(value).map_err(named)?;
            }
        }
        Table::new(columns).map_err(named)
    }
}
