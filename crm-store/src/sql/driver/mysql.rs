//! MySQL 8 or later and MariaDB 10.6 or later.
//!
//! Text has a binary collation that does not pad, JSON is kept as its text, timestamps as microseconds, UUIDs as 16
//! bytes. What only one of the two servers has is not used (`RETURNING`, native JSON), and what they name differently
//! stands in version comments. Isolation is READ COMMITTED: nothing here relies on more than unique keys, versions and
//! single statements with their conditions; and without gap locks writers rarely stand in each other's way.

use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::StoreCapability;
use crm_core::record::{FieldType, Value};
use crm_core::{Clock, Error, ErrorKind, Result, Timestamp, Uuid};
use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlConnection, MySqlRow, MySqlSslMode};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Executor, Row, SqlSafeStr, TypeInfo, ValueRef};

use tokio::time::Instant;

use super::super::compile::Sql;
#[cfg(feature = "unstable-raw")]
use super::guest::{Asked, Guest};
use super::server::{Pauses, Place, Settings, Tls, place, settings_methods, weak};
use super::wire::Wire;
use super::{Dialect, Driver, Fault, JsonType, Key, Names, Part, Role, json_path};

/// How a MySQL or MariaDB database is used. [`MysqlConfig::default`] is right for most.
#[derive(Debug, Clone)]
pub struct MysqlConfig(Settings);

impl Default for MysqlConfig {
    fn default() -> Self {
        Self(Settings::new("mysql"))
    }
}

impl MysqlConfig {
    settings_methods!();
}

/// The driver of MySQL and MariaDB; used through [`crate::MysqlStore`].
#[derive(Debug)]
pub struct Mysql {
    source: Source,
    settings: Settings,
    names: Names,
    database: String,
    pauses: Pauses,
    durable: bool,
}

/// Where connections come from. Not shown: there is a password in it.
enum Source {
    Url(Box<MySqlConnectOptions>),
    #[cfg(feature = "unstable-raw")]
    Pool(sqlx::MySqlPool),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("..")
    }
}

/// A connection and what it was told.
pub struct MysqlLink {
    wire: Wire<sqlx::MySql>,
    maria: bool,
    /// Milliseconds after which the server stops a statement; 0 for never.
    limit: u64,
    used: Instant,
}

impl std::fmt::Debug for MysqlLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MysqlLink")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// Idle this long, a connection is asked whether it is still there before it is used.
const IDLE: Duration = Duration::from_secs(5);

/// What every session is set to. Strict: a value that does not fit is refused, never cut off. Sorted by their first 16 KiB
/// are texts that no index sorts; the servers' own limit is 1 KiB. Not ONLY_FULL_GROUP_BY: MariaDB then refuses grouped
/// questions within others that it has simplified itself.
const SESSION: &str = "SET SESSION \
    sql_mode = 'STRICT_ALL_TABLES,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', \
    time_zone = '+00:00', autocommit = 1, foreign_key_checks = 1, unique_checks = 1, group_concat_max_len = 1048576, \
    max_sort_length = 16384, sort_buffer_size = 8388608; \
    SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";

