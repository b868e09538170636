//! What differs between SQL databases. One file a database; everything above is written once.

#[cfg(any(feature = "mysql", feature = "postgres"))]
mod guest;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod raw;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod server;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod wire;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::StoreCapability;
use crm_core::query::Compare;
use crm_core::record::{FieldType, Record, Schema, Value};
use crm_core::{Clock, Column, Error, Result, SystemClock, Uuid};

#[cfg(feature = "mysql")]
pub use mysql::{Mysql, MysqlConfig};
#[cfg(feature = "postgres")]
pub use postgres::{Postgres, PostgresConfig};
#[cfg(feature = "sqlite")]
pub(super) use raw::Raw;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub use server::Tls;
#[cfg(all(feature = "sqlite", feature = "unstable-raw"))]
pub(super) use sqlite::{Link, serve};
#[cfg(feature = "sqlite")]
pub use sqlite::{Sqlite, SqliteConfig};

use super::compile::{Sql, sign};

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

/// A unique key, as the database named it when it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// By the fields of the key without the tenant.
    Fields(Vec<String>),
    /// By the name of the index.
    Index(String),
}

/// What a statement failed with.
#[derive(Debug)]
pub enum Fault {
    /// A unique key is taken.
    Taken(Key),
    /// The database gave up the unit of work in favour of another one: it may be carried out again from its beginning.
    Again(Error),
    /// The connection is lost, or cannot be trusted any more.
    Lost(Error),
    /// Anything else, already classified.
    Other(Error),
}

impl Fault {
    /// The error for a statement that cannot collide with anything.
    pub fn into_error(self) -> Error {
        match self {
            Self::Taken(Key::Fields(fields)) => {
                Error::conflict("a unique key is taken").with("fields", fields.join(" "))
            }
            Self::Taken(Key::Index(index)) => Error::conflict("a unique key is taken").with("index", index),
            Self::Again(error) | Self::Lost(error) | Self::Other(error) => error,
        }
    }
}

/// How the tables of a store are named within the database: nothing added, or a prefix, or a schema of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    schema: String,
    prefix: String,
}

