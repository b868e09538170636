//! Takes messages from the outbox and hands them to a mailer: once, or it says so.
//!
//! - A message is claimed under a lease: a token, an end by the injected clock, and the record's version as the fence.
//!   Whoever lost the lease cannot complete anything; a message of a dead process is claimed again after the lease.
//! - Right before the hand-over the consent gate decides on what is stored then, and `send_started_at` is committed.
//! - An outcome that cannot be known (answer lost after the end of the message, or a process that died while sending)
//!   is repeated for transactional mail under the same `Message-ID`, and ends as `unknown` for marketing.
//!
//! [`Dispatcher::tick`] does one batch; [`Dispatcher::run`] goes on until told to stop. Nothing is spawned.
//!
//! ```
//! use crm_channels::DispatchSettings;
//! use std::time::Duration;
//!
//! let settings = DispatchSettings { lease: Duration::from_secs(60), ..DispatchSettings::default() };
//! assert_eq!(settings.batch, 50);
//! ```

mod report;
mod settle;
mod work;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crm_core::capability::{Mailer, RecordStore};
use crm_core::consent::Gate;
use crm_core::message::MessageId;
use crm_core::query::{Assign, Claim, Filter, Order, Query};
use crm_core::record::{Stored, Value, Write};
use crm_core::registry::Pool;
use crm_core::{Clock, Context, Error, ErrorKind, IdSource, Result, Timestamp, Uuid};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Semaphore;

pub use report::TickReport;

use crate::outbox::{OUTBOX, OutboxState};

/// Whether messages really go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// No live mailer is asked, whatever is registered. Everything else happens, and messages end as `recorded`.
    #[default]
    Record,
    /// Messages go out.
    Live,
}

/// How a dispatcher works. All lengths of time are real time; the lease is counted on the injected clock.
#[derive(Debug, Clone)]
pub struct DispatchSettings {
    /// How many messages are claimed at once, 1 to 1000.
    pub batch: u32,
    /// How many are sent at the same time, at least 1.
    pub concurrency: usize,
    /// How long a claim holds without a heartbeat; one is made every third of it.
    pub lease: Duration,
    /// The first wait before a retry is up to this long, and doubles with every try.
    pub backoff_base: Duration,
    /// No wait is longer.
    pub backoff_cap: Duration,
    /// How long everything waits when a mailer cannot be used for reasons of its own (log-in, settings).
    pub pause: Duration,
    /// How long [`Dispatcher::run`] rests when nothing is due.
    pub idle: Duration,
    /// Seed of the jitter: same seed, message and try, same wait.
    pub seed: u64,
}

impl Default for DispatchSettings {
    fn default() -> Self {
        Self {
            batch: 50,
            concurrency: 8,
            lease: Duration::from_secs(30),
            backoff_base: Duration::from_secs(15),
            backoff_cap: Duration::from_secs(6 * 3600),
            pause: Duration::from_secs(300),
            idle: Duration::from_secs(1),
            seed: 0,
        }
    }
}

impl DispatchSettings {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if !(1..=1000).contains(&self.batch) {
            return wrong("batch", "a batch is 1 to 1000 messages");
        }
        if self.concurrency == 0 {
            return wrong("concurrency", "at least one message is sent at a time");
        }
        if self.lease < Duration::from_millis(100) {
            return wrong("lease", "a lease is at least 100 ms");
        }
        if self.backoff_base.is_zero() || self.backoff_cap < self.backoff_base {
            return wrong(
                "backoff_cap",
                "the waits are more than nothing, and the cap is not below the base",
            );
        }
        Ok(())
    }
}

/// Sends what is due. Any number of them may work on one store, in one process or many.
#[derive(Clone)]
pub struct Dispatcher {
    store: Arc<dyn RecordStore>,
    mailers: Pool<dyn Mailer>,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    mode: Mode,
    settings: DispatchSettings,
}

/// What one run over a batch shares.
struct Batch {
    slots: Semaphore,
    /// Set by the host's shutdown or a mailer that cannot be used: what has not begun goes back.
    stop: AtomicBool,
}

