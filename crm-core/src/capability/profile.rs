use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::customer::{Attributes, CustomerId, PostalAddress, Provenance};
use crate::record::{MAX_KEY_CHARS, Record, Stored, Value, Version};
use crate::{Context, Error, Result, Timestamp};

/// A field of a customer's profile that can be changed in bulk, written as [`crate::customer::CUSTOMER`] names it:
/// `given_name`, `city` (of the main address), `attributes.plan`. Keys by which people are recognised (addresses of
/// e-mail, phone numbers, external references) are not among them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum ProfileField {
    /// Given name(s).
    GivenName,
    /// Family name(s).
    FamilyName,
    /// The whole name as shown.
    DisplayName,
    /// The main address's city.
    City,
    /// The main address's region.
    Region,
    /// The main address's country, ISO 3166-1 alpha-2.
    Country,
    /// An attribute, by its name.
    Attribute(String),
}

impl ProfileField {
    const NAMED: [(&'static str, Self); 6] = [
        ("given_name", Self::GivenName),
        ("family_name", Self::FamilyName),
        ("display_name", Self::DisplayName),
        ("city", Self::City),
        ("region", Self::Region),
        ("country", Self::Country),
    ];

    fn column(&self) -> &'static str {
        let named = Self::NAMED.iter().find(|(_, field)| field == self);
        named.map_or("attributes", |(name, _)| name)
    }

    /// Under which key [`crate::customer::Customer::known_from`] notes who said it.
    pub fn told_under(&self) -> String {
        match self {
            Self::GivenName | Self::FamilyName | Self::DisplayName => "name".to_owned(),
            Self::City | Self::Region | Self::Country => "addresses".to_owned(),
            Self::Attribute(_) => self.to_string(),
        }
    }

    /// The field's value in a record of [`crate::customer::CUSTOMER`]; null when there is none (for text: when it is
    /// empty).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] when the record is not one of a customer.
    pub fn read(&self, record: &Record) -> Result<Json> {
        if let Self::Attribute(name) = self {
            let attributes = match record.get("attributes") {
                Some(Value::Json(Json::Object(map))) => map.get(name),
                Some(Value::Json(Json::Null) | Value::Null) => None,
                _ => return Err(record.damaged("attributes")),
            };
            return Ok(attributes.cloned().unwrap_or(Json::Null));
        }
        match record.get(self.column()) {
            Some(Value::Text(text)) if !text.is_empty() => Ok(Json::String(text.clone())),
            Some(Value::Text(_) | Value::Null) => Ok(Json::Null),
            _ => Err(record.damaged(self.column())),
        }
    }

    /// The text a field of text becomes.
    fn text(&self, after: &Json) -> Result<String> {
        let wrong = |message: &'static str| Err(Error::invalid(message).with("field", self));
        let text = match after {
            Json::Null => String::new(),
            Json::String(text) => text.clone(),
            _ => return wrong("a name or a part of an address is text"),
        };
        if text.contains('\0') || text.chars().nth(MAX_KEY_CHARS).is_some() {
            return wrong("text here has no NUL character and at most 320 characters");
        }
        let code = text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase());
        if *self == Self::Country && !text.is_empty() && !code {
            return wrong("a country is its code of two capital letters (ISO 3166-1 alpha-2)");
        }
        Ok(text)
    }

    fn write(&self, record: &mut Record, after: &Json) -> Result<()> {
        let nullable = |text: String| if text.is_empty() { Value::Null } else { text.into() };
        match self {
            Self::Attribute(name) => {
                let mut attributes: Attributes = record.json("attributes")?;
                attributes.set(name, after.clone())?;
                record.set("attributes", written(&attributes)?)
            }
            Self::GivenName | Self::FamilyName | Self::DisplayName => {
                record.set(self.column(), self.text(after)?)
            }
            Self::City | Self::Region | Self::Country => {
                let text = self.text(after)?;
                let mut addresses: Vec<PostalAddress> = record.json("addresses")?;
                if addresses.is_empty() {
                    addresses.push(PostalAddress::default());
                }
                if let Some(home) = addresses.first_mut() {
                    match self {
                        Self::City => home.city.clone_from(&text),
                        Self::Region => home.region.clone_from(&text),
                        _ => home.country.clone_from(&text),
                    }
                }
                record.set(self.column(), nullable(text))?;
                if addresses.first().is_some_and(PostalAddress::is_empty) {
                    addresses.remove(0);
                    // The next one is the main address now.
                    let next = addresses.first().cloned().unwrap_or_default();
                    record.set("city", nullable(next.city))?;
                    record.set("region", nullable(next.region))?;
                    record.set("country", nullable(next.country))?;
                }
                record.set("addresses", written(&addresses)?)
            }
        }
    }
}

