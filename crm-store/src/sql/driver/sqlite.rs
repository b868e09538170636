//! SQLite: bundled, in WAL mode with full durability, or in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::StoreCapability;
use crm_core::record::{FieldType, Schema, Value};
use crm_core::{Column, Error, ErrorKind, Result, Timestamp, Uuid};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Row, SqlSafeStr};

use super::super::compile::Sql;
use super::{Dialect, Driver, Fault, JsonType, Key, Role, json_path, json_text, percent_decode};

/// How a SQLite file is used. [`SqliteConfig::default`] is right for most.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteConfig {
    /// The provider's name in a registry; `sqlite` unless set.
    pub name: String,
    /// How many connections read at the same time (1 to 64); 4 unless set. One more writes.
    pub readers: usize,
    /// How long a call waits for a free connection or for another process' lock; 5 seconds unless set.
    pub wait: Duration,
    /// Memory for the writer's page cache in bytes; 64 MiB unless set. Bulk imports are faster with more.
    pub cache_bytes: usize,
}

impl Default for SqliteConfig {
    fn default() -> Self {
        Self {
            name: "sqlite".to_owned(),
            readers: 4,
            wait: Duration::from_secs(5),
            cache_bytes: 64 << 20,
        }
    }
}

impl SqliteConfig {
    /// Sets the provider's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
    /// Sets the number of reading connections.
    #[must_use]
    pub fn readers(mut self, readers: usize) -> Self {
        self.readers = readers;
        self
    }
    /// Sets how long to wait for a connection or a lock.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }
    /// Sets the memory for the writer's page cache.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if self.name.is_empty() {
            return wrong("name", "a provider needs a name");
        }
        if !(1..=64).contains(&self.readers) {
            return wrong("readers", "SQLite reads with 1 to 64 connections");
        }
        if self.wait > Duration::from_secs(3600) {
            return wrong("wait", "waiting longer than an hour for a lock is a mistake");
        }
        if self.cache_bytes < 1 << 20 {
            return wrong("cache_bytes", "the page cache needs at least 1 MiB");
        }
        Ok(())
    }
}

/// Where the data is.
#[derive(Debug, Clone)]
enum Place {
    File {
        path: PathBuf,
        create: bool,
    },
    /// A database of this process, shared by name between its connections (SQLite's `memdb`).
    Memory {
        name: String,
    },
}

/// The SQLite driver; used through [`crate::SqliteStore`].
#[derive(Debug)]
pub struct Sqlite {
    place: Place,
    config: SqliteConfig,
}

/// SQLite's result codes (<https://www.sqlite.org/rescode.html>).
mod code {
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const NOMEM: i32 = 7;
    pub(super) const READONLY: i32 = 8;
    pub(super) const INTERRUPT: i32 = 9;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const TOOBIG: i32 = 18;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const NOTADB: i32 = 26;
    pub(super) const CONSTRAINT_PRIMARYKEY: i32 = 1555;
    pub(super) const CONSTRAINT_UNIQUE: i32 = 2067;
}

