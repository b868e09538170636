//! Pausing, going on, calling off; and pausing by itself.

use crm_core::message::{Blame, DeliveryState};
use crm_core::query::{Aggregate, Assign, Claim, Filter, Measure, Query};
use crm_core::record::{Value, Write};
use crm_core::{Context, Error, ErrorKind, Result};

use super::plan::CampaignPlan;
use super::stored::{CampaignState, Known, Run};
use super::{Campaign, Campaigns};
use crate::outbox::{Entry, OUTBOX, OutboxState, join_delivery};

/// How many messages are held or released at once.
const SWEEP: u32 = 1000;
/// How many are called off at once, with the news of it.
const PAGE: u32 = 500;

impl Campaigns {
    /// Pauses a campaign: nothing more of it is queued, and what is queued is held. When this has returned, no dispatcher
    /// begins any message of it later than a second after; what was begun is finished. Pausing it again changes nothing.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::NotFound`]; [`crm_core::ErrorKind::Conflict`] for one that was not started or is over; those
    /// of the store.
    pub async fn pause(&self, ctx: &Context, name: &str, why: &str) -> Result<Campaign> {
        let paused = |run: &mut Run| match run.state {
            CampaignState::Starting | CampaignState::Scheduled | CampaignState::Running => {
                run.state = CampaignState::Paused;
                run.reason = Some(why.to_owned());
                Ok(true)
            }
            CampaignState::Paused => Ok(false),
            _ => Err(Error::conflict(
                "only a campaign that was started and is not over can be paused",
            )),
        };
        self.turned(ctx, name, paused).await?;
        self.hold(ctx, name).await?;
        self.get(ctx, name).await
    }

    /// Lets a paused campaign go on where it was. Bounces and complaints are counted anew.
    ///
    /// # Errors
    /// As [`Campaigns::pause`].
    pub async fn resume(&self, ctx: &Context, name: &str) -> Result<Campaign> {
        let plan = self.get(ctx, name).await?.plan;
        let known = self.known(ctx, name).await?;
        let resumed = |run: &mut Run| match run.state {
            CampaignState::Paused => {
                run.reason = None;
                run.baseline = known;
                match run.due_at {
                    // It was paused before its audience was written down.
                    None => run.state = CampaignState::Starting,
                    Some(_) => self.ready_to_go(&plan, run),
                }
                Ok(true)
            }
            CampaignState::Starting | CampaignState::Scheduled | CampaignState::Running => Ok(false),
            _ => Err(Error::conflict("only a campaign that is paused can go on")),
        };
        self.turned(ctx, name, resumed).await?;
        self.release(ctx, name).await?;
        self.get(ctx, name).await
    }

    /// Calls a campaign off, for good: what is queued ends as cancelled, what was begun is finished. Cancelling it again
    /// changes nothing.
    ///
    /// # Errors
    /// As [`Campaigns::pause`].
    pub async fn cancel(&self, ctx: &Context, name: &str, why: &str) -> Result<Campaign> {
        let now = self.outreach.time.now();
        let cancelled = |run: &mut Run| match run.state {
            CampaignState::Cancelled => Ok(false),
            CampaignState::Finished => Err(Error::conflict("the campaign is over")),
            _ => {
                run.state = CampaignState::Cancelled;
                run.reason = Some(why.to_owned());
                run.finished_at = Some(now);
                Ok(true)
            }
        };
        self.turned(ctx, name, cancelled).await?;
        self.call_off(ctx, name, why).await?;
        self.get(ctx, name).await
    }

    /// Changes the state of a campaign, whoever else is working on it.
    async fn turned(
        &self,
        ctx: &Context,
        name: &str,
        mut change: impl FnMut(&mut Run) -> Result<bool>,
    ) -> Result<()> {
        let (_, mut run) = self.load(ctx, name).await?;
        loop {
            let state = run.state;
            let changed =
                change(&mut run).map_err(|error| error.with("campaign", name).with("state", state))?;
            if !changed || self.keep(ctx, &mut run, Vec::new()).await? {
                return Ok(());
            }
        }
    }

    /// What is queued is not due any more.
    pub(super) async fn hold(&self, ctx: &Context, name: &str) -> Result<u64> {
        let to = vec![Assign::Set("state", OutboxState::Held.as_str().into())];
        self.sweep(ctx, name, OutboxState::Queued, to).await
    }

    /// What was held is due again.
    pub(super) async fn release(&self, ctx: &Context, name: &str) -> Result<u64> {
        let to = vec![Assign::Set("state", OutboxState::Queued.as_str().into())];
        self.sweep(ctx, name, OutboxState::Held, to).await
    }

