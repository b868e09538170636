use crm_core::{Error, Result};
use regex::Regex;
use serde::{Deserialize, Serialize};
use url::Url;

use super::CrawlConfig;
use super::clean::Clean;
use super::compiled::{CompiledField, CompiledSpec, ItemRule};
use super::follow::{CompiledFollow, FollowSpec, patterns};
use super::query::Query;
use crate::assemble::Reading;
use crate::target::Target;

/// The most pages that a [`PageRange`] names.
const MAX_RANGE: u64 = 100_000;

/// One piece of an item.
///
/// The way of a value: selector, then attribute, text or markup, then regular expression, then cleaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldSpec {
    /// Where it is inside the item, as a CSS selector or XPath expression ([`Query`]); the item itself when empty. Addresses,
    /// phone numbers, street lines and labels are taken from everything that matches, everything else from the first that says
    /// something. With XPath, begin with `.//`: `//` begins at the page.
    #[serde(default)]
    pub selector: String,
    /// The attribute that holds it. When not set it is the text, and for addresses and phone numbers the target of a
    /// `mailto:` or `tel:` link if the element is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attr: Option<String>,
    /// What of an element counts when no attribute is named: its text.
    #[serde(default, skip_serializing_if = "Part::is_text")]
    pub part: Part,
    /// What of it counts: the first group of this regular expression that took part, or the whole match when it has no group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// How it is cleaned, step by step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clean: Vec<Clean>,
    /// What it says.
    pub target: Target,
}

/// What of an element is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The text in it, blanks squeezed.
    #[default]
    Text,
    /// The markup in it.
    Html,
}

impl Part {
    fn is_text(&self) -> bool {
        *self == Self::Text
    }
}

/// Pages that are numbered: `{"url": "https://shop.example/people?page={}", "from": 1, "to": 20}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageRange {
    /// The URL with `{}` in the place of the number.
    pub url: String,
    /// The first number. 1.
    #[serde(default = "one")]
    pub from: u64,
    /// The last number, included.
    pub to: u64,
    /// From one to the next. 1.
    #[serde(default = "one")]
    pub step: u64,
}

fn one() -> u64 {
    1
}

/// What is taken from a page without selectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extract {
    /// People and organisations as [`crate::extract`] finds them.
    Contacts,
}

/// A spider as data: where to begin, what to follow, where the people are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpiderSpec {
    /// The collector's name and the source in the drafts' provenance.
    pub name: String,
    /// Where to begin.
    pub start: Vec<Url>,
    /// Numbered pages to begin at, besides `start`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pages: Vec<PageRange>,
    /// The hosts that may be visited, each with its subdomains; those of `start` (without their subdomains) when empty.
    #[serde(default)]
    pub domains: Vec<String>,
    /// The links to follow. Without one, only the start pages are read.
    #[serde(default)]
    pub follow: Vec<FollowSpec>,
    /// Regular expressions of URLs that are never fetched, by whatever rule or redirect they are reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// The CSS selector or XPath expression of the elements each of which is one person. Empty when `extract` is set.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub item: String,
    /// What is in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldSpec>,
    /// Finds people without selectors, instead of `item` and `fields` or besides them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract: Option<Extract>,
    /// How sure a find of `extract` must be to be kept, 0 to 1 ([`crate::extract`] says how it is measured).
    #[serde(default = "half", skip_serializing_if = "is_half")]
    pub min_confidence: f64,
    /// How dates, amounts and phone numbers are read.
    #[serde(default)]
    pub reading: Reading,
    /// How the crawl behaves.
    #[serde(default)]
    pub crawl: CrawlConfig,
}

