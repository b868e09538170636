//! Every step of a cleaning plan, run: an expression Polars was built without fails only when it runs.

use crm_analytics::clean::{Bounds, Case, CastTo, CleaningPlan, Columns, Fill, FittedCleaning, Step};
use crm_core::record::{FieldType, Value};
use crm_core::{Column, ErrorKind, Table, Timestamp, Uuid};

fn text(name: &str, values: &[Option<&str>]) -> Column {
    let mut column = Column::text(name);
    values.iter().for_each(|value| column.push_text(*value));
    column
}

fn column(name: &str, ty: FieldType, values: Vec<Value>) -> Column {
    let mut column = Column::empty(name, ty).unwrap();
    values.into_iter().for_each(|value| column.push(value).unwrap());
    column
}

fn sample() -> Table {
    Table::new(vec![
        Column::uuids("id", (0..4).map(Uuid::from_u128).collect()),
        text("name", &[Some("  ana KASK "), Some("BO"), None, Some("   ")]),
        text("plan", &[Some("pro"), Some("free"), Some("free"), None]),
        column(
            "visits",
            FieldType::Int,
            vec![1_i64.into(), Value::Null, 4_i64.into(), 4_i64.into()],
        ),
        column(
            "spend",
            FieldType::Float,
            vec![10.0.into(), Value::Null, f64::NAN.into(), 40.0.into()],
        ),
        column(
            "active",
            FieldType::Bool,
            vec![true.into(), Value::Null, false.into(), true.into()],
        ),
        text("raw", &[Some(" 12.5 "), Some("x"), Some("inf"), Some("-3")]),
        text(
            "when",
            &[
                Some("2026-03-01"),
                Some("2026-03-01T09:00:00Z"),
                Some("soon"),
                None,
            ],
        ),
    ])
    .unwrap()
}

fn floats(table: &Table, name: &str) -> Vec<Option<f64>> {
    let column = table.column(name).unwrap();
    (0..table.rows()).map(|row| column.f64_at(row)).collect()
}

fn texts(table: &Table, name: &str) -> Vec<Option<String>> {
    let column = table.column(name).unwrap();
    (0..table.rows())
        .map(|row| column.text_at(row).map(str::to_owned))
        .collect()
}

/// Fits, and proves on the way that applying row by row gives what fitting gave, also after a trip through JSON.
fn cleaned(plan: CleaningPlan, table: &Table) -> crm_analytics::clean::Cleaned {
    let plan: CleaningPlan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    let result = plan.fit(table).unwrap();
    let fitted: FittedCleaning =
        serde_json::from_str(&serde_json::to_string(&result.fitted).unwrap()).unwrap();
    assert_eq!(fitted, result.fitted);
    assert_eq!(
        fitted.apply(table).unwrap(),
        (result.table.clone(), result.report.clone())
    );
    let mut one_by_one = Table::default();
    for row in 0..table.rows() {
        let single = table
            .columns()
            .iter()
            .map(|c| column(c.name(), c.ty(), vec![c.value(row)]))
            .collect();
        one_by_one
            .append(fitted.apply(&Table::new(single).unwrap()).unwrap().0)
            .unwrap();
    }
    for (one, all) in one_by_one.columns().iter().zip(result.table.columns()) {
        assert_eq!((one.name(), one.ty()), (all.name(), all.ty()));
        assert!(
            (0..all.len()).all(|row| one.value(row) == all.value(row)),
            "{}",
            all.name()
        );
    }
    result
}

