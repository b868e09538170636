//! Templates: what is said by each channel and in each language, with variables.
//!
//! The language is that of Jinja (`{{ city }}`, `{{ given_name | default("there") }}`, `{% if .. %}`, `{% for .. %}`), cut
//! down to what cannot run away: no files, no includes, no arithmetic, no growing of texts, and a limit on steps and
//! size. A variable without a value is an error before anything is sent. A text with nothing but plain holes is split
//! once and filled without the engine, byte for byte as the engine would.
//!
//! ```
//! use crm_channels::{Template, Variables};
//!
//! let template = Template::new("Hello {{ given_name | default('there') }}", "Your city: {{ city }}")
//!     .unwrap()
//!     .in_language("de", "Hallo {{ given_name }}", "Ihre Stadt: {{ city }}")
//!     .unwrap();
//! let ana = Variables::new().text("given_name", "Ana").text("city", "Chur");
//! assert_eq!(template.email("de-CH", &ana).unwrap().subject, "Hallo Ana"); // de-CH, de, then the default
//! assert_eq!(template.email("fr", &ana).unwrap().subject, "Hello Ana");
//!
//! let error = template.email("en", &Variables::new().text("given_name", "Bo")).unwrap_err();
//! assert_eq!(error.context("variable"), Some("city"));
//! ```

mod part;
mod scan;
mod segments;
mod source;
mod store;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crm_core::customer::PhoneNumber;
use crm_core::message::{
    Channel, Email, Mailbox, MessageId, Sms, VendorTemplate, VendorTemplates, VoiceCall, VoiceStep,
};
use crm_core::{Error, Result};

pub(crate) use part::{Escape, Part};
pub use segments::{Encoding, PriceTable, Segments};
pub use source::{EmailSource, SmsSource, TemplateSource, VendorSource, VoiceSource};
pub use store::{TEMPLATE, Templates};
pub use variables::Variables;

/// The variables of a customer that a template may name besides `attributes.<name>`.
pub(crate) const VARIABLES: [&str; 8] = [
    "given_name",
    "family_name",
    "name",
    "city",
    "region",
    "country",
    "email",
    "customer_id",
];

/// A template, checked and split: cheap to clone, cheap to fill. See the [module](self).
#[derive(Clone)]
pub struct Template(Arc<Compiled>);

struct Compiled {
    source: TemplateSource,
    version: Option<i64>,
    email: BTreeMap<String, EmailParts>,
    sms: BTreeMap<String, SmsParts>,
    voice: BTreeMap<String, VoiceParts>,
}

struct EmailParts {
    subject: Part,
    text: Option<Part>,
    html: Option<Part>,
}

struct SmsParts {
    text: Part,
    vendors: BTreeMap<String, VendorParts>,
}

struct VoiceParts {
    steps: Vec<VoiceStep>,
    /// The texts of all steps that speak, in order.
    texts: Vec<Part>,
    vendors: BTreeMap<String, VendorParts>,
}

struct VendorParts {
    code: String,
    sign_name: Option<String>,
    params: BTreeMap<String, Part>,
}

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

impl Template {
    /// An e-mail template with a text part, in one language.
    ///
    /// # Errors
    /// As [`Template::compile`].
    pub fn new(subject: &str, text: &str) -> Result<Self> {
        Self::with_variables(&[], subject, text)
    }

    /// As [`Template::new`], but it may name these variables too, which the host gives when it is filled: `order` allows
    /// `order.number`.
    ///
    /// # Errors
    /// As [`Template::compile`].
    pub fn with_variables(variables: &[&str], subject: &str, text: &str) -> Result<Self> {
        let email = EmailSource {
            subject: subject.to_owned(),
            text: text.to_owned(),
            html: None,
        };
        Self::compile(&TemplateSource {
            email: BTreeMap::from([(String::new(), email)]),
            variables: variables.iter().map(|&name| name.to_owned()).collect(),
            ..TemplateSource::default()
        })
    }

    /// An SMS template, in one language.
    ///
    /// # Errors
    /// As [`Template::compile`].
    pub fn for_sms(text: &str) -> Result<Self> {
        let sms = SmsSource {
            text: text.to_owned(),
            ..SmsSource::default()
        };
        Self::compile(&TemplateSource {
            sms: BTreeMap::from([(String::new(), sms)]),
            ..TemplateSource::default()
        })
    }

