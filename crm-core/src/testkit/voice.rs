//! The conformance suite of [`VoiceCaller`].
//!
//! Each function takes a caller that really takes calls, and a call it will take; further calls are made of it.
//! [`voice_suite!`](crate::voice_suite) makes a test of each.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::memory::MemoryVoice;
//! use crm_core::testkit::{fixtures, voice};
//!
//! voice::a_receipt_says_who_took_it(Arc::new(MemoryVoice::new("memory")), fixtures::call(1)).await;
//! # });
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fixtures;
use super::sms::refused;
use crate::capability::VoiceCaller;
use crate::message::{DeliveryState, Lookup, VoiceCall, VoiceStep};
use crate::{ErrorKind, Health, Timestamp};

/// Makes a module with one `#[tokio::test]` for every property of [`testkit::voice`](crate::testkit::voice).
///
/// The first expression, awaited, gives an `Arc<dyn VoiceCaller>`; the second one a [`VoiceCall`] it takes, else
/// [`fixtures::call`]. The invoking crate needs `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! voice_suite {
    ($name:ident, $caller:expr) => {
        $crate::voice_suite! { $name, $caller, $crate::testkit::fixtures::call(1) }
    };
    ($name:ident, $caller:expr, $call:expr) => {
        $crate::__voice_suite! {
            $name, $caller, $call;
            it_says_who_it_is,
            a_receipt_says_who_took_it,
            every_call_has_its_own_reference,
            a_call_of_nothing_is_refused,
            a_caller_of_templates_speaks_no_text,
            tenants_share_it,
            what_was_taken_can_be_looked_up,
            what_was_never_called_is_not_found,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __voice_suite {
    ($name:ident, $caller:expr, $call:expr; $($case:ident),* $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let caller = { $caller }.await;
                    $crate::testkit::voice::$case(caller, { $call }).await;
                }
            )*
        }
    };
}

/// The same call as another one.
fn another(sample: &VoiceCall) -> VoiceCall {
    VoiceCall {
        id: fixtures::id().into(),
        ..sample.clone()
    }
}

fn nothing(sample: &VoiceCall) -> VoiceCall {
    VoiceCall {
        steps: Vec::new(),
        templates: Default::default(),
        ..another(sample)
    }
}

/// It has a scheme and a name, and answers that it is ready.
pub async fn it_says_who_it_is(caller: Arc<dyn VoiceCaller>, _sample: VoiceCall) {
    let info = caller.info().clone();
    assert!(
        !info.scheme.is_empty() && !info.name.is_empty(),
        "a provider has a scheme and a name"
    );
    assert_eq!(caller.check().await.expect("check"), Health::Ready);
    assert_eq!(caller.info(), &info, "its identity never changes");
}

/// The receipt names the provider, has a reference to ask about, and no number in it.
pub async fn a_receipt_says_who_took_it(caller: Arc<dyn VoiceCaller>, sample: VoiceCall) {
    let receipt = caller
        .call(&fixtures::context(), &fixtures::permitted(sample.clone()))
        .await
        .expect("it is taken");
    assert_eq!(receipt.provider, caller.info().name);
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

/// Different calls have different references.
pub async fn every_call_has_its_own_reference(caller: Arc<dyn VoiceCaller>, sample: VoiceCall) {
    let ctx = fixtures::context();
    let mut references = BTreeSet::new();
    for _ in 0..3 {
        let receipt = caller.call(&ctx, &fixtures::permitted(another(&sample))).await;
        references.insert(receipt.expect("it is taken").provider_ref);
    }
    assert_eq!(references.len(), 3);
}

/// A call without steps and templates, and one whose step says nothing, are refused for good, certainly without effect:
/// nobody's phone rings for nothing.
pub async fn a_call_of_nothing_is_refused(caller: Arc<dyn VoiceCaller>, sample: VoiceCall) {
    let mut silent = nothing(&sample);
    silent.steps = vec![VoiceStep::say(" ")];
    for call in [nothing(&sample), silent] {
        let error = caller
            .call(&fixtures::context(), &fixtures::permitted(call))
            .await
            .expect_err("nothing to say");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        refused(&error, sample.to.as_str());
    }
}

/// Where the vendor takes only templates ([`crate::capability::VoiceCapability::free_text`] is false), a call that has
/// only steps to speak is refused for good.
pub async fn a_caller_of_templates_speaks_no_text(caller: Arc<dyn VoiceCaller>, sample: VoiceCall) {
    let mut spoken = nothing(&sample);
    spoken.steps = vec![VoiceStep::say("cnry-free-text")];
    let answer = caller
        .call(&fixtures::context(), &fixtures::permitted(spoken))
        .await;
    if caller.capability().free_text {
        answer.expect("it speaks free text");
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

/// Two tenants call at once; each call is taken once, with a reference of its own.
pub async fn tenants_share_it(caller: Arc<dyn VoiceCaller>, sample: VoiceCall) {
    let mut callers = tokio::task::JoinSet::new();
    for ctx in [fixtures::context(), fixtures::context()] {
        let (caller, call) = (caller.clone(), another(&sample));
        callers.spawn(async move { caller.call(&ctx, &fixtures::permitted(call)).await });
    }
    let mut references = BTreeSet::new();
    while let Some(done) = callers.join_next().await {
        references.insert(done.unwrap().expect("it is taken").provider_ref);
    }
    assert_eq!(references.len(), 2);
}

/// Asked about a call it took, it knows it; where it cannot be asked, it says so.
pub async fn what_was_taken_can_be_looked_up(caller: Arc<dyn VoiceCaller>, sample: VoiceCall) {
    let ctx = fixtures::context();
    let call = another(&sample);
    let receipt = caller
        .call(&ctx, &fixtures::permitted(call.clone()))
        .await
        .expect("it is taken");
    let lookup = Lookup {
        message_id: call.id,
        provider_ref: Some(receipt.provider_ref.clone()),
        to: call.to.clone(),
        sent_at: receipt.accepted_at,
    };
    let answer = caller.lookup(&ctx, &lookup).await;
    if !caller.capability().lookup {
        assert_eq!(answer.expect_err("unable").kind(), ErrorKind::Unsupported);
        return;
    }
    let events = answer.expect("it can be asked");
    assert!(!events.is_empty(), "it knows what it took");
    for event in &events {
        assert_eq!(event.provider, caller.info().name);
        assert!(!event.event_id.is_empty(), "news have a name");
        assert!(event.state >= DeliveryState::Accepted, "it was taken");
        assert!(
            event.message_id == Some(call.id) || event.provider_ref.as_ref() == Some(&receipt.provider_ref),
            "the news are about the call that was asked about"
        );
    }
}

/// Asked about what it never got, it finds nothing, or says that it cannot tell.
pub async fn what_was_never_called_is_not_found(caller: Arc<dyn VoiceCaller>, sample: VoiceCall) {
    if !caller.capability().lookup {
        return;
    }
    let lookup = Lookup {
        message_id: fixtures::id().into(),
        provider_ref: None,
        to: sample.to,
        sent_at: Timestamp::from_ymd(2020, 2, 2).expect("a day"),
    };
    match caller.lookup(&fixtures::context(), &lookup).await {
        Ok(events) => assert_eq!(events, Vec::new()),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
    }
}
