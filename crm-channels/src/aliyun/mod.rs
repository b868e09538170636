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
mod sign;
mod sms;
mod voice;
mod webhook;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crm_core::http::HttpClient;
use crm_core::{Clock, Effect, Error, Health, IdSource, ProviderInfo, RandomIds, Result, Retry, SystemClock};
use http::Method;

pub use config::AliyunConfig;
pub use sms::AliyunSms;
pub use voice::AliyunVoice;
pub use webhook::AliyunWebhook;

use crate::exchange::{Answer, Question, ask, form};
use config::Service;
use error::classify;
use wire::{Action, Answered, SCHEME, VERSION};

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

    /// Asks, signed. The parameters stand in the query of a `POST`, as the vendor's own client does it.
    async fn ask(&self, action: &Action) -> Result<Answer> {
        let mut url = self.config.endpoint(self.service)?;
        let query = sign::query(&action.query);
        url.set_query(Some(&query).filter(|query| !query.is_empty()).map(String::as_str));
        let body = form(action.body.iter().map(|(name, value)| (*name, value.as_str())));
        let host = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let now: String = self.clock.now().to_string().chars().take(19).collect();
        let mut headers = vec![
            ("accept", "application/json".to_owned()),
            ("host", host),
            ("user-agent", self.config.http.user_agent.clone()),
            ("x-acs-action", action.name.to_owned()),
            ("x-acs-content-sha256", sign::sha256(body.as_bytes())),
            ("x-acs-date", format!("{now}Z")),
            ("x-acs-signature-nonce", self.ids.fresh().simple().to_string()),
            ("x-acs-version", VERSION.to_owned()),
        ];
        if !action.body.is_empty() {
            headers.push(("content-type", "application/x-www-form-urlencoded".to_owned()));
        }
        match &self.config.token {
            None => headers.push(("x-acs-credentials-provider", "static_ak".to_owned())),
            Some(token) => {
                headers.push(("x-acs-credentials-provider", "static_sts".to_owned()));
                headers.push(("x-acs-accesskey-id", self.config.key.clone()));
                headers.push(("x-acs-security-token", token.expose().to_owned()));
            }
        }
        let authorization = sign::authorization(
            &self.config.key,
            self.config.secret.expose(),
            &query,
            &headers,
            body.as_bytes(),
        );
        headers.push(("authorization", authorization));
        let question = Question {
            method: Method::POST,
            url: &url,
            headers,
            body,
        };
        ask(&self.client, question).await
    }

    /// Asks for something that is done; the answer says `OK`.
    async fn act(&self, action: &Action) -> Result<Answered> {
        self.understood(&self.ask(action).await?, false)
    }

    /// Asks for something that changes nothing.
    async fn look(&self, action: &Action) -> Result<Answered> {
        // The method is POST all the same, so the client thinks it may have had an effect.
        let answer = self.ask(action).await.map_err(|error| match error.effect() {
            Effect::None => error,
            Effect::Unknown => error
                .with_effect(Effect::None)
                .with_retry(Retry::Allowed { after: None }),
        })?;
        self.understood(&answer, true)
    }

    fn understood(&self, answer: &Answer, safe: bool) -> Result<Answered> {
        let wait = answer.retry_after(self.clock.now());
        match answer.json::<Answered>() {
            Some(answered) if answered.code.as_deref() == Some("OK") && answer.is_success() => Ok(answered),
            Some(answered) => Err(classify(answered.code.as_deref(), answer.status(), safe, wait)),
            None => Err(classify(None, answer.status(), safe, wait)),
        }
    }

    /// Whether Aliyun answers and takes our signature: asked for the details of a number that nobody has.
    async fn check(&self) -> Result<Health> {
        let action = match self.service {
            Service::Sms => Action {
                name: "QuerySendDetails",
                query: vec![
                    ("CurrentPage", "1".to_owned()),
                    ("PageSize", "1".to_owned()),
                    ("PhoneNumber", "13000000000".to_owned()),
                    ("SendDate", wire::day(self.clock.now(), 0)),
                ],
                body: Vec::new(),
            },
            Service::Voice => wire::query_call("1^1", wire::PRODUCTS[0], self.clock.now()),
        };
        match self.look(&action).await {
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

    fn debug(&self, kind: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(kind)
            .field("name", &self.info.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

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
    sign::hex(tag.as_ref()).chars().take(32).collect()
}

/// How long after midnight in China a message may still count for the day before.
const LATE: Duration = Duration::from_secs(600);
