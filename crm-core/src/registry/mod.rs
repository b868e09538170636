//! The registry: a value that holds providers by capability, and the pools and the catalogue around it.
//!
//! ```
//! use std::sync::Arc;
//! use crm_core::capability::{Mailer, RecordStore};
//! use crm_core::memory::{MemoryMailer, MemoryStore};
//! use crm_core::Registry;
//!
//! let registry = Registry::builder()
//!     .provide::<dyn RecordStore>(0, Arc::new(MemoryStore::new("records")))
//!     .provide::<dyn Mailer>(10, Arc::new(MemoryMailer::new("first")))
//!     .provide::<dyn Mailer>(0, Arc::new(MemoryMailer::new("spare")))
//!     .build()
//!     .unwrap();
//! let mailer: Arc<dyn Mailer> = registry.get().unwrap();
//! assert_eq!(mailer.info().name, "first");
//! assert_eq!(registry.pool::<dyn Mailer>().unwrap().len(), 2);
//! ```

mod catalog;
pub mod discovery;
mod pool;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

pub use catalog::{Catalog, Factory, Opening};
pub use pool::{Entry, Pool, may_fail_over};

use crate::{Error, ErrorKind, Health, Provider, Result};

/// A capability as data: the trait's identity and its short name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Capability {
    id: TypeId,
    name: &'static str,
}

impl Capability {
    /// The capability of a trait: `Capability::of::<dyn Mailer>()`.
    pub fn of<T: ?Sized + 'static>() -> Self {
        let full = std::any::type_name::<T>();
        let name = full.rsplit("::").next().unwrap_or(full);
        Self {
            id: TypeId::of::<T>(),
            name,
        }
    }

    /// The trait's short name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// A pool without its type, as the registry keeps it.
struct Shelf {
    capability: Capability,
    pool: Box<dyn Any + Send + Sync>,
    list: Vec<(i32, Arc<dyn ErasedEntry>)>,
}

/// What can be done with any entry, whatever its capability.
#[async_trait::async_trait]
pub(crate) trait ErasedEntry: Send + Sync {
    fn name(&self) -> String;
    async fn refresh(&self) -> Health;
    fn health(&self) -> Health;
}

/// Providers by capability. Immutable and cheap to clone; a change is a new registry.
#[derive(Clone)]
pub struct Registry(Arc<HashMap<TypeId, Shelf>>);

impl Registry {
    /// An empty registry to fill.
    pub fn builder() -> RegistryBuilder {
        RegistryBuilder {
            shelves: HashMap::new(),
            wrong: None,
        }
    }

    /// Whether there is a provider of this capability.
    pub fn has(&self, capability: &Capability) -> bool {
        self.0.contains_key(&capability.id)
    }

    /// All capabilities, by name.
    pub fn capabilities(&self) -> Vec<Capability> {
        let mut all: Vec<Capability> = self.0.values().map(|shelf| shelf.capability).collect();
        all.sort_by_key(Capability::name);
        all
    }

    /// All providers of a capability, to select from and fail over between.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] naming the capability and those there are.
    pub fn pool<T: ?Sized + 'static>(&self) -> Result<Pool<T>> {
        let wanted = Capability::of::<T>();
        self.0
            .get(&wanted.id)
            .and_then(|shelf| shelf.pool.downcast_ref::<Pool<T>>())
            .cloned()
            .ok_or_else(|| {
                let there: Vec<&str> = self.capabilities().iter().map(Capability::name).collect();
                Error::new(
                    ErrorKind::Unsupported,
                    "no provider of this capability is registered",
                )
                .with("capability", wanted.name)
                .with("registered", there.join(" "))
            })
    }

    /// The best provider of a capability: highest priority among the healthiest.
    ///
    /// # Errors
    /// As [`Registry::pool`]; [`ErrorKind::Unavailable`] when all are down.
    pub fn get<T: ?Sized + Provider>(&self) -> Result<Arc<T>> {
        self.pool::<T>()?.best()
    }

    /// Asks every provider how it is and remembers it. Called by the host on its own schedule.
    pub async fn refresh(&self) -> Vec<(&'static str, String, Health)> {
        let mut report = Vec::new();
        for shelf in self.0.values() {
            for (_, entry) in &shelf.list {
                report.push((shelf.capability.name, entry.name(), entry.refresh().await));
            }
        }
        report.sort();
        report
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_map();
        for capability in self.capabilities() {
            if let Some(shelf) = self.0.get(&capability.id) {
                let names: Vec<(i32, String, Health)> = shelf
                    .list
                    .iter()
                    .map(|(priority, e)| (*priority, e.name(), e.health()))
                    .collect();
                out.entry(&capability.name, &names);
            }
        }
        out.finish()
    }
}

/// Fills a registry.
pub struct RegistryBuilder {
    shelves: HashMap<TypeId, Shelf>,
    wrong: Option<Error>,
}

impl RegistryBuilder {
    /// Adds a provider of a capability: `provide::<dyn Mailer>(10, mailer)`. The highest priority is asked first.
    #[must_use]
    pub fn provide<T: ?Sized + Provider>(mut self, priority: i32, provider: Arc<T>) -> Self {
        let capability = Capability::of::<T>();
        let entry = Arc::new(Entry::new(priority, provider));
        let shelf = self.shelves.entry(capability.id).or_insert_with(|| Shelf {
            capability,
            pool: Box::new(Pool::<T>::default()),
            list: Vec::new(),
        });
        let name = entry.provider().info().name.clone();
        if shelf.list.iter().any(|(_, other)| other.name() == name) {
            self.wrong.get_or_insert(
                Error::config("two providers of one capability have the same name")
                    .with("capability", capability.name)
                    .with("provider", name),
            );
            return self;
        }
        if let Some(pool) = shelf.pool.downcast_mut::<Pool<T>>() {
            pool.insert(entry.clone());
        }
        shelf.list.push((priority, entry));
        shelf.list.sort_by_key(|(priority, _)| -priority);
        self
    }

    /// The finished registry.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when two providers of a capability have the same name.
    pub fn build(self) -> Result<Registry> {
        match self.wrong {
            Some(error) => Err(error),
            None => Ok(Registry(Arc::new(self.shelves))),
        }
    }
}

impl fmt::Debug for RegistryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryBuilder")
            .field("capabilities", &self.shelves.len())
            .finish()
    }
}
