//! Messages to customers, what became of them, and the permission without which no channel takes one.
//!
//! ```
//! use crm_core::message::DeliveryState;
//!
//! // News may be late, repeated or out of order; the state only ever moves up.
//! let state = DeliveryState::Queued.join(DeliveryState::Delivered).join(DeliveryState::Accepted);
//! assert_eq!(state, DeliveryState::Delivered);
//! ```

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::consent::Decision;
use crate::customer::{ContactKind, EmailAddress, PhoneNumber};
use crate::{Error, Id, Result, Timestamp};

/// The id of a message; also names it to the provider, so that repeats can be recognised.
pub type MessageId = Id<Email>;

/// A mailbox: address and name. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mailbox {
    /// The address.
    pub address: EmailAddress,
    /// The name shown; empty for none.
    #[serde(default)]
    pub name: String,
}

impl Mailbox {
    /// An address with a name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when the name has control characters (they could forge headers).
    pub fn new(address: EmailAddress, name: &str) -> Result<Self> {
        no_control("name", name)?;
        Ok(Self {
            address,
            name: name.trim().to_owned(),
        })
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox(..)")
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

/// One e-mail for one recipient. `Debug` shows no content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Email {
    /// Names the message; the `Message-ID` header is made of it and stays the same when it is sent again.
    pub id: MessageId,
    /// Who it is from.
    pub from: Mailbox,
    /// Who gets it: one person, so that nobody sees others' addresses.
    pub to: Mailbox,
    /// Where answers go, if not to `from`.
    #[serde(default)]
    pub reply_to: Option<Mailbox>,
    /// The subject, one line.
    pub subject: String,
    /// The text part.
    pub text: String,
    /// The HTML part.
    #[serde(default)]
    pub html: Option<String>,
    /// More headers, such as `List-Unsubscribe`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

impl Email {
    /// A plain message.
    pub fn new(id: MessageId, from: Mailbox, to: Mailbox, subject: &str, text: &str) -> Self {
        Self {
            id,
            from,
            to,
            reply_to: None,
            subject: subject.to_owned(),
            text: text.to_owned(),
            html: None,
            headers: BTreeMap::new(),
        }
    }

    /// The `Message-ID` header's value: the id at the sender's domain.
    pub fn message_id(&self) -> String {
        format!("<{}@{}>", self.id, self.from.address.domain())
    }

    /// Checks that nothing in it can forge a header: no control character in names, subject, header names and values;
    /// header names of letters, digits and `-`; no header that the message itself sets.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] naming the field.
    pub fn validate(&self) -> Result<()> {
        no_control("subject", &self.subject)?;
        no_control("from", &self.from.name)?;
        no_control("to", &self.to.name)?;
        if let Some(mailbox) = &self.reply_to {
            no_control("reply_to", &mailbox.name)?;
        }
        const OWN: [&str; 10] = [
            "from",
            "to",
            "cc",
            "bcc",
            "subject",
            "date",
            "message-id",
            "reply-to",
            "mime-version",
            "content-type",
        ];
        for (name, value) in &self.headers {
            let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if !plain || OWN.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(Error::invalid("not a header that can be added").with("field", "headers"));
            }
            no_control("headers", value)?;
        }
        if self.text.contains('\0') || self.html.as_ref().is_some_and(|html| html.contains('\0')) {
            return Err(Error::invalid("a NUL character cannot be sent").with("field", "text"));
        }
        Ok(())
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Email({}, ..)", self.id)
    }
}

/// One SMS for one recipient. `Debug` shows no content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sms {
    /// Names the message.
    pub id: MessageId,
    /// The sender's number or name, as the vendor knows it.
    pub from: String,
    /// Who gets it.
    pub to: PhoneNumber,
    /// The text.
    pub text: String,
}

impl fmt::Debug for Sms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sms({}, ..)", self.id)
    }
}

/// One phone call to one recipient. `Debug` shows no content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoiceCall {
    /// Names the call.
    pub id: MessageId,
    /// The caller's number, as the vendor knows it.
    pub from: String,
    /// Who is called.
    pub to: PhoneNumber,
    /// What is said.
    pub say: String,
}

impl fmt::Debug for VoiceCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VoiceCall({}, ..)", self.id)
    }
}

/// What can be sent to one contact point.
pub trait Sendable: fmt::Debug + Send + Sync {
    /// Names it.
    fn message_id(&self) -> MessageId;
    /// The kind of contact point it goes to.
    fn contact_kind(&self) -> ContactKind;
    /// The canonical address it goes to.
    fn recipient(&self) -> &str;
}

impl Sendable for Email {
    fn message_id(&self) -> MessageId {
        self.id
    }
    fn contact_kind(&self) -> ContactKind {
        ContactKind::Email
    }
    fn recipient(&self) -> &str {
        self.to.address.as_str()
    }
}
impl Sendable for Sms {
    fn message_id(&self) -> MessageId {
        self.id
    }
    fn contact_kind(&self) -> ContactKind {
        ContactKind::Phone
    }
    fn recipient(&self) -> &str {
        self.to.as_str()
    }
}
impl Sendable for VoiceCall {
    fn message_id(&self) -> MessageId {
        self.id
    }
    fn contact_kind(&self) -> ContactKind {
        ContactKind::Phone
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

/// One piece of news about a message, as it goes on the timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryEvent {
    /// The message.
    pub message_id: MessageId,
    /// How far it came.
    pub state: DeliveryState,
    /// When.
    pub at: Timestamp,
    /// The provider, once one is involved.
    #[serde(default)]
    pub provider: Option<String>,
    /// The provider's reference.
    #[serde(default)]
    pub provider_ref: Option<String>,
    /// Why, in words without personal data.
    #[serde(default)]
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Uuid;

    fn mail() -> Email {
        let to = |a: &str| Mailbox::new(EmailAddress::parse(a).unwrap(), "N").unwrap();
        Email::new(
            Uuid::nil().into(),
            to("a@example.com"),
            to("b@example.org"),
            "hi",
            "text",
        )
    }

    #[test]
    fn headers_cannot_be_forged() {
        assert!(mail().validate().is_ok());
        let mut forged = mail();
        forged.subject = "hi\r\nBcc: x@example.com".into();
        assert_eq!(forged.validate().unwrap_err().context("field"), Some("subject"));
        for (name, value) in [
            ("X\r\nBcc", "v"),
            ("X-A", "v\nBcc: x"),
            ("Bcc", "x@example.com"),
            ("", "v"),
        ] {
            let mut forged = mail();
            forged.headers.insert(name.into(), value.into());
            assert!(forged.validate().is_err(), "{name:?}");
        }
        assert!(Mailbox::new(EmailAddress::parse("a@example.com").unwrap(), "x\ny").is_err());
    }

    #[test]
    fn debug_shows_no_content() {
        let text = format!("{:?}", mail());
        assert!(!text.contains("example") && !text.contains("hi"));
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
