use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::ErasedEntry;
use crate::{Effect, Error, ErrorKind, Health, Provider, Result};

/// One provider in a pool, with its priority and last known health.
pub struct Entry<T: ?Sized> {
    priority: i32,
    provider: Arc<T>,
    health: AtomicU8,
}

impl<T: ?Sized + Provider> Entry<T> {
    pub(super) fn new(priority: i32, provider: Arc<T>) -> Self {
        Self {
            priority,
            provider,
            health: AtomicU8::new(to_u8(Health::Ready)),
        }
    }
}

impl<T: ?Sized> Entry<T> {
    /// Its priority; the highest is asked first.
    pub fn priority(&self) -> i32 {
        self.priority
    }
    /// The provider.
    pub fn provider(&self) -> &Arc<T> {
        &self.provider
    }
    /// Its health when last asked; [`Health::Ready`] before.
    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            0 => Health::Down,
            1 => Health::Degraded,
            _ => Health::Ready,
        }
    }
    /// Sets its health, for hosts that know better.
    pub fn set_health(&self, health: Health) {
        self.health.store(to_u8(health), Ordering::Relaxed);
    }
}

fn to_u8(health: Health) -> u8 {
    match health {
        Health::Down => 0,
        Health::Degraded => 1,
        Health::Ready => 2,
    }
}

#[async_trait::async_trait]
impl<T: ?Sized + Provider> ErasedEntry for Entry<T> {
    fn name(&self) -> String {
        self.provider.info().name.clone()
    }
    async fn refresh(&self) -> Health {
        let health = self.provider.check().await.unwrap_or(Health::Down);
        self.set_health(health);
        health
    }
    fn health(&self) -> Health {
        Entry::health(self)
    }
}

/// The providers of one capability: select by tag or ability, then take the best or fail over.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_core::capability::RecordStore;
/// use crm_core::memory::MemoryStore;
/// use crm_core::{Error, ErrorKind, Provider, Registry};
///
/// let registry = Registry::builder()
///     .provide::<dyn RecordStore>(10, Arc::new(MemoryStore::new("near")))
///     .provide::<dyn RecordStore>(0, Arc::new(MemoryStore::new("far")))
///     .build()
///     .unwrap();
/// let pool = registry.pool::<dyn RecordStore>().unwrap();
/// // "near" is busy, so "far" is asked; an unknown outcome would have stopped here.
/// let answered_by = pool
///     .run(|store| async move {
///         match store.info().name.as_str() {
///             "near" => Err(Error::new(ErrorKind::Unavailable, "busy")),
///             name => Ok(name.to_owned()),
///         }
///     })
///     .await
///     .unwrap();
/// assert_eq!(answered_by, "far");
/// # });
/// ```
pub struct Pool<T: ?Sized> {
    entries: Vec<Arc<Entry<T>>>,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<T: ?Sized> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self {
            entries: self.entries.clone(),
        }
    }
}

impl<T: ?Sized + Provider> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(
                self.entries
                    .iter()
                    .map(|e| (e.priority, &e.provider.info().name, e.health())),
            )
            .finish()
    }
}

impl<T: ?Sized> Pool<T> {
    pub(super) fn insert(&mut self, entry: Arc<Entry<T>>) {
        self.entries.push(entry);
        self.entries
            .sort_by_key(|entry| std::cmp::Reverse(entry.priority));
    }

    /// The number of providers.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// The providers, highest priority first.
    pub fn entries(&self) -> &[Arc<Entry<T>>] {
        &self.entries
    }

    /// Only those for which `keep` is true; asked of the provider itself, so typed abilities can be used.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&T) -> bool) -> Self {
        Self {
            entries: self
                .entries
                .iter()
                .filter(|entry| keep(&entry.provider))
                .cloned()
                .collect(),
        }
    }
}

impl<T: ?Sized + Provider> Pool<T> {
    /// Only those with this tag.
    #[must_use]
    pub fn tagged(&self, key: &str, value: &str) -> Self {
        self.filter(|provider| provider.info().tag_value(key) == Some(value))
    }

    /// Those that are not down, the healthiest first, among them the highest priority first.
    fn ranked(&self) -> Vec<Arc<Entry<T>>> {
        let mut ranked: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| entry.health() != Health::Down)
            .cloned()
            .collect();
        ranked.sort_by_key(|entry| {
            (
                std::cmp::Reverse(entry.health()),
                std::cmp::Reverse(entry.priority),
            )
        });
        ranked
    }

    /// The best provider.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when none is left or all are down.
    pub fn best(&self) -> Result<Arc<T>> {
        self.ranked()
            .first()
            .map(|entry| entry.provider.clone())
            .ok_or_else(|| self.nobody())
    }

    fn nobody(&self) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            "no provider of this capability is left: none matches, or all are down",
        )
        .with("capability", super::Capability::of::<T>().name())
        .with("providers", self.entries.len())
    }

    /// Calls the best provider, and the next one when the call certainly had no effect and another may do better:
    /// not after an unknown outcome, and not when the input itself is wrong.
    ///
    /// # Errors
    /// The last provider's error, or that of the first that must not be failed over.
    pub async fn run<R, F, Fut>(&self, call: F) -> Result<R>
    where
        F: Fn(Arc<T>) -> Fut,
        Fut: Future<Output = Result<R>>,
    {
        let mut last = None;
        for entry in self.ranked() {
            match call(entry.provider.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) if may_fail_over(&error) => {
                    tracing::debug!(provider = %entry.provider.info(), kind = %error.kind(), "failing over");
                    last = Some(error.with("provider", entry.provider.info()));
                }
                Err(error) => return Err(error.with("provider", entry.provider.info())),
            }
        }
        Err(last.unwrap_or_else(|| self.nobody()))
    }
}

/// Another provider is asked only when this one certainly did nothing and the fault is its own: not after an unknown
/// outcome, and not when the input itself is wrong.
pub fn may_fail_over(error: &Error) -> bool {
    error.effect() == Effect::None
        && matches!(
            error.kind(),
            ErrorKind::Unavailable
                | ErrorKind::RateLimited
                | ErrorKind::Timeout
                | ErrorKind::Unauthenticated
                | ErrorKind::Unsupported
                | ErrorKind::Config
        )
}
