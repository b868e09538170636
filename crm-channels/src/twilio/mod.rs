//! SMS and calls through Twilio: [`TwilioSms`], [`TwilioVoice`], and what Twilio tells us, [`TwilioWebhook`].
//!
//! Twilio takes a message with one `POST`, and has no way to recognise a repeated one. So a send whose answer was lost is
//! never repeated here ([`crm_core::Effect::Unknown`]); the id of the message stands in the status callback's address, and
//! the callback tells what became of it. Without one, ask with `lookup`.
//!
//! ```
//! use crm_channels::twilio::{TwilioConfig, TwilioSms};
//! use crm_core::Secret;
//! use crm_core::capability::SmsSender;
//!
//! let mut config = TwilioConfig::new(format!("AC{}", "0".repeat(32)), Secret::new("s3cret"));
//! config.from = Some("+15005550006".into());
//! config.status_callback = Some("https://crm.example/hooks/twilio".parse().unwrap());
//! let sms = TwilioSms::build("twilio", config).unwrap(); // connects with the first message
//! assert!(sms.capability().free_text);
//! assert!(!format!("{sms:?}").contains("s3cret"));
//! ```

mod config;
mod error;
mod fields;
mod sign;
mod twiml;
mod webhook;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::{SmsCapability, SmsSender, VoiceCaller, VoiceCapability};
use crm_core::http::HttpClient;
use crm_core::message::{Blame, DeliveryEvent, DeliveryState, Lookup, Permitted, Receipt, Sms, VoiceCall};
use crm_core::{Clock, Context, Error, Health, ProviderInfo, Result, SystemClock};
use http::Method;
use url::Url;

pub use config::{CallEvent, MachineDetection, TwilioConfig};
pub use webhook::TwilioWebhook;

use crate::exchange::{Answer, Question, ask, date, provider_over_http, shown};
use error::classify;
use wire::{Calls, Messages, Refusal, Resource, SCHEME, call_state, message_state};

/// How far Twilio's clock and ours may be apart when a message is looked for by its time.
const APART: Duration = Duration::from_secs(60);

/// The way to one account.
struct Line {
    info: ProviderInfo,
    config: TwilioConfig,
    client: HttpClient,
    clock: Arc<dyn Clock>,
}

impl Line {
    fn new(name: &str, config: TwilioConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            info: ProviderInfo::new(SCHEME, name),
            client: HttpClient::new(config.http.clone())?,
            clock: SystemClock::shared(),
            config,
        })
    }

    async fn ask(&self, method: Method, url: &Url, body: String) -> Result<Answer> {
        let mut headers = vec![
            ("authorization", self.config.credentials()),
            ("accept", "application/json".to_owned()),
        ];
        if method == Method::POST {
            headers.push(("content-type", "application/x-www-form-urlencoded".to_owned()));
        }
        let question = Question {
            method,
            url,
            headers,
            body,
        };
        ask(&self.client, question).await
    }

    /// An answer that is no yes.
    fn refused(&self, answer: &Answer, safe: bool) -> Error {
        let code = answer.json::<Refusal>().and_then(|refusal| refusal.code);
        classify(code, answer.status(), safe, answer.retry_after(self.clock.now()))
    }

    /// Makes a message or a call.
    async fn create(&self, path: &str, body: String, state: fn(&str) -> DeliveryState) -> Result<Receipt> {
        let answer = self.ask(Method::POST, &self.config.resource(path)?, body).await?;
        if !answer.is_success() {
            return Err(self.refused(&answer, false));
        }
        let Some(made) = answer.json::<Resource>().filter(|made| !made.sid.is_empty()) else {
            return Err(answer.by_status(self.clock.now()));
        };
        // It is there, and it is known already that it goes nowhere.
        if state(&made.status) == DeliveryState::Failed {
            return Err(classify(made.error_code, 400, false, None).with("reference", shown(&made.sid)));
        }
        let mut receipt = Receipt::new(self.info.name.clone(), made.sid.clone(), self.clock.now())
            .detail(shown(&made.status));
        receipt.segments = made.segments();
        receipt.price = made.price();
        Ok(receipt)
    }

    /// Whether Twilio answers and takes our credentials.
    async fn check(&self) -> Result<Health> {
        let answer = self
            .ask(Method::GET, &self.config.resource(".json")?, String::new())
            .await?;
        if answer.is_success() {
            Ok(Health::Ready)
        } else {
            Err(self.refused(&answer, true).operation("twilio.check"))
        }
    }

    /// Asks for one by its SID; else looks for what was sent to this number about that time.
    async fn look_up<L: serde::de::DeserializeOwned>(
        &self,
        lookup: &Lookup,
        resource: &str,
        list: fn(L) -> Vec<Resource>,
        state: fn(&str) -> DeliveryState,
    ) -> Result<Vec<DeliveryEvent>> {
        if let Some(sid) = &lookup.provider_ref {
            if !sid.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(Error::invalid("no reference of Twilio's").with("field", "provider_ref"));
            }
            let url = self.config.resource(&format!("/{resource}/{sid}.json"))?;
            let answer = self.ask(Method::GET, &url, String::new()).await?;
            return match answer.status() {
                404 => Ok(Vec::new()),
                200 => {
                    let found: Resource = answer.json().ok_or_else(|| answer.by_status(self.clock.now()))?;
                    Ok(vec![self.news(lookup, &found, state)])
                }
                _ => Err(self.refused(&answer, true)),
            };
        }
        let mut url = self.config.resource(&format!("/{resource}.json"))?;
        url.query_pairs_mut()
            .append_pair("To", lookup.to.as_str())
            .append_pair("PageSize", "100");
        let answer = self.ask(Method::GET, &url, String::new()).await?;
        if !answer.is_success() {
            return Err(self.refused(&answer, true));
        }
        let found: L = answer.json().ok_or_else(|| answer.by_status(self.clock.now()))?;
        let last = lookup.sent_at.plus(self.config.http.total_timeout).plus(APART);
        let first = lookup.sent_at.minus(APART);
        let near: Vec<Resource> = list(found)
            .into_iter()
            .filter(|one| {
                !one.direction
                    .as_deref()
                    .unwrap_or_default()
                    .starts_with("inbound")
            })
            .filter(|one| {
                let made = one.date_created.as_deref().and_then(date);
                made.is_some_and(|made| (first..=last).contains(&made))
            })
            .collect();
        match near.as_slice() {
            [] => Ok(Vec::new()),
            [one] => Ok(vec![self.news(lookup, one, state)]),
            several => Err(Error::conflict(
                "several went to this number about that time, and Twilio does not say which is which; set status_callback, which does",
            )
            .with("found", several.len())),
        }
    }

    fn news(&self, lookup: &Lookup, found: &Resource, state: fn(&str) -> DeliveryState) -> DeliveryEvent {
        let (sid, status) = (shown(&found.sid), shown(&found.status));
        let state = state(&found.status);
        let code = found.error_code.filter(|code| *code != 0);
        let updated = found.date_updated.as_deref().or(found.date_created.as_deref());
        DeliveryEvent {
            provider: self.info.name.clone(),
            // As the callback about the same names itself.
            event_id: format!("{sid}:{status}"),
            message_id: Some(lookup.message_id),
            provider_ref: Some(sid),
            recipient: None,
            state,
            at: updated.and_then(date).unwrap_or_else(|| self.clock.now()),
            code: Some(code.map_or_else(|| status.clone(), |code| format!("{status} {code}"))),
            reason: code
                .and_then(error::meaning)
                .map(|meaning| meaning.says.to_owned()),
            blame: match state {
                DeliveryState::Failed => error::blame(code),
                _ => Blame::Nobody,
            },
        }
    }
}

