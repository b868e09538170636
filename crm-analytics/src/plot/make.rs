//! Charts made from figures.

use super::Chart;
use super::data::{
    Bar, Bars, Boxes, Colors, Funnel, Guide, HeatMap, HeatRow, Line, Lines, Look, Panels, Scale, Spread, Unit,
};
use super::figure;

/// A number of groups that was tried, and how good it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NumberOfGroups {
    /// The number.
    pub groups: usize,
    /// The sum of squared distances to the centres.
    pub inertia: Option<f64>,
    /// The mean silhouette and its standard error.
    pub silhouette: Option<(f64, f64)>,
    /// The gap statistic and its standard error.
    pub gap: Option<(f64, f64)>,
}

/// Those who are still there after some time (Kaplan and Meier 1958), with the bounds of a 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KaplanMeier {
    /// The time.
    pub time: f64,
    /// The share still there.
    pub share: f64,
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

fn share(label: &str) -> Scale {
    Scale {
        label: label.into(),
        from: Some(0.0),
        to: Some(1.0),
        unit: Unit::Percent,
    }
}

fn line(name: impl Into<String>, points: Vec<(f64, f64)>, look: Look) -> Line {
    Line {
        name: name.into(),
        points,
        look,
        band: Vec::new(),
    }
}

impl Chart {
    /// Distributions of groups side by side.
    pub fn boxes(title: impl Into<String>, x_label: impl Into<String>, boxes: Vec<Spread>) -> Self {
        let note = "The box holds the middle half, the line in it is the median; points lie more than 1.5 boxes away";
        Self::Boxes(Boxes {
            title: title.into(),
            note: note.into(),
            x_label: x_label.into(),
            boxes,
        })
    }

    /// A ROC curve: false and true positive rates, the area below and its 95 % interval.
    pub fn roc(points: Vec<(f64, f64)>, auc: f64, interval: Option<(f64, f64)>) -> Self {
        let between = interval.map_or(String::new(), |(low, high)| {
            format!(", 95 % interval {low:.3} to {high:.3}")
        });
        Self::Lines(Lines {
            title: "ROC curve".into(),
            note: format!("Area below: {auc:.3}{between}"),
            x: share("False positive rate"),
            y: share("True positive rate"),
            lines: vec![
                line("by chance", vec![(0.0, 0.0), (1.0, 1.0)], Look::Baseline),
                line("model", points, Look::Solid),
            ],
            guides: vec![],
        })
    }

    /// A precision-recall curve: recall and precision, the average precision, and the share of positives.
    pub fn precision_recall(points: Vec<(f64, f64)>, average: f64, baseline: f64) -> Self {
        Self::Lines(Lines {
            title: "Precision and recall".into(),
            note: format!("Average precision: {average:.3}; by chance {baseline:.3}"),
            x: share("Recall: share of the positive found"),
            y: share("Precision: share of the found that are positive"),
            lines: vec![
                line(
                    "by chance",
                    vec![(0.0, baseline), (1.0, baseline)],
                    Look::Baseline,
                ),
                line("model", points, Look::Steps),
            ],
            guides: vec![],
        })
    }

    /// Gain beside lift, from the parts of the ranked customers: the share of the positive found down to each, and its lift.
    pub fn gain_and_lift(parts: &[(f64, f64)]) -> Self {
        let step = |i: usize| (i + 1) as f64 / parts.len().max(1) as f64;
        let gain = std::iter::once((0.0, 0.0))
            .chain(parts.iter().enumerate().map(|(i, (gain, _))| (step(i), *gain)));
        let lift = parts.iter().enumerate().map(|(i, (_, lift))| (step(i), *lift));
        let gain = Self::Lines(Lines {
            title: "Gain".into(),
            x: share("Customers contacted, best first"),
            y: share("Positive found"),
            lines: vec![
                line("by chance", vec![(0.0, 0.0), (1.0, 1.0)], Look::Baseline),
                line("model", gain.collect(), Look::Marked),
            ],
            ..Lines::default()
        });
        let lift = Self::Lines(Lines {
            title: "Lift".into(),
            x: share("Customers, best first"),
            y: Scale {
                label: "Lift over the average".into(),
                from: Some(0.0),
                ..Scale::default()
            },
            lines: vec![
                line("by chance", vec![(0.0, 1.0), (1.0, 1.0)], Look::Baseline),
                line("each part", lift.collect(), Look::Marked),
            ],
            ..Lines::default()
        });
        Self::Panels(Panels {
            title: "Gain and lift".into(),
            note: "What contacting the best-ranked customers first would bring".into(),
            columns: 2,
            charts: vec![gain, lift],
        })
    }

