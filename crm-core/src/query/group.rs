use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{FieldRef, Filter, Key, total_order};
use crate::record::{FieldType, Schema, Value};
use crate::table::Column;
use crate::{Error, Result, Table};

/// What a grouped answer is grouped by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// Equal values of a field (absent ones make one group).
    Field(String),
    /// The calendar month (UTC, `YYYY-MM`) of a timestamp.
    Month(String),
    /// Stretches of `width` that begin at `start`; the key is the lower end of the stretch, in the field's type.
    Bucket {
        /// An integer or a timestamp.
        field: String,
        /// How long each is: in the integer's unit, or in microseconds; 1 to 2^60.
        width: i64,
        /// Where one of them begins.
        start: i64,
    },
}

/// The longest stretch of a bucket, so that no store's arithmetic overflows.
const WIDEST: i64 = 1 << 60;

impl GroupBy {
    /// The field grouped by.
    pub fn field(&self) -> &str {
        match self {
            Self::Field(field) | Self::Month(field) | Self::Bucket { field, .. } => field,
        }
    }

    /// What a value is grouped under.
    pub(crate) fn key(&self, value: &Value) -> Result<Value> {
        let floor = |n: i64, width: i64, start: i64| {
            let offset = (i128::from(n) - i128::from(start)).rem_euclid(i128::from(width.max(1)));
            i64::try_from(i128::from(n) - offset).map_err(|_| {
                Error::invalid("a stretch begins before the smallest number").with("field", self.field())
            })
        };
        Ok(match (self, value) {
            (Self::Field(_), value) => value.clone(),
            (Self::Month(_), value) => value.as_timestamp().map(crate::Timestamp::month).into(),
            (Self::Bucket { width, start, .. }, Value::Int(n)) => Value::Int(floor(*n, *width, *start)?),
            (Self::Bucket { width, start, .. }, Value::Timestamp(at)) => {
                crate::Timestamp::from_micros(floor(at.as_micros(), *width, *start)?).into()
            }
            (Self::Bucket { .. }, _) => Value::Null,
        })
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

impl Measure {
    /// The field it is computed over.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Count => None,
            Self::Sum(field) | Self::Min(field) | Self::Max(field) | Self::Distinct(field) => Some(field),
        }
    }
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
        Self {
            filter,
            by: Vec::new(),
            measures: Vec::new(),
        }
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
    /// Groups an integer or a timestamp by stretches of `width` (microseconds for timestamps), one of which begins at
    /// `start`.
    #[must_use]
    pub fn by_bucket(mut self, field: impl Into<String>, width: i64, start: i64) -> Self {
        self.by.push(GroupBy::Bucket {
            field: field.into(),
            width,
            start,
        });
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
        let ty = |field: &str| field_type(schema, field);
        let wrong = |message: &'static str, field: &str| {
            Err(Error::invalid(message)
                .with("schema", schema.name)
                .with("field", field))
        };
        for by in &self.by {
            match (by, ty(by.field())?) {
                (GroupBy::Month(field), found) if found != FieldType::Timestamp => {
                    return wrong("months need a timestamp", field);
                }
                (GroupBy::Field(field), FieldType::Json | FieldType::Bytes) => {
                    return wrong("cannot group by a JSON or bytes field", field);
                }
                (GroupBy::Bucket { field, width, .. }, found) => {
                    if !matches!(found, FieldType::Int | FieldType::Timestamp) {
                        return wrong("buckets need an integer or a timestamp", field);
                    }
                    if !(1..=WIDEST).contains(width) {
                        return wrong("a bucket is 1 to 2^60 wide", field);
                    }
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

    /// The type of a measure's column.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the schema has no such field.
    pub fn measure_type(&self, schema: &Schema, measure: &Measure) -> Result<FieldType> {
        measure_type(measure, &|field| field_type(schema, field))
    }

    /// Groups and sums the rows of a table as a store does its records.
    ///
    /// ```
    /// use crm_core::query::{Aggregate, Filter, Measure};
    /// use crm_core::table::{Column, Table};
    ///
    /// let table = Table::new(vec![Column::ints("age", vec![18, 35, 39]), Column::ints("paid", vec![1, 2, 3])]).unwrap();
    /// let by_decade = Aggregate::new(Filter::All).by_bucket("age", 10, 0).measure("paid", Measure::Sum("paid".into()));
    /// let sums = by_decade.over(&table).unwrap();
    /// assert_eq!(sums.column("paid").unwrap().f64_at(1), Some(5.0));
    /// ```
    ///
    /// # Errors
    /// As [`Filter::select`]; [`crate::ErrorKind::Invalid`] when a sum goes beyond 64 bits.
    pub fn over(&self, table: &Table) -> Result<Table> {
        let chosen = self.filter.select(table)?;
        let rows = chosen
            .iter()
            .enumerate()
            .filter(|(_, yes)| **yes)
            .map(|(row, _)| {
                move |field: &str| match table.column(field) {
                    Ok(column) => column.value(row),
                    Err(_) => Value::Null,
                }
            });
        grouped(self, &|field| table.column(field).map(Column::ty), rows)
    }
}

fn field_type(schema: &Schema, field: &str) -> Result<FieldType> {
    FieldRef {
        field: field.to_owned(),
        path: Vec::new(),
    }
    .resolve(schema)
    .map(|ty| ty.unwrap_or(FieldType::Json))
}

fn measure_type(measure: &Measure, ty: &dyn Fn(&str) -> Result<FieldType>) -> Result<FieldType> {
    match measure {
        Measure::Count | Measure::Distinct(_) => Ok(FieldType::Int),
        Measure::Sum(field) | Measure::Min(field) | Measure::Max(field) => ty(field),
    }
}

/// What one measure knows of one group so far.
enum Sum {
    Count(i64),
    Int(Option<i128>),
    Float(Option<f64>),
    Min(Value),
    Max(Value),
    Distinct(BTreeSet<Key>),
}

impl Sum {
    fn new(measure: &Measure, ty: FieldType) -> Self {
        match measure {
            Measure::Count => Self::Count(0),
            Measure::Sum(_) if ty == FieldType::Int => Self::Int(None),
            Measure::Sum(_) => Self::Float(None),
            Measure::Min(_) => Self::Min(Value::Null),
            Measure::Max(_) => Self::Max(Value::Null),
            Measure::Distinct(_) => Self::Distinct(BTreeSet::new()),
        }
    }

    fn add(&mut self, value: &Value) {
        match self {
            Self::Count(n) => *n += 1,
            Self::Int(sum) => {
                if let Some(int) = value.as_int() {
                    *sum = Some(sum.unwrap_or(0) + i128::from(int));
                }
            }
            Self::Float(sum) => {
                if let Some(float) = value.as_f64() {
                    *sum = Some(sum.unwrap_or(0.0) + float);
                }
            }
            _ if value.is_null() => {}
            Self::Min(min) if min.is_null() || total_order(value, min).is_lt() => min.clone_from(value),
            Self::Max(max) if max.is_null() || total_order(value, max).is_gt() => max.clone_from(value),
            Self::Min(_) | Self::Max(_) => {}
            Self::Distinct(seen) => {
                seen.insert(Key(value.clone()));
            }
        }
    }

    fn value(self, measure: &str) -> Result<Value> {
        Ok(match self {
            Self::Count(n) => Value::Int(n),
            Self::Int(sum) => sum
                .map(|sum| {
                    i64::try_from(sum)
                        .map_err(|_| Error::invalid("a sum goes beyond 64 bits").with("measure", measure))
                })
                .transpose()?
                .into(),
            Self::Float(sum) => sum.into(),
            Self::Min(value) | Self::Max(value) => value,
            Self::Distinct(seen) => Value::Int(i64::try_from(seen.len()).unwrap_or(i64::MAX)),
        })
    }
}

/// Groups and sums rows, each a way to ask for its fields.
pub(crate) fn grouped<R: Fn(&str) -> Value>(
    aggregate: &Aggregate,
    ty: &dyn Fn(&str) -> Result<FieldType>,
    rows: impl Iterator<Item = R>,
) -> Result<Table> {
    let types = aggregate
        .measures
        .iter()
        .map(|(_, measure)| measure_type(measure, ty))
        .collect::<Result<Vec<_>>>()?;
    let fresh = || -> Vec<Sum> {
        aggregate
            .measures
            .iter()
            .zip(&types)
            .map(|((_, measure), ty)| Sum::new(measure, *ty))
            .collect()
    };
    let mut groups: BTreeMap<Vec<Key>, Vec<Sum>> = BTreeMap::new();
    if aggregate.by.is_empty() {
        groups.insert(Vec::new(), fresh());
    }
    for row in rows {
        let key = aggregate
            .by
            .iter()
            .map(|by| by.key(&row(by.field())).map(Key))
            .collect::<Result<_>>()?;
        let sums = groups.entry(key).or_insert_with(fresh);
        for (sum, (_, measure)) in sums.iter_mut().zip(&aggregate.measures) {
            sum.add(&measure.field().map_or(Value::Null, &row));
        }
    }
    let mut keys = Vec::new();
    for by in &aggregate.by {
        let ty = match by {
            GroupBy::Field(field) | GroupBy::Bucket { field, .. } => ty(field)?,
            GroupBy::Month(_) => FieldType::Text,
        };
        keys.push(Column::empty(by.field(), ty)?);
    }
    let mut measures = Vec::new();
    for ((name, _), ty) in aggregate.measures.iter().zip(&types) {
        measures.push(Column::empty(name.as_str(), *ty)?);
    }
    for (key, sums) in groups {
        keys.iter_mut()
            .zip(key)
            .try_for_each(|(column, key)| column.push(key.0))?;
        for ((column, sum), (name, _)) in measures.iter_mut().zip(sums).zip(&aggregate.measures) {
            column.push(sum.value(name)?)?;
        }
    }
    keys.append(&mut measures);
    Table::new(keys)
}
