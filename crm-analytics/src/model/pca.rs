use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{ReduceModel, Reducer};
use crm_core::{Error, ErrorKind, Health, Matrix, Provider, ProviderInfo, Result};
use linfa_linalg::eigh::{EigSort, Eigh};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::{classify, guarded, matrix_data, read_model, same_columns, write_model};

/// How [`LinfaPca`] works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PcaConfig {
    /// How many directions to keep; fewer when there are fewer columns. 2 unless said otherwise.
    pub components: usize,
}

impl Default for PcaConfig {
    fn default() -> Self {
        Self { components: 2 }
    }
}

/// Principal components: the directions in which the rows differ most.
///
/// The covariance matrix is taken apart by the symmetric eigen decomposition of linfa's linear algebra, and each result
/// is checked against the matrix. `linfa-reduction` 0.8.1 is not used: its iterative solver silently answers wrong
/// directions for many shapes, and panics on dependent columns. Shares are of the **total** variance, so that those of
/// the kept directions sum to less than 1; the largest entry of each direction is positive, so that a picture does not
/// flip. Columns are centred, not scaled: scale them first when their units differ.
#[derive(Debug, Clone)]
pub struct LinfaPca {
    info: ProviderInfo,
    config: PcaConfig,
}

impl LinfaPca {
    /// A provider named `pca`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when no direction is asked for.
    pub fn new(config: PcaConfig) -> Result<Self> {
        if config.components == 0 {
            return Err(Error::config("at least one direction must be kept").with("setting", "components"));
        }
        Ok(Self { info: ProviderInfo::new("linfa-pca", "pca"), config })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`LinfaPca::new`].
    pub fn shared(config: PcaConfig) -> Result<Arc<dyn Reducer>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Learns directions, as [`Reducer::fit`], and answers the model by its own type.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with fewer than 2 rows or when nothing varies.
    pub fn learn(&self, x: &Matrix) -> Result<PcaModel> {
        let invalid = |message: &'static str| Err(Error::invalid(message).operation("pca.fit").with("rows", x.rows()));
        if x.rows() < 2 {
            return invalid("principal components need at least 2 rows");
        }
        let cols = x.cols();
        let means: Vec<f64> = (0..cols).map(|col| x.iter_col(col).sum::<f64>() / x.rows() as f64).collect();
        let covariance = covariance(x, &means);
        let total: f64 = covariance.diag().sum();
        if !total.is_finite() {
            return invalid("the values are too large to square; scale the columns first");
        }
        if total <= 0.0 {
            return invalid("all rows are equal: nothing varies");
        }
        let (values, vectors) = guarded("pca.fit", || {
            Ok(covariance.eigh().map_err(classify)?.sort_eig_desc())
        })?;
        verify(&covariance, total, values.as_slice().unwrap_or_default(), &vectors)?;
        let kept = self.config.components.min(cols);
        let mut rows = Vec::with_capacity(kept * cols);
        let mut variances = Vec::with_capacity(kept);
        for (value, vector) in values.iter().zip(vectors.columns()).take(kept) {
            // Rounding may leave a zero slightly below zero.
            variances.push(value.max(0.0));
            let strongest = vector.iter().copied().fold(0.0_f64, |best, v| {
                // The first of entries that are equal but for rounding decides.
                if v.abs() > best.abs() * (1.0 + 1e-9) { v } else { best }
            });
            let sign = if strongest < 0.0 { -1.0 } else { 1.0 };
            rows.extend(vector.iter().map(|v| v * sign));
        }
        Ok(PcaModel {
            means,
            components: Matrix::new(x.columns().to_vec(), rows)?,
            ratios: variances.iter().map(|v| v / total).collect(),
            variances,
        })
    }
}

/// The sample covariance of the columns (divided by rows - 1), from centred values.
fn covariance(x: &Matrix, means: &[f64]) -> Array2<f64> {
    let cols = x.cols();
    let mut sums = vec![0.0; cols * cols];
    let mut centred = vec![0.0; cols];
    for row in x.iter_rows() {
        centred.iter_mut().zip(row.iter().zip(means)).for_each(|(c, (v, m))| *c = v - m);
        for (sums, a) in sums.chunks_exact_mut(cols).zip(&centred) {
            sums.iter_mut().zip(&centred).for_each(|(sum, b)| *sum += a * b);
        }
    }
    let n = (x.rows() - 1) as f64;
    Array2::from_shape_fn((cols, cols), |(i, j)| sums.get(i * cols + j).copied().unwrap_or(0.0) / n)
}

/// `C v = value v` and unit length for every pair, and the values sum to the total variance.
fn verify(covariance: &Array2<f64>, total: f64, values: &[f64], vectors: &Array2<f64>) -> Result<()> {
    let near = |a: f64, b: f64, scale: f64| (a - b).abs() <= 1e-8 * scale;
    let mut right = values.len() == covariance.nrows() && near(values.iter().sum(), total, total);
    for (value, vector) in values.iter().zip(vectors.columns()) {
        let image = covariance.dot(&vector);
        right &= near(vector.dot(&vector), 1.0, 1.0);
        right &= image.iter().zip(vector).all(|(a, b)| near(*a, value * b, total));
    }
    if right {
        return Ok(());
    }
    Err(Error::unexpected("the eigen decomposition failed its check; please report it").operation("pca.fit"))
}

#[async_trait]
impl Provider for LinfaPca {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Reducer for LinfaPca {
    fn fit(&self, x: &Matrix) -> Result<Box<dyn ReduceModel>> {
        Ok(Box::new(self.learn(x)?))
    }
}

/// Directions found by [`LinfaPca`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PcaModel {
    means: Vec<f64>,
    #[serde(with = "matrix_data")]
    components: Matrix,
    variances: Vec<f64>,
    ratios: Vec<f64>,
}

impl PcaModel {
    const KIND: &'static str = "pca";

    /// Reads a model written by [`ReduceModel::to_json`].
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is none, of another kind or another format.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let model: Self = read_model(Self::KIND, json)?;
        let directions = model.components.rows();
        if model.means.len() != model.components.cols()
            || model.variances.len() != directions
            || model.ratios.len() != directions
        {
            return Err(Error::new(ErrorKind::Corrupt, "the model's parts do not fit each other").operation("model.read"));
        }
        Ok(model)
    }

    /// The variance along each direction, in squared units of the columns.
    pub fn variances(&self) -> &[f64] {
        &self.variances
    }
}

impl ReduceModel for PcaModel {
    fn transform(&self, x: &Matrix) -> Result<Matrix> {
        same_columns("pca.transform", self.components.columns(), x)?;
        let mut values = Vec::with_capacity(x.rows() * self.components.rows());
        for row in x.iter_rows() {
            values.extend(self.components.iter_rows().map(|direction| {
                row.iter().zip(&self.means).zip(direction).map(|((v, m), d)| (v - m) * d).sum::<f64>()
            }));
        }
        Matrix::new((1..=self.components.rows()).map(|i| format!("component_{i}")).collect(), values)
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
