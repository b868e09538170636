//! Which records name a customer, and what a merge does with them.

use crm_core::activity::{INTERACTION, ORDER};
use crm_core::consent::{CONSENT_EVENT, OPT_IN, SEND_COUNT};
use crm_core::customer::{CONTACT_POINT, CUSTOMER_ALIAS, EXTERNAL_REF};
use crm_core::query::Filter;
use crm_core::record::{FieldType, Privacy, Schema};
use crm_core::score::SCORE;
use crm_core::segment::{SEGMENT_MEMBER, SEGMENT_OVERRIDE};
use crm_core::{Error, Result};

use super::super::{AFFILIATION, ATTRIBUTE, IMPORT_ROW};
use super::journal::{DISTINCT_PAIR, MERGE, MERGE_IMAGE};
use crate::segments::SEGMENT_EVENT;

/// What a merge does with the records that name a merged customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// They name the surviving customer from then on. One that the survivor has already (by a unique index of the
    /// schema) is dropped, and comes back with an undo.
    Move,
    /// They stay as they are, as proof or history; the old id still resolves to the survivor.
    Keep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Customer,
    ContactPoint,
}

/// A field that names a customer or a contact point.
#[derive(Debug, Clone)]
pub struct Reference {
    pub(in super::super) schema: &'static Schema,
    pub(super) field: &'static str,
    pub(super) target: Target,
    pub(super) rule: Rule,
    pub(super) busy: Option<Filter>,
}

impl Reference {
    /// The UUID field `field` of `schema` names a customer.
    pub fn customer(schema: &'static Schema, field: &'static str, rule: Rule) -> Self {
        Self {
            schema,
            field,
            target: Target::Customer,
            rule,
            busy: None,
        }
    }

    /// The UUID field `field` of `schema` names a contact point. It follows when two customers had the same address and
    /// one contact point of it is left.
    pub fn contact_point(schema: &'static Schema, field: &'static str) -> Self {
        Self {
            schema,
            field,
            target: Target::ContactPoint,
            rule: Rule::Move,
            busy: None,
        }
    }

    /// While a merged customer has records that match, somebody is working with them and the merge is refused for the
    /// moment: a message that is being sent.
    #[must_use]
    pub fn busy_while(mut self, filter: Filter) -> Self {
        self.busy = Some(filter);
        self
    }
}

/// Every field known to name a customer. A merge refuses when records of any other schema name a customer that would go
/// away: nothing is left behind unseen.
///
/// ```
/// use crm_core::record::{Field, FieldType, Index, Schema};
/// use crm_store::customers::{Reference, References, Rule};
///
/// static TICKET: Schema = Schema {
///     name: "ticket",
///     fields: &[
///         Field::new("customer_id", FieldType::Uuid).pseudonym(),
///         Field::new("title", FieldType::Text).personal(),
///     ],
///     indexes: &[Index::new("ticket_customer", &["customer_id"])],
/// };
/// let references = References::core()
///     .with(Reference::customer(&TICKET, "customer_id", Rule::Move))
///     .unwrap();
/// assert!(references.knows("ticket", "customer_id"));
/// assert!(References::core().with(Reference::customer(&TICKET, "owner", Rule::Move)).is_err());
/// ```
#[derive(Debug, Clone)]
pub struct References {
    known: Vec<Reference>,
    watched: Vec<&'static Schema>,
}

impl References {
    /// Those of customers themselves: timeline, contact points, external references, memberships, consent, organisations.
    pub fn core() -> Self {
        let moved = |schema, field| Reference::customer(schema, field, Rule::Move);
        let kept = |schema, field| Reference::customer(schema, field, Rule::Keep);
        Self {
            known: vec![
                moved(&CONTACT_POINT, "customer_id"),
                moved(&EXTERNAL_REF, "customer_id"),
                moved(&ORDER, "customer_id"),
                moved(&INTERACTION, "customer_id"),
                moved(&SEGMENT_MEMBER, "customer_id"),
                moved(&SEGMENT_OVERRIDE, "customer_id"),
                kept(&SEGMENT_EVENT, "customer_id"),
                moved(&CUSTOMER_ALIAS, "customer_id"),
                kept(&CONSENT_EVENT, "customer_id"),
                // The gate reads them under the ids a customer had.
                kept(&OPT_IN, "customer_id"),
                kept(&SEND_COUNT, "customer_id"),
                moved(&AFFILIATION, "customer_id"),
                moved(&SCORE, "customer_id"),
                // Follows the profile by itself.
                kept(&ATTRIBUTE, "customer_id"),
                kept(&IMPORT_ROW, "customer_id"),
                kept(&MERGE, "winner_id"),
                kept(&MERGE_IMAGE, "record_id"),
                kept(&DISTINCT_PAIR, "low_id"),
                kept(&DISTINCT_PAIR, "high_id"),
            ],
            watched: Vec::new(),
        }
    }

    /// Adds one; a field that is known already gets the new rule.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] when the schema has no such UUID field.
    pub fn with(mut self, reference: Reference) -> Result<Self> {
        match reference.schema.field(reference.field) {
            Some((_, field)) if field.ty == FieldType::Uuid => {}
            _ => {
                return Err(Error::config("a reference is a UUID field of its schema")
                    .with("schema", reference.schema.name)
                    .with("field", reference.field));
            }
        }
        self.known
            .retain(|known| (known.schema.name, known.field) != (reference.schema.name, reference.field));
        self.known.push(reference);
        Ok(self)
    }

    /// Adds a schema that is looked at although the store does not name it (see
    /// [`crm_core::capability::RecordStore::schemas`]): one that another process makes room for.
    #[must_use]
    pub fn watch(mut self, schema: &'static Schema) -> Self {
        self.watched.push(schema);
        self
    }

    /// Whether this field of this schema is declared.
    pub fn knows(&self, schema: &str, field: &str) -> bool {
        self.known
            .iter()
            .any(|known| known.schema.name == schema && known.field == field)
    }

    pub(in super::super) fn all(&self) -> &[Reference] {
        &self.known
    }

    /// The fields that may name a customer without being declared, of the schemas in the store and those watched.
    pub(super) fn undeclared(
        &self,
        stored: Vec<&'static Schema>,
    ) -> impl Iterator<Item = (&'static Schema, &'static str)> {
        let mut fields: Vec<(&'static Schema, &'static str)> = Vec::new();
        for schema in stored.into_iter().chain(self.watched.iter().copied()) {
            for field in schema.fields {
                let suspicious = field.ty == FieldType::Uuid
                    && (field.privacy == Privacy::Pseudonym || field.name.contains("customer"));
                let seen = fields
                    .iter()
                    .any(|(known, name)| known.name == schema.name && *name == field.name);
                if suspicious && !seen && !self.knows(schema.name, field.name) {
                    fields.push((schema, field.name));
                }
            }
        }
        fields.into_iter()
    }
}

impl Default for References {
    fn default() -> Self {
        Self::core()
    }
}
