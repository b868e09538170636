//! The one suite of all stores, on a real MongoDB replica set, and what is MongoDB's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crm_core::capability::RecordStore;
use crm_core::testkit::fixtures;
use crm_core::testkit::store::agrees_with_memory;
use crm_store::mongo::{MongoConfig, MongoStore};
use mongodb::Client;
use mongodb::bson::doc;

/// The server's URL; says so and answers nothing when there is none, fails when there must be one.
pub(crate) fn url() -> Option<String> {
    use std::io::Write as _;
    match std::env::var("OPEN_CRM_TEST_MONGODB_URL") {
        Ok(url) => Some(url),
        Err(_) => {
            let told =
                "SKIPPED: MongoDB (OPEN_CRM_TEST_MONGODB_URL is not set; scripts/test starts the server)\n";
            let _ = std::io::stderr().write_all(told.as_bytes());
            assert!(
                std::env::var_os("OPEN_CRM_REQUIRE_BACKENDS").is_none(),
                "OPEN_CRM_REQUIRE_BACKENDS is set, but {told}"
            );
            None
        }
    }
}

/// A database of this test alone; gone with the guard.
pub(crate) struct Scratch {
    pub(crate) url: String,
    pub(crate) name: String,
}

impl Scratch {
    pub(crate) fn new(url: String) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let unique = fixtures::id().as_u128() >> 96;
        Self {
            url,
            name: format!("crm_mongo_{process}_{count}_{unique}"),
        }
    }

    pub(crate) async fn open(&self, config: MongoConfig) -> MongoStore {
        MongoStore::open(&self.url, config.database(&self.name))
            .await
            .unwrap()
    }

    /// A connection that knows nothing of the store.
    pub(crate) async fn raw(&self) -> mongodb::Database {
        Client::with_uri_str(&self.url)
            .await
            .unwrap()
            .database(&self.name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (url, name) = (self.url.clone(), self.name.clone());
        // A runtime of its own: the test's may be going down.
        let gone = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let client = Client::with_uri_str(&url).await.map_err(std::io::Error::other)?;
                client.database(&name).drop().await.map_err(std::io::Error::other)
            })
        });
        if !matches!(gone.join(), Ok(Ok(()))) {
            eprintln!("the database {} is left", self.name);
        }
    }
}

/// Patient enough for 64 writers on a busy machine.
pub(crate) fn patient() -> MongoConfig {
    MongoConfig::default().wait(Duration::from_secs(60))
}

pub(crate) async fn fresh() -> Option<(Arc<dyn RecordStore>, Scratch)> {
    let scratch = Scratch::new(url()?);
    let store = scratch.open(patient()).await;
    Some((Arc::new(store), scratch))
}

/// What a test of the suite runs on: the server, or, where there is none, a store in memory, after having said so.
async fn under() -> (Arc<dyn RecordStore>, Option<Scratch>) {
    match fresh().await {
        Some((store, scratch)) => (store, Some(scratch)),
        None => (Arc::new(crm_core::memory::MemoryStore::new("skipped")), None),
    }
}

crm_core::store_suite!(suite, under());

/// How many sequences of 50 units of work are compared with the model; 1,000 take minutes on a real server.
const SEQUENCES: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_sequence_of_operations_ends_as_in_the_model() {
    let Some((store, _scratch)) = fresh().await else {
        return;
    };
    agrees_with_memory(store, 20_261_122, SEQUENCES, 50).await;
}

#[tokio::test]
async fn the_server_is_the_one_of_the_tests() {
    let Some(url) = url() else { return };
    let scratch = Scratch::new(url);
    let hello = scratch
        .raw()
        .await
        .run_command(doc! { "hello": 1 })
        .await
        .unwrap();
    assert_eq!(hello.get_str("setName").unwrap(), "rs0");
}
