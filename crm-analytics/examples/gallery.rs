//! Every picture there is, as SVG, PNG and text, in a folder: `gallery FOLDER`.
//!
//! The customers are made up from a seed; the same program writes the same bytes each time.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::path::PathBuf;

use crm_analytics::plot::{
    Arrow, Chart, Dots, Ellipse, Histogram, KaplanMeier, NumberOfGroups, Profile, ProfileRow, Scatter,
    Spread, Tree, TreeNode,
};
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
            format!("{size} ({:.1} %)", size as f64 / points.len() as f64 * 100.0),
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

fn scored(dice: &mut Dice) -> Vec<(f64, bool)> {
    let mut scored: Vec<(f64, bool)> = (0..4_000)
        .map(|_| {
            let p = 1.0 / (1.0 + (1.6 - 1.3 * dice.normal()).exp());
            (p, dice.unit() < p * 0.92 + 0.01)
        })
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored
}

fn curves(dice: &mut Dice) -> Vec<(&'static str, Chart)> {
    let scored = scored(dice);
    let hits = scored.iter().filter(|(_, hit)| *hit).count() as f64;
    let rows = scored.len() as f64;
    let (mut roc, mut pr) = (vec![(0.0, 0.0)], Vec::new());
    let (mut right, mut called, mut area, mut average) = (0.0, 0.0, 0.0, 0.0);
    for (_, hit) in &scored {
        called += 1.0;
        if *hit {
            right += 1.0;
            average += right / called / hits;
        } else {
            area += right / hits / (rows - hits);
        }
        roc.push(((called - right) / (rows - hits), right / hits));
        pr.push((right / hits, right / called));
    }
    let tenths: Vec<(f64, f64)> = (0..10)
        .map(|i| {
            let part = scored.len() / 10;
            let of = |rows: &[(f64, bool)]| rows.iter().filter(|(_, hit)| *hit).count() as f64;
            let here = scored.get(i * part..(i + 1) * part).map_or(0.0, of);
            let down = scored.get(..(i + 1) * part).map_or(0.0, of);
            (down / hits, here / part as f64 / (hits / rows))
        })
        .collect();
    let bins: Vec<(f64, f64, u64)> = scored
        .rchunks(400)
        .map(|bin| {
            let mean = bin.iter().map(|(p, _)| p).sum::<f64>() / bin.len() as f64;
            let observed = bin.iter().filter(|(_, hit)| *hit).count() as f64 / bin.len() as f64;
            (mean, observed, bin.len() as u64)
        })
        .collect();
    vec![
        ("roc", Chart::roc(roc, area, Some((area - 0.015, area + 0.015)))),
        (
            "precision-recall",
            Chart::precision_recall(pr.into_iter().skip(20).collect(), average, hits / rows),
        ),
        ("gain-lift", Chart::gain_and_lift(&tenths)),
        ("calibration", Chart::calibration(&bins)),
    ]
}

fn groups() -> Vec<(&'static str, Chart)> {
    let columns = [
        "recency_days",
        "frequency",
        "monetary",
        "tenure_days",
        "attributes.newsletter",
    ];
    let effects = [
        [-1.1, 1.6, 1.9, 0.4, 0.7],
        [1.4, -0.7, -0.6, 0.3, -0.5],
        [-0.9, -0.8, -0.5, -1.7, 0.2],
        [-0.2, 0.3, 0.1, 0.5, -0.1],
    ];
    let means = [
        ["12", "18.4", "1,980", "620", "0.81"],
        ["410", "2.1", "95", "590", "0.22"],
        ["31", "1", "48", "31", "0.55"],
        ["120", "7.3", "460", "640", "0.41"],
    ];
    let rows = SEGMENTS.iter().zip(effects.iter().zip(&means));
    let profile = Chart::Profile(Profile {
        title: "What sets the segments apart".into(),
        note: "Averages in their own units; orange is above the average of all, blue below".into(),
        columns: columns.map(String::from).to_vec(),
        rows: rows
            .map(|(name, (effects, means))| ProfileRow {
                name: (*name).into(),
                labels: means.map(String::from).to_vec(),
                effects: effects.to_vec(),
            })
            .collect(),
    });
    let dots = Chart::Dots(Dots {
        title: "What sets the segments apart".into(),
        note: "0 is the average of all customers".into(),
        x_label: "Standard deviations from the average".into(),
        rows: columns.map(String::from).to_vec(),
        groups: SEGMENTS
            .iter()
            .zip(effects)
            .map(|(name, effects)| ((*name).to_owned(), effects.to_vec()))
            .collect(),
    });
    let tried: Vec<NumberOfGroups> = (2..=8)
        .zip([
            (1_900.0, 0.41, 0.31),
            (1_320.0, 0.47, 0.45),
            (860.0, 0.56, 0.72),
            (790.0, 0.51, 0.68),
            (740.0, 0.44, 0.66),
            (705.0, 0.42, 0.65),
            (680.0, 0.38, 0.64),
        ])
        .map(|(groups, (inertia, silhouette, gap))| NumberOfGroups {
            groups,
            inertia: Some(inertia),
            silhouette: Some((silhouette, 0.012)),
            gap: Some((gap, 0.02)),
        })
        .collect();
    vec![
        ("profile", profile),
        ("profile-dots", dots),
        ("number-of-groups", Chart::number_of_groups(&tried, 4)),
    ]
}

