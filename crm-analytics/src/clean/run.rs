//! Running operations on a frame.

use std::collections::HashSet;

use crm_core::record::{FieldType, Value};
use crm_core::{Error, Result};
use polars::prelude as pl;
use polars::prelude::{IntoSeries, NamedFrom};

use super::fitted::Op;
use super::frame::{Frame, classify, map_text, read_text};
use super::{Case, CastTo, CleaningLine, OutlierAction, Unknown, Unreadable, fill, read, rows, text};

/// Runs one operation; the only way rows are changed, when learning as when applying.
pub(super) fn run(op: &Op, frame: &mut Frame) -> Result<CleaningLine> {
    let line = |step: &str, column: &str| CleaningLine {
        step: step.to_owned(),
        column: column.to_owned(),
        changed: 0,
        missing_before: 0,
        missing_after: 0,
        unreadable: 0,
        removed: 0,
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
                Case::Title => map_text(&frame.series(column)?, |text| Some(text::title(text).into()))?,
            };
            text_step("case", column, frame, new)
        }
        Op::Cast { column, to } => cast(line("cast", column), frame, column, *to),
        Op::Dummies {
            column,
            categories,
            first,
            other,
            missing,
            unknown,
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
            if unreadable > 0 && *unknown == Unknown::Refuse {
                let row = strange
                    .bool()
                    .map_err(classify)?
                    .iter()
                    .position(|strange| strange == Some(true));
                return Err(Error::invalid(
                    "a category that was not there when the plan was fitted; fold it, or accept unknown ones",
                )
                .with("column", column)
                .with("row", row.unwrap_or_default())
                .with("rows", unreadable));
            }
            if *other {
                new.push((format!("{column}_other"), FieldType::Bool, strange));
            }
            if *missing {
                let absent = old.is_null().into_series();
                new.push((format!("{column}_missing"), FieldType::Bool, absent));
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
        Op::FillGroup { .. } | Op::FillForward { .. } => fill::from_rows(op, frame, line),
        Op::Squeeze { column } => {
            let new = map_text(&frame.series(column)?, text::squeeze)?;
            text_step("squeeze", column, frame, new)
        }
        Op::Unicode { column, form } => {
            let new = map_text(&frame.series(column)?, |text| Some(text::normal(text, *form)))?;
            text_step("unicode", column, frame, new)
        }
        Op::Email { column, unreadable } => canonical(line("email", column), frame, *unreadable, text::email),
        Op::Phone {
            column,
            region,
            unreadable,
        } => canonical(line("phone", column), frame, *unreadable, |text| {
            text::phone(text, region.as_deref())
        }),
        Op::Number { column, decimal } => {
            let new = read_text(&frame.series(column)?, |text| read::number(text, *decimal))?;
            retype(line("number", column), frame, FieldType::Float, new)
        }
        Op::Date { column, order } => {
            let new = read_text(&frame.series(column)?, |text| read::instant(text, *order))?;
            retype(line("date", column), frame, FieldType::Timestamp, new)
        }
        Op::Fold {
            column,
            synonyms,
            keep,
            other,
        } => {
            let old = frame.series(column)?;
            let stays: Option<HashSet<&str>> = keep
                .as_ref()
                .map(|keep| keep.iter().map(String::as_str).collect());
            let mut folded = 0;
            let mut new = pl::StringChunkedBuilder::new("folded".into(), old.len());
            for text in old.str().map_err(classify)?.iter() {
                let text = text.map(|text| synonyms.get(text).map_or(text, String::as_str));
                new.append_option(text.map(|text| match &stays {
                    Some(stays) if !stays.contains(text) => {
                        folded += 1;
                        other.as_str()
                    }
                    _ => text,
                }));
            }
            let line = CleaningLine {
                unreadable: folded,
                ..line("fold", column)
            };
            exchange(line, frame, FieldType::Text, new.finish().into_series())
        }
        Op::Indicate { column } => {
            let absent = if frame.ty(column)? == FieldType::Uuid {
                return Err(
                    Error::invalid("a UUID column has no values a step can look at").with("column", column)
                );
            } else {
                frame.series(column)?.is_null()
            };
            let missing = absent.sum().unwrap_or(0) as usize;
            frame.add(
                &format!("{column}_missing"),
                FieldType::Bool,
                absent.into_series(),
                Some(column),
            )?;
            Ok(CleaningLine {
                missing_before: missing,
                missing_after: missing,
                ..line("indicate", column)
            })
        }
        Op::Outliers {
            column,
            low,
            high,
            action,
        } => outliers(line("outliers", column), frame, (*low, *high), *action),
        Op::Deduplicate { by, keep } => {
            let stay = rows::unique(frame, by, *keep)?;
            retain(line("deduplicate", &by.join(" ")), frame, &stay)
        }
        Op::Derive { column, from } => {
            let ty = from.ty(&|name| frame.ty(name))?;
            let new = from.run(frame, ty)?;
            match frame.ty(column) {
                Ok(FieldType::Uuid) => Err(Error::invalid(
                    "a UUID column cannot be derived anew; take another name",
                )
                .with("column", column)),
                Ok(old) if old == ty => exchange(line("derive", column), frame, ty, new),
                Ok(_) => {
                    frame.replace(column, ty, new.clone())?;
                    Ok(CleaningLine {
                        changed: new.len(),
                        missing_after: new.null_count(),
                        ..line("derive", column)
                    })
                }
                Err(_) => {
                    let (rows, missing) = (new.len(), new.null_count());
                    frame.add(column, ty, new, None)?;
                    Ok(CleaningLine {
                        changed: rows - missing,
                        missing_before: rows,
                        missing_after: missing,
                        ..line("derive", column)
                    })
                }
            }
        }
        Op::KeepRows { when } => {
            let holds = when.run(frame, FieldType::Bool)?;
            let stay: Vec<bool> = holds
                .bool()
                .map_err(classify)?
                .iter()
                .map(|v| v == Some(true))
                .collect();
            retain(line("keep_rows", &when.columns().join(" ")), frame, &stay)
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
pub(super) fn exchange(
    line: CleaningLine,
    frame: &mut Frame,
    ty: FieldType,
    new: pl::Series,
) -> Result<CleaningLine> {
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
    let whole = |floats: pl::Expr| {
        let ints = floats.clone().cast(pl::DataType::Int64);
        pl::when(ints.clone().cast(pl::DataType::Float64).eq(floats))
            .then(ints)
            .otherwise(pl::lit(pl::NULL))
    };
    let (ty, new) = match (to, from) {
        (CastTo::Float, FieldType::Text) => {
            (FieldType::Float, read_text(&frame.series(column)?, text::float)?)
        }
        (CastTo::Float, _) => (
            FieldType::Float,
            frame.compute(value().cast(pl::DataType::Float64))?,
        ),
        (CastTo::Int, FieldType::Float) => (FieldType::Int, frame.compute(whole(value()))?),
        (CastTo::Int, FieldType::Text) => (FieldType::Int, read_text(&frame.series(column)?, text::int)?),
        (CastTo::Int, _) => (FieldType::Int, frame.compute(value().cast(pl::DataType::Int64))?),
        (CastTo::Timestamp, FieldType::Text) => (
            FieldType::Timestamp,
            read_text(&frame.series(column)?, text::time)?,
        ),
        (CastTo::Timestamp, _) => (FieldType::Timestamp, frame.series(column)?),
        (CastTo::Bool, FieldType::Bool) => (FieldType::Bool, frame.series(column)?),
        (CastTo::Bool, FieldType::Int) => {
            let known = pl::when(value().eq(pl::lit(1_i64)).or(value().eq(pl::lit(0_i64))))
                .then(value().eq(pl::lit(1_i64)))
                .otherwise(pl::lit(pl::NULL));
            (FieldType::Bool, frame.compute(known.cast(pl::DataType::Boolean))?)
        }
        (CastTo::Bool, _) => (FieldType::Bool, read_text(&frame.series(column)?, text::flag)?),
        (CastTo::Text, FieldType::Float) => {
            let old = frame.series(column)?;
            let texts = old.f64().map_err(classify)?.iter().map(|v| v.map(text::number));
            let texts: pl::StringChunked = texts.collect();
            (FieldType::Text, texts.into_series())
        }
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

/// Text in canonical form; what cannot be read stays or goes, and is counted.
fn canonical(
    line: CleaningLine,
    frame: &mut Frame,
    unreadable: Unreadable,
    read: impl Fn(&str) -> Option<String>,
) -> Result<CleaningLine> {
    let old = frame.series(&line.column)?;
    let mut strange = 0;
    let mut new = pl::StringChunkedBuilder::new("canonical".into(), old.len());
    for text in old.str().map_err(classify)?.iter() {
        let Some(text) = text else {
            new.append_null();
            continue;
        };
        match read(text) {
            Some(canonical) => new.append_value(canonical),
            None => {
                strange += 1;
                match unreadable {
                    Unreadable::Missing => new.append_null(),
                    Unreadable::Keep => new.append_value(text),
                }
            }
        }
    }
    let line = CleaningLine {
        unreadable: strange,
        ..line
    };
    exchange(line, frame, FieldType::Text, new.finish().into_series())
}

/// Puts values of another type in, and counts those that could not be read.
fn retype(line: CleaningLine, frame: &mut Frame, ty: FieldType, new: pl::Series) -> Result<CleaningLine> {
    let old = frame.series(&line.column)?;
    let line = CleaningLine {
        changed: old.len() - old.null_count(),
        missing_before: old.null_count(),
        missing_after: new.null_count(),
        unreadable: new.null_count().saturating_sub(old.null_count()),
        ..line
    };
    frame.replace(&line.column, ty, new)?;
    Ok(line)
}

fn retain(line: CleaningLine, frame: &mut Frame, stay: &[bool]) -> Result<CleaningLine> {
    frame.retain(stay)?;
    Ok(CleaningLine {
        removed: stay.iter().filter(|stays| !**stays).count(),
        ..line
    })
}

fn outliers(
    line: CleaningLine,
    frame: &mut Frame,
    (low, high): (Option<f64>, Option<f64>),
    action: OutlierAction,
) -> Result<CleaningLine> {
    let column = line.column.clone();
    let outside = |value: f64| low.is_some_and(|low| value < low) || high.is_some_and(|high| value > high);
    let floats = frame.compute(pl::col(column.as_str()).cast(pl::DataType::Float64))?;
    let floats = floats.f64().map_err(classify)?;
    match action {
        OutlierAction::Clip => {
            let clip = |value: f64| {
                let raised = low.map_or(value, |low| if value < low { low } else { value });
                high.map_or(raised, |high| if raised > high { high } else { raised })
            };
            let new: Vec<Option<f64>> = floats.iter().map(|value| value.map(clip)).collect();
            exchange(
                line,
                frame,
                FieldType::Float,
                pl::Series::new("clipped".into(), new),
            )
        }
        OutlierAction::Blank => {
            let ty = frame.ty(&column)?;
            let old = frame.series(&column)?;
            let stays: pl::BooleanChunked = floats
                .iter()
                .map(|value| Some(!value.is_some_and(outside)))
                .collect();
            let nothing = pl::Series::full_null("nothing".into(), old.len(), old.dtype());
            let new = old.zip_with(&stays, &nothing).map_err(classify)?;
            exchange(line, frame, ty, new)
        }
        OutlierAction::DropRows => {
            let stay: Vec<bool> = floats.iter().map(|value| !value.is_some_and(outside)).collect();
            retain(line, frame, &stay)
        }
    }
}
