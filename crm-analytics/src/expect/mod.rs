//! Expectations: what must hold of a table, as data, and a report that names the rows where it does not.
//!
//! A missing value breaks [`Check::Present`] and nothing else: whether something must be there and what it must be are two
//! questions.
//!
//! ```
//! use crm_analytics::expect::{Check, Expectations};
//! use crm_core::{Column, Table};
//!
//! let table = Table::new(vec![Column::ints("age", vec![31, 200, 44])]).unwrap();
//! let suite = Expectations::new().expect(Check::Range { column: "age".into(), min: Some(0.0), max: Some(120.0) });
//! let report = suite.check(&table).unwrap();
//! assert!(!report.passed);
//! assert_eq!(report.results[0].rows, [1]);
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};

use crm_core::customer::{EmailAddress, PhoneNumber};
use crm_core::record::FieldType;
use crm_core::{Column, Error, Result, Table, Timestamp, Uuid};
use regex::RegexBuilder;
use serde::{Deserialize, Serialize};

use crate::clean::type_name;

/// Rows named in a result.
const NAMED: usize = 1_000;
/// The most memory a pattern may need when it is compiled, in bytes.
const PATTERN: usize = 1 << 20;
const DAY: f64 = 86_400e6;

/// One thing that must hold.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "check", rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    /// The table has the column, of this type.
    Column {
        /// Its name.
        column: String,
        /// Its type.
        ty: FieldType,
    },
    /// The table has so many rows.
    Rows {
        /// At least.
        #[serde(default)]
        min: usize,
        /// At most.
        #[serde(default)]
        max: Option<usize>,
    },
    /// There is a value.
    Present {
        /// In which column.
        column: String,
    },
    /// Numbers are within bounds, both included.
    Range {
        /// In which column.
        column: String,
        /// Nothing below it.
        #[serde(default)]
        min: Option<f64>,
        /// Nothing above it.
        #[serde(default)]
        max: Option<f64>,
    },
    /// Texts have so many characters.
    Length {
        /// In which column.
        column: String,
        /// At least.
        #[serde(default)]
        min: usize,
        /// At most.
        #[serde(default)]
        max: Option<usize>,
    },
    /// No two rows agree in these columns; rows with a missing part agree with none.
    Unique {
        /// Which.
        columns: Vec<String>,
    },
    /// Texts match a pattern, from the first to the last character (syntax of the `regex` crate, which cannot run away).
    Matches {
        /// In which column.
        column: String,
        /// Which.
        pattern: String,
    },
    /// Texts are among these.
    OneOf {
        /// In which column.
        column: String,
        /// Which.
        values: BTreeSet<String>,
    },
    /// Texts are e-mail addresses.
    Email {
        /// In which column.
        column: String,
    },
    /// Texts are phone numbers.
    Phone {
        /// In which column.
        column: String,
        /// The country of numbers without a prefix.
        #[serde(default)]
        region: Option<String>,
    },
    /// Instants are not after this one.
    Past {
        /// In which column.
        column: String,
        /// Which.
        as_of: Timestamp,
    },
    /// The latest instant is recent enough. No rows are named: it is the table that is stale. A column without any value is.
    Fresh {
        /// In which column.
        column: String,
        /// The moment it is looked at from.
        as_of: Timestamp,
        /// Not more than so many days before.
        days: f64,
    },
    /// Values stand in a column of another table ([`Expectations::check_with`]).
    References {
        /// In which column.
        column: String,
        /// The other table's name.
        table: String,
        /// Its column; of the same type.
        of: String,
    },
}

impl Check {
    /// Its name, as written in data.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Column { .. } => "column",
            Self::Rows { .. } => "rows",
            Self::Present { .. } => "present",
            Self::Range { .. } => "range",
            Self::Length { .. } => "length",
            Self::Unique { .. } => "unique",
            Self::Matches { .. } => "matches",
            Self::OneOf { .. } => "one_of",
            Self::Email { .. } => "email",
            Self::Phone { .. } => "phone",
            Self::Past { .. } => "past",
            Self::Fresh { .. } => "fresh",
            Self::References { .. } => "references",
        }
    }
}

