//! How good groups, classes and numbers are. Everything answered is plain data, so that it can be stored and drawn.
//!
//! ```
//! use crm_analytics::metrics::silhouette;
//! use crm_core::Matrix;
//!
//! let x = Matrix::new(vec!["x".into()], vec![0.0, 1.0, 10.0, 11.0]).unwrap();
//! let score = silhouette(&x, &[Some(0), Some(0), Some(1), Some(1)], 5000, 0).unwrap();
//! assert!(score.mean > 0.89 && score.rows == 4);
//! ```

mod clusters;
mod numbers;
mod ranking;
mod scores;
mod tables;

pub use clusters::{adjusted_rand, calinski_harabasz, davies_bouldin};
pub use numbers::{NumberScores, number_scores};
pub use ranking::{
    PrecisionRecall, PrecisionRecallPoint, Roc, RocPoint, average_precision, precision_recall, roc,
};
pub use scores::{ClassFigures, Confusion, brier, confusion, log_loss};
pub use tables::{LiftRow, LiftTable, Reliability, ReliabilityBin, lift_table, reliability};

use crm_core::{Error, Matrix, Result};
use serde::{Deserialize, Serialize};

use crate::sample::sample_rows;

/// The square of the Euclidean distance.
pub(crate) fn square_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// How many rows each of `clusters` groups has; rows in no group are not counted.
pub fn sizes(labels: &[Option<usize>], clusters: usize) -> Vec<usize> {
    let mut sizes = vec![0; clusters];
    for label in labels.iter().flatten() {
        if let Some(size) = sizes.get_mut(*label) {
            *size += 1;
        }
    }
    sizes
}

/// The sum of squared distances of the rows to the centres of their groups; rows in no group add nothing.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when there are not as many labels as rows, the centres have other columns, or a group
/// has no centre.
pub fn inertia(x: &Matrix, labels: &[Option<usize>], centers: &Matrix) -> Result<f64> {
    same_length(x, labels.len())?;
    if centers.columns() != x.columns() {
        return Err(Error::invalid("the centres have other columns than the rows"));
    }
    if let Some(label) = labels.iter().flatten().find(|label| **label >= centers.rows()) {
        return Err(Error::invalid("a row is in a group that has no centre")
            .operation("metrics.inertia")
            .with("group", label)
            .with("centres", centers.rows()));
    }
    Ok(x.iter_rows()
        .zip(labels)
        .filter_map(|(row, label)| label.map(|label| square_distance(row, centers.row(label))))
        .sum())
}

/// A mean silhouette and what it was computed on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Silhouette {
    /// The mean over the rows, -1 (wrong groups) to 1 (groups far apart).
    pub mean: f64,
    /// The standard error of the mean, from the spread of the rows.
    pub error: f64,
    /// The number of rows it was computed on.
    pub rows: usize,
}

/// The mean silhouette (Rousseeuw 1987) with Euclidean distances: `(b - a) / max(a, b)` for each row, `a` its mean
/// distance to the others of its group, `b` the least mean distance to another group; 0 for a row alone in its group.
///
/// The work grows with the square of the rows, so that with more than `max_rows` a sample drawn by `seed` is used, each
/// group among it with its share. Rows in no group are left out.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when lengths differ or fewer than two groups have rows.
pub fn silhouette(x: &Matrix, labels: &[Option<usize>], max_rows: usize, seed: u64) -> Result<Silhouette> {
    same_length(x, labels.len())?;
    let chosen: Vec<(&[f64], usize)> = sample_rows(x.rows(), max_rows, seed, 0x5117)
        .into_iter()
        .filter_map(|row| Some((x.row(row), (*labels.get(row)?)?)))
        .collect();
    // Whatever the groups are called.
    let mut names: Vec<usize> = chosen.iter().map(|(_, label)| *label).collect();
    names.sort_unstable();
    names.dedup();
    let chosen: Vec<(&[f64], usize)> = chosen
        .into_iter()
        .map(|(row, label)| (row, names.partition_point(|name| *name < label)))
        .collect();
    let clusters = names.len();
    let mut counts = vec![0_usize; clusters];
    for (_, label) in &chosen {
        if let Some(count) = counts.get_mut(*label) {
            *count += 1;
        }
    }
    if counts.iter().filter(|count| **count > 0).count() < 2 {
        return Err(
            Error::invalid("a silhouette needs rows in at least two groups").operation("metrics.silhouette")
        );
    }
    let mut scores = Vec::with_capacity(chosen.len());
    let mut sums = vec![0.0; clusters];
    for (row, own) in &chosen {
        sums.fill(0.0);
        for (other, label) in &chosen {
            if let Some(sum) = sums.get_mut(*label) {
                *sum += square_distance(row, other).sqrt();
            }
        }
        let (mut a, mut b) = (None, f64::INFINITY);
        for (label, (sum, count)) in sums.iter().zip(&counts).enumerate() {
            if label == *own {
                a = (*count > 1).then(|| sum / (*count - 1) as f64);
            } else if *count > 0 {
                b = b.min(sum / *count as f64);
            }
        }
        scores.push(match a {
            Some(a) if a.max(b) > 0.0 => (b - a) / a.max(b),
            _ => 0.0,
        });
    }
    let rows = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / rows;
    let spread = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / (rows - 1.0).max(1.0);
    Ok(Silhouette {
        mean,
        error: (spread / rows).sqrt(),
        rows: scores.len(),
    })
}

