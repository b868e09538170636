//! Messages to us.

use crm_channels::Outgoing;
use crm_channels::inbound::{Answers, INBOUND};
use crm_core::consent::{Recipient, SuppressionReason, SuppressionScope};
use crm_core::customer::Address;
use crm_core::message::{Channel, InboundEvent, InboundMessage, Keyword, Sms};
use crm_core::query::{Filter, Query};
use crm_core::{Clock as _, CustomerId};

use super::{Office, phone};
use crate::common::{evidence, key, news, receipt};

const NUMBER: &str = "+15005550006";
const OURS: &str = "+15005550001";

fn text(o: &Office, reference: &str, from: &str, text: &str) -> InboundEvent {
    InboundEvent::Message(InboundMessage {
        provider: "twilio".into(),
        provider_ref: reference.into(),
        channel: Channel::Sms,
        from: phone(from),
        to: OURS.into(),
        text: text.into(),
        at: o.w.clock.now(),
        keyword: None,
    })
}

/// A customer who agreed to news by every channel, at an office that answers.
async fn office() -> (Office, CustomerId) {
    let mut o = Office::new().await;
    o.outreach = o.outreach.clone().with_answers(Answers {
        stopped: Some("No more messages. START to get them again.".into()),
        started: Some("You get messages again.".into()),
        help: Some("This is the shop. STOP to end.".into()),
    });
    let ana = o.w.subscriber("Ana", "ana@example.org").await;
    o.reached_at(ana, NUMBER).await;
    o.outreach
        .grant(&o.w.ctx, ana, &phone(NUMBER), &news(), evidence(), None)
        .await
        .unwrap();
    (o, ana)
}

async fn allowed(
    o: &Office,
    who: CustomerId,
    address: &Address,
    channel: Channel,
    purpose: &crm_core::consent::Purpose,
) -> bool {
    let recipient = Recipient::new(who, address).by(channel);
    o.outreach
        .gate()
        .unwrap()
        .explain(&o.w.ctx, &recipient, purpose)
        .await
        .unwrap()
        .allowed
}

async fn send(o: &Office) {
    o.outreach.dispatcher().unwrap().drain(&o.w.ctx).await.unwrap();
}

