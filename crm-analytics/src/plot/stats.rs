//! Summaries of values that charts are made of.

use crm_core::{Error, Result};

use super::data::{Ellipse, Guide, Histogram, Scale, Spread};
use super::figure;

impl Ellipse {
    /// The ellipse that holds a share (0 to 1, not included) of a group's points if they are spread normally; `None` for
    /// fewer than three points or points on one spot.
    pub fn around(group: usize, points: &[(f64, f64, Option<usize>)], share: f64) -> Option<Self> {
        let own = || points.iter().filter(|(_, _, of)| *of == Some(group));
        let rows = own().count() as f64;
        if rows < 3.0 || !(share > 0.0 && share < 1.0) {
            return None;
        }
        let (x, y) = own().fold((0.0, 0.0), |(x, y), p| (x + p.0 / rows, y + p.1 / rows));
        let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
        for (px, py, _) in own() {
            xx += (px - x) * (px - x) / (rows - 1.0);
            xy += (px - x) * (py - y) / (rows - 1.0);
            yy += (py - y) * (py - y) / (rows - 1.0);
        }
        let (half, apart) = ((xx + yy) / 2.0, ((xx - yy) / 2.0).hypot(xy));
        // The quantile of chi squared with two degrees of freedom.
        let reach = -2.0 * (1.0 - share).ln();
        let (long, short) = (
            ((half + apart) * reach).sqrt(),
            ((half - apart).max(0.0) * reach).sqrt(),
        );
        let angle = 0.5 * (2.0 * xy).atan2(xx - yy);
        let whole = long > 0.0 && [x, y, long, short, angle].iter().all(|v| v.abs() < 1e299);
        whole.then_some(Self {
            group,
            x,
            y,
            long,
            short,
            angle,
        })
    }
}

/// The value below which a part of sorted values lies (linear between neighbours, Hyndman and Fan's type 7).
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = part * sorted.len().saturating_sub(1) as f64;
    let value = |i: usize| sorted.get(i).or(sorted.last()).copied().unwrap_or(0.0);
    let (low, high) = (value(at.floor() as usize), value(at.ceil() as usize));
    let between = at - at.floor();
    low * (1.0 - between) + high * between
}

fn sorted(operation: &'static str, values: &[f64]) -> Result<Vec<f64>> {
    if let Some(row) = values.iter().position(|v| v.is_nan() || v.abs() > 1e300) {
        return Err(
            Error::invalid("a value is not a number that can be drawn; clean the column first")
                .operation(operation)
                .with("row", row),
        );
    }
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    Ok(sorted)
}

impl Spread {
    /// The summary of values.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when a value is not finite.
    pub fn of(name: impl Into<String>, values: &[f64]) -> Result<Self> {
        let sorted = sorted("plot.spread", values)?;
        let (q1, median, q3) = (
            quantile(&sorted, 0.25),
            quantile(&sorted, 0.5),
            quantile(&sorted, 0.75),
        );
        let reach = 1.5 * (q3 - q1);
        let inside = |v: &&f64| **v >= q1 - reach && **v <= q3 + reach;
        let low = sorted.iter().find(inside).copied().unwrap_or(q1).min(q1);
        let high = sorted.iter().rev().find(inside).copied().unwrap_or(q3).max(q3);
        let outside: Vec<f64> = sorted
            .iter()
            .filter(|v| **v < low || **v > high)
            .copied()
            .collect();
        let rows = crate::sample::sample_rows(outside.len(), 200, 0, 0xb0);
        let mut outliers: Vec<f64> = rows.iter().filter_map(|row| outside.get(*row)).copied().collect();
        // The farthest are what is looked for.
        for end in [outside.first(), outside.last()].into_iter().flatten() {
            if !outliers.contains(end) {
                outliers.push(*end);
            }
        }
        Ok(Self {
            name: name.into(),
            rows: values.len(),
            low,
            q1,
            median,
            q3,
            high,
            outliers,
            outside: outside.len(),
        })
    }
}

impl Histogram {
    /// Counts values in about so many bins with round borders; `logarithmic` when all are above 0 and the greatest is more
    /// than 1,000 times the median. The median is marked.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when a value is not finite.
    pub fn of(
        title: impl Into<String>,
        x_label: impl Into<String>,
        values: &[f64],
        bins: usize,
    ) -> Result<Self> {
        let sorted = sorted("plot.histogram", values)?;
        let mut chart = Self {
            title: title.into(),
            x_label: x_label.into(),
            y_label: "Customers".into(),
            ..Self::default()
        };
        let (Some(low), Some(high)) = (sorted.first().copied(), sorted.last().copied()) else {
            return Ok(chart);
        };
        let bins = bins.clamp(1, 500);
        let median = quantile(&sorted, 0.5);
        chart.note = format!(
            "{} values from {} to {}",
            figure(sorted.len() as f64),
            figure(low),
            figure(high)
        );
        chart.guides = vec![Guide {
            at: median,
            name: format!("median {}", figure(median)),
        }];
        chart.logarithmic = low > 0.0 && median > 0.0 && high / median > 1_000.0;
        chart.edges = if chart.logarithmic {
            let per = ((high / low).ln() / bins as f64).max(1e-3);
            let mut edges: Vec<f64> = (0..=bins).map(|i| low * (per * i as f64).exp()).collect();
            if let Some(last) = edges.last_mut() {
                *last = last.max(high * 1.000_001);
            }
            edges
        } else {
            let axis = super::axes::Axis::over(
                std::iter::empty(),
                &Scale {
                    from: Some(low),
                    to: Some(if high > low {
                        high
                    } else {
                        low + low.abs().max(1.0) * 0.1
                    }),
                    ..Scale::default()
                },
            );
            let step = axis.round_step(bins);
            let first = (low / step).floor();
            let last = (((high / step).floor() - first) as usize).saturating_add(1);
            (0..=last.clamp(1, 2_000))
                .map(|i| (first + i as f64) * step)
                .collect()
        };
        chart.edges.dedup();
        if !chart.edges.is_sorted_by(|a, b| a < b)
            || chart.edges.len() < 2
            || chart.edges.iter().any(|v| !v.is_finite())
        {
            // Numbers so large or so near each other that steps between them vanish.
            let room = low.abs().max(high.abs()).max(1.0) * 0.1;
            chart.edges = vec![low - room, high + room];
            chart.logarithmic = false;
        }
        chart.counts = vec![0; chart.edges.len() - 1];
        for value in &sorted {
            let bin = chart
                .edges
                .partition_point(|edge| edge <= value)
                .clamp(1, chart.counts.len())
                - 1;
            if let Some(count) = chart.counts.get_mut(bin) {
                *count += 1;
            }
        }
        Ok(chart)
    }
}
