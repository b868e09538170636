//! What a run took in and what it changed, kept row by row: so that the same row is not taken in twice, and so that a
//! run can be undone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crm_core::capability::RecordStore;
use crm_core::customer::{CUSTOMER, Draft};
use crm_core::query::Filter;
use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Value, Version, Write};
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Timestamp, Uuid};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::super::matching::Change;
use super::super::plain;
use super::super::shape;

/// One row an import took in. The record's id is a hash over the job's name and the row, so that the same row is found
/// again by it. `before` holds what the run overwrote, `added` what it added (see `Additions`), both for the customer's first
/// row of a unit of work; a row that a later run's other row about the same customer made out of date is `superseded`.
pub static IMPORT_ROW: Schema = Schema {
    name: "crm_import_row",
    fields: &[
        Field::new("job", FieldType::Uuid),
        Field::new("run", FieldType::Uuid),
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("before", FieldType::Json).nullable().personal(),
        Field::new("added", FieldType::Bytes).nullable(),
        Field::new("superseded", FieldType::Bool),
        Field::new("created_at", FieldType::Timestamp),
    ],
    indexes: &[
        Index::new("crm_import_row_run", &["run", "customer_id"]),
        Index::new("crm_import_row_customer", &["customer_id"]),
    ],
};

/// A record as it was before a write of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Before {
    pub(in super::super) schema: String,
    pub(in super::super) id: Uuid,
    /// The version the run wrote; 0 when it removed the record.
    pub(in super::super) wrote: Version,
    /// Its values, as in exports.
    pub(in super::super) values: Json,
}

/// A record the run added.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Added {
    pub(in super::super) schema: String,
    pub(in super::super) id: Uuid,
}

/// What a run added for one customer, as it is stored. Most rows of a journal hold nothing else, so it is packed: for each
/// run of alike records a byte with the length of the schema's name, the name, a byte with the number of ids, the ids.
#[derive(Debug, Default)]
struct Additions {
    bytes: Vec<u8>,
    /// The schema of the last run, and where the number of its ids stands.
    last: Option<(&'static str, usize)>,
}

impl Additions {
    fn add(&mut self, schema: &'static str, id: Uuid) {
        let counted = match self.last {
            Some((name, at)) if name == schema => self.bytes.get_mut(at).filter(|count| **count < u8::MAX),
            _ => None,
        };
        match counted {
            Some(count) => *count += 1,
            None => {
                // Names of schemas are far shorter.
                let name = schema
                    .as_bytes()
                    .get(..usize::from(u8::MAX))
                    .unwrap_or(schema.as_bytes());
                self.bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
                self.bytes.extend_from_slice(name);
                self.last = Some((schema, self.bytes.len()));
                self.bytes.push(1);
            }
        }
        self.bytes.extend_from_slice(id.as_bytes());
    }

    fn stored(self) -> Value {
        match self.bytes.is_empty() {
            true => Value::Null,
            false => Value::Bytes(self.bytes),
        }
    }

    /// What is stored; `None` when it is something else.
    fn read(bytes: &[u8]) -> Option<Vec<Added>> {
        let (mut added, mut rest) = (Vec::new(), bytes);
        while let Some((length, after)) = rest.split_first() {
            let (name, after) = after.split_at_checked(usize::from(*length))?;
            let (count, after) = after.split_first()?;
            let (ids, after) = after.split_at_checked(usize::from(*count) * 16)?;
            let schema = std::str::from_utf8(name).ok()?;
            for id in ids.chunks_exact(16) {
                let (schema, id) = (schema.to_owned(), Uuid::from_slice(id).ok()?);
                added.push(Added { schema, id });
            }
            rest = after;
        }
        Some(added)
    }
}

/// Under which job and run rows are kept.
#[derive(Debug, Clone)]
pub(in super::super) struct Journal {
    /// The id of the job's record.
    pub(in super::super) job: Uuid,
    pub(in super::super) run: Uuid,
}

/// The rows of one unit of work.
#[derive(Debug, Default)]
pub(in super::super) struct Known {
    /// The rows that are in already.
    pub(in super::super) taken: HashSet<Uuid>,
    /// Rows that are there but no longer count, to be replaced.
    stale: HashSet<Uuid>,
}

impl Journal {
    /// What a row is recognised by. Where and when it was read does not count.
    pub(in super::super) fn key(&self, draft: &Draft) -> Uuid {
        let mut hash = Sha256::new();
        hash.update(self.job.as_bytes());
        hash.update([0]);
        let content = (
            (
                &draft.provenance.source,
                &draft.name,
                &draft.emails,
                &draft.phones,
            ),
            (
                &draft.phone_region,
                &draft.addresses,
                &draft.external_refs,
                &draft.tags,
            ),
            (&draft.attributes, &draft.orders, &draft.interactions),
        );
        // A draft is plain data: writing it into a hash cannot fail, and a row without a hash would only be matched again.
        if serde_json::to_writer(Hasher(&mut hash), &content).is_err() {
            hash.update(b"?");
        }
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(hash.finalize()) {
            *to = from;
        }
        crm_core::Uuid::from_bytes(bytes)
    }

