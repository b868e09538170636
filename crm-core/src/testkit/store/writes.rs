use std::sync::Arc;

use serde_json::json;

use super::{Desk, SAMPLE, sample};
use crate::capability::RecordStore;
use crate::query::Filter;
use crate::record::{MAX_KEY_CHARS, MAX_VALUE_BYTES, Outcome, Record, Value, Write};
use crate::testkit::fixtures;
use crate::{Effect, Error, ErrorKind, Retry, Timestamp, Uuid};

fn conflict(error: &Error, schema: &str, write: usize, index: &str) {
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(error.context("schema"), Some(schema), "{error}");
    assert_eq!(
        error.context("write"),
        Some(write.to_string().as_str()),
        "{error}"
    );
    assert_eq!(error.context("index"), Some(index), "{error}");
    assert_eq!(
        (error.effect(), error.retry()),
        (Effect::None, Retry::Never),
        "{error}"
    );
}

/// Every type comes back as it was stored: extremes, empty text, Unicode, bytes, large numbers in JSON, and absent.
pub async fn every_type_comes_back(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let mut values: Vec<(&str, Value)> = vec![("flag", true.into()), ("flag", false.into())];
    values.extend([0, 1, -1, i64::MIN, i64::MAX, (1 << 53) + 1].map(|v: i64| ("n", v.into())));
    values.extend(
        [
            0.0,
            1.0,
            0.1,
            -1.5e-7,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            5e-324,
            9_007_199_254_740_993.0,
        ]
        .map(|v| ("x", v.into())),
    );
    let texts = [
        "",
        " ",
        "a ",
        "Ä",
        "ä",
        "日本語",
        "😀",
        "a'b\"c\\d%e_f",
        "line\nline\r\n\ttab",
        "\u{feff}x",
        "\u{1}",
    ];
    values.extend(texts.map(|v| ("t", v.into())));
    values.push(("t", "x".repeat(100_000).into()));
    values.push(("t", "日".repeat(MAX_VALUE_BYTES / 3).into()));
    // As long as an indexed text may be, in bytes of any width.
    for character in ["k", "é", "日", "😀"] {
        values.push(("code", character.repeat(MAX_KEY_CHARS).into()));
        values.push(("group_key", character.repeat(MAX_KEY_CHARS).into()));
    }
    values.extend([vec![], vec![0, 1, 255, 0], (0..=255).collect::<Vec<u8>>()].map(|v| ("b", v.into())));
    for micros in [
        0,
        1,
        -1,
        999_999,
        1_767_323_045_123_456,
        -62_135_596_800_000_000,
        253_402_300_799_999_999,
    ] {
        values.push(("at", Timestamp::from_micros(micros).into()));
    }
    values.extend([Uuid::nil(), Uuid::max(), fixtures::id()].map(|v| ("u", v.into())));
    for json in [
        json!({}),
        json!([]),
        json!({"min": i64::MIN, "max": i64::MAX, "more": u64::MAX, "odd": 9_007_199_254_740_993_i64}),
        json!({"a": [1, 2.5, "x", null, {"b": true}], "ünï": "日本", "": "empty key", "q'\"": "quote", "x": 0.1}),
        json!("text"),
        json!(12.5),
    ] {
        values.push(("j", json.into()));
    }
    for (field, value) in values {
        let record = sample("type").with(field, value.clone()).unwrap();
        let id = desk.add(record.clone()).await;
        let found = desk.one(id).await.expect("what was inserted is there");
        assert_eq!((found.id, found.version), (id, 1));
        let got = found.record.get(field).unwrap();
        let float_bits = |v: &Value| match v {
            Value::Float(float) => float.to_bits(),
            _ => 0,
        };
        assert!(
            got == &value && float_bits(got) == float_bits(&value),
            "a {value:?} of field {field} came back changed"
        );
        assert!(
            found.record == record,
            "every other field of the record with {field} is still absent"
        );
    }
    let mut full = sample("full");
    for (field, value) in [
        ("flag", Value::from(true)),
        ("n", 7_i64.into()),
        ("x", 7.5.into()),
        ("t", "seven".into()),
        ("b", vec![7].into()),
        ("at", Timestamp::from_micros(7).into()),
        ("u", Uuid::from_u128(7).into()),
        ("j", json!({"seven": 7}).into()),
    ] {
        full.set(field, value).unwrap();
    }
    let id = desk.add(full.clone()).await;
    assert!(
        desk.one(id).await.expect("there").record == full,
        "a record with every field"
    );
}

