//! Two customers are one person: preview, merge, and take it back.
//!
//! - [`Merge::plan`] changes nothing and says what would happen: the survivor of every field, its rivals, and why; how
//!   many records of each kind would move.
//! - [`Merge::apply`] does exactly that, in one unit of work, or refuses: when a customer was changed meanwhile, when the
//!   outcome would be another one, when somebody said the two are different people, or when records of a kind nobody
//!   declared ([`References`]) name a customer that would go away.
//! - [`Merge::undo`] brings everything back as it was (versions start anew). Merges into one customer are undone in
//!   reverse order. What was changed meanwhile is kept where the merge did not touch it; where it did, the undo refuses
//!   and names the fields. Records added to the merged customer since then stay with it.
//!
//! A merged customer's record is gone, so that it is in no answer, count or segment; its id keeps resolving to the
//! survivor, however often that one is merged in turn. Consent events keep the subject they prove; the gate finds them
//! through the survivor, and the most restrictive one counts. Suppressions belong to addresses and are not touched.

mod apply;
mod gather;
mod journal;
mod points;
mod references;
mod resolve;
mod survive;
mod undo;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crm_core::customer::ContactPointId;
use crm_core::query::{Cursor, Filter, Page, Query};
use crm_core::record::{Record, Stored, Value, Version, Write};
use crm_core::{Actor, Context, CustomerId, Error, ErrorKind, Id, Result, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::Customers;

pub use journal::{DISTINCT_PAIR, MERGE, MERGE_IMAGE};
pub use references::{Reference, References, Rule};
pub use resolve::Resolved;
pub use survive::Strategy;
pub use undo::Unmerged;

/// The most customers that can ever become one: beyond this, it is not a person but a mistake.
pub const MAX_CLUSTER: usize = 1000;

/// How a merge decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MergeRules {
    /// How fields survive, by name: `name`, `addresses`, `tags`, `attributes.plan`; `attributes` for all attributes
    /// without a rule of their own. Without one: lists are united, of everything else the last observation survives.
    pub fields: BTreeMap<String, Strategy>,
    /// Sources for [`Strategy::MostTrusted`], the most trusted first.
    pub trusted: Vec<String>,
    /// How many customers may become one, with those merged before; at most [`MAX_CLUSTER`].
    pub max_cluster: usize,
    /// How many records one merge may move; all of them are held in memory at once.
    pub max_moved: u64,
}

impl Default for MergeRules {
    fn default() -> Self {
        Self {
            fields: BTreeMap::new(),
            trusted: Vec::new(),
            max_cluster: 50,
            max_moved: 200_000,
        }
    }
}

impl MergeRules {
    /// Sets how a field survives.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, strategy: Strategy) -> Self {
        self.fields.insert(field.into(), strategy);
        self
    }

    /// Sets the sources to trust, the most trusted first.
    #[must_use]
    pub fn trusting<S: Into<String>>(mut self, sources: impl IntoIterator<Item = S>) -> Self {
        self.trusted = sources.into_iter().map(Into::into).collect();
        self
    }

    fn strategy(&self, field: &str) -> Strategy {
        let general = || {
            field
                .starts_with("attributes.")
                .then(|| self.fields.get("attributes"))
                .flatten()
        };
        let usual = match field {
            "addresses" | "tags" => Strategy::Union,
            _ => Strategy::MostRecent,
        };
        self.fields.get(field).or_else(general).copied().unwrap_or(usual)
    }

    fn validate(&self) -> Result<()> {
        for (field, strategy) in &self.fields {
            let attribute = field == "attributes" || field.starts_with("attributes.");
            if !attribute && !matches!(field.as_str(), "name" | "addresses" | "tags") {
                return Err(Error::invalid(
                    "no such field; name, addresses, tags, attributes or attributes.<name>",
                )
                .with("field", field));
            }
            let items = matches!(strategy, Strategy::Sum | Strategy::Max | Strategy::Min);
            if (!attribute && items) || (field == "name" && *strategy == Strategy::Union) {
                return Err(
                    Error::invalid("this strategy does not fit the field; choose another one")
                        .with("field", field),
                );
            }
        }
        if !(2..=MAX_CLUSTER).contains(&self.max_cluster) {
            return Err(Error::invalid("2 to 1000 customers can become one").with("field", "max_cluster"));
        }
        Ok(())
    }
}

/// What a customer brings to a field.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Whose it is.
    pub customer: CustomerId,
    /// The value.
    pub value: Json,
    /// Who said so, if known.
    pub source: Option<String>,
    /// When that was; for an unknown source, when anything of the customer was last observed.
    pub observed_at: Timestamp,
}

/// What becomes of a field.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldPlan {
    /// `name`, `addresses`, `tags`, `attributes.plan`.
    pub field: String,
    /// All values there are, the winner's first.
    pub candidates: Vec<Candidate>,
    /// How the survivor was found.
    pub strategy: Strategy,
    /// The same in words.
    pub why: String,
    /// What the field will be.
    pub survivor: Json,
    /// Whose it is.
    pub from: Vec<CustomerId>,
    /// Whether a different value is given up.
    pub conflict: bool,
}