    /// Which of these rows an earlier unit of work took in.
    pub(in super::super) async fn known(
        &self,
        store: &dyn RecordStore,
        ctx: &Context,
        keys: &[Uuid],
    ) -> Result<Known> {
        let mut known = Known::default();
        for stored in store.get(ctx, &IMPORT_ROW, keys).await?.into_iter().flatten() {
            if stored.record.bool("superseded")? {
                known.stale.insert(stored.id);
            } else {
                known.taken.insert(stored.id);
            }
        }
        Ok(known)
    }

    /// The journal of a unit of work: a record a row, with what its writes overwrite and add.
    pub(in super::super) async fn entries(
        &self,
        (store, ctx): (&dyn RecordStore, &Context),
        now: Timestamp,
        (keys, outcomes): (&[Uuid], &[(CustomerId, Change)]),
        known: &Known,
        writes: &[Write],
    ) -> Result<Vec<Write>> {
        let mut changed = changes(store, ctx, writes).await?;
        let mut entries = Vec::with_capacity(keys.len());
        let mut written = HashSet::new();
        for (key, (customer, _)) in keys.iter().zip(outcomes) {
            if !written.insert(*key) {
                continue;
            }
            let (before, added) = changed.remove(&customer.uuid()).unwrap_or_default();
            let record = Record::from_values(
                &IMPORT_ROW,
                vec![
                    self.job.into(),
                    self.run.into(),
                    (*customer).into(),
                    list(&before)?,
                    added.stored(),
                    false.into(),
                    now.into(),
                ],
            )?;
            entries.push(if known.stale.contains(key) {
                Write::put(*key, record)
            } else {
                Write::insert(*key, record)
            });
        }
        // What an earlier run said about a customer who is told otherwise now is news when it is said again.
        let updated: BTreeSet<Uuid> = outcomes
            .iter()
            .filter(|(_, change)| *change == Change::Updated)
            .map(|(customer, _)| customer.uuid())
            .collect();
        if !updated.is_empty() {
            let older = Filter::one_of("customer_id", updated)
                .and(Filter::eq("job", self.job))
                .and(Filter::ne("run", self.run))
                .and(Filter::eq("superseded", false));
            for stored in shape::all(store, ctx, &IMPORT_ROW, older).await? {
                if written.contains(&stored.id) {
                    continue;
                }
                let record = stored.record.with("superseded", true)?;
                entries.push(Write::update(stored.id, stored.version, record));
            }
        }
        Ok(entries)
    }
}

/// Ids of one kind of record with the version they must have.
type Overwritten = (&'static Schema, Vec<(Uuid, Option<Version>)>);
type Changed = HashMap<Uuid, (Vec<Before>, Additions)>;

/// What the writes of a unit of work will overwrite and add, by customer.
async fn changes(store: &dyn RecordStore, ctx: &Context, writes: &[Write]) -> Result<Changed> {
    let mut changed = Changed::new();
    let mut overwritten: BTreeMap<&'static str, Overwritten> = BTreeMap::new();
    for write in writes {
        let (schema, id) = (write.schema(), write.id());
        match write {
            Write::Insert { record, .. } => {
                if let Some(owner) = owner(schema, id, record) {
                    changed.entry(owner).or_default().1.add(schema.name, id);
                }
            }
            Write::Update { expected, .. } => {
                let entry = overwritten.entry(schema.name).or_insert((schema, Vec::new()));
                entry.1.push((id, Some(*expected)));
            }
            Write::Put { .. } => {
                let entry = overwritten.entry(schema.name).or_insert((schema, Vec::new()));
                entry.1.push((id, None));
            }
            Write::Delete { .. } => {
                let entry = overwritten.entry(schema.name).or_insert((schema, Vec::new()));
                entry.1.push((id, Some(-1)));
            }
        }
    }
    for (schema, rows) in overwritten.into_values() {
        let ids: Vec<Uuid> = rows.iter().map(|(id, _)| *id).collect();
        let stored = store.get(ctx, schema, &ids).await?;
        for ((_, expected), stored) in rows.into_iter().zip(stored) {
            // One that is gone or newer makes the unit of work fail, and it is planned anew.
            let Some(stored) = stored else { continue };
            let Some(owner) = owner(schema, stored.id, &stored.record) else {
                continue;
            };
            let before = Before {
                schema: schema.name.to_owned(),
                id: stored.id,
                wrote: expected.unwrap_or(stored.version).saturating_add(1),
                values: plain::values(&stored.record)?,
            };
            changed.entry(owner).or_default().0.push(before);
        }
    }
    Ok(changed)
}

/// Whose record it is.
fn owner(schema: &'static Schema, id: Uuid, record: &Record) -> Option<Uuid> {
    if schema.name == CUSTOMER.name {
        return Some(id);
    }
    record.get("customer_id").and_then(Value::as_uuid)
}

fn list<T: Serialize>(items: &[T]) -> Result<Value> {
    if items.is_empty() {
        return Ok(Value::Null);
    }
    let json = serde_json::to_value(items).map_err(|e| Error::unexpected("a journal as JSON").source(e))?;
    Ok(Value::Json(json))
}

/// Stands in the place of what a row of the journal overwrote when that was purged.
pub(in super::super) const PURGED: &str = "purged";

/// What a row of the journal says: what it overwrote, unless that was purged, and what it added.
pub(in super::super) fn read_row(stored: &Stored) -> Result<(Option<Vec<Before>>, Vec<Added>)> {
    let r = &stored.record;
    let added = match r.get("added") {
        Some(Value::Bytes(bytes)) => Additions::read(bytes),
        _ => Some(Vec::new()),
    };
    let added = added.ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "a journal cannot be read")
            .with("schema", IMPORT_ROW.name)
            .with("field", "added")
    })?;
    let purged = r.get("before").and_then(Value::as_json);
    let before = match purged.and_then(|json| json.get(PURGED)) {
        Some(_) => None,
        None => Some(r.json("before")?),
    };
    Ok((before, added))
}

/// Hashes what is written.
struct Hasher<'a>(&'a mut Sha256);

impl std::io::Write for Hasher<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_are_read_as_they_were_noted() {
        assert_eq!(Additions::default().stored(), Value::Null);
        let mut noted = Additions::default();
        let wanted: Vec<(&'static str, Uuid)> = (0..700_u128)
            .map(|n| {
                (
                    ["crm_customer", "crm_point"][usize::from(n % 300 > 3)],
                    Uuid::from_u128(n),
                )
            })
            .collect();
        wanted.iter().for_each(|(schema, id)| noted.add(schema, *id));
        let Value::Bytes(bytes) = noted.stored() else {
            panic!("no bytes")
        };
        let read = Additions::read(&bytes).unwrap();
        assert!(read.iter().map(|one| (one.schema.as_str(), one.id)).eq(wanted));
        // Cut anywhere but between two runs it is refused, not read as less.
        let cuts = (0..bytes.len())
            .filter(|at| Additions::read(&bytes[..*at]).is_some())
            .count();
        assert_eq!(cuts, 8);
    }
}
