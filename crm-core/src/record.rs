//! The vocabulary of every store: schemas, values, records, and the writes that make one unit of work.
//!
//! A [`Schema`] is `'static`: the names in it are the only identifiers a store ever puts into a statement; values are
//! always bound. Each stored record also carries its tenant, a UUID and a [`Version`] counted by the store.
//!
//! ```
//! use crm_core::record::{Field, FieldType, Index, Record, Schema, Value};
//!
//! static NOTE: Schema = Schema {
//!     name: "note",
//!     fields: &[
//!         Field::new("author", FieldType::Uuid),
//!         Field::new("text", FieldType::Text).personal(),
//!         Field::new("stars", FieldType::Int).nullable(),
//!     ],
//!     indexes: &[Index::new("note_author", &["author"])],
//! };
//!
//! let mut note = Record::new(&NOTE);
//! note.set("text", "likes jazz").unwrap();
//! assert_eq!(note.get("text"), Some(&Value::Text("likes jazz".into())));
//! assert!(note.validate().unwrap_err().to_string().contains("field=author")); // not nullable, not set
//! assert!(!format!("{note:?}").contains("jazz"), "personal data stays out of Debug");
//! ```

mod value;
mod write;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use value::Value;
pub use write::{OnConflict, Outcome, Write};

use crate::{Error, Result, Timestamp, Uuid};

/// Counts the writes of one record, beginning with 1. An update names the version it was based on.
pub type Version = i64;

/// The longest text or JSON value a store accepts, in bytes.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// The longest value of a [`Privacy::Sealed`] field, in bytes: room for the largest document and what encryption adds,
/// and less than any database's limit.
pub const MAX_SEALED_BYTES: usize = 15 << 20;

/// The longest text in a field of an index, in characters: the keys of database indexes have limits, and every store
/// must be able to hold what another one holds. Room for the longest e-mail address.
pub const MAX_KEY_CHARS: usize = 320;

/// The type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    /// True or false.
    Bool,
    /// 64-bit signed integer.
    Int,
    /// 64-bit float, finite: not every database keeps an infinite one.
    Float,
    /// UTF-8 text without NUL, compared byte by byte.
    Text,
    /// Bytes.
    Bytes,
    /// Microseconds UTC.
    Timestamp,
    /// UUID.
    Uuid,
    /// A JSON document; its paths can be filtered on.
    Json,
}

/// How a field relates to a person; encryption, redaction, export and erasure follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Privacy {
    /// Says something about a person.
    Personal,
    /// Refers to a person without naming them.
    Pseudonym,
    /// Personal data that a store has encrypted: opaque bytes, longer than what is in them ([`MAX_SEALED_BYTES`]).
    Sealed,
    /// Neither.
    None,
}

/// One field of a schema.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Lower-case name, `a-z`, `0-9` and `_`; also the column's name.
    pub name: &'static str,
    /// Its type.
    pub ty: FieldType,
    /// Whether it may be absent.
    pub nullable: bool,
    /// How it relates to a person.
    pub privacy: Privacy,
}

impl Field {
    /// A required field that says nothing about a person.
    pub const fn new(name: &'static str, ty: FieldType) -> Self {
        Self {
            name,
            ty,
            nullable: false,
            privacy: Privacy::None,
        }
    }

    /// The same field, but it may be absent.
    #[must_use]
    pub const fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }

    /// The same field, marked as personal data.
    #[must_use]
    pub const fn personal(mut self) -> Self {
        self.privacy = Privacy::Personal;
        self
    }

    /// The same field, marked as encrypted personal data.
    #[must_use]
    pub const fn sealed(mut self) -> Self {
        self.privacy = Privacy::Sealed;
        self
    }

    /// The same field, marked as a pseudonym (an id that stands for a person).
    #[must_use]
    pub const fn pseudonym(mut self) -> Self {
        self.privacy = Privacy::Pseudonym;
        self
    }
}

/// An index over fields of a schema, always within a tenant.
#[derive(Debug, Clone, Copy)]
pub struct Index {
    /// Its name, unique among all schemas.
    pub name: &'static str,
    /// The fields, most significant first.
    pub fields: &'static [&'static str],
    /// Whether two records of a tenant may not agree in all fields. A record with a null among them never collides.
    pub unique: bool,
}