    /// What is queued ends as cancelled, and the timelines say so: each page in one unit of work.
    async fn call_off(&self, ctx: &Context, name: &str, why: &str) -> Result<u64> {
        let (store, ids) = (&self.outreach.store, &self.outreach.ids);
        let open = [OutboxState::Queued, OutboxState::Held].map(OutboxState::as_str);
        let open = Filter::eq("campaign", name).and(Filter::one_of("state", open));
        let mut most = PAGE;
        let why = format!("campaign: cancelled: {why}");
        let mut count = 0;
        loop {
            let query = Query::new(open.clone()).limit(most);
            let page = store.find(ctx, &OUTBOX, &query).await?.items;
            if page.is_empty() {
                return Ok(count);
            }
            let now = self.outreach.time.now();
            let mut news = Vec::with_capacity(page.len());
            let mut writes = Vec::with_capacity(page.len() * 2);
            for stored in page {
                let mut record = stored.record;
                // One that is to be repeated because its answer was lost may be there already.
                let end = match record.bool("maybe_sent")? {
                    true => OutboxState::Unknown,
                    false => OutboxState::Cancelled,
                };
                record.set("state", end.as_str())?;
                record.set("finished_at", now)?;
                record.set("last_error", why.as_str())?;
                record.set("dedupe_key", Value::Null)?;
                join_delivery(&mut record, end.delivery())?;
                // One that cannot be read is on nobody's timeline.
                if let Ok(entry) = Entry::read(stored.id, &record) {
                    news.push(entry.called_back(ids.fresh(), now, end, &why)?);
                }
                writes.push(Write::update(stored.id, stored.version, record));
            }
            let ended = writes.len() as u64;
            writes.append(&mut news);
            match store.apply(ctx, &writes).await {
                Ok(_) => {
                    count += ended;
                    most = (most * 2).min(PAGE);
                }
                // A dispatcher took some of them meanwhile: it asks about the campaign before it begins any.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    most = (most / 2).max(10);
                    tokio::task::yield_now().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn sweep(&self, ctx: &Context, name: &str, from: OutboxState, assign: Vec<Assign>) -> Result<u64> {
        let due = Filter::eq("campaign", name).and(Filter::eq("state", from.as_str()));
        let claim = Claim {
            due,
            order: Vec::new(),
            limit: SWEEP,
            assign,
        };
        let mut count = 0;
        loop {
            let swept = self.outreach.store.claim(ctx, &OUTBOX, &claim).await?.len();
            count += swept as u64;
            if swept == 0 {
                return Ok(count);
            }
        }
    }

    /// What is known of the messages of a campaign.
    pub(super) async fn known(&self, ctx: &Context, name: &str) -> Result<Known> {
        let states = [
            DeliveryState::Accepted,
            DeliveryState::Delivered,
            DeliveryState::Failed,
            DeliveryState::Complained,
        ];
        let filter =
            Filter::eq("campaign", name).and(Filter::one_of("delivery", states.map(DeliveryState::as_str)));
        let count = Aggregate::new(filter)
            .by("delivery")
            .measure("messages", Measure::Count);
        let table = self.outreach.store.aggregate(ctx, &OUTBOX, &count).await?;
        let (state, messages) = (table.column("delivery")?, table.column("messages")?);
        let mut known = Known::default();
        for row in 0..table.rows() {
            let count = messages.value(row).as_int().unwrap_or(0).unsigned_abs();
            match state.text_at(row).and_then(|text| text.parse().ok()) {
                Some(DeliveryState::Failed) => known.bounced += count,
                Some(DeliveryState::Complained) => known.complained += count,
                _ => known.good += count,
            }
        }
        let ours = [Blame::Content, Blame::Sender].map(Blame::as_str);
        let refused = Filter::eq("campaign", name)
            .and(Filter::one_of("blame", ours))
            .and(Filter::eq("delivery", DeliveryState::Failed.as_str()));
        known.refused = self.outreach.store.count(ctx, &OUTBOX, &refused).await?;
        Ok(known)
    }

    /// Why a campaign must pause, if it must.
    pub(super) async fn trips(
        &self,
        ctx: &Context,
        plan: &CampaignPlan,
        run: &Run,
    ) -> Result<Option<String>> {
        let breaker = plan.breaker;
        if (breaker.sample, breaker.refusals) == (u64::MAX, u64::MAX) {
            return Ok(None);
        }
        let (known, before) = (self.known(ctx, &run.name).await?, run.baseline);
        let refused = known.refused.saturating_sub(before.refused);
        if refused > breaker.refusals {
            return Ok(Some(format!(
                "breaker: {refused} messages were refused for what they say or for who we are; see their last errors, mend the cause and resume"
            )));
        }
        let bounced = known.bounced.saturating_sub(before.bounced);
        let complained = known.complained.saturating_sub(before.complained);
        let all = bounced + complained + known.good.saturating_sub(before.good);
        if all < breaker.sample {
            return Ok(None);
        }
        let over = |count: u64, most: f64, what: &str| {
            let share = count as f64 / all as f64;
            (share > most).then(|| {
                format!(
                    "breaker: {:.2} % of {all} messages {what}, more than {:.2} %",
                    share * 100.0,
                    most * 100.0
                )
            })
        };
        Ok(over(bounced, breaker.bounces, "did not arrive")
            .or_else(|| over(complained, breaker.complaints, "were complained about")))
    }
}
