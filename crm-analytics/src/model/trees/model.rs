use crm_core::capability::{ClassifierModel, Contributions, RegressorModel, Rule};
use crm_core::matrix::check_row;
use crm_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::cart::TreeConfig;
use super::nodes::{Node, Nodes};
use super::shap::explain;
use crate::model::{check_out, no_such_class, read_model, unsound, write_model};

/// Column, low side, threshold of each fork on a way.
type Conditions = Vec<(usize, bool, f64)>;

/// A learned decision tree, whoever learned it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeModel {
    columns: Vec<String>,
    classes: usize,
    nodes: Nodes,
    importances: Vec<f64>,
    #[serde(default)]
    smoothing: bool,
    #[serde(default)]
    missing: Option<f64>,
}

/// A node as it is drawn.
#[cfg(feature = "plot")]
pub(crate) struct NodeOutline<'t> {
    /// Column, threshold (`<=` goes to the first child) and the places of both children; absent for a leaf.
    pub(crate) fork: Option<(&'t str, f64, usize, usize)>,
    /// The training rows that came here.
    pub(crate) rows: usize,
    /// The heaviest class.
    pub(crate) class: usize,
    /// Its share of the weight.
    pub(crate) share: f64,
}

impl Node {
    /// The heaviest class; the first of equals.
    fn class(&self) -> usize {
        let heaviest =
            self.values
                .iter()
                .enumerate()
                .fold((0, f64::NEG_INFINITY), |best, (class, weight)| {
                    if *weight > best.1 { (class, *weight) } else { best }
                });
        heaviest.0
    }
}

impl TreeModel {
    pub(in crate::model) const KIND: &'static str = "decision-tree";

    pub(super) fn new(
        columns: Vec<String>,
        classes: usize,
        nodes: Nodes,
        importances: Vec<f64>,
        config: &TreeConfig,
    ) -> Self {
        Self {
            columns,
            classes,
            nodes,
            importances,
            smoothing: config.smoothing,
            missing: config.missing,
        }
    }

    /// Reads a model written by [`ClassifierModel::to_json`].
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is none, of another kind or format, or its forks do not make a tree.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let model: Self = read_model(Self::KIND, json)?;
        if model.classes == 0
            || model.importances.len() != model.columns.len()
            || !model.nodes.sound(model.columns.len(), model.classes)
        {
            return Err(unsound());
        }
        Ok(model)
    }

    /// The nodes in their order, for drawing.
    #[cfg(feature = "plot")]
    pub(crate) fn outline(&self) -> impl Iterator<Item = NodeOutline<'_>> {
        self.nodes.0.iter().map(|node| {
            let class = node.class();
            let all: f64 = node.values.iter().sum();
            NodeOutline {
                fork: node.fork.as_ref().and_then(|fork| {
                    let column = self.columns.get(fork.column)?;
                    Some((column.as_str(), fork.threshold, fork.low, fork.high))
                }),
                rows: node.rows,
                class,
                share: node
                    .values
                    .get(class)
                    .map_or(0.0, |w| if all > 0.0 { w / all } else { 0.0 }),
            }
        })
    }

    /// The number of leaves.
    pub fn leaves(&self) -> usize {
        self.nodes.leaves()
    }

    /// The most conditions on one way.
    pub fn depth(&self) -> usize {
        self.nodes.depth()
    }

    /// What orders two trees over the same rows: fewer leaves, then columns and thresholds.
    pub(super) fn shape(&self) -> (usize, Vec<(usize, u64)>) {
        let forks = self.nodes.0.iter().filter_map(|n| n.fork.as_ref());
        (
            self.leaves(),
            forks.map(|f| (f.column, f.threshold.to_bits())).collect(),
        )
    }

    fn name(&self, column: usize) -> String {
        self.columns.get(column).cloned().unwrap_or_default()
    }

    /// For each node, the class all leaves under it agree on.
    fn agreed(&self) -> Vec<Option<usize>> {
        let nodes = &self.nodes.0;
        let mut agreed: Vec<Option<usize>> = vec![None; nodes.len()];
        for (at, node) in nodes.iter().enumerate().rev() {
            let class = match &node.fork {
                None => Some(node.class()),
                Some(fork) => {
                    let of = |child: usize| agreed.get(child).copied().flatten();
                    of(fork.low).filter(|class| of(fork.high) == Some(*class))
                }
            };
            if let Some(place) = agreed.get_mut(at) {
                *place = class;
            }
        }
        agreed
    }

    /// The rules as lines of text, the likeliest to matter first: `IF visits <= 3 AND spend > 20 THEN class 1 (0.93 of 412
    /// rows)`. `classes` names the classes; a number stands for those without a name.
    ///
    /// ```
    /// use crm_analytics::model::{CartTree, TreeConfig};
    /// use crm_core::Matrix;
    ///
    /// let x = Matrix::new(vec!["visits".into()], vec![1.0, 2.0, 8.0, 9.0]).unwrap();
    /// let tree = CartTree::new(TreeConfig::new(2)).unwrap().learn(&x, &[1, 1, 0, 0], None).unwrap();
    /// assert_eq!(tree.text(&["stays", "leaves"])[0], "IF visits > 5 THEN stays (1.00 of 2 rows)");
    /// ```
    pub fn text(&self, classes: &[&str]) -> Vec<String> {
        let mut rules = self.rules();
        rules.sort_by(|a, b| b.rows.cmp(&a.rows).then(a.class.cmp(&b.class)));
        rules
            .iter()
            .map(|rule| {
                let conditions: Vec<String> = rule
                    .conditions
                    .iter()
                    .map(|(column, low, threshold)| {
                        format!("{column} {} {threshold}", if *low { "<=" } else { ">" })
                    })
                    .collect();
                let class = classes
                    .get(rule.class)
                    .map_or_else(|| format!("class {}", rule.class), |name| (*name).to_owned());
                let way = if conditions.is_empty() {
                    "always".to_owned()
                } else {
                    conditions.join(" AND ")
                };
                format!("IF {way} THEN {class} ({:.2} of {} rows)", rule.purity, rule.rows)
            })
            .collect()
    }
}

