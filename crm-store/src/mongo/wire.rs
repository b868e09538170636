//! How records lie in MongoDB.
//!
//! A record is a document: `_id` is `{t: tenant, i: id}`, `version` counts its writes, the fields stand beside under
//! their names. An absent field is not there at all. Integers and instants (microseconds) are 64-bit, ids are UUIDs
//! (subtype 4), bytes are text in hexadecimal: BSON's own bytes are ordered by their length first.
//!
//! A JSON field is `{v: ..}`, made so that a path names keys of objects only, whatever the keys look like: the keys of
//! its objects begin with `_` and have `.`, `$`, `%` and NUL escaped as `%2E`, `%24`, `%25` and `%00`; an array is
//! `{a: [..]}`. The rest is as in JSON. Only integers beyond 64 signed bits do not fit BSON: they are the nearest float,
//! and the document's text stands beside in `d`.

use std::borrow::Cow;

use crm_core::record::{Field, FieldType, Record, Schema, Stored, Value, Version};
use crm_core::{Error, ErrorKind, Result, TenantId, Timestamp, Uuid};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use serde_json::Value as Json;

/// The record's id and tenant.
pub(super) const ID: &str = "_id";
/// The tenant within [`ID`].
pub(super) const TENANT: &str = "_id.t";
/// The record's id within [`ID`].
pub(super) const OWN_ID: &str = "_id.i";
/// The record's version.
pub(super) const VERSION: &str = "version";

/// Levels of BSON a JSON document may use; MongoDB stores 180.
const DEPTH: usize = 150;

pub(super) fn uuid(id: Uuid) -> Bson {
    Bson::Binary(Binary {
        subtype: BinarySubtype::Uuid,
        bytes: id.as_bytes().to_vec(),
    })
}

pub(super) fn key(tenant: &TenantId, id: Uuid) -> Bson {
    Bson::Document(doc! { "t": tenant.as_str(), "i": uuid(id) })
}

/// Where a field lies: `id` is within the key.
pub(super) fn place(field: &str) -> &str {
    if field == "id" { OWN_ID } else { field }
}

/// Where a path below a JSON field lies.
pub(super) fn path(field: &str, keys: &[String]) -> String {
    keys.iter().fold(format!("{field}.v"), |mut path, key| {
        path.push('.');
        path.push_str(&escaped(key));
        path
    })
}

fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 1);
    out.push('_');
    for c in key.chars() {
        match c {
            '.' => out.push_str("%2E"),
            '$' => out.push_str("%24"),
            '%' => out.push_str("%25"),
            '\0' => out.push_str("%00"),
            c => out.push(c),
        }
    }
    out
}

fn unescaped(key: &str) -> Option<Cow<'_, str>> {
    let key = key.strip_prefix('_')?;
    if !key.contains('%') {
        return Some(Cow::Borrowed(key));
    }
    let mut out = String::with_capacity(key.len());
    let mut rest = key;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        out.push(match after.get(..2)? {
            "2E" => '.',
            "24" => '$',
            "25" => '%',
            "00" => '\0',
            _ => return None,
        });
        rest = after.get(2..)?;
    }
    out.push_str(rest);
    Some(Cow::Owned(out))
}

fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(if n < 10 { b'0' + n } else { b'a' + n - 10 });
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    rest.is_empty().then(|| bytes.collect()).flatten()
}

/// A value as it is stored and compared; nothing for an absent one.
///
/// # Errors
/// A JSON document that is nested too deeply.
pub(super) fn bson(value: &Value) -> Result<Option<Bson>> {
    Ok(Some(match value {
        Value::Null => return Ok(None),
        Value::Bool(flag) => Bson::Boolean(*flag),
        Value::Int(int) => Bson::Int64(*int),
        Value::Float(float) => Bson::Double(*float),
        Value::Text(text) => Bson::String(text.clone()),
        Value::Bytes(bytes) => Bson::String(hex(bytes)),
        Value::Timestamp(at) => Bson::Int64(at.as_micros()),
        Value::Uuid(id) => uuid(*id),
        Value::Json(json) => {
            let mut fits = true;
            let mut stored = doc! { "v": shadow(json, DEPTH, &mut fits)? };
            if !fits {
                stored.insert("d", json.to_string());
            }
            Bson::Document(stored)
        }
    }))
}

/// A JSON value in BSON; says when it does not fit.
fn shadow(json: &Json, depth: usize, fits: &mut bool) -> Result<Bson> {
    let deeper = |levels: usize| {
        depth
            .checked_sub(levels)
            .ok_or_else(|| Error::invalid("a JSON document is nested too deeply for MongoDB"))
    };
    Ok(match json {
        Json::Null => Bson::Null,
        Json::Bool(flag) => Bson::Boolean(*flag),
        Json::String(text) => Bson::String(text.clone()),
        Json::Number(number) => match number.as_i64() {
            Some(int) => Bson::Int64(int),
            None => {
                *fits &= !number.is_u64();
                Bson::Double(number.as_f64().unwrap_or_default())
            }
        },
        Json::Array(items) => {
            let depth = deeper(2)?;
            let items = items
                .iter()
                .map(|item| shadow(item, depth, fits))
                .collect::<Result<Vec<Bson>>>()?;
            Bson::Document(doc! { "a": items })
        }
        Json::Object(map) => {
            let depth = deeper(1)?;
            let mut object = Document::new();
            for (key, value) in map {
                object.insert(escaped(key), shadow(value, depth, fits)?);
            }
            Bson::Document(object)
        }
    })
}

