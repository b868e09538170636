//! Who may be looked at for a purpose.

use std::collections::{BTreeMap, HashMap, HashSet};

use crm_core::capability::RecordStore;
use crm_core::consent::{
    AddressKey, CONSENT_EVENT, ConsentAction, ConsentEvent, ConsentState, LegalBasis, Purpose, SUPPRESSION,
    Suppression, SuppressionReason,
};
use crm_core::customer::{CONTACT_POINT, CUSTOMER_ALIAS, ContactKind};
use crm_core::query::{Filter, Query};
use crm_core::record::{Entity, Schema, Stored};
use crm_core::{Context, CustomerId, Result, Timestamp};
use serde::{Deserialize, Serialize};

/// Records of one page.
const PAGE: u32 = 1_000;

/// Who may be looked at for a purpose, as it stood at one moment.
///
/// Where the purpose needs consent ([`Purpose::needs_consent`]), those with a consent in force at one of their addresses
/// at least; nothing on record means no. Where it rests on a legitimate interest, everybody but those who objected or took
/// a consent back. Where it rests on a contract or a duty, everybody. Whoever objected at any address is out in the first
/// two cases, whatever stands at another one: a person who is asked twice has said it once.
///
/// People who were several customers until they were merged are judged as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    purpose: Purpose,
    as_of: Timestamp,
    refused: HashSet<CustomerId>,
    /// Those with an address that must be left alone.
    suppressed: HashSet<CustomerId>,
    /// `None` when no consent is needed.
    agreed: Option<HashSet<CustomerId>>,
}

/// Who was let in and who was not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AudienceReport {
    /// The purpose's name.
    pub purpose: String,
    /// Customers who may be looked at.
    pub admitted: usize,
    /// Customers who objected, or took a consent back.
    pub objected: usize,
    /// Customers with an address whose owner unsubscribed, complained or asked to be forgotten
    /// ([`Audience::with_suppressions`]).
    #[serde(default)]
    pub suppressed: usize,
    /// Customers who never agreed, where that is needed.
    pub without_consent: usize,
}

async fn all(
    store: &dyn RecordStore,
    ctx: &Context,
    schema: &'static Schema,
    filter: Filter,
) -> Result<Vec<Stored>> {
    let mut query = Query::new(filter).limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = store.find(ctx, schema, &query).await?;
        found.extend(page.items);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(found),
        }
    }
}

impl Audience {
    /// Reads what people said about a purpose until `as_of`. Needs about 50 bytes for each who said something.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] for a badly named purpose; those of the store.
    pub async fn read(
        ctx: &Context,
        store: &dyn RecordStore,
        purpose: &Purpose,
        as_of: Timestamp,
    ) -> Result<Self> {
        purpose
            .validate()
            .map_err(|error| error.operation("audience.read"))?;
        let mut audience = Self {
            purpose: purpose.clone(),
            as_of,
            refused: HashSet::new(),
            suppressed: HashSet::new(),
            agreed: purpose.needs_consent().then(HashSet::new),
        };
        if audience.agreed.is_none() && purpose.legal_basis != LegalBasis::LegitimateInterest {
            return Ok(audience);
        }
        let place = |error: crm_core::Error| error.operation("audience.read");
        // Who was merged into whom, and when the last of them.
        let mut now: HashMap<CustomerId, CustomerId> = HashMap::new();
        let mut merged: HashMap<CustomerId, (Vec<CustomerId>, Timestamp)> = HashMap::new();
        for stored in all(store, ctx, &CUSTOMER_ALIAS, Filter::All)
            .await
            .map_err(place)?
        {
            let into: CustomerId = stored.record.uuid("customer_id")?.into();
            let at = stored.record.timestamp("created_at")?;
            now.insert(stored.id.into(), into);
            let (members, last) = merged.entry(into).or_insert((Vec::new(), at));
            members.push(stored.id.into());
            *last = at.max(*last);
        }
        let said = Filter::eq("purpose", purpose.name.as_str());
        let mut events: BTreeMap<(CustomerId, String), Vec<ConsentEvent>> = BTreeMap::new();
        for stored in all(store, ctx, &CONSENT_EVENT, said).await.map_err(place)? {
            let event = ConsentEvent::from_stored(stored)?;
            // A yes on another ground than the purpose asks for is none; with double opt-in only a confirmed one is.
            let counts = !event.action.agrees()
                || (event.basis.is_none_or(|basis| basis == purpose.legal_basis)
                    && (!purpose.double_opt_in || event.action == ConsentAction::Confirmed));
            if event.at > as_of || !counts {
                continue;
            }
            let who = now.get(&event.customer_id).copied().unwrap_or(event.customer_id);
            events
                .entry((who, event.address_key.clone()))
                .or_default()
                .push(event);
        }
        for ((who, _), events) in &events {
            let state = match merged.get(who) {
                Some((members, at)) => ConsentState::derive_merged(events, *who, members, *at, as_of),
                None => ConsentState::derive(events, *who, as_of),
            };
            match state {
                ConsentState::Objected { .. } | ConsentState::Withdrawn { .. } => {
                    audience.refused.insert(*who);
                }
                ConsentState::Granted { .. } => {
                    if let Some(agreed) = &mut audience.agreed {
                        agreed.insert(*who);
                    }
                }
                _ => {}
            }
        }
        Ok(audience)
    }

