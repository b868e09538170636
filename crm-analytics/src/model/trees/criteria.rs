//! What trees can be grown for.
#![allow(
    clippy::indexing_slicing,
    reason = "sums are as wide as the criterion says, rows are below the number of rows"
)]

use super::grow::Criterion;

/// Classes, by Gini impurity or entropy: the sum of the weights of each class and, with weights, the number of rows.
pub(super) struct Classes<'a> {
    pub(super) classes: &'a [usize],
    pub(super) weights: Option<&'a [f64]>,
    pub(super) count: usize,
    pub(super) entropy: bool,
}

impl Criterion for Classes<'_> {
    type Row = (u32, f64);

    fn width(&self) -> usize {
        self.count + usize::from(self.weights.is_some())
    }

    #[inline]
    fn row(&self, row: usize) -> Self::Row {
        (
            self.classes[row] as u32,
            self.weights.map_or(1.0, |weights| weights[row]),
        )
    }

    #[inline]
    fn add(&self, sums: &mut [f64], (class, weight): Self::Row) {
        sums[class as usize] += weight;
        if sums.len() > self.count {
            sums[self.count] += 1.0;
        }
    }

    fn rows(&self, sums: &[f64]) -> f64 {
        if sums.len() > self.count {
            sums[self.count]
        } else {
            sums.iter().sum()
        }
    }

    fn weight(&self, sums: &[f64]) -> f64 {
        sums[..self.count].iter().sum()
    }

    fn score(&self, sums: &[f64]) -> f64 {
        let counts = &sums[..self.count];
        let total: f64 = counts.iter().sum();
        if total <= 0.0 {
            return 0.0;
        }
        if self.entropy {
            let of = |count: &f64| {
                if *count > 0.0 {
                    count * (count / total).log2()
                } else {
                    0.0
                }
            };
            counts.iter().map(of).sum()
        } else {
            counts.iter().map(|count| count * count).sum::<f64>() / total
        }
    }

    fn slack(&self, sums: &[f64]) -> f64 {
        let counts = &sums[..self.count];
        if counts.iter().filter(|count| **count > 0.0).count() < 2 {
            return f64::INFINITY;
        }
        // A fork of mixed rows may gain nothing by itself and open the way for the next ones (exclusive or).
        -1e-9 * self.weight(sums)
    }
}

/// Numbers, by their variance: weights, weighted sum, rows, weighted squares. The numbers are centred.
pub(super) struct Numbers<'a> {
    pub(super) values: &'a [f64],
    pub(super) weights: Option<&'a [f64]>,
    /// The weighted sum of squares of all numbers.
    pub(super) squares: f64,
}

impl Criterion for Numbers<'_> {
    type Row = (f64, f64);

    fn width(&self) -> usize {
        4
    }

    #[inline]
    fn row(&self, row: usize) -> Self::Row {
        (self.values[row], self.weights.map_or(1.0, |weights| weights[row]))
    }

    #[inline]
    fn add(&self, sums: &mut [f64], (value, weight): Self::Row) {
        sums[0] += weight;
        sums[1] += weight * value;
        sums[2] += 1.0;
        sums[3] += weight * value * value;
    }

    fn rows(&self, sums: &[f64]) -> f64 {
        sums[2]
    }

    fn weight(&self, sums: &[f64]) -> f64 {
        sums[0]
    }

    fn score(&self, sums: &[f64]) -> f64 {
        if sums[0] > 0.0 {
            sums[1] * sums[1] / sums[0]
        } else {
            0.0
        }
    }

    fn slack(&self, sums: &[f64]) -> f64 {
        let rounding = 1e-12 * self.squares;
        if sums[3] - self.score(sums) <= rounding {
            f64::INFINITY
        } else {
            -rounding
        }
    }
}

/// First and second derivatives of a loss: their sums and the number of rows.
pub(super) struct Gradients<'a> {
    pub(super) first: &'a [f64],
    pub(super) second: &'a [f64],
    pub(super) l2: f64,
    pub(super) min_gain: f64,
}

impl Criterion for Gradients<'_> {
    type Row = (f64, f64);

    fn width(&self) -> usize {
        3
    }

    #[inline]
    fn row(&self, row: usize) -> Self::Row {
        (self.first[row], self.second[row])
    }

    #[inline]
    fn add(&self, sums: &mut [f64], (first, second): Self::Row) {
        sums[0] += first;
        sums[1] += second;
        sums[2] += 1.0;
    }

    fn rows(&self, sums: &[f64]) -> f64 {
        sums[2]
    }

    fn weight(&self, sums: &[f64]) -> f64 {
        sums[1]
    }

    fn score(&self, sums: &[f64]) -> f64 {
        let weight = sums[1] + self.l2;
        if weight > 0.0 {
            sums[0] * sums[0] / weight
        } else {
            0.0
        }
    }

    fn slack(&self, _: &[f64]) -> f64 {
        self.min_gain
    }
}
