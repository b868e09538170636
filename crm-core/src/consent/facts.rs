//! What is stored about those who would get a message, read with one question a kind of record.

use std::collections::{BTreeSet, HashMap};

use crate::customer::{CONTACT_POINT, CUSTOMER, CUSTOMER_ALIAS, ContactKind, ContactState, CustomerId};
use crate::message::{Channel, MessageId};
use crate::query::Filter;
use crate::record::Value;
use crate::{Context, Result, Timestamp, Uuid};

use super::cap::Counts;
use super::gate::Gate;
use super::quiet::Whereabouts;
use super::{ConsentEvent, ConsentState, GateRules, Purpose, Recipient, RegisteredPurpose, Suppression};

/// Who was merged into a customer, and when the last of them.
#[derive(Debug, Default)]
pub(super) struct Merged(HashMap<CustomerId, (Vec<CustomerId>, Timestamp)>);

impl Merged {
    pub(super) async fn load(gate: &Gate, ctx: &Context, customers: BTreeSet<Uuid>) -> Result<Self> {
        let mut merged: HashMap<_, (Vec<CustomerId>, Timestamp)> = HashMap::new();
        let filter = Filter::one_of("customer_id", customers);
        for stored in gate.stored(ctx, &CUSTOMER_ALIAS, filter).await? {
            let into: CustomerId = stored.record.uuid("customer_id")?.into();
            let at = stored.record.timestamp("created_at")?;
            let (members, last) = merged.entry(into).or_insert((Vec::new(), at));
            members.push(stored.id.into());
            *last = at.max(*last);
        }
        Ok(Self(merged))
    }

    pub(super) fn members(&self, customer: CustomerId) -> &[CustomerId] {
        self.0.get(&customer).map_or(&[], |(members, _)| members)
    }

    /// Where the consent stands, from the events about one address and purpose.
    pub(super) fn state<'a>(
        &self,
        events: impl IntoIterator<Item = &'a ConsentEvent>,
        customer: CustomerId,
        purpose: &Purpose,
        channel: Channel,
        now: Timestamp,
    ) -> ConsentState {
        let events: Vec<&ConsentEvent> = events
            .into_iter()
            .filter(|e| e.concerns(channel) && (!e.action.agrees() || purpose.accepts(e.basis)))
            .collect();
        let merged = self
            .0
            .get(&customer)
            .map(|(members, at)| (members.as_slice(), *at));
        ConsentState::read(events, customer, merged, now, purpose.double_opt_in)
    }
}

/// One question to the gate.
pub(super) struct Asked<'a> {
    pub(super) recipient: Recipient,
    pub(super) purpose: &'a Purpose,
    /// The message, when there is one already.
    pub(super) message: Option<MessageId>,
    /// The keyed hash of the address.
    pub(super) key: String,
}

impl Asked<'_> {
    pub(super) fn customer(&self) -> CustomerId {
        self.recipient.customer
    }
    pub(super) fn channel(&self) -> Channel {
        self.recipient.channel
    }
}

/// All that is stored about a chunk of recipients, and the rules.
#[derive(Debug)]
pub(super) struct Facts<'g> {
    pub(super) rules: &'g GateRules,
    pub(super) purposes: HashMap<String, RegisteredPurpose>,
    pub(super) contacts: HashMap<(CustomerId, ContactKind, String), ContactState>,
    pub(super) suppressions: HashMap<String, Vec<Suppression>>,
    /// By address and purpose.
    pub(super) consents: HashMap<(String, String), Vec<ConsentEvent>>,
    pub(super) merged: Merged,
    /// What the customer said about their time zone, and their country.
    profiles: HashMap<CustomerId, (Option<String>, Option<String>)>,
    pub(super) counts: Counts,
}

