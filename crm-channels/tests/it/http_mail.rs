//! E-mail through a vendor that nobody wrote code for, and how such a vendor is asked whether it is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crm_channels::http::{HttpMailer, HttpSms, HttpVendorConfig, HttpWebhook};
use crm_channels::testkit::{Fault, Heard, Reply, VendorServer};
use crm_core::capability::{Mailer, WebhookRequest, WebhookSource};
use crm_core::customer::Address;
use crm_core::message::{Attachment, Blame, Email, InboundEvent, Mailbox};
use crm_core::registry::Catalog;
use crm_core::testkit::fixtures;
use crm_core::{Effect, ErrorKind, Health, Provider, Retry};
use serde_json::{Value, json};

use crate::vendor::{clock, context};

/// By its parts, as JSON.
fn parts() -> Value {
    json!({
        "scheme": "post",
        "auth": {"bearer": {"token": "t0ken"}},
        "mail": {
            "request": {
                "url": "@URL@/v1/mails",
                "headers": {"Idempotency-Key": "{{id}}"},
                "body": {"json": {
                    "from": "{{from_mailbox}}", "to": [{"email": "{{to}}", "name": "{{to_name?}}"}],
                    "reply": "{{reply_to?}}", "bounces": "{{bounces_to?}}", "subject": "{{subject}}", "text": "{{text?}}",
                    "html": "{{html?}}", "headers": "{{headers?}}", "files": "{{attachments?}}", "own": "{{message_id}}"
                }}
            },
            "answer": {
                "reference": {"json": "/id"},
                "code": {"json": "/code"},
                "rules": [{"code": ["bad_address"], "means": "invalid", "blame": "recipient"}]
            }
        },
        "check": {"url": "@URL@/v1/domains", "success": {"at": {"json": "/state"}, "equals": ["verified"]}},
        "webhook": {
            "proof": {"path": "0123456789abcdef"},
            "news": {
                "reference": "/id", "to": "/to", "state": "/state",
                "states": {"bounced": {"state": "failed", "blame": "recipient"}}
            }
        }
    })
}

async fn vendor() -> VendorServer {
    let taken = AtomicUsize::new(0);
    VendorServer::start(move |heard: &Heard| {
        if heard.header("authorization") != Some("Bearer t0ken") {
            return Reply::json(401, json!({"code": "key"}));
        }
        match heard.path() {
            "/v1/domains" => Reply::json(200, json!({"state": "verified"})),
            _ => Reply::json(
                202,
                json!({"id": format!("m{}", taken.fetch_add(1, Ordering::SeqCst))}),
            ),
        }
    })
    .await
    .unwrap()
}

fn config(description: &Value, vendor: &VendorServer) -> HttpVendorConfig {
    let url = vendor.url();
    let text = description
        .to_string()
        .replace("@URL@", url.as_str().trim_end_matches('/'));
    let mut config: HttpVendorConfig = serde_json::from_str(&text).unwrap();
    config.http = vendor.http();
    config
}

fn mailer(description: &Value, vendor: &VendorServer) -> HttpMailer {
    HttpMailer::build("post", config(description, vendor))
        .unwrap()
        .with_clock(clock())
}

crm_core::mailer_suite!(conformance, async {
    let vendor = vendor().await;
    let made = mailer(&parts(), &vendor);
    // It lives as long as the mailer that a suite tries.
    std::mem::forget(vendor);
    Arc::new(made) as Arc<dyn Mailer>
});

fn full() -> Email {
    let mut mail = fixtures::email(1);
    mail.to = Mailbox::new("ana@test.example".parse().unwrap(), "Ana \"K\" 张").unwrap();
    mail.reply_to = Some(Mailbox::new("shop@crm.example".parse().unwrap(), "").unwrap());
    mail.subject = "Hi {{to}} & \"x\" 张".into();
    mail.text = "a\r\n.\r\nb".into();
    mail.html = Some("<p>{{secret.key}}</p>".into());
    mail.headers
        .insert("List-Unsubscribe".into(), "<https://crm.example/u>".into());
    mail.attachments
        .push(Attachment::new("a.txt", "text/plain", b"\x00\xffbytes".to_vec()));
    mail.bounces_to = Some("b+1@crm.example".parse().unwrap());
    mail
}

