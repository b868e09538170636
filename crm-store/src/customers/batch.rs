//! Many changes in one call: each for itself, or all or nothing.

use std::collections::{BTreeMap, HashSet};

use crm_core::capability::Reject;
use crm_core::customer::{Customer, Draft};
use crm_core::record::{Version, Write};
use crm_core::{Context, CustomerId, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::matching::{self, Change};
use super::timeline::{self, Appended, Event, Events};
use super::unique::is_taken;
use super::{Customers, Upserted, normalise};

/// The most operations of one unit of work.
pub const MAX_BATCH: usize = 1000;
/// How often a unit of work is planned anew after somebody else was faster.
const TRIES: usize = 100;

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Op {
    /// As [`Customers::create`].
    Create(Draft),
    /// As [`Customers::upsert`].
    Upsert(Draft),
    /// As [`Customers::update`].
    Update(Box<Customer>),
    /// As [`Customers::delete`].
    Delete(CustomerId),
    /// As [`Customers::append`].
    Append {
        /// Whose events.
        customer: CustomerId,
        /// Who tells them.
        source: String,
        /// What happened.
        events: Events,
    },
    /// As [`Customers::tag`].
    Tag {
        /// Whose tags.
        customer: CustomerId,
        /// Added.
        #[serde(default)]
        add: Vec<String>,
        /// Removed.
        #[serde(default)]
        remove: Vec<String>,
    },
}

/// What a change of a batch did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OpDone {
    /// A new customer is there.
    Created(CustomerId),
    /// A draft found or made its customer.
    Upserted(Upserted),
    /// The customer has this version now.
    Updated(Version),
    /// The customer is gone.
    Deleted,
    /// The events are there.
    Appended(Appended),
    /// The customer has these tags now.
    Tagged(Vec<String>),
}

/// Whether changes stand and fall together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Each for itself, in order: one that fails leaves the others alone.
    PerItem,
    /// All in one unit of work, or none. At most [`MAX_BATCH`]; no customer is changed twice, but by upserts.
    AllOrNothing,
}

impl Customers {
    /// Carries out many changes; one answer each, in order.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # use std::sync::Arc;
    /// # use crm_core::memory::MemoryStore;
    /// # use crm_core::{Context, RandomIds, SystemClock, TenantId, Timestamp};
    /// use crm_core::customer::{Draft, Provenance};
    /// use crm_store::customers::{Customers, Mode, Op};
    ///
    /// # let store = Arc::new(MemoryStore::new("records"));
    /// # let customers = Customers::new(store, SystemClock::shared(), RandomIds::shared());
    /// # let ctx = Context::new(TenantId::new("shop").unwrap());
    /// let told = |email: &str| {
    ///     let mut draft = Draft::new(Provenance::new("form", Timestamp::EPOCH));
    ///     draft.emails.push(email.into());
    ///     Op::Upsert(draft)
    /// };
    /// let done = customers.batch(&ctx, vec![told("ana@example.com"), told("nobody")], Mode::PerItem).await.unwrap();
    /// assert!(done[0].is_ok());
    /// assert_eq!(done[1].as_ref().unwrap_err().context("field"), Some("email"));
    ///
    /// let all = customers.batch(&ctx, vec![told("bea@example.com"), told("nobody")], Mode::AllOrNothing).await;
    /// assert_eq!(all.unwrap_err().context("item"), Some("1"));
    /// # });
    /// ```
    ///
    /// # Errors
    /// With [`Mode::AllOrNothing`] those of the change that failed, `item` being its position (from 0), and nothing is
    /// changed. With [`Mode::PerItem`] only for what concerns all; each change has its own.
    pub async fn batch(&self, ctx: &Context, ops: Vec<Op>, mode: Mode) -> Result<Vec<Result<OpDone>>> {
        self.prepare().await?;
        if mode == Mode::PerItem {
            let mut done = Vec::with_capacity(ops.len());
            for op in ops {
                done.push(self.one(ctx, op).await);
            }
            return Ok(done);
        }
        let named = |error: Error| error.operation("customers.batch");
        for attempt in 0..TRIES {
            let (done, writes) = self.batch_writes(ctx, &ops).await.map_err(named)?;
            match self.commit(ctx, &writes).await {
                Ok(_) => {
                    self.told(ctx, &ops).await.map_err(named)?;
                    return Ok(done.into_iter().map(Ok).collect());
                }
                Err(error) if super::import::is_race(&error) => tokio::task::yield_now().await,
                // Somebody may have taken the value at this moment: then an upsert does without it.
                Err(error) if is_taken(&error) && attempt == 0 => tokio::task::yield_now().await,
                Err(error) if is_taken(&error) => return Err(named(whose(&ops, &done, error))),
                Err(error) => return Err(named(error)),
            }
        }
        // Nobody else can have been faster that often: two of the changes do not go together.
        let (_, writes) = self.batch_writes(ctx, &ops).await.map_err(named)?;
        let done = self.commit(ctx, &writes).await.map_err(named);
        done.and(Err(Error::conflict(
            "others kept changing the same customers; look and try again",
        )
        .operation("customers.batch")))
    }

