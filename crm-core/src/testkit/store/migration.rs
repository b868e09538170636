use std::sync::Arc;

use super::{Desk, SAMPLE, sample};
use crate::capability::RecordStore;
use crate::query::Filter;
use crate::record::{Field, FieldType, Index, Record, Schema, Value, Write};
use crate::testkit::fixtures;
use crate::{Error, ErrorKind};

static BEFORE: Schema = Schema {
    name: "kit_growing",
    fields: &[
        Field::new("title", FieldType::Text),
        Field::new("amount", FieldType::Int),
    ],
    indexes: &[],
};
static AFTER: Schema = Schema {
    name: "kit_growing",
    fields: &[
        Field::new("title", FieldType::Text),
        Field::new("amount", FieldType::Int),
        Field::new("remark", FieldType::Text).nullable(),
    ],
    indexes: &[Index::unique("kit_growing_title", &["title"])],
};
static CHANGED: Schema = Schema {
    name: "kit_growing",
    fields: &[
        Field::new("title", FieldType::Text),
        Field::new("amount", FieldType::Text),
    ],
    indexes: &[],
};
static DEMANDING: Schema = Schema {
    name: "kit_growing",
    fields: &[
        Field::new("title", FieldType::Text),
        Field::new("amount", FieldType::Int),
        Field::new("must", FieldType::Int),
    ],
    indexes: &[],
};
static BROKEN: Schema = Schema {
    name: "kit_broken",
    fields: &[Field::new("a", FieldType::Text)],
    indexes: &[Index::new("kit_broken_b", &["b"])],
};

/// Migrating again, and by eight callers at once, changes nothing and loses nothing.
pub async fn migration_is_repeatable(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store.clone()).await;
    let id = desk.add(sample("kept")).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        callers.spawn(async move { store.migrate(&[&SAMPLE]).await });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap().expect("migrating at once and again is safe");
    }
    assert_eq!(desk.one(id).await.expect("still there").record, sample("kept"));
}

/// A new nullable field and a new index are added; what was there reads as absent, and the index holds.
pub async fn migration_adds_what_is_new(store: Arc<dyn RecordStore>) {
    let ctx = fixtures::context();
    store.migrate(&[&BEFORE]).await.expect("migrate");
    let old = fixtures::id();
    let record = |schema, title: &str| {
        Record::new(schema)
            .with("title", title)
            .unwrap()
            .with("amount", 5_i64)
            .unwrap()
    };
    store
        .apply(&ctx, &[Write::insert(old, record(&BEFORE, "one"))])
        .await
        .expect("insert");
    store
        .migrate(&[&AFTER])
        .await
        .expect("a nullable field and an index can be added");
    let found = store
        .get(&ctx, &AFTER, &[old])
        .await
        .expect("get")
        .remove(0)
        .expect("still there");
    assert_eq!(found.record.get("amount"), Some(&Value::Int(5)));
    assert_eq!(found.record.get("remark"), Some(&Value::Null));
    assert_eq!(
        store
            .count(&ctx, &AFTER, &Filter::null("remark"))
            .await
            .expect("count"),
        1
    );
    let again = store
        .apply(&ctx, &[Write::insert(fixtures::id(), record(&AFTER, "one"))])
        .await;
    let error = again.expect_err("the new unique index holds for what was there before");
    assert_eq!(error.context("index"), Some("kit_growing_title"));
}

/// A changed type, a new required field and a schema that is wrong in itself are refused, naming what differs.
pub async fn migration_refuses_a_changed_field(store: Arc<dyn RecordStore>) {
    store.migrate(&[&BEFORE]).await.expect("migrate");
    let named = |error: Error, name: &str| {
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(
            error.to_string().contains(name),
            "the error names {name}: {error}"
        );
    };
    named(
        store
            .migrate(&[&CHANGED])
            .await
            .expect_err("a changed type is refused"),
        "amount",
    );
    named(
        store
            .migrate(&[&DEMANDING])
            .await
            .expect_err("a new required field is refused"),
        "must",
    );
    named(
        store
            .migrate(&[&BROKEN])
            .await
            .expect_err("an index over a missing field is refused"),
        "kit_broken_b",
    );
    store
        .migrate(&[&BEFORE])
        .await
        .expect("nothing was changed by what was refused");
}
