//! Seeded randomness and samples of rows.

use crm_core::{Matrix, Result};
use rand_xoshiro::Xoshiro256Plus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// The generator of one named part of a computation: parts do not shift each other's numbers.
pub(crate) fn generator(seed: u64, part: u64) -> Xoshiro256Plus {
    Xoshiro256Plus::seed_from_u64(seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A number from 0 up to but not 1, each of 2^53 equally likely.
pub(crate) fn unit(random: &mut impl RngCore) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// One of `0..below`, by multiplication: for the sizes here the odds differ by less than 2^-40.
pub(crate) fn below(random: &mut impl RngCore, below: usize) -> usize {
    ((u128::from(random.next_u64()) * below as u128) >> 64) as usize
}

/// Puts `items` into an order, each equally likely (Fisher and Yates).
pub(crate) fn shuffle<T>(items: &mut [T], random: &mut impl RngCore) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(random, last + 1));
    }
}

/// `wanted` of `0..rows`, ascending, each set equally likely (selection sampling, Knuth, TAOCP 2, algorithm S); all of
/// them when there are not more.
pub(crate) fn sample_rows(rows: usize, wanted: usize, seed: u64, part: u64) -> Vec<usize> {
    if rows <= wanted {
        return (0..rows).collect();
    }
    let mut random = generator(seed, part);
    let mut chosen = Vec::with_capacity(wanted);
    for row in 0..rows {
        if unit(&mut random) * ((rows - row) as f64) < (wanted - chosen.len()) as f64 {
            chosen.push(row);
        }
    }
    chosen
}

/// The given rows as a matrix of their own.
pub(crate) fn take_rows(x: &Matrix, rows: &[usize]) -> Result<Matrix> {
    if rows.len() == x.rows() {
        return Ok(x.clone());
    }
    let mut data = Vec::with_capacity(rows.len() * x.cols());
    rows.iter().for_each(|row| data.extend_from_slice(x.row(*row)));
    Matrix::new(x.columns().to_vec(), data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_exact_sorted_and_fair() {
        let mut hits = vec![0_u32; 20];
        for seed in 0..4000 {
            let rows = sample_rows(20, 5, seed, 1);
            assert_eq!(rows.len(), 5);
            assert!(rows.windows(2).all(|w| w[0] < w[1]));
            rows.iter().for_each(|row| hits[*row] += 1);
        }
        // Each row is expected 1000 times with a standard deviation of 27.
        assert!(hits.iter().all(|n| (860..1140).contains(n)), "{hits:?}");
        assert_eq!(sample_rows(3, 5, 1, 1), [0, 1, 2]);
    }
}
