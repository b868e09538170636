//! schema.org in JSON-LD (`<script type="application/ld+json">`), with `@graph`, `@id` references and arrays.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::Problem;
use super::dom::Dom;
use super::item::{Item, Property, Text, schema_name};
use super::json;

/// References and nested things are followed this deep.
const MAX_DEPTH: usize = 16;
/// Things of one page: references may multiply them.
const MAX_THINGS: usize = 20_000;

pub(super) fn items(dom: Dom<'_>, problems: &mut Vec<Problem>) -> Vec<Item> {
    let mut documents = Vec::new();
    for (number, element) in dom.elements() {
        let kind = element.attr("type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if element.name() != "script" || !kind.eq_ignore_ascii_case("application/ld+json") {
            continue;
        }
        let script = dom.path(number);
        let end = dom.end(number);
        let text: String = (number..end).filter_map(|at| dom.text_node(at)).collect();
        match json::read(&text) {
            Some(values) => documents.extend(values.into_iter().map(|value| (value, format!("{script}#")))),
            None => problems.push(Problem {
                place: script,
                reason: "a JSON-LD block that is not JSON, or longer than 1 MiB",
            }),
        }
    }
    let mut reader = Reader {
        known: HashMap::new(),
        left: MAX_THINGS,
    };
    for (document, _) in &documents {
        reader.learn(document, 0);
    }
    let mut items = Vec::new();
    for (document, place) in &documents {
        reader.top(document, place, true, &mut items, 0);
    }
    items
}

struct Reader<'a> {
    known: HashMap<&'a str, &'a Map<String, Value>>,
    left: usize,
}

impl<'a> Reader<'a> {
    /// Remembers what has an id and says something.
    fn learn(&mut self, value: &'a Value, depth: usize) {
        match value {
            Value::Array(all) if depth < 2 * MAX_DEPTH => {
                all.iter().for_each(|one| self.learn(one, depth + 1))
            }
            Value::Object(object) if depth < 2 * MAX_DEPTH => {
                if let Some(Value::String(id)) = object.get("@id")
                    && object.len() > 1
                {
                    let known = self.known.entry(id).or_insert(object);
                    // The fuller of two wins.
                    if known.len() < object.len() {
                        *known = object;
                    }
                }
                object.values().for_each(|one| self.learn(one, depth + 1));
            }
            _ => {}
        }
    }

    fn top(&mut self, value: &'a Value, place: &str, bare: bool, items: &mut Vec<Item>, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        match value {
            Value::Array(all) => {
                for (one, index) in all.iter().zip(0..) {
                    self.top(one, &format!("{place}[{index}]"), bare, items, depth + 1);
                }
            }
            Value::Object(object) => {
                let bare = match object.get("@context") {
                    None => bare,
                    Some(context) => context.to_string().to_ascii_lowercase().contains("schema.org"),
                };
                if let Some(graph) = object.get("@graph") {
                    self.top(graph, &format!("{place}.@graph"), bare, items, depth + 1);
                }
                if object.contains_key("@type") {
                    items.extend(self.item(object, place, bare, 0));
                }
                if let Some(Value::Object(reverse)) = object.get("@reverse") {
                    for (name, value) in reverse {
                        self.top(value, &format!("{place}.@reverse.{name}"), bare, items, depth + 1);
                    }
                }
            }
            _ => {}
        }
    }

    fn item(
        &mut self,
        object: &'a Map<String, Value>,
        place: &str,
        bare: bool,
        depth: usize,
    ) -> Option<Item> {
        self.left = self.left.checked_sub(1)?;
        let mut item = Item {
            place: place.to_owned(),
            ..Item::default()
        };
        for kind in each(object.get("@type")) {
            item.types.extend(
                kind.as_str()
                    .and_then(|kind| schema_name(kind, bare))
                    .map(str::to_owned),
            );
        }
        if depth >= MAX_DEPTH {
            return Some(item);
        }
        for (name, value) in object {
            let Some(name) = schema_name(name, bare).filter(|name| !name.starts_with('@')) else {
                continue;
            };
            let several = value.is_array();
            for (value, index) in each(Some(value)).zip(0..) {
                let place = if several {
                    format!("{place}.{name}[{index}]")
                } else {
                    format!("{place}.{name}")
                };
                if let Some(property) = self.property(value, place, bare, depth) {
                    item.properties.push((name.to_owned(), property));
                }
            }
        }
        Some(item)
    }

    fn property(&mut self, value: &'a Value, place: String, bare: bool, depth: usize) -> Option<Property> {
        let text = |text: String| {
            let text = unescaped(text);
            let link = text.contains(':').then(|| text.clone());
            Some(Property::Text(Text {
                text,
                link,
                place: place.clone(),
            }))
        };
        match value {
            Value::String(string) => text(string.clone()),
            Value::Number(number) => text(number.to_string()),
            Value::Object(object) => {
                if let Some(value) = object.get("@value") {
                    return match value {
                        Value::String(string) => text(string.clone()),
                        Value::Number(number) => text(number.to_string()),
                        _ => None,
                    };
                }
                let reference = object.get("@id").and_then(Value::as_str);
                // A reference says an id and nothing, or nearly nothing, else.
                let full = reference
                    .and_then(|id| self.known.get(id).copied())
                    .filter(|known| known.len() > object.len());
                match (full, reference) {
                    (Some(full), _) => self.item(full, &place, bare, depth + 1).map(Property::Item),
                    (None, Some(id)) if object.len() == 1 => text(id.to_owned()),
                    _ => self.item(object, &place, bare, depth + 1).map(Property::Item),
                }
            }
            _ => None,
        }
    }
}

/// Without the entities of HTML, which do not belong into JSON and are found there.
fn unescaped(text: String) -> String {
    let entity = text.split('&').skip(1).any(|rest| {
        let name = rest.split(';').next().unwrap_or_default();
        name.len() < rest.len()
            && (2..=8).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '#')
    });
    if !entity || text.contains('<') || text.len() > 10_000 {
        return text;
    }
    let plain = scraper::Html::parse_fragment(&text);
    plain.root_element().text().collect()
}

/// One value, or each of several; `@set` and `@list` are lists as well.
fn each(value: Option<&Value>) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        None => Box::new(std::iter::empty()),
        Some(Value::Array(all)) => Box::new(all.iter()),
        Some(Value::Object(object)) => match object.get("@set").or_else(|| object.get("@list")) {
            Some(Value::Array(all)) => Box::new(all.iter()),
            _ => Box::new(value.into_iter()),
        },
        Some(_) => Box::new(value.into_iter()),
    }
}