impl<'g> Facts<'g> {
    pub(super) async fn load(gate: &'g Gate, ctx: &Context, asked: &[Asked<'_>]) -> Result<Self> {
        let names: BTreeSet<&str> = asked.iter().map(|a| a.purpose.name.as_str()).collect();
        let mut facts = Self {
            rules: &gate.rules,
            purposes: HashMap::new(),
            contacts: HashMap::new(),
            suppressions: HashMap::new(),
            consents: HashMap::new(),
            merged: Merged::default(),
            profiles: HashMap::new(),
            counts: Counts::default(),
        };
        for known in gate.latest(ctx, Filter::one_of("name", names)).await? {
            facts.purposes.insert(known.purpose.name.clone(), known);
        }
        facts.contacts(gate, ctx, asked).await?;
        let keys: BTreeSet<&str> = asked.iter().map(|a| a.key.as_str()).collect();
        for suppression in gate
            .all::<Suppression>(ctx, Filter::one_of("address_key", keys))
            .await?
        {
            facts
                .suppressions
                .entry(suppression.address_key.clone())
                .or_default()
                .push(suppression);
        }
        facts.consents(gate, ctx, asked).await?;
        facts.limits(gate, ctx, asked).await?;
        Ok(facts)
    }

    async fn contacts(&mut self, gate: &Gate, ctx: &Context, asked: &[Asked<'_>]) -> Result<()> {
        let customers: BTreeSet<Uuid> = asked.iter().map(|a| a.customer().uuid()).collect();
        let filter = Filter::one_of("customer_id", customers);
        for stored in gate.stored(ctx, &CONTACT_POINT, filter).await? {
            let r = &stored.record;
            let kind = r.text("kind")?.parse().map_err(|_| r.damaged("kind"))?;
            let state = r.text("state")?.parse().map_err(|_| r.damaged("state"))?;
            let key = (r.uuid("customer_id")?.into(), kind, r.text("value")?.to_owned());
            self.contacts.insert(key, state);
        }
        Ok(())
    }

    async fn consents(&mut self, gate: &Gate, ctx: &Context, asked: &[Asked<'_>]) -> Result<()> {
        let asking: Vec<&Asked<'_>> = asked.iter().filter(|a| self.purpose(a).asks_consent()).collect();
        let caps = asked
            .iter()
            .filter(|a| self.caps(a).next().is_some())
            .map(|a| a.customer().uuid());
        let customers: BTreeSet<Uuid> = asking.iter().map(|a| a.customer().uuid()).chain(caps).collect();
        if !customers.is_empty() {
            self.merged = Merged::load(gate, ctx, customers).await?;
        }
        if asking.is_empty() {
            return Ok(());
        }
        let keys: BTreeSet<&str> = asking.iter().map(|a| a.key.as_str()).collect();
        let purposes: BTreeSet<&str> = asking.iter().map(|a| a.purpose.name.as_str()).collect();
        let filter = Filter::one_of("address_key", keys).and(Filter::one_of("purpose", purposes));
        for event in gate.all::<ConsentEvent>(ctx, filter).await? {
            self.consents
                .entry((event.address_key.clone(), event.purpose.clone()))
                .or_default()
                .push(event);
        }
        Ok(())
    }

    async fn limits(&mut self, gate: &Gate, ctx: &Context, asked: &[Asked<'_>]) -> Result<()> {
        let quiet = |a: &&Asked<'_>| {
            let (purpose, channel) = (self.purpose(a), a.channel());
            self.rules
                .quiet
                .iter()
                .any(|rule| rule.may_concern(purpose, channel))
        };
        let customers: BTreeSet<Uuid> = asked.iter().filter(quiet).map(|a| a.customer().uuid()).collect();
        if !customers.is_empty() {
            let ids: Vec<Uuid> = customers.into_iter().collect();
            for stored in gate.store.get(ctx, &CUSTOMER, &ids).await?.into_iter().flatten() {
                let r = &stored.record;
                let said = r
                    .get("attributes")
                    .and_then(Value::as_json)
                    .and_then(|attributes| attributes.get("timezone")?.as_str())
                    .map(str::to_owned);
                let country = r.get("country").and_then(Value::as_str).map(str::to_owned);
                self.profiles.insert(stored.id.into(), (said, country));
            }
        }
        let counted: BTreeSet<Uuid> = asked
            .iter()
            .filter(|a| self.caps(a).next().is_some())
            .flat_map(|a| {
                std::iter::once(a.customer()).chain(self.merged.members(a.customer()).iter().copied())
            })
            .map(CustomerId::uuid)
            .collect();
        if !counted.is_empty() {
            self.counts = Counts::load(gate, ctx, counted).await?;
        }
        Ok(())
    }

    /// The purpose as it is on record, else as it was given.
    pub(super) fn purpose<'a>(&'a self, asked: &'a Asked<'_>) -> &'a Purpose {
        self.purposes
            .get(&asked.purpose.name)
            .map_or(asked.purpose, |known| &known.purpose)
    }

    /// The caps that a message counts towards.
    pub(super) fn caps<'a>(
        &'a self,
        asked: &'a Asked<'_>,
    ) -> impl Iterator<Item = &'g super::FrequencyCap> + use<'a, 'g> {
        let purpose = self.purpose(asked);
        let channel = asked.channel();
        self.rules
            .caps
            .iter()
            .filter(move |cap| cap.concerns(purpose, channel))
    }

    pub(super) fn state(&self, asked: &Asked<'_>, now: Timestamp) -> ConsentState {
        let events = self
            .consents
            .get(&(asked.key.clone(), asked.purpose.name.clone()))
            .map_or(&[][..], Vec::as_slice);
        self.merged.state(
            events,
            asked.customer(),
            self.purpose(asked),
            asked.channel(),
            now,
        )
    }

    pub(super) fn whereabouts(&self, asked: &Asked<'_>) -> Whereabouts {
        let profile = self.profiles.get(&asked.customer());
        let phone =
            (asked.recipient.kind() == ContactKind::Phone).then_some(asked.recipient.address.as_str());
        Whereabouts::of(
            profile.and_then(|(said, _)| said.as_deref()),
            phone,
            profile.and_then(|(_, country)| country.as_deref()),
            self.rules.default_zone,
        )
    }
}
