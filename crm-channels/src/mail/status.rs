//! Enhanced status codes (RFC 3463) and whose fault each of them says it is: one table for the replies of servers and
//! for the bounces that come back later.
//!
//! ```
//! use crm_channels::mail::status::EnhancedStatus;
//! use crm_core::message::Blame;
//!
//! let status = EnhancedStatus::find("550 5.1.1 no such user").unwrap();
//! assert_eq!(status.to_string(), "5.1.1");
//! assert_eq!(status.blame(), Blame::Recipient);
//! // A listing or a missing signature says nothing about the address.
//! assert_eq!("5.7.1".parse::<EnhancedStatus>().unwrap().blame(), Blame::Sender);
//! ```

use std::fmt;
use std::str::FromStr;

use crm_core::message::Blame;
use crm_core::{Error, Result};

/// A status code `class.subject.detail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnhancedStatus {
    /// 2 done, 4 not now, 5 never.
    pub class: u8,
    /// What it is about: 1 address, 2 mailbox, 3 system, 4 network, 5 protocol, 6 content, 7 policy.
    pub subject: u16,
    /// The detail of the subject.
    pub detail: u16,
}

impl EnhancedStatus {
    /// A code of its parts.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self {
            class,
            subject,
            detail,
        }
    }

    /// The code in a reply or diagnostic: its first word, or the second after a three-digit reply code of the same class.
    pub fn find(text: &str) -> Option<Self> {
        let mut words = text
            .split(|c: char| c.is_whitespace() || c == '-')
            .filter(|w| !w.is_empty());
        let first = words.next()?;
        let reply = first.len() == 3 && first.bytes().all(|b| b.is_ascii_digit());
        if !reply {
            return read(first);
        }
        read(words.next()?).filter(|status| first.starts_with(char::from(b'0' + status.class)))
    }

    /// Whether it says nothing but its class.
    pub const fn is_bare(self) -> bool {
        self.subject == 0 && self.detail == 0
    }

    /// Whether it may work later.
    pub const fn is_transient(self) -> bool {
        self.class == 4
    }

    /// Whose fault it is that the message did not arrive. Only what certainly is the address's own fault is blamed on it:
    /// a server that lists us, dislikes the content or cannot be reached says nothing about the person.
    pub const fn blame(self) -> Blame {
        match (self.class, self.subject, self.detail) {
            // Bad mailbox, bad syntax, moved without address, null MX (RFC 7505), mailbox disabled.
            (5, 1, 1 | 3 | 6 | 10) | (5, 2, 1) => Blame::Recipient,
            // Mailbox full; as 5.2.2 it is the message that is given up, not the address.
            (4 | 5, 2, 2) => Blame::RecipientForNow,
            // Too large for the mailbox or the system; media and conversion.
            (5, 2 | 3, 3 | 4) | (5, 6, _) => Blame::Content,
            // Our own address is refused; policy, reputation, authentication.
            (5, 1, 7 | 8) | (4 | 5, 7, _) => Blame::Sender,
            _ => Blame::Nobody,
        }
    }
}

fn read(word: &str) -> Option<EnhancedStatus> {
    let mut parts = word.split('.');
    let mut number = |most: usize| -> Option<u16> {
        let part = parts.next()?;
        let plain = (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| part.parse().ok()).flatten()
    };
    let (class, subject, detail) = (number(1)?, number(3)?, number(3)?);
    let class = u8::try_from(class)
        .ok()
        .filter(|class| matches!(class, 2 | 4 | 5))?;
    parts.next().is_none().then_some(EnhancedStatus {
        class,
        subject,
        detail,
    })
}

impl FromStr for EnhancedStatus {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        read(text.trim()).ok_or_else(|| {
            Error::invalid("a status code is written class.subject.detail (RFC 3463)").with("field", "status")
        })
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_blame() {
        use Blame::{Content, Nobody, Recipient, RecipientForNow, Sender};
        for (status, blame) in [
            ("5.1.1", Recipient),
            ("5.1.3", Recipient),
            ("5.1.6", Recipient),
            ("5.1.10", Recipient),
            ("5.2.1", Recipient),
            ("5.2.2", RecipientForNow),
            ("4.2.2", RecipientForNow),
            ("5.2.3", Content),
            ("5.3.4", Content),
            ("5.6.0", Content),
            ("5.6.3", Content),
            ("5.1.8", Sender),
            ("5.7.1", Sender),
            ("5.7.26", Sender),
            ("4.7.28", Sender),
            ("5.0.0", Nobody),
            ("5.1.0", Nobody),
            ("5.1.2", Nobody),
            ("5.4.1", Nobody),
            ("5.4.4", Nobody),
            ("5.5.1", Nobody),
            ("4.1.1", Nobody),
            ("4.2.1", Nobody),
            ("4.4.7", Nobody),
            ("2.1.1", Nobody),
        ] {
            assert_eq!(
                status.parse::<EnhancedStatus>().unwrap().blame(),
                blame,
                "{status}"
            );
        }
    }

    #[test]
    fn found_where_it_stands() {
        for (text, found) in [
            ("550 5.1.1 no such user", Some("5.1.1")),
            ("5.1.1 no such user", Some("5.1.1")),
            ("550-5.7.26 unauthenticated", Some("5.7.26")),
            ("550 4.1.1 classes disagree", None),
            ("550 no code", None),
            ("550", None),
            ("", None),
            ("5.1", None),
            ("5.1.1.1 x", None),
            ("5.1.1111 x", None),
            ("9.1.1 x", None),
            ("5.-1.1 x", None),
            ("5.+1.1 x", None),
            ("552 said 5.2.2 later", None),
        ] {
            let status = EnhancedStatus::find(text).map(|s| s.to_string());
            assert_eq!(status.as_deref(), found, "{text}");
        }
    }
}
