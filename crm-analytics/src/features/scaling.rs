use crm_core::{Error, Matrix, Result};
use serde::{Deserialize, Serialize};

/// Puts columns on one scale: the logarithm of skewed ones, then z-scores. Fitted once, kept with the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    columns: Vec<ScaledColumn>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaledColumn {
    name: String,
    log: bool,
    mean: f64,
    deviation: f64,
}

impl ScaledColumn {
    /// `ln(1 + |x|)` with the sign of `x`: also refunds have a place.
    fn bend(&self, value: f64) -> f64 {
        if self.log {
            value.abs().ln_1p().copysign(value)
        } else {
            value
        }
    }
    fn scale(&self, value: f64) -> f64 {
        if self.is_constant() {
            0.0
        } else {
            (self.bend(value) - self.mean) / self.deviation
        }
    }
    fn is_constant(&self) -> bool {
        self.deviation <= 1e-12 * self.mean.abs()
    }
}

impl Scaling {
    /// Learns means and standard deviations; `logs` names the columns whose logarithm is taken first.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] without rows or when a named column is not there.
    pub fn fit(x: &Matrix, logs: &[String]) -> Result<Self> {
        if let Some(name) = logs.iter().find(|name| !x.columns().contains(name)) {
            return Err(Error::invalid("there is no such column to take the logarithm of")
                .operation("scaling.fit")
                .with("column", name)
                .with("columns", x.columns().join(" ")));
        }
        if x.rows() == 0 {
            return Err(Error::invalid("there are no rows to learn a scale from").operation("scaling.fit"));
        }
        let n = x.rows() as f64;
        let columns = x.columns().iter().enumerate().map(|(col, name)| {
            let mut column = ScaledColumn {
                name: name.clone(),
                log: logs.contains(name),
                mean: 0.0,
                deviation: 1.0,
            };
            column.mean = x.iter_col(col).map(|v| column.bend(v)).sum::<f64>() / n;
            let squares: f64 = x
                .iter_col(col)
                .map(|v| (column.bend(v) - column.mean).powi(2))
                .sum();
            column.deviation = (squares / (n - 1.0).max(1.0)).sqrt();
            column
        });
        Ok(Self {
            columns: columns.collect(),
        })
    }

    /// Scales rows.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when the columns are others than those it was fitted on.
    pub fn apply(&self, x: &Matrix) -> Result<Matrix> {
        if !self.columns.iter().map(|column| &column.name).eq(x.columns()) {
            return Err(Error::invalid(
                "the columns are not those the scaling was fitted on, or in another order",
            )
            .operation("scaling.apply")
            .with("found", x.columns().join(" ")));
        }
        let scaled = x
            .iter_rows()
            .flat_map(|row| row.iter().zip(&self.columns).map(|(v, column)| column.scale(*v)));
        Matrix::new(x.columns().to_vec(), scaled.collect())
    }

    /// Columns that say nothing, because all rows agree in them.
    pub fn constant(&self) -> impl Iterator<Item = &str> {
        self.columns
            .iter()
            .filter(|column| column.is_constant())
            .map(|column| column.name.as_str())
    }
}
