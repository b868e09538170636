//! One contact for what several places of a page say about somebody.

use super::{Contact, ContactKind, Find};

/// Structured contacts of one page that are compared with each other.
const MAX_STRUCTURED: usize = 2_000;

/// Structured contacts that are the same are joined; loose finds confirm them, or stand alone.
pub(super) fn merged(structured: Vec<Contact>, loose: Vec<Contact>) -> Vec<Contact> {
    let mut contacts: Vec<Contact> = Vec::new();
    for contact in structured.into_iter().take(MAX_STRUCTURED) {
        // Name alone is nobody that could be reached, but it may join somebody who is.
        match contacts.iter_mut().find(|known| is_same(known, &contact)) {
            Some(known) => join(known, contact),
            None => contacts.push(contact),
        }
    }
    contacts.retain(|contact| {
        !(contact.emails.is_empty() && contact.phones.is_empty() && contact.addresses.is_empty())
    });
    let structured = contacts.len();
    for mut contact in loose {
        // What a structured contact has already is confirmed there, with all that stands beside it left alone.
        let mut confirmed = false;
        contact.emails.retain(|find| {
            let known = confirm(&mut contacts, structured, find, |contact| &mut contact.emails);
            confirmed |= known;
            !known
        });
        contact.phones.retain(|find| {
            let known = confirm(&mut contacts, structured, find, |contact| &mut contact.phones);
            confirmed |= known;
            !known
        });
        if contact.emails.is_empty() && contact.phones.is_empty() {
            continue;
        }
        // One organisation or person on the page, and beside its own address a number, or the other way round: it is theirs.
        if confirmed
            && structured == 1
            && let Some(only) = contacts.first_mut()
        {
            contact.name = None;
            join(only, contact);
            continue;
        }
        contacts.push(contact);
    }
    contacts
}

fn confirm(
    contacts: &mut [Contact],
    structured: usize,
    find: &Find<String>,
    list: impl Fn(&mut Contact) -> &mut Vec<Find<String>>,
) -> bool {
    let mut known = false;
    for contact in contacts.iter_mut().take(structured) {
        for other in list(contact).iter_mut().filter(|other| other.value == find.value) {
            other.confidence = both(other.confidence, find.confidence);
            known = true;
        }
    }
    known
}

fn is_same(a: &Contact, b: &Contact) -> bool {
    let kinds = a.kind == b.kind || a.kind == ContactKind::Unknown || b.kind == ContactKind::Unknown;
    if !kinds {
        return false;
    }
    let name = |contact: &Contact| contact.name.as_ref().map(|find| find.value.to_lowercase());
    match (name(a), name(b)) {
        (Some(a), Some(b)) => a == b,
        // A nameless one is who has the same address; a shared switchboard proves nothing.
        _ => a
            .emails
            .iter()
            .any(|find| b.emails.iter().any(|other| other.value == find.value)),
    }
}

fn join(into: &mut Contact, from: Contact) {
    if into.kind == ContactKind::Unknown {
        into.kind = from.kind;
    }
    better(&mut into.name, from.name);
    better(&mut into.given, from.given);
    better(&mut into.family, from.family);
    better(&mut into.organization, from.organization);
    better(&mut into.job_title, from.job_title);
    for find in from.emails {
        into.add_email(find);
    }
    for find in from.phones {
        into.add_phone(find);
    }
    for find in from.addresses {
        match into.addresses.iter_mut().find(|known| known.value == find.value) {
            Some(known) => known.confidence = both(known.confidence, find.confidence),
            None => into.addresses.push(find),
        }
    }
    for find in from.urls {
        if !into.urls.iter().any(|known| known.value == find.value) {
            into.urls.push(find);
        }
    }
}

fn better(into: &mut Option<Find<String>>, from: Option<Find<String>>) {
    match (into.as_mut(), from) {
        (Some(known), Some(find)) if known.value == find.value => {
            known.confidence = both(known.confidence, find.confidence);
        }
        (Some(known), Some(find)) if find.confidence > known.confidence => *known = find,
        (None, Some(find)) => *into = Some(find),
        _ => {}
    }
}

/// Two that say the same: both would have to be wrong.
pub(super) fn both(a: f64, b: f64) -> f64 {
    (1.0 - (1.0 - a) * (1.0 - b)).min(0.99)
}
