use crate::Timestamp;
use crate::customer::CustomerId;

use super::{ConsentAction, ConsentEvent};

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
    /// Given, but not yet confirmed from the address itself, as the purpose demands.
    Pending {
        /// Since when.
        since: Timestamp,
    },
    /// Objected to.
    Objected {
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
        Self::newest(events, now, false, |event| event.customer_id == customer)
    }

    /// The newest word: one that agrees where `own` says so, or anybody's that does not. With `confirmed`, one that agrees
    /// counts only when it was confirmed after the last that did not.
    fn newest<'a>(
        events: impl IntoIterator<Item = &'a ConsentEvent>,
        now: Timestamp,
        confirmed: bool,
        own: impl Fn(&ConsentEvent) -> bool,
    ) -> Self {
        let mut yes: Option<&ConsentEvent> = None;
        let mut confirmation: Option<&ConsentEvent> = None;
        let mut no: Option<&ConsentEvent> = None;
        let order = |event: &ConsentEvent| (event.at, event.action);
        let keep = |best: &mut Option<&'a ConsentEvent>, event: &'a ConsentEvent| {
            if best.is_none_or(|best| order(event) >= order(best)) {
                *best = Some(event);
            }
        };
        for event in events {
            if !event.action.agrees() {
                keep(&mut no, event);
            } else if own(event) && event.at <= now {
                keep(&mut yes, event);
                if event.action == ConsentAction::Confirmed {
                    keep(&mut confirmation, event);
                }
            }
        }
        let after = |event: &&ConsentEvent| no.is_none_or(|no| event.at > no.at);
        let counts = if confirmed { confirmation } else { yes };
        match (counts.filter(after), yes.filter(after), no) {
            (Some(event), ..) => match event.expires_at {
                Some(until) if until <= now => Self::Expired { since: until },
                _ => Self::Granted { since: event.at },
            },
            (None, Some(event), _) => Self::Pending { since: event.at },
            (None, None, Some(event)) if event.action == ConsentAction::Objected => {
                Self::Objected { since: event.at }
            }
            (None, None, Some(event)) => Self::Withdrawn { since: event.at },
            (None, None, None) => Self::None,
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
        Self::read(events, customer, Some((members, merged_at)), now, false)
    }

    /// As [`ConsentState::derive`] or, with `merged`, [`ConsentState::derive_merged`]; with `confirmed`, a consent counts
    /// only once it was confirmed.
    pub(super) fn read<'a>(
        events: impl IntoIterator<Item = &'a ConsentEvent> + Clone,
        customer: CustomerId,
        merged: Option<(&[CustomerId], Timestamp)>,
        now: Timestamp,
        confirmed: bool,
    ) -> Self {
        let own = Self::newest(events.clone(), now, confirmed, |event| {
            event.customer_id == customer
        });
        let Some((members, merged_at)) = merged else {
            return own;
        };
        let state = |member: &CustomerId| {
            let said = events
                .clone()
                .into_iter()
                .any(|event| event.customer_id == *member && event.at <= now);
            said.then(|| {
                Self::newest(events.clone(), now, confirmed, |event| {
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

    /// Whether it lets marketing out.
    pub fn is_granted(&self) -> bool {
        matches!(self, Self::Granted { .. })
    }

    /// The state as it is shown: `granted`, `withdrawn`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Granted { .. } => "granted",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Expired { .. } => "expired",
            Self::Pending { .. } => "pending",
            Self::Objected { .. } => "objected",
        }
    }

    fn restriction(&self) -> (u8, Timestamp) {
        match self {
            Self::None => (0, Timestamp::EPOCH),
            Self::Granted { since } => (1, *since),
            Self::Pending { since } => (2, *since),
            Self::Expired { since } => (3, *since),
            Self::Withdrawn { since } => (4, *since),
            Self::Objected { since } => (5, *since),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Uuid;
    use crate::consent::Evidence;
    use crate::customer::ContactKind;

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
            channel: None,
            basis: None,
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
    fn a_confirmation_counts_until_somebody_says_no() {
        use ConsentAction::{Confirmed, Granted, Imported, Objected, Withdrawn};
        let t = Timestamp::from_micros;
        let ana = Uuid::from_u128(1).into();
        let state = |said: &[(ConsentAction, i64)]| {
            let events: Vec<ConsentEvent> = said.iter().map(|(a, at)| event(*a, *at, 1, None)).collect();
            ConsentState::read(&events, ana, None, t(9), true)
        };
        assert_eq!(state(&[(Granted, 1)]), ConsentState::Pending { since: t(1) });
        assert_eq!(state(&[(Imported, 2)]), ConsentState::Pending { since: t(2) });
        assert_eq!(
            state(&[(Granted, 1), (Confirmed, 2)]),
            ConsentState::Granted { since: t(2) }
        );
        // Asked again once confirmed: nothing to confirm anew.
        assert_eq!(
            state(&[(Granted, 1), (Confirmed, 2), (Granted, 3)]),
            ConsentState::Granted { since: t(2) }
        );
        assert_eq!(
            state(&[(Confirmed, 2), (Withdrawn, 3), (Granted, 4)]),
            ConsentState::Pending { since: t(4) }
        );
        assert_eq!(
            state(&[(Confirmed, 2), (Withdrawn, 3), (Objected, 3)]),
            ConsentState::Objected { since: t(3) }
        );
        assert_eq!(
            state(&[(Confirmed, 2), (Withdrawn, 2)]),
            ConsentState::Withdrawn { since: t(2) }
        );
    }
}
