//! Which value survives a merge, field by field, and why.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crm_core::customer::{Attributes, Customer, Provenance};
use crm_core::{CustomerId, Error, Result, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Candidate, FieldPlan, MergeRules};

/// How the surviving value of a field is found. What is empty never survives anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The winner's, also when it has none.
    Winner,
    /// The winner's, else that of the first of the others who has one.
    NonEmpty,
    /// The one observed last.
    MostRecent,
    /// The one observed first.
    Oldest,
    /// The one of the source that comes first in [`MergeRules::trusted`]; then the surer, then the newer one.
    MostTrusted,
    /// All items of all lists, each once.
    Union,
    /// The sum of all numbers.
    Sum,
    /// The largest number.
    Max,
    /// The smallest number.
    Min,
}

impl Strategy {
    fn why(self) -> &'static str {
        match self {
            Self::Winner => "the winner's",
            Self::NonEmpty => "the first that is not empty",
            Self::MostRecent => "observed last",
            Self::Oldest => "observed first",
            Self::MostTrusted => "from the most trusted source",
            Self::Union => "all items of all",
            Self::Sum => "the sum of all",
            Self::Max => "the largest",
            Self::Min => "the smallest",
        }
    }
}

/// A candidate with what the choice needs.
struct Known<'a> {
    customer: &'a Customer,
    value: Json,
    source: Option<&'a Provenance>,
    observed_at: Timestamp,
}

fn observed(customer: &Customer, source: Option<&Provenance>) -> Timestamp {
    let newest = || customer.provenance.iter().map(|known| known.observed_at).max();
    source
        .map(|source| source.observed_at)
        .or_else(newest)
        .unwrap_or(customer.updated_at)
}

