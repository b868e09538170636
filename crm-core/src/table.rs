//! Typed columns with validity: how bulk data moves between store, cleaning and models.
//!
//! ```
//! use crm_core::table::{Column, Table};
//!
//! let mut city = Column::text("city");
//! city.push_text(Some("Oslo"));
//! city.push_text(None);
//! let table = Table::new(vec![city]).unwrap();
//! assert_eq!((table.rows(), table.columns().len()), (2, 1));
//! assert_eq!(table.column("city").unwrap().text_at(0), Some("Oslo"));
//! assert_eq!(table.column("city").unwrap().missing(), 1);
//! ```

use std::fmt;

use crate::record::{FieldType, Value};
use crate::{Error, Result, Timestamp, Uuid};

/// The values of a column, dense: absent rows hold a default and are named by the column's validity.
#[derive(Clone, PartialEq)]
pub enum ColumnData {
    /// True or false.
    Bool(Vec<bool>),
    /// 64-bit integers.
    Int(Vec<i64>),
    /// 64-bit floats.
    Float(Vec<f64>),
    /// Text.
    Text(TextData),
    /// Microseconds UTC.
    Timestamp(Vec<i64>),
    /// UUIDs.
    Uuid(Vec<Uuid>),
}

/// Text of many rows in one buffer: row `i` is `bytes[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, PartialEq, Default)]
pub struct TextData {
    ends: Vec<usize>,
    text: String,
}

impl TextData {
    /// Adds a row.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }
    /// The text of a row; `None` past the end.
    pub fn get(&self, row: usize) -> Option<&str> {
        let end = *self.ends.get(row)?;
        let start = match row.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.text.get(start..end)
    }
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
    /// All rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|row| self.get(row).unwrap_or_default())
    }
}

/// One named, typed column. `Debug` shows name, type and size, never values.
#[derive(Clone, PartialEq)]
pub struct Column {
    name: String,
    data: ColumnData,
    /// Empty when every row is present.
    valid: Vec<bool>,
}

impl Column {
    /// A column of given values, all present.
    pub fn new(name: impl Into<String>, data: ColumnData) -> Self {
        Self {
            name: name.into(),
            data,
            valid: Vec::new(),
        }
    }

    /// A column of given values; `valid[i]` says whether row `i` is present.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the lengths differ.
    pub fn with_validity(name: impl Into<String>, data: ColumnData, valid: Vec<bool>) -> Result<Self> {
        let mut column = Self::new(name, data);
        if valid.len() != column.len() {
            return Err(Error::invalid("validity and values differ in length").with("column", &column.name));
        }
        if valid.contains(&false) {
            column.valid = valid;
        }
        Ok(column)
    }

    /// An empty column of a field's type; JSON and bytes are not columns (read JSON paths as text).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] for JSON and bytes.
    pub fn empty(name: impl Into<String>, ty: FieldType) -> Result<Self> {
        let data = match ty {
            FieldType::Bool => ColumnData::Bool(Vec::new()),
            FieldType::Int => ColumnData::Int(Vec::new()),
            FieldType::Float => ColumnData::Float(Vec::new()),
            FieldType::Text => ColumnData::Text(TextData::default()),
            FieldType::Timestamp => ColumnData::Timestamp(Vec::new()),
            FieldType::Uuid => ColumnData::Uuid(Vec::new()),
            FieldType::Json | FieldType::Bytes => {
                return Err(Error::new(
                    crate::ErrorKind::Unsupported,
                    "a whole JSON or bytes field cannot be a column; name a path below it",
                )
                .with("column", name.into()));
            }
        };
        Ok(Self::new(name, data))
    }

