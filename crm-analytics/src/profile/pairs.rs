//! Two columns at a time: those that say the same, and those that know the outcome.

use std::collections::{BTreeMap, HashMap};

use crm_core::record::FieldType;
use crm_core::{Column, Error, Result, Table};

use super::{Association, AssociationMeasure, ColumnProfile, LeakageSuspect, ProfilePlan, distinct};

/// The most categories of a column that is compared with another one.
const CATEGORIES: usize = 50;
/// From here on a column knows the outcome.
const KNOWS: f64 = 0.95;

fn value(column: &Column, row: usize) -> Option<f64> {
    column.f64_at(row).filter(|value| value.is_finite())
}

pub(super) fn associations(
    plan: &ProfilePlan,
    table: &Table,
    profiles: &[ColumnProfile],
) -> Vec<Association> {
    let numbers: Vec<&Column> = table
        .columns()
        .iter()
        .filter(|column| matches!(column.ty(), FieldType::Int | FieldType::Float))
        .collect();
    let coded: Vec<(&str, Vec<Option<usize>>, usize)> = table
        .columns()
        .iter()
        .zip(profiles)
        .filter(|(column, profile)| {
            matches!(column.ty(), FieldType::Text | FieldType::Bool)
                && profile.distinct.exact
                && (2..=CATEGORIES).contains(&profile.distinct.count)
        })
        .map(|(column, _)| {
            let (codes, count) = codes(column);
            (column.name(), codes, count)
        })
        .collect();
    let mut found = Vec::new();
    let mut name = |a: &str, b: &str, measure, value: Option<f64>| {
        if let Some(value) = value.filter(|value| value.abs() >= plan.association) {
            found.push(Association {
                a: a.to_owned(),
                b: b.to_owned(),
                measure,
                value,
            });
        }
    };
    for (at, a) in numbers.iter().enumerate() {
        for b in numbers.iter().skip(at + 1) {
            name(
                a.name(),
                b.name(),
                AssociationMeasure::Correlation,
                correlation(a, b),
            );
        }
    }
    for (at, a) in coded.iter().enumerate() {
        for b in coded.iter().skip(at + 1) {
            let value = cramers_v(&a.1, a.2, &b.1, b.2);
            name(a.0, b.0, AssociationMeasure::CramersV, value);
        }
    }
    found.sort_by(|a, b| {
        b.value
            .abs()
            .total_cmp(&a.value.abs())
            .then(a.a.cmp(&b.a))
            .then(a.b.cmp(&b.b))
    });
    found
}

/// Pearson's correlation over the rows that have both; `None` when one does not vary.
fn correlation(a: &Column, b: &Column) -> Option<f64> {
    let pairs: Vec<(f64, f64)> = (0..a.len())
        .filter_map(|row| Some((value(a, row)?, value(b, row)?)))
        .collect();
    let n = pairs.len() as f64;
    let mean_a = pairs.iter().map(|(a, _)| a / n).sum::<f64>();
    let mean_b = pairs.iter().map(|(_, b)| b / n).sum::<f64>();
    let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
    for (a, b) in &pairs {
        let (a, b) = (a - mean_a, b - mean_b);
        aa += a * a;
        bb += b * b;
        ab += a * b;
    }
    let noise = |squares: f64, mean: f64| squares <= 1e-24 * mean * mean * n;
    if pairs.len() < 3 || noise(aa, mean_a) || noise(bb, mean_b) {
        return None;
    }
    let r = ab / (aa.sqrt() * bb.sqrt());
    r.is_finite().then_some(r.clamp(-1.0, 1.0))
}

/// Categories as numbers, in the order they first stand in; how many there are.
fn codes(column: &Column) -> (Vec<Option<usize>>, usize) {
    let mut known: HashMap<String, usize> = HashMap::new();
    let codes = (0..column.len())
        .map(|row| {
            if !column.is_valid(row) {
                return None;
            }
            let next = known.len();
            Some(*known.entry(distinct::shown(column, row)).or_insert(next))
        })
        .collect();
    (codes, known.len())
}

/// Cramer's V over the rows that have both; `None` when one does not vary there.
fn cramers_v(a: &[Option<usize>], a_count: usize, b: &[Option<usize>], b_count: usize) -> Option<f64> {
    let mut cells = vec![0.0_f64; a_count * b_count];
    let (mut rows, mut cols) = (vec![0.0_f64; a_count], vec![0.0_f64; b_count]);
    let mut n = 0.0;
    for (a, b) in a.iter().zip(b) {
        let (Some(a), Some(b)) = (a, b) else { continue };
        *cells.get_mut(a * b_count + b)? += 1.0;
        *rows.get_mut(*a)? += 1.0;
        *cols.get_mut(*b)? += 1.0;
        n += 1.0;
    }
    let mut chi2 = 0.0;
    for (a, row) in rows.iter().enumerate() {
        for (b, col) in cols.iter().enumerate() {
            let expected = row * col / n;
            if expected > 0.0 {
                chi2 += (cells.get(a * b_count + b)? - expected).powi(2) / expected;
            }
        }
    }
    let present = |counts: &[f64]| counts.iter().filter(|count| **count > 0.0).count();
    let least = present(&rows).min(present(&cols));
    if least < 2 {
        return None;
    }
    Some((chi2 / (n * (least - 1) as f64)).sqrt().min(1.0))
}

