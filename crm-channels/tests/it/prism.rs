//! Twilio's own description of its interface, run by somebody else's program, decides whether our requests fit it.

use crm_channels::twilio::{TwilioConfig, TwilioSms, TwilioVoice};
use crm_core::capability::{SmsSender, VoiceCaller};
use crm_core::http::{AllowEntry, HttpClient};
use crm_core::message::{Lookup, Sms, VendorTemplate, VoiceCall, VoiceStep};
use crm_core::testkit::fixtures;
use crm_core::{ErrorKind, Provider, Secret, Timestamp};
use url::Url;

use crate::vendor::{context, skip};

const ACCOUNT: &str = "AC00000000000000000000000000000000";

fn config() -> Option<TwilioConfig> {
    let Ok(url) = std::env::var("OPEN_CRM_TEST_TWILIO_URL") else {
        skip("Twilio's description: set OPEN_CRM_TEST_TWILIO_URL (scripts/services up prism)");
        return None;
    };
    let url: Url = url.parse().unwrap();
    let address = url.socket_addrs(|| None).unwrap()[0];
    let mut config = TwilioConfig::new(ACCOUNT, Secret::new("faketoken"));
    config.from = Some("+15005550006".into());
    config.status_callback = Some("https://crm.example/cb?x=1&y=2".parse().unwrap());
    config.validity = Some(600);
    config.ring_seconds = Some(20);
    config.base_url = Some(url);
    config.http.allow = vec![AllowEntry::address(address)];
    Some(config)
}

#[tokio::test]
async fn what_we_send_fits_twilios_own_description() {
    let Some(config) = config() else { return };
    let sender = TwilioSms::build("twilio", config.clone()).unwrap();
    // Prism takes the last of a field that comes several times, and misses a list; the recordings prove those.
    let mut quiet = config.clone();
    quiet.status_callback = None;
    let caller = TwilioVoice::build("twilio", quiet).unwrap();
    let ctx = context();
    sender.check().await.unwrap();
    let mut service = config.clone();
    service.messaging_service = Some("MG11111111111111111111111111111111".into());
    let service = TwilioSms::build("twilio", service).unwrap();
    let text = Sms {
        text: "Hi 你好 & a=b+c ~*()'!".into(),
        ..fixtures::sms(1)
    };
    let mut content = VendorTemplate::new(format!("HX{}", "a".repeat(32)));
    content.params.insert("1".into(), "张三".into());
    for sms in [text, fixtures::sms(1).template("twilio", content)] {
        for sender in [&sender, &service] {
            let receipt = sender
                .send(&ctx, &fixtures::permitted(sms.clone()))
                .await
                .unwrap();
            assert!(receipt.provider_ref.starts_with("SM"), "{receipt:?}");
        }
    }
    let spoken = fixtures::call(1);
    let menu = VoiceCall {
        steps: vec![
            VoiceStep::say("您好 <&>"),
            VoiceStep::Dial {
                number: "+4930123456".parse().unwrap(),
                caller_id: None,
            },
        ],
        ..fixtures::call(2)
    };
    let page = fixtures::call(3).template("twilio", VendorTemplate::new("https://crm.example/twiml"));
    let app = fixtures::call(4).template("twilio", VendorTemplate::new(format!("AP{}", "b".repeat(32))));
    for call in [spoken, menu, page, app] {
        let receipt = caller.call(&ctx, &fixtures::permitted(call)).await.unwrap();
        assert!(receipt.provider_ref.starts_with("CA"), "{receipt:?}");
    }
    // The vendor's own names; lists are left to the recordings.
    let mut told = fixtures::sms(5);
    for (name, value) in [
        ("MaxPrice", "0.5"),
        ("ProvideFeedback", "true"),
        ("Attempt", "2"),
        ("ForceDelivery", "false"),
        ("ContentRetention", "retain"),
        ("AddressRetention", "obfuscate"),
        ("SmartEncoded", "true"),
        ("ShortenUrls", "true"),
        ("ScheduleType", "fixed"),
        ("SendAt", "2026-01-03T04:05:06Z"),
        ("SendAsMms", "false"),
        ("RiskCheck", "disable"),
    ] {
        told = told.parameter("twilio", name, value);
    }
    sender.send(&ctx, &fixtures::permitted(told)).await.unwrap();
    let mut recorded = fixtures::call(6);
    for (name, value) in [
        ("FallbackUrl", "https://crm.example/fb"),
        ("FallbackMethod", "POST"),
        ("SendDigits", "wwww1234#"),
        ("Record", "true"),
        ("RecordingChannels", "dual"),
        ("RecordingStatusCallback", "https://crm.example/rec"),
        ("MachineDetection", "Enable"),
        ("MachineDetectionTimeout", "30"),
        ("Trim", "trim-silence"),
        ("CallReason", "Your order is ready"),
        ("RecordingTrack", "both"),
        ("TimeLimit", "3600"),
    ] {
        recorded = recorded.parameter("twilio", name, value);
    }
    caller.call(&ctx, &fixtures::permitted(recorded)).await.unwrap();
    let mut lookup = Lookup {
        message_id: fixtures::id().into(),
        provider_ref: Some(format!("SM{}", "a".repeat(32))),
        to: "+4930123456".parse().unwrap(),
        sent_at: Timestamp::from_ymd(2020, 2, 2).unwrap(),
    };
    assert_eq!(sender.lookup(&ctx, &lookup).await.unwrap().len(), 1);
    lookup.provider_ref = Some(format!("CA{}", "a".repeat(32)));
    assert_eq!(caller.lookup(&ctx, &lookup).await.unwrap().len(), 1);
    lookup.provider_ref = None;
    sender.lookup(&ctx, &lookup).await.unwrap();
    caller.lookup(&ctx, &lookup).await.unwrap();
}

