//! Charts on a grid of letters.

use super::super::data::{Colors, HeatMap, Lines as LineChart, Look, Profile, Scatter};
use super::{Grid, Lines, cut, left, part, right, sign, span, widest};
use crate::insights::figure;

/// A table with names on the left and above.
fn table(out: &mut Lines, columns: usize, heads: &[&str], rows: &[(&str, Vec<String>)]) {
    let names = widest(rows.iter().map(|(name, _)| *name), columns * 35 / 100);
    let each = (columns.saturating_sub(names) / heads.len().max(1)).saturating_sub(1);
    let cells = rows
        .iter()
        .flat_map(|(_, cells)| cells.iter().map(String::as_str));
    let each = widest(heads.iter().copied().chain(cells), each.max(3));
    let line = |name: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.map(|cell| right(cell, each)).collect();
        format!("{} {}", left(name, names), cells.join(" "))
    };
    out.push(&line("", &mut heads.iter().copied()));
    for (name, cells) in rows {
        out.push(&line(name, &mut cells.iter().map(String::as_str)));
    }
}

pub(super) fn profile(chart: &Profile, columns: usize, out: &mut Lines) {
    let heads: Vec<&str> = chart.columns.iter().map(String::as_str).collect();
    let rows: Vec<(&str, Vec<String>)> = chart
        .rows
        .iter()
        .map(|row| {
            let cells = row.labels.iter().zip(&row.effects).map(|(label, effect)| {
                let arrow = if *effect >= 0.5 {
                    " ▲"
                } else if *effect <= -0.5 {
                    " ▼"
                } else {
                    "  "
                };
                format!("{label}{arrow}")
            });
            (row.name.as_str(), cells.collect())
        })
        .collect();
    table(out, columns, &heads, &rows);
}

pub(super) fn heat(chart: &HeatMap, columns: usize, out: &mut Lines) {
    let values = chart
        .rows
        .iter()
        .flat_map(|row| row.values.iter().flatten().copied());
    let (low, high) = match chart.colors {
        Colors::Sequential => span(values).unwrap_or((0.0, 1.0)),
        Colors::Between(low, high) => (low, high),
        Colors::Diverging(reach) => (-reach, reach),
    };
    let shade = |value: Option<f64>| {
        let at = value.map(|v| (part(v, low, high) * 4.0).round() as usize);
        at.and_then(|at| [' ', '░', '▒', '▓', '█'].get(at))
            .copied()
            .unwrap_or(' ')
    };
    let heads: Vec<&str> = chart.columns.iter().map(String::as_str).collect();
    let rows: Vec<(&str, Vec<String>)> = chart
        .rows
        .iter()
        .map(|row| {
            let cells = row
                .values
                .iter()
                .zip(&row.labels)
                .map(|(value, label)| format!("{label} {}", shade(*value)));
            (row.name.as_str(), cells.collect())
        })
        .collect();
    table(out, columns, &heads, &rows);
    if !(chart.x_label.is_empty() && chart.y_label.is_empty()) {
        out.push(&cut(
            &format!("rows: {}; columns: {}", chart.y_label, chart.x_label),
            columns,
        ));
    }
}

/// A plane of letters with the ends of its axes written beside.
fn plane(out: &mut Lines, grid: &Grid, (x0, x1): (f64, f64), (y0, y1): (f64, f64), labels: (&str, &str)) {
    let (top, bottom) = (figure(y1), figure(y0));
    let beside = widest([top.as_str(), bottom.as_str()].into_iter(), 12);
    let rows: Vec<String> = grid.rows().collect();
    if !labels.1.is_empty() {
        out.push(&cut(labels.1, grid.columns + beside + 1));
    }
    for (i, row) in rows.iter().enumerate() {
        let label = if i == 0 {
            top.as_str()
        } else if i + 1 == rows.len() {
            bottom.as_str()
        } else {
            ""
        };
        out.push(&format!("{}│{row}", right(label, beside)));
    }
    out.push(&format!("{}└{}", " ".repeat(beside), "─".repeat(grid.columns)));
    let (from, to) = (figure(x0), figure(x1));
    let middle = grid
        .columns
        .saturating_sub(super::width(&from) + super::width(&to));
    let label = cut(labels.0, middle.saturating_sub(2));
    out.push(&format!(
        "{} {from}{}{to}",
        " ".repeat(beside),
        left(&format!(" {label}"), middle)
    ));
}

