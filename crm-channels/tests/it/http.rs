//! A vendor that nobody wrote code for: what its description says is what is sent and read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crm_channels::http::{HttpSms, HttpVendorConfig, HttpVoice, HttpWebhook};
use crm_channels::testkit::{Fault, Heard, Reply, VendorServer};
use crm_core::capability::{SmsSender, VoiceCaller, WebhookRequest, WebhookSource};
use crm_core::message::{
    Blame, DeliveryState, InboundEvent, Lookup, MessageId, Sms, VendorTemplate, VoiceCall, VoiceStep,
};
use crm_core::registry::Catalog;
use crm_core::testkit::{fixtures, webhook};
use crm_core::{Effect, ErrorKind, Retry, Uuid};
use serde_json::{Value, json};

use crate::vendor::{clock, context};

const ACME: &str = include_str!("../data/acme.json");

/// A vendor after the description: takes, gives references, knows what it took.
async fn acme() -> VendorServer {
    let taken: Mutex<BTreeMap<String, String>> = Mutex::default();
    VendorServer::start(move |heard: &Heard| {
        if heard.header("x-api-key") != Some("k3y-of-acme") {
            return Reply::json(401, json!({"error": {"code": "key"}}));
        }
        let mut taken = taken.lock().unwrap();
        let reference = format!("A{}", taken.len());
        match heard.path() {
            "/v1/messages" => {
                let body: Value = serde_json::from_slice(&heard.body).expect("JSON");
                taken.insert(
                    body["ref"].as_str().unwrap().replace("crm-", ""),
                    reference.clone(),
                );
                Reply::json(201, json!({"ok": true, "message": {"id": reference}}))
            }
            "/v1/calls" => {
                let form: BTreeMap<String, String> = heard.form().into_iter().collect();
                taken.insert(form["ref"].clone(), reference.clone());
                Reply::json(200, "{}").header("X-Call-Id", &reference)
            }
            "/v1/status" => {
                let query: BTreeMap<String, String> = heard.query().into_iter().collect();
                match taken.get(&query["own"]) {
                    Some(reference) => Reply::json(200, json!({"id": reference, "state": "arrived"})),
                    None => Reply::json(404, "{}"),
                }
            }
            other => panic!("{other}"),
        }
    })
    .await
    .unwrap()
}

fn config(text: &str, vendor: &VendorServer) -> HttpVendorConfig {
    let url = vendor.url();
    let mut config: HttpVendorConfig =
        serde_json::from_str(&text.replace("@URL@", url.as_str().trim_end_matches('/'))).unwrap();
    config.http = vendor.http();
    config
}

fn id() -> MessageId {
    Uuid::from_u128(7).into()
}

fn sms() -> Sms {
    Sms::new(id(), "+8613800138000".parse().unwrap(), "Hi 你好 \"&\" {{to}}\n")
}

async fn kept<T>(make: impl FnOnce(HttpVendorConfig) -> T) -> T {
    let vendor = acme().await;
    let made = make(config(ACME, &vendor));
    std::mem::forget(vendor);
    made
}

crm_core::sms_suite!(
    sms_sender,
    async { kept(|config| Arc::new(HttpSms::build("acme", config).unwrap()) as Arc<dyn SmsSender>).await },
    sms()
);
crm_core::voice_suite!(
    voice_caller,
    async {
        kept(|config| Arc::new(HttpVoice::build("acme", config).unwrap()) as Arc<dyn VoiceCaller>).await
    },
    fixtures::call(1)
);
crm_core::webhook_suite!(hooks, async { Arc::new(source()) as Arc<dyn WebhookSource> }, {
    let genuine = signed("hook-secret", &news());
    let mut changed = genuine.clone();
    changed.body.push(b' ');
    let mut unsigned = genuine.clone();
    unsigned.headers.clear();
    webhook::Sample {
        forged: vec![changed, unsigned, signed("another-secret", &news())],
        genuine,
    }
});

fn source() -> HttpWebhook {
    let config = serde_json::from_str(&ACME.replace("@URL@", "https://acme.example")).unwrap();
    HttpWebhook::build("acme", &config).unwrap().with_clock(clock())
}

