use async_trait::async_trait;
use crm_core::capability::{SmsCapability, SmsSender};
use crm_core::message::{Blame, DeliveryEvent, DeliveryState, Lookup, Permitted, Receipt, Sms};
use crm_core::{Context, Effect, Error, Result};
use std::collections::BTreeSet;

use super::config::{AliyunConfig, Service};
use super::error::receipt_blame;
use super::wire::{self, Detail};
use super::{LATE, Line, named, repeated};
use crate::exchange::{china, shown};

/// How many go in one call.
const BATCH: usize = 100;
/// Pages of details that are read at most: the vendor lets a number have fewer messages a day than these hold.
const PAGES: u32 = 4;

/// Sends SMS through Aliyun's `SendSms`, several at once through `SendBatchSms`.
///
/// Messages of a batch share one reference (`BizId`); which one news are about is told by the recipient, so no number is
/// twice in a batch. A batch that is refused because of one message is sent one by one.
pub struct AliyunSms(pub(super) Line);

impl AliyunSms {
    /// A sender of this name. Checks the settings; connects with the first message.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn build(name: &str, config: AliyunConfig) -> Result<Self> {
        Line::new(name, config, Service::Sms).map(Self)
    }

    fn ready(&self, ctx: &Context, sms: &Sms) -> Result<()> {
        ctx.check(&*self.0.clock)?;
        sms.validate()?;
        // What can be refused without asking is refused before anything goes out, also for those of a batch.
        wire::send(&self.0.config, sms).map(|_| ())
    }

    async fn one(&self, sms: &Sms) -> Result<Receipt> {
        let answered = self.0.act(&wire::send(&self.0.config, sms)?).await?;
        self.receipt(answered.biz_id)
    }

    fn receipt(&self, biz_id: Option<String>) -> Result<Receipt> {
        match biz_id.filter(|id| !id.is_empty()) {
            Some(id) => Ok(Receipt::new(self.0.info.name.clone(), id, self.0.clock.now()).detail("OK")),
            None => Err(crate::exchange::by_status(200, false, None)),
        }
    }

    fn named(&self, error: Error) -> Error {
        error.operation("sms.send").with("provider", &self.0.info.name)
    }

    /// Messages of one template to different numbers, in one call.
    async fn batch(&self, all: &[&Sms]) -> Vec<Result<Receipt>> {
        if let [sms] = all {
            return vec![self.one(sms).await];
        }
        let sent = match wire::send_batch(&self.0.config, all) {
            Ok(action) => self
                .0
                .act(&action)
                .await
                .and_then(|answered| self.receipt(answered.biz_id)),
            Err(error) => Err(error),
        };
        match sent {
            Ok(receipt) => all.iter().map(|_| Ok(receipt.clone())).collect(),
            // Somebody's number or words are to blame, the vendor does not say whose, and it sent none of them.
            Err(error)
                if error.effect() == Effect::None
                    && matches!(
                        error.blamed(),
                        Blame::Recipient | Blame::RecipientForNow | Blame::OptedOut | Blame::Content
                    ) =>
            {
                let mut answers = Vec::with_capacity(all.len());
                for sms in all {
                    answers.push(self.one(sms).await);
                }
                answers
            }
            Err(error) => all.iter().map(|_| Err(repeated(&error))).collect(),
        }
    }

    fn news(&self, lookup: &Lookup, found: &Detail) -> DeliveryEvent {
        let code = found.err_code.as_deref().unwrap_or_default();
        let state = match found.send_status {
            2 => DeliveryState::Failed,
            3 => DeliveryState::Delivered,
            _ => DeliveryState::Accepted,
        };
        let out_id = found.out_id.as_deref().filter(|id| !id.is_empty());
        let reference = out_id.or(lookup.provider_ref.as_deref()).unwrap_or_default();
        let time = found.receive_date.as_deref().and_then(china);
        DeliveryEvent {
            provider: self.0.info.name.clone(),
            event_id: named(
                &self.0.config,
                &[reference, &wire::sms_number(&lookup.to), state.as_str()],
            ),
            message_id: Some(lookup.message_id),
            provider_ref: lookup.provider_ref.clone(),
            recipient: None,
            state,
            at: time
                .or_else(|| found.send_date.as_deref().and_then(china))
                .unwrap_or_else(|| self.0.clock.now()),
            code: Some(shown(code)).filter(|code| !code.is_empty()),
            reason: None,
            blame: match state {
                DeliveryState::Failed => receipt_blame(code),
                _ => Blame::Nobody,
            },
        }
    }
}

