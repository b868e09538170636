use crm_core::{Error, Result};
use regex::Regex;
use serde::{Deserialize, Serialize};
use url::Url;

use super::query::Query;
use super::{Document, Element, Match, Output, Page, Selector};

/// Which links of a page are followed. Written as a selector alone, or as an object.
///
/// ```
/// use crm_crawl::spider::FollowSpec;
///
/// let rules: Vec<FollowSpec> = serde_json::from_str(
///     r#"["a.next", "//li[@class='next']/a/@href", {"selector": "nav", "allow": ["/team/"], "deny": ["[?&]sort="]}]"#,
/// )
/// .unwrap();
/// assert_eq!(rules[0], FollowSpec::new("a.next"));
/// assert_eq!(rules[2].deny, ["[?&]sort="]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct FollowSpec {
    /// A CSS selector or XPath expression ([`Query`]) of links, of attributes or texts that hold a URL, or of regions: of an
    /// element without the attribute, all `a` and `area` in it are followed. The whole page when empty.
    pub selector: String,
    /// The attribute that holds the URL: `href`.
    pub attr: Option<String>,
    /// Regular expressions, one of which the absolute URL matches. Any URL when empty.
    pub allow: Vec<String>,
    /// Regular expressions none of which the absolute URL matches.
    pub deny: Vec<String>,
}

impl FollowSpec {
    /// Follows what this selector finds.
    pub fn new(selector: impl Into<String>) -> Self {
        Self {
            selector: selector.into(),
            ..Self::default()
        }
    }
}

impl From<&str> for FollowSpec {
    fn from(selector: &str) -> Self {
        Self::new(selector)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a follow rule is a selector, or an object of selector, attr, allow and deny"
)]
enum Written {
    Selector(String),
    Rule(Rule),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    selector: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attr: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deny: Vec<String>,
}

impl From<Written> for FollowSpec {
    fn from(written: Written) -> Self {
        match written {
            Written::Selector(selector) => Self::new(selector),
            Written::Rule(Rule {
                selector,
                attr,
                allow,
                deny,
            }) => Self {
                selector,
                attr,
                allow,
                deny,
            },
        }
    }
}

impl From<FollowSpec> for Written {
    fn from(spec: FollowSpec) -> Self {
        if spec.attr.is_none() && spec.allow.is_empty() && spec.deny.is_empty() {
            return Self::Selector(spec.selector);
        }
        Self::Rule(Rule {
            selector: spec.selector,
            attr: spec.attr,
            allow: spec.allow,
            deny: spec.deny,
        })
    }
}

#[derive(Debug)]
pub(super) struct CompiledFollow {
    query: Option<Query>,
    attr: String,
    links: Selector,
    allow: Vec<Regex>,
    deny: Vec<Regex>,
}

impl CompiledFollow {
    pub(super) fn of(spec: &FollowSpec) -> Result<Self> {
        let query = match spec.selector.trim() {
            "" => None,
            selector => Some(Query::parse(selector)?),
        };
        Ok(Self {
            query,
            attr: spec.attr.clone().unwrap_or_else(|| "href".to_owned()),
            links: Selector::parse("a[href], area[href]")?,
            allow: patterns(&spec.allow, "allow")?,
            deny: patterns(&spec.deny, "deny")?,
        })
    }

    pub(super) fn apply(&self, page: &Page, output: &mut Output) -> Result<()> {
        let document: &Document = page.document();
        let found = match &self.query {
            None => vec![Match::Element(document.root())],
            Some(query) => document.find(query)?,
        };
        for found in found {
            match found {
                Match::Text(text) => self.offer(page, &text, output),
                Match::Element(element) => match element.attr(&self.attr) {
                    Some(href) => self.offer(page, href, output),
                    None => self.region(page, element, output),
                },
            }
        }
        Ok(())
    }

    fn region(&self, page: &Page, element: Element<'_>, output: &mut Output) {
        for link in element.select(&self.links) {
            if let Some(href) = link.attr("href") {
                self.offer(page, href, output);
            }
        }
    }

    fn offer(&self, page: &Page, href: &str, output: &mut Output) {
        // What is no web page (`mailto:`, `javascript:`) is no news to anybody.
        let Some(url) = page.link(href) else { return };
        match self.objection(&url) {
            None => output.follow(url),
            Some(reason) => output.pass(url, reason),
        }
    }

    fn objection(&self, url: &Url) -> Option<String> {
        if !self.allow.is_empty() && !self.allow.iter().any(|regex| regex.is_match(url.as_str())) {
            return Some("none of the rule's `allow` matches".to_owned());
        }
        let denied = self.deny.iter().find(|regex| regex.is_match(url.as_str()))?;
        Some(format!("`deny` matches: {denied}"))
    }
}

/// Regular expressions of a setting.
pub(super) fn patterns(texts: &[String], setting: &'static str) -> Result<Vec<Regex>> {
    let compile = |text: &String| {
        Regex::new(text).map_err(|error| {
            Error::config("not a regular expression")
                .with("list", setting)
                .with("regex", text)
                .with("reason", error)
        })
    };
    texts.iter().map(compile).collect()
}
