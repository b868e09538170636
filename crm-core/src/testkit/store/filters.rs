use std::sync::Arc;

use serde_json::json;

use super::{Desk, LINK, LINKS, SAMPLE, sample};
use crate::capability::RecordStore;
use crate::query::{Aggregate, FieldRef, Filter, Measure, Query, Relation, Scan};
use crate::record::{Record, Value, Write};
use crate::{ErrorKind, Timestamp, Uuid};

/// Stores one record a value of `field`, in order, labelled 0, 1, 2 and so on.
async fn rows(desk: &Desk, field: &str, values: impl Into<Vec<Value>>) {
    for (i, value) in values.into().into_iter().enumerate() {
        let record: Record = sample(&i.to_string()).with(field, value).unwrap();
        desk.add(record).await;
    }
}

/// Asserts which of the rows match, by `find` and by `count`, for the filter and for its opposite.
async fn expect(desk: &Desk, filter: Filter, expected: &[usize]) {
    for (filter, expected_here) in [(filter.clone(), true), (!filter.clone(), false)] {
        let found = desk.all(&SAMPLE, Query::new(filter.clone()).limit(1000)).await;
        let mut labels: Vec<usize> = found
            .iter()
            .map(|s| s.record.text("label").unwrap().parse().unwrap())
            .collect();
        labels.sort_unstable();
        let total = desk.count(&Filter::All).await as usize;
        let wanted: Vec<usize> = (0..total)
            .filter(|i| expected.contains(i) == expected_here)
            .collect();
        assert_eq!(labels, wanted, "rows that match {filter:?}");
        assert_eq!(
            desk.count(&filter).await as usize,
            wanted.len(),
            "count of {filter:?}"
        );
    }
}

/// Every operator on every type, with absent values, and the connectives: the logic has two values.
pub async fn filters_mean_the_same(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    rows(
        &desk,
        "n",
        [
            Value::Null,
            1_i64.into(),
            2_i64.into(),
            3_i64.into(),
            i64::MIN.into(),
            i64::MAX.into(),
        ],
    )
    .await;
    expect(&desk, Filter::All, &[0, 1, 2, 3, 4, 5]).await;
    expect(&desk, Filter::eq("n", 2_i64), &[2]).await;
    expect(&desk, Filter::ne("n", 2_i64), &[1, 3, 4, 5]).await;
    expect(&desk, Filter::lt("n", 2_i64), &[1, 4]).await;
    expect(&desk, Filter::le("n", 2_i64), &[1, 2, 4]).await;
    expect(&desk, Filter::gt("n", 2_i64), &[3, 5]).await;
    expect(&desk, Filter::ge("n", i64::MAX), &[5]).await;
    expect(&desk, Filter::null("n"), &[0]).await;
    expect(&desk, Filter::one_of("n", [1_i64, 3, 99]), &[1, 3]).await;
    expect(&desk, Filter::one_of("n", Vec::<i64>::new()), &[]).await;
    expect(&desk, Filter::And(vec![]), &[0, 1, 2, 3, 4, 5]).await;
    expect(&desk, Filter::Or(vec![]), &[]).await;
    expect(&desk, Filter::ge("n", 1_i64).and(Filter::le("n", 2_i64)), &[1, 2]).await;
    expect(&desk, Filter::eq("n", 1_i64).or(Filter::null("n")), &[0, 1]).await;
    expect(&desk, !(Filter::eq("n", 1_i64).or(Filter::null("t"))), &[]).await;
    expect(
        &desk,
        (!Filter::eq("n", 1_i64)).and(Filter::ne("n", 3_i64)),
        &[2, 4, 5],
    )
    .await;
    expect(&desk, !(!Filter::gt("n", 1_i64)), &[2, 3, 5]).await;
    expect(
        &desk,
        Filter::null("flag").and(Filter::null("u")),
        &[0, 1, 2, 3, 4, 5],
    )
    .await;

    let desk = Desk::open(desk.store).await;
    rows(&desk, "flag", [Value::Null, true.into(), false.into()]).await;
    expect(&desk, Filter::eq("flag", true), &[1]).await;
    expect(&desk, Filter::ne("flag", true), &[2]).await;
    expect(&desk, Filter::lt("flag", true), &[2]).await;

    let desk = Desk::open(desk.store).await;
    let at = |micros| Value::from(Timestamp::from_micros(micros));
    rows(
        &desk,
        "at",
        [
            Value::Null,
            at(-5),
            at(0),
            at(1_767_323_045_123_456),
            at(1_767_323_045_123_457),
        ],
    )
    .await;
    expect(&desk, Filter::lt("at", Timestamp::EPOCH), &[1]).await;
    expect(
        &desk,
        Filter::gt("at", Timestamp::from_micros(1_767_323_045_123_456)),
        &[4],
    )
    .await;

    let desk = Desk::open(desk.store).await;
    let ids = [1_u128, 2, u128::MAX].map(Uuid::from_u128);
    rows(
        &desk,
        "u",
        [Value::Null, ids[0].into(), ids[1].into(), ids[2].into()],
    )
    .await;
    expect(&desk, Filter::gt("u", ids[0]), &[2, 3]).await;
    expect(&desk, Filter::one_of("u", ids), &[1, 2, 3]).await;

    let desk = Desk::open(desk.store).await;
    rows(
        &desk,
        "b",
        [
            Value::Null,
            vec![].into(),
            vec![0].into(),
            vec![255].into(),
            vec![0, 1].into(),
        ],
    )
    .await;
    expect(&desk, Filter::gt("b", vec![0]), &[3, 4]).await;
    expect(&desk, Filter::eq("b", vec![]), &[1]).await;

    let first = desk.ids(&Filter::All).await[1];
    assert_eq!(desk.ids(&Filter::eq("id", first)).await, [first]);
    assert_eq!(desk.ids(&Filter::ne("id", first)).await.len(), 4);
}

