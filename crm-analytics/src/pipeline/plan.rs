//! How a pipeline is made, as data.

use std::collections::BTreeMap;

use crm_core::record::Value;
use crm_core::{Column, Error, Matrix, Result, Table, Timestamp};
use serde::{Deserialize, Serialize};

use super::fitted::{Answers, FittedPipeline, PIPELINE, Scored, Scorer};
use super::sealed::Artefact;
use crate::clean::CleaningPlan;
use crate::features::{Encoding, EncodingPlan, FeaturePlan};
use crate::judge::{Split, train_test};
use crate::metrics::{accuracy, inertia, log_loss, number_scores, roc};
use crate::model::ModelSpec;

/// The share of rows that training figures are measured on.
const HELD_OUT: f64 = 0.2;
/// The most classes.
const MOST_CLASSES: usize = 100;

/// What is learned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Task {
    /// To tell the classes of a column apart: text, bools or integers. Rows without a value are not learned from.
    Classify(String),
    /// To foretell the number in a column. Rows without a value are not learned from.
    Estimate(String),
    /// To make groups.
    Group,
}

/// Cleaning, encoding and model, by name and parameters. Plain data.
///
/// ```
/// use crm_analytics::clean::{CleaningPlan, Columns};
/// use crm_analytics::features::{Encoding, EncodingPlan, Impute, Scale};
/// use crm_analytics::model::ModelSpec;
/// use crm_analytics::pipeline::{PipelinePlan, Scored, Scorer, Task};
/// use crm_core::{Column, Table, Timestamp, record::Value};
///
/// let (mut plan, mut churned) = (Column::text("plan"), Column::text("churned"));
/// for n in 0..40 {
///     plan.push_text(Some(if n % 2 == 0 { " Free" } else { "pro" }));
///     churned.push_text(Some(if n % 2 == 0 { "yes" } else { "no" }));
/// }
/// let table = Table::new(vec![plan, churned]).unwrap();
/// let pipeline = PipelinePlan {
///     name: "churn".into(),
///     cleaning: CleaningPlan::new().trim(Columns::All).case(Columns::All, crm_analytics::clean::Case::Lower),
///     encoding: EncodingPlan::new(7).feature("plan", Encoding::one_hot()),
///     model: ModelSpec::new("logistic"),
///     task: Task::Classify("churned".into()),
///     seed: 7,
///     features: None,
/// };
/// let artefact = pipeline.fit(&table, Timestamp::EPOCH).unwrap();
/// assert!(artefact.metrics["held_out_auc"] > 0.99);
///
/// let scorer = Scorer::new(&artefact.learned).unwrap();
/// let Scored::Probabilities(p) = scorer.score_row(&["FREE ".into()]).unwrap() else { panic!() };
/// assert!(scorer.labels() == ["no", "yes"] && p[1] > 0.5);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelinePlan {
    /// The name the model is known by: 1 to 64 of `a-z`, `0-9`, `-`, `_`.
    pub name: String,
    /// How columns are cleaned. It never sees the outcome, nor what [`EncodingPlan::outcomes`] names.
    pub cleaning: CleaningPlan,
    /// How columns become numbers.
    pub encoding: EncodingPlan,
    /// The model.
    pub model: ModelSpec,
    /// What is learned.
    pub task: Task,
    /// The seed of everything random.
    pub seed: u64,
    /// How the columns are read from the store when customers are scored there; needed by [`super::Scoring`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<FeaturePlan>,
}

/// What is to be learned, row by row.
enum Truth {
    Classes { labels: Vec<String>, of: Vec<usize> },
    Numbers(Vec<f64>),
    None,
}

impl Truth {
    fn pick(&self, rows: &[usize]) -> Self {
        match self {
            Self::Classes { labels, of } => Self::Classes {
                labels: labels.clone(),
                of: rows.iter().filter_map(|row| of.get(*row).copied()).collect(),
            },
            Self::Numbers(all) => {
                Self::Numbers(rows.iter().filter_map(|row| all.get(*row).copied()).collect())
            }
            Self::None => Self::None,
        }
    }

    /// As a column that target encodings look at.
    fn column(&self, name: &str) -> Option<Column> {
        match self {
            Self::Classes { of, .. } => {
                let of = of.iter().map(|class| i64::try_from(*class).unwrap_or(i64::MAX));
                Some(Column::ints(name, of.collect()))
            }
            Self::Numbers(all) => Some(Column::floats(name, all.clone())),
            Self::None => None,
        }
    }
}

impl PipelinePlan {
    /// Learns everything from a table. For classes and numbers a fifth of the rows, drawn by the seed, is held out first,
    /// everything is learned from the others, and figures are measured on it (`held_out_auc`, `held_out_log_loss`,
    /// `held_out_accuracy`, `held_out_r2`, `held_out_rmse`); then all is learned from all rows.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming what is wrong: a column, a step that needs the outcome, a feature that is
    /// only known with it, too few rows or classes; [`crm_core::ErrorKind::Unsupported`] when a step looks at other rows;
    /// [`crm_core::ErrorKind::Config`] for a model's settings.
    pub fn fit(&self, table: &Table, as_of: Timestamp) -> Result<Artefact<FittedPipeline>> {
        self.learned(table, as_of)
            .map_err(|error| error.operation("pipeline.fit"))
    }

