//! The whole of a segment evaluated, and its account brought to that.

use std::collections::{BTreeSet, HashSet};

use crm_core::customer::CUSTOMER;
use crm_core::query::Filter;
use crm_core::segment::{Definitions, SEGMENT_MEMBER, SegmentId};
use crm_core::{Context, Error, ErrorKind, Result, Timestamp, Uuid};
use sha2::{Digest, Sha256};

use super::account::{self, Cause, Round, State};
use super::{BATCH, RefreshReport, Segments, column};
use crate::changes::Feed;

/// What a segment's rule says at one moment.
pub(super) struct Rule {
    pub(super) filter: Filter,
    pub(super) timed: bool,
    pub(super) meaning: String,
}

/// Who should be a member and who is, by memberships and by events.
pub(super) struct Compared {
    pub(super) members: HashSet<Uuid>,
    pub(super) rows: HashSet<Uuid>,
    pub(super) inside: HashSet<Uuid>,
}

impl Compared {
    /// Those about whom the three do not agree.
    pub(super) fn differing(&self) -> BTreeSet<Uuid> {
        let rows = self.members.symmetric_difference(&self.rows);
        let events = self.members.symmetric_difference(&self.inside);
        rows.chain(events).copied().collect()
    }
}

impl Segments {
    /// The rule of a dynamic segment.
    pub(super) async fn rule(&self, ctx: &Context, id: SegmentId, now: Timestamp) -> Result<Rule> {
        let definitions = Definitions::of(self.store(), ctx, id).await?;
        let no_rule = || Error::invalid("only a dynamic segment has a rule").with("segment", id);
        let filter = definitions.rule(id, false)?.ok_or_else(no_rule)?;
        let meaning = definitions.rule(id, true)?.ok_or_else(no_rule)?;
        let json = serde_json::to_vec(&meaning).map_err(|e| {
            Error::invalid("the rule cannot be written as JSON")
                .with("field", "rule")
                .source(e)
        })?;
        Ok(Rule {
            timed: filter.depends_on_time(),
            filter: filter.at(now),
            meaning: Sha256::digest(json)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        })
    }

    pub(super) async fn compared(&self, ctx: &Context, id: SegmentId, rule: &Rule) -> Result<Compared> {
        let of_this = || Filter::eq("segment_id", id);
        let (store, filter) = (self.store(), rule.filter.clone());
        let rows = column(store, ctx, &SEGMENT_MEMBER, of_this(), "customer_id").await?;
        Ok(Compared {
            members: column(store, ctx, &CUSTOMER, filter, "id")
                .await?
                .into_iter()
                .collect(),
            rows: rows.into_iter().collect(),
            inside: account::inside(store, ctx, of_this()).await?,
        })
    }

    /// Evaluates the rule on all customers and writes the difference, 1,000 customers a unit of work; what was written
    /// stays right when it is stopped halfway. Holds the members' ids in memory.
    pub(super) async fn full(
        &self,
        ctx: &Context,
        feed: &Feed,
        id: SegmentId,
        cause: Cause,
    ) -> Result<RefreshReport> {
        // Taken first: what changes while this looks is looked at again afterwards.
        let cursor = feed.latest(ctx).await?;
        let mut state = State::read(self.store(), ctx, id.uuid()).await?;
        let now = self.customers.clock.now();
        let rule = self.rule(ctx, id, now).await?;
        let compared = self.compared(ctx, id, &rule).await?;
        let differing: Vec<Uuid> = compared.differing().into_iter().collect();
        let mut report = RefreshReport {
            evaluated: compared.members.len() as u64,
            full: 1,
            ..RefreshReport::default()
        };
        for some in differing.chunks(BATCH) {
            ctx.check(&*self.customers.clock)?;
            let round = self.round(id, &state, cause, now);
            let some: BTreeSet<Uuid> = some.iter().copied().collect();
            let entries = round.entries(self.store(), ctx, &some, &compared.members).await?;
            let mut writes = vec![state.write(id.uuid())?];
            writes.extend(entries.writes);
            self.store().apply(ctx, &writes).await?;
            state.version = state.round();
            report.entered += entries.entered;
            report.left += entries.left;
        }
        state.ready = true;
        state.meaning = Some(rule.meaning);
        state.cursor = Some(cursor);
        state.refreshed_at = Some(now);
        state.due_at = rule.timed.then(|| now.plus(state.every));
        self.store().apply(ctx, &[state.write(id.uuid())?]).await?;
        Ok(report)
    }

    pub(super) fn round<'a>(
        &'a self,
        id: SegmentId,
        state: &State,
        cause: Cause,
        at: Timestamp,
    ) -> Round<'a> {
        Round {
            segment: id,
            number: state.round(),
            cause,
            at,
            ids: &*self.customers.ids,
        }
    }

    /// Stores the members of a dynamic segment from now on: evaluates it once, then [`Segments::refresh`] keeps it up to
    /// date from the change feed and tells who entered and left. A rule that depends on the time is evaluated in full
    /// `every` so often (whole seconds, at least one), besides on change: nothing changes when time passes.
    ///
    /// Until the first evaluation is through, the rule itself is asked; so a call that was stopped can be repeated.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the store's writes are in no change feed; [`ErrorKind::NotFound`];
    /// [`ErrorKind::Invalid`] for another kind of segment.
    pub async fn materialise(
        &self,
        ctx: &Context,
        id: SegmentId,
        every: std::time::Duration,
    ) -> Result<RefreshReport> {
        let named = |error: Error| error.operation("segments.materialise");
        let feed = self.customers.feed().map_err(named)?;
        self.there(ctx, id).await.map_err(named)?;
        self.rule(ctx, id, self.customers.clock.now())
            .await
            .map_err(named)?;
        self.tracked(ctx, id, true, every).await.map_err(named)?;
        loop {
            match self.full(ctx, &feed, id, Cause::Rule).await {
                Err(error) if account::is_race(&error) => tokio::task::yield_now().await,
                done => return done.map_err(named),
            }
        }
    }

    /// Evaluates the rule when it is asked from now on. The history of events stays; members are no longer stored.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; the store's.
    pub async fn dematerialise(&self, ctx: &Context, id: SegmentId) -> Result<()> {
        let named = |error: Error| error.operation("segments.dematerialise");
        self.there(ctx, id).await.map_err(named)?;
        self.rule(ctx, id, self.customers.clock.now())
            .await
            .map_err(named)?;
        self.tracked(ctx, id, false, std::time::Duration::ZERO)
            .await
            .map_err(named)?;
        self.sweep(ctx, &SEGMENT_MEMBER, id).await.map_err(named)?;
        Ok(())
    }

    async fn tracked(
        &self,
        ctx: &Context,
        id: SegmentId,
        stored: bool,
        every: std::time::Duration,
    ) -> Result<()> {
        loop {
            let before = State::read(self.store(), ctx, id.uuid()).await?;
            let mut state = State {
                stored,
                every: every.max(std::time::Duration::from_secs(1)),
                ..before.clone()
            };
            if !stored {
                (state.ready, state.cursor, state.meaning, state.due_at) = (false, None, None, None);
            } else if let Some(at) = state.refreshed_at.filter(|_| state.due_at.is_some()) {
                state.due_at = Some(at.plus(state.every));
            }
            if state == before {
                return Ok(());
            }
            match self.store().apply(ctx, &[state.write(id.uuid())?]).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
    }
}
