//! Numbers in cells.

use crm_core::Result;

use super::super::data::{Colors, HeatMap, Profile};
use super::super::scene::{Anchor, Area, Ink, Scene};
use super::too_small;

/// White at 0, orange above, blue below.
fn diverging(part: f64) -> Ink {
    let full = if part < 0.0 {
        Ink(0x2b, 0x83, 0xba, 255)
    } else {
        Ink(0xe6, 0x7a, 0x22, 255)
    };
    Ink::WHITE.towards(full, part.abs())
}

/// From nearly white over blue to very dark blue: lightness falls all the way.
fn sequential(part: f64) -> Ink {
    let (pale, full, dark) = (
        Ink(0xee, 0xf5, 0xfb, 255),
        Ink(0x2f, 0x86, 0xc1, 255),
        Ink(0x08, 0x2c, 0x57, 255),
    );
    if part < 0.6 {
        pale.towards(full, part / 0.6)
    } else {
        full.towards(dark, (part - 0.6) / 0.4)
    }
}

struct Grid {
    left: f64,
    top: f64,
    cell: f64,
    step: f64,
}

impl Grid {
    fn place(&self, row: usize, col: usize) -> Area {
        Area {
            x: self.left + self.cell * col as f64,
            y: self.top + self.step * row as f64,
            width: self.cell,
            height: self.step,
        }
    }
}

/// Names above and beside the cells.
fn grid(scene: &mut Scene<'_>, area: Area, columns: &[String], rows: &[&str], tallest: f64) -> Result<Grid> {
    let letter = scene.letter;
    let size = letter * 0.9;
    let widest = rows
        .iter()
        .map(|name| scene.face.width(name, size))
        .fold(0.0, f64::max);
    let names = (widest + letter * 1.2).min(area.width * 0.3);
    let cell = (area.width - names) / columns.len().max(1) as f64;
    let broken: Vec<Vec<String>> = columns
        .iter()
        .map(|name| scene.face.wrap(name, size, cell - letter * 0.3, 2))
        .collect();
    let header = size * 1.25 * broken.iter().map(Vec::len).max().unwrap_or(1) as f64 + letter * 0.5;
    let step = ((area.height - header) / rows.len().max(1) as f64).min(tallest);
    if step < letter * 0.9 || cell < letter {
        return Err(
            too_small("the picture is too small for its rows and columns; make it larger")
                .with("rows", rows.len())
                .with("columns", columns.len()),
        );
    }
    let grid = Grid {
        left: area.x + names,
        top: area.y + header,
        cell,
        step,
    };
    for (col, lines) in broken.iter().enumerate() {
        let height = size * 1.25 * lines.len() as f64;
        let place = grid.place(0, col);
        let middle = (place.x + cell / 2.0, grid.top - letter * 0.3 - height / 2.0);
        scene.lines(lines, middle, size, Ink::FAINT, Anchor::Middle);
    }
    for (row, name) in rows.iter().enumerate() {
        let place = grid.place(row, 0);
        let most = ((step / (size * 1.25)) as usize).clamp(1, 2);
        let lines = scene.face.wrap(name, size, names - letter * 0.9, most);
        scene.lines(
            &lines,
            (grid.left - letter * 0.6, place.y + step / 2.0),
            size,
            Ink::TEXT,
            Anchor::End,
        );
    }
    Ok(grid)
}

fn cell(scene: &mut Scene<'_>, place: Area, ink: Ink, label: &str) {
    scene.rect(place.within(1.0, 1.0, 1.0, 1.0), ink);
    let size = (scene.letter * 0.92).min(place.height * 0.7);
    // A smaller letter before an ellipsis.
    let fits = scene.face.width(label, size) <= place.width - 2.0;
    let size = if fits { size } else { size * 0.75 };
    let middle = (place.x + place.width / 2.0, place.y + place.height / 2.0);
    scene.text(label, middle, size, ink.on(), Anchor::Middle, place.width - 2.0);
}

pub(super) fn profile(chart: &Profile, scene: &mut Scene<'_>, area: Area) -> Result<()> {
    let names: Vec<&str> = chart.rows.iter().map(|row| row.name.as_str()).collect();
    let columns: Vec<String> = chart
        .columns
        .iter()
        .map(|name| name.strip_prefix("attributes.").unwrap_or(name).to_owned())
        .collect();
    let tallest = scene.line() * 3.2;
    let grid = grid(scene, area, &columns, &names, tallest)?;
    for (at, row) in chart.rows.iter().enumerate() {
        for (col, (label, effect)) in row.labels.iter().zip(&row.effects).enumerate() {
            let ink = diverging(effect / 2.0);
            let place = grid.place(at, col);
            scene.rect(place.within(1.0, 1.0, 1.0, 1.0), Ink::LINE);
            cell(scene, place.within(0.7, 0.7, 0.7, 0.7), ink, label);
        }
    }
    Ok(())
}

