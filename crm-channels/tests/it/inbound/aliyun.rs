//! What Aliyun pushes, over HTTP: its address ends with the secret that only the vendor was told.

use std::net::SocketAddr;
use std::sync::Arc;

use crm_channels::aliyun::{AliyunConfig, AliyunSms, AliyunWebhook};
use crm_channels::inbound::Tenants;
use crm_channels::testkit::{FakeAliyun, TakenByAliyun};
use crm_channels::{OutboxState, Outgoing};
use crm_core::capability::{SmsSender, WebhookRequest, WebhookSource};
use crm_core::consent::SuppressionReason;
use crm_core::message::{Channel, DeliveryState, MessageId, Sms, VendorTemplate};
use crm_core::{CustomerId, Registry, Secret};
use serde_json::json;

use super::Office;
use super::http::{call, serve};
use crate::common::World;

const NUMBER: &str = "+8613800138000";

struct Site {
    o: Office,
    vendor: FakeAliyun,
    address: SocketAddr,
    ana: CustomerId,
}

async fn site() -> Site {
    let vendor = FakeAliyun::start("s3cret").await.unwrap();
    let mut config = AliyunConfig::new(FakeAliyun::KEY, Secret::new("s3cret"));
    config.sign_name = Some("商店".into());
    config.hook_secret = Some(Secret::new("only-the-vendor-knows"));
    config.base_url = Some(vendor.url());
    config.http = vendor.http();
    let w = World::new().await;
    let hook = AliyunWebhook::build("aliyun", config.clone())
        .unwrap()
        .with_clock(w.clock.clone());
    let sms = AliyunSms::build("aliyun", config)
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
    async fn send(&self) -> (MessageId, TakenByAliyun) {
        self.o.w.pass(61); // the vendor's own limits: one a minute
        let sms = Sms::new(self.o.w.ids.fresh().into(), NUMBER.parse().unwrap(), "")
            .template("aliyun", VendorTemplate::new("SMS_154950909"));
        let outgoing = Outgoing::sms(sms, self.ana, crate::common::receipt());
        let id = self
            .o
            .outreach
            .enqueue(&self.o.w.ctx, outgoing, vec![])
            .await
            .unwrap();
        let dispatcher = self.o.outreach.dispatcher().unwrap();
        dispatcher.drain(&self.o.w.ctx).await.unwrap();
        assert_eq!(self.o.w.state(id).await, OutboxState::Sent);
        (id, self.vendor.taken().pop().unwrap())
    }

    async fn pushed(&self, path: &str, all: &[serde_json::Value]) -> (u16, String) {
        let url = format!("https://mail.example.com{path}").parse().unwrap();
        let push: WebhookRequest = FakeAliyun::push(&url, all);
        let headers: Vec<(&str, &str)> = push
            .headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        let (status, _, body) = call(self.address, "POST", path, &headers, &push.body).await;
        (status, body)
    }

    async fn delivery(&self, id: MessageId) -> Option<DeliveryState> {
        self.o.outreach.message(&self.o.w.ctx, id).await.unwrap().delivery
    }
}

const HOOK: &str = "/webhooks/aliyun/only-the-vendor-knows";

#[tokio::test]
async fn receipts_of_many_come_in_one_push_and_the_vendor_hears_what_it_wants_to_hear() {
    let s = site().await;
    let ((first, one), (second, two)) = (s.send().await, s.send().await);
    let all = [
        FakeAliyun::receipt(&one, true, "DELIVERED"),
        FakeAliyun::receipt(&two, false, "MOBILE_NOT_ON_SERVICE"),
    ];
    // Whoever does not know the secret changes nothing, wherever the secret is missing.
    for path in [
        "/webhooks/aliyun",
        "/webhooks/aliyun/",
        "/webhooks/aliyun/guessed",
        "/webhooks/aliyun/only-the-vendor-knows/more",
    ] {
        let status = s.pushed(path, &all).await.0;
        assert!(matches!(status, 403 | 404), "{path}: {status}");
    }
    assert_eq!(s.delivery(first).await, Some(DeliveryState::Accepted));
    for _ in 0..3 {
        let (status, body) = s.pushed(HOOK, &all).await;
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, &answer["code"]),
            (200, &json!(0)),
            "nothing else makes it content"
        );
    }
    assert_eq!(s.delivery(first).await, Some(DeliveryState::Delivered));
    assert_eq!(s.delivery(second).await, Some(DeliveryState::Failed));
    let delivered =
        s.o.kinds()
            .await
            .iter()
            .filter(|kind| *kind == "sms.delivered")
            .count();
    assert_eq!(delivered, 1, "three pushes, one effect");
}

#[tokio::test]
async fn a_chinese_stop_over_http_ends_marketing() {
    let s = site().await;
    let answer = json!({
        "phone_number": "13800138000", "send_time": "2026-01-02 11:04:05", "content": "退订", "sign_name": "商店",
        "dest_code": "1069", "sequence_id": 1_234_567,
    });
    for _ in 0..2 {
        assert_eq!(s.pushed(HOOK, std::slice::from_ref(&answer)).await.0, 200);
    }
    let suppressions = s.o.suppressions(&s.o.w.ctx).await;
    assert_eq!(suppressions.len(), 1);
    assert_eq!(
        (suppressions[0].reason, suppressions[0].channel),
        (SuppressionReason::Unsubscribed, Some(Channel::Sms))
    );
}
