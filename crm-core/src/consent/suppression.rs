use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::customer::{Address, ContactKind};
use crate::record::{Entity, Field, FieldType, Index, Record, Schema, Stored};
use crate::{Error, Id, Result, Secret, Timestamp, Uuid};

use super::{Purpose, PurposeClass};

/// Turns addresses into keyed hashes (HMAC-SHA-256, RFC 2104), so that a suppression outlives the address itself. Keep
/// the secret outside the store and never change it: with another one, suppressions and consents no longer match.
#[derive(Clone)]
pub struct AddressKey(Hmac<Sha256>);

impl AddressKey {
    /// A key from a secret of at least 16 bytes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] when it is shorter.
    pub fn new(secret: &Secret) -> Result<Self> {
        let bytes = secret.expose().as_bytes();
        if bytes.len() < 16 {
            return Err(
                Error::config("the secret for addresses is too short; use at least 16 random bytes")
                    .with("setting", "address_key"),
            );
        }
        let mac = Hmac::new_from_slice(bytes)
            .map_err(|_| Error::config("not usable as a key").with("setting", "address_key"))?;
        Ok(Self(mac))
    }

    /// The keyed hash of a canonical address, 64 hex digits.
    pub fn of(&self, kind: ContactKind, canonical: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(kind.as_str().as_bytes());
        mac.update(&[0]);
        mac.update(canonical.as_bytes());
        mac.finalize()
            .into_bytes()
            .iter()
            .fold(String::with_capacity(64), |mut hex, byte| {
                for nibble in [byte >> 4, byte & 15] {
                    hex.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
                }
                hex
            })
    }

    /// The keyed hash of an address.
    pub fn of_address(&self, address: &Address) -> String {
        match address {
            Address::Email(email) => self.of(ContactKind::Email, email.as_str()),
            Address::Phone(phone) => self.of(ContactKind::Phone, phone.as_str()),
        }
    }
}

impl fmt::Debug for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AddressKey(REDACTED)")
    }
}

/// What a suppression keeps back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SuppressionScope {
    /// Everything, receipts too.
    All,
    /// All marketing.
    Marketing,
    /// One purpose, by name.
    Purpose(String),
}

impl SuppressionScope {
    /// Whether messages of `purpose` are kept back.
    pub fn covers(&self, purpose: &Purpose) -> bool {
        match self {
            Self::All => true,
            Self::Marketing => purpose.class == PurposeClass::Marketing,
            Self::Purpose(name) => *name == purpose.name,
        }
    }
}

impl fmt::Display for SuppressionScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Marketing => f.write_str("marketing"),
            Self::Purpose(name) => write!(f, "purpose:{name}"),
        }
    }
}

impl FromStr for SuppressionScope {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match (text, text.strip_prefix("purpose:")) {
            ("all", _) => Ok(Self::All),
            ("marketing", _) => Ok(Self::Marketing),
            (_, Some(name)) if !name.is_empty() => Ok(Self::Purpose(name.to_owned())),
            _ => Err(
                Error::invalid("a suppression covers all, marketing or purpose:<name>")
                    .with("field", "scope"),
            ),
        }
    }
}

/// Why an address is suppressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SuppressionReason {
    /// The person unsubscribed.
    Unsubscribed,
    /// The person complained about a message.
    Complaint,
    /// The mailbox or number does not exist.
    Undeliverable,
    /// The person asked to be forgotten.
    Erased,
    /// The host decided so.
    Manual,
}

impl SuppressionReason {
    /// The reason as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unsubscribed => "unsubscribed",
            Self::Complaint => "complaint",
            Self::Undeliverable => "undeliverable",
            Self::Erased => "erased",
            Self::Manual => "manual",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [
            Self::Unsubscribed,
            Self::Complaint,
            Self::Undeliverable,
            Self::Erased,
            Self::Manual,
        ]
        .into_iter()
        .find(|reason| reason.as_str() == text)
    }
}

/// An address that must not be written to. Names no customer, so it survives merge, re-import and erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    /// Its id.
    pub id: Id<Suppression>,
    /// The kind of address.
    pub kind: ContactKind,
    /// The keyed hash of the canonical address.
    pub address_key: String,
    /// What is kept back.
    pub scope: SuppressionScope,
    /// Why.
    pub reason: SuppressionReason,
    /// Since when.
    pub created_at: Timestamp,
}

/// How a [`Suppression`] is stored.
pub static SUPPRESSION: Schema = Schema {
    name: "crm_suppression",
    fields: &[
        Field::new("kind", FieldType::Text),
        Field::new("address_key", FieldType::Text).pseudonym(),
        Field::new("scope", FieldType::Text),
        Field::new("reason", FieldType::Text),
        Field::new("created_at", FieldType::Timestamp),
    ],
    indexes: &[Index::unique("crm_suppression_key", &["address_key", "scope"])],
};

impl Entity for Suppression {
    fn schema() -> &'static Schema {
        &SUPPRESSION
    }
    fn record_id(&self) -> Uuid {
        self.id.uuid()
    }
    fn to_record(&self) -> Result<Record> {
        Record::from_values(
            &SUPPRESSION,
            vec![
                self.kind.as_str().into(),
                self.address_key.as_str().into(),
                self.scope.to_string().into(),
                self.reason.as_str().into(),
                self.created_at.into(),
            ],
        )
    }
    fn from_stored(stored: Stored) -> Result<Self> {
        let r = &stored.record;
        Ok(Self {
            id: stored.id.into(),
            kind: r.text("kind")?.parse().map_err(|_| r.damaged("kind"))?,
            address_key: r.text("address_key")?.to_owned(),
            scope: r.text("scope")?.parse().map_err(|_| r.damaged("scope"))?,
            reason: SuppressionReason::parse(r.text("reason")?).ok_or_else(|| r.damaged("reason"))?,
            created_at: r.timestamp("created_at")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_hmac_sha_256_over_kind_and_address() {
        let key = AddressKey::new(&Secret::new("0123456789abcdef")).unwrap();
        // printf 'email\0ana@example.com' | openssl dgst -sha256 -hmac 0123456789abcdef
        assert_eq!(key.of(ContactKind::Email, "ana@example.com"), EXPECTED);
        assert_ne!(key.of(ContactKind::Phone, "ana@example.com"), EXPECTED);
        assert_eq!(format!("{key:?}"), "AddressKey(REDACTED)");
        assert!(
            AddressKey::new(&Secret::new("short"))
                .unwrap_err()
                .to_string()
                .contains("setting=address_key")
        );
    }

    const EXPECTED: &str = "cfdf2409b06c993458a048daaf9a2a8819ec22aa65940ad443cc1d353c4730da";

    #[test]
    fn scopes_cover_what_they_say() {
        let news = Purpose::marketing("news").unwrap();
        let receipt = Purpose::transactional("receipt").unwrap();
        for (scope, on_news, on_receipt) in [
            ("all", true, true),
            ("marketing", true, false),
            ("purpose:news", true, false),
            ("purpose:receipt", false, true),
        ] {
            let scope: SuppressionScope = scope.parse().unwrap();
            assert_eq!(
                (scope.covers(&news), scope.covers(&receipt)),
                (on_news, on_receipt),
                "{scope}"
            );
            assert_eq!(scope.to_string().parse::<SuppressionScope>().unwrap(), scope);
        }
        assert!("purpose:".parse::<SuppressionScope>().is_err());
    }
}
