use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use crm_channels::{DispatchSettings, OutboxState, Outgoing};
use crm_core::capability::{SmsCapability, SmsSender};
use crm_core::message::{DeliveryState, Permitted, Receipt, Sms, VendorTemplate};
use crm_core::{Clock as _, Context, Error, ErrorKind, Health, ManualClock, Provider, ProviderInfo, Result};

use super::{Phones, code, number};
use crate::common::receipt;

#[tokio::test]
async fn all_channels_go_through_one_outbox() {
    let p = Phones::new().await;
    let ana = p.customer(1).await;
    let ids = [
        p.enqueue(Outgoing::sms(p.text(1), ana, code())).await,
        p.enqueue(Outgoing::voice(p.call(1), ana, code())).await,
        p.enqueue(Outgoing::email(p.w.mail("ana1@example.org"), ana, receipt()))
            .await,
    ];
    let report = p
        .dispatcher(DispatchSettings::default())
        .tick(&p.w.ctx)
        .await
        .unwrap();
    assert_eq!((report.claimed, report.sent), (3, 3));
    assert_eq!(
        (
            p.sms.sent().len(),
            p.voice.called().len(),
            p.w.mailer.sent().len()
        ),
        (1, 1, 1)
    );
    assert_eq!(p.sms.sent()[0].message().id, ids[0]);
    let mut kinds: Vec<String> = p.w.timeline().await.into_iter().map(|i| i.kind).collect();
    kinds.sort();
    assert_eq!(kinds, ["call.accepted", "mail.accepted", "sms.accepted"]);
    let entry = p.w.outreach().message(&p.w.ctx, ids[1]).await.unwrap();
    assert_eq!(
        (entry.channel.as_str(), entry.provider.as_deref(), entry.attempt),
        ("voice", Some("voice"), 1)
    );
    assert_eq!(entry.delivery, Some(DeliveryState::Accepted));
    assert!(entry.provider_ref.is_some());
}

#[tokio::test]
async fn nobody_is_texted_or_called_twice_and_the_vendor_is_asked() {
    let p = Phones::new().await;
    let ana = p.customer(1).await;
    let text = p.enqueue(Outgoing::sms(p.text(1), ana, code())).await;
    let call = p.enqueue(Outgoing::voice(p.call(1), ana, code())).await;
    p.sms.lose_next_answer();
    p.voice.lose_next_answer();
    let dispatcher = p.dispatcher(DispatchSettings::default());
    assert_eq!(dispatcher.tick(&p.w.ctx).await.unwrap().unknown.len(), 2);
    // One more that the vendor never got.
    let lost = Error::new(ErrorKind::Timeout, "no answer").effect_unknown();
    p.sms.fail_next(lost);
    let never = p.enqueue(Outgoing::sms(p.text(1), ana, code())).await;
    assert_eq!(dispatcher.tick(&p.w.ctx).await.unwrap().unknown, vec![never]);
    p.w.pass(7 * 24 * 3600);
    assert_eq!(dispatcher.drain(&p.w.ctx).await.unwrap().claimed, 0);
    assert_eq!((p.sms.sent().len(), p.voice.called().len()), (1, 1));

    let report = dispatcher.reconcile(&p.w.ctx).await.unwrap();
    assert_eq!((report.asked, report.sent, report.later), (3, 2, 0));
    assert_eq!(report.not_found, vec![never]);
    for id in [text, call] {
        let entry = p.w.outreach().message(&p.w.ctx, id).await.unwrap();
        assert_eq!(entry.state, OutboxState::Sent);
        assert!(entry.delivery >= Some(DeliveryState::Accepted) && entry.provider_ref.is_some());
    }
    assert_eq!(p.w.state(never).await, OutboxState::Unknown, "a person decides");
    // Asked once more, nothing happens twice.
    let before = p.w.timeline().await.len();
    assert_eq!(dispatcher.reconcile(&p.w.ctx).await.unwrap().asked, 1);
    assert_eq!(p.w.timeline().await.len(), before);
    assert!(dispatcher.requeue(&p.w.ctx, never).await.unwrap());
    assert_eq!(dispatcher.tick(&p.w.ctx).await.unwrap().sent, 1);
}

