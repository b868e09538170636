//! Starting centres: k-means++ with several candidates a step (Arthur and Vassilvitskii 2007, section 2.2 and its greedy
//! form), as scikit-learn starts.

use rand_xoshiro::rand_core::RngCore;

use super::tiles::{LANES, Tiles, distances};
use crate::sample::{generator, unit};

/// `clusters` different rows, far from each other; nothing when there are fewer different rows with a weight.
pub(super) fn greedy(
    data: &[f64],
    cols: usize,
    tiles: &Tiles,
    weights: Option<&[f64]>,
    clusters: usize,
    seed: u64,
    part: u64,
) -> Option<Vec<f64>> {
    let rows = tiles.rows();
    let mut random = generator(seed, part);
    let weight = |row: usize| weights.map_or(1.0, |w| w.get(row).copied().unwrap_or(0.0));
    let row_at = |row: usize| data.get(row * cols..(row + 1) * cols);
    let mut cumulative: Vec<f64> = Vec::with_capacity(rows);
    let mut total = 0.0;
    for row in 0..rows {
        total += weight(row);
        cumulative.push(total);
    }
    let first = draw(&cumulative, &mut random)?;
    let mut centers = row_at(first)?.to_vec();
    let mut squares = vec![0.0; rows];
    measure(tiles, row_at(first)?, None, &mut squares);
    let candidates = 2 + (clusters as f64).ln().floor() as usize;
    let mut tried = vec![0.0; rows];
    let mut kept = vec![0.0; rows];
    for _ in 1..clusters {
        cumulative.clear();
        let mut total = 0.0;
        for (row, square) in squares.iter().enumerate() {
            total += weight(row) * square;
            cumulative.push(total);
        }
        if total <= 0.0 {
            return None;
        }
        let mut best: Option<(f64, usize)> = None;
        for _ in 0..candidates {
            let row = draw(&cumulative, &mut random)?;
            measure(tiles, row_at(row)?, Some(&squares), &mut tried);
            let potential = match weights {
                None => tried.iter().sum::<f64>(),
                Some(weights) => tried.iter().zip(weights).map(|(s, w)| s * w).sum(),
            };
            if best.is_none_or(|(least, _)| potential < least) {
                best = Some((potential, row));
                std::mem::swap(&mut tried, &mut kept);
            }
        }
        let (_, row) = best?;
        centers.extend_from_slice(row_at(row)?);
        std::mem::swap(&mut squares, &mut kept);
    }
    Some(centers)
}

/// The squared distance of each row to `point`, or to the nearest of the points before when that is less.
fn measure(tiles: &Tiles, point: &[f64], before: Option<&[f64]>, out: &mut [f64]) {
    let mut at = 0;
    let stretches = tiles.rows().div_ceil(super::super::parallel::STRETCH);
    for tile in (0..stretches).flat_map(|stretch| tiles.stretch(stretch)) {
        let found = distances(tile, point);
        let to = (at + LANES).min(out.len());
        let Some(out) = out.get_mut(at..to) else { return };
        match before.and_then(|before| before.get(at..to)) {
            Some(before) => {
                for ((out, found), before) in out.iter_mut().zip(&found).zip(before) {
                    *out = if found < before { *found } else { *before };
                }
            }
            None => out.iter_mut().zip(&found).for_each(|(out, found)| *out = *found),
        }
        at = to;
    }
}

/// A place, each as likely as its step in the sums says; never one without a step.
fn draw(cumulative: &[f64], random: &mut impl RngCore) -> Option<usize> {
    let total = cumulative.last().copied().filter(|total| *total > 0.0)?;
    let aim = unit(random) * total;
    let at = cumulative.partition_point(|sum| *sum <= aim);
    if at < cumulative.len() {
        return Some(at);
    }
    // Rounding may lead past the end: the last row with a step.
    Some(cumulative.partition_point(|sum| *sum < total))
}
