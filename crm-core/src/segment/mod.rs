//! Segments: named groups of customers.
//!
//! ```
//! use crm_core::query::Filter;
//! use crm_core::segment::SegmentKind;
//!
//! let regulars = SegmentKind::Dynamic { filter: Filter::ge("attributes.visits", 10_i64) };
//! assert_eq!(regulars.name(), "dynamic");
//! ```

mod resolve;

use serde::{Deserialize, Serialize};

pub use resolve::{Definitions, resolve};

use crate::query::Filter;
use crate::record::{Entity, Field, FieldType, Index, Record, Schema, Stored, Version};
use crate::{Error, Id, Result, Timestamp, Uuid};

/// The id of a segment.
pub type SegmentId = Id<Segment>;

/// How a segment's members are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum SegmentKind {
    /// Chosen one by one.
    Manual,
    /// All customers that match, whenever it is asked.
    Dynamic {
        /// The condition on the customer's profile.
        filter: Filter,
    },
    /// Those who were members at one moment, with how that came about.
    Snapshot {
        /// How the members were found.
        lineage: Lineage,
    },
}

impl SegmentKind {
    /// `manual`, `dynamic` or `snapshot`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Dynamic { .. } => "dynamic",
            Self::Snapshot { .. } => "snapshot",
        }
    }
}

/// How a computed segment or score came about: enough to say why, and to compute it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// The run that made it; the same for all segments of one run.
    pub run: Uuid,
    /// The method and its settings: `kmeans(k=4)`.
    pub method: String,
    /// The seed.
    pub seed: u64,
    /// The instant up to which data were used.
    pub as_of: Timestamp,
    /// The features, in order.
    pub features: Vec<String>,
    /// A hash (SHA-256, hex) over features and cleaning plan: same hash, same meaning.
    pub schema_hash: String,
    /// Figures of the fit: rows, inertia, silhouette.
    pub metrics: std::collections::BTreeMap<String, f64>,
}

/// A named group of customers.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Its id.
    pub id: SegmentId,
    /// How often it was written.
    pub version: Version,
    /// Its name, unique within the tenant.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// How its members are known.
    pub kind: SegmentKind,
    /// The number of members when it was made (manual, snapshot).
    pub size: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// How a [`Segment`] is stored.
pub static SEGMENT: Schema = Schema {
    name: "crm_segment",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("description", FieldType::Text),
        Field::new("definition", FieldType::Json),
        Field::new("size", FieldType::Int),
        Field::new("created_at", FieldType::Timestamp),
    ],
    indexes: &[Index::unique("crm_segment_name", &["name"])],
};

/// Membership of manual and snapshot segments, and of dynamic ones that are kept up to date ([`SEGMENT_STATE`]); the
/// record's id is the membership's own.
pub static SEGMENT_MEMBER: Schema = Schema {
    name: "crm_segment_member",
    fields: &[
        Field::new("segment_id", FieldType::Uuid),
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("created_at", FieldType::Timestamp),
    ],
    indexes: &[
        Index::unique("crm_segment_member_key", &["segment_id", "customer_id"]),
        Index::new("crm_segment_member_customer", &["customer_id"]),
    ],
};

/// Customers that are, or are not, members of a dynamic segment whatever its rule says.
pub static SEGMENT_OVERRIDE: Schema = Schema {
    name: "crm_segment_override",
    fields: &[
        Field::new("segment_id", FieldType::Uuid),
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("included", FieldType::Bool),
        Field::new("actor", FieldType::Text).pseudonym(),
        Field::new("at", FieldType::Timestamp),
    ],
    indexes: &[
        Index::unique("crm_segment_override_key", &["segment_id", "customer_id"]),
        Index::new("crm_segment_override_customer", &["customer_id"]),
    ],
};

/// The account a segment keeps of its members; the record's id is the segment's. While `stored` and `ready`, those in
/// [`SEGMENT_MEMBER`] are the members of a dynamic segment, as of `refreshed_at`.
pub static SEGMENT_STATE: Schema = Schema {
    name: "crm_segment_state",
    fields: &[
        Field::new("stored", FieldType::Bool),
        Field::new("ready", FieldType::Bool),
        Field::new("meaning", FieldType::Text).nullable(),
        Field::new("cursor", FieldType::Text).nullable(),
        Field::new("every_seconds", FieldType::Int),
        Field::new("refreshed_at", FieldType::Timestamp).nullable(),
        Field::new("due_at", FieldType::Timestamp).nullable(),
    ],
    indexes: &[Index::new("crm_segment_state_stored", &["stored"])],
};

impl Entity for Segment {
    fn schema() -> &'static Schema {
        &SEGMENT
    }
    fn record_id(&self) -> Uuid {
        self.id.uuid()
    }
    fn to_record(&self) -> Result<Record> {
        let definition = serde_json::to_value(&self.kind).map_err(|e| {
            Error::invalid("the definition cannot be written as JSON")
                .with("field", "kind")
                .source(e)
        })?;
        Record::from_values(
            &SEGMENT,
            vec![
                self.name.as_str().into(),
                self.description.as_str().into(),
                definition.into(),
                self.size.into(),
                self.created_at.into(),
            ],
        )
    }
    fn from_stored(stored: Stored) -> Result<Self> {
        let r = &stored.record;
        let definition = r
            .get("definition")
            .and_then(|v| v.as_json())
            .ok_or_else(|| r.damaged("definition"))?;
        Ok(Self {
            id: stored.id.into(),
            version: stored.version,
            name: r.text("name")?.to_owned(),
            description: r.text("description")?.to_owned(),
            kind: SegmentKind::deserialize(definition).map_err(|_| r.damaged("definition"))?,
            size: r.int("size")?,
            created_at: r.timestamp("created_at")?,
        })
    }
}
