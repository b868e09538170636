//! The consent gate's caps on real databases: of many workers who want the last places each gets through only while there
//! is one. The control commits the same counts without their versions, and lets more through.

use std::sync::Arc;
use std::time::Duration;

use crm_core::consent::{AddressKey, Ask, FrequencyCap, Gate, GateRules, Purpose, Verdict};
use crm_core::customer::{CONTACT_POINT, EmailAddress};
use crm_core::message::{Email, Mailbox};
use crm_core::record::{Record, Write};
use crm_core::testkit::fixtures;
use crm_core::{ErrorKind, Secret, SystemClock, Uuid};
use tokio::sync::Barrier;

use crate::stores::{Opened, stores};

const WORKERS: usize = 16;
const MOST: usize = 3;

/// How many of the workers get a message out.
async fn race(opened: &Opened, blind: bool) -> usize {
    let store = opened.store.clone();
    let ctx = fixtures::context();
    let key = AddressKey::new(&Secret::new("a long random text kept outside the store")).unwrap();
    let rules = GateRules {
        caps: vec![FrequencyCap::new(
            "week",
            u32::try_from(MOST).unwrap(),
            Duration::from_secs(604_800),
        )],
        ..GateRules::default()
    };
    let gate = Gate::new(store.clone(), SystemClock::shared(), key)
        .with_rules(rules)
        .unwrap();
    let mut schemas = Gate::schemas().to_vec();
    schemas.push(&CONTACT_POINT);
    store.migrate(&schemas).await.unwrap();
    let address = EmailAddress::parse("ana@example.org").unwrap();
    let ana: Uuid = fixtures::id();
    let point = Record::new(&CONTACT_POINT)
        .with("customer_id", ana)
        .and_then(|r| r.with("kind", "email"))
        .and_then(|r| r.with("value", address.as_str()))
        .and_then(|r| r.with("primary_point", true))
        .and_then(|r| r.with("state", "verified"))
        .and_then(|r| r.with("created_at", crm_core::Timestamp::EPOCH))
        .unwrap();
    store
        .apply(&ctx, &[Write::insert(fixtures::id(), point)])
        .await
        .unwrap();

    let start = Arc::new(Barrier::new(WORKERS));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (gate, store, ctx, start) = (gate.clone(), store.clone(), ctx.clone(), start.clone());
            let mailbox = Mailbox::new(address.clone(), "").unwrap();
            let mail = Email::new(fixtures::id().into(), mailbox.clone(), mailbox, "Hello", "Hello");
            let ask = Ask::new(mail, Purpose::transactional("notice").unwrap(), ana.into());
            tokio::spawn(async move {
                let mut first = true;
                loop {
                    let verdict = gate.permit_all(&ctx, vec![ask.clone()]).await.unwrap().remove(0);
                    if std::mem::take(&mut first) {
                        start.wait().await;
                    }
                    let writes = match verdict {
                        Verdict::Go { writes, .. } => writes,
                        Verdict::Later { .. } => return 0,
                        Verdict::No { decision, .. } => panic!("{decision}"),
                    };
                    let writes: Vec<Write> = match blind {
                        false => writes,
                        true => writes.into_iter().map(without_version).collect(),
                    };
                    match store.apply(&ctx, &writes).await {
                        Ok(_) => return 1,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
                    }
                }
            })
        })
        .collect();
    let mut sent = 0;
    for worker in workers {
        sent += worker.await.unwrap();
    }
    sent
}

fn without_version(write: Write) -> Write {
    match write {
        Write::Insert { id, record, .. } | Write::Update { id, record, .. } => Write::put(id, record),
        other => other,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_worker_gets_a_place_that_is_taken() {
    for opened in stores().await {
        assert_eq!(race(&opened, false).await, MOST, "{}", opened.name);
        assert!(
            race(&opened, true).await > MOST,
            "{}: the control must fail",
            opened.name
        );
    }
}
