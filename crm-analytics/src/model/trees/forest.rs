use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{Classifier, ClassifierModel, Regressor, RegressorModel};
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use serde::{Deserialize, Serialize};

use super::bins::Binned;
use super::criteria::{Classes, Numbers};
use super::forested::{Forest, ForestModel, ForestRegressorModel};
use super::grow::{Criterion, Grower, Grown, Limits};
use super::nodes::{Nodes, gains, shares};
use crate::model::parallel::each;
use crate::model::{check_classes, check_values, check_weights};
use crate::sample::{below, generator};

/// How [`RandomForest`] and [`RandomForestRegressor`] grow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ForestConfig {
    /// The number of trees. 100 unless said otherwise.
    pub trees: usize,
    /// The most conditions on one way, 1 to 256. 64 unless said otherwise.
    pub max_depth: usize,
    /// The least rows a leaf has. 1 unless said otherwise.
    pub min_leaf_rows: usize,
    /// How many columns each fork chooses from; the square root of all for classes, a third for numbers unless said
    /// otherwise.
    pub columns: Option<usize>,
    /// Up to so many rows every threshold is tried. 10,000 unless said otherwise.
    pub exact_rows: usize,
    /// The bins of a column beyond that, 2 to 255. 255 unless said otherwise.
    pub bins: usize,
    /// A number that stands for a missing value.
    pub missing: Option<f64>,
}

impl Default for ForestConfig {
    fn default() -> Self {
        Self {
            trees: 100,
            max_depth: 64,
            min_leaf_rows: 1,
            columns: None,
            exact_rows: 10_000,
            bins: 255,
            missing: None,
        }
    }
}

impl ForestConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: &'static str, setting: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if !(1..=100_000).contains(&self.trees) {
            return wrong("a forest has 1 to 100,000 trees", "trees");
        }
        if !(1..=256).contains(&self.max_depth) {
            return wrong("a decision tree is 1 to 256 deep", "max_depth");
        }
        if self.min_leaf_rows == 0 {
            return wrong("a leaf has at least 1 row", "min_leaf_rows");
        }
        if self.columns == Some(0) {
            return wrong("a fork chooses from at least 1 column", "columns");
        }
        if !(2..=255).contains(&self.bins) {
            return wrong("a column has 2 to 255 bins", "bins");
        }
        if self.exact_rows > 60_000 {
            return wrong("at most 60,000 rows can be looked at exactly", "exact_rows");
        }
        if self.missing.is_some_and(|value| !value.is_finite()) {
            return wrong("what stands for a missing value is a finite number", "missing");
        }
        Ok(())
    }
}

/// Many trees, each on rows drawn with replacement and with a few columns to choose from at each fork (Breiman 2001);
/// probabilities are the means of theirs. Each tree draws from its own stream of the seed, so that threads change nothing.
#[derive(Debug, Clone)]
pub struct RandomForest {
    info: ProviderInfo,
    config: ForestConfig,
    threads: usize,
}

/// [`RandomForest`] for numbers.
#[derive(Debug, Clone)]
pub struct RandomForestRegressor {
    info: ProviderInfo,
    config: ForestConfig,
    threads: usize,
}

/// A tree, its gains by column, and the rows it did not see.
struct Planted {
    nodes: Nodes,
    gains: Vec<f64>,
    unseen: Vec<bool>,
}

