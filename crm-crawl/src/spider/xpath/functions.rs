//! The core functions (XPath 1.0, section 4), and two that users of parsel know.

use std::borrow::Cow;

use super::ast::Expr;
use super::eval::{Here, Machine, Spent, Value, number_of, text_of_number};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Nodes,
    Boolean,
    Number,
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Last,
    Position,
    Count,
    Id,
    LocalName,
    NamespaceUri,
    Name,
    Text,
    Concat,
    StartsWith,
    Contains,
    SubstringBefore,
    SubstringAfter,
    Substring,
    StringLength,
    NormalizeSpace,
    Translate,
    Boolean,
    Not,
    True,
    False,
    Lang,
    Number,
    Sum,
    Floor,
    Ceiling,
    Round,
    HasClass,
}

const MANY: usize = 64;

/// Name, function, what it yields, the least and the most arguments.
const FUNCTIONS: [(&str, Function, Kind, usize, usize); 28] = [
    ("last", Function::Last, Kind::Number, 0, 0),
    ("position", Function::Position, Kind::Number, 0, 0),
    ("count", Function::Count, Kind::Number, 1, 1),
    ("id", Function::Id, Kind::Nodes, 1, 1),
    ("local-name", Function::LocalName, Kind::Text, 0, 1),
    ("namespace-uri", Function::NamespaceUri, Kind::Text, 0, 1),
    ("name", Function::Name, Kind::Text, 0, 1),
    ("string", Function::Text, Kind::Text, 0, 1),
    ("concat", Function::Concat, Kind::Text, 2, MANY),
    ("starts-with", Function::StartsWith, Kind::Boolean, 2, 2),
    ("contains", Function::Contains, Kind::Boolean, 2, 2),
    ("substring-before", Function::SubstringBefore, Kind::Text, 2, 2),
    ("substring-after", Function::SubstringAfter, Kind::Text, 2, 2),
    ("substring", Function::Substring, Kind::Text, 2, 3),
    ("string-length", Function::StringLength, Kind::Number, 0, 1),
    ("normalize-space", Function::NormalizeSpace, Kind::Text, 0, 1),
    ("translate", Function::Translate, Kind::Text, 3, 3),
    ("boolean", Function::Boolean, Kind::Boolean, 1, 1),
    ("not", Function::Not, Kind::Boolean, 1, 1),
    ("true", Function::True, Kind::Boolean, 0, 0),
    ("false", Function::False, Kind::Boolean, 0, 0),
    ("lang", Function::Lang, Kind::Boolean, 1, 1),
    ("number", Function::Number, Kind::Number, 0, 1),
    ("sum", Function::Sum, Kind::Number, 1, 1),
    ("floor", Function::Floor, Kind::Number, 1, 1),
    ("ceiling", Function::Ceiling, Kind::Number, 1, 1),
    ("round", Function::Round, Kind::Number, 1, 1),
    ("has-class", Function::HasClass, Kind::Boolean, 1, MANY),
];

impl Function {
    pub(super) fn named(name: &str) -> Option<Self> {
        FUNCTIONS.iter().find(|row| row.0 == name).map(|row| row.1)
    }

    fn row(self) -> (Kind, usize, usize) {
        let row = FUNCTIONS.iter().find(|row| row.1 == self);
        row.map_or((Kind::Text, 0, 0), |row| (row.2, row.3, row.4))
    }

    pub(super) fn kind(self) -> Kind {
        self.row().0
    }

    pub(super) fn arity(self) -> (usize, usize) {
        let (_, least, most) = self.row();
        (least, most)
    }

    pub(super) fn takes_nodes(self) -> bool {
        matches!(
            self,
            Self::Count | Self::Sum | Self::Name | Self::LocalName | Self::NamespaceUri
        )
    }
}

