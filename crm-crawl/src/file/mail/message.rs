//! From the headers of a message to drafts.

use std::collections::BTreeSet;

use crm_core::Timestamp;
use crm_core::customer::{Attributes, Draft, EmailAddress, InteractionDraft, PersonName, Provenance};
use sha2::{Digest, Sha256};

use super::super::stream::Wrong;
use super::head::{self, Head};
use super::{MailReading, MailRole, address, words};

/// Mail older than e-mail, and from tomorrow on, has a wrong date.
const EARLIEST: Timestamp = Timestamp::from_micros(31_536_000_000_000);
const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

/// Local parts of addresses that nobody reads, letters and digits only.
const NOBODY: [&str; 10] = [
    "noreply",
    "donotreply",
    "dontreply",
    "noresponse",
    "nepasrepondre",
    "nichtantworten",
    "mailerdaemon",
    "postmaster",
    "bounce",
    "bounces",
];

/// Reads messages for one mailbox.
pub(super) struct Reader {
    reading: MailReading,
    addresses: BTreeSet<String>,
    /// With the `@`.
    domains: Vec<String>,
}

impl Reader {
    pub(super) fn new(reading: &MailReading) -> Self {
        let (domains, addresses): (Vec<&String>, Vec<&String>) =
            reading.own.iter().partition(|own| own.starts_with('@'));
        let canonical = |text: &str| EmailAddress::parse(text).ok();
        Self {
            addresses: addresses
                .into_iter()
                .filter_map(|own| Some(canonical(own)?.as_str().to_owned()))
                .collect(),
            domains: domains
                .into_iter()
                .filter_map(|own| Some(canonical(&format!("a{own}"))?.domain().to_owned()))
                .collect(),
            reading: reading.clone(),
        }
    }

    fn is_own(&self, address: &EmailAddress) -> bool {
        let domain = address.domain();
        self.addresses.contains(address.as_str())
            || self.domains.iter().any(|own| {
                domain == own
                    || domain
                        .strip_suffix(own.as_str())
                        .is_some_and(|rest| rest.ends_with('.'))
            })
    }

    /// The people of a message, and what in it cannot be read. `sent_at` is the time the mailbox knows.
    pub(super) fn read(
        &self,
        head: &Head,
        sent_at: Option<Timestamp>,
        provenance: &Provenance,
    ) -> (Vec<Draft>, Vec<Wrong>) {
        let mut wrong: Vec<Wrong> = Vec::new();
        if head.is_empty() {
            wrong.push((None, "no header field: this is no message".to_owned()));
            return (Vec::new(), wrong);
        }
        if !self.reading.lists && is_list(head) || !self.reading.automatic && is_automatic(head) {
            return (Vec::new(), wrong);
        }
        let at = match head.get("date") {
            Some(text) => {
                let latest = provenance.observed_at.plus(DAY);
                let read = head::date(&text).filter(|at| (EARLIEST..=latest).contains(at));
                if read.is_none() {
                    let reason = "not a date (RFC 5322, 3.3), or one before e-mail or after today";
                    wrong.push((Some("Date".to_owned()), reason.to_owned()));
                }
                read.or(sent_at)
            }
            None => sent_at,
        };
        let mut found: Vec<(MailRole, EmailAddress, Option<String>)> = Vec::new();
        let mut outbound = false;
        for role in [
            MailRole::From,
            MailRole::Sender,
            MailRole::ReplyTo,
            MailRole::To,
            MailRole::Cc,
            MailRole::Bcc,
        ] {
            let taken = self.reading.roles.contains(&role);
            if !taken && role != MailRole::From {
                continue;
            }
            for value in head.all(role.field()) {
                let (boxes, mut unread) = address::list(&value);
                for one in boxes {
                    match EmailAddress::parse(&one.address) {
                        Ok(address) => {
                            let own = self.is_own(&address);
                            outbound |= own && role == MailRole::From;
                            let left_out = own || !self.reading.no_reply && is_nobody(&address);
                            if taken && !left_out && !found.iter().any(|(_, known, _)| *known == address) {
                                found.push((role, address, one.name));
                            }
                        }
                        Err(_) => unread += 1,
                    }
                }
                if taken && unread > 0 {
                    let reason = match unread {
                        1 => "an address in it cannot be read".to_owned(),
                        several => format!("{several} addresses in it cannot be read"),
                    };
                    wrong.push((Some(title(role.field())), reason));
                }
            }
        }
        if !head.has("from") && !head.has("sender") {
            wrong.push((
                Some("From".to_owned()),
                "the message does not say who wrote it".to_owned(),
            ));
        }
        let id = message_id(head);
        let subject = self.reading.subject.then(|| head.get("subject")).flatten();
        let drafts = found
            .into_iter()
            .map(|(role, address, name)| {
                let mut draft = Draft::new(provenance.clone());
                draft.name = name.map(|name| PersonName::whole(&name));
                if let Some(at) = at {
                    let mut data = Attributes::default();
                    let mut note = |name: &str, value: serde_json::Value| {
                        // The names are constants that are valid.
                        let _ = data.set(name, value);
                    };
                    note("role", role.as_str().into());
                    if !self.reading.own.is_empty() {
                        note("direction", if outbound { "outbound" } else { "inbound" }.into());
                    }
                    if let Some(subject) = &subject {
                        note("subject", words::decoded(subject).into());
                    }
                    draft.interactions.push(InteractionDraft {
                        event_id: event_id(&id, &address),
                        at,
                        kind: "email".to_owned(),
                        data,
                    });
                }
                draft.emails.push(address.as_str().to_owned());
                draft
            })
            .collect();
        (drafts, wrong)
    }
}

