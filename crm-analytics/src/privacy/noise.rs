//! Noise that hides any one person in a figure (differential privacy), and an account of how much was given away.
//!
//! The noise is discrete and drawn with integers only: floating-point Laplace noise leaks through its rounding
//! (Mironov 2012). The sampler is algorithm 2 of Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential
//! Privacy" (2020), exact for rational parameters.

use crm_core::{Error, Result};
use rand_xoshiro::Xoshiro256Plus;
use rand_xoshiro::rand_core::RngCore;
use serde::{Deserialize, Serialize};

use crate::sample::generator;

/// How much a figure may give away, in thousandths: the smaller, the more noise. 100 (0.1) is strict, 1,000 (1) usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Epsilon(u32);

impl Epsilon {
    /// So many thousandths, 1 to 100,000.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when it is outside.
    pub fn thousandths(epsilon: u32) -> Result<Self> {
        if (1..=100_000).contains(&epsilon) {
            Ok(Self(epsilon))
        } else {
            Err(Error::invalid("an epsilon is 1 to 100000 thousandths").with("setting", "epsilon"))
        }
    }
    /// In thousandths.
    pub fn as_thousandths(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Epsilon {
    type Error = Error;
    fn try_from(epsilon: u32) -> Result<Self> {
        Self::thousandths(epsilon)
    }
}
impl From<Epsilon> for u32 {
    fn from(epsilon: Epsilon) -> Self {
        epsilon.0
    }
}

/// One figure that was given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// What it was.
    pub what: String,
    /// How much it gave away.
    pub epsilon: Epsilon,
}

/// An account of what was given away about the same people: figures add up, and when the budget is used up no more are
/// given out. Plain data: keep it with the people it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpsilonLedger {
    budget: Epsilon,
    spent: Vec<Spent>,
}

impl EpsilonLedger {
    /// A new account with this budget.
    pub fn new(budget: Epsilon) -> Self {
        Self {
            budget,
            spent: Vec::new(),
        }
    }
    /// What was given out, in order.
    pub fn spent(&self) -> &[Spent] {
        &self.spent
    }
    /// What is left, in thousandths.
    pub fn left(&self) -> u32 {
        let spent: u64 = self.spent.iter().map(|one| u64::from(one.epsilon.0)).sum();
        u32::try_from(u64::from(self.budget.0).saturating_sub(spent)).unwrap_or_default()
    }

    /// A count with noise, and the account charged for it. It can be below 0; cutting it off there, or rounding it, gives
    /// nothing more away.
    ///
    /// `sensitivity` is by how much one person can change the count: 1 when each is counted once. It is a parameter and
    /// never taken from the data. Draw `seed` at random for every figure and keep it secret: who knows it can take the
    /// noise off.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when the sensitivity is not 1 to 1,000,000;
    /// [`crm_core::ErrorKind::Refused`] when less is left than the figure would give away. Nothing is charged then.
    pub fn count(
        &mut self,
        what: &str,
        count: i64,
        sensitivity: u32,
        epsilon: Epsilon,
        seed: u64,
    ) -> Result<i64> {
        if !(1..=1_000_000).contains(&sensitivity) {
            return Err(Error::invalid("a sensitivity is 1 to 1000000")
                .operation("privacy.count")
                .with("setting", "sensitivity"));
        }
        if epsilon.0 > self.left() {
            return Err(Error::new(
                crm_core::ErrorKind::Refused,
                "the privacy budget is used up; show what was given out before, or wait for new data",
            )
            .operation("privacy.count")
            .with("left_thousandths", self.left())
            .with("asked_thousandths", epsilon.0));
        }
        self.spent.push(Spent {
            what: what.to_owned(),
            epsilon,
        });
        let scale = u64::from(sensitivity) * 1_000;
        let noise = discrete_laplace(scale, u64::from(epsilon.0), &mut generator(seed, 0xd1));
        Ok(count.saturating_add(noise))
    }
}

