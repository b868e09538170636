//! Who is who: drafts are matched with stored customers and with each other, and become the writes of one unit of work.
//!
//! External references come first, then e-mail addresses, then phone numbers. A phone number identifies only while
//! nothing speaks against it: a draft with an e-mail address of nobody's and the phone of a customer who has other
//! addresses is another person sharing the phone.

use std::collections::{BTreeMap, HashMap, HashSet};

use crm_core::capability::{RecordStore, Reject};
use crm_core::customer::{
    Address, Attributes, CONTACT_POINT, ContactKind, ContactPoint, Customer, EXTERNAL_REF, ExternalRef,
    PersonName, Provenance,
};
use crm_core::query::Filter;
use crm_core::record::Write;
use crm_core::{Context, CustomerId, Error, IdSource, Result, Timestamp, Uuid};

use serde::{Deserialize, Serialize};

use super::fields::Declared;
use super::normalise::{Clean, conflict};
use super::unique::Uniques;
use super::{shape, timeline};

/// What became of one draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// A new customer was made.
    Created,
    /// The customer was known, and is known better now.
    Updated,
    /// Everything was known already; nothing was written to the customer.
    Unchanged,
}

/// Keys of one question.
const KEYS: usize = 2000;

/// The writes for some drafts, and what they will have done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
    /// One a draft.
    pub(super) outcomes: Vec<(CustomerId, Change)>,
    pub(super) rejects: Vec<Reject>,
    /// Where the rejects of each draft end.
    pub(super) bounds: Vec<usize>,
    /// How many orders and interactions are new.
    pub(super) orders: u64,
    pub(super) interactions: u64,
}

/// A customer while drafts are merged into it.
struct Working {
    customer: Customer,
    fresh: bool,
    changed: bool,
    new_points: Vec<(ContactPoint, Option<String>)>,
    new_refs: Vec<ExternalRef>,
    /// The newest observation merged here, also when it brought nothing new: what it confirmed, an equally old one does
    /// not overwrite.
    seen: Option<Timestamp>,
}

impl Working {
    fn new(customer: Customer, fresh: bool) -> Self {
        let seen = customer.provenance.iter().map(|known| known.observed_at).max();
        Self {
            customer,
            fresh,
            changed: fresh,
            new_points: Vec::new(),
            new_refs: Vec::new(),
            seen,
        }
    }
}

struct Matcher<'a> {
    ids: &'a dyn IdSource,
    now: Timestamp,
    people: BTreeMap<CustomerId, Working>,
    refs: HashMap<ExternalRef, CustomerId>,
    keys: HashMap<String, CustomerId>,
    uniques: Uniques,
    rejects: Vec<Reject>,
}

/// Matches drafts, each of which must be identified, with what the store has now.
pub(super) async fn plan(
    store: &dyn RecordStore,
    ctx: &Context,
    ids: &dyn IdSource,
    now: Timestamp,
    (declared, drafts): (&Declared, &[Clean]),
) -> Result<Plan> {
    let mut matcher = Matcher::new(ids, now);
    matcher.look_up(store, ctx, drafts).await?;
    matcher.uniques = Uniques::look_up(store, ctx, declared, drafts).await?;
    let mut bounds = Vec::with_capacity(drafts.len());
    let outcomes = drafts
        .iter()
        .map(|draft| {
            let outcome = matcher.take(draft);
            bounds.push(matcher.rejects.len());
            outcome
        })
        .collect();
    let mut plan = finish(store, ctx, matcher, drafts, outcomes).await?;
    plan.bounds = bounds;
    Ok(plan)
}

/// The writes that make one new customer of a draft, whoever has its phone numbers.
///
/// # Errors
/// [`crm_core::ErrorKind::Conflict`] when somebody has one of its other keys.
pub(super) async fn create(
    store: &dyn RecordStore,
    ctx: &Context,
    ids: &dyn IdSource,
    now: Timestamp,
    draft: &Clean,
) -> Result<Plan> {
    let drafts = std::slice::from_ref(draft);
    let mut matcher = Matcher::new(ids, now);
    matcher.look_up(store, ctx, drafts).await?;
    let by_keys = Clean {
        phones: Vec::new(),
        ..draft.clone()
    };
    if let Some(owner) = matcher.recognise(&by_keys) {
        return Err(
            Error::conflict("the person is known already; change that customer, or use upsert")
                .with("customer_id", owner),
        );
    }
    let outcome = matcher.make(draft);
    finish(store, ctx, matcher, drafts, vec![outcome]).await
}

