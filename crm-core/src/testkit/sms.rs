//! The conformance suite of [`SmsSender`].
//!
//! Each function takes a sender that really takes messages, and a message it will take; further messages are made of
//! it. [`sms_suite!`](crate::sms_suite) makes a test of each.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::memory::MemorySms;
//! use crm_core::testkit::{fixtures, sms};
//!
//! sms::a_receipt_says_who_took_it(Arc::new(MemorySms::new("memory")), fixtures::sms(1)).await;
//! # });
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fixtures;
use crate::capability::SmsSender;
use crate::message::{DeliveryState, Lookup, Permitted, Sms};
use crate::{Effect, Error, ErrorKind, Health, Timestamp};

/// Makes a module with one `#[tokio::test]` for every property of [`testkit::sms`](crate::testkit::sms).
///
/// The first expression, awaited, gives an `Arc<dyn SmsSender>`; the second one an [`Sms`] it takes, else
/// [`fixtures::sms`]. The invoking crate needs `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! sms_suite {
    ($name:ident, $sender:expr) => {
        $crate::sms_suite! { $name, $sender, $crate::testkit::fixtures::sms(1) }
    };
    ($name:ident, $sender:expr, $sms:expr) => {
        $crate::__sms_suite! {
            $name, $sender, $sms;
            it_says_who_it_is,
            a_receipt_says_who_took_it,
            every_message_has_its_own_reference,
            nothing_to_say_is_refused,
            a_sender_of_templates_takes_no_text,
            many_have_an_answer_each,
            more_than_a_batch_is_taken,
            tenants_share_it,
            what_was_taken_can_be_looked_up,
            what_was_never_sent_is_not_found,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __sms_suite {
    ($name:ident, $sender:expr, $sms:expr; $($case:ident),* $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let sender = { $sender }.await;
                    $crate::testkit::sms::$case(sender, { $sms }).await;
                }
            )*
        }
    };
}

/// The same message as another one.
fn another(sample: &Sms) -> Sms {
    Sms {
        id: fixtures::id().into(),
        ..sample.clone()
    }
}

fn nothing(sample: &Sms) -> Sms {
    Sms {
        text: String::new(),
        media: Vec::new(),
        templates: Default::default(),
        ..another(sample)
    }
}

/// Refused for good, certainly without effect, and without the recipient's number in the error.
pub(super) fn refused(error: &Error, number: &str) {
    assert_eq!(error.effect(), Effect::None, "nothing was sent: {error}");
    assert!(!error.is_retryable(), "it would be refused again: {error}");
    assert!(
        !format!("{error:?}").contains(number.trim_start_matches('+')),
        "an error holds no number: {error}"
    );
}

/// It has a scheme and a name, answers that it is ready, and takes at least one message in a call.
pub async fn it_says_who_it_is(sender: Arc<dyn SmsSender>, _sample: Sms) {
    let info = sender.info().clone();
    assert!(
        !info.scheme.is_empty() && !info.name.is_empty(),
        "a provider has a scheme and a name"
    );
    assert_eq!(sender.check().await.expect("check"), Health::Ready);
    assert_eq!(sender.info(), &info, "its identity never changes");
    assert!(
        sender.capability().batch >= 1,
        "a call takes at least one message"
    );
}

/// The receipt names the provider, has a reference to ask about, and no number in it.
pub async fn a_receipt_says_who_took_it(sender: Arc<dyn SmsSender>, sample: Sms) {
    let receipt = sender
        .send(&fixtures::context(), &fixtures::permitted(sample.clone()))
        .await
        .expect("it is taken");
    assert_eq!(receipt.provider, sender.info().name);
    assert!(
        !receipt.provider_ref.is_empty(),
        "there is something to ask the provider about"
    );
    let detail = receipt.detail.unwrap_or_default();
    assert!(
        !detail.contains(sample.to.as_str().trim_start_matches('+')),
        "a receipt holds no number"
    );
}

/// Different messages have different references.
pub async fn every_message_has_its_own_reference(sender: Arc<dyn SmsSender>, sample: Sms) {
    let ctx = fixtures::context();
    let mut references = BTreeSet::new();
    for _ in 0..3 {
        let receipt = sender.send(&ctx, &fixtures::permitted(another(&sample))).await;
        references.insert(receipt.expect("it is taken").provider_ref);
    }
    assert_eq!(references.len(), 3);
}

/// A message with neither text nor template nor picture is refused for good, certainly without effect.
pub async fn nothing_to_say_is_refused(sender: Arc<dyn SmsSender>, sample: Sms) {
    let error = sender
        .send(&fixtures::context(), &fixtures::permitted(nothing(&sample)))
        .await
        .expect_err("nothing to say");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    refused(&error, sample.to.as_str());
}

