//! The rules: each one a function over what is stored that answers with a line of the trace.

use crate::Timestamp;
use crate::customer::ContactState;

use super::facts::{Asked, Facts};
use super::{ConsentState, Decision, Purpose};

/// What one rule says.
enum Answer {
    /// Go on.
    Yes(String),
    /// Not, or not before then.
    No(String, Option<Timestamp>),
    /// It has nothing to say.
    Nothing,
}

fn no(line: impl Into<String>) -> Answer {
    Answer::No(line.into(), None)
}

fn yes(line: impl Into<String>) -> Answer {
    Answer::Yes(line.into())
}

type Rule = fn(&Facts<'_>, &Asked<'_>, Timestamp) -> Answer;

/// In this order; the first "no" ends it.
const RULES: [Rule; 6] = [purpose, contact, suppression, consent, quiet_hours, frequency];

/// Asks every rule until one says no.
pub(super) fn decide(facts: &Facts<'_>, asked: &Asked<'_>, now: Timestamp) -> Decision {
    let mut decision = Decision::new(true, Vec::with_capacity(RULES.len()));
    for rule in RULES {
        match rule(facts, asked, now) {
            Answer::Yes(line) => decision.trace.push(line),
            Answer::Nothing => {}
            Answer::No(line, at) => {
                decision.trace.push(line);
                decision.allowed = false;
                decision.later = at;
                break;
            }
        }
    }
    decision
}

fn purpose(facts: &Facts<'_>, asked: &Asked<'_>, _: Timestamp) -> Answer {
    if let Err(error) = asked.purpose.validate() {
        return no(format!("purpose: {}", error.message()));
    }
    let (name, class) = (&asked.purpose.name, asked.purpose.class.as_str());
    match facts.purposes.get(name) {
        None if facts.rules.registered_purposes_only => no(format!("purpose: {name} is not on record")),
        None => yes(format!("purpose: {name}, {class}")),
        Some(known) => match known.mismatch(asked.purpose) {
            Some((_, registered, asked_as)) => no(format!(
                "purpose: {name} is on record as {registered}, not as {asked_as}"
            )),
            None => yes(format!("purpose: {name}, {class}, version {}", known.version)),
        },
    }
}

fn contact(facts: &Facts<'_>, asked: &Asked<'_>, _: Timestamp) -> Answer {
    let r = &asked.recipient;
    match facts.contacts.get(&(r.customer, r.kind(), r.address.clone())) {
        None => no("contact: the address is no contact point of this customer"),
        Some(ContactState::Invalid) => no("contact: the address is known not to work"),
        Some(state) => yes(format!("contact: the customer's own, {}", state.as_str())),
    }
}

fn suppression(facts: &Facts<'_>, asked: &Asked<'_>, now: Timestamp) -> Answer {
    let purpose = facts.purpose(asked);
    let covering = facts
        .suppressions
        .get(&asked.key)
        .into_iter()
        .flatten()
        .filter(|s| s.covers(purpose, asked.channel(), now))
        .min_by_key(|s| s.created_at);
    let Some(found) = covering else {
        return yes("suppression: none");
    };
    let by = found
        .channel
        .map_or_else(String::new, |channel| format!(" by {channel}"));
    let until = found
        .expires_at
        .map_or_else(String::new, |until| format!(" until {until}"));
    no(format!(
        "suppression: {}{by} since {}{until} ({})",
        found.scope,
        found.created_at,
        found.reason.as_str()
    ))
}

/// Whether messages of a purpose may go out with the consent as it stands.
pub(super) fn agrees(purpose: &Purpose, state: &ConsentState) -> bool {
    if purpose.needs_consent() {
        return state.is_granted();
    }
    let refused = matches!(
        state,
        ConsentState::Withdrawn { .. } | ConsentState::Objected { .. }
    );
    !(purpose.asks_consent() && refused)
}

