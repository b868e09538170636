//! From what was found to what can be stored: addresses read and checked, what cannot be read put aside by field.

use crm_core::activity::Money;
use crm_core::capability::{Reject, RejectKind};
use crm_core::customer::{
    Attributes, Draft, EmailAddress, ExternalRef, InteractionDraft, OrderDraft, PersonName, PhoneNumber,
    PostalAddress, Provenance,
};
use crm_core::record::{MAX_KEY_CHARS, MAX_VALUE_BYTES};
use serde_json::Value as Json;

/// A draft whose every value can be stored.
#[derive(Debug, Clone)]
pub(super) struct Clean {
    pub(super) provenance: Provenance,
    pub(super) name: PersonName,
    pub(super) emails: Vec<EmailAddress>,
    pub(super) phones: Vec<PhoneNumber>,
    pub(super) addresses: Vec<PostalAddress>,
    pub(super) refs: Vec<ExternalRef>,
    pub(super) tags: Vec<String>,
    pub(super) attributes: Attributes,
    pub(super) orders: Vec<OrderDraft>,
    pub(super) interactions: Vec<InteractionDraft>,
}

impl Clean {
    /// Whether there is anything left to recognise the person by.
    pub(super) fn is_identified(&self) -> bool {
        !(self.refs.is_empty() && self.emails.is_empty() && self.phones.is_empty())
    }
}

/// What was put aside, with the place it came from.
pub(super) fn reject(provenance: &Provenance, field: Option<&str>, reason: &str) -> Reject {
    Reject {
        kind: RejectKind::Invalid,
        place: provenance
            .location
            .clone()
            .unwrap_or_else(|| provenance.source.clone())
            .replace('\0', ""),
        line: provenance.line,
        field: field.map(str::to_owned),
        reason: reason.to_owned(),
    }
}

/// What another customer has, with the place it came from.
pub(super) fn conflict(provenance: &Provenance, field: &str, reason: &str) -> Reject {
    Reject {
        kind: RejectKind::Conflict,
        ..reject(provenance, Some(field), reason)
    }
}

/// Checks text as every store does: no NUL, at most 1 MiB.
fn storable(text: &str) -> bool {
    text.len() <= MAX_VALUE_BYTES && !text.contains('\0')
}

/// Checks text that goes into an index, whose length every store limits.
fn indexable(text: &str) -> bool {
    storable(text) && text.chars().nth(MAX_KEY_CHARS).is_none()
}

/// Checks JSON likewise, and that it is not nested deeper than a parser reads back.
fn storable_json(json: &Json, depth: usize) -> bool {
    depth <= 64
        && match json {
            Json::String(text) => storable(text),
            Json::Array(items) => items.iter().all(|item| storable_json(item, depth + 1)),
            Json::Object(map) => map
                .iter()
                .all(|(key, value)| storable(key) && storable_json(value, depth + 1)),
            Json::Null | Json::Bool(_) | Json::Number(_) => true,
        }
}

const UNSTORABLE: &str = "text with a NUL character or longer than 1 MiB cannot be stored";

