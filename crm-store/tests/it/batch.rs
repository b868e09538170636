//! Batches, tags and requests with keys. The same on every store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crm_core::activity::Money;
use crm_core::customer::{CUSTOMER, OrderDraft, PersonName};
use crm_core::query::{Filter, Query};
use crm_core::testkit::fixtures;
use crm_core::{CustomerId, ErrorKind};
use crm_store::customers::{Events, IDEMPOTENCY_KEY, KEPT, Mode, Op, OpDone};

use crate::customers::{Desk, at, keys};
use crate::stores::on_every_store;

on_every_store!(
    each_change_for_itself,
    all_or_nothing,
    a_key_is_carried_out_once,
    sixty_four_callers_one_effect,
    keys_expire,
    tags_of_many_are_all_kept,
    increments_of_many_are_all_counted,
);

fn order(id: &str) -> OrderDraft {
    OrderDraft {
        event_id: id.into(),
        at: at(5),
        total: Money::new(100, "EUR").unwrap(),
        items: 1,
    }
}

fn append(customer: CustomerId, ids: &[&str]) -> Op {
    Op::Append {
        customer,
        source: "shop".into(),
        events: Events::from(ids.iter().map(|id| order(id)).collect::<Vec<_>>()),
    }
}

fn tag(customer: CustomerId, add: &str) -> Op {
    Op::Tag {
        customer,
        add: vec![add.into()],
        remove: vec![],
    }
}

async fn known(desk: &Desk, n: &str) -> CustomerId {
    let draft = keys(n, &format!("p{n}@example.com"), "");
    desk.customers.upsert(&desk.ctx, draft).await.unwrap().id
}

async fn count(desk: &Desk) -> u64 {
    desk.customers.count(&desk.ctx, &Filter::All).await.unwrap()
}

async fn each_change_for_itself(desk: Desk) {
    let ana = known(&desk, "1").await;
    let gone = known(&desk, "2").await;
    let stale = desk.customers.get(&desk.ctx, ana).await.unwrap().unwrap();
    let ops = vec![
        tag(ana, "vip"),
        Op::Update(Box::new(stale)),
        Op::Create(keys("1", "", "")),
        Op::Upsert(keys("3", "p3@example.com", "")),
        append(ana, &["a", "b", "a"]),
        Op::Delete(gone),
        Op::Delete(gone),
        Op::Create(keys("4", "", "")),
    ];
    let done = desk.customers.batch(&desk.ctx, ops, Mode::PerItem).await.unwrap();
    let kinds: Vec<Option<ErrorKind>> = done
        .iter()
        .map(|one| one.as_ref().err().map(|e| e.kind()))
        .collect();
    use ErrorKind::{Conflict, NotFound};
    assert_eq!(
        kinds,
        [
            None,
            Some(Conflict),
            Some(Conflict),
            None,
            None,
            None,
            Some(NotFound),
            None
        ]
    );
    assert_eq!(done[0].as_ref().unwrap(), &OpDone::Tagged(vec!["vip".into()]));
    assert!(matches!(done[4].as_ref().unwrap(), OpDone::Appended(a) if (a.orders, a.known) == (2, 1)));
    assert_eq!(count(&desk).await, 3);
}

