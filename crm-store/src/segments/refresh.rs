//! Stored members brought up to date from the change feed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::AddAssign;

use crm_core::query::Filter;
use crm_core::segment::{SEGMENT_STATE, SegmentId};
use crm_core::{Context, Error, ErrorKind, Result, Uuid};

use super::account::{self, Cause, State};
use super::touch::Touch;
use super::{Graph, Segments, all};
use crate::changes::{Changes, Feed};

/// Changes of one page.
const CHANGES: u32 = 2_000;
/// Touched customers of one unit of work.
const TOUCHED: usize = 1_000;
/// Pages of the feed that are kept for the next segment.
const PAGES: usize = 64;

/// How much a [`Segments::refresh`] may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Customers evaluated before it stops, looked at between units of work: one full evaluation, or one step of 1,000
    /// customers or so, may go beyond.
    pub customers: u64,
}

impl Default for Budget {
    /// No limit.
    fn default() -> Self {
        Self { customers: u64::MAX }
    }
}

/// What a [`Segments::refresh`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefreshReport {
    /// Customers evaluated because they were touched, and members found by full evaluations.
    pub evaluated: u64,
    /// Full evaluations: first ones, after a change of a rule, when time was due, or when the feed was pruned.
    pub full: u64,
    /// How many became members.
    pub entered: u64,
    /// How many ceased to be.
    pub left: u64,
    /// Whether the budget ended before everything was up to date.
    pub more: bool,
}

impl AddAssign for RefreshReport {
    fn add_assign(&mut self, other: Self) {
        self.evaluated += other.evaluated;
        self.full += other.full;
        self.entered += other.entered;
        self.left += other.left;
        self.more |= other.more;
    }
}

/// Pages of the feed, so that many segments read it once. Only full ones: they never change.
#[derive(Default)]
struct Pages(HashMap<String, Changes>);

impl Pages {
    async fn read(&mut self, feed: &Feed, ctx: &Context, state: &State) -> Result<Changes> {
        let key = state.cursor.as_ref().map(ToString::to_string).unwrap_or_default();
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        let changes = feed.changes_since(ctx, state.cursor.as_ref(), CHANGES).await?;
        if changes.items.len() == CHANGES as usize {
            if self.0.len() >= PAGES {
                self.0.clear();
            }
            self.0.insert(key, changes.clone());
        }
        Ok(changes)
    }
}