fn news() -> Value {
    json!({"events": [
        {"id": "A1", "own": id(), "to": "8613800138000", "state": "arrived", "at": 1_767_323_045},
        {"id": "A2", "state": "dead_number", "code": 17, "at": "2026-01-02T03:04:05Z"},
        {"id": "A3", "state": "on its way"},
        {"what": "is this"},
        {"id": "M1", "from": "+8613800138000", "to": "SHOP", "text": "STOP"},
    ]})
}

fn signed(secret: &str, body: &Value) -> WebhookRequest {
    let body = body.to_string();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag: String = ring::hmac::sign(&key, body.as_bytes())
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    WebhookRequest::post("https://crm.example/hooks/acme".parse().unwrap(), body)
        .header("X-Acme-Signature", format!("sha256={tag}"))
}

#[tokio::test]
async fn what_goes_out_is_what_the_description_says() {
    let vendor = acme().await;
    let sender = HttpSms::build("acme", config(ACME, &vendor)).unwrap();
    let ctx = context();
    let receipt = sender.send(&ctx, &fixtures::permitted(sms())).await.unwrap();
    assert_eq!(receipt.provider_ref, "A0");
    let heard = vendor.heard().pop().unwrap();
    assert_eq!(
        (heard.method.as_str(), heard.target.as_str()),
        ("POST", "/v1/messages")
    );
    assert_eq!(heard.header("x-api-key"), Some("k3y-of-acme"));
    assert_eq!(heard.header("idempotency-key"), Some(id().to_string().as_str()));
    assert_eq!(heard.header("content-type"), Some("application/json"));
    let body: Value = serde_json::from_slice(&heard.body).unwrap();
    assert_eq!(
        body,
        json!({"to": "+8613800138000", "from": "SHOP", "text": "Hi 你好 \"&\" {{to}}\n", "template": {},
            "ref": format!("crm-{}", id()), "priority": 1})
    );

    let mut template = VendorTemplate::new("welcome");
    template.params.insert("name".into(), "张三".into());
    let picture = "https://a.example/1.png".parse().unwrap();
    let full = Sms {
        text: String::new(),
        media: vec![picture],
        ..sms()
    }
    .from("Ana")
    .template("acme", template);
    sender.send(&ctx, &fixtures::permitted(full)).await.unwrap();
    let body: Value = serde_json::from_slice(&vendor.heard().pop().unwrap().body).unwrap();
    assert_eq!(
        body["template"],
        json!({"name": "welcome", "values": {"name": "张三"}})
    );
    assert_eq!(
        (&body["pictures"], &body["sender"]),
        (&json!(["https://a.example/1.png"]), &json!("Ana"))
    );
    assert_eq!(body.get("text"), None);

    let caller = HttpVoice::build("acme", config(ACME, &vendor)).unwrap();
    let steps = vec![
        VoiceStep::Say {
            text: "您好 & 再见".into(),
            language: None,
            voice: None,
            times: 2,
        },
        VoiceStep::Hangup,
    ];
    let call = VoiceCall::new(id(), "+8613800138000".parse().unwrap(), steps);
    caller
        .call(&ctx, &fixtures::permitted(call.clone()))
        .await
        .unwrap();
    assert_eq!(
        String::from_utf8(vendor.heard().pop().unwrap().body).unwrap(),
        format!(
            "number=8613800138000&say=%E6%82%A8%E5%A5%BD+%26+%E5%86%8D%E8%A7%81&times=2&ref={}",
            id()
        )
    );
    let more = VoiceCall {
        steps: vec![VoiceStep::say("a"), VoiceStep::say("b")],
        ..call
    };
    let error = caller.call(&ctx, &fixtures::permitted(more)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("steps"))
    );
}

