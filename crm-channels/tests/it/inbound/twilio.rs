//! The whole way round with a vendor that behaves as Twilio does: taken, called back over HTTP, in a bad order.

use std::net::SocketAddr;
use std::sync::Arc;

use crm_channels::OutboxState;
use crm_channels::inbound::Tenants;
use crm_channels::testkit::{FakeTwilio, Fault, TakenByTwilio};
use crm_channels::twilio::{TwilioConfig, TwilioSms, TwilioWebhook};
use crm_core::capability::{SmsSender, WebhookRequest, WebhookSource};
use crm_core::consent::{ConsentAction, Recipient, SuppressionReason, SuppressionScope};
use crm_core::message::{Channel, DeliveryState, MessageId, VoiceStep};
use crm_core::record::{Entity as _, Write};
use crm_core::{CustomerId, Registry, Secret};

use super::http::{call, serve};
use super::{Office, phone};
use crate::common::World;

const TOKEN: &str = "faketoken";
const NUMBER: &str = "+15005550006";
const HOOK: &str = "https://mail.example.com/crm/webhooks/twilio";

struct Site {
    o: Office,
    vendor: FakeTwilio,
    address: SocketAddr,
    ana: CustomerId,
}

async fn site() -> Site {
    let vendor = FakeTwilio::start(TOKEN).await.unwrap();
    let mut config = TwilioConfig::new(FakeTwilio::ACCOUNT, Secret::new(TOKEN));
    config.from = Some(FakeTwilio::NUMBER.into());
    config.status_callback = Some(HOOK.parse().unwrap());
    config.base_url = Some(vendor.url());
    config.http = vendor.http();
    config.http.total_timeout = std::time::Duration::from_secs(2);
    let w = World::new().await;
    let hook = TwilioWebhook::build("twilio", &config)
        .unwrap()
        .with_clock(w.clock.clone());
    let sms = TwilioSms::build("twilio", config)
        .unwrap()
        .with_clock(w.clock.clone());
    let registry = Registry::builder()
        .provide::<dyn SmsSender>(10, Arc::new(sms))
        .provide::<dyn WebhookSource>(0, Arc::new(hook));
    let o = Office::with(w, registry);
    let ana = o.w.customer("Ana", "ana@example.org").await;
    o.reached_at(ana, NUMBER).await;
    let address = serve(o.desk(), Tenants::One(o.w.ctx.tenant().clone())).await;
    Site {
        o,
        vendor,
        address,
        ana,
    }
}

impl Site {
    async fn send(&self) -> (MessageId, TakenByTwilio) {
        let id = self.o.sent_sms(self.ana, NUMBER).await;
        (id, self.vendor.taken().pop().unwrap())
    }

    /// Makes the call that the vendor makes, through the proxy that takes the path's beginning away.
    async fn hear(&self, request: &WebhookRequest) -> u16 {
        let path = request.url.path().strip_prefix("/crm").unwrap();
        let path = request
            .url
            .query()
            .map_or(path.to_owned(), |query| format!("{path}?{query}"));
        let headers: Vec<(&str, &str)> = request
            .headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        call(self.address, &request.method, &path, &headers, &request.body)
            .await
            .0
    }
}

#[tokio::test]
async fn callbacks_in_any_order_over_http_have_one_end() {
    let s = site().await;
    let (id, taken) = s.send().await;
    assert_eq!(s.o.w.state(id).await, OutboxState::Sent);
    let back = |status| s.vendor.callback(&taken, status, None).unwrap();
    for status in [
        "delivered",
        "sent",
        "queued",
        "sending",
        "delivered",
        "sent",
        "read",
        "unheard-of",
    ] {
        let answer = s.hear(&back(status)).await;
        assert!((200..300).contains(&answer), "{status}: {answer}");
    }
    let entry = s.o.outreach.message(&s.o.w.ctx, id).await.unwrap();
    assert_eq!(entry.delivery, Some(DeliveryState::Delivered));
    assert_eq!(entry.provider_ref.as_deref(), Some(taken.sid.as_str()));
    // Changed on the way, or for another message: not the vendor's.
    let mut forged = s.vendor.callback(&taken, "failed", Some(30005)).unwrap();
    let other: MessageId = s.o.w.ids.fresh().into();
    forged.url.set_query(Some(&format!("message={other}")));
    assert_eq!(s.hear(&forged).await, 403);
    assert_eq!(
        s.o.outreach.message(&s.o.w.ctx, id).await.unwrap().delivery,
        entry.delivery
    );
    assert!(s.o.suppressions(&s.o.w.ctx).await.is_empty());
}