fn half() -> f64 {
    0.5
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_half(number: &f64) -> bool {
    *number == half()
}

impl SpiderSpec {
    /// The spider that a text of YAML or JSON describes. Nothing is compiled yet.
    ///
    /// ```
    /// use crm_crawl::spider::SpiderSpec;
    ///
    /// let spec = SpiderSpec::parse(
    ///     r#"
    /// name: shop-site
    /// start: [https://shop.example/customers]
    /// follow: [a.next]
    /// item: div.customer
    /// fields:
    ///   - {selector: h2, target: name}
    ///   - {selector: "p > a", target: email}
    /// crawl: {delay: 2.0}
    /// "#,
    /// )
    /// .unwrap();
    /// assert!(spec.compile().is_ok());
    /// ```
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`]: the text is neither, or has a setting that is none, with its place.
    pub fn parse(text: &str) -> Result<Self> {
        crate::written::read(text)
    }

    /// Checks everything and makes the spider.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting: no name, no start URL, a selector, regular expression or
    /// target that is not one (with the expression, and the target of the field it stands in), nothing to recognise a person by.
    pub fn compile(&self) -> Result<CompiledSpec> {
        let wrong =
            |setting: &'static str, message: &'static str| Error::config(message).with("setting", setting);
        if self.name.trim().is_empty() {
            return Err(wrong("name", "a spider has a name"));
        }
        let start = self.seeds()?;
        if self.item.trim().is_empty() != self.fields.is_empty() {
            return Err(if self.fields.is_empty() {
                wrong("fields", "a spider has one field at least")
            } else {
                wrong(
                    "item",
                    "fields are inside an item: the selector of the elements that are a person each is missing",
                )
            });
        }
        if self.fields.is_empty() && self.extract.is_none() {
            return Err(wrong(
                "fields",
                "a spider has one field at least, or finds people without selectors: \"extract\": \"contacts\"",
            ));
        }
        if !self.fields.is_empty() && !self.fields.iter().any(|field| field.target.identifies()) {
            return Err(wrong(
                "fields",
                "no field says who the person is; one goes to email, phone or external:<system>",
            ));
        }
        if !(0.0..=1.0).contains(&self.min_confidence) {
            return Err(wrong("min_confidence", "how sure a find is lies between 0 and 1"));
        }
        self.reading.validate()?;
        self.crawl.validate()?;
        let named = |setting: &'static str| move |error: Error| error.with("setting", setting);
        let follow: Result<Vec<_>> = self.follow.iter().map(CompiledFollow::of).collect();
        let fields: Result<Vec<_>> = self
            .fields
            .iter()
            .map(|field| {
                field
                    .compile()
                    .map_err(|error| error.with("target", &field.target))
            })
            .collect();
        let domains = self
            .domains
            .iter()
            .map(|domain| domain.trim_start_matches("*.").to_lowercase())
            .collect();
        Ok(CompiledSpec {
            name: self.name.clone(),
            hosts: start
                .iter()
                .filter_map(Url::host_str)
                .map(str::to_owned)
                .collect(),
            start,
            domains,
            follow: follow.map_err(named("follow"))?,
            deny: patterns(&self.deny, "deny").map_err(named("deny"))?,
            item: self.item().map_err(named("item"))?,
            fields: fields.map_err(named("fields"))?,
            extract: self.extract,
            min_confidence: self.min_confidence,
            reading: self.reading.clone(),
        })
    }

    fn item(&self) -> Result<Option<ItemRule>> {
        if self.item.trim().is_empty() {
            return Ok(None);
        }
        let query = Query::parse(&self.item)?;
        if query.yields_text() {
            return Err(
                Error::config("an item is an element: this selects attributes or text")
                    .with("selector", query),
            );
        }
        Ok(Some(ItemRule(query)))
    }

    fn seeds(&self) -> Result<Vec<Url>> {
        let wrong =
            |setting: &'static str, message: &'static str| Error::config(message).with("setting", setting);
        let mut start = self.start.clone();
        for range in &self.pages {
            let count = range
                .to
                .checked_sub(range.from)
                .zip(Some(range.step))
                .filter(|(_, step)| *step > 0);
            let Some((span, step)) = count else {
                return Err(wrong(
                    "pages",
                    "numbered pages go from a number up to another, by 1 at least",
                ));
            };
            if !range.url.contains("{}") {
                return Err(
                    wrong("pages", "the URL has {} in the place of the number").with("url", &range.url)
                );
            }
            if span / step >= MAX_RANGE {
                return Err(wrong("pages", "at most 100,000 numbered pages"));
            }
            for number in 0..=span / step {
                let text = range.url.replace("{}", &(range.from + number * step).to_string());
                start.push(
                    Url::parse(&text)
                        .map_err(|_| wrong("pages", "not an absolute URL").with("url", &range.url))?,
                );
            }
        }
        if start.is_empty() {
            return Err(wrong("start", "a spider begins at one URL at least"));
        }
        for url in &start {
            if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
                return Err(
                    wrong("start", "a spider begins at http and https URLs").with("scheme", url.scheme())
                );
            }
        }
        Ok(start)
    }
}

impl FieldSpec {
    fn compile(&self) -> Result<CompiledField> {
        self.target.validate()?;
        let query = match self.selector.trim() {
            "" => None,
            selector => Some(Query::parse(selector)?),
        };
        if let (Some(query), Some(attr)) = (&query, &self.attr)
            && query.yields_text()
        {
            return Err(Error::config(
                "the selector yields text already: either it names the attribute, or attr does",
            )
            .with("selector", query)
            .with("attr", attr));
        }
        let regex = match &self.regex {
            None => None,
            Some(text) => Some(Regex::new(text).map_err(|error| {
                Error::config("not a regular expression")
                    .with("regex", text)
                    .with("reason", error)
            })?),
        };
        Ok(CompiledField {
            query,
            attr: self.attr.clone(),
            part: self.part,
            regex,
            clean: self.clean.clone(),
            target: self.target.clone(),
        })
    }
}
