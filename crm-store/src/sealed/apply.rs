//! Writing: encrypt, then hand on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crm_core::record::{Outcome, Record, Stored, Value, Write};
use crm_core::{Context, Error, ErrorKind, Result, TenantId, Uuid};

use super::SealedStore;
use super::blind::BlindKey;
use super::code::{decode, encode};
use super::envelope::{Place, RecordKey, random};
use super::keys::{Found, Held, Owner};
use super::plan::Plan;

/// The record of a write, if it has one.
fn record_of(write: &Write) -> Option<&Record> {
    match write {
        Write::Insert { record, .. } | Write::Update { record, .. } | Write::Put { record, .. } => {
            Some(record)
        }
        Write::Delete { .. } => None,
    }
}

/// Whether a record has anything to encrypt.
fn has_sealed(plan: &Plan, record: &Record) -> bool {
    plan.columns
        .iter()
        .zip(record.values())
        .any(|(column, value)| column.sealed && !value.is_null())
}

/// What an update was based on ([`Write::based_on`]), so that the store behind leaves alone what did not change: its
/// envelopes are of another nonce than those in `sealed`, but say the same. Such values are told to be equal, and the others
/// to be different; more than that is not known here without reading. `None`: everything is written.
fn behind(plan: &Plan, id: Uuid, record: &Record, before: &Record, sealed: &Record) -> Option<Record> {
    if !plan.seals() {
        return Some(before.clone());
    }
    // A record that changes hands is encrypted anew as a whole: with another person's key.
    if plan.owner(id, record) != plan.owner(id, before) || before.values().len() != plan.columns.len() {
        return None;
    }
    let mut values = sealed.values().to_vec();
    let (fields, blinds) = values.split_at_mut_checked(plan.columns.len())?;
    let mut blinds = blinds.iter_mut();
    let both = record.values().iter().zip(before.values());
    for ((column, value), (now, was)) in plan.columns.iter().zip(fields).zip(both) {
        let blind = column.blind.and_then(|_| blinds.next());
        if !column.sealed {
            value.clone_from(was);
        } else if encode(now) != encode(was) {
            // No envelope is empty, and no blind index is of zeros only.
            *value = Value::Bytes(Vec::new());
            if let Some(blind) = blind {
                *blind = Value::Uuid(Uuid::nil());
            }
        }
    }
    Record::from_values(plan.physical, values).ok()
}

/// What a unit of work is encrypted with.
struct Sealer<'a> {
    tenant: &'a TenantId,
    keys: HashMap<Owner, Arc<Held>>,
    blind: HashMap<(&'static str, &'static str), BlindKey>,
}

impl Sealer<'_> {
    fn seal(&mut self, plan: &Plan, id: Uuid, record: &Record) -> Result<Record> {
        if !plan.seals() {
            return Ok(record.clone());
        }
        let owner = plan.owner(id, record);
        let mut key = None;
        let mut values = Vec::with_capacity(plan.physical.fields.len());
        let name = plan.logical.name;
        for (column, value) in plan.columns.iter().zip(record.values()) {
            let plain = if column.sealed { encode(value) } else { None };
            values.push(match plain {
                None if column.sealed => Value::Null,
                None => value.clone(),
                Some(plain) => {
                    if key.is_none() {
                        let held = self
                            .keys
                            .get(&owner)
                            .ok_or_else(|| Error::unexpected("a record is written without its key"))?;
                        key = Some(RecordKey::new(
                            &held.key,
                            owner.algorithm(),
                            held.generation,
                            name,
                            id,
                        )?);
                    }
                    let place = Place {
                        tenant: self.tenant.as_str(),
                        schema: name,
                        field: column.field.name,
                        record: id,
                    };
                    let sealed = key
                        .as_ref()
                        .map(|key: &RecordKey| key.seal(&place, random()?, plain))
                        .transpose()?;
                    sealed.into()
                }
            });
        }
        for (column, value) in plan.columns.iter().zip(record.values()) {
            if column.blind.is_none() {
                continue;
            }
            if value.is_null() {
                values.push(Value::Null);
                continue;
            }
            let blind = match self.blind.entry((name, column.field.name)) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(empty) => {
                    let root = self
                        .keys
                        .get(&Owner::Index)
                        .ok_or_else(|| Error::unexpected("a blind index is written without its key"))?;
                    empty.insert(BlindKey::new(&root.key, name, column.field.name))
                }
            };
            values.push(blind.of(value, column.field.ty).into());
        }
        Record::from_values(plan.physical, values)
    }
}

