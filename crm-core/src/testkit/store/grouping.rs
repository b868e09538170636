use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Desk, SAMPLE, sample};
use crate::capability::RecordStore;
use crate::query::{Aggregate, Filter, Measure};
use crate::record::{FieldType, Value, Write};
use crate::testkit::fixtures::{self, Dice};
use crate::{Table, Timestamp};

fn cell(table: &Table, column: &str, row: usize) -> Value {
    table.column(column).unwrap().value(row)
}

/// Counts, sums, extremes and distinct counts by two keys are those counted by hand; keys sorted, absent first.
pub async fn aggregates_match_a_count_by_hand(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    #[derive(Default)]
    struct Hand {
        rows: i64,
        sum: Option<i64>,
        floats: Option<f64>,
        texts: BTreeSet<String>,
        numbers: BTreeSet<i64>,
    }
    let mut hand: BTreeMap<(Option<String>, Option<bool>), Hand> = BTreeMap::new();
    let mut dice = Dice::new(21);
    let mut writes = Vec::new();
    for _ in 0..300 {
        let key = (*dice.pick(&[None, Some("a"), Some("B"), Some("ä")])).map(str::to_owned);
        let flag = *dice.pick(&[None, Some(true), Some(false)]);
        let n = (key.as_deref() != Some("B") && !dice.one_in(4)).then(|| dice.below(9) as i64 - 4);
        let x = (!dice.one_in(4)).then(|| dice.below(64) as f64 / 8.0); // eighths add up exactly in any order
        let label = dice.pick(&["x", "X", "y"]).to_string();
        let record = sample(&label)
            .with("t", key.clone())
            .unwrap()
            .with("flag", flag)
            .unwrap();
        writes.push(Write::insert(
            fixtures::id(),
            record.with("n", n).unwrap().with("x", x).unwrap(),
        ));
        if label == "y" {
            continue; // left out by the filter below
        }
        let group = hand.entry((key, flag)).or_default();
        group.rows += 1;
        group.texts.insert(label);
        group.sum = n.map(|n| group.sum.unwrap_or(0) + n).or(group.sum);
        group.floats = x.map(|x| group.floats.unwrap_or(0.0) + x).or(group.floats);
        group.numbers.extend(n);
    }
    desk.apply(&writes).await;
    let aggregate = Aggregate::new(Filter::ne("label", "y"))
        .by("t")
        .by("flag")
        .measure("rows", Measure::Count)
        .measure("sum", Measure::Sum("n".into()))
        .measure("floats", Measure::Sum("x".into()))
        .measure("low", Measure::Min("n".into()))
        .measure("high", Measure::Max("n".into()))
        .measure("first", Measure::Min("label".into()))
        .measure("labels", Measure::Distinct("label".into()))
        .measure("numbers", Measure::Distinct("n".into()));
    let table = desk
        .store
        .aggregate(&desk.ctx, &SAMPLE, &aggregate)
        .await
        .expect("aggregate");
    let types: Vec<(&str, FieldType)> = table.columns().iter().map(|c| (c.name(), c.ty())).collect();
    use FieldType::{Bool, Float, Int, Text};
    let expected = [
        ("t", Text),
        ("flag", Bool),
        ("rows", Int),
        ("sum", Int),
        ("floats", Float),
        ("low", Int),
        ("high", Int),
        ("first", Text),
        ("labels", Int),
        ("numbers", Int),
    ];
    assert_eq!(types, expected);
    assert_eq!(table.rows(), hand.len());
    for (row, ((key, flag), hand)) in hand.into_iter().enumerate() {
        for (column, value) in [
            ("t", Value::from(key)),
            ("flag", flag.into()),
            ("rows", hand.rows.into()),
            ("sum", hand.sum.into()),
            ("floats", hand.floats.into()),
            ("low", hand.numbers.first().copied().into()),
            ("high", hand.numbers.last().copied().into()),
            ("first", hand.texts.first().cloned().into()),
            ("labels", (hand.texts.len() as i64).into()),
            ("numbers", (hand.numbers.len() as i64).into()),
        ] {
            assert!(
                cell(&table, column, row) == value,
                "column {column} of group {row}"
            );
        }
    }
}

