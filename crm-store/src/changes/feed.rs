//! Reads the feed.

use std::fmt;
use std::sync::Arc;

use crm_core::capability::RecordStore;
use crm_core::query::{Filter, Query};
use crm_core::record::Write;
use crm_core::{Context, Error, ErrorKind, IdSource, Result, Timestamp};

use super::item::Unit;
use super::log::Wakes;
use super::number::{self, Head};
use super::{CHANGE, Change, ChangeStream, Changes, FeedCursor, TAG};

/// Units of work of one page at first; each may have thousands of changes.
const UNITS: usize = 32;
/// Units of work removed in one go.
const PRUNED: u32 = 500;

/// The change feed of a store whose writes go through a [`super::ChangeLog`]. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    store: Arc<dyn RecordStore>,
    ids: Arc<dyn IdSource>,
    wakes: Wakes,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("store", self.store.info())
            .finish_non_exhaustive()
    }
}

impl Feed {
    pub(super) fn new(store: Arc<dyn RecordStore>, ids: Arc<dyn IdSource>, wakes: Wakes) -> Self {
        Self { store, ids, wakes }
    }

    /// The feed of a store that is, or has inside, a [`super::ChangeLog`]. Its subscriptions look for changes from time to
    /// time; those of [`super::ChangeLog::feed`] hear of this process' own at once.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the writes of this store are not in a feed.
    pub fn of(store: Arc<dyn RecordStore>, ids: Arc<dyn IdSource>) -> Result<Self> {
        if store.info().tag_value(TAG.0) != Some(TAG.1) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the writes of this store are not in a change feed; wrap it in a ChangeLog",
            )
            .operation("changes.read")
            .with("provider", &store.info().name));
        }
        Ok(Self::new(store, ids, Wakes::default()))
    }

    pub(super) fn wakes(&self) -> &Wakes {
        &self.wakes
    }

    /// The changes behind `cursor` (from the first one without), at most `limit` (1 to 10,000). All readers see the same
    /// order, and nothing can appear later before a place that was read.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] with `field=cursor` when the changes behind it are not kept any more or it belongs to
    /// another feed: take [`Feed::latest`], read everything, and go on from there. [`ErrorKind::Invalid`] for a wrong
    /// limit; the store's.
    pub async fn changes_since(
        &self,
        ctx: &Context,
        cursor: Option<&FeedCursor>,
        limit: u32,
    ) -> Result<Changes> {
        self.read(ctx, cursor, limit)
            .await
            .map_err(|error| error.operation("changes.read"))
    }

    async fn read(&self, ctx: &Context, cursor: Option<&FeedCursor>, limit: u32) -> Result<Changes> {
        if !(1..=10_000).contains(&limit) {
            return Err(Error::invalid("a page has 1 to 10,000 changes").with("field", "limit"));
        }
        let limit = limit as usize;
        let head = Head::read(&*self.store, ctx, &*self.ids).await?;
        let mut place = cursor.cloned().unwrap_or(FeedCursor {
            feed: head.feed,
            seq: 0,
            items: 0,
        });
        if place.feed != head.feed || place.seq > head.last {
            return Err(lost("the cursor belongs to another feed; start from a snapshot"));
        }
        let mut items = Vec::new();
        let mut units = UNITS;
        let mut all_numbered = false;
        loop {
            while items.len() < limit && self.page(ctx, &mut place, &mut items, limit, &mut units).await? {}
            if items.len() >= limit || all_numbered {
                break;
            }
            // When nothing is left to number, somebody else may have done it since the last look: look once more, so that
            // all that was committed before this call is told.
            all_numbered = !number::round(&*self.store, ctx, &*self.ids).await?;
        }
        // Looked at after the changes: what was removed while they were read shows here.
        let head = Head::read(&*self.store, ctx, &*self.ids).await?;
        let from = cursor.map_or(0, |cursor| cursor.seq);
        if from < head.pruned {
            return Err(lost(
                "the changes behind this cursor are not kept any more; start from a snapshot",
            ));
        }
        Ok(Changes {
            items,
            behind: u64::try_from(head.last.saturating_sub(place.seq)).unwrap_or(0),
            next: place,
        })
    }

    /// Reads on behind `place`; false when there is nothing more that is numbered.
    async fn page(
        &self,
        ctx: &Context,
        place: &mut FeedCursor,
        items: &mut Vec<Change>,
        limit: usize,
        units: &mut usize,
    ) -> Result<bool> {
        let wanted = (*units).min(limit - items.len()).max(1) as u32;
        let query = Query::new(Filter::gt("seq", place.seq))
            .ascending("seq")
            .limit(wanted);
        let page = self.store.find(ctx, &CHANGE, &query).await?;
        let full = page.next.is_some();
        let before = items.len();
        for stored in page.items {
            let unit = Unit::read(stored)?;
            // Never over a gap: numbers have none, so this page was read while some were removed.
            if unit.seq != place.seq + 1 || items.len() >= limit {
                return Ok(false);
            }
            let (seq, skip, all) = (unit.seq, place.items as usize, unit.items.len());
            let read = skip + unit.changes(skip, items, limit)?;
            if read < all {
                place.items = u32::try_from(read).unwrap_or(u32::MAX);
                return Ok(true);
            }
            (place.seq, place.items) = (seq, 0);
        }
        // Small units of work are read by the hundred, large ones few at a time.
        if items.len() - before < 4 * *units {
            *units = (*units * 4).min(1_000);
        }
        Ok(full)
    }

    /// The place behind everything that was committed before this call: to be taken before a snapshot is read, so that
    /// what changes meanwhile is told afterwards.
    ///
    /// # Errors
    /// The store's.
    pub async fn latest(&self, ctx: &Context) -> Result<FeedCursor> {
        let named = |error: Error| error.operation("changes.latest");
        while number::round(&*self.store, ctx, &*self.ids)
            .await
            .map_err(named)?
        {}
        let head = Head::read(&*self.store, ctx, &*self.ids).await.map_err(named)?;
        Ok(FeedCursor {
            feed: head.feed,
            seq: head.last,
            items: 0,
        })
    }

    /// Removes the beginning of the feed, as far as it was written before an instant; answers how many units of work.
    /// In bounded steps: stopped halfway, what is gone is gone, and a cursor into it is refused.
    ///
    /// # Errors
    /// The store's.
    pub async fn prune(&self, ctx: &Context, before: Timestamp) -> Result<u64> {
        let mut removed = 0;
        loop {
            match self.prune_some(ctx, before).await {
                Ok(0) => return Ok(removed),
                Ok(some) => removed += some,
                // The head moved on: somebody numbered or removed.
                Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
                Err(error) => return Err(error.operation("changes.prune")),
            }
        }
    }

    async fn prune_some(&self, ctx: &Context, before: Timestamp) -> Result<u64> {
        while number::round(&*self.store, ctx, &*self.ids).await? {}
        let head = Head::read(&*self.store, ctx, &*self.ids).await?;
        let query = Query::new(Filter::gt("seq", head.pruned))
            .ascending("seq")
            .limit(PRUNED);
        let mut pruned = head.pruned;
        let mut writes = Vec::new();
        for stored in self.store.find(ctx, &CHANGE, &query).await?.items {
            if stored.record.timestamp("at")? >= before {
                break;
            }
            pruned = stored.record.int("seq")?;
            writes.push(Write::delete(&CHANGE, stored.id, Some(stored.version)));
        }
        let count = writes.len() as u64;
        if count > 0 {
            writes.insert(0, Head { pruned, ..head }.write()?);
            self.store.apply(ctx, &writes).await?;
        }
        Ok(count)
    }

    /// Follows the feed of a tenant from `from` on, or from now on without.
    ///
    /// # Errors
    /// The store's.
    pub async fn subscribe(&self, ctx: &Context, from: Option<FeedCursor>) -> Result<ChangeStream> {
        let from = match from {
            Some(from) => from,
            None => self.latest(ctx).await?,
        };
        Ok(ChangeStream::new(self.clone(), ctx.clone(), from))
    }
}

fn lost(message: &'static str) -> Error {
    Error::new(ErrorKind::NotFound, message).with("field", "cursor")
}
