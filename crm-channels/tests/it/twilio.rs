//! Twilio: our requests against recordings of its own client, its answers from a server that behaves as it does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crm_channels::testkit::{FakeTwilio, Fault, Heard, Reply};
use crm_channels::twilio::{
    CallEvent, MachineDetection, TwilioConfig, TwilioSms, TwilioVoice, TwilioWebhook,
};
use crm_core::capability::{SmsSender, VoiceCaller, WebhookRequest, WebhookSource};
use crm_core::customer::PhoneNumber;
use crm_core::message::{
    Blame, DeliveryState, InboundEvent, Keyword, Lookup, MessageId, Sms, VendorTemplate, VoiceCall, VoiceStep,
};
use crm_core::testkit::{fixtures, webhook};
use crm_core::{Effect, ErrorKind, Provider, Retry, Secret, Uuid};
use serde_json::json;

use crate::vendor::{clock, context, recording, recordings};

const TOKEN: &str = "faketoken";
/// Every kind of byte that somebody may write.
const ODD: &str = "~*'()! +&=%/?#[]@:;,$\"\\<>^`{|}\n\té张😀";

fn config(vendor: &FakeTwilio) -> TwilioConfig {
    let mut config = TwilioConfig::new(FakeTwilio::ACCOUNT, Secret::new(TOKEN));
    config.from = Some(FakeTwilio::NUMBER.into());
    config.status_callback = Some("https://crm.example/cb?x=1&y=2".parse().unwrap());
    config.base_url = Some(vendor.url());
    config.http = vendor.http();
    config
}

async fn vendor() -> FakeTwilio {
    FakeTwilio::start(TOKEN).await.unwrap()
}

fn number() -> PhoneNumber {
    PhoneNumber::parse("+8613800138000", None).unwrap()
}

fn id() -> MessageId {
    Uuid::from_u128(7).into()
}

/// A vendor that lives as long as the sender that a suite tries.
async fn kept<T>(make: impl FnOnce(TwilioConfig) -> T) -> T {
    let vendor = vendor().await;
    let made = make(config(&vendor));
    std::mem::forget(vendor);
    made
}

crm_core::sms_suite!(sms, async {
    kept(|config| {
        Arc::new(TwilioSms::build("twilio", config).unwrap().with_clock(clock())) as Arc<dyn SmsSender>
    })
    .await
});
crm_core::voice_suite!(voice, async {
    kept(|config| {
        Arc::new(TwilioVoice::build("twilio", config).unwrap().with_clock(clock())) as Arc<dyn VoiceCaller>
    })
    .await
});
crm_core::webhook_suite!(
    hooks,
    async {
        let config = TwilioConfig::new(FakeTwilio::ACCOUNT, Secret::new(TOKEN));
        Arc::new(
            TwilioWebhook::build("twilio", &config)
                .unwrap()
                .with_clock(clock()),
        ) as Arc<dyn WebhookSource>
    },
    sample()
);

fn sample() -> webhook::Sample {
    let made = |secret: &str| {
        let url = "https://crm.example/cb?message=00000000-0000-0000-0000-000000000007";
        let fields = [
            ("MessageSid", "SM1"),
            ("MessageStatus", "delivered"),
            ("To", "+8613800138000"),
        ];
        // Signed by hand: the order of the sorted names is written out.
        let text = format!("{url}MessageSidSM1MessageStatusdeliveredTo+8613800138000");
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
        let signature = ring::hmac::sign(&key, text.as_bytes());
        let body: String = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        WebhookRequest::post(url.parse().unwrap(), body)
            .header("content-type", "application/x-www-form-urlencoded")
            .header(
                "x-twilio-signature",
                base64::Engine::encode(&base64::engine::general_purpose::STANDARD, signature),
            )
    };
    let genuine = made(TOKEN);
    let mut changed = genuine.clone();
    changed.body = b"MessageSid=SM1&MessageStatus=failed&To=%2B8613800138000".to_vec();
    let mut moved = genuine.clone();
    moved
        .url
        .set_query(Some("message=00000000-0000-0000-0000-000000000008"));
    let mut unsigned = genuine.clone();
    unsigned.headers.clear();
    webhook::Sample {
        forged: vec![changed, moved, unsigned, made("somebody else's")],
        genuine,
    }
}