/// A number of 0 to `below - 1`, each equally likely (by rejection).
fn uniform(below: u64, random: &mut Xoshiro256Plus) -> u64 {
    // Xoshiro256+ has weak low bits: only the upper ones are used.
    let bits = 64 - below.saturating_sub(1).leading_zeros();
    if bits == 0 {
        return 0;
    }
    loop {
        let drawn = random.next_u64() >> (64 - bits);
        if drawn < below {
            return drawn;
        }
    }
}

/// True with probability exp(-numerator / denominator), for at most 1.
fn exp_minus(numerator: u64, denominator: u64, random: &mut Xoshiro256Plus) -> bool {
    let mut k = 1;
    // True with probability numerator / (denominator k), for k = 1, 2, ..., until it is not.
    while uniform(denominator.saturating_mul(k), random) < numerator {
        k += 1;
    }
    k % 2 == 1
}

/// Discrete Laplace noise: `P(x)` falls by exp(-`s` / `t`) from one integer to the next.
fn discrete_laplace(t: u64, s: u64, random: &mut Xoshiro256Plus) -> i64 {
    loop {
        let part = uniform(t, random);
        if !exp_minus(part, t, random) {
            continue;
        }
        let mut whole = 0_u64;
        while exp_minus(1, 1, random) {
            whole += 1;
        }
        let magnitude = (part + t.saturating_mul(whole)) / s.max(1);
        let negative = uniform(2, random) == 1;
        if negative && magnitude == 0 {
            continue;
        }
        let magnitude = i64::try_from(magnitude).unwrap_or(i64::MAX);
        return if negative { -magnitude } else { magnitude };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noise_has_the_distribution_it_should() {
        // P(0) = (1 - a) / (1 + a) and P(|x|) falls by a = exp(-epsilon / sensitivity).
        for (t, s) in [(1_000_u64, 1_000_u64), (1_000, 250), (3_000, 1_000)] {
            let a = (-(s as f64) / t as f64).exp();
            let mut random = generator(5, 1);
            let n = 40_000;
            let mut counts = [0_i64; 5];
            let (mut sum, mut squares) = (0_i64, 0_i64);
            for _ in 0..n {
                let x = discrete_laplace(t, s, &mut random);
                sum += x;
                squares += x * x;
                if let Some(slot) = counts.get_mut(x.unsigned_abs() as usize) {
                    *slot += 1;
                }
            }
            for (x, found) in counts.iter().enumerate() {
                let both = if x == 0 { 1.0 } else { 2.0 };
                let p = both * (1.0 - a) / (1.0 + a) * a.powi(x as i32);
                let (wanted, spread) = (p * n as f64, (p * (1.0 - p) * n as f64).sqrt());
                assert!(
                    (*found as f64 - wanted).abs() < 5.0 * spread,
                    "{t} {s} {x}: {found} for {wanted}"
                );
            }
            let variance = 2.0 * a / (1.0 - a).powi(2);
            let mean = sum as f64 / n as f64;
            assert!(mean.abs() < 5.0 * (variance / n as f64).sqrt(), "{mean}");
            let found = squares as f64 / n as f64;
            assert!((found / variance - 1.0).abs() < 0.1, "{found} for {variance}");
        }
    }

    #[test]
    fn the_account_is_kept_and_read_back() {
        let mut ledger = EpsilonLedger::new(Epsilon::thousandths(100).unwrap());
        let e = Epsilon::thousandths(60).unwrap();
        let first = ledger.count("a", 10, 1, e, 1).unwrap();
        assert_eq!(
            first,
            EpsilonLedger::new(e).count("a", 10, 1, e, 1).unwrap(),
            "same seed, same noise"
        );
        assert_eq!(ledger.left(), 40);
        let refused = ledger.count("b", 10, 1, e, 2).unwrap_err();
        assert_eq!(refused.kind(), crm_core::ErrorKind::Refused);
        assert_eq!(ledger.spent().len(), 1);
        let text = serde_json::to_string(&ledger).unwrap();
        assert_eq!(serde_json::from_str::<EpsilonLedger>(&text).unwrap(), ledger);
        assert!(serde_json::from_str::<Epsilon>("0").is_err());
        assert!(
            ledger
                .count("c", 1, 0, Epsilon::thousandths(1).unwrap(), 1)
                .is_err()
        );
    }
}
