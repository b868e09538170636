use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{ReduceModel, Reducer};
use crm_core::{Health, Matrix, Provider, ProviderInfo, Result};
use ndarray::Array2;

use super::column_means;
use super::eigen::by_linfa;
use super::pca::{PcaConfig, PcaModel, assemble};

/// Principal components by linfa's linear algebra, for those who want that very one; [`super::Pca`] is faster.
///
/// `linfa-reduction` 0.8.1 is not used: its iterative solver silently answers wrong directions for many shapes, panics on
/// dependent columns, and gives shares of what is kept. The covariance matrix is taken apart by the symmetric
/// decomposition of `linfa-linalg`; the result is checked against the matrix, and where it fails, Jacobi's rotations take
/// its place.
#[derive(Debug, Clone)]
pub struct LinfaPca {
    info: ProviderInfo,
    config: PcaConfig,
}

impl LinfaPca {
    /// A provider named `linfa-pca`.
    ///
    /// # Errors
    /// As [`PcaConfig::validate`].
    pub fn new(config: PcaConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("linfa-pca", "linfa-pca"),
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
    /// As [`super::Pca::learn`].
    pub fn learn(&self, x: &Matrix) -> Result<PcaModel> {
        assemble(&self.config, x, &column_means(x), covariance, by_linfa)
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
