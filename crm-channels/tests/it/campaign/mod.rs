//! Campaigns over every channel.

mod basic;
mod control;
mod faults;
#[cfg(all(feature = "smtp", feature = "testkit"))]
mod opt_out;
mod plan;
mod schedule;

use std::sync::Arc;

use crm_channels::{Campaigns, DispatchSettings, Mode, OUTBOX, Outreach, Template};
use crm_core::capability::{Mailer, RecordStore, SmsCapability, SmsSender, VoiceCaller, VoiceCapability};
use crm_core::consent::ConsentAction;
use crm_core::customer::{Address, CONTACT_POINT, CUSTOMER, EmailAddress, PhoneNumber};
use crm_core::memory::{MemorySms, MemoryVoice};
use crm_core::message::Channel;
use crm_core::query::{Filter, Query};
use crm_core::record::{Entity as _, Record, Stored, Write};
use crm_core::segment::{Segment, SegmentId, SegmentKind};
use crm_core::{Clock, Consumer, CustomerId, Registry};

use crate::common::{World, evidence, key, news};

/// Somebody who may be written to.
#[derive(Debug, Clone, Default)]
pub struct Person {
    pub given: String,
    pub email: Option<String>,
    pub phone: Option<String>,
    pub zone: Option<&'static str>,
    /// By which channels they agreed to the news.
    pub agrees: Vec<Channel>,
}

impl Person {
    /// One who agreed to everything.
    pub fn new(given: &str, n: usize) -> Self {
        Self {
            given: given.to_owned(),
            email: Some(format!("p{n}@example.org")),
            phone: Some(format!("+4915123{n:06}")),
            zone: None,
            agrees: Channel::ALL.to_vec(),
        }
    }

    pub fn by_mail(given: &str, n: usize) -> Self {
        Self {
            phone: None,
            ..Self::new(given, n)
        }
    }
}

/// A world with telephones.
pub struct Town {
    pub w: World,
    pub sms: Arc<MemorySms>,
    pub voice: Arc<MemoryVoice>,
}

impl Town {
    pub async fn new() -> Self {
        let w = World::new().await;
        let clock: Arc<dyn Clock> = w.clock.clone();
        let sms = MemorySms::new("sms")
            .with_clock(clock.clone())
            .with_capability(SmsCapability::new(true, true));
        let voice = MemoryVoice::new("voice")
            .with_clock(clock)
            .with_capability(VoiceCapability::new(true, true));
        Self {
            w,
            sms: Arc::new(sms),
            voice: Arc::new(voice),
        }
    }

    pub fn outreach_over(&self, store: Arc<dyn RecordStore>) -> Outreach {
        let registry = Registry::builder()
            .provide::<dyn RecordStore>(0, store)
            .provide::<dyn Mailer>(0, self.w.mailer.clone())
            .provide::<dyn SmsSender>(0, self.sms.clone())
            .provide::<dyn VoiceCaller>(0, self.voice.clone())
            .build()
            .unwrap();
        Outreach::bind(&registry)
            .unwrap()
            .with_clock(self.w.clock.clone())
            .with_ids(self.w.ids.clone())
            .address_key(key())
            .mode(Mode::Live)
            .settings(DispatchSettings {
                limits: Vec::new(),
                ..DispatchSettings::default()
            })
    }

    pub fn outreach(&self) -> Outreach {
        self.outreach_over(self.w.store.clone())
    }

    pub fn campaigns(&self) -> Campaigns {
        self.outreach().campaigns()
    }

    /// Lets these people in.
    pub async fn settle(&self, people: &[Person]) -> Vec<CustomerId> {
        let mut ids = Vec::new();
        for people in people.chunks(200) {
            let mut writes = Vec::new();
            for person in people {
                ids.push(self.person(person, &mut writes));
            }
            self.w.store.apply(&self.w.ctx, &writes).await.unwrap();
        }
        ids
    }

