//! What differs between SQL databases. One file a database; everything above is written once.

#[cfg(feature = "sqlite")]
mod raw;
mod sqlite;

use std::fmt;

use async_trait::async_trait;
use crm_core::capability::StoreCapability;
use crm_core::record::{FieldType, Schema, Value};
use crm_core::{Column, Error, Result, Uuid};

pub(super) use raw::Raw;
pub use sqlite::{Sqlite, SqliteConfig};

use super::compile::Sql;

/// A SQL database a [`super::SqlStore`] can run on. Sealed: the databases are those of this crate.
pub trait Driver: Dialect {}

/// What a connection is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that writes.
    Writer,
    /// One of those that read.
    Reader,
}

/// The types a JSON value can be compared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonType {
    /// A string.
    Text,
    /// An integer or a float.
    Number,
    /// True or false.
    Bool,
}

/// What a statement failed with.
#[derive(Debug)]
pub enum Fault {
    /// A unique key is taken: the fields of the key without the tenant, as the database named them.
    Taken(Vec<String>),
    /// Anything else, already classified.
    Other(Error),
}

impl Fault {
    /// The error for a statement that cannot collide with anything.
    pub fn into_error(self) -> Error {
        match self {
            Self::Taken(fields) => Error::conflict("a unique key is taken").with("fields", fields.join(" ")),
            Self::Other(error) => error,
        }
    }
}

/// The hooks of a database: connections, and the fragments of SQL that differ. The fragments are fixed text; names go
/// through [`Dialect::quote`], values and JSON paths are bound.
#[async_trait]
pub trait Dialect: fmt::Debug + Send + Sync + 'static {
    /// One connection. Dropping it in the middle of a transaction rolls the transaction back.
    type Connection: Send + 'static;

    /// How many values one statement can bind.
    const MAX_BINDS: usize;
    /// What stands after the columns of a new table.
    const TABLE_OPTIONS: &'static str;
    /// Begins a unit of work that may write.
    const BEGIN: &'static str;
    /// Whether `(a, b) > (?, ?)` is found by an index on `a, b`.
    const ROW_VALUES: bool = false;
    /// Begins an insert that fails when a row is taken.
    const INSERT: &'static str = "INSERT INTO ";
    /// Whether a failed [`Dialect::INSERT`] keeps the rows before the one that is taken; then [`Dialect::inserted`] tells
    /// how many.
    const INSERT_KEEPS: bool = false;
    /// Whether callers that come together share one commit (see `group.rs`); for a database with one writer. Servers do
    /// this by themselves.
    const SHARES_COMMITS: bool = false;

    /// What the opened database promises.
    fn capability(&self) -> StoreCapability;
    /// Whether reads go through connections of their own.
    fn readers(&self) -> usize;
    /// How long to wait for a connection or a lock.
    fn wait(&self) -> std::time::Duration;

    /// Writes the placeholder of the `n`-th bound value (1 is the first).
    fn placeholder(out: &mut String, n: usize);
    /// Writes a quoted name.
    fn quote(out: &mut String, name: &str);
    /// The type of a column.
    fn column_type(ty: FieldType) -> &'static str;
    /// Writes what makes an insert leave out rows that are already there.
    fn skip_taken(sql: &mut Sql);
    /// Writes what makes an insert replace the row of the same tenant and id; `fields` are those to replace.
    fn replace_taken(sql: &mut Sql, table: &'static str, fields: &mut dyn Iterator<Item = &'static str>);

    /// Writes a condition, never null: the value below `column` at `path` is of this type.
    fn json_is(sql: &mut Sql, column: &str, path: &[String], ty: JsonType);
    /// Writes the value below `column` at `path`, comparable as this type.
    fn json_value(sql: &mut Sql, column: &str, path: &[String], ty: JsonType);
    /// Writes a condition, never null: there is no value below `column` at `path`, or it is JSON's null.
    fn json_absent(sql: &mut Sql, column: &str, path: &[String]);
    /// Writes a condition, never null: what lies below `column` at `path` is an array with this text among its items.
    fn json_has(sql: &mut Sql, column: &str, path: &[String], text: &str);
    /// Writes the value below `column` at `path` as a JSON document.
    fn json_document(sql: &mut Sql, column: &str, path: &[String]);
    /// Writes a condition, never null for present text: `value` contains the bound `part`, byte by byte.
    fn contains(sql: &mut Sql, value: &mut dyn FnMut(&mut Sql), part: &str);
    /// Writes the month (`YYYY-MM`) of a timestamp column; null when absent, empty outside the years 0 to 9999.
    fn month(sql: &mut Sql, column: &str);

    /// The statements that tell the query planner about a table that was just made or changed; often none.
    fn statistics(schema: &'static Schema) -> Vec<Sql>;

    /// Opens a connection with the promised settings, read back.
    async fn connect(&self, role: Role) -> Result<Self::Connection>;
    /// Runs a statement and answers how many rows it changed.
    async fn execute(connection: &mut Self::Connection, sql: Sql) -> Result<u64, Fault>;
    /// Runs a statement and answers its rows, read as these types.
    async fn query(
        connection: &mut Self::Connection,
        sql: Sql,
        types: &[FieldType],
    ) -> Result<Vec<Vec<Value>>, Fault>;

    /// How many rows the insert that just failed left.
    async fn inserted(_connection: &mut Self::Connection) -> Result<usize, Fault> {
        Ok(0)
    }
    /// Runs statements one after another up to the first that fails, which must leave those before it done: how many rows
    /// each changed, and that failure. Drivers that can hand over several at once do so.
    async fn pipeline(connection: &mut Self::Connection, statements: Vec<Sql>) -> (Vec<u64>, Option<Fault>) {
        let mut changed = Vec::with_capacity(statements.len());
        for sql in statements {
            match Self::execute(connection, sql).await {
                Ok(rows) => changed.push(rows),
                Err(fault) => return (changed, Some(fault)),
            }
        }
        (changed, None)
    }

    /// Runs a statement whose first column is an id and adds the others to these columns, one by one: how many rows there
    /// were, and the last id. Drivers that can do without a [`Value`] for each of them do so.
    async fn columns(
        connection: &mut Self::Connection,
        sql: Sql,
        types: &[FieldType],
        whole: &[bool],
        columns: &mut [Column],
    ) -> Result<(usize, Option<Uuid>), Fault> {
        let rows = Self::query(connection, sql, types).await?;
        let (count, mut last) = (rows.len(), None);
        for row in rows {
            let mut row = row.into_iter();
            last = row.next().and_then(|id| id.as_uuid());
            for ((column, whole), value) in columns.iter_mut().zip(whole).zip(row) {
                column.push(json_text(value, *whole)).map_err(Fault::Other)?;
            }
        }
        Ok((count, last))
    }
}

/// A JSON value as a text column holds it: a whole field as JSON; below one, strings as they are; null as absent.
fn json_text(value: Value, whole: bool) -> Value {
    match value {
        Value::Json(serde_json::Value::Null) => Value::Null,
        Value::Json(serde_json::Value::String(text)) if !whole => Value::Text(text),
        Value::Json(json) => Value::Text(json.to_string()),
        other => other,
    }
}
