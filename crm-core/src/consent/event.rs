use std::fmt;

use serde::{Deserialize, Serialize};

use crate::customer::{ContactKind, CustomerId};
use crate::record::{Entity, Field, FieldType, Index, Record, Schema, Stored};
use crate::{Error, Id, Result, Timestamp, Uuid};

/// What a consent event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsentAction {
    /// The person agreed.
    Granted,
    /// The person took it back.
    Withdrawn,
}

impl ConsentAction {
    /// The action as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// What proves a consent event: where it happened, the words the person saw, and whatever else the host keeps. `Debug`
/// shows the source only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Where it happened: `sign-up form`, `call centre`, `import 2026-03`.
    pub source: String,
    /// The words the person agreed to, or the notice's id.
    pub notice: String,
    /// The language of the notice (BCP 47).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
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
            detail: None,
        })
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
    /// What proves it.
    pub evidence: Evidence,
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
            action: match r.text("action")? {
                "granted" => ConsentAction::Granted,
                "withdrawn" => ConsentAction::Withdrawn,
                _ => return Err(r.damaged("action")),
            },
            at: r.timestamp("at")?,
            expires_at: r.get("expires_at").and_then(|v| v.as_timestamp()),
            evidence: Evidence::deserialize(evidence).map_err(|_| r.damaged("evidence"))?,
        })
    }
}

/// Where one person's consent stands, derived from the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsentState {
    /// Never given.
    None,
    /// Given and in force.
    Granted {
        /// Since when.
        since: Timestamp,
    },
    /// Taken back.
    Withdrawn {
        /// Since when.
        since: Timestamp,
    },
    /// Given once, but its time is over.
    Expired {
        /// Since when.
        since: Timestamp,
    },
}

