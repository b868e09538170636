use std::ops::RangeInclusive;

use crm_core::capability::Clusterer;
use crm_core::{Error, ErrorKind, Matrix, Result};
use serde::{Deserialize, Serialize};

use crate::metrics::{Silhouette, inertia, silhouette};

/// How good one number of groups is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterScore {
    /// The number of groups.
    pub clusters: usize,
    /// The silhouette: larger is better.
    pub silhouette: Silhouette,
    /// The sum of squared distances, if the method has centres; falls with every further group.
    pub inertia: Option<f64>,
}

/// The numbers of groups tried, and the best of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// All that were tried, ascending.
    pub scores: Vec<ClusterScore>,
    /// The one with the largest silhouette; the smallest of equals.
    pub best: usize,
}

/// Tries each number of groups and takes the one with the largest mean silhouette (on at most `silhouette_rows` rows).
///
/// # Errors
/// [`ErrorKind::Unsupported`] when the clusterer finds the number by itself; [`ErrorKind::Invalid`] for an empty range,
/// one below 2, or fewer different rows than groups.
pub fn choose_clusters(
    clusterer: &dyn Clusterer,
    x: &Matrix,
    range: RangeInclusive<usize>,
    silhouette_rows: usize,
    seed: u64,
) -> Result<Choice> {
    if *range.start() < 2 || range.is_empty() {
        return Err(
            Error::invalid("numbers of groups to choose from begin with 2 and do not go backwards")
                .operation("clusters.choose")
                .with("from", range.start())
                .with("to", range.end()),
        );
    }
    let mut scores: Vec<ClusterScore> = Vec::new();
    for clusters in range {
        let sized = clusterer.with_clusters(clusters).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "this clusterer finds the number of groups by itself",
            )
            .operation("clusters.choose")
            .with("provider", clusterer.info())
        })?;
        let model = sized.fit(x, seed)?;
        let labels = model.predict(x)?;
        scores.push(ClusterScore {
            clusters,
            silhouette: silhouette(x, &labels, silhouette_rows, seed)?,
            inertia: model
                .centers()
                .map(|centers| inertia(x, &labels, centers))
                .transpose()?,
        });
    }
    let best = scores
        .iter()
        .fold(None, |best: Option<&ClusterScore>, score| match best {
            Some(b) if b.silhouette.mean >= score.silhouette.mean => Some(b),
            _ => Some(score),
        });
    let best = best.map_or(2, |score| score.clusters);
    Ok(Choice { scores, best })
}
