//! What a cleaning did.

use serde::{Deserialize, Serialize};

use super::frame::Frame;

/// What one step did to one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleaningLine {
    /// The step.
    pub step: String,
    /// The column.
    pub column: String,
    /// The rows whose value is another than before.
    pub changed: usize,
    /// The rows without a value before.
    pub missing_before: usize,
    /// The rows without a value after (0 for dummies, which have none).
    pub missing_after: usize,
    /// The rows whose value could not be read (cast), or was in no category (dummies, fold).
    pub unreadable: usize,
    /// The rows that were left out.
    #[serde(default)]
    pub removed: usize,
}

/// What a cleaning did, step by step.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CleaningReport {
    /// The rows before.
    pub rows: usize,
    /// The rows after.
    #[serde(default)]
    pub rows_after: usize,
    /// The columns before.
    pub columns_before: usize,
    /// The columns after.
    pub columns_after: usize,
    /// One line a step and column.
    pub lines: Vec<CleaningLine>,
    /// The rows that were left out, by their position before (0 is the first), in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<usize>,
}

impl CleaningReport {
    pub(super) fn begun(frame: &Frame) -> Self {
        let columns = frame.columns().len();
        Self {
            rows: frame.rows(),
            rows_after: frame.rows(),
            columns_before: columns,
            columns_after: columns,
            lines: Vec::new(),
            left_out: Vec::new(),
        }
    }

    pub(super) fn ended(&mut self, frame: &Frame) {
        self.columns_after = frame.columns().len();
        self.rows_after = frame.rows();
        self.left_out = frame.left_out(self.rows);
    }

    /// The rows that stayed, by their position before; to cut what belongs to the rows in the same way.
    pub fn kept(&self) -> Vec<usize> {
        let mut gone = self.left_out.iter().copied().peekable();
        (0..self.rows)
            .filter(|row| gone.next_if_eq(row).is_none())
            .collect()
    }
}
