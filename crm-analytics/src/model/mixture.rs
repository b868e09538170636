use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{ClusterModel, Clusterer};
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use serde::{Deserialize, Serialize};

use super::kmeans::{KMeans, KMeansConfig};
use super::mixture_model::MixtureModel;
use super::parallel::{each, stretches};
use super::squarable;

/// The shape of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Covariance {
    /// Any ellipsoid.
    #[default]
    Full,
    /// Axes along the columns.
    Diagonal,
}

/// How [`GaussianMixture`] works.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MixtureConfig {
    /// The number of groups. 4 unless said otherwise.
    pub clusters: usize,
    /// The shape of a group. Full unless said otherwise.
    pub covariance: Covariance,
    /// At most so many rounds. 500 unless said otherwise.
    pub max_iterations: usize,
    /// The gain of the mean log-likelihood at which the rounds end. 0.000001 unless said otherwise.
    pub tolerance: f64,
    /// The share of each column's variance that every group has at least, so that none collapses on a point. 0.000001
    /// unless said otherwise.
    pub floor: f64,
}

impl Default for MixtureConfig {
    fn default() -> Self {
        Self {
            clusters: 4,
            covariance: Covariance::Full,
            max_iterations: 500,
            tolerance: 1e-6,
            floor: 1e-6,
        }
    }
}

impl MixtureConfig {
    /// So many groups, everything else as usual.
    pub fn new(clusters: usize) -> Self {
        Self {
            clusters,
            ..Self::default()
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: &'static str, setting: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if !(1..1 << 16).contains(&self.clusters) {
            return wrong("a mixture has 1 to 65,535 groups", "clusters");
        }
        if self.max_iterations == 0 {
            return wrong("there is at least 1 round", "max_iterations");
        }
        if !(self.tolerance > 0.0 && self.tolerance < 1.0) {
            return wrong("a tolerance is between 0 and 1", "tolerance");
        }
        if !(self.floor > 0.0 && self.floor < 1.0) {
            return wrong("the least variance is a share between 0 and 1", "floor");
        }
        Ok(())
    }
}

/// A mixture of normal distributions, by expectation and maximisation (Dempster, Laird and Rubin 1977), from where k-means
/// ends. Groups may overlap, differ in spread and be stretched; each row has a probability for each. Densities are kept as
/// logarithms, so that far rows have probabilities, too. Groups are numbered by weight, the largest first.
#[derive(Debug, Clone)]
pub struct GaussianMixture {
    info: ProviderInfo,
    config: MixtureConfig,
    threads: usize,
}

impl GaussianMixture {
    /// A provider named `gaussian-mixture`, on the caller's thread.
    ///
    /// # Errors
    /// As [`MixtureConfig::validate`].
    pub fn new(config: MixtureConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("gaussian-mixture", "gaussian-mixture"),
            config,
            threads: 1,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`GaussianMixture::new`].
    pub fn shared(config: MixtureConfig) -> Result<Arc<dyn Clusterer>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Lets a fit use so many threads while it lasts; the answer is the same to the last bit.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Learns groups, as [`Clusterer::fit`], and answers the model by its own type.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when there are fewer different rows than groups, a group loses its rows, it does
    /// not converge, or values are too large to be squared.
    pub fn learn(&self, x: &Matrix, seed: u64) -> Result<MixtureModel> {
        let config = &self.config;
        let start = KMeans::new(KMeansConfig::new(config.clusters))?
            .threads(self.threads)
            .learn(x, None, seed)?;
        let labels = start.predict(x)?;
        let mut shares = vec![0.0; x.rows() * config.clusters];
        for (row, label) in shares.chunks_exact_mut(config.clusters).zip(labels) {
            if let Some(share) = label.and_then(|label| row.get_mut(label)) {
                *share = 1.0;
            }
        }
        let variances = variances(x);
        let floors: Vec<f64> = variances
            .iter()
            .map(|v| if *v > 0.0 { v * config.floor } else { 1.0 })
            .collect();
        let mut model = self.maximise(x, &shares, &floors)?;
        let mut before = f64::NEG_INFINITY;
        for round in 1..=config.max_iterations {
            let total = model.expect(x, &mut shares, self.threads);
            let mean = total / x.rows() as f64;
            if !mean.is_finite() {
                return Err(Error::invalid(
                    "the values are too far apart for a mixture; scale or clip the columns first",
                )
                .operation("mixture.fit"));
            }
            model.reached(total, round);
            if mean - before < config.tolerance {
                return model.finished(x);
            }
            before = mean;
            model = self.maximise(x, &shares, &floors)?;
        }
        Err(
            Error::invalid("the mixture did not converge; allow more rounds or a larger tolerance")
                .operation("mixture.fit")
                .with("iterations", config.max_iterations),
        )
    }

