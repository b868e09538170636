use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crm_channels::{DispatchSettings, Dispatcher, Mode, OUTBOX, OutboxState, Outgoing, Outreach};
use crm_core::activity::{INTERACTION, Interaction};
use crm_core::capability::{MailCapability, Mailer, RecordStore};
use crm_core::consent::{AddressKey, Evidence, Purpose};
use crm_core::customer::{Address, Attributes, CONTACT_POINT, CUSTOMER, EmailAddress};
use crm_core::memory::{MemoryMailer, MemoryStore};
use crm_core::message::{Email, Mailbox, MessageId, Permitted, Receipt};
use crm_core::query::{Filter, Query};
use crm_core::record::{Entity, Record, Stored, Write};
use crm_core::{
    Clock, Consumer, Context, CustomerId, Health, IdSource, ManualClock, Provider, ProviderInfo, Registry,
    Result, Secret, SeededIds, TenantId,
};
use tokio::sync::Semaphore;

/// A shop with customers, in memory, at a time of its own.
pub struct World {
    pub store: Arc<dyn RecordStore>,
    pub clock: Arc<ManualClock>,
    pub ids: Arc<dyn IdSource>,
    pub ctx: Context,
    pub mailer: Arc<MemoryMailer>,
}

pub fn key() -> AddressKey {
    AddressKey::new(&Secret::new("a secret only these tests know")).unwrap()
}

pub fn news() -> Purpose {
    Purpose::marketing("news").unwrap()
}
pub fn receipt() -> Purpose {
    Purpose::transactional("receipt").unwrap()
}
pub fn evidence() -> Evidence {
    Evidence::new("sign-up form", "Yes, send me news").unwrap()
}
pub fn email(text: &str) -> Address {
    Address::Email(EmailAddress::parse(text).unwrap())
}
pub fn mailbox(text: &str, name: &str) -> Mailbox {
    Mailbox::new(EmailAddress::parse(text).unwrap(), name).unwrap()
}
pub fn live(name: &str, clock: &Arc<ManualClock>) -> Arc<MemoryMailer> {
    let clock: Arc<dyn Clock> = clock.clone();
    Arc::new(
        MemoryMailer::new(name)
            .with_clock(clock)
            .with_capability(MailCapability::new(1 << 20, false, true)),
    )
}