/// A vendor that takes many in one call, and only templates of its own.
#[derive(Debug)]
struct Batched {
    info: ProviderInfo,
    clock: Arc<ManualClock>,
    calls: Mutex<Vec<usize>>,
    /// Answers that are left out, and the error of the first one.
    short: usize,
    first: Mutex<Option<Error>>,
}

impl Batched {
    fn new(p: &Phones, short: usize, first: Option<Error>) -> Arc<Self> {
        Arc::new(Self {
            info: ProviderInfo::new("aliyun", "batched"),
            clock: p.w.clock.clone(),
            calls: Mutex::default(),
            short,
            first: Mutex::new(first),
        })
    }
}

#[async_trait]
impl Provider for Batched {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl SmsSender for Batched {
    fn capability(&self) -> SmsCapability {
        SmsCapability::new(false, true).with_batch(3)
    }
    async fn send(&self, _ctx: &Context, _sms: &Permitted<Sms>) -> Result<Receipt> {
        Err(Error::unexpected("they go together"))
    }
    async fn send_many(&self, _ctx: &Context, all: &[Permitted<Sms>]) -> Result<Vec<Result<Receipt>>> {
        self.calls.lock().unwrap().push(all.len());
        let receipt = |sms: &Permitted<Sms>| {
            Receipt::new(
                self.info.name.clone(),
                sms.message().id.to_string(),
                self.clock.now(),
            )
        };
        let mut answers: Vec<_> = all.iter().map(|sms| Ok(receipt(sms))).collect();
        if let Some(error) = self.first.lock().unwrap().take() {
            answers[0] = Err(error);
        }
        answers.truncate(all.len() - self.short.min(all.len()));
        Ok(answers)
    }
}

#[tokio::test]
async fn what_a_vendor_takes_together_goes_together_and_each_has_an_answer_of_its_own() {
    let p = Phones::new().await;
    let mut ids = Vec::new();
    for n in 1..=8 {
        let ana = p.customer(n).await;
        let mut text = p.text(n);
        if n <= 7 {
            text = text.template("aliyun", VendorTemplate::new("SMS_1"));
        }
        ids.push(p.enqueue(Outgoing::sms(text, ana, code())).await);
    }
    let refused = Error::new(ErrorKind::RateLimited, "not this one");
    let vendor = Batched::new(&p, 0, Some(refused));
    let settings = DispatchSettings {
        limits: Vec::new(),
        ..DispatchSettings::default()
    };
    let outreach = p.outreach(vec![vendor.clone(), p.sms.clone()], settings);
    let report = outreach.dispatcher().unwrap().tick(&p.w.ctx).await.unwrap();
    assert_eq!(report.sent, 8);
    assert_eq!(*vendor.calls.lock().unwrap(), [3, 3, 1]);
    // The one without a template, and the one the first vendor certainly did nothing about.
    let mut others: Vec<_> = p.sms.sent().iter().map(|sms| sms.message().id).collect();
    others.sort();
    let mut expected = vec![ids[0], ids[7]];
    expected.sort();
    assert_eq!(others, expected);
}

#[tokio::test]
async fn an_answer_too_few_is_an_answer_that_was_lost() {
    let p = Phones::new().await;
    let mut ids = Vec::new();
    for n in 1..=3 {
        let ana = p.customer(n).await;
        let text = p.text(n).template("aliyun", VendorTemplate::new("SMS_1"));
        ids.push(p.enqueue(Outgoing::sms(text, ana, code())).await);
    }
    let vendor = Batched::new(&p, 1, None);
    let outreach = p.outreach(vec![vendor, p.sms.clone()], DispatchSettings::default());
    let report = outreach.dispatcher().unwrap().tick(&p.w.ctx).await.unwrap();
    assert_eq!((report.sent, report.unknown), (2, vec![ids[2]]));
    assert_eq!(p.sms.sent().len(), 0, "nobody helps out after an unknown outcome");
    assert_eq!(number(3).country().as_deref(), Some("DE"));
}
