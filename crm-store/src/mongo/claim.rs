//! Claims: due records are taken and marked, no record by two.

use crm_core::query::{Assign, Claim};
use crm_core::record::{Field, Record, Schema, Stored, Value};
use crm_core::{Error, Result};
use mongodb::bson::{Document, RawArrayBuf, RawDocument, doc};

use super::error;
use super::link::{Call, Fault};
use super::pipeline::{self, Of};
use super::unit::{Statements, Stop, Unit};
use super::wire;

/// All in one transaction: when two claimers read the same record as due, one of them finds it changed and begins again.
pub(super) async fn together(call: &Call<'_>, of: Of<'_>, claim: &Claim) -> Result<Vec<Stored>> {
    let mut patience = call.patience();
    loop {
        let done = match Unit::begin(call).await {
            Err(stop) => Err(stop),
            Ok(mut unit) => match within(&mut unit, of, claim).await {
                Ok(taken) if taken.is_empty() => {
                    unit.give_up().await;
                    Ok(taken)
                }
                Ok(taken) => unit.commit().await.map(|()| taken),
                Err(stop) => {
                    unit.give_up().await;
                    Err(stop)
                }
            },
        };
        match done {
            Ok(taken) => return Ok(taken),
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Again(error)) => patience.again(error).await?,
            Err(Stop::OneByOne) => {
                return Err(
                    Error::unexpected("a record read in a transaction was not there any more")
                        .with("schema", of.schema.name),
                );
            }
        }
    }
}

async fn within(unit: &mut Unit<'_>, of: Of<'_>, claim: &Claim) -> Result<Vec<Stored>, Stop> {
    let schema = of.schema;
    let pipeline = due(of, claim)?;
    let mut taken = Vec::new();
    let mut take = |document: &RawDocument| {
        taken.push(wire::stored(schema, document)?);
        Ok(())
    };
    unit.ask(schema, pipeline, &mut take).await?;
    if taken.is_empty() {
        return Ok(taken);
    }
    let mut statements = RawArrayBuf::new();
    for stored in &mut taken {
        let fence = wire::fence(of.tenant, stored.id, Some(stored.version));
        let update = marked(schema, stored, claim)?;
        let statement = wire::raw(schema, &doc! { "q": fence, "u": update })?;
        statements.push(statement);
    }
    let wrote = unit.write(schema, Statements::Update, statements).await?;
    if let Some((_, clash)) = wrote.taken {
        return Err(error::collision(schema, &clash).into());
    }
    if wrote.count != taken.len() {
        return Err(Stop::OneByOne);
    }
    Ok(taken)
}

/// On a server without transactions: one after the other, each fenced by its version. When one fails after others were
/// taken, those are answered: they are marked, and nobody else would work on them.
pub(super) async fn one_by_one(call: &Call<'_>, of: Of<'_>, claim: &Claim) -> Result<Vec<Stored>> {
    let schema = of.schema;
    let mut found = Vec::new();
    let mut take = |document: &RawDocument| {
        found.push(wire::stored(schema, document)?);
        Ok(())
    };
    call.read(schema, due(of, claim)?, None, false, &mut take).await?;
    let mut taken = Vec::new();
    for mut stored in found {
        let fence = wire::fence(of.tenant, stored.id, Some(stored.version));
        let update = marked(schema, &mut stored, claim)?;
        let records = call.link.records(schema);
        let step = records.update_one(fence, update);
        match call.run(async { step.await }).await {
            Ok(done) if done.matched_count == 1 => taken.push(stored),
            Ok(_) => {}
            Err(_) if !taken.is_empty() => break,
            Err(Fault::Driver(error)) => {
                return Err(match error::taken(&error) {
                    Some(clash) => error::collision(schema, &clash),
                    None => error::of_single(&error),
                });
            }
            Err(fault) => return Err(fault.into_error().effect_unknown()),
        }
    }
    Ok(taken)
}

fn due(of: Of<'_>, claim: &Claim) -> Result<Vec<Document>> {
    pipeline::ordered(of, &claim.due, &claim.order, None, i64::from(claim.limit))
}

/// Marks a record as the claim says; answers the update that does so in the database.
fn marked(schema: &'static Schema, stored: &mut Stored, claim: &Claim) -> Result<Document> {
    let mut changed: Vec<(&'static Field, Value)> = Vec::with_capacity(claim.assign.len());
    for assign in &claim.assign {
        let value = match assign {
            Assign::Set(_, value) => value.clone(),
            Assign::Add(field, by) => match stored.record.get(field).and_then(Value::as_int) {
                Some(now) => Value::Int(
                    now.checked_add(*by)
                        .ok_or_else(|| Error::invalid("adding goes beyond 64 bits").with("field", field))?,
                ),
                None => continue,
            },
        };
        if let Some((_, field)) = schema.field(assign.field()) {
            Record::set(&mut stored.record, field.name, value.clone())?;
            changed.push((field, value));
        }
    }
    stored.version += 1;
    wire::change(schema, changed.iter().map(|(field, value)| (*field, value)))
}
