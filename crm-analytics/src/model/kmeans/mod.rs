mod minibatch;
mod rounds;
mod seeding;
mod tiles;

use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{ClusterModel, Clusterer};
use crm_core::matrix::{check_row, same_columns};
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use serde::{Deserialize, Serialize};

pub use minibatch::{MiniBatchConfig, MiniBatchKMeans};
pub(super) use rounds::State;
use rounds::{Rows, Until, exchange, rounds};
use tiles::Tiles;

use super::{check_weights, matrix_data, read_model, squarable, write_model};
use crate::sample::{sample_rows, take_rows};

/// How [`KMeans`] and [`super::LinfaKMeans`] work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KMeansConfig {
    /// The number of groups, 1 or more. 4 unless said otherwise.
    pub clusters: usize,
    /// How many times to start anew; the best is kept. 10 unless said otherwise.
    pub starts: usize,
    /// At most so many rows, drawn by the seed, are used to find the starting centres. 20,000 unless said otherwise.
    pub start_rows: usize,
    /// At most so many rounds of assignment. 300 unless said otherwise.
    pub max_iterations: usize,
    /// The squared shift of the centres, as a share of the columns' mean variance, at which the rounds over all rows
    /// end; 0 lets them go on until no row changes its group. 0.000001 unless said otherwise; up to `start_rows` rows,
    /// they always go on.
    pub tolerance: f64,
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
            start_rows: 20_000,
            max_iterations: 300,
            tolerance: 1e-6,
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
        if self.clusters >= 1 << 24 {
            return Err(Error::config("more groups than can be numbered").with("setting", "clusters"));
        }
        if !(0.0..1.0).contains(&self.tolerance) {
            return Err(Error::config("a tolerance is from 0 up to but not 1").with("setting", "tolerance"));
        }
        Ok(())
    }
}

/// k-means: the groups with the least sum of squared distances to their centres.
///
/// Several starts (greedy k-means++) on a sample drawn by the seed, each carried on until it stands still; single rows
/// are exchanged while that helps (Hartigan 1975). The places found race each other on ever larger samples and at last on
/// all rows; those that fall behind are left. With up to `start_rows` rows the sample is all of them. An emptied group restarts at the row farthest from its
/// centre. Groups are numbered by size, the largest first. Same rows and seed, same groups, whatever the number of
/// threads.
#[derive(Debug, Clone)]
pub struct KMeans {
    info: ProviderInfo,
    config: KMeansConfig,
    threads: usize,
}

impl KMeans {
    /// A provider named `kmeans`, on the caller's thread.
    ///
    /// # Errors
    /// As [`KMeansConfig::validate`].
    pub fn new(config: KMeansConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("kmeans", "kmeans"),
            config,
            threads: 1,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`KMeans::new`].
    pub fn shared(config: KMeansConfig) -> Result<Arc<dyn Clusterer>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Lets a fit use so many threads while it lasts; the answer is the same to the last bit.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Learns groups, as [`Clusterer::fit`] or, with weights, [`Clusterer::fit_weighted`], and answers the model by its
    /// own type.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when there are fewer different rows (with a weight) than groups, weights do not
    /// fit, or values are too large or too close to be squared.
    pub fn learn(&self, x: &Matrix, weights: Option<&[f64]>, seed: u64) -> Result<KMeansModel> {
        let config = &self.config;
        squarable("kmeans.fit", x)?;
        if let Some(weights) = weights {
            check_weights("kmeans.fit", x.rows(), weights)?;
        }
        let mut size = config.start_rows.max(config.clusters);
        let mut stage = Stage::new(x, weights, size, seed, 1)?;
        let mut finalists = self.race(&stage, seed);
        if finalists.is_empty() && stage.sample.is_some() {
            // Groups too rare to be among the sample.
            stage = Stage::new(x, weights, x.rows(), seed, 1)?;
            finalists = self.race(&stage, seed);
        }
        let shift = config.tolerance * mean_variance(x);
        // The places found race each other on ever more rows; those that fall behind are left.
        for (part, (most, near)) in (2..).zip(
            [(6, 0.02), (3, 0.005)]
                .into_iter()
                .chain(std::iter::repeat((2, 0.001))),
        ) {
            if stage.sample.is_none() {
                break;
            }
            let least = finalists.first().map_or(0.0, |first| first.inertia);
            finalists.retain(|found| found.inertia <= least * (1.0 + near));
            finalists.truncate(most);
            size = size.saturating_mul(4);
            stage = Stage::new(
                x,
                weights,
                if size > x.rows() / 2 { x.rows() } else { size },
                seed,
                part,
            )?;
            let tiles = Tiles::new(stage.x());
            let rows = stage.rows(&tiles, self.threads);
            let whole = stage.sample.is_none();
            let mut reached = f64::INFINITY;
            let mut settled = Vec::with_capacity(finalists.len());
            for start in finalists {
                let until = Until {
                    rounds: config.max_iterations,
                    // A sample need not be settled as closely.
                    shift: if whole {
                        shift
                    } else {
                        shift.max(1e-5 * shift / config.tolerance.max(1e-12))
                    },
                    reached,
                };
                let found = rounds(&rows, start.centers, until);
                reached = reached.min(found.inertia);
                settled.push(found);
            }
            finalists = settled;
            order(&mut finalists);
        }
        if finalists.is_empty() {
            return Err(too_few(x, config.clusters));
        }
        let best = finalists.swap_remove(0);
        KMeansModel::from_state(x, best, seed, config.starts)
    }

