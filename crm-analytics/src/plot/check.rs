//! What can be drawn, and what a picture says in words.

use crm_core::{Error, Result};

use super::Chart;
use super::data::Colors;
use crate::insights::figure;

/// The largest number that is drawn: sums and distances of two of them are still numbers.
const LARGEST: f64 = 1e300;

fn fits(value: f64) -> bool {
    value.abs() <= LARGEST
}

pub(super) fn chart(chart: &Chart, width: u32, height: u32) -> Result<()> {
    if !(300..=8_000).contains(&width) || !(300..=8_000).contains(&height) {
        return Err(Error::invalid("a picture is 300 to 8,000 wide and high")
            .operation("plot.draw")
            .with("width", width)
            .with("height", height));
    }
    match sound(chart) {
        None => Ok(()),
        Some(field) => Err(Error::invalid(
            "a chart has a number that cannot be drawn (not finite, or beyond 1e300), or lists whose lengths do not fit",
        )
        .operation("plot.draw")
        .with("chart", chart.title())
        .with("field", field)),
    }
}

/// The field that is wrong.
fn sound(chart: &Chart) -> Option<&'static str> {
    let bad = |wrong: bool, field: &'static str| wrong.then_some(field);
    match chart {
        Chart::Scatter(chart) => bad(
            !chart.points.iter().all(|(x, y, _)| fits(*x) && fits(*y)),
            "points",
        )
        .or_else(|| {
            let whole = |e: &super::Ellipse| {
                [e.x, e.y, e.long, e.short, e.angle]
                    .iter()
                    .all(|v| v.abs() <= LARGEST / 4.0)
            };
            bad(!chart.ellipses.iter().all(whole), "ellipses")
        })
        .or_else(|| {
            bad(
                !chart
                    .arrows
                    .iter()
                    .all(|a| a.x.abs() <= 1e150 && a.y.abs() <= 1e150),
                "arrows",
            )
        }),
        Chart::Bars(chart) => bad(
            !chart.bars.iter().all(|bar| {
                let error = bar.error.unwrap_or(0.0);
                error >= 0.0 && fits(bar.value - error) && fits(bar.value + error) && fits(bar.value)
            }),
            "bars",
        )
        .or_else(|| bad(!chart.guides.iter().all(|guide| fits(guide.at)), "guides")),
        Chart::Profile(chart) => {
            let columns = chart.columns.len();
            let row = |row: &super::ProfileRow| {
                row.labels.len() == columns
                    && row.effects.len() == columns
                    && row.effects.iter().all(|v| v.is_finite())
            };
            bad(!chart.rows.iter().all(row), "rows")
        }
        Chart::Dots(chart) => {
            let row = |(_, values): &(String, Vec<f64>)| {
                values.len() == chart.rows.len() && values.iter().all(|v| fits(*v))
            };
            bad(!chart.groups.iter().all(row), "groups")
        }
        Chart::HeatMap(chart) => {
            let columns = chart.columns.len();
            let row = |row: &super::HeatRow| {
                row.labels.len() == columns
                    && row.values.len() == columns
                    && row.values.iter().flatten().all(|v| fits(*v))
            };
            let colors = match chart.colors {
                Colors::Sequential => true,
                Colors::Between(low, high) => fits(low) && fits(high) && low <= high,
                Colors::Diverging(reach) => fits(reach) && reach >= 0.0,
            };
            bad(!chart.rows.iter().all(row), "rows").or_else(|| bad(!colors, "colors"))
        }
        Chart::Lines(chart) => {
            let line = |line: &super::Line| {
                let points = line.points.iter().all(|(x, y)| fits(*x) && fits(*y));
                let band = line.band.is_empty() || line.band.len() == line.points.len();
                points && band && line.band.iter().all(|(low, high)| fits(*low) && fits(*high))
            };
            let ends = [chart.x.from, chart.x.to, chart.y.from, chart.y.to];
            bad(!chart.lines.iter().all(line), "lines")
                .or_else(|| bad(!ends.iter().flatten().all(|v| fits(*v)), "x, y"))
                .or_else(|| bad(!chart.guides.iter().all(|guide| fits(guide.at)), "guides"))
        }
        Chart::Histogram(chart) => {
            let ascending = chart.edges.is_sorted_by(|a, b| a < b)
                && chart.edges.iter().all(|v| v.abs() <= LARGEST * 2.0);
            let fit = chart.edges.len() == chart.counts.len() + 1
                || (chart.edges.is_empty() && chart.counts.is_empty());
            let above = !chart.logarithmic || chart.edges.first().is_none_or(|first| *first > 0.0);
            bad(!(ascending && fit && above), "edges")
                .or_else(|| bad(!chart.guides.iter().all(|guide| fits(guide.at)), "guides"))
        }
        Chart::Boxes(chart) => {
            let whole = |b: &super::Spread| {
                let ends = [b.low, b.q1, b.median, b.q3, b.high];
                ends.is_sorted() && ends.iter().chain(&b.outliers).all(|v| fits(*v))
            };
            bad(!chart.boxes.iter().all(whole), "boxes")
        }
        Chart::Tree(chart) => {
            let count = chart.nodes.len();
            // Each node below at most one, and below an earlier one: no circles.
            let mut below = vec![false; count];
            let mut wrong = false;
            for (at, node) in chart.nodes.iter().enumerate() {
                wrong |= !node.purity.is_finite();
                for (child, _) in &node.children {
                    match below.get_mut(*child) {
                        Some(seen) if *child > at && !*seen => *seen = true,
                        _ => wrong = true,
                    }
                }
            }
            bad(wrong, "nodes")
        }
        Chart::Funnel(_) => None,
        Chart::Panels(panels) => {
            let nested = panels
                .charts
                .iter()
                .any(|chart| matches!(chart, Chart::Panels(_)));
            bad(nested, "charts").or_else(|| panels.charts.iter().find_map(sound))
        }
    }
}

