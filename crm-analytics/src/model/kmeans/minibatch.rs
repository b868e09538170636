use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{ClusterModel, Clusterer};
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use serde::{Deserialize, Serialize};

use super::rounds::{Rows, Until, rounds};
use super::tiles::{LANES, Tiles, nearest};
use super::{KMeansModel, seeding, settle, too_few};
use crate::model::{check_weights, squarable};
use crate::sample::{generator, sample_rows, shuffle, take_rows};

/// How [`MiniBatchKMeans`] works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MiniBatchConfig {
    /// The number of groups, 1 or more. 4 unless said otherwise.
    pub clusters: usize,
    /// The rows of a batch. 1,024 unless said otherwise.
    pub batch_rows: usize,
    /// How many times all rows are gone through, at most. 10 unless said otherwise.
    pub passes: usize,
    /// How many times to start anew on the first batches; the best is carried on. 3 unless said otherwise.
    pub starts: usize,
}

impl Default for MiniBatchConfig {
    fn default() -> Self {
        Self {
            clusters: 4,
            batch_rows: 1024,
            passes: 10,
            starts: 3,
        }
    }
}

impl MiniBatchConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        for (setting, value) in [
            ("clusters", self.clusters),
            ("batch_rows", self.batch_rows),
            ("passes", self.passes),
            ("starts", self.starts),
        ] {
            if value == 0 {
                return Err(Error::config("a mini-batch setting must be at least 1").with("setting", setting));
            }
        }
        if self.clusters >= 1 << 24 {
            return Err(Error::config("more groups than can be numbered").with("setting", "clusters"));
        }
        Ok(())
    }
}

/// k-means in small batches (Sculley 2010): each batch pulls the centres towards its rows, the less the more rows they
/// have seen. A little worse than [`super::KMeans`] in its sums of squares and cheaper a row; take it for many groups over
/// many rows. Rows come in an order drawn by the seed. It ends early when a whole pass no longer lowers the mean square
/// by a ten-thousandth; labels, sizes and inertia are those of one last assignment of all rows.
#[derive(Debug, Clone)]
pub struct MiniBatchKMeans {
    info: ProviderInfo,
    config: MiniBatchConfig,
}

impl MiniBatchKMeans {
    /// A provider named `mini-batch-kmeans`.
    ///
    /// # Errors
    /// As [`MiniBatchConfig::validate`].
    pub fn new(config: MiniBatchConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("mini-batch-kmeans", "mini-batch-kmeans"),
            config,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`MiniBatchKMeans::new`].
    pub fn shared(config: MiniBatchConfig) -> Result<Arc<dyn Clusterer>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Learns groups, as [`Clusterer::fit`], and answers the model by its own type.
    ///
    /// # Errors
    /// As [`super::KMeans::learn`].
    pub fn learn(&self, x: &Matrix, weights: Option<&[f64]>, seed: u64) -> Result<KMeansModel> {
        let config = &self.config;
        squarable("kmeans.fit", x)?;
        if let Some(weights) = weights {
            check_weights("kmeans.fit", x.rows(), weights)?;
        }
        let cols = x.cols();
        let mut centers = self
            .start(x, weights, seed)
            .ok_or_else(|| too_few(x, config.clusters))?;
        let mut seen = vec![0.0; config.clusters];
        let mut order: Vec<usize> = (0..x.rows()).collect();
        let mut random = generator(seed, 2);
        let mut before = f64::INFINITY;
        let mut batches = 0;
        let mut batch: Vec<f64> = Vec::with_capacity(config.batch_rows.min(x.rows()) * cols);
        for _ in 0..config.passes {
            shuffle(&mut order, &mut random);
            let mut sum = 0.0;
            for rows in order.chunks(config.batch_rows) {
                batch.clear();
                rows.iter().for_each(|row| batch.extend_from_slice(x.row(*row)));
                sum += pull(&batch, rows, weights, &mut centers, &mut seen, cols);
                batches += 1;
            }
            if sum >= before * (1.0 - 1e-4) {
                break;
            }
            before = sum;
        }
        let tiles = Tiles::new(x);
        let rows = Rows {
            data: x.as_slice(),
            cols,
            tiles: &tiles,
            weights,
            threads: 1,
        };
        let until = Until {
            rounds: 0,
            shift: 0.0,
            reached: f64::INFINITY,
        };
        let mut state = rounds(&rows, centers, until);
        (state.rounds, state.converged) = (batches, true);
        KMeansModel::from_state(x, state, seed, config.starts)
    }

