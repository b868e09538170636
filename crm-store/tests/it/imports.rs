//! Imports: counted, resumed, fenced, with nothing dropped silently.

use std::sync::{Arc, Mutex};

use crm_core::ErrorKind;
use crm_core::activity::Money;
use crm_core::capability::{Checkpoint, Delivery, DraftSink, Reject, RejectKind};
use crm_core::customer::{Draft, OrderDraft};
use crm_core::query::Filter;
use crm_store::customers::{ImportOptions, ImportState};

use crate::conformance::in_memory;
use crate::customers::{at, desk, keys};

fn order(id: &str) -> OrderDraft {
    OrderDraft {
        event_id: id.into(),
        at: at(1),
        total: Money::new(100, "EUR").unwrap(),
        items: 1,
    }
}

/// 10 people, each twice, the second time with an order; two of nobody; one with a wrong phone number.
fn list() -> Vec<Draft> {
    let mut list: Vec<Draft> = (0..10)
        .map(|n| keys(&n.to_string(), &format!("P{n}@example.com"), ""))
        .collect();
    for n in 0..10 {
        let mut again = keys("", &format!("p{n}@example.com"), "");
        again.orders.push(order(&format!("o{n}")));
        list.push(again);
    }
    list.push(keys("", "nobody", ""));
    list.push(keys("", "", ""));
    list.push(keys("0", "", "12"));
    list
}

#[tokio::test]
async fn everything_is_counted_whatever_the_batch() {
    for batch in [1, 3, 1000] {
        let desk = desk(in_memory().await);
        let told = Arc::new(Mutex::new(Vec::new()));
        let seen = told.clone();
        let options = ImportOptions::default()
            .batch(batch)
            .on_progress(move |r| seen.lock().unwrap().push(*r));
        let report = desk
            .customers
            .import(&desk.ctx, "people", list(), options)
            .await
            .unwrap();
        assert_eq!(
            (report.created, report.updated, report.unchanged),
            (10, 0, 11),
            "batch {batch}"
        );
        assert_eq!(
            (report.rejected, report.fields_rejected, report.orders),
            (2, 1, 10),
            "batch {batch}"
        );
        assert_eq!(report.seen(), 23);
        assert_eq!(told.lock().unwrap().last(), Some(&report));
        assert_eq!(told.lock().unwrap().len(), 23_usize.div_ceil(batch));
        let page = desk
            .customers
            .rejects(&desk.ctx, "people", 10, None)
            .await
            .unwrap();
        let mut fields: Vec<_> = page
            .items
            .iter()
            .map(|r| (r.field.as_deref(), r.place.as_str(), r.line))
            .collect();
        fields.sort();
        assert_eq!(
            fields,
            [
                (None, "list.csv", Some(2)),
                (Some("email"), "list.csv", Some(2)),
                (Some("phone"), "list.csv", Some(2))
            ]
        );

        let again = desk
            .customers
            .import(&desk.ctx, "people", list(), ImportOptions::default())
            .await
            .unwrap();
        assert_eq!(
            (again.created, again.updated, again.unchanged, again.orders),
            (0, 0, 21, 0),
            "the same again"
        );
        assert_eq!(desk.customers.count(&desk.ctx, &Filter::All).await.unwrap(), 10);
    }
}

