use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::capability::RecordStore;
use crate::customer::{Address, CONTACT_POINT, CUSTOMER_ALIAS, ContactKind, ContactState, CustomerId};
use crate::message::{Permitted, Sendable};
use crate::query::{Filter, Query};
use crate::record::{Entity, Schema, Stored, Write};
use crate::{Clock, Context, Error, ErrorKind, IdSource, RandomIds, Result, Timestamp, Uuid};

use super::{
    AddressKey, CONSENT_EVENT, ConsentAction, ConsentEvent, ConsentState, Decision, Evidence, Purpose,
    SUPPRESSION, Suppression, SuppressionReason, SuppressionScope,
};

/// How many recipients are asked for at once.
const CHUNK: usize = 200;

/// Whom a message would go to. `Debug` shows no address.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient {
    customer: CustomerId,
    kind: ContactKind,
    address: String,
}

impl Recipient {
    /// A customer at one of their addresses.
    pub fn new(customer: CustomerId, address: &Address) -> Self {
        let (kind, text) = match address {
            Address::Email(email) => (ContactKind::Email, email.as_str()),
            Address::Phone(phone) => (ContactKind::Phone, phone.as_str()),
        };
        Self {
            customer,
            kind,
            address: text.to_owned(),
        }
    }

    /// Whom a message goes to.
    pub fn of<M: Sendable + ?Sized>(message: &M, customer: CustomerId) -> Self {
        Self {
            customer,
            kind: message.contact_kind(),
            address: message.recipient().to_owned(),
        }
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({}, {:?}, ..)", self.customer, self.kind)
    }
}

/// Decides whether a message may go out, from what is stored at that moment, and alone makes [`Permitted`] messages.
///
/// The rules, in order; the first "no" ends it:
/// 1. contact: the address is a contact point of the customer and not known to be dead;
/// 2. suppression: none covers the purpose;
/// 3. consent: in force, where the purpose needs it ([`Purpose::needs_consent`]). Nothing on record means no.
#[derive(Clone)]
pub struct Gate {
    store: Arc<dyn RecordStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    key: AddressKey,
}

impl Gate {
    /// A gate over the records of `store`.
    pub fn new(store: Arc<dyn RecordStore>, clock: Arc<dyn Clock>, key: AddressKey) -> Self {
        let ids = Arc::new(RandomIds::new(clock.clone()));
        Self {
            store,
            clock,
            ids,
            key,
        }
    }

    /// Takes ids of events and suppressions from `ids`.
    #[must_use]
    pub fn with_ids(mut self, ids: Arc<dyn IdSource>) -> Self {
        self.ids = ids;
        self
    }

    /// What it stores; to be passed to [`RecordStore::migrate`].
    pub fn schemas() -> [&'static Schema; 3] {
        [&CONSENT_EVENT, &SUPPRESSION, &CUSTOMER_ALIAS]
    }

    /// Lets a message out, or says why not. Reads the facts itself, so ask right before sending.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] with the rule that said no; those of the store.
    pub async fn permit<M: Sendable>(
        &self,
        ctx: &Context,
        message: M,
        purpose: &Purpose,
        customer: CustomerId,
    ) -> Result<Permitted<M>> {
        let decision = self
            .explain(ctx, &Recipient::of(&message, customer), purpose)
            .await?;
        if decision.allowed {
            return Ok(Permitted::new(message, decision));
        }
        Err(Error::new(ErrorKind::Refused, decision.last().to_owned())
            .operation("gate.permit")
            .with("purpose", &purpose.name)
            .with("message", message.message_id()))
    }

    /// The decision about one recipient, with every rule asked.
    ///
    /// # Errors
    /// Those of the store; [`ErrorKind::Invalid`] for a badly named purpose.
    pub async fn explain(&self, ctx: &Context, recipient: &Recipient, purpose: &Purpose) -> Result<Decision> {
        let decisions = self
            .explain_all(ctx, std::slice::from_ref(recipient), purpose)
            .await?;
        decisions
            .into_iter()
            .next()
            .ok_or_else(|| Error::unexpected("no decision about a recipient"))
    }

