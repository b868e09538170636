//! Changes made on purpose: a customer created, edited or deleted by the host.

use std::collections::HashSet;

use crm_core::activity::{INTERACTION, ORDER};
use crm_core::customer::{CONTACT_POINT, CUSTOMER, ContactKind, ContactPoint, Customer, Draft, EXTERNAL_REF};
use crm_core::query::{Filter, Query};
use crm_core::record::{Schema, Stored, Write};
use crm_core::segment::SEGMENT_MEMBER;
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Uuid};

use super::matching;
use super::shape::{self, Loaded};
use super::{Customers, IMPORT_ROW, normalise};

/// Timeline records removed in one unit of work.
const REMOVED: u32 = 1000;

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
        let (clean, rejects) = normalise::clean(draft);
        // A customer without any key can be made on purpose; only then is there a reject without a field.
        if let Some(reject) = rejects.into_iter().find(|reject| reject.field.is_some()) {
            return Err(Error::invalid(reject.reason).with("field", reject.field.unwrap_or_default()));
        }
        let plan = matching::create(&*self.store, ctx, &*self.ids, self.clock.now(), &clean).await?;
        self.store.apply(ctx, &plan.writes).await?;
        match plan.outcomes.first() {
            Some((id, _)) => self.there(ctx, *id).await.map(|loaded| loaded.customer),
            None => Err(Error::unexpected("a draft without an outcome")),
        }
    }

    async fn there(&self, ctx: &Context, id: CustomerId) -> Result<Loaded> {
        let mut loaded = shape::load(&*self.store, ctx, &[id.uuid()]).await?;
        loaded
            .remove(&id.uuid())
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such customer").with("customer_id", id))
    }

    /// Stores a customer as it is given: profile, contact points and external references. Its `version` must be the one
    /// that was read; `updated_at` is set. Answers it as stored.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] when it was changed meanwhile (`index=version`), or one of its
    /// keys belongs to another customer (`index` names it); [`ErrorKind::Invalid`] naming the field.
    pub async fn update(&self, ctx: &Context, customer: &Customer) -> Result<Customer> {
        self.updated(ctx, customer)
            .await
            .map_err(|error| error.operation("customers.update"))
    }

    async fn updated(&self, ctx: &Context, customer: &Customer) -> Result<Customer> {
        self.prepare().await?;
        let stored = self.there(ctx, customer.id).await?;
        let now = self.clock.now();
        check(customer)?;
        let mut changed = customer.clone();
        (changed.created_at, changed.updated_at) = (stored.customer.created_at, now);
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
        // The profile's version comes first, so that all other writes are those of an unchanged customer.
        self.store.apply(ctx, &writes).await?;
        self.there(ctx, customer.id).await.map(|loaded| loaded.customer)
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

    /// Removes a customer with everything that is stored here about it: contact points, references, memberships and
    /// timeline. The timeline goes first, in bounded steps; stopped halfway, the call can be repeated.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] when it was changed at the same moment (repeat the call).
    pub async fn delete(&self, ctx: &Context, id: CustomerId) -> Result<()> {
        self.deleted(ctx, id)
            .await
            .map_err(|error| error.operation("customers.delete"))
    }

    async fn deleted(&self, ctx: &Context, id: CustomerId) -> Result<()> {
        self.prepare().await?;
        let stored = self.there(ctx, id).await?;
        self.sweep(ctx, id).await?;
        let mut writes = vec![Write::delete(&CUSTOMER, id, Some(stored.customer.version))];
        let gone = |schema: &'static Schema, rows: &[Stored]| {
            rows.iter()
                .map(|row| Write::delete(schema, row.id, None))
                .collect::<Vec<Write>>()
        };
        writes.extend(gone(&CONTACT_POINT, &stored.points));
        writes.extend(gone(&EXTERNAL_REF, &stored.refs));
        let owned = || Filter::eq("customer_id", id);
        let members = shape::all(&*self.store, ctx, &SEGMENT_MEMBER, owned()).await?;
        writes.extend(gone(&SEGMENT_MEMBER, &members));
        // What journals of imports keep of it.
        let rows = shape::all(&*self.store, ctx, &IMPORT_ROW, owned()).await?;
        writes.extend(gone(&IMPORT_ROW, &rows));
        self.store.apply(ctx, &writes).await?;
        // What came in while the rest was removed.
        self.sweep(ctx, id).await
    }

    async fn sweep(&self, ctx: &Context, id: CustomerId) -> Result<()> {
        for schema in [&ORDER, &INTERACTION] {
            let query = Query::new(Filter::eq("customer_id", id)).limit(REMOVED);
            loop {
                let page = self.store.find(ctx, schema, &query).await?;
                if page.items.is_empty() {
                    break;
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
        Ok(())
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