/// Method, path, query, the headers that matter, and the body byte for byte.
fn same(ours: &Heard, theirs: &Heard) {
    assert_eq!((&ours.method, &ours.target), (&theirs.method, &theirs.target));
    for name in ["authorization", "accept"] {
        assert_eq!(ours.header(name), theirs.header(name), "{name}");
    }
    if ours.method == "POST" {
        assert_eq!(ours.header("content-type"), theirs.header("content-type"));
    }
    assert_eq!(
        String::from_utf8_lossy(&ours.body),
        String::from_utf8_lossy(&theirs.body)
    );
}

#[tokio::test]
async fn our_requests_are_those_of_twilios_own_client() {
    let vendor = vendor().await;
    let ctx = context();
    for name in recordings("twilio") {
        let mut theirs = recording(&name);
        let mut config = config(&vendor);
        let sms = Sms::new(id(), number(), "x");
        let call = VoiceCall::new(id(), number(), vec![]);
        let template = |code: &str| VendorTemplate::new(code);
        match name.as_str() {
            "twilio/python-sms.http" => {
                // Ours has the message's id in the callback's address.
                let body = String::from_utf8(theirs.body).unwrap();
                theirs.body = body
                    .replace("y%3D2", &format!("y%3D2%26message%3D{}", id()))
                    .into_bytes();
                let sms = Sms {
                    text: "Hi 你好 & a=b+c ~*()'!".into(),
                    ..sms
                };
                let sender = TwilioSms::build("twilio", config).unwrap();
                sender.send(&ctx, &fixtures::permitted(sms)).await.unwrap();
            }
            "twilio/python-sms-every.http" => {
                let body = String::from_utf8(theirs.body).unwrap();
                theirs.body = body
                    .replace(
                        "StatusCallback=https%3A%2F%2Fcrm.example%2Fcb&",
                        &format!(
                            "StatusCallback=https%3A%2F%2Fcrm.example%2Fcb%3Fmessage%3D{}&",
                            id()
                        ),
                    )
                    // An address of a picture has no blank in it.
                    .replace("b+c", "b%2520c")
                    .into_bytes();
                config.status_callback = Some("https://crm.example/cb".parse().unwrap());
                config.validity = Some(600);
                config.messaging_service = Some("MG11111111111111111111111111111111".into());
                // Some of every message, some of this one, which has the last word.
                for (name, value) in [
                    ("RiskCheck", "enable"),
                    ("SmartEncoded", "true"),
                    ("TrafficType", "free"),
                ] {
                    config
                        .message_parameters
                        .insert(name.into(), vec![Secret::new(value)]);
                }
                let mut sms = Sms {
                    text: ODD.into(),
                    media: vec!["https://a.example/1.png?a=b c".parse().unwrap()],
                    ..sms
                };
                for (name, value) in [
                    ("ApplicationSid", format!("AP{}", "c".repeat(32)).as_str()),
                    ("MaxPrice", "0.5"),
                    ("ProvideFeedback", "true"),
                    ("Attempt", "2"),
                    ("ForceDelivery", "false"),
                    ("ContentRetention", "retain"),
                    ("AddressRetention", "obfuscate"),
                    ("PersistentAction", "geo:1.5,2.5|x"),
                    ("PersistentAction", "mailto:a@b.example"),
                    ("ShortenUrls", "true"),
                    ("ScheduleType", "fixed"),
                    ("SendAt", "2026-01-03T04:05:06Z"),
                    ("SendAsMms", "false"),
                    ("MessageIntent", "notifications"),
                    ("RiskCheck", "disable"),
                    ("FallbackFrom", "+15005550009"),
                ] {
                    sms = sms.parameter("twilio", name, value);
                }
                let sender = TwilioSms::build("twilio", config).unwrap();
                sender.send(&ctx, &fixtures::permitted(sms)).await.ok();
            }
            "twilio/python-sms-media.http" => {
                config.status_callback = None;
                config.from = None;
                config.validity = Some(600);
                config.messaging_service = Some("MG11111111111111111111111111111111".into());
                let media = ["https://a.example/1.png", "https://a.example/2.png"];
                let sms = Sms {
                    media: media.map(|url| url.parse().unwrap()).into(),
                    ..sms
                };
                let sender = TwilioSms::build("twilio", config).unwrap();
                sender.send(&ctx, &fixtures::permitted(sms)).await.unwrap();
            }
            "twilio/python-content.http" => {
                config.status_callback = None;
                config.messaging_service = Some("MG11111111111111111111111111111111".into());
                let mut content = template(&format!("HX{}", "a".repeat(32)));
                content.params.insert("1".into(), "张三".into());
                content.params.insert("2".into(), "~*'()! +&=".into());
                let sender = TwilioSms::build("twilio", config).unwrap();
                sender
                    .send(&ctx, &fixtures::permitted(sms.template("twilio", content)))
                    .await
                    .unwrap();
            }
            "twilio/python-call-url.http" => {
                let body = String::from_utf8(theirs.body).unwrap();
                theirs.body = body
                    .replace(
                        "crm.example%2Fcs",
                        &format!("crm.example%2Fcs%3Fmessage%3D{}", id()),
                    )
                    .into_bytes();
                config.status_callback = Some("https://crm.example/cs".parse().unwrap());
                config.call_events = vec![CallEvent::Initiated, CallEvent::Answered, CallEvent::Completed];
                config.ring_seconds = Some(20);
                let caller = TwilioVoice::build("twilio", config).unwrap();
                let call = call.template("twilio", template("https://crm.example/twiml"));
                caller.call(&ctx, &fixtures::permitted(call)).await.unwrap();
            }
            "twilio/python-call-twiml.http" => {
                config.status_callback = None;
                config.machine_detection = MachineDetection::Enable;
                let say = VoiceStep::Say {
                    text: "您好".into(),
                    language: Some("zh-CN".into()),
                    voice: None,
                    times: 1,
                };
                let caller = TwilioVoice::build("twilio", config).unwrap();
                caller
                    .call(
                        &ctx,
                        &fixtures::permitted(VoiceCall {
                            steps: vec![say],
                            ..call
                        }),
                    )
                    .await
                    .unwrap();
            }
            "twilio/python-call-every.http" => {
                let body = String::from_utf8(theirs.body).unwrap();
                theirs.body = body
                    .replace(
                        "crm.example%2Fcs&",
                        &format!("crm.example%2Fcs%3Fmessage%3D{}&", id()),
                    )
                    .into_bytes();
                config.status_callback = Some("https://crm.example/cs".parse().unwrap());
                config.ring_seconds = Some(20);
                config.machine_detection = MachineDetection::DetectMessageEnd;
                config
                    .call_parameters
                    .insert("Record".into(), vec![Secret::new("true")]);
                let mut call = call.template("twilio", template("https://crm.example/twiml?a=b&c=张"));
                for (name, value) in [
                    ("Method", "GET"),
                    ("FallbackUrl", "https://crm.example/fb"),
                    ("FallbackMethod", "POST"),
                    ("StatusCallbackMethod", "POST"),
                    ("SendDigits", "wwww1234#"),
                    ("RecordingChannels", "dual"),
                    ("RecordingStatusCallback", "https://crm.example/rec"),
                    ("RecordingStatusCallbackMethod", "POST"),
                    ("SipAuthUsername", "u"),
                    ("SipAuthPassword", "p"),
                    ("MachineDetectionTimeout", "30"),
                    ("RecordingStatusCallbackEvent", "in-progress"),
                    ("RecordingStatusCallbackEvent", "completed"),
                    ("Trim", "trim-silence"),
                    ("CallerId", "+15005550007"),
                    ("MachineDetectionSpeechThreshold", "2400"),
                    ("MachineDetectionSpeechEndThreshold", "1200"),
                    ("MachineDetectionSilenceTimeout", "5000"),
                    ("AsyncAmd", "true"),
                    ("AsyncAmdStatusCallback", "https://crm.example/amd"),
                    ("AsyncAmdStatusCallbackMethod", "POST"),
                    ("Byoc", format!("BY{}", "d".repeat(32)).as_str()),
                    ("CallReason", "Your order is ready"),
                    ("CallToken", "tok"),
                    ("RecordingTrack", "both"),
                    ("TimeLimit", "3600"),
                ] {
                    call = call.parameter("twilio", name, value);
                }
                let caller = TwilioVoice::build("twilio", config).unwrap();
                caller.call(&ctx, &fixtures::permitted(call)).await.ok();
            }
            "twilio/python-call-twiml-odd.http" => {
                config.status_callback = None;
                let call = VoiceCall {
                    steps: vec![VoiceStep::say(ODD)],
                    ..call
                }
                .parameter("twilio", "Record", "false");
                let caller = TwilioVoice::build("twilio", config).unwrap();
                caller.call(&ctx, &fixtures::permitted(call)).await.unwrap();
            }
            "twilio/python-call-fetch.http" | "twilio/python-call-list.http" => {
                let caller = TwilioVoice::build("twilio", config).unwrap();
                let provider_ref = name.contains("fetch").then(|| format!("CA{}", "a".repeat(32)));
                let lookup = Lookup {
                    message_id: id(),
                    provider_ref,
                    to: number(),
                    sent_at: clock().now(),
                };
                caller.lookup(&ctx, &lookup).await.ok();
            }
            "twilio/python-call-app.http" => {
                config.status_callback = None;
                config.machine_detection = MachineDetection::DetectMessageEnd;
                config.ring_seconds = Some(20);
                let caller = TwilioVoice::build("twilio", config).unwrap();
                let call = call.template("twilio", template(&format!("AP{}", "b".repeat(32))));
                caller.call(&ctx, &fixtures::permitted(call)).await.unwrap();
            }
            "twilio/python-fetch.http" | "twilio/python-list.http" => {
                let sender = TwilioSms::build("twilio", config).unwrap();
                let provider_ref = name.contains("fetch").then(|| format!("SM{}", "a".repeat(32)));
                let lookup = Lookup {
                    message_id: id(),
                    provider_ref,
                    to: number(),
                    sent_at: clock().now(),
                };
                sender.lookup(&ctx, &lookup).await.ok();
            }
            other => panic!("a recording that nothing is compared with: {other}"),
        }
        same(vendor.heard().last().expect("a request"), &theirs);
    }
}

