use std::sync::Arc;
use std::time::Duration;

use crm_channels::{Allowed, DispatchSettings, Mode, OutboxState, Outgoing, Priority, Redirect};
use crm_core::capability::{MailCapability, Mailer};
use crm_core::customer::EmailAddress;
use crm_core::memory::MemoryMailer;
use crm_core::message::MessageId;
use crm_core::{Clock as _, Context, Error, ErrorKind, TenantId};

use super::Phones;
use crate::common::{Held, World, email, evidence, news, receipt};

fn one_by_one() -> DispatchSettings {
    DispatchSettings {
        concurrency: 1,
        ..DispatchSettings::default()
    }
}

fn ids(mailer: &MemoryMailer) -> Vec<MessageId> {
    mailer.sent().iter().map(|mail| mail.message().id).collect()
}

#[tokio::test]
async fn the_most_urgent_goes_first_and_then_what_is_due_longest() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    let queue = |priority: Priority, wait: u64| {
        let at = w.clock.now().plus(Duration::from_secs(wait));
        let outgoing = Outgoing::email(w.mail("ana@example.org"), ana, receipt())
            .priority(priority)
            .not_before(at);
        let w = &w;
        async move { w.outreach().enqueue(&w.ctx, outgoing, vec![]).await.unwrap() }
    };
    let bulk = queue(Priority::Bulk, 0).await;
    let later = queue(Priority::Normal, 20).await;
    let sooner = queue(Priority::Normal, 10).await;
    let urgent = queue(Priority::Urgent, 30).await;
    let not_yet = queue(Priority::Urgent, 31).await;
    w.pass(30);
    let settings = one_by_one();
    let dispatcher = w.dispatcher_with(w.mailer.clone(), settings);
    assert_eq!(dispatcher.tick(&w.ctx).await.unwrap().sent, 4);
    assert_eq!(ids(&w.mailer), [urgent, sooner, later, bulk]);
    assert_eq!(w.state(not_yet).await, OutboxState::Queued);
}

#[tokio::test]
async fn messages_of_a_key_keep_their_order_whoever_sends_them() {
    let w = World::new().await;
    let (ana, bo) = (
        w.customer("Ana", "ana@example.org").await,
        w.customer("Bo", "bo@example.org").await,
    );
    let mut mine = Vec::new();
    for _ in 0..4 {
        // All in the same instant: then the id decides.
        let outgoing = Outgoing::email(w.mail("ana@example.org"), ana, receipt()).in_order();
        mine.push(w.outreach().enqueue(&w.ctx, outgoing, vec![]).await.unwrap());
    }
    let other = Outgoing::email(w.mail("bo@example.org"), bo, receipt()).in_order();
    let other = w.outreach().enqueue(&w.ctx, other, vec![]).await.unwrap();
    w.mailer
        .refuse("nobody@example.org", || Error::unexpected("not used"));
    w.mailer.fail_next(Error::new(ErrorKind::Unavailable, "busy"));
    // The first fails for now: those behind it wait with it, others do not.
    let report = w.dispatcher().tick(&w.ctx).await.unwrap();
    assert_eq!((report.retried, report.snoozed, report.sent), (1, 3, 1));
    assert_eq!(ids(&w.mailer), [other]);
    // Due again, but each dispatcher gets one at a time, the last one first.
    w.pass(60);
    let narrow = DispatchSettings {
        batch: 1,
        ..DispatchSettings::default()
    };
    for _ in 0..40 {
        let dispatcher = w.dispatcher_with(w.mailer.clone(), narrow.clone());
        dispatcher.tick(&w.ctx).await.unwrap();
        w.pass(1);
    }
    let sent: Vec<_> = ids(&w.mailer).into_iter().filter(|id| *id != other).collect();
    assert_eq!(sent, mine);
    let entry = w.outreach().message(&w.ctx, mine[3]).await.unwrap();
    assert!(entry.snoozes >= 1 && entry.attempt == 1, "{entry:?}");
}

#[tokio::test]
async fn two_dispatchers_do_not_overtake_each_other() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    for _ in 0..2 {
        let outgoing = Outgoing::email(w.mail("ana@example.org"), ana, receipt()).order_key("ana");
        w.outreach().enqueue(&w.ctx, outgoing, vec![]).await.unwrap();
    }
    let held = Held::new("slow", &w.clock);
    let narrow = DispatchSettings {
        batch: 1,
        ..DispatchSettings::default()
    };
    let slow = w.dispatcher_with(held.clone(), narrow);
    let ctx = w.ctx.clone();
    let first = tokio::spawn(async move { slow.tick(&ctx).await.unwrap() });
    held.begun.acquire().await.unwrap().forget();
    // The second is free to be claimed, but not to be sent.
    let report = w.dispatcher().tick(&w.ctx).await.unwrap();
    assert_eq!((report.claimed, report.sent, report.snoozed), (1, 0, 1));
    held.go.add_permits(1);
    assert_eq!(first.await.unwrap().sent, 1);
    w.pass(1);
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().sent, 1);
}

