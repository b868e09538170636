//! Expressions as data: what a derived column is made of, and which rows are kept.
//!
//! An expression is checked against the types of the columns before anything runs. It has no loops and no access to
//! anything but the row it is asked about: a plan from an untrusted place can be wrong, not dangerous.
//!
//! Missing values go through: a sum with a missing part is missing. So is what has no answer: a ratio to 0, the
//! logarithm of a negative number, an integer that overflows. No expression answers NaN or an infinity.
//!
//! ```
//! use crm_analytics::clean::{CleaningPlan, Expr};
//! use crm_core::{Column, Table};
//!
//! let table = Table::new(vec![
//!     Column::floats("spend", vec![90.0, 10.0]),
//!     Column::ints("orders", vec![3, 0]),
//! ])
//! .unwrap();
//! let basket = Expr::column("spend").over(Expr::column("orders"));
//! let cleaned = CleaningPlan::new().derive("basket", basket).fit(&table).unwrap();
//! let basket = cleaned.table.column("basket").unwrap();
//! assert_eq!((basket.f64_at(0), basket.f64_at(1)), (Some(30.0), None));
//!
//! let read: Expr = serde_json::from_str(r#"{"gt": [{"column": "spend"}, {"int": 50}]}"#).unwrap();
//! assert_eq!(read, Expr::column("spend").above(50_i64));
//! ```

mod check;
mod eval;

use crm_core::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use eval::Cell;
pub(super) use eval::{Cells, Held};

/// The deepest an expression may be nested.
const DEEPEST: usize = 64;

/// A part of an instant, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatePart {
    /// The year, such as 2026.
    Year,
    /// 1 to 4.
    Quarter,
    /// 1 to 12.
    Month,
    /// 1 to 31.
    Day,
    /// 1 (Monday) to 7 (Sunday), as ISO 8601 counts.
    Weekday,
    /// 0 to 23.
    Hour,
}

/// A condition and what is answered when it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// The condition.
    pub when: Expr,
    /// The answer.
    pub then: Expr,
}

/// One expression.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expr {
    /// The value of a column.
    Column(String),
    /// This integer.
    Int(i64),
    /// This number; finite.
    Number(f64),
    /// This text.
    Text(String),
    /// True or false.
    Flag(bool),
    /// This instant.
    Instant(Timestamp),
    /// The sum of two numbers.
    Add(Box<Expr>, Box<Expr>),
    /// The first number less the second.
    Sub(Box<Expr>, Box<Expr>),
    /// The product of two numbers.
    Mul(Box<Expr>, Box<Expr>),
    /// The first number divided by the second; missing when that is 0.
    Ratio(Box<Expr>, Box<Expr>),
    /// The smallest of numbers that are there.
    Least(Vec<Expr>),
    /// The largest of numbers that are there.
    Greatest(Vec<Expr>),
    /// The natural logarithm; missing for 0 and below.
    Ln(Box<Expr>),
    /// `ln(1 + x)`; missing for -1 and below.
    Log1p(Box<Expr>),
    /// The number without its sign.
    Abs(Box<Expr>),
    /// The whole number next to it, halves away from 0; a float.
    Round(Box<Expr>),
    /// A part of an instant.
    DatePart {
        /// The instant.
        of: Box<Expr>,
        /// Which part.
        part: DatePart,
    },
    /// The days from an instant to `as_of`, with their fraction; missing when it is not before `as_of`: what was not
    /// known yet is not used.
    DaysBefore {
        /// The instant.
        of: Box<Expr>,
        /// The moment the row is looked at from.
        as_of: Timestamp,
    },
    /// Texts one after the other; numbers, bools and instants as text. Missing parts are left out; missing when all are.
    Concat(Vec<Expr>),
    /// In lower case.
    Lower(Box<Expr>),
    /// The number of characters.
    Length(Box<Expr>),
    /// Whether a text has this text in it.
    Contains(Box<Expr>, String),
    /// Whether two values are equal.
    Eq(Box<Expr>, Box<Expr>),
    /// Whether two values differ.
    Ne(Box<Expr>, Box<Expr>),
    /// Whether the first is less than the second.
    Lt(Box<Expr>, Box<Expr>),
    /// Whether the first is at most the second.
    Le(Box<Expr>, Box<Expr>),
    /// Whether the first is more than the second.
    Gt(Box<Expr>, Box<Expr>),
    /// Whether the first is at least the second.
    Ge(Box<Expr>, Box<Expr>),
    /// Whether a value equals one of these.
    OneOf(Box<Expr>, Vec<Expr>),
    /// Whether all hold: false when one is false, else missing when one is missing.
    And(Vec<Expr>),
    /// Whether one holds: true when one is true, else missing when one is missing.
    Or(Vec<Expr>),
    /// The contrary.
    Not(Box<Expr>),
    /// Whether a value is missing; never missing itself.
    IsMissing(Box<Expr>),
    /// The first that is not missing.
    Coalesce(Vec<Expr>),
    /// The answer of the first condition that holds.
    Case {
        /// Conditions and answers, in order.
        of: Vec<When>,
        /// The answer when none holds; missing when there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        otherwise: Option<Box<Expr>>,
    },
}

