//! The steps that read what people write, fold, fill from groups, find outliers and duplicates, and derive.

use crm_analytics::clean::{
    Bounds, Case, CastTo, CleaningPlan, Columns, DateOrder, DatePart, Decimal, Expr, Fill, Keep,
    OutlierAction, OutlierRule, Statistic, Step, UnicodeForm, Unknown, Unreadable,
};
use crm_core::record::{FieldType, Value};
use crm_core::{Column, ErrorKind, Table, Timestamp, Uuid};
use proptest::prelude::*;

fn texts(name: &str, values: &[Option<&str>]) -> Column {
    let mut column = Column::text(name);
    values.iter().for_each(|value| column.push_text(*value));
    column
}

fn column(name: &str, ty: FieldType, values: Vec<Value>) -> Column {
    let mut column = Column::empty(name, ty).unwrap();
    values.into_iter().for_each(|value| column.push(value).unwrap());
    column
}

fn floats(name: &str, values: &[Option<f64>]) -> Column {
    let values = values.iter().map(|value| (*value).into()).collect();
    column(name, FieldType::Float, values)
}

fn table(columns: Vec<Column>) -> Table {
    Table::new(columns).unwrap()
}

fn shown(table: &Table, name: &str) -> Vec<Option<String>> {
    let column = table.column(name).unwrap();
    (0..table.rows())
        .map(|row| column.text_at(row).map(str::to_owned))
        .collect()
}

fn numbers(table: &Table, name: &str) -> Vec<Option<f64>> {
    let column = table.column(name).unwrap();
    (0..table.rows()).map(|row| column.f64_at(row)).collect()
}

fn some(values: &[Option<&str>]) -> Vec<Option<String>> {
    values.iter().map(|value| value.map(str::to_owned)).collect()
}

#[test]
fn text_becomes_canonical_and_what_cannot_be_read_is_counted() {
    let rows = table(vec![
        texts(
            "name",
            &[Some(" Ana\u{a0}  Kask "), Some("Zoe\u{308}"), None, Some(" \t")],
        ),
        texts(
            "mail",
            &[Some("Ana@EXAMPLE.com "), Some("nobody"), None, Some("b@c.de")],
        ),
        texts(
            "phone",
            &[Some("0491 570 156"), Some("+49 30 901820"), Some("call me"), None],
        ),
    ]);
    let plan = CleaningPlan::new()
        .squeeze("name")
        .unicode("name", UnicodeForm::Nfc)
        .email("mail")
        .phone("phone", Some("AU"));
    let cleaned = plan.fit(&rows).unwrap();
    assert_eq!(
        shown(&cleaned.table, "name"),
        some(&[Some("Ana Kask"), Some("Zo\u{eb}"), None, None])
    );
    assert_eq!(
        shown(&cleaned.table, "mail"),
        some(&[Some("ana@example.com"), None, None, Some("b@c.de")])
    );
    assert_eq!(
        shown(&cleaned.table, "phone"),
        some(&[Some("+61491570156"), Some("+4930901820"), None, None])
    );
    let line = |step: &str| {
        cleaned
            .report
            .lines
            .iter()
            .find(|line| line.step == step)
            .unwrap()
    };
    let mail = line("email");
    assert_eq!(
        (
            mail.changed,
            mail.unreadable,
            mail.missing_before,
            mail.missing_after
        ),
        (2, 1, 1, 2)
    );
    assert_eq!((line("phone").unreadable, line("squeeze").missing_after), (1, 2));

    let keeping = CleaningPlan::new().then(Step::Email {
        columns: "mail".into(),
        unreadable: Unreadable::Keep,
    });
    let kept = keeping.fit(&rows).unwrap();
    assert_eq!(shown(&kept.table, "mail")[1].as_deref(), Some("nobody"));
    assert_eq!(kept.report.lines[0].unreadable, 1);

    let error = CleaningPlan::new()
        .phone("phone", Some("Germany"))
        .fit(&rows)
        .unwrap_err();
    assert_eq!(error.context("setting"), Some("region"), "{error}");
}