#[test]
fn fillna_and_get_dummies_in_two_lines() {
    let cleaned = cleaned(
        CleaningPlan::new().fill(Columns::All, 0_i64).dummies("plan"),
        &sample(),
    );
    assert_eq!(
        floats(&cleaned.table, "visits"),
        [Some(1.0), Some(0.0), Some(4.0), Some(4.0)]
    );
    assert_eq!(
        floats(&cleaned.table, "spend"),
        [Some(10.0), Some(0.0), Some(0.0), Some(40.0)],
        "NaN is missing"
    );
    assert_eq!(cleaned.table.column("visits").unwrap().ty(), FieldType::Int);
    assert_eq!(
        floats(&cleaned.table, "plan_free"),
        [Some(0.0), Some(1.0), Some(1.0), Some(0.0)]
    );
    assert_eq!(
        floats(&cleaned.table, "plan_pro"),
        [Some(1.0), Some(0.0), Some(0.0), Some(0.0)]
    );
    let names: Vec<&str> = cleaned.table.columns().iter().map(Column::name).collect();
    assert_eq!(
        names,
        [
            "id",
            "name",
            "plan_free",
            "plan_pro",
            "visits",
            "spend",
            "active",
            "raw",
            "when"
        ]
    );
    let spend = cleaned
        .report
        .lines
        .iter()
        .find(|line| line.column == "spend")
        .unwrap();
    assert_eq!(
        (spend.changed, spend.missing_before, spend.missing_after),
        (2, 2, 0)
    );
    assert_eq!(
        (
            cleaned.report.rows,
            cleaned.report.columns_before,
            cleaned.report.columns_after
        ),
        (4, 8, 9)
    );
    assert_eq!(
        cleaned.table.column("id").unwrap().uuid_at(2),
        Some(Uuid::from_u128(2))
    );
}

#[test]
fn every_kind_of_filling() {
    let plan = CleaningPlan::new()
        .fill("visits", Fill::Median)
        .fill("spend", Fill::Mean)
        .fill("plan", Fill::Mode)
        .fill("active", Fill::Mode)
        .fill("name", "unknown");
    let table = cleaned(plan, &sample()).table;
    assert_eq!(
        table.column("visits").unwrap().value(1),
        Value::Int(4),
        "a whole median keeps integers"
    );
    assert_eq!(
        floats(&table, "spend"),
        [Some(10.0), Some(25.0), Some(25.0), Some(40.0)]
    );
    assert_eq!(texts(&table, "plan")[3].as_deref(), Some("free"));
    assert_eq!(table.column("active").unwrap().value(1), Value::Bool(true));
    assert_eq!(texts(&table, "name")[2].as_deref(), Some("unknown"));
    let table = cleaned(
        CleaningPlan::new()
            .fill("visits", Fill::Mean)
            .fill("spend", Fill::Mode),
        &sample(),
    )
    .table;
    assert_eq!(
        table.column("visits").unwrap().value(1),
        Value::Float(3.0).into_int_if_whole()
    );
    assert_eq!(
        floats(&table, "spend")[1],
        Some(10.0),
        "the smallest of equally frequent ones"
    );
    let at = Timestamp::from_ymd(2026, 1, 1).unwrap();
    let plan = CleaningPlan::new()
        .cast("when", CastTo::Timestamp)
        .fill("when", at)
        .fill("active", false);
    let table = cleaned(plan, &sample()).table;
    assert_eq!(table.column("when").unwrap().timestamp_at(3), Some(at));
}

trait Whole {
    fn into_int_if_whole(self) -> Value;
}
impl Whole for Value {
    fn into_int_if_whole(self) -> Value {
        match self {
            Value::Float(v) if v.fract() == 0.0 => Value::Int(v as i64),
            other => other,
        }
    }
}

#[test]
fn trimming_and_case() {
    let table = cleaned(
        CleaningPlan::new().trim("name").case("name", Case::Title),
        &sample(),
    )
    .table;
    assert_eq!(
        texts(&table, "name"),
        [Some("Ana Kask".into()), Some("Bo".into()), None, None]
    );
    let table = cleaned(
        CleaningPlan::new()
            .case("plan", Case::Upper)
            .case("name", Case::Lower),
        &sample(),
    )
    .table;
    assert_eq!(texts(&table, "plan")[0].as_deref(), Some("PRO"));
    assert_eq!(texts(&table, "name")[0].as_deref(), Some("  ana kask "));
}