    /// Whether probabilities come true: predicted and observed share of bins of customers, and their number.
    pub fn calibration(bins: &[(f64, f64, u64)]) -> Self {
        let all: u64 = bins.iter().map(|(_, _, rows)| rows).sum();
        let off: f64 = bins.iter().map(|(p, o, rows)| (p - o).abs() * *rows as f64).sum();
        Self::Lines(Lines {
            title: "Calibration".into(),
            note: format!(
                "{} customers in {} bins; predictions are off by {:.1} points on average",
                figure(all as f64),
                bins.len(),
                if all > 0 { off / all as f64 * 100.0 } else { 0.0 }
            ),
            x: share("Predicted probability"),
            y: share("Observed share"),
            lines: vec![
                line("perfect", vec![(0.0, 0.0), (1.0, 1.0)], Look::Baseline),
                line(
                    "model",
                    bins.iter().map(|(p, o, _)| (*p, *o)).collect(),
                    Look::Marked,
                ),
            ],
            guides: vec![],
        })
    }

    /// How much each column matters, the largest first, 15 at most: names, sizes, errors.
    pub fn importances(title: impl Into<String>, mut parts: Vec<(String, f64, Option<f64>)>) -> Self {
        parts.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let left_out = parts.len().saturating_sub(15);
        parts.truncate(15);
        let bars = parts.into_iter().map(|(name, value, error)| Bar {
            label: figure(value),
            name,
            value,
            error,
            group: None,
        });
        Self::Bars(Bars {
            title: title.into(),
            note: if left_out > 0 {
                format!("{left_out} less important columns left out")
            } else {
                String::new()
            },
            x_label: "Importance".into(),
            bars: bars.collect(),
            guides: vec![],
        })
    }

    /// How far columns have moved: population stability indices, with the usual bounds.
    pub fn drift(mut columns: Vec<(String, f64)>) -> Self {
        columns.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let bars = columns.into_iter().map(|(name, value)| Bar {
            label: format!("{value:.3}"),
            group: Some(if value >= 0.25 {
                3
            } else if value >= 0.1 {
                1
            } else {
                0
            }),
            name,
            value,
            error: None,
        });
        Self::Bars(Bars {
            title: "Drift of columns".into(),
            note: "Below 0.1 little has changed, from 0.25 much".into(),
            x_label: "Population stability index".into(),
            bars: bars.collect(),
            guides: [0.1, 0.25].map(|at| Guide { at, name: figure(at) }).to_vec(),
        })
    }

    /// Correlations of columns, −1 to 1; `None` where there is none (a column that does not vary).
    pub fn correlations(columns: Vec<String>, matrix: Vec<Vec<Option<f64>>>) -> Self {
        let rows = columns.iter().zip(matrix).map(|(name, values)| HeatRow {
            name: name.clone(),
            labels: values
                .iter()
                .map(|v| v.map_or("–".into(), |v| format!("{v:.2}").replace('-', "−")))
                .collect(),
            values,
        });
        Self::HeatMap(HeatMap {
            title: "Correlations".into(),
            note: "Orange: both grow together; blue: one grows while the other falls".into(),
            value_label: "correlation".into(),
            rows: rows.collect(),
            columns,
            colors: Colors::Diverging(1.0),
            ..HeatMap::default()
        })
    }

    /// How many customers have each score of recency (rows, the best on top) and frequency (columns): `counts[r][f]`, both
    /// from the worst.
    pub fn rfm(counts: &[Vec<u64>]) -> Self {
        let width = counts.iter().map(Vec::len).max().unwrap_or(0);
        let all: u64 = counts.iter().flatten().sum();
        let rows = counts.iter().enumerate().rev().map(|(r, row)| HeatRow {
            name: format!("R{}", r + 1),
            values: (0..width).map(|f| row.get(f).map(|n| *n as f64)).collect(),
            labels: (0..width)
                .map(|f| row.get(f).map_or(String::new(), |n| figure(*n as f64)))
                .collect(),
        });
        Self::HeatMap(HeatMap {
            title: "Recency and frequency".into(),
            note: format!(
                "{} customers by their scores; 5 is most recent, most frequent",
                figure(all as f64)
            ),
            x_label: "Frequency score".into(),
            y_label: "Recency score".into(),
            value_label: "customers".into(),
            columns: (1..=width).map(|f| format!("F{f}")).collect(),
            rows: rows.collect(),
            colors: Colors::Sequential,
        })
    }

    /// The share of each cohort that came back after each period: name, size, shares from period 0. Later cohorts have fewer
    /// periods; what has not happened yet stays empty.
    pub fn cohorts(period: &str, cohorts: &[(String, u64, Vec<f64>)]) -> Self {
        let width = cohorts
            .iter()
            .map(|(_, _, shares)| shares.len())
            .max()
            .unwrap_or(0);
        let rows = cohorts.iter().map(|(name, size, shares)| HeatRow {
            name: format!("{name} ({})", figure(*size as f64)),
            values: (0..width).map(|i| shares.get(i).map(|v| v * 100.0)).collect(),
            labels: (0..width)
                .map(|i| {
                    shares
                        .get(i)
                        .map_or(String::new(), |v| format!("{:.0} %", v * 100.0))
                })
                .collect(),
        });
        Self::HeatMap(HeatMap {
            title: "Retention of cohorts".into(),
            note: format!("The share of customers who ordered again, by {period} after the first order"),
            x_label: format!("{period}s since the first order"),
            y_label: "First order".into(),
            value_label: "%".into(),
            columns: (0..width).map(|i| i.to_string()).collect(),
            rows: rows.collect(),
            colors: Colors::Between(0.0, 100.0),
        })
    }

