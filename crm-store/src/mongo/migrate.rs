//! Schemas become collections, and grow. Forward only: collections and indexes are added, a field is there as soon as a
//! record has it; what would lose or reinterpret data is refused. The ledger remembers the shape of every schema.
//!
//! Every step can be repeated, and a schema's entry in the ledger changes last and only from the one that was read. So
//! several processes may do this at the same time, and one that dies on the way leaves nothing that the next start does
//! not finish.

use std::collections::HashSet;
use std::fmt::Write as _;

use crm_core::record::{Field, FieldType, Index, Schema};
use crm_core::{Error, ErrorKind, Result};
use mongodb::bson::{Document, doc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::{self, code};
use super::link::{Call, Fault, Patience};
use super::wire::{ID, OWN_ID, TENANT, VERSION};

/// The collection of the ledger.
pub(super) const LEDGER: &str = "crm_ledger";
/// The form of the ledger itself; a database with a higher one was written by a newer version of this crate.
const FORMAT: i64 = 1;
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

    fn read(schema: &'static Schema, text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|_| {
            Error::new(ErrorKind::Corrupt, "the ledger's entry cannot be read").with("schema", schema.name)
        })
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

/// An entry of the ledger: shape and its hash.
struct Entry {
    shape: String,
    hash: String,
}

/// Brings the database to these schemas.
pub(super) async fn migrate(call: &Call<'_>, schemas: &[&'static Schema]) -> Result<()> {
    check_format(call).await?;
    let mut patience = call.patience();
    for schema in schemas {
        while !brought(call, schema, &mut patience).await? {}
    }
    Ok(())
}

async fn check_format(call: &Call<'_>) -> Result<()> {
    let ledger = ledger(call);
    let step = ledger
        .find_one_and_update(
            doc! { ID: FORMAT_ENTRY },
            doc! { "$setOnInsert": { "format": FORMAT } },
        )
        .upsert(true)
        .return_document(mongodb::options::ReturnDocument::After);
    let entry = match call.run(async { step.await }).await {
        Ok(entry) => entry,
        // Somebody else added it at the same moment.
        Err(Fault::Driver(error)) if error::taken(&error).is_some() => {
            let again = ledger.find_one(doc! { ID: FORMAT_ENTRY });
            call.run(async { again.await }).await.map_err(Fault::into_error)?
        }
        Err(fault) => return Err(fault.into_error()),
    };
    let found = entry
        .and_then(|entry| entry.get_i64("format").ok())
        .unwrap_or(i64::MAX);
    if found > FORMAT {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the database was written by a newer version of open-crm; upgrade the program",
        )
        .with("ledger_format", found)
        .with("known_format", FORMAT));
    }
    Ok(())
}

fn ledger(call: &Call<'_>) -> mongodb::Collection<Document> {
    let name = format!("{}{LEDGER}", call.link.config.prefix);
    call.link.database.collection(&name)
}

async fn entry(call: &Call<'_>, schema: &'static Schema) -> Result<Option<Entry>> {
    let ledger = ledger(call);
    let step = ledger.find_one(doc! { ID: schema.name });
    let found = call.run(async { step.await }).await.map_err(Fault::into_error)?;
    found
        .map(|entry| match (entry.get_str("shape"), entry.get_str("hash")) {
            (Ok(shape), Ok(hash)) => Ok(Entry {
                shape: shape.to_owned(),
                hash: hash.to_owned(),
            }),
            _ => Err(
                Error::new(ErrorKind::Corrupt, "the ledger's entry cannot be read")
                    .with("schema", schema.name),
            ),
        })
        .transpose()
}

/// Whether the database holds what this schema names, so that records can be read and written.
pub(super) async fn is_migrated(call: &Call<'_>, schema: &'static Schema) -> Result<()> {
    let missing = || {
        Error::config("the store has no room for this schema yet; call migrate first")
            .with("schema", schema.name)
    };
    let Some(entry) = entry(call, schema).await? else {
        return Err(missing());
    };
    let known = Shape::read(schema, &entry.shape)?;
    for field in schema.fields {
        let stored = known
            .fields
            .iter()
            .any(|(name, ty, _)| name == field.name && *ty == field.ty);
        if !stored {
            return Err(missing().with("field", field.name));
        }
    }
    Ok(())
}

/// One try to bring one schema in; false when somebody else changed its entry meanwhile.
async fn brought(call: &Call<'_>, schema: &'static Schema, patience: &mut Patience<'_>) -> Result<bool> {
    let (text, hash) = Shape::of(schema).written()?;
    let before = entry(call, schema).await?;
    let (added, dropped) = match &before {
        Some(before) if before.hash == hash => return Ok(true),
        Some(before) => grown(schema, &Shape::read(schema, &before.shape)?)?,
        None => {
            create(call, schema).await?;
            (schema.indexes.iter().collect(), Vec::new())
        }
    };
    for index in added {
        add_index(call, schema, index, patience).await?;
    }
    let ledger = ledger(call);
    let noted = match &before {
        None => {
            let step = ledger.insert_one(doc! { ID: schema.name, "shape": text, "hash": hash });
            match call.run(async { step.await }).await {
                Ok(_) => true,
                Err(Fault::Driver(error)) if error::taken(&error).is_some() => false,
                Err(fault) => return Err(fault.into_error()),
            }
        }
        Some(before) => {
            let step = ledger.update_one(
                doc! { ID: schema.name, "hash": &before.hash },
                doc! { "$set": { "shape": text, "hash": hash } },
            );
            let done = call.run(async { step.await }).await.map_err(Fault::into_error)?;
            done.matched_count == 1
        }
    };
    if noted {
        for name in dropped {
            drop_index(call, schema, &name).await?;
        }
    }
    Ok(noted)
}

