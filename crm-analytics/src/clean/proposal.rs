//! What a cleaning would change in the store, customer by customer, and carrying it out.

use std::fmt;

use crm_core::capability::{EditRun, Edited, ProfileEdit, ProfileField, ProfileWriter};
use crm_core::record::{Value, Version};
use crm_core::{Column, Context, CustomerId, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{CleaningReport, FittedCleaning, Profiles};
use crate::privacy::AudienceReport;

/// Customers named when they were not written.
const NAMED: usize = 1_000;
/// Whole numbers up to here are the same as floats and as integers.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// What becomes of values that the cleaning made missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blanks {
    /// They stay in the store as they are, and are counted: what could not be read may still tell a person something.
    #[default]
    Keep,
    /// They are taken away.
    Write,
}

/// Which changes are proposed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposalOptions {
    /// The columns that are written back, named as fields of the profile; columns that the cleaning made (`derive`) can be
    /// among them. `None`: those that were read and are still there.
    #[serde(default)]
    pub fields: Option<Vec<ProfileField>>,
    /// What becomes of values that the cleaning made missing.
    #[serde(default)]
    pub blanks: Blanks,
}

/// One field of one customer. `Debug` shows no values.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ProposedField {
    /// The field.
    pub field: ProfileField,
    /// What was read; null when there was nothing, or the column is a new one.
    pub before: Json,
    /// What it becomes; null takes it away.
    pub after: Json,
}

impl fmt::Debug for ProposedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProposedField({})", self.field)
    }
}

/// What one customer becomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProposedEdit {
    /// Whose.
    pub customer: CustomerId,
    /// The version that was looked at.
    pub version: Version,
    /// What is changed; at least one field.
    pub fields: Vec<ProposedField>,
}

/// What is proposed of one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldCount {
    /// The field.
    pub field: ProfileField,
    /// How many customers get another value.
    pub changed: usize,
    /// How many would lose a value that stays ([`Blanks::Keep`]).
    pub kept: usize,
}

/// What a cleaning would change in the store. Plain data: to be looked at, kept, and carried out later, since every edit
/// knows the version it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CleaningProposal {
    /// The customers looked at.
    pub customers: usize,
    /// The customers that the cleaning left out as rows (duplicates, `keep_rows`): nothing is proposed for them.
    pub left_out: usize,
    /// By field.
    pub fields: Vec<FieldCount>,
    /// Who would be changed, in the order read.
    pub edits: Vec<ProposedEdit>,
    /// Who may not be looked at, when the profiles were read for a purpose.
    pub audience: Option<AudienceReport>,
    /// What each step did.
    pub cleaning: CleaningReport,
}

impl FittedCleaning {
    /// Cleans profiles and says what would have to be changed in the store. Changes nothing.
    ///
    /// # Errors
    /// As [`FittedCleaning::apply`]; [`crm_core::ErrorKind::Invalid`] naming a field that is to be written back but is no
    /// column after the cleaning.
    pub fn propose(&self, profiles: &Profiles, options: &ProposalOptions) -> Result<CleaningProposal> {
        self.proposed(profiles, options)
            .map_err(|error| error.operation("clean.propose"))
    }

