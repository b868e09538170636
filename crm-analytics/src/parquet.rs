//! Tables as Parquet files and back (feature `parquet`).
//!
//! ```
//! use crm_analytics::parquet::{ParquetFile, ParquetWriter};
//! use crm_core::table::{Column, Table};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let path = folder.path().join("visits.parquet");
//! let table = Table::new(vec![Column::ints("visits", vec![1, 2, 3])]).unwrap();
//! let mut writer = ParquetWriter::new(std::fs::File::create(&path).unwrap());
//! writer.write(&table).unwrap(); // a row group a table: hand in what a scan gives, chunk by chunk
//! assert_eq!(writer.finish().unwrap(), 3);
//!
//! let file = ParquetFile::open(&path).unwrap();
//! assert_eq!((file.rows(), file.groups()), (3, 1));
//! assert_eq!(file.read(0).unwrap(), table);
//! ```
//!
//! `crm_store`'s scans and `ParquetFile` both give [`Table`]s, and `TableCollector` of `crm-crawl` makes customers of a
//! [`ParquetFile`] with the same mapping as for CSV.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crm_core::capability::{Outline, TableSource};
use crm_core::table::{Column, ColumnData, TextData};
use crm_core::{Error, ErrorKind, Result, Table};
use polars::prelude as pl;
use polars::prelude::NamedFrom;
use polars_io::SerReader;
use polars_io::parquet::read::ParquetReader;
use polars_io::parquet::write::{BatchedWriter, ParquetWriter as Writer};
use sha2::{Digest, Sha256};

/// A Parquet file, read a row group at a time. Booleans, integers, floats, text, days and times are read; a time without
/// a zone is UTC. Columns of other types (lists, structs, decimals, bytes) must be left out by naming the columns.
#[derive(Clone)]
pub struct ParquetFile {
    path: PathBuf,
    columns: Option<Vec<String>>,
    names: Vec<String>,
    /// First row and number of rows of each row group.
    groups: Vec<(usize, usize)>,
    fingerprint: String,
}

impl fmt::Debug for ParquetFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetFile")
            .field("path", &self.path)
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}

/// What Polars says when it cannot: its message may hold values, so that only the kind is kept.
fn classify(_: pl::PolarsError) -> Error {
    Error::new(ErrorKind::Corrupt, "not a Parquet file, or a damaged one")
}

/// A damaged file must not take the host down, whatever the decoder makes of it.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Corrupt,
                "the Parquet file cannot be decoded",
            ))
        })
        .map_err(|error| error.operation("parquet.read").with("path", path.display()))
}

impl ParquetFile {
    /// Opens a file and reads what its footer says.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when there is no such file; [`ErrorKind::Corrupt`] when it is no Parquet file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let file = file(&path)?;
        let size = file.metadata().map_or(0, |meta| meta.len());
        guarded(&path, || {
            let mut reader = ParquetReader::new(file);
            let names = reader
                .schema()
                .map_err(classify)?
                .iter_names()
                .map(ToString::to_string)
                .collect();
            let mut groups = Vec::new();
            let mut first = 0;
            let mut hash = Sha256::new();
            hash.update(size.to_be_bytes());
            for group in &reader.get_metadata().map_err(classify)?.row_groups {
                let rows = group.num_rows();
                groups.push((first, rows));
                first += rows;
                hash.update((rows as u64).to_be_bytes());
                hash.update((group.total_byte_size() as u64).to_be_bytes());
            }
            let fingerprint = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(Self {
                path: path.clone(),
                columns: None,
                names,
                groups,
                fingerprint,
            })
        })
    }

    /// Reads these columns only.
    #[must_use]
    pub fn columns<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.columns = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.groups.iter().map(|(_, rows)| *rows as u64).sum()
    }

    /// Row groups: each is read whole.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// The rows of one row group.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such group or column; [`ErrorKind::Unsupported`] naming a column of a type
    /// that cannot be read; [`ErrorKind::Corrupt`].
    pub fn read(&self, group: usize) -> Result<Table> {
        let Some((first, rows)) = self.groups.get(group).copied() else {
            return Err(Error::new(ErrorKind::NotFound, "no such row group").with("group", group));
        };
        if let Some(missing) = self
            .columns
            .iter()
            .flatten()
            .find(|name| !self.names.contains(name))
        {
            return Err(
                Error::new(ErrorKind::NotFound, "the file has no such column").with("column", missing)
            );
        }
        let file = file(&self.path)?;
        guarded(&self.path, || {
            let data = ParquetReader::new(file)
                .with_columns(self.columns.clone())
                .with_slice(Some((first, rows)))
                .finish()
                .map_err(classify)?;
            let mut table = Table::default();
            for column in data.columns() {
                table.push(read_column(column)?)?;
            }
            Ok(table)
        })
    }
}

