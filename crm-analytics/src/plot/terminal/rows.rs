//! Charts of which each thing is a line.

use super::super::data::{Bars, Boxes, Dots, Funnel, Histogram, Tree};
use super::{Lines, left, part, right, sign, span, widest};
use crate::insights::figure;

/// So many columns of block, to an eighth.
fn block(length: f64) -> String {
    let eighths = (length.max(0.0) * 8.0).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if let Some(rest) = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"].get(eighths % 8) {
        bar.push_str(rest);
    }
    bar
}

pub(super) fn bars(chart: &Bars, columns: usize, out: &mut Lines) {
    let names = widest(chart.bars.iter().map(|bar| bar.name.as_str()), columns * 35 / 100);
    let labels = widest(
        chart.bars.iter().map(|bar| bar.label.as_str()),
        columns * 25 / 100,
    );
    let room = columns.saturating_sub(names + labels + 3).max(4);
    let values = || chart.bars.iter().map(|bar| bar.value);
    let (low, high) = span(values().chain([0.0])).unwrap_or((0.0, 1.0));
    let zero = (part(0.0, low, high) * room as f64).round() as usize;
    let zero = if low < 0.0 { zero } else { 0 };
    for bar in &chart.bars {
        let length = if high > low && bar.value.is_finite() {
            (part(bar.value, low, high) - part(0.0, low, high)) * room as f64
        } else {
            0.0
        };
        let drawn = if length < 0.0 {
            // There are no blocks that begin on the right: half steps will do.
            let full = (-length).round() as usize;
            left(&format!("{}│", right(&"█".repeat(full.min(zero)), zero)), room)
        } else if low < 0.0 {
            left(&format!("{}│{}", " ".repeat(zero), block(length)), room + 1)
        } else {
            left(&block(length), room)
        };
        out.push(&format!(
            "{} {} {}",
            left(&bar.name, names),
            drawn.trim_end(),
            super::cut(&bar.label, labels)
        ));
    }
    if !chart.x_label.is_empty() {
        out.push(&format!(
            "{} {}",
            " ".repeat(names),
            left(&chart.x_label, room + labels + 1)
        ));
    }
}

pub(super) fn histogram(chart: &Histogram, columns: usize, out: &mut Lines) {
    // At most 30 lines: neighbours are put together.
    let every = chart.counts.len().div_ceil(30).max(1);
    let lines: Vec<(String, u64)> = chart
        .counts
        .chunks(every)
        .enumerate()
        .map(|(i, counts)| {
            let edge = |at: usize| chart.edges.get(at).copied().map_or_else(String::new, figure);
            (
                format!("{} to {}", edge(i * every), edge(i * every + counts.len())),
                counts.iter().fold(0, |a, b| u64::saturating_add(a, *b)),
            )
        })
        .collect();
    let names = widest(lines.iter().map(|(name, _)| name.as_str()), columns * 40 / 100);
    let most = lines.iter().map(|(_, n)| *n).max().unwrap_or(0).max(1) as f64;
    let room = columns.saturating_sub(names + 16).max(4) as f64;
    for (name, count) in &lines {
        out.push(&format!(
            "{} {} {}",
            right(name, names),
            block(*count as f64 / most * room),
            figure(*count as f64)
        ));
    }
    if !chart.x_label.is_empty() {
        out.push(&format!("{}: {}", chart.x_label, chart.y_label));
    }
}

pub(super) fn dots(chart: &Dots, columns: usize, out: &mut Lines) {
    let names = widest(chart.rows.iter().map(String::as_str), columns * 35 / 100);
    let room = columns.saturating_sub(names + 1).max(8);
    let values = chart.groups.iter().flat_map(|(_, values)| values.iter().copied());
    let (low, high) = span(values.chain([0.0])).unwrap_or((-1.0, 1.0));
    let place = |v: f64| (part(v, low, high) * (room - 1) as f64).round() as usize;
    for (at, name) in chart.rows.iter().enumerate() {
        let mut line = vec!['·'; room];
        let zero = [(place(0.0), '│')].into_iter();
        let marks = chart
            .groups
            .iter()
            .enumerate()
            .filter_map(|(group, (_, values))| {
                let value = values.get(at).filter(|v| v.is_finite())?;
                Some((place(*value), sign(group)))
            });
        for (col, c) in zero.chain(marks) {
            if let Some(cell) = line.get_mut(col) {
                *cell = c;
            }
        }
        out.push(&format!(
            "{} {}",
            left(name, names),
            line.iter().collect::<String>()
        ));
    }
    let scale = format!("{} … {} {}", figure(low), figure(high), chart.x_label);
    out.push(&format!("{} {}", " ".repeat(names), super::cut(&scale, room)));
    for (group, (name, _)) in chart.groups.iter().enumerate() {
        out.push(&super::cut(&format!("  {} {name}", sign(group)), columns));
    }
}

