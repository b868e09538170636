//! Drawing, the same for every output.

mod bars;
mod curves;
mod grids;
mod plane;
mod trees;

use crm_core::{Error, Result};

use super::Chart;
use super::scene::{Anchor, Area, Ink, Scene};

/// Draws the title, the note and the chart.
pub(super) fn chart(chart: &Chart, scene: &mut Scene<'_>, page: Area) -> Result<()> {
    let (letter, line) = (scene.letter, scene.line());
    let (title, note) = chart.heading();
    let within = matches!(chart, Chart::Panels(_));
    let margin = letter * 1.2;
    let mut top = margin * 0.7 + letter * 0.7;
    let width = page.width - 2.0 * margin;
    if !title.is_empty() {
        scene.text(
            title,
            (page.x + margin, page.y + top),
            letter * 1.4,
            Ink::TEXT,
            Anchor::Start,
            width,
        );
        top += line * 1.05;
    }
    let density = match chart {
        Chart::Scatter(scatter) if scatter.points.len() > scene.most_marks => {
            let points = crate::plot::figure(scatter.points.len() as f64);
            let sep = if note.is_empty() { "" } else { "; " };
            format!("{note}{sep}{points} points as density, darker where there are more")
        }
        _ => note.to_owned(),
    };
    if !density.is_empty() {
        for text in scene.face.wrap(&density, letter * 0.92, width, 2) {
            scene.text(
                &text,
                (page.x + margin, page.y + top),
                letter * 0.92,
                Ink::FAINT,
                Anchor::Start,
                width,
            );
            top += line * 0.95;
        }
    }
    let side = if within { margin * 0.2 } else { margin };
    let body = page.within(side, top, side, if within { 0.0 } else { margin * 0.7 });
    if body.height < line * 4.0 || body.width < line * 6.0 {
        return Err(too_small("the picture is too small for its chart"));
    }
    match chart {
        Chart::Scatter(chart) => plane::scatter(chart, scene, body),
        Chart::Bars(chart) => bars::bars(chart, scene, body),
        Chart::Profile(chart) => grids::profile(chart, scene, body),
        Chart::Dots(chart) => bars::dots(chart, scene, body),
        Chart::HeatMap(chart) => grids::heat(chart, scene, body),
        Chart::Lines(chart) => curves::lines(chart, scene, body),
        Chart::Histogram(chart) => curves::histogram(chart, scene, body),
        Chart::Boxes(chart) => bars::boxes(chart, scene, body),
        Chart::Tree(chart) => trees::tree(chart, scene, body),
        Chart::Funnel(chart) => trees::funnel(chart, scene, body),
        Chart::Panels(panels) => {
            let columns = panels.columns.clamp(1, panels.charts.len().max(1));
            let rows = panels.charts.len().div_ceil(columns).max(1);
            let (width, height) = (body.width / columns as f64, body.height / rows as f64);
            let letter = scene.letter;
            scene.letter = (letter * if columns > 1 { 0.92 } else { 1.0 }).max(9.0);
            for (i, one) in panels.charts.iter().enumerate() {
                let (col, row) = (i % columns, i / columns);
                let area = Area {
                    x: body.x + width * col as f64,
                    y: body.y + height * row as f64,
                    width,
                    height,
                };
                self::chart(one, scene, area)?;
            }
            scene.letter = letter;
            Ok(())
        }
    }
}

fn too_small(message: &'static str) -> Error {
    Error::invalid(message).operation("plot.draw")
}

/// Names of groups with their marks, from the top of an area; `below` is a fainter second line.
fn legend(scene: &mut Scene<'_>, area: Area, groups: &[(String, String)]) {
    let (letter, line) = (scene.letter, scene.line());
    let size = letter * 0.9;
    let room = area.width - line * 1.4;
    let mut y = area.y + line * 0.6;
    for (at, (name, below)) in groups.iter().enumerate() {
        let lines = scene.face.wrap(name, size, room, 3);
        let height = size * 1.25 * lines.len() as f64;
        let second = if below.is_empty() { 0.0 } else { line * 0.95 };
        if y + height + second > area.bottom() {
            let more = format!("and {} more", groups.len() - at);
            scene.text(
                &more,
                (area.x + line * 1.3, y),
                size,
                Ink::FAINT,
                Anchor::Start,
                room,
            );
            break;
        }
        scene.mark(area.x + line * 0.6, y, letter * 0.38, Some(at));
        let middle = y + height / 2.0 - size * 0.625;
        scene.lines(
            &lines,
            (area.x + line * 1.3, middle),
            size,
            Ink::TEXT,
            Anchor::Start,
        );
        y += height;
        if !below.is_empty() {
            scene.text(
                below,
                (area.x + line * 1.3, y - size * 0.05),
                size * 0.95,
                Ink::FAINT,
                Anchor::Start,
                room,
            );
            y += second;
        }
        y += line * 0.35;
    }
}
