//! Units of work: writes are carried out in order; runs of alike writes go out as one command.

use std::collections::{BTreeMap, HashMap, HashSet};

use crm_core::record::{Index, OnConflict, Outcome, Record, Schema, Value, Version, Write};
use crm_core::{Error, Result, TenantId, Uuid};
use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocument, doc};

use super::error;
use super::link::Call;
use super::pipeline::keys_only;
use super::unit::{Statements, Stop, Unit};
use super::wire::{self, ID, TENANT, VERSION};

/// Statements of one command at most, in number and in bytes: one command is one document.
const STATEMENTS: usize = 1000;
const BYTES: usize = 8 << 20;

/// Carries out all writes or none. A unit of work that another one is in the way of begins again, within the store's
/// patience.
pub(super) async fn apply(call: &Call<'_>, tenant: &TenantId, writes: &[Write]) -> Result<Vec<Outcome>> {
    let mut patience = call.patience();
    let mut together = STATEMENTS;
    loop {
        let done = match Unit::begin(call).await {
            Err(stop) => Err(stop),
            Ok(mut unit) => match all(&mut unit, tenant, writes, together).await {
                Ok(outcomes) => unit.commit().await.map(|()| outcomes),
                Err(stop) => {
                    unit.give_up().await;
                    Err(stop)
                }
            },
        };
        match done {
            Ok(outcomes) => return Ok(outcomes),
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Again(error)) => patience.again(error).await?,
            Err(Stop::OneByOne) => together = 1,
        }
    }
}

/// What the writes of a run do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Insert,
    InsertOrSkip,
    Put,
    Update,
    Delete,
}

fn kind(write: &Write) -> Kind {
    match write {
        Write::Insert {
            on_conflict: OnConflict::Fail,
            ..
        } => Kind::Insert,
        Write::Insert {
            on_conflict: OnConflict::Skip,
            ..
        } => Kind::InsertOrSkip,
        Write::Put { .. } => Kind::Put,
        Write::Update { .. } => Kind::Update,
        Write::Delete { .. } => Kind::Delete,
    }
}

/// The record of a write that has one.
fn record(write: &Write) -> Option<&Record> {
    match write {
        Write::Insert { record, .. } | Write::Update { record, .. } | Write::Put { record, .. } => {
            Some(record)
        }
        Write::Delete { .. } => None,
    }
}

async fn all(
    unit: &mut Unit<'_>,
    tenant: &TenantId,
    writes: &[Write],
    together: usize,
) -> Result<Vec<Outcome>, Stop> {
    let mut outcomes = Vec::with_capacity(writes.len());
    while let Some(rest) = writes.get(outcomes.len()..).filter(|rest| !rest.is_empty()) {
        let (kind, schema, run) = run(rest, together);
        let at = outcomes.len();
        let mut step = Step {
            unit: &mut *unit,
            tenant,
            schema,
            at,
        };
        let done = match kind {
            Kind::InsertOrSkip => step.insert_or_skip(run).await?,
            kind => step.send(kind, run).await?,
        };
        if done.is_empty() {
            return Err(Error::unexpected("a unit of work makes no progress").into());
        }
        outcomes.extend(done);
    }
    Ok(outcomes)
}

/// The longest run of alike writes from the first: same kind, same schema, different ids.
fn run(writes: &[Write], together: usize) -> (Kind, &'static Schema, &[Write]) {
    let Some(first) = writes.first() else {
        return (Kind::Insert, &EMPTY, writes);
    };
    let (kind_of, schema) = (kind(first), first.schema());
    let mut ids = HashSet::new();
    let length = writes
        .iter()
        .take(together)
        .take_while(|write| {
            kind(write) == kind_of && std::ptr::eq(write.schema(), schema) && ids.insert(write.id())
        })
        .count();
    (kind_of, schema, writes.get(..length).unwrap_or(writes))
}

static EMPTY: Schema = Schema {
    name: "empty",
    fields: &[],
    indexes: &[],
};

/// One run within a unit of work.
struct Step<'s, 'u> {
    unit: &'s mut Unit<'u>,
    tenant: &'s TenantId,
    schema: &'static Schema,
    /// The position of its first write.
    at: usize,
}

