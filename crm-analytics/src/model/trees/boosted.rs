use crm_core::Result;
use crm_core::capability::{ClassifierModel, Contributions, RegressorModel};
use crm_core::matrix::check_row;
use serde::{Deserialize, Serialize};

use super::nodes::Nodes;
use super::shap::explain;
use crate::model::{check_out, no_such_class, read_model, unsound, write_model};

/// Trees whose answers add up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Boosted {
    pub(super) columns: Vec<String>,
    /// 0 when it foretells a number.
    pub(super) classes: usize,
    /// Where each output starts: one for two classes or a number, else one a class.
    pub(super) base: Vec<f64>,
    /// Round after round, a tree for each output.
    pub(super) trees: Vec<Nodes>,
    pub(super) importances: Vec<f64>,
    pub(super) missing: Option<f64>,
    /// The mean loss after each round on the rows watched.
    pub(super) watched: Vec<f64>,
    pub(super) seed: u64,
}

impl Boosted {
    fn checked(self) -> Result<Self> {
        let outputs = self.base.len();
        let fits = match self.classes {
            0 | 2 => outputs == 1,
            classes => classes == outputs,
        };
        if !fits
            || !self.trees.len().is_multiple_of(outputs.max(1))
            || self.importances.len() != self.columns.len()
            || !self.trees.iter().all(|tree| tree.sound(self.columns.len(), 1))
        {
            return Err(unsound());
        }
        Ok(self)
    }

    fn margins(&self, row: &[f64], out: &mut [f64]) {
        out.copy_from_slice(&self.base);
        for round in self.trees.chunks_exact(self.base.len().max(1)) {
            for (sum, tree) in out.iter_mut().zip(round) {
                let leaf = tree.leaf(row, self.missing).and_then(|leaf| leaf.values.first());
                *sum += leaf.copied().unwrap_or(0.0);
            }
        }
    }

    fn contributions(&self, row: &[f64], output: usize, sign: f64) -> Contributions {
        let mut parts = vec![0.0; self.columns.len()];
        let mut base = self.base.get(output).copied().unwrap_or(0.0) * sign;
        for tree in self.trees.iter().skip(output).step_by(self.base.len().max(1)) {
            base += explain(tree, row, self.missing, 0, sign, &mut parts);
        }
        Contributions { base, parts }
    }
}

/// A learned boosted model of classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BoostedModel(pub(super) Boosted);

/// A learned boosted model of a number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BoostedRegressorModel(pub(super) Boosted);

impl BoostedModel {
    pub(in crate::model) const KIND: &'static str = "gradient-boosting";

    /// Reads a model written by [`ClassifierModel::to_json`].
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Corrupt`] when it is none, of another kind or format, or its parts do not fit.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let model = read_model::<Boosted>(Self::KIND, json)?.checked()?;
        if model.classes == 0 {
            return Err(unsound());
        }
        Ok(Self(model))
    }

    /// The rounds that were kept.
    pub fn rounds(&self) -> usize {
        self.0.trees.len() / self.0.base.len().max(1)
    }

    /// The mean log loss after each round on the rows that were watched; nothing when none were.
    pub fn watched(&self) -> &[f64] {
        &self.0.watched
    }
}

impl BoostedRegressorModel {
    pub(in crate::model) const KIND: &'static str = "gradient-boosting-regressor";

    /// Reads a model written by [`RegressorModel::to_json`].
    ///
    /// # Errors
    /// As [`BoostedModel::from_json`].
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let model = read_model::<Boosted>(Self::KIND, json)?.checked()?;
        if model.classes != 0 {
            return Err(unsound());
        }
        Ok(Self(model))
    }

    /// The rounds that were kept.
    pub fn rounds(&self) -> usize {
        self.0.trees.len()
    }

    /// The mean squared error after each round on the rows that were watched; nothing when none were.
    pub fn watched(&self) -> &[f64] {
        &self.0.watched
    }
}

/// `1 / (1 + e^-margin)`.
pub(crate) fn logistic(margin: f64) -> f64 {
    if margin >= 0.0 {
        1.0 / (1.0 + (-margin).exp())
    } else {
        let e = margin.exp();
        e / (1.0 + e)
    }
}

/// Margins as probabilities, in place.
pub(crate) fn softmax(margins: &mut [f64]) {
    let largest = margins.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for margin in margins.iter_mut() {
        *margin = (*margin - largest).exp();
        sum += *margin;
    }
    margins.iter_mut().for_each(|p| *p /= sum);
}

impl ClassifierModel for BoostedModel {
    fn columns(&self) -> &[String] {
        &self.0.columns
    }
    fn classes(&self) -> usize {
        self.0.classes
    }
    fn score_row(&self, row: &[f64], out: &mut [f64]) -> Result<()> {
        check_row(&self.0.columns, row)?;
        check_out(self.0.classes, out)?;
        if let ([_], [low, high]) = (self.0.base.as_slice(), &mut *out) {
            let mut margin = [0.0];
            self.0.margins(row, &mut margin);
            let [margin] = margin;
            (*low, *high) = (logistic(-margin), logistic(margin));
            return Ok(());
        }
        self.0.margins(row, out);
        softmax(out);
        Ok(())
    }
    fn importances(&self) -> &[f64] {
        &self.0.importances
    }
    fn explain_row(&self, row: &[f64], class: usize) -> Result<Option<Contributions>> {
        check_row(&self.0.columns, row)?;
        if class >= self.0.classes {
            return Err(no_such_class(class, self.0.classes));
        }
        Ok(Some(match self.0.base.len() {
            1 => self.0.contributions(row, 0, if class == 1 { 1.0 } else { -1.0 }),
            _ => self.0.contributions(row, class, 1.0),
        }))
    }
    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}

impl RegressorModel for BoostedRegressorModel {
    fn columns(&self) -> &[String] {
        &self.0.columns
    }
    fn score_row(&self, row: &[f64]) -> Result<f64> {
        check_row(&self.0.columns, row)?;
        let mut out = [0.0];
        self.0.margins(row, &mut out);
        let [value] = out;
        Ok(value)
    }
    fn importances(&self) -> &[f64] {
        &self.0.importances
    }
    fn explain_row(&self, row: &[f64]) -> Result<Option<Contributions>> {
        check_row(&self.0.columns, row)?;
        Ok(Some(self.0.contributions(row, 0, 1.0)))
    }
    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}
