use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{WebhookReply, WebhookRequest, WebhookSource};
use crm_core::customer::Address;
use crm_core::message::{Blame, Channel, DeliveryEvent, DeliveryState, InboundEvent, InboundMessage};
use crm_core::{Clock, Error, ErrorKind, Health, Provider, ProviderInfo, Result, SystemClock};
use ring::hmac;
use serde_json::Value;

use super::config::AliyunConfig;
use super::error::{call_state, receipt_blame};
use super::named;
use super::wire::{Pushed, SCHEME, number, sms_number};
use crate::exchange::{china, shown};

/// A push holds many receipts of a few hundred bytes each.
const MAX_BODY: usize = 1024 * 1024;

/// Understands what Aliyun pushes: receipts of messages (`SmsReport`), answers to them (`SmsUp`), records of calls
/// (`VoiceReport`, `VoiceCallReport`), many in one request.
///
/// Aliyun signs nothing. What proves a request is the last part of its path, the setting `hook_secret`: give the vendor an
/// address such as `https://crm.example/hooks/aliyun/<secret>`. It is a hint all the same: before something expensive is done
/// for it, ask with `lookup`.
pub struct AliyunWebhook {
    info: ProviderInfo,
    config: AliyunConfig,
    key: hmac::Key,
    expected: hmac::Tag,
    clock: Arc<dyn Clock>,
}

impl AliyunWebhook {
    /// A source of this name, for the account of these settings. Give it the name of the sender whose messages the news
    /// are about.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] without `hook_secret`.
    pub fn build(name: &str, config: AliyunConfig) -> Result<Self> {
        config.validate()?;
        let Some(secret) = &config.hook_secret else {
            return Err(Error::config(
                "Aliyun signs nothing: set a secret that is the last part of the path it is told",
            )
            .with("setting", "hook_secret"));
        };
        // What is compared are two keyed hashes: how long that takes says nothing about the secret.
        let key = hmac::Key::new(hmac::HMAC_SHA256, config.secret.expose().as_bytes());
        let expected = hmac::sign(&key, secret.expose().as_bytes());
        Ok(Self {
            info: ProviderInfo::new(SCHEME, name),
            key,
            expected,
            clock: SystemClock::shared(),
            config,
        })
    }

