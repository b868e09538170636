use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{Classifier, ClassifierModel};
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use linfa::Dataset;
use linfa::traits::Fit;
use linfa_trees::{DecisionTree, TreeNode};
use ndarray::Array1;

use super::cart::TreeConfig;
use super::model::TreeModel;
use super::nodes::{Fork, Node, Nodes, shares};
use crate::metrics::accuracy;
use crate::model::{as_array, check_classes, classify, guarded};

/// How many trees are grown to choose from: near-ties seldom have more than two outcomes.
const GROWN: usize = 5;

/// linfa's decision tree, for those who want that very one; [`super::CartTree`] is exact, takes weights and reproducible.
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
        let count = check_classes("tree.fit", x, classes)?;
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
            let model = counted(x, classes, count, nodes(tree.root_node(), &scales)?, &self.config);
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
    let leaf = || Node {
        fork: None,
        rows: 0,
        values: Vec::new(),
    };
    let mut list = vec![leaf()];
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
            missing_low: false,
        };
        open.push((fork.low, *low));
        open.push((fork.high, *high));
        if let Some(node) = list.get_mut(at) {
            node.fork = Some(fork);
        }
        list.extend([leaf(), leaf()]);
    }
    Ok(list)
}

/// The model from forks: rows are counted anew, forks that part nothing are left out.
fn counted(
    x: &Matrix,
    classes: &[usize],
    count: usize,
    mut nodes: Vec<Node>,
    config: &TreeConfig,
) -> TreeModel {
    nodes.iter_mut().for_each(|node| node.values = vec![0.0; count]);
    for (row, class) in x.iter_rows().zip(classes) {
        let mut at = Some(0);
        while let Some(node) = at.and_then(|at| nodes.get_mut(at)) {
            node.rows += 1;
            if let Some(weight) = node.values.get_mut(*class) {
                *weight += 1.0;
            }
            at = node.fork.as_ref().map(|fork| fork.next(row, None));
        }
    }
    // A fork that sends all rows one way stands for that child.
    for at in (0..nodes.len()).rev() {
        let rows = |child: usize| nodes.get(child).map_or(0, |node| node.rows);
        let way = nodes
            .get(at)
            .and_then(|node| node.fork.as_ref())
            .and_then(|fork| match (rows(fork.low), rows(fork.high)) {
                (_, 0) => Some(fork.low),
                (0, _) => Some(fork.high),
                _ => None,
            });
        if let Some(child) = way.and_then(|child| nodes.get(child).cloned())
            && let Some(node) = nodes.get_mut(at)
        {
            *node = child;
        }
    }
    let nodes = Nodes(nodes).compacted();
    // Gini impurity times rows.
    let impurity = |node: &Node| {
        let rows: f64 = node.values.iter().sum();
        if rows > 0.0 {
            rows - node.values.iter().map(|c| c * c).sum::<f64>() / rows
        } else {
            0.0
        }
    };
    let mut gains = vec![0.0; x.cols()];
    for node in &nodes.0 {
        let Some(fork) = &node.fork else { continue };
        let children = [fork.low, fork.high]
            .iter()
            .filter_map(|i| nodes.0.get(*i))
            .map(impurity)
            .sum::<f64>();
        if let Some(gain) = gains.get_mut(fork.column) {
            *gain += (impurity(node) - children).max(0.0);
        }
    }
    let plain = TreeConfig {
        missing: None,
        ..config.clone()
    };
    TreeModel::new(x.columns().to_vec(), count, nodes, shares(gains), &plain)
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
    fn fit(&self, x: &Matrix, classes: &[usize], _seed: u64) -> Result<Box<dyn ClassifierModel>> {
        Ok(Box::new(self.learn(x, classes)?))
    }
}
