use std::collections::BTreeMap;
use std::time::Duration;

use crm_channels::{Audience, CampaignPlan, CampaignState, OutboxState, Schedule};
use crm_core::consent::{GateRules, QuietHours};
use crm_core::customer::CUSTOMER_ALIAS;
use crm_core::query::Filter;
use crm_core::record::{Record, Write};
use crm_core::segment::SegmentId;
use crm_core::{Clock as _, Timestamp};

use super::{Person, Town, letter};
use crate::common::{mailbox, news};

fn plan(audience: Audience) -> CampaignPlan {
    let from = mailbox("shop@example.com", "Shop");
    CampaignPlan::new("spring", audience, news(), letter(), from)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[tokio::test]
async fn everybody_gets_it_at_nine_on_their_own_wall() {
    let town = Town::new().await;
    // The clocks of New York go forward on this day, those of Berlin three weeks later.
    town.w.clock.set(at("2026-03-07T00:00:00Z"));
    let zones = [
        (Some("America/New_York"), "2026-03-08T13:00:00.000000Z"),
        (Some("America/Los_Angeles"), "2026-03-08T16:00:00.000000Z"),
        (Some("Pacific/Kiritimati"), "2026-03-07T19:00:00.000000Z"),
        (Some("Asia/Kolkata"), "2026-03-08T03:30:00.000000Z"),
        (None, "2026-03-08T08:00:00.000000Z"),
    ];
    let people: Vec<Person> = zones
        .iter()
        .enumerate()
        .map(|(n, (zone, _))| Person {
            zone: *zone,
            ..Person::by_mail("Ana", n)
        })
        .collect();
    let ids = town.settle(&people).await;
    let mut plan = plan(Audience::frozen(ids.clone()));
    plan.schedule = serde_json::from_str(
        r#"{"local": {"day": "2026-03-08", "time": "09:00", "otherwise": "Europe/Berlin"}}"#,
    )
    .unwrap();
    plan.window = Some(Duration::from_secs(2 * 3600));
    town.campaigns().create(&town.w.ctx, &plan).await.unwrap();
    let started = town
        .campaigns()
        .start(&town.w.ctx, "spring", |_| {})
        .await
        .unwrap();
    assert_eq!(started.state, CampaignState::Scheduled);
    town.queue().await;
    assert!(town.rows("spring").await.is_empty(), "not yet");

    // Queued ahead of the first place on earth, an hour early.
    town.w.clock.set(at("2026-03-07T18:00:00Z"));
    town.queue().await;
    let rows = town.rows("spring").await;
    let due: BTreeMap<_, String> = rows
        .iter()
        .map(|row| {
            let run_at = row.record.timestamp("run_at").unwrap();
            assert_eq!(
                row.record
                    .timestamp("expires_at")
                    .unwrap()
                    .since(run_at)
                    .as_secs(),
                7200
            );
            (row.record.uuid("customer_id").unwrap(), run_at.to_string())
        })
        .collect();
    for (id, (zone, expected)) in ids.iter().zip(zones) {
        assert_eq!(due[&id.uuid()], expected, "{zone:?}");
    }
    // Nobody gets it early, and who cannot get it in time does not get it at all.
    let dispatcher = town.outreach().dispatcher().unwrap();
    for (now, sent, expired) in [
        ("2026-03-07T18:59:59Z", 0, 0),
        ("2026-03-07T19:00:00Z", 1, 0),
        ("2026-03-08T08:00:00Z", 1, 1),
        ("2026-03-08T13:00:00Z", 1, 0),
        ("2026-03-08T18:00:00Z", 0, 1),
    ] {
        town.w.clock.set(at(now));
        let report = dispatcher.drain(&town.w.ctx).await.unwrap();
        assert_eq!((report.sent, report.expired), (sent, expired), "{now}");
    }
    let tick = town.campaigns().tick(&town.w.ctx, |_, _| {}).await.unwrap();
    assert_eq!(tick.finished, ["spring"]);
    // Started after all windows have closed: counted as too late, nothing is queued.
    let mut late = plan.clone();
    late.name = "late".into();
    let preview = town.campaigns().plan(&town.w.ctx, &late).await.unwrap();
    assert_eq!((preview.members, preview.too_late, preview.will_go), (5, 5, 0));
}

#[tokio::test]
async fn quiet_hours_and_caps_only_put_it_off() {
    let town = Town::new().await;
    let ids = town
        .settle(&[Person::by_mail("Ana", 1), Person::by_mail("Bo", 2)])
        .await;
    let rules = GateRules {
        quiet: vec![QuietHours::daily(
            "office",
            "10:00".parse().unwrap(),
            "17:00".parse().unwrap(),
        )],
        default_zone: Some(crm_core::zone::TimeZone::UTC),
        ..GateRules::default()
    };
    let outreach = town.outreach().rules(rules).unwrap();
    let plan = plan(Audience::frozen(ids));
    let preview = outreach.plan(&town.w.ctx, &plan).await.unwrap();
    assert_eq!((preview.will_go, preview.quiet, preview.capped), (2, 2, 0));
    outreach.launch(&town.w.ctx, &plan, |_| {}).await.unwrap();
    let dispatcher = outreach.dispatcher().unwrap();
    assert_eq!(dispatcher.drain(&town.w.ctx).await.unwrap().snoozed, 2);
    town.w.pass(3600);
    assert_eq!(dispatcher.drain(&town.w.ctx).await.unwrap().sent, 2);
}

/// Ana is a member when the campaign is started and leaves, Bo stays, Cy joins.
async fn moves(town: &Town, audience: impl Fn(SegmentId) -> Audience) -> Vec<String> {
    let ids = town
        .settle(&[
            Person::by_mail("Ana", 1),
            Person::by_mail("Bo", 2),
            Person::by_mail("Cy", 3),
        ])
        .await;
    town.change(ids[2], "city", "Narva").await;
    let segment = town.segment("tartu", Filter::eq("city", "Tartu")).await;
    let mut plan = plan(audience(segment));
    plan.schedule = Schedule::At(at("2026-03-01T12:00:00Z"));
    town.campaigns().create(&town.w.ctx, &plan).await.unwrap();
    town.campaigns()
        .start(&town.w.ctx, "spring", |_| {})
        .await
        .unwrap();
    town.change(ids[0], "city", "Narva").await;
    town.change(ids[2], "city", "Tartu").await;
    town.w.clock.set(at("2026-03-01T12:00:00Z"));
    town.queue().await;
    town.outreach()
        .dispatcher()
        .unwrap()
        .drain(&town.w.ctx)
        .await
        .unwrap();
    let mut got: Vec<String> = town
        .w
        .mailer
        .sent()
        .iter()
        .map(|mail| mail.message().to.name.clone())
        .collect();
    got.sort();
    got
}

#[tokio::test]
async fn a_frozen_audience_is_who_was_there_and_a_reevaluated_one_is_who_is_there() {
    let town = Town::new().await;
    assert_eq!(moves(&town, Audience::frozen).await, ["Ana Kask", "Bo Kask"]);
    let town = Town::new().await;
    assert_eq!(moves(&town, Audience::reevaluated).await, ["Bo Kask", "Cy Kask"]);
}

#[tokio::test]
async fn who_leaves_between_queueing_and_sending_is_dropped_with_a_reason() {
    for (frozen, left_out) in [(false, 2), (true, 0)] {
        let town = Town::new().await;
        let ids = town
            .settle(&[
                Person::by_mail("Ana", 1),
                Person::by_mail("Bo", 2),
                Person::by_mail("Cy", 3),
            ])
            .await;
        let tartu = town.segment("tartu", Filter::eq("city", "Tartu")).await;
        let angry = town.segment("angry", Filter::eq("region", "angry")).await;
        let audience = if frozen {
            Audience::frozen(tartu)
        } else {
            Audience::reevaluated(tartu)
        };
        let mut plan = plan(audience);
        plan.exclude = vec![angry];
        assert_eq!(
            town.outreach()
                .launch(&town.w.ctx, &plan, |_| {})
                .await
                .unwrap()
                .queued,
            3
        );
        town.change(ids[0], "city", "Narva").await;
        town.change(ids[1], "region", "angry").await;
        let report = town
            .outreach()
            .dispatcher()
            .unwrap()
            .drain(&town.w.ctx)
            .await
            .unwrap();
        assert_eq!(
            (report.sent, report.refused),
            (3 - left_out, left_out),
            "frozen: {frozen}"
        );
        let status = town.campaigns().status(&town.w.ctx, "spring").await.unwrap();
        assert_eq!(status.refusals.get("audience").copied().unwrap_or(0), left_out);
        assert_eq!(status.count(OutboxState::Refused), left_out);
    }
}

#[tokio::test]
async fn who_was_merged_meanwhile_gets_it_once_and_who_is_gone_is_counted() {
    let town = Town::new().await;
    let ids = town
        .settle(&[
            Person::by_mail("Ana", 1),
            Person::by_mail("Bo", 2),
            Person::by_mail("Cy", 3),
        ])
        .await;
    let all = town.segment("all", Filter::All).await;
    let mut plan = plan(Audience::frozen(all));
    plan.schedule = Schedule::At(at("2026-03-01T12:00:00Z"));
    town.campaigns().create(&town.w.ctx, &plan).await.unwrap();
    town.campaigns()
        .start(&town.w.ctx, "spring", |_| {})
        .await
        .unwrap();
    // Ana is merged into Bo, Cy is deleted.
    let now = town.w.clock.now();
    let mut alias = Record::new(&CUSTOMER_ALIAS);
    for field in CUSTOMER_ALIAS.fields.iter().filter(|field| !field.nullable) {
        match field.ty {
            crm_core::record::FieldType::Uuid => alias.set(field.name, ids[1]).unwrap(),
            crm_core::record::FieldType::Timestamp => alias.set(field.name, now).unwrap(),
            crm_core::record::FieldType::Json => alias.set(field.name, serde_json::json!({})).unwrap(),
            crm_core::record::FieldType::Bool => alias.set(field.name, false).unwrap(),
            _ => alias.set(field.name, "x").unwrap(),
        }
    }
    let gone = |id| Write::delete(&crm_core::customer::CUSTOMER, id, None);
    let writes = [
        Write::insert(ids[0], alias),
        gone(ids[0].uuid()),
        gone(ids[2].uuid()),
    ];
    town.w.store.apply(&town.w.ctx, &writes).await.unwrap();
    town.w.clock.set(at("2026-03-01T12:00:00Z"));
    town.queue().await;
    let found = town.campaigns().get(&town.w.ctx, "spring").await.unwrap().found;
    // One page: the merged one and the one merged into are one and the same.
    assert_eq!((found.members, found.will_go, found.gone), (3, 1, 2), "{found:?}");
    assert_eq!(town.rows("spring").await.len(), 1);
}
