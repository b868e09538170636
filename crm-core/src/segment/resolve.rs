//! Conditions on segments, put into words that stores know.

use std::collections::{BTreeSet, HashMap};

use super::{SEGMENT, SEGMENT_OVERRIDE, SEGMENT_STATE, Segment, SegmentId, SegmentKind};
use crate::capability::RecordStore;
use crate::query::{Aggregate, Filter, Measure, Relation};
use crate::record::{Entity, Value};
use crate::{Context, Error, ErrorKind, Result, Timestamp, Uuid};

/// How deep segments can be nested.
const DEPTH: usize = 16;
/// Conditions of an expanded filter.
const CONDITIONS: usize = 2_000;
/// Segments of one question.
const IDS: usize = 500;

const OVERRIDES: Relation = Relation::new(&SEGMENT_OVERRIDE, "customer_id");

/// A filter on customers as a store understands it: [`Filter::Ago`] counted back from `now`, [`Filter::InSegment`]
/// replaced by what makes a customer a member.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use crm_core::memory::MemoryStore;
/// use crm_core::query::{Filter, Span};
/// use crm_core::{Context, TenantId, Timestamp};
///
/// let (store, ctx) = (MemoryStore::new("records"), Context::new(TenantId::new("shop").unwrap()));
/// let now = Timestamp::from_ymd(2026, 4, 1).unwrap();
/// let recent = crm_core::segment::resolve(&store, &ctx, now, &Filter::ago("created_at", Span::days(1))).await;
/// assert_eq!(recent.unwrap(), Filter::ge("created_at", Timestamp::from_ymd(2026, 3, 31).unwrap()));
/// # });
/// ```
///
/// # Errors
/// [`ErrorKind::NotFound`] naming a segment that is not there; [`ErrorKind::Invalid`] when segments are nested in a
/// circle, more than 16 levels deep, or into more than 2,000 conditions; the store's.
pub async fn resolve(
    store: &dyn RecordStore,
    ctx: &Context,
    now: Timestamp,
    filter: &Filter,
) -> Result<Filter> {
    let definitions = Definitions::load(store, ctx, filter).await?;
    Ok(definitions.expand(filter)?.at(now))
}

/// The segments a filter asks about, and those that these ask about.
#[derive(Debug, Default)]
pub struct Definitions(HashMap<Uuid, Definition>);

#[derive(Debug)]
struct Definition {
    segment: Segment,
    /// When the stored members were brought up to date, if they are its members.
    stored: Option<Timestamp>,
    /// Whether customers are included, and excluded, by hand.
    included: bool,
    excluded: bool,
}

impl Definitions {
    /// The segments a filter asks about itself.
    pub fn named_in(filter: &Filter) -> BTreeSet<SegmentId> {
        let mut ids = BTreeSet::new();
        named(filter, &mut ids);
        ids.into_iter().map(Into::into).collect()
    }
}

fn named(filter: &Filter, into: &mut BTreeSet<Uuid>) {
    match filter {
        Filter::And(all) | Filter::Or(all) => all.iter().for_each(|filter| named(filter, into)),
        Filter::Not(filter) => named(filter, into),
        Filter::Related(related) => named(&related.filter, into),
        Filter::InSegment(segment) => {
            into.insert(*segment);
        }
        _ => {}
    }
}

impl Definitions {
    /// Loads what [`Definitions::expand`] needs for `filter`; asks nothing when it names no segment.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] naming a segment that is not there; the store's.
    pub async fn load(store: &dyn RecordStore, ctx: &Context, filter: &Filter) -> Result<Self> {
        let mut wanted = BTreeSet::new();
        named(filter, &mut wanted);
        Self::load_all(store, ctx, wanted, None).await
    }

    /// Loads what [`Definitions::rule`] needs for a segment.
    ///
    /// # Errors
    /// As [`Definitions::load`].
    pub async fn of(store: &dyn RecordStore, ctx: &Context, segment: SegmentId) -> Result<Self> {
        let segment = segment.uuid();
        Self::load_all(store, ctx, BTreeSet::from([segment]), Some(segment)).await
    }

    /// Loads these and what they ask about; of those whose members are stored only `opened`.
    async fn load_all(
        store: &dyn RecordStore,
        ctx: &Context,
        mut wanted: BTreeSet<Uuid>,
        opened: Option<Uuid>,
    ) -> Result<Self> {
        let mut known = Self::default();
        while !wanted.is_empty() {
            let ids: Vec<Uuid> = wanted.iter().copied().collect();
            let mut next = BTreeSet::new();
            for ids in ids.chunks(IDS) {
                for definition in definitions(store, ctx, ids).await? {
                    let id = definition.segment.id.uuid();
                    match &definition.segment.kind {
                        SegmentKind::Dynamic { filter } if !definition.is_stored() || opened == Some(id) => {
                            named(filter, &mut next);
                        }
                        _ => {}
                    }
                    known.0.insert(id, definition);
                }
            }
            wanted = next.into_iter().filter(|id| !known.0.contains_key(id)).collect();
        }
        Ok(known)
    }

