//! A template taken apart.

use std::collections::BTreeMap;

use crm_core::message::{VendorTemplate, VendorTemplates, VoiceStep};
use crm_core::{Error, Result};

use super::{Escape, Part, TemplateSource, VARIABLES, Variables, VendorSource};

pub(super) struct Compiled {
    pub(super) source: TemplateSource,
    pub(super) version: Option<i64>,
    pub(super) email: BTreeMap<String, EmailParts>,
    pub(super) sms: BTreeMap<String, SmsParts>,
    pub(super) voice: BTreeMap<String, VoiceParts>,
}

pub(super) struct EmailParts {
    pub(super) subject: Part,
    pub(super) text: Option<Part>,
    pub(super) html: Option<Part>,
}

pub(super) struct SmsParts {
    pub(super) text: Part,
    pub(super) vendors: BTreeMap<String, VendorParts>,
}

pub(super) struct VoiceParts {
    pub(super) steps: Vec<VoiceStep>,
    /// The texts of all steps that speak, in order.
    pub(super) texts: Vec<Part>,
    pub(super) vendors: BTreeMap<String, VendorParts>,
}

pub(super) struct VendorParts {
    pub(super) code: String,
    pub(super) sign_name: Option<String>,
    pub(super) params: BTreeMap<String, Part>,
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

pub(super) fn compile(source: &TemplateSource, version: Option<i64>) -> Result<Compiled> {
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
pub(super) fn spoken(steps: &mut [VoiceStep], each: &mut dyn FnMut(&mut String)) {
    for step in steps {
        match step {
            VoiceStep::Say { text, .. } => each(text),
            VoiceStep::Gather { prompt, .. } => spoken(prompt, each),
            _ => {}
        }
    }
}

pub(super) fn fill(vendors: &BTreeMap<String, VendorParts>, vars: &Variables<'_>) -> Result<VendorTemplates> {
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
