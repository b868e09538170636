//! Running an expression: compiled once into closures over the columns, asked row by row.

use std::borrow::Cow;
use std::cmp::Ordering;

use crm_core::record::{FieldType, Value};
use crm_core::{Error, Result, Timestamp};
use polars::prelude as pl;
use polars::prelude::NamedFrom;

use super::{DatePart, Expr};
use crate::clean::frame::{Frame, classify};

const DAY: f64 = 86_400e6;

/// One value on its way through an expression.
#[derive(Clone, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Time(i64),
}

impl<'a> Cell<'a> {
    /// A value of a row; NaN is missing, and of UUIDs nothing can be seen.
    pub(in crate::clean) fn of(value: &'a Value) -> Self {
        match value {
            Value::Bool(v) => Self::Bool(*v),
            Value::Int(v) => Self::Int(*v),
            Value::Float(v) if !v.is_nan() => Self::Float(*v),
            Value::Text(v) => Self::Text(Cow::Borrowed(v)),
            Value::Timestamp(v) => Self::Time(v.as_micros()),
            _ => Self::Null,
        }
    }
    pub(crate) fn value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(v) => Value::Bool(v),
            Self::Int(v) => Value::Int(v),
            Self::Float(v) => Value::Float(v),
            Self::Text(v) => Value::Text(v.into_owned()),
            Self::Time(v) => Value::Timestamp(Timestamp::from_micros(v)),
        }
    }
    fn float(value: f64) -> Self {
        if value.is_finite() {
            Self::Float(value)
        } else {
            Self::Null
        }
    }
    fn int(value: Option<i64>) -> Self {
        value.map_or(Self::Null, Self::Int)
    }
    fn flag(value: Option<bool>) -> Self {
        value.map_or(Self::Null, Self::Bool)
    }
    pub(crate) fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(v) => Some(*v as f64),
            Self::Float(v) => Some(*v),
            _ => None,
        }
    }
    fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(v) => Some(*v),
            _ => None,
        }
    }
    pub(in crate::clean) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
    /// As text, for keys and [`Expr::Concat`].
    pub(in crate::clean) fn shown(self) -> Option<Cow<'a, str>> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(v) => Cow::Borrowed(if v { "true" } else { "false" }),
            Self::Int(v) => Cow::Owned(v.to_string()),
            Self::Float(v) => Cow::Owned(v.to_string()),
            Self::Text(v) => v,
            Self::Time(v) => Cow::Owned(Timestamp::from_micros(v).to_string()),
        })
    }
    fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) | (Self::Time(a), Self::Time(b)) => Some(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (a, b) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        }
    }
}

/// A column held while it is read.
pub(in crate::clean) struct Held {
    name: String,
    ty: FieldType,
    series: pl::Series,
}

impl Held {
    /// Those columns of a frame.
    pub(in crate::clean) fn all(frame: &Frame, names: &[&str]) -> Result<Vec<Self>> {
        names
            .iter()
            .map(|name| {
                Ok(Self {
                    name: (*name).to_owned(),
                    ty: frame.ty(name)?,
                    series: frame.series(name)?.rechunk(),
                })
            })
            .collect()
    }
}

