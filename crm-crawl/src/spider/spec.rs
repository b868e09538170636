use std::collections::BTreeSet;

use crm_core::capability::{Reject, RejectKind};
use crm_core::{Error, Result, Timestamp};
use regex::Regex;
use serde::{Deserialize, Serialize};
use url::Url;

use super::html::{Element, Selector};
use super::{CrawlConfig, Output, Page, Spider};
use crate::assemble::{Assembly, Reading};
use crate::escape::unescape;
use crate::target::Target;

/// One piece of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldSpec {
    /// Where it is inside the item, as a CSS selector; the item itself when empty. Addresses, phone numbers, street
    /// lines and labels are taken from every element that matches, everything else from the first that says something.
    #[serde(default)]
    pub selector: String,
    /// The attribute that holds it. When not set it is the text, and for addresses and phone numbers the target of a
    /// `mailto:` or `tel:` link if the element is one.
    #[serde(default)]
    pub attr: Option<String>,
    /// What of it counts: the first group of this regular expression, or the whole match when it has no group.
    #[serde(default)]
    pub regex: Option<String>,
    /// What it says.
    pub target: Target,
}

/// A spider as data: where to begin, what to follow, where the people are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpiderSpec {
    /// The collector's name and the source in the drafts' provenance.
    pub name: String,
    /// Where to begin.
    pub start: Vec<Url>,
    /// The hosts that may be visited, each with its subdomains; those of `start` (without their subdomains) when empty.
    #[serde(default)]
    pub domains: Vec<String>,
    /// CSS selectors of the links to follow (elements with `href`). Without one, only the start pages are read.
    #[serde(default)]
    pub follow: Vec<String>,
    /// The CSS selector of an element that is one person.
    pub item: String,
    /// What is in it.
    pub fields: Vec<FieldSpec>,
    /// How dates, amounts and phone numbers are read.
    #[serde(default)]
    pub reading: Reading,
    /// How the crawl behaves.
    #[serde(default)]
    pub crawl: CrawlConfig,
}

impl SpiderSpec {
    /// Checks everything and makes the spider.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting: no name, no start URL, a selector, regular expression or
    /// target that is not one, nothing to recognise a person by.
    pub fn compile(&self) -> Result<CompiledSpec> {
        let wrong =
            |setting: &'static str, message: &'static str| Error::config(message).with("setting", setting);
        if self.name.trim().is_empty() {
            return Err(wrong("name", "a spider has a name"));
        }
        if self.start.is_empty() {
            return Err(wrong("start", "a spider begins at one URL at least"));
        }
        for url in &self.start {
            if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
                return Err(
                    wrong("start", "a spider begins at http and https URLs").with("scheme", url.scheme())
                );
            }
        }
        if self.fields.is_empty() {
            return Err(wrong("fields", "a spider has one field at least"));
        }
        if !self.fields.iter().any(|field| field.target.identifies()) {
            return Err(wrong(
                "fields",
                "no field says who the person is; one goes to email, phone or external:<system>",
            ));
        }
        self.reading.validate()?;
        self.crawl.validate()?;
        let named = |setting: &'static str| move |error: Error| error.with("setting", setting);
        let follow = self
            .follow
            .iter()
            .map(|css| Selector::parse(css))
            .collect::<Result<Vec<_>>>()
            .map_err(named("follow"))?;
        let fields = self
            .fields
            .iter()
            .map(|field| {
                field.target.validate()?;
                let empty = field.selector.trim().is_empty();
                let regex = field
                    .regex
                    .as_deref()
                    .map(Regex::new)
                    .transpose()
                    .map_err(|error| {
                        Error::config("not a regular expression")
                            .with("target", &field.target)
                            .with("reason", error)
                    })?;
                Ok(CompiledField {
                    selector: if empty {
                        None
                    } else {
                        Some(Selector::parse(&field.selector)?)
                    },
                    attr: field.attr.clone(),
                    regex,
                    target: field.target.clone(),
                })
            })
            .collect::<Result<Vec<_>>>()
            .map_err(named("fields"))?;
        let domains = self
            .domains
            .iter()
            .map(|domain| domain.trim_start_matches("*.").to_lowercase())
            .collect();
        let hosts = self
            .start
            .iter()
            .filter_map(Url::host_str)
            .map(str::to_owned)
            .collect();
        Ok(CompiledSpec {
            name: self.name.clone(),
            start: self.start.clone(),
            domains,
            hosts,
            follow,
            item: Selector::parse(&self.item).map_err(named("item"))?,
            fields,
            reading: self.reading.clone(),
        })
    }
}

#[derive(Debug)]
struct CompiledField {
    selector: Option<Selector>,
    attr: Option<String>,
    regex: Option<Regex>,
    target: Target,
}

/// A checked [`SpiderSpec`], ready to parse pages.
#[derive(Debug)]
pub struct CompiledSpec {
    name: String,
    start: Vec<Url>,
    domains: Vec<String>,
    hosts: BTreeSet<String>,
    follow: Vec<Selector>,
    item: Selector,
    fields: Vec<CompiledField>,
    reading: Reading,
}

