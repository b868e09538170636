use std::sync::Arc;

use async_trait::async_trait;

use super::recorder::Recorder;
use crate::capability::{VoiceCaller, VoiceCapability};
use crate::message::{DeliveryEvent, Lookup, Permitted, Receipt, VoiceCall};
use crate::{Clock, Context, Error, Health, Provider, ProviderInfo, Result, TenantId};

/// A [`VoiceCaller`] that keeps what it is given.
///
/// It can be told to fail, so that a host's tests see what a real provider does on a bad day. By default it is not live
/// ([`VoiceCapability::live`] is false: it only records).
///
/// ```
/// use crm_core::{Error, ErrorKind};
/// use crm_core::memory::MemoryVoice;
///
/// let voice = MemoryVoice::new("memory");
/// voice.fail_next(Error::new(ErrorKind::Unavailable, "busy")); // the next call fails, the one after does not
/// voice.lose_next_answer(); // recorded, but the caller learns only that it may have happened
/// assert!(voice.called().is_empty());
/// ```
#[derive(Debug)]
pub struct MemoryVoice {
    recorder: Recorder<VoiceCall>,
    capability: VoiceCapability,
}

impl MemoryVoice {
    /// A caller of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            recorder: Recorder::new(name.into(), "voice.call"),
            capability: VoiceCapability::new(true, false).with_lookup(),
        }
    }

    /// Takes the time of receipts from `clock`; else from the machine's.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.recorder.clock = clock;
        self
    }

    /// Says it can do something else, for instance that it is live.
    #[must_use]
    pub fn with_capability(mut self, capability: VoiceCapability) -> Self {
        self.capability = capability;
        self
    }

    /// Everything it took, in order.
    pub fn called(&self) -> Vec<Permitted<VoiceCall>> {
        self.recorder.sent()
    }

    /// What it took for one tenant, in order.
    pub fn called_for(&self, tenant: &TenantId) -> Vec<Permitted<VoiceCall>> {
        self.recorder.sent_for(tenant)
    }

    /// Makes the next call fail with `error`; called several times, the next calls, in order.
    pub fn fail_next(&self, error: Error) {
        self.recorder.fail_next(error);
    }

    /// Makes the next call take the message and fail all the same, with [`crate::Effect::Unknown`].
    pub fn lose_next_answer(&self) {
        self.recorder.lose_next_answer();
    }

    /// Makes every call for this canonical address fail with what `error` makes.
    pub fn refuse(&self, recipient: impl Into<String>, error: impl Fn() -> Error + Send + 'static) {
        self.recorder.refuse(recipient.into(), Box::new(error));
    }
}

#[async_trait]
impl Provider for MemoryVoice {
    fn info(&self) -> &ProviderInfo {
        &self.recorder.info
    }

    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl VoiceCaller for MemoryVoice {
    fn capability(&self) -> VoiceCapability {
        self.capability
    }

    async fn call(&self, ctx: &Context, call: &Permitted<VoiceCall>) -> Result<Receipt> {
        call.message().validate().map_err(|e| e.operation("voice.call"))?;
        self.recorder.take(ctx.tenant(), call)
    }

    async fn lookup(&self, ctx: &Context, lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        Ok(self.recorder.look_up(ctx.tenant(), lookup))
    }
}