fn written<T: Serialize>(value: &T) -> Result<Value> {
    let json =
        serde_json::to_value(value).map_err(|e| Error::invalid("it cannot be written as JSON").source(e))?;
    Ok(Value::Json(json))
}

impl fmt::Display for ProfileField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute(name) => write!(f, "attributes.{name}"),
            named => f.write_str(named.column()),
        }
    }
}

impl FromStr for ProfileField {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        if let Some(name) = text.strip_prefix("attributes.") {
            Attributes::default().set(name, true)?;
            return Ok(Self::Attribute(name.to_owned()));
        }
        let named = Self::NAMED.into_iter().find(|(name, _)| *name == text);
        named.map(|(_, field)| field).ok_or_else(|| {
            Error::invalid(
                "no field of a profile that can be changed in bulk: given_name, family_name, display_name, city, region, country or attributes.<name>",
            )
            .with("field", text)
        })
    }
}

impl TryFrom<String> for ProfileField {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ProfileField> for String {
    fn from(field: ProfileField) -> Self {
        field.to_string()
    }
}

/// What fields of one customer become. `Debug` shows no values.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileEdit {
    /// Whose.
    pub customer: CustomerId,
    /// The version of the profile that was looked at; one that was changed since is left alone and told.
    pub expected: Version,
    /// The new values; null takes one away.
    pub fields: Vec<(ProfileField, Json)>,
}

impl ProfileEdit {
    /// An edit of nothing yet.
    pub fn new(customer: CustomerId, expected: Version) -> Self {
        Self {
            customer,
            expected,
            fields: Vec::new(),
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn set(mut self, field: ProfileField, after: impl Into<Json>) -> Self {
        self.fields.push((field, after.into()));
        self
    }

    /// The profile as it will be stored, with who said the changed fields; `None` when everything is so already. For
    /// writers.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the field whose value cannot be stored; [`crate::ErrorKind::Corrupt`] when the
    /// record is not one of a customer.
    pub fn applied(&self, stored: &Stored, said_by: &Provenance, now: Timestamp) -> Result<Option<Record>> {
        let mut record = stored.record.clone();
        let mut known_from: std::collections::BTreeMap<String, Provenance> = record.json("known_from")?;
        let mut changed = false;
        for (field, after) in &self.fields {
            if matches!(field, ProfileField::Attribute(_)) && !storable(after, 0) {
                return Err(Error::invalid(
                    "a value has no NUL character, at most 1 MiB of text and at most 64 levels",
                )
                .with("field", field));
            }
            let before = field.read(&record)?;
            let same = match (&before, after) {
                (Json::Null, Json::String(text)) => {
                    text.is_empty() && !matches!(field, ProfileField::Attribute(_))
                }
                (before, after) => before == after,
            };
            if same {
                continue;
            }
            field.write(&mut record, after)?;
            changed = true;
            let key = field.told_under();
            if after.is_null() && matches!(field, ProfileField::Attribute(_)) {
                known_from.remove(&key);
            } else {
                known_from.insert(key, said_by.clone());
            }
        }
        if !changed {
            return Ok(None);
        }
        let known_from = match known_from.is_empty() {
            true => Value::Null,
            false => written(&known_from)?,
        };
        record.set("known_from", known_from)?;
        record.set("updated_at", now)?;
        record.validate()?;
        Ok(Some(record))
    }
}

fn storable(json: &Json, depth: usize) -> bool {
    let text = |text: &str| text.len() <= crate::record::MAX_VALUE_BYTES && !text.contains('\0');
    depth <= 64
        && match json {
            Json::String(one) => text(one),
            Json::Array(items) => items.iter().all(|item| storable(item, depth + 1)),
            Json::Object(map) => map
                .iter()
                .all(|(key, value)| text(key) && storable(value, depth + 1)),
            Json::Null | Json::Bool(_) | Json::Number(_) => true,
        }
}

impl fmt::Debug for ProfileEdit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<String> = self.fields.iter().map(|(field, _)| field.to_string()).collect();
        f.debug_struct("ProfileEdit")
            .field("customer", &self.customer)
            .field("expected", &self.expected)
            .field("fields", &fields)
            .finish()
    }
}

