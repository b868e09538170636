//! Takes messages from the outbox and hands them to a provider: once, or it says so.
//!
//! - A message is claimed under a lease: a token, an end by the store's clock (the injected one where the store has none of
//!   its own), and the record's version as the fence.
//!   Whoever lost the lease cannot complete anything; a message of a dead process is claimed again after the lease.
//! - Right before the hand-over the consent gate decides on what is stored then, and `send_started_at` is committed:
//!   for as many messages at once as are handed over next.
//! - An outcome that cannot be known (answer lost after the end of the message, or a process that died while sending)
//!   is repeated for transactional mail under the same `Message-ID`, and ends as `unknown` for marketing, text messages
//!   and calls; [`Dispatcher::reconcile`] asks the vendors about those.
//! - Ends are gathered while the store is busy and written together, each fenced by its own version.
//!
//! [`Dispatcher::tick`] does one batch; [`Dispatcher::run`] goes on until told to stop, [`Dispatcher::run_all`] for several
//! tenants in turn. Nothing is spawned.
//!
//! ```
//! use crm_channels::DispatchSettings;
//! use std::time::Duration;
//!
//! let settings = DispatchSettings { lease: Duration::from_secs(60), ..DispatchSettings::default() };
//! assert_eq!(settings.batch, 200);
//! ```

mod aftermath;
mod begin;
mod campaign;
mod claim;
mod commit;
mod hand;
mod pump;
mod reconcile;
mod report;
mod requeue;
mod settings;
mod settle;
mod upkeep;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::consent::Gate;
use crm_core::message::DeliveryState;
use crm_core::{Clock, Context, Error, ErrorKind, IdSource, Result, SharedTime, Timestamp};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Semaphore, watch};

pub use reconcile::ReconcileReport;
pub use report::TickReport;
pub use settings::{Allowed, DispatchSettings, Mode, Redirect};

use crate::limits::Limits;
use crate::outbox::OutboxState;
use crate::routing::{Providers, Router};
use pump::{Feed, Pump};

const SECOND: Duration = Duration::from_secs(1);

/// Sends what is due. Any number of them may work on one store, in one process or many.
#[derive(Clone)]
pub struct Dispatcher {
    store: Arc<dyn RecordStore>,
    router: Arc<Router>,
    gate: Arc<Gate>,
    time: Arc<SharedTime>,
    ids: Arc<dyn IdSource>,
    mode: Mode,
    settings: DispatchSettings,
    limits: Arc<Limits>,
    /// What is begun and not settled, of all tenants; shared with its clones.
    slots: Arc<Semaphore>,
}

impl Dispatcher {
    /// A dispatcher over a store and providers. In [`Mode::Record`] no live provider is ever asked.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting that is wrong; [`ErrorKind::Unsupported`] without any provider, unless
    /// everything is only recorded.
    pub fn new(
        store: Arc<dyn RecordStore>,
        providers: &Providers,
        gate: Arc<Gate>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        mode: Mode,
        settings: DispatchSettings,
    ) -> Result<Self> {
        settings.validate()?;
        if mode != Mode::Record && providers.is_empty() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "nobody to send with; provide a mailer, an SMS sender or a voice caller to the registry",
            ));
        }
        Ok(Self {
            time: SharedTime::new(store.clone(), clock),
            store,
            router: Arc::new(Router::new(providers)),
            gate,
            ids,
            mode,
            limits: Arc::new(Limits::new(settings.limits.clone())),
            slots: Arc::new(Semaphore::new(settings.concurrency)),
            settings,
        })
    }

    /// Claims one batch and sees it through. Dropping the future is a crash, which the leases are made for: what was
    /// claimed is claimed again when they end.
    ///
    /// # Errors
    /// Those of the store while claiming. What goes wrong with a single message is in the report.
    pub async fn tick(&self, ctx: &Context) -> Result<TickReport> {
        let (_go, stop) = watch::channel(false);
        Pump::new(self, ctx, Feed::Once, self.settings.concurrency, stop)
            .work()
            .await
    }

    /// Works until nothing is due any more; the next batch is claimed while the one before is still on its way. Stops at a
    /// pause, and when nothing can be written.
    ///
    /// # Errors
    /// As [`Dispatcher::tick`].
    pub async fn drain(&self, ctx: &Context) -> Result<TickReport> {
        let (_go, stop) = watch::channel(false);
        Pump::new(self, ctx, Feed::Drain, self.settings.concurrency, stop)
            .work()
            .await
    }

    /// Works until `shutdown` is ready: then nothing new is begun, what is being sent is finished, and the rest goes
    /// back into the queue. Answers what was done in all. A store that fails for a while is waited for.
    ///
    /// # Errors
    /// Those of the store that will not go away by themselves.
    pub async fn run(&self, ctx: &Context, shutdown: impl Future<Output = ()>) -> Result<TickReport> {
        self.run_all(std::slice::from_ref(ctx), shutdown).await
    }

    /// [`Dispatcher::run`] for several tenants. They share the [`DispatchSettings::concurrency`]: free slots are given out in
    /// line, and none of several gets more than three quarters, so that the backlog of one holds up nobody else.
    ///
    /// # Errors
    /// As [`Dispatcher::run`]; the others are stopped then.
    pub async fn run_all(
        &self,
        tenants: &[Context],
        shutdown: impl Future<Output = ()>,
    ) -> Result<TickReport> {
        let (say, stop) = watch::channel(false);
        let share = match tenants.len() {
            0 | 1 => self.settings.concurrency,
            _ => self.settings.concurrency * 3 / 4,
        };
        let mut pumps: FuturesUnordered<_> = tenants
            .iter()
            .map(|ctx| Pump::new(self, ctx, Feed::Forever, share, stop.clone()).work())
            .collect();
        let mut shutdown = std::pin::pin!(shutdown);
        let (mut all, mut wrong, mut stopped) = (TickReport::default(), None, false);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown, if !stopped => {
                    stopped = true;
                    say.send_replace(true);
                }
                done = pumps.next(), if !pumps.is_empty() => match done {
                    Some(Ok(report)) => all.add(report),
                    Some(Err(error)) => {
                        wrong.get_or_insert(error);
                        say.send_replace(true);
                    }
                    None => {}
                },
                else => break,
            }
            if pumps.is_empty() && (stopped || wrong.is_some()) {
                break;
            }
        }
        match wrong {
            Some(error) => Err(error),
            None => Ok(all),
        }
    }

    /// What time it is where leases are counted.
    fn now(&self) -> Timestamp {
        self.time.now()
    }

    fn lease_end(&self, now: Timestamp) -> Timestamp {
        now.plus(self.settings.lease)
    }
}

impl OutboxState {
    /// The news that goes on the timeline with this end.
    pub(crate) fn delivery(self) -> DeliveryState {
        match self {
            Self::Queued | Self::Leased | Self::Held => DeliveryState::Queued,
            Self::Sent => DeliveryState::Accepted,
            Self::Recorded => DeliveryState::Recorded,
            Self::Refused | Self::Expired | Self::Cancelled => DeliveryState::Refused,
            Self::Failed | Self::Dead => DeliveryState::Failed,
            Self::Unknown => DeliveryState::Unknown,
        }
    }
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher")
            .field("mode", &self.mode)
            .field("router", &self.router)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
