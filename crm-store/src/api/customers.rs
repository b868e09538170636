//! Customers over HTTP.

use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use crm_core::customer::{
    Address, Attributes, ContactKind, ContactPoint, ContactPointId, Customer, Draft, EmailAddress,
    ExternalRef, PersonName, PhoneNumber, PostalAddress, Provenance,
};
use crm_core::query::{Filter, Query};
use crm_core::{Context, CustomerId, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::Shared;
use super::problem::members;
use super::request::{Answer, Asked, Failed, empty, etag, fit, json, respond};
use crate::customers::{Change, Events, Mode, Op, OpDone};

/// A name: in one piece or in parts.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum NameSaid {
    Whole(String),
    Parts(PersonName),
}

impl From<NameSaid> for PersonName {
    fn from(said: NameSaid) -> Self {
        match said {
            NameSaid::Whole(text) => Self::whole(&text),
            NameSaid::Parts(name) => name,
        }
    }
}

/// A customer as a caller says it: what a form has, or everything a [`Draft`] has.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct Said {
    name: Option<NameSaid>,
    email: Option<String>,
    phone: Option<String>,
    emails: Vec<String>,
    phones: Vec<String>,
    phone_region: Option<String>,
    addresses: Vec<PostalAddress>,
    external_refs: Vec<ExternalRef>,
    tags: Vec<String>,
    attributes: Attributes,
    source: Option<String>,
}

impl Said {
    fn draft(self, shared: &Shared) -> Result<Draft> {
        let source = self.source.unwrap_or_else(|| "api".to_owned());
        named(&source)?;
        let mut draft = Draft::new(Provenance::new(source, shared.customers.clock.now()));
        draft.name = self.name.map(PersonName::from);
        draft.emails = self.email.into_iter().chain(self.emails).collect();
        draft.phones = self.phone.into_iter().chain(self.phones).collect();
        draft.phone_region = self.phone_region;
        draft.addresses = self.addresses;
        draft.external_refs = self.external_refs;
        draft.tags = self.tags;
        draft.attributes = self.attributes;
        Ok(draft)
    }
}

/// Refuses a source without a name.
fn named(source: &str) -> Result<()> {
    if source.trim().is_empty() || source.len() > 255 {
        return Err(Error::invalid("a source is named with 1 to 255 characters").with("field", "source"));
    }
    Ok(())
}

/// A customer as callers see it: the aggregate, and the e-mail address and phone number to use first.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    customer: &'a Customer,
    email: Option<&'a str>,
    phone: Option<&'a str>,
}

fn shown(customer: &Customer) -> Shown<'_> {
    Shown {
        customer,
        email: customer.email().map(ContactPoint::value),
        phone: customer.phone().map(ContactPoint::value),
    }
}

fn one(status: StatusCode, customer: &Customer) -> Answer {
    let mut response = json(status, &shown(customer))?;
    response
        .headers_mut()
        .insert(header::ETAG, etag(customer.version));
    Ok(response)
}

