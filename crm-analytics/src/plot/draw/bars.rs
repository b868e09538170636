//! Rows with names on the left: bars, dots, boxes.

use crm_core::Result;

use super::super::axes::{Axis, Plane};
use super::super::data::{Bars, Boxes, Dots, Scale};
use super::super::scene::{Anchor, Area, Ink, Scene};
use super::{legend, too_small};

/// Names on the left of rows of one height.
struct Rows {
    left: f64,
    top: f64,
    step: f64,
}

impl Rows {
    /// As wide as the names need, a third at most.
    fn over(
        scene: &Scene<'_>,
        area: Area,
        names: &mut dyn Iterator<Item = &str>,
        count: usize,
    ) -> Result<Self> {
        let size = scene.letter * 0.95;
        let widest = names.map(|name| scene.face.width(name, size)).fold(0.0, f64::max);
        let left = (widest + scene.letter).min(area.width * 0.33);
        let step = (area.height / count.max(1) as f64).min(scene.line() * 4.2);
        if count > 0 && step < scene.letter * 0.95 {
            return Err(too_small("the picture is too low for its rows; make it higher").with("rows", count));
        }
        Ok(Self {
            left,
            top: area.y,
            step,
        })
    }
    fn middle(&self, at: usize) -> f64 {
        self.top + self.step * (at as f64 + 0.5)
    }
    fn name(&self, scene: &mut Scene<'_>, area: Area, at: usize, name: &str) {
        let size = scene.letter * 0.95;
        let lines = ((self.step / (size * 1.25)) as usize).clamp(1, 2);
        let text = scene.face.wrap(name, size, self.left - scene.letter * 0.6, lines);
        let place = (area.x + self.left - scene.letter * 0.6, self.middle(at));
        scene.lines(&text, place, size, Ink::TEXT, Anchor::End);
    }
}

/// Numbers below the rows, with lines up, and what they are.
fn axis_below(scene: &mut Scene<'_>, plane: &mut Plane, label: &str) {
    let (letter, line) = (scene.letter, scene.line());
    let size = letter * 0.85;
    let about = (plane.area.width / (size * 7.0)) as usize;
    for value in plane.x.ticks(about) {
        let at = plane.px(value);
        scene.path(
            vec![(at, plane.area.y), (at, plane.area.bottom())],
            1.0,
            Ink::LINE,
        );
        let text = plane.x.label(value);
        scene.text(
            &text,
            (at, plane.area.bottom() + line * 0.6),
            size,
            Ink::FAINT,
            Anchor::Middle,
            plane.area.width,
        );
    }
    let middle = (
        plane.area.x + plane.area.width / 2.0,
        plane.area.bottom() + line * 1.7,
    );
    scene.text(
        label,
        middle,
        letter * 0.92,
        Ink::TEXT,
        Anchor::Middle,
        plane.area.width,
    );
}

fn row_plane(area: Area, x: Axis) -> Plane {
    let y = Axis::over(std::iter::empty(), &Scale::default());
    Plane { area, x, y }
}

pub(super) fn bars(chart: &Bars, scene: &mut Scene<'_>, area: Area) -> Result<()> {
    let (letter, line) = (scene.letter, scene.line());
    let below = if chart.x_label.is_empty() { 0.0 } else { line * 2.3 };
    let above = if chart.guides.is_empty() { 0.0 } else { line * 1.1 };
    let rows_area = area.within(0.0, above, 0.0, below);
    let rows = Rows::over(
        scene,
        rows_area,
        &mut chart.bars.iter().map(|bar| bar.name.as_str()),
        chart.bars.len(),
    )?;
    let size = letter * 0.92;
    let label = chart
        .bars
        .iter()
        .map(|bar| scene.face.width(&bar.label, size))
        .fold(0.0, f64::max);
    let label = label.min(area.width * 0.28) + letter * 0.9;
    let negative = chart.bars.iter().any(|bar| bar.value < 0.0);
    let ends = chart.bars.iter().flat_map(|bar| {
        let error = bar.error.unwrap_or(0.0);
        [bar.value - error, bar.value + error, 0.0]
    });
    let ends = ends.chain(chart.guides.iter().map(|guide| guide.at));
    let scale = Scale {
        from: (!negative).then_some(0.0),
        ..Scale::default()
    };
    let room_left = if negative { label } else { 0.0 };
    let height = (rows.step * chart.bars.len() as f64).min(rows_area.height);
    let inner = Area {
        x: area.x + rows.left + room_left,
        y: rows_area.y,
        width: (area.width - rows.left - room_left - label).max(1.0),
        height,
    };
    let mut plane = row_plane(inner, Axis::over(ends, &scale));
    if !chart.x_label.is_empty() {
        axis_below(scene, &mut plane, &chart.x_label);
    }
    let zero = plane.px(0.0);
    for (at, bar) in chart.bars.iter().enumerate() {
        let middle = rows.middle(at);
        rows.name(scene, area, at, &bar.name);
        let thick = (rows.step * 0.62).min(line * 1.7);
        let end = plane.px(bar.value);
        let (x, width) = if end < zero {
            (end, zero - end)
        } else {
            (zero, (end - zero).max(1.0))
        };
        let ink = Ink::of(Some(bar.group.unwrap_or(if bar.value < 0.0 { 3 } else { 0 })));
        scene.rect(
            Area {
                x,
                y: middle - thick / 2.0,
                width,
                height: thick,
            },
            ink,
        );
        let (mut low, mut high) = (end.min(zero), end.max(zero));
        if let Some(error) = bar.error {
            let (from, to) = (plane.px(bar.value - error), plane.px(bar.value + error));
            scene.path(vec![(from, middle), (to, middle)], 1.4, Ink::TEXT);
            for x in [from, to] {
                scene.path(
                    vec![(x, middle - thick * 0.25), (x, middle + thick * 0.25)],
                    1.4,
                    Ink::TEXT,
                );
            }
            (low, high) = (low.min(from), high.max(to));
        }
        let (place, anchor) = if bar.value < 0.0 {
            ((low - letter * 0.45, middle), Anchor::End)
        } else {
            ((high + letter * 0.45, middle), Anchor::Start)
        };
        scene.text(&bar.label, place, size, Ink::FAINT, anchor, label - letter * 0.45);
    }
    if negative || !chart.x_label.is_empty() {
        scene.path(vec![(zero, inner.y), (zero, inner.bottom())], 1.0, Ink::AXIS);
    }
    for guide in &chart.guides {
        let at = plane.px(guide.at);
        scene.dashes(
            vec![(at, inner.y), (at, inner.bottom())],
            1.4,
            Ink::FAINT,
            letter * 0.4,
        );
        scene.text(
            &guide.name,
            (at, inner.y - line * 0.5),
            letter * 0.85,
            Ink::FAINT,
            Anchor::Middle,
            inner.width * 0.4,
        );
    }
    Ok(())
}