pub(super) fn scatter(chart: &Scatter, columns: usize, out: &mut Lines) {
    let finite = || {
        chart
            .points
            .iter()
            .filter(|(x, y, _)| x.is_finite() && y.is_finite())
    };
    let (Some(x), Some(y)) = (span(finite().map(|p| p.0)), span(finite().map(|p| p.1))) else {
        out.push("(no points)");
        return;
    };
    let (wide, high) = (columns.saturating_sub(13).max(10), (columns / 4).clamp(8, 40));
    let signs = chart.groups.len().min(24) + 1;
    let mut counts = vec![0_u32; wide * high * signs];
    for (px, py, group) in finite() {
        let col = (part(*px, x.0, x.1) * (wide - 1) as f64).round() as usize;
        let row = ((1.0 - part(*py, y.0, y.1)) * (high - 1) as f64).round() as usize;
        let group = group.map_or(signs - 1, |group| group.min(signs - 1));
        if let Some(count) = counts.get_mut((row * wide + col) * signs + group) {
            *count += 1;
        }
    }
    let mut grid = Grid::new(wide, high);
    for (at, counts) in counts.chunks_exact(signs).enumerate() {
        let best = counts.iter().enumerate().rev().max_by_key(|(_, n)| **n);
        if let Some((group, n)) = best
            && *n > 0
        {
            grid.set(
                at % wide,
                at / wide,
                if group + 1 == signs { '.' } else { sign(group) },
            );
        }
    }
    plane(out, &grid, x, y, (&chart.x_label, &chart.y_label));
    for (group, (name, below)) in chart.groups.iter().enumerate() {
        out.push(&cut(&format!("  {} {name} {below}", sign(group)), columns));
    }
}

pub(super) fn lines(chart: &LineChart, columns: usize, out: &mut Lines) {
    let points = || {
        chart
            .lines
            .iter()
            .flat_map(|line| line.points.iter())
            .filter(|(x, y)| x.is_finite() && y.is_finite())
    };
    let (Some(x), Some(y)) = (span(points().map(|p| p.0)), span(points().map(|p| p.1))) else {
        out.push("(no lines)");
        return;
    };
    let end = |said: Option<f64>, found: f64| said.filter(|v| v.is_finite()).unwrap_or(found);
    let x = (end(chart.x.from, x.0).min(x.0), end(chart.x.to, x.1).max(x.1));
    let y = (end(chart.y.from, y.0).min(y.0), end(chart.y.to, y.1).max(y.1));
    let (wide, high) = (columns.saturating_sub(13).max(10), (columns / 5).clamp(8, 24));
    let mut grid = Grid::new(wide, high);
    let mut group = 0;
    let mut names = Vec::new();
    for line in &chart.lines {
        let c = if line.look == Look::Baseline {
            '·'
        } else {
            group += 1;
            sign(group - 1)
        };
        names.push((c, line.name.as_str()));
        for pair in line.points.windows(2) {
            let [(x0, y0), (x1, y1)] = pair else { continue };
            let from = part(*x0, x.0, x.1) * (wide - 1) as f64;
            let to = part(*x1, x.0, x.1) * (wide - 1) as f64;
            let steps = ((to - from).abs().ceil() as usize).clamp(1, wide);
            for i in 0..=steps {
                let between = i as f64 / steps as f64;
                let value = if line.look == Look::Steps && i < steps {
                    *y0
                } else {
                    y0 + (y1 - y0) * between
                };
                let row = ((1.0 - part(value, y.0, y.1)) * (high - 1) as f64).round() as usize;
                grid.set((from + (to - from) * between).round() as usize, row, c);
            }
        }
        if let [(px, py)] = line.points.as_slice() {
            let row = ((1.0 - part(*py, y.0, y.1)) * (high - 1) as f64).round() as usize;
            grid.set((part(*px, x.0, x.1) * (wide - 1) as f64).round() as usize, row, c);
        }
    }
    plane(out, &grid, x, y, (&chart.x.label, &chart.y.label));
    for (c, name) in names.into_iter().filter(|(_, name)| !name.is_empty()) {
        out.push(&cut(&format!("  {c} {name}"), columns));
    }
    for guide in chart.guides.iter().filter(|guide| guide.at.is_finite()) {
        out.push(&cut(
            &format!("  at {}: {}", figure(guide.at), guide.name),
            columns,
        ));
    }
}
