use std::fmt;

use crate::customer::{Address, ContactKind, CustomerId};
use crate::message::{Channel, Sendable};

/// Whom a message would go to. `Debug` shows no address.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient {
    pub(super) customer: CustomerId,
    pub(super) channel: Channel,
    pub(super) address: String,
}

impl Recipient {
    /// A customer at one of their addresses: by e-mail, or by SMS unless [`Recipient::by`] says otherwise.
    pub fn new(customer: CustomerId, address: &Address) -> Self {
        let (channel, text) = match address {
            Address::Email(email) => (Channel::Email, email.as_str()),
            Address::Phone(phone) => (Channel::Sms, phone.as_str()),
        };
        Self {
            customer,
            channel,
            address: text.to_owned(),
        }
    }

    /// By this channel; one that reaches another kind of address is left as it was.
    #[must_use]
    pub fn by(mut self, channel: Channel) -> Self {
        if channel.contact_kind() == self.channel.contact_kind() {
            self.channel = channel;
        }
        self
    }

    /// Whom a message goes to.
    pub fn of<M: Sendable + ?Sized>(message: &M, customer: CustomerId) -> Self {
        Self {
            customer,
            channel: message.channel(),
            address: message.recipient().to_owned(),
        }
    }

    pub(super) fn kind(&self) -> ContactKind {
        self.channel.contact_kind()
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({}, {}, ..)", self.customer, self.channel)
    }
}
