use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Attributes, ExternalRef, PersonName, PostalAddress, Provenance};
use crate::Timestamp;
use crate::activity::Money;

/// What a collector found about one person, not yet normalised, validated or matched. Addresses are raw text: the
/// upsert reads them, and what it cannot read is rejected by field. `Debug` shows no values.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// Where it was found.
    pub provenance: Provenance,
    /// The name, if known.
    #[serde(default)]
    pub name: Option<PersonName>,
    /// E-mail addresses, as found, the main one first.
    #[serde(default)]
    pub emails: Vec<String>,
    /// Phone numbers, as found, the main one first.
    #[serde(default)]
    pub phones: Vec<String>,
    /// Where phone numbers without a country code are dialled (ISO 3166-1 alpha-2).
    #[serde(default)]
    pub phone_region: Option<String>,
    /// Postal addresses.
    #[serde(default)]
    pub addresses: Vec<PostalAddress>,
    /// Ids in other systems.
    #[serde(default)]
    pub external_refs: Vec<ExternalRef>,
    /// Labels.
    #[serde(default)]
    pub tags: Vec<String>,
    /// What else was found.
    #[serde(default)]
    pub attributes: Attributes,
    /// Purchases found with the person.
    #[serde(default)]
    pub orders: Vec<OrderDraft>,
    /// Other events found with the person.
    #[serde(default)]
    pub interactions: Vec<InteractionDraft>,
}

impl Draft {
    /// An empty draft found at `provenance`.
    pub fn new(provenance: Provenance) -> Self {
        Self {
            provenance,
            name: None,
            emails: Vec::new(),
            phones: Vec::new(),
            phone_region: None,
            addresses: Vec::new(),
            external_refs: Vec::new(),
            tags: Vec::new(),
            attributes: Attributes::default(),
            orders: Vec::new(),
            interactions: Vec::new(),
        }
    }

    /// Whether there is anything to recognise the person by: an external reference, e-mail address or phone number.
    pub fn is_identified(&self) -> bool {
        !(self.external_refs.is_empty() && self.emails.is_empty() && self.phones.is_empty())
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("provenance", &self.provenance)
            .field("emails", &self.emails.len())
            .field("phones", &self.phones.len())
            .field("external_refs", &self.external_refs.len())
            .field("orders", &self.orders.len())
            .field("interactions", &self.interactions.len())
            .finish_non_exhaustive()
    }
}

/// A purchase found with a person.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OrderDraft {
    /// Its id at the source: the same order taken in twice is kept once.
    pub event_id: String,
    /// When it was made.
    pub at: Timestamp,
    /// What was paid.
    pub total: Money,
    /// How many things were bought.
    pub items: i64,
}

/// An event found with a person.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct InteractionDraft {
    /// Its id at the source: the same event taken in twice is kept once.
    pub event_id: String,
    /// When it happened.
    pub at: Timestamp,
    /// What it was: `visit`, `call`, `ticket`.
    pub kind: String,
    /// What else is known.
    #[serde(default)]
    pub data: Attributes,
}
