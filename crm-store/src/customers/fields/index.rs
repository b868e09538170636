//! The index of declared attributes: kept with every profile, asked before the profiles are.

use std::collections::{HashMap, HashSet};

use crm_core::customer::CUSTOMER;
use crm_core::query::{Compare, FieldRef, Filter, Query};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Value, Version, Write};
use crm_core::{Context, Result, Uuid};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::super::{Customers, shape, unique};
use super::{Declared, FieldDef, STEP};

/// The index of declared attributes: one record a customer and attribute, written in the same unit of work as the
/// profile. It narrows a question down; the profile decides.
pub static ATTRIBUTE: Schema = Schema {
    name: "crm_attribute",
    fields: &[
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("key", FieldType::Text),
        Field::new("text_value", FieldType::Text).nullable().personal(),
        Field::new("number_value", FieldType::Float).nullable().personal(),
        // A hash without a key: who can guess the values can guess which one it is.
        Field::new("unique_value", FieldType::Text).nullable().personal(),
    ],
    indexes: &[
        Index::new("crm_attribute_customer", &["customer_id"]),
        Index::new("crm_attribute_text", &["key", "text_value"]),
        Index::new("crm_attribute_number", &["key", "number_value"]),
        Index::unique("crm_attribute_unique", &["key", "unique_value"]),
    ],
};

/// Characters of a text that the index keeps; longer ones are told apart by the profile.
const KEPT: usize = 120;
/// The most customers an index narrows a question to; beyond that it would not help.
const NARROW: u32 = 5000;

impl FieldDef {
    /// The index's record of a customer's value.
    pub(super) fn entry(&self, customer: Uuid, value: &Json) -> Result<Option<Record>> {
        if value.is_null() || !self.is_indexed() {
            return Ok(None);
        }
        let (text, number) = indexed(value);
        let unique = self.unique.then(|| unique_hash(value));
        Record::from_values(
            &ATTRIBUTE,
            vec![
                customer.into(),
                self.key.as_str().into(),
                text.into(),
                number.into(),
                unique.into(),
            ],
        )
        .map(Some)
    }
}

