//! ERA-1 and ERA-4: a person's key is destroyed, and with it the person, wherever copies lie.

use std::sync::Arc;

use crm_core::capability::RecordStore;
use crm_core::memory::MemoryStore;
use crm_core::query::{Aggregate, Claim, Filter, Measure, Query, Scan};
use crm_core::record::{Record, Schema, Stored, Value, Write};
use crm_core::testkit::fixtures;
use crm_core::{Context, ErrorKind, ManualClock, RandomIds, SystemClock, Uuid};
use crm_store::customers::{Customers, MERGE_IMAGE, MergeRules};
use crm_store::sealed::{SUBJECT_KEY, SealConfig, SealedStore};
use crm_store::{SqliteConfig, SqliteStore};

use super::{GUEST, STAY, guest, guests, hotel, ring, sealed_with};
use crate::customers::keys;

fn stay(of: Uuid, wish: &str) -> Record {
    Record::new(&STAY)
        .with("customer_id", of)
        .and_then(|record| record.with("wish", wish))
        .and_then(|record| record.with("nights", 2_i64))
        .unwrap()
}

/// Two guests with two stays each.
async fn two(store: &SealedStore, ctx: &Context) -> [Uuid; 2] {
    let ids = [fixtures::id(), fixtures::id()];
    for (n, id) in ids.into_iter().enumerate() {
        let writes = [
            Write::insert(id, guest(&format!("g{n}@example.org"), &format!("Name {n}"))),
            Write::insert(fixtures::id(), stay(id, "quiet")),
            Write::insert(fixtures::id(), stay(id, "high up")),
        ];
        store.apply(ctx, &writes).await.unwrap();
    }
    ids
}

async fn rows(inner: &dyn RecordStore, ctx: &Context, schema: &'static Schema) -> Vec<Stored> {
    inner
        .find(ctx, schema, &Query::new(Filter::All).limit(10_000))
        .await
        .unwrap()
        .items
}

#[tokio::test]
async fn era_1_an_erased_person_is_gone_from_every_answer() {
    let (plain, store) = hotel().await;
    let ctx = fixtures::context();
    let [ana, bo] = two(&store, &ctx).await;
    // A copy of everything as it was: what a backup or a log would have.
    let mut copies = Vec::new();
    for schema in [&GUEST, &STAY] {
        let physical = store.stored_as(schema).unwrap();
        for stored in rows(&*plain, &ctx, physical).await {
            copies.push(Write::put(stored.id, stored.record));
        }
    }

    let erased = store.erase(&ctx, ana).await.unwrap();
    assert_eq!((erased.subjects, erased.rows), (vec![ana], 3));
    let asks = async || {
        assert!(store.get(&ctx, &GUEST, &[ana]).await.unwrap()[0].is_none());
        assert!(
            store.get(&ctx, &GUEST, &[bo]).await.unwrap()[0].is_some(),
            "somebody else is untouched"
        );
        let all = store
            .find(&ctx, &GUEST, &Query::new(Filter::All))
            .await
            .unwrap()
            .items;
        assert_eq!(all.iter().map(|stored| stored.id).collect::<Vec<_>>(), [bo]);
        let by_name = Query::new(Filter::prefix("name", "Name")).descending("name");
        assert_eq!(store.find(&ctx, &GUEST, &by_name).await.unwrap().items.len(), 1);
        let by_mail = Query::new(Filter::eq("email", "g0@example.org"));
        assert_eq!(store.find(&ctx, &GUEST, &by_mail).await.unwrap().items.len(), 0);
        assert_eq!(
            store
                .count(&ctx, &STAY, &Filter::contains("wish", "i"))
                .await
                .unwrap(),
            2
        );
        let groups = Aggregate::new(Filter::All)
            .by("wish")
            .measure("n", Measure::Count);
        let groups = store.aggregate(&ctx, &STAY, &groups).await.unwrap();
        assert_eq!(groups.column("n").unwrap().f64_at(0), Some(1.0));
        let mut scanned = 0;
        let scan = Scan::new(Filter::All, ["id", "wish"]);
        store
            .scan(&ctx, &STAY, &scan, &mut |chunk| {
                scanned += chunk.rows();
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(scanned, 2);
        let claim = Claim {
            due: Filter::contains("wish", "i"),
            order: vec![],
            limit: 10,
            assign: vec![],
        };
        assert_eq!(store.claim(&ctx, &STAY, &claim).await.unwrap().len(), 2);
    };
    asks().await;
    for schema in [&GUEST, &STAY] {
        let physical = store.stored_as(schema).unwrap();
        for stored in rows(&*plain, &ctx, physical).await {
            let theirs = stored.id == ana || stored.record.get("customer_id") == Some(&Value::Uuid(ana));
            assert!(!theirs, "no row of theirs is left, and so no blind index");
        }
    }

    // Copies of their rows come back from wherever: nobody reads them.
    plain.apply(&ctx, &copies).await.unwrap();
    asks().await;

    // Nobody becomes them again.
    let again = store
        .apply(&ctx, &[Write::put(ana, guest("g0@example.org", "Name"))])
        .await
        .unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound, "{again}");
    let again = store
        .apply(&ctx, &[Write::insert(fixtures::id(), stay(ana, "a view"))])
        .await
        .unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound, "{again}");
    let ledger = store.erasures(&ctx).await.unwrap();
    assert_eq!(ledger.len(), 1);
    assert_eq!((ledger[0].subject, ledger[0].swept_at.is_some()), (ana, true));
    assert!(
        store.erasures(&fixtures::context()).await.unwrap().is_empty(),
        "another tenant's ledger"
    );
    // Once more changes nothing but removes what came back.
    assert_eq!(store.erase(&ctx, ana).await.unwrap().rows, 3);
    assert_eq!(store.erasures(&ctx).await.unwrap()[0].at, ledger[0].at);
}

