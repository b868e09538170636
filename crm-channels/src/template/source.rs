use std::collections::BTreeMap;

use crm_core::message::VoiceStep;
use serde::{Deserialize, Serialize};

/// The source of a template, as data: what it says by each channel and in each language. Compile it with
/// [`super::Template::compile`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateSource {
    /// Its name, for errors and for keeping it ([`super::Templates`]).
    pub name: String,
    /// The language that is taken when there is none that fits (BCP 47).
    pub default_locale: String,
    /// Variables it may name besides those of a customer: `order` allows `order.number` too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<String>,
    /// As e-mail, by language.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub email: BTreeMap<String, EmailSource>,
    /// As SMS, by language.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sms: BTreeMap<String, SmsSource>,
    /// As phone call, by language.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub voice: BTreeMap<String, VoiceSource>,
}

/// What an e-mail says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmailSource {
    /// The subject.
    pub subject: String,
    /// The text; when it is empty, one is made from the HTML.
    pub text: String,
    /// The HTML; values are escaped in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
}

/// What an SMS says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SmsSource {
    /// The text; may be empty when every vendor has a template.
    pub text: String,
    /// The templates that vendors keep, by the scheme of the provider: `aliyun`, `twilio`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub vendors: BTreeMap<String, VendorSource>,
}

/// What a phone call says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VoiceSource {
    /// What happens; every text that is spoken is a template.
    pub steps: Vec<VoiceStep>,
    /// As [`SmsSource::vendors`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub vendors: BTreeMap<String, VendorSource>,
}

/// A template that a vendor keeps, and what is put into it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VendorSource {
    /// The vendor's code: `SMS_154950909`, `TTS_123`, `HX...`.
    pub code: String,
    /// The name the message is signed with, where the vendor wants one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign_name: Option<String>,
    /// What is put in, by the names the vendor's template has; each value is a template.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
}
