//! JSON documents to drafts: shared by files and interfaces.

use std::collections::{BTreeMap, HashMap};

use crm_core::customer::{Draft, Provenance};
use serde_json::Value as Json;

use super::Mapping;
use super::mapping::recognise;
use super::stream::Wrong;
use crate::assemble::{Assembly, Reading};
use crate::target::{AttributeType, Target};

/// The most names that are remembered.
const MAX_USUAL: usize = 10_000;

/// Makes drafts of documents.
pub(crate) struct Documents {
    mapping: Option<Vec<(Vec<String>, String, Target)>>,
    /// What recognised names say, by path.
    usual: HashMap<String, Option<Target>>,
    reading: Reading,
    name: String,
}

impl Documents {
    /// `name` is the system of ids that are recognised.
    pub(crate) fn new(mapping: Option<&Mapping>, reading: &Reading, name: &str) -> Self {
        Self {
            mapping: mapping.map(|mapping| {
                let columns = mapping.columns().iter();
                columns
                    .map(|c| (keys(&c.column), c.column.clone(), c.target.clone()))
                    .collect()
            }),
            usual: HashMap::new(),
            reading: reading.clone(),
            name: name.to_owned(),
        }
    }

    /// Whom a document is about, or the path that is wrong and why.
    pub(crate) fn draft(&mut self, json: &Json, provenance: Provenance) -> Result<Draft, Wrong> {
        let mut found: Vec<(String, Target, &Json)> = Vec::new();
        match &self.mapping {
            Some(mapping) => {
                for (keys, path, target) in mapping {
                    follow(json, keys, whole(target), &mut |value| {
                        found.push((path.clone(), target.clone(), value));
                    });
                }
            }
            None => self.recognised(json, &mut found),
        }
        let mut assembly = Assembly::new(&self.reading, provenance);
        let mut from: BTreeMap<Target, String> = BTreeMap::new();
        for (path, target, value) in found {
            let text = match (value, &target) {
                (Json::Null, _) => continue,
                (value, Target::Attribute(_, AttributeType::Json)) => value.to_string(),
                (Json::String(text), _) => text.clone(),
                (Json::Number(_) | Json::Bool(_), _) => value.to_string(),
                (Json::Array(_) | Json::Object(_), _) => {
                    let reason = "a list or object where one value is wanted; map the path below it, or to attribute:<name>:json";
                    return Err((Some(path), reason.to_owned()));
                }
            };
            assembly
                .put(&target, &text)
                .map_err(|reason| (Some(path.clone()), reason.to_owned()))?;
            from.entry(target).or_insert(path);
        }
        assembly
            .finish()
            .map_err(|(target, reason)| (target.and_then(|target| from.remove(&target)), reason.to_owned()))
    }

    /// Everything whose name is a usual one: at the top, and in objects that usually hold a person's parts.
    fn recognised<'j>(&mut self, json: &'j Json, found: &mut Vec<(String, Target, &'j Json)>) {
        const PARTS: [&str; 7] = [
            "name",
            "address",
            "contact",
            "customer",
            "person",
            "profile",
            "addresses",
        ];
        let mut stack: Vec<(String, &'j Json, bool)> = Vec::new();
        let name = self.name.clone();
        // Keys that are never the same again would fill the memory.
        if self.usual.len() > MAX_USUAL {
            self.usual.clear();
        }
        let mut look =
            |path: String, key: &str, value: &'j Json, stack: &mut Vec<(String, &'j Json, bool)>| match value
            {
                Json::Object(_) if PARTS.contains(&key.to_lowercase().as_str()) => {
                    stack.push((path, value, true))
                }
                Json::Object(_) | Json::Null => {}
                _ => {
                    let target = self
                        .usual
                        .entry(key.to_owned())
                        .or_insert_with(|| recognise(key, &name))
                        .clone();
                    match (target, value) {
                        (Some(target), Json::Array(items)) if !whole(&target) => {
                            let target = match target {
                                Target::Tags => Target::Tag,
                                other => other,
                            };
                            let plain = items.iter().filter(|item| !item.is_object() && !item.is_array());
                            found.extend(plain.map(|item| (path.clone(), target.clone(), item)));
                        }
                        (Some(target), value) => found.push((path, target, value)),
                        (None, _) => {}
                    }
                }
            };
        if let Json::Object(map) = json {
            for (key, value) in map {
                look(key.clone(), key, value, &mut stack);
            }
        }
        while let Some((path, value, _)) = stack.pop() {
            if let Json::Object(map) = value {
                let mut below = Vec::new();
                for (key, value) in map {
                    look(format!("{path}.{key}"), key, value, &mut below);
                }
            }
        }
    }
}

/// Whether a list is one value of this target.
fn whole(target: &Target) -> bool {
    matches!(target, Target::Attribute(_, AttributeType::Json))
}

/// The keys of a path; `\.` is a dot within one.
pub(crate) fn keys(path: &str) -> Vec<String> {
    let (mut keys, mut key, mut escaped) = (Vec::new(), String::new(), false);
    for c in path.trim().chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            '.' if !escaped => keys.push(std::mem::take(&mut key)),
            c => key.push(c),
        }
        escaped = false;
    }
    keys.push(key);
    keys
}

/// Hands out what lies at a path; each item of the lists on the way.
pub(crate) fn follow<'j>(json: &'j Json, keys: &[String], whole: bool, take: &mut dyn FnMut(&'j Json)) {
    match (keys.split_first(), json) {
        (None, Json::Array(items)) if !whole => items.iter().for_each(&mut *take),
        (None, value) => take(value),
        (Some((key, rest)), Json::Object(map)) => {
            if let Some(value) = map.get(key) {
                follow(value, rest, whole, take);
            }
        }
        (Some((key, rest)), Json::Array(items)) => match key.parse::<usize>() {
            Ok(at) => {
                if let Some(item) = items.get(at) {
                    follow(item, rest, whole, take);
                }
            }
            Err(_) => {
                for item in items {
                    follow(item, keys, whole, take);
                }
            }
        },
        (Some(_), _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_through_objects_and_lists() {
        let json: Json = serde_json::from_str(
            r#"{"a": {"b.c": [1, 2]}, "l": [{"x": 1}, {"x": [2, 3]}, {"y": 4}], "m": [[5], [6]]}"#,
        )
        .unwrap();
        let at = |path: &str, whole: bool| {
            let mut found = Vec::new();
            follow(&json, &keys(path), whole, &mut |value| {
                found.push(value.to_string())
            });
            found.join(" ")
        };
        assert_eq!(at(r"a.b\.c", false), "1 2");
        assert_eq!(at(r"a.b\.c", true), "[1,2]");
        assert_eq!(at(r"a.b\.c.1", false), "2");
        assert_eq!(at("l.x", false), "1 2 3");
        assert_eq!(at("l.1.x.0", false), "2");
        assert_eq!(at("m.0", false), "5");
        assert_eq!(at("nothing.here", false), "");
    }
}