async fn all_or_nothing(desk: Desk) {
    let ana = known(&desk, "1").await;
    let bea = known(&desk, "2").await;
    let mut changed = desk.customers.get(&desk.ctx, bea).await.unwrap().unwrap();
    changed.name = PersonName::new("Bea", "Kask");
    let good = vec![
        tag(ana, "vip"),
        Op::Update(Box::new(changed.clone())),
        Op::Upsert(keys("3", "p3@example.com", "")),
        Op::Upsert(keys("3", "p3.second@example.com", "")),
        append(ana, &["a", "b"]),
        append(ana, &["b", "c"]),
        Op::Create(keys("4", "", "")),
    ];
    // Whatever fails, wherever it stands, nothing is there.
    for (bad, kind) in [
        (Op::Upsert(keys("", "nobody", "")), ErrorKind::Invalid),
        (Op::Create(keys("1", "", "")), ErrorKind::Conflict),
        (Op::Delete(fixtures::id().into()), ErrorKind::NotFound),
        (tag(bea, "twice"), ErrorKind::Invalid),
        (append(ana, &[" "]), ErrorKind::Invalid),
    ] {
        for place in [0, good.len()] {
            let mut ops = good.clone();
            ops.insert(place, bad.clone());
            let error = desk
                .customers
                .batch(&desk.ctx, ops, Mode::AllOrNothing)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.context("item").is_some());
            assert_eq!(count(&desk).await, 2);
            assert!(
                desk.customers
                    .get(&desk.ctx, ana)
                    .await
                    .unwrap()
                    .unwrap()
                    .tags
                    .is_empty()
            );
            assert!(
                desk.customers
                    .orders(&desk.ctx, ana, 10, None)
                    .await
                    .unwrap()
                    .items
                    .is_empty()
            );
        }
    }
    let done = desk
        .customers
        .batch(&desk.ctx, good, Mode::AllOrNothing)
        .await
        .unwrap();
    let done: Vec<OpDone> = done.into_iter().map(Result::unwrap).collect();
    let (OpDone::Upserted(first), OpDone::Upserted(second)) = (&done[2], &done[3]) else {
        panic!("{done:?}")
    };
    assert_eq!(first.id, second.id, "drafts of one batch find each other");
    assert!(matches!(&done[5], OpDone::Appended(a) if (a.orders, a.known) == (1, 1)));
    assert_eq!(
        desk.customers
            .orders(&desk.ctx, ana, 10, None)
            .await
            .unwrap()
            .items
            .len(),
        3
    );
    assert_eq!(
        desk.customers
            .get(&desk.ctx, bea)
            .await
            .unwrap()
            .unwrap()
            .name
            .full(),
        "Bea Kask"
    );
    let gone = vec![Op::Delete(ana), Op::Delete(bea)];
    desk.customers
        .batch(&desk.ctx, gone, Mode::AllOrNothing)
        .await
        .unwrap();
    assert_eq!(count(&desk).await, 2);
    let many = (0..1001).map(|n| tag(first.id, &n.to_string())).collect();
    let error = desk
        .customers
        .batch(&desk.ctx, many, Mode::AllOrNothing)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("ops"))
    );
}

async fn a_key_is_carried_out_once(desk: Desk) {
    let ops = vec![Op::Create(keys("1", "ana@example.com", ""))];
    let first = desk.customers.once(&desk.ctx, "k1", ops.clone()).await.unwrap();
    assert!(!first.replayed);
    let again = desk.customers.once(&desk.ctx, "k1", ops.clone()).await.unwrap();
    assert!(again.replayed && again.answer == first.answer);
    let error = desk
        .customers
        .once(&desk.ctx, "k1", vec![Op::Create(keys("2", "", ""))])
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("index"), error.context("field")),
        (ErrorKind::Conflict, Some("idempotency_key"), Some("key"))
    );
    // Another key, another tenant, another operation: another request.
    let error = desk
        .customers
        .once(&desk.ctx, "k2", ops.clone())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("index")),
        (ErrorKind::Conflict, None)
    );
    let other = fixtures::context();
    assert!(
        !desk
            .customers
            .once(&other, "k1", ops.clone())
            .await
            .unwrap()
            .replayed
    );
    let own = desk
        .customers
        .once_as(&desk.ctx, "orders.place", "k1", &1, || async { Ok((vec![], 7)) })
        .await
        .unwrap();
    assert_eq!((own.answer, own.replayed), (7, false));
    // After an error the key is free.
    let fixed = desk
        .customers
        .once(&desk.ctx, "k2", vec![Op::Create(keys("3", "", ""))])
        .await
        .unwrap();
    assert!(!fixed.replayed);
    for (key, field) in [("", "key"), (" ", "key"), ("a\0b", "key")] {
        let error = desk
            .customers
            .once(&desk.ctx, key, ops.clone())
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Invalid, Some(field))
        );
    }
    assert_eq!(count(&desk).await, 2);
}

async fn sixty_four_callers_one_effect(desk: Desk) {
    let ana = known(&desk, "1").await;
    let (fresh, mut tasks) = (Arc::new(AtomicUsize::new(0)), tokio::task::JoinSet::new());
    for _ in 0..64 {
        let (customers, ctx, fresh) = (desk.customers.clone(), desk.ctx.clone(), fresh.clone());
        tasks.spawn(async move {
            let ops = vec![
                Op::Create(keys("2", "", "")),
                append(ana, &["a"]),
                tag(ana, "vip"),
            ];
            let once = customers.once(&ctx, "pay", ops).await.unwrap();
            fresh.fetch_add(usize::from(!once.replayed), Ordering::SeqCst);
            once.answer
        });
    }
    let answers: Vec<Vec<OpDone>> = tasks.join_all().await;
    assert_eq!(fresh.load(Ordering::SeqCst), 1);
    assert!(answers.windows(2).all(|two| two[0] == two[1]));
    assert_eq!(count(&desk).await, 2);
    let store = desk.customers.store_ref();
    assert_eq!(
        store
            .count(&desk.ctx, &IDEMPOTENCY_KEY, &Filter::All)
            .await
            .unwrap(),
        1
    );
    // Negative control: without a key each caller has an effect.
    let ops = vec![Op::Create(crate::customers::draft("host", 1))];
    for _ in 0..2 {
        desk.customers
            .batch(&desk.ctx, ops.clone(), Mode::AllOrNothing)
            .await
            .unwrap();
    }
    assert_eq!(count(&desk).await, 4);
}