#[test]
fn numbers_dates_and_words_are_read() {
    let rows = table(vec![
        texts("price", &[Some("1.234,50 €"), Some("12,5"), Some("1.2"), None]),
        texts(
            "born",
            &[Some("31.12.1999"), Some("30.02.2000"), Some("1 Mar 2026"), None],
        ),
        texts("news", &[Some("Yes"), Some("0"), Some("maybe"), None]),
        column(
            "flag",
            FieldType::Int,
            vec![1_i64.into(), 0_i64.into(), 7_i64.into(), Value::Null],
        ),
    ]);
    let plan = CleaningPlan::new()
        .number("price", Decimal::Comma)
        .date("born", DateOrder::DayFirst)
        .cast(["news", "flag"], CastTo::Bool);
    let cleaned = plan.fit(&rows).unwrap();
    assert_eq!(
        numbers(&cleaned.table, "price"),
        [Some(1234.5), Some(12.5), None, None]
    );
    let born = cleaned.table.column("born").unwrap();
    assert_eq!(born.timestamp_at(0), Timestamp::from_ymd(1999, 12, 31));
    assert_eq!(
        (born.timestamp_at(1), born.timestamp_at(2)),
        (None, Timestamp::from_ymd(2026, 3, 1))
    );
    for name in ["news", "flag"] {
        assert_eq!(
            numbers(&cleaned.table, name),
            [Some(1.0), Some(0.0), None, None],
            "{name}"
        );
    }
    let unreadable: Vec<usize> = cleaned.report.lines.iter().map(|line| line.unreadable).collect();
    assert_eq!(unreadable, [1, 1, 1, 1]);
}

#[test]
fn categories_fold_and_unknown_ones_are_defined() {
    let plan_column = texts(
        "plan",
        &[
            Some("pro"),
            Some("Pro"),
            Some("free"),
            Some("free"),
            Some("gold"),
            None,
        ],
    );
    let rows = table(vec![plan_column]);
    let fold = Step::Fold {
        columns: "plan".into(),
        synonyms: [("Pro".to_owned(), "pro".to_owned())].into(),
        min_count: 2,
        max_categories: None,
        other: "rare".into(),
    };
    let cleaned = CleaningPlan::new().then(fold).fit(&rows).unwrap();
    assert_eq!(
        shown(&cleaned.table, "plan"),
        some(&[
            Some("pro"),
            Some("pro"),
            Some("free"),
            Some("free"),
            Some("rare"),
            None
        ])
    );
    let fresh = table(vec![texts("plan", &[Some("Pro"), Some("silver")])]);
    let (table_after, report) = cleaned.fitted.apply(&fresh).unwrap();
    assert_eq!(shown(&table_after, "plan"), some(&[Some("pro"), Some("rare")]));
    assert_eq!(report.lines[0].unreadable, 1);

    let one_hot = |unknown| {
        CleaningPlan::new().then(Step::Dummies {
            columns: "plan".into(),
            drop_first: false,
            max_categories: None,
            min_count: 2,
            missing: true,
            unknown,
        })
    };
    let cleaned = one_hot(Unknown::Accept).fit(&rows).unwrap();
    let names: Vec<&str> = cleaned.table.columns().iter().map(Column::name).collect();
    assert_eq!(names, ["plan_free", "plan_other", "plan_missing"]);
    assert_eq!(
        numbers(&cleaned.table, "plan_other"),
        [1.0, 1.0, 0.0, 0.0, 1.0, 0.0].map(Some)
    );
    assert_eq!(
        numbers(&cleaned.table, "plan_missing"),
        [0.0, 0.0, 0.0, 0.0, 0.0, 1.0].map(Some)
    );
    let strict = CleaningPlan::new().then(Step::Dummies {
        columns: "plan".into(),
        drop_first: false,
        max_categories: None,
        min_count: 0,
        missing: false,
        unknown: Unknown::Refuse,
    });
    let strict = strict.fit(&rows).unwrap().fitted;
    let error = strict.apply(&fresh).unwrap_err();
    assert_eq!(
        (error.kind(), error.context("row")),
        (ErrorKind::Invalid, Some("1")),
        "{error}"
    );
    assert!(
        !error.to_string().contains("silver"),
        "a value is not in an error"
    );
}

