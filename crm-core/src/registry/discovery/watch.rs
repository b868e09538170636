use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{Instance, InstanceStatus, Service};
use crate::{Error, Result};

/// The most services that one provider of discovery watches.
const MAX_WATCHED: usize = 1024;

/// All instances of a service at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Whose instances.
    pub service: Service,
    /// Grows with every change that this provider of discovery saw; 0 before anything was known. Counted by the
    /// provider for itself, so it says nothing to another process.
    pub generation: u64,
    /// The instances, whatever their status, in the order of their ids.
    pub instances: Arc<[Instance]>,
    /// The register cannot be reached: this is what was known last.
    pub stale: bool,
}

impl Snapshot {
    /// Nothing known yet.
    pub fn empty(service: Service) -> Self {
        Self {
            service,
            generation: 0,
            instances: Arc::from([]),
            stale: false,
        }
    }

    /// Those that are up.
    pub fn up(&self) -> impl Iterator<Item = &Instance> {
        self.instances
            .iter()
            .filter(|instance| instance.status == InstanceStatus::Up)
    }

    /// The instance of this id.
    pub fn get(&self, id: &str) -> Option<&Instance> {
        self.instances
            .binary_search_by(|instance| instance.id.as_str().cmp(id))
            .ok()
            .and_then(|at| self.instances.get(at))
    }
}

/// A stream of snapshots: first what is there, then each change. It holds one snapshot, the newest: who is slow misses
/// what lies between, never the end, and a storm of changes costs no memory.
pub struct Watch {
    receiver: watch::Receiver<Snapshot>,
    begun: bool,
}

impl Watch {
    /// The next snapshot: at once what is there, later on when it changed since the last call. `None` when the provider
    /// of discovery is gone. May be dropped while it waits; nothing is lost.
    pub async fn next(&mut self) -> Option<Snapshot> {
        if self.begun {
            self.receiver.changed().await.ok()?;
        }
        self.begun = true;
        Some(self.receiver.borrow_and_update().clone())
    }

    /// The newest snapshot, without waiting and without counting it as seen.
    pub fn newest(&self) -> Snapshot {
        self.receiver.borrow().clone()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let newest = self.receiver.borrow();
        f.debug_struct("Watch")
            .field("service", &newest.service)
            .field("generation", &newest.generation)
            .finish_non_exhaustive()
    }
}

/// What the providers publish to, and what watches listen to.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<BTreeMap<Service, watch::Sender<Snapshot>>>);

impl Board {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Service, watch::Sender<Snapshot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens to a service.
    pub(super) fn watch(&self, service: &Service) -> Result<Watch> {
        let mut topics = self.lock();
        if topics.len() >= MAX_WATCHED && !topics.contains_key(service) {
            return Err(Error::invalid("too many services are watched at once")
                .operation("discovery.watch")
                .with("most", MAX_WATCHED));
        }
        let topic = topics
            .entry(service.clone())
            .or_insert_with(|| watch::Sender::new(Snapshot::empty(service.clone())));
        Ok(Watch {
            receiver: topic.subscribe(),
            begun: false,
        })
    }

    /// The services that were ever asked for.
    pub(super) fn services(&self) -> Vec<Service> {
        self.lock().keys().cloned().collect()
    }

    /// Says what a service's instances are now; counts a generation and wakes the watches only when something changed.
    pub(super) fn publish(&self, service: &Service, mut instances: Vec<Instance>, stale: bool) -> Snapshot {
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        let mut topics = self.lock();
        // Without a watch there is room only for those that are asked for again and again.
        if topics.len() >= MAX_WATCHED && !topics.contains_key(service) {
            topics.retain(|_, topic| topic.receiver_count() > 0);
        }
        let topic = topics
            .entry(service.clone())
            .or_insert_with(|| watch::Sender::new(Snapshot::empty(service.clone())));
        topic.send_if_modified(|old| {
            let changed = *old.instances != *instances || old.stale != stale;
            if changed {
                old.generation += 1;
                old.stale = stale;
                old.instances = instances.into();
            }
            changed
        });
        topic.borrow().clone()
    }

    /// Marks every service: the register cannot be reached, or can again.
    #[cfg(any(feature = "eureka", feature = "zookeeper"))]
    pub(super) fn mark(&self, stale: bool) {
        for topic in self.lock().values() {
            topic.send_if_modified(|old| {
                let changed = old.stale != stale;
                if changed {
                    old.generation += 1;
                    old.stale = stale;
                }
                changed
            });
        }
    }

    /// What was said last of a service.
    #[cfg(feature = "zookeeper")]
    pub(super) fn last(&self, service: &Service) -> Option<Snapshot> {
        self.lock().get(service).map(|topic| topic.borrow().clone())
    }

    /// The services that somebody listens to.
    #[cfg(feature = "zookeeper")]
    pub(super) fn watched(&self) -> Vec<Service> {
        let heard = |topic: &&watch::Sender<Snapshot>| topic.receiver_count() > 0;
        let topics = self.lock();
        topics
            .iter()
            .filter(|(_, topic)| heard(topic))
            .map(|(service, _)| service.clone())
            .collect()
    }
}