    /// Where the starts end on `x`, the best first, each place once.
    fn race(&self, stage: &Stage<'_>, seed: u64) -> Vec<State> {
        let config = &self.config;
        let x = stage.x();
        let tiles = Tiles::new(x);
        let rows = stage.rows(&tiles, 1);
        let starts: Vec<u64> = (0..config.starts as u64).collect();
        let ran = super::parallel::each(starts, self.threads, |start| {
            let part = 100 + start;
            let centers = seeding::greedy(
                x.as_slice(),
                x.cols(),
                &tiles,
                rows.weights,
                config.clusters,
                seed,
                part,
            )?;
            Some(settle(&rows, centers, config.max_iterations))
        });
        let mut found: Vec<State> = ran.into_iter().flatten().collect();
        order(&mut found);
        found
    }
}

/// The best first, each place once.
fn order(found: &mut Vec<State>) {
    found.sort_by(|a, b| a.inertia.total_cmp(&b.inertia));
    found.dedup_by(|later, earlier| later.inertia <= earlier.inertia * (1.0 + 1e-9));
}

/// Some of the rows, or all.
struct Stage<'a> {
    whole: &'a Matrix,
    weights: Option<&'a [f64]>,
    sample: Option<(Matrix, Option<Vec<f64>>)>,
}

impl<'a> Stage<'a> {
    fn new(x: &'a Matrix, weights: Option<&'a [f64]>, size: usize, seed: u64, part: u64) -> Result<Self> {
        let sample = if size < x.rows() {
            let chosen = sample_rows(x.rows(), size, seed, part);
            let of = |weights: &[f64]| {
                chosen
                    .iter()
                    .filter_map(|row| weights.get(*row).copied())
                    .collect()
            };
            Some((take_rows(x, &chosen)?, weights.map(of)))
        } else {
            None
        };
        Ok(Self {
            whole: x,
            weights,
            sample,
        })
    }

    fn x(&self) -> &Matrix {
        self.sample.as_ref().map_or(self.whole, |(sample, _)| sample)
    }

    fn rows<'b>(&'b self, tiles: &'b Tiles, threads: usize) -> Rows<'b> {
        Rows {
            data: self.x().as_slice(),
            cols: self.whole.cols(),
            tiles,
            weights: match &self.sample {
                Some((_, weights)) => weights.as_deref(),
                None => self.weights,
            },
            threads,
        }
    }
}

/// With more rows, exchanges take longer than they win.
const EXCHANGE_ROWS: usize = 10_000;

/// Rounds until no row changes its group, exchanges while they help.
fn settle(rows: &Rows<'_>, centers: Vec<f64>, max_rounds: usize) -> State {
    let until = Until {
        rounds: max_rounds,
        shift: 0.0,
        reached: f64::INFINITY,
    };
    let mut found = rounds(rows, centers, until);
    if rows.tiles.rows() <= EXCHANGE_ROWS && exchange(rows, &mut found) {
        found = rounds(rows, found.centers, until);
    }
    found
}

