//! Pictures: a chart is plain data, drawn as SVG (for screens and paper), PNG (for everything else) or text (for
//! terminals).
//!
//! The same drawing code makes SVG and PNG, and the same chart is the same bytes. Colours are those of Okabe and Ito, which
//! colour-blind people can tell apart, and numbers are printed wherever colour says something. PNG text is drawn with a
//! part of DejaVu Sans that is shipped along (Latin, Greek, Cyrillic), other letters with a [`Font`] of yours; SVG text
//! with the viewer's sans-serif font.
//!
//! ```
//! use crm_analytics::plot::{Bar, Bars, Chart};
//!
//! let bar = |name: &str, value, label: &str| Bar { name: name.into(), value, label: label.into(), ..Bar::default() };
//! let chart = Chart::Bars(Bars {
//!     title: "Customers by segment".into(),
//!     bars: vec![bar("frequent", 120.0, "120 (75 %)"), bar("rare", 40.0, "40 (25 %)")],
//!     ..Bars::default()
//! });
//! assert!(chart.svg(900, 400).unwrap().starts_with("<svg"));
//! assert!(chart.png(900, 400).unwrap().starts_with(b"\x89PNG"));
//! assert!(chart.text(60).contains("frequent"));
//! ```

mod axes;
mod check;
mod data;
mod draw;
mod font;
mod judged;
mod make;
mod missing;
mod raster;
mod scene;
mod segments;
mod stats;
mod svg;
mod terminal;

pub use data::{
    Arrow, Bar, Bars, Boxes, Colors, Dots, Ellipse, Funnel, Guide, HeatMap, HeatRow, Histogram, Line, Lines,
    Look, Panels, Profile, ProfileRow, Scale, Scatter, Spread, Tree, TreeNode, Unit,
};
pub use font::Font;
pub use make::{KaplanMeier, NumberOfGroups};
pub(crate) use svg::escape;

use crm_core::Result;
use serde::{Deserialize, Serialize};

use scene::{Area, Scene};

/// A number for people, with a minus sign instead of a hyphen.
fn figure(value: f64) -> String {
    crate::insights::figure(value).replace('-', "−")
}

/// More points than these are drawn as density in SVG, where each takes room in the file.
pub const MOST_POINTS: usize = 10_000;

/// More points than these are drawn as density in PNG.
pub const MOST_POINTS_PNG: usize = 250_000;

/// A picture as data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "chart", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Chart {
    /// Points on a plane, coloured by group.
    Scatter(Scatter),
    /// Lengths side by side.
    Bars(Bars),
    /// Groups by columns, coloured by how much they differ from the rest.
    Profile(Profile),
    /// Groups as dots on a line for each column.
    Dots(Dots),
    /// Numbers in a grid, coloured by size.
    HeatMap(HeatMap),
    /// Lines over two axes.
    Lines(Lines),
    /// How many values are in each of a row of bins.
    Histogram(Histogram),
    /// Distributions side by side.
    Boxes(Boxes),
    /// A tree of decisions.
    Tree(Tree),
    /// How many are left after each step.
    Funnel(Funnel),
    /// Charts beside and below each other.
    Panels(Panels),
}

impl Chart {
    /// The title.
    pub fn title(&self) -> &str {
        self.heading().0
    }

    /// Title and note.
    fn heading(&self) -> (&str, &str) {
        match self {
            Self::Scatter(chart) => (&chart.title, &chart.note),
            Self::Bars(chart) => (&chart.title, &chart.note),
            Self::Profile(chart) => (&chart.title, &chart.note),
            Self::Dots(chart) => (&chart.title, &chart.note),
            Self::HeatMap(chart) => (&chart.title, &chart.note),
            Self::Lines(chart) => (&chart.title, &chart.note),
            Self::Histogram(chart) => (&chart.title, &chart.note),
            Self::Boxes(chart) => (&chart.title, &chart.note),
            Self::Tree(chart) => (&chart.title, &chart.note),
            Self::Funnel(chart) => (&chart.title, &chart.note),
            Self::Panels(chart) => (&chart.title, &chart.note),
        }
    }

    /// Draws it as SVG, `width` by `height` units, with a title and a description for those who do not see it.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when a side is not 300 to 8,000, a number of the chart is not finite, rows are of
    /// different lengths, or there is too little room.
    pub fn svg(&self, width: u32, height: u32) -> Result<String> {
        let scene = self.scene(width, height, MOST_POINTS, None)?;
        Ok(svg::write(
            &scene.shapes,
            (width, height),
            self.title(),
            &self.description(),
        ))
    }

    /// Draws it as PNG, `width` by `height` pixels. Letters that are not Latin, Greek or Cyrillic are boxes: see
    /// [`Chart::png_with`].
    ///
    /// # Errors
    /// As [`Chart::svg`].
    pub fn png(&self, width: u32, height: u32) -> Result<Vec<u8>> {
        let scene = self.scene(width, height, MOST_POINTS_PNG, None)?;
        raster::png(&scene.shapes, &scene.face, (width, height))
    }

    /// Draws it as PNG with a font for the letters that the shipped one lacks.
    ///
    /// # Errors
    /// As [`Chart::svg`].
    pub fn png_with(&self, font: &Font, width: u32, height: u32) -> Result<Vec<u8>> {
        let scene = self.scene(width, height, MOST_POINTS_PNG, Some(font))?;
        raster::png(&scene.shapes, &scene.face, (width, height))
    }

    /// Draws it with letters, `columns` wide at most (40 to 200), for terminals and logs.
    pub fn text(&self, columns: usize) -> String {
        terminal::write(self, columns.clamp(40, 200))
    }

    fn scene<'f>(
        &self,
        width: u32,
        height: u32,
        most_marks: usize,
        font: Option<&'f Font>,
    ) -> Result<Scene<'f>> {
        check::chart(self, width, height)?;
        let (width, height) = (f64::from(width), f64::from(height));
        let letter = (width.min(height * 1.6) / 62.0).clamp(9.0, 120.0);
        let mut scene = Scene {
            shapes: Vec::new(),
            face: font::Face::new(font)?,
            most_marks,
            letter,
        };
        let page = Area {
            x: 0.0,
            y: 0.0,
            width,
            height,
        };
        scene.rect(page, scene::Ink::WHITE);
        draw::chart(self, &mut scene, page)?;
        Ok(scene)
    }
}
