use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use url::Url;

use crate::message::{DeliveryEvent, Email, InboundEvent, Lookup, Permitted, Receipt, Sms, VoiceCall};
use crate::{Context, Error, ErrorKind, Provider, Result};

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

fn cannot_look_up() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "this provider cannot be asked what became of a message",
    )
}

/// What an SMS sender can do.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmsCapability {
    /// Takes free text (else only templates known to the vendor).
    pub free_text: bool,
    /// False when it only records.
    pub live: bool,
    /// Whether it can be asked what became of a message ([`SmsSender::lookup`]).
    pub lookup: bool,
    /// How many messages go in one call ([`SmsSender::send_many`]).
    pub batch: usize,
}

impl SmsCapability {
    /// As said; messages go one by one, and it cannot be asked about them.
    pub const fn new(free_text: bool, live: bool) -> Self {
        Self {
            free_text,
            live,
            lookup: false,
            batch: 1,
        }
    }

    /// It can be asked what became of a message.
    #[must_use]
    pub const fn with_lookup(mut self) -> Self {
        self.lookup = true;
        self
    }

    /// So many messages go in one call.
    #[must_use]
    pub const fn with_batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }
}

/// Sends SMS.
#[async_trait]
pub trait SmsSender: Provider {
    /// What it can do.
    fn capability(&self) -> SmsCapability;

    /// The number or name that this message would come from, as recipients see it and carriers count it: the message's own,
    /// or what the provider has settled on. Rules about the rate of a sender go by it. Nothing where only the vendor knows.
    fn sender(&self, sms: &Sms) -> Option<String> {
        sms.from.clone()
    }

    /// Hands one SMS to the vendor.
    ///
    /// # Errors
    /// As [`Mailer::send`].
    async fn send(&self, ctx: &Context, sms: &Permitted<Sms>) -> Result<Receipt>;

    /// Hands over several, each with an answer of its own, in their order; as many as [`SmsCapability::batch`] says may go
    /// in one call to the vendor.
    ///
    /// # Errors
    /// When the call as a whole failed, which says the same of each of them.
    async fn send_many(&self, ctx: &Context, all: &[Permitted<Sms>]) -> Result<Vec<Result<Receipt>>> {
        let mut answers = Vec::with_capacity(all.len());
        for sms in all {
            answers.push(self.send(ctx, sms).await);
        }
        Ok(answers)
    }

    /// Asks the vendor what became of a message, above all of one whose answer was lost. Nothing found means that the
    /// vendor knows nothing of it (yet).
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where the vendor cannot be asked; those of the way there.
    async fn lookup(&self, _ctx: &Context, _lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        Err(cannot_look_up().operation("sms.lookup"))
    }
}

/// What a voice caller can do.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoiceCapability {
    /// Speaks free text (else only templates or recordings known to the vendor).
    pub free_text: bool,
    /// False when it only records.
    pub live: bool,
    /// Whether it can be asked what became of a call ([`VoiceCaller::lookup`]).
    pub lookup: bool,
}

impl VoiceCapability {
    /// As said; it cannot be asked about calls.
    pub const fn new(free_text: bool, live: bool) -> Self {
        Self {
            free_text,
            live,
            lookup: false,
        }
    }

    /// It can be asked what became of a call.
    #[must_use]
    pub const fn with_lookup(mut self) -> Self {
        self.lookup = true;
        self
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

    /// As [`SmsSender::lookup`].
    ///
    /// # Errors
    /// As [`SmsSender::lookup`].
    async fn lookup(&self, _ctx: &Context, _lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        Err(cannot_look_up().operation("voice.lookup"))
    }
}

/// A call of a vendor to a URL of ours, as any web framework can hand it on. `Debug` shows neither path and query, where
/// vendors that sign nothing put their secret, nor headers and body.
#[derive(Clone)]
pub struct WebhookRequest {
    /// The method, in capitals.
    pub method: String,
    /// The whole URL as the vendor called it: behind a proxy, the outer one.
    pub url: Url,
    /// The headers, names in small letters.
    pub headers: BTreeMap<String, String>,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

impl WebhookRequest {
    /// A `POST` without headers.
    pub fn post(url: Url, body: impl Into<Vec<u8>>) -> Self {
        Self {
            method: "POST".to_owned(),
            url,
            headers: BTreeMap::new(),
            body: body.into(),
        }
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.insert(name.to_ascii_lowercase(), value.into());
        self
    }
}

impl fmt::Debug for WebhookRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookRequest")
            .field("method", &self.method)
            .field("host", &self.url.host_str())
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// What goes back to whoever called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookReply {
    /// The status code (RFC 9110, 15).
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// More headers, names in small letters.
    pub headers: BTreeMap<&'static str, String>,
    /// The body.
    pub body: String,
}

impl WebhookReply {
    /// An answer.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type,
            headers: BTreeMap::new(),
            body: body.into(),
        }
    }

    /// With this header; the name in small letters.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.insert(name, value.into());
        self
    }
}

/// Understands what one vendor tells us: callbacks about deliveries, messages to us.
#[async_trait]
pub trait WebhookSource: Provider {
    /// Checks that the call comes from the vendor, before anything in it is read, and reads it.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] when it is not proven to come from the vendor; [`ErrorKind::Invalid`] when it cannot
    /// be read.
    async fn receive(&self, request: &WebhookRequest) -> Result<Vec<InboundEvent>>;

    /// What the vendor wants to hear once everything is stored; anything else makes it call again.
    fn accepted(&self) -> WebhookReply {
        WebhookReply::new(204, "text/plain", "")
    }
}
