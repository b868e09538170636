use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{Classifier, ClassifierModel, Contributions};
use crm_core::matrix::check_row;
use crm_core::{Error, Health, Matrix, Provider, ProviderInfo, Result};
use serde::{Deserialize, Serialize};

use super::Standardised;
use super::fit::{Found, Problem, Trouble};
use crate::model::trees::{logistic, softmax};
use crate::model::{
    check_classes, check_out, check_weights, matrix_data, no_such_class, read_model, squarable, unsound,
    write_model,
};

/// How [`LogisticRegression`] works.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogisticConfig {
    /// L2 penalty: this times half the sum of squared coefficients is added to the sum of the rows' losses; the intercept
    /// is free. 1 unless said otherwise (scikit-learn's `C = 1`), 0 for none.
    pub l2: f64,
    /// Whether the penalty weighs the coefficients of standardised columns, so that units do not matter. Yes unless said
    /// otherwise.
    pub standardise: bool,
    /// At most so many rounds. 1,000 unless said otherwise.
    pub max_iterations: usize,
    /// The slope, a row, at which it has converged. 0.00000001 unless said otherwise.
    pub tolerance: f64,
}

impl Default for LogisticConfig {
    fn default() -> Self {
        Self {
            l2: 1.0,
            standardise: true,
            max_iterations: 1000,
            tolerance: 1e-8,
        }
    }
}

impl LogisticConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: &'static str, setting: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if !(0.0..=1e100).contains(&self.l2) {
            return wrong("a penalty is 0 or more", "l2");
        }
        if self.max_iterations == 0 {
            return wrong("there is at least 1 round", "max_iterations");
        }
        if !(self.tolerance > 0.0 && self.tolerance < 1.0) {
            return wrong("a tolerance is between 0 and 1", "tolerance");
        }
        Ok(())
    }
}

/// Logistic regression: the log-odds of a class are a weighted sum of the columns; for more than two classes each has a
/// sum of its own (multinomial).
///
/// Columns are standardised inside, whatever the penalty weighs, and coefficients are answered in the columns' own units.
/// Newton's steps with few parameters, L-BFGS with many. Without a penalty, classes that can be told apart perfectly and
/// columns that depend on each other are errors that name the columns. Not converged is an error, too.
#[derive(Debug, Clone)]
pub struct LogisticRegression {
    info: ProviderInfo,
    config: LogisticConfig,
}