fn located(mut response: Response, asked: &Asked, id: CustomerId) -> Response {
    if let Some(place) = asked.place("/customers", id) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

fn id(text: &str) -> Result<CustomerId> {
    text.parse()
        .map_err(|_| Error::new(ErrorKind::NotFound, "there is no customer of this id"))
}

async fn there(shared: &Shared, ctx: &Context, id: CustomerId) -> Result<Customer> {
    shared
        .customers
        .get(ctx, id)
        .await?
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no customer of this id"))
}

/// `POST /customers`: 201, or 409 with `customer_id` when the person is known.
pub(super) async fn create(State(shared): State<Shared>, request: Request) -> Response {
    respond(created(&shared, request).await)
}

async fn created(shared: &Shared, request: Request) -> Answer {
    let mut asked = Asked::by(shared, request).await?;
    asked.principal.require("customers.write")?;
    asked.no_more()?;
    let body = asked.json::<Json>().await?;
    let draft = fit::<Said>(body.clone())?.draft(shared)?;
    let (id, replayed) = match asked.key()? {
        None => (shared.customers.create(&asked.ctx, draft).await?.id, false),
        Some(key) => {
            let once = shared
                .customers
                .once_for(&asked.ctx, "api.create", &key, &body, &[Op::Create(draft)])
                .await;
            let once = once.map_err(reused)?;
            match once.answer.first() {
                Some(OpDone::Created(id)) => (*id, once.replayed),
                _ => return Err(Error::unexpected("a creation without an answer").into()),
            }
        }
    };
    let customer = there(shared, &asked.ctx, id).await?;
    let mut response = located(one(StatusCode::CREATED, &customer)?, &asked, id);
    if replayed {
        response
            .headers_mut()
            .insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// A key that was used for something else is the caller's mistake, not a race (draft-ietf-httpapi-idempotency-key-header, 2.7).
fn reused(error: Error) -> Failed {
    if error.context("index") == Some("idempotency_key") {
        Failed::As(error, StatusCode::UNPROCESSABLE_ENTITY)
    } else {
        Failed::Error(error)
    }
}

/// `POST /customers/upsert`: finds or makes the customer; 201 when made, else 200.
pub(super) async fn upsert(State(shared): State<Shared>, request: Request) -> Response {
    respond(upserted(&shared, request).await)
}

async fn upserted(shared: &Shared, request: Request) -> Answer {
    let mut asked = Asked::by(shared, request).await?;
    asked.principal.require("customers.write")?;
    asked.no_more()?;
    let draft = asked.json::<Said>().await?.draft(shared)?;
    let done = shared.customers.upsert(&asked.ctx, draft).await?;
    let customer = there(shared, &asked.ctx, done.id).await?;
    let status = match done.change {
        Change::Created => StatusCode::CREATED,
        Change::Updated | Change::Unchanged => StatusCode::OK,
    };
    Ok(located(one(status, &customer)?, &asked, done.id))
}

/// `GET /customers`: a page, by `filter`, `order`, `limit`, `cursor`; `email` and `phone` look one up.
pub(super) async fn list(State(shared): State<Shared>, request: Request) -> Response {
    respond(listed(&shared, request).await)
}

async fn listed(shared: &Shared, request: Request) -> Answer {
    let mut asked = Asked::by(shared, request).await?;
    asked.principal.require("customers.read")?;
    for (name, kind) in [("email", ContactKind::Email), ("phone", ContactKind::Phone)] {
        if let Some(raw) = asked.take(name) {
            asked.no_more()?;
            let found = shared.customers.by_contact(&asked.ctx, kind, &raw).await?;
            let items: Vec<_> = found.iter().map(shown).collect();
            return json(StatusCode::OK, &json!({ "items": items, "next": null }));
        }
    }
    let query = Query {
        filter: filter(&mut asked)?,
        order: Vec::new(),
        limit: asked.limit()?,
        after: asked.cursor()?,
    };
    let query = ordered(query, asked.take("order").as_deref())?;
    asked.no_more()?;
    let page = shared.customers.find(&asked.ctx, &query).await?;
    let items: Vec<_> = page.items.iter().map(shown).collect();
    let next = page.next.as_ref().map(ToString::to_string);
    json(StatusCode::OK, &json!({ "items": items, "next": next }))
}

/// The parameter `filter`, read as text.
fn filter(asked: &mut Asked) -> Result<Filter> {
    match asked.take("filter") {
        None => Ok(Filter::All),
        Some(text) => Filter::parse(&text, &crm_core::customer::CUSTOMER)
            .map_err(|error| error.with("parameter", "filter")),
    }
}

/// `order=-created_at,city`: the largest first where a `-` stands.
fn ordered(mut query: Query, order: Option<&str>) -> Result<Query> {
    for field in order
        .unwrap_or_default()
        .split(',')
        .filter(|field| !field.is_empty())
    {
        let known = |field: &str| {
            let (_, known) = crm_core::customer::CUSTOMER.field(field).ok_or_else(|| {
                Error::invalid("there is no such field to sort by").with("parameter", "order")
            })?;
            Ok::<_, Error>(known.name)
        };
        query = match field.strip_prefix('-') {
            Some(field) => query.descending(known(field)?),
            None => query.ascending(known(field)?),
        };
    }
    Ok(query)
}

/// `GET /customers/{id}`: 304 when the caller has this version.
pub(super) async fn get(
    State(shared): State<Shared>,
    Path(text): Path<String>,
    request: Request,
) -> Response {
    respond(got(&shared, &text, request).await)
}

async fn got(shared: &Shared, text: &str, request: Request) -> Answer {
    let asked = Asked::by(shared, request).await?;
    asked.principal.require("customers.read")?;
    asked.no_more()?;
    let customer = there(shared, &asked.ctx, id(text)?).await?;
    if asked.has(customer.version) {
        let mut response = empty(StatusCode::NOT_MODIFIED);
        response
            .headers_mut()
            .insert(header::ETAG, etag(customer.version));
        return Ok(response);
    }
    one(StatusCode::OK, &customer)
}

/// What of a customer can be patched (RFC 7396): what is not named stays, `null` empties.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    #[serde(default, deserialize_with = "some")]
    name: Option<Option<NameSaid>>,
    #[serde(default, deserialize_with = "some")]
    emails: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "some")]
    phones: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "some")]
    addresses: Option<Option<Vec<PostalAddress>>>,
    #[serde(default, deserialize_with = "some")]
    external_refs: Option<Option<Vec<ExternalRef>>>,
    #[serde(default, deserialize_with = "some")]
    tags: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "some")]
    attributes: Option<Option<serde_json::Map<String, Json>>>,
}

