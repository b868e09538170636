//! E-mail, SMS and calls through any vendor with an HTTP interface, described by data: [`HttpMailer`], [`HttpSms`],
//! [`HttpVoice`], and what the vendor tells us, [`HttpWebhook`]. A local vendor needs no Rust, but a description ([`HttpVendorConfig`]).
//!
//! Says nothing that the description does not: what fits no rule goes by the status of the answer. A request that may have
//! been heard and whose answer is lost or unreadable is never repeated ([`crm_core::Effect::Unknown`]).
//!
//! ```
//! use crm_channels::http::{HttpSms, HttpVendorConfig};
//! use crm_core::capability::SmsSender;
//!
//! let config: HttpVendorConfig = serde_json::from_str(r#"{
//!     "scheme": "acme",
//!     "secrets": {"key": "s3cret"},
//!     "sms": {
//!         "request": {
//!             "method": "GET",
//!             "url": "https://sms.acme.example/send?key={{secret.key}}&to={{to_digits}}&text={{text}}"
//!         },
//!         "answer": {"reference": {"regex": "^OK ([0-9]+)"}, "code": {"regex": "^ERR ([0-9]+)"}}
//!     }
//! }"#).unwrap();
//! let sms = HttpSms::build("acme", config).unwrap();
//! assert!(sms.capability().free_text && !sms.capability().lookup);
//! ```

mod answer;
mod config;
mod fill;
mod hook;
mod mail;
mod request;
mod webhook;

use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{SmsCapability, SmsSender, VoiceCaller, VoiceCapability};
use crm_core::customer::PhoneNumber;
use crm_core::http::HttpClient;
use crm_core::message::{
    Blame, DeliveryEvent, DeliveryState, Lookup, Permitted, Receipt, Sms, VendorParameters, VendorTemplates,
    VoiceCall, VoiceStep,
};
use crm_core::{Clock, Context, Effect, Error, ErrorKind, Health, ProviderInfo, Result, Retry, SystemClock};
use serde_json::Value;

pub use answer::Read;
pub use config::{
    AnswerSpec, Auth, BodySpec, CheckSpec, Escape, Exchange, Expect, HttpVendorConfig, LookupSpec, Means,
    RequestSpec, Rule, StateSpec,
};
pub use hook::{HmacKind, MessageSpec, NewsSpec, Proof, ReplySpec, WebhookSpec};
pub use mail::HttpMailer;
pub use webhook::HttpWebhook;

use crate::exchange::{Answer, Question, ask, provider_over_http, shown};
use fill::Values;
use request::{Filled, Request};

/// The way to one vendor, for one kind of message.
struct Line {
    info: ProviderInfo,
    config: HttpVendorConfig,
    send: Request,
    answer: AnswerSpec,
    lookup: Option<Request>,
    check: Option<Request>,
    client: HttpClient,
    clock: Arc<dyn Clock>,
}

impl Line {
    fn new(name: &str, setting: &'static str, config: HttpVendorConfig) -> Result<Self> {
        config.validate()?;
        let exchange = match setting {
            "mail" => config.mail.clone(),
            "sms" => config.sms.clone(),
            _ => config.voice.clone(),
        };
        let Some(exchange) = exchange else {
            return Err(Error::config("the vendor's description does not say how").with("setting", setting));
        };
        let lookup = match &config.lookup {
            Some(lookup) => Some(Request::parse("lookup", &lookup.request, &config)?),
            None => None,
        };
        let check = match &config.check {
            Some(check) => Some(Request::parse("check", &check.request(), &config)?),
            None => None,
        };
        Ok(Self {
            info: ProviderInfo::new(config.scheme.clone(), name),
            send: Request::parse(setting, &exchange.request, &config)?,
            answer: exchange.answer,
            lookup,
            check,
            client: HttpClient::new(config.http.clone())?,
            clock: SystemClock::shared(),
            config,
        })
    }

    /// Whether the description has such a place, and insists on it.
    fn needs(&self, name: &str) -> Option<bool> {
        self.send
            .places()
            .into_iter()
            .filter(|(place, _)| place == name)
            .map(|(_, optional)| !optional)
            .reduce(|a, b| a || b)
    }

    /// What every request may say.
    fn common(&self, id: &str) -> Values {
        let mut values = Values::default();
        let now = self.clock.now();
        values.set("id", id);
        values.set("now", now.to_string());
        values.set("now_unix", now.as_micros() / 1_000_000);
        for (name, secret) in &self.config.secrets {
            values.set(format!("secret.{name}"), secret.expose());
        }
        for (name, setting) in &self.config.settings {
            values.set(format!("setting.{name}"), setting.as_str());
        }
        values
    }

