//! Running operations on a frame.

use std::collections::{HashMap, HashSet};

use crm_core::record::{FieldType, Value};
use crm_core::{Error, Result};
use polars::prelude as pl;
use polars::prelude::{ChunkApply, IntoSeries, NamedFrom};

use super::fitted::Op;
use super::frame::{Frame, classify, map_text, read_text};
use super::{CastTo, CleaningLine, OutlierAction, Unknown, Unreadable, fill, read, rows, text};

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
    let text_step = |name: &str, column: &str, frame: &mut Frame, (new, changed): (pl::Series, usize)| {
        put(line(name, column), frame, FieldType::Text, new, changed)
    };
    match op {
        Op::Fill { column, value } => {
            let ty = frame.ty(column)?;
            let old = frame.series(column)?;
            let unfit =
                || Error::invalid("a fitted plan fills with an unfitting value").with("column", column);
            let (becomes, new) = match value {
                Value::Int(_) | Value::Timestamp(_) => {
                    let with = match value {
                        Value::Int(v) => *v,
                        Value::Timestamp(v) => v.as_micros(),
                        _ => return Err(unfit()),
                    };
                    let ints = old.i64().map_err(|_| unfit())?;
                    let new: pl::Int64Chunked = ints.iter().map(|v| Some(v.unwrap_or(with))).collect();
                    (ty, new.into_series())
                }
                Value::Bool(with) => {
                    let flags = old.bool().map_err(|_| unfit())?;
                    let new: pl::BooleanChunked = flags.iter().map(|v| Some(v.unwrap_or(*with))).collect();
                    (ty, new.into_series())
                }
                Value::Text(with) => {
                    let texts = old.str().map_err(|_| unfit())?;
                    let mut new = pl::StringChunkedBuilder::new("filled".into(), texts.len());
                    texts
                        .iter()
                        .for_each(|text| new.append_value(text.unwrap_or(with)));
                    (ty, new.finish().into_series())
                }
                Value::Float(with) => {
                    let floats = floats(&old)?;
                    let new: pl::Float64Chunked = floats.iter().map(|v| Some(v.unwrap_or(*with))).collect();
                    (FieldType::Float, new.into_series())
                }
                _ => return Err(unfit()),
            };
            exchange(line("fill", column), frame, becomes, new)
        }
        Op::Trim { column } => {
            let new = map_text(&frame.series(column)?, text::trim)?;
            text_step("trim", column, frame, new)
        }
        Op::Case { column, to } => {
            let new = map_text(&frame.series(column)?, |text| Some(text::case(text, *to)))?;
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
            let texts = old.cast(&pl::DataType::String).map_err(classify)?;
            // One look at each row; then a column is a comparison of numbers.
            const MISSING: u32 = u32::MAX;
            const STRANGE: u32 = u32::MAX - 1;
            const FIRST: u32 = u32::MAX - 2;
            let known: HashMap<&str, u32> = categories
                .iter()
                .map(String::as_str)
                .zip(0..)
                .chain(first.as_deref().map(|first| (first, FIRST)))
                .collect();
            let code =
                |text: Option<&str>| text.map_or(MISSING, |text| known.get(text).copied().unwrap_or(STRANGE));
            let codes: Vec<u32> = texts.str().map_err(classify)?.iter().map(code).collect();
            let mut flags = vec![false; codes.len()];
            let mut column_of = |wanted: u32| {
                flags
                    .iter_mut()
                    .zip(&codes)
                    .for_each(|(flag, code)| *flag = *code == wanted);
                pl::BooleanChunked::new("dummy".into(), &flags).into_series()
            };
            let unreadable = codes.iter().filter(|code| **code == STRANGE).count();
            if unreadable > 0 && *unknown == Unknown::Refuse {
                let row = codes.iter().position(|code| *code == STRANGE);
                return Err(Error::invalid(
                    "a category that was not there when the plan was fitted; fold it, or accept unknown ones",
                )
                .with("column", column)
                .with("row", row.unwrap_or_default())
                .with("rows", unreadable));
            }
            let mut new = Vec::with_capacity(categories.len() + 2);
            for (category, code) in categories.iter().zip(0..) {
                new.push((format!("{column}_{category}"), FieldType::Bool, column_of(code)));
            }
            if *other {
                new.push((format!("{column}_other"), FieldType::Bool, column_of(STRANGE)));
            }
            if *missing {
                new.push((format!("{column}_missing"), FieldType::Bool, column_of(MISSING)));
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
            let clip = |v: f64| {
                let v = low.map_or(v, |low| if v < low { low } else { v });
                high.map_or(v, |high| if v > high { high } else { v })
            };
            let new = floats(&frame.series(column)?)?.apply_values(clip).into_series();
            exchange(line("clip", column), frame, FieldType::Float, new)
        }
        Op::Log1p { column } => {
            let values = floats(&frame.series(column)?)?;
            if let Some(row) = values.iter().position(|v| v.is_some_and(|v| v <= -1.0)) {
                return Err(
                    Error::invalid("log1p needs numbers above -1; clip the column first")
                        .with("column", column)
                        .with("row", row),
                );
            }
            let new = values.apply_values(f64::ln_1p).into_series();
            exchange(line("log1p", column), frame, FieldType::Float, new)
        }
        Op::Scale {
            column,
            mean,
            deviation,
        } => {
            // A constant column differs from its mean by rounding alone: it becomes 0, not noise.
            let constant = *deviation <= 1e-12 * mean.abs();
            let scale = |v: f64| if constant { 0.0 } else { (v - mean) / deviation };
            let new = floats(&frame.series(column)?)?.apply_values(scale).into_series();
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
            let (mut folded, mut changed) = (0, 0);
            let mut new = pl::StringChunkedBuilder::new("folded".into(), old.len());
            for before in old.str().map_err(classify)?.iter() {
                let text = before.map(|text| synonyms.get(text).map_or(text, String::as_str));
                let after = text.map(|text| match &stays {
                    Some(stays) if !stays.contains(text) => {
                        folded += 1;
                        other.as_str()
                    }
                    _ => text,
                });
                changed += usize::from(before != after);
                new.append_option(after);
            }
            let line = CleaningLine {
                unreadable: folded,
                ..line("fold", column)
            };
            put(line, frame, FieldType::Text, new.finish().into_series(), changed)
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

/// A column of numbers as floats. Eagerly, as all here: Polars' lazy engine blocks, and panics on a runtime of one thread.
fn floats(series: &pl::Series) -> Result<pl::Float64Chunked> {
    let floats = series.cast(&pl::DataType::Float64).map_err(classify)?;
    Ok(floats.f64().map_err(classify)?.clone())
}

/// Puts the new values in, when it is known how many are different.
fn put(
    line: CleaningLine,
    frame: &mut Frame,
    ty: FieldType,
    new: pl::Series,
    changed: usize,
) -> Result<CleaningLine> {
    let old = frame.series(&line.column)?;
    let line = CleaningLine {
        changed,
        missing_before: old.null_count(),
        missing_after: new.null_count(),
        ..line
    };
    frame.replace(&line.column, ty, new)?;
    Ok(line)
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
    let old = frame.series(column)?;
    let as_it_is = |to: &pl::DataType| old.cast(to).map_err(classify);
    let (ty, new) = match (to, from) {
        (CastTo::Float, FieldType::Text) => {
            (FieldType::Float, read_text(&frame.series(column)?, text::float)?)
        }
        (CastTo::Float, _) => (FieldType::Float, as_it_is(&pl::DataType::Float64)?),
        (CastTo::Int, FieldType::Float) => {
            let floats = old.f64().map_err(classify)?;
            let ints: pl::Int64Chunked = floats.iter().map(|v| v.and_then(text::whole)).collect();
            (FieldType::Int, ints.into_series())
        }
        (CastTo::Int, FieldType::Text) => (FieldType::Int, read_text(&frame.series(column)?, text::int)?),
        (CastTo::Int, _) => (FieldType::Int, as_it_is(&pl::DataType::Int64)?),
        (CastTo::Timestamp, FieldType::Text) => (
            FieldType::Timestamp,
            read_text(&frame.series(column)?, text::time)?,
        ),
        (CastTo::Timestamp, _) => (FieldType::Timestamp, frame.series(column)?),
        (CastTo::Bool, FieldType::Bool) => (FieldType::Bool, frame.series(column)?),
        (CastTo::Bool, FieldType::Int) => {
            let flag = |v: i64| match v {
                0 | 1 => Some(v == 1),
                _ => None,
            };
            let ints = old.i64().map_err(classify)?;
            let flags: pl::BooleanChunked = ints.iter().map(|v| v.and_then(flag)).collect();
            (FieldType::Bool, flags.into_series())
        }
        (CastTo::Bool, _) => (FieldType::Bool, read_text(&frame.series(column)?, text::flag)?),
        (CastTo::Text, FieldType::Float) => {
            let texts = old.f64().map_err(classify)?.iter().map(|v| v.map(text::number));
            let texts: pl::StringChunked = texts.collect();
            (FieldType::Text, texts.into_series())
        }
        (CastTo::Text, _) => (FieldType::Text, as_it_is(&pl::DataType::String)?),
    };
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
    let (mut strange, mut changed) = (0, 0);
    let mut new = pl::StringChunkedBuilder::new("canonical".into(), old.len());
    for text in old.str().map_err(classify)?.iter() {
        let Some(text) = text else {
            new.append_null();
            continue;
        };
        match read(text) {
            Some(canonical) => {
                changed += usize::from(canonical != text);
                new.append_value(canonical);
            }
            None => {
                strange += 1;
                match unreadable {
                    Unreadable::Missing => {
                        changed += 1;
                        new.append_null();
                    }
                    Unreadable::Keep => new.append_value(text),
                }
            }
        }
    }
    let line = CleaningLine {
        unreadable: strange,
        ..line
    };
    put(line, frame, FieldType::Text, new.finish().into_series(), changed)
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
    let floats = floats(&frame.series(&column)?)?;
    match action {
        OutlierAction::Clip => {
            let clip = |value: f64| {
                let raised = low.map_or(value, |low| if value < low { low } else { value });
                high.map_or(raised, |high| if raised > high { high } else { raised })
            };
            let new = floats.apply_values(clip).into_series();
            exchange(line, frame, FieldType::Float, new)
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