    /// The decisions about many recipients, in their order, with at most four questions to the store per 200 of them.
    ///
    /// # Errors
    /// As [`Gate::explain`].
    pub async fn explain_all(
        &self,
        ctx: &Context,
        recipients: &[Recipient],
        purpose: &Purpose,
    ) -> Result<Vec<Decision>> {
        purpose.validate()?;
        let mut decisions = Vec::with_capacity(recipients.len());
        for chunk in recipients.chunks(CHUNK) {
            let facts = Facts::load(self, ctx, chunk, purpose).await?;
            let now = self.clock.now();
            decisions.extend(chunk.iter().map(|recipient| {
                let key = self.key.of(recipient.kind, &recipient.address);
                facts.decide(recipient, &key, purpose, now)
            }));
        }
        Ok(decisions)
    }

    /// Where the consent of one recipient stands.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn consent(
        &self,
        ctx: &Context,
        recipient: &Recipient,
        purpose: &Purpose,
    ) -> Result<ConsentState> {
        let key = self.key.of(recipient.kind, &recipient.address);
        let filter = Filter::eq("address_key", key).and(Filter::eq("purpose", purpose.name.as_str()));
        let events: Vec<ConsentEvent> = self.all(ctx, filter).await?;
        let merged = self.merged(ctx, [recipient.customer.uuid()]).await?;
        Ok(derive(&events, recipient.customer, &merged, self.clock.now()))
    }

    /// An event to be recorded, at this moment.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a badly named purpose.
    pub fn event(
        &self,
        customer: CustomerId,
        address: &Address,
        purpose: &Purpose,
        action: ConsentAction,
        evidence: Evidence,
    ) -> Result<ConsentEvent> {
        purpose.validate()?;
        Ok(ConsentEvent {
            id: self.ids.fresh().into(),
            purpose: purpose.name.clone(),
            kind: Recipient::new(customer, address).kind,
            address_key: self.key.of_address(address),
            customer_id: customer,
            action,
            at: self.clock.now(),
            expires_at: None,
            evidence,
        })
    }

    /// Records events, all or none; one that is there already is left alone.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when a grant has no evidence; those of the store.
    pub async fn record(&self, ctx: &Context, events: &[ConsentEvent]) -> Result<()> {
        let mut writes = Vec::with_capacity(events.len());
        for event in events {
            if event.action == ConsentAction::Granted {
                Evidence::new(&event.evidence.source, &event.evidence.notice)?;
            }
            writes.push(Write::insert_or_skip(event.id, event.to_record()?));
        }
        self.store.apply(ctx, &writes).await.map(drop)
    }

    /// Records that the person agreed, until `expires_at` if given.
    ///
    /// # Errors
    /// As [`Gate::record`].
    pub async fn grant(
        &self,
        ctx: &Context,
        customer: CustomerId,
        address: &Address,
        purpose: &Purpose,
        evidence: Evidence,
        expires_at: Option<Timestamp>,
    ) -> Result<ConsentEvent> {
        let mut event = self.event(customer, address, purpose, ConsentAction::Granted, evidence)?;
        event.expires_at = expires_at;
        self.record(ctx, std::slice::from_ref(&event)).await?;
        Ok(event)
    }

    /// Records that the person took the consent back. In force from the next decision on.
    ///
    /// # Errors
    /// As [`Gate::record`].
    pub async fn withdraw(
        &self,
        ctx: &Context,
        customer: CustomerId,
        address: &Address,
        purpose: &Purpose,
        evidence: Evidence,
    ) -> Result<ConsentEvent> {
        let event = self.event(customer, address, purpose, ConsentAction::Withdrawn, evidence)?;
        self.record(ctx, std::slice::from_ref(&event)).await?;
        Ok(event)
    }

    /// The write that suppresses an address, to go into a unit of work of the caller's.
    ///
    /// # Errors
    /// When the record cannot be made.
    pub fn suppression(
        &self,
        kind: ContactKind,
        canonical: &str,
        scope: SuppressionScope,
        reason: SuppressionReason,
    ) -> Result<Write> {
        let suppression = Suppression {
            id: self.ids.fresh().into(),
            kind,
            address_key: self.key.of(kind, canonical),
            scope,
            reason,
            created_at: self.clock.now(),
        };
        Ok(Write::insert_or_skip(suppression.id, suppression.to_record()?))
    }

    /// Suppresses an address. Doing it again changes nothing; the first reason stays.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn suppress(
        &self,
        ctx: &Context,
        address: &Address,
        scope: SuppressionScope,
        reason: SuppressionReason,
    ) -> Result<()> {
        let (kind, text) = match address {
            Address::Email(email) => (ContactKind::Email, email.as_str()),
            Address::Phone(phone) => (ContactKind::Phone, phone.as_str()),
        };
        let write = self.suppression(kind, text, scope, reason)?;
        self.store.apply(ctx, &[write]).await.map(drop)
    }

    /// Lifts the suppression of exactly this scope; answers whether there was one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn unsuppress(
        &self,
        ctx: &Context,
        address: &Address,
        scope: &SuppressionScope,
    ) -> Result<bool> {
        let filter = Filter::eq("address_key", self.key.of_address(address))
            .and(Filter::eq("scope", scope.to_string()));
        let found = self
            .store
            .find(ctx, &SUPPRESSION, &Query::new(filter).limit(1))
            .await?;
        let Some(stored) = found.items.first() else {
            return Ok(false);
        };
        match self
            .store
            .apply(ctx, &[Write::delete(&SUPPRESSION, stored.id, None)])
            .await
        {
            Ok(_) => Ok(true),
            // Somebody else lifted it at the same time.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn stored(&self, ctx: &Context, schema: &'static Schema, filter: Filter) -> Result<Vec<Stored>> {
        let mut query = Query::new(filter).limit(1000);
        let mut all = Vec::new();
        loop {
            let page = self.store.find(ctx, schema, &query).await?;
            all.extend(page.items);
            match page.next {
                Some(next) => query = query.after(Some(next)),
                None => return Ok(all),
            }
        }
    }

    /// The customers that were merged into these, by the one they are now.
    async fn merged(&self, ctx: &Context, customers: impl IntoIterator<Item = Uuid>) -> Result<Merged> {
        let mut merged = Merged::new();
        let filter = Filter::one_of("customer_id", customers);
        for stored in self.stored(ctx, &CUSTOMER_ALIAS, filter).await? {
            let into: CustomerId = stored.record.uuid("customer_id")?.into();
            let at = stored.record.timestamp("created_at")?;
            let (members, last) = merged.entry(into).or_insert((Vec::new(), at));
            members.push(stored.id.into());
            *last = at.max(*last);
        }
        Ok(merged)
    }

    async fn all<E: Entity>(&self, ctx: &Context, filter: Filter) -> Result<Vec<E>> {
        self.stored(ctx, E::schema(), filter)
            .await?
            .into_iter()
            .map(E::from_stored)
            .collect()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("store", &self.store.info().name)
            .finish_non_exhaustive()
    }
}

