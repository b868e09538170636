//! Profiles of tables whose figures are known.

use crm_analytics::profile::{AssociationMeasure, Looks, ProfilePlan, TableProfile};
use crm_core::record::{FieldType, Value};
use crm_core::{Column, Table, Timestamp};
use proptest::prelude::*;

fn texts(name: &str, values: &[Option<&str>]) -> Column {
    let mut column = Column::text(name);
    values.iter().for_each(|value| column.push_text(*value));
    column
}

#[test]
fn numbers_are_described_as_numpy_describes_them() {
    // numpy 2: mean 17.571428571428573, std(ddof=1) 36.43977366, quantile .25 = 2.5, .95 = 73.0; MAD 2.
    let mut x = Column::floats("x", vec![1.0, 2.0, 3.0, 4.0, 5.0, 100.0, 8.0]);
    x.push(Value::Null).unwrap();
    x.push(Value::Float(f64::NAN)).unwrap();
    x.push(Value::Float(f64::INFINITY)).unwrap();
    let plan = ProfilePlan {
        quantiles: vec![0.25, 0.95],
        ..ProfilePlan::new()
    };
    let profile = plan.run(&Table::new(vec![x]).unwrap()).unwrap();
    let column = &profile.columns[0];
    let numbers = column.numbers.as_ref().unwrap();
    assert_eq!(
        (column.missing, numbers.infinite, column.distinct.count),
        (2, 1, 8)
    );
    assert!((numbers.mean - 123.0 / 7.0).abs() < 1e-12);
    let mean = 123.0 / 7.0;
    let squares: f64 = [1.0, 2.0, 3.0, 4.0, 5.0, 100.0, 8.0_f64]
        .iter()
        .map(|v| (v - mean).powi(2))
        .sum();
    assert!((numbers.deviation - (squares / 6.0).sqrt()).abs() < 1e-10);
    assert_eq!((numbers.median, numbers.mad, numbers.outliers), (4.0, 2.0, 1));
    assert_eq!(numbers.quantiles[0], (0.25, 2.5));
    assert!((numbers.quantiles[1].1 - (8.0 * 0.3 + 100.0 * 0.7)).abs() < 1e-12);
    assert_eq!((numbers.min, numbers.max), (1.0, 100.0));
}

#[test]
fn text_that_is_meant_to_be_something_is_held_to_it() {
    let table = Table::new(vec![
        texts(
            "mail",
            &[
                Some("a@b.de"),
                Some("c@d.fr"),
                Some("nobody"),
                Some("e@f.it"),
                None,
            ],
        ),
        texts(
            "phone",
            &[
                Some("+4930901820"),
                Some("+61491570156"),
                Some("+1"),
                Some("+442079460000"),
                None,
            ],
        ),
        texts(
            "born",
            &[
                Some("1.2.1990"),
                Some("31.2.1990"),
                Some("2.3.1980"),
                Some("3.4.1970"),
                None,
            ],
        ),
        texts(
            "paid",
            &[Some("12.50"), Some("1,5"), Some("x"), Some("7"), Some("8")],
        ),
        texts(
            "news",
            &[Some("yes"), Some("no"), Some("No"), Some(" "), Some("yes ")],
        ),
        texts(
            "note",
            &[
                Some("once upon"),
                Some("a time"),
                Some("there"),
                Some("was"),
                Some("was"),
            ],
        ),
    ])
    .unwrap();
    let profile = ProfilePlan::new().run(&table).unwrap();
    for (name, looks, rows) in [
        ("mail", Some(Looks::Email), vec![2]),
        ("phone", Some(Looks::Phone), vec![2]),
        ("born", Some(Looks::Date), vec![1]),
        ("paid", Some(Looks::Number), vec![2]),
        ("news", Some(Looks::Flag), vec![3]),
        ("note", None, vec![]),
    ] {
        let column = profile.column(name).unwrap();
        assert_eq!((column.looks_like, &column.unlike_rows), (looks, &rows), "{name}");
        assert_eq!(column.unlike, rows.len());
    }
    let news = profile.column("news").unwrap().text.clone().unwrap();
    assert_eq!(
        (news.blank, news.untrimmed, news.shortest, news.longest),
        (1, 2, 1, 4)
    );
    // What the host means goes over what it looks like.
    let meant = ProfilePlan::new()
        .meant("note", Looks::Number)
        .run(&table)
        .unwrap();
    assert_eq!(meant.column("note").unwrap().unlike, 5);
    // A frequent value is named, one that stands once is not; neither is in Debug.
    let note = profile.column("note").unwrap();
    assert_eq!(
        (note.top.len(), note.top[0].value.as_str(), note.top[0].count),
        (1, "was", 2)
    );
    assert!(!format!("{profile:?}").contains("was\""));
}

