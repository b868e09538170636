//! Models: groups, directions, classes and numbers.
//!
//! Each is a provider of a capability of `crm_core`, configured by data; what it learns is data too (`to_json`,
//! `from_json`), and reads back equal to the last bit. Most are our own; those named `Linfa...` are linfa's, with what
//! linfa 0.8 gets wrong computed again, and stand beside for whoever wants them.
//!
//! ```
//! use crm_analytics::model::{KMeans, KMeansConfig, KMeansModel};
//! use crm_core::Matrix;
//! use crm_core::capability::{ClusterModel, Clusterer};
//!
//! let x = Matrix::new(vec!["spend".into()], vec![1.0, 2.0, 90.0, 91.0, 92.0]).unwrap();
//! let model = KMeans::new(KMeansConfig::new(2)).unwrap().fit(&x, 7).unwrap();
//! assert_eq!(model.predict(&x).unwrap(), [Some(1), Some(1), Some(0), Some(0), Some(0)]);
//! let again = KMeansModel::from_json(model.to_json().unwrap()).unwrap();
//! assert_eq!(again.centers(), model.centers());
//! ```

mod choose;
mod dbscan;
mod eigen;
mod hierarchical;
mod kmeans;
mod linear;
mod linfa_clusters;
mod linfa_kmeans;
mod linfa_pca;
mod mixture;
mod mixture_model;
mod moments;
mod neighbours;
pub(crate) mod parallel;
mod pca;
mod spec;
mod trees;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use choose::{Choice, ClusterScore, choose_clusters};
pub use dbscan::{Dbscan, DbscanConfig, DbscanModel};
pub use hierarchical::{Hierarchical, HierarchicalConfig, HierarchicalModel, Linkage};
pub use kmeans::{KMeans, KMeansConfig, KMeansModel, MiniBatchConfig, MiniBatchKMeans};
pub use linear::{
    LogisticConfig, LogisticModel, LogisticRegression, RidgeConfig, RidgeModel, RidgeRegression,
};
pub use linfa_clusters::{LinfaDbscan, LinfaGaussianMixture};
pub use linfa_kmeans::LinfaKMeans;
pub use linfa_pca::LinfaPca;
pub use mixture::{Covariance, GaussianMixture, MixtureConfig};
pub use mixture_model::MixtureModel;
pub use pca::{Pca, PcaConfig, PcaModel};
pub use spec::{ModelSpec, read_classifier, read_clusters, read_reduction, read_regressor};
pub(crate) use trees::logistic;
pub use trees::{
    BoostConfig, BoostedModel, BoostedRegressorModel, CartRegressor, CartTree, ForestConfig, ForestModel,
    ForestRegressorModel, GradientBoosting, GradientBoostingRegressor, LinfaDecisionTree, RandomForest,
    RandomForestRegressor, Split, TreeConfig, TreeModel, TreeRegressorModel,
};

use crm_core::{Error, ErrorKind, Matrix, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A matrix as it is written into a model.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    columns: Vec<String>,
    values: Vec<f64>,
}

