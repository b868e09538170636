//! The page's nodes by number, as the extractors walk them: without recursion, a subtree is a range.

use ego_tree::NodeRef;
use scraper::Node;

use crate::spider::Document;

#[derive(Clone, Copy)]
pub(super) struct Dom<'a> {
    document: &'a Document,
}

impl<'a> Dom<'a> {
    pub(super) fn new(document: &'a Document) -> Self {
        Self { document }
    }

    pub(super) fn len(&self) -> u32 {
        self.document.order().len()
    }

    /// The first number after the node's subtree.
    pub(super) fn end(&self, number: u32) -> u32 {
        self.document.order().end(number)
    }

    pub(super) fn parent(&self, number: u32) -> Option<u32> {
        self.document.order().parent(number)
    }

    fn node(&self, number: u32) -> Option<NodeRef<'a, Node>> {
        let id = self.document.order().id(number)?;
        self.document.tree().get(id)
    }

    pub(super) fn element(&self, number: u32) -> Option<&'a scraper::node::Element> {
        self.node(number)?.value().as_element()
    }

    pub(super) fn text_node(&self, number: u32) -> Option<&'a str> {
        self.node(number)?.value().as_text().map(|text| &**text)
    }

    pub(super) fn attr(&self, number: u32, name: &str) -> Option<&'a str> {
        self.element(number)?.attr(name)
    }

    pub(super) fn name(&self, number: u32) -> &'a str {
        self.element(number).map_or("", |element| element.name())
    }

    /// All elements, in the order of the document.
    pub(super) fn elements(&self) -> impl Iterator<Item = (u32, &'a scraper::node::Element)> + use<'a> {
        let dom = *self;
        (0..dom.len()).filter_map(move |number| Some((number, dom.element(number)?)))
    }

    /// The text inside, blanks squeezed, cut off after `most` bytes; scripts and styles say nothing.
    pub(super) fn text(&self, number: u32, most: usize) -> String {
        let (mut text, mut blank) = (String::new(), false);
        let mut at = number;
        let end = self.end(number);
        while at < end && text.len() < most {
            match self.text_node(at) {
                Some(piece) => {
                    for c in piece.chars() {
                        if c.is_whitespace() {
                            blank = true;
                        } else {
                            if blank && !text.is_empty() {
                                text.push(' ');
                            }
                            blank = false;
                            text.push(c);
                        }
                    }
                }
                None if matches!(self.name(at), "script" | "style" | "template") => {
                    at = self.end(at);
                    continue;
                }
                // A line break, and what begins a line, keeps words apart.
                None => blank |= is_block(self.name(at)) || self.name(at) == "br",
            }
            at += 1;
        }
        text
    }

    /// Where it is, as an XPath expression that leads there.
    pub(super) fn path(&self, number: u32) -> String {
        let mut steps = Vec::new();
        let mut next = Some(number);
        while let Some(at) = next {
            next = self.parent(at);
            let name = self.name(at);
            let Some(parent) = next.filter(|_| !name.is_empty()) else {
                continue;
            };
            // Tags may be named as no XPath expression could say.
            let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            let (mut place, mut several) = (1, false);
            let mut sibling = parent + 1;
            while sibling < self.end(parent) {
                let other = self.name(sibling);
                if sibling != at && (if plain { other == name } else { !other.is_empty() }) {
                    several = true;
                    place += usize::from(sibling < at);
                }
                sibling = self.end(sibling);
            }
            let name = if plain { name } else { "*" };
            steps.push(if several || !plain {
                format!("/{name}[{place}]")
            } else {
                format!("/{name}")
            });
        }
        steps.reverse();
        steps.concat()
    }
}

/// What begins a new line.
pub(super) fn is_block(name: &str) -> bool {
    matches!(
        name,
        "address"
            | "article"
            | "aside"
            | "blockquote"
            | "body"
            | "dd"
            | "details"
            | "div"
            | "dl"
            | "dt"
            | "fieldset"
            | "figcaption"
            | "figure"
            | "footer"
            | "form"
            | "h1"
            | "h2"
            | "h3"
            | "h4"
            | "h5"
            | "h6"
            | "header"
            | "hr"
            | "li"
            | "main"
            | "nav"
            | "ol"
            | "p"
            | "pre"
            | "section"
            | "table"
            | "tbody"
            | "td"
            | "tfoot"
            | "th"
            | "thead"
            | "title"
            | "tr"
            | "ul"
    )
}
