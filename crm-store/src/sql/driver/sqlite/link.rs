//! A SQLite connection on a thread of its own. SQLite works on the thread that calls it, and may wait there for the disk or
//! a lock, which an async caller's thread must not. A question is one trip to that thread and back, however many rows it
//! answers: they are read there, straight out of SQLite's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use crm_core::record::{FieldType, Record, Value};
use crm_core::{Column, Error, ErrorKind, Timestamp, Uuid};
use rusqlite::config::DbConfig;
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

type Work = Box<dyn FnOnce(&Session<'_>) + Send>;

/// What a connection is asked to do.
pub(in crate::sql) enum Job {
    Work(Work),
    /// Close, and say when that failed.
    Close(oneshot::Sender<rusqlite::Result<()>>),
}

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
        let prepare = move || -> rusqlite::Result<Connection> {
            let connection = open()?;
            connection.progress_handler(STEPS, Some(move || stopped.load(Ordering::Relaxed)))?;
            connection.set_prepared_statement_cache_capacity(STATEMENTS);
            // A prepared question stays as it was planned. Else SQLite plans it anew whenever another value is bound to its
            // LIMIT, which costs more than to answer it.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
            Ok(connection)
        };
        let started = thread::Builder::new()
            .name("crm-sqlite".to_owned())
            .spawn(move || match prepare() {
                Ok(connection) => {
                    let _ = tell.send(Ok(()));
                    attend(connection, &inbox);
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
        work: impl FnOnce(&Session<'_>) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (tell, told) = oneshot::channel();
        let work: Work = Box::new(move |session| {
            // Whoever asked may have gone before it began.
            if !tell.is_closed() {
                let _ = tell.send(work(session));
            }
        });
        self.jobs.send(Job::Work(work)).map_err(|_| Failure::Thread)?;
        told.await.map_err(|_| Failure::Thread)
    }

    /// Closes the connection and says when that failed; else the end of the link closes it.
    pub(in crate::sql) async fn close(self) -> Result<(), Failure> {
        let (tell, told) = oneshot::channel();
        self.jobs.send(Job::Close(tell)).map_err(|_| Failure::Thread)?;
        Ok(told.await.map_err(|_| Failure::Thread)??)
    }

    /// The way to a connection of somebody else's, and where its jobs come out.
    #[cfg(feature = "unstable-raw")]
    pub(in crate::sql) fn guest() -> (Self, mpsc::Receiver<Job>) {
        let (jobs, inbox) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        (Self { jobs, stop }, inbox)
    }

    /// Has a statement done.
    pub(in crate::sql) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Session<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        match self.on(work).await {
            Ok(done) => done,
            Err(failure) => Err(failure.fault()),
        }
    }
}

/// The life of a connection's thread.
fn attend(connection: Connection, inbox: &mpsc::Receiver<Job>) {
    let session = Session {
        connection: &connection,
    };
    let close = loop {
        match inbox.recv() {
            Ok(Job::Work(work)) => work(&session),
            Ok(Job::Close(tell)) => break tell,
            Err(_) => return,
        }
    };
    let _ = close.send(connection.close().map_err(|(_, error)| error));
}

/// Carries out work on a guest link to its end, its jobs on this thread.
///
/// # Errors
/// The work's; [`ErrorKind::Unexpected`] when it waits for anything but its jobs.
#[cfg(feature = "unstable-raw")]
pub(in crate::sql) fn serve<T>(
    connection: &Connection,
    inbox: &mpsc::Receiver<Job>,
    work: impl Future<Output = crm_core::Result<T>>,
) -> crm_core::Result<T> {
    use std::task::{Context, Poll, Waker};
    let session = Session { connection };
    let mut work = std::pin::pin!(work);
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
        match inbox.try_recv() {
            Ok(Job::Work(job)) => job(&session),
            _ => return Err(Error::unexpected("a unit of work waits for nothing")),
        }
    }
}

/// A connection, seen from its thread.
pub(in crate::sql) struct Session<'c> {
    connection: &'c Connection,
}

impl<'c> Session<'c> {
    /// The connection itself.
    pub(in crate::sql) fn connection(&self) -> &'c Connection {
        self.connection
    }

    fn prepared(&self, text: &str, binds: &[Value]) -> rusqlite::Result<CachedStatement<'c>> {
        // The text is made by `compile` alone: fixed words, quoted names of `&'static` schemas, placeholders.
        let mut statement = self.connection.prepare_cached(text)?;
        bind(&mut statement, binds)?;
        Ok(statement)
    }

    /// Runs a statement: how many rows it changed.
    pub(super) fn execute(&self, sql: Sql) -> Result<u64, Fault> {
        let (text, binds) = sql.into_parts();
        let done = self
            .prepared(&text, &binds)
            .and_then(|mut statement| exhaust(&mut statement.raw_query()))
            .map(|()| self.connection.changes());
        done.map_err(|error| classify(&error))
    }

    /// Runs a question and reads its rows as these types.
    pub(super) fn query(&self, sql: Sql, types: &[FieldType]) -> Result<Vec<Vec<Value>>, Fault> {
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
        &self,
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
    pub(super) fn insert_each(&self, sql: Sql, rows: &[(Uuid, Record)]) -> (usize, Option<Fault>) {
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
    pub(super) fn pipeline(&self, statements: Vec<Sql>) -> (Vec<u64>, Option<Fault>) {
        let mut changed = Vec::with_capacity(statements.len());
        let failed = self.each(statements, &mut changed).err();
        (changed, failed.map(|error| classify(&error)))
    }

    fn each(&self, statements: Vec<Sql>, changed: &mut Vec<u64>) -> rusqlite::Result<()> {
        let mut at: Option<(String, CachedStatement<'c>)> = None;
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
            changed.push(self.connection.changes());
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
