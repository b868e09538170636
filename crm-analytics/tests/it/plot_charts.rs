//! What is in charts, without looking at pixels; and that every kind is drawn.

use crm_analytics::plot::{
    Bar, Bars, Chart, Ellipse, Font, Guide, HeatMap, HeatRow, Histogram, KaplanMeier, Line, Lines, Look,
    NumberOfGroups, Panels, Spread, Tree, TreeNode,
};
use crm_core::ErrorKind;

use crate::plot::{keep, read_png, read_svg};

fn node(name: &str, children: &[usize]) -> TreeNode {
    TreeNode {
        lines: vec![name.into()],
        group: children.is_empty().then_some(0),
        purity: 0.9,
        children: children.iter().map(|child| (*child, "way".into())).collect(),
    }
}

/// One of each kind, with names from other scripts.
fn kinds() -> Vec<Chart> {
    let names = [
        "müde Kunden",
        "Ελλάδα",
        "клиенты",
        "高价值的客户群体",
        "לקוחות 42",
        "عملاء",
        "a_very_long_column_name.that.never.ends_anywhere",
    ];
    let columns: Vec<String> = names.map(String::from).to_vec();
    let values: Vec<f64> = (0..500).map(|i| f64::from(i % 37) * 1.5 - 8.0).collect();
    vec![
        Chart::boxes(
            "Boxes",
            "Euro",
            names
                .iter()
                .map(|name| Spread::of(*name, &values).unwrap())
                .collect(),
        ),
        Chart::Histogram(Histogram::of("Histogram", "Euro", &values, 20).unwrap()),
        Chart::importances(
            "Importances",
            names
                .iter()
                .map(|name| ((*name).to_owned(), 0.2, Some(0.01)))
                .collect(),
        ),
        Chart::drift(
            names
                .iter()
                .zip([0.3, 0.2, 0.1, 0.01, 0.0, 0.0, 0.0])
                .map(|(name, v)| ((*name).to_owned(), v))
                .collect(),
        ),
        Chart::missing(100, columns.iter().map(|name| (name.clone(), 40)).collect()),
        Chart::correlations(columns.clone(), vec![vec![Some(-0.5); 7]; 7]),
        Chart::rfm(&vec![vec![12; 5]; 5]),
        Chart::cohorts(
            "month",
            &[
                ("Jan".into(), 10, vec![1.0, 0.5, 0.4]),
                ("Feb".into(), 9, vec![1.0, 0.6]),
                ("Mar".into(), 7, vec![1.0]),
            ],
        ),
        Chart::confusion(&columns[..2], &[vec![5, 1], vec![0, 4]]),
        Chart::funnel("Funnel", columns.iter().map(|name| (name.clone(), 7)).collect()),
        Chart::roc(vec![(0.0, 0.0), (0.1, 0.7), (1.0, 1.0)], 0.8, Some((0.75, 0.85))),
        Chart::precision_recall(vec![(0.1, 1.0), (0.6, 0.8), (1.0, 0.3)], 0.7, 0.3),
        Chart::gain_and_lift(&[(0.5, 2.5), (0.8, 1.5), (1.0, 1.0)]),
        Chart::calibration(&[(0.1, 0.12, 100), (0.5, 0.4, 100), (0.9, 0.95, 50)]),
        Chart::survival(
            "Survival",
            "Months",
            &[(
                "a".into(),
                vec![
                    KaplanMeier {
                        time: 0.0,
                        share: 1.0,
                        low: 1.0,
                        high: 1.0,
                    },
                    KaplanMeier {
                        time: 3.0,
                        share: 0.6,
                        low: 0.5,
                        high: 0.7,
                    },
                ],
            )],
        ),
        Chart::number_of_groups(
            &[
                NumberOfGroups {
                    groups: 2,
                    inertia: Some(9.0),
                    silhouette: Some((0.4, 0.01)),
                    gap: None,
                },
                NumberOfGroups {
                    groups: 3,
                    inertia: Some(5.0),
                    silhouette: Some((0.6, 0.01)),
                    gap: None,
                },
            ],
            3,
        ),
        Chart::Tree(Tree {
            title: "Tree".into(),
            note: String::new(),
            nodes: vec![
                node("клиенты ≤ 3", &[1, 2]),
                node("高价值", &[]),
                node("x", &[3, 4]),
                node("left", &[]),
                node("right", &[]),
            ],
        }),
    ]
}