/// Integers and floats compare as numbers, without the rounding of a conversion.
pub async fn numbers_compare_exactly(store: Arc<dyn RecordStore>) {
    const BIG: i64 = 1 << 53;
    let desk = Desk::open(store).await;
    rows(
        &desk,
        "n",
        [
            BIG.into(),
            (BIG + 1).into(),
            i64::MAX.into(),
            i64::MIN.into(),
            (-3_i64).into(),
        ],
    )
    .await;
    expect(&desk, Filter::eq("n", BIG as f64), &[0]).await;
    expect(&desk, Filter::gt("n", BIG as f64), &[1, 2]).await;
    expect(
        &desk,
        Filter::lt("n", 9_223_372_036_854_775_808.0),
        &[0, 1, 2, 3, 4],
    )
    .await;
    expect(
        &desk,
        Filter::ge("n", -9_223_372_036_854_775_808.0),
        &[0, 1, 2, 3, 4],
    )
    .await;
    expect(&desk, Filter::gt("n", -3.5).and(Filter::lt("n", -2.5)), &[4]).await;
    expect(&desk, Filter::one_of("n", [BIG as f64, 0.5]), &[0]).await;
    let desk = Desk::open(desk.store).await;
    rows(
        &desk,
        "x",
        [Value::from(BIG as f64), 0.5.into(), (-0.25).into(), 1e300.into()],
    )
    .await;
    expect(&desk, Filter::lt("x", BIG + 1), &[0, 1, 2]).await;
    expect(&desk, Filter::eq("x", BIG + 1), &[]).await;
    expect(&desk, Filter::gt("x", 0_i64), &[0, 1, 3]).await;
    expect(&desk, Filter::gt("x", i64::MAX), &[3]).await;
}

/// Text is compared byte by byte: case, accents, trailing blanks and characters with a meaning in patterns all count.
pub async fn text_is_taken_literally(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let texts = [
        "",
        "a",
        "A",
        "ab",
        "a%b",
        "a_b",
        "axb",
        "a\\b",
        "a*b",
        "a[b",
        "ä",
        "Ä",
        "a\u{308}",
        "a ",
        " a",
        "日本語",
        "😀x",
        "a'b",
        "z",
        "a?b",
    ];
    let values: Vec<Value> = texts.iter().map(|text| Value::from(*text)).collect();
    rows(&desk, "t", values).await;
    let more = [
        "a%",
        "a_",
        "%",
        "_",
        "a\\",
        "\\",
        "*",
        "?",
        "[",
        "本",
        "😀",
        "'",
        "nope",
        "ab\u{10ffff}",
    ];
    for text in texts.into_iter().chain(more) {
        let which = |keep: fn(&str, &str) -> bool| -> Vec<usize> {
            (0..texts.len()).filter(|i| keep(texts[*i], text)).collect()
        };
        let questions = [
            (Filter::eq("t", text), which(|t, text| t == text)),
            (Filter::prefix("t", text), which(|t, text| t.starts_with(text))),
            (Filter::contains("t", text), which(|t, text| t.contains(text))),
            (
                Filter::lt("t", text),
                which(|t, text| t.as_bytes() < text.as_bytes()),
            ),
            (
                Filter::ge("t", text),
                which(|t, text| t.as_bytes() >= text.as_bytes()),
            ),
        ];
        for (filter, expected) in questions {
            expect(&desk, filter, &expected).await;
        }
    }
    expect(&desk, Filter::one_of("t", ["a", "ä", "a%b"]), &[1, 4, 10]).await;
}

