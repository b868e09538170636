use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use crm_core::capability::{RecordStore, StoreCapability};
use crm_core::consent::{AddressKey, Ask, Evidence, Gate, Purpose, Verdict};
use crm_core::customer::{Address, CONTACT_POINT, CUSTOMER, EmailAddress, PhoneNumber};
use crm_core::memory::MemoryStore;
use crm_core::message::{Channel, Email, Mailbox, Message, Sms, VoiceCall, VoiceStep};
use crm_core::query::{Aggregate, Claim, Filter, Page, Query, Scan};
use crm_core::record::{Outcome, Record, Schema, Stored, Write};
use crm_core::{
    Clock as _, Context, CustomerId, Health, IdSource, ManualClock, Provider, ProviderInfo, Result, Secret,
    SeededIds, Table, TenantId, Uuid,
};

/// A store that counts the questions it is asked.
#[derive(Debug)]
pub struct Counted {
    inner: MemoryStore,
    pub questions: AtomicUsize,
}

#[async_trait]
impl Provider for Counted {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }
    async fn check(&self) -> Result<Health> {
        self.inner.check().await
    }
}

#[async_trait]
impl RecordStore for Counted {
    fn capability(&self) -> StoreCapability {
        self.inner.capability()
    }
    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        self.inner.migrate(schemas).await
    }
    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        self.inner.apply(ctx, writes).await
    }
    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        self.inner.get(ctx, schema, ids).await
    }
    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        self.inner.find(ctx, schema, query).await
    }
    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        self.inner.count(ctx, schema, filter).await
    }
    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
        self.inner.claim(ctx, schema, claim).await
    }
    async fn scan(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()> {
        self.inner.scan(ctx, schema, scan, take).await
    }
    async fn aggregate(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        aggregate: &Aggregate,
    ) -> Result<Table> {
        self.inner.aggregate(ctx, schema, aggregate).await
    }
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
pub fn phone(text: &str) -> Address {
    Address::Phone(PhoneNumber::parse(text, None).unwrap())
}

/// A shop with customers, in memory, at a time of its own.
pub struct World {
    pub store: Arc<Counted>,
    pub clock: Arc<ManualClock>,
    pub ids: Arc<dyn IdSource>,
    pub ctx: Context,
    pub gate: Gate,
}

impl World {
    pub async fn new() -> Self {
        Self::at("2026-03-02T15:00:00Z").await
    }

    pub async fn at(now: &str) -> Self {
        let clock = Arc::new(ManualClock::at(now.parse().unwrap()));
        let store = Arc::new(Counted {
            inner: MemoryStore::new("records"),
            questions: AtomicUsize::new(0),
        });
        let mut schemas = Gate::schemas().to_vec();
        schemas.extend([&CONTACT_POINT, &CUSTOMER]);
        store.migrate(&schemas).await.unwrap();
        let ids: Arc<dyn IdSource> = Arc::new(SeededIds::new(clock.clone(), 7));
        Self {
            gate: Gate::new(store.clone(), clock.clone(), key()).with_ids(ids.clone()),
            ctx: Context::new(TenantId::new("shop").unwrap()),
            store,
            clock,
            ids,
        }
    }

    pub fn pass(&self, seconds: u64) {
        self.clock.advance(std::time::Duration::from_secs(seconds));
    }

    /// A customer with these addresses.
    pub async fn customer(&self, addresses: &[&Address]) -> CustomerId {
        self.customer_with(addresses, serde_json::json!({}), None).await
    }

    pub async fn customer_with(
        &self,
        addresses: &[&Address],
        attributes: serde_json::Value,
        country: Option<&str>,
    ) -> CustomerId {
        let id = self.ids.fresh();
        let now = self.clock.now();
        let empty = || serde_json::json!([]);
        let mut profile = Record::new(&CUSTOMER);
        for (field, value) in [
            ("given_name", "Ana"),
            ("family_name", "Kask"),
            ("display_name", ""),
        ] {
            profile.set(field, value).unwrap();
        }
        for field in ["addresses", "tags", "provenance"] {
            profile.set(field, empty()).unwrap();
        }
        profile.set("attributes", attributes).unwrap();
        profile.set("country", country.map(str::to_owned)).unwrap();
        profile.set("created_at", now).unwrap();
        profile.set("updated_at", now).unwrap();
        let mut writes = vec![Write::insert(id, profile)];
        for address in addresses {
            let (kind, value) = match address {
                Address::Email(a) => ("email", a.as_str()),
                Address::Phone(p) => ("phone", p.as_str()),
            };
            let point = Record::new(&CONTACT_POINT)
                .with("customer_id", id)
                .and_then(|r| r.with("kind", kind))
                .and_then(|r| r.with("value", value))
                .and_then(|r| r.with("primary_point", true))
                .and_then(|r| r.with("state", "unverified"))
                .and_then(|r| r.with("created_at", now))
                .unwrap();
            writes.push(Write::insert(self.ids.fresh(), point));
        }
        self.store.apply(&self.ctx, &writes).await.unwrap();
        id.into()
    }

    pub async fn subscriber(&self, address: &Address, purpose: &Purpose) -> CustomerId {
        let id = self.customer(&[address]).await;
        self.gate
            .grant(&self.ctx, id, address, purpose, evidence(), None)
            .await
            .unwrap();
        id
    }

    /// A message to an address by a channel that reaches it.
    pub fn message(&self, address: &Address, channel: Channel) -> Message {
        let id = self.ids.fresh().into();
        match (address, channel) {
            (Address::Email(to), _) => {
                let mailbox = |a: &EmailAddress| Mailbox::new(a.clone(), "").unwrap();
                let from = EmailAddress::parse("shop@example.com").unwrap();
                Email::new(id, mailbox(&from), mailbox(to), "Hello", "Hello").into()
            }
            (Address::Phone(to), Channel::Voice) => {
                VoiceCall::new(id, to.clone(), vec![VoiceStep::say("Hello")]).into()
            }
            (Address::Phone(to), _) => Sms::new(id, to.clone(), "Hello").into(),
        }
    }

    pub fn ask(&self, customer: CustomerId, address: &Address, purpose: &Purpose) -> Ask {
        let channel = match address {
            Address::Email(_) => Channel::Email,
            Address::Phone(_) => Channel::Sms,
        };
        Ask::new(self.message(address, channel), purpose.clone(), customer)
    }

    pub async fn verdict(&self, ask: Ask) -> Verdict {
        let mut all = self.gate.permit_all(&self.ctx, vec![ask]).await.unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }
}
