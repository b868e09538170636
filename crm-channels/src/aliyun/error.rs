//! What Aliyun's codes mean for the message, the number and us (help.aliyun.com/document_detail/101346.html for requests,
//! 101347 for receipts, 112502 and 55085 for calls).

use std::time::Duration;

use crm_core::message::{Blame, DeliveryState};
use crm_core::{Error, ErrorKind};

use crate::exchange::{by_code, by_status, shown};

/// A number may get one message a minute; five an hour and ten a day show as the same code.
const NEXT_MINUTE: Duration = Duration::from_secs(60);
/// The account's own limit of a day or month: somebody has to raise it, or the day to end.
const NEXT_HOUR: Duration = Duration::from_secs(3600);

/// An answer to a request that is not `OK`, in our words. The vendor's own words may hold the number, so they are left out.
pub(super) fn classify(code: Option<&str>, status: u16, safe: bool, wait: Option<Duration>) -> Error {
    use Blame::{Content, Nobody, Recipient, Sender};
    use ErrorKind::{
        Config, Invalid, PermissionDenied, RateLimited, Unauthenticated, Unavailable, Unexpected,
    };
    let Some(code) = code.filter(|code| !code.is_empty()) else {
        return by_status(status, safe, wait);
    };
    // The international service leaves the prefix out.
    let bare = code.trim_start_matches("isv.").trim_start_matches("isp.");
    let (kind, says, blame) = match bare {
        "BUSINESS_LIMIT_CONTROL" | "BUSINESS_LIMIT_HOUR" | "BUSINESS_LIMIT_DAY" => {
            return by_code(
                RateLimited,
                "this number has had as many as it may have now",
                Nobody,
                &shown(code),
                wait.or(Some(NEXT_MINUTE)),
            );
        }
        "DAY_LIMIT_CONTROL" | "MONTH_LIMIT_CONTROL" => {
            return by_code(
                RateLimited,
                "the account's own limit is used up; it is set in the vendor's console",
                Sender,
                &shown(code),
                wait.or(Some(NEXT_HOUR)),
            );
        }
        "QPS_LIMIT_CONTROL" => (RateLimited, "too many requests", Nobody),
        _ if bare.starts_with("Throttling") => (RateLimited, "too many requests", Nobody),
        "MOBILE_NUMBER_ILLEGAL" | "PHONE_NUMBER_ILLEGAL" => (
            Invalid,
            "the recipient's number is not one that can be reached",
            Recipient,
        ),
        "SMS_TEMPLATE_ILLEGAL"
        | "SMS_CONTENT_ILLEGAL"
        | "SMS_CONTENT_CODE_ILLEGAL"
        | "SMS_CONTENT_MISMATCH_TEMPLATE_TYPE"
        | "UNSUPPORTED_CONTENT"
        | "TTS_TEMPLATE_ILLEGAL"
        | "VOICE_FILE_ILLEGAL" => (
            Invalid,
            "the template is not known, not approved, or not for this",
            Content,
        ),
        "TEMPLATE_MISSING_PARAMETERS"
        | "CONTENT_MISSING_PARAMETERS"
        | "TEMPLATE_PARAMS_ILLEGAL"
        | "INVALID_JSON_PARAM"
        | "template_parameter_count_illegal"
        | "PARAM_LENGTH_LIMIT"
        | "PARAM_NOT_SUPPORT_URL"
        | "BLACK_KEY_CONTROL_LIMIT" => (
            Invalid,
            "the template's values are missing or not allowed",
            Content,
        ),
        "SMS_SIGNATURE_ILLEGAL"
        | "SMS_SIGN_ILLEGAL"
        | "SMS_SIGN_NAME_ILLEGAL"
        | "SMS_SIGNATURE_SCENE_ILLEGAL"
        | "SIGN_STATE_ILLEGAL"
        | "SIGN_NAME_ILLEGAL"
        | "SIGNATURE_BLACKLIST"
        | "EXTEND_CODE_ERROR"
        | "ONE_CODE_MULTIPLE_SIGN" => (
            Invalid,
            "the name it is signed with is not known, not approved, or not for this template",
            Content,
        ),
        "DOMESTIC_NUMBER_NOT_SUPPORTED" | "NOT_SUPPORTED_COUNTRY" | "COUNTRY_RESTRICTED" => (
            Invalid,
            "the template is not for the recipient's country",
            Content,
        ),
        "INVALID_PARAMETERS" | "PARAMS_ILLEGAL" | "QUERY_DATE_ILLEGAL" | "SPLIT_PAGE_ILLEGAL" => {
            (Invalid, "a parameter is not understood", Nobody)
        }
        "DISPLAY_NUMBER_ILLEGAL" | "SENDERID_ERROR" | "INVALID_SENDERID" => (
            Config,
            "the number or name it comes from is not valid for this account",
            Sender,
        ),
        "OUT_OF_SERVICE" | "AMOUNT_NOT_ENOUGH" | "BILLING_DEDUCTION_ERROR" => {
            (PermissionDenied, "the account has no money left", Sender)
        }
        "PRODUCT_UN_SUBSCRIPT" | "PRODUCT_UNSUBSCRIBE" | "PRODUCT_NOT_SUBSCRIBED" => (
            PermissionDenied,
            "the account has not ordered this service",
            Sender,
        ),
        "ACCOUNT_NOT_EXISTS" | "ACCOUNT_ABNORMAL" | "ACCOUNT_ILLEGAL" | "SECURITY_FROZEN_ACCOUNT" => (
            PermissionDenied,
            "the account is not there or not in order",
            Sender,
        ),
        "RAM_PERMISSION_DENY"
        | "RAM_CHECK_FAILED"
        | "FORBIDDEN_ACTION"
        | "DENY_IP_RANGE"
        | "NoPermission" => (
            PermissionDenied,
            "the key may not do this, or not from here",
            Sender,
        ),
        _ if bare.starts_with("Forbidden") || bare.starts_with("SMS_TEST_") => {
            (PermissionDenied, "the key may not do this", Sender)
        }
        "SignatureDoesNotMatch" | "IncompleteSignature" | "MissingSecurityToken" => (
            Unauthenticated,
            "Aliyun refuses our signature; check secret and token",
            Sender,
        ),
        _ if bare.starts_with("InvalidAccessKeyId") || bare.starts_with("InvalidSecurityToken") => (
            Unauthenticated,
            "Aliyun does not know the key, or it is over",
            Sender,
        ),
        _ if bare.starts_with("InvalidTimeStamp") => (
            Unauthenticated,
            "the clocks are more than 15 minutes apart; set ours right",
            Sender,
        ),
        _ if bare.starts_with("InvalidAction")
            || bare.starts_with("InvalidVersion")
            || bare.starts_with("InvalidProduct") =>
        {
            (
                Config,
                "there is no such service at this address; check the region",
                Sender,
            )
        }
        _ if bare.starts_with("Missing") || bare.starts_with("InvalidParameter") => {
            (Invalid, "a parameter is missing or not understood", Nobody)
        }
        "ServiceUnavailable" => (Unavailable, "Aliyun cannot serve now", Nobody),
        // Its server failed half-way, or somebody on the way repeated the request: the first one may have been taken.
        "SYSTEM_ERROR" | "UNKNOWN" | "GATEWAY_ERROR" | "InternalError" | "SignatureNonceUsed" => {
            let error = by_code(
                Unavailable,
                "Aliyun's server failed, or has seen this very request before",
                Nobody,
                &shown(code),
                wait,
            );
            return if safe { error } else { error.effect_unknown() };
        }
        _ if status >= 500 => return by_status(status, safe, wait).with("code", shown(code)),
        _ => (
            Unexpected,
            "a code of Aliyun's that this version does not know; look it up at help.aliyun.com/document_detail/101346.html",
            Nobody,
        ),
    };
    by_code(kind, says, blame, &shown(code), wait).with("status", status)
}

