//! Questions to a store: a closed filter language, order, pages with opaque cursors, and grouped sums.
//!
//! The same [`Filter`] means the same on every store and on a [`crate::Table`]. Its logic has two values: a comparison
//! with an absent value is false, and `not` is its exact opposite.
//!
//! ```
//! use crm_core::query::{Filter, Query};
//!
//! let adults_in_oslo = Filter::eq("city", "Oslo").and(Filter::ge("age", 18_i64));
//! let query = Query::new(adults_in_oslo).descending("created_at").limit(50);
//! assert_eq!(query.limit, 50);
//! ```

mod answered;
mod claim;
mod eval;
mod group;
mod page;
mod related;
mod rewrite;
mod span;
mod text;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::record::{FieldType, RESERVED, Schema, Value};
use crate::{Error, Result, Uuid};

pub use answered::Answered;
pub use claim::{Assign, Claim};
pub(crate) use eval::{Key, Look, View, decide, has_item_at, text_below, total_order};
pub(crate) use group::grouped;
pub use group::{Aggregate, GroupBy, Measure};
pub use page::{Cursor, Order, Page, Query};
pub(crate) use related::Answers;
pub use related::{Related, Relation};
pub use span::{Span, Unit};
pub use text::MAX_FILTER_BYTES;

/// A field, or a path into a JSON field: `city`, `attributes.plan`, `attributes.address.zip`. `id` is the record's id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct FieldRef {
    /// The field of the schema, or `id`.
    pub field: String,
    /// The keys below it, for JSON fields.
    pub path: Vec<String>,
}

impl FieldRef {
    /// The type of what it names within `schema`: the field's own, or `None` below a JSON field, where each document
    /// decides.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the schema has no such field, or a path is put on one that is not JSON.
    pub fn resolve(&self, schema: &Schema) -> Result<Option<FieldType>> {
        let wrong = |message: &'static str| {
            Err(Error::invalid(message)
                .with("schema", schema.name)
                .with("field", self))
        };
        if self.field == "id" && self.path.is_empty() {
            return Ok(Some(FieldType::Uuid));
        }
        if RESERVED.contains(&self.field.as_str()) {
            return wrong("this column belongs to the store and cannot be filtered on");
        }
        let Some((_, field)) = schema.field(&self.field) else {
            return wrong("no such field");
        };
        match (self.path.is_empty(), field.ty) {
            (true, ty) => Ok(Some(ty)),
            (false, FieldType::Json) => Ok(None),
            (false, _) => wrong("a path needs a JSON field"),
        }
    }
}

impl From<&str> for FieldRef {
    fn from(text: &str) -> Self {
        let mut parts = text.split('.').map(str::to_owned);
        Self {
            field: parts.next().unwrap_or_default(),
            path: parts.collect(),
        }
    }
}
impl From<String> for FieldRef {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}
impl From<FieldRef> for String {
    fn from(field: FieldRef) -> Self {
        field.to_string()
    }
}
impl fmt::Display for FieldRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.field)?;
        self.path.iter().try_for_each(|key| write!(f, ".{key}"))
    }
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compare {
    /// Equal.
    Eq,
    /// Not equal, both present.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// A condition on one record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Always true.
    All,
    /// Every one is true; true when empty.
    And(Vec<Filter>),
    /// At least one is true; false when empty.
    Or(Vec<Filter>),
    /// It is not true.
    Not(Box<Filter>),
    /// The field is present and compares so. Text is compared byte by byte; integers and floats with each other as
    /// numbers; below a JSON field, a value of another type than the one compared with never matches.
    Is {
        /// The field.
        field: FieldRef,
        /// The comparison.
        op: Compare,
        /// The value on the right.
        value: Value,
    },
    /// The field is present and equals one of the values.
    In {
        /// The field.
        field: FieldRef,
        /// The values.
        values: Vec<Value>,
    },
    /// The text begins so.
    Prefix {
        /// The field.
        field: FieldRef,
        /// The beginning, taken literally.
        text: String,
    },
    /// The text contains this.
    Contains {
        /// The field.
        field: FieldRef,
        /// The part, taken literally.
        text: String,
    },
    /// The field is absent (or, below a JSON field, missing or `null`).
    Null {
        /// The field.
        field: FieldRef,
    },
    /// The field is JSON (or a path below it), an array, and has this text among its items: a tag.
    Has {
        /// The field.
        field: FieldRef,
        /// The item, taken literally.
        text: String,
    },
    /// A condition on the records that belong to this one: its orders, interactions, memberships.
    Related(Related),
    /// The timestamp compares so with the instant `span` before now. Stores do not know what time it is:
    /// [`Filter::at`] replaces it.
    Ago {
        /// The timestamp.
        field: FieldRef,
        /// The comparison.
        op: Compare,
        /// How long before now.
        span: Span,
    },
    /// The customer is a member of the segment. Stores do not know segments: [`Filter::expand`] replaces it.
    InSegment(Uuid),
}

