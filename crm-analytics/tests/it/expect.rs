//! Expectations: each kind holds and fails where it should, and the rows are named.

use crm_analytics::expect::{Check, Expectations, Severity};
use crm_core::record::{FieldType, Value};
use crm_core::{Column, Table, Timestamp};

fn table() -> Table {
    let mut mail = Column::text("mail");
    for text in [Some("a@b.de"), Some("nobody"), None, Some("a@b.de")] {
        mail.push_text(text);
    }
    let mut age = Column::float("age");
    for value in [
        Value::Float(20.0),
        Value::Float(-1.0),
        Value::Null,
        Value::Float(f64::NAN),
    ] {
        age.push(value).unwrap();
    }
    let mut at = Column::empty("at", FieldType::Timestamp).unwrap();
    for month in 1..=4 {
        at.push(Value::Timestamp(Timestamp::from_ymd(2026, month, 1).unwrap()))
            .unwrap();
    }
    Table::new(vec![mail, age, at]).unwrap()
}

#[test]
fn every_check_names_the_rows_that_fail() {
    let day = |month, day| Timestamp::from_ymd(2026, month, day).unwrap();
    let mail = || "mail".to_owned();
    let cases: Vec<(Check, usize, Vec<usize>)> = vec![
        (Check::Present { column: mail() }, 4, vec![2]),
        (Check::Present { column: "age".into() }, 4, vec![2, 3]),
        (
            Check::Range {
                column: "age".into(),
                min: Some(0.0),
                max: None,
            },
            2,
            vec![1],
        ),
        (
            Check::Length {
                column: mail(),
                min: 0,
                max: Some(5),
            },
            3,
            vec![0, 1, 3],
        ),
        (
            Check::Unique {
                columns: vec![mail()],
            },
            3,
            vec![0, 3],
        ),
        (
            Check::Unique {
                columns: vec![mail(), "at".into()],
            },
            3,
            vec![],
        ),
        // Whole texts: `a@b.de` has an a in it, but is not one.
        (
            Check::Matches {
                column: mail(),
                pattern: "a|nobody".into(),
            },
            3,
            vec![0, 3],
        ),
        (
            Check::OneOf {
                column: mail(),
                values: ["nobody".to_owned()].into(),
            },
            3,
            vec![0, 3],
        ),
        (Check::Email { column: mail() }, 3, vec![1]),
        (
            Check::Phone {
                column: mail(),
                region: None,
            },
            3,
            vec![0, 1, 3],
        ),
        (
            Check::Past {
                column: "at".into(),
                as_of: day(3, 1),
            },
            4,
            vec![3],
        ),
    ];
    for (check, looked_at, rows) in cases {
        let suite = Expectations::new().expect(check);
        let text = serde_json::to_string(&suite).unwrap();
        assert_eq!(
            serde_json::from_str::<Expectations>(&text).unwrap(),
            suite,
            "{text}"
        );
        let report = suite.check(&table()).unwrap();
        let result = &report.results[0];
        assert_eq!(
            (result.looked_at, &result.rows, result.failing),
            (looked_at, &rows, rows.len()),
            "{text}"
        );
        assert_eq!(
            (report.passed, result.holds),
            (rows.is_empty(), rows.is_empty()),
            "{text}"
        );
    }
    for (check, holds) in [
        (
            Check::Column {
                column: "age".into(),
                ty: FieldType::Float,
            },
            true,
        ),
        (
            Check::Column {
                column: "age".into(),
                ty: FieldType::Int,
            },
            false,
        ),
        (
            Check::Present {
                column: "nobody".into(),
            },
            false,
        ),
        (Check::Email { column: "age".into() }, false),
        (Check::Rows { min: 4, max: Some(4) }, true),
        (Check::Rows { min: 5, max: None }, false),
        (
            Check::Fresh {
                column: "at".into(),
                as_of: day(4, 11),
                days: 10.0,
            },
            true,
        ),
        (
            Check::Fresh {
                column: "at".into(),
                as_of: day(4, 12),
                days: 10.0,
            },
            false,
        ),
    ] {
        let report = Expectations::new().expect(check.clone()).check(&table()).unwrap();
        assert_eq!(report.passed, holds, "{check:?}");
        assert_eq!(report.results[0].reason.is_some(), !holds, "{check:?}");
    }
}

#[test]
fn references_tolerance_and_severity() {
    let known = Table::new(vec![{
        let mut column = Column::text("address");
        column.push_text(Some("a@b.de"));
        column
    }])
    .unwrap();
    let check = || Check::References {
        column: "mail".into(),
        table: "contacts".into(),
        of: "address".into(),
    };
    let others: &[(&str, &Table)] = &[("contacts", &known)];
    let strict = Expectations::new()
        .expect(check())
        .check_with(&table(), others)
        .unwrap();
    assert_eq!(
        (strict.passed, strict.results[0].rows.as_slice()),
        (false, [1].as_slice())
    );
    let lenient = Expectations::new().with(check(), Severity::Error, 0.34);
    assert!(lenient.check_with(&table(), others).unwrap().passed);
    let warned = Expectations::new()
        .with(check(), Severity::Warning, 0.0)
        .check_with(&table(), others)
        .unwrap();
    assert!(warned.passed && !warned.results[0].holds);
    assert_eq!(
        Expectations::new()
            .expect(check())
            .check(&table())
            .unwrap_err()
            .context("table"),
        Some("contacts")
    );
}

#[test]
fn what_makes_no_sense_is_an_error_with_its_place() {
    let range = |min, max| Check::Range {
        column: "age".into(),
        min,
        max,
    };
    for (check, tolerance, setting) in [
        (range(Some(2.0), Some(1.0)), 0.0, "min, max"),
        (range(Some(f64::NAN), None), 0.0, "min, max"),
        (range(None, None), 1.5, "tolerance"),
        (range(None, None), f64::NAN, "tolerance"),
        (
            Check::Matches {
                column: "mail".into(),
                pattern: "(".into(),
            },
            0.0,
            "pattern",
        ),
        (
            Check::Matches {
                column: "mail".into(),
                pattern: "a)|(?:b".into(),
            },
            0.0,
            "pattern",
        ),
        (
            Check::Matches {
                column: "mail".into(),
                pattern: "((a{100}){100}){100}".into(),
            },
            0.0,
            "pattern",
        ),
        (Check::Unique { columns: vec![] }, 0.0, "columns"),
    ] {
        let suite = Expectations::new()
            .expect(Check::Rows { min: 0, max: None })
            .with(check.clone(), Severity::Error, tolerance);
        let error = suite.check(&table()).unwrap_err();
        assert_eq!(
            (error.context("setting"), error.context("position")),
            (Some(setting), Some("2")),
            "{check:?}"
        );
    }
    assert!(serde_json::from_str::<Expectations>(r#"[{"check":"present","column":"x","extra":1}]"#).is_err());
    assert!(serde_json::from_str::<Expectations>(r#"[{"check":"nonsense"}]"#).is_err());
}