impl Sqlite {
    /// Reads a URL: `sqlite:crm.db`, `sqlite:///var/lib/crm.db`, `sqlite::memory:`, with `?mode=rwc` (the default: made
    /// when missing), `rw` (must be there) or `memory`.
    pub(crate) fn new(url: &str, config: SqliteConfig) -> Result<Self> {
        static MEMORY: AtomicU64 = AtomicU64::new(0);
        config.validate()?;
        let wrong = |message: &'static str| Error::config(message).with("setting", "url");
        let Some(rest) = url.strip_prefix("sqlite:") else {
            return Err(wrong("a SQLite store is named sqlite:<path> or sqlite::memory:"));
        };
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (mut create, mut memory) = (true, path == ":memory:");
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("mode", "rwc") => {}
                ("mode", "rw") => create = false,
                ("mode", "memory") => memory = true,
                ("mode", "ro") => return Err(wrong("a store must be writable; leave out mode=ro")),
                ("mode", _) => return Err(wrong("the mode of a SQLite store is rwc, rw or memory")),
                (key, _) => {
                    return Err(
                        wrong("a SQLite URL has no such parameter; set it in SqliteConfig")
                            .with("parameter", key),
                    );
                }
            }
        }
        let place = if memory {
            Place::Memory {
                name: format!("/open-crm-{}", MEMORY.fetch_add(1, Ordering::Relaxed)),
            }
        } else {
            let path = percent_decode(path).ok_or_else(|| wrong("the path has a broken %-escape"))?;
            if path.is_empty() || path.contains('\0') {
                return Err(wrong("the path of the SQLite file is missing: sqlite:<path>"));
            }
            Place::File {
                path: PathBuf::from(path),
                create,
            }
        };
        Ok(Self { place, config })
    }

    /// A file by its path, taken literally.
    pub(crate) fn file(path: &Path, config: SqliteConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            place: Place::File {
                path: path.to_owned(),
                create: true,
            },
            config,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// The file, unless the data is in memory.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::File { path, .. } => Some(path),
            Place::Memory { .. } => None,
        }
    }

    fn options(&self, role: Role) -> SqliteConnectOptions {
        let kib = self.config.cache_bytes / 1024;
        let options = SqliteConnectOptions::new()
            .busy_timeout(self.config.wait)
            .foreign_keys(true)
            .synchronous(SqliteSynchronous::Full)
            .pragma("temp_store", "MEMORY")
            .statement_cache_capacity(256)
            .row_buffer_size(1024)
            .disable_statement_logging();
        let options = match &self.place {
            Place::File { path, create } => options
                .filename(path)
                .create_if_missing(*create)
                .journal_mode(SqliteJournalMode::Wal)
                // Fewer, larger checkpoints: a page that is written often goes to the file once.
                .pragma("wal_autocheckpoint", "16384"),
            Place::Memory { name } => options.filename(name).create_if_missing(true).vfs("memdb"),
        };
        match role {
            Role::Writer => options.pragma("cache_size", format!("-{kib}")),
            Role::Reader => options
                .pragma("query_only", "ON")
                .pragma("cache_size", format!("-{}", kib / 4)),
        }
    }

    async fn open(&self, role: Role) -> Result<SqliteConnection> {
        let options = self.options(role);
        // Turning on WAL takes a lock that SQLite does not wait for by itself; processes that start together do.
        let pause = Duration::from_millis(10);
        let mut left = self.config.wait;
        loop {
            match options.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    let error = self.opening(&error);
                    if error.kind() != ErrorKind::Unavailable || left.is_zero() {
                        return Err(error);
                    }
                    tokio::time::sleep(pause).await;
                    left = left.saturating_sub(pause);
                }
            }
        }
    }

    /// What kept the file from being opened, told in terms of the setting.
    fn opening(&self, error: &sqlx::Error) -> Error {
        let place = match &self.place {
            Place::File { path, .. } => path.display().to_string(),
            Place::Memory { .. } => ":memory:".to_owned(),
        };
        let told = |message: &'static str| {
            Error::config(message)
                .with("setting", "url")
                .with("path", &place)
                .operation("store.open")
        };
        match primary(error) {
            Some(code::CANTOPEN | code::IOERR) => told(
                "the SQLite file cannot be opened or made; check that its folder is there and that both may be written",
            ),
            Some(code::READONLY) => {
                told("the SQLite file cannot be written; check its permissions and the disk's")
            }
            Some(code::NOTADB | code::CORRUPT) => Error::new(
                ErrorKind::Corrupt,
                "the file is there but is no SQLite database, or it is damaged",
            )
            .with("setting", "url")
            .with("path", &place)
            .operation("store.open"),
            _ => classify(error)
                .into_error()
                .with("path", &place)
                .operation("store.open"),
        }
    }

    async fn read_back(&self, connection: &mut SqliteConnection) -> Result<()> {
        let durable = matches!(self.place, Place::File { .. });
        let mut wanted = vec![("synchronous", "2"), ("foreign_keys", "1")];
        if durable {
            wanted.push(("journal_mode", "wal"));
        }
        for (pragma, wanted) in wanted {
            let sql = match pragma {
                "synchronous" => "SELECT CAST(synchronous AS TEXT) FROM pragma_synchronous",
                "foreign_keys" => "SELECT CAST(foreign_keys AS TEXT) FROM pragma_foreign_keys",
                _ => "SELECT CAST(journal_mode AS TEXT) FROM pragma_journal_mode",
            };
            let row = sqlx::query(sql)
                .fetch_one(&mut *connection)
                .await
                .map_err(|e| self.opening(&e))?;
            let found: String = row.try_get(0).map_err(|e| self.opening(&e))?;
            if !found.eq_ignore_ascii_case(wanted) {
                return Err(Error::config(
                    "SQLite did not take a setting that durability needs; the file system may not support it",
                )
                .operation("store.open")
                .with("setting", pragma)
                .with("wanted", wanted)
                .with("found", found));
            }
        }
        Ok(())
    }
}

