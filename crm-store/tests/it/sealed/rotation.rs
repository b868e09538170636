//! ENC-5: the tenant's key is changed while everything goes on, and whoever is killed is followed by another.

use std::io::BufRead as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use crm_core::capability::{DataKey, KeyProvider, RecordStore, ToUnwrap, ToWrap, WrappedKey};
use crm_core::query::{Filter, Query};
use crm_core::record::{Value, Write};
use crm_core::testkit::fixtures;
use crm_core::{Context, Health, Provider, ProviderInfo, Result, SystemClock, TenantId, Uuid};
use crm_store::sealed::{KeyRing, Rotation, SUBJECT_KEY, SealedStore};
use crm_store::{SqliteConfig, SqliteStore};

use super::{GUEST, Plugged, STAY, guest, guests, hotel, opened_with, ring};
use crate::child::{role, spawn};

const PEOPLE: u64 = 4_000;

fn ctx() -> Context {
    Context::new(TenantId::new("shop").unwrap())
}

fn id(n: u64) -> Uuid {
    Uuid::from_u128(u128::from(n) + 1)
}

async fn on_file(path: &Path, ids: &[&str]) -> SealedStore {
    with_keys(path, Arc::new(ring(ids))).await
}

async fn with_keys(path: &Path, keys: Arc<dyn KeyProvider>) -> SealedStore {
    let config = SqliteConfig::default().wait(Duration::from_secs(60));
    let file = SqliteStore::open_file(path, config).await.unwrap();
    let store = SealedStore::new(Arc::new(file), keys, SystemClock::shared(), guests()).unwrap();
    store.migrate(&[&GUEST, &STAY]).await.unwrap();
    store
}

async fn under(store: &SealedStore, kek: &str) -> u64 {
    store
        .inner()
        .count(&ctx(), &SUBJECT_KEY, &Filter::eq("kek", kek))
        .await
        .unwrap()
}

#[tokio::test]
async fn enc_5_only_data_keys_are_wrapped_anew() {
    let (plain, old) = hotel().await;
    let ctx = fixtures::context();
    let ids: Vec<Uuid> = (0..20).map(|_| fixtures::id()).collect();
    for (n, id) in ids.iter().enumerate() {
        old.apply(
            &ctx,
            &[Write::insert(*id, guest(&format!("g{n}@example.org"), "Ana"))],
        )
        .await
        .unwrap();
    }
    let physical = old.stored_as(&GUEST).unwrap();
    let before = plain
        .find(&ctx, physical, &Query::new(Filter::All))
        .await
        .unwrap()
        .items;
    let too_early = opened_with(plain.clone(), Arc::new(ring(&["2027"])), SystemClock::shared());
    let error = too_early.get(&ctx, &GUEST, &ids).await.unwrap_err();
    assert_eq!(
        error.context("key_id"),
        Some("2026"),
        "the control: before, nobody can do without the old key"
    );
    let plugged = Plugged::new(ring(&["2026", "2027"]));
    let new = opened_with(plain.clone(), plugged.clone(), SystemClock::shared());
    new.migrate(&[&GUEST, &STAY]).await.unwrap();
    let done = new.rotate(&ctx).await.unwrap();
    assert_eq!(
        done,
        Rotation { rewrapped: 21 },
        "one key each, and one of the blind indexes"
    );
    assert!(
        plugged.calls.load(Ordering::Relaxed) < 10,
        "keys go to their provider in batches"
    );
    assert_eq!(
        new.rotate(&ctx).await.unwrap(),
        Rotation::default(),
        "again there is nothing to do"
    );
    let after = plain
        .find(&ctx, physical, &Query::new(Filter::All))
        .await
        .unwrap()
        .items;
    assert!(before == after, "the data were not touched");
    // The old key may go now.
    let only_new = opened_with(plain, Arc::new(ring(&["2027"])), SystemClock::shared());
    only_new.migrate(&[&GUEST, &STAY]).await.unwrap();
    let read = only_new.get(&ctx, &GUEST, &ids).await.unwrap();
    assert!(
        read.iter()
            .all(|stored| stored.as_ref().unwrap().record.text("name").unwrap() == "Ana")
    );
    let by_mail = Query::new(Filter::eq("email", "g7@example.org"));
    assert_eq!(
        only_new.find(&ctx, &GUEST, &by_mail).await.unwrap().items.len(),
        1
    );
}

/// Wraps one batch, and then never answers again: whoever waits for it can be killed at leisure.
#[derive(Debug)]
struct Stuck {
    ring: KeyRing,
    wraps: AtomicU64,
}

#[async_trait]
impl Provider for Stuck {
    fn info(&self) -> &ProviderInfo {
        self.ring.info()
    }
    async fn check(&self) -> Result<Health> {
        self.ring.check().await
    }
}

