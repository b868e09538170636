use crm_core::record::{FieldType, Value};
use crm_core::{Error, Result, Table};
use polars::prelude as pl;
use serde::{Deserialize, Serialize};

use super::frame::{Frame, classify, map_text, read_times};
use super::{Case, CastTo, CleaningLine, CleaningReport};

/// One step on one column, with everything learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Op {
    Fill {
        column: String,
        value: Value,
    },
    Trim {
        column: String,
    },
    Case {
        column: String,
        to: Case,
    },
    Cast {
        column: String,
        to: CastTo,
    },
    Dummies {
        column: String,
        categories: Vec<String>,
        first: Option<String>,
        other: bool,
    },
    Clip {
        column: String,
        low: Option<f64>,
        high: Option<f64>,
    },
    Log1p {
        column: String,
    },
    Scale {
        column: String,
        mean: f64,
        deviation: f64,
    },
    Drop {
        column: String,
    },
    Rename {
        from: String,
        to: String,
    },
}

/// Steps with what they learned: cleans one row as it cleans a million. Plain data, to be kept with a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedCleaning {
    pub(super) input: Vec<(String, FieldType)>,
    pub(super) ops: Vec<Op>,
}

impl FittedCleaning {
    /// The names of the columns it needs.
    pub fn input(&self) -> impl Iterator<Item = &str> {
        self.input.iter().map(|(name, _)| name.as_str())
    }

    /// Cleans rows. Columns that were not there when it was fitted are left out.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when a column is missing (naming those there are) or has another type.
    pub fn apply(&self, table: &Table) -> Result<(Table, CleaningReport)> {
        let mut frame = Frame::read(table)?;
        frame.keep(&self.input).map_err(|e| e.operation("clean.apply"))?;
        let mut report = CleaningReport::begun(&frame);
        for op in &self.ops {
            report
                .lines
                .push(run(op, &mut frame).map_err(|e| e.operation("clean.apply"))?);
        }
        report.columns_after = frame.columns().len();
        Ok((frame.write()?, report))
    }
}

/// Runs one operation; the only way rows are changed, when learning as when applying.
pub(super) fn run(op: &Op, frame: &mut Frame) -> Result<CleaningLine> {
    let line = |step: &str, column: &str| CleaningLine {
        step: step.to_owned(),
        column: column.to_owned(),
        changed: 0,
        missing_before: 0,
        missing_after: 0,
        unreadable: 0,
    };
    let text_step = |name: &str, column: &str, frame: &mut Frame, new: pl::Series| {
        exchange(line(name, column), frame, FieldType::Text, new)
    };
    match op {
        Op::Fill { column, value } => {
            let ty = frame.ty(column)?;
            let (becomes, filled) = match value {
                Value::Int(v) => (ty, pl::col(column.as_str()).fill_null(pl::lit(*v))),
                Value::Bool(v) => (ty, pl::col(column.as_str()).fill_null(pl::lit(*v))),
                Value::Text(v) => (ty, pl::col(column.as_str()).fill_null(pl::lit(v.clone()))),
                Value::Timestamp(v) => (ty, pl::col(column.as_str()).fill_null(pl::lit(v.as_micros()))),
                Value::Float(v) => {
                    let floats = pl::col(column.as_str()).cast(pl::DataType::Float64);
                    (FieldType::Float, floats.fill_null(pl::lit(*v)))
                }
                _ => {
                    return Err(
                        Error::invalid("a fitted plan fills with an unfitting value").with("column", column)
                    );
                }
            };
            let new = frame.compute(filled)?;
            exchange(line("fill", column), frame, becomes, new)
        }
        Op::Trim { column } => {
            let trimmed = pl::col(column.as_str()).str().strip_chars(pl::lit(pl::NULL));
            let kept = pl::when(trimmed.clone().eq(pl::lit("")))
                .then(pl::lit(pl::NULL))
                .otherwise(trimmed);
            let new = frame.compute(kept.cast(pl::DataType::String))?;
            text_step("trim", column, frame, new)
        }
        Op::Case { column, to } => {
            let new = match to {
                Case::Lower => frame.compute(pl::col(column.as_str()).str().to_lowercase())?,
                Case::Upper => frame.compute(pl::col(column.as_str()).str().to_uppercase())?,
                Case::Title => map_text(&frame.series(column)?, |text| Some(title(text)))?,
            };
            text_step("case", column, frame, new)
        }
        Op::Cast { column, to } => cast(line("cast", column), frame, column, *to),
        Op::Dummies {
            column,
            categories,
            first,
            other,
        } => {
            let old = frame.series(column)?;
            let text = || pl::col(column.as_str()).cast(pl::DataType::String);
            let is = |category: &str| text().eq(pl::lit(category.to_owned())).fill_null(pl::lit(false));
            let mut new = Vec::with_capacity(categories.len() + 1);
            for category in categories {
                new.push((
                    format!("{column}_{category}"),
                    FieldType::Bool,
                    frame.compute(is(category))?,
                ));
            }
            let known = categories
                .iter()
                .chain(first)
                .fold(pl::lit(false), |known, one| known.or(is(one)));
            let strange = frame.compute(text().is_not_null().and(known.not()))?;
            let unreadable = strange.bool().map_err(classify)?.sum().unwrap_or(0) as usize;
            if *other {
                new.push((format!("{column}_other"), FieldType::Bool, strange));
            }
            frame.splice(column, new)?;
            let present = old.len() - old.null_count();
            Ok(CleaningLine {
                changed: present,
                missing_before: old.null_count(),
                unreadable,
                ..line("dummies", column)
            })
        }
        Op::Clip { column, low, high } => {
            let mut clipped = pl::col(column.as_str()).cast(pl::DataType::Float64);
            for (bound, below) in [(low, true), (high, false)] {
                let Some(bound) = bound else { continue };
                let outside = if below {
                    clipped.clone().lt(pl::lit(*bound))
                } else {
                    clipped.clone().gt(pl::lit(*bound))
                };
                clipped = pl::when(outside).then(pl::lit(*bound)).otherwise(clipped);
            }
            let new = frame.compute(clipped)?;
            exchange(line("clip", column), frame, FieldType::Float, new)
        }
        Op::Log1p { column } => {
            let old = frame.compute(pl::col(column.as_str()).cast(pl::DataType::Float64))?;
            let values = old.f64().map_err(classify)?;
            if let Some(row) = values.iter().position(|v| v.is_some_and(|v| v <= -1.0)) {
                return Err(
                    Error::invalid("log1p needs numbers above -1; clip the column first")
                        .with("column", column)
                        .with("row", row),
                );
            }
            let logs = values.iter().map(|v| v.map(f64::ln_1p));
            let new = pl::Series::from_iter(logs);
            exchange(line("log1p", column), frame, FieldType::Float, new)
        }
        Op::Scale {
            column,
            mean,
            deviation,
        } => {
            let old = frame.compute(pl::col(column.as_str()).cast(pl::DataType::Float64))?;
            // A constant column differs from its mean by rounding alone: it becomes 0, not noise.
            let constant = *deviation <= 1e-12 * mean.abs();
            // Not as an expression: the engine divides a column by multiplying, but a single row by dividing.
            let scale = |v: f64| if constant { 0.0 } else { (v - mean) / deviation };
            let new = pl::Series::from_iter(old.f64().map_err(classify)?.iter().map(|v| v.map(scale)));
            exchange(line("standardise", column), frame, FieldType::Float, new)
        }
        Op::Drop { column } => {
            frame.splice(column, Vec::new())?;
            Ok(line("drop", column))
        }
        Op::Rename { from, to } => {
            frame.rename(from, to)?;
            Ok(line("rename", from))
        }
    }
}

