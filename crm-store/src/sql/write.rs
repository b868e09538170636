//! Units of work: writes are carried out in order; runs of alike inserts go out as few statements.

use std::collections::{HashMap, HashSet};

use crm_core::record::{OnConflict, Outcome, Record, Schema, Value, Version, Write};
use crm_core::{Error, Result, TenantId, Uuid};

use super::compile::{self, Sql, Taken};
use super::driver::{Dialect, Fault};
use super::lane::Lane;

/// Rows of one insert statement at most; beyond this, larger statements are not faster.
const ROWS: usize = 256;

/// Checks every record before anything is begun.
pub(super) fn validate(writes: &[Write]) -> Result<()> {
    for (i, write) in writes.iter().enumerate() {
        if let Write::Insert { record, .. } | Write::Update { record, .. } | Write::Put { record, .. } = write
        {
            record.validate().map_err(|error| error.with("write", i))?;
        }
    }
    Ok(())
}

/// Carries out all writes within the unit of work that is open on `lane`.
pub(super) async fn all<D: Dialect>(
    lane: &mut Lane<D>,
    tenant: &TenantId,
    writes: &[Write],
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(writes.len());
    while let Some(first) = writes.get(outcomes.len()) {
        let at = outcomes.len();
        match first {
            Write::Insert { .. } | Write::Put { .. } => {
                let rest = writes.get(at..).unwrap_or_default();
                let (schema, taken, rows) = run::<D>(rest);
                rows_in(lane, tenant, schema, taken, &rows, at, &mut outcomes).await?;
            }
            Write::Update { id, expected, record } => {
                let sql = compile::update::<D>(tenant, *id, *expected, record);
                let changed = lane
                    .execute(sql)
                    .await
                    .map_err(|fault| collided(record.schema(), at, fault))?;
                if changed == 0 {
                    return Err(stale(lane, tenant, record.schema(), *id, Some(*expected), at).await);
                }
                outcomes.push(Outcome::Written(expected + 1));
            }
            Write::Delete { schema, id, expected } => {
                let sql = compile::delete::<D>(schema, tenant, *id, *expected);
                let changed = lane
                    .execute(sql)
                    .await
                    .map_err(|fault| collided(schema, at, fault))?;
                if changed == 0 {
                    return Err(stale(lane, tenant, schema, *id, *expected, at).await);
                }
                outcomes.push(Outcome::Deleted);
            }
        }
    }
    Ok(outcomes)
}

type Rows<'a> = Vec<(Uuid, &'a Record)>;

