use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::capability::RecordStore;
use crate::customer::{Address, CUSTOMER_ALIAS, ContactKind, CustomerId};
use crate::message::{MessageId, Permitted, Sendable};
use crate::query::{Filter, Query};
use crate::record::{Entity, Schema, Stored, Write};
use crate::{Clock, Context, Error, ErrorKind, IdSource, RandomIds, Result, Timestamp};

use super::facts::{Asked, Facts, Merged};
use super::{
    AddressKey, Ask, CONSENT_EVENT, ConsentAction, ConsentEvent, ConsentState, Decision, Evidence, GateRules,
    OPT_IN, PURPOSE, Purpose, Recipient, SEND_COUNT, SOFT_FAILURE, SUPPRESSION, SuppressionReason, Verdict,
    rules,
};

/// How many recipients are asked for at once.
const CHUNK: usize = 200;
/// How often a single message is asked for anew when somebody else was let out under the same cap meanwhile.
const ROUNDS: usize = 16;

/// Decides whether a message may go out, from what is stored at that moment, and alone makes [`Permitted`] messages.
///
/// The rules, in order; the first "no" ends it:
/// 1. purpose: well named, and used as it is on record ([`Gate::register_purpose`]);
/// 2. contact: the address is a contact point of the customer and not known to be dead;
/// 3. suppression: none covers the purpose and the channel;
/// 4. consent: in force for this purpose and channel, where the purpose needs it ([`Purpose::needs_consent`]). Nothing on
///    record means no. What rests on a legitimate interest goes out unless the person objected;
/// 5. quiet hours ([`super::QuietHours`]), by the clock on the recipient's wall;
/// 6. frequency ([`super::FrequencyCap`]).
///
/// The last two are the host's ([`Gate::with_rules`]), and only put a message off.
#[derive(Clone)]
pub struct Gate {
    pub(super) store: Arc<dyn RecordStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: Arc<dyn IdSource>,
    pub(super) key: AddressKey,
    pub(super) rules: Arc<GateRules>,
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
            rules: Arc::default(),
        }
    }

    /// Enforces these rules too.
    ///
    /// # Errors
    /// As [`GateRules::validate`].
    pub fn with_rules(mut self, rules: GateRules) -> Result<Self> {
        rules.validate()?;
        self.rules = Arc::new(rules);
        Ok(self)
    }

    /// The rules it enforces.
    pub fn rules(&self) -> &GateRules {
        &self.rules
    }

    /// Takes ids of events and suppressions from `ids`.
    #[must_use]
    pub fn with_ids(mut self, ids: Arc<dyn IdSource>) -> Self {
        self.ids = ids;
        self
    }

    /// What it stores; to be passed to [`RecordStore::migrate`].
    pub fn schemas() -> [&'static Schema; 7] {
        [
            &CONSENT_EVENT,
            &SUPPRESSION,
            &CUSTOMER_ALIAS,
            &PURPOSE,
            &OPT_IN,
            &SEND_COUNT,
            &SOFT_FAILURE,
        ]
    }

    /// Lets a message out, or says why not. Reads the facts itself, so ask right before sending.
    ///
    /// What counts towards a [`super::FrequencyCap`] is counted at once.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] with the rule that said no; [`ErrorKind::Invalid`] for a badly named purpose;
    /// [`ErrorKind::Conflict`] when others are let out under the same cap all the time; those of the store.
    pub async fn permit<M: Sendable>(
        &self,
        ctx: &Context,
        message: M,
        purpose: &Purpose,
        customer: CustomerId,
    ) -> Result<Permitted<M>> {
        purpose.validate()?;
        let id = message.message_id();
        let asked = [self.asked(Recipient::of(&message, customer), purpose, Some(id))];
        for _ in 0..ROUNDS {
            let facts = Facts::load(self, ctx, &asked).await?;
            let Some((decision, writes)) = self.answer(facts, &asked)?.pop() else {
                return Err(Error::unexpected("no decision about a message"));
            };
            if !decision.allowed {
                return Err(Error::new(ErrorKind::Refused, decision.last().to_owned())
                    .operation("gate.permit")
                    .with("purpose", &purpose.name)
                    .with("message", id));
            }
            if !writes.is_empty() {
                match self.store.apply(ctx, &writes).await {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Conflict => continue,
                    Err(error) => return Err(error),
                }
            }
            return Ok(Permitted::new(message, decision));
        }
        Err(
            Error::conflict("others are let out under the same cap all the time; ask again")
                .operation("gate.permit")
                .with("message", id),
        )
    }

    /// The decisions, and what counts those who may go.
    fn answer(&self, mut facts: Facts<'_>, asked: &[Asked<'_>]) -> Result<Vec<(Decision, Vec<Write>)>> {
        let now = self.clock.now();
        let mut answers = Vec::with_capacity(asked.len());
        for asked in asked {
            let decision = rules::decide(&facts, asked, now);
            let mut writes = Vec::new();
            if let (true, Some(message)) = (decision.allowed, asked.message) {
                let caps: Vec<_> = facts.caps(asked).collect();
                for cap in caps {
                    writes.extend(facts.counts.count(cap, asked.customer(), message, now)?);
                }
            }
            answers.push((decision, writes));
        }
        Ok(answers)
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
                .map(|ask| {
                    let recipient = Recipient::of(&ask.message, ask.customer);
                    self.asked(recipient, &ask.purpose, Some(ask.message.message_id()))
                })
                .collect();
            let facts = Facts::load(self, ctx, &asked).await?;
            let answers = self.answer(facts, &asked)?;
            verdicts.extend(
                chunk
                    .into_iter()
                    .zip(answers)
                    .map(|(ask, (decision, writes))| Verdict::of(ask.message, decision, writes)),
            );
        }
    }

    fn asked<'a>(&self, recipient: Recipient, purpose: &'a Purpose, message: Option<MessageId>) -> Asked<'a> {
        let key = self.key.of(recipient.kind(), &recipient.address);
        Asked {
            recipient,
            purpose,
            message,
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
            let asked: Vec<Asked<'_>> = chunk
                .iter()
                .map(|r| self.asked(r.clone(), purpose, None))
                .collect();
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
        let purpose = self.purpose(ctx, purpose).await?;
        let key = self.key.of(recipient.kind(), &recipient.address);
        let filter = Filter::eq("address_key", key).and(Filter::eq("purpose", purpose.name.as_str()));
        let events: Vec<ConsentEvent> = self.all(ctx, filter).await?;
        let merged = Merged::load(self, ctx, BTreeSet::from([recipient.customer.uuid()])).await?;
        let now = self.clock.now();
        Ok(merged.state(&events, recipient.customer, &purpose, recipient.channel, now))
    }

    /// An event to be recorded, at this moment, about every channel that reaches the address
    /// ([`ConsentEvent::by`] narrows it down).
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
        let mut event = self.event_at(&Recipient::new(customer, address), purpose, action, evidence);
        event.channel = None;
        Ok(event)
    }

    pub(super) fn event_at(
        &self,
        recipient: &Recipient,
        purpose: &Purpose,
        action: ConsentAction,
        evidence: Evidence,
    ) -> ConsentEvent {
        ConsentEvent {
            id: self.ids.fresh().into(),
            purpose: purpose.name.clone(),
            kind: recipient.kind(),
            channel: Some(recipient.channel),
            address_key: self.key.of(recipient.kind(), &recipient.address),
            customer_id: recipient.customer,
            action,
            at: self.clock.now(),
            expires_at: None,
            basis: None,
            evidence,
        }
    }

    /// Records events, all or none; one that is there already is left alone. The log only grows.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when one that agrees has no evidence; [`ErrorKind::Refused`] when one agrees for an address
    /// whose owner asked to be forgotten; those of the store.
    pub async fn record(&self, ctx: &Context, events: &[ConsentEvent]) -> Result<()> {
        self.record_with(ctx, events.to_vec(), Vec::new()).await
    }

    pub(super) async fn record_with(
        &self,
        ctx: &Context,
        events: Vec<ConsentEvent>,
        also: Vec<Write>,
    ) -> Result<()> {
        let mut writes = also;
        let mut agreeing = BTreeSet::new();
        for mut event in events {
            if event.action.agrees() {
                Evidence::new(&event.evidence.source, &event.evidence.notice)?;
                agreeing.insert(event.address_key.clone());
            }
            event.evidence.actor.get_or_insert_with(|| ctx.acting().clone());
            writes.push(Write::insert_or_skip(event.id, event.to_record()?));
        }
        self.not_erased(ctx, agreeing).await?;
        self.store.apply(ctx, &writes).await.map(drop)
    }

    /// Nobody who asked to be forgotten is brought back by a form or an import. Whoever wants to come back lifts the
    /// suppression first.
    async fn not_erased(&self, ctx: &Context, keys: BTreeSet<String>) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let erased =
            Filter::one_of("address_key", keys).and(Filter::eq("reason", SuppressionReason::Erased.as_str()));
        if self.store.count(ctx, &SUPPRESSION, &erased).await? == 0 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Refused,
            "the owner of the address asked to be forgotten; lift that suppression before recording a consent",
        )
        .operation("gate.record")
        .with("field", "address"))
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
        let purpose = self.purpose(ctx, purpose).await?;
        let mut event = self.event(customer, address, &purpose, ConsentAction::Granted, evidence)?;
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

    /// The name under which an address is remembered: a keyed hash, which says nothing without the key.
    pub fn address_key(&self, kind: ContactKind, canonical: &str) -> String {
        self.key.of(kind, canonical)
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
