use std::collections::BTreeMap;

use crm_channels::campaign::{Incomplete, TemplateChoice, Variant};
use crm_channels::template::{EmailSource, PriceTable, SmsSource, TemplateSource};
use crm_channels::{Audience, CampaignPlan, CampaignPreview, OUTBOX, Template};
use crm_core::consent::{SuppressionReason, SuppressionScope};
use crm_core::message::Channel;
use crm_core::query::Filter;
use crm_core::record::Value;
use crm_core::{CustomerId, ErrorKind, Uuid};
use proptest::prelude::*;

use super::{Person, Town, letter};
use crate::common::{email, mailbox, news};

/// A template for every channel.
fn all_channels() -> Template {
    let source = TemplateSource {
        name: "spring".into(),
        default_locale: "en".into(),
        email: BTreeMap::from([(
            "en".into(),
            EmailSource {
                subject: "Hello {{ given_name }}".into(),
                text: "Spring".into(),
                html: None,
            },
        )]),
        sms: BTreeMap::from([(
            "en".into(),
            SmsSource {
                text: "Hello {{ given_name }}".into(),
                ..SmsSource::default()
            },
        )]),
        voice: serde_json::from_str(
            r#"{"en": {"steps": [{"do": "say", "text": "Hello {{ given_name }}"}]}}"#,
        )
        .unwrap(),
        ..TemplateSource::default()
    };
    Template::compile(&source).unwrap()
}

fn by(channels: &[Channel], audience: Audience) -> CampaignPlan {
    let mut plan = CampaignPlan::new(
        "spring",
        audience,
        news(),
        all_channels(),
        mailbox("shop@example.com", "Shop"),
    );
    plan.channels = channels.to_vec();
    plan
}

/// What the shape of one person leads to, worked out here once more, one by one.
#[derive(Debug, Clone)]
struct Shape {
    named: bool,
    mail: bool,
    phone: bool,
    agrees_mail: bool,
    agrees_sms: bool,
    suppressed: bool,
    excluded: bool,
}

impl Shape {
    fn expected(&self, channels: &[Channel]) -> &'static str {
        if self.excluded {
            return "excluded";
        }
        let mut first = None;
        for channel in channels {
            let (there, agrees) = match channel {
                Channel::Email => (self.mail, self.agrees_mail),
                _ => (self.phone, self.agrees_sms),
            };
            if !there {
                continue;
            }
            let no = match (channel, self.suppressed, agrees) {
                (Channel::Email, true, _) => "suppressed",
                (_, _, false) => "no consent",
                _ if self.named => return channel.as_str(),
                _ => return "a variable is missing",
            };
            first.get_or_insert(no);
        }
        first.unwrap_or("no address")
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    (any::<[bool; 4]>(), 0..10_u8, 0..6_u8, 0..6_u8).prop_map(|(b, unnamed, suppressed, excluded)| Shape {
        named: unnamed > 0,
        mail: b[0],
        phone: b[1],
        agrees_mail: b[2],
        agrees_sms: b[3],
        suppressed: suppressed == 0,
        excluded: excluded == 0,
    })
}

