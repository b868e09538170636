//! Finds that stand alone: links that write or call, protected addresses, and what the text says. What stands together is taken
//! to be of one person.

use std::collections::BTreeSet;

use url::Url;

use super::dom::Dom;
use super::{Contact, ContactKind, Find, Syntax, label, name, text, value};

/// Finds of one page that are grouped.
const MAX_FINDS: usize = 4_000;
/// Addresses on a page that make a list of it.
const MANY: usize = 8;

/// One find, at an element.
#[derive(Debug)]
struct Loose {
    email: bool,
    value: String,
    confidence: f64,
    syntax: Syntax,
    node: u32,
    /// Whose it is, as written before it.
    name: Option<String>,
}

/// How sure each way of writing is; the table of the module's documentation.
const LINK: f64 = 0.85;
const PROTECTED: f64 = 0.85;
const TEXT: f64 = 0.7;
const BRACKETS: f64 = 0.6;
const WORDS: f64 = 0.3;
const NUMBER_LABELLED: f64 = 0.7;
const NUMBER_INTERNATIONAL: f64 = 0.6;
const NUMBER: f64 = 0.3;

pub(super) fn contacts(dom: Dom<'_>, region: Option<&str>) -> Vec<Contact> {
    let mut finds = links(dom, region);
    for spotted in text::spot(dom, region) {
        let (email, confidence, syntax) = match spotted.kind {
            text::Kind::Email => (true, TEXT, Syntax::Text),
            text::Kind::Hidden { words: false } => (true, BRACKETS, Syntax::Obfuscated),
            text::Kind::Hidden { words: true } => (true, WORDS, Syntax::Obfuscated),
            text::Kind::Phone { labelled: true, .. } => (false, NUMBER_LABELLED, Syntax::Text),
            text::Kind::Phone {
                international: true, ..
            } => (false, NUMBER_INTERNATIONAL, Syntax::Text),
            text::Kind::Phone { .. } => (false, NUMBER, Syntax::Text),
        };
        let node = dom.parent(spotted.node).unwrap_or(spotted.node);
        if !email && is_fax_element(dom, node) {
            continue;
        }
        finds.push(Loose {
            email,
            value: spotted.value,
            confidence,
            syntax,
            node,
            name: spotted.name,
        });
    }
    finds.sort_by_key(|find| find.node);
    finds.truncate(MAX_FINDS);
    grouped(dom, &finds)
}

fn links(dom: Dom<'_>, region: Option<&str>) -> Vec<Loose> {
    let mut finds = Vec::new();
    for (node, element) in dom.elements() {
        if let Some(value) = element.attr("data-cfemail").and_then(unprotected) {
            finds.push(Loose {
                email: true,
                value,
                confidence: PROTECTED,
                syntax: Syntax::Cloudflare,
                node,
                name: None,
            });
        }
        finds.extend(held(element).map(|value| Loose {
            email: true,
            value,
            confidence: BRACKETS,
            syntax: Syntax::Obfuscated,
            node,
            name: None,
        }));
        let Some(href) = element
            .attr("href")
            .map(str::trim)
            .filter(|_| matches!(element.name(), "a" | "area"))
        else {
            continue;
        };
        let lower = href
            .get(..href.len().min(64))
            .unwrap_or(href)
            .to_ascii_lowercase();
        if lower.starts_with("mailto:") {
            let addresses = href
                .get(7..)
                .unwrap_or_default()
                .split(['?', '#'])
                .next()
                .unwrap_or_default();
            // `mailto:?to=ana@shop.example` (RFC 6068, 2).
            let query = href.split_once('?').map_or("", |(_, query)| query);
            let to = query.split('&').filter_map(|pair| pair.strip_prefix("to="));
            for address in addresses.split([',', ';']).chain(to) {
                let value = value::email(&format!("mailto:{}", address.trim()));
                finds.extend(value.map(|value| Loose {
                    email: true,
                    value,
                    confidence: LINK,
                    syntax: Syntax::Mailto,
                    node,
                    name: None,
                }));
            }
        } else if ["tel:", "callto:", "sms:"]
            .iter()
            .any(|scheme| lower.starts_with(scheme))
        {
            if is_fax(dom, node) {
                continue;
            }
            let value = value::phone(href, region);
            finds.extend(value.map(|value| Loose {
                email: false,
                value,
                confidence: LINK,
                syntax: Syntax::Tel,
                node,
                name: None,
            }));
        } else if let Some(number) = whatsapp(href) {
            finds.extend(value::phone(&number, None).map(|value| Loose {
                email: false,
                value,
                confidence: LINK,
                syntax: Syntax::Tel,
                node,
                name: None,
            }));
        } else if let Some((_, code)) = href.split_once("/cdn-cgi/l/email-protection#")
            && let Some(value) = unprotected(code)
        {
            finds.push(Loose {
                email: true,
                value,
                confidence: PROTECTED,
                syntax: Syntax::Cloudflare,
                node,
                name: None,
            });
        }
    }
    finds
}

