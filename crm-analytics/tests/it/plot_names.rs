//! Names that are too long, numbers below 0, and what is missing.

use crm_analytics::plot::{Chart, KaplanMeier, Tree, TreeNode};
use crm_core::{Column, Table};

use crate::plot::{keep, read_svg};

#[test]
fn long_names_in_leaves_go_on_in_a_second_line() {
    let leaf = |name: &str| TreeNode {
        lines: vec![name.into(), "1,198 (99 %)".into()],
        group: Some(0),
        purity: 0.9,
        children: vec![],
    };
    let fork = |a, b| TreeNode {
        lines: vec!["monetary ≤ 900".into()],
        children: vec![(a, "yes".into()), (b, "no".into())],
        ..TreeNode::default()
    };
    let long = "recent, very frequent buyers of rare records";
    let chart = |nodes: Vec<TreeNode>| {
        Chart::Tree(Tree {
            title: "Tree".into(),
            note: String::new(),
            nodes,
        })
    };
    let nodes = vec![
        fork(1, 2),
        fork(3, 4),
        fork(5, 6),
        leaf("new"),
        leaf(long),
        leaf("old"),
        leaf("steady"),
    ];
    let few = chart(nodes);
    keep("tree-long-names.png", &few.png(900, 540).unwrap());
    let (_, texts) = read_svg(&few.svg(900, 540).unwrap());
    let all = texts.join(" ");
    assert!(!all.contains('…'), "{texts:?}");
    assert!(
        all.contains(long) && !texts.contains(&long.to_owned()),
        "{texts:?}"
    );
    // Where second lines would make the letters too small to be read, names are cut, as before.
    let mut deep: Vec<TreeNode> = (0..10).map(|i| fork(i * 2 + 1, i * 2 + 2)).collect();
    deep.truncate(10);
    for at in 10..21 {
        deep.push(leaf(if at % 2 == 0 { long } else { "x" }));
    }
    let svg = chart(deep).svg(900, 320);
    if let Ok(svg) = svg {
        read_svg(&svg);
    }
}

#[test]
fn numbers_below_zero_have_a_minus_sign() {
    let chart = Chart::correlations(
        vec!["a".into(), "b".into()],
        vec![vec![Some(1.0), Some(-0.5)], vec![Some(-0.5), Some(1.0)]],
    );
    let (_, texts) = read_svg(&chart.svg(900, 500).unwrap());
    // The cells, and the end of the legend.
    assert!(
        texts.contains(&"−0.50".to_owned()) && texts.contains(&"−1".to_owned()),
        "{texts:?}"
    );
    assert!(!texts.iter().any(|text| text.starts_with('-')), "{texts:?}");
    let loss = Chart::importances("Loss", vec![("a".into(), -0.25, None), ("b".into(), 1.5, None)]);
    let (_, texts) = read_svg(&loss.svg(900, 500).unwrap());
    assert!(texts.contains(&"−0.25".to_owned()), "{texts:?}");
}

#[test]
fn whole_times_have_whole_ticks() {
    let curve = |step: f64| {
        let points = (0..25).map(|i| KaplanMeier {
            time: f64::from(i) * step,
            share: 1.0 - f64::from(i) / 50.0,
            low: 0.4,
            high: 1.0,
        });
        Chart::survival("Stay", "Months", &[("all".into(), points.collect())])
    };
    let broken = |text: &String| text.contains('.') && text.parse::<f64>().is_ok();
    let (_, texts) = read_svg(&curve(1.0).svg(1000, 600).unwrap());
    assert!(!texts.iter().any(broken), "{texts:?}");
    let (_, texts) = read_svg(&curve(0.1).svg(1000, 600).unwrap());
    assert!(texts.iter().any(broken), "{texts:?}");
}

/// `x` is a value, `.` is none; a line a row.
fn table(names: &[&str], rows: &[&str]) -> Table {
    let columns = names.iter().enumerate().map(|(at, name)| {
        let mut column = Column::text(*name);
        for row in rows {
            column.push_text((row.as_bytes()[at] == b'x').then_some("known"));
        }
        column
    });
    Table::new(columns.collect()).unwrap()
}

#[test]
fn what_is_missing_together_is_counted() {
    let rows = ["xxxx", "xx.x", "xx.x", "x..x", "xx.x", ".x.x", "x..x", "xxxx"];
    let table = table(&["email", "phone", "city", "name"], &rows);
    let Chart::HeatMap(chart) = Chart::missing_patterns(&table) else {
        panic!("a grid");
    };
    // The column that lacks most comes first; one that lacks nothing is not there.
    assert_eq!(chart.columns, ["city", "phone", "email"]);
    let found: Vec<(&str, Vec<f64>)> = chart
        .rows
        .iter()
        .map(|row| (row.name.as_str(), row.values.iter().flatten().copied().collect()))
        .collect();
    assert_eq!(
        found,
        [
            ("37.5 % (3)", vec![1.0, 0.0, 0.0]),
            ("25.0 % (2)", vec![0.0, 0.0, 0.0]),
            ("25.0 % (2)", vec![1.0, 1.0, 0.0]),
            ("12.5 % (1)", vec![1.0, 0.0, 1.0]),
        ]
    );
    assert_eq!(chart.note, "2 of 8 customers lack nothing");
    let Chart::Bars(bars) = Chart::missing_of(&table) else {
        panic!("bars");
    };
    let labels: Vec<&str> = bars.bars.iter().map(|bar| bar.label.as_str()).collect();
    assert_eq!(labels, ["75.0 % (6)", "25.0 % (2)", "12.5 % (1)", "0.0 % (0)"]);
    let chart = Chart::HeatMap(chart);
    keep("missing-patterns.png", &chart.png(900, 500).unwrap());
    read_svg(&chart.svg(900, 500).unwrap());
    assert!(chart.text(80).contains("missing"));
}

#[test]
fn many_patterns_are_told_and_no_rows_are_no_error() {
    // 64 combinations of six columns, the first ones more often.
    let rows: Vec<String> = (0..64_u32)
        .flat_map(|bits| {
            let row: String = (0..6)
                .map(|at| if bits >> at & 1 == 1 { '.' } else { 'x' })
                .collect();
            vec![row; 1 + (64 - bits as usize) / 8]
        })
        .collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let names = ["a", "b", "c", "d", "e", "f"];
    let Chart::HeatMap(chart) = Chart::missing_patterns(&table(&names, &rows)) else {
        panic!("a grid");
    };
    assert_eq!(chart.rows.len(), 15);
    assert!(chart.note.contains("49 rarer combinations"), "{}", chart.note);
    for empty in [table(&names, &[]), Table::default(), table(&names, &["xxxxxx"])] {
        let chart = Chart::missing_patterns(&empty);
        chart.svg(900, 500).unwrap();
        chart.text(80);
        Chart::missing_of(&empty).svg(900, 500).unwrap();
    }
}
