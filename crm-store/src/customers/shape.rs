//! A customer as records, and back.

use std::collections::HashMap;

use crm_core::capability::RecordStore;
use crm_core::customer::{
    Address, CONTACT_POINT, CUSTOMER, ContactKind, ContactPoint, Customer, Deliverability, EXTERNAL_REF,
    EmailAddress, ExternalRef, PersonName, PhoneNumber, PostalAddress,
};
use crm_core::query::{Filter, Query};
use crm_core::record::{Record, Schema, Stored, Value};
use crm_core::{Context, CustomerId, Error, Result, Timestamp, Uuid};
use serde::Serialize;

/// Ids of one question.
const IDS: usize = 1000;
/// Records of one page: the most a store gives.
const PAGE: u32 = 10_000;

/// A customer with the records that hold its contact points and external references.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) customer: Customer,
    pub(super) points: Vec<Stored>,
    pub(super) refs: Vec<Stored>,
}

fn json<T: Serialize>(value: &T, field: &'static str) -> Result<Value> {
    let json = serde_json::to_value(value).map_err(|e| {
        Error::invalid("a value cannot be written as JSON")
            .with("field", field)
            .source(e)
    })?;
    Ok(Value::Json(json))
}

fn text_or_null(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

/// The profile's record.
pub(super) fn profile(customer: &Customer) -> Result<Record> {
    let home = customer.addresses.first();
    let part = |part: fn(&PostalAddress) -> &str| home.map_or(Value::Null, |home| text_or_null(part(home)));
    Record::from_values(
        &CUSTOMER,
        vec![
            customer.name.given.as_str().into(),
            customer.name.family.as_str().into(),
            customer.name.display.as_str().into(),
            part(|home| &home.city),
            part(|home| &home.region),
            part(|home| &home.country),
            json(&customer.addresses, "addresses")?,
            json(&customer.tags, "tags")?,
            json(&customer.attributes, "attributes")?,
            json(&customer.provenance, "provenance")?,
            customer.created_at.into(),
            customer.updated_at.into(),
            match customer.known_from.is_empty() {
                true => Value::Null,
                false => json(&customer.known_from, "known_from")?,
            },
        ],
    )
}

/// A contact point's record.
pub(super) fn point(
    owner: CustomerId,
    point: &ContactPoint,
    key: Option<String>,
    now: Timestamp,
) -> Result<Record> {
    Record::from_values(
        &CONTACT_POINT,
        vec![
            owner.into(),
            point.kind().as_str().into(),
            point.value().into(),
            key.into(),
            point.primary.into(),
            point.state.as_str().into(),
            now.into(),
            point.label.clone().into(),
            point.verified_at.into(),
            point.deliverability.as_str().map_or(Value::Null, Into::into),
        ],
    )
}

/// An external reference's record.
pub(super) fn reference(owner: CustomerId, reference: &ExternalRef, now: Timestamp) -> Result<Record> {
    Record::from_values(
        &EXTERNAL_REF,
        vec![
            owner.into(),
            reference.system.as_str().into(),
            reference.id.as_str().into(),
            now.into(),
        ],
    )
}

/// What makes an address identify its customer.
pub(super) fn match_key(kind: ContactKind, value: &str) -> String {
    format!("{}:{value}", kind.as_str())
}

/// Reads a contact point back.
pub(super) fn read_point(stored: &Stored) -> Result<ContactPoint> {
    let r = &stored.record;
    let value = r.text("value")?;
    let address = match r.text("kind")?.parse().map_err(|_| r.damaged("kind"))? {
        ContactKind::Email => EmailAddress::parse(value).map(Address::Email),
        ContactKind::Phone => PhoneNumber::parse(value, None).map(Address::Phone),
    };
    Ok(ContactPoint {
        id: stored.id.into(),
        address: address.map_err(|_| r.damaged("value"))?,
        primary: r.bool("primary_point")?,
        state: r.text("state")?.parse().map_err(|_| r.damaged("state"))?,
        label: r.get("label").and_then(Value::as_str).map(str::to_owned),
        verified_at: r.get("verified_at").and_then(Value::as_timestamp),
        deliverability: match r.get("deliverability").and_then(Value::as_str) {
            None => Deliverability::Unknown,
            Some(text) => text.parse().map_err(|_| r.damaged("deliverability"))?,
        },
    })
}

/// Reads an external reference back.
pub(super) fn read_reference(stored: &Stored) -> Result<ExternalRef> {
    Ok(ExternalRef::new(
        stored.record.text("system")?,
        stored.record.text("external_id")?,
    ))
}

fn read(stored: Stored, points: Vec<Stored>, refs: Vec<Stored>) -> Result<Loaded> {
    let r = &stored.record;
    let customer = Customer {
        id: stored.id.into(),
        version: stored.version,
        name: PersonName {
            given: r.text("given_name")?.to_owned(),
            family: r.text("family_name")?.to_owned(),
            display: r.text("display_name")?.to_owned(),
        },
        contact_points: points.iter().map(read_point).collect::<Result<_>>()?,
        addresses: r.json("addresses")?,
        external_refs: refs.iter().map(read_reference).collect::<Result<_>>()?,
        tags: r.json("tags")?,
        attributes: r.json("attributes")?,
        provenance: r.json("provenance")?,
        known_from: r.json("known_from")?,
        created_at: r.timestamp("created_at")?,
        updated_at: r.timestamp("updated_at")?,
    };
    Ok(Loaded {
        customer,
        points,
        refs,
    })
}

/// All records that match; for questions that are bounded by what is asked.
pub(super) async fn all(
    store: &dyn RecordStore,
    ctx: &Context,
    schema: &'static Schema,
    filter: Filter,
) -> Result<Vec<Stored>> {
    let mut query = Query::new(filter).limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = store.find(ctx, schema, &query).await?;
        found.extend(page.items);
        match page.next {
            None => return Ok(found),
            next => query.after = next,
        }
    }
}