pub(super) fn heat(chart: &HeatMap, scene: &mut Scene<'_>, area: Area) -> Result<()> {
    let (letter, line) = (scene.letter, scene.line());
    let values = || {
        chart
            .rows
            .iter()
            .flat_map(|row| row.values.iter().flatten().copied())
    };
    let (low, high) = match chart.colors {
        Colors::Sequential => {
            let (low, high) = values().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
                (l.min(v), h.max(v))
            });
            if low <= high { (low, high) } else { (0.0, 1.0) }
        }
        Colors::Between(low, high) => (low, high),
        Colors::Diverging(reach) => (-reach, reach),
    };
    let ink = |value: f64| match chart.colors {
        Colors::Diverging(reach) => diverging(if reach > 0.0 {
            (value / reach).clamp(-1.0, 1.0)
        } else {
            0.0
        }),
        _ => sequential(if high > low {
            ((value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0)).clamp(0.0, 1.0)
        } else {
            0.5
        }),
    };
    let beside = letter * 5.2;
    let under = if chart.x_label.is_empty() {
        letter * 0.4
    } else {
        line * 1.3
    };
    let left = if chart.y_label.is_empty() { 0.0 } else { line * 1.2 };
    let body = area.within(left, 0.0, beside, under);
    let names: Vec<&str> = chart.rows.iter().map(|row| row.name.as_str()).collect();
    let tallest = scene.line() * 4.0;
    let grid = grid(scene, body, &chart.columns, &names, tallest)?;
    for (at, row) in chart.rows.iter().enumerate() {
        for (col, value) in row.values.iter().enumerate() {
            let label = row.labels.get(col).map_or("", String::as_str);
            match value {
                Some(value) => cell(scene, grid.place(at, col), ink(*value), label),
                None if label.is_empty() => {}
                None => cell(scene, grid.place(at, col), Ink::WHITE, label),
            }
        }
    }
    let bottom = grid.top + grid.step * chart.rows.len() as f64;
    let middle = grid.left + grid.cell * chart.columns.len() as f64 / 2.0;
    scene.text(
        &chart.x_label,
        (middle, bottom + line * 0.8),
        letter * 0.92,
        Ink::TEXT,
        Anchor::Middle,
        body.width,
    );
    let upright = (grid.top + bottom) / 2.0;
    scene.text_up(
        &chart.y_label,
        (area.x + line * 0.45, upright),
        letter * 0.92,
        Ink::TEXT,
        bottom - grid.top,
    );
    // What the colours mean.
    let bar = Area {
        x: area.right() - beside + letter * 0.9,
        y: grid.top,
        width: letter * 0.9,
        height: (bottom - grid.top).min(line * 12.0),
    };
    if bar.height > line * 2.5 {
        for i in 0..32 {
            let value = high + (low - high) * f64::from(i) / 31.0;
            let y = bar.y + bar.height * f64::from(i) / 32.0;
            scene.rect(
                Area {
                    y,
                    height: bar.height / 32.0 + 0.6,
                    ..bar
                },
                ink(value),
            );
        }
        let size = letter * 0.8;
        let ends = [
            (high, bar.y + size * 0.5),
            ((low / 2.0 + high / 2.0), bar.y + bar.height / 2.0),
            (low, bar.bottom() - size * 0.5),
        ];
        for (value, y) in ends {
            let text = crate::plot::figure(value);
            scene.text(
                &text,
                (bar.right() + letter * 0.3, y),
                size,
                Ink::FAINT,
                Anchor::Start,
                beside - letter * 2.1,
            );
        }
        scene.text(
            &chart.value_label,
            (area.right(), bar.y - line * 0.6),
            size,
            Ink::FAINT,
            Anchor::End,
            beside,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_can_be_read_on_every_colour() {
        for i in -100..=100 {
            let part = f64::from(i) / 100.0;
            for ink in [diverging(part), sequential(part.abs())] {
                let (a, b) = (ink.luminance() + 0.05, ink.on().luminance() + 0.05);
                let contrast = a.max(b) / a.min(b);
                assert!(contrast >= 3.9, "{part} {ink:?} {contrast}");
            }
        }
        let light: Vec<f64> = (0..=20)
            .map(|i| sequential(f64::from(i) / 20.0).luminance())
            .collect();
        assert!(
            light.windows(2).all(|w| w[1] < w[0]),
            "darker means more, in grey as well: {light:?}"
        );
    }
}
