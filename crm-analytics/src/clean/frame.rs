//! The bridge between a `Table` and a Polars frame. No Polars type leaves this folder.

use std::borrow::Cow;

use crm_core::record::FieldType;
use crm_core::table::{ColumnData, TextData};
use crm_core::{Column, Error, Result, Table};
use polars::prelude as pl;
use polars::prelude::{IntoSeries, NamedFrom, NewChunkedArray};

use super::type_name;

/// A table on its way through the steps: Polars columns, and UUIDs kept aside.
pub(super) struct Frame {
    data: pl::DataFrame,
    columns: Vec<(String, FieldType)>,
    aside: Vec<Column>,
    /// Where the rows that are left stood before; `None` while all are.
    kept: Option<Vec<usize>>,
}

/// What Polars says when it cannot: its message may hold values, so that only the place is kept.
pub(super) fn classify(_: pl::PolarsError) -> Error {
    Error::unexpected("the column engine refused a checked step; please report it").operation("clean.run")
}

/// A column as a series; without the detour over options where nothing is missing.
fn series_of<'a, T: Copy>(name: pl::PlSmallStr, values: &'a [T], column: &'a Column) -> pl::Series
where
    pl::Series: NamedFrom<&'a [T], [T]> + NamedFrom<Vec<Option<T>>, [Option<T>]>,
{
    if column.missing() == 0 {
        <pl::Series as NamedFrom<&'a [T], [T]>>::new(name, values)
    } else {
        <pl::Series as NamedFrom<Vec<Option<T>>, [Option<T>]>>::new(name, present(values, column).collect())
    }
}

fn present<'a, T: Copy>(values: &'a [T], column: &'a Column) -> impl Iterator<Item = Option<T>> + 'a {
    values
        .iter()
        .enumerate()
        .map(|(row, value)| column.is_valid(row).then_some(*value))
}

impl Frame {
    pub(super) fn read(table: &Table) -> Result<Self> {
        let mut data = Vec::new();
        let mut columns = Vec::new();
        let mut aside = Vec::new();
        for column in table.columns() {
            columns.push((column.name().to_owned(), column.ty()));
            let name = column.name().into();
            let series = match column.data() {
                ColumnData::Bool(v) => series_of(name, v, column),
                ColumnData::Int(v) | ColumnData::Timestamp(v) => series_of(name, v, column),
                ColumnData::Float(v) if !v.iter().any(|v| v.is_nan()) => series_of(name, v, column),
                ColumnData::Float(v) => {
                    let finite = |v: Option<f64>| v.filter(|v| !v.is_nan());
                    pl::Series::new(name, present(v, column).map(finite).collect::<Vec<_>>())
                }
                ColumnData::Text(v) => {
                    let texts = v
                        .iter()
                        .enumerate()
                        .map(|(row, text)| column.is_valid(row).then_some(text));
                    pl::Series::new(name, texts.collect::<Vec<_>>())
                }
                ColumnData::Uuid(_) => {
                    aside.push(column.clone());
                    continue;
                }
            };
            data.push(series.into());
        }
        let data = pl::DataFrame::new(table.rows(), data).map_err(classify)?;
        Ok(Self {
            data,
            columns,
            aside,
            kept: None,
        })
    }

    pub(super) fn write(mut self) -> Result<Table> {
        let mut table = Table::default();
        for (name, ty) in std::mem::take(&mut self.columns) {
            if ty == FieldType::Uuid {
                if let Some(at) = self.aside.iter().position(|column| column.name() == name) {
                    table.push(self.aside.swap_remove(at))?;
                }
                continue;
            }
            let series = self.series(&name)?;
            let valid: Vec<bool> = series.is_not_null().iter().map(|v| v.unwrap_or(false)).collect();
            let data = match ty {
                FieldType::Bool => ColumnData::Bool(
                    series
                        .bool()
                        .map_err(classify)?
                        .iter()
                        .map(Option::unwrap_or_default)
                        .collect(),
                ),
                FieldType::Float => ColumnData::Float(
                    series
                        .f64()
                        .map_err(classify)?
                        .iter()
                        .map(Option::unwrap_or_default)
                        .collect(),
                ),
                FieldType::Text => {
                    let mut texts = TextData::default();
                    series
                        .str()
                        .map_err(classify)?
                        .iter()
                        .for_each(|text| texts.push(text.unwrap_or_default()));
                    ColumnData::Text(texts)
                }
                _ => {
                    let ints = series
                        .i64()
                        .map_err(classify)?
                        .iter()
                        .map(Option::unwrap_or_default)
                        .collect();
                    if ty == FieldType::Timestamp {
                        ColumnData::Timestamp(ints)
                    } else {
                        ColumnData::Int(ints)
                    }
                }
            };
            table.push(Column::with_validity(name, data, valid)?)?;
        }
        Ok(table)
    }

