//! What Twilio's codes mean for the message, the number and us (twilio.com/docs/api/errors).

use std::time::Duration;

use crm_core::message::Blame;
use crm_core::{Error, ErrorKind, Retry};

use crate::exchange::{by_code, by_status};

/// What one code means: as an answer to a request, and (the blame) as the reason in a callback.
pub(super) struct Meaning {
    pub(super) kind: ErrorKind,
    pub(super) says: &'static str,
    pub(super) blame: Blame,
}

/// The explicit default for a code that this table does not have: dead, nobody's fault, to be looked at; never a loop.
const UNKNOWN: Meaning = Meaning {
    kind: ErrorKind::Unexpected,
    says: "a code of Twilio's that this version does not know; look it up at twilio.com/docs/api/errors",
    blame: Blame::Nobody,
};

pub(super) fn meaning(code: u32) -> Option<Meaning> {
    use Blame::{Content, Nobody, OptedOut, Recipient, RecipientForNow, Sender};
    use ErrorKind::{Config, Invalid, PermissionDenied, RateLimited, Refused, Unauthenticated, Unavailable};
    let (kind, says, blame) = match code {
        10001 | 20005 | 30002 => (PermissionDenied, "the account is suspended or not active", Sender),
        10004 => (RateLimited, "too many calls at once", Nobody),
        20001 => (Invalid, "a parameter is not understood", Nobody),
        20003 | 20006 => (Unauthenticated, "Twilio refuses our credentials", Sender),
        20008 => (PermissionDenied, "test credentials cannot do this", Sender),
        20404 => (Config, "there is no such account or resource", Sender),
        20403 => (
            PermissionDenied,
            "Twilio does not allow it to this account",
            Sender,
        ),
        14107 | 20429 => (RateLimited, "too many requests", Nobody),
        20500 => (Unavailable, "Twilio's server failed", Nobody),
        20503 => (Unavailable, "Twilio cannot serve now", Nobody),
        21201 | 21604 => (Invalid, "the recipient's number is missing", Nobody),
        21211 | 21217 | 21401 | 21614 => (
            Invalid,
            "the recipient's number is not one that can be reached",
            Recipient,
        ),
        21214 => (Invalid, "the recipient's number cannot be reached", Recipient),
        21215 | 21408 => (PermissionDenied, "the account may not reach that country", Sender),
        21216 => (PermissionDenied, "the account may not call that number", Sender),
        21219 | 21608 => (
            PermissionDenied,
            "a trial account reaches only numbers it has verified",
            Sender,
        ),
        21205 | 21218 | 21220 => (Invalid, "what the call should do is not valid", Content),
        21202 | 21203 | 21204 | 21206 | 21207 | 21208 | 21209 | 21210 | 21212 | 21213 => (
            Config,
            "the caller's number is not valid for this account",
            Sender,
        ),
        21603 | 21606 | 21659 | 21660 | 21661 | 21703 | 21704 | 21705 => (
            Config,
            "the sender's number or service is not valid for this account",
            Sender,
        ),
        21612 => (Config, "the sender's number cannot reach the recipient's", Sender),
        21609 => (Config, "the status callback's address is not valid", Sender),
        21610 => (Refused, "the recipient has opted out at Twilio", OptedOut),
        21611 => (
            RateLimited,
            "the sender's number has too many messages waiting",
            Nobody,
        ),
        21602 | 21605 | 21617 | 21618 | 21619 | 21620 | 21621 | 21622 | 21623 | 21654 | 21655 | 21656
        | 21657 | 21658 => (Invalid, "what the message says or shows is refused", Content),
        30001 => (RateLimited, "the sender's queue overflowed", Nobody),
        30003 => (Unavailable, "the phone cannot be reached now", RecipientForNow),
        30004 => (
            Invalid,
            "the recipient or carrier blocks messages",
            RecipientForNow,
        ),
        30005 => (
            Invalid,
            "the number is unknown or no longer in service",
            Recipient,
        ),
        30006 => (
            Invalid,
            "a landline, or a carrier that cannot be reached",
            Recipient,
        ),
        30007 => (
            PermissionDenied,
            "filtered as unwanted by Twilio or the carrier",
            Sender,
        ),
        30008 => (Unavailable, "the carrier gives no reason", Nobody),
        30009 => (Unavailable, "a part of the message got lost on the way", Nobody),
        30010 => (Config, "it costs more than the highest price allowed", Sender),
        30011 => (Invalid, "the carrier takes no pictures", Content),
        30017 => (Unavailable, "the carrier's network is congested", Nobody),
        30019 => (Invalid, "larger than the carrier takes", Content),
        30018 | 30024 | 30032 | 30034 | 30035 => (
            PermissionDenied,
            "the sender is not registered with the carrier",
            Sender,
        ),
        30022 | 30023 | 30027 | 63038 => (RateLimited, "the carrier's or account's limit is used up", Sender),
        30036 => (Unavailable, "not delivered within its validity", RecipientForNow),
        30037 => (
            PermissionDenied,
            "this kind of traffic is switched off for the account",
            Sender,
        ),
        30038 => (Invalid, "filtered for what it says", Content),
        30039 => (Invalid, "messages go in a circle", Sender),
        30044 => (Invalid, "longer than a trial account may send", Content),
        30410 => (Unavailable, "the carrier did not answer in time", Nobody),
        _ => return None,
    };
    Some(Meaning { kind, says, blame })
}

