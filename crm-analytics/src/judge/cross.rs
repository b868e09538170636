use crm_core::capability::{Classifier, Regressor};
use crm_core::{Error, Matrix, Result};
use serde::{Deserialize, Serialize};

use super::split::{Split, folds};
use crate::metrics::{NumberScores, accuracy, brier, log_loss, number_scores, roc};
use crate::model::check_classes;
use crate::sample::take_rows;

/// What a model is worth on one fold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassFold {
    /// The rows judged on.
    pub rows: usize,
    /// The share told right.
    pub accuracy: f64,
    /// The mean log loss.
    pub log_loss: f64,
    /// The Brier score.
    pub brier: f64,
    /// The area under the ROC curve of class 1 of two; absent with more classes, or when the fold has one kind only.
    pub auc: Option<f64>,
}

/// What a way to tell classes apart is worth on rows it has not seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CrossValidation {
    /// One a fold.
    pub folds: Vec<ClassFold>,
    /// Of all rows judged on together.
    pub accuracy: f64,
    /// Of all rows judged on together.
    pub log_loss: f64,
    /// Of all rows judged on together.
    pub brier: f64,
    /// Of all rows judged on together; absent with more than two classes.
    pub auc: Option<f64>,
    /// The spread of the folds' log losses (n - 1).
    pub log_loss_deviation: f64,
    /// The rows judged on, fold after fold.
    pub rows: Vec<usize>,
    /// Their probabilities in the same order, from a model that has not seen them: what to calibrate with.
    pub probabilities: Vec<Vec<f64>>,
}

fn wrong_length(what: usize, rows: usize) -> Result<()> {
    if what == rows {
        return Ok(());
    }
    Err(Error::invalid("there are not as many answers as rows")
        .operation("judge.cross_validate")
        .with("rows", rows))
}

fn deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0).max(1.0)).sqrt()
}

fn judged(probabilities: &Matrix, classes: &[usize]) -> Result<ClassFold> {
    let found: Vec<usize> = probabilities
        .iter_rows()
        .map(|row| {
            let most = row.iter().enumerate().fold(
                (0, -1.0),
                |best, (at, p)| if *p > best.1 { (at, *p) } else { best },
            );
            most.0
        })
        .collect();
    let positive: Vec<bool> = classes.iter().map(|class| *class == 1).collect();
    let scores: Vec<f64> = probabilities.iter_col(1).collect();
    let auc = (probabilities.cols() == 2)
        .then(|| roc(&scores, &positive).ok().map(|roc| roc.auc))
        .flatten();
    Ok(ClassFold {
        rows: classes.len(),
        accuracy: accuracy(classes, &found)?,
        log_loss: log_loss(probabilities, classes)?,
        brier: brier(probabilities, classes)?,
        auc,
    })
}

/// Learns on each fold's rows and judges on the others.
///
/// # Errors
/// As [`folds`] and the classifier's `fit`: there are at least two classes, and a fold may lack one; stratify then.
pub fn cross_validate(
    classifier: &dyn Classifier,
    x: &Matrix,
    classes: &[usize],
    split: &Split<'_>,
    count: usize,
    seed: u64,
) -> Result<CrossValidation> {
    let width = check_classes("judge.cross_validate", x, classes)?;
    let names: Vec<String> = (0..width).map(|class| format!("class_{class}")).collect();
    let mut all: Vec<f64> = Vec::new();
    let (mut rows, mut answers, mut found) = (Vec::new(), Vec::new(), Vec::new());
    for (at, fold) in folds(x.rows(), count, split, seed)?.iter().enumerate() {
        let of = |rows: &[usize]| -> Vec<usize> {
            rows.iter().filter_map(|row| classes.get(*row).copied()).collect()
        };
        let model = classifier
            .fit(&take_rows(x, &fold.train)?, &of(&fold.train), seed)
            .map_err(|error| error.with("fold", at))?;
        let probabilities = model.probabilities(&take_rows(x, &fold.test)?)?;
        // A class that was not among the rows learned from has probability 0.
        let mut padded = Vec::with_capacity(fold.test.len() * width);
        for row in probabilities.iter_rows() {
            padded.extend((0..width).map(|class| row.get(class).copied().unwrap_or(0.0)));
        }
        let tested = of(&fold.test);
        found.push(judged(&Matrix::new(names.clone(), padded.clone())?, &tested)?);
        all.extend(padded);
        answers.extend(tested);
        rows.extend_from_slice(&fold.test);
    }
    let together = Matrix::new(names, all)?;
    let whole = judged(&together, &answers)?;
    let losses: Vec<f64> = found.iter().map(|fold| fold.log_loss).collect();
    Ok(CrossValidation {
        folds: found,
        accuracy: whole.accuracy,
        log_loss: whole.log_loss,
        brier: whole.brier,
        auc: whole.auc,
        log_loss_deviation: deviation(&losses),
        rows,
        probabilities: together.iter_rows().map(<[f64]>::to_vec).collect(),
    })
}

/// What a model of a number is worth on one fold.
pub type NumberFold = NumberScores;

/// What a way to foretell a number is worth on rows it has not seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NumberValidation {
    /// One a fold.
    pub folds: Vec<NumberFold>,
    /// Of all rows judged on together.
    pub scores: NumberScores,
    /// The rows judged on, fold after fold.
    pub rows: Vec<usize>,
    /// What was foretold for them, in the same order.
    pub values: Vec<f64>,
}

/// As [`cross_validate`], for numbers.
///
/// # Errors
/// As [`folds`] and the regressor's `fit`.
pub fn cross_validate_numbers(
    regressor: &dyn Regressor,
    x: &Matrix,
    values: &[f64],
    split: &Split<'_>,
    count: usize,
    seed: u64,
) -> Result<NumberValidation> {
    wrong_length(values.len(), x.rows())?;
    let (mut rows, mut answers, mut foretold, mut found) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (at, fold) in folds(x.rows(), count, split, seed)?.iter().enumerate() {
        let of = |rows: &[usize]| -> Vec<f64> {
            rows.iter().filter_map(|row| values.get(*row).copied()).collect()
        };
        let model = regressor
            .fit(&take_rows(x, &fold.train)?, &of(&fold.train), seed)
            .map_err(|error| error.with("fold", at))?;
        let said = model.predict(&take_rows(x, &fold.test)?)?;
        let tested = of(&fold.test);
        found.push(number_scores(&tested, &said)?);
        rows.extend_from_slice(&fold.test);
        answers.extend(tested);
        foretold.extend(said);
    }
    Ok(NumberValidation {
        folds: found,
        scores: number_scores(&answers, &foretold)?,
        rows,
        values: foretold,
    })
}