impl CompiledSpec {
    /// Parses a page that is already there, to try a spec out without a site.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when `url` is none or the page cannot be parsed.
    pub fn try_on(&self, url: &str, html: &str) -> Result<Output> {
        let url = Url::parse(url).map_err(|_| Error::invalid("not an absolute URL").with("field", "url"))?;
        let mut output = Output::new();
        self.parse(&Page::new(url, &self.name, html, Timestamp::EPOCH)?, &mut output);
        Ok(output)
    }

    fn item(&self, page: &Page, number: u64, item: Element<'_>, output: &mut Output) {
        let mut assembly = Assembly::new(&self.reading, page.provenance(number));
        for field in &self.fields {
            let many = matches!(
                field.target,
                Target::Email | Target::Phone | Target::Street | Target::Tag | Target::External(_)
            );
            let values: Vec<String> = match &field.selector {
                None => field.value(item).into_iter().collect(),
                Some(selector) => {
                    let found = item.select(selector).filter_map(|element| field.value(element));
                    found.take(if many { 32 } else { 1 }).collect()
                }
            };
            for value in values {
                if let Err(reason) = assembly.put(&field.target, &value) {
                    output.reject(rejected(page, number, Some(&field.target), reason));
                    return;
                }
            }
        }
        match assembly.finish() {
            Ok(draft) => output.draft(draft),
            Err((target, reason)) => output.reject(rejected(page, number, target.as_ref(), reason)),
        }
    }
}

fn rejected(page: &Page, number: u64, target: Option<&Target>, reason: &str) -> Reject {
    Reject {
        kind: RejectKind::Invalid,
        place: page.url().to_string(),
        line: Some(number),
        field: target.map(ToString::to_string),
        reason: reason.to_owned(),
    }
}

impl CompiledField {
    fn value(&self, element: Element<'_>) -> Option<String> {
        let raw = match (&self.attr, element.attr("href")) {
            (Some(attr), _) => element.attr(attr)?.to_owned(),
            (None, Some(href)) if matches!(self.target, Target::Email | Target::Phone) => {
                match Link::of(href) {
                    Link::Plain => element.text(),
                    Link::Email | Link::Phone => href.to_owned(),
                }
            }
            (None, _) => element.text(),
        };
        let text = match (&self.target, Link::of(&raw)) {
            // `p > a` often matches both kinds of links: each field takes its own.
            (Target::Email, Link::Phone) | (Target::Phone, Link::Email) => return None,
            (Target::Email | Target::Phone, Link::Email | Link::Phone) => link_address(&raw)?,
            _ => raw,
        };
        let text = match &self.regex {
            None => text,
            Some(regex) => {
                let found = regex.captures(&text)?;
                found.get(1).or_else(|| found.get(0))?.as_str().to_owned()
            }
        };
        let text = text.trim().to_owned();
        if text.is_empty() { None } else { Some(text) }
    }
}

/// What a link leads to.
enum Link {
    Email,
    Phone,
    Plain,
}

impl Link {
    fn of(href: &str) -> Self {
        let scheme = href
            .trim()
            .split_once(':')
            .map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("mailto") => Self::Email,
            Some("tel" | "callto") => Self::Phone,
            _ => Self::Plain,
        }
    }
}

/// The address in a `mailto:` (RFC 6068, the first recipient) or the number in a `tel:` link (RFC 3966).
fn link_address(href: &str) -> Option<String> {
    let (scheme, rest) = href.trim().split_once(':')?;
    let stop: &[char] = match scheme.to_ascii_lowercase().as_str() {
        "mailto" => &['?', '#', ','],
        "tel" | "callto" => &[';', '?', '#'],
        _ => return None,
    };
    let text = rest.split(stop).next().unwrap_or_default();
    Some(unescape(text.trim_start_matches("//")))
}

impl Spider for CompiledSpec {
    fn name(&self) -> &str {
        &self.name
    }

    fn seeds(&self) -> Vec<Url> {
        self.start.clone()
    }

    fn allows(&self, url: &Url) -> bool {
        let Some(host) = url.host_str().map(|host| host.trim_end_matches('.')) else {
            return false;
        };
        if self.domains.is_empty() {
            return self.hosts.contains(host);
        }
        self.domains.iter().any(|domain| {
            host == domain
                || host
                    .strip_suffix(domain.as_str())
                    .is_some_and(|before| before.ends_with('.'))
        })
    }

    fn parse(&self, page: &Page, output: &mut Output) {
        for (item, number) in page.document().select(&self.item).zip(1..) {
            self.item(page, number, item, output);
        }
        for selector in &self.follow {
            for element in page.document().select(selector) {
                if let Some(url) = element.attr("href").and_then(|href| page.link(href)) {
                    output.follow(url);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_links() {
        for (href, text) in [
            ("mailto:ana@example.com", Some("ana@example.com")),
            (
                "MAILTO:ana%2Bshop@example.com?subject=Hi&body=x",
                Some("ana+shop@example.com"),
            ),
            ("mailto:a@example.com,b@example.com", Some("a@example.com")),
            ("tel:+61-491-570-156;ext=7", Some("+61-491-570-156")),
            ("tel:+61%20491", Some("+61 491")),
            ("mailto:100%@example.com", Some("100%@example.com")),
            ("https://site.example/", None),
            ("ana@example.com", None),
        ] {
            assert_eq!(link_address(href).as_deref(), text, "{href}");
        }
    }
}
