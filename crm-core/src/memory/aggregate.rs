//! Groups and sums.

use std::collections::{BTreeMap, BTreeSet};

use super::shelf::{Key, Layout, Row};
use crate::query::{Aggregate, GroupBy, Measure, total_order};
use crate::record::{FieldType, Schema, Value};
use crate::table::Column;
use crate::{Error, Result, Table, Uuid};

/// What one measure knows of one group so far.
enum Sum {
    Count(i64),
    Int(Option<i128>),
    Float(Option<f64>),
    Min(Value),
    Max(Value),
    Distinct(BTreeSet<Key>),
}

impl Sum {
    fn new(measure: &Measure, ty: FieldType) -> Self {
        match measure {
            Measure::Count => Self::Count(0),
            Measure::Sum(_) if ty == FieldType::Int => Self::Int(None),
            Measure::Sum(_) => Self::Float(None),
            Measure::Min(_) => Self::Min(Value::Null),
            Measure::Max(_) => Self::Max(Value::Null),
            Measure::Distinct(_) => Self::Distinct(BTreeSet::new()),
        }
    }

    fn add(&mut self, value: &Value) {
        match self {
            Self::Count(n) => *n += 1,
            Self::Int(sum) => {
                if let Some(int) = value.as_int() {
                    *sum = Some(sum.unwrap_or(0) + i128::from(int));
                }
            }
            Self::Float(sum) => {
                if let Some(float) = value.as_f64() {
                    *sum = Some(sum.unwrap_or(0.0) + float);
                }
            }
            _ if value.is_null() => {}
            Self::Min(min) if min.is_null() || total_order(value, min).is_lt() => min.clone_from(value),
            Self::Max(max) if max.is_null() || total_order(value, max).is_gt() => max.clone_from(value),
            Self::Min(_) | Self::Max(_) => {}
            Self::Distinct(seen) => {
                seen.insert(Key(value.clone()));
            }
        }
    }

    fn value(self, measure: &str) -> Result<Value> {
        Ok(match self {
            Self::Count(n) => Value::Int(n),
            Self::Int(sum) => sum
                .map(|sum| {
                    i64::try_from(sum)
                        .map_err(|_| Error::invalid("a sum goes beyond 64 bits").with("measure", measure))
                })
                .transpose()?
                .into(),
            Self::Float(sum) => sum.into(),
            Self::Min(value) | Self::Max(value) => value,
            Self::Distinct(seen) => Value::Int(i64::try_from(seen.len()).unwrap_or(i64::MAX)),
        })
    }
}

fn field_type(schema: &'static Schema, field: &str) -> FieldType {
    if field == "id" {
        FieldType::Uuid
    } else {
        schema.field(field).map_or(FieldType::Int, |(_, f)| f.ty)
    }
}

fn measured(measure: &Measure) -> Option<&str> {
    match measure {
        Measure::Count => None,
        Measure::Sum(f) | Measure::Min(f) | Measure::Max(f) | Measure::Distinct(f) => Some(f),
    }
}

fn column_type(schema: &'static Schema, measure: &Measure) -> FieldType {
    match measure {
        Measure::Count | Measure::Distinct(_) => FieldType::Int,
        Measure::Sum(f) | Measure::Min(f) | Measure::Max(f) => field_type(schema, f),
    }
}

pub(super) fn table(
    schema: &'static Schema,
    layout: &Layout,
    aggregate: &Aggregate,
    rows: &[(Uuid, &Row)],
) -> Result<Table> {
    let fresh = || -> Vec<Sum> {
        let ty = |measure: &Measure| measured(measure).map_or(FieldType::Int, |f| field_type(schema, f));
        aggregate
            .measures
            .iter()
            .map(|(_, measure)| Sum::new(measure, ty(measure)))
            .collect()
    };
    let mut groups: BTreeMap<Vec<Key>, Vec<Sum>> = BTreeMap::new();
    if aggregate.by.is_empty() {
        groups.insert(Vec::new(), fresh());
    }
    for (id, row) in rows {
        let id = Value::Uuid(*id);
        let key = aggregate.by.iter().map(|by| {
            let value = layout.value(&id, row, by.field());
            Key(match by {
                GroupBy::Field(_) => value.clone(),
                GroupBy::Month(_) => value.as_timestamp().map(crate::Timestamp::month).into(),
            })
        });
        let sums = groups.entry(key.collect()).or_insert_with(fresh);
        for (sum, (_, measure)) in sums.iter_mut().zip(&aggregate.measures) {
            sum.add(measured(measure).map_or(&Value::Null, |field| layout.value(&id, row, field)));
        }
    }
    let mut keys = Vec::new();
    for by in &aggregate.by {
        let ty = match by {
            GroupBy::Field(field) => field_type(schema, field),
            GroupBy::Month(_) => FieldType::Text,
        };
        keys.push(Column::empty(by.field(), ty)?);
    }
    let mut measures = Vec::new();
    for (name, measure) in &aggregate.measures {
        measures.push(Column::empty(name.as_str(), column_type(schema, measure))?);
    }
    for (key, sums) in groups {
        keys.iter_mut()
            .zip(key)
            .try_for_each(|(column, key)| column.push(key.0))?;
        for ((column, sum), (name, _)) in measures.iter_mut().zip(sums).zip(&aggregate.measures) {
            column.push(sum.value(name)?)?;
        }
    }
    keys.append(&mut measures);
    Table::new(keys)
}
