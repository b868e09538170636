//! API keys: shown once, stored as a hash, scoped, expiring, rotated, taken back.

use std::sync::Arc;
use std::time::Duration;

use crm_core::access::{ApiKeys, NewKey};
use crm_core::capability::{Authenticator, Credentials, Scope};
use crm_core::memory::MemoryStore;
use crm_core::{Actor, Clock, Context, ErrorKind, ManualClock, RandomIds, Secret, TenantId, Timestamp};

const PEPPER: &str = "a pepper of more than thirty-two bytes, for tests";

struct House {
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    keys: ApiKeys,
}

fn house() -> House {
    let store = Arc::new(MemoryStore::new("records"));
    let clock = Arc::new(ManualClock::at(Timestamp::from_ymd(2026, 3, 1).unwrap()));
    let keys = opened(&store, &clock, PEPPER);
    House { store, clock, keys }
}

fn opened(store: &Arc<MemoryStore>, clock: &Arc<ManualClock>, pepper: &str) -> ApiKeys {
    ApiKeys::new(
        store.clone(),
        clock.clone(),
        RandomIds::shared(),
        &Secret::new(pepper),
    )
    .unwrap()
}

fn shop(name: &str) -> Context {
    Context::new(TenantId::new(name).unwrap()).actor(Actor::user("ana"))
}

fn bearer(token: &Secret) -> Credentials {
    Credentials::Bearer(token.clone())
}

fn new() -> NewKey {
    NewKey::new("web shop", ["customers.read", "segments.*"]).unwrap()
}

#[tokio::test]
async fn a_key_tells_whose_it_is_and_what_it_allows() {
    let House { keys, .. } = house();
    let issued = keys.issue(&shop("one"), new()).await.unwrap();
    for credentials in [
        bearer(&issued.token),
        Credentials::Basic {
            name: "anything".to_owned(),
            password: issued.token.clone(),
        },
    ] {
        let who = keys.authenticate(&credentials).await.unwrap();
        assert_eq!(who.tenant.as_str(), "one");
        assert_eq!(who.context().tenant().as_str(), "one");
        assert_eq!(who.actor, Actor::system(format!("api-key {}", issued.key.id)));
        assert!(who.require("segments.write").is_ok());
        assert_eq!(
            who.require("customers.write").unwrap_err().kind(),
            ErrorKind::PermissionDenied
        );
    }
    let listed = keys.list(&shop("one"), 10, None).await.unwrap();
    assert_eq!(listed.items, [issued.key]);
    assert!(
        keys.list(&shop("two"), 10, None).await.unwrap().items.is_empty(),
        "not of another tenant"
    );
}

#[tokio::test]
async fn what_does_not_hold_is_refused_alike() {
    let House { keys, store, clock } = house();
    let issued = keys.issue(&shop("one"), new()).await.unwrap();
    let token = issued.token.expose().to_owned();
    let mut wrong = vec![
        String::new(),
        "ocrm_".to_owned(),
        token[1..].to_owned(),
        token[..token.len() - 1].to_owned(),
        format!("{token}A"),
        token.to_uppercase(),
        "ocrm_\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}".to_owned(),
    ];
    // Every character counts.
    for at in 5..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        wrong.push(String::from_utf8(changed).unwrap());
    }
    for token in wrong {
        let error = keys
            .authenticate(&bearer(&Secret::new(&*token)))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{token}");
        assert_eq!(
            error.message(),
            "the credentials are missing or do not hold",
            "{token}"
        );
        assert_eq!(error.contexts().count(), 0, "{token}");
    }
    assert_eq!(
        keys.authenticate(&Credentials::Nothing).await.unwrap_err().kind(),
        ErrorKind::Unauthenticated
    );
    assert!(keys.authenticate(&bearer(&issued.token)).await.is_ok());
    let others = opened(&store, &clock, "another pepper of more than thirty-two bytes");
    assert!(
        others.authenticate(&bearer(&issued.token)).await.is_err(),
        "made under another pepper"
    );
}

#[tokio::test]
async fn a_key_ends_when_it_is_said_and_when_it_is_taken_back() {
    let House { keys, clock, .. } = house();
    let ctx = shop("one");
    let end = clock.now().plus(Duration::from_secs(60));
    let short = keys.issue(&ctx, new().until(end)).await.unwrap();
    let long = keys.issue(&ctx, new()).await.unwrap();
    clock.advance(Duration::from_secs(59));
    assert!(keys.authenticate(&bearer(&short.token)).await.is_ok());
    clock.advance(Duration::from_secs(1));
    assert!(
        keys.authenticate(&bearer(&short.token)).await.is_err(),
        "at its end it no longer holds"
    );
    assert!(keys.authenticate(&bearer(&long.token)).await.is_ok());

    assert_eq!(
        keys.revoke(&shop("two"), long.key.id).await.unwrap_err().kind(),
        ErrorKind::NotFound,
        "only the owner takes it back"
    );
    assert!(keys.authenticate(&bearer(&long.token)).await.is_ok());
    let revoked = keys.revoke(&ctx, long.key.id).await.unwrap();
    assert_eq!(revoked.revoked_at, Some(clock.now()));
    clock.advance(Duration::from_secs(5));
    assert_eq!(
        keys.revoke(&ctx, long.key.id).await.unwrap(),
        revoked,
        "again is harmless"
    );
    assert!(keys.authenticate(&bearer(&long.token)).await.is_err());
}

#[tokio::test]
async fn a_key_is_rotated_with_an_overlap() {
    let House { keys, clock, .. } = house();
    let ctx = shop("one");
    let old = keys.issue(&ctx, new()).await.unwrap();
    let overlap = clock.now().plus(Duration::from_secs(3600));
    assert!(
        keys.rotate(&shop("two"), old.key.id, overlap, None)
            .await
            .is_err()
    );
    let next = keys.rotate(&ctx, old.key.id, overlap, None).await.unwrap();
    assert_eq!(
        (&next.key.name, &next.key.scopes),
        (&old.key.name, &old.key.scopes)
    );
    assert_ne!(next.token, old.token);
    for token in [&old.token, &next.token] {
        assert!(keys.authenticate(&bearer(token)).await.is_ok());
    }
    clock.advance(Duration::from_secs(3600));
    assert!(keys.authenticate(&bearer(&old.token)).await.is_err());
    assert!(keys.authenticate(&bearer(&next.token)).await.is_ok());
    let error = keys.rotate(&ctx, old.key.id, overlap, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn wrong_keys_are_not_made() {
    let House { keys, store, clock } = house();
    let ctx = shop("one");
    for (new, field) in [
        (
            NewKey {
                name: " ".to_owned(),
                ..new()
            },
            "name",
        ),
        (
            NewKey {
                name: "x".repeat(201),
                ..new()
            },
            "name",
        ),
        (
            NewKey {
                scopes: [].into(),
                ..new()
            },
            "scopes",
        ),
        (new().until(clock.now()), "expires_at"),
    ] {
        let error = keys.issue(&ctx, new).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Invalid, Some(field))
        );
    }
    let short = ApiKeys::new(store, clock, RandomIds::shared(), &Secret::new("short")).unwrap_err();
    assert_eq!(
        (short.kind(), short.context("setting")),
        (ErrorKind::Config, Some("pepper"))
    );
    assert!(Scope::new("customers").is_err());
}
