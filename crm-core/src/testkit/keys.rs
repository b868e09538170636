//! The conformance suite of [`KeyProvider`].
//!
//! [`key_suite!`](crate::key_suite) makes a test of each property.
//!
//! ```
//! use crm_core::testkit::keys;
//!
//! // A provider needs a cipher, which this crate has not; the first one is `crm_store::sealed::KeyRing`.
//! assert_eq!(keys::data_key(7).expose(), &[7; 32]);
//! ```

use std::sync::Arc;

use crate::capability::{DataKey, KeyProvider, ToUnwrap, ToWrap, WrappedKey};
use crate::testkit::fixtures;
use crate::{Effect, ErrorKind, Health, Result, TenantId};

/// Makes a module with one `#[tokio::test]` for every property of [`testkit::keys`](crate::testkit::keys).
///
/// The expression, awaited, gives an `Arc<dyn KeyProvider>` that has a key for any tenant. The invoking crate needs `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! key_suite {
    ($name:ident, $provider:expr) => {
        $crate::__key_suite! {
            $name, $provider;
            it_says_who_it_is,
            keys_come_back_in_order,
            keys_are_bound_to_what_they_are_for,
            tenants_open_only_their_own,
            a_changed_key_is_refused,
            wrapping_twice_does_not_show,
            nothing_is_nothing,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __key_suite {
    ($name:ident, $provider:expr; $($case:ident),* $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let provider = { $provider }.await;
                    $crate::testkit::keys::$case(provider).await;
                }
            )*
        }
    };
}

/// A key of one repeated byte.
pub fn data_key(byte: u8) -> DataKey {
    DataKey::new([byte; 32])
}

fn tenant() -> TenantId {
    fixtures::context().tenant().clone()
}

async fn wrap(
    provider: &dyn KeyProvider,
    tenant: &TenantId,
    keys: &[DataKey],
    bound_to: &[u8],
) -> Vec<WrappedKey> {
    let asked: Vec<ToWrap<'_>> = keys.iter().map(|key| ToWrap { key, bound_to }).collect();
    provider.wrap(tenant, &asked).await.expect("wrap")
}

async fn unwrap(
    provider: &dyn KeyProvider,
    tenant: &TenantId,
    keys: &[WrappedKey],
    bound_to: &[u8],
) -> Result<Vec<DataKey>> {
    let asked: Vec<ToUnwrap<'_>> = keys
        .iter()
        .map(|wrapped| ToUnwrap { wrapped, bound_to })
        .collect();
    provider.unwrap(tenant, &asked).await
}

/// It has a scheme and a name, answers that it is ready, and names its current key, always the same.
pub async fn it_says_who_it_is(provider: Arc<dyn KeyProvider>) {
    let info = provider.info();
    assert!(
        !info.scheme.is_empty() && !info.name.is_empty(),
        "it has a scheme and a name"
    );
    assert_eq!(provider.check().await.expect("check"), Health::Ready);
    let tenant = tenant();
    let current = provider.current(&tenant).await.expect("current");
    assert!(
        (1..=128).contains(&current.len()),
        "an id is 1 to 128 characters long"
    );
    assert_eq!(provider.current(&tenant).await.expect("current"), current);
    let wrapped = wrap(&*provider, &tenant, &[data_key(1)], b"a").await;
    assert_eq!(
        wrapped[0].key_id, current,
        "what is wrapped names the current key"
    );
}

/// Many keys at once come back in the order in which they were given, and none of them is in what is wrapped.
pub async fn keys_come_back_in_order(provider: Arc<dyn KeyProvider>) {
    let tenant = tenant();
    let keys: Vec<DataKey> = (0..200).map(data_key).collect();
    let wrapped = wrap(&*provider, &tenant, &keys, b"a").await;
    assert_eq!(wrapped.len(), keys.len());
    let mut turned = wrapped.clone();
    turned.reverse();
    let back = unwrap(&*provider, &tenant, &turned, b"a").await.expect("unwrap");
    assert_eq!(back.len(), keys.len());
    for (back, key) in back.iter().rev().zip(&keys) {
        assert_eq!(back.expose(), key.expose());
    }
    for (wrapped, key) in wrapped.iter().zip(&keys) {
        let inside = wrapped
            .bytes
            .windows(8)
            .any(|window| window == &key.expose()[..8]);
        assert!(!inside, "a wrapped key has the key in it");
    }
}

