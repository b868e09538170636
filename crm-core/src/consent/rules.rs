//! The rules: each one a function over what is stored that answers with a line of the trace.

use crate::Timestamp;
use crate::customer::ContactState;

use super::facts::{Asked, Facts};
use super::{ConsentState, Decision};

/// What one rule says.
enum Answer {
    Yes(String),
    No(String),
}

type Rule = fn(&Facts, &Asked<'_>, Timestamp) -> Answer;

/// In this order; the first "no" ends it.
const RULES: [Rule; 4] = [purpose, contact, suppression, consent];

/// Asks every rule until one says no.
pub(super) fn decide(facts: &Facts, asked: &Asked<'_>, now: Timestamp) -> Decision {
    let mut trace = Vec::with_capacity(RULES.len());
    for rule in RULES {
        match rule(facts, asked, now) {
            Answer::Yes(line) => trace.push(line),
            Answer::No(line) => {
                trace.push(line);
                return Decision::new(false, trace);
            }
        }
    }
    Decision::new(true, trace)
}

fn purpose(_: &Facts, asked: &Asked<'_>, _: Timestamp) -> Answer {
    match asked.purpose.validate() {
        Ok(()) => Answer::Yes(format!(
            "purpose: {}, {}",
            asked.purpose.name,
            asked.purpose.class.as_str()
        )),
        Err(error) => Answer::No(format!("purpose: {}", error.message())),
    }
}

fn contact(facts: &Facts, asked: &Asked<'_>, _: Timestamp) -> Answer {
    let r = &asked.recipient;
    match facts.contacts.get(&(r.customer, r.kind(), r.address.clone())) {
        None => Answer::No("contact: the address is no contact point of this customer".to_owned()),
        Some(ContactState::Invalid) => Answer::No("contact: the address is known not to work".to_owned()),
        Some(state) => Answer::Yes(format!("contact: the customer's own, {}", state.as_str())),
    }
}

fn suppression(facts: &Facts, asked: &Asked<'_>, _: Timestamp) -> Answer {
    let covering = facts
        .suppressions
        .get(&asked.key)
        .into_iter()
        .flatten()
        .find(|s| s.scope.covers(asked.purpose));
    match covering {
        Some(found) => Answer::No(format!(
            "suppression: {} since {} ({})",
            found.scope,
            found.created_at,
            found.reason.as_str()
        )),
        None => Answer::Yes("suppression: none".to_owned()),
    }
}

fn consent(facts: &Facts, asked: &Asked<'_>, now: Timestamp) -> Answer {
    if !asked.purpose.needs_consent() {
        return Answer::Yes("consent: not needed for this purpose".to_owned());
    }
    match facts.state(asked, now) {
        ConsentState::None => Answer::No(format!("consent: none on record for {}", asked.purpose.name)),
        ConsentState::Granted { since } => Answer::Yes(format!("consent: granted {since}")),
        ConsentState::Withdrawn { since } => Answer::No(format!("consent: withdrawn {since}")),
        ConsentState::Expired { since } => Answer::No(format!("consent: expired {since}")),
    }
}
