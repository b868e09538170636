use std::sync::atomic::Ordering;

use crm_core::consent::{LegalBasis, Purpose, PurposeClass, Verdict};
use crm_core::message::{PermittedMessage, Sendable as _};

use super::world::{World, email, news, phone, receipt};

/// The most questions to the store for 200 asks: purposes, contact points, suppressions, consents, merged customers.
const QUESTIONS: usize = 5;

#[tokio::test]
async fn a_batch_of_every_purpose_and_channel_is_asked_for_at_once_and_answered_in_order() {
    let w = World::new().await;
    let offers = Purpose::marketing("offers").unwrap();
    let mut asks = Vec::new();
    let mut expected = Vec::new();
    for n in 0..199 {
        let address = if n % 3 == 0 {
            phone(&format!("+1212555{:04}", 1000 + n))
        } else {
            email(&format!("p{n}@example.org"))
        };
        let customer = match n % 2 {
            0 => w.subscriber(&address, &news()).await,
            _ => w.customer(&[&address]).await,
        };
        let (purpose, allowed) = match n % 4 {
            0 => (news(), true),
            1 => (news(), false),
            2 => (offers.clone(), false),
            _ => (receipt(), true),
        };
        asks.push(w.ask(customer, &address, &purpose));
        expected.push(allowed);
    }
    let ids: Vec<_> = asks.iter().map(|ask| ask.message.message_id()).collect();
    // One that nobody may send does not hold up the others.
    let mut wrong = asks[0].clone();
    wrong.purpose = Purpose {
        name: "No Such!".into(),
        ..news()
    };
    asks.push(wrong);

    w.store.questions.store(0, Ordering::SeqCst);
    let verdicts = w.gate.permit_all(&w.ctx, asks.clone()).await.unwrap();
    assert!(w.store.questions.load(Ordering::SeqCst) <= QUESTIONS);
    let last = verdicts.last().unwrap();
    assert!(matches!(last, Verdict::No { .. }));
    assert_eq!(last.decision().rule(), "purpose");
    for ((verdict, id), allowed) in verdicts.iter().zip(ids).zip(expected) {
        assert_eq!(verdict.message_id(), id);
        assert_eq!(
            matches!(verdict, Verdict::Go { .. }),
            allowed,
            "{}",
            verdict.decision()
        );
        if !allowed {
            assert_eq!(verdict.decision().rule(), "consent");
        }
    }
    // Two chunks, twice the questions; each alone gets the same answer as in the batch.
    w.store.questions.store(0, Ordering::SeqCst);
    let twice: Vec<_> = asks.iter().chain(&asks).cloned().collect();
    let again = w.gate.permit_all(&w.ctx, twice).await.unwrap();
    assert!(w.store.questions.load(Ordering::SeqCst) <= 2 * QUESTIONS);
    assert_eq!(again.len(), 400);
    for (ask, verdict) in asks.into_iter().zip(verdicts) {
        assert_eq!(w.verdict(ask).await.decision(), verdict.decision());
    }
    assert!(w.gate.permit_all(&w.ctx, Vec::new()).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_may_go_out_is_taken_apart_by_channel_with_its_reasons() {
    let w = World::new().await;
    let address = phone("+12125551234");
    let ana = w.customer(&[&address]).await;
    let Verdict::Go { permitted, writes } = w.verdict(w.ask(ana, &address, &receipt())).await else {
        panic!("a receipt needs no consent");
    };
    assert!(writes.is_empty(), "nothing limits it, so nothing is counted");
    let text = permitted.decision().to_string();
    assert!(
        text.starts_with("purpose: receipt, transactional\n") && text.ends_with("\nallowed"),
        "{text}"
    );
    assert!(matches!(permitted.by_channel(), PermittedMessage::Sms(_)));

    let soft = Purpose::new("tips", PurposeClass::Marketing, LegalBasis::LegitimateInterest).unwrap();
    let Verdict::No { message, decision } = w.verdict(w.ask(ana, &address, &soft)).await else {
        panic!("marketing without a word of the person");
    };
    assert_eq!(message.recipient(), "+12125551234", "the message is given back");
    assert!(decision.to_string().ends_with("refused"));
}