impl Expr {
    /// The value of a column.
    pub fn column(name: impl Into<String>) -> Self {
        Self::Column(name.into())
    }
    /// [`Expr::Add`].
    #[must_use]
    pub fn plus(self, other: impl Into<Self>) -> Self {
        Self::Add(self.into(), Box::new(other.into()))
    }
    /// [`Expr::Sub`].
    #[must_use]
    pub fn minus(self, other: impl Into<Self>) -> Self {
        Self::Sub(self.into(), Box::new(other.into()))
    }
    /// [`Expr::Mul`].
    #[must_use]
    pub fn times(self, other: impl Into<Self>) -> Self {
        Self::Mul(self.into(), Box::new(other.into()))
    }
    /// [`Expr::Ratio`].
    #[must_use]
    pub fn over(self, other: impl Into<Self>) -> Self {
        Self::Ratio(self.into(), Box::new(other.into()))
    }
    /// [`Expr::Log1p`].
    #[must_use]
    pub fn log1p(self) -> Self {
        Self::Log1p(self.into())
    }
    /// [`Expr::DatePart`].
    #[must_use]
    pub fn part(self, part: DatePart) -> Self {
        Self::DatePart {
            of: self.into(),
            part,
        }
    }
    /// [`Expr::DaysBefore`].
    #[must_use]
    pub fn days_before(self, as_of: Timestamp) -> Self {
        Self::DaysBefore {
            of: self.into(),
            as_of,
        }
    }
    /// [`Expr::Eq`].
    #[must_use]
    pub fn is(self, other: impl Into<Self>) -> Self {
        Self::Eq(self.into(), Box::new(other.into()))
    }
    /// [`Expr::Lt`].
    #[must_use]
    pub fn below(self, other: impl Into<Self>) -> Self {
        Self::Lt(self.into(), Box::new(other.into()))
    }
    /// [`Expr::Gt`].
    #[must_use]
    pub fn above(self, other: impl Into<Self>) -> Self {
        Self::Gt(self.into(), Box::new(other.into()))
    }
    /// [`Expr::And`] of the two.
    #[must_use]
    pub fn and(self, other: impl Into<Self>) -> Self {
        Self::And(vec![self, other.into()])
    }
    /// [`Expr::Or`] of the two.
    #[must_use]
    pub fn or(self, other: impl Into<Self>) -> Self {
        Self::Or(vec![self, other.into()])
    }
    /// [`Expr::Not`].
    #[must_use]
    pub fn negated(self) -> Self {
        Self::Not(self.into())
    }
    /// [`Expr::IsMissing`].
    #[must_use]
    pub fn is_missing(self) -> Self {
        Self::IsMissing(self.into())
    }
    /// `then` where `when` holds, else `otherwise`.
    pub fn choose(when: impl Into<Self>, then: impl Into<Self>, otherwise: impl Into<Self>) -> Self {
        Self::Case {
            of: vec![When {
                when: when.into(),
                then: then.into(),
            }],
            otherwise: Some(Box::new(otherwise.into())),
        }
    }

    /// The columns it needs, each once, by name.
    pub fn columns(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.collect(&mut names);
        names.sort_unstable();
        names.dedup();
        names
    }

    fn collect<'a>(&'a self, names: &mut Vec<&'a str>) {
        if let Self::Column(name) = self {
            names.push(name);
        }
        self.children().into_iter().for_each(|child| child.collect(names));
    }

    fn children(&self) -> Vec<&Self> {
        match self {
            Self::Column(_)
            | Self::Int(_)
            | Self::Number(_)
            | Self::Text(_)
            | Self::Flag(_)
            | Self::Instant(_) => Vec::new(),
            Self::Add(a, b)
            | Self::Sub(a, b)
            | Self::Mul(a, b)
            | Self::Ratio(a, b)
            | Self::Eq(a, b)
            | Self::Ne(a, b)
            | Self::Lt(a, b)
            | Self::Le(a, b)
            | Self::Gt(a, b)
            | Self::Ge(a, b) => vec![a, b],
            Self::Least(all)
            | Self::Greatest(all)
            | Self::Concat(all)
            | Self::And(all)
            | Self::Or(all)
            | Self::Coalesce(all) => all.iter().collect(),
            Self::Ln(a)
            | Self::Log1p(a)
            | Self::Abs(a)
            | Self::Round(a)
            | Self::Lower(a)
            | Self::Length(a)
            | Self::Contains(a, _)
            | Self::Not(a)
            | Self::IsMissing(a)
            | Self::DatePart { of: a, .. }
            | Self::DaysBefore { of: a, .. } => vec![a],
            Self::OneOf(a, all) => std::iter::once(&**a).chain(all).collect(),
            Self::Case { of, otherwise } => of
                .iter()
                .flat_map(|one| [&one.when, &one.then])
                .chain(otherwise.as_deref())
                .collect(),
        }
    }
}

macro_rules! expr_from {
    ($($from:ty => |$v:ident| $into:expr),* $(,)?) => {$(
        impl From<$from> for Expr {
            fn from($v: $from) -> Self { $into }
        }
    )*};
}
expr_from! {
    bool => |v| Self::Flag(v),
    i64 => |v| Self::Int(v),
    f64 => |v| Self::Number(v),
    &str => |v| Self::Text(v.to_owned()),
    String => |v| Self::Text(v),
    Timestamp => |v| Self::Instant(v),
}
