//! Questions.

use crm_core::query::{Aggregate, Cursor, FieldRef, Filter, GroupBy, Measure, Order, Query, Scan};
use crm_core::record::{FieldType, Schema, Value};
use crm_core::{Error, Result, TenantId, Uuid};

use super::super::driver::Dialect;
use super::super::filter;
use super::{Question, Sql, at, ids_in, order_by, record_columns, tenant_is};

/// Records by id, in no order.
pub(crate) fn get<D: Dialect>(schema: &'static Schema, tenant: &TenantId, ids: &[Uuid]) -> Question {
    let mut sql = Sql::new::<D>();
    sql.push("SELECT ");
    let types = record_columns(&mut sql, schema);
    sql.push(" FROM ").table(schema.name);
    tenant_is(&mut sql, tenant);
    ids_in(&mut sql, ids);
    (sql, types)
}

/// The size of a page, which stands in the statement: PostgreSQL takes one that is bound for a tenth of what there is, and then
/// reads all records of a tenant in their order rather than find the few that are asked for.
fn page(sql: &mut Sql, rows: usize) {
    sql.push(" LIMIT ").int(i64::try_from(rows).unwrap_or(i64::MAX));
}

/// One page and one record more, by which it is known whether there is a next one.
pub(crate) fn find<D: Dialect>(
    schema: &'static Schema,
    tenant: &TenantId,
    query: &Query,
) -> Result<Question> {
    let mut sql = Sql::new::<D>();
    sql.push("SELECT ");
    let types = record_columns(&mut sql, schema);
    sql.push(" FROM ").table(schema.name);
    tenant_is(&mut sql, tenant);
    filter::condition::<D>(&mut sql, schema, tenant, &query.filter)?;
    if let Some(cursor) = &query.after {
        after::<D>(&mut sql, schema, &query.order, cursor)?;
    }
    order_by::<D>(&mut sql, &query.order);
    page(&mut sql, query.limit as usize + 1);
    Ok((sql.checked::<D>()?, types))
}

/// The condition of all records behind a cursor.
fn after<D: Dialect>(sql: &mut Sql, schema: &'static Schema, order: &[Order], cursor: &Cursor) -> Result<()> {
    for (order, key) in order.iter().zip(&cursor.keys) {
        let field = FieldRef {
            field: order.field.clone(),
            path: Vec::new(),
        };
        if !key.is_null() && field.resolve(schema)? != key.ty() {
            return Err(
                Error::invalid("the cursor belongs to another query; start again without it")
                    .with("field", "after"),
            );
        }
    }
    // One comparison, when it means the same: absent values lie before all others and never compare.
    let plain = order
        .iter()
        .zip(&cursor.keys)
        .all(|(order, key)| !order.descending && !key.is_null());
    if D::ROW_VALUES && plain && !order.is_empty() {
        sql.push(" AND (");
        for order in order {
            sql.name(&order.field).push(", ");
        }
        sql.name("id").push(") > (");
        for key in &cursor.keys {
            sql.bind(key.clone()).push(", ");
        }
        sql.bind(Value::Uuid(cursor.id)).push(")");
        return Ok(());
    }
    let nullable = |name: &str| schema.field(name).is_some_and(|(_, field)| field.nullable);
    // A bound on the first key alone lets an index skip what lies before.
    if let (Some(first), Some(key)) = (order.first(), cursor.keys.first()) {
        match (first.descending, key.is_null()) {
            (false, true) => {}
            (true, true) => {
                sql.push(" AND ").name(&first.field).push(" IS NULL");
            }
            (false, false) => {
                sql.push(" AND ")
                    .name(&first.field)
                    .push(" >= ")
                    .bind(key.clone());
            }
            (true, false) if nullable(&first.field) => {
                sql.push(" AND (")
                    .name(&first.field)
                    .push(" <= ")
                    .bind(key.clone());
                sql.push(" OR ").name(&first.field).push(" IS NULL)");
            }
            (true, false) => {
                sql.push(" AND ")
                    .name(&first.field)
                    .push(" <= ")
                    .bind(key.clone());
            }
        }
    }
    // (a after) or (a equal and b after) or (.. and id after)
    sql.push(" AND (");
    for depth in 0..=order.len() {
        if depth > 0 {
            sql.push(" OR ");
        }
        sql.push("(");
        for (order, key) in order.iter().zip(&cursor.keys).take(depth) {
            if key.is_null() {
                sql.name(&order.field).push(" IS NULL AND ");
            } else {
                sql.name(&order.field).push(" = ").bind(key.clone()).push(" AND ");
            }
        }
        match order.get(depth).zip(cursor.keys.get(depth)) {
            None => {
                sql.name("id").push(" > ").bind(Value::Uuid(cursor.id));
            }
            Some((order, key)) => match (order.descending, key.is_null()) {
                (false, true) => {
                    sql.name(&order.field).push(" IS NOT NULL");
                }
                (true, true) => {
                    sql.push("1 = 0");
                }
                (false, false) => {
                    sql.name(&order.field).push(" > ").bind(key.clone());
                }
                (true, false) => {
                    sql.push("(").name(&order.field).push(" < ").bind(key.clone());
                    sql.push(" OR ").name(&order.field).push(" IS NULL)");
                }
            },
        }
        sql.push(")");
    }
    sql.push(")");
    Ok(())
}

/// The number of records that match.
pub(crate) fn count<D: Dialect>(
    schema: &'static Schema,
    tenant: &TenantId,
    filter: &Filter,
) -> Result<Question> {
    let mut sql = Sql::new::<D>();
    sql.push("SELECT count(*) FROM ").table(schema.name);
    tenant_is(&mut sql, tenant);
    filter::condition::<D>(&mut sql, schema, tenant, filter)?;
    Ok((sql.checked::<D>()?, vec![FieldType::Int]))
}

