use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::Capability;
use crate::{Error, ErrorKind, Result};

/// The future of a factory.
pub type Opening<T> = Pin<Box<dyn Future<Output = Result<Arc<T>>> + Send>>;

/// Makes a provider from its URL.
pub type Factory<T> = Arc<dyn Fn(&str) -> Opening<T> + Send + Sync>;

enum Slot {
    /// A `Factory<T>` of the capability in the key.
    Made(Box<dyn Any + Send + Sync>),
    /// Known, but left out when compiling.
    Absent { feature: &'static str },
}

/// Makes providers from configuration: capability and URI scheme to factory. A scheme that was compiled out answers
/// with the name of the Cargo feature that brings it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_core::capability::RecordStore;
/// use crm_core::memory::MemoryStore;
/// use crm_core::registry::Catalog;
///
/// let mut catalog = Catalog::new();
/// catalog.register::<dyn RecordStore, _, _>("memory", |_url| async {
///     Ok(Arc::new(MemoryStore::new("memory")) as Arc<dyn RecordStore>)
/// });
/// catalog.absent::<dyn RecordStore>("mysql", "mysql");
///
/// assert!(catalog.open::<dyn RecordStore>("memory:").await.is_ok());
/// let error = catalog.open::<dyn RecordStore>("mysql://host/crm").await.unwrap_err();
/// assert!(error.to_string().contains("feature=mysql"), "{error}");
/// let error = catalog.open::<dyn RecordStore>("oracle://host/crm").await.unwrap_err();
/// assert!(error.to_string().contains("known=memory, mysql (needs feature mysql)"), "{error}");
/// # });
/// ```
#[derive(Default)]
pub struct Catalog {
    slots: BTreeMap<(TypeId, &'static str), Slot>,
}

impl Catalog {
    /// An empty catalogue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a factory; it gets the whole URL and checks it. A later one for the same scheme wins.
    pub fn register<T, F, Fut>(&mut self, scheme: &'static str, factory: F) -> &mut Self
    where
        T: ?Sized + Send + Sync + 'static,
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Arc<T>>> + Send + 'static,
    {
        let made: Factory<T> = Arc::new(move |url: &str| Box::pin(factory(url.to_owned())) as Opening<T>);
        self.slots
            .insert((TypeId::of::<T>(), scheme), Slot::Made(Box::new(made)));
        self
    }

    /// Notes a scheme that was compiled out, and the feature that brings it. Never hides a factory that is there.
    pub fn absent<T: ?Sized + 'static>(&mut self, scheme: &'static str, feature: &'static str) -> &mut Self {
        self.slots
            .entry((TypeId::of::<T>(), scheme))
            .or_insert(Slot::Absent { feature });
        self
    }

    /// Makes a provider from its URL.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an unknown scheme (naming the known ones) or one that was compiled out (naming
    /// its feature); [`ErrorKind::Config`] when there is no scheme; else the factory's own. The URL itself, which may
    /// hold a password, never stands in an error.
    pub async fn open<T: ?Sized + Send + Sync + 'static>(&self, url: &str) -> Result<Arc<T>> {
        let capability = Capability::of::<T>();
        let Some((scheme, _)) = url.split_once(':') else {
            return Err(Error::config(
                "a provider is named by a URL such as sqlite:crm.db; the scheme is missing",
            )
            .with("capability", capability.name())
            .with("known", self.known::<T>()));
        };
        let found = self
            .slots
            .iter()
            .find(|((id, name), _)| *id == TypeId::of::<T>() && *name == scheme);
        match found {
            Some((_, Slot::Made(made))) => match made.downcast_ref::<Factory<T>>() {
                Some(factory) => factory(url).await,
                None => Err(Error::unexpected("a factory of another capability")),
            },
            Some((_, Slot::Absent { feature })) => Err(Error::new(
                ErrorKind::Unsupported,
                "this provider was left out when compiling; add the Cargo feature to the open-crm dependency",
            )
            .with("capability", capability.name())
            .with("scheme", scheme)
            .with("feature", feature)),
            None => Err(
                Error::new(ErrorKind::Unsupported, "no provider is known by this scheme")
                    .with("capability", capability.name())
                    .with("scheme", scheme)
                    .with("known", self.known::<T>()),
            ),
        }
    }

    fn known<T: ?Sized + 'static>(&self) -> String {
        let names: Vec<String> = self
            .slots
            .iter()
            .filter(|((id, _), _)| *id == TypeId::of::<T>())
            .map(|((_, scheme), slot)| match slot {
                Slot::Made(_) => (*scheme).to_owned(),
                Slot::Absent { feature } => format!("{scheme} (needs feature {feature})"),
            })
            .collect();
        names.join(", ")
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog")
            .field("schemes", &self.slots.len())
            .finish()
    }
}
