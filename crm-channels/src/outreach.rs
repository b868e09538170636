use std::fmt;
use std::sync::Arc;

use crm_core::activity::INTERACTION;
use crm_core::capability::{Mailer, RecordStore};
use crm_core::consent::{
    AddressKey, ConsentEvent, Decision, Evidence, Gate, GateRules, Purpose, Recipient, SuppressionReason,
    SuppressionScope,
};
use crm_core::customer::{Address, CONTACT_POINT, CUSTOMER, CustomerId};
use crm_core::message::MessageId;
use crm_core::query::{Filter, Query};
use crm_core::record::{Schema, Write};
use crm_core::segment::{SEGMENT, SEGMENT_MEMBER, SEGMENT_OVERRIDE, SEGMENT_STATE};
use crm_core::{
    Clock, Consumer, Context, Error, ErrorKind, IdSource, Needs, RandomIds, Registry, Result, SharedTime,
    SystemClock, Timestamp,
};

use crate::campaign::{CAMPAIGN, CAMPAIGN_PAGE, CAMPAIGN_RUN};
use crate::dispatch::{DispatchSettings, Dispatcher, Mode};
use crate::inbound::{INBOUND, InboundSettings};
use crate::limits::RATE;
use crate::outbox::{OUTBOX, OutboxEntry, Outgoing};
use crate::routing::Providers;
use crate::template::{TEMPLATE, Templates};

/// Reaches customers: consent, campaigns, single messages, and the dispatcher that sends them. The default mode records
/// instead of sending; [`Mode::Live`] is explicit.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use crm_channels::{Outreach, OutboxState, Outgoing, mail::RecordMailer};
/// use crm_core::capability::{Mailer, RecordStore};
/// use crm_core::consent::{AddressKey, Purpose};
/// use crm_core::customer::EmailAddress;
/// use crm_core::memory::MemoryStore;
/// use crm_core::message::{Email, Mailbox};
/// use crm_core::{Consumer, Context, Registry, Secret, TenantId, Uuid};
///
/// let registry = Registry::builder()
///     .provide::<dyn RecordStore>(0, Arc::new(MemoryStore::new("records")))
///     .provide::<dyn Mailer>(0, Arc::new(RecordMailer::new("record")))
///     .build()
///     .unwrap();
/// let key = AddressKey::new(&Secret::new("a long random text kept outside the store")).unwrap();
/// let outreach = Outreach::bind(&registry).unwrap().address_key(key);
/// outreach.migrate().await.unwrap();
///
/// let ctx = Context::new(TenantId::new("shop").unwrap());
/// let mailbox = |a: &str| Mailbox::new(EmailAddress::parse(a).unwrap(), "").unwrap();
/// let mail = Email::new(Uuid::nil().into(), mailbox("shop@example.com"), mailbox("ana@example.org"), "Receipt", "Thanks!");
/// let receipt = Purpose::transactional("receipt").unwrap();
/// let id = outreach.enqueue(&ctx, Outgoing::email(mail, Uuid::nil().into(), receipt), vec![]).await.unwrap();
///
/// let report = outreach.dispatcher().unwrap().drain(&ctx).await.unwrap();
/// assert_eq!(report.refused, 1); // nobody stored that address as this customer's
/// let entry = outreach.message(&ctx, id).await.unwrap();
/// assert_eq!(entry.state, OutboxState::Refused);
/// # });
/// ```
#[derive(Clone)]
pub struct Outreach {
    pub(crate) store: Arc<dyn RecordStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) time: Arc<SharedTime>,
    pub(crate) ids: Arc<dyn IdSource>,
    providers: Providers,
    key: Option<AddressKey>,
    gate: Option<Arc<Gate>>,
    rules: GateRules,
    templates: Templates,
    mode: Mode,
    pub(crate) settings: DispatchSettings,
    pub(crate) inbound: InboundSettings,
}

impl Consumer for Outreach {
    fn needs() -> Needs {
        Needs::new("Outreach")
            .requires::<dyn RecordStore>()
            .requires::<dyn Mailer>()
    }

