//! What the steps of a plan can be told.

use crm_core::record::Value;
use serde::{Deserialize, Serialize};

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
    /// As learned from the rows that agree in these columns (text, bools, integers or instants); rows of a group never
    /// seen, or without any value, get what all rows say.
    Group {
        /// The columns that make a group.
        by: Vec<String>,
        /// What is learned of each group.
        with: Statistic,
    },
    /// The last value that is there, in the order of a column. It needs the rows before: a row cleaned alone has none and
    /// stays without a value, so follow it by a fill that learns.
    Forward {
        /// The column that says what comes before what (integers, floats or instants); a row without it is left as it is.
        order: String,
        /// Only among the rows that agree in these columns; none for all.
        #[serde(default)]
        by: Vec<String>,
    },
}

/// What is learned of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// The mean (numbers).
    Mean,
    /// The median (numbers).
    Median,
    /// The most frequent value; the smallest of equals.
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
    /// True and false, from `true`, `yes`, `y`, `t`, `on`, `1` and their contraries in any case, or from the integers 1
    /// and 0.
    Bool,
}

/// What becomes of a value that cannot be read; it is counted either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unreadable {
    /// It becomes missing.
    #[default]
    Missing,
    /// It stays as it is.
    Keep,
}

/// A Unicode normal form (UAX #15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnicodeForm {
    /// Composed: a letter and its accent are one character. Looks the same as before.
    Nfc,
    /// Composed, and what only looks different becomes the same: full-width letters, ligatures, superscripts.
    Nfkc,
}

/// What stands before the fraction of a number; the other one groups thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decimal {
    /// `1,234.50`
    Point,
    /// `1.234,50`
    Comma,
}

/// What comes first in a date of three numbers. A first number of four digits is always the year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DateOrder {
    /// `31.12.2026`
    DayFirst,
    /// `12/31/2026`
    MonthFirst,
    /// `26-12-31`
    YearFirst,
}

/// What a category never seen when the plan was fitted becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// Counted, and true in the column of others if there is one; else false in all.
    #[default]
    Accept,
    /// An error that names the row.
    Refuse,
}

/// Which values are outliers. A rule whose spread is 0 calls nothing an outlier: when most values agree, those that do not
/// are no mistakes for that.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutlierRule {
    /// More than `k` times the distance of the quartiles below the first or above the third; Tukey's fences are 1.5.
    Iqr {
        /// How many times.
        k: f64,
    },
    /// More than `k` standard deviations from the mean.
    Z {
        /// How many.
        k: f64,
    },
    /// More than `k` times 1.4826 median absolute deviations from the median: a standard deviation that outliers cannot
    /// move; 3.5 is usual.
    Mad {
        /// How many times.
        k: f64,
    },
    /// Outside these quantiles (0 to 1, linear between values): winsorising, when they are cut off.
    Quantiles {
        /// Such as 0.01.
        low: f64,
        /// Such as 0.99.
        high: f64,
    },
}

/// What becomes of outliers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutlierAction {
    /// They become the bound they are beyond; integers become floats.
    Clip,
    /// They become missing.
    Blank,
    /// Their rows are left out.
    DropRows,
}

/// Which of several rows with the same key stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The first.
    #[default]
    First,
    /// The last.
    Last,
    /// The one with the most values; the first of equals.
    MostComplete,
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
