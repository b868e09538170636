use crm_core::capability::ClusterModel;
use crm_core::matrix::check_row;
use crm_core::{Error, Matrix, Result};
use serde::{Deserialize, Serialize};

use super::parallel::each;
use super::{check_out, matrix_data, read_model, unsound, write_model};

/// A mixture found by [`super::GaussianMixture`] or [`super::LinfaGaussianMixture`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureModel {
    weights: Vec<f64>,
    #[serde(with = "matrix_data")]
    means: Matrix,
    /// Group after group, row after row.
    covariances: Vec<f64>,
    sizes: Vec<usize>,
    log_likelihood: f64,
    rows: usize,
    iterations: usize,
    /// Of each group the inverse of its covariance's lower factor, and the logarithm of weight and height.
    #[serde(skip)]
    inverses: Vec<f64>,
    #[serde(skip)]
    heights: Vec<f64>,
}

impl MixtureModel {
    pub(super) const KIND: &'static str = "gaussian-mixture";

    pub(super) fn of(weights: Vec<f64>, means: Matrix, covariances: Vec<f64>) -> Result<Self> {
        let mut model = Self {
            sizes: vec![0; weights.len()],
            weights,
            means,
            covariances,
            log_likelihood: 0.0,
            rows: 0,
            iterations: 0,
            inverses: Vec::new(),
            heights: Vec::new(),
        };
        model.prepare()?;
        Ok(model)
    }

    /// Notes how likely the rows are, and after how many rounds.
    pub(super) fn reached(&mut self, log_likelihood: f64, iterations: usize) {
        (self.log_likelihood, self.iterations) = (log_likelihood, iterations);
    }

