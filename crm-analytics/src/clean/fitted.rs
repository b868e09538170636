//! What was learned: operations, each on one column, in the order they are run.

use std::collections::BTreeMap;

use crm_core::record::{FieldType, Value};
use crm_core::{Result, Table};
use serde::{Deserialize, Serialize};

use super::frame::Frame;
use super::rows::Group;
use super::run::run;
use super::{
    Case, CastTo, CleaningReport, DateOrder, Decimal, Expr, Keep, OutlierAction, UnicodeForm, Unknown,
    Unreadable,
};

/// One step on one column, with everything learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Op {
    Fill {
        column: String,
        value: Value,
    },
    Trim {
        column: String,
    },
    Case {
        column: String,
        to: Case,
    },
    Cast {
        column: String,
        to: CastTo,
    },
    Dummies {
        column: String,
        categories: Vec<String>,
        first: Option<String>,
        other: bool,
        #[serde(default)]
        missing: bool,
        #[serde(default)]
        unknown: Unknown,
    },
    Clip {
        column: String,
        low: Option<f64>,
        high: Option<f64>,
    },
    Log1p {
        column: String,
    },
    Scale {
        column: String,
        mean: f64,
        deviation: f64,
    },
    Drop {
        column: String,
    },
    Rename {
        from: String,
        to: String,
    },
    FillGroup {
        column: String,
        by: Vec<String>,
        groups: Vec<Group>,
        otherwise: Value,
    },
    FillForward {
        column: String,
        order: String,
        by: Vec<String>,
    },
    Squeeze {
        column: String,
    },
    Unicode {
        column: String,
        form: UnicodeForm,
    },
    Email {
        column: String,
        unreadable: Unreadable,
    },
    Phone {
        column: String,
        region: Option<String>,
        unreadable: Unreadable,
    },
    Number {
        column: String,
        decimal: Decimal,
    },
    Date {
        column: String,
        order: DateOrder,
    },
    Fold {
        column: String,
        synonyms: BTreeMap<String, String>,
        /// Those that stay; all when `None`.
        keep: Option<Vec<String>>,
        other: String,
    },
    Indicate {
        column: String,
    },
    Outliers {
        column: String,
        low: Option<f64>,
        high: Option<f64>,
        action: OutlierAction,
    },
    Deduplicate {
        by: Vec<String>,
        keep: Keep,
    },
    Derive {
        column: String,
        from: Expr,
    },
    KeepRows {
        when: Expr,
    },
}

/// Steps with what they learned: cleans one row as it cleans a million. Plain data, to be kept with a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedCleaning {
    pub(super) input: Vec<(String, FieldType)>,
    pub(super) ops: Vec<Op>,
}

impl FittedCleaning {
    /// The names of the columns it needs.
    pub fn input(&self) -> impl Iterator<Item = &str> {
        self.input.iter().map(|(name, _)| name.as_str())
    }

    /// Whether every row is cleaned without a look at the others. Not so where rows are filled from those before them, or
    /// duplicates are left out: there a row cleaned alone can come out another way than among others.
    pub fn is_row_wise(&self) -> bool {
        !self
            .ops
            .iter()
            .any(|op| matches!(op, Op::FillForward { .. } | Op::Deduplicate { .. }))
    }

    /// Cleans rows. Columns that were not there when it was fitted are left out.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when a column is missing (naming those there are) or has another type.
    pub fn apply(&self, table: &Table) -> Result<(Table, CleaningReport)> {
        let mut frame = Frame::read(table)?;
        frame.keep(&self.input).map_err(|e| e.operation("clean.apply"))?;
        let mut report = CleaningReport::begun(&frame);
        for op in &self.ops {
            report
                .lines
                .push(run(op, &mut frame).map_err(|e| e.operation("clean.apply"))?);
        }
        report.ended(&frame);
        Ok((frame.write()?, report))
    }
}
