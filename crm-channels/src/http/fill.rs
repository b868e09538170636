//! Texts with places in them, `{{to}}`, that are filled from a message.

use std::collections::{BTreeMap, BTreeSet};

use crm_core::{Error, Result};
use serde_json::Value;

/// A text with places. A place whose name ends in `?` may stay empty.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pattern(Vec<Piece>);

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Place { name: String, optional: bool },
}

/// What the names of places may begin with: what follows is a name of somebody else's.
const PREFIXES: [&str; 5] = ["param.", "parameter.", "header.", "secret.", "setting."];

/// The names that places may have, besides.
const NAMES: [&str; 28] = [
    "id",
    "to",
    "to_digits",
    "from",
    "text",
    "media",
    "recording",
    "template.code",
    "template.sign_name",
    "template.params",
    "reference",
    "now",
    "now_unix",
    "times",
    "to_name",
    "to_mailbox",
    "from_name",
    "from_mailbox",
    "reply_to",
    "reply_to_name",
    "reply_to_mailbox",
    "bounces_to",
    "subject",
    "html",
    "headers",
    "attachments",
    "message_id",
    "raw",
];

impl Pattern {
    pub(super) fn parse(setting: &'static str, text: &str) -> Result<Self> {
        let wrong = |message: &'static str| Error::config(message).with("setting", setting);
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((name, behind)) = after.split_once("}}") else {
                return Err(wrong("a place that begins with {{ ends with }}"));
            };
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let name = name.trim();
            let optional = name.ends_with('?');
            let name = name.trim_end_matches('?').trim();
            let ours = NAMES.contains(&name)
                || PREFIXES
                    .iter()
                    .any(|prefix| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()));
            if !ours {
                return Err(wrong("a place that nothing fills; the documentation of HttpVendorConfig has a list of those that there are")
                    .with("place", name));
            }
            // Headers are found whatever the case of their names.
            let name = match name.strip_prefix("header.") {
                Some(header) => format!("header.{}", header.to_ascii_lowercase()),
                None => name.to_owned(),
            };
            pieces.push(Piece::Place { name, optional });
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// The names of the places, and whether each may stay empty.
    pub(super) fn places(&self) -> impl Iterator<Item = (&str, bool)> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Place { name, optional } => Some((name.as_str(), *optional)),
        })
    }

    /// Filled, with each value written as `escape` does. `None` when the text is one place alone, which may be empty and is.
    pub(super) fn fill(&self, values: &Values, escape: fn(&str) -> Result<String>) -> Result<Option<String>> {
        if let [Piece::Place { name, optional: true }] = self.0.as_slice()
            && values.get(name).is_none()
        {
            return Ok(None);
        }
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Place { name, optional } => match values.get(name) {
                    Some(value) => out.push_str(&escape(&as_text(value))?),
                    None if *optional => {}
                    None => return Err(missing(name)),
                },
            }
        }
        Ok(Some(out))
    }

    /// As [`Pattern::fill`], for JSON: a text that is one place alone becomes the value itself, which may be a list or an
    /// object.
    fn fill_json(&self, values: &Values) -> Result<Option<Value>> {
        if let [Piece::Place { name, optional }] = self.0.as_slice() {
            return match values.get(name) {
                Some(value) => Ok(Some(value.clone())),
                None if *optional => Ok(None),
                None => Err(missing(name)),
            };
        }
        Ok(self.fill(values, |text| Ok(text.to_owned()))?.map(Value::String))
    }
}

fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What the message does not have, in the words of whoever wrote the message.
fn missing(name: &str) -> Error {
    let field = match name {
        "text" => "text",
        "media" => "media",
        "from" => "from",
        "recording" | "times" => "steps",
        "html" => "html",
        "attachments" => "attachments",
        name if name.starts_with("reply_to") => "reply_to",
        name if name.starts_with("header") => "headers",
        name if name.starts_with("parameter.") => "parameters",
        name if name.starts_with("template") || name.starts_with("param.") => "templates",
        _ => "message",
    };
    Error::invalid("the vendor's description needs something that the message does not have")
        .with("field", field)
        .with("place", name)
}