fn grids(dice: &mut Dice) -> Vec<(&'static str, Chart)> {
    let names = [
        "recency_days",
        "frequency",
        "monetary",
        "tenure_days",
        "returns",
        "plan",
    ]
    .map(String::from)
    .to_vec();
    let value = |a: usize, b: usize| {
        let table = [-0.62, -0.55, 0.12, 0.05, 0.88, 0.31, 0.22, 0.35, 0.41, -0.18];
        match (a.min(b), a.max(b)) {
            (_, 5) => None,
            (a, b) if a == b => Some(1.0),
            (a, b) => table.get(a * 3 + b - 1 - a * (a.max(1) - 1) / 2).copied(),
        }
    };
    let matrix = (0..6).map(|a| (0..6).map(|b| value(a, b)).collect()).collect();
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
    let classes = ["stays", "leaves", "unsure"].map(String::from);
    vec![
        ("correlations", Chart::correlations(names, matrix)),
        ("rfm", Chart::rfm(&rfm)),
        ("cohorts", Chart::cohorts("month", &cohorts)),
        (
            "confusion",
            Chart::confusion(
                &classes,
                &[vec![1_830, 120, 44], vec![96, 702, 31], vec![61, 40, 76]],
            ),
        ),
    ]
}

fn tree() -> Chart {
    let node = |lines: &[&str], group, purity, children: &[(usize, &str)]| TreeNode {
        lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        group,
        purity,
        children: children
            .iter()
            .map(|(child, way)| (*child, (*way).to_owned()))
            .collect(),
    };
    Chart::Tree(Tree {
        title: "How to tell the segments apart".into(),
        note: "Go to the left when the condition holds; the colour is the segment, the stronger the surer"
            .into(),
        nodes: vec![
            node(
                &["recency_days ≤ 90.5", "4,000 customers"],
                None,
                0.0,
                &[(1, "yes"), (2, "no")],
            ),
            node(
                &["frequency ≤ 1.5", "2,310 customers"],
                None,
                0.0,
                &[(3, "yes"), (4, "no")],
            ),
            node(
                &["monetary ≤ 240", "1,690 customers"],
                None,
                0.0,
                &[(5, "yes"), (6, "no")],
            ),
            node(&["new, one order", "602 (97 %)"], Some(2), 0.97, &[]),
            node(
                &["monetary ≤ 900", "1,708 customers"],
                None,
                0.0,
                &[(7, "yes"), (8, "no")],
            ),
            node(&["long gone, few orders", "1,402 (94 %)"], Some(1), 0.94, &[]),
            node(&["steady, medium spend", "288 (71 %)"], Some(3), 0.71, &[]),
            node(&["steady, medium spend", "510 (88 %)"], Some(3), 0.88, &[]),
            node(
                &["recent, frequent, high spend", "1,198 (99 %)"],
                Some(0),
                0.99,
                &[],
            ),
        ],
    })
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
    let pairs = |values: &[(&str, f64)]| -> Vec<(String, f64)> {
        values.iter().map(|(name, v)| ((*name).to_owned(), *v)).collect()
    };
    let mut all = vec![
        ("plane", plane(1_200)),
        ("plane-many", plane(60_000)),
        ("plane-million", plane(1_000_000)),
        ("tree", tree()),
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
            "importances",
            Chart::importances(
                "What the prediction rests on",
                pairs(&[
                    ("recency_days", 0.41),
                    ("frequency", 0.22),
                    ("monetary", 0.19),
                    ("tenure_days", 0.08),
                    ("newsletter", 0.02),
                ])
                .into_iter()
                .map(|(name, v)| (name, v, Some(v * 0.1 + 0.005)))
                .collect(),
            ),
        ),
        (
            "drift",
            Chart::drift(pairs(&[
                ("monetary", 0.31),
                ("recency_days", 0.14),
                ("frequency", 0.04),
                ("tenure_days", 0.01),
            ])),
        ),
        (
            "missing",
            Chart::missing(
                4_000,
                vec![
                    ("birthday".into(), 2_710),
                    ("phone".into(), 912),
                    ("city".into(), 77),
                    ("email".into(), 0),
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
    all.extend(groups());
    all.extend(grids(&mut dice));
    all.extend(curves(&mut dice));
    Ok(all)
}

fn main() -> Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("gallery"), PathBuf::from);
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
    Ok(())
}
