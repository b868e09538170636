use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crm_channels::campaign::Breaker;
use crm_channels::{Audience, CampaignPlan, CampaignState, DispatchSettings, OutboxState};
use crm_core::capability::{MailCapability, Mailer};
use crm_core::message::{Blame, Email, Permitted, Receipt};
use crm_core::{Clock as _, Context, Error, ErrorKind, Health, Provider, ProviderInfo, Result};

use super::{Person, Town, letter};
use crate::common::{Held, mailbox, news};

async fn town(people: usize) -> (Town, CampaignPlan) {
    let town = Town::new().await;
    let people: Vec<Person> = (0..people).map(|n| Person::by_mail("Ana", n)).collect();
    let ids = town.settle(&people).await;
    let from = mailbox("shop@example.com", "Shop");
    (
        town,
        CampaignPlan::new("spring", Audience::frozen(ids), news(), letter(), from),
    )
}

async fn states(town: &Town) -> BTreeMap<OutboxState, u64> {
    town.campaigns()
        .status(&town.w.ctx, "spring")
        .await
        .unwrap()
        .counts
}

#[tokio::test]
async fn a_paused_campaign_holds_what_is_queued_and_goes_on_where_it_was() {
    let (town, plan) = town(30).await;
    let (campaigns, ctx) = (town.campaigns(), &town.w.ctx);
    town.outreach().launch(ctx, &plan, |_| {}).await.unwrap();
    let paused = campaigns.pause(ctx, "spring", "a typo").await.unwrap();
    assert_eq!(
        (paused.state, paused.reason.as_deref()),
        (CampaignState::Paused, Some("a typo"))
    );
    assert_eq!(states(&town).await, BTreeMap::from([(OutboxState::Held, 30)]));
    let dispatcher = town.outreach().dispatcher().unwrap();
    assert_eq!(dispatcher.drain(ctx).await.unwrap().claimed, 0);
    let error = town.outreach().launch(ctx, &plan, |_| {}).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context("reason")),
        (ErrorKind::Conflict, Some("a typo"))
    );
    let status = campaigns.status(ctx, "spring").await.unwrap();
    assert!(!status.is_finished() && status.reason.as_deref() == Some("a typo"));
    // Pausing and resuming twice changes nothing.
    campaigns.pause(ctx, "spring", "again").await.unwrap();
    assert_eq!(
        campaigns.get(ctx, "spring").await.unwrap().reason.as_deref(),
        Some("a typo")
    );
    for _ in 0..2 {
        assert_eq!(
            campaigns.resume(ctx, "spring").await.unwrap().state,
            CampaignState::Running
        );
    }
    assert_eq!(dispatcher.drain(ctx).await.unwrap().sent, 30);
    assert_eq!(campaigns.tick(ctx, |_, _| {}).await.unwrap().finished, ["spring"]);
    for error in [
        campaigns.pause(ctx, "spring", "late").await.unwrap_err(),
        campaigns.resume(ctx, "spring").await.unwrap_err(),
        campaigns.cancel(ctx, "spring", "late").await.unwrap_err(),
    ] {
        assert_eq!(
            (error.kind(), error.context("state")),
            (ErrorKind::Conflict, Some("finished"))
        );
    }
    let error = campaigns.pause(ctx, "nothing", "").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_cancelled_campaign_sends_nothing_more() {
    let (town, plan) = town(30).await;
    let (campaigns, ctx) = (town.campaigns(), &town.w.ctx);
    town.outreach().launch(ctx, &plan, |_| {}).await.unwrap();
    let held = Held::new("held", &town.w.clock);
    let settings = DispatchSettings {
        concurrency: 4,
        ..DispatchSettings::default()
    };
    let dispatcher = town.w.dispatcher_with(held.clone(), settings);
    let at_work = {
        let ctx = ctx.clone();
        tokio::spawn(async move { dispatcher.tick(&ctx).await.unwrap() })
    };
    // Four are being sent, the dispatcher has taken the others too.
    held.begun.acquire_many(4).await.unwrap().forget();
    let cancelled = campaigns.cancel(ctx, "spring", "wrong price").await.unwrap();
    assert_eq!(cancelled.state, CampaignState::Cancelled);
    held.go.add_permits(30);
    let report = at_work.await.unwrap();
    assert_eq!((report.sent, report.cancelled), (4, 26), "{report:?}");
    assert_eq!(
        states(&town).await,
        BTreeMap::from([(OutboxState::Sent, 4), (OutboxState::Cancelled, 26)])
    );
    let status = campaigns.status(ctx, "spring").await.unwrap();
    assert_eq!(status.refusals, BTreeMap::from([("campaign".to_owned(), 26)]));
    // Everybody's timeline says what became of theirs, once.
    let kinds = town
        .w
        .timeline()
        .await
        .into_iter()
        .fold(BTreeMap::new(), |mut n, i| {
            *n.entry(i.kind).or_insert(0) += 1;
            n
        });
    assert_eq!(
        kinds,
        BTreeMap::from([("mail.accepted".to_owned(), 4), ("mail.refused".to_owned(), 26)])
    );
    assert_eq!(
        campaigns.start(ctx, "spring", |_| {}).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    town.queue().await;
    assert_eq!(town.rows("spring").await.len(), 30);
}

#[tokio::test]
async fn what_a_dispatcher_has_already_taken_waits_too() {
    let (town, plan) = town(30).await;
    let (campaigns, ctx) = (town.campaigns(), &town.w.ctx);
    town.outreach().launch(ctx, &plan, |_| {}).await.unwrap();
    let held = Held::new("held", &town.w.clock);
    let settings = DispatchSettings {
        concurrency: 4,
        ..DispatchSettings::default()
    };
    let dispatcher = town.w.dispatcher_with(held.clone(), settings);
    let at_work = {
        let ctx = ctx.clone();
        tokio::spawn(async move { dispatcher.tick(&ctx).await.unwrap() })
    };
    held.begun.acquire_many(4).await.unwrap().forget();
    campaigns.pause(ctx, "spring", "a typo").await.unwrap();
    held.go.add_permits(30);
    let report = at_work.await.unwrap();
    assert_eq!((report.sent, report.snoozed), (4, 26), "{report:?}");
    let entry = town
        .outreach()
        .message(ctx, town.rows("spring").await[29].id.into())
        .await
        .unwrap();
    assert_eq!(
        entry.attempt,
        i64::from(entry.state == OutboxState::Sent),
        "no try is used up"
    );
    // They came back into the queue after it was paused: a tick holds them.
    campaigns.tick(ctx, |_, _| {}).await.unwrap();
    assert_eq!(states(&town).await[&OutboxState::Held], 26);
    campaigns.resume(ctx, "spring").await.unwrap();
    town.w.pass(31);
    assert_eq!(
        town.outreach()
            .dispatcher()
            .unwrap()
            .drain(ctx)
            .await
            .unwrap()
            .sent,
        26
    );
}

/// A mailer that takes its time.
#[derive(Debug)]
struct Slow(Arc<crm_core::memory::MemoryMailer>);

#[async_trait]
impl Provider for Slow {
    fn info(&self) -> &ProviderInfo {
        self.0.info()
    }
    async fn check(&self) -> Result<Health> {
        self.0.check().await
    }
}

#[async_trait]
impl Mailer for Slow {
    fn capability(&self) -> MailCapability {
        self.0.capability()
    }
    async fn send(&self, ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        tokio::time::sleep(Duration::from_millis(60)).await;
        self.0.send(ctx, mail).await
    }
}

/// Dispatchers at work on 3,000 messages; `pause` or not, after some were sent. How many were sent when that was done, and
/// how many in the end.
async fn under_load(pause: bool) -> (usize, usize) {
    let (town, plan) = town(3000).await;
    let ctx = town.w.ctx.clone();
    town.outreach().launch(&ctx, &plan, |_| {}).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let work: Vec<_> = (0..3)
        .map(|_| {
            let slow = Arc::new(Slow(town.w.mailer.clone()));
            let dispatcher = town.w.dispatcher_with(slow, DispatchSettings::default());
            let (ctx, mut stopped) = (ctx.clone(), stopped.clone());
            tokio::spawn(async move {
                dispatcher
                    .run(&ctx, async move { drop(stopped.wait_for(|stop| *stop).await) })
                    .await
                    .unwrap()
            })
        })
        .collect();
    while town.w.mailer.sent().len() < 500 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if pause {
        town.campaigns().pause(&ctx, "spring", "a typo").await.unwrap();
    }
    let at = town.w.mailer.sent().len();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let later = town.w.mailer.sent().len();
    stop.send(true).unwrap();
    for work in work {
        work.await.unwrap();
    }
    if pause {
        town.campaigns().resume(&ctx, "spring").await.unwrap();
        town.w.pass(60);
        town.outreach().dispatcher().unwrap().drain(&ctx).await.unwrap();
        let mut to: Vec<String> = town
            .w
            .mailer
            .sent()
            .iter()
            .map(|mail| mail.message().to.address.as_str().to_owned())
            .collect();
        to.sort();
        to.dedup();
        assert_eq!(
            (to.len(), town.w.mailer.sent().len()),
            (3000, 3000),
            "everybody, once"
        );
    }
    (at, later)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_begun_after_a_pause_under_load() {
    let in_flight = 3 * DispatchSettings::default().concurrency;
    let (at, later) = under_load(true).await;
    assert!(
        later <= at + in_flight,
        "{at} sent when it was paused, {later} later"
    );
    // Without the pause the same check fails: it would be seen.
    let (at, later) = under_load(false).await;
    assert!(later > at + in_flight, "{at} and {later}: nothing was going on");
}

#[tokio::test]
async fn bounces_and_complaints_pause_it() {
    let (town, mut plan) = town(400).await;
    plan.breaker = Breaker {
        bounces: 0.05,
        complaints: 0.01,
        sample: 50,
        ..Breaker::default()
    };
    let (campaigns, ctx) = (town.campaigns(), &town.w.ctx);
    for n in (0..400).step_by(10) {
        town.w.mailer.refuse(format!("p{n}@example.org"), || {
            Error::invalid("there is no such mailbox")
        });
    }
    town.outreach().launch(ctx, &plan, |_| {}).await.unwrap();
    let settings = DispatchSettings {
        batch: 40,
        ..DispatchSettings::default()
    };
    let dispatcher = town.outreach().settings(settings).dispatcher().unwrap();
    dispatcher.tick(ctx).await.unwrap();
    assert!(
        campaigns.tick(ctx, |_, _| {}).await.unwrap().paused.is_empty(),
        "40 are no sample"
    );
    dispatcher.tick(ctx).await.unwrap();
    let tick = campaigns.tick(ctx, |_, _| {}).await.unwrap();
    let (name, why) = &tick.paused[0];
    assert_eq!(name, "spring");
    assert_eq!(
        why,
        "breaker: 10.00 % of 80 messages did not arrive, more than 5.00 %"
    );
    let status = campaigns.status(ctx, "spring").await.unwrap();
    assert_eq!(
        (status.state, status.reason.as_ref()),
        (Some(CampaignState::Paused), Some(why))
    );
    assert!((status.all.bounce_rate() - 0.1).abs() < 1e-9);
    assert_eq!(dispatcher.tick(ctx).await.unwrap().claimed, 0);

    // Resumed by somebody who looked into it: what was counted does not count again, what comes does.
    campaigns.resume(ctx, "spring").await.unwrap();
    assert!(campaigns.tick(ctx, |_, _| {}).await.unwrap().paused.is_empty());
    dispatcher.tick(ctx).await.unwrap();
    assert!(campaigns.tick(ctx, |_, _| {}).await.unwrap().paused.is_empty());
    dispatcher.tick(ctx).await.unwrap();
    assert_eq!(campaigns.tick(ctx, |_, _| {}).await.unwrap().paused.len(), 1);
}

#[tokio::test]
async fn complaints_count_too_and_a_breaker_can_be_left_out() {
    for (breaker, paused) in [(None, 1), (Some(Breaker::NEVER), 0)] {
        let (town, mut plan) = town(100).await;
        plan.breaker = breaker.unwrap_or(Breaker {
            sample: 50,
            ..Breaker::default()
        });
        let (campaigns, ctx) = (town.campaigns(), &town.w.ctx);
        town.outreach().launch(ctx, &plan, |_| {}).await.unwrap();
        town.outreach().dispatcher().unwrap().drain(ctx).await.unwrap();
        let row = town.rows("spring").await.remove(7);
        let mut record = row.record;
        record.set("delivery", "complained").unwrap();
        let write = crm_core::record::Write::update(row.id, row.version, record);
        town.w.store.apply(ctx, &[write]).await.unwrap();
        let tick = campaigns.tick(ctx, |_, _| {}).await.unwrap();
        assert_eq!(tick.paused.len(), paused, "{tick:?}");
    }
}

/// What is refused for what it says or for who we are is refused for everybody: no share is waited for.
#[tokio::test]
async fn refusals_on_our_own_account_pause_it_soon() {
    for (blame, refusals, paused) in [
        (Blame::Sender, 20, true),
        (Blame::Content, 20, true),
        (Blame::Sender, 1000, false),
        // Their own mailboxes: a matter of shares.
        (Blame::Recipient, 20, false),
    ] {
        let (town, mut plan) = town(120).await;
        plan.breaker.refusals = refusals;
        let (campaigns, ctx) = (town.campaigns(), &town.w.ctx);
        for n in 0..120 {
            let refused = move || {
                Error::new(ErrorKind::PermissionDenied, "the server's policy refuses it").blame(blame)
            };
            town.w.mailer.refuse(format!("p{n}@example.org"), refused);
        }
        town.outreach().launch(ctx, &plan, |_| {}).await.unwrap();
        let settings = DispatchSettings {
            batch: 20,
            ..DispatchSettings::default()
        };
        let dispatcher = town.outreach().settings(settings).dispatcher().unwrap();
        assert_eq!(dispatcher.tick(ctx).await.unwrap().failed, 20);
        assert!(campaigns.tick(ctx, |_, _| {}).await.unwrap().paused.is_empty());
        dispatcher.tick(ctx).await.unwrap();
        let tick = campaigns.tick(ctx, |_, _| {}).await.unwrap();
        assert_eq!(!tick.paused.is_empty(), paused, "{blame}: {tick:?}");
        if paused {
            assert!(
                tick.paused[0].1.starts_with("breaker: 40 messages were refused"),
                "{tick:?}"
            );
            // Resumed by somebody who mended it: only what comes now counts.
            campaigns.resume(ctx, "spring").await.unwrap();
            assert!(campaigns.tick(ctx, |_, _| {}).await.unwrap().paused.is_empty());
        }
    }
}

#[tokio::test]
async fn a_rehearsal_is_recorded_whatever_the_mode() {
    let (town, mut plan) = town(5).await;
    plan.rehearsal = true;
    town.outreach().launch(&town.w.ctx, &plan, |_| {}).await.unwrap();
    let report = town
        .outreach()
        .dispatcher()
        .unwrap()
        .drain(&town.w.ctx)
        .await
        .unwrap();
    assert_eq!((report.recorded, report.sent), (5, 0));
    assert!(town.w.mailer.sent().is_empty());
}

#[tokio::test]
async fn campaigns_are_listed_and_run_in_a_task_of_the_hosts() {
    let (town, plan) = town(5).await;
    let (campaigns, ctx) = (
        town.campaigns().every(Duration::from_millis(5)),
        town.w.ctx.clone(),
    );
    campaigns.create(&ctx, &plan).await.unwrap();
    assert_eq!(
        campaigns.list(&ctx, &[]).await.unwrap(),
        [("spring".to_owned(), CampaignState::Draft)]
    );
    assert!(
        campaigns
            .list(&ctx, &[CampaignState::Running])
            .await
            .unwrap()
            .is_empty()
    );
    campaigns.start(&ctx, "spring", |_| {}).await.unwrap();
    let dispatcher = town.outreach().dispatcher().unwrap();
    let (done, finished) = tokio::sync::oneshot::channel::<()>();
    let mut done = Some(done);
    let seen = Arc::new(std::sync::Mutex::new(0));
    let running = campaigns.run(&ctx, async { drop(finished.await) }, |name, found| {
        assert_eq!(name, "spring");
        *seen.lock().unwrap() = found.members;
    });
    let sending = async {
        loop {
            dispatcher.drain(&ctx).await.unwrap();
            if town.campaigns().get(&ctx, "spring").await.unwrap().state == CampaignState::Finished {
                drop(done.take());
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (ran, ()) = tokio::join!(running, sending);
    ran.unwrap();
    assert_eq!((*seen.lock().unwrap(), town.w.mailer.sent().len()), (5, 5));
    assert_eq!(
        town.campaigns().get(&ctx, "spring").await.unwrap().finished_at,
        Some(town.w.clock.now())
    );
}
