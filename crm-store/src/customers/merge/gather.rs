//! What a merge takes along: the records that name somebody who goes away.

use std::collections::{BTreeMap, HashMap, HashSet};

use crm_core::customer::CONTACT_POINT;
use crm_core::query::{Filter, Query};
use crm_core::record::{Record, Schema, Stored, Value, Write};
use crm_core::{Context, Error, Result, Retry, Uuid};

use super::super::shape;
use super::journal::Image;
use super::references::{Reference, Rule, Target};
use super::{Merge, MergePlan, Moves};

/// Ids of one before-image.
const IDS: usize = 1000;
/// Records that will name the winner, and those that will be dropped.
#[derive(Default)]
pub(super) struct Gathered {
    /// Each with the fields that change: field, old value, new value.
    pub(super) moved: Moved,
    pub(super) dropped: Vec<Stored>,
    pub(super) report: BTreeMap<String, Moves>,
}

impl Merge<'_> {
    /// Fails closed: no record of a kind nobody declared may name somebody who goes away.
    pub(super) async fn nothing_unknown(
        &self,
        ctx: &Context,
        plan: &MergePlan,
        dropped: &HashMap<Uuid, Uuid>,
    ) -> Result<()> {
        let store = &self.customers.store;
        let ids: Vec<Uuid> = plan
            .losers
            .iter()
            .map(|id| id.uuid())
            .chain(dropped.keys().copied())
            .collect();
        for (schema, field) in self.customers.references.undeclared(store.schemas()) {
            let found = store
                .count(ctx, schema, &Filter::one_of(field, ids.iter().copied()))
                .await?;
            if found > 0 {
                return Err(Error::config(
                    "records that no reference declares name a customer of this merge; say what becomes of them with Customers::with_references",
                )
                .with("schema", schema.name)
                .with("field", field)
                .with("records", found));
            }
        }
        for reference in self.customers.references.all() {
            let Some(busy) = &reference.busy else { continue };
            let ids = plan.losers.iter().map(|id| id.uuid());
            let filter = Filter::one_of(reference.field, ids).and(busy.clone());
            if store.count(ctx, reference.schema, &filter).await? > 0 {
                return Err(Error::conflict(
                    "somebody is working on records of a customer of this merge; try again shortly",
                )
                .with("schema", reference.schema.name)
                .with("index", "busy")
                .with_retry(Retry::Allowed { after: None }));
            }
        }
        Ok(())
    }

    /// Finds every record that names a loser. With `whole`, the records themselves; else mostly their number.
    pub(super) async fn gather(
        &self,
        ctx: &Context,
        plan: &MergePlan,
        dropped: &HashMap<Uuid, Uuid>,
        whole: bool,
    ) -> Result<Gathered> {
        let to: HashMap<Uuid, Uuid> = plan
            .losers
            .iter()
            .map(|id| (id.uuid(), plan.winner.uuid()))
            .collect();
        let mut by_schema: BTreeMap<&str, Vec<&Reference>> = BTreeMap::new();
        for reference in self.customers.references.all() {
            if reference.schema.name != CONTACT_POINT.name {
                by_schema
                    .entry(reference.schema.name)
                    .or_default()
                    .push(reference);
            }
        }
        let mut gathered = Gathered::default();
        let mut total = 0_u64;
        for (name, references) in by_schema {
            let Some(schema) = references.first().map(|reference| reference.schema) else {
                continue;
            };
            let mut moves = Moves::default();
            let mut rows: BTreeMap<Uuid, Row> = BTreeMap::new();
            let unique = unique_over(schema, &references);
            // With one reference and nothing to collide with, a preview needs no more than the number.
            let moving = references.iter().filter(|reference| reference.rule == Rule::Move);
            let countable = !whole && unique.is_empty() && moving.count() == 1;
            for reference in &references {
                let becomes = match reference.target {
                    Target::Customer => &to,
                    Target::ContactPoint => dropped,
                };
                let ids: Vec<Uuid> = becomes.keys().copied().collect();
                if ids.is_empty() {
                    continue;
                }
                let filter = Filter::one_of(reference.field, ids);
                if reference.rule == Rule::Keep {
                    moves.kept += self.customers.store.count(ctx, schema, &filter).await?;
                    continue;
                }
                if countable {
                    moves.moved += self.customers.store.count(ctx, schema, &filter).await?;
                    continue;
                }
                for stored in self.bounded(ctx, schema, filter, plan.rules.max_moved).await? {
                    let from = stored.record.uuid(reference.field)?;
                    let into = becomes.get(&from).copied().unwrap_or(from);
                    let entry = rows.entry(stored.id).or_insert_with(|| (stored, Vec::new()));
                    entry.1.push((reference.field, from, into));
                }
            }
            if !unique.is_empty() && !rows.is_empty() {
                self.drop_known(
                    ctx,
                    schema,
                    &references,
                    &unique,
                    plan,
                    &mut rows,
                    &mut gathered,
                    &mut moves,
                )
                .await?;
            }
            moves.moved += rows.len() as u64;
            gathered.moved.extend(rows.into_values());
            total += moves.moved;
            if total > plan.rules.max_moved {
                return Err(too_many(plan.rules.max_moved));
            }
            if moves != Moves::default() {
                gathered.report.insert(name.to_owned(), moves);
            }
        }
        Ok(gathered)
    }

    /// Takes out those that would be there twice.
    #[allow(clippy::too_many_arguments, reason = "one step of gathering, with its state")]
    async fn drop_known(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        references: &[&Reference],
        unique: &[&'static [&'static str]],
        plan: &MergePlan,
        rows: &mut BTreeMap<Uuid, Row>,
        gathered: &mut Gathered,
        moves: &mut Moves,
    ) -> Result<()> {
        let mut taken: HashSet<(usize, String)> = HashSet::new();
        let key = |record: &Record, fields: &[&str]| -> Option<String> {
            let values: Vec<&Value> = fields.iter().filter_map(|field| record.get(field)).collect();
            let absent = values.iter().any(|value| value.is_null());
            (!absent).then(|| serde_json::to_string(&values).ok()).flatten()
        };
        for reference in references
            .iter()
            .filter(|reference| reference.target == Target::Customer)
        {
            let filter = Filter::eq(reference.field, plan.winner);
            for stored in shape::all(&*self.customers.store, ctx, schema, filter).await? {
                for (i, fields) in unique.iter().enumerate() {
                    taken.extend(key(&stored.record, fields).map(|key| (i, key)));
                }
            }
        }
        let mut known = Vec::new();
        for (id, (stored, changes)) in rows.iter() {
            let mut record = stored.record.clone();
            for (field, _, into) in changes {
                record.set(field, *into)?;
            }
            let keys: Vec<(usize, String)> = unique
                .iter()
                .enumerate()
                .filter_map(|(i, fields)| key(&record, fields).map(|key| (i, key)))
                .collect();
            if keys.iter().any(|key| taken.contains(key)) {
                known.push(*id);
            } else {
                taken.extend(keys);
            }
        }
        for id in known {
            if let Some((stored, _)) = rows.remove(&id) {
                gathered.dropped.push(stored);
                moves.dropped += 1;
            }
        }
        Ok(())
    }

    async fn bounded(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        filter: Filter,
        max: u64,
    ) -> Result<Vec<Stored>> {
        let mut query = Query::new(filter).limit(5000);
        let mut found = Vec::new();
        loop {
            let page = self.customers.store.find(ctx, schema, &query).await?;
            found.extend(page.items);
            if found.len() as u64 > max {
                return Err(too_many(max));
            }
            match page.next {
                None => return Ok(found),
                next => query.after = next,
            }
        }
    }
}