impl Index {
    /// An index that only speeds up.
    pub const fn new(name: &'static str, fields: &'static [&'static str]) -> Self {
        Self {
            name,
            fields,
            unique: false,
        }
    }

    /// An index that also forbids duplicates within a tenant.
    pub const fn unique(name: &'static str, fields: &'static [&'static str]) -> Self {
        Self {
            name,
            fields,
            unique: true,
        }
    }
}

/// The shape of a kind of record. Made once as a `static`.
#[derive(Debug)]
pub struct Schema {
    /// Lower-case name, `a-z`, `0-9` and `_`; also the table's name.
    pub name: &'static str,
    /// The fields, in the order in which records keep their values.
    pub fields: &'static [Field],
    /// The indexes.
    pub indexes: &'static [Index],
}

impl Schema {
    /// The position and description of a field.
    pub fn field(&self, name: &str) -> Option<(usize, &'static Field)> {
        self.fields.iter().enumerate().find(|(_, f)| f.name == name)
    }

    /// Whether a field is part of an index: its text is at most [`MAX_KEY_CHARS`] long.
    pub fn is_key(&self, field: &str) -> bool {
        self.indexes.iter().any(|index| index.fields.contains(&field))
    }

    /// Checks the schema itself: names, duplicate fields, indexes over fields that exist.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] naming the schema and the field or index.
    pub fn validate(&self) -> Result<()> {
        let named = |name: &str| {
            !name.is_empty()
                && name.len() <= 63
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                && name.starts_with(|c: char| c.is_ascii_lowercase())
        };
        let wrong = |what: &'static str, name: &str| {
            Err(Error::config(what).with("schema", self.name).with("name", name))
        };
        if !named(self.name) {
            return wrong(
                "a schema is named with a-z, 0-9 and _, a letter first, at most 63",
                self.name,
            );
        }
        for (i, field) in self.fields.iter().enumerate() {
            if !named(field.name) || RESERVED.contains(&field.name) {
                return wrong(
                    "a field is named with a-z, 0-9 and _, and not tenant, id or version",
                    field.name,
                );
            }
            if self
                .fields
                .iter()
                .skip(i + 1)
                .any(|other| other.name == field.name)
            {
                return wrong("two fields of the same name", field.name);
            }
        }
        for index in self.indexes {
            if !named(index.name) || index.fields.is_empty() {
                return wrong("an index has a plain name and at least one field", index.name);
            }
            if index.fields.iter().any(|field| self.field(field).is_none()) {
                return wrong("an index over a field the schema does not have", index.name);
            }
        }
        Ok(())
    }
}

/// The columns every store adds by itself.
pub const RESERVED: [&str; 3] = ["tenant", "id", "version"];

/// The values of one record, in the order of its schema.
#[derive(Clone)]
pub struct Record {
    schema: &'static Schema,
    // Shared, so that a unit of work can be handed on with more writes without copying what is in it.
    values: Arc<Vec<Value>>,
}

impl Record {
    /// A record with every field absent.
    pub fn new(schema: &'static Schema) -> Self {
        Self {
            schema,
            values: Arc::new(vec![Value::Null; schema.fields.len()]),
        }
    }

    /// A record from values in the schema's order.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when their number or a type is wrong, or a required one is null.
    pub fn from_values(schema: &'static Schema, values: Vec<Value>) -> Result<Self> {
        if values.len() != schema.fields.len() {
            return Err(Error::invalid("the number of values is not the number of fields")
                .with("schema", schema.name)
                .with("values", values.len())
                .with("fields", schema.fields.len()));
        }
        let record = Self::trusted(schema, values);
        record.validate()?;
        Ok(record)
    }

    /// Its schema.
    pub fn schema(&self) -> &'static Schema {
        self.schema
    }

    /// All values, in the schema's order.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// All values, taken out.
    pub fn into_values(self) -> Vec<Value> {
        Arc::unwrap_or_clone(self.values)
    }

