//! PostgreSQL 13 or later.
//!
//! Text is compared byte by byte (`COLLATE "C"`), JSON keeps its text (`json`, not `jsonb`, which forgets that a number
//! was a float), and the types of all parameters are inferred by the server, so that a statement means the same whether
//! a value is absent or not. Isolation is READ COMMITTED: nothing here relies on more than unique keys, versions and
//! single statements with their conditions, and so there are few conflicts to try again after.

use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::StoreCapability;
use crm_core::record::{FieldType, Value};
use crm_core::{Clock, Error, ErrorKind, Result, Timestamp, Uuid};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{
    PgArgumentBuffer, PgArguments, PgConnectOptions, PgConnection, PgRow, PgSslMode, PgTypeInfo,
};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Executor, Row, SqlSafeStr, ValueRef};

use tokio::time::Instant;

use super::super::compile::Sql;
#[cfg(feature = "unstable-raw")]
use super::guest::{Asked, Guest};
use super::server::{Pauses, Place, Settings, Tls, place, settings_methods, weak};
use super::wire::Wire;
use super::{Dialect, Driver, Fault, JsonType, Key, Names, Role};

/// How a PostgreSQL database is used. [`PostgresConfig::default`] is right for most.
#[derive(Debug, Clone)]
pub struct PostgresConfig(Settings);

impl Default for PostgresConfig {
    fn default() -> Self {
        Self(Settings::new("postgres"))
    }
}

impl PostgresConfig {
    settings_methods!();

    /// Sets the schema the tables are in; it must be there. The first of the connection's search path unless set.
    #[must_use]
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.0.schema = schema.into();
        self
    }
}

/// The PostgreSQL driver; used through [`crate::PostgresStore`].
#[derive(Debug)]
pub struct Postgres {
    source: Source,
    settings: Settings,
    names: Names,
    pauses: Pauses,
    durable: bool,
}

/// Where connections come from. Not shown: there is a password in it.
enum Source {
    Url(Box<PgConnectOptions>),
    #[cfg(feature = "unstable-raw")]
    Pool(sqlx::PgPool),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("..")
    }
}

/// A connection and what it was told.
pub struct PostgresLink {
    wire: Wire<sqlx::Postgres>,
    /// Milliseconds after which the server stops a statement; 0 for never.
    limit: u64,
    used: Instant,
}

impl std::fmt::Debug for PostgresLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresLink")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// Idle this long, a connection is asked whether it is still there before it is used.
const IDLE: Duration = Duration::from_secs(5);

/// SQLSTATE codes (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
fn classify(error: &sqlx::Error) -> Fault {
    use ErrorKind::{Corrupt, PermissionDenied, Timeout, Unauthenticated, Unavailable};
    let new = Error::new;
    let tls = || {
        Fault::Lost(
            Error::config(
                "no TLS connection to PostgreSQL; check the certificate, its authority and the host",
            )
            .with("setting", "tls"),
        )
    };
    let Some(database) = error.as_database_error() else {
        return match error {
            // What TLS refuses comes as a fault of the data.
            sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => tls(),
            sqlx::Error::Io(io) => Fault::Lost(
                new(
                    Unavailable,
                    "the connection to PostgreSQL is lost or cannot be made",
                )
                .with("io", io.kind()),
            ),
            sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                Fault::Lost(new(Unavailable, "the connection to PostgreSQL broke"))
            }
            sqlx::Error::Tls(_) => tls(),
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => {
                Fault::Other(new(Corrupt, "a stored value is not what its schema says"))
            }
            sqlx::Error::PoolTimedOut => {
                Fault::Other(new(Unavailable, "the pool had no free connection in time"))
            }
            sqlx::Error::PoolClosed => Fault::Other(new(Unavailable, "the pool is closed")),
            _ => Fault::Other(Error::unexpected("the PostgreSQL driver failed")),
        };
    };
    let code = database.code().unwrap_or_default().into_owned();
    let told = |error: Error| error.with("sqlstate", &code);
    let class = code.get(..2).unwrap_or_default();
    let error = match (&*code, class) {
        ("23505", _) => {
            return Fault::Taken(Key::Index(database.constraint().unwrap_or_default().to_owned()));
        }
        ("40001" | "40P01", _) => {
            return Fault::Again(told(new(
                Unavailable,
                "PostgreSQL gave this unit of work up in favour of another one",
            )));
        }
        ("57P01" | "57P02" | "57P03" | "57P05", _) | (_, "08") => {
            return Fault::Lost(told(new(
                Unavailable,
                "PostgreSQL closed the connection or is not ready for one",
            )));
        }
        ("57014", _) => new(
            Timeout,
            "PostgreSQL stopped the statement: it took longer than it may",
        ),
        ("55P03", _) => new(Unavailable, "a lock was not free in time"),
        ("53100", _) => new(Unavailable, "the server's disk is full"),
        ("53300", _) => new(
            Unavailable,
            "the server has no connection left; use fewer, or let it have more",
        ),
        (_, "53" | "57" | "58") => new(Unavailable, "the server cannot serve now"),
        ("25006", _) => new(Unavailable, "the server only reads; is it a standby?"),
        ("54000", _) => Error::invalid("the texts of an index are too long together for PostgreSQL"),
        (_, "54") => Error::invalid("a value or statement is larger than PostgreSQL allows"),
        ("22003", _) => Error::invalid("a number or sum does not fit"),
        (_, "22" | "23") => Error::invalid("a value does not fit its column"),
        ("42P01" | "42703" | "3F000", _) => {
            Error::config("the schema is not in this database; call migrate first")
        }
        ("3D000", _) => Error::config("there is no such database").with("setting", "url"),
        ("42501", _) => new(PermissionDenied, "the database user may not do this"),
        (_, "28") => new(Unauthenticated, "PostgreSQL does not know this user or password"),
        (_, "XX") => new(Corrupt, "PostgreSQL reports damage or a fault of its own"),
        _ => Error::unexpected("PostgreSQL refused the statement"),
    };
    Fault::Other(told(error))
}

