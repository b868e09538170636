//! What is learned of a column: its categories, its groups, where its outliers begin.

use std::collections::BTreeMap;

use crm_core::record::FieldType;
use crm_core::{Error, Result};
use polars::prelude as pl;
use polars::prelude::{ChunkAgg, ChunkQuantile};

use super::fitted::Op;
use super::frame::{Frame, classify};
use super::learn::{filling, nothing, numbers};
use super::rows::{Group, groups};
use super::{Columns, Fill, OutlierRule, Statistic};

/// The most columns one column may become when no limit is given: more is an id mistaken for a category.
const MOST_CATEGORIES: usize = 100;

/// The most groups a fill learns: more is a key mistaken for a group.
const MOST_GROUPS: usize = 10_000;

/// The categories that get a column, in the order of text, and whether others share one.
pub(super) fn categories(
    frame: &Frame,
    column: &str,
    most: Option<usize>,
    least: usize,
) -> Result<(Vec<String>, bool)> {
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
pub(super) fn frequent(
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
pub(super) fn kept(
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
pub(super) fn without(columns: &Columns, names: &[String], fits: &[FieldType], frame: &Frame) -> Columns {
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

pub(super) fn group_filling(
    frame: &Frame,
    column: String,
    ty: FieldType,
    by: &[String],
    with: Statistic,
) -> Result<Op> {
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
pub(super) fn fences(frame: &Frame, column: &str, rule: OutlierRule) -> Result<(Option<f64>, Option<f64>)> {
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
pub(super) fn moments(numbers: &pl::Float64Chunked) -> Option<(f64, f64)> {
    let mean = numbers.mean()?;
    let count = numbers.len() - numbers.null_count();
    let squares: f64 = numbers.iter().flatten().map(|v| (v - mean) * (v - mean)).sum();
    Some((mean, (squares / (count as f64 - 1.0).max(1.0)).sqrt()))
}
