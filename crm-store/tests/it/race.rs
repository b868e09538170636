//! Many callers, one person each: on every backend, a person becomes one customer.

use std::collections::BTreeSet;
use std::sync::Arc;

use crm_core::Timestamp;
use crm_core::capability::RecordStore;
use crm_core::customer::{CUSTOMER, Draft, Provenance};
use crm_core::memory::MemoryStore;
use crm_core::query::Filter;
use crm_core::testkit::fixtures;
use crm_core::{RandomIds, SystemClock};
use crm_store::Customers;

/// How many of the 100 people each writer brings: more takes long on servers, and adds nothing once all have met.
const EACH: usize = 30;

/// 64 writers bring some of the same 100 people, each in an order of its own: exactly 100 customers, and everybody is
/// told the same one for the same person.
async fn a_person_becomes_one_customer(store: Arc<dyn RecordStore>) {
    let ctx = fixtures::context();
    let customers = Arc::new(Customers::new(
        store.clone(),
        SystemClock::shared(),
        Arc::new(RandomIds::new(SystemClock::shared())),
    ));
    customers.prepare().await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..64_usize {
        let (customers, ctx) = (customers.clone(), ctx.clone());
        writers.spawn(async move {
            let mut told = BTreeSet::new();
            for step in 0..EACH {
                let person = (step * 7 + writer * 13) % 100;
                let mut draft = Draft::new(Provenance::new("race", Timestamp::from_micros(10)));
                draft.emails.push(format!("person{person}@example.com"));
                let done = customers.upsert(&ctx, draft).await.unwrap();
                told.insert((person, done.id.uuid()));
            }
            told
        });
    }
    let mut told = BTreeSet::new();
    for some in writers.join_all().await {
        told.extend(some);
    }
    assert_eq!(
        told.len(),
        100,
        "everybody is told the same customer for the same person"
    );
    assert_eq!(store.count(&ctx, &CUSTOMER, &Filter::All).await.unwrap(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_memory() {
    a_person_becomes_one_customer(Arc::new(MemoryStore::new("race"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_sqlite() {
    let (store, _folder) = crate::conformance::on_file().await;
    a_person_becomes_one_customer(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_mysql() {
    if let Some(opened) = crate::own::mysql().await {
        a_person_becomes_one_customer(opened.store.clone()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_postgres() {
    if let Some(opened) = crate::own::postgres().await {
        a_person_becomes_one_customer(opened.store.clone()).await;
    }
}

#[cfg(feature = "mongodb")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_mongodb() {
    if let Some((store, _scratch)) = crate::mongo::fresh().await {
        a_person_becomes_one_customer(store).await;
    }
}