/// Who was merged into a customer, and when the last of them.
type Merged = HashMap<CustomerId, (Vec<CustomerId>, Timestamp)>;

fn derive(events: &[ConsentEvent], customer: CustomerId, merged: &Merged, now: Timestamp) -> ConsentState {
    match merged.get(&customer) {
        None => ConsentState::derive(events, customer, now),
        Some((members, at)) => ConsentState::derive_merged(events, customer, members, *at, now),
    }
}

/// All that is stored about a chunk of recipients.
#[derive(Default)]
struct Facts {
    contacts: HashMap<(CustomerId, ContactKind, String), ContactState>,
    suppressions: HashMap<String, Vec<Suppression>>,
    consents: HashMap<String, Vec<ConsentEvent>>,
    merged: Merged,
}

impl Facts {
    async fn load(gate: &Gate, ctx: &Context, recipients: &[Recipient], purpose: &Purpose) -> Result<Self> {
        let mut facts = Self::default();
        let customers: BTreeSet<Uuid> = recipients.iter().map(|r| r.customer.uuid()).collect();
        let keys: BTreeSet<String> = recipients
            .iter()
            .map(|r| gate.key.of(r.kind, &r.address))
            .collect();
        if purpose.needs_consent() {
            facts.merged = gate.merged(ctx, customers.clone()).await?;
        }
        for stored in gate
            .stored(ctx, &CONTACT_POINT, Filter::one_of("customer_id", customers))
            .await?
        {
            let r = &stored.record;
            let kind = r.text("kind")?.parse().map_err(|_| r.damaged("kind"))?;
            let state = r.text("state")?.parse().map_err(|_| r.damaged("state"))?;
            facts.contacts.insert(
                (r.uuid("customer_id")?.into(), kind, r.text("value")?.to_owned()),
                state,
            );
        }
        for suppression in gate
            .all::<Suppression>(ctx, Filter::one_of("address_key", keys.clone()))
            .await?
        {
            facts
                .suppressions
                .entry(suppression.address_key.clone())
                .or_default()
                .push(suppression);
        }
        if purpose.needs_consent() {
            let filter =
                Filter::one_of("address_key", keys).and(Filter::eq("purpose", purpose.name.as_str()));
            for event in gate.all::<ConsentEvent>(ctx, filter).await? {
                facts
                    .consents
                    .entry(event.address_key.clone())
                    .or_default()
                    .push(event);
            }
        }
        Ok(facts)
    }

