//! Charts of what is missing.

use std::collections::HashMap;

use crm_core::Table;

use super::data::{Bar, Bars, Colors, HeatMap, HeatRow};
use super::{Chart, figure};

/// More patterns than these are told, not drawn.
const PATTERNS: usize = 15;
/// Columns of a drawn pattern.
const COLUMNS: usize = 20;

impl Chart {
    /// The share of missing values of each column, the largest first.
    pub fn missing(rows: u64, columns: Vec<(String, u64)>) -> Self {
        let mut columns = columns;
        columns.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let part = |n: u64| if rows > 0 { n as f64 / rows as f64 } else { 0.0 };
        let bars = columns.into_iter().map(|(name, n)| Bar {
            label: format!("{:.1} % ({})", part(n) * 100.0, figure(n as f64)),
            value: part(n) * 100.0,
            name,
            ..Bar::default()
        });
        Self::Bars(Bars {
            title: "Missing values".into(),
            note: format!("of {} customers", figure(rows as f64)),
            x_label: "Missing (%)".into(),
            bars: bars.collect(),
            guides: vec![],
        })
    }

    /// The share of missing values of each column of a table: [`Chart::missing`].
    pub fn missing_of(table: &Table) -> Self {
        let columns = table.columns().iter();
        let missing = columns.map(|column| (column.name().to_owned(), column.missing() as u64));
        Self::missing(table.rows() as u64, missing.collect())
    }

    /// Which values are missing together: one row for each combination of columns that lack a value, the most frequent on
    /// top, 15 at most; columns that lack none are left out, and of more than 20 those that lack most are drawn.
    pub fn missing_patterns(table: &Table) -> Self {
        let mut columns: Vec<&crm_core::Column> = table
            .columns()
            .iter()
            .filter(|column| column.missing() > 0)
            .collect();
        columns.sort_by(|a, b| b.missing().cmp(&a.missing()).then_with(|| a.name().cmp(b.name())));
        let hidden = columns.len().saturating_sub(COLUMNS);
        columns.truncate(COLUMNS);
        // One bit a column.
        let mut counts: HashMap<u32, u64> = HashMap::new();
        for row in 0..table.rows() {
            let bits = columns.iter().enumerate();
            let pattern = bits.fold(0, |all, (at, column)| {
                all | (u32::from(!column.is_valid(row)) << at)
            });
            *counts.entry(pattern).or_default() += 1;
        }
        let whole = counts.get(&0).copied().unwrap_or(0);
        let mut patterns: Vec<(u32, u64)> = counts.into_iter().collect();
        patterns.sort_by_key(|(pattern, count)| (std::cmp::Reverse(*count), *pattern));
        let others: u64 = patterns.iter().skip(PATTERNS).map(|(_, count)| count).sum();
        let seldom = patterns.len().saturating_sub(PATTERNS);
        patterns.truncate(PATTERNS);
        let all = table.rows() as u64;
        let share = |count: u64| {
            if all > 0 {
                count as f64 / all as f64 * 100.0
            } else {
                0.0
            }
        };
        let rows = patterns.into_iter().map(|(pattern, count)| {
            let lacks = |at: usize| pattern >> at & 1 == 1;
            HeatRow {
                name: format!("{:.1} % ({})", share(count), figure(count as f64)),
                values: (0..columns.len())
                    .map(|at| Some(f64::from(u8::from(lacks(at)))))
                    .collect(),
                labels: (0..columns.len())
                    .map(|at| if lacks(at) { "missing" } else { "" }.to_owned())
                    .collect(),
            }
        });
        let mut note = format!(
            "{} of {} customers lack nothing",
            figure(whole as f64),
            figure(all as f64)
        );
        if seldom > 0 {
            note.push_str(&format!(
                "; {} rarer combinations ({} customers) left out",
                figure(seldom as f64),
                figure(others as f64)
            ));
        }
        if hidden > 0 {
            note.push_str(&format!("; {hidden} columns that lack less left out"));
        }
        Self::HeatMap(HeatMap {
            title: "Missing together".into(),
            note,
            x_label: "Columns".into(),
            y_label: "Customers".into(),
            value_label: "1: missing".into(),
            rows: rows.collect(),
            columns: columns.iter().map(|column| column.name().to_owned()).collect(),
            colors: Colors::Between(0.0, 1.0),
        })
    }
}