#[test]
fn fills_learn_from_groups_and_from_what_came_before() {
    let rows = table(vec![
        texts(
            "city",
            &[
                Some("Oslo"),
                Some("Oslo"),
                Some("Oslo"),
                Some("Bern"),
                Some("Bern"),
                None,
            ],
        ),
        floats("age", &[Some(20.0), Some(30.0), None, Some(60.0), None, None]),
        column(
            "visits",
            FieldType::Int,
            vec![
                2_i64.into(),
                Value::Null,
                4_i64.into(),
                9_i64.into(),
                9_i64.into(),
                Value::Null,
            ],
        ),
        column(
            "at",
            FieldType::Int,
            [3_i64, 2, 1, 1, 2, 9].map(Value::from).to_vec(),
        ),
    ]);
    let by_city = |with| Fill::Group {
        by: vec!["city".into()],
        with,
    };
    let cleaned = CleaningPlan::new()
        .fill("age", by_city(Statistic::Mean))
        .fill("visits", by_city(Statistic::Median))
        .fit(&rows)
        .unwrap();
    let mean = (20.0 + 30.0 + 60.0) / 3.0;
    assert_eq!(
        numbers(&cleaned.table, "age"),
        [20.0, 30.0, 25.0, 60.0, 60.0, mean].map(Some)
    );
    assert_eq!(
        numbers(&cleaned.table, "visits"),
        [2.0, 3.0, 4.0, 9.0, 9.0, 6.5].map(Some)
    );
    assert!(cleaned.fitted.is_row_wise());
    // One row alone comes out as among the others; a city never seen gets what all rows say.
    let alone = table(vec![
        texts("city", &[Some("Rom")]),
        floats("age", &[None]),
        column("visits", FieldType::Int, vec![Value::Null]),
        Column::ints("at", vec![1]),
    ]);
    assert_eq!(
        numbers(&cleaned.fitted.apply(&alone).unwrap().0, "age"),
        [Some(mean)]
    );

    let forward = Fill::Forward {
        order: "at".into(),
        by: vec!["city".into()],
    };
    let cleaned = CleaningPlan::new().fill("visits", forward).fit(&rows).unwrap();
    // In Oslo the order is row 2 (4), row 1 (missing), row 0 (2).
    assert_eq!(
        numbers(&cleaned.table, "visits"),
        [Some(2.0), Some(4.0), Some(4.0), Some(9.0), Some(9.0), None]
    );
    assert!(!cleaned.fitted.is_row_wise());
}