fn extended(error: &sqlx::Error) -> Option<i32> {
    error
        .as_database_error()
        .and_then(|e| e.code())
        .and_then(|code| code.parse().ok())
}

fn primary(error: &sqlx::Error) -> Option<i32> {
    extended(error).map(|code| code & 0xff)
}

/// What a driver error means. SQLite's messages name columns and tables, never values; still only the code is passed on.
pub(super) fn classify(error: &sqlx::Error) -> Fault {
    let Some(extended) = extended(error) else {
        return Fault::Other(match error {
            sqlx::Error::WorkerCrashed => {
                Error::new(ErrorKind::Unavailable, "the SQLite thread has ended").effect_unknown()
            }
            sqlx::Error::Io(e) => {
                Error::new(ErrorKind::Unavailable, "SQLite cannot be reached").with("io", e.kind())
            }
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => {
                Error::new(ErrorKind::Corrupt, "a stored value is not what its schema says")
            }
            _ => Error::unexpected("the SQLite driver failed"),
        });
    };
    let message = error.as_database_error().map(|e| e.message()).unwrap_or_default();
    if matches!(extended, code::CONSTRAINT_UNIQUE | code::CONSTRAINT_PRIMARYKEY) {
        return Fault::Taken(Key::Fields(key_fields(message)));
    }
    let new = Error::new;
    let error = match extended & 0xff {
        code::BUSY | code::LOCKED => new(
            ErrorKind::Unavailable,
            "the database is locked by another process; try again, or wait longer (SqliteConfig::wait)",
        ),
        code::FULL => new(
            ErrorKind::Unavailable,
            "the disk is full; make room and try again",
        ),
        code::IOERR => new(ErrorKind::Unavailable, "the disk could not be read or written"),
        code::NOMEM => new(ErrorKind::Unavailable, "SQLite got no memory"),
        code::READONLY | code::CANTOPEN => {
            Error::config("the SQLite file cannot be written any more; check its permissions and the disk's")
                .with("setting", "url")
        }
        code::CORRUPT | code::NOTADB => new(
            ErrorKind::Corrupt,
            "the SQLite file is damaged; restore it from a backup",
        ),
        code::INTERRUPT => new(ErrorKind::Cancelled, "the statement was interrupted"),
        code::TOOBIG => Error::invalid("a value or statement is larger than SQLite allows"),
        code::CONSTRAINT => Error::invalid("a value does not fit its column"),
        1 if message.starts_with("no such table") || message.contains("no such column") => {
            Error::config("the schema is not in this database; call migrate first")
        }
        1 if message.contains("integer overflow") => Error::invalid("a sum does not fit into 64 bits"),
        _ => Error::unexpected("SQLite refused the statement"),
    };
    Fault::Other(error.with("sqlite_code", extended))
}

/// `UNIQUE constraint failed: t.tenant, t.a, t.b` is about the fields `a` and `b`.
fn key_fields(message: &str) -> Vec<String> {
    let (_, columns) = message.split_once(": ").unwrap_or_default();
    let names = columns
        .split(", ")
        .filter_map(|column| column.split_once('.'))
        .map(|(_, name)| name);
    names
        .filter(|name| *name != "tenant")
        .map(str::to_owned)
        .collect()
}

