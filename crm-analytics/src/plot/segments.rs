//! Pictures of a segmentation.

use super::figure;
use super::{Arrow, Bar, Bars, Chart, Dots, Ellipse, Panels, Profile, ProfileRow, Scatter};
use crate::insights::Segmentation;

impl Chart {
    /// The customers of a segmentation on the plane of the two strongest directions; `None` when there is no plane.
    pub fn plane(found: &Segmentation) -> Option<Self> {
        let plane = found.projection.as_ref()?;
        let axis = |i: usize| {
            let share = plane.explained.get(i).copied().unwrap_or(0.0) * 100.0;
            let strongest = plane.components.row(i).iter().zip(plane.components.columns());
            let mut strongest: Vec<(f64, &str)> = strongest.map(|(v, name)| (*v, name.as_str())).collect();
            strongest.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
            let made_of: Vec<String> = strongest
                .iter()
                .take(2)
                .filter(|(v, _)| v.abs() >= 0.2)
                .map(|(v, name)| format!("{}{name}", if *v < 0.0 { "−" } else { "+" }))
                .collect();
            format!(
                "Direction {}: {share:.0} % of the variance ({})",
                i + 1,
                made_of.join(", ")
            )
        };
        let points = plane
            .points
            .iter_rows()
            .zip(&plane.segments)
            .filter_map(|(row, segment)| match row {
                [x, y, ..] => Some((*x, *y, *segment)),
                _ => None,
            });
        let points: Vec<(f64, f64, Option<usize>)> = points.collect();
        let ellipses = (0..found.segments.len())
            .filter_map(|group| Ellipse::around(group, &points, 0.9))
            .collect();
        let (right, up) = (plane.components.row(0), plane.components.row(1));
        let arrows = plane.components.columns().iter().zip(right.iter().zip(up));
        let arrows = arrows
            .map(|(name, (x, y))| Arrow {
                name: name.clone(),
                x: *x,
                y: *y,
            })
            .collect();
        let (drawn, all) = (plane.points.rows(), found.ids.len());
        Some(Self::Scatter(Scatter {
            title: "Customers and their segments".into(),
            note: if drawn < all {
                format!(
                    "{} of {} customers drawn; near each other means alike",
                    figure(drawn as f64),
                    figure(all as f64)
                )
            } else {
                "Each point is a customer; near each other means alike; ellipses hold about 90 % of a segment, arrows point to where a column grows".into()
            },
            x_label: axis(0),
            y_label: axis(1),
            groups: found
                .segments
                .iter()
                .map(|s| (short(&s.name), size(s.size, s.share)))
                .collect(),
            ellipses,
            arrows,
            points,
        }))
    }

    /// How many customers each segment has.
    pub fn sizes(found: &Segmentation) -> Self {
        Self::Bars(Bars {
            title: "Customers in each segment".into(),
            x_label: "Customers".into(),
            guides: vec![],
            note: String::new(),
            bars: found
                .segments
                .iter()
                .enumerate()
                .map(|(at, s)| Bar {
                    name: short(&s.name),
                    value: s.size as f64,
                    label: size(s.size, s.share),
                    group: Some(at),
                    error: None,
                })
                .collect(),
        })
    }

    /// What sets the segments apart: means in their own units, coloured by their difference from the average.
    pub fn profile(found: &Segmentation) -> Self {
        let mut rows: Vec<ProfileRow> = found
            .segments
            .iter()
            .map(|s| ProfileRow {
                name: short(&s.name),
                labels: s.means.iter().map(|v| figure(*v)).collect(),
                effects: s.effects.clone(),
            })
            .collect();
        let assigned: f64 = found.segments.iter().map(|s| s.size as f64).sum();
        let mean = |col: usize| {
            let sum: f64 = found
                .segments
                .iter()
                .map(|s| s.means.get(col).copied().unwrap_or(0.0) * s.size as f64)
                .sum();
            if assigned > 0.0 { sum / assigned } else { 0.0 }
        };
        rows.push(ProfileRow {
            name: "all of them".into(),
            labels: (0..found.columns.len()).map(|col| figure(mean(col))).collect(),
            effects: vec![0.0; found.columns.len()],
        });
        Self::Profile(Profile {
            title: "What sets the segments apart".into(),
            note: "Averages in their own units; orange is above the average of all, blue below".into(),
            columns: found.columns.clone(),
            rows,
        })
    }

    /// The same as [`Chart::profile`] with dots: how many standard deviations each segment is from the average.
    pub fn profile_dots(found: &Segmentation) -> Self {
        Self::Dots(Dots {
            title: "What sets the segments apart".into(),
            note: "0 is the average of all customers".into(),
            x_label: "Standard deviations from the average".into(),
            rows: found.columns.clone(),
            groups: found
                .segments
                .iter()
                .map(|s| (short(&s.name), s.effects.clone()))
                .collect(),
        })
    }

    /// How much each column weighs in the two directions of the plane; `None` when there is no plane.
    pub fn loadings(found: &Segmentation) -> Option<Self> {
        let plane = found.projection.as_ref()?;
        let charts = (0..plane.components.rows().min(2)).map(|i| {
            let weights = plane.components.row(i).iter().zip(plane.components.columns());
            Self::Bars(Bars {
                title: format!("Direction {}", i + 1),
                note: format!(
                    "{:.0} % of the variance",
                    plane.explained.get(i).copied().unwrap_or(0.0) * 100.0
                ),
                x_label: "Loading (−1 to 1)".into(),
                bars: weights
                    .map(|(v, name)| Bar {
                        name: name.clone(),
                        value: *v,
                        label: figure(*v),
                        ..Bar::default()
                    })
                    .collect(),
                guides: vec![],
            })
        });
        Some(Self::Panels(Panels {
            title: "What the two directions are made of".into(),
            note: String::new(),
            columns: 2,
            charts: charts.collect(),
        }))
    }

    /// How much each column matters to tell the segments apart.
    pub fn segment_importances(found: &Segmentation) -> Self {
        let parts = found
            .columns
            .iter()
            .zip(&found.importances)
            .map(|(name, v)| (name.clone(), *v, None));
        Self::importances("What tells the segments apart", parts.collect())
    }

    /// The numbers of segments that were tried; `None` when the number was not chosen.
    pub fn choice(found: &Segmentation) -> Option<Self> {
        let choice = found.choice.as_ref()?;
        let tried: Vec<super::NumberOfGroups> = choice
            .scores
            .iter()
            .map(|score| super::NumberOfGroups {
                groups: score.clusters,
                inertia: score.inertia,
                silhouette: Some((score.silhouette.mean, score.silhouette.error)),
                gap: None,
            })
            .collect();
        Some(Self::number_of_groups(&tried, choice.best))
    }
}

/// A segment's name without the prefix that all share.
fn short(name: &str) -> String {
    name.split_once(": ").map_or(name, |(_, short)| short).to_owned()
}

fn size(size: usize, share: f64) -> String {
    format!("{} ({:.1} %)", figure(size as f64), share * 100.0)
}
