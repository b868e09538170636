use std::sync::Arc;

use async_trait::async_trait;

use crate::capability::{
    Checkpoint, Collector, CollectorCapability, DraftSink, MailCapability, Mailer, Progress, RecordStore,
    SmsCapability, SmsSender, StoreCapability, VoiceCaller, VoiceCapability,
};
use crate::message::{DeliveryEvent, Email, Lookup, Permitted, Receipt, Sms, VoiceCall};
use crate::policy::{Op, Stack};
use crate::query::{Aggregate, Claim, Filter, Page, Query, Scan};
use crate::record::{Outcome, Schema, Stored, Write};
use crate::{Context, Health, Provider, ProviderInfo, Result, Table, Timestamp, Uuid};

/// A provider with policies around its calls: the same capability, so that nobody who uses it need know.
///
/// What a call can stand is known here: reads and migrations may be repeated; a unit of work, a claim, an SMS and a phone
/// call only when they certainly had no effect; a mail as the mailer says. A scan and a collection stream: what they
/// handed over cannot be taken back, so they are traced and otherwise left alone. Questions about the provider itself
/// (identity, health, capability) go straight through, so that health checks see the provider and not a policy.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_core::activity::ORDER;
/// use crm_core::capability::RecordStore;
/// use crm_core::memory::MemoryStore;
/// use crm_core::policy::Stack;
/// use crm_core::{Layered, Provider, SystemClock};
///
/// let store: Arc<dyn RecordStore> = Arc::new(MemoryStore::new("records"));
/// let layered: Arc<dyn RecordStore> = Arc::new(Layered::new(store, Stack::recommended(SystemClock::shared(), 7)));
/// layered.migrate(&[&ORDER]).await.unwrap();
/// assert_eq!(layered.info().name, "records");
/// # });
/// ```
#[derive(Debug)]
pub struct Layered<T: ?Sized> {
    stack: Stack,
    inner: Arc<T>,
}

impl<T: ?Sized> Layered<T> {
    /// Puts the policies of `stack` around `inner`.
    pub fn new(inner: Arc<T>, stack: Stack) -> Self {
        Self { stack, inner }
    }

    /// The provider inside.
    pub fn inner(&self) -> &Arc<T> {
        &self.inner
    }

    /// The policies.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }
}

