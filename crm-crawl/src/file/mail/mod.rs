//! Mail as a source of customers: who wrote, and who was written to. Only headers are read.

mod address;
mod folder;
mod head;
mod mbox;
mod message;
mod raw;
mod words;

use crm_core::customer::EmailAddress;
use crm_core::{Error, Result};
use serde::{Deserialize, Serialize};

pub use folder::{MaildirCollector, MaildirConfig};
pub use mbox::{MboxCollector, MboxConfig};

/// The most bytes of a message's header section: more is no header.
const MAX_HEAD: usize = 256 * 1024;

/// A header field that names people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MailRole {
    /// Who wrote it.
    From,
    /// Who sent it off, when that is somebody else.
    Sender,
    /// Where answers go.
    ReplyTo,
    /// Whom it is for.
    To,
    /// Who gets it besides.
    Cc,
    /// Who gets it without the others knowing; in mail that one has sent oneself.
    Bcc,
}

impl MailRole {
    /// The name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::Sender => "sender",
            Self::ReplyTo => "reply_to",
            Self::To => "to",
            Self::Cc => "cc",
            Self::Bcc => "bcc",
        }
    }

    fn field(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::Sender => "sender",
            Self::ReplyTo => "reply-to",
            Self::To => "to",
            Self::Cc => "cc",
            Self::Bcc => "bcc",
        }
    }
}

/// Who in a message is a customer.
///
/// ```
/// use crm_crawl::file::MailReading;
///
/// let reading: MailReading = serde_json::from_str(r#"{"own": ["@shop.example", "ana@home.example"]}"#).unwrap();
/// assert!(reading.validate().is_ok());
/// assert!(!reading.lists && !reading.automatic && !reading.no_reply); // left out
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MailReading {
    /// The host's own addresses, and whole domains of its own (`@shop.example`, subdomains included): nobody's customers.
    /// A message from one of them is outbound.
    pub own: Vec<String>,
    /// Whose addresses are taken: `from`, `reply_to`, `to` and `cc` unless set.
    pub roles: Vec<MailRole>,
    /// Takes in mail of mailing lists and newsletters too (`List-Id`, `List-Post`, `List-Unsubscribe`, `Precedence`).
    pub lists: bool,
    /// Takes in what no person wrote too: `Auto-Submitted` other than `no` (RFC 3834), reports of delivery.
    pub automatic: bool,
    /// Takes in addresses that nobody reads too: `noreply@`, `mailer-daemon@`, `bounce@`.
    pub no_reply: bool,
    /// Keeps the subject with the interaction. It can be personal: off unless it is needed.
    pub subject: bool,
}

impl Default for MailReading {
    fn default() -> Self {
        Self {
            own: Vec::new(),
            roles: vec![MailRole::From, MailRole::ReplyTo, MailRole::To, MailRole::Cc],
            lists: false,
            automatic: false,
            no_reply: false,
            subject: false,
        }
    }
}

impl MailReading {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        if self.roles.is_empty() {
            return Err(Error::config("at least one role is taken, such as from").with("setting", "roles"));
        }
        for own in &self.own {
            // A domain is checked as part of an address.
            let whole = match own.strip_prefix('@') {
                Some(_) => format!("a{own}"),
                None => own.clone(),
            };
            EmailAddress::parse(&whole).map_err(|error| {
                Error::config("an address of one's own is written as ana@shop.example or @shop.example")
                    .with("setting", "own")
                    .source(error)
            })?;
        }
        Ok(())
    }
}