fn file(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| {
        Error::config("the file cannot be opened")
            .operation("parquet.read")
            .with("path", path.display())
            .source(error)
    })
}

fn read_column(column: &pl::Column) -> Result<Column> {
    let series = column.as_materialized_series();
    let name = series.name().to_string();
    let valid: Vec<bool> = series.is_not_null().iter().map(|v| v.unwrap_or(false)).collect();
    let cast = |ty: &pl::DataType| {
        series.strict_cast(ty).map_err(|_| {
            Error::new(
                ErrorKind::Unsupported,
                "a column has values beyond 64-bit integers",
            )
            .with("column", &name)
        })
    };
    let micros = pl::DataType::Datetime(pl::TimeUnit::Microseconds, None);
    let ints = |series: &pl::Series| -> Result<Vec<i64>> {
        let values = series.i64().map_err(classify)?;
        Ok(values.iter().map(Option::unwrap_or_default).collect())
    };
    let data = match series.dtype() {
        pl::DataType::Boolean => {
            let values = series.bool().map_err(classify)?;
            ColumnData::Bool(values.iter().map(Option::unwrap_or_default).collect())
        }
        ty if ty.is_integer() => ColumnData::Int(ints(&cast(&pl::DataType::Int64)?)?),
        ty if ty.is_float() => {
            let series = cast(&pl::DataType::Float64)?;
            let values = series.f64().map_err(classify)?;
            ColumnData::Float(values.iter().map(Option::unwrap_or_default).collect())
        }
        pl::DataType::String => {
            let mut texts = TextData::default();
            let values = series.str().map_err(classify)?;
            values
                .iter()
                .for_each(|text| texts.push(text.unwrap_or_default()));
            ColumnData::Text(texts)
        }
        pl::DataType::Date | pl::DataType::Datetime(..) => {
            let series = series
                .cast(&micros)
                .and_then(|series| series.cast(&pl::DataType::Int64))
                .map_err(classify)?;
            ColumnData::Timestamp(ints(&series)?)
        }
        _ => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a column of this type cannot be read; name the columns to be read without it",
            )
            .with("column", name));
        }
    };
    Column::with_validity(name, data, valid)
}

impl TableSource for ParquetFile {
    fn outline(&self) -> Result<Outline> {
        // As it is now: a run may begin long after the file was opened.
        let now = Self::open(&self.path)?;
        Ok(Outline {
            place: self.path.display().to_string(),
            columns: self.columns.clone().unwrap_or_else(|| now.names.clone()),
            rows: now.rows(),
            chunks: now.groups(),
            fingerprint: now.fingerprint,
        })
    }

    fn chunk(&self, index: usize) -> Result<Table> {
        self.read(index)
    }
}

/// Writes tables of the same columns into one Parquet file, compressed with Zstandard, a row group a table. Ids are
/// text; times are microseconds in UTC.
pub struct ParquetWriter<W: Write + Send> {
    state: State<W>,
    rows: u64,
}

enum State<W: Write + Send> {
    /// The columns are not known yet.
    Fresh(Option<W>),
    Open(Box<BatchedWriter<W>>, Vec<String>),
}