/// A record that does not fit its schema is refused before anything is written, naming the field.
pub async fn what_does_not_fit_is_refused(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let good = fixtures::id();
    let writes = [
        Write::insert(good, sample("good")),
        Write::insert(fixtures::id(), Record::new(&SAMPLE)),
    ];
    let error = desk.refused(&writes, "a required field is absent").await;
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("label")),
        "{error}"
    );
    assert!(
        desk.one(good).await.is_none(),
        "nothing of the unit of work was written"
    );
    assert!(
        sample("long")
            .with("code", "x".repeat(MAX_KEY_CHARS + 1))
            .is_err(),
        "no store has to index longer texts"
    );
}

/// A taken id or unique key fails the unit of work and names schema, write and index.
pub async fn conflicts_name_the_index(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let coded = |code: &str| sample("c").with("code", code).unwrap();
    let grouped = |key: &str, no: i64| {
        sample("g")
            .with("group_key", key)
            .unwrap()
            .with("group_no", no)
            .unwrap()
    };
    let first = desk.add(coded("A")).await;
    desk.add(grouped("g", 1)).await;
    let fresh = || Write::insert(fixtures::id(), sample("fresh"));
    let cases = [
        (Write::insert(first, sample("same id")), "id"),
        (Write::insert(fixtures::id(), coded("A")), "kit_sample_code"),
        (Write::insert(fixtures::id(), grouped("g", 1)), "kit_sample_group"),
        (Write::put(fixtures::id(), coded("A")), "kit_sample_code"),
    ];
    for (position, (write, index)) in cases.into_iter().enumerate() {
        let mut writes: Vec<Write> = (0..position).map(|_| fresh()).collect();
        writes.push(write);
        writes.push(fresh());
        conflict(&desk.refused(&writes, index).await, "kit_sample", position, index);
    }
    let error = desk
        .refused(
            &[
                Write::insert(fixtures::id(), coded("B")),
                Write::insert(fixtures::id(), coded("B")),
            ],
            "two of one unit",
        )
        .await;
    conflict(&error, "kit_sample", 1, "kit_sample_code");
    let other = desk.add(coded("C")).await;
    conflict(
        &desk
            .refused(&[Write::update(other, 1, coded("A"))], "update")
            .await,
        "kit_sample",
        0,
        "kit_sample_code",
    );
    desk.apply(&[
        Write::insert(fixtures::id(), grouped("g", 2)),
        Write::insert(fixtures::id(), coded("a")),
    ])
    .await;
    desk.apply(&[Write::update(first, 1, coded("A"))]).await; // its own key is no conflict
    assert_eq!(
        desk.count(&Filter::eq("label", "fresh")).await,
        0,
        "no part of a failed unit of work stays"
    );
}

/// An insert that may be skipped leaves out itself alone, for a taken id as for a taken unique key.
pub async fn skip_leaves_one_write_out(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let coded = |label: &str, code: &str| sample(label).with("code", code).unwrap();
    let first = desk.add(coded("first", "A")).await;
    let (b, c) = (fixtures::id(), fixtures::id());
    let outcomes = desk
        .apply(&[
            Write::insert_or_skip(b, coded("b", "B")),
            Write::insert_or_skip(fixtures::id(), coded("again", "A")),
            Write::insert_or_skip(first, coded("again", "Z")),
            Write::insert_or_skip(fixtures::id(), coded("again", "B")),
            Write::insert_or_skip(c, coded("c", "C")),
        ])
        .await;
    use Outcome::{Skipped, Written};
    assert_eq!(outcomes, [Written(1), Skipped, Skipped, Skipped, Written(1)]);
    assert_eq!(desk.count(&Filter::eq("label", "again")).await, 0);
    assert_eq!(
        desk.one(first).await.expect("there").record,
        coded("first", "A"),
        "what was there is untouched"
    );
    assert!(desk.one(b).await.is_some() && desk.one(c).await.is_some());
}

/// Records with an absent value in a unique index never collide.
pub async fn nulls_never_collide(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let keyed = || sample("null").with("group_key", "g").unwrap();
    let numbered = || sample("null").with("group_no", 1_i64).unwrap();
    desk.apply(&[
        Write::insert(fixtures::id(), keyed()),
        Write::insert(fixtures::id(), keyed()),
        Write::insert_or_skip(fixtures::id(), keyed()),
        Write::insert(fixtures::id(), numbered()),
        Write::insert(fixtures::id(), numbered()),
    ])
    .await;
    assert_eq!(desk.count(&Filter::eq("label", "null")).await, 5);
}

