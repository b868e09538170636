//! Connections that are taken out to work and put back when the work is done. A call that is dropped halfway never puts
//! its connection back: the connection closes, and with it whatever it had begun. Nothing is spawned for that.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crm_core::record::{FieldType, Record, Value};
use crm_core::{Column, Error, ErrorKind, Result, Uuid};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::compile::{Control, Sql, control};
use super::driver::{Dialect, Fault, Role};

/// The connections of one role.
pub(crate) struct Lanes<D: Dialect> {
    driver: Arc<D>,
    role: Role,
    connections: usize,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<D::Connection>>,
}

impl<D: Dialect> Lanes<D> {
    pub(crate) fn new(driver: Arc<D>, role: Role, connections: usize) -> Arc<Self> {
        Arc::new(Self {
            driver,
            role,
            connections,
            permits: Arc::new(Semaphore::new(connections)),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Takes a connection, waiting for one as long as the driver's settings say.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Lane<D>> {
        self.take_for(self.driver.limit()).await
    }

    /// Takes a connection for work that may take this long, with the wait for the connection.
    pub(crate) async fn take_for(self: &Arc<Self>, limit: Option<Duration>) -> Result<Lane<D>> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let taken = within(deadline, self.taken(deadline)).await;
        taken.unwrap_or_else(|| Err(late("no connection to the database was made in time")))
    }

    /// Waits for the work that is under way, and closes every connection. Whoever asks for one from now on is refused.
    pub(crate) async fn close(&self) -> Result<()> {
        let all = u32::try_from(self.connections).unwrap_or(u32::MAX);
        // Closed already is closed.
        let held = self.permits.acquire_many(all).await;
        self.permits.close();
        drop(held);
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in idle {
            D::close(connection).await?;
        }
        Ok(())
    }

    async fn taken(self: &Arc<Self>, deadline: Option<Instant>) -> Result<Lane<D>> {
        let waited = tokio::time::timeout(self.driver.wait(), self.permits.clone().acquire_owned()).await;
        let permit = waited.map_err(|_| busy(self.driver.wait()))?;
        let permit =
            permit.map_err(|_| Error::new(ErrorKind::Unavailable, "the store is closed; open it again"))?;
        let connection = loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut connection) = idle else {
                break self.driver.connect(self.role).await?;
            };
            if self.driver.usable(&mut connection).await {
                break connection;
            }
        };
        let mut lane = Lane {
            lanes: self.clone(),
            connection,
            deadline,
            state: State::default(),
            _permit: Some(permit),
        };
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let bound = D::bound(&mut lane.connection, left).await;
        lane.heard(bound).map_err(Fault::into_error)?;
        Ok(lane)
    }
}

/// The error of a caller that waited too long for its turn.
pub(crate) fn busy(waited: Duration) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "no connection became free in time; too many calls at once",
    )
    .with("wait_ms", waited.as_millis())
}

/// What a future comes to before the deadline.
async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

fn late(message: &'static str) -> Error {
    Error::new(ErrorKind::Timeout, message)
}

/// What became of a connection at work.
#[derive(Debug, Default)]
struct State {
    /// It cannot be used any more.
    lost: bool,
    /// The database gave up the unit of work in favour of another one.
    again: bool,
}

/// A connection at work. Dropped without [`Lane::put_back`], it is closed.
pub(crate) struct Lane<D: Dialect> {
    lanes: Arc<Lanes<D>>,
    // Before the permit, so that the connection is given up before the next one is let in.
    connection: D::Connection,
    deadline: Option<Instant>,
    state: State,
    // None for a connection of the host's.
    _permit: Option<OwnedSemaphorePermit>,
}

impl<D: Dialect> Lane<D> {
    /// Work on a connection that stays with the host.
    #[cfg(feature = "unstable-raw")]
    pub(crate) fn guest(lanes: &Arc<Lanes<D>>, connection: D::Connection, limit: Option<Duration>) -> Self {
        Self {
            lanes: lanes.clone(),
            connection,
            deadline: limit.map(|limit| Instant::now() + limit),
            state: State::default(),
            _permit: None,
        }
    }

    /// Puts the connection back: only when nothing is open on it.
    pub(crate) fn put_back(self) {
        let Self {
            lanes,
            connection,
            state,
            _permit,
            ..
        } = self;
        if state.lost {
            return;
        }
        if let Some(connection) = lanes.driver.release(connection) {
            lanes
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
        }
    }

    /// Closes the connection and waits until that is done. What keeps it from being closed is not told: the caller has a
    /// failure of its own to tell.
    pub(crate) async fn shut(self) {
        let Self {
            connection, _permit, ..
        } = self;
        let _ = D::close(connection).await;
    }

