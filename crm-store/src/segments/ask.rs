//! Who is a member.

use std::collections::HashSet;

use crm_core::customer::CUSTOMER;
use crm_core::query::{Cursor, Filter, Page, Query};
use crm_core::segment::{Definitions, SegmentId};
use crm_core::{Context, CustomerId, Error, Result, Timestamp, Uuid};

use super::{BATCH, SEGMENT_EVENT, SegmentEvent, Segments, column};

/// How many customers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The number.
    pub count: u64,
    /// Whether it is the number at this moment. It is not when stored members of a segment were counted: then it is as of
    /// `as_of`.
    pub exact: bool,
    /// When the stored members were brought up to date, the longest ago.
    pub as_of: Option<Timestamp>,
}

impl Segments {
    /// The filter on customers that finds the members.
    async fn filter(&self, ctx: &Context, id: SegmentId) -> Result<Filter> {
        self.customers.prepare().await?;
        self.customers
            .resolve_filter(ctx, &Filter::InSegment(id.uuid()))
            .await
    }

    /// The members, by id, one page at a time. Whole customers: [`crate::Customers::find`] with [`Filter::InSegment`].
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::NotFound`] when there is no such segment; [`crm_core::ErrorKind::Invalid`] for a wrong limit
    /// or cursor; the store's.
    pub async fn members(
        &self,
        ctx: &Context,
        id: SegmentId,
        limit: u32,
        after: Option<Cursor>,
    ) -> Result<Page<CustomerId>> {
        let named = |error: Error| error.operation("segments.members");
        let filter = self.filter(ctx, id).await.map_err(named)?;
        let query = Query::new(filter).limit(limit).after(after);
        let page = self.store().find(ctx, &CUSTOMER, &query).await.map_err(named)?;
        page.try_map(|stored| Ok(stored.id.into()))
    }

    /// How many members there are.
    ///
    /// # Errors
    /// As [`Segments::members`].
    pub async fn count(&self, ctx: &Context, id: SegmentId) -> Result<u64> {
        let named = |error: Error| error.operation("segments.count");
        let filter = self.filter(ctx, id).await.map_err(named)?;
        self.store().count(ctx, &CUSTOMER, &filter).await.map_err(named)
    }

    /// How many customers match, as a preview of a rule or ([`Filter::InSegment`]) of a segment.
    ///
    /// # Errors
    /// As [`crate::Customers::count`].
    pub async fn estimate(&self, ctx: &Context, filter: &Filter) -> Result<Estimate> {
        let named = |error: Error| error.operation("segments.estimate");
        self.customers.prepare().await.map_err(named)?;
        let definitions = Definitions::load(self.store(), ctx, filter)
            .await
            .map_err(named)?;
        let now = self.customers.clock.now();
        let resolved = definitions.expand(filter).map_err(named)?.at(now);
        let as_of = definitions.as_of();
        Ok(Estimate {
            count: self
                .store()
                .count(ctx, &CUSTOMER, &resolved)
                .await
                .map_err(named)?,
            exact: as_of.is_none(),
            as_of,
        })
    }

    /// Whether a customer is a member.
    ///
    /// # Errors
    /// As [`Segments::members`].
    pub async fn contains(&self, ctx: &Context, id: SegmentId, customer: CustomerId) -> Result<bool> {
        Ok(self.among(ctx, id, &[customer]).await?.contains(&customer))
    }

    /// Those of these customers who are members.
    ///
    /// # Errors
    /// As [`Segments::members`].
    pub async fn among(
        &self,
        ctx: &Context,
        id: SegmentId,
        customers: &[CustomerId],
    ) -> Result<Vec<CustomerId>> {
        let named = |error: Error| error.operation("segments.among");
        let filter = self.filter(ctx, id).await.map_err(named)?;
        let asked: Vec<Uuid> = customers.iter().map(|customer| customer.uuid()).collect();
        let members = self.matching(ctx, &filter, &asked).await.map_err(named)?;
        Ok(customers
            .iter()
            .copied()
            .filter(|customer| members.contains(&customer.uuid()))
            .collect())
    }

    /// Of these customers, those who match a resolved filter.
    pub(super) async fn matching(
        &self,
        ctx: &Context,
        filter: &Filter,
        customers: &[Uuid],
    ) -> Result<HashSet<Uuid>> {
        let mut found = HashSet::new();
        for some in customers.chunks(BATCH) {
            let some = Filter::one_of("id", some.iter().copied()).and(filter.clone());
            found.extend(column(self.store(), ctx, &CUSTOMER, some, "id").await?);
        }
        Ok(found)
    }

    /// Who came and went, in the order of the rounds, page by page; for manual segments and those whose members are stored.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] for a wrong limit or cursor; the store's.
    pub async fn events(
        &self,
        ctx: &Context,
        id: SegmentId,
        limit: u32,
        after: Option<Cursor>,
    ) -> Result<Page<SegmentEvent>> {
        self.customers.prepare().await?;
        let query = Query::new(Filter::eq("segment_id", id))
            .ascending("round")
            .limit(limit)
            .after(after);
        let page = self.store().find(ctx, &SEGMENT_EVENT, &query).await?;
        page.try_map(|stored| SegmentEvent::from_stored(&stored))
    }
}
