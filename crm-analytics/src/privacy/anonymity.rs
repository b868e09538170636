//! k-anonymity: nobody stands out by what others can know (Sweeney 2002).

use std::collections::BTreeMap;

use crm_core::record::{FieldType, Value};
use crm_core::{Column, Error, Result, Table};
use serde::{Deserialize, Serialize};

/// How many rows share what others can know of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnonymityReport {
    /// The least number of rows that must agree.
    pub k: usize,
    /// The groups of rows that agree.
    pub classes: usize,
    /// The rows of the smallest group; 0 without rows.
    pub smallest: usize,
    /// The rows in groups of less than `k`.
    pub rows_below: usize,
    /// Their positions, at most 1,000.
    pub below: Vec<usize>,
}

impl AnonymityReport {
    /// Whether every row is one of at least `k`.
    pub fn holds(&self) -> bool {
        self.rows_below == 0
    }
}

/// Looks how many rows agree in the columns that others can know (age, city, plan). A missing value is one of its own.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] without columns, when one is not there, or `k` is 0.
pub fn quasi_identifiers(table: &Table, columns: &[&str], k: usize) -> Result<AnonymityReport> {
    let wrong = |message: &'static str, setting: &'static str| {
        Err(Error::invalid(message)
            .operation("privacy.quasi_identifiers")
            .with("setting", setting))
    };
    if columns.is_empty() {
        return wrong("name at least one column that others can know", "columns");
    }
    if k == 0 {
        return wrong("k is at least 1", "k");
    }
    let columns = columns
        .iter()
        .map(|name| table.column(name))
        .collect::<Result<Vec<&Column>>>()?;
    let mut classes: BTreeMap<Vec<Option<String>>, Vec<usize>> = BTreeMap::new();
    for row in 0..table.rows() {
        let key = columns.iter().map(|column| shown(column.value(row))).collect();
        classes.entry(key).or_default().push(row);
    }
    let mut below: Vec<usize> = classes
        .values()
        .filter(|rows| rows.len() < k)
        .flatten()
        .copied()
        .collect();
    below.sort_unstable();
    let rows_below = below.len();
    below.truncate(1_000);
    Ok(AnonymityReport {
        k,
        classes: classes.len(),
        smallest: classes.values().map(Vec::len).min().unwrap_or_default(),
        rows_below,
        below,
    })
}

fn shown(value: Value) -> Option<String> {
    match value {
        Value::Bool(v) => Some(v.to_string()),
        Value::Int(v) => Some(v.to_string()),
        Value::Float(v) if v.is_nan() => None,
        Value::Float(v) => Some((v + 0.0).to_string()),
        Value::Text(v) => Some(v),
        Value::Timestamp(v) => Some(v.to_string()),
        Value::Uuid(v) => Some(v.to_string()),
        _ => None,
    }
}

/// A table of counts in which small ones do not show.
#[derive(Debug, Clone, PartialEq)]
pub struct Suppressed {
    /// The table; what does not show is missing.
    pub table: Table,
    /// Rows whose count is below `k` and not 0.
    pub primary: usize,
    /// Rows that had to go as well, because the others could be subtracted from the total.
    pub complementary: usize,
}

/// Hides the figures of groups smaller than `k` in a table of aggregates: one row a group, `count` the column of integers
/// that says how many are in it. All other columns of numbers of such a row are hidden as well.
///
/// Rows that agree in the columns `within` (none: all rows) add up to a total that is taken to be known. Where hiding left
/// exactly one figure of a total open, or the hidden ones together are fewer than `k`, the smallest group that still shows
/// is hidden too: otherwise the total less what shows would give them away.
///
/// # Errors
/// [`crm_core::ErrorKind::Invalid`] when a column is not there, `count` is not of integers, has a missing or negative one,
/// or `k` is 0.
pub fn suppress_small(table: &Table, count: &str, within: &[&str], k: i64) -> Result<Suppressed> {
    suppress(table, count, within, k).map_err(|error| error.operation("privacy.suppress_small"))
}