/// Makes the collection, or makes sure that one which is there holds nothing but records.
async fn create(call: &Call<'_>, schema: &'static Schema) -> Result<()> {
    let name = call.link.name(schema);
    let step = call.link.database.create_collection(&name);
    match call.run(async { step.await }).await {
        // Newer servers say the same of one that is there.
        Ok(()) => {}
        Err(Fault::Driver(error)) if error::code_of(&error) == Some(code::NAMESPACE_EXISTS) => {}
        Err(fault) => return Err(fault.into_error().with("schema", schema.name)),
    }
    let ours =
        doc! { TENANT: { "$type": "string" }, OWN_ID: { "$type": "binData" }, VERSION: { "$type": "long" } };
    let records = call.link.records(schema);
    let foreign = records
        .find_one(doc! { "$nor": [ours] })
        .projection(doc! { ID: 1 });
    match call
        .run(async { foreign.await })
        .await
        .map_err(Fault::into_error)?
    {
        None => Ok(()),
        Some(_) => Err(Error::config(
            "the database holds a collection of this name that is not ours; set a prefix or another database",
        )
        .with("schema", schema.name)
        .with("collection", name)),
    }
}

/// Within a tenant. A record with an absent value is not in a unique index, so it never collides. Behind the fields of
/// the others stands the id, so that pages in their order need no sorting.
fn specification(schema: &'static Schema, index: &Index) -> Document {
    let mut keys = doc! { TENANT: 1 };
    for field in index.fields {
        keys.insert(*field, 1);
    }
    if !index.unique {
        keys.insert(OWN_ID, 1);
        return doc! { "key": keys, "name": index.name };
    }
    let nullable = index
        .fields
        .iter()
        .filter(|name| schema.field(name).is_some_and(|(_, field)| field.nullable));
    let there: Document = nullable
        .map(|name| ((*name).to_owned(), doc! { "$exists": true }.into()))
        .collect();
    let mut specification = doc! { "key": keys, "name": index.name, "unique": true };
    if !there.is_empty() {
        specification.insert("partialFilterExpression", there);
    }
    specification
}

async fn add_index(
    call: &Call<'_>,
    schema: &'static Schema,
    index: &'static Index,
    patience: &mut Patience<'_>,
) -> Result<()> {
    loop {
        let command = doc! {
            "createIndexes": call.link.name(schema),
            "indexes": [specification(schema, index)],
            "writeConcern": { "w": "majority" },
        };
        let database = call.link.database.clone();
        let step = database.run_command(command);
        let error = match call.run(async { step.await }).await {
            Ok(_) => return Ok(()),
            Err(Fault::Driver(error)) => error,
            Err(fault) => return Err(fault.into_error()),
        };
        return Err(match error::code_of(&error) {
            Some(code::DUPLICATE_KEY) => {
                Error::config("stored records collide in a new unique index; make them different first")
                    .with("schema", schema.name)
                    .with("index", index.name)
            }
            // Another process builds the same one at this moment.
            Some(
                code::INDEX_BUILD_ABORTED
                | code::INDEX_BUILD_IN_PROGRESS
                | code::BACKGROUND_OPERATION_IN_PROGRESS,
            ) => {
                patience.again(error::classify(&error)).await?;
                continue;
            }
            _ => error::classify(&error)
                .with("schema", schema.name)
                .with("index", index.name),
        });
    }
}

async fn drop_index(call: &Call<'_>, schema: &'static Schema, name: &str) -> Result<()> {
    let records = call.link.records(schema);
    let step = records.drop_index(name);
    match call.run(async { step.await }).await {
        Ok(()) => Ok(()),
        Err(Fault::Driver(error)) if error::code_of(&error) == Some(code::INDEX_NOT_FOUND) => Ok(()),
        Err(fault) => Err(fault.into_error().with("schema", schema.name)),
    }
}

/// What is to be added and dropped, when the schema only grew.
fn grown(schema: &'static Schema, before: &Shape) -> Result<(Vec<&'static Index>, Vec<String>)> {
    let refused = |message: &'static str, key: &'static str, name: &str| {
        Err(Error::config(message).with("schema", schema.name).with(key, name))
    };
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
        if !field.nullable && !before.fields.iter().any(|(name, ..)| name == field.name) {
            return refused(
                "a field added later must be nullable: stored records do not have it",
                "field",
                field.name,
            );
        }
    }
    let mut dropped = Vec::new();
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
            None => dropped.push(name.clone()),
        }
    }
    let known: HashSet<&str> = before.indexes.iter().map(|(name, ..)| name.as_str()).collect();
    let added = schema.indexes.iter().filter(|index| !known.contains(index.name));
    Ok((added.collect(), dropped))
}