#[test]
fn outliers_by_every_rule() {
    let values = [10.0, 11.0, 12.0, 13.0, 14.0, 500.0];
    let rows = table(vec![
        Column::floats("spend", values.to_vec()),
        Column::uuids("id", (0..6).map(Uuid::from_u128).collect()),
    ]);
    for rule in [
        OutlierRule::Iqr { k: 1.5 },
        OutlierRule::Z { k: 2.0 },
        OutlierRule::Mad { k: 3.5 },
        OutlierRule::Quantiles { low: 0.0, high: 0.9 },
    ] {
        let run = |action| {
            CleaningPlan::new()
                .outliers("spend", rule, action)
                .fit(&rows)
                .unwrap()
        };
        let blank = run(OutlierAction::Blank);
        assert_eq!(numbers(&blank.table, "spend")[5], None, "{rule:?}");
        assert_eq!(
            numbers(&blank.table, "spend")[..5],
            values[..5].iter().copied().map(Some).collect::<Vec<_>>()
        );
        let clip = numbers(&run(OutlierAction::Clip).table, "spend")[5].unwrap();
        assert!(clip > 14.0 && clip < 500.0, "{rule:?} {clip}");
        let dropped = run(OutlierAction::DropRows);
        assert_eq!(dropped.table.rows(), 5);
        assert_eq!((dropped.report.rows, dropped.report.rows_after), (6, 5));
        assert_eq!(
            (
                dropped.report.left_out.as_slice(),
                dropped.report.lines[0].removed
            ),
            ([5].as_slice(), 1)
        );
        // What stands beside goes with its row.
        assert_eq!(
            dropped.table.column("id").unwrap().uuid_at(4),
            Some(Uuid::from_u128(4))
        );
        assert_eq!(dropped.table.column("id").unwrap().len(), 5);
    }
    // Tukey's fence: quartiles 11.25 and 13.75.
    let fence = CleaningPlan::new()
        .outliers("spend", OutlierRule::Iqr { k: 1.5 }, OutlierAction::Clip)
        .fit(&rows)
        .unwrap();
    assert_eq!(numbers(&fence.table, "spend")[5], Some(13.75 + 1.5 * 2.5));
    // Most agree: nothing is an outlier.
    let agreeing = table(vec![Column::floats("spend", vec![1.0, 1.0, 1.0, 1.0, 9.0])]);
    for rule in [OutlierRule::Iqr { k: 1.5 }, OutlierRule::Mad { k: 3.5 }] {
        let plan = CleaningPlan::new().outliers("spend", rule, OutlierAction::DropRows);
        assert_eq!(plan.fit(&agreeing).unwrap().table.rows(), 5);
    }
    for k in [0.0, -1.0, f64::NAN] {
        let plan = CleaningPlan::new().outliers("spend", OutlierRule::Z { k }, OutlierAction::Clip);
        assert_eq!(plan.fit(&rows).unwrap_err().context("setting"), Some("k"));
    }
}

#[test]
fn of_duplicates_one_stays() {
    let rows = table(vec![
        texts("mail", &[Some("a"), Some("b"), Some("a"), None, None, Some("a")]),
        texts(
            "city",
            &[None, Some("Bern"), Some("Oslo"), None, None, Some("Oslo")],
        ),
        Column::ints("row", vec![0, 1, 2, 3, 4, 5]),
    ]);
    for (keep, left) in [
        (Keep::First, [0.0, 1.0, 3.0, 4.0]),
        (Keep::Last, [1.0, 3.0, 4.0, 5.0]),
        (Keep::MostComplete, [1.0, 2.0, 3.0, 4.0]),
    ] {
        let cleaned = CleaningPlan::new().deduplicate("mail", keep).fit(&rows).unwrap();
        assert_eq!(numbers(&cleaned.table, "row"), left.map(Some), "{keep:?}");
        assert_eq!(cleaned.report.kept(), left.map(|row| row as usize), "{keep:?}");
        assert_eq!(cleaned.report.lines[0].removed, 2);
        assert!(!cleaned.fitted.is_row_wise());
    }
    // No two keys look alike because their parts are put together in another way.
    let tricky = table(vec![
        texts("a", &[Some("x"), Some("xy"), Some("")]),
        texts("b", &[Some("yz"), Some("z"), None]),
    ]);
    let cleaned = CleaningPlan::new()
        .deduplicate(["a", "b"], Keep::First)
        .fit(&tricky)
        .unwrap();
    assert_eq!(cleaned.table.rows(), 3);
    let nothing = CleaningPlan::new()
        .deduplicate(Columns::Named(vec![]), Keep::First)
        .fit(&rows);
    assert_eq!(nothing.unwrap_err().context("setting"), Some("by"));
}

