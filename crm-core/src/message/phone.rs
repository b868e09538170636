//! Text messages, and what they share with calls.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{MessageId, no_control};
use crate::customer::PhoneNumber;
use crate::{Error, Result};

/// The longest text of an SMS, in characters: ten times what one part of plain letters holds.
const MAX_TEXT: usize = 1600;

/// A template that a vendor keeps, named by the vendor's own code and filled with parameters: Aliyun takes nothing else,
/// Twilio calls it content. `Debug` shows no parameter.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VendorTemplate {
    /// The vendor's code: `SMS_154950909`, `TTS_123`, `HX...`.
    pub code: String,
    /// The name the message is signed with, where the vendor wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_name: Option<String>,
    /// The values that the template names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
}

impl VendorTemplate {
    /// The template of this code, without values.
    pub fn new(code: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            ..Self::default()
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.code.trim().is_empty() {
            return Err(Error::invalid("a vendor's template has a code").with("field", "templates"));
        }
        no_control("templates", &self.code)?;
        self.sign_name
            .as_deref()
            .map_or(Ok(()), |name| no_control("templates", name))
    }
}

impl fmt::Debug for VendorTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VendorTemplate({}, ..)", self.code)
    }
}

/// The templates for one message, by the scheme of the provider that keeps them: `aliyun`, `twilio`.
pub type VendorTemplates = BTreeMap<String, VendorTemplate>;

/// Parameters of vendors' interfaces beyond what messages have fields for: by the scheme of the provider, then by the
/// vendor's own name, each with its values (some come more than once). A provider refuses names that its vendor does not
/// have, and those that the message's own fields set.
pub type VendorParameters = BTreeMap<String, BTreeMap<String, Vec<String>>>;

pub(super) fn add(parameters: &mut VendorParameters, scheme: String, name: String, value: String) {
    let of_vendor = parameters.entry(scheme).or_default();
    of_vendor.entry(name).or_default().push(value);
}

pub(super) fn no_nul(parameters: &VendorParameters) -> Result<()> {
    let mut texts = parameters
        .values()
        .flatten()
        .flat_map(|(name, values)| values.iter().chain([name]));
    if texts.any(|text| text.contains('\0')) {
        return Err(Error::invalid("a NUL character cannot be sent").with("field", "parameters"));
    }
    Ok(())
}

/// One SMS for one recipient. `Debug` shows no content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sms {
    /// Names the message.
    pub id: MessageId,
    /// The sender's number or name, as the vendor knows it; without one, the provider's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Who gets it.
    pub to: PhoneNumber,
    /// The text; may be empty when every provider that is asked has a template.
    #[serde(default)]
    pub text: String,
    /// Where to find pictures that go with it, for vendors that take them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub media: Vec<Url>,
    /// What a vendor that takes templates sends instead of the text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub templates: VendorTemplates,
    /// What else the vendors' interfaces are told about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: VendorParameters,
}

impl Sms {
    /// A text from the provider's own number.
    pub fn new(id: MessageId, to: PhoneNumber, text: impl Into<String>) -> Self {
        Self {
            id,
            from: None,
            to,
            text: text.into(),
            media: Vec::new(),
            templates: VendorTemplates::new(),
            parameters: VendorParameters::new(),
        }
    }

    /// From this number or name.
    #[must_use]
    pub fn from(mut self, from: impl Into<String>) -> Self {
        self.from = Some(from.into());
        self
    }

    /// With this value for a parameter of the vendor's interface, named as the vendor names it: for `twilio`, `RiskCheck`.
    /// Said again, it adds another value.
    #[must_use]
    pub fn parameter(
        mut self,
        scheme: impl Into<String>,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        add(&mut self.parameters, scheme.into(), name.into(), value.into());
        self
    }

    /// With this template at the vendor of this scheme.
    #[must_use]
    pub fn template(mut self, scheme: impl Into<String>, template: VendorTemplate) -> Self {
        self.templates.insert(scheme.into(), template);
        self
    }

    /// Checks that there is something to send, that it is not too long, and that no NUL is in it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the field.
    pub fn validate(&self) -> Result<()> {
        if self.text.is_empty() && self.templates.is_empty() && self.media.is_empty() {
            return Err(Error::invalid("an SMS has a text, a template or a picture").with("field", "text"));
        }
        spoken("text", &self.text, MAX_TEXT)?;
        sender(self.from.as_deref())?;
        no_nul(&self.parameters)?;
        self.templates.values().try_for_each(VendorTemplate::validate)
    }
}

impl fmt::Debug for Sms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sms({}, ..)", self.id)
    }
}

pub(super) fn spoken(field: &'static str, text: &str, most: usize) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::invalid("a NUL character cannot be sent").with("field", field));
    }
    if text.chars().nth(most).is_some() {
        return Err(Error::invalid("the text is too long")
            .with("field", field)
            .with("most", most));
    }
    Ok(())
}

pub(super) fn sender(from: Option<&str>) -> Result<()> {
    match from {
        Some(from) if from.trim().is_empty() => Err(Error::invalid(
            "a sender that is given is not empty; leave it out instead",
        )
        .with("field", "from")),
        Some(from) => no_control("from", from),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Uuid;

    fn number() -> PhoneNumber {
        PhoneNumber::parse("+4930123456", None).unwrap()
    }

    #[test]
    fn a_message_has_something_to_say() {
        let sms = Sms::new(Uuid::nil().into(), number(), "hello");
        assert!(sms.validate().is_ok());
        let field = |sms: Sms| sms.validate().unwrap_err().context("field").map(str::to_owned);
        assert_eq!(
            field(Sms {
                text: String::new(),
                ..sms.clone()
            })
            .as_deref(),
            Some("text")
        );
        assert_eq!(
            field(Sms {
                text: "x".repeat(1601),
                ..sms.clone()
            })
            .as_deref(),
            Some("text")
        );
        assert_eq!(
            field(Sms {
                text: "a\0".into(),
                ..sms.clone()
            })
            .as_deref(),
            Some("text")
        );
        assert_eq!(field(sms.clone().from(" ")).as_deref(), Some("from"));
        assert_eq!(
            field(sms.clone().template("aliyun", VendorTemplate::new(""))).as_deref(),
            Some("templates")
        );
        assert_eq!(
            field(sms.clone().parameter("twilio", "RiskCheck", "a\0")).as_deref(),
            Some("parameters")
        );
        let twice = sms
            .clone()
            .parameter("twilio", "PersistentAction", "geo:1,2")
            .parameter("twilio", "PersistentAction", "mailto:a@b.example");
        let json = serde_json::to_value(&twice).unwrap();
        assert_eq!(
            json["parameters"]["twilio"]["PersistentAction"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
        assert_eq!(serde_json::from_value::<Sms>(json).unwrap(), twice);
        assert!(serde_json::to_value(&sms).unwrap().get("parameters").is_none());
        let templated = Sms {
            text: String::new(),
            ..sms
        }
        .template("aliyun", VendorTemplate::new("SMS_1"));
        assert!(templated.validate().is_ok());
        assert!(!format!("{templated:?}").contains("4930"));
    }
}
