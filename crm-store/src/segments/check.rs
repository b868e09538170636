//! Whether stored members are who they should be.

use std::collections::HashSet;

use crm_core::segment::SegmentId;
use crm_core::{Context, CustomerId, Error, Result, Uuid};

use super::account::{self, Cause, State};
use super::{Budget, RefreshReport, Segments};

/// Changes of one page.
const CHANGES: u32 = 2_000;

/// What a full evaluation found against the stored members. Customers who changed while it looked are left out: the next
/// refresh evaluates them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DriftReport {
    /// Should be members and are not.
    pub missing: Vec<CustomerId>,
    /// Are members and should not be.
    pub extra: Vec<CustomerId>,
    /// Of whom the events say something else than the membership.
    pub unaccounted: Vec<CustomerId>,
    /// How many changed while it looked.
    pub changing: u64,
    /// Whether the rule depends on the time: then those who came or went by the passing of time since the last full
    /// evaluation are in here too.
    pub timed: bool,
}

impl DriftReport {
    /// Whether everything is as it should be.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.unaccounted.is_empty()
    }
}

impl Segments {
    /// Compares the stored members of a segment with a full evaluation, after bringing it up to date. Changes nothing else;
    /// [`Segments::repair`] does. Holds the members' ids in memory.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when the segment's members are not stored; as [`Segments::refresh`].
    pub async fn check(&self, ctx: &Context, id: SegmentId) -> Result<DriftReport> {
        self.checked(ctx, id)
            .await
            .map_err(|error| error.operation("segments.check"))
    }

    async fn checked(&self, ctx: &Context, id: SegmentId) -> Result<DriftReport> {
        let feed = self.customers.feed()?;
        self.refreshed(ctx, Budget::default(), Some(id)).await?;
        let state = self.stored_state(ctx, id).await?;
        let rule = self.rule(ctx, id, self.customers.clock.now()).await?;
        let compared = self.compared(ctx, id, &rule).await?;

        let mut changing: HashSet<Uuid> = HashSet::new();
        let mut cursor = state.cursor.unwrap_or(feed.latest(ctx).await?);
        loop {
            let changes = feed.changes_since(ctx, Some(&cursor), CHANGES).await?;
            if changes.items.is_empty() {
                break;
            }
            // All of them, whatever the rule looks at: too many are only looked at later.
            changing.extend(changes.items.iter().filter_map(|change| match &change.entity {
                crate::changes::Entity::Customer(customer) => Some(customer.uuid()),
                _ => None,
            }));
            cursor = changes.next;
        }
        let some = |ids: &mut dyn Iterator<Item = &Uuid>| {
            let mut ids: Vec<CustomerId> = ids
                .filter(|id| !changing.contains(id))
                .map(|id| (*id).into())
                .collect();
            ids.sort_unstable();
            ids
        };
        Ok(DriftReport {
            missing: some(&mut compared.members.difference(&compared.rows)),
            extra: some(&mut compared.rows.difference(&compared.members)),
            unaccounted: some(&mut compared.rows.symmetric_difference(&compared.inside)),
            changing: changing.len() as u64,
            timed: rule.timed,
        })
    }

    async fn stored_state(&self, ctx: &Context, id: SegmentId) -> Result<State> {
        self.there(ctx, id).await?;
        let state = State::read(self.store(), ctx, id.uuid()).await?;
        if state.stored && state.ready {
            return Ok(state);
        }
        Err(Error::invalid("the members of this segment are not stored").with("segment", id))
    }

    /// Evaluates a segment in full and writes what differs, memberships and events, with the cause `repair`.
    ///
    /// # Errors
    /// As [`Segments::check`].
    pub async fn repair(&self, ctx: &Context, id: SegmentId) -> Result<RefreshReport> {
        let named = |error: Error| error.operation("segments.repair");
        let feed = self.customers.feed().map_err(named)?;
        self.stored_state(ctx, id).await.map_err(named)?;
        loop {
            match self.full(ctx, &feed, id, Cause::Repair).await {
                Err(error) if account::is_race(&error) => tokio::task::yield_now().await,
                done => return done.map_err(named),
            }
        }
    }
}
