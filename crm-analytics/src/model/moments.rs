//! Means and covariances in one pass.

use crm_core::Matrix;
use ndarray::Array2;

use super::parallel::{STRETCH, each, stretches};

/// Columns that are multiplied with each other at once: their sixteen sums stay in the processor's registers.
const WIDE: usize = 4;
/// The rows of a block: few enough to stay in the nearest cache.
const BLOCK: usize = 64;

/// Sums of columns and of products of two columns, in panels of [`WIDE`] columns; beyond the last column all is 0.
struct Sums {
    columns: Vec<[f64; WIDE]>,
    /// A tile for each two panels, those with a later one: (0, 0), (0, 1), ..., (1, 1), ...
    tiles: Vec<[[f64; WIDE]; WIDE]>,
}

impl Sums {
    fn new(cols: usize) -> Self {
        let panels = cols.div_ceil(WIDE);
        Self {
            columns: vec![[0.0; WIDE]; panels],
            tiles: vec![[[0.0; WIDE]; WIDE]; panels * (panels + 1) / 2],
        }
    }

    /// The sums of rows, apart from `shift`.
    fn of(rows: &[f64], shift: &[f64]) -> Self {
        let mut sums = Self::new(shift.len());
        let mut panels = vec![[[0.0; WIDE]; BLOCK]; sums.columns.len()];
        let (whole, rest) = shift.as_chunks::<WIDE>();
        for block in rows.chunks(shift.len() * BLOCK) {
            for (at, row) in block.chunks_exact(shift.len()).enumerate() {
                let (fours, last) = row.as_chunks::<WIDE>();
                let mut places = panels.iter_mut().filter_map(|panel| panel.get_mut(at));
                // The places come last: a pair that lacks its other half would swallow one.
                for ((values, shift), place) in fours.iter().zip(whole).zip(places.by_ref()) {
                    for ((place, value), shift) in place.iter_mut().zip(values).zip(shift) {
                        *place = value - shift;
                    }
                }
                for ((place, value), shift) in places.flatten().zip(last).zip(rest) {
                    *place = value - shift;
                }
            }
            sums.add_block(&panels, block.len() / shift.len());
        }
        sums
    }

    fn add_block(&mut self, panels: &[[[f64; WIDE]; BLOCK]], height: usize) {
        let views: Vec<&[[f64; WIDE]]> = panels.iter().filter_map(|panel| panel.get(..height)).collect();
        let mut tiles = self.tiles.iter_mut();
        for (at, (a, sum)) in views.iter().zip(&mut self.columns).enumerate() {
            let mut found = [0.0; WIDE];
            for values in *a {
                add(&mut found, values);
            }
            add(sum, &found);
            for (b, tile) in views.iter().skip(at).zip(&mut tiles) {
                let mut found = [[0.0; WIDE]; WIDE];
                for (a, b) in a.iter().zip(*b) {
                    for (line, a) in found.iter_mut().zip(a) {
                        for (sum, b) in line.iter_mut().zip(b) {
                            *sum += a * b;
                        }
                    }
                }
                for (line, found) in tile.iter_mut().zip(&found) {
                    add(line, found);
                }
            }
        }
    }

    fn add(&mut self, other: &Self) {
        for (sum, other) in self.columns.iter_mut().zip(&other.columns) {
            add(sum, other);
        }
        let lines = self.tiles.iter_mut().flatten();
        for (sum, other) in lines.zip(other.tiles.iter().flatten()) {
            add(sum, other);
        }
    }

    fn column(&self, at: usize) -> f64 {
        self.columns.as_flattened().get(at).copied().unwrap_or(0.0)
    }

    /// The sum of products of two columns, the first not after the second.
    fn product(&self, low: usize, high: usize) -> f64 {
        let (panel, other, panels) = (low / WIDE, high / WIDE, self.columns.len());
        let before = panel * panels - panel * panel.saturating_sub(1) / 2;
        let tile = self.tiles.get(before + other - panel);
        let line = tile.and_then(|tile| tile.get(low % WIDE));
        line.and_then(|line| line.get(high % WIDE))
            .copied()
            .unwrap_or(0.0)
    }
}