impl ConsentState {
    /// The state at `now` for one customer at one address and purpose. The newest event counts; at the same instant a
    /// withdrawal beats a grant. A grant counts only for the customer who gave it, a withdrawal for whoever is reached
    /// at the address: a merge or a shared mailbox can lose a consent, never a withdrawal.
    pub fn derive<'a>(
        events: impl IntoIterator<Item = &'a ConsentEvent>,
        customer: CustomerId,
        now: Timestamp,
    ) -> Self {
        Self::newest(events, now, |event| event.customer_id == customer)
    }

    /// The newest word: a grant where `own` says so, or anybody's withdrawal.
    fn newest<'a>(
        events: impl IntoIterator<Item = &'a ConsentEvent>,
        now: Timestamp,
        own: impl Fn(&ConsentEvent) -> bool,
    ) -> Self {
        let newest = events
            .into_iter()
            .filter(|e| e.action == ConsentAction::Withdrawn || (own(e) && e.at <= now))
            .max_by_key(|e| (e.at, e.action));
        match newest {
            None => Self::None,
            Some(event) => match (event.action, event.expires_at) {
                (ConsentAction::Withdrawn, _) => Self::Withdrawn { since: event.at },
                (ConsentAction::Granted, Some(until)) if until <= now => Self::Expired { since: until },
                (ConsentAction::Granted, _) => Self::Granted { since: event.at },
            },
        }
    }

    /// The state for a person who was several customers until they were merged at `merged_at`: `members` are the ids
    /// they had. Every event keeps the subject who gave it; of the states of all who said something themselves, the
    /// most restrictive one counts. So a withdrawal by any of them stands until the merged customer agrees again.
    pub fn derive_merged<'a>(
        events: impl IntoIterator<Item = &'a ConsentEvent> + Clone,
        customer: CustomerId,
        members: &[CustomerId],
        merged_at: Timestamp,
        now: Timestamp,
    ) -> Self {
        let own = Self::derive(events.clone(), customer, now);
        let state = |member: &CustomerId| {
            let said = events
                .clone()
                .into_iter()
                .any(|event| event.customer_id == *member && event.at <= now);
            said.then(|| {
                Self::newest(events.clone(), now, |event| {
                    event.customer_id == *member || (event.customer_id == customer && event.at > merged_at)
                })
            })
        };
        members
            .iter()
            .filter(|member| **member != customer)
            .filter_map(state)
            .chain((own != Self::None).then_some(own))
            .max_by_key(Self::restriction)
            .unwrap_or(Self::None)
    }

    fn restriction(&self) -> (u8, Timestamp) {
        match self {
            Self::None => (0, Timestamp::EPOCH),
            Self::Granted { since } => (1, *since),
            Self::Expired { since } => (2, *since),
            Self::Withdrawn { since } => (3, *since),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_customers_keep_the_most_restrictive_word() {
        use ConsentAction::{Granted, Withdrawn};
        let t = Timestamp::from_micros;
        let (ana, old) = (Uuid::from_u128(1).into(), Uuid::from_u128(2).into());
        let state = |events: &[ConsentEvent]| ConsentState::derive_merged(events, ana, &[old], t(5), t(9));
        assert_eq!(state(&[]), ConsentState::None);
        // The proof of the one that is gone is found for the one that stays.
        let theirs = event(Granted, 4, 2, None);
        assert_eq!(
            state(std::slice::from_ref(&theirs)),
            ConsentState::Granted { since: t(4) }
        );
        // Ana took it back before: the other's later word does not undo that, her own does.
        let taken = event(Withdrawn, 2, 1, None);
        assert_eq!(
            state(&[taken.clone(), theirs.clone()]),
            ConsentState::Withdrawn { since: t(2) }
        );
        let again = event(Granted, 6, 1, None);
        assert_eq!(
            state(&[taken, theirs, again.clone()]),
            ConsentState::Granted { since: t(6) }
        );
        // The other took it back, and Ana agreed later, both before the merge: the withdrawal stands.
        assert_eq!(
            state(&[event(Withdrawn, 3, 2, None), event(Granted, 4, 1, None)]),
            ConsentState::Withdrawn { since: t(3) }
        );
        // Once merged, she speaks for both.
        assert_eq!(
            state(&[event(Withdrawn, 3, 2, None), again.clone()]),
            ConsentState::Granted { since: t(6) }
        );
        // Somebody else at the same address.
        assert_eq!(
            state(&[event(Withdrawn, 7, 3, None), again]),
            ConsentState::Withdrawn { since: t(7) }
        );
    }

    fn event(action: ConsentAction, at: i64, customer: u128, expires: Option<i64>) -> ConsentEvent {
        ConsentEvent {
            id: Uuid::nil().into(),
            purpose: "news".into(),
            kind: ContactKind::Email,
            address_key: "k".into(),
            customer_id: Uuid::from_u128(customer).into(),
            action,
            at: Timestamp::from_micros(at),
            expires_at: expires.map(Timestamp::from_micros),
            evidence: Evidence::new("form", "yes").unwrap(),
        }
    }

    #[test]
    fn the_newest_counts_and_a_withdrawal_wins_a_tie() {
        use ConsentAction::{Granted, Withdrawn};
        let t = Timestamp::from_micros;
        let ana = Uuid::from_u128(1).into();
        let state = |events: &[ConsentEvent], now: i64| ConsentState::derive(events, ana, t(now));
        assert_eq!(state(&[], 9), ConsentState::None);
        let given = event(Granted, 1, 1, None);
        let taken = event(Withdrawn, 2, 1, None);
        let again = event(Granted, 3, 1, None);
        assert_eq!(
            state(&[taken.clone(), given.clone()], 9),
            ConsentState::Withdrawn { since: t(2) }
        );
        assert_eq!(
            state(&[again.clone(), taken.clone(), given.clone()], 9),
            ConsentState::Granted { since: t(3) }
        );
        assert_eq!(
            state(&[event(Withdrawn, 3, 1, None), again], 9),
            ConsentState::Withdrawn { since: t(3) }
        );
        // Another person at the same address: their grant is not Ana's, their withdrawal is the mailbox's.
        assert_eq!(state(&[event(Granted, 1, 2, None)], 9), ConsentState::None);
        assert_eq!(
            state(&[given.clone(), event(Withdrawn, 2, 2, None)], 9),
            ConsentState::Withdrawn { since: t(2) }
        );
        // Expiry, and a grant from the future.
        let short = event(Granted, 1, 1, Some(5));
        assert_eq!(
            state(std::slice::from_ref(&short), 4),
            ConsentState::Granted { since: t(1) }
        );
        assert_eq!(state(&[short], 5), ConsentState::Expired { since: t(5) });
        assert_eq!(state(&[event(Granted, 10, 1, None)], 9), ConsentState::None);
    }

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
