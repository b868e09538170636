//! Charts of what models and their judges say.

use crm_core::Matrix;

use super::data::{Tree, TreeNode};
use super::figure;
use super::{Chart, NumberOfGroups};
use crate::judge::{ColumnImportance, Drift, GroupChoice};
use crate::metrics::{LiftTable, PrecisionRecall, Reliability, Roc};
use crate::model::TreeModel;

impl From<&Roc> for Chart {
    fn from(found: &Roc) -> Self {
        let points = found
            .points
            .iter()
            .map(|p| (p.false_positive_rate, p.true_positive_rate));
        Self::roc(points.collect(), found.auc, found.interval())
    }
}

impl From<&PrecisionRecall> for Chart {
    fn from(found: &PrecisionRecall) -> Self {
        let points = found.points.iter().map(|p| (p.recall, p.precision));
        Self::precision_recall(points.collect(), found.average_precision, found.baseline)
    }
}

impl From<&LiftTable> for Chart {
    fn from(found: &LiftTable) -> Self {
        let parts: Vec<(f64, f64)> = found.parts.iter().map(|part| (part.gain, part.lift)).collect();
        Self::gain_and_lift(&parts)
    }
}

impl From<&Reliability> for Chart {
    fn from(found: &Reliability) -> Self {
        let bins: Vec<(f64, f64, u64)> = found
            .bins
            .iter()
            .map(|bin| (bin.predicted, bin.observed, bin.rows as u64))
            .collect();
        Self::calibration(&bins)
    }
}

impl From<&Drift> for Chart {
    fn from(found: &Drift) -> Self {
        Self::drift(
            found
                .columns
                .iter()
                .map(|column| (column.column.clone(), column.psi))
                .collect(),
        )
    }
}

impl From<&GroupChoice> for Chart {
    fn from(found: &GroupChoice) -> Self {
        let tried: Vec<NumberOfGroups> = found
            .tried
            .iter()
            .map(|tried| NumberOfGroups {
                groups: tried.clusters,
                inertia: tried.inertia,
                silhouette: Some((tried.silhouette.mean, tried.silhouette.error)),
                gap: tried.gap,
            })
            .collect();
        Self::number_of_groups(&tried, found.recommended)
    }
}

impl Chart {
    /// What each column is worth to a model: the loss when it is mixed up, and its spread over the repeats.
    pub fn permutation_importances(found: &[ColumnImportance]) -> Self {
        let parts = found
            .iter()
            .map(|column| (column.column.clone(), column.loss, Some(column.deviation)));
        Self::importances("What the prediction rests on", parts.collect())
    }

    /// A decision tree with the names of its classes; classes without a name get their number.
    ///
    /// ```
    /// use crm_analytics::model::{CartTree, TreeConfig};
    /// use crm_analytics::plot::Chart;
    /// use crm_core::Matrix;
    ///
    /// let x = Matrix::new(vec!["visits".into()], vec![1.0, 2.0, 8.0, 9.0]).unwrap();
    /// let tree = CartTree::new(TreeConfig::new(2)).unwrap().learn(&x, &[1, 1, 0, 0], None).unwrap();
    /// let text = Chart::tree("Who leaves", &tree, &["stays", "leaves"]).text(60);
    /// assert!(text.contains("visits ≤ 5"), "{text}");
    /// ```
    pub fn tree(title: impl Into<String>, tree: &TreeModel, classes: &[&str]) -> Self {
        let nodes = tree.outline().map(|node| {
            let rows = format!("{} customers", figure(node.rows as f64));
            match node.fork {
                Some((column, threshold, low, high)) => TreeNode {
                    lines: vec![format!("{column} ≤ {}", figure(threshold)), rows],
                    children: vec![(low, "yes".into()), (high, "no".into())],
                    ..TreeNode::default()
                },
                None => TreeNode {
                    lines: vec![
                        classes
                            .get(node.class)
                            .map_or_else(|| format!("class {}", node.class), |name| (*name).to_owned()),
                        format!("{:.0} % of {}", node.share * 100.0, figure(node.rows as f64)),
                    ],
                    group: Some(node.class),
                    purity: node.share,
                    children: vec![],
                },
            }
        });
        Self::Tree(Tree {
            title: title.into(),
            note: "To the left when the condition holds; the colour is the answer, the stronger the surer"
                .into(),
            nodes: nodes.collect(),
        })
    }

    /// Pearson's correlations of the columns of a table, empty for columns that do not vary.
    pub fn correlations_of(x: &Matrix) -> Self {
        // Each column centred and of length 1, scaled first so that squares of large numbers are still numbers.
        let units: Vec<Option<Vec<f64>>> = (0..x.cols())
            .map(|col| {
                let largest = x.iter_col(col).fold(0.0, |most: f64, v| most.max(v.abs()));
                let scaled: Vec<f64> = x.iter_col(col).map(|v| v / largest).collect();
                let mean = scaled.iter().sum::<f64>() / scaled.len().max(1) as f64;
                let length = scaled.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>().sqrt();
                let varies = length.is_finite() && length > 1e-12 * (scaled.len() as f64).sqrt();
                varies.then(|| scaled.iter().map(|v| (v - mean) / length).collect())
            })
            .collect();
        let value = |a: &Option<Vec<f64>>, b: &Option<Vec<f64>>| {
            let (a, b) = (a.as_ref()?, b.as_ref()?);
            let sum: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            Some(sum.clamp(-1.0, 1.0))
        };
        let matrix = units.iter().map(|a| units.iter().map(|b| value(a, b)).collect());
        Self::correlations(x.columns().to_vec(), matrix.collect())
    }
}
