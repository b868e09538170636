//! People and organisations on a page, found without selectors.
//!
//! Read are schema.org in JSON-LD, microdata and RDFa Lite, h-card and hCard, `mailto:` and `tel:` links, Cloudflare's protected
//! addresses, and what the text says, also as `name [at] example [dot] com`. What is about the same person or organisation
//! becomes one [`Contact`]; every [`Find`] says how sure it is, by which syntax, and where it stands.
//!
//! How sure, from 0 to 1:
//!
//! | syntax | confidence |
//! |---|---|
//! | JSON-LD | 0.95 |
//! | microdata, RDFa, h-card, hCard | 0.9 |
//! | `mailto:`, `tel:`, Cloudflare's protection | 0.85 |
//! | an address in the text; a phone number after a word such as `Tel.` | 0.7 |
//! | an address with `(at)`; a number with its country code | 0.6 |
//! | a name by its place beside a loose address | 0.5 |
//! | an address in words (`name at example dot com`); a number without any sign | 0.3 |
//!
//! Found again by another syntax, both would have to be wrong: `1 - (1 - a)(1 - b)`, 0.99 at most. The numbers are an order that
//! proved right on the pages of the test, not frequencies; a spec keeps what reaches its `min_confidence` (0.5).
//!
//! Phone numbers without a country code are read by the country of the thing's own address, else by the hint given, else by the
//! page: its language tag (`de-AT`), its domain (`.at`), its language. They come out in E.164; what cannot be read is a
//! [`Problem`]. Fax numbers, addresses of pictures (`logo@2x.png`) and placeholders (`you@example.com`) are left out. Text that
//! only a style sheet makes readable (written backwards) is not read.
//!
//! ```
//! use crm_core::Timestamp;
//! use crm_crawl::extract::{self, Hints};
//! use crm_crawl::spider::Page;
//!
//! let html = r#"<html lang="en-GB"><div itemscope itemtype="https://schema.org/Person">
//!     <span itemprop="name">Ana Kask</span>, <a itemprop="email" href="mailto:ana@shop.example">write</a>,
//!     <span itemprop="telephone">020 7219 3000</span></div>"#;
//! let page = Page::new("https://shop.example/".parse().unwrap(), "site", html, Timestamp::EPOCH).unwrap();
//! let found = extract::contacts(&page, &Hints::default());
//! let ana = &found.contacts[0];
//! assert_eq!(ana.name.as_ref().unwrap().value, "Ana Kask");
//! assert_eq!(ana.emails[0].value, "ana@shop.example");
//! assert_eq!(ana.phones[0].value, "+442072193000");
//! assert!(ana.emails[0].confidence > 0.95); // microdata, confirmed by the link
//! ```

mod card;
mod dom;
mod item;
mod json;
mod jsonld;
mod label;
mod loose;
mod merge;
mod microdata;
mod name;
mod region;
mod schema;
mod text;
mod value;

use crm_core::customer::{Draft, PersonName, PostalAddress, Provenance};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::spider::Page;
use dom::Dom;
use item::Item;

/// How something was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Syntax {
    /// schema.org in a script of type `application/ld+json`.
    JsonLd,
    /// schema.org in `itemscope`, `itemprop`.
    Microdata,
    /// schema.org in `typeof`, `property`.
    Rdfa,
    /// h-card or hCard.
    Card,
    /// A `mailto:` link.
    Mailto,
    /// A `tel:`, `callto:` or `sms:` link.
    Tel,
    /// Cloudflare's e-mail protection.
    Cloudflare,
    /// Plain text.
    Text,
    /// Text that replaces the `@`.
    Obfuscated,
}

impl Syntax {
    /// The name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JsonLd => "json_ld",
            Self::Microdata => "microdata",
            Self::Rdfa => "rdfa",
            Self::Card => "card",
            Self::Mailto => "mailto",
            Self::Tel => "tel",
            Self::Cloudflare => "cloudflare",
            Self::Text => "text",
            Self::Obfuscated => "obfuscated",
        }
    }
}

/// Something found. `Debug` does not show the value.
#[derive(Clone, PartialEq)]
pub struct Find<T> {
    /// What.
    pub value: T,
    /// How sure, 0 to 1.
    pub confidence: f64,
    /// How it was written.
    pub syntax: Syntax,
    /// Where: an XPath expression that leads to the element, in JSON-LD with the way inside, through
    /// references too (`/html/head/script#.@graph[0].publisher.email`).
    pub place: String,
}

