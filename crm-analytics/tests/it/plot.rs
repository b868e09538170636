//! Pictures and the report.

use std::collections::BTreeMap;

use crm_analytics::insights::{Segmentation, SegmentationPlan};
use crm_analytics::plot::{Bar, Bars, Chart, MOST_POINTS, Profile, ProfileRow, Scatter};
use crm_analytics::report::html;
use crm_core::ErrorKind;

use crate::insights::{ctx, house, plan};

async fn found() -> Segmentation {
    let house = house().await;
    let shop = ctx("shop");
    house.three_kinds(&shop).await;
    let plan = SegmentationPlan {
        name_prefix: "<b>value</b>".into(),
        ..plan()
    };
    house.insights.preview(&shop, &plan, &mut |_| ()).await.unwrap()
}

/// Where a person can look at them: `KEEP_PICTURES=folder`.
fn keep(name: &str, bytes: &[u8]) {
    if let Ok(folder) = std::env::var("KEEP_PICTURES") {
        std::fs::write(std::path::Path::new(&folder).join(name), bytes).unwrap();
    }
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
        note: String::new(),
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
    })
}

/// Width, height and the colours that occur, read back from the file.
fn read_png(bytes: &[u8]) -> (u32, u32, BTreeMap<[u8; 3], usize>) {
    let mut reader = png::Decoder::new(bytes).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let mut colors = BTreeMap::new();
    pixels
        .chunks_exact(3)
        .for_each(|p| *colors.entry([p[0], p[1], p[2]]).or_default() += 1);
    (info.width, info.height, colors)
}

#[tokio::test]
async fn every_chart_of_a_segmentation_is_drawn_both_ways() {
    let found = found().await;
    let charts = [
        ("plane", Chart::plane(&found).unwrap()),
        ("sizes", Chart::sizes(&found)),
        ("profile", Chart::profile(&found)),
    ];
    for (name, chart) in charts {
        let svg = chart.svg(1200, 720).unwrap();
        assert!(
            svg.contains(&format!("<title>{}</title>", chart.title())) && svg.trim_end().ends_with("</svg>")
        );
        assert!(!svg.contains("open-crm-sans") && svg.contains("font-family=\"sans-serif\""));
        assert_eq!(
            svg,
            chart.svg(1200, 720).unwrap(),
            "the same chart is the same picture"
        );
        let png = chart.png(1200, 720).unwrap();
        keep(&format!("{name}.png"), &png);
        let (width, height, colors) = read_png(&png);
        assert_eq!((width, height), (1200, 720));
        assert!(colors.len() > 50, "text and colours are there");
        assert!(colors[&[255, 255, 255]] > 1200 * 720 / 4, "on white");
        let json = serde_json::to_string(&chart).unwrap();
        assert_eq!(serde_json::from_str::<Chart>(&json).unwrap(), chart);
    }
    let Chart::Scatter(plane) = Chart::plane(&found).unwrap() else {
        panic!("a scatter")
    };
    assert!(plane.x_label.starts_with("Direction 1: ") && plane.x_label.contains("% of the variance"));
    assert_eq!(plane.points.len(), 140);
    let svg = Chart::plane(&found).unwrap().svg(1200, 720).unwrap();
    let circles = svg.matches("<circle").count();
    assert_eq!(circles, 140 + 3, "each customer and each entry of the legend");
}

#[test]
fn many_points_are_thinned_and_it_is_said() {
    let chart = scatter(25_000, 3);
    let svg = chart.svg(1000, 600).unwrap();
    assert_eq!(svg.matches("<circle").count(), MOST_POINTS + 3);
    assert!(svg.contains("10,000 of 25,000 points drawn"));
    assert!(
        svg.contains("&amp; &lt;signs&gt;") || svg.contains("&lt;signs"),
        "names are escaped"
    );
}

#[test]
fn odd_charts_are_drawn_or_refused() {
    for chart in [
        scatter(1, 1),
        scatter(40, 20),
        Chart::Scatter(Scatter {
            title: "empty\u{0}".into(),
            note: "n".into(),
            x_label: String::new(),
            y_label: String::new(),
            groups: vec![],
            points: vec![],
        }),
        Chart::Bars(Bars {
            title: String::new(),
            note: String::new(),
            bars: vec![],
        }),
        Chart::Bars(Bars {
            title: "zero".into(),
            note: String::new(),
            bars: vec![Bar {
                name: "имя".into(),
                value: 0.0,
                label: "0".into(),
            }],
        }),
        Chart::Profile(Profile {
            title: "none".into(),
            note: String::new(),
            columns: vec![],
            rows: vec![],
        }),
    ] {
        assert!(!chart.svg(900, 500).unwrap().contains('\u{0}'));
        keep(
            &format!("odd-{}.png", chart.title().trim_end_matches('\u{0}')),
            &chart.png(900, 500).unwrap(),
        );
    }
    let endless = Chart::Bars(Bars {
        title: "t".into(),
        note: String::new(),
        bars: vec![Bar {
            name: "x".into(),
            value: f64::INFINITY,
            label: String::new(),
        }],
    });
    let ragged = Chart::Profile(Profile {
        title: "t".into(),
        note: String::new(),
        columns: vec!["a".into()],
        rows: vec![ProfileRow {
            name: "r".into(),
            labels: vec![],
            effects: vec![],
        }],
    });
    let bar = |i: usize| Bar {
        name: i.to_string(),
        value: 1.0,
        label: String::new(),
    };
    let crowd = Chart::Bars(Bars {
        title: "t".into(),
        note: String::new(),
        bars: (0..400).map(bar).collect(),
    });
    for chart in [endless, ragged, crowd] {
        assert_eq!(chart.svg(900, 500).unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert!(
        scatter(3, 1)
            .png(100, 500)
            .unwrap_err()
            .to_string()
            .contains("width=100")
    );
}

#[tokio::test]
async fn the_report_is_one_file_without_scripts_or_links() {
    let found = found().await;
    let page = html("Report & <title>", &found).unwrap();
    keep("report.html", page.as_bytes());
    assert!(page.contains("<h1>Report &amp; &lt;title&gt;</h1>"));
    assert!(
        page.contains("&lt;b&gt;value&lt;/b&gt;") && !page.contains("<b>value</b>"),
        "names are escaped"
    );
    for part in ["<script", "href=", "src=", "@import", "url("] {
        assert!(!page.contains(part), "{part}");
    }
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.contains("http://") && !outside.contains("https://"));
    assert_eq!(page.matches("<svg").count(), 3);
    for part in [
        &found.run.to_string(),
        &found.lineage.schema_hash,
        "recency_days",
        "Silhouette",
        "(chosen)",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for segment in &found.segments {
        assert!(page.contains(&segment.description));
    }
}