    fn values(&self, id: &str, to: &PhoneNumber, from: Option<&str>, templates: &VendorTemplates) -> Values {
        let mut values = self.common(id);
        values.set("to", to.as_str());
        values.set("to_digits", to.as_str().trim_start_matches('+'));
        if let Some(from) = from {
            values.set("from", from);
        }
        if let Some(template) = templates.get(&self.config.scheme) {
            values.set("template.code", template.code.as_str());
            if let Some(name) = &template.sign_name {
                values.set("template.sign_name", name.as_str());
            }
            let params = template
                .params
                .iter()
                .map(|(k, v)| (k.clone(), Value::from(v.as_str())));
            values.set("template.params", Value::Object(params.collect()));
            for (name, value) in &template.params {
                values.set(format!("param.{name}"), value.as_str());
            }
        }
        values
    }

    /// The message's own parameters for this vendor. One that the description has no place for is not dropped in silence.
    fn own(&self, values: &mut Values, parameters: &VendorParameters) -> Result<()> {
        for (name, given) in parameters.get(&self.config.scheme).into_iter().flatten() {
            let place = format!("parameter.{name}");
            if self.needs(&place).is_none() {
                return Err(
                    Error::invalid("the vendor's description has no place for this parameter")
                        .with("field", "parameters")
                        .with("parameter", shown(name)),
                );
            }
            match given.as_slice() {
                [one] => values.set(place, one.as_str()),
                several => values.set(place, several.to_vec()),
            }
        }
        Ok(())
    }

    /// Whether the vendor is there, as far as the description says how to see it.
    async fn check(&self) -> Result<Health> {
        let (Some(request), Some(spec)) = (&self.check, &self.config.check) else {
            return Ok(Health::Ready);
        };
        let named = |error: Error| error.operation("vendor.check").with("provider", &self.info.name);
        let filled = request.fill(&self.common(""), &self.config.auth).map_err(named)?;
        let answer = self.ask(filled).await.map_err(named)?;
        if !answer.is_success() {
            return Err(named(answer.by_status(self.clock.now())));
        }
        let ready = spec.success.as_ref().is_none_or(|success| success.met(&answer));
        Ok(if ready { Health::Ready } else { Health::Down })
    }

    async fn ask(&self, filled: Filled) -> Result<Answer> {
        let headers = filled
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()));
        let question = Question {
            method: filled.method,
            url: &filled.url,
            headers: headers.collect(),
            body: filled.body,
        };
        ask(&self.client, question).await
    }

    async fn send(&self, values: &Values) -> Result<Receipt> {
        let filled = self.send.fill(values, &self.config.auth)?;
        // Some vendors send with a GET; what the client takes for a harmless question is none here.
        let harmless = filled.method.is_safe();
        let sent = self.ask(filled).await.map_err(|error| match error.kind() {
            ErrorKind::Timeout | ErrorKind::Unavailable
                if harmless && error.context("heard") == Some("maybe") =>
            {
                error.effect_unknown()
            }
            _ => error,
        })?;
        let reference = answer::reference(&self.answer, &sent.changing(), self.clock.now())?;
        Ok(Receipt::new(self.info.name.clone(), reference, self.clock.now()))
    }

    async fn look_up(&self, lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        let (Some(request), Some(spec)) = (&self.lookup, &self.config.lookup) else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the vendor's description does not say how to ask what became of a message",
            ));
        };
        let mut values = self.values(
            &lookup.message_id.to_string(),
            &lookup.to,
            None,
            &VendorTemplates::new(),
        );
        match &lookup.provider_ref {
            Some(reference) => values.set("reference", reference.as_str()),
            None if request.places().contains(&("reference".to_owned(), false)) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this vendor finds a message by its own reference only",
                ));
            }
            None => {}
        }
        let answer = self
            .ask(request.fill(&values, &self.config.auth)?)
            .await
            .map_err(|error| match error.effect() {
                Effect::None => error,
                Effect::Unknown => error
                    .with_effect(Effect::None)
                    .with_retry(Retry::Allowed { after: None }),
            })?;
        if spec.unknown.contains(&answer.status()) {
            return Ok(Vec::new());
        }
        if !answer.is_success() {
            return Err(answer.by_status(self.clock.now()).with_effect(Effect::None));
        }
        let Some(word) = spec.state.read(&answer) else {
            return Err(Error::unexpected(
                "the vendor's answer has no state where its description says",
            ));
        };
        let reference = lookup
            .provider_ref
            .clone()
            .or_else(|| spec.reference.as_ref().and_then(|read| read.read(&answer)));
        let meaning = spec.states.get(&word);
        let word = shown(&word);
        Ok(vec![DeliveryEvent {
            provider: self.info.name.clone(),
            event_id: format!("{}:{word}", reference.as_deref().unwrap_or("-")),
            message_id: Some(lookup.message_id),
            provider_ref: reference,
            recipient: None,
            state: meaning.map_or(DeliveryState::Accepted, |meaning| meaning.state),
            at: self.clock.now(),
            code: Some(word),
            reason: None,
            blame: meaning.map_or(Blame::Nobody, |meaning| meaning.blame),
        }])
    }
}