#[test]
fn every_kind_is_drawn_in_every_way() {
    for chart in kinds() {
        let name = chart.title().to_owned();
        let svg = chart.svg(1000, 600).unwrap();
        let (counts, texts) = read_svg(&svg);
        assert_eq!((counts["title"], counts["desc"]), (1, 1), "{name}");
        assert!(counts["text"] > 4, "{name} {counts:?}");
        assert!(texts.contains(&name), "{name} {texts:?}");
        let png = chart.png(1000, 600).unwrap();
        keep(&format!("kind-{name}.png"), &png);
        let (width, height, colors) = read_png(&png);
        assert_eq!((width, height), (1000, 600), "{name}");
        assert!(colors.len() > 20, "{name}");
        assert!(
            colors
                .keys()
                .any(|[r, g, b]| r.max(g).max(b) - r.min(g).min(b) > 60),
            "{name} has colours"
        );
        assert_eq!(png, chart.png(1000, 600).unwrap(), "{name}");
        let text = chart.text(80);
        assert!(text.lines().count() > 3 && text.starts_with(&name), "{text}");
        let json = serde_json::to_string(&chart).unwrap();
        assert_eq!(serde_json::from_str::<Chart>(&json).unwrap(), chart, "{name}");
        assert!(!chart.description().is_empty());
    }
}

/// Every text of a picture is within the page, whatever the names: measured as the shipped font is wide, or half an em a
/// letter.
#[test]
fn long_and_foreign_names_stay_on_the_page() {
    let long = "群".repeat(300);
    let chart = |name: &str| {
        Chart::Bars(Bars {
            title: name.repeat(9),
            note: name.repeat(9),
            x_label: name.repeat(9),
            bars: vec![Bar {
                name: name.into(),
                value: 3.0,
                label: name.into(),
                ..Bar::default()
            }],
            guides: vec![Guide {
                at: 1.0,
                name: name.into(),
            }],
        })
    };
    for name in [
        long.as_str(),
        "שלום עולם ".repeat(40).as_str(),
        "i".repeat(2_000).as_str(),
        "\u{202e}evil",
    ] {
        let (_, texts) = read_svg(&chart(name).svg(800, 400).unwrap());
        for text in texts.iter().skip(2).filter(|text| text.chars().count() > 1) {
            assert!(text.chars().count() < 400, "cut: {text}");
            assert!(!text.contains('\u{202e}'));
        }
        chart(name).png(800, 400).unwrap();
    }
}

#[test]
fn histograms_count_every_value_once() {
    let values: Vec<f64> = (0..1_000).map(|i| f64::from(i) / 10.0).collect();
    let chart = Histogram::of("t", "x", &values, 20).unwrap();
    assert_eq!(chart.counts.iter().sum::<u64>(), 1_000);
    assert_eq!(chart.edges.first(), Some(&0.0));
    assert_eq!(chart.edges[1] - chart.edges[0], 5.0, "round borders");
    assert_eq!(chart.counts, vec![50; 20]);
    assert!((chart.guides[0].at - 49.95).abs() < 1e-9, "the median");
    let rising: Vec<f64> = (0..=40).map(|i| (f64::from(i) * 0.4).exp()).collect();
    let chart = Histogram::of("t", "x", &rising, 10).unwrap();
    assert!(chart.logarithmic);
    assert_eq!(chart.counts.iter().sum::<u64>(), 41);
    for values in [
        vec![],
        vec![5.0],
        vec![5.0; 9],
        vec![1e300, -1e300],
        vec![0.0; 3],
        vec![1e300, 1e300],
        vec![1.0, 1.0 + 1e-16],
    ] {
        let chart = Histogram::of("t", "x", &values, 30).unwrap();
        assert_eq!(
            chart.counts.iter().sum::<u64>(),
            values.len() as u64,
            "{values:?}"
        );
        Chart::Histogram(chart).svg(600, 400).unwrap();
    }
    let error = Histogram::of("t", "x", &[1.0, f64::NAN], 3).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Invalid && error.to_string().contains("row=1"),
        "{error}"
    );
}

