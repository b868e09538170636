use serde::{Deserialize, Serialize};

use super::{FieldRef, Filter};
use crate::record::{FieldType, Schema};
use crate::{Error, Result};

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
            FieldRef {
                field: field.to_owned(),
                path: Vec::new(),
            }
            .resolve(schema)
            .map(|ty| ty.unwrap_or(FieldType::Json))
        };
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
