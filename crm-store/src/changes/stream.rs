//! Follows the feed within the process.

use std::time::Duration;

use crm_core::{Context, Result};
use tokio::sync::watch;

use super::{Changes, Feed, FeedCursor};

/// Changes as they come, in the order of the feed. It reads the feed and is only woken by this process' writes, so nothing
/// is lost when it falls behind ([`Changes::behind`] says how far), and other processes' changes are in it too.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use std::sync::Arc;
/// # use crm_core::customer::{Draft, Provenance};
/// # use crm_core::memory::MemoryStore;
/// # use crm_core::{Context, RandomIds, SystemClock, TenantId, Timestamp};
/// # use crm_store::{Customers, changes::ChangeLog};
/// # let (clock, ids) = (SystemClock::shared(), RandomIds::shared());
/// # let log = ChangeLog::new(Arc::new(MemoryStore::new("records")), clock.clone(), ids.clone());
/// # let ctx = Context::new(TenantId::new("shop").unwrap());
/// let feed = log.feed();
/// let customers = Customers::new(Arc::new(log), clock, ids).with_feed(feed);
/// customers.prepare().await.unwrap();
/// let mut stream = customers.subscribe(&ctx, None).await.unwrap();
///
/// # let mut draft = Draft::new(Provenance::new("web-shop", Timestamp::EPOCH));
/// # draft.emails.push("ana@example.com".into());
/// let (changes, ana) = tokio::join!(stream.next(100), customers.upsert(&ctx, draft));
/// assert_eq!(changes.unwrap().items[0].entity, crm_store::changes::Entity::Customer(ana.unwrap().id));
/// # });
/// ```
#[derive(Debug)]
pub struct ChangeStream {
    feed: Feed,
    ctx: Context,
    cursor: FeedCursor,
    woken: watch::Receiver<()>,
    every: Duration,
}

impl ChangeStream {
    pub(super) fn new(feed: Feed, ctx: Context, cursor: FeedCursor) -> Self {
        let woken = feed.wakes().subscribe(ctx.tenant());
        Self {
            feed,
            ctx,
            cursor,
            woken,
            every: Duration::from_secs(1),
        }
    }

    /// Looks for changes of other processes this often; every second unless said otherwise.
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every.max(Duration::from_millis(1));
        self
    }

    /// Where it stands: behind what [`ChangeStream::next`] answered last.
    pub fn cursor(&self) -> &FeedCursor {
        &self.cursor
    }

    /// The next changes, at most `limit`; waits until there are some. Dropped while waiting, nothing is lost.
    ///
    /// # Errors
    /// As [`Feed::changes_since`].
    pub async fn next(&mut self, limit: u32) -> Result<Changes> {
        loop {
            // Before looking: what is committed after the look wakes again.
            self.woken.borrow_and_update();
            let changes = self
                .feed
                .changes_since(&self.ctx, Some(&self.cursor), limit)
                .await?;
            self.cursor = changes.next.clone();
            if !changes.items.is_empty() {
                return Ok(changes);
            }
            // A feed without a log of its own has no sender that could wake it, or it went: then only time does.
            let wait = tokio::time::sleep(self.every);
            tokio::select! {
                woken = self.woken.changed() => if woken.is_err() {
                    tokio::time::sleep(self.every).await;
                },
                () = wait => {}
            }
        }
    }
}