/// `#[serde(with)]` for matrices: reading checks what `Matrix` checks.
mod matrix_data {
    use super::{Matrix, Plain};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(x: &Matrix, serializer: S) -> Result<S::Ok, S::Error> {
        Plain {
            columns: x.columns().to_vec(),
            values: x.as_slice().to_vec(),
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Matrix, D::Error> {
        let plain = Plain::deserialize(deserializer)?;
        Matrix::new(plain.columns, plain.values).map_err(serde::de::Error::custom)
    }
}

/// What stands around a stored model: its kind and the version of its form.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    kind: String,
    format: u32,
    model: T,
}

const FORMAT: u32 = 1;

fn write_model<T: Serialize>(kind: &str, model: &T) -> Result<serde_json::Value> {
    serde_json::to_value(Envelope {
        kind: kind.to_owned(),
        format: FORMAT,
        model,
    })
    .map_err(|e| {
        Error::unexpected("a model cannot be written as JSON")
            .with("kind", kind)
            .source(e)
    })
}

fn read_model<T: DeserializeOwned>(kind: &'static str, json: serde_json::Value) -> Result<T> {
    let corrupt = |message: &'static str| {
        Error::new(ErrorKind::Corrupt, message)
            .operation("model.read")
            .with("kind", kind)
    };
    let found: Envelope<serde_json::Value> =
        serde_json::from_value(json).map_err(|_| corrupt("not a model; expected kind, format and model"))?;
    if found.kind != kind {
        return Err(corrupt("a model of another kind").with("found", found.kind));
    }
    if found.format != FORMAT {
        return Err(corrupt(
            "a model written in another format; use the version that wrote it, or fit again",
        )
        .with("found", found.format)
        .with("supported", FORMAT));
    }
    serde_json::from_value(found.model).map_err(|_| corrupt("the model's data are damaged; fit it again"))
}

/// Runs a library's computation; its panic becomes an error, since a host must not die of a fit.
fn guarded<T>(operation: &'static str, compute: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(compute)).unwrap_or_else(|_| {
        Err(
            Error::unexpected("the numeric library panicked on checked input; please report it")
                .operation(operation),
        )
    })
}

/// What linfa says when it cannot: the input was checked before, so that it is for the bug tracker.
fn classify(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unexpected("linfa could not compute on checked input; please report it").source(error)
}

fn as_array(x: &Matrix) -> Result<ndarray::Array2<f64>> {
    ndarray::Array2::from_shape_vec((x.rows(), x.cols()), x.as_slice().to_vec()).map_err(classify)
}

/// What classifiers ask of their classes; answers how many there are.
pub(crate) fn check_classes(operation: &'static str, x: &Matrix, classes: &[usize]) -> Result<usize> {
    let invalid = |message: &'static str| {
        Err(Error::invalid(message)
            .operation(operation)
            .with("rows", x.rows())
            .with("classes", classes.len()))
    };
    if classes.len() != x.rows() {
        return invalid("there are not as many classes as rows");
    }
    let Some(first) = classes.first() else {
        return invalid("there are no rows to learn from");
    };
    if classes.iter().all(|class| class == first) {
        return invalid("all rows are of one class: there is nothing to tell apart");
    }
    let count = classes.iter().max().map_or(0, |max| max.saturating_add(1));
    if count > 1 << 16 {
        return invalid("classes are numbered from 0; a number is too large");
    }
    if x.rows() >= 1 << 31 {
        return invalid("there are more rows than can be numbered");
    }
    Ok(count)
}

/// What regressors ask of their values; answers their (weighted) mean and sum of squares around it.
fn check_values(
    operation: &'static str,
    x: &Matrix,
    values: &[f64],
    weights: Option<&[f64]>,
) -> Result<(f64, f64)> {
    let invalid = |message: &'static str| Error::invalid(message).operation(operation);
    if values.len() != x.rows() {
        return Err(invalid("there are not as many values as rows")
            .with("rows", x.rows())
            .with("values", values.len()));
    }
    if values.is_empty() {
        return Err(invalid("there are no rows to learn from"));
    }
    if let Some(row) = values
        .iter()
        .position(|value| !value.is_finite() || value.abs() > 1e140)
    {
        return Err(invalid("a value is not finite, or too large to be squared").with("row", row));
    }
    if x.rows() >= 1 << 31 {
        return Err(invalid("there are more rows than can be numbered"));
    }
    if let Some(weights) = weights {
        check_weights(operation, x.rows(), weights)?;
    }
    let weight = |row: usize| weights.map_or(1.0, |w| w.get(row).copied().unwrap_or(0.0));
    let total: f64 = (0..values.len()).map(weight).sum();
    let mean = values
        .iter()
        .enumerate()
        .map(|(row, v)| weight(row) * v)
        .sum::<f64>()
        / total;
    let squares = values
        .iter()
        .enumerate()
        .map(|(row, v)| weight(row) * (v - mean) * (v - mean))
        .sum::<f64>();
    // A sum of values squared is at most the weights times the sum of squares (Cauchy and Schwarz): no gain overflows.
    if !mean.is_finite() || !(squares * total.max(1.0)).is_finite() {
        return Err(invalid(
            "values times weights are too large to be summed; scale them",
        ));
    }
    Ok((mean, squares))
}