fn consent(facts: &Facts<'_>, asked: &Asked<'_>, now: Timestamp) -> Answer {
    let purpose = facts.purpose(asked);
    if !purpose.asks_consent() {
        return yes("consent: not needed for this purpose");
    }
    let state = facts.state(asked, now);
    let line = match state {
        ConsentState::None if !purpose.needs_consent() => {
            "consent: not needed for this purpose, no objection".to_owned()
        }
        ConsentState::None => format!(
            "consent: none on record for {} by {}",
            purpose.name,
            asked.channel()
        ),
        ConsentState::Granted { since } => format!("consent: granted {since}"),
        ConsentState::Withdrawn { since } => format!("consent: withdrawn {since}"),
        ConsentState::Objected { since } => format!("consent: objected {since}"),
        ConsentState::Expired { since } => format!("consent: expired {since}"),
        ConsentState::Pending { since } => format!("consent: given {since}, not yet confirmed"),
    };
    if agrees(purpose, &state) {
        yes(line)
    } else {
        no(line)
    }
}

fn quiet_hours(facts: &Facts<'_>, asked: &Asked<'_>, now: Timestamp) -> Answer {
    let (purpose, channel) = (facts.purpose(asked), asked.channel());
    let mut whereabouts = None;
    let mut names = Vec::new();
    for rule in &facts.rules.quiet {
        if !rule.may_concern(purpose, channel) {
            continue;
        }
        let there = whereabouts.get_or_insert_with(|| facts.whereabouts(asked));
        if !rule.concerns(purpose, channel, there) {
            continue;
        }
        names.push(rule.name.as_str());
        let how = format!(
            "{} time zone{} {}",
            there.zones.len(),
            if there.zones.len() == 1 { "," } else { "s," },
            there.source
        );
        match rule.free_at(rule.zones(there), now) {
            Some(at) if at <= now => {}
            Some(_) => {
                return match not_before(facts, asked, now) {
                    Some(at) => {
                        Answer::No(format!("quiet hours: {} until {at} ({how})", rule.name), Some(at))
                    }
                    None => no(format!("quiet hours: no hour is free under all rules ({how})")),
                };
            }
            None => {
                return no(format!(
                    "quiet hours: {} is never free in all of them at once ({how})",
                    rule.name
                ));
            }
        }
    }
    match (facts.rules.quiet.is_empty(), names.is_empty()) {
        (true, _) => Answer::Nothing,
        (false, true) => yes("quiet hours: none for this message"),
        (false, false) => yes(format!("quiet hours: free under {}", names.join(", "))),
    }
}

fn frequency(facts: &Facts<'_>, asked: &Asked<'_>, now: Timestamp) -> Answer {
    let mut names = Vec::new();
    for cap in facts.caps(asked) {
        names.push(cap.name.as_str());
        let free = facts.counts.free_at(
            cap,
            asked.customer(),
            facts.merged.members(asked.customer()),
            asked.message,
            now,
        );
        if free > now {
            let had = format!("{} in {} s", cap.most, cap.per.as_secs());
            return match not_before(facts, asked, free) {
                Some(at) => Answer::No(
                    format!("frequency: {} allows {had}, next {at}", cap.name),
                    Some(at),
                ),
                None => no(format!(
                    "frequency: {} allows {had}, and then no hour is free",
                    cap.name
                )),
            };
        }
    }
    match (facts.rules.caps.is_empty(), names.is_empty()) {
        (true, _) => Answer::Nothing,
        (false, true) => yes("frequency: no cap for this message"),
        (false, false) => yes(format!("frequency: within {}", names.join(", "))),
    }
}

/// The first moment, not before `from`, at which both the hours and the caps let it go.
fn not_before(facts: &Facts<'_>, asked: &Asked<'_>, from: Timestamp) -> Option<Timestamp> {
    let (purpose, channel, customer) = (facts.purpose(asked), asked.channel(), asked.customer());
    let there = facts.whereabouts(asked);
    let mut at = from;
    // Each round leaves at least one rule content for good or gives up after a fortnight ahead.
    for _ in 0..32 {
        let mut latest = at;
        for cap in facts.caps(asked) {
            let members = facts.merged.members(customer);
            latest = latest.max(
                facts
                    .counts
                    .free_at(cap, customer, members, asked.message, latest),
            );
        }
        for rule in &facts.rules.quiet {
            if rule.may_concern(purpose, channel) && rule.concerns(purpose, channel, &there) {
                latest = rule.free_at(rule.zones(&there), latest)?;
            }
        }
        if latest == at {
            return Some(at);
        }
        at = latest;
    }
    None
}
