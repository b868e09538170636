use std::collections::BTreeSet;

use crm_core::capability::RecordStore as _;
use crm_core::consent::{
    ConsentAction, ConsentState, Evidence, OPT_IN, OptInRequest, Recipient, SuppressionReason,
    SuppressionScope,
};
use crm_core::customer::Address;
use crm_core::query::{Filter, Query};
use crm_core::{Context, CustomerId, ErrorKind, TenantId};

use super::world::{World, email, evidence, news};

const HOUR: u64 = 3600;

fn click() -> Evidence {
    Evidence::new("confirmation link", "Confirm that you want our news").unwrap()
}

async fn request(w: &World, ana: CustomerId, address: &Address) -> OptInRequest {
    let purpose = news().with_double_opt_in();
    w.gate
        .request_opt_in(&w.ctx, &Recipient::new(ana, address), &purpose, evidence(), None)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_consent_counts_once_it_is_confirmed_from_the_address() {
    let w = World::new().await;
    let address = email("ana@example.org");
    let ana = w.customer(&[&address]).await;
    let purpose = news().with_double_opt_in();
    w.gate
        .register_purpose(&w.ctx, &purpose, "Our news")
        .await
        .unwrap();
    // That it has to be confirmed is on record: who forgets to say so changes nothing.
    let ask = || w.verdict(w.ask(ana, &address, &news()));
    let requested = request(&w, ana, &address).await;
    let decision = ask().await.decision().clone();
    assert!(
        !decision.allowed && decision.last().contains("not yet confirmed"),
        "{decision}"
    );
    assert_eq!(
        w.gate
            .consent(&w.ctx, &Recipient::new(ana, &address), &news())
            .await
            .unwrap(),
        ConsentState::Pending {
            since: requested.event.at
        }
    );
    w.pass(47 * HOUR);
    let event = w
        .gate
        .confirm_opt_in(&w.ctx, requested.token.expose(), Some(&address), click())
        .await
        .unwrap();
    assert_eq!((event.action, event.customer_id), (ConsentAction::Confirmed, ana));
    assert!(ask().await.decision().allowed);
    // Single use.
    let again = w
        .gate
        .confirm_opt_in(&w.ctx, requested.token.expose(), None, click())
        .await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn a_token_is_good_for_its_address_its_tenant_and_two_days() {
    let w = World::new().await;
    let (address, other) = (email("ana@example.org"), email("bo@example.org"));
    let ana = w.customer(&[&address]).await;
    let requested = request(&w, ana, &address).await;
    let token = requested.token.expose().to_owned();
    let kind = |ctx: Context, token: String, address: Option<Address>| {
        let gate = w.gate.clone();
        async move {
            gate.confirm_opt_in(&ctx, &token, address.as_ref(), click())
                .await
                .unwrap_err()
                .kind()
        }
    };
    let elsewhere = Context::new(TenantId::new("elsewhere").unwrap());
    assert_eq!(
        kind(w.ctx.clone(), token.clone(), Some(other)).await,
        ErrorKind::NotFound
    );
    assert_eq!(kind(elsewhere, token.clone(), None).await, ErrorKind::NotFound);
    // Each letter changed: no other token is good.
    for i in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[i] = if changed[i] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(kind(w.ctx.clone(), changed, None).await, ErrorKind::NotFound);
    }
    for wrong in ["", "x", &token[..42], &format!("{token}A")] {
        assert_eq!(
            kind(w.ctx.clone(), wrong.to_owned(), None).await,
            ErrorKind::NotFound
        );
    }
    w.pass(48 * HOUR);
    assert_eq!(kind(w.ctx.clone(), token.clone(), None).await, ErrorKind::Refused);
    // Nothing of it was granted on the way.
    let state = w
        .gate
        .consent(
            &w.ctx,
            &Recipient::new(ana, &address),
            &news().with_double_opt_in(),
        )
        .await
        .unwrap();
    assert!(matches!(state, ConsentState::Pending { .. }));
}

#[tokio::test]
async fn tokens_are_long_different_and_not_in_the_store() {
    let w = World::new().await;
    let address = email("ana@example.org");
    let ana = w.customer(&[&address]).await;
    let mut tokens = BTreeSet::new();
    for _ in 0..100 {
        let requested = request(&w, ana, &address).await;
        let token = requested.token.expose().to_owned();
        // 43 characters of base64 hold 256 bits.
        assert_eq!(token.len(), 43);
        assert!(
            token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        );
        assert!(!format!("{requested:?}").contains(&token));
        tokens.insert(token);
    }
    assert_eq!(tokens.len(), 100);
    let stored = w
        .store
        .find(&w.ctx, &OPT_IN, &Query::new(Filter::All).limit(200))
        .await
        .unwrap();
    assert_eq!(stored.items.len(), 100);
    for item in stored.items {
        let all: String = item
            .record
            .values()
            .iter()
            .map(|value| serde_json::to_string(value).unwrap())
            .collect();
        assert!(tokens.iter().all(|token| !all.contains(token)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_clicks_at_once_one_counts() {
    let w = World::new().await;
    let address = email("ana@example.org");
    let ana = w.customer(&[&address]).await;
    let token = request(&w, ana, &address).await.token;
    let clicks: Vec<_> = (0..16)
        .map(|_| {
            let (gate, ctx, token) = (w.gate.clone(), w.ctx.clone(), token.expose().to_owned());
            tokio::spawn(async move { gate.confirm_opt_in(&ctx, &token, None, click()).await })
        })
        .collect();
    let mut confirmed = 0;
    for click in clicks {
        match click.await.unwrap() {
            Ok(_) => confirmed += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Refused),
        }
    }
    assert_eq!(confirmed, 1);
}

#[tokio::test]
async fn who_was_erased_meanwhile_is_not_brought_back() {
    let w = World::new().await;
    let address = email("ana@example.org");
    let ana = w.customer(&[&address]).await;
    let token = request(&w, ana, &address).await.token;
    w.gate
        .suppress(&w.ctx, &address, SuppressionScope::All, SuppressionReason::Erased)
        .await
        .unwrap();
    let confirmed = w.gate.confirm_opt_in(&w.ctx, token.expose(), None, click()).await;
    assert_eq!(confirmed.unwrap_err().kind(), ErrorKind::Refused);
    let refused = w
        .gate
        .grant(&w.ctx, ana, &address, &news(), evidence(), None)
        .await
        .unwrap_err();
    assert_eq!(
        (refused.kind(), refused.context("field")),
        (ErrorKind::Refused, Some("address"))
    );
    assert!(!refused.to_string().contains("ana@"));
    // To say no is always possible.
    w.gate
        .withdraw(&w.ctx, ana, &address, &news(), evidence())
        .await
        .unwrap();
    w.gate
        .unsuppress(&w.ctx, &address, &SuppressionScope::All)
        .await
        .unwrap();
    w.pass(1);
    w.gate
        .grant(&w.ctx, ana, &address, &news(), evidence(), None)
        .await
        .unwrap();
}
