use std::fmt;

use crm_core::{Error, Result};

use super::{Selector, XPath};

/// A CSS selector or an XPath expression: what a spec's selectors are.
///
/// Text that begins with `/`, `./`, `../`, `(`, `@`, is `.` or `..`, or calls a function (`normalize-space(...)`) is XPath; no CSS
/// selector begins so. Everything else is CSS, unless `xpath:` stands before it (`css:` may, too). A CSS selector may end in
/// `::text` (the text right in the element) or `::attr(name)`, as Scrapy's do.
///
/// ```
/// use crm_crawl::spider::{Document, Query};
///
/// let page = Document::parse(r#"<div class="next"><a href="/2">on</a></div>"#).unwrap();
/// for selector in ["div.next > a::attr(href)", "//div[@class='next']/a/@href", "xpath:descendant::a/@href"] {
///     let found = page.find(&Query::parse(selector).unwrap()).unwrap();
///     assert_eq!(found[0].text(), "/2");
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Query(pub(super) Inner);

#[derive(Debug, Clone)]
pub(super) enum Inner {
    Css {
        selector: Selector,
        take: Take,
        text: String,
    },
    XPath(XPath),
}

/// What of a matching element is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Take {
    Element,
    Attribute(String),
    Text,
}

impl Query {
    /// Reads either.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] with the selector and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if let Some(xpath) = text.strip_prefix("xpath:") {
            return Ok(XPath::parse(xpath.trim())?.into());
        }
        let css = match text.strip_prefix("css:") {
            Some(css) => css.trim(),
            None if is_xpath(text) => return Ok(XPath::parse(text)?.into()),
            None => text,
        };
        let (selector, take) = split_pseudo(css);
        let parsed = Selector::parse(selector).map_err(|error| {
            if XPath::parse(text).is_ok() {
                error.with("hint", "if it is XPath, begin it with xpath: or ./")
            } else {
                error
            }
        })?;
        if let Take::Attribute(name) = &take
            && (name.is_empty() || name.contains(|c: char| c.is_whitespace() || "\"'<>/=()".contains(c)))
        {
            return Err(Error::config("::attr() takes the name of an attribute").with("selector", css));
        }
        Ok(Self(Inner::Css {
            selector: parsed,
            take,
            text: css.to_owned(),
        }))
    }

    /// Whether it yields texts rather than elements.
    pub(super) fn yields_text(&self) -> bool {
        match &self.0 {
            Inner::Css { take, .. } => *take != Take::Element,
            Inner::XPath(xpath) => !xpath.yields_elements(),
        }
    }
}

impl From<XPath> for Query {
    fn from(xpath: XPath) -> Self {
        Self(Inner::XPath(xpath))
    }
}

/// As it was written.
impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Css { text, .. } => f.write_str(text),
            Inner::XPath(xpath) => f.write_str(xpath.as_str()),
        }
    }
}

fn is_xpath(text: &str) -> bool {
    if matches!(text, "." | "..")
        || text.starts_with(['/', '(', '@'])
        || text.starts_with("./")
        || text.starts_with("../")
    {
        return true;
    }
    // `name(`: CSS has functions after a colon only.
    let name = text.split('(').next().unwrap_or_default();
    let is_name = |c: char| c.is_ascii_alphabetic() || c == '-';
    name.len() < text.len() && !name.is_empty() && name.chars().all(is_name)
}

/// `a::attr(href)` and `p::text`, which Scrapy's CSS selectors know.
fn split_pseudo(css: &str) -> (&str, Take) {
    if let Some(selector) = css.strip_suffix("::text") {
        return (selector, Take::Text);
    }
    if let Some((selector, name)) = css.strip_suffix(')').and_then(|css| css.rsplit_once("::attr(")) {
        return (selector, Take::Attribute(name.trim().to_ascii_lowercase()));
    }
    (css, Take::Element)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_languages_are_told_apart() {
        for css in [
            "a",
            ".next",
            "#main a[href^='/x']",
            "li:nth-child(2)",
            "*",
            "p > a",
            "[data-x]",
            "a::attr(href)",
            "p::text",
            "a:not(.b)",
            "css:a",
            "h1, h2",
            ":is(a, b)",
        ] {
            assert!(matches!(Query::parse(css).unwrap().0, Inner::Css { .. }), "{css}");
        }
        for xpath in [
            "//a",
            "/html",
            ".//a",
            "./a",
            "../a",
            ".",
            "..",
            "(//a)[1]",
            "@href",
            "string(.)",
            "normalize-space(.//b)",
            "xpath:a",
            "xpath: descendant::a",
        ] {
            assert!(
                matches!(Query::parse(xpath).unwrap().0, Inner::XPath(_)),
                "{xpath}"
            );
        }
        for wrong in [
            "",
            "//",
            "a[",
            "div/a",
            "::attr(href)x",
            "a::attr()",
            "a::attr(b c)",
            "//a[",
            "string(",
        ] {
            let error = Query::parse(wrong).unwrap_err();
            assert_eq!(error.kind(), crm_core::ErrorKind::Config, "{wrong}");
        }
        let hint = Query::parse("div/a").unwrap_err().to_string();
        assert!(hint.contains("xpath:"), "{hint}");
    }
}
