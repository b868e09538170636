//! Lines and histograms.

use crm_core::Result;

use super::super::axes::{Axis, Plane};
use super::super::data::{Histogram, Line, Lines, Look, Scale};
use super::super::scene::{Anchor, Area, Ink, Scene};

pub(super) fn lines(chart: &Lines, scene: &mut Scene<'_>, area: Area) -> Result<()> {
    let (letter, line) = (scene.letter, scene.line());
    let size = letter * 0.9;
    // Names above the plane, in as many lines as they need; one line alone needs no name when there is a title.
    let named: Vec<(usize, &Line)> = chart
        .lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !line.name.is_empty())
        .collect();
    let mut rows = 0.0;
    if !named.is_empty() {
        let (mut x, mut y) = (area.x, area.y + line * 0.4);
        for (at, one) in &named {
            let text = scene.face.cut(&one.name, size, area.width * 0.8);
            let width = scene.face.width(&text, size) + letter * 3.4;
            if x > area.x && x + width > area.right() {
                (x, y) = (area.x, y + line);
            }
            let ends = vec![(x, y), (x + letter * 1.7, y)];
            match one.look {
                Look::Baseline => scene.dashes(ends, 1.6, Ink::FAINT, letter * 0.35),
                _ => scene.path(ends, 2.6, color(chart, *at)),
            }
            scene.text(
                &text,
                (x + letter * 2.1, y),
                size,
                Ink::TEXT,
                Anchor::Start,
                f64::INFINITY,
            );
            x += width;
        }
        rows = y - area.y + line * 0.8;
    }
    let over = |pick: fn((f64, f64)) -> f64| {
        chart
            .lines
            .iter()
            .flat_map(move |line| line.points.iter().map(move |p| pick(*p)))
    };
    let bands = chart
        .lines
        .iter()
        .flat_map(|line| line.band.iter().flat_map(|(low, high)| [*low, *high]));
    let plane = Plane::draw(
        scene,
        area.within(0.0, rows, 0.0, 0.0),
        Axis::over(
            over(|p| p.0).chain(chart.guides.iter().map(|guide| guide.at)),
            &chart.x,
        ),
        Axis::over(over(|p| p.1).chain(bands), &chart.y),
        (&chart.x.label, &chart.y.label),
    );
    for (at, one) in chart.lines.iter().enumerate() {
        let ink = color(chart, at);
        let place = |points: &mut dyn Iterator<Item = (f64, f64)>| -> Vec<(f64, f64)> {
            let placed: Vec<(f64, f64)> = points.map(|(x, y)| (plane.px(x), plane.py(y))).collect();
            if one.look != Look::Steps {
                return placed;
            }
            let mut steps: Vec<(f64, f64)> = Vec::with_capacity(placed.len() * 2);
            for (x, y) in placed {
                if let Some((_, before)) = steps.last().copied() {
                    steps.push((x, before));
                }
                steps.push((x, y));
            }
            steps
        };
        if one.band.len() == one.points.len() && one.points.len() > 1 {
            let side = |pick: fn(&(f64, f64)) -> f64| {
                place(
                    &mut one
                        .points
                        .iter()
                        .zip(&one.band)
                        .map(|((x, _), band)| (*x, pick(band))),
                )
            };
            let mut outline = side(|band| band.1);
            outline.extend(side(|band| band.0).into_iter().rev());
            scene.fill(outline, ink.part(0.18));
        }
        let points = thinned(place(&mut one.points.iter().copied()));
        match one.look {
            Look::Baseline => scene.dashes(points, 1.6, Ink::FAINT, letter * 0.35),
            Look::Marked => {
                for (x, y) in &points {
                    scene.mark(*x, *y, letter * 0.3, Some(group(chart, at)));
                }
                scene.path(points, 2.2, ink);
            }
            Look::Solid | Look::Steps => scene.path(points, 2.4, ink),
        }
    }
    plane.guides(scene, &chart.guides);
    Ok(())
}

/// The colour of a line: those to compare with have none.
fn group(chart: &Lines, at: usize) -> usize {
    chart
        .lines
        .iter()
        .take(at)
        .filter(|line| line.look != Look::Baseline)
        .count()
}

fn color(chart: &Lines, at: usize) -> Ink {
    Ink::of(Some(group(chart, at)))
}

/// Without points that are within half a unit of the one before; the last stays.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() < 400 {
        return points;
    }
    let mut kept: Vec<(f64, f64)> = Vec::new();
    let last = points.len() - 1;
    for (i, (x, y)) in points.into_iter().enumerate() {
        let far = kept
            .last()
            .is_none_or(|(kx, ky)| (x - kx).abs() > 0.5 || (y - ky).abs() > 0.5);
        if far || i == last {
            kept.push((x, y));
        }
    }
    kept
}

pub(super) fn histogram(chart: &Histogram, scene: &mut Scene<'_>, area: Area) -> Result<()> {
    let (first, last) = match (chart.edges.first(), chart.edges.last()) {
        (Some(first), Some(last)) => (*first, *last),
        _ => (0.0, 1.0),
    };
    let x = if chart.logarithmic && first > 0.0 {
        Axis::logarithmic(first, last)
    } else {
        Axis::over(
            [first, last].into_iter(),
            &Scale {
                from: Some(first),
                to: Some(last),
                ..Scale::default()
            },
        )
    };
    let most = chart.counts.iter().max().copied().unwrap_or(0) as f64;
    let y = Axis::over(
        [0.0, most].into_iter(),
        &Scale {
            from: Some(0.0),
            unit: super::super::data::Unit::Whole,
            ..Scale::default()
        },
    );
    let plane = Plane::draw(scene, area, x, y, (&chart.x_label, &chart.y_label));
    for (edges, count) in chart.edges.windows(2).zip(&chart.counts) {
        let [from, to] = edges else { continue };
        let (left, right, top) = (plane.px(*from), plane.px(*to), plane.py(*count as f64));
        let gap = if right - left > 4.0 { 1.0 } else { 0.0 };
        if *count > 0 {
            // A bin that has something is seen.
            let height = (plane.area.bottom() - top).max(1.0);
            let bar = Area {
                x: left + gap / 2.0,
                y: plane.area.bottom() - height,
                width: (right - left - gap).max(0.5),
                height,
            };
            scene.rect(bar, Ink::of(Some(0)));
        }
    }
    plane.guides(scene, &chart.guides);
    Ok(())
}
