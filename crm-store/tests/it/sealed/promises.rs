//! ENC-2, ENC-6, ENC-7, ENC-9 and ENC-10, on whole stores.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::memory::MemoryStore;
use crm_core::query::{Filter, Query};
use crm_core::record::{Field, FieldType, Index, Record, Schema, Stored, Write};
use crm_core::testkit::fixtures;
use crm_core::{Context, ErrorKind, Health, ManualClock, Provider as _, Secret, SystemClock, Timestamp};
use crm_store::sealed::{KeyRing, SealConfig, SealedStore};

use super::{GUEST, Plugged, STAY, guest, guests, hotel, opened_with, ring, sealed_with};

/// The rows as the store behind has them.
async fn behind(store: &SealedStore, ctx: &Context, schema: &'static Schema) -> Vec<Stored> {
    let physical = store.stored_as(schema).unwrap();
    let all = Query::new(Filter::All).limit(10_000);
    store.inner().find(ctx, physical, &all).await.unwrap().items
}

/// ENC-2: any two ciphertexts changed for each other, across rows, fields and tenants.
#[tokio::test]
async fn enc_2_ciphertexts_open_nowhere_else() {
    let (_, store) = hotel().await;
    let (ctx, other) = (fixtures::context(), fixtures::context());
    let both = |ctx: &Context| ctx.clone();
    let ids = [fixtures::id(), fixtures::id()];
    let full = |n: usize| {
        guest(&format!("g{n}@example.org"), "Ana")
            .with("notes", serde_json::json!({"n": n}))
            .unwrap()
    };
    for ctx in [both(&ctx), both(&other)] {
        let writes = [Write::insert(ids[0], full(0)), Write::insert(ids[1], full(1))];
        store.apply(&ctx, &writes).await.unwrap();
    }
    let physical = store.stored_as(&GUEST).unwrap();
    let envelope = |stored: &Stored, field: &str| stored.record.get(field).unwrap().clone();
    let (mut swaps, sealed_fields) = (0, ["email", "name", "notes"]);
    for (to_ctx, from_ctx) in [(&ctx, &ctx), (&ctx, &other), (&other, &ctx)] {
        let to_rows = behind(&store, to_ctx, &GUEST).await;
        let from_rows = behind(&store, from_ctx, &GUEST).await;
        for to in &to_rows {
            for from in &from_rows {
                for to_field in sealed_fields {
                    for from_field in sealed_fields {
                        if (to_ctx.tenant(), to.id, to_field) == (from_ctx.tenant(), from.id, from_field) {
                            continue;
                        }
                        let now = store
                            .inner()
                            .get(to_ctx, physical, &[to.id])
                            .await
                            .unwrap()
                            .remove(0)
                            .unwrap();
                        let swapped = to
                            .record
                            .clone()
                            .with(to_field, envelope(from, from_field))
                            .unwrap();
                        let write = Write::update(to.id, now.version, swapped);
                        store.inner().apply(to_ctx, &[write]).await.unwrap();
                        let read = store.get(to_ctx, &GUEST, &[to.id]).await;
                        assert_eq!(
                            read.unwrap_err().kind(),
                            ErrorKind::Corrupt,
                            "{from_field} to {to_field}"
                        );
                        // The control: put back, it opens.
                        let write = Write::update(to.id, now.version + 1, to.record.clone());
                        store.inner().apply(to_ctx, &[write]).await.unwrap();
                        assert!(store.get(to_ctx, &GUEST, &[to.id]).await.unwrap()[0].is_some());
                        swaps += 1;
                    }
                }
            }
        }
    }
    assert_eq!(
        swaps,
        3 * 4 * 9 - 6,
        "every pair but the six that are the same place"
    );
    // A whole row carried to another tenant, where the person has a key too.
    let row = behind(&store, &ctx, &GUEST).await.remove(0);
    let (stranger, id) = (fixtures::context(), row.id);
    store
        .apply(&stranger, &[Write::insert(id, full(0))])
        .await
        .unwrap();
    store
        .inner()
        .apply(&stranger, &[Write::put(id, row.record)])
        .await
        .unwrap();
    assert_eq!(
        store.get(&stranger, &GUEST, &[id]).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

/// ENC-6: 64 writers at once, one address: one of them gets it, and it is found by equality.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn enc_6_an_encrypted_address_is_unique_and_found() {
    for opened in crate::stores::stores().await {
        let name = opened.name;
        let store = Arc::new(sealed_with(opened.store.clone(), guests()));
        store.migrate(&[&GUEST, &STAY]).await.unwrap();
        let ctx = fixtures::context();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..64 {
            let (store, ctx) = (store.clone(), ctx.clone());
            writers.spawn(async move {
                let record = guest("ana@example.com", &format!("Ana {writer}"));
                store.apply(&ctx, &[Write::insert(fixtures::id(), record)]).await
            });
        }
        let mut wrote = 0;
        while let Some(done) = writers.join_next().await {
            match done.unwrap() {
                Ok(_) => wrote += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Conflict, "{name}: {error}");
                    assert_eq!(
                        error.context("index"),
                        Some("seal_guest_email"),
                        "{name}: {error}"
                    );
                }
            }
        }
        assert_eq!(wrote, 1, "{name}");
        let found = async |filter| {
            store
                .find(&ctx, &GUEST, &Query::new(filter))
                .await
                .unwrap()
                .items
                .len()
        };
        assert_eq!(found(Filter::eq("email", "ana@example.com")).await, 1, "{name}");
        assert_eq!(
            found(Filter::one_of("email", ["x@example.com", "ana@example.com"])).await,
            1,
            "{name}"
        );
        assert_eq!(
            found(Filter::eq("email", "ANA@example.com")).await,
            0,
            "{name}: stores compare byte by byte"
        );
        assert_eq!(found(Filter::ne("email", "x@example.com")).await, 1, "{name}");
        assert_eq!(
            store
                .count(&ctx, &GUEST, &Filter::eq("email", "ana@example.com"))
                .await
                .unwrap(),
            1
        );
        // Nobody's address is nobody's: absent ones never collide.
        let nobody = || Write::insert(fixtures::id(), Record::new(&GUEST));
        store.apply(&ctx, &[nobody(), nobody()]).await.unwrap();
    }
}

