use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::shelf::{Layout, Row, Shelf, Undo, not_migrated};
use crate::capability::{RecordStore, StoreCapability};
use crate::query::{
    Aggregate, Answers, Assign, Claim, Cursor, FieldRef, Filter, Order, Page, Query, Scan, decide, grouped,
    text_below, total_order,
};
use crate::record::{FieldType, OnConflict, Outcome, Record, Schema, Stored, Value, Write};
use crate::{Context, Error, Health, Provider, ProviderInfo, Result, Table, TenantId, Uuid};

/// A [`RecordStore`] in memory: the whole contract, for the life of the process. What it means is what every store
/// means; the conformance suite compares them with this one.
///
/// Rows lie in trees by id, with one ordered tree an index; a unit of work is carried out under one lock and undone
/// when one of its writes fails. `Debug` shows no data.
pub struct MemoryStore {
    info: ProviderInfo,
    shelves: Mutex<Shelves>,
}

type Shelves = BTreeMap<&'static str, Shelf>;

impl MemoryStore {
    /// An empty store of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            info: ProviderInfo::new("memory", name),
            shelves: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        // A panic while the lock is held can only come from a bug in here; the data are still whole up to the last
        // finished write.
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("name", &self.info.name)
            .finish_non_exhaustive()
    }
}

fn shelf<'a>(shelves: &'a Shelves, schema: &'static Schema) -> Result<&'a Shelf> {
    shelves.get(schema.name).ok_or_else(|| not_migrated(schema))
}

fn conflict(message: &'static str, write: &Write, position: usize, index: &str) -> Error {
    Error::conflict(message)
        .with("schema", write.schema().name)
        .with("write", position)
        .with("index", index)
}

/// Carries out one write; what it replaced goes on `undo`.
fn write(
    shelves: &mut Shelves,
    tenant: &TenantId,
    write: &Write,
    position: usize,
    undo: &mut Vec<Undo>,
) -> Result<Outcome> {
    let (schema, id) = (write.schema(), write.id());
    let shelf = shelves.get_mut(schema.name).ok_or_else(|| not_migrated(schema))?;
    let layout = shelf.layout(schema)?;
    let before = shelf.rows(tenant).and_then(|rows| rows.by_id.get(&id));
    let taken = |index| {
        conflict(
            "a record with this id or unique key is already there",
            write,
            position,
            index,
        )
    };
    let stale = || {
        conflict(
            "the record is gone or has another version; read it again",
            write,
            position,
            "version",
        )
    };
    let (after, outcome) = match write {
        Write::Insert {
            record, on_conflict, ..
        } => {
            let row = shelf.row(&layout, None, 1, record);
            let clash = if before.is_some() {
                Some("id")
            } else {
                shelf.collision(tenant, id, &row)
            };
            match (clash, on_conflict) {
                (Some(_), OnConflict::Skip) => return Ok(Outcome::Skipped),
                (Some(index), OnConflict::Fail) => return Err(taken(index)),
                (None, _) => (Some(row), Outcome::Written(1)),
            }
        }
        Write::Update { expected, record, .. } => match before {
            Some(old) if old.version == *expected => {
                let version = expected.saturating_add(1);
                (
                    Some(shelf.row(&layout, Some(old), version, record)),
                    Outcome::Written(version),
                )
            }
            _ => return Err(stale()),
        },
        Write::Put { record, .. } => {
            let version = before.map_or(1, |row| row.version.saturating_add(1));
            (
                Some(shelf.row(&layout, before, version, record)),
                Outcome::Written(version),
            )
        }
        Write::Delete { expected, .. } => match before {
            Some(row) if expected.is_none_or(|expected| expected == row.version) => (None, Outcome::Deleted),
            _ => return Err(stale()),
        },
    };
    if let Some(index) = after.as_ref().and_then(|row| shelf.collision(tenant, id, row)) {
        return Err(taken(index));
    }
    let before = shelf.set(tenant, id, after);
    undo.push(Undo {
        schema: schema.name,
        tenant: tenant.clone(),
        id,
        before,
    });
    Ok(outcome)
}

