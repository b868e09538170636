use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{WebhookReply, WebhookRequest, WebhookSource};
use crm_core::customer::{Address, PhoneNumber};
use crm_core::message::{
    Blame, Channel, DeliveryEvent, DeliveryState, InboundEvent, InboundMessage, Keyword, STOP_KEY,
};
use crm_core::{Clock, Error, ErrorKind, Health, Provider, ProviderInfo, Result, Secret, SystemClock};

use super::config::TwilioConfig;
use super::error;
use super::sign::{fields, is_form, is_genuine};
use super::wire::{MESSAGE, SCHEME, call_state, message_state};
use crate::exchange::{date, shown};

/// Twilio's own calls hold a few kilobytes.
const MAX_BODY: usize = 256 * 1024;

/// Understands what Twilio tells: status callbacks of messages and calls, text messages to us, and keys that are pressed in
/// calls ([`crm_core::message::VoiceStep::opt_out`]).
///
/// Every request is proven by its `X-Twilio-Signature` before anything in it is read. The URL of the request must be the
/// one that Twilio called: behind a proxy, the outer one.
pub struct TwilioWebhook {
    info: ProviderInfo,
    secrets: Vec<Secret>,
    clock: Arc<dyn Clock>,
}

impl TwilioWebhook {
    /// A source of this name, for the account of these settings. Give it the name of the sender whose messages the news
    /// are about.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] without the account's auth token: an API key proves no webhook.
    pub fn build(name: &str, config: &TwilioConfig) -> Result<Self> {
        config.validate()?;
        let Some(token) = config.token.clone() else {
            return Err(Error::config(
                "webhooks are proven by the account's auth token, also when an API key signs in; set it too",
            )
            .with("setting", "token"));
        };
        Ok(Self {
            info: ProviderInfo::new(SCHEME, name),
            secrets: vec![token],
            clock: SystemClock::shared(),
        })
    }

    /// Takes this secret as well: the new auth token while it is being changed, or a key that signs webhooks.
    #[must_use]
    pub fn also(mut self, secret: Secret) -> Self {
        self.secrets.push(secret);
        self
    }

