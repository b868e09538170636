//! Models: groups (k-means), directions (principal components) and rules (decision trees).
//!
//! Each is a provider of a capability of `crm_core`, configured by data; what it learns is data too (`to_json`,
//! `from_json`), and reads back equal to the last bit. The numbers are linfa's where linfa 0.8 is right, and checked or
//! computed again where it is not; each provider says which.
//!
//! ```
//! use crm_analytics::model::{KMeansConfig, KMeansModel, LinfaKMeans};
//! use crm_core::Matrix;
//! use crm_core::capability::{ClusterModel, Clusterer};
//!
//! let x = Matrix::new(vec!["spend".into()], vec![1.0, 2.0, 90.0, 91.0, 92.0]).unwrap();
//! let model = LinfaKMeans::new(KMeansConfig::new(2)).unwrap().fit(&x, 7).unwrap();
//! assert_eq!(model.predict(&x).unwrap(), [Some(1), Some(1), Some(0), Some(0), Some(0)]);
//! let again = KMeansModel::from_json(model.to_json().unwrap()).unwrap();
//! assert_eq!(again.centers(), model.centers());
//! ```

mod cart;
mod choose;
mod kmeans;
mod linfa_tree;
mod pca;
mod tree;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use cart::CartTree;
pub use choose::{Choice, ClusterScore, choose_clusters};
pub use kmeans::{KMeansConfig, KMeansModel, LinfaKMeans};
pub use linfa_tree::LinfaDecisionTree;
pub use pca::{LinfaPca, PcaConfig, PcaModel};
pub use tree::{TreeConfig, TreeModel};

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

/// The columns must be those a model was fitted on, in the same order.
fn same_columns(operation: &'static str, fitted: &[String], found: &Matrix) -> Result<()> {
    if fitted == found.columns() {
        return Ok(());
    }
    Err(
        Error::invalid("the columns are not those the model was fitted on, or in another order")
            .operation(operation)
            .with("fitted", fitted.join(" "))
            .with("found", found.columns().join(" ")),
    )
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