/// Those that others ask about come first.
fn in_order(graph: &Graph, wanted: &BTreeSet<SegmentId>) -> Vec<SegmentId> {
    fn visit(graph: &Graph, id: SegmentId, seen: &mut BTreeSet<SegmentId>, order: &mut Vec<SegmentId>) {
        if seen.insert(id) {
            for other in graph.get(&id).into_iter().flatten() {
                visit(graph, *other, seen, order);
            }
            order.push(id);
        }
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    for id in wanted {
        visit(graph, *id, &mut seen, &mut order);
    }
    order.retain(|id| wanted.contains(id));
    order
}

impl Segments {
    /// Brings the stored members of all segments up to date, those first that others ask about: reads the change feed
    /// behind each segment's own place and evaluates only the customers who were touched. Memberships, events and the
    /// place are written in one unit of work, so that a killed refresh goes on without a gap; of two at once, one does each
    /// step.
    ///
    /// Call it from a job of the host, as often as members should be fresh.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the store's writes are in no change feed; the store's. What was done before stays.
    pub async fn refresh(&self, ctx: &Context, budget: Budget) -> Result<RefreshReport> {
        self.refreshed(ctx, budget, None)
            .await
            .map_err(|error| error.operation("segments.refresh"))
    }

    /// [`Segments::refresh`] of one segment, or all.
    pub(super) async fn refreshed(
        &self,
        ctx: &Context,
        budget: Budget,
        only: Option<SegmentId>,
    ) -> Result<RefreshReport> {
        let feed = self.customers.feed()?;
        self.customers.prepare().await?;
        let stored = all(self.store(), ctx, &SEGMENT_STATE, Filter::eq("stored", true)).await?;
        let stored: BTreeSet<SegmentId> = stored.into_iter().map(|state| state.id.into()).collect();
        let graph = if stored.is_empty() {
            BTreeMap::new()
        } else {
            self.graph(ctx).await?
        };
        let mut report = RefreshReport::default();
        let mut pages = Pages::default();
        let wanted: BTreeSet<SegmentId> = match only {
            None => stored,
            Some(one) => stored.intersection(&below(&graph, one)).copied().collect(),
        };
        for id in in_order(&graph, &wanted) {
            loop {
                if report.evaluated >= budget.customers {
                    report.more = true;
                    return Ok(report);
                }
                ctx.check(&*self.customers.clock)?;
                match self.step(ctx, &feed, id, &mut pages).await {
                    Ok(Some(done)) => report += done,
                    Ok(None) => break,
                    // Somebody else did this step, or changed a member by hand.
                    Err(error) if account::is_race(&error) => tokio::task::yield_now().await,
                    // Deleted meanwhile.
                    Err(error)
                        if error.kind() == ErrorKind::NotFound && self.get(ctx, id).await?.is_none() =>
                    {
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(report)
    }

    /// One unit of work of a segment; `None` when it is up to date.
    async fn step(
        &self,
        ctx: &Context,
        feed: &Feed,
        id: SegmentId,
        pages: &mut Pages,
    ) -> Result<Option<RefreshReport>> {
        let mut state = State::read(self.store(), ctx, id.uuid()).await?;
        if !state.stored {
            return Ok(None);
        }
        let now = self.customers.clock.now();
        let rule = self.rule(ctx, id, now).await?;
        let due = rule.timed && state.due_at.is_none_or(|due| due <= now);
        let changed = state.meaning.as_deref() != Some(rule.meaning.as_str());
        if !state.ready || changed || due || state.cursor.is_none() {
            return self.full(ctx, feed, id, Cause::Rule).await.map(Some);
        }
        let touch = Touch::of(id, &rule.filter);
        let mut touched: BTreeSet<Uuid> = BTreeSet::new();
        let before = state.cursor.clone();
        loop {
            let changes = match pages.read(feed, ctx, &state).await {
                Ok(changes) => changes,
                Err(error) if is_lost(&error) => {
                    return self.full(ctx, feed, id, Cause::Rule).await.map(Some);
                }
                Err(error) => return Err(error),
            };
            touched.extend(changes.items.iter().filter_map(|change| touch.customer(change)));
            let end = changes.items.len() < CHANGES as usize;
            state.cursor = Some(changes.next);
            if end || touched.len() >= TOUCHED {
                break;
            }
        }
        if state.cursor == before {
            return Ok(None);
        }
        let asked: Vec<Uuid> = touched.iter().copied().collect();
        let members = self.matching(ctx, &rule.filter, &asked).await?;
        let round = self.round(id, &state, Cause::Rule, now);
        let entries = round.entries(self.store(), ctx, &touched, &members).await?;
        state.refreshed_at = Some(now);
        let mut writes = vec![state.write(id.uuid())?];
        writes.extend(entries.writes);
        self.store().apply(ctx, &writes).await?;
        Ok(Some(RefreshReport {
            evaluated: touched.len() as u64,
            entered: entries.entered,
            left: entries.left,
            ..RefreshReport::default()
        }))
    }
}

/// A segment and all that it asks about.
fn below(graph: &Graph, id: SegmentId) -> BTreeSet<SegmentId> {
    let mut found = BTreeSet::from([id]);
    let mut rest = vec![id];
    while let Some(id) = rest.pop() {
        for other in graph.get(&id).into_iter().flatten() {
            if found.insert(*other) {
                rest.push(*other);
            }
        }
    }
    found
}

/// Whether the changes behind a cursor are not kept any more.
pub(super) fn is_lost(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound && error.context("field") == Some("cursor")
}
