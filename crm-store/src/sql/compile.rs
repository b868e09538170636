//! The one place that writes SQL: fixed words, quoted names of `&'static` schemas, placeholders for every value.

use crm_core::query::{
    Aggregate, Assign, Claim, Compare, Cursor, FieldRef, Filter, GroupBy, Measure, Order, Query, Scan,
};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Value, Version};
use crm_core::{Error, Result, TenantId, Uuid};

use super::driver::{Dialect, Names, Part};
use super::filter;

/// A statement in the making: its text and the values bound to it.
#[derive(Debug, Clone)]
pub struct Sql {
    text: String,
    binds: Vec<Value>,
    /// Where names of tables and indexes begin, in front of their quotation mark, and whether it is a table.
    marks: Vec<(usize, bool)>,
    placeholder: fn(&mut String, usize),
    quote: fn(&mut String, &str),
    tenant: (&'static str, &'static str),
}

impl Sql {
    /// An empty statement for a database.
    pub(crate) fn new<D: Dialect>() -> Self {
        Self {
            text: String::with_capacity(256),
            binds: Vec::new(),
            marks: Vec::new(),
            placeholder: D::placeholder,
            quote: D::quote,
            tenant: D::TENANT,
        }
    }
    /// Adds fixed text.
    pub(crate) fn push(&mut self, text: &'static str) -> &mut Self {
        self.text.push_str(text);
        self
    }
    /// Adds a quoted name.
    pub(crate) fn name(&mut self, name: &str) -> &mut Self {
        (self.quote)(&mut self.text, name);
        self
    }
    /// Adds the quoted name of a table; [`Sql::under`] completes it.
    pub(crate) fn table(&mut self, name: &str) -> &mut Self {
        self.marks.push((self.text.len(), true));
        self.name(name)
    }
    /// Adds the quoted name of an index; [`Sql::under`] completes it.
    pub(crate) fn index(&mut self, name: &str) -> &mut Self {
        self.marks.push((self.text.len(), false));
        self.name(name)
    }
    /// The same statement with tables and indexes named as the store's are.
    pub(crate) fn under(mut self, names: &Names) -> Self {
        if *names == Names::default() {
            return self;
        }
        for (at, table) in std::mem::take(&mut self.marks).into_iter().rev() {
            let quoted = at + 1; // a quotation mark is one byte
            self.text.insert_str(quoted, names.prefix());
            if table && !names.schema().is_empty() {
                let mut schema = String::new();
                (self.quote)(&mut schema, names.schema());
                schema.push('.');
                self.text.insert_str(at, &schema);
            }
        }
        self
    }
    /// Adds an integer as it is: for places where a placeholder would not be the same expression twice.
    pub(crate) fn int(&mut self, int: i64) -> &mut Self {
        self.text.push_str(&int.to_string());
        self
    }
    /// Adds a placeholder and its value.
    pub(crate) fn bind(&mut self, value: Value) -> &mut Self {
        self.binds.push(value);
        (self.placeholder)(&mut self.text, self.binds.len());
        self
    }
    /// Adds the parts one by one with `between` between them.
    pub(crate) fn list<T>(
        &mut self,
        between: &'static str,
        parts: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        for (i, part) in parts.into_iter().enumerate() {
            if i > 0 {
                self.push(between);
            }
            each(self, part);
        }
        self
    }
    /// The text and the bound values.
    pub(crate) fn into_parts(self) -> (String, Vec<Value>) {
        (self.text, self.binds)
    }
    /// How many values are bound.
    pub(crate) fn binds(&self) -> usize {
        self.binds.len()
    }
    /// The text so far.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Refuses a statement with more values than the database binds.
    pub(crate) fn checked<D: Dialect>(self) -> Result<Self> {
        if self.binds() <= D::MAX_BINDS {
            return Ok(self);
        }
        Err(Error::invalid("a question has too many values; ask in parts")
            .with("values", self.binds())
            .with("most", D::MAX_BINDS))
    }
}