#[tokio::test]
async fn other_vendors_speak_otherwise() {
    let vendor = VendorServer::start(|heard| match heard.method.as_str() {
        "GET" => Reply {
            status: 200,
            headers: vec![],
            body: b"OK 4711\n".to_vec(),
        },
        _ => Reply {
            status: 200,
            headers: vec![],
            body: b"<r><id> 9&lt; </id></r>".to_vec(),
        },
    })
    .await
    .unwrap();
    let get = r#"{"scheme": "old", "secrets": {"key": "k&y"}, "auth": {"basic": {"user": "u", "password": "p"}},
        "sms": {"request": {"method": "GET", "url": "@URL@/send/{{to_digits}}?key={{secret.key}}&text={{text}}&at={{now_unix}}"},
        "answer": {"reference": {"regex": "^OK ([0-9]+)"}, "code": {"regex": "^ERR ([0-9]+)"}}}}"#;
    let ctx = context();
    let sender = HttpSms::build("old", config(get, &vendor))
        .unwrap()
        .with_clock(clock());
    let receipt = sender.send(&ctx, &fixtures::permitted(sms())).await.unwrap();
    assert_eq!(receipt.provider_ref, "4711");
    let heard = vendor.heard().pop().unwrap();
    assert_eq!(heard.header("authorization"), Some("Basic dTpw"));
    assert_eq!(
        heard.target,
        "/send/8613800138000?key=k%26y&text=Hi%20%E4%BD%A0%E5%A5%BD%20%22%26%22%20%7B%7Bto%7D%7D%0A&at=1767323045"
    );
    // A send by GET is no harmless question: a lost answer is a lost answer.
    vendor.fault(Fault::AcceptThenDrop);
    let error = sender.send(&ctx, &fixtures::permitted(sms())).await.unwrap_err();
    assert_eq!(
        (error.effect(), error.retry()),
        (Effect::Unknown, Retry::Never),
        "{error}"
    );

    let xml = r#"{"scheme": "xml", "auth": {"bearer": {"token": "t0ken"}}, "sms": {"request": {"url": "@URL@/soap",
        "body": {"text": {"content_type": "application/xml", "escape": "xml", "text": "<sms to=\"{{to}}\">{{text}}</sms>"}}},
        "answer": {"reference": {"regex": "<id>(.*)</id>"}}}}"#;
    let sender = HttpSms::build("xml", config(xml, &vendor)).unwrap();
    let receipt = sender.send(&ctx, &fixtures::permitted(sms())).await.unwrap();
    assert_eq!(receipt.provider_ref, "9&lt;");
    let heard = vendor.heard().pop().unwrap();
    assert_eq!(heard.header("content-type"), Some("application/xml"));
    assert_eq!(heard.header("authorization"), Some("Bearer t0ken"));
    assert_eq!(
        String::from_utf8(heard.body).unwrap(),
        "<sms to=\"+8613800138000\">Hi 你好 &quot;&amp;&quot; {{to}}\n</sms>"
    );

    let form = r#"{"scheme": "form", "sms": {"request": {"url": "@URL@/f",
        "body": {"form": [["to", "{{to}}"], ["m", "{{media?}}"], ["t", "{{text?}}"], ["f", "{{from?}}"]]}},
        "answer": {"reference": {"regex": "<id>(.*)</id>"}}}}"#;
    let sender = HttpSms::build("form", config(form, &vendor)).unwrap();
    let media = ["https://a.example/1.png", "https://a.example/2.png"].map(|url| url.parse().unwrap());
    sender
        .send(
            &ctx,
            &fixtures::permitted(Sms {
                text: "x".into(),
                media: media.into(),
                ..sms()
            }),
        )
        .await
        .unwrap();
    assert_eq!(
        String::from_utf8(vendor.heard().pop().unwrap().body).unwrap(),
        "to=%2B8613800138000&m=https%3A%2F%2Fa.example%2F1.png&m=https%3A%2F%2Fa.example%2F2.png&t=x"
    );
}

