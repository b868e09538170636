//! Segments: named groups of customers, by hand, by rule or frozen, nested in each other, and kept up to date on change.
//!
//! - A **manual** segment has the members that were added.
//! - A **dynamic** one has those that match its rule; customers added or removed by hand are exceptions to the rule. It is
//!   evaluated when it is asked, or its members are stored ([`Segments::materialise`]) and [`Segments::refresh`] brings
//!   them up to date from the change feed, evaluating only who was touched.
//! - A **snapshot** is frozen, with its lineage.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # use std::sync::Arc;
//! use crm_core::query::{Filter, Relation, Span};
//! # use crm_core::customer::{Draft, OrderDraft, Provenance};
//! # use crm_core::activity::Money;
//! # use crm_core::memory::MemoryStore;
//! # use crm_core::{Clock, Context, ManualClock, RandomIds, TenantId, Timestamp};
//! # use crm_store::Customers;
//! use crm_store::segments::NewSegment;
//! # let clock = Arc::new(ManualClock::at(Timestamp::from_ymd(2026, 6, 1).unwrap()));
//! # let customers = Customers::new(Arc::new(MemoryStore::new("records")), clock.clone(), RandomIds::shared());
//! # let ctx = Context::new(TenantId::new("shop").unwrap());
//! # let mut draft = Draft::new(Provenance::new("web-shop", Timestamp::EPOCH));
//! # draft.emails.push("ana@example.com".into());
//! # let ana = customers.upsert(&ctx, draft).await.unwrap().id;
//! # let order = |id: &str| OrderDraft { at: clock.now(), total: Money::new(900, "EUR").unwrap(), items: 1, event_id: id.into() };
//! # customers.append(&ctx, ana, "web-shop", vec![order("1"), order("2")]).await.unwrap();
//!
//! // Ordered at least twice in the last 90 days.
//! let rule = Filter::at_least(2, Relation::ORDERS, Filter::ago("at", Span::days(90)));
//! let segments = customers.segments();
//! let regulars = segments.create(&ctx, NewSegment::dynamic("regulars", rule)).await.unwrap();
//! assert!(segments.contains(&ctx, regulars.id, ana).await.unwrap());
//!
//! let why = segments.explain(&ctx, ana, regulars.id).await.unwrap();
//! assert_eq!(why.rule.unwrap().seen, Some(2_i64.into()));
//!
//! // By hand, whatever the rule says.
//! segments.remove(&ctx, regulars.id, &[ana]).await.unwrap();
//! assert_eq!(customers.count(&ctx, &Filter::InSegment(regulars.id.uuid())).await.unwrap(), 0);
//! # });
//! ```

mod account;
mod ask;
mod check;
mod explain;
mod full;
mod hand;
mod refresh;
mod snapshot;
mod touch;

use std::collections::{BTreeMap, BTreeSet};

use crm_core::capability::RecordStore;
use crm_core::customer::CUSTOMER;
use crm_core::query::{Cursor, Filter, Page, Query};
use crm_core::record::{Entity, Field, FieldType, Index, Schema, Stored, Write};
use crm_core::segment::{
    Definitions, SEGMENT, SEGMENT_MEMBER, SEGMENT_OVERRIDE, Segment, SegmentId, SegmentKind,
};
use crm_core::{Context, Error, ErrorKind, Result, Uuid};

use account::State;

use crate::Customers;

pub use account::SegmentEvent;
pub use ask::Estimate;
pub use check::DriftReport;
pub use explain::{Explanation, Override, Reason};
pub use refresh::{Budget, RefreshReport};

/// Who became, or ceased to be, a member of a segment that keeps an account of its members. Per customer, `delta` is 1
/// and -1 in turn, in the order of `round`.
pub static SEGMENT_EVENT: Schema = Schema {
    name: "crm_segment_event",
    fields: &[
        Field::new("segment_id", FieldType::Uuid),
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("delta", FieldType::Int),
        Field::new("round", FieldType::Int),
        Field::new("cause", FieldType::Text),
        Field::new("actor", FieldType::Text).pseudonym(),
        Field::new("at", FieldType::Timestamp),
    ],
    indexes: &[
        Index::unique("crm_segment_event_key", &["segment_id", "customer_id", "round"]),
        Index::new("crm_segment_event_round", &["segment_id", "round"]),
        Index::new("crm_segment_event_customer", &["customer_id"]),
    ],
};

