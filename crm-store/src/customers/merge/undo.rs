//! Taking a merge back.

use std::collections::BTreeMap;

use crm_core::customer::{CUSTOMER, PostalAddress};
use crm_core::query::{Filter, Query};
use crm_core::record::{Record, Schema, Stored, Value, Write};
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Retry, Uuid};
use serde_json::{Map, Value as Json};

use super::super::shape;
use super::journal::{self, Image, MERGE, MERGE_IMAGE};
use super::{Merge, MergeId, MergeRecord};

/// How often an undo is prepared anew when records change meanwhile.
const TRIES: usize = 20;
/// Ids of one question.
const ASKED: usize = 1000;

/// What an undo did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmerged {
    /// The merge that is no more.
    pub id: MergeId,
    /// Who had stayed.
    pub winner: CustomerId,
    /// Who is back.
    pub restored: Vec<CustomerId>,
    /// How many records have their old owner again, by schema.
    pub moved_back: BTreeMap<String, u64>,
    /// How many had been removed or given to somebody else since the merge, by schema; they are left so.
    pub gone: BTreeMap<String, u64>,
}

impl Merge<'_> {
    /// Takes a merge back, in one unit of work: every record has its old owner and every profile its old values; what
    /// was changed since then is kept where the merge had not touched it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] when it was taken back already, when a later merge must be taken
    /// back first (`merge_id` names it), or when fields the merge had set were changed since (`fields` names them);
    /// [`ErrorKind::Unsupported`] when what was before was purged. Nothing is changed then.
    pub async fn undo(&self, ctx: &Context, merge: MergeId) -> Result<Unmerged> {
        self.undone(ctx, merge)
            .await
            .map_err(|error| error.operation("merge.undo"))
    }

    async fn undone(&self, ctx: &Context, merge: MergeId) -> Result<Unmerged> {
        self.customers.prepare().await?;
        for _ in 0..TRIES {
            let (unmerged, writes) = self.undo_writes(ctx, merge).await?;
            match self.customers.commit(ctx, &writes).await {
                Ok(_) => return Ok(unmerged),
                // A key that was free to take, and was taken, is no race.
                Err(error)
                    if error.kind() == ErrorKind::Conflict && error.context("index") == Some("version") =>
                {
                    tokio::task::yield_now().await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(
            Error::conflict("others kept changing records of these customers; try again later")
                .with("tries", TRIES)
                .with_retry(Retry::Exhausted),
        )
    }

    /// The merge, if nothing stands in the way of its undo.
    async fn last_merge(&self, ctx: &Context, merge: MergeId) -> Result<(Stored, MergeRecord)> {
        let store = &self.customers.store;
        let found = store.get(ctx, &MERGE, &[merge.uuid()]).await?;
        let stored = found
            .into_iter()
            .flatten()
            .next()
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such merge").with("merge_id", merge))?;
        let record = MergeRecord::from_stored(&stored)?;
        if record.undone_at.is_some() {
            return Err(Error::conflict("the merge was taken back already").with("merge_id", merge));
        }
        let first = |other: Uuid| {
            Error::conflict("a later merge must be taken back first")
                .with("index", "merge")
                .with("merge_id", other)
        };
        let gone = store
            .get(ctx, &crm_core::customer::CUSTOMER_ALIAS, &[record.winner.uuid()])
            .await?;
        if let Some(alias) = gone.into_iter().flatten().next() {
            return Err(first(alias.record.uuid("merge_id")?));
        }
        let later = Filter::eq("winner_id", record.winner)
            .and(Filter::eq("state", super::APPLIED))
            .and(Filter::ge("applied_at", record.applied_at));
        let later = shape::all(&**store, ctx, &MERGE, later).await?;
        let after = |one: &Stored| -> Result<bool> {
            let at = one.record.timestamp("applied_at")?;
            Ok((at, one.id) > (record.applied_at, merge.uuid()))
        };
        for one in &later {
            if after(one)? {
                return Err(first(one.id));
            }
        }
        Ok((stored, record))
    }

    async fn undo_writes(&self, ctx: &Context, merge: MergeId) -> Result<(Unmerged, Vec<Write>)> {
        let store = &self.customers.store;
        let (stored, mut record) = self.last_merge(ctx, merge).await?;
        let mut unmerged = Unmerged {
            id: merge,
            winner: record.winner,
            restored: record.losers.clone(),
            moved_back: BTreeMap::new(),
            gone: BTreeMap::new(),
        };
        let schemas = self.schemas();
        let schema = |name: &str| {
            schemas.get(name).copied().ok_or_else(|| {
                Error::config("the merge moved records of a kind that is not declared here; declare it with Customers::with_references")
                    .with("schema", name)
            })
        };
        let images = Query::new(Filter::eq("merge_id", merge))
            .ascending("seq")
            .limit(100);
        let (mut deletes, mut updates, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
        let mut again: BTreeMap<(&'static str, Uuid), (Stored, bool)> = BTreeMap::new();
        let mut conflicts: Vec<String> = Vec::new();
        let mut query = images;
        loop {
            let page = store.find(ctx, &MERGE_IMAGE, &query).await?;
            if query.after.is_none() {
                let first = page
                    .items
                    .first()
                    .map(|image| image.record.int("seq"))
                    .transpose()?;
                if first != Some(0) {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        "what this merge overwrote was purged: it cannot be undone",
                    )
                    .with("merge_id", merge));
                }
            }
            for stored in &page.items {
                deletes.push(Write::delete(&MERGE_IMAGE, stored.id, Some(stored.version)));
                match Image::from_stored(stored)? {
                    Image::Added { schema: name, id } => {
                        let schema = schema(&name)?;
                        if let Some(now) = one(&**store, ctx, schema, id).await? {
                            deletes.push(Write::delete(schema, id, Some(now.version)));
                        }
                    }
                    Image::Removed {
                        schema: name,
                        id,
                        before,
                    } => {
                        inserts.push(Write::insert(id, journal::read(schema(&name)?, &before)?));
                    }
                    Image::Changed {
                        schema: name,
                        id,
                        before,
                        after,
                    } => {
                        let schema = schema(&name)?;
                        let Some(now) = one(&**store, ctx, schema, id).await? else {
                            if schema.name == CUSTOMER.name {
                                return Err(self.customers.missing(ctx, id.into()).await);
                            }
                            *unmerged.gone.entry(name).or_default() += 1;
                            continue;
                        };
                        let before = journal::read(schema, &before)?;
                        let after = journal::read(schema, &after)?;
                        let (back, clashes) = unwound(&before, &after, &now.record)?;
                        conflicts.extend(
                            clashes
                                .into_iter()
                                .map(|field| format!("{}.{field}", schema.name)),
                        );
                        updates.push(Write::update(id, now.version, back));
                    }
                    Image::Moved {
                        schema: name,
                        field,
                        from,
                        to,
                        ids,
                    } => {
                        let schema = schema(&name)?;
                        let Some((_, field)) = schema.field(&field) else {
                            return Err(stored.record.damaged("old_values"));
                        };
                        for ids in ids.chunks(ASKED) {
                            let found = store.get(ctx, schema, ids).await?;
                            for (id, found) in ids.iter().zip(found) {
                                let entry = match again.remove(&(schema.name, *id)) {
                                    Some(known) => Some(known),
                                    None => found.map(|found| (found, false)),
                                };
                                let Some((mut row, mut touched)) = entry else {
                                    *unmerged.gone.entry(name.clone()).or_default() += 1;
                                    continue;
                                };
                                if row.record.get(field.name).and_then(Value::as_uuid) == Some(to) {
                                    row.record.set(field.name, from)?;
                                    if !touched {
                                        *unmerged.moved_back.entry(name.clone()).or_default() += 1;
                                    }
                                    touched = true;
                                } else {
                                    *unmerged.gone.entry(name.clone()).or_default() += 1;
                                }
                                again.insert((schema.name, *id), (row, touched));
                            }
                        }
                    }
                }
            }
            match page.next {
                None => break,
                next => query.after = next,
            }
        }
        if !conflicts.is_empty() {
            return Err(Error::conflict(
                "fields the merge had set were changed since; put them back or change the customers by hand",
            )
            .with("index", "fields")
            .with("fields", conflicts.join(", ")));
        }
        let back = again.into_values().filter(|(_, touched)| *touched);
        updates.extend(back.map(|(row, _)| Write::update(row.id, row.version, row.record)));
        record.undone_at = Some(self.customers.clock.now());
        updates.push(Write::update(stored.id, stored.version, record.to_record()?));
        Ok((unmerged, [deletes, updates, inserts].concat()))
    }

    /// Every schema a merge may have touched, by name.
    fn schemas(&self) -> BTreeMap<&'static str, &'static Schema> {
        let declared = self
            .customers
            .references
            .all()
            .iter()
            .map(|reference| reference.schema);
        let own = super::super::SCHEMAS.iter().copied();
        own.chain(declared).map(|schema| (schema.name, schema)).collect()
    }
}

async fn one(
    store: &dyn crm_core::capability::RecordStore,
    ctx: &Context,
    schema: &'static Schema,
    id: Uuid,
) -> Result<Option<Stored>> {
    Ok(store.get(ctx, schema, &[id]).await?.into_iter().flatten().next())
}

/// Takes the step from `before` to `after` back in a record that is `now`; names the fields where that cannot be.
fn unwound(before: &Record, after: &Record, now: &Record) -> Result<(Record, Vec<&'static str>)> {
    let mut back = now.clone();
    let mut clashes = Vec::new();
    let absent = Value::Null;
    let profile = now.schema().name == CUSTOMER.name;
    for field in now.schema().fields {
        let of = |record: &'_ Record| record.get(field.name).cloned().unwrap_or(Value::Null);
        let (old, merged, current) = (of(before), of(after), of(now));
        // City, region and country follow from the addresses.
        if profile && matches!(field.name, "city" | "region" | "country") {
            continue;
        }
        let value = if current == merged {
            old
        } else if old == merged || old == current || field.name == "updated_at" {
            current
        } else {
            let json = |value: &Value| value.as_json().cloned().unwrap_or(Json::Null);
            let nested = matches!(current, Value::Json(_) | Value::Null)
                && matches!(merged, Value::Json(_) | Value::Null)
                && matches!(old, Value::Json(_) | Value::Null);
            match nested
                .then(|| unwound_json(&json(&old), &json(&merged), &json(&current)))
                .flatten()
            {
                Some(Json::Null) if field.nullable => absent.clone(),
                Some(value) => Value::Json(value),
                None => {
                    clashes.push(field.name);
                    continue;
                }
            }
        };
        back.set(field.name, value)?;
    }
    if profile {
        let home: Vec<PostalAddress> = back.json("addresses")?;
        let home = home.first();
        let part = |part: fn(&PostalAddress) -> &str| match home.map(part) {
            Some(text) if !text.is_empty() => Value::from(text),
            _ => Value::Null,
        };
        back.set("city", part(|home| &home.city))?;
        back.set("region", part(|home| &home.region))?;
        back.set("country", part(|home| &home.country))?;
    }
    Ok((back, clashes))
}

/// The same within a document: objects key by key, lists of objects with a `source` by source, other lists as sets.
fn unwound_json(old: &Json, merged: &Json, now: &Json) -> Option<Json> {
    if now == merged {
        return Some(old.clone());
    }
    if old == merged || old == now {
        return Some(now.clone());
    }
    let empty = Map::new();
    let object = |json: &'_ Json| match json {
        Json::Object(map) => Some(map.clone()),
        Json::Null => Some(empty.clone()),
        _ => None,
    };
    if let (Some(old), Some(merged), Some(now)) = (object(old), object(merged), object(now)) {
        let keys: std::collections::BTreeSet<&String> =
            old.keys().chain(merged.keys()).chain(now.keys()).collect();
        let mut back = Map::new();
        for key in keys {
            let at = |map: &Map<String, Json>| map.get(key).cloned().unwrap_or(Json::Null);
            let value = unwound_json(&at(&old), &at(&merged), &at(&now))?;
            if !value.is_null() {
                back.insert(key.clone(), value);
            }
        }
        return Some(if back.is_empty() {
            Json::Null
        } else {
            Json::Object(back)
        });
    }
    let (Json::Array(old), Json::Array(merged), Json::Array(now)) = (old, merged, now) else {
        return None;
    };
    // One entry a source: a newer sighting since the merge stays.
    let source = |item: &Json| item.get("source").cloned();
    let same = |a: &Json, b: &Json| a == b || (source(a).is_some() && source(a) == source(b));
    let among = |items: &[Json], item: &Json| items.iter().any(|other| same(other, item));
    let mut back: Vec<Json> = now
        .iter()
        .filter(|item| among(old, item) || !merged.contains(item))
        .map(|item| match old.iter().find(|known| same(known, item)) {
            Some(known) if merged.contains(item) => known.clone(),
            _ => item.clone(),
        })
        .collect();
    for item in old {
        let removed_since = among(merged, item) && !among(now, item);
        if !among(&back, item) && !removed_since {
            back.push(item.clone());
        }
    }
    Some(Json::Array(back))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_merge_did_goes_and_what_came_later_stays() {
        for (old, merged, now, back) in [
            (
                json!(["a"]),
                json!(["a", "b"]),
                json!(["a", "b"]),
                Some(json!(["a"])),
            ),
            (
                json!(["a"]),
                json!(["a", "b"]),
                json!(["a", "b", "c"]),
                Some(json!(["a", "c"])),
            ),
            (json!(["a"]), json!(["a", "b"]), json!(["b"]), Some(json!([]))),
            (
                json!(["a"]),
                json!(["b"]),
                json!(["b", "c"]),
                Some(json!(["c", "a"])),
            ),
            (
                json!({ "x": 1 }),
                json!({ "x": 2, "y": 1 }),
                json!({ "x": 2, "y": 1, "z": 1 }),
                Some(json!({ "x": 1, "z": 1 })),
            ),
            (json!({ "x": 1 }), json!({ "x": 2 }), json!({ "x": 3 }), None),
            (
                json!({ "x": 1 }),
                json!({ "x": 1, "y": 2 }),
                json!({ "x": 3, "y": 2 }),
                Some(json!({ "x": 3 })),
            ),
            (
                json!([{ "source": "a", "at": 1 }]),
                json!([{ "source": "a", "at": 5 }, { "source": "b", "at": 1 }]),
                json!([{ "source": "a", "at": 9 }, { "source": "b", "at": 1 }]),
                Some(json!([{ "source": "a", "at": 9 }])),
            ),
        ] {
            assert_eq!(unwound_json(&old, &merged, &now), back, "{old} {merged} {now}");
        }
    }
}