/// Who is to blame for a message or call that did not arrive.
pub(super) fn blame(code: Option<u32>) -> Blame {
    code.and_then(meaning)
        .map_or(UNKNOWN.blame, |meaning| meaning.blame)
}

/// An answer that is no success, in our words. The vendor's own words may hold the number, so they are left out.
pub(super) fn classify(code: Option<u32>, status: u16, safe: bool, wait: Option<Duration>) -> Error {
    let by_status = |wait| by_status(status, safe, wait);
    let Some(code) = code.filter(|code| *code != 0) else {
        return by_status(wait);
    };
    let shown = code.to_string();
    match meaning(code) {
        // Its server failed half-way: what the status says about the effect holds.
        _ if status >= 500 => by_status(wait).with("code", shown),
        // As a reason in a callback these may be tried again; refused at the door they are not.
        Some(Meaning {
            kind: ErrorKind::Unavailable,
            says,
            blame,
        }) => by_code(ErrorKind::Unavailable, says, blame, &shown, wait).with("status", status),
        Some(Meaning { kind, says, blame }) => {
            by_code(kind, says, blame, &shown, wait).with("status", status)
        }
        None if status == 429 || status == 401 || status == 403 => by_status(wait).with("code", shown),
        None => by_code(UNKNOWN.kind, UNKNOWN.says, UNKNOWN.blame, &shown, None)
            .with("status", status)
            .with_retry(Retry::Never),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::Effect;

    #[test]
    fn every_code_has_one_meaning() {
        use ErrorKind::{
            Config, Invalid, PermissionDenied, RateLimited, Refused, Unauthenticated, Unavailable, Unexpected,
        };
        let wait = Some(Duration::from_secs(30));
        for (code, status, kind, retried, blame) in [
            (20003, 401, Unauthenticated, false, "sender"),
            (20404, 404, Config, false, "sender"),
            (20429, 429, RateLimited, true, "nobody"),
            (21211, 400, Invalid, false, "recipient"),
            (21614, 400, Invalid, false, "recipient"),
            (21610, 400, Refused, false, "opted_out"),
            (21611, 400, RateLimited, true, "nobody"),
            (21612, 400, Config, false, "sender"),
            (21606, 400, Config, false, "sender"),
            (21408, 400, PermissionDenied, false, "sender"),
            (21617, 400, Invalid, false, "content"),
            (21656, 400, Invalid, false, "content"),
            (30001, 400, RateLimited, true, "nobody"),
            (30002, 400, PermissionDenied, false, "sender"),
            (30003, 400, Unavailable, true, "recipient_for_now"),
            (30005, 400, Invalid, false, "recipient"),
            (30006, 400, Invalid, false, "recipient"),
            (30007, 400, PermissionDenied, false, "sender"),
            (30008, 400, Unavailable, true, "nobody"),
            (30034, 400, PermissionDenied, false, "sender"),
            (10004, 400, RateLimited, true, "nobody"),
            (98765, 400, Unexpected, false, "nobody"),
        ] {
            let error = classify(Some(code), status, false, wait);
            assert_eq!(
                (error.kind(), error.is_retryable(), error.context("blame")),
                (kind, retried, Some(blame)),
                "{code}: {error}"
            );
            assert_eq!(error.context("code"), Some(code.to_string().as_str()));
            assert_eq!(error.effect(), Effect::None, "{code}");
            assert_eq!(
                error.context("suppress").is_some(),
                blame == "recipient",
                "{code}"
            );
            if retried {
                assert_eq!(error.retry(), Retry::Allowed { after: wait }, "{code}");
            }
        }
        // A failing server may have done it, whatever it says.
        assert_eq!(classify(Some(20500), 500, false, None).effect(), Effect::Unknown);
        assert_eq!(classify(None, 502, false, None).effect(), Effect::Unknown);
        assert_eq!(classify(Some(20503), 503, false, None).effect(), Effect::None);
        assert_eq!(classify(None, 500, true, None).effect(), Effect::None);
        assert_eq!(
            classify(None, 429, false, wait).retry(),
            Retry::Allowed { after: wait }
        );
    }
}
