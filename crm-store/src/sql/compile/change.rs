//! Writes, and claims.

use crm_core::query::{Assign, Claim};
use crm_core::record::{FieldType, Record, Schema, Value, Version};
use crm_core::{Result, TenantId, Uuid};

use super::super::driver::Dialect;
use super::super::filter;
use super::{Question, Sql, at, ids_in, limit, order_by, record_columns, tenant_is};

/// The ids of the records due, in the claim's order.
pub(crate) fn due<D: Dialect>(schema: &'static Schema, tenant: &TenantId, claim: &Claim) -> Result<Question> {
    let mut sql = Sql::new::<D>();
    sql.push("SELECT ").name("id").push(" FROM ").table(schema.name);
    tenant_is(&mut sql, tenant);
    filter::condition::<D>(&mut sql, schema, tenant, &claim.due)?;
    order_by::<D>(&mut sql, &claim.order);
    limit(&mut sql, claim.limit as usize);
    sql.push(D::SKIP_LOCKED);
    Ok((sql.checked::<D>()?, vec![FieldType::Uuid]))
}

/// Marks the records of these ids as a claim says; where the database can say, the answer is the records as they are then.
pub(crate) fn mark<D: Dialect>(
    schema: &'static Schema,
    tenant: &TenantId,
    claim: &Claim,
    ids: &[Uuid],
) -> Question {
    let mut sql = Sql::new::<D>();
    sql.push("UPDATE ")
        .table(schema.name)
        .push(" SET ")
        .name("version")
        .push(" = ")
        .name("version")
        .push(" + 1");
    for assign in &claim.assign {
        match assign {
            Assign::Set(field, value) => {
                sql.push(", ").name(field).push(" = ").bind(value.clone());
            }
            Assign::Add(field, by) => {
                sql.push(", ")
                    .name(field)
                    .push(" = ")
                    .name(field)
                    .push(" + ")
                    .bind(Value::Int(*by));
            }
        }
    }
    tenant_is(&mut sql, tenant);
    ids_in(&mut sql, ids);
    if !D::ANSWERS_ROWS {
        return (sql, Vec::new());
    }
    sql.push(" RETURNING ");
    let types = record_columns(&mut sql, schema);
    (sql, types)
}

/// What happens to a row that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The statement fails.
    Fail,
    /// The row is left out; the ids of those written are answered.
    Skip,
    /// The row is replaced; id and version of each are answered.
    Replace,
}

/// Adds several records of one schema.
pub(crate) fn insert<D: Dialect>(
    schema: &'static Schema,
    tenant: &TenantId,
    rows: &[(Uuid, &Record)],
    taken: Taken,
) -> Question {
    let mut sql = Sql::new::<D>();
    into_table(&mut sql, schema);
    sql.list(", ", rows, |sql, (id, record)| {
        sql.push("(")
            .bind(tenant.as_str().into())
            .push(", ")
            .bind(Value::Uuid(*id))
            .push(", 1");
        for value in record.values() {
            sql.push(", ").bind(value.clone());
        }
        sql.push(")");
    });
    match taken {
        Taken::Fail => return (sql, Vec::new()),
        Taken::Skip => D::skip_taken(&mut sql),
        Taken::Replace => D::replace_taken(&mut sql, schema.name, &mut schema.fields.iter().map(|f| f.name)),
    }
    sql.push(" RETURNING ").name("id").push(", ").name("version");
    (sql, vec![FieldType::Uuid, FieldType::Int])
}

/// `INSERT INTO <table> (<columns>) VALUES `.
fn into_table(sql: &mut Sql, schema: &'static Schema) {
    sql.push("INSERT INTO ")
        .table(schema.name)
        .push(" (")
        .name("tenant")
        .push(", ");
    record_columns(sql, schema);
    sql.push(") VALUES ");
}

/// An insert of one record whose id and values are given with [`Dialect::insert_each`].
pub(crate) fn insert_row<D: Dialect>(schema: &'static Schema, tenant: &TenantId) -> Sql {
    let mut sql = Sql::new::<D>();
    into_table(&mut sql, schema);
    sql.push("(").bind(tenant.as_str().into());
    let mut at = sql.binds();
    let mut later = |sql: &mut Sql| {
        at += 1;
        (sql.placeholder)(&mut sql.text, at);
    };
    sql.push(", ");
    later(&mut sql);
    sql.push(", 1");
    for _ in schema.fields {
        sql.push(", ");
        later(&mut sql);
    }
    sql.push(")");
    sql
}

/// A record to be updated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) id: Uuid,
    pub(crate) expected: Version,
    pub(crate) record: &'a Record,
    /// What it is at the version it is expected to have, where that is known.
    pub(crate) before: Option<&'a Record>,
}

/// The positions of the fields that differ from what the record was: the others need not be written. All of them where that
/// is not known.
pub(crate) fn differing(schema: &'static Schema, row: &Row<'_>) -> Vec<usize> {
    let before = row.before.map(Record::values).unwrap_or_default();
    let differs = |at: &usize| match (before.get(*at), row.record.values().get(*at)) {
        (Some(before), Some(after)) => !unchanged(before, after),
        _ => true,
    };
    (0..schema.fields.len()).filter(differs).collect()
}

