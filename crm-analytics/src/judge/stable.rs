use crm_core::capability::Clusterer;
use crm_core::{Error, Matrix, Result};
use serde::{Deserialize, Serialize};

use crate::metrics::adjusted_rand;
use crate::sample::{below, generator};

/// Whether the same groups come back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stability {
    /// How far each refit agrees with the first grouping of all rows (adjusted Rand index).
    pub agreements: Vec<f64>,
    /// Their mean: above about 0.8 the groups are firm, below about 0.6 they are as much chance as customers.
    pub mean: f64,
    /// The least of them.
    pub least: f64,
}

/// Learns groups anew on rows drawn with replacement, `refits` times, and compares how all rows are grouped.
///
/// # Errors
/// As the clusterer's `fit`; [`crm_core::ErrorKind::Invalid`] without a refit.
pub fn stability(clusterer: &dyn Clusterer, x: &Matrix, refits: usize, seed: u64) -> Result<Stability> {
    if refits == 0 {
        return Err(Error::invalid("groups are learned anew at least once").operation("judge.stability"));
    }
    let base = clusterer.fit(x, seed)?.predict(x)?;
    let mut agreements = Vec::new();
    for refit in 0..refits as u64 {
        let mut random = generator(seed, 0x57ab_0000 + refit);
        let mut rows: Vec<usize> = (0..x.rows()).map(|_| below(&mut random, x.rows())).collect();
        rows.sort_unstable();
        let drawn = rows.iter().flat_map(|row| x.row(*row).iter().copied()).collect();
        let drawn = Matrix::new(x.columns().to_vec(), drawn)?;
        let found = clusterer.fit(&drawn, seed.wrapping_add(refit + 1))?.predict(x)?;
        agreements.push(adjusted_rand(&base, &found)?);
    }
    Ok(Stability {
        mean: agreements.iter().sum::<f64>() / refits as f64,
        least: agreements.iter().copied().fold(f64::INFINITY, f64::min),
        agreements,
    })
}
