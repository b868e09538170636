//! Values that one customer only may have: whose they are, while drafts are matched, and who is told when the store
//! refuses one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crm_core::capability::RecordStore;
use crm_core::customer::Attributes;
use crm_core::query::{Filter, Query};
use crm_core::record::{Value, Write};
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Uuid};
use serde_json::Value as Json;

use super::fields::{ATTRIBUTE, Declared, unique_hash};
use super::normalise::Clean;
use super::shape;

/// The unique index over values.
pub(super) const UNIQUE: &str = "crm_attribute_unique";
/// Values of one question.
const KEYS: usize = 2000;

/// Whose the values are that some drafts have for attributes declared as unique.
#[derive(Debug, Default)]
pub(super) struct Uniques {
    keys: BTreeSet<String>,
    owners: HashMap<(String, String), CustomerId>,
}

impl Uniques {
    /// Finds the owners of all values the drafts have. Asks the store nothing when nothing is declared as unique.
    pub(super) async fn look_up(
        store: &dyn RecordStore,
        ctx: &Context,
        declared: &Declared,
        drafts: &[Clean],
    ) -> Result<Self> {
        let mut uniques = Self {
            keys: declared.unique_keys().map(str::to_owned).collect(),
            owners: HashMap::new(),
        };
        let mut hashes: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for key in &uniques.keys {
            let values = drafts.iter().filter_map(|draft| draft.attributes.get(key));
            let wanted: BTreeSet<String> = values.map(unique_hash).collect();
            if !wanted.is_empty() {
                hashes.insert(key, wanted);
            }
        }
        let mut owners = HashMap::new();
        for (key, hashes) in hashes {
            let hashes: Vec<String> = hashes.into_iter().collect();
            for some in hashes.chunks(KEYS) {
                let filter = Filter::eq("key", key)
                    .and(Filter::one_of("unique_value", some.iter().map(String::as_str)));
                for stored in shape::all(store, ctx, &ATTRIBUTE, filter).await? {
                    let owner = stored.record.uuid("customer_id")?;
                    let hash = stored.record.text("unique_value")?.to_owned();
                    owners.insert((key.to_owned(), hash), owner.into());
                }
            }
        }
        uniques.owners = owners;
        Ok(uniques)
    }

    /// Gives a customer a value of an attribute, and takes the one it had. False when the value is another customer's:
    /// then nothing changes.
    pub(super) fn take(&mut self, customer: CustomerId, known: &Attributes, key: &str, value: &Json) -> bool {
        if !self.keys.contains(key) {
            return true;
        }
        let own = (key.to_owned(), unique_hash(value));
        if self.owners.get(&own).is_some_and(|owner| *owner != customer) {
            return false;
        }
        if let Some(before) = known.get(key) {
            let before = (key.to_owned(), unique_hash(before));
            if self.owners.get(&before) == Some(&customer) {
                self.owners.remove(&before);
            }
        }
        self.owners.insert(own, customer);
        true
    }
}

/// Whether a unit of work failed because a value that one customer only may have is another one's.
pub(super) fn is_taken(error: &Error) -> bool {
    error.kind() == ErrorKind::Conflict && error.context("index") == Some(UNIQUE)
}

/// Says which field it was, who wanted the value (`wanted_by`), and who has it (`customer_id`, when it is stored).
pub(super) async fn told(store: &dyn RecordStore, ctx: &Context, writes: &[Write], error: Error) -> Error {
    let position = error.context("write").and_then(|text| text.parse::<usize>().ok());
    let Some(Write::Insert { record, .. } | Write::Update { record, .. }) =
        position.and_then(|position| writes.get(position))
    else {
        return error;
    };
    let (Ok(key), Ok(wanted_by), Some(Value::Text(hash))) = (
        record.text("key"),
        record.uuid("customer_id"),
        record.get("unique_value"),
    ) else {
        return error;
    };
    let error = error
        .with("field", format!("attributes.{key}"))
        .with("wanted_by", wanted_by);
    let filter = Filter::eq("key", key).and(Filter::eq("unique_value", hash.as_str()));
    // Who has it is a help only: the error that counts is the one there is.
    let found = store.find(ctx, &ATTRIBUTE, &Query::new(filter).limit(1)).await;
    let owner: Option<Uuid> = found
        .ok()
        .and_then(|page| page.items.first()?.record.uuid("customer_id").ok());
    match owner.filter(|owner| *owner != wanted_by) {
        Some(owner) => error.with("customer_id", owner),
        None => error,
    }
}
