//! From columns to numbers a model takes: encoding rows, one as a million.

use std::fmt::Write;

use crm_core::record::{FieldType, Value};
use crm_core::{Column, Error, Matrix, Result, Table};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clean::Cell;

/// One value, as an encoding looks at it.
#[derive(Clone, Copy)]
pub(super) enum Given<'a> {
    Missing,
    Number(f64),
    Text(&'a str),
}

/// The values of one row, in the order of the columns.
#[derive(Clone, Copy)]
pub(crate) enum RowOf<'a> {
    Values(&'a [Value]),
    /// Cells of a cleaned row, and where the columns are among them.
    Cells(&'a [Cell<'a>], &'a [usize]),
}

impl RowOf<'_> {
    /// One value, as a number or as a category.
    fn given<'s>(&'s self, at: usize, number: bool, scratch: &'s mut String) -> Given<'s> {
        match self {
            Self::Values(values) => match values.get(at) {
                None | Some(Value::Null) => Given::Missing,
                Some(Value::Text(text)) => Given::Text(text),
                Some(Value::Bool(flag)) if number => Given::Number(f64::from(u8::from(*flag))),
                Some(value) if number => value.as_f64().map_or(Given::Missing, Given::Number),
                Some(value) => of_value(value, scratch).map_or(Given::Missing, Given::Text),
            },
            Self::Cells(cells, places) => match places.get(at).and_then(|place| cells.get(*place)) {
                None | Some(Cell::Null) => Given::Missing,
                Some(Cell::Text(text)) => Given::Text(text),
                Some(Cell::Bool(flag)) if number => Given::Number(f64::from(u8::from(*flag))),
                Some(cell) if number => cell.as_f64().map_or(Given::Missing, Given::Number),
                Some(cell) => of_value(&cell.clone().value(), scratch).map_or(Given::Missing, Given::Text),
            },
        }
    }
}

/// A value of a column as a category: integers and bools as text, written into `scratch`.
pub(super) fn given<'a>(column: &'a Column, row: usize, scratch: &'a mut String) -> Given<'a> {
    if let Some(text) = column.text_at(row) {
        return Given::Text(text);
    }
    of_value(&column.value(row), scratch).map_or(Given::Missing, Given::Text)
}

fn of_value<'a>(value: &Value, scratch: &'a mut String) -> Option<&'a str> {
    scratch.clear();
    match value {
        Value::Bool(flag) => scratch.push_str(if *flag { "true" } else { "false" }),
        Value::Int(int) => {
            // Writing into a string cannot fail.
            let _ = write!(scratch, "{int}");
        }
        _ => return None,
    }
    Some(scratch)
}

/// What was learned about one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "coder", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Coder {
    Number {
        fill: Option<f64>,
        log1p: bool,
        center: f64,
        spread: f64,
        missing: bool,
    },
    OneHot {
        /// In the order of text.
        levels: Vec<String>,
        other: bool,
        refuse: bool,
        missing: bool,
    },
    Levels {
        /// In the order of text.
        values: Vec<(String, f64)>,
        missing: f64,
        unknown: f64,
    },
}

impl Coder {
    /// How many numbers it makes.
    fn width(&self) -> usize {
        match self {
            Self::Number { missing, .. } => 1 + usize::from(*missing),
            Self::OneHot {
                levels,
                other,
                missing,
                ..
            } => levels.len() + usize::from(*other) + usize::from(*missing),
            Self::Levels { .. } => 1,
        }
    }

    fn names(&self, source: &str, names: &mut Vec<String>) {
        match self {
            Self::Number { missing, .. } => {
                names.push(source.to_owned());
                if *missing {
                    names.push(format!("{source}#missing"));
                }
            }
            Self::OneHot {
                levels,
                other,
                missing,
                ..
            } => {
                names.extend(levels.iter().map(|level| format!("{source}={level}")));
                if *other {
                    names.push(format!("{source}=#other"));
                }
                if *missing {
                    names.push(format!("{source}#missing"));
                }
            }
            Self::Levels { .. } => names.push(source.to_owned()),
        }
    }

    /// The number of a category, for encodings that make one of it.
    pub(super) fn mean_of(&self, given: Given<'_>) -> f64 {
        let mut out = [0.0];
        let mut report = EncodingReport::default();
        // Levels refuse nothing.
        let _ = self.write(given, &mut out, &mut report);
        out.first().copied().unwrap_or_default()
    }

