//! Pictures: a chart is plain data, drawn as SVG (for screens and paper) or PNG (for everything else).
//!
//! The same drawing code makes both. Colours are those of Okabe and Ito, which colour-blind people can tell apart, and
//! numbers are printed wherever colour says something. PNG text is drawn with a part of DejaVu Sans that is shipped
//! along (Latin, Greek, Cyrillic); SVG text with the viewer's sans-serif font.
//!
//! ```
//! use crm_analytics::plot::{Bar, Bars, Chart};
//!
//! let chart = Chart::Bars(Bars {
//!     title: "Customers by segment".into(),
//!     note: String::new(),
//!     bars: vec![
//!         Bar { name: "frequent".into(), value: 120.0, label: "120 (75 %)".into() },
//!         Bar { name: "rare".into(), value: 40.0, label: "40 (25 %)".into() },
//!     ],
//! });
//! assert!(chart.svg(900, 400).unwrap().starts_with("<svg"));
//! assert!(chart.png(900, 400).unwrap().starts_with(b"\x89PNG"));
//! ```

mod draw;
mod text;

pub(crate) use draw::escape;

use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::insights::{Segmentation, figure};

/// The most points of a scatter that are drawn; of more, an even part is.
pub const MOST_POINTS: usize = 10_000;

/// A picture as data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "chart", rename_all = "snake_case")]
pub enum Chart {
    /// Points on a plane, coloured by group.
    Scatter(Scatter),
    /// Lengths side by side.
    Bars(Bars),
    /// Groups by columns, coloured by how much they differ from the rest.
    Profile(Profile),
}

/// Points on a plane, coloured by group, with a legend beside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scatter {
    /// What is seen.
    pub title: String,
    /// A line below the title; may be empty.
    pub note: String,
    /// What the horizontal axis is.
    pub x_label: String,
    /// What the vertical axis is.
    pub y_label: String,
    /// The groups: a name, and a line below it (such as the size).
    pub groups: Vec<(String, String)>,
    /// Horizontal and vertical place, and the position of the group; grey without one.
    pub points: Vec<(f64, f64, Option<usize>)>,
}

/// Lengths side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bars {
    /// What is seen.
    pub title: String,
    /// A line below the title; may be empty.
    pub note: String,
    /// The bars, from the top.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// What it is.
    pub name: String,
    /// Its length, 0 or more.
    pub value: f64,
    /// What is written at its end.
    pub label: String,
}

/// Groups by columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// What is seen.
    pub title: String,
    /// A line below the title; may be empty.
    pub note: String,
    /// The columns, from the left.
    pub columns: Vec<String>,
    /// The rows, from the top.
    pub rows: Vec<ProfileRow>,
}

/// One row of a profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileRow {
    /// What it is.
    pub name: String,
    /// What is written in each cell.
    pub labels: Vec<String>,
    /// What colours each cell: standard deviations from the average.
    pub effects: Vec<f64>,
}

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
                "Each point is a customer; near each other means alike".into()
            },
            x_label: axis(0),
            y_label: axis(1),
            groups: found
                .segments
                .iter()
                .map(|s| (short(&s.name), size(s.size, s.share)))
                .collect(),
            points: points.collect(),
        }))
    }

    /// How many customers each segment has.
    pub fn sizes(found: &Segmentation) -> Self {
        Self::Bars(Bars {
            title: "Customers in each segment".into(),
            note: String::new(),
            bars: found
                .segments
                .iter()
                .map(|s| Bar {
                    name: short(&s.name),
                    value: s.size as f64,
                    label: size(s.size, s.share),
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

    /// The title.
    pub fn title(&self) -> &str {
        match self {
            Self::Scatter(chart) => &chart.title,
            Self::Bars(chart) => &chart.title,
            Self::Profile(chart) => &chart.title,
        }
    }

    /// Draws it as SVG, `width` by `height` units.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when a side is not 300 to 8,000, or a number of the chart is not finite.
    pub fn svg(&self, width: u32, height: u32) -> Result<String> {
        self.check(width, height)?;
        draw::svg(self, width, height)
    }

    /// Draws it as PNG, `width` by `height` pixels.
    ///
    /// # Errors
    /// As [`Chart::svg`].
    pub fn png(&self, width: u32, height: u32) -> Result<Vec<u8>> {
        self.check(width, height)?;
        draw::png(self, width, height)
    }

    fn check(&self, width: u32, height: u32) -> Result<()> {
        if !(300..=8_000).contains(&width) || !(300..=8_000).contains(&height) {
            return Err(Error::invalid("a picture is 300 to 8,000 wide and high")
                .operation("plot.draw")
                .with("width", width)
                .with("height", height));
        }
        let sound = match self {
            Self::Scatter(chart) => chart
                .points
                .iter()
                .all(|(x, y, _)| x.abs() <= 1e300 && y.abs() <= 1e300),
            Self::Bars(chart) => chart
                .bars
                .iter()
                .all(|bar| bar.value.is_finite() && bar.value >= 0.0),
            Self::Profile(chart) => chart.rows.iter().all(|row| {
                row.labels.len() == chart.columns.len()
                    && row.effects.len() == chart.columns.len()
                    && row.effects.iter().all(|effect| effect.is_finite())
            }),
        };
        if sound {
            return Ok(());
        }
        Err(Error::invalid(
            "a chart has a number that cannot be drawn, or a row of another length than its columns",
        )
        .operation("plot.draw")
        .with("chart", self.title()))
    }
}

/// A segment's name without the prefix that all share.
fn short(name: &str) -> String {
    name.split_once(": ").map_or(name, |(_, short)| short).to_owned()
}

fn size(size: usize, share: f64) -> String {
    format!("{} ({:.1} %)", figure(size as f64), share * 100.0)
}