    /// Takes the time of news that carry none from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn is_genuine(&self, request: &WebhookRequest) -> bool {
        let last = request
            .url
            .path_segments()
            .and_then(|mut parts| parts.rfind(|part| !part.is_empty()));
        last.is_some_and(|last| hmac::verify(&self.key, last.as_bytes(), self.expected.as_ref()).is_ok())
    }

    fn time(&self, one: &Pushed, fields: &[&str]) -> crm_core::Timestamp {
        fields
            .iter()
            .find_map(|field| china(&text(one, field)))
            .unwrap_or_else(|| self.clock.now())
    }

    fn read(&self, one: &Pushed) -> Option<InboundEvent> {
        if one.contains_key("call_id") {
            return self.call(one);
        }
        if one.contains_key("content") {
            return self.answer(one);
        }
        self.receipt(one)
    }

    /// `SmsReport`.
    fn receipt(&self, one: &Pushed) -> Option<InboundEvent> {
        let (biz_id, out_id, code) = (text(one, "biz_id"), text(one, "out_id"), text(one, "err_code"));
        let success = match one.get("success") {
            Some(Value::Bool(success)) => *success,
            Some(Value::String(success)) => success.eq_ignore_ascii_case("true"),
            _ => return None,
        };
        if biz_id.is_empty() && out_id.is_empty() {
            return None;
        }
        let recipient = number(&text(one, "phone_number"));
        let state = match (success, code.as_str()) {
            // The carrier has said nothing so far.
            (_, "REQUEST_SUCCESS") => DeliveryState::Accepted,
            (true, _) => DeliveryState::Delivered,
            (false, _) => DeliveryState::Failed,
        };
        let reference = if out_id.is_empty() { &biz_id } else { &out_id };
        let phone = recipient.as_ref().map(sms_number).unwrap_or_default();
        Some(InboundEvent::Delivery(DeliveryEvent {
            provider: self.info.name.clone(),
            event_id: named(&self.config, &[reference, &phone, state.as_str()]),
            message_id: out_id.parse().ok(),
            provider_ref: Some(biz_id).filter(|id| !id.is_empty()),
            recipient: recipient.map(Address::Phone),
            state,
            at: self.time(one, &["report_time", "send_time"]),
            code: Some(shown(&code)).filter(|code| !code.is_empty()),
            reason: None,
            blame: match state {
                DeliveryState::Failed => receipt_blame(&code),
                _ => Blame::Nobody,
            },
        }))
    }

    /// `SmsUp`.
    fn answer(&self, one: &Pushed) -> Option<InboundEvent> {
        let from = number(&text(one, "phone_number"))?;
        let (said, at, to) = (
            text(one, "content"),
            text(one, "send_time"),
            text(one, "dest_code"),
        );
        let sequence = text(one, "sequence_id");
        let provider_ref = if sequence.is_empty() {
            named(&self.config, &[from.as_str(), &at, &to, &said])
        } else {
            sequence
        };
        Some(InboundEvent::Message(InboundMessage {
            provider: self.info.name.clone(),
            provider_ref,
            channel: Channel::Sms,
            from: Address::Phone(from),
            to,
            text: said,
            at: self.time(one, &["send_time"]),
            keyword: None,
        }))
    }

    /// `VoiceReport` at the end of a call, `VoiceCallReport` meanwhile.
    fn call(&self, one: &Pushed) -> Option<InboundEvent> {
        let (call_id, code) = (text(one, "call_id"), text(one, "status_code"));
        if call_id.is_empty() {
            return None;
        }
        let (state, blame) = call_state(&code).unwrap_or_else(|| {
            let answered = !text(one, "start_time").is_empty()
                || text(one, "duration").parse::<u64>().is_ok_and(|s| s > 0);
            let state = match (answered, one.contains_key("end_time")) {
                (true, _) => DeliveryState::Delivered,
                (false, true) => DeliveryState::Failed,
                (false, false) => DeliveryState::Accepted,
            };
            (state, Blame::Nobody)
        });
        Some(InboundEvent::Delivery(DeliveryEvent {
            provider: self.info.name.clone(),
            event_id: named(&self.config, &[&call_id, &code]),
            message_id: None,
            provider_ref: Some(call_id),
            recipient: number(&text(one, "callee")).map(Address::Phone),
            state,
            at: self.time(one, &["status_time", "end_time", "originate_time"]),
            code: Some(shown(&code)).filter(|code| !code.is_empty()),
            reason: None,
            blame,
        }))
    }
}

/// A field as text, however the vendor wrote it; empty when it is not there.
fn text(one: &Pushed, field: &str) -> String {
    match one.get(field) {
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

impl fmt::Debug for AliyunWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AliyunWebhook")
            .field("name", &self.info.name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Provider for AliyunWebhook {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl WebhookSource for AliyunWebhook {
    async fn receive(&self, request: &WebhookRequest) -> Result<Vec<InboundEvent>> {
        let wrong = |kind, message: &'static str| Error::new(kind, message).operation("webhook.receive");
        if request.body.len() > MAX_BODY {
            return Err(wrong(ErrorKind::Invalid, "larger than anything Aliyun sends").with("most", MAX_BODY));
        }
        if !self.is_genuine(request) {
            return Err(wrong(
                ErrorKind::Unauthenticated,
                "the path does not end with the secret that only the vendor was told",
            ));
        }
        let pushed: Vec<Pushed> = serde_json::from_slice(&request.body)
            .or_else(|_| serde_json::from_slice(&request.body).map(|one: Pushed| vec![one]))
            .map_err(|_| wrong(ErrorKind::Invalid, "not the JSON that Aliyun sends"))?;
        let events: Vec<InboundEvent> = pushed.iter().filter_map(|one| self.read(one)).collect();
        if events.len() < pushed.len() {
            // The others are not given up for it; the vendor would push all of them again, and then none.
            tracing::warn!(provider = %self.info.name, unread = pushed.len() - events.len(), "some of what Aliyun pushed was not understood");
        }
        if events.is_empty() && !pushed.is_empty() {
            return Err(wrong(
                ErrorKind::Invalid,
                "nothing of what Aliyun pushed was understood",
            ));
        }
        Ok(events)
    }

    fn accepted(&self) -> WebhookReply {
        WebhookReply::new(200, "application/json", r#"{"code":0,"msg":"ok"}"#)
    }
}
