//! Requests and answers of Twilio's interface (version 2010-04-01), as they go over the wire.

use crm_core::message::{DeliveryState, Price, Sms, VendorTemplate, VoiceCall};
use crm_core::{Error, Result};
use serde::Deserialize;
use url::Url;

use super::config::{MachineDetection, TwilioConfig, is_sid};
use super::fields::{Fields, Kind};
use super::twiml::twiml;

/// The scheme under which messages keep their templates for this vendor.
pub(super) const SCHEME: &str = "twilio";
/// The query parameter in which a status callback brings our id back.
pub(super) const MESSAGE: &str = "message";

/// The callback's address with the message's id in it: it resolves a send whose answer was lost.
fn callback(config: &TwilioConfig, id: &str) -> Option<String> {
    config.status_callback.clone().map(|mut url| {
        url.query_pairs_mut().append_pair(MESSAGE, id);
        String::from(url)
    })
}

/// The number or name, and the messaging service, that a message comes from.
pub(super) fn sender<'a>(config: &'a TwilioConfig, sms: &'a Sms) -> (Option<&'a str>, Option<&'a str>) {
    match (
        sms.from.as_deref(),
        config.from.as_deref(),
        config.messaging_service.as_deref(),
    ) {
        (Some(from), ..) if is_sid("MG", from) => (None, Some(from)),
        (Some(from), _, service) => (Some(from), service),
        (None, from, service) => (from, service),
    }
}

/// `POST Messages.json`.
pub(super) fn message(config: &TwilioConfig, sms: &Sms) -> Result<String> {
    let mut fields = Fields::new(Kind::Message);
    fields.push("To", sms.to.as_str());
    if let Some(url) = callback(config, &sms.id.to_string()) {
        fields.push("StatusCallback", url);
    }
    if let Some(seconds) = config.validity {
        fields.push("ValidityPeriod", seconds.to_string());
    }
    fields.set(&config.message_parameters, &sms.parameters)?;
    let template = sms.templates.get(SCHEME);
    if let Some(VendorTemplate { params, .. }) = template
        && !params.is_empty()
    {
        let variables = serde_json::to_string(params)
            .map_err(|e| Error::unexpected("the template's values are no JSON").source(e))?;
        fields.push("ContentVariables", variables);
    }
    let (from, service) = sender(config, sms);
    if from.is_none() && service.is_none() {
        return Err(Error::config("nothing says where messages come from; set `from` or `messaging_service`, or give the message a sender")
            .with("setting", "from"));
    }
    if let Some(from) = from {
        fields.push("From", from);
    }
    if let Some(service) = service {
        fields.push("MessagingServiceSid", service);
    }
    match template {
        None if sms.text.is_empty() && sms.media.is_empty() => {
            return Err(Error::invalid(
                "the message has neither a text nor a picture, and no template for Twilio",
            )
            .with("field", "text"));
        }
        None => {
            if !sms.text.is_empty() {
                fields.push("Body", &sms.text);
            }
            if sms.media.len() > 10 {
                return Err(Error::invalid("Twilio takes at most 10 pictures").with("field", "media"));
            }
            for url in &sms.media {
                fields.push("MediaUrl", url.as_str());
            }
        }
        Some(VendorTemplate { code, .. }) => {
            if !is_sid("HX", code) {
                return Err(Error::invalid(
                    "Twilio's templates are named HX and 32 hexadecimal digits (ContentSid)",
                )
                .with("field", "templates"));
            }
            fields.push("ContentSid", code);
        }
    }
    Ok(fields.form())
}