#[tokio::test]
async fn refusals_mean_what_the_rules_say() {
    let vendor = acme().await;
    let mut config = config(ACME, &vendor);
    config.http.total_timeout = Duration::from_millis(400);
    let sender = HttpSms::build("acme", config).unwrap().with_clock(clock());
    let ctx = context();
    let said = |status, code: &str| {
        Fault::Answer(Reply::json(
            status,
            json!({"ok": false, "error": {"code": code, "text": "+8613800138000"}}),
        ))
    };
    let after = |seconds| Retry::Allowed {
        after: Some(Duration::from_secs(seconds)),
    };
    let never = Retry::Never;
    for (fault, kind, retry, effect, blame) in [
        (
            said(400, "number.bad"),
            ErrorKind::Invalid,
            never,
            Effect::None,
            Blame::Recipient,
        ),
        (
            said(200, "NO_SUCH_NUMBER"),
            ErrorKind::Invalid,
            never,
            Effect::None,
            Blame::Recipient,
        ),
        (
            said(200, "opted_out"),
            ErrorKind::Refused,
            never,
            Effect::None,
            Blame::OptedOut,
        ),
        (
            said(200, "text.too_long"),
            ErrorKind::Invalid,
            never,
            Effect::None,
            Blame::Content,
        ),
        (
            said(429, "quota"),
            ErrorKind::RateLimited,
            after(30),
            Effect::None,
            Blame::Nobody,
        ),
        (
            said(500, "half_done"),
            ErrorKind::Unavailable,
            never,
            Effect::Unknown,
            Blame::Nobody,
        ),
        (
            said(402, "money"),
            ErrorKind::PermissionDenied,
            never,
            Effect::None,
            Blame::Sender,
        ),
        (
            said(200, "never_described"),
            ErrorKind::Unexpected,
            never,
            Effect::None,
            Blame::Nobody,
        ),
        (
            said(400, "never_described"),
            ErrorKind::Invalid,
            never,
            Effect::None,
            Blame::Nobody,
        ),
        (
            said(401, "key"),
            ErrorKind::Unauthenticated,
            never,
            Effect::None,
            Blame::Sender,
        ),
        (
            said(502, "x"),
            ErrorKind::Unavailable,
            never,
            Effect::Unknown,
            Blame::Nobody,
        ),
        (
            Fault::Answer(Reply::json(429, "{}").header("retry-after", "120")),
            ErrorKind::RateLimited,
            after(120),
            Effect::None,
            Blame::Nobody,
        ),
        (
            Fault::Answer(Reply::json(200, json!({"ok": true}))),
            ErrorKind::Unexpected,
            never,
            Effect::Unknown,
            Blame::Nobody,
        ),
        (
            Fault::AcceptThenGarble,
            ErrorKind::Unexpected,
            never,
            Effect::Unknown,
            Blame::Nobody,
        ),
        (
            Fault::AcceptThenFail,
            ErrorKind::Unavailable,
            never,
            Effect::Unknown,
            Blame::Nobody,
        ),
        (
            Fault::AcceptThenDrop,
            ErrorKind::Unavailable,
            never,
            Effect::Unknown,
            Blame::Nobody,
        ),
        (
            Fault::AcceptThenHang,
            ErrorKind::Timeout,
            never,
            Effect::Unknown,
            Blame::Nobody,
        ),
    ] {
        let what = format!("{fault:?}");
        vendor.fault(fault);
        let error = sender.send(&ctx, &fixtures::permitted(sms())).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry(), error.effect()),
            (kind, retry, effect),
            "{what}: {error}"
        );
        assert_eq!(error.blamed(), blame, "{what}: {error}");
        let said = format!("{error:?}");
        assert!(!said.contains("13800138000") && !said.contains("k3y"), "{said}");
    }
}

#[tokio::test]
async fn a_lost_message_is_found_by_its_own_id() {
    let vendor = acme().await;
    let sender = HttpSms::build("acme", config(ACME, &vendor))
        .unwrap()
        .with_clock(clock());
    let ctx = context();
    vendor.fault(Fault::AcceptThenDrop);
    assert_eq!(
        sender
            .send(&ctx, &fixtures::permitted(sms()))
            .await
            .unwrap_err()
            .effect(),
        Effect::Unknown
    );
    let mut lookup = Lookup {
        message_id: id(),
        provider_ref: None,
        to: sms().to,
        sent_at: clock().now(),
    };
    let found = sender.lookup(&ctx, &lookup).await.unwrap();
    assert_eq!(
        (found[0].state, found[0].provider_ref.as_deref()),
        (DeliveryState::Delivered, Some("A0"))
    );
    lookup.message_id = Uuid::from_u128(8).into();
    assert_eq!(sender.lookup(&ctx, &lookup).await.unwrap(), vec![]);
    vendor.fault(Fault::AcceptThenDrop);
    let error = sender.lookup(&ctx, &lookup).await.unwrap_err();
    assert_eq!(
        (error.effect(), error.is_retryable()),
        (Effect::None, true),
        "{error}"
    );
}

