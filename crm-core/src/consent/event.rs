use std::fmt;

use serde::{Deserialize, Serialize};

use crate::customer::{ContactKind, CustomerId};
use crate::message::Channel;
use crate::record::{Entity, Field, FieldType, Index, Record, Schema, Stored};
use crate::{Actor, Error, Id, Result, Timestamp, Uuid};

use super::LegalBasis;
use super::key::{optional, sha256};

/// What a consent event says.
///
/// In the order in which they count when two have the same instant, the strongest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ConsentAction {
    /// The person agreed.
    Granted,
    /// The person agreed elsewhere, and the proof of it was brought here.
    Imported,
    /// The person confirmed from the address itself (double opt-in).
    Confirmed,
    /// The person took it back.
    Withdrawn,
    /// The person objected (GDPR, Art. 21): also against what needs no consent but rests on a legitimate interest.
    Objected,
}

impl ConsentAction {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Granted,
        Self::Imported,
        Self::Confirmed,
        Self::Withdrawn,
        Self::Objected,
    ];

    /// The action as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Imported => "imported",
            Self::Confirmed => "confirmed",
            Self::Withdrawn => "withdrawn",
            Self::Objected => "objected",
        }
    }

    /// Whether it says yes.
    pub fn agrees(self) -> bool {
        matches!(self, Self::Granted | Self::Imported | Self::Confirmed)
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

/// What proves a consent event: where it happened, the words the person saw, who recorded it, and whatever else the host
/// keeps (the fields of ISO/IEC TS 27560). `Debug` shows the source only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Where it happened: `sign-up form`, `call centre`, `import 2026-03`.
    pub source: String,
    /// The words the person agreed to, or the notice's id.
    pub notice: String,
    /// The language of the notice (BCP 47).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Which version of the words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The SHA-256 of the words, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice_sha256: Option<String>,
    /// Who recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// What else is kept: a form's id, a hash of the network address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
}

impl Evidence {
    /// Evidence from `source` with the words of `notice`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when either is empty: consent nobody can prove is none.
    pub fn new(source: &str, notice: &str) -> Result<Self> {
        for (field, text) in [("evidence.source", source), ("evidence.notice", notice)] {
            if text.trim().is_empty() {
                return Err(Error::invalid(
                    "consent needs evidence: say where it was given and the words that were shown",
                )
                .with("field", field));
            }
        }
        Ok(Self {
            source: source.trim().to_owned(),
            notice: notice.trim().to_owned(),
            language: None,
            version: None,
            notice_sha256: Some(sha256(notice.trim().as_bytes())),
            actor: None,
            detail: None,
        })
    }

    /// In this language (BCP 47).
    #[must_use]
    pub fn language(mut self, language: impl Into<String>) -> Self {
        self.language = Some(language.into());
        self
    }

    /// This version of the words.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// With what else is kept.
    #[must_use]
    pub fn detail(mut self, detail: serde_json::Value) -> Self {
        self.detail = Some(detail);
        self
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Evidence({}, ..)", self.source)
    }
}

/// Consent given or withdrawn: one line of a log that only grows. Refers to the address by its keyed hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentEvent {
    /// Its id.
    pub id: Id<ConsentEvent>,
    /// The purpose's name.
    pub purpose: String,
    /// The kind of contact point.
    pub kind: ContactKind,
    /// The one channel it is about; every channel that reaches the address when absent.
    pub channel: Option<Channel>,
    /// The keyed hash of the canonical address ([`super::AddressKey`]).
    pub address_key: String,
    /// Whose it is.
    pub customer_id: CustomerId,
    /// What happened.
    pub action: ConsentAction,
    /// When.
    pub at: Timestamp,
    /// Until when a grant counts; for ever when absent.
    pub expires_at: Option<Timestamp>,
    /// On what ground; consent when absent.
    pub basis: Option<LegalBasis>,
    /// What proves it.
    pub evidence: Evidence,
}

