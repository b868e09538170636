//! A campaign over e-mail, SMS and phone calls, against servers that behave as the vendors do: people on three continents,
//! two of whom never agreed; a mailbox that is gone, a number that is none, calls that nobody takes, callbacks that come
//! twice, and somebody who answers STOP. Nothing leaves this machine.
//!
//! ```sh
//! cargo run --no-default-features --features sqlite,smtp,twilio,aliyun,testkit --example campaign
//! ```
#![allow(clippy::print_stdout, reason = "a program for people, not the library")]

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use open_crm::capability::{SmsSender, VoiceCaller, WebhookSource};
use open_crm::channels::aliyun::{AliyunConfig, AliyunSms, AliyunVoice, AliyunWebhook};
use open_crm::channels::campaign::Tally;
use open_crm::channels::inbound::{Answers, Inbound, LinkKey, Unsubscribe};
use open_crm::channels::testkit::{FakeAliyun, FakeTwilio, SmtpSink};
use open_crm::channels::twilio::{TwilioConfig, TwilioSms, TwilioVoice, TwilioWebhook};
use open_crm::channels::{
    Audience, CampaignPlan, CampaignPreview, CampaignStatus, Mode, PriceTable, Template, TemplateSource,
};
use open_crm::consent::Evidence;
use open_crm::message::{Channel, DeliveryState, Mailbox};
use open_crm::prelude::*;

const HOOK: &str = "0123456789abcdef-hook";

/// Name, language, e-mail, phone, and the channels agreed to.
const PEOPLE: [(&str, &str, &str, &str, &[Channel]); 10] = [
    (
        "Ana",
        "en",
        "ana@example.org",
        "+12125551201",
        &[Channel::Email, Channel::Sms],
    ),
    ("Bo", "en", "bo@example.org", "", &[Channel::Email]),
    ("Gone", "en", "gone@example.org", "", &[Channel::Email]),
    ("Cy", "en", "", "+12125551203", &[Channel::Sms]),
    ("Dee", "en", "", "+12125551204", &[Channel::Sms]),
    ("None", "en", "", "+12125551205", &[Channel::Sms]),
    ("小明", "zh", "", "+8613800138001", &[Channel::Sms]),
    ("小红", "zh", "", "+8613800138002", &[Channel::Voice]),
    ("Eve", "en", "", "+12125551208", &[Channel::Voice]),
    ("Fay", "en", "fay@example.org", "+12125551209", &[]),
];