#[test]
fn derived_columns_and_rows_that_are_kept() {
    let as_of = Timestamp::from_ymd(2026, 3, 1).unwrap();
    let day = |d| Value::Timestamp(Timestamp::from_ymd(2026, 2, d).unwrap());
    let rows = table(vec![
        floats("spend", &[Some(90.0), Some(10.0), None]),
        Column::ints("orders", vec![3, 0, 2]),
        column(
            "last",
            FieldType::Timestamp,
            vec![day(1), day(28), Value::Timestamp(as_of)],
        ),
        texts("given", &[Some("Ana"), None, Some("Bo")]),
        texts("family", &[Some("Kask"), None, None]),
    ]);
    let spend = || Expr::column("spend");
    let plan = CleaningPlan::new()
        .derive("basket", spend().over(Expr::column("orders")))
        .derive("twice", Expr::column("orders").times(2_i64))
        .derive("log", spend().log1p())
        .derive("days", Expr::column("last").days_before(as_of))
        .derive("month", Expr::column("last").part(DatePart::Month))
        .derive(
            "name",
            Expr::Concat(vec![Expr::column("given"), " ".into(), Expr::column("family")]),
        )
        .derive("size", Expr::choose(spend().above(50.0), "big", "small"))
        .derive("orders", Expr::column("orders").plus(0.5))
        .indicate(Columns::All);
    let cleaned = plan.fit(&rows).unwrap();
    let of = |name| numbers(&cleaned.table, name);
    assert_eq!(of("basket"), [Some(30.0), None, None]);
    assert_eq!(of("twice"), [Some(6.0), Some(0.0), Some(4.0)]);
    assert_eq!(cleaned.table.column("twice").unwrap().ty(), FieldType::Int);
    assert_eq!(of("log"), [Some(90.0_f64.ln_1p()), Some(10.0_f64.ln_1p()), None]);
    assert_eq!(of("days"), [Some(28.0), Some(1.0), None]);
    assert_eq!(of("month"), [Some(2.0), Some(2.0), Some(3.0)]);
    assert_eq!(of("orders"), [Some(3.5), Some(0.5), Some(2.5)]);
    assert_eq!(
        shown(&cleaned.table, "name"),
        some(&[Some("Ana Kask"), Some(" "), Some("Bo ")])
    );
    assert_eq!(
        shown(&cleaned.table, "size"),
        some(&[Some("big"), Some("small"), Some("small")])
    );
    assert_eq!(of("spend_missing"), [Some(0.0), Some(0.0), Some(1.0)]);
    assert!(
        cleaned.table.column("month_missing").is_err(),
        "nothing is missing there"
    );

    let kept = CleaningPlan::new()
        .keep_rows(spend().above(5.0))
        .fit(&rows)
        .unwrap();
    assert_eq!(
        (kept.table.rows(), kept.report.left_out.as_slice()),
        (2, [2].as_slice())
    );
    for (wrong, what) in [
        (Expr::column("given").plus(1_i64), "operation"),
        (Expr::column("nobody"), "column"),
        (Expr::Number(f64::NAN), "step"),
        (Expr::And(vec![]), "operation"),
        (Expr::column("given").is(1_i64), "operation"),
    ] {
        let error = CleaningPlan::new()
            .derive("x", wrong.clone())
            .fit(&rows)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.context(what).is_some(), "{wrong:?}: {error}");
    }
    let deep = (0..100).fold(spend(), |inner, _| inner.log1p());
    assert!(CleaningPlan::new().derive("x", deep).fit(&rows).is_err());
    assert!(
        CleaningPlan::new().keep_rows(spend()).fit(&rows).is_err(),
        "not a condition"
    );
}

#[test]
fn missing_parts_follow_the_logic_of_three_values() {
    let rows = table(vec![column(
        "x",
        FieldType::Bool,
        vec![true.into(), false.into(), Value::Null],
    )]);
    let x = || Expr::column("x");
    let (yes, no, open) = (Some(1.0), Some(0.0), None);
    for (expr, wanted) in [
        (x().and(true), [yes, no, open]),
        (x().and(false), [no, no, no]),
        (x().or(true), [yes, yes, yes]),
        (x().or(false), [yes, no, open]),
        (x().negated(), [no, yes, open]),
        (x().is_missing(), [no, no, yes]),
        (x().is(x()), [yes, yes, open]),
        (Expr::Coalesce(vec![x(), false.into()]), [yes, no, no]),
        (Expr::OneOf(Box::new(x()), vec![true.into()]), [yes, no, open]),
    ] {
        let cleaned = CleaningPlan::new().derive("y", expr.clone()).fit(&rows).unwrap();
        assert_eq!(numbers(&cleaned.table, "y"), wanted, "{expr:?}");
    }
}

