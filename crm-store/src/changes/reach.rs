//! The feed as customers reach it.

use crm_core::{Context, Result};

use super::{ChangeStream, Changes, Feed, FeedCursor};
use crate::Customers;

impl Customers {
    /// Hears of changes through this feed: [`super::ChangeLog::feed`] of the log these customers are stored through, so
    /// that subscriptions are woken at once.
    #[must_use]
    pub fn with_feed(mut self, feed: Feed) -> Self {
        self.feed = Some(feed);
        self
    }

    /// The change feed of the store.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Unsupported`] when its writes are not in one.
    pub fn feed(&self) -> Result<Feed> {
        match &self.feed {
            Some(feed) => Ok(feed.clone()),
            None => Feed::of(self.store.clone(), self.ids.clone()),
        }
    }

    /// What changed behind `cursor`, at most `limit` changes. See [`Feed::changes_since`].
    ///
    /// # Errors
    /// As [`Customers::feed`] and [`Feed::changes_since`].
    pub async fn changes_since(
        &self,
        ctx: &Context,
        cursor: Option<&FeedCursor>,
        limit: u32,
    ) -> Result<Changes> {
        let feed = self.feed()?;
        self.prepare().await?;
        feed.changes_since(ctx, cursor, limit).await
    }

    /// Follows what changes, from `from` on or from now on. See [`Feed::subscribe`].
    ///
    /// # Errors
    /// As [`Customers::feed`] and [`Feed::subscribe`].
    pub async fn subscribe(&self, ctx: &Context, from: Option<FeedCursor>) -> Result<ChangeStream> {
        let feed = self.feed()?;
        self.prepare().await?;
        feed.subscribe(ctx, from).await
    }
}
