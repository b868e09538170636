use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{ClusterModel, Clusterer};
use crm_core::matrix::check_row;
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use serde::{Deserialize, Serialize};

use super::neighbours::Neighbours;
use super::{has_distinct_rows, matrix_data, read_model, squarable, unsound, write_model};
use crate::metrics::square_distance;

/// How far two groups are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Linkage {
    /// By what joining them adds to the sum of squares: round groups.
    #[default]
    Ward,
    /// As their farthest rows.
    Complete,
    /// As their rows on average.
    Average,
    /// As their nearest rows: chains.
    Single,
}

/// How [`Hierarchical`] works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HierarchicalConfig {
    /// The number of groups. 4 unless said otherwise.
    pub clusters: usize,
    /// How far two groups are apart. Ward unless said otherwise.
    pub linkage: Linkage,
    /// More rows than this are refused: distances of all pairs are held, 4 bytes times the square of the rows. 10,000
    /// unless said otherwise, at most 60,000.
    pub max_rows: usize,
}

impl Default for HierarchicalConfig {
    fn default() -> Self {
        Self {
            clusters: 4,
            linkage: Linkage::Ward,
            max_rows: 10_000,
        }
    }
}

impl HierarchicalConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        if self.clusters == 0 {
            return Err(Error::config("there is at least 1 group").with("setting", "clusters"));
        }
        if !(1..=60_000).contains(&self.max_rows) {
            return Err(Error::config("between 1 and 60,000 rows can be taken").with("setting", "max_rows"));
        }
        Ok(())
    }
}

/// Groups by joining the nearest two again and again (by chains of nearest neighbours: Murtagh 1983). For few rows: cluster
/// a sample or the centres of many small groups. New rows belong to the group of the nearest row it was learned from, which
/// the model therefore keeps. Groups are numbered by size, the largest first.
#[derive(Debug, Clone)]
pub struct Hierarchical {
    info: ProviderInfo,
    config: HierarchicalConfig,
}

impl Hierarchical {
    /// A provider named `hierarchical`.
    ///
    /// # Errors
    /// As [`HierarchicalConfig::validate`].
    pub fn new(config: HierarchicalConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("hierarchical", "hierarchical"),
            config,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`Hierarchical::new`].
    pub fn shared(config: HierarchicalConfig) -> Result<Arc<dyn Clusterer>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Learns groups, as [`Clusterer::fit`], and answers the model by its own type.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when there are fewer different rows than groups, more rows than allowed, or values
    /// too large to be squared.
    pub fn learn(&self, x: &Matrix) -> Result<HierarchicalModel> {
        let (rows, clusters) = (x.rows(), self.config.clusters);
        squarable("hierarchical.fit", x)?;
        if rows > self.config.max_rows {
            return Err(Error::invalid(
                "too many rows to hold the distances of all pairs; take a sample or k-means",
            )
            .operation("hierarchical.fit")
            .with("rows", rows)
            .with("max_rows", self.config.max_rows));
        }
        if rows < clusters || !has_distinct_rows(x, clusters) {
            return Err(Error::invalid(
                "there are fewer different rows than groups asked for; ask for fewer groups",
            )
            .operation("hierarchical.fit")
            .with("clusters", clusters)
            .with("rows", rows));
        }
        let mut joins = joins(x, self.config.linkage);
        joins.sort_by(|a, b| a.height.total_cmp(&b.height));
        let mut groups: Vec<usize> = (0..rows).collect();
        for join in joins.iter().take(rows - clusters) {
            let (a, b) = (root(&groups, join.a), root(&groups, join.b));
            if let Some(place) = groups.get_mut(a.max(b)) {
                *place = a.min(b);
            }
        }
        let roots: Vec<usize> = (0..rows).map(|row| root(&groups, row)).collect();
        let mut sizes: Vec<(usize, usize)> = Vec::new();
        for found in &roots {
            match sizes.iter_mut().find(|(root, _)| root == found) {
                Some((_, size)) => *size += 1,
                None => sizes.push((*found, 1)),
            }
        }
        sizes.sort_by_key(|(root, size)| (std::cmp::Reverse(*size), *root));
        let labels = roots
            .iter()
            .map(|found| sizes.iter().position(|(root, _)| root == found).unwrap_or(0))
            .collect();
        Ok(HierarchicalModel {
            tree: Some(Neighbours::new(x.as_slice(), x.cols())),
            rows: x.clone(),
            labels,
            sizes: sizes.into_iter().map(|(_, size)| size).collect(),
            heights: joins.iter().map(|join| join.height).collect(),
        })
    }
}

/// Two groups, each named by a row of it, and how far apart they were.
struct Join {
    a: usize,
    b: usize,
    height: f64,
}

fn root(groups: &[usize], row: usize) -> usize {
    let mut at = row;
    while let Some(above) = groups.get(at).copied().filter(|above| *above != at) {
        at = above;
    }
    at
}

