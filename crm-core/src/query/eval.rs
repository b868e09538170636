//! What a [`Filter`] means: the one evaluation that every store is measured against.

use std::cmp::Ordering;

use serde_json::Value as Json;

use super::{Answers, Compare, FieldRef, Filter};
use crate::record::{Stored, Value};
use crate::table::{Column, ColumnData};
use crate::{Error, Result, Table, Uuid};

/// A value as a filter sees it, borrowed from wherever it lies.
#[derive(Clone, Copy)]
pub(crate) enum View<'a> {
    Absent,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Timestamp(i64),
    Uuid(Uuid),
    /// A JSON object or array: present, but equal to nothing.
    Document,
}

impl<'a> View<'a> {
    pub(crate) fn of(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Absent,
            Value::Bool(v) => Self::Bool(*v),
            Value::Int(v) => Self::Int(*v),
            Value::Float(v) => Self::Float(*v),
            Value::Text(v) => Self::Text(v),
            Value::Bytes(v) => Self::Bytes(v),
            Value::Timestamp(v) => Self::Timestamp(v.as_micros()),
            Value::Uuid(v) => Self::Uuid(*v),
            Value::Json(_) => Self::Document,
        }
    }

    fn json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Absent,
            Json::Bool(v) => Self::Bool(*v),
            // Integers beyond 64 signed bits are compared as the nearest float, as every database does.
            Json::Number(v) => match (v.as_i64(), v.as_f64()) {
                (Some(int), _) => Self::Int(int),
                (None, Some(float)) => Self::Float(float),
                (None, None) => Self::Document,
            },
            Json::String(v) => Self::Text(v),
            Json::Array(_) | Json::Object(_) => Self::Document,
        }
    }

    /// The value itself, or what lies below it when it is JSON and a path is given.
    pub(crate) fn at(value: &'a Value, path: &[String]) -> Self {
        match (path.is_empty(), value) {
            (true, value) => Self::of(value),
            (false, Value::Json(json)) => below(json, path).map_or(Self::Absent, Self::json),
            (false, _) => Self::Absent,
        }
    }

    fn cell(column: &'a Column, row: usize) -> Self {
        if !column.is_valid(row) {
            return Self::Absent;
        }
        match column.data() {
            ColumnData::Bool(data) => data.get(row).map(|v| Self::Bool(*v)),
            ColumnData::Int(data) => data.get(row).map(|v| Self::Int(*v)),
            ColumnData::Float(data) => data.get(row).map(|v| Self::Float(*v)),
            ColumnData::Text(data) => data.get(row).map(Self::Text),
            ColumnData::Timestamp(data) => data.get(row).map(|v| Self::Timestamp(*v)),
            ColumnData::Uuid(data) => data.get(row).map(|v| Self::Uuid(*v)),
        }
        .unwrap_or(Self::Absent)
    }

    /// How it compares with `value`; `None` when either is absent or their types do not compare.
    pub(crate) fn compare(self, value: &Value) -> Option<Ordering> {
        match (self, View::of(value)) {
            (Self::Bool(a), View::Bool(b)) => Some(a.cmp(&b)),
            (Self::Int(a), View::Int(b)) | (Self::Timestamp(a), View::Timestamp(b)) => Some(a.cmp(&b)),
            (Self::Float(a), View::Float(b)) => a.partial_cmp(&b),
            (Self::Int(a), View::Float(b)) => int_float(a, b),
            (Self::Float(a), View::Int(b)) => int_float(b, a).map(Ordering::reverse),
            (Self::Text(a), View::Text(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Self::Bytes(a), View::Bytes(b)) => Some(a.cmp(b)),
            (Self::Uuid(a), View::Uuid(b)) => Some(a.cmp(&b)),
            _ => None,
        }
    }
}

/// What lies at `path` below a JSON document; keys of objects only.
pub(crate) fn below<'a>(json: &'a Json, path: &[String]) -> Option<&'a Json> {
    path.iter().try_fold(json, |json, key| json.as_object()?.get(key))
}