fn suppress(table: &Table, count: &str, within: &[&str], k: i64) -> Result<Suppressed> {
    if k < 1 {
        return Err(Error::invalid("k is at least 1").with("setting", "k"));
    }
    let counts = table.column(count)?;
    let mut sizes = Vec::with_capacity(table.rows());
    for row in 0..table.rows() {
        match counts.value(row).as_int() {
            Some(size) if size >= 0 => sizes.push(size),
            _ => {
                return Err(Error::invalid("a count is an integer from 0 up")
                    .with("column", count)
                    .with("row", row));
            }
        }
    }
    let totals = within
        .iter()
        .map(|name| table.column(name))
        .collect::<Result<Vec<&Column>>>()?;
    let mut parts: BTreeMap<Vec<Option<String>>, Vec<usize>> = BTreeMap::new();
    for row in 0..table.rows() {
        let key = totals.iter().map(|column| shown(column.value(row))).collect();
        parts.entry(key).or_default().push(row);
    }
    let size = |row: usize| sizes.get(row).copied().unwrap_or_default();
    let mut hidden = vec![false; table.rows()];
    let (mut primary, mut complementary) = (0, 0);
    for rows in parts.values() {
        let mut gone: Vec<usize> = rows
            .iter()
            .copied()
            .filter(|row| (1..k).contains(&size(*row)))
            .collect();
        primary += gone.len();
        let mut open: Vec<usize> = rows.iter().copied().filter(|row| size(*row) >= k).collect();
        open.sort_by_key(|row| (size(*row), *row));
        let mut open = open.into_iter();
        let sum = |gone: &[usize]| gone.iter().fold(0_i64, |sum, row| sum.saturating_add(size(*row)));
        while !gone.is_empty() && (gone.len() < 2 || sum(&gone) < k) {
            // Nothing is left to hide behind: the total itself is smaller than k.
            let Some(next) = open.next() else { break };
            complementary += 1;
            gone.push(next);
        }
        for row in gone {
            if let Some(slot) = hidden.get_mut(row) {
                *slot = true;
            }
        }
    }
    let mut out = Table::default();
    for column in table.columns() {
        let number = matches!(column.ty(), FieldType::Int | FieldType::Float);
        let figure = column.name() == count || (number && !within.contains(&column.name()));
        if !figure {
            out.push(column.clone())?;
            continue;
        }
        let (name, data, _) = column.clone().into_parts();
        let valid = (0..column.len())
            .map(|row| column.is_valid(row) && !hidden.get(row).copied().unwrap_or(true))
            .collect();
        out.push(blanked(Column::with_validity(name, data, valid)?)?)?;
    }
    Ok(Suppressed {
        table: out,
        primary,
        complementary,
    })
}

/// The same column without the values that stand behind missing rows.
fn blanked(column: Column) -> Result<Column> {
    let mut clean = Column::empty(column.name(), column.ty())?;
    for row in 0..column.len() {
        clean.push(column.value(row))?;
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(counts: &[i64]) -> Table {
        let mut group = Column::text("group");
        (0..counts.len()).for_each(|at| group.push_text(Some(&format!("g{at}"))));
        let spend = Column::floats("spend", counts.iter().map(|n| *n as f64 * 10.0).collect());
        Table::new(vec![group, Column::ints("n", counts.to_vec()), spend]).unwrap()
    }

    fn shows(counts: &[i64], k: i64) -> Vec<Option<f64>> {
        let out = suppress_small(&table(counts), "n", &[], k).unwrap().table;
        let n = out.column("n").unwrap();
        let spend = out.column("spend").unwrap();
        (0..out.rows())
            .map(|row| {
                assert_eq!(
                    n.is_valid(row),
                    spend.is_valid(row),
                    "figures of a row go together"
                );
                n.f64_at(row)
            })
            .collect()
    }

    #[test]
    fn small_groups_do_not_show_and_cannot_be_subtracted() {
        // One small group: the smallest of the others goes with it.
        assert_eq!(shows(&[100, 3, 40, 7], 5), [Some(100.0), None, Some(40.0), None]);
        // Two small ones that are together less than k: a third one hides them.
        assert_eq!(shows(&[100, 1, 1, 40], 5), [Some(100.0), None, None, None]);
        // Two small ones that are enough together.
        assert_eq!(shows(&[100, 4, 4, 40], 5), [Some(100.0), None, None, Some(40.0)]);
        assert_eq!(shows(&[100, 0, 40], 5), [Some(100.0), Some(0.0), Some(40.0)]);
        assert_eq!(shows(&[2, 1], 5), [None, None]);
        assert!(shows(&[], 5).is_empty());
    }

    #[test]
    fn what_does_not_show_cannot_be_worked_out() {
        // For every table of up to four groups: with the total known, no small group is the only one it can be.
        let k = 4;
        for code in 0..7_i64.pow(4) {
            let counts: Vec<i64> = (0..4).map(|at| code / 7_i64.pow(at) % 7).collect();
            let shown = shows(&counts, k);
            let hidden: Vec<usize> = (0..4).filter(|at| shown[*at].is_none()).collect();
            let total: i64 = hidden.iter().map(|at| counts[*at]).sum();
            for (at, count) in counts.iter().enumerate() {
                assert!(!(1..k).contains(count) || shown[at].is_none(), "{counts:?}");
            }
            let all_gone = counts
                .iter()
                .zip(&shown)
                .all(|(count, shown)| *count == 0 || shown.is_none());
            if !hidden.is_empty() && !all_gone {
                assert!(hidden.len() >= 2 && total >= k, "{counts:?} {shown:?}");
            }
        }
    }

    #[test]
    fn wrong_counts_are_named() {
        let mut counts = Column::ints("n", vec![1]);
        counts.push(Value::Null).unwrap();
        let error = suppress_small(&Table::new(vec![counts]).unwrap(), "n", &[], 5).unwrap_err();
        assert_eq!(
            (error.context("column"), error.context("row")),
            (Some("n"), Some("1"))
        );
        assert!(suppress_small(&table(&[-1]), "n", &[], 5).is_err());
        assert!(suppress_small(&table(&[1]), "n", &[], 0).is_err());
        assert!(suppress_small(&table(&[1]), "group", &[], 2).is_err());
    }
}