/// Below a JSON field the document decides the type, and types never mix.
pub async fn json_paths_are_typed(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let documents = [
        Value::Null,
        json!({}).into(),
        json!({"p": "5"}).into(),
        json!({"p": 5}).into(),
        json!({"p": 5.0}).into(),
        json!({"p": 5.5}).into(),
        json!({"p": true}).into(),
        json!({"p": false}).into(),
        json!({"p": null}).into(),
        json!({"p": {"q": {"r": "deep"}}}).into(),
        json!({"p": ["5", 5]}).into(),
        json!({"p": "1"}).into(),
        json!({"p": 1}).into(),
        json!({"it's": "x", "a b": "x", "a$[0]": "x", "ü": "x", "P": "x"}).into(),
        json!([{"p": 5}]).into(),
        json!({"p": (1_i64 << 53) + 1}).into(),
        json!({"p": "pro"}).into(),
    ];
    rows(&desk, "j", documents).await;
    expect(&desk, Filter::eq("j.p", "5"), &[2]).await;
    expect(&desk, Filter::eq("j.p", 5_i64), &[3, 4]).await;
    expect(&desk, Filter::eq("j.p", 5.0), &[3, 4]).await;
    expect(&desk, Filter::ge("j.p", 5_i64), &[3, 4, 5, 15]).await;
    expect(&desk, Filter::lt("j.p", 5.5), &[3, 4, 12]).await;
    expect(&desk, Filter::gt("j.p", (1_i64 << 53) as f64), &[15]).await;
    expect(&desk, Filter::eq("j.p", true), &[6]).await;
    expect(&desk, Filter::ne("j.p", true), &[7]).await;
    expect(&desk, Filter::eq("j.p", 1_i64), &[12]).await;
    expect(&desk, Filter::ne("j.p", "5"), &[11, 16]).await;
    expect(&desk, Filter::lt("j.p", "z"), &[2, 11, 16]).await;
    expect(&desk, Filter::prefix("j.p", "p"), &[16]).await;
    expect(&desk, Filter::contains("j.p", "5"), &[2]).await;
    expect(
        &desk,
        Filter::one_of("j.p", [Value::from("5"), 5.5.into(), true.into()]),
        &[2, 5, 6],
    )
    .await;
    expect(&desk, Filter::null("j.p"), &[0, 1, 8, 13, 14]).await;
    expect(&desk, Filter::null("j"), &[0]).await;
    expect(&desk, Filter::eq("j.p.q.r", "deep"), &[9]).await;
    expect(&desk, Filter::null("j.p.q.x"), &(0..17).collect::<Vec<_>>()).await;
    expect(&desk, !Filter::null("j.p.q"), &[9]).await;
    for key in ["it's", "a b", "a$[0]", "ü", "P"] {
        let field = FieldRef {
            field: "j".to_owned(),
            path: vec![key.to_owned()],
        };
        expect(&desk, Filter::eq(field, "x"), &[13]).await;
    }
    for key in ["p' OR '1'='1", "$", "*", "[0]", "p.q", "#-1"] {
        let field = FieldRef {
            field: "j".to_owned(),
            path: vec![key.to_owned()],
        };
        expect(&desk, Filter::Null { field }, &(0..17).collect::<Vec<_>>()).await;
    }
}

