//! Reports for people: one HTML file, pictures inside, without scripts and without outside links.
//!
//! ```
//! # fn show(found: &crm_analytics::insights::Segmentation) -> crm_core::Result<()> {
//! let page = crm_analytics::report::html("Customers in March", found)?;
//! std::fs::write("report.html", page).unwrap();
//! # Ok(()) }
//! ```
//!
//! A [`Report`] is put together from any charts and tables:
//!
//! ```
//! use crm_analytics::plot::Chart;
//! use crm_analytics::report::{ModelCard, Report};
//!
//! let mut report = Report::new("Spring campaign");
//! report.heading("What came of it");
//! report.chart(&Chart::funnel("Customers", vec![("Sent".into(), 900), ("Ordered".into(), 40)]), 900, 400).unwrap();
//! report.table(&[("Step", false), ("Customers", true)], [["Sent", "900"], ["Ordered", "40"]]);
//! report.card(&ModelCard { name: "leaves within 90 days".into(), ..ModelCard::default() });
//! let page = report.html();
//! assert!(page.starts_with("<!DOCTYPE html>") && !page.contains("<script"));
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::insights::{Segmentation, SegmentationPlan, figure};
use crate::plot::{Chart, escape};

const STYLE: &str = "body{font:16px/1.5 sans-serif;color:#222;background:#fff;max-width:62rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2.2rem}table{border-collapse:collapse;margin:.7rem 0}\
th,td{border-bottom:1px solid #ddd;padding:.3rem .7rem;text-align:left;vertical-align:top}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}\
code,td{overflow-wrap:anywhere}pre{overflow-x:auto;background:#f6f6f6;padding:.7rem}.wide{overflow-x:auto}\
.card{border:1px solid #bbb;border-radius:.4rem;padding:.2rem 1rem;margin:1rem 0}";

/// What a model is, what it is for, and what it is not for (after Mitchell et al., Model Cards, 2019).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelCard {
    /// What it predicts or groups.
    pub name: String,
    /// How, with its settings: `kmeans(k=4)`.
    pub method: String,
    /// What it was made for.
    pub purpose: String,
    /// What it must not be used for.
    pub not_for: String,
    /// What it learned from: which customers, up to when.
    pub data: String,
    /// The columns it looks at.
    pub features: Vec<String>,
    /// The seed of everything random.
    pub seed: Option<u64>,
    /// How good it is, by name.
    pub figures: BTreeMap<String, f64>,
    /// What a reader should know.
    pub limits: Vec<String>,
}

/// Writes the report of a segmentation: what was read and cleaned, pictures, segments in their own units, rules, lineage,
/// the model as JSON and its card, how to read it.
///
/// # Errors
/// Those of drawing.
pub fn html(title: &str, found: &Segmentation) -> Result<String> {
    Ok(segmentation(title, found, None)?.html())
}

/// The same with the plan as JSON, by which the run can be repeated.
///
/// # Errors
/// Those of drawing.
pub fn html_with_plan(title: &str, found: &Segmentation, plan: &SegmentationPlan) -> Result<String> {
    Ok(segmentation(title, found, Some(plan))?.html())
}

fn segmentation(title: &str, found: &Segmentation, plan: Option<&SegmentationPlan>) -> Result<Report> {
    let mut report = Report::new(title);
    read(&mut report, found);
    segments(&mut report, found);
    pictures(&mut report, found)?;
    rules(&mut report, found);
    choice(&mut report, found);
    cleaning(&mut report, found);
    lineage(&mut report, found);
    report.heading("Model card");
    report.card(&card(found));
    report.heading("Plan and model");
    if let Some(plan) = plan {
        report.json("The plan, by which the run can be repeated", plan)?;
    }
    report.json(
        "What was learned: cleaning, scale and groups, by which any customer can be put into a segment",
        &found.pipeline,
    )?;
    report.heading("How to read this");
    report.page.raw(
        "<p>Customers are in one segment because they are alike in the columns above, after each column was put on the \
         same scale. <b>Silhouette</b> says how far apart the segments are: 1 is far apart, 0 is touching, below 0 is \
         mixed up. <b>Inertia</b> is the sum of squared distances to the segments' centres; it always falls with more \
         segments. The plane shows the two <b>directions</b> in which customers differ most; their shares say how much \
         of all differences the picture can show. The same plan, data and seed give the same segments again.</p>",
    );
    Ok(report)
}