/// What a receipt's code says of a message that did not arrive. Most speak of a phone that is off, out of reach or no
/// longer in service, all at once: nothing that a number is suppressed for the first time.
pub(super) fn receipt_blame(code: &str) -> Blame {
    match code.trim_start_matches("isv.") {
        "MOBILE_NOT_ON_SERVICE"
        | "INVALID_NUMBER"
        | "MOBILE_ACCOUNT_ABNORMAL"
        | "MOBLLE_TERMINAL_ERROR"
        | "MOBILE_TERMINAL_ERROR"
        | "SP_NOT_BY_INTER_SMS" => Blame::RecipientForNow,
        "MOBILE_IN_BLACK" | "USER_REJECT" => Blame::OptedOut,
        "MOBILE_NUMBER_ILLEGAL" => Blame::Recipient,
        "CONTENT_KEYWORD"
        | "CONTENT_ERROR"
        | "SMS_CONTENT_ILLEGAL"
        | "UNSUPPORTED_CONTENT"
        | "SMS_CONTENT_MISMATCH_TEMPLATE_TYPE"
        | "PARAMS_ILLEGAL" => Blame::Content,
        "SIGNATURE_BLACKLIST"
        | "SMS_SIGN_ILLEGAL"
        | "NO_ROUTE"
        | "PORT_NOT_REGISTERED"
        | "OUT_OF_SERVICE"
        | "AMOUNT_NOT_ENOUGH" => Blame::Sender,
        // MOBILE_SEND_LIMIT, IS_CLOSE, SP_UNKNOWN_ERROR, and what a carrier says in a code of its own.
        _ => Blame::Nobody,
    }
}

