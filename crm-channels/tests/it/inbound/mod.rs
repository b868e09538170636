#[cfg(all(feature = "api", feature = "aliyun", feature = "testkit"))]
mod aliyun;
mod bounces;
#[cfg(feature = "api")]
mod http;
mod keywords;
mod lease;
mod links;
mod messages;
mod news;
#[cfg(feature = "smtp")]
mod postfix;
mod retention;
#[cfg(all(feature = "api", feature = "twilio", feature = "testkit"))]
mod twilio;

use std::sync::Arc;

use crm_channels::inbound::{Inbound, LinkKey, ReturnPath, Unsubscribe};
use crm_channels::{Mode, Outgoing, Outreach};
use crm_core::capability::{Mailer, RecordStore, SmsCapability, SmsSender};
use crm_core::consent::{SUPPRESSION, Suppression};
use crm_core::customer::{Address, CONTACT_POINT, PhoneNumber};
use crm_core::memory::MemorySms;
use crm_core::message::{Blame, DeliveryEvent, DeliveryState, MessageId, Sms};
use crm_core::query::{Filter, Query};
use crm_core::record::{Entity, Record, Write};
use crm_core::{Clock as _, Consumer as _, Context, CustomerId, Registry, Secret, TenantId, Timestamp};

use crate::common::{World, key};

pub fn phone(text: &str) -> Address {
    Address::Phone(PhoneNumber::parse(text, None).unwrap())
}

pub fn link_key() -> LinkKey {
    LinkKey::new(&Secret::new("what signs the links of these tests")).unwrap()
}

pub fn return_path() -> ReturnPath {
    ReturnPath::new(link_key(), "bounces.example.com").unwrap()
}

/// Everything a desk needs, over the store of a world.
pub struct Office {
    pub w: World,
    pub sms: Arc<MemorySms>,
    pub registry: Registry,
    pub outreach: Outreach,
}

impl Office {
    pub async fn new() -> Self {
        Self::with(World::new().await, Registry::builder())
    }

    pub fn with(w: World, registry: crm_core::registry::RegistryBuilder) -> Self {
        let sms = Arc::new(
            MemorySms::new("sms")
                .with_clock(w.clock.clone())
                .with_capability(SmsCapability::new(true, true)),
        );
        let registry = registry
            .provide::<dyn RecordStore>(0, w.store.clone())
            .provide::<dyn Mailer>(0, w.mailer.clone())
            .provide::<dyn SmsSender>(0, sms.clone())
            .build()
            .unwrap();
        let unsubscribe =
            Unsubscribe::new(link_key(), "https://mail.example.com/crm".parse().unwrap()).unwrap();
        let outreach = Outreach::bind(&registry)
            .unwrap()
            .with_clock(w.clock.clone())
            .with_ids(w.ids.clone())
            .address_key(key())
            .with_unsubscribe(unsubscribe)
            .with_return_path(return_path())
            .mode(Mode::Live);
        Self {
            w,
            sms,
            registry,
            outreach,
        }
    }

    pub fn desk(&self) -> Inbound {
        Inbound::new(&self.registry, self.outreach.clone())
    }

    /// A customer with this number beside the e-mail address.
    pub async fn reached_at(&self, customer: CustomerId, number: &str) {
        let record = Record::new(&CONTACT_POINT)
            .with("customer_id", customer)
            .and_then(|r| r.with("kind", "phone"))
            .and_then(|r| r.with("value", number))
            .and_then(|r| r.with("match_key", format!("phone:{number}")))
            .and_then(|r| r.with("primary_point", true))
            .and_then(|r| r.with("state", "unverified"))
            .and_then(|r| r.with("created_at", self.w.clock.now()))
            .unwrap();
        let write = Write::insert(self.w.ids.fresh(), record);
        self.w.store.apply(&self.w.ctx, &[write]).await.unwrap();
    }

    /// A text message that the vendor took.
    pub async fn sent_sms(&self, customer: CustomerId, number: &str) -> MessageId {
        let id = self.text_to(customer, number).await;
        self.outreach
            .dispatcher()
            .unwrap()
            .drain(&self.w.ctx)
            .await
            .unwrap();
        id
    }

    pub async fn text_to(&self, customer: CustomerId, number: &str) -> MessageId {
        let Address::Phone(to) = phone(number) else {
            unreachable!()
        };
        let sms = Sms::new(self.w.ids.fresh().into(), to, "Your parcel is here");
        let outgoing = Outgoing::sms(sms, customer, crate::common::receipt());
        self.outreach
            .enqueue(&self.w.ctx, outgoing, vec![])
            .await
            .unwrap()
    }

    pub async fn suppressions(&self, ctx: &Context) -> Vec<Suppression> {
        let query = Query::new(Filter::All).limit(1000);
        let page = self.w.store.find(ctx, &SUPPRESSION, &query).await.unwrap();
        page.items
            .into_iter()
            .map(|s| Suppression::from_stored(s).unwrap())
            .collect()
    }

    /// What the timeline says, without who and when.
    pub async fn kinds(&self) -> Vec<String> {
        let mut kinds: Vec<String> = self.w.timeline().await.into_iter().map(|i| i.kind).collect();
        kinds.sort();
        kinds
    }
}

pub fn other_tenant() -> Context {
    Context::new(TenantId::new("other").unwrap())
}

/// News about a message by our own id.
pub fn told(id: MessageId, event: &str, state: DeliveryState, at: Timestamp) -> DeliveryEvent {
    DeliveryEvent {
        provider: "sms".into(),
        event_id: event.into(),
        message_id: Some(id),
        provider_ref: None,
        recipient: None,
        state,
        at,
        code: None,
        reason: None,
        blame: Blame::Nobody,
    }
}