/// An address that a script puts together: whole in `data-email`, or in two parts.
fn held(element: &scraper::node::Element) -> Option<String> {
    let whole = ["data-email", "data-mail", "data-e-mail"]
        .iter()
        .find_map(|name| element.attr(name));
    if let Some(whole) = whole {
        return value::email(whole);
    }
    let local = ["data-user", "data-name", "data-local", "data-mailbox"]
        .iter()
        .find_map(|name| element.attr(name))?;
    let domain = ["data-domain", "data-host"]
        .iter()
        .find_map(|name| element.attr(name))?;
    value::email(&format!(
        "{}@{}",
        local.trim(),
        domain.trim().trim_start_matches('@')
    ))
}

/// The number a link to WhatsApp writes to, with its `+`.
fn whatsapp(href: &str) -> Option<String> {
    let url = Url::parse(href).ok()?;
    let number = match (url.scheme(), url.host_str()?) {
        ("http" | "https", "wa.me") => url.path().trim_matches('/').to_owned(),
        ("http" | "https", "api.whatsapp.com" | "web.whatsapp.com") | ("whatsapp", "send") => url
            .query_pairs()
            .find(|(name, _)| name == "phone")?
            .1
            .into_owned(),
        _ => return None,
    };
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    (digits.len() >= 7).then(|| format!("+{digits}"))
}

/// Whether a link leads to a fax: by a class around it, or by the word before it.
fn is_fax(dom: Dom<'_>, node: u32) -> bool {
    let before = (node.saturating_sub(6)..node)
        .rev()
        .filter_map(|at| dom.text_node(at));
    is_fax_element(dom, node)
        || before
            .map(str::trim_end)
            .find(|text| !text.is_empty())
            .is_some_and(|text| {
                let tail = text.char_indices().rev().nth(31).map_or(0, |(at, _)| at);
                label::is_fax(text.get(tail..).unwrap_or_default())
            })
}

/// Whether an element, or one close around it, is called a fax: by its class, or in schema.org's words.
fn is_fax_element(dom: Dom<'_>, node: u32) -> bool {
    std::iter::successors(Some(node), |at| dom.parent(*at))
        .take(3)
        .any(|at| {
            let says = |name| dom.attr(at, name).unwrap_or_default().to_ascii_lowercase();
            says("class").split(['-', '_', ' ']).any(|word| word == "fax")
                || says("itemprop").ends_with("faxnumber")
                || says("property").ends_with("faxnumber")
        })
}

/// Cloudflare's e-mail protection: the first byte is a mask over the others.
fn unprotected(code: &str) -> Option<String> {
    let code = code.split('?').next()?.trim();
    if !code.is_ascii() || code.len() > 512 {
        return None;
    }
    let bytes: Option<Vec<u8>> = code
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let bytes = bytes?;
    let (mask, rest) = bytes.split_first()?;
    let plain = rest.iter().map(|byte| byte ^ mask).collect();
    value::email(&String::from_utf8(plain).ok()?)
}