impl<T> std::fmt::Debug for Find<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Find")
            .field("confidence", &self.confidence)
            .field("syntax", &self.syntax)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// Who a contact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContactKind {
    /// A human being.
    Person,
    /// A company, a shop, an office, a place.
    Organization,
    /// The page does not say.
    Unknown,
}

/// Somebody found on a page.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Contact {
    /// Who it is.
    pub kind: ContactKind,
    /// The whole name.
    pub name: Option<Find<String>>,
    /// The given name.
    pub given: Option<Find<String>>,
    /// The family name.
    pub family: Option<Find<String>>,
    /// Where the person works.
    pub organization: Option<Find<String>>,
    /// As what.
    pub job_title: Option<Find<String>>,
    /// E-mail addresses in canonical form.
    pub emails: Vec<Find<String>>,
    /// Phone numbers in E.164.
    pub phones: Vec<Find<String>>,
    /// Postal addresses.
    pub addresses: Vec<Find<PostalAddress>>,
    /// Pages of theirs, as written.
    pub urls: Vec<Find<String>>,
}

impl Contact {
    fn new(kind: ContactKind) -> Self {
        Self {
            kind,
            name: None,
            given: None,
            family: None,
            organization: None,
            job_title: None,
            emails: Vec::new(),
            phones: Vec::new(),
            addresses: Vec::new(),
            urls: Vec::new(),
        }
    }

    fn add_email(&mut self, find: Find<String>) {
        add(&mut self.emails, find);
    }

    fn add_phone(&mut self, find: Find<String>) {
        add(&mut self.phones, find);
    }

    /// The contact as a draft with what reaches `min_confidence`; `None` when nothing is left to recognise anybody by.
    ///
    /// The confidence of the draft's provenance is that of its surest address or number, in percent. Attributes say the
    /// rest: `crawl_kind` (`person`, `organization` or `unknown`), `organization`, `job_title`, and `crawl_finds`: for each field
    /// the syntax, the place and the confidence.
    pub fn to_draft(&self, provenance: Provenance, min_confidence: f64) -> Option<Draft> {
        let sure = |confidence: f64| confidence >= min_confidence;
        let mut draft = Draft::new(provenance);
        let mut finds = Vec::new();
        let mut note = |field: &str, confidence: f64, syntax: Syntax, place: &str| {
            finds.push(serde_json::json!({
                "field": field, "syntax": syntax.as_str(), "place": place, "confidence": percent(confidence),
            }));
        };
        let mut best: f64 = 0.0;
        for find in self.emails.iter().filter(|find| sure(find.confidence)) {
            draft.emails.push(find.value.clone());
            note("email", find.confidence, find.syntax, &find.place);
            best = best.max(find.confidence);
        }
        for find in self.phones.iter().filter(|find| sure(find.confidence)) {
            draft.phones.push(find.value.clone());
            note("phone", find.confidence, find.syntax, &find.place);
            best = best.max(find.confidence);
        }
        if !draft.is_identified() {
            return None;
        }
        let text = |find: &Option<Find<String>>| {
            find.as_ref()
                .filter(|find| sure(find.confidence))
                .map(|find| find.value.clone())
        };
        let (whole, given, family) = (text(&self.name), text(&self.given), text(&self.family));
        if given.is_some() || family.is_some() {
            let mut name = PersonName::new(&given.unwrap_or_default(), &family.unwrap_or_default());
            if let Some(whole) = whole {
                name.display = PersonName::whole(&whole).display;
            }
            draft.name = Some(name);
        } else {
            draft.name = whole.map(|whole| PersonName::whole(&whole));
        }
        if let (Some(_), Some(find)) = (&draft.name, &self.name) {
            note("name", find.confidence, find.syntax, &find.place);
        }
        for find in self.addresses.iter().filter(|find| sure(find.confidence)) {
            draft.addresses.push(find.value.clone());
            note("address", find.confidence, find.syntax, &find.place);
        }
        let kind = match self.kind {
            ContactKind::Person => "person",
            ContactKind::Organization => "organization",
            ContactKind::Unknown => "unknown",
        };
        let mut attributes = vec![
            ("crawl_kind", kind.into()),
            ("crawl_finds", serde_json::Value::Array(finds)),
        ];
        attributes.extend(text(&self.organization).map(|name| ("organization", name.into())));
        attributes.extend(text(&self.job_title).map(|title| ("job_title", title.into())));
        for (name, value) in attributes {
            // The names are constants that are valid.
            let _ = draft.attributes.set(name, value);
        }
        draft.provenance = draft.provenance.confidence(percent(best));
        Some(draft)
    }
}