fn sum(preview: &CampaignPreview) -> u64 {
    preview.will_go + preview.left_out().iter().map(|(_, count)| count).sum::<u64>()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everybody_is_counted_once_and_for_the_right_reason(
        shapes in prop::collection::vec(shape(), 0..40),
        sms_first: bool,
    ) {
        let channels = match sms_first {
            true => [Channel::Sms, Channel::Email],
            false => [Channel::Email, Channel::Sms],
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let town = Town::new().await;
            let people: Vec<Person> = shapes.iter().enumerate().map(|(n, shape)| {
                let mut person = Person::new(if shape.named { "Ana" } else { "" }, n);
                person.agrees.clear();
                if shape.agrees_mail { person.agrees.push(Channel::Email); }
                if shape.agrees_sms { person.agrees.push(Channel::Sms); }
                if !shape.mail { person.email = None; }
                if !shape.phone { person.phone = None; }
                person
            }).collect();
            let ids = town.settle(&people).await;
            let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
            for (n, shape) in shapes.iter().enumerate() {
                *expected.entry(shape.expected(&channels)).or_default() += 1;
                if shape.suppressed {
                    let address = email(&format!("p{n}@example.org"));
                    town.outreach()
                        .suppress(&town.w.ctx, &address, SuppressionScope::Marketing, SuppressionReason::Complaint)
                        .await
                        .unwrap();
                }
                if shape.excluded {
                    town.change(ids[n], "city", "Elsewhere").await;
                }
            }
            let elsewhere = town.segment("elsewhere", Filter::eq("city", "Elsewhere")).await;
            let everybody = town.segment("everybody", Filter::All).await;
            let mut plan = by(&channels, Audience::reevaluated(everybody));
            plan.exclude = vec![elsewhere];
            plan.incomplete = Incomplete::LeaveOut;
            let preview = town.campaigns().plan(&town.w.ctx, &plan).await.unwrap();
            assert_eq!(preview.members, people.len() as u64);
            assert_eq!(sum(&preview), preview.members, "{preview:?}");
            let mut found: BTreeMap<&str, u64> = preview.left_out().into_iter().filter(|(_, n)| *n > 0).collect();
            for (channel, count) in &preview.channels {
                found.insert(channel.as_str(), *count);
            }
            assert_eq!(found, expected);
            assert_eq!(town.w.store.count(&town.w.ctx, &OUTBOX, &Filter::All).await.unwrap(), 0, "nothing is written");

            // What is queued is what was planned.
            let report = town.outreach().launch(&town.w.ctx, &plan, |_| {}).await.unwrap();
            assert_eq!((report.queued, &report.preview), (preview.will_go, &preview));
            assert_eq!(town.rows("spring").await.len() as u64, preview.will_go);
            let sent = town.outreach().dispatcher().unwrap().drain(&town.w.ctx).await.unwrap();
            assert_eq!(sent.sent, preview.will_go, "{sent:?}");
            let by = |channel| preview.channels.get(&channel).copied().unwrap_or(0);
            assert_eq!(town.w.mailer.sent().len() as u64, by(Channel::Email));
            assert_eq!(town.sms.sent().len() as u64, by(Channel::Sms));
        });
    }
}

#[tokio::test]
async fn variants_are_drawn_by_weight_and_stay_what_they_were() {
    let town = Town::new().await;
    let people: Vec<Person> = (0..2000).map(|n| Person::by_mail("Ana", n)).collect();
    let ids = town.settle(&people).await;
    let from = mailbox("shop@example.com", "Shop");
    let mut plan = CampaignPlan::new("test", Audience::frozen(ids), news(), letter(), from)
        .variant("b", 2, &Template::new("B", "B").unwrap())
        .variant("never", 0, &Template::new("C", "C").unwrap());
    let preview = town.campaigns().plan(&town.w.ctx, &plan).await.unwrap();
    // Four standard deviations of 2000 draws are 84.
    let a = preview.variants["a"];
    assert!((583..=750).contains(&a), "{preview:?}");
    assert_eq!(
        (preview.variants["b"], preview.variants.get("never")),
        (2000 - a, None)
    );

    town.outreach().launch(&town.w.ctx, &plan, |_| {}).await.unwrap();
    let drawn = |rows: Vec<crm_core::record::Stored>| -> BTreeMap<_, String> {
        rows.into_iter()
            .map(|row| {
                let variant = row.record.text("variant").unwrap().to_owned();
                (row.record.uuid("customer_id").unwrap(), variant)
            })
            .collect()
    };
    let first = drawn(town.rows("test").await);
    assert_eq!(
        first.values().filter(|v| *v == "a").count() as u64,
        a,
        "the plan said so"
    );
    let subjects = town.rows("test").await.into_iter().all(|row| {
        let mail = row.record.get("message").and_then(Value::as_json).unwrap();
        let is_b = row.record.text("variant").unwrap() == "b";
        (mail["subject"] == "B") == is_b
    });
    assert!(subjects, "each gets what their variant says");

    // Holding some out moves nobody to the other variant; another seed draws anew.
    town.campaigns()
        .cancel(&town.w.ctx, "test", "drawn again")
        .await
        .unwrap();
    let again = async |plan: &CampaignPlan| {
        let other = Town::new().await;
        // The same ids: they come from the same seed.
        assert_eq!(other.settle(&people).await, people_ids(plan));
        other.outreach().launch(&other.w.ctx, plan, |_| {}).await.unwrap();
        drawn(other.rows("test").await)
    };
    plan.hold_out = 0.25;
    let second = again(&plan).await;
    assert!((1422..=1578).contains(&second.len()), "{}", second.len());
    assert!(second.iter().all(|(id, variant)| first[id] == *variant));
    plan.hold_out = 0.0;
    plan.seed = 1;
    let third = again(&plan).await;
    let moved = third
        .iter()
        .filter(|(id, variant)| first[*id] != **variant)
        .count();
    assert!((700..1100).contains(&moved), "{moved}");
}