/// The values of a column, row by row.
pub(in crate::clean) enum Cells<'a> {
    Bool(&'a pl::BooleanChunked),
    Int(&'a pl::Int64Chunked),
    Float(&'a pl::Float64Chunked),
    Text(&'a pl::StringChunked),
    Time(&'a pl::Int64Chunked),
}

impl<'a> Cells<'a> {
    pub(in crate::clean) fn of(held: &'a Held) -> Result<Self> {
        Ok(match held.ty {
            FieldType::Bool => Self::Bool(held.series.bool().map_err(classify)?),
            FieldType::Int => Self::Int(held.series.i64().map_err(classify)?),
            FieldType::Float => Self::Float(held.series.f64().map_err(classify)?),
            FieldType::Text => Self::Text(held.series.str().map_err(classify)?),
            FieldType::Timestamp => Self::Time(held.series.i64().map_err(classify)?),
            _ => {
                return Err(
                    Error::invalid("a column of this type cannot be read value by value")
                        .with("column", &held.name),
                );
            }
        })
    }
    pub(in crate::clean) fn cell(&self, row: usize) -> Cell<'a> {
        match self {
            Self::Bool(v) => v.get(row).map(Cell::Bool),
            Self::Int(v) => v.get(row).map(Cell::Int),
            Self::Float(v) => v.get(row).map(Cell::Float),
            Self::Text(v) => v.get(row).map(|text| Cell::Text(Cow::Borrowed(text))),
            Self::Time(v) => v.get(row).map(Cell::Time),
        }
        .unwrap_or(Cell::Null)
    }
}

pub(in crate::clean) type Answer<'a> = Box<dyn Fn(usize) -> Cell<'a> + 'a>;

/// Where the values of a column come from.
type Source<'a, 's> = &'s dyn Fn(&'a str) -> Result<Answer<'a>>;

impl Expr {
    /// What it answers for every row of the frame, as a column of type `ty` (as [`Expr::ty`] found it).
    pub(in crate::clean) fn run(&self, frame: &Frame, ty: FieldType) -> Result<pl::Series> {
        let held = Held::all(frame, &self.columns())?;
        let column = |name: &str| {
            let found = held.iter().find(|held| held.name == name);
            let found = found
                .ok_or_else(|| Error::unexpected("an expression lost its column").with("column", name))?;
            let cells = Cells::of(found)?;
            Ok(Box::new(move |row| cells.cell(row)) as Answer<'_>)
        };
        let answer = self.compile(&column)?;
        let rows = 0..frame.rows();
        let name = "computed".into();
        Ok(match ty {
            FieldType::Bool => {
                let values: Vec<Option<bool>> = rows.map(|row| answer(row).as_bool()).collect();
                pl::Series::new(name, values)
            }
            FieldType::Int | FieldType::Timestamp => {
                let whole = |cell| match cell {
                    Cell::Int(v) | Cell::Time(v) => Some(v),
                    _ => None,
                };
                pl::Series::new(name, rows.map(|row| whole(answer(row))).collect::<Vec<_>>())
            }
            FieldType::Float => {
                let values: Vec<Option<f64>> = rows.map(|row| answer(row).as_f64()).collect();
                pl::Series::new(name, values)
            }
            _ => {
                let mut texts = pl::StringChunkedBuilder::new(name, frame.rows());
                for row in rows {
                    match answer(row) {
                        Cell::Text(text) => texts.append_value(&*text),
                        _ => texts.append_null(),
                    }
                }
                pl::IntoSeries::into_series(texts.finish())
            }
        })
    }

    /// What it answers for one row, whose values `column` knows; the same as [`Expr::run`] for the row among others.
    pub(in crate::clean) fn one<'a>(
        &'a self,
        ty: FieldType,
        column: &dyn Fn(&'a str) -> Result<Cell<'a>>,
    ) -> Result<Cell<'a>> {
        let column = |name: &'a str| {
            let cell = column(name)?;
            Ok(Box::new(move |_| cell.clone()) as Answer<'a>)
        };
        let cell = self.compile(&column)?(0);
        // As the columns of the types take them in.
        Ok(match (ty, cell) {
            (FieldType::Bool, cell @ Cell::Bool(_)) => cell,
            (FieldType::Int, Cell::Int(v) | Cell::Time(v)) => Cell::Int(v),
            (FieldType::Timestamp, Cell::Int(v) | Cell::Time(v)) => Cell::Time(v),
            (FieldType::Float, cell) => cell.as_f64().map_or(Cell::Null, Cell::Float),
            (FieldType::Text, cell @ Cell::Text(_)) => cell,
            _ => Cell::Null,
        })
    }

    fn compile<'a>(&'a self, column: Source<'a, '_>) -> Result<Answer<'a>> {
        let one = |part: &'a Self| part.compile(column);
        let all = |parts: &'a [Self]| {
            parts
                .iter()
                .map(|part| part.compile(column))
                .collect::<Result<Vec<_>>>()
        };
        Ok(match self {
            Self::Column(name) => column(name)?,
            Self::Int(v) => Box::new(move |_| Cell::Int(*v)),
            Self::Number(v) => Box::new(move |_| Cell::Float(*v)),
            Self::Text(v) => Box::new(move |_| Cell::Text(Cow::Borrowed(v))),
            Self::Flag(v) => Box::new(move |_| Cell::Bool(*v)),
            Self::Instant(v) => Box::new(move |_| Cell::Time(v.as_micros())),
            Self::Add(a, b) => numbers(one(a)?, one(b)?, i64::checked_add, |a, b| a + b),
            Self::Sub(a, b) => numbers(one(a)?, one(b)?, i64::checked_sub, |a, b| a - b),
            Self::Mul(a, b) => numbers(one(a)?, one(b)?, i64::checked_mul, |a, b| a * b),
            Self::Ratio(a, b) => {
                let (a, b) = (one(a)?, one(b)?);
                // A division by 0 is not finite, and so missing.
                Box::new(move |row| match (a(row).as_f64(), b(row).as_f64()) {
                    (Some(a), Some(b)) => Cell::float(a / b),
                    _ => Cell::Null,
                })
            }
            Self::Least(parts) => extreme(all(parts)?, Ordering::Less),
            Self::Greatest(parts) => extreme(all(parts)?, Ordering::Greater),
            Self::Ln(a) => number(one(a)?, f64::ln),
            Self::Log1p(a) => number(one(a)?, f64::ln_1p),
            Self::Round(a) => number(one(a)?, f64::round),
            Self::Abs(a) => {
                let a = one(a)?;
                Box::new(move |row| match a(row) {
                    Cell::Int(v) => Cell::int(v.checked_abs()),
                    Cell::Float(v) => Cell::Float(v.abs()),
                    _ => Cell::Null,
                })
            }
            Self::DatePart { of, part } => {
                let of = one(of)?;
                Box::new(move |row| match of(row) {
                    Cell::Time(micros) => Cell::Int(date_part(micros, *part)),
                    _ => Cell::Null,
                })
            }
            Self::DaysBefore { of, as_of } => {
                let of = one(of)?;
                let as_of = as_of.as_micros();
                Box::new(move |row| match of(row) {
                    Cell::Time(micros) if micros < as_of => {
                        Cell::float(as_of.saturating_sub(micros) as f64 / DAY)
                    }
                    _ => Cell::Null,
                })
            }
            Self::Concat(parts) => {
                let parts = all(parts)?;
                Box::new(move |row| {
                    let mut out: Option<String> = None;
                    for text in parts.iter().filter_map(|part| part(row).shown()) {
                        out.get_or_insert_default().push_str(&text);
                    }
                    out.map_or(Cell::Null, |text| Cell::Text(Cow::Owned(text)))
                })
            }
            Self::Lower(a) => {
                let a = one(a)?;
                Box::new(move |row| match a(row) {
                    Cell::Text(text) => Cell::Text(Cow::Owned(text.to_lowercase())),
                    _ => Cell::Null,
                })
            }
            Self::Length(a) => {
                let a = one(a)?;
                Box::new(move |row| match a(row) {
                    Cell::Text(text) => Cell::int(i64::try_from(text.chars().count()).ok()),
                    _ => Cell::Null,
                })
            }
            Self::Contains(a, part) => {
                let a = one(a)?;
                Box::new(move |row| match a(row) {
                    Cell::Text(text) => Cell::Bool(text.contains(part.as_str())),
                    _ => Cell::Null,
                })
            }
            Self::Eq(a, b) => compare(one(a)?, one(b)?, Ordering::is_eq),
            Self::Ne(a, b) => compare(one(a)?, one(b)?, Ordering::is_ne),
            Self::Lt(a, b) => compare(one(a)?, one(b)?, Ordering::is_lt),
            Self::Le(a, b) => compare(one(a)?, one(b)?, Ordering::is_le),
            Self::Gt(a, b) => compare(one(a)?, one(b)?, Ordering::is_gt),
            Self::Ge(a, b) => compare(one(a)?, one(b)?, Ordering::is_ge),
            Self::OneOf(a, parts) => {
                let (a, parts) = (one(a)?, all(parts)?);
                Box::new(move |row| {
                    let value = a(row);
                    if value.is_null() {
                        return Cell::Null;
                    }
                    Cell::Bool(
                        parts
                            .iter()
                            .any(|part| value.order(&part(row)) == Some(Ordering::Equal)),
                    )
                })
            }
            Self::And(parts) => kleene(all(parts)?, false),
            Self::Or(parts) => kleene(all(parts)?, true),
            Self::Not(a) => {
                let a = one(a)?;
                Box::new(move |row| Cell::flag(a(row).as_bool().map(|v| !v)))
            }
            Self::IsMissing(a) => {
                let a = one(a)?;
                Box::new(move |row| Cell::Bool(a(row).is_null()))
            }
            Self::Coalesce(parts) => {
                let parts = all(parts)?;
                Box::new(move |row| {
                    let found = parts.iter().map(|part| part(row)).find(|cell| !cell.is_null());
                    found.unwrap_or(Cell::Null)
                })
            }
            Self::Case { of, otherwise } => {
                let of = of
                    .iter()
                    .map(|case| Ok((one(&case.when)?, one(&case.then)?)))
                    .collect::<Result<Vec<_>>>()?;
                let otherwise = otherwise.as_deref().map(one).transpose()?;
                Box::new(move |row| {
                    for (when, then) in &of {
                        if when(row).as_bool() == Some(true) {
                            return then(row);
                        }
                    }
                    otherwise.as_ref().map_or(Cell::Null, |answer| answer(row))
                })
            }
        })
    }
}

