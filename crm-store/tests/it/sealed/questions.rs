//! What a sealed store answers where others need no answer: questions of which much must be decrypted, and settings that
//! do not fit what is stored.

use std::sync::Arc;

use crm_core::capability::RecordStore;
use crm_core::memory::MemoryStore;
use crm_core::query::{Aggregate, Filter, Measure, Query, Scan};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Value, Write};
use crm_core::testkit::fixtures;
use crm_core::{Context, ErrorKind, TenantId, Uuid};
use crm_store::sealed::SealConfig;

use super::{GUEST, STAY, fields, guest, guests, hotel, sealed_with};

#[tokio::test]
async fn questions_about_encrypted_fields_are_bounded() {
    let plain: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("plain"));
    let config = SealConfig {
        max_opened: 50,
        ..guests()
    };
    let store = sealed_with(plain, config);
    store.migrate(&[&GUEST, &STAY]).await.unwrap();
    let ctx = fixtures::context();
    for n in 0..60_i64 {
        let record = guest(&format!("g{n:02}@example.org"), &format!("Name {n:02}"))
            .with("room", n)
            .unwrap();
        store
            .apply(
                &ctx,
                &[Write::insert(fixtures::id(), record.with("age", n).unwrap())],
            )
            .await
            .unwrap();
    }
    let too_many = |error: crm_core::Error| {
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Invalid, Some("max_opened")),
            "{error}"
        );
    };
    let late = Filter::contains("name", "59");
    too_many(store.count(&ctx, &GUEST, &late).await.unwrap_err());
    too_many(
        store
            .find(&ctx, &GUEST, &Query::new(late.clone()))
            .await
            .unwrap_err(),
    );
    too_many(
        store
            .find(&ctx, &GUEST, &Query::new(Filter::All).ascending("name"))
            .await
            .unwrap_err(),
    );
    let sum = || Aggregate::new(Filter::All).measure("sum", Measure::Sum("age".into()));
    too_many(store.aggregate(&ctx, &GUEST, &sum()).await.unwrap_err());
    // With a condition that the database answers it works, and what is only read goes on for ever.
    let narrow = Filter::ge("room", 20_i64);
    assert_eq!(
        store
            .count(&ctx, &GUEST, &late.clone().and(narrow.clone()))
            .await
            .unwrap(),
        1
    );
    let sorted = Query::new(narrow).descending("name").limit(3);
    let page = store.find(&ctx, &GUEST, &sorted).await.unwrap();
    let names: Vec<&str> = page
        .items
        .iter()
        .map(|stored| stored.record.text("name").unwrap())
        .collect();
    assert_eq!(names, ["Name 59", "Name 58", "Name 57"]);
    let cursor = page.next.unwrap();
    let text = cursor.to_string();
    let json = String::from_utf8_lossy(&base64_of(&text)).into_owned();
    assert!(!json.contains("Name"), "a cursor does not say what it stands at");
    let next = store
        .find(&ctx, &GUEST, &sorted.clone().after(Some(text.parse().unwrap())))
        .await
        .unwrap();
    assert_eq!(next.items[0].record.text("name").unwrap(), "Name 56");
    let mut foreign = cursor.clone();
    foreign.id = Uuid::nil();
    let refused = store
        .find(&ctx, &GUEST, &sorted.clone().after(Some(foreign)))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.kind(), refused.context("field")),
        (ErrorKind::Invalid, Some("after"))
    );
    let mut rows = 0;
    let scan = Scan::new(Filter::All, ["name", "age"]);
    store
        .scan(&ctx, &GUEST, &scan, &mut |chunk| {
            rows += chunk.rows();
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(rows, 60);
}

fn base64_of(text: &str) -> Vec<u8> {
    // A cursor's text is base64 without padding; decoding it by hand keeps the test apart from the code.
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'-' => 62,
        _ => 63,
    };
    let bits: Vec<u8> = text
        .bytes()
        .flat_map(|c| (0..6).rev().map(move |bit| digit(c) >> bit & 1))
        .collect();
    bits.chunks_exact(8)
        .map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | bit))
        .collect()
}

