use super::{Record, Schema, Version};
use crate::Uuid;

/// What to do when an inserted record's id or unique key is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// The whole unit of work fails with [`crate::ErrorKind::Conflict`], naming the index.
    #[default]
    Fail,
    /// This record is left out; the rest goes on. The way to take in events at least once.
    Skip,
}

/// One write of a unit of work.
#[derive(Debug, Clone)]
pub enum Write {
    /// Adds a record with version 1.
    Insert {
        /// The new record's id.
        id: Uuid,
        /// Its values.
        record: Record,
        /// What to do when it is already there.
        on_conflict: OnConflict,
    },
    /// Replaces all values of a record that still has version `expected`; the version grows by one.
    Update {
        /// The record's id.
        id: Uuid,
        /// The version the new values were based on.
        expected: Version,
        /// The new values.
        record: Record,
        /// What the record was at that version, if the writer knows: see [`Write::based_on`].
        before: Option<Record>,
    },
    /// Replaces or adds a record whatever its version: for records of one owner (checkpoints, caches).
    Put {
        /// The record's id.
        id: Uuid,
        /// Its values.
        record: Record,
    },
    /// Removes a record; [`crate::ErrorKind::Conflict`] when it is gone or has another version.
    Delete {
        /// The record's kind.
        schema: &'static Schema,
        /// The record's id.
        id: Uuid,
        /// The version it must have; any when `None`.
        expected: Option<Version>,
    },
}

impl Write {
    /// An insert that fails when the record is already there.
    pub fn insert(id: impl Into<Uuid>, record: Record) -> Self {
        Self::Insert {
            id: id.into(),
            record,
            on_conflict: OnConflict::Fail,
        }
    }

    /// An insert that is left out when the record is already there.
    pub fn insert_or_skip(id: impl Into<Uuid>, record: Record) -> Self {
        Self::Insert {
            id: id.into(),
            record,
            on_conflict: OnConflict::Skip,
        }
    }

    /// An update of the record at version `expected`.
    pub fn update(id: impl Into<Uuid>, expected: Version, record: Record) -> Self {
        Self::Update {
            id: id.into(),
            expected,
            record,
            before: None,
        }
    }

    /// The same update, with the record as it was read at the version the update expects. What comes of it is the same, but
    /// a store may write only the values that differ, and leave large ones and the indexes of the others alone. Other writes
    /// stay as they are.
    ///
    /// `before` must be what was read: values that are the same in both are not written.
    #[must_use]
    pub fn based_on(mut self, read: Record) -> Self {
        if let Self::Update { before, .. } = &mut self {
            *before = Some(read);
        }
        self
    }

    /// A blind write.
    pub fn put(id: impl Into<Uuid>, record: Record) -> Self {
        Self::Put {
            id: id.into(),
            record,
        }
    }

    /// A removal.
    pub fn delete(schema: &'static Schema, id: impl Into<Uuid>, expected: Option<Version>) -> Self {
        Self::Delete {
            schema,
            id: id.into(),
            expected,
        }
    }

    /// The schema of the record written.
    pub fn schema(&self) -> &'static Schema {
        match self {
            Self::Insert { record, .. } | Self::Update { record, .. } | Self::Put { record, .. } => {
                record.schema()
            }
            Self::Delete { schema, .. } => schema,
        }
    }

    /// The id of the record written.
    pub fn id(&self) -> Uuid {
        match self {
            Self::Insert { id, .. }
            | Self::Update { id, .. }
            | Self::Put { id, .. }
            | Self::Delete { id, .. } => *id,
        }
    }
}

/// What one write of a unit of work did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The record is there with this version.
    Written(Version),
    /// The insert was left out: the record was already there.
    Skipped,
    /// The record is gone.
    Deleted,
}
