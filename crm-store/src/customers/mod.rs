//! Customer information management: what a host calls. Works on any [`RecordStore`].
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::customer::{Draft, PersonName, Provenance};
//! use crm_core::memory::MemoryStore;
//! use crm_core::{Context, RandomIds, SystemClock, TenantId, Timestamp};
//! use crm_store::customers::{Change, Customers};
//!
//! let customers =
//!     Customers::new(Arc::new(MemoryStore::new("records")), SystemClock::shared(), RandomIds::shared());
//! let ctx = Context::new(TenantId::new("shop").unwrap());
//!
//! let mut draft = Draft::new(Provenance::new("web-shop", Timestamp::EPOCH));
//! draft.name = Some(PersonName::new("Ana", "Kask"));
//! draft.emails.push("Ana@example.com".into());
//! let ana = customers.upsert(&ctx, draft.clone()).await.unwrap();
//! assert_eq!(ana.change, Change::Created);
//! assert_eq!(customers.upsert(&ctx, draft).await.unwrap().change, Change::Unchanged);
//!
//! let ana = customers.get(&ctx, ana.id).await.unwrap().unwrap();
//! assert_eq!(ana.email().unwrap().value(), "ana@example.com");
//! # });
//! ```

mod batch;
mod edit;
mod export;
mod fields;
mod idempotency;
mod import;
mod matching;
mod merge;
mod normalise;
mod organisations;
pub(crate) mod plain;
mod profiles;
mod retention;
mod shape;
mod tags;
mod timeline;
mod undo;
mod unique;

use std::fmt;
use std::sync::Arc;

use crm_core::activity::{INTERACTION, ORDER};
use crm_core::capability::{RecordStore, Reject};
use crm_core::consent::{CONSENT_EVENT, OPT_IN, PURPOSE, SEND_COUNT, SOFT_FAILURE, SUPPRESSION};
use crm_core::customer::{
    CONTACT_POINT, CUSTOMER, CUSTOMER_ALIAS, ContactKind, Customer, Draft, EXTERNAL_REF, EmailAddress,
    ExternalRef, PhoneNumber,
};
use crm_core::query::{Filter, Page, Query};
use crm_core::record::Schema;
use crm_core::score::SCORE;
use crm_core::segment::{SEGMENT, SEGMENT_MEMBER, SEGMENT_OVERRIDE, SEGMENT_STATE};
use crm_core::{
    Clock, Consumer, Context, CustomerId, Error, IdSource, Needs, RandomIds, Registry, Result, SystemClock,
    Uuid,
};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::changes::Feed;
use crate::segments::SEGMENT_EVENT;

pub use batch::{MAX_BATCH, Mode, Op, OpDone};
pub use crm_core::customer::AFFILIATION;
pub use export::{ArchiveOptions, ArchiveReport, ExportOptions, ExportReport, Format, OnExisting};
pub use fields::{ATTRIBUTE, FIELD_DEF, FieldDef, FieldKind, Fields};
pub use idempotency::{IDEMPOTENCY_KEY, KEPT, Once};
pub use import::{
    IMPORT_JOB, IMPORT_REJECT, IMPORT_ROW, ImportJob, ImportOptions, ImportReport, ImportSink, ImportState,
    RejectsWritten,
};
pub use matching::Change;
pub use merge::{
    Candidate, DISTINCT_PAIR, FieldPlan, MAX_CLUSTER, MERGE, MERGE_IMAGE, Merge, MergeId, MergePlan,
    MergeRecord, MergeRules, Moves, PointPlan, Reference, References, Resolved, Rule, Strategy, Unmerged,
};
pub use organisations::{
    Affiliation, AffiliationId, MAX_DEPTH, ORGANISATION, Organisation, OrganisationId, Organisations,
};
pub use retention::{Leftovers, Retention};
pub use timeline::{Appended, Events};
pub use undo::{Kept, KeptReason, UndoReport};

