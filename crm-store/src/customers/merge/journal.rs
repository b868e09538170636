//! What a merge leaves behind: who became whom, and how everything was before, exactly.

use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Value};
use crm_core::{Error, ErrorKind, Result, Timestamp, Uuid};
use serde_json::{Map, Value as Json, json};

/// One merge.
pub static MERGE: Schema = Schema {
    name: "crm_merge",
    fields: &[
        Field::new("winner_id", FieldType::Uuid).pseudonym(),
        Field::new("losers", FieldType::Json),
        Field::new("state", FieldType::Text),
        Field::new("actor", FieldType::Json),
        Field::new("report", FieldType::Json),
        Field::new("applied_at", FieldType::Timestamp),
        Field::new("undone_at", FieldType::Timestamp).nullable(),
    ],
    indexes: &[Index::new("crm_merge_winner", &["winner_id", "applied_at"])],
};

/// The before-images of a merge, in order.
pub static MERGE_IMAGE: Schema = Schema {
    name: "crm_merge_image",
    fields: &[
        Field::new("merge_id", FieldType::Uuid),
        Field::new("seq", FieldType::Int),
        Field::new("kind", FieldType::Text),
        Field::new("schema_name", FieldType::Text),
        Field::new("record_id", FieldType::Uuid).nullable().pseudonym(),
        Field::new("old_values", FieldType::Json).nullable().personal(),
        Field::new("new_values", FieldType::Json).nullable().personal(),
    ],
    indexes: &[Index::unique("crm_merge_image_seq", &["merge_id", "seq"])],
};

/// Two customers who are known to be different people; never merged.
pub static DISTINCT_PAIR: Schema = Schema {
    name: "crm_distinct_pair",
    fields: &[
        Field::new("low_id", FieldType::Uuid).pseudonym(),
        Field::new("high_id", FieldType::Uuid).pseudonym(),
        Field::new("actor", FieldType::Json),
        Field::new("created_at", FieldType::Timestamp),
    ],
    indexes: &[
        Index::unique("crm_distinct_pair_key", &["low_id", "high_id"]),
        Index::new("crm_distinct_pair_high", &["high_id"]),
    ],
};

/// One step that can be taken back.
#[derive(Debug, Clone)]
pub(super) enum Image {
    /// A record was made.
    Added { schema: String, id: Uuid },
    /// A record was changed.
    Changed {
        schema: String,
        id: Uuid,
        before: Json,
        after: Json,
    },
    /// A record was removed.
    Removed { schema: String, id: Uuid, before: Json },
    /// Records got another owner in one field; nothing else of them was touched.
    Moved {
        schema: String,
        field: String,
        from: Uuid,
        to: Uuid,
        ids: Vec<Uuid>,
    },
}

impl Image {
    pub(super) fn changed(before: &Stored, after: &Record) -> Self {
        Self::Changed {
            schema: after.schema().name.to_owned(),
            id: before.id,
            before: exact(&before.record),
            after: exact(after),
        }
    }

    pub(super) fn removed(before: &Stored) -> Self {
        Self::Removed {
            schema: before.record.schema().name.to_owned(),
            id: before.id,
            before: exact(&before.record),
        }
    }

    pub(super) fn to_record(&self, merge: Uuid, seq: i64) -> Result<Record> {
        let (kind, schema, id, old, new) = match self.clone() {
            Self::Added { schema, id } => ("added", schema, Some(id), None, None),
            Self::Changed {
                schema,
                id,
                before,
                after,
            } => ("changed", schema, Some(id), Some(before), Some(after)),
            Self::Removed { schema, id, before } => ("removed", schema, Some(id), Some(before), None),
            Self::Moved {
                schema,
                field,
                from,
                to,
                ids,
            } => {
                let moved = json!({ "field": field, "from": from, "to": to, "ids": ids });
                ("moved", schema, None, Some(moved), None)
            }
        };
        Record::from_values(
            &MERGE_IMAGE,
            vec![
                merge.into(),
                seq.into(),
                kind.into(),
                schema.into(),
                id.into(),
                old.into(),
                new.into(),
            ],
        )
    }

