//! Organisations, and who is or was with them.

use std::collections::BTreeSet;

use crm_core::customer::{AFFILIATION, Attributes};
use crm_core::query::{Cursor, Filter, Page, Query, Relation};
use crm_core::record::{Entity, Field, FieldType, Index, Record, Schema, Stored, Value, Version, Write};
use crm_core::{Context, CustomerId, Error, ErrorKind, Id, Result, Timestamp, Uuid};
use serde::Serialize;

use super::{Customers, shape};

/// The most levels of organisations above one.
pub const MAX_DEPTH: usize = 32;

/// The id of an organisation.
pub type OrganisationId = Id<Organisation>;
/// The id of an affiliation.
pub type AffiliationId = Id<Affiliation>;

/// A company, an authority, a department: what customers belong to.
#[derive(Debug, Clone, PartialEq)]
pub struct Organisation {
    /// Its id.
    pub id: OrganisationId,
    /// How often it was written; 0 before the first time.
    pub version: Version,
    /// What it is called.
    pub name: String,
    /// What it is called in contracts; empty when unknown.
    pub legal_name: String,
    /// Its internet domains, lower case.
    pub domains: Vec<String>,
    /// Labels.
    pub tags: Vec<String>,
    /// What else is known.
    pub attributes: Attributes,
    /// What it is part of.
    pub parent: Option<OrganisationId>,
    /// When it was first stored.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// How an [`Organisation`] is stored.
pub static ORGANISATION: Schema = Schema {
    name: "crm_organisation",
    fields: &[
        Field::new("name", FieldType::Text),
        Field::new("legal_name", FieldType::Text),
        Field::new("domains", FieldType::Json),
        Field::new("tags", FieldType::Json),
        Field::new("attributes", FieldType::Json),
        Field::new("parent_id", FieldType::Uuid).nullable(),
        Field::new("created_at", FieldType::Timestamp),
        Field::new("updated_at", FieldType::Timestamp),
    ],
    indexes: &[
        Index::new("crm_organisation_name", &["name"]),
        Index::new("crm_organisation_parent", &["parent_id"]),
    ],
};

/// A customer's place in an organisation, for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affiliation {
    /// Its id.
    pub id: AffiliationId,
    /// Who.
    pub customer: CustomerId,
    /// Where.
    pub organisation: OrganisationId,
    /// As what: `buyer`, `employee`.
    pub role: String,
    /// Whether it is the one to name first.
    pub primary: bool,
    /// Since when; for ever when absent.
    pub valid_from: Option<Timestamp>,
    /// Until when (this instant no longer); still when absent.
    pub valid_to: Option<Timestamp>,
}

impl Affiliation {
    /// A condition on customers: was with this organisation at any moment from `from` until before `to`. For
    /// [`Customers::find`], [`Customers::count`] and dynamic segments.
    pub fn during(organisation: OrganisationId, from: Timestamp, to: Timestamp) -> Filter {
        let open = |field: &'static str, then: Filter| Filter::null(field).or(then);
        let within = Filter::eq("organisation_id", organisation)
            .and(open("valid_from", Filter::lt("valid_from", to)))
            .and(open("valid_to", Filter::gt("valid_to", from)));
        Filter::at_least(1, Relation::AFFILIATIONS, within)
    }

    fn to_record(&self, now: Timestamp) -> Result<Record> {
        Record::from_values(
            &AFFILIATION,
            vec![
                self.customer.into(),
                self.organisation.into(),
                self.role.as_str().into(),
                self.primary.into(),
                self.valid_from.into(),
                self.valid_to.into(),
                now.into(),
            ],
        )
    }

    fn from_stored(stored: Stored) -> Result<Self> {
        let r = &stored.record;
        Ok(Self {
            id: stored.id.into(),
            customer: r.uuid("customer_id")?.into(),
            organisation: r.uuid("organisation_id")?.into(),
            role: r.text("role")?.to_owned(),
            primary: r.bool("primary_one")?,
            valid_from: r.get("valid_from").and_then(Value::as_timestamp),
            valid_to: r.get("valid_to").and_then(Value::as_timestamp),
        })
    }
}