impl World {
    pub async fn new() -> Self {
        let clock = Arc::new(ManualClock::at("2026-03-01T09:00:00Z".parse().unwrap()));
        let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("records"));
        store.migrate(&Outreach::schemas()).await.unwrap();
        Self {
            store,
            ids: Arc::new(SeededIds::new(clock.clone(), 7)),
            mailer: live("mailer", &clock),
            ctx: Context::new(TenantId::new("shop").unwrap()),
            clock,
        }
    }

    pub fn outreach(&self) -> Outreach {
        self.outreach_with(vec![self.mailer.clone()])
    }

    /// Live, with these mailers, the first one first.
    pub fn outreach_with(&self, mailers: Vec<Arc<dyn Mailer>>) -> Outreach {
        let mut registry = Registry::builder().provide::<dyn RecordStore>(0, self.store.clone());
        for (i, mailer) in mailers.into_iter().enumerate() {
            registry = registry.provide::<dyn Mailer>(-i32::try_from(i).unwrap(), mailer);
        }
        Outreach::bind(&registry.build().unwrap())
            .unwrap()
            .with_clock(self.clock.clone())
            .with_ids(self.ids.clone())
            .address_key(key())
            .mode(Mode::Live)
    }

    pub fn dispatcher(&self) -> Dispatcher {
        self.outreach().dispatcher().unwrap()
    }

    pub fn dispatcher_with(&self, mailer: Arc<dyn Mailer>, settings: DispatchSettings) -> Dispatcher {
        self.outreach_with(vec![mailer])
            .settings(settings)
            .dispatcher()
            .unwrap()
    }

    pub async fn customer(&self, given: &str, address: &str) -> CustomerId {
        let (customer, point) = (self.ids.fresh(), self.ids.fresh());
        let now = self.clock.now();
        let empty = || serde_json::json!([]);
        let mut attributes = Attributes::default();
        attributes.set("plan", "pro & <more>").unwrap();
        let profile = Record::new(&CUSTOMER)
            .with("given_name", given)
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
            .with("attributes", serde_json::to_value(&attributes).unwrap())
            .unwrap()
            .with("provenance", empty())
            .unwrap()
            .with("created_at", now)
            .unwrap()
            .with("updated_at", now)
            .unwrap();
        let contact = Record::new(&CONTACT_POINT)
            .with("customer_id", customer)
            .unwrap()
            .with("kind", "email")
            .unwrap()
            .with("value", address)
            .unwrap()
            .with("match_key", format!("email:{address}"))
            .unwrap()
            .with("primary_point", true)
            .unwrap()
            .with("state", "unverified")
            .unwrap()
            .with("created_at", now)
            .unwrap();
        self.store
            .apply(
                &self.ctx,
                &[Write::insert(customer, profile), Write::insert(point, contact)],
            )
            .await
            .unwrap();
        customer.into()
    }

    /// A customer who agreed to the news.
    pub async fn subscriber(&self, given: &str, address: &str) -> CustomerId {
        let customer = self.customer(given, address).await;
        self.outreach()
            .grant(&self.ctx, customer, &email(address), &news(), evidence(), None)
            .await
            .unwrap();
        customer
    }

    pub fn mail(&self, address: &str) -> Email {
        let from = mailbox("shop@example.com", "Shop");
        Email::new(
            self.ids.fresh().into(),
            from,
            mailbox(address, ""),
            "Hello",
            "Text",
        )
    }

    pub async fn enqueue(&self, customer: CustomerId, address: &str, purpose: Purpose) -> MessageId {
        let outgoing = Outgoing::email(self.mail(address), customer, purpose);
        self.outreach()
            .enqueue(&self.ctx, outgoing, vec![])
            .await
            .unwrap()
    }

    pub async fn row(&self, id: MessageId) -> Stored {
        self.store
            .get(&self.ctx, &OUTBOX, &[id.uuid()])
            .await
            .unwrap()
            .remove(0)
            .unwrap()
    }

    pub async fn state(&self, id: MessageId) -> OutboxState {
        self.outreach().message(&self.ctx, id).await.unwrap().state
    }

    pub async fn timeline(&self) -> Vec<Interaction> {
        let page = self
            .store
            .find(&self.ctx, &INTERACTION, &Query::new(Filter::All).limit(1000))
            .await
            .unwrap();
        page.items
            .into_iter()
            .map(|s| Interaction::from_stored(s).unwrap())
            .collect()
    }

    pub async fn contact_state(&self, customer: CustomerId) -> String {
        let query = Query::new(Filter::eq("customer_id", customer));
        let page = self.store.find(&self.ctx, &CONTACT_POINT, &query).await.unwrap();
        page.items[0].record.text("state").unwrap().to_owned()
    }

    pub fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

/// A mailer whose sends wait until they are let go: a slow server, or one in whose call a process dies.
#[derive(Debug)]
pub struct Held {
    info: ProviderInfo,
    clock: Arc<ManualClock>,
    pub begun: Semaphore,
    pub go: Semaphore,
}

impl Held {
    pub fn new(name: &str, clock: &Arc<ManualClock>) -> Arc<Self> {
        Arc::new(Self {
            info: ProviderInfo::new("held", name),
            clock: clock.clone(),
            begun: Semaphore::new(0),
            go: Semaphore::new(0),
        })
    }
}

#[async_trait]
impl Provider for Held {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    async fn check(&self) -> Result<Health> {
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Mailer for Held {
    fn capability(&self) -> MailCapability {
        MailCapability::new(1 << 20, false, true)
    }
    async fn send(&self, _ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        self.begun.add_permits(1);
        self.go.acquire().await.unwrap().forget();
        Ok(Receipt::new(
            self.info.name.clone(),
            mail.message().id.to_string(),
            self.clock.now(),
        ))
    }
}