#[tokio::test]
async fn every_part_has_its_place() {
    let vendor = vendor().await;
    let (ctx, mail) = (context(), full());
    let sender = mailer(&parts(), &vendor);
    let receipt = sender
        .send(&ctx, &fixtures::permitted(mail.clone()))
        .await
        .unwrap();
    assert_eq!(receipt.provider_ref, "m0");
    let heard = vendor.heard().pop().unwrap();
    assert_eq!(
        heard.header("idempotency-key"),
        Some(mail.id.to_string().as_str())
    );
    let body: Value = serde_json::from_slice(&heard.body).unwrap();
    let from = mail.from.address.as_str();
    let named = match mail.from.name.as_str() {
        "" => from.to_owned(),
        name => format!("\"{name}\" <{from}>"),
    };
    assert_eq!(
        body,
        json!({
            "from": named, "to": [{"email": "ana@test.example", "name": "Ana \"K\" 张"}], "reply": "shop@crm.example",
            "bounces": "b+1@crm.example", "subject": mail.subject, "text": mail.text, "html": mail.html,
            "headers": mail.headers, "own": mail.message_id(),
            "files": [{"file_name": "a.txt", "content_type": "text/plain", "content": STANDARD.encode(b"\x00\xffbytes")}],
        })
    );
    // What a message does not have is left out.
    let mut bare = fixtures::email(2);
    (bare.html, bare.reply_to, bare.to.name) = (None, None, String::new());
    bare.headers.clear();
    bare.attachments.clear();
    sender.send(&ctx, &fixtures::permitted(bare)).await.unwrap();
    let body: Value = serde_json::from_slice(&vendor.heard().pop().unwrap().body).unwrap();
    let names: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(names, ["from", "own", "subject", "text", "to"]);
}

#[tokio::test]
async fn what_has_no_place_is_refused_and_not_dropped() {
    let vendor = vendor().await;
    for (gone, field) in [
        ("html", "html"),
        ("headers", "headers"),
        ("files", "attachments"),
        ("reply", "reply_to"),
    ] {
        let mut less = parts();
        less["mail"]["request"]["body"]["json"]
            .as_object_mut()
            .unwrap()
            .remove(gone);
        let error = mailer(&less, &vendor)
            .send(&context(), &fixtures::permitted(full()))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.context("field"), error.effect()),
            (ErrorKind::Invalid, Some(field), Effect::None)
        );
    }
    // A place for this one header is enough for it.
    let mut one = parts();
    let json = one["mail"]["request"]["body"]["json"].as_object_mut().unwrap();
    json.remove("headers");
    json.insert("unsubscribe".into(), json!("{{header.list-unsubscribe?}}"));
    assert!(vendor.heard().is_empty());
    let sender = mailer(&one, &vendor);
    sender
        .send(&context(), &fixtures::permitted(full()))
        .await
        .unwrap();
    let body: Value = serde_json::from_slice(&vendor.heard().pop().unwrap().body).unwrap();
    assert_eq!(body["unsubscribe"], "<https://crm.example/u>");
}

#[tokio::test]
async fn a_whole_message_can_go_in_one_place() {
    let vendor = vendor().await;
    let mut whole = parts();
    whole["mail"]["request"]["body"] = json!({"form": [["to", "{{to}}"], ["RawMessage.Data", "{{raw}}"]]});
    let mail = full();
    let sender = mailer(&whole, &vendor);
    sender
        .send(&context(), &fixtures::permitted(mail.clone()))
        .await
        .unwrap();
    let form: BTreeMap<String, String> = vendor.heard().pop().unwrap().form().into_iter().collect();
    let raw = STANDARD.decode(&form["RawMessage.Data"]).unwrap();
    let raw = String::from_utf8(raw).unwrap();
    assert!(
        raw.contains(&format!("Message-ID: {}\r\n", mail.message_id())),
        "{raw}"
    );
    assert!(
        raw.contains("List-Unsubscribe: <https://crm.example/u>\r\n"),
        "{raw}"
    );
    assert!(raw.contains("Content-Disposition: attachment"), "{raw}");
}

