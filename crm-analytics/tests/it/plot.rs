//! Pictures of a segmentation and its report.

use std::collections::BTreeMap;

use crm_analytics::insights::{Segmentation, SegmentationPlan};
use crm_analytics::plot::{Chart, MOST_POINTS, Scatter};
use crm_analytics::report::{ModelCard, Report, html, html_with_plan};
use quick_xml::events::Event;

use crate::insights::{ctx, house, plan};

fn the_plan() -> SegmentationPlan {
    SegmentationPlan {
        name_prefix: "<b>value</b>".into(),
        ..plan()
    }
}

async fn found() -> Segmentation {
    let house = house().await;
    let shop = ctx("shop");
    house.three_kinds(&shop).await;
    house
        .insights
        .preview(&shop, &the_plan(), &mut |_| ())
        .await
        .unwrap()
}

/// Where a person can look at them: `KEEP_PICTURES=folder`.
pub(crate) fn keep(name: &str, bytes: &[u8]) {
    if let Ok(folder) = std::env::var("KEEP_PICTURES") {
        std::fs::write(std::path::Path::new(&folder).join(name), bytes).unwrap();
    }
}

/// Reads a picture with a parser that is not ours; how often each element occurs, and all text.
pub(crate) fn read_svg(svg: &str) -> (BTreeMap<String, usize>, Vec<String>) {
    let mut reader = quick_xml::Reader::from_str(svg);
    reader.config_mut().expand_empty_elements = true;
    let (mut counts, mut texts, mut open) = (BTreeMap::<String, usize>::new(), Vec::new(), 0);
    loop {
        match reader.read_event().unwrap_or_else(|e| panic!("{e}: {svg}")) {
            Event::Start(start) => {
                open += 1;
                let name = String::from_utf8(start.name().as_ref().to_vec()).unwrap();
                *counts.entry(name).or_default() += 1;
                for attribute in start.attributes() {
                    let value = attribute.unwrap().value;
                    let value = std::str::from_utf8(&value).unwrap();
                    let odd = ["NaN", "inf", "<", "javascript:"];
                    assert!(!odd.iter().any(|odd| value.contains(odd)), "{value}");
                }
            }
            Event::End(_) => open -= 1,
            Event::Text(text) => {
                let text = text.decode().unwrap().into_owned();
                texts.push(text);
            }
            Event::GeneralRef(entity) => {
                let name = entity.decode().unwrap();
                assert!(
                    ["amp", "lt", "gt", "quot", "#39"].contains(&name.as_ref()),
                    "{name}"
                );
            }
            Event::Eof => break,
            other => panic!("an SVG of ours has no {other:?}"),
        }
    }
    assert_eq!(open, 0);
    let forbidden = |c: char| c.is_control() && c != '\n';
    assert!(!svg.contains(forbidden));
    (counts, texts)
}

/// Width, height and the colours that occur, read back from the file.
pub(crate) fn read_png(bytes: &[u8]) -> (u32, u32, BTreeMap<[u8; 3], usize>) {
    let mut reader = png::Decoder::new(bytes).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let mut colors = BTreeMap::new();
    pixels
        .chunks_exact(3)
        .for_each(|p| *colors.entry([p[0], p[1], p[2]]).or_default() += 1);
    (info.width, info.height, colors)
}

fn scatter(points: usize, groups: usize) -> Chart {
    let points = (0..points).map(|i| {
        let group = i % groups;
        let angle = i as f64 * 2.4;
        (
            group as f64 * 3.0 + angle.cos() * (i % 17) as f64 * 0.1,
            angle.sin() * (i % 13) as f64 * 0.2,
            Some(group),
        )
    });
    Chart::Scatter(Scatter {
        title: "A title".into(),
        x_label: "x".into(),
        y_label: "y".into(),
        groups: (0..groups)
            .map(|i| {
                (
                    format!("group {i} with a long, long name & <signs>"),
                    "10 (5 %)".into(),
                )
            })
            .collect(),
        points: points.collect(),
        ..Scatter::default()
    })
}

#[tokio::test]
async fn every_chart_of_a_segmentation_is_drawn_both_ways() {
    let found = found().await;
    let charts = [
        ("plane", Chart::plane(&found).unwrap()),
        ("sizes", Chart::sizes(&found)),
        ("profile", Chart::profile(&found)),
        ("dots", Chart::profile_dots(&found)),
        ("loadings", Chart::loadings(&found).unwrap()),
        ("segment-importances", Chart::segment_importances(&found)),
        ("choice", Chart::choice(&found).unwrap()),
    ];
    for (name, chart) in charts {
        let svg = chart.svg(1200, 720).unwrap();
        let (counts, _) = read_svg(&svg);
        assert_eq!((counts["title"], counts["desc"]), (1, 1), "{name}");
        assert!(svg.contains(&format!("<title>{}</title>", chart.title())));
        assert!(svg.contains("font-family=\"sans-serif\"") && svg.contains("role=\"img\""));
        assert_eq!(
            svg,
            chart.svg(1200, 720).unwrap(),
            "the same chart is the same picture"
        );
        let png = chart.png(1200, 720).unwrap();
        assert_eq!(png, chart.png(1200, 720).unwrap(), "{name}");
        keep(&format!("{name}.png"), &png);
        let (width, height, colors) = read_png(&png);
        assert_eq!((width, height), (1200, 720));
        assert!(colors.len() > 50, "text and colours are there");
        assert!(colors[&[255, 255, 255]] > 1200 * 720 / 4, "on white");
        let json = serde_json::to_string(&chart).unwrap();
        assert_eq!(serde_json::from_str::<Chart>(&json).unwrap(), chart);
        let text = chart.text(80);
        assert!(text.contains(chart.title()) && text.lines().count() > 3, "{text}");
    }
    let Chart::Scatter(plane) = Chart::plane(&found).unwrap() else {
        panic!("a scatter")
    };
    assert!(plane.x_label.starts_with("Direction 1: ") && plane.x_label.contains("% of the variance"));
    assert_eq!(plane.points.len(), 140);
    assert_eq!(
        (plane.ellipses.len(), plane.arrows.len()),
        (3, found.columns.len())
    );
    let (counts, _) = read_svg(&Chart::plane(&found).unwrap().svg(1200, 720).unwrap());
    assert_eq!(
        counts["circle"],
        140 + 3,
        "each customer and each entry of the legend"
    );
}

