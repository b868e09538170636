//! XPath 1.0 over the tree that CSS selectors see (why our own: docs/adr/0008).

mod ast;
mod compare;
mod eval;
mod functions;
mod parse;
mod tokens;

use std::fmt;
use std::sync::Arc;

use crm_core::{Error, Result};

pub(super) use eval::{Machine, Place, Spent, Value};

/// An XPath 1.0 expression.
///
/// All axes, operators and functions of the recommendation but namespaces and variables, which HTML does not need;
/// besides, `re:test(text, 'pattern', 'i')` and `has-class('name')` as Scrapy's selectors know them. Names of elements and
/// attributes are compared as HTML does, so `//DIV/@HREF` finds what `//div/@href` finds. The tree is the one a browser
/// builds: a table's rows are in a `tbody` whether or not the page says so.
///
/// ```
/// use crm_crawl::spider::{Document, XPath};
///
/// let page = Document::parse(r#"<ul><li>Ana <a href="/ana">more</a></li><li>Ben <a href="/ben">more</a></li></ul>"#).unwrap();
/// let found = page.find(&XPath::parse("//li[contains(., 'Ben')]/a/@href").unwrap().into()).unwrap();
/// assert_eq!(found[0].text(), "/ben");
/// assert!(XPath::parse("//li[").unwrap_err().to_string().contains("a step is missing"));
/// ```
#[derive(Clone)]
pub struct XPath {
    text: Arc<str>,
    expr: Arc<ast::Expr>,
}

impl fmt::Debug for XPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("XPath").field(&self.text).finish()
    }
}

impl XPath {
    /// Reads an expression ([XPath 1.0](https://www.w3.org/TR/1999/REC-xpath-19991116/)).
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] with the expression, what is wrong with it and after how many bytes.
    pub fn parse(expression: &str) -> Result<Self> {
        match parse::parse(expression) {
            Ok(expr) => Ok(Self {
                text: expression.into(),
                expr: Arc::new(expr),
            }),
            Err(wrong) => Err(Error::config("not an XPath expression")
                .with("selector", expression)
                .with("reason", wrong.reason)
                .with("at", wrong.at)),
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether all it can find are elements.
    pub(super) fn yields_elements(&self) -> bool {
        self.expr.yields_elements()
    }

    pub(super) fn evaluate<'d>(
        &self,
        machine: Machine<'d>,
        from: Place,
    ) -> std::result::Result<Value<'d>, Spent> {
        machine.evaluate(&self.expr, from)
    }
}