/// Tells a member that is `null` from one that is not there.
fn some<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl Patch {
    fn onto(self, shared: &Shared, customer: &mut Customer) -> Result<()> {
        if let Some(name) = self.name {
            customer.name = name.map(PersonName::from).unwrap_or_default();
        }
        if let Some(emails) = self.emails {
            let read = |text: &String| EmailAddress::parse(text).map(Address::Email);
            points(
                shared,
                customer,
                ContactKind::Email,
                &emails.unwrap_or_default(),
                read,
            )?;
        }
        if let Some(phones) = self.phones {
            let read = |text: &String| PhoneNumber::parse(text, None).map(Address::Phone);
            points(
                shared,
                customer,
                ContactKind::Phone,
                &phones.unwrap_or_default(),
                read,
            )?;
        }
        if let Some(addresses) = self.addresses {
            customer.addresses = addresses.unwrap_or_default();
        }
        if let Some(refs) = self.external_refs {
            customer.external_refs = refs.unwrap_or_default();
        }
        if let Some(tags) = self.tags {
            customer.tags = tags.unwrap_or_default();
        }
        match self.attributes {
            None => {}
            Some(None) => customer.attributes = Attributes::default(),
            Some(Some(attributes)) => {
                for (name, value) in attributes {
                    let merged = match customer.attributes.get(&name) {
                        Some(known) => merge_patch(known.clone(), value),
                        None => merge_patch(Json::Null, value),
                    };
                    customer.attributes.set(&name, merged)?;
                }
            }
        }
        Ok(())
    }
}

/// RFC 7396, section 2.
fn merge_patch(target: Json, patch: Json) -> Json {
    let Json::Object(patch) = patch else { return patch };
    let mut merged = match target {
        Json::Object(known) => known,
        _ => serde_json::Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            merged.remove(&key);
        } else {
            let known = merged.remove(&key).unwrap_or(Json::Null);
            merged.insert(key, merge_patch(known, value));
        }
    }
    Json::Object(merged)
}

/// Makes the contact points of one kind those that are named, the first of them the one to use first; what is known of an
/// address that stays, stays.
fn points(
    shared: &Shared,
    customer: &mut Customer,
    kind: ContactKind,
    named: &[String],
    read: impl Fn(&String) -> Result<Address>,
) -> Result<()> {
    let field = match kind {
        ContactKind::Email => "emails",
        ContactKind::Phone => "phones",
    };
    let known = std::mem::take(&mut customer.contact_points);
    let (mut of_kind, others): (Vec<_>, Vec<_>) = known.into_iter().partition(|point| point.kind() == kind);
    let mut wanted: Vec<ContactPoint> = Vec::with_capacity(named.len());
    for (i, text) in named.iter().enumerate() {
        let address = read(text).map_err(|error| error.with("field", field).with("item", i))?;
        if wanted.iter().any(|point| point.address == address) {
            continue;
        }
        let at = of_kind.iter().position(|point| point.address == address);
        let mut point = match at {
            Some(at) => of_kind.swap_remove(at),
            None => ContactPoint::new(ContactPointId::from(shared.customers.ids.fresh()), address),
        };
        point.primary = wanted.is_empty();
        wanted.push(point);
    }
    customer.contact_points = others.into_iter().chain(wanted).collect();
    Ok(())
}

/// `PATCH /customers/{id}`: a JSON merge patch, on the version of `If-Match` when it is said.
pub(super) async fn patch(
    State(shared): State<Shared>,
    Path(text): Path<String>,
    request: Request,
) -> Response {
    respond(patched(&shared, &text, request).await)
}

async fn patched(shared: &Shared, text: &str, request: Request) -> Answer {
    let mut asked = Asked::by(shared, request).await?;
    asked.principal.require("customers.write")?;
    asked.no_more()?;
    let patch = asked.json::<Patch>().await?;
    let mut customer = there(shared, &asked.ctx, id(text)?).await?;
    // What cannot be done on any version is said first.
    patch.onto(shared, &mut customer)?;
    asked.if_match()?.holds(customer.version)?;
    match shared.customers.update(&asked.ctx, &customer).await {
        Ok(customer) => one(StatusCode::OK, &customer),
        // Changed between the reading and the writing: what `If-Match` named is no more.
        Err(error)
            if error.context("index") == Some("version")
                && asked.if_match()? != super::request::Precondition::None =>
        {
            Err(Failed::As(error, StatusCode::PRECONDITION_FAILED))
        }
        Err(error) => Err(error.into()),
    }
}