    fn person(&self, person: &Person, writes: &mut Vec<Write>) -> CustomerId {
        let w = &self.w;
        let customer: CustomerId = w.ids.fresh().into();
        let now = w.clock.now();
        let empty = || serde_json::json!([]);
        let attributes = match person.zone {
            Some(zone) => serde_json::json!({"timezone": zone}),
            None => serde_json::json!({}),
        };
        let profile = Record::new(&CUSTOMER)
            .with("given_name", person.given.as_str())
            .unwrap()
            .with("family_name", "Kask")
            .unwrap()
            .with("display_name", "")
            .unwrap()
            .with("city", "Tartu")
            .unwrap()
            .with("addresses", empty())
            .unwrap()
            .with("tags", empty())
            .unwrap()
            .with("attributes", attributes)
            .unwrap()
            .with("provenance", empty())
            .unwrap()
            .with("created_at", now)
            .unwrap()
            .with("updated_at", now)
            .unwrap();
        writes.push(Write::insert(customer, profile));
        let mut addresses = Vec::new();
        if let Some(email) = &person.email {
            addresses.push(Address::Email(EmailAddress::parse(email).unwrap()));
        }
        if let Some(phone) = &person.phone {
            addresses.push(Address::Phone(PhoneNumber::parse(phone, None).unwrap()));
        }
        let outreach = self.outreach();
        let gate = outreach.gate().unwrap();
        for address in addresses {
            let (kind, value, channels) = match &address {
                Address::Email(email) => ("email", email.as_str(), vec![Channel::Email]),
                Address::Phone(phone) => ("phone", phone.as_str(), vec![Channel::Sms, Channel::Voice]),
            };
            let contact = Record::new(&CONTACT_POINT)
                .with("customer_id", customer)
                .unwrap()
                .with("kind", kind)
                .unwrap()
                .with("value", value)
                .unwrap()
                .with("match_key", format!("{kind}:{value}"))
                .unwrap()
                .with("primary_point", true)
                .unwrap()
                .with("state", "unverified")
                .unwrap()
                .with("created_at", now)
                .unwrap();
            writes.push(Write::insert(w.ids.fresh(), contact));
            for channel in channels {
                if person.agrees.contains(&channel) {
                    let event = gate
                        .event(customer, &address, &news(), ConsentAction::Granted, evidence())
                        .unwrap()
                        .by(channel);
                    writes.push(Write::insert(event.id, event.to_record().unwrap()));
                }
            }
        }
        customer
    }

    pub async fn segment(&self, name: &str, filter: Filter) -> SegmentId {
        let id: SegmentId = self.w.ids.fresh().into();
        let segment = Segment {
            id,
            version: 1,
            name: name.into(),
            description: String::new(),
            kind: SegmentKind::Dynamic { filter },
            size: 0,
            created_at: self.w.clock.now(),
        };
        let write = Write::insert(id, segment.to_record().unwrap());
        self.w.store.apply(&self.w.ctx, &[write]).await.unwrap();
        id
    }

    /// Changes a field of a customer's profile.
    pub async fn change(&self, customer: CustomerId, field: &str, value: &str) {
        let stored = self
            .w
            .store
            .get(&self.w.ctx, &CUSTOMER, &[customer.uuid()])
            .await
            .unwrap();
        let mut stored = stored.into_iter().next().flatten().unwrap();
        stored.record.set(field, value).unwrap();
        let write = Write::update(stored.id, stored.version, stored.record);
        self.w.store.apply(&self.w.ctx, &[write]).await.unwrap();
    }

    /// All of a campaign's rows.
    pub async fn rows(&self, campaign: &str) -> Vec<Stored> {
        let mut query = Query::new(Filter::eq("campaign", campaign)).limit(1000);
        let mut all = Vec::new();
        loop {
            let page = self.w.store.find(&self.w.ctx, &OUTBOX, &query).await.unwrap();
            all.extend(page.items);
            match page.next {
                Some(next) => query = query.after(Some(next)),
                None => return all,
            }
        }
    }

    /// Ticks until nothing is left to queue.
    pub async fn queue(&self) {
        while self.campaigns().tick(&self.w.ctx, |_, _| {}).await.unwrap().done > 0 {}
    }
}

pub fn letter() -> Template {
    Template::new("Hello {{ given_name }}", "Dear {{ name }}").unwrap()
}
