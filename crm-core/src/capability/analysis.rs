use std::fmt;

use crate::matrix::{check_row, same_columns};
use crate::{Error, ErrorKind, Matrix, Provider, Result};

/// What a method answers that takes no weights.
fn weightless(provider: &crate::ProviderInfo) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "this method takes no weights; repeat rows instead, or take another method",
    )
    .operation("model.fit")
    .with("provider", provider)
}

/// Puts rows into groups without being told which. Synchronous: it computes; a host runs it where it may block.
pub trait Clusterer: Provider {
    /// Learns groups from `x`. Same input and seed, same groups, on any number of threads.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when `x` cannot be grouped so (too few rows, all rows equal, values too large to square).
    fn fit(&self, x: &Matrix, seed: u64) -> Result<Box<dyn ClusterModel>>;

    /// As [`Clusterer::fit`], each row counting `weights[row]` times.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the method takes no weights (so unless overridden); [`ErrorKind::Invalid`] when
    /// there are not as many weights as rows, one is negative or not finite, or all are 0.
    fn fit_weighted(&self, x: &Matrix, weights: &[f64], seed: u64) -> Result<Box<dyn ClusterModel>> {
        let _ = (x, weights, seed);
        Err(weightless(self.info()))
    }

    /// The same method asked for `clusters` groups; `None` when it finds their number by itself.
    fn with_clusters(&self, clusters: usize) -> Option<Box<dyn Clusterer>> {
        let _ = clusters;
        None
    }
}

/// Learned groups.
pub trait ClusterModel: fmt::Debug + Send + Sync {
    /// The names of the columns it was learned from, in their order.
    fn columns(&self) -> &[String];

    /// The number of groups; labels are `0..clusters`.
    fn clusters(&self) -> usize;

    /// The group of one row; `None` when it is in no group (noise). Equal to [`ClusterModel::predict`], without
    /// allocating.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the row has another number of values than there are columns, or one is not finite.
    fn assign_row(&self, row: &[f64]) -> Result<Option<usize>>;

    /// The group of each row; `None` for rows in no group (noise).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when `x` has other columns than it was learned from.
    fn predict(&self, x: &Matrix) -> Result<Vec<Option<usize>>> {
        same_columns(self.columns(), x)?;
        x.iter_rows().map(|row| self.assign_row(row)).collect()
    }

    /// The centres, one row a group, if the method has such.
    fn centers(&self) -> Option<&Matrix>;

    /// The model as data, to be stored and read back.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    fn to_json(&self) -> Result<serde_json::Value>;
}

/// Finds a few directions that say most.
pub trait Reducer: Provider {
    /// Learns directions from `x`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when `x` has too few rows or columns, or does not vary.
    fn fit(&self, x: &Matrix) -> Result<Box<dyn ReduceModel>>;
}

/// Learned directions.
pub trait ReduceModel: fmt::Debug + Send + Sync {
    /// Projects one row into `out`, one value a direction. Equal to [`ReduceModel::transform`], without allocating.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the row or `out` has another length than there are columns or directions, or a value
    /// is not finite.
    fn project_row(&self, row: &[f64], out: &mut [f64]) -> Result<()>;

    /// Projects rows: one column a direction, the strongest first.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when `x` has other columns than it was learned from.
    fn transform(&self, x: &Matrix) -> Result<Matrix> {
        same_columns(self.components().columns(), x)?;
        let directions = self.components().rows();
        let mut values = vec![0.0; x.rows() * directions];
        for (row, out) in x.iter_rows().zip(values.chunks_exact_mut(directions.max(1))) {
            self.project_row(row, out)?;
        }
        Matrix::new(
            (1..=directions).map(|i| format!("component_{i}")).collect(),
            values,
        )
    }

    /// The share of the total variance that each direction explains, 0 to 1.
    fn explained_ratio(&self) -> &[f64];

    /// The directions: one row each, one column a feature, unit length; the largest entry is positive.
    fn components(&self) -> &Matrix;

    /// The model as data, to be stored and read back.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    fn to_json(&self) -> Result<serde_json::Value>;
}

/// Learns to tell classes apart.
pub trait Classifier: Provider {
    /// Learns from rows and their classes (`0..n`). Same input and seed, same model, on any number of threads; methods
    /// without chance ignore the seed.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when lengths differ or there is only one class.
    fn fit(&self, x: &Matrix, classes: &[usize], seed: u64) -> Result<Box<dyn ClassifierModel>>;

    /// As [`Classifier::fit`], each row counting `weights[row]` times.
    ///
    /// # Errors
    /// As [`Clusterer::fit_weighted`].
    fn fit_weighted(
        &self,
        x: &Matrix,
        classes: &[usize],
        weights: &[f64],
        seed: u64,
    ) -> Result<Box<dyn ClassifierModel>> {
        let _ = (x, classes, weights, seed);
        Err(weightless(self.info()))
    }
}

/// A way to a class, in words and numbers: all conditions hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The class it leads to.
    pub class: usize,
    /// Column name, true for `<=` and false for `>`, threshold.
    pub conditions: Vec<(String, bool, f64)>,
    /// How many training rows follow it.
    pub rows: usize,
    /// The share of these rows that are of the class, 0 to 1.
    pub purity: f64,
}

