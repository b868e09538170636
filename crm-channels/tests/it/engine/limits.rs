use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crm_channels::limits::{RATE, RateRule, RateScope};
use crm_channels::{DispatchSettings, OutboxState, Outgoing, Priority};
use crm_core::capability::{SmsCapability, SmsSender};
use crm_core::memory::MemorySms;
use crm_core::message::{Permitted, Receipt, Sms, VendorTemplate};
use crm_core::query::Filter;
use crm_core::{Clock as _, Context, Error, ErrorKind, Health, Provider, ProviderInfo, Result};

use super::{Phones, code};

fn with(rule: RateRule) -> DispatchSettings {
    DispatchSettings {
        limits: vec![rule],
        ..DispatchSettings::default()
    }
}

#[tokio::test]
async fn one_number_gets_no_more_than_its_share_also_across_a_restart() {
    let p = Phones::new().await;
    let (ana, bo) = (p.customer(1).await, p.customer(2).await);
    let rule = || {
        with(
            RateRule::new("codes", RateScope::Recipient)
                .at_most(1, Duration::from_secs(60))
                .at_most(3, Duration::from_secs(3600)),
        )
    };
    for _ in 0..5 {
        p.enqueue(Outgoing::sms(p.text(1), ana, code())).await;
    }
    p.enqueue(Outgoing::sms(p.text(2), bo, code())).await;
    let mut times = Vec::new();
    let begin = p.w.clock.now();
    for second in 0..2 * 3600 {
        // A new process every time: nothing is kept but what is stored.
        if second % 20 == 0 {
            let report = p.dispatcher(rule()).tick(&p.w.ctx).await.unwrap();
            assert_eq!(report.sent + report.snoozed, report.claimed);
            times.extend((0..report.sent).map(|_| p.w.clock.now().since(begin).as_secs()));
        }
        p.w.pass(1);
    }
    assert_eq!(times, [0, 0, 60, 120, 3600, 3660]);
    let snoozed = p.sms.sent().len();
    assert_eq!(snoozed, 6);
    let keys = p.w.store.count(&p.w.ctx, &RATE, &Filter::All).await.unwrap();
    assert_eq!(keys, 2);
    let readable = Filter::contains("key", "15123");
    let readable = p.w.store.count(&p.w.ctx, &RATE, &readable).await.unwrap();
    assert_eq!(readable, 0, "numbers are only counted under their keyed hash");
    // Without the rule they would all have gone at once.
    for _ in 0..5 {
        p.enqueue(Outgoing::sms(p.text(1), ana, code())).await;
    }
    let settings = DispatchSettings {
        limits: Vec::new(),
        ..DispatchSettings::default()
    };
    assert_eq!(p.dispatcher(settings).tick(&p.w.ctx).await.unwrap().sent, 5);
}

#[tokio::test]
async fn being_put_off_uses_up_no_try() {
    let p = Phones::new().await;
    let ana = p.customer(1).await;
    let rule = RateRule::new("hourly", RateScope::Recipient).at_most(1, Duration::from_secs(3600));
    let dispatcher = p.dispatcher(with(rule));
    p.enqueue(Outgoing::sms(p.text(1), ana, code())).await;
    dispatcher.tick(&p.w.ctx).await.unwrap();
    let put_off = p.enqueue(Outgoing::sms(p.text(1), ana, code())).await;
    for _ in 0..50 {
        let first = Outgoing::sms(p.text(1), ana, code()).priority(Priority::Urgent);
        assert_eq!(dispatcher.drain(&p.w.ctx).await.unwrap().snoozed, 1);
        p.w.pass(3600);
        p.enqueue(first).await;
    }
    assert_eq!(dispatcher.drain(&p.w.ctx).await.unwrap().snoozed, 1);
    p.w.pass(3600);
    p.sms.fail_next(Error::new(ErrorKind::Unavailable, "busy"));
    assert_eq!(dispatcher.tick(&p.w.ctx).await.unwrap().retried, 1);
    let entry = p.w.outreach().message(&p.w.ctx, put_off).await.unwrap();
    assert_eq!((entry.attempt, entry.snoozes), (1, 51));
    assert_eq!(entry.errors.len(), 1, "only what went wrong is an error");
    assert_eq!(entry.errors[0].provider.as_deref(), Some("sms"));
}

