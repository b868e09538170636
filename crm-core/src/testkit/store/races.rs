use std::sync::Arc;

use super::{Desk, sample};
use crate::ErrorKind;
use crate::capability::RecordStore;
use crate::query::Filter;
use crate::record::{Outcome, Write};
use crate::testkit::fixtures;

/// 64 writers insert the same 100 keys at once, half of them failing and half skipping when a key is taken: 100
/// records, and exactly 100 were told that they wrote one.
pub async fn racing_inserts_keep_one_each(store: Arc<dyn RecordStore>) {
    let desk = Arc::new(Desk::open(store).await);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..64_usize {
        let desk = desk.clone();
        writers.spawn(async move {
            let mut wrote = 0;
            for step in 0..100 {
                let key = (step + writer * 7) % 100;
                let record = sample("race").with("code", format!("key-{key}")).unwrap();
                let skip = writer % 2 == 0;
                let id = fixtures::id();
                let write = if skip {
                    Write::insert_or_skip(id, record)
                } else {
                    Write::insert(id, record)
                };
                match desk.store.apply(&desk.ctx, &[write]).await {
                    Ok(outcomes) if outcomes == [Outcome::Written(1)] => wrote += 1,
                    Ok(outcomes) => assert_eq!((skip, outcomes), (true, vec![Outcome::Skipped])),
                    Err(error) => {
                        assert!(!skip, "an insert that may be skipped failed: {error}");
                        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                    }
                }
            }
            wrote
        });
    }
    let mut wrote = 0;
    while let Some(done) = writers.join_next().await {
        wrote += done.unwrap();
    }
    assert_eq!(
        (wrote, desk.count(&Filter::eq("label", "race")).await),
        (100, 100)
    );
}

/// 8 writers count one record up 50 times each, reading again after each conflict: no increment is lost.
pub async fn racing_updates_lose_nothing(store: Arc<dyn RecordStore>) {
    let desk = Arc::new(Desk::open(store).await);
    let id = desk.add(sample("counter").with("n", 0_i64).unwrap()).await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let desk = desk.clone();
        writers.spawn(async move {
            let mut wrote = 0;
            while wrote < 50 {
                let now = desk.one(id).await.expect("there");
                tokio::task::yield_now().await; // so that another writer comes in between, also on one core
                let next = now.record.int("n").unwrap() + 1;
                let record = now.record.with("n", next).unwrap();
                match desk
                    .store
                    .apply(&desk.ctx, &[Write::update(id, now.version, record)])
                    .await
                {
                    Ok(_) => wrote += 1,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let last = desk.one(id).await.expect("there");
    assert_eq!((last.record.int("n").unwrap(), last.version), (400, 401));
}
