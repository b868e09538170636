use std::sync::Arc;

use open_crm::capability::RecordStore;
use open_crm::channels::{OUTBOX, Outgoing};
use open_crm::consent::Purpose;
use open_crm::query::Filter;
use open_crm::{Clock as _, SystemClock, Uuid};
use tokio::sync::Barrier;

use super::{Place, mail, places, table};

const TASKS: usize = 64;
const KEYS: usize = 100;
const CONNECTIONS: usize = 4;

/// Queues every key once; a key that is taken is no mistake.
async fn queue(store: Arc<dyn RecordStore>, place: Place, task: usize) {
    for n in 0..KEYS {
        let key = format!("order:{}", (n + task * 7) % KEYS);
        let purpose = Purpose::transactional("receipt").unwrap();
        let outgoing = Outgoing::email(mail(task), Uuid::nil().into(), purpose).dedupe_key(key);
        let write = outgoing.write(SystemClock.now()).unwrap();
        if let Err(error) = store.apply(&place.ctx(), &[write]).await {
            assert_eq!(error.context("index"), Some("crm_outbox_dedupe"), "{error}");
        }
    }
}

/// Looks first and queues then: what the unique index is there for.
async fn look_then_queue(store: Arc<dyn RecordStore>, place: Place, task: usize) {
    for n in 0..KEYS / 5 {
        let key = format!("order:{}", (n + task) % (KEYS / 5));
        let there = Filter::eq("order_key", key.as_str());
        if store.count(&place.ctx(), &OUTBOX, &there).await.unwrap() == 0 {
            let purpose = Purpose::transactional("receipt").unwrap();
            let outgoing = Outgoing::email(mail(task), Uuid::nil().into(), purpose).order_key(key);
            let write = outgoing.write(SystemClock.now()).unwrap();
            store.apply(&place.ctx(), &[write]).await.unwrap();
        }
    }
}

async fn all_at_once<F, Fut>(place: &Place, work: F)
where
    F: Fn(Arc<dyn RecordStore>, Place, usize) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut stores = Vec::new();
    for _ in 0..CONNECTIONS {
        stores.push(place.open().await);
    }
    let barrier = Arc::new(Barrier::new(TASKS));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let barrier = barrier.clone();
            let work = work(stores[task % CONNECTIONS].clone(), place.clone(), task);
            tokio::spawn(async move {
                barrier.wait().await;
                work.await;
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unique_work_is_unique_on_every_database() {
    let folder = tempfile::tempdir().unwrap();
    for place in places(folder.path()) {
        all_at_once(&place, queue).await;
        let count = format!(
            "select count(*), count(distinct dedupe_key) from {} where tenant = $tenant",
            table()
        );
        assert_eq!(place.ask(&count), [format!("{KEYS}\t{KEYS}")], "{}", place.url);
    }
    // Without the index there would be more: the test can fail.
    let place = Place::file(
        &folder
            .path()
            .join("..")
            .canonicalize()
            .unwrap()
            .join(folder.path()),
    );
    all_at_once(&place, look_then_queue).await;
    let count = format!("select count(*) from {} where tenant = $tenant", table());
    let rows: usize = place.ask(&count)[0].parse().unwrap();
    assert!(rows > KEYS / 5, "looking first was enough: {rows} rows");
}