/// How far a call has come; `None` for a code that is not known.
pub(super) fn call_state(code: &str) -> Option<(DeliveryState, Blame)> {
    use DeliveryState::{Accepted, Delivered, Failed};
    Some(match code {
        // Heard to the end, hung up before it, keys pressed or waited for in vain: somebody answered.
        "200000" | "200001" | "200008" | "200100" | "200103" | "300000" => (Delivered, Blame::Nobody),
        "200101" | "200102" => (Accepted, Blame::Nobody),
        // Busy, not answered, refused, or not at this time.
        "200002" | "200003" | "200111" | "200112" | "200113" | "200118" | "200121" => (Failed, Blame::Nobody),
        "200004" | "200116" => (Failed, Blame::Recipient),
        // Out of reach, switched off, suspended.
        "200005" | "200007" | "200010" | "200011" | "200120" | "200105" => (Failed, Blame::RecipientForNow),
        "200006" => (Failed, Blame::Content),
        "200104" | "200117" => (Failed, Blame::Sender),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crm_core::{Effect, Retry};

    #[test]
    fn every_code_has_one_meaning() {
        use Blame::{Content, Nobody, Recipient, Sender};
        use ErrorKind::{
            Config, Invalid, PermissionDenied, RateLimited, Unauthenticated, Unavailable, Unexpected,
        };
        let none = Effect::None;
        for (code, status, kind, retry, effect, blame) in [
            (
                "isv.BUSINESS_LIMIT_CONTROL",
                200,
                RateLimited,
                Some(60),
                none,
                Nobody,
            ),
            (
                "isv.DAY_LIMIT_CONTROL",
                200,
                RateLimited,
                Some(3600),
                none,
                Sender,
            ),
            (
                "isv.MONTH_LIMIT_CONTROL",
                200,
                RateLimited,
                Some(3600),
                none,
                Sender,
            ),
            ("isv.MOBILE_NUMBER_ILLEGAL", 200, Invalid, None, none, Recipient),
            ("MOBILE_NUMBER_ILLEGAL", 200, Invalid, None, none, Recipient),
            ("isv.SMS_TEMPLATE_ILLEGAL", 200, Invalid, None, none, Content),
            ("isv.SMS_SIGNATURE_ILLEGAL", 200, Invalid, None, none, Content),
            (
                "isv.TEMPLATE_MISSING_PARAMETERS",
                200,
                Invalid,
                None,
                none,
                Content,
            ),
            ("isv.BLACK_KEY_CONTROL_LIMIT", 200, Invalid, None, none, Content),
            ("isv.TTS_TEMPLATE_ILLEGAL", 200, Invalid, None, none, Content),
            ("isv.DISPLAY_NUMBER_ILLEGAL", 200, Config, None, none, Sender),
            ("isv.OUT_OF_SERVICE", 200, PermissionDenied, None, none, Sender),
            ("isv.AMOUNT_NOT_ENOUGH", 200, PermissionDenied, None, none, Sender),
            (
                "isp.RAM_PERMISSION_DENY",
                200,
                PermissionDenied,
                None,
                none,
                Sender,
            ),
            ("Forbidden.RAM", 403, PermissionDenied, None, none, Sender),
            (
                "isp.SYSTEM_ERROR",
                200,
                Unavailable,
                None,
                Effect::Unknown,
                Nobody,
            ),
            (
                "SignatureNonceUsed",
                400,
                Unavailable,
                None,
                Effect::Unknown,
                Nobody,
            ),
            ("InternalError", 500, Unavailable, None, Effect::Unknown, Nobody),
            ("SomethingElse", 502, Unavailable, None, Effect::Unknown, Nobody),
            ("ServiceUnavailable", 503, Unavailable, Some(7), none, Nobody),
            ("Throttling.User", 400, RateLimited, Some(7), none, Nobody),
            (
                "InvalidAccessKeyId.NotFound",
                404,
                Unauthenticated,
                None,
                none,
                Sender,
            ),
            ("SignatureDoesNotMatch", 400, Unauthenticated, None, none, Sender),
            (
                "InvalidSecurityToken.Expired",
                400,
                Unauthenticated,
                None,
                none,
                Sender,
            ),
            (
                "InvalidTimeStamp.Expired",
                400,
                Unauthenticated,
                None,
                none,
                Sender,
            ),
            ("InvalidAction.NotFound", 404, Config, None, none, Sender),
            ("MissingTemplateCode", 400, Invalid, None, none, Nobody),
            ("isv.NEVER_SEEN", 200, Unexpected, None, none, Nobody),
        ] {
            // Only the vendor's own wait and those two of ours count.
            let wait = (retry == Some(7)).then_some(Duration::from_secs(7));
            let error = classify(Some(code), status, false, wait);
            assert_eq!(
                (error.kind(), error.effect(), error.blamed()),
                (kind, effect, blame),
                "{code}: {error}"
            );
            let expected = match retry {
                Some(seconds) => Retry::Allowed {
                    after: Some(Duration::from_secs(seconds)),
                },
                None => Retry::Never,
            };
            assert_eq!(error.retry(), expected, "{code}");
        }
        assert_eq!(classify(Some("isp.SYSTEM_ERROR"), 200, true, None).effect(), none);
        assert_eq!(classify(None, 504, false, None).effect(), Effect::Unknown);
    }

    #[test]
    fn receipts_rarely_condemn_a_number() {
        for (code, blame) in [
            ("MOBILE_NOT_ON_SERVICE", Blame::RecipientForNow),
            ("INVALID_NUMBER", Blame::RecipientForNow),
            ("MOBILE_IN_BLACK", Blame::OptedOut),
            ("USER_REJECT", Blame::OptedOut),
            ("CONTENT_KEYWORD", Blame::Content),
            ("NO_ROUTE", Blame::Sender),
            ("MOBILE_SEND_LIMIT", Blame::Nobody),
            ("MK:0001", Blame::Nobody),
            ("", Blame::Nobody),
        ] {
            assert_eq!(receipt_blame(code), blame, "{code}");
        }
        assert_eq!(
            call_state("200000"),
            Some((DeliveryState::Delivered, Blame::Nobody))
        );
        assert_eq!(
            call_state("200004"),
            Some((DeliveryState::Failed, Blame::Recipient))
        );
        assert_eq!(call_state("7"), None);
    }
}
