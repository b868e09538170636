//! Values as the numbers of their bins: what trees count instead of sorting.
#![allow(
    clippy::indexing_slicing,
    reason = "codes, offsets and edges are made here and fit each other"
)]

use crm_core::Matrix;

use crate::model::parallel::{each, stretches};
use crate::sample::sample_rows;

/// The code of a missing value.
pub(super) const MISSING: u16 = 0;
/// Edges are taken from at most so many rows.
const EDGE_ROWS: usize = 100_000;

/// The bins of one column, ascending; the first has code 1.
pub(super) struct Bins {
    /// The value of each bin when every different value has its own.
    values: Option<Vec<f64>>,
    /// Between each bin and the next.
    edges: Vec<f64>,
}

impl Bins {
    /// One bin for each different value if they are at most `most`, else bins of about equally many rows.
    fn new(mut values: Vec<f64>, most: usize, whole: bool) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let mut distinct: Vec<(f64, usize)> = Vec::new();
        for value in &values {
            match distinct.last_mut() {
                Some((last, count)) if *last == *value => *count += 1,
                _ => distinct.push((*value, 1)),
            }
        }
        if distinct.len() <= most {
            let found: Vec<f64> = distinct.iter().map(|(value, _)| *value).collect();
            return Self {
                edges: found.windows(2).map(|w| middle(w[0], w[1])).collect(),
                values: whole.then_some(found),
            };
        }
        let mut edges = Vec::with_capacity(most);
        let (mut left, mut held) = (values.len(), 0);
        for pair in distinct.windows(2) {
            let ((value, count), (next, following)) = (pair[0], pair[1]);
            held += count;
            let share = left as f64 / (most - edges.len()) as f64;
            // A frequent value gets a bin of its own.
            if held as f64 >= share || (following as f64 >= share && held as f64 * 2.0 >= share) {
                edges.push(middle(value, next));
                left -= held;
                held = 0;
                if edges.len() + 1 >= most {
                    break;
                }
            }
        }
        Self { values: None, edges }
    }

    fn code(&self, value: f64) -> u16 {
        1 + self.edges.partition_point(|edge| *edge < value) as u16
    }

    /// How many codes there are, with that of missing values.
    pub(super) fn codes(&self) -> usize {
        self.edges.len() + 2
    }

    /// The threshold between two codes that follow each other among some rows.
    pub(super) fn threshold(&self, low: u16, high: u16) -> f64 {
        match &self.values {
            Some(values) => middle(values[low as usize - 1], values[high as usize - 1]),
            None => self.edges[low as usize - 1],
        }
    }
}

/// Halfway, and below `high` whatever rounding does.
fn middle(low: f64, high: f64) -> f64 {
    let middle = low / 2.0 + high / 2.0;
    if middle >= low && middle < high {
        middle
    } else {
        low
    }
}

/// A matrix in bins, row after row.
pub(super) struct Binned {
    pub(super) codes: Vec<u16>,
    pub(super) columns: Vec<Bins>,
}

impl Binned {
    /// Up to `exact_rows` rows, every different value has its bin; else there are at most `bins` a column.
    pub(super) fn new(
        x: &Matrix,
        missing: Option<f64>,
        exact_rows: usize,
        bins: usize,
        threads: usize,
    ) -> Self {
        // Codes are 16 bits wide.
        let exact = x.rows() <= exact_rows.min(60_000);
        let rows = if exact {
            (0..x.rows()).collect()
        } else {
            sample_rows(x.rows(), EDGE_ROWS, 0, 0xb195)
        };
        let most = if exact { usize::MAX } else { bins };
        let whole = rows.len() == x.rows();
        let columns = each((0..x.cols()).collect(), threads, |column| {
            // -0 is 0.
            let values = rows.iter().map(|row| x.row(*row)[column] + 0.0);
            Bins::new(
                values.filter(|value| Some(*value) != missing).collect(),
                most,
                whole,
            )
        });
        let parts = each(stretches(x.rows()), threads, |rows| {
            let mut codes = Vec::with_capacity(rows.len() * x.cols());
            for row in rows {
                codes.extend(x.row(row).iter().zip(&columns).map(|(value, bins)| {
                    if Some(*value) == missing {
                        MISSING
                    } else {
                        bins.code(*value)
                    }
                }));
            }
            codes
        });
        Self {
            codes: parts.concat(),
            columns,
        }
    }

    pub(super) fn cols(&self) -> usize {
        self.columns.len()
    }

    /// The code of a value.
    pub(super) fn code(&self, row: u32, column: usize) -> u16 {
        self.codes[row as usize * self.columns.len() + column]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_hold_about_equally_many_and_keep_order() {
        let values: Vec<f64> = (0..10_000).map(|i| f64::from(i % 1000).sqrt()).collect();
        let bins = Bins::new(values.clone(), 255, true);
        assert_eq!(bins.codes(), 256);
        let mut counts = vec![0_usize; 257];
        values.iter().for_each(|v| counts[bins.code(*v) as usize] += 1);
        assert_eq!(counts[0], 0, "nothing is missing");
        assert!(counts[1..256].iter().all(|n| (20..=80).contains(n)), "{counts:?}");
        assert!(bins.code(-1.0) == 1 && bins.code(1e9) == 255);
        // Half of the rows have one value: it stands alone, and there are still many bins.
        let skewed: Vec<f64> = (0..10_000)
            .map(|i| if i % 2 == 0 { 5.0 } else { f64::from(i) })
            .collect();
        let bins = Bins::new(skewed, 100, true);
        assert!(bins.code(5.0) < bins.code(6.9) && bins.codes() > 90);
    }

    #[test]
    fn thresholds_lie_between_neighbours_however_close() {
        let close = 1.0_f64.next_up();
        let bins = Bins::new(vec![1.0, close, f64::MAX, -f64::MAX], 255, true);
        assert_eq!(bins.threshold(2, 3), 1.0);
        assert_eq!(bins.threshold(1, 4), 0.0);
        assert!(bins.threshold(3, 4).is_finite());
    }
}