#[test]
fn many_points_become_density_and_it_is_said() {
    let chart = scatter(25_000, 3);
    let svg = chart.svg(1000, 600).unwrap();
    let (counts, _) = read_svg(&svg);
    assert_eq!(counts["circle"], 3, "of the legend");
    assert!(counts["polygon"] > 100, "{counts:?}");
    assert!(svg.len() < 500_000, "{}", svg.len());
    assert!(svg.contains("25,000 points as density"));
    assert!(svg.contains("&amp; &lt;signs&gt;"), "names are escaped");
    let (counts, _) = read_svg(&scatter(MOST_POINTS, 3).svg(1000, 600).unwrap());
    assert_eq!(counts["circle"], MOST_POINTS + 3);
    // PNG stands more points: each is drawn still.
    let few = read_png(&scatter(3, 3).png(900, 500).unwrap()).2;
    let many = read_png(&scatter(25_000, 3).png(900, 500).unwrap()).2;
    assert!(few[&[255, 255, 255]] > many[&[255, 255, 255]]);
}

#[tokio::test]
async fn the_report_is_one_file_without_scripts_or_links() {
    let found = found().await;
    let page = html("Report & <title>", &found).unwrap();
    keep("report.html", page.as_bytes());
    assert!(page.contains("<h1><bdi>Report &amp; &lt;title&gt;</bdi></h1>"));
    assert!(
        page.contains("&lt;b&gt;value&lt;/b&gt;") && !page.contains("<b>value</b>"),
        "names are escaped"
    );
    for part in ["<script", "href=", "src=", "@import", "url(", "<iframe", "<link"] {
        assert!(!page.contains(part), "{part}");
    }
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.contains("http:") && !outside.contains("https:"));
    assert_eq!(page.matches("<svg").count(), 7);
    for part in [
        &found.run.to_string(),
        &found.lineage.schema_hash,
        "recency_days",
        "Silhouette",
        "(chosen)",
        "Model card",
        "Not for",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for segment in &found.segments {
        assert!(page.contains(&segment.description));
    }
    assert!(!page.contains("by which the run can be repeated"));
    let with_plan = html_with_plan("Report", &found, &the_plan()).unwrap();
    // The plan can be read back from the page.
    let json = with_plan
        .split("by which the run can be repeated</summary><pre><code>")
        .nth(1)
        .unwrap();
    let json = json
        .split("</code>")
        .next()
        .unwrap()
        .replace("&quot;", "\"")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&#39;", "'")
        .replace("&amp;", "&");
    assert_eq!(
        serde_json::from_str::<SegmentationPlan>(&json).unwrap(),
        the_plan()
    );
}

#[test]
fn a_report_stands_hostile_names() {
    let evil = "</title><script>alert(1)</script>\u{0}\u{202e}\"'&";
    let mut report = Report::new(evil);
    report.heading(evil);
    report.paragraph(evil);
    report.table(&[(evil, false)], [[evil]]);
    report
        .chart(&Chart::funnel(evil, vec![(evil.into(), 3)]), 800, 400)
        .unwrap();
    report.json(evil, &BTreeMap::from([(evil, evil)])).unwrap();
    report.card(&ModelCard {
        name: evil.into(),
        limits: vec![evil.into()],
        ..ModelCard::default()
    });
    let page = report.html();
    assert!(!page.contains("<script") && !page.contains('\u{0}') && !page.contains("</title><script"));
    assert_eq!(
        page.matches("</title>").count(),
        2,
        "of the page and of the picture"
    );
    assert!(
        html_escaped(&page),
        "no sign that opens a tag is left of the name"
    );
}

/// All tags of a page are ones that a report writes.
fn html_escaped(page: &str) -> bool {
    let known = [
        "!DOCTYPE", "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "table",
        "tr", "th", "td", "svg", "desc", "rect", "polygon", "polyline", "text", "g", "circle", "details",
        "summary", "pre", "code", "bdi",
    ];
    page.split('<').skip(1).all(|rest| {
        let name: String = rest
            .trim_start_matches('/')
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '!')
            .collect();
        known.contains(&name.as_str())
    })
}
