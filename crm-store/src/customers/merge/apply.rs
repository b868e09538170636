//! Planning a merge and carrying it out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crm_core::customer::{CONTACT_POINT, CUSTOMER, CUSTOMER_ALIAS, ContactPoint, ContactState, Customer};
use crm_core::query::{Filter, Query};
use crm_core::record::{Record, Schema, Stored, Value, Write};
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Retry, Timestamp, Uuid};

use super::super::shape::{self, Loaded};
use super::journal::{Image, MERGE_IMAGE};
use super::references::{Reference, Rule, Target};
use super::survive::survive;
use super::{FieldPlan, Merge, MergePlan, MergeRecord, MergeRules, Moves, PointPlan};

/// How often a merge is prepared anew when records around the customers change meanwhile.
const TRIES: usize = 20;
/// Ids of one before-image.
const IDS: usize = 1000;

/// The people of a merge as they are, and the profile they become.
struct Outcome {
    people: Vec<Loaded>,
    merged: Customer,
    fields: Vec<FieldPlan>,
    points: Vec<Point>,
}

/// A contact point on its way to the winner.
struct Point {
    stored: Stored,
    owner: CustomerId,
    now: ContactPoint,
    key: Option<String>,
    /// The one it becomes part of.
    same_as: Option<Uuid>,
}

/// Records that will name the winner, and those that will be dropped.
#[derive(Default)]
struct Gathered {
    /// Each with the fields that change: field, old value, new value.
    moved: Moved,
    dropped: Vec<Stored>,
    report: BTreeMap<String, Moves>,
}

