//! Segments over HTTP.

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use crm_core::customer::CUSTOMER;
use crm_core::query::Filter;
use crm_core::segment::{Segment, SegmentId, SegmentKind};
use crm_core::{Context, CustomerId, Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::Shared;
use super::request::{Answer, Asked, empty, etag, json, respond};
use crate::segments::NewSegment;

/// A segment to be made: with a rule it is dynamic, without one its members are added by hand.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    filter: Option<String>,
}

/// Members to be added and removed by hand.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Changes {
    add: Vec<CustomerId>,
    remove: Vec<CustomerId>,
    release: Vec<CustomerId>,
}

fn shown(segment: &Segment) -> Json {
    let filter = match &segment.kind {
        SegmentKind::Dynamic { filter } => Some(filter.to_text()),
        SegmentKind::Manual | SegmentKind::Snapshot { .. } => None,
    };
    let lineage = match &segment.kind {
        SegmentKind::Snapshot { lineage } => Some(lineage),
        SegmentKind::Manual | SegmentKind::Dynamic { .. } => None,
    };
    json!({
        "id": segment.id,
        "version": segment.version,
        "name": segment.name,
        "description": segment.description,
        "kind": segment.kind.name(),
        "filter": filter,
        "lineage": lineage,
        "created_at": segment.created_at,
    })
}

fn id(text: &str) -> Result<SegmentId> {
    text.parse().map_err(|_| missing())
}

fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "there is no segment of this id")
}

async fn there(shared: &Shared, ctx: &Context, id: SegmentId) -> Result<Segment> {
    shared
        .customers
        .segments()
        .get(ctx, id)
        .await?
        .ok_or_else(missing)
}

/// `GET /segments`: by name.
pub(super) async fn list(State(shared): State<Shared>, request: Request) -> Response {
    respond(listed(&shared, request).await)
}

async fn listed(shared: &Shared, request: Request) -> Answer {
    let mut asked = Asked::by(shared, request).await?;
    asked.principal.require("segments.read")?;
    let (limit, after) = (asked.limit()?, asked.cursor()?);
    asked.no_more()?;
    let page = shared.customers.segments().list(&asked.ctx, limit, after).await?;
    let items: Vec<_> = page.items.iter().map(shown).collect();
    let next = page.next.as_ref().map(ToString::to_string);
    json(StatusCode::OK, &json!({ "items": items, "next": next }))
}

/// `POST /segments`: 201; 409 when the name is taken.
pub(super) async fn create(State(shared): State<Shared>, request: Request) -> Response {
    respond(created(&shared, request).await)
}

async fn created(shared: &Shared, request: Request) -> Answer {
    let mut asked = Asked::by(shared, request).await?;
    asked.principal.require("segments.write")?;
    asked.no_more()?;
    let said = asked.json::<Said>().await?;
    let new = match &said.filter {
        None => NewSegment::manual(said.name),
        Some(text) => {
            let rule = Filter::parse(text, &CUSTOMER).map_err(|error| error.with("field", "filter"))?;
            NewSegment::dynamic(said.name, rule)
        }
    };
    let new = new.described(said.description);
    let segment = shared.customers.segments().create(&asked.ctx, new).await?;
    let mut response = json(StatusCode::CREATED, &shown(&segment))?;
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag(segment.version));
    if let Some(place) = asked.place("/segments", segment.id) {
        headers.insert(header::LOCATION, place);
    }
    Ok(response)
}

/// `GET /segments/{id}`: the segment and how many members it has now.
pub(super) async fn get(
    State(shared): State<Shared>,
    Path(text): Path<String>,
    request: Request,
) -> Response {
    respond(got(&shared, &text, request).await)
}

async fn got(shared: &Shared, text: &str, request: Request) -> Answer {
    let asked = Asked::by(shared, request).await?;
    asked.principal.require("segments.read")?;
    asked.no_more()?;
    let segment = there(shared, &asked.ctx, id(text)?).await?;
    let count = shared.customers.segments().count(&asked.ctx, segment.id).await?;
    let mut body = shown(&segment);
    if let Some(members) = body.as_object_mut() {
        members.insert("members".to_owned(), json!(count));
    }
    let mut response = json(StatusCode::OK, &body)?;
    response.headers_mut().insert(header::ETAG, etag(segment.version));
    Ok(response)
}

/// `DELETE /segments/{id}`: 204; 409 when another one asks about it.
pub(super) async fn delete(
    State(shared): State<Shared>,
    Path(text): Path<String>,
    request: Request,
) -> Response {
    respond(deleted(&shared, &text, request).await)
}

async fn deleted(shared: &Shared, text: &str, request: Request) -> Answer {
    let asked = Asked::by(shared, request).await?;
    asked.principal.require("segments.write")?;
    asked.no_more()?;
    let segment = there(shared, &asked.ctx, id(text)?).await?;
    asked.if_match()?.holds(segment.version)?;
    shared.customers.segments().delete(&asked.ctx, segment.id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `GET /segments/{id}/members`: ids of customers, page by page.
pub(super) async fn members(
    State(shared): State<Shared>,
    Path(text): Path<String>,
    request: Request,
) -> Response {
    respond(listed_members(&shared, &text, request).await)
}

async fn listed_members(shared: &Shared, text: &str, request: Request) -> Answer {
    let mut asked = Asked::by(shared, request).await?;
    asked.principal.require("segments.read")?;
    let (limit, after) = (asked.limit()?, asked.cursor()?);
    asked.no_more()?;
    let page = shared
        .customers
        .segments()
        .members(&asked.ctx, id(text)?, limit, after)
        .await?;
    let next = page.next.as_ref().map(ToString::to_string);
    json(StatusCode::OK, &json!({ "items": page.items, "next": next }))
}

/// `POST /segments/{id}/members`: 204.
pub(super) async fn change(
    State(shared): State<Shared>,
    Path(text): Path<String>,
    request: Request,
) -> Response {
    respond(changed(&shared, &text, request).await)
}

async fn changed(shared: &Shared, text: &str, request: Request) -> Answer {
    let mut asked = Asked::by(shared, request).await?;
    asked.principal.require("segments.write")?;
    asked.no_more()?;
    let changes = asked.json::<Changes>().await?;
    let (segments, segment) = (shared.customers.segments(), id(text)?);
    segments.add(&asked.ctx, segment, &changes.add).await?;
    segments.remove(&asked.ctx, segment, &changes.remove).await?;
    segments.release(&asked.ctx, segment, &changes.release).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}