provider_over_http!(HttpMailer);
provider_over_http!(HttpSms);
provider_over_http!(HttpVoice);

/// Sends SMS as a description says.
pub struct HttpSms(Line);

impl HttpSms {
    /// A sender of this name. Checks the description; connects with the first message.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn build(name: &str, config: HttpVendorConfig) -> Result<Self> {
        Line::new(name, "sms", config).map(Self)
    }
}

#[async_trait]
impl SmsSender for HttpSms {
    fn capability(&self) -> SmsCapability {
        let capability = SmsCapability::new(self.0.needs("text").is_some(), true);
        if self.0.lookup.is_some() {
            capability.with_lookup()
        } else {
            capability
        }
    }

    async fn send(&self, ctx: &Context, sms: &Permitted<Sms>) -> Result<Receipt> {
        let sent = async {
            let sms = sms.message();
            ctx.check(&*self.0.clock)?;
            sms.validate()?;
            let mut values = self
                .0
                .values(&sms.id.to_string(), &sms.to, sms.from.as_deref(), &sms.templates);
            self.0.own(&mut values, &sms.parameters)?;
            if !sms.text.is_empty() {
                values.set("text", sms.text.as_str());
            }
            if !sms.media.is_empty() {
                let media: Vec<Value> = sms.media.iter().map(|url| Value::from(url.as_str())).collect();
                values.set("media", media);
            }
            // What the vendor cannot carry is not dropped in silence.
            if !sms.media.is_empty() && self.0.needs("media").is_none() {
                return Err(
                    Error::invalid("the vendor's description has no place for pictures")
                        .with("field", "media"),
                );
            }
            let templated =
                sms.templates.contains_key(&self.0.config.scheme) && self.0.needs("template.code").is_some();
            if !templated && (sms.text.is_empty() || self.0.needs("text").is_none()) {
                let field = if self.0.needs("text").is_some() {
                    "text"
                } else {
                    "templates"
                };
                return Err(Error::invalid(
                    "the message has nothing that the vendor's description has a place for",
                )
                .with("field", field));
            }
            self.0.send(&values).await
        };
        sent.await
            .map_err(|e| e.operation("sms.send").with("provider", &self.0.info.name))
    }

    async fn lookup(&self, ctx: &Context, lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        ctx.check(&*self.0.clock)?;
        self.0
            .look_up(lookup)
            .await
            .map_err(|e| e.operation("sms.lookup").with("provider", &self.0.info.name))
    }
}

/// Makes calls as a description says: one text that is spoken (`{{text}}`), one recording that is played
/// (`{{recording}}`), or a template. Other steps are beyond it.
pub struct HttpVoice(Line);

impl HttpVoice {
    /// A caller of this name. Checks the description; connects with the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn build(name: &str, config: HttpVendorConfig) -> Result<Self> {
        Line::new(name, "voice", config).map(Self)
    }
}

#[async_trait]
impl VoiceCaller for HttpVoice {
    fn capability(&self) -> VoiceCapability {
        let capability = VoiceCapability::new(self.0.needs("text").is_some(), true);
        if self.0.lookup.is_some() {
            capability.with_lookup()
        } else {
            capability
        }
    }

    async fn call(&self, ctx: &Context, call: &Permitted<VoiceCall>) -> Result<Receipt> {
        let made = async {
            let call = call.message();
            ctx.check(&*self.0.clock)?;
            call.validate()?;
            let mut values = self.0.values(
                &call.id.to_string(),
                &call.to,
                call.from.as_deref(),
                &call.templates,
            );
            self.0.own(&mut values, &call.parameters)?;
            let templated =
                call.templates.contains_key(&self.0.config.scheme) && self.0.needs("template.code").is_some();
            if !templated {
                let steps: Vec<&VoiceStep> = call
                    .steps
                    .iter()
                    .filter(|step| **step != VoiceStep::Hangup)
                    .collect();
                match steps.as_slice() {
                    [VoiceStep::Say { text, times, .. }] if self.0.needs("text").is_some() => {
                        values.set("text", text.as_str());
                        values.set("times", *times);
                    }
                    [VoiceStep::Play { recording, times }] if self.0.needs("recording").is_some() => {
                        values.set("recording", recording.as_str());
                        values.set("times", *times);
                    }
                    _ => {
                        let spoken = self.0.needs("text").is_some() || self.0.needs("recording").is_some();
                        return Err(Error::invalid(
                            "the call's steps are more than the vendor's description has places for",
                        )
                        .with("field", if spoken { "steps" } else { "templates" }));
                    }
                }
            }
            self.0.send(&values).await
        };
        made.await
            .map_err(|e| e.operation("voice.call").with("provider", &self.0.info.name))
    }

    async fn lookup(&self, ctx: &Context, lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        ctx.check(&*self.0.clock)?;
        self.0
            .look_up(lookup)
            .await
            .map_err(|e| e.operation("voice.lookup").with("provider", &self.0.info.name))
    }
}