/// A question about a field that is not there, or of the wrong type, is refused by every method, naming the field.
pub async fn wrong_questions_are_refused(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    desk.add(sample("x")).await;
    let refused = |error: crate::Error, field: &str| {
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Invalid, Some(field)),
            "{error}"
        );
    };
    let (store, ctx) = (&desk.store, &desk.ctx);
    for (filter, field) in [
        (Filter::eq("nope", 1_i64), "nope"),
        (Filter::eq("n", "x"), "n"),
        (Filter::eq("n", Value::Null), "n"),
        (Filter::eq("tenant", "t"), "tenant"),
        (Filter::eq("n.x", 1_i64), "n.x"),
        (Filter::prefix("n", "1"), "n"),
        (Filter::eq("j", json!({})), "j"),
        (Filter::gt("x", f64::NAN), "x"),
        (Filter::eq("label\" or 1=1 --", "x"), "label\" or 1=1 --"),
    ] {
        let filter = !filter.and(Filter::All);
        refused(
            store
                .find(ctx, &SAMPLE, &Query::new(filter.clone()))
                .await
                .expect_err("find"),
            field,
        );
        refused(
            store.count(ctx, &SAMPLE, &filter).await.expect_err("count"),
            field,
        );
        let scan = Scan::new(filter.clone(), ["label"]);
        refused(
            store
                .scan(ctx, &SAMPLE, &scan, &mut |_| Ok(()))
                .await
                .expect_err("scan"),
            field,
        );
        let aggregate = Aggregate::new(filter).measure("rows", Measure::Count);
        refused(
            store
                .aggregate(ctx, &SAMPLE, &aggregate)
                .await
                .expect_err("aggregate"),
            field,
        );
    }
    for (query, field) in [
        (Query::new(Filter::All).ascending("nope"), "nope"),
        (Query::new(Filter::All).ascending("j"), "j"),
        (Query::new(Filter::All).limit(0), "limit"),
        (Query::new(Filter::All).limit(10_001), "limit"),
    ] {
        refused(store.find(ctx, &SAMPLE, &query).await.expect_err("find"), field);
    }
    let sum = Aggregate::new(Filter::All).measure("s", Measure::Sum("t".into()));
    refused(
        store
            .aggregate(ctx, &SAMPLE, &sum)
            .await
            .expect_err("a sum of texts"),
        "t",
    );
    refused(
        store
            .aggregate(ctx, &SAMPLE, &Aggregate::new(Filter::All).by_month("n"))
            .await
            .expect_err("months"),
        "n",
    );
    let bytes = Scan::new(Filter::All, ["b"]);
    assert!(
        store.scan(ctx, &SAMPLE, &bytes, &mut |_| Ok(())).await.is_err(),
        "bytes are not a column"
    );
}

/// An array has an item when one of its items is exactly this text; objects, lone texts and numbers have none.
pub async fn arrays_have_items(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let documents = [
        json!(["vip", "press"]),
        json!(["VIP"]),
        json!([]),
        json!("vip"),
        json!({ "vip": "vip" }),
        json!({ "tags": ["vip", "50% off", "it's", "a\"b", "日本"] }),
        json!(["1", 2, true, null, ["vip"]]),
    ];
    let mut values: Vec<Value> = documents.into_iter().map(Value::Json).collect();
    values.push(Value::Null);
    rows(&desk, "j", values).await;
    expect(&desk, Filter::has("j", "vip"), &[0]).await;
    expect(&desk, Filter::has("j", "VIP"), &[1]).await;
    expect(&desk, Filter::has("j", "1"), &[6]).await;
    expect(&desk, Filter::has("j", "2"), &[]).await;
    expect(&desk, Filter::has("j", "true"), &[]).await;
    expect(&desk, Filter::has("j", ""), &[]).await;
    for text in ["vip", "50% off", "it's", "a\"b", "日本"] {
        expect(&desk, Filter::has("j.tags", text), &[5]).await;
    }
    expect(&desk, Filter::has("j.tags", "50"), &[]).await;
    let whole = desk.columns(&SAMPLE, ["label", "j"]).await;
    let chosen = Filter::has("j", "vip").select(&whole).unwrap();
    let label = whole.column("label").unwrap();
    let labels: Vec<&str> = (0..whole.rows())
        .filter(|row| chosen[*row])
        .map(|row| label.text_at(row).unwrap())
        .collect();
    assert_eq!(labels, ["0"], "a whole JSON field is its document as text");
}

