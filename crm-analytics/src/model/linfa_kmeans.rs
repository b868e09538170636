use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{ClusterModel, Clusterer};
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_clustering::KMeans;

use super::kmeans::{KMeansConfig, KMeansModel, State, settled};
use super::{as_array, classify, guarded, has_distinct_rows, squarable};
use crate::sample::{generator, sample_rows, take_rows};

/// linfa's k-means, for those who want that very one; [`super::KMeans`] is faster and takes weights.
///
/// linfa's k-means++ (Arthur and Vassilvitskii 2007) finds the starting centres, several times, on a sample. From each,
/// the rounds of [`super::KMeans`] go on, and the best goes on over all rows: linfa 0.8.1 stops before no row changes its
/// group, mixes up the sizes of its runs and answers the inertia of the round before last.
#[derive(Debug, Clone)]
pub struct LinfaKMeans {
    info: ProviderInfo,
    config: KMeansConfig,
}

impl LinfaKMeans {
    /// A provider named `linfa-kmeans`.
    ///
    /// # Errors
    /// As [`KMeansConfig::validate`].
    pub fn new(config: KMeansConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("linfa-kmeans", "linfa-kmeans"),
            config,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`LinfaKMeans::new`].
    pub fn shared(config: KMeansConfig) -> Result<Arc<dyn Clusterer>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Learns groups, as [`Clusterer::fit`], and answers the model by its own type.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when there are fewer different rows than groups.
    pub fn learn(&self, x: &Matrix, seed: u64) -> Result<KMeansModel> {
        let clusters = self.config.clusters;
        squarable("kmeans.fit", x)?;
        if x.rows() < clusters || !has_distinct_rows(x, clusters) {
            return Err(Error::invalid(
                "there are fewer different rows than groups asked for; ask for fewer groups",
            )
            .operation("kmeans.fit")
            .with("clusters", clusters)
            .with("rows", x.rows()));
        }
        let rows = sample_rows(x.rows(), self.config.start_rows.max(clusters), seed, 1);
        let sampled = rows.len() < x.rows();
        let mut sample = take_rows(x, &rows)?;
        if sampled && !has_distinct_rows(&sample, clusters) {
            sample = x.clone();
        }
        let mut best: Option<State> = None;
        let array = as_array(&sample)?;
        let dataset = DatasetBase::from(array);
        for start in 0..self.config.starts as u64 {
            let centers = guarded("kmeans.fit", || {
                let model = KMeans::params_with_rng(clusters, generator(seed, 100 + start))
                    .n_runs(1)
                    .max_n_iterations(self.config.max_iterations as u64)
                    .fit(&dataset)
                    .map_err(classify)?;
                Ok(model.centroids().iter().copied().collect::<Vec<f64>>())
            })?;
            let found = settled(&sample, centers, self.config.max_iterations);
            if best.as_ref().is_none_or(|best| found.inertia < best.inertia) {
                best = Some(found);
            }
        }
        let mut best =
            best.ok_or_else(|| Error::unexpected("k-means made no start").operation("kmeans.fit"))?;
        if sample.rows() < x.rows() {
            best = settled(x, best.centers, self.config.max_iterations);
        }
        KMeansModel::from_state(x, best, seed, self.config.starts)
    }
}

#[async_trait]
impl Provider for LinfaKMeans {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Clusterer for LinfaKMeans {
    fn fit(&self, x: &Matrix, seed: u64) -> Result<Box<dyn ClusterModel>> {
        Ok(Box::new(self.learn(x, seed)?))
    }

    fn with_clusters(&self, clusters: usize) -> Option<Box<dyn Clusterer>> {
        let config = KMeansConfig {
            clusters,
            ..self.config.clone()
        };
        config.validate().ok()?;
        Some(Box::new(Self {
            info: self.info.clone(),
            config,
        }))
    }
}
