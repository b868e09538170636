use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{Classifier, ClassifierModel, Regressor, RegressorModel};
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use serde::{Deserialize, Serialize};

use super::bins::Binned;
use super::criteria::{Classes, Numbers};
use super::grow::{Grower, Limits};
use super::model::{TreeModel, TreeRegressorModel};
use super::nodes::{Nodes, gains, importances};
use crate::model::{check_classes, check_values, check_weights};

/// How impure a node of several classes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// `1 - sum p^2`.
    #[default]
    Gini,
    /// `- sum p log2 p`.
    Entropy,
}

/// How deep and how fine a decision tree is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TreeConfig {
    /// The most conditions on one way, 1 to 256. 3 unless said otherwise: rules people can read.
    pub max_depth: usize,
    /// The most leaves, 2 or more; the forks that gain most come first. As many as the depth allows unless said otherwise.
    pub max_leaves: Option<usize>,
    /// The least rows a leaf has. 1 unless said otherwise.
    pub min_leaf_rows: usize,
    /// The measure of impurity; a tree of numbers takes their variance.
    pub criterion: Split,
    /// Up to so many rows every threshold between two values is tried (at most 60,000); beyond, those between bins of
    /// about equally many rows. 10,000 unless said otherwise.
    pub exact_rows: usize,
    /// The bins of a column beyond `exact_rows` rows, 2 to 255. 255 unless said otherwise.
    pub bins: usize,
    /// Cost-complexity pruning: the decrease of impurity, as a share of all rows, that each leaf must bring. 0 (none)
    /// unless said otherwise.
    pub prune: f64,
    /// Whether probabilities are smoothed (Laplace): `(rows of the class + 1) / (rows + classes)`. No unless said otherwise.
    pub smoothing: bool,
    /// A number that stands for a missing value. Such rows go to the side where they fit better.
    pub missing: Option<f64>,
}

impl Default for TreeConfig {
    fn default() -> Self {
        Self {
            max_depth: 3,
            max_leaves: None,
            min_leaf_rows: 1,
            criterion: Split::Gini,
            exact_rows: 10_000,
            bins: 255,
            prune: 0.0,
            smoothing: false,
            missing: None,
        }
    }
}