/// Counts, sums and extremes over related records, also for records without any; only those of the tenant, the filter
/// and the owner count.
pub async fn related_records_are_counted(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let mut owners = Vec::new();
    for label in 0..4 {
        owners.push(desk.add(sample(&label.to_string())).await);
    }
    let link = |owner: Option<Uuid>, kind: &str, n: Option<i64>, at: i64| {
        let record = Record::new(&LINK).with("sample_id", owner).unwrap();
        let record = record.with("kind", kind).unwrap().with("n", n).unwrap();
        Write::insert(
            crate::testkit::fixtures::id(),
            record.with("at", Timestamp::from_micros(at)).unwrap(),
        )
    };
    let writes = [
        link(Some(owners[0]), "order", Some(5), 10),
        link(Some(owners[0]), "order", Some(7), 20),
        link(Some(owners[0]), "visit", Some(100), 30),
        link(Some(owners[1]), "order", None, 20),
        link(Some(owners[2]), "visit", Some(-1), 5),
        link(None, "order", Some(1), 20),
        link(Some(Uuid::from_u128(99)), "order", Some(1), 20),
    ];
    desk.apply(&writes).await;
    // The same owners in another tenant do not count.
    let stranger = Desk::open(desk.store.clone()).await;
    stranger
        .apply(&[link(Some(owners[3]), "order", Some(9), 20)])
        .await;
    let orders = || Filter::eq("kind", "order");
    let sum = |op, value: Value| Filter::related(LINKS, orders(), Measure::Sum("n".into()), op, value);
    use crate::query::Compare::{Ge, Gt, Le, Lt, Ne};
    expect(&desk, Filter::at_least(1, LINKS, orders()), &[0, 1]).await;
    expect(&desk, Filter::at_least(2, LINKS, orders()), &[0]).await;
    expect(&desk, Filter::at_least(0, LINKS, orders()), &[0, 1, 2, 3]).await;
    expect(&desk, Filter::none_of(LINKS, orders()), &[2, 3]).await;
    expect(&desk, Filter::none_of(LINKS, Filter::All), &[3]).await;
    let count = |op, n: i64| Filter::related(LINKS, Filter::All, Measure::Count, op, n);
    expect(&desk, count(Lt, 2), &[1, 2, 3]).await;
    expect(&desk, count(Ne, 1), &[0, 3]).await;
    let since = Filter::ge("at", Timestamp::from_micros(20));
    expect(&desk, Filter::at_least(1, LINKS, orders().and(since)), &[0, 1]).await;
    expect(&desk, sum(Ge, 12_i64.into()), &[0]).await;
    expect(&desk, sum(Gt, 11.5.into()), &[0]).await;
    expect(&desk, sum(Le, i64::MAX.into()), &[0]).await;
    let kinds = |op, n: i64| Filter::related(LINKS, Filter::All, Measure::Distinct("kind".into()), op, n);
    expect(&desk, kinds(Ge, 2), &[0]).await;
    expect(&desk, kinds(Lt, 1), &[3]).await;
    let last = |op, at: i64| {
        Filter::related(
            LINKS,
            Filter::All,
            Measure::Max("at".into()),
            op,
            Timestamp::from_micros(at),
        )
    };
    expect(&desk, last(Lt, 20), &[2]).await;
    expect(
        &desk,
        Filter::eq("label", "0").or(Filter::none_of(LINKS, Filter::All)),
        &[0, 3],
    )
    .await;

    for wrong in [
        Filter::at_least(1, LINKS, Filter::eq("nope", 1_i64)),
        Filter::at_least(1, LINKS, Filter::at_least(1, LINKS, Filter::All)),
        Filter::related(LINKS, Filter::All, Measure::Sum("kind".into()), Ge, 1_i64),
        Filter::related(LINKS, Filter::All, Measure::Max("at".into()), Ge, 1_i64),
        Filter::at_least(1, Relation::new(&LINK, "kind"), Filter::All),
        Filter::ago("at", crate::query::Span::days(1)),
        Filter::InSegment(owners[0]),
    ] {
        let refused = desk
            .store
            .count(&desk.ctx, &SAMPLE, &wrong)
            .await
            .expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{wrong:?}");
    }
}