/// What lies at `path` as a text column shows it: strings as they are, everything else as JSON; absent for `null`.
pub(crate) fn text_below(value: &Value, path: &[String]) -> Option<String> {
    match below(value.as_json()?, path)? {
        Json::Null => None,
        Json::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Compares as numbers, without the rounding of a conversion: 2^53 + 1 is greater than 2^53 as a float.
pub(crate) fn int_float(int: i64, float: f64) -> Option<Ordering> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0; // 2^63, exact
    if float.is_nan() {
        return None;
    }
    if float >= LIMIT {
        return Some(Ordering::Less);
    }
    if float < -LIMIT {
        return Some(Ordering::Greater);
    }
    // Now the whole part fits an i64 exactly; what follows the point decides between equals.
    let whole = float.trunc();
    Some(
        int.cmp(&(whole as i64))
            .then(0.0.partial_cmp(&(float - whole)).unwrap_or(Ordering::Equal)),
    )
}

/// The order of sort keys, index keys and groups: absent first, numbers as numbers, text and bytes byte by byte.
pub(crate) fn total_order(a: &Value, b: &Value) -> Ordering {
    View::of(a).compare(b).unwrap_or_else(|| rank(a).cmp(&rank(b)))
}

/// A value as a key of an index or a group, in [`total_order`].
#[derive(Clone)]
pub(crate) struct Key(pub(crate) Value);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Key {}
impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        total_order(&self.0, &other.0)
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Int(_) | Value::Float(_) => 2,
        Value::Timestamp(_) => 3,
        Value::Text(_) => 4,
        Value::Bytes(_) => 5,
        Value::Uuid(_) => 6,
        Value::Json(_) => 7,
    }
}

/// What a filter is decided on: one record, wherever it lies.
pub(crate) trait Look {
    /// A field.
    fn field(&self, field: &FieldRef) -> View<'_>;
    /// Whether the JSON array at a field has this text among its items.
    fn has(&self, field: &FieldRef, text: &str) -> bool;
    /// The record's id, when it is known.
    fn id(&self) -> Option<Uuid>;
}

/// Whether a JSON document is an array with this text among its items.
pub(crate) fn has_item(json: &Json, text: &str) -> bool {
    json.as_array()
        .is_some_and(|items| items.iter().any(|item| item.as_str() == Some(text)))
}

/// [`has_item`] of what lies at a path of a value.
pub(crate) fn has_item_at(value: &Value, path: &[String], text: &str) -> bool {
    value
        .as_json()
        .and_then(|json| below(json, path))
        .is_some_and(|json| has_item(json, text))
}

/// Decides a filter on a record; `answers` are those to its conditions on related records.
pub(crate) fn decide(filter: &Filter, record: &impl Look, answers: &Answers<'_>) -> bool {
    let look = |field: &FieldRef| record.field(field);
    match filter {
        Filter::All => true,
        Filter::And(all) => all.iter().all(|filter| decide(filter, record, answers)),
        Filter::Or(any) => any.iter().any(|filter| decide(filter, record, answers)),
        Filter::Not(filter) => !decide(filter, record, answers),
        Filter::Has { field, text } => record.has(field, text),
        Filter::Related(related) => answers.holds(related, record.id()),
        // Put into other words before they come here; validation refuses what was not.
        Filter::Ago { .. } | Filter::InSegment(_) => false,
        Filter::Is { field, op, value } => look(field).compare(value).is_some_and(|order| op.holds(order)),
        Filter::In { field, values } => {
            let view = look(field);
            values
                .iter()
                .any(|value| view.compare(value) == Some(Ordering::Equal))
        }
        Filter::Prefix { field, text } => {
            matches!(look(field), View::Text(t) if t.starts_with(text.as_str()))
        }
        Filter::Contains { field, text } => matches!(look(field), View::Text(t) if t.contains(text.as_str())),
        Filter::Null { field } => matches!(look(field), View::Absent),
    }
}

impl Compare {
    pub(crate) fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Eq => order.is_eq(),
            Self::Ne => order.is_ne(),
            Self::Lt => order.is_lt(),
            Self::Le => order.is_le(),
            Self::Gt => order.is_gt(),
            Self::Ge => order.is_ge(),
        }
    }
}

impl Filter {
    /// Whether a record matches. Fields its schema does not have count as absent; [`Filter::validate`] refuses them.
    ///
    /// ```
    /// use crm_core::query::Filter;
    /// use crm_core::record::{Field, FieldType, Record, Schema, Stored};
    /// use crm_core::Uuid;
    ///
    /// static N: Schema = Schema { name: "n", fields: &[Field::new("n", FieldType::Int)], indexes: &[] };
    /// let record = Record::new(&N).with("n", (1_i64 << 53) + 1).unwrap();
    /// let stored = Stored { id: Uuid::nil(), version: 1, record };
    /// assert!(Filter::gt("n", (1_i64 << 53) as f64).matches(&stored), "no rounding");
    /// ```
    ///
    /// Related records are not seen here: conditions on them are decided as for a record that has none.
    pub fn matches(&self, stored: &Stored) -> bool {
        decide(self, &Whole::new(stored), &Answers::default())
    }