#[tokio::test]
async fn what_all_need_is_counted_in_handfuls_by_processes_that_share_it() {
    let p = Phones::new().await;
    let ana = p.customer(1).await;
    for _ in 0..250 {
        p.enqueue(Outgoing::sms(p.text(1), ana, code())).await;
    }
    let rule = RateRule::new("line", RateScope::Provider).at_most(60, Duration::from_secs(1));
    let settings = DispatchSettings {
        batch: 40,
        concurrency: 7,
        ..with(rule)
    };
    let two = [p.dispatcher(settings.clone()), p.dispatcher(settings)];
    let begin = p.w.clock.now();
    let mut snoozed = 0;
    for step in 0..800 {
        let report = two[step % 2].tick(&p.w.ctx).await.unwrap();
        assert_eq!(report.errors + report.lease_lost, 0);
        snoozed += report.snoozed;
        p.w.clock.advance(Duration::from_millis(10));
    }
    let sent = p.sms.sent();
    assert_eq!(sent.len(), 250, "all went in the end");
    let mut times = Vec::new();
    for sms in &sent {
        let entry = p.w.row(sms.message().id).await;
        times.push(entry.record.timestamp("send_started_at").unwrap().since(begin));
    }
    times.sort();
    let second = Duration::from_secs(1);
    let most = times
        .iter()
        .map(|end| {
            times
                .iter()
                .filter(|t| **t <= *end && **t + second > *end)
                .count()
        })
        .max()
        .unwrap();
    assert!(most <= 60, "{most} in a second");
    assert!(times[249] < Duration::from_secs(7), "{:?}", times[249]);
    assert!(
        snoozed < 3 * 250,
        "those that wait do not come back all the time: {snoozed}"
    );
}

#[tokio::test]
async fn where_one_provider_is_full_another_one_helps_out() {
    let p = Phones::new().await;
    let ana = p.customer(1).await;
    let spare = std::sync::Arc::new(
        crm_core::memory::MemorySms::new("spare")
            .with_clock(p.w.clock.clone())
            .with_capability(crm_core::capability::SmsCapability::new(true, true)),
    );
    let rule = RateRule::new("small", RateScope::Provider)
        .provider("sms")
        .at_most(2, Duration::from_secs(3600));
    for _ in 0..5 {
        p.enqueue(Outgoing::sms(p.text(1), ana, code())).await;
    }
    let outreach = p.outreach(vec![p.sms.clone(), spare.clone()], with(rule));
    let report = outreach.dispatcher().unwrap().tick(&p.w.ctx).await.unwrap();
    assert_eq!(report.sent, 5);
    assert_eq!((p.sms.sent().len(), spare.sent().len()), (2, 3));
    let counts = outreach
        .messages_to(&p.w.ctx, ana)
        .await
        .unwrap()
        .into_iter()
        .filter(|m| m.state == OutboxState::Sent)
        .count();
    assert_eq!(counts, 5);
}

/// A vendor that puts a signature before each text: the template's, or its own.
#[derive(Debug)]
struct Signing {
    info: ProviderInfo,
    inner: Arc<MemorySms>,
}

#[async_trait]
impl Provider for Signing {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl SmsSender for Signing {
    fn capability(&self) -> SmsCapability {
        self.inner.capability()
    }
    fn sender(&self, sms: &Sms) -> Option<String> {
        let template = sms.templates.get("aliyun");
        let signed = template.and_then(|template| template.sign_name.clone());
        signed.or_else(|| Some("Shop".to_owned()))
    }
    async fn send(&self, ctx: &Context, sms: &Permitted<Sms>) -> Result<Receipt> {
        self.inner.send(ctx, sms).await
    }
}

#[tokio::test]
async fn a_signature_counts_whether_the_template_or_the_provider_names_it() {
    let p = Phones::new().await;
    let ana = p.customer(1).await;
    let signing = Arc::new(Signing {
        info: ProviderInfo::new("aliyun", "aliyun"),
        inner: p.sms.clone(),
    });
    let signed = |name: Option<&str>| {
        let mut template = VendorTemplate::new("SMS_1");
        template.sign_name = name.map(str::to_owned);
        Outgoing::sms(p.text(1).template("aliyun", template), ana, code())
    };
    let mut ids = Vec::new();
    for name in [None, Some("Shop"), Some("Warehouse"), None] {
        ids.push(p.enqueue(signed(name)).await);
    }
    // One a minute from one signature to one number, as Aliyun counts.
    let outreach = p.outreach(vec![signing], DispatchSettings::default());
    let report = outreach.dispatcher().unwrap().tick(&p.w.ctx).await.unwrap();
    assert_eq!((report.sent, report.snoozed), (2, 2));
    let mut states = Vec::new();
    for id in &ids {
        states.push(p.w.state(*id).await);
    }
    use OutboxState::{Queued, Sent};
    let warehouse = states.remove(2);
    assert_eq!(warehouse, Sent, "another signature has a count of its own");
    states.sort_unstable();
    assert_eq!(states, [Queued, Queued, Sent]);
}
