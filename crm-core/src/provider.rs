//! What every provider has: an identity, and a way to ask how it is.
//!
//! ```
//! use crm_core::{Health, Provider, ProviderInfo, Result};
//!
//! #[derive(Debug)]
//! struct Shout(ProviderInfo);
//!
//! #[async_trait::async_trait]
//! impl Provider for Shout {
//!     fn info(&self) -> &ProviderInfo { &self.0 }
//!     async fn check(&self) -> Result<Health> { Ok(Health::Ready) }
//! }
//!
//! let shout = Shout(ProviderInfo::new("shout", "shout-1").tag("region", "eu"));
//! assert_eq!(shout.info().tag_value("region"), Some("eu"));
//! ```

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::Result;

/// The identity of a provider: what it is and which one of its kind. Never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderInfo {
    /// What it is: `sqlite`, `smtp`, `memory`; the scheme of its URL.
    pub scheme: String,
    /// Which one: unique among the providers of one registry; shown in receipts, traces and errors.
    pub name: String,
    /// What a consumer may select by: region, country, tenant, purpose.
    pub tags: BTreeMap<String, String>,
}

impl ProviderInfo {
    /// An identity without tags.
    pub fn new(scheme: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            scheme: scheme.into(),
            name: name.into(),
            tags: BTreeMap::new(),
        }
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }

    /// A tag's value.
    pub fn tag_value(&self, key: &str) -> Option<&str> {
        self.tags.get(key).map(String::as_str)
    }
}

impl fmt::Display for ProviderInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// How a provider is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Not to be used.
    Down,
    /// Works, but worse than it should: used when nothing better is there.
    Degraded,
    /// Works.
    Ready,
}

/// Whoever offers a capability.
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync + 'static {
    /// Who it is.
    fn info(&self) -> &ProviderInfo;

    /// Asks how it is: cheap, without side effects, for health checks.
    ///
    /// # Errors
    /// What keeps it from answering; counts as [`Health::Down`].
    async fn check(&self) -> Result<Health>;
}
