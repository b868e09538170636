//! Connections that are taken out to work and put back when the work is done. A call that is dropped halfway never puts
//! its connection back: the connection closes, and with it whatever it had begun. Nothing is spawned for that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crm_core::record::{FieldType, Value};
use crm_core::{Column, Error, ErrorKind, Result, Uuid};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::compile::{Control, Sql, control};
use super::driver::{Dialect, Fault, Role};

/// The connections of one role.
pub(crate) struct Lanes<D: Dialect> {
    driver: Arc<D>,
    role: Role,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<D::Connection>>,
}

impl<D: Dialect> Lanes<D> {
    pub(crate) fn new(driver: Arc<D>, role: Role, connections: usize) -> Arc<Self> {
        Arc::new(Self {
            driver,
            role,
            permits: Arc::new(Semaphore::new(connections)),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Takes a connection, waiting for one as long as the driver's settings say.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Lane<D>> {
        let waited = tokio::time::timeout(self.driver.wait(), self.permits.clone().acquire_owned()).await;
        let permit = waited.map_err(|_| busy(self.driver.wait()))?;
        let permit = permit.map_err(|_| Error::unexpected("the store is closed"))?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.driver.connect(self.role).await?,
        };
        Ok(Lane {
            lanes: self.clone(),
            connection,
            _permit: permit,
        })
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

/// A connection at work. Dropped without [`Lane::put_back`], it is closed.
pub(crate) struct Lane<D: Dialect> {
    lanes: Arc<Lanes<D>>,
    // Before the permit, so that the connection is given up before the next one is let in.
    connection: D::Connection,
    _permit: OwnedSemaphorePermit,
}

impl<D: Dialect> Lane<D> {
    /// Puts the connection back: only when nothing is open on it.
    pub(crate) fn put_back(self) {
        let Self {
            lanes,
            connection,
            _permit,
        } = self;
        lanes
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
    }

    pub(crate) async fn execute(&mut self, sql: Sql) -> Result<u64, Fault> {
        D::execute(&mut self.connection, sql).await
    }

    pub(crate) async fn query(&mut self, sql: Sql, types: &[FieldType]) -> Result<Vec<Vec<Value>>, Fault> {
        D::query(&mut self.connection, sql, types).await
    }

    pub(crate) async fn columns(
        &mut self,
        sql: Sql,
        types: &[FieldType],
        whole: &[bool],
        columns: &mut [Column],
    ) -> Result<(usize, Option<Uuid>), Fault> {
        D::columns(&mut self.connection, sql, types, whole, columns).await
    }

    /// How many rows the insert that just failed left.
    pub(crate) async fn inserted(&mut self) -> Result<usize, Fault> {
        D::inserted(&mut self.connection).await
    }

    /// Runs statements one after another up to the first that fails: how many rows each changed, and that failure.
    pub(crate) async fn pipeline(&mut self, statements: Vec<Sql>) -> (Vec<u64>, Option<Fault>) {
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
    pub(crate) async fn end<T>(mut self, done: Result<T>) -> Result<T> {
        match done {
            Ok(answer) => match self.execute(control::<D>(Control::Commit)).await {
                Ok(_) => {
                    self.put_back();
                    Ok(answer)
                }
                Err(fault) => Err(fault.into_error().effect_unknown()),
            },
            Err(error) => {
                // A connection that cannot even give up is closed instead, which gives up as well.
                if self.execute(control::<D>(Control::Rollback)).await.is_ok() {
                    self.put_back();
                }
                Err(error)
            }
        }
    }
}
