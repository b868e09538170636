//! Messages to customers, what became of them, and the permission without which no channel takes one.
//!
//! ```
//! use crm_core::message::DeliveryState;
//!
//! // News may be late, repeated or out of order; the state only ever moves up.
//! let state = DeliveryState::Queued.join(DeliveryState::Delivered).join(DeliveryState::Accepted);
//! assert_eq!(state, DeliveryState::Delivered);
//! ```

mod delivery;
mod email;
mod phone;
mod voice;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use delivery::{
    Blame, DeliveryEvent, DeliveryState, InboundEvent, InboundMessage, Keyword, Lookup, Price, Receipt,
};
pub use email::{Attachment, Email, Mailbox};
pub use phone::{Sms, VendorParameters, VendorTemplate, VendorTemplates};
pub use voice::{STOP_KEY, VoiceCall, VoiceStep};

use crate::consent::Decision;
use crate::customer::{ContactKind, EmailAddress, PhoneNumber};
use crate::{Error, Id, Result};

/// The id of a message; also names it to the provider, so that repeats can be recognised.
pub type MessageId = Id<Message>;

/// The way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// E-mail.
    Email,
    /// Text messages.
    Sms,
    /// Phone calls.
    Voice,
}

impl Channel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Email, Self::Sms, Self::Voice];

    /// The channel as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Sms => "sms",
            Self::Voice => "voice",
        }
    }

    /// The kind of contact point it reaches.
    pub fn contact_kind(self) -> ContactKind {
        match self {
            Self::Email => ContactKind::Email,
            Self::Sms | Self::Voice => ContactKind::Phone,
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Channel {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|channel| channel.as_str() == text)
            .ok_or_else(|| Error::invalid("a channel is email, sms or voice").with("field", "channel"))
    }
}

/// A message of any channel, as it waits in the outbox. `Debug` shows no content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "channel", rename_all = "lowercase")]
pub enum Message {
    /// An e-mail.
    Email(Email),
    /// A text message.
    Sms(Sms),
    /// A phone call.
    Voice(VoiceCall),
}

impl Message {
    /// Checks it as its own kind is checked.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the field.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Email(email) => email.validate(),
            Self::Sms(sms) => sms.validate(),
            Self::Voice(call) => call.validate(),
        }
    }

    fn inner(&self) -> &dyn Sendable {
        match self {
            Self::Email(email) => email,
            Self::Sms(sms) => sms,
            Self::Voice(call) => call,
        }
    }
}

impl From<Email> for Message {
    fn from(email: Email) -> Self {
        Self::Email(email)
    }
}
impl From<Sms> for Message {
    fn from(sms: Sms) -> Self {
        Self::Sms(sms)
    }
}
impl From<VoiceCall> for Message {
    fn from(call: VoiceCall) -> Self {
        Self::Voice(call)
    }
}

fn no_control(field: &'static str, text: &str) -> Result<()> {
    if text.chars().any(char::is_control) {
        return Err(
            Error::invalid("control characters such as line ends are not allowed here").with("field", field),
        );
    }
    Ok(())
}

/// What can be sent to one contact point.
pub trait Sendable: fmt::Debug + Send + Sync {
    /// Names it.
    fn message_id(&self) -> MessageId;
    /// The way it goes.
    fn channel(&self) -> Channel;
    /// The kind of contact point it goes to.
    fn contact_kind(&self) -> ContactKind {
        self.channel().contact_kind()
    }
    /// The canonical address it goes to.
    fn recipient(&self) -> &str;
}

impl Sendable for Email {
    fn message_id(&self) -> MessageId {
        self.id
    }
    fn channel(&self) -> Channel {
        Channel::Email
    }
    fn recipient(&self) -> &str {
        self.to.address.as_str()
    }
}
impl Sendable for Message {
    fn message_id(&self) -> MessageId {
        self.inner().message_id()
    }
    fn channel(&self) -> Channel {
        self.inner().channel()
    }
    fn recipient(&self) -> &str {
        self.inner().recipient()
    }
}
impl Sendable for Sms {
    fn message_id(&self) -> MessageId {
        self.id
    }
    fn channel(&self) -> Channel {
        Channel::Sms
    }
    fn recipient(&self) -> &str {
        self.to.as_str()
    }
}
impl Sendable for VoiceCall {
    fn message_id(&self) -> MessageId {
        self.id
    }
    fn channel(&self) -> Channel {
        Channel::Voice
    }
    fn recipient(&self) -> &str {
        self.to.as_str()
    }
}

/// A message that may go out: the only thing a channel takes. Only the consent gate ([`crate::consent::Gate`]) makes one,
/// right before the send, and it carries the decision.
///
/// ```compile_fail
/// # fn forge(email: crm_core::message::Email, decision: crm_core::consent::Decision) {
/// let permitted = crm_core::message::Permitted { message: email, decision }; // private: does not compile
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Permitted<M> {
    message: M,
    decision: Decision,
}

impl<M> Permitted<M> {
    pub(crate) fn new(message: M, decision: Decision) -> Self {
        Self { message, decision }
    }

    /// The message.
    pub fn message(&self) -> &M {
        &self.message
    }
    /// Why it may go out.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }
}

/// A message of any channel that may go out, taken apart by channel.
#[derive(Debug, Clone, PartialEq)]
pub enum PermittedMessage {
    /// An e-mail.
    Email(Permitted<Email>),
    /// A text message.
    Sms(Permitted<Sms>),
    /// A phone call.
    Voice(Permitted<VoiceCall>),
}

impl Permitted<Message> {
    /// The same message for somebody else: a staging system's own mailbox or phone. Where there is none, it stays as it is.
    pub(crate) fn readdressed(mut self, email: Option<&EmailAddress>, phone: Option<&PhoneNumber>) -> Self {
        match (&mut self.message, email, phone) {
            (Message::Email(mail), Some(email), _) => mail.to.address = email.clone(),
            (Message::Sms(sms), _, Some(phone)) => sms.to = phone.clone(),
            (Message::Voice(call), _, Some(phone)) => call.to = phone.clone(),
            _ => return self,
        }
        self.decision
            .trace
            .push("redirected: it goes to the address of this system".to_owned());
        self
    }

    /// The same permission for the message as its own channel takes it.
    pub fn by_channel(self) -> PermittedMessage {
        let decision = self.decision;
        match self.message {
            Message::Email(email) => PermittedMessage::Email(Permitted::new(email, decision)),
            Message::Sms(sms) => PermittedMessage::Sms(Permitted::new(sms, decision)),
            Message::Voice(call) => PermittedMessage::Voice(Permitted::new(call, decision)),
        }
    }
}
