//! Changes made on purpose: a customer created, edited or deleted by the host.

use std::collections::{BTreeSet, HashSet};

use crm_core::activity::{INTERACTION, ORDER};
use crm_core::customer::{
    CONTACT_POINT, CUSTOMER, CUSTOMER_ALIAS, ContactKind, ContactPoint, Customer, Draft, EXTERNAL_REF,
    Provenance,
};
use crm_core::query::{Filter, Query};
use crm_core::record::{Schema, Stored, Write};
use crm_core::score::SCORE;
use crm_core::segment::{SEGMENT_MEMBER, SEGMENT_OVERRIDE};
use crm_core::{Actor, Context, CustomerId, Error, ErrorKind, Result, Uuid};

use super::matching;
use super::merge::{DISTINCT_PAIR, MERGE, MERGE_IMAGE};
use super::shape::{self, Loaded};
use super::{AFFILIATION, Customers, IMPORT_ROW, fields, normalise};

/// Timeline records removed in one unit of work.
const REMOVED: u32 = 1000;

/// A customer to be removed: what may be long, and the rest.
pub(super) struct Parts {
    pub(super) swept: Vec<(&'static Schema, Filter)>,
    pub(super) last: Vec<Write>,
}

impl Customers {
    /// Makes a new customer. Unlike [`Customers::upsert`], every field must be readable, and nobody else may have one
    /// of the external references or e-mail addresses; a phone number may be shared.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the field; [`ErrorKind::Conflict`] with `customer_id` when the person is known.
    pub async fn create(&self, ctx: &Context, draft: Draft) -> Result<Customer> {
        self.created(ctx, draft)
            .await
            .map_err(|error| error.operation("customers.create"))
    }

    async fn created(&self, ctx: &Context, draft: Draft) -> Result<Customer> {
        self.prepare().await?;
        let (id, writes) = self.create_writes(ctx, draft).await?;
        self.commit(ctx, &writes).await?;
        self.there(ctx, id).await.map(|loaded| loaded.customer)
    }

    /// The writes that make a new customer.
    pub(super) async fn create_writes(
        &self,
        ctx: &Context,
        draft: Draft,
    ) -> Result<(CustomerId, Vec<Write>)> {
        let (clean, rejects) = normalise::clean(draft);
        // A customer without any key can be made on purpose; only then is there a reject without a field.
        if let Some(reject) = rejects.into_iter().find(|reject| reject.field.is_some()) {
            return Err(Error::invalid(reject.reason).with("field", reject.field.unwrap_or_default()));
        }
        fields::check(self, ctx, &clean.attributes, None).await?;
        let plan = matching::create(&*self.store, ctx, &*self.ids, self.clock.now(), &clean).await?;
        match plan.outcomes.first() {
            Some((id, _)) => Ok((*id, plan.writes)),
            None => Err(Error::unexpected("a draft without an outcome")),
        }
    }

    pub(super) async fn there(&self, ctx: &Context, id: CustomerId) -> Result<Loaded> {
        let mut loaded = shape::load(&*self.store, ctx, &[id.uuid()]).await?;
        match loaded.remove(&id.uuid()) {
            Some(loaded) => Ok(loaded),
            None => Err(self.missing(ctx, id).await),
        }
    }

    /// Stores a customer as it is given: profile, contact points and external references. Its `version` must be the one
    /// that was read; `updated_at` is set. Answers it as stored.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] when it was changed meanwhile (`index=version`), was merged into
    /// another one (`index=merged`, `customer_id` names it), or one of its keys belongs to another customer (`index`
    /// names it); [`ErrorKind::Invalid`] naming the field.
    pub async fn update(&self, ctx: &Context, customer: &Customer) -> Result<Customer> {
        self.updated(ctx, customer)
            .await
            .map_err(|error| error.operation("customers.update"))
    }

    async fn updated(&self, ctx: &Context, customer: &Customer) -> Result<Customer> {
        self.prepare().await?;
        // The profile's version comes first, so that all other writes are those of an unchanged customer.
        let writes = self.update_writes(ctx, customer).await?;
        self.commit(ctx, &writes).await?;
        self.there(ctx, customer.id).await.map(|loaded| loaded.customer)
    }