/// The next chunk of a scan, after `after`. The id comes first, then the columns.
pub(crate) fn scan<D: Dialect>(
    schema: &'static Schema,
    tenant: &TenantId,
    scan: &Scan,
    after: Option<Uuid>,
) -> Result<Question> {
    let mut sql = Sql::new::<D>();
    let mut types = vec![FieldType::Uuid];
    sql.push("SELECT ").name("id");
    for column in &scan.columns {
        sql.push(", ");
        match column.resolve(schema)? {
            Some(ty) => {
                sql.name(&column.field);
                types.push(ty);
            }
            None => {
                D::json_document(&mut sql, &column.field, &column.path);
                types.push(FieldType::Json);
            }
        }
    }
    sql.push(" FROM ").table(schema.name);
    tenant_is(&mut sql, tenant);
    filter::condition::<D>(&mut sql, schema, tenant, &scan.filter)?;
    if let Some(id) = after {
        sql.push(" AND ").name("id").push(" > ").bind(Value::Uuid(id));
    }
    order_by::<D>(&mut sql, &[]);
    page(&mut sql, scan.chunk_rows);
    Ok((sql.checked::<D>()?, types))
}

/// A measure as an aggregate function.
pub(crate) fn measure<D: Dialect>(sql: &mut Sql, schema: &'static Schema, measure: &Measure) {
    let ty = |field: &str| schema.field(field).map_or(FieldType::Uuid, |(_, field)| field.ty);
    match measure {
        Measure::Count => {
            sql.push("count(*)");
        }
        Measure::Sum(field) => D::aggregate(sql, "sum", field, ty(field)),
        Measure::Min(field) => D::aggregate(sql, "min", field, ty(field)),
        Measure::Max(field) => D::aggregate(sql, "max", field, ty(field)),
        Measure::Distinct(field) => {
            sql.push("count(DISTINCT ").name(field).push(")");
        }
    }
}

/// The lower end of the stretch a number lies in: `%` rounds towards zero everywhere, so two widths are added first.
fn bucket(sql: &mut Sql, field: &str, width: i64, start: i64) {
    let width = width.max(1);
    let shift = 2 * width - start.rem_euclid(width);
    sql.push("(")
        .name(field)
        .push(" - (")
        .name(field)
        .push(" % ")
        .int(width);
    sql.push(" + ").int(shift).push(") % ").int(width).push(")");
}

/// Groups and sums: keys first, then measures.
pub(crate) fn aggregate<D: Dialect>(
    schema: &'static Schema,
    tenant: &TenantId,
    aggregate: &Aggregate,
) -> Result<Question> {
    let mut sql = Sql::new::<D>();
    let mut types = Vec::new();
    let ty = |name: &str| {
        let field = FieldRef {
            field: name.to_owned(),
            path: Vec::new(),
        };
        field.resolve(schema).map(|ty| ty.unwrap_or(FieldType::Json))
    };
    for by in &aggregate.by {
        types.push(match by {
            GroupBy::Field(field) | GroupBy::Bucket { field, .. } => ty(field)?,
            GroupBy::Month(_) => FieldType::Text,
        });
    }
    for (_, measure) in &aggregate.measures {
        types.push(match measure {
            Measure::Count | Measure::Distinct(_) => FieldType::Int,
            Measure::Sum(field) | Measure::Min(field) | Measure::Max(field) => ty(field)?,
        });
    }
    let key = |sql: &mut Sql, by: &GroupBy| match by {
        GroupBy::Field(field) => {
            sql.name(field);
        }
        GroupBy::Month(field) => D::month(sql, field),
        GroupBy::Bucket { field, width, start } => bucket(sql, field, *width, *start),
    };
    sql.push("SELECT ").list(", ", &aggregate.by, key);
    if !aggregate.by.is_empty() && !aggregate.measures.is_empty() {
        sql.push(", ");
    }
    sql.list(", ", &aggregate.measures, |sql, (_, one)| {
        measure::<D>(sql, schema, one);
    });
    if types.is_empty() {
        return Err(Error::invalid("an aggregate needs a group or a measure").with("schema", schema.name));
    }
    sql.push(" FROM ").table(schema.name);
    tenant_is(&mut sql, tenant);
    filter::condition::<D>(&mut sql, schema, tenant, &aggregate.filter)?;
    if !aggregate.by.is_empty() {
        sql.push(" GROUP BY ").list(", ", &aggregate.by, key);
        sql.push(" ORDER BY ").list(", ", &aggregate.by, |sql, by| {
            key(sql, by);
            sql.push(D::SORT.0);
        });
    }
    Ok((sql.checked::<D>()?, types))
}

/// The version a record has.
pub(crate) fn version<D: Dialect>(schema: &'static Schema, tenant: &TenantId, id: Uuid) -> Question {
    let mut sql = Sql::new::<D>();
    sql.push("SELECT ")
        .name("version")
        .push(" FROM ")
        .table(schema.name);
    at(&mut sql, tenant, id, None);
    (sql, vec![FieldType::Int])
}

/// Ids and versions of those that are there, held until the unit of work ends.
pub(crate) fn held<D: Dialect>(schema: &'static Schema, tenant: &TenantId, ids: &[Uuid]) -> Question {
    let mut sql = Sql::new::<D>();
    sql.push("SELECT ")
        .name("id")
        .push(", ")
        .name("version")
        .push(" FROM ")
        .table(schema.name);
    tenant_is(&mut sql, tenant);
    ids_in(&mut sql, ids);
    sql.push(D::FOR_UPDATE);
    (sql, vec![FieldType::Uuid, FieldType::Int])
}
