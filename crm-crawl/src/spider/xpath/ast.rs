//! What an expression consists of.

use regex::Regex;

use super::functions::{Function, Kind};

#[derive(Debug)]
pub(super) enum Expr {
    Or(Vec<Expr>),
    And(Vec<Expr>),
    Compare(Comparison, Box<Expr>, Box<Expr>),
    Arithmetic(Arithmetic, Box<Expr>, Box<Expr>),
    Negative(Box<Expr>),
    Union(Vec<Expr>),
    /// From the document, else from the context node.
    Path {
        absolute: bool,
        steps: Vec<Step>,
    },
    /// An expression's nodes, filtered, and steps from there.
    Filter {
        of: Box<Expr>,
        predicates: Vec<Predicate>,
        steps: Vec<Step>,
    },
    Literal(String),
    Number(f64),
    Call(Function, Vec<Expr>),
    Test(Box<Expr>, Regex),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) axis: Axis,
    pub(super) test: NodeTest,
    pub(super) predicates: Vec<Predicate>,
}

impl Step {
    pub(super) fn plain(axis: Axis, test: NodeTest) -> Self {
        Self {
            axis,
            test,
            predicates: Vec::new(),
        }
    }

    pub(super) fn counts_positions(&self) -> bool {
        self.predicates.iter().any(|predicate| predicate.positional)
    }
}

#[derive(Debug)]
pub(super) struct Predicate {
    pub(super) expr: Expr,
    /// Whether its answer may depend on the position: a number, or `position()` or `last()` in it.
    pub(super) positional: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    Ancestor,
    AncestorOrSelf,
    Attribute,
    Child,
    Descendant,
    DescendantOrSelf,
    Following,
    FollowingSibling,
    Namespace,
    Parent,
    Preceding,
    PrecedingSibling,
    Itself,
}

impl Axis {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ancestor" => Self::Ancestor,
            "ancestor-or-self" => Self::AncestorOrSelf,
            "attribute" => Self::Attribute,
            "child" => Self::Child,
            "descendant" => Self::Descendant,
            "descendant-or-self" => Self::DescendantOrSelf,
            "following" => Self::Following,
            "following-sibling" => Self::FollowingSibling,
            "namespace" => Self::Namespace,
            "parent" => Self::Parent,
            "preceding" => Self::Preceding,
            "preceding-sibling" => Self::PrecedingSibling,
            "self" => Self::Itself,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NodeTest {
    /// `*`: elements, or attributes on their axis.
    Any,
    /// As written, and in lower case: HTML's names are.
    Name {
        written: String,
        lower: String,
    },
    Node,
    Text,
    Comment,
    Instruction,
}

impl Expr {
    /// What it yields; without variables that is known beforehand.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Or(_) | Self::And(_) | Self::Compare(..) | Self::Test(..) => Kind::Boolean,
            Self::Arithmetic(..) | Self::Negative(_) | Self::Number(_) => Kind::Number,
            Self::Union(_) | Self::Path { .. } | Self::Filter { .. } => Kind::Nodes,
            Self::Literal(_) => Kind::Text,
            Self::Call(function, _) => function.kind(),
        }
    }

    /// Whether `position()` or `last()` is in it, outside of predicates of its own.
    pub(super) fn asks_position(&self) -> bool {
        match self {
            Self::Compare(_, a, b) | Self::Arithmetic(_, a, b) => a.asks_position() || b.asks_position(),
            Self::Negative(of) | Self::Test(of, _) | Self::Filter { of, .. } => of.asks_position(),
            Self::Or(all) | Self::And(all) | Self::Union(all) => all.iter().any(Self::asks_position),
            Self::Call(Function::Position | Function::Last, _) => true,
            Self::Call(_, arguments) => arguments.iter().any(Self::asks_position),
            Self::Path { .. } | Self::Literal(_) | Self::Number(_) => false,
        }
    }

    pub(super) fn yields_elements(&self) -> bool {
        let element = |steps: &[Step]| match steps.last() {
            Some(step) => {
                step.axis != Axis::Attribute
                    && matches!(step.test, NodeTest::Any | NodeTest::Name { .. } | NodeTest::Node)
            }
            None => true,
        };
        match self {
            Self::Path { steps, .. } => element(steps),
            Self::Filter { of, steps, .. } => element(steps) && (!steps.is_empty() || of.yields_elements()),
            Self::Union(all) => all.iter().all(Self::yields_elements),
            Self::Call(Function::Id, _) => true,
            _ => false,
        }
    }

    /// The name, when it is just `@name`.
    pub(super) fn as_attribute(&self) -> Option<&NodeTest> {
        match self {
            Self::Path {
                absolute: false,
                steps,
            } => match steps.as_slice() {
                [step] if step.axis == Axis::Attribute && step.predicates.is_empty() => match &step.test {
                    test @ NodeTest::Name { .. } => Some(test),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }
}
