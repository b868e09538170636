//! HTML: the tree in our own types.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crm_core::{Error, Result};
use ego_tree::Tree;
use scraper::{ElementRef, Node};

use super::bounds::check_bounds;
use super::order::Order;
use super::query::{Inner, Query, Take};
use super::xpath::{Machine, Place, Spent, Value};

/// The nodes all expressions of a page may look at together: a fraction of a second of work. The largest page that is
/// parsed has some 600,000 nodes.
const MAX_STEPS: u64 = 20_000_000;

/// A parsed page.
pub struct Document {
    html: scraper::Html,
    order: OnceLock<Order>,
    steps: AtomicU64,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Document(..)")
    }
}

impl Document {
    /// Parses HTML as browsers do. Costs CPU: call it off the async workers.
    ///
    /// ```
    /// use crm_crawl::spider::{Document, Selector};
    /// let document = Document::parse("<p>Ana <b>Kask</b></p>").unwrap();
    /// let p = document.select(&Selector::parse("p").unwrap()).next().unwrap();
    /// assert_eq!(p.text(), "Ana Kask");
    /// assert!(Document::parse(&"<div>".repeat(1000)).is_err());
    /// ```
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when elements are nested deeper than 512, or there are more than 300,000 tags
    /// or 256 attributes in one: such pages are made to stop parsers.
    pub fn parse(html: &str) -> Result<Self> {
        check_bounds(html)?;
        Ok(Self {
            html: scraper::Html::parse_document(html),
            order: OnceLock::new(),
            steps: AtomicU64::new(0),
        })
    }

    /// All elements that match, in the order of the document.
    pub fn select<'a, 'b>(
        &'a self,
        selector: &'b Selector,
    ) -> impl Iterator<Item = Element<'a>> + use<'a, 'b> {
        self.html
            .select(&selector.0)
            .map(move |node| Element { node, document: self })
    }

    /// All that a CSS selector or XPath expression finds, in the order of the document.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when the page's expressions look at more than 20,000,000 nodes together.
    pub fn find<'a>(&'a self, query: &Query) -> Result<Vec<Match<'a>>> {
        match &query.0 {
            Inner::Css { selector, take, .. } => Ok(take.apply(self.select(selector))),
            Inner::XPath(xpath) => {
                let machine = Machine::new(self);
                let value = xpath.evaluate(machine, Place::of(0));
                value
                    .and_then(|value| self.matches(machine, value))
                    .map_err(|Spent| too_much(query))
            }
        }
    }

    /// The root element, `html`.
    pub fn root(&self) -> Element<'_> {
        Element {
            node: self.html.root_element(),
            document: self,
        }
    }

    /// The document's own base for links.
    pub(super) fn base(&self) -> Option<&str> {
        let is_base = |node: &'_ Node| node.as_element().is_some_and(|element| element.name() == "base");
        let base = self.html.tree.values().find(|node| is_base(node))?;
        base.as_element()?.attr("href")
    }

    pub(crate) fn order(&self) -> &Order {
        self.order.get_or_init(|| Order::of(&self.html))
    }

    pub(crate) fn tree(&self) -> &Tree<Node> {
        &self.html.tree
    }

    /// Pays for work on this page; false when nothing is left.
    pub(super) fn spend(&self, steps: u64) -> bool {
        self.steps
            .fetch_add(steps, Ordering::Relaxed)
            .saturating_add(steps)
            <= MAX_STEPS
    }

    fn matches<'a>(
        &'a self,
        machine: Machine<'a>,
        value: Value<'a>,
    ) -> std::result::Result<Vec<Match<'a>>, Spent> {
        let nodes = match value {
            Value::Nodes(nodes) => nodes,
            Value::Text(text) => return Ok(vec![Match::Text(text)]),
            Value::Boolean(truth) => {
                return Ok(vec![Match::Text(if truth { "true" } else { "false" }.into())]);
            }
            Value::Number(number) => return Ok(vec![Match::Text(number.to_string().into())]),
        };
        let mut found = Vec::with_capacity(nodes.len());
        for place in nodes {
            let node = self.order().id(place.node).and_then(|id| self.html.tree.get(id));
            match node.and_then(ElementRef::wrap) {
                // The document itself is neither an element nor a text.
                None if place == Place::of(0) => {}
                Some(node) if place.attribute == 0 => {
                    found.push(Match::Element(Element { node, document: self }))
                }
                _ => found.push(Match::Text(machine.text_of_node(place)?)),
            }
        }
        Ok(found)
    }
}

