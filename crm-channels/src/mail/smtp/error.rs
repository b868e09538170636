//! What a server's answer means for the message, the address and us.

use std::io;
use std::time::Duration;

use crm_core::message::Blame;
use crm_core::{Error, ErrorKind, Retry};

use super::super::status::EnhancedStatus;
use super::link::Broken;
use super::reply::Reply;

/// Where in the conversation it happened (RFC 5321).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connect,
    Tls,
    Login,
    From,
    Recipient,
    /// The `DATA` command and the content, before the final dot went out.
    Data,
    /// After the final dot went out: the server may have taken the message.
    End,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Login => "auth",
            Self::From => "mail from",
            Self::Recipient => "rcpt to",
            Self::Data => "data",
            Self::End => "end of data",
        }
    }
}

/// Greylisting asks for some minutes; sooner only counts against us.
const GREYLIST: Duration = Duration::from_secs(300);
/// A server that asks for more is asked again all the same.
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 3600);

/// The enhanced status code at the start of a reply's text, when it is of the reply's class.
fn enhanced(code: u16, text: &str) -> Option<(u16, u16)> {
    let status: EnhancedStatus = text.split_whitespace().next()?.parse().ok()?;
    (u16::from(status.class) == code / 100).then_some((status.subject, status.detail))
}

/// A server's words without addresses: they may end up in logs and on the timeline.
pub(super) fn scrub(text: &str, recipient: &str) -> String {
    let local = recipient
        .rsplit_once('@')
        .map_or(recipient, |(local, _)| local)
        .to_lowercase();
    let mut clean = String::new();
    for word in text.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
        let names = word.contains('@')
            || (!local.is_empty() && bare == local)
            || (local.len() >= 3 && bare.contains(&local));
        if !clean.is_empty() {
            clean.push(' ');
        }
        if names {
            clean.push_str("<address>");
        } else {
            clean.extend(word.chars().filter(|c| !c.is_control()).take(80));
        }
        if clean.len() > 200 {
            clean.push_str(" ...");
            break;
        }
    }
    clean
}

/// How long the server asks to wait, where it says so in words: `try again in 300 seconds`, `greylisted for 5 minutes`.
fn asked_wait(text: &str) -> Option<Duration> {
    let mut before = "";
    for word in text.split(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',' | ';' | '\n')) {
        let unit = word.trim_end_matches('.').to_ascii_lowercase();
        let seconds = match unit.as_str() {
            "s" | "sec" | "secs" | "second" | "seconds" => 1,
            "min" | "mins" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 3600,
            _ => 0,
        };
        if seconds > 0
            && let Ok(count) = before.parse::<u64>()
        {
            return Some(Duration::from_secs(count.saturating_mul(seconds)).min(LONGEST_WAIT));
        }
        before = word;
    }
    None
}

