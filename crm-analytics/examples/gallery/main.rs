//! Every picture there is, as SVG, PNG and text, in a folder: `gallery FOLDER [--check KEPT]`.
//!
//! The customers are made up from a seed; the same program writes the same bytes each time. What is said of them, methods
//! find (`found.rs`); only retention, survival and the funnel are numbers by hand. With `--check`, every SVG in the folder
//! KEPT (those of the docs) must be what this program writes.
#![allow(clippy::print_stdout, reason = "a program for people")]

mod found;

use std::path::{Path, PathBuf};

use crm_analytics::plot::{Arrow, Chart, Ellipse, Histogram, KaplanMeier, Scatter, Spread};
use crm_core::{Error, Result};

/// Numbers that look random (splitmix64), the same each time.
struct Dice(u64);

impl Dice {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

const SEGMENTS: [&str; 4] = [
    "recent, frequent, high spend",
    "long gone, few orders",
    "new, one order",
    "steady, medium spend",
];

fn plane(points: usize) -> Chart {
    let mut dice = Dice(7);
    let centres = [
        (2.4, 1.1, 0.5),
        (-2.2, 0.4, 0.8),
        (-0.4, -1.9, 0.5),
        (0.6, 0.9, 0.35),
    ];
    let points: Vec<(f64, f64, Option<usize>)> = (0..points)
        .map(|_| {
            let pick = dice.unit();
            let group = if pick < 0.3 {
                0
            } else if pick < 0.65 {
                1
            } else if pick < 0.8 {
                2
            } else {
                3
            };
            let (x, y, spread) = centres.get(group).copied().unwrap_or_default();
            let along = dice.normal();
            let point = (
                x + along * spread,
                y + (along * 0.4 + dice.normal() * 0.6) * spread,
            );
            (point.0, point.1, (dice.unit() > 0.01).then_some(group))
        })
        .collect();
    let sizes = |group: usize| points.iter().filter(|p| p.2 == Some(group)).count();
    let groups = SEGMENTS.iter().enumerate().map(|(i, name)| {
        let size = sizes(i);
        (
            (*name).to_owned(),
            format!("{:.1} %", size as f64 / points.len() as f64 * 100.0),
        )
    });
    let arrow = |name: &str, x, y| Arrow {
        name: name.into(),
        x,
        y,
    };
    Chart::Scatter(Scatter {
        title: "Customers and their segments".into(),
        note: "Each point is a customer; near each other means alike; ellipses hold about 90 % of a segment"
            .into(),
        x_label: "Direction 1: 58 % of the variance (+frequency, +monetary)".into(),
        y_label: "Direction 2: 27 % of the variance (−recency_days)".into(),
        groups: groups.collect(),
        ellipses: (0..4)
            .filter_map(|group| Ellipse::around(group, &points, 0.9))
            .collect(),
        arrows: vec![
            arrow("frequency", 0.64, 0.21),
            arrow("monetary", 0.66, 0.12),
            arrow("recency_days", -0.39, -0.82),
            arrow("tenure_days", -0.05, 0.52),
        ],
        points,
    })
}

fn spends(dice: &mut Dice, rows: usize, middle: f64) -> Vec<f64> {
    (0..rows).map(|_| (middle + dice.normal() * 0.8).exp()).collect()
}

fn grids(dice: &mut Dice) -> Vec<(&'static str, Chart)> {
    let rfm: Vec<Vec<u64>> = (0..5_i32)
        .map(|r| {
            (0..5_i32)
                .map(|f| (900.0 / f64::from(1 + (r - f).abs() * 2)) as u64 + (dice.unit() * 90.0) as u64)
                .collect()
        })
        .collect();
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug"];
    let cohorts: Vec<(String, u64, Vec<f64>)> = months
        .iter()
        .enumerate()
        .map(|(i, month)| {
            let shares = (0..8 - i).map(|age| {
                if age == 0 {
                    1.0
                } else {
                    0.42 * 0.86_f64.powi(age as i32) + dice.unit() * 0.05
                }
            });
            let shares = shares.collect();
            (
                format!("{month} 2026"),
                400 + (dice.unit() * 700.0) as u64,
                shares,
            )
        })
        .collect();
    vec![
        ("rfm", Chart::rfm(&rfm)),
        ("cohorts", Chart::cohorts("month", &cohorts)),
    ]
}

fn survival() -> Chart {
    let curve = |rate: f64| -> Vec<KaplanMeier> {
        (0..=24)
            .map(|month| {
                let share = (-rate * f64::from(month)).exp();
                let off = 0.012 * f64::from(month).sqrt();
                KaplanMeier {
                    time: f64::from(month),
                    share,
                    low: (share - off).max(0.0),
                    high: (share + off).min(1.0),
                }
            })
            .collect()
    };
    Chart::survival(
        "How long customers stay",
        "Months since the first order",
        &[
            ("with newsletter".into(), curve(0.02)),
            ("without".into(), curve(0.055)),
        ],
    )
}

fn all() -> Result<Vec<(&'static str, Chart)>> {
    let mut dice = Dice(2026);
    let (small, large) = (spends(&mut dice, 3_000, 3.2), spends(&mut dice, 3_000, 4.4));
    let mut all = vec![
        ("plane-many", plane(60_000)),
        ("plane-million", plane(1_000_000)),
        ("survival", survival()),
        (
            "histogram",
            Chart::Histogram(Histogram::of("Spend of customers", "Spend (EUR)", &small, 40)?),
        ),
        (
            "boxes",
            Chart::boxes(
                "Spend by channel",
                "Spend of a customer (EUR)",
                vec![
                    Spread::of("e-mail", &small)?,
                    Spread::of("shop", &large)?,
                    Spread::of("nobody yet", &[])?,
                ],
            ),
        ),
        (
            "funnel",
            Chart::funnel(
                "Spring campaign",
                [
                    ("Sent", 12_000),
                    ("Delivered", 11_730),
                    ("Opened", 4_410),
                    ("Clicked", 980),
                    ("Ordered", 212),
                ]
                .map(|(name, n)| (name.to_owned(), n))
                .to_vec(),
            ),
        ),
    ];
    all.extend(grids(&mut dice));
    all.extend(found::predictions(&mut dice)?);
    all.extend(found::holes(&mut dice)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|e| Error::unexpected("no runtime").source(e))?;
    all.extend(runtime.block_on(found::segments(&mut dice))?);
    Ok(all)
}

/// Fails unless each SVG in `kept` is the one just written.
fn check(kept: &Path, written: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::invalid("a folder cannot be read").source(e);
    let mut count = 0;
    for entry in std::fs::read_dir(kept).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let (Some(name), Some("svg")) = (path.file_name(), path.extension().and_then(|e| e.to_str())) else {
            continue;
        };
        count += 1;
        let now = std::fs::read(written.join(name)).unwrap_or_default();
        if std::fs::read(&path).map_err(failed)? != now {
            return Err(Error::invalid(
                "a picture kept is not what the program draws now; look at the new one and copy it there",
            )
            .with("picture", name.to_string_lossy()));
        }
    }
    println!("{count} pictures are as kept");
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments
        .next()
        .map_or_else(|| PathBuf::from("gallery"), PathBuf::from);
    let kept = match (arguments.next(), arguments.next()) {
        (None, _) => None,
        (Some(word), Some(kept)) if word == "--check" => Some(PathBuf::from(kept)),
        _ => return Err(Error::invalid("usage: gallery FOLDER [--check KEPT]")),
    };
    let failed = |e: std::io::Error| {
        Error::invalid("the folder cannot be written to")
            .operation("gallery")
            .source(e)
    };
    std::fs::create_dir_all(&folder).map_err(failed)?;
    for (name, chart) in all()? {
        let svg = chart.svg(1000, 600)?;
        std::fs::write(folder.join(format!("{name}.svg")), &svg).map_err(failed)?;
        std::fs::write(folder.join(format!("{name}.png")), chart.png(1200, 720)?).map_err(failed)?;
        std::fs::write(folder.join(format!("{name}.txt")), chart.text(100)).map_err(failed)?;
        println!("{name}: {} ({} bytes of SVG)", chart.title(), svg.len());
    }
    match kept {
        Some(kept) => check(&kept, &folder),
        None => Ok(()),
    }
}
