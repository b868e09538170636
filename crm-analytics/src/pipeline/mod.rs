//! What was learned, as one thing that is kept: written with a format version and a hash, and stored by name, version and
//! stage.
//!
//! ```
//! use crm_analytics::pipeline::{Artefact, seal, unseal};
//! use crm_core::Timestamp;
//!
//! let artefact = Artefact::new("churn", "thresholds", 7, Timestamp::EPOCH, vec![0.25, 0.5]);
//! let bytes = seal(&artefact).unwrap();
//! let read: Artefact<Vec<f64>> = unseal(&bytes).unwrap();
//! assert_eq!(read, artefact);
//!
//! // One letter that fell over is found out.
//! let damaged = String::from_utf8(bytes).unwrap().replace("0.25", "0.35");
//! assert!(unseal::<Vec<f64>>(damaged.as_bytes()).is_err());
//! ```

mod fitted;
mod origin;
mod plan;
mod scoring;
mod sealed;
mod shelf;

pub use fitted::{Answers, FittedPipeline, PIPELINE, Scored, Scorer};
pub use origin::{Origins, ScoreOrigin, SegmentOrigin};
pub use plan::{PipelinePlan, Task};
pub use scoring::{Phase, SCORE_STATE, Scoring, ScoringStep};
pub use sealed::{Artefact, FORMAT, MAGIC, seal, unseal};
pub use shelf::{MODEL, MODEL_PART, ModelRecord, Stage, StoredModels, Which};
