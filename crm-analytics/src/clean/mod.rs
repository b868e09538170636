//! Cleaning: a list of steps as data, fitted once, applied to one row as to a million.
//!
//! Each step runs as a Polars expression; the learned values (means, categories, bounds) are kept, so that what is
//! scored later is cleaned exactly as what was learned from. Nothing happens silently: the report counts every change.
//!
//! ```
//! use crm_analytics::clean::{CleaningPlan, Columns};
//! use crm_core::{Column, Table, record::Value};
//!
//! let mut plan_name = Column::text("plan");
//! ["free", "pro", "free"].iter().for_each(|p| plan_name.push_text(Some(p)));
//! let mut visits = Column::float("visits");
//! for v in [Value::Float(2.0), Value::Null, Value::Float(7.0)] { visits.push(v).unwrap(); }
//! let table = Table::new(vec![plan_name, visits]).unwrap();
//!
//! let cleaned = CleaningPlan::new().fill(Columns::All, 0.0).dummies("plan").fit(&table).unwrap();
//! assert_eq!(cleaned.table.column("visits").unwrap().f64_at(1), Some(0.0));
//! assert_eq!(cleaned.table.column("plan_pro").unwrap().f64_at(1), Some(1.0));
//! assert_eq!(cleaned.fitted.apply(&table).unwrap().0, cleaned.table);
//! ```

mod fitted;
mod frame;
mod learn;

use crm_core::record::{FieldType, Value};
use crm_core::{Result, Table};
use serde::{Deserialize, Serialize};

pub use fitted::FittedCleaning;
use frame::Frame;

/// The columns a step works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Columns {
    /// Exactly these; one that is not there or has an unfitting type is an error.
    Named(Vec<String>),
    /// Every column whose type fits the step at that point.
    #[serde(with = "all_columns")]
    All,
}

mod all_columns {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("all")
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "all" => Ok(()),
            _ => Err(serde::de::Error::custom(
                "write \"all\" or a list of column names",
            )),
        }
    }
}

impl From<&str> for Columns {
    fn from(name: &str) -> Self {
        Self::Named(vec![name.to_owned()])
    }
}
impl<const N: usize> From<[&str; N]> for Columns {
    fn from(names: [&str; N]) -> Self {
        Self::Named(names.iter().map(|name| (*name).to_owned()).collect())
    }
}
impl From<Vec<String>> for Columns {
    fn from(names: Vec<String>) -> Self {
        Self::Named(names)
    }
}

/// What missing values become.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// This value. A float in a column of integers makes it a column of floats.
    Constant(Value),
    /// The mean of the present values (numbers).
    Mean,
    /// The median of the present values (numbers); the mean of the middle two.
    Median,
    /// The most frequent value (numbers, text, bool); the smallest of equals.
    Mode,
}

impl<T: Into<Value>> From<T> for Fill {
    fn from(value: T) -> Self {
        Self::Constant(value.into())
    }
}

/// Upper and lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// `ana kask`
    Lower,
    /// `ANA KASK`
    Upper,
    /// `Ana Kask`: the first letter of each word (after anything but a letter, digit or apostrophe).
    Title,
}

/// What values are read as. What cannot be read so becomes missing, and is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CastTo {
    /// Floats; text is trimmed first, and must be finite.
    Float,
    /// Integers; a float only when it is whole.
    Int,
    /// Instants, from text such as `2026-03-01T09:00:00Z` or `2026-03-01`.
    Timestamp,
    /// Text.
    Text,
}

/// Where values are cut off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bounds {
    /// At these values.
    Fixed {
        /// Nothing below it.
        low: Option<f64>,
        /// Nothing above it.
        high: Option<f64>,
    },
    /// At these quantiles of what is learned from (0 to 1, linear between values): winsorising.
    Quantiles {
        /// Such as 0.01.
        low: f64,
        /// Such as 0.99.
        high: f64,
    },
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Fills missing values.
    Fill {
        /// Where.
        columns: Columns,
        /// With what.
        with: Fill,
    },
    /// Takes blanks off both ends of text; text that was only blanks becomes missing.
    Trim {
        /// Where.
        columns: Columns,
    },
    /// Changes the case of text.
    Case {
        /// Where.
        columns: Columns,
        /// To which.
        to: Case,
    },
    /// Reads values as another type.
    Cast {
        /// Where.
        columns: Columns,
        /// As what.
        to: CastTo,
    },
    /// One column of true and false for each category, in place of the column (`plan` becomes `plan_free`, `plan_pro`).
    /// A missing value is false in all; so is one never seen before, unless there is a column for others.
    Dummies {
        /// Where: text, bools or integers.
        columns: Columns,
        /// Leaves out the first category (in the order of text): it is all false.
        #[serde(default)]
        drop_first: bool,
        /// The most frequent ones get a column; all others, and those never seen before, share `plan_other`.
        /// Without a limit, more than 100 categories are an error.
        #[serde(default)]
        max_categories: Option<usize>,
    },
    /// Cuts off numbers.
    Clip {
        /// Where.
        columns: Columns,
        /// At which values.
        bounds: Bounds,
    },
    /// `ln(1 + x)`, for numbers above -1 that spread over orders of magnitude.
    Log1p {
        /// Where.
        columns: Columns,
    },
    /// `(x - mean) / standard deviation`; a constant column becomes 0.
    Standardise {
        /// Where.
        columns: Columns,
    },
    /// Leaves columns out.
    Drop {
        /// Which.
        columns: Columns,
    },
    /// Renames a column.
    Rename {
        /// From.
        from: String,
        /// To.
        to: String,
    },
}