#[tokio::test]
async fn signatures_of_twilios_own_client_are_taken() {
    let mut seen = 0;
    for file in ["webhook-signatures-1.json", "webhook-signatures-2.json"] {
        let path = Path::new("tests/data/twilio").join(file);
        let recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let token = recorded["token"].as_str().unwrap();
        let build = |token: &str| {
            TwilioWebhook::build(
                "twilio",
                &TwilioConfig::new(FakeTwilio::ACCOUNT, Secret::new(token)),
            )
            .unwrap()
        };
        let (source, other) = (build(token), build("another"));
        for case in recorded["cases"].as_array().unwrap() {
            let url = case["url"].as_str().unwrap().parse().unwrap();
            let signature = case["signature"].as_str().unwrap();
            let mut request = match case["body"].as_str() {
                Some(body) => WebhookRequest::post(url, body).header("content-type", "application/json"),
                None => {
                    let fields: Vec<(String, String)> = match &case["params"] {
                        serde_json::Value::Object(map) => map
                            .iter()
                            .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
                            .collect(),
                        list => serde_json::from_value(list.clone()).unwrap(),
                    };
                    let mut body = url::form_urlencoded::Serializer::new(String::new());
                    WebhookRequest::post(url, body.extend_pairs(fields).finish())
                        .header("content-type", "application/x-www-form-urlencoded; charset=UTF-8")
                }
            }
            .header("X-Twilio-Signature", signature);
            if let Some(algorithm) = case["algorithm"].as_str() {
                request = request.header(
                    "X-Twilio-Webhooks-Signature-Settings",
                    format!("key=k1,algorithm={algorithm}"),
                );
            }
            source
                .receive(&request)
                .await
                .unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!(
                other.receive(&request).await.unwrap_err().kind(),
                ErrorKind::Unauthenticated,
                "{case}"
            );
            request.body.extend_from_slice(b"&Body=more");
            assert_eq!(
                source.receive(&request).await.unwrap_err().kind(),
                ErrorKind::Unauthenticated,
                "{case}"
            );
            seen += 1;
        }
    }
    assert!(seen >= 10, "only {seen} recorded signatures");
}

