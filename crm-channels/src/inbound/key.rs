use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crm_core::consent::AddressKey;
use crm_core::customer::{Address, ContactKind, CustomerId};
use crm_core::message::MessageId;
use crm_core::{Error, ErrorKind, Result, Secret, TenantId, Uuid};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Bytes of the MAC in a link: 128 bits.
const MAC: usize = 16;
/// No token is longer; nothing longer is even decoded.
const MAX_TOKEN: usize = 512;
/// The layout of a token; a later one gets another number.
const VERSION: u8 = 1;

/// Signs what we hand out and get back: links in messages and return paths (HMAC-SHA-256, RFC 2104). Keep the secret
/// outside the store. `Debug` shows nothing of it.
///
/// ```
/// use crm_channels::inbound::LinkKey;
/// use crm_core::Secret;
///
/// // The second one signed links that are still in people's mailboxes.
/// let key = LinkKey::new(&Secret::new("the new secret, 32 random bytes")).unwrap()
///     .also_accepts(&Secret::new("the secret before, 32 random bytes")).unwrap();
/// assert_eq!(format!("{key:?}"), "LinkKey(REDACTED)");
/// ```
#[derive(Clone)]
pub struct LinkKey {
    current: Hmac<Sha256>,
    older: Vec<Hmac<Sha256>>,
}

fn keyed(secret: &Secret) -> Result<Hmac<Sha256>> {
    let bytes = secret.expose().as_bytes();
    let wrong = |message: &'static str| Error::config(message).with("setting", "link_key");
    if bytes.len() < 16 {
        return Err(wrong(
            "the secret for links is too short; use at least 16 random bytes",
        ));
    }
    Hmac::new_from_slice(bytes).map_err(|_| wrong("not usable as a key"))
}

impl LinkKey {
    /// A key from a secret of at least 16 bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is shorter.
    pub fn new(secret: &Secret) -> Result<Self> {
        Ok(Self {
            current: keyed(secret)?,
            older: Vec::new(),
        })
    }

    /// Also accepts what an earlier secret signed: links live as long as the messages they are in.
    ///
    /// # Errors
    /// As [`LinkKey::new`].
    pub fn also_accepts(mut self, secret: &Secret) -> Result<Self> {
        self.older.push(keyed(secret)?);
        Ok(self)
    }

    fn fed(key: &Hmac<Sha256>, label: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = key.clone();
        mac.update(label.as_bytes());
        for part in parts {
            // Lengths keep parts apart: ("ab", "c") is not ("a", "bc").
            mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    /// The MAC over these parts for one use.
    pub(super) fn sign(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        Self::fed(&self.current, label, parts)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Whether a MAC, cut to its first bytes, is of this key or an older one. Takes as long for a wrong as for a right one.
    pub(super) fn verify(&self, label: &str, parts: &[&[u8]], mac: &[u8]) -> bool {
        std::iter::once(&self.current)
            .chain(&self.older)
            .fold(false, |found, key| {
                Self::fed(key, label, parts).verify_truncated_left(mac).is_ok() | found
            })
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(REDACTED)")
    }
}

/// What a link is for; a token for one is none for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Unsubscribe,
    Preferences,
}

impl Use {
    fn label(self) -> &'static str {
        match self {
            Self::Unsubscribe => "open-crm unsubscribe",
            Self::Preferences => "open-crm preferences",
        }
    }
}

/// Whom a link in a message stands for: a contact point by its keyed hash, so that the link works after an erasure, and
/// never shows an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSubject {
    /// The tenant.
    pub tenant: TenantId,
    /// The kind of contact point.
    pub kind: ContactKind,
    /// The keyed hash of the address ([`AddressKey`]), 64 hex digits.
    pub address_key: String,
    /// Whose message it was in.
    pub customer: CustomerId,
    /// The message it was in.
    pub message: MessageId,
    /// The purpose's name; empty for a link to the preference page.
    pub purpose: String,
}

impl LinkSubject {
    /// A customer at an address, reached by a message for a purpose.
    pub fn new(
        tenant: &TenantId,
        key: &AddressKey,
        address: &Address,
        customer: CustomerId,
        message: MessageId,
        purpose: &str,
    ) -> Self {
        Self {
            tenant: tenant.clone(),
            kind: match address {
                Address::Email(_) => ContactKind::Email,
                Address::Phone(_) => ContactKind::Phone,
            },
            address_key: key.of_address(address),
            customer,
            message,
            purpose: purpose.to_owned(),
        }
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let wrong =
            |field: &'static str| Error::invalid("a link cannot be made of this").with("field", field);
        let mut out = vec![
            VERSION,
            match self.kind {
                ContactKind::Email => 0,
                ContactKind::Phone => 1,
            },
        ];
        out.extend_from_slice(self.customer.uuid().as_bytes());
        out.extend_from_slice(self.message.uuid().as_bytes());
        out.extend_from_slice(&unhex(&self.address_key).ok_or_else(|| wrong("address_key"))?);
        for (field, text) in [("tenant", self.tenant.as_str()), ("purpose", &self.purpose)] {
            let length = u8::try_from(text.len()).ok().filter(|n| *n <= 64);
            out.push(length.ok_or_else(|| wrong(field))?);
            out.extend_from_slice(text.as_bytes());
        }
        Ok(out)
    }