impl fmt::Debug for FieldPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FieldPlan")
            .field("field", &self.field)
            .field("candidates", &self.candidates.len())
            .field("why", &self.why)
            .field("from", &self.from)
            .field("conflict", &self.conflict)
            .finish_non_exhaustive()
    }
}

/// What becomes of a contact point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointPlan {
    /// The contact point.
    pub id: ContactPointId,
    /// Whose it is now.
    pub customer: CustomerId,
    /// The one of the same address it becomes part of.
    pub same_as: Option<ContactPointId>,
    /// Whether it will be the first of its kind.
    pub primary: bool,
}

/// What becomes of the records of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Moves {
    /// They will name the winner.
    pub moved: u64,
    /// The winner has the same already.
    pub dropped: u64,
    /// They stay as they are.
    pub kept: u64,
}

/// What a merge would do: to look at, to have approved (it can be stored as JSON), to apply. `Debug` shows no values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergePlan {
    /// Who stays.
    pub winner: CustomerId,
    /// Who becomes part of the winner.
    pub losers: Vec<CustomerId>,
    /// How it was decided.
    pub rules: MergeRules,
    /// What it is based on: the version of each customer, the winner's first.
    pub versions: Vec<Version>,
    /// What becomes of each field somebody has a value for.
    pub fields: Vec<FieldPlan>,
    /// What becomes of each contact point.
    pub contact_points: Vec<PointPlan>,
    /// What becomes of the other records of the losers, by schema.
    pub records: BTreeMap<String, Moves>,
}

impl MergePlan {
    /// The fields in which a different value is given up: what a person may want to look at.
    pub fn conflicts(&self) -> impl Iterator<Item = &FieldPlan> {
        self.fields.iter().filter(|field| field.conflict)
    }

    fn people(&self) -> impl Iterator<Item = CustomerId> {
        std::iter::once(self.winner).chain(self.losers.iter().copied())
    }
}

/// The id of a merge.
pub type MergeId = Id<MergeRecord>;

/// A merge that was applied.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeRecord {
    /// Its id.
    pub id: MergeId,
    /// Who stayed.
    pub winner: CustomerId,
    /// Who became part of the winner.
    pub losers: Vec<CustomerId>,
    /// Who did it.
    pub actor: Actor,
    /// What became of the records, by schema.
    pub records: BTreeMap<String, Moves>,
    /// When.
    pub applied_at: Timestamp,
    /// When it was taken back.
    pub undone_at: Option<Timestamp>,
}

const APPLIED: &str = "applied";
const UNDONE: &str = "undone";

impl MergeRecord {
    fn to_record(&self) -> Result<Record> {
        let json = |value: serde_json::Result<Json>| {
            value.map_err(|error| Error::unexpected("a merge as JSON").source(error))
        };
        let state = if self.undone_at.is_some() { UNDONE } else { APPLIED };
        Record::from_values(
            &MERGE,
            vec![
                self.winner.into(),
                json(serde_json::to_value(&self.losers))?.into(),
                state.into(),
                json(serde_json::to_value(&self.actor))?.into(),
                json(serde_json::to_value(&self.records))?.into(),
                self.applied_at.into(),
                self.undone_at.into(),
            ],
        )
    }

    fn from_stored(stored: &Stored) -> Result<Self> {
        let r = &stored.record;
        let actor = r
            .get("actor")
            .and_then(Value::as_json)
            .and_then(|json| Actor::deserialize(json).ok())
            .ok_or_else(|| r.damaged("actor"))?;
        Ok(Self {
            id: stored.id.into(),
            winner: r.uuid("winner_id")?.into(),
            losers: r.json("losers")?,
            actor,
            records: r.json("report")?,
            applied_at: r.timestamp("applied_at")?,
            undone_at: r.get("undone_at").and_then(Value::as_timestamp),
        })
    }
}

/// Merging customers; see [`Customers::merge`].
#[derive(Debug, Clone, Copy)]
pub struct Merge<'a> {
    pub(super) customers: &'a Customers,
}