/// The oracle can say no: requests like ours with one thing missing or wrong.
#[tokio::test]
async fn what_does_not_fit_is_refused_there() {
    let Some(config) = config() else { return };
    let client = HttpClient::new(config.http.clone()).unwrap();
    let base = config.base_url.clone().unwrap();
    let post = async |path: &str, key: Option<&str>, kind: &str, body: &'static str| {
        let url = base.join(&format!("/2010-04-01/Accounts/{path}")).unwrap();
        let mut request = http::Request::post(url.as_str()).header("content-type", kind);
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        client
            .send(request.body(body.into()).unwrap())
            .await
            .unwrap()
            .status
            .as_u16()
    };
    let key = Some("Basic QUMwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDpmYWtldG9rZW4=");
    let form = "application/x-www-form-urlencoded";
    let good = "To=%2B4930123456&From=%2B15005550006&Body=x";
    let (messages, calls) = (
        format!("{ACCOUNT}/Messages.json"),
        format!("{ACCOUNT}/Calls.json"),
    );
    for (path, key, kind, body, status) in [
        (messages.as_str(), key, form, good, 201),
        (messages.as_str(), key, form, "From=%2B15005550006&Body=x", 422),
        (messages.as_str(), None, form, good, 401),
        (messages.as_str(), key, "application/json", "{}", 415),
        ("AC1/Messages.json", key, form, good, 422),
        (
            calls.as_str(),
            key,
            form,
            "To=%2B4930123456&From=%2B15005550006&Url=https%3A%2F%2Fa.example",
            201,
        ),
        (
            calls.as_str(),
            key,
            form,
            "To=%2B4930123456&Url=https%3A%2F%2Fa.example",
            422,
        ),
    ] {
        assert_eq!(post(path, key, kind, body).await, status, "{path} {kind} {body}");
    }
    // A value that the description does not have.
    let odd = fixtures::sms(6).parameter("twilio", "ScheduleType", "later");
    let sender = TwilioSms::build("twilio", config.clone()).unwrap();
    let error = sender
        .send(&context(), &fixtures::permitted(odd))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Invalid, crm_core::Effect::None),
        "{error}"
    );
    // What it refuses, our provider calls a refusal without effect.
    let mut wrong = config.clone();
    wrong.from = Some("+15005550006".into());
    wrong.messaging_service = None;
    let page = fixtures::call(3).template("twilio", VendorTemplate::new("https://crm.example/twiml"));
    let mut other = wrong.clone();
    other.base_url = Some(base.join("/nowhere/").unwrap());
    let caller = TwilioVoice::build("twilio", other).unwrap();
    let error = caller
        .call(&context(), &fixtures::permitted(page))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Config, crm_core::Effect::None),
        "{error}"
    );
}
