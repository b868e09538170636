use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{Classifier, ClassifierModel};
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use linfa::Dataset;
use linfa::traits::Fit;
use linfa_trees::{DecisionTree, TreeNode};
use ndarray::Array1;

use super::tree::{Fork, Node, TreeConfig, TreeModel, check_classes};
use super::{as_array, classify, guarded};
use crate::metrics::accuracy;

/// How many trees are grown to choose from: near-ties seldom have more than two outcomes.
const GROWN: usize = 5;

/// linfa's decision tree, for those who want that very one; [`super::CartTree`] is exact and reproducible.
///
/// What is known of linfa 0.8.1, and what is done about it here:
/// - It sums weights in the order of a randomly seeded map, so that near-ties fall either way from run to run. Here,
///   several trees are grown and the canonical one is kept: most accurate on the training rows, then fewest leaves, then
///   smallest columns and thresholds. Different answers become rare, **not impossible**.
/// - It may overlook a split of a 0/1 column. Nothing can be done about that from outside.
/// - It takes values closer than 1e-5 as equal. Columns are scaled by a power of two first, which loses no bit.
/// - Its importances do not weigh nodes by their rows. Counts, purities and importances are computed anew here.
#[derive(Debug, Clone)]
pub struct LinfaDecisionTree {
    info: ProviderInfo,
    config: TreeConfig,
}

impl LinfaDecisionTree {
    /// A provider named `linfa-tree`.
    ///
    /// # Errors
    /// As [`TreeConfig::validate`].
    pub fn new(config: TreeConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("linfa-tree", "linfa-tree"),
            config,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`LinfaDecisionTree::new`].
    pub fn shared(config: TreeConfig) -> Result<Arc<dyn Classifier>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Learns, as [`Classifier::fit`], and answers the model by its own type.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when lengths differ or there is only one class.
    pub fn learn(&self, x: &Matrix, classes: &[usize]) -> Result<TreeModel> {
        check_classes(x, classes)?;
        let scales: Vec<f64> = (0..x.cols())
            .map(|col| power_of_two_of_range(x.iter_col(col)))
            .collect();
        let mut scaled = as_array(x)?;
        for (mut column, scale) in scaled.columns_mut().into_iter().zip(&scales) {
            column.mapv_inplace(|value| value / scale);
        }
        let dataset = Dataset::new(scaled, Array1::from(classes.to_vec()));
        let mut best: Option<(usize, TreeModel)> = None;
        for _ in 0..GROWN {
            let tree = guarded("tree.fit", || {
                DecisionTree::params()
                    .max_depth(Some(self.config.max_depth))
                    .min_weight_leaf(self.config.min_leaf_rows as f32)
                    .fit(&dataset)
                    .map_err(classify)
            })?;
            let model = TreeModel::grown(x, classes, nodes(tree.root_node(), &scales)?);
            let right = (accuracy(classes, &model.predict(x)?)? * classes.len() as f64).round() as usize;
            let better = best
                .as_ref()
                .is_none_or(|(most, kept)| right > *most || (right == *most && model.shape() < kept.shape()));
            if better {
                best = Some((right, model));
            }
        }
        best.map(|(_, model)| model)
            .ok_or_else(|| Error::unexpected("no tree was grown").operation("tree.fit"))
    }
}

/// The largest power of two not above the column's range; 1 for a constant column.
fn power_of_two_of_range(values: impl Iterator<Item = f64>) -> f64 {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
        (l.min(v), h.max(v))
    });
    let range = high - low;
    if range.is_normal() {
        2.0_f64.powi(range.log2().floor().clamp(-900.0, 900.0) as i32)
    } else {
        1.0
    }
}

/// linfa's tree as a list, children behind their fork, thresholds in the columns' own units.
fn nodes(root: &TreeNode<f64, usize>, scales: &[f64]) -> Result<Vec<Node>> {
    let odd = || {
        Error::unexpected("linfa answered a fork without two children; please report it")
            .operation("tree.fit")
    };
    let mut list = vec![Node {
        fork: None,
        counts: Vec::new(),
    }];
    let mut open = vec![(0, root)];
    while let Some((at, node)) = open.pop() {
        if node.is_leaf() {
            continue;
        }
        let (column, threshold, _) = node.split();
        let children: Vec<&TreeNode<f64, usize>> =
            node.children().into_iter().flatten().map(|c| &**c).collect();
        let [low, high] = children.as_slice() else {
            return Err(odd());
        };
        let scale = scales.get(column).copied().ok_or_else(odd)?;
        // linfa goes low below the threshold, this list up to it.
        let fork = Fork {
            column,
            threshold: threshold.next_down() * scale,
            low: list.len(),
            high: list.len() + 1,
        };
        open.push((fork.low, *low));
        open.push((fork.high, *high));
        if let Some(node) = list.get_mut(at) {
            node.fork = Some(fork);
        }
        list.extend([
            Node {
                fork: None,
                counts: Vec::new(),
            },
            Node {
                fork: None,
                counts: Vec::new(),
            },
        ]);
    }
    Ok(list)
}

#[async_trait]
impl Provider for LinfaDecisionTree {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Classifier for LinfaDecisionTree {
    fn fit(&self, x: &Matrix, classes: &[usize]) -> Result<Box<dyn ClassifierModel>> {
        Ok(Box::new(self.learn(x, classes)?))
    }
}
