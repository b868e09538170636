//! From an id somebody kept to the customer it is now.

use std::collections::HashMap;

use crm_core::customer::CUSTOMER_ALIAS;
use crm_core::query::Filter;
use crm_core::record::Stored;
use crm_core::{Context, CustomerId, Error, ErrorKind, Result, Uuid};

use super::super::{Customers, shape};

/// Who an id is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved {
    /// The customer to use.
    pub id: CustomerId,
    /// The id that was asked for, when that customer was merged into this one.
    pub moved_from: Option<CustomerId>,
}

impl Customers {
    /// Who these ids are now: themselves, or the customer they were merged into (after any number of merges); `None`
    /// for those that are not there.
    ///
    /// # Errors
    /// The store's.
    pub async fn resolve(&self, ctx: &Context, ids: &[CustomerId]) -> Result<Vec<Option<Resolved>>> {
        self.prepare().await?;
        let uuids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let there = self
            .store
            .get(ctx, &crm_core::customer::CUSTOMER, &uuids)
            .await
            .map_err(|error| error.operation("customers.resolve"))?;
        let missing = ids.iter().zip(&there).filter(|(_, found)| found.is_none());
        let missing: Vec<CustomerId> = missing.map(|(id, _)| *id).collect();
        let now = self.merged_into(ctx, &missing).await?;
        let resolved = ids.iter().zip(there).map(|(id, found)| match found {
            Some(_) => Some(Resolved {
                id: *id,
                moved_from: None,
            }),
            None => now.get(id).map(|winner| Resolved {
                id: *winner,
                moved_from: Some(*id),
            }),
        });
        Ok(resolved.collect())
    }

    /// The survivors of those that were merged.
    pub(in super::super) async fn merged_into(
        &self,
        ctx: &Context,
        ids: &[CustomerId],
    ) -> Result<HashMap<CustomerId, CustomerId>> {
        let mut now = HashMap::new();
        if ids.is_empty() {
            return Ok(now);
        }
        let uuids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        for stored in self
            .store
            .get(ctx, &CUSTOMER_ALIAS, &uuids)
            .await?
            .into_iter()
            .flatten()
        {
            now.insert(stored.id.into(), stored.record.uuid("customer_id")?.into());
        }
        Ok(now)
    }

    /// The aliases of a customer: all who were merged into it.
    pub(in super::super) async fn aliases(&self, ctx: &Context, ids: &[CustomerId]) -> Result<Vec<Stored>> {
        let filter = Filter::one_of("customer_id", ids.iter().copied());
        shape::all(&*self.store, ctx, &CUSTOMER_ALIAS, filter).await
    }

    /// The error for a customer that is not there: gone, or now another one.
    pub(in super::super) async fn missing(&self, ctx: &Context, id: CustomerId) -> Error {
        match self
            .merged_into(ctx, &[id])
            .await
            .map(|now| now.get(&id).copied())
        {
            Ok(Some(winner)) => Error::conflict("the customer was merged into another one; use that one")
                .with("index", "merged")
                .with("customer_id", winner),
            Ok(None) => Error::new(ErrorKind::NotFound, "no such customer").with("customer_id", id),
            Err(error) => error,
        }
    }
}
