//! A grown tree as data.

use serde::{Deserialize, Serialize};

use super::grow::Grown;

/// Column and threshold (`<=` goes low) of a fork; `low` and `high` are places in the tree's list, always behind its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fork {
    pub(super) column: usize,
    pub(super) threshold: f64,
    /// Where missing values go.
    #[serde(default)]
    pub(super) missing_low: bool,
    pub(super) low: usize,
    pub(super) high: usize,
}

impl Fork {
    pub(super) fn next(&self, row: &[f64], missing: Option<f64>) -> usize {
        let value = row.get(self.column).copied();
        let low = if missing.is_some() && value == missing {
            self.missing_low
        } else {
            value.is_some_and(|value| value <= self.threshold)
        };
        if low { self.low } else { self.high }
    }
}

/// A fork or a leaf.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    /// Absent for a leaf.
    pub(super) fork: Option<Fork>,
    /// The training rows that came here.
    pub(super) rows: usize,
    /// The weight of each class, or the value.
    pub(super) values: Vec<f64>,
}

/// The nodes of a tree, the root first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Nodes(pub(super) Vec<Node>);

impl Nodes {
    /// From what grew; `prune` is the gain a leaf must bring.
    pub(super) fn of(
        grown: &[Grown],
        rows: impl Fn(&Grown) -> usize,
        values: impl Fn(&Grown) -> Vec<f64>,
        prune: f64,
    ) -> Self {
        let cut = cuts(grown, prune);
        let nodes = grown
            .iter()
            .zip(cut)
            .map(|(node, cut)| Node {
                fork: node.branch.as_ref().filter(|_| !cut).map(|branch| Fork {
                    column: branch.column,
                    threshold: branch.threshold,
                    missing_low: branch.missing_low,
                    low: branch.low,
                    high: branch.high,
                }),
                rows: rows(node),
                values: values(node),
            })
            .collect();
        Self(nodes).compacted()
    }

    /// The leaf a row comes to.
    pub(super) fn leaf(&self, row: &[f64], missing: Option<f64>) -> Option<&Node> {
        let mut at = 0;
        loop {
            let node = self.0.get(at)?;
            match &node.fork {
                // A sound tree's children stand behind their fork, so that this ends.
                Some(fork) => at = fork.next(row, missing),
                None => return Some(node),
            }
        }
    }

    /// Whether forks lead on, to nodes that are there, on columns that are there, and every node says something.
    pub(super) fn sound(&self, columns: usize, width: usize) -> bool {
        !self.0.is_empty()
            && self.0.iter().enumerate().all(|(at, node)| {
                let behind = |to: usize| to > at && to < self.0.len();
                node.values.len() == width
                    && (node.rows > 0 || at == 0)
                    && node.values.iter().all(|v| v.is_finite())
                    && node.fork.as_ref().is_none_or(|fork| {
                        fork.column < columns
                            && behind(fork.low)
                            && behind(fork.high)
                            && fork.low != fork.high
                    })
            })
    }

    pub(super) fn leaves(&self) -> usize {
        self.0.iter().filter(|node| node.fork.is_none()).count()
    }

    pub(super) fn depth(&self) -> usize {
        let mut depths = vec![0; self.0.len()];
        for (at, node) in self.0.iter().enumerate() {
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

    /// Leaves out what cannot be reached; places stay in order.
    pub(super) fn compacted(&self) -> Self {
        let nodes = &self.0;
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
        let kept = nodes.iter().zip(&reached).filter(|(_, kept)| **kept);
        Self(
            kept.map(|(node, _)| Node {
                fork: node.fork.as_ref().map(|fork| Fork {
                    low: place(fork.low),
                    high: place(fork.high),
                    ..fork.clone()
                }),
                ..node.clone()
            })
            .collect(),
        )
    }
}

/// Which forks are cut: those whose leaves together gain no more than `prune` each (the smallest optimal subtree of
/// Breiman, Friedman, Olshen and Stone 1984, chapter 3).
fn cuts(grown: &[Grown], prune: f64) -> Vec<bool> {
    let mut cut = vec![false; grown.len()];
    if prune <= 0.0 {
        return cut;
    }
    // Gain and leaves below each node; children stand behind their parent.
    let mut below = vec![(0.0, 1_usize); grown.len()];
    for (at, node) in grown.iter().enumerate().rev() {
        let Some(branch) = &node.branch else { continue };
        let of = |child: usize| below.get(child).copied().unwrap_or((0.0, 1));
        let (low, high) = (of(branch.low), of(branch.high));
        let together = (branch.gain + low.0 + high.0, low.1 + high.1);
        let worthless = together.0 <= prune * (together.1 - 1) as f64;
        if let Some(flag) = cut.get_mut(at) {
            *flag = worthless;
        }
        if let Some(place) = below.get_mut(at).filter(|_| !worthless) {
            *place = together;
        }
    }
    cut
}

/// What each column gained, as shares of all gain; all 0 when nothing did.
pub(super) fn importances<'a>(grown: impl Iterator<Item = (usize, f64)> + 'a, columns: usize) -> Vec<f64> {
    let mut sums = vec![0.0; columns];
    for (column, gain) in grown {
        if let Some(sum) = sums.get_mut(column) {
            *sum += gain.max(0.0);
        }
    }
    shares(sums)
}

/// As shares of their sum.
pub(super) fn shares(mut sums: Vec<f64>) -> Vec<f64> {
    let total: f64 = sums.iter().sum();
    if total > 0.0 && total.is_finite() {
        sums.iter_mut().for_each(|sum| *sum /= total);
    } else {
        sums.fill(0.0);
    }
    sums
}

/// Column and gain of the forks that were kept.
pub(super) fn gains<'a>(grown: &'a [Grown], prune: f64) -> impl Iterator<Item = (usize, f64)> + 'a {
    let cut = cuts(grown, prune);
    let mut reached = vec![false; grown.len()];
    if let Some(root) = reached.first_mut() {
        *root = true;
    }
    for (at, node) in grown.iter().enumerate() {
        if let Some(branch) = &node.branch
            && reached.get(at) == Some(&true)
            && cut.get(at) == Some(&false)
        {
            for child in [branch.low, branch.high] {
                if let Some(flag) = reached.get_mut(child) {
                    *flag = true;
                }
            }
        }
    }
    let kept = grown.iter().zip(reached).zip(cut);
    kept.filter(|((_, reached), cut)| *reached && !*cut)
        .filter_map(|((node, _), _)| node.branch.as_ref())
        .map(|branch| (branch.column, branch.gain))
}