/// A statement that answers rows, and the types of its columns.
pub(crate) type Question = (Sql, Vec<FieldType>);

pub(crate) fn tenant_is<'a>(sql: &'a mut Sql, tenant: &TenantId) -> &'a mut Sql {
    let (before, behind) = sql.tenant;
    sql.push(" WHERE ")
        .name("tenant")
        .push(" = ")
        .push(before)
        .bind(tenant.as_str().into())
        .push(behind)
}

fn record_columns(sql: &mut Sql, schema: &'static Schema) -> Vec<FieldType> {
    sql.name("id").push(", ").name("version");
    for field in schema.fields {
        sql.push(", ").name(field.name);
    }
    [FieldType::Uuid, FieldType::Int]
        .into_iter()
        .chain(schema.fields.iter().map(|field| field.ty))
        .collect()
}

/// `(?, ?, ..)` with the number of values rounded up to a power of two by repeating the last one: few different texts,
/// so that prepared statements are found again.
pub(crate) fn padded(sql: &mut Sql, values: &[Value]) {
    let size = values.len().next_power_of_two().max(1);
    sql.push("(");
    let last = values.last();
    sql.list(
        ", ",
        values.iter().chain(last.into_iter().cycle()).take(size),
        |sql, value| {
            sql.bind(value.clone());
        },
    );
    sql.push(")");
}

fn ids_in(sql: &mut Sql, ids: &[Uuid]) {
    let ids: Vec<Value> = ids.iter().map(|id| Value::Uuid(*id)).collect();
    sql.push(" AND ").name("id").push(" IN ");
    padded(sql, &ids);
}

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

fn order_by<D: Dialect>(sql: &mut Sql, order: &[Order]) {
    sql.push(" ORDER BY ");
    for order in order {
        sql.name(&order.field);
        sql.push(if order.descending { D::SORT.1 } else { D::SORT.0 });
        sql.push(", ");
    }
    sql.name("id").push(" ASC");
}

