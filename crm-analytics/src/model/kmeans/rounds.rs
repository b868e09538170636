//! Lloyd's rounds (1982): assign every row to its nearest centre, move every centre to the mean of its rows.

use super::super::parallel::{STRETCH, each};
use super::tiles::{LANES, Tiles, nearest};
use crate::metrics::square_distance;

/// What the rounds work on.
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f64],
    pub(super) cols: usize,
    pub(super) tiles: &'a Tiles,
    pub(super) weights: Option<&'a [f64]>,
    pub(super) threads: usize,
}

/// When the rounds end.
#[derive(Clone, Copy)]
pub(super) struct Until {
    /// At most so many rounds.
    pub(super) rounds: usize,
    /// The squared shift of all centres at which they stand still; 0: until no row changes its group.
    pub(super) shift: f64,
    /// A sum of squares that is already reached elsewhere: given up when the way there is hopeless.
    pub(super) reached: f64,
}

/// The state after some rounds. Labels and centres belong together.
pub(in crate::model) struct State {
    pub(in crate::model) centers: Vec<f64>,
    pub(in crate::model) labels: Vec<u32>,
    pub(in crate::model) inertia: f64,
    pub(in crate::model) rounds: usize,
    pub(in crate::model) converged: bool,
}

/// What one stretch answers: the sum of squares, whether a row changed its group, sums and weights of the groups.
struct Part {
    inertia: f64,
    changed: bool,
    sums: Vec<f64>,
    weights: Vec<f64>,
}

/// So many more rounds, each as good as the last one, must be able to reach what is already reached.
const HOPE: f64 = 50.0;

/// Rounds from `centers` on.
pub(super) fn rounds(rows: &Rows<'_>, mut centers: Vec<f64>, until: Until) -> State {
    let n = rows.tiles.rows();
    let mut labels = vec![u32::MAX; n];
    let mut squares = vec![0.0; n];
    let mut before = f64::INFINITY;
    let mut done = 0;
    let mut still = false;
    loop {
        let part = assign(rows, &centers, &mut labels, &mut squares);
        let hopeless = done >= 3 && part.inertia - HOPE * (before - part.inertia).max(0.0) > until.reached;
        if !part.changed || still || done >= until.rounds || hopeless {
            return State {
                centers,
                labels,
                inertia: part.inertia,
                rounds: done,
                converged: !part.changed || still,
            };
        }
        before = part.inertia;
        done += 1;
        let moved = step(rows, &mut centers, part, &mut labels, &mut squares);
        still = until.shift > 0.0 && moved <= until.shift;
    }
}

/// Assigns every row to its nearest centre.
fn assign(rows: &Rows<'_>, centers: &[f64], labels: &mut [u32], squares: &mut [f64]) -> Part {
    let items: Vec<_> = labels
        .chunks_mut(STRETCH)
        .zip(squares.chunks_mut(STRETCH))
        .enumerate()
        .collect();
    let parts = each(items, rows.threads, |(stretch, (labels, squares))| {
        let mut part = Part {
            inertia: 0.0,
            changed: false,
            sums: vec![0.0; centers.len()],
            weights: vec![0.0; centers.len() / rows.cols],
        };
        let from = stretch * STRETCH;
        let data = rows.data.get(from * rows.cols..).unwrap_or_default();
        let weights = rows.weights.and_then(|weights| weights.get(from..));
        let groups = labels
            .chunks_mut(LANES)
            .zip(squares.chunks_mut(LANES))
            .zip(data.chunks(LANES * rows.cols));
        for (at, (tile, ((labels, squares), rows_of))) in rows.tiles.stretch(stretch).zip(groups).enumerate()
        {
            let (found, square) = nearest(tile, centers);
            let own = weights.and_then(|weights| weights.get(at * LANES..));
            let each = labels
                .iter_mut()
                .zip(squares)
                .zip(rows_of.chunks_exact(rows.cols));
            for (lane, ((label, kept), row)) in each.enumerate() {
                let (Some(found), Some(square)) = (found.get(lane), square.get(lane)) else {
                    continue;
                };
                let found = *found as u32;
                part.changed |= *label != found;
                *label = found;
                *kept = *square;
                let at = found as usize;
                let weight = own.map_or(1.0, |own| own.get(lane).copied().unwrap_or(0.0));
                part.inertia += weight * square;
                if let Some(sum) = part.weights.get_mut(at) {
                    *sum += weight;
                }
                if let Some(sums) = part.sums.get_mut(at * rows.cols..(at + 1) * rows.cols) {
                    if own.is_some() {
                        sums.iter_mut()
                            .zip(row)
                            .for_each(|(sum, value)| *sum += weight * value);
                    } else {
                        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                    }
                }
            }
        }
        part
    });
    let mut whole = Part {
        inertia: 0.0,
        changed: false,
        sums: vec![0.0; centers.len()],
        weights: vec![0.0; centers.len() / rows.cols],
    };
    for part in parts {
        whole.inertia += part.inertia;
        whole.changed |= part.changed;
        whole
            .sums
            .iter_mut()
            .zip(&part.sums)
            .for_each(|(sum, more)| *sum += more);
        whole
            .weights
            .iter_mut()
            .zip(&part.weights)
            .for_each(|(sum, more)| *sum += more);
    }
    whole
}