/// The numbers of errors (<https://mariadb.com/kb/en/mariadb-error-codes/>,
/// <https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html>).
fn classify(error: &sqlx::Error) -> Fault {
    use ErrorKind::{Cancelled, Corrupt, PermissionDenied, Timeout, Unauthenticated, Unavailable};
    let new = Error::new;
    let tls = || {
        Fault::Lost(
            Error::config("no TLS connection to MySQL; check the certificate, its authority and the host")
                .with("setting", "tls"),
        )
    };
    let Some(database) = error.as_database_error() else {
        return match error {
            // What TLS refuses comes as a fault of the data.
            sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => tls(),
            sqlx::Error::Io(io) => Fault::Lost(
                new(Unavailable, "the connection to MySQL is lost or cannot be made").with("io", io.kind()),
            ),
            sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                Fault::Lost(new(Unavailable, "the connection to MySQL broke"))
            }
            sqlx::Error::Tls(_) => tls(),
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => {
                Fault::Other(new(Corrupt, "a stored value is not what its schema says"))
            }
            sqlx::Error::PoolTimedOut => {
                Fault::Other(new(Unavailable, "the pool had no free connection in time"))
            }
            sqlx::Error::PoolClosed => Fault::Other(new(Unavailable, "the pool is closed")),
            _ => Fault::Other(Error::unexpected("the MySQL driver failed")),
        };
    };
    let code = database
        .try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
        .map_or(0, sqlx::mysql::MySqlDatabaseError::number);
    let told = |error: Error| error.with("mysql_code", code);
    let error = match code {
        1062 | 1586 => return Fault::Taken(Key::Index(taken(database.message()).to_owned())),
        1213 | 1205 | 1020 => {
            return Fault::Again(told(new(
                Unavailable,
                "MySQL gave this unit of work up in favour of another one",
            )));
        }
        1053 | 1077 | 1079 | 1080 | 1152 | 1158..=1161 | 1184 | 1927 | 3168 | 3169 | 4031 => {
            return Fault::Lost(told(new(
                Unavailable,
                "MySQL closed the connection or is shutting down",
            )));
        }
        1969 | 3024 | 1028 => new(Timeout, "MySQL stopped the statement: it took longer than it may"),
        1317 => new(Cancelled, "the statement was stopped by an operator"),
        1040 | 1203 | 1226 => new(
            Unavailable,
            "the server has no connection left; use fewer, or let it have more",
        ),
        1021 | 1114 => new(Unavailable, "the server's disk is full"),
        1037 | 1038 | 1041 | 1135 => new(Unavailable, "the server has not enough memory"),
        1290 | 1792 | 1836 => new(Unavailable, "the server only reads; is it a replica?"),
        1406 => Error::invalid("a text is too long for its column").with("field", column(database.message())),
        1153 => Error::invalid("a record is larger than the server's max_allowed_packet"),
        1264 | 1690 | 1916 => Error::invalid("a number or sum does not fit"),
        1048 | 1265 | 1292 | 1364 | 1366 | 3140 | 4025 => Error::invalid("a value does not fit its column"),
        1071 | 1074 | 1118 => {
            Error::config("an index has too many texts for MySQL: at most two, with other fields beside them")
        }
        1146 | 1054 => Error::config("the schema is not in this database; call migrate first"),
        1049 => Error::config("there is no such database").with("setting", "url"),
        1044 | 1142 | 1143 | 1227 | 1370 => new(PermissionDenied, "the database user may not do this"),
        1045 | 1698 | 1251 | 1524 | 2059 => new(Unauthenticated, "MySQL does not know this user or password"),
        1034 | 1194 | 1712 | 1877 | 1030 => new(Corrupt, "MySQL reports a damaged table"),
        _ => Error::unexpected("MySQL refused the statement"),
    };
    Fault::Other(told(error))
}

/// The index of `Duplicate entry '..' for key 'table.index'`; the entry is somebody's data and may say anything.
fn taken(message: &str) -> &str {
    let (_, key) = message.rsplit_once(" for key '").unwrap_or_default();
    let key = key.trim_end_matches('\'');
    key.rsplit_once('.').map_or(key, |(_, index)| index)
}

/// The column of `Data too long for column 'name' at row 1`.
fn column(message: &str) -> &str {
    let (_, rest) = message.split_once(" column '").unwrap_or_default();
    rest.split_once('\'').map_or("?", |(name, _)| name)
}