/// Against `numpy.percentile` and `matplotlib.cbook.boxplot_stats` of the same values.
#[test]
fn boxes_are_those_of_tukey() {
    let spread = Spread::of("b", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 50.0]).unwrap();
    assert_eq!((spread.q1, spread.median, spread.q3), (3.25, 5.5, 7.75));
    assert_eq!((spread.low, spread.high), (1.0, 9.0));
    assert_eq!(
        (spread.outliers.as_slice(), spread.outside),
        ([50.0].as_slice(), 1)
    );
    let many: Vec<f64> = (0..100_000)
        .map(|i| {
            if i % 10 == 0 {
                1e6 + f64::from(i)
            } else {
                f64::from(i % 7)
            }
        })
        .collect();
    let spread = Spread::of("many", &many).unwrap();
    assert_eq!(spread.outside, 10_000);
    assert!(
        spread.outliers.len() <= 202 && spread.outliers.contains(&1_099_990.0),
        "the farthest is kept"
    );
}

/// A normal scatter holds its share: the ellipse of a circle is a circle of the known radius.
#[test]
fn ellipses_hold_their_share() {
    // Points of a circle of radius 1 have variance 1/2 along each axis.
    let circle: Vec<(f64, f64, Option<usize>)> = (0..1_000)
        .map(|i| {
            let (s, c) = (f64::from(i) * std::f64::consts::TAU / 1_000.0).sin_cos();
            (3.0 + c, 4.0 + s, Some(2))
        })
        .collect();
    let ellipse = Ellipse::around(2, &circle, 0.9).unwrap();
    // The root of half of chi squared's quantile of 4.605170186.
    let radius = (4.605_170_186_f64 / 2.0).sqrt();
    assert!(
        (ellipse.long - radius).abs() < 2e-3 && (ellipse.short - radius).abs() < 2e-3,
        "{ellipse:?}"
    );
    assert!((ellipse.x - 3.0).abs() < 1e-9 && (ellipse.y - 4.0).abs() < 1e-9);
    let line: Vec<(f64, f64, Option<usize>)> =
        (0..9).map(|i| (f64::from(i), f64::from(i), Some(0))).collect();
    let ellipse = Ellipse::around(0, &line, 0.9).unwrap();
    assert!((ellipse.angle - std::f64::consts::FRAC_PI_4).abs() < 1e-9 && ellipse.short < 1e-6);
    assert_eq!(Ellipse::around(1, &line, 0.9), None);
    assert_eq!(Ellipse::around(0, &[(1.0, 1.0, Some(0)); 5], 0.9), None);
}

#[test]
fn tables_become_charts_without_loss() {
    let Chart::HeatMap(cohorts) = Chart::cohorts(
        "week",
        &[("w1".into(), 10, vec![1.0, 0.25]), ("w2".into(), 5, vec![1.0])],
    ) else {
        panic!("a heat map")
    };
    assert_eq!(
        cohorts.rows[1].values,
        [Some(100.0), None],
        "what has not happened yet is empty"
    );
    assert_eq!(cohorts.rows[0].labels, ["100 %", "25 %"]);
    let Chart::HeatMap(rfm) = Chart::rfm(&[vec![1, 2], vec![3, 4]]) else {
        panic!("a heat map")
    };
    assert_eq!(
        (rfm.rows[0].name.as_str(), rfm.rows[0].labels.as_slice()),
        ("R2", ["3".to_owned(), "4".to_owned()].as_slice())
    );
    let Chart::HeatMap(confusion) = Chart::confusion(&["a".into(), "b".into()], &[vec![3, 1], vec![0, 0]])
    else {
        panic!("a heat map")
    };
    assert_eq!(confusion.rows[0].values, [Some(75.0), Some(25.0)]);
    assert_eq!(
        confusion.rows[1].values,
        [Some(0.0), Some(0.0)],
        "a class that never occurs"
    );
    let Chart::Bars(importances) = Chart::importances(
        "t",
        (0..20)
            .map(|i| (format!("c{i:02}"), f64::from(i % 5), None))
            .collect(),
    ) else {
        panic!("bars")
    };
    assert_eq!(importances.bars.len(), 15);
    assert_eq!(
        (
            importances.bars[0].name.as_str(),
            importances.bars[4].name.as_str()
        ),
        ("c04", "c03")
    );
    assert!(importances.note.contains("5 less important"));
    let Chart::Panels(panels) = Chart::gain_and_lift(&[(0.6, 3.0), (1.0, 2.0)]) else {
        panic!("panels")
    };
    let Chart::Lines(gain) = &panels.charts[0] else {
        panic!("lines")
    };
    assert_eq!(gain.lines[1].points, [(0.0, 0.0), (0.5, 0.6), (1.0, 1.0)]);
    let Chart::Panels(groups) = Chart::number_of_groups(&[], 3) else {
        panic!("panels")
    };
    assert!(groups.charts.is_empty());
    let Chart::Lines(calibration) = Chart::calibration(&[(0.2, 0.3, 30), (0.8, 0.8, 10)]) else {
        panic!("lines")
    };
    assert!(
        calibration.note.contains("40 customers") && calibration.note.contains("7.5 points"),
        "{}",
        calibration.note
    );
}