fn too_many(max: u64) -> Error {
    Error::invalid("the customers have more records than one unit of work may move; raise max_moved if the machine has the memory")
        .with("field", "max_moved")
        .with("max_moved", max)
}

/// The unique indexes that a changed reference can run into.
fn unique_over(schema: &'static Schema, references: &[&Reference]) -> Vec<&'static [&'static str]> {
    let moved = |field: &&str| {
        references
            .iter()
            .any(|reference| reference.rule == Rule::Move && reference.field == *field)
    };
    schema
        .indexes
        .iter()
        .filter(|index| index.unique && index.fields.iter().any(&moved))
        .map(|index| index.fields)
        .collect()
}

/// A record that gets new owners: field, old value, new value.
type Row = (Stored, Vec<(&'static str, Uuid, Uuid)>);
pub(super) type Moved = Vec<Row>;

/// The writes that give records their new owners, and their images.
pub(super) fn moved(rows: Moved, images: &mut Vec<Image>) -> Result<Vec<Write>> {
    let mut owners: BTreeMap<(&str, &str, Uuid, Uuid), Vec<Uuid>> = BTreeMap::new();
    let mut writes = Vec::with_capacity(rows.len());
    for (stored, changes) in rows {
        let Stored {
            id,
            version,
            mut record,
        } = stored;
        for (field, from, to) in changes {
            record.set(field, to)?;
            let schema = record.schema().name;
            owners.entry((schema, field, from, to)).or_default().push(id);
        }
        writes.push(Write::update(id, version, record));
    }
    for ((schema, field, from, to), ids) in owners {
        images.extend(ids.chunks(IDS).map(|ids| Image::Moved {
            schema: schema.to_owned(),
            field: field.to_owned(),
            from,
            to,
            ids: ids.to_vec(),
        }));
    }
    Ok(writes)
}
