//! From a page to a mail, through the facade, on SQLite.

use open_crm::analytics::features::FeaturePlan;
use open_crm::analytics::insights::{Groups, SegmentationPlan};
use open_crm::channels::{Audience, CampaignPlan, Mode, OutboxState, Template};
use open_crm::consent::Evidence;
use open_crm::customer::OrderDraft;
use open_crm::message::Mailbox;
use open_crm::prelude::*;
use open_crm::segment::SegmentKind;

use super::demo::people::People;
use super::demo::site::DemoSite;
use super::demo::smtp_sink::SmtpSink;
use super::{context, key, spider, sqlite};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_becomes_a_segment_becomes_a_mail() {
    let folder = tempfile::tempdir().unwrap();
    let people = People::load().unwrap();
    let site = DemoSite::start(&people, 0).await.unwrap();
    let sink = SmtpSink::start(folder.path().join("mails"), 0).await.unwrap();
    let crm = Crm::builder()
        .store(sqlite(folder.path()))
        .collector(spider(&site.start_url(), site.address()))
        .mailer(0, format!("smtp://{}?tls=dangerous-plaintext", sink.address()))
        .mode(Mode::Live)
        .address_key(key())
        .build()
        .await
        .unwrap();
    let ctx = context();

    // Collect, twice: nobody is stored twice, and what robots.txt forbids is not asked for.
    let first = crm.collect(&ctx, "web", &mut |_, _| ()).await.unwrap();
    let again = crm.collect(&ctx, "web", &mut |_, _| ()).await.unwrap();
    let wanted = people.on_site().count() as u64;
    assert_eq!(first.created, wanted);
    assert_eq!((again.created, again.unchanged), (0, wanted));
    assert_eq!(crm.customers().count(&ctx, &Filter::All).await.unwrap(), wanted);
    assert_eq!(
        site.hits("/private/"),
        0,
        "robots.txt forbids it, although the spider follows such links"
    );

    // Twenty of them buy: ten often, ten once. (The tenant next door sees nothing of it.)
    let page = crm
        .customers()
        .find(&ctx, &Query::new(Filter::All).limit(20))
        .await
        .unwrap();
    for (n, customer) in page.items.iter().enumerate() {
        let orders: Vec<OrderDraft> = (0..if n < 10 { 12 } else { 1 })
            .map(|k| OrderDraft {
                event_id: format!("{n}-{k}"),
                at: Timestamp::from_ymd(2026, 1 + k % 12, 1 + n as u32).unwrap(),
                total: Money::new(if n < 10 { 9_000 } else { 500 }, "EUR").unwrap(),
                items: 1,
            })
            .collect();
        crm.customers()
            .append(&ctx, customer.id, "till", orders)
            .await
            .unwrap();
    }
    let plan = SegmentationPlan::new("buyers", FeaturePlan::rfm("2027-01-01".parse().unwrap()))
        .groups(Groups::Fixed(2));
    let (found, written) = crm
        .insights()
        .segment_customers(&ctx, &plan, &mut |_| ())
        .await
        .unwrap();
    assert_eq!(
        (written.members, found.segments[0].size, found.segments[1].size),
        (20, 10, 10)
    );
    assert_eq!(found.assignments[0], found.assignments[9]);
    assert_ne!(found.assignments[0], found.assignments[10]);
    let often = found.assignments[found.ids.iter().position(|id| *id == page.items[0].id).unwrap()].unwrap();

    // It is a snapshot with lineage, as stored.
    let stored = crm.customers().store_ref();
    let query = Query::new(Filter::eq("name", found.segments[often].name.as_str()));
    let segments = stored
        .find(&ctx, &open_crm::segment::SEGMENT, &query)
        .await
        .unwrap();
    let segment =
        <open_crm::segment::Segment as open_crm::record::Entity>::from_stored(segments.items[0].clone())
            .unwrap();
    assert!(matches!(segment.kind, SegmentKind::Snapshot { ref lineage } if lineage.run == found.run));
    let elsewhere = Context::new(TenantId::new("next-door").unwrap());
    assert_eq!(
        stored
            .count(&elsewhere, &open_crm::segment::SEGMENT, &Filter::All)
            .await
            .unwrap(),
        0
    );

    // Write to the ten: nine agreed, one did not.
    let news = Purpose::marketing("news").unwrap();
    for customer in &page.items[..9] {
        let evidence = Evidence::new("test", "Yes, write to me.").unwrap();
        let address = &customer.email().unwrap().address;
        crm.outreach()
            .grant(&ctx, customer.id, address, &news, evidence, None)
            .await
            .unwrap();
    }
    let from = Mailbox::new(EmailAddress::parse("shop@example.com").unwrap(), "Shop").unwrap();
    let template = Template::new("News", "Hello {{ given_name | default('you') }}").unwrap();
    let campaign = CampaignPlan::new(
        "spring",
        Audience::frozen(found.segments[often].id),
        news,
        template,
        from,
    );
    let preview = crm.outreach().plan(&ctx, &campaign).await.unwrap();
    assert_eq!((preview.members, preview.will_go, preview.no_consent), (10, 9, 1));
    for _ in 0..2 {
        crm.outreach().launch(&ctx, &campaign, &mut |_| ()).await.unwrap();
        crm.outreach().dispatcher().unwrap().drain(&ctx).await.unwrap();
    }
    let status = crm.outreach().status(&ctx, "spring").await.unwrap();
    assert_eq!(status.count(OutboxState::Sent), 9, "{status:?}");
    let mailbox = sink.mailbox().unwrap();
    assert_eq!(
        (mailbox.mails, mailbox.distinct),
        (9, 9),
        "launched twice, sent once"
    );

    // And it is on the timeline: the data went round.
    let timeline = crm
        .customers()
        .timeline(&ctx, page.items[0].id, 10, None)
        .await
        .unwrap();
    assert!(
        timeline.items.iter().any(|event| event.kind == "mail.accepted"),
        "{timeline:?}"
    );
}