/// How bad it is when it does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The table does not pass.
    #[default]
    Error,
    /// It is said, and the table passes.
    Warning,
}

/// A check, and how strictly it is taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expectation {
    /// What must hold.
    #[serde(flatten)]
    pub check: Check,
    /// How bad it is when it does not.
    #[serde(default)]
    pub severity: Severity,
    /// The share of the rows looked at that may fail, 0 to 1; 0 for none.
    #[serde(default)]
    pub tolerance: f64,
}

/// What must hold of a table. Plain data: write it as JSON, keep it beside the data.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Expectations {
    /// Each of it.
    pub all: Vec<Expectation>,
}

/// What came of one expectation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpectationResult {
    /// What was expected.
    pub expectation: Expectation,
    /// Whether it holds, within its tolerance.
    pub holds: bool,
    /// The rows that were looked at: those with a value, or all.
    pub looked_at: usize,
    /// How many of them fail.
    pub failing: usize,
    /// Which, in order: the first 1,000 (0 is the first row).
    pub rows: Vec<usize>,
    /// Why, where it is not about rows.
    pub reason: Option<String>,
}

/// What came of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpectationReport {
    /// Whether all hold whose failure is an error.
    pub passed: bool,
    /// One result an expectation, in order.
    pub results: Vec<ExpectationResult>,
}

/// What one check found.
enum Found {
    /// Each row: `None` when it was not looked at, else whether it is fine.
    Rows(Vec<Option<bool>>),
    /// The table as a whole.
    Table(std::result::Result<(), String>),
}

impl Expectations {
    /// Nothing expected.
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds what must hold in every row.
    #[must_use]
    pub fn expect(self, check: Check) -> Self {
        self.with(check, Severity::Error, 0.0)
    }
    /// Adds an expectation with its severity and tolerance.
    #[must_use]
    pub fn with(mut self, check: Check, severity: Severity, tolerance: f64) -> Self {
        self.all.push(Expectation {
            check,
            severity,
            tolerance,
        });
        self
    }

    /// Looks whether all of it holds.
    ///
    /// # Errors
    /// As [`Expectations::check_with`]; also when a reference to another table is expected.
    pub fn check(&self, table: &Table) -> Result<ExpectationReport> {
        self.check_with(table, &[])
    }

    /// Looks whether all of it holds; `others` are the tables that references point to, by name. A column that is not
    /// there, or has an unfitting type, fails the expectation: that is what was to be found out.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the position of an expectation that makes no sense: a pattern that cannot
    /// be read, bounds in the wrong order, a tolerance outside 0 to 1, a table that was not handed over.
    pub fn check_with(&self, table: &Table, others: &[(&str, &Table)]) -> Result<ExpectationReport> {
        let mut results = Vec::with_capacity(self.all.len());
        for (at, expectation) in self.all.iter().enumerate() {
            let place = |error: Error| {
                error
                    .operation("expect.check")
                    .with("position", at + 1)
                    .with("check", expectation.check.name())
            };
            if !(0.0..=1.0).contains(&expectation.tolerance) {
                return Err(place(
                    Error::invalid("a tolerance is a share, 0 to 1").with("setting", "tolerance"),
                ));
            }
            let found = look(&expectation.check, table, others).map_err(place)?;
            results.push(judge(expectation, found));
        }
        Ok(ExpectationReport {
            passed: results
                .iter()
                .all(|result| result.holds || result.expectation.severity == Severity::Warning),
            results,
        })
    }
}

fn judge(expectation: &Expectation, found: Found) -> ExpectationResult {
    let mut result = ExpectationResult {
        expectation: expectation.clone(),
        holds: true,
        looked_at: 0,
        failing: 0,
        rows: Vec::new(),
        reason: None,
    };
    match found {
        Found::Table(Ok(())) => {}
        Found::Table(Err(reason)) => {
            result.holds = false;
            result.reason = Some(reason);
        }
        Found::Rows(rows) => {
            for (row, fine) in rows.into_iter().enumerate() {
                let Some(fine) = fine else { continue };
                result.looked_at += 1;
                if !fine {
                    result.failing += 1;
                    if result.rows.len() < NAMED {
                        result.rows.push(row);
                    }
                }
            }
            result.holds = result.failing as f64 <= expectation.tolerance * result.looked_at as f64;
        }
    }
    result
}