#[test]
fn duplicates_and_impossible_times_are_counted() {
    let day = |y, m| Value::Timestamp(Timestamp::from_ymd(y, m, 1).unwrap());
    let mut at = Column::empty("at", FieldType::Timestamp).unwrap();
    for value in [
        day(2026, 1),
        day(2026, 1),
        day(2030, 1),
        day(1800, 1),
        Value::Null,
    ] {
        at.push(value).unwrap();
    }
    let table = Table::new(vec![
        texts("mail", &[Some("a"), Some("a"), Some("a"), None, None]),
        at,
        Column::floats("z", vec![0.0, -0.0, 1.0, 2.0, 2.0]),
    ])
    .unwrap();
    let plan = ProfilePlan {
        as_of: Timestamp::from_ymd(2027, 1, 1),
        ..ProfilePlan::new().key(["mail"])
    };
    let profile = plan.run(&table).unwrap();
    assert_eq!((profile.duplicate_rows, profile.duplicate_keys), (1, Some(2)));
    let times = profile.column("at").unwrap().times.clone().unwrap();
    assert_eq!((times.future, times.ancient), (1, 1));
    assert!(ProfilePlan::new().key(["nobody"]).run(&table).is_err());
    let wrong = ProfilePlan {
        quantiles: vec![1.5],
        ..ProfilePlan::new()
    };
    assert_eq!(
        wrong.run(&table).unwrap_err().context("setting"),
        Some("quantiles")
    );
}

#[test]
fn columns_that_say_the_same_or_know_the_outcome_are_named() {
    let n = 200;
    let x: Vec<f64> = (0..n).map(|i| f64::from(i * 37 % 101)).collect();
    let churned: Vec<i64> = (0..n).map(|i| i64::from(i % 4 == 0)).collect();
    let mut reason = Column::text("reason");
    let mut plan = Column::text("plan");
    let mut level = Column::text("level");
    for i in 0..n {
        reason.push_text((i % 4 == 0).then_some("moved away"));
        plan.push_text(Some(["a", "b", "c"][i as usize % 3]));
        level.push_text(Some(["1", "2", "3"][i as usize % 3]));
    }
    let table = Table::new(vec![
        Column::floats("x", x.clone()),
        Column::floats("y", x.iter().map(|x| 7.0 - 2.0 * x).collect()),
        Column::floats(
            "refund",
            churned
                .iter()
                .zip(&x)
                .map(|(c, x)| *c as f64 * 50.0 + x / 100.0)
                .collect(),
        ),
        plan,
        level,
        reason,
        Column::ints("churned", churned),
    ])
    .unwrap();
    let profile = ProfilePlan::new().target("churned").run(&table).unwrap();
    let pairs: Vec<(&str, &str, AssociationMeasure)> = profile
        .associations
        .iter()
        .map(|a| (a.a.as_str(), a.b.as_str(), a.measure))
        .collect();
    assert!(
        pairs.contains(&("x", "y", AssociationMeasure::Correlation)),
        "{pairs:?}"
    );
    assert!(
        pairs.contains(&("plan", "level", AssociationMeasure::CramersV)),
        "{pairs:?}"
    );
    let xy = profile.associations.iter().find(|a| a.b == "y").unwrap();
    assert!((xy.value + 1.0).abs() < 1e-12);
    let suspects: Vec<(&str, bool)> = profile
        .leakage
        .iter()
        .map(|s| (s.column.as_str(), s.by_missing))
        .collect();
    assert_eq!(suspects.len(), 2, "{suspects:?}");
    assert!(suspects.contains(&("refund", false)) && suspects.contains(&("reason", true)));
    // Without the telling columns nothing is suspected.
    let fair = Table::new(
        table
            .columns()
            .iter()
            .filter(|c| !["refund", "reason"].contains(&c.name()))
            .cloned()
            .collect(),
    );
    let fair = ProfilePlan::new().target("churned").run(&fair.unwrap()).unwrap();
    assert!(fair.leakage.is_empty());
    assert!(ProfilePlan::new().target("plan").run(&table).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_too_strange_to_be_looked_at(
        numbers in prop::collection::vec(prop::option::of(prop::num::f64::ANY), 0..20),
        words in prop::collection::vec(prop::option::of(".{0,12}"), 0..20),
    ) {
        let rows = numbers.len().min(words.len());
        let mut x = Column::float("x");
        let mut w = Column::text("w");
        for row in 0..rows {
            x.push(numbers[row].into()).unwrap();
            w.push_text(words[row].as_deref());
        }
        let table = Table::new(vec![x, w]).unwrap();
        let profile = ProfilePlan::new().key(["w"]).run(&table).unwrap();
        let column = profile.column("x").unwrap();
        if let Some(n) = &column.numbers {
            prop_assert!(n.min <= n.median && n.median <= n.max && n.min <= n.mean && n.mean <= n.max);
            prop_assert!(n.quantiles.iter().all(|(_, v)| *v >= n.min && *v <= n.max));
            prop_assert!(!n.deviation.is_nan());
        }
        let text = serde_json::to_string(&profile).unwrap();
        let read: TableProfile = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read, profile);
    }
}
