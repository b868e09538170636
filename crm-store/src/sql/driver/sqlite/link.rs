//! A SQLite connection on a thread of its own. SQLite works on the thread that calls it, and may wait there for the disk or
//! a lock, which an async caller's thread must not. A question is one trip to that thread and back, however many rows it
//! answers: they are read there, straight out of SQLite's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use crm_core::record::{FieldType, Record, Value};
use crm_core::{Column, Error, ErrorKind, Timestamp, Uuid};
use rusqlite::types::{ToSqlOutput, Value as Owned, ValueRef};
use rusqlite::{CachedStatement, Connection, Rows, ToSql};
use tokio::sync::oneshot;

use super::super::super::compile::Sql;
use super::super::{Fault, json_text};
use super::classify;

/// Instructions of SQLite's machine between two looks at whether to stop: some ten microseconds.
const STEPS: i32 = 1000;
/// Statements that are kept prepared.
const STATEMENTS: usize = 256;

type Job = Box<dyn FnOnce(&mut Session) + Send>;

/// The way to a connection. Dropped, it stops what runs there and closes the connection: else a question that nobody waits
/// for any more would be worked on to its end.
pub struct Link {
    jobs: mpsc::Sender<Job>,
    stop: Arc<AtomicBool>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What the thread of a connection failed with.
#[derive(Debug)]
pub(in crate::sql) enum Failure {
    /// SQLite's own error.
    Sqlite(rusqlite::Error),
    /// The thread could not be started, or has ended.
    Thread,
}

impl Failure {
    /// What it means for a statement.
    pub(in crate::sql) fn fault(&self) -> Fault {
        match self {
            Self::Sqlite(error) => classify(error),
            Self::Thread => Fault::Lost(
                Error::new(
                    ErrorKind::Unavailable,
                    "the thread of a SQLite connection has ended",
                )
                .effect_unknown(),
            ),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Link {
    /// Starts a thread and opens a connection on it.
    pub(in crate::sql) async fn open(
        open: impl FnOnce() -> rusqlite::Result<Connection> + Send + 'static,
    ) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (tell, told) = oneshot::channel();
        let stopped = stop.clone();
        let started = thread::Builder::new()
            .name("crm-sqlite".to_owned())
            .spawn(move || match open().and_then(|own| Session::new(own, stopped)) {
                Ok(mut session) => {
                    let _ = tell.send(Ok(()));
                    for job in inbox {
                        job(&mut session);
                    }
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            });
        started.map_err(|_| Failure::Thread)?;
        told.await.map_err(|_| Failure::Thread)??;
        Ok(Self { jobs, stop })
    }

    /// Has this done on the connection's thread.
    pub(in crate::sql) async fn on<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (tell, told) = oneshot::channel();
        let job: Job = Box::new(move |session| {
            // Whoever asked may have gone before it began.
            if !tell.is_closed() {
                let _ = tell.send(work(session));
            }
        });
        self.jobs.send(job).map_err(|_| Failure::Thread)?;
        told.await.map_err(|_| Failure::Thread)
    }

    /// Has a statement done.
    pub(in crate::sql) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        match self.on(work).await {
            Ok(done) => done,
            Err(failure) => Err(failure.fault()),
        }
    }
}

/// A connection, seen from its thread.
pub(in crate::sql) struct Session {
    connection: Option<Connection>,
}

impl Session {
    fn new(connection: Connection, stop: Arc<AtomicBool>) -> rusqlite::Result<Self> {
        connection.progress_handler(STEPS, Some(move || stop.load(Ordering::Relaxed)))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(Self {
            connection: Some(connection),
        })
    }

    /// The connection itself.
    pub(in crate::sql) fn connection(&self) -> rusqlite::Result<&Connection> {
        self.connection.as_ref().ok_or(rusqlite::Error::InvalidQuery)
    }

