//! Policies: what happens around every call of a provider, whatever it does. Written once, put around any capability
//! by [`Layered`](crate::Layered).
//!
//! A policy sees that a call is made, not what it carries, so that one trait serves all. The order matters; see
//! [`Stack::recommended`].
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use std::time::Duration;
//! use crm_core::capability::Mailer;
//! use crm_core::memory::MemoryMailer;
//! use crm_core::policy::{Retry, Stack, Timeout};
//! use crm_core::{Error, ErrorKind, Layered};
//! # use crm_core::testkit::fixtures;
//!
//! let mailer = Arc::new(MemoryMailer::new("memory"));
//! mailer.fail_next(Error::new(ErrorKind::Unavailable, "busy"));
//! let retry = Retry::new(3, 7).backoff(Duration::from_millis(1), Duration::from_millis(5));
//! let layered: Arc<dyn Mailer> =
//!     Arc::new(Layered::new(mailer.clone(), Stack::new().with(retry).with(Timeout::new(Duration::from_secs(60)))));
//! layered.send(&fixtures::context(), &fixtures::permitted(fixtures::email(1))).await.unwrap();
//! assert_eq!(mailer.sent().len(), 1, "the second attempt was taken");
//! # });
//! ```

mod breaker;
mod concurrency;
mod rate;
mod retry;
mod timeout;
mod trace;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

pub use breaker::Breaker;
pub use concurrency::Concurrency;
pub use rate::Rate;
pub use retry::Retry;
pub use timeout::Timeout;
pub use trace::Trace;

use crate::{Clock, Error, ProviderInfo, Result};

/// What a call does, as far as policies care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// `noun.verb`: `mail.send`, `store.apply`.
    pub name: &'static str,
    /// Whether doing it twice is the same as doing it once.
    pub idempotent: bool,
    /// Whether it hands things over while it runs (a scan's chunks, a collector's drafts). Such a call cannot be made
    /// again from the outside, what has been handed over would come twice; it lasts as long as its taker wants; and its
    /// errors may be the taker's. So of the policies here only [`Trace`] acts on it.
    pub streams: bool,
}

impl Op {
    /// A call that is made once and has an effect.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            idempotent: false,
            streams: false,
        }
    }
    /// The same, but doing it twice is the same as doing it once.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }
    /// The same, but it hands things over while it runs.
    #[must_use]
    pub const fn streams(mut self) -> Self {
        self.streams = true;
        self
    }
}

/// A call that is about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// What it does.
    pub op: Op,
    /// Who is called.
    pub provider: &'a ProviderInfo,
}

type Attempt<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// The rest of the way: the policies further in, and the provider. Can be run again, unless the call streams.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    call: Call<'a>,
    rest: &'a [Arc<dyn Policy>],
    end: &'a (dyn Fn() -> Attempt<'a> + Send + Sync + 'a),
}

impl<'a> Next<'a> {
    /// Makes the attempt. Nothing happens before the future is polled; dropping it gives up.
    ///
    /// # Errors
    /// Those of the policies further in and of the provider.
    pub fn run(self) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        match self.rest.split_first() {
            Some((policy, rest)) => policy.around(self.call, Next { rest, ..self }),
            None => (self.end)(),
        }
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next")
            .field("call", &self.call)
            .field("rest", &self.rest)
            .finish_non_exhaustive()
    }
}

/// Something that happens around calls: before, after, instead of, or several times.
///
/// The future is dropped when the caller gives up: what must be put right then belongs in a guard's `Drop`.
#[async_trait]
pub trait Policy: fmt::Debug + Send + Sync + 'static {
    /// Makes the call by [`Next::run`], or answers without it. An `Ok` must come from `next`.
    ///
    /// # Errors
    /// Those of `next`, changed or not, or the policy's own.
    async fn around<'a>(&'a self, call: Call<'a>, next: Next<'a>) -> Result<()>;
}

/// Policies in order, the outermost first. Cheap to clone; clones share the policies' state (a limit is one limit,
/// however many providers it is put around).
#[derive(Debug, Clone, Default)]
pub struct Stack {
    policies: Arc<[Arc<dyn Policy>]>,
}

