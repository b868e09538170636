//! The data of charts.

use serde::{Deserialize, Serialize};

/// Points on a plane, coloured by group, with a legend beside.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
    /// Drawn around groups.
    #[serde(default)]
    pub ellipses: Vec<Ellipse>,
    /// Directions from the origin, drawn as long as there is room (loadings).
    #[serde(default)]
    pub arrows: Vec<Arrow>,
}

/// An ellipse around a group.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ellipse {
    /// The position of the group.
    pub group: usize,
    /// The centre.
    pub x: f64,
    /// The centre.
    pub y: f64,
    /// Half of the long axis.
    pub long: f64,
    /// Half of the short axis.
    pub short: f64,
    /// The angle of the long axis to the horizontal, in radians.
    pub angle: f64,
}

/// A direction on a plane; only their relative lengths count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arrow {
    /// Whose it is.
    pub name: String,
    /// To the right.
    pub x: f64,
    /// Upwards.
    pub y: f64,
}

/// Lengths side by side, to the left of 0 when negative.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Bars {
    /// What is seen.
    pub title: String,
    /// A line below the title; may be empty.
    pub note: String,
    /// What the lengths are, with their unit; an axis is drawn when it is not empty.
    #[serde(default)]
    pub x_label: String,
    /// The bars, from the top.
    pub bars: Vec<Bar>,
    /// Upright lines to compare with.
    #[serde(default)]
    pub guides: Vec<Guide>,
}

/// One bar.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Bar {
    /// What it is.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// What is written at its end.
    pub label: String,
    /// How far the length may be off, to either side.
    #[serde(default)]
    pub error: Option<f64>,
    /// The group that it has the colour of; the first colour without one.
    #[serde(default)]
    pub group: Option<usize>,
}

/// A line across a chart to compare with.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Guide {
    /// Where.
    pub at: f64,
    /// What it says.
    pub name: String,
}

/// Groups by columns, coloured by how much they differ.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProfileRow {
    /// What it is.
    pub name: String,
    /// What is written in each cell.
    pub labels: Vec<String>,
    /// What colours each cell: standard deviations from the average.
    pub effects: Vec<f64>,
}

/// Groups as dots along a line for each column.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Dots {
    /// What is seen.
    pub title: String,
    /// A line below the title; may be empty.
    pub note: String,
    /// What the horizontal axis is, with its unit.
    pub x_label: String,
    /// The lines, from the top.
    pub rows: Vec<String>,
    /// Each group: its name, and its place on each line.
    pub groups: Vec<(String, Vec<f64>)>,
}

/// Numbers in a grid, coloured by size.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HeatMap {
    /// What is seen.
    pub title: String,
    /// A line below the title; may be empty.
    pub note: String,
    /// What the columns are.
    pub x_label: String,
    /// What the rows are.
    pub y_label: String,
    /// What the numbers are, with their unit.
    pub value_label: String,
    /// The columns, from the left.
    pub columns: Vec<String>,
    /// The rows, from the top.
    pub rows: Vec<HeatRow>,
    /// How sizes become colours.
    pub colors: Colors,
}

/// One row of a heat map.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HeatRow {
    /// What it is.
    pub name: String,
    /// The numbers; an empty cell without one.
    pub values: Vec<Option<f64>>,
    /// What is written in each cell.
    pub labels: Vec<String>,
}

/// How sizes become colours.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colors {
    /// From pale to dark blue, from the least number to the greatest.
    #[default]
    Sequential,
    /// From pale to dark blue between two numbers.
    Between(f64, f64),
    /// White at 0, orange above, blue below; full at this distance from 0.
    Diverging(f64),
}

/// Lines over two axes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Lines {
    /// What is seen.
    pub title: String,
    /// A line below the title; may be empty.
    pub note: String,
    /// The horizontal axis.
    pub x: Scale,
    /// The vertical axis.
    pub y: Scale,
    /// The lines; later ones lie above.
    pub lines: Vec<Line>,
    /// Upright lines that mark a place.
    #[serde(default)]
    pub guides: Vec<Guide>,
}

