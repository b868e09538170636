use std::ops::RangeInclusive;

use crm_core::capability::{Clusterer, ReduceModel};
use crm_core::{Error, ErrorKind, Matrix, Result};
use serde::{Deserialize, Serialize};

use crate::metrics::{Silhouette, calinski_harabasz, davies_bouldin, inertia, silhouette};
use crate::model::{Pca, PcaConfig};
use crate::sample::{generator, sample_rows, take_rows, unit};

/// How hard to look for the number of groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupCriteria {
    /// The least number of groups, 2 or more. 2 unless said otherwise.
    pub from: usize,
    /// The largest number of groups. 8 unless said otherwise.
    pub to: usize,
    /// At most so many rows, drawn by the seed, are looked at. 50,000 unless said otherwise.
    pub rows: usize,
    /// At most so many of them for the silhouette, whose work grows with their square. 5,000 unless said otherwise.
    pub silhouette_rows: usize,
    /// How many even scatters the gap statistic compares with; 0 leaves it out. 10 unless said otherwise.
    pub references: usize,
    /// At most so many rows for the gap statistic. 2,000 unless said otherwise.
    pub gap_rows: usize,
}

impl Default for GroupCriteria {
    fn default() -> Self {
        Self {
            from: 2,
            to: 8,
            rows: 50_000,
            silhouette_rows: 5_000,
            references: 10,
            gap_rows: 2_000,
        }
    }
}

impl GroupCriteria {
    /// Between so many groups, everything else as usual.
    pub fn between(range: RangeInclusive<usize>) -> Self {
        Self {
            from: *range.start(),
            to: *range.end(),
            ..Self::default()
        }
    }
}

/// One number of groups, and how good it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupsTried {
    /// The number of groups.
    pub clusters: usize,
    /// The sum of squared distances to the centres, if the method has such; falls with every further group.
    pub inertia: Option<f64>,
    /// Larger is better.
    pub silhouette: Silhouette,
    /// Larger is better; absent when rows of a group are all equal.
    pub calinski_harabasz: Option<f64>,
    /// Smaller is better; absent when centres coincide.
    pub davies_bouldin: Option<f64>,
    /// How much denser the groups are than those of an even scatter (Tibshirani, Walther and Hastie 2001), and the
    /// standard error of it.
    pub gap: Option<(f64, f64)>,
}

/// All that were tried, what each measure says, and one recommendation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupChoice {
    /// Ascending.
    pub tried: Vec<GroupsTried>,
    /// The number with the largest silhouette.
    pub by_silhouette: usize,
    /// The number with the largest Calinski-Harabasz.
    pub by_calinski_harabasz: Option<usize>,
    /// The number with the smallest Davies-Bouldin.
    pub by_davies_bouldin: Option<usize>,
    /// The first number whose gap is not exceeded by the next one's beyond its error; 1 says there are no groups. Absent
    /// when it was left out, or no number does.
    pub by_gap: Option<usize>,
    /// Where the inertia bends most: a hint only.
    pub elbow: Option<usize>,
    /// The number to take.
    pub recommended: usize,
    /// Why, in a sentence.
    pub reason: String,
}

/// Tries numbers of groups and recommends one: the silhouette counts twice, the variance ratio, the Davies-Bouldin index
/// and the gap statistic once; of equals what the silhouette says, then the smaller number.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when the clusterer finds the number by itself; [`ErrorKind::Invalid`] for an empty range, one
/// below 2, or fewer different rows than groups.
pub fn choose_groups(
    clusterer: &dyn Clusterer,
    x: &Matrix,
    criteria: &GroupCriteria,
    seed: u64,
) -> Result<GroupChoice> {
    if criteria.from < 2 || criteria.to < criteria.from {
        return Err(
            Error::invalid("numbers of groups to choose from begin with 2 and do not go backwards")
                .operation("judge.choose_groups")
                .with("from", criteria.from)
                .with("to", criteria.to),
        );
    }
    let x = take_rows(
        x,
        &sample_rows(x.rows(), criteria.rows.max(criteria.to), seed, 0xc4_0053),
    )?;
    let mut tried = Vec::new();
    for clusters in criteria.from..=criteria.to {
        let model = sized(clusterer, clusters)?.fit(&x, seed)?;
        let labels = model.predict(&x)?;
        tried.push(GroupsTried {
            clusters,
            inertia: model
                .centers()
                .map(|centers| inertia(&x, &labels, centers))
                .transpose()?,
            silhouette: silhouette(&x, &labels, criteria.silhouette_rows, seed)?,
            calinski_harabasz: calinski_harabasz(&x, &labels).ok(),
            davies_bouldin: davies_bouldin(&x, &labels).ok(),
            gap: None,
        });
    }
    let by_gap = if criteria.references > 0 {
        gaps(clusterer, &x, criteria, seed, &mut tried)?
    } else {
        None
    };
    Ok(recommend(tried, by_gap))
}