#[test]
fn integers_that_overflow_and_numbers_without_an_answer_are_missing() {
    let rows = table(vec![
        Column::ints("n", vec![i64::MAX, i64::MIN, 1]),
        Column::floats("x", vec![f64::MAX, -1.0, 0.0]),
    ]);
    let n = || Expr::column("n");
    let x = || Expr::column("x");
    for (expr, missing) in [
        (n().plus(1_i64), [true, false, false]),
        (n().minus(1_i64), [false, true, false]),
        (n().times(2_i64), [true, true, false]),
        (Expr::Abs(Box::new(n())), [false, true, false]),
        (x().times(x()), [true, false, false]),
        (Expr::Ln(Box::new(x())), [false, true, true]),
        (x().log1p(), [false, true, false]),
        (n().over(x()), [false, false, true]),
    ] {
        let cleaned = CleaningPlan::new().derive("y", expr.clone()).fit(&rows).unwrap();
        let found: Vec<bool> = numbers(&cleaned.table, "y").iter().map(Option::is_none).collect();
        assert_eq!(found, missing, "{expr:?}");
    }
}

/// A plan with every step that looks at one row at a time.
fn row_wise() -> CleaningPlan {
    let as_of = Timestamp::from_ymd(2026, 3, 1).unwrap();
    CleaningPlan::new()
        .squeeze("name")
        .unicode("name", UnicodeForm::Nfkc)
        .indicate(["mail", "spend"])
        .email("mail")
        .number("price", Decimal::Point)
        .date("born", DateOrder::MonthFirst)
        .then(Step::Fold {
            columns: "plan".into(),
            synonyms: [("p".to_owned(), "pro".to_owned())].into(),
            min_count: 1,
            max_categories: Some(2),
            other: "other".into(),
        })
        .fill(
            "spend",
            Fill::Group {
                by: vec!["plan".into()],
                with: Statistic::Median,
            },
        )
        .derive("ratio", Expr::column("spend").over(Expr::column("price")).log1p())
        .derive("age", Expr::column("born").days_before(as_of))
        .fill(["ratio", "age", "price"], 0.0)
        .outliers("ratio", OutlierRule::Iqr { k: 1.5 }, OutlierAction::Clip)
        .standardise(["ratio", "age"])
        .dummies("plan")
}

fn arbitrary_row() -> impl Strategy<Value = (Vec<Option<String>>, Option<f64>)> {
    let text = prop_oneof![
        Just(None),
        "[a-zA-Z @.,0-9/:\u{e4}\u{308}-]{0,14}".prop_map(Some),
        prop_oneof![
            Just("pro"),
            Just("free"),
            Just("1,234.5"),
            Just("3/4/2020"),
            Just("a@b.de")
        ]
        .prop_map(|text| Some(text.to_owned())),
    ];
    let number = prop_oneof![Just(None), any::<f64>().prop_map(Some), (0.0..1e4).prop_map(Some)];
    (prop::collection::vec(text, 5), number)
}

