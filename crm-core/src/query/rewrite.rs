//! Filters made of filters: shorthands for conditions on related records, and what stores do not know put in words they
//! know.

use super::{Compare, FieldRef, Filter, Measure, Related, Relation, Span};
use crate::record::Value;
use crate::{Result, Timestamp, Uuid};

impl Filter {
    /// The JSON array at `field` has this text among its items: `Filter::has("tags", "vip")`.
    pub fn has(field: impl Into<FieldRef>, text: impl Into<String>) -> Self {
        Self::Has {
            field: field.into(),
            text: text.into(),
        }
    }

    /// At least `count` related records match.
    pub fn at_least(count: i64, relation: Relation, filter: Self) -> Self {
        Self::related(relation, filter, Measure::Count, Compare::Ge, count)
    }

    /// No related record matches.
    pub fn none_of(relation: Relation, filter: Self) -> Self {
        Self::related(relation, filter, Measure::Count, Compare::Eq, 0_i64)
    }

    /// `measure` over the related records that match compares so with `value`.
    pub fn related(
        relation: Relation,
        filter: Self,
        measure: Measure,
        op: Compare,
        value: impl Into<Value>,
    ) -> Self {
        Self::Related(Related {
            relation,
            filter: Box::new(filter),
            measure,
            op,
            value: value.into(),
        })
    }

    /// The timestamp lies within the last `span`, or in the future.
    pub fn ago(field: impl Into<FieldRef>, span: Span) -> Self {
        Self::Ago {
            field: field.into(),
            op: Compare::Ge,
            span,
        }
    }

    /// The timestamp lies longer ago than `span`.
    pub fn before(field: impl Into<FieldRef>, span: Span) -> Self {
        Self::Ago {
            field: field.into(),
            op: Compare::Lt,
            span,
        }
    }

    /// Whether a condition in it, also one on related records, is `wanted`.
    pub fn any(&self, wanted: &dyn Fn(&Self) -> bool) -> bool {
        wanted(self)
            || match self {
                Self::And(all) | Self::Or(all) => all.iter().any(|filter| filter.any(wanted)),
                Self::Not(filter) => filter.any(wanted),
                Self::Related(related) => related.filter.any(wanted),
                _ => false,
            }
    }

    /// Whether what matches changes as time goes by.
    pub fn depends_on_time(&self) -> bool {
        self.any(&|filter| matches!(filter, Self::Ago { .. }))
    }

    pub(super) fn each_related<'f>(&'f self, take: &mut dyn FnMut(&'f Related) -> Result<()>) -> Result<()> {
        match self {
            Self::And(all) | Self::Or(all) => all.iter().try_for_each(|filter| filter.each_related(take)),
            Self::Not(filter) => filter.each_related(take),
            Self::Related(related) => take(related),
            _ => Ok(()),
        }
    }

    /// The same filter with every [`Filter::Ago`] counted back from `now`.
    ///
    /// ```
    /// use crm_core::Timestamp;
    /// use crm_core::query::{Filter, Span};
    ///
    /// let now = Timestamp::from_ymd(2026, 4, 1).unwrap();
    /// let recent = Filter::ago("created_at", Span::months(1)).at(now);
    /// assert_eq!(recent, Filter::ge("created_at", Timestamp::from_ymd(2026, 3, 1).unwrap()));
    /// ```
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Self {
        // Nothing in it can fail.
        self.rewritten(&mut |leaf| {
            Ok(match leaf {
                Self::Ago { field, op, span } => Some(Self::Is {
                    field: field.clone(),
                    op: *op,
                    value: span.before(now).into(),
                }),
                _ => None,
            })
        })
        .unwrap_or_else(|_: crate::Error| self.clone())
    }

    /// The same filter with every [`Filter::InSegment`] replaced by what `definition` answers for the segment.
    ///
    /// # Errors
    /// Those of `definition`.
    pub fn expand(&self, definition: &mut dyn FnMut(Uuid) -> Result<Self>) -> Result<Self> {
        self.rewritten(&mut |leaf| match leaf {
            Self::InSegment(segment) => definition(*segment).map(Some),
            _ => Ok(None),
        })
    }

    /// Replaces the conditions for which `replace` has something else.
    fn rewritten(&self, replace: &mut dyn FnMut(&Self) -> Result<Option<Self>>) -> Result<Self> {
        if let Some(other) = replace(self)? {
            return Ok(other);
        }
        let mut all = |filters: &[Self]| {
            filters
                .iter()
                .map(|filter| filter.rewritten(replace))
                .collect::<Result<Vec<_>>>()
        };
        Ok(match self {
            Self::And(filters) => Self::And(all(filters)?),
            Self::Or(filters) => Self::Or(all(filters)?),
            Self::Not(filter) => Self::Not(Box::new(filter.rewritten(replace)?)),
            Self::Related(related) => Self::Related(Related {
                filter: Box::new(related.filter.rewritten(replace)?),
                ..related.clone()
            }),
            leaf => leaf.clone(),
        })
    }
}