fn bind(value: Value, arguments: &mut sqlx::sqlite::SqliteArguments) -> Result<(), Fault> {
    let added = match value {
        Value::Null => arguments.add(None::<i64>),
        Value::Bool(flag) => arguments.add(i64::from(flag)),
        Value::Int(int) => arguments.add(int),
        Value::Float(float) => arguments.add(float),
        Value::Text(text) => arguments.add(text),
        Value::Bytes(bytes) => arguments.add(bytes),
        Value::Timestamp(time) => arguments.add(time.as_micros()),
        Value::Uuid(id) => arguments.add(id.as_bytes().to_vec()),
        Value::Json(json) => arguments.add(json.to_string()),
    };
    added.map_err(|_| Fault::Other(Error::unexpected("a value could not be bound")))
}

/// The text of a column, without a copy.
fn borrowed(row: &SqliteRow, column: usize) -> Result<Option<&str>, Fault> {
    row.try_get_unchecked(column).map_err(|_| damaged(column))
}

fn damaged(column: usize) -> Fault {
    Fault::Other(
        Error::new(ErrorKind::Corrupt, "a stored value is not what its schema says").with("column", column),
    )
}

fn read(row: &SqliteRow, column: usize, ty: FieldType) -> Result<Value, Fault> {
    macro_rules! get {
        ($ty:ty) => {
            row.try_get_unchecked::<Option<$ty>, _>(column)
                .map_err(|_| damaged(column))?
        };
    }
    let value = match ty {
        FieldType::Bool => get!(i64).map(|v| Value::Bool(v != 0)),
        FieldType::Int => get!(i64).map(Value::Int),
        FieldType::Float => get!(f64).map(Value::Float),
        FieldType::Text => get!(String).map(Value::Text),
        FieldType::Bytes => get!(Vec<u8>).map(Value::Bytes),
        FieldType::Timestamp => get!(i64).map(|v| Value::Timestamp(Timestamp::from_micros(v))),
        FieldType::Uuid => match get!(&[u8]) {
            None => None,
            Some(bytes) => Some(Value::Uuid(Uuid::from_slice(bytes).map_err(|_| damaged(column))?)),
        },
        FieldType::Json => match get!(&str) {
            None => None,
            Some(text) => Some(Value::Json(
                serde_json::from_str(text).map_err(|_| damaged(column))?,
            )),
        },
    };
    Ok(value.unwrap_or(Value::Null))
}

/// A connection. Dropped in the middle of a statement, it stops the statement: else a question that nobody waits for any
/// more would be worked on to its end.
pub struct Link {
    connection: SqliteConnection,
    stop: Arc<AtomicBool>,
}

/// Instructions of SQLite's machine between two looks at whether to stop: some ten microseconds.
const STEPS: i32 = 1000;

impl Link {
    async fn new(mut connection: SqliteConnection) -> Result<Self, sqlx::Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        connection
            .lock_handle()
            .await?
            .set_progress_handler(STEPS, move || !stopped.load(Ordering::Relaxed));
        Ok(Self { connection, stop })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Driver for Sqlite {}

#[async_trait]
impl Dialect for Sqlite {
    type Connection = Link;

    const MAX_BINDS: usize = 32_766;
    const TABLE_OPTIONS: &'static str = " STRICT, WITHOUT ROWID";
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
    const ROW_VALUES: bool = true;
    // SQLite copies every page that a statement of several rows changes, to be able to undo it alone. A unit of work is
    // given up whole, so that is in vain.
    const INSERT: &'static str = "INSERT OR FAIL INTO ";
    const INSERT_KEEPS: bool = true;
    const SHARES_COMMITS: bool = true;