pub(super) fn dots(chart: &Dots, scene: &mut Scene<'_>, area: Area) -> Result<()> {
    let (letter, line) = (scene.letter, scene.line());
    let beside = area.width * 0.25;
    let rows_area = area.within(0.0, 0.0, beside, line * 2.3);
    let rows = Rows::over(
        scene,
        rows_area,
        &mut chart.rows.iter().map(String::as_str),
        chart.rows.len(),
    )?;
    let inner = Area {
        x: area.x + rows.left,
        y: rows_area.y,
        width: (rows_area.width - rows.left).max(1.0),
        height: (rows.step * chart.rows.len() as f64)
            .min(rows_area.height)
            .max(1.0),
    };
    let values = chart
        .groups
        .iter()
        .flat_map(|(_, values)| values.iter().copied())
        .chain([0.0]);
    let mut plane = row_plane(inner, Axis::over(values, &Scale::default()));
    axis_below(scene, &mut plane, &chart.x_label);
    let zero = plane.px(0.0);
    scene.path(vec![(zero, inner.y), (zero, inner.bottom())], 1.0, Ink::AXIS);
    for (at, name) in chart.rows.iter().enumerate() {
        rows.name(scene, area, at, name);
        let middle = rows.middle(at);
        let places = chart
            .groups
            .iter()
            .filter_map(|(_, values)| values.get(at))
            .map(|v| plane.px(*v));
        let (low, high) = places
            .clone()
            .fold((zero, zero), |(l, h), v| (l.min(v), h.max(v)));
        scene.path(vec![(low, middle), (high, middle)], 1.6, Ink::AXIS.part(0.6));
        for (group, place) in places.enumerate() {
            scene.mark(place, middle, letter * 0.42, Some(group));
        }
    }
    let names: Vec<(String, String)> = chart
        .groups
        .iter()
        .map(|(name, _)| (name.clone(), String::new()))
        .collect();
    legend(
        scene,
        area.within(area.width - beside + letter, 0.0, 0.0, 0.0),
        &names,
    );
    Ok(())
}

pub(super) fn boxes(chart: &Boxes, scene: &mut Scene<'_>, area: Area) -> Result<()> {
    let (letter, line) = (scene.letter, scene.line());
    let rows_area = area.within(0.0, 0.0, letter * 1.5, line * 2.3);
    let rows = Rows::over(
        scene,
        rows_area,
        &mut chart.boxes.iter().map(|b| b.name.as_str()),
        chart.boxes.len(),
    )?;
    let inner = Area {
        x: area.x + rows.left,
        y: rows_area.y,
        width: (rows_area.width - rows.left).max(1.0),
        height: (rows.step * chart.boxes.len() as f64)
            .min(rows_area.height)
            .max(1.0),
    };
    let values = chart
        .boxes
        .iter()
        .filter(|b| b.rows > 0)
        .flat_map(|b| [b.low, b.high].into_iter().chain(b.outliers.iter().copied()));
    let mut plane = row_plane(inner, Axis::over(values, &Scale::default()));
    axis_below(scene, &mut plane, &chart.x_label);
    for (at, spread) in chart.boxes.iter().enumerate() {
        rows.name(scene, area, at, &spread.name);
        if spread.rows == 0 {
            continue;
        }
        let middle = rows.middle(at);
        let half = (rows.step * 0.3).min(line * 0.9);
        let ink = Ink::of(Some(at));
        let [low, q1, median, q3, high] =
            [spread.low, spread.q1, spread.median, spread.q3, spread.high].map(|v| plane.px(v));
        scene.path(vec![(low, middle), (q1, middle)], 1.5, Ink::TEXT);
        scene.path(vec![(q3, middle), (high, middle)], 1.5, Ink::TEXT);
        for x in [low, high] {
            scene.path(
                vec![(x, middle - half * 0.5), (x, middle + half * 0.5)],
                1.5,
                Ink::TEXT,
            );
        }
        let body = Area {
            x: q1,
            y: middle - half,
            width: (q3 - q1).max(1.0),
            height: half * 2.0,
        };
        scene.rect(body, ink.towards(Ink::WHITE, 0.35));
        scene.frame(body, 1.2, Ink::TEXT);
        scene.path(
            vec![(median, middle - half), (median, middle + half)],
            2.6,
            Ink::TEXT,
        );
        for value in &spread.outliers {
            scene.mark(plane.px(*value), middle, letter * 0.16, Some(at));
        }
    }
    Ok(())
}