    /// An empty text column.
    pub fn text(name: impl Into<String>) -> Self {
        Self::new(name, ColumnData::Text(TextData::default()))
    }
    /// An empty float column.
    pub fn float(name: impl Into<String>) -> Self {
        Self::new(name, ColumnData::Float(Vec::new()))
    }
    /// A float column of values, all present.
    pub fn floats(name: impl Into<String>, values: Vec<f64>) -> Self {
        Self::new(name, ColumnData::Float(values))
    }
    /// An integer column of values, all present.
    pub fn ints(name: impl Into<String>, values: Vec<i64>) -> Self {
        Self::new(name, ColumnData::Int(values))
    }
    /// A UUID column of values, all present.
    pub fn uuids(name: impl Into<String>, values: Vec<Uuid>) -> Self {
        Self::new(name, ColumnData::Uuid(values))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The same column under another name.
    #[must_use]
    pub fn renamed(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
    /// Its type.
    pub fn ty(&self) -> FieldType {
        match self.data {
            ColumnData::Bool(_) => FieldType::Bool,
            ColumnData::Int(_) => FieldType::Int,
            ColumnData::Float(_) => FieldType::Float,
            ColumnData::Text(_) => FieldType::Text,
            ColumnData::Timestamp(_) => FieldType::Timestamp,
            ColumnData::Uuid(_) => FieldType::Uuid,
        }
    }
    /// Its values; absent rows hold a default.
    pub fn data(&self) -> &ColumnData {
        &self.data
    }
    /// The values and the validity (empty when every row is present), taken out.
    pub fn into_parts(self) -> (String, ColumnData, Vec<bool>) {
        (self.name, self.data, self.valid)
    }
    /// The number of rows.
    pub fn len(&self) -> usize {
        match &self.data {
            ColumnData::Bool(values) => values.len(),
            ColumnData::Int(values) | ColumnData::Timestamp(values) => values.len(),
            ColumnData::Float(values) => values.len(),
            ColumnData::Text(values) => values.len(),
            ColumnData::Uuid(values) => values.len(),
        }
    }
    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether a row is present; false past the end.
    pub fn is_valid(&self, row: usize) -> bool {
        if self.valid.is_empty() {
            row < self.len()
        } else {
            self.valid.get(row).copied().unwrap_or(false)
        }
    }
    /// The number of absent rows.
    pub fn missing(&self) -> usize {
        self.valid.iter().filter(|valid| !**valid).count()
    }

    /// Which rows are present, one flag a row.
    pub fn validity(&self) -> Vec<bool> {
        if self.valid.is_empty() {
            vec![true; self.len()]
        } else {
            self.valid.clone()
        }
    }

    fn mark(&mut self, present: bool) {
        let len = self.len();
        if !present && self.valid.is_empty() {
            self.valid = vec![true; len.saturating_sub(1)];
        }
        if !self.valid.is_empty() || !present {
            self.valid.push(present);
        }
    }

    /// Adds a row to a text column; anything else is left as it is.
    pub fn push_text(&mut self, text: Option<&str>) {
        if let ColumnData::Text(data) = &mut self.data {
            data.push(text.unwrap_or_default());
            self.mark(text.is_some());
        }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the value has another type than the column.
    pub fn push(&mut self, value: Value) -> Result<()> {
        let present = !value.is_null();
        match (&mut self.data, value) {
            (ColumnData::Bool(data), Value::Bool(value)) => data.push(value),
            (ColumnData::Bool(data), Value::Null) => data.push(false),
            (ColumnData::Int(data), Value::Int(value)) => data.push(value),
            (ColumnData::Int(data) | ColumnData::Timestamp(data), Value::Null) => data.push(0),
            (ColumnData::Float(data), Value::Float(value)) => data.push(value),
            (ColumnData::Float(data), Value::Int(value)) => data.push(value as f64),
            (ColumnData::Float(data), Value::Null) => data.push(0.0),
            (ColumnData::Text(data), Value::Text(value)) => data.push(&value),
            (ColumnData::Text(data), Value::Null) => data.push(""),
            (ColumnData::Timestamp(data), Value::Timestamp(value)) => data.push(value.as_micros()),
            (ColumnData::Uuid(data), Value::Uuid(value)) => data.push(value),
            (ColumnData::Uuid(data), Value::Null) => data.push(Uuid::nil()),
            _ => {
                return Err(
                    Error::invalid("a value of another type than the column's").with("column", &self.name)
                );
            }
        }
        self.mark(present);
        Ok(())
    }

    /// The value of a row; null when absent or past the end.
    pub fn value(&self, row: usize) -> Value {
        if !self.is_valid(row) {
            return Value::Null;
        }
        match &self.data {
            ColumnData::Bool(data) => data.get(row).map(|v| Value::Bool(*v)),
            ColumnData::Int(data) => data.get(row).map(|v| Value::Int(*v)),
            ColumnData::Float(data) => data.get(row).map(|v| Value::Float(*v)),
            ColumnData::Text(data) => data.get(row).map(|v| Value::Text(v.to_owned())),
            ColumnData::Timestamp(data) => data
                .get(row)
                .map(|v| Value::Timestamp(Timestamp::from_micros(*v))),
            ColumnData::Uuid(data) => data.get(row).map(|v| Value::Uuid(*v)),
        }
        .unwrap_or(Value::Null)
    }
    /// The text of a row, if present and text.
    pub fn text_at(&self, row: usize) -> Option<&str> {
        match &self.data {
            ColumnData::Text(data) if self.is_valid(row) => data.get(row),
            _ => None,
        }
    }
    /// The number of a row, if present and an integer, float or bool.
    pub fn f64_at(&self, row: usize) -> Option<f64> {
        if !self.is_valid(row) {
            return None;
        }
        match &self.data {
            ColumnData::Int(data) => data.get(row).map(|v| *v as f64),
            ColumnData::Float(data) => data.get(row).copied(),
            ColumnData::Bool(data) => data.get(row).map(|v| f64::from(u8::from(*v))),
            _ => None,
        }
    }
    /// The instant of a row, if present and a timestamp.
    pub fn timestamp_at(&self, row: usize) -> Option<Timestamp> {
        match &self.data {
            ColumnData::Timestamp(data) if self.is_valid(row) => {
                data.get(row).map(|v| Timestamp::from_micros(*v))
            }
            _ => None,
        }
    }
    /// The UUID of a row, if present and a UUID.
    pub fn uuid_at(&self, row: usize) -> Option<Uuid> {
        match &self.data {
            ColumnData::Uuid(data) if self.is_valid(row) => data.get(row).copied(),
            _ => None,
        }
    }

    fn append(&mut self, other: Self) -> Result<()> {
        let (before, added) = (self.len(), other.len());
        match (&mut self.data, other.data) {
            (ColumnData::Bool(a), ColumnData::Bool(b)) => a.extend(b),
            (ColumnData::Int(a), ColumnData::Int(b))
            | (ColumnData::Timestamp(a), ColumnData::Timestamp(b)) => {
                a.extend(b);
            }
            (ColumnData::Float(a), ColumnData::Float(b)) => a.extend(b),
            (ColumnData::Uuid(a), ColumnData::Uuid(b)) => a.extend(b),
            (ColumnData::Text(a), ColumnData::Text(b)) => {
                let shift = a.text.len();
                a.text.push_str(&b.text);
                a.ends.extend(b.ends.into_iter().map(|end| end + shift));
            }
            _ => {
                return Err(
                    Error::invalid("columns of different types cannot be joined").with("column", &self.name)
                );
            }
        }
        if !self.valid.is_empty() || !other.valid.is_empty() {
            self.valid.resize(before, true);
            self.valid.extend(if other.valid.is_empty() {
                vec![true; added]
            } else {
                other.valid
            });
        }
        Ok(())
    }
}

impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {:?} x {} ({} missing)",
            self.name,
            self.ty(),
            self.len(),
            self.missing()
        )
    }
}