impl LogisticRegression {
    /// A provider named `logistic`.
    ///
    /// # Errors
    /// As [`LogisticConfig::validate`].
    pub fn new(config: LogisticConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new("logistic", "logistic"),
            config,
        })
    }

    /// The same, ready to be put into a registry.
    ///
    /// # Errors
    /// As [`LogisticRegression::new`].
    pub fn shared(config: LogisticConfig) -> Result<Arc<dyn Classifier>> {
        Ok(Arc::new(Self::new(config)?))
    }

    /// Learns, as [`Classifier::fit`] or, with weights, [`Classifier::fit_weighted`], and answers the model by its own
    /// type.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when lengths differ, there is only one class, weights do not fit, values are too
    /// large to be squared, it does not converge or, without a penalty, coefficients have no bounds.
    pub fn learn(&self, x: &Matrix, classes: &[usize], weights: Option<&[f64]>) -> Result<LogisticModel> {
        let count = check_classes("logistic.fit", x, classes)?;
        squarable("logistic.fit", x)?;
        if let Some(weights) = weights {
            check_weights("logistic.fit", x.rows(), weights)?;
        }
        let standardised = Standardised::new(x, weights);
        let deviation = |column: &usize| standardised.deviations.get(*column).copied().unwrap_or(1.0);
        let penalties: Vec<f64> = standardised
            .kept
            .iter()
            .map(|column| {
                // In the columns' own units a coefficient is this one by the deviation.
                let by = if self.config.standardise {
                    1.0
                } else {
                    deviation(column)
                };
                self.config.l2 / (by * by)
            })
            .collect();
        if !penalties.iter().all(|penalty| penalty.is_finite()) {
            return Err(Error::invalid(
                "a column varies too little to be penalised in its own unit; standardise",
            )
            .operation("logistic.fit"));
        }
        let problem = Problem {
            data: &standardised.data,
            cols: standardised.kept.len(),
            classes,
            weights,
            outputs: if count == 2 { 1 } else { count },
            penalties: &penalties,
        };
        let found = problem
            .solve(self.config.max_iterations, self.config.tolerance)
            .map_err(|trouble| self.explain(x, &standardised, trouble))?;
        if !found.converged {
            return Err(Error::invalid(
                "logistic regression did not converge; allow more rounds or a larger penalty",
            )
            .operation("logistic.fit")
            .with("iterations", found.iterations)
            .with("gradient", format!("{:.2e}", found.gradient)));
        }
        self.check_errors(x, &standardised, &found)?;
        LogisticModel::from_found(x, count, &standardised, found)
    }

    fn explain(&self, x: &Matrix, standardised: &Standardised, trouble: Trouble) -> Error {
        let name = |kept: usize| {
            let column = standardised
                .kept
                .get(kept)
                .and_then(|column| x.columns().get(*column));
            column.map_or("", String::as_str)
        };
        match trouble {
            Trouble::Dependent(at) => Error::invalid(
                "a column depends on others, so that coefficients are not determined; drop it or add a penalty",
            )
            .operation("logistic.fit")
            .with("column", if at == 0 { "(intercept)" } else { name(at - 1) }),
            Trouble::Separated(parameters) => {
                let stride = standardised.kept.len() + 1;
                let strength = |column: usize| {
                    let of = parameters.iter().skip(column + 1).step_by(stride);
                    of.fold(0.0, |most: f64, b| most.max(b.abs()))
                };
                let most = (0..stride - 1).map(strength).fold(0.0, f64::max);
                let names: Vec<&str> =
                    (0..stride - 1).filter(|at| strength(*at) >= 0.25 * most).map(name).collect();
                Error::invalid(
                    "columns tell the classes apart perfectly, so that coefficients have no bounds; add a penalty or drop them",
                )
                .operation("logistic.fit")
                .with("columns", names.join(" "))
            }
        }
    }

    /// Without a penalty, an error far beyond any coefficient says that some classes are told apart perfectly by a
    /// column, though not all.
    fn check_errors(&self, x: &Matrix, standardised: &Standardised, found: &Found) -> Result<()> {
        let Some(covariance) = found.covariance.as_ref().filter(|_| self.config.l2 <= 0.0) else {
            return Ok(());
        };
        let size = found.parameters.len();
        let stride = standardised.kept.len() + 1;
        let wild: Vec<usize> = covariance
            .iter()
            .step_by(size + 1)
            .enumerate()
            .filter(|(at, variance)| at % stride > 0 && variance.sqrt() > 100.0)
            .map(|(at, _)| at % stride - 1)
            .collect();
        if wild.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = wild
            .iter()
            .filter_map(|at| {
                standardised
                    .kept
                    .get(*at)
                    .and_then(|column| x.columns().get(*column))
            })
            .map(String::as_str)
            .collect();
        Err(Error::invalid(
            "columns tell some rows' classes apart perfectly, so that coefficients have no bounds; add a penalty or drop them",
        )
        .operation("logistic.fit")
        .with("columns", names.join(" ")))
    }
}

#[async_trait]
impl Provider for LogisticRegression {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

impl Classifier for LogisticRegression {
    fn fit(&self, x: &Matrix, classes: &[usize], _seed: u64) -> Result<Box<dyn ClassifierModel>> {
        Ok(Box::new(self.learn(x, classes, None)?))
    }
    fn fit_weighted(
        &self,
        x: &Matrix,
        classes: &[usize],
        weights: &[f64],
        _seed: u64,
    ) -> Result<Box<dyn ClassifierModel>> {
        Ok(Box::new(self.learn(x, classes, Some(weights))?))
    }
}

/// A learned logistic regression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogisticModel {
    classes: usize,
    intercepts: Vec<f64>,
    /// One row an output: class 1 of two, else each class.
    #[serde(with = "matrix_data")]
    coefficients: Matrix,
    /// Of the columns, where an average row stands.
    means: Vec<f64>,
    /// One a coefficient, in the same order; nothing when there were too many.
    errors: Vec<f64>,
    importances: Vec<f64>,
    loss: f64,
    iterations: usize,
}

impl LogisticModel {
    pub(in crate::model) const KIND: &'static str = "logistic";

