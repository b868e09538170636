//! Points on a plane.

use std::collections::BTreeMap;

use crm_core::Result;

use super::super::axes::{Axis, Plane};
use super::super::data::{Scale, Scatter};
use super::super::scene::{Anchor, Area, Ink, Scene, Shape};
use super::legend;

pub(super) fn scatter(chart: &Scatter, scene: &mut Scene<'_>, area: Area) -> Result<()> {
    let letter = scene.letter;
    let beside = if chart.groups.is_empty() {
        0.0
    } else {
        area.width * 0.27
    };
    let scale = Scale::default();
    let reach = |axis: fn(&(f64, f64)) -> f64| {
        let around = chart.ellipses.iter().flat_map(move |e| {
            let (sin, cos) = e.angle.sin_cos();
            let (w, h) = (
                (e.long * cos).hypot(e.short * sin),
                (e.long * sin).hypot(e.short * cos),
            );
            [axis(&(e.x - w, e.y - h)), axis(&(e.x + w, e.y + h))]
        });
        chart
            .points
            .iter()
            .map(move |(x, y, _)| axis(&(*x, *y)))
            .chain(around)
    };
    let plane = Plane::draw(
        scene,
        area.within(0.0, 0.0, beside, 0.0),
        Axis::over(reach(|p| p.0), &scale),
        Axis::over(reach(|p| p.1), &scale),
        (&chart.x_label, &chart.y_label),
    );
    if chart.points.len() > scene.most_marks {
        density(chart, scene, &plane);
    } else {
        let at = chart.points.iter().map(|(x, y, group)| {
            let group = group.map_or(u16::MAX, |group| (group % 24) as u16);
            (plane.px(*x) as f32, plane.py(*y) as f32, group)
        });
        // The more there are, the smaller and paler each.
        let many = (chart.points.len() as f64 / 300.0).max(1.0).log10();
        let size = (letter * (0.27 - 0.07 * many)).max(1.4);
        let cover = (0.8 - 0.17 * many).clamp(0.25, 0.8);
        let at = at.collect();
        scene.shapes.push(Shape::Marks { at, size, cover });
    }
    for ellipse in &chart.ellipses {
        let ink = Ink::of(Some(ellipse.group));
        let outline: Vec<(f64, f64)> =
            Scene::round(ellipse.x, ellipse.y, (ellipse.long, ellipse.short), ellipse.angle)
                .into_iter()
                .map(|(x, y)| (plane.px(x), plane.py(y)))
                .collect();
        let closed = outline.iter().chain(outline.first()).copied().collect();
        scene.fill(outline, ink.part(0.06));
        scene.path(closed, 1.8, ink.towards(Ink::TEXT, 0.25));
    }
    arrows(chart, scene, &plane);
    legend(
        scene,
        area.within(area.width - beside + letter, 0.0, 0.0, 0.0),
        &chart.groups,
    );
    Ok(())
}

/// Directions from the origin of the data, as long as there is room.
fn arrows(chart: &Scatter, scene: &mut Scene<'_>, plane: &Plane) {
    let letter = scene.letter;
    let longest = chart.arrows.iter().map(|a| a.x.hypot(a.y)).fold(0.0, f64::max);
    if longest <= 0.0 {
        return;
    }
    let inside = |v: f64| v.clamp(0.15, 0.85);
    let from = (
        plane.area.x + plane.area.width * inside(plane.x.part(0.0)),
        plane.area.bottom() - plane.area.height * inside(plane.y.part(0.0)),
    );
    let room = [
        from.0 - plane.area.x,
        plane.area.right() - from.0,
        from.1 - plane.area.y,
        plane.area.bottom() - from.1,
    ];
    let reach = room.into_iter().fold(f64::INFINITY, f64::min).max(letter * 4.0) * 0.86;
    let mut names: Vec<(f64, f64)> = Vec::new();
    for arrow in &chart.arrows {
        let to = (
            from.0 + arrow.x / longest * reach,
            from.1 - arrow.y / longest * reach,
        );
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx.hypot(dy);
        if length < letter * 0.5 {
            continue;
        }
        let (ux, uy) = (dx / length, dy / length);
        let head = letter * 0.55;
        let neck = (to.0 - ux * head, to.1 - uy * head);
        // A white line below makes it stand out from the points.
        scene.path(vec![from, neck], 3.6, Ink::WHITE.part(0.7));
        scene.path(vec![from, neck], 1.7, Ink::TEXT);
        let wing = head * 0.4;
        scene.fill(
            vec![
                to,
                (neck.0 - uy * wing, neck.1 + ux * wing),
                (neck.0 + uy * wing, neck.1 - ux * wing),
            ],
            Ink::TEXT,
        );
        let size = letter * 0.85;
        let text = scene.face.cut(&arrow.name, size, plane.area.width * 0.3);
        let width = scene.face.width(&text, size);
        let mut at = (
            to.0 + ux * letter * 0.3 + if ux < 0.0 { -width } else { 0.0 },
            to.1 + uy * letter * 0.8,
        );
        at.0 =
            at.0.clamp(plane.area.x, (plane.area.right() - width).max(plane.area.x));
        // Names do not lie on each other.
        while names
            .iter()
            .any(|(x, y)| (at.1 - y).abs() < size * 1.1 && (at.0 - x).abs() < width + letter)
        {
            at.1 += size * 1.15;
            if at.1 > plane.area.bottom() {
                break;
            }
        }
        names.push(at);
        let behind = Area {
            x: at.0 - size * 0.2,
            y: at.1 - size * 0.65,
            width: width + size * 0.4,
            height: size * 1.3,
        };
        scene.rect(behind, Ink::WHITE.part(0.75));
        scene.text(&text, at, size, Ink::TEXT, Anchor::Start, f64::INFINITY);
    }
}

