use std::collections::BTreeMap;
use std::fmt::Write;

use crm_core::{Error, ErrorKind, Result, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a sealed artefact begins with.
pub const MAGIC: &str = "open-crm-model";
/// The format written; older ones are read as long as they are described here.
///
/// 1: one line of JSON (`magic`, `format`, `kind`, `bytes`, `sha256`), then the artefact as JSON.
pub const FORMAT: u32 = 1;
/// The longest header that is looked at, in bytes.
const HEADER: usize = 1_024;

/// What was learned, with all that must be known to use and judge it: also the model's card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact<T> {
    /// The name it is known by: `churn`.
    pub name: String,
    /// What kind of thing `learned` is; one that is read as another kind is refused.
    pub kind: String,
    /// The seed of everything random.
    pub seed: u64,
    /// The instant up to which data were used.
    pub as_of: Timestamp,
    /// The rows it was learned from.
    #[serde(default)]
    pub rows: u64,
    /// The hash of the columns that go in and come out ([`crate::features::FittedEncoding::schema_hash`]); empty when
    /// there is none.
    #[serde(default)]
    pub schema_hash: String,
    /// Figures of the training, by name; finite.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// What it is for, what it must not be used for, who made it: for people.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The purpose it may be used for ([`crm_core::consent::Purpose`]), if it was learned for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// What was learned: cleaning, encoding and model.
    pub learned: T,
}

impl<T> Artefact<T> {
    /// An artefact without figures and notes.
    pub fn new(
        name: impl Into<String>,
        kind: impl Into<String>,
        seed: u64,
        as_of: Timestamp,
        learned: T,
    ) -> Self {
        Self {
            name: name.into(),
            kind: kind.into(),
            seed,
            as_of,
            rows: 0,
            schema_hash: String::new(),
            metrics: BTreeMap::new(),
            notes: Vec::new(),
            purpose: None,
            learned,
        }
    }