    /// Weights, means and covariances from the rows' shares in the groups.
    #[allow(
        clippy::indexing_slicing,
        reason = "shares have rows times groups places, sums are as long as declared"
    )]
    fn maximise(&self, x: &Matrix, shares: &[f64], floors: &[f64]) -> Result<MixtureModel> {
        let (k, cols) = (self.config.clusters, x.cols());
        let diagonal = self.config.covariance == Covariance::Diagonal;
        let parts = each(stretches(x.rows()), self.threads, |rows| {
            let (mut mass, mut sums) = (vec![0.0; k], vec![0.0; k * cols]);
            for row in rows {
                for (group, share) in shares[row * k..(row + 1) * k].iter().enumerate() {
                    mass[group] += share;
                    let sums = sums[group * cols..(group + 1) * cols].iter_mut();
                    sums.zip(x.row(row))
                        .for_each(|(sum, value)| *sum += share * value);
                }
            }
            (mass, sums)
        });
        let (mut mass, mut means) = (vec![0.0; k], vec![0.0; k * cols]);
        for (more, sums) in parts {
            mass.iter_mut().zip(more).for_each(|(sum, value)| *sum += value);
            means.iter_mut().zip(sums).for_each(|(sum, value)| *sum += value);
        }
        if mass.iter().any(|mass| *mass < 1e-6) {
            return Err(Error::invalid("a group lost its rows; ask for fewer groups")
                .operation("mixture.fit")
                .with("clusters", k));
        }
        for (mean, mass) in means.chunks_exact_mut(cols).zip(&mass) {
            mean.iter_mut().for_each(|value| *value /= mass);
        }
        let size = cols * cols;
        let parts = each(stretches(x.rows()), self.threads, |rows| {
            let mut sums = vec![0.0; k * size];
            let mut apart = vec![0.0; cols];
            for row in rows {
                for (group, share) in shares[row * k..(row + 1) * k].iter().enumerate() {
                    if *share == 0.0 {
                        continue;
                    }
                    let mean = &means[group * cols..(group + 1) * cols];
                    apart
                        .iter_mut()
                        .zip(x.row(row).iter().zip(mean))
                        .for_each(|(a, (v, m))| *a = v - m);
                    let sums = &mut sums[group * size..(group + 1) * size];
                    for i in 0..cols {
                        if diagonal {
                            sums[i * cols + i] += share * apart[i] * apart[i];
                        } else {
                            let scaled = share * apart[i];
                            let line = sums[i * cols..=i * cols + i].iter_mut();
                            line.zip(&apart).for_each(|(sum, a)| *sum += scaled * a);
                        }
                    }
                }
            }
            sums
        });
        let mut covariances = vec![0.0; k * size];
        for part in parts {
            covariances
                .iter_mut()
                .zip(part)
                .for_each(|(sum, value)| *sum += value);
        }
        for (of, mass) in covariances.chunks_exact_mut(size).zip(&mass) {
            for i in 0..cols {
                for j in 0..=i {
                    of[i * cols + j] /= mass;
                    of[j * cols + i] = of[i * cols + j];
                }
                of[i * cols + i] += floors[i];
            }
        }
        let total: f64 = mass.iter().sum();
        MixtureModel::of(
            mass.iter().map(|mass| mass / total).collect(),
            Matrix::new(x.columns().to_vec(), means)?,
            covariances,
        )
    }
}

/// Variances of the columns (divided by n).
fn variances(x: &Matrix) -> Vec<f64> {
    let means = super::column_means(x);
    let mut sums = vec![0.0; x.cols()];
    for row in x.iter_rows() {
        for ((sum, value), mean) in sums.iter_mut().zip(row).zip(&means) {
            *sum += (value - mean) * (value - mean);
        }
    }
    sums.iter_mut().for_each(|sum| *sum /= x.rows().max(1) as f64);
    sums
}

#[async_trait]
impl Provider for GaussianMixture {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Clusterer for GaussianMixture {
    fn fit(&self, x: &Matrix, seed: u64) -> Result<Box<dyn ClusterModel>> {
        squarable("mixture.fit", x)?;
        Ok(Box::new(self.learn(x, seed)?))
    }

    fn with_clusters(&self, clusters: usize) -> Option<Box<dyn Clusterer>> {
        let config = MixtureConfig {
            clusters,
            ..self.config.clone()
        };
        config.validate().ok()?;
        Some(Box::new(Self {
            info: self.info.clone(),
            config,
            threads: self.threads,
        }))
    }
}
