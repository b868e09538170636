//! Evaluation over the nodes in document order. Every node looked at is paid for: an expression cannot run away with a
//! page.

use std::borrow::Cow;
use std::collections::HashSet;

use scraper::Node;

use super::ast::{Arithmetic, Axis, Expr, NodeTest, Predicate, Step};
use super::functions::plain_text;
use crate::spider::html::Document;

/// The page's expressions together looked at more nodes than one page may cost.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::spider) struct Spent;

/// A node: its number in the document, and 1 + the number of the attribute when it is one. The order of the type is the
/// order of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::spider) struct Place {
    pub(in crate::spider) node: u32,
    pub(in crate::spider) attribute: u32,
}

impl Place {
    pub(in crate::spider) fn of(node: u32) -> Self {
        Self { node, attribute: 0 }
    }
}

#[derive(Debug)]
pub(in crate::spider) enum Value<'d> {
    Nodes(Vec<Place>),
    Boolean(bool),
    Number(f64),
    Text(Cow<'d, str>),
}

/// The context: node, position and size.
#[derive(Debug, Clone, Copy)]
pub(in crate::spider) struct Here {
    pub(super) node: Place,
    pub(super) position: usize,
    pub(super) size: usize,
}

impl Here {
    pub(in crate::spider) fn at(node: Place) -> Self {
        Self {
            node,
            position: 1,
            size: 1,
        }
    }
}

/// Evaluates over one document.
#[derive(Debug, Clone, Copy)]
pub(in crate::spider) struct Machine<'d> {
    document: &'d Document,
}

impl<'d> Machine<'d> {
    pub(in crate::spider) fn new(document: &'d Document) -> Self {
        Self { document }
    }