impl Filter {
    fn is(field: impl Into<FieldRef>, op: Compare, value: impl Into<Value>) -> Self {
        Self::Is {
            field: field.into(),
            op,
            value: value.into(),
        }
    }

    /// `field = value`.
    pub fn eq(field: impl Into<FieldRef>, value: impl Into<Value>) -> Self {
        Self::is(field, Compare::Eq, value)
    }
    /// `field <> value`, both present.
    pub fn ne(field: impl Into<FieldRef>, value: impl Into<Value>) -> Self {
        Self::is(field, Compare::Ne, value)
    }
    /// `field < value`.
    pub fn lt(field: impl Into<FieldRef>, value: impl Into<Value>) -> Self {
        Self::is(field, Compare::Lt, value)
    }
    /// `field <= value`.
    pub fn le(field: impl Into<FieldRef>, value: impl Into<Value>) -> Self {
        Self::is(field, Compare::Le, value)
    }
    /// `field > value`.
    pub fn gt(field: impl Into<FieldRef>, value: impl Into<Value>) -> Self {
        Self::is(field, Compare::Gt, value)
    }
    /// `field >= value`.
    pub fn ge(field: impl Into<FieldRef>, value: impl Into<Value>) -> Self {
        Self::is(field, Compare::Ge, value)
    }
    /// The field is one of the values.
    pub fn one_of<V: Into<Value>>(field: impl Into<FieldRef>, values: impl IntoIterator<Item = V>) -> Self {
        Self::In {
            field: field.into(),
            values: values.into_iter().map(Into::into).collect(),
        }
    }
    /// The text begins with `text`.
    pub fn prefix(field: impl Into<FieldRef>, text: impl Into<String>) -> Self {
        Self::Prefix {
            field: field.into(),
            text: text.into(),
        }
    }
    /// The text contains `text`.
    pub fn contains(field: impl Into<FieldRef>, text: impl Into<String>) -> Self {
        Self::Contains {
            field: field.into(),
            text: text.into(),
        }
    }
    /// The field is absent.
    pub fn null(field: impl Into<FieldRef>) -> Self {
        Self::Null { field: field.into() }
    }
    /// Both are true.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match self {
            Self::All => other,
            Self::And(mut all) => {
                all.push(other);
                Self::And(all)
            }
            one => Self::And(vec![one, other]),
        }
    }
    /// At least one is true.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match self {
            Self::Or(mut any) => {
                any.push(other);
                Self::Or(any)
            }
            one => Self::Or(vec![one, other]),
        }
    }

    /// Checks every field, type and the depth (at most 32 levels) against a schema.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the field.
    pub fn validate(&self, schema: &Schema) -> Result<()> {
        self.validate_at(schema, 0)
    }

    fn validate_at(&self, schema: &Schema, depth: usize) -> Result<()> {
        if depth > 32 {
            return Err(
                Error::invalid("a filter is nested more than 32 levels deep").with("schema", schema.name)
            );
        }
        let text_field = |field: &FieldRef| match field.resolve(schema)? {
            None | Some(FieldType::Text) => Ok(()),
            Some(_) => Err(Error::invalid("prefix and contains need a text field")
                .with("schema", schema.name)
                .with("field", field)),
        };
        match self {
            Self::All => Ok(()),
            Self::And(all) | Self::Or(all) => all
                .iter()
                .try_for_each(|filter| filter.validate_at(schema, depth + 1)),
            Self::Not(filter) => filter.validate_at(schema, depth + 1),
            Self::Is { field, value, .. } => comparable(schema, field, value),
            Self::In { field, values } => values
                .iter()
                .try_for_each(|value| comparable(schema, field, value)),
            Self::Prefix { field, .. } | Self::Contains { field, .. } => text_field(field),
            Self::Null { field } => field.resolve(schema).map(|_| ()),
            Self::Has { field, .. } => match field.resolve(schema)? {
                None | Some(FieldType::Json) => Ok(()),
                Some(_) => Err(Error::invalid("only a JSON field has items")
                    .with("schema", schema.name)
                    .with("field", field)),
            },
            Self::Related(related) => related.validate(),
            Self::Ago { field, .. } => match field.resolve(schema)? {
                Some(FieldType::Timestamp) => Err(Error::invalid(
                    "a store does not know what time it is; give the filter the time with Filter::at",
                )
                .with("schema", schema.name)
                .with("field", field)),
                _ => Err(Error::invalid("only a timestamp lies before now")
                    .with("schema", schema.name)
                    .with("field", field)),
            },
            Self::InSegment(segment) => Err(Error::invalid(
                "a store does not know segments; ask through Customers, or use Filter::expand",
            )
            .with("segment", segment)),
        }
    }
}