impl Mysql {
    /// Reads URL and configuration, and asks the server whether it keeps what it acknowledges.
    pub(crate) async fn open(url: &str, config: MysqlConfig) -> Result<Self> {
        let mut settings = config.0;
        let place = place(url, &["mysql", "mariadb"], 3306, &mut settings)?;
        if !settings.schema.is_empty() {
            return Err(
                Error::config("MySQL has databases, not schemas; use a prefix").with("setting", "schema")
            );
        }
        let mut driver = Self {
            source: Source::Url(Box::new(options(&place, &settings))),
            names: settings.names()?,
            database: place.database,
            pauses: Pauses::new(settings.seed),
            durable: true,
            settings,
        };
        let opened = tokio::time::timeout(driver.settings.limit, driver.connected()).await;
        let mut link = opened
            .map_err(|_| Error::new(ErrorKind::Timeout, "MySQL did not answer in time"))?
            .map_err(Fault::into_error)?;
        driver.durable = durable(link.wire.own().map_err(Fault::into_error)?, driver.settings.weak).await?;
        Ok(driver)
    }

    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    async fn connected(&self) -> Result<MysqlLink, Fault> {
        let mut wire = match &self.source {
            Source::Url(options) => {
                let mut connection = options.connect().await.map_err(|e| classify(&e))?;
                run(&mut connection, SESSION.to_owned()).await?;
                Wire::Own(connection)
            }
            #[cfg(feature = "unstable-raw")]
            Source::Pool(pool) => Wire::Pooled(Some(pool.acquire().await.map_err(|e| classify(&e))?)),
        };
        let told = settings(
            wire.own()?,
            "SELECT CONCAT(@@version, '\n', @@sql_mode, '\n', @@character_set_connection)",
        )
        .await?;
        let mut told = told.split('\n');
        let version = told.next().unwrap_or_default();
        let maria = version.to_ascii_lowercase().contains("mariadb");
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
        let mut parts = version.split(['.', '-']);
        let found = (number(parts.next()), number(parts.next()));
        let old = |wanted: &'static str| {
            Fault::Other(
                Error::config("the server is too old")
                    .with("wanted", wanted)
                    .with("found", version),
            )
        };
        match maria {
            true if found < (10, 6) => return Err(old("MariaDB 10.6")),
            false if found < (8, 0) => return Err(old("MySQL 8.0.17")),
            _ => {}
        }
        let strict = told.next().unwrap_or_default().contains("STRICT_");
        let charset = told.next().unwrap_or_default();
        if !strict || charset != "utf8mb4" {
            return Err(Fault::Other(
                Error::config("the server did not take a setting that exact values need")
                    .with("setting", if strict { "character_set" } else { "sql_mode" }),
            ));
        }
        Ok(MysqlLink {
            wire,
            maria,
            limit: 0,
            used: Instant::now(),
        })
    }
}

fn options(place: &Place, settings: &Settings) -> MySqlConnectOptions {
    let options = MySqlConnectOptions::new()
        .host(&place.host)
        .port(place.port)
        .username(&place.user)
        .database(&place.database)
        .charset("utf8mb4")
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .statement_cache_capacity(256)
        .disable_statement_logging();
    let options = match &place.password {
        Some(password) => options.password(password.expose()),
        None => options,
    };
    match &settings.tls {
        Tls::Auto if place.is_local() => options.ssl_mode(MySqlSslMode::Preferred),
        Tls::Auto | Tls::Required => options.ssl_mode(MySqlSslMode::Required),
        Tls::Off => options.ssl_mode(MySqlSslMode::Disabled),
        Tls::Verified { ca } => {
            let options = options.ssl_mode(MySqlSslMode::VerifyIdentity);
            match ca {
                Some(ca) => options.ssl_ca(ca),
                None => options,
            }
        }
    }
}

/// One text that the server tells.
async fn settings(connection: &mut MySqlConnection, question: &'static str) -> Result<String, Fault> {
    let row = sqlx::query(question)
        .fetch_one(connection)
        .await
        .map_err(|e| classify(&e))?;
    row.try_get_unchecked::<String, _>(0).map_err(|e| classify(&e))
}

/// Whether the server keeps what it acknowledges, through its own crash and the machine's.
async fn durable(connection: &mut MySqlConnection, accept: bool) -> Result<bool> {
    let found = settings(
        connection,
        "SELECT CONCAT(@@innodb_flush_log_at_trx_commit, ' ', @@innodb_doublewrite, ' ', @@log_bin, ' ', @@sync_binlog)",
    )
    .await
    .map_err(Fault::into_error)?;
    let mut found = found.split(' ');
    let mut next = || found.next().unwrap_or_default();
    let (flush, doublewrite, binlog, sync) = (next(), next(), next(), next());
    let weak = if flush != "1" {
        weak("innodb_flush_log_at_trx_commit", "1", flush)
    } else if matches!(doublewrite, "0" | "OFF") {
        weak("innodb_doublewrite", "ON", doublewrite)
    } else if binlog == "1" && sync != "1" {
        // With a binary log, recovery gives up what is not in it.
        weak("sync_binlog", "1", sync)
    } else {
        return Ok(true);
    };
    if !accept {
        return Err(weak);
    }
    tracing::warn!(
        setting = weak.context("setting"),
        "MySQL can lose what it acknowledged"
    );
    Ok(false)
}