fn people_ids(plan: &CampaignPlan) -> Vec<CustomerId> {
    match plan.audience.members() {
        crm_channels::Members::Customers(ids) => ids.clone(),
        crm_channels::Members::Segment(_) => Vec::new(),
    }
}

#[tokio::test]
async fn parts_and_prices_of_sms_are_known_before() {
    let town = Town::new().await;
    let people = [
        Person::new("Ana", 1),
        Person::new(&"long ".repeat(40), 2),
        Person {
            phone: Some("+12125551234".into()),
            ..Person::new("Bo", 3)
        },
    ];
    let ids = town.settle(&people).await;
    let plan = by(&[Channel::Sms], Audience::frozen(ids));
    let prices: PriceTable =
        serde_json::from_str(r#"{"currency": "EUR", "micros": {"+49": 70000}}"#).unwrap();
    let preview = town
        .campaigns()
        .prices(prices)
        .plan(&town.w.ctx, &plan)
        .await
        .unwrap();
    assert_eq!(
        (preview.will_go, preview.sms_parts, preview.sms_unpriced),
        (3, 4, 1)
    );
    assert_eq!(preview.sms_cost, BTreeMap::from([("EUR".to_owned(), 210_000)]));
}

#[tokio::test]
async fn a_missing_variable_stops_it_or_leaves_people_out_as_the_plan_says() {
    let town = Town::new().await;
    let people = [Person::new("Ana", 1), Person::new("", 2), Person::new(" ", 3)];
    let ids = town.settle(&people).await;
    let mut plan = by(&[Channel::Email], Audience::frozen(ids.clone()));
    let preview = town.campaigns().plan(&town.w.ctx, &plan).await.unwrap();
    let missing = preview.missing["given_name"];
    assert_eq!(
        (preview.incomplete, missing.customers, missing.first),
        (2, 2, ids[1])
    );
    town.campaigns().create(&town.w.ctx, &plan).await.unwrap();
    let error = town
        .campaigns()
        .start(&town.w.ctx, "spring", |_| {})
        .await
        .unwrap_err();
    assert_eq!(
        (
            error.kind(),
            error.context("variable"),
            error.context("customers")
        ),
        (ErrorKind::Invalid, Some("given_name"), Some("2"))
    );
    town.queue().await;
    assert!(town.rows("spring").await.is_empty());
    // It is still a draft, and can be changed.
    plan.incomplete = Incomplete::LeaveOut;
    let stale = town.campaigns().update(&town.w.ctx, &plan, 7).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Conflict);
    town.campaigns().update(&town.w.ctx, &plan, 1).await.unwrap();
    town.campaigns()
        .start(&town.w.ctx, "spring", |_| {})
        .await
        .unwrap();
    town.queue().await;
    assert_eq!(town.rows("spring").await.len(), 1);
    let error = town.campaigns().update(&town.w.ctx, &plan, 3).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("state")),
        (ErrorKind::Conflict, Some("running"))
    );
}

#[tokio::test]
async fn a_started_campaign_keeps_the_version_of_its_template() {
    let town = Town::new().await;
    let ids = town.settle(&[Person::new("Ana", 1)]).await;
    let source = |text: &str| TemplateSource {
        name: "letter".into(),
        sms: BTreeMap::from([(
            String::new(),
            SmsSource {
                text: text.into(),
                ..SmsSource::default()
            },
        )]),
        ..TemplateSource::default()
    };
    let outreach = town.outreach();
    outreach
        .templates()
        .save(&town.w.ctx, &source("one"))
        .await
        .unwrap();
    let mut plan = by(&[Channel::Sms], Audience::frozen(ids));
    plan.schedule = crm_channels::Schedule::At("2026-03-02T09:00:00Z".parse().unwrap());
    plan.variants = vec![Variant {
        name: "a".into(),
        weight: 1,
        template: TemplateChoice::Stored {
            name: "letter".into(),
            version: None,
        },
    }];
    town.campaigns().create(&town.w.ctx, &plan).await.unwrap();
    outreach
        .templates()
        .save(&town.w.ctx, &source("two"))
        .await
        .unwrap();
    town.campaigns()
        .start(&town.w.ctx, "spring", |_| {})
        .await
        .unwrap();
    outreach
        .templates()
        .save(&town.w.ctx, &source("three"))
        .await
        .unwrap();
    town.w.pass(86_400);
    town.queue().await;
    outreach.dispatcher().unwrap().drain(&town.w.ctx).await.unwrap();
    assert_eq!(town.sms.sent()[0].message().text, "two");
    plan.variants[0].template = TemplateChoice::Stored {
        name: "nothing".into(),
        version: None,
    };
    plan.name = "other".into();
    let error = town.campaigns().create(&town.w.ctx, &plan).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("template")),
        (ErrorKind::NotFound, Some("nothing"))
    );
}

