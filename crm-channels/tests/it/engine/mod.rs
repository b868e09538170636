//! The dispatcher as the engine of all channels: order, priorities, expiry, limits, routing, modes, several tenants.

mod flow;
mod late;
mod limits;
mod phone;
mod trouble;
mod upkeep;

use std::sync::Arc;

use crm_channels::{DispatchSettings, Dispatcher, Mode, Outgoing, Outreach};
use crm_core::capability::{Mailer, RecordStore, SmsCapability, SmsSender, VoiceCaller, VoiceCapability};
use crm_core::consent::Purpose;
use crm_core::customer::{CONTACT_POINT, PhoneNumber};
use crm_core::memory::{MemorySms, MemoryVoice};
use crm_core::message::{MessageId, Sms, VoiceCall, VoiceStep};
use crm_core::record::{Record, Write};
use crm_core::{Clock, Consumer, CustomerId, Registry};

use crate::common::{World, key};

pub fn code() -> Purpose {
    Purpose::transactional("code").unwrap()
}

pub fn number(n: u32) -> PhoneNumber {
    PhoneNumber::parse(&format!("+4915123{n:06}"), None).unwrap()
}

/// Live senders of text messages and calls beside the world's mailer.
pub struct Phones {
    pub w: World,
    pub sms: Arc<MemorySms>,
    pub voice: Arc<MemoryVoice>,
}

impl Phones {
    pub async fn new() -> Self {
        let w = World::new().await;
        let clock: Arc<dyn Clock> = w.clock.clone();
        Self {
            sms: Arc::new(
                MemorySms::new("sms")
                    .with_clock(clock.clone())
                    .with_capability(SmsCapability::new(true, true).with_lookup()),
            ),
            voice: Arc::new(
                MemoryVoice::new("voice")
                    .with_clock(clock)
                    .with_capability(VoiceCapability::new(true, true).with_lookup()),
            ),
            w,
        }
    }

    pub fn outreach(&self, senders: Vec<Arc<dyn SmsSender>>, settings: DispatchSettings) -> Outreach {
        let mailer: Arc<dyn Mailer> = self.w.mailer.clone();
        let mut registry = Registry::builder()
            .provide::<dyn RecordStore>(0, self.w.store.clone())
            .provide::<dyn Mailer>(0, mailer)
            .provide::<dyn VoiceCaller>(0, self.voice.clone());
        for (i, sender) in senders.into_iter().enumerate() {
            registry = registry.provide::<dyn SmsSender>(-i32::try_from(i).unwrap(), sender);
        }
        Outreach::bind(&registry.build().unwrap())
            .unwrap()
            .with_clock(self.w.clock.clone())
            .with_ids(self.w.ids.clone())
            .address_key(key())
            .mode(Mode::Live)
            .settings(settings)
    }

    pub fn dispatcher(&self, settings: DispatchSettings) -> Dispatcher {
        self.outreach(vec![self.sms.clone()], settings)
            .dispatcher()
            .unwrap()
    }

    /// A customer with this number.
    pub async fn customer(&self, n: u32) -> CustomerId {
        let customer = self.w.customer("Ana", &format!("ana{n}@example.org")).await;
        let contact = Record::new(&CONTACT_POINT)
            .with("customer_id", customer)
            .unwrap()
            .with("kind", "phone")
            .unwrap()
            .with("value", number(n).as_str())
            .unwrap()
            .with("match_key", format!("phone:{}", number(n).as_str()))
            .unwrap()
            .with("primary_point", false)
            .unwrap()
            .with("state", "unverified")
            .unwrap()
            .with("created_at", self.w.clock.now())
            .unwrap();
        self.w
            .store
            .apply(&self.w.ctx, &[Write::insert(self.w.ids.fresh(), contact)])
            .await
            .unwrap();
        customer
    }

    pub fn text(&self, n: u32) -> Sms {
        Sms::new(self.w.ids.fresh().into(), number(n), "Your code is 4711")
    }

    pub fn call(&self, n: u32) -> VoiceCall {
        let steps = vec![VoiceStep::say("Your code is 4 7 1 1")];
        VoiceCall::new(self.w.ids.fresh().into(), number(n), steps)
    }

    pub async fn enqueue(&self, outgoing: Outgoing) -> MessageId {
        self.w
            .outreach()
            .enqueue(&self.w.ctx, outgoing, vec![])
            .await
            .unwrap()
    }
}
