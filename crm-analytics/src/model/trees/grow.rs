//! How a tree grows, whatever its leaves say: one engine for classes, numbers and gradients.
//!
//! A node's rows stand side by side in one list of row numbers. Large nodes count all columns at once into bins, and the
//! larger of two children is what remains of their parent; small ones look at column by column. Sums are taken in the
//! order of the rows, in stretches of a fixed length, so that threads change nothing.
#![allow(
    clippy::indexing_slicing,
    reason = "row numbers, codes and offsets are made together and stay below their lengths"
)]

use rand_xoshiro::Xoshiro256Plus;

use super::bins::{Binned, MISSING};
use crate::model::parallel::each;
use crate::sample::below;

/// What is summed up in nodes, and how good a sum is.
pub(super) trait Criterion: Sync {
    /// What a row adds.
    type Row: Copy;
    /// How many numbers are summed up.
    fn width(&self) -> usize;
    fn row(&self, row: usize) -> Self::Row;
    fn add(&self, sums: &mut [f64], row: Self::Row);
    /// The number of rows in a sum.
    fn rows(&self, sums: &[f64]) -> f64;
    /// The weight in a sum: cases, or second derivatives.
    fn weight(&self, sums: &[f64]) -> f64;
    /// Larger is better; what two halves have more than the whole is the gain.
    fn score(&self, sums: &[f64]) -> f64;
    /// A fork gains more than this; the size of what rounding makes, or no end where there is nothing to gain.
    fn slack(&self, sums: &[f64]) -> f64;
}

/// How far a tree may grow.
#[derive(Clone)]
pub(super) struct Limits {
    pub(super) max_depth: usize,
    pub(super) max_leaves: usize,
    pub(super) min_rows: usize,
    pub(super) min_weight: f64,
    /// How many columns, drawn anew for each node, are looked at.
    pub(super) columns: usize,
    pub(super) threads: usize,
}

/// How a node parts.
#[derive(Clone)]
pub(super) struct Branch {
    pub(super) column: usize,
    pub(super) threshold: f64,
    pub(super) missing_low: bool,
    pub(super) gain: f64,
    pub(super) low: usize,
    pub(super) high: usize,
    /// Up to this code rows go low.
    code: u16,
}

/// A node: where its rows stand in the list, what they sum up to, how it parts.
pub(super) struct Grown {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) sums: Vec<f64>,
    pub(super) branch: Option<Branch>,
}

/// A node that may still part.
struct Open {
    node: usize,
    depth: usize,
    best: Branch,
    counts: Option<Vec<f64>>,
}

/// Rows summed up at once.
const SUMMED: usize = 1 << 16;

pub(super) struct Grower<'a, C> {
    binned: &'a Binned,
    criterion: &'a C,
    limits: Limits,
    offsets: Vec<usize>,
    codes: usize,
    random: Option<Xoshiro256Plus>,
    buffer: Vec<f64>,
    present: Vec<u16>,
    sorted: Vec<(u16, u32)>,
}

impl<'a, C: Criterion> Grower<'a, C> {
    /// `random` draws columns when not all are looked at.
    pub(super) fn new(
        binned: &'a Binned,
        criterion: &'a C,
        limits: Limits,
        random: Option<Xoshiro256Plus>,
    ) -> Self {
        let width = criterion.width();
        let mut offsets = Vec::with_capacity(binned.cols());
        let mut codes = 0;
        for bins in &binned.columns {
            offsets.push(codes * width);
            codes += bins.codes();
        }
        Self {
            binned,
            criterion,
            limits,
            offsets,
            codes,
            random,
            buffer: Vec::new(),
            present: Vec::new(),
            sorted: Vec::new(),
        }
    }

    /// Grows over `order`, which ends up with the rows of each node side by side. Children stand behind their parent.
    pub(super) fn grow(&mut self, order: &mut [u32]) -> Vec<Grown> {
        let mut scratch = Vec::with_capacity(order.len());
        let whole = self.sum(order);
        let mut nodes = vec![Grown {
            from: 0,
            to: order.len(),
            sums: whole,
            branch: None,
        }];
        let counts = self.counted(order.len()).then(|| self.count(order));
        let mut open: Vec<Open> = Vec::new();
        open.extend(self.open(order, &nodes[0], 0, 0, counts));
        let mut leaves = 1;
        while leaves < self.limits.max_leaves {
            // With a limit to the leaves the best gain parts first; without, the order changes nothing.
            let next = if self.limits.max_leaves == usize::MAX {
                open.len().checked_sub(1)
            } else {
                let gains = open.iter().enumerate();
                gains
                    .fold(None, |best: Option<(usize, f64)>, (at, open)| match best {
                        Some((_, gain)) if gain >= open.best.gain => best,
                        _ => Some((at, open.best.gain)),
                    })
                    .map(|(at, _)| at)
            };
            let Some(next) = next else { break };
            let parting = open.remove(next);
            leaves += 1;
            self.part(order, &mut scratch, &mut nodes, &mut open, parting);
        }
        nodes
    }