    fn capability(&self) -> StoreCapability {
        match self.place {
            Place::File { .. } => StoreCapability::new(true, true),
            Place::Memory { .. } => StoreCapability::new(false, false),
        }
    }
    fn readers(&self) -> usize {
        match self.place {
            Place::File { .. } => self.config.readers,
            // Without WAL a reader would hold up the writer and be held up by it.
            Place::Memory { .. } => 0,
        }
    }
    fn wait(&self) -> Duration {
        self.config.wait
    }

    fn placeholder(out: &mut String, _n: usize) {
        out.push('?');
    }
    fn quote(out: &mut String, name: &str) {
        out.push('"');
        out.push_str(&name.replace('"', "\"\""));
        out.push('"');
    }
    fn column_type(ty: FieldType, _key: bool) -> &'static str {
        match ty {
            FieldType::Bool | FieldType::Int | FieldType::Timestamp => "INTEGER",
            FieldType::Float => "REAL",
            FieldType::Text | FieldType::Json => "TEXT",
            FieldType::Bytes | FieldType::Uuid => "BLOB",
        }
    }
    fn skip_taken(sql: &mut Sql) {
        sql.push(" ON CONFLICT DO NOTHING");
    }
    fn replace_taken(sql: &mut Sql, table: &'static str, fields: &mut dyn Iterator<Item = &'static str>) {
        sql.push(" ON CONFLICT (\"tenant\", \"id\") DO UPDATE SET \"version\" = ")
            .table(table)
            .push(".\"version\" + 1");
        for field in fields {
            sql.push(", ").name(field).push(" = excluded.").name(field);
        }
    }

    fn json_is(sql: &mut Sql, column: &str, path: &[String], ty: JsonType) {
        sql.push("ifnull(json_type(")
            .name(column)
            .push(", ")
            .bind(json_path(path).into());
        sql.push(match ty {
            JsonType::Text => "), '') = 'text'",
            JsonType::Number => "), '') IN ('integer', 'real')",
            JsonType::Bool => "), '') IN ('true', 'false')",
        });
    }
    fn json_value(sql: &mut Sql, column: &str, path: &[String], _ty: JsonType) {
        sql.push("json_extract(")
            .name(column)
            .push(", ")
            .bind(json_path(path).into())
            .push(")");
    }
    fn json_absent(sql: &mut Sql, column: &str, path: &[String]) {
        sql.push("ifnull(json_type(")
            .name(column)
            .push(", ")
            .bind(json_path(path).into())
            .push("), 'null') = 'null'");
    }
    fn json_has(sql: &mut Sql, column: &str, path: &[String], text: &str) {
        sql.push("EXISTS (SELECT 1 FROM json_each(")
            .name(column)
            .push(", ")
            .bind(json_path(path).into());
        // `json_each` also walks objects and lone values: only an array is asked.
        sql.push(") WHERE json_each.type = 'text' AND json_each.value = ")
            .bind(text.into())
            .push(" AND json_type(")
            .name(column)
            .push(", ")
            .bind(json_path(path).into())
            .push(") = 'array')");
    }
    fn json_document(sql: &mut Sql, column: &str, path: &[String]) {
        sql.name(column).push(" -> ").bind(json_path(path).into());
    }
    fn contains(sql: &mut Sql, value: &mut dyn FnMut(&mut Sql), part: &str) {
        sql.push("instr(");
        value(sql);
        sql.push(", ").bind(part.into()).push(") > 0");
    }
    fn month(sql: &mut Sql, column: &str) {
        // Division rounds towards zero, so times before 1970 are first moved down to a whole second.
        sql.push("CASE WHEN ")
            .name(column)
            .push(" IS NULL THEN NULL WHEN ")
            .name(column);
        sql.push(" BETWEEN -62167219200000000 AND 253402300799999999 THEN strftime('%Y-%m', (")
            .name(column);
        sql.push(" - ((")
            .name(column)
            .push(" % 1000000) + 1000000) % 1000000) / 1000000, 'unixepoch') ELSE '' END");
    }