impl<'d> Machine<'d> {
    pub(super) fn call(
        &self,
        function: Function,
        arguments: &[Expr],
        here: Here,
    ) -> Result<Value<'d>, Spent> {
        let text = |at: usize| match arguments.get(at) {
            Some(expr) => self.text(expr, here),
            None => self.text_of_node(here.node),
        };
        let number = |at: usize| match arguments.get(at) {
            Some(expr) => self.number(expr, here),
            None => Ok(number_of(&self.text_of_node(here.node)?)),
        };
        Ok(match function {
            Function::Last => Value::Number(here.size as f64),
            Function::Position => Value::Number(here.position as f64),
            Function::Count => Value::Number(self.argument_nodes(arguments, here)?.len() as f64),
            Function::Id => self.by_ids(arguments, here)?,
            Function::Name | Function::LocalName => {
                let node = match arguments {
                    [] => Some(here.node),
                    _ => self.argument_nodes(arguments, here)?.first().copied(),
                };
                Value::Text(node.map_or(Cow::Borrowed(""), |node| self.name(node)))
            }
            // HTML as scrapers know it has none.
            Function::NamespaceUri => Value::Text(Cow::Borrowed("")),
            Function::Text => Value::Text(text(0)?),
            Function::Concat => {
                let mut all = String::new();
                for argument in arguments {
                    all.push_str(&self.text(argument, here)?);
                    self.spend(all.len() / 16)?;
                }
                Value::Text(Cow::Owned(all))
            }
            Function::StartsWith => Value::Boolean(text(0)?.starts_with(text(1)?.as_ref())),
            Function::Contains => Value::Boolean(text(0)?.contains(text(1)?.as_ref())),
            Function::SubstringBefore => {
                let (whole, mark) = (text(0)?, text(1)?);
                let before = whole.find(mark.as_ref()).and_then(|at| whole.get(..at));
                Value::Text(Cow::Owned(before.unwrap_or_default().to_owned()))
            }
            Function::SubstringAfter => {
                let (whole, mark) = (text(0)?, text(1)?);
                let after = whole
                    .find(mark.as_ref())
                    .and_then(|at| whole.get(at + mark.len()..));
                Value::Text(Cow::Owned(after.unwrap_or_default().to_owned()))
            }
            Function::Substring => {
                let whole = text(0)?;
                let first = round(number(1)?);
                let end = if arguments.len() > 2 {
                    first + round(number(2)?)
                } else {
                    f64::INFINITY
                };
                // Comparisons, not arithmetic on counts: NaN and the infinities come out as section 4.2 says.
                let inside = |place: f64| place >= first && place < end;
                let part = whole.chars().zip(1u32..).filter(|(_, at)| inside(f64::from(*at)));
                Value::Text(Cow::Owned(part.map(|(c, _)| c).collect()))
            }
            Function::StringLength => Value::Number(text(0)?.chars().count() as f64),
            Function::NormalizeSpace => Value::Text(normalized(text(0)?)),
            Function::Translate => {
                let (whole, from, to) = (text(0)?, text(1)?, text(2)?);
                let to: Vec<char> = to.chars().collect();
                self.spend(whole.len().saturating_mul(from.len()) / 64)?;
                let mapped = whole
                    .chars()
                    .filter_map(|c| match from.chars().position(|f| f == c) {
                        None => Some(c),
                        Some(at) => to.get(at).copied(),
                    });
                Value::Text(Cow::Owned(mapped.collect()))
            }
            Function::Boolean => Value::Boolean(self.arguments_truth(arguments, here)?),
            Function::Not => Value::Boolean(!self.arguments_truth(arguments, here)?),
            Function::True => Value::Boolean(true),
            Function::False => Value::Boolean(false),
            Function::Lang => Value::Boolean(self.is_lang(here.node, &text(0)?)?),
            Function::Number => Value::Number(number(0)?),
            Function::Sum => {
                let mut sum = 0.0;
                for node in self.argument_nodes(arguments, here)? {
                    sum += number_of(&self.text_of_node(node)?);
                }
                Value::Number(sum)
            }
            Function::Floor => Value::Number(number(0)?.floor()),
            Function::Ceiling => Value::Number(number(0)?.ceil()),
            Function::Round => Value::Number(round(number(0)?)),
            Function::HasClass => {
                let classes = self.attribute(here.node, "class").unwrap_or_default();
                for argument in arguments {
                    let wanted = self.text(argument, here)?;
                    self.spend(classes.len() / 16)?;
                    if !classes.split_ascii_whitespace().any(|class| class == wanted) {
                        return Ok(Value::Boolean(false));
                    }
                }
                Value::Boolean(true)
            }
        })
    }

    fn argument_nodes(&self, arguments: &[Expr], here: Here) -> Result<Vec<super::eval::Place>, Spent> {
        match arguments.first() {
            Some(expr) => self.nodes(expr, here),
            None => Ok(Vec::new()),
        }
    }

    fn arguments_truth(&self, arguments: &[Expr], here: Here) -> Result<bool, Spent> {
        match arguments.first() {
            Some(expr) => self.truth(expr, here),
            None => Ok(false),
        }
    }

    fn by_ids(&self, arguments: &[Expr], here: Here) -> Result<Value<'d>, Spent> {
        let mut wanted: Vec<String> = Vec::new();
        if let Some(expr) = arguments.first() {
            let texts = match self.value(expr, here)? {
                Value::Nodes(nodes) => {
                    let texts: Result<Vec<_>, Spent> =
                        nodes.into_iter().map(|node| self.text_of_node(node)).collect();
                    texts?
                }
                other => vec![self.text_of(other)?],
            };
            for text in texts {
                wanted.extend(text.split_ascii_whitespace().map(str::to_owned));
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        Ok(Value::Nodes(self.with_ids(&wanted)?))
    }
}

/// Blanks as XML knows them (4.2); a no-break space stays.
fn normalized(text: Cow<'_, str>) -> Cow<'_, str> {
    let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let mut out = String::with_capacity(text.len());
    for word in text.split(blank).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    Cow::Owned(out)
}

/// The nearest whole number, halves up (4.4).
fn round(number: f64) -> f64 {
    (number + 0.5).floor()
}

/// The text of a truth value or number (4.2).
pub(super) fn plain_text<'d>(value: Value<'d>) -> Option<Cow<'d, str>> {
    match value {
        Value::Nodes(_) => None,
        Value::Boolean(true) => Some(Cow::Borrowed("true")),
        Value::Boolean(false) => Some(Cow::Borrowed("false")),
        Value::Number(number) => Some(Cow::Owned(text_of_number(number))),
        Value::Text(text) => Some(text),
    }
}
