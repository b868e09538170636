use std::fmt;

use crate::{Matrix, Provider, Result};

/// Puts rows into groups without being told which. Synchronous: it computes; a host runs it where it may block.
pub trait Clusterer: Provider {
    /// Learns groups from `x`. Same input and seed, same groups.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when `x` cannot be grouped so (too few rows, all rows equal, parameters off).
    fn fit(&self, x: &Matrix, seed: u64) -> Result<Box<dyn ClusterModel>>;

    /// The same method asked for `clusters` groups; `None` when it finds their number by itself.
    fn with_clusters(&self, clusters: usize) -> Option<Box<dyn Clusterer>> {
        let _ = clusters;
        None
    }
}

/// Learned groups.
pub trait ClusterModel: fmt::Debug + Send + Sync {
    /// The number of groups; labels are `0..clusters`.
    fn clusters(&self) -> usize;

    /// The group of each row; `None` for rows in no group (noise).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when `x` has other columns than it was learned from.
    fn predict(&self, x: &Matrix) -> Result<Vec<Option<usize>>>;

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
    /// [`crate::ErrorKind::Invalid`] when `x` has too few rows or columns, or does not vary.
    fn fit(&self, x: &Matrix) -> Result<Box<dyn ReduceModel>>;
}

/// Learned directions.
pub trait ReduceModel: fmt::Debug + Send + Sync {
    /// Projects rows: one column a direction, the strongest first.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when `x` has other columns than it was learned from.
    fn transform(&self, x: &Matrix) -> Result<Matrix>;

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
    /// Learns from rows and their classes (`0..n`).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when lengths differ or there is only one class.
    fn fit(&self, x: &Matrix, classes: &[usize]) -> Result<Box<dyn ClassifierModel>>;
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

/// What was learned about classes.
pub trait ClassifierModel: fmt::Debug + Send + Sync {
    /// The class of each row.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when `x` has other columns than it was learned from.
    fn predict(&self, x: &Matrix) -> Result<Vec<usize>>;

    /// How much each column matters; sums to 1, or all 0 when nothing does.
    fn importances(&self) -> &[f64];

    /// The rules, if the method has such.
    fn rules(&self) -> Vec<Rule>;

    /// The model as data, to be stored and read back.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    fn to_json(&self) -> Result<serde_json::Value>;
}