fn number<'a>(of: Answer<'a>, change: fn(f64) -> f64) -> Answer<'a> {
    Box::new(move |row| of(row).as_f64().map_or(Cell::Null, |v| Cell::float(change(v))))
}

fn numbers<'a>(
    a: Answer<'a>,
    b: Answer<'a>,
    ints: fn(i64, i64) -> Option<i64>,
    floats: fn(f64, f64) -> f64,
) -> Answer<'a> {
    Box::new(move |row| match (a(row), b(row)) {
        (Cell::Int(a), Cell::Int(b)) => Cell::int(ints(a, b)),
        (a, b) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => Cell::float(floats(a, b)),
            _ => Cell::Null,
        },
    })
}

fn compare<'a>(a: Answer<'a>, b: Answer<'a>, is: fn(Ordering) -> bool) -> Answer<'a> {
    Box::new(move |row| Cell::flag(a(row).order(&b(row)).map(is)))
}

fn extreme<'a>(parts: Vec<Answer<'a>>, wins: Ordering) -> Answer<'a> {
    Box::new(move |row| {
        let present = parts.iter().map(|part| part(row)).filter(|cell| !cell.is_null());
        present
            .reduce(|best, cell| {
                if cell.order(&best) == Some(wins) {
                    cell
                } else {
                    best
                }
            })
            .unwrap_or(Cell::Null)
    })
}

