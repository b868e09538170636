use std::sync::Arc;
use std::time::Duration;

use crm_core::capability::RecordStore as _;
use crm_core::consent::{Ask, FrequencyCap, Gate, GateRules, PurposeClass, SEND_COUNT, Verdict};
use crm_core::message::{Channel, Sendable as _};
use crm_core::query::{Filter, Query};
use crm_core::record::Write;
use crm_core::{Clock as _, ErrorKind};

use super::world::{World, email, key, news, phone, receipt};

const WEEK: Duration = Duration::from_secs(7 * 86_400);

fn rules() -> GateRules {
    GateRules {
        caps: vec![
            FrequencyCap::new("touches", 3, WEEK).of_class(PurposeClass::Marketing),
            FrequencyCap::new("texts", 1, Duration::from_secs(3600)).by(Channel::Sms),
        ],
        ..GateRules::default()
    }
}

async fn capped() -> World {
    let mut w = World::new().await;
    w.gate = w.gate.clone().with_rules(rules()).unwrap();
    w
}

async fn commit(w: &World, ask: Ask) -> Result<(), Verdict> {
    match w.verdict(ask).await {
        Verdict::Go { writes, .. } => {
            w.store.apply(&w.ctx, &writes).await.unwrap();
            Ok(())
        }
        other => Err(other),
    }
}

#[tokio::test]
async fn touches_are_counted_over_all_channels_in_a_window_that_moves() {
    let w = capped().await;
    let (mail, tel) = (email("ana@example.org"), phone("+12125551234"));
    let ana = w.customer(&[&mail, &tel]).await;
    for address in [&mail, &tel] {
        w.gate
            .grant(&w.ctx, ana, address, &news(), super::world::evidence(), None)
            .await
            .unwrap();
    }
    let start = w.clock.now();
    commit(&w, w.ask(ana, &mail, &news())).await.unwrap();
    w.pass(60);
    commit(&w, w.ask(ana, &tel, &news())).await.unwrap();
    // A second text within the hour waits for the hour, and is free then.
    w.pass(60);
    let Err(Verdict::Later { at, decision, .. }) = commit(&w, w.ask(ana, &tel, &news())).await else {
        panic!("a text an hour");
    };
    assert_eq!(at, start.plus(Duration::from_secs(3660)));
    assert_eq!(decision.rule(), "frequency");
    assert!(decision.last().contains("texts"), "{decision}");
    // A call counts as a touch, but is no text.
    let call = Ask::new(w.message(&tel, Channel::Voice), news(), ana);
    commit(&w, call).await.unwrap();
    let Err(Verdict::Later { at, decision, .. }) = commit(&w, w.ask(ana, &mail, &news())).await else {
        panic!("three touches a week");
    };
    assert_eq!(at, start.plus(WEEK), "when the first one is a week ago");
    assert!(decision.last().contains("touches"), "{decision}");
    // A receipt is no touch.
    commit(&w, w.ask(ana, &mail, &receipt())).await.unwrap();
    w.clock.set(at);
    commit(&w, w.ask(ana, &mail, &news())).await.unwrap();
    assert!(
        commit(&w, w.ask(ana, &mail, &news())).await.is_err(),
        "the window is full again"
    );
}

#[tokio::test]
async fn a_message_counts_once_and_can_be_given_back() {
    let w = capped().await;
    let mail = email("ana@example.org");
    let ana = w.subscriber(&mail, &news()).await;
    let retried = w.ask(ana, &mail, &news());
    for _ in 0..5 {
        // The same message is asked for again: its provider was down.
        commit(&w, retried.clone()).await.unwrap();
    }
    commit(&w, w.ask(ana, &mail, &news())).await.unwrap();
    commit(&w, w.ask(ana, &mail, &news())).await.unwrap();
    assert!(commit(&w, w.ask(ana, &mail, &news())).await.is_err());
    commit(&w, retried.clone()).await.unwrap();
    let back = w
        .gate
        .give_back(&w.ctx, &[(ana, retried.message.message_id())])
        .await
        .unwrap();
    assert_eq!(back.len(), 1);
    w.store.apply(&w.ctx, &back).await.unwrap();
    commit(&w, w.ask(ana, &mail, &news())).await.unwrap();
    assert!(commit(&w, w.ask(ana, &mail, &news())).await.is_err());
}

