//! The conformance suite of [`WebhookSource`].
//!
//! Each function takes a source and a [`Sample`]: a request as the vendor makes it, and forged ones.
//! [`webhook_suite!`](crate::webhook_suite) makes a test of each.
//!
//! ```
//! use crm_core::capability::WebhookRequest;
//! use crm_core::testkit::webhook::Sample;
//!
//! let genuine = WebhookRequest::post("https://crm.example/hooks/s3cret".parse().unwrap(), "[]");
//! let mut forged = genuine.clone();
//! forged.url.set_path("/hooks/guess");
//! let sample = Sample { genuine, forged: vec![forged] };
//! assert_eq!(sample.forged.len(), 1);
//! ```

use std::sync::Arc;

use super::fixtures::Dice;
use crate::capability::{WebhookRequest, WebhookSource};
use crate::message::{DeliveryState, InboundEvent};
use crate::{Effect, ErrorKind, Health};

/// What a source of webhooks is tried with.
#[derive(Debug, Clone)]
pub struct Sample {
    /// A request as the vendor makes it, with at least one event in it.
    pub genuine: WebhookRequest,
    /// Requests of somebody else: with another body, another path, no signature.
    pub forged: Vec<WebhookRequest>,
}

/// Makes a module with one `#[tokio::test]` for every property of [`testkit::webhook`](crate::testkit::webhook).
///
/// The first expression, awaited, gives an `Arc<dyn WebhookSource>`; the second one a [`Sample`]. The invoking crate
/// needs `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! webhook_suite {
    ($name:ident, $source:expr, $sample:expr) => {
        $crate::__webhook_suite! {
            $name, $source, $sample;
            it_says_who_it_is,
            what_is_genuine_is_read,
            what_is_forged_is_refused,
            a_replay_says_the_same,
            garbage_is_refused_in_good_order,
            what_is_too_large_is_refused,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __webhook_suite {
    ($name:ident, $source:expr, $sample:expr; $($case:ident),* $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let source = { $source }.await;
                    $crate::testkit::webhook::$case(source, { $sample }).await;
                }
            )*
        }
    };
}

/// It has a scheme and a name, answers that it is ready, and says yes with a 2xx status.
pub async fn it_says_who_it_is(source: Arc<dyn WebhookSource>, _sample: Sample) {
    let info = source.info().clone();
    assert!(
        !info.scheme.is_empty() && !info.name.is_empty(),
        "a provider has a scheme and a name"
    );
    assert_eq!(source.check().await.expect("check"), Health::Ready);
    assert_eq!(source.info(), &info, "its identity never changes");
    assert!(
        (200..300).contains(&source.accepted().status),
        "what is stored is confirmed with a 2xx status"
    );
}

/// A genuine request gives news or messages, which name the provider and themselves.
pub async fn what_is_genuine_is_read(source: Arc<dyn WebhookSource>, sample: Sample) {
    let events = source.receive(&sample.genuine).await.expect("a genuine request");
    assert!(!events.is_empty(), "there is something in it");
    for event in events {
        match event {
            InboundEvent::Delivery(news) => {
                assert_eq!(news.provider, source.info().name);
                assert!(!news.event_id.is_empty(), "news have a name");
                assert!(
                    news.message_id.is_some() || news.provider_ref.is_some(),
                    "news are about some message"
                );
                assert!(
                    news.state >= DeliveryState::Unknown,
                    "a vendor only tells what it has seen"
                );
            }
            InboundEvent::Message(message) => {
                assert_eq!(message.provider, source.info().name);
                assert!(!message.provider_ref.is_empty(), "a message has a reference");
            }
        }
    }
}

/// A forged request is refused before anything in it is read: unauthenticated, for good, without its content in the error.
pub async fn what_is_forged_is_refused(source: Arc<dyn WebhookSource>, sample: Sample) {
    assert!(!sample.forged.is_empty(), "the sample has forged requests");
    for forged in &sample.forged {
        let error = source.receive(forged).await.expect_err("a forged request");
        assert_eq!(
            (error.kind(), error.effect()),
            (ErrorKind::Unauthenticated, Effect::None),
            "{error}"
        );
        assert!(!error.is_retryable(), "it would be refused again");
        let said = format!("{error:?}");
        let body = String::from_utf8_lossy(&forged.body).into_owned();
        assert!(
            body.is_empty() || !said.contains(&body),
            "an error holds no content: {error}"
        );
    }
}

/// The same request again gives the same news under the same names, so that whoever stores them can tell.
pub async fn a_replay_says_the_same(source: Arc<dyn WebhookSource>, sample: Sample) {
    let names = |events: Vec<InboundEvent>| -> Vec<String> {
        events
            .into_iter()
            .map(|event| match event {
                InboundEvent::Delivery(news) => format!("{} {:?}", news.event_id, news.state),
                InboundEvent::Message(message) => message.provider_ref,
            })
            .collect()
    };
    let first = names(source.receive(&sample.genuine).await.expect("a genuine request"));
    let again = names(source.receive(&sample.genuine).await.expect("the same again"));
    assert_eq!(first, again);
}

/// Whatever comes as a body, and at the same address: an answer or a refusal, never a panic, never a call to try again.
pub async fn garbage_is_refused_in_good_order(source: Arc<dyn WebhookSource>, sample: Sample) {
    let mut dice = Dice::new(20_260_102);
    for round in 0..300 {
        let mut request = sample.genuine.clone();
        match round % 3 {
            0 => request.body = (0..dice.below(200)).map(|_| dice.below(256) as u8).collect(),
            1 => {
                let keep = dice.below(request.body.len() + 1);
                request.body.truncate(keep);
            }
            _ => {
                for _ in 0..=dice.below(4) {
                    let place = dice.below(request.body.len());
                    if let Some(byte) = request.body.get_mut(place) {
                        *byte = dice.below(256) as u8;
                    }
                }
            }
        }
        if let Err(error) = source.receive(&request).await {
            assert!(
                matches!(error.kind(), ErrorKind::Unauthenticated | ErrorKind::Invalid),
                "{error}"
            );
            assert!(!error.is_retryable(), "{error}");
        }
    }
}

/// A body of 16 MiB is refused by its size alone.
pub async fn what_is_too_large_is_refused(source: Arc<dyn WebhookSource>, sample: Sample) {
    let mut request = sample.genuine.clone();
    request.body = vec![b' '; 16 * 1024 * 1024];
    let error = source.receive(&request).await.expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(
        error.context("most").is_some(),
        "it says how much is allowed: {error}"
    );
}
