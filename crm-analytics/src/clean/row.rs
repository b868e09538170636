//! One row, cleaned without a table: the same values, to the last bit, in a few microseconds.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crm_core::record::{FieldType, Value};
use crm_core::{Error, ErrorKind, Result};

use super::expr::Cell;
use super::fitted::{FittedCleaning, Op};
use super::rows::{Group, write_key};
use super::{CastTo, OutlierAction, Unknown, Unreadable, read, text, type_name};

/// An operation with the places of its columns.
#[derive(Debug, Clone)]
struct Step {
    op: Op,
    /// The column that is changed.
    at: usize,
    /// Columns that are looked at or made besides: of dummies and indicators those made, of groups and expressions those
    /// looked at.
    more: Vec<usize>,
    /// The type of what is made.
    ty: FieldType,
    groups: HashMap<Box<[u8]>, Value>,
    stays: Option<HashSet<String>>,
}

/// A fitted cleaning made ready for single rows. Made once, asked often.
///
/// ```
/// use crm_analytics::clean::{CleaningPlan, Columns, Fill};
/// use crm_core::{Column, Table, record::Value};
///
/// let table = Table::new(vec![Column::floats("visits", vec![1.0, 3.0])]).unwrap();
/// let cleaned = CleaningPlan::new().fill("visits", Fill::Mean).standardise("visits").fit(&table).unwrap();
/// let rows = cleaned.fitted.rows().unwrap();
/// assert_eq!(rows.clean(&[Value::Null]).unwrap(), Some(vec![Value::Float(0.0)]));
/// ```
#[derive(Debug, Clone)]
pub struct RowCleaner {
    input: Vec<(String, FieldType)>,
    steps: Vec<Step>,
    output: Vec<(String, FieldType, usize)>,
    slots: usize,
}

/// The columns while operations are made ready.
struct Layout {
    columns: Vec<(String, FieldType, usize)>,
    slots: usize,
}

impl Layout {
    fn find(&self, name: &str) -> Result<(usize, FieldType, usize)> {
        let found = self
            .columns
            .iter()
            .enumerate()
            .find(|(_, (other, ..))| other == name);
        found.map(|(at, (_, ty, slot))| (at, *ty, *slot)).ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                "a fitted cleaning changes a column that is not there",
            )
            .with("column", name)
        })
    }

    /// The place of a column that has one of these types, which becomes another one.
    fn change(&mut self, name: &str, fits: &[FieldType], becomes: Option<FieldType>) -> Result<usize> {
        let (at, ty, slot) = self.find(name)?;
        if !fits.contains(&ty) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "a fitted cleaning changes a column of another type",
            )
            .with("column", name)
            .with("type", type_name(ty)));
        }
        if let (Some(becomes), Some(column)) = (becomes, self.columns.get_mut(at)) {
            column.1 = becomes;
        }
        Ok(slot)
    }

    fn fresh(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    fn insert(&mut self, at: usize, name: String, ty: FieldType) -> Result<usize> {
        if self.columns.iter().any(|(other, ..)| *other == name) {
            return Err(
                Error::new(ErrorKind::Corrupt, "a fitted cleaning makes a column twice").with("column", name),
            );
        }
        let slot = self.fresh();
        self.columns.insert(at.min(self.columns.len()), (name, ty, slot));
        Ok(slot)
    }
}

const TEXT: &[FieldType] = &[FieldType::Text];
const NUMBERS: &[FieldType] = &[FieldType::Int, FieldType::Float];
const KEYS: &[FieldType] = super::rows::KEYS;

impl FittedCleaning {
    /// Makes it ready for single rows.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when a step looks at other rows ([`FittedCleaning::is_row_wise`]);
    /// [`ErrorKind::Corrupt`] when it is not as it was fitted.
    pub fn rows(&self) -> Result<RowCleaner> {
        self.ready().map_err(|error| error.operation("clean.rows"))
    }

    fn ready(&self) -> Result<RowCleaner> {
        let mut layout = Layout {
            columns: Vec::new(),
            slots: 0,
        };
        for (at, (name, ty)) in self.input.iter().enumerate() {
            layout.insert(at, name.clone(), *ty)?;
        }
        let mut steps = Vec::with_capacity(self.ops.len());
        for op in &self.ops {
            steps.extend(step(op, &mut layout)?);
        }
        Ok(RowCleaner {
            input: self.input.clone(),
            steps,
            output: layout.columns,
            slots: layout.slots,
        })
    }
}

