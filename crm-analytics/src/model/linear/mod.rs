//! Models whose margin is a weighted sum of the columns.

mod fit;
mod logistic;
mod ridge;
mod solve;

pub use logistic::{LogisticConfig, LogisticModel, LogisticRegression};
pub use ridge::{RidgeConfig, RidgeModel, RidgeRegression};

use crm_core::Matrix;

/// The largest power of two that is not above a number; 1 for what is too small to matter.
fn power_below(value: f64) -> f64 {
    if value.is_normal() {
        // The bits of the exponent alone.
        f64::from_bits(value.abs().to_bits() & !((1 << 52) - 1))
    } else {
        1.0
    }
}

/// Columns with mean 0 and deviation 1 (weighted); constant ones are left out.
struct Standardised {
    /// Row after row, of the columns kept.
    data: Vec<f64>,
    /// Which columns were kept.
    kept: Vec<usize>,
    /// Of all columns.
    means: Vec<f64>,
    /// Of all columns; 0 for constant ones.
    deviations: Vec<f64>,
}

impl Standardised {
    fn new(x: &Matrix, weights: Option<&[f64]>) -> Self {
        // By a power of two, which loses no bit: a weight of 1e300 times a value is more than a number holds.
        let unit = weights.map_or(1.0, |w| power_below(w.iter().copied().fold(0.0, f64::max)));
        let weight = |row: usize| weights.map_or(1.0, |w| w.get(row).copied().unwrap_or(0.0) / unit);
        let total: f64 = (0..x.rows()).map(weight).sum();
        let mut means = vec![0.0; x.cols()];
        for (at, row) in x.iter_rows().enumerate() {
            means
                .iter_mut()
                .zip(row)
                .for_each(|(sum, value)| *sum += weight(at) * value);
        }
        means.iter_mut().for_each(|sum| *sum /= total);
        let mut deviations = vec![0.0; x.cols()];
        for (at, row) in x.iter_rows().enumerate() {
            for ((sum, value), mean) in deviations.iter_mut().zip(row).zip(&means) {
                *sum += weight(at) * (value - mean) * (value - mean);
            }
        }
        for (deviation, mean) in deviations.iter_mut().zip(&means) {
            *deviation = (*deviation / total).sqrt();
            // What rounding leaves of a constant column is no spread.
            if *deviation <= 1e-13 * mean.abs() {
                *deviation = 0.0;
            }
        }
        let kept: Vec<usize> = deviations
            .iter()
            .enumerate()
            .filter(|(_, d)| **d > 0.0)
            .map(|(at, _)| at)
            .collect();
        let mut data = Vec::with_capacity(x.rows() * kept.len());
        for row in x.iter_rows() {
            let columns = row.iter().zip(&means).zip(&deviations).filter(|(_, d)| **d > 0.0);
            data.extend(columns.map(|((value, mean), deviation)| (value - mean) / deviation));
        }
        Self {
            data,
            kept,
            means,
            deviations,
        }
    }

    /// Intercept and coefficients in the columns' own units.
    fn restore(&self, intercept: f64, coefficients: &[f64]) -> (f64, Vec<f64>) {
        let mut own = vec![0.0; self.means.len()];
        let mut intercept = intercept;
        for (column, coefficient) in self.kept.iter().zip(coefficients) {
            let deviation = self.deviations.get(*column).copied().unwrap_or(1.0);
            let value = coefficient / deviation;
            intercept -= value * self.means.get(*column).copied().unwrap_or(0.0);
            if let Some(place) = own.get_mut(*column) {
                *place = value;
            }
        }
        (intercept, own)
    }
}
