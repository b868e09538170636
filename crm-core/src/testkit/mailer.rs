//! The conformance suite of [`Mailer`].
//!
//! Each function takes a mailer that really takes messages, and a message it will take; further messages are made of
//! it. [`mailer_suite!`](crate::mailer_suite) makes a test of each.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use crm_core::memory::MemoryMailer;
//! use crm_core::testkit::{fixtures, mailer};
//!
//! mailer::a_receipt_says_who_took_it(Arc::new(MemoryMailer::new("memory")), fixtures::email(1)).await;
//! # });
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fixtures;
use crate::capability::Mailer;
use crate::message::Email;
use crate::{Effect, ErrorKind, Health};

/// Makes a module with one `#[tokio::test]` for every property of [`testkit::mailer`](crate::testkit::mailer).
///
/// The first expression, awaited, gives an `Arc<dyn Mailer>`; the second one an [`Email`] it takes, else
/// [`fixtures::email`]. The invoking crate needs `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! mailer_suite {
    ($name:ident, $mailer:expr) => {
        $crate::mailer_suite! { $name, $mailer, $crate::testkit::fixtures::email(1) }
    };
    ($name:ident, $mailer:expr, $email:expr) => {
        $crate::__mailer_suite! {
            $name, $mailer, $email;
            it_says_who_it_is,
            a_receipt_says_who_took_it,
            every_message_has_its_own_reference,
            a_forged_header_is_refused,
            tenants_share_it,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __mailer_suite {
    ($name:ident, $mailer:expr, $email:expr; $($case:ident),* $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let mailer = { $mailer }.await;
                    $crate::testkit::mailer::$case(mailer, { $email }).await;
                }
            )*
        }
    };
}

/// The same message as another one.
fn another(sample: &Email) -> Email {
    Email {
        id: fixtures::id().into(),
        ..sample.clone()
    }
}

/// It has a scheme and a name, answers that it is ready, and takes messages of some size.
pub async fn it_says_who_it_is(mailer: Arc<dyn Mailer>, _sample: Email) {
    let info = mailer.info().clone();
    assert!(
        !info.scheme.is_empty() && !info.name.is_empty(),
        "a provider has a scheme and a name"
    );
    assert_eq!(mailer.check().await.expect("check"), Health::Ready);
    assert_eq!(mailer.info(), &info, "its identity never changes");
    assert!(
        mailer.capability().max_bytes >= 64 * 1024,
        "a mailer takes messages of at least 64 KiB"
    );
}

/// The receipt names the provider, has a reference to ask about, and was written now, not in the future.
pub async fn a_receipt_says_who_took_it(mailer: Arc<dyn Mailer>, sample: Email) {
    let receipt = mailer
        .send(&fixtures::context(), &fixtures::permitted(sample.clone()))
        .await
        .expect("it is taken");
    assert_eq!(receipt.provider, mailer.info().name);
    assert!(
        !receipt.provider_ref.is_empty(),
        "there is something to ask the provider about"
    );
    let detail = receipt.detail.unwrap_or_default();
    assert!(
        !detail.contains(sample.to.address.as_str()),
        "a receipt holds no address"
    );
}

/// Different messages have different references.
pub async fn every_message_has_its_own_reference(mailer: Arc<dyn Mailer>, sample: Email) {
    let ctx = fixtures::context();
    let mut references = BTreeSet::new();
    for _ in 0..3 {
        let receipt = mailer
            .send(&ctx, &fixtures::permitted(another(&sample)))
            .await
            .expect("it is taken");
        references.insert(receipt.provider_ref);
    }
    assert_eq!(references.len(), 3);
}

/// A message whose subject, name or header would forge headers is refused for good, certainly without effect.
pub async fn a_forged_header_is_refused(mailer: Arc<dyn Mailer>, sample: Email) {
    let mut forged = [another(&sample), another(&sample), another(&sample)];
    forged[0].subject = "hello\r\nBcc: victim@example.net".to_owned();
    forged[1].from.name = "x\nBcc: victim@example.net".to_owned();
    forged[2]
        .headers
        .insert("X-Note".to_owned(), "v\r\n\r\nbody".to_owned());
    for message in forged {
        let error = mailer
            .send(&fixtures::context(), &fixtures::permitted(message))
            .await
            .expect_err("a forged header");
        assert_eq!(
            (error.kind(), error.effect()),
            (ErrorKind::Invalid, Effect::None),
            "{error}"
        );
        assert!(!error.is_retryable(), "it would be refused again");
        assert!(
            !format!("{error:?}").contains("victim"),
            "an error holds no content: {error}"
        );
    }
}

/// Two tenants send at once; each message is taken once, with a reference of its own.
pub async fn tenants_share_it(mailer: Arc<dyn Mailer>, sample: Email) {
    let mut senders = tokio::task::JoinSet::new();
    for ctx in [fixtures::context(), fixtures::context()] {
        let (mailer, message) = (mailer.clone(), another(&sample));
        senders.spawn(async move { mailer.send(&ctx, &fixtures::permitted(message)).await });
    }
    let mut references = BTreeSet::new();
    while let Some(done) = senders.join_next().await {
        references.insert(done.unwrap().expect("it is taken").provider_ref);
    }
    assert_eq!(references.len(), 2);
}