/// What is said, by channel and language. In Chinese by templates that Aliyun keeps, because it takes nothing else.
const TEMPLATE: &str = r#"{
  "name": "spring", "default_locale": "en",
  "email": {"en": {"subject": "Spring, {{ given_name }}!", "text": "Dear {{ name }},\n\nthe new records are in.\n\nThe record shop\n1 Main Street, Springfield"}},
  "sms": {"en": {"text": "{{ given_name }}, the new records are in. Reply STOP to end."},
          "zh": {"text": "", "vendors": {"aliyun": {"code": "SMS_1", "sign_name": "唱片店", "params": {"name": "{{ given_name }}"}}}}},
  "voice": {"en": {"steps": [{"do": "say", "text": "Hello {{ given_name }}, the new records are in."}]},
            "zh": {"steps": [], "vendors": {"aliyun": {"code": "TTS_1", "params": {"name": "{{ given_name }}"}}}}}
}"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The vendors.
    let mail = SmtpSink::start().await?;
    mail.refuse("gone@example.org", "550 5.1.1 no such mailbox");
    let twilio = FakeTwilio::start("s3cret").await?;
    twilio.opt_out("+12125551205");
    let aliyun = FakeAliyun::start("fakeSecret").await?;
    let mut by_twilio = TwilioConfig::new(FakeTwilio::ACCOUNT, Secret::new("s3cret"));
    by_twilio.from = Some(FakeTwilio::NUMBER.into());
    by_twilio.status_callback = Some("https://crm.example/webhooks/twilio".parse()?);
    by_twilio.base_url = Some(twilio.url());
    by_twilio.http = twilio.http();
    let mut by_aliyun = AliyunConfig::new(FakeAliyun::KEY, Secret::new("fakeSecret"));
    by_aliyun.caller = Some("057112345678".into());
    by_aliyun.hook_secret = Some(Secret::new(HOOK));
    by_aliyun.base_url = Some(aliyun.url());
    by_aliyun.http = aliyun.http();

    // The customer base. What Aliyun has a template for goes there, everything else to Twilio.
    let folder = tempfile::tempdir()?;
    let crm = Crm::builder()
        .store(format!("sqlite:{}", folder.path().join("crm.db").display()))
        .mailer(0, mail.url())
        .provide::<dyn SmsSender>(1, Arc::new(AliyunSms::build("aliyun", by_aliyun.clone())?))
        .provide::<dyn SmsSender>(0, Arc::new(TwilioSms::build("twilio", by_twilio.clone())?))
        .provide::<dyn VoiceCaller>(1, Arc::new(AliyunVoice::build("aliyun", by_aliyun.clone())?))
        .provide::<dyn VoiceCaller>(0, Arc::new(TwilioVoice::build("twilio", by_twilio.clone())?))
        .provide::<dyn WebhookSource>(0, Arc::new(TwilioWebhook::build("twilio", &by_twilio)?))
        .provide::<dyn WebhookSource>(0, Arc::new(AliyunWebhook::build("aliyun", by_aliyun)?))
        .address_key(Secret::new("a demonstration key, good for nothing else"))
        .mode(Mode::Live)
        .build()
        .await?;
    let ctx = Context::new(TenantId::new("shop")?);
    let links = LinkKey::new(&Secret::new("another demonstration key, for links"))?;
    let outreach = crm
        .outreach()
        .clone()
        .with_unsubscribe(Unsubscribe::new(links, "https://crm.example/".parse()?)?)
        .with_answers(Answers {
            stopped: Some("You get no more messages. START to get them again.".into()),
            ..Answers::default()
        });
    let news = Purpose::marketing("news")?;
    let members = people(&crm, &ctx, &news).await?;

    // The plan: e-mail first, then SMS, then a call; everybody gets one message.
    let template = Template::compile(&serde_json::from_str::<TemplateSource>(TEMPLATE)?)?;
    let from = Mailbox::new(EmailAddress::parse("shop@example.com")?, "The record shop")?;
    let mut plan = CampaignPlan::new("spring", Audience::frozen(members), news, template, from);
    plan.channels = Channel::ALL.to_vec();
    let prices: PriceTable =
        serde_json::from_str(r#"{"currency": "USD", "micros": {"+1": 7900, "+86": 6500}}"#)?;
    let campaigns = outreach.campaigns().prices(prices);
    let preview = campaigns.plan(&ctx, &plan).await?;
    show_plan(&preview);

    campaigns.create(&ctx, &plan).await?;
    campaigns.start(&ctx, "spring", |_| {}).await?;
    campaigns.tick(&ctx, |_, _| {}).await?;
    let dispatcher = outreach.dispatcher()?;
    dispatcher.drain(&ctx).await?;

    // What comes back, some of it twice.
    let desk = Inbound::new(crm.registry(), outreach.clone());
    let mut callbacks = Vec::new();
    for taken in twilio.taken() {
        let (status, code) = match taken.get("To") {
            Some("+12125551204") => ("undelivered", Some(30003)),
            Some("+12125551208") => ("no-answer", None),
            _ => ("delivered", None),
        };
        callbacks.extend(
            twilio
                .callback(&taken, status, code)
                .map(|request| ("twilio", request)),
        );
    }
    let address = format!("https://crm.example/webhooks/aliyun/{HOOK}").parse()?;
    let receipts: Vec<_> = aliyun
        .taken()
        .iter()
        .map(|taken| match taken.action.as_str() {
            "SendSms" | "SendBatchSms" => FakeAliyun::receipt(taken, true, "DELIVERED"),
            _ => FakeAliyun::record(taken, "200000"),
        })
        .collect();
    callbacks.push(("aliyun", FakeAliyun::push(&address, &receipts)));
    let hook = "https://crm.example/webhooks/twilio".parse()?;
    callbacks.push(("twilio", twilio.incoming(&hook, "+12125551203", "Stop!", None)));
    for (provider, request) in callbacks.iter().chain(&callbacks) {
        let reply = desk.webhook(&ctx, provider, request).await;
        ensure!(reply.status < 300, "{provider}: {}", reply.status);
    }
    dispatcher.drain(&ctx).await?; // the answer to STOP
    campaigns.tick(&ctx, |_, _| {}).await?;

    let status = campaigns.status(&ctx, "spring").await?;
    show_outcome(&status);
    ensure!(status.is_finished() && status.unknown.is_empty(), "{status:?}");

    // The next one: who said STOP, whose mailbox is gone and who opted out at the vendor is not written to again.
    plan.name = "summer".into();
    let next = campaigns.plan(&ctx, &plan).await?;
    println!(
        "\nthe next campaign would reach {} of {}:",
        next.will_go, next.members
    );
    show_plan(&next);
    ensure!(next.will_go < preview.will_go, "nothing was learned: {next:?}");
    Ok(())
}

