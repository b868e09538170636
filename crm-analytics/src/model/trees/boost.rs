use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{Classifier, ClassifierModel, Regressor, RegressorModel};
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use serde::{Deserialize, Serialize};

use super::bins::Binned;
use super::boosted::{Boosted, BoostedModel, BoostedRegressorModel, logistic, softmax};
use super::criteria::Gradients;
use super::grow::{Grower, Limits};
use super::nodes::{Nodes, gains, shares};
use crate::model::{check_classes, check_values, check_weights};
use crate::sample::sample_rows;

/// How [`GradientBoosting`] and [`GradientBoostingRegressor`] work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BoostConfig {
    /// The number of rounds, at most when rows are watched. 100 unless said otherwise.
    pub rounds: usize,
    /// How much of a round's answer is taken, above 0 to 1. 0.1 unless said otherwise.
    pub rate: f64,
    /// The leaves of a tree, 2 to 4,096; those that gain most come first. 31 unless said otherwise.
    pub max_leaves: usize,
    /// The most conditions on one way, 1 to 256. 64 unless said otherwise.
    pub max_depth: usize,
    /// The least rows a leaf has. 20 unless said otherwise.
    pub min_leaf_rows: usize,
    /// The least sum of second derivatives a leaf has. 0.001 unless said otherwise.
    pub min_leaf_weight: f64,
    /// L2 penalty on the leaves' values, 0 or more. 0 unless said otherwise.
    pub l2: f64,
    /// The gain that a fork must bring. 0 unless said otherwise.
    pub min_gain: f64,
    /// The bins of a column, 2 to 255. 255 unless said otherwise.
    pub bins: usize,
    /// The share of rows, drawn anew for each round, above 0 to 1. 1 unless said otherwise.
    pub rows: f64,
    /// The share of rows, from the end, that are watched instead of learned from, 0 to 0.9: with rows in order of time,
    /// what comes later judges. 0 unless said otherwise.
    pub watch: f64,
    /// After so many rounds without a better loss on the rows watched, it ends; the best round is the last kept. 20 unless
    /// said otherwise.
    pub patience: usize,
    /// A number that stands for a missing value. Such rows go to the side where they fit better.
    pub missing: Option<f64>,
}

impl Default for BoostConfig {
    fn default() -> Self {
        Self {
            rounds: 100,
            rate: 0.1,
            max_leaves: 31,
            max_depth: 64,
            min_leaf_rows: 20,
            min_leaf_weight: 1e-3,
            l2: 0.0,
            min_gain: 0.0,
            bins: 255,
            rows: 1.0,
            watch: 0.0,
            patience: 20,
            missing: None,
        }
    }
}

impl BoostConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: &'static str, setting: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        let share = |value: f64| value > 0.0 && value <= 1.0;
        let penalty = |value: f64| (0.0..=1e300).contains(&value);
        if !(1..=100_000).contains(&self.rounds) {
            return wrong("there are 1 to 100,000 rounds", "rounds");
        }
        if !share(self.rate) {
            return wrong("the rate is above 0 and at most 1", "rate");
        }
        if !(2..=4096).contains(&self.max_leaves) {
            return wrong("a tree has 2 to 4,096 leaves", "max_leaves");
        }
        if !(1..=256).contains(&self.max_depth) {
            return wrong("a tree is 1 to 256 deep", "max_depth");
        }
        if self.min_leaf_rows == 0 {
            return wrong("a leaf has at least 1 row", "min_leaf_rows");
        }
        if !penalty(self.min_leaf_weight) {
            return wrong("the least weight of a leaf is 0 or more", "min_leaf_weight");
        }
        if !penalty(self.l2) {
            return wrong("a penalty is 0 or more", "l2");
        }
        if !penalty(self.min_gain) {
            return wrong("the least gain is 0 or more", "min_gain");
        }
        if !(2..=255).contains(&self.bins) {
            return wrong("a column has 2 to 255 bins", "bins");
        }
        if !share(self.rows) {
            return wrong("the share of rows is above 0 and at most 1", "rows");
        }
        if !(0.0..=0.9).contains(&self.watch) {
            return wrong("the share of rows watched is 0 to 0.9", "watch");
        }
        if self.patience == 0 {
            return wrong("it ends after at least 1 round without a better loss", "patience");
        }
        if self.missing.is_some_and(|value| !value.is_finite()) {
            return wrong("what stands for a missing value is a finite number", "missing");
        }
        Ok(())
    }
}

/// Gradient boosting over histograms, leaf by leaf (Friedman 2001; Ke and others 2017): each round's trees learn what the
/// rounds before got wrong. Logistic loss for two classes, multinomial for more.
#[derive(Debug, Clone)]
pub struct GradientBoosting {
    info: ProviderInfo,
    config: BoostConfig,
    threads: usize,
}

