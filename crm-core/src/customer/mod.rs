//! The customer: who they are, how to reach them, where it is known from.
//!
//! ```
//! use crm_core::customer::{Draft, EmailAddress, PersonName, Provenance};
//! use crm_core::Timestamp;
//!
//! let mut draft = Draft::new(Provenance::new("shop-site", Timestamp::EPOCH));
//! draft.name = Some(PersonName::new("Ana", "Kask"));
//! draft.emails.push("ana@example.com".into());
//! assert!(draft.is_identified());
//! assert_eq!(EmailAddress::parse(" Ana@Example.COM ").unwrap().as_str(), "ana@example.com");
//! ```

mod contact;
mod draft;
mod entity;

pub use contact::{
    Address, ContactKind, ContactPoint, ContactPointId, ContactState, Deliverability, EmailAddress,
    PhoneNumber,
};
pub use draft::{Draft, InteractionDraft, OrderDraft};
pub use entity::{AFFILIATION, CONTACT_POINT, CUSTOMER, CUSTOMER_ALIAS, EXTERNAL_REF};

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Id, Result, Timestamp, record::Version};

/// The id of a customer.
pub type CustomerId = Id<Customer>;

/// A person's name in parts. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PersonName {
    /// Given name(s), as the person writes them.
    pub given: String,
    /// Family name(s).
    pub family: String,
    /// The whole name as shown; made of the parts when empty.
    pub display: String,
}

impl PersonName {
    /// A name in two parts, blanks trimmed and squeezed.
    pub fn new(given: &str, family: &str) -> Self {
        Self {
            given: squeeze(given),
            family: squeeze(family),
            display: String::new(),
        }
    }

    /// A whole name that is not split: kept as it is; what stands before the last blank counts as given name.
    pub fn whole(text: &str) -> Self {
        let display = squeeze(text);
        let (given, family) = display.rsplit_once(' ').unwrap_or((display.as_str(), ""));
        Self {
            given: given.to_owned(),
            family: family.to_owned(),
            display: display.clone(),
        }
    }

    /// The whole name.
    pub fn full(&self) -> String {
        if self.display.is_empty() {
            squeeze(&format!("{} {}", self.given, self.family))
        } else {
            self.display.clone()
        }
    }

    /// True when nothing is known.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty() && self.family.is_empty() && self.display.is_empty()
    }
}

impl fmt::Debug for PersonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PersonName(..)")
    }
}

/// Trims and makes every run of blanks (also no-break ones) a single blank.
pub(crate) fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A postal address. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PostalAddress {
    /// Street lines, house number included.
    pub lines: Vec<String>,
    /// City, suburb or village.
    pub city: String,
    /// State, province or region.
    pub region: String,
    /// Postal code, as text: leading zeros count.
    pub postal_code: String,
    /// ISO 3166-1 alpha-2, upper case; empty when unknown.
    pub country: String,
}

impl PostalAddress {
    /// True when nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Debug for PostalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostalAddress(..)")
    }
}

/// What the host knows besides: names to JSON values, kept with the customer and open to filters as
/// `attributes.<name>`. `Debug` shows the names only.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attributes(BTreeMap<String, serde_json::Value>);