/// Records of one page: the most a store gives.
const PAGE: u32 = 10_000;
/// Records written or removed in one unit of work.
const BATCH: usize = 1_000;
/// How deep segments can be nested; the resolution's own limit.
const DEPTH: usize = 16;
/// The record by which definitions are written one after another, so that two cannot close a circle together.
const GUARD: Uuid = Uuid::nil();

/// A segment to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSegment {
    /// Its name, unique within the tenant.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// The rule; without one it is manual.
    pub rule: Option<Filter>,
}

impl NewSegment {
    /// A segment whose members are added by hand.
    pub fn manual(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            rule: None,
        }
    }

    /// A segment of all customers that match; with [`Filter::Ago`] and [`Filter::InSegment`].
    pub fn dynamic(name: impl Into<String>, rule: Filter) -> Self {
        Self {
            rule: Some(rule),
            ..Self::manual(name)
        }
    }

    /// Says what it is, for people.
    #[must_use]
    pub fn described(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }
}

/// The segments of every tenant, on the store of [`Customers`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Segments {
    customers: Customers,
}

impl Customers {
    /// Segments of these customers.
    pub fn segments(&self) -> Segments {
        Segments {
            customers: self.clone(),
        }
    }

    /// A filter on customers as a store understands it: time gone by is counted back from now, segments are replaced by
    /// what makes a customer a member. Every method that takes a filter does so itself; for those who ask the store.
    ///
    /// # Errors
    /// As [`crm_core::segment::resolve`].
    pub async fn resolve_filter(&self, ctx: &Context, filter: &Filter) -> Result<Filter> {
        crm_core::segment::resolve(&*self.store, ctx, self.clock.now(), filter).await
    }
}

/// Which segments ask about which.
type Graph = BTreeMap<SegmentId, BTreeSet<SegmentId>>;

impl Segments {
    fn store(&self) -> &dyn RecordStore {
        &*self.customers.store
    }

    /// Makes a segment.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] with `field=name` when the name is taken; [`ErrorKind::Invalid`] naming what is wrong with
    /// the rule; [`ErrorKind::NotFound`] naming a segment it asks about that is not there.
    pub async fn create(&self, ctx: &Context, new: NewSegment) -> Result<Segment> {
        let segment = Segment {
            id: self.customers.ids.fresh().into(),
            version: 1,
            name: new.name,
            description: new.description,
            kind: new
                .rule
                .map_or(SegmentKind::Manual, |filter| SegmentKind::Dynamic { filter }),
            size: 0,
            created_at: self.customers.clock.now(),
        };
        let write = Write::insert(segment.id, segment.to_record()?);
        self.save(ctx, &segment, write)
            .await
            .map_err(|error| error.operation("segments.create"))?;
        Ok(segment)
    }

    /// Stores a segment's name, description or rule as given. Its `version` must be the one that was read; its kind stays.
    /// A dynamic one whose members are stored is evaluated anew by the next [`Segments::refresh`].
    ///
    /// # Errors
    /// As [`Segments::create`]; [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] with `index=version` when it was changed
    /// meanwhile.
    pub async fn update(&self, ctx: &Context, segment: &Segment) -> Result<Segment> {
        let named = |error: Error| error.operation("segments.update");
        let known = self.there(ctx, segment.id).await.map_err(named)?;
        let stays = match (&known.kind, &segment.kind) {
            (SegmentKind::Dynamic { .. }, SegmentKind::Dynamic { .. }) => true,
            (a, b) => a == b,
        };
        if !stays {
            return Err(named(
                Error::invalid("a segment stays manual, dynamic, or the snapshot it is; make another one")
                    .with("field", "kind"),
            ));
        }
        let mut changed = segment.clone();
        (changed.size, changed.created_at) = (known.size, known.created_at);
        let write = Write::update(changed.id, segment.version, changed.to_record().map_err(named)?);
        self.save(ctx, &changed, write).await.map_err(named)?;
        changed.version = segment.version.saturating_add(1);
        Ok(changed)
    }