#[tokio::test]
async fn era_1_another_process_stops_reading_within_the_configured_time() {
    let plain: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("plain"));
    let clock = Arc::new(ManualClock::default());
    let open =
        || SealedStore::new(plain.clone(), Arc::new(ring(&["2026"])), clock.clone(), guests()).unwrap();
    let (here, there) = (open(), open());
    here.migrate(&[&GUEST, &STAY]).await.unwrap();
    there.migrate(&[&GUEST, &STAY]).await.unwrap();
    let ctx = fixtures::context();
    let [ana, _] = two(&here, &ctx).await;
    let physical = here.stored_as(&GUEST).unwrap();
    let row = plain
        .get(&ctx, physical, &[ana])
        .await
        .unwrap()
        .remove(0)
        .unwrap()
        .record;
    assert!(there.get(&ctx, &GUEST, &[ana]).await.unwrap()[0].is_some());
    here.erase(&ctx, ana).await.unwrap();
    plain.apply(&ctx, &[Write::put(ana, row)]).await.unwrap();
    assert!(
        here.get(&ctx, &GUEST, &[ana]).await.unwrap()[0].is_none(),
        "at once where it was erased"
    );
    assert!(
        there.get(&ctx, &GUEST, &[ana]).await.unwrap()[0].is_some(),
        "elsewhere the key is still in memory"
    );
    clock.advance(std::time::Duration::from_secs(61));
    assert!(there.get(&ctx, &GUEST, &[ana]).await.unwrap()[0].is_none());
}

/// ERA-4: a backup from before, with keys and all, and the ledger from elsewhere.
#[tokio::test]
async fn era_4_a_restored_backup_forgets_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let open = async |name: &str| -> Arc<SqliteStore> {
        Arc::new(
            SqliteStore::open_file(path(name), SqliteConfig::default())
                .await
                .unwrap(),
        )
    };
    let ctx = fixtures::context();
    let live = open("live.db").await;
    let store = sealed_with(live.clone(), guests());
    store.migrate(&[&GUEST, &STAY]).await.unwrap();
    let [ana, bo] = two(&store, &ctx).await;
    let backup = path("backup.db");
    let copy = format!("VACUUM INTO '{}'", backup.display());
    sqlx::query(sqlx::AssertSqlSafe(copy))
        .execute(&mut crate::sqlite::raw(&path("live.db")).await)
        .await
        .unwrap();
    store.erase(&ctx, ana).await.unwrap();
    let ledger = serde_json::to_string(&store.erasures(&ctx).await.unwrap()).unwrap();

    let restored = sealed_with(open("backup.db").await, guests());
    restored.migrate(&[&GUEST, &STAY]).await.unwrap();
    let there = restored.get(&ctx, &GUEST, &[ana]).await.unwrap();
    assert!(
        there[0].is_some(),
        "the control: a backup has the person, that is why the ledger is replayed"
    );
    let ledger: Vec<crm_store::sealed::Erasure> = serde_json::from_str(&ledger).unwrap();
    let erased = restored.replay(&ctx, &ledger).await.unwrap();
    assert_eq!((erased.subjects, erased.rows), (vec![ana], 3));
    assert!(restored.get(&ctx, &GUEST, &[ana]).await.unwrap()[0].is_none());
    assert!(restored.get(&ctx, &GUEST, &[bo]).await.unwrap()[0].is_some());
}

