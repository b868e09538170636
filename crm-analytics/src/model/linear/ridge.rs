use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{Contributions, Regressor, RegressorModel};
use crm_core::matrix::check_row;
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use serde::{Deserialize, Serialize};

use super::Standardised;
use super::solve::Factor;
use crate::model::{check_values, read_model, squarable, unsound, write_model};

/// How [`RidgeRegression`] works.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RidgeConfig {
    /// L2 penalty: this times the sum of squared coefficients is added to the sum of squared errors; the intercept is
    /// free. 0 (least squares) unless said otherwise.
    pub l2: f64,
    /// Whether the penalty weighs the coefficients of standardised columns. Yes unless said otherwise.
    pub standardise: bool,
}

impl Default for RidgeConfig {
    fn default() -> Self {
        Self {
            l2: 0.0,
            standardise: true,
        }
    }
}

impl RidgeConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..=1e100).contains(&self.l2) {
            return Err(Error::config("a penalty is 0 or more").with("setting", "l2"));
        }
        Ok(())
    }
}

/// Linear regression, least squares or with an L2 penalty (ridge). Columns are standardised inside; coefficients are in
/// the columns' own units. Columns that depend on each other are an error without a penalty.
#[derive(Debug, Clone)]
pub struct RidgeRegression {
    info: ProviderInfo,
    config: RidgeConfig,
}

impl RidgeRegression {
    /// A provider named `ridge`.
    ///
    /// # Errors
    /// As [`RidgeConfig::validate`].
    pub fn new(config: RidgeConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("ridge", "ridge"),
            config,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`RidgeRegression::new`].
    pub fn shared(config: RidgeConfig) -> Result<Arc<dyn Regressor>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Learns, as [`Regressor::fit`] or, with weights, [`Regressor::fit_weighted`], and answers the model by its own type.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when lengths differ, there are no rows, values or weights do not fit or, without a
    /// penalty, a column depends on others (it is named).
    #[allow(
        clippy::indexing_slicing,
        reason = "indices run below the number of columns kept"
    )]
    pub fn learn(&self, x: &Matrix, values: &[f64], weights: Option<&[f64]>) -> Result<RidgeModel> {
        let (mean, _) = check_values("ridge.fit", x, values, weights)?;
        squarable("ridge.fit", x)?;
        let standardised = Standardised::new(x, weights);
        let size = standardised.kept.len();
        let (mut matrix, mut right) = (vec![0.0; size * size], vec![0.0; size]);
        for (at, (row, value)) in standardised
            .data
            .chunks_exact(size.max(1))
            .zip(values)
            .enumerate()
        {
            let weight = weights.map_or(1.0, |w| w[at]);
            for i in 0..size {
                let scaled = weight * row[i];
                right[i] += scaled * (value - mean);
                matrix[i * size..=i * size + i]
                    .iter_mut()
                    .zip(row)
                    .for_each(|(sum, v)| *sum += scaled * v);
            }
        }
        for i in 0..size {
            let deviation = standardised.deviations[standardised.kept[i]];
            let by = if self.config.standardise { 1.0 } else { deviation };
            matrix[i * size + i] += self.config.l2 / (by * by);
            for j in i + 1..size {
                matrix[i * size + j] = matrix[j * size + i];
            }
        }
        let factor = Factor::new(&matrix, size).map_err(|at| {
            Error::invalid("a column depends on others, so that coefficients are not determined; drop it or add a penalty")
                .operation("ridge.fit")
                .with("column", &x.columns()[standardised.kept[at]])
        })?;
        factor.solve(&mut right);
        let strengths: f64 = right.iter().map(|b| b.abs()).sum();
        let mut importances = vec![0.0; x.cols()];
        for (column, b) in standardised.kept.iter().zip(&right) {
            importances[*column] = if strengths > 0.0 { b.abs() / strengths } else { 0.0 };
        }
        let (intercept, coefficients) = standardised.restore(mean, &right);
        if !intercept.is_finite() || coefficients.iter().any(|b| !b.is_finite()) {
            return Err(Error::invalid(
                "coefficients are too large to be written; scale the columns or the values",
            )
            .operation("ridge.fit"));
        }
        Ok(RidgeModel {
            columns: x.columns().to_vec(),
            intercept,
            coefficients,
            means: standardised.means,
            importances,
        })
    }
}

#[async_trait]
impl Provider for RidgeRegression {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Regressor for RidgeRegression {
    fn fit(&self, x: &Matrix, values: &[f64], _seed: u64) -> Result<Box<dyn RegressorModel>> {
        Ok(Box::new(self.learn(x, values, None)?))
    }
    fn fit_weighted(
        &self,
        x: &Matrix,
        values: &[f64],
        weights: &[f64],
        _seed: u64,
    ) -> Result<Box<dyn RegressorModel>> {
        Ok(Box::new(self.learn(x, values, Some(weights))?))
    }
}

/// A learned linear regression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RidgeModel {
    columns: Vec<String>,
    intercept: f64,
    coefficients: Vec<f64>,
    means: Vec<f64>,
    importances: Vec<f64>,
}

impl RidgeModel {
    pub(in crate::model) const KIND: &'static str = "ridge";

    /// Reads a model written by [`RegressorModel::to_json`].
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Corrupt`] when it is none, of another kind or format, or its parts do not fit.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let model: Self = read_model(Self::KIND, json)?;
        let cols = model.columns.len();
        if model.coefficients.len() != cols || model.means.len() != cols || model.importances.len() != cols {
            return Err(unsound());
        }
        Ok(model)
    }

    /// The value where all columns are 0.
    pub fn intercept(&self) -> f64 {
        self.intercept
    }
    /// What one unit of each column adds.
    pub fn coefficients(&self) -> &[f64] {
        &self.coefficients
    }
}

impl RegressorModel for RidgeModel {
    fn columns(&self) -> &[String] {
        &self.columns
    }
    fn score_row(&self, row: &[f64]) -> Result<f64> {
        check_row(&self.columns, row)?;
        let value = self.intercept + self.coefficients.iter().zip(row).map(|(b, v)| b * v).sum::<f64>();
        if value.is_finite() {
            return Ok(value);
        }
        Err(Error::invalid(
            "the row's values are too large for the coefficients; scale them as before fitting",
        )
        .operation("model.score"))
    }
    fn importances(&self) -> &[f64] {
        &self.importances
    }
    fn explain_row(&self, row: &[f64]) -> Result<Option<Contributions>> {
        check_row(&self.columns, row)?;
        let average = self
            .coefficients
            .iter()
            .zip(&self.means)
            .map(|(b, m)| b * m)
            .sum::<f64>();
        Ok(Some(Contributions {
            base: self.intercept + average,
            parts: self
                .coefficients
                .iter()
                .zip(row.iter().zip(&self.means))
                .map(|(b, (value, mean))| b * (value - mean))
                .collect(),
        }))
    }
    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}
