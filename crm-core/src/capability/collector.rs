use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::customer::Draft;
use crate::{Context, Provider, Result, Table};

/// What a collector can do.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CollectorCapability {
    /// It can go on from a [`Checkpoint`] instead of beginning anew.
    pub resumable: bool,
    /// It knows beforehand how much there is, so that progress has an end.
    pub sized: bool,
}

impl CollectorCapability {
    /// Both as said.
    pub const fn new(resumable: bool, sized: bool) -> Self {
        Self { resumable, sized }
    }
}

/// Where a collector stood: data of the collector's own, stored with the drafts it covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint(pub serde_json::Value);

/// Why something was put aside.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectKind {
    /// It cannot be read or stored as it stands: to be mended where it came from.
    #[default]
    Invalid,
    /// It belongs to another customer: an external reference, an e-mail address, a value that only one may have.
    Conflict,
}

impl RejectKind {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
        }
    }
}

/// Something that was found but cannot be made into a draft. Kept and reported, never dropped silently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// Why, for a program.
    #[serde(default)]
    pub kind: RejectKind,
    /// Where it stood: a file and line, or a URL.
    pub place: String,
    /// The line in the file (1 is the first), or the item on the page.
    pub line: Option<u64>,
    /// The field or column that is wrong, if it is one.
    pub field: Option<String>,
    /// What is wrong and what to do; without the value.
    pub reason: String,
}

/// How far a collector is.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Units done: rows or bytes of a file, pages of a site.
    pub done: u64,
    /// Units in all, as far as known now.
    pub total: Option<u64>,
    /// Drafts found.
    pub drafts: u64,
    /// Rejects.
    pub rejects: u64,
}

/// What a collector hands over at once: stored whole together with the checkpoint, so that a collector that is killed
/// goes on without a gap.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delivery {
    /// The drafts.
    pub drafts: Vec<Draft>,
    /// What could not be made into one.
    pub rejects: Vec<Reject>,
    /// Where to go on after these.
    pub checkpoint: Option<Checkpoint>,
    /// How far it is.
    pub progress: Progress,
    /// The rows as they stood in the file, for those that are rejected here or later; empty when the collector has none.
    pub originals: Originals,
}

/// How the rows of [`Originals`] are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OriginalKind {
    /// Cells under the names of columns.
    #[default]
    Cells,
    /// One JSON document.
    Json,
    /// One vCard.
    Vcard,
}

/// Rows as they stood in a file, so that a rejected one can be corrected and read again. `Debug` shows no values.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Originals {
    /// How the rows are written.
    pub kind: OriginalKind,
    /// The names of the columns of [`OriginalKind::Cells`].
    pub columns: Vec<String>,
    /// By the line a row begins in: its cells, or its one text.
    pub rows: BTreeMap<u64, Vec<String>>,
}

impl fmt::Debug for Originals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Originals")
            .field("kind", &self.kind)
            .field("columns", &self.columns)
            .field("rows", &self.rows.len())
            .finish()
    }
}

/// What a [`TableSource`] holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The file, as drafts and rejects name it.
    pub place: String,
    /// The names of the columns.
    pub columns: Vec<String>,
    /// Rows in all.
    pub rows: u64,
    /// In how many parts they are read.
    pub chunks: usize,
    /// The same as long as the content is: by it a checkpoint recognises the file.
    pub fingerprint: String,
}

/// A file of typed columns, read part by part (Parquet in `crm-analytics`); a collector makes drafts of its rows. Calls
/// block: they are made off the async workers.
pub trait TableSource: fmt::Debug + Send + Sync + 'static {
    /// What there is, without reading the rows.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] when the file cannot be read, [`crate::ErrorKind::Corrupt`] when it is damaged.
    fn outline(&self) -> Result<Outline>;

    /// The rows of one part, 0 is the first.
    ///
    /// # Errors
    /// As [`TableSource::outline`]; [`crate::ErrorKind::Unsupported`] naming a column of a type that cannot be read.
    fn chunk(&self, index: usize) -> Result<Table>;
}

/// Takes what a collector finds. Waits while the store is busy: that is the back-pressure.
#[async_trait]
pub trait DraftSink: Send {
    /// Takes a delivery; when it answers, the delivery is stored.
    ///
    /// # Errors
    /// What kept it from being stored; the collector stops and passes it on.
    async fn deliver(&mut self, delivery: Delivery) -> Result<()>;
}

/// Finds people somewhere and yields drafts with provenance.
#[async_trait]
pub trait Collector: Provider {
    /// What it can do.
    fn capability(&self) -> CollectorCapability;

    /// Runs to the end, from `resume` when given. Dropping the future stops it without harm.
    ///
    /// # Errors
    /// What made it stop: a missing column, a forbidden site, an unreadable file. What can be left out (one row, one
    /// page) is a [`Reject`] instead.
    async fn collect(
        &self,
        ctx: &Context,
        resume: Option<&Checkpoint>,
        sink: &mut dyn DraftSink,
    ) -> Result<Progress>;
}
