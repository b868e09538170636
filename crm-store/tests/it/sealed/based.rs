//! Updates that say what they were based on: what did not change is not written, and what is written opens.

use std::sync::Arc;

use crm_core::capability::RecordStore as _;
use crm_core::record::{Record, Stored, Value, Write};
use crm_core::testkit::fixtures;
use crm_core::{Context, Uuid};
use crm_store::sealed::SealedStore;
use crm_store::{SqliteConfig, SqliteStore};

use super::{GUEST, STAY, guest, guests, sealed_with};

async fn on_file(folder: &tempfile::TempDir) -> SealedStore {
    let file = SqliteStore::open_file(folder.path().join("crm.db"), SqliteConfig::default())
        .await
        .unwrap();
    let store = sealed_with(Arc::new(file), guests());
    store.migrate(&[&GUEST, &STAY]).await.unwrap();
    store
}

async fn behind(store: &SealedStore, ctx: &Context, id: Uuid) -> Stored {
    let physical = store.stored_as(&GUEST).unwrap();
    let found = store.inner().get(ctx, physical, &[id]).await.unwrap();
    found.into_iter().next().flatten().unwrap()
}

#[tokio::test]
async fn what_did_not_change_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = on_file(&folder).await;
    let (ctx, id) = (fixtures::context(), fixtures::id());
    let first = guest("ana@example.org", "Ana").with("age", 30_i64).unwrap();
    store
        .apply(&ctx, &[Write::insert(id, first.clone())])
        .await
        .unwrap();
    let before = behind(&store, &ctx, id).await.record;
    let second = first
        .clone()
        .with("name", "Ana Maria")
        .and_then(|record| record.with("age", Value::Null))
        .and_then(|record| record.with("notes", serde_json::json!({"a": 1})))
        .and_then(|record| record.with("room", 7_i64))
        .unwrap();
    let write = Write::update(id, 1, second.clone()).based_on(first);
    store.apply(&ctx, &[write]).await.unwrap();
    let after = behind(&store, &ctx, id).await.record;
    for field in ["email", "email_bidx"] {
        assert!(before.get(field) == after.get(field), "{field} is left alone");
    }
    for field in ["name", "age", "notes", "room"] {
        assert!(before.get(field) != after.get(field), "{field} is written");
    }
    let read = store.get(&ctx, &GUEST, &[id]).await.unwrap().remove(0).unwrap();
    assert!(read.record == second && read.version == 2);

    // An address that changes takes its blind index along, and one that goes does, too.
    let third = second.clone().with("email", "ana@example.com").unwrap();
    let fourth = third.clone().with("email", Value::Null).unwrap();
    for (version, old, new) in [(2, second, third.clone()), (3, third, fourth.clone())] {
        let write = Write::update(id, version, new.clone()).based_on(old);
        store.apply(&ctx, &[write]).await.unwrap();
        let read = store.get(&ctx, &GUEST, &[id]).await.unwrap().remove(0).unwrap();
        assert!(read.record == new);
        let blind = behind(&store, &ctx, id).await.record.get("email_bidx").cloned();
        assert_ne!(blind, before.get("email_bidx").cloned());
    }

    // The control: without it, everything is encrypted anew.
    let before = behind(&store, &ctx, id).await.record;
    store.apply(&ctx, &[Write::update(id, 4, fourth)]).await.unwrap();
    let after = behind(&store, &ctx, id).await.record;
    assert!(before.get("name") != after.get("name"));
}

/// A record that goes to somebody else is encrypted with their key, all of it.
#[tokio::test]
async fn a_record_that_changes_hands_goes_with_its_new_owner() {
    let folder = tempfile::tempdir().unwrap();
    let store = on_file(&folder).await;
    let (ctx, id) = (fixtures::context(), fixtures::id());
    let [ana, bo] = [fixtures::id(), fixtures::id()];
    let stay = |of: Uuid| {
        Record::new(&STAY)
            .with("customer_id", of)
            .and_then(|record| record.with("wish", "quiet"))
            .unwrap()
    };
    store.apply(&ctx, &[Write::insert(id, stay(ana))]).await.unwrap();
    let write = Write::update(id, 1, stay(bo)).based_on(stay(ana));
    store.apply(&ctx, &[write]).await.unwrap();
    let read = async || store.get(&ctx, &STAY, &[id]).await.unwrap().remove(0);
    assert!(read().await.unwrap().record == stay(bo));
    assert_eq!(store.erase(&ctx, ana).await.unwrap().rows, 0);
    assert!(read().await.is_some(), "it was Ana's once");
    store.erase(&ctx, bo).await.unwrap();
    assert!(read().await.is_none());
}