#[tokio::test]
async fn settings_that_do_not_fit_the_schemas_are_named() {
    static JSON_KEY: Schema = Schema {
        name: "seal_json",
        fields: &[Field::new("j", FieldType::Json).personal()],
        indexes: &[Index::new("seal_json_j", &["j"])],
    };
    let with = |config: SealConfig| sealed_with(Arc::new(MemoryStore::new("plain")), config);
    let one = |field: &'static str| fields(&[("seal_guest", &[field])]);
    for (config, setting) in [
        (
            SealConfig {
                also: one("nope"),
                ..guests()
            },
            "also",
        ),
        (
            SealConfig {
                open: one("nope"),
                ..guests()
            },
            "open",
        ),
        (
            SealConfig {
                searchable: one("room"),
                ..guests()
            },
            "searchable",
        ),
        (
            SealConfig {
                searchable: one("notes"),
                ..guests()
            },
            "searchable",
        ),
        (
            SealConfig {
                also: one("name"),
                open: one("name"),
                ..guests()
            },
            "open",
        ),
    ] {
        let error = with(config).migrate(&[&GUEST]).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("setting")),
            (ErrorKind::Config, Some(setting)),
            "{error}"
        );
    }
    assert!(with(SealConfig::default()).migrate(&[&JSON_KEY]).await.is_err());
    for config in [
        SealConfig {
            max_opened: 0,
            ..guests()
        },
        SealConfig {
            kept_keys: 0,
            ..guests()
        },
        SealConfig {
            recheck_seconds: 2,
            keep_seconds: 1,
            ..guests()
        },
        SealConfig {
            name: String::new(),
            ..guests()
        },
    ] {
        assert_eq!(config.validate().unwrap_err().kind(), ErrorKind::Config);
    }
}

/// What was stored in clear is not taken for encrypted, nor the other way round.
#[tokio::test]
async fn a_field_cannot_change_between_clear_and_encrypted() {
    let (plain, store) = hotel().await;
    let ctx = fixtures::context();
    store
        .apply(
            &ctx,
            &[Write::insert(fixtures::id(), guest("a@example.org", "Ana"))],
        )
        .await
        .unwrap();
    let opened = |config| sealed_with(plain.clone(), config);
    for (config, field) in [
        (
            SealConfig {
                open: fields(&[("seal_guest", &["name"])]),
                ..guests()
            },
            "name",
        ),
        (
            SealConfig {
                also: fields(&[("seal_guest", &["room"])]),
                ..guests()
            },
            "room",
        ),
        (
            SealConfig {
                searchable: fields(&[("seal_guest", &["name"])]),
                ..guests()
            },
            "name",
        ),
    ] {
        let error = opened(config).migrate(&[&GUEST]).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Config, Some(field)),
            "{error}"
        );
    }
    assert!(
        plain.migrate(&[&GUEST]).await.is_err(),
        "the plain store does not take encrypted columns for its own"
    );
    assert!(opened(guests()).migrate(&[&GUEST]).await.is_ok(), "the control");
    let tenant = Context::new(TenantId::new("nobody").unwrap());
    assert_eq!(
        store
            .count(&tenant, &GUEST, &Filter::eq("email", "a@example.org"))
            .await
            .unwrap(),
        0
    );
    assert!(store.get(&ctx, &GUEST, &[Uuid::nil()]).await.unwrap()[0].is_none());
    let null = Record::new(&GUEST);
    store.apply(&ctx, &[Write::put(Uuid::nil(), null)]).await.unwrap();
    let read = store
        .get(&ctx, &GUEST, &[Uuid::nil()])
        .await
        .unwrap()
        .remove(0)
        .unwrap();
    assert!(read.record.values().iter().all(Value::is_null));
}