    /// The model's card, for people, as Markdown.
    pub fn card(&self) -> String {
        let mut out = format!(
            "# {}\n\n| | |\n|---|---|\n| kind | {} |\n| data until | {} |\n| rows | {} |\n| seed | {} |\n",
            self.name, self.kind, self.as_of, self.rows, self.seed
        );
        if let Some(purpose) = &self.purpose {
            out.push_str(&format!("| purpose | {purpose} |\n"));
        }
        if !self.schema_hash.is_empty() {
            out.push_str(&format!("| schema | `{}` |\n", self.schema_hash));
        }
        if !self.metrics.is_empty() {
            out.push_str("\n## Figures\n\n| figure | value |\n|---|---|\n");
            for (name, value) in &self.metrics {
                out.push_str(&format!("| {name} | {value} |\n"));
            }
        }
        if !self.notes.is_empty() {
            out.push_str("\n## Notes\n\n");
            for note in &self.notes {
                out.push_str(&format!("* {note}\n"));
            }
        }
        out
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    magic: String,
    format: u32,
    kind: String,
    bytes: u64,
    sha256: String,
}

/// The SHA-256 of bytes, in hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing into a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// Writes an artefact with its format version and hash.
///
/// # Errors
/// [`ErrorKind::Invalid`] when it cannot be written as JSON, or a metric is not finite: it would not come back.
pub fn seal<T: Serialize>(artefact: &Artefact<T>) -> Result<Vec<u8>> {
    let wrong = |error: Error| error.operation("pipeline.seal");
    if let Some((name, _)) = artefact.metrics.iter().find(|(_, value)| !value.is_finite()) {
        return Err(wrong(
            Error::invalid("a figure is not finite, and could not be read back").with("metric", name),
        ));
    }
    let unwritable = |e: serde_json::Error| wrong(Error::invalid("it cannot be written as JSON").source(e));
    let payload = serde_json::to_vec(artefact).map_err(unwritable)?;
    let header = Header {
        magic: MAGIC.to_owned(),
        format: FORMAT,
        kind: artefact.kind.clone(),
        bytes: payload.len() as u64,
        sha256: sha256(&payload),
    };
    let mut out = serde_json::to_vec(&header).map_err(unwritable)?;
    if out.len() > HEADER {
        return Err(wrong(
            Error::invalid("the name of the kind is too long").with("field", "kind"),
        ));
    }
    out.push(b'\n');
    out.extend(payload);
    Ok(out)
}

/// Reads an artefact back.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when a newer version of this crate wrote it (naming both formats); [`ErrorKind::Corrupt`]
/// when it is no artefact, is cut off, or a byte of it is not as it was written; [`ErrorKind::Invalid`] when what was
/// learned is of another kind than `T`.
pub fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<Artefact<T>> {
    open(bytes).map_err(|error| error.operation("pipeline.unseal"))
}

fn open<T: DeserializeOwned>(bytes: &[u8]) -> Result<Artefact<T>> {
    let corrupt = |message: &'static str| Error::new(ErrorKind::Corrupt, message);
    let line = bytes.iter().take(HEADER + 1).position(|byte| *byte == b'\n');
    let (header, payload) = line
        .and_then(|at| Some((bytes.get(..at)?, bytes.get(at + 1..)?)))
        .ok_or_else(|| corrupt("this is no model of this crate: it has no header"))?;
    // A newer header may have more in it: first only what says so.
    let said: serde_json::Value = serde_json::from_slice(header)
        .map_err(|_| corrupt("this is no model of this crate: its header cannot be read"))?;
    if said.get("magic").and_then(|magic| magic.as_str()) != Some(MAGIC) {
        return Err(corrupt("this is no model of this crate"));
    }
    match said.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) => {}
        Some(format) if format > u64::from(FORMAT) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a newer version of this crate wrote the model; update, or export it in an older format",
            )
            .with("found", format)
            .with("supported", FORMAT));
        }
        _ => return Err(corrupt("the model's format is unknown")),
    }
    let header: Header =
        serde_json::from_value(said).map_err(|_| corrupt("the model's header is not as it was written"))?;
    if payload.len() as u64 != header.bytes {
        return Err(corrupt("the model is cut off, or something was added")
            .with("bytes", payload.len())
            .with("written", header.bytes));
    }
    if sha256(payload) != header.sha256 {
        return Err(corrupt("the model is not as it was written: its hash differs"));
    }
    serde_json::from_slice(payload).map_err(|_| {
        Error::invalid("what was learned is of another kind, or from a version that described it otherwise")
            .with("kind", header.kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artefact() -> Artefact<Vec<f64>> {
        Artefact {
            rows: 3,
            metrics: [("auc".to_owned(), 0.1 + 0.2)].into(),
            notes: vec!["Not for prices.".to_owned()],
            ..Artefact::new(
                "churn",
                "weights",
                7,
                Timestamp::EPOCH,
                vec![1.0 / 3.0, -0.0, f64::MIN_POSITIVE],
            )
        }
    }

    #[test]
    fn what_was_learned_comes_back_to_the_last_bit() {
        let bytes = seal(&artefact()).unwrap();
        let read: Artefact<Vec<f64>> = unseal(&bytes).unwrap();
        let bits = |v: &[f64]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read.learned), bits(&artefact().learned));
        assert_eq!(read, artefact());
        assert!(read.card().contains("| auc | 0.30000000000000004 |"));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let bytes = seal(&artefact()).unwrap();
        for at in 0..bytes.len() {
            for bit in [0, 3, 7] {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(
                    unseal::<Vec<f64>>(&damaged).is_err() || is_kind_only(&bytes, at),
                    "byte {at} bit {bit}"
                );
            }
            assert!(unseal::<Vec<f64>>(&bytes[..at]).is_err(), "cut at {at}");
        }
        let mut longer = bytes.clone();
        longer.push(b' ');
        assert!(unseal::<Vec<f64>>(&longer).is_err());
    }

    /// The header's copy of the kind is for people; the one that counts is under the hash.
    fn is_kind_only(bytes: &[u8], at: usize) -> bool {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let start = text.find("\"kind\":\"").unwrap() + 8;
        (start..start + "weights".len()).contains(&at)
    }

    #[test]
    fn newer_formats_and_other_kinds_are_refused() {
        let text = String::from_utf8(seal(&artefact()).unwrap()).unwrap();
        let newer = text.replacen("\"format\":1", "\"format\":2", 1);
        let error = unseal::<Vec<f64>>(newer.as_bytes()).unwrap_err();
        assert_eq!(
            (error.kind(), error.context("found")),
            (ErrorKind::Unsupported, Some("2"))
        );
        let error = unseal::<Vec<String>>(text.as_bytes()).unwrap_err();
        assert_eq!(
            (error.kind(), error.context("kind")),
            (ErrorKind::Invalid, Some("weights"))
        );
        for strange in [&b""[..], b"\n", b"{}\n", b"PK\x03\x04", b"[1]\n2"] {
            assert_eq!(
                unseal::<Vec<f64>>(strange).unwrap_err().kind(),
                ErrorKind::Corrupt
            );
        }
        let mut infinite = artefact();
        infinite.metrics.insert("loss".into(), f64::INFINITY);
        assert_eq!(seal(&infinite).unwrap_err().context("metric"), Some("loss"));
    }
}
