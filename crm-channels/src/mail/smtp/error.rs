//! What a server's answer means for the message, the address and us.

use std::time::Duration;

use crm_core::{Error, ErrorKind, Retry};

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

/// The enhanced status code (RFC 3463) at the start of a reply's text.
fn enhanced(code: u16, text: &str) -> Option<(u16, u16)> {
    let word = text.split_whitespace().next()?;
    let mut parts = word.split('.');
    let class: u16 = parts.next()?.parse().ok()?;
    let (subject, detail) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (class == code / 100 && parts.next().is_none()).then_some((subject, detail))
}

/// A server's words without addresses: they may end up in logs and on the timeline.
pub(super) fn scrub(text: &str, recipient: &str) -> String {
    let local = recipient.rsplit_once('@').map_or(recipient, |(local, _)| local);
    let mut clean = String::new();
    for word in text.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let names = word.contains('@') || (!local.is_empty() && bare.eq_ignore_ascii_case(local));
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(if names { "<address>" } else { word });
        if clean.len() > 200 {
            clean.push_str(" ...");
            break;
        }
    }
    clean
}

/// A refusal by reply: kind, retry, and who is to blame. `suppress=recipient` only where the address itself is dead.
pub(super) fn classify(phase: Phase, code: u16, text: &str, recipient: &str) -> Error {
    let status = enhanced(code, text);
    let at_address = matches!(phase, Phase::Recipient | Phase::Data | Phase::End);
    let (kind, message, blame) = match (code, status) {
        (535 | 530 | 534 | 538, _) => (
            ErrorKind::Unauthenticated,
            "the server refuses our log-in",
            "login",
        ),
        (500..600, _) if phase == Phase::Login => (
            ErrorKind::Unauthenticated,
            "the server refuses our log-in",
            "login",
        ),
        (500..600, _) if matches!(phase, Phase::Connect | Phase::Tls) => (
            ErrorKind::Unavailable,
            "the server refuses to talk to us",
            "route",
        ),
        (400..500, Some((7, 0 | 1))) if code == 450 || code == 451 => {
            (ErrorKind::Unavailable, "greylisted", "later")
        }
        (450, Some((2, 0 | 1))) => (ErrorKind::Unavailable, "greylisted", "later"),
        (421, Some((7, _))) | (400..500, Some((7, _))) => {
            (ErrorKind::RateLimited, "the server asks to slow down", "route")
        }
        (400..500, Some((2, 2))) => (ErrorKind::Unavailable, "the mailbox is full for now", "mailbox"),
        (400..500, _) => (ErrorKind::Unavailable, "the server cannot take it now", "later"),
        // RFC 5321, 4.5.3.1.10: older servers say 552 where they mean 452.
        (552, None) if phase == Phase::Recipient => {
            (ErrorKind::Unavailable, "the server cannot take it now", "later")
        }
        (500..600, Some((1, 1 | 3 | 6 | 10))) if at_address => {
            (ErrorKind::Invalid, "there is no such mailbox", "recipient")
        }
        (500..600, Some((2, 1))) if at_address => {
            (ErrorKind::Invalid, "the mailbox is disabled", "recipient")
        }
        (500..600, Some((2, 2))) => (ErrorKind::Invalid, "the mailbox is full", "mailbox"),
        (500..600, Some((3, 4) | (6, _))) => {
            (ErrorKind::Invalid, "the server refuses the content", "content")
        }
        (500..600, Some((7, _))) => (
            ErrorKind::PermissionDenied,
            "the server's policy refuses us",
            "policy",
        ),
        (500..600, Some((4, _))) => (
            ErrorKind::Invalid,
            "the server finds no way to the recipient",
            "route",
        ),
        (500..600, _) if phase == Phase::From => (
            ErrorKind::PermissionDenied,
            "the server refuses our sender",
            "sender",
        ),
        (500..600, Some((5, _))) => (
            ErrorKind::Unexpected,
            "the server does not understand us",
            "protocol",
        ),
        (500..600, _) => (ErrorKind::Invalid, "the server refuses the message", "unknown"),
        _ => (ErrorKind::Unavailable, "an answer out of turn", "protocol"),
    };
    let reply = match status {
        Some((subject, detail)) => format!("{code} {}.{subject}.{detail}", code / 100),
        None => code.to_string(),
    };
    let mut error = Error::new(kind, message)
        .operation("mail.send")
        .with("phase", phase.as_str())
        .with("reply", reply)
        .with("blame", blame)
        .with("said", scrub(text, recipient));
    if blame == "recipient" {
        error = error.with("suppress", "recipient");
    }
    match message {
        "greylisted" => error.with_retry(Retry::Allowed {
            after: Some(GREYLIST),
        }),
        // An answer that is not one: after the final dot it says nothing about the message.
        _ if blame == "protocol" && phase == Phase::End && !(400..600).contains(&code) => {
            error.effect_unknown()
        }
        _ => error,
    }
}

