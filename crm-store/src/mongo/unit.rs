//! One unit of work: a transaction of several documents.

use crm_core::record::Schema;
use crm_core::{Error, ErrorKind, Result};
use mongodb::ClientSession;
use mongodb::bson::raw::cstr;
use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocument, RawDocumentBuf};
use mongodb::error::UNKNOWN_TRANSACTION_COMMIT_RESULT;
use mongodb::options::{AggregateOptions, FindOptions, ReadConcern, TransactionOptions};

use super::config::durable;
use super::error::{self, Clash, code};
use super::link::{Call, Fault, is_passing, late};

/// Why a unit of work ended without success. Nothing of it is there, unless the error says that it may be.
#[derive(Debug)]
pub(super) enum Stop {
    /// Another one was in the way, or the primary went away: it may be tried again from the start.
    Again(Error),
    /// Several writes went out together and one of them did not do what it should: one by one it shows which.
    OneByOne,
    /// For good.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Driver(error) if is_passing(&error) => Self::Again(error::classify(&error)),
            fault => Self::Failed(fault.into_error()),
        }
    }
}

/// What a command that writes did.
#[derive(Debug)]
pub(super) struct Wrote {
    /// How many documents it found or added, in the order of its statements up to the first failure.
    pub(super) count: usize,
    /// The first statement that failed on a taken key: its position and the index.
    pub(super) taken: Option<(usize, Clash)>,
}

/// An open unit of work. Dropped before its end, whatever is on the way, it is left to the next calls of the store, which
/// end it on the server; without any the server does so after a minute.
pub(super) struct Unit<'a> {
    call: &'a Call<'a>,
    /// Taken out when its end is known.
    session: Option<ClientSession>,
}

impl Drop for Unit<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.call.link.leave(session);
        }
    }
}

fn open(session: &mut Option<ClientSession>) -> Result<&mut ClientSession, Stop> {
    session
        .as_mut()
        .ok_or_else(|| Stop::Failed(Error::unexpected("the unit of work is over")))
}

impl<'a> Unit<'a> {
    /// Begins: it sees one moment of the database, and what is committed is on the journals of a majority.
    pub(super) async fn begin(call: &'a Call<'a>) -> Result<Self, Stop> {
        let client = call.link.client.clone();
        let mut session = call.run(async { client.start_session().await }).await?;
        let mut options = TransactionOptions::default();
        options.read_concern = Some(ReadConcern::snapshot());
        options.write_concern = Some(durable());
        options.max_commit_time = call.left();
        let started = async { session.start_transaction().with_options(options).await };
        call.run(started).await?;
        Ok(Self {
            call,
            session: Some(session),
        })
    }

    /// Sends statements of one kind: `insert` with `documents`, `update` with `updates`, `delete` with `deletes`.
    pub(super) async fn write(
        &mut self,
        schema: &'static Schema,
        kind: Statements,
        statements: RawArrayBuf,
    ) -> Result<Wrote, Stop> {
        let mut command = RawDocumentBuf::new();
        let records = self.call.link.name(schema);
        match kind {
            Statements::Insert => {
                command.append(cstr!("insert"), records);
                command.append(cstr!("documents"), statements);
            }
            Statements::Update => {
                command.append(cstr!("update"), records);
                command.append(cstr!("updates"), statements);
            }
            Statements::Delete => {
                command.append(cstr!("delete"), records);
                command.append(cstr!("deletes"), statements);
            }
        }
        command.append(cstr!("ordered"), true);
        if let Some(left) = self.call.left() {
            command.append(
                cstr!("maxTimeMS"),
                i64::try_from(left.as_millis()).unwrap_or(i64::MAX),
            );
        }
        let database = self.call.link.database.clone();
        let session = open(&mut self.session)?;
        let sent = database.run_raw_command(command).session(session);
        match self.call.run(async { sent.await }).await {
            Ok(answer) => wrote(schema, &answer),
            Err(Fault::Driver(error)) if error::code_of(&error) == Some(code::DUPLICATE_KEY) => Ok(Wrote {
                count: 0,
                taken: error::taken(&error).map(|clash| (0, clash)),
            }),
            Err(fault) => Err(fault.into()),
        }
    }