/// An operation made ready; `None` for one that only moves names.
fn step(op: &Op, layout: &mut Layout) -> Result<Option<Step>> {
    let mut ready = Step {
        op: op.clone(),
        at: 0,
        more: Vec::new(),
        ty: FieldType::Text,
        groups: HashMap::new(),
        stays: None,
    };
    match op {
        Op::Fill { column, value } => {
            let becomes = matches!(value, Value::Float(_)).then_some(FieldType::Float);
            ready.at = layout.change(column, KEYS, becomes)?;
        }
        Op::Trim { column }
        | Op::Case { column, .. }
        | Op::Squeeze { column }
        | Op::Unicode { column, .. }
        | Op::Email { column, .. }
        | Op::Phone { column, .. } => ready.at = layout.change(column, TEXT, None)?,
        Op::Fold { column, keep, .. } => {
            ready.at = layout.change(column, TEXT, None)?;
            ready.stays = keep.as_ref().map(|keep| keep.iter().cloned().collect());
        }
        Op::Number { column, .. } => ready.at = layout.change(column, TEXT, Some(FieldType::Float))?,
        Op::Date { column, .. } => ready.at = layout.change(column, TEXT, Some(FieldType::Timestamp))?,
        Op::Cast { column, to } => {
            let becomes = match to {
                CastTo::Float => FieldType::Float,
                CastTo::Int => FieldType::Int,
                CastTo::Text => FieldType::Text,
                CastTo::Bool => FieldType::Bool,
                CastTo::Timestamp => FieldType::Timestamp,
            };
            ready.at = layout.change(column, KEYS, Some(becomes))?;
        }
        Op::Clip { column, .. } | Op::Log1p { column } | Op::Scale { column, .. } => {
            ready.at = layout.change(column, NUMBERS, Some(FieldType::Float))?;
        }
        Op::Outliers { column, action, .. } => {
            let becomes = (*action == OutlierAction::Clip).then_some(FieldType::Float);
            ready.at = layout.change(column, NUMBERS, becomes)?;
        }
        Op::FillGroup {
            column,
            by,
            groups,
            otherwise,
        } => {
            let (_, ty, _) = layout.find(column)?;
            let whole = groups
                .iter()
                .map(|group| &group.value)
                .chain([otherwise])
                .all(|value| matches!(value, Value::Int(_)));
            let becomes = match ty {
                FieldType::Text | FieldType::Bool => ty,
                FieldType::Int if whole => ty,
                _ => FieldType::Float,
            };
            for name in by {
                ready.more.push(layout.find(name)?.2);
            }
            ready.at = layout.change(column, KEYS, Some(becomes))?;
            ready.ty = becomes;
            for Group { key, value } in groups {
                let mut bytes = Vec::new();
                write_key(
                    key.iter().map(|part| part.as_deref().map(Cow::Borrowed)),
                    &mut bytes,
                );
                ready.groups.insert(bytes.into_boxed_slice(), value.clone());
            }
        }
        Op::Dummies {
            column,
            categories,
            other,
            missing,
            ..
        } => {
            let (at, _, _) = layout.find(column)?;
            ready.at = layout.change(column, KEYS, None)?;
            layout.columns.remove(at);
            let made = categories.iter().map(|one| format!("{column}_{one}"));
            let made = made
                .chain(other.then(|| format!("{column}_other")))
                .chain(missing.then(|| format!("{column}_missing")));
            for (offset, name) in made.enumerate() {
                ready
                    .more
                    .push(layout.insert(at + offset, name, FieldType::Bool)?);
            }
        }
        Op::Indicate { column } => {
            let (at, _, slot) = layout.find(column)?;
            ready.at = slot;
            let made = layout.insert(at + 1, format!("{column}_missing"), FieldType::Bool)?;
            ready.more.push(made);
        }
        Op::Derive { column, from } => {
            ready.ty = from.ty(&|name| layout.find(name).map(|(_, ty, _)| ty))?;
            for name in from.columns() {
                ready.more.push(layout.find(name)?.2);
            }
            let known = layout.columns.iter().any(|(name, ..)| name == column);
            ready.at = match known {
                true => layout.change(column, KEYS, Some(ready.ty))?,
                false => layout.insert(usize::MAX, column.clone(), ready.ty)?,
            };
        }
        Op::KeepRows { when } => {
            for name in when.columns() {
                ready.more.push(layout.find(name)?.2);
            }
        }
        Op::Drop { column } => {
            let (at, ..) = layout.find(column)?;
            layout.columns.remove(at);
            return Ok(None);
        }
        Op::Rename { from, to } => {
            let (at, ..) = layout.find(from)?;
            if layout.columns.iter().any(|(name, ..)| name == to) {
                return Err(Error::new(ErrorKind::Corrupt, "the new name is taken").with("to", to));
            }
            if let Some(column) = layout.columns.get_mut(at) {
                column.0.clone_from(to);
            }
            return Ok(None);
        }
        Op::FillForward { column, .. } => {
            return Err(unsupported("fill forward").with("column", column));
        }
        Op::Deduplicate { by, .. } => {
            return Err(unsupported("deduplicate").with("column", by.join(" ")));
        }
    }
    Ok(Some(ready))
}