    /// Parts a node and looks how its children could.
    fn part(
        &mut self,
        order: &mut [u32],
        scratch: &mut Vec<u32>,
        nodes: &mut Vec<Grown>,
        open: &mut Vec<Open>,
        parting: Open,
    ) {
        let Open {
            node,
            depth,
            mut best,
            counts,
        } = parting;
        let (from, to) = (nodes[node].from, nodes[node].to);
        let split = from + self.partition(&mut order[from..to], scratch, &best);
        (best.low, best.high) = (nodes.len(), nodes.len() + 1);
        nodes[node].branch = Some(best);
        for (from, to) in [(from, split), (split, to)] {
            nodes.push(Grown {
                from,
                to,
                sums: self.sum(&order[from..to]),
                branch: None,
            });
        }
        let at = nodes.len() - 2;
        let smaller = usize::from(split - from > to - split);
        let mut of_children: [Option<Vec<f64>>; 2] = [None, None];
        if depth + 1 < self.limits.max_depth
            && let Some(mut remains) = counts
        {
            let rows = |child: usize| nodes[at + child].from..nodes[at + child].to;
            let small = self.count(&order[rows(smaller)]);
            remains
                .iter_mut()
                .zip(&small)
                .for_each(|(all, part)| *all -= part);
            of_children[smaller] = Some(small);
            of_children[1 - smaller] = Some(remains);
        }
        // The low child is looked at last, so that it parts first: trees read from low to high.
        for child in [1, 0] {
            let (from, to) = (nodes[at + child].from, nodes[at + child].to);
            let counts = of_children[child].take().filter(|_| self.counted(to - from));
            open.extend(self.open(
                &order[from..to],
                &nodes[at + child],
                at + child,
                depth + 1,
                counts,
            ));
        }
    }

    /// The best way to part a node, if it may and can.
    fn open(
        &mut self,
        rows: &[u32],
        grown: &Grown,
        node: usize,
        depth: usize,
        counts: Option<Vec<f64>>,
    ) -> Option<Open> {
        let all = self.criterion.rows(&grown.sums);
        if depth >= self.limits.max_depth || all < 2.0 * self.limits.min_rows.max(1) as f64 {
            return None;
        }
        let slack = self.criterion.slack(&grown.sums);
        let mut search = Search {
            parent: self.criterion.score(&grown.sums),
            slack,
            best: None,
        };
        let mut columns: Vec<usize> = (0..self.binned.cols()).collect();
        let mut looked = 0;
        for at in 0..columns.len() {
            if looked >= self.limits.columns && search.best.is_some() {
                break;
            }
            if self.limits.columns < columns.len()
                && let Some(random) = &mut self.random
            {
                let other = at + below(random, columns.len() - at);
                columns.swap(at, other);
            }
            let column = columns[at];
            match &counts {
                Some(counts) => self.compact(counts, column),
                None => self.look(rows, column),
            }
            // A constant column was not looked at.
            looked += usize::from(self.present.len() > 1);
            self.scan(&grown.sums, column, &mut search);
        }
        let best = search.best?;
        Some(Open {
            node,
            depth,
            best,
            counts,
        })
    }

    /// Whether a node of so many rows is counted in all columns at once.
    fn counted(&self, rows: usize) -> bool {
        self.limits.columns >= self.binned.cols() && rows >= self.codes
    }

    fn sum(&self, rows: &[u32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.criterion.width()];
        for rows in rows.chunks(SUMMED) {
            let mut part = vec![0.0; sums.len()];
            for row in rows {
                self.criterion.add(&mut part, self.criterion.row(*row as usize));
            }
            sums.iter_mut().zip(&part).for_each(|(sum, more)| *sum += more);
        }
        sums
    }

    /// Sums for every code of every column.
    fn count(&self, rows: &[u32]) -> Vec<f64> {
        let (width, cols) = (self.criterion.width(), self.binned.cols());
        let parts = each(
            rows.chunks(SUMMED).collect(),
            self.limits.threads,
            |rows: &[u32]| {
                let mut counts = vec![0.0; self.codes * width];
                for row in rows {
                    let row = *row as usize;
                    let value = self.criterion.row(row);
                    let codes = &self.binned.codes[row * cols..(row + 1) * cols];
                    for (code, offset) in codes.iter().zip(&self.offsets) {
                        let at = offset + *code as usize * width;
                        self.criterion.add(&mut counts[at..at + width], value);
                    }
                }
                counts
            },
        );
        let mut parts = parts.into_iter();
        let mut counts = parts.next().unwrap_or_else(|| vec![0.0; self.codes * width]);
        for part in parts {
            counts.iter_mut().zip(&part).for_each(|(sum, more)| *sum += more);
        }
        counts
    }