impl Names {
    /// Tables and indexes named `<prefix><name>`, in `schema` when it is not empty.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting that is not a plain name.
    pub(crate) fn new(schema: &str, prefix: &str) -> Result<Self> {
        for (setting, name) in [("schema", schema), ("prefix", prefix)] {
            let plain = name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !plain || name.len() > 30 || name.starts_with(|c: char| c.is_ascii_digit()) {
                return Err(Error::config(
                    "a schema or prefix is up to 30 of a-z, 0-9 and _, and does not begin with a digit",
                )
                .with("setting", setting));
            }
        }
        Ok(Self {
            schema: schema.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    /// The schema of the tables; empty for the connection's own.
    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    /// What the names of tables and indexes begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The name of an index without the prefix.
    fn own<'a>(&self, index: &'a str) -> &'a str {
        index.strip_prefix(&self.prefix).unwrap_or(index)
    }

    /// A fault with the index under its own name.
    pub(crate) fn fault(&self, fault: Fault) -> Fault {
        match fault {
            Fault::Taken(Key::Index(index)) => Fault::Taken(Key::Index(self.own(&index).to_owned())),
            fault => fault,
        }
    }
}

/// What a table is looked at for while an interrupted migration is finished.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// The table itself.
    Table,
    /// One of its columns.
    Column(&'a str),
    /// One of its indexes.
    Index(&'a str),
}

/// How often a unit of work is tried when the database gives it up in favour of another one.
pub(crate) const TRIES: u32 = 5;

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
    /// Whether rows are inserted one by one with [`Dialect::insert_each`], because that is faster than one statement for
    /// many.
    const ROW_BY_ROW: bool = false;
    /// Whether callers that come together share one commit (see `group.rs`); for a database with one writer. Servers do
    /// this by themselves.
    const SHARES_COMMITS: bool = false;
    /// The most bytes of values one statement carries.
    const MAX_STATEMENT_BYTES: usize = usize::MAX;
    /// Whether an insert can leave out or replace rows, and an insert or update answers rows (`RETURNING`).
    const ANSWERS_ROWS: bool = true;
    /// Whether a unit of work can go on after one of its statements failed.
    const GOES_ON: bool = true;
    /// Whether tables are made within a unit of work; if not, each statement stays, and an interrupted migration is
    /// finished by the next one.
    const TABLES_IN_UNIT: bool = true;
    /// Whether text in an index has another column type.
    const KEY_TYPES: bool = false;
    /// What stands behind a key in ascending and in descending order: absent values lie before all others.
    const SORT: (&'static str, &'static str) = (" ASC NULLS FIRST", " DESC NULLS LAST");
    /// Whether an index ends with the key of the table by itself; if not, it is named, so that pages in the order of an
    /// index need no sort.
    const INDEX_HAS_ID: bool = true;
    /// What stands behind each field of an index.
    const INDEX_SORT: &'static str = "";
    /// Whether the name of an index is dropped together with its table's.
    const DROP_INDEX_ON: bool = false;
    /// What makes a claim pass over rows that another one is taking.
    const SKIP_LOCKED: &'static str = "";
    /// What stands before and behind the tenant that rows are compared with.
    const TENANT: (&'static str, &'static str) = ("", "");
    /// Whether records updated one after the other are carried out in one statement.
    const UPDATES_TOGETHER: bool = false;
    /// Asks what time it is there, in microseconds since 1970; empty where that is this process's own clock.
    const NOW: &'static str = "";
    /// What makes a question hold the rows it answers until the unit of work ends.
    const FOR_UPDATE: &'static str = "";
    /// Whether a number below a JSON field compares exactly with integers and floats alike.
    const EXACT_JSON: bool = true;
    /// What stands behind the value that an integer below a JSON field is compared with. Without [`Dialect::EXACT_JSON`].
    const JSON_WHOLE: &'static str = "";

    /// What the opened database promises.
    fn capability(&self) -> StoreCapability;
    /// Whether reads go through connections of their own.
    fn readers(&self) -> usize;
    /// How many connections write; when [`Dialect::readers`] is 0 they also read.
    fn writers(&self) -> usize {
        1
    }
    /// The most bytes of values a statement of several rows carries on this store's connections.
    fn statement_bytes(&self) -> usize {
        Self::MAX_STATEMENT_BYTES
    }
    /// How long to wait for a connection or a lock.
    fn wait(&self) -> Duration;
    /// How the tables are named.
    fn names(&self) -> &Names {
        static PLAIN: Names = Names {
            schema: String::new(),
            prefix: String::new(),
        };
        &PLAIN
    }
    /// How long a call may take at most; without a limit when `None`.
    fn limit(&self) -> Option<Duration> {
        None
    }
    /// Tells how far away a deadline is.
    fn clock(&self) -> &dyn Clock {
        &SystemClock
    }
    /// How long to pause before a unit of work is tried for the `tries`-th time again.
    fn pause(&self, _tries: u32) -> Duration {
        Duration::ZERO
    }

    /// Writes the placeholder of the `n`-th bound value (1 is the first).
    fn placeholder(out: &mut String, n: usize);
    /// Writes a quoted name.
    fn quote(out: &mut String, name: &str);
    /// The type of a column; of one in an index when `key`.
    fn column_type(ty: FieldType, key: bool) -> &'static str;
    /// The type of the tenant's column: text of up to 64 ASCII characters.
    fn tenant_type() -> &'static str {
        Self::column_type(FieldType::Text, true)
    }
    /// Writes what makes an insert leave out rows that are already there. Only with [`Dialect::ANSWERS_ROWS`].
    fn skip_taken(_sql: &mut Sql) {}
    /// Writes what makes an insert replace the row of the same tenant and id; `fields` are those to replace. Only with
    /// [`Dialect::ANSWERS_ROWS`].
    fn replace_taken(_sql: &mut Sql, _table: &'static str, _fields: &mut dyn Iterator<Item = &'static str>) {}
    /// Writes the aggregate function of a field: `sum`, `min` or `max`. A sum of integers that does not fit is an error.
    fn aggregate(sql: &mut Sql, function: &'static str, field: &str, _ty: FieldType) {
        sql.push(function).push("(").name(field).push(")");
    }

