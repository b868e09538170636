//! The suites of what goes to a telephone and of what comes in from outside can fail: providers with one fault each, and the
//! properties that must find it.

use std::sync::Arc;

use async_trait::async_trait;
use crm_core::capability::{
    SmsCapability, SmsSender, VoiceCaller, VoiceCapability, WebhookReply, WebhookRequest, WebhookSource,
};
use crm_core::memory::{MemorySms, MemoryVoice};
use crm_core::message::{
    Blame, DeliveryEvent, DeliveryState, InboundEvent, Lookup, Permitted, Receipt, Sms, VoiceCall,
};
use crm_core::testkit::{fixtures, sms, voice, webhook};
use crm_core::{Context, Error, Health, Provider, ProviderInfo, Result, Timestamp};

use crate::broken::panics;

/// What is wrong with a sender of text messages or a caller.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lapse {
    None,
    IsNotReady,
    SignsForAnother,
    PutsNumbersInReceipts,
    RepeatsReferences,
    SendsNothing,
    RetriesNothing,
    TellsTheNumber,
    ClaimsTemplatesOnly,
    LosesTheBatchWithOne,
    AnswersTooFew,
    MixesUpTheOrder,
    KnowsEverything,
    KnowsNothing,
    LooksUpUnasked,
}

/// A sender and caller with one lapse.
#[derive(Debug)]
struct Lapsing {
    sms: MemorySms,
    voice: MemoryVoice,
    lapse: Lapse,
}

impl Lapsing {
    fn new(lapse: Lapse) -> Arc<Self> {
        Arc::new(Self {
            sms: MemorySms::new("lapsing"),
            voice: MemoryVoice::new("lapsing"),
            lapse,
        })
    }

    fn receipt(&self, mut receipt: Receipt, number: &str) -> Receipt {
        match self.lapse {
            Lapse::SignsForAnother => receipt.provider = "someone".into(),
            Lapse::PutsNumbersInReceipts => receipt.detail = Some(format!("sent to {number}")),
            Lapse::RepeatsReferences => receipt.provider_ref = "always the same".into(),
            _ => {}
        }
        receipt
    }

    fn refused(&self, error: Error, number: &str) -> Result<Receipt> {
        let receipt = || Receipt::new("lapsing", "nothing", Timestamp::EPOCH);
        match self.lapse {
            Lapse::SendsNothing => Ok(receipt()),
            Lapse::RetriesNothing => Err(error.with_retry(crm_core::Retry::Allowed { after: None })),
            Lapse::TellsTheNumber => Err(error.with("to", number)),
            _ => Err(error),
        }
    }

    fn found(&self, lookup: &Lookup, found: Result<Vec<DeliveryEvent>>) -> Result<Vec<DeliveryEvent>> {
        match self.lapse {
            Lapse::KnowsNothing => Ok(Vec::new()),
            Lapse::KnowsEverything => Ok(vec![DeliveryEvent {
                provider: "lapsing".into(),
                event_id: "1".into(),
                message_id: Some(lookup.message_id),
                provider_ref: None,
                recipient: None,
                state: DeliveryState::Delivered,
                at: Timestamp::EPOCH,
                code: None,
                reason: None,
                blame: Blame::Nobody,
            }]),
            _ => found,
        }
    }
}

#[async_trait]
impl Provider for Lapsing {
    fn info(&self) -> &ProviderInfo {
        self.sms.info()
    }
    async fn check(&self) -> Result<Health> {
        Ok(if self.lapse == Lapse::IsNotReady {
            Health::Degraded
        } else {
            Health::Ready
        })
    }
}