    fn read(mut bytes: &[u8]) -> Option<Self> {
        fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
            let (head, rest) = bytes.split_at_checked(n)?;
            *bytes = rest;
            Some(head)
        }
        fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
            let n = *take(bytes, 1)?.first()?;
            std::str::from_utf8(take(bytes, usize::from(n))?).ok()
        }
        let [VERSION, kind] = *take(&mut bytes, 2)? else {
            return None;
        };
        let kind = match kind {
            0 => ContactKind::Email,
            1 => ContactKind::Phone,
            _ => return None,
        };
        let customer = Uuid::from_slice(take(&mut bytes, 16)?).ok()?;
        let message = Uuid::from_slice(take(&mut bytes, 16)?).ok()?;
        let address_key = hex(take(&mut bytes, 32)?);
        let tenant = TenantId::new(text(&mut bytes)?).ok()?;
        let purpose = text(&mut bytes)?.to_owned();
        bytes.is_empty().then_some(Self {
            tenant,
            kind,
            address_key,
            customer: customer.into(),
            message: message.into(),
            purpose,
        })
    }

    /// The token: what it says, and a MAC over it.
    pub(super) fn token(&self, key: &LinkKey, purpose: Use) -> Result<String> {
        let mut bytes = self.bytes()?;
        let mac = key.sign(purpose.label(), &[&bytes]);
        bytes.extend(mac.iter().take(MAC));
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a token that one of our keys signed for this use.
    pub(super) fn of_token(token: &str, key: &LinkKey, purpose: Use) -> Result<Self> {
        let refused = || {
            Error::new(ErrorKind::Unauthenticated, "this link is not one of ours").operation("inbound.link")
        };
        if token.len() > MAX_TOKEN {
            return Err(refused());
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| refused())?;
        let at = bytes.len().checked_sub(MAC).ok_or_else(refused)?;
        let (said, mac) = bytes.split_at_checked(at).ok_or_else(refused)?;
        if !key.verify(purpose.label(), &[said], mac) {
            return Err(refused());
        }
        Self::read(said).ok_or_else(refused)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

/// 64 hex digits in small letters, as [`AddressKey`] writes them.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> LinkSubject {
        LinkSubject {
            tenant: TenantId::new("shop").unwrap(),
            kind: ContactKind::Email,
            address_key: "0f".repeat(32),
            customer: Uuid::from_u128(1).into(),
            message: Uuid::from_u128(2).into(),
            purpose: "news".to_owned(),
        }
    }

    #[test]
    fn a_token_says_what_was_signed_and_nothing_else_is_one() {
        let key = LinkKey::new(&Secret::new("0123456789abcdef")).unwrap();
        let token = subject().token(&key, Use::Unsubscribe).unwrap();
        assert_eq!(
            LinkSubject::of_token(&token, &key, Use::Unsubscribe).unwrap(),
            subject()
        );
        assert!(LinkSubject::of_token(&token, &key, Use::Preferences).is_err());
        let other = LinkKey::new(&Secret::new("fedcba9876543210")).unwrap();
        assert!(LinkSubject::of_token(&token, &other, Use::Unsubscribe).is_err());
        let rolled = other.also_accepts(&Secret::new("0123456789abcdef")).unwrap();
        assert_eq!(
            LinkSubject::of_token(&token, &rolled, Use::Unsubscribe).unwrap(),
            subject()
        );
        for cut in 0..token.len() {
            assert!(LinkSubject::of_token(&token[..cut], &key, Use::Unsubscribe).is_err());
        }
        for longer in [format!("{token}A"), format!("{token}=="), format!("{token} ")] {
            assert!(LinkSubject::of_token(&longer, &key, Use::Unsubscribe).is_err());
        }
        assert!(LinkKey::new(&Secret::new("short")).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let key = LinkKey::new(&Secret::new("0123456789abcdef")).unwrap();
        for (field, wrong) in [
            (
                "address_key",
                LinkSubject {
                    address_key: "0F".repeat(32),
                    ..subject()
                },
            ),
            (
                "address_key",
                LinkSubject {
                    address_key: String::new(),
                    ..subject()
                },
            ),
            (
                "purpose",
                LinkSubject {
                    purpose: "x".repeat(65),
                    ..subject()
                },
            ),
        ] {
            let error = wrong.token(&key, Use::Unsubscribe).unwrap_err();
            assert_eq!(error.context("field"), Some(field));
        }
    }
}
