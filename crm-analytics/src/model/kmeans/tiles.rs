//! Rows eight at a time, column by column, so that the distances of eight rows come out of one sequence of wide
//! instructions; every distance is summed in the order of the columns, as for a single row, and so equal to the last bit.

use crm_core::Matrix;

use super::super::parallel::STRETCH;

/// Rows of a tile.
pub(super) const LANES: usize = 8;

/// A matrix in tiles; the last one is filled up with zeros.
pub(super) struct Tiles {
    lanes: Vec<[f64; LANES]>,
    cols: usize,
    rows: usize,
}

impl Tiles {
    pub(super) fn new(x: &Matrix) -> Self {
        Self::of_rows(x.as_slice(), x.cols())
    }

    /// Of rows that stand one after the other.
    pub(super) fn of_rows(data: &[f64], cols: usize) -> Self {
        let rows = data.len() / cols.max(1);
        let mut lanes = vec![[0.0; LANES]; rows.div_ceil(LANES) * cols];
        for (tile, rows) in lanes
            .chunks_exact_mut(cols.max(1))
            .zip(data.chunks(cols.max(1) * LANES))
        {
            for (at, row) in rows.chunks_exact(cols.max(1)).enumerate() {
                for (lane, value) in tile.iter_mut().zip(row) {
                    if let Some(place) = lane.get_mut(at) {
                        *place = *value;
                    }
                }
            }
        }
        Self { lanes, cols, rows }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The tiles of one stretch of rows.
    pub(super) fn stretch(&self, stretch: usize) -> std::slice::ChunksExact<'_, [f64; LANES]> {
        let per_stretch = STRETCH / LANES * self.cols;
        let from = (stretch * per_stretch).min(self.lanes.len());
        let to = (from + per_stretch).min(self.lanes.len());
        self.lanes
            .get(from..to)
            .unwrap_or_default()
            .chunks_exact(self.cols.max(1))
    }
}

/// The nearest of `centers` to each of eight rows and the squared distance; the first of several.
#[inline]
pub(super) fn nearest(tile: &[[f64; LANES]], centers: &[f64]) -> ([u64; LANES], [f64; LANES]) {
    let mut labels = [0_u64; LANES];
    let mut best = [f64::INFINITY; LANES];
    for (label, center) in centers.chunks_exact(tile.len()).enumerate() {
        let square = distances(tile, center);
        for ((best, at), square) in best.iter_mut().zip(&mut labels).zip(&square) {
            let nearer = *square < *best;
            *best = if nearer { *square } else { *best };
            *at = if nearer { label as u64 } else { *at };
        }
    }
    (labels, best)
}

/// The squared distance of eight rows to a point.
#[inline]
pub(super) fn distances(tile: &[[f64; LANES]], point: &[f64]) -> [f64; LANES] {
    let mut square = [0.0; LANES];
    for (lane, coordinate) in tile.iter().zip(point) {
        for (square, value) in square.iter_mut().zip(lane) {
            let difference = value - coordinate;
            *square += difference * difference;
        }
    }
    square
}
