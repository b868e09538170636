//! 10,000 recipients, 500 of whom opt out while it is being sent. The judge is Postfix' sink: the files that it writes, and
//! when it wrote them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crm_channels::mail::{SmtpConfig, SmtpMailer};
use crm_channels::{Audience, CampaignPlan, DispatchSettings, Mode, OutboxState, Outreach};
use crm_core::capability::{Mailer, RecordStore};
use crm_core::query::Filter;
use crm_core::{Consumer, Registry, SystemClock, Timestamp};

use super::{Person, Town, letter};
use crate::common::{email, evidence, key, mailbox, news};
use crate::mail::sink::Sink;

const PEOPLE: usize = 10_000;
const LEAVING: usize = 500;

fn address(n: usize) -> String {
    format!("p{n}@example.org")
}

/// Who got it more than a second after they had opted out.
fn late(withdrawn: &HashMap<usize, Timestamp>, arrived: &HashMap<String, Timestamp>) -> Vec<usize> {
    withdrawn
        .iter()
        .filter(|(n, at)| {
            arrived
                .get(&address(**n))
                .is_some_and(|arrived| *arrived > at.plus(Duration::from_secs(1)))
        })
        .map(|(n, _)| *n)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opts_out_while_it_is_being_sent_gets_nothing_a_second_later() {
    let Some(sink) = Sink::start("who_opts_out_while_it_is_being_sent", &[]).await else {
        return;
    };
    let town = Town::new().await;
    let people: Vec<Person> = (0..PEOPLE).map(|n| Person::by_mail("Ana", n)).collect();
    let ids = town.settle(&people).await;
    let clock = SystemClock::shared();
    // With the patience that it has by itself, so that a busy machine leaves nothing in doubt.
    let url = format!(
        "smtp://{}?tls=dangerous-plaintext&hello=crm.example",
        sink.address
    );
    let mailer = SmtpMailer::build("sink", SmtpConfig::from_url(&url).unwrap()).unwrap();
    let mailer: Arc<dyn Mailer> = Arc::new(mailer);
    let registry = Registry::builder()
        .provide::<dyn RecordStore>(0, town.w.store.clone())
        .provide::<dyn Mailer>(0, mailer)
        .build()
        .unwrap();
    let outreach = Outreach::bind(&registry)
        .unwrap()
        .with_clock(clock.clone())
        .address_key(key())
        .mode(Mode::Live)
        .settings(DispatchSettings {
            concurrency: 16,
            ..DispatchSettings::default()
        });
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
    let mut withdrawn = HashMap::new();
    for n in (PEOPLE - LEAVING..PEOPLE).rev() {
        outreach
            .withdraw(&ctx, ids[n], &email(&address(n)), &news(), evidence())
            .await
            .unwrap();
        withdrawn.insert(n, clock.now());
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    for work in work {
        work.await.unwrap();
    }
    let number: HashMap<_, usize> = ids.iter().enumerate().map(|(n, id)| (id.uuid(), n)).collect();
    let sent: BTreeSet<String> = town
        .rows("spring")
        .await
        .iter()
        .filter(|row| row.record.text("state").unwrap() == OutboxState::Sent.as_str())
        .map(|row| address(number[&row.record.uuid("customer_id").unwrap()]))
        .collect();
    let mut arrived = sink.arrived();
    let found: BTreeSet<String> = arrived.keys().cloned().collect();
    let odd: Vec<&String> = sent.symmetric_difference(&found).take(10).collect();
    assert!(
        odd.is_empty(),
        "what is called sent arrived, and nothing else: {odd:?}"
    );
    let seen = late(&withdrawn, &arrived);
    assert!(seen.is_empty(), "{} got it later than a second after", seen.len());
    let spared = withdrawn
        .keys()
        .filter(|n| !arrived.contains_key(&address(**n)))
        .count();
    assert!(spared > 0, "all had it before they opted out: nothing was tried");
    assert!(arrived.len() >= PEOPLE - LEAVING);
    // A file that came too late is seen.
    let (n, at) = withdrawn.iter().next().unwrap();
    let file = std::fs::File::create(sink.folder.path().join("mail.late")).unwrap();
    std::io::Write::write_all(&mut &file, format!("X-Rcpt-Args: <{}>\n", address(*n)).as_bytes()).unwrap();
    let after = at.plus(Duration::from_millis(1001)).since(Timestamp::EPOCH);
    file.set_modified(SystemTime::UNIX_EPOCH + after).unwrap();
    arrived = sink.arrived();
    assert_eq!(late(&withdrawn, &arrived), [*n]);
}
