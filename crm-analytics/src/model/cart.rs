use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{Classifier, ClassifierModel};
use crm_core::{Health, Matrix, Provider, ProviderInfo, Result};

use super::tree::{Fork, Node, TreeConfig, TreeModel, check_classes};

/// A decision tree that learns exactly and always the same (CART: Breiman, Friedman, Olshen and Stone 1984).
///
/// Every threshold between two different values of a column is tried and the one that lowers the Gini impurity most is
/// taken; the first column and the lowest threshold of equals. No randomness anywhere. This is the one to use; it is
/// here because [`super::LinfaDecisionTree`] cannot promise the same (see there).
#[derive(Debug, Clone)]
pub struct CartTree {
    info: ProviderInfo,
    config: TreeConfig,
}

impl CartTree {
    /// A provider named `cart`.
    ///
    /// # Errors
    /// As [`TreeConfig::validate`].
    pub fn new(config: TreeConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("cart", "cart"),
            config,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`CartTree::new`].
    pub fn shared(config: TreeConfig) -> Result<Arc<dyn Classifier>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Learns, as [`Classifier::fit`], and answers the model by its own type.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when lengths differ or there is only one class.
    pub fn learn(&self, x: &Matrix, classes: &[usize]) -> Result<TreeModel> {
        check_classes(x, classes)?;
        let class_count = classes.iter().max().map_or(0, |max| max + 1);
        let mut nodes = vec![Node {
            fork: None,
            counts: Vec::new(),
        }];
        let mut open = vec![(0, (0..x.rows()).collect::<Vec<usize>>(), 0)];
        while let Some((at, rows, depth)) = open.pop() {
            if depth >= self.config.max_depth {
                continue;
            }
            let Some((column, threshold)) = self.split(x, classes, class_count, &rows) else {
                continue;
            };
            let value = |row: usize| x.row(row).get(column).copied().unwrap_or(0.0);
            let (low, high): (Vec<usize>, Vec<usize>) =
                rows.into_iter().partition(|row| value(*row) <= threshold);
            let fork = Fork {
                column,
                threshold,
                low: nodes.len(),
                high: nodes.len() + 1,
            };
            open.push((fork.high, high, depth + 1));
            open.push((fork.low, low, depth + 1));
            if let Some(node) = nodes.get_mut(at) {
                node.fork = Some(fork);
            }
            nodes.extend([
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
        Ok(TreeModel::grown(x, classes, nodes))
    }

    /// The column and threshold that lower the impurity most; nothing when none does.
    fn split(
        &self,
        x: &Matrix,
        classes: &[usize],
        class_count: usize,
        rows: &[usize],
    ) -> Option<(usize, f64)> {
        let mut totals = vec![0_u64; class_count];
        let class_of = |row: usize| classes.get(row).copied().unwrap_or(0);
        for row in rows {
            *totals.get_mut(class_of(*row))? += 1;
        }
        let n = rows.len() as f64;
        let squares = |counts: &[u64]| counts.iter().map(|c| (*c as f64) * (*c as f64)).sum::<f64>();
        // Less impurity is a larger sum of squares over rows; a split must gain more than rounding could.
        let mut best: (f64, Option<(usize, f64)>) = (squares(&totals) / n + 1e-9 * n, None);
        let mut sorted: Vec<(f64, usize)> = Vec::with_capacity(rows.len());
        for column in 0..x.cols() {
            sorted.clear();
            sorted.extend(
                rows.iter()
                    .map(|row| (x.row(*row).get(column).copied().unwrap_or(0.0), class_of(*row))),
            );
            sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            let mut below = vec![0_u64; class_count];
            let mut above = totals.clone();
            for (i, pair) in sorted.windows(2).enumerate() {
                let [(value, class), (next, _)] = pair else {
                    continue;
                };
                *below.get_mut(*class)? += 1;
                *above.get_mut(*class)? -= 1;
                let low = i + 1;
                let high = sorted.len() - low;
                if value >= next || low.min(high) < self.config.min_leaf_rows {
                    continue;
                }
                let score = squares(&below) / low as f64 + squares(&above) / high as f64;
                if score > best.0 {
                    let middle = value + (next - value) / 2.0;
                    best = (
                        score,
                        Some((column, if middle < *next { middle } else { *value })),
                    );
                }
            }
        }
        best.1
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

impl Classifier for CartTree {
    fn fit(&self, x: &Matrix, classes: &[usize]) -> Result<Box<dyn ClassifierModel>> {
        Ok(Box::new(self.learn(x, classes)?))
    }
}
