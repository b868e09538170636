//! Schemas become tables, and grow. Forward only: tables, nullable columns and indexes are added; what would lose or
//! reinterpret data is refused. The ledger table remembers the shape of every schema.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crm_core::record::{Field, FieldType, Index, Schema, Value};
use crm_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::compile::{self, Sql, ledger};
use super::driver::{Dialect, Fault, Part};
use super::lane::Lane;

/// The form of the ledger itself; a database with a higher one was written by a newer version of this crate.
const FORMAT: u64 = 1;
/// The ledger's own entry. No schema has this name: names begin with a letter.
const FORMAT_ENTRY: &str = "#format";
/// What the entry of a migration that has begun and not ended is called, before the schema's name. Only where tables are
/// not made within a unit of work.
const UNFINISHED: &str = "#unfinished:";

/// A schema as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Shape {
    fields: Vec<(String, FieldType, bool)>,
    indexes: Vec<(String, Vec<String>, bool)>,
}

impl Shape {
    fn of(schema: &Schema) -> Self {
        let field = |f: &Field| (f.name.to_owned(), f.ty, f.nullable);
        let index = |i: &Index| {
            (
                i.name.to_owned(),
                i.fields.iter().map(|f| (*f).to_owned()).collect(),
                i.unique,
            )
        };
        Self {
            fields: schema.fields.iter().map(field).collect(),
            indexes: schema.indexes.iter().map(index).collect(),
        }
    }

    /// The shape as text, and its hash.
    fn written(&self) -> Result<(String, String)> {
        let text = serde_json::to_string(self).map_err(|e| Error::unexpected("a shape as JSON").source(e))?;
        let hash = Sha256::digest(text.as_bytes())
            .iter()
            .fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            });
        Ok((text, hash))
    }
}

/// One statement to run, and what it is about.
struct Step<'a> {
    sql: Sql,
    index: Option<&'static str>,
    /// What is there once the step is done, or no more (`false`); steps without it can be repeated.
    leaves: Option<(Part<'a>, bool)>,
}

/// Brings the database to these schemas, within the unit of work that is open on `lane`, one migration at a time.
pub(super) async fn locked<D: Dialect>(lane: &mut Lane<D>, schemas: &[&'static Schema]) -> Result<()> {
    let (driver, connection) = lane.parts();
    let held = driver.lock(connection).await;
    lane.heard(held).map_err(Fault::into_error)?;
    let done = migrate(lane, schemas).await;
    let (driver, connection) = lane.parts();
    // When it cannot be let go, the connection goes, and with it the lock.
    let free = driver.unlock(connection).await;
    let free = lane.heard(free).map_err(Fault::into_error);
    done.and(free)
}

async fn migrate<D: Dialect>(lane: &mut Lane<D>, schemas: &[&'static Schema]) -> Result<()> {
    lane.execute(ledger::create::<D>())
        .await
        .map_err(Fault::into_error)?;
    let mut known = read_ledger(lane).await?;
    fits(lane, schemas)?;
    match known.remove(FORMAT_ENTRY) {
        None => {
            let (text, hash) = (FORMAT.to_string(), String::new());
            lane.execute(ledger::add::<D>(FORMAT_ENTRY, &text, &hash))
                .await
                .map_err(Fault::into_error)?;
        }
        Some((text, _)) => {
            let found = text.parse::<u64>().unwrap_or(u64::MAX);
            if found > FORMAT {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "the database was written by a newer version of open-crm; upgrade the program",
                )
                .with("ledger_format", text)
                .with("known_format", FORMAT));
            }
        }
    }
    for schema in schemas {
        let now = Shape::of(schema);
        let (text, hash) = now.written()?;
        let before: Shape;
        let steps = match known.get(schema.name) {
            Some((_, known_hash)) if *known_hash == hash => continue,
            Some((known_text, _)) => {
                before = serde_json::from_str(known_text).map_err(|_| {
                    Error::new(ErrorKind::Corrupt, "the ledger's entry cannot be read")
                        .with("schema", schema.name)
                })?;
                grow::<D>(schema, &before)?
            }
            None => create::<D>(schema),
        };
        let unfinished = format!("{UNFINISHED}{}", schema.name);
        let resumed = known.contains_key(&unfinished);
        if !D::TABLES_IN_UNIT && !resumed {
            lane.execute(ledger::add::<D>(&unfinished, &text, &hash))
                .await
                .map_err(Fault::into_error)?;
        }
        for step in steps {
            if resumed && done::<D>(lane, schema, &step).await? {
                continue;
            }
            lane.execute(step.sql)
                .await
                .map_err(|fault| refused(schema, step.index, fault))?;
        }
        let entry = if known.contains_key(schema.name) {
            ledger::change::<D>(schema.name, &text, &hash)
        } else {
            ledger::add::<D>(schema.name, &text, &hash)
        };
        lane.execute(entry).await.map_err(Fault::into_error)?;
        if !D::TABLES_IN_UNIT {
            lane.execute(ledger::remove::<D>(&unfinished))
                .await
                .map_err(Fault::into_error)?;
        }
        for sql in D::statistics(schema, lane.parts().0.names()) {
            lane.execute(sql).await.map_err(Fault::into_error)?;
        }
        known.insert(schema.name.to_owned(), (text, hash));
    }
    Ok(())
}