    /// A field's value; `None` when the schema has no such field.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.values.get(self.schema.field(field)?.0)
    }

    /// Sets a field.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when there is no such field or the type is wrong.
    pub fn set(&mut self, field: &str, value: impl Into<Value>) -> Result<()> {
        let value = value.into();
        let Some((i, described)) = self.schema.field(field) else {
            return Err(Error::invalid("no such field")
                .with("schema", self.schema.name)
                .with("field", field));
        };
        check(self.schema, described, &value, true)?;
        if let Some(slot) = Arc::make_mut(&mut self.values).get_mut(i) {
            *slot = value;
        }
        Ok(())
    }

    /// A record from values already known to fit the schema, in its order.
    pub(crate) fn trusted(schema: &'static Schema, values: Vec<Value>) -> Self {
        Self {
            schema,
            values: Arc::new(values),
        }
    }

    /// [`Record::set`] for building a record in one expression.
    ///
    /// # Errors
    /// As [`Record::set`].
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Result<Self> {
        self.set(field, value)?;
        Ok(self)
    }

    /// Checks every value against the schema: types, required fields, no NUL in text, finite numbers, sizes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the field.
    pub fn validate(&self) -> Result<()> {
        for (field, value) in self.schema.fields.iter().zip(self.values.iter()) {
            check(self.schema, field, value, field.nullable)?;
        }
        Ok(())
    }

    /// A field as text.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] when it is absent or of another type.
    pub fn text(&self, field: &'static str) -> Result<&str> {
        self.get(field)
            .and_then(Value::as_str)
            .ok_or_else(|| self.damaged(field))
    }

    /// A field as an integer. Errors as [`Record::text`].
    ///
    /// # Errors
    /// As [`Record::text`].
    pub fn int(&self, field: &'static str) -> Result<i64> {
        self.get(field)
            .and_then(Value::as_int)
            .ok_or_else(|| self.damaged(field))
    }

    /// A field as an instant.
    ///
    /// # Errors
    /// As [`Record::text`].
    pub fn timestamp(&self, field: &'static str) -> Result<Timestamp> {
        self.get(field)
            .and_then(Value::as_timestamp)
            .ok_or_else(|| self.damaged(field))
    }

    /// A field as a UUID.
    ///
    /// # Errors
    /// As [`Record::text`].
    pub fn uuid(&self, field: &'static str) -> Result<Uuid> {
        self.get(field)
            .and_then(Value::as_uuid)
            .ok_or_else(|| self.damaged(field))
    }

    /// A field as a bool.
    ///
    /// # Errors
    /// As [`Record::text`].
    pub fn bool(&self, field: &'static str) -> Result<bool> {
        match self.get(field) {
            Some(Value::Bool(flag)) => Ok(*flag),
            _ => Err(self.damaged(field)),
        }
    }

    /// A JSON field, read into a type; an absent one is the type's default.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] when the document does not fit the type.
    pub fn json<T: serde::de::DeserializeOwned + Default>(&self, field: &'static str) -> Result<T> {
        match self.get(field) {
            Some(Value::Json(json)) => T::deserialize(json).map_err(|_| self.damaged(field)),
            Some(Value::Null) => Ok(T::default()),
            _ => Err(self.damaged(field)),
        }
    }

    /// The error for a stored value that is not what its schema says.
    pub fn damaged(&self, field: &'static str) -> Error {
        Error::new(
            crate::ErrorKind::Corrupt,
            "a stored value is not what its schema says",
        )
        .with("schema", self.schema.name)
        .with("field", field)
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.schema, other.schema) && self.values == other.values
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct(self.schema.name);
        for (field, value) in self.schema.fields.iter().zip(self.values.iter()) {
            out.field(field.name, value);
        }
        out.finish()
    }
}

