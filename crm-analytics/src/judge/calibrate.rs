use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The shape of a calibration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A logistic curve (Platt 1999): two parameters, for few rows.
    #[default]
    Platt,
    /// Any rising steps (isotonic regression), for 1,000 rows and more.
    Isotonic,
}

/// From scores to probabilities that come true. Fit it on rows that the model has not seen.
///
/// ```
/// use crm_analytics::judge::{Calibration, Method};
///
/// let scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
/// let happened = [false, false, false, true, false, true, true, true];
/// let calibration = Calibration::fit(Method::Isotonic, &scores, &happened).unwrap();
/// assert_eq!(calibration.apply(0.45), 0.5); // one of the two around it happened
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "method")]
pub enum Calibration {
    /// `1 / (1 + e^-(slope score + intercept))`.
    Platt {
        /// How steep.
        slope: f64,
        /// The log-odds at score 0.
        intercept: f64,
    },
    /// Straight lines between points; flat outside.
    Isotonic {
        /// Ascending.
        scores: Vec<f64>,
        /// One a score, never falling.
        probabilities: Vec<f64>,
    },
}

impl Calibration {
    /// Learns from scores and what happened.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when lengths differ, a score is not finite, or all rows are of one kind.
    pub fn fit(method: Method, scores: &[f64], positive: &[bool]) -> Result<Self> {
        crate::metrics::check_scores("judge.calibrate", scores, positive)?;
        match method {
            Method::Platt => platt(scores, positive),
            Method::Isotonic => Ok(isotonic(scores, positive)),
        }
    }

    /// The probability that belongs to a score; a score that is no number has none.
    pub fn apply(&self, score: f64) -> f64 {
        match self {
            Self::Platt { slope, intercept } => crate::model::logistic(slope * score + intercept),
            Self::Isotonic {
                scores,
                probabilities,
            } => {
                let above = scores.partition_point(|s| *s < score);
                let point = |at: usize| Some((*scores.get(at)?, *probabilities.get(at)?));
                match (above.checked_sub(1).and_then(point), point(above)) {
                    (Some((low, p)), Some((high, q))) if high > low => {
                        p + (q - p) * ((score / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0))
                    }
                    (_, Some((_, q))) => q,
                    (Some((_, p)), None) => p,
                    (None, None) => f64::NAN,
                }
            }
        }
    }
}

/// Newton's steps on the smoothed targets (Lin, Lin and Weng 2007).
fn platt(scores: &[f64], positive: &[bool]) -> Result<Calibration> {
    let n = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let deviation = (scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / n).sqrt();
    let hits = positive.iter().filter(|p| **p).count() as f64;
    let (high, low) = ((hits + 1.0) / (hits + 2.0), 1.0 / (n - hits + 2.0));
    if !deviation.is_finite() {
        return Err(Error::invalid("the scores are too large to be squared").operation("judge.calibrate"));
    }
    // A score without spread says nothing: everybody gets the rate of all.
    let scale = if deviation > 0.0 { deviation } else { 1.0 };
    let rows: Vec<(f64, f64)> = scores
        .iter()
        .zip(positive)
        .map(|(s, p)| ((s - mean) / scale, if *p { high } else { low }))
        .collect();
    let loss = |a: f64, b: f64| -> f64 {
        rows.iter()
            .map(|(s, t)| {
                let m = a * s + b;
                m.max(0.0) - m * t + (-m.abs()).exp().ln_1p()
            })
            .sum()
    };
    let (mut a, mut b) = (0.0, ((hits + 1.0) / (n - hits + 1.0)).ln());
    let mut now = loss(a, b);
    for _ in 0..100 {
        let (mut ga, mut gb, mut aa, mut ab, mut bb) = (0.0, 0.0, 1e-12, 0.0, 1e-12);
        for (s, t) in &rows {
            let p = crate::model::logistic(a * s + b);
            let w = p * (1.0 - p);
            ga += (p - t) * s;
            gb += p - t;
            aa += w * s * s;
            ab += w * s;
            bb += w;
        }
        if ga.abs().max(gb.abs()) < 1e-10 * n {
            break;
        }
        let det = aa * bb - ab * ab;
        let (da, db) = if det > 0.0 {
            (-(bb * ga - ab * gb) / det, -(aa * gb - ab * ga) / det)
        } else {
            (-ga / aa, -gb / bb)
        };
        let mut step = 1.0;
        while step > 1e-10 {
            let next = loss(a + step * da, b + step * db);
            if next <= now {
                break;
            }
            step /= 2.0;
        }
        (a, b) = (a + step * da, b + step * db);
        let next = loss(a, b);
        if now - next <= 1e-15 * now.abs() {
            break;
        }
        now = next;
    }
    Ok(Calibration::Platt {
        slope: a / scale,
        intercept: b - a * mean / scale,
    })
}

/// Pool adjacent violators (Ayer and others 1955), equal scores pooled first.
fn isotonic(scores: &[f64], positive: &[bool]) -> Calibration {
    // Lowest score, highest score, rows, hits.
    let mut blocks: Vec<(f64, f64, f64, f64)> = Vec::new();
    for (score, rows, hits) in crate::metrics::tied(scores, positive).into_iter().rev() {
        blocks.push((score, score, rows, hits));
        while let [.., before, last] = blocks.as_slice() {
            if before.3 / before.2 < last.3 / last.2 {
                break;
            }
            let joined = (before.0, last.1, before.2 + last.2, before.3 + last.3);
            blocks.truncate(blocks.len() - 2);
            blocks.push(joined);
        }
    }
    let (mut points, mut probabilities) = (Vec::new(), Vec::new());
    for (low, high, rows, hits) in blocks {
        points.push(low);
        probabilities.push(hits / rows);
        if high > low {
            points.push(high);
            probabilities.push(hits / rows);
        }
    }
    Calibration::Isotonic {
        scores: points,
        probabilities,
    }
}