    pub(super) fn from_stored(stored: &Stored) -> Result<Self> {
        let r = &stored.record;
        let schema = r.text("schema_name")?.to_owned();
        let id = || r.uuid("record_id");
        let json = |field: &'static str| {
            r.get(field)
                .and_then(Value::as_json)
                .cloned()
                .ok_or_else(|| r.damaged(field))
        };
        Ok(match r.text("kind")? {
            "added" => Self::Added { schema, id: id()? },
            "changed" => Self::Changed {
                schema,
                id: id()?,
                before: json("old_values")?,
                after: json("new_values")?,
            },
            "removed" => Self::Removed {
                schema,
                id: id()?,
                before: json("old_values")?,
            },
            "moved" => {
                #[derive(serde::Deserialize)]
                struct Moved {
                    field: String,
                    from: Uuid,
                    to: Uuid,
                    ids: Vec<Uuid>,
                }
                let moved: Moved =
                    serde_json::from_value(json("old_values")?).map_err(|_| r.damaged("old_values"))?;
                Self::Moved {
                    schema,
                    field: moved.field,
                    from: moved.from,
                    to: moved.to,
                    ids: moved.ids,
                }
            }
            _ => return Err(r.damaged("kind")),
        })
    }
}

/// A record as JSON without loss: numbers as text, floats as their bits, times as microseconds.
fn exact(record: &Record) -> Json {
    let fields = record.schema().fields.iter().zip(record.values());
    let map: Map<String, Json> = fields
        .filter(|(_, value)| !value.is_null())
        .map(|(field, value)| {
            let exact = match value {
                Value::Null => Json::Null,
                Value::Bool(flag) => json!(flag),
                Value::Int(int) => json!(int.to_string()),
                Value::Float(float) => json!(float.to_bits().to_string()),
                Value::Text(text) => json!(text),
                Value::Bytes(bytes) => json!(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
                Value::Timestamp(time) => json!(time.as_micros().to_string()),
                Value::Uuid(uuid) => json!(uuid),
                // In a list, so that a stored JSON null is not an absent value.
                Value::Json(json) => json!([json]),
            };
            (field.name.to_owned(), exact)
        })
        .collect();
    Json::Object(map)
}

/// Reads a record back. A field the schema got since then is absent.
pub(super) fn read(schema: &'static Schema, image: &Json) -> Result<Record> {
    let damaged = |field: &'static str| {
        Error::new(ErrorKind::Corrupt, "a before-image does not fit its schema")
            .with("schema", schema.name)
            .with("field", field)
    };
    let values = schema.fields.iter().map(|field| {
        let Some(json) = image.get(field.name).filter(|json| !json.is_null()) else {
            return Ok(Value::Null);
        };
        let text = || json.as_str();
        let number = || text().and_then(|text| text.parse::<i64>().ok());
        let value = match field.ty {
            FieldType::Bool => json.as_bool().map(Value::Bool),
            FieldType::Int => number().map(Value::Int),
            FieldType::Float => text()
                .and_then(|text| text.parse().ok())
                .map(|bits| Value::Float(f64::from_bits(bits))),
            FieldType::Text => text().map(Value::from),
            FieldType::Bytes => text().and_then(unhex).map(Value::Bytes),
            FieldType::Timestamp => number().map(|micros| Value::Timestamp(Timestamp::from_micros(micros))),
            FieldType::Uuid => text().and_then(|text| text.parse().ok()).map(Value::Uuid),
            FieldType::Json => json.get(0).cloned().map(Value::Json),
        };
        value.ok_or_else(|| damaged(field.name))
    });
    let values = values.collect::<Result<Vec<Value>>>()?;
    Record::from_values(schema, values)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    static ODD: Schema = Schema {
        name: "odd",
        fields: &[
            Field::new("flag", FieldType::Bool),
            Field::new("int", FieldType::Int),
            Field::new("float", FieldType::Float),
            Field::new("text", FieldType::Text),
            Field::new("bytes", FieldType::Bytes),
            Field::new("time", FieldType::Timestamp),
            Field::new("uuid", FieldType::Uuid),
            Field::new("json", FieldType::Json),
            Field::new("none", FieldType::Json).nullable(),
        ],
        indexes: &[],
    };

    #[test]
    fn images_are_exact() {
        let id = Uuid::from_u128(7);
        for (int, float, document) in [
            (i64::MAX, -0.0, Json::Null),
            (i64::MIN, f64::MIN_POSITIVE, json!({ "a": [1, null, "é"] })),
            (0, 0.1 + 0.2, json!([])),
        ] {
            let record = Record::from_values(
                &ODD,
                vec![
                    false.into(),
                    int.into(),
                    float.into(),
                    "".into(),
                    vec![0_u8, 255, 16].into(),
                    Timestamp::from_micros(int).into(),
                    id.into(),
                    Value::Json(document),
                    Value::Null,
                ],
            )
            .unwrap();
            let image = serde_json::to_string(&exact(&record)).unwrap();
            let back = read(&ODD, &serde_json::from_str(&image).unwrap()).unwrap();
            assert_eq!(back, record);
            assert_eq!(
                back.get("float").unwrap().as_f64().unwrap().to_bits(),
                float.to_bits()
            );
        }
        assert!(read(&ODD, &json!({ "int": "x" })).is_err());
    }
}