fn limit(sql: &mut Sql, rows: usize) {
    sql.push(" LIMIT ")
        .bind(Value::Int(i64::try_from(rows).unwrap_or(i64::MAX)));
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
    limit(&mut sql, query.limit as usize + 1);
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

/// Marks the records of these ids as a claim says.
pub(crate) fn mark<D: Dialect>(
    schema: &'static Schema,
    tenant: &TenantId,
    claim: &Claim,
    ids: &[Uuid],
) -> Sql {
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
    sql
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
    limit(&mut sql, scan.chunk_rows);
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

/// Replaces the values of a record that still has a version.
pub(crate) fn update<D: Dialect>(tenant: &TenantId, id: Uuid, expected: Version, record: &Record) -> Sql {
    set::<D>(tenant, id, Some(expected), record, &[])
}

/// Replaces the values of records of one schema, each of which still has the version it is expected to have, in one
/// statement. The types stand with the first row: an absent value tells none. The tenant stands in each row, not beside
/// them: PostgreSQL takes a tenant it has no statistics of for one without rows, and would go through the new rows anew
/// for each record of the tenant instead of looking each of them up by its key.
pub(crate) fn updates<D: Dialect>(
    schema: &'static Schema,
    tenant: &TenantId,
    rows: &[(Uuid, Version, &Record)],
) -> Sql {
    const NEW: &str = "crm_new";
    let mut sql = Sql::new::<D>();
    sql.push("UPDATE ")
        .table(schema.name)
        .push(" SET ")
        .name("version");
    sql.push(" = ").name(NEW).push(".").name("version").push(" + 1");
    for field in schema.fields {
        sql.push(", ").name(field.name).push(" = ");
        sql.name(NEW).push(".").name(field.name);
    }
    sql.push(" FROM (VALUES ");
    let mut typed = true;
    sql.list(", ", rows, |sql, (id, expected, record)| {
        let ty = |sql: &mut Sql, ty: FieldType| {
            if typed {
                sql.push("::").push(D::column_type(ty, false));
            }
        };
        sql.push("(").bind(tenant.as_str().into());
        ty(sql, FieldType::Text);
        sql.push(", ").bind(Value::Uuid(*id));
        ty(sql, FieldType::Uuid);
        sql.push(", ").bind(Value::Int(*expected));
        ty(sql, FieldType::Int);
        for (field, value) in schema.fields.iter().zip(record.values()) {
            sql.push(", ").bind(value.clone());
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
    for field in schema.fields {
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

/// [`update`], without the values that are as `before`: the record's values at the expected version, as far as known.
/// Indexes of what stays are not written.
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
        (Value::Json(before), Value::Json(after)) => {
            let (before, after) = (before.to_string(), after.to_string());
            before == after
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

fn at(sql: &mut Sql, tenant: &TenantId, id: Uuid, expected: Option<Version>) {
    tenant_is(sql, tenant)
        .push(" AND ")
        .name("id")
        .push(" = ")
        .bind(Value::Uuid(id));
    if let Some(version) = expected {
        sql.push(" AND ")
            .name("version")
            .push(" = ")
            .bind(Value::Int(version));
    }
}

/// Makes a table.
pub(crate) fn create_table<D: Dialect>(schema: &'static Schema) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push("CREATE TABLE ").table(schema.name).push(" (");
    sql.name("tenant")
        .push(" ")
        .push(D::tenant_type())
        .push(" NOT NULL, ");
    let own = [
        Field::new("id", FieldType::Uuid),
        Field::new("version", FieldType::Int),
    ];
    for field in own.iter().chain(schema.fields) {
        column::<D>(&mut sql, field, schema.is_key(field.name));
        sql.push(", ");
    }
    sql.push("PRIMARY KEY (")
        .name("tenant")
        .push(", ")
        .name("id")
        .push("))")
        .push(D::TABLE_OPTIONS);
    sql
}

fn column<D: Dialect>(sql: &mut Sql, field: &Field, key: bool) {
    sql.name(field.name).push(" ").push(D::column_type(field.ty, key));
    if !field.nullable {
        sql.push(" NOT NULL");
    }
}

/// Adds a column to a table.
pub(crate) fn add_column<D: Dialect>(schema: &'static Schema, field: &'static Field) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push("ALTER TABLE ").table(schema.name).push(" ADD COLUMN ");
    column::<D>(&mut sql, field, schema.is_key(field.name));
    sql
}

/// Makes an index, within tenants.
pub(crate) fn create_index<D: Dialect>(schema: &'static Schema, index: &Index) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push(if index.unique {
        "CREATE UNIQUE INDEX "
    } else {
        "CREATE INDEX "
    });
    sql.index(index.name)
        .push(" ON ")
        .table(schema.name)
        .push(" (")
        .name("tenant")
        .push(D::INDEX_SORT);
    for field in index.fields {
        sql.push(", ").name(field).push(D::INDEX_SORT);
    }
    if !index.unique && !D::INDEX_HAS_ID {
        sql.push(", ").name("id");
    }
    sql.push(")");
    sql
}

/// Removes an index that only speeds up.
pub(crate) fn drop_index<D: Dialect>(schema: &'static Schema, name: &str) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push("DROP INDEX ");
    if D::DROP_INDEX_ON {
        sql.index(name).push(" ON ").table(schema.name);
    } else {
        // An index lies in the schema of its table.
        sql.table(name);
    }
    sql
}

/// Gives a column the type it has within an index, or outside all of them.
pub(crate) fn retype<D: Dialect>(schema: &'static Schema, field: &'static Field) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push("ALTER TABLE ")
        .table(schema.name)
        .push(" MODIFY COLUMN ");
    column::<D>(&mut sql, field, schema.is_key(field.name));
    sql
}

/// Whether a part of a table is there.
pub(crate) fn part<D: Dialect>(table: &'static str, part: Part<'_>, names: &Names) -> Question {
    let mut sql = Sql::new::<D>();
    D::part(&mut sql, table, part, names);
    (sql, vec![FieldType::Int])
}

/// The statements of the ledger of schemas.
pub(crate) mod ledger {
    use super::{Dialect, FieldType, Question, Sql, Value};

    /// Its name, before any prefix.
    pub(crate) const TABLE: &str = "crm_ledger";

    /// Makes the ledger unless it is there.
    pub(crate) fn create<D: Dialect>() -> Sql {
        let mut sql = Sql::new::<D>();
        sql.push("CREATE TABLE IF NOT EXISTS ").table(TABLE).push(" (");
        sql.name("name")
            .push(" ")
            .push(D::column_type(FieldType::Text, true))
            .push(" NOT NULL PRIMARY KEY, ");
        sql.name("shape")
            .push(" ")
            .push(D::column_type(FieldType::Text, false))
            .push(" NOT NULL, ");
        sql.name("hash")
            .push(" ")
            .push(D::column_type(FieldType::Text, false))
            .push(" NOT NULL)")
            .push(D::TABLE_OPTIONS);
        sql
    }
    /// All entries: name, shape, hash.
    pub(crate) fn read<D: Dialect>() -> Question {
        let mut sql = Sql::new::<D>();
        sql.push("SELECT ")
            .name("name")
            .push(", ")
            .name("shape")
            .push(", ")
            .name("hash")
            .push(" FROM ")
            .table(TABLE);
        (sql, vec![FieldType::Text; 3])
    }
    /// Adds an entry.
    pub(crate) fn add<D: Dialect>(name: &str, shape: &str, hash: &str) -> Sql {
        let mut sql = Sql::new::<D>();
        sql.push("INSERT INTO ")
            .table(TABLE)
            .push(" (")
            .name("name")
            .push(", ")
            .name("shape")
            .push(", ");
        sql.name("hash")
            .push(") VALUES (")
            .list(", ", [name, shape, hash], |sql, text| {
                sql.bind(Value::from(text));
            });
        sql.push(")");
        sql
    }
    /// Removes an entry.
    pub(crate) fn remove<D: Dialect>(name: &str) -> Sql {
        let mut sql = Sql::new::<D>();
        sql.push("DELETE FROM ")
            .table(TABLE)
            .push(" WHERE ")
            .name("name")
            .push(" = ")
            .bind(name.into());
        sql
    }
    /// Changes an entry.
    pub(crate) fn change<D: Dialect>(name: &str, shape: &str, hash: &str) -> Sql {
        let mut sql = Sql::new::<D>();
        sql.push("UPDATE ")
            .table(TABLE)
            .push(" SET ")
            .name("shape")
            .push(" = ")
            .bind(shape.into())
            .push(", ");
        sql.name("hash")
            .push(" = ")
            .bind(hash.into())
            .push(" WHERE ")
            .name("name")
            .push(" = ")
            .bind(name.into());
        sql
    }
}

/// Begins, ends or gives up a unit of work.
pub(crate) fn control<D: Dialect>(step: Control) -> Sql {
    let mut sql = Sql::new::<D>();
    sql.push(match step {
        Control::Begin => D::BEGIN,
        Control::Commit => "COMMIT",
        Control::Rollback => "ROLLBACK",
        Control::Ping => "SELECT 1",
        Control::Now => D::NOW,
        Control::Mark => "SAVEPOINT crm_unit",
        Control::Undo => "ROLLBACK TO SAVEPOINT crm_unit",
        Control::Keep => "RELEASE SAVEPOINT crm_unit",
    });
    sql
}

/// The steps around a unit of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Begin,
    Commit,
    Rollback,
    /// Asks whether the connection answers.
    Ping,
    /// Asks what time it is.
    Now,
    /// Marks where a part of a unit of work begins.
    Mark,
    /// Gives up what was done since the mark.
    Undo,
    /// Forgets the mark.
    Keep,
}

/// The sign of a comparison.
pub(crate) fn sign(op: Compare) -> &'static str {
    match op {
        Compare::Eq => " = ",
        Compare::Ne => " <> ",
        Compare::Lt => " < ",
        Compare::Le => " <= ",
        Compare::Gt => " > ",
        Compare::Ge => " >= ",
    }
}
