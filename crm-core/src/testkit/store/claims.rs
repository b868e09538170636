use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Desk, JOB, order};
use crate::capability::RecordStore;
use crate::query::{Assign, Claim, Filter, Query};
use crate::record::{Record, Stored, Value, Write};
use crate::testkit::fixtures;
use crate::{ErrorKind, Timestamp, Uuid};

fn job(state: &str, run_at: i64) -> Record {
    Record::new(&JOB)
        .with("state", state)
        .and_then(|r| r.with("run_at", Timestamp::from_micros(run_at)))
        .and_then(|r| r.with("attempt", 0_i64))
        .unwrap()
}

fn due(limit: u32, holder: Uuid) -> Claim {
    Claim {
        due: Filter::eq("state", "due").and(Filter::le("run_at", Timestamp::from_micros(1000))),
        order: vec![order("run_at", false)],
        limit,
        assign: vec![
            Assign::Set("state", "held".into()),
            Assign::Set("holder", holder.into()),
            Assign::Add("attempt", 1),
        ],
    }
}

/// 64 claimers at once take 200 due records: each record exactly once, marked by the one who got it.
pub async fn claims_are_never_shared(store: Arc<dyn RecordStore>) {
    let desk = Arc::new(Desk::open(store).await);
    let writes: Vec<Write> = (0..200)
        .map(|i| Write::insert(fixtures::id(), job("due", i)))
        .collect();
    desk.apply(&writes).await;
    let mut claimers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let desk = desk.clone();
        claimers.spawn(async move {
            let holder = fixtures::id();
            let mut got: Vec<(Uuid, Stored)> = Vec::new();
            loop {
                let taken = desk
                    .store
                    .claim(&desk.ctx, &JOB, &due(3, holder))
                    .await
                    .expect("claim");
                if taken.is_empty() {
                    return got;
                }
                got.extend(taken.into_iter().map(|stored| (holder, stored)));
                tokio::task::yield_now().await;
            }
        });
    }
    let mut seen = BTreeSet::new();
    while let Some(got) = claimers.join_next().await {
        for (holder, stored) in got.unwrap() {
            assert!(seen.insert(stored.id), "two claimers got the same record");
            assert_eq!((stored.version, stored.record.int("attempt").unwrap()), (2, 1));
            assert_eq!(stored.record.uuid("holder").unwrap(), holder);
            let now = desk
                .store
                .get(&desk.ctx, &JOB, &[stored.id])
                .await
                .expect("get")
                .remove(0);
            assert!(now.as_ref() == Some(&stored), "a claim answers what is stored");
        }
    }
    assert_eq!(seen.len(), 200, "every due record was taken");
}

/// A claim takes the first in order, answers them in order as they are after the marking, and fences off older
/// versions.
pub async fn claims_mark_in_order(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    let times = [40, 10, 30, 20, 2000, 10];
    let ids: Vec<Uuid> = times.iter().map(|_| fixtures::id()).collect();
    let mut writes: Vec<Write> = ids
        .iter()
        .zip(times)
        .map(|(id, at)| Write::insert(*id, job("due", at)))
        .collect();
    let done = fixtures::id();
    writes.push(Write::insert(done, job("done", 1)));
    desk.apply(&writes).await;
    let holder = fixtures::id();
    let taken = desk
        .store
        .claim(&desk.ctx, &JOB, &due(3, holder))
        .await
        .expect("claim");
    let got: Vec<Uuid> = taken.iter().map(|stored| stored.id).collect();
    assert_eq!(got, [ids[1], ids[5], ids[3]], "by time, ties by id");
    for stored in &taken {
        assert_eq!(
            (stored.version, stored.record.text("state").unwrap()),
            (2, "held")
        );
        let stale = desk
            .store
            .apply(&desk.ctx, &[Write::update(stored.id, 1, job("stale", 0))])
            .await;
        assert_eq!(
            stale
                .expect_err("who held it before is fenced off")
                .context("index"),
            Some("version")
        );
    }
    let mut reversed = due(10, holder);
    reversed.order = vec![order("run_at", true)];
    let rest = desk.store.claim(&desk.ctx, &JOB, &reversed).await.expect("claim");
    assert_eq!(
        rest.iter().map(|stored| stored.id).collect::<Vec<_>>(),
        [ids[0], ids[2]]
    );
    assert!(
        desk.store
            .claim(&desk.ctx, &JOB, &due(10, holder))
            .await
            .expect("claim")
            .is_empty()
    );
    let untouched = desk
        .store
        .get(&desk.ctx, &JOB, &[ids[4], done])
        .await
        .expect("get");
    assert!(
        untouched.iter().flatten().all(|stored| stored.version == 1),
        "what is not due is not touched"
    );
}

/// A wrong claim is refused by name, and one that would break a unique index takes nothing.
pub async fn wrong_claims_are_refused(store: Arc<dyn RecordStore>) {
    let desk = Desk::open(store).await;
    desk.apply(&[
        Write::insert(fixtures::id(), job("due", 1)),
        Write::insert(fixtures::id(), job("due", 2)),
    ])
    .await;
    let with = |assign: Vec<Assign>| Claim {
        due: Filter::All,
        order: vec![],
        limit: 10,
        assign,
    };
    for (claim, field) in [
        (with(vec![Assign::Set("nope", 1_i64.into())]), "nope"),
        (with(vec![Assign::Set("state", Value::Null)]), "state"),
        (with(vec![Assign::Set("attempt", "x".into())]), "attempt"),
        (with(vec![Assign::Add("state", 1)]), "state"),
        (
            Claim {
                limit: 0,
                ..with(vec![])
            },
            "limit",
        ),
        (
            Claim {
                due: Filter::eq("nope", 1_i64),
                ..with(vec![])
            },
            "nope",
        ),
    ] {
        let error = desk
            .store
            .claim(&desk.ctx, &JOB, &claim)
            .await
            .expect_err("a wrong claim");
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Invalid, Some(field)),
            "{error}"
        );
    }
    let crowd = with(vec![Assign::Set("seat", "the only one".into())]);
    let error = desk
        .store
        .claim(&desk.ctx, &JOB, &crowd)
        .await
        .expect_err("two cannot have one seat");
    assert_eq!(
        (error.kind(), error.context("index")),
        (ErrorKind::Conflict, Some("kit_job_seat")),
        "{error}"
    );
    let all = desk.all(&JOB, Query::new(Filter::All)).await;
    assert!(
        all.iter().all(|stored| stored.version == 1),
        "a failed claim marks nothing"
    );
}