    /// One of the loaded segments.
    pub fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.0.get(&id.uuid()).map(|definition| &definition.segment)
    }

    /// Whether the members of a loaded segment are the stored ones.
    pub fn is_stored(&self, id: SegmentId) -> bool {
        self.0.get(&id.uuid()).is_some_and(Definition::is_stored)
    }

    /// As of when the loaded segments are known: `None` when all are told by their rules, up to this moment.
    pub fn as_of(&self) -> Option<Timestamp> {
        self.0.values().filter_map(|definition| definition.stored).min()
    }

    /// `filter` with every condition on a segment replaced by what makes a customer a member: the stored membership, or
    /// the rule with the customers included and excluded by hand.
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn expand(&self, filter: &Filter) -> Result<Filter> {
        self.expanded(filter, false, &mut Vec::new(), &mut 0)
    }

    fn expanded(
        &self,
        filter: &Filter,
        always: bool,
        path: &mut Vec<Uuid>,
        conditions: &mut usize,
    ) -> Result<Filter> {
        filter.expand(&mut |id| {
            let definition = self.0.get(&id).ok_or_else(|| missing(id))?;
            if path.contains(&id) {
                return Err(Error::invalid("segments are nested in a circle").with("segment", id));
            }
            if path.len() >= DEPTH {
                return Err(
                    Error::invalid("segments are nested more than 16 levels deep").with("segment", id)
                );
            }
            let filter = match &definition.segment.kind {
                SegmentKind::Dynamic { filter } if !definition.is_stored() => {
                    *conditions += size(filter);
                    if *conditions > CONDITIONS {
                        return Err(Error::invalid(
                            "nested segments have more than 2,000 conditions together; keep the members of some of them",
                        )
                        .with("segment", id));
                    }
                    path.push(id);
                    let rule = self.expanded(filter, always, path, conditions)?;
                    path.pop();
                    definition.with_exceptions(rule, always)
                }
                _ => Filter::at_least(1, Relation::MEMBERSHIPS, Filter::eq("segment_id", id)),
            };
            Ok(filter)
        })
    }

    /// What makes a customer fulfil the rule of a dynamic segment or be an exception to it, whether or not its members
    /// are stored; `None` for other kinds. With `always`, as if everywhere
    /// somebody were included and excluded by hand: two such filters are equal when the rules are, whoever is an exception.
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn rule(&self, id: SegmentId, always: bool) -> Result<Option<Filter>> {
        let definition = self.0.get(&id.uuid()).ok_or_else(|| missing(id.uuid()))?;
        let SegmentKind::Dynamic { filter } = &definition.segment.kind else {
            return Ok(None);
        };
        let rule = self.expanded(filter, always, &mut vec![id.uuid()], &mut 0)?;
        Ok(Some(definition.with_exceptions(rule, always)))
    }
}

impl Definition {
    fn is_stored(&self) -> bool {
        self.stored.is_some()
    }

    fn with_exceptions(&self, rule: Filter, always: bool) -> Filter {
        let by_hand = |included: bool| {
            let this = Filter::eq("segment_id", self.segment.id).and(Filter::eq("included", included));
            Filter::at_least(1, OVERRIDES, this)
        };
        let mut filter = rule;
        if always || self.included {
            filter = Filter::Or(vec![filter, by_hand(true)]);
        }
        if always || self.excluded {
            filter = Filter::And(vec![filter, !by_hand(false)]);
        }
        filter
    }
}

fn size(filter: &Filter) -> usize {
    1 + match filter {
        Filter::And(all) | Filter::Or(all) => all.iter().map(size).sum(),
        Filter::Not(filter) => size(filter),
        Filter::Related(related) => size(&related.filter),
        _ => 0,
    }
}

fn missing(id: Uuid) -> Error {
    Error::new(ErrorKind::NotFound, "no such segment").with("segment", id)
}

async fn definitions(store: &dyn RecordStore, ctx: &Context, ids: &[Uuid]) -> Result<Vec<Definition>> {
    let segments = store.get(ctx, &SEGMENT, ids).await?;
    let states = store.get(ctx, &SEGMENT_STATE, ids).await?;
    let exceptions = Aggregate::new(Filter::one_of("segment_id", ids.iter().copied()))
        .by("segment_id")
        .by("included")
        .measure("customers", Measure::Count);
    let exceptions = store.aggregate(ctx, &SEGMENT_OVERRIDE, &exceptions).await?;
    let (whose, included) = (exceptions.column("segment_id")?, exceptions.column("included")?);
    let has = |id: Uuid, wanted: bool| {
        (0..exceptions.rows())
            .any(|row| whose.uuid_at(row) == Some(id) && included.value(row) == Value::Bool(wanted))
    };
    let pairs = ids.iter().zip(segments).zip(states);
    pairs
        .map(|((id, segment), state)| {
            let segment = Segment::from_stored(segment.ok_or_else(|| missing(*id))?)?;
            let stored = match state.map(|state| state.record) {
                Some(state) if state.bool("stored")? && state.bool("ready")? => {
                    Some(state.timestamp("refreshed_at")?)
                }
                _ => None,
            };
            Ok(Definition {
                segment,
                stored,
                included: has(*id, true),
                excluded: has(*id, false),
            })
        })
        .collect()
}
