use crm_core::{Error, Matrix, Result};
use serde::{Deserialize, Serialize};

fn check(operation: &'static str, probabilities: &Matrix, classes: &[usize]) -> Result<()> {
    let invalid = |message: &'static str| Error::invalid(message).operation(operation);
    if probabilities.rows() != classes.len() {
        return Err(invalid("there are not as many classes as rows")
            .with("rows", probabilities.rows())
            .with("classes", classes.len()));
    }
    if classes.is_empty() {
        return Err(invalid("there are no rows to judge on"));
    }
    if let Some(row) = probabilities
        .iter_rows()
        .position(|row| row.iter().any(|p| !(0.0..=1.0).contains(p)))
    {
        return Err(invalid("a probability is below 0 or above 1").with("row", row));
    }
    Ok(())
}

/// The mean of minus the logarithm of the true class's probability, kept at least 2.2e-16 from 0 and 1; smaller is better.
/// A class without a column has probability 0.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when lengths differ, there are no rows, or a probability is out of bounds.
pub fn log_loss(probabilities: &Matrix, classes: &[usize]) -> Result<f64> {
    check("metrics.log_loss", probabilities, classes)?;
    let losses = probabilities.iter_rows().zip(classes).map(|(row, class)| {
        let p = row.get(*class).copied().unwrap_or(0.0);
        -p.clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln()
    });
    Ok(losses.sum::<f64>() / classes.len() as f64)
}

/// The mean squared distance of the probabilities from the truth (Brier 1950): for two classes of the second one's
/// probability, for more summed over all; smaller is better.
///
/// # Errors
/// As [`log_loss`].
pub fn brier(probabilities: &Matrix, classes: &[usize]) -> Result<f64> {
    check("metrics.brier", probabilities, classes)?;
    let two = probabilities.cols() == 2;
    let errors = probabilities.iter_rows().zip(classes).map(|(row, class)| {
        let places = row.iter().enumerate().skip(usize::from(two));
        places
            .map(|(at, p)| (p - f64::from(u8::from(at == *class))).powi(2))
            .sum::<f64>()
    });
    Ok(errors.sum::<f64>() / classes.len() as f64)
}

/// How well one class is found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassFigures {
    /// The rows of the class.
    pub rows: u64,
    /// The share of rows called so that are; absent when none are called so.
    pub precision: Option<f64>,
    /// The share of the class's rows called so; absent when there are none.
    pub recall: Option<f64>,
    /// The harmonic mean of both; absent when one is.
    pub f1: Option<f64>,
}

/// Which classes are taken for which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    /// `counts[true class][class found]`.
    pub counts: Vec<Vec<u64>>,
    /// The share of rows on the diagonal.
    pub accuracy: f64,
    /// The mean of the classes' recalls: accuracy where all classes count the same.
    pub balanced_accuracy: f64,
    /// One for each class.
    pub classes: Vec<ClassFigures>,
}

/// Counts true classes against those found.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when lengths differ, there are no rows, or a class is 65,536 or more.
pub fn confusion(expected: &[usize], found: &[usize]) -> Result<Confusion> {
    let invalid = |message: &'static str| Err(Error::invalid(message).operation("metrics.confusion"));
    if expected.len() != found.len() {
        return invalid("the two lists of classes differ in length");
    }
    if expected.is_empty() {
        return invalid("there are no rows to judge on");
    }
    let size = expected
        .iter()
        .chain(found)
        .max()
        .map_or(0, |max| max.saturating_add(1));
    if size > 4096 {
        return invalid("more classes than a table can show");
    }
    let mut counts = vec![vec![0_u64; size]; size];
    for (a, b) in expected.iter().zip(found) {
        if let Some(count) = counts.get_mut(*a).and_then(|line| line.get_mut(*b)) {
            *count += 1;
        }
    }
    let share = |part: u64, all: u64| (all > 0).then(|| part as f64 / all as f64);
    let classes: Vec<ClassFigures> = (0..size)
        .map(|class| {
            let rows: u64 = counts.get(class).map_or(0, |line| line.iter().sum());
            let called: u64 = counts.iter().filter_map(|line| line.get(class)).sum();
            let right = counts
                .get(class)
                .and_then(|line| line.get(class))
                .copied()
                .unwrap_or(0);
            let (precision, recall) = (share(right, called), share(right, rows));
            let f1 = precision
                .zip(recall)
                .map(|(p, r)| if p + r > 0.0 { 2.0 * p * r / (p + r) } else { 0.0 });
            ClassFigures {
                rows,
                precision,
                recall,
                f1,
            }
        })
        .collect();
    let right: u64 = counts
        .iter()
        .enumerate()
        .filter_map(|(at, line)| line.get(at))
        .sum();
    let recalls: Vec<f64> = classes.iter().filter_map(|class| class.recall).collect();
    Ok(Confusion {
        accuracy: right as f64 / expected.len() as f64,
        balanced_accuracy: recalls.iter().sum::<f64>() / recalls.len().max(1) as f64,
        counts,
        classes,
    })
}