    /// Whether the unit of work failed only because another one was in its way: it may be carried out again.
    pub(crate) fn may_try_again(&self) -> bool {
        self.state.again && !self.state.lost
    }

    /// The connection itself, and the driver.
    pub(crate) fn parts(&mut self) -> (&D, &mut D::Connection) {
        (&self.lanes.driver, &mut self.connection)
    }

    pub(crate) async fn execute(&mut self, sql: Sql) -> Result<u64, Fault> {
        let sql = sql.under(self.lanes.driver.names());
        let done = within(self.deadline, D::execute(&mut self.connection, sql)).await;
        let done = done.unwrap_or_else(|| Err(Fault::Lost(late("the database did not answer in time"))));
        self.heard(done)
    }

    pub(crate) async fn query(&mut self, sql: Sql, types: &[FieldType]) -> Result<Vec<Vec<Value>>, Fault> {
        let sql = sql.under(self.lanes.driver.names());
        let done = within(self.deadline, D::query(&mut self.connection, sql, types)).await;
        let done = done.unwrap_or_else(|| Err(Fault::Lost(late("the database did not answer in time"))));
        self.heard(done)
    }

    /// Remembers what an answer says about the connection and the unit of work.
    pub(crate) fn heard<T>(&mut self, answer: Result<T, Fault>) -> Result<T, Fault> {
        match &answer {
            Err(Fault::Lost(_)) => {
                self.state.lost = true;
                // The others were most likely cut by the same cause.
                self.lanes
                    .idle
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clear();
            }
            Err(Fault::Again(_)) => self.state.again = true,
            _ => {}
        }
        answer.map_err(|fault| self.lanes.driver.names().fault(fault))
    }

    pub(crate) async fn columns(
        &mut self,
        sql: Sql,
        types: &[FieldType],
        whole: &[bool],
        columns: &mut [Column],
    ) -> Result<(usize, Option<Uuid>), Fault> {
        let sql = sql.under(self.lanes.driver.names());
        let work = D::columns(&mut self.connection, sql, types, whole, columns);
        let done = within(self.deadline, work).await;
        let done = done.unwrap_or_else(|| Err(Fault::Lost(late("the database did not answer in time"))));
        self.heard(done)
    }

    /// Runs a statement once for each record: how many were done, and what the next one failed with.
    pub(crate) async fn insert_each(
        &mut self,
        sql: Sql,
        rows: Vec<(Uuid, Record)>,
    ) -> (usize, Option<Fault>) {
        let sql = sql.under(self.lanes.driver.names());
        let work = D::insert_each(&mut self.connection, sql, rows);
        let late = || (0, Some(Fault::Lost(late("the database did not answer in time"))));
        let (done, fault) = within(self.deadline, work).await.unwrap_or_else(late);
        match fault {
            Some(fault) => (done, self.heard::<()>(Err(fault)).err()),
            None => (done, None),
        }
    }

    /// Runs statements one after another up to the first that fails: how many rows each changed, and that failure.
    pub(crate) async fn pipeline(&mut self, statements: Vec<Sql>) -> (Vec<u64>, Option<Fault>) {
        let names = self.lanes.driver.names();
        let statements = statements.into_iter().map(|sql| sql.under(names)).collect();
        D::pipeline(&mut self.connection, statements).await
    }

    pub(crate) async fn step(&mut self, step: Control) -> Result<()> {
        let done = self.execute(control::<D>(step)).await;
        done.map(|_| ()).map_err(Fault::into_error)
    }

    pub(crate) async fn begin(&mut self) -> Result<()> {
        self.step(Control::Begin).await
    }

    /// Ends a unit of work: commits it when `done` is a success, gives it up when not.
    ///
    /// # Errors
    /// That of `done`; or the commit's, whose effect is unknown unless the database says that it had none.
    pub(crate) async fn end<T>(self, done: Result<T>) -> Result<T> {
        self.ended(done).await.0
    }

    /// [`Lane::end`], and whether the unit of work may be carried out again.
    pub(crate) async fn ended<T>(mut self, done: Result<T>) -> (Result<T>, bool) {
        match done {
            Ok(answer) => match self.execute(control::<D>(Control::Commit)).await {
                Ok(_) => {
                    self.put_back();
                    (Ok(answer), false)
                }
                Err(Fault::Again(error)) => (Err(error), true),
                Err(fault) => (Err(fault.into_error().effect_unknown()), false),
            },
            Err(error) => {
                let again = self.may_try_again();
                // A connection that cannot even give up is closed instead, which gives up as well.
                if !self.state.lost && self.step(Control::Rollback).await.is_ok() {
                    self.put_back();
                }
                (Err(error), again)
            }
        }
    }
}