impl<W: Write + Send> fmt::Debug for ParquetWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetWriter")
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Writes into `into`; a file is best buffered.
    pub fn new(into: W) -> Self {
        Self {
            state: State::Fresh(Some(into)),
            rows: 0,
        }
    }

    /// Adds the rows of a table.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when its columns are others than the first table's; [`ErrorKind::Unavailable`] when it
    /// cannot be written.
    pub fn write(&mut self, table: &Table) -> Result<()> {
        let named = |error: Error| error.operation("parquet.write");
        let data = frame(table).map_err(named)?;
        let names: Vec<String> = table
            .columns()
            .iter()
            .map(|column| format!("{} {:?}", column.name(), column.ty()))
            .collect();
        if let State::Fresh(into) = &mut self.state
            && let Some(into) = into.take()
        {
            let writer = Writer::new(into)
                .batched(data.schema())
                .map_err(|e| named(unwritten(e)))?;
            self.state = State::Open(Box::new(writer), names.clone());
        }
        let State::Open(writer, known) = &mut self.state else {
            return Err(named(Error::invalid("nothing can be written after an error")));
        };
        if *known != names {
            return Err(named(
                Error::invalid("every table of a file has the same columns, in the same order")
                    .with("expected", known.join(", "))
                    .with("found", names.join(", ")),
            ));
        }
        if table.rows() > 0 {
            writer.write_batch(&data).map_err(|e| named(unwritten(e)))?;
            self.rows += table.rows() as u64;
        }
        Ok(())
    }

    /// Writes the footer. Answers how many rows there are. A file without it cannot be read.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when no table was written: the columns are not known; [`ErrorKind::Unavailable`] when it
    /// cannot be written.
    pub fn finish(self) -> Result<u64> {
        match self.state {
            State::Open(writer, _) => {
                writer
                    .finish()
                    .map_err(|e| unwritten(e).operation("parquet.write"))?;
                Ok(self.rows)
            }
            State::Fresh(_) => Err(
                Error::invalid("a file has at least one table, if only without rows")
                    .operation("parquet.write"),
            ),
        }
    }
}

fn unwritten(_: pl::PolarsError) -> Error {
    Error::new(ErrorKind::Unavailable, "the Parquet file cannot be written")
}

