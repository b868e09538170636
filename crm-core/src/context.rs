//! On whose behalf a call is made: tenant, actor, request, deadline.
//!
//! ```
//! use crm_core::{Actor, Context, TenantId};
//!
//! let shop = TenantId::new("shop").unwrap();
//! let ctx = Context::new(shop).actor(Actor::user("ana"));
//! assert_eq!(ctx.tenant().as_str(), "shop");
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Clock, Error, ErrorKind, Result, Timestamp, Uuid};

/// The name of a tenant: 1 to 64 of `a-z`, `0-9`, `-`, `_`, beginning with a letter or digit.
///
/// Every record belongs to exactly one tenant, and no call reaches another one's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Checks the name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is empty, too long or has other characters.
    pub fn new(name: &str) -> Result<Self> {
        let ok = (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
            && !name.starts_with(['-', '_']);
        if ok {
            Ok(Self(name.into()))
        } else {
            Err(Error::invalid(
                "a tenant is named with 1 to 64 of a-z, 0-9, '-', '_', a letter or digit first",
            )
            .with("field", "tenant"))
        }
    }

    /// A place of the platform's own, which no host can name: `name` begins with `_`.
    pub(crate) fn of_the_platform(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for TenantId {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}
impl TryFrom<String> for TenantId {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        Self::new(&name)
    }
}
impl From<TenantId> for String {
    fn from(tenant: TenantId) -> Self {
        tenant.0.as_ref().to_owned()
    }
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Actor {
    /// The host application itself, or one of its jobs, by name.
    System(String),
    /// A person who uses the host application, by the host's own id (not a name or an address).
    User(String),
}

impl Actor {
    /// A part of the host application.
    pub fn system(name: impl Into<String>) -> Self {
        Self::System(name.into())
    }

    /// A user, by the host's own id.
    pub fn user(id: impl Into<String>) -> Self {
        Self::User(id.into())
    }
}

/// On whose behalf a call is made. Carried by every call; made once per request or job.
#[derive(Debug, Clone)]
pub struct Context {
    tenant: TenantId,
    actor: Actor,
    request_id: Option<Uuid>,
    deadline: Option<Timestamp>,
}

impl Context {
    /// A context for `tenant`, acting as the host application.
    pub fn new(tenant: TenantId) -> Self {
        Self {
            tenant,
            actor: Actor::system("host"),
            request_id: None,
            deadline: None,
        }
    }

    /// Says who acts.
    #[must_use]
    pub fn actor(mut self, actor: Actor) -> Self {
        self.actor = actor;
        self
    }

    /// Ties everything done to a request of the host's.
    #[must_use]
    pub fn request_id(mut self, id: Uuid) -> Self {
        self.request_id = Some(id);
        self
    }

    /// Says when the caller stops waiting.
    #[must_use]
    pub fn deadline(mut self, deadline: Timestamp) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Who acts.
    pub fn acting(&self) -> &Actor {
        &self.actor
    }

    /// The host's request.
    pub fn request(&self) -> Option<Uuid> {
        self.request_id
    }

    /// When the caller stops waiting.
    pub fn until(&self) -> Option<Timestamp> {
        self.deadline
    }

    /// # Errors
    /// [`ErrorKind::Timeout`] when the deadline has passed.
    pub fn check(&self, clock: &dyn Clock) -> Result<()> {
        match self.deadline {
            Some(deadline) if clock.now() >= deadline => {
                Err(Error::new(ErrorKind::Timeout, "the caller's deadline has passed"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tenants() {
        for good in ["a", "shop-1", "9_lives"] {
            assert!(TenantId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Shop", "-a", "a b", "a'; drop table", &"x".repeat(65)] {
            assert_eq!(
                TenantId::new(bad).unwrap_err().kind(),
                ErrorKind::Invalid,
                "{bad}"
            );
        }
    }
}