pub(crate) fn check(schema: &Schema, field: &Field, value: &Value, null_ok: bool) -> Result<()> {
    let wrong = |message: &'static str| {
        Err(Error::invalid(message)
            .with("schema", schema.name)
            .with("field", field.name))
    };
    match value {
        Value::Null if null_ok => return Ok(()),
        Value::Null => return wrong("a required field is absent"),
        _ => {}
    }
    if value.ty() != Some(field.ty) {
        return wrong("a value of another type than the field's");
    }
    match value {
        Value::Float(float) if !float.is_finite() => wrong("NaN and infinite numbers cannot be stored"),
        Value::Text(text) if text.contains('\0') => wrong("text with a NUL character cannot be stored"),
        Value::Text(text) if text.len() > MAX_VALUE_BYTES => wrong("text longer than 1 MiB cannot be stored"),
        Value::Text(text) if text.len() > MAX_KEY_CHARS && schema.is_key(field.name) && too_long(text) => {
            wrong("text in an indexed field cannot be longer than 320 characters")
        }
        Value::Bytes(bytes) if field.privacy == Privacy::Sealed => {
            if bytes.len() > MAX_SEALED_BYTES {
                return wrong("more than 15 MiB cannot be stored encrypted");
            }
            Ok(())
        }
        Value::Bytes(bytes) if bytes.len() > MAX_VALUE_BYTES => {
            wrong("more than 1 MiB of bytes cannot be stored")
        }
        Value::Json(json) => check_json(json).or_else(wrong),
        _ => Ok(()),
    }
}

fn too_long(key: &str) -> bool {
    key.chars().nth(MAX_KEY_CHARS).is_some()
}

fn check_json(json: &serde_json::Value) -> Result<(), &'static str> {
    match json {
        serde_json::Value::String(text) if text.contains('\0') => {
            Err("JSON text with a NUL character cannot be stored")
        }
        serde_json::Value::String(text) if text.len() > MAX_VALUE_BYTES => {
            Err("JSON text longer than 1 MiB cannot be stored")
        }
        serde_json::Value::Array(items) => items.iter().try_for_each(check_json),
        serde_json::Value::Object(map) => map.iter().try_for_each(|(key, value)| {
            if key.contains('\0') {
                return Err("a JSON key with a NUL character cannot be stored");
            }
            check_json(value)
        }),
        _ => Ok(()),
    }
}

/// A record as a store gives it back.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its id.
    pub id: Uuid,
    /// How often it was written.
    pub version: Version,
    /// Its values.
    pub record: Record,
}

/// A type that is stored as one record.
pub trait Entity: Sized + Send + Sync {
    /// The shape of its record.
    fn schema() -> &'static Schema;

    /// Its id.
    fn record_id(&self) -> Uuid;

    /// Its values.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when a value cannot be stored.
    fn to_record(&self) -> Result<Record>;

    /// Reads it back.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] when a stored value is not what the schema says.
    fn from_stored(stored: Stored) -> Result<Self>;
}

#[cfg(test)]
mod tests {
    use super::*;

    static KEYED: Schema = Schema {
        name: "keyed",
        fields: &[
            Field::new("key", FieldType::Text),
            Field::new("text", FieldType::Text).nullable(),
        ],
        indexes: &[Index::new("keyed_key", &["key"])],
    };

    #[test]
    fn keys_are_not_longer_than_any_database_indexes() {
        let mut record = Record::new(&KEYED);
        record.set("key", "日".repeat(MAX_KEY_CHARS)).unwrap();
        record.set("text", "x".repeat(MAX_VALUE_BYTES)).unwrap();
        let error = record.set("key", "x".repeat(MAX_KEY_CHARS + 1)).unwrap_err();
        assert_eq!(error.context("field"), Some("key"), "{error}");
    }

    static ODD: Schema = Schema {
        name: "odd",
        fields: &[
            Field::new("a", FieldType::Text),
            Field::new("f", FieldType::Float).nullable(),
        ],
        indexes: &[Index::unique("odd_a", &["b"])],
    };

    #[test]
    fn a_schema_with_a_wrong_index_is_refused() {
        assert!(ODD.validate().unwrap_err().to_string().contains("name=odd_a"));
    }

    #[test]
    fn what_no_store_keeps_alike_is_refused() {
        let mut record = Record::new(&ODD);
        assert!(record.set("a", "x\0y").is_err());
        assert!(record.set("f", f64::NAN).is_err() && record.set("f", f64::INFINITY).is_err());
        assert!(
            record.set("f", 1_i64).is_err(),
            "an integer is not silently made a float"
        );
        assert!(
            record
                .set("nope", 1_i64)
                .unwrap_err()
                .to_string()
                .contains("field=nope")
        );
        assert!(record.set("a", "x".repeat(MAX_VALUE_BYTES + 1)).is_err());
    }
}
