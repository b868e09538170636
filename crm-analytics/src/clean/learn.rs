//! From a step and the rows before it to operations with everything learned.

use std::collections::BTreeMap;

use crm_core::record::{FieldType, Value};
use crm_core::{Error, Result};
use polars::prelude as pl;
use polars::prelude::{ChunkAgg, ChunkQuantile};

use super::fitted::Op;
use super::frame::{Frame, classify};
use super::{Bounds, CastTo, Columns, Fill, Step};

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

/// The most columns one column may become when no limit is given: more is an id mistaken for a category.
const MOST_CATEGORIES: usize = 100;

pub(super) fn ops(step: &Step, frame: &Frame) -> Result<Vec<Op>> {
    match step {
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
                Fill::Mode => PLAIN,
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
                CastTo::Text => &[FieldType::Bool, FieldType::Int, FieldType::Float, FieldType::Text],
            };
            each(columns, fits, frame, |column, _| Ok(Op::Cast { column, to: *to }))
        }
        Step::Dummies {
            columns,
            drop_first,
            max_categories,
        } => each(columns, CATEGORIES, frame, |column, _| {
            categories(frame, column, *drop_first, *max_categories)
        }),
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
            let mean = numbers.mean().ok_or_else(|| nothing(&column))?;
            let count = numbers.len() - numbers.null_count();
            let squares: f64 = numbers.iter().flatten().map(|v| (v - mean) * (v - mean)).sum();
            let deviation = (squares / (count as f64 - 1.0).max(1.0)).sqrt();
            Ok(Op::Scale {
                column,
                mean,
                deviation,
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

fn nothing(column: &str) -> Error {
    Error::invalid("every value of the column is missing: there is nothing to learn from; fill it with a constant or drop it")
        .with("column", column)
}

fn numbers(frame: &Frame, column: &str) -> Result<pl::Float64Chunked> {
    let series = frame
        .series(column)?
        .cast(&pl::DataType::Float64)
        .map_err(classify)?;
    Ok(series.f64().map_err(classify)?.clone())
}

fn filling(fill: &Fill, frame: &Frame, column: &str, ty: FieldType) -> Result<Value> {
    let number = |value: Option<f64>| {
        let value = value.ok_or_else(|| nothing(column))?;
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

fn categories(frame: &Frame, column: String, drop_first: bool, most: Option<usize>) -> Result<Op> {
    let series = frame
        .series(&column)?
        .cast(&pl::DataType::String)
        .map_err(classify)?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let texts = series.str().map_err(classify)?;
    texts
        .iter()
        .flatten()
        .for_each(|text| *counts.entry(text).or_default() += 1);
    if most == Some(0) {
        return Err(Error::invalid("at least one category must get a column").with("column", column));
    }
    if most.is_none() && counts.len() > MOST_CATEGORIES {
        return Err(Error::invalid(
            "the column has too many categories; set max_categories, or drop it if it is an id",
        )
        .with("column", column)
        .with("categories", counts.len())
        .with("most", MOST_CATEGORIES));
    }
    let mut ranked: Vec<(&str, usize)> = counts.into_iter().collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    ranked.truncate(most.unwrap_or(usize::MAX));
    let mut categories: Vec<String> = ranked.into_iter().map(|(text, _)| text.to_owned()).collect();
    categories.sort_unstable();
    let first = if drop_first && !categories.is_empty() {
        Some(categories.remove(0))
    } else {
        None
    };
    Ok(Op::Dummies {
        column,
        categories,
        first,
        other: most.is_some(),
    })
}
