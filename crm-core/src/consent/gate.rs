use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::capability::RecordStore;
use crate::customer::{Address, CUSTOMER_ALIAS, ContactKind, CustomerId};
use crate::message::{Permitted, Sendable};
use crate::query::{Filter, Query};
use crate::record::{Entity, Schema, Stored, Write};
use crate::{Clock, Context, Error, ErrorKind, IdSource, RandomIds, Result, Timestamp};

use super::facts::{Asked, Facts, Merged};
use super::{
    AddressKey, Ask, CONSENT_EVENT, ConsentAction, ConsentEvent, ConsentState, Decision, Evidence, Purpose,
    Recipient, SUPPRESSION, Suppression, SuppressionReason, SuppressionScope, Verdict, rules,
};

/// How many recipients are asked for at once.
const CHUNK: usize = 200;

/// Decides whether a message may go out, from what is stored at that moment, and alone makes [`Permitted`] messages.
///
/// The rules, in order; the first "no" ends it:
/// 1. purpose: well named;
/// 1. contact: the address is a contact point of the customer and not known to be dead;
/// 1. suppression: none covers the purpose;
/// 1. consent: in force, where the purpose needs it ([`Purpose::needs_consent`]). Nothing on record means no.
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
    /// [`ErrorKind::Refused`] with the rule that said no; [`ErrorKind::Invalid`] for a badly named purpose; those of the
    /// store.
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

    /// Lets many messages out, each for a purpose of its own, or says why not, in the order asked. One question a kind of
    /// record to the store for every 200 of them, whatever their purposes. A message nobody may send (a badly named
    /// purpose, say) gets a [`Verdict::No`]; the others go on.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn permit_all(&self, ctx: &Context, asks: Vec<Ask>) -> Result<Vec<Verdict>> {
        let mut verdicts = Vec::with_capacity(asks.len());
        let mut rest = asks.into_iter();
        loop {
            let chunk: Vec<Ask> = rest.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return Ok(verdicts);
            }
            let asked: Vec<Asked<'_>> = chunk
                .iter()
                .map(|ask| self.asked(Recipient::of(&ask.message, ask.customer), &ask.purpose))
                .collect();
            let facts = Facts::load(self, ctx, &asked).await?;
            let now = self.clock.now();
            let decisions: Vec<Decision> = asked
                .iter()
                .map(|asked| rules::decide(&facts, asked, now))
                .collect();
            verdicts.extend(
                chunk
                    .into_iter()
                    .zip(decisions)
                    .map(|(ask, decision)| Verdict::of(ask.message, decision, Vec::new())),
            );
        }
    }

    fn asked<'a>(&self, recipient: Recipient, purpose: &'a Purpose) -> Asked<'a> {
        let key = self.key.of(recipient.kind(), &recipient.address);
        Asked {
            recipient,
            purpose,
            key,
        }
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

    /// The decisions about many recipients, in their order, with one question a kind of record to the store for every 200
    /// of them.
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
            let asked: Vec<Asked<'_>> = chunk.iter().map(|r| self.asked(r.clone(), purpose)).collect();
            let facts = Facts::load(self, ctx, &asked).await?;
            let now = self.clock.now();
            decisions.extend(asked.iter().map(|asked| rules::decide(&facts, asked, now)));
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
        let key = self.key.of(recipient.kind(), &recipient.address);
        let filter = Filter::eq("address_key", key).and(Filter::eq("purpose", purpose.name.as_str()));
        let events: Vec<ConsentEvent> = self.all(ctx, filter).await?;
        let merged = Merged::load(self, ctx, BTreeSet::from([recipient.customer.uuid()])).await?;
        Ok(merged.state(&events, recipient.customer, self.clock.now()))
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
            kind: Recipient::new(customer, address).kind(),
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

    pub(super) async fn stored(
        &self,
        ctx: &Context,
        schema: &'static Schema,
        filter: Filter,
    ) -> Result<Vec<Stored>> {
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

    pub(super) async fn all<E: Entity>(&self, ctx: &Context, filter: Filter) -> Result<Vec<E>> {
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