impl Customers {
    /// Merges of customers: plan, apply, undo, and pairs that are never merged.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use std::sync::Arc;
    /// use crm_core::customer::{Draft, Provenance};
    /// use crm_core::memory::MemoryStore;
    /// use crm_core::{Context, RandomIds, SystemClock, TenantId, Timestamp};
    /// use crm_store::customers::{Customers, MergeRules};
    ///
    /// # let store = Arc::new(MemoryStore::new("records"));
    /// let customers = Customers::new(store, SystemClock::shared(), RandomIds::shared());
    /// let ctx = Context::new(TenantId::new("shop").unwrap());
    /// let told = |email: &str| {
    ///     let mut draft = Draft::new(Provenance::new("form", Timestamp::EPOCH));
    ///     draft.emails.push(email.into());
    ///     draft
    /// };
    /// let ana = customers.upsert(&ctx, told("ana@example.com")).await.unwrap().id;
    /// let old = customers.upsert(&ctx, told("ana.old@example.com")).await.unwrap().id;
    ///
    /// let plan = customers.merge().plan(&ctx, ana, &[old], MergeRules::default()).await.unwrap();
    /// assert_eq!(plan.conflicts().count(), 0);
    /// let merged = customers.merge().apply(&ctx, &plan).await.unwrap();
    /// assert_eq!(customers.get(&ctx, old).await.unwrap().unwrap().id, ana, "the old id resolves");
    /// customers.merge().undo(&ctx, merged.id).await.unwrap();
    /// assert_eq!(customers.get(&ctx, old).await.unwrap().unwrap().id, old);
    /// # });
    /// ```
    pub fn merge(&self) -> Merge<'_> {
        Merge { customers: self }
    }
}

impl Merge<'_> {
    /// A merge by its id.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(&self, ctx: &Context, merge: MergeId) -> Result<Option<MergeRecord>> {
        self.customers.prepare().await?;
        let stored = self.customers.store.get(ctx, &MERGE, &[merge.uuid()]).await?;
        let stored = stored.into_iter().flatten().next();
        stored.as_ref().map(MergeRecord::from_stored).transpose()
    }

    /// The merges into a customer, the latest first.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a wrong limit or cursor; the store's.
    pub async fn history(
        &self,
        ctx: &Context,
        customer: CustomerId,
        limit: u32,
        after: Option<Cursor>,
    ) -> Result<Page<MergeRecord>> {
        self.customers.prepare().await?;
        let query = Query::new(Filter::eq("winner_id", customer))
            .descending("applied_at")
            .limit(limit)
            .after(after);
        let page = self.customers.store.find(ctx, &MERGE, &query).await?;
        page.try_map(|stored| MergeRecord::from_stored(&stored))
    }

    /// Notes that two customers are different people: they, and whoever is merged with them, are never merged with each
    /// other. Saying it again changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when both are the same customer; [`ErrorKind::NotFound`] when one is not there.
    pub async fn distinct(&self, ctx: &Context, one: CustomerId, other: CustomerId) -> Result<()> {
        let named = |error: Error| error.operation("merge.distinct");
        self.customers.prepare().await?;
        let found = self.customers.resolve(ctx, &[one, other]).await.map_err(named)?;
        let mut now = Vec::new();
        for (asked, found) in [one, other].into_iter().zip(found) {
            let found = found.ok_or_else(|| {
                named(Error::new(ErrorKind::NotFound, "no such customer").with("customer_id", asked))
            })?;
            now.push(found.id);
        }
        let (Some(low), Some(high)) = (now.iter().min().copied(), now.iter().max().copied()) else {
            return Ok(());
        };
        if low == high {
            return Err(named(
                Error::invalid("these are one customer; undo their merge first").with("customer_id", low),
            ));
        }
        let actor = serde_json::to_value(ctx.acting())
            .map_err(|error| named(Error::unexpected("an actor as JSON").source(error)))?;
        let record = Record::from_values(
            &DISTINCT_PAIR,
            vec![
                low.into(),
                high.into(),
                actor.into(),
                self.customers.clock.now().into(),
            ],
        )?;
        let write = Write::insert_or_skip(self.customers.ids.fresh(), record);
        self.customers.store.apply(ctx, &[write]).await.map_err(named)?;
        Ok(())
    }

    /// Takes back [`Merge::distinct`]; answers whether it had been said.
    ///
    /// # Errors
    /// The store's.
    pub async fn allow(&self, ctx: &Context, one: CustomerId, other: CustomerId) -> Result<bool> {
        self.customers.prepare().await?;
        let pair = [one, other].map(|id| BTreeSet::from([id]));
        let [one, other] = pair;
        let found = self.pairs(ctx, &one, &other).await?;
        let writes: Vec<Write> = found
            .iter()
            .map(|stored| Write::delete(&DISTINCT_PAIR, stored.id, None))
            .collect();
        match self.customers.store.apply(ctx, &writes).await {
            Ok(_) => Ok(!writes.is_empty()),
            // Somebody else takes it back at the same moment.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(error.operation("merge.allow")),
        }
    }

    /// The pairs between members of two groups.
    async fn pairs(
        &self,
        ctx: &Context,
        some: &BTreeSet<CustomerId>,
        others: &BTreeSet<CustomerId>,
    ) -> Result<Vec<Stored>> {
        let within = |field: &str, ids: &BTreeSet<CustomerId>| Filter::one_of(field, ids.iter().copied());
        let mut found = Vec::new();
        for (low, high) in [(some, others), (others, some)] {
            let filter = within("low_id", low).and(within("high_id", high));
            found.extend(super::shape::all(&*self.customers.store, ctx, &DISTINCT_PAIR, filter).await?);
        }
        Ok(found)
    }
}
