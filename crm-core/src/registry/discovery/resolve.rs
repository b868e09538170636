use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::{Discovery, Instance, InstanceStatus, Service, Snapshot};
use crate::registry::{Catalog, Entry, Pool};
use crate::{Health, Provider, Result};

/// Turns the instances of a service into a pool of providers: each address is opened with the factory that the
/// [`Catalog`] has for its scheme.
///
/// What a register says is a hint. An instance that is up is used. One whose status nobody knows is used when it answers
/// [`Provider::check`] itself. And when more than half of the instances disappear at once, which a register in trouble
/// looks like, those that still answer stay in the pool, as [`Health::Degraded`], until they stop answering or are
/// listed again: an empty answer does not wipe out who is alive.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_core::SystemClock;
/// use crm_core::capability::RecordStore;
/// use crm_core::memory::MemoryStore;
/// use crm_core::registry::Catalog;
/// use crm_core::registry::discovery::{Discovery, Instance, MemoryDiscovery, Resolver, Service};
///
/// let mut catalog = Catalog::new();
/// catalog.register::<dyn RecordStore, _, _>("http", |url| async move {
///     Ok(Arc::new(MemoryStore::new(url)) as Arc<dyn RecordStore>) // in truth: a client of that address
/// });
/// let service = Service::new("record-store", "main").unwrap();
/// let register = Arc::new(MemoryDiscovery::new("register", SystemClock::shared()));
/// let one = Instance::new(service.clone(), "one", "http://10.0.0.1/".parse().unwrap());
/// register.register(&one).await.unwrap();
///
/// let resolver = Resolver::<dyn RecordStore>::new(register, service, Arc::new(catalog));
/// resolver.refresh().await.unwrap();
/// assert_eq!(resolver.pool().await.len(), 1);
/// # });
/// ```
pub struct Resolver<T: ?Sized> {
    discovery: Arc<dyn Discovery>,
    service: Service,
    catalog: Arc<Catalog>,
    zone: Option<String>,
    bound: Mutex<Bound<T>>,
}

struct Bound<T: ?Sized> {
    entries: BTreeMap<String, Held<T>>,
}

struct Held<T: ?Sized> {
    instance: Instance,
    entry: Arc<Entry<T>>,
    /// Not listed any more, but it disappeared together with so many that the register is doubted.
    doubted: bool,
}

/// What a refresh did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The generation of the register's answer.
    pub generation: u64,
    /// Providers that can be called now.
    pub usable: usize,
    /// Opened by this refresh.
    pub opened: usize,
    /// Let go by this refresh.
    pub dropped: usize,
    /// Not listed any more, but still answering: kept because too many disappeared at once.
    pub doubted: usize,
    /// Listed, but could not be opened, or of unknown status and not answering.
    pub failed: usize,
}

/// In its own zone first, elsewhere when there is nobody.
const NEAR: i32 = 10;
const FAR: i32 = 0;

impl<T: ?Sized + Provider> Resolver<T> {
    /// A resolver that has bound nothing yet.
    pub fn new(discovery: Arc<dyn Discovery>, service: Service, catalog: Arc<Catalog>) -> Self {
        Self {
            discovery,
            service,
            catalog,
            zone: None,
            bound: Mutex::new(Bound {
                entries: BTreeMap::new(),
            }),
        }
    }

    /// Prefers the instances of this zone.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Asks the register, opens what is new, and lets go what is gone.
    ///
    /// # Errors
    /// Those of [`Discovery::list`]; the pool stays as it was. A single instance that cannot be opened is counted and
    /// tried again at the next refresh.
    pub async fn refresh(&self) -> Result<Resolved> {
        let snapshot = self.discovery.list(&self.service).await?;
        Ok(self.follow(&snapshot).await)
    }

