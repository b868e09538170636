//! Choosing and judging models: how many groups there are and how firm they are, what a model is worth on rows it has not
//! seen, whether its probabilities are true, what matters to it, and whether the world has moved since.
//!
//! Everything is seeded, and everything answered is plain data that can be stored and drawn.
//!
//! ```
//! use crm_analytics::judge::{Split, cross_validate};
//! use crm_analytics::model::ModelSpec;
//! use crm_core::Matrix;
//!
//! let x = Matrix::new(vec!["visits".into()], (0..40).map(f64::from).collect()).unwrap();
//! let left: Vec<usize> = (0..40).map(|visits| usize::from(visits < 10)).collect();
//! let tree = ModelSpec::new("cart").classifier(1).unwrap();
//! let found = cross_validate(&*tree, &x, &left, &Split::Stratified(&left), 5, 7).unwrap();
//! assert!(found.accuracy > 0.9 && found.folds.len() == 5);
//! ```

mod calibrate;
mod choose;
mod cross;
mod drift;
mod permute;
mod split;
mod stable;

pub use calibrate::{Calibration, Method};
pub use choose::{GroupChoice, GroupCriteria, GroupsTried, choose_groups};
pub use cross::{
    ClassFold, CrossValidation, NumberFold, NumberValidation, cross_validate, cross_validate_numbers,
};
pub use drift::{ColumnDrift, Drift, DriftBin, drift, psi};
pub use permute::{ColumnImportance, permutation_importance, permutation_importance_of_numbers};
pub use split::{Fold, Split, folds, train_test};
pub use stable::{Stability, stability};
