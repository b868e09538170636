//! hCard and h-card: names in classes (microformats 1 and 2).

use super::dom::Dom;
use super::item::{Item, Property, Text};
use super::name;

const MAX_TEXT: usize = 4096;
/// Nodes of one property that are looked at.
const MAX_NODES: u32 = 1_000;

/// Class of microformats 2, class of microformats 1, name in schema.org.
const PROPERTIES: [(&str, &str, &str); 17] = [
    ("p-name", "fn", "name"),
    ("p-given-name", "given-name", "givenName"),
    ("p-family-name", "family-name", "familyName"),
    ("p-nickname", "nickname", "alternateName"),
    ("u-email", "email", "email"),
    ("p-tel", "tel", "telephone"),
    ("u-tel", "", "telephone"),
    ("p-org", "org", "worksFor"),
    ("p-job-title", "title", "jobTitle"),
    ("p-role", "role", "jobTitle"),
    ("u-url", "url", "url"),
    ("p-adr", "adr", "address"),
    ("h-adr", "", "address"),
    ("p-organization-name", "organization-name", "organization-name"),
    ("p-email", "", "email"),
    ("p-label", "label", "label"),
    ("u-uid", "uid", "uid"),
];

const ADDRESS: [(&str, &str, &str); 7] = [
    ("p-street-address", "street-address", "streetAddress"),
    ("p-extended-address", "extended-address", "streetAddress"),
    ("p-post-office-box", "post-office-box", "postOfficeBoxNumber"),
    ("p-locality", "locality", "addressLocality"),
    ("p-region", "region", "addressRegion"),
    ("p-postal-code", "postal-code", "postalCode"),
    ("p-country-name", "country-name", "addressCountry"),
];

/// The cards of a page, in the words of schema.org.
pub(super) fn items(dom: Dom<'_>) -> Vec<Item> {
    let mut items = Vec::new();
    for (number, element) in dom.elements() {
        let class = element.attr("class").unwrap_or_default();
        let modern = has(class, "h-card");
        if modern || has(class, "vcard") {
            items.push(card(dom, number, modern));
        }
    }
    items
}

fn has(class: &str, name: &str) -> bool {
    !name.is_empty() && class.split_ascii_whitespace().any(|own| own == name)
}

fn is_card(class: &str) -> bool {
    has(class, "h-card") || has(class, "vcard")
}

fn card(dom: Dom<'_>, number: u32, modern: bool) -> Item {
    let mut item = Item {
        place: dom.path(number),
        ..Item::default()
    };
    let mut address = Item {
        types: vec!["PostalAddress".to_owned()],
        place: item.place.clone(),
        ..Item::default()
    };
    let mut name_is_org = false;
    let mut org = None;
    let mut at = number + 1;
    while at < dom.end(number) {
        let here = at;
        at += 1;
        let Some(class) = dom.attr(here, "class") else {
            continue;
        };
        let nested = is_card(class);
        for (two, one, name) in &ADDRESS {
            if has(class, if modern { two } else { one }) {
                let text = Property::Text(value(dom, here));
                address.properties.push(((*name).to_owned(), text));
            }
        }
        for (two, one, name) in &PROPERTIES {
            let wanted = if modern { two } else { one };
            if !has(class, wanted) {
                continue;
            }
            let mut text = value(dom, here);
            match *name {
                "telephone" if is_fax(dom, here) => continue,
                "address" => {
                    if address.place == item.place {
                        address.place = dom.path(here);
                    }
                    let plain = !contains_address(dom, here, modern);
                    if plain && !text.text.is_empty() {
                        item.properties.push(("address".to_owned(), Property::Text(text)));
                    }
                    continue;
                }
                "worksFor" => {
                    name_is_org |= has(class, if modern { "p-name" } else { "fn" });
                    if nested {
                        text.text = nested_name(dom, here, text.text);
                    }
                    org.get_or_insert(text);
                    continue;
                }
                "organization-name" => {
                    org = Some(text);
                    continue;
                }
                _ => {}
            }
            item.properties.push(((*name).to_owned(), Property::Text(text)));
        }
        if nested {
            // Somebody else's card: its properties are its own.
            at = dom.end(here);
        }
    }
    if !address.properties.is_empty() {
        item.properties
            .push(("address".to_owned(), Property::Item(address)));
    }
    if item.text(&["name"]).is_none() && item.text(&["givenName", "familyName"]).is_none() && org.is_none() {
        implied(dom, number, &mut item);
    }
    let same = |org: &Text| item.text(&["name"]).is_some_and(|name| name.text == org.text);
    let nameless = item.text(&["name", "givenName", "familyName"]).is_none();
    // Without a word that only people have, a firm's name says what it is.
    let firm = org.is_none()
        && item.text(&["givenName", "familyName", "jobTitle"]).is_none()
        && item
            .text(&["name"])
            .is_some_and(|name| name::is_organization(&name.text));
    if name_is_org || firm || nameless && org.is_some() || org.as_ref().is_some_and(same) {
        item.types.push("Organization".to_owned());
        if nameless && let Some(org) = org {
            item.properties.push(("name".to_owned(), Property::Text(org)));
        }
    } else {
        item.types.push("Person".to_owned());
        if let Some(org) = org {
            item.properties.push(("worksFor".to_owned(), Property::Text(org)));
        }
    }
    item
}

