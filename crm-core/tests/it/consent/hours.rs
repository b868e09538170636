use crm_core::Timestamp;
use crm_core::consent::{Ask, FrequencyCap, GateRules, PurposeClass, QuietHours, Verdict};
use crm_core::message::Channel;
use crm_core::zone::LocalTime;
use serde_json::json;

use super::world::{World, email, evidence, news, phone, receipt};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

async fn world(now: &str, rules: GateRules) -> World {
    let mut w = World::at(now).await;
    w.gate = w.gate.clone().with_rules(rules).unwrap();
    w
}

fn packs() -> GateRules {
    GateRules {
        quiet: vec![QuietHours::us_tcpa(), QuietHours::china_marketing()],
        ..GateRules::default()
    }
}

fn later(verdict: &Verdict) -> Option<Timestamp> {
    match verdict {
        Verdict::Later { at, decision, .. } => {
            assert_eq!(decision.rule(), "quiet hours", "{decision}");
            Some(*at)
        }
        Verdict::Go { .. } => None,
        Verdict::No { decision, .. } => panic!("{decision}"),
    }
}

/// One text for marketing to a number at an instant: when may it go?
async fn text_at(
    now: &str,
    number: &str,
    attributes: serde_json::Value,
    country: Option<&str>,
) -> Option<Timestamp> {
    let w = world(now, packs()).await;
    let address = phone(number);
    let ana = w.customer_with(&[&address], attributes, country).await;
    w.gate
        .grant(&w.ctx, ana, &address, &news(), evidence(), None)
        .await
        .unwrap();
    later(&w.verdict(w.ask(ana, &address, &news())).await)
}

#[tokio::test]
async fn telephone_marketing_in_the_usa_keeps_to_the_hours_there_also_when_clocks_change() {
    let ny = "+12125551234";
    for (now, expected) in [
        // Winter, UTC-5: 08:00 is 13:00 UTC, 21:00 is 02:00 UTC.
        ("2026-03-06T12:59:59Z", Some("2026-03-06T13:00:00Z")),
        ("2026-03-06T13:00:00Z", None),
        ("2026-03-07T01:59:59Z", None),
        ("2026-03-07T02:00:00Z", Some("2026-03-07T13:00:00Z")),
        // In the night to 8 March 02:00 becomes 03:00: that morning 08:00 is 12:00 UTC.
        ("2026-03-08T02:00:00Z", Some("2026-03-08T12:00:00Z")),
        ("2026-03-08T06:59:59Z", Some("2026-03-08T12:00:00Z")),
        ("2026-03-08T12:00:00Z", None),
        ("2026-03-09T00:59:59Z", None),
        ("2026-03-09T01:00:00Z", Some("2026-03-09T12:00:00Z")),
        // In the night to 1 November 02:00 becomes 01:00: that morning 08:00 is 13:00 UTC.
        ("2026-11-01T01:00:00Z", Some("2026-11-01T13:00:00Z")),
        ("2026-11-01T12:59:59Z", Some("2026-11-01T13:00:00Z")),
        ("2026-11-01T13:00:00Z", None),
        ("2026-11-02T01:59:59Z", None),
        ("2026-11-02T02:00:00Z", Some("2026-11-02T13:00:00Z")),
    ] {
        assert_eq!(text_at(now, ny, json!({}), None).await, expected.map(at), "{now}");
    }
}

#[tokio::test]
async fn the_zone_is_the_customers_then_the_numbers_then_the_countrys() {
    // 12:30 UTC on a winter morning: 07:30 in New York, 04:30 in Los Angeles, 12:30 in London.
    let now = "2026-01-15T12:30:00Z";
    let free = |text: &str| Some(at(text));
    assert_eq!(
        text_at(now, "+12125551234", json!({}), None).await,
        free("2026-01-15T13:00:00Z")
    );
    assert_eq!(
        text_at(now, "+13105551234", json!({}), None).await,
        free("2026-01-15T16:00:00Z")
    );
    // Free of charge, so anywhere: when it is 8 in Honolulu it still is before 21 in the east.
    assert_eq!(
        text_at(now, "+18005551234", json!({}), None).await,
        free("2026-01-15T18:00:00Z")
    );
    let told = json!({"timezone": "America/Denver"});
    assert_eq!(
        text_at(now, "+12125551234", told.clone(), None).await,
        free("2026-01-15T15:00:00Z")
    );
    // A British number of somebody who lives in the USA.
    assert_eq!(text_at(now, "+447911123456", json!({}), None).await, None);
    assert_eq!(
        text_at(now, "+447911123456", told, None).await,
        free("2026-01-15T15:00:00Z")
    );
    assert_eq!(
        text_at(now, "+447911123456", json!({}), Some("US")).await,
        None,
        "12:30 where the number is from"
    );
    // China: until 22:00.
    for (now, expected) in [
        ("2026-01-15T13:59:59Z", None),
        ("2026-01-15T14:00:00Z", free("2026-01-16T00:00:00Z")),
        ("2026-01-15T23:59:00Z", free("2026-01-16T00:00:00Z")),
    ] {
        assert_eq!(
            text_at(now, "+8613812345678", json!({}), None).await,
            expected,
            "{now}"
        );
    }
}