impl Step<'_, '_> {
    /// Sends as many writes of the run as one command can carry, and answers their outcomes.
    async fn send(&mut self, kind: Kind, run: &[Write]) -> Result<Vec<Outcome>, Stop> {
        let (statements, count) = self.statements(kind, run)?;
        let run = run.get(..count).unwrap_or(run);
        let of = match kind {
            Kind::Insert | Kind::InsertOrSkip => Statements::Insert,
            Kind::Put | Kind::Update => Statements::Update,
            Kind::Delete => Statements::Delete,
        };
        let wrote = self.unit.write(self.schema, of, statements).await?;
        if let Some((position, clash)) = wrote.taken {
            // Somebody was faster between the look and the write, or added the record that a blind write looked for.
            let passing = kind == Kind::InsertOrSkip || (kind == Kind::Put && clash.is_id());
            let error = error::collision(self.schema, &clash).with("write", self.at + position);
            return Err(match passing {
                true => Stop::Again(error),
                // A statement before it may not have found its record: that one counts.
                false if wrote.count < position => Stop::OneByOne,
                false => Stop::Failed(error),
            });
        }
        if wrote.count != run.len() {
            return Err(match run {
                [one] => self.stale(one).await?,
                _ => Stop::OneByOne,
            });
        }
        match kind {
            Kind::Insert | Kind::InsertOrSkip => Ok(vec![Outcome::Written(1); run.len()]),
            Kind::Delete => Ok(vec![Outcome::Deleted; run.len()]),
            Kind::Update => Ok(run
                .iter()
                .map(|write| match write {
                    Write::Update { expected, .. } => Outcome::Written(expected + 1),
                    _ => Outcome::Skipped,
                })
                .collect()),
            Kind::Put => self.versions(run).await,
        }
    }

    /// The statements of the first writes of a run, as many as fit, and how many these are.
    fn statements(&self, kind: Kind, run: &[Write]) -> Result<(RawArrayBuf, usize)> {
        let mut statements = RawArrayBuf::new();
        let (mut bytes, mut count) = (0, 0);
        for (i, write) in run.iter().enumerate() {
            let statement = self
                .statement(kind, write)
                .and_then(|statement| wire::raw(self.schema, &statement))
                .map_err(|error| error.with("write", self.at + i))?;
            bytes += statement.as_bytes().len();
            if bytes > BYTES && count > 0 {
                break;
            }
            statements.push(statement);
            count += 1;
        }
        Ok((statements, count))
    }

    fn statement(&self, kind: Kind, write: &Write) -> Result<Document> {
        let update = |fence: Document, record: &Record| -> Result<Document> {
            Ok(doc! { "q": fence, "u": changed(record)?, "upsert": kind == Kind::Put })
        };
        match write {
            Write::Insert { id, record, .. } => wire::fresh(self.tenant, *id, record),
            Write::Update {
                id, expected, record, ..
            } => update(wire::fence(self.tenant, *id, Some(*expected)), record),
            Write::Put { id, record } => update(wire::fence(self.tenant, *id, None), record),
            Write::Delete { id, expected, .. } => {
                Ok(doc! { "q": wire::fence(self.tenant, *id, *expected), "limit": 1 })
            }
        }
    }

    /// The error of a write that did not find its record.
    async fn stale(&mut self, write: &Write) -> Result<Stop, Stop> {
        let mut found = None;
        let fence = wire::fence(self.tenant, write.id(), None);
        let mut take = |document: &RawDocument| {
            found = document.get_i64(VERSION).ok();
            Ok(())
        };
        self.unit
            .find(self.schema, fence, keys_only(std::iter::empty()), &mut take)
            .await?;
        Ok(Stop::Failed(stale(write, found).with("write", self.at)))
    }

    async fn versions(&mut self, run: &[Write]) -> Result<Vec<Outcome>, Stop> {
        let (schema, tenant) = (self.schema, self.tenant);
        let ids: Vec<Bson> = run.iter().map(|write| wire::key(tenant, write.id())).collect();
        let mut versions = HashMap::with_capacity(run.len());
        let mut take = |document: &RawDocument| {
            versions.insert(
                wire::id_of(schema, document)?,
                document.get_i64(VERSION).unwrap_or_default(),
            );
            Ok(())
        };
        let filter = doc! { ID: { "$in": ids } };
        self.unit
            .find(schema, filter, keys_only(std::iter::empty()), &mut take)
            .await?;
        Ok(run
            .iter()
            .map(|write| {
                versions
                    .get(&write.id())
                    .map_or(Outcome::Skipped, |v| Outcome::Written(*v))
            })
            .collect())
    }

    /// Looks first and inserts what is free: a taken key would end the whole transaction.
    async fn insert_or_skip(&mut self, run: &[Write]) -> Result<Vec<Outcome>, Stop> {
        let mut taken = self.taken(run).await?;
        let mut outcomes = Vec::with_capacity(run.len());
        let mut free = Vec::new();
        for write in run {
            let keys = Keys::of(self.schema, write);
            if taken.meets(&keys) {
                outcomes.push(Outcome::Skipped);
            } else {
                taken.add(keys);
                outcomes.push(Outcome::Written(1));
                free.push(write.clone());
            }
        }
        let mut sent = 0;
        while let Some(rest) = free.get(sent..).filter(|rest| !rest.is_empty()) {
            sent += self.send(Kind::InsertOrSkip, rest).await?.len();
        }
        Ok(outcomes)
    }

