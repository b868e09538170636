//! Records that belong to another record: a customer's orders, interactions, memberships.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Aggregate, Compare, Filter, Measure, View};
use crate::activity::{INTERACTION, ORDER};
use crate::customer::{AFFILIATION, CONTACT_POINT, EXTERNAL_REF};
use crate::record::{FieldType, Schema, Value};
use crate::segment::SEGMENT_MEMBER;
use crate::{Error, Result, Table, Uuid};

/// Records of one kind that name the record they belong to in a UUID field.
///
/// As data it is the schema's name; only those of this crate ([`Relation::KNOWN`]) can be read back.
///
/// ```
/// use crm_core::query::{Filter, Relation, Span};
///
/// // Ordered at least twice in the last 90 days.
/// let regulars = Filter::at_least(2, Relation::ORDERS, Filter::ago("at", Span::days(90)));
/// let json = serde_json::to_string(&regulars).unwrap();
/// assert_eq!(serde_json::from_str::<Filter>(&json).unwrap(), regulars);
/// ```
#[derive(Clone, Copy)]
pub struct Relation {
    schema: &'static Schema,
    key: &'static str,
}

impl Relation {
    /// A customer's orders.
    pub const ORDERS: Self = Self::new(&ORDER, "customer_id");
    /// A customer's interactions.
    pub const INTERACTIONS: Self = Self::new(&INTERACTION, "customer_id");
    /// A customer's e-mail addresses and phone numbers.
    pub const CONTACT_POINTS: Self = Self::new(&CONTACT_POINT, "customer_id");
    /// A customer's ids in other systems.
    pub const EXTERNAL_REFS: Self = Self::new(&EXTERNAL_REF, "customer_id");
    /// A customer's stored segment memberships.
    pub const MEMBERSHIPS: Self = Self::new(&SEGMENT_MEMBER, "customer_id");
    /// A customer's places in organisations, past and present.
    pub const AFFILIATIONS: Self = Self::new(&AFFILIATION, "customer_id");
    /// Those that can be read back from data.
    pub const KNOWN: [Self; 6] = [
        Self::ORDERS,
        Self::INTERACTIONS,
        Self::CONTACT_POINTS,
        Self::EXTERNAL_REFS,
        Self::MEMBERSHIPS,
        Self::AFFILIATIONS,
    ];

    /// Records of `schema` whose UUID field `key` is the id of the record they belong to.
    pub const fn new(schema: &'static Schema, key: &'static str) -> Self {
        Self { schema, key }
    }

    /// The kind of the related records.
    pub fn schema(&self) -> &'static Schema {
        self.schema
    }

    /// The field that names the record they belong to.
    pub fn key(&self) -> &'static str {
        self.key
    }

    fn validate(&self) -> Result<()> {
        match self.schema.field(self.key) {
            Some((_, field)) if field.ty == FieldType::Uuid => Ok(()),
            _ => Err(
                Error::invalid("a relation needs a UUID field that names the owner")
                    .with("schema", self.schema.name)
                    .with("field", self.key),
            ),
        }
    }
}

impl PartialEq for Relation {
    fn eq(&self, other: &Self) -> bool {
        (self.schema.name, self.key) == (other.schema.name, other.key)
    }
}
impl Eq for Relation {}
impl fmt::Debug for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema.name, self.key)
    }
}
impl Serialize for Relation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.schema.name)
    }
}
impl<'de> Deserialize<'de> for Relation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::KNOWN
            .into_iter()
            .find(|relation| relation.schema.name == name)
            .ok_or_else(|| serde::de::Error::custom("no such kind of related records"))
    }
}

/// A condition on the records related to one: `measure` over those of `relation` that match `filter` compares so with
/// `value`. A count over none is 0; a sum, minimum or maximum over none compares with nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Related {
    /// Which records.
    pub relation: Relation,
    /// Which of them; it cannot have conditions on related records itself.
    pub filter: Box<Filter>,
    /// What is computed over them.
    pub measure: Measure,
    /// The comparison.
    pub op: Compare,
    /// The value on the right.
    pub value: Value,
}

impl Related {
    /// The grouping a store computes to answer it: the owner's id and the measure, under these names.
    pub fn aggregate(&self) -> Aggregate {
        Aggregate::new((*self.filter).clone())
            .by(self.relation.key)
            .measure(MEASURED, self.measure.clone())
    }

    /// Whether a record without any related record that matches fulfils it.
    pub fn holds_for_none(&self) -> bool {
        let none = Value::Int(0);
        match self.measure {
            Measure::Count | Measure::Distinct(_) => View::of(&none)
                .compare(&self.value)
                .is_some_and(|order| self.op.holds(order)),
            _ => false,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        self.relation.validate()?;
        if self.filter.any(&|leaf| matches!(leaf, Filter::Related(_))) {
            return Err(
                Error::invalid("a condition on related records cannot be within another one")
                    .with("schema", self.relation.schema.name),
            );
        }
        let aggregate = self.aggregate();
        aggregate.validate(self.relation.schema)?;
        let ty = aggregate.measure_type(self.relation.schema, &self.measure)?;
        let fits = match (ty, self.value.ty()) {
            (FieldType::Int | FieldType::Float, Some(FieldType::Int | FieldType::Float)) => true,
            (a, Some(b)) => a == b,
            (_, None) => false,
        };
        if fits && !matches!(self.value, Value::Float(float) if float.is_nan()) {
            return Ok(());
        }
        Err(
            Error::invalid("the measure over related records cannot be compared with the value")
                .with("schema", self.relation.schema.name)
                .with("field", "value"),
        )
    }

    /// Reads the answer out of what [`Related::aggregate`] gave.
    pub(crate) fn answer(&self, table: &Table) -> Result<Holds> {
        let (owner, measured) = (table.column(self.relation.key)?, table.column(MEASURED)?);
        let none = self.holds_for_none();
        let mut exceptions = HashSet::new();
        for row in 0..table.rows() {
            let value = measured.value(row);
            let holds = View::of(&value)
                .compare(&self.value)
                .is_some_and(|order| self.op.holds(order));
            if holds != none {
                exceptions.extend(owner.uuid_at(row));
            }
        }
        Ok(Holds { none, exceptions })
    }
}

const MEASURED: &str = "measured";

/// For whom a condition on related records holds.
#[derive(Debug)]
pub(crate) struct Holds {
    none: bool,
    exceptions: HashSet<Uuid>,
}

/// The answers to all conditions on related records of one filter.
#[derive(Debug, Default)]
pub(crate) struct Answers<'f>(Vec<(&'f Related, Holds)>);

impl<'f> Answers<'f> {
    /// Asks `answer` for each condition of `filter`.
    pub(crate) fn of(filter: &'f Filter, answer: &mut dyn FnMut(&Related) -> Result<Table>) -> Result<Self> {
        let mut found = Vec::new();
        filter.each_related(&mut |related| {
            let table = answer(related)?;
            found.push((related, related.answer(&table)?));
            Ok(())
        })?;
        Ok(Self(found))
    }

    /// Answers found elsewhere.
    pub(super) fn given(found: Vec<(&'f Related, Holds)>) -> Self {
        Self(found)
    }

    /// Whether the condition holds for the record of this id; without an answer, as for one without related records.
    pub(crate) fn holds(&self, related: &Related, id: Option<Uuid>) -> bool {
        let found = self.0.iter().find(|(known, _)| std::ptr::eq(*known, related));
        match (found, id) {
            (Some((_, holds)), Some(id)) => holds.none != holds.exceptions.contains(&id),
            _ => related.holds_for_none(),
        }
    }
}