/// An update at another version, or of a record that is not there, is refused and writes nothing.
pub async fn stale_updates_are_refused(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let id = desk.add(sample("v1").with("n", 1_i64).unwrap()).await;
    assert_eq!(
        desk.apply(&[Write::update(id, 1, sample("v2"))]).await,
        [Outcome::Written(2)]
    );
    let found = desk.one(id).await.expect("there");
    assert_eq!(
        (found.version, &found.record),
        (2, &sample("v2")),
        "an update replaces every value"
    );
    let beside = fixtures::id();
    for expected in [0, 1, 3, i64::MAX - 1] {
        let writes = [
            Write::insert(beside, sample("beside")),
            Write::update(id, expected, sample("stale")),
        ];
        conflict(
            &desk.refused(&writes, "a stale version").await,
            "kit_sample",
            1,
            "version",
        );
    }
    conflict(
        &desk
            .refused(&[Write::update(fixtures::id(), 1, sample("ghost"))], "not there")
            .await,
        "kit_sample",
        0,
        "version",
    );
    assert_eq!(desk.one(id).await, Some(found));
    assert_eq!(desk.one(beside).await, None);
    let twice = [
        Write::update(id, 2, sample("v3")),
        Write::update(id, 3, sample("v4")),
    ];
    assert_eq!(
        desk.apply(&twice).await,
        [Outcome::Written(3), Outcome::Written(4)],
        "a unit of work sees its own writes"
    );
}

/// An update that says what it was based on ends as one that does not: alone, among many that change different fields, where
/// nothing differs, and where the version is another one.
pub async fn updates_tell_what_they_are_based_on(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let whole = |n: i64| {
        sample("v1")
            .with("n", n)
            .and_then(|r| r.with("t", format!("text {n}")))
            .and_then(|r| r.with("j", json!({"n": n, "x": [0.5, null, "y"]})))
            .and_then(|r| r.with("code", format!("code {n}")))
            .expect("fits")
    };
    let mut rows = Vec::new();
    for n in 0..70 {
        rows.push((desk.add(whole(n)).await, whole(n)));
    }
    let changed = |n: usize, record: &Record| {
        let record = record.clone();
        match n % 5 {
            0 => Ok(record),
            1 => record.with("n", -1_i64),
            2 => record.with("t", Value::Null),
            3 => record
                .with("flag", true)
                .and_then(|r| r.with("code", format!("new {n}"))),
            _ => record.with("j", json!({"n": n, "x": [0.5, null, "z"]})),
        }
        .expect("fits")
    };
    let wanted: Vec<Record> = rows
        .iter()
        .enumerate()
        .map(|(n, (_, record))| changed(n, record))
        .collect();
    let writes: Vec<Write> = rows
        .iter()
        .zip(&wanted)
        .map(|((id, before), record)| Write::update(*id, 1, record.clone()).based_on(before.clone()))
        .collect();
    assert_eq!(desk.apply(&writes).await, vec![Outcome::Written(2); 70]);
    for ((id, _), wanted) in rows.iter().zip(&wanted) {
        let found = desk.one(*id).await.expect("there");
        assert_eq!((found.version, &found.record), (2, wanted));
    }
    let ((id, _), Some(before)) = (&rows[0], wanted.first()) else {
        return;
    };
    let alone = before.clone().with("label", "alone").expect("fits");
    let write = Write::update(*id, 2, alone.clone()).based_on(before.clone());
    assert_eq!(
        desk.apply(std::slice::from_ref(&write)).await,
        [Outcome::Written(3)]
    );
    let found = desk.one(*id).await.expect("there");
    assert_eq!(found.record, alone);
    conflict(
        &desk.refused(&[write], "a stale version").await,
        "kit_sample",
        0,
        "version",
    );
}

/// When its last write fails, nothing of a unit of work is there: inserts, updates, puts and deletes.
pub async fn a_unit_of_work_is_whole(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let (kept, gone, fresh, put) = (
        desk.add(sample("kept")).await,
        desk.add(sample("gone")).await,
        fixtures::id(),
        fixtures::id(),
    );
    let error = desk
        .refused(
            &[
                Write::insert(fresh, sample("fresh")),
                Write::update(kept, 1, sample("changed")),
                Write::put(put, sample("put")),
                Write::delete(&SAMPLE, gone, None),
                Write::insert(kept, sample("taken")),
            ],
            "the last write fails",
        )
        .await;
    conflict(&error, "kit_sample", 4, "id");
    let found = desk
        .store
        .get(&desk.ctx, &SAMPLE, &[kept, gone, fresh, put])
        .await
        .expect("get");
    let labels: Vec<Option<&str>> = found
        .iter()
        .map(|s| s.as_ref().map(|s| s.record.text("label").unwrap()))
        .collect();
    assert_eq!(labels, [Some("kept"), Some("gone"), None, None]);
    assert_eq!(found[0].as_ref().map(|s| s.version), Some(1));
    assert_eq!(
        desk.store
            .apply(&desk.ctx, &[])
            .await
            .expect("an empty unit of work is fine"),
        []
    );
}

