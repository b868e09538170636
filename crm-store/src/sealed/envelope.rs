//! The envelope: one encrypted value, as it lies in a column.
//!
//! ```text
//! 0   3  magic "OCE"
//! 3   1  version: 1
//! 4   1  algorithm: 1 AES-256-GCM under the subject's data key,
//!                   2 AES-256-GCM under a key derived from a shared data key for this one record
//! 5   4  generation of the data key
//! 9  12  nonce, random
//! 21  n  ciphertext
//!    16  tag
//! ```
//!
//! Associated data are the first nine bytes, then tenant, schema, field and record id (16 bytes), each with its length in
//! four bytes before it: an envelope only opens where it was written (ENC-2). Numbers are big-endian. The record's key of
//! algorithm 2 is HMAC-SHA-256 over `open-crm record key 1`, schema and record id (parts with lengths) under the shared
//! key: random nonces are then counted per record, far below the 2^32 of NIST SP 800-38D, 8.3.

use crm_core::capability::DataKey;
use crm_core::{Error, ErrorKind, Result, Uuid};
use ring::{aead, hmac};
use zeroize::{Zeroize as _, Zeroizing};

use super::code::part;

const MAGIC: [u8; 3] = *b"OCE";
const VERSION: u8 = 1;
const HEADER: usize = 9;
const NONCE: usize = 12;
const TAG: usize = 16;

/// Where a value lies.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) tenant: &'a str,
    pub(super) schema: &'a str,
    pub(super) field: &'a str,
    pub(super) record: Uuid,
}

/// How a data key is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// By one person's records.
    Own = 1,
    /// By all records of a tenant that belong to nobody.
    Shared = 2,
}

/// A key made ready for one record.
pub(super) struct RecordKey {
    key: aead::LessSafeKey,
    algorithm: Algorithm,
    generation: u32,
}

fn broken(place: &Place<'_>, message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
        .with("schema", place.schema)
        .with("field", place.field)
        .with("record", place.record)
}

/// Fills with the operating system's randomness.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::new(ErrorKind::Unavailable, "the operating system gives no randomness"))?;
    Ok(bytes)
}

impl RecordKey {
    pub(super) fn new(
        data_key: &DataKey,
        algorithm: Algorithm,
        generation: u32,
        schema: &str,
        record: Uuid,
    ) -> Result<Self> {
        let derived;
        let bytes: &[u8] = match algorithm {
            Algorithm::Own => data_key.expose(),
            Algorithm::Shared => {
                let mut what = b"open-crm record key 1".to_vec();
                part(&mut what, schema.as_bytes());
                part(&mut what, record.as_bytes());
                let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, data_key.expose()), &what);
                derived = Zeroizing::new(tag.as_ref().to_vec());
                &derived
            }
        };
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, bytes)
            .map_err(|_| Error::unexpected("a data key is not 256 bits long"))?;
        Ok(Self {
            key: aead::LessSafeKey::new(key),
            algorithm,
            generation,
        })
    }

    fn header(&self) -> [u8; HEADER] {
        let [m0, m1, m2] = MAGIC;
        let [g0, g1, g2, g3] = self.generation.to_be_bytes();
        [m0, m1, m2, VERSION, self.algorithm as u8, g0, g1, g2, g3]
    }

    fn bound(&self, place: &Place<'_>) -> aead::Aad<Vec<u8>> {
        let mut out = Vec::with_capacity(HEADER + 16 + 4 * 4 + 96);
        out.extend_from_slice(&self.header());
        part(&mut out, place.tenant.as_bytes());
        part(&mut out, place.schema.as_bytes());
        part(&mut out, place.field.as_bytes());
        part(&mut out, place.record.as_bytes());
        aead::Aad::from(out)
    }

    /// Encrypts an encoded value.
    pub(super) fn seal(
        &self,
        place: &Place<'_>,
        nonce: [u8; NONCE],
        mut plain: Zeroizing<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let tag = self
            .key
            .seal_in_place_separate_tag(
                aead::Nonce::assume_unique_for_key(nonce),
                self.bound(place),
                &mut plain,
            )
            .map_err(|_| Error::invalid("a value is too long to be encrypted").with("field", place.field))?;
        let mut out = Vec::with_capacity(HEADER + NONCE + plain.len() + TAG);
        out.extend_from_slice(&self.header());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&plain);
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Decrypts an envelope; the buffer holds zeros afterwards, whether it opened or not.
    pub(super) fn open(&self, place: &Place<'_>, envelope: &mut [u8]) -> Result<Zeroizing<Vec<u8>>> {
        let opened = self.open_in(place, envelope);
        envelope.zeroize();
        opened
    }

    fn open_in(&self, place: &Place<'_>, envelope: &mut [u8]) -> Result<Zeroizing<Vec<u8>>> {
        check(place, envelope)?;
        if !envelope.starts_with(&self.header()) {
            return Err(broken(
                place,
                "a value was encrypted with another generation of the key, or moved here from elsewhere",
            ));
        }
        let split = envelope.split_at_mut_checked(HEADER + NONCE);
        let (head, sealed) = split.ok_or_else(|| broken(place, "an encrypted value is cut off"))?;
        let nonce = head
            .get(HEADER..)
            .and_then(|nonce| aead::Nonce::try_assume_unique_for_key(nonce).ok())
            .ok_or_else(|| broken(place, "an encrypted value is cut off"))?;
        self.key
            .open_in_place(nonce, self.bound(place), sealed)
            .map(|plain| Zeroizing::new(plain.to_vec()))
            .map_err(|_| {
                broken(
                    place,
                    "an encrypted value was changed, or moved here from another place",
                )
            })
    }
}

