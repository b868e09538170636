use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{FieldRef, Filter};
use crate::record::{FieldType, Schema, Value};
use crate::{Error, Result, Uuid};

/// Sort by a field. Absent values come first when ascending, last when descending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The field; not below a JSON field.
    pub field: String,
    /// Largest first.
    pub descending: bool,
}

/// A question for records, one page at a time. Ties are broken by id, so that pages never overlap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// Which records.
    pub filter: Filter,
    /// In which order; by id when empty.
    pub order: Vec<Order>,
    /// How many at most, 1 to 10,000.
    pub limit: u32,
    /// Where the last page ended.
    pub after: Option<Cursor>,
}

impl Query {
    /// The first page of 100 records, by id.
    pub fn new(filter: Filter) -> Self {
        Self {
            filter,
            order: Vec::new(),
            limit: 100,
            after: None,
        }
    }
    /// Sorts by `field`, smallest first.
    #[must_use]
    pub fn ascending(mut self, field: impl Into<String>) -> Self {
        self.order.push(Order {
            field: field.into(),
            descending: false,
        });
        self
    }
    /// Sorts by `field`, largest first.
    #[must_use]
    pub fn descending(mut self, field: impl Into<String>) -> Self {
        self.order.push(Order {
            field: field.into(),
            descending: true,
        });
        self
    }
    /// Sets the size of the page.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }
    /// Goes on where a page ended.
    #[must_use]
    pub fn after(mut self, cursor: Option<Cursor>) -> Self {
        self.after = cursor;
        self
    }

    /// Checks filter, order, limit and that the cursor belongs to this order.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming what is wrong.
    pub fn validate(&self, schema: &Schema) -> Result<()> {
        self.filter.validate(schema)?;
        if !(1..=10_000).contains(&self.limit) {
            return Err(Error::invalid("a page has 1 to 10,000 records").with("field", "limit"));
        }
        check_order(schema, &self.order)?;
        let Some(cursor) = &self.after else { return Ok(()) };
        let fits = |(order, key): (&Order, &Value)| {
            key.is_null() || key.ty() == order_type(schema, order).unwrap_or_default()
        };
        if cursor.keys.len() != self.order.len() || !self.order.iter().zip(&cursor.keys).all(fits) {
            return Err(
                Error::invalid("the cursor belongs to another query; start again without it")
                    .with("field", "after"),
            );
        }
        Ok(())
    }
}

fn order_type(schema: &Schema, order: &Order) -> Result<Option<FieldType>> {
    FieldRef {
        field: order.field.clone(),
        path: Vec::new(),
    }
    .resolve(schema)
}

pub(super) fn check_order(schema: &Schema, order: &[Order]) -> Result<()> {
    for order in order {
        if order_type(schema, order)? == Some(FieldType::Json) {
            return Err(
                Error::invalid("records cannot be sorted by a JSON field").with("field", &order.field)
            );
        }
    }
    Ok(())
}

/// Where a page ended: the sort values and the id of its last record. Opaque as text; shows nothing in `Debug`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Cursor {
    /// The last record's values of the order's fields.
    #[serde(with = "exact")]
    pub keys: Vec<Value>,
    /// The last record's id.
    pub id: Uuid,
}

/// Sort keys as JSON without loss: times as microseconds, floats as their bits. A key that came back rounded would
/// repeat or lose a record.
mod exact {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::Timestamp;
    use crate::record::Value;

    #[derive(Serialize, Deserialize)]
    enum Key {
        #[serde(rename = "t")]
        Time(i64),
        #[serde(rename = "f")]
        Float(u64),
        #[serde(rename = "v")]
        Other(Value),
    }

    pub(super) fn serialize<S: Serializer>(keys: &[Value], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(keys.iter().map(|key| match key {
            Value::Timestamp(time) => Key::Time(time.as_micros()),
            Value::Float(float) => Key::Float(float.to_bits()),
            other => Key::Other(other.clone()),
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Value>, D::Error> {
        let keys = Vec::<Key>::deserialize(deserializer)?;
        Ok(keys
            .into_iter()
            .map(|key| match key {
                Key::Time(micros) => Value::Timestamp(Timestamp::from_micros(micros)),
                Key::Float(bits) => Value::Float(f64::from_bits(bits)),
                Key::Other(value) => value,
            })
            .collect())
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cursor(..)")
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        f.write_str(&URL_SAFE_NO_PAD.encode(json))
    }
}

impl FromStr for Cursor {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::invalid("not a cursor of this API; start again without it").with("field", "after");
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        serde_json::from_slice(&json).map_err(|_| wrong())
    }
}

/// One page of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The records.
    pub items: Vec<T>,
    /// Where the next page starts; `None` after the last.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// The same page with every item changed.
    ///
    /// # Errors
    /// The first error of `change`.
    pub fn try_map<U>(self, change: impl FnMut(T) -> Result<U>) -> Result<Page<U>> {
        let items = self.items.into_iter().map(change).collect::<Result<_>>()?;
        Ok(Page {
            items,
            next: self.next,
        })
    }
}
