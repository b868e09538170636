//! Which part of a question the store behind can answer.

use std::sync::Arc;

use crm_core::capability::DataKey;
use crm_core::query::{Compare, FieldRef, Filter, Related, Relation};
use crm_core::record::{FieldType, Schema, Value};
use crm_core::{Result, Uuid};

use super::blind::BlindKey;
use super::plan::{Column, Plan};

/// A filter on encrypted records, in words of the store behind.
pub(super) struct Pushed {
    pub(super) filter: Filter,
    /// It means the same. Otherwise it lets through more, and what comes has to be decided again after decryption.
    pub(super) exact: bool,
}

/// What may stand for a condition that cannot be said: more than it, or less.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    More,
    Less,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::More => Self::Less,
            Self::Less => Self::More,
        }
    }
}

/// Puts filters in words of the store behind.
pub(super) struct Pusher<'a> {
    /// The tenant's index key; without one, nothing was ever written that an index could find.
    pub(super) index_key: Option<&'a DataKey>,
    /// How other schemas are encrypted.
    pub(super) plan_of: &'a (dyn Fn(&'static Schema) -> Result<Arc<Plan>> + Sync),
}

fn exact(filter: Filter) -> Pushed {
    Pushed { filter, exact: true }
}

fn nothing() -> Filter {
    Filter::Or(Vec::new())
}

/// A condition that no value decides without decryption, and that no absent value fulfils.
fn needs_presence(field: &FieldRef, side: Side) -> Pushed {
    let filter = match side {
        Side::More => !Filter::null(field.field.as_str()),
        Side::Less => nothing(),
    };
    Pushed { filter, exact: false }
}

impl Pusher<'_> {
    /// The narrowest filter the store behind can answer that misses nothing.
    pub(super) fn push(&self, plan: &Plan, filter: &Filter) -> Result<Pushed> {
        self.side(plan, filter, Side::More)
    }

    fn side(&self, plan: &Plan, filter: &Filter, side: Side) -> Result<Pushed> {
        let sealed = |field: &FieldRef| plan.column(&field.field).filter(|column| column.sealed).copied();
        match filter {
            Filter::And(all) => {
                let (filters, exact) = self.each(plan, all, side)?;
                let filter = Filter::And(filters);
                Ok(Pushed { filter, exact })
            }
            Filter::Or(any) => {
                let (filters, exact) = self.each(plan, any, side)?;
                let filter = Filter::Or(filters);
                Ok(Pushed { filter, exact })
            }
            Filter::Not(inner) => {
                let Pushed { filter, exact } = self.side(plan, inner, side.other())?;
                Ok(Pushed {
                    filter: !filter,
                    exact,
                })
            }
            Filter::Related(related) => self.related(related, side),
            Filter::Is { field, op, value } => Ok(match sealed(field) {
                None => exact(filter.clone()),
                Some(column) => match (op, self.blind(plan, &column, field)) {
                    (Compare::Eq, Some(blind)) => exact(blind.equal(std::slice::from_ref(value))),
                    (Compare::Ne, Some(blind)) => {
                        let other = !blind.equal(std::slice::from_ref(value));
                        exact((!Filter::null(column.field.name)).and(other))
                    }
                    _ => needs_presence(field, side),
                },
            }),
            Filter::In { field, values } => Ok(match sealed(field) {
                None => exact(filter.clone()),
                Some(column) => match self.blind(plan, &column, field) {
                    Some(blind) => exact(blind.equal(values)),
                    None => needs_presence(field, side),
                },
            }),
            Filter::Prefix { field, .. } | Filter::Contains { field, .. } | Filter::Has { field, .. } => {
                Ok(match sealed(field) {
                    None => exact(filter.clone()),
                    Some(_) => needs_presence(field, side),
                })
            }
            Filter::Null { field } if sealed(field).is_some() && !field.path.is_empty() => Ok(Pushed {
                // Below an absent document everything is absent; below others, who knows.
                filter: match side {
                    Side::More => Filter::All,
                    Side::Less => Filter::null(field.field.as_str()),
                },
                exact: false,
            }),
            // Whether a field is absent is not encrypted. The last two are put in other words before they come here.
            Filter::All | Filter::Null { .. } | Filter::Ago { .. } | Filter::InSegment(_) => {
                Ok(exact(filter.clone()))
            }
        }
    }

    fn each(&self, plan: &Plan, filters: &[Filter], side: Side) -> Result<(Vec<Filter>, bool)> {
        let mut out = Vec::with_capacity(filters.len());
        let mut all_exact = true;
        for filter in filters {
            let Pushed { filter, exact } = self.side(plan, filter, side)?;
            all_exact &= exact;
            out.push(filter);
        }
        Ok((out, all_exact))
    }

    fn related(&self, related: &Related, side: Side) -> Result<Pushed> {
        let theirs = (self.plan_of)(related.relation.schema())?;
        let key = related.relation.key();
        let open = !theirs.is_sealed(key)
            && related
                .measure
                .field()
                .is_none_or(|field| !theirs.is_sealed(field));
        let inner = self.side(&theirs, &related.filter, Side::More)?;
        if open && inner.exact {
            return Ok(exact(Filter::Related(Related {
                relation: Relation::new(theirs.physical, key),
                filter: Box::new(inner.filter),
                ..related.clone()
            })));
        }
        let filter = match side {
            Side::More => Filter::All,
            Side::Less => nothing(),
        };
        Ok(Pushed { filter, exact: false })
    }

    fn blind(&self, plan: &Plan, column: &Column, field: &FieldRef) -> Option<Blind> {
        let name = column.blind.filter(|_| field.path.is_empty())?;
        Some(Blind {
            name,
            ty: column.field.ty,
            key: self
                .index_key
                .map(|root| BlindKey::new(root, plan.logical.name, column.field.name)),
        })
    }
}

struct Blind {
    name: &'static str,
    ty: FieldType,
    key: Option<BlindKey>,
}

impl Blind {
    fn equal(&self, values: &[Value]) -> Filter {
        let Some(key) = &self.key else { return nothing() };
        let found: Vec<Uuid> = values.iter().filter_map(|value| key.of(value, self.ty)).collect();
        match <[Uuid; 1]>::try_from(found) {
            Ok([one]) => Filter::eq(self.name, one),
            Err(found) if found.is_empty() => nothing(),
            Err(found) => Filter::one_of(self.name, found),
        }
    }
}
