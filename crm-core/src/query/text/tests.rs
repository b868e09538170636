use proptest::prelude::*;
use serde_json::json;

use crate::query::{Compare, FieldRef, Filter, Measure, Relation, Span, Unit};
use crate::record::{Field, FieldType, Record, Schema, Stored, Value};
use crate::{ErrorKind, Timestamp, Uuid};

static THING: Schema = Schema {
    name: "thing",
    fields: &[
        Field::new("name", FieldType::Text).nullable(),
        Field::new("visits", FieldType::Int).nullable(),
        Field::new("share", FieldType::Float).nullable(),
        Field::new("vip", FieldType::Bool).nullable(),
        Field::new("at", FieldType::Timestamp).nullable(),
        Field::new("owner", FieldType::Uuid).nullable(),
        Field::new("hash", FieldType::Bytes).nullable(),
        Field::new("data", FieldType::Json).nullable(),
        Field::new("not", FieldType::Int).nullable(),
        Field::new("count", FieldType::Int).nullable(),
    ],
    indexes: &[],
};

fn read(text: &str) -> Filter {
    Filter::parse(text, &THING).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn what_can_be_written_means_what_the_table_says() {
    let owner = Uuid::from_u128(7);
    let day = Timestamp::from_ymd(2026, 1, 31).unwrap();
    let ago = |count, unit, op| Filter::Ago {
        field: "at".into(),
        op,
        span: Span { count, unit },
    };
    let orders =
        |filter, measure, op, value: Value| Filter::related(Relation::ORDERS, filter, measure, op, value);
    for (text, filter) in [
        ("", Filter::All),
        (" \n\t ", Filter::All),
        ("all", Filter::All),
        ("NONE", Filter::Or(vec![])),
        ("name = 'O''Hara'", Filter::eq("name", "O'Hara")),
        ("name <> ''", Filter::ne("name", "")),
        ("name!='a\"b'", Filter::ne("name", "a\"b")),
        ("visits<-3", Filter::lt("visits", -3_i64)),
        ("visits <= 9223372036854775807", Filter::le("visits", i64::MAX)),
        ("visits >= -9223372036854775808", Filter::ge("visits", i64::MIN)),
        ("share > 0.5", Filter::gt("share", 0.5)),
        ("share > 5e-1", Filter::gt("share", 0.5)),
        ("share > 1E+2", Filter::gt("share", 100.0)),
        ("share = 2", Filter::eq("share", 2_i64)),
        ("vip = TRUE", Filter::eq("vip", true)),
        ("at >= '2026-01-31'", Filter::ge("at", day)),
        ("at >= '2026-01-31T01:00:00+01:00'", Filter::ge("at", day)),
        (
            "at = '@-9223372036854775808'",
            Filter::eq("at", Timestamp::from_micros(i64::MIN)),
        ),
        (
            "owner = '00000000-0000-0000-0000-000000000007'",
            Filter::eq("owner", owner),
        ),
        (
            "id in ('00000000-0000-0000-0000-000000000007')",
            Filter::one_of("id", [owner]),
        ),
        ("hash = x'00fF'", Filter::eq("hash", vec![0_u8, 255])),
        ("data.plan = 'pro'", Filter::eq("data.plan", "pro")),
        (
            "data.\"Zip code\".\"a\"\"b.c\" is absent",
            Filter::null(FieldRef {
                field: "data".into(),
                path: vec!["Zip code".into(), "a\"b.c".into()],
            }),
        ),
        ("data.\u{e4}ge > 5", Filter::gt("data.\u{e4}ge", 5_i64)),
        ("name in ()", Filter::one_of("name", [] as [&str; 0])),
        ("name in ('a', 'b')", Filter::one_of("name", ["a", "b"])),
        ("name starts with 'A%'", Filter::prefix("name", "A%")),
        ("name Contains 'na'", Filter::contains("name", "na")),
        ("data.tags has 'vip'", Filter::has("data.tags", "vip")),
        ("name is present", !Filter::null("name")),
        ("at > 90 days ago", ago(90, Unit::Days, Compare::Gt)),
        ("at < 2 weeks ahead", ago(-2, Unit::Weeks, Compare::Lt)),
        ("at <= 1 month AGO", ago(1, Unit::Months, Compare::Le)),
        (
            "segment '00000000-0000-0000-0000-000000000007'",
            Filter::InSegment(owner),
        ),
        ("\"not\" = 1", Filter::eq("not", 1_i64)),
        ("count = 1", Filter::eq("count", 1_i64)),
        (
            "count(order) >= 2",
            orders(Filter::All, Measure::Count, Compare::Ge, 2_i64.into()),
        ),
        (
            "sum(crm_order.total_minor where currency = 'EUR' or at > 3 months ago) > 5",
            orders(
                Filter::eq("currency", "EUR").or(Filter::Ago {
                    field: "at".into(),
                    op: Compare::Gt,
                    span: Span::months(3),
                }),
                Measure::Sum("total_minor".into()),
                Compare::Gt,
                5_i64.into(),
            ),
        ),
        (
            "max(order.at) < '2026-01-31'",
            orders(Filter::All, Measure::Max("at".into()), Compare::Lt, day.into()),
        ),
        (
            "not vip = true and visits > 1 or name = 'a'",
            (!Filter::eq("vip", true))
                .and(Filter::gt("visits", 1_i64))
                .or(Filter::eq("name", "a")),
        ),
        (
            "not (vip = true and (visits > 1 or name = 'a'))",
            !(Filter::And(vec![
                Filter::eq("vip", true),
                Filter::gt("visits", 1_i64).or(Filter::eq("name", "a")),
            ])),
        ),
    ] {
        assert_eq!(read(text), filter, "{text}");
        assert_eq!(read(&filter.to_text()), filter, "{}", filter.to_text());
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_without_values() {
    for (text, position, message) in [
        ("name", "5", "a comparison is expected"),
        ("name =", "7", "a value is expected"),
        ("name = 'secret", "8", "not closed"),
        ("name = \"secret\"", "8", "text in single quotes"),
        ("(name = 'secret'", "17", "closing bracket"),
        ("name = 'secret')", "16", "`and`, `or` or the end"),
        ("name = 'secret' vip = true", "17", "`and`, `or` or the end"),
        ("nmae = 'secret'", "1", "no such field"),
        ("tenant = 'secret'", "1", "belongs to the store"),
        ("name.x = 'secret'", "1", "a path needs a JSON field"),
        ("visits = 'secret'", "10", "cannot be compared"),
        ("visits = 99999999999999999999", "10", "at most 64 bits"),
        ("at > 'secret'", "6", "not a time"),
        ("at > 3 fortnights ago", "8", "minutes, hours, days"),
        ("at > 3 days", "12", "`ago` or `ahead`"),
        ("at > 3.5 days ago", "6", "whole number"),
        ("at > 99999999999 days ago", "6", "whole number"),
        ("owner = 'secret'", "9", "not a UUID"),
        ("hash = x'0'", "8", "pairs of hexadecimal digits"),
        ("name in 'secret'", "9", "a list in brackets"),
        ("name in ('secret'", "18", "comma or a closing bracket"),
        ("name is empty", "9", "`absent` or `present`"),
        ("name starts 'secret'", "13", "`with`"),
        ("visits and vip", "8", "a comparison is expected"),
        ("and vip = true", "1", "no such field"),
        ("count(orders) > 1", "7", "nothing of this name"),
        ("count(order.at) > 1", "12", "`distinct` counts"),
        ("sum(order) > 1", "10", "a field is expected"),
        ("avg(order.total_minor) > 1", "1", "only count, sum"),
        ("sum(order.secrets) > 1", "10", "no such field"),
        ("name = 'a' ; drop", "12", "does not belong here"),
        ("\u{1f600} = 1", "1", "does not belong here"),
        ("\u{e4}\u{e4}\u{e4} = 1", "1", "no such field"),
    ] {
        let error = Filter::parse(text, &THING).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        assert_eq!(error.context("position"), Some(position), "{text}: {error}");
        assert!(error.to_string().contains(message), "{text}: {error}");
        assert!(!format!("{error:?}").contains("secret'"), "{text}: {error:?}");
    }
}

#[test]
fn what_stands_alone_is_written_without_its_word() {
    let alone = |filter| Filter::And(vec![Filter::Or(vec![filter])]);
    assert_eq!((!alone(Filter::null("name"))).to_text(), "name is present");
    assert_eq!((!alone(Filter::eq("visits", 1_i64))).to_text(), "not visits = 1");
    let nested = Filter::Or(vec![alone(Filter::eq("visits", 1_i64)), Filter::All]);
    assert_eq!(nested.to_text(), "visits = 1 or all");
}

#[test]
fn neither_depth_nor_length_is_without_end() {
    for deep in [
        "(".repeat(40_000),
        "not ".repeat(10_000),
        "count(order where ".repeat(3_000),
    ] {
        assert_eq!(
            Filter::parse(&deep, &THING).unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
    let long = format!("name = '{}'", "a".repeat(70_000));
    let error = Filter::parse(&long, &THING).unwrap_err();
    assert_eq!(error.context("limit"), Some("65536"));
    let wide = vec!["vip = true"; 4_000].join(" or ");
    assert!(matches!(read(&wide), Filter::Or(all) if all.len() == 4_000));
}

fn value_and_field() -> impl Strategy<Value = (FieldRef, Value)> {
    prop_oneof![
        ".*".prop_filter("no NUL", |text| !text.contains('\0'))
            .prop_map(|text| ("name".into(), text.into())),
        any::<i64>().prop_map(|int| ("visits".into(), int.into())),
        any::<f64>()
            .prop_filter("compares", |float| !float.is_nan())
            .prop_map(|float| ("share".into(), float.into())),
        any::<bool>().prop_map(|flag| ("vip".into(), flag.into())),
        any::<i64>().prop_map(|micros| ("at".into(), Timestamp::from_micros(micros).into())),
        any::<u128>().prop_map(|id| ("owner".into(), Uuid::from_u128(id).into())),
        any::<Vec<u8>>().prop_map(|bytes| ("hash".into(), bytes.into())),
        ("[a-zA-Z \"'.\u{e4}0-9_]{0,8}", any::<i64>()).prop_map(|(key, int)| {
            let field = FieldRef {
                field: "data".into(),
                path: vec![key],
            };
            (field, int.into())
        }),
    ]
}

fn leaf() -> impl Strategy<Value = Filter> {
    let op = prop_oneof![
        Just(Compare::Eq),
        Just(Compare::Ne),
        Just(Compare::Lt),
        Just(Compare::Le),
        Just(Compare::Gt),
        Just(Compare::Ge)
    ];
    prop_oneof![
        Just(Filter::All),
        (value_and_field(), op).prop_map(|((field, value), op)| Filter::Is { field, op, value }),
        value_and_field().prop_map(|(field, value)| Filter::In {
            field,
            values: vec![value.clone(), value]
        }),
        ".{0,6}".prop_map(|text| Filter::prefix("name", text)),
        ".{0,6}".prop_map(|text| Filter::contains("data.name", text)),
        ".{0,6}".prop_map(|text| Filter::has("data", text)),
        value_and_field().prop_map(|(field, _)| Filter::Null { field }),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    leaf().prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Filter::Or),
            inner.prop_map(|filter| !filter),
        ]
    })
}

fn things() -> Vec<Stored> {
    let texts = [Value::Null, "".into(), "O'Hara".into()];
    let ints: [Value; 3] = [Value::Null, 0_i64.into(), 7_i64.into()];
    let documents = [
        Value::Null,
        json!({"name": "ab", "a": 1}).into(),
        json!(["a", ""]).into(),
    ];
    let mut all = Vec::new();
    for text in &texts {
        for int in &ints {
            for document in &documents {
                let record = Record::new(&THING)
                    .with("name", text.clone())
                    .and_then(|record| record.with("visits", int.clone()))
                    .and_then(|record| record.with("data", document.clone()))
                    .unwrap();
                all.push(Stored {
                    id: Uuid::from_u128(all.len() as u128),
                    version: 1,
                    record,
                });
            }
        }
    }
    all
}

proptest! {
    #[test]
    fn any_filter_comes_back_with_its_meaning(filter in filter()) {
        let text = filter.to_text();
        let back = Filter::parse(&text, &THING).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        prop_assert_eq!(back.to_text(), text.clone(), "the second reading is the first");
        for thing in things() {
            prop_assert_eq!(back.matches(&thing), filter.matches(&thing), "{}", text);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}") {
        let _ = Filter::parse(&text, &THING);
    }

    #[test]
    fn any_row_of_words_is_read_or_refused(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "name", "at", "data", ".", "\"k\"", "=", "<", "(", ")", ",", "'a'", "3", "0.5", "days", "ago", "ahead",
                "not", "and", "or", "in", "is", "absent", "has", "starts", "with", "count", "order", "where", "segment",
                "x'00'", "true", "all",
            ]),
            0..24,
        ),
    ) {
        let text = words.join(" ");
        if let Ok(filter) = Filter::parse(&text, &THING) {
            let back = Filter::parse(&filter.to_text(), &THING)
                .map_err(|error| TestCaseError::fail(format!("{text} -> {}: {error}", filter.to_text())))?;
            prop_assert_eq!(back.to_text(), filter.to_text());
        }
    }
}