    /// Names and types, in order.
    pub(super) fn columns(&self) -> &[(String, FieldType)] {
        &self.columns
    }

    pub(super) fn rows(&self) -> usize {
        self.aside.first().map_or(self.data.height(), Column::len)
    }

    /// The type of a column.
    pub(super) fn ty(&self, name: &str) -> Result<FieldType> {
        self.columns
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, ty)| *ty)
            .ok_or_else(|| {
                let names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
                Error::invalid("the table has no such column")
                    .with("column", name)
                    .with("columns", names.join(" "))
            })
    }

    /// The type of a column, if the step can work on it.
    pub(super) fn fitting(&self, name: &str, fits: &[FieldType]) -> Result<FieldType> {
        let ty = self.ty(name)?;
        if fits.contains(&ty) {
            return Ok(ty);
        }
        let wanted: Vec<&str> = fits.iter().map(|ty| type_name(*ty)).collect();
        Err(
            Error::invalid("this step cannot work on a column of this type; cast it first or leave it out")
                .with("column", name)
                .with("type", type_name(ty))
                .with("wanted", wanted.join(" ")),
        )
    }

    pub(super) fn series(&self, name: &str) -> Result<pl::Series> {
        Ok(self
            .data
            .column(name)
            .map_err(classify)?
            .as_materialized_series()
            .clone())
    }

    /// Puts a column in the place of the one of this name.
    pub(super) fn replace(&mut self, name: &str, ty: FieldType, mut series: pl::Series) -> Result<()> {
        series.rename(name.into());
        self.data.with_column(series.into()).map_err(classify)?;
        for column in &mut self.columns {
            if column.0 == name {
                column.1 = ty;
            }
        }
        Ok(())
    }

    /// Puts several columns in the place of one; none to drop it.
    pub(super) fn splice(&mut self, name: &str, new: Vec<(String, FieldType, pl::Series)>) -> Result<()> {
        let at = self.columns.iter().position(|(other, _)| other == name);
        let at = at.ok_or_else(|| Error::unexpected("a step lost its column").with("column", name))?;
        let (_, ty) = self.columns.remove(at);
        if ty == FieldType::Uuid {
            self.aside.retain(|column| column.name() != name);
        } else {
            self.data.drop_in_place(name).map_err(classify)?;
        }
        for (offset, (name, ty, mut series)) in new.into_iter().enumerate() {
            if self.columns.iter().any(|(other, _)| *other == name) {
                return Err(
                    Error::invalid("a new column would have a name that is taken; rename one first")
                        .with("column", name),
                );
            }
            series.rename(name.as_str().into());
            self.data.with_column(series.into()).map_err(classify)?;
            self.columns.insert(at + offset, (name, ty));
        }
        Ok(())
    }

    /// Adds a column behind another one, or at the end.
    pub(super) fn add(
        &mut self,
        name: &str,
        ty: FieldType,
        mut series: pl::Series,
        behind: Option<&str>,
    ) -> Result<()> {
        if self.columns.iter().any(|(other, _)| other == name) {
            return Err(
                Error::invalid("a new column would have a name that is taken; rename one first")
                    .with("column", name),
            );
        }
        let at = behind.and_then(|behind| self.columns.iter().position(|(other, _)| other == behind));
        series.rename(name.into());
        self.data.with_column(series.into()).map_err(classify)?;
        let at = at.map_or(self.columns.len(), |at| at + 1);
        self.columns.insert(at, (name.to_owned(), ty));
        Ok(())
    }

    /// Leaves out the rows that are false.
    pub(super) fn retain(&mut self, stay: &[bool]) -> Result<()> {
        if !stay.contains(&false) {
            return Ok(());
        }
        let mask = pl::BooleanChunked::new("stay".into(), stay);
        self.data = self.data.filter(&mask).map_err(classify)?;
        for column in &mut self.aside {
            let mut left = Column::empty(column.name(), column.ty())?;
            for (row, _) in stay.iter().enumerate().filter(|(_, stay)| **stay) {
                left.push(column.value(row))?;
            }
            *column = left;
        }
        let before = self.kept.take().unwrap_or_else(|| (0..stay.len()).collect());
        let left = before.into_iter().zip(stay).filter(|(_, stay)| **stay);
        self.kept = Some(left.map(|(row, _)| row).collect());
        Ok(())
    }

    /// The rows that were left out, of so many there were.
    pub(super) fn left_out(&self, rows: usize) -> Vec<usize> {
        let Some(kept) = &self.kept else {
            return Vec::new();
        };
        let mut kept = kept.iter().copied().peekable();
        (0..rows).filter(|row| kept.next_if_eq(row).is_none()).collect()
    }

    /// Some rows of one column, as a frame of its own.
    pub(super) fn part(&self, name: &str, rows: &[pl::IdxSize]) -> Result<Self> {
        let indices = pl::IdxCa::from_slice("rows".into(), rows);
        let series = self.series(name)?.take(&indices).map_err(classify)?;
        Ok(Self {
            data: pl::DataFrame::new(rows.len(), vec![series.into()]).map_err(classify)?,
            columns: vec![(name.to_owned(), self.ty(name)?)],
            aside: Vec::new(),
            kept: None,
        })
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let ty = self.ty(from)?;
        if self.columns.iter().any(|(other, _)| other == to) {
            return Err(Error::invalid("the new name is taken")
                .with("column", from)
                .with("to", to));
        }
        if ty == FieldType::Uuid {
            let renamed = |c: Column| if c.name() == from { c.renamed(to) } else { c };
            self.aside = std::mem::take(&mut self.aside).into_iter().map(renamed).collect();
        } else {
            self.data.rename(from, to.into()).map_err(classify)?;
        }
        for column in &mut self.columns {
            if column.0 == from {
                column.0 = to.to_owned();
            }
        }
        Ok(())
    }

    /// Only these columns, which must be there with these types, in this order.
    pub(super) fn keep(&mut self, wanted: &[(String, FieldType)]) -> Result<()> {
        for (name, ty) in wanted {
            self.fitting(name, &[*ty])?;
        }
        self.columns = wanted.to_vec();
        Ok(())
    }
}

/// Text changed by a function of ours; `None` makes it missing. Answers also how many values are others than before.
pub(super) fn map_text<'a>(
    series: &'a pl::Series,
    change: impl Fn(&'a str) -> Option<Cow<'a, str>>,
) -> Result<(pl::Series, usize)> {
    let texts = series.str().map_err(classify)?;
    let mut changed = 0;
    let mut new = pl::StringChunkedBuilder::new("mapped".into(), texts.len());
    for text in texts.iter() {
        let after = text.and_then(&change);
        changed += usize::from(text != after.as_deref());
        new.append_option(after);
    }
    Ok((new.finish().into_series(), changed))
}

/// Text read as something else.
pub(super) fn read_text<T>(series: &pl::Series, read: impl Fn(&str) -> Option<T>) -> Result<pl::Series>
where
    pl::Series: NamedFrom<Vec<Option<T>>, [Option<T>]>,
{
    let texts = series.str().map_err(classify)?;
    let values: Vec<Option<T>> = texts.iter().map(|text| text.and_then(&read)).collect();
    Ok(pl::Series::new("read".into(), values))
}
