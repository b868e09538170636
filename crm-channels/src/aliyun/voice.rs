use async_trait::async_trait;
use crm_core::capability::{VoiceCaller, VoiceCapability};
use crm_core::message::{Blame, DeliveryEvent, DeliveryState, Lookup, Permitted, Receipt, VoiceCall};
use crm_core::{Context, Error, ErrorKind, Result};

use super::config::{AliyunConfig, Service};
use super::error::call_state;
use super::wire::{self, CallRecord, Loose};
use super::{Line, named};
use crate::exchange::{by_status, china, shown};

/// Makes calls through Aliyun: `SingleCallByTts` for a template `TTS_...`, `SingleCallByVoice` for a recording it keeps.
///
/// The vendor takes only 15 characters of ours with a call and gives them back with the receipt; the receipt is found by the
/// call's own id, or by the number that was called.
pub struct AliyunVoice(pub(super) Line);

impl AliyunVoice {
    /// A caller of this name. Checks the settings; connects with the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn build(name: &str, config: AliyunConfig) -> Result<Self> {
        Line::new(name, config, Service::Voice).map(Self)
    }

    fn news(&self, lookup: &Lookup, call_id: &str, record: &CallRecord) -> DeliveryEvent {
        let code = record.state.as_ref().map(Loose::text).unwrap_or_default();
        let ended = record.end_date.as_deref().and_then(china);
        let spoke = record
            .duration
            .as_ref()
            .and_then(|seconds| seconds.text().parse::<u64>().ok())
            .is_some_and(|seconds| seconds > 0);
        let (state, blame) = call_state(&code).unwrap_or(match (spoke, ended) {
            (true, _) => (DeliveryState::Delivered, Blame::Nobody),
            (false, Some(_)) => (DeliveryState::Failed, Blame::Nobody),
            (false, None) => (DeliveryState::Accepted, Blame::Nobody),
        });
        DeliveryEvent {
            provider: self.0.info.name.clone(),
            event_id: named(&self.0.config, &[call_id, &code]),
            message_id: Some(lookup.message_id),
            provider_ref: Some(call_id.to_owned()),
            recipient: None,
            state,
            at: ended
                .or_else(|| record.gmt_create.as_deref().and_then(china))
                .unwrap_or_else(|| self.0.clock.now()),
            code: Some(shown(&code)).filter(|code| !code.is_empty()),
            reason: None,
            blame,
        }
    }
}

#[async_trait]
impl VoiceCaller for AliyunVoice {
    fn capability(&self) -> VoiceCapability {
        VoiceCapability::new(false, true).with_lookup()
    }

    async fn call(&self, ctx: &Context, call: &Permitted<VoiceCall>) -> Result<Receipt> {
        let made = async {
            ctx.check(&*self.0.clock)?;
            call.message().validate()?;
            let answered = self.0.act(&wire::call(&self.0.config, call.message())?).await?;
            match answered.call_id.filter(|id| !id.is_empty()) {
                Some(id) => Ok(Receipt::new(self.0.info.name.clone(), id, self.0.clock.now()).detail("OK")),
                None => Err(by_status(200, false, None)),
            }
        };
        made.await
            .map_err(|e| e.operation("voice.call").with("provider", &self.0.info.name))
    }

    /// Asks for the call by its own id. Without one Aliyun cannot be asked: that is said, and not that there is none.
    async fn lookup(&self, ctx: &Context, lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        let named = |e: Error| e.operation("voice.lookup").with("provider", &self.0.info.name);
        ctx.check(&*self.0.clock).map_err(named)?;
        let Some(call_id) = &lookup.provider_ref else {
            return Err(named(Error::new(
                ErrorKind::Unsupported,
                "Aliyun finds a call by its own id only; wait for the receipt, which names the number that was called",
            )));
        };
        let mut refused = None;
        for product in wire::PRODUCTS {
            match self
                .0
                .look(&wire::query_call(call_id, product, lookup.sent_at))
                .await
            {
                Ok(answered) => {
                    let data = answered.data.unwrap_or_default();
                    if let Ok(record) = serde_json::from_str::<CallRecord>(&data) {
                        return Ok(vec![self.news(lookup, call_id, &record)]);
                    }
                }
                // Not a call of this product: the vendor says so in a code of its own.
                Err(error) if error.kind() == ErrorKind::Unexpected => {}
                Err(error) => refused = Some(error),
            }
        }
        refused.map_or_else(|| Ok(Vec::new()), |error| Err(named(error)))
    }
}
