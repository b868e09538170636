//! The connection of a link: the store's own, one of the host's pool, or a stand-in for one that stays with the host.

use crm_core::Error;
use sqlx::Database;
use sqlx::pool::PoolConnection;

use super::Fault;
use super::guest::Guest;

/// What statements go through.
#[cfg_attr(
    not(feature = "unstable-raw"),
    allow(dead_code, reason = "only a host that hands in its own has others")
)]
pub(super) enum Wire<DB: Database> {
    /// The store's own.
    Own(DB::Connection),
    /// From the host's pool; `None` once it went back there.
    Pooled(Option<PoolConnection<DB>>),
    /// It stays with the host.
    Guest(Guest),
}

impl<DB: Database> Wire<DB> {
    /// The connection itself.
    pub(super) fn own(&mut self) -> Result<&mut DB::Connection, Fault> {
        match self {
            Self::Own(connection) => Ok(connection),
            Self::Pooled(Some(connection)) => Ok(connection),
            Self::Pooled(None) | Self::Guest(_) => Err(Fault::Other(Error::unexpected(
                "this is done on connections of the store alone",
            ))),
        }
    }

    /// Whether the store may change the session's settings.
    pub(super) fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// Gives a connection with nothing open on it back to the host's pool; false for the store's own.
    pub(super) fn give_back(&mut self) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Pooled(connection) => {
                drop(connection.take());
                true
            }
            Self::Guest(_) => true,
        }
    }
}

impl<DB: Database> Drop for Wire<DB> {
    fn drop(&mut self) {
        // Something may be open on it: it leaves the pool and closes, and with it what was begun.
        if let Self::Pooled(connection) = self
            && let Some(connection) = connection.take()
        {
            drop(connection.detach());
        }
    }
}
