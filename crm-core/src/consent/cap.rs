//! How often somebody may be written to.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::customer::CustomerId;
use crate::message::{Channel, MessageId};
use crate::query::Filter;
use crate::record::{Field, FieldType, Index, Record, Schema, Version, Write};
use crate::{Context, Error, Result, Timestamp, Uuid};

use super::key::named_id;
use super::{Gate, Purpose, PurposeClass};

/// The most messages a cap may allow: every one is remembered for as long as it counts.
const MOST: u32 = 1000;

/// At most so many messages to one customer in any stretch of so long, over all the channels it names together.
///
/// ```
/// use crm_core::consent::{FrequencyCap, PurposeClass};
///
/// let cap = FrequencyCap::new("touches", 3, std::time::Duration::from_secs(7 * 86_400)).of_class(PurposeClass::Marketing);
/// let data = serde_json::to_string(&cap).unwrap();
/// assert_eq!(data, r#"{"name":"touches","class":"marketing","most":3,"per":604800}"#);
/// assert_eq!(serde_json::from_str::<FrequencyCap>(&data).unwrap(), cap);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrequencyCap {
    /// Its name, as a purpose is named. What was counted is kept under it.
    pub name: String,
    /// Only purposes of this class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<PurposeClass>,
    /// Only these purposes; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub purposes: Vec<String>,
    /// Only these channels, counted together; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Channel>,
    /// How many, 1 to 1,000.
    pub most: u32,
    /// In any stretch of this length; as data, whole seconds.
    #[serde(with = "super::setting::seconds")]
    pub per: Duration,
}

impl FrequencyCap {
    /// At most so many of all messages in any stretch of this length.
    pub fn new(name: impl Into<String>, most: u32, per: Duration) -> Self {
        Self {
            name: name.into(),
            class: None,
            purposes: Vec::new(),
            channels: Vec::new(),
            most,
            per,
        }
    }

    /// Only purposes of this class.
    #[must_use]
    pub fn of_class(mut self, class: PurposeClass) -> Self {
        self.class = Some(class);
        self
    }

    /// Only this purpose, and others named so.
    #[must_use]
    pub fn of_purpose(mut self, name: impl Into<String>) -> Self {
        self.purposes.push(name.into());
        self
    }

    /// Only this channel, and others named so.
    #[must_use]
    pub fn by(mut self, channel: Channel) -> Self {
        self.channels.push(channel);
        self
    }

    pub(super) fn validate(&self) -> Result<()> {
        let wrong = |message: &'static str, field: &'static str| {
            Err(Error::config(message)
                .with("setting", field)
                .with("rule", &self.name))
        };
        super::purpose::named(&self.name)
            .map_err(|_| Error::config("a rule is named as a purpose is").with("setting", "caps.name"))?;
        if !(1..=MOST).contains(&self.most) {
            return wrong("a cap allows 1 to 1,000 messages", "caps.most");
        }
        if self.per < Duration::from_secs(1) {
            return wrong("a cap counts over at least a second", "caps.per");
        }
        Ok(())
    }

    pub(super) fn concerns(&self, purpose: &Purpose, channel: Channel) -> bool {
        self.class.is_none_or(|class| class == purpose.class)
            && (self.purposes.is_empty() || self.purposes.contains(&purpose.name))
            && (self.channels.is_empty() || self.channels.contains(&channel))
    }
}

/// How what counts towards a [`FrequencyCap`] is stored: one record a customer and rule, written at the version it was
/// read, so that of several workers only one gets the last place.
pub static SEND_COUNT: Schema = Schema {
    name: "crm_send_count",
    fields: &[
        Field::new("customer_id", FieldType::Uuid).pseudonym(),
        Field::new("rule", FieldType::Text),
        // When, and which message: `[[micros, id], ..]`.
        Field::new("sends", FieldType::Json).personal(),
        Field::new("updated_at", FieldType::Timestamp),
    ],
    indexes: &[Index::new("crm_send_count_customer", &["customer_id"])],
};

/// What was counted for one customer under one rule.
#[derive(Debug, Clone, Default)]
struct Count {
    version: Option<Version>,
    sends: Vec<(i64, Uuid)>,
}

/// What was counted for a chunk of customers.
#[derive(Debug, Default)]
pub(super) struct Counts(HashMap<(CustomerId, String), Count>);

