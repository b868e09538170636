use std::sync::Arc;

use async_trait::async_trait;

use super::recorder::Recorder;
use crate::capability::{MailCapability, Mailer};
use crate::message::{Email, Permitted, Receipt};
use crate::{Clock, Context, Error, Health, Provider, ProviderInfo, Result, TenantId};

/// A [`Mailer`] that keeps what it is given.
///
/// It can be told to fail, so that a host's tests see what a real provider does on a bad day. By default it is not live
/// ([`MailCapability::live`] is false: it only records).
///
/// ```
/// use crm_core::{Error, ErrorKind};
/// use crm_core::memory::MemoryMailer;
///
/// let mailer = MemoryMailer::new("memory");
/// mailer.fail_next(Error::new(ErrorKind::Unavailable, "busy")); // the next call fails, the one after does not
/// mailer.lose_next_answer(); // recorded, but the caller learns only that it may have happened
/// assert!(mailer.sent().is_empty());
/// ```
#[derive(Debug)]
pub struct MemoryMailer {
    recorder: Recorder<Email>,
    capability: MailCapability,
}

impl MemoryMailer {
    /// A mailer of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            recorder: Recorder::new(name.into(), "mail.send"),
            capability: MailCapability::new(1 << 20, false, false),
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
    pub fn with_capability(mut self, capability: MailCapability) -> Self {
        self.capability = capability;
        self
    }

    /// Everything it took, in order.
    pub fn sent(&self) -> Vec<Permitted<Email>> {
        self.recorder.sent()
    }

    /// What it took for one tenant, in order.
    pub fn sent_for(&self, tenant: &TenantId) -> Vec<Permitted<Email>> {
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
impl Provider for MemoryMailer {
    fn info(&self) -> &ProviderInfo {
        &self.recorder.info
    }

    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Mailer for MemoryMailer {
    fn capability(&self) -> MailCapability {
        self.capability
    }

    async fn send(&self, ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        mail.message()
            .validate()
            .map_err(|error| error.operation("mail.send"))?;
        self.recorder.take(ctx.tenant(), mail)
    }
}
