//! The one place that writes SQL: fixed words, quoted names of `&'static` schemas, placeholders for every value.

mod ask;
mod change;
pub(crate) mod ledger;
mod table;

use crm_core::query::{Compare, Order};
use crm_core::record::{FieldType, Schema, Value, Version};
use crm_core::{Error, Result, TenantId, Uuid};

use super::driver::{Dialect, Names};

pub(crate) use ask::{aggregate, count, find, get, held, measure, scan, version};
pub(crate) use change::{
    Row, Taken, changed, delete, differing, due, insert, insert_row, mark, overwrite, updates,
};
pub(crate) use table::{add_column, create_index, create_table, drop_index, part, retype};

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

fn order_by<D: Dialect>(sql: &mut Sql, order: &[Order]) {
    sql.push(" ORDER BY ");
    for order in order {
        sql.name(&order.field);
        sql.push(if order.descending { D::SORT.1 } else { D::SORT.0 });
        sql.push(", ");
    }
    sql.name("id").push(" ASC");
}

/// A number of rows that differs from call to call.
fn limit(sql: &mut Sql, rows: usize) {
    sql.push(" LIMIT ")
        .bind(Value::Int(i64::try_from(rows).unwrap_or(i64::MAX)));
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