/// A connection that failed without a reply. After the final dot the outcome is unknown (RFC 5321, 4.2.5); before it
/// the server must not deliver, so nothing happened.
pub(super) fn lost(phase: Phase, kind: ErrorKind, message: &'static str) -> Error {
    let error = Error::new(kind, message)
        .operation("mail.send")
        .with("phase", phase.as_str());
    if phase == Phase::End {
        error.effect_unknown()
    } else {
        error
    }
}

/// What the SMTP library reports.
pub(super) fn translate(phase: Phase, error: &lettre::transport::smtp::Error, recipient: &str) -> Error {
    use std::error::Error as _;
    if let Some(code) = error.status() {
        let text = error.source().map(ToString::to_string).unwrap_or_default();
        return classify(phase, u16::from(code), &text, recipient);
    }
    if error.is_client() {
        // The library refuses by itself, before it says anything to the server.
        return match phase {
            Phase::Tls => {
                Error::config("the server offers no STARTTLS; the connection is not used without it")
                    .operation("mail.send")
                    .with("setting", "tls")
            }
            Phase::Login => Error::config("the server offers neither PLAIN nor LOGIN to log in")
                .operation("mail.send")
                .with("setting", "user"),
            _ => lost(
                phase,
                ErrorKind::Unexpected,
                "the message cannot be said to this server",
            ),
        };
    }
    let mut source = error.source();
    let mut certificate = error.is_tls();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            // How rustls reports what it refuses: certificate, name, protocol.
            certificate |=
                io.kind() == std::io::ErrorKind::InvalidData && matches!(phase, Phase::Connect | Phase::Tls);
        }
        source = cause.source();
    }
    if certificate {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        return Error::config(
            "the server's certificate is not accepted: check host, or name its authority in ca_file",
        )
        .operation("mail.send")
        .with("setting", "host")
        .with("cause", cause);
    }
    if error.is_timeout() {
        return lost(phase, ErrorKind::Timeout, "no answer in time");
    }
    lost(
        phase,
        ErrorKind::Unavailable,
        "the connection was lost or refused",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::Effect;

    type Row = (Phase, &'static str, ErrorKind, bool, bool, &'static str);

    /// Phase, reply; kind, retried, suppressed, blamed. From the classes of RFC 3463 and replies of servers in use.
    const TABLE: &[Row] = &[
        (
            Phase::Recipient,
            "550 5.1.1 no such user",
            ErrorKind::Invalid,
            false,
            true,
            "recipient",
        ),
        (
            Phase::Recipient,
            "550 5.1.3 bad address syntax",
            ErrorKind::Invalid,
            false,
            true,
            "recipient",
        ),
        (
            Phase::Recipient,
            "551 5.1.6 mailbox has moved",
            ErrorKind::Invalid,
            false,
            true,
            "recipient",
        ),
        (
            Phase::Recipient,
            "556 5.1.10 null MX",
            ErrorKind::Invalid,
            false,
            true,
            "recipient",
        ),
        (
            Phase::Recipient,
            "550 5.2.1 disabled",
            ErrorKind::Invalid,
            false,
            true,
            "recipient",
        ),
        (
            Phase::End,
            "550 5.1.1 no such user",
            ErrorKind::Invalid,
            false,
            true,
            "recipient",
        ),
        (
            Phase::Recipient,
            "552 5.2.2 mailbox full",
            ErrorKind::Invalid,
            false,
            false,
            "mailbox",
        ),
        (
            Phase::Recipient,
            "452 4.2.2 mailbox full",
            ErrorKind::Unavailable,
            true,
            false,
            "mailbox",
        ),
        (
            Phase::Recipient,
            "552 too many recipients",
            ErrorKind::Unavailable,
            true,
            false,
            "later",
        ),
        (
            Phase::Recipient,
            "550 5.1.2 no such domain",
            ErrorKind::Invalid,
            false,
            false,
            "unknown",
        ),
        (
            Phase::Recipient,
            "550 user unknown",
            ErrorKind::Invalid,
            false,
            false,
            "unknown",
        ),
        (
            Phase::Recipient,
            "550 5.7.1 relaying denied",
            ErrorKind::PermissionDenied,
            false,
            false,
            "policy",
        ),
        (
            Phase::Recipient,
            "554 5.7.1 blocked by policy",
            ErrorKind::PermissionDenied,
            false,
            false,
            "policy",
        ),
        (
            Phase::End,
            "550 5.7.26 unauthenticated mail",
            ErrorKind::PermissionDenied,
            false,
            false,
            "policy",
        ),
        (
            Phase::End,
            "552 5.3.4 too big",
            ErrorKind::Invalid,
            false,
            false,
            "content",
        ),
        (
            Phase::End,
            "554 5.6.0 corrupt message",
            ErrorKind::Invalid,
            false,
            false,
            "content",
        ),
        (
            Phase::Recipient,
            "550 5.4.1 no answer",
            ErrorKind::Invalid,
            false,
            false,
            "route",
        ),
        (
            Phase::Recipient,
            "450 4.2.0 greylisted",
            ErrorKind::Unavailable,
            true,
            false,
            "later",
        ),
        (
            Phase::Recipient,
            "451 4.7.1 greylisted",
            ErrorKind::Unavailable,
            true,
            false,
            "later",
        ),
        (
            Phase::Recipient,
            "451 4.3.0 local error",
            ErrorKind::Unavailable,
            true,
            false,
            "later",
        ),
        (
            Phase::From,
            "421 4.7.28 rate limit",
            ErrorKind::RateLimited,
            true,
            false,
            "route",
        ),
        (
            Phase::From,
            "421 4.3.2 shutting down",
            ErrorKind::Unavailable,
            true,
            false,
            "later",
        ),
        (
            Phase::From,
            "421 busy",
            ErrorKind::Unavailable,
            true,
            false,
            "later",
        ),
        (
            Phase::From,
            "553 5.1.8 bad sender domain",
            ErrorKind::PermissionDenied,
            false,
            false,
            "sender",
        ),
        (
            Phase::From,
            "550 5.1.1 who are you",
            ErrorKind::PermissionDenied,
            false,
            false,
            "sender",
        ),
        (
            Phase::From,
            "530 5.7.0 log in first",
            ErrorKind::Unauthenticated,
            false,
            false,
            "login",
        ),
        (
            Phase::Login,
            "535 5.7.8 wrong",
            ErrorKind::Unauthenticated,
            false,
            false,
            "login",
        ),
        (
            Phase::Login,
            "501 5.5.4 what",
            ErrorKind::Unauthenticated,
            false,
            false,
            "login",
        ),
        (
            Phase::Login,
            "454 4.7.0 try later",
            ErrorKind::RateLimited,
            true,
            false,
            "route",
        ),
        (
            Phase::Connect,
            "554 no SMTP service here",
            ErrorKind::Unavailable,
            true,
            false,
            "route",
        ),
        (
            Phase::Connect,
            "554 5.7.1 listed",
            ErrorKind::Unavailable,
            true,
            false,
            "route",
        ),
        (
            Phase::Recipient,
            "503 5.5.1 bad sequence",
            ErrorKind::Unexpected,
            false,
            false,
            "protocol",
        ),
        (
            Phase::End,
            "451 4.3.0 later",
            ErrorKind::Unavailable,
            true,
            false,
            "later",
        ),
        (
            Phase::Recipient,
            "550 4.1.1 classes disagree",
            ErrorKind::Invalid,
            false,
            false,
            "unknown",
        ),
    ];

    #[test]
    fn replies() {
        for (phase, reply, kind, retried, suppressed, blame) in TABLE {
            let (code, text) = reply.split_once(' ').unwrap();
            let error = classify(*phase, code.parse().unwrap(), text, "ana@example.org");
            assert_eq!(error.kind(), *kind, "{reply}");
            assert_eq!(error.is_retryable(), *retried, "{reply}");
            assert_eq!(
                error.context("suppress"),
                suppressed.then_some("recipient"),
                "{reply}"
            );
            assert_eq!(error.context("blame"), Some(*blame), "{reply}");
            assert_eq!(error.effect(), Effect::None, "a refusal is an answer: {reply}");
        }
        let grey = classify(Phase::Recipient, 451, "4.7.1 greylisted", "a@b.c");
        assert_eq!(
            grey.retry(),
            Retry::Allowed {
                after: Some(GREYLIST)
            }
        );
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
            let error = lost(phase, ErrorKind::Unavailable, "lost");
            assert!(
                error.effect() == Effect::None && error.is_retryable(),
                "{phase:?}"
            );
        }
        let error = lost(Phase::End, ErrorKind::Unavailable, "lost");
        assert!(error.effect() == Effect::Unknown && !error.is_retryable());
        let odd = classify(Phase::End, 354, "go on", "a@b.c");
        assert_eq!(odd.effect(), Effect::Unknown, "an answer to another question");
    }

    #[test]
    fn no_address_in_what_the_server_said() {
        let said = scrub(
            "5.1.1 <Ana.Kask@Example.org>: Recipient ana.kask rejected (ana.kask).",
            "ana.kask@example.org",
        );
        assert_eq!(said, "5.1.1 <address> Recipient <address> rejected <address>");
        assert!(scrub(&"x ".repeat(500), "a@b.c").len() < 220);
    }
}