    /// Which rows of a table match: one flag a row. Columns are found by the field's whole name, so a JSON path that
    /// was scanned is the text column `attributes.plan`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the table has no such column, or its type does not compare with the value.
    ///
    /// A column of a JSON path is text and no longer says what it was (the number 5 reads as the text 5), so conditions
    /// below JSON fields mean the same as in the store only where the values are text or absent; numbers are refused.
    ///
    /// ```
    /// use crm_core::query::Filter;
    /// use crm_core::table::{Column, Table};
    ///
    /// let table = Table::new(vec![Column::ints("visits", vec![3, 40])]).unwrap();
    /// assert_eq!(Filter::ge("visits", 10_i64).select(&table).unwrap(), [false, true]);
    /// assert!(Filter::eq("visits", "many").select(&table).is_err());
    /// ```
    pub fn select(&self, table: &Table) -> Result<Vec<bool>> {
        self.select_related(table, &[])
    }

    /// [`Filter::select`] with the tables of related records, by the names of their schemas; the rows belong together
    /// by the column `id` of `table` and the relation's key.
    ///
    /// # Errors
    /// As [`Filter::select`]; [`crate::ErrorKind::Invalid`] when a related table is missing.
    pub fn select_related(&self, table: &Table, related: &[(&str, &Table)]) -> Result<Vec<bool>> {
        self.check_columns(table)?;
        let answers = Answers::of(self, &mut |one| {
            let name = one.relation.schema().name;
            let (_, theirs) = related.iter().find(|(known, _)| *known == name).ok_or_else(|| {
                Error::invalid("the table of the related records is missing").with("schema", name)
            })?;
            one.aggregate().over(theirs)
        })?;
        let row = |row| TableRow { table, row };
        Ok((0..table.rows())
            .map(|at| decide(self, &row(at), &answers))
            .collect())
    }

    fn check_columns(&self, table: &Table) -> Result<()> {
        use crate::record::FieldType::{Float, Int, Text};
        let fits = |field: &FieldRef, value: &Value| {
            let ty = column(table, field)?.ty();
            match (ty, value.ty()) {
                (Int | Float, Some(Int | Float)) => Ok(()),
                (a, Some(b)) if a == b => Ok(()),
                _ => {
                    Err(Error::invalid("the value cannot be compared with the column").with("column", field))
                }
            }
        };
        match self {
            Self::All => Ok(()),
            Self::And(all) | Self::Or(all) => all.iter().try_for_each(|filter| filter.check_columns(table)),
            Self::Not(filter) => filter.check_columns(table),
            Self::Is { field, value, .. } => fits(field, value),
            Self::In { field, values } => {
                column(table, field)?;
                values.iter().try_for_each(|value| fits(field, value))
            }
            Self::Prefix { field, .. } | Self::Contains { field, .. } => match column(table, field)?.ty() {
                Text => Ok(()),
                _ => Err(Error::invalid("prefix and contains need a text column").with("column", field)),
            },
            Self::Null { field } => column(table, field).map(|_| ()),
            Self::Has { field, .. } => match column(table, field)?.ty() {
                Text => Ok(()),
                _ => Err(
                    Error::invalid("a column has items when it is a JSON field's, which is text")
                        .with("column", field),
                ),
            },
            Self::Related(_) => column(table, &FieldRef::from("id")).map(|_| ()),
            Self::Ago { .. } | Self::InSegment(_) => Err(Error::invalid(
                "a table knows neither the time nor segments; use Filter::at and Filter::expand before",
            )),
        }
    }
}

/// A record alone.
pub(super) struct Whole<'a> {
    stored: &'a Stored,
    id: Value,
}

impl<'a> Whole<'a> {
    pub(super) fn new(stored: &'a Stored) -> Self {
        Self {
            stored,
            id: Value::Uuid(stored.id),
        }
    }
    fn value(&self, name: &str) -> &Value {
        match name {
            "id" => &self.id,
            name => self.stored.record.get(name).unwrap_or(&Value::Null),
        }
    }
}

impl Look for Whole<'_> {
    fn field(&self, field: &FieldRef) -> View<'_> {
        View::at(self.value(&field.field), &field.path)
    }
    fn has(&self, field: &FieldRef, text: &str) -> bool {
        has_item_at(self.value(&field.field), &field.path, text)
    }
    fn id(&self) -> Option<Uuid> {
        Some(self.stored.id)
    }
}

/// A row of a table.
struct TableRow<'a> {
    table: &'a Table,
    row: usize,
}