fn indexed(value: &Json) -> (Option<String>, Option<f64>) {
    match value {
        Json::String(text) => (Some(cut(text)), None),
        Json::Bool(flag) => (Some(flag.to_string()), None),
        Json::Number(number) => (None, number.as_f64()),
        _ => (None, None),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(KEPT).collect()
}

/// What the unique index knows a value by.
pub(in super::super) fn unique_hash(value: &Json) -> String {
    hash(&[value.to_string().as_bytes()])
}

fn hash(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The same customer and attribute have the same record, on every store and after every undo.
pub(super) fn entry_id(customer: Uuid, key: &str) -> Uuid {
    let text = hash(&[customer.as_bytes(), key.as_bytes()]);
    let bits = text.get(..32).and_then(|hex| u128::from_str_radix(hex, 16).ok());
    crm_core::Uuid::from_u128(bits.unwrap_or_default())
}

impl Customers {
    /// Carries out a unit of work; for every profile in it, the index of declared attributes follows.
    pub(in super::super) async fn commit(&self, ctx: &Context, writes: &[Write]) -> Result<()> {
        let profile = |write: &&Write| write.schema().name == CUSTOMER.name;
        if !writes.iter().any(|write| profile(&write)) {
            return self.store.apply(ctx, writes).await.map(drop);
        }
        let declared = self.declared(ctx).await?;
        let defs: Vec<&FieldDef> = declared.defs.values().filter(|def| def.is_indexed()).collect();
        if defs.is_empty() {
            return self.store.apply(ctx, writes).await.map(drop);
        }
        let ids: Vec<Uuid> = writes.iter().filter(profile).map(Write::id).collect();
        let mut known: HashMap<Uuid, Stored> = HashMap::new();
        for ids in ids.chunks(STEP as usize) {
            let filter = Filter::one_of("customer_id", ids.iter().copied());
            for stored in shape::all(&*self.store, ctx, &ATTRIBUTE, filter).await? {
                known.insert(stored.id, stored);
            }
        }
        let (mut updates, mut inserts) = (Vec::new(), Vec::new());
        for write in writes.iter().filter(profile) {
            let (Write::Insert { id, record, .. }
            | Write::Update { id, record, .. }
            | Write::Put { id, record }) = write
            else {
                continue;
            };
            let Some(attributes) = record.get("attributes").and_then(Value::as_json) else {
                continue;
            };
            for def in &defs {
                let value = attributes.get(&def.key).unwrap_or(&Json::Null);
                let Some(entry) = def.entry(*id, value)? else {
                    continue;
                };
                let entry_id = entry_id(*id, &def.key);
                match known.remove(&entry_id) {
                    Some(stored) if stored.record == entry => {}
                    Some(stored) => updates.push((stored, entry)),
                    None => inserts.push(Write::insert(entry_id, entry)),
                }
            }
        }
        let gone = known
            .into_values()
            .map(|stored| Write::delete(&ATTRIBUTE, stored.id, Some(stored.version)));
        let mut all: Vec<Write> = writes.iter().cloned().chain(gone).collect();
        hand_over(&mut all, updates, &inserts)?;
        all.extend(inserts);
        match self.store.apply(ctx, &all).await {
            Ok(_) => Ok(()),
            Err(error) if unique::is_taken(&error) => Err(unique::told(&*self.store, ctx, &all, error).await),
            Err(error) => Err(error),
        }
    }

    /// Adds to a question what the index of declared attributes knows, so that the store need not look at everybody.
    pub(in super::super) async fn narrowed(&self, ctx: &Context, filter: &Filter) -> Result<Filter> {
        let conditions: Vec<&Filter> = match filter {
            Filter::And(all) => all.iter().collect(),
            one => vec![one],
        };
        let mut declared: Option<Declared> = None;
        for condition in conditions {
            let Some((key, entries)) = entries(condition) else {
                continue;
            };
            if declared.is_none() {
                declared = Some(self.declared(ctx).await?);
            }
            let known = declared.as_ref().and_then(|declared| declared.defs.get(key));
            if !known.is_some_and(FieldDef::is_indexed) {
                continue;
            }
            let query = Query::new(Filter::eq("key", key).and(entries)).limit(NARROW);
            let page = self.store.find(ctx, &ATTRIBUTE, &query).await?;
            if page.next.is_none() {
                let ids = page.items.iter().map(|entry| entry.record.uuid("customer_id"));
                let ids = ids.collect::<Result<Vec<Uuid>>>()?;
                return Ok(Filter::one_of("id", ids).and_all(filter.clone()));
            }
        }
        Ok(filter.clone())
    }
}

/// Adds updates of the index. A value that goes from one customer to another within the unit of work is given up before
/// it is taken, whatever the order of the two.
fn hand_over(all: &mut Vec<Write>, updates: Vec<(Stored, Record)>, inserts: &[Write]) -> Result<()> {
    fn value(record: &Record) -> Option<(&str, &str)> {
        let text = |name| record.get(name).and_then(Value::as_str);
        Some((text("key")?, text("unique_value")?))
    }
    let taken = inserts.iter().filter_map(|write| match write {
        Write::Insert { record, .. } => Some(record),
        _ => None,
    });
    let wanted: HashSet<(&str, &str)> = updates
        .iter()
        .map(|(_, entry)| entry)
        .chain(taken)
        .filter_map(value)
        .collect();
    let mut versions = Vec::with_capacity(updates.len());
    for (stored, entry) in &updates {
        let (before, now) = (value(&stored.record), value(entry));
        let given_up = before != now && before.is_some_and(|before| wanted.contains(&before));
        if given_up {
            let free = stored.record.clone().with("unique_value", Value::Null)?;
            all.push(Write::update(stored.id, stored.version, free));
        }
        versions.push(stored.version + Version::from(given_up));
    }
    for ((stored, entry), version) in updates.into_iter().zip(versions) {
        all.push(Write::update(stored.id, version, entry));
    }
    Ok(())
}

/// Both, without flattening what was asked.
trait AndAll {
    fn and_all(self, other: Filter) -> Filter;
}
impl AndAll for Filter {
    fn and_all(self, other: Filter) -> Filter {
        Filter::And(vec![self, other])
    }
}

/// The attribute a condition is about, and a condition on the index that is true wherever this one is.
fn entries(condition: &Filter) -> Option<(&str, Filter)> {
    let key = |field: &'_ FieldRef| matches!((field.field.as_str(), field.path.len()), ("attributes", 1));
    let column = |value: &Value| match value {
        Value::Text(text) => Some(("text_value", Value::from(cut(text)))),
        Value::Bool(flag) => Some(("text_value", Value::from(flag.to_string()))),
        Value::Int(_) | Value::Float(_) => value.as_f64().map(|number| ("number_value", Value::from(number))),
        _ => None,
    };
    match condition {
        Filter::Is { field, op, value } if key(field) => {
            let (column, value) = column(value)?;
            // What was cut or rounded may be equal where the values are not.
            let op = match op {
                Compare::Lt => Compare::Le,
                Compare::Gt => Compare::Ge,
                Compare::Ne => return None,
                other => *other,
            };
            let filter = Filter::Is {
                field: column.into(),
                op,
                value,
            };
            Some((field.path.first()?, filter))
        }
        Filter::In { field, values } if key(field) => {
            let columns = values.iter().map(column).collect::<Option<Vec<_>>>()?;
            let any = columns
                .into_iter()
                .map(|(column, value)| Filter::eq(column, value))
                .collect();
            Some((field.path.first()?, Filter::Or(any)))
        }
        Filter::Prefix { field, text } if key(field) => {
            Some((field.path.first()?, Filter::prefix("text_value", cut(text))))
        }
        _ => None,
    }
}