    /// Takes the time of news that carry none from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn read(&self, request: &WebhookRequest, told: &Told) -> Option<InboundEvent> {
        if let (Some(sid), Some(status)) = (told.one_of(&["MessageSid", "SmsSid"]), told.get("MessageStatus"))
        {
            let code = told.get("ErrorCode").and_then(|code| code.parse().ok());
            let state = message_state(status);
            return Some(self.news(request, told, sid, status, state, code));
        }
        if let (Some(sid), Some(keys)) = (told.get("CallSid"), told.get("Digits")) {
            return self.keys(request, told, sid, keys);
        }
        if let (Some(sid), Some(status)) = (told.get("CallSid"), told.get("CallStatus")) {
            let code = told.get("ErrorCode").and_then(|code| code.parse().ok());
            let state = call_state(status);
            return Some(self.news(request, told, sid, status, state, code));
        }
        let sid = told.one_of(&["MessageSid", "SmsSid"])?;
        let from = told.get("From")?;
        // A name or a short code cannot be written to, and so cannot opt out.
        let from = PhoneNumber::parse(from.rsplit(':').next().unwrap_or(from), None).ok()?;
        let keyword = match told.get("OptOutType") {
            Some("STOP") => Some(Keyword::Stop),
            Some("START") => Some(Keyword::Start),
            Some("HELP") => Some(Keyword::Help),
            _ => None,
        };
        Some(InboundEvent::Message(InboundMessage {
            provider: self.info.name.clone(),
            provider_ref: sid.to_owned(),
            channel: Channel::Sms,
            from: Address::Phone(from),
            to: told.get("To").unwrap_or_default().to_owned(),
            text: told.get("Body").unwrap_or_default().to_owned(),
            at: self.clock.now(),
            keyword,
        }))
    }

    /// Keys that somebody pressed in a call. Which one means "no more" is told by the address they were sent to, and the
    /// signature covers that.
    fn keys(&self, request: &WebhookRequest, told: &Told, sid: &str, keys: &str) -> Option<InboundEvent> {
        let outbound = told
            .get("Direction")
            .is_some_and(|way| way.starts_with("outbound"));
        let (them, us) = if outbound { ("To", "From") } else { ("From", "To") };
        let stop = request
            .url
            .query_pairs()
            .any(|(name, key)| name == STOP_KEY && key == keys);
        Some(InboundEvent::Message(InboundMessage {
            provider: self.info.name.clone(),
            provider_ref: format!("{}:{}", shown(sid), shown(keys)),
            channel: Channel::Voice,
            from: Address::Phone(PhoneNumber::parse(told.get(them)?, None).ok()?),
            to: told.get(us).unwrap_or_default().to_owned(),
            text: keys.to_owned(),
            at: self.clock.now(),
            keyword: stop.then_some(Keyword::Stop),
        }))
    }

    fn news(
        &self,
        request: &WebhookRequest,
        told: &Told,
        sid: &str,
        status: &str,
        state: DeliveryState,
        code: Option<u32>,
    ) -> InboundEvent {
        let (sid, status) = (shown(sid), shown(status));
        let blame = match (state, code, told.get("SipResponseCode")) {
            (DeliveryState::Failed, Some(code), _) => error::blame(Some(code)),
            // The network knows no such number (RFC 3261, 21.4).
            (DeliveryState::Failed, None, Some("404" | "410" | "484" | "604")) => Blame::Recipient,
            _ => Blame::Nobody,
        };
        let machine = told.get("AnsweredBy").filter(|who| who.starts_with("machine"));
        let detail = match (code, machine) {
            (Some(code), _) => format!("{status} {code}"),
            (None, Some(machine)) => format!("{status} {}", shown(machine)),
            (None, None) => status.clone(),
        };
        InboundEvent::Delivery(DeliveryEvent {
            provider: self.info.name.clone(),
            event_id: format!("{sid}:{status}"),
            message_id: request
                .url
                .query_pairs()
                .find(|(name, _)| name == MESSAGE)
                .and_then(|(_, id)| id.parse().ok()),
            provider_ref: Some(sid),
            recipient: told
                .get("To")
                .and_then(|to| PhoneNumber::parse(to, None).ok())
                .map(Address::Phone),
            state,
            at: told
                .get("Timestamp")
                .and_then(date)
                .unwrap_or_else(|| self.clock.now()),
            code: Some(detail),
            reason: code
                .and_then(error::meaning)
                .map(|meaning| meaning.says.to_owned()),
            blame,
        })
    }
}

/// The parameters of a request.
struct Told(Vec<(String, String)>);

impl Told {
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    fn one_of(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name))
    }
}

impl fmt::Debug for TwilioWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TwilioWebhook")
            .field("name", &self.info.name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Provider for TwilioWebhook {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl WebhookSource for TwilioWebhook {
    async fn receive(&self, request: &WebhookRequest) -> Result<Vec<InboundEvent>> {
        let wrong = |kind, message: &'static str| Error::new(kind, message).operation("webhook.receive");
        if request.body.len() > MAX_BODY {
            return Err(wrong(ErrorKind::Invalid, "larger than anything Twilio sends").with("most", MAX_BODY));
        }
        if !self
            .secrets
            .iter()
            .any(|secret| is_genuine(request, secret.expose().as_bytes()))
        {
            return Err(wrong(
                ErrorKind::Unauthenticated,
                "the signature is missing or not Twilio's; is the URL the one that Twilio called, and the token the account's?",
            ));
        }
        let told = if is_form(request) {
            fields(&request.body)
        } else if request.method == "GET" {
            request.url.query_pairs().into_owned().collect()
        } else {
            // Genuine, and of a kind that says nothing about messages of ours, such as the debugger's.
            return Ok(Vec::new());
        };
        Ok(self.read(request, &Told(told)).into_iter().collect())
    }

    /// Empty TwiML: nothing is answered to a text, and a call whose keys were asked for ends.
    fn accepted(&self) -> WebhookReply {
        WebhookReply::new(200, "text/xml", "<Response/>")
    }
}