/// Grows the trees.
fn plant<C: Criterion>(
    config: &ForestConfig,
    (x, binned): (&Matrix, &Binned),
    criterion: &C,
    columns: usize,
    (seed, threads): (u64, usize),
    values: impl Fn(&Grown) -> Vec<f64> + Sync,
) -> Vec<Planted> {
    let limits = Limits {
        max_depth: config.max_depth,
        max_leaves: usize::MAX,
        min_rows: config.min_leaf_rows,
        min_weight: 0.0,
        columns: columns.clamp(1, x.cols()),
        threads: 1,
    };
    each((0..config.trees as u64).collect(), threads, |tree| {
        let mut random = generator(seed, 0xf0_0000 + tree);
        let mut unseen = vec![true; x.rows()];
        let mut order: Vec<u32> = (0..x.rows())
            .map(|_| {
                let row = below(&mut random, x.rows());
                if let Some(flag) = unseen.get_mut(row) {
                    *flag = false;
                }
                row as u32
            })
            .collect();
        order.sort_unstable();
        let grown = Grower::new(binned, criterion, limits.clone(), Some(random)).grow(&mut order);
        let mut of_columns = vec![0.0; x.cols()];
        for (column, gain) in gains(&grown, 0.0) {
            if let Some(sum) = of_columns.get_mut(column) {
                *sum += gain.max(0.0);
            }
        }
        Planted {
            nodes: Nodes::of(&grown, |node| node.to - node.from, &values, 0.0),
            gains: shares(of_columns),
            unseen,
        }
    })
}

/// The mean of the trees' importances.
fn importances(planted: &[Planted], columns: usize) -> Vec<f64> {
    let mut sums = vec![0.0; columns];
    for tree in planted {
        sums.iter_mut()
            .zip(&tree.gains)
            .for_each(|(sum, gain)| *sum += gain);
    }
    shares(sums)
}

impl RandomForest {
    /// A provider named `random-forest`, on the caller's thread.
    ///
    /// # Errors
    /// As [`ForestConfig::validate`].
    pub fn new(config: ForestConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("random-forest", "random-forest"),
            config,
            threads: 1,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`RandomForest::new`].
    pub fn shared(config: ForestConfig) -> Result<Arc<dyn Classifier>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Lets a fit use so many threads while it lasts; the answer is the same to the last bit.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Learns, as [`Classifier::fit`] or, with weights, [`Classifier::fit_weighted`], and answers the model by its own
    /// type.
    ///
    /// # Errors
    /// As [`super::CartTree::learn`].
    pub fn learn(
        &self,
        x: &Matrix,
        classes: &[usize],
        weights: Option<&[f64]>,
        seed: u64,
    ) -> Result<ForestModel> {
        let count = check_classes("forest.fit", x, classes)?;
        if let Some(weights) = weights {
            check_weights("forest.fit", x.rows(), weights)?;
        }
        let config = &self.config;
        let binned = Binned::new(x, config.missing, config.exact_rows, config.bins, self.threads);
        let criterion = Classes {
            classes,
            weights,
            count,
            entropy: false,
        };
        let columns = config
            .columns
            .unwrap_or_else(|| (x.cols() as f64).sqrt() as usize);
        let planted = plant(
            config,
            (x, &binned),
            &criterion,
            columns,
            (seed, self.threads),
            |node| {
                let mut values = vec![0.0; count];
                super::model::probabilities(node.sums.get(..count).unwrap_or_default(), false, &mut values);
                values
            },
        );
        let hits = |out: &[f64], row: usize| classes.get(row).and_then(|class| out.get(*class)).copied();
        let mut right = 0.0;
        let mut judged = 0.0;
        unseen(x, &planted, count, config.missing, |row, out| {
            let own = hits(out, row).unwrap_or(0.0);
            let best = out.iter().copied().fold(0.0, f64::max);
            right += f64::from(u8::from(own >= best));
            judged += 1.0;
        });
        Ok(ForestModel(Forest {
            columns: x.columns().to_vec(),
            width: count,
            importances: importances(&planted, x.cols()),
            trees: planted.into_iter().map(|tree| tree.nodes).collect(),
            missing: config.missing,
            out_of_bag: (judged > 0.0).then(|| right / judged),
            seed,
        }))
    }
}