fn add(sums: &mut [f64; WIDE], values: &[f64; WIDE]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

/// Means and sample covariance (divided by rows - 1) of the columns, in one pass: what is summed is apart from the mean of
/// the first stretch, so that nothing is lost where columns lie far from 0.
pub(super) fn moments(x: &Matrix, threads: usize) -> (Vec<f64>, Array2<f64>) {
    let cols = x.cols();
    let of = |rows: &std::ops::Range<usize>| {
        x.as_slice()
            .get(rows.start * cols..rows.end * cols)
            .unwrap_or_default()
    };
    let first = x.rows().min(STRETCH);
    let mut shift = vec![0.0; cols];
    for row in of(&(0..first)).chunks_exact(cols) {
        shift.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    shift.iter_mut().for_each(|sum| *sum /= first.max(1) as f64);
    let mut sums = Sums::new(cols);
    for part in each(stretches(x.rows()), threads, |rows| Sums::of(of(&rows), &shift)) {
        sums.add(&part);
    }
    let n = x.rows() as f64;
    let apart: Vec<f64> = (0..cols).map(|at| sums.column(at) / n.max(1.0)).collect();
    let means = shift
        .iter()
        .zip(&apart)
        .map(|(shift, apart)| shift + apart)
        .collect();
    let covariance = Array2::from_shape_fn((cols, cols), |(i, j)| {
        let (low, high) = (i.min(j), i.max(j));
        let apart = apart.get(high).copied().unwrap_or(0.0);
        (sums.product(low, high) - sums.column(low) * apart) / (n - 1.0)
    });
    (means, covariance)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plain way, in two passes.
    fn plain(x: &Matrix) -> (Vec<f64>, Array2<f64>) {
        let n = x.rows() as f64;
        let means: Vec<f64> = (0..x.cols())
            .map(|col| x.iter_col(col).sum::<f64>() / n)
            .collect();
        let covariance = Array2::from_shape_fn((x.cols(), x.cols()), |(i, j)| {
            let products = x.iter_col(i).zip(x.iter_col(j));
            products
                .map(|(a, b)| (a - means[i]) * (b - means[j]))
                .sum::<f64>()
                / (n - 1.0)
        });
        (means, covariance)
    }

    #[test]
    fn one_pass_is_as_good_as_two_for_every_shape() {
        // Rows around the ends of blocks and stretches, columns around the ends of panels; far from 0.
        for cols in [1, 2, 3, 4, 5, 7, 8, 9, 13] {
            for rows in [2, 3, 63, 64, 65, 200, 4096, 4097, 8500] {
                let value = |at: usize| {
                    let (row, col) = (at / cols, at % cols);
                    1e6 * col as f64 + ((row * 37 + col * 101) % 97) as f64 * (1.0 + col as f64)
                };
                let names = (0..cols).map(|col| format!("c{col}")).collect();
                let x = Matrix::new(names, (0..rows * cols).map(value).collect()).unwrap();
                let (means, covariance) = moments(&x, 1);
                let (by_hand, expected) = plain(&x);
                for (a, b) in means.iter().zip(&by_hand) {
                    assert!((a - b).abs() <= 1e-12 * b.abs(), "{rows} x {cols}: {a} {b}");
                }
                let scale = |i: usize, j: usize| (expected[(i, i)] * expected[(j, j)]).sqrt();
                for ((i, j), found) in covariance.indexed_iter() {
                    let off = (found - expected[(i, j)]).abs();
                    assert!(
                        off <= 1e-9 * scale(i, j),
                        "{rows} x {cols} at {i}, {j}: off by {off}"
                    );
                    assert_eq!(found.to_bits(), covariance[(j, i)].to_bits());
                }
                let again = moments(&x, 3);
                assert_eq!((means, covariance), again, "on three threads");
            }
        }
    }
}