/// SMS-5.
#[tokio::test]
async fn after_stop_there_is_one_answer_and_nothing_else() {
    let (o, ana) = office().await;
    let number = phone(NUMBER);
    o.w.pass(1);
    // Something was on its way already.
    let Address::Phone(to) = number.clone() else {
        unreachable!()
    };
    let late = Sms::new(o.w.ids.fresh().into(), to, "Sale!");
    o.outreach
        .enqueue(&o.w.ctx, Outgoing::sms(late, ana, news()), vec![])
        .await
        .unwrap();

    let stop = text(&o, "SM1", NUMBER, "Please stop texting me.");
    let report = o.outreach.ingest(&o.w.ctx, vec![stop.clone()]).await.unwrap();
    assert_eq!(report.stopped, 1);
    for purpose in [news(), crm_core::consent::Purpose::marketing("sale").unwrap()] {
        assert!(!allowed(&o, ana, &number, Channel::Sms, &purpose).await);
    }
    assert!(
        allowed(&o, ana, &number, Channel::Voice, &news()).await,
        "a STOP by SMS says nothing of calls"
    );
    let mail = crate::common::email("ana@example.org");
    assert!(
        allowed(&o, ana, &mail, Channel::Email, &news()).await,
        "nor of mail"
    );
    assert!(
        allowed(&o, ana, &number, Channel::Sms, &receipt()).await,
        "the parcel still is announced"
    );

    // Again, in other words, and the same one delivered again and again.
    let more = vec![
        stop.clone(),
        stop,
        text(&o, "SM2", NUMBER, "STOP"),
        text(&o, "SM3", NUMBER, "退订"),
    ];
    let report = o.outreach.ingest(&o.w.ctx, more).await.unwrap();
    assert_eq!((report.stopped, report.repeated), (2, 2));
    send(&o).await;
    o.w.pass(86_400);
    send(&o).await;
    let sent = o.sms.sent();
    assert_eq!(sent.len(), 1, "one confirmation");
    let sms = sent[0].message();
    assert_eq!(
        (sms.text.as_str(), sms.from.as_deref()),
        ("No more messages. START to get them again.", Some(OURS))
    );
    let suppressions = o.suppressions(&o.w.ctx).await;
    assert_eq!(suppressions.len(), 1);
    let s = &suppressions[0];
    assert_eq!(
        (&s.scope, s.channel),
        (&SuppressionScope::Marketing, Some(Channel::Sms))
    );
    assert_eq!(o.kinds().await.iter().filter(|k| *k == "sms.received").count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stops_that_come_at_once_get_one_answer() {
    let (o, _) = office().await;
    let mut tasks = Vec::new();
    for i in 0..16 {
        let (outreach, ctx, event) = (
            o.outreach.clone(),
            o.w.ctx.clone(),
            text(&o, &format!("SM{i}"), NUMBER, "STOP"),
        );
        tasks.push(tokio::spawn(async move {
            outreach.ingest(&ctx, vec![event]).await.unwrap().stopped
        }));
    }
    let mut stopped = 0;
    for task in tasks {
        stopped += task.await.unwrap();
    }
    assert_eq!(stopped, 16);
    send(&o).await;
    assert_eq!(o.sms.sent().len(), 1);
}

#[tokio::test]
async fn start_gives_back_what_stop_took_and_no_more() {
    let (o, ana) = office().await;
    let number = phone(NUMBER);
    let offers = crm_core::consent::Purpose::marketing("offers").unwrap();
    o.outreach
        .grant(&o.w.ctx, ana, &number, &offers, evidence(), None)
        .await
        .unwrap();
    o.w.pass(1);
    o.outreach
        .withdraw(&o.w.ctx, ana, &number, &offers, evidence())
        .await
        .unwrap();
    o.w.pass(1);
    o.outreach
        .ingest(&o.w.ctx, vec![text(&o, "SM1", NUMBER, "STOP")])
        .await
        .unwrap();
    assert!(!allowed(&o, ana, &number, Channel::Sms, &news()).await);
    // Without the clock moving on: the later word counts all the same.
    let report = o
        .outreach
        .ingest(&o.w.ctx, vec![text(&o, "SM2", NUMBER, " Start. ")])
        .await
        .unwrap();
    assert_eq!(report.started, 1);
    o.w.pass(1);
    assert!(allowed(&o, ana, &number, Channel::Sms, &news()).await);
    assert!(
        !allowed(&o, ana, &number, Channel::Sms, &offers).await,
        "that was taken back elsewhere"
    );
    // STOP counts again, and is answered again.
    o.outreach
        .ingest(&o.w.ctx, vec![text(&o, "SM3", NUMBER, "stop")])
        .await
        .unwrap();
    assert!(!allowed(&o, ana, &number, Channel::Sms, &news()).await);
    send(&o).await;
    let said: Vec<String> = o.sms.sent().iter().map(|s| s.message().text.clone()).collect();
    assert_eq!(said.len(), 3, "{said:?}");
}

#[tokio::test]
async fn start_brings_nobody_back_who_complained_or_was_forgotten() {
    for (scope, reason) in [
        (SuppressionScope::All, SuppressionReason::Complaint),
        (SuppressionScope::All, SuppressionReason::Erased),
        (SuppressionScope::Marketing, SuppressionReason::Manual),
    ] {
        let (o, ana) = office().await;
        let number = phone(NUMBER);
        o.outreach
            .ingest(&o.w.ctx, vec![text(&o, "SM1", NUMBER, "STOP")])
            .await
            .unwrap();
        o.outreach
            .suppress(&o.w.ctx, &number, scope, reason)
            .await
            .unwrap();
        o.w.pass(1);
        o.outreach
            .ingest(&o.w.ctx, vec![text(&o, "SM2", NUMBER, "START")])
            .await
            .unwrap();
        o.w.pass(1);
        assert!(
            !allowed(&o, ana, &number, Channel::Sms, &news()).await,
            "{reason:?}"
        );
    }
}

#[tokio::test]
async fn a_stop_from_a_number_nobody_has_counts_all_the_same() {
    let (o, _) = office().await;
    let stranger = "+4930901820";
    let report = o
        .outreach
        .ingest(&o.w.ctx, vec![text(&o, "SM1", stranger, "STOP")])
        .await
        .unwrap();
    assert_eq!(report.stopped, 1);
    let suppressions = o.suppressions(&o.w.ctx).await;
    assert_eq!(suppressions.len(), 1);
    assert_eq!(suppressions[0].address_key, key().of_address(&phone(stranger)));
    // Whoever gets that number later is asked first, and is not written to.
    let bob = o.w.customer("Bob", "bob@example.org").await;
    o.reached_at(bob, stranger).await;
    o.outreach
        .grant(&o.w.ctx, bob, &phone(stranger), &news(), evidence(), None)
        .await
        .unwrap();
    assert!(!allowed(&o, bob, &phone(stranger), Channel::Sms, &news()).await);
    assert!(o.w.timeline().await.is_empty());
    send(&o).await;
    assert!(o.sms.sent().is_empty());
}

#[tokio::test]
async fn help_is_answered_and_other_words_are_kept_for_a_person() {
    let (o, ana) = office().await;
    let events = vec![
        text(&o, "SM1", NUMBER, "help?"),
        text(&o, "SM2", NUMBER, "DON'T STOP"),
        text(&o, "SM3", NUMBER, "When do you open?"),
        text(&o, "SM4", NUMBER, &"a\0b🙂".repeat(10_000)),
    ];
    let report = o.outreach.ingest(&o.w.ctx, events.clone()).await.unwrap();
    assert_eq!((report.helped, report.review, report.texts), (1, 1, 2));
    assert_eq!(o.outreach.ingest(&o.w.ctx, events).await.unwrap().repeated, 4);
    assert!(
        allowed(&o, ana, &phone(NUMBER), Channel::Sms, &news()).await,
        "nobody opted out"
    );
    let timeline = o.w.timeline().await;
    assert_eq!(timeline.len(), 4);
    let review: Vec<_> = timeline
        .iter()
        .filter(|i| i.data.get("review") == Some(&true.into()))
        .collect();
    assert_eq!(review.len(), 1);
    assert_eq!(review[0].data.get("text").unwrap(), "DON'T STOP");
    assert!(
        timeline
            .iter()
            .all(|i| i.customer_id == ana && i.kind == "sms.received")
    );
    send(&o).await;
    assert_eq!(o.sms.sent().len(), 1);
}

/// A vendor that understood the word by itself has answered by itself.
#[tokio::test]
async fn what_the_vendor_understood_is_done_and_not_answered() {
    let (o, ana) = office().await;
    let InboundEvent::Message(mut message) = text(&o, "SM1", NUMBER, "Schluss jetzt") else {
        unreachable!()
    };
    message.keyword = Some(Keyword::Stop);
    let report = o
        .outreach
        .ingest(&o.w.ctx, vec![InboundEvent::Message(message)])
        .await
        .unwrap();
    assert_eq!(report.stopped, 1);
    assert!(!allowed(&o, ana, &phone(NUMBER), Channel::Sms, &news()).await);
    send(&o).await;
    assert!(o.sms.sent().is_empty());
}

/// A mail may quote "stop" from anywhere: it is no command.
#[tokio::test]
async fn only_text_messages_are_commands() {
    let (o, ana) = office().await;
    let mail = crate::common::email("ana@example.org");
    let event = InboundEvent::Message(InboundMessage {
        provider: "mailbox".into(),
        provider_ref: "<1@example.org>".into(),
        channel: Channel::Email,
        from: mail.clone(),
        to: "shop@example.com".into(),
        text: "stop".into(),
        at: o.w.clock.now(),
        keyword: None,
    });
    assert_eq!(o.outreach.ingest(&o.w.ctx, vec![event]).await.unwrap().texts, 1);
    assert!(allowed(&o, ana, &mail, Channel::Email, &news()).await);
    assert_eq!(o.kinds().await, ["mail.received"]);
}

/// Strangers' words lie where retention finds them, on nobody's timeline.
#[tokio::test]
async fn words_of_strangers_are_kept_for_a_person() {
    let (o, _) = office().await;
    o.outreach
        .ingest(&o.w.ctx, vec![text(&o, "SM1", "+4930901820", "Hello?")])
        .await
        .unwrap();
    let page =
        o.w.store
            .find(&o.w.ctx, &INBOUND, &Query::new(Filter::eq("outcome", "text")))
            .await
            .unwrap();
    let event = page.items[0].record.get("event").unwrap().as_json().unwrap();
    assert_eq!(event["text"], "Hello?");
}
