//! schema.org in microdata (HTML Standard, 5) and in RDFa Lite 1.1: both put things and their properties on elements.

use std::collections::{HashMap, HashSet};

use super::dom::Dom;
use super::item::{Item, Property, Text, schema_name};

/// No property of a person is longer.
const MAX_TEXT: usize = 4096;
/// Names of one property, types of one thing.
const MAX_TERMS: usize = 8;
/// Elements looked at, and things made: `itemref` may lead to the same ones again and again.
const MAX_STEPS: usize = 2_000_000;
const MAX_THINGS: usize = 5_000;

/// The things in microdata.
pub(super) fn microdata(dom: Dom<'_>) -> Vec<Item> {
    let mut ids = HashMap::new();
    let mut tops = Vec::new();
    for (number, element) in dom.elements() {
        if let Some(id) = element.attr("id") {
            ids.entry(id).or_insert(number);
        }
        if element.attr("itemscope").is_some() && element.attr("itemprop").is_none() {
            tops.push(number);
        }
    }
    let mut reader = Microdata {
        dom,
        ids,
        open: Vec::new(),
        steps: 0,
        things: 0,
    };
    tops.into_iter().map(|top| reader.item(top)).collect()
}

struct Microdata<'a> {
    dom: Dom<'a>,
    ids: HashMap<&'a str, u32>,
    /// The things that are being read: one that is in itself is left out (HTML Standard, 5.2.5).
    open: Vec<u32>,
    steps: usize,
    things: usize,
}

impl Microdata<'_> {
    fn item(&mut self, number: u32) -> Item {
        let dom = self.dom;
        self.open.push(number);
        let mut item = Item {
            types: terms(dom.attr(number, "itemtype"), false),
            place: dom.path(number),
            ..Item::default()
        };
        // Without a type the names are nobody's.
        if !item.types.is_empty() {
            let mut roots = vec![(number + 1, dom.end(number))];
            for id in dom
                .attr(number, "itemref")
                .unwrap_or_default()
                .split_ascii_whitespace()
            {
                roots.extend(self.ids.get(id).map(|other| (*other, dom.end(*other))));
            }
            let mut seen = HashSet::new();
            for (start, end) in roots {
                self.properties(start, end, &mut seen, &mut item);
            }
        }
        self.open.pop();
        item
    }

    fn properties(&mut self, start: u32, end: u32, seen: &mut HashSet<u32>, item: &mut Item) {
        let dom = self.dom;
        let mut at = start;
        while at < end && self.steps < MAX_STEPS {
            self.steps += 1;
            let number = at;
            at += 1;
            let Some(element) = dom.element(number) else {
                continue;
            };
            let scope = element.attr("itemscope").is_some();
            if scope {
                at = dom.end(number);
            }
            let names = terms(element.attr("itemprop"), true);
            if names.is_empty() || !seen.insert(number) || self.open.contains(&number) {
                continue;
            }
            self.things += usize::from(scope);
            if self.things > MAX_THINGS {
                return;
            }
            let property = if scope {
                Property::Item(self.item(number))
            } else {
                Property::Text(value(dom, number, element))
            };
            add(item, names, property);
        }
    }
}

/// The things in RDFa.
pub(super) fn rdfa(dom: Dom<'_>) -> Vec<Item> {
    let mut items = Vec::new();
    for (number, element) in dom.elements() {
        // What is a property of something is read with it.
        if element.attr("typeof").is_some() && element.attr("property").is_none() {
            items.push(rdfa_item(dom, number));
        }
    }
    items
}

fn rdfa_item(dom: Dom<'_>, number: u32) -> Item {
    let bare = is_schema_vocabulary(dom, number);
    let mut item = Item {
        types: terms(dom.attr(number, "typeof"), bare),
        place: dom.path(number),
        ..Item::default()
    };
    if item.types.is_empty() {
        return item;
    }
    let mut at = number + 1;
    while at < dom.end(number) {
        let number = at;
        at += 1;
        let Some(element) = dom.element(number) else {
            continue;
        };
        let thing = element.attr("typeof").is_some();
        if thing || (element.attr("resource").is_some() && element.attr("property").is_none()) {
            // Another subject: what is in it is said about that.
            at = dom.end(number);
        }
        let names = terms(element.attr("property"), bare);
        if names.is_empty() {
            continue;
        }
        let property = if thing {
            Property::Item(rdfa_item(dom, number))
        } else {
            Property::Text(value(dom, number, element))
        };
        add(&mut item, names, property);
    }
    item
}

/// Whether plain names are schema.org's: by the nearest `vocab`.
fn is_schema_vocabulary(dom: Dom<'_>, number: u32) -> bool {
    let mut next = Some(number);
    while let Some(at) = next {
        if let Some(vocabulary) = dom.attr(at, "vocab") {
            return schema_name(
                &format!("{}/x", vocabulary.trim().trim_end_matches(['/', '#'])),
                false,
            )
            .is_some();
        }
        next = dom.parent(at);
    }
    false
}

/// A text may be several properties at once. A thing is only the first: copies of things in things would double with each level.
fn add(item: &mut Item, names: Vec<String>, property: Property) {
    match property {
        Property::Text(_) => {
            item.properties
                .extend(names.into_iter().map(|name| (name, property.clone())));
        }
        Property::Item(_) => item
            .properties
            .extend(names.into_iter().next().map(|name| (name, property))),
    }
}

fn terms(attribute: Option<&str>, bare: bool) -> Vec<String> {
    let terms = attribute
        .unwrap_or_default()
        .split_ascii_whitespace()
        .take(MAX_TERMS);
    terms
        .filter_map(|term| schema_name(term, bare))
        .map(str::to_owned)
        .collect()
}

/// The value of a property that is no thing: what the element's attributes say, else its text.
fn value(dom: Dom<'_>, number: u32, element: &scraper::node::Element) -> Text {
    let attribute = match element.name() {
        "a" | "area" | "link" => element.attr("href"),
        "img" | "audio" | "video" | "source" | "iframe" | "embed" => element.attr("src"),
        "object" => element.attr("data"),
        _ => element.attr("resource"),
    };
    let said = element.attr("content").or_else(|| match element.name() {
        "data" | "meter" => element.attr("value"),
        "time" => element.attr("datetime"),
        _ => None,
    });
    Text {
        text: said.map_or_else(|| dom.text(number, MAX_TEXT), str::to_owned),
        link: attribute.map(str::to_owned),
        place: dom.path(number),
    }
}