    /// Adds an HTML part to the e-mail in the default language.
    ///
    /// # Errors
    /// As [`Template::compile`]; [`crm_core::ErrorKind::Invalid`] when it says nothing as e-mail.
    pub fn html(self, html: &str) -> Result<Self> {
        let mut source = self.0.source.clone();
        let default = source.default_locale.clone();
        let Some(email) = source.email.get_mut(&default) else {
            return Err(says_nothing(&source.name, Channel::Email, &default));
        };
        email.html = Some(html.to_owned());
        Self::compile(&source)
    }

    /// Adds the e-mail in another language (BCP 47).
    ///
    /// # Errors
    /// As [`Template::compile`].
    pub fn in_language(self, locale: &str, subject: &str, text: &str) -> Result<Self> {
        let mut source = self.0.source.clone();
        let email = EmailSource {
            subject: subject.to_owned(),
            text: text.to_owned(),
            html: None,
        };
        source.email.insert(locale.to_owned(), email);
        Self::compile(&source)
    }

    /// Checks and splits a template.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming template, field, locale, line, and the variable that is not known: nothing
    /// that is wrong with a template itself waits until it is filled.
    pub fn compile(source: &TemplateSource) -> Result<Self> {
        Self::of_version(source, None)
    }

    pub(crate) fn of_version(source: &TemplateSource, version: Option<i64>) -> Result<Self> {
        let named = |error: Error| match source.name.as_str() {
            "" => error,
            name => error.with("template", name),
        };
        let compiled = compile(source, version).map_err(named)?;
        let template = Self(Arc::new(compiled));
        template.check_variables().map_err(named)?;
        Ok(template)
    }

    /// Where it comes from.
    pub fn source(&self) -> &TemplateSource {
        &self.0.source
    }

    /// Its version, when it is kept in a store.
    pub fn version(&self) -> Option<i64> {
        self.0.version
    }

    /// The channels by which it says something.
    pub fn channels(&self) -> Vec<Channel> {
        let Compiled {
            email, sms, voice, ..
        } = &*self.0;
        let there = [!email.is_empty(), !sms.is_empty(), !voice.is_empty()];
        Channel::ALL
            .into_iter()
            .zip(there)
            .filter_map(|(channel, there)| there.then_some(channel))
            .collect()
    }

    /// The variables it names, sorted.
    pub fn variables(&self) -> Vec<&str> {
        let all: BTreeSet<&str> = self.parts().flat_map(Part::variables).collect();
        all.into_iter().collect()
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        let Compiled {
            email, sms, voice, ..
        } = &*self.0;
        fn vendors(all: &BTreeMap<String, VendorParts>) -> impl Iterator<Item = &Part> {
            all.values().flat_map(|vendor| vendor.params.values())
        }
        let mut parts: Vec<&Part> = Vec::new();
        for part in email.values() {
            parts.push(&part.subject);
            parts.extend(&part.text);
            parts.extend(&part.html);
        }
        for part in sms.values() {
            parts.push(&part.text);
            parts.extend(vendors(&part.vendors));
        }
        for part in voice.values() {
            parts.extend(&part.texts);
            parts.extend(vendors(&part.vendors));
        }
        parts.into_iter()
    }

    fn check_variables(&self) -> Result<()> {
        self.parts()
            .try_for_each(|part| check_variables(part, &self.0.source.variables))
    }

    /// What it says by e-mail. The language is looked for from the whole tag to its first part (`de-CH`, `de`), then the
    /// default is taken.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming template, field, locale and the variable that has no value; when a value
    /// brings a line end into the subject; when it would be longer than 1 MiB; when it says nothing as e-mail.
    pub fn email(&self, locale: &str, vars: &Variables<'_>) -> Result<EmailText> {
        let parts = self.pick(&self.0.email, Channel::Email, locale)?;
        let made = || {
            Ok(EmailText {
                subject: parts.subject.render(vars)?,
                text: parts
                    .text
                    .as_ref()
                    .map_or(Ok(String::new()), |text| text.render(vars))?,
                html: parts.html.as_ref().map(|html| html.render(vars)).transpose()?,
            })
        };
        made().map_err(|error| self.named(error))
    }