impl Look for TableRow<'_> {
    fn field(&self, field: &FieldRef) -> View<'_> {
        column(self.table, field).map_or(View::Absent, |column| View::cell(column, self.row))
    }
    fn has(&self, field: &FieldRef, text: &str) -> bool {
        let document = column(self.table, field)
            .ok()
            .and_then(|column| column.text_at(self.row));
        document
            .and_then(|document| serde_json::from_str::<Json>(document).ok())
            .is_some_and(|json| has_item(&json, text))
    }
    fn id(&self) -> Option<Uuid> {
        self.table.column("id").ok()?.uuid_at(self.row)
    }
}

fn column<'a>(table: &'a Table, field: &FieldRef) -> Result<&'a Column> {
    if field.path.is_empty() {
        table.column(&field.field)
    } else {
        table.column(&field.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Field, FieldType, Record, Schema};

    static THING: Schema = Schema {
        name: "thing",
        fields: &[
            Field::new("t", FieldType::Text).nullable(),
            Field::new("n", FieldType::Int).nullable(),
            Field::new("j", FieldType::Json).nullable(),
        ],
        indexes: &[],
    };

    fn thing(t: Option<&str>, n: Option<i64>, j: Option<Json>) -> Stored {
        let record = Record::from_values(&THING, vec![t.into(), n.into(), j.into()]).unwrap();
        Stored {
            id: Uuid::from_u128(7),
            version: 1,
            record,
        }
    }

    #[test]
    fn integers_and_floats_compare_exactly() {
        const BIG: i64 = 1 << 53;
        for (int, float, order) in [
            (BIG + 1, BIG as f64, Ordering::Greater),
            (BIG, BIG as f64, Ordering::Equal),
            (i64::MAX, 9_223_372_036_854_775_808.0, Ordering::Less),
            (i64::MIN, -9_223_372_036_854_775_808.0, Ordering::Equal),
            (i64::MIN, -1e300, Ordering::Greater),
            (1, 1.5, Ordering::Less),
            (-1, -1.5, Ordering::Greater),
            (0, -0.0, Ordering::Equal),
            (0, -1e-300, Ordering::Greater),
            (5, f64::INFINITY, Ordering::Less),
        ] {
            assert_eq!(int_float(int, float), Some(order), "{int} {float}");
        }
        assert_eq!(int_float(1, f64::NAN), None);
    }

    #[test]
    fn the_logic_has_two_values() {
        let none = thing(None, None, None);
        for filter in [
            Filter::eq("n", 1_i64),
            Filter::ne("n", 1_i64),
            Filter::prefix("t", ""),
            Filter::one_of("n", [1_i64]),
        ] {
            assert!(!filter.matches(&none), "{filter:?}");
            assert!((!filter.clone()).matches(&none), "not {filter:?}");
        }
        assert!(Filter::null("j.plan").matches(&none));
        assert!(Filter::And(vec![]).matches(&none) && !Filter::Or(vec![]).matches(&none));
        assert!(Filter::eq("id", Uuid::from_u128(7)).matches(&none));
    }

    #[test]
    fn below_json_types_never_mix() {
        let some = thing(
            None,
            None,
            Some(serde_json::json!({"s": "5", "n": 5, "f": 5.0, "b": true, "o": {"k": 1}, "z": null})),
        );
        for yes in [
            Filter::eq("j.s", "5"),
            Filter::eq("j.n", 5_i64),
            Filter::eq("j.n", 5.0),
            Filter::eq("j.f", 5_i64),
            Filter::eq("j.b", true),
            Filter::eq("j.o.k", 1_i64),
            Filter::null("j.z"),
            Filter::null("j.o.x"),
            !Filter::null("j.o"),
            Filter::prefix("j.s", "5"),
        ] {
            assert!(yes.matches(&some), "{yes:?}");
        }
        for no in [
            Filter::eq("j.s", 5_i64),
            Filter::ne("j.s", 5_i64),
            Filter::eq("j.n", "5"),
            Filter::eq("j.b", 1_i64),
            Filter::eq("j.n", true),
            Filter::eq("j.o", "x"),
            Filter::contains("j.n", "5"),
        ] {
            assert!(!no.matches(&some), "{no:?}");
        }
    }

    #[test]
    fn a_table_answers_as_its_records_do() {
        let mut t = Column::text("t");
        t.push_text(Some("ab"));
        t.push_text(None);
        let table = Table::new(vec![t, Column::ints("n", vec![1, 2])]).unwrap();
        assert_eq!(
            Filter::prefix("t", "a")
                .or(Filter::gt("n", 1.5))
                .select(&table)
                .unwrap(),
            [true, true]
        );
        assert_eq!((!Filter::eq("t", "ab")).select(&table).unwrap(), [false, true]);
        assert_eq!(
            Filter::null("nope").select(&table).unwrap_err().context("column"),
            Some("nope")
        );
        assert!(Filter::eq("t", 1_i64).select(&table).is_err());
    }
}
