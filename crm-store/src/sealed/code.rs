//! Values as bytes: what is encrypted, and what a blind index is computed over.

use crm_core::record::{FieldType, Value};
use crm_core::{Timestamp, Uuid};
use zeroize::Zeroizing;

const BOOL: u8 = 1;
const INT: u8 = 2;
const FLOAT: u8 = 3;
const TEXT: u8 = 4;
const BYTES: u8 = 5;
const TIMESTAMP: u8 = 6;
const UUID: u8 = 7;
const JSON: u8 = 8;

const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

/// A value as bytes: one byte for the type, then text and JSON as UTF-8, numbers and times in eight bytes, the most
/// significant first. Null has none. There is room behind for a tag, so that encrypting it does not copy it.
pub(super) fn encode(value: &Value) -> Option<Zeroizing<Vec<u8>>> {
    let with = |tag: u8, bytes: &[u8]| {
        let mut out = Vec::with_capacity(1 + bytes.len() + 16);
        out.push(tag);
        out.extend_from_slice(bytes);
        Some(Zeroizing::new(out))
    };
    match value {
        Value::Null => None,
        Value::Bool(flag) => with(BOOL, &[u8::from(*flag)]),
        Value::Int(int) => with(INT, &int.to_be_bytes()),
        Value::Float(float) => with(FLOAT, &float.to_bits().to_be_bytes()),
        Value::Text(text) => with(TEXT, text.as_bytes()),
        Value::Bytes(bytes) => with(BYTES, bytes),
        Value::Timestamp(time) => with(TIMESTAMP, &time.as_micros().to_be_bytes()),
        Value::Uuid(id) => with(UUID, id.as_bytes()),
        Value::Json(json) => with(JSON, Zeroizing::new(json.to_string()).as_bytes()),
    }
}

/// The value of these bytes; `None` when they are not one.
pub(super) fn decode(bytes: &[u8]) -> Option<Value> {
    let (tag, rest) = bytes.split_first()?;
    let eight = || <[u8; 8]>::try_from(rest).ok();
    Some(match *tag {
        BOOL => Value::Bool(match rest {
            [0] => false,
            [1] => true,
            _ => return None,
        }),
        INT => Value::Int(i64::from_be_bytes(eight()?)),
        FLOAT => Value::Float(f64::from_bits(u64::from_be_bytes(eight()?))),
        TEXT => Value::Text(std::str::from_utf8(rest).ok()?.to_owned()),
        BYTES => Value::Bytes(rest.to_vec()),
        TIMESTAMP => Value::Timestamp(Timestamp::from_micros(i64::from_be_bytes(eight()?))),
        UUID => Value::Uuid(Uuid::from_slice(rest).ok()?),
        JSON => Value::Json(serde_json::from_slice(rest).ok()?),
        _ => return None,
    })
}

/// What a blind index of a field of type `ty` is computed over: equal for what stores hold equal, so the two zeros are
/// one, and a whole float is the integer in an integer's field. `None` when no value of such a field equals it.
pub(super) fn canonical(value: &Value, ty: FieldType) -> Option<Zeroizing<Vec<u8>>> {
    match (value, ty) {
        (Value::Int(int), FieldType::Float) => {
            let float = *int as f64;
            // Only what the float says exactly: 2^53 + 1 is no float, and the float of 2^63 - 1 is 2^63.
            let same = float < TWO_TO_63 && float as i64 == *int;
            if same {
                encode(&Value::Float(float + 0.0))
            } else {
                None
            }
        }
        (Value::Float(float), FieldType::Int) => {
            let whole = float.fract() == 0.0 && (-TWO_TO_63..TWO_TO_63).contains(float);
            if whole {
                encode(&Value::Int(*float as i64))
            } else {
                None
            }
        }
        // Adding zero makes the negative zero the positive one.
        (Value::Float(float), FieldType::Float) => encode(&Value::Float(float + 0.0)),
        (value, ty) if value.ty() == Some(ty) && ty != FieldType::Json => encode(value),
        _ => None,
    }
}

/// Appends a part with its length in front, so that no two lists of parts read the same.
pub(super) fn part(out: &mut Vec<u8>, bytes: &[u8]) {
    // Parts are names and ids: they never come near 4 GiB.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_value_comes_back() {
        for value in [
            Value::Bool(true),
            Value::Bool(false),
            Value::Int(i64::MIN),
            Value::Float(-0.0),
            Value::Float(5e-324),
            Value::Text(String::new()),
            Value::Text("日本".into()),
            Value::Bytes(vec![0, 255]),
            Value::Timestamp(Timestamp::from_micros(-1)),
            Value::Uuid(Uuid::max()),
            Value::Json(json!({"a": [1, 0.1, null, u64::MAX]})),
            Value::Json(json!(null)),
        ] {
            let back = decode(&encode(&value).unwrap()).unwrap();
            assert!(back == value, "{value:?}");
            if let (Value::Float(a), Value::Float(b)) = (&value, &back) {
                assert_eq!(a.to_bits(), b.to_bits());
            }
        }
        assert!(encode(&Value::Null).is_none());
        for wrong in [
            &b""[..],
            &[1, 2],
            &[2, 1],
            &[4, 0xff],
            &[8, b'{'],
            &[9, 1],
            &[7, 1],
        ] {
            assert!(decode(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn what_stores_hold_equal_has_one_canonical_form() {
        let same =
            |a: Value, b: Value, ty| canonical(&a, ty).is_some() && canonical(&a, ty) == canonical(&b, ty);
        assert!(same(Value::Float(0.0), Value::Float(-0.0), FieldType::Float));
        assert!(same(Value::Int(5), Value::Float(5.0), FieldType::Int));
        assert!(same(Value::Int(5), Value::Float(5.0), FieldType::Float));
        assert!(same(Value::Int(0), Value::Float(-0.0), FieldType::Float));
        assert!(!same(
            Value::Text("a".into()),
            Value::Text("A".into()),
            FieldType::Text
        ));
        let big = (1_i64 << 53) + 1;
        assert!(canonical(&Value::Int(big), FieldType::Float).is_none());
        assert!(canonical(&Value::Int(i64::MAX), FieldType::Float).is_none());
        assert!(canonical(&Value::Int(i64::MIN), FieldType::Float).is_some());
        let edge = i64::MAX - 1023;
        assert!(same(
            Value::Int(edge),
            Value::Float(edge as f64),
            FieldType::Float
        ));
        assert!(canonical(&Value::Int(i64::MAX - 1023), FieldType::Float).is_some());
        assert!(canonical(&Value::Float(9_223_372_036_854_775_808.0), FieldType::Int).is_none());
        assert!(canonical(&Value::Float(0.5), FieldType::Int).is_none());
        assert!(canonical(&Value::Text("1".into()), FieldType::Int).is_none());
    }
}