    async fn one(&self, ctx: &Context, op: Op) -> Result<OpDone> {
        Ok(match op {
            Op::Create(draft) => OpDone::Created(self.create(ctx, draft).await?.id),
            Op::Upsert(draft) => OpDone::Upserted(self.upsert(ctx, draft).await?),
            Op::Update(customer) => OpDone::Updated(self.update(ctx, &customer).await?.version),
            Op::Delete(customer) => {
                self.delete(ctx, customer).await?;
                OpDone::Deleted
            }
            Op::Append {
                customer,
                source,
                events,
            } => OpDone::Appended(self.append(ctx, customer, &source, events).await?),
            Op::Tag {
                customer,
                add,
                remove,
            } => {
                let texts = |tags: &'_ [String]| tags.to_vec();
                let (add, remove) = (texts(&add), texts(&remove));
                let add: Vec<&str> = add.iter().map(String::as_str).collect();
                let remove: Vec<&str> = remove.iter().map(String::as_str).collect();
                OpDone::Tagged(self.tag(ctx, customer, &add, &remove).await?)
            }
        })
    }

    /// After the unit of work: events of customers who were merged at that moment follow.
    pub(super) async fn told(&self, ctx: &Context, ops: &[Op]) -> Result<()> {
        let told: Vec<CustomerId> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Append { customer, .. } => Some(*customer),
                _ => None,
            })
            .collect();
        self.follow(ctx, &told).await
    }

    /// The writes of all changes as one unit of work, and what they will have done.
    pub(super) async fn batch_writes(&self, ctx: &Context, ops: &[Op]) -> Result<(Vec<OpDone>, Vec<Write>)> {
        if ops.len() > MAX_BATCH {
            return Err(
                Error::invalid("too many changes for one unit of work; make several batches")
                    .with("field", "ops")
                    .with("max", MAX_BATCH),
            );
        }
        let mut done: BTreeMap<usize, OpDone> = BTreeMap::new();
        let mut writes = Vec::new();
        let mut changed: HashSet<CustomerId> = HashSet::new();
        self.upserts(ctx, ops, &mut done, &mut writes, &mut changed)
            .await?;
        let mut events: HashSet<(bool, String, String)> = HashSet::new();
        for (item, op) in ops.iter().enumerate() {
            let at = |error: Error| error.with("item", item);
            let mut only = |id: CustomerId| match changed.insert(id) {
                true => Ok(()),
                false => Err(
                    Error::invalid("the batch changes a customer twice; put the changes into one")
                        .with("field", "ops")
                        .with("item", item),
                ),
            };
            let answer = match op {
                Op::Upsert(_) => continue,
                Op::Create(draft) => {
                    let (id, more) = self.create_writes(ctx, draft.clone()).await.map_err(at)?;
                    writes.extend(more);
                    OpDone::Created(id)
                }
                Op::Update(customer) => {
                    only(customer.id)?;
                    writes.extend(self.update_writes(ctx, customer).await.map_err(at)?);
                    OpDone::Updated(customer.version + 1)
                }
                Op::Delete(customer) => {
                    only(*customer)?;
                    writes.extend(self.delete_writes(ctx, *customer).await.map_err(at)?);
                    OpDone::Deleted
                }
                Op::Tag {
                    customer,
                    add,
                    remove,
                } => {
                    only(self.current(ctx, *customer).await.map_err(at)?)?;
                    let (tags, more) = self.tag_writes(ctx, *customer, add, remove).await.map_err(at)?;
                    writes.extend(more);
                    OpDone::Tagged(tags)
                }
                Op::Append {
                    customer,
                    source,
                    events: told,
                } => {
                    let (appended, more) = self
                        .append_writes(ctx, *customer, source, told, &mut events)
                        .await
                        .map_err(at)?;
                    writes.extend(more);
                    OpDone::Appended(appended)
                }
            };
            done.insert(item, answer);
        }
        Ok((done.into_values().collect(), writes))
    }

    /// All upserts are matched together, so that drafts of one person find each other.
    async fn upserts(
        &self,
        ctx: &Context,
        ops: &[Op],
        done: &mut BTreeMap<usize, OpDone>,
        writes: &mut Vec<Write>,
        changed: &mut HashSet<CustomerId>,
    ) -> Result<()> {
        let declared = self.declared(ctx).await?;
        let (mut items, mut drafts, mut aside) = (Vec::new(), Vec::new(), Vec::new());
        for (item, op) in ops.iter().enumerate() {
            let Op::Upsert(draft) = op else { continue };
            let (mut clean, mut rejects) = normalise::clean(draft.clone());
            normalise::fit(&declared, &mut clean, &mut rejects);
            if !clean.is_identified() {
                let reject: Option<Reject> = rejects.into_iter().next();
                let (reason, field) = reject.map(|one| (one.reason, one.field)).unwrap_or_default();
                return Err(Error::invalid(reason)
                    .with(
                        "field",
                        field.unwrap_or_else(|| "external_refs, emails, phones".to_owned()),
                    )
                    .with("item", item));
            }
            items.push(item);
            drafts.push(clean);
            aside.push(rejects);
        }
        if drafts.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let plan = matching::plan(&*self.store, ctx, &*self.ids, now, (&declared, &drafts)).await?;
        let mut from = 0;
        for (((item, (id, change)), mut rejects), to) in
            items.into_iter().zip(plan.outcomes).zip(aside).zip(plan.bounds)
        {
            rejects.extend(plan.rejects.get(from..to).unwrap_or_default().iter().cloned());
            from = to;
            if change != Change::Unchanged {
                changed.insert(id);
            }
            done.insert(item, OpDone::Upserted(Upserted { id, change, rejects }));
        }
        writes.extend(plan.writes);
        Ok(())
    }

    async fn append_writes(
        &self,
        ctx: &Context,
        customer: CustomerId,
        source: &str,
        told: &Events,
        seen: &mut HashSet<(bool, String, String)>,
    ) -> Result<(Appended, Vec<Write>)> {
        timeline::check(source, told)?;
        let customer = self.current(ctx, customer).await?;
        let orders = told
            .orders
            .iter()
            .map(|one| timeline::order(&*self.ids, customer, source, one))
            .collect();
        let interactions = told
            .interactions
            .iter()
            .map(|one| timeline::interaction(&*self.ids, customer, source, one))
            .collect();
        let mut orders: Vec<crm_core::activity::Order> = timeline::unknown(&*self.store, ctx, orders).await?;
        let mut interactions: Vec<crm_core::activity::Interaction> =
            timeline::unknown(&*self.store, ctx, interactions).await?;
        let mut fresh =
            |order: bool, (source, id): (&str, &str)| seen.insert((order, source.to_owned(), id.to_owned()));
        orders.retain(|one| fresh(true, one.key()));
        interactions.retain(|one| fresh(false, one.key()));
        let writes = [timeline::inserts(&orders)?, timeline::inserts(&interactions)?].concat();
        let given = (told.orders.len() + told.interactions.len()) as u64;
        let (orders, interactions) = (orders.len() as u64, interactions.len() as u64);
        let appended = Appended {
            orders,
            interactions,
            known: given - orders - interactions,
        };
        Ok((appended, writes))
    }

    /// The writes that remove a customer at once; one with a longer timeline is removed by [`Customers::delete`].
    async fn delete_writes(&self, ctx: &Context, customer: CustomerId) -> Result<Vec<Write>> {
        let parts = self.parts(ctx, customer).await?;
        let mut writes = Vec::new();
        for (schema, filter) in parts.swept {
            let rows = super::shape::all(&*self.store, ctx, schema, filter).await?;
            writes.extend(
                rows.iter()
                    .map(|row| Write::delete(schema, row.id, Some(row.version))),
            );
            if writes.len() > 10 * MAX_BATCH {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "the customer's timeline is too long to be removed within a batch; use Customers::delete",
                )
                .with("field", "ops")
                .with("customer_id", customer));
            }
        }
        writes.extend(parts.last);
        Ok(writes)
    }
}

/// Says which change wanted a value that is another customer's.
fn whose(ops: &[Op], done: &[OpDone], error: Error) -> Error {
    let wanted_by = error.context("wanted_by").map(str::to_owned);
    let about = |(op, done): (&Op, &OpDone)| match (op, done) {
        (_, OpDone::Created(id)) => Some(id.to_string()),
        (_, OpDone::Upserted(upserted)) => Some(upserted.id.to_string()),
        (Op::Update(customer), _) => Some(customer.id.to_string()),
        _ => None,
    };
    // The last one that wrote the profile: what came before was free.
    let item = ops
        .iter()
        .zip(done)
        .rposition(|change| wanted_by.is_some() && about(change) == wanted_by);
    match item {
        Some(item) => error.with("item", item),
        None => error,
    }
}
