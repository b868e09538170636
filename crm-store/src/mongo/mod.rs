//! The store on MongoDB: one collection a schema, multi-document transactions for units of work.
//!
//! It needs MongoDB 6.0 or later as a replica set (one member is enough) or a sharded cluster: only these have
//! transactions. That is looked up when it is opened; a standalone server is refused. What is acknowledged is on the
//! journals of a majority, reads see what a majority has.
//!
//! How records lie in the database: `_id` is `{t: tenant, i: id}`, `version` and the fields stand beside it; absent
//! fields are not there; instants are microseconds; a JSON field is `{v: ..}` with escaped keys. A sharded cluster shards
//! the collections by `_id.t`, the tenant.
//!
//! ```no_run
//! # async fn open() -> crm_core::Result<()> {
//! use crm_core::capability::RecordStore;
//! use crm_store::mongo::{MongoConfig, MongoStore};
//!
//! let url = "mongodb://crm:password@db1.example.com/crm?replicaSet=rs0&tls=true";
//! let store = MongoStore::open(url, MongoConfig::default().prefix("shop_")).await?;
//! store.migrate(&[&crm_core::customer::CUSTOMER]).await?;
//! assert!(store.capability().atomic && store.capability().durable);
//! # Ok(()) }
//! ```
//!
//! A deadline in the context goes to the server as `maxTimeMS`. The driver keeps a connection to every member of the
//! replica set open and looks after them in tasks of its own, on the runtime the store was opened in.

mod apply;
mod claim;
mod config;
mod error;
mod filter;
mod link;
mod migrate;
mod pipeline;
mod single;
mod unit;
mod wire;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use crm_core::capability::{RecordStore, StoreCapability};
use crm_core::query::{Aggregate, Claim, Cursor, Filter, GroupBy, Page, Query, Scan};
use crm_core::record::{Outcome, Record, Schema, Stored, Value, Write};
use crm_core::{
    Column, Context, Error, ErrorKind, Health, Provider, ProviderInfo, Result, Table, Timestamp, Uuid,
};
use mongodb::Client;
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, doc};

pub use config::MongoConfig;

use link::{Call, Fault, Link};
use pipeline::Of;

/// Ids asked for in one question.
const IDS: usize = 1000;

/// The wire version of MongoDB 6.0.
const OLDEST: i32 = 17;

/// A [`RecordStore`] on MongoDB. `Debug` shows neither the URL nor data.
pub struct MongoStore {
    info: ProviderInfo,
    link: Link,
    transactions: bool,
    known: Mutex<Known>,
    /// One claim at a time and schema, so that the claimers of one process do not get into each other's way.
    queues: Mutex<HashMap<&'static str, Arc<tokio::sync::Mutex<()>>>>,
}

/// What the store knows of the database's schemas.
#[derive(Default)]
struct Known {
    /// Those the database has room for, by their address.
    there: HashSet<usize>,
    /// Those room was made for through this store.
    migrated: BTreeMap<&'static str, &'static Schema>,
}

impl fmt::Debug for MongoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoStore")
            .field("info", &self.info)
            .field("link", &self.link)
            .field("transactions", &self.transactions)
            .finish_non_exhaustive()
    }
}

impl MongoStore {
    /// Opens a MongoDB store by its URL: `mongodb://user:password@host:27017/database?replicaSet=rs0`, several hosts
    /// separated by commas, or `mongodb+srv://..`; with `tls=true` and `tlsCAFile` for TLS.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting when the URL or configuration is wrong, asks for less than durable
    /// writes, or the server is too old or has no transactions; [`ErrorKind::Unauthenticated`] when it refuses the
    /// credentials; [`ErrorKind::Unavailable`] when it cannot be reached.
    pub async fn open(url: &str, config: MongoConfig) -> Result<Self> {
        Self::opened(url, config)
            .await
            .map_err(|error| error.operation("store.open"))
    }

    /// [`MongoStore::open`] with the default configuration.
    ///
    /// # Errors
    /// As [`MongoStore::open`].
    pub async fn open_url(url: &str) -> Result<Self> {
        Self::open(url, MongoConfig::default()).await
    }