/// Why a row scores as it does: `base` and the `parts`, one a column, sum to the row's margin (the log-odds of a class, the
/// value of a regression).
#[derive(Debug, Clone, PartialEq)]
pub struct Contributions {
    /// The margin of an average row.
    pub base: f64,
    /// What each column adds to it.
    pub parts: Vec<f64>,
}

impl Contributions {
    /// The row's margin.
    pub fn margin(&self) -> f64 {
        self.base + self.parts.iter().sum::<f64>()
    }
}

/// What was learned about classes.
pub trait ClassifierModel: fmt::Debug + Send + Sync {
    /// The names of the columns it was learned from, in their order.
    fn columns(&self) -> &[String];

    /// The number of classes; they are `0..classes`.
    fn classes(&self) -> usize;

    /// The probability of each class for one row, into `out`. Equal to [`ClassifierModel::probabilities`], without
    /// allocating.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the row or `out` has another length than there are columns or classes, or a value is
    /// not finite.
    fn score_row(&self, row: &[f64], out: &mut [f64]) -> Result<()>;

    /// The probability of each class (`class_0`, `class_1`, ...) for each row; a row sums to 1.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when `x` has other columns than it was learned from.
    fn probabilities(&self, x: &Matrix) -> Result<Matrix> {
        same_columns(self.columns(), x)?;
        let classes = self.classes();
        let mut values = vec![0.0; x.rows() * classes];
        for (row, out) in x.iter_rows().zip(values.chunks_exact_mut(classes.max(1))) {
            self.score_row(row, out)?;
        }
        Matrix::new((0..classes).map(|i| format!("class_{i}")).collect(), values)
    }

    /// The most probable class of each row; the first of equals.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when `x` has other columns than it was learned from.
    fn predict(&self, x: &Matrix) -> Result<Vec<usize>> {
        same_columns(self.columns(), x)?;
        let mut out = vec![0.0; self.classes()];
        x.iter_rows()
            .map(|row| {
                self.score_row(row, &mut out)?;
                Ok(most_probable(&out))
            })
            .collect()
    }

    /// How much each column matters; sums to 1, or all 0 when nothing does.
    fn importances(&self) -> &[f64];

    /// The rules, if the method has such.
    fn rules(&self) -> Vec<Rule> {
        Vec::new()
    }

    /// What each column adds to the log-odds of `class`, if the method can say so.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] as [`ClassifierModel::score_row`], or when there is no such class.
    fn explain_row(&self, row: &[f64], class: usize) -> Result<Option<Contributions>> {
        check_row(self.columns(), row)?;
        let _ = class;
        Ok(None)
    }

    /// The model as data, to be stored and read back.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    fn to_json(&self) -> Result<serde_json::Value>;
}

/// The place of the largest value; the first of equals.
fn most_probable(values: &[f64]) -> usize {
    let best =
        values.iter().enumerate().fold(
            (0, f64::NEG_INFINITY),
            |best, (at, v)| {
                if *v > best.1 { (at, *v) } else { best }
            },
        );
    best.0
}

/// Learns to foretell a number.
pub trait Regressor: Provider {
    /// Learns from rows and their values. Same input and seed, same model, on any number of threads.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when lengths differ, there are no rows, or a value is not finite.
    fn fit(&self, x: &Matrix, values: &[f64], seed: u64) -> Result<Box<dyn RegressorModel>>;

    /// As [`Regressor::fit`], each row counting `weights[row]` times.
    ///
    /// # Errors
    /// As [`Clusterer::fit_weighted`].
    fn fit_weighted(
        &self,
        x: &Matrix,
        values: &[f64],
        weights: &[f64],
        seed: u64,
    ) -> Result<Box<dyn RegressorModel>> {
        let _ = (x, values, weights, seed);
        Err(weightless(self.info()))
    }
}

/// What was learned about a number.
pub trait RegressorModel: fmt::Debug + Send + Sync {
    /// The names of the columns it was learned from, in their order.
    fn columns(&self) -> &[String];

    /// The value of one row. Equal to [`RegressorModel::predict`], without allocating.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the row has another length than there are columns, or a value is not finite.
    fn score_row(&self, row: &[f64]) -> Result<f64>;

    /// The value of each row.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when `x` has other columns than it was learned from.
    fn predict(&self, x: &Matrix) -> Result<Vec<f64>> {
        same_columns(self.columns(), x)?;
        x.iter_rows().map(|row| self.score_row(row)).collect()
    }

    /// How much each column matters; sums to 1, or all 0 when nothing does.
    fn importances(&self) -> &[f64];

    /// What each column adds to the value, if the method can say so.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] as [`RegressorModel::score_row`].
    fn explain_row(&self, row: &[f64]) -> Result<Option<Contributions>> {
        check_row(self.columns(), row)?;
        Ok(None)
    }

    /// The model as data, to be stored and read back.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    fn to_json(&self) -> Result<serde_json::Value>;
}
