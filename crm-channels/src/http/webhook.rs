use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crm_core::capability::{WebhookReply, WebhookRequest, WebhookSource};
use crm_core::customer::{Address, PhoneNumber};
use crm_core::message::{Blame, Channel, DeliveryEvent, DeliveryState, InboundEvent, InboundMessage};
use crm_core::{Clock, Error, ErrorKind, Health, Provider, ProviderInfo, Result, SystemClock, Timestamp};
use ring::{digest, hmac};
use serde_json::Value;

use super::answer::text;
use super::config::HttpVendorConfig;
use super::hook::{HmacKind, MessageSpec, NewsSpec, Proof, WebhookSpec};
use crate::exchange::shown;

/// The most that one request of a vendor holds.
const MAX_BODY: usize = 1024 * 1024;

/// Understands what a vendor tells, as a description says.
pub struct HttpWebhook {
    info: ProviderInfo,
    spec: WebhookSpec,
    clock: Arc<dyn Clock>,
}

impl HttpWebhook {
    /// A source of this name. Give it the name of the sender whose messages the news are about.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn build(name: &str, config: &HttpVendorConfig) -> Result<Self> {
        config.validate()?;
        let Some(spec) = config.webhook.clone() else {
            return Err(
                Error::config("the vendor's description does not say what it tells")
                    .with("setting", "webhook"),
            );
        };
        Ok(Self {
            info: ProviderInfo::new(config.scheme.clone(), name),
            spec,
            clock: SystemClock::shared(),
        })
    }

    /// Takes the time of news that carry none from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn is_genuine(&self, request: &WebhookRequest) -> bool {
        match &self.spec.proof {
            Proof::Path(secret) => request
                .url
                .path_segments()
                .and_then(|mut parts| parts.rfind(|part| !part.is_empty()))
                .is_some_and(|last| same(last, secret.expose())),
            Proof::Header { name, value } => request
                .headers
                .get(&name.to_ascii_lowercase())
                .is_some_and(|given| same(given, value.expose())),
            Proof::Hmac {
                header,
                secret,
                algorithm,
                prefix,
            } => {
                let Some(given) = request
                    .headers
                    .get(&header.to_ascii_lowercase())
                    .and_then(|given| given.trim().strip_prefix(prefix.as_str()))
                else {
                    return false;
                };
                let (kind, given) = match algorithm {
                    HmacKind::Sha256Hex => (hmac::HMAC_SHA256, unhex(given)),
                    HmacKind::Sha256Base64 => (hmac::HMAC_SHA256, STANDARD.decode(given).ok()),
                    HmacKind::Sha1Hex => (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, unhex(given)),
                    HmacKind::Sha1Base64 => {
                        (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, STANDARD.decode(given).ok())
                    }
                };
                let key = hmac::Key::new(kind, secret.expose().as_bytes());
                given.is_some_and(|given| hmac::verify(&key, &request.body, &given).is_ok())
            }
        }
    }

    fn read(&self, item: &Value) -> Option<InboundEvent> {
        if let Some(spec) = &self.spec.message
            && let Some(message) = self.message(spec, item)
        {
            return Some(message);
        }
        self.spec.news.as_ref().and_then(|spec| self.news(spec, item))
    }

    fn message(&self, spec: &MessageSpec, item: &Value) -> Option<InboundEvent> {
        Some(InboundEvent::Message(InboundMessage {
            provider: self.info.name.clone(),
            text: at(item, &spec.text)?,
            provider_ref: at(item, &spec.reference)?,
            channel: Channel::Sms,
            from: Address::Phone(number(&at(item, &spec.from)?)?),
            to: at(item, &spec.to).unwrap_or_default(),
            at: self.clock.now(),
            keyword: None,
        }))
    }

    fn news(&self, spec: &NewsSpec, item: &Value) -> Option<InboundEvent> {
        let (reference, word) = (at(item, &spec.reference)?, at(item, &spec.state)?);
        let read = |place: &Option<String>| place.as_ref().and_then(|place| at(item, place));
        let meaning = spec.states.get(&word);
        let (reference, word) = (shown(&reference), shown(&word));
        let code = read(&spec.code).map(|code| shown(&code));
        Some(InboundEvent::Delivery(DeliveryEvent {
            provider: self.info.name.clone(),
            event_id: format!("{reference}:{word}"),
            message_id: read(&spec.id).and_then(|id| id.parse().ok()),
            provider_ref: Some(reference),
            recipient: read(&spec.to).and_then(|to| address(&to)),
            state: meaning.map_or(DeliveryState::Accepted, |meaning| meaning.state),
            at: read(&spec.at)
                .and_then(|text| time(&text))
                .unwrap_or_else(|| self.clock.now()),
            code: Some(code.map_or_else(|| word.clone(), |code| format!("{word} {code}"))),
            reason: None,
            blame: meaning.map_or(Blame::Nobody, |meaning| meaning.blame),
        }))
    }
}

