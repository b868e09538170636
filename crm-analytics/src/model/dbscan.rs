use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{ClusterModel, Clusterer};
use crm_core::matrix::check_row;
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use serde::{Deserialize, Serialize};

use super::neighbours::Neighbours;
use super::parallel::{each, stretches};
use super::{matrix_data, read_model, squarable, unsound, write_model};

/// How [`Dbscan`] works.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DbscanConfig {
    /// How far neighbours are from each other at most (Euclidean), above 0. 0.5 unless said otherwise.
    pub radius: f64,
    /// How many neighbours, itself among them, make a row the core of a group. 5 unless said otherwise.
    pub min_rows: usize,
}

impl Default for DbscanConfig {
    fn default() -> Self {
        Self {
            radius: 0.5,
            min_rows: 5,
        }
    }
}

impl DbscanConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        if !(self.radius > 0.0 && self.radius < 1e140) {
            return Err(Error::config("a radius is above 0 and finite").with("setting", "radius"));
        }
        if self.min_rows == 0 {
            return Err(Error::config("a core has at least 1 row").with("setting", "min_rows"));
        }
        Ok(())
    }
}

/// Groups of any shape where rows lie close (DBSCAN: Ester and others 1996). Rows near no core are in no group.
///
/// A row that is no core belongs to its nearest core, so that the answer does not depend on the order of the rows; the
/// classic procedure gives it to whichever group reaches it first. Groups are numbered by size, the largest first. The
/// model keeps the cores and assigns new rows by them. Where most rows are neighbours of each other the work grows with
/// the square of the rows.
#[derive(Debug, Clone)]
pub struct Dbscan {
    info: ProviderInfo,
    config: DbscanConfig,
    threads: usize,
}

impl Dbscan {
    /// A provider named `dbscan`, on the caller's thread.
    ///
    /// # Errors
    /// As [`DbscanConfig::validate`].
    pub fn new(config: DbscanConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("dbscan", "dbscan"),
            config,
            threads: 1,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`Dbscan::new`].
    pub fn shared(config: DbscanConfig) -> Result<Arc<dyn Clusterer>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Lets a fit use so many threads while it lasts; the answer is the same to the last bit.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Learns groups, as [`Clusterer::fit`], and answers the model by its own type.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when no row has enough neighbours to be a core, or values are too large to be
    /// squared.
    pub fn learn(&self, x: &Matrix) -> Result<DbscanModel> {
        squarable("dbscan.fit", x)?;
        let (data, radius) = (x.as_slice(), self.config.radius);
        let tree = Neighbours::new(data, x.cols());
        let is_core: Vec<bool> = each(stretches(x.rows()), self.threads, |rows| {
            rows.map(|row| {
                let mut seen = 0;
                tree.within(data, x.row(row), radius, |_| {
                    seen += 1;
                    seen < self.config.min_rows
                });
                seen >= self.config.min_rows
            })
            .collect::<Vec<bool>>()
        })
        .concat();
        let mut parents: Vec<usize> = (0..x.rows()).collect();
        for row in (0..x.rows()).filter(|row| is_core.get(*row) == Some(&true)) {
            tree.within(data, x.row(row), radius, |other| {
                if other < row && is_core.get(other) == Some(&true) {
                    join(&mut parents, row, other);
                }
                true
            });
        }
        let cores: Vec<usize> = (0..x.rows())
            .filter(|row| is_core.get(*row) == Some(&true))
            .collect();
        if cores.is_empty() {
            return Err(Error::invalid(
                "no row has enough neighbours; take a larger radius or fewer rows for a core",
            )
            .operation("dbscan.fit")
            .with("rows", x.rows())
            .with("min_rows", self.config.min_rows));
        }
        let roots: Vec<usize> = cores.iter().map(|row| root(&mut parents, *row)).collect();
        let values: Vec<f64> = cores.iter().flat_map(|row| x.row(*row).iter().copied()).collect();
        DbscanModel::of(
            x,
            radius,
            Matrix::new(x.columns().to_vec(), values)?,
            &roots,
            self.threads,
        )
    }
}

fn root(parents: &mut [usize], row: usize) -> usize {
    let mut at = row;
    while let Some(parent) = parents.get(at).copied().filter(|parent| *parent != at) {
        let above = parents.get(parent).copied().unwrap_or(parent);
        if let Some(place) = parents.get_mut(at) {
            *place = above;
        }
        at = above;
    }
    at
}