    /// Writes a condition, never null: the value below `column` at `path` is of this type.
    fn json_is(sql: &mut Sql, column: &str, path: &[String], ty: JsonType);
    /// Writes the value below `column` at `path`, comparable as this type.
    fn json_value(sql: &mut Sql, column: &str, path: &[String], ty: JsonType);
    /// Writes a condition, never null: the value below `column` at `path` is an integer. Without [`Dialect::EXACT_JSON`].
    fn json_whole(_sql: &mut Sql, _column: &str, _path: &[String]) {}
    /// Writes the number below `column` at `path` as an exact integer or as a float. Without [`Dialect::EXACT_JSON`].
    fn json_number(_sql: &mut Sql, _column: &str, _path: &[String], _whole: bool) {}
    /// Writes a condition, never null: the value below `column` at `path` is of this type and compares so.
    fn json_compares(sql: &mut Sql, column: &str, path: &[String], ty: JsonType, op: Compare, value: Value) {
        sql.push("(");
        Self::json_is(sql, column, path, ty);
        sql.push(" AND ");
        Self::json_value(sql, column, path, ty);
        sql.push(sign(op)).bind(value).push(")");
    }
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
    fn statistics(_schema: &'static Schema, _names: &Names) -> Vec<Sql> {
        Vec::new()
    }
    /// Writes a question that answers a row when this part of a table is there. Without [`Dialect::TABLES_IN_UNIT`].
    fn part(_sql: &mut Sql, _table: &'static str, _part: Part<'_>, _names: &Names) {}

    /// Opens a connection with the promised settings, read back.
    async fn connect(&self, role: Role) -> Result<Self::Connection>;
    /// Whether an idle connection can be used; asked before each use.
    async fn usable(&self, _connection: &mut Self::Connection) -> bool {
        true
    }
    /// Takes a connection back that nothing is open on: to keep it, or `None` when it went elsewhere.
    fn release(&self, connection: Self::Connection) -> Option<Self::Connection> {
        Some(connection)
    }
    /// Closes a connection that nothing is open on.
    async fn close(_connection: Self::Connection) -> Result<()> {
        Ok(())
    }
    /// Has the server stop statements that run longer than this.
    async fn bound(_connection: &mut Self::Connection, _limit: Option<Duration>) -> Result<(), Fault> {
        Ok(())
    }
    /// Holds off other migrations until [`Dialect::unlock`] or the end of the unit of work or connection.
    async fn lock(&self, _connection: &mut Self::Connection) -> Result<(), Fault> {
        Ok(())
    }
    /// Lets other migrations go on.
    async fn unlock(&self, _connection: &mut Self::Connection) -> Result<(), Fault> {
        Ok(())
    }
    /// Runs a statement and answers how many rows it changed.
    async fn execute(connection: &mut Self::Connection, sql: Sql) -> Result<u64, Fault>;
    /// Runs a statement and answers its rows, read as these types.
    async fn query(
        connection: &mut Self::Connection,
        sql: Sql,
        types: &[FieldType],
    ) -> Result<Vec<Vec<Value>>, Fault>;

    /// Runs a statement once for each record, whose id and values come behind what is bound already, up to the first that
    /// fails: how many were done, and that failure. Only with [`Dialect::ROW_BY_ROW`].
    async fn insert_each(
        _connection: &mut Self::Connection,
        _sql: Sql,
        _rows: Vec<(Uuid, Record)>,
    ) -> (usize, Option<Fault>) {
        (
            0,
            Some(Fault::Other(Error::unexpected(
                "the driver does not insert row by row",
            ))),
        )
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

    /// Runs a statement whose first column is an id and adds the others to these columns, which come without rows: how many
    /// there were, and the last id. Drivers that can do without a [`Value`] for each of them do so.
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

/// `$."a"."b"`: each key as a JSON string, which is how SQLite, MySQL and MariaDB read quoted labels.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
fn json_path(path: &[String]) -> String {
    path.iter().fold("$".to_owned(), |text, key| {
        text + "." + &serde_json::Value::from(key.as_str()).to_string()
    })
}

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The server's limit for a statement in milliseconds, 0 for none; `now` is the one it has. One that is near enough is
/// left as it is, so that calls with the usual limit say nothing to the server.
#[cfg(any(feature = "mysql", feature = "postgres"))]
fn milliseconds(limit: Option<Duration>, now: u64) -> u64 {
    let Some(limit) = limit else { return 0 };
    let wanted = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
    let early = wanted.saturating_sub(now);
    let late = now.saturating_sub(wanted);
    if now > 0 && late <= 100 && early <= now / 100 {
        now
    } else {
        wanted
    }
}