fn read(report: &mut Report, found: &Segmentation) {
    let page = &mut report.page;
    page.raw("<p>").text(&format!(
        "{} customers in {} segments, by what was known before {}. {} customers matched, {} of them had ordered ({} orders{}).",
        figure(found.ids.len() as f64),
        found.segments.len(),
        found.lineage.as_of,
        figure(found.features.customers as f64),
        figure(found.features.with_orders as f64),
        figure(found.features.orders as f64),
        found.features.currency.as_ref().map_or(String::new(), |code| format!(", amounts in {code}")),
    ));
    page.raw("</p>\n");
    if let Some(audience) = &found.features.audience {
        page.raw("<p>").text(&format!(
            "Made for the purpose {}: {} customers may be looked at for it; left out were {} who objected, {} who never agreed \
             and {} who are to be left alone at an address of theirs.",
            audience.purpose,
            figure(audience.admitted as f64),
            figure(audience.objected as f64),
            figure(audience.without_consent as f64),
            figure(audience.suppressed as f64),
        ));
        page.raw("</p>\n");
    }
    if !found.notes.is_empty() {
        page.raw("<ul>");
        found.notes.iter().for_each(|note| {
            page.raw("<li>").text(note).raw("</li>");
        });
        page.raw("</ul>\n");
    }
}

fn segments(report: &mut Report, found: &Segmentation) {
    let page = &mut report.page;
    page.heading("Segments");
    let mut head = vec![("Segment", false), ("Customers", true), ("Share", true)];
    head.extend(found.columns.iter().map(|column| (column.as_str(), true)));
    let rows = found.segments.iter().map(|segment| {
        let mut row = vec![
            segment.name.clone(),
            figure(segment.size as f64),
            format!("{:.1} %", segment.share * 100.0),
        ];
        let cells = segment.means.iter().zip(&segment.medians);
        row.extend(cells.map(|(mean, median)| format!("{} ({})", figure(*mean), figure(*median))));
        row
    });
    page.table(&head, rows);
    page.raw("<p>Each cell: average (median), in the column's own unit. Medians over all: ");
    let medians = found
        .columns
        .iter()
        .zip(&found.overall_medians)
        .map(|(name, v)| format!("{name} {}", figure(*v)));
    page.text(&medians.collect::<Vec<_>>().join(", "))
        .raw(".</p><ul>");
    for segment in &found.segments {
        page.raw("<li><b>")
            .name(&segment.name)
            .raw("</b>: ")
            .text(&segment.description)
            .raw("</li>");
    }
    page.raw("</ul>\n");
}

fn pictures(report: &mut Report, found: &Segmentation) -> Result<()> {
    report.heading("Pictures");
    let rows = found.segments.len() as u32;
    let columns = found.columns.len() as u32;
    let height = |base: u32, each: u32, count: u32| (base + each * count).clamp(320, 8_000);
    if let Some(plane) = Chart::plane(found) {
        report.chart(&plane, 1100, 660)?;
    }
    if let Some(loadings) = Chart::loadings(found) {
        report.chart(&loadings, 1100, height(230, 40, columns))?;
    }
    report.chart(&Chart::sizes(found), 1100, height(170, 62, rows))?;
    let width = (320 + 110 * columns).clamp(1100, 8_000);
    report.chart(&Chart::profile(found), width, height(260, 62, rows + 1))?;
    report.chart(
        &Chart::profile_dots(found),
        1100,
        height(200, 50, columns.max(rows)),
    )?;
    if !found.importances.is_empty() {
        report.chart(
            &Chart::segment_importances(found),
            1100,
            height(190, 46, columns.min(15)),
        )?;
    }
    if let Some(choice) = Chart::choice(found) {
        report.chart(&choice, 1100, 460)?;
    }
    Ok(())
}