#[tokio::test]
async fn the_law_is_about_marketing_by_telephone_and_nothing_else() {
    let w = world("2026-01-15T05:00:00Z", packs()).await;
    let (tel, mail) = (phone("+12125551234"), email("ana@example.org"));
    let ana = w.customer_with(&[&tel, &mail], json!({}), Some("US")).await;
    for address in [&tel, &mail] {
        w.gate
            .grant(&w.ctx, ana, address, &news(), evidence(), None)
            .await
            .unwrap();
    }
    let call = Ask::new(w.message(&tel, Channel::Voice), news(), ana);
    assert_eq!(later(&w.verdict(call).await), Some(at("2026-01-15T13:00:00Z")));
    for ask in [w.ask(ana, &mail, &news()), w.ask(ana, &tel, &receipt())] {
        let verdict = w.verdict(ask).await;
        assert!(verdict.decision().allowed, "{}", verdict.decision());
        assert_eq!(verdict.decision().last(), "quiet hours: none for this message");
    }
}

#[tokio::test]
async fn a_host_sets_hours_of_its_own_with_a_zone_for_those_of_whom_nothing_is_known() {
    let hours = QuietHours::daily(
        "office",
        LocalTime::new(9, 0).unwrap(),
        LocalTime::new(17, 0).unwrap(),
    );
    let without = GateRules {
        quiet: vec![hours.clone()],
        ..GateRules::default()
    };
    let error = without.validate().unwrap_err();
    assert_eq!(error.context("setting"), Some("default_zone"));
    let rules = GateRules {
        default_zone: "Europe/Tallinn".parse().ok(),
        ..without
    };
    let w = world("2026-07-01T20:00:00Z", rules.clone()).await;
    let mail = email("ana@example.org");
    let ana = w.customer(&[&mail]).await;
    // 17:00 in Tallinn is 14:00 UTC, 09:00 is 06:00.
    assert_eq!(
        later(&w.verdict(w.ask(ana, &mail, &receipt())).await),
        Some(at("2026-07-02T06:00:00Z"))
    );
    // Somewhere in the USA: from 9 in Honolulu (19:00 UTC) until 17 in the east (21:00 UTC).
    let bo_mail = email("bo@example.org");
    let bo = w.customer_with(&[&bo_mail], json!({}), Some("US")).await;
    assert_eq!(later(&w.verdict(w.ask(bo, &bo_mail, &receipt())).await), None);
    w.clock.set(at("2026-07-01T21:00:00Z"));
    assert_eq!(
        later(&w.verdict(w.ask(bo, &bo_mail, &receipt())).await),
        Some(at("2026-07-02T19:00:00Z"))
    );
    // Hours that are never free from Kamchatka to Kaliningrad at once: said so, and for good.
    let mut early = rules;
    early.quiet[0].allowed[0].until = LocalTime::new(10, 0).unwrap();
    let w = world("2026-07-01T20:00:00Z", early).await;
    let cy = w.customer_with(&[&mail], json!({}), Some("RU")).await;
    let Verdict::No { decision, .. } = w.verdict(w.ask(cy, &mail, &receipt())).await else {
        panic!("no such hour");
    };
    assert!(
        decision.last().contains("never free in all of them at once"),
        "{decision}"
    );
}

#[tokio::test]
async fn hours_and_caps_together_name_the_first_moment_that_suits_both() {
    let mut rules = packs();
    let day = std::time::Duration::from_secs(86_400);
    rules.caps = vec![FrequencyCap::new("a-day", 1, day).of_class(PurposeClass::Marketing)];
    let w = world("2026-01-15T13:30:00Z", rules).await;
    let tel = phone("+12125551234");
    let ana = w.subscriber(&tel, &news()).await;
    let Verdict::Go { writes, .. } = w.verdict(w.ask(ana, &tel, &news())).await else {
        panic!("08:30 in New York");
    };
    use crm_core::capability::RecordStore as _;
    w.store.apply(&w.ctx, &writes).await.unwrap();
    // At 06:00 the hours are not free, and the cap is full until 08:30: that counts.
    w.clock.set(at("2026-01-16T11:00:00Z"));
    let Verdict::Later { at: free, .. } = w.verdict(w.ask(ana, &tel, &news())).await else {
        panic!("06:00 in New York");
    };
    assert_eq!(free, at("2026-01-16T13:30:00Z"));
    w.clock.set(free);
    assert!(matches!(
        w.verdict(w.ask(ana, &tel, &news())).await,
        Verdict::Go { .. }
    ));
    // The trace says all of it.
    let recipient = crm_core::consent::Recipient::new(ana, &tel);
    let text = w
        .gate
        .explain(&w.ctx, &recipient, &news())
        .await
        .unwrap()
        .to_string();
    for rule in [
        "purpose: ",
        "contact: ",
        "suppression: ",
        "consent: ",
        "quiet hours: free under us-tcpa",
        "frequency: within a-day",
    ] {
        assert!(text.contains(rule), "{text}");
    }
}
