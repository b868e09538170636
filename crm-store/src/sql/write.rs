//! Units of work: writes are carried out in order; runs of alike inserts go out as few statements.

use std::collections::{HashMap, HashSet};

use crm_core::record::{OnConflict, Outcome, Record, Schema, Value, Version, Write};
use crm_core::{Error, Result, TenantId, Uuid};

use super::compile::{self, Control, Row, Sql, Taken};
use super::driver::{Dialect, Fault, Key};
use super::lane::Lane;

/// Rows of one insert statement at most; beyond this, larger statements are not faster.
const ROWS: usize = 256;
/// Rows of one update statement at most.
const UPDATES: usize = 64;
/// Rows that are handed over at once to be inserted one by one.
const ROWS_EACH: usize = 4096;

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
    // Until where updates are carried out one by one.
    let mut single: Option<usize> = None;
    while let Some(first) = writes.get(outcomes.len()) {
        let at = outcomes.len();
        match first {
            Write::Insert { .. } | Write::Put { .. } => {
                let rest = writes.get(at..).unwrap_or_default();
                let most = lane.parts().0.statement_bytes();
                let (schema, taken, rows) = run::<D>(tenant, rest, most);
                rows_in(lane, tenant, schema, taken, &rows, at, &mut outcomes).await?;
            }
            Write::Update { record, .. } if D::UPDATES_TOGETHER && single.is_none_or(|until| until <= at) => {
                let rest = writes.get(at..).unwrap_or_default();
                let (rows, fields) = updates::<D>(tenant, rest, lane.parts().0.statement_bytes());
                let schema = record.schema();
                if rows.len() > 1 && updated(lane, tenant, schema, &rows, &fields).await? {
                    outcomes.extend(rows.iter().map(|row| Outcome::Written(row.expected + 1)));
                } else {
                    // One by one, the one that is in the way shows.
                    single = Some(at + rows.len().max(1));
                }
            }
            Write::Update {
                id,
                expected,
                record,
                before,
            } => {
                let before = before.as_ref().map(Record::values).unwrap_or_default();
                let sql = compile::changed::<D>(tenant, *id, *expected, record, before);
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

/// The longest run of updates from the first that one statement can carry, under the same rules as [`run`], and the fields
/// that it writes: those that differ in any of them.
fn updates<'a, D: Dialect>(
    tenant: &TenantId,
    writes: &'a [Write],
    most: usize,
) -> (Vec<Row<'a>>, Vec<usize>) {
    let mut rows: Vec<Row<'a>> = Vec::new();
    let mut fields: Vec<usize> = Vec::new();
    let mut ids = HashSet::new();
    let mut bytes = 0;
    for write in writes {
        let Write::Update {
            id,
            expected,
            record,
            before,
        } = write
        else {
            break;
        };
        let row = Row {
            id: *id,
            expected: *expected,
            record,
            before: before.as_ref(),
        };
        let schema = record.schema();
        let room = (D::MAX_BINDS / (schema.fields.len() + 3)).min(UPDATES);
        // Beside one of which nothing is known, all the others would be written whole, too.
        let other = rows.first().is_some_and(|first| {
            !std::ptr::eq(first.record.schema(), schema) || first.before.is_none() != before.is_none()
        });
        if other || rows.len() == room || !ids.insert(*id) {
            break;
        }
        let mut more = compile::differing(schema, &row);
        more.retain(|at| !fields.contains(at));
        let of = |row: &Row<'_>, fields: &[usize]| {
            let values = fields.iter().filter_map(|at| row.record.values().get(*at));
            values.map(size).sum::<usize>()
        };
        bytes += KEY + tenant.as_str().len() + of(&row, &fields) + of(&row, &more);
        bytes += rows.iter().map(|row| of(row, &more)).sum::<usize>();
        if bytes > most && !rows.is_empty() {
            break;
        }
        fields.extend(more);
        rows.push(row);
    }
    if !rows.is_empty() {
        rows.truncate(1 << rows.len().ilog2());
    }
    // In the schema's order, so that there are few different statements.
    fields.sort_unstable();
    (rows, fields)
}

/// Updates them all, or none of them: then one has another version, or a unique key is taken.
async fn updated<D: Dialect>(
    lane: &mut Lane<D>,
    tenant: &TenantId,
    schema: &'static Schema,
    rows: &[Row<'_>],
    fields: &[usize],
) -> Result<bool> {
    lane.step(Control::Mark).await?;
    let sql = compile::updates::<D>(schema, tenant, rows, fields);
    let done = lane.execute(sql).await;
    match done {
        Ok(changed) if changed == rows.len() as u64 => {
            lane.step(Control::Keep).await?;
            Ok(true)
        }
        Ok(_) | Err(Fault::Taken(_)) => {
            lane.step(Control::Undo).await?;
            lane.step(Control::Keep).await?;
            Ok(false)
        }
        Err(fault) => Err(named(schema, fault)),
    }
}

type Rows<'a> = Vec<(Uuid, &'a Record)>;

/// The longest run of writes from the first that one statement can carry: same schema, same conflict rule, different
/// ids, not more than `most` bytes, and a number of rows that is a power of two, so that there are few different statements
/// to prepare.
fn run<'a, D: Dialect>(
    tenant: &TenantId,
    writes: &'a [Write],
    most: usize,
) -> (&'static Schema, Taken, Rows<'a>) {
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
    let mut rows: Rows<'a> = Vec::new();
    let mut ids = HashSet::new();
    let mut bytes = 0;
    let mut kind: Option<(&'static Schema, Taken)> = None;
    for write in writes {
        let (Some(taken), Write::Insert { id, record, .. } | Write::Put { id, record }) = (of(write), write)
        else {
            break;
        };
        let schema = record.schema();
        let (first, rule) = *kind.get_or_insert((schema, taken));
        // Row by row, one that comes twice collides by itself.
        let each = D::ROW_BY_ROW && rule == Taken::Fail;
        let room = match each {
            true => ROWS_EACH,
            false => (D::MAX_BINDS / (schema.fields.len() + 2)).min(ROWS),
        };
        let other = !std::ptr::eq(first, schema) || rule != taken || rows.len() == room;
        if other || (!each && !ids.insert(*id)) {
            break;
        }
        if most < usize::MAX {
            bytes += KEY + tenant.as_str().len() + record.values().iter().map(size).sum::<usize>();
            if bytes > most && !rows.is_empty() {
                break;
            }
        }
        rows.push((*id, record));
    }
    let each = D::ROW_BY_ROW && kind.is_some_and(|(_, taken)| taken == Taken::Fail);
    if !each && !rows.is_empty() {
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
    if D::ROW_BY_ROW && taken == Taken::Fail {
        // A record's values are shared: nothing is copied on the way.
        let all = rows.iter().map(|(id, record)| (*id, (*record).clone())).collect();
        let sql = compile::insert_row::<D>(schema, tenant);
        let (done, fault) = lane.insert_each(sql, all).await;
        outcomes.extend(rows.iter().take(done).map(|_| Outcome::Written(1)));
        return fault.map_or(Ok(()), |fault| Err(collided(schema, at + done, fault)));
    }
    if !D::ANSWERS_ROWS && taken != Taken::Fail {
        let done = match taken {
            Taken::Replace => replacing(lane, tenant, schema, rows, outcomes).await,
            Taken::Fail | Taken::Skip => skipping(lane, tenant, schema, rows, outcomes).await,
        };
        return done.map_err(|fault| collided(schema, outcomes.len(), fault));
    }
    // What a failed statement would take with it is set apart.
    let apart = !D::GOES_ON && rows.len() > 1 && taken != Taken::Skip;
    if apart {
        lane.step(Control::Mark).await?;
    }
    match statement(lane, tenant, schema, taken, rows, outcomes).await {
        Ok(()) => {}
        Err(Fault::Taken(_)) if rows.len() > 1 => {
            if apart {
                lane.step(Control::Undo).await?;
            }
            // The statement had no effect. One by one, the row that collides shows.
            for (i, row) in rows.iter().enumerate() {
                statement(lane, tenant, schema, taken, std::slice::from_ref(row), outcomes)
                    .await
                    .map_err(|fault| collided(schema, at + i, fault))?;
            }
        }
        Err(fault) => return Err(collided(schema, at, fault)),
    }
    if apart {
        lane.step(Control::Keep).await?;
    }
    Ok(())
}

/// The bytes of tenant, id and version in a statement, at most, without the tenant's letters.
const KEY: usize = 6 + 20 + 16;

/// The bytes of a value in a statement, at most.
fn size(value: &Value) -> usize {
    /// A string of JSON: what cannot stand there as it is takes two bytes, or six.
    fn string(text: &str) -> usize {
        let more = |byte: u8| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 1,
            0..0x20 => 5,
            _ => 0,
        };
        2 + text.len() + text.bytes().map(more).sum::<usize>()
    }
    fn json(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::String(text) => string(text),
            serde_json::Value::Array(items) => 2 + items.iter().map(|item| 1 + json(item)).sum::<usize>(),
            serde_json::Value::Object(map) => {
                2 + map
                    .iter()
                    .map(|(key, value)| string(key) + 2 + json(value))
                    .sum::<usize>()
            }
            _ => 24,
        }
    }
    match value {
        Value::Text(text) => 6 + text.len(),
        Value::Bytes(bytes) => 6 + bytes.len(),
        Value::Json(value) => 6 + json(value),
        _ => 20,
    }
}

