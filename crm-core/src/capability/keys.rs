//! Who keeps the keys that keys are wrapped with.

use std::fmt;

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::{Provider, Result, TenantId};

/// A key that encrypts data: 256 bits. Wiped when dropped; cannot be printed or serialised.
///
/// ```
/// use crm_core::capability::DataKey;
///
/// let key = DataKey::new([7; 32]);
/// assert_eq!(format!("{key:?}"), "DataKey(REDACTED)");
/// assert_eq!(key.expose()[0], 7);
/// ```
///
/// There is no way to write one down by accident:
///
/// ```compile_fail
/// fn writes_down<T: serde::Serialize>() {}
/// writes_down::<crm_core::capability::DataKey>();
/// ```
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    /// Takes the key's bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes in clear, for the cipher.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(REDACTED)")
    }
}

/// A data key encrypted with a key of its tenant. Worth nothing without the [`KeyProvider`], so it may lie in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// Which key it is wrapped with, as the provider names it: at most 128 characters, without personal data.
    pub key_id: String,
    /// What the provider needs to unwrap it.
    pub bytes: Vec<u8>,
}

/// A data key on its way to be wrapped.
#[derive(Debug, Clone, Copy)]
pub struct ToWrap<'a> {
    /// The key.
    pub key: &'a DataKey,
    /// What it is for: it is only unwrapped again for the same.
    pub bound_to: &'a [u8],
}

/// A wrapped key on its way back.
#[derive(Debug, Clone, Copy)]
pub struct ToUnwrap<'a> {
    /// The key.
    pub wrapped: &'a WrappedKey,
    /// What it was said to be for when it was wrapped.
    pub bound_to: &'a [u8],
}

/// Keeps a tenant's keys (key encryption keys, KEK) and wraps data keys with them (NIST SP 800-57 part 1, 5.1.1): a file,
/// the environment, a key management service. Data keys come in batches, because a service is far away.
///
/// A provider has one *current* key a tenant, which wraps, and may know older ones, which only unwrap: that is how keys
/// are changed while everything goes on.
#[async_trait]
pub trait KeyProvider: Provider {
    /// The id of the key that wraps for this tenant now.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] or [`crate::ErrorKind::Timeout`] when the provider cannot be reached.
    async fn current(&self, tenant: &TenantId) -> Result<String>;

    /// Wraps data keys with the tenant's current key, in the order given.
    ///
    /// # Errors
    /// As [`KeyProvider::current`]; never a key in clear.
    async fn wrap(&self, tenant: &TenantId, keys: &[ToWrap<'_>]) -> Result<Vec<WrappedKey>>;

    /// Unwraps data keys, in the order given.
    ///
    /// # Errors
    /// As [`KeyProvider::current`]; [`crate::ErrorKind::Config`] naming the `key_id` when the provider no longer has
    /// that key; [`crate::ErrorKind::Corrupt`] when what is wrapped was changed, belongs to another tenant, or is bound
    /// to something else.
    async fn unwrap(&self, tenant: &TenantId, keys: &[ToUnwrap<'_>]) -> Result<Vec<DataKey>>;
}
