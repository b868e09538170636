use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{check_scores, tied};

/// One part of the rows, ranked by score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LiftRow {
    /// The rows in it; a fraction where a part ends within a row.
    pub rows: f64,
    /// The positive rows in it, expected where equal scores straddle the border.
    pub positives: f64,
    /// The share of positive rows.
    pub rate: f64,
    /// The rate over that of all rows.
    pub lift: f64,
    /// The share of all positive rows found down to here.
    pub gain: f64,
    /// The rate down to here over that of all rows.
    pub cumulative_lift: f64,
    /// The lowest score in it.
    pub min_score: f64,
    /// The highest score in it.
    pub max_score: f64,
}

/// The rows in parts of equal size, the highest scores first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiftTable {
    /// The parts.
    pub parts: Vec<LiftRow>,
    /// The share of positive rows among all.
    pub base_rate: f64,
}

/// Lift and gain of the rows in `parts` parts of equal size (10 for deciles). Rows of equal scores that straddle a border
/// are shared out in expectation, so that a score without meaning has lift 1 everywhere.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] as [`super::roc`], and when there are fewer rows than parts or no part.
pub fn lift_table(scores: &[f64], positive: &[bool], parts: usize) -> Result<LiftTable> {
    check_scores("metrics.lift_table", scores, positive)?;
    if parts == 0 || parts > scores.len() {
        return Err(Error::invalid("there is at least one part, and a row for each")
            .operation("metrics.lift_table")
            .with("parts", parts)
            .with("rows", scores.len()));
    }
    let groups = tied(scores, positive);
    let rows = scores.len() as f64;
    let hits: f64 = groups.iter().map(|(_, _, hits)| hits).sum();
    let base_rate = hits / rows;
    let mut table = Vec::with_capacity(parts);
    // Where each group of ties begins and ends among the ranks.
    let (mut group, mut begins, mut found) = (0, 0.0, 0.0);
    for part in 0..parts {
        let from = rows * part as f64 / parts as f64;
        let to = rows * (part + 1) as f64 / parts as f64;
        let (mut positives, mut low, mut high) = (0.0, None, None);
        while let Some((score, size, hits)) = groups.get(group) {
            let overlap = (begins + size).min(to) - begins.max(from);
            if overlap > 1e-9 {
                positives += hits * overlap / size;
                high = high.or(Some(*score));
                low = Some(*score);
            }
            if begins + size > to + 1e-9 {
                break;
            }
            begins += size;
            group += 1;
        }
        found += positives;
        let size = to - from;
        table.push(LiftRow {
            rows: size,
            positives,
            rate: positives / size,
            lift: positives / size / base_rate,
            gain: found / hits,
            cumulative_lift: found / to / base_rate,
            min_score: low.unwrap_or_default(),
            max_score: high.unwrap_or_default(),
        });
    }
    Ok(LiftTable {
        parts: table,
        base_rate,
    })
}

/// Rows of similar probability.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// The rows in it.
    pub rows: usize,
    /// Their mean probability.
    pub predicted: f64,
    /// The share of them that are positive.
    pub observed: f64,
}

/// Whether probabilities are what they say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reliability {
    /// Bins of about equally many rows, the lowest probabilities first; equal ones are in one bin.
    pub bins: Vec<ReliabilityBin>,
    /// The expected calibration error: the mean distance of predicted and observed, by rows.
    pub ece: f64,
    /// The mean squared distance of the probabilities from the truth.
    pub brier: f64,
    /// The part of it that is miscalibration: the mean squared distance of predicted and observed.
    pub miscalibration: f64,
    /// The part taken from it by telling bins apart.
    pub resolution: f64,
    /// What it is when everybody gets the rate of all.
    pub uncertainty: f64,
}

/// Compares probabilities with what happened, in at most `bins` bins of about equally many rows.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] as [`super::roc`], when a probability is out of bounds, or there is no bin.
pub fn reliability(probabilities: &[f64], positive: &[bool], bins: usize) -> Result<Reliability> {
    let operation = "metrics.reliability";
    check_scores(operation, probabilities, positive)?;
    if bins == 0 {
        return Err(Error::invalid("there is at least one bin").operation(operation));
    }
    if let Some(row) = probabilities.iter().position(|p| !(0.0..=1.0).contains(p)) {
        return Err(Error::invalid("a probability is below 0 or above 1")
            .operation(operation)
            .with("row", row));
    }
    let rows = probabilities.len() as f64;
    let hits = positive.iter().filter(|p| **p).count() as f64;
    // With a bin for each row, more of them would stay empty.
    let bins = bins.min(probabilities.len());
    let mut found: Vec<(f64, f64, f64)> = vec![(0.0, 0.0, 0.0); bins];
    let mut before = 0.0;
    for (p, size, hits) in tied(probabilities, positive).into_iter().rev() {
        // Where the middle of the ties stands.
        let at = ((before + size / 2.0) / rows * bins as f64) as usize;
        if let Some(bin) = found.get_mut(at.min(bins - 1)) {
            bin.0 += size;
            bin.1 += size * p;
            bin.2 += hits;
        }
        before += size;
    }
    let base = hits / rows;
    let (mut ece, mut miscalibration, mut resolution) = (0.0, 0.0, 0.0);
    let mut table = Vec::new();
    for (size, sum, hits) in found.into_iter().filter(|(size, _, _)| *size > 0.0) {
        let (predicted, observed) = (sum / size, hits / size);
        let share = size / rows;
        ece += share * (predicted - observed).abs();
        miscalibration += share * (predicted - observed) * (predicted - observed);
        resolution += share * (observed - base) * (observed - base);
        table.push(ReliabilityBin {
            rows: size as usize,
            predicted,
            observed,
        });
    }
    let brier = probabilities
        .iter()
        .zip(positive)
        .map(|(p, positive)| (p - f64::from(u8::from(*positive))).powi(2))
        .sum::<f64>()
        / rows;
    Ok(Reliability {
        bins: table,
        ece,
        brier,
        miscalibration,
        resolution,
        uncertainty: base * (1.0 - base),
    })
}