impl ConsentEvent {
    /// About this channel only.
    #[must_use]
    pub fn by(mut self, channel: Channel) -> Self {
        self.channel = Some(channel);
        self
    }

    /// On this ground.
    #[must_use]
    pub fn on(mut self, basis: LegalBasis) -> Self {
        self.basis = Some(basis);
        self
    }

    /// In force until then.
    #[must_use]
    pub fn until(mut self, expires_at: Timestamp) -> Self {
        self.expires_at = Some(expires_at);
        self
    }

    /// Said at this instant: what is imported was said earlier.
    #[must_use]
    pub fn said_at(mut self, at: Timestamp) -> Self {
        self.at = at;
        self
    }

    /// Whether it has a say about messages by this channel.
    pub fn concerns(&self, channel: Channel) -> bool {
        self.channel.is_none_or(|only| only == channel)
    }
}

/// How a [`ConsentEvent`] is stored.
pub static CONSENT_EVENT: Schema = Schema {
    name: "crm_consent_event",
    fields: &[
        Field::new("purpose", FieldType::Text),
        Field::new("kind", FieldType::Text),
        Field::new("address_key", FieldType::Text).pseudonym(),
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("action", FieldType::Text),
        Field::new("at", FieldType::Timestamp).personal(),
        Field::new("expires_at", FieldType::Timestamp)
            .nullable()
            .personal(),
        Field::new("evidence", FieldType::Json).personal(),
        Field::new("channel", FieldType::Text).nullable(),
        Field::new("basis", FieldType::Text).nullable(),
    ],
    indexes: &[
        Index::new("crm_consent_event_address", &["address_key", "purpose", "at"]),
        Index::new("crm_consent_event_customer", &["customer_id", "at"]),
    ],
};

impl Entity for ConsentEvent {
    fn schema() -> &'static Schema {
        &CONSENT_EVENT
    }
    fn record_id(&self) -> Uuid {
        self.id.uuid()
    }
    fn to_record(&self) -> Result<Record> {
        let evidence = serde_json::to_value(&self.evidence).map_err(|e| {
            Error::invalid("the evidence cannot be written as JSON")
                .with("field", "evidence")
                .source(e)
        })?;
        Record::from_values(
            &CONSENT_EVENT,
            vec![
                self.purpose.as_str().into(),
                self.kind.as_str().into(),
                self.address_key.as_str().into(),
                self.customer_id.into(),
                self.action.as_str().into(),
                self.at.into(),
                self.expires_at.into(),
                evidence.into(),
                self.channel.map(Channel::as_str).into(),
                self.basis.map(LegalBasis::as_str).into(),
            ],
        )
    }
    fn from_stored(stored: Stored) -> Result<Self> {
        let r = &stored.record;
        let evidence = r
            .get("evidence")
            .and_then(|v| v.as_json())
            .ok_or_else(|| r.damaged("evidence"))?;
        Ok(Self {
            id: stored.id.into(),
            purpose: r.text("purpose")?.to_owned(),
            kind: r.text("kind")?.parse().map_err(|_| r.damaged("kind"))?,
            address_key: r.text("address_key")?.to_owned(),
            customer_id: r.uuid("customer_id")?.into(),
            action: ConsentAction::parse(r.text("action")?).ok_or_else(|| r.damaged("action"))?,
            at: r.timestamp("at")?,
            expires_at: r.get("expires_at").and_then(|v| v.as_timestamp()),
            evidence: Evidence::deserialize(evidence).map_err(|_| r.damaged("evidence"))?,
            channel: optional(r, "channel", |text| text.parse().ok())?,
            basis: optional(r, "basis", LegalBasis::parse)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_evidence_no_consent() {
        assert_eq!(
            Evidence::new("form", " ").unwrap_err().context("field"),
            Some("evidence.notice")
        );
        assert_eq!(
            Evidence::new("", "x").unwrap_err().context("field"),
            Some("evidence.source")
        );
    }
}