#[tokio::test]
async fn answers_mean_what_the_description_says() {
    let vendor = vendor().await;
    let sender = mailer(&parts(), &vendor);
    for (fault, kind, effect, retry, blame) in [
        (
            Fault::Answer(Reply::json(
                422,
                json!({"code": "bad_address", "said": "ana@test.example"}),
            )),
            ErrorKind::Invalid,
            Effect::None,
            Retry::Never,
            Blame::Recipient,
        ),
        (
            Fault::Answer(Reply::json(429, json!({})).header("retry-after", "7")),
            ErrorKind::RateLimited,
            Effect::None,
            Retry::Allowed {
                after: Some(std::time::Duration::from_secs(7)),
            },
            Blame::Nobody,
        ),
        (
            Fault::Answer(Reply::json(401, json!({}))),
            ErrorKind::Unauthenticated,
            Effect::None,
            Retry::Never,
            Blame::Sender,
        ),
        (
            Fault::AcceptThenFail,
            ErrorKind::Unavailable,
            Effect::Unknown,
            Retry::Never,
            Blame::Nobody,
        ),
        (
            Fault::AcceptThenDrop,
            ErrorKind::Unavailable,
            Effect::Unknown,
            Retry::Never,
            Blame::Nobody,
        ),
        (
            Fault::AcceptThenGarble,
            ErrorKind::Unexpected,
            Effect::Unknown,
            Retry::Never,
            Blame::Nobody,
        ),
    ] {
        let before = vendor.heard().len();
        vendor.fault(fault.clone());
        let error = sender
            .send(&context(), &fixtures::permitted(full()))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.effect(), error.retry(), error.blamed()),
            (kind, effect, retry, blame),
            "{fault:?}: {error}"
        );
        assert!(!format!("{error:?}").contains("ana@"), "{error:?}");
        assert_eq!(
            vendor.heard().len(),
            before + 1,
            "asked once, whatever came of it"
        );
    }
}

#[tokio::test]
async fn whether_a_vendor_is_there_is_asked_where_the_description_says_how() {
    let vendor = vendor().await;
    assert_eq!(mailer(&parts(), &vendor).check().await.unwrap(), Health::Ready);
    let asked = vendor.heard().pop().unwrap();
    assert_eq!((asked.method.as_str(), asked.path()), ("GET", "/v1/domains"));
    // Another answer than the one that is described.
    vendor.fault(Fault::Answer(Reply::json(200, json!({"state": "pending"}))));
    assert_eq!(mailer(&parts(), &vendor).check().await.unwrap(), Health::Down);
    vendor.fault(Fault::Answer(Reply::json(503, json!({}))));
    let error = mailer(&parts(), &vendor).check().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Unavailable, Effect::None)
    );
    let mut wrong = parts();
    wrong["auth"] = json!({"bearer": {"token": "another"}});
    let error = mailer(&wrong, &vendor).check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    // Without it nobody is asked.
    let before = vendor.heard().len();
    let mut without = parts();
    without.as_object_mut().unwrap().remove("check");
    assert_eq!(mailer(&without, &vendor).check().await.unwrap(), Health::Ready);
    assert_eq!(vendor.heard().len(), before);
    // The same question for other kinds of messages, and no place in it that only a message fills.
    let mut texts = parts();
    texts["sms"] = json!({
        "request": {"url": "@URL@/v1/texts", "body": {"json": {"to": "{{to}}", "text": "{{text}}"}}},
        "answer": {"reference": {"json": "/id"}}
    });
    let sms = HttpSms::build("post", config(&texts, &vendor)).unwrap();
    assert_eq!(sms.check().await.unwrap(), Health::Ready);
    assert_eq!(vendor.heard().len(), before + 1);
    texts["check"]["url"] = json!("@URL@/v1/{{to}}");
    let error = HttpSms::build("post", config(&texts, &vendor)).unwrap_err();
    assert_eq!(
        (error.context("setting"), error.context("place")),
        (Some("check"), Some("to"))
    );
}

#[tokio::test]
async fn a_bounce_names_the_address() {
    let vendor = vendor().await;
    let source = HttpWebhook::build("post", &config(&parts(), &vendor)).unwrap();
    let url = "https://crm.example/hooks/0123456789abcdef".parse().unwrap();
    let news = json!({"id": "m0", "to": "ana@test.example", "state": "bounced"});
    let events = source
        .receive(&WebhookRequest::post(url, news.to_string()))
        .await
        .unwrap();
    let [InboundEvent::Delivery(event)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(
        event.recipient,
        Some(Address::Email("ana@test.example".parse().unwrap()))
    );
    assert_eq!(event.blame, Blame::Recipient);
}

#[tokio::test]
async fn a_description_in_a_file_is_a_mailer() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("post.json");
    std::fs::write(
        &file,
        parts().to_string().replace("@URL@", "https://post.example"),
    )
    .unwrap();
    let mut catalog = Catalog::new();
    crm_channels::register(&mut catalog);
    let url = format!("vendor:{}", file.display());
    let mailer = catalog.open::<dyn Mailer>(&url).await.unwrap();
    assert_eq!(
        (mailer.info().scheme.as_str(), mailer.capability().live),
        ("post", true)
    );
    assert!(!format!("{:?}", HttpVendorConfig::from_url(&url).unwrap()).contains("t0ken"));
}