/// Hexagons, coloured by the group that has most points in them and by how many there are.
fn density(chart: &Scatter, scene: &mut Scene<'_>, plane: &Plane) {
    let cells = hexagons(chart, plane, (plane.area.width / 64.0).max(4.0));
    let most = cells.iter().map(|cell| cell.points).max().unwrap_or(1) as f64;
    let mut by_ink: BTreeMap<Ink, Vec<&Cell>> = BTreeMap::new();
    for cell in &cells {
        // Nine steps are as many as people tell apart.
        let part = ((cell.points as f64).ln() / most.ln().max(1e-9) * 8.0).round() / 8.0;
        let ink = Ink::WHITE.towards(Ink::of(cell.group), 0.22 + 0.78 * part);
        by_ink.entry(ink).or_default().push(cell);
    }
    for (ink, cells) in by_ink {
        for cell in cells {
            let outline = (0..6).map(|i| {
                let (sin, cos) = (std::f64::consts::TAU * (f64::from(i) + 0.5) / 6.0).sin_cos();
                (cell.x + cell.radius * cos, cell.y + cell.radius * sin)
            });
            scene.fill(outline.collect(), ink);
        }
    }
}

pub(super) struct Cell {
    x: f64,
    y: f64,
    radius: f64,
    points: u64,
    group: Option<usize>,
}

/// Counts the points of each hexagon, `width` units wide, and of each group in it.
fn hexagons(chart: &Scatter, plane: &Plane, width: f64) -> Vec<Cell> {
    let radius = width / 3_f64.sqrt();
    let row_height = radius * 1.5;
    let columns = (plane.area.width / width) as usize + 3;
    let rows = (plane.area.height / row_height) as usize + 3;
    let groups = chart.groups.len().min(24) + 1;
    let mut counts = vec![0_u32; columns * rows * groups];
    for (x, y, group) in &chart.points {
        let (px, py) = (plane.px(*x) - plane.area.x, plane.py(*y) - plane.area.y);
        // The nearer of the two centres around, on even and on odd lines.
        let near = |odd: bool| {
            let shift = if odd { 0.5 } else { 0.0 };
            let row =
                ((py / row_height - f64::from(u8::from(odd))) / 2.0).round() * 2.0 + f64::from(u8::from(odd));
            let col = (px / width - shift).round();
            let (cx, cy) = ((col + shift) * width, row * row_height);
            ((px - cx) * (px - cx) + (py - cy) * (py - cy), row, col)
        };
        let (even, odd) = (near(false), near(true));
        let (_, row, col) = if even.0 <= odd.0 { even } else { odd };
        let (row, col) = ((row + 1.0).max(0.0) as usize, (col + 1.0).max(0.0) as usize);
        let group = group.map_or(groups - 1, |group| group.min(groups - 1));
        if row < rows
            && col < columns
            && let Some(count) = counts.get_mut((row * columns + col) * groups + group)
        {
            *count += 1;
        }
    }
    counts
        .chunks_exact(groups)
        .enumerate()
        .filter_map(|(at, counts)| {
            let points: u64 = counts.iter().map(|n| u64::from(*n)).sum();
            // The first of equals.
            let (group, _) = counts.iter().enumerate().rev().max_by_key(|(_, n)| **n)?;
            let (row, col) = ((at / columns) as f64 - 1.0, (at % columns) as f64 - 1.0);
            let shift = if row.rem_euclid(2.0) == 1.0 { 0.5 } else { 0.0 };
            (points > 0).then(|| Cell {
                x: plane.area.x + (col + shift) * width,
                y: plane.area.y + row * row_height,
                // A little larger, so that no gaps shine through between neighbours.
                radius: radius * 1.03,
                points,
                group: (group < groups - 1).then_some(group),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::font::Face;
    use super::*;

    #[test]
    fn no_point_is_lost_in_hexagons() {
        let points: Vec<(f64, f64, Option<usize>)> = (0..20_000)
            .map(|i| {
                let a = f64::from(i) * 0.618;
                (
                    a.sin() * f64::from(i % 97),
                    a.cos() * f64::from(i % 89),
                    (i % 5 > 0).then(|| (i % 5) as usize - 1),
                )
            })
            .collect();
        let chart = Scatter {
            points,
            groups: vec![(String::new(), String::new()); 4],
            ..Scatter::default()
        };
        let mut scene = Scene {
            shapes: vec![],
            face: Face::new(None).unwrap(),
            most_marks: 1,
            letter: 16.0,
        };
        let area = Area {
            x: 10.0,
            y: 20.0,
            width: 900.0,
            height: 500.0,
        };
        let scale = Scale::default();
        let axis =
            |pick: fn(&(f64, f64, Option<usize>)) -> f64| Axis::over(chart.points.iter().map(pick), &scale);
        let plane = Plane::draw(&mut scene, area, axis(|p| p.0), axis(|p| p.1), ("x", "y"));
        let cells = hexagons(&chart, &plane, 14.0);
        assert_eq!(cells.iter().map(|cell| cell.points).sum::<u64>(), 20_000);
        assert!(cells.len() > 500, "{}", cells.len());
        let inside = |cell: &Cell| {
            (plane.area.x - 14.0..=plane.area.right() + 14.0).contains(&cell.x)
                && (plane.area.y - 14.0..=plane.area.bottom() + 14.0).contains(&cell.y)
        };
        assert!(cells.iter().all(inside));
    }
}