#[test]
fn text_for_terminals_keeps_its_width() {
    for chart in kinds() {
        for columns in [40, 80, 133] {
            for line in chart.text(columns).lines() {
                let wide: usize = line
                    .chars()
                    .map(|c| {
                        if ('\u{2e80}'..'\u{a000}').contains(&c) {
                            2
                        } else {
                            1
                        }
                    })
                    .sum();
                assert!(
                    wide <= columns + 2,
                    "{wide} > {columns}: {line}\n{}",
                    chart.text(columns)
                );
            }
        }
    }
    let text = Chart::funnel("F", vec![("sent".into(), 200), ("read".into(), 50)]).text(60);
    assert!(text.contains("(25.0 %)"), "{text}");
    let bar = |value| Bar {
        name: format!("b{value}"),
        value,
        label: format!("{value}"),
        ..Bar::default()
    };
    let text = Chart::Bars(Bars {
        title: "t".into(),
        bars: vec![bar(4.0), bar(2.0), bar(-4.0)],
        ..Bars::default()
    })
    .text(60);
    let blocks = |line: usize| text.lines().nth(line).unwrap().matches('█').count();
    assert!(
        blocks(1) > 10 && blocks(1).abs_diff(blocks(2) * 2) <= 1 && blocks(1).abs_diff(blocks(3)) <= 1,
        "{text}"
    );
}