    /// What it says by SMS.
    ///
    /// # Errors
    /// As [`Template::email`].
    pub fn sms(&self, locale: &str, vars: &Variables<'_>) -> Result<SmsText> {
        let parts = self.pick(&self.0.sms, Channel::Sms, locale)?;
        let made = || {
            Ok(SmsText {
                text: parts.text.render(vars)?,
                templates: fill(&parts.vendors, vars)?,
            })
        };
        made().map_err(|error| self.named(error))
    }

    /// What it says by telephone.
    ///
    /// # Errors
    /// As [`Template::email`].
    pub fn voice(&self, locale: &str, vars: &Variables<'_>) -> Result<VoiceText> {
        let parts = self.pick(&self.0.voice, Channel::Voice, locale)?;
        let made = || {
            let mut texts = parts
                .texts
                .iter()
                .map(|text| text.render(vars))
                .collect::<Result<Vec<_>>>()?
                .into_iter();
            let mut steps = parts.steps.clone();
            spoken(&mut steps, &mut |text| {
                if let Some(said) = texts.next() {
                    *text = said;
                }
            });
            Ok(VoiceText {
                steps,
                templates: fill(&parts.vendors, vars)?,
            })
        };
        made().map_err(|error| self.named(error))
    }

    /// What it would say by every channel, for somebody who looks at it before it is used: where a value is missing its
    /// name stands in brackets.
    ///
    /// # Errors
    /// As [`Template::email`], but not for a missing variable.
    pub fn preview(&self, locale: &str, vars: &Variables<'_>) -> Result<TemplatePreview> {
        let mut filled = vars.clone();
        let mut missing = Vec::new();
        for _ in 0..=self.variables().len() {
            let made = self.made(locale, &filled);
            let variable = match &made {
                Ok(_) => None,
                Err(error) => error.context("variable").map(str::to_owned),
            };
            match (made, variable) {
                (Err(_), Some(variable)) if !missing.contains(&variable) => {
                    filled = filled.filled(&variable);
                    missing.push(variable);
                }
                (made, _) => return made.map(|preview| TemplatePreview { missing, ..preview }),
            }
        }
        Err(Error::unexpected("a preview does not come to an end"))
    }

    fn made(&self, locale: &str, vars: &Variables<'_>) -> Result<TemplatePreview> {
        let by = |channel| self.channels().contains(&channel);
        let sms = by(Channel::Sms).then(|| self.sms(locale, vars)).transpose()?;
        Ok(TemplatePreview {
            email: by(Channel::Email).then(|| self.email(locale, vars)).transpose()?,
            segments: sms.as_ref().map(SmsText::segments),
            sms,
            voice: by(Channel::Voice).then(|| self.voice(locale, vars)).transpose()?,
            missing: Vec::new(),
        })
    }

    fn pick<'a, T>(&'a self, all: &'a BTreeMap<String, T>, channel: Channel, locale: &str) -> Result<&'a T> {
        let default = &self.0.source.default_locale;
        chain(locale)
            .find_map(|tag| {
                all.iter()
                    .find(|(known, _)| known.eq_ignore_ascii_case(tag))
                    .map(|(_, parts)| parts)
            })
            .or_else(|| all.get(default))
            .ok_or_else(|| says_nothing(&self.0.source.name, channel, locale))
    }

    fn named(&self, error: Error) -> Error {
        match self.0.source.name.as_str() {
            "" => error,
            name => error.with("template", name),
        }
    }
}

/// A language tag and what is left when its last parts are taken away (RFC 4647, 3.4).
fn chain(locale: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(locale), |tag| tag.rsplit_once('-').map(|(rest, _)| rest))
        .filter(|tag| !tag.is_empty())
}

fn says_nothing(name: &str, channel: Channel, locale: &str) -> Error {
    let error =
        Error::invalid("the template says nothing by this channel in this language, and there is no default")
            .with("channel", channel)
            .with("locale", locale);
    if name.is_empty() {
        error
    } else {
        error.with("template", name)
    }
}

/// Refuses a variable that neither a customer nor `more` has.
pub(crate) fn check_variables(part: &Part, more: &[String]) -> Result<()> {
    for name in part.variables() {
        let root = name.split('.').next().unwrap_or_default();
        if VARIABLES.contains(&name) || root == "attributes" || more.iter().any(|known| known == root) {
            continue;
        }
        let mut known = VARIABLES.join(", ");
        for name in std::iter::once("attributes.<name>").chain(more.iter().map(String::as_str)) {
            known.push_str(", ");
            known.push_str(name);
        }
        return Err(Error::invalid("a template names a variable that is not known")
            .with("field", part.field())
            .with("variable", name)
            .with("known", known));
    }
    Ok(())
}

