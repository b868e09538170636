//! Schemas become tables, and grow. Forward only: tables, nullable columns and indexes are added; what would lose or
//! reinterpret data is refused. The ledger table remembers the shape of every schema.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crm_core::record::{Field, FieldType, Index, Schema, Value};
use crm_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::compile::{self, Sql, ledger};
use super::driver::{Dialect, Fault};
use super::lane::Lane;

/// The form of the ledger itself; a database with a higher one was written by a newer version of this crate.
const FORMAT: u64 = 1;
/// The ledger's own entry. No schema has this name: names begin with a letter.
const FORMAT_ENTRY: &str = "#format";

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
struct Step {
    sql: Sql,
    index: Option<&'static str>,
}

/// Brings the database to these schemas, within the unit of work that is open on `lane`.
pub(super) async fn migrate<D: Dialect>(lane: &mut Lane<D>, schemas: &[&'static Schema]) -> Result<()> {
    lane.execute(ledger::create::<D>())
        .await
        .map_err(Fault::into_error)?;
    let mut known = read_ledger(lane).await?;
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
        let steps = match known.get(schema.name) {
            Some((_, known_hash)) if *known_hash == hash => continue,
            Some((known_text, _)) => {
                let before: Shape = serde_json::from_str(known_text).map_err(|_| {
                    Error::new(ErrorKind::Corrupt, "the ledger's entry cannot be read")
                        .with("schema", schema.name)
                })?;
                grow::<D>(schema, &before)?
            }
            None => create::<D>(schema),
        };
        for step in steps {
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
        for sql in D::statistics(schema) {
            lane.execute(sql).await.map_err(Fault::into_error)?;
        }
        known.insert(schema.name.to_owned(), (text, hash));
    }
    Ok(())
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

fn create<D: Dialect>(schema: &'static Schema) -> Vec<Step> {
    let table = Step {
        sql: compile::create_table::<D>(schema),
        index: None,
    };
    let indexes = schema.indexes.iter().map(|index| Step {
        sql: compile::create_index::<D>(schema, index),
        index: Some(index.name),
    });
    std::iter::once(table).chain(indexes).collect()
}

fn grow<D: Dialect>(schema: &'static Schema, before: &Shape) -> Result<Vec<Step>> {
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
                sql: compile::drop_index::<D>(name),
                index: None,
            }),
        }
    }
    for index in schema.indexes {
        if !before.indexes.iter().any(|(name, ..)| name == index.name) {
            steps.push(Step {
                sql: compile::create_index::<D>(schema, index),
                index: Some(index.name),
            });
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
