use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crm_core::capability::{DataKey, KeyProvider, ToUnwrap, ToWrap, WrappedKey};
use crm_core::{Error, ErrorKind, Health, Provider, ProviderInfo, Result, Secret, TenantId};
use ring::{aead, hmac};
use serde::Deserialize;
use zeroize::{Zeroize as _, Zeroizing};

use super::code::part;
use super::envelope::random;

const NONCE: usize = 12;

/// Master keys in the process: from a file, the environment or the host's own vault. The key of a tenant is derived from
/// a master key (HMAC-SHA-256 over the tenant's name), so no tenant's wrapped keys open under another one's.
///
/// The last key of the list is the current one; the others only unwrap. To change it: add a new one at the end, restart,
/// call [`super::SealedStore::rotate`] for every tenant, and take the old one out.
///
/// ```
/// use crm_core::Secret;
/// use crm_store::sealed::KeyRing;
///
/// let ring = KeyRing::new("ring", [("2025", Secret::new("1".repeat(64))), ("2026", Secret::new("2".repeat(64)))]).unwrap();
/// assert!(format!("{ring:?}").contains("REDACTED"));
/// assert!(KeyRing::new("ring", [("2026", Secret::new("too short"))]).is_err());
/// ```
pub struct KeyRing {
    info: ProviderInfo,
    keys: BTreeMap<String, Zeroizing<[u8; 32]>>,
    current: String,
}

/// How a ring is written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    keys: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    key: Secret,
}

impl KeyRing {
    /// A ring of these keys, each an id and 256 bits as 64 hexadecimal digits or base64; the last one is the current one.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the key's id.
    pub fn new<I: Into<String>>(
        name: impl Into<String>,
        keys: impl IntoIterator<Item = (I, Secret)>,
    ) -> Result<Self> {
        let mut ring = BTreeMap::new();
        let mut current = None;
        for (id, secret) in keys {
            let id = id.into();
            let named = id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !(1..=64).contains(&id.len()) || !named {
                return Err(
                    Error::config("a key's id is 1 to 64 of letters, digits, '-', '_' and '.'")
                        .with("setting", "keys"),
                );
            }
            let bytes = bytes(&secret).ok_or_else(|| {
                Error::config(
                    "a key is 256 bits, as 64 hexadecimal digits or as base64 (openssl rand -hex 32)",
                )
                .with("setting", "keys")
                .with("id", &id)
            })?;
            if ring.insert(id.clone(), bytes).is_some() {
                return Err(Error::config("two keys of the same id")
                    .with("setting", "keys")
                    .with("id", &id));
            }
            current = Some(id);
        }
        let current = current
            .ok_or_else(|| Error::config("a key ring has at least one key").with("setting", "keys"))?;
        Ok(Self {
            info: ProviderInfo::new("keyring", name),
            keys: ring,
            current,
        })
    }

    /// A ring from a file: `{ "keys": [ { "id": "2026", "key": "..." } ] }`, the current key last. Only its owner may be
    /// able to read it (mode 0600 or 0400 on Unix).
    ///
    /// # Errors
    /// [`ErrorKind::Config`] saying what is wrong with the file; never what is in it.
    pub fn open(name: impl Into<String>, path: &Path) -> Result<Self> {
        let wrong = |message: &'static str| Error::config(message).with("setting", "file");
        // The same file is looked at and read: nobody can put another one in between.
        let mut file = std::fs::File::open(path)
            .map_err(|error| wrong("the file of the keys cannot be opened").source(error))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let about = file
                .metadata()
                .map_err(|error| wrong("the file of the keys cannot be looked at").source(error))?;
            if about.permissions().mode() & 0o077 != 0 {
                return Err(wrong(
                    "others than its owner may read or write the file of the keys; set its mode to 0600",
                ));
            }
        }
        let mut text = Zeroizing::new(String::new());
        std::io::Read::read_to_string(&mut file, &mut text)
            .map_err(|error| wrong("the file of the keys cannot be read").source(error))?;
        Self::parse(name.into(), &text).map_err(|error| error.with("setting", "file"))
    }

    /// A ring from an environment variable: either as in a file, or `id:key` pairs with commas between them, the current
    /// one last.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the variable.
    pub fn from_environment(name: impl Into<String>, variable: &str) -> Result<Self> {
        let text = std::env::var(variable).map(Zeroizing::new).map_err(|_| {
            Error::config("the environment variable of the keys is not set, or no text")
                .with("variable", variable)
        })?;
        let named = |error: Error| error.with("variable", variable);
        if text.trim_start().starts_with('{') {
            return Self::parse(name.into(), &text).map_err(named);
        }
        let pairs = text
            .split(',')
            .map(|pair| {
                let (id, key) = pair
                    .trim()
                    .split_once(':')
                    .ok_or_else(|| Error::config("keys are written id:key, with commas between them"))?;
                Ok((id.to_owned(), Secret::new(key)))
            })
            .collect::<Result<Vec<_>>>()
            .map_err(named)?;
        Self::new(name, pairs).map_err(named)
    }

    fn parse(name: String, text: &str) -> Result<Self> {
        // The cause would quote the text.
        let file: File = serde_json::from_str(text).map_err(|error| {
            Error::config("the keys are not written as { \"keys\": [ { \"id\": .., \"key\": .. } ] }")
                .with("line", error.line())
        })?;
        Self::new(name, file.keys.into_iter().map(|entry| (entry.id, entry.key)))
    }

    /// The key of a tenant under a master key.
    fn key(&self, tenant: &TenantId, id: &str) -> Result<aead::LessSafeKey> {
        let master = self.keys.get(id).ok_or_else(|| {
            Error::config("a data key is wrapped with a key that is not in the ring; add it until everything is rotated")
                .with("key_id", id)
        })?;
        let mut what = b"open-crm tenant key 1".to_vec();
        part(&mut what, tenant.as_str().as_bytes());
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &**master), &what);
        let derived = Zeroizing::new(tag.as_ref().to_vec());
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &derived)
            .map_err(|_| Error::unexpected("a key is not 256 bits long"))?;
        Ok(aead::LessSafeKey::new(key))
    }
}