    /// Those ids and unique keys of the run that are already there.
    async fn taken(&mut self, run: &[Write]) -> Result<Taken, Stop> {
        let (schema, tenant) = (self.schema, self.tenant);
        let ids: Vec<Bson> = run.iter().map(|write| wire::key(tenant, write.id())).collect();
        let mut questions = vec![doc! { ID: { "$in": ids } }];
        for index in schema.indexes.iter().filter(|index| index.unique) {
            questions.extend(question(tenant, index, run)?);
        }
        let mut found = Taken::default();
        for question in questions {
            let mut take = |document: &RawDocument| {
                found.add(Keys::found(schema, document)?);
                Ok(())
            };
            let fields = schema
                .indexes
                .iter()
                .filter(|index| index.unique)
                .flat_map(|index| index.fields.iter().copied());
            self.unit
                .find(schema, question, keys_only(fields), &mut take)
                .await?;
        }
        Ok(found)
    }
}

/// Which records have one of the run's keys in a unique index, or nearly: keys are joined by all fields but the last, and
/// what comes back is compared again.
fn question(tenant: &TenantId, index: &Index, run: &[Write]) -> Result<Option<Document>> {
    let Some((last, firsts)) = index.fields.split_last() else {
        return Ok(None);
    };
    let mut joined: BTreeMap<Vec<u8>, (Document, Vec<Bson>)> = BTreeMap::new();
    for record in run.iter().filter_map(record) {
        let get = |field: &&str| record.get(field).map_or(Ok(None), wire::bson);
        let Some(key) = get(last)? else { continue };
        let mut same = Document::new();
        for field in firsts {
            match get(field)? {
                Some(value) => same.insert(*field, doc! { "$eq": value }),
                None => break,
            };
        }
        if same.len() < firsts.len() {
            continue; // an absent value never collides
        }
        let name = same
            .to_vec()
            .map_err(|_| Error::invalid("a key cannot be written as BSON"))?;
        joined
            .entry(name)
            .or_insert_with(|| (same, Vec::new()))
            .1
            .push(key);
    }
    let ways: Vec<Document> = joined
        .into_values()
        .map(|(same, keys)| {
            let mut way = doc! { TENANT: tenant.as_str() };
            way.extend(same);
            way.insert(*last, doc! { "$in": keys });
            way
        })
        .collect();
    Ok((!ways.is_empty()).then(|| doc! { "$or": ways }))
}

/// A record's id, and its key in each unique index that it is in, as bytes.
struct Keys {
    id: Uuid,
    unique: Vec<(&'static str, Vec<u8>)>,
}

impl Keys {
    fn of(schema: &'static Schema, write: &Write) -> Self {
        let record = record(write);
        let get = |field: &str| record.and_then(|record| record.get(field)).cloned();
        Self {
            id: write.id(),
            unique: unique(schema, &get),
        }
    }

    fn found(schema: &'static Schema, document: &RawDocument) -> Result<Self> {
        let get = |name: &str| {
            let (_, field) = schema.field(name)?;
            wire::value(field.ty, document.get(name).ok()??)
        };
        Ok(Self {
            id: wire::id_of(schema, document)?,
            unique: unique(schema, &get),
        })
    }
}

fn unique(schema: &'static Schema, get: &dyn Fn(&str) -> Option<Value>) -> Vec<(&'static str, Vec<u8>)> {
    let key = |index: &'static Index| {
        let mut key = Document::new();
        for field in index.fields {
            let mut value = get(field)?;
            if let Value::Float(float) = &mut value {
                *float += 0.0; // zero has two faces, and MongoDB takes them for one
            }
            key.insert(*field, wire::bson(&value).ok()??);
        }
        Some((index.name, key.to_vec().ok()?))
    };
    schema
        .indexes
        .iter()
        .filter(|index| index.unique)
        .filter_map(key)
        .collect()
}

#[derive(Default)]
struct Taken {
    ids: HashSet<Uuid>,
    unique: HashSet<(&'static str, Vec<u8>)>,
}

impl Taken {
    fn meets(&self, keys: &Keys) -> bool {
        self.ids.contains(&keys.id) || keys.unique.iter().any(|key| self.unique.contains(key))
    }
    fn add(&mut self, keys: Keys) {
        self.ids.insert(keys.id);
        self.unique.extend(keys.unique);
    }
}

/// The update that leaves a record's values.
pub(super) fn changed(record: &Record) -> Result<Document> {
    let schema = record.schema();
    wire::change(schema, schema.fields.iter().zip(record.values()))
}

/// The error of a write whose record is gone or has another version.
pub(super) fn stale(write: &Write, found: Option<Version>) -> Error {
    let expected = match write {
        Write::Update { expected, .. } => Some(*expected),
        Write::Delete { expected, .. } => *expected,
        Write::Insert { .. } | Write::Put { .. } => None,
    };
    let error = Error::conflict("the record was changed or removed by someone else; read it again")
        .with("schema", write.schema().name)
        .with("index", "version");
    let error = match expected {
        Some(version) => error.with("expected", version),
        None => error,
    };
    error.with(
        "found",
        found.map_or_else(|| "none".to_owned(), |version| version.to_string()),
    )
}