/// Reads and checks a draft. What cannot be stored is left out and told by field.
pub(super) fn clean(draft: Draft) -> (Clean, Vec<Reject>) {
    let mut rejects = Vec::new();
    let mut provenance = draft.provenance;
    if provenance.source.trim().is_empty() || !indexable(&provenance.source) {
        rejects.push(reject(
            &provenance,
            Some("provenance.source"),
            "the source needs a name of 1 to 320 characters; kept as unknown",
        ));
        provenance.source = "unknown".to_owned();
    }
    if provenance
        .location
        .as_deref()
        .is_some_and(|place| !storable(place))
    {
        rejects.push(reject(&provenance, Some("provenance.location"), UNSTORABLE));
        provenance.location = None;
    }
    let mut put_aside = |field: &str, reason: &str| rejects.push(reject(&provenance, Some(field), reason));

    let name = draft.name.unwrap_or_default();
    let name = if indexable(name.given.trim()) && indexable(name.family.trim()) && storable(&name.display) {
        PersonName {
            given: name.given.trim().to_owned(),
            family: name.family.trim().to_owned(),
            display: name.display.trim().to_owned(),
        }
    } else {
        put_aside(
            "name",
            "a name has no NUL character, and at most 320 characters a part",
        );
        PersonName::default()
    };

    let mut addresses: Vec<PostalAddress> = Vec::new();
    for address in draft.addresses {
        let parts = [
            &address.city,
            &address.region,
            &address.postal_code,
            &address.country,
        ];
        if !address.lines.iter().chain(parts).all(|part| storable(part)) {
            put_aside("addresses", UNSTORABLE);
        } else if !address.is_empty() && !addresses.contains(&address) {
            addresses.push(address);
        }
    }

    let mut emails = Vec::new();
    for text in draft.emails.iter().filter(|text| !text.trim().is_empty()) {
        match EmailAddress::parse(text) {
            Ok(address) if emails.contains(&address) => {}
            Ok(address) => emails.push(address),
            Err(error) => put_aside("email", error.message()),
        }
    }
    let mut phones = Vec::new();
    // Where the number is dialled: as the draft says, else where the person lives.
    let home = addresses
        .iter()
        .map(|address| address.country.as_str())
        .find(|country| country.len() == 2);
    let region = draft
        .phone_region
        .as_deref()
        .filter(|region| !region.is_empty())
        .or(home);
    for text in draft.phones.iter().filter(|text| !text.trim().is_empty()) {
        match PhoneNumber::parse(text, region) {
            Ok(number) if phones.contains(&number) => {}
            Ok(number) => phones.push(number),
            Err(error) => put_aside("phone", error.message()),
        }
    }
    let mut refs: Vec<ExternalRef> = Vec::new();
    for reference in draft.external_refs {
        let reference = ExternalRef::new(reference.system.trim(), reference.id.trim());
        match reference.validate() {
            Ok(()) if refs.contains(&reference) => {}
            Ok(()) => refs.push(reference),
            Err(error) => put_aside(error.context("field").unwrap_or("external"), error.message()),
        }
    }
    let mut tags: Vec<String> = Vec::new();
    for tag in draft.tags {
        let tag = tag.trim();
        if !storable(tag) {
            put_aside("tags", UNSTORABLE);
        } else if !tag.is_empty() && !tags.iter().any(|known| known == tag) {
            tags.push(tag.to_owned());
        }
    }
    let mut attributes = Attributes::default();
    for (name, value) in draft.attributes.iter() {
        if !storable_json(value, 0) {
            put_aside(
                "attributes",
                "an attribute has NUL characters, is too long or too deeply nested",
            );
        } else if let Err(error) = attributes.set(name, value.clone()) {
            put_aside("attributes", error.message());
        }
    }
    let event = |id: &str| !id.trim().is_empty() && id.len() <= 255 && storable(id);
    const EVENT: &str = "an event needs its id at the source, of 1 to 255 characters";
    let mut orders = draft.orders;
    orders.retain(|order: &OrderDraft| {
        let good = event(&order.event_id) && Money::new(order.total.minor, order.total.currency()).is_ok();
        if !good {
            put_aside("orders.event_id", EVENT);
        }
        good
    });
    let mut interactions = draft.interactions;
    interactions.retain(|interaction: &InteractionDraft| {
        let data = interaction
            .data
            .iter()
            .all(|(name, value)| storable(name) && storable_json(value, 0));
        let good = event(&interaction.event_id);
        if !good {
            put_aside("interactions.event_id", EVENT);
        } else if !data || interaction.kind.is_empty() || !storable(&interaction.kind) {
            put_aside(
                "interactions",
                "an interaction needs a kind, and data without NUL characters",
            );
        }
        good && data && !interaction.kind.is_empty() && storable(&interaction.kind)
    });
    let clean = Clean {
        provenance,
        name,
        emails,
        phones,
        addresses,
        refs,
        tags,
        attributes,
        orders,
        interactions,
    };
    if !clean.is_identified() && rejects.is_empty() {
        rejects.push(reject(
            &clean.provenance,
            None,
            "nothing to recognise the person by: an external reference, e-mail address or phone number is needed",
        ));
    }
    (clean, rejects)
}