/// 64 hexadecimal digits, or base64 of 32 bytes.
fn bytes(secret: &Secret) -> Option<Zeroizing<[u8; 32]>> {
    let text = secret.expose().trim();
    let mut out = Zeroizing::new([0; 32]);
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        return Some(out);
    }
    let decoded = Zeroizing::new(STANDARD.decode(text).ok()?);
    out.copy_from_slice(decoded.first_chunk::<32>().filter(|_| decoded.len() == 32)?);
    Some(out)
}

fn bound(id: &str, bound_to: &[u8]) -> aead::Aad<Vec<u8>> {
    let mut out = Vec::new();
    part(&mut out, id.as_bytes());
    part(&mut out, bound_to);
    aead::Aad::from(out)
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("info", &self.info)
            .field("keys", &"REDACTED")
            .field("current", &self.current)
            .finish()
    }
}

#[async_trait]
impl Provider for KeyRing {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl KeyProvider for KeyRing {
    async fn current(&self, _tenant: &TenantId) -> Result<String> {
        Ok(self.current.clone())
    }

    async fn wrap(&self, tenant: &TenantId, keys: &[ToWrap<'_>]) -> Result<Vec<WrappedKey>> {
        let key = self
            .key(tenant, &self.current)
            .map_err(|error| error.operation("keys.wrap"))?;
        keys.iter()
            .map(|one| {
                let nonce: [u8; NONCE] = random()?;
                let mut sealed = Zeroizing::new(one.key.expose().to_vec());
                let tag = key
                    .seal_in_place_separate_tag(
                        aead::Nonce::assume_unique_for_key(nonce),
                        bound(&self.current, one.bound_to),
                        &mut sealed,
                    )
                    .map_err(|_| Error::unexpected("a data key cannot be wrapped"))?;
                let bytes = [nonce.as_slice(), &sealed, tag.as_ref()].concat();
                Ok(WrappedKey {
                    key_id: self.current.clone(),
                    bytes,
                })
            })
            .collect()
    }

    async fn unwrap(&self, tenant: &TenantId, keys: &[ToUnwrap<'_>]) -> Result<Vec<DataKey>> {
        let mut ready: BTreeMap<&str, aead::LessSafeKey> = BTreeMap::new();
        keys.iter()
            .map(|one| {
                let id = one.wrapped.key_id.as_str();
                if !ready.contains_key(id) {
                    ready.insert(id, self.key(tenant, id).map_err(|error| error.operation("keys.unwrap"))?);
                }
                let broken = || {
                    Error::new(
                        ErrorKind::Corrupt,
                        "a wrapped data key was changed, belongs to another tenant, or another master key has this id now",
                    )
                    .operation("keys.unwrap")
                    .with("key_id", id)
                };
                let (nonce, sealed) = one.wrapped.bytes.split_at_checked(NONCE).ok_or_else(broken)?;
                let nonce = aead::Nonce::try_assume_unique_for_key(nonce).map_err(|_| broken())?;
                let mut buffer = Zeroizing::new(sealed.to_vec());
                let key = ready.get(id).ok_or_else(broken)?;
                let plain = key
                    .open_in_place(nonce, bound(id, one.bound_to), &mut buffer)
                    .map_err(|_| broken())?;
                let mut bytes = <[u8; 32]>::try_from(&*plain).map_err(|_| broken())?;
                let data_key = DataKey::new(bytes);
                bytes.zeroize();
                Ok(data_key)
            })
            .collect()
    }
}
