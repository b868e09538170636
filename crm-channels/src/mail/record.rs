use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use crm_core::capability::{MailCapability, Mailer};
use crm_core::message::{Email, Permitted, Receipt};
use crm_core::{Clock, Context, Health, Provider, ProviderInfo, Result, SystemClock};

/// A mailer that sends nothing and keeps nothing but a count: for a first run, a staging system, a dry run.
#[derive(Debug)]
pub struct RecordMailer {
    info: ProviderInfo,
    clock: Arc<dyn Clock>,
    taken: AtomicU64,
}

impl RecordMailer {
    /// A recorder of this name.
    pub fn new(name: &str) -> Self {
        Self {
            info: ProviderInfo::new("record", name),
            clock: SystemClock::shared(),
            taken: AtomicU64::new(0),
        }
    }

    /// Takes the time of receipts from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How many messages it was given.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Provider for RecordMailer {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Mailer for RecordMailer {
    fn capability(&self) -> MailCapability {
        MailCapability::new(u64::MAX, true, false)
    }

    async fn send(&self, _ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        mail.message().validate()?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        Ok(Receipt::new(
            self.info.name.clone(),
            mail.message().id.to_string(),
            self.clock.now(),
        ))
    }
}