/// Puts aside the attributes that do not fit what the tenant declared.
pub(super) fn fit(declared: &super::fields::Declared, clean: &mut Clean, rejects: &mut Vec<Reject>) {
    if declared.is_empty() {
        return;
    }
    for (key, reason) in super::fields::fitting(declared, &mut clean.attributes) {
        let field = format!("attributes.{key}");
        rejects.push(reject(&clean.provenance, Some(&field), reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::Timestamp;

    fn draft() -> Draft {
        Draft::new(Provenance::new("test", Timestamp::EPOCH).at("people.csv").line(7))
    }

    #[test]
    fn what_cannot_be_read_is_told_by_field_and_the_rest_is_kept() {
        let mut d = draft();
        d.emails = vec![
            "nobody".into(),
            " ".into(),
            "Ana@Example.com".into(),
            "ana@example.com".into(),
        ];
        d.phones = vec!["12".into(), "0491 570 156".into()];
        d.addresses.push(PostalAddress {
            country: "AU".into(),
            ..PostalAddress::default()
        });
        d.external_refs = vec![ExternalRef::new("shop", ""), ExternalRef::new("shop", " 7 ")];
        d.tags = vec![" vip ".into(), "vip".into(), "a\0b".into()];
        let (clean, rejects) = clean(d);
        assert_eq!(
            clean.emails.iter().map(EmailAddress::as_str).collect::<Vec<_>>(),
            ["ana@example.com"]
        );
        assert_eq!(
            clean.phones.iter().map(PhoneNumber::as_str).collect::<Vec<_>>(),
            ["+61491570156"]
        );
        assert_eq!(clean.refs, [ExternalRef::new("shop", "7")]);
        assert_eq!(clean.tags, ["vip"]);
        let fields: Vec<&str> = rejects
            .iter()
            .filter_map(|reject| reject.field.as_deref())
            .collect();
        assert_eq!(fields, ["email", "phone", "external.id", "tags"]);
        assert!(
            rejects
                .iter()
                .all(|reject| reject.place == "people.csv" && reject.line == Some(7))
        );
        assert!(
            rejects.iter().all(|reject| !reject.reason.contains("nobody")),
            "no values in reasons"
        );
    }

    #[test]
    fn what_is_too_long_for_an_index_is_put_aside_alone() {
        let mut d = draft();
        d.provenance.source = "s".repeat(400);
        d.name = Some(PersonName::new(
            &"日".repeat(MAX_KEY_CHARS),
            &"x".repeat(MAX_KEY_CHARS + 1),
        ));
        d.emails = vec!["ana@example.com".into()];
        let (clean, rejects) = clean(d);
        assert!(clean.is_identified());
        assert_eq!(
            (clean.name, clean.provenance.source.as_str()),
            (PersonName::default(), "unknown")
        );
        let fields: Vec<&str> = rejects
            .iter()
            .filter_map(|reject| reject.field.as_deref())
            .collect();
        assert_eq!(fields, ["provenance.source", "name"]);

        let mut d = draft();
        d.name = Some(PersonName::new(&"日".repeat(MAX_KEY_CHARS), "x"));
        let (clean, rejects) = super::clean(d);
        assert_eq!(clean.name.given.chars().count(), MAX_KEY_CHARS);
        assert!(rejects.iter().all(|reject| reject.field.is_none()));
    }

    #[test]
    fn a_draft_of_nobody_says_what_is_missing() {
        let (clean, rejects) = clean(draft());
        assert!(!clean.is_identified());
        assert!(rejects.first().unwrap().reason.contains("recognise"));
    }
}
