//! News from outside on real databases: what comes at once and again and again counts once.

use std::sync::Arc;

use open_crm::capability::{Mailer, RecordStore};
use open_crm::channels::mail::RecordMailer;
use open_crm::channels::{Outgoing, Outreach};
use open_crm::consent::Purpose;
use open_crm::message::{Blame, DeliveryEvent, DeliveryState, InboundEvent, MessageId};
use open_crm::record::Write;
use open_crm::{Clock as _, Consumer as _, Registry, SystemClock, Timestamp};
use tokio::sync::Barrier;

use super::{Place, contact, fresh, key, mail, places};

const TASKS: usize = 32;
const CONNECTIONS: usize = 4;

async fn outreach(place: &Place) -> Outreach {
    let store = place.open().await;
    let registry = Registry::builder()
        .provide::<dyn RecordStore>(0, store)
        .provide::<dyn Mailer>(0, Arc::new(RecordMailer::new("record")))
        .build()
        .unwrap();
    Outreach::bind(&registry).unwrap().address_key(key())
}

fn told(id: MessageId, event: usize, state: DeliveryState) -> InboundEvent {
    InboundEvent::Delivery(DeliveryEvent {
        provider: "vendor".into(),
        event_id: format!("{id}:{event}"),
        message_id: Some(id),
        provider_ref: None,
        recipient: None,
        state,
        at: Timestamp::from_micros(1_000_000 * i64::try_from(event).unwrap()),
        code: Some("5.1.1".into()),
        reason: None,
        blame: if state == DeliveryState::Failed {
            Blame::Recipient
        } else {
            Blame::Nobody
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_count_once_on_every_database() {
    let folder = tempfile::tempdir().unwrap();
    let states = [
        DeliveryState::Accepted,
        DeliveryState::Delivered,
        DeliveryState::Delivered,
        DeliveryState::Failed,
    ];
    for place in places(folder.path()) {
        let first = outreach(&place).await;
        let customer = fresh().into();
        let point: Write = contact(customer, 1);
        let outgoing = Outgoing::email(mail(1), customer, Purpose::transactional("receipt").unwrap());
        let id = first.enqueue(&place.ctx(), outgoing, vec![point]).await.unwrap();
        let mut all = vec![first];
        for _ in 1..CONNECTIONS {
            all.push(outreach(&place).await);
        }
        let barrier = Arc::new(Barrier::new(TASKS));
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (barrier, outreach, place) =
                    (barrier.clone(), all[task % CONNECTIONS].clone(), place.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    let mut applied = 0;
                    // Every task tells all of them, each from another one on.
                    for i in 0..states.len() {
                        let event = (i + task) % states.len();
                        let news = vec![told(id, event, states[event])];
                        // A database that is too busy says so, and then the vendor calls again.
                        applied += loop {
                            match outreach.ingest(&place.ctx(), news.clone()).await {
                                Ok(report) => break report.applied,
                                Err(error) => assert!(error.is_retryable(), "{error:?}"),
                            }
                        };
                    }
                    applied
                })
            })
            .collect();
        let mut applied = 0;
        for task in tasks {
            applied += task.await.unwrap();
        }
        assert_eq!(applied, states.len() as u64, "{}", place.url);
        // The oracle: the database's own client.
        let ask = |sql: &str| place.ask(sql);
        assert_eq!(
            ask("select delivery, state from crm_outbox where tenant = $tenant"),
            ["failed\tqueued"],
            "{}",
            place.url
        );
        assert_eq!(
            ask("select count(*), count(distinct event_id) from crm_inbound where tenant = $tenant"),
            ["4\t4"]
        );
        assert_eq!(
            ask("select kind from crm_interaction where tenant = $tenant order by kind"),
            ["mail.delivered", "mail.failed"]
        );
        assert_eq!(
            ask("select reason, channel from crm_suppression where tenant = $tenant"),
            ["undeliverable\temail"]
        );
        assert_eq!(
            ask("select state, deliverability from crm_contact_point where tenant = $tenant"),
            ["invalid\tbounced"]
        );
        let entry = all[0].message(&place.ctx(), id).await.unwrap();
        assert_eq!(
            entry.delivered_at,
            Some(Timestamp::from_micros(1_000_000)),
            "the earliest one"
        );
        assert!(entry.run_at <= SystemClock.now());
    }
}
