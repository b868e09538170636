use std::fmt;

use hmac::{Hmac, Mac};
use sha2::{Digest as _, Sha256};

use crate::customer::{Address, ContactKind};
use crate::record::Record;
use crate::{Error, Result, Secret, Uuid};

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
        hex(&mac.finalize().into_bytes())
    }

    /// A secret made under the key from parts that nobody else knows all of; `what` keeps one use apart from another.
    pub(super) fn secret(&self, what: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(b"\0");
        for part in std::iter::once(what.as_bytes()).chain(parts.iter().copied()) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
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

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// SHA-256 in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The id of the one record that these parts name: made again from the same parts, it is the same.
pub(super) fn named_id(parts: &[&str]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut bytes = [0; 16];
    for (byte, hashed) in bytes.iter_mut().zip(hash.finalize()) {
        *byte = hashed;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// A text field that may be absent, read by `parse`.
pub(super) fn optional<T>(
    r: &Record,
    field: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>> {
    match r.get(field).and_then(|value| value.as_str()) {
        None => Ok(None),
        Some(text) => parse(text).map(Some).ok_or_else(|| r.damaged(field)),
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
    fn a_name_is_one_id_and_its_parts_do_not_run_together() {
        assert_eq!(named_id(&["a", "b"]), named_id(&["a", "b"]));
        assert_ne!(named_id(&["ab", ""]), named_id(&["a", "b"]));
        assert_eq!(named_id(&["a"]).get_version_num(), 8);
    }
}