fn percent(confidence: f64) -> u8 {
    (confidence * 100.0).round().clamp(0.0, 100.0) as u8
}

fn add(finds: &mut Vec<Find<String>>, find: Find<String>) {
    match finds.iter_mut().find(|known| known.value == find.value) {
        // The same link and its text confirm each other; the same syntax twice says nothing new.
        Some(known) if known.syntax != find.syntax => {
            known.confidence = merge::both(known.confidence, find.confidence)
        }
        Some(known) => known.confidence = known.confidence.max(find.confidence),
        None => finds.push(find),
    }
}

/// Something that looked like a find and could not be read. Holds no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: String,
    /// What is wrong.
    pub reason: &'static str,
}

/// What was found on a page.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Contacts {
    /// People and organisations that can be reached: structured ones first, each in the order of the page.
    pub contacts: Vec<Contact>,
    /// Links to vCards: `VcardCollector` reads the files.
    pub vcards: Vec<Url>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// What the host knows about a site that a page does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hints {
    /// Where phone numbers without a country code are dialled, ISO 3166-1 alpha-2. By the page when not set.
    pub region: Option<String>,
}

/// Finds people and organisations on a page.
pub fn contacts(page: &Page, hints: &Hints) -> Contacts {
    let dom = Dom::new(page.document());
    let (mut lang, mut locale) = (None, None);
    let mut vcards = Vec::new();
    for (_, element) in dom.elements() {
        match element.name() {
            "html" | "body" => {
                lang = lang.or_else(|| element.attr("lang").or_else(|| element.attr("xml:lang")))
            }
            "meta" if element.attr("property") == Some("og:locale") => {
                locale = locale.or_else(|| element.attr("content"))
            }
            "a" | "link" => {
                if let Some(url) = element
                    .attr("href")
                    .filter(|href| is_vcard(href, element.attr("type")))
                    .and_then(|href| page.link(href))
                    && !vcards.contains(&url)
                    && vcards.len() < 1000
                {
                    vcards.push(url);
                }
            }
            _ => {}
        }
    }
    let region = hints
        .region
        .clone()
        .or_else(|| region::of_page(lang, locale, page.url()));
    let region = region.as_deref();
    let mut problems = Vec::new();
    let mut structured = Vec::new();
    let json_ld = jsonld::items(dom, &mut problems);
    let readers: [(Syntax, f64, Vec<Item>); 4] = [
        (Syntax::JsonLd, 0.95, json_ld),
        (Syntax::Microdata, 0.9, microdata::microdata(dom)),
        (Syntax::Rdfa, 0.9, microdata::rdfa(dom)),
        (Syntax::Card, 0.9, card::items(dom)),
    ];
    for (syntax, confidence, items) in readers {
        let mut reader = schema::Reader {
            syntax,
            confidence,
            region,
            contacts: Vec::new(),
            problems: &mut problems,
        };
        for item in &items {
            reader.take(item);
        }
        structured.append(&mut reader.contacts);
    }
    Contacts {
        contacts: merge::merged(structured, loose::contacts(dom, region)),
        vcards,
        problems,
    }
}

/// The drafts of a page, numbered in its order, and what could not be read.
pub(crate) fn drafts(page: &Page, hints: &Hints, min_confidence: f64) -> (Vec<Draft>, Vec<Problem>) {
    let found = contacts(page, hints);
    let drafts = found
        .contacts
        .iter()
        .zip(1..)
        .filter_map(|(contact, number)| contact.to_draft(page.provenance(number), min_confidence));
    (drafts.collect(), found.problems)
}

fn is_vcard(href: &str, kind: Option<&str>) -> bool {
    let kind = kind.unwrap_or_default().trim().to_ascii_lowercase();
    let path = href
        .split(['?', '#'])
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    path.ends_with(".vcf")
        || path.ends_with(".vcard")
        || matches!(kind.as_str(), "text/vcard" | "text/x-vcard" | "text/directory")
}