    fn learned(&self, table: &Table, as_of: Timestamp) -> Result<Artefact<FittedPipeline>> {
        let (table, truth) = self.parted(table)?;
        let mut metrics = BTreeMap::new();
        if !matches!(truth, Truth::None) {
            self.judge(&table, &truth, &mut metrics)?;
        }
        let (learned, rows) = self.learn(&table, &truth, Some(&mut metrics))?;
        // What cannot score single rows is found out now, not when it is used.
        Scorer::new(&learned)?;
        let mut artefact = Artefact::new(&self.name, PIPELINE, self.seed, as_of, learned);
        artefact.rows = rows as u64;
        artefact.schema_hash = artefact.learned.encoding.schema_hash();
        artefact.metrics = metrics;
        Ok(artefact)
    }

    fn outcome(&self) -> Option<&str> {
        match &self.task {
            Task::Classify(name) | Task::Estimate(name) => Some(name),
            Task::Group => None,
        }
    }

    /// The columns that may be looked at, and what is to be learned; without the rows of which it is not known.
    fn parted(&self, table: &Table) -> Result<(Table, Truth)> {
        let hidden = |name: &str| self.outcome() == Some(name) || self.encoding.outcomes.contains(name);
        if let Some(feature) = self.encoding.features.iter().find(|f| hidden(&f.source)) {
            return Err(Error::invalid(
                "the column is only known with the outcome: a model that learns from it predicts nothing",
            )
            .with("column", &feature.source));
        }
        let columns = table.columns().iter().filter(|column| !hidden(column.name()));
        let left = Table::new(columns.cloned().collect())?;
        let Some(outcome) = self.outcome() else {
            return Ok((left, Truth::None));
        };
        let column = table.column(outcome)?;
        let known: Vec<usize> = (0..column.len())
            .filter(|row| column.is_valid(*row) && column.f64_at(*row).is_none_or(|v| !v.is_nan()))
            .collect();
        if known.len() < 10 {
            return Err(
                Error::invalid("fewer than 10 rows have an outcome: there is nothing to learn")
                    .with("column", outcome)
                    .with("rows", known.len()),
            );
        }
        let truth = match &self.task {
            Task::Classify(_) => classes(column, &known)?,
            _ => {
                let number = |row: &usize| column.f64_at(*row).filter(|v| v.is_finite());
                let all: Option<Vec<f64>> = known.iter().map(number).collect();
                Truth::Numbers(all.ok_or_else(|| {
                    Error::invalid("an outcome is a finite number in every row").with("column", outcome)
                })?)
            }
        };
        Ok((rows_of(&left, &known)?, truth))
    }

    fn learn(
        &self,
        table: &Table,
        truth: &Truth,
        metrics: Option<&mut BTreeMap<String, f64>>,
    ) -> Result<(FittedPipeline, usize)> {
        let cleaned = self
            .cleaning
            .fit(table)
            .map_err(|error| self.is_it_hidden(error))?;
        let truth = truth.pick(&cleaned.report.kept());
        let mut to_encode = cleaned.table;
        let outcome = self.outcome().filter(|_| !matches!(truth, Truth::None));
        let wants = |f: &&crate::features::FeatureDef| matches!(f.encoding, Encoding::Target { .. });
        if let Some(feature) = self.encoding.features.iter().find(wants)
            && matches!(&truth, Truth::Classes { labels, .. } if labels.len() > 2)
        {
            return Err(Error::invalid(
                "a target encoding needs two classes or a number to take the mean of; take one_hot or frequency",
            )
            .with("column", &feature.source));
        }
        if let (Some(name), Some(column)) = (outcome, outcome.and_then(|name| truth.column(name))) {
            if to_encode.column(name).is_ok() {
                return Err(
                    Error::invalid("the cleaning makes a column with the name of the outcome")
                        .with("column", name),
                );
            }
            to_encode.push(column)?;
        }
        let encoded = self.encoding.fit(&to_encode, outcome)?;
        let x = &encoded.matrix;
        let (answers, model) = match &truth {
            Truth::Classes { labels, of } => {
                let model = self.model.classifier(1)?.fit(x, of, self.seed)?;
                (Answers::Classes(labels.clone()), model.to_json()?)
            }
            Truth::Numbers(values) => {
                let model = self.model.regressor(1)?.fit(x, values, self.seed)?;
                (Answers::Number, model.to_json()?)
            }
            Truth::None => {
                let model = self.model.clusterer(1)?.fit(x, self.seed)?;
                if let (Some(metrics), Some(centers)) = (metrics, model.centers()) {
                    metrics.insert("inertia".to_owned(), inertia(x, &model.predict(x)?, centers)?);
                }
                (Answers::Group, model.to_json()?)
            }
        };
        let rows = x.rows();
        let fitted = FittedPipeline {
            cleaning: cleaned.fitted,
            encoding: encoded.fitted,
            answers,
            model,
            features: self.features.clone(),
        };
        Ok((fitted, rows))
    }