fn rows_of(rows: &[(Vec<Option<String>>, Option<f64>)]) -> Table {
    let mut columns: Vec<Column> = ["name", "mail", "price", "born", "plan"].map(Column::text).into();
    let mut spend = Column::float("spend");
    for (row, number) in rows {
        for (column, text) in columns.iter_mut().zip(row) {
            column.push_text(text.as_deref());
        }
        spend.push((*number).into()).unwrap();
    }
    columns.push(spend);
    table(columns)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn one_row_is_cleaned_as_a_million_and_a_read_back_plan_does_the_same(
        rows in prop::collection::vec(arbitrary_row(), 1..30),
    ) {
        let all = rows_of(&rows);
        let plan = row_wise();
        let text = serde_json::to_string(&plan).unwrap();
        prop_assert_eq!(&serde_json::from_str::<CleaningPlan>(&text).unwrap(), &plan);
        // Without any number there is nothing to learn from: an error, never a panic.
        let Ok(cleaned) = plan.fit(&all) else { return Ok(()) };
        let (again, report) = cleaned.fitted.apply(&all).unwrap();
        prop_assert_eq!(&again, &cleaned.table);
        prop_assert_eq!(&report, &cleaned.report);
        prop_assert!(cleaned.fitted.is_row_wise());
        let stored = serde_json::to_string(&cleaned.fitted).unwrap();
        let fitted: crm_analytics::clean::FittedCleaning = serde_json::from_str(&stored).unwrap();
        prop_assert_eq!(&fitted, &cleaned.fitted);
        let mut one_by_one = Table::default();
        for row in &rows {
            one_by_one.append(fitted.apply(&rows_of(std::slice::from_ref(row))).unwrap().0).unwrap();
        }
        for (one, all) in one_by_one.columns().iter().zip(cleaned.table.columns()) {
            prop_assert_eq!(one.name(), all.name());
            for row in 0..all.len() {
                let bits = |c: &Column| c.f64_at(row).map(f64::to_bits);
                prop_assert!(one.value(row) == all.value(row) && bits(one) == bits(all), "{} row {}", all.name(), row);
            }
        }
    }
}

/// A plan with every step and option that can be asked for one row.
fn every_step() -> CleaningPlan {
    let as_of = Timestamp::from_ymd(2026, 3, 1).unwrap();
    CleaningPlan::new()
        .trim("name")
        .case("name", Case::Title)
        .derive("shout", Expr::column("name"))
        .case("shout", Case::Upper)
        .derive(
            "low",
            Expr::Concat(vec![Expr::column("name"), "-".into(), Expr::column("spend")]),
        )
        .case("low", Case::Lower)
        .unicode("low", UnicodeForm::Nfc)
        .then(Step::Email {
            columns: "mail".into(),
            unreadable: Unreadable::Keep,
        })
        .phone("price", Some("AU"))
        .indicate(["price", "plan", "spend"])
        .derive("visits", Expr::column("born"))
        .cast("visits", CastTo::Float)
        .derive("whole", Expr::column("visits"))
        .cast("whole", CastTo::Int)
        .derive("day", Expr::column("born"))
        .cast("day", CastTo::Timestamp)
        .derive("year", Expr::column("day").part(DatePart::Year))
        .derive("flag", Expr::column("plan"))
        .cast("flag", CastTo::Bool)
        .derive("told", Expr::column("flag"))
        .cast("told", CastTo::Text)
        .derive("spelled", Expr::column("spend"))
        .cast("spelled", CastTo::Text)
        .derive("counted", Expr::column("whole"))
        .cast("counted", CastTo::Text)
        .cast("flag", CastTo::Int)
        .derive("age", Expr::column("day").days_before(as_of))
        .fill("age", 0_i64)
        .fill("whole", Fill::Mode)
        .fill("told", "unknown")
        .derive(
            "bent",
            Expr::Greatest(vec![
                Expr::Least(vec![Expr::column("spend"), 1e6.into()]),
                0.0.into(),
            ]),
        )
        .fill("bent", Fill::Median)
        .log1p("bent")
        .clip("bent", Bounds::Quantiles { low: 0.1, high: 0.9 })
        .outliers("spend", OutlierRule::Mad { k: 3.0 }, OutlierAction::Blank)
        .outliers("whole", OutlierRule::Z { k: 5.0 }, OutlierAction::DropRows)
        .fill(
            "spend",
            Fill::Group {
                by: vec!["told".into(), "flag".into()],
                with: Statistic::Mean,
            },
        )
        .standardise(["age", "bent"])
        .keep_rows(
            Expr::column("spend")
                .above(-1.0)
                .or(Expr::column("name").is_missing()),
        )
        .then(Step::Dummies {
            columns: "plan".into(),
            drop_first: true,
            max_categories: Some(3),
            min_count: 0,
            missing: true,
            unknown: Unknown::Accept,
        })
        .rename("shout", "loud")
        .drop("born")
}