/// A refusal by reply: its kind, whether it may be tried again, and who is to blame (reply table of the documentation,
/// after the classes of RFC 3463 and what Postfix makes of replies). Only an address that is dead is blamed itself.
pub(super) fn classify(phase: Phase, code: u16, text: &str, recipient: &str) -> Error {
    use Blame::{Content, Nobody, Recipient, RecipientForNow, Sender};
    use ErrorKind::{Invalid, PermissionDenied, RateLimited, Unauthenticated, Unavailable, Unexpected};
    let status = enhanced(code, text);
    let at_address = matches!(phase, Phase::Recipient | Phase::Data | Phase::End);
    let (kind, message, blame) = match (code, status) {
        (530 | 534 | 535 | 538, _) => (Unauthenticated, "the server refuses our log-in", Sender),
        (500..600, _) if phase == Phase::Login => (Unauthenticated, "the server refuses our log-in", Sender),
        (500..600, _) if matches!(phase, Phase::Connect | Phase::Tls) => {
            (Unavailable, "the server refuses to talk to us", Sender)
        }
        (450 | 451, Some((7, 0 | 1))) | (450, Some((2, 0 | 1))) => (Unavailable, "greylisted", Nobody),
        (400..500, Some((7, _))) => (RateLimited, "the server asks to slow down", Nobody),
        (400..500, Some((2, 2))) => (Unavailable, "the mailbox is full for now", RecipientForNow),
        (400..500, _) => (Unavailable, "the server cannot take it now", Nobody),
        // RFC 5321, 4.5.3.1.10: older servers say 552 where they mean 452.
        (552, None | Some((5, 3))) if phase == Phase::Recipient => {
            (Unavailable, "the server cannot take it now", Nobody)
        }
        (500..600, Some((1, 1 | 3 | 6 | 10))) if at_address => {
            (Invalid, "there is no such mailbox", Recipient)
        }
        (500..600, Some((2, 1))) if at_address => (Invalid, "the mailbox is disabled", Recipient),
        (500..600, Some((2, 2))) => (Invalid, "the mailbox is full", RecipientForNow),
        (500..600, Some((2, 3) | (3, 4) | (6, _))) => (Invalid, "the server refuses the content", Content),
        (500..600, Some((7, _))) => (PermissionDenied, "the server's policy refuses us", Sender),
        (500..600, Some((4, _))) => (Invalid, "the server finds no way to the recipient", Nobody),
        // Commands are ours, so what it does not understand is our fault.
        (500..=504 | 555, None | Some((5, _))) => (Unexpected, "the server does not understand us", Nobody),
        (500..600, _) if phase == Phase::From => (PermissionDenied, "the server refuses our sender", Sender),
        (500..600, _) => (Invalid, "the server refuses the message", Nobody),
        _ => (Unavailable, "an answer out of turn", Nobody),
    };
    let error = told(Error::new(kind, message), phase, code, text, recipient).blame(blame);
    let error = if blame == Recipient {
        error.with("suppress", "recipient")
    } else {
        error
    };
    let asked = error.is_retryable().then(|| asked_wait(text)).flatten();
    match (asked, message) {
        (Some(wait), "greylisted") => retry_after(error, wait.max(GREYLIST)),
        (None, "greylisted") => retry_after(error, GREYLIST),
        (Some(wait), _) => retry_after(error, wait),
        _ => error,
    }
}

fn retry_after(error: Error, wait: Duration) -> Error {
    error.with_retry(Retry::Allowed { after: Some(wait) })
}

fn told(error: Error, phase: Phase, code: u16, text: &str, recipient: &str) -> Error {
    let reply = match enhanced(code, text) {
        Some((subject, detail)) => format!("{code} {}.{subject}.{detail}", code / 100),
        None => code.to_string(),
    };
    error
        .operation("mail.send")
        .with("phase", phase.as_str())
        .with("reply", reply)
        .with("said", scrub(text, recipient))
}

/// A reply that is none to what was said. After the final dot it tells nothing about the message.
pub(super) fn odd(phase: Phase, reply: &Reply) -> Error {
    let error = told(
        Error::new(ErrorKind::Unavailable, "an answer out of turn"),
        phase,
        reply.code,
        &reply.text,
        "",
    );
    if phase == Phase::End {
        error.effect_unknown()
    } else {
        error
    }
}

/// A connection that failed without a reply. After the final dot the outcome is unknown (RFC 5321, 4.2.5); before it
/// the server must not deliver, so nothing happened.
pub(super) fn broken(phase: Phase, cause: Broken) -> Error {
    let error = match cause {
        Broken::Late => Error::new(ErrorKind::Timeout, "no answer in time"),
        Broken::Closed => Error::new(ErrorKind::Unavailable, "the server closed the connection"),
        Broken::Garbage(what) => {
            Error::new(ErrorKind::Unavailable, "the server's answer is no reply").with("cause", what)
        }
        Broken::Failed(error) => {
            Error::new(ErrorKind::Unavailable, "the connection was lost or refused").source(error)
        }
    };
    let error = error.operation("mail.send").with("phase", phase.as_str());
    if phase == Phase::End {
        error.effect_unknown()
    } else {
        error
    }
}