    /// Brings the codes of a column that have rows, and their sums, into the buffers.
    fn compact(&mut self, counts: &[f64], column: usize) {
        let width = self.criterion.width();
        let from = self.offsets[column];
        let to = from + self.binned.columns[column].codes() * width;
        self.present.clear();
        self.buffer.clear();
        for (code, sums) in counts[from..to].chunks_exact(width).enumerate() {
            // What remains after subtraction may be rounding.
            if self.criterion.rows(sums) > 0.5 {
                self.present.push(code as u16);
                self.buffer.extend_from_slice(sums);
            }
        }
    }

    /// The same from the rows themselves.
    fn look(&mut self, rows: &[u32], column: usize) {
        let width = self.criterion.width();
        let codes = self.binned.columns[column].codes();
        if rows.len() * 4 >= codes {
            let mut counts = vec![0.0; codes * width];
            for row in rows {
                let at = self.binned.code(*row, column) as usize * width;
                self.criterion
                    .add(&mut counts[at..at + width], self.criterion.row(*row as usize));
            }
            self.present.clear();
            self.buffer.clear();
            for (code, sums) in counts.chunks_exact(width).enumerate() {
                if self.criterion.rows(sums) > 0.5 {
                    self.present.push(code as u16);
                    self.buffer.extend_from_slice(sums);
                }
            }
            return;
        }
        self.sorted.clear();
        self.sorted
            .extend(rows.iter().map(|row| (self.binned.code(*row, column), *row)));
        self.sorted.sort_unstable();
        self.present.clear();
        self.buffer.clear();
        for (code, row) in &self.sorted {
            if self.present.last() != Some(code) {
                self.present.push(*code);
                self.buffer.extend(std::iter::repeat_n(0.0, width));
            }
            let at = self.buffer.len() - width;
            self.criterion
                .add(&mut self.buffer[at..], self.criterion.row(*row as usize));
        }
    }

    /// Tries every place between two codes in the buffers, missing rows on either side.
    fn scan(&self, whole: &[f64], column: usize, search: &mut Search) {
        let width = self.criterion.width();
        let has_missing = self.present.first() == Some(&MISSING);
        let known = usize::from(has_missing);
        let codes = &self.present[known..];
        if codes.is_empty() || (codes.len() < 2 && !has_missing) {
            return;
        }
        let (mut low, mut high) = (vec![0.0; width], vec![0.0; width]);
        let sides: &[bool] = if has_missing { &[false, true] } else { &[false] };
        for missing_low in sides.iter().copied() {
            low.fill(0.0);
            if missing_low {
                low.copy_from_slice(&self.buffer[..width]);
            }
            for (at, code) in codes.iter().enumerate() {
                let next = codes.get(at + 1);
                if next.is_none() && (missing_low || !has_missing) {
                    break;
                }
                let sums = &self.buffer[(at + known) * width..(at + known + 1) * width];
                low.iter_mut().zip(sums).for_each(|(low, more)| *low += more);
                high.iter_mut()
                    .zip(whole)
                    .zip(&low)
                    .for_each(|((high, all), low)| *high = all - low);
                let enough = |sums: &[f64]| {
                    self.criterion.rows(sums) >= self.limits.min_rows as f64 - 0.5
                        && self.criterion.weight(sums) >= self.limits.min_weight
                };
                if !enough(&low) || !enough(&high) {
                    continue;
                }
                let gain = self.criterion.score(&low) + self.criterion.score(&high) - search.parent;
                if !search.is_better(gain) {
                    continue;
                }
                let known_rows = |sums: &[f64]| self.criterion.rows(sums);
                search.best = Some(Branch {
                    column,
                    // Past the last value only missing ones go high.
                    threshold: next.map_or(f64::MAX, |next| {
                        self.binned.columns[column].threshold(*code, *next)
                    }),
                    // Without any here, missing ones follow the majority.
                    missing_low: if has_missing {
                        missing_low
                    } else {
                        known_rows(&low) >= known_rows(&high)
                    },
                    gain,
                    low: 0,
                    high: 0,
                    code: *code,
                });
            }
        }
    }

    /// Brings the rows that go low to the front, keeping their order; answers how many they are.
    fn partition(&self, rows: &mut [u32], scratch: &mut Vec<u32>, branch: &Branch) -> usize {
        scratch.clear();
        let mut kept = 0;
        for at in 0..rows.len() {
            let row = rows[at];
            let code = self.binned.code(row, branch.column);
            let goes_low = if code == MISSING {
                branch.missing_low
            } else {
                code <= branch.code
            };
            if goes_low {
                rows[kept] = row;
                kept += 1;
            } else {
                scratch.push(row);
            }
        }
        rows[kept..].copy_from_slice(scratch);
        kept
    }
}

/// The best place so far.
struct Search {
    parent: f64,
    slack: f64,
    best: Option<Branch>,
}

impl Search {
    /// Better than the best by more than rounding: the first of equals stays.
    fn is_better(&self, gain: f64) -> bool {
        match &self.best {
            None => gain > self.slack,
            Some(best) => gain > best.gain + best.gain.abs() * 1e-10 + self.slack.abs(),
        }
    }
}