/// What [`Customers`] stores, to be migrated together.
pub static SCHEMAS: [&Schema; 29] = [
    &CUSTOMER,
    &CONTACT_POINT,
    &EXTERNAL_REF,
    &CUSTOMER_ALIAS,
    &ORDER,
    &INTERACTION,
    &SEGMENT,
    &SEGMENT_MEMBER,
    &SEGMENT_OVERRIDE,
    &SEGMENT_STATE,
    &SEGMENT_EVENT,
    &IMPORT_JOB,
    &IMPORT_REJECT,
    &IMPORT_ROW,
    &CONSENT_EVENT,
    &SUPPRESSION,
    &PURPOSE,
    &OPT_IN,
    &SEND_COUNT,
    &SOFT_FAILURE,
    &MERGE,
    &MERGE_IMAGE,
    &DISTINCT_PAIR,
    &IDEMPOTENCY_KEY,
    &FIELD_DEF,
    &ATTRIBUTE,
    &ORGANISATION,
    &AFFILIATION,
    &SCORE,
];

/// What became of a draft.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Upserted {
    /// Whose it is.
    pub id: CustomerId,
    /// What it did.
    pub change: Change,
    /// The fields that were left out, and why.
    pub rejects: Vec<Reject>,
}

/// Customers of every tenant: create, upsert, find, change, delete, import. Cheap to clone.
#[derive(Clone)]
pub struct Customers {
    pub(crate) store: Arc<dyn RecordStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) feed: Option<Feed>,
    references: Arc<References>,
    ready: Arc<OnceCell<()>>,
}

impl fmt::Debug for Customers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Customers")
            .field("store", self.store.info())
            .finish_non_exhaustive()
    }
}

impl Consumer for Customers {
    fn needs() -> Needs {
        Needs::new("Customers").requires::<dyn RecordStore>()
    }

    /// Binds to the best store of a registry, with the machine's clock and random ids.
    fn bind(registry: &Registry) -> Result<Self> {
        Self::needs().check(registry)?;
        Ok(Self::new(
            registry.get::<dyn RecordStore>()?,
            SystemClock::shared(),
            RandomIds::shared(),
        ))
    }
}

impl Customers {
    /// Customers in this store, with this clock and these ids.
    pub fn new(store: Arc<dyn RecordStore>, clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        Self {
            store,
            clock,
            ids,
            references: Arc::new(References::core()),
            feed: None,
            ready: Arc::new(OnceCell::new()),
        }
    }

    /// Takes the time from another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Takes ids from another source.
    #[must_use]
    pub fn with_ids(mut self, ids: Arc<dyn IdSource>) -> Self {
        self.ids = ids;
        self
    }

    /// Says which records outside of [`SCHEMAS`] name customers, so that merges take them along. Room is made for them
    /// too.
    #[must_use]
    pub fn with_references(mut self, references: References) -> Self {
        self.references = Arc::new(references);
        self.ready = Arc::default();
        self
    }

    /// The store.
    pub fn store_ref(&self) -> &Arc<dyn RecordStore> {
        &self.store
    }

    /// Makes room in the store for [`SCHEMAS`]. Every call does so when none did before; a host that wants to know at
    /// start calls it itself.
    ///
    /// # Errors
    /// As [`RecordStore::migrate`].
    pub async fn prepare(&self) -> Result<()> {
        self.ready
            .get_or_try_init(|| async {
                let mut schemas = SCHEMAS.to_vec();
                for reference in self.references.all() {
                    if !schemas.iter().any(|schema| schema.name == reference.schema.name) {
                        schemas.push(reference.schema);
                    }
                }
                self.store.migrate(&schemas).await
            })
            .await
            .copied()
    }

    /// Finds the customer a draft is about, or makes one, and merges the draft in: external references count first,
    /// then e-mail addresses, then phone numbers. Fields that cannot be read or belong to another customer are left out
    /// and told. Safe to repeat.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the field when nothing is left to recognise the person by; the store's.
    pub async fn upsert(&self, ctx: &Context, draft: Draft) -> Result<Upserted> {
        let named = |error: Error| error.operation("customers.upsert");
        self.prepare().await.map_err(named)?;
        let nobody = {
            let (clean, rejects) = normalise::clean(draft.clone());
            (!clean.is_identified())
                .then(|| rejects.into_iter().next())
                .flatten()
        };
        if let Some(reject) = nobody {
            let field = reject
                .field
                .unwrap_or_else(|| "external_refs, emails, phones".to_owned());
            return Err(named(Error::invalid(reject.reason).with("field", field)));
        }
        let done = self
            .store(ctx, vec![draft], None, |_| Ok(Vec::new()))
            .await
            .map_err(named)?;
        match done.outcomes.into_iter().flatten().next() {
            Some((id, change)) => Ok(Upserted {
                id,
                change,
                rejects: done.rejects,
            }),
            None => Err(named(Error::unexpected("a draft without an outcome"))),
        }
    }