impl Postgres {
    /// Reads URL and configuration, and asks the server whether it keeps what it acknowledges.
    pub(crate) async fn open(url: &str, config: PostgresConfig) -> Result<Self> {
        let mut settings = config.0;
        let place = place(url, &["postgres", "postgresql"], 5432, &mut settings)?;
        let mut driver = Self {
            source: Source::Url(Box::new(options(&place, &settings))),
            names: settings.names()?,
            pauses: Pauses::new(settings.seed),
            durable: true,
            settings,
        };
        let opened = tokio::time::timeout(driver.settings.limit, driver.connected()).await;
        let mut link = opened
            .map_err(|_| Error::new(ErrorKind::Timeout, "PostgreSQL did not answer in time"))?
            .map_err(Fault::into_error)?;
        driver.durable = durable(link.wire.own().map_err(Fault::into_error)?, driver.settings.weak).await?;
        Ok(driver)
    }

    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    async fn connected(&self) -> Result<PostgresLink, Fault> {
        let mut connection = match &self.source {
            Source::Url(options) => options.connect().await.map_err(|e| classify(&e))?,
            #[cfg(feature = "unstable-raw")]
            Source::Pool(pool) => {
                let connection = pool.acquire().await.map_err(|e| classify(&e))?;
                return Ok(PostgresLink {
                    wire: Wire::Pooled(Some(connection)),
                    limit: 0,
                    used: Instant::now(),
                });
            }
        };
        // A session may be told to be less careful than the server: this one is not. Questions here ask for few records by
        // their keys: the price of a page somewhere is that of memory and flash disks, not of a turning one, so that
        // tables are not read whole for them. Texts that are compressed are so with LZ4 where the server has it (from 14 on):
        // at a tenth of the price.
        run(
            &mut connection,
            "DO $$ BEGIN IF current_setting('synchronous_commit') = 'off' THEN SET synchronous_commit = on; END IF; \
             IF current_setting('random_page_cost')::float8 > 1.1 THEN SET random_page_cost = 1.1; END IF; \
             IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) \
             THEN SET default_toast_compression = 'lz4'; END IF; END $$"
                .to_owned(),
        )
        .await?;
        Ok(PostgresLink {
            wire: Wire::Own(connection),
            limit: 0,
            used: Instant::now(),
        })
    }
}

fn options(place: &Place, settings: &Settings) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass()
        .host(&place.host)
        .port(place.port)
        .username(&place.user)
        .database(&place.database)
        .application_name("open-crm")
        .statement_cache_capacity(256)
        .disable_statement_logging();
    let options = match &place.password {
        Some(password) => options.password(password.expose()),
        None => options,
    };
    match &settings.tls {
        Tls::Auto if place.is_local() => options.ssl_mode(PgSslMode::Prefer),
        Tls::Auto | Tls::Required => options.ssl_mode(PgSslMode::Require),
        Tls::Off => options.ssl_mode(PgSslMode::Disable),
        Tls::Verified { ca } => {
            let options = options.ssl_mode(PgSslMode::VerifyFull);
            match ca {
                Some(ca) => options.ssl_root_cert(ca),
                None => options,
            }
        }
    }
}