fn unshadow(stored: RawBsonRef<'_>) -> Option<Json> {
    Some(match stored {
        RawBsonRef::Null => Json::Null,
        RawBsonRef::Boolean(flag) => Json::Bool(flag),
        RawBsonRef::String(text) => Json::String(text.to_owned()),
        RawBsonRef::Int64(int) => Json::from(int),
        RawBsonRef::Double(float) => Json::Number(serde_json::Number::from_f64(float)?),
        RawBsonRef::Document(document) => {
            let mut object = serde_json::Map::new();
            for pair in document {
                let (key, value) = pair.ok()?;
                if key.as_str() == "a" {
                    let items = value.as_array()?.into_iter().map(|item| unshadow(item.ok()?));
                    return items.collect::<Option<Vec<Json>>>().map(Json::Array);
                }
                object.insert(unescaped(key.as_str())?.into_owned(), unshadow(value)?);
            }
            Json::Object(object)
        }
        _ => return None,
    })
}

/// The JSON document of a field.
fn document(stored: RawBsonRef<'_>) -> Option<Json> {
    let field = stored.as_document()?;
    match field.get("d").ok()? {
        Some(text) => serde_json::from_str(text.as_str()?).ok(),
        None => unshadow(field.get("v").ok()??),
    }
}

/// What lies at a path of a JSON field as a text column shows it: texts as they are, everything else as JSON.
pub(super) fn text_at(stored: RawBsonRef<'_>, keys: &[String]) -> Option<String> {
    let field = stored.as_document()?;
    let found = if field.get("d").ok()?.is_some() {
        let whole = document(stored)?;
        keys.iter()
            .try_fold(&whole, |json, key| json.as_object()?.get(key))?
            .clone()
    } else {
        let mut at = field.get("v").ok()??;
        for key in keys {
            at = at.as_document()?.get(escaped(key)).ok()??;
        }
        unshadow(at)?
    };
    match found {
        Json::Null => None,
        Json::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// A stored value of this type; nothing when it is of another.
pub(super) fn value(ty: FieldType, stored: RawBsonRef<'_>) -> Option<Value> {
    Some(match (ty, stored) {
        (_, RawBsonRef::Null) => Value::Null,
        (FieldType::Bool, RawBsonRef::Boolean(flag)) => Value::Bool(flag),
        (FieldType::Int, RawBsonRef::Int64(int)) => Value::Int(int),
        // Counts come as the smaller type where they fit.
        (FieldType::Int, RawBsonRef::Int32(int)) => Value::Int(i64::from(int)),
        (FieldType::Float, RawBsonRef::Double(float)) => Value::Float(float),
        (FieldType::Text, RawBsonRef::String(text)) => Value::Text(text.to_owned()),
        (FieldType::Bytes, RawBsonRef::String(text)) => Value::Bytes(unhex(text)?),
        (FieldType::Timestamp, RawBsonRef::Int64(micros)) => Value::Timestamp(Timestamp::from_micros(micros)),
        (FieldType::Uuid, RawBsonRef::Binary(binary)) => Value::Uuid(Uuid::from_slice(binary.bytes).ok()?),
        (FieldType::Json, stored) => Value::Json(document(stored)?),
        _ => return None,
    })
}

fn damaged(schema: &'static Schema, field: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "a stored value is not what its schema says")
        .with("schema", schema.name)
        .with("field", field)
}

/// [`value`] of a field, or an error that names it.
pub(super) fn field(schema: &'static Schema, field: &Field, stored: RawBsonRef<'_>) -> Result<Value> {
    value(field.ty, stored).ok_or_else(|| damaged(schema, field.name))
}

/// The id of a stored record.
pub(super) fn id_of(schema: &'static Schema, document: &RawDocument) -> Result<Uuid> {
    let id = document
        .get_document(ID)
        .ok()
        .and_then(|key| key.get("i").ok()?)
        .and_then(|id| value(FieldType::Uuid, id)?.as_uuid());
    id.ok_or_else(|| damaged(schema, "id"))
}

/// A document as a record.
pub(super) fn stored(schema: &'static Schema, document: &RawDocument) -> Result<Stored> {
    let mut values = vec![Value::Null; schema.fields.len()];
    let mut version = None;
    for pair in document {
        let (name, found) = pair.map_err(|_| damaged(schema, "?"))?;
        if name.as_str() == VERSION {
            version = found.as_i64();
        } else if let Some((place, described)) = schema.field(name.as_str())
            && let Some(slot) = values.get_mut(place)
        {
            *slot = field(schema, described, found)?;
        }
    }
    let id = id_of(schema, document)?;
    let version = version.ok_or_else(|| damaged(schema, VERSION))?;
    let record = Record::from_values(schema, values).map_err(|error| {
        let name = error.context("field").unwrap_or("?").to_owned();
        damaged(schema, &name)
    })?;
    Ok(Stored { id, version, record })
}

/// A new record's document.
pub(super) fn fresh(tenant: &TenantId, id: Uuid, record: &Record) -> Result<Document> {
    let mut document = doc! { ID: key(tenant, id), VERSION: 1_i64 };
    let schema = record.schema();
    for (field, value) in schema.fields.iter().zip(record.values()) {
        if let Some(bson) = bson(value).map_err(|error| named(error, schema, field))? {
            document.insert(field.name, bson);
        }
    }
    Ok(document)
}

/// The update that leaves these values and counts the version; fields it does not name stay as they are.
pub(super) fn change<'a>(
    schema: &'static Schema,
    values: impl Iterator<Item = (&'static Field, &'a Value)>,
) -> Result<Document> {
    let (mut set, mut unset) = (Document::new(), Document::new());
    for (field, value) in values {
        match bson(value).map_err(|error| named(error, schema, field))? {
            Some(bson) => set.insert(field.name, bson),
            None => unset.insert(field.name, ""),
        };
    }
    let mut update = doc! { "$inc": { VERSION: 1_i64 } };
    for (operator, fields) in [("$set", set), ("$unset", unset)] {
        if !fields.is_empty() {
            update.insert(operator, fields);
        }
    }
    Ok(update)
}

fn named(error: Error, schema: &'static Schema, field: &Field) -> Error {
    error.with("schema", schema.name).with("field", field.name)
}

/// The most a document may hold, in bytes.
const LARGEST: usize = 16 << 20;

/// A document as it is sent.
///
/// # Errors
/// One that is larger than a document may be.
pub(super) fn raw(schema: &'static Schema, document: &Document) -> Result<RawDocumentBuf> {
    RawDocumentBuf::try_from(document)
        .ok()
        .filter(|raw| raw.as_bytes().len() <= LARGEST)
        .ok_or_else(|| {
            Error::invalid("a record is larger than the 16 MiB a MongoDB document can hold")
                .with("schema", schema.name)
        })
}

/// The document a write of one record is fenced by.
pub(super) fn fence(tenant: &TenantId, id: Uuid, expected: Option<Version>) -> Document {
    let mut fence = doc! { ID: key(tenant, id) };
    if let Some(version) = expected {
        fence.insert(VERSION, version);
    }
    fence
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn round_trip(json: &Json) -> Json {
        let field = doc! { "f": bson(&Value::Json(json.clone())).unwrap().unwrap() };
        let raw = RawDocumentBuf::try_from(&field).unwrap();
        document(raw.get("f").unwrap().unwrap()).unwrap()
    }

    #[test]
    fn documents_come_back_as_they_were() {
        for json in [
            json!(null),
            json!({}),
            json!([]),
            json!([[], [[]], {}, null]),
            json!("text"),
            json!({"a": [1, {"a": []}], "_a": 1, "": {"": ""}, "a.b": 1, "$gt": 2, "%2E": 3, "100%": 4, "v": 5, "d": 6}),
            json!({"five": 5, "and": 5.0, "less": -0.0, "tiny": 5e-324, "min": i64::MIN, "max": i64::MAX}),
            json!({"beyond": u64::MAX, "list": [u64::MAX - 1, 1.5]}),
            json!({"0": "zero", "1": ["x"]}),
        ] {
            let back = round_trip(&json);
            assert_eq!(back, json);
            assert_eq!(back.to_string(), json.to_string(), "5 is not 5.0");
        }
    }

    #[test]
    fn keys_are_escaped_so_that_a_path_is_only_a_path() {
        for key in [
            "", ".", "$", "$$ROOT", "a.b.c", "%", "%2E", "%25", "\0", "日本", "0", "_", "a",
        ] {
            let escaped = escaped(key);
            assert!(
                escaped.starts_with('_') && !escaped.contains(['.', '$', '\0']),
                "{escaped}"
            );
            assert_eq!(unescaped(&escaped).as_deref(), Some(key));
        }
        for foreign in ["a", "", "_%", "_%2", "_%zz", "_%é"] {
            assert_eq!(unescaped(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn what_is_nested_too_deeply_is_refused() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |json, _| json!([json]));
        assert!(bson(&nested(75).into()).is_ok());
        let error = bson(&nested(76).into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn bytes_sort_as_bytes() {
        let all: [&[u8]; 7] = [&[], &[0], &[0, 255], &[1], &[9, 10], &[0x7f], &[255]];
        for (a, b) in all.iter().zip(all.iter().skip(1)) {
            assert!(hex(a) < hex(b));
            assert_eq!(unhex(&hex(a)).as_deref(), Some(*a));
        }
        for wrong in ["0", "0g", "é", "+1"] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }
}