#[async_trait]
impl SmsSender for Lapsing {
    fn capability(&self) -> SmsCapability {
        let plain = SmsCapability::new(self.lapse != Lapse::ClaimsTemplatesOnly, false).with_batch(3);
        if self.lapse == Lapse::LooksUpUnasked {
            plain
        } else {
            plain.with_lookup()
        }
    }
    async fn send(&self, ctx: &Context, sms: &Permitted<Sms>) -> Result<Receipt> {
        let number = sms.message().to.as_str().to_owned();
        match self.sms.send(ctx, sms).await {
            Ok(receipt) => Ok(self.receipt(receipt, &number)),
            Err(error) => self.refused(error, &number),
        }
    }
    async fn send_many(&self, ctx: &Context, all: &[Permitted<Sms>]) -> Result<Vec<Result<Receipt>>> {
        let mut answers = Vec::new();
        for sms in all {
            let answer = self.send(ctx, sms).await;
            if self.lapse == Lapse::LosesTheBatchWithOne && answer.is_err() {
                return answer.map(|_| Vec::new());
            }
            answers.push(answer);
        }
        match self.lapse {
            Lapse::AnswersTooFew => {
                answers.pop();
            }
            Lapse::MixesUpTheOrder => answers.reverse(),
            _ => {}
        }
        Ok(answers)
    }
    async fn lookup(&self, ctx: &Context, lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        self.found(lookup, self.sms.lookup(ctx, lookup).await)
    }
}

#[async_trait]
impl VoiceCaller for Lapsing {
    fn capability(&self) -> VoiceCapability {
        let plain = VoiceCapability::new(self.lapse != Lapse::ClaimsTemplatesOnly, false);
        if self.lapse == Lapse::LooksUpUnasked {
            plain
        } else {
            plain.with_lookup()
        }
    }
    async fn call(&self, ctx: &Context, call: &Permitted<VoiceCall>) -> Result<Receipt> {
        let number = call.message().to.as_str().to_owned();
        match self.voice.call(ctx, call).await {
            Ok(receipt) => Ok(self.receipt(receipt, &number)),
            Err(error) => self.refused(error, &number),
        }
    }
    async fn lookup(&self, ctx: &Context, lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        self.found(lookup, self.voice.lookup(ctx, lookup).await)
    }
}

crm_core::sms_suite!(without_a_lapse, async {
    Lapsing::new(Lapse::None) as Arc<dyn SmsSender>
});

#[tokio::test]
async fn every_lapse_of_a_sender_is_found() {
    macro_rules! found {
        ($($lapse:ident by $($case:ident),+;)+) => {$($(
            assert!(
                panics(sms::$case(Lapsing::new(Lapse::$lapse), fixtures::sms(1))).await,
                "{} does not find {:?}", stringify!($case), Lapse::$lapse
            );
        )+)+};
    }
    found! {
        IsNotReady by it_says_who_it_is;
        SignsForAnother by a_receipt_says_who_took_it;
        PutsNumbersInReceipts by a_receipt_says_who_took_it;
        RepeatsReferences by every_message_has_its_own_reference, more_than_a_batch_is_taken, tenants_share_it;
        SendsNothing by nothing_to_say_is_refused, many_have_an_answer_each;
        RetriesNothing by nothing_to_say_is_refused;
        TellsTheNumber by nothing_to_say_is_refused;
        ClaimsTemplatesOnly by a_sender_of_templates_takes_no_text;
        LosesTheBatchWithOne by many_have_an_answer_each;
        AnswersTooFew by many_have_an_answer_each, more_than_a_batch_is_taken;
        MixesUpTheOrder by many_have_an_answer_each;
        KnowsEverything by what_was_never_sent_is_not_found;
        KnowsNothing by what_was_taken_can_be_looked_up;
        LooksUpUnasked by what_was_taken_can_be_looked_up;
    }
}

#[tokio::test]
async fn every_lapse_of_a_caller_is_found() {
    macro_rules! found {
        ($($lapse:ident by $($case:ident),+;)+) => {$($(
            assert!(
                panics(voice::$case(Lapsing::new(Lapse::$lapse), fixtures::call(1))).await,
                "{} does not find {:?}", stringify!($case), Lapse::$lapse
            );
        )+)+};
    }
    found! {
        IsNotReady by it_says_who_it_is;
        SignsForAnother by a_receipt_says_who_took_it;
        PutsNumbersInReceipts by a_receipt_says_who_took_it;
        RepeatsReferences by every_call_has_its_own_reference, tenants_share_it;
        SendsNothing by a_call_of_nothing_is_refused;
        RetriesNothing by a_call_of_nothing_is_refused;
        TellsTheNumber by a_call_of_nothing_is_refused;
        ClaimsTemplatesOnly by a_caller_of_templates_speaks_no_text;
        KnowsEverything by what_was_never_called_is_not_found;
        KnowsNothing by what_was_taken_can_be_looked_up;
        LooksUpUnasked by what_was_taken_can_be_looked_up;
    }
}

