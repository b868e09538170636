//! Scores: what a model says of a customer, with where it comes from.
//!
//! ```
//! use crm_core::record::Entity;
//! use crm_core::score::{SCORE, Score};
//! use crm_core::{Timestamp, Uuid};
//!
//! let score = Score {
//!     id: Uuid::from_u128(1).into(),
//!     version: 0,
//!     customer_id: Uuid::from_u128(7).into(),
//!     model: "churn".into(),
//!     number: 3,
//!     run: Uuid::from_u128(2),
//!     value: Some(0.8),
//!     label: Some("leaves".into()),
//!     as_of: Timestamp::EPOCH,
//!     scored_at: Timestamp::EPOCH,
//! };
//! assert_eq!(score.to_record().unwrap().schema().name, SCORE.name);
//! ```

use serde::{Deserialize, Serialize};

use crate::customer::CustomerId;
use crate::record::{Entity, Field, FieldType, Index, Record, Schema, Stored, Value, Version};
use crate::segment::Lineage;
use crate::{Error, Id, Result, Timestamp, Uuid};

/// The id of a score.
pub type ScoreId = Id<Score>;

/// What a model says of a customer; one a customer and model, the newest.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Its id.
    pub id: ScoreId,
    /// How often it was written.
    pub version: Version,
    /// Of whom.
    pub customer_id: CustomerId,
    /// The model's name.
    pub model: String,
    /// The model's version.
    pub number: i64,
    /// The run that wrote it ([`ScoreRun`]).
    pub run: Uuid,
    /// The number: of two classes the probability of the second one, of several that of the most probable one, of a
    /// regression its value; none for groups.
    pub value: Option<f64>,
    /// The most probable class, or the group.
    pub label: Option<String>,
    /// Only what was known before this instant counted.
    pub as_of: Timestamp,
    /// When it was written.
    pub scored_at: Timestamp,
}

/// How a [`Score`] is stored.
pub static SCORE: Schema = Schema {
    name: "crm_score",
    fields: &[
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("model", FieldType::Text),
        Field::new("number", FieldType::Int),
        Field::new("run", FieldType::Uuid),
        Field::new("value", FieldType::Float).nullable().personal(),
        Field::new("label", FieldType::Text).nullable().personal(),
        Field::new("as_of", FieldType::Timestamp),
        Field::new("scored_at", FieldType::Timestamp),
    ],
    indexes: &[
        Index::unique("crm_score_customer", &["customer_id", "model"]),
        Index::new("crm_score_model", &["model", "run"]),
    ],
};

impl Entity for Score {
    fn schema() -> &'static Schema {
        &SCORE
    }
    fn record_id(&self) -> Uuid {
        self.id.uuid()
    }
    fn to_record(&self) -> Result<Record> {
        Record::from_values(
            &SCORE,
            vec![
                self.customer_id.into(),
                self.model.as_str().into(),
                self.number.into(),
                self.run.into(),
                self.value.into(),
                self.label.clone().into(),
                self.as_of.into(),
                self.scored_at.into(),
            ],
        )
    }
    fn from_stored(stored: Stored) -> Result<Self> {
        let r = &stored.record;
        Ok(Self {
            id: stored.id.into(),
            version: stored.version,
            customer_id: r.uuid("customer_id")?.into(),
            model: r.text("model")?.to_owned(),
            number: r.int("number")?,
            run: r.uuid("run")?,
            value: r.get("value").and_then(Value::as_f64),
            label: r.get("label").and_then(Value::as_str).map(str::to_owned),
            as_of: r.timestamp("as_of")?,
            scored_at: r.timestamp("scored_at")?,
        })
    }
}

/// A run that writes scores: which model, and how that came about. It goes on as long as the same version of the model is
/// the one in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreRun {
    /// Its id.
    pub id: Uuid,
    /// The model's name.
    pub model: String,
    /// The model's version.
    pub number: i64,
    /// What the model was made of.
    pub lineage: Lineage,
    /// When it began.
    pub started_at: Timestamp,
}

/// How a [`ScoreRun`] is stored.
pub static SCORE_RUN: Schema = Schema {
    name: "crm_score_run",
    fields: &[
        Field::new("model", FieldType::Text),
        Field::new("number", FieldType::Int),
        Field::new("lineage", FieldType::Json),
        Field::new("started_at", FieldType::Timestamp),
    ],
    indexes: &[Index::new("crm_score_run_model", &["model", "started_at"])],
};

impl Entity for ScoreRun {
    fn schema() -> &'static Schema {
        &SCORE_RUN
    }
    fn record_id(&self) -> Uuid {
        self.id
    }
    fn to_record(&self) -> Result<Record> {
        let lineage = serde_json::to_value(&self.lineage)
            .map_err(|e| Error::invalid("a lineage cannot be written as JSON").source(e))?;
        Record::from_values(
            &SCORE_RUN,
            vec![
                self.model.as_str().into(),
                self.number.into(),
                Value::Json(lineage),
                self.started_at.into(),
            ],
        )
    }
    fn from_stored(stored: Stored) -> Result<Self> {
        let r = &stored.record;
        let lineage = match r.get("lineage") {
            Some(Value::Json(json)) => serde_json::from_value(json.clone()).ok(),
            _ => None,
        };
        Ok(Self {
            id: stored.id,
            model: r.text("model")?.to_owned(),
            number: r.int("number")?,
            lineage: lineage.ok_or_else(|| r.damaged("lineage"))?,
            started_at: r.timestamp("started_at")?,
        })
    }
}
