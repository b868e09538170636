//! SMS and calls through Aliyun (Alibaba Cloud): [`AliyunSms`], [`AliyunVoice`], and what Aliyun tells us,
//! [`AliyunWebhook`].
//!
//! Aliyun sends only templates it has approved: a message needs a template of the scheme `aliyun`
//! ([`crm_core::message::VendorTemplate`]), signed with a name. It has no way to recognise a repeated request, so a send whose answer
//! was lost is never repeated here ([`crm_core::Effect::Unknown`]); a single message carries its id as `OutId`, by which
//! receipts and `lookup` find it again.
//!
//! ```
//! use crm_channels::aliyun::{AliyunConfig, AliyunSms};
//! use crm_core::Secret;
//! use crm_core::capability::SmsSender;
//!
//! let mut config = AliyunConfig::new("LTAI5tExample", Secret::new("s3cret"));
//! config.sign_name = Some("阿里云".into());
//! let sms = AliyunSms::build("aliyun", config).unwrap(); // connects with the first message
//! assert!(!sms.capability().free_text);
//! assert_eq!(sms.capability().batch, 100);
//! assert!(!format!("{sms:?}").contains("s3cret"));
//! ```

mod config;
mod error;
mod request;
mod sms;
mod voice;
mod webhook;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use crm_core::http::HttpClient;
use crm_core::{Clock, Effect, Error, Health, IdSource, ProviderInfo, RandomIds, Result, Retry, SystemClock};

pub use config::{AliyunConfig, AliyunSignature};
pub use request::AliyunRequest;
pub use sms::AliyunSms;
pub use voice::AliyunVoice;
pub use webhook::AliyunWebhook;

use crate::exchange::{Answer, LONGEST_WAIT, provider_over_http, put};
use config::Service;
use error::classify;
use wire::{Answered, SCHEME};

/// The way to one service of one account.
struct Line {
    info: ProviderInfo,
    config: AliyunConfig,
    service: Service,
    client: HttpClient,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
}

impl Line {
    fn new(name: &str, config: AliyunConfig, service: Service) -> Result<Self> {
        config.validate()?;
        let clock = SystemClock::shared();
        Ok(Self {
            info: ProviderInfo::new(SCHEME, name),
            client: HttpClient::new(config.http.clone())?,
            ids: Arc::new(RandomIds::new(clock.clone())),
            clock,
            service,
            config,
        })
    }

    /// Asks, signed.
    async fn ask(&self, request: &AliyunRequest) -> Result<Answer> {
        let endpoint = self.config.endpoint(self.service)?;
        let nonce = self.ids.fresh().simple().to_string();
        let request = request.signed(&self.config, &endpoint, self.clock.now(), &nonce)?;
        put(&self.client, request).await
    }

    /// Asks for something that is done; the answer says `OK`.
    async fn act(&self, request: &AliyunRequest) -> Result<Answered> {
        self.understood(&self.ask(request).await?, false)
    }

    /// Asks for something that changes nothing.
    async fn look(&self, request: &AliyunRequest) -> Result<Answered> {
        // The method is POST all the same, so the client thinks it may have had an effect.
        let answer = self.ask(request).await.map_err(|error| match error.effect() {
            Effect::None => error,
            Effect::Unknown => error
                .with_effect(Effect::None)
                .with_retry(Retry::Allowed { after: None }),
        })?;
        self.understood(&answer, true)
    }

    fn understood(&self, answer: &Answer, safe: bool) -> Result<Answered> {
        // A throttled request is told in milliseconds, in a header of the vendor's own.
        let own = answer
            .header("x-acs-retry-after")
            .and_then(|text| text.parse().ok());
        let wait = own
            .filter(|millis| *millis > 0)
            .map(|millis| Duration::from_millis(millis).min(LONGEST_WAIT))
            .or_else(|| answer.retry_after(self.clock.now()));
        match answer.json::<Answered>() {
            Some(answered) if answered.code.as_deref() == Some("OK") && answer.is_success() => Ok(answered),
            Some(answered) => Err(classify(answered.code.as_deref(), answer.status(), safe, wait)),
            None => Err(classify(None, answer.status(), safe, wait)),
        }
    }

    /// Whether Aliyun answers and takes our signature: asked for the details of a number that nobody has.
    async fn check(&self) -> Result<Health> {
        let request = match self.service {
            Service::Sms => AliyunRequest::new("QuerySendDetails")
                .query("CurrentPage", "1")
                .query("PageSize", "1")
                .query("PhoneNumber", "13000000000")
                .query("SendDate", wire::day(self.clock.now(), 0)),
            Service::Voice => wire::query_call("1^1", wire::PRODUCTS[0], self.clock.now()),
        };
        match self.look(&request).await {
            Ok(_) => Ok(Health::Ready),
            // That there is no such call says that everything else is in order.
            Err(error)
                if error.context("code").is_some() && error.kind() == crm_core::ErrorKind::Unexpected =>
            {
                Ok(Health::Ready)
            }
            Err(error) => Err(error.operation("aliyun.check").with("provider", &self.info.name)),
        }
    }
}

/// What both providers have in common.
macro_rules! provider_of_aliyun {
    ($provider:ident) => {
        provider_over_http!($provider);

        impl $provider {
            /// Takes the nonces of signatures from `ids`. They must not repeat.
            #[must_use]
            pub fn with_ids(mut self, ids: Arc<dyn IdSource>) -> Self {
                self.0.ids = ids;
                self
            }
        }
    };
}
provider_of_aliyun!(AliyunSms);
provider_of_aliyun!(AliyunVoice);

/// The error of a call for each of those it was made for.
fn repeated(error: &Error) -> Error {
    let mut again = Error::new(error.kind(), error.message().to_owned());
    for key in [
        "provider", "code", "status", "blame", "suppress", "url", "setting", "field",
    ] {
        if let Some(value) = error.context(key) {
            again = again.with(key, value);
        }
    }
    if let Some(operation) = error.operation_name() {
        again = again.operation(operation);
    }
    again.with_effect(error.effect()).with_retry(error.retry())
}

/// An identifier of news: the same for the same news, and nobody reads a number in it.
fn named(config: &AliyunConfig, parts: &[&str]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, config.secret.expose().as_bytes());
    let tag = ring::hmac::sign(&key, parts.join("\n").as_bytes());
    request::hex(tag.as_ref()).chars().take(32).collect()
}

/// How long after midnight in China a message may still count for the day before.
const LATE: Duration = Duration::from_secs(600);
