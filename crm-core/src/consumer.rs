//! What every consumer has: a list of the capabilities it needs, checked all at once when it is bound.
//!
//! ```
//! use std::sync::Arc;
//! use crm_core::capability::{Mailer, RecordStore};
//! use crm_core::{Consumer, Needs, Registry, Result};
//!
//! struct Newsletter { store: Arc<dyn RecordStore>, mailer: Arc<dyn Mailer> }
//!
//! impl Consumer for Newsletter {
//!     fn needs() -> Needs {
//!         Needs::new("Newsletter").requires::<dyn RecordStore>().requires::<dyn Mailer>()
//!     }
//!     fn bind(registry: &Registry) -> Result<Self> {
//!         Self::needs().check(registry)?;
//!         Ok(Self { store: registry.get()?, mailer: registry.get()? })
//!     }
//! }
//!
//! let error = Newsletter::bind(&Registry::builder().build().unwrap()).err().unwrap();
//! assert!(error.to_string().contains("RecordStore, Mailer"), "{error}");
//! ```

use crate::registry::{Capability, Registry};
use crate::{Error, ErrorKind, Result};

/// The capabilities a consumer cannot do without.
#[derive(Debug, Clone)]
pub struct Needs {
    consumer: &'static str,
    required: Vec<Capability>,
}

impl Needs {
    /// An empty list for the consumer of this name.
    pub fn new(consumer: &'static str) -> Self {
        Self {
            consumer,
            required: Vec::new(),
        }
    }

    /// Adds a capability, named by its trait: `requires::<dyn Mailer>()`.
    #[must_use]
    pub fn requires<T: ?Sized + 'static>(mut self) -> Self {
        self.required.push(Capability::of::<T>());
        self
    }

    /// The capabilities.
    pub fn required(&self) -> &[Capability] {
        &self.required
    }

    /// Checks that a registry has them all.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] naming every one that is missing.
    pub fn check(&self, registry: &Registry) -> Result<()> {
        let missing: Vec<&str> = self
            .required
            .iter()
            .filter(|need| !registry.has(need))
            .map(Capability::name)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            "the registry lacks capabilities this consumer needs; provide them",
        )
        .with("consumer", self.consumer)
        .with("missing", missing.join(", ")))
    }
}

/// Whoever uses capabilities: bound to a registry once, then called by the host.
pub trait Consumer: Sized + Send + Sync + 'static {
    /// What it needs.
    fn needs() -> Needs;

    /// Binds it to a registry.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] naming everything that is missing.
    fn bind(registry: &Registry) -> Result<Self>;
}
