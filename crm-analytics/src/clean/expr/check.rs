//! What type an expression answers, found before it runs.

use crm_core::record::FieldType;
use crm_core::{Error, Result};

use super::{DEEPEST, Expr};
use crate::clean::type_name;

const NUMBERS: &[FieldType] = &[FieldType::Int, FieldType::Float];
const SHOWN: &[FieldType] = &[
    FieldType::Text,
    FieldType::Int,
    FieldType::Float,
    FieldType::Bool,
    FieldType::Timestamp,
];

impl Expr {
    /// The type it answers, given the types of the columns.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] naming the part that does not fit.
    pub(crate) fn ty(&self, column: &dyn Fn(&str) -> Result<FieldType>) -> Result<FieldType> {
        self.at(column, 0)
    }

    fn at(&self, column: &dyn Fn(&str) -> Result<FieldType>, depth: usize) -> Result<FieldType> {
        if depth > DEEPEST {
            return Err(Error::invalid("an expression is nested too deep").with("most", DEEPEST));
        }
        let of = |part: &Self| part.at(column, depth + 1);
        let wanted = |part: &Self, fits: &[FieldType]| {
            let ty = of(part)?;
            if fits.contains(&ty) {
                return Ok(ty);
            }
            let fits: Vec<&str> = fits.iter().map(|ty| type_name(*ty)).collect();
            Err(
                Error::invalid("a part of the expression has a type this operation cannot work on")
                    .with("operation", self.word())
                    .with("type", type_name(ty))
                    .with("wanted", fits.join(" ")),
            )
        };
        let some = |parts: &[Self]| {
            if parts.is_empty() {
                return Err(Error::invalid("an expression of parts needs at least one")
                    .with("operation", self.word()));
            }
            Ok(())
        };
        let both = |a: FieldType, b: FieldType| match (a, b) {
            (FieldType::Int, FieldType::Int) => FieldType::Int,
            _ => FieldType::Float,
        };
        // One type for all: that of the first, but a float when ints and floats come together.
        let common = |parts: &mut dyn Iterator<Item = &Self>| {
            let mut found = None;
            for part in parts {
                let ty = wanted(part, SHOWN)?;
                found = Some(match found {
                    None => ty,
                    Some(before) if before == ty => ty,
                    Some(before) if NUMBERS.contains(&before) && NUMBERS.contains(&ty) => FieldType::Float,
                    Some(before) => {
                        return Err(Error::invalid(
                            "the parts of the expression have types that do not go together",
                        )
                        .with("operation", self.word())
                        .with("type", type_name(before))
                        .with("other", type_name(ty)));
                    }
                });
            }
            found.ok_or_else(|| {
                Error::invalid("an expression of parts needs at least one").with("operation", self.word())
            })
        };
        Ok(match self {
            Self::Column(name) => {
                let ty = column(name)?;
                if !SHOWN.contains(&ty) {
                    return Err(
                        Error::invalid("a column of this type cannot be part of an expression")
                            .with("column", name)
                            .with("type", type_name(ty)),
                    );
                }
                ty
            }
            Self::Int(_) => FieldType::Int,
            Self::Number(number) if !number.is_finite() => {
                return Err(Error::invalid("a number of an expression is not finite"));
            }
            Self::Number(_) => FieldType::Float,
            Self::Text(_) => FieldType::Text,
            Self::Flag(_) => FieldType::Bool,
            Self::Instant(_) => FieldType::Timestamp,
            Self::Add(a, b) | Self::Sub(a, b) | Self::Mul(a, b) => {
                both(wanted(a, NUMBERS)?, wanted(b, NUMBERS)?)
            }
            Self::Ratio(a, b) => {
                wanted(a, NUMBERS)?;
                wanted(b, NUMBERS)?;
                FieldType::Float
            }
            Self::Least(parts) | Self::Greatest(parts) => {
                for part in parts {
                    wanted(part, NUMBERS)?;
                }
                common(&mut parts.iter())?
            }
            Self::Ln(a) | Self::Log1p(a) | Self::Round(a) => {
                wanted(a, NUMBERS)?;
                FieldType::Float
            }
            Self::Abs(a) => wanted(a, NUMBERS)?,
            Self::DatePart { of, .. } => {
                wanted(of, &[FieldType::Timestamp])?;
                FieldType::Int
            }
            Self::DaysBefore { of, .. } => {
                wanted(of, &[FieldType::Timestamp])?;
                FieldType::Float
            }
            Self::Concat(parts) => {
                some(parts)?;
                for part in parts {
                    wanted(part, SHOWN)?;
                }
                FieldType::Text
            }
            Self::Lower(a) => wanted(a, &[FieldType::Text])?,
            Self::Length(a) => {
                wanted(a, &[FieldType::Text])?;
                FieldType::Int
            }
            Self::Contains(a, _) => {
                wanted(a, &[FieldType::Text])?;
                FieldType::Bool
            }
            Self::Eq(a, b)
            | Self::Ne(a, b)
            | Self::Lt(a, b)
            | Self::Le(a, b)
            | Self::Gt(a, b)
            | Self::Ge(a, b) => {
                common(&mut [&**a, &**b].into_iter())?;
                FieldType::Bool
            }
            Self::OneOf(a, all) => {
                some(all)?;
                common(&mut std::iter::once(&**a).chain(all))?;
                FieldType::Bool
            }
            Self::And(all) | Self::Or(all) => {
                some(all)?;
                for part in all {
                    wanted(part, &[FieldType::Bool])?;
                }
                FieldType::Bool
            }
            Self::Not(a) => wanted(a, &[FieldType::Bool])?,
            Self::IsMissing(a) => {
                wanted(a, SHOWN)?;
                FieldType::Bool
            }
            Self::Coalesce(all) => common(&mut all.iter())?,
            Self::Case { of, otherwise } => {
                for one in of {
                    wanted(&one.when, &[FieldType::Bool])?;
                }
                common(&mut of.iter().map(|one| &one.then).chain(otherwise.as_deref()))?
            }
        })
    }

    /// The operation, as it is written in a plan.
    fn word(&self) -> &'static str {
        match self {
            Self::Column(_) => "column",
            Self::Int(_) => "int",
            Self::Number(_) => "number",
            Self::Text(_) => "text",
            Self::Flag(_) => "flag",
            Self::Instant(_) => "instant",
            Self::Add(..) => "add",
            Self::Sub(..) => "sub",
            Self::Mul(..) => "mul",
            Self::Ratio(..) => "ratio",
            Self::Least(_) => "least",
            Self::Greatest(_) => "greatest",
            Self::Ln(_) => "ln",
            Self::Log1p(_) => "log1p",
            Self::Abs(_) => "abs",
            Self::Round(_) => "round",
            Self::DatePart { .. } => "date_part",
            Self::DaysBefore { .. } => "days_before",
            Self::Concat(_) => "concat",
            Self::Lower(_) => "lower",
            Self::Length(_) => "length",
            Self::Contains(..) => "contains",
            Self::Eq(..) => "eq",
            Self::Ne(..) => "ne",
            Self::Lt(..) => "lt",
            Self::Le(..) => "le",
            Self::Gt(..) => "gt",
            Self::Ge(..) => "ge",
            Self::OneOf(..) => "one_of",
            Self::And(_) => "and",
            Self::Or(_) => "or",
            Self::Not(_) => "not",
            Self::IsMissing(_) => "is_missing",
            Self::Coalesce(_) => "coalesce",
            Self::Case { .. } => "case",
        }
    }
}