#[tokio::test]
async fn every_refusal_has_its_meaning() {
    let vendor = vendor().await;
    let sender = TwilioSms::build("twilio", config(&vendor))
        .unwrap()
        .with_clock(clock());
    let ctx = context();
    let said = |status: u16, code: u32| {
        let words = "The 'To' number +8613800138000 is not what it should be";
        Fault::Answer(Reply::json(
            status,
            json!({"code": code, "message": words, "status": status}),
        ))
    };
    let html = |status| {
        Fault::Answer(Reply {
            status,
            headers: vec![],
            body: b"<html>".to_vec(),
        })
    };
    let after = Retry::Allowed {
        after: Some(Duration::from_secs(120)),
    };
    let again = Retry::Allowed { after: None };
    for (fault, kind, retry, effect, blame) in [
        (
            said(400, 21211),
            ErrorKind::Invalid,
            Retry::Never,
            Effect::None,
            Blame::Recipient,
        ),
        (
            said(400, 21610),
            ErrorKind::Refused,
            Retry::Never,
            Effect::None,
            Blame::OptedOut,
        ),
        (
            said(400, 21408),
            ErrorKind::PermissionDenied,
            Retry::Never,
            Effect::None,
            Blame::Sender,
        ),
        (
            said(400, 21617),
            ErrorKind::Invalid,
            Retry::Never,
            Effect::None,
            Blame::Content,
        ),
        (
            said(400, 99999),
            ErrorKind::Unexpected,
            Retry::Never,
            Effect::None,
            Blame::Nobody,
        ),
        (
            said(401, 20003),
            ErrorKind::Unauthenticated,
            Retry::Never,
            Effect::None,
            Blame::Sender,
        ),
        (
            said(404, 20404),
            ErrorKind::Config,
            Retry::Never,
            Effect::None,
            Blame::Sender,
        ),
        (
            Fault::Answer(
                Reply::json(429, json!({"code": 20429, "status": 429})).header("retry-after", "120"),
            ),
            ErrorKind::RateLimited,
            after,
            Effect::None,
            Blame::Nobody,
        ),
        (
            Fault::Answer(Reply::json(503, "busy").header("retry-after", "Fri, 02 Jan 2026 03:06:05 GMT")),
            ErrorKind::Unavailable,
            after,
            Effect::None,
            Blame::Nobody,
        ),
        (
            html(429),
            ErrorKind::RateLimited,
            again,
            Effect::None,
            Blame::Nobody,
        ),
        (
            html(503),
            ErrorKind::Unavailable,
            again,
            Effect::None,
            Blame::Nobody,
        ),
        (
            html(400),
            ErrorKind::Invalid,
            Retry::Never,
            Effect::None,
            Blame::Nobody,
        ),
        (
            html(302),
            ErrorKind::Config,
            Retry::Never,
            Effect::None,
            Blame::Sender,
        ),
        (
            said(500, 20500),
            ErrorKind::Unavailable,
            Retry::Never,
            Effect::Unknown,
            Blame::Nobody,
        ),
        (
            html(504),
            ErrorKind::Unavailable,
            Retry::Never,
            Effect::Unknown,
            Blame::Nobody,
        ),
        (
            Fault::AcceptThenFail,
            ErrorKind::Unavailable,
            Retry::Never,
            Effect::Unknown,
            Blame::Nobody,
        ),
        (
            Fault::AcceptThenGarble,
            ErrorKind::Unexpected,
            Retry::Never,
            Effect::Unknown,
            Blame::Nobody,
        ),
    ] {
        let what = format!("{fault:?}");
        vendor.fault(fault);
        let error = sender
            .send(&ctx, &fixtures::permitted(Sms::new(id(), number(), "cnry-text")))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.retry(), error.effect()),
            (kind, retry, effect),
            "{what}: {error}"
        );
        assert_eq!(error.blamed(), blame, "{what}: {error}");
        let said = format!("{error:?}");
        for secret in ["13800138000", "cnry", TOKEN] {
            assert!(!said.contains(secret), "{said}");
        }
    }
}