    /// The writes that store a customer as it is given.
    pub(super) async fn update_writes(&self, ctx: &Context, customer: &Customer) -> Result<Vec<Write>> {
        let stored = self.there(ctx, customer.id).await?;
        let now = self.clock.now();
        check(customer)?;
        fields::check(self, ctx, &customer.attributes, Some(&stored.customer)).await?;
        let mut changed = customer.clone();
        (changed.created_at, changed.updated_at) = (stored.customer.created_at, now);
        told_by(ctx.acting(), &stored.customer, &mut changed);
        let mut writes = vec![Write::update(
            customer.id,
            customer.version,
            shape::profile(&changed)?,
        )];
        self.point_writes(ctx, &stored, customer, &mut writes).await?;
        for (known, row) in stored.customer.external_refs.iter().zip(&stored.refs) {
            if !customer.external_refs.contains(known) {
                writes.push(Write::delete(&EXTERNAL_REF, row.id, None));
            }
        }
        for reference in &customer.external_refs {
            if !stored.customer.external_refs.contains(reference) {
                let record = shape::reference(customer.id, reference, now)?;
                writes.push(Write::insert(self.ids.fresh(), record));
            }
        }
        Ok(writes)
    }

    async fn point_writes(
        &self,
        ctx: &Context,
        stored: &Loaded,
        customer: &Customer,
        writes: &mut Vec<Write>,
    ) -> Result<()> {
        let row_of = |point: &ContactPoint| stored.points.iter().find(|row| row.id == point.id.uuid());
        for row in &stored.points {
            if !customer
                .contact_points
                .iter()
                .any(|point| point.id.uuid() == row.id)
            {
                writes.push(Write::delete(&CONTACT_POINT, row.id, Some(row.version)));
            }
        }
        for point in &customer.contact_points {
            let row = row_of(point);
            let known = row.map(shape::read_point).transpose()?;
            if known.as_ref() == Some(point) {
                continue;
            }
            let created = match row {
                Some(row) => row.record.timestamp("created_at")?,
                None => self.clock.now(),
            };
            let same = known.is_some_and(|known| known.address == point.address);
            let key = match row {
                Some(row) if same => row
                    .record
                    .get("match_key")
                    .and_then(|v| v.as_str())
                    .map(str::to_owned),
                _ => self.free_key(ctx, point).await?,
            };
            let record = shape::point(customer.id, point, key, created)?;
            writes.push(match row {
                Some(row) => Write::update(row.id, row.version, record),
                None => Write::insert(point.id, record),
            });
        }
        Ok(())
    }

    /// The key of a new contact point: an e-mail address always identifies (and collides if it is someone else's), a
    /// phone number only while nobody else has it.
    async fn free_key(&self, ctx: &Context, point: &ContactPoint) -> Result<Option<String>> {
        let key = shape::match_key(point.kind(), point.value());
        if point.kind() == ContactKind::Email {
            return Ok(Some(key));
        }
        let taken = self
            .store
            .count(ctx, &CONTACT_POINT, &Filter::eq("match_key", key.as_str()))
            .await?;
        Ok((taken == 0).then_some(key))
    }

    /// Removes a customer with everything that is stored here about it: contact points, references, memberships,
    /// timeline, and what its merges kept of it and of those merged into it. Timeline and before-images go first, in
    /// bounded steps; stopped halfway, the call can be repeated. Consent events stay: they are proof.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] when it was changed at the same moment (repeat the call), or was
    /// merged into another one (`index=merged`): who wants that one removed says so.
    pub async fn delete(&self, ctx: &Context, id: CustomerId) -> Result<()> {
        self.deleted(ctx, id)
            .await
            .map_err(|error| error.operation("customers.delete"))
    }

    async fn deleted(&self, ctx: &Context, id: CustomerId) -> Result<()> {
        self.prepare().await?;
        let parts = self.parts(ctx, id).await?;
        for (schema, filter) in &parts.swept {
            self.sweep(ctx, schema, filter.clone()).await?;
        }
        self.commit(ctx, &parts.last).await?;
        // What came in while the rest was removed.
        for (schema, filter) in parts.swept {
            self.sweep(ctx, schema, filter).await?;
        }
        Ok(())
    }

