use crm_core::Result;
use serde::{Deserialize, Serialize};

use super::{check_scores, tied};

/// A point of a ROC curve: calling all rows of at least this score positive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RocPoint {
    /// The score; absent at the start, where no row is called positive.
    pub threshold: Option<f64>,
    /// The share of negative rows called positive.
    pub false_positive_rate: f64,
    /// The share of positive rows called positive.
    pub true_positive_rate: f64,
}

/// How well scores rank positive rows before negative ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Roc {
    /// The curve, from no row to all rows; equal scores are one step.
    pub points: Vec<RocPoint>,
    /// The area under it: how likely a positive row scores above a negative one, ties counting half.
    pub auc: f64,
    /// The standard error of the area (DeLong, DeLong and Clarke-Pearson 1988); absent with fewer than two rows of a kind.
    pub error: Option<f64>,
    /// The largest distance of the two rates (Kolmogorov and Smirnov).
    pub ks: f64,
}

impl Roc {
    /// The 95 % interval of the area.
    pub fn interval(&self) -> Option<(f64, f64)> {
        let reach = 1.959_963_984_540_054 * self.error?;
        Some(((self.auc - reach).max(0.0), (self.auc + reach).min(1.0)))
    }
}

/// The ROC curve of scores, area and error.
///
/// ```
/// use crm_analytics::metrics::roc;
///
/// let roc = roc(&[0.9, 0.8, 0.8, 0.1], &[true, true, false, false]).unwrap();
/// assert_eq!(roc.auc, 0.875); // one of four pairs is a tie
/// ```
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when lengths differ, a score is not finite, or all rows are of one kind.
pub fn roc(scores: &[f64], positive: &[bool]) -> Result<Roc> {
    check_scores("metrics.roc", scores, positive)?;
    let groups = tied(scores, positive);
    let hits: f64 = groups.iter().map(|(_, _, hits)| hits).sum();
    let misses = scores.len() as f64 - hits;
    let mut points = vec![RocPoint {
        threshold: None,
        false_positive_rate: 0.0,
        true_positive_rate: 0.0,
    }];
    let (mut above_hits, mut above_misses, mut ks) = (0.0, 0.0, 0.0_f64);
    let (mut area, mut of_hits, mut of_misses) = (0.0, 0.0, 0.0);
    // A first pass for the area, so that the second can sum squares around it.
    for (_, rows, hit) in &groups {
        let miss = rows - hit;
        area += hit * (misses - above_misses - miss + miss / 2.0);
        above_misses += miss;
    }
    let auc = area / hits / misses;
    above_misses = 0.0;
    for (score, rows, hit) in &groups {
        let miss = rows - hit;
        // The share of the other kind that a row of this score is ranked right against.
        let of_hit = (misses - above_misses - miss / 2.0) / misses;
        let of_miss = (above_hits + hit / 2.0) / hits;
        of_hits += hit * (of_hit - auc) * (of_hit - auc);
        of_misses += miss * (of_miss - auc) * (of_miss - auc);
        above_hits += hit;
        above_misses += miss;
        let point = RocPoint {
            threshold: Some(*score),
            false_positive_rate: above_misses / misses,
            true_positive_rate: above_hits / hits,
        };
        ks = ks.max((point.true_positive_rate - point.false_positive_rate).abs());
        points.push(point);
    }
    let error = (hits > 1.0 && misses > 1.0)
        .then(|| (of_hits / (hits - 1.0) / hits + of_misses / (misses - 1.0) / misses).sqrt());
    Ok(Roc {
        points,
        auc,
        error,
        ks,
    })
}

/// A point of a precision-recall curve: calling all rows of at least this score positive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PrecisionRecallPoint {
    /// The score.
    pub threshold: f64,
    /// The share of positive rows called positive.
    pub recall: f64,
    /// The share of rows called positive that are.
    pub precision: f64,
}

/// How many of the rows called positive are, the more are called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrecisionRecall {
    /// The curve, from the highest score to all rows; equal scores are one step.
    pub points: Vec<PrecisionRecallPoint>,
    /// The mean precision over the recall gained, by steps and not by trapezoids.
    pub average_precision: f64,
    /// What a score without meaning has: the share of positive rows.
    pub baseline: f64,
}

/// The precision-recall curve of scores.
///
/// # Errors
/// As [`roc`].
pub fn precision_recall(scores: &[f64], positive: &[bool]) -> Result<PrecisionRecall> {
    check_scores("metrics.precision_recall", scores, positive)?;
    let groups = tied(scores, positive);
    let hits: f64 = groups.iter().map(|(_, _, hits)| hits).sum();
    let (mut called, mut right, mut average) = (0.0, 0.0, 0.0);
    let mut points = Vec::with_capacity(groups.len());
    for (score, rows, hit) in groups {
        called += rows;
        right += hit;
        average += hit / hits * (right / called);
        points.push(PrecisionRecallPoint {
            threshold: score,
            recall: right / hits,
            precision: right / called,
        });
    }
    Ok(PrecisionRecall {
        points,
        average_precision: average,
        baseline: hits / scores.len() as f64,
    })
}

/// The mean precision over the recall gained, by steps.
///
/// # Errors
/// As [`roc`].
pub fn average_precision(scores: &[f64], positive: &[bool]) -> Result<f64> {
    Ok(precision_recall(scores, positive)?.average_precision)
}