provider_over_http!(TwilioSms);
provider_over_http!(TwilioVoice);

/// Sends SMS and MMS through Twilio's Messages resource.
///
/// Free text with pictures, or a content template ([`crm_core::message::VendorTemplate`] of the scheme `twilio`, its code
/// a ContentSid).
pub struct TwilioSms(Line);

impl TwilioSms {
    /// A sender of this name. Checks the settings; connects with the first message.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn build(name: &str, config: TwilioConfig) -> Result<Self> {
        Line::new(name, config).map(Self)
    }
}

#[async_trait]
impl SmsSender for TwilioSms {
    fn capability(&self) -> SmsCapability {
        SmsCapability::new(true, true).with_lookup()
    }

    fn sender(&self, sms: &Sms) -> Option<String> {
        let (from, service) = wire::sender(&self.0.config, sms);
        from.or(service).map(str::to_owned)
    }

    async fn send(&self, ctx: &Context, sms: &Permitted<Sms>) -> Result<Receipt> {
        let sent = async {
            ctx.check(&*self.0.clock)?;
            sms.message().validate()?;
            let body = wire::message(&self.0.config, sms.message())?;
            self.0.create("/Messages.json", body, message_state).await
        };
        sent.await
            .map_err(|e| e.operation("sms.send").with("provider", &self.0.info.name))
    }

    async fn lookup(&self, ctx: &Context, lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        ctx.check(&*self.0.clock)?;
        self.0
            .look_up(
                lookup,
                "Messages",
                |found: Messages| found.messages,
                message_state,
            )
            .await
            .map_err(|e| e.operation("sms.lookup").with("provider", &self.0.info.name))
    }
}

/// Makes calls through Twilio's Calls resource: the steps as TwiML, or a template of the scheme `twilio` whose code is the
/// address of TwiML of yours (its values become the query) or the SID of a TwiML app.
pub struct TwilioVoice(Line);

impl TwilioVoice {
    /// A caller of this name. Checks the settings; connects with the first call.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn build(name: &str, config: TwilioConfig) -> Result<Self> {
        Line::new(name, config).map(Self)
    }
}

#[async_trait]
impl VoiceCaller for TwilioVoice {
    fn capability(&self) -> VoiceCapability {
        VoiceCapability::new(true, true).with_lookup()
    }

    async fn call(&self, ctx: &Context, call: &Permitted<VoiceCall>) -> Result<Receipt> {
        let made = async {
            ctx.check(&*self.0.clock)?;
            call.message().validate()?;
            let body = wire::call(&self.0.config, call.message())?;
            self.0.create("/Calls.json", body, call_state).await
        };
        made.await
            .map_err(|e| e.operation("voice.call").with("provider", &self.0.info.name))
    }

    async fn lookup(&self, ctx: &Context, lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        ctx.check(&*self.0.clock)?;
        self.0
            .look_up(lookup, "Calls", |found: Calls| found.calls, call_state)
            .await
            .map_err(|e| e.operation("voice.lookup").with("provider", &self.0.info.name))
    }
}