/// A key that was wrapped for one thing is not unwrapped for another.
pub async fn keys_are_bound_to_what_they_are_for(provider: Arc<dyn KeyProvider>) {
    let tenant = tenant();
    let wrapped = wrap(&*provider, &tenant, &[data_key(1)], b"person 1").await;
    for other in [&b"person 2"[..], b"person", b"person 11", b""] {
        let error = unwrap(&*provider, &tenant, &wrapped, other)
            .await
            .expect_err("bound to something else");
        assert_eq!(
            (error.kind(), error.effect()),
            (ErrorKind::Corrupt, Effect::None),
            "{error}"
        );
    }
    assert!(unwrap(&*provider, &tenant, &wrapped, b"person 1").await.is_ok());
}

/// No tenant unwraps another one's keys.
pub async fn tenants_open_only_their_own(provider: Arc<dyn KeyProvider>) {
    let (ours, theirs) = (tenant(), tenant());
    let mut wrapped = wrap(&*provider, &ours, &[data_key(1)], b"a").await;
    let error = unwrap(&*provider, &theirs, &wrapped, b"a")
        .await
        .expect_err("another tenant");
    assert!(
        matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Config),
        "{error}"
    );
    // Nor when somebody writes the name of a key of theirs on it.
    wrapped[0].key_id = provider.current(&theirs).await.expect("current");
    let error = unwrap(&*provider, &theirs, &wrapped, b"a")
        .await
        .expect_err("another tenant");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

/// What was changed is refused, and so is a key that nobody has.
pub async fn a_changed_key_is_refused(provider: Arc<dyn KeyProvider>) {
    let tenant = tenant();
    let wrapped = wrap(&*provider, &tenant, &[data_key(1)], b"a").await;
    for at in [0, wrapped[0].bytes.len() / 2, wrapped[0].bytes.len() - 1] {
        let mut changed = wrapped.clone();
        changed[0].bytes[at] ^= 1;
        assert!(
            unwrap(&*provider, &tenant, &changed, b"a").await.is_err(),
            "byte {at} was changed"
        );
    }
    let mut cut = wrapped.clone();
    cut[0].bytes.pop();
    assert!(unwrap(&*provider, &tenant, &cut, b"a").await.is_err(), "cut off");
    let mut strange = wrapped.clone();
    strange[0].key_id = "nobody-has-this".to_owned();
    let error = unwrap(&*provider, &tenant, &strange, b"a")
        .await
        .expect_err("no such key");
    assert_eq!(
        (error.kind(), error.context("key_id")),
        (ErrorKind::Config, Some("nobody-has-this")),
        "{error}"
    );
    // One bad key among good ones fails the call; the good ones alone are fine.
    assert!(
        unwrap(&*provider, &tenant, &[wrapped[0].clone(), cut[0].clone()], b"a")
            .await
            .is_err()
    );
    assert!(
        unwrap(
            &*provider,
            &tenant,
            &[wrapped[0].clone(), wrapped[0].clone()],
            b"a"
        )
        .await
        .is_ok()
    );
}

/// The same key wrapped twice does not look the same.
pub async fn wrapping_twice_does_not_show(provider: Arc<dyn KeyProvider>) {
    let wrapped = wrap(&*provider, &tenant(), &[data_key(1), data_key(1)], b"a").await;
    assert_ne!(wrapped[0].bytes, wrapped[1].bytes);
}

/// An empty batch is answered empty.
pub async fn nothing_is_nothing(provider: Arc<dyn KeyProvider>) {
    let tenant = tenant();
    assert!(wrap(&*provider, &tenant, &[], b"a").await.is_empty());
    assert!(
        unwrap(&*provider, &tenant, &[], b"a")
            .await
            .expect("unwrap")
            .is_empty()
    );
}