/// The lower number stands for both.
fn join(parents: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(parents, a), root(parents, b));
    if let Some(place) = parents.get_mut(a.max(b)) {
        *place = a.min(b);
    }
}

#[async_trait]
impl Provider for Dbscan {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Clusterer for Dbscan {
    fn fit(&self, x: &Matrix, _seed: u64) -> Result<Box<dyn ClusterModel>> {
        Ok(Box::new(self.learn(x)?))
    }
}

/// Groups found by [`Dbscan`] or [`super::LinfaDbscan`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DbscanModel {
    radius: f64,
    #[serde(with = "matrix_data")]
    cores: Matrix,
    /// Of each core.
    labels: Vec<usize>,
    sizes: Vec<usize>,
    noise: usize,
    #[serde(skip)]
    tree: Option<Neighbours>,
}

impl PartialEq for DbscanModel {
    fn eq(&self, other: &Self) -> bool {
        self.radius == other.radius
            && self.cores == other.cores
            && self.labels == other.labels
            && self.sizes == other.sizes
            && self.noise == other.noise
    }
}

impl DbscanModel {
    pub(super) const KIND: &'static str = "dbscan";

    /// From cores and what stands for the group of each.
    pub(super) fn of(
        x: &Matrix,
        radius: f64,
        cores: Matrix,
        groups: &[usize],
        threads: usize,
    ) -> Result<Self> {
        let mut names: Vec<usize> = groups.to_vec();
        names.sort_unstable();
        names.dedup();
        let labels: Vec<usize> = groups
            .iter()
            .map(|group| names.partition_point(|name| name < group))
            .collect();
        let tree = Neighbours::new(cores.as_slice(), cores.cols());
        let mut model = Self {
            radius,
            cores,
            labels,
            sizes: vec![0; names.len()],
            noise: 0,
            tree: Some(tree),
        };
        let found = each(stretches(x.rows()), threads, |rows| {
            rows.map(|row| model.group(x.row(row))).collect::<Vec<_>>()
        })
        .concat();
        let mut sizes = vec![0; names.len()];
        let mut noise = 0;
        for label in found {
            match label.and_then(|label| sizes.get_mut(label)) {
                Some(size) => *size += 1,
                None => noise += 1,
            }
        }
        // By size; of equals, whose first core comes first.
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by_key(|label| std::cmp::Reverse(sizes.get(*label).copied().unwrap_or(0)));
        let mut place = vec![0; order.len()];
        for (new, old) in order.iter().enumerate() {
            if let Some(place) = place.get_mut(*old) {
                *place = new;
            }
        }
        model
            .labels
            .iter_mut()
            .for_each(|label| *label = place.get(*label).copied().unwrap_or(0));
        model.sizes = order.iter().filter_map(|old| sizes.get(*old).copied()).collect();
        model.noise = noise;
        Ok(model)
    }

    /// Reads a model written by [`ClusterModel::to_json`].
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Corrupt`] when it is none, of another kind or format, or its parts do not fit.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let mut model: Self = read_model(Self::KIND, json)?;
        if model.labels.len() != model.cores.rows()
            || model.labels.iter().any(|label| *label >= model.sizes.len())
            || model.labels.is_empty()
            || model.radius.is_nan()
        {
            return Err(unsound());
        }
        model.tree = Some(Neighbours::new(model.cores.as_slice(), model.cores.cols()));
        Ok(model)
    }

    fn group(&self, row: &[f64]) -> Option<usize> {
        let (core, square) = self.tree.as_ref()?.nearest(self.cores.as_slice(), row)?;
        (square <= self.radius * self.radius)
            .then(|| self.labels.get(core).copied())
            .flatten()
    }

    /// The number of rows in each group when it was learned.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }
    /// The number of rows in no group when it was learned.
    pub fn noise(&self) -> usize {
        self.noise
    }
    /// The rows that are cores.
    pub fn cores(&self) -> &Matrix {
        &self.cores
    }
}

impl ClusterModel for DbscanModel {
    fn columns(&self) -> &[String] {
        self.cores.columns()
    }
    fn clusters(&self) -> usize {
        self.sizes.len()
    }
    fn assign_row(&self, row: &[f64]) -> Result<Option<usize>> {
        check_row(self.cores.columns(), row)?;
        Ok(self.group(row))
    }
    fn centers(&self) -> Option<&Matrix> {
        None
    }
    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}