#[tokio::test]
async fn what_comes_too_late_is_not_sent() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    let nine = w.clock.now().plus(Duration::from_secs(3600));
    let reminder = Outgoing::email(w.mail("ana@example.org"), ana, receipt()).expires_at(nine);
    let id = w
        .outreach()
        .enqueue(&w.ctx, reminder.clone(), vec![])
        .await
        .unwrap();
    w.mailer.fail_next(Error::new(ErrorKind::Unavailable, "busy"));
    assert_eq!(w.dispatcher().tick(&w.ctx).await.unwrap().retried, 1);
    w.pass(3600);
    let report = w.dispatcher().tick(&w.ctx).await.unwrap();
    assert_eq!((report.expired, report.sent), (1, 0));
    assert_eq!(w.state(id).await, OutboxState::Expired);
    assert_eq!(w.timeline().await[0].kind, "mail.refused");
    let never = Outgoing::email(w.mail("ana@example.org"), ana, receipt())
        .not_before(nine)
        .expires_at(nine);
    let error = w.outreach().enqueue(&w.ctx, never, vec![]).await.unwrap_err();
    assert_eq!(error.context("field"), Some("expires_at"));
}

#[tokio::test]
async fn a_message_can_be_called_back_until_it_is_handed_over() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    let order = || Outgoing::email(w.mail("ana@example.org"), ana, receipt()).dedupe_key("order:1");
    let dispatcher = w.dispatcher();
    let id = w.outreach().enqueue(&w.ctx, order(), vec![]).await.unwrap();
    let taken = w.outreach().enqueue(&w.ctx, order(), vec![]).await.unwrap_err();
    assert_eq!(taken.context("index"), Some("crm_outbox_dedupe"));
    assert!(
        dispatcher
            .cancel(&w.ctx, id, "the order was taken back")
            .await
            .unwrap()
    );
    assert!(!dispatcher.cancel(&w.ctx, id, "twice").await.unwrap());
    assert_eq!(w.state(id).await, OutboxState::Cancelled);
    let news = w.timeline().await;
    assert_eq!(news.len(), 1, "the timeline says it once");
    assert_eq!(
        (news[0].kind.as_str(), news[0].customer_id),
        ("mail.refused", ana)
    );
    let why = news[0].data.get("reason").and_then(|why| why.as_str());
    assert_eq!(why, Some("cancelled: the order was taken back"));
    assert_eq!(dispatcher.tick(&w.ctx).await.unwrap().claimed, 0);
    // The order can be made anew.
    let second = w.outreach().enqueue(&w.ctx, order(), vec![]).await.unwrap();
    let third = w.enqueue(ana, "ana@example.org", receipt()).await;

    let held = Held::new("slow", &w.clock);
    let slow = w.dispatcher_with(held.clone(), one_by_one());
    let ctx = w.ctx.clone();
    let running = tokio::spawn(async move { slow.tick(&ctx).await.unwrap() });
    held.begun.acquire().await.unwrap().forget();
    // One is being handed over, the other one waits in the same dispatcher's hands.
    let error = dispatcher.cancel(&w.ctx, second, "too late").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("state")),
        (ErrorKind::Conflict, Some("leased"))
    );
    assert!(dispatcher.cancel(&w.ctx, third, "in time").await.unwrap());
    held.go.add_permits(2);
    let report = running.await.unwrap();
    assert_eq!((report.sent, report.lease_lost), (1, 1));
    assert_eq!(held.go.available_permits(), 1, "it was never handed over");
    assert_eq!(w.state(third).await, OutboxState::Cancelled);
}