#[tokio::test]
async fn a_lost_answer_is_a_state_of_its_own_and_is_not_repeated() {
    let vendor = vendor().await;
    let mut config = config(&vendor);
    config.http.total_timeout = Duration::from_millis(400);
    let sender = TwilioSms::build("twilio", config.clone())
        .unwrap()
        .with_clock(clock());
    let caller = TwilioVoice::build("twilio", config).unwrap().with_clock(clock());
    let ctx = context();
    for fault in [Fault::AcceptThenHang, Fault::AcceptThenDrop] {
        let before = vendor.taken().len();
        vendor.fault(fault.clone());
        let error = sender
            .send(&ctx, &fixtures::permitted(Sms::new(id(), number(), "x")))
            .await
            .unwrap_err();
        assert_eq!(
            (error.effect(), error.retry()),
            (Effect::Unknown, Retry::Never),
            "{fault:?}: {error}"
        );
        vendor.fault(fault.clone());
        let error = caller
            .call(
                &ctx,
                &fixtures::permitted(VoiceCall::new(id(), number(), vec![VoiceStep::say("x")])),
            )
            .await
            .unwrap_err();
        assert_eq!(error.effect(), Effect::Unknown, "{fault:?}: {error}");
        // The oracle: the vendor took one of each, and heard nothing twice.
        assert_eq!(vendor.taken().len() - before, 2, "{fault:?}");
    }
}

