use std::time::Duration;

use async_trait::async_trait;

use super::{Call, Next, Policy};
use crate::{Error, ErrorKind, Result};

/// Gives up on an attempt that takes longer than `limit`. When the call has an effect, the outcome is then unknown
/// ([`crate::Effect::Unknown`]) and it is neither repeated nor failed over. Stands inside the retry, so that the limit
/// is an attempt's.
///
/// ```
/// use std::time::Duration;
/// use crm_core::policy::{Stack, Timeout};
///
/// let stack = Stack::new().with(Timeout::new(Duration::from_secs(5)));
/// assert_eq!(stack.policies().len(), 1);
/// ```
#[derive(Debug)]
pub struct Timeout {
    limit: Duration,
}

impl Timeout {
    /// This long an attempt.
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

#[async_trait]
impl Policy for Timeout {
    async fn around<'a>(&'a self, call: Call<'a>, next: Next<'a>) -> Result<()> {
        if call.op.streams {
            return next.run().await;
        }
        match tokio::time::timeout(self.limit, next.run()).await {
            Ok(done) => done,
            Err(_) => {
                let error = Error::new(
                    ErrorKind::Timeout,
                    "no answer within the time allowed for an attempt",
                )
                .operation(call.op.name)
                .with("limit_ms", self.limit.as_millis());
                Err(if call.op.idempotent {
                    error
                } else {
                    error.effect_unknown()
                })
            }
        }
    }
}