impl Attributes {
    /// Sets one attribute; `null` removes it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the name is not 1 to 64 of `a-z`, `0-9`, `_`, a letter first.
    pub fn set(&mut self, name: &str, value: impl Into<serde_json::Value>) -> Result<()> {
        let ok = (1..=64).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !ok {
            return Err(Error::invalid(
                "an attribute is named with 1 to 64 of a-z, 0-9 and _, a letter first",
            )
            .with("field", name));
        }
        match value.into() {
            serde_json::Value::Null => {
                self.0.remove(name);
            }
            value => {
                self.0.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }

    /// One attribute.
    pub fn get(&self, name: &str) -> Option<&serde_json::Value> {
        self.0.get(name)
    }
    /// All attributes, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &serde_json::Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
    /// Takes over what `other` knows; its values win.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }
    /// The number of attributes.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// True without attributes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Where something is known from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The collector, import or part of the host that said so.
    pub source: String,
    /// The page or file, as far as there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The line in the file, or the item on the page (1 is the first).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// When it was seen.
    pub observed_at: Timestamp,
    /// How sure the source is, in percent; nothing said when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<u8>,
}

impl Provenance {
    /// Known from `source` since `observed_at`.
    pub fn new(source: impl Into<String>, observed_at: Timestamp) -> Self {
        Self {
            source: source.into(),
            location: None,
            line: None,
            observed_at,
            confidence: None,
        }
    }
    /// Adds the page or file.
    #[must_use]
    pub fn at(mut self, location: impl Into<String>) -> Self {
        self.location = Some(location.into());
        self
    }
    /// Says how sure the source is, in percent (at most 100).
    #[must_use]
    pub fn confidence(mut self, percent: u8) -> Self {
        self.confidence = Some(percent.min(100));
        self
    }
    /// Adds the line or item.
    #[must_use]
    pub fn line(mut self, line: u64) -> Self {
        self.line = Some(line);
        self
    }
}

/// The customer's id in another system. Many per customer; each belongs to one customer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExternalRef {
    /// The other system: `shop`, `erp`, `demo-site`.
    pub system: String,
    /// The id there.
    pub id: String,
}

impl ExternalRef {
    /// The id `id` in `system`.
    pub fn new(system: impl Into<String>, id: impl Into<String>) -> Self {
        Self {
            system: system.into(),
            id: id.into(),
        }
    }

    /// Checks that both parts are there.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the part.
    pub fn validate(&self) -> Result<()> {
        for (field, text) in [("external.system", &self.system), ("external.id", &self.id)] {
            if text.trim().is_empty() || text.len() > 255 || text.contains('\0') {
                return Err(Error::invalid(
                    "an external reference has a system and an id of 1 to 255 characters",
                )
                .with("field", field));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ExternalRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExternalRef({}, ..)", self.system)
    }
}

/// A person the host does business with, as one aggregate: profile, contact points and external references.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Customer {
    /// Its id.
    pub id: CustomerId,
    /// How often the profile was written; an update names the version it was based on.
    pub version: Version,
    /// The name.
    pub name: PersonName,
    /// E-mail addresses and phone numbers, each with its own state.
    pub contact_points: Vec<ContactPoint>,
    /// Postal addresses, the main one first.
    pub addresses: Vec<PostalAddress>,
    /// Ids in other systems.
    pub external_refs: Vec<ExternalRef>,
    /// Labels set by the host.
    pub tags: Vec<String>,
    /// What else is known.
    pub attributes: Attributes,
    /// Where it is known from, one entry a source, the newest observation each.
    pub provenance: Vec<Provenance>,
    /// Where single fields are known from, as far as it differs from the only source there is: `name`, `addresses`,
    /// `attributes.plan`. Read it through [`Customer::source_of`].
    pub known_from: BTreeMap<String, Provenance>,
    /// When it was first stored.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Customer {
    /// The e-mail address to write to: the primary one, else the first that is not known to be dead.
    pub fn email(&self) -> Option<&ContactPoint> {
        self.best(ContactKind::Email)
    }

    /// The phone number to call or text: the primary one, else the first that is not known to be dead.
    pub fn phone(&self) -> Option<&ContactPoint> {
        self.best(ContactKind::Phone)
    }

    /// Who said a field (`name`, `addresses`, `attributes.plan`): noted for the field, or the only source of all.
    pub fn source_of(&self, field: &str) -> Option<&Provenance> {
        self.known_from.get(field).or(match self.provenance.as_slice() {
            [only] => Some(only),
            _ => None,
        })
    }

    fn best(&self, kind: ContactKind) -> Option<&ContactPoint> {
        let usable = |c: &&ContactPoint| c.kind() == kind && c.state != ContactState::Invalid;
        self.contact_points
            .iter()
            .filter(usable)
            .max_by_key(|c| c.primary)
    }
}
