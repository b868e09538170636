use std::sync::Arc;

use async_trait::async_trait;
use tracing::Instrument;

use super::{Call, Next, Policy};
use crate::{Clock, Result};

/// Puts every call into a `tracing` span named `call` (fields `op`, `provider`), and says at its end how long it took:
/// at debug level when it went well, as a warning when it did not. Neither holds what the call carried.
///
/// ```
/// use crm_core::SystemClock;
/// use crm_core::policy::{Stack, Trace};
///
/// let stack = Stack::new().with(Trace::new(SystemClock::shared()));
/// assert_eq!(stack.policies().len(), 1);
/// ```
#[derive(Debug)]
pub struct Trace {
    clock: Arc<dyn Clock>,
}

impl Trace {
    /// Takes the time from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

#[async_trait]
impl Policy for Trace {
    async fn around<'a>(&'a self, call: Call<'a>, next: Next<'a>) -> Result<()> {
        let span = tracing::info_span!("call", op = call.op.name, provider = %call.provider);
        let began = self.clock.now();
        async {
            let result = next.run().await;
            let micros = self.clock.now().since(began).as_micros() as u64;
            match &result {
                Ok(()) => tracing::debug!(micros, "done"),
                Err(error) => {
                    tracing::warn!(micros, kind = %error.kind(), retry = ?error.retry(), effect = ?error.effect(), "failed");
                }
            }
            result
        }
        .instrument(span)
        .await
    }
}