pub(super) fn leakage(
    table: &Table,
    target: &str,
    profiles: &[ColumnProfile],
) -> Result<Vec<LeakageSuspect>> {
    let outcome = table.column(target)?;
    let mut truth: Vec<Option<bool>> = Vec::with_capacity(table.rows());
    for row in 0..table.rows() {
        truth.push(match value(outcome, row) {
            None => None,
            Some(0.0) => Some(false),
            Some(1.0) => Some(true),
            Some(_) => {
                return Err(Error::invalid("a target is true or false, or 1 and 0")
                    .operation("profile.run")
                    .with("column", target)
                    .with("row", row));
            }
        });
    }
    if !matches!(outcome.ty(), FieldType::Bool | FieldType::Int | FieldType::Float) {
        return Err(
            Error::invalid("a target is true or false, or 1 and 0; cast it first")
                .operation("profile.run")
                .with("column", target),
        );
    }
    let mut found = Vec::new();
    for (column, profile) in table.columns().iter().zip(profiles) {
        if column.name() == target {
            continue;
        }
        let score: Option<Vec<Option<f64>>> = match column.ty() {
            FieldType::Int | FieldType::Float | FieldType::Bool => {
                Some((0..table.rows()).map(|row| value(column, row)).collect())
            }
            FieldType::Timestamp => Some(
                (0..table.rows())
                    .map(|row| column.timestamp_at(row).map(|at| at.as_micros() as f64))
                    .collect(),
            ),
            // More categories than that tell the rows they were counted on whatever they mean.
            FieldType::Text
                if profile.distinct.exact
                    && profile.distinct.count <= CATEGORIES
                    && profile.distinct.count * 20 <= table.rows() =>
            {
                Some(category_means(column, &truth))
            }
            _ => None,
        };
        let by_value = score.and_then(|score| auc(&score, &truth));
        let absent: Vec<Option<f64>> = (0..table.rows())
            .map(|row| Some(f64::from(u8::from(!column.is_valid(row)))))
            .collect();
        let by_missing = auc(&absent, &truth);
        let best = [(by_value, false), (by_missing, true)]
            .into_iter()
            .filter_map(|(auc, by_missing)| Some((auc?, by_missing)))
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        if let Some((auc, by_missing)) = best.filter(|(auc, _)| *auc >= KNOWS) {
            found.push(LeakageSuspect {
                column: column.name().to_owned(),
                auc,
                by_missing,
            });
        }
    }
    found.sort_by(|a, b| b.auc.total_cmp(&a.auc).then(a.column.cmp(&b.column)));
    Ok(found)
}

/// The share of true outcomes of each row's category.
fn category_means(column: &Column, truth: &[Option<bool>]) -> Vec<Option<f64>> {
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (row, truth) in truth.iter().enumerate() {
        if let (Some(text), Some(truth)) = (column.text_at(row), truth) {
            let sum = sums.entry(text).or_default();
            sum.0 += f64::from(u8::from(*truth));
            sum.1 += 1.0;
        }
    }
    (0..truth.len())
        .map(|row| {
            let (sum, count) = sums.get(column.text_at(row)?)?;
            Some(sum / count)
        })
        .collect()
}

/// The area under the ROC curve of a score, in the direction it tells better; by mid-ranks, so that ties count half.
fn auc(score: &[Option<f64>], truth: &[Option<bool>]) -> Option<f64> {
    let mut both: Vec<(f64, bool)> = score
        .iter()
        .zip(truth)
        .filter_map(|(score, truth)| Some(((*score)?, (*truth)?)))
        .collect();
    both.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positive = both.iter().filter(|(_, truth)| *truth).count() as f64;
    let negative = both.len() as f64 - positive;
    // A handful of rows is told apart by chance.
    if positive < 5.0 || negative < 5.0 {
        return None;
    }
    let (mut before, mut ranks) = (0.0, 0.0);
    for ties in both.chunk_by(|a, b| a.0 == b.0) {
        let n = ties.len() as f64;
        let mid = before + (n + 1.0) / 2.0;
        ranks += mid * ties.iter().filter(|(_, truth)| *truth).count() as f64;
        before += n;
    }
    let auc = (ranks - positive * (positive + 1.0) / 2.0) / (positive * negative);
    Some(auc.max(1.0 - auc))
}
