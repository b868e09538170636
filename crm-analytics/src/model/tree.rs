use crm_core::capability::{ClassifierModel, Rule};
use crm_core::{Error, ErrorKind, Matrix, Result};
use serde::{Deserialize, Serialize};

use super::{read_model, same_columns, write_model};

/// How deep and how fine a decision tree is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TreeConfig {
    /// The most conditions on one way, 1 to 32. 3 unless said otherwise: rules people can read.
    pub max_depth: usize,
    /// The least rows a leaf has. 1 unless said otherwise.
    pub min_leaf_rows: usize,
}

impl Default for TreeConfig {
    fn default() -> Self {
        Self {
            max_depth: 3,
            min_leaf_rows: 1,
        }
    }
}

impl TreeConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        if !(1..=32).contains(&self.max_depth) {
            return Err(Error::config("a decision tree is 1 to 32 deep").with("setting", "max_depth"));
        }
        if self.min_leaf_rows == 0 {
            return Err(Error::config("a leaf has at least 1 row").with("setting", "min_leaf_rows"));
        }
        Ok(())
    }
}

/// A fork or a leaf; `low` and `high` are positions in the tree's list, always behind the fork's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    /// Column and threshold (`<=` goes low), low and high; absent for a leaf.
    pub(super) fork: Option<Fork>,
    /// The training rows of each class that came here.
    pub(super) counts: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fork {
    pub(super) column: usize,
    pub(super) threshold: f64,
    pub(super) low: usize,
    pub(super) high: usize,
}

impl Node {
    fn rows(&self) -> usize {
        self.counts.iter().sum()
    }
    /// The most frequent class; the first of equals.
    fn class(&self) -> usize {
        let best = self
            .counts
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(&a.0)));
        best.map_or(0, |(class, _)| class)
    }
    /// Gini impurity times rows.
    fn impurity(&self) -> f64 {
        let rows = self.rows() as f64;
        if rows == 0.0 {
            0.0
        } else {
            rows - self.counts.iter().map(|c| (*c as f64).powi(2)).sum::<f64>() / rows
        }
    }
}

/// Column, low side, threshold of each fork on a way.
type Conditions = Vec<(usize, bool, f64)>;

/// A learned decision tree, whoever learned it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeModel {
    columns: Vec<String>,
    classes: usize,
    nodes: Vec<Node>,
    importances: Vec<f64>,
}

impl TreeModel {
    const KIND: &'static str = "decision-tree";

    /// From nodes with their forks set; counts are taken from the rows, forks that decide nothing are removed.
    pub(super) fn grown(x: &Matrix, classes: &[usize], mut nodes: Vec<Node>) -> Self {
        let class_count = classes.iter().max().map_or(0, |max| max + 1);
        nodes
            .iter_mut()
            .for_each(|node| node.counts = vec![0; class_count]);
        for (row, class) in x.iter_rows().zip(classes) {
            let mut at = Some(0);
            while let Some(node) = at.and_then(|at| nodes.get_mut(at)) {
                if let Some(count) = node.counts.get_mut(*class) {
                    *count += 1;
                }
                at = node.fork.as_ref().map(|fork| fork.next(row));
            }
        }
        // Children stand behind their fork: from the back, every fork sees its children as they will be.
        for at in (0..nodes.len()).rev() {
            let same = nodes
                .get(at)
                .and_then(|node| node.fork.as_ref())
                .is_some_and(|fork| {
                    let leaf = |i: usize| nodes.get(i).filter(|n| n.fork.is_none());
                    match (leaf(fork.low), leaf(fork.high)) {
                        (Some(low), Some(high)) => {
                            low.rows() == 0 || high.rows() == 0 || low.class() == high.class()
                        }
                        _ => false,
                    }
                });
            if let Some(node) = nodes.get_mut(at).filter(|_| same) {
                node.fork = None;
            }
        }
        let nodes = compact(&nodes);
        let mut importances = vec![0.0; x.cols()];
        for node in &nodes {
            let Some(fork) = &node.fork else { continue };
            let children = [fork.low, fork.high]
                .iter()
                .filter_map(|i| nodes.get(*i))
                .map(Node::impurity)
                .sum::<f64>();
            if let Some(importance) = importances.get_mut(fork.column) {
                *importance += (node.impurity() - children).max(0.0);
            }
        }
        let total: f64 = importances.iter().sum();
        if total > 0.0 {
            importances.iter_mut().for_each(|importance| *importance /= total);
        }
        Self {
            columns: x.columns().to_vec(),
            classes: class_count,
            nodes,
            importances,
        }
    }