fn id_of(customer: CustomerId, rule: &str) -> Uuid {
    named_id(&["send count", &customer.to_string(), rule])
}

impl Counts {
    pub(super) async fn load(
        gate: &Gate,
        ctx: &Context,
        customers: impl IntoIterator<Item = Uuid>,
    ) -> Result<Self> {
        let mut counts = Self::default();
        let filter = Filter::one_of("customer_id", customers);
        for stored in gate.stored(ctx, &SEND_COUNT, filter).await? {
            let r = &stored.record;
            let key = (r.uuid("customer_id")?.into(), r.text("rule")?.to_owned());
            let sends: Vec<(i64, Uuid)> = r.json("sends")?;
            let version = Some(stored.version);
            counts.0.insert(key, Count { version, sends });
        }
        Ok(counts)
    }

    /// From when on one more may go under this rule: `now` or later. `members` are who the customer was before merges.
    pub(super) fn free_at(
        &self,
        cap: &FrequencyCap,
        customer: CustomerId,
        members: &[CustomerId],
        message: Option<MessageId>,
        now: Timestamp,
    ) -> Timestamp {
        let since = now.minus(cap.per).as_micros();
        let mut counted: Vec<i64> = Vec::new();
        for who in std::iter::once(&customer).chain(members) {
            let Some(count) = self.0.get(&(*who, cap.name.clone())) else {
                continue;
            };
            if message.is_some_and(|id| count.sends.iter().any(|(_, sent)| *sent == id.uuid())) {
                return now; // counted already, when it was let out the first time
            }
            counted.extend(count.sends.iter().map(|(at, _)| *at).filter(|at| *at > since));
        }
        let most = cap.most as usize;
        if counted.len() < most {
            return now;
        }
        counted.sort_unstable();
        let leaves = counted.get(counted.len() - most).copied().unwrap_or(since);
        Timestamp::from_micros(leaves).plus(cap.per)
    }

    /// Counts a message, and says how that is stored.
    pub(super) fn count(
        &mut self,
        cap: &FrequencyCap,
        customer: CustomerId,
        message: MessageId,
        now: Timestamp,
    ) -> Result<Option<Write>> {
        let count = self.0.entry((customer, cap.name.clone())).or_default();
        if count.sends.iter().any(|(_, id)| *id == message.uuid()) {
            return Ok(None);
        }
        let since = now.minus(cap.per).as_micros();
        count.sends.retain(|(at, _)| *at > since);
        count.sends.push((now.as_micros(), message.uuid()));
        let id = id_of(customer, &cap.name);
        let record = record(customer, &cap.name, &count.sends, now)?;
        let write = match count.version {
            None => Write::insert(id, record),
            Some(version) => Write::update(id, version, record),
        };
        // The next one of the same unit of work builds on this one.
        count.version = Some(count.version.unwrap_or(0) + 1);
        Ok(Some(write))
    }
}

fn record(customer: CustomerId, rule: &str, sends: &[(i64, Uuid)], now: Timestamp) -> Result<Record> {
    Record::from_values(
        &SEND_COUNT,
        vec![customer.into(), rule.into(), json!(sends).into(), now.into()],
    )
}

impl Gate {
    /// The writes that give back the places of messages that were let out but certainly never reached anybody's provider,
    /// so that they do not count towards a [`FrequencyCap`]. To go into the unit of work that ends them; on a
    /// [`crate::ErrorKind::Conflict`] ask again.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn give_back(&self, ctx: &Context, messages: &[(CustomerId, MessageId)]) -> Result<Vec<Write>> {
        if self.rules.caps.is_empty() || messages.is_empty() {
            return Ok(Vec::new());
        }
        let counts = Counts::load(self, ctx, messages.iter().map(|(customer, _)| customer.uuid())).await?;
        let mut writes = Vec::new();
        for ((customer, rule), mut count) in counts.0 {
            let before = count.sends.len();
            count.sends.retain(|(_, id)| {
                !messages
                    .iter()
                    .any(|(whose, message)| *whose == customer && message.uuid() == *id)
            });
            if let (true, Some(version)) = (count.sends.len() < before, count.version) {
                let record = record(customer, &rule, &count.sends, self.clock.now())?;
                writes.push(Write::update(id_of(customer, &rule), version, record));
            }
        }
        writes.sort_by_key(Write::id);
        Ok(writes)
    }
}