    fn from_found(x: &Matrix, classes: usize, standardised: &Standardised, found: Found) -> Result<Self> {
        let stride = standardised.kept.len() + 1;
        let (mut intercepts, mut values, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        let mut strengths = vec![0.0; x.cols()];
        let size = found.parameters.len();
        for (output, of) in found.parameters.chunks_exact(stride).enumerate() {
            let Some((intercept, of)) = of.split_first() else {
                continue;
            };
            let (intercept, own) = standardised.restore(*intercept, of);
            intercepts.push(intercept);
            values.extend_from_slice(&own);
            for (column, b) in standardised.kept.iter().zip(of) {
                if let Some(sum) = strengths.get_mut(*column) {
                    *sum += b.abs();
                }
            }
            if let Some(covariance) = &found.covariance {
                let mut own = vec![0.0; x.cols()];
                for (at, column) in standardised.kept.iter().enumerate() {
                    let place = output * stride + at + 1;
                    let variance = covariance.get(place * size + place).copied().unwrap_or(0.0);
                    let deviation = standardised.deviations.get(*column).copied().unwrap_or(1.0);
                    if let Some(error) = own.get_mut(*column) {
                        *error = variance.max(0.0).sqrt() / deviation;
                    }
                }
                errors.extend_from_slice(&own);
            }
        }
        let total: f64 = strengths.iter().sum();
        if total > 0.0 {
            strengths.iter_mut().for_each(|s| *s /= total);
        }
        Ok(Self {
            classes,
            intercepts,
            coefficients: Matrix::new(x.columns().to_vec(), values)?,
            means: standardised.means.clone(),
            errors,
            importances: strengths,
            loss: found.loss,
            iterations: found.iterations,
        })
    }

    /// Reads a model written by [`ClassifierModel::to_json`].
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Corrupt`] when it is none, of another kind or format, or its parts do not fit.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let model: Self = read_model(Self::KIND, json)?;
        let outputs = if model.classes == 2 { 1 } else { model.classes };
        let cols = model.coefficients.cols();
        if model.classes < 2
            || model.coefficients.rows() != outputs
            || model.intercepts.len() != outputs
            || model.means.len() != cols
            || model.importances.len() != cols
            || !(model.errors.is_empty() || model.errors.len() == outputs * cols)
        {
            return Err(unsound());
        }
        Ok(model)
    }

    /// The intercept of each output: the log-odds of class 1 of two, else one a class.
    pub fn intercepts(&self) -> &[f64] {
        &self.intercepts
    }
    /// The coefficients in the columns' own units, one row an output.
    pub fn coefficients(&self) -> &Matrix {
        &self.coefficients
    }
    /// The standard error of each coefficient in the same order, from the second derivatives of the penalised loss;
    /// nothing with more than 256 parameters.
    pub fn standard_errors(&self) -> &[f64] {
        &self.errors
    }
    /// The sum of the rows' losses and the penalty.
    pub fn loss(&self) -> f64 {
        self.loss
    }
    /// The rounds it took.
    pub fn iterations(&self) -> usize {
        self.iterations
    }

    fn margin(&self, output: usize, row: &[f64]) -> f64 {
        let intercept = self.intercepts.get(output).copied().unwrap_or(0.0);
        let sum: f64 = self
            .coefficients
            .row(output)
            .iter()
            .zip(row)
            .map(|(b, v)| b * v)
            .sum();
        intercept + sum
    }
}

impl ClassifierModel for LogisticModel {
    fn columns(&self) -> &[String] {
        self.coefficients.columns()
    }
    fn classes(&self) -> usize {
        self.classes
    }
    fn score_row(&self, row: &[f64], out: &mut [f64]) -> Result<()> {
        check_row(self.columns(), row)?;
        check_out(self.classes, out)?;
        let overflow = || {
            Error::invalid(
                "the row's values are too large for the coefficients; scale them as before fitting",
            )
            .operation("model.score")
        };
        if let ([_], [low, high]) = (self.intercepts.as_slice(), &mut *out) {
            let margin = self.margin(0, row);
            if margin.is_nan() {
                return Err(overflow());
            }
            (*low, *high) = (logistic(-margin), logistic(margin));
            return Ok(());
        }
        for (output, place) in out.iter_mut().enumerate() {
            *place = self.margin(output, row);
        }
        if !out.iter().all(|margin| margin.is_finite()) {
            return Err(overflow());
        }
        softmax(out);
        Ok(())
    }
    fn importances(&self) -> &[f64] {
        &self.importances
    }
    fn explain_row(&self, row: &[f64], class: usize) -> Result<Option<Contributions>> {
        check_row(self.columns(), row)?;
        if class >= self.classes {
            return Err(no_such_class(class, self.classes));
        }
        let (output, sign) = match self.intercepts.len() {
            1 => (0, if class == 1 { 1.0 } else { -1.0 }),
            _ => (class, 1.0),
        };
        let coefficients = self.coefficients.row(output);
        Ok(Some(Contributions {
            base: sign * self.margin(output, &self.means),
            parts: coefficients
                .iter()
                .zip(row.iter().zip(&self.means))
                .map(|(b, (value, mean))| sign * b * (value - mean))
                .collect(),
        }))
    }
    fn to_json(&self) -> Result<serde_json::Value> {
        write_model(Self::KIND, self)
    }
}