/// The share of equal entries, 0 to 1; 1 without entries.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when the lengths differ.
pub fn accuracy(expected: &[usize], found: &[usize]) -> Result<f64> {
    if expected.len() != found.len() {
        return Err(Error::invalid("the two lists of classes differ in length"));
    }
    if expected.is_empty() {
        return Ok(1.0);
    }
    Ok(expected.iter().zip(found).filter(|(a, b)| a == b).count() as f64 / expected.len() as f64)
}

/// What ranks rows: as many scores as answers, all finite, some rows of either kind.
pub(crate) fn check_scores(operation: &'static str, scores: &[f64], positive: &[bool]) -> Result<()> {
    let invalid = |message: &'static str| Error::invalid(message).operation(operation);
    if scores.len() != positive.len() {
        return Err(invalid("there are not as many scores as answers")
            .with("scores", scores.len())
            .with("answers", positive.len()));
    }
    if let Some(row) = scores.iter().position(|score| !score.is_finite()) {
        return Err(invalid("a score is not a finite number").with("row", row));
    }
    let hits = positive.iter().filter(|p| **p).count();
    if hits == 0 || hits == positive.len() {
        return Err(
            invalid("all rows are of one kind, so that nothing can be ranked; judge on other rows")
                .with("positive", hits)
                .with("rows", positive.len()),
        );
    }
    Ok(())
}

/// Rows with equal scores together, the highest first: score, rows, positive ones.
pub(crate) fn tied(scores: &[f64], positive: &[bool]) -> Vec<(f64, f64, f64)> {
    let mut order: Vec<(f64, bool)> = scores
        .iter()
        .map(|s| s + 0.0)
        .zip(positive.iter().copied())
        .collect();
    order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let mut groups: Vec<(f64, f64, f64)> = Vec::new();
    for (score, positive) in order {
        let hit = f64::from(u8::from(positive));
        match groups.last_mut() {
            Some((last, rows, hits)) if *last == score => {
                *rows += 1.0;
                *hits += hit;
            }
            _ => groups.push((score, 1.0, hit)),
        }
    }
    groups
}

fn same_length(x: &Matrix, labels: usize) -> Result<()> {
    if labels == x.rows() {
        return Ok(());
    }
    Err(Error::invalid("there are not as many labels as rows")
        .with("rows", x.rows())
        .with("labels", labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_alone_and_duplicates_score_nothing() {
        let x = Matrix::new(vec!["x".into()], vec![1.0, 1.0, 1.0, 9.0]).unwrap();
        let all_equal = silhouette(&x, &[Some(0), Some(0), Some(1), None], 100, 0).unwrap();
        assert_eq!((all_equal.mean, all_equal.rows), (0.0, 3));
        let alone = silhouette(&x, &[Some(0), Some(0), Some(0), Some(1)], 100, 0).unwrap();
        assert_eq!(alone.mean, 0.75);
        assert!(silhouette(&x, &[Some(0); 4], 100, 0).is_err());
        assert!(silhouette(&x, &[Some(0); 3], 100, 0).is_err());
    }
}