#[tokio::test]
async fn a_lost_message_is_found_by_its_time_when_it_is_the_only_one() {
    let vendor = vendor().await;
    let sender = TwilioSms::build("twilio", config(&vendor))
        .unwrap()
        .with_clock(clock());
    let ctx = context();
    let ask = async |seconds: u64| {
        let lookup = Lookup {
            message_id: id(),
            provider_ref: None,
            to: number(),
            sent_at: clock().now().plus(Duration::from_secs(seconds)),
        };
        sender.lookup(&ctx, &lookup).await
    };
    assert_eq!(ask(0).await.unwrap(), vec![], "never sent");
    vendor.fault(Fault::AcceptThenDrop);
    let sms = || fixtures::permitted(Sms::new(id(), number(), "x"));
    assert_eq!(
        sender.send(&ctx, &sms()).await.unwrap_err().effect(),
        Effect::Unknown
    );
    let found = ask(1).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (
            found[0].state,
            found[0].message_id,
            found[0].provider_ref.as_deref()
        ),
        (
            DeliveryState::Accepted,
            Some(id()),
            Some(vendor.taken()[0].sid.as_str())
        )
    );
    assert_eq!(ask(3600).await.unwrap(), vec![], "not about that time");
    sender.send(&ctx, &sms()).await.unwrap();
    assert_eq!(
        ask(1).await.unwrap_err().kind(),
        ErrorKind::Conflict,
        "which of the two?"
    );
}