/// Whether the server keeps what it acknowledges, through its own crash and the machine's.
async fn durable(connection: &mut PgConnection, accept: bool) -> Result<bool> {
    for (setting, wanted) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
    ] {
        let row = sqlx::query("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(&mut *connection)
            .await
            .map_err(|e| classify(&e).into_error())?;
        let found: String = row.try_get(0).map_err(|e| classify(&e).into_error())?;
        // `local`, `remote_write` and `remote_apply` flush here as `on` does; they differ in what a standby has done.
        let enough = found == wanted || (setting == "synchronous_commit" && found != "off");
        if !enough {
            let error = weak(setting, wanted, &found);
            if !accept {
                return Err(error);
            }
            tracing::warn!(setting, found, "PostgreSQL can lose what it acknowledged");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Runs fixed text without values.
async fn run(connection: &mut PgConnection, text: String) -> Result<u64, Fault> {
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(text))).await;
    done.map(|done| done.rows_affected()).map_err(|e| classify(&e))
}

/// A value in the binary form of the type the server inferred.
struct Bound(Value);

impl sqlx::Type<sqlx::Postgres> for Bound {
    /// Unspecified: the server infers the type from where the parameter stands.
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl sqlx::Encode<'_, sqlx::Postgres> for Bound {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match &self.0 {
            Value::Null => return Ok(IsNull::Yes),
            Value::Bool(flag) => buffer.push(u8::from(*flag)),
            Value::Int(int) => buffer.extend_from_slice(&int.to_be_bytes()),
            Value::Float(float) => buffer.extend_from_slice(&float.to_be_bytes()),
            Value::Text(text) => buffer.extend_from_slice(text.as_bytes()),
            Value::Bytes(bytes) => buffer.extend_from_slice(bytes),
            Value::Timestamp(time) => buffer.extend_from_slice(&time.as_micros().to_be_bytes()),
            Value::Uuid(id) => buffer.extend_from_slice(id.as_bytes()),
            Value::Json(json) => serde_json::to_writer(&mut **buffer, json)?,
        }
        Ok(IsNull::No)
    }
}

fn prepared(sql: Sql) -> Result<(sqlx::SqlStr, PgArguments), Fault> {
    let (text, binds) = sql.into_parts();
    let mut arguments = PgArguments::default();
    arguments.reserve(binds.len(), binds.len() * 24);
    for value in binds {
        arguments
            .add(Bound(value))
            .map_err(|_| Fault::Other(Error::unexpected("a value could not be bound")))?;
    }
    // The text is made by `compile` alone: fixed words, quoted names of `&'static` schemas, placeholders.
    Ok((AssertSqlSafe(text).into_sql_str(), arguments))
}

fn read(row: &PgRow, column: usize, ty: FieldType) -> Result<Value, Fault> {
    let damaged = || {
        Fault::Other(
            Error::new(ErrorKind::Corrupt, "a stored value is not what its schema says")
                .with("column", column),
        )
    };
    let raw = row.try_get_raw(column).map_err(|_| damaged())?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let bytes = raw.as_bytes().map_err(|_| damaged())?;
    let int = || match *bytes {
        [a, b] => Ok(i64::from(i16::from_be_bytes([a, b]))),
        [a, b, c, d] => Ok(i64::from(i32::from_be_bytes([a, b, c, d]))),
        _ => bytes.try_into().map(i64::from_be_bytes).map_err(|_| damaged()),
    };
    let text = || std::str::from_utf8(bytes).map_err(|_| damaged());
    Ok(match ty {
        FieldType::Bool => Value::Bool(bytes == [1]),
        FieldType::Int => Value::Int(int()?),
        FieldType::Float => Value::Float(bytes.try_into().map(f64::from_be_bytes).map_err(|_| damaged())?),
        FieldType::Text => Value::Text(text()?.to_owned()),
        FieldType::Bytes => Value::Bytes(bytes.to_vec()),
        FieldType::Timestamp => Value::Timestamp(Timestamp::from_micros(int()?)),
        FieldType::Uuid => Value::Uuid(Uuid::from_slice(bytes).map_err(|_| damaged())?),
        FieldType::Json => Value::Json(serde_json::from_slice(bytes).map_err(|_| damaged())?),
    })
}

/// The value below a JSON column, as JSON; null when it is not there. Keys reach into objects only.
fn below(sql: &mut Sql, column: &str, path: &[String]) {
    sql.push("(").name(column);
    for key in path {
        sql.push(" -> ").bind(key.as_str().into()).push("::text");
    }
    sql.push(")");
}

