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

mod compile;
mod part;
mod said;
mod scan;
mod segments;
mod source;
mod store;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crm_core::message::Channel;
use crm_core::{Error, Result};

pub(crate) use compile::check_variables;
use compile::{Compiled, VendorParts, compile, fill, spoken};
pub(crate) use part::{Escape, Part};
pub use said::{EmailText, SmsText, TemplatePreview, VoiceText};
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