/// The place for an answer must be as long as there are classes.
fn check_out(classes: usize, out: &[f64]) -> Result<()> {
    if out.len() == classes {
        return Ok(());
    }
    Err(
        Error::invalid("the place for the answer has another length than there are classes")
            .operation("model.score")
            .with("classes", classes)
            .with("places", out.len()),
    )
}

fn no_such_class(class: usize, classes: usize) -> Error {
    Error::invalid("there is no such class")
        .operation("model.explain")
        .with("class", class)
        .with("classes", classes)
}

fn unsound() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "the model's parts do not fit each other; fit it again",
    )
    .operation("model.read")
}

/// Weights must be as many as rows, none negative, not all 0.
fn check_weights(operation: &'static str, rows: usize, weights: &[f64]) -> Result<()> {
    let invalid = |message: &'static str| Error::invalid(message).operation(operation);
    if weights.len() != rows {
        return Err(invalid("there are not as many weights as rows")
            .with("rows", rows)
            .with("weights", weights.len()));
    }
    if let Some(row) = weights.iter().position(|w| !w.is_finite() || *w < 0.0) {
        return Err(invalid("a weight is negative or not finite").with("row", row));
    }
    let total: f64 = weights.iter().sum();
    // Gini impurity and gains square sums of weights.
    if total <= 0.0 || !(total * total).is_finite() {
        return Err(invalid(
            "weights sum to nothing, or to more than can be squared; divide them by the largest",
        ));
    }
    Ok(())
}

/// Values must neither overflow nor vanish when their differences are squared and summed.
fn squarable(operation: &'static str, x: &Matrix) -> Result<()> {
    let mut low = x.row(0).to_vec();
    let mut high = low.clone();
    for row in x.iter_rows() {
        for ((low, high), value) in low.iter_mut().zip(&mut high).zip(row) {
            *low = if *value < *low { *value } else { *low };
            *high = if *value > *high { *value } else { *high };
        }
    }
    let spread = low.iter().zip(&high).map(|(l, h)| h - l).fold(0.0, f64::max);
    let largest = low.iter().chain(&high).map(|v| v.abs()).fold(0.0, f64::max);
    if largest > 1e140 || (spread > 0.0 && spread < 1e-140) {
        return Err(Error::invalid(
            "the values are too large or too close to each other to be squared; scale the columns first",
        )
        .operation(operation));
    }
    Ok(())
}

/// The means of the columns.
fn column_means(x: &Matrix) -> Vec<f64> {
    let mut means = vec![0.0; x.cols()];
    for row in x.iter_rows() {
        means.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    means.iter_mut().for_each(|sum| *sum /= x.rows().max(1) as f64);
    means
}

/// The order of two rows, value by value.
fn by_values(a: &[f64], b: &[f64]) -> std::cmp::Ordering {
    let first = a.iter().zip(b).map(|(a, b)| a.total_cmp(b)).find(|o| o.is_ne());
    first.unwrap_or(std::cmp::Ordering::Equal)
}

/// Whether at least `wanted` rows differ from each other.
fn has_distinct_rows(x: &Matrix, wanted: usize) -> bool {
    let mut seen = std::collections::HashSet::new();
    for row in x.iter_rows() {
        // -0 equals 0.
        seen.insert(row.iter().map(|v| (v + 0.0).to_bits()).collect::<Vec<_>>());
        if seen.len() >= wanted {
            return true;
        }
    }
    seen.len() >= wanted
}