#[tokio::test]
async fn callbacks_tell_what_became_of_it() {
    let vendor = vendor().await;
    let sender = TwilioSms::build("twilio", config(&vendor)).unwrap();
    let caller = TwilioVoice::build("twilio", config(&vendor)).unwrap();
    let source = TwilioWebhook::build("twilio", &config(&vendor))
        .unwrap()
        .with_clock(clock());
    let ctx = context();
    sender
        .send(&ctx, &fixtures::permitted(Sms::new(id(), number(), "x")))
        .await
        .unwrap();
    caller
        .call(
            &ctx,
            &fixtures::permitted(VoiceCall::new(id(), number(), vec![VoiceStep::say("x")])),
        )
        .await
        .unwrap();
    let taken = vendor.taken();
    let told = async |place: usize, status: &str, code: Option<u32>| {
        let request = vendor
            .callback(&taken[place], status, code)
            .expect("an address to call");
        match source.receive(&request).await.unwrap().remove(0) {
            InboundEvent::Delivery(news) => news,
            other => panic!("{other:?}"),
        }
    };
    use Blame::{Nobody, Recipient, RecipientForNow, Sender};
    use DeliveryState::{Accepted, Delivered, Failed};
    for (place, status, code, state, blame) in [
        (0, "accepted", None, Accepted, Nobody),
        (0, "scheduled", None, Accepted, Nobody),
        (0, "queued", None, Accepted, Nobody),
        (0, "sending", None, Accepted, Nobody),
        (0, "sent", None, Accepted, Nobody),
        (0, "delivered", None, Delivered, Nobody),
        (0, "read", None, Delivered, Nobody),
        (0, "canceled", None, Failed, Nobody),
        (0, "undelivered", Some(30003), Failed, RecipientForNow),
        (0, "undelivered", Some(30005), Failed, Recipient),
        (0, "undelivered", Some(30006), Failed, Recipient),
        (0, "undelivered", Some(30007), Failed, Sender),
        (0, "undelivered", Some(30008), Failed, Nobody),
        (0, "failed", Some(21610), Failed, Blame::OptedOut),
        (0, "failed", Some(98765), Failed, Nobody),
        (0, "a-new-word", None, Accepted, Nobody),
        (1, "queued", None, Accepted, Nobody),
        (1, "initiated", None, Accepted, Nobody),
        (1, "ringing", None, Accepted, Nobody),
        (1, "in-progress", None, Delivered, Nobody),
        (1, "completed", None, Delivered, Nobody),
        (1, "busy", None, Failed, Nobody),
        (1, "no-answer", None, Failed, Nobody),
        (1, "canceled", None, Failed, Nobody),
        (1, "failed", None, Failed, Nobody),
        (1, "failed", Some(21211), Failed, Recipient),
    ] {
        let news = told(place, status, code).await;
        assert_eq!((news.state, news.blame), (state, blame), "{status} {code:?}");
        assert_eq!(news.message_id, Some(id()), "{status}");
        assert_eq!(news.provider_ref.as_deref(), Some(taken[place].sid.as_str()));
        assert_eq!(news.event_id, format!("{}:{status}", taken[place].sid));
        let code = code.map(|code| format!(" {code}")).unwrap_or_default();
        assert_eq!(news.code.as_deref(), Some(format!("{status}{code}").as_str()));
    }
    // In any order, with anything twice: one final state.
    let mut news = vec![];
    for status in ["sent", "queued", "delivered", "sent", "sending"] {
        news.push(told(0, status, None).await.state);
    }
    for _ in 0..news.len() {
        news.rotate_left(1);
        assert_eq!(
            news.iter()
                .copied()
                .fold(DeliveryState::Queued, DeliveryState::join),
            Delivered
        );
    }
}

