//! The steps of a plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Bounds, Case, CastTo, Columns, DateOrder, Decimal, Expr, Fill, Keep, OutlierAction, OutlierRule,
    UnicodeForm, Unknown, Unreadable,
};

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Fills missing values.
    Fill {
        /// Where.
        columns: Columns,
        /// With what.
        with: Fill,
    },
    /// Takes blanks off both ends of text; text that was only blanks becomes missing.
    Trim {
        /// Where.
        columns: Columns,
    },
    /// Changes the case of text.
    Case {
        /// Where.
        columns: Columns,
        /// To which.
        to: Case,
    },
    /// Reads values as another type.
    Cast {
        /// Where.
        columns: Columns,
        /// As what.
        to: CastTo,
    },
    /// One column of true and false for each category, in place of the column (`plan` becomes `plan_free`, `plan_pro`).
    /// A missing value is false in all; so is one never seen before, unless there is a column for others.
    Dummies {
        /// Where: text, bools or integers.
        columns: Columns,
        /// Leaves out the first category (in the order of text): it is all false.
        #[serde(default)]
        drop_first: bool,
        /// The most frequent ones get a column; all others, and those never seen before, share `plan_other`.
        /// Without a limit, more than 100 categories are an error.
        #[serde(default)]
        max_categories: Option<usize>,
        /// Categories rarer than this have no column of their own but share `plan_other`; 0 for no such limit.
        #[serde(default)]
        min_count: usize,
        /// Adds `plan_missing`, true where there is no value.
        #[serde(default)]
        missing: bool,
        /// What categories never seen become.
        #[serde(default)]
        unknown: Unknown,
    },
    /// Cuts off numbers.
    Clip {
        /// Where.
        columns: Columns,
        /// At which values.
        bounds: Bounds,
    },
    /// `ln(1 + x)`, for numbers above -1 that spread over orders of magnitude.
    Log1p {
        /// Where.
        columns: Columns,
    },
    /// `(x - mean) / standard deviation`; a constant column becomes 0.
    Standardise {
        /// Where.
        columns: Columns,
    },
    /// Makes every run of blanks one blank, and takes them off both ends; text that was only blanks becomes missing.
    Squeeze {
        /// Where.
        columns: Columns,
    },
    /// Brings text into a Unicode normal form.
    Unicode {
        /// Where.
        columns: Columns,
        /// Which.
        form: UnicodeForm,
    },
    /// Makes e-mail addresses canonical ([`crm_core::customer::EmailAddress`]).
    Email {
        /// Where.
        columns: Columns,
        /// What becomes of text that is no address.
        #[serde(default)]
        unreadable: Unreadable,
    },
    /// Makes phone numbers canonical, E.164 ([`crm_core::customer::PhoneNumber`]).
    Phone {
        /// Where.
        columns: Columns,
        /// The country of numbers without a prefix, ISO 3166-1 alpha-2; such numbers cannot be read without.
        #[serde(default)]
        region: Option<String>,
        /// What becomes of text that is no number.
        #[serde(default)]
        unreadable: Unreadable,
    },
    /// Reads text as numbers the way people write them: thousands grouped, a currency sign or code in front or behind, a
    /// minus on either side or brackets around. Groups must be of three digits: what could be read in two ways becomes
    /// missing, and is counted.
    Number {
        /// Where.
        columns: Columns,
        /// What stands before the fraction.
        decimal: Decimal,
    },
    /// Reads text as instants the way people write them: `31.12.2026`, `12/31/26 5:30 pm`, `31 Dec 2026`; in UTC. Years of
    /// two digits are 1969 to 2068, as POSIX says. A day that does not exist becomes missing, and is counted.
    Date {
        /// Where.
        columns: Columns,
        /// What comes first.
        order: DateOrder,
    },
    /// Folds categories: synonyms into one, rare ones and those never seen into another.
    Fold {
        /// Where: text.
        columns: Columns,
        /// What is written in place of what.
        #[serde(default)]
        synonyms: BTreeMap<String, String>,
        /// Categories rarer than this are folded; 0 for no such limit.
        #[serde(default)]
        min_count: usize,
        /// Only the most frequent ones stay.
        #[serde(default)]
        max_categories: Option<usize>,
        /// What rare and unseen ones become.
        #[serde(default = "other")]
        other: String,
    },
    /// Adds a column `x_missing` of true and false that says where `x` has no value.
    Indicate {
        /// Which; [`Columns::All`] means those in which something is missing.
        columns: Columns,
    },
    /// Finds numbers far from the others.
    Outliers {
        /// Where.
        columns: Columns,
        /// Which.
        rule: OutlierRule,
        /// What becomes of them.
        action: OutlierAction,
    },
    /// Leaves out rows with the same key as another. A row without any part of the key is kept: nothing says whose it is.
    Deduplicate {
        /// The key: text, bools, integers, floats, instants; UUIDs cannot be part of it.
        by: Columns,
        /// Which row stays.
        #[serde(default)]
        keep: Keep,
    },
    /// Makes a column of others; in the place of one of the same name, if there is one.
    Derive {
        /// Its name.
        column: String,
        /// Of what.
        from: Expr,
    },
    /// Leaves out the rows for which a condition does not hold, or cannot be told because something is missing.
    KeepRows {
        /// The condition.
        when: Expr,
    },
    /// Leaves columns out.
    Drop {
        /// Which.
        columns: Columns,
    },
    /// Renames a column.
    Rename {
        /// From.
        from: String,
        /// To.
        to: String,
    },
}

impl Step {
    /// The step's name, as written in a plan.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fill { .. } => "fill",
            Self::Trim { .. } => "trim",
            Self::Case { .. } => "case",
            Self::Cast { .. } => "cast",
            Self::Dummies { .. } => "dummies",
            Self::Clip { .. } => "clip",
            Self::Log1p { .. } => "log1p",
            Self::Standardise { .. } => "standardise",
            Self::Squeeze { .. } => "squeeze",
            Self::Unicode { .. } => "unicode",
            Self::Email { .. } => "email",
            Self::Phone { .. } => "phone",
            Self::Number { .. } => "number",
            Self::Date { .. } => "date",
            Self::Fold { .. } => "fold",
            Self::Indicate { .. } => "indicate",
            Self::Outliers { .. } => "outliers",
            Self::Deduplicate { .. } => "deduplicate",
            Self::Derive { .. } => "derive",
            Self::KeepRows { .. } => "keep_rows",
            Self::Drop { .. } => "drop",
            Self::Rename { .. } => "rename",
        }
    }
}

fn other() -> String {
    "other".to_owned()
}
