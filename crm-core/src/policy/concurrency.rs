use std::fmt;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::{Call, Next, Policy};
use crate::{Error, Result};

/// Lets at most so many calls run at once; the others wait in line, first come first served.
///
/// ```
/// use crm_core::policy::{Concurrency, Stack};
///
/// let stack = Stack::new().with(Concurrency::new(8));
/// assert!(format!("{stack:?}").contains("limit: 8"));
/// ```
pub struct Concurrency {
    limit: usize,
    places: Semaphore,
}

impl Concurrency {
    /// At most `limit` at once; at least one.
    pub fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            limit,
            places: Semaphore::new(limit),
        }
    }
}

#[async_trait]
impl Policy for Concurrency {
    async fn around<'a>(&'a self, call: Call<'a>, next: Next<'a>) -> Result<()> {
        if call.op.streams {
            return next.run().await;
        }
        let place = self.places.acquire().await;
        let _place = place.map_err(|e| {
            Error::unexpected("the line was closed")
                .operation(call.op.name)
                .source(e)
        })?;
        next.run().await
    }
}

impl fmt::Debug for Concurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Concurrency")
            .field("limit", &self.limit)
            .field("free", &self.places.available_permits())
            .finish()
    }
}