impl Chart {
    /// What is to be seen, in a few sentences: for people who do not see the picture, and for search.
    pub fn description(&self) -> String {
        let list = |parts: &mut dyn Iterator<Item = String>| {
            let parts: Vec<String> = parts.take(13).collect();
            match parts.get(..12) {
                Some(first) if parts.len() > 12 => format!("{}; and more", first.join("; ")),
                _ => parts.join("; "),
            }
        };
        let note = self.heading().1;
        let told = match self {
            Self::Scatter(chart) => format!(
                "{} points. Horizontally {}, vertically {}. Groups: {}.",
                figure(chart.points.len() as f64),
                chart.x_label,
                chart.y_label,
                list(&mut chart.groups.iter().map(|(name, below)| format!("{name} {below}")))
            ),
            Self::Bars(chart) => format!(
                "Bars: {}.",
                list(&mut chart.bars.iter().map(|bar| format!("{} {}", bar.name, bar.label)))
            ),
            Self::Profile(chart) => format!(
                "A table of {} by {}.",
                list(&mut chart.rows.iter().map(|row| row.name.clone())),
                list(&mut chart.columns.iter().cloned())
            ),
            Self::Dots(chart) => format!(
                "Dots of {} for {}.",
                list(&mut chart.groups.iter().map(|(name, _)| name.clone())),
                list(&mut chart.rows.iter().cloned())
            ),
            Self::HeatMap(chart) => format!(
                "{} by {}: {}.",
                chart.y_label,
                chart.x_label,
                list(
                    &mut chart
                        .rows
                        .iter()
                        .map(|row| format!("{} {}", row.name, row.labels.join(" ")))
                )
            ),
            Self::Lines(chart) => format!(
                "{} over {}: {}.",
                chart.y.label,
                chart.x.label,
                list(&mut chart.lines.iter().map(|line| {
                    match (line.points.first(), line.points.last()) {
                        (Some((x0, y0)), Some((x1, y1))) => format!(
                            "{} from {} at {} to {} at {}",
                            line.name,
                            figure(*y0),
                            figure(*x0),
                            figure(*y1),
                            figure(*x1)
                        ),
                        _ => line.name.clone(),
                    }
                }))
            ),
            Self::Histogram(chart) => format!(
                "{} of {} in {} bins from {} to {}.",
                chart.y_label,
                chart.x_label,
                chart.counts.len(),
                chart.edges.first().copied().map_or_else(String::new, figure),
                chart.edges.last().copied().map_or_else(String::new, figure)
            ),
            Self::Boxes(chart) => format!(
                "Medians: {}.",
                list(&mut chart.boxes.iter().map(|b| format!(
                    "{} {} (quartiles {} and {})",
                    b.name,
                    figure(b.median),
                    figure(b.q1),
                    figure(b.q3)
                )))
            ),
            Self::Tree(chart) => format!(
                "A tree of {} nodes: {}.",
                chart.nodes.len(),
                list(&mut chart.nodes.iter().map(|n| n.lines.join(", ")))
            ),
            Self::Funnel(chart) => format!(
                "Steps: {}.",
                list(
                    &mut chart
                        .steps
                        .iter()
                        .map(|(name, n)| format!("{name} {}", figure(*n as f64)))
                )
            ),
            Self::Panels(chart) => list(
                &mut chart
                    .charts
                    .iter()
                    .map(|chart| format!("{}: {}", chart.title(), chart.description())),
            ),
        };
        if note.is_empty() {
            told
        } else {
            format!("{note}. {told}")
        }
    }
}
