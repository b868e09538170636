//! Trees and funnels.

use crm_core::Result;

use super::super::data::{Funnel, Tree, TreeNode};
use super::super::scene::{Anchor, Area, Ink, Scene};
use super::too_small;

/// Where each node stands: horizontally in leaves from the left, and how deep.
fn places(chart: &Tree) -> (Vec<Option<(f64, usize)>>, usize, usize) {
    let mut places: Vec<Option<(f64, usize)>> = vec![None; chart.nodes.len()];
    let (mut leaves, mut deepest) = (0_usize, 0);
    // A stack of our own: a deep tree must not overflow the thread's. Children are placed before their parents.
    let mut stack: Vec<(usize, usize, bool)> = vec![(0, 0, false)];
    while let Some((at, depth, done)) = stack.pop() {
        let Some(node) = chart.nodes.get(at) else { continue };
        deepest = deepest.max(depth);
        let middle = if done {
            let of_children: Vec<f64> = node
                .children
                .iter()
                .filter_map(|(child, _)| places.get(*child).copied().flatten().map(|p| p.0))
                .collect();
            match (of_children.first(), of_children.last()) {
                (Some(first), Some(last)) => (first + last) / 2.0,
                _ => 0.0,
            }
        } else if node.children.is_empty() {
            leaves += 1;
            leaves as f64 - 0.5
        } else {
            stack.push((at, depth, true));
            stack.extend(
                node.children
                    .iter()
                    .rev()
                    .map(|(child, _)| (*child, depth + 1, false)),
            );
            continue;
        };
        if let Some(place) = places.get_mut(at) {
            *place = Some((middle, depth));
        }
    }
    (places, leaves.max(1), deepest + 1)
}

pub(super) fn tree(chart: &Tree, scene: &mut Scene<'_>, area: Area) -> Result<()> {
    let (places, leaves, levels) = places(chart);
    let across = area.width / leaves as f64;
    let down = area.height / levels as f64;
    let longest = |of: &[Vec<String>]| of.iter().map(Vec::len).max().unwrap_or(1).max(1) as f64;
    let fitting = |lines: f64| {
        (scene.letter * 0.9)
            .min(down * 0.6 / (lines * 1.3))
            .min(across / 5.0)
    };
    let given: Vec<Vec<String>> = chart.nodes.iter().map(|node| node.lines.clone()).collect();
    // Forks may be wider than a leaf: there is nobody beside them.
    let room = |node: &TreeNode| (across * if node.children.is_empty() { 0.94 } else { 1.7 }).min(area.width);
    let size = fitting(longest(&given));
    // Names that are too long go on in further lines, in smaller letters where levels are low.
    let broken: Vec<Vec<String>> = chart
        .nodes
        .iter()
        .map(|node| {
            let lines = node.lines.iter();
            lines
                .flat_map(|line| scene.face.wrap(line, size, room(node) - size * 1.2, 3))
                .collect()
        })
        .collect();
    // Rather cut than too small to be read.
    let broken = if fitting(longest(&broken)) < 6.0 {
        given
    } else {
        broken
    };
    let most = longest(&broken);
    let size = size.min(fitting(most));
    if size < 6.0 {
        return Err(
            too_small("the picture is too small for its tree; make it larger or cut the tree")
                .with("leaves", leaves)
                .with("levels", levels),
        );
    }
    let height = (most * size * 1.3 + size * 0.7).min(down * 0.72);
    let place = |at: usize| {
        let (leaf, depth) = places.get(at).copied().flatten()?;
        Some((
            area.x + across * leaf,
            area.y + height / 2.0 + down * depth as f64,
        ))
    };
    let widths: Vec<f64> = chart
        .nodes
        .iter()
        .zip(&broken)
        .map(|(node, lines)| {
            let widest = lines
                .iter()
                .map(|line| scene.face.width(line, size))
                .fold(0.0, f64::max);
            (widest + size * 1.2).min(room(node))
        })
        .collect();
    for (at, node) in chart.nodes.iter().enumerate() {
        let Some(from) = place(at) else { continue };
        for (child, label) in &node.children {
            let Some(to) = place(*child) else { continue };
            let (top, bottom) = (from.1 + height / 2.0, to.1 - height / 2.0);
            let between = (top + bottom) / 2.0;
            scene.path(
                vec![(from.0, top), (from.0, between), (to.0, between), (to.0, bottom)],
                1.5,
                Ink::AXIS,
            );
            let side = if to.0 < from.0 {
                (to.0 + size * 0.4, Anchor::Start)
            } else {
                (to.0 - size * 0.4, Anchor::End)
            };
            let middle = between + (bottom - between) * 0.5;
            scene.text(
                label,
                (side.0, middle),
                size * 0.9,
                Ink::FAINT,
                side.1,
                across * 0.6,
            );
        }
    }
    for (at, node) in chart.nodes.iter().enumerate() {
        let (Some((x, y)), Some(width), Some(lines)) = (place(at), widths.get(at), broken.get(at)) else {
            continue;
        };
        let ink = node.group.map_or(Ink(0xf4, 0xf4, 0xf4, 255), |group| {
            Ink::WHITE.towards(Ink::of(Some(group)), 0.15 + 0.6 * node.purity.clamp(0.0, 1.0))
        });
        let left = (x - width / 2.0).clamp(area.x, (area.right() - width).max(area.x));
        let body = Area {
            x: left,
            y: y - height / 2.0,
            width: *width,
            height,
        };
        scene.rect(body, ink);
        scene.frame(body, 1.2, Ink::AXIS);
        let lines: Vec<String> = lines
            .iter()
            .map(|line| scene.face.cut(line, size, width - size * 0.6))
            .collect();
        scene.lines(&lines, (left + width / 2.0, y), size, ink.on(), Anchor::Middle);
    }
    Ok(())
}