impl Stack {
    /// No policies.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a policy inside those there are.
    #[must_use]
    pub fn with(self, policy: impl Policy) -> Self {
        self.with_shared(Arc::new(policy))
    }

    /// Adds a policy that is shared with other stacks.
    #[must_use]
    pub fn with_shared(self, policy: Arc<dyn Policy>) -> Self {
        Self {
            policies: self.policies.iter().cloned().chain([policy]).collect(),
        }
    }

    /// What suits most providers: [`Trace`], then [`Retry`] (3 attempts), [`Breaker`] (5 failures), [`Concurrency`] (64)
    /// and [`Timeout`] (120 s an attempt). The order is the point: the time-out is per attempt, so it stands inside the
    /// retry; the breaker sees every attempt; waiting for a place is not charged to the provider.
    ///
    /// ```
    /// use crm_core::SystemClock;
    /// use crm_core::policy::Stack;
    ///
    /// let stack = format!("{:?}", Stack::recommended(SystemClock::shared(), 7));
    /// let order = ["Trace", "Retry", "Breaker", "Concurrency", "Timeout"].map(|name| stack.find(name).unwrap());
    /// assert!(order.is_sorted());
    /// ```
    pub fn recommended(clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self::assembled(clock, seed, None)
    }

    /// [`Stack::recommended`] with a rate limit (an account's messages per second) between breaker and concurrency.
    pub fn recommended_with_rate(clock: Arc<dyn Clock>, seed: u64, rate: Rate) -> Self {
        Self::assembled(clock, seed, Some(rate))
    }

    fn assembled(clock: Arc<dyn Clock>, seed: u64, rate: Option<Rate>) -> Self {
        let outer = Self::new()
            .with(Trace::new(clock.clone()))
            .with(Retry::new(3, seed))
            .with(Breaker::new(clock, seed.wrapping_add(1)));
        let limited = match rate {
            Some(rate) => outer.with(rate),
            None => outer,
        };
        limited
            .with(Concurrency::new(64))
            .with(Timeout::new(Duration::from_secs(120)))
    }

    /// The policies, the outermost first.
    pub fn policies(&self) -> &[Arc<dyn Policy>] {
        &self.policies
    }

    /// Makes a call through the policies; `f` is called once an attempt.
    ///
    /// # Errors
    /// Those of `f` and of the policies.
    pub async fn call<T, F, Fut>(&self, op: Op, provider: &ProviderInfo, f: F) -> Result<T>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        if self.policies.is_empty() {
            return f().await;
        }
        // The answer lies here, so that policies need not know its type.
        let slot = Mutex::new(None);
        let end = || -> Attempt<'_> {
            Box::pin(async {
                let answer = f().await?;
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
                Ok(())
            })
        };
        Next {
            call: Call { op, provider },
            rest: &self.policies,
            end: &end,
        }
        .run()
        .await?;
        let answer = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        answer.ok_or_else(|| Error::unexpected("a policy answered for the provider").operation(op.name))
    }

    /// Makes a call that streams ([`Op::streams`]): one attempt only.
    ///
    /// # Errors
    /// Those of the future and of the policies; [`crate::ErrorKind::Unexpected`] when a policy tries a second attempt.
    pub async fn once<T, Fut>(&self, op: Op, provider: &ProviderInfo, attempt: Fut) -> Result<T>
    where
        T: Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        if self.policies.is_empty() {
            return attempt.await;
        }
        let slot = Mutex::new(None);
        let only: Mutex<Option<Attempt<'_>>> = Mutex::new(Some(Box::pin(async {
            let answer = attempt.await?;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            Ok(())
        })));
        let end = || -> Attempt<'_> {
            let taken = only.lock().unwrap_or_else(PoisonError::into_inner).take();
            taken.unwrap_or_else(|| {
                Box::pin(async move {
                    Err(Error::unexpected("a policy repeats a call that streams").operation(op.name))
                })
            })
        };
        let op = Op { streams: true, ..op };
        Next {
            call: Call { op, provider },
            rest: &self.policies,
            end: &end,
        }
        .run()
        .await?;
        let answer = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        answer.ok_or_else(|| Error::unexpected("a policy answered for the provider").operation(op.name))
    }
}