fn ordered<T: PartialOrd>(min: Option<T>, max: Option<T>) -> Result<()> {
    match (min, max) {
        (Some(min), Some(max)) if min <= max => Ok(()),
        (Some(_), Some(_)) => Err(Error::invalid("the least is above the most").with("setting", "min, max")),
        _ => Ok(()),
    }
}

/// The column, or why it cannot be looked at.
fn fitting<'a>(table: &'a Table, name: &str, fits: &[FieldType]) -> std::result::Result<&'a Column, Found> {
    let reason = |text: String| Found::Table(Err(text));
    let column = table
        .column(name)
        .map_err(|_| reason(format!("there is no column {name}")))?;
    if fits.is_empty() || fits.contains(&column.ty()) {
        return Ok(column);
    }
    Err(reason(format!(
        "{name} is a column of {}",
        type_name(column.ty())
    )))
}

fn each<'a>(column: &'a Column, fine: impl Fn(usize) -> Option<bool> + 'a) -> Found {
    Found::Rows((0..column.len()).map(fine).collect())
}

fn look(check: &Check, table: &Table, others: &[(&str, &Table)]) -> Result<Found> {
    look_at(check, table, others).or_else(|stopped| match stopped {
        Stopped::Found(found) => Ok(found),
        Stopped::Error(error) => Err(error),
    })
}

/// Why a look ended early.
enum Stopped {
    Found(Found),
    Error(Error),
}
impl From<Found> for Stopped {
    fn from(found: Found) -> Self {
        Self::Found(found)
    }
}
impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

fn look_at(check: &Check, table: &Table, others: &[(&str, &Table)]) -> std::result::Result<Found, Stopped> {
    const TEXT: &[FieldType] = &[FieldType::Text];
    const TIME: &[FieldType] = &[FieldType::Timestamp];
    let texts = |name: &str, fine: &dyn Fn(&str) -> bool| -> std::result::Result<Found, Stopped> {
        let column = fitting(table, name, TEXT)?;
        Ok(each(column, |row| column.text_at(row).map(fine)))
    };
    Ok(match check {
        Check::Column { column, ty } => {
            fitting(table, column, &[*ty])?;
            Found::Table(Ok(()))
        }
        Check::Rows { min, max } => {
            ordered(Some(*min), *max)?;
            let fine = table.rows() >= *min && max.is_none_or(|max| table.rows() <= max);
            Found::Table(if fine {
                Ok(())
            } else {
                Err(format!("there are {} rows", table.rows()))
            })
        }
        Check::Present { column } => {
            let column = fitting(table, column, &[])?;
            each(column, |row| Some(is_present(column, row)))
        }
        Check::Range { column, min, max } => {
            ordered(*min, *max)?;
            if [min, max].into_iter().flatten().any(|bound| bound.is_nan()) {
                return Err(Error::invalid("a bound is not a number")
                    .with("setting", "min, max")
                    .into());
            }
            let column = fitting(table, column, &[FieldType::Int, FieldType::Float])?;
            each(column, |row| {
                let value = column.f64_at(row).filter(|value| !value.is_nan())?;
                Some(min.is_none_or(|min| value >= min) && max.is_none_or(|max| value <= max))
            })
        }
        Check::Length { column, min, max } => {
            ordered(Some(*min), *max)?;
            texts(column, &|text| {
                let length = text.chars().count();
                length >= *min && max.is_none_or(|max| length <= max)
            })?
        }
        Check::Unique { columns } => unique(table, columns)?,
        Check::Matches { column, pattern } => {
            let build = |pattern: &str| {
                RegexBuilder::new(pattern)
                    .size_limit(PATTERN)
                    .build()
                    .map_err(|_| {
                        Error::invalid("the pattern cannot be read, or is too large")
                            .with("setting", "pattern")
                    })
            };
            // It must be whole by itself: `a)|(b` would not be held to both ends.
            build(pattern)?;
            let regex = build(&format!("^(?:{pattern})$"))?;
            texts(column, &|text| regex.is_match(text))?
        }
        Check::OneOf { column, values } => texts(column, &|text| values.contains(text))?,
        Check::Email { column } => texts(column, &|text| EmailAddress::parse(text).is_ok())?,
        Check::Phone { column, region } => texts(column, &|text| {
            PhoneNumber::parse(text, region.as_deref()).is_ok()
        })?,
        Check::Past { column, as_of } => {
            let column = fitting(table, column, TIME)?;
            each(column, |row| column.timestamp_at(row).map(|at| at <= *as_of))
        }
        Check::Fresh { column, as_of, days } => {
            if !(days.is_finite() && *days >= 0.0) {
                return Err(Error::invalid("days are a number from 0 up")
                    .with("setting", "days")
                    .into());
            }
            let column = fitting(table, column, TIME)?;
            let last = (0..column.len()).filter_map(|row| column.timestamp_at(row)).max();
            Found::Table(match last {
                None => Err("there is no instant in the column".to_owned()),
                Some(last) => {
                    let old = as_of.as_micros().saturating_sub(last.as_micros()) as f64 / DAY;
                    if old <= *days {
                        Ok(())
                    } else {
                        Err(format!("the latest is {old:.1} days old"))
                    }
                }
            })
        }
        Check::References {
            column,
            table: other,
            of,
        } => {
            let known = others.iter().find(|(name, _)| name == other).ok_or_else(|| {
                Error::invalid("the table that is referred to was not handed over").with("table", other)
            })?;
            let known = known.1.column(of)?;
            let column = fitting(table, column, &[known.ty()])?;
            references(column, known)?
        }
    })
}