/// F3: the vendor took it and its answer was lost. Named, not sent again, and settled by the call back, which names our id.
#[tokio::test]
async fn a_lost_answer_is_settled_by_the_call_back() {
    let s = site().await;
    s.vendor.fault(Fault::AcceptThenDrop);
    let (id, taken) = s.send().await;
    assert_eq!(s.o.w.state(id).await, OutboxState::Unknown);
    let request = s.vendor.callback(&taken, "delivered", None).unwrap();
    assert!((200..300).contains(&s.hear(&request).await));
    let entry = s.o.outreach.message(&s.o.w.ctx, id).await.unwrap();
    assert_eq!(
        (entry.state, entry.delivery),
        (OutboxState::Sent, Some(DeliveryState::Delivered))
    );
    assert_eq!(entry.provider_ref.as_deref(), Some(taken.sid.as_str()));
    s.o.w.pass(86_400);
    s.o.outreach
        .dispatcher()
        .unwrap()
        .drain(&s.o.w.ctx)
        .await
        .unwrap();
    assert_eq!(s.vendor.taken().len(), 1);
}

#[tokio::test]
async fn stop_over_http_ends_marketing() {
    let s = site().await;
    let hook = HOOK.parse().unwrap();
    let stop = s.vendor.incoming(&hook, NUMBER, "  Stop.  ", None);
    for _ in 0..3 {
        assert!((200..300).contains(&s.hear(&stop).await));
    }
    let suppressions = s.o.suppressions(&s.o.w.ctx).await;
    assert_eq!(suppressions.len(), 1);
    assert_eq!(suppressions[0].reason, SuppressionReason::Unsubscribed);
    assert_eq!(
        (&suppressions[0].scope, suppressions[0].channel),
        (&SuppressionScope::Marketing, Some(Channel::Sms))
    );
    assert_eq!(s.o.kinds().await, ["sms.received"]);
}

/// A key that is pressed in a call ends such calls, and nothing else.
#[tokio::test]
async fn a_key_in_a_call_ends_marketing_by_calls() {
    let s = site().await;
    let ctx = &s.o.w.ctx;
    let (text, call) = (phone(NUMBER), phone(NUMBER));
    let news = crate::common::news();
    for channel in [Channel::Sms, Channel::Voice] {
        let purpose = news.clone();
        let event =
            s.o.outreach
                .gate()
                .unwrap()
                .event(
                    s.ana,
                    &call,
                    &purpose,
                    ConsentAction::Granted,
                    crate::common::evidence(),
                )
                .unwrap()
                .by(channel);
        let write = Write::insert(event.id, event.to_record().unwrap());
        s.o.w.store.apply(ctx, &[write]).await.unwrap();
    }
    let allowed = async |channel| {
        let recipient = Recipient::new(s.ana, &text).by(channel);
        let gate = s.o.outreach.gate().unwrap();
        gate.explain(ctx, &recipient, &news).await.unwrap().allowed
    };
    assert!(allowed(Channel::Voice).await && allowed(Channel::Sms).await);

    let step = VoiceStep::opt_out('9', HOOK.parse().unwrap(), "No more calls? Press nine.").unwrap();
    let VoiceStep::Gather { action, .. } = &step else {
        unreachable!()
    };
    let pressed = |url: &url::Url, sid: &str, keys: &str| {
        s.vendor.signed(
            url,
            &[
                ("AccountSid", FakeTwilio::ACCOUNT),
                ("CallSid", sid),
                ("CallStatus", "in-progress"),
                ("Direction", "outbound-api"),
                ("From", FakeTwilio::NUMBER),
                ("To", NUMBER),
                ("Digits", keys),
            ],
        )
    };
    // Another key, and the right key at an address that somebody made up.
    assert_eq!(s.hear(&pressed(action, "CA1", "1")).await, 200);
    let mut forged = pressed(&HOOK.parse().unwrap(), "CA2", "9");
    forged.url = action.clone();
    assert_eq!(s.hear(&forged).await, 403);
    assert!(allowed(Channel::Voice).await && allowed(Channel::Sms).await);
    for _ in 0..3 {
        assert_eq!(s.hear(&pressed(action, "CA3", "9")).await, 200);
    }
    assert!(!allowed(Channel::Voice).await, "no more calls");
    assert!(allowed(Channel::Sms).await, "texts go on");
    let suppressions = s.o.suppressions(ctx).await;
    assert_eq!(suppressions.len(), 1);
    assert_eq!(
        (&suppressions[0].scope, suppressions[0].channel),
        (&SuppressionScope::Marketing, Some(Channel::Voice))
    );
    assert_eq!(s.o.kinds().await, ["call.received", "call.received"]);
    assert!(s.vendor.taken().is_empty(), "nobody is called back about it");
}
