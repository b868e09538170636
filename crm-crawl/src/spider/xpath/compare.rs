//! What `=`, `<` and the others mean for nodes, truth values, numbers and texts (XPath 1.0, section 3.4).

use std::borrow::Cow;
use std::collections::HashSet;

use super::ast::{Comparison, Expr};
use super::eval::{Here, Machine, Place, Spent, Value, number_of};

impl<'d> Machine<'d> {
    pub(super) fn compare(
        &self,
        comparison: Comparison,
        a: &Expr,
        b: &Expr,
        here: Here,
    ) -> Result<bool, Spent> {
        let equality = matches!(comparison, Comparison::Equal | Comparison::Unequal);
        let attribute_and_text = match (a, b) {
            (path, Expr::Literal(text)) | (Expr::Literal(text), path) => {
                path.as_attribute().map(|test| (test, text))
            }
            _ => None,
        };
        if equality && let Some((test, text)) = attribute_and_text {
            self.spend(1)?;
            let found = self.tested_attribute(here.node, test);
            return Ok(found.is_some_and(|found| (found == text) == (comparison == Comparison::Equal)));
        }
        let (a, b) = (self.value(a, here)?, self.value(b, here)?);
        match (a, b) {
            (Value::Nodes(a), Value::Nodes(b)) => self.compare_nodes(comparison, &a, &b),
            (Value::Nodes(nodes), other) => self.compare_each(comparison, &nodes, &other, false),
            (other, Value::Nodes(nodes)) => self.compare_each(comparison, &nodes, &other, true),
            (a, b) => self.compare_plain(comparison, a, b),
        }
    }

    fn compare_each(
        &self,
        comparison: Comparison,
        nodes: &[Place],
        other: &Value<'d>,
        swapped: bool,
    ) -> Result<bool, Spent> {
        let pair = |a: f64, b: f64| {
            if swapped {
                holds(comparison, b, a)
            } else {
                holds(comparison, a, b)
            }
        };
        match other {
            Value::Boolean(truth) => {
                let (nodes, truth) = (
                    f64::from(u8::from(!nodes.is_empty())),
                    f64::from(u8::from(*truth)),
                );
                return Ok(pair(nodes, truth));
            }
            Value::Text(text) if matches!(comparison, Comparison::Equal | Comparison::Unequal) => {
                for node in nodes {
                    if (self.text_of_node(*node)? == *text) == (comparison == Comparison::Equal) {
                        return Ok(true);
                    }
                }
            }
            Value::Text(text) => {
                let number = number_of(text);
                for node in nodes {
                    if pair(number_of(&self.text_of_node(*node)?), number) {
                        return Ok(true);
                    }
                }
            }
            Value::Number(number) => {
                for node in nodes {
                    if pair(number_of(&self.text_of_node(*node)?), *number) {
                        return Ok(true);
                    }
                }
            }
            Value::Nodes(_) => {}
        }
        Ok(false)
    }

    /// Whether it holds for any pair of nodes (3.4).
    fn compare_nodes(&self, comparison: Comparison, a: &[Place], b: &[Place]) -> Result<bool, Spent> {
        let texts = |nodes: &[Place]| -> Result<Vec<Cow<'d, str>>, Spent> {
            nodes.iter().map(|node| self.text_of_node(*node)).collect()
        };
        let (a, b) = (texts(a)?, texts(b)?);
        Ok(match comparison {
            Comparison::Equal => {
                let known: HashSet<&str> = a.iter().map(AsRef::as_ref).collect();
                b.iter().any(|text| known.contains(text.as_ref()))
            }
            // Two different texts in all: then some pair differs, unless one side is empty.
            Comparison::Unequal => match (a.first(), b.first()) {
                (Some(first), Some(_)) => a.iter().chain(&b).any(|text| text != first),
                _ => false,
            },
            _ => {
                let numbers = |texts: &[Cow<'d, str>]| -> Vec<f64> {
                    texts
                        .iter()
                        .map(|text| number_of(text))
                        .filter(|n| !n.is_nan())
                        .collect()
                };
                let (a, b) = (numbers(&a), numbers(&b));
                let least = |numbers: &[f64]| numbers.iter().copied().reduce(f64::min);
                let most = |numbers: &[f64]| numbers.iter().copied().reduce(f64::max);
                let ends = match comparison {
                    Comparison::Less | Comparison::LessEqual => least(&a).zip(most(&b)),
                    _ => most(&a).zip(least(&b)),
                };
                ends.is_some_and(|(a, b)| holds(comparison, a, b))
            }
        })
    }

    fn compare_plain(&self, comparison: Comparison, a: Value<'d>, b: Value<'d>) -> Result<bool, Spent> {
        let truth = |value: &Value<'d>| match value {
            Value::Boolean(truth) => *truth,
            Value::Number(number) => *number != 0.0 && !number.is_nan(),
            Value::Text(text) => !text.is_empty(),
            Value::Nodes(nodes) => !nodes.is_empty(),
        };
        let number = |value: Value<'d>| -> Result<f64, Spent> {
            Ok(match value {
                Value::Number(number) => number,
                Value::Boolean(truth) => f64::from(u8::from(truth)),
                other => number_of(&self.text_of(other)?),
            })
        };
        if matches!(comparison, Comparison::Equal | Comparison::Unequal) {
            let equal = comparison == Comparison::Equal;
            if matches!(a, Value::Boolean(_)) || matches!(b, Value::Boolean(_)) {
                return Ok((truth(&a) == truth(&b)) == equal);
            }
            if !matches!(a, Value::Number(_)) && !matches!(b, Value::Number(_)) {
                return Ok((self.text_of(a)? == self.text_of(b)?) == equal);
            }
        }
        Ok(holds(comparison, number(a)?, number(b)?))
    }
}

fn holds(comparison: Comparison, a: f64, b: f64) -> bool {
    match comparison {
        Comparison::Equal => a == b,
        Comparison::Unequal => a != b,
        Comparison::Less => a < b,
        Comparison::LessEqual => a <= b,
        Comparison::Greater => a > b,
        Comparison::GreaterEqual => a >= b,
    }
}