fn roll_back(shelves: &mut Shelves, undo: Vec<Undo>) {
    for change in undo.into_iter().rev() {
        if let Some(shelf) = shelves.get_mut(change.schema) {
            shelf.set(&change.tenant, change.id, change.before);
        }
    }
}

/// The rows that match, by id, after `from` when given; at most `limit`.
fn matching<'a>(
    shelf: &'a Shelf,
    layout: &Layout,
    tenant: &TenantId,
    filter: &Filter,
    answers: &Answers<'_>,
    from: Option<Uuid>,
    limit: usize,
) -> Vec<(Uuid, &'a Row)> {
    let Some(rows) = shelf.rows(tenant) else {
        return Vec::new();
    };
    let start = from.map_or(Bound::Unbounded, Bound::Excluded);
    let keep = |(id, row): &(Uuid, &Row)| decide(filter, &layout.place(*id, row), answers);
    match shelf.candidates(tenant, filter) {
        Some(ids) => ids
            .range((start, Bound::Unbounded))
            .filter_map(|id| rows.by_id.get(id).map(|row| (*id, row)))
            .filter(keep)
            .take(limit)
            .collect(),
        None => rows
            .by_id
            .range((start, Bound::Unbounded))
            .map(|(id, row)| (*id, row))
            .filter(keep)
            .take(limit)
            .collect(),
    }
}

fn sort_keys(layout: &Layout, order: &[Order], id: Uuid, row: &Row) -> Vec<Value> {
    let id = Value::Uuid(id);
    order
        .iter()
        .map(|order| layout.value(&id, row, &order.field).clone())
        .collect()
}

fn compare(order: &[Order], a: (&[Value], Uuid), b: (&[Value], Uuid)) -> Ordering {
    let keys = order.iter().zip(a.0.iter().zip(b.0)).map(|(order, (x, y))| {
        let found = total_order(x, y);
        if order.descending { found.reverse() } else { found }
    });
    keys.fold(Ordering::Equal, Ordering::then)
        .then_with(|| a.1.cmp(&b.1))
}

/// A match with its sort keys.
struct Ranked<'a> {
    keys: Vec<Value>,
    id: Uuid,
    row: &'a Row,
}

/// The first `limit` matches in this order, after the cursor when given.
fn ranked<'a>(
    shelf: &'a Shelf,
    layout: &Layout,
    tenant: &TenantId,
    (filter, answers): (&Filter, &Answers<'_>),
    order: &[Order],
    after: Option<&Cursor>,
    limit: usize,
) -> Vec<Ranked<'a>> {
    let rank = |(id, row): (Uuid, &'a Row)| Ranked {
        keys: sort_keys(layout, order, id, row),
        id,
        row,
    };
    if order.is_empty() {
        let from = after.map(|cursor| cursor.id);
        return matching(shelf, layout, tenant, filter, answers, from, limit)
            .into_iter()
            .map(rank)
            .collect();
    }
    let mut all: Vec<Ranked<'a>> = matching(shelf, layout, tenant, filter, answers, None, usize::MAX)
        .into_iter()
        .map(rank)
        .filter(|one| after.is_none_or(|c| compare(order, (&one.keys, one.id), (&c.keys, c.id)).is_gt()))
        .collect();
    all.sort_by(|a, b| compare(order, (&a.keys, a.id), (&b.keys, b.id)));
    all.truncate(limit);
    all
}

fn assigned(record: &mut Record, assign: &Assign) -> Result<()> {
    match assign {
        Assign::Set(field, value) => record.set(field, value.clone()),
        Assign::Add(field, by) => match record.get(field) {
            Some(Value::Int(now)) => {
                let sum = now
                    .checked_add(*by)
                    .ok_or_else(|| Error::invalid("adding goes beyond 64 bits").with("field", field))?;
                record.set(field, sum)
            }
            _ => Ok(()),
        },
    }
}

