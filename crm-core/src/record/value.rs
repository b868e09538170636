use std::fmt;

use serde::{Deserialize, Serialize};

use super::FieldType;
use crate::{Timestamp, Uuid};

/// One value.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "lowercase")]
pub enum Value {
    /// Absent.
    Null,
    /// See [`FieldType::Bool`].
    Bool(bool),
    /// See [`FieldType::Int`].
    Int(i64),
    /// See [`FieldType::Float`].
    Float(f64),
    /// See [`FieldType::Text`].
    Text(String),
    /// See [`FieldType::Bytes`].
    Bytes(Vec<u8>),
    /// See [`FieldType::Timestamp`].
    Timestamp(Timestamp),
    /// See [`FieldType::Uuid`].
    Uuid(Uuid),
    /// See [`FieldType::Json`].
    Json(serde_json::Value),
}

impl Value {
    /// Its type; `None` for null.
    pub fn ty(&self) -> Option<FieldType> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(_) => FieldType::Bool,
            Self::Int(_) => FieldType::Int,
            Self::Float(_) => FieldType::Float,
            Self::Text(_) => FieldType::Text,
            Self::Bytes(_) => FieldType::Bytes,
            Self::Timestamp(_) => FieldType::Timestamp,
            Self::Uuid(_) => FieldType::Uuid,
            Self::Json(_) => FieldType::Json,
        })
    }

    /// True for [`Value::Null`].
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The order in which stores sort: absent first, numbers as numbers, text and bytes byte by byte.
    ///
    /// ```
    /// use crm_core::record::Value;
    ///
    /// assert!(Value::Null.sorts(&Value::Int(1)).is_lt());
    /// assert!(Value::Int(2).sorts(&Value::Float(1.5)).is_gt());
    /// ```
    pub fn sorts(&self, other: &Self) -> std::cmp::Ordering {
        crate::query::total_order(self, other)
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// The number, if it is an integer or a float.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(int) => Some(*int as f64),
            Self::Float(float) => Some(*float),
            _ => None,
        }
    }

    /// The instant, if it is one.
    pub fn as_timestamp(&self) -> Option<Timestamp> {
        match self {
            Self::Timestamp(time) => Some(*time),
            _ => None,
        }
    }

    /// The UUID, if it is one.
    pub fn as_uuid(&self) -> Option<Uuid> {
        match self {
            Self::Uuid(uuid) => Some(*uuid),
            _ => None,
        }
    }

    /// The JSON document, if it is one.
    pub fn as_json(&self) -> Option<&serde_json::Value> {
        match self {
            Self::Json(json) => Some(json),
            _ => None,
        }
    }
}

impl fmt::Debug for Value {
    /// Shows the type only: a value may be personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ty() {
            None => f.write_str("Null"),
            Some(ty) => write!(f, "{ty:?}(..)"),
        }
    }
}

macro_rules! value_from {
    ($($from:ty => |$v:ident| $into:expr),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from($v: $from) -> Self { $into }
        }
    )*};
}
value_from! {
    bool => |v| Self::Bool(v),
    i64 => |v| Self::Int(v),
    i32 => |v| Self::Int(i64::from(v)),
    u32 => |v| Self::Int(i64::from(v)),
    f64 => |v| Self::Float(v),
    &str => |v| Self::Text(v.to_owned()),
    String => |v| Self::Text(v),
    Vec<u8> => |v| Self::Bytes(v),
    Timestamp => |v| Self::Timestamp(v),
    Uuid => |v| Self::Uuid(v),
    serde_json::Value => |v| Self::Json(v),
}
impl<T: ?Sized> From<crate::Id<T>> for Value {
    fn from(id: crate::Id<T>) -> Self {
        Self::Uuid(id.uuid())
    }
}
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
