//! The grammar (XPath 1.0, sections 2 and 3).

use regex::RegexBuilder;

use super::ast::{Arithmetic, Axis, Comparison, Expr, NodeTest, Predicate, Step};
use super::functions::{Function, Kind};
use super::tokens::{Token, Wrong, tokens};

/// Longer ones are no expressions people write.
const MAX_LENGTH: usize = 4096;
const MAX_NESTING: usize = 48;
const MAX_OPERATORS: usize = 128;
const MAX_REGEX_SIZE: usize = 1 << 20;

pub(super) fn parse(text: &str) -> Result<Expr, Wrong> {
    if text.len() > MAX_LENGTH {
        return Err(Wrong {
            reason: "an expression has at most 4,096 bytes".to_owned(),
            at: MAX_LENGTH,
        });
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        nesting: 0,
        operators: 0,
    };
    let expr = parser.expr()?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => parser.wrong("an operator is missing before this, or a bracket is too many"),
    }
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    next: usize,
    nesting: usize,
    operators: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |(token, _)| token)
    }

    fn is_next(&self, mark: &str) -> bool {
        matches!(self.peek(), Token::Punctuation(found) if *found == mark)
    }

    fn follows(&self, mark: &str) -> bool {
        matches!(self.tokens.get(self.next + 1), Some((Token::Punctuation(found), _)) if *found == mark)
    }

    fn take(&mut self, mark: &str) -> bool {
        let found = self.is_next(mark);
        self.next += usize::from(found);
        found
    }

    fn take_operator(&mut self, name: &str) -> bool {
        let found = matches!(self.peek(), Token::Operator(found) if *found == name);
        self.next += usize::from(found);
        found
    }

    fn need(&mut self, mark: &str) -> Result<(), Wrong> {
        if self.take(mark) {
            Ok(())
        } else {
            self.wrong(&format!("{mark} is missing"))
        }
    }

    fn wrong<T>(&self, reason: &str) -> Result<T, Wrong> {
        let at = self.tokens.get(self.next).map_or(0, |(_, at)| *at);
        let reason = reason.to_owned();
        Err(Wrong { reason, at })
    }

    fn expr(&mut self) -> Result<Expr, Wrong> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return self.wrong("expressions are nested deeper than 48");
        }
        let expr = self.list(Self::and, "or", Expr::Or)?;
        self.nesting -= 1;
        Ok(expr)
    }

    fn and(&mut self) -> Result<Expr, Wrong> {
        self.list(Self::equality, "and", Expr::And)
    }

    fn list(
        &mut self,
        part: impl Fn(&mut Self) -> Result<Expr, Wrong>,
        operator: &str,
        whole: impl Fn(Vec<Expr>) -> Expr,
    ) -> Result<Expr, Wrong> {
        let first = part(self)?;
        if !matches!(self.peek(), Token::Operator(found) if *found == operator) {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.take_operator(operator) {
            all.push(part(self)?);
        }
        Ok(whole(all))
    }

    /// Chains of these become trees as deep as the chain is long.
    fn count_operator(&mut self) -> Result<(), Wrong> {
        self.operators += 1;
        if self.operators > MAX_OPERATORS {
            return self.wrong("an expression has at most 128 operators, not counting `and`, `or` and `|`");
        }
        Ok(())
    }

    fn equality(&mut self) -> Result<Expr, Wrong> {
        let mut left = self.relation()?;
        loop {
            let comparison = if self.take("=") {
                Comparison::Equal
            } else if self.take("!=") {
                Comparison::Unequal
            } else {
                return Ok(left);
            };
            self.count_operator()?;
            left = Expr::Compare(comparison, Box::new(left), Box::new(self.relation()?));
        }
    }

    fn relation(&mut self) -> Result<Expr, Wrong> {
        let mut left = self.sum()?;
        loop {
            let comparison = if self.take("<=") {
                Comparison::LessEqual
            } else if self.take("<") {
                Comparison::Less
            } else if self.take(">=") {
                Comparison::GreaterEqual
            } else if self.take(">") {
                Comparison::Greater
            } else {
                return Ok(left);
            };
            self.count_operator()?;
            left = Expr::Compare(comparison, Box::new(left), Box::new(self.sum()?));
        }
    }

    fn sum(&mut self) -> Result<Expr, Wrong> {
        let mut left = self.product()?;
        loop {
            let operator = if self.take("+") {
                Arithmetic::Add
            } else if self.take("-") {
                Arithmetic::Subtract
            } else {
                return Ok(left);
            };
            self.count_operator()?;
            left = Expr::Arithmetic(operator, Box::new(left), Box::new(self.product()?));
        }
    }

    fn product(&mut self) -> Result<Expr, Wrong> {
        let mut left = self.signed()?;
        loop {
            let operator = if self.take_operator("*") {
                Arithmetic::Multiply
            } else if self.take_operator("div") {
                Arithmetic::Divide
            } else if self.take_operator("mod") {
                Arithmetic::Remainder
            } else {
                return Ok(left);
            };
            self.count_operator()?;
            left = Expr::Arithmetic(operator, Box::new(left), Box::new(self.signed()?));
        }
    }

    fn signed(&mut self) -> Result<Expr, Wrong> {
        let (mut any, mut negative) = (false, false);
        while self.take("-") {
            (any, negative) = (true, !negative);
        }
        let expr = self.union()?;
        Ok(match (any, negative) {
            (false, _) => expr,
            (true, true) => Expr::Negative(Box::new(expr)),
            // Two signs still make a number of it.
            (true, false) => Expr::Negative(Box::new(Expr::Negative(Box::new(expr)))),
        })
    }

    fn union(&mut self) -> Result<Expr, Wrong> {
        let first = self.path()?;
        if !self.is_next("|") {
            return Ok(first);
        }
        let mut all = vec![self.nodes(first)?];
        while self.take("|") {
            let next = self.path()?;
            all.push(self.nodes(next)?);
        }
        Ok(Expr::Union(all))
    }

    fn nodes(&self, expr: Expr) -> Result<Expr, Wrong> {
        if expr.kind() == Kind::Nodes {
            Ok(expr)
        } else {
            self.wrong("| stands between paths: this is no set of nodes")
        }
    }

    fn path(&mut self) -> Result<Expr, Wrong> {
        let is_call = matches!(self.peek(), Token::Name(name) if !is_node_type(name)) && self.follows("(");
        if !is_call
            && !matches!(self.peek(), Token::Literal(_) | Token::Number(_))
            && !self.is_next("(")
            && !self.is_next("$")
        {
            return self.location();
        }
        let of = self.primary()?;
        let mut predicates = Vec::new();
        while self.is_next("[") {
            predicates.push(self.predicate()?);
        }
        let mut steps = Vec::new();
        if self.take("//") {
            steps.push(Step::plain(Axis::DescendantOrSelf, NodeTest::Node));
            self.steps(&mut steps)?;
        } else if self.take("/") {
            self.steps(&mut steps)?;
        }
        if predicates.is_empty() && steps.is_empty() {
            return Ok(of);
        }
        Ok(Expr::Filter {
            of: Box::new(self.nodes(of)?),
            predicates,
            steps,
        })
    }

    fn location(&mut self) -> Result<Expr, Wrong> {
        let mut steps = Vec::new();
        if self.take("//") {
            steps.push(Step::plain(Axis::DescendantOrSelf, NodeTest::Node));
            self.steps(&mut steps)?;
            return Ok(Expr::Path {
                absolute: true,
                steps,
            });
        }
        let absolute = self.take("/");
        if !absolute || self.begins_step() {
            self.steps(&mut steps)?;
        }
        Ok(Expr::Path { absolute, steps })
    }

    fn begins_step(&self) -> bool {
        matches!(
            self.peek(),
            Token::Name(_) | Token::Punctuation("*" | "@" | "." | "..")
        )
    }

    fn steps(&mut self, steps: &mut Vec<Step>) -> Result<(), Wrong> {
        loop {
            let step = self.step()?;
            join(steps, step);
            if self.take("//") {
                steps.push(Step::plain(Axis::DescendantOrSelf, NodeTest::Node));
            } else if !self.take("/") {
                return Ok(());
            }
        }
    }

    fn step(&mut self) -> Result<Step, Wrong> {
        if self.take("..") {
            return Ok(Step::plain(Axis::Parent, NodeTest::Node));
        }
        if self.take(".") {
            return Ok(Step::plain(Axis::Itself, NodeTest::Node));
        }
        let axis = if self.take("@") {
            Axis::Attribute
        } else if self.follows("::")
            && let Token::Name(name) = self.peek().clone()
        {
            let Some(axis) = Axis::named(&name) else {
                return self.wrong("there is no such axis");
            };
            self.next += 2;
            axis
        } else {
            Axis::Child
        };
        let test = self.test()?;
        let mut predicates = Vec::new();
        while self.is_next("[") {
            predicates.push(self.predicate()?);
        }
        Ok(Step {
            axis,
            test,
            predicates,
        })
    }

    fn test(&mut self) -> Result<NodeTest, Wrong> {
        if self.take("*") {
            return Ok(NodeTest::Any);
        }
        let Token::Name(name) = self.peek().clone() else {
            return self.wrong("a step is missing: a name, *, @name, ., .. or text()");
        };
        if is_node_type(&name) && self.follows("(") {
            self.next += 2;
            if name == "processing-instruction" && matches!(self.peek(), Token::Literal(_)) {
                self.next += 1;
            }
            self.need(")")?;
            return Ok(match name.as_str() {
                "node" => NodeTest::Node,
                "text" => NodeTest::Text,
                "comment" => NodeTest::Comment,
                _ => NodeTest::Instruction,
            });
        }
        if name.ends_with(":*") {
            return self.wrong("HTML has no namespaces: write the name without a prefix");
        }
        self.next += 1;
        Ok(NodeTest::Name {
            lower: name.to_lowercase(),
            written: name,
        })
    }

    fn predicate(&mut self) -> Result<Predicate, Wrong> {
        self.need("[")?;
        let expr = self.expr()?;
        self.need("]")?;
        let positional = expr.kind() == Kind::Number || expr.asks_position();
        Ok(Predicate { expr, positional })
    }

    fn primary(&mut self) -> Result<Expr, Wrong> {
        match self.peek().clone() {
            Token::Literal(text) => {
                self.next += 1;
                Ok(Expr::Literal(text))
            }
            Token::Number(number) => {
                self.next += 1;
                Ok(Expr::Number(number))
            }
            Token::Name(name) => self.call(&name),
            _ if self.take("(") => {
                let expr = self.expr()?;
                self.need(")")?;
                Ok(expr)
            }
            _ if self.is_next("$") => self.wrong("there are no variables here: write the value itself"),
            _ => self.wrong("an expression is missing"),
        }
    }

    fn call(&mut self, name: &str) -> Result<Expr, Wrong> {
        let is_test = name == "re:test";
        let function = Function::named(name);
        if function.is_none() && !is_test {
            return self
                .wrong("there is no such function in XPath 1.0, and it is not re:test() or has-class()");
        }
        let start = self.next;
        self.next += 1;
        self.need("(")?;
        let mut arguments = Vec::new();
        if !self.is_next(")") {
            arguments.push(self.expr()?);
            while self.take(",") {
                arguments.push(self.expr()?);
            }
        }
        self.need(")")?;
        let end = std::mem::replace(&mut self.next, start);
        let Some(function) = function else {
            let expr = self.regex(arguments)?;
            self.next = end;
            return Ok(expr);
        };
        let (least, most) = function.arity();
        if !(least..=most).contains(&arguments.len()) {
            return self.wrong("the function takes another number of arguments");
        }
        if function.takes_nodes() && arguments.first().is_some_and(|first| first.kind() != Kind::Nodes) {
            return self.wrong("the function's argument is a path");
        }
        self.next = end;
        Ok(Expr::Call(function, arguments))
    }

    /// `re:test(text, pattern, flags?)` of EXSLT, as parsel and lxml know it.
    fn regex(&self, arguments: Vec<Expr>) -> Result<Expr, Wrong> {
        let mut arguments = arguments.into_iter();
        let (text, pattern, flags) = (arguments.next(), arguments.next(), arguments.next());
        let flags = match flags {
            None => String::new(),
            Some(Expr::Literal(flags)) => flags,
            Some(_) => return self.wrong("the flags of re:test() are written in quotes"),
        };
        let (Some(text), Some(Expr::Literal(pattern)), None) = (text, pattern, arguments.next()) else {
            return self
                .wrong("re:test() takes a path or text, a pattern in quotes, and flags in quotes if needed");
        };
        let regex = RegexBuilder::new(&pattern)
            .case_insensitive(flags.contains('i'))
            .size_limit(MAX_REGEX_SIZE)
            .build();
        match regex {
            Ok(regex) => Ok(Expr::Test(Box::new(text), regex)),
            Err(error) => self.wrong(&format!("not a regular expression: {error}")),
        }
    }
}

/// `//a` is `/descendant-or-self::node()/child::a`. When no predicate counts positions, that is `/descendant::a`.
fn join(steps: &mut Vec<Step>, mut step: Step) {
    let gathers = |last: &Step| {
        last.axis == Axis::DescendantOrSelf && last.test == NodeTest::Node && last.predicates.is_empty()
    };
    if step.axis == Axis::Child && !step.counts_positions() && steps.last().is_some_and(gathers) {
        steps.pop();
        step.axis = Axis::Descendant;
    }
    steps.push(step);
}

fn is_node_type(name: &str) -> bool {
    matches!(name, "node" | "text" | "comment" | "processing-instruction")
}
