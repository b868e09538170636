use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{ClusterModel, Clusterer};
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_clustering::KMeans;
use serde::{Deserialize, Serialize};

use super::{
    as_array, classify, guarded, has_distinct_rows, matrix_data, read_model, same_columns, write_model,
};
use crate::metrics::square_distance;
use crate::sample::{generator, sample_rows, take_rows};

/// How [`LinfaKMeans`] works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KMeansConfig {
    /// The number of groups, 1 or more.
    pub clusters: usize,
    /// How many times to start anew; the best is kept. 10 unless said otherwise.
    pub starts: usize,
    /// At most so many rows, drawn by the seed, are used to find the starting centres. 5,000 unless said otherwise.
    pub start_rows: usize,
    /// At most so many rounds of assignment. 300 unless said otherwise.
    pub max_iterations: usize,
}

impl Default for KMeansConfig {
    fn default() -> Self {
        Self::new(4)
    }
}

impl KMeansConfig {
    /// `clusters` groups, everything else as usual.
    pub fn new(clusters: usize) -> Self {
        Self {
            clusters,
            starts: 10,
            start_rows: 5_000,
            max_iterations: 300,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        for (setting, value) in [
            ("clusters", self.clusters),
            ("starts", self.starts),
            ("start_rows", self.start_rows),
            ("max_iterations", self.max_iterations),
        ] {
            if value == 0 {
                return Err(Error::config("a k-means setting must be at least 1").with("setting", setting));
            }
        }
        Ok(())
    }
}

/// k-means: the groups with the least sum of squared distances to their centres.
///
/// linfa's k-means++ (Arthur and Vassilvitskii 2007) finds the starting centres, several times, on a sample. From each,
/// Lloyd's rounds are carried on here until no row changes its group, single rows are exchanged while that helps
/// (Hartigan 1975), and the best is carried on over all rows: linfa 0.8.1 stops before, mixes up the sizes of its runs
/// and answers the inertia of the round before last. An emptied group restarts at the row farthest from its centre. Groups are numbered by size, the largest first. Same rows and
/// seed, same groups, whatever the number of threads.
#[derive(Debug, Clone)]
pub struct LinfaKMeans {
    info: ProviderInfo,
    config: KMeansConfig,
}

impl LinfaKMeans {
    /// A provider named `kmeans`.
    ///
    /// # Errors
    /// As [`KMeansConfig::validate`].
    pub fn new(config: KMeansConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("linfa-kmeans", "kmeans"),
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
        let mut best: Option<Rounds> = None;
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
            let mut found = rounds(&sample, centers, self.config.max_iterations);
            if exchange(&sample, &mut found) {
                found = rounds(&sample, found.centers, self.config.max_iterations);
            }
            if best.as_ref().is_none_or(|best| found.inertia < best.inertia) {
                best = Some(found);
            }
        }
        let mut best =
            best.ok_or_else(|| Error::unexpected("k-means made no start").operation("kmeans.fit"))?;
        if sample.rows() < x.rows() {
            best = rounds(x, best.centers, self.config.max_iterations);
        }
        KMeansModel::from_rounds(x, best, seed, self.config.starts)
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

/// The state of Lloyd's rounds.
struct Rounds {
    centers: Vec<f64>,
    labels: Vec<usize>,
    inertia: f64,
    iterations: usize,
    converged: bool,
}

/// The nearest centre and its squared distance; the first of several.
fn nearest(row: &[f64], centers: &[f64]) -> (usize, f64) {
    let mut best = (0, f64::INFINITY);
    for (label, center) in centers.chunks_exact(row.len()).enumerate() {
        let distance = square_distance(row, center);
        if distance < best.1 {
            best = (label, distance);
        }
    }
    best
}

/// Assigns and moves until no row changes its group. Labels, inertia and centres of the answer belong together.
fn rounds(x: &Matrix, mut centers: Vec<f64>, max_iterations: usize) -> Rounds {
    let cols = x.cols();
    let clusters = centers.len() / cols;
    let mut labels = vec![usize::MAX; x.rows()];
    let mut distances = vec![0.0; x.rows()];
    let mut iterations = 0;
    loop {
        let mut changed = false;
        let mut sums = vec![0.0; centers.len()];
        let mut counts = vec![0_usize; clusters];
        for ((row, label), distance) in x.iter_rows().zip(&mut labels).zip(&mut distances) {
            let (found, square) = nearest(row, &centers);
            changed |= *label != found;
            *label = found;
            *distance = square;
            if let Some(count) = counts.get_mut(found) {
                *count += 1;
            }
            add(&mut sums, found, row, 1.0);
        }
        if !changed || iterations >= max_iterations {
            let inertia = distances.iter().sum();
            return Rounds {
                centers,
                labels,
                inertia,
                iterations,
                converged: !changed,
            };
        }
        iterations += 1;
        // An emptied group restarts at the row farthest from its centre.
        for empty in 0..clusters {
            if counts.get(empty) != Some(&0) {
                continue;
            }
            let farthest =
                distances.iter().enumerate().fold(
                    (0, 0.0),
                    |best, (row, d)| {
                        if *d > best.1 { (row, *d) } else { best }
                    },
                );
            let Some(old) = labels.get(farthest.0).copied().filter(|_| farthest.1 > 0.0) else {
                continue;
            };
            add(&mut sums, old, x.row(farthest.0), -1.0);
            add(&mut sums, empty, x.row(farthest.0), 1.0);
            for (label, count) in counts.iter_mut().enumerate() {
                *count = if label == empty {
                    1
                } else {
                    *count - usize::from(label == old)
                };
            }
            if let (Some(label), Some(distance)) = (labels.get_mut(farthest.0), distances.get_mut(farthest.0))
            {
                (*label, *distance) = (empty, 0.0);
            }
        }
        for ((center, sum), count) in centers
            .chunks_exact_mut(cols)
            .zip(sums.chunks_exact(cols))
            .zip(&counts)
        {
            if *count > 0 {
                center
                    .iter_mut()
                    .zip(sum)
                    .for_each(|(c, s)| *c = s / *count as f64);
            }
        }
    }
}

/// Most is won in the first passes.
const EXCHANGE_PASSES: usize = 20;

/// Hartigan's exchange (1975): moves single rows as long as that lowers the sum of squares, the centres following at
/// once. It leaves many of the places where Lloyd's rounds stand still. Says whether anything moved.
fn exchange(x: &Matrix, found: &mut Rounds) -> bool {
    let cols = x.cols();
    let mut counts = vec![0.0; found.centers.len() / cols];
    for label in &found.labels {
        if let Some(count) = counts.get_mut(*label) {
            *count += 1.0;
        }
    }
    let mut moved = false;
    for _ in 0..EXCHANGE_PASSES {
        let mut moved_now = false;
        for (row, label) in x.iter_rows().zip(&mut found.labels) {
            let own = counts.get(*label).copied().unwrap_or(0.0);
            if own <= 1.0 {
                continue;
            }
            // What leaving lowers the sum by, and what the best other group raises it by.
            let mut leaves = 0.0;
            let mut best = (*label, f64::INFINITY);
            for (other, (center, count)) in found.centers.chunks_exact(cols).zip(&counts).enumerate() {
                let square = square_distance(row, center);
                if other == *label {
                    leaves = square * own / (own - 1.0);
                } else if square * count / (count + 1.0) < best.1 {
                    best = (other, square * count / (count + 1.0));
                }
            }
            // A margin above rounding, so that it ends.
            if best.1 >= leaves * (1.0 - 1e-9) {
                continue;
            }
            for (group, (center, count)) in found.centers.chunks_exact_mut(cols).zip(&mut counts).enumerate()
            {
                let sign = if group == *label { -1.0 } else { 1.0 };
                if group == *label || group == best.0 {
                    *count += sign;
                    center
                        .iter_mut()
                        .zip(row)
                        .for_each(|(c, v)| *c += sign * (v - *c) / *count);
                }
            }
            *label = best.0;
            moved_now = true;
        }
        if !moved_now {
            break;
        }
        moved = true;
    }
    moved
}

fn add(sums: &mut [f64], label: usize, row: &[f64], weight: f64) {
    if let Some(sum) = sums.chunks_exact_mut(row.len()).nth(label) {
        sum.iter_mut().zip(row).for_each(|(s, v)| *s += weight * v);
    }
}

/// Groups found by [`LinfaKMeans`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KMeansModel {
    #[serde(with = "matrix_data")]
    centers: Matrix,
    sizes: Vec<usize>,
    inertia: f64,
    iterations: usize,
    converged: bool,
    seed: u64,
    starts: usize,
}

impl KMeansModel {
    const KIND: &'static str = "kmeans";