async fn finish(
    store: &dyn RecordStore,
    ctx: &Context,
    matcher: Matcher<'_>,
    drafts: &[Clean],
    outcomes: Vec<(CustomerId, Change)>,
) -> Result<Plan> {
    let ids = matcher.ids;
    let (mut orders, mut interactions) = (Vec::new(), Vec::new());
    for (draft, (id, _)) in drafts.iter().zip(&outcomes) {
        let source = draft.provenance.source.as_str();
        orders.extend(
            draft
                .orders
                .iter()
                .map(|order| timeline::order(ids, *id, source, order)),
        );
        interactions.extend(
            draft
                .interactions
                .iter()
                .map(|event| timeline::interaction(ids, *id, source, event)),
        );
    }
    let orders = timeline::unknown(store, ctx, orders).await?;
    let interactions = timeline::unknown(store, ctx, interactions).await?;
    let mut writes = Vec::new();
    matcher.write(&mut writes)?;
    writes.extend(timeline::inserts(&orders)?);
    writes.extend(timeline::inserts(&interactions)?);
    Ok(Plan {
        writes,
        outcomes,
        rejects: matcher.rejects,
        bounds: Vec::new(),
        orders: orders.len() as u64,
        interactions: interactions.len() as u64,
    })
}

impl<'a> Matcher<'a> {
    fn new(ids: &'a dyn IdSource, now: Timestamp) -> Self {
        let (people, refs, keys, uniques, rejects) = Default::default();
        Self {
            ids,
            now,
            people,
            refs,
            keys,
            uniques,
            rejects,
        }
    }

    /// Finds the owners of all keys the drafts have, and loads them.
    async fn look_up(&mut self, store: &dyn RecordStore, ctx: &Context, drafts: &[Clean]) -> Result<()> {
        let mut by_system: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
        let mut keys: HashSet<String> = HashSet::new();
        for draft in drafts {
            for reference in &draft.refs {
                by_system
                    .entry(&reference.system)
                    .or_default()
                    .insert(&reference.id);
            }
            keys.extend(
                draft
                    .emails
                    .iter()
                    .map(|email| shape::match_key(ContactKind::Email, email.as_str())),
            );
            keys.extend(
                draft
                    .phones
                    .iter()
                    .map(|phone| shape::match_key(ContactKind::Phone, phone.as_str())),
            );
        }
        let mut owners: HashSet<Uuid> = HashSet::new();
        for (system, ids) in by_system {
            let ids: Vec<&str> = ids.into_iter().collect();
            for ids in ids.chunks(KEYS) {
                let filter =
                    Filter::eq("system", system).and(Filter::one_of("external_id", ids.iter().copied()));
                for stored in shape::all(store, ctx, &EXTERNAL_REF, filter).await? {
                    let owner = stored.record.uuid("customer_id")?;
                    owners.insert(owner);
                    self.refs.insert(shape::read_reference(&stored)?, owner.into());
                }
            }
        }
        let keys: Vec<String> = keys.into_iter().collect();
        for keys in keys.chunks(KEYS) {
            let filter = Filter::one_of("match_key", keys.iter().map(String::as_str));
            for stored in shape::all(store, ctx, &CONTACT_POINT, filter).await? {
                let owner = stored.record.uuid("customer_id")?;
                owners.insert(owner);
                self.keys
                    .insert(stored.record.text("match_key")?.to_owned(), owner.into());
            }
        }
        let owners: Vec<Uuid> = owners.into_iter().collect();
        for (id, loaded) in shape::load(store, ctx, &owners).await? {
            let working = Working::new(loaded.customer, false);
            self.people.insert(id.into(), working);
        }
        // An owner removed between the questions: its keys are free, and if not, the unit of work will say so.
        self.refs.retain(|_, owner| self.people.contains_key(owner));
        self.keys.retain(|_, owner| self.people.contains_key(owner));
        Ok(())
    }

    /// Finds or makes the draft's customer and merges the draft into it.
    fn take(&mut self, draft: &Clean) -> (CustomerId, Change) {
        let Some(id) = self.recognise(draft) else {
            return self.make(draft);
        };
        let Some(mut working) = self.people.remove(&id) else {
            return (id, Change::Unchanged);
        };
        let changed = self.merge(&mut working, draft);
        if changed {
            working.changed = true;
            working.customer.updated_at = self.now;
        }
        self.people.insert(id, working);
        (
            id,
            if changed {
                Change::Updated
            } else {
                Change::Unchanged
            },
        )
    }