fn sized(clusterer: &dyn Clusterer, clusters: usize) -> Result<Box<dyn Clusterer>> {
    clusterer.with_clusters(clusters).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "this clusterer finds the number of groups by itself",
        )
        .operation("judge.choose_groups")
        .with("provider", clusterer.info())
    })
}

/// The logarithm of the sum of squares around the centres of the groups found.
fn log_inertia(clusterer: &dyn Clusterer, x: &Matrix, clusters: usize, seed: u64) -> Result<Option<f64>> {
    if clusters == 1 {
        let n = x.rows() as f64;
        let mut total = 0.0;
        for col in 0..x.cols() {
            let mean = x.iter_col(col).sum::<f64>() / n;
            total += x.iter_col(col).map(|v| (v - mean) * (v - mean)).sum::<f64>();
        }
        return Ok((total > 0.0).then(|| total.ln()));
    }
    let model = sized(clusterer, clusters)?.fit(x, seed)?;
    let Some(centers) = model.centers() else {
        return Ok(None);
    };
    let found = inertia(x, &model.predict(x)?, centers)?;
    Ok((found > 0.0).then(|| found.ln()))
}

/// Fills in the gaps; answers the number they say.
fn gaps(
    clusterer: &dyn Clusterer,
    x: &Matrix,
    criteria: &GroupCriteria,
    seed: u64,
    tried: &mut [GroupsTried],
) -> Result<Option<usize>> {
    let x = take_rows(
        x,
        &sample_rows(x.rows(), criteria.gap_rows.max(criteria.to * 2), seed, 0x6a9),
    )?;
    // An even scatter in the box along the principal directions.
    let Ok(plane) = Pca::new(PcaConfig::new(x.cols()))?.learn(&x) else {
        return Ok(None);
    };
    let points = plane.transform(&x)?;
    let bounds: Vec<(f64, f64)> = (0..points.cols())
        .map(|col| {
            points
                .iter_col(col)
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
                    (l.min(v), h.max(v))
                })
        })
        .collect();
    let mut scatters = Vec::new();
    for reference in 0..criteria.references as u64 {
        let mut random = generator(seed, 0x6a9_0000 + reference);
        let values = (0..x.rows())
            .flat_map(|_| {
                bounds
                    .iter()
                    .map(|(low, high)| low + (high - low) * unit(&mut random))
                    .collect::<Vec<_>>()
            })
            .collect();
        scatters.push(Matrix::new(points.columns().to_vec(), values)?);
    }
    let mut found: Vec<(usize, f64, f64)> = Vec::new();
    for clusters in std::iter::once(1).chain(criteria.from..=criteria.to) {
        let Some(own) = log_inertia(clusterer, &x, clusters, seed)? else {
            continue;
        };
        let mut logs = Vec::with_capacity(scatters.len());
        for scatter in &scatters {
            logs.extend(log_inertia(clusterer, scatter, clusters, seed)?);
        }
        if logs.len() < scatters.len() {
            continue;
        }
        let n = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / n;
        let deviation = (logs.iter().map(|log| (log - mean) * (log - mean)).sum::<f64>() / n).sqrt();
        found.push((clusters, mean - own, deviation * (1.0 + 1.0 / n).sqrt()));
    }
    for (clusters, gap, error) in &found {
        if let Some(tried) = tried.iter_mut().find(|tried| tried.clusters == *clusters) {
            tried.gap = Some((*gap, *error));
        }
    }
    let settled = found.windows(2).find_map(|pair| match pair {
        [(clusters, gap, _), (next, following, error)]
            if *next == clusters + 1 && *gap >= following - error =>
        {
            Some(*clusters)
        }
        _ => None,
    });
    Ok(settled)
}