/// ENC-7: equal values show within a tenant and a field, and nowhere else.
#[tokio::test]
async fn enc_7_blind_indexes_are_equal_only_within_tenant_and_field() {
    static TWO: Schema = Schema {
        name: "seal_two",
        fields: &[
            Field::new("a", FieldType::Text).personal(),
            Field::new("b", FieldType::Text).personal(),
        ],
        indexes: &[Index::new("seal_two_a", &["a"]), Index::new("seal_two_b", &["b"])],
    };
    let store = sealed_with(Arc::new(MemoryStore::new("plain")), SealConfig::default());
    store.migrate(&[&TWO]).await.unwrap();
    let (ctx, other) = (fixtures::context(), fixtures::context());
    let record = || {
        Record::new(&TWO)
            .with("a", "same")
            .unwrap()
            .with("b", "same")
            .unwrap()
    };
    for (ctx, n) in [(&ctx, 2), (&other, 1)] {
        for _ in 0..n {
            store
                .apply(ctx, &[Write::insert(fixtures::id(), record())])
                .await
                .unwrap();
        }
    }
    let blind = |stored: &Stored, field: &str| {
        let column = if field == "a" { "a_bidx" } else { "b_bidx" };
        stored.record.uuid(column).unwrap()
    };
    let rows = behind(&store, &ctx, &TWO).await;
    assert_eq!(
        blind(&rows[0], "a"),
        blind(&rows[1], "a"),
        "that is what is leaked"
    );
    assert_ne!(blind(&rows[0], "a"), blind(&rows[0], "b"), "another field");
    let theirs = behind(&store, &other, &TWO).await;
    assert_ne!(blind(&rows[0], "a"), blind(&theirs[0], "a"), "another tenant");
    assert!(
        rows[0].record.get("a") != rows[1].record.get("a"),
        "ciphertexts never show equality"
    );
}

/// ENC-9: nothing that holds a key prints it.
#[tokio::test]
async fn enc_9_keys_are_not_printed() {
    let digits = "5e".repeat(32);
    let ring = KeyRing::new("ring", [("k1", Secret::new(digits.clone()))]).unwrap();
    let printed = format!("{ring:?}");
    assert!(
        printed.contains("REDACTED") && !printed.contains("5e5e"),
        "{printed}"
    );
    let store = SealedStore::new(
        Arc::new(MemoryStore::new("plain")),
        Arc::new(ring),
        SystemClock::shared(),
        guests(),
    )
    .unwrap();
    store.migrate(&[&GUEST]).await.unwrap();
    let ctx = fixtures::context();
    store
        .apply(
            &ctx,
            &[Write::insert(fixtures::id(), guest("a@example.org", "Ana"))],
        )
        .await
        .unwrap();
    let printed = format!("{store:?}");
    assert!(
        printed.contains("REDACTED") && !printed.contains("5e5e"),
        "{printed}"
    );
    let error = KeyRing::new("ring", [("k1", Secret::new("5e5e5e5e"))]).unwrap_err();
    assert!(!format!("{error:?}").contains("5e5e"), "{error:?}");
}