#[tokio::test]
async fn what_the_vendor_tells_is_read() {
    let events = source().receive(&signed("hook-secret", &news())).await.unwrap();
    let read: Vec<_> = events
        .iter()
        .map(|event| match event {
            InboundEvent::Delivery(news) => (news.event_id.as_str(), Some(news.state), news.blame),
            InboundEvent::Message(message) => (message.text.as_str(), None, Blame::Nobody),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        read,
        [
            ("A1:arrived", Some(DeliveryState::Delivered), Blame::Nobody),
            ("A2:dead_number", Some(DeliveryState::Failed), Blame::Recipient),
            ("A3:onitsway", Some(DeliveryState::Accepted), Blame::Nobody),
            ("STOP", None, Blame::Nobody),
        ]
    );
    let InboundEvent::Delivery(first) = &events[0] else {
        panic!()
    };
    assert_eq!((first.message_id, first.at), (Some(id()), clock().now()));
    assert_eq!(source().accepted().body, r#"{"ok":true}"#);
}

#[tokio::test]
async fn descriptions_are_checked_and_come_from_files() {
    let good: Value = serde_json::from_str(&ACME.replace("@URL@", "https://acme.example")).unwrap();
    let check = |pointer: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        match serde_json::from_value::<HttpVendorConfig>(changed) {
            Err(_) => Some("not read".to_owned()),
            Ok(config) => config
                .validate()
                .err()
                .map(|e| e.context("setting").unwrap_or("?").to_owned()),
        }
    };
    assert_eq!(check("/scheme", json!("acme")), None);
    for (pointer, value, setting) in [
        ("/scheme", json!("A B"), "scheme"),
        ("/auth/header/name", json!("X Key"), "auth"),
        ("/sms/request/url", json!("http://acme.example/v1"), "sms"),
        ("/sms/request/url", json!("https://{{to}}.example/v1"), "sms"),
        ("/sms/request/url", json!("https://acme.example{{to}}"), "sms"),
        (
            "/sms/request/url",
            json!("https://acme.example/{{nobody}}"),
            "sms",
        ),
        (
            "/sms/request/body",
            json!({"json": {"key": "{{secret.absent}}"}}),
            "sms",
        ),
        ("/sms/request/body", json!({"jsn": {}}), "not read"),
        ("/sms/answer/reference", json!({"json": "id"}), "sms"),
        ("/sms/answer/rules/0", json!({"means": "invalid"}), "sms"),
        (
            "/sms/answer/rules/0",
            json!({"status": ["4x"], "means": "invalid"}),
            "sms",
        ),
        ("/voice/answer/reference", json!({"regex": "("}), "voice"),
        ("/lookup/request/body", json!({"form": []}), "not read"),
        ("/webhook/proof", json!({"path": "short"}), "webhook"),
        ("/webhook/reply/status", json!(500), "webhook"),
        ("/webhook/news/states/arrived/state", json!("there"), "not read"),
    ] {
        let found = if pointer == "/lookup/request/body" {
            let mut changed = good.clone();
            changed["lookup"]["request"]["body"] = value;
            serde_json::from_value::<HttpVendorConfig>(changed)
                .unwrap()
                .validate()
                .err()
                .map(|_| "not read".to_owned())
        } else {
            check(pointer, value.clone())
        };
        assert_eq!(found.as_deref(), Some(setting), "{pointer}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("acme.json");
    let text = ACME
        .replace("@URL@", "https://acme.example")
        .replace("\"k3y-of-acme\"", "\"hunter22\"");
    std::fs::write(&file, &text).unwrap();
    let mut catalog = Catalog::new();
    crm_channels::register(&mut catalog);
    let url = format!("vendor:{}?setting.sender=ANA", file.display());
    let sender = catalog.open::<dyn SmsSender>(&url).await.unwrap();
    assert_eq!(
        (sender.info().scheme.as_str(), sender.info().name.as_str()),
        ("acme", "acme")
    );
    assert!(catalog.open::<dyn VoiceCaller>(&url).await.is_ok());
    assert!(!format!("{sender:?}").contains("hunter22"));
    std::fs::write(
        &file,
        text.replace(
            "\"answer\": {\n      \"success\"",
            "\"anser\": {\n      \"success\"",
        ),
    )
    .unwrap();
    let error = catalog.open::<dyn SmsSender>(&url).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Config && error.context("line").is_some(),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("hunter22"));
    let error = catalog
        .open::<dyn SmsSender>("vendor:nowhere.json")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("path"))
    );
}
