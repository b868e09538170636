//! How long is kept what came in from outside, and the counts of limits.
//!
//! ```
//! use std::time::Duration;
//! use crm_channels::retention::Keep;
//!
//! let month = Duration::from_secs(30 * 24 * 60 * 60);
//! let keep = Keep::older_than(month);
//! assert_eq!((keep.news, keep.words, keep.counts), (Some(month), Some(month), Some(month)));
//! assert_eq!(Keep::default().news, None); // for ever
//! ```

use std::time::Duration;

use crm_core::query::{Filter, Query};
use crm_core::record::{Schema, Stored, Value, Write};
use crm_core::{Context, Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Outreach;
use crate::inbound::INBOUND;
use crate::limits::RATE;

/// Records of one unit of work.
const UNIT: u32 = 500;
/// Vendors repeat what they told for so long at most; whoever forgets it sooner lets it count twice.
const REPEATED: Duration = Duration::from_secs(3 * 24 * 3600);

/// How long is kept what came in from outside, and the counts of limits; without a time, for ever.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keep {
    /// News about messages ([`INBOUND`]), at least three days: by them a repetition is recognised. What they said stays with
    /// the messages and on the timelines.
    pub news: Option<Duration>,
    /// What people wrote to us whom nobody knows ([`INBOUND`]): their words and the hash of their address. That a message
    /// came stays, without a word of it, so that nobody can bring an old START or STOP again.
    pub words: Option<Duration>,
    /// The counts of limits ([`RATE`]). Those that a rule still looks back at stay, whatever is said here.
    pub counts: Option<Duration>,
}

impl Keep {
    /// Everything older than this goes.
    pub fn older_than(age: Duration) -> Self {
        Self {
            news: Some(age),
            words: Some(age),
            counts: Some(age),
        }
    }
}

/// How much of each kind went, or would go.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Purged {
    /// News about messages.
    pub news: u64,
    /// Messages to us that lost their words.
    pub words: u64,
    /// Counts of limits.
    pub counts: u64,
}

impl Outreach {
    /// Removes what is older than it is kept; answers how much. A host calls it now and then, for each tenant, and for the
    /// one of [`crate::DispatchSettings::limits_of`]. Works in bounded units of work; stopped halfway, the next call goes on.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for news kept shorter than vendors repeat them; the store's; [`ErrorKind::Timeout`] and
    /// [`ErrorKind::Cancelled`] as the context says.
    pub async fn purge(&self, ctx: &Context, keep: &Keep) -> Result<Purged> {
        let mut gone = Purged::default();
        let [news, words, counts] = self.old(keep)?;
        let delete = |schema: &'static Schema| {
            move |stored: &Stored| Ok(Write::delete(schema, stored.id, Some(stored.version)))
        };
        if let Some(old) = news {
            gone.news = self.each(ctx, &INBOUND, old, &delete(&INBOUND)).await?;
        }
        if let Some(old) = words {
            let blank = |stored: &Stored| {
                let mut record = stored.record.clone();
                record.set("event", Value::Null)?;
                record.set("address_key", Value::Null)?;
                Ok(Write::update(stored.id, stored.version, record))
            };
            gone.words = self.each(ctx, &INBOUND, old, &blank).await?;
        }
        if let Some(old) = counts {
            gone.counts = self.each(ctx, &RATE, old, &delete(&RATE)).await?;
        }
        Ok(gone)
    }

    /// How much [`Outreach::purge`] would remove now. Nothing is written.
    ///
    /// # Errors
    /// As [`Outreach::purge`].
    pub async fn purgeable(&self, ctx: &Context, keep: &Keep) -> Result<Purged> {
        let [news, words, counts] = self.old(keep)?;
        Ok(Purged {
            news: self.counted(ctx, &INBOUND, news).await?,
            words: self.counted(ctx, &INBOUND, words).await?,
            counts: self.counted(ctx, &RATE, counts).await?,
        })
    }

    async fn counted(&self, ctx: &Context, schema: &'static Schema, old: Option<Filter>) -> Result<u64> {
        match old {
            Some(old) => self.store.count(ctx, schema, &old).await,
            None => Ok(0),
        }
    }

    /// What is too old: news, words, counts.
    fn old(&self, keep: &Keep) -> Result<[Option<Filter>; 3]> {
        if keep.news.is_some_and(|age| age < REPEATED) {
            return Err(Error::config(
                "vendors repeat their news for days; keep them for three days at least, or they count twice",
            )
            .with("setting", "news"));
        }
        let now: Timestamp = self.time.now();
        let before = |field: &'static str, age: Duration| Filter::lt(field, now.minus(age));
        let of = |kind: &'static str| Filter::eq("kind", kind);
        let told = Filter::null("event").and(Filter::null("address_key"));
        Ok([
            keep.news
                .map(|age| before("received_at", age).and(of("delivery"))),
            keep.words
                .map(|age| before("received_at", age).and(of("message")).and(!told)),
            keep.counts
                .map(|age| before("updated_at", age.max(self.settings.longest_window()))),
        ])
    }

    /// Carries out `change` for all records that match, page by page, until none is left; answers how many were changed.
    async fn each(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        filter: Filter,
        change: &(dyn Fn(&Stored) -> Result<Write> + Send + Sync),
    ) -> Result<u64> {
        let query = Query::new(filter).limit(UNIT);
        let mut done = 0;
        loop {
            ctx.check(&*self.clock)?;
            let page = self.store.find(ctx, schema, &query).await?;
            if page.items.is_empty() {
                return Ok(done);
            }
            let writes = page.items.iter().map(change).collect::<Result<Vec<_>>>()?;
            match self.store.apply(ctx, &writes).await {
                Ok(_) => done += writes.len() as u64,
                // Somebody else removes or counts the same ones: looked at again.
                Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
    }
}