#[test]
fn wrong_charts_are_refused_and_the_field_is_named() {
    let refused = |chart: Chart, field: &str| {
        let error = chart.svg(900, 500).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(field), "{error}");
        assert_eq!(chart.png(900, 500).unwrap_err().kind(), ErrorKind::Invalid);
        // Terminals show what there is.
        chart.text(80);
    };
    let bar = |value: f64| Bar {
        name: "x".into(),
        value,
        ..Bar::default()
    };
    let bars = |bars: Vec<Bar>| {
        Chart::Bars(Bars {
            title: "t".into(),
            bars,
            ..Bars::default()
        })
    };
    refused(bars(vec![bar(f64::INFINITY)]), "field=bars");
    refused(bars(vec![bar(f64::NAN)]), "field=bars");
    refused(
        bars(vec![Bar {
            error: Some(-1.0),
            ..bar(1.0)
        }]),
        "field=bars",
    );
    refused(bars((0..400).map(|_| bar(1.0)).collect()), "rows=400");
    let heat = |rows: Vec<HeatRow>| {
        Chart::HeatMap(HeatMap {
            columns: vec!["a".into()],
            rows,
            ..HeatMap::default()
        })
    };
    refused(
        heat(vec![HeatRow {
            name: "ragged".into(),
            ..HeatRow::default()
        }]),
        "field=rows",
    );
    let line = Line {
        points: vec![(0.0, 1.0)],
        band: vec![(0.0, 1.0); 2],
        ..Line::default()
    };
    refused(
        Chart::Lines(Lines {
            lines: vec![line],
            ..Lines::default()
        }),
        "field=lines",
    );
    refused(
        Chart::Histogram(Histogram {
            edges: vec![1.0, 1.0],
            counts: vec![3],
            ..Histogram::default()
        }),
        "field=edges",
    );
    refused(
        Chart::Boxes(crm_analytics::plot::Boxes {
            boxes: vec![Spread {
                q1: 5.0,
                ..Spread::default()
            }],
            ..Default::default()
        }),
        "field=boxes",
    );
    let tree = |nodes: Vec<TreeNode>| {
        Chart::Tree(Tree {
            nodes,
            ..Tree::default()
        })
    };
    refused(tree(vec![node("circle", &[0])]), "field=nodes");
    refused(
        tree(vec![node("twice", &[1, 1]), node("leaf", &[])]),
        "field=nodes",
    );
    refused(tree(vec![node("nowhere", &[7])]), "field=nodes");
    let nested = Chart::Panels(Panels {
        charts: vec![Chart::Panels(Panels::default())],
        ..Panels::default()
    });
    refused(nested, "field=charts");
    let error = bars(vec![bar(1.0)]).png(100, 500).unwrap_err();
    assert!(error.to_string().contains("width=100"), "{error}");
    assert_eq!(
        Font::read(b"no font".to_vec()).unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

#[test]
fn letters_of_a_host_font_are_drawn() {
    // The shipped font handed in as the host's: what it lacks stays a box, what it has is the same picture.
    let font = Font::read(include_bytes!("../../assets/DejaVuSans-latin.ttf").to_vec()).unwrap();
    let chart = Chart::funnel("Trichter", vec![("gesendet".into(), 10), ("客".into(), 5)]);
    assert_eq!(
        chart.png(600, 400).unwrap(),
        chart.png_with(&font, 600, 400).unwrap()
    );
    assert!(format!("{font:?}").starts_with("Font("));
}

#[test]
fn steps_hold_until_the_next_point() {
    let steps = |look| {
        Chart::Lines(Lines {
            lines: vec![Line {
                points: vec![(0.0, 1.0), (1.0, 0.5), (2.0, 0.0)],
                look,
                ..Line::default()
            }],
            ..Lines::default()
        })
        .svg(600, 400)
        .unwrap()
    };
    let corners = |svg: &str| {
        let line = svg
            .lines()
            .rfind(|line| line.contains("stroke=\"#0072b2\""))
            .unwrap()
            .to_owned();
        line.split("points=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .split(' ')
            .count()
    };
    assert_eq!(
        (corners(&steps(Look::Solid)), corners(&steps(Look::Steps))),
        (3, 5)
    );
}

#[test]
fn what_judges_say_is_drawn() {
    use crm_analytics::judge::{drift, permutation_importance};
    use crm_analytics::metrics::{lift_table, precision_recall, reliability, roc};
    use crm_analytics::model::{CartTree, TreeConfig};

    let scores: Vec<f64> = (0..200).map(|i| f64::from(i % 50) / 50.0).collect();
    let positive: Vec<bool> = (0..200).map(|i| i % 50 > 20 + i % 13).collect();
    let x = crm_core::Matrix::new(
        vec!["visits".into(), "age".into(), "same".into()],
        scores
            .iter()
            .enumerate()
            .flat_map(|(i, s)| [*s, -2.0 * s + (i % 7) as f64 * 0.01, 4.0])
            .collect(),
    )
    .unwrap();
    let classes: Vec<usize> = positive.iter().map(|p| usize::from(*p)).collect();
    let tree = CartTree::new(TreeConfig::new(2))
        .unwrap()
        .learn(&x, &classes, None)
        .unwrap();
    let found = roc(&scores, &positive).unwrap();
    let chart = Chart::from(&found);
    let Chart::Lines(lines) = &chart else {
        panic!("lines")
    };
    assert_eq!(lines.lines[1].points.len(), found.points.len());
    assert!(lines.note.contains(&format!("{:.3}", found.auc)));
    let drawn = Chart::tree("Who", &tree, &["stays"]);
    let Chart::Tree(data) = &drawn else {
        panic!("a tree")
    };
    assert_eq!(
        data.nodes.iter().filter(|node| node.children.is_empty()).count(),
        tree.leaves()
    );
    assert!(data.nodes[0].lines[0].contains(" ≤ ") && data.nodes[0].lines[1] == "200 customers");
    assert!(
        data.nodes.iter().any(|node| node.lines[0] == "class 1"),
        "classes without a name have a number"
    );
    let correlations = Chart::correlations_of(&x);
    let Chart::HeatMap(map) = &correlations else {
        panic!("a heat map")
    };
    assert!((map.rows[0].values[0].unwrap() - 1.0).abs() < 1e-12);
    assert!(map.rows[0].values[1].unwrap() < -0.99);
    assert_eq!(
        map.rows[0].values[2], None,
        "a column that does not vary correlates with nothing"
    );
    for chart in [
        chart,
        drawn,
        correlations,
        Chart::from(&precision_recall(&scores, &positive).unwrap()),
        Chart::from(&lift_table(&scores, &positive, 10).unwrap()),
        Chart::from(&reliability(&scores, &positive, 10).unwrap()),
        Chart::from(&drift(&x, &x, 10).unwrap()),
        Chart::permutation_importances(&permutation_importance(&tree, &x, &classes, 2, 7).unwrap()),
    ] {
        read_svg(&chart.svg(900, 540).unwrap());
        chart.png(900, 540).unwrap();
    }
}