/// ERA-4: where the tenant's key was changed after the erasure, no older copy of a wrapped key opens any more.
#[tokio::test]
async fn era_4_after_a_rotation_older_copies_of_keys_are_worth_nothing() {
    let (plain, store) = hotel().await;
    let ctx = fixtures::context();
    let [ana, bo] = two(&store, &ctx).await;
    let backup: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("backup"));
    let guests_as = store.stored_as(&GUEST).unwrap();
    backup.migrate(&[guests_as, &SUBJECT_KEY]).await.unwrap();
    for schema in [guests_as, &SUBJECT_KEY] {
        let copies = rows(&*plain, &ctx, schema).await;
        let copies: Vec<Write> = copies
            .into_iter()
            .map(|stored| Write::insert(stored.id, stored.record))
            .collect();
        backup.apply(&ctx, &copies).await.unwrap();
    }
    store.erase(&ctx, ana).await.unwrap();
    let open = |inner: &Arc<dyn RecordStore>, ids: &[&str]| {
        SealedStore::new(
            inner.clone(),
            Arc::new(ring(ids)),
            SystemClock::shared(),
            guests(),
        )
        .unwrap()
    };
    let live: Arc<dyn RecordStore> = plain;
    open(&live, &["2026", "2027"]).rotate(&ctx).await.unwrap();
    let read = open(&live, &["2027"])
        .get(&ctx, &GUEST, &[ana, bo])
        .await
        .unwrap();
    assert_eq!((read[0].is_none(), read[1].is_some()), (true, true));
    let error = open(&backup, &["2027"])
        .get(&ctx, &GUEST, &[ana])
        .await
        .unwrap_err();
    assert_eq!(error.context("key_id"), Some("2026"), "{error}");
    let old = open(&backup, &["2026"]).get(&ctx, &GUEST, &[ana]).await.unwrap();
    assert!(old[0].is_some(), "the control: with the old key it opens");
}