/// Columns of equal length and different names. `Debug` shows shapes, never values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    columns: Vec<Column>,
}

impl Table {
    /// Puts columns together.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when lengths differ or two names are equal.
    pub fn new(columns: Vec<Column>) -> Result<Self> {
        let mut table = Self::default();
        columns.into_iter().try_for_each(|column| table.push(column))?;
        Ok(table)
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, Column::len)
    }
    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }
    /// The columns, taken out.
    pub fn into_columns(self) -> Vec<Column> {
        self.columns
    }

    /// A column by name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the missing column and those there are.
    pub fn column(&self, name: &str) -> Result<&Column> {
        self.columns
            .iter()
            .find(|column| column.name == name)
            .ok_or_else(|| {
                let names: Vec<&str> = self.columns.iter().map(Column::name).collect();
                Error::invalid("the table has no such column")
                    .with("column", name)
                    .with("columns", names.join(" "))
            })
    }

    /// Adds a column.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when its length or name does not fit.
    pub fn push(&mut self, column: Column) -> Result<()> {
        if !self.columns.is_empty() && column.len() != self.rows() {
            return Err(
                Error::invalid("a column has another number of rows than the table")
                    .with("column", &column.name)
                    .with("rows", column.len())
                    .with("table_rows", self.rows()),
            );
        }
        if self.columns.iter().any(|other| other.name == column.name) {
            return Err(Error::invalid("two columns of the same name").with("column", &column.name));
        }
        self.columns.push(column);
        Ok(())
    }

    /// Adds the rows of a table with the same columns in the same order.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the columns differ.
    pub fn append(&mut self, other: Self) -> Result<()> {
        if self.columns.is_empty() {
            *self = other;
            return Ok(());
        }
        let alike = self.columns.len() == other.columns.len()
            && self
                .columns
                .iter()
                .zip(&other.columns)
                .all(|(a, b)| a.name == b.name && a.ty() == b.ty());
        if !alike {
            return Err(Error::invalid("tables with different columns cannot be joined"));
        }
        self.columns
            .iter_mut()
            .zip(other.columns)
            .try_for_each(|(a, b)| a.append(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_follows_pushes_and_appends() {
        let mut a = Column::float("x");
        a.push(Value::Float(1.0)).unwrap();
        a.push(Value::Null).unwrap();
        let mut b = Column::float("x");
        b.push(Value::Float(3.0)).unwrap();
        let mut table = Table::new(vec![b]).unwrap();
        table.append(Table::new(vec![a]).unwrap()).unwrap();
        let x = table.column("x").unwrap();
        assert_eq!(
            (x.f64_at(0), x.f64_at(1), x.f64_at(2)),
            (Some(3.0), Some(1.0), None)
        );
        assert_eq!((x.missing(), x.is_valid(3)), (1, false));
    }

    #[test]
    fn text_rows_keep_their_borders() {
        let mut data = TextData::default();
        ["", "ä", "", "xyz"].iter().for_each(|t| data.push(t));
        assert_eq!(data.iter().collect::<Vec<_>>(), ["", "ä", "", "xyz"]);
        assert_eq!(data.get(4), None);
    }

    #[test]
    fn shapes_are_checked() {
        let err = Table::new(vec![Column::ints("a", vec![1]), Column::ints("b", vec![1, 2])]).unwrap_err();
        assert!(err.to_string().contains("column=b"));
        assert!(Table::new(vec![Column::ints("a", vec![]), Column::ints("a", vec![])]).is_err());
        assert!(Column::ints("a", vec![1]).push(Value::Text("x".into())).is_err());
    }
}