/// Rounds, with exchanges, from centres found elsewhere.
pub(super) fn settled(x: &Matrix, centers: Vec<f64>, max_rounds: usize) -> State {
    let tiles = Tiles::new(x);
    let rows = Rows {
        data: x.as_slice(),
        cols: x.cols(),
        tiles: &tiles,
        weights: None,
        threads: 1,
    };
    settle(&rows, centers, max_rounds)
}

/// The mean of the columns' variances.
fn mean_variance(x: &Matrix) -> f64 {
    let means = super::column_means(x);
    let mut sum = 0.0;
    for row in x.iter_rows() {
        sum += crate::metrics::square_distance(row, &means);
    }
    sum / (x.rows().max(1) * x.cols()) as f64
}

fn too_few(x: &Matrix, clusters: usize) -> Error {
    Error::invalid("there are fewer different rows than groups asked for; ask for fewer groups")
        .operation("kmeans.fit")
        .with("clusters", clusters)
        .with("rows", x.rows())
}

#[async_trait]
impl Provider for KMeans {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Clusterer for KMeans {
    fn fit(&self, x: &Matrix, seed: u64) -> Result<Box<dyn ClusterModel>> {
        Ok(Box::new(self.learn(x, None, seed)?))
    }

    fn fit_weighted(&self, x: &Matrix, weights: &[f64], seed: u64) -> Result<Box<dyn ClusterModel>> {
        Ok(Box::new(self.learn(x, Some(weights), seed)?))
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
            threads: self.threads,
        }))
    }
}

/// Groups found by [`KMeans`], [`MiniBatchKMeans`] or [`super::LinfaKMeans`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    pub(super) const KIND: &'static str = "kmeans";

    pub(super) fn from_state(x: &Matrix, state: State, seed: u64, starts: usize) -> Result<Self> {
        let mut groups: Vec<(usize, &[f64])> = state
            .centers
            .chunks_exact(x.cols())
            .map(|center| (0, center))
            .collect();
        for label in &state.labels {
            if let Some(group) = groups.get_mut(*label as usize) {
                group.0 += 1;
            }
        }
        groups.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| super::by_values(a.1, b.1)));
        let values = groups
            .iter()
            .flat_map(|(_, center)| center.iter().copied())
            .collect();
        if !state.inertia.is_finite() {
            return Err(
                Error::invalid("the values are too large to be squared; scale the columns first")
                    .operation("kmeans.fit"),
            );
        }
        Ok(Self {
            centers: Matrix::new(x.columns().to_vec(), values)?,
            sizes: groups.iter().map(|(size, _)| *size).collect(),
            inertia: state.inertia,
            iterations: state.rounds,
            converged: state.converged,
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
        if model.sizes.len() != model.centers.rows() || model.sizes.is_empty() {
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
    /// The (weighted) sum of squared distances to the centres when it was learned.
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

    /// The nearest centre and its squared distance; the first of several.
    fn nearest(&self, row: &[f64]) -> (usize, f64) {
        let mut best = (0, f64::INFINITY);
        for (label, center) in self.centers.iter_rows().enumerate() {
            let distance = crate::metrics::square_distance(row, center);
            if distance < best.1 {
                best = (label, distance);
            }
        }
        best
    }
}

impl ClusterModel for KMeansModel {
    fn columns(&self) -> &[String] {
        self.centers.columns()
    }

    fn clusters(&self) -> usize {
        self.centers.rows()
    }

    fn assign_row(&self, row: &[f64]) -> Result<Option<usize>> {
        check_row(self.centers.columns(), row)?;
        Ok(Some(self.nearest(row).0))
    }

    fn predict(&self, x: &Matrix) -> Result<Vec<Option<usize>>> {
        same_columns(self.centers.columns(), x)?;
        let cols = x.cols();
        let mut labels = Vec::with_capacity(x.rows());
        for rows in x.as_slice().chunks(cols * super::parallel::STRETCH) {
            let tiles = Tiles::of_rows(rows, cols);
            let end = labels.len() + rows.len() / cols;
            for tile in tiles.stretch(0) {
                let (found, _) = tiles::nearest(tile, self.centers.as_slice());
                let wanted = (end - labels.len()).min(found.len());
                labels.extend(found.iter().take(wanted).map(|label| Some(*label as usize)));
            }
        }
        Ok(labels)
    }

    fn centers(&self) -> Option<&Matrix> {
        Some(&self.centers)
    }

    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}