/// A unit of work of thousands of writes is one too, and a conflict deep inside names its write.
pub async fn a_large_unit_of_work(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let coded = |i: usize| sample("bulk").with("code", format!("bulk-{i}")).unwrap();
    let batch = |from: usize| (from..from + 4000).map(move |i| (fixtures::id(), coded(i)));
    let mut writes: Vec<Write> = batch(0).map(|(id, record)| Write::insert(id, record)).collect();
    writes[3777] = Write::insert(fixtures::id(), coded(5));
    conflict(
        &desk.refused(&writes, "a repeated key").await,
        "kit_sample",
        3777,
        "kit_sample_code",
    );
    assert_eq!(desk.count(&Filter::All).await, 0);
    writes[3777] = Write::insert(fixtures::id(), coded(3777));
    assert_eq!(desk.apply(&writes).await, vec![Outcome::Written(1); 4000]);
    let overlap: Vec<Write> = batch(3000)
        .map(|(id, record)| Write::insert_or_skip(id, record))
        .collect();
    let outcomes = desk.apply(&overlap).await;
    for (i, outcome) in outcomes.iter().enumerate() {
        let expected = if i < 1000 {
            Outcome::Skipped
        } else {
            Outcome::Written(1)
        };
        assert_eq!(*outcome, expected, "write {i} of a large unit of work");
    }
    assert_eq!(desk.count(&Filter::All).await, 7000);
}

/// A blind write adds the record, or replaces it whole and counts on.
pub async fn put_adds_or_replaces(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let id = fixtures::id();
    assert_eq!(
        desk.apply(&[Write::put(id, sample("one").with("n", 1_i64).unwrap())])
            .await,
        [Outcome::Written(1)]
    );
    let again = [Write::put(id, sample("two")), Write::put(id, sample("three"))];
    assert_eq!(
        desk.apply(&again).await,
        [Outcome::Written(2), Outcome::Written(3)]
    );
    let found = desk.one(id).await.expect("there");
    assert_eq!((found.version, found.record), (3, sample("three")));
}

/// A delete removes; one at another version, or of what is gone, is refused. A key is free again afterwards.
pub async fn deletes_are_fenced(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let coded = || sample("d").with("code", "A").unwrap();
    let id = desk.add(coded()).await;
    conflict(
        &desk
            .refused(&[Write::delete(&SAMPLE, id, Some(2))], "another version")
            .await,
        "kit_sample",
        0,
        "version",
    );
    assert!(desk.one(id).await.is_some());
    assert_eq!(
        desk.apply(&[Write::delete(&SAMPLE, id, Some(1))]).await,
        [Outcome::Deleted]
    );
    assert_eq!(desk.one(id).await, None);
    for expected in [None, Some(1)] {
        conflict(
            &desk
                .refused(&[Write::delete(&SAMPLE, id, expected)], "it is gone")
                .await,
            "kit_sample",
            0,
            "version",
        );
    }
    assert_eq!(
        desk.apply(&[Write::insert(id, coded())]).await,
        [Outcome::Written(1)],
        "the id and the key are free"
    );
    let moved = fixtures::id();
    let swap = [Write::delete(&SAMPLE, id, None), Write::insert(moved, coded())];
    assert_eq!(
        desk.apply(&swap).await,
        [Outcome::Deleted, Outcome::Written(1)],
        "writes are carried out in order"
    );
}

/// Records come in the order asked, with a gap for each that is not there, also when one is asked for twice.
pub async fn get_answers_in_order(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let (a, b) = (desk.add(sample("a")).await, desk.add(sample("b")).await);
    let asked = [b, fixtures::id(), a, b];
    let found = desk.store.get(&desk.ctx, &SAMPLE, &asked).await.expect("get");
    let ids: Vec<Option<Uuid>> = found.iter().map(|s| s.as_ref().map(|s| s.id)).collect();
    assert_eq!(ids, [Some(b), None, Some(a), Some(b)]);
    assert!(
        desk.store
            .get(&desk.ctx, &SAMPLE, &[])
            .await
            .expect("get")
            .is_empty()
    );
    let many: Vec<Uuid> = (0..2500).map(|_| fixtures::id()).chain([a]).collect();
    let found = desk
        .store
        .get(&desk.ctx, &SAMPLE, &many)
        .await
        .expect("get of many");
    assert_eq!((found.len(), found.iter().flatten().count()), (2501, 1));
}
