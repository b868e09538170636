//! A matrix of finite numbers: what models are fitted on.
//!
//! ```
//! use crm_core::Matrix;
//!
//! let m = Matrix::from_rows(vec!["recency".into(), "spend".into()], &[vec![3.0, 10.0], vec![40.0, 2.5]]).unwrap();
//! assert_eq!((m.rows(), m.cols()), (2, 2));
//! assert_eq!(m.row(1), [40.0, 2.5]);
//! assert!(Matrix::from_rows(vec!["x".into()], &[vec![f64::NAN]]).is_err());
//! ```

use std::fmt;

use crate::{Error, Result};

/// Numbers in rows (one a subject) and named columns (one a feature), row after row. Finite by construction: no NaN and
/// no infinity ever reaches a model.
#[derive(Clone, PartialEq)]
pub struct Matrix {
    columns: Vec<String>,
    rows: usize,
    data: Vec<f64>,
}

impl Matrix {
    /// From values in row order: `data[row * columns.len() + column]`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the length does not fit, there is no column, or a value is not finite
    /// (naming its row and column).
    pub fn new(columns: Vec<String>, data: Vec<f64>) -> Result<Self> {
        if columns.is_empty() || !data.len().is_multiple_of(columns.len()) {
            return Err(
                Error::invalid("the number of values is not a multiple of the number of columns")
                    .with("values", data.len())
                    .with("columns", columns.len()),
            );
        }
        if let Some(at) = first_not_finite(&data) {
            let column = columns.get(at % columns.len()).map_or("", String::as_str);
            return Err(
                Error::invalid("a value is not a finite number; fill or drop it before fitting")
                    .with("row", at / columns.len())
                    .with("column", column),
            );
        }
        Ok(Self {
            rows: data.len() / columns.len(),
            columns,
            data,
        })
    }

    /// From rows.
    ///
    /// # Errors
    /// As [`Matrix::new`]; also when a row has another length.
    pub fn from_rows(columns: Vec<String>, rows: &[Vec<f64>]) -> Result<Self> {
        if let Some(at) = rows.iter().position(|row| row.len() != columns.len()) {
            return Err(
                Error::invalid("a row has another number of values than there are columns").with("row", at),
            );
        }
        Self::new(columns, rows.concat())
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.columns.len()
    }
    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
    /// All values, row after row.
    pub fn as_slice(&self) -> &[f64] {
        &self.data
    }
    /// One row; empty past the end.
    pub fn row(&self, row: usize) -> &[f64] {
        let start = row.saturating_mul(self.cols());
        self.data
            .get(start..start.saturating_add(self.cols()))
            .unwrap_or_default()
    }
    /// The rows, in order.
    pub fn iter_rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.data.chunks_exact(self.cols())
    }
    /// One column's values, in row order; nothing when there is no such column.
    pub fn iter_col(&self, col: usize) -> impl Iterator<Item = f64> + '_ {
        self.data
            .iter()
            .skip(col)
            .step_by(self.cols())
            .copied()
            .take(if col < self.cols() { self.rows } else { 0 })
    }
    /// Names and values, taken out.
    pub fn into_parts(self) -> (Vec<String>, Vec<f64>) {
        (self.columns, self.data)
    }
}

/// Where the first value stands that is not finite.
fn first_not_finite(data: &[f64]) -> Option<usize> {
    // A whole stretch at once, which the compiler turns into wide instructions: anything but a number times 0 is not 0.
    const STRETCH: usize = 64;
    let mut at = 0;
    for stretch in data.chunks(STRETCH) {
        let mut lanes = [0.0_f64; 8];
        for values in stretch.chunks(8) {
            lanes
                .iter_mut()
                .zip(values)
                .for_each(|(lane, value)| *lane += value * 0.0);
        }
        if lanes.iter().any(|lane| *lane != 0.0)
            && let Some(within) = stretch.iter().position(|value| !value.is_finite())
        {
            return Some(at + within);
        }
        at += stretch.len();
    }
    None
}

/// Whether `row` can be scored by a model fitted on `columns`: as many values, all of them finite.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] naming the column whose value is not finite, or both lengths.
pub fn check_row(columns: &[String], row: &[f64]) -> Result<()> {
    if row.len() != columns.len() {
        return Err(
            Error::invalid("a row has another number of values than the model has columns")
                .operation("model.score")
                .with("values", row.len())
                .with("columns", columns.len()),
        );
    }
    if let Some(at) = row.iter().position(|value| !value.is_finite()) {
        return Err(Error::invalid(
            "a value is not a finite number; fill it as it was filled before fitting",
        )
        .operation("model.score")
        .with("column", columns.get(at).map_or("", String::as_str)));
    }
    Ok(())
}

/// Whether `x` has the columns a model was fitted on, in the same order.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] with both lists of names.
pub fn same_columns(fitted: &[String], x: &Matrix) -> Result<()> {
    if fitted == x.columns() {
        return Ok(());
    }
    Err(
        Error::invalid("the columns are not those the model was fitted on, or in another order")
            .operation("model.predict")
            .with("fitted", fitted.join(" "))
            .with("found", x.columns().join(" ")),
    )
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix {} x {} {:?}", self.rows, self.cols(), self.columns)
    }
}
