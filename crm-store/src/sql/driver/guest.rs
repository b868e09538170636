//! Work on a connection that belongs to the host: statements are handed over one by one to where the connection is.

use crm_core::record::{FieldType, Value};
use crm_core::{Error, ErrorKind};
use tokio::sync::{mpsc, oneshot};

use super::super::compile::Sql;
use super::Fault;

type Rows = Vec<Vec<Value>>;

/// One statement to carry out on the host's connection.
#[cfg_attr(
    not(feature = "unstable-raw"),
    allow(dead_code, reason = "only then is there one")
)]
pub(in crate::sql) enum Asked {
    /// How many rows it changed.
    Execute(Sql, oneshot::Sender<Result<u64, Fault>>),
    /// Its rows.
    Query(Sql, Vec<FieldType>, oneshot::Sender<Result<Rows, Fault>>),
}

/// Stands for the host's connection.
#[derive(Debug, Clone)]
pub(super) struct Guest(mpsc::Sender<Asked>);

impl Guest {
    /// A stand-in, and where its statements come out.
    #[cfg(feature = "unstable-raw")]
    pub(super) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (ask, asked) = mpsc::channel(1);
        (Self(ask), asked)
    }

    async fn ask<T>(&self, asked: Asked, answer: oneshot::Receiver<Result<T, Fault>>) -> Result<T, Fault> {
        let gone = || Fault::Lost(Error::new(ErrorKind::Cancelled, "the host's connection is gone"));
        self.0.send(asked).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    pub(super) async fn execute(&self, sql: Sql) -> Result<u64, Fault> {
        let (tell, told) = oneshot::channel();
        self.ask(Asked::Execute(sql, tell), told).await
    }

    pub(super) async fn query(&self, sql: Sql, types: &[FieldType]) -> Result<Rows, Fault> {
        let (tell, told) = oneshot::channel();
        self.ask(Asked::Query(sql, types.to_vec(), tell), told).await
    }
}