/// Where the vendor takes only templates ([`crate::capability::SmsCapability::free_text`] is false), a message that has
/// none for this vendor is refused for good, and names the field; its text is not sent instead.
pub async fn a_sender_of_templates_takes_no_text(sender: Arc<dyn SmsSender>, sample: Sms) {
    let mut text = nothing(&sample);
    text.text = "cnry-free-text".to_owned();
    let answer = sender
        .send(&fixtures::context(), &fixtures::permitted(text))
        .await;
    if sender.capability().free_text {
        answer.expect("it takes free text");
        return;
    }
    let error = answer.expect_err("it takes only templates");
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("templates")),
        "{error}"
    );
    refused(&error, sample.to.as_str());
    assert!(
        !format!("{error:?}").contains("cnry"),
        "an error holds no content"
    );
}

/// Several at once: an answer for each, in their order; one that is refused does not take the others with it.
pub async fn many_have_an_answer_each(sender: Arc<dyn SmsSender>, sample: Sms) {
    let ctx = fixtures::context();
    assert!(
        sender
            .send_many(&ctx, &[])
            .await
            .expect("nothing to do")
            .is_empty(),
        "no message, no answer"
    );
    for bad in 0..3 {
        let all: Vec<Permitted<Sms>> = (0..3)
            .map(|place| {
                fixtures::permitted(if place == bad {
                    nothing(&sample)
                } else {
                    another(&sample)
                })
            })
            .collect();
        let answers = sender.send_many(&ctx, &all).await.expect("the call");
        assert_eq!(answers.len(), 3, "an answer for each");
        for (place, answer) in answers.iter().enumerate() {
            assert_eq!(
                answer.is_err(),
                place == bad,
                "the answer of message {place}, the bad one is {bad}: {answer:?}"
            );
        }
    }
}

/// More messages than go in one call are taken all the same, and each can be told from the others: the reference and the
/// recipient together are unique.
pub async fn more_than_a_batch_is_taken(sender: Arc<dyn SmsSender>, sample: Sms) {
    let count = sender.capability().batch.min(200) + 1;
    let all: Vec<Permitted<Sms>> = (0..count)
        .map(|_| fixtures::permitted(another(&sample)))
        .collect();
    let answers = sender
        .send_many(&fixtures::context(), &all)
        .await
        .expect("the call");
    let told: BTreeSet<(String, String)> = answers
        .into_iter()
        .zip(&all)
        .map(|(answer, sms)| {
            (
                answer.expect("it is taken").provider_ref,
                sms.message().to.as_str().to_owned(),
            )
        })
        .collect();
    assert_eq!(told.len(), count, "each can be told from the others");
}

/// Two tenants send at once; each message is taken once, with a reference of its own.
pub async fn tenants_share_it(sender: Arc<dyn SmsSender>, sample: Sms) {
    let mut senders = tokio::task::JoinSet::new();
    for ctx in [fixtures::context(), fixtures::context()] {
        let (sender, message) = (sender.clone(), another(&sample));
        senders.spawn(async move { sender.send(&ctx, &fixtures::permitted(message)).await });
    }
    let mut references = BTreeSet::new();
    while let Some(done) = senders.join_next().await {
        references.insert(done.unwrap().expect("it is taken").provider_ref);
    }
    assert_eq!(references.len(), 2);
}

/// Asked about a message it took, it knows it; where it cannot be asked, it says so.
pub async fn what_was_taken_can_be_looked_up(sender: Arc<dyn SmsSender>, sample: Sms) {
    let ctx = fixtures::context();
    let sms = another(&sample);
    let receipt = sender
        .send(&ctx, &fixtures::permitted(sms.clone()))
        .await
        .expect("it is taken");
    let lookup = Lookup {
        message_id: sms.id,
        provider_ref: Some(receipt.provider_ref.clone()),
        to: sms.to.clone(),
        sent_at: receipt.accepted_at,
    };
    let answer = sender.lookup(&ctx, &lookup).await;
    if !sender.capability().lookup {
        assert_eq!(answer.expect_err("unable").kind(), ErrorKind::Unsupported);
        return;
    }
    let events = answer.expect("it can be asked");
    assert!(!events.is_empty(), "it knows what it took");
    for event in &events {
        assert_eq!(event.provider, sender.info().name);
        assert!(!event.event_id.is_empty(), "news have a name");
        assert!(event.state >= DeliveryState::Accepted, "it was taken");
        assert!(
            event.message_id == Some(sms.id) || event.provider_ref.as_ref() == Some(&receipt.provider_ref),
            "the news are about the message that was asked about"
        );
    }
    assert_eq!(
        sender.lookup(&ctx, &lookup).await.expect("again")[0].event_id,
        events[0].event_id,
        "the same news have the same name"
    );
}

/// Asked about what it never got, it finds nothing, or says that it cannot tell.
pub async fn what_was_never_sent_is_not_found(sender: Arc<dyn SmsSender>, sample: Sms) {
    if !sender.capability().lookup {
        return;
    }
    let lookup = Lookup {
        message_id: fixtures::id().into(),
        provider_ref: None,
        to: sample.to,
        sent_at: Timestamp::from_ymd(2020, 2, 2).expect("a day"),
    };
    match sender.lookup(&fixtures::context(), &lookup).await {
        Ok(events) => assert_eq!(events, Vec::new()),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
    }
}
