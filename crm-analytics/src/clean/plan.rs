//! The plan: steps in order, written as data or one call after the other.

use crm_core::{Result, Table};
use serde::{Deserialize, Serialize};

use super::frame::Frame;
use super::{
    Bounds, Case, CastTo, CleaningReport, Columns, DateOrder, Decimal, Expr, Fill, FittedCleaning, Keep,
    OutlierAction, OutlierRule, Step, UnicodeForm, Unknown, Unreadable, learn, run,
};

/// Steps, in order. Plain data: write it as JSON, keep it with the host's settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CleaningPlan {
    /// The steps.
    pub steps: Vec<Step>,
}

impl CleaningPlan {
    /// A plan that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds a step.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
    /// Adds [`Step::Fill`].
    #[must_use]
    pub fn fill(self, columns: impl Into<Columns>, with: impl Into<Fill>) -> Self {
        self.then(Step::Fill {
            columns: columns.into(),
            with: with.into(),
        })
    }
    /// Adds [`Step::Trim`].
    #[must_use]
    pub fn trim(self, columns: impl Into<Columns>) -> Self {
        self.then(Step::Trim {
            columns: columns.into(),
        })
    }
    /// Adds [`Step::Case`].
    #[must_use]
    pub fn case(self, columns: impl Into<Columns>, to: Case) -> Self {
        self.then(Step::Case {
            columns: columns.into(),
            to,
        })
    }
    /// Adds [`Step::Cast`].
    #[must_use]
    pub fn cast(self, columns: impl Into<Columns>, to: CastTo) -> Self {
        self.then(Step::Cast {
            columns: columns.into(),
            to,
        })
    }
    /// Adds [`Step::Dummies`] with every category.
    #[must_use]
    pub fn dummies(self, columns: impl Into<Columns>) -> Self {
        self.then(Step::Dummies {
            columns: columns.into(),
            drop_first: false,
            max_categories: None,
            min_count: 0,
            missing: false,
            unknown: Unknown::Accept,
        })
    }
    /// Adds [`Step::Clip`].
    #[must_use]
    pub fn clip(self, columns: impl Into<Columns>, bounds: Bounds) -> Self {
        self.then(Step::Clip {
            columns: columns.into(),
            bounds,
        })
    }
    /// Adds [`Step::Log1p`].
    #[must_use]
    pub fn log1p(self, columns: impl Into<Columns>) -> Self {
        self.then(Step::Log1p {
            columns: columns.into(),
        })
    }
    /// Adds [`Step::Standardise`].
    #[must_use]
    pub fn standardise(self, columns: impl Into<Columns>) -> Self {
        self.then(Step::Standardise {
            columns: columns.into(),
        })
    }
    /// Adds [`Step::Squeeze`].
    #[must_use]
    pub fn squeeze(self, columns: impl Into<Columns>) -> Self {
        self.then(Step::Squeeze {
            columns: columns.into(),
        })
    }
    /// Adds [`Step::Unicode`].
    #[must_use]
    pub fn unicode(self, columns: impl Into<Columns>, form: UnicodeForm) -> Self {
        self.then(Step::Unicode {
            columns: columns.into(),
            form,
        })
    }
    /// Adds [`Step::Email`]; what is no address becomes missing.
    #[must_use]
    pub fn email(self, columns: impl Into<Columns>) -> Self {
        self.then(Step::Email {
            columns: columns.into(),
            unreadable: Unreadable::Missing,
        })
    }
    /// Adds [`Step::Phone`]; what is no number becomes missing.
    #[must_use]
    pub fn phone(self, columns: impl Into<Columns>, region: Option<&str>) -> Self {
        self.then(Step::Phone {
            columns: columns.into(),
            region: region.map(str::to_owned),
            unreadable: Unreadable::Missing,
        })
    }
    /// Adds [`Step::Number`].
    #[must_use]
    pub fn number(self, columns: impl Into<Columns>, decimal: Decimal) -> Self {
        self.then(Step::Number {
            columns: columns.into(),
            decimal,
        })
    }
    /// Adds [`Step::Date`].
    #[must_use]
    pub fn date(self, columns: impl Into<Columns>, order: DateOrder) -> Self {
        self.then(Step::Date {
            columns: columns.into(),
            order,
        })
    }
    /// Adds [`Step::Indicate`].
    #[must_use]
    pub fn indicate(self, columns: impl Into<Columns>) -> Self {
        self.then(Step::Indicate {
            columns: columns.into(),
        })
    }
    /// Adds [`Step::Outliers`].
    #[must_use]
    pub fn outliers(self, columns: impl Into<Columns>, rule: OutlierRule, action: OutlierAction) -> Self {
        self.then(Step::Outliers {
            columns: columns.into(),
            rule,
            action,
        })
    }
    /// Adds [`Step::Deduplicate`].
    #[must_use]
    pub fn deduplicate(self, by: impl Into<Columns>, keep: Keep) -> Self {
        self.then(Step::Deduplicate { by: by.into(), keep })
    }
    /// Adds [`Step::Derive`].
    #[must_use]
    pub fn derive(self, column: impl Into<String>, from: impl Into<Expr>) -> Self {
        self.then(Step::Derive {
            column: column.into(),
            from: from.into(),
        })
    }
    /// Adds [`Step::KeepRows`].
    #[must_use]
    pub fn keep_rows(self, when: impl Into<Expr>) -> Self {
        self.then(Step::KeepRows { when: when.into() })
    }
    /// Adds [`Step::Drop`].
    #[must_use]
    pub fn drop(self, columns: impl Into<Columns>) -> Self {
        self.then(Step::Drop {
            columns: columns.into(),
        })
    }
    /// Adds [`Step::Rename`].
    #[must_use]
    pub fn rename(self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.then(Step::Rename {
            from: from.into(),
            to: to.into(),
        })
    }

    /// Learns what the steps need from `table` and cleans it. Rows stay in order, and as many unless a step leaves some out
    /// ([`CleaningReport::left_out`] says which). UUID columns pass through untouched; NaN counts as missing.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the step and column: a column that is not there (naming those there are)
    /// or has an unfitting type, nothing to learn a mean from, too many categories, a name given twice.
    pub fn fit(&self, table: &Table) -> Result<Cleaned> {
        let mut frame = Frame::read(table)?;
        let input = frame.columns().to_vec();
        let mut report = CleaningReport::begun(&frame);
        let mut ops = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            let place = |error: crm_core::Error| {
                error
                    .operation("clean.fit")
                    .with("step", step.name())
                    .with("position", at + 1)
            };
            // One column at a time: a later column of the same step sees what an earlier one made.
            for op in learn::ops(step, &frame).map_err(place)? {
                let counts = run::run(&op, &mut frame).map_err(place)?;
                report.lines.push(counts);
                ops.push(op);
            }
        }
        report.ended(&frame);
        let fitted = FittedCleaning { input, ops };
        Ok(Cleaned {
            fitted,
            table: frame.write()?,
            report,
        })
    }
}

/// What [`CleaningPlan::fit`] answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Cleaned {
    /// What was learned, to clean other rows alike.
    pub fitted: FittedCleaning,
    /// The cleaned rows.
    pub table: Table,
    /// What was changed.
    pub report: CleaningReport,
}
