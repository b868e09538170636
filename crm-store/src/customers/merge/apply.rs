//! Planning a merge and carrying it out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crm_core::customer::{CONTACT_POINT, CUSTOMER, CUSTOMER_ALIAS, Customer};
use crm_core::query::{Filter, Query};
use crm_core::record::{Record, Write};
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Retry, Timestamp, Uuid};

use super::super::shape::{self, Loaded};
use super::gather::moved;
use super::journal::{Image, MERGE_IMAGE};
use super::points::{Point, dropped_points, points_of, united};
use super::survive::survive;
use super::{FieldPlan, Merge, MergePlan, MergeRecord, MergeRules};

/// How often a merge is prepared anew when records around the customers change meanwhile.
const TRIES: usize = 20;

/// The people of a merge as they are, and the profile they become.
struct Outcome {
    people: Vec<Loaded>,
    merged: Customer,
    fields: Vec<FieldPlan>,
    points: Vec<Point>,
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

pub(super) fn alias(winner: CustomerId, merge: Uuid, now: Timestamp) -> Result<Record> {
    Record::from_values(&CUSTOMER_ALIAS, vec![winner.into(), merge.into(), now.into()])
}
