use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{ReduceModel, Reducer};
use crm_core::{Error, ErrorKind, Health, Matrix, Provider, ProviderInfo, Result};
use linfa_linalg::eigh::{EigSort, Eigh};
use ndarray::{Array1, Array2};
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
/// The covariance matrix is taken apart by the symmetric eigen decomposition of linfa's linear algebra. The result is
/// checked against the matrix; where it fails, Jacobi's rotations take its place. `linfa-reduction` 0.8.1 is not used: its iterative solver silently answers wrong
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
        Ok(Self {
            info: ProviderInfo::new("linfa-pca", "pca"),
            config,
        })
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
        let invalid = |message: &'static str| {
            Err(Error::invalid(message)
                .operation("pca.fit")
                .with("rows", x.rows()))
        };
        if x.rows() < 2 {
            return invalid("principal components need at least 2 rows");
        }
        let cols = x.cols();
        let means: Vec<f64> = (0..cols)
            .map(|col| x.iter_col(col).sum::<f64>() / x.rows() as f64)
            .collect();
        let covariance = covariance(x, &means);
        let total: f64 = covariance.diag().sum();
        if !total.is_finite() {
            return invalid("the values are too large to square; scale the columns first");
        }
        if total <= 0.0 {
            return invalid("all rows are equal: nothing varies");
        }
        // As shares of the total, so that neither tiny nor huge units are lost within.
        let shares = covariance.mapv(|v| v / total);
        let linfas = guarded("pca.fit", || Ok(shares.eigh().map_err(classify)?.sort_eig_desc()));
        let (values, vectors) = match linfas {
            Ok(found) if verify(&shares, &found).is_ok() => found,
            // It gives up, or answers nonsense, on some matrices whose entries differ by many orders of magnitude.
            _ => jacobi(&shares),
        };
        let found = (values, vectors);
        verify(&shares, &found)?;
        let (values, vectors) = found;
        let kept = self.config.components.min(cols);
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
            means,
            components: Matrix::new(x.columns().to_vec(), rows)?,
            variances: ratios.iter().map(|ratio| ratio * total).collect(),
            ratios,
        })
    }
}

/// The sample covariance of the columns (divided by rows - 1), from centred values.
fn covariance(x: &Matrix, means: &[f64]) -> Array2<f64> {
    let cols = x.cols();
    let mut sums = vec![0.0; cols * cols];
    let mut centred = vec![0.0; cols];
    for row in x.iter_rows() {
        centred
            .iter_mut()
            .zip(row.iter().zip(means))
            .for_each(|(c, (v, m))| *c = v - m);
        for (sums, a) in sums.chunks_exact_mut(cols).zip(&centred) {
            sums.iter_mut().zip(&centred).for_each(|(sum, b)| *sum += a * b);
        }
    }
    let n = (x.rows() - 1) as f64;
    Array2::from_shape_fn((cols, cols), |(i, j)| {
        sums.get(i * cols + j).copied().unwrap_or(0.0) / n
    })
}

/// `C v = value v` and unit length for every pair, and the values sum to the trace, which is 1.
fn verify(shares: &Array2<f64>, (values, vectors): &(Array1<f64>, Array2<f64>)) -> Result<()> {
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-8;
    let mut right = values.len() == shares.nrows() && near(values.sum(), 1.0);
    for (value, vector) in values.iter().zip(vectors.columns()) {
        let image = shares.dot(&vector);
        right &= near(vector.dot(&vector), 1.0);
        right &= image.iter().zip(vector).all(|(a, b)| near(*a, value * b));
    }
    if right {
        return Ok(());
    }
    Err(Error::unexpected("the eigen decomposition failed its check; please report it").operation("pca.fit"))
}

/// Eigenvalues, the largest first, and vectors of a symmetric matrix by rotations (Jacobi 1846; Golub and Van Loan,
/// Matrix Computations, 8.5): slower, but at home with any spread of entries.
#[allow(
    clippy::indexing_slicing,
    reason = "every index runs below the size of the square matrix"
)]
fn jacobi(matrix: &Array2<f64>) -> (Array1<f64>, Array2<f64>) {
    let n = matrix.nrows();
    let mut a = matrix.clone();
    let mut vectors = Array2::eye(n);
    for _sweep in 0..60 {
        let off: f64 = a
            .indexed_iter()
            .filter(|((i, j), _)| i != j)
            .map(|(_, v)| v.abs())
            .sum();
        if off <= 1e-16 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[[p, q]] == 0.0 {
                    continue;
                }
                let theta = (a[[q, q]] - a[[p, p]]) / (2.0 * a[[p, q]]);
                let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                let sine = tangent * cosine;
                for k in 0..n {
                    let (x, y) = (a[[k, p]], a[[k, q]]);
                    (a[[k, p]], a[[k, q]]) = (cosine * x - sine * y, sine * x + cosine * y);
                }
                for k in 0..n {
                    let (x, y) = (a[[p, k]], a[[q, k]]);
                    (a[[p, k]], a[[q, k]]) = (cosine * x - sine * y, sine * x + cosine * y);
                }
                for k in 0..n {
                    let (x, y) = (vectors[[k, p]], vectors[[k, q]]);
                    (vectors[[k, p]], vectors[[k, q]]) = (cosine * x - sine * y, sine * x + cosine * y);
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| a[[*j, *j]].total_cmp(&a[[*i, *i]]));
    (
        order.iter().map(|i| a[[*i, *i]]).collect(),
        vectors.select(ndarray::Axis(1), &order),
    )
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
            return Err(
                Error::new(ErrorKind::Corrupt, "the model's parts do not fit each other")
                    .operation("model.read"),
            );
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
                row.iter()
                    .zip(&self.means)
                    .zip(direction)
                    .map(|((v, m), d)| (v - m) * d)
                    .sum::<f64>()
            }));
        }
        Matrix::new(
            (1..=self.components.rows())
                .map(|i| format!("component_{i}"))
                .collect(),
            values,
        )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_agree_with_linfa_and_hold_where_it_does_not() {
        let plain = ndarray::array![[0.5, 0.2, 0.1], [0.2, 0.3, -0.1], [0.1, -0.1, 0.2]];
        let ours = jacobi(&plain);
        verify(&plain, &ours).unwrap();
        let theirs = plain.eigh().unwrap().sort_eig_desc();
        assert!(ours.0.iter().zip(&theirs.0).all(|(a, b)| (a - b).abs() < 1e-12));
        let spread = ndarray::array![
            [1.0, 1e-140, 1e-75],
            [1e-140, 1e-280, 1e-220],
            [1e-75, 1e-220, 1e-150]
        ];
        verify(&spread, &jacobi(&spread)).unwrap();
        let wrong = (theirs.0, ndarray::Array2::eye(3));
        assert!(verify(&plain, &wrong).is_err(), "the check can fail");
    }
}