/// Refuses names that the database would cut off.
fn fits<D: Dialect>(lane: &mut Lane<D>, schemas: &[&'static Schema]) -> Result<()> {
    /// What PostgreSQL keeps of a name, in bytes; MySQL keeps one more.
    const LONGEST: usize = 63;
    let prefix = lane.parts().0.names().prefix();
    for schema in schemas {
        let mut names = schema.indexes.iter().map(|index| index.name).chain([schema.name]);
        if let Some(name) = names.find(|name| prefix.len() + name.len() > LONGEST) {
            return Err(
                Error::config("with the prefix, a name is longer than 63 characters")
                    .with("setting", "prefix")
                    .with("name", name),
            );
        }
    }
    Ok(())
}

/// Whether a step of an interrupted migration was already taken.
async fn done<D: Dialect>(lane: &mut Lane<D>, schema: &'static Schema, step: &Step<'_>) -> Result<bool> {
    let Some((part, there)) = step.leaves else {
        return Ok(false);
    };
    let (sql, types) = compile::part::<D>(schema.name, part, lane.parts().0.names());
    let rows = lane.query(sql, &types).await.map_err(Fault::into_error)?;
    Ok(rows.is_empty() != there)
}

async fn read_ledger<D: Dialect>(lane: &mut Lane<D>) -> Result<BTreeMap<String, (String, String)>> {
    let (sql, types) = ledger::read::<D>();
    let rows = lane.query(sql, &types).await.map_err(Fault::into_error)?;
    let entry = |row: Vec<Value>| match <[Value; 3]>::try_from(row) {
        Ok([Value::Text(name), Value::Text(shape), Value::Text(hash)]) => Ok((name, (shape, hash))),
        _ => Err(Error::new(
            ErrorKind::Corrupt,
            "the ledger of schemas cannot be read",
        )),
    };
    rows.into_iter().map(entry).collect()
}

fn create<D: Dialect>(schema: &'static Schema) -> Vec<Step<'static>> {
    let table = Step {
        sql: compile::create_table::<D>(schema),
        index: None,
        leaves: Some((Part::Table, true)),
    };
    let indexes = schema.indexes.iter().map(|index| make::<D>(schema, index));
    std::iter::once(table).chain(indexes).collect()
}

fn make<D: Dialect>(schema: &'static Schema, index: &'static Index) -> Step<'static> {
    Step {
        sql: compile::create_index::<D>(schema, index),
        index: Some(index.name),
        leaves: Some((Part::Index(index.name), true)),
    }
}

fn grow<'a, D: Dialect>(schema: &'static Schema, before: &'a Shape) -> Result<Vec<Step<'a>>> {
    let refused = |message: &'static str, key: &'static str, name: &str| {
        Err(Error::config(message).with("schema", schema.name).with(key, name))
    };
    let mut steps = Vec::new();
    for (name, ty, nullable) in &before.fields {
        match schema.field(name) {
            None => {
                return refused(
                    "a stored field is no longer in the schema; keep it",
                    "field",
                    name,
                );
            }
            Some((_, field)) if field.ty != *ty => {
                return Err(Error::config(
                    "a field is stored with another type; give the new one another name",
                )
                .with("schema", schema.name)
                .with("field", name)
                .with("stored", format!("{ty:?}"))
                .with("wanted", format!("{:?}", field.ty)));
            }
            Some((_, field)) if field.nullable != *nullable => {
                return refused(
                    "whether a stored field may be absent cannot be changed",
                    "field",
                    name,
                );
            }
            Some(_) => {}
        }
    }
    for field in schema.fields {
        if before.fields.iter().any(|(name, ..)| name == field.name) {
            continue;
        }
        if !field.nullable {
            return refused(
                "a field added later must be nullable: stored records do not have it",
                "field",
                field.name,
            );
        }
        steps.push(Step {
            sql: compile::add_column::<D>(schema, field),
            index: None,
            leaves: Some((Part::Column(field.name), true)),
        });
    }
    for (name, fields, unique) in &before.indexes {
        match schema.indexes.iter().find(|index| index.name == name) {
            Some(index) if index.fields.iter().eq(fields.iter()) && index.unique == *unique => {}
            Some(_) => {
                return refused(
                    "an index cannot be changed; give the new one another name",
                    "index",
                    name,
                );
            }
            None if *unique => {
                return refused(
                    "a unique index is no longer in the schema; keep it",
                    "index",
                    name,
                );
            }
            None => steps.push(Step {
                sql: compile::drop_index::<D>(schema, name),
                index: None,
                leaves: Some((Part::Index(name), false)),
            }),
        }
    }
    if D::KEY_TYPES {
        let was_key = |field: &Field| {
            before
                .indexes
                .iter()
                .any(|(_, fields, _)| fields.iter().any(|f| f == field.name))
        };
        for field in schema.fields.iter().filter(|field| field.ty == FieldType::Text) {
            let known = before.fields.iter().any(|(name, ..)| name == field.name);
            if known && schema.is_key(field.name) != was_key(field) {
                steps.push(Step {
                    sql: compile::retype::<D>(schema, field),
                    index: None,
                    leaves: None,
                });
            }
        }
    }
    for index in schema.indexes {
        if !before.indexes.iter().any(|(name, ..)| name == index.name) {
            steps.push(make::<D>(schema, index));
        }
    }
    Ok(steps)
}

fn refused(schema: &'static Schema, index: Option<&'static str>, fault: Fault) -> Error {
    match (fault, index) {
        (Fault::Taken(_), Some(index)) => {
            Error::config("stored records collide in a new unique index; make them different first")
                .with("schema", schema.name)
                .with("index", index)
        }
        (fault, _) => {
            let error = fault.into_error();
            match error.kind() {
                ErrorKind::Unexpected => Error::config(
                    "the table or index cannot be made; does the database hold one of this name that is not ours?",
                )
                .with("schema", schema.name)
                .source(error),
                _ => error.with("schema", schema.name),
            }
        }
    }
}