    /// Takes out those with an address that is suppressed for the purpose because its owner unsubscribed, complained or
    /// asked to be forgotten: suppressions name no customer, so they are found by the keyed hash of each contact point.
    /// That an address is dead, or that the host keeps it back, says nothing of the person. About a microsecond for each
    /// contact point, once anything is suppressed.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn with_suppressions(
        mut self,
        ctx: &Context,
        store: &dyn RecordStore,
        key: &AddressKey,
    ) -> Result<Self> {
        let place = |error: crm_core::Error| error.operation("audience.suppressions");
        let mut kept_back: HashSet<String> = HashSet::new();
        for stored in all(store, ctx, &SUPPRESSION, Filter::All).await.map_err(place)? {
            let one = Suppression::from_stored(stored)?;
            let said = matches!(
                one.reason,
                SuppressionReason::Unsubscribed | SuppressionReason::Complaint | SuppressionReason::Erased
            );
            let now = one.created_at <= self.as_of && one.expires_at.is_none_or(|until| until > self.as_of);
            if said && now && one.scope.covers(&self.purpose) {
                kept_back.insert(one.address_key);
            }
        }
        if kept_back.is_empty() {
            return Ok(self);
        }
        let mut query = Query::new(Filter::All).limit(PAGE);
        loop {
            let page = store.find(ctx, &CONTACT_POINT, &query).await.map_err(place)?;
            for point in &page.items {
                let kind = point.record.text("kind")?.parse();
                let kind: ContactKind = kind.map_err(|_| point.record.damaged("kind"))?;
                if kept_back.contains(&key.of(kind, point.record.text("value")?)) {
                    self.suppressed.insert(point.record.uuid("customer_id")?.into());
                }
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(self),
            }
        }
    }

    /// The purpose.
    pub fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    /// The moment up to which was looked at what people said.
    pub fn as_of(&self) -> Timestamp {
        self.as_of
    }

    /// Whether a customer may be looked at.
    pub fn admits(&self, customer: CustomerId) -> bool {
        !self.refused.contains(&customer)
            && !self.suppressed.contains(&customer)
            && self
                .agreed
                .as_ref()
                .is_none_or(|agreed| agreed.contains(&customer))
    }

    /// A report about nobody, to be filled by [`Audience::judge`].
    pub fn report(&self) -> AudienceReport {
        AudienceReport {
            purpose: self.purpose.name.clone(),
            ..AudienceReport::default()
        }
    }

    /// As [`Audience::admits`], and counted.
    pub fn judge(&self, customer: CustomerId, report: &mut AudienceReport) -> bool {
        let admitted = self.admits(customer);
        if admitted {
            report.admitted += 1;
        } else if self.refused.contains(&customer) {
            report.objected += 1;
        } else if self.suppressed.contains(&customer) {
            report.suppressed += 1;
        } else {
            report.without_consent += 1;
        }
        admitted
    }
}
