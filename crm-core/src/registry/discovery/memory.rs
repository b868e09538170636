use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::watch::Board;
use super::{Discovery, Instance, Service, Snapshot, Watch, check_id};
use crate::{Clock, Error, Health, Provider, ProviderInfo, Result, Timestamp};

/// The most instances of one register.
const MAX_INSTANCES: usize = 100_000;

/// A register within this process: for tests, and for programs that hold all their parts themselves. Clones share it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::{sync::Arc, time::Duration};
/// use crm_core::ManualClock;
/// use crm_core::registry::discovery::{Discovery, Instance, MemoryDiscovery};
///
/// let clock = Arc::new(ManualClock::default());
/// let discovery = MemoryDiscovery::new("register", clock.clone());
/// let instance = Instance::new("mailer/out".parse().unwrap(), "one", "http://10.0.0.1/".parse().unwrap());
/// discovery.register(&instance).await.unwrap();
/// assert_eq!(discovery.list(&instance.service).await.unwrap().instances.len(), 1);
/// clock.advance(Duration::from_secs(31)); // it was not renewed
/// assert_eq!(discovery.list(&instance.service).await.unwrap().instances.len(), 0);
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct MemoryDiscovery(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    info: ProviderInfo,
    clock: Arc<dyn Clock>,
    held: Mutex<Held>,
    board: Board,
}

#[derive(Debug, Default)]
struct Held {
    services: BTreeMap<Service, BTreeMap<String, (Instance, Timestamp)>>,
    count: usize,
}

impl MemoryDiscovery {
    /// An empty register.
    pub fn new(name: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            info: ProviderInfo::new("memory", name),
            clock,
            held: Mutex::default(),
            board: Board::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out what lapsed and says what is left, under the lock, so that no later state is overtaken by an earlier.
    fn publish(&self, held: &mut Held, service: &Service) -> Snapshot {
        let now = self.0.clock.now();
        let mut left = Vec::new();
        if let Some(instances) = held.services.get_mut(service) {
            let before = instances.len();
            instances.retain(|_, (_, until)| *until > now);
            held.count -= before - instances.len();
            left.extend(instances.values().map(|(instance, _)| instance.clone()));
            if instances.is_empty() {
                held.services.remove(service);
            }
        }
        self.0.board.publish(service, left, false)
    }
}

#[async_trait]
impl Provider for MemoryDiscovery {
    fn info(&self) -> &ProviderInfo {
        &self.0.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Discovery for MemoryDiscovery {
    async fn register(&self, instance: &Instance) -> Result<()> {
        instance
            .validate()
            .map_err(|error| error.operation("discovery.register"))?;
        let until = self.0.clock.now().plus(instance.lease);
        let mut held = self.lock();
        let there = held
            .services
            .get(&instance.service)
            .is_some_and(|all| all.contains_key(&instance.id));
        if held.count >= MAX_INSTANCES && !there {
            return Err(Error::invalid("the register is full")
                .operation("discovery.register")
                .with("most", MAX_INSTANCES));
        }
        let old = held
            .services
            .entry(instance.service.clone())
            .or_default()
            .insert(instance.id.clone(), (instance.clone(), until));
        held.count += usize::from(old.is_none());
        self.publish(&mut held, &instance.service);
        Ok(())
    }

    async fn renew(&self, service: &Service, id: &str) -> Result<()> {
        let now = self.0.clock.now();
        let mut held = self.lock();
        let entry = held.services.get_mut(service).and_then(|all| all.get_mut(id));
        match entry {
            Some((instance, until)) if *until > now => {
                *until = now.plus(instance.lease);
                Ok(())
            }
            _ => {
                self.publish(&mut held, service);
                Err(super::not_registered(service))
            }
        }
    }

    async fn deregister(&self, service: &Service, id: &str) -> Result<()> {
        check_id(id).map_err(|error| error.operation("discovery.deregister"))?;
        let mut held = self.lock();
        let gone = held.services.get_mut(service).and_then(|all| all.remove(id));
        held.count -= usize::from(gone.is_some());
        self.publish(&mut held, service);
        Ok(())
    }

    async fn list(&self, service: &Service) -> Result<Snapshot> {
        let mut held = self.lock();
        Ok(self.publish(&mut held, service))
    }

    async fn watch(&self, service: &Service) -> Result<Watch> {
        let mut held = self.lock();
        let watch = self.0.board.watch(service)?;
        self.publish(&mut held, service);
        Ok(watch)
    }

    async fn tick(&self) -> Result<Duration> {
        let mut held = self.lock();
        let services: Vec<Service> = held.services.keys().cloned().collect();
        for service in services {
            self.publish(&mut held, &service);
        }
        let now = self.0.clock.now();
        let next = held
            .services
            .values()
            .flat_map(|all| all.values())
            .map(|(_, until)| until.since(now))
            .min();
        Ok(next.unwrap_or(super::IDLE).clamp(super::BREATH, super::IDLE))
    }
}
