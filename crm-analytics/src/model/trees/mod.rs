//! Trees alone, in forests and boosted, on one engine.

mod bins;
mod boost;
mod boosted;
mod cart;
mod criteria;
mod forest;
mod forested;
mod grow;
mod linfa_tree;
mod model;
mod nodes;
mod shap;

pub use boost::{BoostConfig, GradientBoosting, GradientBoostingRegressor};
pub use boosted::{BoostedModel, BoostedRegressorModel};
pub(crate) use boosted::{logistic, softmax};
pub use cart::{CartRegressor, CartTree, Split, TreeConfig};
pub use forest::{ForestConfig, RandomForest, RandomForestRegressor};
pub use forested::{ForestModel, ForestRegressorModel};
pub use linfa_tree::LinfaDecisionTree;
pub use model::{TreeModel, TreeRegressorModel};
