//! A single write: MongoDB carries out one document's write whole by itself, in one round trip and without getting into
//! anybody's way; the driver sends it again under the same number when its answer is lost.

use crm_core::record::{OnConflict, Outcome, Record, Write};
use crm_core::{Error, Result, TenantId};
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::ReturnDocument;

use super::apply::{changed, stale};
use super::error;
use super::link::{Call, Fault, is_passing, late};
use super::wire::{self, VERSION};

/// How a single write ended.
enum Ended {
    Done(Outcome),
    /// Its record is not there, or has another version.
    NotFound,
    Again(Error),
}

pub(super) async fn apply(call: &Call<'_>, tenant: &TenantId, write: &Write) -> Result<Outcome> {
    let mut patience = call.patience();
    loop {
        match once(call, tenant, write).await? {
            Ended::Done(outcome) => return Ok(outcome),
            Ended::NotFound => return Err(stale(write, version(call, tenant, write).await?).with("write", 0)),
            Ended::Again(error) => patience.again(error).await?,
        }
    }
}

async fn once(call: &Call<'_>, tenant: &TenantId, write: &Write) -> Result<Ended> {
    let records = call.link.records(write.schema());
    let id = write.id();
    let found = match write {
        Write::Insert { record, .. } => {
            let document = wire::raw(record.schema(), &wire::fresh(tenant, id, record)?)?;
            let inserted = call.run(async { records.insert_one(document).await }).await;
            inserted.map(|_| Some(1))
        }
        Write::Update { expected, record, .. } => {
            let change = checked(record)?;
            let mut step = records
                .find_one_and_update(wire::fence(tenant, id, Some(*expected)), change)
                .return_document(ReturnDocument::After)
                .projection(doc! { VERSION: 1 });
            if let Some(left) = call.left() {
                step = step.max_time(left);
            }
            call.run(async { step.await }).await.map(version_of)
        }
        Write::Put { record, .. } => {
            let mut step = records
                .find_one_and_update(wire::fence(tenant, id, None), checked(record)?)
                .upsert(true)
                .return_document(ReturnDocument::After)
                .projection(doc! { VERSION: 1 });
            if let Some(left) = call.left() {
                step = step.max_time(left);
            }
            call.run(async { step.await }).await.map(version_of)
        }
        Write::Delete { expected, .. } => {
            let mut step = records
                .find_one_and_delete(wire::fence(tenant, id, *expected))
                .projection(doc! { VERSION: 1 });
            if let Some(left) = call.left() {
                step = step.max_time(left);
            }
            call.run(async { step.await }).await.map(version_of)
        }
    };
    match found {
        Ok(None) => Ok(Ended::NotFound),
        Ok(Some(_)) if matches!(write, Write::Delete { .. }) => Ok(Ended::Done(Outcome::Deleted)),
        Ok(Some(version)) => Ok(Ended::Done(Outcome::Written(version))),
        Err(fault) => failed(write, fault),
    }
}

/// The update to a record's values, not larger than it may be.
fn checked(record: &Record) -> Result<Document> {
    let change = changed(record)?;
    wire::raw(record.schema(), &change)?;
    Ok(change)
}

fn version_of(found: Option<RawDocumentBuf>) -> Option<i64> {
    found.map(|document| document.get_i64(VERSION).unwrap_or_default())
}

fn failed(write: &Write, fault: Fault) -> Result<Ended> {
    let driver = match fault {
        Fault::Driver(error) => error,
        // It may have been on its way.
        Fault::Late => return Err(late().effect_unknown()),
        Fault::Told(error) => return Err(error),
    };
    if let Some(clash) = error::taken(&driver) {
        let collision = error::collision(write.schema(), &clash).with("write", 0);
        return match write {
            Write::Insert {
                on_conflict: OnConflict::Skip,
                ..
            } => Ok(Ended::Done(Outcome::Skipped)),
            // Two blind writes added it at the same moment: the second replaces.
            Write::Put { .. } if clash.is_id() => Ok(Ended::Again(collision)),
            _ => Err(collision),
        };
    }
    if is_passing(&driver) {
        return Ok(Ended::Again(error::classify(&driver)));
    }
    Err(error::of_single(&driver).with("schema", write.schema().name))
}

/// The version a record has now.
async fn version(call: &Call<'_>, tenant: &TenantId, write: &Write) -> Result<Option<i64>> {
    let records = call.link.records(write.schema());
    let step = records
        .find_one(wire::fence(tenant, write.id(), None))
        .projection(doc! { VERSION: 1 });
    let found = call.run(async { step.await }).await.map_err(Fault::into_error)?;
    Ok(version_of(found))
}