    /// Writes the numbers of one value; the only way one is encoded.
    fn write(
        &self,
        given: Given<'_>,
        out: &mut [f64],
        report: &mut EncodingReport,
    ) -> std::result::Result<(), &'static str> {
        out.fill(0.0);
        match self {
            Self::Number {
                fill,
                log1p,
                center,
                spread,
                missing,
            } => {
                let value = match given {
                    Given::Number(value) if value.is_finite() => value,
                    Given::Number(value) if !value.is_nan() => return Err("a number is infinite"),
                    Given::Text(_) => return Err("a number was expected"),
                    _ => {
                        report.imputed += 1;
                        if let (true, Some(flag)) = (*missing, out.get_mut(1)) {
                            *flag = 1.0;
                        }
                        fill.ok_or("a number is missing, and the plan says that none may be")?
                    }
                };
                let bent = if *log1p {
                    value.abs().ln_1p().copysign(value)
                } else {
                    value
                };
                if let Some(slot) = out.first_mut() {
                    *slot = if *spread == 0.0 {
                        0.0
                    } else {
                        (bent - center) / spread
                    };
                    if !slot.is_finite() {
                        return Err("a number is too large to be scaled");
                    }
                }
            }
            Self::OneHot {
                levels,
                other,
                refuse,
                missing,
            } => {
                let at = match given {
                    Given::Text(text) => match levels.binary_search_by(|level| level.as_str().cmp(text)) {
                        Ok(at) => Some(at),
                        Err(_) if *refuse => {
                            return Err("a category was never seen, and the plan refuses such");
                        }
                        Err(_) => {
                            report.unknown += 1;
                            other.then_some(levels.len())
                        }
                    },
                    _ => {
                        report.imputed += 1;
                        missing.then_some(levels.len() + usize::from(*other))
                    }
                };
                if let Some(slot) = at.and_then(|at| out.get_mut(at)) {
                    *slot = 1.0;
                }
            }
            Self::Levels {
                values,
                missing,
                unknown,
            } => {
                let value = match given {
                    Given::Text(text) => {
                        let found = values
                            .binary_search_by(|(level, _)| level.as_str().cmp(text))
                            .ok();
                        found
                            .and_then(|at| values.get(at))
                            .map(|(_, value)| *value)
                            .unwrap_or_else(|| {
                                report.unknown += 1;
                                *unknown
                            })
                    }
                    _ => {
                        report.imputed += 1;
                        *missing
                    }
                };
                if let Some(slot) = out.first_mut() {
                    *slot = value;
                }
            }
        }
        Ok(())
    }

    fn is_sound(&self) -> bool {
        match self {
            Self::Number {
                fill, center, spread, ..
            } => fill.is_none_or(f64::is_finite) && center.is_finite() && spread.is_finite(),
            Self::OneHot { levels, .. } => levels.is_sorted_by(|a, b| a < b),
            Self::Levels {
                values,
                missing,
                unknown,
            } => {
                let finite = |value: &f64| value.is_finite();
                values.is_sorted_by(|a, b| a.0 < b.0)
                    && values.iter().all(|(_, value)| finite(value))
                    && finite(missing)
                    && finite(unknown)
            }
        }
    }

    fn takes_numbers(&self) -> bool {
        matches!(self, Self::Number { .. })
    }
}

/// One column with what was learned about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FittedColumn {
    pub source: String,
    pub ty: FieldType,
    pub coder: Coder,
}

/// What was met while encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EncodingReport {
    /// Values of categories that were not there when it was fitted (or were folded into others then).
    pub unknown: usize,
    /// Values that were missing.
    pub imputed: usize,
}

/// What [`super::EncodingPlan::fit`] answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// What was learned.
    pub fitted: FittedEncoding,
    /// What a model learns from. With target encodings it is cross-fitted, and so differs from what
    /// [`FittedEncoding::apply`] answers for the same rows.
    pub matrix: Matrix,
    /// What was met.
    pub report: EncodingReport,
}

/// Columns with what was learned about them: encodes one row as a million. Plain data, to be kept with a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<FittedColumn>", into = "Vec<FittedColumn>")]
pub struct FittedEncoding {
    columns: Vec<FittedColumn>,
    names: Vec<String>,
}

impl TryFrom<Vec<FittedColumn>> for FittedEncoding {
    type Error = Error;
    fn try_from(columns: Vec<FittedColumn>) -> Result<Self> {
        Self::new(columns)
    }
}
impl From<FittedEncoding> for Vec<FittedColumn> {
    fn from(fitted: FittedEncoding) -> Self {
        fitted.columns
    }
}

impl FittedEncoding {
    pub(super) fn new(columns: Vec<FittedColumn>) -> Result<Self> {
        // What is read from elsewhere is looked up by halving: it must be in order.
        if let Some(column) = columns.iter().find(|column| !column.coder.is_sound()) {
            return Err(Error::new(
                crm_core::ErrorKind::Corrupt,
                "a fitted encoding is not as it was written",
            )
            .with("column", &column.source));
        }
        let mut names = Vec::new();
        columns
            .iter()
            .for_each(|column| column.coder.names(&column.source, &mut names));
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort_unstable();
        if let Some(name) = sorted
            .iter()
            .zip(sorted.iter().skip(1))
            .find(|(a, b)| a == b)
            .map(|(a, _)| *a)
        {
            return Err(
                Error::invalid("two features would have the same name; rename a column first")
                    .with("feature", name),
            );
        }
        Ok(Self { columns, names })
    }

