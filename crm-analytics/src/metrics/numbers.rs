use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// How near foretold numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NumberScores {
    /// The share of the variance explained: 1 is perfect, 0 as good as the mean, below worse. Absent when all true values
    /// are equal.
    pub r2: Option<f64>,
    /// The root of the mean squared error, in the values' unit.
    pub rmse: f64,
    /// The mean absolute error, in the values' unit.
    pub mae: f64,
    /// The number of rows.
    pub rows: usize,
}

/// Compares foretold numbers with true ones.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when lengths differ, there are no rows, or a number is not finite or too large to be
/// squared.
pub fn number_scores(expected: &[f64], found: &[f64]) -> Result<NumberScores> {
    let invalid = |message: &'static str| Err(Error::invalid(message).operation("metrics.number_scores"));
    if expected.len() != found.len() {
        return invalid("the two lists of numbers differ in length");
    }
    if expected.is_empty() {
        return invalid("there are no rows to judge on");
    }
    let rows = expected.len() as f64;
    let mean = expected.iter().sum::<f64>() / rows;
    let total: f64 = expected.iter().map(|value| (value - mean) * (value - mean)).sum();
    let squares: f64 = expected.iter().zip(found).map(|(a, b)| (a - b) * (a - b)).sum();
    let absolute: f64 = expected.iter().zip(found).map(|(a, b)| (a - b).abs()).sum();
    if !total.is_finite() || !squares.is_finite() {
        return invalid("a number is not finite, or too large to be squared");
    }
    Ok(NumberScores {
        r2: (total > 0.0).then(|| 1.0 - squares / total),
        rmse: (squares / rows).sqrt(),
        mae: absolute / rows,
        rows: expected.len(),
    })
}