/// All joins, in the order the chains find them.
#[allow(
    clippy::indexing_slicing,
    reason = "pairs of different rows have a place, sizes one a row"
)]
fn joins(x: &Matrix, linkage: Linkage) -> Vec<Join> {
    let n = x.rows();
    // The pair (a, b), a above b, stands at a (a - 1) / 2 + b.
    let place = |a: usize, b: usize| {
        let (high, low) = (a.max(b), a.min(b));
        high * (high - 1) / 2 + low
    };
    let mut distances = Vec::with_capacity(n * n.saturating_sub(1) / 2);
    for a in 1..n {
        for b in 0..a {
            let square = square_distance(x.row(a), x.row(b));
            // Ward's squares are joined as such.
            distances.push(if linkage == Linkage::Ward {
                square
            } else {
                square.sqrt()
            });
        }
    }
    let mut sizes = vec![1.0_f64; n];
    let mut alive: Vec<usize> = (0..n).collect();
    let mut chain: Vec<usize> = Vec::new();
    let mut joins = Vec::with_capacity(n.saturating_sub(1));
    while alive.len() > 1 {
        let tip = match chain.last() {
            Some(tip) => *tip,
            None => {
                chain.push(alive[0]);
                alive[0]
            }
        };
        let before = chain.len().checked_sub(2).map(|at| chain[at]);
        // The one before wins among equals, so that chains end.
        let mut nearest = before.map(|other| (distances[place(tip, other)], other));
        for other in alive.iter().copied().filter(|other| *other != tip) {
            let distance = distances[place(tip, other)];
            if nearest.is_none_or(|(least, _)| distance < least) {
                nearest = Some((distance, other));
            }
        }
        let Some((distance, other)) = nearest else { break };
        if Some(other) != before {
            chain.push(other);
            continue;
        }
        chain.truncate(chain.len() - 2);
        let (kept, gone) = (tip.min(other), tip.max(other));
        joins.push(Join {
            a: kept,
            b: gone,
            height: if linkage == Linkage::Ward {
                distance.sqrt()
            } else {
                distance
            },
        });
        let (of_kept, of_gone) = (sizes[kept], sizes[gone]);
        for third in alive
            .iter()
            .copied()
            .filter(|third| *third != kept && *third != gone)
        {
            let (to_kept, to_gone) = (distances[place(kept, third)], distances[place(gone, third)]);
            distances[place(kept, third)] = match linkage {
                Linkage::Ward => {
                    let of_third = sizes[third];
                    ((of_kept + of_third) * to_kept + (of_gone + of_third) * to_gone - of_third * distance)
                        / (of_kept + of_gone + of_third)
                }
                Linkage::Complete => to_kept.max(to_gone),
                Linkage::Average => (of_kept * to_kept + of_gone * to_gone) / (of_kept + of_gone),
                Linkage::Single => to_kept.min(to_gone),
            };
        }
        sizes[kept] += of_gone;
        alive.retain(|row| *row != gone);
    }
    joins
}

#[async_trait]
impl Provider for Hierarchical {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Clusterer for Hierarchical {
    fn fit(&self, x: &Matrix, _seed: u64) -> Result<Box<dyn ClusterModel>> {
        Ok(Box::new(self.learn(x)?))
    }

    fn with_clusters(&self, clusters: usize) -> Option<Box<dyn Clusterer>> {
        let config = HierarchicalConfig {
            clusters,
            ..self.config.clone()
        };
        config.validate().ok()?;
        Some(Box::new(Self {
            info: self.info.clone(),
            config,
        }))
    }
}

/// Groups found by [`Hierarchical`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HierarchicalModel {
    #[serde(with = "matrix_data")]
    rows: Matrix,
    labels: Vec<usize>,
    sizes: Vec<usize>,
    heights: Vec<f64>,
    #[serde(skip)]
    tree: Option<Neighbours>,
}

impl PartialEq for HierarchicalModel {
    fn eq(&self, other: &Self) -> bool {
        self.rows == other.rows
            && self.labels == other.labels
            && self.sizes == other.sizes
            && self.heights == other.heights
    }
}

impl HierarchicalModel {
    pub(super) const KIND: &'static str = "hierarchical";

    /// Reads a model written by [`ClusterModel::to_json`].
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Corrupt`] when it is none, of another kind or format, or its parts do not fit.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let mut model: Self = read_model(Self::KIND, json)?;
        if model.labels.len() != model.rows.rows()
            || model.labels.is_empty()
            || model.labels.iter().any(|label| *label >= model.sizes.len())
        {
            return Err(unsound());
        }
        model.tree = Some(Neighbours::new(model.rows.as_slice(), model.rows.cols()));
        Ok(model)
    }

    /// The group of each row it was learned from.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }
    /// The number of rows in each group.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }
    /// How far apart the groups were at each join, ascending; a jump among the last says how many groups there are.
    pub fn heights(&self) -> &[f64] {
        &self.heights
    }
}

impl ClusterModel for HierarchicalModel {
    fn columns(&self) -> &[String] {
        self.rows.columns()
    }
    fn clusters(&self) -> usize {
        self.sizes.len()
    }
    fn assign_row(&self, row: &[f64]) -> Result<Option<usize>> {
        check_row(self.rows.columns(), row)?;
        let nearest = self
            .tree
            .as_ref()
            .and_then(|tree| tree.nearest(self.rows.as_slice(), row));
        Ok(nearest.and_then(|(nearest, _)| self.labels.get(nearest).copied()))
    }
    fn centers(&self) -> Option<&Matrix> {
        None
    }
    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}
