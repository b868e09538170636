//! Records as plain JSON and back, without loss: the form of archives, of journals, and of what is hashed to compare two
//! stores.
//!
//! Text, numbers and booleans are themselves; an id is its text; a time is RFC 3339 in UTC with six decimals, or its
//! microseconds as a number where no calendar reaches; bytes are hex digits; a JSON field is its document; what is absent
//! is left out.

use crm_core::record::{FieldType, Record, Schema, Value};
use crm_core::{Error, ErrorKind, Result, Timestamp, Uuid};
use serde_json::{Map, Value as Json};

fn value(value: &Value) -> Result<Json> {
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Int(int) => (*int).into(),
        Value::Float(float) => serde_json::Number::from_f64(*float)
            .map(Json::Number)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "a stored number is not finite"))?,
        Value::Text(text) => text.as_str().into(),
        Value::Bytes(bytes) => hex(bytes).into(),
        Value::Timestamp(time) => {
            let text = time.to_string();
            match text.parse::<Timestamp>() {
                Ok(same) if same == *time => text.into(),
                _ => time.as_micros().into(),
            }
        }
        Value::Uuid(id) => id.to_string().into(),
        // A JSON null and an absent document are told apart.
        Value::Json(Json::Null) => serde_json::json!({ "$null": true }),
        Value::Json(json) => json.clone(),
    })
}

/// The values of a record by field, in the schema's order.
pub(crate) fn values(record: &Record) -> Result<Json> {
    let mut map = Map::with_capacity(record.values().len());
    for (field, one) in record.schema().fields.iter().zip(record.values()) {
        if !one.is_null() {
            map.insert(field.name.to_owned(), value(one)?);
        }
    }
    Ok(Json::Object(map))
}

/// Reads a record back.
///
/// # Errors
/// [`ErrorKind::Invalid`] naming the field: an unknown one, one of another type, or a required one that is missing.
pub(crate) fn record(schema: &'static Schema, json: Json) -> Result<Record> {
    let wrong = |message: &'static str, field: &str| {
        Error::invalid(message)
            .with("schema", schema.name)
            .with("field", field)
    };
    let Json::Object(mut map) = json else {
        return Err(wrong(
            "the values of a record are an object of its fields",
            "values",
        ));
    };
    let mut values = Vec::with_capacity(schema.fields.len());
    for field in schema.fields {
        let value = match map.remove(field.name) {
            None => Value::Null,
            Some(json) => {
                read(field.ty, json).ok_or_else(|| wrong("a value is not of its field's type", field.name))?
            }
        };
        values.push(value);
    }
    if let Some(unknown) = map.keys().next() {
        return Err(wrong(
            "no such field: the record is of a newer version; update this library first",
            unknown,
        ));
    }
    Record::from_values(schema, values)
}

fn read(ty: FieldType, json: Json) -> Option<Value> {
    Some(match (ty, json) {
        (FieldType::Json, json) => {
            let null = json.as_object().is_some_and(|map| {
                map.len() == 1 && map.get("$null").is_some_and(|flag| *flag == Json::Bool(true))
            });
            Value::Json(if null { Json::Null } else { json })
        }
        (_, Json::Null) => Value::Null,
        (FieldType::Bool, Json::Bool(flag)) => Value::Bool(flag),
        (FieldType::Int, Json::Number(n)) => Value::Int(n.as_i64()?),
        (FieldType::Float, Json::Number(n)) => Value::Float(n.as_f64()?),
        (FieldType::Text, Json::String(text)) => Value::Text(text),
        (FieldType::Bytes, Json::String(text)) => Value::Bytes(unhex(&text)?),
        (FieldType::Timestamp, Json::String(text)) => Value::Timestamp(text.parse().ok()?),
        (FieldType::Timestamp, Json::Number(n)) => Value::Timestamp(Timestamp::from_micros(n.as_i64()?)),
        (FieldType::Uuid, Json::String(text)) => Value::Uuid(Uuid::parse_str(&text).ok()?),
        _ => return None,
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs
        .map(|pair| Some(pair.first()? << 4 | pair.last()?))
        .collect()
}

/// A record's bytes for comparing two stores: the same record gives the same bytes, whatever order a document's keys are
/// kept in.
pub(crate) fn digest(hash: &mut sha2::Sha256, id: Uuid, record: &Record) -> Result<()> {
    use sha2::Digest;
    hash.update(id.as_bytes());
    for one in record.values() {
        let json = sorted(value(one)?);
        let text = serde_json::to_vec(&json).map_err(|e| Error::unexpected("a value as JSON").source(e))?;
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(&text);
    }
    Ok(())
}

/// The same document with its keys in order.
pub(crate) fn sorted(json: Json) -> Json {
    match json {
        Json::Object(map) => {
            let mut entries: Vec<(String, Json)> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(entries.into_iter().collect())
        }
        Json::Array(items) => Json::Array(items.into_iter().map(sorted).collect()),
        // -0.0 and 0.0 are one number to every store.
        Json::Number(n) if n.as_f64() == Some(0.0) && n.is_f64() => serde_json::json!(0.0),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::record::Field;

    static ALL: Schema = Schema {
        name: "all_types",
        fields: &[
            Field::new("flag", FieldType::Bool).nullable(),
            Field::new("int", FieldType::Int).nullable(),
            Field::new("float", FieldType::Float).nullable(),
            Field::new("text", FieldType::Text).nullable(),
            Field::new("bytes", FieldType::Bytes).nullable(),
            Field::new("time", FieldType::Timestamp).nullable(),
            Field::new("id", FieldType::Uuid).nullable(),
            Field::new("json", FieldType::Json).nullable(),
        ],
        indexes: &[],
    };

    #[test]
    fn every_value_comes_back() {
        let rows = [
            vec![Value::Null; 8],
            vec![
                true.into(),
                i64::MAX.into(),
                f64::MIN_POSITIVE.into(),
                "a\u{1f600}\n\"".into(),
                vec![0_u8, 255, 16].into(),
                Timestamp::from_micros(1).into(),
                Uuid::from_u128(7).into(),
                Value::Json(serde_json::json!({"a": [1, 1.0, 9_007_199_254_740_993_i64, null]})),
            ],
            vec![
                false.into(),
                i64::MIN.into(),
                0.1_f64.into(),
                "".into(),
                Vec::<u8>::new().into(),
                Timestamp::from_micros(i64::MAX).into(),
                Uuid::nil().into(),
                Value::Json(Json::Null),
            ],
        ];
        for row in rows {
            let before = Record::from_values(&ALL, row).unwrap();
            let text = serde_json::to_string(&values(&before).unwrap()).unwrap();
            let after = record(&ALL, serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(after, before, "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (json, field) in [
            (serde_json::json!({"int": "1"}), "int"),
            (serde_json::json!({"bytes": "0g"}), "bytes"),
            (serde_json::json!({"time": "yesterday"}), "time"),
            (serde_json::json!({"shoe_size": 1}), "shoe_size"),
            (serde_json::json!([]), "values"),
        ] {
            let error = record(&ALL, json).unwrap_err();
            assert_eq!(error.context("field"), Some(field), "{error}");
        }
    }
}