impl RandomForestRegressor {
    /// A provider named `random-forest-regressor`, on the caller's thread.
    ///
    /// # Errors
    /// As [`ForestConfig::validate`].
    pub fn new(config: ForestConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("random-forest-regressor", "random-forest-regressor"),
            config,
            threads: 1,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`RandomForestRegressor::new`].
    pub fn shared(config: ForestConfig) -> Result<Arc<dyn Regressor>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Lets a fit use so many threads while it lasts; the answer is the same to the last bit.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Learns, as [`Regressor::fit`] or, with weights, [`Regressor::fit_weighted`], and answers the model by its own type.
    ///
    /// # Errors
    /// As [`super::CartRegressor::learn`].
    pub fn learn(
        &self,
        x: &Matrix,
        values: &[f64],
        weights: Option<&[f64]>,
        seed: u64,
    ) -> Result<ForestRegressorModel> {
        let (mean, squares) = check_values("forest.fit", x, values, weights)?;
        let config = &self.config;
        let binned = Binned::new(x, config.missing, config.exact_rows, config.bins, self.threads);
        let centred: Vec<f64> = values.iter().map(|value| value - mean).collect();
        let criterion = Numbers {
            values: &centred,
            weights,
            squares,
        };
        let columns = config.columns.unwrap_or(x.cols().div_ceil(3));
        let planted = plant(
            config,
            (x, &binned),
            &criterion,
            columns,
            (seed, self.threads),
            |node| match node.sums.as_slice() {
                [weight, sum, ..] if *weight > 0.0 => vec![mean + sum / weight],
                _ => vec![mean],
            },
        );
        let (mut errors, mut all) = (0.0, 0.0);
        unseen(x, &planted, 1, config.missing, |row, out| {
            if let (Some(value), Some(found)) = (values.get(row), out.first()) {
                errors += (value - found) * (value - found);
                all += (value - mean) * (value - mean);
            }
        });
        Ok(ForestRegressorModel(Forest {
            columns: x.columns().to_vec(),
            width: 1,
            importances: importances(&planted, x.cols()),
            trees: planted.into_iter().map(|tree| tree.nodes).collect(),
            missing: config.missing,
            out_of_bag: (all > 0.0).then(|| 1.0 - errors / all),
            seed,
        }))
    }
}

/// Tells the mean answer of the trees that have not seen a row, for each row that some have not seen.
fn unseen(
    x: &Matrix,
    planted: &[Planted],
    width: usize,
    missing: Option<f64>,
    mut tell: impl FnMut(usize, &[f64]),
) {
    let mut out = vec![0.0; width];
    for (at, row) in x.iter_rows().enumerate() {
        out.fill(0.0);
        let mut trees = 0.0;
        for tree in planted.iter().filter(|tree| tree.unseen.get(at) == Some(&true)) {
            if let Some(leaf) = tree.nodes.leaf(row, missing) {
                out.iter_mut()
                    .zip(&leaf.values)
                    .for_each(|(sum, value)| *sum += value);
                trees += 1.0;
            }
        }
        if trees > 0.0 {
            out.iter_mut().for_each(|sum| *sum /= trees);
            tell(at, &out);
        }
    }
}

#[async_trait]
impl Provider for RandomForest {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Provider for RandomForestRegressor {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Classifier for RandomForest {
    fn fit(&self, x: &Matrix, classes: &[usize], seed: u64) -> Result<Box<dyn ClassifierModel>> {
        Ok(Box::new(self.learn(x, classes, None, seed)?))
    }
    fn fit_weighted(
        &self,
        x: &Matrix,
        classes: &[usize],
        weights: &[f64],
        seed: u64,
    ) -> Result<Box<dyn ClassifierModel>> {
        Ok(Box::new(self.learn(x, classes, Some(weights), seed)?))
    }
}

impl Regressor for RandomForestRegressor {
    fn fit(&self, x: &Matrix, values: &[f64], seed: u64) -> Result<Box<dyn RegressorModel>> {
        Ok(Box::new(self.learn(x, values, None, seed)?))
    }
    fn fit_weighted(
        &self,
        x: &Matrix,
        values: &[f64],
        weights: &[f64],
        seed: u64,
    ) -> Result<Box<dyn RegressorModel>> {
        Ok(Box::new(self.learn(x, values, Some(weights), seed)?))
    }
}