    fn from_rounds(x: &Matrix, rounds: Rounds, seed: u64, starts: usize) -> Result<Self> {
        let mut groups: Vec<(usize, &[f64])> = rounds
            .centers
            .chunks_exact(x.cols())
            .map(|center| (0, center))
            .collect();
        for label in &rounds.labels {
            if let Some(group) = groups.get_mut(*label) {
                group.0 += 1;
            }
        }
        groups.sort_by(|a, b| {
            let by_center = || {
                a.1.iter()
                    .zip(b.1)
                    .map(|(a, b)| a.total_cmp(b))
                    .find(|o| o.is_ne())
            };
            b.0.cmp(&a.0)
                .then_with(|| by_center().unwrap_or(std::cmp::Ordering::Equal))
        });
        let values = groups
            .iter()
            .flat_map(|(_, center)| center.iter().copied())
            .collect();
        Ok(Self {
            centers: Matrix::new(x.columns().to_vec(), values)?,
            sizes: groups.iter().map(|(size, _)| *size).collect(),
            inertia: rounds.inertia,
            iterations: rounds.iterations,
            converged: rounds.converged,
            seed,
            starts,
        })
    }

    /// Reads a model written by [`ClusterModel::to_json`].
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Corrupt`] when it is none, of another kind or another format.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let model: Self = read_model(Self::KIND, json)?;
        if model.sizes.len() != model.centers.rows() {
            return Err(Error::new(
                crm_core::ErrorKind::Corrupt,
                "the model's sizes do not fit its centres",
            )
            .operation("model.read"));
        }
        Ok(model)
    }

    /// The number of rows in each group when it was learned.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }
    /// The sum of squared distances to the centres when it was learned.
    pub fn inertia(&self) -> f64 {
        self.inertia
    }
    /// The rounds of the last run.
    pub fn iterations(&self) -> usize {
        self.iterations
    }
    /// False when the rounds ran out before the groups stood still.
    pub fn converged(&self) -> bool {
        self.converged
    }
}

impl ClusterModel for KMeansModel {
    fn clusters(&self) -> usize {
        self.centers.rows()
    }

    fn predict(&self, x: &Matrix) -> Result<Vec<Option<usize>>> {
        same_columns("kmeans.predict", self.centers.columns(), x)?;
        Ok(x.iter_rows()
            .map(|row| Some(nearest(row, self.centers.as_slice()).0))
            .collect())
    }

    fn centers(&self) -> Option<&Matrix> {
        Some(&self.centers)
    }

    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}