    async fn opened(url: &str, config: MongoConfig) -> Result<Self> {
        let opening = config::read(url, &config).await?;
        let client = Client::with_options(opening.options).map_err(|error| error::classify(&error))?;
        let database = client.database(&opening.database);
        let info = ProviderInfo::new("mongodb", &config.name);
        let link = Link::new(client, database, config);
        let call = link.call(None).await?;
        let hello = command(&call, doc! { "hello": 1 }).await?;
        if hello.get_i32("maxWireVersion").unwrap_or_default() < OLDEST {
            return Err(
                Error::config("this MongoDB server is too old; use 6.0 or later").with("setting", "url")
            );
        }
        let transactions =
            hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
        if !transactions && !link.config.without_transactions {
            return Err(Error::config(
                "a standalone MongoDB server has no transactions; start it with --replSet and call rs.initiate() \
                 (one member is enough)",
            )
            .with("setting", "url"));
        }
        drop(call);
        Ok(Self {
            info,
            link,
            transactions,
            known: Mutex::default(),
            queues: Mutex::default(),
        })
    }

    /// A place for a call about these schemas, which were migrated.
    async fn call(
        &self,
        ctx: &Context,
        schemas: impl IntoIterator<Item = &'static Schema>,
    ) -> Result<Call<'_>> {
        let call = self.link.call(Some(ctx)).await?;
        for schema in schemas {
            let address = std::ptr::from_ref(schema).addr();
            if !self.known().there.contains(&address) {
                migrate::is_migrated(&call, schema).await?;
                self.known().there.insert(address);
            }
        }
        Ok(call)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, schema: &'static Schema) -> Arc<tokio::sync::Mutex<()>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.entry(schema.name).or_default().clone()
    }

    fn of<'a>(&'a self, ctx: &'a Context, schema: &'static Schema) -> Of<'a> {
        Of {
            schema,
            tenant: ctx.tenant(),
            prefix: &self.link.config.prefix,
        }
    }

    async fn found(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        ids: &[Uuid],
    ) -> Result<Vec<Option<Stored>>> {
        let call = self.call(ctx, [schema]).await?;
        let mut found = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(IDS) {
            let keys: Vec<Bson> = ids.iter().map(|id| wire::key(ctx.tenant(), *id)).collect();
            let mut take = |document: &RawDocument| {
                let stored = wire::stored(schema, document)?;
                found.insert(stored.id, stored);
                Ok(())
            };
            call.get(schema, keys, &mut take).await?;
        }
        // Asked twice for one id, both places get it.
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    async fn page(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        query.validate(schema)?;
        let call = self.call(ctx, looked_at(schema, &query.filter)).await?;
        let limit = query.limit as usize;
        let pipeline = pipeline::find(self.of(ctx, schema), query)?;
        let mut items = Vec::with_capacity(limit.min(256));
        let mut take = |document: &RawDocument| {
            items.push(wire::stored(schema, document)?);
            Ok(())
        };
        call.read(schema, pipeline, Some(limit + 2), false, &mut take)
            .await?;
        let more = items.len() > limit;
        items.truncate(limit);
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

    async fn counted(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        filter.validate(schema)?;
        let call = self.call(ctx, looked_at(schema, filter)).await?;
        let pipeline = pipeline::count(self.of(ctx, schema), filter)?;
        let mut count = 0;
        let mut take = |document: &RawDocument| {
            let n = match document.get("n") {
                Ok(Some(RawBsonRef::Int32(n))) => u64::try_from(n).ok(),
                Ok(Some(RawBsonRef::Int64(n))) => u64::try_from(n).ok(),
                _ => None,
            };
            count = n.ok_or_else(|| Error::unexpected("a count without a number"))?;
            Ok(())
        };
        call.read(schema, pipeline, None, false, &mut take).await?;
        Ok(count)
    }

    /// One chunk of a scan, after an id: its rows, and the last one's id.
    async fn chunk(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        mut columns: Vec<Column>,
        after: &mut Option<Uuid>,
    ) -> Result<Table> {
        let call = self.call(ctx, looked_at(schema, &scan.filter)).await?;
        let pipeline = pipeline::scan(self.of(ctx, schema), scan, *after)?;
        let mut take = |document: &RawDocument| {
            let id = wire::id_of(schema, document)?;
            *after = Some(id);
            let mut cells = scan.columns.iter().zip(&mut columns);
            cells.try_for_each(|(wanted, column)| {
                if wanted.field == "id" {
                    return column.push(Value::Uuid(id));
                }
                let stored = document.get(&wanted.field).ok().flatten();
                match (schema.field(&wanted.field), stored) {
                    (Some((_, field)), Some(stored)) if wanted.path.is_empty() => {
                        column.push(match wire::field(schema, field, stored)? {
                            Value::Json(serde_json::Value::Null) => Value::Null,
                            Value::Json(json) => Value::Text(json.to_string()),
                            value => value,
                        })
                    }
                    (Some(_), Some(stored)) => column.push(wire::text_at(stored, &wanted.path).into()),
                    _ => column.push(Value::Null),
                }
            })
        };
        let at_once = scan.chunk_rows.saturating_add(1);
        call.read(schema, pipeline, Some(at_once), false, &mut take)
            .await?;
        Table::new(columns)
    }

    async fn grouped(&self, ctx: &Context, schema: &'static Schema, aggregate: &Aggregate) -> Result<Table> {
        aggregate.validate(schema)?;
        if aggregate.by.is_empty() && aggregate.measures.is_empty() {
            return Err(Error::invalid("an aggregate needs a group or a measure").with("schema", schema.name));
        }
        let call = self.call(ctx, looked_at(schema, &aggregate.filter)).await?;
        let types = pipeline::types(schema, aggregate)?;
        let names = aggregate
            .by
            .iter()
            .map(GroupBy::field)
            .chain(aggregate.measures.iter().map(|(name, _)| name.as_str()));
        let mut columns = names
            .zip(&types)
            .map(|(name, ty)| Column::empty(name, *ty))
            .collect::<Result<Vec<Column>>>()?;
        let pipeline = pipeline::aggregate(self.of(ctx, schema), aggregate)?;
        let mut rows = 0_usize;
        let mut take = |document: &RawDocument| {
            rows += 1;
            let row = pipeline::group(schema, aggregate, &types, document)?;
            columns
                .iter_mut()
                .zip(row)
                .try_for_each(|(column, value)| column.push(value))
        };
        let one_moment = self.transactions && pipeline::needs_one_moment(aggregate);
        call.read(schema, pipeline, None, one_moment, &mut take).await?;
        if rows == 0 && aggregate.by.is_empty() {
            // Over nothing there is one row too.
            let empty = Document::new();
            let empty = mongodb::bson::RawDocumentBuf::try_from(&empty)
                .map_err(|_| Error::unexpected("an empty document"))?;
            let row = pipeline::group(schema, aggregate, &types, &empty)?;
            columns
                .iter_mut()
                .zip(row)
                .try_for_each(|(column, value)| column.push(value))?;
        }
        Table::new(columns)
    }

    async fn applied(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        for (position, write) in writes.iter().enumerate() {
            if let Write::Insert { record, .. } | Write::Update { record, .. } | Write::Put { record, .. } =
                write
            {
                Record::validate(record).map_err(|error| error.with("write", position))?;
            }
        }
        let call = self.call(ctx, writes.iter().map(Write::schema)).await?;
        match writes {
            [] => Ok(Vec::new()),
            [one] => Ok(vec![single::apply(&call, ctx.tenant(), one).await?]),
            _ if !self.transactions => Err(Error::new(
                ErrorKind::Unsupported,
                "a standalone MongoDB server carries out one write at a time; make it a replica set",
            )
            .with("writes", writes.len())),
            several => apply::apply(&call, ctx.tenant(), several).await,
        }
    }
}

/// The schemas a question is about: the records' own, and those its filter looks at.
fn looked_at(schema: &'static Schema, filter: &Filter) -> Vec<&'static Schema> {
    let related = std::cell::RefCell::new(vec![schema]);
    filter.any(&|leaf| {
        if let Filter::Related(one) = leaf {
            related.borrow_mut().push(one.relation.schema());
        }
        false
    });
    related.into_inner()
}

async fn command(call: &Call<'_>, command: Document) -> Result<Document> {
    let database = call.link.database.clone();
    let step = database.run_command(command);
    call.run(async { step.await }).await.map_err(Fault::into_error)
}

#[async_trait]
impl Provider for MongoStore {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        let asked = async { command(&self.link.call(None).await?, doc! { "hello": 1 }).await };
        let hello = asked.await.map_err(|error| error.operation("store.check"))?;
        // Reads and writes go to the primary.
        match hello.get_bool("isWritablePrimary") {
            Ok(false) => Ok(Health::Down),
            _ => Ok(Health::Ready),
        }
    }
}

#[async_trait]
impl RecordStore for MongoStore {
    fn capability(&self) -> StoreCapability {
        let mut capability = StoreCapability::new(true, true);
        capability.atomic = self.transactions;
        capability
    }

    async fn now(&self) -> Result<Option<Timestamp>> {
        let asked = async { command(&self.link.call(None).await?, doc! { "hello": 1 }).await };
        let hello = asked.await.map_err(|error| error.operation("store.now"))?;
        let time = hello.get_datetime("localTime").ok();
        Ok(time.map(|time| Timestamp::from_micros(time.timestamp_millis().saturating_mul(1000))))
    }

    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        let named = |error: Error| error.operation("store.migrate");
        schemas
            .iter()
            .try_for_each(|schema| schema.validate())
            .map_err(named)?;
        let call = self.link.call(None).await.map_err(named)?;
        migrate::migrate(&call, schemas).await.map_err(named)?;
        let mut known = self.known();
        for schema in schemas {
            known.there.insert(std::ptr::from_ref(*schema).addr());
            known.migrated.insert(schema.name, schema);
        }
        Ok(())
    }

    fn schemas(&self) -> Vec<&'static Schema> {
        self.known().migrated.values().copied().collect()
    }

    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        self.applied(ctx, writes)
            .await
            .map_err(|error| error.operation("store.apply"))
    }

    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        self.found(ctx, schema, ids)
            .await
            .map_err(|error| error.operation("store.get"))
    }

    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        self.page(ctx, schema, query)
            .await
            .map_err(|error| error.operation("store.find"))
    }

    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        self.counted(ctx, schema, filter)
            .await
            .map_err(|error| error.operation("store.count"))
    }

    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
        let named = |error: Error| error.operation("store.claim");
        claim.validate(schema).map_err(named)?;
        let queue = self.queue(schema);
        let _turn = queue.lock().await;
        let call = self
            .call(ctx, looked_at(schema, &claim.due))
            .await
            .map_err(named)?;
        let taken = if self.transactions {
            claim::together(&call, self.of(ctx, schema), claim).await
        } else {
            claim::one_by_one(&call, self.of(ctx, schema), claim).await
        };
        taken.map_err(named)
    }

    /// Each chunk is a question of its own that goes on behind the last id: no snapshot is held while the chunks are
    /// worked on. Records added behind the current place meanwhile are seen, others not.
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
        let mut after = None;
        loop {
            let chunk = self.chunk(ctx, schema, scan, empty.clone(), &mut after).await;
            let chunk = chunk.map_err(named)?;
            let rows = chunk.rows();
            if rows > 0 {
                take(chunk)?;
            }
            if rows < scan.chunk_rows {
                return Ok(());
            }
        }
    }

    /// Sums and groups may spill to the server's disk. Numbers of different values beside other measures are read at one
    /// moment (`snapshot`), which the server keeps for five minutes unless told otherwise.
    async fn aggregate(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        aggregate: &Aggregate,
    ) -> Result<Table> {
        self.grouped(ctx, schema, aggregate)
            .await
            .map_err(|error| error.operation("store.aggregate"))
    }
}