/// Without keys there is one row, also over no records: counts are 0, everything else absent. With keys there is none.
pub async fn an_aggregate_over_nothing(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let all = Aggregate::new(Filter::All)
        .measure("rows", Measure::Count)
        .measure("sum", Measure::Sum("n".into()))
        .measure("low", Measure::Min("at".into()))
        .measure("kinds", Measure::Distinct("t".into()));
    let table = desk
        .store
        .aggregate(&desk.ctx, &SAMPLE, &all)
        .await
        .expect("aggregate");
    assert_eq!(table.rows(), 1);
    let row: Vec<Value> = ["rows", "sum", "low", "kinds"]
        .map(|name| cell(&table, name, 0))
        .into();
    assert!(
        row == [Value::Int(0), Value::Null, Value::Null, Value::Int(0)],
        "over no records"
    );
    assert_eq!(table.column("low").unwrap().ty(), FieldType::Timestamp);
    let by = desk
        .store
        .aggregate(&desk.ctx, &SAMPLE, &all.clone().by("flag"))
        .await
        .expect("aggregate");
    assert_eq!((by.rows(), by.columns().len()), (0, 5));
    desk.apply(&[
        Write::insert(fixtures::id(), sample("a").with("n", i64::MAX).unwrap()),
        Write::insert(fixtures::id(), sample("b").with("n", i64::MIN).unwrap()),
    ])
    .await;
    let table = desk
        .store
        .aggregate(&desk.ctx, &SAMPLE, &all)
        .await
        .expect("aggregate");
    assert!(cell(&table, "sum", 0) == Value::Int(-1), "integer sums are exact");
}

/// Months are those of the calendar in UTC, with the last microsecond of a month in it, also before 1970.
pub async fn months_are_calendar_months(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let times = [
        (None, None),
        (Some("1969-12-31T23:59:59.999999Z"), Some("1969-12")),
        (Some("1970-01-01T00:00:00Z"), Some("1970-01")),
        (Some("2024-02-29T23:59:59.999999Z"), Some("2024-02")),
        (Some("2024-03-01T00:00:00Z"), Some("2024-03")),
        (Some("2024-03-31T12:00:00.5Z"), Some("2024-03")),
        (Some("1812-06-24T01:02:03.000001Z"), Some("1812-06")),
        (Some("9999-12-31T23:59:59.999999Z"), Some("9999-12")),
    ];
    let mut hand: BTreeMap<Option<&str>, i64> = BTreeMap::new();
    for (time, month) in times {
        let at = time.map(|text| text.parse::<Timestamp>().unwrap());
        desk.add(sample("m").with("at", at).unwrap().with("n", 2_i64).unwrap())
            .await;
        *hand.entry(month).or_default() += 2;
    }
    let aggregate = Aggregate::new(Filter::All)
        .by_month("at")
        .measure("sum", Measure::Sum("n".into()));
    let table = desk
        .store
        .aggregate(&desk.ctx, &SAMPLE, &aggregate)
        .await
        .expect("aggregate");
    let got: Vec<(Value, Value)> = (0..table.rows())
        .map(|row| (cell(&table, "at", row), cell(&table, "sum", row)))
        .collect();
    let expected: Vec<(Value, Value)> = hand
        .into_iter()
        .map(|(month, sum)| (month.into(), sum.into()))
        .collect();
    assert!(got == expected, "{:?}", table.column("at").unwrap());
}

/// Buckets of integers and timestamps begin at their lower end, also below zero, and the same over a table.
pub async fn buckets_begin_where_they_are_told(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    for n in [
        None,
        Some(-11),
        Some(-10),
        Some(-1),
        Some(0),
        Some(4),
        Some(5),
        Some(14),
        Some(15),
        Some(i64::MAX),
    ] {
        let at = n.map(|n| Timestamp::from_micros(n.clamp(-100, 100)));
        let record = sample("x").with("n", n).unwrap().with("at", at).unwrap();
        desk.add(record).await;
    }
    let columns = desk.columns(&SAMPLE, ["n", "at", "label"]).await;
    for (field, wanted) in [
        (
            "n",
            [None, Some(-15), Some(-5), Some(5), Some(15), Some(i64::MAX - 2)],
        ),
        ("at", [None, Some(-15), Some(-5), Some(5), Some(15), Some(95)]),
    ] {
        let aggregate = Aggregate::new(Filter::eq("label", "x"))
            .by_bucket(field, 10, 25)
            .measure("rows", Measure::Count);
        let stored = desk
            .store
            .aggregate(&desk.ctx, &SAMPLE, &aggregate)
            .await
            .expect("aggregate");
        for table in [stored, aggregate.over(&columns).expect("over columns")] {
            let keys: Vec<Option<i64>> = (0..table.rows())
                .map(|row| match cell(&table, field, row) {
                    Value::Int(n) => Some(n),
                    Value::Timestamp(at) => Some(at.as_micros()),
                    _ => None,
                })
                .collect();
            assert_eq!(keys, wanted, "{field}");
            let rows: Vec<Value> = (0..table.rows()).map(|row| cell(&table, "rows", row)).collect();
            assert_eq!(rows, [1, 2, 3, 2, 1, 1].map(Value::Int), "{field}");
        }
    }
    for wrong in [("n", 0), ("n", -5), ("n", i64::MAX), ("x", 5), ("t", 5)] {
        let aggregate = Aggregate::new(Filter::All)
            .by_bucket(wrong.0, wrong.1, 0)
            .measure("rows", Measure::Count);
        assert!(
            desk.store
                .aggregate(&desk.ctx, &SAMPLE, &aggregate)
                .await
                .is_err(),
            "{wrong:?}"
        );
    }
}