/// What stands in an item, as text: at a pointer, or in a form's field.
fn at(item: &Value, place: &str) -> Option<String> {
    let found = if place.starts_with('/') {
        item.pointer(place)
    } else {
        item.get(place)
    };
    text(found?).filter(|found| !found.is_empty())
}

/// Whom it was for: what has an `@` in it is no number.
fn address(text: &str) -> Option<Address> {
    if text.contains('@') {
        return text.trim().parse().ok().map(Address::Email);
    }
    number(text).map(Address::Phone)
}

fn number(text: &str) -> Option<PhoneNumber> {
    let text = text.trim();
    let text = if text.starts_with('+') {
        text.to_owned()
    } else {
        format!("+{}", text.trim_start_matches("00"))
    };
    PhoneNumber::parse(&text, None).ok()
}

/// RFC 3339, or seconds or milliseconds since 1970.
fn time(text: &str) -> Option<Timestamp> {
    if let Ok(number) = text.parse::<i64>() {
        let factor = if number.abs() < 100_000_000_000 {
            1_000_000
        } else {
            1000
        };
        return number.checked_mul(factor).map(Timestamp::from_micros);
    }
    text.parse().ok()
}

/// Whether two secrets are the same. What is compared are keyed hashes: how long that takes says nothing about them.
fn same(given: &str, expected: &str) -> bool {
    let key = hmac::Key::new(
        hmac::HMAC_SHA256,
        digest::digest(&digest::SHA256, expected.as_bytes()).as_ref(),
    );
    let tag = hmac::sign(&key, expected.as_bytes());
    hmac::verify(&key, given.as_bytes(), tag.as_ref()).is_ok()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len() / 2)
        .map(|place| u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok())
        .collect()
}

impl fmt::Debug for HttpWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpWebhook")
            .field("name", &self.info.name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Provider for HttpWebhook {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl WebhookSource for HttpWebhook {
    async fn receive(&self, request: &WebhookRequest) -> Result<Vec<InboundEvent>> {
        let wrong = |kind, message: &'static str| Error::new(kind, message).operation("webhook.receive");
        if request.body.len() > MAX_BODY {
            return Err(
                wrong(ErrorKind::Invalid, "larger than a vendor's request may be").with("most", MAX_BODY)
            );
        }
        if !self.is_genuine(request) {
            return Err(wrong(
                ErrorKind::Unauthenticated,
                "the request does not prove that it comes from the vendor",
            ));
        }
        let items = if self.spec.form {
            let fields = url::form_urlencoded::parse(&request.body);
            let fields = fields.map(|(name, value)| (name.into_owned(), Value::from(value.into_owned())));
            vec![Value::Object(fields.collect())]
        } else {
            let body: Value = serde_json::from_slice(&request.body)
                .map_err(|_| wrong(ErrorKind::Invalid, "not the JSON that the vendor sends"))?;
            let found = match &self.spec.items {
                Some(pointer) => body.pointer(pointer).cloned().unwrap_or(Value::Null),
                None => body,
            };
            match found {
                Value::Array(all) => all,
                one => vec![one],
            }
        };
        let events: Vec<InboundEvent> = items.iter().filter_map(|item| self.read(item)).collect();
        if events.len() < items.len() {
            tracing::warn!(provider = %self.info.name, unread = items.len() - events.len(), "some of what the vendor sent was not understood");
        }
        if events.is_empty() && !items.is_empty() {
            return Err(wrong(
                ErrorKind::Invalid,
                "nothing of what the vendor sent was understood",
            ));
        }
        Ok(events)
    }

    fn accepted(&self) -> WebhookReply {
        let reply = &self.spec.reply;
        let kind = if reply.body.starts_with(['{', '[']) {
            "application/json"
        } else {
            "text/plain"
        };
        WebhookReply::new(reply.status, kind, reply.body.clone())
    }
}