#[test]
fn casting_counts_what_cannot_be_read() {
    let result = cleaned(
        CleaningPlan::new()
            .cast("raw", CastTo::Float)
            .cast("when", CastTo::Timestamp),
        &sample(),
    );
    assert_eq!(
        floats(&result.table, "raw"),
        [Some(12.5), None, None, Some(-3.0)],
        "infinity is not read"
    );
    let lines: Vec<(usize, usize, usize)> = result
        .report
        .lines
        .iter()
        .map(|l| (l.unreadable, l.missing_before, l.missing_after))
        .collect();
    assert_eq!(lines, [(2, 0, 2), (1, 1, 2)]);
    let when = result.table.column("when").unwrap();
    assert_eq!(
        when.timestamp_at(1).unwrap().to_string(),
        "2026-03-01T09:00:00.000000Z"
    );
    let plan = CleaningPlan::new()
        .cast("raw", CastTo::Int)
        .cast("visits", CastTo::Text)
        .cast("active", CastTo::Int);
    let table = cleaned(plan, &sample()).table;
    assert_eq!(floats(&table, "raw"), [None, None, None, Some(-3.0)]);
    assert_eq!(texts(&table, "visits")[0].as_deref(), Some("1"));
    assert_eq!(floats(&table, "active"), [Some(1.0), None, Some(0.0), Some(1.0)]);
    let halves = Table::new(vec![Column::floats("x", vec![2.0, 2.5, 1e30])]).unwrap();
    let table = cleaned(CleaningPlan::new().cast("x", CastTo::Int), &halves).table;
    assert_eq!(
        floats(&table, "x"),
        [Some(2.0), None, None],
        "a half is not cut off silently"
    );
    let table = cleaned(CleaningPlan::new().cast("visits", CastTo::Float), &sample()).table;
    assert_eq!(table.column("visits").unwrap().ty(), FieldType::Float);
}

#[test]
fn dummies_with_limits_and_strangers() {
    let learn = Table::new(vec![text(
        "city",
        &[Some("a"), Some("b"), Some("b"), Some("c"), None],
    )])
    .unwrap();
    let later = Table::new(vec![text("city", &[Some("b"), Some("zz"), None])]).unwrap();
    let limited = CleaningPlan::new().then(Step::Dummies {
        columns: "city".into(),
        drop_first: false,
        max_categories: Some(2),
        min_count: 0,
        missing: false,
        unknown: Default::default(),
    });
    let limited = cleaned(limited, &learn);
    let names: Vec<&str> = limited.table.columns().iter().map(Column::name).collect();
    assert_eq!(names, ["city_a", "city_b", "city_other"]);
    assert_eq!(
        floats(&limited.table, "city_other"),
        [0.0, 0.0, 0.0, 1.0, 0.0].map(Some)
    );
    let (table, report) = limited.fitted.apply(&later).unwrap();
    assert_eq!(floats(&table, "city_other"), [Some(0.0), Some(1.0), Some(0.0)]);
    assert_eq!(report.lines[0].unreadable, 1);
    let dropped = CleaningPlan::new().then(Step::Dummies {
        columns: "city".into(),
        drop_first: true,
        max_categories: None,
        min_count: 0,
        missing: false,
        unknown: Default::default(),
    });
    let dropped = cleaned(dropped, &learn);
    let names: Vec<&str> = dropped.table.columns().iter().map(Column::name).collect();
    assert_eq!(names, ["city_b", "city_c"]);
    assert_eq!(
        dropped.report.lines[0].unreadable, 0,
        "the first category is known, if without a column"
    );
    let (table, report) = dropped.fitted.apply(&later).unwrap();
    assert_eq!((table.columns().len(), report.lines[0].unreadable), (2, 1));
    let ids: Vec<String> = (0..101).map(|i| format!("id{i}")).collect();
    let ids: Vec<Option<&str>> = ids.iter().map(|id| Some(id.as_str())).collect();
    let error = CleaningPlan::new()
        .dummies("id")
        .fit(&Table::new(vec![text("id", &ids)]).unwrap())
        .unwrap_err();
    assert!(error.to_string().contains("categories=101"), "{error}");
}

