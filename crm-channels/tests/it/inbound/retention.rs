use std::time::Duration;

use crm_channels::DispatchSettings;
use crm_channels::inbound::INBOUND;
use crm_channels::limits::{RATE, RateRule, RateScope};
use crm_channels::retention::Keep;
use crm_core::message::{Channel, DeliveryState, InboundEvent, InboundMessage};
use crm_core::query::Filter;
use crm_core::{Clock as _, ErrorKind};

use super::{Office, other_tenant, phone, told};
const DAY: u64 = 24 * 3600;

fn days(n: u64) -> Duration {
    Duration::from_secs(n * DAY)
}

async fn rows(o: &Office, schema: &'static crm_core::record::Schema) -> u64 {
    o.w.store.count(&o.w.ctx, schema, &Filter::All).await.unwrap()
}

fn text(o: &Office, reference: &str, from: &str, words: &str) -> InboundEvent {
    InboundEvent::Message(InboundMessage {
        provider: "sms".into(),
        provider_ref: reference.into(),
        channel: Channel::Sms,
        from: phone(from),
        to: "+15005550000".into(),
        text: words.into(),
        at: o.w.clock.now(),
        keyword: None,
    })
}

#[tokio::test]
async fn what_came_in_and_what_was_counted_goes_when_it_is_old() {
    let mut o = Office::new().await;
    let limits = vec![
        RateRule::new("a-minute", RateScope::Recipient).at_most(9, Duration::from_secs(60)),
        RateRule::new("ten-days", RateScope::RecipientAndSender).at_most(9, days(10)),
    ];
    o.outreach = o.outreach.clone().settings(DispatchSettings {
        limits,
        ..DispatchSettings::default()
    });
    let ctx = o.w.ctx.clone();
    let ana = o.w.customer("Ana", "ana@example.org").await;
    o.reached_at(ana, "+15005550006").await;
    let id = o.sent_sms(ana, "+15005550006").await;
    let old = told(id, "e1", DeliveryState::Delivered, o.w.clock.now());
    let stranger = text(&o, "SM1", "+15005550009", "Who are you?");
    o.outreach
        .ingest(&ctx, vec![InboundEvent::Delivery(old.clone()), stranger.clone()])
        .await
        .unwrap();
    o.w.pass(8 * DAY);
    let young = told(id, "e2", DeliveryState::Delivered, o.w.clock.now());
    o.outreach
        .ingest(&ctx, vec![InboundEvent::Delivery(young.clone())])
        .await
        .unwrap();
    assert_eq!((rows(&o, &INBOUND).await, rows(&o, &RATE).await), (3, 2));

    // A dry run counts what the real one removes, and writes nothing.
    let keep = Keep::older_than(days(7));
    let dry = o.outreach.purgeable(&ctx, &keep).await.unwrap();
    assert_eq!(
        (dry.news, dry.words, dry.counts),
        (1, 1, 0),
        "ten days are looked back at"
    );
    assert_eq!((rows(&o, &INBOUND).await, rows(&o, &RATE).await), (3, 2));
    let elsewhere = o.outreach.purge(&other_tenant(), &keep).await.unwrap();
    assert_eq!(elsewhere, crm_channels::retention::Purged::default());
    assert_eq!(o.outreach.purge(&ctx, &keep).await.unwrap(), dry);
    assert_eq!(rows(&o, &INBOUND).await, 2);
    let none = o.outreach.purge(&ctx, &keep).await.unwrap();
    assert_eq!((none.news, none.words, none.counts), (0, 0, 0), "done is done");
    // Not a word of the stranger is left, nor who it was; but a message that came is recognised when it is brought again.
    let left = Filter::eq("kind", "message").and(!Filter::null("event"));
    assert_eq!(o.w.store.count(&ctx, &INBOUND, &left).await.unwrap(), 0);
    let known = Filter::eq("kind", "message").and(!Filter::null("address_key"));
    assert_eq!(o.w.store.count(&ctx, &INBOUND, &known).await.unwrap(), 0);
    let again = vec![stranger, InboundEvent::Delivery(young)];
    assert_eq!(o.outreach.ingest(&ctx, again).await.unwrap().repeated, 2);
    // What they said about the message stays with it, also when news that are forgotten come once more.
    let entry = o.outreach.message(&ctx, id).await.unwrap();
    assert_eq!(entry.delivery, Some(DeliveryState::Delivered));
    assert_eq!(
        o.outreach
            .ingest(&ctx, vec![InboundEvent::Delivery(old)])
            .await
            .unwrap()
            .applied,
        1
    );
    assert_eq!(o.outreach.message(&ctx, id).await.unwrap(), entry);

    // The limits still hold; the counts go when no rule looks back at them.
    o.w.pass(3 * DAY);
    let mut counts = Keep::default();
    counts.counts = Some(Duration::ZERO);
    assert_eq!(o.outreach.purge(&ctx, &counts).await.unwrap().counts, 2);
    assert_eq!((rows(&o, &INBOUND).await, rows(&o, &RATE).await), (3, 0));
}

#[tokio::test]
async fn counts_that_are_removed_too_early_would_let_more_through() {
    let limit = || vec![RateRule::new("a-day", RateScope::Recipient).at_most(1, days(1))];
    let mut o = Office::new().await;
    o.outreach = o.outreach.clone().settings(DispatchSettings {
        limits: limit(),
        ..DispatchSettings::default()
    });
    let ctx = o.w.ctx.clone();
    let ana = o.w.customer("Ana", "ana@example.org").await;
    o.reached_at(ana, "+15005550006").await;
    o.sent_sms(ana, "+15005550006").await;
    o.w.pass(3600);
    let mut keep = Keep::default();
    keep.counts = Some(Duration::ZERO);
    assert_eq!(o.outreach.purge(&ctx, &keep).await.unwrap().counts, 0);
    o.sent_sms(ana, "+15005550006").await;
    assert_eq!(o.sms.sent().len(), 1, "the second one waits");
    // Who forgets them by other means sends twice.
    let all =
        o.w.store
            .find(&ctx, &RATE, &crm_core::query::Query::new(Filter::All))
            .await
            .unwrap();
    let writes: Vec<_> = all
        .items
        .iter()
        .map(|row| crm_core::record::Write::delete(&RATE, row.id, None))
        .collect();
    o.w.store.apply(&ctx, &writes).await.unwrap();
    o.sent_sms(ana, "+15005550006").await;
    assert_eq!(o.sms.sent().len(), 2);
}

#[tokio::test]
async fn news_are_not_forgotten_while_vendors_repeat_them() {
    let o = Office::new().await;
    let keep = Keep::older_than(days(1));
    let error = o.outreach.purge(&o.w.ctx, &keep).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("news"))
    );
    assert!(o.outreach.purgeable(&o.w.ctx, &keep).await.is_err());
}