fn is_present(column: &Column, row: usize) -> bool {
    column.is_valid(row) && column.f64_at(row).is_none_or(|value| !value.is_nan())
}

/// A value that can be looked up.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Text(&'a str),
    Uuid(Uuid),
    Int(i64),
    Bits(u64),
}

fn key(column: &Column, row: usize) -> Option<Key<'_>> {
    if !is_present(column, row) {
        return None;
    }
    column
        .text_at(row)
        .map(Key::Text)
        .or_else(|| column.uuid_at(row).map(Key::Uuid))
        .or_else(|| column.timestamp_at(row).map(|at| Key::Int(at.as_micros())))
        .or_else(|| column.value(row).as_int().map(Key::Int))
        // 0 and -0 are one number.
        .or_else(|| column.f64_at(row).map(|value| Key::Bits((value + 0.0).to_bits())))
}

fn references(column: &Column, known: &Column) -> Result<Found> {
    let known: HashSet<Key<'_>> = (0..known.len()).filter_map(|row| key(known, row)).collect();
    Ok(each(column, |row| {
        key(column, row).map(|key| known.contains(&key))
    }))
}

fn unique(table: &Table, names: &[String]) -> std::result::Result<Found, Stopped> {
    if names.is_empty() {
        return Err(Error::invalid("a key needs at least one column")
            .with("setting", "columns")
            .into());
    }
    let mut columns = Vec::with_capacity(names.len());
    for name in names {
        columns.push(fitting(table, name, &[])?);
    }
    // All rows of a key fail, not only the second: nobody knows which one is right.
    let mut rows: HashMap<Vec<Key<'_>>, usize> = HashMap::new();
    let mut fine = vec![None; table.rows()];
    for row in 0..table.rows() {
        let Some(key) = columns
            .iter()
            .map(|column| key(column, row))
            .collect::<Option<Vec<_>>>()
        else {
            continue;
        };
        let first = *rows.entry(key).or_insert(row);
        if let Some(slot) = fine.get_mut(row) {
            *slot = Some(first == row);
        }
        if first != row
            && let Some(slot) = fine.get_mut(first)
        {
            *slot = Some(false);
        }
    }
    Ok(Found::Rows(fine))
}