    /// What densities are computed from.
    #[allow(
        clippy::indexing_slicing,
        reason = "the covariances have groups times columns squared places"
    )]
    fn prepare(&mut self) -> Result<()> {
        let cols = self.means.cols();
        let size = cols * cols;
        self.inverses.clear();
        self.heights.clear();
        for (covariance, weight) in self.covariances.chunks_exact(size).zip(&self.weights) {
            let flat = || {
                Error::invalid("a group of the mixture is flat; allow more variance or drop columns that depend on others")
                    .operation("mixture.fit")
            };
            // As multiples of the columns' own deviations, so that units do not matter.
            let scales: Vec<f64> = (0..cols).map(|i| covariance[i * cols + i].sqrt()).collect();
            if scales.iter().any(|scale| !scale.is_finite() || *scale <= 0.0) {
                return Err(flat());
            }
            let mut lower = vec![0.0; size];
            for i in 0..cols {
                for j in 0..=i {
                    let mut sum = covariance[i * cols + j] / scales[i] / scales[j];
                    for t in 0..j {
                        sum -= lower[i * cols + t] * lower[j * cols + t];
                    }
                    lower[i * cols + j] = if i == j {
                        sum.sqrt()
                    } else {
                        sum / lower[j * cols + j]
                    };
                }
                if !lower[i * cols + i].is_finite() || lower[i * cols + i] <= 0.0 {
                    return Err(flat());
                }
            }
            let mut inverse = vec![0.0; size];
            for column in 0..cols {
                for i in column..cols {
                    let mut sum = f64::from(u8::from(i == column));
                    for t in column..i {
                        sum -= lower[i * cols + t] * inverse[t * cols + column];
                    }
                    inverse[i * cols + column] = sum / lower[i * cols + i];
                }
            }
            for i in 0..cols {
                for j in 0..=i {
                    inverse[i * cols + j] /= scales[j];
                }
            }
            let volume: f64 = (0..cols).map(|i| lower[i * cols + i].ln() + scales[i].ln()).sum();
            self.inverses.extend(inverse);
            self.heights
                .push(weight.ln() - volume - 0.5 * cols as f64 * (2.0 * std::f64::consts::PI).ln());
        }
        Ok(())
    }

    /// The logarithm of weight times density of a group.
    fn log_density(&self, group: usize, row: &[f64]) -> f64 {
        let cols = self.means.cols();
        let mean = self.means.row(group);
        let inverse = self
            .inverses
            .get(group * cols * cols..(group + 1) * cols * cols)
            .unwrap_or_default();
        let mut square = 0.0;
        for (i, line) in inverse.chunks_exact(cols).enumerate() {
            let along: f64 = line
                .iter()
                .zip(row.iter().zip(mean))
                .take(i + 1)
                .map(|(p, (value, mean))| p * (value - mean))
                .sum();
            square += along * along;
        }
        self.heights.get(group).copied().unwrap_or(f64::NEG_INFINITY) - 0.5 * square
    }

    /// The rows' shares in the groups; answers the log-likelihood.
    pub(super) fn expect(&self, x: &Matrix, shares: &mut [f64], threads: usize) -> f64 {
        let k = self.weights.len();
        let items: Vec<_> = shares
            .chunks_mut(k * super::parallel::STRETCH)
            .enumerate()
            .collect();
        let parts = each(items, threads, |(stretch, shares)| {
            let from = stretch * super::parallel::STRETCH;
            let mut sum = 0.0;
            for (at, shares) in shares.chunks_exact_mut(k).enumerate() {
                sum += self.share(x.row(from + at), shares);
            }
            sum
        });
        parts.iter().sum()
    }

    /// A row's share in each group; answers the logarithm of its density.
    fn share(&self, row: &[f64], out: &mut [f64]) -> f64 {
        let mut largest = f64::NEG_INFINITY;
        for (group, place) in out.iter_mut().enumerate() {
            *place = self.log_density(group, row);
            largest = largest.max(*place);
        }
        if largest == f64::NEG_INFINITY {
            // Farther than a number holds from all groups.
            out.fill(1.0 / self.weights.len() as f64);
            return largest;
        }
        let mut sum = 0.0;
        for place in out.iter_mut() {
            *place = (*place - largest).exp();
            sum += *place;
        }
        out.iter_mut().for_each(|place| *place /= sum);
        largest + sum.ln()
    }

    /// Groups in order, sizes counted.
    pub(super) fn finished(mut self, x: &Matrix) -> Result<Self> {
        let size = self.means.cols() * self.means.cols();
        let mut order: Vec<usize> = (0..self.weights.len()).collect();
        let weight = |at: &usize| self.weights.get(*at).copied().unwrap_or(0.0);
        order.sort_by(|a, b| {
            weight(b)
                .total_cmp(&weight(a))
                .then_with(|| super::by_values(self.means.row(*a), self.means.row(*b)))
        });
        let weights = order.iter().map(weight).collect();
        let means = order
            .iter()
            .flat_map(|at| self.means.row(*at).iter().copied())
            .collect();
        let covariances = order
            .iter()
            .flat_map(|at| {
                self.covariances
                    .get(at * size..(at + 1) * size)
                    .unwrap_or_default()
                    .iter()
                    .copied()
            })
            .collect();
        self.means = Matrix::new(x.columns().to_vec(), means)?;
        (self.weights, self.covariances, self.rows) = (weights, covariances, x.rows());
        self.prepare()?;
        self.sizes = crate::metrics::sizes(&self.predict(x)?, self.weights.len());
        Ok(self)
    }

    /// The same with its log-likelihood on `x`, which it was learned from elsewhere.
    pub(super) fn judged(mut self, x: &Matrix) -> Result<Self> {
        let mut shares = vec![0.0; x.rows() * self.weights.len()];
        self.log_likelihood = self.expect(x, &mut shares, 1);
        if !self.log_likelihood.is_finite() {
            return Err(Error::invalid(
                "the values are too far apart for a mixture; scale or clip the columns first",
            )
            .operation("mixture.fit"));
        }
        self.finished(x)
    }

    /// Reads a model written by [`ClusterModel::to_json`].
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Corrupt`] when it is none, of another kind or format, or its parts do not fit.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let mut model: Self = read_model(Self::KIND, json)?;
        let (k, cols) = (model.means.rows(), model.means.cols());
        if k == 0
            || model.weights.len() != k
            || model.sizes.len() != k
            || model.covariances.len() != k * cols * cols
            || model
                .weights
                .iter()
                .any(|weight| weight.is_nan() || *weight <= 0.0)
            || model.prepare().is_err()
        {
            return Err(unsound());
        }
        Ok(model)
    }

    /// The share of each group.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }
    /// The covariance of a group, row after row; nothing when there is no such group.
    pub fn covariance(&self, group: usize) -> &[f64] {
        let size = self.means.cols() * self.means.cols();
        self.covariances
            .get(group * size..(group + 1) * size)
            .unwrap_or_default()
    }
    /// The number of rows whose likeliest group each is.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }
    /// The rounds it took.
    pub fn iterations(&self) -> usize {
        self.iterations
    }
    /// The logarithm of the likelihood of the rows it was learned from.
    pub fn log_likelihood(&self) -> f64 {
        self.log_likelihood
    }
    /// Schwarz's criterion for full covariances: the number of groups with the least is the one to take.
    pub fn bic(&self) -> f64 {
        let (k, d) = (self.weights.len() as f64, self.means.cols() as f64);
        let parameters = k * d * (d + 1.0) / 2.0 + k * d + k - 1.0;
        parameters * (self.rows as f64).ln() - 2.0 * self.log_likelihood
    }

    /// The probability that a row belongs to each group, into `out`.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when the row or `out` has another length, or a value is not finite.
    pub fn responsibilities_row(&self, row: &[f64], out: &mut [f64]) -> Result<()> {
        check_row(self.means.columns(), row)?;
        check_out(self.weights.len(), out)?;
        self.share(row, out);
        Ok(())
    }
}

impl ClusterModel for MixtureModel {
    fn columns(&self) -> &[String] {
        self.means.columns()
    }
    fn clusters(&self) -> usize {
        self.weights.len()
    }
    fn assign_row(&self, row: &[f64]) -> Result<Option<usize>> {
        check_row(self.means.columns(), row)?;
        let mut best = (0, f64::NEG_INFINITY);
        for group in 0..self.weights.len() {
            let density = self.log_density(group, row);
            if density > best.1 {
                best = (group, density);
            }
        }
        Ok(Some(best.0))
    }
    fn centers(&self) -> Option<&Matrix> {
        Some(&self.means)
    }
    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}