/// Inserts that leave out what is there, on a database that cannot say which rows it left out: halves of a run that
/// collides are tried again, down to the rows that do. A database that is asked this way undoes a failed statement alone.
async fn skipping<D: Dialect>(
    lane: &mut Lane<D>,
    tenant: &TenantId,
    schema: &'static Schema,
    rows: &[(Uuid, &Record)],
    outcomes: &mut Vec<Outcome>,
) -> Result<(), Fault> {
    let mut parts = vec![rows];
    while let Some(part) = parts.pop() {
        let (sql, _) = compile::insert::<D>(schema, tenant, part, Taken::Fail);
        match lane.execute(sql).await {
            Ok(_) => outcomes.extend(part.iter().map(|_| Outcome::Written(1))),
            Err(Fault::Taken(_)) if part.len() == 1 => outcomes.push(Outcome::Skipped),
            Err(Fault::Taken(_)) => {
                let (first, rest) = part.split_at(part.len() / 2);
                parts.extend([rest, first]);
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// Blind writes, on a database whose way of replacing rows would also replace those that only share a unique key.
async fn replacing<D: Dialect>(
    lane: &mut Lane<D>,
    tenant: &TenantId,
    schema: &'static Schema,
    rows: &[(Uuid, &Record)],
    outcomes: &mut Vec<Outcome>,
) -> Result<(), Fault> {
    let ids: Vec<Uuid> = rows.iter().map(|(id, _)| *id).collect();
    let (sql, types) = compile::held::<D>(schema, tenant, &ids);
    let there: HashMap<Uuid, Version> = lane
        .query(sql, &types)
        .await?
        .iter()
        .filter_map(|row| Some((row.first()?.as_uuid()?, row.get(1)?.as_int()?)))
        .collect();
    if there.is_empty() {
        let (sql, _) = compile::insert::<D>(schema, tenant, rows, Taken::Fail);
        match lane.execute(sql).await {
            Ok(_) => {
                outcomes.extend(rows.iter().map(|_| Outcome::Written(1)));
                return Ok(());
            }
            Err(Fault::Taken(_)) => {}
            Err(fault) => return Err(fault),
        }
    }
    for (id, record) in rows {
        let version = match there.get(id) {
            Some(version) => {
                lane.execute(compile::overwrite::<D>(tenant, *id, record)).await?;
                version + 1
            }
            None => put_one(lane, tenant, *id, record).await?,
        };
        outcomes.push(Outcome::Written(version));
    }
    Ok(())
}

/// Inserts the record; replaces it when somebody else was faster.
async fn put_one<D: Dialect>(
    lane: &mut Lane<D>,
    tenant: &TenantId,
    id: Uuid,
    record: &Record,
) -> Result<Version, Fault> {
    let schema = record.schema();
    let (sql, _) = compile::insert::<D>(schema, tenant, &[(id, record)], Taken::Fail);
    match lane.execute(sql).await {
        Ok(_) => return Ok(1),
        Err(Fault::Taken(key)) if index(schema, &key) == "id" => {}
        Err(fault) => return Err(fault),
    }
    let (sql, types) = compile::held::<D>(schema, tenant, &[id]);
    let rows = lane.query(sql, &types).await?;
    let version = rows.first().and_then(|row| row.get(1)).and_then(Value::as_int);
    lane.execute(compile::overwrite::<D>(tenant, id, record)).await?;
    match version {
        Some(version) => Ok(version + 1),
        // Added and removed again in between.
        None => lane.heard(Err(Fault::Again(Error::new(
            crm_core::ErrorKind::Unavailable,
            "the record came and went meanwhile; try again",
        )))),
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
/// `before` are the values that the record to update has at the expected version, where they are known.
pub(super) fn single<D: Dialect>(tenant: &TenantId, writes: &[Write], before: &[Value]) -> Option<Sql> {
    match writes {
        [
            Write::Insert {
                id,
                record,
                on_conflict: OnConflict::Fail,
            },
        ] => Some(compile::insert::<D>(record.schema(), tenant, &[(*id, record)], Taken::Fail).0),
        [
            Write::Update {
                id,
                expected,
                record,
                before: given,
            },
        ] => {
            let before = given.as_ref().map_or(before, Record::values);
            Some(compile::changed::<D>(tenant, *id, *expected, record, before))
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
        [
            Write::Update {
                id, expected, record, ..
            },
        ] if changed == 0 => Err(stale(lane, tenant, record.schema(), *id, Some(*expected), 0).await),
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
        Fault::Taken(key) => Error::conflict("a record with this id or unique key is already there")
            .with("schema", schema.name)
            .with("index", index(schema, &key)),
        fault => fault.into_error().with("schema", schema.name),
    }
}

/// The name of the unique index of a key; `id` for the primary key.
fn index(schema: &'static Schema, key: &Key) -> &'static str {
    let is = |index: &&crm_core::record::Index| {
        index.unique
            && match key {
                Key::Fields(fields) => index.fields.iter().eq(fields.iter()),
                Key::Index(name) => index.name == name,
            }
    };
    schema.indexes.iter().find(is).map_or("id", |index| index.name)
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