    /// Binds it with the machine's clock, random ids, [`Mode::Record`] and default settings. Give it an
    /// [`Outreach::address_key`] before use.
    fn bind(registry: &Registry) -> Result<Self> {
        Self::needs().check(registry)?;
        let store: Arc<dyn RecordStore> = registry.get()?;
        let (clock, ids) = (SystemClock::shared(), RandomIds::shared());
        Ok(Self {
            templates: Templates::new(store.clone(), clock.clone(), ids.clone()),
            time: SharedTime::new(store.clone(), clock.clone()),
            store,
            clock,
            ids,
            providers: Providers::of(registry),
            key: None,
            gate: None,
            rules: GateRules::default(),
            mode: Mode::default(),
            settings: DispatchSettings::default(),
            inbound: InboundSettings::default(),
        })
    }
}

impl Outreach {
    /// The key under which addresses are remembered in consents and suppressions. Must stay the same for ever.
    #[must_use]
    pub fn address_key(mut self, key: AddressKey) -> Self {
        self.key = Some(key);
        self.rebuilt()
    }

    /// Takes the time from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.time = SharedTime::new(self.store.clone(), clock.clone());
        self.clock = clock;
        self.rebuilt()
    }

    /// Takes ids from `ids`.
    #[must_use]
    pub fn with_ids(mut self, ids: Arc<dyn IdSource>) -> Self {
        self.ids = ids;
        self.rebuilt()
    }

    /// Whether messages really go out.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// How dispatchers work.
    #[must_use]
    pub fn settings(mut self, settings: DispatchSettings) -> Self {
        self.settings = settings;
        self
    }

    /// What the gate enforces beyond consent and suppressions: quiet hours, caps, purposes on record.
    ///
    /// # Errors
    /// As [`GateRules::validate`].
    pub fn rules(mut self, rules: GateRules) -> Result<Self> {
        rules.validate()?;
        self.rules = rules;
        Ok(self.rebuilt())
    }

    /// The templates in the store.
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    fn rebuilt(mut self) -> Self {
        self.templates = Templates::new(self.store.clone(), self.clock.clone(), self.ids.clone());
        self.gate = self.key.clone().and_then(|key| {
            let gate = Gate::new(self.store.clone(), self.clock.clone(), key).with_ids(self.ids.clone());
            // The rules were checked when they were given.
            gate.with_rules(self.rules.clone()).ok().map(Arc::new)
        });
        self
    }

    /// The consent gate.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when no address key was given.
    pub fn gate(&self) -> Result<&Gate> {
        self.shared_gate().map(|gate| &**gate)
    }

    /// The key for addresses.
    ///
    /// # Errors
    /// As [`Outreach::gate`].
    pub(crate) fn key(&self) -> Result<&AddressKey> {
        self.shared_gate()?;
        self.key
            .as_ref()
            .ok_or_else(|| Error::config("no key for addresses was given").with("setting", "address_key"))
    }

    fn shared_gate(&self) -> Result<&Arc<Gate>> {
        self.gate.as_ref().ok_or_else(|| {
            Error::config(
                "consents and suppressions need a key for addresses; give one with Outreach::address_key",
            )
            .with("setting", "address_key")
        })
    }

    /// What it reads and writes.
    pub fn schemas() -> [&'static Schema; 21] {
        let [consent, suppression, alias, purpose, opt_in, count, failure] = Gate::schemas();
        [
            &OUTBOX,
            &RATE,
            &INBOUND,
            &TEMPLATE,
            &CAMPAIGN,
            &CAMPAIGN_RUN,
            &CAMPAIGN_PAGE,
            consent,
            suppression,
            alias,
            purpose,
            opt_in,
            count,
            failure,
            &CUSTOMER,
            &CONTACT_POINT,
            &SEGMENT,
            &SEGMENT_MEMBER,
            &SEGMENT_OVERRIDE,
            &SEGMENT_STATE,
            &INTERACTION,
        ]
    }

    /// Makes room for what it stores. Safe to call again at every start.
    ///
    /// # Errors
    /// Those of [`RecordStore::migrate`].
    pub async fn migrate(&self) -> Result<()> {
        self.store.migrate(&Self::schemas()).await
    }

    /// A dispatcher over this store and these providers. Call [`Dispatcher::tick`], [`Dispatcher::drain`] or
    /// [`Dispatcher::run`] in a task of your own.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when no address key was given or a setting is wrong.
    pub fn dispatcher(&self) -> Result<Dispatcher> {
        Dispatcher::new(
            self.store.clone(),
            &self.providers,
            self.shared_gate()?.clone(),
            self.clock.clone(),
            self.ids.clone(),
            self.mode.clone(),
            self.settings.clone(),
        )
    }

    /// Puts a message into the outbox together with the business that caused it: all of it is there, or nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the field that is wrong; [`ErrorKind::Conflict`] on `index=crm_outbox_dedupe` when
    /// a message with its key is there already; those of `also`.
    pub async fn enqueue(&self, ctx: &Context, outgoing: Outgoing, also: Vec<Write>) -> Result<MessageId> {
        // The business first: the position in an error then is the caller's own.
        let mut writes = also;
        writes.push(outgoing.write(self.time.fresh().await)?);
        self.store.apply(ctx, &writes).await?;
        Ok(outgoing.id())
    }

    /// Where a message stands.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; those of the store.
    pub async fn message(&self, ctx: &Context, id: MessageId) -> Result<OutboxEntry> {
        let stored = self
            .store
            .get(ctx, &OUTBOX, &[id.uuid()])
            .await?
            .into_iter()
            .next()
            .flatten();
        let stored = stored.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "no such message in the outbox").with("message", id)
        })?;
        OutboxEntry::read(&stored)
    }

    /// The messages to one customer, the newest 100.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn messages_to(&self, ctx: &Context, customer: CustomerId) -> Result<Vec<OutboxEntry>> {
        let query = Query::new(Filter::eq("customer_id", customer)).descending("created_at");
        let page = self.store.find(ctx, &OUTBOX, &query).await?;
        page.items.iter().map(OutboxEntry::read).collect()
    }

    /// Records that a customer agreed ([`Gate::grant`]).
    ///
    /// # Errors
    /// As [`Gate::grant`]; [`ErrorKind::Config`] without an address key.
    pub async fn grant(
        &self,
        ctx: &Context,
        customer: CustomerId,
        address: &Address,
        purpose: &Purpose,
        evidence: Evidence,
        expires_at: Option<Timestamp>,
    ) -> Result<ConsentEvent> {
        self.gate()?
            .grant(ctx, customer, address, purpose, evidence, expires_at)
            .await
    }

    /// Records that a customer took the consent back ([`Gate::withdraw`]): in force with the next message.
    ///
    /// # Errors
    /// As [`Gate::withdraw`]; [`ErrorKind::Config`] without an address key.
    pub async fn withdraw(
        &self,
        ctx: &Context,
        customer: CustomerId,
        address: &Address,
        purpose: &Purpose,
        evidence: Evidence,
    ) -> Result<ConsentEvent> {
        self.gate()?
            .withdraw(ctx, customer, address, purpose, evidence)
            .await
    }

    /// Suppresses an address ([`Gate::suppress`]).
    ///
    /// # Errors
    /// As [`Gate::suppress`]; [`ErrorKind::Config`] without an address key.
    pub async fn suppress(
        &self,
        ctx: &Context,
        address: &Address,
        scope: SuppressionScope,
        reason: SuppressionReason,
    ) -> Result<()> {
        self.gate()?.suppress(ctx, address, scope, reason).await
    }

    /// Lifts a suppression ([`Gate::unsuppress`]).
    ///
    /// # Errors
    /// As [`Gate::unsuppress`]; [`ErrorKind::Config`] without an address key.
    pub async fn unsuppress(
        &self,
        ctx: &Context,
        address: &Address,
        scope: &SuppressionScope,
    ) -> Result<bool> {
        self.gate()?.unsuppress(ctx, address, scope).await
    }

    /// Why a customer would get a message now, or not ([`Gate::explain`]).
    ///
    /// # Errors
    /// As [`Gate::explain`]; [`ErrorKind::Config`] without an address key.
    pub async fn explain(
        &self,
        ctx: &Context,
        customer: CustomerId,
        address: &Address,
        purpose: &Purpose,
    ) -> Result<Decision> {
        self.gate()?
            .explain(ctx, &Recipient::new(customer, address), purpose)
            .await
    }
}

impl fmt::Debug for Outreach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outreach")
            .field("mode", &self.mode)
            .field("providers", &self.providers)
            .finish_non_exhaustive()
    }
}
