//! Models in a store: versions, stages, damage, two at the same time.

use std::sync::Arc;

use crm_analytics::pipeline::{MODEL, MODEL_PART, Stage, StoredModels, Which};
use crm_core::capability::RecordStore;
use crm_core::memory::MemoryStore;
use crm_core::query::{Filter, Query};
use crm_core::record::Write;
use crm_core::{ErrorKind, ManualClock, SeededIds, Timestamp};

use crate::insights::ctx;

async fn models() -> (Arc<MemoryStore>, StoredModels) {
    let store = Arc::new(MemoryStore::new("records"));
    store.migrate(&StoredModels::schemas()).await.unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_ymd(2026, 3, 1).unwrap()));
    let ids = Arc::new(SeededIds::new(clock.clone(), 1));
    (store.clone(), StoredModels::new(store, clock, ids))
}

#[tokio::test]
async fn versions_are_counted_and_one_is_live() {
    let (_, models) = models().await;
    let ctx = ctx("shop");
    let missing = models.load(&ctx, "churn", Which::Live).await.unwrap_err();
    assert_eq!(
        (missing.kind(), missing.context("model")),
        (ErrorKind::NotFound, Some("churn"))
    );
    // More than one part.
    let large: Vec<u8> = (0..1_300_000_u32).map(|i| (i % 251) as u8).collect();
    for (number, bytes) in [(1, large.as_slice()), (2, b"two"), (3, b"three")] {
        assert_eq!(models.publish(&ctx, "churn", bytes).await.unwrap().number, number);
    }
    assert_eq!(models.publish(&ctx, "value", b"x").await.unwrap().number, 1);
    assert_eq!(
        models.load(&ctx, "churn", Which::Number(1)).await.unwrap().1,
        large
    );
    assert_eq!(
        models.load(&ctx, "churn", Which::Newest).await.unwrap().1,
        b"three"
    );
    assert!(
        models.find(&ctx, "churn", Which::Live).await.is_err(),
        "nobody said so yet"
    );
    for number in [1, 2, 1, 1] {
        models.stage(&ctx, "churn", number, Stage::Live).await.unwrap();
        assert_eq!(
            models.find(&ctx, "churn", Which::Live).await.unwrap().number,
            number
        );
    }
    assert_eq!(
        models.find(&ctx, "churn", Which::Number(2)).await.unwrap().stage,
        Stage::Retired
    );
    // Another tenant sees none of it.
    assert!(
        models
            .find(&crate::insights::ctx("other"), "churn", Which::Newest)
            .await
            .is_err()
    );
    for name in ["", "Churn", "a b"] {
        assert_eq!(
            models
                .publish(&ctx, name, b"x")
                .await
                .unwrap_err()
                .context("field"),
            Some("name")
        );
    }
    assert!(models.publish(&ctx, "empty", b"").await.is_err());
}

#[tokio::test]
async fn damage_is_found_when_it_is_loaded() {
    let (store, models) = models().await;
    let ctx = ctx("shop");
    let one = models.publish(&ctx, "churn", &[7; 600_000]).await.unwrap();
    models.load(&ctx, "churn", Which::Newest).await.unwrap();
    let parts = store
        .find(&ctx, &MODEL_PART, &Query::new(Filter::eq("model_id", one.id)))
        .await
        .unwrap();
    assert_eq!(parts.items.len(), 2);
    let lost = Write::delete(&MODEL_PART, parts.items[1].id, None);
    store.apply(&ctx, &[lost]).await.unwrap();
    let error = models.load(&ctx, "churn", Which::Newest).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("number")),
        (ErrorKind::Corrupt, Some("1"))
    );
}

#[tokio::test]
async fn many_at_the_same_time_leave_one_live() {
    let (store, models) = models().await;
    let ctx = ctx("shop");
    for _ in 0..4 {
        models.publish(&ctx, "churn", b"x").await.unwrap();
    }
    let all: Vec<_> = (1..=4)
        .map(|number| {
            let (models, ctx) = (models.clone(), ctx.clone());
            tokio::spawn(async move { models.stage(&ctx, "churn", number, Stage::Live).await })
        })
        .collect();
    for one in all {
        one.await.unwrap().unwrap();
    }
    let live = Filter::eq("stage", "live");
    assert_eq!(store.count(&ctx, &MODEL, &live).await.unwrap(), 1);
}