fn rules(report: &mut Report, found: &Segmentation) {
    let page = &mut report.page;
    page.heading("Rules");
    if found.rules.is_empty() {
        page.raw("<p>There is only one group, so there is nothing to tell apart.</p>");
    } else {
        page.raw("<p>Plain conditions that come close to the segments");
        if let Some(accuracy) = found.metrics.get("rule_accuracy") {
            page.text(&format!(
                " (right for {:.1} % of the customers learned from)",
                accuracy * 100.0
            ));
        }
        page.raw(".</p>");
        let rows = found.rules.iter().map(|rule| {
            let segment = found
                .segments
                .get(rule.segment)
                .map_or(String::new(), |segment| segment.name.clone());
            vec![
                rule.text.clone(),
                segment,
                figure(rule.rows as f64),
                format!("{:.1} %", rule.purity * 100.0),
            ]
        });
        page.table(
            &[
                ("When", false),
                ("Segment", false),
                ("Customers", true),
                ("Right", true),
            ],
            rows,
        );
        let mut importances: Vec<(&String, &f64)> = found.columns.iter().zip(&found.importances).collect();
        importances.sort_by(|a, b| b.1.total_cmp(a.1));
        let words = importances
            .iter()
            .filter(|(_, v)| **v > 0.0)
            .map(|(name, v)| format!("{name} {:.0} %", **v * 100.0));
        page.raw("<p>What the rules rest on: ")
            .text(&words.collect::<Vec<_>>().join(", "))
            .raw(".</p>");
    }
}

fn choice(report: &mut Report, found: &Segmentation) {
    let page = &mut report.page;
    if let Some(choice) = &found.choice {
        page.heading("Number of segments");
        let rows = choice.scores.iter().map(|score| {
            let mark = if score.clusters == choice.best {
                " (chosen)"
            } else {
                ""
            };
            vec![
                format!("{}{mark}", score.clusters),
                format!("{:.3} ± {:.3}", score.silhouette.mean, score.silhouette.error),
                score.inertia.map_or(String::new(), figure),
            ]
        });
        page.table(
            &[("Segments", false), ("Silhouette", true), ("Inertia", true)],
            rows,
        );
    }
}

fn cleaning(report: &mut Report, found: &Segmentation) {
    let page = &mut report.page;
    page.heading("Cleaning");
    if found.cleaning.lines.is_empty() {
        page.raw("<p>No cleaning step was asked for.</p>");
    } else {
        let rows = found.cleaning.lines.iter().map(|line| {
            let counts = [
                line.changed,
                line.missing_before,
                line.missing_after,
                line.unreadable,
            ];
            let mut row = vec![line.step.clone(), line.column.clone()];
            row.extend(counts.map(|count| figure(count as f64)));
            row
        });
        let head = [
            ("Step", false),
            ("Column", false),
            ("Changed", true),
            ("Missing before", true),
            ("Missing after", true),
            ("Unreadable", true),
        ];
        page.table(&head, rows);
    }
}

fn lineage(report: &mut Report, found: &Segmentation) {
    let page = &mut report.page;
    page.heading("Lineage");
    let lineage = &found.lineage;
    let mut rows = vec![
        vec!["Run".into(), lineage.run.to_string()],
        vec!["Method".into(), lineage.method.clone()],
        vec!["Seed".into(), lineage.seed.to_string()],
        vec!["Data before".into(), lineage.as_of.to_string()],
        vec!["Features".into(), lineage.features.join(", ")],
        vec![
            "Hash of features and cleaning".into(),
            lineage.schema_hash.clone(),
        ],
    ];
    rows.extend(
        found
            .metrics
            .iter()
            .map(|(name, value)| vec![name.clone(), figure(*value)]),
    );
    page.table(&[("What", false), ("Value", false)], rows.into_iter());
}

fn card(found: &Segmentation) -> ModelCard {
    let lineage = &found.lineage;
    ModelCard {
        name: format!("{} segments of customers", found.segments.len()),
        method: lineage.method.clone(),
        purpose: "To see which kinds of customers there are, and to write to each kind in its own way.".into(),
        not_for: "Decisions on single people that weigh on them, such as credit, prices or refusal: a segment says what its \
                  customers have in common on average, nothing certain about anybody."
            .into(),
        data: format!(
            "{} customers, by what was known before {}; {} were asked for",
            figure(found.ids.len() as f64),
            lineage.as_of,
            figure(found.features.customers as f64)
        ),
        features: lineage.features.clone(),
        seed: Some(lineage.seed),
        figures: found.metrics.clone(),
        limits: found.notes.clone(),
    }
}

/// A page that grows from the top.
#[derive(Debug, Clone)]
pub struct Report {
    page: Page,
}