/// Moves the centres to the means; answers the squared shift of all of them. An emptied group restarts at the row
/// farthest from its centre.
fn step(
    rows: &Rows<'_>,
    centers: &mut [f64],
    mut part: Part,
    labels: &mut [u32],
    squares: &mut [f64],
) -> f64 {
    let cols = rows.cols;
    let weight_of = |row: usize| rows.weights.map_or(1.0, |w| w.get(row).copied().unwrap_or(0.0));
    for empty in 0..part.weights.len() {
        if part.weights.get(empty).is_none_or(|weight| *weight > 0.0) {
            continue;
        }
        let mut farthest = (0, 0.0);
        for (row, square) in squares.iter().enumerate() {
            let far = weight_of(row) * square;
            if far > farthest.1 {
                farthest = (row, far);
            }
        }
        let Some(old) = labels
            .get(farthest.0)
            .map(|label| *label as usize)
            .filter(|_| farthest.1 > 0.0)
        else {
            continue;
        };
        let weight = weight_of(farthest.0);
        let Some(row) = rows.data.get(farthest.0 * cols..(farthest.0 + 1) * cols) else {
            continue;
        };
        for (group, sign) in [(old, -weight), (empty, weight)] {
            if let Some(sum) = part.weights.get_mut(group) {
                *sum += sign;
            }
            if let Some(sums) = part.sums.get_mut(group * cols..(group + 1) * cols) {
                sums.iter_mut()
                    .zip(row)
                    .for_each(|(sum, value)| *sum += sign * value);
            }
        }
        if let (Some(label), Some(square)) = (labels.get_mut(farthest.0), squares.get_mut(farthest.0)) {
            (*label, *square) = (empty as u32, 0.0);
        }
    }
    let mut moved = 0.0;
    let mut next = vec![0.0; cols];
    let groups = centers
        .chunks_exact_mut(cols)
        .zip(part.sums.chunks_exact(cols))
        .zip(&part.weights);
    for ((center, sums), weight) in groups {
        if *weight <= 0.0 {
            continue;
        }
        next.iter_mut()
            .zip(sums)
            .for_each(|(next, sum)| *next = sum / weight);
        moved += square_distance(center, &next);
        center.copy_from_slice(&next);
    }
    moved
}

/// Most is won in the first passes.
const EXCHANGE_PASSES: usize = 20;

/// Hartigan's exchange (1975): moves single rows as long as that lowers the sum of squares, the centres following at
/// once. It leaves many of the places where Lloyd's rounds stand still. Says whether anything moved.
pub(super) fn exchange(rows: &Rows<'_>, found: &mut State) -> bool {
    let cols = rows.cols;
    let weight_of = |row: usize| rows.weights.map_or(1.0, |w| w.get(row).copied().unwrap_or(0.0));
    let mut counts = vec![0.0; found.centers.len() / cols];
    let mut members = vec![0_usize; counts.len()];
    for (row, label) in found.labels.iter().enumerate() {
        if let (Some(count), Some(members)) =
            (counts.get_mut(*label as usize), members.get_mut(*label as usize))
        {
            *count += weight_of(row);
            *members += 1;
        }
    }
    let mut moved = false;
    for _ in 0..EXCHANGE_PASSES {
        let mut moved_now = false;
        for (at, (row, label)) in rows.data.chunks_exact(cols).zip(&mut found.labels).enumerate() {
            let group = *label as usize;
            let weight = weight_of(at);
            let own = counts.get(group).copied().unwrap_or(0.0);
            if members.get(group).is_none_or(|n| *n <= 1) || own <= weight || weight <= 0.0 {
                continue;
            }
            // What leaving lowers the sum by, and what the best other group raises it by.
            let mut leaves = 0.0;
            let mut best = (group, f64::INFINITY);
            for (other, (center, count)) in found.centers.chunks_exact(cols).zip(&counts).enumerate() {
                let square = square_distance(row, center);
                if other == group {
                    leaves = square * own / (own - weight);
                } else if square * count / (count + weight) < best.1 {
                    best = (other, square * count / (count + weight));
                }
            }
            // A margin above rounding, so that it ends.
            if best.1 >= leaves * (1.0 - 1e-9) {
                continue;
            }
            for (target, sign) in [(group, -weight), (best.0, weight)] {
                let Some(count) = counts.get_mut(target) else {
                    continue;
                };
                *count += sign;
                if let Some(center) = found.centers.get_mut(target * cols..(target + 1) * cols) {
                    center
                        .iter_mut()
                        .zip(row)
                        .for_each(|(c, v)| *c += sign * (v - *c) / *count);
                }
            }
            if let Some(n) = members.get_mut(group) {
                *n -= 1;
            }
            if let Some(n) = members.get_mut(best.0) {
                *n += 1;
            }
            *label = best.0 as u32;
            moved_now = true;
        }
        if !moved_now {
            break;
        }
        moved = true;
    }
    moved
}