#[tokio::test]
async fn within_a_batch_the_places_go_to_the_first_and_the_writes_follow_each_other() {
    let w = capped().await;
    let mail = email("ana@example.org");
    let ana = w.subscriber(&mail, &news()).await;
    let asks: Vec<Ask> = (0..5).map(|_| w.ask(ana, &mail, &news())).collect();
    let verdicts = w.gate.permit_all(&w.ctx, asks).await.unwrap();
    let kinds: Vec<bool> = verdicts.iter().map(|v| matches!(v, Verdict::Go { .. })).collect();
    assert_eq!(kinds, [true, true, true, false, false]);
    let writes = |v: &Verdict| match v {
        Verdict::Go { writes, .. } => writes.clone(),
        _ => Vec::new(),
    };
    // The second without the first: somebody counts anew.
    let error = w.store.apply(&w.ctx, &writes(&verdicts[1])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let all: Vec<Write> = verdicts.iter().flat_map(writes).collect();
    assert_eq!(all.len(), 3);
    w.store.apply(&w.ctx, &all).await.unwrap();
    assert!(commit(&w, w.ask(ana, &mail, &news())).await.is_err());
}

/// 64 workers for one customer: with the versions of the writes respected exactly three get through. The control commits
/// the same writes blindly, and lets more through.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_workers_three_get_through_and_without_versions_more_would() {
    for blind in [false, true] {
        let w = Arc::new(capped().await);
        let mail = email("ana@example.org");
        let ana = w.subscriber(&mail, &news()).await;
        let barrier = Arc::new(tokio::sync::Barrier::new(64));
        let workers: Vec<_> = (0..64)
            .map(|_| {
                let (w, barrier) = (w.clone(), barrier.clone());
                let ask = w.ask(ana, &mail, &news());
                tokio::spawn(async move {
                    let mut first = true;
                    loop {
                        let verdict = w.verdict(ask.clone()).await;
                        if std::mem::take(&mut first) {
                            barrier.wait().await;
                        }
                        let Verdict::Go { writes, .. } = verdict else {
                            return 0;
                        };
                        let writes: Vec<Write> = match blind {
                            false => writes,
                            true => writes.into_iter().map(without_version).collect(),
                        };
                        match w.store.apply(&w.ctx, &writes).await {
                            Ok(_) => return 1,
                            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
                        }
                    }
                })
            })
            .collect();
        let mut sent = 0;
        for worker in workers {
            sent += worker.await.unwrap();
        }
        if blind {
            assert!(sent > 3, "the control must let too many through");
        } else {
            assert_eq!(sent, 3);
            let found = w
                .store
                .find(&w.ctx, &SEND_COUNT, &Query::new(Filter::All))
                .await
                .unwrap();
            assert_eq!(
                found.items[0]
                    .record
                    .get("sends")
                    .unwrap()
                    .as_json()
                    .unwrap()
                    .as_array()
                    .unwrap()
                    .len(),
                3
            );
        }
    }
}

fn without_version(write: Write) -> Write {
    match write {
        Write::Insert { id, record, .. } | Write::Update { id, record, .. } => Write::put(id, record),
        other => other,
    }
}

#[tokio::test]
async fn a_single_message_is_counted_when_it_is_permitted() {
    let w = capped().await;
    let mail = email("ana@example.org");
    let ana = w.subscriber(&mail, &news()).await;
    for allowed in [true, true, true, false] {
        let permitted = w
            .gate
            .permit(&w.ctx, w.message(&mail, Channel::Email), &news(), ana)
            .await;
        assert_eq!(permitted.is_ok(), allowed);
    }
    // Who was merged brings what they got.
    let bo_mail = email("bo@example.org");
    let bo = w.subscriber(&bo_mail, &news()).await;
    commit(&w, w.ask(bo, &bo_mail, &news())).await.unwrap();
    let alias = crm_core::record::Record::new(&crm_core::customer::CUSTOMER_ALIAS)
        .with("customer_id", bo)
        .and_then(|r| r.with("merge_id", w.ids.fresh()))
        .and_then(|r| r.with("created_at", w.clock.now()))
        .unwrap();
    w.store.apply(&w.ctx, &[Write::insert(ana, alias)]).await.unwrap();
    let Err(Verdict::Later { .. }) = commit(&w, w.ask(bo, &bo_mail, &news())).await else {
        panic!("one of hers and three of those she was merged with");
    };
}

#[test]
fn caps_that_make_no_sense_are_named() {
    let setting = |caps: Vec<FrequencyCap>| {
        let rules = GateRules {
            caps,
            ..GateRules::default()
        };
        let error = rules.validate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        error.context("setting").unwrap().to_owned()
    };
    let cap = |name: &str, most, secs| FrequencyCap::new(name, most, Duration::from_secs(secs));
    assert_eq!(setting(vec![cap("Touches", 1, 1)]), "caps.name");
    assert_eq!(setting(vec![cap("a", 0, 1)]), "caps.most");
    assert_eq!(setting(vec![cap("a", 1001, 1)]), "caps.most");
    assert_eq!(setting(vec![cap("a", 1, 0)]), "caps.per");
    assert_eq!(setting(vec![cap("a", 1, 1), cap("a", 2, 2)]), "caps.name");
    let store: Arc<dyn crm_core::capability::RecordStore> = Arc::new(crm_core::memory::MemoryStore::new("m"));
    let gate = Gate::new(store, crm_core::SystemClock::shared(), key());
    let wrong = GateRules {
        caps: vec![cap("a", 0, 1)],
        ..GateRules::default()
    };
    assert!(gate.with_rules(wrong).is_err());
}