#[tokio::test]
async fn messages_to_us_are_read_with_what_twilio_understood() {
    let vendor = vendor().await;
    let source = TwilioWebhook::build("twilio", &config(&vendor))
        .unwrap()
        .with_clock(clock());
    let url = "https://crm.example/sms".parse().unwrap();
    for (text, kind, keyword) in [
        ("Stop.", Some("STOP"), Some(Keyword::Stop)),
        ("START", Some("START"), Some(Keyword::Start)),
        ("help", Some("HELP"), Some(Keyword::Help)),
        ("你好 & thanks", None, None),
        ("", None, None),
    ] {
        let request = vendor.incoming(&url, "+8613800138000", text, kind);
        let events = source.receive(&request).await.unwrap();
        let [InboundEvent::Message(message)] = events.as_slice() else {
            panic!("{events:?}");
        };
        assert_eq!((message.text.as_str(), message.keyword), (text, keyword));
        assert_eq!(message.from, crm_core::customer::Address::Phone(number()));
        assert_eq!(message.to, FakeTwilio::NUMBER);
        assert!(!format!("{message:?}").contains("138"));
    }
    // A short code or a name writes: nobody who could opt out.
    assert_eq!(
        source
            .receive(&vendor.incoming(&url, "AMAZON", "x", None))
            .await
            .unwrap(),
        vec![]
    );
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_before_anything_goes_out() {
    let vendor = vendor().await;
    let mut bare = config(&vendor);
    bare.from = None;
    let sender = TwilioSms::build("twilio", bare.clone()).unwrap();
    let ctx = context();
    let sms = |sms: Sms| fixtures::permitted(sms);
    let base = Sms::new(id(), number(), "x");
    let error = sender.send(&ctx, &sms(base.clone())).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("setting")),
        (ErrorKind::Config, Some("from"))
    );
    let base = base.from(FakeTwilio::NUMBER);
    let aliyun = Sms {
        text: String::new(),
        ..base.clone()
    }
    .template("aliyun", VendorTemplate::new("SMS_1"));
    let wrong = base.clone().template("twilio", VendorTemplate::new("SMS_1"));
    let eleven = Sms {
        media: vec!["https://a.example/1.png".parse().unwrap(); 11],
        ..base.clone()
    };
    for (sms, field) in [(aliyun, "text"), (wrong, "templates"), (eleven, "media")] {
        let error = sender.send(&ctx, &fixtures::permitted(sms)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("field")),
            (ErrorKind::Invalid, Some(field)),
            "{error}"
        );
    }
    let late = context().deadline(crm_core::Timestamp::EPOCH);
    assert_eq!(
        sender.send(&late, &sms(base)).await.unwrap_err().kind(),
        ErrorKind::Timeout
    );
    assert!(vendor.heard().is_empty(), "nothing went out");

    let mut wrong = config(&vendor);
    wrong.token = Some(Secret::new("wrong"));
    let error = TwilioVoice::build("twilio", wrong)
        .unwrap()
        .check()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    // Without the allow entry, the guard keeps the client from loopback.
    let mut guarded = config(&vendor);
    guarded.http = Default::default();
    let error = TwilioVoice::build("twilio", guarded)
        .unwrap()
        .check()
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::PermissionDenied, Effect::None)
    );
}

#[tokio::test]
async fn a_parameter_that_nobody_knows_is_refused_before_anything_goes_out() {
    let vendor = vendor().await;
    let ctx = context();
    let sender = TwilioSms::build("twilio", config(&vendor)).unwrap();
    let caller = TwilioVoice::build("twilio", config(&vendor)).unwrap();
    for name in ["Riskcheck", "To", "Body", "Timeout"] {
        let sms = Sms::new(id(), number(), "x").parameter("twilio", name, "y");
        let error = sender.send(&ctx, &fixtures::permitted(sms)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.context("field"), error.context("parameter")),
            (ErrorKind::Invalid, Some("parameters"), Some(name))
        );
    }
    let call = VoiceCall::new(id(), number(), vec![VoiceStep::say("x")]).parameter("twilio", "Url", "y");
    let error = caller.call(&ctx, &fixtures::permitted(call)).await.unwrap_err();
    assert_eq!(error.context("parameter"), Some("Url"));
    assert!(vendor.heard().is_empty());
    // What is meant for another vendor is none of Twilio's business.
    let sms = Sms::new(id(), number(), "x").parameter("aliyun", "SmsUpExtendCode", "01");
    sender.send(&ctx, &fixtures::permitted(sms)).await.unwrap();
    assert_eq!(vendor.heard().len(), 1);
}

#[test]
fn whom_a_message_comes_from_is_known_before_it_goes() {
    let mut config = TwilioConfig::new(FakeTwilio::ACCOUNT, Secret::new(TOKEN));
    let sms = Sms::new(id(), number(), "x");
    let sender = |config: &TwilioConfig| TwilioSms::build("twilio", config.clone()).unwrap();
    assert_eq!(sender(&config).sender(&sms), None);
    config.messaging_service = Some("MG11111111111111111111111111111111".into());
    assert_eq!(sender(&config).sender(&sms), config.messaging_service);
    config.from = Some(FakeTwilio::NUMBER.into());
    assert_eq!(sender(&config).sender(&sms).as_deref(), Some(FakeTwilio::NUMBER));
    assert_eq!(sender(&config).sender(&sms.from("ACME")).as_deref(), Some("ACME"));
}
