use std::fmt;

use crm_core::customer::PhoneNumber;
use crm_core::message::{Email, Mailbox, MessageId, Sms, VendorTemplates, VoiceCall, VoiceStep};

use super::Segments;

/// What an e-mail says to one person. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct EmailText {
    /// The subject.
    pub subject: String,
    /// The text; empty when it is to be made from the HTML.
    pub text: String,
    /// The HTML.
    pub html: Option<String>,
}

impl EmailText {
    /// The mail.
    pub fn into_email(self, id: MessageId, from: Mailbox, to: Mailbox) -> Email {
        let mut mail = Email::new(id, from, to, &self.subject, &self.text);
        mail.html = self.html;
        mail
    }
}

impl fmt::Debug for EmailText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmailText(..)")
    }
}

/// What an SMS or a phone call says to one person where the vendor keeps no template. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct SmsText {
    /// The text.
    pub text: String,
    /// What a vendor that keeps templates sends instead, by scheme.
    pub templates: VendorTemplates,
}

impl SmsText {
    /// The SMS.
    pub fn into_sms(self, id: MessageId, to: PhoneNumber) -> Sms {
        let mut sms = Sms::new(id, to, self.text);
        sms.templates = self.templates;
        sms
    }

    /// Into how many parts it is divided.
    pub fn segments(&self) -> Segments {
        Segments::of(&self.text)
    }
}

impl fmt::Debug for SmsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SmsText(..)")
    }
}

/// What a phone call says to one person. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct VoiceText {
    /// What happens.
    pub steps: Vec<VoiceStep>,
    /// What a vendor that keeps templates speaks instead, by scheme.
    pub templates: VendorTemplates,
}

impl VoiceText {
    /// The call.
    pub fn into_call(self, id: MessageId, to: PhoneNumber) -> VoiceCall {
        let mut call = VoiceCall::new(id, to, self.steps);
        call.templates = self.templates;
        call
    }
}

impl fmt::Debug for VoiceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VoiceText(..)")
    }
}

/// What a template would say, with `[name]` where a value is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TemplatePreview {
    /// As e-mail.
    pub email: Option<EmailText>,
    /// As SMS.
    pub sms: Option<SmsText>,
    /// Into how many parts the SMS is divided.
    pub segments: Option<Segments>,
    /// As phone call.
    pub voice: Option<VoiceText>,
    /// The variables that have neither a value nor, everywhere, a default.
    pub missing: Vec<String>,
}