/// Runs fixed text without values.
async fn run(connection: &mut MySqlConnection, text: String) -> Result<u64, Fault> {
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(text))).await;
    done.map(|done| done.rows_affected()).map_err(|e| classify(&e))
}

fn bind(value: Value, arguments: &mut MySqlArguments) -> Result<(), Fault> {
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

fn prepared(sql: Sql) -> Result<(sqlx::SqlStr, MySqlArguments), Fault> {
    let (text, binds) = sql.into_parts();
    let mut arguments = MySqlArguments::default();
    arguments.reserve(binds.len(), binds.len() * 24);
    binds
        .into_iter()
        .try_for_each(|value| bind(value, &mut arguments))?;
    // The text is made by `compile` alone: fixed words, quoted names of `&'static` schemas, placeholders.
    Ok((AssertSqlSafe(text).into_sql_str(), arguments))
}

fn read(row: &MySqlRow, column: usize, ty: FieldType) -> Result<Value, Fault> {
    let damaged = || {
        Fault::Other(
            Error::new(ErrorKind::Corrupt, "a stored value is not what its schema says")
                .with("column", column),
        )
    };
    macro_rules! get {
        ($ty:ty) => {
            row.try_get_unchecked::<Option<$ty>, _>(column)
                .map_err(|_| damaged())?
        };
    }
    let value = match ty {
        FieldType::Int => {
            let raw = row.try_get_raw(column).map_err(|_| damaged())?;
            if !raw.is_null() && raw.type_info().name() == "DECIMAL" {
                // The exact sum of integers.
                let sum = get!(String).unwrap_or_default();
                let sum = sum.parse().map_err(|_| {
                    Fault::Other(Error::invalid("a sum does not fit into 64 bits").with("column", column))
                });
                Some(Value::Int(sum?))
            } else {
                get!(i64).map(Value::Int)
            }
        }
        FieldType::Bool => get!(i64).map(|v| Value::Bool(v != 0)),
        FieldType::Float => get!(f64).map(Value::Float),
        FieldType::Text => get!(String).map(Value::Text),
        FieldType::Bytes => get!(Vec<u8>).map(Value::Bytes),
        FieldType::Timestamp => get!(i64).map(|v| Value::Timestamp(Timestamp::from_micros(v))),
        FieldType::Uuid => match get!(&[u8]) {
            None => None,
            Some(bytes) => Some(Value::Uuid(Uuid::from_slice(bytes).map_err(|_| damaged())?)),
        },
        FieldType::Json => match get!(&[u8]) {
            None => None,
            Some(text) => Some(Value::Json(serde_json::from_slice(text).map_err(|_| damaged())?)),
        },
    };
    Ok(value.unwrap_or(Value::Null))
}

/// The value below a JSON column, as JSON; null when it is not there.
fn below(sql: &mut Sql, column: &str, path: &[String]) {
    sql.push("JSON_EXTRACT(")
        .name(column)
        .push(", ")
        .bind(json_path(path).into())
        .push(")");
}

async fn execute(connection: &mut MySqlConnection, sql: Sql) -> Result<u64, Fault> {
    if sql.binds() == 0 {
        return run(connection, sql.into_parts().0).await;
    }
    let (text, arguments) = prepared(sql)?;
    let done = sqlx::query_with(text, arguments).execute(connection).await;
    done.map(|done| done.rows_affected()).map_err(|e| classify(&e))
}

async fn query(
    connection: &mut MySqlConnection,
    sql: Sql,
    types: &[FieldType],
) -> Result<Vec<Vec<Value>>, Fault> {
    use futures_util::TryStreamExt as _;
    let (text, arguments) = prepared(sql)?;
    let mut rows = sqlx::query_with(text, arguments).fetch(connection);
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

#[cfg(feature = "unstable-raw")]
impl Mysql {
    /// A store on connections of the host's pool.
    pub(crate) async fn from_pool(pool: sqlx::MySqlPool, config: MysqlConfig) -> Result<Self> {
        let settings = config.0;
        let mut driver = Self {
            source: Source::Pool(pool),
            names: settings.names()?,
            database: String::new(),
            pauses: Pauses::new(settings.seed),
            durable: true,
            settings,
        };
        let mut link = driver.connected().await.map_err(Fault::into_error)?;
        let connection = link.wire.own().map_err(Fault::into_error)?;
        driver.durable = durable(connection, driver.settings.weak).await?;
        link.wire.give_back();
        Ok(driver)
    }

    /// A stand-in for a connection that stays with the host, and where its statements come out.
    pub(in crate::sql) fn guest() -> (MysqlLink, tokio::sync::mpsc::Receiver<Asked>) {
        let (guest, asked) = Guest::new();
        let link = MysqlLink {
            wire: Wire::Guest(guest),
            maria: false,
            limit: 0,
            used: Instant::now(),
        };
        (link, asked)
    }

    /// Carries out on the host's connection what its stand-in is told, until that is gone.
    pub(in crate::sql) async fn serve(
        connection: &mut MySqlConnection,
        mut asked: tokio::sync::mpsc::Receiver<Asked>,
    ) {
        while let Some(asked) = asked.recv().await {
            // Who asked may have gone.
            match asked {
                Asked::Execute(sql, tell) => drop(tell.send(execute(connection, sql).await)),
                Asked::Query(sql, types, tell) => drop(tell.send(query(connection, sql, &types).await)),
            }
        }
    }
}

impl Driver for Mysql {}

#[async_trait]
impl Dialect for Mysql {
    type Connection = MysqlLink;

    const MAX_BINDS: usize = 65_535;
    const TABLE_OPTIONS: &'static str = " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE /*M!100600 utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */ ROW_FORMAT=DYNAMIC";
    const BEGIN: &'static str = "START TRANSACTION READ WRITE";
    // Half of what servers take in one packet unless told otherwise.
    const MAX_STATEMENT_BYTES: usize = 8 << 20;
    const ANSWERS_ROWS: bool = false;
    const TABLES_IN_UNIT: bool = false;
    const KEY_TYPES: bool = true;
    // Absent values lie before all others there anyhow.
    const SORT: (&'static str, &'static str) = (" ASC", " DESC");
    const DROP_INDEX_ON: bool = true;
    const SKIP_LOCKED: &'static str = " FOR UPDATE SKIP LOCKED";
    const FOR_UPDATE: &'static str = " FOR UPDATE";
    const NOW: &'static str = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))";
    const EXACT_JSON: bool = false;

    fn capability(&self) -> StoreCapability {
        StoreCapability::new(self.durable, true)
    }
    fn readers(&self) -> usize {
        0
    }
    fn writers(&self) -> usize {
        self.settings.connections
    }
    fn wait(&self) -> Duration {
        self.settings.wait
    }
    fn statement_bytes(&self) -> usize {
        self.settings.statement_bytes(Self::MAX_STATEMENT_BYTES)
    }
    fn names(&self) -> &Names {
        &self.names
    }
    fn limit(&self) -> Option<Duration> {
        Some(self.settings.limit)
    }
    fn clock(&self) -> &dyn Clock {
        &*self.settings.clock
    }
    fn pause(&self, tries: u32) -> Duration {
        self.pauses.next(tries)
    }

    fn placeholder(out: &mut String, _n: usize) {
        out.push('?');
    }
    fn quote(out: &mut String, name: &str) {
        out.push('`');
        out.push_str(&name.replace('`', "``"));
        out.push('`');
    }
    fn column_type(ty: FieldType, key: bool) -> &'static str {
        match (ty, key) {
            (FieldType::Bool, _) => "BOOLEAN",
            (FieldType::Int | FieldType::Timestamp, _) => "BIGINT",
            (FieldType::Float, _) => "DOUBLE",
            // `crm_core::record::MAX_KEY_CHARS`: two of them and a tenant fit into an index.
            (FieldType::Text, true) => "VARCHAR(320)",
            (FieldType::Text, false) => "MEDIUMTEXT",
            (FieldType::Json, _) => "LONGTEXT",
            (FieldType::Bytes, _) => "MEDIUMBLOB",
            (FieldType::Uuid, _) => "BINARY(16)",
        }
    }
    fn tenant_type() -> &'static str {
        "VARCHAR(64)"
    }

    fn json_is(sql: &mut Sql, column: &str, path: &[String], ty: JsonType) {
        sql.push("IFNULL(JSON_TYPE(");
        below(sql, column, path);
        sql.push(match ty {
            JsonType::Text => "), '') = 'STRING'",
            JsonType::Number => "), '') IN ('INTEGER', 'UNSIGNED INTEGER', 'DOUBLE', 'DECIMAL')",
            JsonType::Bool => "), '') = 'BOOLEAN'",
        });
    }
    fn json_value(sql: &mut Sql, column: &str, path: &[String], ty: JsonType) {
        match ty {
            JsonType::Bool => {
                sql.push("(JSON_UNQUOTE(");
                below(sql, column, path);
                sql.push(") = 'true')");
            }
            // As bytes: the collation of what JSON functions give is not the column's.
            JsonType::Text | JsonType::Number => {
                sql.push("CAST(JSON_UNQUOTE(");
                below(sql, column, path);
                sql.push(") AS BINARY)");
            }
        }
    }
    fn json_whole(sql: &mut Sql, column: &str, path: &[String]) {
        sql.push("IFNULL(JSON_TYPE(");
        below(sql, column, path);
        sql.push("), '') IN ('INTEGER', 'UNSIGNED INTEGER')");
    }
    fn json_number(sql: &mut Sql, column: &str, path: &[String], whole: bool) {
        sql.push(if whole {
            "CAST(JSON_UNQUOTE("
        } else {
            "(JSON_UNQUOTE("
        });
        below(sql, column, path);
        sql.push(if whole { ") AS DECIMAL(20, 0))" } else { ") + 0e0)" });
    }
    fn json_absent(sql: &mut Sql, column: &str, path: &[String]) {
        sql.push("IFNULL(JSON_TYPE(");
        below(sql, column, path);
        sql.push("), 'NULL') = 'NULL'");
    }
    fn json_has(sql: &mut Sql, column: &str, path: &[String], text: &str) {
        sql.push("(IFNULL(JSON_TYPE(");
        below(sql, column, path);
        // Not EXISTS: MySQL 9 makes a join of it, and then counts a row once for each of its items.
        sql.push("), '') = 'ARRAY' AND 0 < (SELECT COUNT(*) FROM JSON_TABLE(");
        below(sql, column, path);
        sql.push(", '$[*]' COLUMNS (v JSON PATH '$')) AS item WHERE JSON_TYPE(item.v) = 'STRING' AND CAST(JSON_UNQUOTE(item.v) AS BINARY) = ")
            .bind(text.into())
            .push("))");
    }
    fn json_document(sql: &mut Sql, column: &str, path: &[String]) {
        below(sql, column, path);
    }
    fn contains(sql: &mut Sql, value: &mut dyn FnMut(&mut Sql), part: &str) {
        sql.push("LOCATE(").bind(part.into()).push(", ");
        value(sql);
        sql.push(") > 0");
    }
    fn month(sql: &mut Sql, column: &str) {
        // Whole days since the year 0, rounded down. Dates begin with the year 1 there: the year 0 is like the year 400.
        let day = |sql: &mut Sql| {
            sql.push("719528 + (")
                .name(column)
                .push(" - ((")
                .name(column)
                .push(" % 86400000000) + 86400000000) % 86400000000) DIV 86400000000");
        };
        sql.push("CASE WHEN ")
            .name(column)
            .push(" IS NULL THEN NULL WHEN ")
            .name(column);
        sql.push(" BETWEEN -62167219200000000 AND -62135596800000001 THEN CONCAT('0000-', DATE_FORMAT(FROM_DAYS(146097 + ");
        day(sql);
        sql.push("), '%m')) WHEN ").name(column);
        sql.push(" BETWEEN -62135596800000000 AND 253402300799999999 THEN DATE_FORMAT(FROM_DAYS(");
        day(sql);
        sql.push("), '%Y-%m') ELSE '' END");
    }

    fn part(sql: &mut Sql, table: &'static str, part: Part<'_>, names: &Names) {
        let prefixed = |name: &str| Value::Text(format!("{}{name}", names.prefix()));
        let (from, column, name) = match part {
            Part::Table => ("tables", None, Value::Null),
            Part::Column(name) => ("columns", Some("column_name"), Value::from(name)),
            Part::Index(name) => ("statistics", Some("index_name"), prefixed(name)),
        };
        sql.push("SELECT 1 FROM information_schema.").push(from);
        sql.push(" WHERE table_schema = DATABASE() AND table_name = ")
            .bind(prefixed(table));
        if let Some(column) = column {
            sql.push(" AND ").push(column).push(" = ").bind(name);
        }
        sql.push(" LIMIT 1");
    }

    async fn connect(&self, _role: Role) -> Result<MysqlLink> {
        self.connected()
            .await
            .map_err(|fault| fault.into_error().operation("store.open"))
    }

    async fn usable(&self, link: &mut MysqlLink) -> bool {
        if link.used.elapsed() < IDLE {
            return true;
        }
        let Ok(connection) = link.wire.own() else {
            return false;
        };
        let asked = run(connection, "SELECT 1".to_owned());
        matches!(
            tokio::time::timeout(Duration::from_secs(1), asked).await,
            Ok(Ok(_))
        )
    }

    fn release(&self, mut link: MysqlLink) -> Option<MysqlLink> {
        if link.wire.give_back() {
            return None;
        }
        link.used = Instant::now();
        Some(link)
    }

    async fn bound(link: &mut MysqlLink, limit: Option<Duration>) -> Result<(), Fault> {
        // The host's sessions keep the host's settings.
        if !link.wire.is_own() {
            return Ok(());
        }
        let limit = super::milliseconds(limit, link.limit);
        if limit != link.limit {
            // MariaDB counts seconds and stops everything, MySQL milliseconds and stops questions.
            let text = if link.maria {
                format!(
                    "SET SESSION max_statement_time = {}.{:03}",
                    limit / 1000,
                    limit % 1000
                )
            } else {
                format!("SET SESSION max_execution_time = {limit}")
            };
            run(link.wire.own()?, text).await?;
            link.limit = limit;
        }
        Ok(())
    }

    /// Held by the connection: it is free again when this process dies.
    async fn lock(&self, link: &mut MysqlLink) -> Result<(), Fault> {
        let row = sqlx::query("SELECT GET_LOCK(?, 600)")
            .bind(self.lock_name())
            .fetch_one(link.wire.own()?)
            .await
            .map_err(|e| classify(&e))?;
        match row.try_get_unchecked::<Option<i64>, _>(0) {
            Ok(Some(1)) => Ok(()),
            _ => Err(Fault::Other(Error::new(
                ErrorKind::Unavailable,
                "another migration of this database did not end within 10 minutes",
            ))),
        }
    }

    async fn unlock(&self, link: &mut MysqlLink) -> Result<(), Fault> {
        let freed = sqlx::query("SELECT RELEASE_LOCK(?)")
            .bind(self.lock_name())
            .fetch_optional(link.wire.own()?)
            .await;
        // A lock that may still be held must not go back with its connection.
        freed.map(|_| ()).map_err(|e| match classify(&e) {
            Fault::Lost(error) | Fault::Other(error) | Fault::Again(error) => Fault::Lost(error),
            taken @ Fault::Taken(_) => taken,
        })
    }

    async fn execute(link: &mut MysqlLink, sql: Sql) -> Result<u64, Fault> {
        match &mut link.wire {
            Wire::Guest(guest) => guest.execute(sql).await,
            wire => execute(wire.own()?, sql).await,
        }
    }

    async fn query(link: &mut MysqlLink, sql: Sql, types: &[FieldType]) -> Result<Vec<Vec<Value>>, Fault> {
        match &mut link.wire {
            Wire::Guest(guest) => guest.query(sql, types).await,
            wire => query(wire.own()?, sql, types).await,
        }
    }
}

impl Mysql {
    /// Names of locks are the server's, up to 64 characters long.
    fn lock_name(&self) -> String {
        use sha2::Digest as _;
        let place = sha2::Sha256::digest(format!("{}/{}", self.database, self.names.prefix()));
        place
            .iter()
            .take(16)
            .fold("open-crm-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_columns_are_found_in_messages() {
        assert_eq!(taken("Duplicate entry 'x-1' for key 'crm_name'"), "crm_name");
        assert_eq!(
            taken("Duplicate entry 'x' for key 'y'' for key 'crm_t.crm_name'"),
            "crm_name"
        );
        assert_eq!(taken("Duplicate entry 'x' for key 'PRIMARY'"), "PRIMARY");
        assert_eq!(column("Data too long for column 'name' at row 1"), "name");
    }
}
