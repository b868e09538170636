//! Scatters as PNG: beside `benches/peers/analytics/plot.py`, which draws the same points with matplotlib.

use std::path::Path;

use anyhow::{Context as _, Result};
use open_crm::analytics::plot::{Chart, Scatter};

use super::step;

/// Points of five groups from a seed; the peers read them from `points.f64` (x, y, group).
fn points(rows: usize) -> Vec<(f64, f64, Option<usize>)> {
    let mut state = 7_u64;
    let mut unit = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    };
    let centres = [(0.0, 0.0), (4.0, 1.0), (-3.0, 2.0), (1.0, -4.0), (-2.0, -3.0)];
    (0..rows)
        .map(|_| {
            let group = (unit() * 5.0) as usize % 5;
            let mut normal = || (0..12).map(|_| unit()).sum::<f64>() - 6.0;
            let (x, y) = centres[group];
            (x + normal(), y + normal() * 0.7, Some(group))
        })
        .collect()
}

fn chart(points: Vec<(f64, f64, Option<usize>)>) -> Chart {
    Chart::Scatter(Scatter {
        title: "Customers".into(),
        x_label: "direction 1".into(),
        y_label: "direction 2".into(),
        groups: (0..5).map(|i| (format!("segment {i}"), String::new())).collect(),
        points,
        ..Scatter::default()
    })
}

pub(super) fn run(rows: usize, folder: &Path) -> Result<()> {
    for count in [100_000, rows] {
        let points = points(count);
        let bytes: Vec<u8> = points
            .iter()
            .flat_map(|(x, y, group)| [*x, *y, group.unwrap_or(0) as f64])
            .flat_map(f64::to_le_bytes)
            .collect();
        std::fs::write(folder.join(format!("points-{count}.f64")), bytes).context("points")?;
        let chart = chart(points);
        // The first one reads the font.
        chart.png(400, 300)?;
        let png = step(
            &format!("scatter of {count} points, PNG 1600x1200"),
            || Ok(chart.png(1600, 1200)?),
            |png| format!("{} bytes", png.len()),
        )?;
        std::fs::write(folder.join(format!("ours-{count}.png")), png).context("picture")?;
        step(
            &format!("scatter of {count} points, SVG"),
            || Ok(chart.svg(1600, 1200)?),
            |svg| format!("{} bytes", svg.len()),
        )?;
    }
    Ok(())
}
