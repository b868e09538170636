//! The blind index: equal values are found without being read.

use crm_core::Uuid;
use crm_core::capability::DataKey;
use crm_core::record::{FieldType, Value};
use ring::hmac;
use zeroize::Zeroizing;

use super::code::{canonical, part};

/// The key of one field's blind index in one tenant: HMAC-SHA-256 over `open-crm blind index 1`, schema and field (parts
/// with lengths) under the tenant's index key.
pub(super) struct BlindKey(hmac::Key);

impl BlindKey {
    pub(super) fn new(root: &DataKey, schema: &str, field: &str) -> Self {
        let mut what = b"open-crm blind index 1".to_vec();
        part(&mut what, schema.as_bytes());
        part(&mut what, field.as_bytes());
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, root.expose()), &what);
        let derived = Zeroizing::new(tag.as_ref().to_vec());
        Self(hmac::Key::new(hmac::HMAC_SHA256, &derived))
    }

    /// What stands in the index for a value of a field of type `ty`: the first 128 bits of HMAC-SHA-256 over its canonical
    /// form, as a UUID, which every store indexes in 16 bytes. Two values among a billion share one once in 10^20 times.
    /// `None` for null, and for what no value of such a field equals.
    pub(super) fn of(&self, value: &Value, ty: FieldType) -> Option<Uuid> {
        let canonical = canonical(value, ty)?;
        let tag = hmac::sign(&self.0, &canonical);
        tag.as_ref().first_chunk::<16>().copied().map(Uuid::from_bytes)
    }
}
