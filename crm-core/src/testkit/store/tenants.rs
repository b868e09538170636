use std::sync::Arc;

use super::{Desk, JOB, SAMPLE, sample};
use crate::capability::RecordStore;
use crate::query::{Aggregate, Assign, Claim, Filter, Measure, Query, Scan};
use crate::record::{Outcome, Record, Write};
use crate::testkit::fixtures;
use crate::{Context, ErrorKind, Timestamp};

/// The same id and the same unique key may be there once in every tenant.
pub async fn unique_keys_are_per_tenant(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let id = fixtures::id();
    let coded = |label: &str| sample(label).with("code", "same").unwrap();
    let other = fixtures::context();
    desk.apply(&[Write::insert(id, coded("mine"))]).await;
    let theirs = desk
        .store
        .apply(&other, &[Write::insert(id, coded("theirs"))])
        .await;
    assert_eq!(
        theirs.expect("another tenant's keys do not count"),
        [Outcome::Written(1)]
    );
    assert_eq!(desk.one(id).await.expect("there").record, coded("mine"));
    let found = desk
        .store
        .get(&other, &SAMPLE, &[id])
        .await
        .expect("get")
        .remove(0);
    assert_eq!(found.expect("there").record, coded("theirs"));
}

/// No method reads, counts, changes, claims or betrays what belongs to another tenant.
pub async fn tenants_never_meet(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let job = Record::new(&JOB)
        .with("state", "due")
        .and_then(|r| r.with("run_at", Timestamp::EPOCH))
        .and_then(|r| r.with("attempt", 0_i64))
        .unwrap();
    let (id, job_id) = (fixtures::id(), fixtures::id());
    let mine = sample("mine").with("n", 5_i64).unwrap();
    desk.apply(&[
        Write::insert(id, mine.clone()),
        Write::insert(job_id, job.clone()),
    ])
    .await;
    let other: Context = fixtures::context();
    let (store, ctx) = (&desk.store, &other);

    assert_eq!(store.get(ctx, &SAMPLE, &[id]).await.expect("get"), [None]);
    for filter in [
        Filter::All,
        Filter::eq("id", id),
        !Filter::eq("label", "x"),
        Filter::eq("n", 5_i64).or(Filter::All),
    ] {
        let page = store
            .find(ctx, &SAMPLE, &Query::new(filter.clone()))
            .await
            .expect("find");
        assert!(
            page.items.is_empty() && page.next.is_none(),
            "find with {filter:?}"
        );
        assert_eq!(
            store.count(ctx, &SAMPLE, &filter).await.expect("count"),
            0,
            "count with {filter:?}"
        );
        let scan = Scan::new(filter.clone(), ["label"]);
        store
            .scan(ctx, &SAMPLE, &scan, &mut |_| {
                panic!("a scan reads another tenant's")
            })
            .await
            .expect("scan");
        let sum = Aggregate::new(filter)
            .measure("rows", Measure::Count)
            .measure("sum", Measure::Sum("n".into()));
        let table = store.aggregate(ctx, &SAMPLE, &sum).await.expect("aggregate");
        assert_eq!(
            table.column("rows").unwrap().value(0).as_int(),
            Some(0),
            "aggregate"
        );
        assert!(table.column("sum").unwrap().value(0).is_null(), "aggregate");
    }
    let claim = Claim {
        due: Filter::All,
        order: vec![],
        limit: 10,
        assign: vec![Assign::Add("attempt", 1)],
    };
    assert!(
        store.claim(ctx, &JOB, &claim).await.expect("claim").is_empty(),
        "a claim takes another tenant's"
    );

    // Writes answer as if the record did not exist: the same error as for one that never did.
    let ghost = fixtures::id();
    for write in [
        |id| Write::update(id, 1, sample("stolen")),
        |id| Write::delete(&SAMPLE, id, None),
        |id| Write::delete(&SAMPLE, id, Some(1)),
    ] {
        let theirs = store
            .apply(ctx, &[write(id)])
            .await
            .expect_err("a write reaches another tenant's");
        let nobodys = store
            .apply(ctx, &[write(ghost)])
            .await
            .expect_err("a write of nothing");
        assert_eq!(theirs.kind(), ErrorKind::Conflict);
        assert_eq!(
            theirs.to_string(),
            nobodys.to_string(),
            "the error betrays that the record exists"
        );
    }
    let put = store
        .apply(
            ctx,
            &[
                Write::put(id, sample("their own")),
                Write::insert(job_id, job.clone()),
            ],
        )
        .await;
    assert_eq!(
        put.expect("their own records"),
        [Outcome::Written(1), Outcome::Written(1)]
    );

    let found = desk.one(id).await.expect("still there");
    assert_eq!(
        (found.version, found.record),
        (1, mine),
        "nothing of the first tenant's was changed"
    );
    let jobs = desk
        .store
        .get(&desk.ctx, &JOB, &[job_id])
        .await
        .expect("get")
        .remove(0)
        .expect("there");
    assert_eq!((jobs.version, jobs.record), (1, job));
    assert_eq!(desk.count(&Filter::All).await, 1);
}