fn frame(table: &Table) -> Result<pl::DataFrame> {
    let mut columns = Vec::with_capacity(table.columns().len());
    for column in table.columns() {
        let name = column.name().into();
        let valid = |row: usize| column.is_valid(row);
        let series = match column.data() {
            ColumnData::Bool(v) => {
                let values: Vec<_> = v
                    .iter()
                    .enumerate()
                    .map(|(i, v)| valid(i).then_some(*v))
                    .collect();
                pl::Series::new(name, values)
            }
            ColumnData::Int(v) => {
                let values: Vec<_> = v
                    .iter()
                    .enumerate()
                    .map(|(i, v)| valid(i).then_some(*v))
                    .collect();
                pl::Series::new(name, values)
            }
            ColumnData::Timestamp(v) => {
                let values: Vec<_> = v
                    .iter()
                    .enumerate()
                    .map(|(i, v)| valid(i).then_some(*v))
                    .collect();
                pl::Series::new(name, values)
                    .cast(&pl::DataType::Datetime(pl::TimeUnit::Microseconds, None))
                    .map_err(unwritten)?
            }
            ColumnData::Float(v) => {
                let values: Vec<_> = v
                    .iter()
                    .enumerate()
                    .map(|(i, v)| valid(i).then_some(*v))
                    .collect();
                pl::Series::new(name, values)
            }
            ColumnData::Text(v) => {
                let values: Vec<_> = v.iter().enumerate().map(|(i, v)| valid(i).then_some(v)).collect();
                pl::Series::new(name, values)
            }
            ColumnData::Uuid(v) => {
                let text = |(i, v): (usize, &crm_core::Uuid)| valid(i).then(|| v.to_string());
                pl::Series::new(name, v.iter().enumerate().map(text).collect::<Vec<_>>())
            }
        };
        columns.push(series.into());
    }
    pl::DataFrame::new(table.rows(), columns).map_err(unwritten)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::Uuid;

    fn all_types(rows: usize) -> Table {
        let valid: Vec<bool> = (0..rows).map(|row| !row.is_multiple_of(3)).collect();
        let mut texts = TextData::default();
        (0..rows).for_each(|row| texts.push(if valid[row] { "Größe\n客户" } else { "" }));
        let gaps = |data| Column::with_validity("x", data, valid.clone()).unwrap();
        let masked = |values: Vec<i64>| {
            values
                .iter()
                .zip(&valid)
                .map(|(v, ok)| if *ok { *v } else { 0 })
                .collect()
        };
        Table::new(vec![
            gaps(ColumnData::Int(masked(
                (0..rows as i64).map(|v| i64::MAX - v).collect(),
            )))
            .renamed("int"),
            gaps(ColumnData::Timestamp(masked(
                (0..rows as i64).map(|v| v - 5).collect(),
            )))
            .renamed("time"),
            gaps(ColumnData::Text(texts)).renamed("text"),
            Column::new(
                "flag",
                ColumnData::Bool((0..rows).map(|v| v.is_multiple_of(2)).collect()),
            ),
            Column::floats("float", (0..rows).map(|v| v as f64 / 7.0).collect()),
        ])
        .unwrap()
    }

    #[test]
    fn every_type_comes_back_group_by_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.parquet");
        let mut writer = ParquetWriter::new(File::create(&path).unwrap());
        for rows in [5, 0, 1000] {
            writer.write(&all_types(rows)).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), 1005);
        let file = ParquetFile::open(&path).unwrap();
        assert_eq!((file.rows(), file.groups()), (1005, 2));
        assert_eq!(file.read(0).unwrap(), all_types(5));
        assert_eq!(file.read(1).unwrap(), all_types(1000));
        let some = file.clone().columns(["flag"]).read(1).unwrap();
        assert_eq!(some.columns().len(), 1);
        assert_eq!(file.read(2).unwrap_err().kind(), ErrorKind::NotFound);
        let error = file.columns(["shoe"]).read(0).unwrap_err();
        assert_eq!(error.context("column"), Some("shoe"));
    }

    #[test]
    fn ids_become_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.parquet");
        let mut writer = ParquetWriter::new(File::create(&path).unwrap());
        writer
            .write(&Table::new(vec![Column::uuids("id", vec![Uuid::nil()])]).unwrap())
            .unwrap();
        let other = Table::new(vec![Column::ints("id", vec![1])]).unwrap();
        assert_eq!(
            writer.write(&other).unwrap_err().kind(),
            ErrorKind::Invalid,
            "other columns"
        );
        writer.finish().unwrap();
        let table = ParquetFile::open(&path).unwrap().read(0).unwrap();
        assert_eq!(
            table.column("id").unwrap().text_at(0),
            Some("00000000-0000-0000-0000-000000000000")
        );
    }

    #[test]
    fn damaged_files_are_told_and_take_nothing_down() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.parquet");
        assert_eq!(ParquetFile::open(&path).unwrap_err().kind(), ErrorKind::Config);
        let mut good = Vec::new();
        let mut writer = ParquetWriter::new(&mut good);
        writer.write(&all_types(300)).unwrap();
        writer.finish().unwrap();
        for text in ["", "PAR1", "name,email\n", "PAR1PAR1PAR1"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(
                ParquetFile::open(&path).unwrap_err().kind(),
                ErrorKind::Corrupt,
                "{text}"
            );
        }
        // Any byte turned, at any place: an error or other values, never a panic.
        for at in (0..good.len()).step_by(good.len() / 200) {
            let mut bad = good.clone();
            bad[at] ^= 0x5a;
            std::fs::write(&path, &bad).unwrap();
            if let Ok(file) = ParquetFile::open(&path) {
                (0..file.groups()).for_each(|group| drop(file.read(group)));
            }
        }
    }
}
