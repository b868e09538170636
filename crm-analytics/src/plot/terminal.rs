//! Charts made of letters, for terminals and logs.

mod grids;
mod rows;

use super::Chart;
use super::font::{columns as wide, plain};

pub(super) fn write(chart: &Chart, columns: usize) -> String {
    let mut out = Lines::default();
    let (title, note) = chart.heading();
    for text in [title, note] {
        if !text.is_empty() {
            out.push(&cut(text, columns));
        }
    }
    match chart {
        Chart::Scatter(chart) => grids::scatter(chart, columns, &mut out),
        Chart::Bars(chart) => rows::bars(chart, columns, &mut out),
        Chart::Profile(chart) => grids::profile(chart, columns, &mut out),
        Chart::Dots(chart) => rows::dots(chart, columns, &mut out),
        Chart::HeatMap(chart) => grids::heat(chart, columns, &mut out),
        Chart::Lines(chart) => grids::lines(chart, columns, &mut out),
        Chart::Histogram(chart) => rows::histogram(chart, columns, &mut out),
        Chart::Boxes(chart) => rows::boxes(chart, columns, &mut out),
        Chart::Tree(chart) => rows::tree(chart, columns, &mut out),
        Chart::Funnel(chart) => rows::funnel(chart, columns, &mut out),
        Chart::Panels(panels) => {
            for chart in panels
                .charts
                .iter()
                .filter(|chart| !matches!(chart, Chart::Panels(_)))
            {
                out.push("");
                out.0.push_str(&write(chart, columns));
            }
        }
    }
    out.0
}

/// Text, line by line, without blanks at the ends.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn push(&mut self, line: &str) {
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }
}

/// How many columns a text takes.
fn width(text: &str) -> usize {
    text.chars().map(|c| usize::from(wide(c))).sum()
}

/// Cut to so many columns, with an ellipsis.
fn cut(text: &str, most: usize) -> String {
    let text = plain(text);
    if width(&text) <= most {
        return text;
    }
    let mut room = most.saturating_sub(1);
    let kept = text.chars().take_while(|c| {
        let fits = usize::from(wide(*c)) <= room;
        room = room.saturating_sub(usize::from(wide(*c)));
        fits
    });
    let kept: String = kept.collect();
    if most == 0 {
        String::new()
    } else {
        format!("{}…", kept.trim_end())
    }
}

/// Cut and filled up to so many columns.
fn left(text: &str, columns: usize) -> String {
    let text = cut(text, columns);
    let room = columns.saturating_sub(width(&text));
    format!("{text}{}", " ".repeat(room))
}

/// The same, to the right.
fn right(text: &str, columns: usize) -> String {
    let text = cut(text, columns);
    let room = columns.saturating_sub(width(&text));
    format!("{}{text}", " ".repeat(room))
}

/// As wide as the widest, within bounds.
fn widest<'t>(texts: impl Iterator<Item = &'t str>, most: usize) -> usize {
    texts.map(|text| width(&plain(text))).max().unwrap_or(0).min(most)
}

/// Where a number lies between two others, 0 to 1; the middle when they are the same.
fn part(value: f64, low: f64, high: f64) -> f64 {
    let part = (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
    if part.is_finite() {
        part.clamp(0.0, 1.0)
    } else {
        0.5
    }
}

/// The least and the greatest finite number.
fn span(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
    (low <= high).then_some((low, high))
}

/// The sign of a group.
fn sign(group: usize) -> char {
    ['o', 'x', '+', '*', '#', '%', '@', '&']
        .get(group % 8)
        .copied()
        .unwrap_or('o')
}

/// A grid of letters.
struct Grid {
    columns: usize,
    cells: Vec<char>,
}

impl Grid {
    fn new(columns: usize, rows: usize) -> Self {
        Self {
            columns: columns.max(1),
            cells: vec![' '; columns.max(1) * rows],
        }
    }
    fn set(&mut self, col: usize, row: usize, c: char) {
        if col < self.columns
            && let Some(cell) = self.cells.get_mut(row * self.columns + col)
        {
            *cell = c;
        }
    }
    fn rows(&self) -> impl Iterator<Item = String> {
        self.cells.chunks(self.columns).map(|row| row.iter().collect())
    }
}