#[tokio::test]
async fn plans_that_make_no_sense_are_named() {
    let town = Town::new().await;
    let good = by(&[Channel::Email], Audience::frozen(vec![]));
    good.validate().unwrap();
    let again: CampaignPlan = serde_json::from_value(serde_json::to_value(&good).unwrap()).unwrap();
    assert_eq!(again, good);
    let field = |change: &dyn Fn(&mut CampaignPlan)| {
        let mut plan = good.clone();
        change(&mut plan);
        plan.validate()
            .unwrap_err()
            .context("field")
            .map(str::to_owned)
            .unwrap()
    };
    assert_eq!(field(&|p| p.name = "\n".into()), "name");
    assert_eq!(field(&|p| p.channels.clear()), "channels");
    assert_eq!(field(&|p| p.channels = vec![Channel::Sms; 2]), "channels");
    assert_eq!(field(&|p| p.from = None), "from");
    assert_eq!(field(&|p| p.variants.clear()), "variants");
    assert_eq!(field(&|p| p.variants[0].weight = 0), "variants");
    assert_eq!(field(&|p| p.hold_out = 1.0), "hold_out");
    assert_eq!(field(&|p| p.hold_out = f64::NAN), "hold_out");
    assert_eq!(field(&|p| p.breaker.bounces = 2.0), "breaker");
    assert_eq!(field(&|p| p.window = Some(std::time::Duration::ZERO)), "window");
    let many: Vec<CustomerId> = (0..20_001).map(|n| Uuid::from_u128(n).into()).collect();
    assert_eq!(
        field(&|p| p.audience = Audience::frozen(many.clone())),
        "audience"
    );
    // A template that says nothing by the channel.
    let mut plan = good.clone();
    plan.channels = vec![Channel::Sms];
    plan.variants[0].template = (&letter()).into();
    let error = town.campaigns().plan(&town.w.ctx, &plan).await.unwrap_err();
    assert_eq!(error.context("variant"), Some("a"));
}

#[tokio::test]
async fn mail_to_many_has_its_headers_and_what_lacks_is_named_before() {
    use crm_channels::inbound::{BulkReadiness, LinkKey, Unsubscribe};
    let town = Town::new().await;
    let ids = town.settle(&[Person::new("Ana", 1)]).await;
    let plan = by(&[Channel::Email], Audience::frozen(ids));
    let ready = BulkReadiness::new("example.com", "1 Main Street, Springfield").unwrap();
    let campaigns = town.campaigns().readiness(ready.clone());
    let error = campaigns.launch(&town.w.ctx, &plan, |_| {}).await.unwrap_err();
    assert_eq!(
        error.context("missing"),
        Some("list-unsubscribe, list-unsubscribe-post, postal-address")
    );
    assert!(town.rows("spring").await.is_empty());

    let key = LinkKey::new(&crm_core::Secret::new(
        "a secret for links that only these tests know",
    ))
    .unwrap();
    let links = Unsubscribe::new(key, "https://crm.example.com/".parse().unwrap()).unwrap();
    let outreach = town.outreach().with_unsubscribe(links);
    let mut plan = plan;
    let text = "Hello!\n\n1 Main Street\nSpringfield";
    plan.variants[0].template = (&Template::new("Hello {{ given_name }}", text).unwrap()).into();
    let campaigns = outreach.campaigns().readiness(ready);
    assert_eq!(
        campaigns.launch(&town.w.ctx, &plan, |_| {}).await.unwrap().queued,
        1
    );
    outreach.dispatcher().unwrap().drain(&town.w.ctx).await.unwrap();
    let mail = town.w.mailer.sent().remove(0);
    let headers = &mail.message().headers;
    assert!(
        headers["List-Unsubscribe"].contains("https://crm.example.com/u/"),
        "{headers:?}"
    );
}