/// The number where the line from the first to the last inertia is farthest above (Satopää and others 2011).
fn elbow(tried: &[GroupsTried]) -> Option<usize> {
    let points: Vec<(usize, f64)> = tried
        .iter()
        .filter_map(|t| Some((t.clusters, t.inertia?)))
        .collect();
    let (first, last) = (points.first()?, points.last()?);
    if points.len() < 3 || first.1 <= last.1 {
        return None;
    }
    let bend = |(clusters, inertia): &(usize, f64)| {
        let along = (clusters - first.0) as f64 / (last.0 - first.0) as f64;
        1.0 - along - (inertia - last.1) / (first.1 - last.1)
    };
    let inner = points
        .iter()
        .filter(|point| point.0 > first.0 && point.0 < last.0);
    inner
        .max_by(|a, b| bend(a).total_cmp(&bend(b)).then(b.0.cmp(&a.0)))
        .map(|point| point.0)
}

/// The number where a measure is best; the smallest of equals.
fn best(tried: &[GroupsTried], measure: impl Fn(&GroupsTried) -> Option<f64>) -> Option<usize> {
    let mut found: Option<(usize, f64)> = None;
    for one in tried {
        if let Some(value) = measure(one)
            && found.is_none_or(|(_, most)| value > most)
        {
            found = Some((one.clusters, value));
        }
    }
    found.map(|(clusters, _)| clusters)
}

fn recommend(tried: Vec<GroupsTried>, by_gap: Option<usize>) -> GroupChoice {
    let by_silhouette = best(&tried, |t| Some(t.silhouette.mean)).unwrap_or(2);
    let by_calinski_harabasz = best(&tried, |t| t.calinski_harabasz);
    let by_davies_bouldin = best(&tried, |t| t.davies_bouldin.map(|d| -d));
    let voices = [
        (Some(by_silhouette), 2_u8, "silhouette"),
        (by_calinski_harabasz, 1, "Calinski-Harabasz"),
        (by_davies_bouldin, 1, "Davies-Bouldin"),
        (by_gap, 1, "gap statistic"),
    ];
    let votes = |clusters: usize| -> u8 {
        voices
            .iter()
            .filter(|(said, _, _)| *said == Some(clusters))
            .map(|(_, weight, _)| weight)
            .sum()
    };
    let recommended = tried
        .iter()
        .map(|one| one.clusters)
        .fold(
            by_silhouette,
            |kept, next| if votes(next) > votes(kept) { next } else { kept },
        );
    let with: Vec<&str> = voices
        .iter()
        .filter(|(said, _, _)| *said == Some(recommended))
        .map(|v| v.2)
        .collect();
    let against: Vec<String> = voices
        .iter()
        .filter_map(|(said, _, name)| {
            said.filter(|said| *said != recommended)
                .map(|said| format!("{name} {said}"))
        })
        .collect();
    let mean = tried
        .iter()
        .find(|t| t.clusters == recommended)
        .map_or(0.0, |t| t.silhouette.mean);
    let mut reason = format!(
        "{recommended} groups: best by {} (silhouette {mean:.2})",
        with.join(", ")
    );
    if !against.is_empty() {
        reason.push_str(&format!("; otherwise {}", against.join(", ")));
    }
    if by_gap == Some(1) {
        reason.push_str("; by the gap statistic the rows are no denser than an even scatter");
    }
    if mean < 0.25 {
        reason.push_str("; the groups hardly stand apart");
    }
    GroupChoice {
        elbow: elbow(&tried),
        tried,
        by_silhouette,
        by_calinski_harabasz,
        by_davies_bouldin,
        by_gap,
        recommended,
        reason,
    }
}