impl TreeConfig {
    /// Trees so deep, everything else as usual.
    pub fn new(max_depth: usize) -> Self {
        Self {
            max_depth,
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
        if !(1..=256).contains(&self.max_depth) {
            return wrong("a decision tree is 1 to 256 deep", "max_depth");
        }
        if self.max_leaves.is_some_and(|leaves| leaves < 2) {
            return wrong("a tree has at least 2 leaves", "max_leaves");
        }
        if self.min_leaf_rows == 0 {
            return wrong("a leaf has at least 1 row", "min_leaf_rows");
        }
        if !(2..=255).contains(&self.bins) {
            return wrong("a column has 2 to 255 bins", "bins");
        }
        if self.exact_rows > 60_000 {
            return wrong("at most 60,000 rows can be looked at exactly", "exact_rows");
        }
        if !(0.0..=1e300).contains(&self.prune) {
            return wrong("the decrease a leaf must bring is 0 or more", "prune");
        }
        if self.missing.is_some_and(|value| !value.is_finite()) {
            return wrong("what stands for a missing value is a finite number", "missing");
        }
        Ok(())
    }

    fn limits(&self, columns: usize, threads: usize) -> Limits {
        Limits {
            max_depth: self.max_depth,
            max_leaves: self.max_leaves.unwrap_or(usize::MAX),
            min_rows: self.min_leaf_rows,
            min_weight: 0.0,
            columns,
            threads,
        }
    }
}

/// A decision tree that learns exactly and always the same (CART: Breiman, Friedman, Olshen and Stone 1984).
///
/// The threshold that lowers the impurity most is taken; the first column and the lowest threshold of equals. No
/// randomness anywhere. With few rows every threshold is tried, with many those between bins.
#[derive(Debug, Clone)]
pub struct CartTree {
    info: ProviderInfo,
    config: TreeConfig,
    threads: usize,
}

/// [`CartTree`] for numbers: each leaf says the mean of its rows, forks lower their variance.
#[derive(Debug, Clone)]
pub struct CartRegressor {
    info: ProviderInfo,
    config: TreeConfig,
    threads: usize,
}

impl CartTree {
    /// A provider named `cart`, on the caller's thread.
    ///
    /// # Errors
    /// As [`TreeConfig::validate`].
    pub fn new(config: TreeConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("cart", "cart"),
            config,
            threads: 1,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`CartTree::new`].
    pub fn shared(config: TreeConfig) -> Result<Arc<dyn Classifier>> {
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
    /// [`crm_core::ErrorKind::Invalid`] when lengths differ, there is only one class, or weights do not fit.
    pub fn learn(&self, x: &Matrix, classes: &[usize], weights: Option<&[f64]>) -> Result<TreeModel> {
        let count = check_classes("tree.fit", x, classes)?;
        if let Some(weights) = weights {
            check_weights("tree.fit", x.rows(), weights)?;
        }
        let config = &self.config;
        let binned = Binned::new(x, config.missing, config.exact_rows, config.bins, self.threads);
        let criterion = Classes {
            classes,
            weights,
            count,
            entropy: config.criterion == Split::Entropy,
        };
        let mut order: Vec<u32> = (0..x.rows() as u32).collect();
        let limits = config.limits(x.cols(), self.threads);
        let grown = Grower::new(&binned, &criterion, limits, None).grow(&mut order);
        let total = weights.map_or(x.rows() as f64, |weights| weights.iter().sum());
        let prune = config.prune * total;
        let nodes = Nodes::of(
            &grown,
            |node| node.to - node.from,
            |node| node.sums.iter().take(count).copied().collect(),
            prune,
        );
        Ok(TreeModel::new(
            x.columns().to_vec(),
            count,
            nodes,
            importances(gains(&grown, prune), x.cols()),
            config,
        ))
    }
}

impl CartRegressor {
    /// A provider named `cart-regressor`, on the caller's thread.
    ///
    /// # Errors
    /// As [`TreeConfig::validate`].
    pub fn new(config: TreeConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("cart-regressor", "cart-regressor"),
            config,
            threads: 1,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`CartRegressor::new`].
    pub fn shared(config: TreeConfig) -> Result<Arc<dyn Regressor>> {
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
    /// [`crm_core::ErrorKind::Invalid`] when lengths differ, there are no rows, or values or weights do not fit.
    pub fn learn(&self, x: &Matrix, values: &[f64], weights: Option<&[f64]>) -> Result<TreeRegressorModel> {
        let (mean, squares) = check_values("tree.fit", x, values, weights)?;
        let config = &self.config;
        let binned = Binned::new(x, config.missing, config.exact_rows, config.bins, self.threads);
        let centred: Vec<f64> = values.iter().map(|value| value - mean).collect();
        let criterion = Numbers {
            values: &centred,
            weights,
            squares,
        };
        let mut order: Vec<u32> = (0..x.rows() as u32).collect();
        let limits = config.limits(x.cols(), self.threads);
        let grown = Grower::new(&binned, &criterion, limits, None).grow(&mut order);
        let total = weights.map_or(x.rows() as f64, |weights| weights.iter().sum());
        let prune = config.prune * total;
        let nodes = Nodes::of(
            &grown,
            |node| node.to - node.from,
            |node| match node.sums.as_slice() {
                [weight, sum, ..] if *weight > 0.0 => vec![mean + sum / weight],
                _ => vec![mean],
            },
            prune,
        );
        Ok(TreeRegressorModel::new(
            x.columns().to_vec(),
            nodes,
            importances(gains(&grown, prune), x.cols()),
            config.missing,
        ))
    }
}

#[async_trait]
impl Provider for CartTree {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Provider for CartRegressor {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Classifier for CartTree {
    fn fit(&self, x: &Matrix, classes: &[usize], _seed: u64) -> Result<Box<dyn ClassifierModel>> {
        Ok(Box::new(self.learn(x, classes, None)?))
    }

    fn fit_weighted(
        &self,
        x: &Matrix,
        classes: &[usize],
        weights: &[f64],
        _seed: u64,
    ) -> Result<Box<dyn ClassifierModel>> {
        Ok(Box::new(self.learn(x, classes, Some(weights))?))
    }
}

impl Regressor for CartRegressor {
    fn fit(&self, x: &Matrix, values: &[f64], _seed: u64) -> Result<Box<dyn RegressorModel>> {
        Ok(Box::new(self.learn(x, values, None)?))
    }

    fn fit_weighted(
        &self,
        x: &Matrix,
        values: &[f64],
        weights: &[f64],
        _seed: u64,
    ) -> Result<Box<dyn RegressorModel>> {
        Ok(Box::new(self.learn(x, values, Some(weights))?))
    }
}
