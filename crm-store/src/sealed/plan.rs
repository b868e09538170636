//! How a schema lies encrypted in the store behind: the same name and fields, encrypted ones as bytes, and a column more
//! for each blind index.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crm_core::record::{Field, FieldType, Index, Privacy, Record, Schema, Value};
use crm_core::{Error, Result, Uuid};
use serde_json::json;

use super::config::{SealConfig, Subject};
use super::keys::Owner;

/// Behind the name of a field: its blind index.
const BLIND: &str = "_bidx";

/// One field of the schema.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) field: &'static Field,
    pub(super) sealed: bool,
    /// The column of its blind index.
    pub(super) blind: Option<&'static str>,
}

/// Where the person's id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SubjectAt {
    Record,
    Field(&'static str),
    Tenant,
}

/// How one schema is encrypted.
#[derive(Debug)]
pub(super) struct Plan {
    /// What callers see.
    pub(super) logical: &'static Schema,
    /// What the store behind sees. Its first fields are those of `logical`, in their order; then the blind indexes, in
    /// the order of the fields.
    pub(super) physical: &'static Schema,
    pub(super) columns: Vec<Column>,
    pub(super) subject: SubjectAt,
}

impl Plan {
    pub(super) fn new(schema: &'static Schema, config: &SealConfig) -> Result<Self> {
        schema.validate()?;
        let wrong = |setting: &'static str, field: &str, message: &'static str| {
            Error::config(message)
                .with("setting", setting)
                .with("schema", schema.name)
                .with("field", field)
        };
        for (setting, fields) in [
            ("also", &config.also),
            ("open", &config.open),
            ("searchable", &config.searchable),
        ] {
            for name in fields.get(schema.name).into_iter().flatten() {
                if schema.field(name).is_none() {
                    return Err(wrong(setting, name, "the schema has no such field"));
                }
            }
        }
        let mut columns = Vec::with_capacity(schema.fields.len());
        for field in schema.fields {
            let open = SealConfig::lists(&config.open, schema.name, field.name);
            let also = SealConfig::lists(&config.also, schema.name, field.name);
            if open && also {
                return Err(wrong(
                    "open",
                    field.name,
                    "a field is both left open and encrypted",
                ));
            }
            let sealed = also || (field.privacy == Privacy::Personal && !open);
            let asked = SealConfig::lists(&config.searchable, schema.name, field.name);
            if asked && (!sealed || field.ty == FieldType::Json) {
                let message = "only an encrypted field that is not JSON gets a blind index";
                return Err(wrong("searchable", field.name, message));
            }
            if sealed && field.ty == FieldType::Json && schema.is_key(field.name) {
                return Err(wrong(
                    "also",
                    field.name,
                    "a JSON field of an index cannot be encrypted",
                ));
            }
            let blind = sealed && (asked || schema.is_key(field.name));
            columns.push(Column {
                field,
                sealed,
                blind: blind.then(|| intern(&format!("{}{BLIND}", field.name))),
            });
        }
        let subject = subject(schema, config)?;
        if let SubjectAt::Field(name) = subject
            && columns
                .iter()
                .any(|column| column.field.name == name && column.sealed)
        {
            return Err(wrong(
                "subjects",
                name,
                "the field that names the person cannot be encrypted",
            ));
        }
        let physical = physical(schema, &columns)?;
        Ok(Self {
            logical: schema,
            physical,
            columns,
            subject,
        })
    }

    /// Whether anything in it is encrypted.
    pub(super) fn seals(&self) -> bool {
        !std::ptr::eq(self.logical, self.physical)
    }