/// Replaces these fields of records of one schema, each of which still has the version it is expected to have, in one
/// statement. The types stand with the first row: an absent value tells none. The tenant stands in each row, not beside
/// them: PostgreSQL takes a tenant it has no statistics of for one without rows, and would go through the new rows anew
/// for each record of the tenant instead of looking each of them up by its key.
pub(crate) fn updates<D: Dialect>(
    schema: &'static Schema,
    tenant: &TenantId,
    rows: &[Row<'_>],
    fields: &[usize],
) -> Sql {
    const NEW: &str = "crm_new";
    let written = || {
        fields
            .iter()
            .filter_map(|at| Some((*at, schema.fields.get(*at)?)))
    };
    let mut sql = Sql::new::<D>();
    sql.push("UPDATE ")
        .table(schema.name)
        .push(" SET ")
        .name("version");
    sql.push(" = ").name(NEW).push(".").name("version").push(" + 1");
    for (_, field) in written() {
        sql.push(", ").name(field.name).push(" = ");
        sql.name(NEW).push(".").name(field.name);
    }
    sql.push(" FROM (VALUES ");
    let mut typed = true;
    sql.list(", ", rows, |sql, row| {
        let ty = |sql: &mut Sql, ty: FieldType| {
            if typed {
                sql.push("::").push(D::column_type(ty, false));
            }
        };
        sql.push("(").bind(tenant.as_str().into());
        ty(sql, FieldType::Text);
        sql.push(", ").bind(Value::Uuid(row.id));
        ty(sql, FieldType::Uuid);
        sql.push(", ").bind(Value::Int(row.expected));
        ty(sql, FieldType::Int);
        for (at, field) in written() {
            let value = row.record.values().get(at).cloned();
            sql.push(", ").bind(value.unwrap_or(Value::Null));
            ty(sql, field.ty);
        }
        sql.push(")");
        typed = false;
    });
    sql.push(") AS ")
        .name(NEW)
        .push(" (")
        .name("tenant")
        .push(", ")
        .name("id")
        .push(", ")
        .name("version");
    for (_, field) in written() {
        sql.push(", ").name(field.name);
    }
    sql.push(")");
    for (at, key) in ["tenant", "id", "version"].into_iter().enumerate() {
        sql.push(if at == 0 { " WHERE " } else { " AND " });
        sql.table(schema.name).push(".").name(key);
        sql.push(" = ").name(NEW).push(".").name(key);
    }
    sql
}

/// Replaces the values of a record whatever its version.
pub(crate) fn overwrite<D: Dialect>(tenant: &TenantId, id: Uuid, record: &Record) -> Sql {
    set::<D>(tenant, id, None, record, &[])
}

/// Replaces the values of a record that still has a version, without those that are as `before`: its values at that version,
/// as far as known. Indexes of what stays are not written.
pub(crate) fn changed<D: Dialect>(
    tenant: &TenantId,
    id: Uuid,
    expected: Version,
    record: &Record,
    before: &[Value],
) -> Sql {
    set::<D>(tenant, id, Some(expected), record, before)
}

fn set<D: Dialect>(
    tenant: &TenantId,
    id: Uuid,
    expected: Option<Version>,
    record: &Record,
    before: &[Value],
) -> Sql {
    let schema = record.schema();
    let mut sql = Sql::new::<D>();
    sql.push("UPDATE ")
        .table(schema.name)
        .push(" SET ")
        .name("version")
        .push(" = ")
        .name("version")
        .push(" + 1");
    for (at, (field, value)) in schema.fields.iter().zip(record.values()).enumerate() {
        if !before.get(at).is_some_and(|before| unchanged(before, value)) {
            sql.push(", ").name(field.name).push(" = ").bind(value.clone());
        }
    }
    at(&mut sql, tenant, id, expected);
    sql
}

/// To the bit: floats that compare as equal can differ.
fn unchanged(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Float(before), Value::Float(after)) => before.to_bits() == after.to_bits(),
        (Value::Json(before), Value::Json(after)) => same_text(before, after),
        (before, after) => before == after,
    }
}

/// Whether two documents are written alike: with their keys in the same order, and floats as [`unchanged`].
fn same_text(before: &serde_json::Value, after: &serde_json::Value) -> bool {
    use serde_json::Value as Json;
    match (before, after) {
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_text(a, b))
        }
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|((name, a), (other, b))| name == other && same_text(a, b))
        }
        (Json::Number(a), Json::Number(b)) if a.is_f64() && b.is_f64() => {
            a.as_f64().map(f64::to_bits) == b.as_f64().map(f64::to_bits)
        }
        (before, after) => before == after,
    }
}

/// Removes a record.
pub(crate) fn delete<D: Dialect>(
    schema: &'static Schema,
    tenant: &TenantId,
    id: Uuid,
    expected: Option<Version>,
) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push("DELETE FROM ").table(schema.name);
    at(&mut sql, tenant, id, expected);
    sql
}
