use crm_core::ErrorKind;
use crm_core::consent::{
    ConsentAction, ConsentEvent, Evidence, GateRules, LegalBasis, Purpose, PurposeClass, Recipient, Verdict,
};
use crm_core::message::Channel;

use super::world::{World, email, evidence, news, phone, receipt};

#[tokio::test]
async fn the_class_of_a_purpose_on_record_cannot_be_flipped() {
    let w = World::new().await;
    let address = email("ana@example.org");
    let ana = w.customer(&[&address]).await;
    let first = w
        .gate
        .register_purpose(&w.ctx, &news(), "Our news, once a week")
        .await
        .unwrap();
    assert_eq!(first.version, 1);
    let flipped = Purpose::transactional("news").unwrap();
    // Neither by registering it again, nor by recording for it, nor by sending for it.
    for error in [
        w.gate
            .register_purpose(&w.ctx, &flipped, "Our news")
            .await
            .unwrap_err(),
        w.gate
            .grant(&w.ctx, ana, &address, &flipped, evidence(), None)
            .await
            .unwrap_err(),
    ] {
        assert_eq!(
            (error.kind(), error.context("field"), error.context("registered")),
            (ErrorKind::Invalid, Some("purpose.class"), Some("marketing"))
        );
    }
    let Verdict::No { decision, .. } = w.verdict(w.ask(ana, &address, &flipped)).await else {
        panic!("a newsletter dressed up as a receipt");
    };
    assert_eq!(
        decision.last(),
        "purpose: news is on record as marketing, not as transactional"
    );
    let basis = Purpose::new("news", PurposeClass::Marketing, LegalBasis::LegitimateInterest).unwrap();
    assert!(!w.verdict(w.ask(ana, &address, &basis)).await.decision().allowed);
    // Another tenant has purposes of its own.
    let elsewhere = crm_core::Context::new(crm_core::TenantId::new("elsewhere").unwrap());
    w.gate
        .register_purpose(&elsewhere, &flipped, "Notices")
        .await
        .unwrap();
}

#[tokio::test]
async fn new_words_are_a_new_version_and_the_same_words_none() {
    let w = World::new().await;
    let register = |policy: &'static str| {
        let (gate, ctx) = (w.gate.clone(), w.ctx.clone());
        async move { gate.register_purpose(&ctx, &news(), policy).await }
    };
    assert_eq!(register("Our news").await.unwrap().version, 1);
    assert_eq!(register("Our news").await.unwrap().version, 1);
    assert_eq!(register("Our news and offers").await.unwrap().version, 2);
    assert_eq!(register(" ").await.unwrap_err().context("field"), Some("policy"));
    w.gate
        .register_purpose(&w.ctx, &receipt(), "Receipts")
        .await
        .unwrap();
    let all = w.gate.purposes(&w.ctx).await.unwrap();
    let named: Vec<_> = all.iter().map(|p| (p.purpose.name.as_str(), p.version)).collect();
    assert_eq!(named, [("news", 2), ("receipt", 1)]);
    let address = email("ana@example.org");
    let ana = w.subscriber(&address, &news()).await;
    let decision = w.verdict(w.ask(ana, &address, &news())).await.decision().clone();
    assert!(
        decision.trace[0] == "purpose: news, marketing, version 2",
        "{decision}"
    );
}

#[tokio::test]
async fn a_host_may_insist_on_purposes_on_record() {
    let mut w = World::new().await;
    let rules = GateRules {
        registered_purposes_only: true,
        ..GateRules::default()
    };
    w.gate = w.gate.clone().with_rules(rules).unwrap();
    let address = email("ana@example.org");
    let ana = w.customer(&[&address]).await;
    let decision = w
        .verdict(w.ask(ana, &address, &receipt()))
        .await
        .decision()
        .clone();
    assert_eq!(decision.last(), "purpose: receipt is not on record");
    let error = w
        .gate
        .grant(&w.ctx, ana, &address, &news(), evidence(), None)
        .await
        .unwrap_err();
    assert_eq!(error.context("field"), Some("purpose"));
    w.gate
        .register_purpose(&w.ctx, &receipt(), "Receipts")
        .await
        .unwrap();
    assert!(
        w.verdict(w.ask(ana, &address, &receipt()))
            .await
            .decision()
            .allowed
    );
}

#[tokio::test]
async fn an_import_brings_its_proof_or_nothing() {
    let w = World::new().await;
    let address = email("ana@example.org");
    let ana = w.customer(&[&address]).await;
    let import = |evidence: Evidence| -> ConsentEvent {
        w.gate
            .event(ana, &address, &news(), ConsentAction::Imported, evidence)
            .unwrap()
            .said_at("2025-05-01T10:00:00Z".parse().unwrap())
    };
    let mut without = evidence();
    without.notice = String::new();
    let error = w.gate.record(&w.ctx, &[import(without)]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Invalid, Some("evidence.notice"))
    );
    assert!(!w.verdict(w.ask(ana, &address, &news())).await.decision().allowed);
    let proof = Evidence::new("old system, form 7", "Yes, send me news")
        .unwrap()
        .version("2025-03")
        .language("en");
    assert_eq!(
        proof.notice_sha256.as_deref(),
        // printf 'Yes, send me news' | sha256sum
        Some(HASH)
    );
    w.gate.record(&w.ctx, &[import(proof)]).await.unwrap();
    assert!(w.verdict(w.ask(ana, &address, &news())).await.decision().allowed);
}

const HASH: &str = "b4beaed7991828839b1b3a347e4d57aecbb37a21e0c2b368e9425d6b3fe006a4";

#[tokio::test]
async fn a_preference_page_shows_each_purpose_by_each_channel() {
    let w = World::new().await;
    w.gate
        .register_purpose(&w.ctx, &news(), "Our news")
        .await
        .unwrap();
    w.gate
        .register_purpose(&w.ctx, &receipt(), "Receipts")
        .await
        .unwrap();
    let (mail, tel) = (email("ana@example.org"), phone("+12125551234"));
    let ana = w.customer(&[&mail, &tel]).await;
    let by_sms = Recipient::new(ana, &tel).by(Channel::Sms);
    let event = w
        .gate
        .event(ana, &tel, &news(), ConsentAction::Granted, evidence())
        .unwrap()
        .by(Channel::Sms);
    w.gate.record(&w.ctx, &[event]).await.unwrap();
    let shown = w.gate.preferences(&w.ctx, ana).await.unwrap();
    let flat: Vec<(String, &str, bool)> = shown
        .iter()
        .flat_map(|at| &at.choices)
        .map(|c| {
            (
                format!("{} by {}", c.purpose.purpose.name, c.channel),
                c.state.as_str(),
                c.on,
            )
        })
        .collect();
    let line = |text: &str, state, on| (text.to_owned(), state, on);
    assert_eq!(
        flat,
        [
            line("news by email", "none", false),
            line("receipt by email", "none", true),
            line("news by sms", "granted", true),
            line("news by voice", "none", false),
            line("receipt by sms", "none", true),
            line("receipt by voice", "none", true),
        ]
    );
    // It says what the gate says.
    assert!(w.gate.explain(&w.ctx, &by_sms, &news()).await.unwrap().allowed);
    assert!(
        !w.gate
            .explain(&w.ctx, &by_sms.by(Channel::Voice), &news())
            .await
            .unwrap()
            .allowed
    );
}
