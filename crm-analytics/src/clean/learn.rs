//! From a step and the rows before it to operations with everything learned.

use std::collections::BTreeMap;

use crm_core::record::{FieldType, Value};
use crm_core::{Error, Result};
use polars::prelude as pl;
use polars::prelude::{ChunkAgg, ChunkQuantile};

use super::fitted::Op;
use super::frame::{Frame, classify};
use super::learned::{categories, fences, group_filling, kept, moments, without};
use super::rows::KEYS;
use super::{Bounds, CastTo, Columns, Fill, Statistic, Step};

const NUMBERS: &[FieldType] = &[FieldType::Int, FieldType::Float];
const PLAIN: &[FieldType] = &[FieldType::Bool, FieldType::Int, FieldType::Float, FieldType::Text];
const CATEGORIES: &[FieldType] = &[FieldType::Text, FieldType::Bool, FieldType::Int];
const ANY: &[FieldType] = &[
    FieldType::Bool,
    FieldType::Int,
    FieldType::Float,
    FieldType::Text,
    FieldType::Timestamp,
    FieldType::Uuid,
];

pub(super) fn ops(step: &Step, frame: &Frame) -> Result<Vec<Op>> {
    match step {
        Step::Fill {
            columns,
            with: Fill::Group { by, with },
        } => {
            let fits = match with {
                Statistic::Mean | Statistic::Median => NUMBERS,
                Statistic::Mode => PLAIN,
            };
            for name in by {
                frame.fitting(
                    name,
                    &[
                        FieldType::Text,
                        FieldType::Bool,
                        FieldType::Int,
                        FieldType::Timestamp,
                    ],
                )?;
            }
            let columns = without(columns, by, fits, frame);
            each(&columns, fits, frame, |column, ty| {
                group_filling(frame, column, ty, by, *with)
            })
        }
        Step::Fill {
            columns,
            with: Fill::Forward { order, by },
        } => {
            frame.fitting(order, &[FieldType::Int, FieldType::Float, FieldType::Timestamp])?;
            for name in by {
                frame.fitting(name, KEYS)?;
            }
            let known: Vec<String> = by.iter().cloned().chain([order.clone()]).collect();
            let columns = without(columns, &known, KEYS, frame);
            each(&columns, KEYS, frame, |column, _| {
                Ok(Op::FillForward {
                    column,
                    order: order.clone(),
                    by: by.clone(),
                })
            })
        }
        Step::Fill { columns, with } => {
            let fits = match with {
                Fill::Constant(Value::Int(_) | Value::Float(_)) | Fill::Mean | Fill::Median => NUMBERS,
                Fill::Constant(Value::Text(_)) => &[FieldType::Text],
                Fill::Constant(Value::Bool(_)) => &[FieldType::Bool],
                Fill::Constant(Value::Timestamp(_)) => &[FieldType::Timestamp],
                Fill::Constant(_) => {
                    return Err(Error::invalid(
                        "missing values are filled with a number, text, bool or instant",
                    ));
                }
                Fill::Mode | Fill::Group { .. } | Fill::Forward { .. } => PLAIN,
            };
            each(columns, fits, frame, |column, ty| {
                Ok(Op::Fill {
                    value: filling(with, frame, &column, ty)?,
                    column,
                })
            })
        }
        Step::Trim { columns } => each(columns, &[FieldType::Text], frame, |column, _| {
            Ok(Op::Trim { column })
        }),
        Step::Case { columns, to } => each(columns, &[FieldType::Text], frame, |column, _| {
            Ok(Op::Case { column, to: *to })
        }),
        Step::Cast { columns, to } => {
            let fits = match to {
                CastTo::Float => PLAIN,
                CastTo::Int => PLAIN,
                CastTo::Timestamp => &[FieldType::Text, FieldType::Timestamp],
                CastTo::Bool => &[FieldType::Text, FieldType::Int, FieldType::Bool],
                CastTo::Text => &[FieldType::Bool, FieldType::Int, FieldType::Float, FieldType::Text],
            };
            each(columns, fits, frame, |column, _| Ok(Op::Cast { column, to: *to }))
        }
        Step::Dummies {
            columns,
            drop_first,
            max_categories,
            min_count,
            missing,
            unknown,
        } => each(columns, CATEGORIES, frame, |column, _| {
            let (mut categories, limited) = categories(frame, &column, *max_categories, *min_count)?;
            let first = (*drop_first && !categories.is_empty()).then(|| categories.remove(0));
            Ok(Op::Dummies {
                column,
                categories,
                first,
                other: limited,
                missing: *missing,
                unknown: *unknown,
            })
        }),
        Step::Squeeze { columns } => each(columns, &[FieldType::Text], frame, |column, _| {
            Ok(Op::Squeeze { column })
        }),
        Step::Unicode { columns, form } => each(columns, &[FieldType::Text], frame, |column, _| {
            Ok(Op::Unicode { column, form: *form })
        }),
        Step::Email { columns, unreadable } => each(columns, &[FieldType::Text], frame, |column, _| {
            Ok(Op::Email {
                column,
                unreadable: *unreadable,
            })
        }),
        Step::Phone {
            columns,
            region,
            unreadable,
        } => {
            if let Some(region) = region {
                // A country that no number is read in would make every value missing.
                let known = region.len() == 2 && region.bytes().all(|b| b.is_ascii_alphabetic());
                if !known {
                    return Err(Error::invalid("a region is a country of two letters, such as DE")
                        .with("setting", "region")
                        .with("region", region));
                }
            }
            each(columns, &[FieldType::Text], frame, |column, _| {
                Ok(Op::Phone {
                    column,
                    region: region.clone(),
                    unreadable: *unreadable,
                })
            })
        }
        Step::Number { columns, decimal } => each(columns, &[FieldType::Text], frame, |column, _| {
            Ok(Op::Number {
                column,
                decimal: *decimal,
            })
        }),
        Step::Date { columns, order } => each(columns, &[FieldType::Text], frame, |column, _| {
            Ok(Op::Date {
                column,
                order: *order,
            })
        }),
        Step::Fold {
            columns,
            synonyms,
            min_count,
            max_categories,
            other,
        } => each(columns, &[FieldType::Text], frame, |column, _| {
            let keep = if max_categories.is_some() || *min_count > 1 {
                Some(kept(frame, &column, synonyms, *max_categories, *min_count)?)
            } else {
                None
            };
            Ok(Op::Fold {
                column,
                synonyms: synonyms.clone(),
                keep,
                other: other.clone(),
            })
        }),
        Step::Indicate { columns } => {
            let fits = KEYS;
            let found = each(columns, fits, frame, |column, _| Ok(Op::Indicate { column }))?;
            if *columns != Columns::All {
                return Ok(found);
            }
            let mut needed = Vec::new();
            for op in found {
                let Op::Indicate { column } = &op else { continue };
                if frame.series(column)?.null_count() > 0 {
                    needed.push(op);
                }
            }
            Ok(needed)
        }
        Step::Outliers {
            columns,
            rule,
            action,
        } => each(columns, NUMBERS, frame, |column, _| {
            let (low, high) = fences(frame, &column, *rule)?;
            Ok(Op::Outliers {
                column,
                low,
                high,
                action: *action,
            })
        }),
        Step::Deduplicate { by, keep } => {
            let mut names = Vec::new();
            each(by, KEYS, frame, |column, _| {
                names.push(column.clone());
                Ok(Op::Drop { column })
            })?;
            if names.is_empty() {
                return Err(Error::invalid("a key needs at least one column").with("setting", "by"));
            }
            Ok(vec![Op::Deduplicate {
                by: names,
                keep: *keep,
            }])
        }
        Step::Derive { column, from } => {
            if column.trim().is_empty() {
                return Err(Error::invalid("a derived column needs a name").with("setting", "column"));
            }
            from.ty(&|name| frame.ty(name))?;
            Ok(vec![Op::Derive {
                column: column.clone(),
                from: from.clone(),
            }])
        }
        Step::KeepRows { when } => {
            let ty = when.ty(&|name| frame.ty(name))?;
            if ty != FieldType::Bool {
                return Err(
                    Error::invalid("what says which rows are kept must be true or false")
                        .with("type", super::type_name(ty)),
                );
            }
            Ok(vec![Op::KeepRows { when: when.clone() }])
        }
        Step::Clip { columns, bounds } => each(columns, NUMBERS, frame, |column, _| {
            let (low, high) = match bounds {
                Bounds::Fixed { low, high } => (*low, *high),
                Bounds::Quantiles { low, high } => {
                    if !(0.0..=1.0).contains(low) || !(0.0..=1.0).contains(high) {
                        return Err(Error::invalid("quantiles are between 0 and 1").with("column", &column));
                    }
                    let numbers = numbers(frame, &column)?;
                    let at = |q: f64| numbers.quantile(q, pl::QuantileMethod::Linear).map_err(classify);
                    (
                        Some(at(*low)?.ok_or_else(|| nothing(&column))?),
                        Some(at(*high)?.ok_or_else(|| nothing(&column))?),
                    )
                }
            };
            let unordered = matches!((low, high), (Some(low), Some(high)) if low > high);
            if unordered || [low, high].into_iter().flatten().any(|bound| !bound.is_finite()) {
                return Err(Error::invalid(
                    "the lower bound is above the upper one, or a bound is not finite",
                )
                .with("column", column));
            }
            Ok(Op::Clip { column, low, high })
        }),
        Step::Log1p { columns } => each(columns, NUMBERS, frame, |column, _| Ok(Op::Log1p { column })),
        Step::Standardise { columns } => each(columns, NUMBERS, frame, |column, _| {
            let numbers = numbers(frame, &column)?;
            let (mean, deviation) = moments(&numbers).ok_or_else(|| nothing(&column))?;
            Ok(Op::Scale {
                mean: learned(mean, &column)?,
                deviation: learned(deviation, &column)?,
                column,
            })
        }),
        Step::Drop { columns } => each(columns, ANY, frame, |column, _| Ok(Op::Drop { column })),
        Step::Rename { from, to } => Ok(vec![Op::Rename {
            from: from.clone(),
            to: to.clone(),
        }]),
    }
}