/// One axis.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Scale {
    /// What it measures, with its unit.
    pub label: String,
    /// Where it begins, unless a number lies before; a little before the least number if not said.
    #[serde(default)]
    pub from: Option<f64>,
    /// Where it ends, unless a number lies beyond.
    #[serde(default)]
    pub to: Option<f64>,
    /// How its numbers are written.
    #[serde(default)]
    pub unit: Unit,
}

/// How numbers of an axis are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// As they are.
    #[default]
    Plain,
    /// Shares, 0 to 1, written as per cent.
    Percent,
    /// Whole numbers: no ticks between.
    Whole,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// Its points, horizontally and vertically, from the left.
    pub points: Vec<(f64, f64)>,
    /// How low and high each point may be; as many as points, or none.
    #[serde(default)]
    pub band: Vec<(f64, f64)>,
    /// How it looks.
    #[serde(default)]
    pub look: Look,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Look {
    /// A line.
    #[default]
    Solid,
    /// A line with its points marked.
    Marked,
    /// Steps: each height holds until the next point.
    Steps,
    /// A grey dashed line: what to compare with.
    Baseline,
}

/// How many values are in each of a row of bins.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Histogram {
    /// What is seen.
    pub title: String,
    /// A line below the title; may be empty.
    pub note: String,
    /// What the values are, with their unit.
    pub x_label: String,
    /// What is counted.
    pub y_label: String,
    /// The borders of the bins, ascending: one more than counts. A value on a border is in the bin to its right.
    pub edges: Vec<f64>,
    /// How many are in each.
    pub counts: Vec<u64>,
    /// Whether the horizontal axis is logarithmic: all borders are above 0 then.
    #[serde(default)]
    pub logarithmic: bool,
    /// Upright lines that mark a place, such as the median.
    #[serde(default)]
    pub guides: Vec<Guide>,
}

/// Distributions side by side (Tukey's box plots).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Boxes {
    /// What is seen.
    pub title: String,
    /// A line below the title; may be empty.
    pub note: String,
    /// What the values are, with their unit.
    pub x_label: String,
    /// The distributions, from the top.
    pub boxes: Vec<Spread>,
}

/// One distribution in a few numbers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Spread {
    /// Whose it is.
    pub name: String,
    /// How many values.
    pub rows: usize,
    /// The least value within 1.5 interquartile ranges of the box.
    pub low: f64,
    /// The first quartile.
    pub q1: f64,
    /// The median.
    pub median: f64,
    /// The third quartile.
    pub q3: f64,
    /// The greatest value within 1.5 interquartile ranges of the box.
    pub high: f64,
    /// Values outside; of many an even part.
    pub outliers: Vec<f64>,
    /// How many values are outside.
    pub outside: usize,
}

/// A tree of decisions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Tree {
    /// What is seen.
    pub title: String,
    /// A line below the title; may be empty.
    pub note: String,
    /// The nodes; the first is the root, and children come after their parents.
    pub nodes: Vec<TreeNode>,
}

/// A node of a tree.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TreeNode {
    /// What is written in it, a line each: the question of a fork, the answer of a leaf.
    pub lines: Vec<String>,
    /// The group that it has the colour of.
    pub group: Option<usize>,
    /// How sure it is, 0 to 1: how strong the colour is.
    pub purity: f64,
    /// The children: their position, and what is written on the way.
    pub children: Vec<(usize, String)>,
}

/// How many are left after each step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Funnel {
    /// What is seen.
    pub title: String,
    /// A line below the title; may be empty.
    pub note: String,
    /// The steps: name and how many.
    pub steps: Vec<(String, u64)>,
}

/// Charts beside and below each other.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Panels {
    /// What is seen.
    pub title: String,
    /// A line below the title; may be empty.
    pub note: String,
    /// How many are beside each other.
    pub columns: usize,
    /// The charts, from the left, then down. Panels hold no panels.
    pub charts: Vec<super::Chart>,
}