    /// What belongs to a customer.
    pub(super) async fn parts(&self, ctx: &Context, id: CustomerId) -> Result<Parts> {
        let stored = self.there(ctx, id).await?;
        let owner = || Filter::eq("customer_id", id);
        let mut swept: Vec<(&'static Schema, Filter)> = vec![(&ORDER, owner()), (&INTERACTION, owner())];
        let aliases = self.aliases(ctx, &[id]).await?;
        let everyone: Vec<Uuid> = aliases.iter().map(|alias| alias.id).chain([id.uuid()]).collect();
        let merges = Filter::one_of("winner_id", everyone.iter().copied());
        let merges = shape::all(&*self.store, ctx, &MERGE, merges).await?;
        if !merges.is_empty() {
            let images = Filter::one_of("merge_id", merges.iter().map(|merge| merge.id));
            swept.push((&MERGE_IMAGE, images));
        }
        let mut last = vec![Write::delete(&CUSTOMER, id, Some(stored.customer.version))];
        let mut gone = |schema: &'static Schema, rows: &[Stored]| {
            for row in rows {
                if !last.iter().any(|known: &Write| known.id() == row.id) {
                    last.push(Write::delete(schema, row.id, None));
                }
            }
        };
        gone(&CONTACT_POINT, &stored.points);
        gone(&EXTERNAL_REF, &stored.refs);
        // Memberships, exceptions by hand, scores, and what journals of imports keep of it.
        for schema in [
            &SEGMENT_MEMBER,
            &SEGMENT_OVERRIDE,
            &IMPORT_ROW,
            &AFFILIATION,
            &SCORE,
        ] {
            gone(schema, &shape::all(&*self.store, ctx, schema, owner()).await?);
        }
        gone(&CUSTOMER_ALIAS, &aliases);
        gone(&MERGE, &merges);
        for field in ["low_id", "high_id"] {
            let pairs = Filter::one_of(field, everyone.iter().copied());
            gone(
                &DISTINCT_PAIR,
                &shape::all(&*self.store, ctx, &DISTINCT_PAIR, pairs).await?,
            );
        }
        Ok(Parts { swept, last })
    }

    /// Removes all records that match, in bounded steps.
    pub(super) async fn sweep(&self, ctx: &Context, schema: &'static Schema, filter: Filter) -> Result<()> {
        let query = Query::new(filter).limit(REMOVED);
        loop {
            let page = self.store.find(ctx, schema, &query).await?;
            if page.items.is_empty() {
                return Ok(());
            }
            let writes: Vec<Write> = page
                .items
                .iter()
                .map(|stored| Write::delete(schema, stored.id, None))
                .collect();
            match self.store.apply(ctx, &writes).await {
                Ok(_) => {}
                // Somebody else removes the same ones: fewer are left.
                Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Notes who changed which field, unless the caller says so itself.
fn told_by(actor: &Actor, before: &Customer, now: &mut Customer) {
    let source = match actor {
        Actor::System(name) => name.clone(),
        Actor::User(id) => format!("user:{id}"),
    };
    let mut fields: BTreeSet<String> = matching::said(now).into_iter().collect();
    fields.extend(matching::said(before));
    for field in fields {
        let attribute = field.strip_prefix("attributes.");
        let (same, gone) = match attribute {
            Some(name) => {
                let value = now.attributes.get(name);
                (value == before.attributes.get(name), value.is_none())
            }
            None if field == "name" => (now.name == before.name, now.name.is_empty()),
            None => (now.addresses == before.addresses, now.addresses.is_empty()),
        };
        if gone {
            now.known_from.remove(&field);
        } else if !same && now.known_from.get(&field) == before.known_from.get(&field) {
            now.known_from
                .insert(field, Provenance::new(source.clone(), now.updated_at));
        }
    }
}

/// What no other check sees: keys twice, two primary points of a kind.
fn check(customer: &Customer) -> Result<()> {
    let wrong =
        |message: &'static str, field: &'static str| Err(Error::invalid(message).with("field", field));
    let (mut ids, mut values): (HashSet<Uuid>, HashSet<&str>) = Default::default();
    for point in &customer.contact_points {
        if !ids.insert(point.id.uuid()) || !values.insert(point.value()) {
            return wrong("a contact point is there twice", "contact_points");
        }
    }
    for kind in [ContactKind::Email, ContactKind::Phone] {
        if customer
            .contact_points
            .iter()
            .filter(|point| point.kind() == kind && point.primary)
            .count()
            > 1
        {
            return wrong(
                "only one contact point of a kind can be the primary one",
                "contact_points",
            );
        }
    }
    let mut refs = HashSet::new();
    for reference in &customer.external_refs {
        reference.validate()?;
        if !refs.insert(reference) {
            return wrong("an external reference is there twice", "external_refs");
        }
    }
    Ok(())
}
