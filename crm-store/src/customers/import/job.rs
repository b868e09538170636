//! An import as it is kept: its job, its counts, its state.

use crm_core::capability::Checkpoint;
use crm_core::record::{Field, FieldType, Index, Schema, Stored};
use crm_core::{Result, Uuid};
use serde::{Deserialize, Serialize};

/// How an import is kept: its name, where it stood, and what it did.
pub static IMPORT_JOB: Schema = Schema {
    name: "crm_import_job",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("state", FieldType::Text),
        Field::new("checkpoint", FieldType::Json).nullable(),
        Field::new("report", FieldType::Json),
        Field::new("created_at", FieldType::Timestamp),
        Field::new("updated_at", FieldType::Timestamp),
        Field::new("run", FieldType::Uuid).nullable(),
    ],
    indexes: &[Index::unique("crm_import_job_name", &["name"])],
};

/// What an import did so far. `created + updated + unchanged + rejected` is the number of rows and drafts seen.
///
/// An import never gives consent: whoever is new can be written to only after a grant with its evidence, and a
/// suppression of an address holds for customers who come in later too.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportReport {
    /// Drafts that became new customers.
    pub created: u64,
    /// Drafts that said more about a known customer.
    pub updated: u64,
    /// Drafts that said nothing new.
    pub unchanged: u64,
    /// Of the unchanged: rows an earlier run of the same job had taken in already, not looked at again.
    pub repeated: u64,
    /// Rows and drafts left out whole.
    pub rejected: u64,
    /// Fields left out of drafts that were taken: an e-mail address that is none, or one of another customer.
    pub fields_rejected: u64,
    /// Of these: keys that belong to another customer and were left there.
    pub conflicts: u64,
    /// Orders added.
    pub orders: u64,
    /// Interactions added.
    pub interactions: u64,
    /// E-mail addresses and phone numbers added; none has consent by being imported.
    pub contact_points: u64,
}

impl ImportReport {
    /// Rows and drafts seen.
    pub fn seen(&self) -> u64 {
        self.created + self.updated + self.unchanged + self.rejected
    }

    pub(super) fn add(&mut self, more: &Self, rejected: usize) {
        self.created += more.created;
        self.updated += more.updated;
        self.unchanged += more.unchanged;
        self.repeated += more.repeated;
        self.rejected += more.rejected + rejected as u64;
        self.fields_rejected += more.fields_rejected;
        self.conflicts += more.conflicts;
        self.orders += more.orders;
        self.interactions += more.interactions;
        self.contact_points += more.contact_points;
    }
}

/// Whether an import came to its end.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportState {
    /// Not yet: it runs, or was stopped and can go on.
    Running,
    /// It did; the next run under the same name begins anew.
    Finished,
    /// It is being undone, or that was stopped and can go on.
    Undoing,
    /// It was undone; the next run under the same name begins anew.
    Undone,
}

impl ImportState {
    const ALL: [Self; 4] = [Self::Running, Self::Finished, Self::Undoing, Self::Undone];

    pub(in super::super) fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
        }
    }
}

/// An import as it is kept.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub struct ImportJob {
    /// Its name, unique within the tenant.
    pub name: String,
    /// Whether it came to its end.
    pub state: ImportState,
    /// Where the collector goes on.
    pub checkpoint: Option<Checkpoint>,
    /// What it did so far.
    pub report: ImportReport,
    /// The last run: the same over all its stops and resumes.
    pub run: Option<Uuid>,
}

pub(in super::super) fn read_job(stored: &Stored) -> Result<ImportJob> {
    let r = &stored.record;
    let state = r.text("state")?;
    Ok(ImportJob {
        name: r.text("name")?.to_owned(),
        state: ImportState::ALL
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or_else(|| r.damaged("state"))?,
        checkpoint: r
            .get("checkpoint")
            .and_then(|v| v.as_json())
            .cloned()
            .map(Checkpoint),
        report: r.json("report")?,
        run: r.get("run").and_then(|v| v.as_uuid()),
    })
}
