//! linfa's other ways to groups, for those who want those very ones.

use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{ClusterModel, Clusterer};
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use linfa::DatasetBase;
use linfa::ParamGuard;
use linfa::traits::{Fit, Transformer};

use super::dbscan::{DbscanConfig, DbscanModel};
use super::mixture::{Covariance, MixtureConfig};
use super::mixture_model::MixtureModel;
use super::neighbours::Neighbours;
use super::{as_array, classify, guarded, has_distinct_rows, squarable};
use crate::sample::generator;

/// linfa's DBSCAN. Its groups are those of [`super::Dbscan`]; which rows are cores, which linfa does not say, is found out
/// here, and rows that are none belong to their nearest core.
#[derive(Debug, Clone)]
pub struct LinfaDbscan {
    info: ProviderInfo,
    config: DbscanConfig,
}

impl LinfaDbscan {
    /// A provider named `linfa-dbscan`.
    ///
    /// # Errors
    /// As [`DbscanConfig::validate`]; linfa also wants 2 or more rows for a core.
    pub fn new(config: DbscanConfig) -> Result<Self> {
        config.validate()?;
        if config.min_rows < 2 {
            return Err(Error::config("linfa wants at least 2 rows for a core").with("setting", "min_rows"));
        }
        Ok(Self {
            info: ProviderInfo::new("linfa-dbscan", "linfa-dbscan"),
            config,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`LinfaDbscan::new`].
    pub fn shared(config: DbscanConfig) -> Result<Arc<dyn Clusterer>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Learns groups, as [`Clusterer::fit`], and answers the model by its own type.
    ///
    /// # Errors
    /// As [`super::Dbscan::learn`].
    pub fn learn(&self, x: &Matrix) -> Result<DbscanModel> {
        squarable("dbscan.fit", x)?;
        let labels = guarded("dbscan.fit", || {
            if x.rows() == 0 {
                return Ok(Vec::new());
            }
            let params = linfa_clustering::Dbscan::params::<f64>(self.config.min_rows)
                .tolerance(self.config.radius)
                .check()
                .map_err(classify)?;
            Ok(params.transform(&as_array(x)?).to_vec())
        })?;
        let tree = Neighbours::new(x.as_slice(), x.cols());
        let mut cores = Vec::new();
        let mut groups = Vec::new();
        for (row, label) in labels.iter().enumerate() {
            let mut seen = 0;
            tree.within(x.as_slice(), x.row(row), self.config.radius, |_| {
                seen += 1;
                seen < self.config.min_rows
            });
            // A row at the very border of the radius may be none to linfa.
            if let (true, Some(label)) = (seen >= self.config.min_rows, label) {
                cores.extend_from_slice(x.row(row));
                groups.push(*label);
            }
        }
        if groups.is_empty() {
            return Err(Error::invalid(
                "no row has enough neighbours; take a larger radius or fewer rows for a core",
            )
            .operation("dbscan.fit")
            .with("rows", x.rows())
            .with("min_rows", self.config.min_rows));
        }
        DbscanModel::of(
            x,
            self.config.radius,
            Matrix::new(x.columns().to_vec(), cores)?,
            &groups,
            1,
        )
    }
}

/// linfa's Gaussian mixture (full covariances). Its parameters are taken; densities, and with them groups and the
/// log-likelihood, are computed here, since linfa 0.8.1 loses rows that are far from all groups. linfa does not try several
/// starts, and answers an error where it does not converge or a group collapses.
#[derive(Debug, Clone)]
pub struct LinfaGaussianMixture {
    info: ProviderInfo,
    config: MixtureConfig,
}

impl LinfaGaussianMixture {
    /// A provider named `linfa-gaussian-mixture`.
    ///
    /// # Errors
    /// As [`MixtureConfig::validate`]; linfa knows full covariances only.
    pub fn new(config: MixtureConfig) -> Result<Self> {
        config.validate()?;
        if config.covariance != Covariance::Full {
            return Err(Error::config("linfa knows full covariances only").with("setting", "covariance"));
        }
        Ok(Self {
            info: ProviderInfo::new("linfa-gaussian-mixture", "linfa-gaussian-mixture"),
            config,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`LinfaGaussianMixture::new`].
    pub fn shared(config: MixtureConfig) -> Result<Arc<dyn Clusterer>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Learns groups, as [`Clusterer::fit`], and answers the model by its own type.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] as [`super::GaussianMixture::learn`], and where linfa gives up.
    pub fn learn(&self, x: &Matrix, seed: u64) -> Result<MixtureModel> {
        let clusters = self.config.clusters;
        squarable("mixture.fit", x)?;
        if x.rows() < clusters.max(2) || !has_distinct_rows(x, clusters) {
            return Err(Error::invalid(
                "there are fewer different rows than groups asked for; ask for fewer groups",
            )
            .operation("mixture.fit")
            .with("clusters", clusters)
            .with("rows", x.rows()));
        }
        let gave_up = |reason: String| {
            Error::invalid("linfa's mixture gave up; scale the columns, ask for fewer groups or take our own")
                .operation("mixture.fit")
                .with("reason", reason)
        };
        let fitted = guarded("mixture.fit", || {
            let dataset = DatasetBase::from(as_array(x)?);
            Ok(
                linfa_clustering::GaussianMixtureModel::params_with_rng(clusters, generator(seed, 1))
                    .n_runs(1)
                    .max_n_iterations(self.config.max_iterations as u64)
                    .tolerance(self.config.tolerance)
                    .reg_covariance(self.config.floor)
                    .fit(&dataset)
                    .map_err(|error| error.to_string()),
            )
        });
        let fitted = match fitted {
            Ok(Ok(fitted)) => fitted,
            Ok(Err(reason)) => return Err(gave_up(reason)),
            Err(_) => return Err(gave_up("it panicked".to_owned())),
        };
        let finite = fitted
            .weights()
            .iter()
            .chain(fitted.means())
            .chain(fitted.covariances())
            .all(|v| v.is_finite());
        if !finite || fitted.weights().iter().any(|weight| *weight <= 0.0) {
            return Err(gave_up("a parameter is not finite".to_owned()));
        }
        MixtureModel::of(
            fitted.weights().to_vec(),
            Matrix::new(x.columns().to_vec(), fitted.means().iter().copied().collect())?,
            fitted.covariances().iter().copied().collect(),
        )?
        .judged(x)
    }
}

#[async_trait]
impl Provider for LinfaDbscan {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Provider for LinfaGaussianMixture {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Clusterer for LinfaDbscan {
    fn fit(&self, x: &Matrix, _seed: u64) -> Result<Box<dyn ClusterModel>> {
        Ok(Box::new(self.learn(x)?))
    }
}

impl Clusterer for LinfaGaussianMixture {
    fn fit(&self, x: &Matrix, seed: u64) -> Result<Box<dyn ClusterModel>> {
        Ok(Box::new(self.learn(x, seed)?))
    }

    fn with_clusters(&self, clusters: usize) -> Option<Box<dyn Clusterer>> {
        let config = MixtureConfig {
            clusters,
            ..self.config.clone()
        };
        Some(Box::new(Self::new(config).ok()?))
    }
}