impl SealedStore {
    pub(super) async fn seal_and_apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        let plans = writes
            .iter()
            .map(|write| self.plan(write.schema()))
            .collect::<Result<Vec<_>>>()?;
        if plans.iter().all(|plan| !plan.seals()) {
            return self.inner.apply(ctx, writes).await;
        }
        let mut owners: BTreeMap<Owner, bool> = BTreeMap::new();
        for (position, (write, plan)) in writes.iter().zip(&plans).enumerate() {
            let Some(record) = record_of(write) else { continue };
            record.validate().map_err(|error| error.with("write", position))?;
            if !plan.seals() || !has_sealed(plan, record) {
                continue;
            }
            let owner = plan.owner(write.id(), record);
            // A person who is just being inserted has no key yet, most likely.
            let new = matches!(write, Write::Insert { .. }) && owner == Owner::Subject(write.id());
            owners
                .entry(owner)
                .and_modify(|known| *known |= new)
                .or_insert(new);
            if plan.has_blind() {
                owners.entry(Owner::Index).or_insert(false);
            }
        }
        let mut sealer = Sealer {
            tenant: ctx.tenant(),
            keys: self.keys.ensure(ctx, &owners).await?,
            blind: HashMap::new(),
        };
        let mut physical = Vec::with_capacity(writes.len());
        for (position, (write, plan)) in writes.iter().zip(&plans).enumerate() {
            let mut seal = |record: &Record| {
                let sealed = sealer.seal(plan, write.id(), record);
                sealed.map_err(|error| error.with("write", position))
            };
            physical.push(match write {
                Write::Insert {
                    id,
                    record,
                    on_conflict,
                } => Write::Insert {
                    id: *id,
                    record: seal(record)?,
                    on_conflict: *on_conflict,
                },
                Write::Update {
                    id,
                    expected,
                    record,
                    before,
                } => {
                    let sealed = seal(record)?;
                    let before = before
                        .as_ref()
                        .and_then(|before| behind(plan, *id, record, before, &sealed));
                    let write = Write::update(*id, *expected, sealed);
                    match before {
                        Some(before) => write.based_on(before),
                        None => write,
                    }
                }
                Write::Put { id, record } => Write::put(*id, seal(record)?),
                Write::Delete { id, expected, .. } => Write::delete(plan.physical, *id, *expected),
            });
        }
        self.inner.apply(ctx, &physical).await
    }

    /// Decrypts records as the store behind has them. `None` for those of a person who was erased.
    pub(super) async fn open(
        &self,
        ctx: &Context,
        plan: &Plan,
        rows: Vec<Stored>,
    ) -> Result<Vec<Option<Stored>>> {
        if !plan.seals() {
            return Ok(rows.into_iter().map(Some).collect());
        }
        // The first fields of the physical record are those of the logical one, so the same look tells what is there.
        let owners = rows
            .iter()
            .filter(|stored| has_sealed(plan, &stored.record))
            .map(|stored| plan.owner(stored.id, &stored.record))
            .collect();
        let keys = self.keys.load(ctx, &owners).await?;
        rows.into_iter()
            .map(|stored| open_one(ctx.tenant(), plan, &keys, stored))
            .collect()
    }
}

fn open_one(
    tenant: &TenantId,
    plan: &Plan,
    keys: &HashMap<Owner, Found>,
    stored: Stored,
) -> Result<Option<Stored>> {
    let name = plan.logical.name;
    let Stored { id, version, record } = stored;
    let key = if has_sealed(plan, &record) {
        let owner = plan.owner(id, &record);
        match keys.get(&owner) {
            Some(Found::Key(held)) => Some(RecordKey::new(
                &held.key,
                owner.algorithm(),
                held.generation,
                name,
                id,
            )?),
            Some(Found::Erased) => return Ok(None),
            Some(Found::Missing) | None => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "the data key of a record is not there; restore the store of the keys, which is newer or older than the data",
                )
                .with("schema", name)
                .with("record", id));
            }
        }
    } else {
        None
    };
    let mut values = record.into_values();
    values.truncate(plan.columns.len());
    for (column, value) in plan.columns.iter().zip(&mut values) {
        if !column.sealed || value.is_null() {
            continue;
        }
        let place = Place {
            tenant: tenant.as_str(),
            schema: name,
            field: column.field.name,
            record: id,
        };
        let damaged = || {
            Error::new(
                ErrorKind::Corrupt,
                "an encrypted value is not what its schema says",
            )
            .with("schema", name)
            .with("field", column.field.name)
            .with("record", id)
        };
        let (Some(key), Value::Bytes(envelope)) = (&key, &mut *value) else {
            return Err(damaged());
        };
        let plain = key.open(&place, envelope)?;
        let opened = decode(&plain).filter(|opened| opened.ty() == Some(column.field.ty));
        *value = opened.ok_or_else(damaged)?;
    }
    Ok(Some(Stored {
        id,
        version,
        record: Record::from_values(plan.logical, values)?,
    }))
}
