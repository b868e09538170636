use std::fmt;
use std::str::FromStr;

use crate::customer::ContactKind;
use crate::message::Channel;
use crate::record::{Entity, Field, FieldType, Index, Record, Schema, Stored, Write};
use crate::{Error, Id, Result, Timestamp, Uuid};

use super::key::{named_id, optional};
use super::{Purpose, PurposeClass};

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
///
/// Each reason is a record of its own: that a person unsubscribed does not hide that they complained later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    /// Its id.
    pub id: Id<Suppression>,
    /// The kind of address.
    pub kind: ContactKind,
    /// The keyed hash of the canonical address.
    pub address_key: String,
    /// The one channel that is kept back; all that reach the address when absent.
    pub channel: Option<Channel>,
    /// What is kept back.
    pub scope: SuppressionScope,
    /// Why.
    pub reason: SuppressionReason,
    /// Since when.
    pub created_at: Timestamp,
    /// Until when; for good when absent.
    pub expires_at: Option<Timestamp>,
}

impl Suppression {
    /// A suppression for good, of every channel. Its id is made from what it says: one address has at most one of each
    /// kind.
    pub fn new(
        kind: ContactKind,
        address_key: impl Into<String>,
        scope: SuppressionScope,
        reason: SuppressionReason,
        created_at: Timestamp,
    ) -> Self {
        Self {
            id: Uuid::nil().into(),
            kind,
            address_key: address_key.into(),
            channel: None,
            scope,
            reason,
            created_at,
            expires_at: None,
        }
        .named()
    }

    /// Of this channel only: who wants no SMS may still be called.
    #[must_use]
    pub fn by(mut self, channel: Option<Channel>) -> Self {
        self.channel = channel;
        self.named()
    }

    /// Only until then.
    #[must_use]
    pub fn until(mut self, expires_at: Option<Timestamp>) -> Self {
        self.expires_at = expires_at;
        self.named()
    }

    fn named(mut self) -> Self {
        self.id = named_id(&["suppression", &self.address_key, &self.stored_scope()]).into();
        self
    }

    /// The scope as it is stored, with all that makes it another suppression of the same address behind it: the unique
    /// index is over this text.
    fn stored_scope(&self) -> String {
        let Self { scope, reason, .. } = self;
        let channel = self.channel.map_or("every channel", Channel::as_str);
        let time = if self.expires_at.is_some() {
            "for a time"
        } else {
            "for good"
        };
        format!("{scope}|{}|{channel}|{time}", reason.as_str())
    }

    /// Whether messages of `purpose` by `channel` are kept back at `now`.
    pub fn covers(&self, purpose: &Purpose, channel: Channel, now: Timestamp) -> bool {
        self.channel.is_none_or(|only| only == channel)
            && self.expires_at.is_none_or(|until| until > now)
            && self.scope.covers(purpose)
    }

    /// The write that stores it: one for good leaves one that is there alone, so the first stays; one for a time takes
    /// the place of an earlier one.
    ///
    /// # Errors
    /// When the record cannot be made.
    pub fn write(&self) -> Result<Write> {
        let record = self.to_record()?;
        Ok(match self.expires_at {
            None => Write::insert_or_skip(self.id, record),
            Some(_) => Write::put(self.id, record),
        })
    }
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
        Field::new("channel", FieldType::Text).nullable(),
        Field::new("expires_at", FieldType::Timestamp).nullable(),
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
                self.stored_scope().into(),
                self.reason.as_str().into(),
                self.created_at.into(),
                self.channel.map(Channel::as_str).into(),
                self.expires_at.into(),
            ],
        )
    }
    fn from_stored(stored: Stored) -> Result<Self> {
        let r = &stored.record;
        Ok(Self {
            id: stored.id.into(),
            kind: r.text("kind")?.parse().map_err(|_| r.damaged("kind"))?,
            address_key: r.text("address_key")?.to_owned(),
            scope: r
                .text("scope")?
                .split('|')
                .next()
                .unwrap_or_default()
                .parse()
                .map_err(|_| r.damaged("scope"))?,
            reason: SuppressionReason::parse(r.text("reason")?).ok_or_else(|| r.damaged("reason"))?,
            created_at: r.timestamp("created_at")?,
            channel: optional(r, "channel", |text| text.parse().ok())?,
            expires_at: r.get("expires_at").and_then(|v| v.as_timestamp()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