    fn decide(&self, recipient: &Recipient, key: &str, purpose: &Purpose, now: Timestamp) -> Decision {
        let mut trace = Vec::with_capacity(3);
        let allowed = self.ask(&mut trace, recipient, key, purpose, now);
        Decision { allowed, trace }
    }

    fn ask(
        &self,
        trace: &mut Vec<String>,
        r: &Recipient,
        key: &str,
        purpose: &Purpose,
        now: Timestamp,
    ) -> bool {
        match self.contacts.get(&(r.customer, r.kind, r.address.clone())) {
            None => {
                trace.push("contact: the address is no contact point of this customer".to_owned());
                return false;
            }
            Some(ContactState::Invalid) => {
                trace.push("contact: the address is known not to work".to_owned());
                return false;
            }
            Some(state) => trace.push(format!("contact: the customer's own, {}", state.as_str())),
        }
        let covering = self
            .suppressions
            .get(key)
            .into_iter()
            .flatten()
            .find(|s| s.scope.covers(purpose));
        if let Some(found) = covering {
            trace.push(format!(
                "suppression: {} since {} ({})",
                found.scope,
                found.created_at,
                found.reason.as_str()
            ));
            return false;
        }
        trace.push("suppression: none".to_owned());
        if !purpose.needs_consent() {
            trace.push("consent: not needed for this purpose".to_owned());
            return true;
        }
        let events = self.consents.get(key).map_or(&[][..], Vec::as_slice);
        let (allowed, answer) = match derive(events, r.customer, &self.merged, now) {
            ConsentState::None => (false, format!("consent: none on record for {}", purpose.name)),
            ConsentState::Granted { since } => (true, format!("consent: granted {since}")),
            ConsentState::Withdrawn { since } => (false, format!("consent: withdrawn {since}")),
            ConsentState::Expired { since } => (false, format!("consent: expired {since}")),
        };
        trace.push(answer);
        allowed
    }
}