/// [`GradientBoosting`] for numbers, by squared error.
#[derive(Debug, Clone)]
pub struct GradientBoostingRegressor {
    info: ProviderInfo,
    config: BoostConfig,
    threads: usize,
}

/// What is to be learned.
enum Aim<'a> {
    /// The row's class is 1.
    Two(&'a [usize]),
    /// One output a class.
    Many(&'a [usize]),
    Number(&'a [f64]),
}

impl Aim<'_> {
    /// The loss of a row with these margins.
    fn loss(&self, row: usize, margins: &[f64]) -> f64 {
        match self {
            Self::Two(classes) => {
                let sign = if classes.get(row) == Some(&1) { 1.0 } else { -1.0 };
                let margin = margins.first().copied().unwrap_or(0.0) * sign;
                // ln(1 + e^-margin) without overflow.
                (-margin).max(0.0) + (-margin.abs()).exp().ln_1p()
            }
            Self::Many(classes) => {
                let largest = margins.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = margins.iter().map(|m| (m - largest).exp()).sum();
                let own = classes
                    .get(row)
                    .and_then(|class| margins.get(*class))
                    .copied()
                    .unwrap_or(0.0);
                largest + sum.ln() - own
            }
            Self::Number(values) => {
                let difference =
                    values.get(row).copied().unwrap_or(0.0) - margins.first().copied().unwrap_or(0.0);
                difference * difference
            }
        }
    }

    /// First and second derivatives of all outputs of a row, `margins` being overwritten.
    fn derivatives(&self, row: usize, margins: &mut [f64], first: &mut [f64], second: &mut [f64]) {
        match self {
            Self::Two(classes) => {
                let p = logistic(margins.first().copied().unwrap_or(0.0));
                first.fill(p - f64::from(u8::from(classes.get(row) == Some(&1))));
                second.fill(p * (1.0 - p));
            }
            Self::Many(classes) => {
                softmax(margins);
                let own = classes.get(row).copied();
                let places = first.iter_mut().zip(second).zip(margins).enumerate();
                for (class, ((first, second), p)) in places {
                    *first = *p - f64::from(u8::from(own == Some(class)));
                    *second = *p * (1.0 - *p);
                }
            }
            Self::Number(values) => {
                let value = values.get(row).copied().unwrap_or(0.0);
                first.fill(margins.first().copied().unwrap_or(0.0) - value);
                second.fill(1.0);
            }
        }
    }
}

/// Round after round. `base` has one number an output.
#[allow(
    clippy::indexing_slicing,
    reason = "margins and derivatives have rows times outputs places"
)]
fn boost(
    config: &BoostConfig,
    threads: usize,
    x: &Matrix,
    weights: Option<&[f64]>,
    aim: &Aim<'_>,
    (classes, base): (usize, Vec<f64>),
    seed: u64,
) -> Result<Boosted> {
    let (rows, outputs) = (x.rows(), base.len());
    let learned = rows - (rows as f64 * config.watch) as usize;
    let binned = Binned::new(x, config.missing, 0, config.bins, threads);
    let mut margins: Vec<f64> = (0..rows).flat_map(|_| base.iter().copied()).collect();
    let (mut first, mut second) = (vec![vec![0.0; rows]; outputs], vec![vec![0.0; rows]; outputs]);
    let mut trees: Vec<Nodes> = Vec::new();
    let mut gained: Vec<Vec<f64>> = Vec::new();
    let mut watched = Vec::new();
    let mut best = (f64::INFINITY, 0);
    let limits = Limits {
        max_depth: config.max_depth,
        max_leaves: config.max_leaves,
        min_rows: config.min_leaf_rows,
        min_weight: config.min_leaf_weight,
        columns: x.cols(),
        threads,
    };
    let weight_of = |row: usize| weights.map_or(1.0, |w| w[row]);
    if learned < rows && (learned..rows).all(|row| weight_of(row) <= 0.0) {
        return Err(
            Error::invalid("the rows that are watched have no weight; watch more of them, or none")
                .operation("boosting.fit")
                .with("watched", rows - learned),
        );
    }
    let mut scratch = vec![0.0; outputs];
    let (mut g, mut h) = (vec![0.0; outputs], vec![0.0; outputs]);
    for round in 0..config.rounds {
        for row in 0..learned {
            scratch.copy_from_slice(&margins[row * outputs..(row + 1) * outputs]);
            aim.derivatives(row, &mut scratch, &mut g, &mut h);
            let weight = weight_of(row);
            for output in 0..outputs {
                first[output][row] = g[output] * weight;
                second[output][row] = h[output] * weight;
            }
        }
        let mut parted = false;
        let mut of_round = vec![0.0; x.cols()];
        for output in 0..outputs {
            let criterion = Gradients {
                first: &first[output],
                second: &second[output],
                l2: config.l2,
                min_gain: config.min_gain,
            };
            let drawn = (learned as f64 * config.rows).ceil() as usize;
            let mut order: Vec<u32> = sample_rows(learned, drawn, seed, 0xb0_0000 + round as u64)
                .into_iter()
                .map(|r| r as u32)
                .collect();
            let grown = Grower::new(&binned, &criterion, limits.clone(), None).grow(&mut order);
            let value = |sums: &[f64]| match sums {
                [g, h, _] if h + config.l2 > 0.0 => -config.rate * g / (h + config.l2),
                _ => 0.0,
            };
            let nodes = Nodes::of(
                &grown,
                |node| node.to - node.from,
                |node| vec![value(&node.sums)],
                0.0,
            );
            parted |= nodes.0.len() > 1;
            for (column, gain) in gains(&grown, 0.0) {
                of_round[column] += gain.max(0.0);
            }
            if drawn == learned {
                for node in grown.iter().filter(|node| node.branch.is_none()) {
                    let step = value(&node.sums);
                    for row in &order[node.from..node.to] {
                        margins[*row as usize * outputs + output] += step;
                    }
                }
            }
            let passed = if drawn == learned { learned } else { 0 };
            for row in passed..rows {
                let leaf = nodes.leaf(x.row(row), config.missing);
                margins[row * outputs + output] += leaf.map_or(0.0, |leaf| leaf.values[0]);
            }
            trees.push(nodes);
        }
        gained.push(of_round);
        if learned < rows {
            let loss =
                |row: usize| weight_of(row) * aim.loss(row, &margins[row * outputs..(row + 1) * outputs]);
            let total: f64 = (learned..rows).map(weight_of).sum();
            let mean = (learned..rows).map(loss).sum::<f64>() / total.max(f64::MIN_POSITIVE);
            watched.push(mean);
            if mean < best.0 {
                best = (mean, round + 1);
            } else if round + 1 - best.1 >= config.patience {
                break;
            }
        }
        // Nothing left to learn: further rounds would answer the same.
        if !parted && config.rows >= 1.0 {
            break;
        }
    }
    if learned < rows {
        trees.truncate(best.1.max(1) * outputs);
        gained.truncate(best.1.max(1));
    }
    let mut sums = vec![0.0; x.cols()];
    for round in gained {
        sums.iter_mut().zip(round).for_each(|(sum, gain)| *sum += gain);
    }
    Ok(Boosted {
        columns: x.columns().to_vec(),
        classes,
        base,
        trees,
        importances: shares(sums),
        missing: config.missing,
        watched,
        seed,
    })
}