pub(super) fn funnel(chart: &Funnel, scene: &mut Scene<'_>, area: Area) -> Result<()> {
    let (letter, line) = (scene.letter, scene.line());
    let step = (area.height / chart.steps.len().max(1) as f64).min(line * 4.5);
    if !chart.steps.is_empty() && step < line * 1.2 {
        return Err(too_small("the picture is too low for its steps; make it higher")
            .with("steps", chart.steps.len()));
    }
    let most = chart.steps.iter().map(|(_, n)| *n).max().unwrap_or(0).max(1) as f64;
    let first = chart.steps.first().map_or(0, |(_, n)| *n);
    let names = area.width * 0.26;
    let told = letter * 13.0_f64.min(area.width * 0.3 / letter);
    let room = (area.width - names - told).max(1.0);
    let middle = area.x + names + room / 2.0;
    let half = |n: u64| (room / 2.0 * n as f64 / most).max(0.75);
    for (at, (name, count)) in chart.steps.iter().enumerate() {
        let (top, bottom) = (area.y + step * at as f64, area.y + step * (at as f64 + 0.72));
        let text = scene.face.wrap(name, letter * 0.95, names - letter, 2);
        scene.lines(
            &text,
            (area.x + names - letter * 0.6, (top + bottom) / 2.0),
            letter * 0.95,
            Ink::TEXT,
            Anchor::End,
        );
        let wide = half(*count);
        let ink = Ink::of(Some(0));
        scene.rect(
            Area {
                x: middle - wide,
                y: top,
                width: wide * 2.0,
                height: bottom - top,
            },
            ink,
        );
        if let Some((_, next)) = chart.steps.get(at + 1) {
            let (narrow, end) = (half(*next), top + step);
            let outline = vec![
                (middle - wide, bottom),
                (middle + wide, bottom),
                (middle + narrow, end),
                (middle - narrow, end),
            ];
            scene.fill(outline, ink.towards(Ink::WHITE, 0.75));
        }
        let number = crate::plot::figure(*count as f64);
        let share = |of: u64| {
            if of > 0 {
                format!("{:.1} %", *count as f64 / of as f64 * 100.0)
            } else {
                "–".into()
            }
        };
        let mut lines = vec![number];
        if at > 0 {
            let before = chart.steps.get(at - 1).map_or(0, |(_, n)| *n);
            lines.push(format!("{} of the step before", share(before)));
            if at > 1 && step > line * 2.6 {
                lines.push(format!("{} of all", share(first)));
            }
        }
        let lines: Vec<String> = lines
            .iter()
            .map(|text| scene.face.cut(text, letter * 0.88, told - letter * 0.6))
            .collect();
        scene.lines(
            &lines,
            (area.x + names + room + letter * 0.6, (top + bottom) / 2.0),
            letter * 0.88,
            Ink::FAINT,
            Anchor::Start,
        );
    }
    Ok(())
}
