//! A spec at work.

use std::collections::BTreeSet;

use crm_core::capability::{Reject, RejectKind};
use crm_core::{Error, Result, Timestamp};
use regex::Regex;
use url::Url;

use super::clean::Clean;
use super::follow::CompiledFollow;
use super::query::Query;
use super::spec::{Extract, Part};
use super::{Element, Match, Output, Page, Spider};
use crate::assemble::{Assembly, Reading, Reason};
use crate::escape::unescape;
use crate::extract::{self, Hints};
use crate::target::Target;

/// The most items of one page; there is something wrong with a selector that finds more.
const MAX_ITEMS: usize = 10_000;
/// The most values of one field of one item.
const MAX_VALUES: usize = 32;
/// No field of a person is longer: what follows is cut off before it costs anything.
const MAX_VALUE: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct CompiledField {
    pub(super) query: Option<Query>,
    pub(super) attr: Option<String>,
    pub(super) part: Part,
    pub(super) regex: Option<Regex>,
    pub(super) clean: Vec<Clean>,
    pub(super) target: Target,
}

/// What finds the items.
#[derive(Debug)]
pub(super) struct ItemRule(pub(super) Query);

/// A checked [`super::SpiderSpec`], ready to parse pages.
#[derive(Debug)]
pub struct CompiledSpec {
    pub(super) name: String,
    pub(super) start: Vec<Url>,
    pub(super) domains: Vec<String>,
    pub(super) hosts: BTreeSet<String>,
    pub(super) follow: Vec<CompiledFollow>,
    pub(super) deny: Vec<Regex>,
    pub(super) item: Option<ItemRule>,
    pub(super) fields: Vec<CompiledField>,
    pub(super) extract: Option<Extract>,
    pub(super) min_confidence: f64,
    pub(super) reading: Reading,
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

    fn items(&self, page: &Page, rule: &ItemRule, output: &mut Output) -> Result<()> {
        let mut number = 0;
        for found in page.document().find(&rule.0)? {
            // `//div | //a/text()` may find texts as well: those are no items.
            let Match::Element(item) = found else { continue };
            number += 1;
            if number as usize > MAX_ITEMS {
                return Err(Error::invalid(
                    "more than 10,000 items on one page: the item's selector finds too much",
                )
                .with("selector", &rule.0));
            }
            self.item(page, number, item, output)?;
        }
        Ok(())
    }

    fn item(&self, page: &Page, number: u64, item: Element<'_>, output: &mut Output) -> Result<()> {
        let mut assembly = Assembly::new(&self.reading, page.provenance(number));
        for field in &self.fields {
            let many = matches!(
                field.target,
                Target::Email | Target::Phone | Target::Street | Target::Tag | Target::External(_)
            );
            let found = match &field.query {
                None => vec![Match::Element(item)],
                Some(query) => item.find(query)?,
            };
            let mut taken = 0;
            for found in &found {
                if taken == if many { MAX_VALUES } else { 1 } {
                    break;
                }
                let Some(text) = field.text(found) else { continue };
                let put = field
                    .cleaned(text, &self.reading, page)
                    .and_then(|text| assembly.put(&field.target, &text));
                if let Err(reason) = put {
                    output.reject(rejected(page, number, Some(&field.target), reason));
                    return Ok(());
                }
                taken += 1;
            }
        }
        match assembly.finish() {
            Ok(draft) => output.draft(draft),
            Err((target, reason)) => output.reject(rejected(page, number, target.as_ref(), reason)),
        }
        Ok(())
    }

    fn read(&self, page: &Page, output: &mut Output) -> Result<()> {
        if let Some(rule) = &self.item {
            self.items(page, rule, output)?;
        }
        if let Some(Extract::Contacts) = self.extract {
            let hints = Hints {
                region: self.reading.phone_region.clone(),
            };
            let (drafts, problems) = extract::drafts(page, &hints, self.min_confidence);
            drafts.into_iter().for_each(|draft| output.draft(draft));
            for problem in problems {
                output.reject(Reject {
                    kind: RejectKind::Invalid,
                    place: page.url().to_string(),
                    line: None,
                    field: Some(problem.place),
                    reason: problem.reason.to_owned(),
                });
            }
        }
        for rule in &self.follow {
            rule.apply(page, output)?;
        }
        Ok(())
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
    /// The text of one match; `None` when it says nothing for this field.
    fn text(&self, found: &Match<'_>) -> Option<String> {
        let contact = matches!(self.target, Target::Email | Target::Phone);
        let raw = match found {
            Match::Text(text) => cut(text).to_owned(),
            Match::Element(element) => match (&self.attr, self.part, element.attr("href")) {
                (Some(attr), ..) => cut(element.attr(attr)?).to_owned(),
                (None, Part::Html, _) => cut(&element.inner_html()).to_owned(),
                (None, Part::Text, Some(href)) if contact && !matches!(Link::of(href), Link::Plain) => {
                    cut(href).to_owned()
                }
                (None, Part::Text, _) => element.text_up_to(MAX_VALUE),
            },
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
                let group = found.iter().skip(1).flatten().next();
                group.or_else(|| found.get(0))?.as_str().to_owned()
            }
        };
        let text = text.trim().to_owned();
        if text.is_empty() { None } else { Some(text) }
    }

    fn cleaned(
        &self,
        mut text: String,
        reading: &Reading,
        page: &Page,
    ) -> std::result::Result<String, Reason> {
        for step in &self.clean {
            text = step.apply(&text, reading, page)?;
        }
        Ok(text)
    }
}

fn cut(text: &str) -> &str {
    let end = (0..=MAX_VALUE.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or(text)
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
        if self.deny.iter().any(|regex| regex.is_match(url.as_str())) {
            return false;
        }
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
        if let Err(error) = self.read(page, output) {
            output.reject(Reject {
                kind: RejectKind::Invalid,
                place: page.url().to_string(),
                line: None,
                field: None,
                reason: error.to_string(),
            });
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

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "é".repeat(MAX_VALUE);
        assert_eq!(cut(&text).len(), MAX_VALUE);
        assert_eq!(cut("short"), "short");
    }
}