    /// Closes the connection and says when that failed; else the end of the thread closes it.
    pub(in crate::sql) fn close(&mut self) -> rusqlite::Result<()> {
        match self.connection.take() {
            Some(connection) => connection.close().map_err(|(_, error)| error),
            None => Ok(()),
        }
    }

    fn prepared(&self, text: &str, binds: &[Value]) -> rusqlite::Result<CachedStatement<'_>> {
        // The text is made by `compile` alone: fixed words, quoted names of `&'static` schemas, placeholders.
        let mut statement = self.connection()?.prepare_cached(text)?;
        bind(&mut statement, binds)?;
        Ok(statement)
    }

    /// Runs a statement: how many rows it changed.
    pub(super) fn execute(&mut self, sql: Sql) -> Result<u64, Fault> {
        let (text, binds) = sql.into_parts();
        let done = self
            .prepared(&text, &binds)
            .and_then(|mut statement| exhaust(&mut statement.raw_query()))
            .and_then(|()| self.changed());
        done.map_err(|error| classify(&error))
    }

    /// How many rows the last statement that writes changed.
    pub(super) fn changed(&self) -> rusqlite::Result<u64> {
        self.connection().map(Connection::changes)
    }

    /// Runs a question and reads its rows as these types.
    pub(super) fn query(&mut self, sql: Sql, types: &[FieldType]) -> Result<Vec<Vec<Value>>, Fault> {
        let failed = |error| classify(&error);
        let (text, binds) = sql.into_parts();
        let mut statement = self.prepared(&text, &binds).map_err(failed)?;
        let mut rows = statement.raw_query();
        let mut answer = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let mut values = Vec::with_capacity(types.len());
            for (column, ty) in types.iter().enumerate() {
                let value = row.get_ref(column).map_err(failed)?;
                values.push(read(value, *ty).ok_or_else(|| damaged(column))?);
            }
            answer.push(values);
        }
        Ok(answer)
    }

    /// Runs a question whose first column is an id and adds the others to these columns.
    pub(super) fn columns(
        &mut self,
        sql: Sql,
        types: &[FieldType],
        whole: &[bool],
        columns: &mut [Column],
    ) -> Result<(usize, Option<Uuid>), Fault> {
        let failed = |error| classify(&error);
        let (text, binds) = sql.into_parts();
        let mut statement = self.prepared(&text, &binds).map_err(failed)?;
        let mut rows = statement.raw_query();
        let (mut count, mut last) = (0, None);
        while let Some(row) = rows.next().map_err(failed)? {
            count += 1;
            let id = row.get_ref(0).map_err(failed)?;
            last = read(id, FieldType::Uuid).and_then(|id| id.as_uuid());
            let kinds = types.iter().skip(1).zip(whole).zip(1..);
            for (column, ((ty, whole), at)) in columns.iter_mut().zip(kinds) {
                let value = row.get_ref(at).map_err(failed)?;
                if *ty == FieldType::Text {
                    column.push_text(text_of(value).ok_or_else(|| damaged(at))?);
                } else {
                    let value = read(value, *ty).ok_or_else(|| damaged(at))?;
                    column.push(json_text(value, *whole)).map_err(Fault::Other)?;
                }
            }
        }
        Ok((count, last))
    }

    /// Runs a statement once for each record; id and values come behind those of the statement itself, which stay. How many
    /// were done, and what the next one failed with.
    pub(super) fn insert_each(&mut self, sql: Sql, rows: &[(Uuid, Record)]) -> (usize, Option<Fault>) {
        let (text, same) = sql.into_parts();
        let mut done = 0;
        let mut all = || {
            let mut statement = self.prepared(&text, &same)?;
            for (id, record) in rows {
                statement.raw_bind_parameter(same.len() + 1, id.as_bytes().as_slice())?;
                let mut binds = (same.len() + 2..).zip(record.values());
                binds.try_for_each(|(at, value)| statement.raw_bind_parameter(at, Bound(value)))?;
                exhaust(&mut statement.raw_query())?;
                done += 1;
            }
            Ok(())
        };
        let failed = all().err();
        (done, failed.map(|error| classify(&error)))
    }

