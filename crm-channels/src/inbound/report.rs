use crm_core::message::Blame;
use crm_core::{Error, Result};

use super::mime::{MAX_BYTES, Part};
use crate::mail::status::EnhancedStatus;

/// The most recipients that are read of one report.
const MAX_RECIPIENTS: usize = 100;

/// What became of a message for one recipient (RFC 3464, 2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It will not arrive.
    Failed,
    /// It has not arrived yet; the server goes on trying. No bounce.
    Delayed,
    /// It arrived.
    Delivered,
    /// It went on to a system that does not report.
    Relayed,
    /// It went on to several recipients.
    Expanded,
    /// A word that RFC 3464 does not know.
    Other,
}

impl Action {
    fn read(text: &str) -> Self {
        // Some servers add a comment: `failed (expired)`.
        let word = text
            .split(|c: char| !c.is_ascii_alphabetic())
            .find(|w| !w.is_empty());
        match word.unwrap_or_default().to_ascii_lowercase().as_str() {
            "failed" | "failure" => Self::Failed,
            "delayed" => Self::Delayed,
            "delivered" => Self::Delivered,
            "relayed" => Self::Relayed,
            "expanded" => Self::Expanded,
            _ => Self::Other,
        }
    }

    /// The word as RFC 3464 writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
            Self::Other => "other",
        }
    }
}

/// What a delivery report says about one recipient. `Debug` shows no address.
#[derive(Clone, PartialEq, Eq)]
pub struct RecipientReport {
    /// The address the message was sent to, as far as the server knows.
    pub original: Option<String>,
    /// The address it was for in the end: behind an alias or a forwarding, another one.
    pub last: Option<String>,
    /// What became of it.
    pub action: Action,
    /// The status code, the most exact one that the report has.
    pub status: Option<EnhancedStatus>,
    /// What the last server said, without addresses.
    pub said: Option<String>,
}

impl RecipientReport {
    /// Whose fault it is; of something that did not fail, nobody's.
    pub fn blame(&self) -> Blame {
        match (self.action, self.status) {
            (Action::Failed, Some(status)) => status.blame(),
            _ => Blame::Nobody,
        }
    }

    /// Whether it is about this address.
    pub fn is_for(&self, address: &str) -> bool {
        [&self.original, &self.last]
            .into_iter()
            .flatten()
            .any(|a| a.eq_ignore_ascii_case(address))
    }

    fn read(block: &Part<'_>) -> Option<Self> {
        let last = block.header("final-recipient").map(|v| typed(&v));
        let action = block.header("action");
        if last.is_none() && action.is_none() {
            return None;
        }
        let original = block.header("original-recipient").map(|v| typed(&v));
        let diagnostic = block.header("diagnostic-code").map(|v| typed(&v));
        let exact = diagnostic.as_deref().and_then(EnhancedStatus::find);
        let status = block.header("status").and_then(|v| {
            // A comment may follow: `5.1.1 (bad destination mailbox address)`.
            v.split([' ', '(', ';']).next().unwrap_or_default().parse().ok()
        });
        let status = match (status, exact) {
            // `5.0.0` only says that it failed; the server's own words may say more.
            (Some(bare), Some(exact)) if EnhancedStatus::is_bare(bare) && exact.class == bare.class => {
                Some(exact)
            }
            (None, exact) => exact,
            (status, _) => status,
        };
        let names = [original.as_deref(), last.as_deref()];
        Some(Self {
            said: diagnostic.map(|text| scrub(&text, &names)),
            original: original.filter(|a| !a.is_empty()),
            last: last.filter(|a| !a.is_empty()),
            action: Action::read(&action.unwrap_or_default()),
            status,
        })
    }
}

impl std::fmt::Debug for RecipientReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let status = self.status.map(|s| s.to_string()).unwrap_or_default();
        write!(f, "RecipientReport({} {status}, ..)", self.action.as_str())
    }
}

/// What a mail that came back is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MailReport {
    /// A delivery report (RFC 3464), recipient by recipient.
    Delivery(Vec<RecipientReport>),
    /// A reader complained, and the reader's provider passes it on (RFC 5965): the kind of feedback, `abuse` above all.
    Complaint(String),
    /// A machine answered: out of office, a receipt, a challenge (RFC 3834). Neither a bounce nor an answer.
    AutoReply,
    /// Anything else: a person's answer, or a bounce in a form of its own.
    Other,
}

/// A mail that came to an address of ours, read as far as it concerns deliveries. Everything in it may be forged: what
/// it says counts only when one of its addresses is an authentic return path ([`super::ReturnPath`]) or one of its links
/// carries an authentic token.
///
/// ```
/// use crm_channels::inbound::{Action, MailReport, ReturnedMail};
///
/// let mail = b"To: bounce+x@example.com\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n\
///     --b\r\n\r\nSorry!\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example.org\r\n\r\n\
///     Final-Recipient: rfc822; ana@example.org\r\nAction: failed\r\nStatus: 5.1.1\r\n--b--\r\n";
/// let mail = ReturnedMail::read(mail).unwrap();
/// let MailReport::Delivery(recipients) = &mail.report else { panic!() };
/// assert_eq!(recipients[0].action, Action::Failed);
/// assert_eq!(recipients[0].status.unwrap().to_string(), "5.1.1");
/// assert_eq!(mail.envelope_id, None); // the sender had not named it
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ReturnedMail {
    /// What it is.
    pub report: MailReport,
    /// What the sender called the message's envelope (`Original-Envelope-Id`, RFC 3464, 2.2.1), as far as the report tells: for
    /// our own mails, their id.
    pub envelope_id: Option<String>,
    /// The addresses it may have come to, and the original's own return path: one of them must be authentic.
    pub addresses: Vec<String>,
    /// The links and the subject, one of which may carry a token of ours.
    pub links: Vec<String>,
}

