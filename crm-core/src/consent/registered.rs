//! Purposes on record.

use crate::query::Filter;
use crate::record::{Entity, Field, FieldType, Index, Record, Schema, Stored, Value, Write};
use crate::{Context, Error, Result, Timestamp, Uuid};

use super::key::named_id;
use super::{Gate, LegalBasis, Purpose, PurposeClass};

/// A purpose on record, with the words that tell people what it is. A new version for new words; class and basis never
/// change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredPurpose {
    /// The purpose.
    pub purpose: Purpose,
    /// Counts the words, from 1.
    pub version: i64,
    /// What it is, for the person: shown on a preference page, named as proof.
    pub policy: String,
    /// Since when.
    pub created_at: Timestamp,
}

/// How a [`RegisteredPurpose`] is stored: a record a version.
pub static PURPOSE: Schema = Schema {
    name: "crm_purpose",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("policy_version", FieldType::Int),
        Field::new("class", FieldType::Text),
        Field::new("legal_basis", FieldType::Text),
        Field::new("double_opt_in", FieldType::Bool),
        Field::new("policy", FieldType::Text),
        Field::new("created_at", FieldType::Timestamp),
    ],
    indexes: &[Index::unique("crm_purpose_name", &["name", "policy_version"])],
};

impl Entity for RegisteredPurpose {
    fn schema() -> &'static Schema {
        &PURPOSE
    }
    fn record_id(&self) -> Uuid {
        named_id(&["purpose", &self.purpose.name, &self.version.to_string()])
    }
    fn to_record(&self) -> Result<Record> {
        Record::from_values(
            &PURPOSE,
            vec![
                self.purpose.name.as_str().into(),
                self.version.into(),
                self.purpose.class.as_str().into(),
                self.purpose.legal_basis.as_str().into(),
                Value::Bool(self.purpose.double_opt_in),
                self.policy.as_str().into(),
                self.created_at.into(),
            ],
        )
    }
    fn from_stored(stored: Stored) -> Result<Self> {
        let r = &stored.record;
        Ok(Self {
            purpose: Purpose {
                name: r.text("name")?.to_owned(),
                class: PurposeClass::parse(r.text("class")?).ok_or_else(|| r.damaged("class"))?,
                legal_basis: LegalBasis::parse(r.text("legal_basis")?)
                    .ok_or_else(|| r.damaged("legal_basis"))?,
                double_opt_in: r.bool("double_opt_in")?,
            },
            version: r.int("policy_version")?,
            policy: r.text("policy")?.to_owned(),
            created_at: r.timestamp("created_at")?,
        })
    }
}

impl RegisteredPurpose {
    /// What is wrong with a purpose that says it is this one: another class or basis.
    pub(super) fn mismatch(&self, asked: &Purpose) -> Option<(&'static str, &'static str, &'static str)> {
        let known = &self.purpose;
        if asked.class != known.class {
            return Some(("purpose.class", known.class.as_str(), asked.class.as_str()));
        }
        if asked.legal_basis != known.legal_basis {
            let basis = (known.legal_basis.as_str(), asked.legal_basis.as_str());
            return Some(("purpose.legal_basis", basis.0, basis.1));
        }
        None
    }

    fn check(&self, asked: &Purpose) -> Result<()> {
        match self.mismatch(asked) {
            None => Ok(()),
            Some((field, registered, asked_as)) => Err(Error::invalid(
                "a purpose on record keeps its class and legal basis; take another name for another purpose",
            )
            .with("field", field)
            .with("purpose", &asked.name)
            .with("registered", registered)
            .with("asked", asked_as)),
        }
    }
}

impl Gate {
    /// Puts a purpose on record, with the words that tell people what it is. From then on its class and legal basis hold,
    /// whatever a caller says. The same words again change nothing; new words are a new version.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a bad name, no words, or another class or basis than the one on record;
    /// [`crate::ErrorKind::Conflict`] when somebody registers it at the same moment; those of the store.
    pub async fn register_purpose(
        &self,
        ctx: &Context,
        purpose: &Purpose,
        policy: &str,
    ) -> Result<RegisteredPurpose> {
        purpose.validate()?;
        if policy.trim().is_empty() {
            return Err(Error::invalid("say in words what the purpose is").with("field", "policy"));
        }
        let known = self
            .latest(ctx, Filter::eq("name", purpose.name.as_str()))
            .await?
            .pop();
        if let Some(known) = &known {
            known.check(purpose)?;
            if known.policy == policy && known.purpose == *purpose {
                return Ok(known.clone());
            }
        }
        let made = RegisteredPurpose {
            purpose: purpose.clone(),
            version: known.map_or(1, |known| known.version + 1),
            policy: policy.to_owned(),
            created_at: self.clock.now(),
        };
        let write = Write::insert(made.record_id(), made.to_record()?);
        self.store.apply(ctx, &[write]).await?;
        Ok(made)
    }

    /// The purposes on record, each with its newest words, by name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn purposes(&self, ctx: &Context) -> Result<Vec<RegisteredPurpose>> {
        self.latest(ctx, Filter::All).await
    }

    /// The purpose as it is on record; as it was given when it is not.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a bad name, or for another class or basis than the one on record; those of the
    /// store.
    pub async fn purpose(&self, ctx: &Context, purpose: &Purpose) -> Result<Purpose> {
        purpose.validate()?;
        match self
            .latest(ctx, Filter::eq("name", purpose.name.as_str()))
            .await?
            .pop()
        {
            None if self.rules.registered_purposes_only => Err(unregistered().with("purpose", &purpose.name)),
            None => Ok(purpose.clone()),
            Some(known) => known.check(purpose).map(|()| known.purpose),
        }
    }

    pub(super) async fn latest(&self, ctx: &Context, filter: Filter) -> Result<Vec<RegisteredPurpose>> {
        let mut all: Vec<RegisteredPurpose> = self.all(ctx, filter).await?;
        all.sort_by(|a, b| (&a.purpose.name, b.version).cmp(&(&b.purpose.name, a.version)));
        all.dedup_by(|later, first| later.purpose.name == first.purpose.name);
        Ok(all)
    }
}

fn unregistered() -> Error {
    Error::invalid("only purposes on record may be used; put it there with Gate::register_purpose")
        .with("field", "purpose")
}