    /// Makes a new customer of the draft.
    fn make(&mut self, draft: &Clean) -> (CustomerId, Change) {
        let id: CustomerId = self.ids.fresh().into();
        let customer = Customer {
            id,
            version: 1,
            name: PersonName::default(),
            contact_points: Vec::new(),
            addresses: Vec::new(),
            external_refs: Vec::new(),
            tags: Vec::new(),
            attributes: Attributes::default(),
            provenance: Vec::new(),
            known_from: BTreeMap::new(),
            created_at: self.now,
            updated_at: self.now,
        };
        let mut working = Working::new(customer, true);
        self.merge(&mut working, draft);
        self.people.insert(id, working);
        (id, Change::Created)
    }

    fn recognise(&mut self, draft: &Clean) -> Option<CustomerId> {
        let mut found: Option<CustomerId> = None;
        for reference in &draft.refs {
            match (self.refs.get(reference), found) {
                (Some(owner), None) => found = Some(*owner),
                (Some(owner), Some(id)) if *owner != id => self.rejects.push(conflict(
                    &draft.provenance,
                    "external",
                    "this external reference belongs to another customer and was left there; merge the two if they are one",
                )),
                _ => {}
            }
        }
        for email in &draft.emails {
            match (self.keys.get(&shape::match_key(ContactKind::Email, email.as_str())), found) {
                (Some(owner), None) => found = Some(*owner),
                (Some(owner), Some(id)) if *owner != id => self.rejects.push(conflict(
                    &draft.provenance,
                    "email",
                    "this e-mail address belongs to another customer and was left there; merge the two if they are one",
                )),
                _ => {}
            }
        }
        if found.is_some() {
            return found;
        }
        // All e-mail addresses of the draft are nobody's here: an owner of the phone who has one is someone else.
        draft.phones.iter().find_map(|phone| {
            let owner = self
                .keys
                .get(&shape::match_key(ContactKind::Phone, phone.as_str()))?;
            let has_email = self
                .people
                .get(owner)?
                .customer
                .contact_points
                .iter()
                .any(|p| p.email().is_some());
            (draft.emails.is_empty() || !has_email).then_some(*owner)
        })
    }

    /// Merges a draft into a customer: what is new is added; where both know something, the newer observation wins;
    /// what is empty never overwrites. Answers whether anything changed.
    fn merge(&mut self, working: &mut Working, draft: &Clean) -> bool {
        let mut changed = self.merge_keys(working, draft);
        let customer = &mut working.customer;
        // While there is one source, it said everything; from the second on, each field knows its own.
        let only = match customer.provenance.as_slice() {
            [only] if only.source != draft.provenance.source => Some((only.clone(), said(customer))),
            _ => None,
        };
        let before = (customer.name.clone(), customer.addresses.clone());
        let mut taken: Vec<String> = Vec::new();
        let observed = draft.provenance.observed_at;
        let newer = working.seen.is_none_or(|seen| observed > seen);
        working.seen = working.seen.max(Some(observed));
        changed |= merge_name(&mut customer.name, &draft.name, newer);
        for (i, address) in draft.addresses.iter().enumerate() {
            let at = customer.addresses.iter().position(|known| known == address);
            // The main address of a newer observation becomes the main one.
            match at {
                Some(at) if newer && i == 0 && at != 0 => {
                    let address = customer.addresses.remove(at);
                    customer.addresses.insert(0, address);
                    changed = true;
                }
                Some(_) => {}
                None => {
                    let place = if newer && i == 0 {
                        0
                    } else {
                        customer.addresses.len()
                    };
                    customer.addresses.insert(place, address.clone());
                    changed = true;
                }
            }
        }
        for tag in &draft.tags {
            if !customer.tags.contains(tag) {
                customer.tags.push(tag.clone());
                changed = true;
            }
        }
        for (name, value) in draft.attributes.iter() {
            let known = customer.attributes.get(name);
            if known != Some(value) && (known.is_none() || newer) && is_something(value) {
                if !self.uniques.take(customer.id, &customer.attributes, name, value) {
                    self.rejects.push(conflict(
                        &draft.provenance,
                        &format!("attributes.{name}"),
                        "this value belongs to another customer, and only one may have it; mend it, or merge the two if they are one",
                    ));
                    continue;
                }
                // The name was checked when the draft was cleaned.
                changed |= customer.attributes.set(name, value.clone()).is_ok();
                taken.push(format!("attributes.{name}"));
            }
        }
        if customer.name != before.0 {
            taken.push("name".to_owned());
        }
        if customer.addresses != before.1 {
            taken.push("addresses".to_owned());
        }
        changed |= merge_provenance(&mut customer.provenance, &draft.provenance, changed);
        if let Some((only, fields)) = only {
            for field in fields {
                customer.known_from.entry(field).or_insert_with(|| only.clone());
            }
        }
        for field in taken {
            if customer.provenance.len() > 1 {
                customer.known_from.insert(field, draft.provenance.clone());
            } else {
                customer.known_from.remove(&field);
            }
        }
        changed
    }

