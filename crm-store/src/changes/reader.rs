//! The feed as crm-core's capability: who changed.

use std::collections::HashSet;

use async_trait::async_trait;
use crm_core::capability::{ChangeReader, ChangedCustomers};
use crm_core::{Context, Result};

use super::{Entity, Feed, FeedCursor};

#[async_trait]
impl ChangeReader for Feed {
    async fn changed_customers(
        &self,
        ctx: &Context,
        cursor: Option<&str>,
        changes: u32,
    ) -> Result<ChangedCustomers> {
        let cursor: Option<FeedCursor> = cursor.map(str::parse).transpose()?;
        let read = self.changes_since(ctx, cursor.as_ref(), changes).await?;
        let mut seen = HashSet::new();
        let customers = read.items.iter().filter_map(|change| match change.entity {
            Entity::Customer(id) => seen.insert(id).then_some(id),
            _ => None,
        });
        Ok(ChangedCustomers {
            customers: customers.collect(),
            next: read.next.to_string(),
            behind: read.behind,
        })
    }

    async fn latest(&self, ctx: &Context) -> Result<String> {
        Ok(Feed::latest(self, ctx).await?.to_string())
    }
}