async fn people(crm: &Crm, ctx: &Context, news: &Purpose) -> anyhow::Result<Vec<CustomerId>> {
    let gate = crm.outreach().gate()?;
    let mut ids = Vec::new();
    for (given, language, email, phone, agreed) in PEOPLE {
        let mut draft = Draft::new(Provenance::new("till", SystemClock.now()));
        draft.name = Some(PersonName {
            given: given.into(),
            ..PersonName::default()
        });
        draft.attributes.set("locale", language)?;
        draft.emails.extend((!email.is_empty()).then(|| email.into()));
        draft.phones.extend((!phone.is_empty()).then(|| phone.into()));
        let id = crm.customers().upsert(ctx, draft).await?.id;
        let known = crm.customers().get(ctx, id).await?.context("just stored")?;
        for channel in agreed {
            let point = known
                .contact_points
                .iter()
                .find(|point| point.kind() == channel.contact_kind())
                .context("agreed, but cannot be reached")?;
            let evidence = Evidence::new("sign-up form", "Yes, send me news")?;
            let action = open_crm::consent::ConsentAction::Granted;
            let event = gate
                .event(id, &point.address, news, action, evidence)?
                .by(*channel);
            gate.record(ctx, &[event]).await?;
        }
        ids.push(id);
    }
    Ok(ids)
}

fn show_plan(preview: &CampaignPreview) {
    let by: Vec<String> = preview
        .channels
        .iter()
        .map(|(channel, count)| format!("{count} by {channel}"))
        .collect();
    println!("{:<28}{:>4}  ({})", "will go", preview.will_go, by.join(", "));
    for (reason, count) in preview.left_out().into_iter().filter(|(_, count)| *count > 0) {
        println!("{reason:<28}{count:>4}");
    }
    for (currency, cost) in &preview.sms_cost {
        println!(
            "{} parts of SMS cost {:.4} {currency}",
            preview.sms_parts,
            *cost as f64 / 1e6
        );
    }
}

fn show_outcome(status: &CampaignStatus) {
    const STATES: [DeliveryState; 5] = [
        DeliveryState::Accepted,
        DeliveryState::Delivered,
        DeliveryState::Failed,
        DeliveryState::Refused,
        DeliveryState::Unknown,
    ];
    print!("\n{:<10}{:>9}", "", "messages");
    STATES.iter().for_each(|state| print!("{:>11}", state.as_str()));
    println!();
    let all = BTreeMap::from([("all", &status.all)]);
    let rows = status
        .channels
        .iter()
        .map(|(channel, tally)| (channel.as_str(), tally));
    for (name, tally) in rows.chain(all) {
        let tally: &Tally = tally;
        print!("{name:<10}{:>9}", tally.messages);
        STATES
            .iter()
            .for_each(|state| print!("{:>11}", tally.came(*state)));
        println!();
    }
    for (reason, count) in &status.refusals {
        println!("not sent, {reason}: {count}");
    }
    println!(
        "the campaign is {}",
        status.state.map_or("?", |state| state.as_str())
    );
}