/// Three-valued logic: `deciding` from any part decides, else a missing part leaves it open.
fn kleene<'a>(parts: Vec<Answer<'a>>, deciding: bool) -> Answer<'a> {
    Box::new(move |row| {
        let mut open = false;
        for part in &parts {
            match part(row).as_bool() {
                Some(value) if value == deciding => return Cell::Bool(deciding),
                Some(_) => {}
                None => open = true,
            }
        }
        if open { Cell::Null } else { Cell::Bool(!deciding) }
    })
}

/// A part of an instant in UTC. The calendar is Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>).
fn date_part(micros: i64, part: DatePart) -> i64 {
    let days = micros.div_euclid(86_400_000_000);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = (month_from_march + 2) % 12 + 1;
    match part {
        DatePart::Year => year_of_era + era * 400 + i64::from(month <= 2),
        DatePart::Quarter => (month - 1) / 3 + 1,
        DatePart::Month => month,
        DatePart::Day => day_of_year - (153 * month_from_march + 2) / 5 + 1,
        DatePart::Weekday => (days + 3).rem_euclid(7) + 1,
        DatePart::Hour => micros.rem_euclid(86_400_000_000) / 3_600_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_is_that_of_the_core() {
        let parts =
            |micros| [DatePart::Year, DatePart::Month, DatePart::Day].map(|part| date_part(micros, part));
        for (year, month, day) in [
            (1970, 1, 1),
            (2000, 2, 29),
            (1900, 3, 1),
            (2026, 12, 31),
            (1, 1, 1),
            (9999, 12, 31),
        ] {
            let micros = Timestamp::from_ymd(year, month, day).unwrap().as_micros();
            let wanted = [i64::from(year), i64::from(month), i64::from(day)];
            assert_eq!(parts(micros), wanted);
            assert_eq!(parts(micros + 86_399_999_999), wanted);
        }
        let at = |text: &str| text.parse::<Timestamp>().unwrap().as_micros();
        assert_eq!(date_part(at("2026-03-01T23:59:59Z"), DatePart::Weekday), 7);
        assert_eq!(date_part(at("2026-03-01T23:59:59Z"), DatePart::Hour), 23);
        assert_eq!(date_part(at("1969-12-29T00:00:00Z"), DatePart::Weekday), 1);
        assert_eq!(date_part(at("2026-10-01T00:00:00Z"), DatePart::Quarter), 4);
        // The ends of the range do not overflow.
        for micros in [i64::MIN, i64::MAX] {
            assert!((1..=12).contains(&date_part(micros, DatePart::Month)));
        }
    }
}