/// What the places are filled with.
#[derive(Default)]
pub(super) struct Values(BTreeMap<String, Value>);

impl Values {
    pub(super) fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.0.insert(name.into(), value.into());
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}

/// JSON with places in its texts; made once.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    Text(Pattern),
    List(Vec<Shape>),
    Object(Vec<(String, Shape)>),
    Fixed(Value),
}

impl Shape {
    pub(super) fn parse(setting: &'static str, value: &Value) -> Result<Self> {
        Ok(match value {
            Value::String(text) => Self::Text(Pattern::parse(setting, text)?),
            Value::Array(all) => Self::List(
                all.iter()
                    .map(|one| Self::parse(setting, one))
                    .collect::<Result<_>>()?,
            ),
            Value::Object(all) => Self::Object(
                all.iter()
                    .map(|(name, one)| Ok((name.clone(), Self::parse(setting, one)?)))
                    .collect::<Result<_>>()?,
            ),
            fixed => Self::Fixed(fixed.clone()),
        })
    }

    pub(super) fn places(&self, into: &mut BTreeSet<(String, bool)>) {
        match self {
            Self::Text(pattern) => {
                into.extend(
                    pattern
                        .places()
                        .map(|(name, optional)| (name.to_owned(), optional)),
                );
            }
            Self::List(all) => all.iter().for_each(|one| one.places(into)),
            Self::Object(all) => all.iter().for_each(|(_, one)| one.places(into)),
            Self::Fixed(_) => {}
        }
    }

    /// Filled; a field whose place may be empty and is, is left out.
    pub(super) fn fill(&self, values: &Values) -> Result<Option<Value>> {
        Ok(match self {
            Self::Text(pattern) => return pattern.fill_json(values),
            Self::List(all) => {
                let mut list = Vec::new();
                for one in all {
                    list.extend(one.fill(values)?);
                }
                Some(Value::Array(list))
            }
            Self::Object(all) => {
                let mut object = serde_json::Map::new();
                for (name, one) in all {
                    if let Some(value) = one.fill(values)? {
                        object.insert(name.clone(), value);
                    }
                }
                Some(Value::Object(object))
            }
            Self::Fixed(value) => Some(value.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_are_filled_and_nothing_escapes_its_place() {
        let mut values = Values::default();
        values.set("to", "+4930123456");
        values.set("text", "a\"b{{to}}\n");
        values.set("media", json!(["https://a.example/1.png"]));
        let fill = |text: &str| {
            Pattern::parse("body", text)
                .unwrap()
                .fill(&values, |t| Ok(crate::exchange::percent(t)))
        };
        assert_eq!(
            fill("n={{to}}&t={{ text }}").unwrap().unwrap(),
            "n=%2B4930123456&t=a%22b%7B%7Bto%7D%7D%0A"
        );
        assert_eq!(fill("{{from?}}").unwrap(), None);
        assert_eq!(fill("f={{from?}}").unwrap().unwrap(), "f=");
        assert_eq!(fill("{{from}}").unwrap_err().context("field"), Some("from"));
        let shape = json!({"to": "{{to}}", "n": 1, "m": "{{media}}", "f": "{{from?}}", "l": ["x {{text}}", "{{from?}}"]});
        assert_eq!(
            Shape::parse("body", &shape)
                .unwrap()
                .fill(&values)
                .unwrap()
                .unwrap(),
            json!({"to": "+4930123456", "n": 1, "m": ["https://a.example/1.png"], "l": ["x a\"b{{to}}\n"]})
        );
        for bad in ["{{to", "{{nobody}}", "{{param.}}", "{{}}"] {
            assert_eq!(
                Pattern::parse("url", bad).unwrap_err().context("setting"),
                Some("url"),
                "{bad}"
            );
        }
    }
}