async fn keys_expire(desk: Desk) {
    let nameless = || vec![Op::Create(crate::customers::draft("host", 1))];
    desk.customers.once(&desk.ctx, "k", nameless()).await.unwrap();
    desk.clock.advance(KEPT - Duration::from_secs(1));
    assert_eq!(desk.customers.sweep_keys(&desk.ctx).await.unwrap(), 0);
    assert!(
        desk.customers
            .once(&desk.ctx, "k", nameless())
            .await
            .unwrap()
            .replayed
    );
    desk.clock.advance(Duration::from_secs(1));
    assert!(
        !desk
            .customers
            .once(&desk.ctx, "k", nameless())
            .await
            .unwrap()
            .replayed,
        "a day is over"
    );
    assert_eq!(
        desk.customers.sweep_keys(&desk.ctx).await.unwrap(),
        0,
        "it is in use again"
    );
    desk.clock.advance(KEPT);
    assert_eq!(desk.customers.sweep_keys(&fixtures::context()).await.unwrap(), 0);
    assert_eq!(desk.customers.sweep_keys(&desk.ctx).await.unwrap(), 1);
    assert_eq!(count(&desk).await, 2);
}

async fn tags_of_many_are_all_kept(desk: Desk) {
    let ana = known(&desk, "1").await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (customers, ctx) = (desk.customers.clone(), desk.ctx.clone());
        tasks.spawn(async move {
            for k in 0..5 {
                let (mine, gone) = (format!("t{n}-{k}"), format!("t{n}-{}", k - 1));
                customers.tag(&ctx, ana, &[&mine], &[&gone]).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let mut tags = desk.customers.tag(&desk.ctx, ana, &[], &[]).await.unwrap();
    tags.sort();
    assert_eq!(tags, (0..8).map(|n| format!("t{n}-4")).collect::<Vec<_>>());
    let error = desk.customers.tag(&desk.ctx, ana, &[" "], &[]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("tags"))
    );
}

/// Increments of each writer; 500 below, where no server is waited for.
const INCREMENTS: i64 = 10;

async fn increments_of_many_are_all_counted(desk: Desk) {
    increments(desk, INCREMENTS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_writers_of_500_increments_lose_none_in_memory() {
    let memory = Arc::new(crm_core::memory::MemoryStore::new("memory"));
    increments(crate::customers::desk(memory), 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_writers_of_500_increments_lose_none() {
    let sqlite = crate::conformance::in_memory().await;
    increments(crate::customers::desk(sqlite), 500).await;
}

/// 8 writers count up one attribute; each success counts, every other answer is a conflict.
async fn increments(desk: Desk, each: i64) {
    let ana = known(&desk, "1").await;
    let conflicts = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (customers, ctx, conflicts) = (desk.customers.clone(), desk.ctx.clone(), conflicts.clone());
        tasks.spawn(async move {
            let (mut done, mut tried) = (0, 0);
            while done < each {
                let mut known = customers.get(&ctx, ana).await.unwrap().unwrap();
                let now = known
                    .attributes
                    .get("count")
                    .and_then(|v| v.as_i64())
                    .unwrap_or(0);
                known.attributes.set("count", now + 1).unwrap();
                match customers.update(&ctx, &known).await {
                    Ok(_) => (done, tried) = (done + 1, 0),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                        assert_eq!(error.context("index"), Some("version"));
                        // Steps back twice as far each time, as a host would: most others get through meanwhile.
                        conflicts.fetch_add(1, Ordering::Relaxed);
                        tried = 6.min(tried + 1);
                        tokio::time::sleep(Duration::from_millis(1 << tried)).await;
                    }
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let page = desk
        .customers
        .store_ref()
        .find(&desk.ctx, &CUSTOMER, &Query::new(Filter::All))
        .await
        .unwrap();
    let stored = &page.items[0];
    let json = stored.record.get("attributes").and_then(|v| v.as_json()).unwrap();
    assert_eq!(json["count"], 8 * each);
    // They did meet.
    assert!(conflicts.load(Ordering::Relaxed) > 0);
    assert_eq!(stored.version, 1 + 8 * each);
}
