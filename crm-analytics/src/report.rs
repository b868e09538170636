//! A report on a segmentation for people: one HTML file, pictures inside, without scripts and without outside links.
//!
//! ```
//! # fn show(found: &crm_analytics::insights::Segmentation) -> crm_core::Result<()> {
//! let page = crm_analytics::report::html("Customers in March", found)?;
//! std::fs::write("report.html", page).unwrap();
//! # Ok(()) }
//! ```

use std::fmt::Write;

use crm_core::Result;

use crate::insights::{Segmentation, figure};
use crate::plot::{Chart, escape};

const STYLE: &str = "body{font:16px/1.5 sans-serif;color:#222;max-width:62rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2.2rem}table{border-collapse:collapse;margin:.7rem 0}\
th,td{border-bottom:1px solid #ddd;padding:.3rem .7rem;text-align:left;vertical-align:top}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}\
code{overflow-wrap:anywhere}.wide{overflow-x:auto}";

/// Writes the report: what was read and cleaned, pictures, segments in their own units, rules, lineage, how to read it.
///
/// # Errors
/// Those of drawing.
pub fn html(title: &str, found: &Segmentation) -> Result<String> {
    let mut page = Page::default();
    page.raw("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.raw("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>");
    page.text(title);
    page.raw("</title><style>")
        .raw(STYLE)
        .raw("</style></head><body><h1>")
        .text(title)
        .raw("</h1>\n");

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
    if !found.notes.is_empty() {
        page.raw("<ul>");
        found.notes.iter().for_each(|note| {
            page.raw("<li>").text(note).raw("</li>");
        });
        page.raw("</ul>\n");
    }

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
            .text(&segment.name)
            .raw("</b>: ")
            .text(&segment.description)
            .raw("</li>");
    }
    page.raw("</ul>\n");

    page.heading("Pictures");
    let rows = found.segments.len() as u32;
    if let Some(plane) = Chart::plane(found) {
        page.raw(&plane.svg(1100, 660)?);
    }
    page.raw(&Chart::sizes(found).svg(1100, (140 + 62 * rows).clamp(300, 8_000))?);
    let width = (320 + 110 * found.columns.len() as u32).clamp(1100, 8_000);
    page.raw("<div class=\"wide\">")
        .raw(&Chart::profile(found).svg(width, (260 + 62 * (rows + 1)).clamp(300, 8_000))?);
    page.raw("</div>\n");

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

    page.heading("How to read this");
    page.raw(
        "<p>Customers are in one segment because they are alike in the columns above, after each column was put on the \
         same scale. <b>Silhouette</b> says how far apart the segments are: 1 is far apart, 0 is touching, below 0 is \
         mixed up. <b>Inertia</b> is the sum of squared distances to the segments' centres; it always falls with more \
         segments. The plane shows the two <b>directions</b> in which customers differ most; their shares say how much \
         of all differences the picture can show. The same plan, data and seed give the same segments again.</p>",
    );
    page.raw("</body></html>\n");
    Ok(page.0)
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn raw(&mut self, html: &str) -> &mut Self {
        self.0.push_str(html);
        self
    }
    fn text(&mut self, text: &str) -> &mut Self {
        self.0.push_str(&escape(text));
        self
    }
    fn heading(&mut self, text: &str) {
        self.raw("<h2>").text(text).raw("</h2>\n");
    }
    /// A table; the flag says whether a column is of numbers.
    fn table(&mut self, head: &[(&str, bool)], rows: impl Iterator<Item = Vec<String>>) {
        let class = |number: bool| if number { " class=\"n\"" } else { "" };
        self.raw("<div class=\"wide\"><table><tr>");
        for (name, number) in head {
            let _ = write!(self.0, "<th{}>{}</th>", class(*number), escape(name));
        }
        self.raw("</tr>");
        for row in rows {
            self.raw("<tr>");
            for (cell, (_, number)) in row.iter().zip(head) {
                let _ = write!(self.0, "<td{}>{}</td>", class(*number), escape(cell));
            }
            self.raw("</tr>");
        }
        self.raw("</table></div>\n");
    }
}