/// Under which name edits are made, and who says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditRun {
    /// The run's name, unique among the tenant's runs and imports, 1 to 255 characters: what is undone by it. Calls with
    /// the same name belong together until they are undone.
    pub name: String,
    /// Who says so: noted with every field that is changed.
    pub said_by: Provenance,
    /// Only tells what would be done.
    #[serde(default)]
    pub dry: bool,
}

impl EditRun {
    /// A run that writes.
    pub fn new(name: impl Into<String>, said_by: Provenance) -> Self {
        Self {
            name: name.into(),
            said_by,
            dry: false,
        }
    }

    /// Only tells what would be done.
    #[must_use]
    pub fn dry(mut self) -> Self {
        self.dry = true;
        self
    }

    /// Checks name and source.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the field.
    pub fn validate(&self) -> Result<()> {
        for (field, text) in [("name", &self.name), ("said_by.source", &self.said_by.source)] {
            if text.trim().is_empty() || text.len() > 255 || text.contains('\0') {
                return Err(
                    Error::invalid("a run has a name and a source of 1 to 255 characters")
                        .with("field", field),
                );
            }
        }
        Ok(())
    }
}

/// What became of one edit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Edited {
    /// The profile is as the edit says, and has this version.
    Written(Version),
    /// It was so before.
    Unchanged,
    /// An earlier call of this run wrote it; what was changed since stays.
    Repeated,
    /// The profile was changed since it was looked at, and has this version: nothing was written. Look again.
    ChangedSince(Version),
    /// There is no such customer: it was never there, or was removed or erased.
    Gone,
    /// The customer was merged into this one: nothing was written.
    Merged(CustomerId),
    /// The edit cannot be stored: nothing was written.
    Refused {
        /// The field that is wrong, if it is one.
        field: Option<String>,
        /// What is wrong; without the value.
        reason: String,
    },
}

/// What undoing a run did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EditsUndone {
    /// Customers who are as they were before.
    pub restored: u64,
    /// Customers who were changed since and are left as they are.
    pub kept: u64,
    /// Who, up to 1,000 of them.
    pub kept_customers: Vec<CustomerId>,
}

/// Changes fields of many customers' profiles in one named run that can be undone: each customer whole or not at all, one
/// that cannot be changed told by itself without keeping the others.
#[async_trait]
pub trait ProfileWriter: fmt::Debug + Send + Sync + 'static {
    /// Carries out edits; one answer each, in order. Works in units of some hundred customers: broken off or killed and
    /// called again with the same run and edits, it goes on, and what was written before is [`Edited::Repeated`].
    ///
    /// # Errors
    /// What concerns all: [`crate::ErrorKind::Invalid`] for a wrong run, [`crate::ErrorKind::Conflict`] when the name
    /// belongs to something else or another call of the same run took over; those of the store.
    async fn edit(&self, ctx: &Context, run: &EditRun, edits: &[ProfileEdit]) -> Result<Vec<Edited>>;

    /// Gives back what a run changed, but for customers who were changed since: they stay as they are, and are named. An
    /// undo that was broken off goes on when repeated; one that is done does nothing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when there was no such run; those of the store.
    async fn undo(&self, ctx: &Context, run: &str) -> Result<EditsUndone>;
}
