//! 10,000 recipients, 500 of whom opt out while it is being sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crm_channels::{Audience, CampaignPlan, Mode, OutboxState, Outreach};
use crm_core::capability::MailCapability;
use crm_core::capability::{Mailer, RecordStore};
use crm_core::memory::MemoryMailer;
use crm_core::query::Filter;
use crm_core::{Consumer, Registry, SystemClock, Timestamp};

use super::{Person, Town, letter};
use crate::common::{email, evidence, key, mailbox, news};

const PEOPLE: usize = 10_000;
const LEAVING: usize = 500;

fn later(withdrawn: &HashMap<usize, Timestamp>, sent: &HashMap<usize, Timestamp>) -> Vec<usize> {
    withdrawn
        .iter()
        .filter(|(n, at)| {
            sent.get(n)
                .is_some_and(|sent| *sent > at.plus(Duration::from_secs(1)))
        })
        .map(|(n, _)| *n)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opts_out_while_it_is_being_sent_gets_nothing_a_second_later() {
    let town = Town::new().await;
    let people: Vec<Person> = (0..PEOPLE).map(|n| Person::by_mail("Ana", n)).collect();
    let ids = town.settle(&people).await;
    let clock = SystemClock::shared();
    let mailer = Arc::new(
        MemoryMailer::new("mailer")
            .with_clock(clock.clone())
            .with_capability(MailCapability::new(1 << 20, false, true)),
    );
    let registry = Registry::builder()
        .provide::<dyn RecordStore>(0, town.w.store.clone())
        .provide::<dyn Mailer>(0, mailer.clone())
        .build()
        .unwrap();
    let outreach = Outreach::bind(&registry)
        .unwrap()
        .with_clock(clock.clone())
        .address_key(key())
        .mode(Mode::Live);
    let ctx = town.w.ctx.clone();
    let all = town.segment("all", Filter::All).await;
    let from = mailbox("shop@example.com", "Shop");
    let plan = CampaignPlan::new("spring", Audience::frozen(all), news(), letter(), from);
    outreach.launch(&ctx, &plan, |_| {}).await.unwrap();

    let work: Vec<_> = (0..2)
        .map(|_| {
            let (dispatcher, ctx) = (outreach.dispatcher().unwrap(), ctx.clone());
            tokio::spawn(async move { dispatcher.drain(&ctx).await.unwrap() })
        })
        .collect();
    // From the end of the list, so that most of them are still waiting.
    let withdrawn = Arc::new(Mutex::new(HashMap::new()));
    for n in (PEOPLE - LEAVING..PEOPLE).rev() {
        let address = email(&format!("p{n}@example.org"));
        outreach
            .withdraw(&ctx, ids[n], &address, &news(), evidence())
            .await
            .unwrap();
        withdrawn.lock().unwrap().insert(n, clock.now());
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    for work in work {
        work.await.unwrap();
    }
    let number: HashMap<_, usize> = ids.iter().enumerate().map(|(n, id)| (id.uuid(), n)).collect();
    let mut sent = HashMap::new();
    for row in town.rows("spring").await {
        let r = &row.record;
        if r.text("state").unwrap() == OutboxState::Sent.as_str() {
            let receipt = r.get("receipt").unwrap().as_json().unwrap();
            let at: Timestamp = serde_json::from_value(receipt["accepted_at"].clone()).unwrap();
            sent.insert(number[&r.uuid("customer_id").unwrap()], at);
        }
    }
    assert_eq!(
        sent.len(),
        mailer.sent().len(),
        "what is called sent was handed over"
    );
    let withdrawn = withdrawn.lock().unwrap();
    let late = later(&withdrawn, &sent);
    assert!(late.is_empty(), "{} got it later than a second after", late.len());
    let spared = withdrawn.keys().filter(|n| !sent.contains_key(n)).count();
    assert!(spared > 0, "all had it before they opted out: nothing was tried");
    assert!(sent.len() >= PEOPLE - LEAVING);
    // The check sees one that came too late.
    let (n, at) = withdrawn.iter().next().unwrap();
    sent.insert(*n, at.plus(Duration::from_millis(1001)));
    assert_eq!(later(&withdrawn, &sent), [*n]);
}
