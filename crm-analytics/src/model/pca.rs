use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{ReduceModel, Reducer};
use crm_core::matrix::check_row;
use crm_core::{Error, ErrorKind, Health, Matrix, Provider, ProviderInfo, Result};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::eigen::{Eigen, by_linfa, by_rotations};
use super::moments::moments;
use super::{matrix_data, read_model, write_model};

/// How [`Pca`] and [`super::LinfaPca`] work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PcaConfig {
    /// How many directions to keep; fewer when there are fewer columns. 2 unless said otherwise.
    pub components: usize,
    /// Whether columns are divided by their standard deviation (n - 1) first, as is right when their units differ; a
    /// constant column then stays 0. No unless said otherwise: cleaning plans scale.
    pub standardise: bool,
}

impl Default for PcaConfig {
    fn default() -> Self {
        Self {
            components: 2,
            standardise: false,
        }
    }
}

impl PcaConfig {
    /// So many directions of columns as they are.
    pub fn new(components: usize) -> Self {
        Self {
            components,
            ..Self::default()
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        if self.components == 0 {
            return Err(Error::config("at least one direction must be kept").with("setting", "components"));
        }
        Ok(())
    }
}

/// Principal components: the directions in which the rows differ most.
///
/// The covariance matrix is summed in stretches of rows and taken apart by Jacobi's rotations (with more than 64 columns by
/// a tridiagonal decomposition); every answer is checked against the matrix. Shares are of the **total** variance, so
/// that those of the kept directions sum to less than 1; the largest entry of each direction is positive, so that a
/// picture does not flip. The covariance squares: directions with less than about 1e-14 of the variance are noise.
#[derive(Debug, Clone)]
pub struct Pca {
    info: ProviderInfo,
    config: PcaConfig,
    threads: usize,
}

impl Pca {
    /// A provider named `pca`, on the caller's thread.
    ///
    /// # Errors
    /// As [`PcaConfig::validate`].
    pub fn new(config: PcaConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("pca", "pca"),
            config,
            threads: 1,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`Pca::new`].
    pub fn shared(config: PcaConfig) -> Result<Arc<dyn Reducer>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Lets a fit use so many threads while it lasts; the answer is the same to the last bit.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Learns directions, as [`Reducer::fit`], and answers the model by its own type.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with fewer than 2 rows, when nothing varies, or when values are too large to be squared.
    pub fn learn(&self, x: &Matrix) -> Result<PcaModel> {
        let (means, covariance) = moments(x, self.threads);
        let decompose = if x.cols() <= ROTATED {
            by_rotations
        } else {
            by_linfa
        };
        assemble(&self.config, x, &means, |_, _| covariance, decompose)
    }
}

/// Up to so many columns, rotations are fast enough.
const ROTATED: usize = 64;

/// The model from means, a covariance and its decomposition.
pub(super) fn assemble(
    config: &PcaConfig,
    x: &Matrix,
    means: &[f64],
    covariance: impl FnOnce(&Matrix, &[f64]) -> Array2<f64>,
    decompose: impl FnOnce(&Array2<f64>) -> Result<Eigen>,
) -> Result<PcaModel> {
    let invalid = |message: &'static str| {
        Err(Error::invalid(message)
            .operation("pca.fit")
            .with("rows", x.rows()))
    };
    if x.rows() < 2 {
        return invalid("principal components need at least 2 rows");
    }
    let cols = x.cols();
    let mut covariance = covariance(x, means);
    // What rounding leaves of a constant column is no spread.
    for (at, mean) in means.iter().enumerate() {
        let variance = covariance.get((at, at)).copied().unwrap_or(0.0);
        let mut values = x.iter_col(at);
        let first = values.next();
        if variance <= 1e-20 * mean * mean && values.all(|value| Some(value) == first) {
            covariance.row_mut(at).fill(0.0);
            covariance.column_mut(at).fill(0.0);
        }
    }
    if !covariance.iter().all(|v| v.is_finite()) {
        return invalid("the values are too large to square; scale the columns first");
    }
    let mut scales = Vec::new();
    if config.standardise {
        scales = covariance
            .diag()
            .iter()
            .zip(means)
            // What rounding leaves of a constant column is no spread.
            .map(|(variance, mean)| {
                let deviation = variance.sqrt();
                if deviation > 1e-14 * mean.abs() {
                    deviation
                } else {
                    0.0
                }
            })
            .collect::<Vec<f64>>();
        let inverse = |i: usize| scales.get(i).filter(|s| **s > 0.0).map_or(0.0, |s| 1.0 / s);
        for ((i, j), value) in covariance.indexed_iter_mut() {
            *value *= inverse(i) * inverse(j);
        }
    }
    let total: f64 = covariance.diag().sum();
    if !total.is_finite() {
        return invalid("the values are too large to square; scale the columns first");
    }
    if total <= 0.0 {
        return invalid("all rows are equal: nothing varies");
    }
    // As shares of the total, so that neither tiny nor huge units are lost within.
    let (values, vectors) = decompose(&covariance.mapv(|v| v / total))?;
    let kept = config.components.min(cols);
    let mut rows = Vec::with_capacity(kept * cols);
    let mut ratios: Vec<f64> = Vec::with_capacity(kept);
    for (value, vector) in values.iter().zip(vectors.columns()).take(kept) {
        // Rounding may leave a zero slightly below zero.
        ratios.push(value.max(0.0));
        let strongest = vector.iter().copied().fold(0.0_f64, |best, v| {
            // The first of entries that are equal but for rounding decides.
            if v.abs() > best.abs() * (1.0 + 1e-9) {
                v
            } else {
                best
            }
        });
        let sign = if strongest < 0.0 { -1.0 } else { 1.0 };
        rows.extend(vector.iter().map(|v| v * sign));
    }
    Ok(PcaModel {
        means: means.to_vec(),
        scales,
        components: Matrix::new(x.columns().to_vec(), rows)?,
        variances: ratios.iter().map(|ratio| ratio * total).collect(),
        ratios,
    })
}