    /// Without statistics SQLite takes every equality for equally telling, so that `tenant = ?` alone looks as good as a
    /// unique key and whole tenants are read to save a sort. Statistics of an assumed large table say what is known from
    /// the schema: tenants are large, whole keys are small. `ANALYZE` replaces them by measured ones.
    fn statistics(schema: &'static Schema) -> Vec<Sql> {
        const ROWS: u64 = 1_000_000_000;
        let mut all = Vec::new();
        // Makes the table of statistics unless it is there; the ledger is small.
        all.push(statement("ANALYZE \"crm_ledger\""));
        let mut forget = statement("DELETE FROM sqlite_stat1 WHERE tbl = ");
        forget.bind(schema.name.into());
        all.push(forget);
        let primary = (schema.name, format!("{ROWS} {} 1", ROWS / 10));
        let indexes = schema.indexes.iter().map(|index| {
            let mut equal = ROWS / 10;
            let mut text = format!("{ROWS} {equal}");
            for i in 1..=index.fields.len() {
                let last = i == index.fields.len();
                equal = if last && index.unique {
                    1
                } else if last {
                    10
                } else {
                    equal / 100
                };
                text = format!("{text} {equal}");
            }
            (index.name, text)
        });
        for (index, text) in std::iter::once(primary).chain(indexes) {
            let mut sql = statement("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (");
            sql.bind(schema.name.into())
                .push(", ")
                .bind(index.into())
                .push(", ")
                .bind(text.into())
                .push(")");
            all.push(sql);
        }
        // Takes them in.
        all.push(statement("ANALYZE sqlite_schema"));
        all
    }

    async fn connect(&self, role: Role) -> Result<Link> {
        let mut connection = self.open(role).await?;
        self.read_back(&mut connection).await?;
        Link::new(connection).await.map_err(|e| self.opening(&e))
    }

    async fn execute(link: &mut Link, sql: Sql) -> Result<u64, Fault> {
        let (text, arguments) = prepared(sql)?;
        let done = sqlx::query_with(text, arguments)
            .execute(&mut link.connection)
            .await;
        done.map(|done| done.rows_affected()).map_err(|e| classify(&e))
    }

    async fn query(link: &mut Link, sql: Sql, types: &[FieldType]) -> Result<Vec<Vec<Value>>, Fault> {
        use futures_util::TryStreamExt as _;
        let (text, arguments) = prepared(sql)?;
        let mut rows = sqlx::query_with(text, arguments).fetch(&mut link.connection);
        let mut answer = Vec::new();
        while let Some(row) = rows.try_next().await.map_err(|e| classify(&e))? {
            let values = types
                .iter()
                .enumerate()
                .map(|(column, ty)| read(&row, column, *ty));
            answer.push(values.collect::<Result<Vec<Value>, Fault>>()?);
        }
        Ok(answer)
    }

    async fn columns(
        link: &mut Link,
        sql: Sql,
        types: &[FieldType],
        whole: &[bool],
        columns: &mut [Column],
    ) -> Result<(usize, Option<Uuid>), Fault> {
        use futures_util::TryStreamExt as _;
        let (text, arguments) = prepared(sql)?;
        let mut rows = sqlx::query_with(text, arguments).fetch(&mut link.connection);
        let (mut count, mut last) = (0, None);
        while let Some(row) = rows.try_next().await.map_err(|e| classify(&e))? {
            count += 1;
            last = read(&row, 0, FieldType::Uuid)?.as_uuid();
            let kinds = types.iter().skip(1).zip(whole).enumerate();
            for (column, (at, (ty, whole))) in columns.iter_mut().zip(kinds) {
                if *ty == FieldType::Text {
                    column.push_text(borrowed(&row, at + 1)?);
                } else {
                    let value = json_text(read(&row, at + 1, *ty)?, *whole);
                    column.push(value).map_err(Fault::Other)?;
                }
            }
        }
        Ok((count, last))
    }

    async fn inserted(link: &mut Link) -> Result<usize, Fault> {
        let row = sqlx::query("SELECT changes()")
            .fetch_one(&mut link.connection)
            .await;
        let rows = row
            .and_then(|row| row.try_get::<i64, _>(0))
            .map_err(|e| classify(&e))?;
        Ok(usize::try_from(rows).unwrap_or_default())
    }