    /// Reads a model written by [`ClassifierModel::to_json`].
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is none, of another kind or format, or its forks do not make a tree.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let model: Self = read_model(Self::KIND, json)?;
        let sound = !model.nodes.is_empty()
            && model.importances.len() == model.columns.len()
            && model.nodes.iter().enumerate().all(|(at, node)| {
                node.counts.len() == model.classes
                    && node.fork.as_ref().is_none_or(|fork| {
                        let behind = |to: usize| to > at && to < model.nodes.len();
                        fork.column < model.columns.len() && behind(fork.low) && behind(fork.high)
                    })
            });
        if sound {
            return Ok(model);
        }
        Err(Error::new(ErrorKind::Corrupt, "the model's forks do not make a tree").operation("model.read"))
    }

    /// The number of leaves.
    pub fn leaves(&self) -> usize {
        self.nodes.iter().filter(|node| node.fork.is_none()).count()
    }

    /// The most conditions on one way.
    pub fn depth(&self) -> usize {
        let mut depths = vec![0; self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(fork) = &node.fork else { continue };
            let below = depths.get(at).map_or(0, |depth| depth + 1);
            for child in [fork.low, fork.high] {
                if let Some(depth) = depths.get_mut(child) {
                    *depth = below;
                }
            }
        }
        depths.into_iter().max().unwrap_or(0)
    }

    fn class_of(&self, row: &[f64]) -> usize {
        let mut at = 0;
        loop {
            match self.nodes.get(at) {
                Some(Node { fork: Some(fork), .. }) => at = fork.next(row),
                Some(leaf) => return leaf.class(),
                None => return 0,
            }
        }
    }

    /// What orders two trees over the same rows: fewer leaves, then columns and thresholds.
    pub(super) fn shape(&self) -> (usize, Vec<(usize, u64)>) {
        let forks = self
            .nodes
            .iter()
            .filter_map(|n| n.fork.as_ref())
            .map(|f| (f.column, f.threshold.to_bits()));
        (self.leaves(), forks.collect())
    }
}

impl Fork {
    fn next(&self, row: &[f64]) -> usize {
        if row.get(self.column).is_some_and(|value| *value <= self.threshold) {
            self.low
        } else {
            self.high
        }
    }
}

/// Leaves out what can no longer be reached; positions stay in order.
fn compact(nodes: &[Node]) -> Vec<Node> {
    let mut reached = vec![false; nodes.len()];
    if let Some(root) = reached.first_mut() {
        *root = true;
    }
    for (at, node) in nodes.iter().enumerate() {
        if let (Some(true), Some(fork)) = (reached.get(at).copied(), &node.fork) {
            for child in [fork.low, fork.high] {
                if let Some(flag) = reached.get_mut(child) {
                    *flag = true;
                }
            }
        }
    }
    let mut next = 0;
    let places: Vec<usize> = reached
        .iter()
        .map(|kept| {
            let place = next;
            next += usize::from(*kept);
            place
        })
        .collect();
    let place = |at: usize| places.get(at).copied().unwrap_or(0);
    nodes
        .iter()
        .zip(&reached)
        .filter(|(_, kept)| **kept)
        .map(|(node, _)| Node {
            fork: node.fork.as_ref().map(|f| Fork {
                low: place(f.low),
                high: place(f.high),
                ..f.clone()
            }),
            counts: node.counts.clone(),
        })
        .collect()
}

impl ClassifierModel for TreeModel {
    fn predict(&self, x: &Matrix) -> Result<Vec<usize>> {
        same_columns("tree.predict", &self.columns, x)?;
        Ok(x.iter_rows().map(|row| self.class_of(row)).collect())
    }

    fn importances(&self) -> &[f64] {
        &self.importances
    }

    fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut open: Vec<(usize, Conditions)> = vec![(0, Vec::new())];
        while let Some((at, conditions)) = open.pop() {
            let Some(node) = self.nodes.get(at) else { continue };
            if let Some(fork) = &node.fork {
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
            let (class, rows) = (node.class(), node.rows());
            let hits = node.counts.get(class).copied().unwrap_or(0);
            let name = |column: usize| self.columns.get(column).cloned().unwrap_or_default();
            rules.push(Rule {
                class,
                conditions: conditions
                    .into_iter()
                    .map(|(column, low, value)| (name(column), low, value))
                    .collect(),
                rows,
                purity: if rows == 0 { 0.0 } else { hits as f64 / rows as f64 },
            });
        }
        rules
    }

    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}

/// What every tree asks of its input.
pub(super) fn check_classes(x: &Matrix, classes: &[usize]) -> Result<()> {
    let invalid = |message: &'static str| {
        Err(Error::invalid(message)
            .operation("tree.fit")
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
    if classes.iter().any(|class| *class >= 1 << 16) {
        return invalid("classes are numbered from 0; a number is too large");
    }
    Ok(())
}