#[async_trait]
impl Provider for MemoryStore {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl RecordStore for MemoryStore {
    fn capability(&self) -> StoreCapability {
        StoreCapability::new(false, false)
    }

    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        let named = |error: Error| error.operation("store.migrate");
        schemas
            .iter()
            .try_for_each(|schema| schema.validate())
            .map_err(named)?;
        let mut shelves = self.lock();
        schemas
            .iter()
            .try_for_each(|schema| shelves.entry(schema.name).or_default().grow(schema))
            .map_err(named)
    }

    fn schemas(&self) -> Vec<&'static Schema> {
        self.lock().values().filter_map(|shelf| shelf.schema).collect()
    }

    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        let named = |error: Error| error.operation("store.apply");
        for (position, write) in writes.iter().enumerate() {
            if let Write::Insert { record, .. } | Write::Update { record, .. } | Write::Put { record, .. } =
                write
            {
                record
                    .validate()
                    .map_err(|error| named(error).with("write", position))?;
            }
        }
        let mut shelves = self.lock();
        let mut undo = Vec::with_capacity(writes.len());
        let mut outcomes = Vec::with_capacity(writes.len());
        for (position, one) in writes.iter().enumerate() {
            match write(&mut shelves, ctx.tenant(), one, position, &mut undo) {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => {
                    roll_back(&mut shelves, undo);
                    return Err(named(error));
                }
            }
        }
        Ok(outcomes)
    }

    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        let shelves = self.lock();
        let named = |error: Error| error.operation("store.get");
        let shelf = shelf(&shelves, schema).map_err(named)?;
        let layout = shelf.layout(schema).map_err(named)?;
        let rows = shelf.rows(ctx.tenant());
        let find = |id: &Uuid| {
            rows.and_then(|rows| rows.by_id.get(id))
                .map(|row| layout.stored(*id, row))
        };
        Ok(ids.iter().map(find).collect())
    }

    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        let named = |error: Error| error.operation("store.find");
        query.validate(schema).map_err(named)?;
        let shelves = self.lock();
        let shelf = shelf(&shelves, schema).map_err(named)?;
        let layout = shelf.layout(schema).map_err(named)?;
        let limit = query.limit as usize;
        let after = query.after.as_ref();
        let answers = answers(&shelves, ctx.tenant(), &query.filter).map_err(named)?;
        let mut page = ranked(
            shelf,
            &layout,
            ctx.tenant(),
            (&query.filter, &answers),
            &query.order,
            after,
            limit + 1,
        );
        let more = page.len() > limit;
        page.truncate(limit);
        let next = page.last().filter(|_| more).map(|last| Cursor {
            keys: last.keys.clone(),
            id: last.id,
        });
        Ok(Page {
            items: page
                .into_iter()
                .map(|one| layout.stored(one.id, one.row))
                .collect(),
            next,
        })
    }

    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        let named = |error: Error| error.operation("store.count");
        filter.validate(schema).map_err(named)?;
        let shelves = self.lock();
        let shelf = shelf(&shelves, schema).map_err(named)?;
        let layout = shelf.layout(schema).map_err(named)?;
        let answers = answers(&shelves, ctx.tenant(), filter).map_err(named)?;
        Ok(matching(shelf, &layout, ctx.tenant(), filter, &answers, None, usize::MAX).len() as u64)
    }

    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
        let named = |error: Error| error.operation("store.claim");
        claim.validate(schema).map_err(named)?;
        let mut shelves = self.lock();
        let due = {
            let shelf = shelf(&shelves, schema).map_err(named)?;
            let layout = shelf.layout(schema).map_err(named)?;
            let answers = answers(&shelves, ctx.tenant(), &claim.due).map_err(named)?;
            let due = ranked(
                shelf,
                &layout,
                ctx.tenant(),
                (&claim.due, &answers),
                &claim.order,
                None,
                claim.limit as usize,
            );
            due.into_iter()
                .map(|one| layout.stored(one.id, one.row))
                .collect::<Vec<Stored>>()
        };
        let mut undo = Vec::with_capacity(due.len());
        let mut taken = Vec::with_capacity(due.len());
        for (position, mut stored) in due.into_iter().enumerate() {
            let marked = claim
                .assign
                .iter()
                .try_for_each(|assign| assigned(&mut stored.record, assign))
                .and_then(|()| {
                    let update = Write::update(stored.id, stored.version, stored.record.clone());
                    write(&mut shelves, ctx.tenant(), &update, position, &mut undo)
                });
            match marked {
                Ok(_) => taken.push(Stored {
                    version: stored.version + 1,
                    ..stored
                }),
                Err(error) => {
                    roll_back(&mut shelves, undo);
                    return Err(named(error));
                }
            }
        }
        Ok(taken)
    }

    async fn scan(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()> {
        let named = |error: Error| error.operation("store.scan");
        scan.validate(schema).map_err(named)?;
        let answers = answers(&self.lock(), ctx.tenant(), &scan.filter).map_err(named)?;
        let mut last = None;
        loop {
            // The lock is only held while a chunk is filled, so `take` may use the store itself.
            let chunk = {
                let shelves = self.lock();
                let shelf = shelf(&shelves, schema).map_err(named)?;
                let layout = shelf.layout(schema).map_err(named)?;
                let rows = matching(
                    shelf,
                    &layout,
                    ctx.tenant(),
                    &scan.filter,
                    &answers,
                    last,
                    scan.chunk_rows,
                );
                let Some((id, _)) = rows.last() else { return Ok(()) };
                last = Some(*id);
                columns(schema, &layout, scan, &rows).map_err(named)?
            };
            let full = chunk.rows() == scan.chunk_rows;
            take(chunk)?;
            if !full {
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
        let shelves = self.lock();
        let shelf = shelf(&shelves, schema).map_err(named)?;
        let layout = shelf.layout(schema).map_err(named)?;
        let answers = answers(&shelves, ctx.tenant(), &aggregate.filter).map_err(named)?;
        summed(shelf, &layout, ctx.tenant(), aggregate, &answers).map_err(named)
    }
}

fn summed(
    shelf: &Shelf,
    layout: &Layout,
    tenant: &TenantId,
    aggregate: &Aggregate,
    answers: &Answers<'_>,
) -> Result<Table> {
    let rows = matching(
        shelf,
        layout,
        tenant,
        &aggregate.filter,
        answers,
        None,
        usize::MAX,
    );
    let ty = |field: &str| {
        FieldRef {
            field: field.to_owned(),
            path: Vec::new(),
        }
        .resolve(layout.schema())
        .map(|ty| ty.unwrap_or(FieldType::Json))
    };
    let rows = rows.into_iter().map(|(id, row)| {
        let id = Value::Uuid(id);
        move |field: &str| layout.value(&id, row, field).clone()
    });
    grouped(aggregate, &ty, rows)
}

/// The answers to the conditions on related records of a filter, from the shelves of those.
fn answers<'f>(shelves: &Shelves, tenant: &TenantId, filter: &'f Filter) -> Result<Answers<'f>> {
    Answers::of(filter, &mut |related| {
        let schema = related.relation.schema();
        let shelf = shelf(shelves, schema)?;
        let layout = shelf.layout(schema)?;
        summed(shelf, &layout, tenant, &related.aggregate(), &Answers::default())
    })
}

fn columns(schema: &'static Schema, layout: &Layout, scan: &Scan, rows: &[(Uuid, &Row)]) -> Result<Table> {
    let mut table = Table::default();
    for field in &scan.columns {
        let mut column = scan.column(schema, field)?;
        for (id, row) in rows {
            let id = Value::Uuid(*id);
            let value = layout.value(&id, row, &field.field);
            if let (true, Value::Json(json)) = (field.path.is_empty(), value) {
                column.push_text((!json.is_null()).then(|| json.to_string()).as_deref());
            } else if field.path.is_empty() {
                column.push(value.clone())?;
            } else {
                column.push_text(text_below(value, &field.path).as_deref());
            }
        }
        table.push(column)?;
    }
    Ok(table)
}