impl Report {
    /// An empty report.
    pub fn new(title: &str) -> Self {
        let mut page = Page::default();
        page.raw("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
        page.raw("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>");
        page.text(title)
            .raw("</title><style>")
            .raw(STYLE)
            .raw("</style></head><body><h1>");
        page.name(title).raw("</h1>\n");
        Self { page }
    }

    /// Begins a part.
    pub fn heading(&mut self, text: &str) {
        self.page.heading(text);
    }

    /// Text; whatever is in it is shown as it is.
    pub fn paragraph(&mut self, text: &str) {
        self.page.raw("<p>").text(text).raw("</p>\n");
    }

    /// A table: the names of the columns and whether they hold numbers, and the rows.
    pub fn table<R>(&mut self, head: &[(&str, bool)], rows: impl IntoIterator<Item = R>)
    where
        R: IntoIterator,
        R::Item: AsRef<str>,
    {
        let rows = rows
            .into_iter()
            .map(|row| row.into_iter().map(|cell| cell.as_ref().to_owned()).collect());
        self.page.table(head, rows);
    }

    /// A picture, `width` by `height` units; on narrow screens it shrinks.
    ///
    /// # Errors
    /// As [`Chart::svg`].
    pub fn chart(&mut self, chart: &Chart, width: u32, height: u32) -> Result<()> {
        let svg = chart.svg(width, height)?;
        self.page.raw("<div class=\"wide\">").raw(&svg).raw("</div>\n");
        Ok(())
    }

    /// Anything as JSON, folded up below a name.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when it has no form in JSON.
    pub fn json(&mut self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|e| {
            Error::invalid("this cannot be written as JSON")
                .operation("report.json")
                .source(e)
        })?;
        self.page
            .raw("<details><summary>")
            .text(name)
            .raw("</summary><pre><code>");
        self.page.text(&text).raw("</code></pre></details>\n");
        Ok(())
    }

    /// The card of a model.
    pub fn card(&mut self, card: &ModelCard) {
        let page = &mut self.page;
        page.raw("<div class=\"card\"><h3>")
            .name(&card.name)
            .raw("</h3>\n");
        let mut rows = vec![];
        for (what, told) in [
            ("Method", &card.method),
            ("Made for", &card.purpose),
            ("Not for", &card.not_for),
            ("Learned from", &card.data),
        ] {
            if !told.is_empty() {
                rows.push(vec![what.to_owned(), told.clone()]);
            }
        }
        if !card.features.is_empty() {
            rows.push(vec!["Looks at".into(), card.features.join(", ")]);
        }
        if let Some(seed) = card.seed {
            rows.push(vec!["Seed".into(), seed.to_string()]);
        }
        rows.extend(
            card.figures
                .iter()
                .map(|(name, value)| vec![name.clone(), figure(*value)]),
        );
        rows.extend(
            card.limits
                .iter()
                .map(|limit| vec!["To know".into(), limit.clone()]),
        );
        page.table(&[("What", false), ("Value", false)], rows.into_iter());
        page.raw("</div>\n");
    }

    /// The finished page.
    pub fn html(mut self) -> String {
        self.page.raw("</body></html>\n");
        self.page.0
    }
}

#[derive(Debug, Clone, Default)]
struct Page(String);

impl Page {
    fn raw(&mut self, html: &str) -> &mut Self {
        self.0.push_str(html);
        self
    }
    /// Text without letters that no HTML may hold.
    fn text(&mut self, text: &str) -> &mut Self {
        self.0.push_str(&shown(text));
        self
    }
    /// Somebody's words, which may be written from the right: they do not turn around what is beside.
    fn name(&mut self, text: &str) -> &mut Self {
        self.raw("<bdi>").text(text).raw("</bdi>")
    }
    fn heading(&mut self, text: &str) {
        self.raw("<h2>").text(text).raw("</h2>\n");
    }
    /// A table; the flag says whether a column is of numbers.
    fn table(&mut self, head: &[(&str, bool)], rows: impl Iterator<Item = Vec<String>>) {
        let class = |number: bool| if number { " class=\"n\"" } else { "" };
        self.raw("<div class=\"wide\"><table><tr>");
        for (name, number) in head {
            let _ = write!(self.0, "<th{}>{}</th>", class(*number), shown(name));
        }
        self.raw("</tr>");
        for row in rows {
            self.raw("<tr>");
            for (cell, (_, number)) in row.iter().zip(head) {
                let _ = write!(self.0, "<td{} dir=\"auto\">{}</td>", class(*number), shown(cell));
            }
            self.raw("</tr>");
        }
        self.raw("</table></div>\n");
    }
}

/// Escaped, without control characters but for line ends.
fn shown(text: &str) -> String {
    escape(text)
        .chars()
        .filter(|c| !c.is_control() || *c == '\n')
        .collect()
}
