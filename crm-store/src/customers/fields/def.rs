//! What can be said of an attribute.

use std::collections::BTreeSet;

use crm_core::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::super::merge::Strategy;

/// The type of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldKind {
    /// Text.
    Text,
    /// A 64-bit integer.
    Int,
    /// A number.
    Float,
    /// True or false.
    Bool,
    /// An instant, as RFC 3339 text.
    Timestamp,
    /// One of these texts.
    Choice(Vec<String>),
    /// A list of these texts, each at most once.
    Choices(Vec<String>),
}

impl FieldKind {
    pub(super) fn check(&self, value: &Json) -> Result<(), &'static str> {
        let among = |choices: &[String], value: &Json| {
            value
                .as_str()
                .is_some_and(|text| choices.iter().any(|choice| choice == text))
        };
        let (good, message) = match self {
            Self::Text => (value.is_string(), "the attribute is declared as text"),
            Self::Int => (
                value.as_i64().is_some(),
                "the attribute is declared as an integer",
            ),
            Self::Float => (value.is_number(), "the attribute is declared as a number"),
            Self::Bool => (value.is_boolean(), "the attribute is declared as true or false"),
            Self::Timestamp => (
                value
                    .as_str()
                    .is_some_and(|text| text.parse::<Timestamp>().is_ok()),
                "the attribute is declared as an instant, written as 2026-03-01T09:00:00Z",
            ),
            Self::Choice(choices) => (
                among(choices, value),
                "the attribute is declared as one of a list of choices",
            ),
            Self::Choices(choices) => (
                value.as_array().is_some_and(|items| {
                    let once: BTreeSet<&str> = items.iter().filter_map(Json::as_str).collect();
                    once.len() == items.len() && items.iter().all(|item| among(choices, item))
                }),
                "the attribute is declared as a list of choices, each at most once",
            ),
        };
        if good { Ok(()) } else { Err(message) }
    }
}

/// What an attribute is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldDef {
    /// Its name, as in `attributes.<key>`.
    pub key: String,
    /// Its type.
    pub kind: FieldKind,
    /// Whether [`create`](crate::customers::Customers::create) and [`update`](crate::customers::Customers::update) refuse
    /// a customer without it. Collectors, who know parts only, may leave it out.
    #[serde(default)]
    pub required: bool,
    /// Whether no two customers may have the same value. Enforced by the store, also between processes.
    #[serde(default)]
    pub unique: bool,
    /// Whether it says something about the person; true unless said otherwise.
    pub personal: bool,
    /// Whether customers are found by it fast.
    #[serde(default)]
    pub indexed: bool,
    /// How it survives a merge, unless the merge says otherwise.
    #[serde(default)]
    pub merge: Option<Strategy>,
}

impl FieldDef {
    /// An optional, personal attribute of this type.
    pub fn new(key: impl Into<String>, kind: FieldKind) -> Self {
        Self {
            key: key.into(),
            kind,
            required: false,
            unique: false,
            personal: true,
            indexed: false,
            merge: None,
        }
    }
    /// Found fast.
    #[must_use]
    pub fn indexed(mut self) -> Self {
        self.indexed = true;
        self
    }
    /// One customer a value. Also found fast.
    #[must_use]
    pub fn unique(mut self) -> Self {
        (self.unique, self.indexed) = (true, true);
        self
    }
    /// Must be there.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }
    /// Says nothing about the person.
    #[must_use]
    pub fn impersonal(mut self) -> Self {
        self.personal = false;
        self
    }
    /// Survives a merge so.
    #[must_use]
    pub fn merging(mut self, strategy: Strategy) -> Self {
        self.merge = Some(strategy);
        self
    }

    pub(super) fn is_indexed(&self) -> bool {
        self.indexed || self.unique
    }
}
