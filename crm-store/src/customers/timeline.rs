//! The timeline: taken in at least once, kept exactly once by source and event.

use std::collections::{BTreeMap, HashSet};

use crm_core::activity::{INTERACTION, Interaction, ORDER, Order};
use crm_core::capability::RecordStore;
use crm_core::customer::{InteractionDraft, OrderDraft};
use crm_core::query::{Cursor, Filter, Page, Query};
use crm_core::record::{Entity, Schema, Stored, Write};
use crm_core::{Context, CustomerId, Error, ErrorKind, IdSource, Result};

use serde::{Deserialize, Serialize};

use super::Customers;

/// Events of one question.
const EVENTS: usize = 2000;

/// Orders and interactions to add to a customer's timeline.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Events {
    /// Purchases.
    pub orders: Vec<OrderDraft>,
    /// Other events.
    pub interactions: Vec<InteractionDraft>,
}

impl From<Vec<OrderDraft>> for Events {
    fn from(orders: Vec<OrderDraft>) -> Self {
        Self {
            orders,
            interactions: Vec::new(),
        }
    }
}

impl From<OrderDraft> for Events {
    fn from(order: OrderDraft) -> Self {
        Self {
            orders: vec![order],
            interactions: Vec::new(),
        }
    }
}
impl From<InteractionDraft> for Events {
    fn from(interaction: InteractionDraft) -> Self {
        Self {
            orders: Vec::new(),
            interactions: vec![interaction],
        }
    }
}

/// What was new among appended events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Appended {
    /// Orders added.
    pub orders: u64,
    /// Interactions added.
    pub interactions: u64,
    /// Events that were there already.
    pub known: u64,
}

/// What lies on the timeline.
pub(super) trait Event: Entity {
    /// Source, and id there.
    fn key(&self) -> (&str, &str);
}
impl Event for Order {
    fn key(&self) -> (&str, &str) {
        (&self.source, &self.event_id)
    }
}
impl Event for Interaction {
    fn key(&self) -> (&str, &str) {
        (&self.source, &self.event_id)
    }
}

pub(super) fn order(ids: &dyn IdSource, customer: CustomerId, source: &str, draft: &OrderDraft) -> Order {
    Order {
        id: ids.fresh().into(),
        customer_id: customer,
        at: draft.at,
        total: draft.total,
        items: draft.items,
        source: source.to_owned(),
        event_id: draft.event_id.clone(),
    }
}

pub(super) fn interaction(
    ids: &dyn IdSource,
    customer: CustomerId,
    source: &str,
    draft: &InteractionDraft,
) -> Interaction {
    Interaction {
        id: ids.fresh().into(),
        customer_id: customer,
        at: draft.at,
        kind: draft.kind.clone(),
        source: source.to_owned(),
        event_id: draft.event_id.clone(),
        data: draft.data.clone(),
    }
}

/// Those the store does not have yet, each once.
pub(super) async fn unknown<E: Event>(
    store: &dyn RecordStore,
    ctx: &Context,
    events: Vec<E>,
) -> Result<Vec<E>> {
    let mut asked: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in &events {
        let (source, id) = event.key();
        asked.entry(source.to_owned()).or_default().push(id.to_owned());
    }
    let mut known: HashSet<(String, String)> = HashSet::new();
    for (source, ids) in asked {
        for ids in ids.chunks(EVENTS) {
            let filter = Filter::eq("source", source.as_str())
                .and(Filter::one_of("event_id", ids.iter().map(String::as_str)));
            for stored in super::shape::all(store, ctx, E::schema(), filter).await? {
                known.insert((source.clone(), stored.record.text("event_id")?.to_owned()));
            }
        }
    }
    let new = |event: &E| {
        let (source, id) = event.key();
        known.insert((source.to_owned(), id.to_owned()))
    };
    let mut new = new;
    Ok(events.into_iter().filter(|event| new(event)).collect())
}

pub(super) fn inserts<E: Event>(events: &[E]) -> Result<Vec<Write>> {
    events
        .iter()
        .map(|event| Ok(Write::insert(event.record_id(), event.to_record()?)))
        .collect()
}

/// What every event needs.
pub(super) fn check(source: &str, events: &Events) -> Result<()> {
    let wrong = |field: &'static str| {
        Err(Error::invalid("an event needs a source and its id there").with("field", field))
    };
    if source.trim().is_empty() {
        return wrong("source");
    }
    let ids = events
        .orders
        .iter()
        .map(|o| &o.event_id)
        .chain(events.interactions.iter().map(|i| &i.event_id));
    if ids.into_iter().any(|id| id.trim().is_empty() || id.len() > 255) {
        return wrong("event_id");
    }
    let kinds = events.interactions.iter().map(|i| &i.kind);
    if kinds
        .into_iter()
        .any(|kind| kind.trim().is_empty() || kind.len() > 255)
    {
        return Err(Error::invalid("an interaction has a kind of 1 to 255 characters").with("field", "kind"));
    }
    Ok(())
}