    fn merge_keys(&mut self, working: &mut Working, draft: &Clean) -> bool {
        let id = working.customer.id;
        let mut changed = false;
        for reference in &draft.refs {
            if !self.refs.contains_key(reference) {
                self.refs.insert(reference.clone(), id);
                working.customer.external_refs.push(reference.clone());
                working.new_refs.push(reference.clone());
                changed = true;
            }
        }
        for email in &draft.emails {
            let key = shape::match_key(ContactKind::Email, email.as_str());
            if !self.keys.contains_key(&key) {
                self.keys.insert(key.clone(), id);
                self.add_point(working, Address::Email(email.clone()), Some(key));
                changed = true;
            }
        }
        for phone in &draft.phones {
            let key = shape::match_key(ContactKind::Phone, phone.as_str());
            if working
                .customer
                .contact_points
                .iter()
                .any(|point| point.phone() == Some(phone))
            {
                continue;
            }
            // Someone else's number is shared: kept here too, but it identifies its first owner only.
            let key = match self.keys.get(&key) {
                Some(_) => None,
                None => {
                    self.keys.insert(key.clone(), id);
                    Some(key)
                }
            };
            self.add_point(working, Address::Phone(phone.clone()), key);
            changed = true;
        }
        changed
    }

    fn add_point(&self, working: &mut Working, address: Address, key: Option<String>) {
        let mut point = ContactPoint::new(self.ids.fresh(), address);
        let points = &mut working.customer.contact_points;
        point.primary = !points
            .iter()
            .any(|other| other.kind() == point.kind() && other.primary);
        points.push(point.clone());
        working.new_points.push((point, key));
    }

    /// The writes of all customers that changed, alike ones next to each other.
    fn write(&self, writes: &mut Vec<Write>) -> Result<()> {
        let changed = || self.people.values().filter(|working| working.changed);
        for working in changed().filter(|working| working.fresh) {
            writes.push(Write::insert(
                working.customer.id,
                shape::profile(&working.customer)?,
            ));
        }
        for working in changed().filter(|working| !working.fresh) {
            let customer = &working.customer;
            writes.push(Write::update(
                customer.id,
                customer.version,
                shape::profile(customer)?,
            ));
        }
        for working in changed() {
            for (point, key) in &working.new_points {
                let record = shape::point(working.customer.id, point, key.clone(), self.now)?;
                writes.push(Write::insert(point.id, record));
            }
        }
        for working in changed() {
            for reference in &working.new_refs {
                let record = shape::reference(working.customer.id, reference, self.now)?;
                writes.push(Write::insert(self.ids.fresh(), record));
            }
        }
        Ok(())
    }
}

/// The fields a customer has a value for, as they are named in [`Customer::known_from`].
pub(super) fn said(customer: &Customer) -> Vec<String> {
    let mut fields = Vec::new();
    if !customer.name.is_empty() {
        fields.push("name".to_owned());
    }
    if !customer.addresses.is_empty() {
        fields.push("addresses".to_owned());
    }
    fields.extend(
        customer
            .attributes
            .iter()
            .map(|(name, _)| format!("attributes.{name}")),
    );
    fields
}

fn is_something(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => false,
        serde_json::Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

fn merge_name(known: &mut PersonName, found: &PersonName, newer: bool) -> bool {
    let before = known.clone();
    let take = |known: &mut String, found: &String| {
        if !found.is_empty() && (newer || known.is_empty()) {
            known.clone_from(found);
        }
    };
    take(&mut known.given, &found.given);
    take(&mut known.family, &found.family);
    if newer || before.is_empty() {
        take(&mut known.display, &found.display);
    }
    // A whole name made of the old parts would no longer be true.
    if found.display.is_empty() && (known.given != before.given || known.family != before.family) {
        known.display.clear();
    }
    *known != before
}

/// One entry a source. A later sighting of the same is not a change by itself.
fn merge_provenance(known: &mut Vec<Provenance>, found: &Provenance, changed: bool) -> bool {
    match known.iter_mut().find(|known| known.source == found.source) {
        None => {
            known.push(found.clone());
            true
        }
        Some(entry) if changed && found.observed_at > entry.observed_at => {
            entry.clone_from(found);
            true
        }
        Some(_) => false,
    }
}
