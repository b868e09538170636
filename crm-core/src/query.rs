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

mod eval;

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::record::{FieldType, RESERVED, Schema, Value};
use crate::{Error, Result, Timestamp, Uuid};

pub(crate) use eval::{View, decide, text_below, total_order};

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
            Err(Error::invalid(message).with("schema", schema.name).with("field", self))
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
        Self { field: parts.next().unwrap_or_default(), path: parts.collect() }
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
}

impl Filter {
    fn is(field: impl Into<FieldRef>, op: Compare, value: impl Into<Value>) -> Self {
        Self::Is { field: field.into(), op, value: value.into() }
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
        Self::In { field: field.into(), values: values.into_iter().map(Into::into).collect() }
    }
    /// The text begins with `text`.
    pub fn prefix(field: impl Into<FieldRef>, text: impl Into<String>) -> Self {
        Self::Prefix { field: field.into(), text: text.into() }
    }
    /// The text contains `text`.
    pub fn contains(field: impl Into<FieldRef>, text: impl Into<String>) -> Self {
        Self::Contains { field: field.into(), text: text.into() }
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
            return Err(Error::invalid("a filter is nested more than 32 levels deep").with("schema", schema.name));
        }
        let text_field = |field: &FieldRef| match field.resolve(schema)? {
            None | Some(FieldType::Text) => Ok(()),
            Some(_) => Err(Error::invalid("prefix and contains need a text field")
                .with("schema", schema.name)
                .with("field", field)),
        };
        match self {
            Self::All => Ok(()),
            Self::And(all) | Self::Or(all) => {
                all.iter().try_for_each(|filter| filter.validate_at(schema, depth + 1))
            }
            Self::Not(filter) => filter.validate_at(schema, depth + 1),
            Self::Is { field, value, .. } => comparable(schema, field, value),
            Self::In { field, values } => values.iter().try_for_each(|value| comparable(schema, field, value)),
            Self::Prefix { field, .. } | Self::Contains { field, .. } => text_field(field),
            Self::Null { field } => field.resolve(schema).map(|_| ()),
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
        Self { filter, order: Vec::new(), limit: 100, after: None }
    }
    /// Sorts by `field`, smallest first.
    #[must_use]
    pub fn ascending(mut self, field: impl Into<String>) -> Self {
        self.order.push(Order { field: field.into(), descending: false });
        self
    }
    /// Sorts by `field`, largest first.
    #[must_use]
    pub fn descending(mut self, field: impl Into<String>) -> Self {
        self.order.push(Order { field: field.into(), descending: true });
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
            return Err(Error::invalid("the cursor belongs to another query; start again without it")
                .with("field", "after"));
        }
        Ok(())
    }
}

fn order_type(schema: &Schema, order: &Order) -> Result<Option<FieldType>> {
    FieldRef { field: order.field.clone(), path: Vec::new() }.resolve(schema)
}

fn check_order(schema: &Schema, order: &[Order]) -> Result<()> {
    for order in order {
        if order_type(schema, order)? == Some(FieldType::Json) {
            return Err(Error::invalid("records cannot be sorted by a JSON field").with("field", &order.field));
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

    use super::{Timestamp, Value};

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
        let wrong = || Error::invalid("not a cursor of this API; start again without it").with("field", "after");
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
        Ok(Page { items, next: self.next })
    }
}

/// Takes columns of many records, in chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// Which records.
    pub filter: Filter,
    /// The columns, in this order; JSON paths are read as text. `id` is the record's id.
    pub columns: Vec<FieldRef>,
    /// How many rows a chunk has at most.
    pub chunk_rows: usize,
}

impl Scan {
    /// The given columns of the records that match, 8,192 rows a chunk, by id.
    pub fn new<C: Into<FieldRef>>(filter: Filter, columns: impl IntoIterator<Item = C>) -> Self {
        Self { filter, columns: columns.into_iter().map(Into::into).collect(), chunk_rows: 8192 }
    }

    /// Checks filter, columns and the size of a chunk.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming what is wrong; [`crate::ErrorKind::Unsupported`] for a whole JSON or bytes
    /// field, which cannot be a column.
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
        crate::Column::empty(field.to_string(), field.resolve(schema)?.unwrap_or(FieldType::Text))
    }
}

/// What a grouped answer is grouped by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// Equal values of a field (absent ones make one group).
    Field(String),
    /// The calendar month (UTC, `YYYY-MM`) of a timestamp.
    Month(String),
}

impl GroupBy {
    /// The field grouped by.
    pub fn field(&self) -> &str {
        match self {
            Self::Field(field) | Self::Month(field) => field,
        }
    }
}

/// What is computed per group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// The number of records (`Int`).
    Count,
    /// The sum of a number (`Int` for integers, `Float` for floats); absent values are left out, and the sum of none is
    /// absent.
    Sum(String),
    /// The smallest value; the field's type; absent when there is none.
    Min(String),
    /// The largest value; the field's type; absent when there is none.
    Max(String),
    /// The number of different values (`Int`), absent ones left out.
    Distinct(String),
}