/// What is wrong with a source of webhooks.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Credulity {
    None,
    RefusesWhatItStored,
    BelievesEverybody,
    ReadsBeforeItChecks,
    NamesNewsAnew,
    NamesNothing,
    WantsGarbageAgain,
    PanicsAtGarbage,
    HasNoLimit,
}

/// Takes `token:reference` as a body, with one fault.
#[derive(Debug)]
struct Credulous(ProviderInfo, Credulity, std::sync::atomic::AtomicU32);

fn credulous(fault: Credulity) -> Arc<dyn WebhookSource> {
    Arc::new(Credulous(
        ProviderInfo::new("kit", "kit"),
        fault,
        Default::default(),
    ))
}

#[async_trait]
impl Provider for Credulous {
    fn info(&self) -> &ProviderInfo {
        &self.0
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl WebhookSource for Credulous {
    async fn receive(&self, request: &WebhookRequest) -> Result<Vec<InboundEvent>> {
        let is = |fault| self.1 == fault;
        if request.body.len() > 1000 && !is(Credulity::HasNoLimit) {
            return Err(Error::invalid("too large").with("most", 1000));
        }
        let body = match std::str::from_utf8(&request.body) {
            Ok(body) => body,
            Err(_) if is(Credulity::PanicsAtGarbage) => panic!("garbage"),
            Err(_) if is(Credulity::WantsGarbageAgain) => {
                return Err(Error::new(crm_core::ErrorKind::Unavailable, "garbage"));
            }
            Err(_) => return Err(Error::invalid("not UTF-8")),
        };
        let (token, reference) = body.split_once(':').unwrap_or_default();
        if token != "s3cret" && !is(Credulity::BelievesEverybody) {
            let error = Error::new(crm_core::ErrorKind::Unauthenticated, "who are you");
            return Err(if is(Credulity::ReadsBeforeItChecks) {
                error.with("body", body)
            } else {
                error
            });
        }
        let turn = self.2.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let event_id = match self.1 {
            Credulity::NamesNewsAnew => turn.to_string(),
            Credulity::NamesNothing => String::new(),
            _ => reference.to_owned(),
        };
        Ok(vec![InboundEvent::Delivery(DeliveryEvent {
            provider: "kit".into(),
            event_id,
            message_id: None,
            provider_ref: Some(reference.to_owned()),
            recipient: None,
            state: DeliveryState::Delivered,
            at: Timestamp::EPOCH,
            code: None,
            reason: None,
            blame: Blame::Nobody,
        })])
    }
    fn accepted(&self) -> WebhookReply {
        let status = if self.1 == Credulity::RefusesWhatItStored {
            500
        } else {
            204
        };
        WebhookReply::new(status, "text/plain", "")
    }
}

fn webhook_sample() -> webhook::Sample {
    let request = |body: &str| WebhookRequest::post("https://crm.example/hook".parse().unwrap(), body);
    webhook::Sample {
        genuine: request("s3cret:1"),
        forged: vec![request("guess:1"), request("")],
    }
}

crm_core::webhook_suite!(
    without_credulity,
    async { credulous(Credulity::None) },
    webhook_sample()
);

#[tokio::test]
async fn every_fault_of_a_webhook_source_is_found() {
    macro_rules! found {
        ($($fault:ident by $($case:ident),+;)+) => {$($(
            assert!(
                panics(webhook::$case(credulous(Credulity::$fault), webhook_sample())).await,
                "{} does not find {:?}", stringify!($case), Credulity::$fault
            );
        )+)+};
    }
    found! {
        RefusesWhatItStored by it_says_who_it_is;
        BelievesEverybody by what_is_forged_is_refused;
        ReadsBeforeItChecks by what_is_forged_is_refused;
        NamesNewsAnew by a_replay_says_the_same;
        NamesNothing by what_is_genuine_is_read;
        WantsGarbageAgain by garbage_is_refused_in_good_order;
        PanicsAtGarbage by garbage_is_refused_in_good_order;
        HasNoLimit by what_is_too_large_is_refused;
    }
}
