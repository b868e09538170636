//! What comes back: news about messages, messages to us, bounces and complaints, and people who no longer want to hear
//! from us. Bytes in, effects out; nothing here knows a web framework, except the router (feature `api`).
//!
//! - [`Outreach::ingest`](crate::Outreach::ingest): takes news and messages in, each once, in any order
//! - [`Inbound`]: the front desk: webhooks, mail that came back, links in messages
//! - [`Unsubscribe`], [`ReturnPath`], [`LinkKey`]: what we sign when it goes out, and believe when it comes back
//! - [`Words`]: STOP, START and HELP in every spelling
//! - [`ReturnedMail`]: delivery reports (RFC 3464) and complaints (RFC 5965)
//! - [`BulkReadiness`]: what a mail to many must have
//!
//! ```
//! use crm_channels::inbound::{Reading, Words};
//! use crm_core::message::Keyword;
//!
//! assert_eq!(Words::default().read(" Stop. ", "+15005550006"), Reading::Command(Keyword::Stop));
//! ```

mod desk;
mod ingest;
mod intake;
mod key;
mod message;
mod mime;
mod page;
mod permission;
mod preferences;
mod readiness;
mod report;
#[cfg(feature = "api")]
mod router;
mod settings;
mod unsubscribe;
mod verp;
mod words;

pub use desk::{Caps, Inbound, MailOutcome};
pub use ingest::{INBOUND, IngestReport};
pub(crate) use intake::Intake;
pub use key::{LinkKey, LinkSubject};
pub use message::{ANSWER, Answers};
pub use page::PageTexts;
pub use preferences::Choice;
pub use readiness::{BulkReadiness, Gap};
pub use report::{Action, MailReport, RecipientReport, ReturnedMail};
#[cfg(feature = "api")]
pub use router::Tenants;
pub(crate) use settings::InboundSettings;
pub use settings::PurposeText;
pub use unsubscribe::Unsubscribe;
pub use verp::ReturnPath;
pub use words::{Reading, Words};
