use std::collections::BTreeMap;

use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Whose data a record is: with whose key it is encrypted, and with whom it is erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The record is the person: its own id.
    Record,
    /// The person whose id is in this UUID field; nobody's where it is absent.
    Field(String),
    /// Nobody's: encrypted with a key of the tenant, and not erased with anybody.
    Tenant,
}

/// Fields by the name of their schema.
pub type Fields = BTreeMap<String, Vec<String>>;

/// What a [`super::SealedStore`] encrypts, and how.
///
/// ```
/// use crm_store::sealed::SealConfig;
///
/// let config: SealConfig = serde_json::from_str(r#"{ "keep_seconds": 600, "open": { "crm_order": ["at"] } }"#).unwrap();
/// assert!(config.validate().is_ok());
/// assert!(serde_json::from_str::<SealConfig>(r#"{ "keep_secods": 600 }"#).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SealConfig {
    /// The provider's name; `sealed`.
    pub name: String,
    /// How many unwrapped data keys are kept in memory. 10,000.
    pub kept_keys: u64,
    /// How long an unwrapped data key is used before the key provider is asked again, in seconds: so long reading goes on
    /// while the provider is down. 3,600.
    pub keep_seconds: u64,
    /// How long a data key is used before the key table is asked whether it is still there, in seconds: so long another
    /// process may still read a person who was erased. 60.
    pub recheck_seconds: u64,
    /// How many records one question may open at most, when it asks for something that only shows after decryption.
    /// 100,000.
    pub max_opened: usize,
    /// Fields that are encrypted although their schema does not mark them personal.
    pub also: Fields,
    /// Personal fields that are left open, because questions need their order (a range of times) in the database.
    pub open: Fields,
    /// Encrypted fields that get a blind index although no index of their schema has them, so that equality is answered by
    /// the database.
    pub searchable: Fields,
    /// Whose data the records of a schema are, by the schema's name. Unless said: `crm_customer` is its own person, a
    /// record with a UUID field `customer_id` belongs to that person, everything else to nobody.
    pub subjects: BTreeMap<String, Subject>,
}

impl Default for SealConfig {
    fn default() -> Self {
        Self {
            name: "sealed".to_owned(),
            kept_keys: 10_000,
            keep_seconds: 3_600,
            recheck_seconds: 60,
            max_opened: 100_000,
            also: Fields::new(),
            open: Fields::new(),
            searchable: Fields::new(),
            subjects: BTreeMap::new(),
        }
    }
}

impl SealConfig {
    /// Checks the settings that can be checked without schemas; the rest is checked by
    /// [`crm_core::capability::RecordStore::migrate`].
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if self.name.is_empty() {
            return wrong("name", "a provider has a name");
        }
        if self.kept_keys == 0 {
            return wrong("kept_keys", "at least one data key is kept");
        }
        if self.recheck_seconds > self.keep_seconds {
            return wrong(
                "recheck_seconds",
                "a key is looked up again at least as often as it is unwrapped again (keep_seconds)",
            );
        }
        if self.max_opened == 0 {
            return wrong("max_opened", "a question may open at least one record");
        }
        Ok(())
    }

    pub(super) fn lists(fields: &Fields, schema: &str, field: &str) -> bool {
        fields
            .get(schema)
            .is_some_and(|names| names.iter().any(|name| name == field))
    }
}
