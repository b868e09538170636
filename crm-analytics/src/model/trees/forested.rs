use crm_core::Result;
use crm_core::capability::{ClassifierModel, Contributions, RegressorModel};
use crm_core::matrix::check_row;
use serde::{Deserialize, Serialize};

use super::nodes::Nodes;
use super::shap::explain;
use crate::model::{check_out, no_such_class, read_model, unsound, write_model};

/// What both kinds of forests are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Forest {
    pub(super) columns: Vec<String>,
    /// The numbers of a leaf: the classes, or one.
    pub(super) width: usize,
    pub(super) trees: Vec<Nodes>,
    pub(super) importances: Vec<f64>,
    pub(super) missing: Option<f64>,
    pub(super) out_of_bag: Option<f64>,
    pub(super) seed: u64,
}

/// A learned forest of classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ForestModel(pub(super) Forest);

/// A learned forest of numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ForestRegressorModel(pub(super) Forest);

impl Forest {
    fn checked(self) -> Result<Self> {
        if self.trees.is_empty()
            || self.width == 0
            || self.importances.len() != self.columns.len()
            || !self
                .trees
                .iter()
                .all(|tree| tree.sound(self.columns.len(), self.width))
        {
            return Err(unsound());
        }
        Ok(self)
    }

    fn mean(&self, row: &[f64], out: &mut [f64]) {
        out.fill(0.0);
        for tree in &self.trees {
            if let Some(leaf) = tree.leaf(row, self.missing) {
                out.iter_mut()
                    .zip(&leaf.values)
                    .for_each(|(sum, value)| *sum += value);
            }
        }
        let trees = self.trees.len() as f64;
        out.iter_mut().for_each(|sum| *sum /= trees);
    }

    fn contributions(&self, row: &[f64], place: usize) -> Contributions {
        let mut parts = vec![0.0; self.columns.len()];
        let share = 1.0 / self.trees.len() as f64;
        let base = self
            .trees
            .iter()
            .map(|tree| explain(tree, row, self.missing, place, share, &mut parts))
            .sum();
        Contributions { base, parts }
    }
}

impl ForestModel {
    pub(in crate::model) const KIND: &'static str = "random-forest";

    /// Reads a model written by [`ClassifierModel::to_json`].
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Corrupt`] when it is none, of another kind or format, or its forks do not make trees.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        read_model::<Forest>(Self::KIND, json)?.checked().map(Self)
    }

    /// The share of rows told right by the trees that have not seen them; none when every tree saw every row.
    pub fn out_of_bag(&self) -> Option<f64> {
        self.0.out_of_bag
    }
}

impl ForestRegressorModel {
    pub(in crate::model) const KIND: &'static str = "random-forest-regressor";

    /// Reads a model written by [`RegressorModel::to_json`].
    ///
    /// # Errors
    /// As [`ForestModel::from_json`].
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let forest = read_model::<Forest>(Self::KIND, json)?.checked()?;
        if forest.width != 1 {
            return Err(unsound());
        }
        Ok(Self(forest))
    }

    /// The share of the variance explained by the trees that have not seen the rows; none when every tree saw every row.
    pub fn out_of_bag(&self) -> Option<f64> {
        self.0.out_of_bag
    }
}

impl ClassifierModel for ForestModel {
    fn columns(&self) -> &[String] {
        &self.0.columns
    }
    fn classes(&self) -> usize {
        self.0.width
    }
    fn score_row(&self, row: &[f64], out: &mut [f64]) -> Result<()> {
        check_row(&self.0.columns, row)?;
        check_out(self.0.width, out)?;
        self.0.mean(row, out);
        Ok(())
    }
    fn importances(&self) -> &[f64] {
        &self.0.importances
    }
    fn explain_row(&self, row: &[f64], class: usize) -> Result<Option<Contributions>> {
        check_row(&self.0.columns, row)?;
        if class >= self.0.width {
            return Err(no_such_class(class, self.0.width));
        }
        Ok(Some(self.0.contributions(row, class)))
    }
    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}

impl RegressorModel for ForestRegressorModel {
    fn columns(&self) -> &[String] {
        &self.0.columns
    }
    fn score_row(&self, row: &[f64]) -> Result<f64> {
        check_row(&self.0.columns, row)?;
        let mut out = [0.0];
        self.0.mean(row, &mut out);
        let [value] = out;
        Ok(value)
    }
    fn importances(&self) -> &[f64] {
        &self.0.importances
    }
    fn explain_row(&self, row: &[f64]) -> Result<Option<Contributions>> {
        check_row(&self.0.columns, row)?;
        Ok(Some(self.0.contributions(row, 0)))
    }
    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}