#[tokio::test]
async fn staging_systems_reach_only_whom_they_may() {
    let p = Phones::new().await;
    let w = &p.w;
    let (ana, bo) = (
        w.subscriber("Ana", "ana@example.org").await,
        w.subscriber("Bo", "bo@team.example").await,
    );
    let stranger = w.customer("Cy", "cy@example.org").await;
    let recorder =
        Arc::new(MemoryMailer::new("recorder").with_capability(MailCapability::new(1 << 20, true, false)));
    let mailers = || -> Vec<Arc<dyn Mailer>> { vec![w.mailer.clone(), recorder.clone()] };
    let queue = || async {
        w.enqueue(ana, "ana@example.org", news()).await;
        w.enqueue(bo, "bo@team.example", news()).await;
        w.enqueue(stranger, "cy@example.org", news()).await;
    };
    let to = |mailer: &MemoryMailer| -> Vec<String> {
        let mut all: Vec<_> = mailer
            .sent()
            .iter()
            .map(|mail| mail.message().to.address.as_str().to_owned())
            .collect();
        all.sort();
        all
    };
    let me = EmailAddress::parse("me@dev.example").unwrap();
    queue().await;
    let mode = Mode::Redirect(Redirect {
        email: Some(me),
        phone: None,
    });
    let redirecting = w.outreach_with(mailers()).mode(mode).dispatcher().unwrap();
    let report = redirecting.tick(&w.ctx).await.unwrap();
    // Whether it may go is decided about those it was meant for.
    assert_eq!((report.sent, report.refused, report.recorded), (2, 1, 0));
    assert_eq!(to(&w.mailer), ["me@dev.example", "me@dev.example"]);
    let decision = w.mailer.sent()[0].decision().clone();
    assert!(decision.last().starts_with("redirected"), "{decision:?}");

    queue().await;
    let allowed = vec![
        Allowed::Domain("team.example".into()),
        Allowed::Address(email("other@example.org")),
    ];
    let listed = w
        .outreach_with(mailers())
        .mode(Mode::Allowlist(allowed))
        .dispatcher()
        .unwrap();
    let report = listed.tick(&w.ctx).await.unwrap();
    assert_eq!((report.sent, report.refused, report.recorded), (1, 1, 1));
    assert_eq!(
        to(&w.mailer),
        ["bo@team.example", "me@dev.example", "me@dev.example"]
    );
    assert_eq!(to(&recorder), ["ana@example.org"]);
}

#[tokio::test]
async fn the_backlog_of_one_tenant_holds_up_no_other() {
    let w = World::new().await;
    let ana = w.customer("Ana", "ana@example.org").await;
    for _ in 0..3000 {
        w.enqueue(ana, "ana@example.org", receipt()).await;
    }
    // Another tenant of the same store.
    let mut other = World::new().await;
    other.store = w.store.clone();
    other.ctx = Context::new(TenantId::new("other").unwrap());
    let bo = other.customer("Bo", "bo@example.org").await;
    other.enqueue(bo, "bo@example.org", receipt()).await;

    let dispatcher = w.dispatcher();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let tenants = [w.ctx.clone(), other.ctx.clone()];
    let running = tokio::spawn(async move {
        dispatcher
            .run_all(&tenants, async { stopped.await.unwrap() })
            .await
            .unwrap()
    });
    let place = loop {
        tokio::task::yield_now().await;
        let sent = w.mailer.sent();
        let place = sent
            .iter()
            .position(|mail| mail.message().to.address.as_str() == "bo@example.org");
        if let Some(place) = place {
            break place;
        }
        assert!(sent.len() < 3000, "it came last");
    };
    assert!(place < 300, "behind {place} others");
    stop.send(()).unwrap();
    let report = running.await.unwrap();
    assert_eq!(report.claimed, report.sent + report.released);
    // Nothing is left under a lease.
    let report = w.dispatcher().drain(&w.ctx).await.unwrap();
    assert_eq!(report.rescued, 0);
    assert_eq!(w.mailer.sent().len(), 3001);
}

#[tokio::test]
async fn who_opts_out_in_the_middle_of_a_campaign_gets_nothing_more() {
    let w = Arc::new(World::new().await);
    let mut people = Vec::new();
    for i in 0..400 {
        let address = format!("p{i}@example.org");
        let customer = w.subscriber("Ana", &address).await;
        w.enqueue(customer, &address, news()).await;
        people.push((customer, address));
    }
    let held = Held::new("held", &w.clock);
    let settings = DispatchSettings {
        batch: 400,
        concurrency: 10,
        ..DispatchSettings::default()
    };
    let dispatcher = w.dispatcher_with(held.clone(), settings);
    let ctx = w.ctx.clone();
    let running = tokio::spawn(async move { dispatcher.drain(&ctx).await.unwrap() });
    // All 400 are claimed, ten of them are being sent.
    held.begun.acquire_many(10).await.unwrap().forget();
    let mut out = Vec::new();
    for (customer, address) in people.iter().skip(3).step_by(4) {
        let address = email(address);
        w.outreach()
            .withdraw(&w.ctx, *customer, &address, &news(), evidence())
            .await
            .unwrap();
        out.push(*customer);
    }
    held.go.add_permits(1000);
    let report = running.await.unwrap();
    assert_eq!(report.sent + report.refused, 400);
    // Only those that were being sent at that moment.
    let late = 100 - report.refused;
    assert!(late <= 10, "{late} got it after they had opted out");
    assert!(report.refused >= 90, "{report:?}");
    assert_eq!(out.len(), 100);
}