/// Rows one by one without a table are what they are among others: values, missing ones, left out ones, errors.
fn alone_as_among_others(
    plan: &CleaningPlan,
    learned_from: &Table,
    asked: &Table,
) -> Result<(), TestCaseError> {
    let Ok(cleaned) = plan.fit(learned_from) else {
        return Ok(());
    };
    let rows = cleaned.fitted.rows().unwrap();
    let Ok((all, report)) = cleaned.fitted.apply(asked) else {
        let alone = (0..asked.rows()).map(|row| rows.clean(&values_of(asked, row)));
        prop_assert!(alone.into_iter().any(|one| one.is_err()));
        return Ok(());
    };
    let names: Vec<(String, FieldType)> = rows.output().map(|(name, ty)| (name.to_owned(), ty)).collect();
    let wanted: Vec<(String, FieldType)> = all
        .columns()
        .iter()
        .map(|c| (c.name().to_owned(), c.ty()))
        .collect();
    prop_assert_eq!(names, wanted);
    let mut stayed = 0;
    for row in 0..asked.rows() {
        let alone = rows.clean(&values_of(asked, row)).unwrap();
        prop_assert_eq!(alone.is_none(), report.left_out.contains(&row), "row {}", row);
        let Some(alone) = alone else { continue };
        for (one, column) in alone.iter().zip(all.columns()) {
            let among = column.value(stayed);
            let bits = |v: &Value| match v {
                Value::Float(v) => Some(v.to_bits()),
                _ => None,
            };
            prop_assert!(
                *one == among && bits(one) == bits(&among),
                "{} row {}",
                column.name(),
                row
            );
        }
        stayed += 1;
    }
    Ok(())
}

fn values_of(table: &Table, row: usize) -> Vec<Value> {
    table.columns().iter().map(|column| column.value(row)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_row_alone_needs_no_table(
        rows in prop::collection::vec(arbitrary_row(), 1..30),
        others in prop::collection::vec(arbitrary_row(), 1..10),
    ) {
        let (all, others) = (rows_of(&rows), rows_of(&others));
        for plan in [row_wise(), every_step()] {
            alone_as_among_others(&plan, &all, &all)?;
            // Those it was not fitted on: categories, groups and outliers never seen.
            alone_as_among_others(&plan, &all, &others)?;
        }
    }
}

#[test]
fn what_looks_at_other_rows_is_not_for_single_ones() {
    let rows = table(vec![
        texts("name", &[Some("a"), Some("a")]),
        floats("x", &[Some(1.0), None]),
    ]);
    let plan = CleaningPlan::new().deduplicate("name", Keep::First);
    let error = plan.fit(&rows).unwrap().fitted.rows().unwrap_err();
    assert_eq!(
        (error.kind(), error.context("step")),
        (ErrorKind::Unsupported, Some("deduplicate"))
    );
    // Negative control: without the step there is nothing to refuse.
    let ready = CleaningPlan::new()
        .fill("x", 0.0)
        .fit(&rows)
        .unwrap()
        .fitted
        .rows()
        .unwrap();
    let error = ready.clean(&["a".into()]).unwrap_err();
    assert_eq!(
        (error.context("values"), error.context("wanted")),
        (Some("1"), Some("2"))
    );
    let error = ready.clean(&[1_i64.into(), Value::Null]).unwrap_err();
    assert_eq!(error.context("column"), Some("name"));
    let cleaned = ready
        .clean(&[Value::Null, Value::Float(f64::NAN)])
        .unwrap()
        .unwrap();
    assert_eq!(cleaned, [Value::Null, Value::Float(0.0)]);
}
