//! Whatever is in a chart, it is drawn or refused, and nothing that is no number gets into a picture.

use crm_analytics::plot::{
    Arrow, Bar, Bars, Chart, Colors, Dots, Ellipse, Guide, HeatMap, HeatRow, Histogram, Line, Lines, Look,
    Scale, Scatter, Spread, Unit,
};
use proptest::prelude::*;

use crate::plot::{read_png, read_svg};

fn finite() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -1e3..1e3_f64,
        1 => Just(0.0),
        1 => Just(-0.0),
        1 => Just(1e300),
        1 => Just(-1e300),
        1 => Just(1e-300),
        1 => any::<f64>().prop_filter("no larger ones are drawn", |v| v.abs() <= 1e300),
    ]
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        200 => finite(),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(f64::NEG_INFINITY),
        1 => Just(f64::MAX),
    ]
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        ".{0,12}",
        Just("]]><script>&'\"".to_owned()),
        Just("\u{0}\u{7}\u{fffe}\u{202e}".to_owned()),
        Just("שלום 客户 🦀".to_owned()),
    ]
}

fn points() -> impl Strategy<Value = Vec<(f64, f64)>> {
    prop::collection::vec((number(), number()), 0..12)
}

fn look() -> impl Strategy<Value = Look> {
    prop_oneof![
        Just(Look::Solid),
        Just(Look::Marked),
        Just(Look::Steps),
        Just(Look::Baseline)
    ]
}

fn scale() -> impl Strategy<Value = Scale> {
    let unit = prop_oneof![Just(Unit::Plain), Just(Unit::Percent), Just(Unit::Whole)];
    (
        word(),
        prop::option::of(number()),
        prop::option::of(number()),
        unit,
    )
        .prop_map(|(label, from, to, unit)| Scale {
            label,
            from,
            to,
            unit,
        })
}

fn chart() -> impl Strategy<Value = Chart> {
    let guide = (number(), word()).prop_map(|(at, name)| Guide { at, name });
    let guides = prop::collection::vec(guide, 0..3).boxed();
    let bar =
        (word(), number(), word(), prop::option::of(0.0..1e3_f64)).prop_map(|(name, value, label, error)| {
            Bar {
                name,
                value,
                label,
                error,
                group: None,
            }
        });
    let bars = (word(), word(), prop::collection::vec(bar, 0..6), guides.clone()).prop_map(
        |(title, x_label, bars, guides)| {
            Chart::Bars(Bars {
                title,
                note: String::new(),
                x_label,
                bars,
                guides,
            })
        },
    );
    let line = (word(), points(), look(), any::<bool>()).prop_map(|(name, points, look, band)| Line {
        band: if band { points.clone() } else { vec![] },
        name,
        points,
        look,
    });
    let lines = (
        word(),
        scale(),
        scale(),
        prop::collection::vec(line, 0..3),
        guides,
    )
        .prop_map(|(title, x, y, lines, guides)| {
            Chart::Lines(Lines {
                title,
                note: String::new(),
                x,
                y,
                lines,
                guides,
            })
        });
    let scatter = (
        word(),
        points(),
        prop::collection::vec((number(), number()), 0..3),
    )
        .prop_map(|(title, points, arrows)| {
            let points: Vec<(f64, f64, Option<usize>)> = points
                .into_iter()
                .enumerate()
                .map(|(i, (x, y))| (x, y, (i % 3 > 0).then_some(i * 7)))
                .collect();
            Chart::Scatter(Scatter {
                title: title.clone(),
                x_label: title.clone(),
                groups: vec![(title.clone(), title.clone()); 3],
                ellipses: Ellipse::around(7, &points, 0.9).into_iter().collect(),
                arrows: arrows
                    .into_iter()
                    .map(|(x, y)| Arrow {
                        name: title.clone(),
                        x,
                        y,
                    })
                    .collect(),
                points,
                ..Scatter::default()
            })
        });
    let colors = prop_oneof![
        Just(Colors::Sequential),
        (number(), number()).prop_map(|(a, b)| Colors::Between(a, b)),
        number().prop_map(Colors::Diverging),
    ];
    let row =
        (word(), prop::collection::vec(prop::option::of(number()), 3)).prop_map(|(name, values)| HeatRow {
            labels: values.iter().map(|_| name.clone()).collect(),
            name,
            values,
        });
    let heat = (word(), prop::collection::vec(row, 0..5), colors).prop_map(|(title, rows, colors)| {
        Chart::HeatMap(HeatMap {
            columns: vec![title.clone(); 3],
            x_label: title.clone(),
            title,
            rows,
            colors,
            ..HeatMap::default()
        })
    });
    let dots = (word(), prop::collection::vec(number(), 4)).prop_map(|(title, values)| {
        Chart::Dots(Dots {
            rows: vec![title.clone(); 4],
            groups: vec![(title.clone(), values)],
            title,
            ..Dots::default()
        })
    });
    let summaries = prop::collection::vec(finite(), 0..40).prop_filter_map("numbers", |values| {
        let boxes = Chart::boxes("b", "x", vec![Spread::of("s", &values).ok()?]);
        Some((
            boxes,
            Chart::Histogram(Histogram::of("h", "x", &values, 12).ok()?),
        ))
    });
    let summaries = (summaries, any::<bool>())
        .prop_map(|((boxes, histogram), first)| if first { boxes } else { histogram });
    prop_oneof![bars, lines, scatter, heat, dots, summaries]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn charts_are_drawn_or_refused(chart in chart(), small in any::<bool>()) {
        let (width, height) = if small { (300, 300) } else { (640, 420) };
        let text = chart.text(60);
        prop_assert!(!text.contains("NaN"), "{text}");
        chart.description();
        match chart.svg(width, height) {
            Ok(svg) => {
                read_svg(&svg);
                // Places are on the page or near it, never far away.
                for part in svg.split("points=\"").skip(1) {
                    for number in part.split('"').next().unwrap().split([' ', ',']) {
                        let number: f64 = number.parse().unwrap();
                        prop_assert!(number.abs() < 4_000.0, "{number} in {svg}");
                    }
                }
                let png = chart.png(width, height).unwrap();
                prop_assert_eq!(read_png(&png).0, width);
            }
            Err(error) => prop_assert_eq!(error.kind(), crm_core::ErrorKind::Invalid),
        }
    }
}