impl std::fmt::Debug for ReturnedMail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReturnedMail({:?}, ..)", self.report)
    }
}

impl ReturnedMail {
    /// Reads a mail. Whatever the bytes are, it ends soon and takes little memory: parts, depth, header fields and
    /// recipients are counted.
    ///
    /// # Errors
    /// [`crm_core::ErrorKind::Invalid`] when it is larger than 10 MiB.
    pub fn read(mail: &[u8]) -> Result<Self> {
        if mail.len() > MAX_BYTES {
            return Err(Error::invalid("a mail is at most 10 MiB")
                .operation("inbound.mail")
                .with("bytes", mail.len())
                .with("most", MAX_BYTES));
        }
        let mail = Part::new(mail);
        let mut addresses = Vec::new();
        for name in ["x-original-to", "delivered-to", "envelope-to", "to", "x-rcpt-to"] {
            for value in mail.all(name) {
                addresses.extend(addresses_in(&value));
            }
        }
        let mut links: Vec<String> = mail.header("subject").into_iter().collect();
        let (mut recipients, mut complaint, mut envelope_id) = (None, None, None);
        for leaf in mail.leaves() {
            let kind = leaf.content_type();
            match (kind.kind.as_str(), kind.subtype.as_str()) {
                ("message", "delivery-status" | "global-delivery-status") => {
                    let status = leaf.decoded();
                    let named = Part::new(&status).header("original-envelope-id");
                    envelope_id = envelope_id.or(named.map(|id| id.trim().to_owned()));
                    recipients.get_or_insert_with(Vec::new).extend(blocks(&status));
                }
                ("message", "feedback-report") => {
                    let report = leaf.decoded();
                    let report = Part::new(&report);
                    for value in report.all("original-mail-from") {
                        addresses.extend(addresses_in(&value));
                    }
                    let feedback = report.header("feedback-type").unwrap_or_default();
                    complaint.get_or_insert(feedback.trim().to_ascii_lowercase());
                }
                ("message", "rfc822" | "global" | "global-headers") | ("text", "rfc822-headers") => {
                    let original = leaf.decoded();
                    let original = Part::new(&original);
                    for value in original.all("return-path") {
                        addresses.extend(addresses_in(&value));
                    }
                    links.extend(original.header("list-unsubscribe"));
                }
                _ => {}
            }
        }
        let machine = |name: &str, words: &[&str]| {
            let value = mail.header(name).unwrap_or_default().trim().to_ascii_lowercase();
            words.iter().any(|w| value.starts_with(w))
        };
        let auto = mail
            .header("auto-submitted")
            .is_some_and(|v| !v.trim().to_ascii_lowercase().starts_with("no"))
            || machine("precedence", &["auto_reply", "bulk", "junk"])
            || mail.header("x-autoreply").is_some()
            || mail.header("x-autorespond").is_some()
            || mail.content_type().report.as_deref() == Some("disposition-notification");
        let report = match (recipients, complaint) {
            (_, Some(feedback)) => MailReport::Complaint(feedback),
            (Some(recipients), None) => MailReport::Delivery(recipients),
            (None, None) if auto => MailReport::AutoReply,
            (None, None) => MailReport::Other,
        };
        addresses.truncate(MAX_RECIPIENTS);
        Ok(Self {
            report,
            envelope_id,
            addresses,
            links,
        })
    }
}

/// The blocks of a delivery report that are about recipients: header fields between empty lines.
fn blocks(status: &[u8]) -> Vec<RecipientReport> {
    let mut found = Vec::new();
    let mut rest = status;
    while !rest.is_empty() && found.len() < MAX_RECIPIENTS {
        let block = Part::new(rest);
        found.extend(RecipientReport::read(&block));
        rest = block.rest();
    }
    found
}

/// `rfc822; ana@example.org` without the type in front.
fn typed(value: &str) -> String {
    let bare = value.split_once(';').map_or(value, |(_, bare)| bare).trim();
    bare.trim_start_matches('<').trim_end_matches('>').to_owned()
}

/// The addresses of a header field, without names and brackets.
fn addresses_in(value: &str) -> Vec<String> {
    value
        .split(',')
        .take(MAX_RECIPIENTS)
        .map(|one| {
            let bare = one.rsplit_once('<').map_or(one, |(_, rest)| rest);
            bare.split('>').next().unwrap_or_default().trim().to_owned()
        })
        .filter(|address| address.contains('@'))
        .collect()
}

/// A server's words without addresses, to be kept.
fn scrub(text: &str, names: &[Option<&str>]) -> String {
    let locals: Vec<&str> = names
        .iter()
        .flatten()
        .map(|a| a.rsplit_once('@').map_or(*a, |(local, _)| local))
        .filter(|local| !local.is_empty())
        .collect();
    let mut clean = String::new();
    for word in text.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let names = word.contains('@') || locals.iter().any(|l| bare.eq_ignore_ascii_case(l));
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(if names { "<address>" } else { word });
        if clean.chars().nth(200).is_some() {
            clean = clean.chars().take(200).collect();
            clean.push_str(" ...");
            break;
        }
    }
    clean.replace('\0', "")
}