impl Customers {
    /// Adds events to a customer's timeline. An event that `source` already told is left out, so it is safe to deliver
    /// again.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such customer; [`ErrorKind::Invalid`] naming the field of an event that
    /// cannot be stored (then none is).
    pub async fn append(
        &self,
        ctx: &Context,
        customer: CustomerId,
        source: &str,
        events: impl Into<Events> + Send,
    ) -> Result<Appended> {
        let events: Events = events.into();
        self.append_all(ctx, customer, source, events)
            .await
            .map_err(|error| error.operation("customers.append"))
    }

    async fn append_all(
        &self,
        ctx: &Context,
        customer: CustomerId,
        source: &str,
        events: Events,
    ) -> Result<Appended> {
        self.prepare().await?;
        check(source, &events)?;
        let customer = match self.resolve(ctx, &[customer]).await?.into_iter().flatten().next() {
            Some(found) => found.id,
            None => {
                return Err(Error::new(ErrorKind::NotFound, "no such customer").with("customer_id", customer));
            }
        };
        let given = (events.orders.len() + events.interactions.len()) as u64;
        let orders = events
            .orders
            .iter()
            .map(|o| order(&*self.ids, customer, source, o))
            .collect();
        let interactions = events
            .interactions
            .iter()
            .map(|i| interaction(&*self.ids, customer, source, i))
            .collect();
        let (mut orders, mut interactions): (Vec<Order>, Vec<Interaction>) = (orders, interactions);
        loop {
            orders = unknown(&*self.store, ctx, orders).await?;
            interactions = unknown(&*self.store, ctx, interactions).await?;
            let writes = [inserts(&orders)?, inserts(&interactions)?].concat();
            match self.store.apply(ctx, &writes).await {
                Ok(_) => {
                    // Merged at this very moment: what was just told follows.
                    self.follow(ctx, &[customer]).await?;
                    break;
                }
                // Somebody else told some of them meanwhile; there are fewer left each time.
                Err(error) if super::import::is_race(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let (orders, interactions) = (orders.len() as u64, interactions.len() as u64);
        Ok(Appended {
            orders,
            interactions,
            known: given - orders - interactions,
        })
    }

    /// Takes what was told of customers who turn out to be merged over to who they are now.
    pub(super) async fn follow(&self, ctx: &Context, customers: &[CustomerId]) -> Result<()> {
        if customers.is_empty() {
            return Ok(());
        }
        for found in self.resolve(ctx, customers).await?.into_iter().flatten() {
            if let Some(merged) = found.moved_from {
                self.merge().settle(ctx, merged).await?;
            }
        }
        Ok(())
    }

    /// A page of what belongs to a customer, or to the one it was merged into.
    async fn owned(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        customer: CustomerId,
        limit: u32,
        after: Option<Cursor>,
    ) -> Result<Page<Stored>> {
        self.prepare().await?;
        let page = |customer: CustomerId| {
            Query::new(Filter::eq("customer_id", customer))
                .descending("at")
                .limit(limit)
                .after(after.clone())
        };
        let found = self.store.find(ctx, schema, &page(customer)).await?;
        if !found.items.is_empty() {
            return Ok(found);
        }
        match self.merged_into(ctx, &[customer]).await?.get(&customer) {
            Some(now) => self.store.find(ctx, schema, &page(*now)).await,
            None => Ok(found),
        }
    }

    /// A customer's interactions, the latest first.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a wrong limit or cursor; the store's.
    pub async fn timeline(
        &self,
        ctx: &Context,
        customer: CustomerId,
        limit: u32,
        after: Option<Cursor>,
    ) -> Result<Page<Interaction>> {
        self.owned(ctx, &INTERACTION, customer, limit, after)
            .await?
            .try_map(Interaction::from_stored)
    }

    /// A customer's orders, the latest first.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a wrong limit or cursor; the store's.
    pub async fn orders(
        &self,
        ctx: &Context,
        customer: CustomerId,
        limit: u32,
        after: Option<Cursor>,
    ) -> Result<Page<Order>> {
        self.owned(ctx, &ORDER, customer, limit, after)
            .await?
            .try_map(Order::from_stored)
    }
}