impl std::ops::Not for Filter {
    type Output = Self;
    fn not(self) -> Self {
        Self::Not(Box::new(self))
    }
}

fn comparable(schema: &Schema, field: &FieldRef, value: &Value) -> Result<()> {
    use FieldType::{Bool, Bytes, Float, Int, Json, Text};
    if matches!(value, Value::Float(float) if float.is_nan()) {
        return Err(Error::invalid("not a number (NaN) compares with nothing")
            .with("schema", schema.name)
            .with("field", field));
    }
    let fits = match (field.resolve(schema)?, value.ty()) {
        (_, None) | (Some(Json), _) | (_, Some(Json)) => false,
        (Some(Float | Int), Some(Float | Int)) => true,
        (Some(a), Some(b)) => a == b,
        (None, Some(ty)) => matches!(ty, Bool | Int | Float | Text) && ty != Bytes,
    };
    if fits {
        Ok(())
    } else {
        Err(Error::invalid(
            "the value cannot be compared with the field; use null() for absent values and a path for JSON fields",
        )
        .with("schema", schema.name)
        .with("field", field))
    }
}

/// Takes columns of many records, in chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// Which records.
    pub filter: Filter,
    /// The columns, in this order. `id` is the record's id. What lies at a JSON path is read as text (strings as they
    /// are, everything else as JSON), a whole JSON field as its document; `null` is absent in both.
    pub columns: Vec<FieldRef>,
    /// How many rows a chunk has at most.
    pub chunk_rows: usize,
}

impl Scan {
    /// The given columns of the records that match, 8,192 rows a chunk, by id.
    pub fn new<C: Into<FieldRef>>(filter: Filter, columns: impl IntoIterator<Item = C>) -> Self {
        Self {
            filter,
            columns: columns.into_iter().map(Into::into).collect(),
            chunk_rows: 8192,
        }
    }