    fn proposed(&self, profiles: &Profiles, options: &ProposalOptions) -> Result<CleaningProposal> {
        let (table, cleaning) = self.apply(&profiles.table)?;
        let fields: Vec<ProfileField> = match &options.fields {
            Some(fields) => fields.clone(),
            None => profiles
                .fields
                .iter()
                .filter(|field| table.column(&field.to_string()).is_ok())
                .cloned()
                .collect(),
        };
        let mut counts: Vec<FieldCount> = fields
            .iter()
            .map(|field| FieldCount {
                field: field.clone(),
                changed: 0,
                kept: 0,
            })
            .collect();
        let kept = cleaning.kept();
        let mut edits: Vec<ProposedEdit> = Vec::new();
        let columns = fields
            .iter()
            .map(|field| {
                let name = field.to_string();
                let read = profiles.fields.iter().position(|read| read == field);
                let before = read.and_then(|at| Some((at, profiles.table.column(&name).ok()?)));
                Ok((field, before, table.column(&name)?))
            })
            .collect::<Result<Vec<(&ProfileField, Option<(usize, &Column)>, &Column)>>>()?;
        for (after_row, before_row) in kept.iter().enumerate() {
            let mut changed = Vec::new();
            for ((field, before, after), count) in columns.iter().zip(&mut counts) {
                let old = before.map_or(Value::Null, |(_, column)| column.value(*before_row));
                let new = after.value(after_row);
                if same(&old, &new) {
                    continue;
                }
                if new.is_null() && options.blanks == Blanks::Keep {
                    count.kept += 1;
                    continue;
                }
                let written_out = before.and_then(|(at, _)| profiles.written_out.get(&(*before_row, at)));
                let (before, after) = match written_out {
                    Some(json) => (json.clone(), json_of(new, field)?),
                    None => (json_of(old, field)?, json_of(new, field)?),
                };
                if before == after || (before.as_f64().is_some() && before.as_f64() == after.as_f64()) {
                    continue;
                }
                count.changed += 1;
                changed.push(ProposedField {
                    field: (*field).clone(),
                    before,
                    after,
                });
            }
            if let (false, Some(customer), Some(version)) = (
                changed.is_empty(),
                profiles.ids.get(*before_row),
                profiles.versions.get(*before_row),
            ) {
                edits.push(ProposedEdit {
                    customer: *customer,
                    version: *version,
                    fields: changed,
                });
            }
        }
        Ok(CleaningProposal {
            customers: profiles.ids.len(),
            left_out: profiles.ids.len() - kept.len(),
            fields: counts,
            edits,
            audience: profiles.audience.clone(),
            cleaning,
        })
    }
}

/// Whether two values of columns are the same thing; numbers by their value, whatever type they are of.
fn same(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => {
            before == after || before.as_f64() == after.as_f64()
        }
        (before, after) => before == after,
    }
}

fn json_of(value: Value, field: &ProfileField) -> Result<Json> {
    let unfit =
        || Error::invalid("a value of this type cannot be written into a profile").with("field", field);
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(flag) => flag.into(),
        Value::Int(whole) => whole.into(),
        // JSON knows one kind of number: 3.0 is 3.
        Value::Float(number) if number.fract() == 0.0 && number.abs() < EXACT => (number as i64).into(),
        Value::Float(number) => serde_json::Number::from_f64(number)
            .map(Json::Number)
            .ok_or_else(unfit)?,
        Value::Text(text) => text.into(),
        Value::Timestamp(at) => at.to_string().into(),
        _ => return Err(unfit()),
    })
}

/// What carrying out a proposal did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Applied {
    /// Customers who were changed (would be, in a dry run).
    pub written: usize,
    /// Customers whom an earlier call of the same run had changed.
    pub repeated: usize,
    /// Customers who were so already.
    pub unchanged: usize,
    /// Customers who were changed by others since they were read.
    pub changed_since: usize,
    /// Customers who are gone, or were merged into others.
    pub gone: usize,
    /// Customers whose new values cannot be stored.
    pub refused: usize,
    /// Who was not written, and why; up to 1,000 of them.
    pub not_written: Vec<(CustomerId, Edited)>,
}

impl CleaningProposal {
    /// The proposal as edits.
    pub fn edits(&self) -> Vec<ProfileEdit> {
        let edit = |one: &ProposedEdit| ProfileEdit {
            customer: one.customer,
            expected: one.version,
            fields: one
                .fields
                .iter()
                .map(|field| (field.field.clone(), field.after.clone()))
                .collect(),
        };
        self.edits.iter().map(edit).collect()
    }

    /// Carries the proposal out as one named run, which can be undone ([`ProfileWriter::undo`]). Safe to repeat.
    ///
    /// # Errors
    /// As [`ProfileWriter::edit`]. A customer who cannot be changed is no error, but told.
    pub async fn apply(&self, ctx: &Context, writer: &dyn ProfileWriter, run: &EditRun) -> Result<Applied> {
        let done = writer.edit(ctx, run, &self.edits()).await?;
        let mut applied = Applied::default();
        for (edit, done) in self.edits.iter().zip(done) {
            match done {
                Edited::Written(_) => applied.written += 1,
                Edited::Repeated => applied.repeated += 1,
                Edited::Unchanged => applied.unchanged += 1,
                other => {
                    match other {
                        Edited::ChangedSince(_) => applied.changed_since += 1,
                        Edited::Gone | Edited::Merged(_) => applied.gone += 1,
                        _ => applied.refused += 1,
                    }
                    if applied.not_written.len() < NAMED {
                        applied.not_written.push((edit.customer, other));
                    }
                }
            }
        }
        Ok(applied)
    }
}