impl Merge<'_> {
    /// What merging `losers` into `winner` would do. Ids of customers merged before stand for who they are now.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the field when the customers are one already, are too many, or a rule does not fit
    /// the values; [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] when two of them are known to be different people;
    /// [`ErrorKind::Config`] when records of an undeclared kind name a loser.
    pub async fn plan(
        &self,
        ctx: &Context,
        winner: CustomerId,
        losers: &[CustomerId],
        rules: MergeRules,
    ) -> Result<MergePlan> {
        self.planned(ctx, winner, losers, rules)
            .await
            .map_err(|error| error.operation("merge.plan"))
    }

    async fn planned(
        &self,
        ctx: &Context,
        winner: CustomerId,
        losers: &[CustomerId],
        rules: MergeRules,
    ) -> Result<MergePlan> {
        rules.validate()?;
        self.customers.prepare().await?;
        let asked: Vec<CustomerId> = std::iter::once(winner).chain(losers.iter().copied()).collect();
        let mut people: Vec<CustomerId> = Vec::new();
        for (asked, found) in asked.iter().zip(self.customers.resolve(ctx, &asked).await?) {
            let now = found
                .ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, "no such customer").with("customer_id", asked)
                })?
                .id;
            if people.contains(&now) {
                return Err(Error::invalid("these are one customer already")
                    .with("field", "losers")
                    .with("customer_id", asked));
            }
            people.push(now);
        }
        let [winner, losers @ ..] = people.as_slice() else {
            return Err(Error::unexpected("a merge of nobody"));
        };
        if losers.is_empty() {
            return Err(Error::invalid("a merge needs somebody to merge").with("field", "losers"));
        }
        let mut rules = rules;
        for (field, strategy) in self.customers.declared(ctx).await?.strategies() {
            rules.fields.entry(field).or_insert(strategy);
        }
        let mut plan = MergePlan {
            winner: *winner,
            losers: losers.to_vec(),
            rules,
            versions: Vec::new(),
            fields: Vec::new(),
            contact_points: Vec::new(),
            records: BTreeMap::new(),
        };
        self.may_be_one(ctx, &plan).await?;
        let outcome = self.outcome(ctx, &plan).await?;
        let dropped = dropped_points(&outcome.points);
        self.nothing_unknown(ctx, &plan, &dropped).await?;
        plan.versions = outcome.people.iter().map(|one| one.customer.version).collect();
        plan.contact_points = points_of(&outcome.points);
        plan.fields = outcome.fields;
        plan.records = self.gather(ctx, &plan, &dropped, false).await?.report;
        Ok(plan)
    }

    /// Refuses customers who are known to be different, and too many of them.
    async fn may_be_one(&self, ctx: &Context, plan: &MergePlan) -> Result<()> {
        let mut groups: BTreeMap<CustomerId, BTreeSet<CustomerId>> =
            plan.people().map(|id| (id, BTreeSet::from([id]))).collect();
        let people: Vec<CustomerId> = plan.people().collect();
        for stored in self.customers.aliases(ctx, &people).await? {
            let now: CustomerId = stored.record.uuid("customer_id")?.into();
            groups.entry(now).or_default().insert(stored.id.into());
        }
        let size: usize = groups.values().map(BTreeSet::len).sum();
        if size > plan.rules.max_cluster {
            return Err(Error::invalid(
                "too many customers would become one; look at them, then raise max_cluster",
            )
            .with("field", "max_cluster")
            .with("customers", size)
            .with("max_cluster", plan.rules.max_cluster));
        }
        let all: BTreeSet<CustomerId> = groups.values().flatten().copied().collect();
        // Within one group nobody can have said so: `distinct` refuses customers that are one.
        for stored in self.pairs(ctx, &all, &all).await? {
            let pair = [stored.record.uuid("low_id")?, stored.record.uuid("high_id")?];
            let group = |id: Uuid| {
                groups
                    .iter()
                    .find(|(_, ids)| ids.contains(&id.into()))
                    .map(|(of, _)| *of)
            };
            let [one, other] = pair.map(group);
            if one != other {
                return Err(Error::conflict(
                    "these are known to be different people; take that back with merge().allow first",
                )
                .with("index", "distinct")
                .with("customer_id", pair[0])
                .with("other_id", pair[1]));
            }
        }
        Ok(())
    }

    async fn outcome(&self, ctx: &Context, plan: &MergePlan) -> Result<Outcome> {
        let ids: Vec<Uuid> = plan.people().map(|id| id.uuid()).collect();
        let mut loaded = shape::load(&*self.customers.store, ctx, &ids).await?;
        let mut people = Vec::with_capacity(ids.len());
        for id in &ids {
            match loaded.remove(id) {
                Some(one) => people.push(one),
                None => return Err(self.customers.missing(ctx, (*id).into()).await),
            }
        }
        let customers: Vec<&Customer> = people.iter().map(|one| &one.customer).collect();
        let (merged, fields) = survive(&customers, &plan.rules)?;
        let points = united(&people)?;
        Ok(Outcome {
            people,
            merged,
            fields,
            points,
        })
    }

    /// Fails closed: no record of a kind nobody declared may name somebody who goes away.
    async fn nothing_unknown(
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
    async fn gather(
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

    /// Does what the plan says, in one unit of work.
    ///
    /// # Errors
    /// As [`Merge::plan`]; [`ErrorKind::Conflict`] with `customer_id` when a customer was changed since the plan was
    /// made, or with `field` when the outcome would be another one: plan again. Nothing is changed then.
    pub async fn apply(&self, ctx: &Context, plan: &MergePlan) -> Result<MergeRecord> {
        self.applied(ctx, plan)
            .await
            .map_err(|error| error.operation("merge.apply"))
    }

    async fn applied(&self, ctx: &Context, plan: &MergePlan) -> Result<MergeRecord> {
        plan.rules.validate()?;
        let once: BTreeSet<CustomerId> = plan.people().collect();
        if plan.losers.is_empty() || once.len() != plan.losers.len() + 1 || plan.versions.len() != once.len()
        {
            return Err(Error::invalid("the plan is not one of Merge::plan").with("field", "losers"));
        }
        self.customers.prepare().await?;
        for _ in 0..TRIES {
            let (record, writes) = self.writes(ctx, plan).await?;
            match self.customers.commit(ctx, &writes).await {
                Ok(_) => {
                    // What came in for a loser while this was prepared.
                    for loser in &plan.losers {
                        self.settle(ctx, *loser).await?;
                    }
                    return Ok(record);
                }
                Err(error)
                    if error.kind() == ErrorKind::Conflict
                        && error.context("schema") != Some(CUSTOMER.name) =>
                {
                    tracing::debug!(
                        schema = error.context("schema"),
                        "a record changed under a merge; again"
                    );
                    tokio::task::yield_now().await;
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    // Says which one, and whether it is gone.
                    self.unchanged(plan, &self.outcome(ctx, plan).await?)?;
                    return Err(error);
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

    fn unchanged(&self, plan: &MergePlan, outcome: &Outcome) -> Result<()> {
        for (one, version) in outcome.people.iter().zip(&plan.versions) {
            if one.customer.version != *version {
                return Err(
                    Error::conflict("a customer was changed since the plan was made; plan again")
                        .with("index", "version")
                        .with("customer_id", one.customer.id),
                );
            }
        }
        let other = |field: &str| {
            Err(
                Error::conflict("the merge would have another outcome than the plan says; plan again")
                    .with("index", "plan")
                    .with("field", field),
            )
        };
        if points_of(&outcome.points) != plan.contact_points {
            return other("contact_points");
        }
        if outcome.fields != plan.fields {
            let differs = outcome
                .fields
                .iter()
                .zip(&plan.fields)
                .find(|(found, planned)| found != planned);
            return other(differs.map_or("attributes", |(found, _)| &found.field));
        }
        Ok(())
    }

    async fn writes(&self, ctx: &Context, plan: &MergePlan) -> Result<(MergeRecord, Vec<Write>)> {
        self.may_be_one(ctx, plan).await?;
        let outcome = self.outcome(ctx, plan).await?;
        self.unchanged(plan, &outcome)?;
        let dropped = dropped_points(&outcome.points);
        self.nothing_unknown(ctx, plan, &dropped).await?;
        let gathered = self.gather(ctx, plan, &dropped, true).await?;
        let now = self.customers.clock.now();
        let record = MergeRecord {
            id: self.customers.ids.fresh().into(),
            winner: plan.winner,
            losers: plan.losers.clone(),
            actor: ctx.acting().clone(),
            records: gathered.report.clone(),
            applied_at: now,
            undone_at: None,
        };
        let mut images = Vec::new();
        // Removals first: what they free, later writes may take.
        let mut writes = Vec::new();
        let (mut updates, mut inserts) = (Vec::new(), Vec::new());
        self.profiles(
            ctx,
            plan,
            &outcome,
            &record,
            &mut writes,
            &mut updates,
            &mut inserts,
            &mut images,
        )
        .await?;
        for stored in &gathered.dropped {
            images.push(Image::removed(stored));
            writes.push(Write::delete(
                stored.record.schema(),
                stored.id,
                Some(stored.version),
            ));
        }
        updates.extend(moved(gathered.moved, &mut images)?);
        inserts.push(Write::insert(record.id, record.to_record()?));
        for (seq, image) in (0_i64..).zip(&images) {
            let image = image.to_record(record.id.uuid(), seq)?;
            inserts.push(Write::insert(self.customers.ids.fresh(), image));
        }
        writes.extend(updates);
        writes.extend(inserts);
        Ok((record, writes))
    }

    /// The writes of profiles, contact points and aliases.
    #[allow(clippy::too_many_arguments, reason = "one step of the merge, with its state")]
    async fn profiles(
        &self,
        ctx: &Context,
        plan: &MergePlan,
        outcome: &Outcome,
        record: &MergeRecord,
        deletes: &mut Vec<Write>,
        updates: &mut Vec<Write>,
        inserts: &mut Vec<Write>,
        images: &mut Vec<Image>,
    ) -> Result<()> {
        let ids: Vec<Uuid> = plan.people().map(|id| id.uuid()).collect();
        let stored = self.customers.store.get(ctx, &CUSTOMER, &ids).await?;
        for (one, version) in stored.iter().zip(&plan.versions) {
            let same = one.as_ref().is_some_and(|one| one.version == *version);
            if !same {
                return Err(
                    Error::conflict("a customer was changed since the plan was made; plan again")
                        .with("index", "version")
                        .with("schema", CUSTOMER.name),
                );
            }
        }
        let mut stored = stored.into_iter().flatten();
        if let Some(winner) = stored.next() {
            let mut merged = outcome.merged.clone();
            merged.updated_at = record.applied_at;
            let profile = shape::profile(&merged)?;
            images.push(Image::changed(&winner, &profile));
            updates.push(Write::update(winner.id, winner.version, profile));
        }
        for loser in stored {
            images.push(Image::removed(&loser));
            deletes.push(Write::delete(&CUSTOMER, loser.id, Some(loser.version)));
            let alias = alias(plan.winner, record.id.uuid(), record.applied_at)?;
            images.push(Image::Added {
                schema: CUSTOMER_ALIAS.name.to_owned(),
                id: loser.id,
            });
            inserts.push(Write::insert(loser.id, alias));
        }
        for point in &outcome.points {
            if point.same_as.is_some() {
                images.push(Image::removed(&point.stored));
                deletes.push(Write::delete(
                    &CONTACT_POINT,
                    point.stored.id,
                    Some(point.stored.version),
                ));
                continue;
            }
            let created = point.stored.record.timestamp("created_at")?;
            let changed = shape::point(plan.winner, &point.now, point.key.clone(), created)?;
            if changed != point.stored.record {
                images.push(Image::changed(&point.stored, &changed));
                updates.push(Write::update(point.stored.id, point.stored.version, changed));
            }
        }
        Ok(())
    }

    /// Moves records that were told of a merged customer after the merge, by somebody who did not know of it yet; they
    /// go back with its undo. Every merge and every append does so by itself; a host calls it for records it stores on
    /// its own. Answers how many there were.
    ///
    /// # Errors
    /// The store's.
    pub async fn settle(&self, ctx: &Context, merged: CustomerId) -> Result<u64> {
        let store = &self.customers.store;
        let mut count = 0;
        for _ in 0..TRIES {
            let found = store.get(ctx, &CUSTOMER_ALIAS, &[merged.uuid()]).await?;
            let Some(alias) = found.into_iter().flatten().next() else {
                return Ok(count);
            };
            let merge = alias.record.uuid("merge_id")?;
            let plan = MergePlan {
                winner: alias.record.uuid("customer_id")?.into(),
                losers: vec![merged],
                rules: MergeRules::default(),
                versions: Vec::new(),
                fields: Vec::new(),
                contact_points: Vec::new(),
                records: BTreeMap::new(),
            };
            let gathered = self.gather(ctx, &plan, &HashMap::new(), true).await?;
            if gathered.moved.is_empty() && gathered.dropped.is_empty() {
                return Ok(count);
            }
            let found = (gathered.moved.len() + gathered.dropped.len()) as u64;
            let last = Query::new(Filter::eq("merge_id", merge))
                .descending("seq")
                .limit(1);
            let last = store.find(ctx, &MERGE_IMAGE, &last).await?;
            let seq = last
                .items
                .first()
                .map_or(Ok(0), |image| image.record.int("seq"))?;
            let mut images = Vec::new();
            let mut writes = Vec::new();
            for stored in &gathered.dropped {
                images.push(Image::removed(stored));
                writes.push(Write::delete(
                    stored.record.schema(),
                    stored.id,
                    Some(stored.version),
                ));
            }
            writes.extend(moved(gathered.moved, &mut images)?);
            for (seq, image) in (seq + 1..).zip(&images) {
                writes.push(Write::insert(
                    self.customers.ids.fresh(),
                    image.to_record(merge, seq)?,
                ));
            }
            match store.apply(ctx, &writes).await {
                Ok(_) => count += found,
                Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
                Err(error) => return Err(error.operation("merge.settle")),
            }
        }
        Ok(count)
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
type Moved = Vec<Row>;

/// The writes that give records their new owners, and their images.
fn moved(rows: Moved, images: &mut Vec<Image>) -> Result<Vec<Write>> {
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

pub(super) fn alias(winner: CustomerId, merge: Uuid, now: Timestamp) -> Result<Record> {
    Record::from_values(&CUSTOMER_ALIAS, vec![winner.into(), merge.into(), now.into()])
}

fn dropped_points(points: &[Point]) -> HashMap<Uuid, Uuid> {
    points
        .iter()
        .filter_map(|point| Some((point.stored.id, point.same_as?)))
        .collect()
}

fn points_of(points: &[Point]) -> Vec<PointPlan> {
    points
        .iter()
        .map(|point| PointPlan {
            id: point.stored.id.into(),
            customer: point.owner,
            same_as: point.same_as.map(Into::into),
            primary: point.now.primary,
        })
        .collect()
}

/// The contact points of all as the winner's: each address once, one primary a kind, the most telling state.
fn united(people: &[Loaded]) -> Result<Vec<Point>> {
    let mut points: Vec<Point> = Vec::new();
    for one in people {
        for (point, stored) in one.customer.contact_points.iter().zip(&one.points) {
            let key = stored
                .record
                .get("match_key")
                .and_then(Value::as_str)
                .map(str::to_owned);
            let mut fresh = Point {
                stored: stored.clone(),
                owner: one.customer.id,
                now: point.clone(),
                key,
                same_as: None,
            };
            let same = points
                .iter_mut()
                .find(|known| known.same_as.is_none() && known.now.address == point.address);
            match same {
                Some(known) => {
                    fold(&mut known.now, point);
                    known.key = known.key.take().or(fresh.key.take());
                    fresh.same_as = Some(known.stored.id);
                    fresh.now.primary = false;
                }
                None => {
                    let first = !points
                        .iter()
                        .any(|known| known.now.primary && known.now.kind() == point.kind());
                    fresh.now.primary = point.primary && first;
                }
            }
            points.push(fresh);
        }
    }
    Ok(points)
}

/// What two say of one address: that it does not work outweighs that it was proven once.
fn fold(known: &mut ContactPoint, other: &ContactPoint) {
    let weight = |state: ContactState| match state {
        ContactState::Unverified => 0,
        ContactState::Verified => 1,
        ContactState::Invalid => 2,
    };
    if weight(other.state) > weight(known.state) {
        known.state = other.state;
    }
    known.verified_at = known.verified_at.max(other.verified_at);
    known.deliverability = known.deliverability.max(other.deliverability);
    if known.label.is_none() {
        known.label.clone_from(&other.label);
    }
}