    /// The columns it needs, with their types, in the order of [`FittedEncoding::encode_row`].
    pub fn input(&self) -> impl Iterator<Item = (&str, FieldType)> {
        self.columns
            .iter()
            .map(|column| (column.source.as_str(), column.ty))
    }

    /// The names of the features, in order: `age`, `age#missing`, `plan=pro`.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Where the features of each column begin.
    pub(super) fn offsets(&self) -> impl Iterator<Item = usize> {
        self.columns.iter().scan(0, |next, column| {
            let at = *next;
            *next += column.coder.width();
            Some(at)
        })
    }

    /// A hash (SHA-256, hex) over names and types of what goes in and names of what comes out: same hash, same shape.
    pub fn schema_hash(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        for (name, ty) in self.input() {
            part(name);
            part(crate::clean::type_name(ty));
        }
        self.names.iter().for_each(|name| part(name));
        hash.finalize()
            .iter()
            .fold(String::with_capacity(64), |mut hex, byte| {
                // Writing into a string cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            })
    }

    /// Encodes rows. Columns that were not there when it was fitted are left out.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the column and row: a column that is missing or has another type, a value
    /// that the plan refuses, an infinite number.
    pub fn apply(&self, table: &Table) -> Result<(Matrix, EncodingReport)> {
        let mut report = EncodingReport::default();
        let width = self.names.len();
        let mut values = vec![0.0; table.rows() * width];
        let mut scratch = String::new();
        for (fitted, at) in self.columns.iter().zip(self.offsets()) {
            let column = table
                .column(&fitted.source)
                .map_err(|error| error.operation("encoding.apply"))?;
            if column.ty() != fitted.ty {
                return Err(wrong_type(fitted, column.ty()));
            }
            for (row, out) in values.chunks_exact_mut(width.max(1)).enumerate() {
                let value = if fitted.coder.takes_numbers() {
                    column.f64_at(row).map_or(Given::Missing, Given::Number)
                } else {
                    given(column, row, &mut scratch)
                };
                let slots = out.get_mut(at..at + fitted.coder.width()).unwrap_or_default();
                fitted
                    .coder
                    .write(value, slots, &mut report)
                    .map_err(|message| refused(message, fitted).with("row", row))?;
            }
        }
        Ok((Matrix::new(self.names.clone(), values)?, report))
    }

    /// Encodes one row without a table: `values` in the order of [`FittedEncoding::input`], `out` as long as
    /// [`FittedEncoding::names`]. The same numbers, to the last bit, as [`FittedEncoding::apply`].
    ///
    /// # Errors
    /// As [`FittedEncoding::apply`]; also when a length does not fit.
    pub fn encode_row(&self, values: &[Value], out: &mut [f64]) -> Result<EncodingReport> {
        if values.len() != self.columns.len() || out.len() != self.names.len() {
            return Err(
                Error::invalid("a row has another number of values than was fitted")
                    .operation("encoding.encode_row")
                    .with("values", values.len())
                    .with("wanted", self.columns.len())
                    .with("room", out.len())
                    .with("features", self.names.len()),
            );
        }
        for (fitted, value) in self.columns.iter().zip(values) {
            if let Some(ty) = value.ty().filter(|ty| *ty != fitted.ty) {
                return Err(wrong_type(fitted, ty));
            }
        }
        self.encode_of(RowOf::Values(values), out)
    }

    /// Encodes one row of the right types.
    pub(crate) fn encode_of(&self, row: RowOf<'_>, out: &mut [f64]) -> Result<EncodingReport> {
        let mut report = EncodingReport::default();
        let mut scratch = String::new();
        let mut rest = out;
        for (at, fitted) in self.columns.iter().enumerate() {
            let Some((slots, after)) = rest.split_at_mut_checked(fitted.coder.width()) else {
                return Err(Error::unexpected("an encoding is wider than its names"));
            };
            rest = after;
            let given = row.given(at, fitted.coder.takes_numbers(), &mut scratch);
            fitted
                .coder
                .write(given, slots, &mut report)
                .map_err(|message| refused(message, fitted))?;
        }
        Ok(report)
    }
}

fn refused(message: &'static str, fitted: &FittedColumn) -> Error {
    Error::invalid(message)
        .operation("encoding.apply")
        .with("column", &fitted.source)
}

fn wrong_type(fitted: &FittedColumn, found: FieldType) -> Error {
    refused("a column has another type than when it was fitted", fitted)
        .with("type", crate::clean::type_name(found))
        .with("wanted", crate::clean::type_name(fitted.ty))
}