#[async_trait]
impl KeyProvider for Stuck {
    async fn current(&self, tenant: &TenantId) -> Result<String> {
        self.ring.current(tenant).await
    }
    async fn wrap(&self, tenant: &TenantId, keys: &[ToWrap<'_>]) -> Result<Vec<WrappedKey>> {
        if self.wraps.fetch_add(1, Ordering::Relaxed) > 0 {
            println!("stuck");
            std::future::pending::<()>().await;
        }
        self.ring.wrap(tenant, keys).await
    }
    async fn unwrap(&self, tenant: &TenantId, keys: &[ToUnwrap<'_>]) -> Result<Vec<DataKey>> {
        self.ring.unwrap(tenant, keys).await
    }
}

/// In a child process: rotates until it is killed.
async fn rotates(path: &Path) {
    let stuck = Stuck {
        ring: ring(&["2026", "2027"]),
        wraps: AtomicU64::new(0),
    };
    with_keys(path, Arc::new(stuck))
        .await
        .rotate(&ctx())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn enc_5_rotation_goes_on_after_kills_while_others_write() {
    const NAME: &str = "sealed::rotation::enc_5_rotation_goes_on_after_kills_while_others_write";
    if let Some((path, _)) = role() {
        return rotates(Path::new(&path)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crm.db");
    let old = on_file(&path, &["2026"]).await;
    let people: Vec<u64> = (0..PEOPLE).collect();
    for chunk in people.chunks(1_000) {
        let writes: Vec<Write> = chunk
            .iter()
            .map(|n| Write::insert(id(*n), guest(&format!("g{n}@example.org"), &format!("Name {n}"))))
            .collect();
        old.apply(&ctx(), &writes).await.unwrap();
    }
    assert_eq!(under(&old, "2026").await, PEOPLE + 1);

    // Writers and readers with the new ring, and no memory of keys: every read unwraps.
    let store = Arc::new(on_file(&path, &["2026", "2027"]).await);
    let (stop, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..4_u64 {
        let (stop, turns, path) = (stop.clone(), turns.clone(), path.clone());
        workers.spawn(async move {
            let mut own = on_file(&path, &["2026", "2027"]).await;
            let mut fresh = PEOPLE * (worker + 1) * 10;
            while !stop.load(Ordering::Relaxed) {
                let turn = turns.fetch_add(1, Ordering::Relaxed);
                if turn % 40 == 0 {
                    own = on_file(&path, &["2026", "2027"]).await;
                }
                let known = (turn * 7919) % PEOPLE;
                let read = own
                    .get(&ctx(), &GUEST, &[id(known)])
                    .await
                    .expect("nobody notices");
                let stored = read[0].as_ref().expect("everybody is there");
                let name = stored.record.text("name").unwrap();
                assert!(name.starts_with("Name"), "{name}");
                let changed = stored.record.clone().with("room", turn as i64).unwrap();
                // Another worker may have been faster; that is no error of reading.
                let _ = own
                    .apply(&ctx(), &[Write::update(id(known), stored.version, changed)])
                    .await;
                let record = guest(&format!("n{fresh}@example.org"), "Name new");
                own.apply(&ctx(), &[Write::insert(id(fresh), record)])
                    .await
                    .expect("new people come meanwhile");
                fresh += 1;
            }
        });
    }
    for killed in 1..=3 {
        let mut child = spawn(NAME, &path, "rotate");
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let stuck =
            tokio::task::block_in_place(|| lines.map_while(Result::ok).any(|line| line.ends_with("stuck")));
        assert!(stuck, "the child is in the middle");
        child.kill().unwrap();
        child.wait().unwrap();
        let left = under(&store, "2026").await;
        assert_eq!(left, PEOPLE + 1 - killed * 500, "each got as far as one batch");
    }
    let done = store.rotate(&ctx()).await.unwrap();
    assert_eq!(
        done.rewrapped,
        PEOPLE + 1 - 1_500,
        "the last one did what was left"
    );
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = workers.join_next().await {
        done.unwrap();
    }
    assert!(turns.load(Ordering::Relaxed) > 10, "the workers worked");
    store.rotate(&ctx()).await.unwrap();
    assert_eq!(under(&store, "2026").await, 0, "no data key is under the old key");

    let only_new = on_file(&path, &["2027"]).await;
    let ids: Vec<Uuid> = people.iter().map(|n| id(*n)).collect();
    for (n, stored) in only_new
        .get(&ctx(), &GUEST, &ids)
        .await
        .unwrap()
        .iter()
        .enumerate()
    {
        let stored = stored.as_ref().unwrap();
        assert_eq!(stored.record.get("name"), Some(&Value::Text(format!("Name {n}"))));
    }
}
