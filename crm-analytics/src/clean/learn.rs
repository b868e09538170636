//! From a step and the rows before it to operations with everything learned.

use std::collections::BTreeMap;

use crm_core::record::{FieldType, Value};
use crm_core::{Error, Result};
use polars::prelude as pl;
use polars::prelude::{ChunkAgg, ChunkQuantile};

use super::fitted::Op;
use super::frame::{Frame, classify};
use super::rows::{Group, KEYS, groups};
use super::{Bounds, CastTo, Columns, Fill, OutlierRule, Statistic, Step};

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

/// The most groups a fill learns: more is a key mistaken for a group.
const MOST_GROUPS: usize = 10_000;

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

/// The categories that get a column, in the order of text, and whether others share one.
fn categories(frame: &Frame, column: &str, most: Option<usize>, least: usize) -> Result<(Vec<String>, bool)> {
    let series = frame
        .series(column)?
        .cast(&pl::DataType::String)
        .map_err(classify)?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let texts = series.str().map_err(classify)?;
    texts
        .iter()
        .flatten()
        .for_each(|text| *counts.entry(text).or_default() += 1);
    let limited = most.is_some() || least > 1;
    let categories = frequent(counts, column, most, least)?;
    if !limited && categories.len() > MOST_CATEGORIES {
        return Err(Error::invalid(
            "the column has too many categories; set max_categories, or drop it if it is an id",
        )
        .with("column", column)
        .with("categories", categories.len())
        .with("most", MOST_CATEGORIES));
    }
    Ok((categories, limited))
}

/// The most frequent (the smallest of equals) that are not rarer than `least`, in the order of text.
fn frequent(
    counts: BTreeMap<&str, usize>,
    column: &str,
    most: Option<usize>,
    least: usize,
) -> Result<Vec<String>> {
    if most == Some(0) {
        return Err(Error::invalid("at least one category must stay").with("column", column));
    }
    let mut ranked: Vec<(&str, usize)> = counts.into_iter().filter(|(_, count)| *count >= least).collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    ranked.truncate(most.unwrap_or(usize::MAX));
    let mut categories: Vec<String> = ranked.into_iter().map(|(text, _)| text.to_owned()).collect();
    categories.sort_unstable();
    Ok(categories)
}

/// The categories that stay as they are, after synonyms.
fn kept(
    frame: &Frame,
    column: &str,
    synonyms: &BTreeMap<String, String>,
    most: Option<usize>,
    least: usize,
) -> Result<Vec<String>> {
    let series = frame.series(column)?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for text in series.str().map_err(classify)?.iter().flatten() {
        let text = synonyms.get(text).map_or(text, String::as_str);
        *counts.entry(text).or_default() += 1;
    }
    frequent(counts, column, most, least)
}

/// All but those, when all are meant; named ones stay: an error about a column that is filled from itself is better than a
/// silent gap.
fn without(columns: &Columns, names: &[String], fits: &[FieldType], frame: &Frame) -> Columns {
    match columns {
        Columns::Named(_) => columns.clone(),
        Columns::All => {
            let left = frame
                .columns()
                .iter()
                .filter(|(name, ty)| fits.contains(ty) && !names.contains(name));
            Columns::Named(left.map(|(name, _)| name.clone()).collect())
        }
    }
}

fn group_filling(frame: &Frame, column: String, ty: FieldType, by: &[String], with: Statistic) -> Result<Op> {
    if by.is_empty() || by.contains(&column) {
        return Err(Error::invalid(
            "a group is made by at least one column, and not by the one that is filled",
        )
        .with("column", column)
        .with("setting", "by"));
    }
    let fill = match with {
        Statistic::Mean => Fill::Mean,
        Statistic::Median => Fill::Median,
        Statistic::Mode => Fill::Mode,
    };
    let otherwise = filling(&fill, frame, &column, ty)?;
    let found = groups(frame, by)?;
    if found.len() > MOST_GROUPS {
        return Err(Error::invalid(
            "there are too many groups to learn from; group by something that more rows agree in",
        )
        .with("column", column)
        .with("groups", found.len())
        .with("most", MOST_GROUPS));
    }
    let mut learned = Vec::new();
    for (key, rows) in found {
        let part = frame.part(&column, &rows)?;
        if part.series(&column)?.null_count() < rows.len() {
            let value = filling(&fill, &part, &column, ty)?;
            learned.push(Group { key, value });
        }
    }
    Ok(Op::FillGroup {
        column,
        by: by.to_vec(),
        groups: learned,
        otherwise,
    })
}

/// Where outliers begin; `None` when nothing is one.
fn fences(frame: &Frame, column: &str, rule: OutlierRule) -> Result<(Option<f64>, Option<f64>)> {
    let numbers = numbers(frame, column)?;
    let at = |q: f64| {
        let found = numbers
            .quantile(q, pl::QuantileMethod::Linear)
            .map_err(classify)?;
        found.ok_or_else(|| nothing(column))
    };
    let times = |k: f64| {
        if k.is_finite() && k > 0.0 {
            Ok(k)
        } else {
            Err(
                Error::invalid("an outlier rule needs a positive number of spreads")
                    .with("column", column)
                    .with("setting", "k"),
            )
        }
    };
    let around = |low: f64, high: f64, spread: f64| {
        let fine = spread > 0.0 && (low - spread).is_finite() && (high + spread).is_finite();
        if fine {
            (Some(low - spread), Some(high + spread))
        } else {
            (None, None)
        }
    };
    Ok(match rule {
        OutlierRule::Iqr { k } => {
            let (k, low, high) = (times(k)?, at(0.25)?, at(0.75)?);
            around(low, high, k * (high - low))
        }
        OutlierRule::Z { k } => {
            let k = times(k)?;
            let (mean, deviation) = moments(&numbers).ok_or_else(|| nothing(column))?;
            // A constant column differs from its mean by rounding alone.
            let spread = if deviation <= 1e-12 * mean.abs() {
                0.0
            } else {
                k * deviation
            };
            around(mean, mean, spread)
        }
        OutlierRule::Mad { k } => {
            let (k, median) = (times(k)?, at(0.5)?);
            let mut distances: Vec<f64> = numbers.iter().flatten().map(|v| (v - median).abs()).collect();
            distances.sort_unstable_by(f64::total_cmp);
            let middle = |at: usize| distances.get(at).copied().unwrap_or_default();
            let n = distances.len();
            let mad = (middle((n.max(1) - 1) / 2) + middle(n / 2)) / 2.0;
            around(median, median, k * 1.4826 * mad)
        }
        OutlierRule::Quantiles { low, high } => {
            if !(0.0..=1.0).contains(&low) || !(0.0..=1.0).contains(&high) || low > high {
                return Err(
                    Error::invalid("quantiles are between 0 and 1, the lower one first")
                        .with("column", column),
                );
            }
            (Some(at(low)?), Some(at(high)?))
        }
    })
}

/// Mean and standard deviation (of a sample).
fn moments(numbers: &pl::Float64Chunked) -> Option<(f64, f64)> {
    let mean = numbers.mean()?;
    let count = numbers.len() - numbers.null_count();
    let squares: f64 = numbers.iter().flatten().map(|v| (v - mean) * (v - mean)).sum();
    Some((mean, (squares / (count as f64 - 1.0).max(1.0)).sqrt()))
}