/// TLS that does not come to stand. What is wrong with a certificate stays wrong, and is a matter of settings.
pub(super) fn handshake(phase: Phase, error: io::Error) -> Error {
    let cause = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let refused = match cause {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => Some((
            "host",
            "the server's certificate is not accepted: check host, or name its authority in ca_file",
        )),
        Some(rustls::Error::InvalidMessage(_)) => Some((
            "tls",
            "the server speaks no TLS here; for STARTTLS write smtp:// and its port",
        )),
        Some(_) => Some(("tls", "TLS with the server does not come to stand")),
        None if error.kind() == io::ErrorKind::InvalidData => Some((
            "tls",
            "somebody spoke between STARTTLS and TLS: the connection is not used",
        )),
        None => None,
    };
    match refused {
        Some((setting, message)) => Error::config(message)
            .operation("mail.send")
            .with("phase", phase.as_str())
            .with("setting", setting)
            .with("cause", error),
        None => broken(phase, error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::Effect;

    /// Phase, reply, kind, whether it is tried again, who is blamed. From the classes of RFC 3463, what Postfix makes of
    /// replies, and replies of large providers as their postmasters document them.
    const TABLE: &str = "
        connect | 554 no SMTP service here | unavailable | again | sender
        connect | 554 5.7.1 Service unavailable; client host blocked using zen.spamhaus.org | unavailable | again | sender
        connect | 550 5.7.1 mail from this network is refused | unavailable | again | sender
        connect | 521 5.3.2 host does not accept mail | unavailable | again | sender
        connect | 421 4.7.0 too many connections from your host | rate limited | again | nobody
        connect | 421 4.3.2 Service shutting down | unavailable | again | nobody
        connect | 421 busy | unavailable | again | nobody
        connect | 451 4.7.650 The mail server has been temporarily rate limited | rate limited | again | nobody
        starttls | 454 4.7.0 TLS not available due to local problem | rate limited | again | nobody
        starttls | 501 5.5.4 syntax error | unavailable | again | sender
        auth | 535 5.7.8 Error: authentication failed | unauthenticated | never | sender
        auth | 535 5.7.3 Authentication unsuccessful | unauthenticated | never | sender
        auth | 534 5.7.9 Application-specific password required | unauthenticated | never | sender
        auth | 538 5.7.11 encryption required | unauthenticated | never | sender
        auth | 501 5.5.4 what | unauthenticated | never | sender
        auth | 550 5.2.1 account disabled | unauthenticated | never | sender
        auth | 454 4.7.0 Temporary authentication failure | rate limited | again | nobody
        auth | 421 4.7.0 Too many login attempts | rate limited | again | nobody
        mail | 530 5.7.0 Must issue a STARTTLS command first | unauthenticated | never | sender
        mail | 530 5.7.57 Client not authenticated to send mail | unauthenticated | never | sender
        mail | 553 5.7.1 Sender address rejected: not owned by user | permission denied | never | sender
        mail | 553 5.1.8 bad sender domain | permission denied | never | sender
        mail | 550 5.1.1 who are you | permission denied | never | sender
        mail | 550 5.7.1 Sender rejected by policy | permission denied | never | sender
        mail | 552 5.3.4 Message size exceeds fixed limit | invalid input | never | content
        mail | 452 4.3.1 Insufficient system storage | unavailable | again | nobody
        mail | 451 4.3.0 Temporary lookup failure | unavailable | again | nobody
        mail | 421 4.7.28 Our system has detected an unusual rate of mail | rate limited | again | nobody
        mail | 550 5.4.5 Daily user sending limit exceeded | invalid input | never | nobody
        mail | 503 5.5.1 nested MAIL command | unexpected | never | nobody
        rcpt | 550 5.1.1 The email account that you tried to reach does not exist | invalid input | never | recipient
        rcpt | 550 5.1.1 RESOLVER.ADR.RecipNotFound; not found | invalid input | never | recipient
        rcpt | 550 5.1.10 RESOLVER.ADR.RecipientNotFound | invalid input | never | recipient
        rcpt | 556 5.1.10 Recipient address has null MX | invalid input | never | recipient
        rcpt | 553 5.1.3 The recipient address is not a valid address | invalid input | never | recipient
        rcpt | 551 5.1.6 mailbox has moved | invalid input | never | recipient
        rcpt | 550 5.2.1 The email account that you tried to reach is disabled | invalid input | never | recipient
        rcpt | 552 5.2.2 The email account is over quota | invalid input | never | recipient_for_now
        rcpt | 452 4.2.2 The recipient's inbox is out of storage space | unavailable | again | recipient_for_now
        rcpt | 450 4.2.1 The user is receiving mail at a rate that prevents delivery | unavailable | greylist | nobody
        rcpt | 450 4.2.0 Recipient address rejected: Greylisted | unavailable | greylist | nobody
        rcpt | 451 4.7.1 Greylisting in action, please come back later | unavailable | greylist | nobody
        rcpt | 450 4.7.1 Client host rejected: cannot find your hostname | unavailable | greylist | nobody
        rcpt | 451 4.3.0 Error: queue file write error | unavailable | again | nobody
        rcpt | 451 4.4.1 no route for now | unavailable | again | nobody
        rcpt | 450 too busy | unavailable | again | nobody
        rcpt | 452 4.5.3 too many recipients | unavailable | again | nobody
        rcpt | 552 too many recipients | unavailable | again | nobody
        rcpt | 552 5.5.3 too many recipients | unavailable | again | nobody
        rcpt | 550 5.1.2 no such domain | invalid input | never | nobody
        rcpt | 550 user unknown | invalid input | never | nobody
        rcpt | 550 5.5.0 Requested action not taken: mailbox unavailable | invalid input | never | nobody
        rcpt | 550 4.1.1 classes disagree | invalid input | never | nobody
        rcpt | 550 said 5.1.1 too late | invalid input | never | nobody
        rcpt | 550  | invalid input | never | nobody
        rcpt | 550 5.4.1 Recipient address rejected: Access denied | invalid input | never | nobody
        rcpt | 554 5.4.6 routing loop detected | invalid input | never | nobody
        rcpt | 550 5.7.1 relaying denied | permission denied | never | sender
        rcpt | 554 5.7.1 blocked by policy | permission denied | never | sender
        rcpt | 550 5.7.25 no PTR record | permission denied | never | sender
        rcpt | 503 5.5.1 bad sequence | unexpected | never | nobody
        rcpt | 421 4.4.2 timeout exceeded | unavailable | again | nobody
        data | 554 5.5.1 no valid recipients | invalid input | never | nobody
        data | 550 5.1.1 no such user | invalid input | never | recipient
        data | 451 4.5.0 not now | unavailable | again | nobody
        dot | 550 5.1.1 no such user | invalid input | never | recipient
        dot | 550 5.7.26 Unauthenticated email from shop.example is not accepted due to DMARC | permission denied | never | sender
        dot | 550 5.7.1 message is likely unsolicited mail | permission denied | never | sender
        dot | 552 5.3.4 too big | invalid input | never | content
        dot | 552 5.2.3 Message size exceeds limit | invalid input | never | content
        dot | 554 5.6.0 corrupt message | invalid input | never | content
        dot | 552 5.7.0 This message was blocked because its content presents a security issue | permission denied | never | sender
        dot | 554 delivery error: this user doesn't have an account | invalid input | never | nobody
        dot | 451 4.3.0 later | unavailable | again | nobody
        dot | 421 4.7.0 TSS04 messages temporarily deferred due to complaints | rate limited | again | nobody
    ";

    #[test]
    fn replies() {
        let mut rows = 0;
        for row in TABLE.lines().map(str::trim).filter(|row| !row.is_empty()) {
            let [phase, reply, kind, again, blame] = row.split(" | ").collect::<Vec<_>>()[..] else {
                panic!("five cells: {row}");
            };
            let phase = match phase {
                "connect" => Phase::Connect,
                "starttls" => Phase::Tls,
                "auth" => Phase::Login,
                "mail" => Phase::From,
                "rcpt" => Phase::Recipient,
                "data" => Phase::Data,
                "dot" => Phase::End,
                other => panic!("no phase: {other}"),
            };
            let (code, text) = reply.split_once(' ').unwrap();
            let error = classify(phase, code.parse().unwrap(), text, "ana@example.org");
            assert_eq!(error.kind().as_str(), kind, "{row}");
            assert_eq!(error.blamed().as_str(), blame, "{row}");
            let retry = match again {
                "again" => Retry::Allowed { after: None },
                "greylist" => Retry::Allowed {
                    after: Some(GREYLIST),
                },
                _ => Retry::Never,
            };
            assert_eq!(error.retry(), retry, "{row}");
            let suppressed = (blame == "recipient").then_some("recipient");
            assert_eq!(error.context("suppress"), suppressed, "{row}");
            assert_eq!(error.effect(), Effect::None, "a refusal is an answer: {row}");
            rows += 1;
        }
        assert!(rows >= 60, "{rows} rows");
    }

    #[test]
    fn a_wait_that_is_asked_for_is_kept() {
        for (text, seconds) in [
            ("4.2.0 Greylisted for 10 minutes", Some(600)),
            ("4.2.0 Greylisted, try again in 60 seconds", Some(300)),
            ("4.3.2 try again in 120 seconds.", Some(120)),
            ("4.3.2 wait 2 hours (please)", Some(7200)),
            ("4.3.2 wait 99999999999 hours", Some(6 * 3600)),
            ("4.3.2 wait some minutes", None),
        ] {
            let error = classify(Phase::Recipient, 450, text, "a@b.c");
            let after = seconds.map(Duration::from_secs);
            assert_eq!(error.retry(), Retry::Allowed { after }, "{text}");
        }
        let never = classify(Phase::Recipient, 550, "5.7.1 try again in 5 minutes", "a@b.c");
        assert_eq!(never.retry(), Retry::Never);
    }

    #[test]
    fn lost_after_the_dot_is_unknown_and_before_it_is_not() {
        for phase in [
            Phase::Connect,
            Phase::Tls,
            Phase::Login,
            Phase::From,
            Phase::Recipient,
            Phase::Data,
        ] {
            let error = broken(phase, Broken::Closed);
            assert!(
                error.effect() == Effect::None && error.is_retryable(),
                "{phase:?}"
            );
        }
        for cause in [Broken::Closed, Broken::Late, Broken::Garbage("odd")] {
            let error = broken(Phase::End, cause);
            assert!(error.effect() == Effect::Unknown && !error.is_retryable());
        }
        let reply = Reply {
            code: 354,
            text: "go on".into(),
        };
        assert_eq!(
            odd(Phase::End, &reply).effect(),
            Effect::Unknown,
            "an answer to another question"
        );
    }

    #[test]
    fn no_address_in_what_the_server_said() {
        let said = scrub(
            "5.1.1 <Ana.Kask@Example.org>: Recipient ana.kask rejected (ana.kask) SMTP:ana.kask:x.",
            "ana.kask@example.org",
        );
        assert_eq!(
            said,
            "5.1.1 <address> Recipient <address> rejected <address> <address>"
        );
        assert!(scrub(&"x ".repeat(500), "a@b.c").len() < 220);
        assert!(scrub(&"x".repeat(5000), "a@b.c").len() < 220);
        assert_eq!(scrub("a\u{7}b", "x@b.c"), "ab");
    }
}
