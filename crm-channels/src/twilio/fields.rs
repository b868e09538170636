//! The fields of a request: which there are, in which order they go, and who may set them.

use std::collections::BTreeMap;

use crm_core::message::VendorParameters;
use crm_core::{Error, Result, Secret};

use super::wire::SCHEME;
use crate::exchange::{form, shown};

/// The fields of `POST Messages.json` in the order of Twilio's own client (twilio-python 9.13.0). The second half of each
/// row: whether a message may set it by its vendor's name; the others come from its own fields and from the settings.
const OF_MESSAGES: [(&str, bool); 26] = [
    ("To", false),
    ("StatusCallback", false),
    ("ApplicationSid", true),
    ("MaxPrice", true),
    ("ProvideFeedback", true),
    ("Attempt", true),
    ("ValidityPeriod", true),
    ("ForceDelivery", true),
    ("ContentRetention", true),
    ("AddressRetention", true),
    ("SmartEncoded", true),
    ("PersistentAction", true),
    ("TrafficType", true),
    ("ShortenUrls", true),
    ("ScheduleType", true),
    ("SendAt", true),
    ("SendAsMms", true),
    ("ContentVariables", false),
    ("MessageIntent", true),
    ("RiskCheck", true),
    ("From", false),
    ("FallbackFrom", true),
    ("MessagingServiceSid", false),
    ("Body", false),
    ("MediaUrl", false),
    ("ContentSid", false),
];

/// As [`OF_MESSAGES`], for `POST Calls.json`.
const OF_CALLS: [(&str, bool); 38] = [
    ("To", false),
    ("From", false),
    ("Method", true),
    ("FallbackUrl", true),
    ("FallbackMethod", true),
    ("StatusCallback", false),
    ("StatusCallbackEvent", true),
    ("StatusCallbackMethod", true),
    ("SendDigits", true),
    ("Timeout", true),
    ("Record", true),
    ("RecordingChannels", true),
    ("RecordingStatusCallback", true),
    ("RecordingStatusCallbackMethod", true),
    ("RecordingConfigurationId", true),
    ("SipAuthUsername", true),
    ("SipAuthPassword", true),
    ("MachineDetection", true),
    ("MachineDetectionTimeout", true),
    ("RecordingStatusCallbackEvent", true),
    ("Trim", true),
    ("CallerId", true),
    ("MachineDetectionSpeechThreshold", true),
    ("MachineDetectionSpeechEndThreshold", true),
    ("MachineDetectionSilenceTimeout", true),
    ("AsyncAmd", true),
    ("AsyncAmdStatusCallback", true),
    ("AsyncAmdStatusCallbackMethod", true),
    ("Passports", true),
    ("Byoc", true),
    ("CallReason", true),
    ("CallToken", true),
    ("RecordingTrack", true),
    ("TimeLimit", true),
    ("ClientNotificationUrl", true),
    ("Url", false),
    ("Twiml", false),
    ("ApplicationSid", false),
];

/// The resources that are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    Call,
}

impl Kind {
    fn rows(self) -> &'static [(&'static str, bool)] {
        match self {
            Self::Message => &OF_MESSAGES,
            Self::Call => &OF_CALLS,
        }
    }

    /// Whether a message may set this field itself.
    pub(super) fn may_set(self, name: &str) -> bool {
        self.rows().iter().any(|(row, free)| *free && *row == name)
    }
}

/// The fields of one request.
pub(super) struct Fields {
    kind: Kind,
    values: BTreeMap<&'static str, Vec<String>>,
}

impl Fields {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            values: BTreeMap::new(),
        }
    }

    /// One value more for a field.
    pub(super) fn push(&mut self, name: &'static str, value: impl Into<String>) {
        self.values.entry(name).or_default().push(value.into());
    }

    /// What settings say of every message, and then what this one says of itself: the latter counts.
    pub(super) fn set(
        &mut self,
        of_all: &BTreeMap<String, Vec<Secret>>,
        parameters: &VendorParameters,
    ) -> Result<()> {
        let shown_to_vendor =
            |values: &[Secret]| -> Vec<String> { values.iter().map(|v| v.expose().to_owned()).collect() };
        let of_all = of_all
            .iter()
            .map(|(name, values)| (name, shown_to_vendor(values)));
        let own = parameters.get(SCHEME).into_iter().flatten();
        let own = own.map(|(name, values)| (name, values.clone()));
        for (name, values) in of_all.chain(own) {
            let row = self.kind.rows().iter().find(|(row, free)| *free && row == name);
            let Some((row, _)) = row else {
                return Err(Error::invalid(
                    "Twilio has no such parameter, or it is set by a field of the message or a setting",
                )
                .with("field", "parameters")
                .with("parameter", shown(name)));
            };
            self.values.insert(row, values);
        }
        Ok(())
    }

    /// The form, in the order of Twilio's own clients.
    pub(super) fn form(&self) -> String {
        let pairs = self.kind.rows().iter().flat_map(|(name, _)| {
            let values = self.values.get(name).map(Vec::as_slice).unwrap_or_default();
            values.iter().map(|value| (*name, value.as_str()))
        });
        form(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_vendors_and_the_message_has_the_last_word() {
        let mut fields = Fields::new(Kind::Message);
        fields.push("Body", "a b");
        fields.push("To", "+49");
        let of_all = BTreeMap::from([
            ("RiskCheck".to_owned(), vec![Secret::new("enable")]),
            ("SmartEncoded".to_owned(), vec![Secret::new("true")]),
        ]);
        let mut own = VendorParameters::new();
        own.entry("twilio".into())
            .or_default()
            .insert("RiskCheck".into(), vec!["disable".into()]);
        own.entry("aliyun".into())
            .or_default()
            .insert("Nothing".into(), vec!["x".into()]);
        fields.set(&of_all, &own).unwrap();
        assert_eq!(
            fields.form(),
            "To=%2B49&SmartEncoded=true&RiskCheck=disable&Body=a+b"
        );
        for name in ["To", "Riskcheck", "Url", "Timeout"] {
            let all = BTreeMap::from([(name.to_owned(), vec![Secret::new("x")])]);
            let error = fields.set(&all, &VendorParameters::new()).unwrap_err();
            assert_eq!(error.context("parameter"), Some(name), "{error}");
        }
        assert!(Kind::Call.may_set("Timeout") && !Kind::Call.may_set("Twiml"));
    }
}