    /// One hop to the connection's thread for all of them: the statements are one text.
    async fn pipeline(link: &mut Link, statements: Vec<Sql>) -> (Vec<u64>, Option<Fault>) {
        use futures_util::TryStreamExt as _;
        let mut changed = Vec::with_capacity(statements.len());
        let (text, arguments) = match joined(statements) {
            Ok(joined) => joined,
            Err(fault) => return (changed, Some(fault)),
        };
        #[expect(deprecated, reason = "the only way to hear of each statement of several")]
        let mut answers = sqlx::query_with(text, arguments).fetch_many(&mut link.connection);
        loop {
            match answers.try_next().await {
                Ok(Some(sqlx::Either::Left(done))) => changed.push(done.rows_affected()),
                Ok(Some(sqlx::Either::Right(_))) => {}
                Ok(None) => return (changed, None),
                Err(error) => return (changed, Some(classify(&error))),
            }
        }
    }
}

fn joined(statements: Vec<Sql>) -> Result<(sqlx::SqlStr, sqlx::sqlite::SqliteArguments), Fault> {
    let mut all = String::new();
    let mut arguments = sqlx::sqlite::SqliteArguments::default();
    for sql in statements {
        let (text, binds) = sql.into_parts();
        all.push_str(&text);
        all.push(';');
        binds
            .into_iter()
            .try_for_each(|value| bind(value, &mut arguments))?;
    }
    Ok((AssertSqlSafe(all).into_sql_str(), arguments))
}

fn statement(text: &'static str) -> Sql {
    let mut sql = Sql::new::<Sqlite>();
    sql.push(text);
    sql
}

fn prepared(sql: Sql) -> Result<(sqlx::SqlStr, sqlx::sqlite::SqliteArguments), Fault> {
    let (text, binds) = sql.into_parts();
    let mut arguments = sqlx::sqlite::SqliteArguments::default();
    arguments.reserve(binds.len(), 0);
    binds
        .into_iter()
        .try_for_each(|value| bind(value, &mut arguments))?;
    // The text is made by `compile` alone: fixed words, quoted names of `&'static` schemas, placeholders.
    Ok((AssertSqlSafe(text).into_sql_str(), arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let path = |url: &str| match Sqlite::new(url, SqliteConfig::default()).unwrap().place {
            Place::File { path, create } => (path.display().to_string(), create),
            Place::Memory { .. } => ("memory".into(), false),
        };
        assert_eq!(path("sqlite:crm.db"), ("crm.db".into(), true));
        assert_eq!(
            path("sqlite://data/crm.db?mode=rw"),
            ("data/crm.db".into(), false)
        );
        assert_eq!(
            path("sqlite:///var/lib/a%20b.db"),
            ("/var/lib/a b.db".into(), true)
        );
        assert_eq!(path("sqlite::memory:"), ("memory".into(), false));
        assert_eq!(path("sqlite://:memory:"), ("memory".into(), false));
        for (url, word) in [
            ("sqlite:", "missing"),
            ("sqlite:a.db?mode=ro", "writable"),
            ("sqlite:a.db?mode=x", "mode"),
            ("sqlite:a.db?cache=shared", "parameter=cache"),
            ("sqlite:a%zz.db", "%-escape"),
            ("mysql:a", "sqlite:<path>"),
        ] {
            let error = Sqlite::new(url, SqliteConfig::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(Sqlite::new("sqlite:a", SqliteConfig::default().readers(0)).is_err());
    }

    #[test]
    fn a_key_is_named_without_the_tenant() {
        assert_eq!(
            key_fields("UNIQUE constraint failed: t.tenant, t.a, t.b"),
            ["a", "b"]
        );
        assert_eq!(key_fields("UNIQUE constraint failed: t.tenant, t.id"), ["id"]);
    }

    #[test]
    fn keys_of_a_path_cannot_leave_their_label() {
        assert_eq!(json_path(&["a".into(), "b\".c".into()]), r#"$."a"."b\".c""#);
    }
}
