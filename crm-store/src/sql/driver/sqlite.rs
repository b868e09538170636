//! SQLite: bundled, in WAL mode with full durability, or in memory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::StoreCapability;
use crm_core::record::{FieldType, Record, Schema, Value};
use crm_core::{Column, Error, ErrorKind, Result, Uuid};
use rusqlite::{Connection, OpenFlags};

use super::super::compile::Sql;
use super::{Dialect, Driver, Fault, JsonType, Key, Names, Role, json_path, percent_decode};

mod link;

#[cfg(feature = "unstable-raw")]
pub(in crate::sql) use link::serve;
pub(in crate::sql) use link::{Failure, Link};

/// How a SQLite file is used. [`SqliteConfig::default`] is right for most.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteConfig {
    /// The provider's name in a registry; `sqlite` unless set.
    pub name: String,
    /// What the names of tables and indexes begin with; empty unless set. Tables with another beginning are not looked at,
    /// so the store can share a file with the host's own tables.
    pub prefix: String,
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
            prefix: String::new(),
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
    /// Sets what the names of tables and indexes begin with: up to 30 of a-z, 0-9 and _, no digit first.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
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

    /// Checks the settings; the names they make.
    fn validate(&self) -> Result<Names> {
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
        Names::new("", &self.prefix)
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
    names: Names,
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
    /// when missing), `rw` (must be there) or `memory`, and `?prefix=` as in [`SqliteConfig::prefix`].
    pub(crate) fn new(url: &str, mut config: SqliteConfig) -> Result<Self> {
        static MEMORY: AtomicU64 = AtomicU64::new(0);
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
                ("prefix", prefix) => config.prefix = prefix.to_owned(),
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
                path: literal(Path::new(&path)),
                create,
            }
        };
        let names = config.validate()?;
        Ok(Self { place, config, names })
    }

    /// A file by its path, taken literally.
    pub(crate) fn file(path: &Path, config: SqliteConfig) -> Result<Self> {
        let names = config.validate()?;
        Ok(Self {
            place: Place::File {
                path: literal(path),
                create: true,
            },
            config,
            names,
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

    /// How a connection of this role is opened, settings and all.
    fn opener(&self, role: Role) -> impl FnOnce() -> rusqlite::Result<Connection> + Send + 'static {
        let (place, wait) = (self.place.clone(), self.config.wait);
        let kib = self.config.cache_bytes / 1024;
        move || {
            // A connection is used by one thread only; SQLite need not guard it.
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = match &place {
                Place::File { path, create: true } => {
                    Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_CREATE)?
                }
                Place::File { path, .. } => Connection::open_with_flags(path, flags)?,
                Place::Memory { name } => {
                    let flags = flags | OpenFlags::SQLITE_OPEN_CREATE;
                    Connection::open_with_flags_and_vfs(name, flags, "memdb")?
                }
            };
            connection.busy_timeout(wait)?;
            if let Place::File { .. } = &place {
                // Fewer, larger checkpoints: a page that is written often goes to the file once.
                connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 16384")?;
            }
            // What a sort or a grouping needs beyond the page cache goes to a file without a name (`temp_store` unchanged):
            // the memory of a question does not grow with the rows.
            connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL")?;
            let kib = match role {
                Role::Writer => kib,
                Role::Reader => {
                    connection.execute_batch("PRAGMA query_only = ON")?;
                    kib / 4
                }
            };
            connection.pragma_update(None, "cache_size", -i64::try_from(kib).unwrap_or(i64::MAX))?;
            Ok(connection)
        }
    }

    async fn open(&self, role: Role) -> Result<Link> {
        // Turning on WAL takes a lock that SQLite does not wait for by itself; processes that start together do.
        let pause = Duration::from_millis(10);
        let mut left = self.config.wait;
        loop {
            match Link::open(self.opener(role)).await {
                Ok(link) => return Ok(link),
                Err(failure) => {
                    let error = self.opening(&failure);
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
    fn opening(&self, failure: &Failure) -> Error {
        let place = match &self.place {
            Place::File { path, .. } => path.display().to_string(),
            Place::Memory { .. } => ":memory:".to_owned(),
        };
        let setting = |message: &'static str| {
            Error::config(message)
                .with("setting", "url")
                .with("path", &place)
                .operation("store.open")
        };
        let code = match failure {
            Failure::Sqlite(error) => told(error).map(|(code, _)| code & 0xff),
            Failure::Thread => None,
        };
        match code {
            Some(code::CANTOPEN | code::IOERR) => setting(
                "the SQLite file cannot be opened or made; check that its folder is there and that both may be written",
            ),
            Some(code::READONLY) => {
                setting("the SQLite file cannot be written; check its permissions and the disk's")
            }
            Some(code::NOTADB | code::CORRUPT) => Error::new(
                ErrorKind::Corrupt,
                "the file is there but is no SQLite database, or it is damaged",
            )
            .with("setting", "url")
            .with("path", &place)
            .operation("store.open"),
            _ => failure
                .fault()
                .into_error()
                .with("path", &place)
                .operation("store.open"),
        }
    }

    /// Refuses a connection that did not take a setting.
    async fn read_back(&self, link: &Link) -> Result<()> {
        let mut wanted = vec![("synchronous", "2"), ("foreign_keys", "1")];
        if matches!(self.place, Place::File { .. }) {
            wanted.push(("journal_mode", "wal"));
        }
        for (pragma, wanted) in wanted {
            let sql = match pragma {
                "synchronous" => "SELECT CAST(synchronous AS TEXT) FROM pragma_synchronous",
                "foreign_keys" => "SELECT CAST(foreign_keys AS TEXT) FROM pragma_foreign_keys",
                _ => "SELECT CAST(journal_mode AS TEXT) FROM pragma_journal_mode",
            };
            let found = link.on(move |session| session.connection().query_row(sql, [], |row| row.get(0)));
            let found: rusqlite::Result<String> = found.await.map_err(|failure| self.opening(&failure))?;
            let found = found.map_err(|error| self.opening(&error.into()))?;
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

/// A path that SQLite takes literally: as it is built, it reads one that begins with `file:` as a URI.
pub(super) fn literal(path: &Path) -> PathBuf {
    match path.as_os_str().as_encoded_bytes().starts_with(b"file:") {
        true => Path::new(".").join(path),
        false => path.to_owned(),
    }
}

/// The extended code and the message of SQLite's own errors.
fn told(error: &rusqlite::Error) -> Option<(i32, &str)> {
    match error {
        rusqlite::Error::SqliteFailure(error, message) => {
            Some((error.extended_code, message.as_deref().unwrap_or_default()))
        }
        rusqlite::Error::SqlInputError { error, msg, .. } => Some((error.extended_code, msg)),
        _ => None,
    }
}

/// What a driver error means. SQLite's messages name columns and tables, never values; still only the code is passed on.
pub(super) fn classify(error: &rusqlite::Error) -> Fault {
    let Some((extended, message)) = told(error) else {
        return Fault::Other(match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..) => {
                Error::new(ErrorKind::Corrupt, "a stored value is not what its schema says")
            }
            _ => Error::unexpected("the SQLite driver failed"),
        });
    };
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

impl Driver for Sqlite {}

#[async_trait]
impl Dialect for Sqlite {
    type Connection = Link;

    const MAX_BINDS: usize = 32_766;
    const TABLE_OPTIONS: &'static str = " STRICT, WITHOUT ROWID";
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
    const ROW_VALUES: bool = true;
    const ROW_BY_ROW: bool = true;
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
    fn names(&self) -> &Names {
        &self.names
    }

    fn placeholder(out: &mut String, _n: usize) {
        out.push('?');
    }
    fn quote(out: &mut String, name: &str) {
        out.push('"');
        for (i, part) in name.split('"').enumerate() {
            if i > 0 {
                out.push_str("\"\"");
            }
            out.push_str(part);
        }
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
    fn statistics(schema: &'static Schema, names: &Names) -> Vec<Sql> {
        const ROWS: u64 = 1_000_000_000;
        let named = |name: &str| format!("{}{name}", names.prefix());
        let mut all = Vec::new();
        // Makes the table of statistics unless it is there; the ledger is small.
        let mut make = statement("ANALYZE ");
        make.table("crm_ledger");
        all.push(make);
        let mut forget = statement("DELETE FROM sqlite_stat1 WHERE tbl = ");
        forget.bind(named(schema.name).into());
        all.push(forget);
        let primary = (named(schema.name), format!("{ROWS} {} 1", ROWS / 10));
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
            (named(index.name), text)
        });
        for (index, text) in std::iter::once(primary).chain(indexes) {
            let mut sql = statement("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (");
            sql.bind(named(schema.name).into())
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
        let link = self.open(role).await?;
        self.read_back(&link).await?;
        Ok(link)
    }

    async fn close(link: Link) -> Result<()> {
        link.close().await.map_err(|failure| failure.fault().into_error())
    }

    async fn execute(link: &mut Link, sql: Sql) -> Result<u64, Fault> {
        link.run(move |session| session.execute(sql)).await
    }

    async fn query(link: &mut Link, sql: Sql, types: &[FieldType]) -> Result<Vec<Vec<Value>>, Fault> {
        let types = types.to_vec();
        link.run(move |session| session.query(sql, &types)).await
    }

    async fn columns(
        link: &mut Link,
        sql: Sql,
        types: &[FieldType],
        whole: &[bool],
        columns: &mut [Column],
    ) -> Result<(usize, Option<Uuid>), Fault> {
        let (types, whole) = (types.to_vec(), whole.to_vec());
        // They are filled on the other thread; as they come without rows, that copies names only.
        let mut filled = columns.to_vec();
        let work = move |session: &link::Session<'_>| {
            let done = session.columns(sql, &types, &whole, &mut filled)?;
            Ok((done, filled))
        };
        let (done, filled) = link.run(work).await?;
        for (column, filled) in columns.iter_mut().zip(filled) {
            *column = filled;
        }
        Ok(done)
    }

    /// One trip to the connection's thread, one prepared statement for all of them.
    async fn insert_each(link: &mut Link, sql: Sql, rows: Vec<(Uuid, Record)>) -> (usize, Option<Fault>) {
        match link.on(move |session| session.insert_each(sql, &rows)).await {
            Ok(done) => done,
            Err(failure) => (0, Some(failure.fault())),
        }
    }

    /// One trip to the connection's thread for all of them.
    async fn pipeline(link: &mut Link, statements: Vec<Sql>) -> (Vec<u64>, Option<Fault>) {
        match link.on(move |session| session.pipeline(statements)).await {
            Ok(done) => done,
            Err(failure) => (Vec::new(), Some(failure.fault())),
        }
    }
}

fn statement(text: &'static str) -> Sql {
    let mut sql = Sql::new::<Sqlite>();
    sql.push(text);
    sql
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
        assert_eq!(path("sqlite:file:a.db"), ("./file:a.db".into(), true));
        assert_eq!(path("sqlite::memory:"), ("memory".into(), false));
        assert_eq!(path("sqlite://:memory:"), ("memory".into(), false));
        for (url, word) in [
            ("sqlite:", "missing"),
            ("sqlite:a.db?mode=ro", "writable"),
            ("sqlite:a.db?mode=x", "mode"),
            ("sqlite:a.db?cache=shared", "parameter=cache"),
            ("sqlite:a%zz.db", "%-escape"),
            ("sqlite:a.db?prefix=A", "prefix"),
            ("mysql:a", "sqlite:<path>"),
        ] {
            let error = Sqlite::new(url, SqliteConfig::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(Sqlite::new("sqlite:a", SqliteConfig::default().readers(0)).is_err());
    }

    /// A connection that took less than was asked for is refused, and the setting is named.
    #[tokio::test]
    async fn weaker_settings_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        // A file each: a connection that was dropped closes behind our back.
        let driver = |n: usize| {
            let path = folder.path().join(format!("{n}.db"));
            Sqlite::file(&path, SqliteConfig::default()).unwrap()
        };
        let weak = [
            ("PRAGMA synchronous = NORMAL", "synchronous", "1"),
            ("PRAGMA synchronous = OFF", "synchronous", "0"),
            ("PRAGMA foreign_keys = OFF", "foreign_keys", "0"),
            ("PRAGMA journal_mode = DELETE", "journal_mode", "delete"),
            ("PRAGMA journal_mode = MEMORY", "journal_mode", "memory"),
        ];
        for (n, (weaker, setting, found)) in weak.into_iter().enumerate() {
            let driver = driver(n);
            let open = driver.opener(Role::Writer);
            let link = Link::open(move || {
                let connection = open()?;
                connection.execute_batch(weaker)?;
                Ok(connection)
            });
            let error = driver.read_back(&link.await.unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{weaker}");
            let told = ["setting", "found"].map(|key| error.context(key).unwrap_or_default());
            assert_eq!(told, [setting, found], "{weaker}");
        }
        let driver = driver(weak.len());
        let link = driver.open(Role::Writer).await.unwrap();
        driver.read_back(&link).await.unwrap();
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