    /// Measures on rows that nothing was learned from.
    fn judge(&self, table: &Table, truth: &Truth, metrics: &mut BTreeMap<String, f64>) -> Result<()> {
        let rows = table.rows();
        let parts = match truth {
            Truth::Classes { of, .. } => train_test(rows, HELD_OUT, &Split::Stratified(of), self.seed)?,
            _ => train_test(rows, HELD_OUT, &Split::Random, self.seed)?,
        };
        let (learned, _) = self.learn(&rows_of(table, &parts.train)?, &truth.pick(&parts.train), None)?;
        let scored = Scorer::new(&learned)?.score(&rows_of(table, &parts.test)?)?;
        // Rows that the cleaning leaves out have no answer to be judged.
        let answered: Vec<usize> = (0..scored.len())
            .filter(|row| scored.get(*row).is_some_and(|one| *one != Scored::LeftOut))
            .collect();
        let truth = truth.pick(&parts.test).pick(&answered);
        metrics.insert("held_out_rows".to_owned(), answered.len() as f64);
        match &truth {
            Truth::Classes { labels, of } => {
                let mut all = Vec::with_capacity(answered.len() * labels.len());
                for one in &scored {
                    if let Scored::Probabilities(p) = one {
                        all.extend(p);
                    }
                }
                let names = (0..labels.len()).map(|class| format!("class_{class}"));
                let p = Matrix::new(names.collect(), all)?;
                let most = |row: &[f64]| {
                    let best = row
                        .iter()
                        .enumerate()
                        .fold(
                            (0, f64::NEG_INFINITY),
                            |best, (at, v)| {
                                if *v > best.1 { (at, *v) } else { best }
                            },
                        );
                    best.0
                };
                let found: Vec<usize> = p.iter_rows().map(most).collect();
                metrics.insert("held_out_accuracy".to_owned(), accuracy(of, &found)?);
                metrics.insert("held_out_log_loss".to_owned(), log_loss(&p, of)?);
                if labels.len() == 2 {
                    let positive: Vec<bool> = of.iter().map(|class| *class == 1).collect();
                    // With one class only among those held out there is none, rather than a wrong one.
                    if let Ok(roc) = roc(&p.iter_col(1).collect::<Vec<f64>>(), &positive) {
                        metrics.insert("held_out_auc".to_owned(), roc.auc);
                    }
                }
            }
            Truth::Numbers(wanted) => {
                let found: Vec<f64> = scored
                    .iter()
                    .filter_map(|one| match one {
                        Scored::Number(v) => Some(*v),
                        _ => None,
                    })
                    .collect();
                let scores = number_scores(wanted, &found)?;
                metrics.insert("held_out_rmse".to_owned(), scores.rmse);
                metrics.insert("held_out_mae".to_owned(), scores.mae);
                if let Some(r2) = scores.r2 {
                    metrics.insert("held_out_r2".to_owned(), r2);
                }
            }
            Truth::None => {}
        }
        Ok(())
    }

    /// Says of a column that is missing on purpose why it is.
    fn is_it_hidden(&self, error: Error) -> Error {
        let column = error.context("column").unwrap_or_default().to_owned();
        if self.outcome() == Some(column.as_str()) || self.encoding.outcomes.contains(&column) {
            return Error::invalid(
                "the cleaning looks at a column that is only known with the outcome; take it out of the plan",
            )
            .with("column", column)
            .source(error);
        }
        error
    }
}

/// The classes of a column: text and bools in the order of text, integers in theirs.
fn classes(column: &Column, known: &[usize]) -> Result<Truth> {
    let mut values = Vec::with_capacity(known.len());
    for row in known {
        values.push(match column.value(*row) {
            Value::Text(text) => (0, text),
            Value::Bool(flag) => (i64::from(flag), flag.to_string()),
            Value::Int(class) => (class, class.to_string()),
            _ => {
                return Err(
                    Error::invalid("classes are text, bools or integers; cast the column")
                        .with("column", column.name()),
                );
            }
        });
    }
    let mut found: Vec<&(i64, String)> = values.iter().collect();
    found.sort_unstable();
    found.dedup();
    if !(2..=MOST_CLASSES).contains(&found.len()) {
        return Err(Error::invalid("an outcome has 2 to 100 classes")
            .with("column", column.name())
            .with("classes", found.len()));
    }
    let of = values
        .iter()
        .filter_map(|value| found.binary_search(&value).ok())
        .collect();
    let labels = found.iter().map(|(_, label)| label.clone()).collect();
    Ok(Truth::Classes { labels, of })
}

/// Some rows of a table.
fn rows_of(table: &Table, rows: &[usize]) -> Result<Table> {
    if rows.len() == table.rows() {
        return Ok(table.clone());
    }
    let mut columns = Vec::with_capacity(table.columns().len());
    for column in table.columns() {
        let mut left = Column::empty(column.name(), column.ty())?;
        for row in rows {
            left.push(column.value(*row))?;
        }
        columns.push(left);
    }
    Table::new(columns)
}