impl ClassifierModel for TreeModel {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn score_row(&self, row: &[f64], out: &mut [f64]) -> Result<()> {
        check_row(&self.columns, row)?;
        check_out(self.classes, out)?;
        if let Some(leaf) = self.nodes.leaf(row, self.missing) {
            probabilities(&leaf.values, self.smoothing, out);
        }
        Ok(())
    }

    fn importances(&self) -> &[f64] {
        &self.importances
    }

    /// Leaves that agree on the class are told as one rule.
    fn rules(&self) -> Vec<Rule> {
        let agreed = self.agreed();
        let mut rules = Vec::new();
        let mut open: Vec<(usize, Conditions)> = vec![(0, Vec::new())];
        while let Some((at, conditions)) = open.pop() {
            let Some(node) = self.nodes.0.get(at) else {
                continue;
            };
            let told = agreed.get(at).copied().flatten();
            if let (Some(fork), None) = (&node.fork, told) {
                for (child, low) in [(fork.high, false), (fork.low, true)] {
                    let mut conditions = conditions.clone();
                    // A later condition on the same column and side is always the tighter one.
                    match conditions
                        .iter_mut()
                        .find(|(column, side, _)| *column == fork.column && *side == low)
                    {
                        Some(condition) => condition.2 = fork.threshold,
                        None => conditions.push((fork.column, low, fork.threshold)),
                    }
                    open.push((child, conditions));
                }
                continue;
            }
            let class = told.unwrap_or_else(|| node.class());
            let all: f64 = node.values.iter().sum();
            let hits = node.values.get(class).copied().unwrap_or(0.0);
            rules.push(Rule {
                class,
                conditions: conditions
                    .into_iter()
                    .map(|(column, low, value)| (self.name(column), low, value))
                    .collect(),
                rows: node.rows,
                purity: if all > 0.0 { hits / all } else { 0.0 },
            });
        }
        rules
    }

    fn explain_row(&self, row: &[f64], class: usize) -> Result<Option<Contributions>> {
        check_row(&self.columns, row)?;
        if class >= self.classes {
            return Err(no_such_class(class, self.classes));
        }
        // Of probabilities, not of weights.
        let nodes = Nodes(
            self.nodes
                .0
                .iter()
                .map(|node| {
                    let mut values = vec![0.0; self.classes];
                    probabilities(&node.values, self.smoothing, &mut values);
                    Node {
                        values,
                        ..node.clone()
                    }
                })
                .collect(),
        );
        let mut parts = vec![0.0; self.columns.len()];
        let base = explain(&nodes, row, self.missing, class, 1.0, &mut parts);
        Ok(Some(Contributions { base, parts }))
    }

    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}

/// Weights as probabilities.
pub(super) fn probabilities(weights: &[f64], smoothing: bool, out: &mut [f64]) {
    let more = f64::from(u8::from(smoothing));
    let total: f64 = weights.iter().sum::<f64>() + more * weights.len() as f64;
    for (out, weight) in out.iter_mut().zip(weights) {
        *out = if total > 0.0 {
            (weight + more) / total
        } else {
            1.0 / weights.len() as f64
        };
    }
}

/// A learned tree of numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeRegressorModel {
    columns: Vec<String>,
    nodes: Nodes,
    importances: Vec<f64>,
    missing: Option<f64>,
}

impl TreeRegressorModel {
    pub(in crate::model) const KIND: &'static str = "regression-tree";

    pub(super) fn new(
        columns: Vec<String>,
        nodes: Nodes,
        importances: Vec<f64>,
        missing: Option<f64>,
    ) -> Self {
        Self {
            columns,
            nodes,
            importances,
            missing,
        }
    }

    /// Reads a model written by [`RegressorModel::to_json`].
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is none, of another kind or format, or its forks do not make a tree.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let model: Self = read_model(Self::KIND, json)?;
        if model.importances.len() != model.columns.len() || !model.nodes.sound(model.columns.len(), 1) {
            return Err(unsound());
        }
        Ok(model)
    }

    /// The number of leaves.
    pub fn leaves(&self) -> usize {
        self.nodes.leaves()
    }

    /// The most conditions on one way.
    pub fn depth(&self) -> usize {
        self.nodes.depth()
    }
}

impl RegressorModel for TreeRegressorModel {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn score_row(&self, row: &[f64]) -> Result<f64> {
        check_row(&self.columns, row)?;
        let leaf = self
            .nodes
            .leaf(row, self.missing)
            .and_then(|leaf| leaf.values.first());
        leaf.copied()
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "a leaf without a value"))
    }

    fn importances(&self) -> &[f64] {
        &self.importances
    }

    fn explain_row(&self, row: &[f64]) -> Result<Option<Contributions>> {
        check_row(&self.columns, row)?;
        let mut parts = vec![0.0; self.columns.len()];
        let base = explain(&self.nodes, row, self.missing, 0, 1.0, &mut parts);
        Ok(Some(Contributions { base, parts }))
    }

    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}