impl Dispatcher {
    /// A dispatcher over a store and mailers. In [`Mode::Record`] live mailers are left out here, so that nothing
    /// further down can reach them.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting that is wrong; [`ErrorKind::Unsupported`] in [`Mode::Live`] without a
    /// mailer.
    pub fn new(
        store: Arc<dyn RecordStore>,
        mailers: Pool<dyn Mailer>,
        gate: Arc<Gate>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        mode: Mode,
        settings: DispatchSettings,
    ) -> Result<Self> {
        settings.validate()?;
        let live = mailers.filter(|mailer| mailer.capability().live);
        let mailers = match mode {
            Mode::Record => mailers.filter(|mailer| !mailer.capability().live),
            // A recorder beside a live mailer is no replacement for it: failing over to it would lose the message.
            Mode::Live if !live.is_empty() => live,
            Mode::Live if mailers.is_empty() => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "no mailer to send with; provide one to the registry",
                ));
            }
            Mode::Live => mailers,
        };
        Ok(Self {
            store,
            mailers,
            gate,
            clock,
            ids,
            mode,
            settings,
        })
    }

    /// Claims one batch and sees it through. Dropping the future is a crash, which the leases are made for: what was
    /// claimed is claimed again when they end.
    ///
    /// # Errors
    /// Those of the store while claiming. What goes wrong with a single message is in the report.
    pub async fn tick(&self, ctx: &Context) -> Result<TickReport> {
        self.batch(ctx, &AtomicBool::new(false)).await
    }

    /// [`Dispatcher::tick`] until nothing is due any more, the batch's reports added up. Stops at a pause.
    ///
    /// # Errors
    /// As [`Dispatcher::tick`].
    pub async fn drain(&self, ctx: &Context) -> Result<TickReport> {
        let mut all = TickReport::default();
        loop {
            let report = self.tick(ctx).await?;
            let done = report.claimed == 0 || report.paused.is_some() || report.errors == report.claimed;
            all.add(report);
            if done {
                return Ok(all);
            }
        }
    }

    /// Works until `shutdown` is ready: then nothing new is begun, what is being sent is finished, and the rest goes
    /// back into the queue. Answers what was done in all. A store that fails for a while is waited for.
    ///
    /// # Errors
    /// Those of the store that will not go away by themselves.
    pub async fn run(&self, ctx: &Context, shutdown: impl Future<Output = ()>) -> Result<TickReport> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut all = TickReport::default();
        loop {
            let stop = AtomicBool::new(false);
            let tick = self.batch(ctx, &stop);
            let mut tick = std::pin::pin!(tick);
            let (result, stopped) = tokio::select! {
                biased;
                () = &mut shutdown => {
                    stop.store(true, Ordering::Relaxed);
                    (tick.await, true)
                }
                result = &mut tick => (result, false),
            };
            let wait = match result {
                Ok(report) => {
                    let wait = match (&report.paused, report.claimed) {
                        (Some(_), _) => self.settings.pause,
                        (None, 0) => self.settings.idle,
                        _ => Duration::ZERO,
                    };
                    all.add(report);
                    wait
                }
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, "the outbox cannot be read; trying again");
                    self.settings.idle.max(Duration::from_secs(1))
                }
                Err(error) => return Err(error),
            };
            if stopped {
                return Ok(all);
            }
            tokio::select! {
                biased;
                () = &mut shutdown => return Ok(all),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Puts dead messages back into the queue with fresh tries, those of one campaign or all. Answers how many.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn requeue_dead(&self, ctx: &Context, campaign: Option<&str>) -> Result<u64> {
        let mut filter = Filter::eq("state", OutboxState::Dead.as_str());
        if let Some(campaign) = campaign {
            filter = filter.and(Filter::eq("campaign", campaign));
        }
        let mut count = 0;
        loop {
            let page = self
                .store
                .find(ctx, &OUTBOX, &Query::new(filter.clone()).limit(200))
                .await?;
            if page.items.is_empty() {
                return Ok(count);
            }
            for stored in page.items {
                count += u64::from(self.requeue_stored(ctx, stored).await?);
            }
        }
    }

    /// Puts one finished message back into the queue with fresh tries: a dead or failed one whose cause is gone, or an
    /// unknown one that is known not to have arrived. Answers false when somebody else changed it meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] for one that was sent, recorded or is still under way.
    pub async fn requeue(&self, ctx: &Context, id: MessageId) -> Result<bool> {
        let stored = self
            .store
            .get(ctx, &OUTBOX, &[id.uuid()])
            .await?
            .into_iter()
            .next()
            .flatten();
        let stored = stored.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "no such message in the outbox").with("message", id)
        })?;
        let state = stored.record.text("state")?;
        match OutboxState::parse(state) {
            Some(OutboxState::Dead | OutboxState::Failed | OutboxState::Unknown | OutboxState::Refused) => {
                self.requeue_stored(ctx, stored).await
            }
            _ => Err(
                Error::conflict("a message that was sent or is under way is not queued again")
                    .with("state", state),
            ),
        }
    }

    async fn requeue_stored(&self, ctx: &Context, stored: Stored) -> Result<bool> {
        let mut record = stored.record;
        record.set("state", OutboxState::Queued.as_str())?;
        record.set("run_at", self.clock.now())?;
        record.set("attempt", 0_i64)?;
        record.set("crash_count", 0_i64)?;
        record.set("maybe_sent", false)?;
        for field in [
            "lease_until",
            "send_started_at",
            "finished_at",
            "delivery",
            "delivered_at",
        ] {
            record.set(field, Value::Null)?;
        }
        match self
            .store
            .apply(ctx, &[Write::update(stored.id, stored.version, record)])
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn batch(&self, ctx: &Context, stop: &AtomicBool) -> Result<TickReport> {
        let mut report = TickReport::default();
        let token = self.ids.fresh();
        let rescued = self.claim(ctx, token, true, self.settings.batch).await?;
        report.rescued = rescued.len() as u64;
        let room = self
            .settings
            .batch
            .saturating_sub(u32::try_from(rescued.len()).unwrap_or(u32::MAX));
        let mut claimed = rescued;
        if room > 0 {
            claimed.extend(self.claim(ctx, token, false, room).await?);
        }
        report.claimed = claimed.len() as u64;
        let batch = Batch {
            slots: Semaphore::new(self.settings.concurrency),
            stop: AtomicBool::new(false),
        };
        let mut work: FuturesUnordered<_> = claimed
            .into_iter()
            .map(|stored| self.work(ctx, &batch, stop, stored))
            .collect();
        while let Some((id, done)) = work.next().await {
            report.count(id, done);
        }
        Ok(report)
    }

    /// Takes due messages, or those whose lease ended because their process died.
    async fn claim(&self, ctx: &Context, token: Uuid, rescue: bool, limit: u32) -> Result<Vec<Stored>> {
        let now = self.clock.now();
        let (state, due) = if rescue {
            (OutboxState::Leased, "lease_until")
        } else {
            (OutboxState::Queued, "run_at")
        };
        let mut assign = vec![
            Assign::Set("state", OutboxState::Leased.as_str().into()),
            Assign::Set("lease_token", token.into()),
            Assign::Set("lease_until", self.lease_end(now).into()),
            Assign::Add("attempt", 1),
        ];
        if rescue {
            assign.push(Assign::Add("crash_count", 1));
        }
        let order = |field: &str, descending: bool| Order {
            field: field.to_owned(),
            descending,
        };
        let claim = Claim {
            due: Filter::eq("state", state.as_str()).and(Filter::le(due, now)),
            order: vec![order("priority", true), order("run_at", false)],
            limit,
            assign,
        };
        self.store.claim(ctx, &OUTBOX, &claim).await
    }

    fn lease_end(&self, now: Timestamp) -> Timestamp {
        now.plus(self.settings.lease)
    }
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher")
            .field("mode", &self.mode)
            .field("mailers", &self.mailers)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