/// Puts the new values in and counts what is different.
fn exchange(line: CleaningLine, frame: &mut Frame, ty: FieldType, new: pl::Series) -> Result<CleaningLine> {
    use polars::prelude::ChunkCompareEq;
    let old = frame.series(&line.column)?;
    let comparable = if old.dtype() == new.dtype() {
        old.clone()
    } else {
        old.cast(new.dtype()).map_err(classify)?
    };
    let different = comparable.not_equal_missing(&new).map_err(classify)?;
    let line = CleaningLine {
        changed: different.sum().unwrap_or(0) as usize,
        missing_before: old.null_count(),
        missing_after: new.null_count(),
        ..line
    };
    frame.replace(&line.column, ty, new)?;
    Ok(line)
}

fn cast(line: CleaningLine, frame: &mut Frame, column: &str, to: CastTo) -> Result<CleaningLine> {
    let from = frame.ty(column)?;
    let value = || pl::col(column);
    let trimmed = || value().str().strip_chars(pl::lit(pl::NULL));
    let whole = |floats: pl::Expr| {
        let ints = floats.clone().cast(pl::DataType::Int64);
        pl::when(ints.clone().cast(pl::DataType::Float64).eq(floats))
            .then(ints)
            .otherwise(pl::lit(pl::NULL))
    };
    let (ty, new) = match (to, from) {
        (CastTo::Float, FieldType::Text) => {
            let floats = trimmed().cast(pl::DataType::Float64);
            let finite = pl::when(floats.clone().is_finite())
                .then(floats)
                .otherwise(pl::lit(pl::NULL));
            (FieldType::Float, frame.compute(finite)?)
        }
        (CastTo::Float, _) => (
            FieldType::Float,
            frame.compute(value().cast(pl::DataType::Float64))?,
        ),
        (CastTo::Int, FieldType::Float) => (FieldType::Int, frame.compute(whole(value()))?),
        (CastTo::Int, FieldType::Text) => (
            FieldType::Int,
            frame.compute(trimmed().cast(pl::DataType::Int64))?,
        ),
        (CastTo::Int, _) => (FieldType::Int, frame.compute(value().cast(pl::DataType::Int64))?),
        (CastTo::Timestamp, FieldType::Text) => (FieldType::Timestamp, read_times(&frame.series(column)?)?),
        (CastTo::Timestamp, _) => (FieldType::Timestamp, frame.series(column)?),
        (CastTo::Text, _) => (
            FieldType::Text,
            frame.compute(value().cast(pl::DataType::String))?,
        ),
    };
    let old = frame.series(column)?;
    let present = old.len() - old.null_count();
    let line = CleaningLine {
        // Another type is another value, even where it looks alike.
        changed: if from == ty { 0 } else { present },
        missing_before: old.null_count(),
        missing_after: new.null_count(),
        unreadable: new.null_count().saturating_sub(old.null_count()),
        ..line
    };
    frame.replace(column, ty, new)?;
    Ok(line)
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = c.is_alphanumeric() || (inside && (c == '\'' || c == '’'));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles() {
        for (text, wanted) in [
            ("ana o'neill-kask", "Ana O'neill-Kask"),
            ("ÅSA", "Åsa"),
            ("straße 5b", "Straße 5b"),
            ("", ""),
        ] {
            assert_eq!(title(text), wanted);
        }
    }

    #[test]
    fn instants_are_read_in_utc() {
        assert_eq!(
            "2026-03-01".parse::<crm_core::Timestamp>().unwrap().to_string(),
            "2026-03-01T00:00:00.000000Z"
        );
    }
}
