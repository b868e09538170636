use crm_core::{Error, Matrix, Result};
use serde::{Deserialize, Serialize};

/// The values up to a border, before and now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DriftBin {
    /// Values up to this belong to it; absent for the last.
    pub to: Option<f64>,
    /// The rows before.
    pub before: usize,
    /// The rows now.
    pub now: usize,
}

/// How one column has moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnDrift {
    /// Its name.
    pub column: String,
    /// The population stability index: 0 when nothing moved. By convention below 0.1 is little and above 0.25 much, but
    /// what chance alone makes grows with the bins and falls with the rows: see `p_value`.
    pub psi: f64,
    /// How likely chance alone moves the rows at least so far (Pearson's test of the two counts).
    pub p_value: f64,
    /// The rows in each bin.
    pub bins: Vec<DriftBin>,
}

/// How far two tables of the same columns are apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The columns in their order.
    pub columns: Vec<ColumnDrift>,
}

impl Drift {
    /// The column that moved most.
    pub fn most(&self) -> Option<&ColumnDrift> {
        self.columns.iter().max_by(|a, b| a.psi.total_cmp(&b.psi))
    }
}

/// The population stability index of two lists of shares, `sum (p - q) ln(p / q)`. Both are taken as shares of their sums.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when lengths differ or a share is not above 0.
pub fn psi(before: &[f64], now: &[f64]) -> Result<f64> {
    let positive = |shares: &[f64]| shares.iter().all(|share| *share > 0.0 && share.is_finite());
    if before.len() != now.len() || !positive(before) || !positive(now) {
        return Err(
            Error::invalid("the stability index compares as many shares above 0 with each other")
                .operation("judge.psi"),
        );
    }
    let (p, q): (f64, f64) = (before.iter().sum(), now.iter().sum());
    Ok(before
        .iter()
        .zip(now)
        .map(|(a, b)| (a / p - b / q) * (a / p / (b / q)).ln())
        .sum())
}

/// Compares each column of two tables in at most `bins` bins of about equally many rows of the first one. A value that
/// holds many rows has a bin of its own. Empty bins count as half a row.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when the tables have different columns, one has no rows, or there are fewer than 2 bins.
pub fn drift(before: &Matrix, now: &Matrix, bins: usize) -> Result<Drift> {
    crm_core::matrix::same_columns(before.columns(), now)?;
    if before.rows() == 0 || now.rows() == 0 || bins < 2 {
        return Err(
            Error::invalid("drift compares at least one row with another, in at least 2 bins")
                .operation("judge.drift"),
        );
    }
    // With a bin for each row, more of them would stay empty.
    let bins = bins.min(before.rows().max(2));
    let columns = before.columns().iter().enumerate().map(|(at, column)| {
        let mut values: Vec<f64> = before.iter_col(at).map(|v| v + 0.0).collect();
        values.sort_unstable_by(f64::total_cmp);
        let mut edges: Vec<f64> = (1..bins)
            .filter_map(|i| {
                values
                    .get((i * values.len()).div_ceil(bins).saturating_sub(1))
                    .copied()
            })
            .collect();
        edges.dedup();
        // The largest value is no border: nothing would be beyond. A constant column is one, so that change shows.
        let most = values.last().copied();
        if edges.len() > 1 || values.first() != values.last() {
            edges.retain(|edge| Some(*edge) != most);
        }
        let count = |x: &Matrix| {
            let mut counts = vec![0_usize; edges.len() + 1];
            for value in x.iter_col(at) {
                if let Some(count) = counts.get_mut(edges.partition_point(|edge| *edge < value)) {
                    *count += 1;
                }
            }
            counts
        };
        let (old, new) = (count(before), count(now));
        let smooth = |counts: &[usize]| -> Vec<f64> {
            let n: usize = counts.iter().sum();
            let all = n as f64 + 0.5 * counts.len() as f64;
            counts.iter().map(|count| (*count as f64 + 0.5) / all).collect()
        };
        Ok(ColumnDrift {
            column: column.clone(),
            psi: psi(&smooth(&old), &smooth(&new))?,
            p_value: same_shares(&old, &new),
            bins: old
                .iter()
                .zip(&new)
                .enumerate()
                .map(|(i, (before, now))| DriftBin {
                    to: edges.get(i).copied(),
                    before: *before,
                    now: *now,
                })
                .collect(),
        })
    });
    Ok(Drift {
        columns: columns.collect::<Result<_>>()?,
    })
}

/// Pearson's test that two lists of counts have the same shares.
fn same_shares(a: &[usize], b: &[usize]) -> f64 {
    let (n, m) = (a.iter().sum::<usize>() as f64, b.iter().sum::<usize>() as f64);
    let (mut square, mut freedom) = (0.0, -1.0);
    for (a, b) in a.iter().zip(b) {
        let both = (a + b) as f64;
        if both > 0.0 {
            let (of_a, of_b) = (both * n / (n + m), both * m / (n + m));
            square += (*a as f64 - of_a).powi(2) / of_a + (*b as f64 - of_b).powi(2) / of_b;
            freedom += 1.0;
        }
    }
    if freedom < 1.0 {
        1.0
    } else {
        upper_gamma(freedom / 2.0, square / 2.0)
    }
}

/// The regularised upper incomplete gamma function (series and continued fraction: Press and others, Numerical Recipes,
/// 6.2).
fn upper_gamma(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let front = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum, mut n) = (1.0 / a, 1.0 / a, a);
        for _ in 0..10_000 {
            n += 1.0;
            term *= x / n;
            sum += term;
            if term < sum * 1e-16 {
                break;
            }
        }
        return (1.0 - front * sum).clamp(0.0, 1.0);
    }
    let tiny = 1e-300;
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (1.0 / tiny, 1.0 / b);
    let mut h = d;
    for i in 1..10_000 {
        let an = -f64::from(i) * (f64::from(i) - a);
        b += 2.0;
        d = an * d + b;
        d = 1.0 / if d.abs() < tiny { tiny } else { d };
        c = b + an / c;
        c = if c.abs() < tiny { tiny } else { c };
        let step = c * d;
        h *= step;
        if (step - 1.0).abs() < 1e-16 {
            break;
        }
    }
    (front * h).clamp(0.0, 1.0)
}

/// The logarithm of the gamma function for arguments above 0 (Stirling's series after a shift).
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 12.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let r = 1.0 / (x * x);
    let series = (1.0 / 12.0 - r * (1.0 / 360.0 - r * (1.0 / 1260.0 - r * (1.0 / 1680.0 - r / 1188.0)))) / x;
    shift + (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gamma_has_its_known_values() {
        assert!((ln_gamma(0.5) - std::f64::consts::PI.sqrt().ln()).abs() < 1e-13);
        assert!((ln_gamma(10.0) - 362_880.0_f64.ln()).abs() < 1e-12);
        // Chi square: the 5 % points of 1, 9 and 50 degrees of freedom.
        for (freedom, square) in [
            (1.0, 3.841_458_820_694),
            (9.0, 16.918_977_604_62),
            (50.0, 67.504_806_549_54),
        ] {
            assert!(
                (upper_gamma(freedom / 2.0, square / 2.0) - 0.05).abs() < 1e-12,
                "{freedom}"
            );
        }
    }
}