fn too_much(query: &Query) -> Error {
    Error::invalid(
        "the expressions look at more nodes of this page than one page may cost; make them narrower",
    )
    .operation("html.find")
    .with("selector", query)
}

/// An element of a page.
#[derive(Clone, Copy)]
pub struct Element<'a> {
    node: ElementRef<'a>,
    document: &'a Document,
}

impl fmt::Debug for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Element").field(&self.name()).finish()
    }
}

impl<'a> Element<'a> {
    /// The tag's name, in lower case.
    pub fn name(&self) -> &'a str {
        self.node.value().name()
    }

    /// The text in it, blanks squeezed.
    pub fn text(&self) -> String {
        self.text_up_to(usize::MAX)
    }

    /// The text in it, blanks squeezed, as far as it is about `most` bytes long.
    pub(crate) fn text_up_to(&self, most: usize) -> String {
        let mut text = String::new();
        let mut blank = false;
        for piece in self.node.text() {
            for c in piece.chars() {
                if c.is_whitespace() {
                    blank = true;
                    continue;
                }
                if blank && !text.is_empty() {
                    text.push(' ');
                }
                blank = false;
                text.push(c);
            }
            if text.len() >= most {
                break;
            }
        }
        text
    }

    /// An attribute.
    pub fn attr(&self, name: &str) -> Option<&'a str> {
        self.node.value().attr(name)
    }

    /// The markup inside it.
    pub fn inner_html(&self) -> String {
        self.node.inner_html()
    }

    /// All elements in it that match.
    pub fn select<'b>(&self, selector: &'b Selector) -> impl Iterator<Item = Element<'a>> + use<'a, 'b> {
        let document = self.document;
        self.node
            .select(&selector.0)
            .map(move |node| Element { node, document })
    }

    /// All that a CSS selector finds in it, or an XPath expression with this element as its context node. As everywhere
    /// with XPath, `//a` begins at the document; `.//a` begins here.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when the page's expressions look at more than 20,000,000 nodes together.
    pub fn find(&self, query: &Query) -> Result<Vec<Match<'a>>> {
        match &query.0 {
            Inner::Css { selector, take, .. } => Ok(take.apply(self.select(selector))),
            Inner::XPath(xpath) => {
                let document = self.document;
                let machine = Machine::new(document);
                let place = document.order().number(self.node.id()).map(Place::of);
                let value = xpath.evaluate(machine, place.unwrap_or(Place::of(0)));
                value
                    .and_then(|value| document.matches(machine, value))
                    .map_err(|Spent| too_much(query))
            }
        }
    }
}

/// What a selector found.
#[derive(Debug, Clone)]
pub enum Match<'a> {
    /// An element.
    Element(Element<'a>),
    /// The text of an attribute, of a text node, or of what an expression works out to.
    Text(Cow<'a, str>),
}

impl Match<'_> {
    /// The text, blanks squeezed.
    pub fn text(&self) -> String {
        match self {
            Self::Element(element) => element.text(),
            Self::Text(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        }
    }
}

impl Take {
    fn apply<'a>(&self, elements: impl Iterator<Item = Element<'a>>) -> Vec<Match<'a>> {
        match self {
            Self::Element => elements.map(Match::Element).collect(),
            Self::Attribute(name) => elements
                .filter_map(|element| Some(Match::Text(element.attr(name)?.into())))
                .collect(),
            Self::Text => elements
                .flat_map(|element| element.node.children())
                .filter_map(|node| Some(Match::Text(Cow::Borrowed(&**node.value().as_text()?))))
                .collect(),
        }
    }
}

/// A CSS selector.
#[derive(Debug, Clone)]
pub struct Selector(scraper::Selector);

impl Selector {
    /// Reads a selector (CSS Selectors Level 4, as far as Servo's `selectors` knows it).
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] with the selector.
    pub fn parse(css: &str) -> Result<Self> {
        scraper::Selector::parse(css).map(Self).map_err(|error| {
            Error::config("not a CSS selector")
                .with("selector", css)
                .with("reason", error)
        })
    }
}