fn each(
    columns: &Columns,
    fits: &[FieldType],
    frame: &Frame,
    mut op: impl FnMut(String, FieldType) -> Result<Op>,
) -> Result<Vec<Op>> {
    match columns {
        Columns::Named(names) => names
            .iter()
            .map(|name| op(name.clone(), frame.fitting(name, fits)?))
            .collect(),
        Columns::All => frame
            .columns()
            .iter()
            .filter(|(_, ty)| fits.contains(ty))
            .map(|(name, ty)| op(name.clone(), *ty))
            .collect(),
    }
}

pub(super) fn nothing(column: &str) -> Error {
    Error::invalid("every value of the column is missing: there is nothing to learn from; fill it with a constant or drop it")
        .with("column", column)
}

pub(super) fn numbers(frame: &Frame, column: &str) -> Result<pl::Float64Chunked> {
    let series = frame
        .series(column)?
        .cast(&pl::DataType::Float64)
        .map_err(classify)?;
    let numbers = series.f64().map_err(classify)?.clone();
    let strange = numbers
        .iter()
        .position(|value| value.is_some_and(f64::is_infinite));
    if let Some(row) = strange {
        return Err(Error::invalid(
            "a number is infinite: nothing can be learned from it; clip it at fixed bounds first",
        )
        .with("column", column)
        .with("row", row));
    }
    Ok(numbers)
}