/// The longest run of writes from the first that one statement can carry: same schema, same conflict rule, different
/// ids, and a number of rows that is a power of two, so that there are few different statements to prepare.
fn run<D: Dialect>(writes: &[Write]) -> (&'static Schema, Taken, Rows<'_>) {
    let of = |write: &Write| match write {
        Write::Insert {
            on_conflict: OnConflict::Fail,
            ..
        } => Some(Taken::Fail),
        Write::Insert {
            on_conflict: OnConflict::Skip,
            ..
        } => Some(Taken::Skip),
        Write::Put { .. } => Some(Taken::Replace),
        Write::Update { .. } | Write::Delete { .. } => None,
    };
    let mut rows: Rows<'_> = Vec::new();
    let mut ids = HashSet::new();
    let mut kind: Option<(&'static Schema, Taken)> = None;
    for write in writes {
        let (Some(taken), Write::Insert { id, record, .. } | Write::Put { id, record }) = (of(write), write)
        else {
            break;
        };
        let schema = record.schema();
        let (first, rule) = *kind.get_or_insert((schema, taken));
        let room = (D::MAX_BINDS / (schema.fields.len() + 2)).min(ROWS);
        if !std::ptr::eq(first, schema) || rule != taken || rows.len() == room || !ids.insert(*id) {
            break;
        }
        rows.push((*id, record));
    }
    if !rows.is_empty() {
        rows.truncate(1 << rows.len().ilog2());
    }
    let (schema, taken) = kind.unwrap_or((&EMPTY, Taken::Fail));
    (schema, taken, rows)
}

static EMPTY: Schema = Schema {
    name: "empty",
    fields: &[],
    indexes: &[],
};

async fn rows_in<D: Dialect>(
    lane: &mut Lane<D>,
    tenant: &TenantId,
    schema: &'static Schema,
    taken: Taken,
    rows: &[(Uuid, &Record)],
    at: usize,
    outcomes: &mut Vec<Outcome>,
) -> Result<()> {
    match statement(lane, tenant, schema, taken, rows, outcomes).await {
        Ok(()) => Ok(()),
        Err(fault @ Fault::Taken(_)) if D::INSERT_KEEPS && taken == Taken::Fail => {
            let before = match rows.len() {
                1 => 0,
                _ => lane.inserted().await.map_err(Fault::into_error)?,
            };
            Err(collided(schema, at + before, fault))
        }
        Err(Fault::Taken(_)) if rows.len() > 1 => {
            // The statement had no effect. One by one, the row that collides shows.
            for (i, row) in rows.iter().enumerate() {
                statement(lane, tenant, schema, taken, std::slice::from_ref(row), outcomes)
                    .await
                    .map_err(|fault| collided(schema, at + i, fault))?;
            }
            Ok(())
        }
        Err(fault) => Err(collided(schema, at, fault)),
    }
}

async fn statement<D: Dialect>(
    lane: &mut Lane<D>,
    tenant: &TenantId,
    schema: &'static Schema,
    taken: Taken,
    rows: &[(Uuid, &Record)],
    outcomes: &mut Vec<Outcome>,
) -> Result<(), Fault> {
    let (sql, types) = compile::insert::<D>(schema, tenant, rows, taken);
    if taken == Taken::Fail {
        lane.execute(sql).await?;
        outcomes.extend(rows.iter().map(|_| Outcome::Written(1)));
        return Ok(());
    }
    let answered = lane.query(sql, &types).await?;
    let written: HashMap<Uuid, Version> = answered
        .into_iter()
        .filter_map(|row| match row.as_slice() {
            [Value::Uuid(id), Value::Int(version)] => Some((*id, *version)),
            _ => None,
        })
        .collect();
    outcomes.extend(
        rows.iter()
            .map(|(id, _)| written.get(id).map_or(Outcome::Skipped, |v| Outcome::Written(*v))),
    );
    Ok(())
}

/// The one statement that is this whole unit of work, if it is one.
pub(super) fn single<D: Dialect>(tenant: &TenantId, writes: &[Write]) -> Option<Sql> {
    match writes {
        [
            Write::Insert {
                id,
                record,
                on_conflict: OnConflict::Fail,
            },
        ] => Some(compile::insert::<D>(record.schema(), tenant, &[(*id, record)], Taken::Fail).0),
        [Write::Update { id, expected, record }] => {
            Some(compile::update::<D>(tenant, *id, *expected, record))
        }
        [Write::Delete { schema, id, expected }] => {
            Some(compile::delete::<D>(schema, tenant, *id, *expected))
        }
        _ => None,
    }
}

/// What a unit of a [`single`] statement comes to that changed this many rows.
pub(super) async fn single_done<D: Dialect>(
    lane: &mut Lane<D>,
    tenant: &TenantId,
    writes: &[Write],
    changed: u64,
) -> Result<Vec<Outcome>> {
    match writes {
        [Write::Update { id, expected, record }] if changed == 0 => {
            Err(stale(lane, tenant, record.schema(), *id, Some(*expected), 0).await)
        }
        [Write::Delete { schema, id, expected }] if changed == 0 => {
            Err(stale(lane, tenant, schema, *id, *expected, 0).await)
        }
        [Write::Update { expected, .. }] => Ok(vec![Outcome::Written(expected + 1)]),
        [Write::Delete { .. }] => Ok(vec![Outcome::Deleted]),
        _ => Ok(vec![Outcome::Written(1)]),
    }
}

/// The error of a unit of a [`single`] statement that failed.
pub(super) fn single_failed(writes: &[Write], fault: Fault) -> Error {
    match writes.first() {
        Some(Write::Insert { record, .. } | Write::Update { record, .. } | Write::Put { record, .. }) => {
            collided(record.schema(), 0, fault)
        }
        Some(Write::Delete { schema, .. }) => collided(schema, 0, fault),
        None => fault.into_error(),
    }
}

fn collided(schema: &'static Schema, write: usize, fault: Fault) -> Error {
    named(schema, fault).with("write", write)
}

/// The error for a fault of a statement on a schema; names the unique index that was in the way.
pub(super) fn named(schema: &'static Schema, fault: Fault) -> Error {
    match fault {
        Fault::Other(error) => error.with("schema", schema.name),
        Fault::Taken(fields) => {
            let index = schema
                .indexes
                .iter()
                .find(|index| index.unique && index.fields.iter().eq(fields.iter()));
            Error::conflict("a record with this id or unique key is already there")
                .with("schema", schema.name)
                .with("index", index.map_or("id", |index| index.name))
        }
    }
}

async fn stale<D: Dialect>(
    lane: &mut Lane<D>,
    tenant: &TenantId,
    schema: &'static Schema,
    id: Uuid,
    expected: Option<Version>,
    write: usize,
) -> Error {
    let (sql, types) = compile::version::<D>(schema, tenant, id);
    let found = match lane.query(sql, &types).await {
        Ok(rows) => rows.first().and_then(|row| row.first()).and_then(Value::as_int),
        Err(fault) => {
            return fault
                .into_error()
                .with("schema", schema.name)
                .with("write", write);
        }
    };
    let error = Error::conflict("the record was changed or removed by someone else; read it again")
        .with("schema", schema.name)
        .with("write", write)
        .with("index", "version");
    let error = match expected {
        Some(version) => error.with("expected", version),
        None => error,
    };
    error.with(
        "found",
        found.map_or_else(|| "none".to_owned(), |version| version.to_string()),
    )
}