/// `POST Calls.json`. A template is the address of TwiML of the host's, or the SID of a TwiML app; without one the steps
/// go along as TwiML.
pub(super) fn call(config: &TwilioConfig, call: &VoiceCall) -> Result<String> {
    let Some(from) = call.from.as_deref().or(config.from.as_deref()) else {
        return Err(
            Error::config("nothing says which number calls; set `from`, or give the call a caller")
                .with("setting", "from"),
        );
    };
    let mut fields = Fields::new(Kind::Call);
    fields.push("To", call.to.as_str());
    fields.push("From", from);
    if let Some(url) = callback(config, &call.id.to_string()) {
        fields.push("StatusCallback", url);
        for event in &config.call_events {
            fields.push("StatusCallbackEvent", event.as_str());
        }
    }
    if let Some(seconds) = config.ring_seconds {
        fields.push("Timeout", seconds.to_string());
    }
    match config.machine_detection {
        MachineDetection::Off => {}
        MachineDetection::Enable => fields.push("MachineDetection", "Enable"),
        MachineDetection::DetectMessageEnd => fields.push("MachineDetection", "DetectMessageEnd"),
    }
    fields.set(&config.call_parameters, &call.parameters)?;
    match call.templates.get(SCHEME) {
        None if call.steps.is_empty() => {
            return Err(
                Error::invalid("the call has no steps, and no template for Twilio").with("field", "steps"),
            );
        }
        None => fields.push("Twiml", twiml(&call.steps)?),
        Some(VendorTemplate { code, params, .. }) if is_sid("AP", code) => {
            if !params.is_empty() {
                return Err(Error::invalid(
                    "a TwiML app takes no values; name the address of its TwiML instead",
                )
                .with("field", "templates"));
            }
            fields.push("ApplicationSid", code);
        }
        Some(VendorTemplate { code, params, .. }) => {
            let url = match Url::parse(code) {
                Ok(url) if matches!(url.scheme(), "https" | "http") => url,
                _ => {
                    return Err(Error::invalid(
                        "a call's template for Twilio is the address of its TwiML, or the SID of a TwiML app",
                    )
                    .with("field", "templates"));
                }
            };
            if params.is_empty() {
                // As it was given: somebody may have signed it.
                fields.push("Url", code);
            } else {
                let mut url = url;
                url.query_pairs_mut().extend_pairs(params);
                fields.push("Url", String::from(url));
            }
        }
    }
    Ok(fields.form())
}

/// A message or call as Twilio shows it. What is not needed, above all numbers and texts, is not kept.
#[derive(Deserialize)]
pub(super) struct Resource {
    pub(super) sid: String,
    pub(super) status: String,
    #[serde(default)]
    pub(super) num_segments: Option<String>,
    #[serde(default)]
    price: Option<String>,
    #[serde(default)]
    price_unit: Option<String>,
    #[serde(default)]
    pub(super) error_code: Option<u32>,
    #[serde(default)]
    pub(super) date_created: Option<String>,
    #[serde(default)]
    pub(super) date_updated: Option<String>,
    #[serde(default)]
    pub(super) direction: Option<String>,
}

impl Resource {
    /// What Twilio takes for it: it writes the price as a negative decimal.
    pub(super) fn price(&self) -> Option<Price> {
        let (text, unit) = (self.price.as_deref()?, self.price_unit.as_deref()?);
        let text = text.trim().trim_start_matches('-');
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let part: String = part.chars().chain("000000".chars()).take(6).collect();
        let micros = whole
            .parse::<i64>()
            .ok()?
            .checked_mul(1_000_000)?
            .checked_add(part.parse().ok()?)?;
        Some(Price {
            micros,
            currency: unit.to_uppercase(),
        })
    }

    /// Into how many parts it goes; Twilio says 0 while it does not know yet.
    pub(super) fn segments(&self) -> Option<u32> {
        self.num_segments
            .as_deref()?
            .parse()
            .ok()
            .filter(|parts| *parts > 0)
    }
}

#[derive(Deserialize)]
pub(super) struct Messages {
    pub(super) messages: Vec<Resource>,
}

#[derive(Deserialize)]
pub(super) struct Calls {
    pub(super) calls: Vec<Resource>,
}

/// How Twilio says no. Its words may hold the number: only the code is kept.
#[derive(Deserialize)]
pub(super) struct Refusal {
    #[serde(default)]
    pub(super) code: Option<u32>,
}

/// How far a message has come (twilio.com/docs/messaging/api/message-resource#message-status-values). A word that is
/// not known says at least that Twilio has it.
pub(super) fn message_state(status: &str) -> DeliveryState {
    match status {
        "delivered" | "read" => DeliveryState::Delivered,
        "undelivered" | "failed" | "canceled" => DeliveryState::Failed,
        // accepted, scheduled, queued, sending, sent, partially_delivered
        _ => DeliveryState::Accepted,
    }
}

/// How far a call has come (twilio.com/docs/voice/api/call-resource#call-status-values): answered is arrived.
pub(super) fn call_state(status: &str) -> DeliveryState {
    match status {
        "in-progress" | "answered" | "completed" => DeliveryState::Delivered,
        "busy" | "no-answer" | "failed" | "canceled" => DeliveryState::Failed,
        // queued, initiated, ringing
        _ => DeliveryState::Accepted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_exact() {
        let price = |text: &str| {
            serde_json::from_value::<Resource>(serde_json::json!({
                "sid": "SM1", "status": "sent", "price": text, "price_unit": "usd", "num_segments": "0"
            }))
            .unwrap()
            .price()
        };
        let usd = |micros| {
            Some(Price {
                micros,
                currency: "USD".into(),
            })
        };
        assert_eq!(price("-0.00750"), usd(7500));
        assert_eq!(price("-12"), usd(12_000_000));
        assert_eq!(price("0.1"), usd(100_000));
        assert_eq!(price("much"), None);
        assert_eq!(price("99999999999999999999"), None);
    }
}
