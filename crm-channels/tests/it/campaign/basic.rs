use crm_channels::{Audience, CampaignPlan, OUTBOX, OutboxState, Template};
use crm_core::consent::{SuppressionReason, SuppressionScope};
use crm_core::query::Filter;
use crm_core::record::{Entity as _, Record, Write};
use crm_core::segment::{SEGMENT_MEMBER, Segment, SegmentId, SegmentKind};
use crm_core::{Clock as _, CustomerId, ErrorKind};

use crate::common::{World, email, mailbox, news};

fn plan(audience: Audience) -> CampaignPlan {
    let template = Template::new(
        "Hello {{given_name}}",
        "Dear {{name}} of {{ city | default(\"somewhere\") }}",
    )
    .unwrap()
    .html("<p>{{attributes.plan}}</p>")
    .unwrap();
    CampaignPlan::new(
        "spring",
        audience,
        news(),
        template,
        mailbox("shop@example.com", "Shop"),
    )
}

async fn segment(w: &World, name: &str, kind: SegmentKind, members: &[CustomerId]) -> SegmentId {
    let id: SegmentId = w.ids.fresh().into();
    let now = w.clock.now();
    let segment = Segment {
        id,
        version: 1,
        name: name.into(),
        description: String::new(),
        kind,
        size: i64::try_from(members.len()).unwrap(),
        created_at: now,
    };
    let mut writes = vec![Write::insert(id, segment.to_record().unwrap())];
    for member in members {
        let record = Record::new(&SEGMENT_MEMBER)
            .with("segment_id", id)
            .unwrap()
            .with("customer_id", *member)
            .unwrap()
            .with("created_at", now)
            .unwrap();
        writes.push(Write::insert(w.ids.fresh(), record));
    }
    w.store.apply(&w.ctx, &writes).await.unwrap();
    id
}

#[tokio::test]
async fn a_preview_says_who_gets_it_and_who_does_not() {
    let w = World::new().await;
    let mut members = Vec::new();
    for i in 0..450 {
        members.push(w.subscriber("Ana", &format!("p{i}@example.org")).await);
    }
    members.push(w.customer("Bo", "bo@example.org").await);
    let suppressed = w.subscriber("Cy", "cy@example.org").await;
    w.outreach()
        .suppress(
            &w.ctx,
            &email("cy@example.org"),
            SuppressionScope::Marketing,
            SuppressionReason::Unsubscribed,
        )
        .await
        .unwrap();
    members.push(suppressed);
    members.push(w.ids.fresh().into());
    let id = segment(&w, "all", SegmentKind::Manual, &members).await;
    let plan = plan(Audience::frozen(id));
    let preview = w.outreach().plan(&w.ctx, &plan).await.unwrap();
    assert_eq!((preview.members, preview.will_go), (453, 450));
    assert_eq!(
        (
            preview.no_consent,
            preview.suppressed,
            preview.no_address,
            preview.gone
        ),
        (1, 1, 0, 1)
    );
    assert_eq!(
        w.store.count(&w.ctx, &OUTBOX, &Filter::All).await.unwrap(),
        0,
        "a preview writes nothing"
    );

    let mut seen = Vec::new();
    let report = w
        .outreach()
        .launch(&w.ctx, &plan, |at| seen.push((at.checked, at.done, at.queued)))
        .await
        .unwrap();
    assert_eq!((report.queued, &report.preview), (450, &preview));
    assert_eq!(seen.last(), Some(&(453, 453, 450)));
    assert!(seen.len() >= 3, "progress comes with every page: {seen:?}");

    // Again, by mistake or after a crash: nobody twice.
    let again = w.outreach().launch(&w.ctx, &plan, |_| {}).await.unwrap();
    assert_eq!((again.queued, &again.preview), (0, &preview));
    let asked = w.outreach().plan(&w.ctx, &plan).await.unwrap();
    assert_eq!(
        (asked.already_queued, asked.will_go, asked.members),
        (450, 0, 453)
    );
    let done = w.dispatcher().drain(&w.ctx).await.unwrap();
    assert_eq!(done.sent, 450);
    let status = w.outreach().status(&w.ctx, "spring").await.unwrap();
    assert!(status.is_finished() && status.count(OutboxState::Sent) == 450 && status.unknown.is_empty());
    let mail = w.mailer.sent()[0].message().clone();
    assert_eq!(
        (mail.subject.as_str(), mail.text.as_str()),
        ("Hello Ana", "Dear Ana Kask of Tartu")
    );
    assert_eq!(mail.html.as_deref(), Some("<p>pro &amp; &lt;more&gt;</p>"));
}

#[tokio::test]
async fn a_name_belongs_to_one_plan() {
    let w = World::new().await;
    let mut members = Vec::new();
    for i in 0..3 {
        members.push(w.subscriber("Ana", &format!("p{i}@example.org")).await);
    }
    let one = plan(Audience::frozen(members.clone()));
    assert_eq!(w.outreach().launch(&w.ctx, &one, |_| {}).await.unwrap().queued, 3);
    let mut other = one.clone();
    other.audience = Audience::frozen(members[..1].to_vec());
    let error = w.outreach().launch(&w.ctx, &other, |_| {}).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("field")),
        (ErrorKind::Conflict, Some("name"))
    );
    let error = w.outreach().campaigns().create(&w.ctx, &one).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("campaign")),
        (ErrorKind::Conflict, Some("spring"))
    );
    // Another campaign is another matter.
    other.name = "summer".into();
    assert_eq!(
        w.outreach().launch(&w.ctx, &other, |_| {}).await.unwrap().queued,
        1
    );
    assert_eq!(w.dispatcher().drain(&w.ctx).await.unwrap().sent, 4);
}

#[tokio::test]
async fn a_dynamic_segment_is_asked_when_it_is_used() {
    let w = World::new().await;
    let kind = SegmentKind::Dynamic {
        filter: Filter::eq("given_name", "Ana"),
    };
    let id = segment(&w, "anas", kind, &[]).await;
    w.subscriber("Ana", "ana@example.org").await;
    w.subscriber("Bo", "bo@example.org").await;
    assert_eq!(
        w.outreach()
            .plan(&w.ctx, &plan(Audience::frozen(id)))
            .await
            .unwrap()
            .will_go,
        1
    );
    let nobody = plan(Audience::frozen(SegmentId::from(w.ids.fresh())));
    assert_eq!(
        w.outreach().plan(&w.ctx, &nobody).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn a_variable_without_a_value_stops_it_before_anything_is_queued() {
    let w = World::new().await;
    let mut members = Vec::new();
    for i in 0..250 {
        members.push(w.subscriber("Ana", &format!("p{i}@example.org")).await);
    }
    members.push(w.subscriber("", "nameless@example.org").await);
    let plan = plan(Audience::frozen(members.clone()));
    let error = w.outreach().launch(&w.ctx, &plan, |_| {}).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("variable")),
        (ErrorKind::Invalid, Some("given_name"))
    );
    assert_eq!(error.context("first"), Some(members[250].to_string().as_str()));
    assert_eq!(w.store.count(&w.ctx, &OUTBOX, &Filter::All).await.unwrap(), 0);
    let mut wrong = plan.clone();
    wrong.headers.insert("Bcc".into(), "x@example.com".into());
    wrong.audience = Audience::frozen(members[..1].to_vec());
    let error = w.outreach().launch(&w.ctx, &wrong, |_| {}).await.unwrap_err();
    assert_eq!(error.context("field"), Some("headers"));
}