    /// Like [`Resolver::refresh`] with a snapshot that a [`Watch`](super::Watch) gave.
    pub async fn follow(&self, snapshot: &Snapshot) -> Resolved {
        let mut bound = self.bound.lock().await;
        let mut done = Resolved {
            generation: snapshot.generation,
            ..Resolved::default()
        };
        self.let_go(&mut bound, snapshot, &mut done).await;
        for instance in snapshot.instances.iter() {
            if !matches!(instance.status, InstanceStatus::Up | InstanceStatus::Unknown) {
                continue;
            }
            self.bind(&mut bound, instance, &mut done).await;
        }
        done.usable = bound.entries.len();
        done
    }

    async fn let_go(&self, bound: &mut Bound<T>, snapshot: &Snapshot, done: &mut Resolved) {
        let listed = |id: &str| snapshot.get(id);
        let before = bound.entries.values().filter(|held| !held.doubted).count();
        let missing = bound
            .entries
            .values()
            .filter(|held| !held.doubted && listed(&held.instance.id).is_none())
            .count();
        // One of one is as suspicious as all of many, for an empty list is what a register that just started says.
        let suspicious = missing * 2 > before;
        let ids: Vec<String> = bound.entries.keys().cloned().collect();
        for id in ids {
            let Some(held) = bound.entries.get_mut(&id) else {
                continue;
            };
            let keep = match listed(&id) {
                // Who says itself that it must not be called is let go without a doubt.
                Some(instance) => matches!(instance.status, InstanceStatus::Up | InstanceStatus::Unknown),
                None => {
                    held.doubted |= suspicious;
                    held.doubted
                        && held
                            .entry
                            .provider()
                            .check()
                            .await
                            .is_ok_and(|health| health != Health::Down)
                }
            };
            if !keep {
                bound.entries.remove(&id);
                done.dropped += 1;
            } else if held.doubted {
                if listed(&id).is_some() {
                    held.doubted = false;
                    held.entry.set_health(Health::Ready);
                } else {
                    held.entry.set_health(Health::Degraded);
                    done.doubted += 1;
                }
            }
        }
    }

    async fn bind(&self, bound: &mut Bound<T>, instance: &Instance, done: &mut Resolved) {
        let same = bound
            .entries
            .get_mut(&instance.id)
            .filter(|held| held.instance.address == instance.address && held.instance.zone == instance.zone);
        let unsure = instance.status == InstanceStatus::Unknown;
        if let Some(held) = same {
            if unsure {
                let health = held.entry.provider().check().await.unwrap_or(Health::Down);
                held.entry.set_health(health);
                done.failed += usize::from(health == Health::Down);
            } else if held.instance.status == InstanceStatus::Unknown {
                held.entry.set_health(Health::Ready);
            }
            held.instance = instance.clone();
            return;
        }
        let opened = match self.catalog.open::<T>(instance.address.as_str()).await {
            Ok(provider) if unsure => match provider.check().await {
                Ok(health) if health != Health::Down => Some(provider),
                _ => None,
            },
            Ok(provider) => Some(provider),
            Err(error) => {
                tracing::warn!(service = %self.service, instance = %instance.id, kind = %error.kind(), "an instance cannot be opened");
                None
            }
        };
        let Some(provider) = opened else {
            done.failed += 1;
            return;
        };
        let near = self.zone.is_some() && self.zone == instance.zone;
        let held = Held {
            instance: instance.clone(),
            entry: Arc::new(Entry::new(if near { NEAR } else { FAR }, provider)),
            doubted: false,
        };
        if bound.entries.insert(instance.id.clone(), held).is_some() {
            done.dropped += 1;
        }
        done.opened += 1;
    }

    /// The providers that are bound now, those of its own zone first. A pool is a value: ask again after a refresh.
    pub async fn pool(&self) -> Pool<T> {
        let mut pool = Pool::default();
        for held in self.bound.lock().await.entries.values() {
            pool.insert(held.entry.clone());
        }
        pool
    }
}

impl<T: ?Sized> fmt::Debug for Resolver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("service", &self.service)
            .field("discovery", &self.discovery.info().name)
            .field("zone", &self.zone)
            .finish_non_exhaustive()
    }
}