    /// A customer by id. One that was merged into another is that other one: its `id` then is not the one asked for.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(&self, ctx: &Context, id: CustomerId) -> Result<Option<Customer>> {
        Ok(self.get_many(ctx, &[id]).await?.into_iter().next().flatten())
    }

    /// Customers by id, in the order asked; merged ones as in [`Customers::get`].
    ///
    /// # Errors
    /// The store's.
    pub async fn get_many(&self, ctx: &Context, ids: &[CustomerId]) -> Result<Vec<Option<Customer>>> {
        self.prepare().await?;
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let named = |error: Error| error.operation("customers.get");
        let mut loaded = shape::load(&*self.store, ctx, &ids).await.map_err(named)?;
        let missing: Vec<CustomerId> = ids
            .iter()
            .filter(|id| !loaded.contains_key(id))
            .map(|id| CustomerId::from(*id))
            .collect();
        let now = self.merged_into(ctx, &missing).await.map_err(named)?;
        if !now.is_empty() {
            let winners: Vec<Uuid> = now.values().map(|id| id.uuid()).collect();
            loaded.extend(shape::load(&*self.store, ctx, &winners).await.map_err(named)?);
        }
        let found = |id: &Uuid| {
            let now = now.get(&CustomerId::from(*id)).map_or(*id, |now| now.uuid());
            loaded.get(&now).map(|loaded| loaded.customer.clone())
        };
        Ok(ids.iter().map(found).collect())
    }

    /// The customer with this id in another system.
    ///
    /// # Errors
    /// The store's.
    pub async fn by_external(&self, ctx: &Context, external: &ExternalRef) -> Result<Option<Customer>> {
        let filter = Filter::eq("system", external.system.as_str())
            .and(Filter::eq("external_id", external.id.as_str()));
        self.owner(ctx, &EXTERNAL_REF, filter).await
    }

    /// The customer that an e-mail address or phone number (with country code) identifies, written in any form. A
    /// number that several share finds the first one who had it.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when it cannot be read; the store's.
    pub async fn by_contact(&self, ctx: &Context, kind: ContactKind, raw: &str) -> Result<Option<Customer>> {
        let value = match kind {
            ContactKind::Email => String::from(EmailAddress::parse(raw)?),
            ContactKind::Phone => String::from(PhoneNumber::parse(raw, None)?),
        };
        self.owner(
            ctx,
            &CONTACT_POINT,
            Filter::eq("match_key", shape::match_key(kind, &value)),
        )
        .await
    }

    async fn owner(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        filter: Filter,
    ) -> Result<Option<Customer>> {
        self.prepare().await?;
        let page = self.store.find(ctx, schema, &Query::new(filter).limit(1)).await?;
        match page.items.first() {
            Some(stored) => self.get(ctx, stored.record.uuid("customer_id")?.into()).await,
            None => Ok(None),
        }
    }

    /// Customers whose profile matches (see [`CUSTOMER`] for its fields), one page at a time, with their contact points
    /// and references. Conditions on time gone by and on segments are [resolved](Customers::resolve_filter).
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the field or setting; the store's.
    pub async fn find(&self, ctx: &Context, query: &Query) -> Result<Page<Customer>> {
        self.prepare().await?;
        let filter = self.resolve_filter(ctx, &query.filter).await?;
        let query = Query {
            filter: self.narrowed(ctx, &filter).await?,
            ..query.clone()
        };
        let page = self.store.find(ctx, &CUSTOMER, &query).await?;
        let loaded = shape::complete(&*self.store, ctx, page.items).await?;
        Ok(Page {
            items: loaded.into_iter().map(|loaded| loaded.customer).collect(),
            next: page.next,
        })
    }

    /// How many customers match.
    ///
    /// # Errors
    /// As [`Customers::find`].
    pub async fn count(&self, ctx: &Context, filter: &Filter) -> Result<u64> {
        self.prepare().await?;
        let filter = self.resolve_filter(ctx, filter).await?;
        let filter = self.narrowed(ctx, &filter).await?;
        self.store.count(ctx, &CUSTOMER, &filter).await
    }
}