    /// The documents of a condition, these fields only.
    pub(super) async fn find(
        &mut self,
        schema: &'static Schema,
        filter: Document,
        fields: Document,
        take: &mut (dyn FnMut(&RawDocument) -> Result<()> + Send),
    ) -> Result<(), Stop> {
        let mut options = FindOptions::default();
        options.projection = Some(fields);
        options.max_time = self.call.left();
        let records = self.call.link.records(schema);
        let session = open(&mut self.session)?;
        let asked = records.find(filter).with_options(options).session(&mut *session);
        let mut cursor = self.call.run(async { asked.await }).await?;
        while self.call.run(cursor.advance(session)).await? {
            take(cursor.current())?;
        }
        Ok(())
    }

    /// The documents a pipeline gives.
    pub(super) async fn ask(
        &mut self,
        schema: &'static Schema,
        pipeline: Vec<Document>,
        take: &mut (dyn FnMut(&RawDocument) -> Result<()> + Send),
    ) -> Result<(), Stop> {
        let mut options = AggregateOptions::default();
        options.max_time = self.call.left();
        let records = self.call.link.records(schema);
        let session = open(&mut self.session)?;
        let asked = records
            .aggregate(pipeline)
            .with_options(options)
            .session(&mut *session);
        let mut cursor = self.call.run(async { asked.await }).await?;
        while self.call.run(cursor.advance(session)).await? {
            take(cursor.current())?;
        }
        Ok(())
    }

    /// Commits. A lost answer is asked for again: the server knows the transaction by its number and carries it out once.
    /// When none comes within the call's patience, the error says that it may have happened.
    pub(super) async fn commit(mut self) -> Result<(), Stop> {
        let mut patience = self.call.patience();
        loop {
            let session = open(&mut self.session)?;
            match self.call.run(async { session.commit_transaction().await }).await {
                Ok(()) => {
                    self.session = None;
                    return Ok(());
                }
                Err(Fault::Driver(error)) if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => {
                    let lost = error::classify(&error);
                    patience
                        .again(lost)
                        .await
                        .map_err(|error| Stop::Failed(error.effect_unknown()))?;
                }
                Err(Fault::Late) => return Err(Stop::Failed(late().effect_unknown())),
                Err(fault) => return Err(fault.into()),
            }
        }
    }

    /// Gives up.
    pub(super) async fn give_up(mut self) {
        if let Ok(session) = open(&mut self.session)
            && self
                .call
                .run(async { session.abort_transaction().await })
                .await
                .is_ok()
        {
            self.session = None;
        }
    }
}

/// What the statements of a command do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statements {
    Insert,
    Update,
    Delete,
}

fn wrote(schema: &'static Schema, answer: &Document) -> Result<Wrote, Stop> {
    let number = |document: &Document, key: &str| match document.get(key) {
        Some(Bson::Int32(n)) => usize::try_from(*n).ok(),
        Some(Bson::Int64(n)) => usize::try_from(*n).ok(),
        _ => None,
    };
    let unreadable = || {
        Stop::Failed(
            Error::new(
                ErrorKind::Unexpected,
                "MongoDB gave an answer that cannot be read",
            )
            .with("schema", schema.name),
        )
    };
    let count = number(answer, "n").ok_or_else(unreadable)?;
    let first = match answer.get_array("writeErrors").map(|all| all.first()) {
        Ok(Some(Bson::Document(first))) => first,
        _ => return Ok(Wrote { count, taken: None }),
    };
    let position = number(first, "index").ok_or_else(unreadable)?;
    match first.get_i32("code") {
        Ok(code::DUPLICATE_KEY) => {
            let told = RawDocumentBuf::try_from(first).map_err(|_| unreadable())?;
            let clash = Clash::read(&told).ok_or_else(unreadable)?;
            Ok(Wrote {
                count,
                taken: Some((position, clash)),
            })
        }
        Ok(code @ (code::WRITE_CONFLICT | code::LOCK_TIMEOUT | code::NO_SUCH_TRANSACTION)) => {
            Err(Stop::Again(error::by_code(code)))
        }
        code => Err(Stop::Failed(
            error::by_code(code.unwrap_or_default()).with("schema", schema.name),
        )),
    }
}