/// `reply-to` as it is usually written.
fn title(field: &str) -> String {
    let words = field.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect::<Vec<_>>().join("-")
}

/// By what a message is known again: its id, else what every copy of it says.
fn message_id(head: &Head) -> Vec<u8> {
    match head
        .get("message-id")
        .map(|id| id.trim().to_owned())
        .filter(|id| !id.is_empty())
    {
        Some(id) => id.into_bytes(),
        None => ["date", "from", "to", "cc", "subject"]
            .iter()
            .flat_map(|name| {
                head.get(name)
                    .unwrap_or_default()
                    .into_bytes()
                    .into_iter()
                    .chain([0])
            })
            .collect(),
    }
}

/// The id of the interaction of one person with one message; says neither.
fn event_id(message: &[u8], address: &EmailAddress) -> String {
    let mut hash = Sha256::new();
    hash.update(message);
    hash.update([0]);
    hash.update(address.as_str());
    hash.finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn is_list(head: &Head) -> bool {
    [
        "list-id",
        "list-post",
        "list-unsubscribe",
        "mailing-list",
        "x-mailing-list",
    ]
    .iter()
    .any(|name| head.has(name))
        || head.all("precedence").any(|value| {
            ["list", "bulk", "junk"]
                .iter()
                .any(|kind| value.eq_ignore_ascii_case(kind))
        })
}

fn is_automatic(head: &Head) -> bool {
    let submitted = head.all("auto-submitted").any(|value| {
        let kind = value
            .split([';', '('])
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        !kind.is_empty() && !kind.eq_ignore_ascii_case("no")
    });
    let report = head
        .get("content-type")
        .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("multipart/report"));
    // An empty return path is what RFC 5321 wants of everything that must not be answered.
    let unanswerable = head.get("return-path").is_some_and(|path| path == "<>");
    submitted || report || unanswerable || head.has("x-autoreply") || head.has("x-autorespond")
}

fn is_nobody(address: &EmailAddress) -> bool {
    let local = address.local().split('+').next().unwrap_or_default();
    let plain: String = local.chars().filter(|c| c.is_alphanumeric()).collect();
    NOBODY.contains(&plain.as_str())
        || plain.starts_with("noreply")
        || plain.starts_with("donotreply")
        || plain.ends_with("noreply")
        || local.starts_with("bounce-")
        || local.starts_with("bounces-")
        || local.starts_with("mailer-daemon")
}