/// Whether bytes look like an envelope this version knows.
fn check(place: &Place<'_>, envelope: &[u8]) -> Result<()> {
    match envelope {
        [a, b, c, version, algorithm, ..] if [*a, *b, *c] == MAGIC => match (*version, *algorithm) {
            (VERSION, 1 | 2) if envelope.len() >= HEADER + NONCE + TAG => Ok(()),
            (VERSION, 1 | 2) => Err(broken(place, "an encrypted value is cut off")),
            (VERSION, _) => Err(broken(
                place,
                "a value is encrypted with an algorithm this version does not know",
            )),
            _ => Err(broken(
                place,
                "a value is encrypted in a format this version does not know",
            )),
        },
        _ => Err(broken(place, "a value that should be encrypted is not")),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::Deserialize;

    use super::super::code::{decode, encode};
    use super::*;
    use crm_core::record::Value;

    fn place(record: u128) -> Place<'static> {
        Place {
            tenant: "shop",
            schema: "crm_customer",
            field: "city",
            record: Uuid::from_u128(record),
        }
    }

    fn key(algorithm: Algorithm, record: u128) -> RecordKey {
        let data_key = DataKey::new(std::array::from_fn(|i| i as u8));
        RecordKey::new(&data_key, algorithm, 7, "crm_customer", Uuid::from_u128(record)).unwrap()
    }

    fn plain(bytes: usize) -> Zeroizing<Vec<u8>> {
        Zeroizing::new((0..bytes).map(|i| i as u8).collect())
    }

    /// ENC-3: every bit of an envelope of a 64-byte field.
    #[test]
    fn enc_3_any_flipped_bit_is_detected_and_leaves_no_plaintext() {
        for algorithm in [Algorithm::Own, Algorithm::Shared] {
            let key = key(algorithm, 1);
            let sealed = key.seal(&place(1), [9; NONCE], plain(64)).unwrap();
            assert_eq!(sealed.len(), HEADER + NONCE + 64 + TAG);
            assert_eq!(
                key.open(&place(1), &mut sealed.clone()).unwrap(),
                plain(64),
                "the control opens"
            );
            for bit in 0..sealed.len() * 8 {
                let mut changed = sealed.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let error = key.open(&place(1), &mut changed).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {bit}: {error}");
                assert!(
                    changed.iter().all(|byte| *byte == 0),
                    "bit {bit}: something is left in the buffer"
                );
            }
            for length in 0..sealed.len() {
                assert!(
                    key.open(&place(1), &mut sealed[..length].to_vec()).is_err(),
                    "{length} bytes"
                );
            }
        }
    }

    /// ENC-2, at the envelope: what one place holds opens in no other.
    #[test]
    fn enc_2_an_envelope_opens_only_where_it_was_written() {
        for algorithm in [Algorithm::Own, Algorithm::Shared] {
            let sealed = key(algorithm, 1).seal(&place(1), [9; NONCE], plain(10)).unwrap();
            let here = place(1);
            for (elsewhere, record) in [
                (
                    Place {
                        tenant: "shop2",
                        ..here
                    },
                    1,
                ),
                (
                    Place {
                        schema: "crm_order",
                        ..here
                    },
                    1,
                ),
                (Place { field: "cit", ..here }, 1),
                (
                    Place {
                        field: "region",
                        ..here
                    },
                    1,
                ),
                (place(2), 2),
                (place(2), 1),
                (
                    Place {
                        tenant: "shopcrm_customer",
                        schema: "",
                        ..here
                    },
                    1,
                ),
            ] {
                assert!(
                    key(algorithm, record)
                        .open(&elsewhere, &mut sealed.clone())
                        .is_err()
                );
            }
            assert!(
                key(algorithm, 1).open(&here, &mut sealed.clone()).is_ok(),
                "the control opens"
            );
        }
        let own = key(Algorithm::Own, 1)
            .seal(&place(1), [9; NONCE], plain(10))
            .unwrap();
        assert!(
            key(Algorithm::Shared, 1)
                .open(&place(1), &mut own.clone())
                .is_err()
        );
    }

    /// ENC-4: a million encryptions of one field.
    #[test]
    fn enc_4_nonces_never_repeat() {
        let mut seen = std::collections::HashSet::with_capacity(1_000_000);
        for _ in 0..1_000_000 {
            assert!(seen.insert(random::<NONCE>().unwrap()));
        }
        let again = *seen.iter().next().unwrap();
        assert!(!seen.insert(again), "the control: a repetition would be seen");
        let key = key(Algorithm::Own, 1);
        let nonces: std::collections::HashSet<Vec<u8>> = (0..1000)
            .map(|_| {
                key.seal(&place(1), random().unwrap(), plain(3)).unwrap()[HEADER..HEADER + NONCE].to_vec()
            })
            .collect();
        assert_eq!(nonces.len(), 1000, "each envelope carries the nonce it was given");
    }

    #[derive(Deserialize)]
    struct Vector {
        key: String,
        algorithm: u8,
        generation: u32,
        tenant: String,
        schema: String,
        field: String,
        record: Uuid,
        nonce: String,
        value: Value,
        envelope: String,
        blind: Option<Uuid>,
    }

    /// ENC-8: envelopes that `tests/vectors/envelope.py` made with Python's `cryptography`, byte by byte, and open for
    /// ever.
    #[test]
    fn enc_8_golden_envelopes_of_another_implementation() {
        let vectors: Vec<Vector> =
            serde_json::from_str(include_str!("../../tests/vectors/envelope.json")).unwrap();
        assert_eq!(vectors.len(), 30);
        for (number, vector) in vectors.iter().enumerate() {
            let bytes = |text: &str| STANDARD.decode(text).unwrap();
            let data_key = DataKey::new(bytes(&vector.key).try_into().unwrap());
            let algorithm = match vector.algorithm {
                1 => Algorithm::Own,
                2 => Algorithm::Shared,
                other => panic!("vector {number} has algorithm {other}"),
            };
            let place = Place {
                tenant: &vector.tenant,
                schema: &vector.schema,
                field: &vector.field,
                record: vector.record,
            };
            let key = RecordKey::new(
                &data_key,
                algorithm,
                vector.generation,
                place.schema,
                place.record,
            )
            .unwrap();
            let opened = key.open(&place, &mut bytes(&vector.envelope)).unwrap();
            assert!(
                decode(&opened) == Some(vector.value.clone()),
                "vector {number} opens"
            );
            let nonce = bytes(&vector.nonce).try_into().unwrap();
            let sealed = key.seal(&place, nonce, encode(&vector.value).unwrap()).unwrap();
            assert_eq!(
                STANDARD.encode(sealed),
                vector.envelope,
                "vector {number} is made the same"
            );
            if let Some(blind) = &vector.blind {
                let ty = vector.value.ty().unwrap();
                let found = super::super::blind::BlindKey::new(&data_key, place.schema, place.field)
                    .of(&vector.value, ty);
                assert_eq!(found.as_ref(), Some(blind), "vector {number}: the blind index");
            }
        }
    }
}