#[test]
fn a_ring_is_read_from_a_file_only_its_owner_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let key = "7f".repeat(32);
    std::fs::write(
        &path,
        format!(r#"{{ "keys": [ {{ "id": "2026", "key": "{key}" }} ] }}"#),
    )
    .unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        for mode in [0o640, 0o604, 0o644, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = KeyRing::open("ring", &path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{mode:o}");
            assert!(error.to_string().contains("0600"), "{error}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert!(KeyRing::open("ring", &path).is_ok());
    for wrong in [
        "",
        "{}",
        r#"{ "keys": [] }"#,
        r#"{ "keys": [ { "id": "a", "key": "7f7f" } ] }"#,
        r#"{ "keys": [ { "id": "a b", "key": "" } ] }"#,
        r#"{ "keys": [ { "id": "a", "key": "7f7f", "more": 1 } ] }"#,
    ] {
        std::fs::write(&path, wrong).unwrap();
        let error = KeyRing::open("ring", &path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{wrong}");
        assert!(!format!("{error:?}").contains("7f7f"), "{error:?}");
    }
    let missing = KeyRing::from_environment("ring", "OPEN_CRM_TEST_NO_SUCH_KEYS").unwrap_err();
    assert_eq!(missing.context("variable"), Some("OPEN_CRM_TEST_NO_SUCH_KEYS"));
}

/// ENC-10: while the keys' provider is down, known people are read for the configured time, new ones are refused, and
/// nothing is written in clear.
#[tokio::test]
async fn enc_10_an_outage_of_the_keys() {
    let plain: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("plain"));
    let clock = Arc::new(ManualClock::at(Timestamp::from_ymd(2026, 11, 23).unwrap()));
    let plugged = Plugged::new(ring(&["2026"]));
    let store = opened_with(plain.clone(), plugged.clone(), clock.clone());
    store.migrate(&[&GUEST, &STAY]).await.unwrap();
    let ctx = fixtures::context();
    let ana = fixtures::id();
    store
        .apply(&ctx, &[Write::insert(ana, guest("ana@example.org", "Ana"))])
        .await
        .unwrap();
    assert_eq!(store.check().await.unwrap(), Health::Ready);

    plugged.down.store(true, Ordering::Relaxed);
    assert_eq!(store.check().await.unwrap(), Health::Degraded);
    for minutes in [0, 10, 40] {
        clock.advance(Duration::from_secs(minutes * 60));
        let read = store.get(&ctx, &GUEST, &[ana]).await.unwrap();
        assert_eq!(read[0].as_ref().unwrap().record.text("name").unwrap(), "Ana");
    }
    let known = guest("ana@example.org", "Ana Maria");
    store
        .apply(&ctx, &[Write::update(ana, 1, known)])
        .await
        .expect("a known person can still be written");
    let refused = store
        .apply(
            &ctx,
            &[Write::insert(fixtures::id(), guest("bo@example.org", "Bo"))],
        )
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    let physical = store.stored_as(&GUEST).unwrap();
    assert_eq!(
        plain.count(&ctx, physical, &Filter::All).await.unwrap(),
        1,
        "nothing of Bo was written"
    );

    clock.advance(Duration::from_secs(11 * 60));
    let late = store.get(&ctx, &GUEST, &[ana]).await.unwrap_err();
    assert_eq!(
        late.kind(),
        ErrorKind::Unavailable,
        "after the configured hour: {late}"
    );
    let strange = opened_with(plain, plugged.clone(), clock);
    strange.migrate(&[&GUEST, &STAY]).await.unwrap();
    assert!(
        strange.get(&ctx, &GUEST, &[ana]).await.is_err(),
        "the control: without the cache nobody reads"
    );

    plugged.down.store(false, Ordering::Relaxed);
    let read = store.get(&ctx, &GUEST, &[ana]).await.unwrap();
    assert_eq!(
        read[0].as_ref().unwrap().record.text("name").unwrap(),
        "Ana Maria"
    );
    store
        .apply(
            &ctx,
            &[Write::insert(fixtures::id(), guest("bo@example.org", "Bo"))],
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn a_ring_without_the_key_or_of_another_key_says_so() {
    let (plain, store) = hotel().await;
    let ctx = fixtures::context();
    let ana = fixtures::id();
    store
        .apply(&ctx, &[Write::insert(ana, guest("ana@example.org", "Ana"))])
        .await
        .unwrap();
    let with = |ring: KeyRing| opened_with(plain.clone(), Arc::new(ring), SystemClock::shared());
    let error = with(ring(&["2027"])).get(&ctx, &GUEST, &[ana]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("key_id")),
        (ErrorKind::Config, Some("2026")),
        "{error}"
    );
    let other = KeyRing::new("ring", [("2026", Secret::new("1".repeat(64)))]).unwrap();
    let error = with(other).get(&ctx, &GUEST, &[ana]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("key_id")),
        (ErrorKind::Corrupt, Some("2026")),
        "{error}"
    );
    // The control.
    assert!(with(ring(&["2026"])).get(&ctx, &GUEST, &[ana]).await.unwrap()[0].is_some());
}