/// ERA-4: keys that are not in the data's backup need no ledger.
#[tokio::test]
async fn era_4_keys_in_another_store_outlive_no_backup() {
    let (data, key_store): (Arc<dyn RecordStore>, Arc<dyn RecordStore>) = (
        Arc::new(MemoryStore::new("data")),
        Arc::new(MemoryStore::new("keys")),
    );
    let open = |data: &Arc<dyn RecordStore>, keys: &Arc<dyn RecordStore>| {
        let provider = Arc::new(ring(&["2026"]));
        SealedStore::with_keys_in(
            keys.clone(),
            data.clone(),
            provider,
            SystemClock::shared(),
            guests(),
        )
        .unwrap()
    };
    let store = open(&data, &key_store);
    store.migrate(&[&GUEST, &STAY]).await.unwrap();
    let ctx = fixtures::context();
    let [ana, bo] = two(&store, &ctx).await;
    assert!(
        !data
            .schemas()
            .iter()
            .any(|schema| schema.name == SUBJECT_KEY.name),
        "no key beside the data"
    );
    let physical = store.stored_as(&GUEST).unwrap();
    let backup = rows(&*data, &ctx, physical).await;
    store.erase(&ctx, ana).await.unwrap();

    let restored: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("restored"));
    let again = open(&restored, &key_store);
    again.migrate(&[&GUEST, &STAY]).await.unwrap();
    let writes: Vec<Write> = backup
        .into_iter()
        .map(|stored| Write::insert(stored.id, stored.record))
        .collect();
    restored.apply(&ctx, &writes).await.unwrap();
    let read = again.get(&ctx, &GUEST, &[ana, bo]).await.unwrap();
    assert_eq!((read[0].is_none(), read[1].is_some()), (true, true));
    // Data without their keys are not taken for erased: somebody is told.
    let lost = open(
        &restored,
        &(Arc::new(MemoryStore::new("empty")) as Arc<dyn RecordStore>),
    );
    lost.migrate(&[&GUEST, &STAY]).await.unwrap();
    assert_eq!(
        lost.get(&ctx, &GUEST, &[bo]).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

/// A call that ended between the key and the rows is finished by whoever comes next.
#[tokio::test]
async fn an_erasure_that_was_stopped_is_finished() {
    let (plain, store) = hotel().await;
    let ctx = fixtures::context();
    let [ana, bo] = two(&store, &ctx).await;
    let id = {
        let keys = rows(&*plain, &ctx, &SUBJECT_KEY).await;
        let row = keys
            .into_iter()
            .find(|stored| stored.record.get("subject") == Some(&Value::Uuid(ana)))
            .unwrap();
        let record = row
            .record
            .with("kek", Value::Null)
            .and_then(|record| record.with("wrapped", Value::Null))
            .and_then(|record| record.with("destroyed_at", crm_core::Timestamp::EPOCH))
            .unwrap();
        plain
            .apply(&ctx, &[Write::update(row.id, row.version, record)])
            .await
            .unwrap();
        row.id
    };
    let next = sealed_with(plain.clone(), guests());
    next.migrate(&[&GUEST, &STAY]).await.unwrap();
    assert!(
        next.get(&ctx, &GUEST, &[ana]).await.unwrap()[0].is_none(),
        "nobody reads them meanwhile"
    );
    assert_eq!(
        next.count(&ctx, &GUEST, &Filter::All).await.unwrap(),
        2,
        "what the store counts by itself still has them"
    );
    let done = next.resume_erasures(&ctx).await.unwrap();
    assert_eq!((done.subjects, done.rows), (vec![ana], 3));
    assert_eq!(next.count(&ctx, &GUEST, &Filter::All).await.unwrap(), 1);
    let row = plain
        .get(&ctx, &SUBJECT_KEY, &[id])
        .await
        .unwrap()
        .remove(0)
        .unwrap();
    assert!(row.record.timestamp("swept_at").is_ok());
    assert_eq!(
        next.resume_erasures(&ctx).await.unwrap().rows,
        0,
        "there is nothing more to do"
    );
    assert!(next.get(&ctx, &GUEST, &[bo]).await.unwrap()[0].is_some());
}

/// Whoever was merged into a customer goes with them, and so does what the merge replaced.
#[tokio::test]
async fn era_1_merged_customers_go_together() {
    let plain: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("plain"));
    let store = Arc::new(sealed_with(plain.clone(), SealConfig::default()));
    let customers = Customers::new(store.clone(), SystemClock::shared(), RandomIds::shared());
    let ctx = fixtures::context();
    let one = customers
        .upsert(&ctx, keys("1", "ana@example.com", ""))
        .await
        .unwrap()
        .id;
    let two = customers
        .upsert(&ctx, keys("2", "ana@example.org", ""))
        .await
        .unwrap()
        .id;
    let other = customers
        .upsert(&ctx, keys("3", "bo@example.org", ""))
        .await
        .unwrap()
        .id;
    let merges = customers.merge();
    let plan = merges
        .plan(&ctx, one, &[two], MergeRules::default())
        .await
        .unwrap();
    let merge = merges.apply(&ctx, &plan).await.unwrap().id;
    assert!(!rows(&*store, &ctx, &MERGE_IMAGE).await.is_empty());
    let erased = store.erase(&ctx, one.uuid()).await.unwrap();
    for id in [one.uuid(), two.uuid(), merge.uuid()] {
        assert!(erased.subjects.contains(&id), "{id}");
    }
    assert!(customers.get(&ctx, one).await.unwrap().is_none());
    assert!(customers.get(&ctx, two).await.unwrap().is_none());
    assert!(customers.get(&ctx, other).await.unwrap().is_some());
    assert!(rows(&*store, &ctx, &MERGE_IMAGE).await.is_empty());
    let back = customers
        .upsert(&ctx, keys("9", "ana@example.com", ""))
        .await
        .unwrap();
    assert_ne!(back.id, one, "whoever comes back is somebody new");
}