#[test]
fn clipping_logs_and_scales() {
    let table = Table::new(vec![Column::floats("x", (0..=100).map(f64::from).collect())]).unwrap();
    let clipped = cleaned(
        CleaningPlan::new().clip("x", Bounds::Quantiles { low: 0.05, high: 0.9 }),
        &table,
    );
    let x = floats(&clipped.table, "x");
    assert_eq!(
        (x[0], x[5], x[50], x[100]),
        (Some(5.0), Some(5.0), Some(50.0), Some(90.0))
    );
    assert_eq!(clipped.report.lines[0].changed, 15);
    let plan = CleaningPlan::new()
        .clip(
            "x",
            Bounds::Fixed {
                low: None,
                high: Some(2.0),
            },
        )
        .log1p("x");
    assert_eq!(
        floats(&cleaned(plan, &table).table, "x")[100],
        Some(2.0_f64.ln_1p())
    );
    let x = floats(&cleaned(CleaningPlan::new().standardise("x"), &table).table, "x");
    let x: Vec<f64> = x.into_iter().flatten().collect();
    assert!(x.iter().sum::<f64>().abs() < 1e-9);
    assert!((x.iter().map(|v| v * v).sum::<f64>() / 100.0 - 1.0).abs() < 1e-12);
    let constant = Table::new(vec![Column::floats("c", vec![0.1; 7])]).unwrap();
    let scaled = cleaned(CleaningPlan::new().standardise(Columns::All), &constant).table;
    assert!(floats(&scaled, "c").iter().all(|v| *v == Some(0.0)));
    let negative = Table::new(vec![Column::floats("x", vec![1.0, -2.0])]).unwrap();
    let error = CleaningPlan::new().log1p("x").fit(&negative).unwrap_err();
    assert!(error.to_string().contains("row=1"), "{error}");
}

#[test]
fn dropping_and_renaming() {
    let table = cleaned(
        CleaningPlan::new().drop(["name", "id"]).rename("raw", "amount"),
        &sample(),
    )
    .table;
    let names: Vec<&str> = table.columns().iter().map(Column::name).collect();
    assert_eq!(names, ["plan", "visits", "spend", "active", "amount", "when"]);
    let none = CleaningPlan::new().drop(Columns::All).fit(&sample()).unwrap();
    assert_eq!(none.table.columns().len(), 0);
}

#[test]
fn what_is_wrong_is_named() {
    let error = CleaningPlan::new().trim("nme").fit(&sample()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for part in ["step=trim", "position=1", "column=nme", "columns=id name plan"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let refused = [
        CleaningPlan::new().fill("plan", Fill::Mean),
        CleaningPlan::new().fill("visits", f64::INFINITY),
        CleaningPlan::new().fill("visits", "none"),
        CleaningPlan::new().fill("visits", Value::Null),
        CleaningPlan::new().clip(
            "visits",
            Bounds::Fixed {
                low: Some(2.0),
                high: Some(1.0),
            },
        ),
        CleaningPlan::new().clip("visits", Bounds::Quantiles { low: -0.1, high: 1.0 }),
        CleaningPlan::new().rename("plan", "name"),
        CleaningPlan::new()
            .rename("plan", "visits_1")
            .rename("visits_1", "name"),
        CleaningPlan::new().cast("id", CastTo::Text),
        CleaningPlan::new().dummies("spend"),
        CleaningPlan::new().trim("plan").case("visits", Case::Lower),
    ];
    for plan in refused {
        assert_eq!(
            plan.fit(&sample()).unwrap_err().kind(),
            ErrorKind::Invalid,
            "{plan:?}"
        );
    }
    let empty = Table::new(vec![column(
        "x",
        FieldType::Float,
        vec![Value::Null, Value::Null],
    )])
    .unwrap();
    for fill in [Fill::Mean, Fill::Median, Fill::Mode] {
        assert!(
            CleaningPlan::new()
                .fill("x", fill)
                .fit(&empty)
                .unwrap_err()
                .to_string()
                .contains("column=x")
        );
    }
    let fitted = CleaningPlan::new().trim("name").fit(&sample()).unwrap().fitted;
    assert!(
        fitted
            .apply(&empty)
            .unwrap_err()
            .to_string()
            .contains("columns=x")
    );
    assert!(serde_json::from_str::<CleaningPlan>(r#"[{"step":"wash","columns":"all"}]"#).is_err());
    assert!(serde_json::from_str::<CleaningPlan>(r#"[{"step":"trim","columns":"some"}]"#).is_err());
}

#[test]
fn a_table_without_rows_passes() {
    let table = Table::new(vec![Column::text("a"), Column::float("b")]).unwrap();
    let plan = CleaningPlan::new()
        .trim("a")
        .fill("b", 1.0)
        .dummies("a")
        .log1p("b")
        .clip(
            "b",
            Bounds::Fixed {
                low: Some(0.0),
                high: None,
            },
        );
    assert_eq!(plan.fit(&table).unwrap().table.rows(), 0);
    assert_eq!(
        CleaningPlan::new().fit(&Table::default()).unwrap().table,
        Table::default()
    );
}
