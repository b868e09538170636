use crm_core::capability::{ClassifierModel, RegressorModel};
use crm_core::{Error, Matrix, Result};
use serde::{Deserialize, Serialize};

use crate::metrics::{log_loss, number_scores};
use crate::sample::{generator, shuffle};

/// What a model loses when a column is mixed up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnImportance {
    /// The column.
    pub column: String,
    /// How much the log loss (of classes) or the root mean squared error (of numbers) rises, on average.
    pub loss: f64,
    /// The spread over the repeats (n - 1).
    pub deviation: f64,
}

fn permuted(
    x: &Matrix,
    repeats: usize,
    seed: u64,
    judge: &mut dyn FnMut(&Matrix) -> Result<f64>,
) -> Result<Vec<ColumnImportance>> {
    if repeats == 0 || x.rows() < 2 {
        return Err(
            Error::invalid("columns are mixed up at least once, over at least 2 rows")
                .operation("judge.permutation"),
        );
    }
    let whole = judge(x)?;
    let mut found = Vec::with_capacity(x.cols());
    for (at, column) in x.columns().iter().enumerate() {
        let mut losses = Vec::new();
        for repeat in 0..repeats {
            // A stream of its own for each column, so that columns do not depend on their order.
            let stream = at.wrapping_mul(repeats).wrapping_add(repeat) as u64;
            let mut random = generator(seed, stream.wrapping_add(0x9e_0000));
            let mut values: Vec<f64> = x.iter_col(at).collect();
            shuffle(&mut values, &mut random);
            let (columns, mut data) = x.clone().into_parts();
            data.iter_mut()
                .skip(at)
                .step_by(columns.len())
                .zip(values)
                .for_each(|(place, value)| *place = value);
            losses.push(judge(&Matrix::new(columns, data)?)? - whole);
        }
        let n = repeats as f64;
        let mean = losses.iter().sum::<f64>() / n;
        let squares: f64 = losses.iter().map(|loss| (loss - mean) * (loss - mean)).sum();
        found.push(ColumnImportance {
            column: column.clone(),
            loss: mean,
            deviation: (squares / (n - 1.0).max(1.0)).sqrt(),
        });
    }
    Ok(found)
}

/// How much the log loss rises when one column's values are dealt out anew by chance (Breiman 2001), column by column. Use
/// rows that the model has not seen. Columns that say the same stand in for each other and both look unimportant.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when columns or lengths do not fit, with fewer than 2 rows or no repeat.
pub fn permutation_importance(
    model: &dyn ClassifierModel,
    x: &Matrix,
    classes: &[usize],
    repeats: usize,
    seed: u64,
) -> Result<Vec<ColumnImportance>> {
    permuted(x, repeats, seed, &mut |x| {
        log_loss(&model.probabilities(x)?, classes)
    })
}

/// As [`permutation_importance`], by the root mean squared error of numbers.
///
/// # Errors
/// As [`permutation_importance`].
pub fn permutation_importance_of_numbers(
    model: &dyn RegressorModel,
    x: &Matrix,
    values: &[f64],
    repeats: usize,
    seed: u64,
) -> Result<Vec<ColumnImportance>> {
    permuted(x, repeats, seed, &mut |x| {
        Ok(number_scores(values, &model.predict(x)?)?.rmse)
    })
}