async fn execute(connection: &mut PgConnection, sql: Sql) -> Result<u64, Fault> {
    if sql.binds() == 0 {
        return run(connection, sql.into_parts().0).await;
    }
    let (text, arguments) = prepared(sql)?;
    let done = sqlx::query_with(text, arguments).execute(connection).await;
    done.map(|done| done.rows_affected()).map_err(|e| classify(&e))
}

async fn query(
    connection: &mut PgConnection,
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
impl Postgres {
    /// A store on connections of the host's pool.
    pub(crate) async fn from_pool(pool: sqlx::PgPool, config: PostgresConfig) -> Result<Self> {
        let settings = config.0;
        let mut driver = Self {
            source: Source::Pool(pool),
            names: settings.names()?,
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
    pub(in crate::sql) fn guest() -> (PostgresLink, tokio::sync::mpsc::Receiver<Asked>) {
        let (guest, asked) = Guest::new();
        let link = PostgresLink {
            wire: Wire::Guest(guest),
            limit: 0,
            used: Instant::now(),
        };
        (link, asked)
    }

    /// Carries out on the host's connection what its stand-in is told, until that is gone.
    pub(in crate::sql) async fn serve(
        connection: &mut PgConnection,
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

impl Driver for Postgres {}

#[async_trait]
impl Dialect for Postgres {
    type Connection = PostgresLink;

    const MAX_BINDS: usize = 65_535;
    const TABLE_OPTIONS: &'static str = "";
    const BEGIN: &'static str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
    const MAX_STATEMENT_BYTES: usize = 64 << 20;
    const INDEX_HAS_ID: bool = false;
    const GOES_ON: bool = false;
    // As questions order, so that an index answers them in order.
    const INDEX_SORT: &'static str = " ASC NULLS FIRST";
    const SKIP_LOCKED: &'static str = " FOR UPDATE SKIP LOCKED";
    const FOR_UPDATE: &'static str = " FOR UPDATE";
    // A tenant that came after the last ANALYZE is planned as one without rows: then any index looks as good as the one
    // that fits the question, and all rows of the tenant are read. What a subquery answers is planned as the average.
    const TENANT: (&'static str, &'static str) = ("(SELECT ", ")");
    const UPDATES_TOGETHER: bool = true;
    const NOW: &'static str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    const EXACT_JSON: bool = false;
    // Beside an exact number the type of a parameter would be inferred as that.
    const JSON_WHOLE: &'static str = "::bigint";

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

    fn placeholder(out: &mut String, n: usize) {
        out.push('$');
        out.push_str(&n.to_string());
    }
    fn quote(out: &mut String, name: &str) {
        out.push('"');
        out.push_str(&name.replace('"', "\"\""));
        out.push('"');
    }
    fn column_type(ty: FieldType, _key: bool) -> &'static str {
        match ty {
            FieldType::Bool => "BOOLEAN",
            FieldType::Int | FieldType::Timestamp => "BIGINT",
            FieldType::Float => "DOUBLE PRECISION",
            FieldType::Text => "TEXT COLLATE \"C\"",
            FieldType::Bytes => "BYTEA",
            FieldType::Uuid => "UUID",
            FieldType::Json => "JSON",
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
    fn aggregate(sql: &mut Sql, function: &'static str, field: &str, ty: FieldType) {
        match (function, ty) {
            // A sum of integers is exact there; the cast refuses what does not fit.
            ("sum", FieldType::Int) => sql.push("sum(").name(field).push(")::bigint"),
            ("min", FieldType::Bool) => sql.push("bool_and(").name(field).push(")"),
            ("max", FieldType::Bool) => sql.push("bool_or(").name(field).push(")"),
            // The text of a UUID has the order of its bytes.
            (_, FieldType::Uuid) => sql
                .push(function)
                .push("(")
                .name(field)
                .push("::text COLLATE \"C\")::uuid"),
            _ => sql.push(function).push("(").name(field).push(")"),
        };
    }

    fn json_is(sql: &mut Sql, column: &str, path: &[String], ty: JsonType) {
        sql.push("coalesce(json_typeof(");
        below(sql, column, path);
        sql.push(match ty {
            JsonType::Text => "), '') = 'string'",
            JsonType::Number => "), '') = 'number'",
            JsonType::Bool => "), '') = 'boolean'",
        });
    }
    fn json_value(sql: &mut Sql, column: &str, path: &[String], ty: JsonType) {
        sql.push("((");
        below(sql, column, path);
        sql.push(match ty {
            JsonType::Bool => "::text) = 'true')",
            JsonType::Text | JsonType::Number => " #>> '{}') COLLATE \"C\")",
        });
    }
    fn json_whole(sql: &mut Sql, column: &str, path: &[String]) {
        sql.push("(");
        Self::json_is(sql, column, path, JsonType::Number);
        sql.push(" AND ");
        below(sql, column, path);
        sql.push("::text !~ '[.eE]')");
    }
    fn json_number(sql: &mut Sql, column: &str, path: &[String], whole: bool) {
        below(sql, column, path);
        sql.push(if whole {
            "::text::numeric"
        } else {
            "::text::double precision"
        });
    }
    fn json_absent(sql: &mut Sql, column: &str, path: &[String]) {
        sql.push("coalesce(json_typeof(");
        below(sql, column, path);
        sql.push("), 'null') = 'null'");
    }
    fn json_has(sql: &mut Sql, column: &str, path: &[String], text: &str) {
        sql.push("EXISTS (SELECT 1 FROM json_array_elements(CASE WHEN json_typeof(");
        below(sql, column, path);
        sql.push(") = 'array' THEN ");
        below(sql, column, path);
        sql.push(" ELSE '[]' END) AS item(value) WHERE json_typeof(item.value) = 'string' AND (item.value #>> '{}') = ")
            .bind(text.into())
            .push(")");
    }
    fn json_document(sql: &mut Sql, column: &str, path: &[String]) {
        below(sql, column, path);
    }
    fn contains(sql: &mut Sql, value: &mut dyn FnMut(&mut Sql), part: &str) {
        sql.push("strpos(");
        value(sql);
        sql.push(", ").bind(part.into()).push(") > 0");
    }
    fn month(sql: &mut Sql, column: &str) {
        // Whole seconds, rounded down also before 1970. The year 0 is 1 BC there.
        let seconds = |sql: &mut Sql| {
            sql.push("timestamp '1970-01-01' + (")
                .name(column)
                .push(" - ((")
                .name(column)
                .push(" % 1000000) + 1000000) % 1000000) / 1000000 * interval '1 second'");
        };
        sql.push("(CASE WHEN ")
            .name(column)
            .push(" IS NULL THEN NULL WHEN ")
            .name(column);
        sql.push(" BETWEEN -62167219200000000 AND -62135596800000001 THEN to_char(");
        seconds(sql);
        sql.push(", '\"0000\"-MM') WHEN ").name(column);
        sql.push(" BETWEEN -62135596800000000 AND 253402300799999999 THEN to_char(");
        seconds(sql);
        sql.push(", 'YYYY-MM') ELSE '' END) COLLATE \"C\"");
    }

    async fn connect(&self, _role: Role) -> Result<PostgresLink> {
        self.connected()
            .await
            .map_err(|fault| fault.into_error().operation("store.open"))
    }

    async fn usable(&self, link: &mut PostgresLink) -> bool {
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

    fn release(&self, mut link: PostgresLink) -> Option<PostgresLink> {
        if link.wire.give_back() {
            return None;
        }
        link.used = Instant::now();
        Some(link)
    }

    async fn bound(link: &mut PostgresLink, limit: Option<Duration>) -> Result<(), Fault> {
        // The host's sessions keep the host's settings.
        if !link.wire.is_own() {
            return Ok(());
        }
        let limit = super::milliseconds(limit, link.limit);
        if limit != link.limit {
            run(link.wire.own()?, format!("SET statement_timeout = {limit}")).await?;
            link.limit = limit;
        }
        Ok(())
    }

    /// Held by the unit of work, so it ends with it however it ends.
    async fn lock(&self, link: &mut PostgresLink) -> Result<(), Fault> {
        let name = format!("open-crm {} {}", self.names.schema(), self.names.prefix());
        run(link.wire.own()?, "SET LOCAL lock_timeout = '10min'".to_owned()).await?;
        let locked =
            sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended(current_database() || $1, 0))")
                .bind(name)
                .execute(link.wire.own()?)
                .await;
        locked.map(|_| ()).map_err(|e| classify(&e))
    }

    async fn execute(link: &mut PostgresLink, sql: Sql) -> Result<u64, Fault> {
        match &mut link.wire {
            Wire::Guest(guest) => guest.execute(sql).await,
            wire => execute(wire.own()?, sql).await,
        }
    }

    async fn query(link: &mut PostgresLink, sql: Sql, types: &[FieldType]) -> Result<Vec<Vec<Value>>, Fault> {
        match &mut link.wire {
            Wire::Guest(guest) => guest.query(sql, types).await,
            wire => query(wire.own()?, sql, types).await,
        }
    }
}
