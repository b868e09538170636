//! What each column adds to a tree's answer: Shapley values over the ways a row could have gone, weighted by the training
//! rows (path-dependent TreeSHAP: Lundberg, Erion and Lee 2018, algorithm 2).
#![allow(
    clippy::indexing_slicing,
    reason = "places on the path are below its length; columns and children are checked with the tree"
)]

use super::nodes::Nodes;

/// A column on the way: the share of rows that go the row's way without knowing it, whether the row itself does, and the
/// weight of the column sets of each size.
#[derive(Clone, Copy)]
struct Step {
    column: usize,
    zero: f64,
    one: f64,
    weight: f64,
}

const ROOT: usize = usize::MAX;

/// Adds the contributions of one tree, times `scale`, to `parts`; answers the mean of its leaves, times `scale`.
pub(super) fn explain(
    nodes: &Nodes,
    row: &[f64],
    missing: Option<f64>,
    place: usize,
    scale: f64,
    parts: &mut [f64],
) -> f64 {
    let walk = Walk {
        nodes,
        row,
        missing,
        place,
        scale,
    };
    walk.node(0, &[], 1.0, 1.0, ROOT, parts);
    walk.mean(0) * scale
}

struct Walk<'a> {
    nodes: &'a Nodes,
    row: &'a [f64],
    missing: Option<f64>,
    /// Which of a leaf's values.
    place: usize,
    scale: f64,
}

impl Walk<'_> {
    fn mean(&self, _root: usize) -> f64 {
        let nodes = &self.nodes.0;
        // From the back: children before their parent.
        let mut means = vec![0.0; nodes.len()];
        for (at, node) in nodes.iter().enumerate().rev() {
            means[at] = match &node.fork {
                None => node.values[self.place],
                Some(fork) => {
                    let (low, high) = (nodes[fork.low].rows as f64, nodes[fork.high].rows as f64);
                    let all = low + high;
                    if all > 0.0 {
                        (low * means[fork.low] + high * means[fork.high]) / all
                    } else {
                        0.0
                    }
                }
            };
        }
        means[0]
    }

    /// As deep as the tree, which is bounded by its settings.
    fn node(&self, at: usize, path: &[Step], zero: f64, one: f64, column: usize, parts: &mut [f64]) {
        let path = extended(path, zero, one, column);
        let node = &self.nodes.0[at];
        let Some(fork) = &node.fork else {
            for i in 1..path.len() {
                let step = path[i];
                parts[step.column] +=
                    unwound_sum(&path, i) * (step.one - step.zero) * node.values[self.place] * self.scale;
            }
            return;
        };
        let hot = fork.next(self.row, self.missing);
        let cold = if hot == fork.low { fork.high } else { fork.low };
        let share = |child: usize| {
            let all = self.nodes.0[fork.low].rows + self.nodes.0[fork.high].rows;
            if all == 0 {
                0.0
            } else {
                self.nodes.0[child].rows as f64 / all as f64
            }
        };
        let (mut zero, mut one, mut path) = (1.0, 1.0, path);
        if let Some(before) = path.iter().position(|step| step.column == fork.column) {
            (zero, one) = (path[before].zero, path[before].one);
            unwind(&mut path, before);
        }
        self.node(hot, &path, zero * share(hot), one, fork.column, parts);
        self.node(cold, &path, zero * share(cold), 0.0, fork.column, parts);
    }
}

fn extended(path: &[Step], zero: f64, one: f64, column: usize) -> Vec<Step> {
    let mut path = path.to_vec();
    let depth = path.len();
    path.push(Step {
        column,
        zero,
        one,
        weight: if depth == 0 { 1.0 } else { 0.0 },
    });
    let size = (depth + 1) as f64;
    for i in (0..depth).rev() {
        path[i + 1].weight += one * path[i].weight * (i + 1) as f64 / size;
        path[i].weight *= zero * (depth - i) as f64 / size;
    }
    path
}

fn unwind(path: &mut Vec<Step>, at: usize) {
    let depth = path.len() - 1;
    let (zero, one) = (path[at].zero, path[at].one);
    let mut next = path[depth].weight;
    let size = (depth + 1) as f64;
    for i in (0..depth).rev() {
        if one != 0.0 {
            let kept = path[i].weight;
            path[i].weight = next * size / ((i + 1) as f64 * one);
            next = kept - path[i].weight * zero * (depth - i) as f64 / size;
        } else {
            path[i].weight = path[i].weight * size / (zero * (depth - i) as f64);
        }
    }
    for i in at..depth {
        let Step {
            column, zero, one, ..
        } = path[i + 1];
        path[i] = Step {
            column,
            zero,
            one,
            weight: path[i].weight,
        };
    }
    path.pop();
}

fn unwound_sum(path: &[Step], at: usize) -> f64 {
    let depth = path.len() - 1;
    let (zero, one) = (path[at].zero, path[at].one);
    let size = (depth + 1) as f64;
    let mut next = path[depth].weight;
    let mut total = 0.0;
    for i in (0..depth).rev() {
        if one != 0.0 {
            let weight = next * size / ((i + 1) as f64 * one);
            total += weight;
            next = path[i].weight - weight * zero * (depth - i) as f64 / size;
        } else if zero != 0.0 {
            total += path[i].weight * size / (zero * (depth - i) as f64);
        }
    }
    total
}