    pub(super) fn column(&self, field: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.field.name == field)
    }

    pub(super) fn is_sealed(&self, field: &str) -> bool {
        self.column(field).is_some_and(|column| column.sealed)
    }

    pub(super) fn has_blind(&self) -> bool {
        self.columns.iter().any(|column| column.blind.is_some())
    }

    /// Whose data a record is. The field that says it lies open, so this is known of encrypted records too.
    pub(super) fn owner(&self, id: Uuid, record: &Record) -> Owner {
        match self.subject {
            SubjectAt::Record => Owner::Subject(id),
            SubjectAt::Field(name) => match record.get(name) {
                Some(Value::Uuid(subject)) => Owner::Subject(*subject),
                _ => Owner::Tenant,
            },
            SubjectAt::Tenant => Owner::Tenant,
        }
    }

    /// The logical shape, as it is kept beside the data: the physical one does not show the types of encrypted fields.
    pub(super) fn shape(&self) -> serde_json::Value {
        let fields: serde_json::Map<String, serde_json::Value> = self
            .columns
            .iter()
            .map(|column| {
                let shape = json!({
                    "type": column.field.ty,
                    "sealed": column.sealed,
                    "blind": column.blind.is_some(),
                });
                (column.field.name.to_owned(), shape)
            })
            .collect();
        fields.into()
    }

    /// Checks that what is stored was stored in a shape that this one can go on with.
    pub(super) fn fits(&self, stored: &serde_json::Value) -> Result<()> {
        let wrong = |column: &Column, message: &'static str| {
            Err(Error::config(message)
                .with("schema", self.logical.name)
                .with("field", column.field.name))
        };
        for column in &self.columns {
            let Some(before) = stored.get(column.field.name) else {
                continue;
            };
            let flag = |name: &str| {
                before
                    .get(name)
                    .and_then(serde_json::Value::as_bool)
                    .unwrap_or_default()
            };
            if flag("sealed") != column.sealed {
                return wrong(
                    column,
                    "a field is encrypted now and was not before, or the other way round; copy the records into a new store \
                     (crm_store::copy)",
                );
            }
            if before.get("type") != Some(&json!(column.field.ty)) {
                return wrong(column, "an encrypted field is stored with another type");
            }
            if column.sealed && column.blind.is_some() && !flag("blind") {
                return wrong(
                    column,
                    "an encrypted field is in an index now and has no blind index yet, so older records would not be found; \
                     copy the records into a new store (crm_store::copy)",
                );
            }
        }
        Ok(())
    }
}

fn subject(schema: &'static Schema, config: &SealConfig) -> Result<SubjectAt> {
    let uuid = |name: &str| {
        schema
            .field(name)
            .map(|(_, field)| field)
            .filter(|field| field.ty == FieldType::Uuid)
    };
    match config.subjects.get(schema.name) {
        Some(Subject::Record) => Ok(SubjectAt::Record),
        Some(Subject::Tenant) => Ok(SubjectAt::Tenant),
        Some(Subject::Field(name)) => match uuid(name) {
            Some(field) => Ok(SubjectAt::Field(field.name)),
            None => Err(Error::config("the person is named by a UUID field of the schema")
                .with("setting", "subjects")
                .with("schema", schema.name)
                .with("field", name)),
        },
        None if schema.name == "crm_customer" => Ok(SubjectAt::Record),
        // What a merge replaced belongs to the merge: whoever erases a customer erases the images of its merges too.
        None if schema.name == "crm_merge_image" && uuid("merge_id").is_some() => {
            Ok(SubjectAt::Field("merge_id"))
        }
        None => Ok(uuid("customer_id").map_or(SubjectAt::Tenant, |field| SubjectAt::Field(field.name))),
    }
}

fn physical(schema: &'static Schema, columns: &[Column]) -> Result<&'static Schema> {
    if columns.iter().all(|column| !column.sealed) {
        return Ok(schema);
    }
    let mut fields: Vec<Field> = columns
        .iter()
        .map(|column| match column.sealed {
            true => Field {
                ty: FieldType::Bytes,
                ..column.field.sealed()
            },
            false => *column.field,
        })
        .collect();
    for name in columns.iter().filter_map(|column| column.blind) {
        if schema.field(name).is_some() {
            return Err(Error::config("a field has the name of another one's blind index")
                .with("schema", schema.name)
                .with("field", name));
        }
        fields.push(Field::new(name, FieldType::Uuid).nullable().pseudonym());
    }
    let blind = |name: &&'static str| -> &'static str {
        let column = columns.iter().find(|column| column.field.name == *name);
        column.and_then(|column| column.blind).unwrap_or(name)
    };
    let indexes = schema
        .indexes
        .iter()
        .map(|index| (index, index.fields.iter().map(blind).collect()))
        .collect();
    let physical = shape(schema.name, fields, indexes);
    physical.validate()?;
    Ok(physical)
}

/// Schemas are `'static`, and these are made at run time. A shape is kept once for the life of the process, however many
/// stores are opened: there are only as many as the host has schemas and settings.
fn shape(
    name: &'static str,
    fields: Vec<Field>,
    indexes: Vec<(&Index, Vec<&'static str>)>,
) -> &'static Schema {
    static SHAPES: Mutex<BTreeMap<String, &'static Schema>> = Mutex::new(BTreeMap::new());
    let key = format!("{name} {fields:?} {indexes:?}");
    let mut shapes = SHAPES.lock().unwrap_or_else(PoisonError::into_inner);
    shapes.entry(key).or_insert_with(|| {
        let indexes: Vec<Index> = indexes
            .into_iter()
            .map(|(index, fields)| Index {
                fields: Vec::leak(fields),
                ..*index
            })
            .collect();
        Box::leak(Box::new(Schema {
            name,
            fields: Vec::leak(fields),
            indexes: Vec::leak(indexes),
        }))
    })
}

fn intern(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeMap<String, &'static str>> = Mutex::new(BTreeMap::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    names
        .entry(name.to_owned())
        .or_insert_with(|| String::leak(name.to_owned()))
}
