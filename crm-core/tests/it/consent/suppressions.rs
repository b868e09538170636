use std::time::Duration;

use crm_core::Clock as _;
use crm_core::capability::RecordStore as _;
use crm_core::consent::{Ask, SuppressionReason, SuppressionScope};
use crm_core::message::Channel;

use super::world::{World, email, news, phone, receipt};

#[tokio::test]
async fn who_wants_no_texts_may_still_be_called() {
    let w = World::new().await;
    let tel = phone("+12125551234");
    let ana = w.subscriber(&tel, &news()).await;
    let allowed = |channel| {
        let ask = Ask::new(w.message(&tel, channel), news(), ana);
        let w = &w;
        async move { w.verdict(ask).await.decision().clone() }
    };
    for (channel, other) in [(Channel::Sms, Channel::Voice), (Channel::Voice, Channel::Sms)] {
        let stop = w
            .gate
            .suppression_of(&tel, SuppressionScope::All, SuppressionReason::Unsubscribed)
            .by(Some(channel));
        w.store.apply(&w.ctx, &[stop.write().unwrap()]).await.unwrap();
        let decision = allowed(channel).await;
        assert!(!decision.allowed);
        assert!(
            decision
                .last()
                .starts_with(&format!("suppression: all by {channel} since")),
            "{decision}"
        );
        assert!(allowed(other).await.allowed);
        // START lifts what was unsubscribed there, and nothing else.
        let unsubscribed = |s: &crm_core::consent::Suppression| {
            s.reason == SuppressionReason::Unsubscribed && s.channel == Some(channel)
        };
        assert!(w.gate.lift(&w.ctx, &tel, unsubscribed).await.unwrap());
        assert!(!w.gate.lift(&w.ctx, &tel, unsubscribed).await.unwrap());
        assert!(allowed(channel).await.allowed);
    }
}

#[tokio::test]
async fn what_was_complained_about_is_not_hidden_by_an_unsubscription() {
    let w = World::new().await;
    let mail = email("ana@example.org");
    let ana = w.subscriber(&mail, &news()).await;
    let suppress = async |scope, reason| w.gate.suppress(&w.ctx, &mail, scope, reason).await.unwrap();
    let allowed = async |purpose| w.verdict(w.ask(ana, &mail, &purpose)).await.decision().allowed;
    suppress(SuppressionScope::Marketing, SuppressionReason::Unsubscribed).await;
    assert!(
        !allowed(news()).await && allowed(receipt()).await,
        "a receipt ignores the list"
    );
    for reason in [
        SuppressionReason::Complaint,
        SuppressionReason::Undeliverable,
        SuppressionReason::Erased,
    ] {
        suppress(SuppressionScope::All, reason).await;
        suppress(SuppressionScope::All, reason).await;
        assert!(!allowed(receipt()).await, "but not {reason:?}");
        assert!(w.gate.lift(&w.ctx, &mail, |s| s.reason == reason).await.unwrap());
        assert!(allowed(receipt()).await);
    }
    assert_eq!(
        w.gate.suppressions(&w.ctx, &mail).await.unwrap().len(),
        1,
        "each kind once"
    );
}

#[tokio::test]
async fn a_suppression_for_a_time_ends_and_one_for_good_does_not() {
    let w = World::new().await;
    let mail = email("ana@example.org");
    let ana = w.subscriber(&mail, &news()).await;
    let allowed = async || w.verdict(w.ask(ana, &mail, &receipt())).await.decision().clone();
    let hour = |n: u64| Some(w.clock.now().plus(Duration::from_secs(n * 3600)));
    let full = w
        .gate
        .suppression_of(&mail, SuppressionScope::All, SuppressionReason::Undeliverable);
    for until in [1, 2] {
        // Said again, it lasts longer.
        let write = full.clone().until(hour(until)).write().unwrap();
        w.store.apply(&w.ctx, &[write]).await.unwrap();
    }
    w.pass(2 * 3600 - 1);
    let decision = allowed().await;
    assert!(
        !decision.allowed && decision.last().contains(" until "),
        "{decision}"
    );
    w.pass(1);
    assert!(allowed().await.allowed);
    for until in [None, hour(1)] {
        let write = full.clone().until(until).write().unwrap();
        w.store.apply(&w.ctx, &[write]).await.unwrap();
    }
    w.pass(365 * 86_400);
    assert!(
        !allowed().await.allowed,
        "a shorter one does not end the one for good"
    );
}
