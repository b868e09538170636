use std::fmt;

use async_trait::async_trait;

use crate::customer::CustomerId;
use crate::{Context, Result};

/// Customers about whom something changed, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedCustomers {
    /// Who: each once, in the order in which they first changed. Also those who are gone.
    pub customers: Vec<CustomerId>,
    /// Where to go on; to be kept together with what was made of the changes. Opaque.
    pub next: String,
    /// How much is left behind these, at least; 0 when nothing is known to be.
    pub behind: u64,
}

/// Tells which customers changed: their profile, contacts, orders, interactions, consents, memberships. Every change is
/// told once it is stored, in one order, to every reader; told again from the same cursor.
#[async_trait]
pub trait ChangeReader: fmt::Debug + Send + Sync + 'static {
    /// Those who changed behind `cursor` (from the first change that is kept, without), out of at most `changes` changes (1
    /// to 10,000).
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] with `field=cursor` when the changes behind it are not kept any more: take
    /// [`ChangeReader::latest`], look at everybody, and go on from there. [`crate::ErrorKind::Invalid`] for a wrong cursor
    /// or number; the store's.
    async fn changed_customers(
        &self,
        ctx: &Context,
        cursor: Option<&str>,
        changes: u32,
    ) -> Result<ChangedCustomers>;

    /// The place behind everything stored so far.
    ///
    /// # Errors
    /// The store's.
    async fn latest(&self, ctx: &Context) -> Result<String>;
}
