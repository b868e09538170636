//! Cleaning, encoding and model as one thing that is fitted, kept and asked.

use crm_core::capability::{ClassifierModel, ClusterModel, RegressorModel};
use crm_core::record::{FieldType, Value};
use crm_core::{Error, ErrorKind, Result, Table};
use serde::{Deserialize, Serialize};

use super::{Artefact, seal, unseal};
use crate::clean::{FittedCleaning, RowCleaner};
use crate::features::{FeaturePlan, FittedEncoding, RowOf};
use crate::model::{read_classifier, read_clusters, read_regressor};

/// What kind of artefact a pipeline is.
pub const PIPELINE: &str = "pipeline";

/// What a pipeline answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answers {
    /// The probability of each class, in this order.
    Classes(Vec<String>),
    /// A number.
    Number,
    /// The number of a group.
    Group,
}

/// Cleaning, encoding and model with everything learned. Plain data; [`Scorer`] makes it ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedPipeline {
    /// The cleaning.
    pub cleaning: FittedCleaning,
    /// From columns to numbers.
    pub encoding: FittedEncoding,
    /// What it answers.
    pub answers: Answers,
    /// The model, as written by its `to_json`.
    pub model: serde_json::Value,
    /// How the columns of customers are read from the store, if they come from there; its instant is the one of scoring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<FeaturePlan>,
}

impl Artefact<FittedPipeline> {
    /// Writes it with format and hash, to be published ([`super::StoredModels::publish`]).
    ///
    /// # Errors
    /// As [`seal`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        seal(self)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// As [`unseal`]; [`ErrorKind::Corrupt`] when its columns are not those it says.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let read: Self = unseal(bytes)?;
        if read.schema_hash != read.learned.encoding.schema_hash() {
            return Err(
                Error::new(ErrorKind::Corrupt, "the pipeline's columns are not those it says")
                    .operation("pipeline.read")
                    .with("name", &read.name),
            );
        }
        Ok(read)
    }
}

/// The model, ready.
#[derive(Debug)]
enum Model {
    Classes(Vec<String>, Box<dyn ClassifierModel>),
    Number(Box<dyn RegressorModel>),
    Group(Box<dyn ClusterModel>),
}

/// What a row scores.
#[derive(Debug, Clone, PartialEq)]
pub enum Scored {
    /// The cleaning leaves the row out.
    LeftOut,
    /// The probability of each class, in the order of [`Scorer::labels`].
    Probabilities(Vec<f64>),
    /// The number.
    Number(f64),
    /// The group; `None` for none.
    Group(Option<usize>),
}

/// A pipeline made ready: scores one row as it scores a million, to the last bit. Made once, asked often; shared between
/// threads.
#[derive(Debug)]
pub struct Scorer {
    cleaning: FittedCleaning,
    encoding: FittedEncoding,
    rows: RowCleaner,
    /// Where the columns of the encoding are in a cleaned row.
    places: Vec<usize>,
    model: Model,
}

impl Scorer {
    /// Makes a pipeline ready.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when a step of the cleaning looks at other rows; [`ErrorKind::Corrupt`] when its parts do
    /// not fit together.
    pub fn new(pipeline: &FittedPipeline) -> Result<Self> {
        Self::ready(pipeline).map_err(|error| error.operation("scorer.new"))
    }

    fn ready(pipeline: &FittedPipeline) -> Result<Self> {
        let rows = pipeline.cleaning.rows()?;
        let corrupt = |message: &'static str| Error::new(ErrorKind::Corrupt, message);
        let places = rows.places(pipeline.encoding.input()).map_err(|column| {
            corrupt("the cleaning does not make a column that the encoding takes").with("column", column)
        })?;
        let json = pipeline.model.clone();
        let (model, columns) = match &pipeline.answers {
            Answers::Classes(labels) => {
                let model = read_classifier(json)?;
                if model.classes() != labels.len() {
                    return Err(corrupt("the model has another number of classes than names"));
                }
                let columns = model.columns().to_vec();
                (Model::Classes(labels.clone(), model), columns)
            }
            Answers::Number => {
                let model = read_regressor(json)?;
                let columns = model.columns().to_vec();
                (Model::Number(model), columns)
            }
            Answers::Group => {
                let model = read_clusters(json)?;
                let columns = model.columns().to_vec();
                (Model::Group(model), columns)
            }
        };
        if columns != pipeline.encoding.names() {
            return Err(corrupt(
                "the encoding does not make the columns that the model takes",
            ));
        }
        Ok(Self {
            cleaning: pipeline.cleaning.clone(),
            encoding: pipeline.encoding.clone(),
            rows,
            places,
            model,
        })
    }

    /// The columns a row has, in the order of [`Scorer::score_row`].
    pub fn input(&self) -> impl Iterator<Item = (&str, FieldType)> {
        self.rows.input()
    }

    /// The names of the classes; empty when it answers something else.
    pub fn labels(&self) -> &[String] {
        match &self.model {
            Model::Classes(labels, _) => labels,
            _ => &[],
        }
    }

    /// Scores one row: no table, no store; a few microseconds.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the column: another number of values, another type, a value that the plan refuses.
    pub fn score_row(&self, values: &[Value]) -> Result<Scored> {
        let Some(cells) = self.rows.cells(values)? else {
            return Ok(Scored::LeftOut);
        };
        let mut row = vec![0.0; self.encoding.names().len()];
        self.encoding
            .encode_of(RowOf::Cells(&cells, &self.places), &mut row)?;
        Ok(match &self.model {
            Model::Classes(labels, model) => {
                let mut out = vec![0.0; labels.len()];
                model.score_row(&row, &mut out)?;
                Scored::Probabilities(out)
            }
            Model::Number(model) => Scored::Number(model.score_row(&row)?),
            Model::Group(model) => Scored::Group(model.assign_row(&row)?),
        })
    }

    /// Scores all rows of a table, one answer a row.
    ///
    /// # Errors
    /// As [`FittedCleaning::apply`] and [`FittedEncoding::apply`].
    pub fn score(&self, table: &Table) -> Result<Vec<Scored>> {
        let (cleaned, report) = self.cleaning.apply(table)?;
        let mut scored = vec![Scored::LeftOut; table.rows()];
        if cleaned.rows() == 0 {
            return Ok(scored);
        }
        let (x, _) = self.encoding.apply(&cleaned)?;
        let answers: Vec<Scored> = match &self.model {
            Model::Classes(_, model) => {
                let all = model.probabilities(&x)?;
                all.iter_rows()
                    .map(|row| Scored::Probabilities(row.to_vec()))
                    .collect()
            }
            Model::Number(model) => model.predict(&x)?.into_iter().map(Scored::Number).collect(),
            Model::Group(model) => model.predict(&x)?.into_iter().map(Scored::Group).collect(),
        };
        for (row, answer) in report.kept().into_iter().zip(answers) {
            if let Some(slot) = scored.get_mut(row) {
                *slot = answer;
            }
        }
        Ok(scored)
    }
}