pub(super) fn boxes(chart: &Boxes, columns: usize, out: &mut Lines) {
    let names = widest(chart.boxes.iter().map(|b| b.name.as_str()), columns * 30 / 100);
    let room = columns.saturating_sub(names + 1).max(8);
    let ends = chart
        .boxes
        .iter()
        .filter(|b| b.rows > 0)
        .flat_map(|b| [b.low, b.high]);
    let (low, high) = span(ends).unwrap_or((0.0, 1.0));
    let place = |v: f64| (part(v, low, high) * (room - 1) as f64).round() as usize;
    for spread in &chart.boxes {
        let mut line = vec![' '; room];
        if spread.rows > 0 {
            let mut fill = |from: f64, to: f64, c: char| {
                for cell in line.iter_mut().take(place(to) + 1).skip(place(from)) {
                    *cell = c;
                }
            };
            fill(spread.low, spread.high, '─');
            fill(spread.low, spread.low, '├');
            fill(spread.high, spread.high, '┤');
            fill(spread.q1, spread.q3, '█');
            fill(spread.median, spread.median, '┃');
        }
        out.push(&format!(
            "{} {}",
            left(&spread.name, names),
            line.iter().collect::<String>()
        ));
        if spread.rows > 0 {
            let told = format!(
                "median {}, quartiles {} and {}, {} rows",
                figure(spread.median),
                figure(spread.q1),
                figure(spread.q3),
                figure(spread.rows as f64)
            );
            out.push(&format!("{} {}", " ".repeat(names), super::cut(&told, room)));
        }
    }
    let scale = format!("{} to {}: {}", figure(low), figure(high), chart.x_label);
    out.push(&format!("{} {}", " ".repeat(names), super::cut(&scale, room)));
}

pub(super) fn tree(chart: &Tree, columns: usize, out: &mut Lines) {
    // A node that is reached twice would go round for ever.
    let mut seen = vec![false; chart.nodes.len()];
    let mut stack: Vec<(usize, String, String)> = vec![(0, String::new(), String::new())];
    while let Some((at, indent, way)) = stack.pop() {
        let (Some(node), Some(seen)) = (chart.nodes.get(at), seen.get_mut(at)) else {
            continue;
        };
        if std::mem::replace(seen, true) {
            continue;
        }
        out.push(&super::cut(
            &format!("{indent}{way}{}", node.lines.join(", ")),
            columns,
        ));
        let below = if way.is_empty() {
            String::new()
        } else {
            format!("{indent}  ")
        };
        for (child, label) in node.children.iter().rev() {
            stack.push((*child, below.clone(), format!("└ {label}: ")));
        }
    }
}

pub(super) fn funnel(chart: &Funnel, columns: usize, out: &mut Lines) {
    let names = widest(
        chart.steps.iter().map(|(name, _)| name.as_str()),
        columns * 30 / 100,
    );
    let most = chart.steps.iter().map(|(_, n)| *n).max().unwrap_or(0).max(1) as f64;
    let room = columns.saturating_sub(names + 26).max(4);
    let mut before: Option<u64> = None;
    for (name, count) in &chart.steps {
        let full = ((*count as f64 / most * room as f64).round() as usize).min(room);
        let bar = format!("{}{}", " ".repeat((room - full) / 2), "█".repeat(full));
        let share = match before {
            Some(of) if of > 0 => format!(" ({:.1} %)", *count as f64 / of as f64 * 100.0),
            _ => String::new(),
        };
        out.push(&format!(
            "{} {} {}{share}",
            left(name, names),
            left(&bar, room),
            figure(*count as f64)
        ));
        before = Some(*count);
    }
}
