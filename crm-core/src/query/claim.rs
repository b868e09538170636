use super::page::check_order;
use super::{Filter, Order};
use crate::record::{FieldType, Schema, Value};
use crate::{Error, Result};

/// Changes one field of a claimed record.
#[derive(Debug, Clone, PartialEq)]
pub enum Assign {
    /// Sets it.
    Set(&'static str, Value),
    /// Adds to an integer; an absent one stays absent.
    Add(&'static str, i64),
}

impl Assign {
    /// The field it changes.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Set(field, _) | Self::Add(field, _) => field,
        }
    }
}

/// Atomically takes up to `limit` due records and marks them, so that no two claimers get the same one: the base of
/// every work queue. The version of each grows by one, and with it fences off who held it before.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Which records are due.
    pub due: Filter,
    /// Which first.
    pub order: Vec<Order>,
    /// How many at most.
    pub limit: u32,
    /// How they are marked.
    pub assign: Vec<Assign>,
}

impl Claim {
    /// Checks filter, order, limit and assignments.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming what is wrong.
    pub fn validate(&self, schema: &'static Schema) -> Result<()> {
        self.due.validate(schema)?;
        check_order(schema, &self.order)?;
        if !(1..=10_000).contains(&self.limit) {
            return Err(Error::invalid("a claim takes 1 to 10,000 records").with("field", "limit"));
        }
        for (i, assign) in self.assign.iter().enumerate() {
            let name = assign.field();
            let wrong = |message: &'static str| {
                Err(Error::invalid(message)
                    .with("schema", schema.name)
                    .with("field", name))
            };
            let Some((_, field)) = schema.field(name) else {
                return wrong("no such field");
            };
            if self.assign.iter().skip(i + 1).any(|other| other.field() == name) {
                return wrong("a field is assigned twice");
            }
            match assign {
                Assign::Set(_, value) => crate::record::check(schema, field, value, field.nullable)?,
                Assign::Add(..) if field.ty != FieldType::Int => {
                    return wrong("only an integer can be added to");
                }
                Assign::Add(..) => {}
            }
        }
        Ok(())
    }
}