fn unsupported(step: &'static str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "a step looks at other rows: single rows cannot be cleaned so; leave it out of what is kept with a model",
    )
    .with("step", step)
}

impl RowCleaner {
    /// The columns a row has, in the order of its values.
    pub fn input(&self) -> impl Iterator<Item = (&str, FieldType)> {
        self.input.iter().map(|(name, ty)| (name.as_str(), *ty))
    }

    /// The columns a cleaned row has, in the order of its values.
    pub fn output(&self) -> impl Iterator<Item = (&str, FieldType)> {
        self.output.iter().map(|(name, ty, _)| (name.as_str(), *ty))
    }

    /// Where the cells of these columns are; `None` naming the first that is not there with its type.
    pub(crate) fn places<'n>(
        &self,
        wanted: impl Iterator<Item = (&'n str, FieldType)>,
    ) -> Result<Vec<usize>, String> {
        wanted
            .map(|(name, ty)| {
                let found = self
                    .output
                    .iter()
                    .find(|(other, of, _)| other == name && *of == ty);
                found.map(|(.., slot)| *slot).ok_or_else(|| name.to_owned())
            })
            .collect()
    }

    /// Cleans one row; `None` when the cleaning leaves it out.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the number of values or a type is wrong, or as [`FittedCleaning::apply`].
    pub fn clean(&self, values: &[Value]) -> Result<Option<Vec<Value>>> {
        let Some(mut cells) = self.cells(values)? else {
            return Ok(None);
        };
        let value = |(name, ty, slot): &(String, FieldType, usize)| {
            if *ty == FieldType::Uuid {
                // Passed through: its place never moves.
                let _ = name;
                return values.get(*slot).cloned().unwrap_or(Value::Null);
            }
            let cell = cells
                .get_mut(*slot)
                .map(|cell| std::mem::replace(cell, Cell::Null));
            cell.map_or(Value::Null, Cell::value)
        };
        Ok(Some(self.output.iter().map(value).collect()))
    }

    /// The cells of a cleaned row, by their places; `None` when the cleaning leaves the row out.
    pub(crate) fn cells<'a>(&'a self, values: &'a [Value]) -> Result<Option<Vec<Cell<'a>>>> {
        if values.len() != self.input.len() {
            return Err(
                Error::invalid("a row has another number of values than was fitted")
                    .operation("clean.row")
                    .with("values", values.len())
                    .with("wanted", self.input.len()),
            );
        }
        let mut cells = Vec::with_capacity(self.slots);
        for (value, (name, ty)) in values.iter().zip(&self.input) {
            if value.ty().is_some_and(|found| found != *ty) {
                return Err(
                    Error::invalid("a value has another type than when the plan was fitted")
                        .operation("clean.row")
                        .with("column", name)
                        .with("wanted", type_name(*ty)),
                );
            }
            cells.push(Cell::of(value));
        }
        cells.resize_with(self.slots, || Cell::Null);
        for step in &self.steps {
            if !step
                .run(&mut cells)
                .map_err(|error| error.operation("clean.row"))?
            {
                return Ok(None);
            }
        }
        Ok(Some(cells))
    }
}

/// Text changed by a function of ours; `None` makes it missing.
fn change<'a>(cell: Cell<'a>, change: impl for<'t> Fn(&'t str) -> Option<Cow<'t, str>>) -> Cell<'a> {
    match cell {
        Cell::Text(Cow::Borrowed(text)) => change(text).map_or(Cell::Null, Cell::Text),
        Cell::Text(Cow::Owned(text)) => {
            change(&text).map_or(Cell::Null, |new| Cell::Text(Cow::Owned(new.into_owned())))
        }
        other => other,
    }
}