    pub(super) fn evaluate(&self, expr: &Expr, from: Place) -> Result<Value<'d>, Spent> {
        self.value(expr, Here::at(from))
    }

    pub(super) fn spend(&self, steps: usize) -> Result<(), Spent> {
        if self.document.spend(steps as u64) {
            Ok(())
        } else {
            Err(Spent)
        }
    }

    pub(super) fn value(&self, expr: &Expr, here: Here) -> Result<Value<'d>, Spent> {
        self.spend(1)?;
        Ok(match expr {
            Expr::Or(all) => Value::Boolean(self.any(all, here, true)?),
            Expr::And(all) => Value::Boolean(!self.any(all, here, false)?),
            Expr::Compare(comparison, a, b) => Value::Boolean(self.compare(*comparison, a, b, here)?),
            Expr::Arithmetic(operator, a, b) => {
                let (a, b) = (self.number(a, here)?, self.number(b, here)?);
                Value::Number(match operator {
                    Arithmetic::Add => a + b,
                    Arithmetic::Subtract => a - b,
                    Arithmetic::Multiply => a * b,
                    Arithmetic::Divide => a / b,
                    Arithmetic::Remainder => a % b,
                })
            }
            Expr::Negative(of) => Value::Number(-self.number(of, here)?),
            Expr::Union(all) => {
                let mut nodes = Vec::new();
                for expr in all {
                    nodes.extend(self.nodes(expr, here)?);
                }
                nodes.sort_unstable();
                nodes.dedup();
                Value::Nodes(nodes)
            }
            Expr::Path { absolute, steps } => {
                let start = if *absolute { Place::of(0) } else { here.node };
                Value::Nodes(self.steps(vec![start], steps)?)
            }
            Expr::Filter {
                of,
                predicates,
                steps,
            } => {
                let mut nodes = self.nodes(of, here)?;
                for predicate in predicates {
                    nodes = self.filter(nodes, predicate)?;
                }
                Value::Nodes(self.steps(nodes, steps)?)
            }
            Expr::Literal(text) => Value::Text(Cow::Owned(text.clone())),
            Expr::Number(number) => Value::Number(*number),
            Expr::Call(function, arguments) => self.call(*function, arguments, here)?,
            Expr::Test(text, regex) => {
                let text = self.text(text, here)?;
                self.spend(text.len() / 16)?;
                Value::Boolean(regex.is_match(&text))
            }
        })
    }

    pub(super) fn nodes(&self, expr: &Expr, here: Here) -> Result<Vec<Place>, Spent> {
        Ok(match self.value(expr, here)? {
            Value::Nodes(nodes) => nodes,
            // The parser lets no other kind stand where nodes are needed.
            Value::Boolean(_) | Value::Number(_) | Value::Text(_) => Vec::new(),
        })
    }

    pub(super) fn truth(&self, expr: &Expr, here: Here) -> Result<bool, Spent> {
        if let Some(test) = expr.as_attribute() {
            self.spend(1)?;
            return Ok(self.tested_attribute(here.node, test).is_some());
        }
        Ok(match self.value(expr, here)? {
            Value::Nodes(nodes) => !nodes.is_empty(),
            Value::Boolean(truth) => truth,
            Value::Number(number) => number != 0.0 && !number.is_nan(),
            Value::Text(text) => !text.is_empty(),
        })
    }

    /// Whether one of them is what is wanted.
    fn any(&self, all: &[Expr], here: Here, wanted: bool) -> Result<bool, Spent> {
        for expr in all {
            if self.truth(expr, here)? == wanted {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn text(&self, expr: &Expr, here: Here) -> Result<Cow<'d, str>, Spent> {
        if let Some(test) = expr.as_attribute() {
            self.spend(1)?;
            return Ok(Cow::Borrowed(
                self.tested_attribute(here.node, test).unwrap_or_default(),
            ));
        }
        self.text_of(self.value(expr, here)?)
    }

    pub(super) fn text_of(&self, value: Value<'d>) -> Result<Cow<'d, str>, Spent> {
        match value {
            Value::Nodes(nodes) => match nodes.first() {
                Some(first) => self.text_of_node(*first),
                None => Ok(Cow::Borrowed("")),
            },
            other => Ok(plain_text(other).unwrap_or_default()),
        }
    }

    pub(super) fn number(&self, expr: &Expr, here: Here) -> Result<f64, Spent> {
        Ok(match self.value(expr, here)? {
            Value::Number(number) => number,
            Value::Boolean(truth) => f64::from(u8::from(truth)),
            other => number_of(&self.text_of(other)?),
        })
    }

    /// The string-value (5.1 to 5.7).
    pub(in crate::spider) fn text_of_node(&self, place: Place) -> Result<Cow<'d, str>, Spent> {
        if place.attribute > 0 {
            let attribute = self.nth_attribute(place);
            return Ok(Cow::Borrowed(attribute.map_or("", |(_, value)| value)));
        }
        match self.node(place.node) {
            Some(Node::Text(text)) => Ok(Cow::Borrowed(&**text)),
            Some(Node::Comment(comment)) => Ok(Cow::Borrowed(&**comment)),
            Some(Node::ProcessingInstruction(instruction)) => Ok(Cow::Borrowed(&*instruction.data)),
            _ => {
                let order = self.document.order();
                let mut text = Cow::Borrowed("");
                for number in place.node + 1..order.end(place.node) {
                    if let Some(Node::Text(piece)) = self.node(number) {
                        if text.is_empty() {
                            text = Cow::Borrowed(&**piece);
                        } else {
                            text.to_mut().push_str(piece);
                        }
                    }
                }
                let nodes = order.end(place.node) - place.node;
                self.spend(nodes as usize + text.len() / 16)?;
                Ok(text)
            }
        }
    }

    fn node(&self, number: u32) -> Option<&'d Node> {
        let id = self.document.order().id(number)?;
        self.document.tree().get(id).map(|node| node.value())
    }

    fn element(&self, place: Place) -> Option<&'d scraper::node::Element> {
        (place.attribute == 0)
            .then(|| self.node(place.node)?.as_element())
            .flatten()
    }

    fn nth_attribute(&self, place: Place) -> Option<(&'d str, &'d str)> {
        let element = self.node(place.node)?.as_element()?;
        element.attrs().nth(place.attribute.checked_sub(1)? as usize)
    }

    pub(super) fn attribute(&self, place: Place, name: &str) -> Option<&'d str> {
        self.element(place)?.attr(name)
    }

    pub(super) fn tested_attribute(&self, place: Place, test: &NodeTest) -> Option<&'d str> {
        let element = self.element(place)?;
        match test {
            NodeTest::Name { lower, .. } => element.attr(lower),
            _ => None,
        }
    }

    pub(super) fn name(&self, place: Place) -> Cow<'d, str> {
        if place.attribute > 0 {
            return Cow::Borrowed(self.nth_attribute(place).map_or("", |(name, _)| name));
        }
        Cow::Borrowed(self.element(place).map_or("", |element| element.name()))
    }

    pub(super) fn with_ids(&self, wanted: &[String]) -> Result<Vec<Place>, Spent> {
        let len = self.document.order().len();
        self.spend(len as usize)?;
        let has = |number: &u32| {
            let id = self.attribute(Place::of(*number), "id");
            id.is_some_and(|id| wanted.binary_search_by(|other| other.as_str().cmp(id)).is_ok())
        };
        Ok((0..len).filter(has).map(Place::of).collect())
    }

    pub(super) fn is_lang(&self, place: Place, wanted: &str) -> Result<bool, Spent> {
        let mut next = Some(place.node);
        while let Some(number) = next {
            self.spend(1)?;
            let node = Place::of(number);
            if let Some(lang) = self
                .attribute(node, "lang")
                .or_else(|| self.attribute(node, "xml:lang"))
            {
                let same = lang
                    .get(..wanted.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(wanted));
                let ends = matches!(lang.as_bytes().get(wanted.len()), None | Some(b'-'));
                return Ok(same && ends);
            }
            next = self.document.order().parent(number);
        }
        Ok(false)
    }

    fn steps(&self, mut nodes: Vec<Place>, steps: &[Step]) -> Result<Vec<Place>, Spent> {
        for step in steps {
            nodes = self.step(&nodes, step)?;
        }
        Ok(nodes)
    }

    fn step(&self, from: &[Place], step: &Step) -> Result<Vec<Place>, Spent> {
        let descends =
            matches!(step.axis, Axis::Descendant | Axis::DescendantOrSelf) && !step.counts_positions();
        let mut found = Vec::new();
        let mut covered = 0;
        for place in from {
            if descends && place.node < covered {
                // In the subtree of a node before it, whose descendants are found already.
                continue;
            }
            covered = covered.max(self.document.order().end(place.node));
            let mut reached = self.reach(*place, step)?;
            for predicate in &step.predicates {
                reached = self.filter(reached, predicate)?;
            }
            found.append(&mut reached);
        }
        if !found.is_sorted_by(|a, b| a < b) {
            found.sort_unstable();
            found.dedup();
        }
        Ok(found)
    }

    /// The nodes of the axis that pass the test, in the order of the axis.
    fn reach(&self, from: Place, step: &Step) -> Result<Vec<Place>, Spent> {
        let order = self.document.order();
        let mut found = Vec::new();
        let mut visited = 0;
        let is_attribute = from.attribute > 0;
        let mut offer = |number: u32| {
            visited += 1;
            if self.passes(number, &step.test) {
                found.push(Place::of(number));
            }
        };
        match step.axis {
            Axis::Itself if is_attribute => {
                let found = step.test == NodeTest::Node;
                return Ok(if found { vec![from] } else { Vec::new() });
            }
            Axis::Itself => offer(from.node),
            Axis::Attribute if is_attribute => {}
            Axis::Attribute => return self.attributes(from, &step.test),
            Axis::Child if is_attribute => {}
            Axis::Child => self.children(from.node).for_each(&mut offer),
            Axis::Descendant if is_attribute => {}
            Axis::Descendant => (from.node + 1..order.end(from.node)).for_each(&mut offer),
            Axis::DescendantOrSelf if is_attribute => {
                let found = step.test == NodeTest::Node;
                return Ok(if found { vec![from] } else { Vec::new() });
            }
            Axis::DescendantOrSelf => (from.node..order.end(from.node)).for_each(&mut offer),
            Axis::Parent if is_attribute => offer(from.node),
            Axis::Parent => order.parent(from.node).into_iter().for_each(&mut offer),
            Axis::Ancestor | Axis::AncestorOrSelf => {
                let with_itself = step.axis == Axis::AncestorOrSelf || is_attribute;
                if step.axis == Axis::AncestorOrSelf && is_attribute && step.test == NodeTest::Node {
                    let mut all = vec![from];
                    all.extend(self.up(from.node, true).map(Place::of));
                    self.spend(all.len())?;
                    return Ok(all);
                }
                self.up(from.node, with_itself).for_each(&mut offer);
            }
            Axis::Following => {
                let start = if is_attribute {
                    from.node + 1
                } else {
                    order.end(from.node)
                };
                (start..order.len()).for_each(&mut offer);
            }
            Axis::Preceding => {
                let ancestors: HashSet<u32> = self.up(from.node, true).collect();
                (0..from.node)
                    .rev()
                    .filter(|number| !ancestors.contains(number))
                    .for_each(&mut offer);
                visited += from.node as usize;
            }
            Axis::FollowingSibling if !is_attribute => {
                let end = order.parent(from.node).map_or(0, |parent| order.end(parent));
                let mut next = order.end(from.node);
                while next < end {
                    offer(next);
                    next = order.end(next);
                }
            }
            Axis::PrecedingSibling if !is_attribute => {
                if let Some(parent) = order.parent(from.node) {
                    let before: Vec<u32> = self.children(parent).take_while(|n| *n < from.node).collect();
                    before.into_iter().rev().for_each(&mut offer);
                }
            }
            Axis::FollowingSibling | Axis::PrecedingSibling | Axis::Namespace => {}
        }
        self.spend(visited)?;
        Ok(found)
    }

    fn children(&self, number: u32) -> impl Iterator<Item = u32> + use<'d> {
        let order = self.document.order();
        let end = order.end(number);
        let first = (number + 1 < end).then_some(number + 1);
        std::iter::successors(first, move |child| {
            Some(order.end(*child)).filter(|next| *next < end)
        })
    }

    fn up(&self, number: u32, with_itself: bool) -> impl Iterator<Item = u32> + use<'d> {
        let order = self.document.order();
        let first = if with_itself {
            Some(number)
        } else {
            order.parent(number)
        };
        std::iter::successors(first, move |at| order.parent(*at))
    }

    fn attributes(&self, of: Place, test: &NodeTest) -> Result<Vec<Place>, Spent> {
        let Some(element) = self.element(of) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for ((name, _), number) in element.attrs().zip(1..) {
            let passes = match test {
                NodeTest::Any | NodeTest::Node => true,
                NodeTest::Name { written, lower } => name == lower || name == written,
                NodeTest::Text | NodeTest::Comment | NodeTest::Instruction => false,
            };
            if passes {
                found.push(Place {
                    node: of.node,
                    attribute: number,
                });
            }
        }
        self.spend(1 + found.len())?;
        Ok(found)
    }

    fn passes(&self, number: u32, test: &NodeTest) -> bool {
        if *test == NodeTest::Node {
            return true;
        }
        match (self.node(number), test) {
            (Some(Node::Element(_)), NodeTest::Any)
            | (Some(Node::Text(_)), NodeTest::Text)
            | (Some(Node::Comment(_)), NodeTest::Comment)
            | (Some(Node::ProcessingInstruction(_)), NodeTest::Instruction) => true,
            (Some(Node::Element(element)), NodeTest::Name { written, lower }) => {
                element.name() == lower || element.name() == written
            }
            _ => false,
        }
    }

    fn filter(&self, nodes: Vec<Place>, predicate: &Predicate) -> Result<Vec<Place>, Spent> {
        if let Expr::Number(wanted) = predicate.expr {
            let at = (wanted >= 1.0 && wanted.fract() == 0.0).then_some(wanted as usize - 1);
            return Ok(at.and_then(|at| nodes.get(at).copied()).into_iter().collect());
        }
        let size = nodes.len();
        let mut kept = Vec::new();
        for (node, position) in nodes.into_iter().zip(1..) {
            let here = Here { node, position, size };
            let keep = if predicate.positional {
                match self.value(&predicate.expr, here)? {
                    Value::Number(number) => number == position as f64,
                    Value::Boolean(truth) => truth,
                    Value::Nodes(nodes) => !nodes.is_empty(),
                    Value::Text(text) => !text.is_empty(),
                }
            } else {
                self.truth(&predicate.expr, here)?
            };
            if keep {
                kept.push(node);
            }
        }
        Ok(kept)
    }
}

/// A number as XPath writes it (3.7): digits, a point, a minus before them; everything else is none.
pub(super) fn number_of(text: &str) -> f64 {
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain =
        digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') && digits.bytes().any(|b| b.is_ascii_digit());
    if plain {
        text.parse().unwrap_or(f64::NAN)
    } else {
        f64::NAN
    }
}

pub(super) fn text_of_number(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else if number == 0.0 {
        "0".to_owned()
    } else {
        number.to_string()
    }
}