fn is_empty(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::String(text) => text.is_empty(),
        Json::Array(items) => items.is_empty(),
        Json::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn value_of(customer: &Customer, field: &str) -> Result<Json> {
    let json = |value: serde_json::Result<Json>| {
        value.map_err(|error| Error::unexpected("a profile as JSON").source(error))
    };
    match field {
        "name" if customer.name.is_empty() => Ok(Json::Null),
        "name" => json(serde_json::to_value(&customer.name)),
        "addresses" => json(serde_json::to_value(&customer.addresses)),
        "tags" => json(serde_json::to_value(&customer.tags)),
        _ => {
            let name = field.strip_prefix("attributes.").unwrap_or(field);
            Ok(customer.attributes.get(name).cloned().unwrap_or(Json::Null))
        }
    }
}

/// The merged profile of `people`, the winner first, and how each field came about.
pub(super) fn survive(people: &[&Customer], rules: &MergeRules) -> Result<(Customer, Vec<FieldPlan>)> {
    let Some((winner, losers)) = people.split_first() else {
        return Err(Error::unexpected("a merge of nobody"));
    };
    let attributes: BTreeSet<&str> = people
        .iter()
        .flat_map(|customer| customer.attributes.iter().map(|(name, _)| name))
        .collect();
    let fields = ["name", "addresses", "tags"]
        .into_iter()
        .map(str::to_owned)
        .chain(attributes.into_iter().map(|name| format!("attributes.{name}")));
    let mut merged = (*winner).clone();
    merged.attributes = Attributes::default();
    let mut plans = Vec::new();
    let mut sources: BTreeMap<String, Provenance> = BTreeMap::new();
    for field in fields {
        let strategy = rules.strategy(&field);
        let mut known = Vec::new();
        for customer in people {
            let value = value_of(customer, &field)?;
            if !is_empty(&value) {
                let source = customer.source_of(&field);
                let observed_at = observed(customer, source);
                known.push(Known {
                    customer,
                    value,
                    source,
                    observed_at,
                });
            }
        }
        let (survivor, from) = choose(&field, strategy, winner.id, &known, rules)?;
        if let [only] = from.as_slice()
            && let Some(source) = only.source
        {
            sources.insert(field.clone(), source.clone());
        }
        let typed = |error: serde_json::Error| Error::unexpected("a profile from JSON").source(error);
        match field.as_str() {
            "name" if survivor.is_null() => merged.name = Default::default(),
            "name" => merged.name = serde_json::from_value(survivor.clone()).map_err(typed)?,
            "addresses" if survivor.is_null() => merged.addresses.clear(),
            "addresses" => merged.addresses = serde_json::from_value(survivor.clone()).map_err(typed)?,
            "tags" if survivor.is_null() => merged.tags.clear(),
            "tags" => merged.tags = serde_json::from_value(survivor.clone()).map_err(typed)?,
            _ => merged.attributes.set(
                field.strip_prefix("attributes.").unwrap_or(&field),
                survivor.clone(),
            )?,
        }
        if known.is_empty() {
            continue;
        }
        let lost = known
            .iter()
            .any(|one| !from.iter().any(|kept| kept.customer.id == one.customer.id) && one.value != survivor);
        plans.push(FieldPlan {
            strategy,
            why: strategy.why().to_owned(),
            survivor,
            from: from.iter().map(|one| one.customer.id).collect(),
            conflict: lost,
            candidates: known
                .iter()
                .map(|one| Candidate {
                    customer: one.customer.id,
                    value: one.value.clone(),
                    source: one.source.map(|source| source.source.clone()),
                    observed_at: one.observed_at,
                })
                .collect(),
            field,
        });
    }
    for loser in losers {
        merged.created_at = merged.created_at.min(loser.created_at);
        for found in &loser.provenance {
            match merged
                .provenance
                .iter_mut()
                .find(|known| known.source == found.source)
            {
                None => merged.provenance.push(found.clone()),
                Some(known) if known.observed_at < found.observed_at => known.clone_from(found),
                Some(_) => {}
            }
        }
    }
    merged.known_from = match merged.provenance.as_slice() {
        // The only source there is need not be noted field by field.
        [only] => sources.into_iter().filter(|(_, source)| source != only).collect(),
        _ => sources,
    };
    Ok((merged, plans))
}

fn choose<'k, 'a>(
    field: &str,
    strategy: Strategy,
    winner: CustomerId,
    known: &'k [Known<'a>],
    rules: &MergeRules,
) -> Result<(Json, Vec<&'k Known<'a>>)> {
    let wrong = |message: &'static str| Err(Error::invalid(message).with("field", field));
    let one = |found: Option<&'k Known<'a>>| match found {
        Some(found) => (found.value.clone(), vec![found]),
        None => (Json::Null, Vec::new()),
    };
    // Of equals the first, which is the winner's or that of the first of the others.
    let placed = || known.iter().enumerate();
    Ok(match strategy {
        Strategy::Winner => one(known.iter().find(|one| one.customer.id == winner)),
        Strategy::NonEmpty => one(known.first()),
        Strategy::MostRecent => one(placed()
            .max_by_key(|(i, one)| (one.observed_at, Reverse(*i)))
            .map(|(_, one)| one)),
        Strategy::Oldest => one(placed()
            .min_by_key(|(i, one)| (one.observed_at, *i))
            .map(|(_, one)| one)),
        Strategy::MostTrusted => one(placed()
            .min_by_key(|(i, one)| {
                let rank = one
                    .source
                    .and_then(|source| rules.trusted.iter().position(|name| *name == source.source))
                    .unwrap_or(usize::MAX);
                let sure = one.source.and_then(|source| source.confidence);
                (rank, Reverse(sure), Reverse(one.observed_at), *i)
            })
            .map(|(_, one)| one)),
        Strategy::Union => {
            let mut items: Vec<Json> = Vec::new();
            for one in known {
                let Json::Array(theirs) = &one.value else {
                    return wrong("a union needs lists; choose another strategy for this field");
                };
                for item in theirs {
                    if !items.contains(item) {
                        items.push(item.clone());
                    }
                }
            }
            let survivor = if items.is_empty() {
                Json::Null
            } else {
                Json::Array(items)
            };
            (survivor, known.iter().collect())
        }
        Strategy::Sum => {
            if known.iter().any(|one| !one.value.is_number()) {
                return wrong("a sum needs numbers; choose another strategy for this field");
            }
            let whole = known
                .iter()
                .try_fold(0_i64, |sum, one| sum.checked_add(one.value.as_i64()?));
            let survivor = match whole {
                Some(sum) => Json::from(sum),
                None => {
                    let sum: f64 = known.iter().filter_map(|one| one.value.as_f64()).sum();
                    serde_json::Number::from_f64(sum).map_or(Json::Null, Json::Number)
                }
            };
            match known.is_empty() {
                true => (Json::Null, Vec::new()),
                false => (survivor, known.iter().collect()),
            }
        }
        Strategy::Max | Strategy::Min => {
            let mut found: Option<(&Known<'a>, f64)> = None;
            for one in known {
                let Some(number) = one.value.as_f64() else {
                    return wrong(
                        "the largest or smallest needs numbers; choose another strategy for this field",
                    );
                };
                let better = found.is_none_or(|(_, best)| {
                    if strategy == Strategy::Max {
                        number > best
                    } else {
                        number < best
                    }
                });
                if better {
                    found = Some((one, number));
                }
            }
            one(found.map(|(one, _)| one))
        }
    })
}