    /// What was predicted (columns) of what is true (rows): counts, coloured by their share of the row.
    pub fn confusion(classes: &[String], counts: &[Vec<u64>]) -> Self {
        let rows = classes.iter().zip(counts).map(|(name, row)| {
            let all: u64 = row.iter().sum();
            let part = |n: u64| {
                if all > 0 {
                    n as f64 / all as f64 * 100.0
                } else {
                    0.0
                }
            };
            HeatRow {
                name: name.clone(),
                values: row.iter().map(|n| Some(part(*n))).collect(),
                labels: row
                    .iter()
                    .map(|n| format!("{} ({:.0} %)", figure(*n as f64), part(*n)))
                    .collect(),
            }
        });
        Self::HeatMap(HeatMap {
            title: "Confusion matrix".into(),
            note: "Counts, and their share of what is true".into(),
            x_label: "Predicted".into(),
            y_label: "True".into(),
            value_label: "% of the row".into(),
            columns: classes.to_vec(),
            rows: rows.collect(),
            colors: Colors::Between(0.0, 100.0),
        })
    }

    /// How many are left after each step.
    pub fn funnel(title: impl Into<String>, steps: Vec<(String, u64)>) -> Self {
        Self::Funnel(Funnel {
            title: title.into(),
            note: String::new(),
            steps,
        })
    }

    /// How many are still there as time goes by, for one or more groups. The unit of time goes into `x_label`.
    pub fn survival(
        title: impl Into<String>,
        x_label: impl Into<String>,
        groups: &[(String, Vec<KaplanMeier>)],
    ) -> Self {
        let lines = groups.iter().map(|(name, points)| Line {
            name: name.clone(),
            points: points.iter().map(|p| (p.time, p.share)).collect(),
            band: points.iter().map(|p| (p.low, p.high)).collect(),
            look: Look::Steps,
        });
        let whole = groups
            .iter()
            .flat_map(|(_, points)| points)
            .all(|point| point.time.fract() == 0.0);
        Self::Lines(Lines {
            title: title.into(),
            note: "Kaplan-Meier estimate with its 95 % interval".into(),
            x: Scale {
                label: x_label.into(),
                from: Some(0.0),
                unit: if whole { Unit::Whole } else { Unit::Plain },
                ..Scale::default()
            },
            y: share("Still customers"),
            lines: lines.collect(),
            guides: vec![],
        })
    }

    /// Numbers of groups beside each other: elbow, silhouette and gap, as far as known, with the chosen one marked.
    pub fn number_of_groups(tried: &[NumberOfGroups], chosen: usize) -> Self {
        let panel = |title: &str, note: &str, value: fn(&NumberOfGroups) -> Option<(f64, f64)>| {
            let points: Vec<(f64, f64, f64)> = tried
                .iter()
                .filter_map(|t| value(t).map(|(v, error)| (t.groups as f64, v, error)))
                .collect();
            (!points.is_empty()).then(|| {
                let spread = points.iter().any(|(_, _, error)| *error > 0.0);
                Self::Lines(Lines {
                    title: title.into(),
                    note: note.into(),
                    x: Scale {
                        label: "Number of segments".into(),
                        unit: Unit::Whole,
                        ..Scale::default()
                    },
                    y: Scale {
                        label: title.into(),
                        ..Scale::default()
                    },
                    lines: vec![Line {
                        name: String::new(),
                        points: points.iter().map(|(x, y, _)| (*x, *y)).collect(),
                        band: points
                            .iter()
                            .filter(|_| spread)
                            .map(|(_, y, error)| (y - error, y + error))
                            .collect(),
                        look: Look::Marked,
                    }],
                    guides: vec![Guide {
                        at: chosen as f64,
                        name: format!("chosen: {chosen}"),
                    }],
                })
            })
        };
        let charts: Vec<Self> = [
            panel("Inertia", "Where it bends", |t| t.inertia.map(|v| (v, 0.0))),
            panel("Silhouette", "Larger is better", |t| t.silhouette),
            panel("Gap", "Larger is better", |t| t.gap),
        ]
        .into_iter()
        .flatten()
        .collect();
        Self::Panels(Panels {
            title: "How many segments".into(),
            note: String::new(),
            columns: charts.len().max(1),
            charts,
        })
    }
}