/// Text in canonical form; what cannot be read goes or stays.
fn canonical<'a>(cell: Cell<'a>, unreadable: Unreadable, read: impl Fn(&str) -> Option<String>) -> Cell<'a> {
    let Cell::Text(text) = cell else { return cell };
    match (read(&text), unreadable) {
        (Some(canonical), _) => Cell::Text(Cow::Owned(canonical)),
        (None, Unreadable::Keep) => Cell::Text(text),
        (None, Unreadable::Missing) => Cell::Null,
    }
}

/// A number as a float; all else is missing.
fn float(cell: &Cell<'_>) -> Option<f64> {
    match cell {
        Cell::Bool(flag) => Some(f64::from(u8::from(*flag))),
        other => other.as_f64(),
    }
}

fn cast(cell: Cell<'_>, to: CastTo) -> Cell<'_> {
    match (to, cell) {
        (_, Cell::Null) => Cell::Null,
        (CastTo::Float, Cell::Text(text)) => text::float(&text).map_or(Cell::Null, Cell::Float),
        (CastTo::Float, cell) => float(&cell).map_or(Cell::Null, Cell::Float),
        (CastTo::Int, Cell::Text(text)) => text::int(&text).map_or(Cell::Null, Cell::Int),
        (CastTo::Int, Cell::Float(v)) => text::whole(v).map_or(Cell::Null, Cell::Int),
        (CastTo::Int, Cell::Bool(flag)) => Cell::Int(i64::from(flag)),
        (CastTo::Int, cell) => cell,
        (CastTo::Timestamp, Cell::Text(text)) => text::time(&text).map_or(Cell::Null, Cell::Time),
        (CastTo::Timestamp, cell) => cell,
        (CastTo::Bool, Cell::Text(text)) => text::flag(&text).map_or(Cell::Null, Cell::Bool),
        (CastTo::Bool, Cell::Int(v)) => match v {
            0 | 1 => Cell::Bool(v == 1),
            _ => Cell::Null,
        },
        (CastTo::Bool, cell) => cell,
        (CastTo::Text, Cell::Float(v)) => Cell::Text(Cow::Owned(text::number(v))),
        (CastTo::Text, cell) => cell.shown().map_or(Cell::Null, Cell::Text),
    }
}

impl Step {
    /// Runs on one row; false when the row is left out.
    fn run<'a>(&'a self, cells: &mut [Cell<'a>]) -> Result<bool> {
        let mut take = || match cells.get_mut(self.at) {
            Some(cell) => std::mem::replace(cell, Cell::Null),
            None => Cell::Null,
        };
        let new = match &self.op {
            Op::Fill { value, .. } => match (take(), value) {
                (cell, Value::Float(with)) => Cell::Float(float(&cell).unwrap_or(*with)),
                (Cell::Null, value) => Cell::of(value),
                (cell, _) => cell,
            },
            Op::Trim { .. } => change(take(), text::trim),
            Op::Case { to, .. } => {
                let to = *to;
                change(take(), move |text| Some(text::case(text, to)))
            }
            Op::Squeeze { .. } => change(take(), text::squeeze),
            Op::Unicode { form, .. } => {
                let form = *form;
                change(take(), move |text| Some(text::normal(text, form)))
            }
            Op::Email { unreadable, .. } => canonical(take(), *unreadable, text::email),
            Op::Phone {
                region, unreadable, ..
            } => canonical(take(), *unreadable, |text| text::phone(text, region.as_deref())),
            Op::Number { decimal, .. } => match take() {
                Cell::Text(text) => read::number(&text, *decimal).map_or(Cell::Null, Cell::Float),
                _ => Cell::Null,
            },
            Op::Date { order, .. } => match take() {
                Cell::Text(text) => read::instant(&text, *order).map_or(Cell::Null, Cell::Time),
                _ => Cell::Null,
            },
            Op::Fold { synonyms, other, .. } => match take() {
                Cell::Text(text) => {
                    let text = match synonyms.get(&*text) {
                        Some(synonym) => Cow::Borrowed(synonym.as_str()),
                        None => text,
                    };
                    match &self.stays {
                        Some(stays) if !stays.contains(&*text) => Cell::Text(Cow::Borrowed(other)),
                        _ => Cell::Text(text),
                    }
                }
                cell => cell,
            },
            Op::Cast { to, .. } => cast(take(), *to),
            Op::Clip { low, high, .. } => float(&take()).map_or(Cell::Null, |v| {
                let v = low.map_or(v, |low| if v < low { low } else { v });
                Cell::Float(high.map_or(v, |high| if v > high { high } else { v }))
            }),
            Op::Log1p { column } => match float(&take()) {
                Some(v) if v <= -1.0 => {
                    return Err(
                        Error::invalid("log1p needs numbers above -1; clip the column first")
                            .with("column", column),
                    );
                }
                v => v.map_or(Cell::Null, |v| Cell::Float(v.ln_1p())),
            },
            Op::Scale { mean, deviation, .. } => float(&take()).map_or(Cell::Null, |v| {
                let constant = *deviation <= 1e-12 * mean.abs();
                Cell::Float(if constant { 0.0 } else { (v - mean) / deviation })
            }),
            Op::Outliers {
                low, high, action, ..
            } => {
                let cell = take();
                let (below, above) = (
                    |v: f64| low.is_some_and(|low| v < low),
                    |v: f64| high.is_some_and(|high| v > high),
                );
                let value = float(&cell);
                let outside = value.is_some_and(|v| below(v) || above(v));
                match action {
                    OutlierAction::Clip => value.map_or(Cell::Null, |v| {
                        let v = low.map_or(v, |low| if v < low { low } else { v });
                        Cell::Float(high.map_or(v, |high| if v > high { high } else { v }))
                    }),
                    OutlierAction::Blank if outside => Cell::Null,
                    OutlierAction::Blank => cell,
                    OutlierAction::DropRows if outside => return Ok(false),
                    OutlierAction::DropRows => cell,
                }
            }
            Op::FillGroup {
                column, otherwise, ..
            } => {
                let filled = match take() {
                    Cell::Null => {
                        let mut key = Vec::new();
                        write_key(
                            self.more
                                .iter()
                                .map(|slot| cells.get(*slot).cloned().and_then(Cell::shown)),
                            &mut key,
                        );
                        Cell::of(self.groups.get(key.as_slice()).unwrap_or(otherwise))
                    }
                    cell => cell,
                };
                match (self.ty, filled) {
                    (FieldType::Float, cell) => float(&cell).map_or(Cell::Null, Cell::Float),
                    (FieldType::Text, cell @ Cell::Text(_))
                    | (FieldType::Bool, cell @ Cell::Bool(_))
                    | (FieldType::Int, cell @ Cell::Int(_)) => cell,
                    _ => {
                        return Err(Error::invalid("a fitted plan fills with an unfitting value")
                            .with("column", column));
                    }
                }
            }
            Op::Dummies {
                column,
                categories,
                first,
                other,
                missing,
                unknown,
            } => {
                let text = take().shown();
                let at = text
                    .as_deref()
                    .and_then(|text| categories.iter().position(|one| one == text));
                let known = at.is_some() || text.as_deref() == first.as_deref();
                let strange = text.is_some() && !known;
                if strange && *unknown == Unknown::Refuse {
                    return Err(Error::invalid(
                        "a category that was not there when the plan was fitted; fold it, or accept unknown ones",
                    )
                    .with("column", column));
                }
                for (place, slot) in self.more.iter().enumerate() {
                    let is = match place.checked_sub(categories.len()) {
                        None => at == Some(place),
                        Some(0) if *other => strange,
                        Some(_) => *missing && text.is_none(),
                    };
                    if let Some(cell) = cells.get_mut(*slot) {
                        *cell = Cell::Bool(is);
                    }
                }
                Cell::Null
            }
            Op::Indicate { .. } => {
                let cell = take();
                if let Some(made) = self.more.first().and_then(|slot| cells.get_mut(*slot)) {
                    *made = Cell::Bool(cell.is_null());
                }
                cell
            }
            Op::Derive { from, .. } => {
                let names = from.columns();
                from.one(self.ty, &|name| self.look(&names, name, cells))?
            }
            Op::KeepRows { when } => {
                let names = when.columns();
                let holds = when.one(FieldType::Bool, &|name| self.look(&names, name, cells))?;
                return Ok(holds == Cell::Bool(true));
            }
            Op::Drop { .. } | Op::Rename { .. } | Op::FillForward { .. } | Op::Deduplicate { .. } => {
                return Err(Error::unexpected("a step that single rows have no use for"));
            }
        };
        if let Some(cell) = cells.get_mut(self.at) {
            *cell = new;
        }
        Ok(true)
    }

    /// A column of an expression.
    fn look<'a>(&self, names: &[&str], name: &str, cells: &[Cell<'a>]) -> Result<Cell<'a>> {
        let slot = names
            .iter()
            .position(|other| *other == name)
            .and_then(|at| self.more.get(at));
        slot.and_then(|slot| cells.get(*slot))
            .cloned()
            .ok_or_else(|| Error::unexpected("an expression lost its column").with("column", name))
    }
}