impl Step {
    /// The step's name, as written in a plan.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fill { .. } => "fill",
            Self::Trim { .. } => "trim",
            Self::Case { .. } => "case",
            Self::Cast { .. } => "cast",
            Self::Dummies { .. } => "dummies",
            Self::Clip { .. } => "clip",
            Self::Log1p { .. } => "log1p",
            Self::Standardise { .. } => "standardise",
            Self::Drop { .. } => "drop",
            Self::Rename { .. } => "rename",
        }
    }
}

/// Steps, in order. Plain data: write it as JSON, keep it with the host's settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CleaningPlan {
    /// The steps.
    pub steps: Vec<Step>,
}

impl CleaningPlan {
    /// A plan that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds a step.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
    /// Adds [`Step::Fill`].
    #[must_use]
    pub fn fill(self, columns: impl Into<Columns>, with: impl Into<Fill>) -> Self {
        self.then(Step::Fill {
            columns: columns.into(),
            with: with.into(),
        })
    }
    /// Adds [`Step::Trim`].
    #[must_use]
    pub fn trim(self, columns: impl Into<Columns>) -> Self {
        self.then(Step::Trim {
            columns: columns.into(),
        })
    }
    /// Adds [`Step::Case`].
    #[must_use]
    pub fn case(self, columns: impl Into<Columns>, to: Case) -> Self {
        self.then(Step::Case {
            columns: columns.into(),
            to,
        })
    }
    /// Adds [`Step::Cast`].
    #[must_use]
    pub fn cast(self, columns: impl Into<Columns>, to: CastTo) -> Self {
        self.then(Step::Cast {
            columns: columns.into(),
            to,
        })
    }
    /// Adds [`Step::Dummies`] with every category.
    #[must_use]
    pub fn dummies(self, columns: impl Into<Columns>) -> Self {
        self.then(Step::Dummies {
            columns: columns.into(),
            drop_first: false,
            max_categories: None,
        })
    }
    /// Adds [`Step::Clip`].
    #[must_use]
    pub fn clip(self, columns: impl Into<Columns>, bounds: Bounds) -> Self {
        self.then(Step::Clip {
            columns: columns.into(),
            bounds,
        })
    }
    /// Adds [`Step::Log1p`].
    #[must_use]
    pub fn log1p(self, columns: impl Into<Columns>) -> Self {
        self.then(Step::Log1p {
            columns: columns.into(),
        })
    }
    /// Adds [`Step::Standardise`].
    #[must_use]
    pub fn standardise(self, columns: impl Into<Columns>) -> Self {
        self.then(Step::Standardise {
            columns: columns.into(),
        })
    }
    /// Adds [`Step::Drop`].
    #[must_use]
    pub fn drop(self, columns: impl Into<Columns>) -> Self {
        self.then(Step::Drop {
            columns: columns.into(),
        })
    }
    /// Adds [`Step::Rename`].
    #[must_use]
    pub fn rename(self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.then(Step::Rename {
            from: from.into(),
            to: to.into(),
        })
    }

    /// Learns what the steps need from `table` and cleans it. Rows stay as many and in order. UUID columns pass through
    /// untouched; NaN counts as missing.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the step and column: a column that is not there (naming those there are)
    /// or has an unfitting type, nothing to learn a mean from, too many categories, a name given twice.
    pub fn fit(&self, table: &Table) -> Result<Cleaned> {
        let mut frame = Frame::read(table)?;
        let input = frame.columns().to_vec();
        let mut report = CleaningReport::begun(&frame);
        let mut ops = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            let place = |error: crm_core::Error| {
                error
                    .operation("clean.fit")
                    .with("step", step.name())
                    .with("position", at + 1)
            };
            // One column at a time: a later column of the same step sees what an earlier one made.
            for op in learn::ops(step, &frame).map_err(place)? {
                let counts = fitted::run(&op, &mut frame).map_err(place)?;
                report.lines.push(counts);
                ops.push(op);
            }
        }
        report.columns_after = frame.columns().len();
        let fitted = FittedCleaning { input, ops };
        Ok(Cleaned {
            fitted,
            table: frame.write()?,
            report,
        })
    }
}

/// What [`CleaningPlan::fit`] answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Cleaned {
    /// What was learned, to clean other rows alike.
    pub fitted: FittedCleaning,
    /// The cleaned rows.
    pub table: Table,
    /// What was changed.
    pub report: CleaningReport,
}

/// What one step did to one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleaningLine {
    /// The step.
    pub step: String,
    /// The column.
    pub column: String,
    /// The rows whose value is another than before.
    pub changed: usize,
    /// The rows without a value before.
    pub missing_before: usize,
    /// The rows without a value after (0 for dummies, which have none).
    pub missing_after: usize,
    /// The rows whose value could not be read (cast), or was in no category (dummies).
    pub unreadable: usize,
}

/// What a cleaning did, step by step.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CleaningReport {
    /// The rows.
    pub rows: usize,
    /// The columns before.
    pub columns_before: usize,
    /// The columns after.
    pub columns_after: usize,
    /// One line a step and column.
    pub lines: Vec<CleaningLine>,
}

impl CleaningReport {
    fn begun(frame: &Frame) -> Self {
        let columns = frame.columns().len();
        Self {
            rows: frame.rows(),
            columns_before: columns,
            columns_after: columns,
            lines: Vec::new(),
        }
    }
}

/// The names of types in messages.
fn type_name(ty: FieldType) -> &'static str {
    match ty {
        FieldType::Bool => "bool",
        FieldType::Int => "int",
        FieldType::Float => "float",
        FieldType::Text => "text",
        FieldType::Bytes => "bytes",
        FieldType::Timestamp => "timestamp",
        FieldType::Uuid => "uuid",
        FieldType::Json => "json",
    }
}