#[async_trait]
impl Provider for Pca {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Reducer for Pca {
    fn fit(&self, x: &Matrix) -> Result<Box<dyn ReduceModel>> {
        Ok(Box::new(self.learn(x)?))
    }
}

/// Directions found by [`Pca`] or [`super::LinfaPca`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcaModel {
    means: Vec<f64>,
    /// Standard deviations; none when columns stay in their units.
    #[serde(default)]
    scales: Vec<f64>,
    #[serde(with = "matrix_data")]
    components: Matrix,
    variances: Vec<f64>,
    ratios: Vec<f64>,
}

impl PcaModel {
    pub(super) const KIND: &'static str = "pca";

    /// Reads a model written by [`ReduceModel::to_json`].
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is none, of another kind or another format.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let model: Self = read_model(Self::KIND, json)?;
        let directions = model.components.rows();
        let cols = model.components.cols();
        if model.means.len() != cols
            || !(model.scales.is_empty() || model.scales.len() == cols)
            || model.variances.len() != directions
            || model.ratios.len() != directions
        {
            return Err(
                Error::new(ErrorKind::Corrupt, "the model's parts do not fit each other")
                    .operation("model.read"),
            );
        }
        Ok(model)
    }

    /// The variance along each direction, in squared units of the columns (of standard deviations when standardised).
    pub fn variances(&self) -> &[f64] {
        &self.variances
    }

    /// The row that projects to `point`, one value a direction, as near as the kept directions can.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the point has another number of values than there are directions.
    pub fn restore_row(&self, point: &[f64]) -> Result<Vec<f64>> {
        if point.len() != self.components.rows() {
            return Err(
                Error::invalid("a point has as many values as there are directions")
                    .operation("pca.restore")
                    .with("directions", self.components.rows()),
            );
        }
        let mut row = vec![0.0; self.means.len()];
        for (value, direction) in point.iter().zip(self.components.iter_rows()) {
            row.iter_mut()
                .zip(direction)
                .for_each(|(sum, d)| *sum += value * d);
        }
        for (at, (value, mean)) in row.iter_mut().zip(&self.means).enumerate() {
            *value = *value * self.scales.get(at).copied().unwrap_or(1.0) + mean;
        }
        Ok(row)
    }
}

impl ReduceModel for PcaModel {
    fn project_row(&self, row: &[f64], out: &mut [f64]) -> Result<()> {
        check_row(self.components.columns(), row)?;
        if out.len() != self.components.rows() {
            return Err(Error::invalid(
                "the place for the answer has another length than there are directions",
            )
            .operation("pca.transform")
            .with("directions", self.components.rows()));
        }
        for (out, direction) in out.iter_mut().zip(self.components.iter_rows()) {
            let centred = row.iter().zip(&self.means).zip(direction);
            *out = if self.scales.is_empty() {
                centred.map(|((v, m), d)| (v - m) * d).sum()
            } else {
                let scaled = centred.zip(&self.scales).filter(|(_, scale)| **scale > 0.0);
                scaled.map(|(((v, m), d), scale)| (v - m) / scale * d).sum()
            };
        }
        if !out.iter().all(|value| value.is_finite()) {
            return Err(Error::invalid(
                "the row's values are too large to be projected; scale them as before fitting",
            )
            .operation("pca.transform"));
        }
        Ok(())
    }

    fn explained_ratio(&self) -> &[f64] {
        &self.ratios
    }

    fn components(&self) -> &Matrix {
        &self.components
    }

    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}