/// Groups and sums, computed where the data lives. The answer is a [`crate::Table`]: the keys' columns under their
/// fields' names, then one column a measure under the given name, sorted by the keys, absent keys first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    /// Which records.
    pub filter: Filter,
    /// Grouped by; one row over all when empty.
    pub by: Vec<GroupBy>,
    /// Name and kind of each measure.
    pub measures: Vec<(String, Measure)>,
}

impl Aggregate {
    /// Over the records that match.
    pub fn new(filter: Filter) -> Self {
        Self { filter, by: Vec::new(), measures: Vec::new() }
    }
    /// Groups by a field.
    #[must_use]
    pub fn by(mut self, field: impl Into<String>) -> Self {
        self.by.push(GroupBy::Field(field.into()));
        self
    }
    /// Groups by the month of a timestamp.
    #[must_use]
    pub fn by_month(mut self, field: impl Into<String>) -> Self {
        self.by.push(GroupBy::Month(field.into()));
        self
    }
    /// Adds a measure under `name`.
    #[must_use]
    pub fn measure(mut self, name: impl Into<String>, measure: Measure) -> Self {
        self.measures.push((name.into(), measure));
        self
    }

    /// Checks fields and types.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the field.
    pub fn validate(&self, schema: &Schema) -> Result<()> {
        self.filter.validate(schema)?;
        let ty = |field: &str| {
            FieldRef { field: field.to_owned(), path: Vec::new() }
                .resolve(schema)
                .map(|ty| ty.unwrap_or(FieldType::Json))
        };
        let wrong = |message: &'static str, field: &str| {
            Err(Error::invalid(message).with("schema", schema.name).with("field", field))
        };
        for by in &self.by {
            match (by, ty(by.field())?) {
                (GroupBy::Month(field), found) if found != FieldType::Timestamp => {
                    return wrong("months need a timestamp", field);
                }
                (GroupBy::Field(field), FieldType::Json | FieldType::Bytes) => {
                    return wrong("cannot group by a JSON or bytes field", field);
                }
                _ => {}
            }
        }
        for (_, measure) in &self.measures {
            match measure {
                Measure::Count => {}
                Measure::Sum(field) => {
                    if !matches!(ty(field)?, FieldType::Int | FieldType::Float) {
                        return wrong("a sum needs a number", field);
                    }
                }
                Measure::Min(field) | Measure::Max(field) | Measure::Distinct(field) => {
                    if matches!(ty(field)?, FieldType::Json | FieldType::Bytes) {
                        return wrong("min, max and distinct need a plain field", field);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Changes one field of a claimed record.
#[derive(Debug, Clone, PartialEq)]
pub enum Assign {
    /// Sets it.
    Set(&'static str, Value),
    /// Adds to an integer; an absent one stays absent.
    Add(&'static str, i64),
}

impl Assign {
    /// The field it changes.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Set(field, _) | Self::Add(field, _) => field,
        }
    }
}

/// Atomically takes up to `limit` due records and marks them, so that no two claimers get the same one: the base of
/// every work queue. The version of each grows by one, and with it fences off who held it before.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Which records are due.
    pub due: Filter,
    /// Which first.
    pub order: Vec<Order>,
    /// How many at most.
    pub limit: u32,
    /// How they are marked.
    pub assign: Vec<Assign>,
}

impl Claim {
    /// Checks filter, order, limit and assignments.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming what is wrong.
    pub fn validate(&self, schema: &'static Schema) -> Result<()> {
        self.due.validate(schema)?;
        check_order(schema, &self.order)?;
        if !(1..=10_000).contains(&self.limit) {
            return Err(Error::invalid("a claim takes 1 to 10,000 records").with("field", "limit"));
        }
        for (i, assign) in self.assign.iter().enumerate() {
            let name = assign.field();
            let wrong = |message: &'static str| {
                Err(Error::invalid(message).with("schema", schema.name).with("field", name))
            };
            let Some((_, field)) = schema.field(name) else { return wrong("no such field") };
            if self.assign.iter().skip(i + 1).any(|other| other.field() == name) {
                return wrong("a field is assigned twice");
            }
            match assign {
                Assign::Set(_, value) => crate::record::check(schema, field, value, field.nullable)?,
                Assign::Add(..) if field.ty != FieldType::Int => return wrong("only an integer can be added to"),
                Assign::Add(..) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Field;

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
        assert!(Filter::ge("n", 1.5).validate(&THING).is_ok(), "numbers compare with each other");
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
        let cursor = Cursor { keys: vec![Value::Text("a".into()), Value::Null], id: Uuid::nil() };
        assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        assert!("garbage!".parse::<Cursor>().is_err());
        let far = Cursor {
            keys: vec![Value::Timestamp(Timestamp::from_micros(i64::MIN)), Value::Float(0.1 + 0.2), Value::Int(i64::MAX)],
            id: Uuid::max(),
        };
        assert_eq!(far.to_string().parse::<Cursor>().unwrap(), far, "no key is rounded");
    }

    #[test]
    fn a_cursor_of_another_order_is_refused() {
        let query = Query::new(Filter::All).ascending("n");
        let with = |keys| query.clone().after(Some(Cursor { keys, id: Uuid::nil() })).validate(&THING);
        assert!(with(vec![Value::Int(1)]).is_ok() && with(vec![Value::Null]).is_ok());
        for keys in [vec![], vec![Value::Text("x".into())], vec![Value::Int(1), Value::Int(2)]] {
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