impl Organisation {
    fn json<T: Serialize>(value: &T, field: &'static str) -> Result<Value> {
        let json = serde_json::to_value(value).map_err(|error| {
            Error::invalid("a value cannot be written as JSON")
                .with("field", field)
                .source(error)
        })?;
        Ok(Value::Json(json))
    }
}

impl Entity for Organisation {
    fn schema() -> &'static Schema {
        &ORGANISATION
    }
    fn record_id(&self) -> Uuid {
        self.id.uuid()
    }
    fn to_record(&self) -> Result<Record> {
        Record::from_values(
            &ORGANISATION,
            vec![
                self.name.as_str().into(),
                self.legal_name.as_str().into(),
                Self::json(&self.domains, "domains")?,
                Self::json(&self.tags, "tags")?,
                Self::json(&self.attributes, "attributes")?,
                self.parent.into(),
                self.created_at.into(),
                self.updated_at.into(),
            ],
        )
    }
    fn from_stored(stored: Stored) -> Result<Self> {
        let r = &stored.record;
        Ok(Self {
            id: stored.id.into(),
            version: stored.version,
            name: r.text("name")?.to_owned(),
            legal_name: r.text("legal_name")?.to_owned(),
            domains: r.json("domains")?,
            tags: r.json("tags")?,
            attributes: r.json("attributes")?,
            parent: r.get("parent_id").and_then(Value::as_uuid).map(Into::into),
            created_at: r.timestamp("created_at")?,
            updated_at: r.timestamp("updated_at")?,
        })
    }
}

/// Organisations; see [`Customers::organisations`].
#[derive(Debug, Clone, Copy)]
pub struct Organisations<'a> {
    customers: &'a Customers,
}

impl Customers {
    /// Organisations and who is with them.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # use std::sync::Arc;
    /// # use crm_core::memory::MemoryStore;
    /// # use crm_core::{Context, RandomIds, SystemClock, TenantId};
    /// use crm_store::Customers;
    ///
    /// # let store = Arc::new(MemoryStore::new("records"));
    /// # let customers = Customers::new(store, SystemClock::shared(), RandomIds::shared());
    /// # let ctx = Context::new(TenantId::new("shop").unwrap());
    /// let organisations = customers.organisations();
    /// let acme = organisations.save(&ctx, organisations.named("Acme")).await.unwrap();
    /// let mut lab = organisations.named("Acme Lab");
    /// lab.parent = Some(acme.id);
    /// let lab = organisations.save(&ctx, lab).await.unwrap();
    /// assert_eq!(organisations.get(&ctx, lab.id).await.unwrap().unwrap().parent, Some(acme.id));
    /// # });
    /// ```
    pub fn organisations(&self) -> Organisations<'_> {
        Organisations { customers: self }
    }
}