/// Every address is a contact of its own; numbers and a name are its own when they stand in the largest part of the page that
/// has no other address in it. Numbers that are nobody's are contacts by themselves.
fn grouped(dom: Dom<'_>, finds: &[Loose]) -> Vec<Contact> {
    let mut contacts: Vec<(u32, Contact)> = Vec::new();
    let mut addresses: Vec<(&str, u32)> = finds
        .iter()
        .filter(|find| find.email)
        .map(|find| (find.value.as_str(), find.node))
        .collect();
    addresses.sort_by_key(|(_, node)| *node);
    let distinct = |start: u32, end: u32| {
        let from = addresses.partition_point(|(_, node)| *node < start);
        let inside = addresses.iter().skip(from).take_while(|(_, node)| *node < end);
        inside
            .map(|(value, _)| *value)
            .take(64)
            .collect::<BTreeSet<_>>()
            .len()
    };
    for find in finds.iter().filter(|find| find.email) {
        let known = contacts
            .iter_mut()
            .find(|(_, contact)| contact.emails.iter().any(|email| email.value == find.value));
        match known {
            Some((_, contact)) => contact.add_email(found(dom, find)),
            None => {
                // The largest ancestor without another address.
                let mut area = find.node;
                while let Some(parent) = dom.parent(area)
                    && dom.name(area) != "body"
                    && distinct(parent, dom.end(parent)) <= 1
                {
                    area = parent;
                }
                let mut contact = Contact::new(ContactKind::Unknown);
                contact.add_email(found(dom, find));
                contacts.push((area, contact));
            }
        }
    }
    name(dom, finds, &mut contacts);
    let mut numbers: Vec<Contact> = Vec::new();
    for find in finds.iter().filter(|find| !find.email) {
        let owner = contacts
            .iter_mut()
            .filter(|(area, _)| find.node >= *area && find.node < dom.end(*area))
            .max_by_key(|(area, _)| *area);
        match owner {
            Some((_, contact)) => contact.add_phone(found(dom, find)),
            None => match numbers
                .iter_mut()
                .find(|contact| contact.phones.iter().any(|phone| phone.value == find.value))
            {
                Some(contact) => contact.add_phone(found(dom, find)),
                None => {
                    let mut contact = Contact::new(ContactKind::Unknown);
                    contact.add_phone(found(dom, find));
                    numbers.push(contact);
                }
            },
        }
    }
    contacts
        .into_iter()
        .map(|(_, contact)| contact)
        .chain(numbers)
        .collect()
}

/// Says whose each address is: as it was written before it, by its link's text, by its place.
fn name(dom: Dom<'_>, finds: &[Loose], contacts: &mut [(u32, Contact)]) {
    let alone = contacts.len() == 1;
    let mut placed = Vec::new();
    for (at, (area, contact)) in contacts.iter_mut().enumerate() {
        let own = || {
            let email = contact.emails.first().map(|email| email.value.as_str());
            finds
                .iter()
                .filter(move |find| Some(find.value.as_str()) == email)
        };
        contact.name = own()
            .find_map(|find| Some(name::written(dom, find.node, find.name.clone()?)))
            .or_else(|| own().find_map(|find| name::of_link(dom, find.node)));
        if contact.name.is_none() {
            contact.name = if alone {
                name::only_called(dom)
            } else {
                name::in_area(dom, *area)
            };
            if !alone && contact.name.is_some() {
                placed.push(at);
            }
        }
    }
    // A list of people names them all. Of few among many, something else stands in the place of the names: a column of
    // languages, of places.
    if contacts.len() >= MANY && placed.len() * 4 < contacts.len() {
        for at in placed {
            if let Some((_, contact)) = contacts.get_mut(at) {
                contact.name = None;
            }
        }
    }
}

fn found(dom: Dom<'_>, find: &Loose) -> Find<String> {
    Find {
        value: find.value.clone(),
        confidence: find.confidence,
        syntax: find.syntax,
        place: dom.path(find.node),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protected_addresses() {
        // Made with the mask 0x2a over ana@shop.example.
        let code = {
            let mut code = String::from("2a");
            for byte in "ana@shop.example".bytes() {
                code.push_str(&format!("{:02x}", byte ^ 0x2a));
            }
            code
        };
        assert_eq!(unprotected(&code).as_deref(), Some("ana@shop.example"));
        assert_eq!(
            unprotected(&format!("{code}?subject=x")).as_deref(),
            Some("ana@shop.example")
        );
        for wrong in ["", "2a", "zz", "2a4", "2é", &"2a".repeat(1000)] {
            assert_eq!(unprotected(wrong), None, "{wrong}");
        }
    }
}