/// A figure that was learned; sums of huge numbers overflow.
fn learned(value: f64, column: &str) -> Result<f64> {
    if value.is_finite() {
        return Ok(value);
    }
    Err(Error::invalid(
        "the numbers of the column are too large or too far apart to learn from; clip it or take log1p",
    )
    .with("column", column))
}

pub(super) fn filling(fill: &Fill, frame: &Frame, column: &str, ty: FieldType) -> Result<Value> {
    let number = |value: Option<f64>| {
        let value = learned(value.ok_or_else(|| nothing(column))?, column)?;
        // A whole number keeps a column of integers one.
        let whole = ty == FieldType::Int && value.fract() == 0.0 && value.abs() < 9e15;
        Ok(if whole {
            Value::Int(value as i64)
        } else {
            Value::Float(value)
        })
    };
    match fill {
        Fill::Constant(Value::Float(value)) if !value.is_finite() => {
            Err(Error::invalid("missing values are filled with finite numbers only").with("column", column))
        }
        Fill::Constant(Value::Int(value)) if ty == FieldType::Float => Ok(Value::Float(*value as f64)),
        Fill::Constant(Value::Float(value)) => number(Some(*value)),
        Fill::Constant(value) => Ok(value.clone()),
        Fill::Group { .. } | Fill::Forward { .. } => {
            Err(Error::unexpected("a fill of groups has no single value").with("column", column))
        }
        Fill::Mean => number(numbers(frame, column)?.mean()),
        Fill::Median => number(numbers(frame, column)?.median()),
        Fill::Mode => {
            let series = frame.series(column)?;
            match ty {
                FieldType::Text => mode(
                    series
                        .str()
                        .map_err(classify)?
                        .iter()
                        .flatten()
                        .map(str::to_owned),
                )
                .map(Value::Text),
                FieldType::Bool => mode(series.bool().map_err(classify)?.iter().flatten()).map(Value::Bool),
                FieldType::Int => mode(series.i64().map_err(classify)?.iter().flatten()).map(Value::Int),
                _ => {
                    let mut values: Vec<f64> = series.f64().map_err(classify)?.iter().flatten().collect();
                    values.sort_unstable_by(f64::total_cmp);
                    let runs = values.chunk_by(|a, b| a == b);
                    let longest = runs.fold(None, |best: Option<&[f64]>, run| match best {
                        Some(best) if best.len() >= run.len() => Some(best),
                        _ => Some(run),
                    });
                    longest
                        .and_then(|run| run.first())
                        .map(|value| Value::Float(*value))
                }
            }
            .ok_or_else(|| nothing(column))
        }
    }
}

/// The most frequent; the smallest of equals.
fn mode<T: Ord>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts
        .into_iter()
        .fold(None, |best: Option<(T, usize)>, one| match best {
            Some(best) if best.1 >= one.1 => Some(best),
            _ => Some(one),
        })
        .map(|(value, _)| value)
}