    /// Checks filter, columns and the size of a chunk.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming what is wrong; [`crate::ErrorKind::Unsupported`] for a bytes field,
    /// which cannot be a column.
    pub fn validate(&self, schema: &Schema) -> Result<()> {
        self.filter.validate(schema)?;
        if self.chunk_rows == 0 {
            return Err(Error::invalid("a chunk has at least one row").with("field", "chunk_rows"));
        }
        if self.columns.is_empty() {
            return Err(Error::invalid("a scan needs at least one column").with("field", "columns"));
        }
        for (i, column) in self.columns.iter().enumerate() {
            self.column(schema, column)?;
            if self.columns.iter().skip(i + 1).any(|other| other == column) {
                return Err(Error::invalid("the same column twice").with("column", column));
            }
        }
        Ok(())
    }

    /// The empty column a field is read into, named as the field: its own type, text below a JSON field.
    ///
    /// # Errors
    /// As [`Scan::validate`].
    pub fn column(&self, schema: &Schema, field: &FieldRef) -> Result<crate::Column> {
        let ty = match field.resolve(schema)? {
            None | Some(FieldType::Json) => FieldType::Text,
            Some(ty) => ty,
        };
        crate::Column::empty(field.to_string(), ty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Field;
    use crate::{Timestamp, Uuid};

    static THING: Schema = Schema {
        name: "thing",
        fields: &[
            Field::new("name", FieldType::Text),
            Field::new("n", FieldType::Int),
            Field::new("attributes", FieldType::Json),
        ],
        indexes: &[],
    };

    #[test]
    fn fields_and_types_are_checked() {
        assert!(Filter::eq("name", "x").validate(&THING).is_ok());
        assert!(Filter::eq("attributes.plan", "pro").validate(&THING).is_ok());
        assert!(
            Filter::ge("n", 1.5).validate(&THING).is_ok(),
            "numbers compare with each other"
        );
        for wrong in [
            Filter::eq("nope", "x"),
            Filter::eq("n", "x"),
            Filter::eq("name.first", "x"),
            Filter::eq("tenant", "other"),
            Filter::eq("n", Value::Null),
            Filter::prefix("n", "1"),
        ] {
            assert!(wrong.validate(&THING).is_err(), "{wrong:?}");
        }
        let deep = (0..40).fold(Filter::All, |f, _| !f);
        assert!(deep.validate(&THING).is_err());
    }

    #[test]
    fn a_cursor_goes_through_text_and_refuses_garbage() {
        let cursor = Cursor {
            keys: vec![Value::Text("a".into()), Value::Null],
            id: Uuid::nil(),
        };
        assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        assert!("garbage!".parse::<Cursor>().is_err());
        let far = Cursor {
            keys: vec![
                Value::Timestamp(Timestamp::from_micros(i64::MIN)),
                Value::Float(0.1 + 0.2),
                Value::Int(i64::MAX),
            ],
            id: Uuid::max(),
        };
        assert_eq!(
            far.to_string().parse::<Cursor>().unwrap(),
            far,
            "no key is rounded"
        );
    }

    #[test]
    fn a_cursor_of_another_order_is_refused() {
        let query = Query::new(Filter::All).ascending("n");
        let with = |keys| {
            query
                .clone()
                .after(Some(Cursor {
                    keys,
                    id: Uuid::nil(),
                }))
                .validate(&THING)
        };
        assert!(with(vec![Value::Int(1)]).is_ok() && with(vec![Value::Null]).is_ok());
        for keys in [
            vec![],
            vec![Value::Text("x".into())],
            vec![Value::Int(1), Value::Int(2)],
        ] {
            assert_eq!(with(keys).unwrap_err().context("field"), Some("after"));
        }
    }

    #[test]
    fn a_filter_is_data() {
        let filter = !(Filter::eq("name", "x").or(Filter::null("attributes.plan")));
        let json = serde_json::to_string(&filter).unwrap();
        assert_eq!(serde_json::from_str::<Filter>(&json).unwrap(), filter);
    }
}