    /// Checks a definition and writes it, while no other definition is written.
    async fn save(&self, ctx: &Context, segment: &Segment, write: Write) -> Result<()> {
        self.customers.prepare().await?;
        if segment.name.trim().is_empty() || segment.name.len() > 255 {
            return Err(Error::invalid("a segment has a name of 1 to 255 characters").with("field", "name"));
        }
        loop {
            let guard = State::read(self.store(), ctx, GUARD).await?;
            if let SegmentKind::Dynamic { filter } = &segment.kind {
                self.check_rule(ctx, segment.id, filter).await?;
            }
            match self
                .store()
                .apply(ctx, &[guard.write(GUARD)?, write.clone()])
                .await
            {
                Ok(_) => return Ok(()),
                Err(error) if account::is_race(&error) => tokio::task::yield_now().await,
                Err(error) if error.context("index") == Some("crm_segment_name") => {
                    return Err(Error::conflict("a segment of this name is there already")
                        .with("field", "name")
                        .source(error));
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn check_rule(&self, ctx: &Context, id: SegmentId, rule: &Filter) -> Result<()> {
        let within = |filter: &Filter| match filter {
            Filter::Related(related) => related.filter.any(&|f| matches!(f, Filter::InSegment(_))),
            _ => false,
        };
        if rule.any(&within) {
            return Err(
                Error::invalid("an order or event is in no segment; ask about the customer")
                    .with("field", "rule"),
            );
        }
        let read_back = serde_json::to_value(rule).and_then(serde_json::from_value::<Filter>);
        if read_back.ok().as_ref() != Some(rule) {
            return Err(Error::invalid(
                "the rule cannot be kept: it asks about related records or values that cannot be read back from data",
            )
            .with("field", "rule"));
        }
        let mut graph = self.graph(ctx).await?;
        let asked = Definitions::named_in(rule);
        if let Some(missing) = asked
            .iter()
            .find(|other| **other != id && !graph.contains_key(other))
        {
            return Err(Error::new(
                ErrorKind::NotFound,
                "the rule asks about a segment that is not there",
            )
            .with("segment", missing));
        }
        graph.insert(id, asked);
        let mut depths = BTreeMap::new();
        for segment in graph.keys() {
            depth(&graph, *segment, &mut Vec::new(), &mut depths)?;
        }
        let now = self.customers.clock.now();
        let resolved = crm_core::segment::resolve(self.store(), ctx, now, rule).await?;
        resolved.validate(&CUSTOMER)
    }

    async fn graph(&self, ctx: &Context) -> Result<Graph> {
        let mut graph = Graph::new();
        for stored in all(self.store(), ctx, &SEGMENT, Filter::All).await? {
            let segment = Segment::from_stored(stored)?;
            let asked = match &segment.kind {
                SegmentKind::Dynamic { filter } => Definitions::named_in(filter),
                _ => BTreeSet::new(),
            };
            graph.insert(segment.id, asked);
        }
        Ok(graph)
    }

    /// The segments whose rules ask about this one.
    ///
    /// # Errors
    /// The store's.
    pub async fn dependents(&self, ctx: &Context, id: SegmentId) -> Result<Vec<SegmentId>> {
        self.customers.prepare().await?;
        let graph = self.graph(ctx).await?;
        Ok(users(&graph, id))
    }

    /// A segment by id.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(&self, ctx: &Context, id: SegmentId) -> Result<Option<Segment>> {
        self.customers.prepare().await?;
        let found = self.store().get(ctx, &SEGMENT, &[id.uuid()]).await?;
        found
            .into_iter()
            .flatten()
            .next()
            .map(Segment::from_stored)
            .transpose()
    }

    /// A segment by name.
    ///
    /// # Errors
    /// The store's.
    pub async fn by_name(&self, ctx: &Context, name: &str) -> Result<Option<Segment>> {
        self.customers.prepare().await?;
        let query = Query::new(Filter::eq("name", name)).limit(1);
        let page = self.store().find(ctx, &SEGMENT, &query).await?;
        page.items
            .into_iter()
            .next()
            .map(Segment::from_stored)
            .transpose()
    }

    /// All segments, by name, page by page.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a wrong limit or cursor; the store's.
    pub async fn list(&self, ctx: &Context, limit: u32, after: Option<Cursor>) -> Result<Page<Segment>> {
        self.customers.prepare().await?;
        let query = Query::new(Filter::All)
            .ascending("name")
            .limit(limit)
            .after(after);
        self.store()
            .find(ctx, &SEGMENT, &query)
            .await?
            .try_map(Segment::from_stored)
    }

    async fn there(&self, ctx: &Context, id: SegmentId) -> Result<Segment> {
        self.get(ctx, id)
            .await?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such segment").with("segment", id))
    }

    /// Removes a segment with its members and their history. Members go after the segment, in bounded steps: stopped
    /// halfway, the call can be repeated.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there was nothing of it; [`ErrorKind::Conflict`] with `used_by` when rules of other
    /// segments ask about it.
    pub async fn delete(&self, ctx: &Context, id: SegmentId) -> Result<()> {
        let named = |error: Error| error.operation("segments.delete");
        let there = self.remove_definition(ctx, id).await.map_err(named)?;
        let mut removed = 0;
        for schema in [&SEGMENT_MEMBER, &SEGMENT_OVERRIDE, &SEGMENT_EVENT] {
            removed += self.sweep(ctx, schema, id).await.map_err(named)?;
        }
        if !there && removed == 0 {
            return Err(named(
                Error::new(ErrorKind::NotFound, "no such segment").with("segment", id),
            ));
        }
        Ok(())
    }

    async fn remove_definition(&self, ctx: &Context, id: SegmentId) -> Result<bool> {
        loop {
            let Some(segment) = self.get(ctx, id).await? else {
                return Ok(false);
            };
            let guard = State::read(self.store(), ctx, GUARD).await?;
            let users = users(&self.graph(ctx).await?, id);
            if !users.is_empty() {
                let users: Vec<String> = users.iter().map(ToString::to_string).collect();
                return Err(Error::conflict(
                    "rules of other segments ask about this one; change or delete them first",
                )
                .with("used_by", users.join(",")));
            }
            let mut writes = vec![
                guard.write(GUARD)?,
                Write::delete(&SEGMENT, id, Some(segment.version)),
            ];
            let state = State::read(self.store(), ctx, id.uuid()).await?;
            writes.extend(state.delete(id.uuid()));
            match self.store().apply(ctx, &writes).await {
                Ok(_) => return Ok(true),
                Err(error) if account::is_race(&error) => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes the records of a segment.
    async fn sweep(&self, ctx: &Context, schema: &'static Schema, id: SegmentId) -> Result<u64> {
        let query = Query::new(Filter::eq("segment_id", id)).limit(BATCH as u32);
        let mut removed = 0;
        loop {
            let page = self.store().find(ctx, schema, &query).await?;
            if page.items.is_empty() {
                return Ok(removed);
            }
            let writes: Vec<Write> = page
                .items
                .iter()
                .map(|stored| Write::delete(schema, stored.id, None))
                .collect();
            match self.store().apply(ctx, &writes).await {
                Ok(_) => removed += writes.len() as u64,
                // Somebody else removes the same ones: fewer are left.
                Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
    }
}

fn users(graph: &Graph, id: SegmentId) -> Vec<SegmentId> {
    let uses = graph.iter().filter(|(_, asked)| asked.contains(&id));
    uses.map(|(user, _)| *user).collect()
}

/// How many levels there are below and with a segment.
fn depth(
    graph: &Graph,
    id: SegmentId,
    path: &mut Vec<SegmentId>,
    known: &mut BTreeMap<SegmentId, usize>,
) -> Result<usize> {
    if let Some(depth) = known.get(&id) {
        return Ok(*depth);
    }
    if path.contains(&id) {
        return Err(Error::invalid("the rule would nest segments in a circle")
            .with("field", "rule")
            .with("segment", id));
    }
    path.push(id);
    let mut deepest = 0;
    for other in graph.get(&id).into_iter().flatten() {
        deepest = deepest.max(depth(graph, *other, path, known)?);
    }
    path.pop();
    if deepest >= DEPTH {
        return Err(Error::invalid("segments are nested more than 16 levels deep")
            .with("field", "rule")
            .with("segment", id));
    }
    known.insert(id, deepest + 1);
    Ok(deepest + 1)
}

/// All records that match; for questions that are bounded by what is asked.
async fn all(
    store: &dyn RecordStore,
    ctx: &Context,
    schema: &'static Schema,
    filter: Filter,
) -> Result<Vec<Stored>> {
    let mut query = Query::new(filter).limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = store.find(ctx, schema, &query).await?;
        found.extend(page.items);
        match page.next {
            None => return Ok(found),
            next => query.after = next,
        }
    }
}

/// The ids of all records that match, from a UUID column.
async fn column(
    store: &dyn RecordStore,
    ctx: &Context,
    schema: &'static Schema,
    filter: Filter,
    name: &str,
) -> Result<Vec<Uuid>> {
    let mut ids = Vec::new();
    let scan = crm_core::query::Scan::new(filter, [name]);
    store
        .scan(ctx, schema, &scan, &mut |table| {
            let column = table.column(name)?;
            ids.extend((0..table.rows()).filter_map(|row| column.uuid_at(row)));
            Ok(())
        })
        .await?;
    Ok(ids)
}