impl<T: ?Sized> Clone for Layered<T> {
    fn clone(&self) -> Self {
        Self {
            stack: self.stack.clone(),
            inner: self.inner.clone(),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: ?Sized + Provider> Provider for Layered<T> {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }

    async fn check(&self) -> Result<Health> {
        self.inner.check().await
    }
}

const MIGRATE: Op = Op::new("store.migrate").idempotent();
const APPLY: Op = Op::new("store.apply");
const GET: Op = Op::new("store.get").idempotent();
const FIND: Op = Op::new("store.find").idempotent();
const COUNT: Op = Op::new("store.count").idempotent();
const NOW: Op = Op::new("store.now").idempotent();
const CLAIM: Op = Op::new("store.claim");
const SCAN: Op = Op::new("store.scan").idempotent().streams();
const AGGREGATE: Op = Op::new("store.aggregate").idempotent();

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: ?Sized + RecordStore> RecordStore for Layered<T> {
    fn capability(&self) -> StoreCapability {
        self.inner.capability()
    }

    async fn now(&self) -> Result<Option<Timestamp>> {
        self.stack.call(NOW, self.info(), || self.inner.now()).await
    }

    async fn migrate(&self, schemas: &[&'static Schema]) -> Result<()> {
        self.stack
            .call(MIGRATE, self.info(), || self.inner.migrate(schemas))
            .await
    }

    fn schemas(&self) -> Vec<&'static Schema> {
        self.inner.schemas()
    }

    async fn apply(&self, ctx: &Context, writes: &[Write]) -> Result<Vec<Outcome>> {
        self.stack
            .call(APPLY, self.info(), || self.inner.apply(ctx, writes))
            .await
    }

    async fn get(&self, ctx: &Context, schema: &'static Schema, ids: &[Uuid]) -> Result<Vec<Option<Stored>>> {
        self.stack
            .call(GET, self.info(), || self.inner.get(ctx, schema, ids))
            .await
    }

    async fn find(&self, ctx: &Context, schema: &'static Schema, query: &Query) -> Result<Page<Stored>> {
        self.stack
            .call(FIND, self.info(), || self.inner.find(ctx, schema, query))
            .await
    }

    async fn count(&self, ctx: &Context, schema: &'static Schema, filter: &Filter) -> Result<u64> {
        self.stack
            .call(COUNT, self.info(), || self.inner.count(ctx, schema, filter))
            .await
    }

    async fn claim(&self, ctx: &Context, schema: &'static Schema, claim: &Claim) -> Result<Vec<Stored>> {
        self.stack
            .call(CLAIM, self.info(), || self.inner.claim(ctx, schema, claim))
            .await
    }

    async fn scan(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        scan: &Scan,
        take: &mut (dyn FnMut(Table) -> Result<()> + Send),
    ) -> Result<()> {
        self.stack
            .once(SCAN, self.info(), self.inner.scan(ctx, schema, scan, take))
            .await
    }

    async fn aggregate(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        aggregate: &Aggregate,
    ) -> Result<Table> {
        self.stack
            .call(AGGREGATE, self.info(), || {
                self.inner.aggregate(ctx, schema, aggregate)
            })
            .await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: ?Sized + Mailer> Mailer for Layered<T> {
    fn capability(&self) -> MailCapability {
        self.inner.capability()
    }

    async fn send(&self, ctx: &Context, mail: &Permitted<Email>) -> Result<Receipt> {
        let op = Op {
            idempotent: self.inner.capability().idempotent,
            ..Op::new("mail.send")
        };
        self.stack
            .call(op, self.info(), || self.inner.send(ctx, mail))
            .await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: ?Sized + SmsSender> SmsSender for Layered<T> {
    fn capability(&self) -> SmsCapability {
        self.inner.capability()
    }

    fn sender(&self, sms: &Sms) -> Option<String> {
        self.inner.sender(sms)
    }

    async fn send(&self, ctx: &Context, sms: &Permitted<Sms>) -> Result<Receipt> {
        self.stack
            .call(Op::new("sms.send"), self.info(), || self.inner.send(ctx, sms))
            .await
    }

    async fn send_many(&self, ctx: &Context, all: &[Permitted<Sms>]) -> Result<Vec<Result<Receipt>>> {
        self.stack
            .call(Op::new("sms.send_many"), self.info(), || {
                self.inner.send_many(ctx, all)
            })
            .await
    }

    async fn lookup(&self, ctx: &Context, lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        self.stack
            .call(Op::new("sms.lookup").idempotent(), self.info(), || {
                self.inner.lookup(ctx, lookup)
            })
            .await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: ?Sized + VoiceCaller> VoiceCaller for Layered<T> {
    fn capability(&self) -> VoiceCapability {
        self.inner.capability()
    }

    async fn call(&self, ctx: &Context, call: &Permitted<VoiceCall>) -> Result<Receipt> {
        self.stack
            .call(Op::new("voice.call"), self.info(), || self.inner.call(ctx, call))
            .await
    }

    async fn lookup(&self, ctx: &Context, lookup: &Lookup) -> Result<Vec<DeliveryEvent>> {
        self.stack
            .call(Op::new("voice.lookup").idempotent(), self.info(), || {
                self.inner.lookup(ctx, lookup)
            })
            .await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: ?Sized + Collector> Collector for Layered<T> {
    fn capability(&self) -> CollectorCapability {
        self.inner.capability()
    }

    async fn collect(
        &self,
        ctx: &Context,
        resume: Option<&Checkpoint>,
        sink: &mut dyn DraftSink,
    ) -> Result<Progress> {
        let op = Op::new("collector.collect").streams();
        self.stack
            .once(op, self.info(), self.inner.collect(ctx, resume, sink))
            .await
    }
}
