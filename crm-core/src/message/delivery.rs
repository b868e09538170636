//! What became of a message.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Channel, MessageId};
use crate::customer::{Address, PhoneNumber};
use crate::{Error, Result, Timestamp};

/// What something costs, in millionths of a currency: a text message costs less than a hundredth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Millionths: 7500 is 0.0075.
    pub micros: i64,
    /// ISO 4217.
    pub currency: String,
}

/// What a provider answers when it has taken a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The provider's name in the registry.
    pub provider: String,
    /// The provider's own reference: what to ask it about later.
    pub provider_ref: String,
    /// When it took it.
    pub accepted_at: Timestamp,
    /// What it said (a reply line without addresses), if anything.
    #[serde(default)]
    pub detail: Option<String>,
    /// Into how many parts the vendor divides it, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<u32>,
    /// What the vendor takes for it, where it says so at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
}

impl Receipt {
    /// A receipt of a provider, without further words.
    pub fn new(provider: impl Into<String>, provider_ref: impl Into<String>, accepted_at: Timestamp) -> Self {
        Self {
            provider: provider.into(),
            provider_ref: provider_ref.into(),
            accepted_at,
            detail: None,
            segments: None,
            price: None,
        }
    }

    /// With what it said.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// How far a message is known to have come. A lattice: news join by taking the higher one, so their order does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// In our outbox.
    Queued,
    /// Only recorded, as the mode asks.
    Recorded,
    /// It may have been sent: the answer was lost.
    Unknown,
    /// A provider took it.
    Accepted,
    /// It reached the recipient's system.
    Delivered,
    /// It will not arrive.
    Failed,
    /// It was not sent: no permission.
    Refused,
    /// The recipient complained about it.
    Complained,
}

impl DeliveryState {
    /// Both news together.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        self.max(other)
    }
    /// All states, the lowest first.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Recorded,
        Self::Unknown,
        Self::Accepted,
        Self::Delivered,
        Self::Failed,
        Self::Refused,
        Self::Complained,
    ];

    /// The state as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Recorded => "recorded",
            Self::Unknown => "unknown",
            Self::Accepted => "accepted",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Complained => "complained",
        }
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeliveryState {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| Error::invalid("not a state of a delivery").with("field", "state"))
    }
}

/// Whose fault it is that a message did not arrive, and so what follows for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Blame {
    /// Nobody's, or nobody knows: nothing follows.
    #[default]
    Nobody,
    /// There is no such mailbox or number: it is suppressed at once.
    Recipient,
    /// The mailbox is full, the phone is off: it is counted, and suppressed when it happens again and again.
    RecipientForNow,
    /// The recipient opted out at the carrier or vendor: marketing is suppressed.
    OptedOut,
    /// What it says was refused: the template needs work.
    Content,
    /// We were refused: reputation, authentication, account, money. Sending pauses; no address is suppressed.
    Sender,
}

impl Blame {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Nobody,
        Self::Recipient,
        Self::RecipientForNow,
        Self::OptedOut,
        Self::Content,
        Self::Sender,
    ];

    /// The word as it is stored, and as it stands in an error's context under `blame`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Recipient => "recipient",
            Self::RecipientForNow => "recipient_for_now",
            Self::OptedOut => "opted_out",
            Self::Content => "content",
            Self::Sender => "sender",
        }
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Blame {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|blame| blame.as_str() == text)
            .ok_or_else(|| Error::invalid("not somebody to blame").with("field", "blame"))
    }
}

/// News about a message from outside: a vendor's callback, a bounce, an answer to a question. May come late, twice and
/// in any order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryEvent {
    /// Who tells it: the provider's name in the registry.
    pub provider: String,
    /// What names this news at the provider; the same news told twice has the same.
    pub event_id: String,
    /// The message, when the news carries our own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// The provider's reference of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_ref: Option<String>,
    /// To whom, where one reference stands for several recipients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<Address>,
    /// How far it came.
    pub state: DeliveryState,
    /// When it happened, as the provider says.
    pub at: Timestamp,
    /// The provider's own word or code for it: `undelivered 30006`, `busy`, `5.1.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why, in words without personal data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What follows.
    #[serde(default)]
    pub blame: Blame,
}

/// A message somebody sent us. `Debug` shows neither text nor address.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundMessage {
    /// Who brings it: the provider's name in the registry.
    pub provider: String,
    /// The provider's reference; the same message brought twice has the same.
    pub provider_ref: String,
    /// How it came.
    pub channel: Channel,
    /// Who wrote.
    pub from: Address,
    /// Our number, name or address that they wrote to.
    pub to: String,
    /// What they wrote.
    pub text: String,
    /// When.
    pub at: Timestamp,
    /// What the vendor has already understood it to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyword: Option<Keyword>,
}

impl fmt::Debug for InboundMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InboundMessage({} {}, ..)", self.provider, self.provider_ref)
    }
}

/// What somebody wants who writes one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keyword {
    /// No more messages.
    Stop,
    /// Messages again.
    Start,
    /// To know who writes.
    Help,
}

/// What comes in from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InboundEvent {
    /// News about a message of ours.
    Delivery(DeliveryEvent),
    /// A message to us.
    Message(InboundMessage),
}

/// A question to a vendor: what became of a message whose answer was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The message.
    pub message_id: MessageId,
    /// The vendor's reference, if one is known.
    pub provider_ref: Option<String>,
    /// To whom.
    pub to: PhoneNumber,
    /// When it was handed over.
    pub sent_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blame_is_told_with_an_error_and_read_from_it() {
        for blame in Blame::ALL {
            assert_eq!(blame.as_str().parse::<Blame>().unwrap(), blame);
            assert_eq!(serde_json::to_value(blame).unwrap(), blame.as_str());
            assert_eq!(Error::invalid("refused").blame(blame).blamed(), blame);
        }
        assert_eq!(Error::invalid("refused").blamed(), Blame::Nobody);
    }

    #[test]
    fn states_join_in_any_order() {
        use DeliveryState::{Accepted, Delivered, Failed, Queued};
        let all = [Queued, Accepted, Delivered, Failed];
        for a in all {
            for b in all {
                for c in all {
                    assert_eq!(a.join(b).join(c), c.join(a.join(b)));
                    assert_eq!(a.join(b).join(b), a.join(b));
                }
            }
        }
    }
}