    /// Runs statements one after another up to the first that fails: how many rows each changed, and that failure.
    pub(super) fn pipeline(&mut self, statements: Vec<Sql>) -> (Vec<u64>, Option<Fault>) {
        let mut changed = Vec::with_capacity(statements.len());
        let failed = self.each(statements, &mut changed).err();
        (changed, failed.map(|error| classify(&error)))
    }

    fn each(&mut self, statements: Vec<Sql>, changed: &mut Vec<u64>) -> rusqlite::Result<()> {
        let mut at: Option<(String, CachedStatement<'_>)> = None;
        for sql in statements {
            let (text, binds) = sql.into_parts();
            let statement = match &mut at {
                Some((same, statement)) if *same == text => {
                    bind(statement, &binds)?;
                    statement
                }
                at => &mut at.insert((text.clone(), self.prepared(&text, &binds)?)).1,
            };
            exhaust(&mut statement.raw_query())?;
            changed.push(self.changed()?);
        }
        Ok(())
    }
}

fn exhaust(rows: &mut Rows<'_>) -> rusqlite::Result<()> {
    while rows.next()?.is_some() {}
    Ok(())
}

/// A value on its way into a statement; only JSON is written anew.
struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Bool(flag) => ValueRef::Integer(i64::from(*flag)),
            Value::Int(int) => ValueRef::Integer(*int),
            Value::Float(float) => ValueRef::Real(*float),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
            Value::Timestamp(time) => ValueRef::Integer(time.as_micros()),
            Value::Uuid(id) => ValueRef::Blob(id.as_bytes()),
            Value::Json(json) => return Ok(ToSqlOutput::Owned(Owned::Text(json.to_string()))),
        }))
    }
}

fn bind(statement: &mut CachedStatement<'_>, binds: &[Value]) -> rusqlite::Result<()> {
    let mut binds = (1_usize..).zip(binds);
    binds.try_for_each(|(at, value)| statement.raw_bind_parameter(at, Bound(value)))
}

fn damaged(column: usize) -> Fault {
    Fault::Other(
        Error::new(ErrorKind::Corrupt, "a stored value is not what its schema says").with("column", column),
    )
}

/// The text of a value, without a copy; the outer `None` when it is none.
#[expect(
    clippy::option_option,
    reason = "no text, and a value that is no text, are two things"
)]
fn text_of(value: ValueRef<'_>) -> Option<Option<&str>> {
    match value {
        ValueRef::Null => Some(None),
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok().map(Some),
        _ => None,
    }
}

/// A value as this type; `None` when it is not.
fn read(value: ValueRef<'_>, ty: FieldType) -> Option<Value> {
    Some(match (ty, value) {
        (_, ValueRef::Null) => Value::Null,
        (FieldType::Bool, ValueRef::Integer(int)) => Value::Bool(int != 0),
        (FieldType::Int, ValueRef::Integer(int)) => Value::Int(int),
        (FieldType::Float, ValueRef::Real(float)) => Value::Float(float),
        // A sum of no floats, or a float that was given as a whole number.
        (FieldType::Float, ValueRef::Integer(int)) => Value::Float(int as f64),
        (FieldType::Timestamp, ValueRef::Integer(int)) => Value::Timestamp(Timestamp::from_micros(int)),
        (FieldType::Text, ValueRef::Text(bytes)) => Value::Text(std::str::from_utf8(bytes).ok()?.to_owned()),
        (FieldType::Json, ValueRef::Text(bytes)) => Value::Json(serde_json::from_slice(bytes).ok()?),
        (FieldType::Bytes, ValueRef::Blob(bytes)) => Value::Bytes(bytes.to_vec()),
        (FieldType::Uuid, ValueRef::Blob(bytes)) => Value::Uuid(Uuid::from_slice(bytes).ok()?),
        _ => return None,
    })
}