impl GradientBoosting {
    /// A provider named `gradient-boosting`, on the caller's thread.
    ///
    /// # Errors
    /// As [`BoostConfig::validate`].
    pub fn new(config: BoostConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("gradient-boosting", "gradient-boosting"),
            config,
            threads: 1,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`GradientBoosting::new`].
    pub fn shared(config: BoostConfig) -> Result<Arc<dyn Classifier>> {
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
    ) -> Result<BoostedModel> {
        let count = check_classes("boosting.fit", x, classes)?;
        if let Some(weights) = weights {
            check_weights("boosting.fit", x.rows(), weights)?;
        }
        let mut mass = vec![0.0; count];
        for (row, class) in classes.iter().enumerate() {
            if let Some(sum) = mass.get_mut(*class) {
                *sum += weights.map_or(1.0, |w| w.get(row).copied().unwrap_or(0.0));
            }
        }
        let total: f64 = mass.iter().sum();
        // A class without rows starts at odds of a billion to one, not at zero.
        let share = |mass: f64| (mass / total).max(1e-9);
        let (aim, base) = match mass.as_slice() {
            [low, high] => (Aim::Two(classes), vec![(share(*high) / share(*low)).ln()]),
            many => (
                Aim::Many(classes),
                many.iter().map(|mass| share(*mass).ln()).collect(),
            ),
        };
        Ok(BoostedModel(boost(
            &self.config,
            self.threads,
            x,
            weights,
            &aim,
            (count, base),
            seed,
        )?))
    }
}

impl GradientBoostingRegressor {
    /// A provider named `gradient-boosting-regressor`, on the caller's thread.
    ///
    /// # Errors
    /// As [`BoostConfig::validate`].
    pub fn new(config: BoostConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("gradient-boosting-regressor", "gradient-boosting-regressor"),
            config,
            threads: 1,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`GradientBoostingRegressor::new`].
    pub fn shared(config: BoostConfig) -> Result<Arc<dyn Regressor>> {
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
    ) -> Result<BoostedRegressorModel> {
        let (mean, _) = check_values("boosting.fit", x, values, weights)?;
        let aim = Aim::Number(values);
        Ok(BoostedRegressorModel(boost(
            &self.config,
            self.threads,
            x,
            weights,
            &aim,
            (0, vec![mean]),
            seed,
        )?))
    }
}

#[async_trait]
impl Provider for GradientBoosting {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Provider for GradientBoostingRegressor {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Classifier for GradientBoosting {
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

impl Regressor for GradientBoostingRegressor {
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