    /// The best of some starts on a sample.
    fn start(&self, x: &Matrix, weights: Option<&[f64]>, seed: u64) -> Option<Vec<f64>> {
        let config = &self.config;
        let wanted = (config.batch_rows * 3).max(config.clusters * 20);
        let chosen = sample_rows(x.rows(), wanted, seed, 1);
        let on = |rows: &[usize]| {
            let sample = take_rows(x, rows).ok()?;
            let weights: Option<Vec<f64>> =
                weights.map(|w| rows.iter().filter_map(|row| w.get(*row).copied()).collect());
            let tiles = Tiles::new(&sample);
            let of = Rows {
                data: sample.as_slice(),
                cols: x.cols(),
                tiles: &tiles,
                weights: weights.as_deref(),
                threads: 1,
            };
            (0..config.starts as u64)
                .filter_map(|start| {
                    let centers = seeding::greedy(
                        of.data,
                        of.cols,
                        &tiles,
                        of.weights,
                        config.clusters,
                        seed,
                        100 + start,
                    )?;
                    Some(settle(&of, centers, 300))
                })
                .min_by(|a, b| a.inertia.total_cmp(&b.inertia))
                .map(|state| state.centers)
        };
        on(&chosen).or_else(|| on(&(0..x.rows()).collect::<Vec<_>>()))
    }
}

/// One batch pulls the centres; answers its sum of squares before that.
fn pull(
    batch: &[f64],
    rows: &[usize],
    weights: Option<&[f64]>,
    centers: &mut [f64],
    seen: &mut [f64],
    cols: usize,
) -> f64 {
    let mut sums = vec![0.0; centers.len()];
    let mut counts = vec![0.0; seen.len()];
    let mut squares = 0.0;
    // A batch may be longer than a stretch.
    let per = super::super::parallel::STRETCH;
    for (values, rows) in batch.chunks(per * cols).zip(rows.chunks(per)) {
        let tiles = Tiles::of_rows(values, cols);
        let groups = rows.chunks(LANES).zip(values.chunks(LANES * cols));
        for (tile, (ids, values)) in tiles.stretch(0).zip(groups) {
            let (labels, square) = nearest(tile, centers);
            for (((row, id), label), square) in values.chunks_exact(cols).zip(ids).zip(labels).zip(square) {
                let weight = weights.map_or(1.0, |w| w.get(*id).copied().unwrap_or(0.0));
                squares += weight * square;
                let at = label as usize;
                if let Some(count) = counts.get_mut(at) {
                    *count += weight;
                }
                if let Some(sums) = sums.get_mut(at * cols..(at + 1) * cols) {
                    sums.iter_mut()
                        .zip(row)
                        .for_each(|(sum, value)| *sum += weight * value);
                }
            }
        }
    }
    let groups = centers.chunks_exact_mut(cols).zip(sums.chunks_exact(cols));
    for (((center, sums), count), seen) in groups.zip(&counts).zip(seen) {
        if *count > 0.0 {
            *seen += count;
            let keep = 1.0 - count / *seen;
            center
                .iter_mut()
                .zip(sums)
                .for_each(|(c, sum)| *c = *c * keep + sum / *seen);
        }
    }
    squares
}

#[async_trait]
impl Provider for MiniBatchKMeans {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Clusterer for MiniBatchKMeans {
    fn fit(&self, x: &Matrix, seed: u64) -> Result<Box<dyn ClusterModel>> {
        Ok(Box::new(self.learn(x, None, seed)?))
    }

    fn fit_weighted(&self, x: &Matrix, weights: &[f64], seed: u64) -> Result<Box<dyn ClusterModel>> {
        Ok(Box::new(self.learn(x, Some(weights), seed)?))
    }

    fn with_clusters(&self, clusters: usize) -> Option<Box<dyn Clusterer>> {
        let config = MiniBatchConfig {
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