/// Records of `schema` that belong to these customers, by customer, each list by id.
async fn owned(
    store: &dyn RecordStore,
    ctx: &Context,
    schema: &'static Schema,
    owners: &[Uuid],
) -> Result<HashMap<Uuid, Vec<Stored>>> {
    let mut owned: HashMap<Uuid, Vec<Stored>> = HashMap::new();
    for stored in all(
        store,
        ctx,
        schema,
        Filter::one_of("customer_id", owners.iter().copied()),
    )
    .await?
    {
        owned
            .entry(stored.record.uuid("customer_id")?)
            .or_default()
            .push(stored);
    }
    for list in owned.values_mut() {
        list.sort_by_key(|stored| stored.id);
    }
    Ok(owned)
}

/// Loads customers from profiles that were already read.
pub(super) async fn complete(
    store: &dyn RecordStore,
    ctx: &Context,
    profiles: Vec<Stored>,
) -> Result<Vec<Loaded>> {
    let mut loaded = Vec::with_capacity(profiles.len());
    let mut profiles = profiles.into_iter().peekable();
    while profiles.peek().is_some() {
        let some: Vec<Stored> = profiles.by_ref().take(IDS).collect();
        let ids: Vec<Uuid> = some.iter().map(|stored| stored.id).collect();
        let mut points = owned(store, ctx, &CONTACT_POINT, &ids).await?;
        let mut refs = owned(store, ctx, &EXTERNAL_REF, &ids).await?;
        for stored in some {
            let id = stored.id;
            loaded.push(read(
                stored,
                points.remove(&id).unwrap_or_default(),
                refs.remove(&id).unwrap_or_default(),
            )?);
        }
    }
    Ok(loaded)
}

/// Loads customers by id; those that are not there are left out.
pub(super) async fn load(
    store: &dyn RecordStore,
    ctx: &Context,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Loaded>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let profiles = store
        .get(ctx, &CUSTOMER, ids)
        .await?
        .into_iter()
        .flatten()
        .collect();
    let loaded = complete(store, ctx, profiles).await?;
    Ok(loaded
        .into_iter()
        .map(|loaded| (loaded.customer.id.uuid(), loaded))
        .collect())
}
