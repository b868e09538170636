//! Filling missing values from groups of rows, or from the rows before.

use crm_core::record::{FieldType, Value};
use crm_core::{Error, Result};
use polars::prelude as pl;
use polars::prelude::{IntoSeries, NamedFrom};

use super::fitted::Op;
use super::frame::{Frame, classify};
use super::rows::Group;
use super::run::exchange;
use super::{CleaningLine, rows};

/// The fills that look at other rows or at groups of them.
pub(super) fn from_rows(
    op: &Op,
    frame: &mut Frame,
    line: impl Fn(&str, &str) -> CleaningLine,
) -> Result<CleaningLine> {
    match op {
        Op::FillForward { column, order, by } => {
            let new = rows::forward(frame, column, order, by)?;
            let ty = frame.ty(column)?;
            exchange(line("fill", column), frame, ty, new)
        }
        Op::FillGroup {
            column,
            by,
            groups,
            otherwise,
        } => {
            let of = rows::group_of(frame, by, groups)?;
            let old = frame.series(column)?;
            let unfit =
                || Error::invalid("a fitted plan fills with an unfitting value").with("column", column);
            let values: Vec<&Value> = of
                .iter()
                .map(|at| {
                    at.and_then(|at| groups.get(at))
                        .map_or(otherwise, |group| &group.value)
                })
                .collect();
            let ty = frame.ty(column)?;
            let (ty, new) = match ty {
                FieldType::Text => {
                    let texts = old.str().map_err(classify)?;
                    let mut new = pl::StringChunkedBuilder::new("filled".into(), old.len());
                    for (old, value) in texts.iter().zip(values) {
                        match (old, value) {
                            (Some(old), _) => new.append_value(old),
                            (None, Value::Text(value)) => new.append_value(value),
                            _ => return Err(unfit()),
                        }
                    }
                    (ty, new.finish().into_series())
                }
                FieldType::Bool => {
                    let fill = |(old, value): (Option<bool>, &&Value)| match (old, value) {
                        (Some(old), _) => Ok(Some(old)),
                        (None, Value::Bool(value)) => Ok(Some(*value)),
                        _ => Err(unfit()),
                    };
                    let old = old.bool().map_err(classify)?;
                    let new = old.iter().zip(&values).map(fill).collect::<Result<Vec<_>>>()?;
                    (ty, pl::Series::new("filled".into(), new))
                }
                // A mean of integers is not one: then the whole column becomes one of floats.
                FieldType::Int if whole(groups, otherwise) => {
                    let fill = |(old, value): (Option<i64>, &&Value)| match (old, value) {
                        (Some(old), _) => Ok(Some(old)),
                        (None, Value::Int(value)) => Ok(Some(*value)),
                        _ => Err(unfit()),
                    };
                    let old = old.i64().map_err(classify)?;
                    let new = old.iter().zip(&values).map(fill).collect::<Result<Vec<_>>>()?;
                    (ty, pl::Series::new("filled".into(), new))
                }
                _ => {
                    let fill = |(old, value): (Option<f64>, &&Value)| {
                        old.or_else(|| value.as_f64()).map(Some).ok_or_else(unfit)
                    };
                    let floats = old.cast(&pl::DataType::Float64).map_err(classify)?;
                    let floats = floats.f64().map_err(classify)?;
                    let new = floats.iter().zip(&values).map(fill).collect::<Result<Vec<_>>>()?;
                    (FieldType::Float, pl::Series::new("filled".into(), new))
                }
            };
            exchange(line("fill", column), frame, ty, new)
        }
        _ => Err(Error::unexpected("a step that fills from rows was expected")),
    }
}

fn whole(groups: &[Group], otherwise: &Value) -> bool {
    groups
        .iter()
        .map(|group| &group.value)
        .chain([otherwise])
        .all(|value| matches!(value, Value::Int(_)))
}
