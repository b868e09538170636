use async_trait::async_trait;

use crate::message::{Email, Permitted, Receipt, Sms, VoiceCall};
use crate::{Context, Provider, Result};

/// What a mailer can do.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailCapability {
    /// The largest message it takes, in bytes as sent.
    pub max_bytes: u64,
    /// Whether a repeated message with the same id is taken only once.
    pub idempotent: bool,
    /// False when it only records.
    pub live: bool,
}

impl MailCapability {
    /// As said.
    pub const fn new(max_bytes: u64, idempotent: bool, live: bool) -> Self {
        Self {
            max_bytes,
            idempotent,
            live,
        }
    }
}

/// Sends e-mail.
#[async_trait]
pub trait Mailer: Provider {
    /// What it can do.
    fn capability(&self) -> MailCapability;

    /// Hands one message for one recipient to the next server.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when message or recipient are refused for good; [`crate::ErrorKind::Unavailable`]
    /// or [`crate::ErrorKind::RateLimited`] when later may do; [`crate::ErrorKind::Unauthenticated`] when our login is
    /// refused; [`crate::Effect::Unknown`] when the message was handed over but the answer was lost.
    async fn send(&self, ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt>;
}

/// What an SMS sender can do.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmsCapability {
    /// Takes free text (else only templates known to the vendor).
    pub free_text: bool,
    /// False when it only records.
    pub live: bool,
}

impl SmsCapability {
    /// As said.
    pub const fn new(free_text: bool, live: bool) -> Self {
        Self { free_text, live }
    }
}

/// Sends SMS.
#[async_trait]
pub trait SmsSender: Provider {
    /// What it can do.
    fn capability(&self) -> SmsCapability;

    /// Hands one SMS to the vendor.
    ///
    /// # Errors
    /// As [`Mailer::send`].
    async fn send(&self, ctx: &Context, sms: &Permitted<Sms>) -> Result<Receipt>;
}

/// What a voice caller can do.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoiceCapability {
    /// Speaks free text (else only templates or recordings known to the vendor).
    pub free_text: bool,
    /// False when it only records.
    pub live: bool,
}

impl VoiceCapability {
    /// As said.
    pub const fn new(free_text: bool, live: bool) -> Self {
        Self { free_text, live }
    }
}

/// Makes phone calls.
#[async_trait]
pub trait VoiceCaller: Provider {
    /// What it can do.
    fn capability(&self) -> VoiceCapability;

    /// Starts one call.
    ///
    /// # Errors
    /// As [`Mailer::send`].
    async fn call(&self, ctx: &Context, call: &Permitted<VoiceCall>) -> Result<Receipt>;
}