#[async_trait]
impl SmsSender for AliyunSms {
    fn capability(&self) -> SmsCapability {
        SmsCapability::new(false, true).with_lookup().with_batch(BATCH)
    }

    fn sender(&self, sms: &Sms) -> Option<String> {
        wire::template(&self.0.config, sms)
            .ok()
            .map(|(_, sign_name)| sign_name.to_owned())
    }

    async fn send(&self, ctx: &Context, sms: &Permitted<Sms>) -> Result<Receipt> {
        let sent = async {
            self.ready(ctx, sms.message())?;
            self.one(sms.message()).await
        };
        sent.await.map_err(|e| self.named(e))
    }

    async fn send_many(&self, ctx: &Context, all: &[Permitted<Sms>]) -> Result<Vec<Result<Receipt>>> {
        let mut answers: Vec<Option<Result<Receipt>>> = Vec::with_capacity(all.len());
        // Places of the messages that go together: one template, no number twice.
        let mut groups: Vec<(_, BTreeSet<&str>, Vec<usize>)> = Vec::new();
        for (place, sms) in all.iter().enumerate() {
            let sms = sms.message();
            match self.ready(ctx, sms) {
                Err(error) => answers.push(Some(Err(self.named(error)))),
                Ok(()) => {
                    answers.push(None);
                    let key = wire::batch_key(sms);
                    let number = sms.to.as_str();
                    let fits = groups.iter_mut().find(|(of, numbers, places)| {
                        *of == key && places.len() < BATCH && !numbers.contains(number)
                    });
                    match fits {
                        Some((_, numbers, places)) => {
                            numbers.insert(number);
                            places.push(place);
                        }
                        None => groups.push((key, BTreeSet::from([number]), vec![place])),
                    }
                }
            }
        }
        for (_, _, places) in &groups {
            let group: Vec<&Sms> = places
                .iter()
                .filter_map(|place| all.get(*place))
                .map(Permitted::message)
                .collect();
            for (place, answer) in places.iter().zip(self.batch(&group).await) {
                if let Some(slot) = answers.get_mut(*place) {
                    *slot = Some(answer.map_err(|e| self.named(e)));
                }
            }
        }
        Ok(answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| Err(Error::unexpected("a message without an answer"))))
            .collect())
    }

    /// Asks for the messages to the number on the day, and finds the one with the message's id. Those of a batch have none:
    /// among them the reference and the number decide.
    async fn lookup(&self, ctx: &Context, lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        let named = |e: Error| e.operation("sms.lookup").with("provider", &self.0.info.name);
        ctx.check(&*self.0.clock).map_err(named)?;
        let id = lookup.message_id.to_string();
        let mut days = vec![
            wire::day(lookup.sent_at, 0),
            wire::day(lookup.sent_at.plus(LATE), 0),
        ];
        days.dedup();
        for day in days {
            for page in 1..=PAGES {
                let action = wire::query_details(&lookup.to, &day, lookup.provider_ref.as_deref(), page);
                let answered = self.0.look(&action).await.map_err(named)?;
                let found = answered.details.all;
                let ours = found
                    .iter()
                    .find(|one| one.out_id.as_deref() == Some(&id))
                    .or_else(|| {
                        found.iter().find(|one| {
                            lookup.provider_ref.is_some()
                                && one.out_id.as_deref().unwrap_or_default().is_empty()
                        })
                    });
                if let Some(one) = ours {
                    return Ok(vec![self.news(lookup, one)]);
                }
                if found.len() < wire::PAGE as usize {
                    break;
                }
            }
        }
        Ok(Vec::new())
    }
}