#[tokio::test]
async fn a_delivery_is_stored_with_its_checkpoint() {
    let desk = desk(in_memory().await);
    let mut sink = desk
        .customers
        .sink(&desk.ctx, "crawl", ImportOptions::default().batch(4))
        .await
        .unwrap();
    assert_eq!(sink.checkpoint(), None);
    let place = |n: u64| Some(Checkpoint(serde_json::json!({ "page": n })));
    let reject = Reject {
        kind: RejectKind::Invalid,
        place: "page 3".into(),
        line: None,
        field: Some("name".into()),
        reason: "unreadable".into(),
    };
    let drafts = list().into_iter().take(10).collect();
    sink.deliver(Delivery {
        drafts,
        rejects: vec![reject.clone()],
        checkpoint: place(1),
        ..Default::default()
    })
    .await
    .unwrap();
    // Killed here: the sink is dropped, another run goes on.
    drop(sink);
    let job = desk.customers.job(&desk.ctx, "crawl").await.unwrap().unwrap();
    assert_eq!(
        (
            job.state,
            job.checkpoint.clone(),
            job.report.created,
            job.report.rejected
        ),
        (ImportState::Running, place(1), 10, 1)
    );
    assert_eq!(
        desk.customers
            .rejects(&desk.ctx, "crawl", 5, None)
            .await
            .unwrap()
            .items,
        [reject]
    );

    let mut second = desk
        .customers
        .sink(&desk.ctx, "crawl", ImportOptions::default())
        .await
        .unwrap();
    assert_eq!(second.checkpoint(), place(1).as_ref());
    second
        .deliver(Delivery {
            checkpoint: place(2),
            ..Default::default()
        })
        .await
        .unwrap();
    let report = second.finish().await.unwrap();
    assert_eq!(report.created, 10);
    let job = desk.customers.job(&desk.ctx, "crawl").await.unwrap().unwrap();
    assert_eq!((job.state, job.checkpoint), (ImportState::Finished, place(2)));
    let third = desk
        .customers
        .sink(&desk.ctx, "crawl", ImportOptions::default())
        .await
        .unwrap();
    assert_eq!(
        (third.checkpoint(), third.report().created),
        (None, 0),
        "a finished one begins anew"
    );
    assert!(desk.customers.job(&desk.ctx, "other").await.unwrap().is_none());
}

#[tokio::test]
async fn the_second_run_of_a_job_fences_off_the_first() {
    let desk = desk(in_memory().await);
    let mut first = desk
        .customers
        .sink(&desk.ctx, "people", ImportOptions::default())
        .await
        .unwrap();
    let mut second = desk
        .customers
        .sink(&desk.ctx, "people", ImportOptions::default())
        .await
        .unwrap();
    let delivery = |n: usize| Delivery {
        drafts: list().into_iter().take(n).collect(),
        ..Default::default()
    };
    second.deliver(delivery(3)).await.unwrap();
    let error = first.deliver(delivery(10)).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Conflict && error.to_string().contains("taken over"),
        "{error}"
    );
    assert_eq!(
        desk.customers.count(&desk.ctx, &Filter::All).await.unwrap(),
        3,
        "the first stored nothing more"
    );
}

#[tokio::test]
async fn wrong_settings_are_named() {
    let desk = desk(in_memory().await);
    for (job, batch, field) in [("", 1, "job"), ("x", 0, "batch"), ("x", 10_001, "batch")] {
        let options = ImportOptions::default().batch(batch);
        let error = desk.customers.sink(&desk.ctx, job, options).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Invalid, Some(field))
        );
    }
    let mut sink = desk
        .customers
        .sink(&desk.ctx, "crawl", ImportOptions::default())
        .await
        .unwrap();
    let checkpoint = Some(Checkpoint(serde_json::json!({ "page": 1 })));
    sink.deliver(Delivery {
        checkpoint,
        ..Default::default()
    })
    .await
    .unwrap();
    let error = desk
        .customers
        .import(&desk.ctx, "crawl", list(), ImportOptions::default())
        .await
        .unwrap_err();
    assert!(
        error.kind() == ErrorKind::Conflict && error.to_string().contains("job=crawl"),
        "{error}"
    );
}

#[tokio::test]
async fn people_of_one_delivery_are_matched_with_each_other() {
    let desk = desk(in_memory().await);
    let mut sink = desk
        .customers
        .sink(&desk.ctx, "people", ImportOptions::default())
        .await
        .unwrap();
    // By reference, then by the address that came with it, then by the number that came with that.
    let drafts = vec![
        keys("1", "", ""),
        keys("1", "ana@example.com", ""),
        keys("", "ANA@example.com", "+61 491 570 156"),
        keys("", "", "+61491570156"),
        keys("", "bea@example.com", "+61491570156"),
    ];
    sink.deliver(Delivery {
        drafts,
        ..Default::default()
    })
    .await
    .unwrap();
    let report = *sink.report();
    assert_eq!((report.created, report.updated, report.unchanged), (2, 2, 1));
}