impl Organisations<'_> {
    /// A new organisation, to be filled and saved.
    pub fn named(&self, name: &str) -> Organisation {
        let now = self.customers.clock.now();
        Organisation {
            id: self.customers.ids.fresh().into(),
            version: 0,
            name: name.trim().to_owned(),
            legal_name: String::new(),
            domains: Vec::new(),
            tags: Vec::new(),
            attributes: Attributes::default(),
            parent: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// Stores an organisation: a new one (version 0), or one that was read and changed. Answers it as stored.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the field: no name, a parent that is part of it or too deep; [`ErrorKind::NotFound`]
    /// when the parent is not there; [`ErrorKind::Conflict`] when it, or one it is part of, was changed meanwhile.
    pub async fn save(&self, ctx: &Context, organisation: Organisation) -> Result<Organisation> {
        self.saved(ctx, organisation)
            .await
            .map_err(|error| error.operation("organisations.save"))
    }

    async fn saved(&self, ctx: &Context, mut one: Organisation) -> Result<Organisation> {
        if one.name.trim().is_empty() {
            return Err(Error::invalid("an organisation has a name").with("field", "name"));
        }
        self.customers.prepare().await?;
        for domain in &mut one.domains {
            *domain = domain.trim().to_lowercase();
        }
        one.updated_at = self.customers.clock.now();
        let record = one.to_record()?;
        let mut writes = vec![match one.version {
            0 => Write::insert(one.id, record),
            version => Write::update(one.id, version, record),
        }];
        // Those above are written as they are: who moves one of them at the same moment collides, and no ring closes.
        let mut above = BTreeSet::from([one.id]);
        let mut next = one.parent;
        while let Some(id) = next {
            if !above.insert(id) {
                return Err(
                    Error::invalid("an organisation cannot be part of itself").with("field", "parent")
                );
            }
            if above.len() > MAX_DEPTH {
                return Err(Error::invalid("organisations are nested too deep").with("field", "parent"));
            }
            let parent = self.row(ctx, id).await?.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "no such organisation").with("organisation_id", id)
            })?;
            next = parent
                .record
                .get("parent_id")
                .and_then(Value::as_uuid)
                .map(Into::into);
            writes.push(Write::update(parent.id, parent.version, parent.record));
        }
        self.customers.store.apply(ctx, &writes).await?;
        one.version += 1;
        Ok(one)
    }

    async fn row(&self, ctx: &Context, id: OrganisationId) -> Result<Option<Stored>> {
        let found = self.customers.store.get(ctx, &ORGANISATION, &[id.uuid()]).await?;
        Ok(found.into_iter().flatten().next())
    }

    /// An organisation by id.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(&self, ctx: &Context, id: OrganisationId) -> Result<Option<Organisation>> {
        self.customers.prepare().await?;
        self.row(ctx, id)
            .await?
            .map(Organisation::from_stored)
            .transpose()
    }

    /// Organisations that match (see [`ORGANISATION`] for the fields; `Filter::Has` on `domains` finds by domain).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the field or setting; the store's.
    pub async fn find(&self, ctx: &Context, query: &Query) -> Result<Page<Organisation>> {
        self.customers.prepare().await?;
        let page = self.customers.store.find(ctx, &ORGANISATION, query).await?;
        page.try_map(Organisation::from_stored)
    }

    /// Removes an organisation with its affiliations.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] while others are part of it (`index=parent`), or when it was
    /// changed at the same moment.
    pub async fn delete(&self, ctx: &Context, id: OrganisationId) -> Result<()> {
        let named = |error: Error| error.operation("organisations.delete");
        self.customers.prepare().await.map_err(named)?;
        let stored = self.row(ctx, id).await.map_err(named)?.ok_or_else(|| {
            named(Error::new(ErrorKind::NotFound, "no such organisation").with("organisation_id", id))
        })?;
        let parts = Filter::eq("parent_id", id);
        if self
            .customers
            .store
            .count(ctx, &ORGANISATION, &parts)
            .await
            .map_err(named)?
            > 0
        {
            return Err(named(
                Error::conflict("other organisations are part of this one; move or remove them first")
                    .with("index", "parent"),
            ));
        }
        self.customers
            .sweep(ctx, &AFFILIATION, Filter::eq("organisation_id", id))
            .await
            .map_err(named)?;
        let gone = Write::delete(&ORGANISATION, id, Some(stored.version));
        self.customers.store.apply(ctx, &[gone]).await.map_err(named)?;
        Ok(())
    }

    /// Says that a customer is or was with an organisation; when `primary`, no other affiliation of the customer is.
    /// Saying exactly the same again changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming who is not there; [`ErrorKind::Invalid`] on `field=valid_to` when it ends before it
    /// begins; [`ErrorKind::Conflict`] when another primary one was changed at the same moment.
    pub async fn affiliate(
        &self,
        ctx: &Context,
        customer: CustomerId,
        organisation: OrganisationId,
        role: &str,
        primary: bool,
        valid: (Option<Timestamp>, Option<Timestamp>),
    ) -> Result<Affiliation> {
        let named = |error: Error| error.operation("organisations.affiliate");
        self.customers.prepare().await.map_err(named)?;
        if let (Some(from), Some(to)) = valid
            && to <= from
        {
            return Err(named(
                Error::invalid("an affiliation ends after it begins").with("field", "valid_to"),
            ));
        }
        let customer = self.customers.current(ctx, customer).await.map_err(named)?;
        if self.row(ctx, organisation).await.map_err(named)?.is_none() {
            return Err(named(
                Error::new(ErrorKind::NotFound, "no such organisation").with("organisation_id", organisation),
            ));
        }
        let one = Affiliation {
            id: self.customers.ids.fresh().into(),
            customer,
            organisation,
            role: role.trim().to_owned(),
            primary,
            valid_from: valid.0,
            valid_to: valid.1,
        };
        let owned = Filter::eq("customer_id", customer);
        let mut writes = Vec::new();
        for mut stored in shape::all(&*self.customers.store, ctx, &AFFILIATION, owned)
            .await
            .map_err(named)?
        {
            let known = Affiliation::from_stored(stored.clone()).map_err(named)?;
            if (Affiliation {
                id: one.id,
                ..known.clone()
            }) == one
            {
                return Ok(known);
            }
            if primary && known.primary {
                stored.record.set("primary_one", false).map_err(named)?;
                writes.push(Write::update(stored.id, stored.version, stored.record));
            }
        }
        let record = one.to_record(self.customers.clock.now()).map_err(named)?;
        writes.push(Write::insert(one.id, record));
        self.customers.store.apply(ctx, &writes).await.map_err(named)?;
        self.customers.follow(ctx, &[customer]).await.map_err(named)?;
        Ok(one)
    }

    /// Notes until when an affiliation lasted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Invalid`] when it would end before it began; [`ErrorKind::Conflict`] when it
    /// was changed at the same moment.
    pub async fn end(&self, ctx: &Context, affiliation: AffiliationId, at: Timestamp) -> Result<Affiliation> {
        let named = |error: Error| error.operation("organisations.end");
        self.customers.prepare().await.map_err(named)?;
        let store = &self.customers.store;
        let found = store
            .get(ctx, &AFFILIATION, &[affiliation.uuid()])
            .await
            .map_err(named)?;
        let mut stored = found.into_iter().flatten().next().ok_or_else(|| {
            named(Error::new(ErrorKind::NotFound, "no such affiliation").with("affiliation_id", affiliation))
        })?;
        let from = stored.record.get("valid_from").and_then(Value::as_timestamp);
        if from.is_some_and(|from| at <= from) {
            return Err(named(
                Error::invalid("an affiliation ends after it begins").with("field", "valid_to"),
            ));
        }
        stored.record.set("valid_to", at).map_err(named)?;
        let write = Write::update(stored.id, stored.version, stored.record.clone());
        store.apply(ctx, &[write]).await.map_err(named)?;
        Affiliation::from_stored(stored).map_err(named)
    }

    /// The affiliations of a customer, or of the one it was merged into; with `at`, those in force then.
    ///
    /// # Errors
    /// The store's.
    pub async fn of(
        &self,
        ctx: &Context,
        customer: CustomerId,
        at: Option<Timestamp>,
    ) -> Result<Vec<Affiliation>> {
        self.customers.prepare().await?;
        let Some(found) = self
            .customers
            .resolve(ctx, &[customer])
            .await?
            .into_iter()
            .flatten()
            .next()
        else {
            return Ok(Vec::new());
        };
        let filter = in_force(Filter::eq("customer_id", found.id), at);
        let rows = shape::all(&*self.customers.store, ctx, &AFFILIATION, filter).await?;
        rows.into_iter().map(Affiliation::from_stored).collect()
    }

    /// Who is with an organisation, page by page; with `at`, who was then.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a wrong limit or cursor; the store's.
    pub async fn members(
        &self,
        ctx: &Context,
        organisation: OrganisationId,
        at: Option<Timestamp>,
        limit: u32,
        after: Option<Cursor>,
    ) -> Result<Page<Affiliation>> {
        self.customers.prepare().await?;
        let filter = in_force(Filter::eq("organisation_id", organisation), at);
        let query = Query::new(filter).limit(limit).after(after);
        let page = self.customers.store.find(ctx, &AFFILIATION, &query).await?;
        page.try_map(Affiliation::from_stored)
    }
}

fn in_force(filter: Filter, at: Option<Timestamp>) -> Filter {
    match at {
        None => filter,
        Some(at) => filter
            .and(Filter::null("valid_from").or(Filter::le("valid_from", at)))
            .and(Filter::null("valid_to").or(Filter::gt("valid_to", at))),
    }
}