fn compile(source: &TemplateSource, version: Option<i64>) -> Result<Compiled> {
    let mut compiled = Compiled {
        source: source.clone(),
        version,
        email: BTreeMap::new(),
        sms: BTreeMap::new(),
        voice: BTreeMap::new(),
    };
    let part = |field, locale: &str, text: &str| Part::compile(field, locale, Escape::Text, text);
    let vendors =
        |locale: &str, all: &BTreeMap<String, VendorSource>| -> Result<BTreeMap<String, VendorParts>> {
            all.iter()
                .map(|(scheme, vendor)| {
                    if vendor.code.trim().is_empty() {
                        return Err(Error::invalid("a vendor's template has a code")
                            .with("field", "vendors")
                            .with("vendor", scheme)
                            .with("locale", locale));
                    }
                    let params = vendor
                        .params
                        .iter()
                        .map(|(name, text)| Ok((name.clone(), part("vendors", locale, text)?)))
                        .collect::<Result<_>>()?;
                    Ok((
                        scheme.clone(),
                        VendorParts {
                            code: vendor.code.clone(),
                            sign_name: vendor.sign_name.clone(),
                            params,
                        },
                    ))
                })
                .collect()
        };
    for (locale, email) in &source.email {
        let parts = EmailParts {
            subject: Part::compile("subject", locale, Escape::Header, &email.subject)?,
            text: match (&email.html, email.text.trim().is_empty()) {
                (Some(_), true) => None,
                _ => Some(part("text", locale, &email.text)?),
            },
            html: email
                .html
                .as_deref()
                .map(|html| Part::compile("html", locale, Escape::Html, html))
                .transpose()?,
        };
        compiled.email.insert(locale.clone(), parts);
    }
    for (locale, sms) in &source.sms {
        if sms.text.trim().is_empty() && sms.vendors.is_empty() {
            return Err(Error::invalid("an SMS has a text or a vendor's template")
                .with("field", "text")
                .with("locale", locale));
        }
        let parts = SmsParts {
            text: part("text", locale, &sms.text)?,
            vendors: vendors(locale, &sms.vendors)?,
        };
        compiled.sms.insert(locale.clone(), parts);
    }
    for (locale, voice) in &source.voice {
        if voice.steps.is_empty() && voice.vendors.is_empty() {
            return Err(Error::invalid("a call has steps or a vendor's template")
                .with("field", "steps")
                .with("locale", locale));
        }
        let mut texts = Vec::new();
        let mut steps = voice.steps.clone();
        spoken(&mut steps, &mut |text| texts.push(part("steps", locale, text)));
        let parts = VoiceParts {
            texts: texts.into_iter().collect::<Result<_>>()?,
            steps,
            vendors: vendors(locale, &voice.vendors)?,
        };
        compiled.voice.insert(locale.clone(), parts);
    }
    Ok(compiled)
}

/// Every text that is spoken, in order.
fn spoken(steps: &mut [VoiceStep], each: &mut dyn FnMut(&mut String)) {
    for step in steps {
        match step {
            VoiceStep::Say { text, .. } => each(text),
            VoiceStep::Gather { prompt, .. } => spoken(prompt, each),
            _ => {}
        }
    }
}

fn fill(vendors: &BTreeMap<String, VendorParts>, vars: &Variables<'_>) -> Result<VendorTemplates> {
    vendors
        .iter()
        .map(|(scheme, vendor)| {
            let params = vendor
                .params
                .iter()
                .map(|(name, part)| Ok((name.clone(), part.render(vars)?)))
                .collect::<Result<_>>()?;
            let mut template = VendorTemplate::new(&vendor.code);
            template.sign_name.clone_from(&vendor.sign_name);
            template.params = params;
            Ok((scheme.clone(), template))
        })
        .collect()
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template")
            .field("name", &self.0.source.name)
            .field("version", &self.0.version)
            .field("channels", &self.channels())
            .finish_non_exhaustive()
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.0.source == other.0.source && self.0.version == other.0.version
    }
}
impl Eq for Template {}

#[cfg(test)]
mod tests;
