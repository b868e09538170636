//! The rows near a point: a k-d tree (Bentley 1975) over rows that are kept row after row.
#![allow(
    clippy::indexing_slicing,
    reason = "nodes, ranges and row numbers are made here and fit each other"
)]

use crate::metrics::square_distance;

/// Rows of a leaf.
const LEAF: usize = 16;

/// Where the rows part: low ones first.
#[derive(Debug, Clone)]
struct Part {
    column: usize,
    value: f64,
    low: usize,
    high: usize,
}

#[derive(Debug, Clone)]
struct Node {
    from: usize,
    to: usize,
    part: Option<Part>,
}

/// The tree; it borrows its rows anew for each question.
#[derive(Debug, Clone)]
pub(super) struct Neighbours {
    order: Vec<usize>,
    nodes: Vec<Node>,
    cols: usize,
}

impl Neighbours {
    pub(super) fn new(data: &[f64], cols: usize) -> Self {
        let rows = data.len() / cols.max(1);
        let mut order: Vec<usize> = (0..rows).collect();
        let mut nodes = vec![Node {
            from: 0,
            to: rows,
            part: None,
        }];
        let mut open = vec![0];
        while let Some(at) = open.pop() {
            let (from, to) = (nodes[at].from, nodes[at].to);
            if to - from <= LEAF {
                continue;
            }
            let value = |row: usize, column: usize| data[row * cols + column];
            let widest = (0..cols)
                .map(|column| {
                    let values = order[from..to].iter().map(|row| value(*row, column));
                    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
                        (l.min(v), h.max(v))
                    });
                    (high - low, column)
                })
                .fold(
                    (0.0, 0),
                    |best: (f64, usize), next| if next.0 > best.0 { next } else { best },
                );
            if widest.0 <= 0.0 {
                continue;
            }
            let column = widest.1;
            let middle = (to - from) / 2;
            order[from..to].select_nth_unstable_by(middle, |a, b| {
                value(*a, column).total_cmp(&value(*b, column)).then(a.cmp(b))
            });
            let split = value(order[from + middle], column);
            let low = nodes.len();
            nodes[at].part = Some(Part {
                column,
                value: split,
                low,
                high: low + 1,
            });
            for (from, to) in [(from, from + middle), (from + middle, to)] {
                nodes.push(Node { from, to, part: None });
            }
            open.extend([low, low + 1]);
        }
        Self { order, nodes, cols }
    }

    /// Calls `found` with each row within `radius` of `point` (the border belongs to it), until it answers false.
    pub(super) fn within(
        &self,
        data: &[f64],
        point: &[f64],
        radius: f64,
        mut found: impl FnMut(usize) -> bool,
    ) {
        let square = radius * radius;
        let mut stack = Stack::new();
        let mut next = Some(0);
        while let Some(at) = next {
            let node = &self.nodes[at];
            match &node.part {
                None => {
                    for row in &self.order[node.from..node.to] {
                        let near =
                            square_distance(&data[row * self.cols..(row + 1) * self.cols], point) <= square;
                        if near && !found(*row) {
                            return;
                        }
                    }
                }
                Some(part) => {
                    let side = point[part.column] - part.value;
                    if side >= -radius {
                        stack.push(part.high);
                    }
                    if side <= radius {
                        stack.push(part.low);
                    }
                }
            }
            next = stack.pop();
        }
    }

    /// The nearest row and its squared distance; the lowest number of equals.
    pub(super) fn nearest(&self, data: &[f64], point: &[f64]) -> Option<(usize, f64)> {
        let mut best: Option<(usize, f64)> = None;
        let mut stack = Stack::new();
        let mut next = (!self.order.is_empty()).then_some((0, 0.0));
        while let Some((at, bound)) = next {
            let node = &self.nodes[at];
            if best.is_none_or(|(_, square)| bound <= square) {
                match &node.part {
                    None => {
                        for row in &self.order[node.from..node.to] {
                            let square =
                                square_distance(&data[row * self.cols..(row + 1) * self.cols], point);
                            let nearer = best.is_none_or(|(kept, least)| {
                                square < least || (square == least && *row < kept)
                            });
                            if nearer {
                                best = Some((*row, square));
                            }
                        }
                    }
                    Some(part) => {
                        let side = point[part.column] - part.value;
                        let (near, far) = if side < 0.0 {
                            (part.low, part.high)
                        } else {
                            (part.high, part.low)
                        };
                        stack.push_bound(far, side * side);
                        stack.push_bound(near, bound);
                    }
                }
            }
            next = stack.pop_bound();
        }
        best
    }
}

/// Nodes to be looked at: halving leaves so few that they need no allocation.
struct Stack {
    nodes: [(usize, f64); 128],
    len: usize,
}

impl Stack {
    fn new() -> Self {
        Self {
            nodes: [(0, 0.0); 128],
            len: 0,
        }
    }
    fn push(&mut self, node: usize) {
        self.push_bound(node, 0.0);
    }
    fn push_bound(&mut self, node: usize, bound: f64) {
        // As deep as the logarithm of the rows, which a machine holds.
        if self.len < self.nodes.len() {
            self.nodes[self.len] = (node, bound);
            self.len += 1;
        }
    }
    fn pop(&mut self) -> Option<usize> {
        self.pop_bound().map(|(node, _)| node)
    }
    fn pop_bound(&mut self) -> Option<(usize, f64)> {
        self.len = self.len.checked_sub(1)?;
        Some(self.nodes[self.len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{generator, unit};

    #[test]
    fn finds_what_looking_at_every_row_finds() {
        let mut random = generator(1, 2);
        for (rows, cols, levels) in [
            (1, 1, 9.0),
            (17, 2, 9.0),
            (500, 3, 6.0),
            (800, 2, 1e6),
            (300, 1, 1.0),
        ] {
            let data: Vec<f64> = (0..rows * cols)
                .map(|_| (unit(&mut random) * levels).floor())
                .collect();
            let tree = Neighbours::new(&data, cols);
            for _ in 0..50 {
                let point: Vec<f64> = (0..cols).map(|_| (unit(&mut random) * levels).round()).collect();
                let squares: Vec<f64> = data
                    .chunks(cols)
                    .map(|row| square_distance(row, &point))
                    .collect();
                let radius = levels / 5.0;
                let mut found = Vec::new();
                tree.within(&data, &point, radius, |row| {
                    found.push(row);
                    true
                });
                found.sort_unstable();
                let expected: Vec<usize> = (0..rows).filter(|row| squares[*row] <= radius * radius).collect();
                assert_eq!(found, expected);
                let least = squares.iter().copied().fold(f64::INFINITY, f64::min);
                let first = squares.iter().position(|s| *s == least).unwrap();
                assert_eq!(tree.nearest(&data, &point), Some((first, least)));
            }
        }
        assert_eq!(Neighbours::new(&[], 2).nearest(&[], &[0.0, 0.0]), None);
    }
}