/// A card that names nothing is named by its text, its picture or its title, and is its own link (microformats 2, "implied
/// properties").
fn implied(dom: Dom<'_>, number: u32, item: &mut Item) {
    let has_properties = !item.properties.is_empty();
    let text = match dom.name(number) {
        "img" | "area" => dom.attr(number, "alt").unwrap_or_default().to_owned(),
        "abbr" => dom
            .attr(number, "title")
            .map_or_else(|| dom.text(number, 256), str::to_owned),
        _ if has_properties => return,
        _ => dom.text(number, 256),
    };
    let place = item.place.clone();
    let link = dom.attr(number, "href").map(str::to_owned);
    if let Some(link) = &link {
        let url = Text {
            text: link.clone(),
            link: Some(link.clone()),
            place: place.clone(),
        };
        let name = if link.trim().to_ascii_lowercase().starts_with("mailto:") {
            "email"
        } else {
            "url"
        };
        item.properties.push((name.to_owned(), Property::Text(url)));
    }
    if !text.trim().is_empty() {
        let text = text.trim().to_owned();
        item.properties.push((
            "name".to_owned(),
            Property::Text(Text {
                text,
                link: None,
                place,
            }),
        ));
    }
}

fn nodes(dom: Dom<'_>, number: u32) -> std::ops::Range<u32> {
    number..dom.end(number).min(number + MAX_NODES)
}

fn contains_address(dom: Dom<'_>, number: u32, modern: bool) -> bool {
    nodes(dom, number).any(|at| {
        let class = dom.attr(at, "class").unwrap_or_default();
        ADDRESS
            .iter()
            .any(|(two, one, _)| has(class, if modern { two } else { one }))
    })
}

fn nested_name(dom: Dom<'_>, number: u32, whole: String) -> String {
    let named = nodes(dom, number).find(|at| {
        let class = dom.attr(*at, "class").unwrap_or_default();
        (has(class, "p-name") && !has(class, "p-org")) || has(class, "organization-name") || has(class, "fn")
    });
    named.map_or(whole, |at| dom.text(at, MAX_TEXT))
}

/// `type` of a classic number: a fax is not a phone.
fn is_fax(dom: Dom<'_>, number: u32) -> bool {
    nodes(dom, number).any(|at| {
        let class = dom.attr(at, "class").unwrap_or_default();
        let title = dom.attr(at, "title").unwrap_or_default();
        (has(class, "type")
            && (dom.text(at, 64).to_ascii_lowercase().contains("fax") || title.eq_ignore_ascii_case("fax")))
            || has(class, "fax")
    })
}

/// A property's value: of the elements of class `value` if there are any, else of attributes, else the text.
fn value(dom: Dom<'_>, number: u32) -> Text {
    let place = dom.path(number);
    let link = match dom.name(number) {
        "a" | "area" | "link" => dom.attr(number, "href").map(str::to_owned),
        _ => None,
    };
    let mut parts = String::new();
    let mut at = number + 1;
    while at < nodes(dom, number).end {
        let class = dom.attr(at, "class").unwrap_or_default();
        if has(class, "value") {
            parts.push_str(&said(dom, at));
            at = dom.end(at);
        } else if has(class, "value-title") {
            parts.push_str(dom.attr(at, "title").unwrap_or_default());
            at = dom.end(at);
        } else {
            at += 1;
        }
    }
    let text = if parts.is_empty() {
        said(dom, number)
    } else {
        parts
    };
    Text { text, link, place }
}

fn said(dom: Dom<'_>, number: u32) -> String {
    let attribute = match dom.name(number) {
        "abbr" => dom.attr(number, "title"),
        "data" | "input" => dom.attr(number, "value"),
        "img" | "area" => dom.attr(number, "alt"),
        _ => None,
    };
    attribute.map_or_else(|| dom.text(number, MAX_TEXT), str::to_owned)
}
