use crm_core::capability::RecordStore as _;
use crm_core::consent::{Consequence, Fate, SOFT_FAILURE, SuppressionReason, SuppressionScope};
use crm_core::customer::Address;
use crm_core::message::{Blame, Channel, DeliveryState};
use crm_core::query::Filter;
use crm_core::{Clock as _, ErrorKind};

use super::world::{World, email, news, phone, receipt};

const DAY: u64 = 86_400;

async fn tell(
    w: &World,
    address: &Address,
    channel: Channel,
    event: &str,
    state: DeliveryState,
    blame: Blame,
) {
    let fate = Fate {
        address,
        channel,
        event,
        at: w.clock.now(),
        state,
        blame,
    };
    let writes = w.gate.follow(&w.ctx, &[fate]).await.unwrap();
    w.store.apply(&w.ctx, &writes).await.unwrap();
}

#[test]
fn only_the_recipients_own_failures_cost_an_address() {
    use Blame::{Content, Nobody, OptedOut, Recipient, RecipientForNow, Sender};
    let failed = |blame| Consequence::of(DeliveryState::Failed, blame);
    for blame in [Nobody, Content, Sender] {
        assert_eq!(failed(blame), Consequence::Nothing);
    }
    let suppress = |scope, reason| Consequence::Suppress(scope, reason);
    assert_eq!(
        failed(Recipient),
        suppress(SuppressionScope::All, SuppressionReason::Undeliverable)
    );
    assert_eq!(
        failed(OptedOut),
        suppress(SuppressionScope::Marketing, SuppressionReason::Unsubscribed)
    );
    assert_eq!(failed(RecipientForNow), Consequence::Count);
    assert_eq!(
        Consequence::of(DeliveryState::Complained, Nobody),
        suppress(SuppressionScope::All, SuppressionReason::Complaint)
    );
    assert_eq!(
        Consequence::of(DeliveryState::Delivered, Nobody),
        Consequence::Forget
    );
    assert_eq!(
        Consequence::of(DeliveryState::Accepted, Nobody),
        Consequence::Nothing
    );
}

#[tokio::test]
async fn three_failures_in_a_fortnight_suppress_for_a_time() {
    let w = World::new().await;
    let mail = email("ana@example.org");
    let ana = w.customer(&[&mail]).await;
    let allowed = async || w.verdict(w.ask(ana, &mail, &receipt())).await.decision().allowed;
    let full = async |event: &str| {
        tell(
            &w,
            &mail,
            Channel::Email,
            event,
            DeliveryState::Failed,
            Blame::RecipientForNow,
        )
        .await;
    };
    full("a").await;
    w.pass(DAY);
    for _ in 0..10 {
        full("b").await; // the same news again and again
    }
    assert!(allowed().await);
    // A fortnight after the first, that one no longer counts.
    w.pass(13 * DAY);
    full("c").await;
    assert!(allowed().await);
    // What arrives wipes the slate clean.
    tell(
        &w,
        &mail,
        Channel::Email,
        "d",
        DeliveryState::Delivered,
        Blame::Nobody,
    )
    .await;
    assert_eq!(
        w.store.count(&w.ctx, &SOFT_FAILURE, &Filter::All).await.unwrap(),
        0
    );
    full("e").await;
    full("f").await;
    assert!(allowed().await);
    full("g").await;
    assert!(!allowed().await);
    w.pass(30 * DAY);
    assert!(allowed().await, "tried again after a month");
}

#[tokio::test]
async fn a_number_that_takes_no_texts_may_still_be_called() {
    let w = World::new().await;
    let tel = phone("+12125551234");
    let ana = w.subscriber(&tel, &news()).await;
    tell(
        &w,
        &tel,
        Channel::Sms,
        "30006",
        DeliveryState::Failed,
        Blame::Recipient,
    )
    .await;
    let by = async |channel| {
        let ask = crm_core::consent::Ask::new(w.message(&tel, channel), receipt(), ana);
        w.verdict(ask).await.decision().allowed
    };
    assert!(!by(Channel::Sms).await && by(Channel::Voice).await);
}

#[tokio::test]
async fn two_who_count_at_the_same_time_do_not_lose_one() {
    let w = World::new().await;
    let mail = email("ana@example.org");
    let fate = |event| Fate {
        address: &mail,
        channel: Channel::Email,
        event,
        at: w.clock.now(),
        state: DeliveryState::Failed,
        blame: Blame::RecipientForNow,
    };
    let one = w.gate.follow(&w.ctx, &[fate("a")]).await.unwrap();
    let two = w.gate.follow(&w.ctx, &[fate("b"), fate("c")]).await.unwrap();
    w.store.apply(&w.ctx, &one).await.unwrap();
    let error = w.store.apply(&w.ctx, &two).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    // Asked again, the third one suppresses.
    let two = w.gate.follow(&w.ctx, &[fate("b"), fate("c")]).await.unwrap();
    w.store.apply(&w.ctx, &two).await.unwrap();
    assert_eq!(w.gate.suppressions(&w.ctx, &mail).await.unwrap().len(), 1);
}