/// `DELETE /customers/{id}`: 204.
pub(super) async fn delete(
    State(shared): State<Shared>,
    Path(text): Path<String>,
    request: Request,
) -> Response {
    respond(deleted(&shared, &text, request).await)
}

async fn deleted(shared: &Shared, text: &str, request: Request) -> Answer {
    let asked = Asked::by(shared, request).await?;
    asked.principal.require("customers.delete")?;
    asked.no_more()?;
    let customer = there(shared, &asked.ctx, id(text)?).await?;
    asked.if_match()?.holds(customer.version)?;
    shared.customers.delete(&asked.ctx, customer.id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `GET /customers/{id}/timeline` and `/orders`: what happened, the latest first.
pub(super) async fn timeline(
    State(shared): State<Shared>,
    Path(text): Path<String>,
    request: Request,
) -> Response {
    respond(told(&shared, &text, request, false).await)
}

pub(super) async fn orders(
    State(shared): State<Shared>,
    Path(text): Path<String>,
    request: Request,
) -> Response {
    respond(told(&shared, &text, request, true).await)
}

async fn told(shared: &Shared, text: &str, request: Request, orders: bool) -> Answer {
    let mut asked = Asked::by(shared, request).await?;
    asked.principal.require("customers.read")?;
    let (limit, after) = (asked.limit()?, asked.cursor()?);
    asked.no_more()?;
    let customer = there(shared, &asked.ctx, id(text)?).await?.id;
    let next = |cursor: Option<crm_core::query::Cursor>| cursor.map(|cursor| cursor.to_string());
    if orders {
        let page = shared
            .customers
            .orders(&asked.ctx, customer, limit, after)
            .await?;
        return json(
            StatusCode::OK,
            &json!({ "items": page.items, "next": next(page.next) }),
        );
    }
    let page = shared
        .customers
        .timeline(&asked.ctx, customer, limit, after)
        .await?;
    json(
        StatusCode::OK,
        &json!({ "items": page.items, "next": next(page.next) }),
    )
}

/// Events as a caller tells them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    source: String,
    #[serde(flatten)]
    events: Events,
}

/// `POST /customers/{id}/events`: each event is kept once, however often it is told.
pub(super) async fn append(
    State(shared): State<Shared>,
    Path(text): Path<String>,
    request: Request,
) -> Response {
    respond(appended(&shared, &text, request).await)
}

async fn appended(shared: &Shared, text: &str, request: Request) -> Answer {
    let mut asked = Asked::by(shared, request).await?;
    asked.principal.require("customers.write")?;
    asked.no_more()?;
    let told = asked.json::<Told>().await?;
    named(&told.source)?;
    let done = shared
        .customers
        .append(&asked.ctx, id(text)?, &told.source, told.events)
        .await?;
    json(StatusCode::OK, &done)
}

/// Many changes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    mode: Mode,
    ops: Vec<Op>,
}

/// `POST /customers/batch`: one answer an operation, in order. With `Idempotency-Key` it is all or nothing, once.
pub(super) async fn batch(State(shared): State<Shared>, request: Request) -> Response {
    respond(batched(&shared, request).await)
}

async fn batched(shared: &Shared, request: Request) -> Answer {
    let mut asked = Asked::by(shared, request).await?;
    asked.principal.require("customers.write")?;
    asked.no_more()?;
    let batch = asked.json::<Batch>().await?;
    if batch.ops.iter().any(|op| matches!(op, Op::Delete(_))) {
        asked.principal.require("customers.delete")?;
    }
    let key = asked.key()?;
    let done: Vec<Json> = match (key, batch.mode) {
        (Some(key), Mode::AllOrNothing) => {
            let once = shared
                .customers
                .once(&asked.ctx, &key, batch.ops)
                .await
                .map_err(reused)?;
            once.answer.iter().map(|done| json!({ "done": done })).collect()
        }
        (Some(_), Mode::PerItem) => {
            return Err(
                Error::invalid("only a batch that is all or nothing can be repeated by a key")
                    .with("field", "mode")
                    .into(),
            );
        }
        (None, mode) => shared
            .customers
            .batch(&asked.ctx, batch.ops, mode)
            .await?
            .into_iter()
            .map(|done| match done {
                Ok(done) => json!({ "done": done }),
                Err(error) => json!({ "problem": members(&error) }),
            })
            .collect(),
    };
    json(StatusCode::OK, &json!({ "items": done }))
}
