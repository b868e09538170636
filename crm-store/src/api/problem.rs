//! Errors as problem details (RFC 9457).

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use crm_core::{Effect, Error, ErrorKind, Retry};
use serde_json::{Map, Value as Json, json};

/// The status that says a kind of failure over HTTP (RFC 9110, RFC 6585).
pub(super) fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Refused => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Unavailable | ErrorKind::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What of a kind is told outside: the same words in every version.
fn name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "invalid",
        ErrorKind::Unauthenticated => "unauthenticated",
        ErrorKind::PermissionDenied => "permission-denied",
        ErrorKind::NotFound => "not-found",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Refused => "refused",
        ErrorKind::RateLimited => "rate-limited",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Config => "configuration",
        ErrorKind::Corrupt => "corrupt",
        _ => "unexpected",
    }
}

/// An error as the members of a problem. What went wrong inside (settings, damaged data) is not told to callers.
pub(super) fn members(error: &Error) -> Map<String, Json> {
    members_as(error, status(error.kind()))
}

fn members_as(error: &Error, status: StatusCode) -> Map<String, Json> {
    let kind = error.kind();
    let inside = status == StatusCode::INTERNAL_SERVER_ERROR;
    let mut all = Map::new();
    // What the caller can act on comes first in importance: it cannot be overwritten by the context below.
    if !inside {
        for (key, value) in error.contexts() {
            all.insert(key.to_owned(), Json::from(value));
        }
    }
    let detail = if inside {
        "the server could not answer; its log says why"
    } else {
        error.message()
    };
    let retry = match error.retry() {
        Retry::Allowed { after } => json!({
            "allowed": true,
            "after_ms": after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        }),
        Retry::Never | Retry::Exhausted => json!({ "allowed": false }),
    };
    let effect = match error.effect() {
        Effect::None => "none",
        Effect::Unknown => "unknown",
    };
    let given = [
        ("type", json!(format!("urn:open-crm:problem:{}", name(kind)))),
        ("title", json!(kind.as_str())),
        ("status", json!(status.as_u16())),
        ("detail", json!(detail)),
        ("kind", json!(name(kind))),
        ("retry", retry),
        ("effect", json!(effect)),
    ];
    all.extend(given.map(|(key, value)| (key.to_owned(), value)));
    all
}

/// An error as a response.
pub(super) fn problem(error: &Error) -> Response {
    problem_as(error, status(error.kind()))
}

/// An error as a response with a status that says more than its kind.
pub(super) fn problem_as(error: &Error, status: StatusCode) -> Response {
    if status.is_server_error() {
        tracing::error!(%error, "a request failed");
    }
    let mut response = Response::new(Body::from(Json::Object(members_as(error, status)).to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110, 15.5.2: the answer names the scheme.
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"open-crm\""),
        );
    }
    if let Retry::Allowed { after: Some(after) } = error.retry() {
        let seconds = after.as_millis().div_ceil(1000);
        headers.insert(
            header::RETRY_AFTER,
            HeaderValue::from_str(&seconds.to_string()).unwrap_or(HeaderValue::from_static("1")),
        );
    }
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_problem_says_what_to_do_and_nothing_from_inside() {
        let error = Error::conflict("the address is somebody else's")
            .operation("customers.create")
            .with("field", "email")
            .with("type", "must not win");
        let members = members(&error);
        assert_eq!(members.get("status"), Some(&json!(409)));
        assert_eq!(members.get("field"), Some(&json!("email")));
        assert_eq!(members.get("type"), Some(&json!("urn:open-crm:problem:conflict")));
        assert_eq!(members.get("retry"), Some(&json!({ "allowed": false })));
        let inside = Error::config("the key in /etc/key is short").with("setting", "key");
        let shown = Json::Object(super::members(&inside)).to_string();
        assert!(
            !shown.contains("/etc/key") && !shown.contains("\"setting\""),
            "{shown}"
        );
    }

    #[test]
    fn who_shall_wait_is_told_how_long() {
        let after = Some(Duration::from_millis(1_200));
        let error = Error::new(ErrorKind::RateLimited, "slow down").with_retry(Retry::Allowed { after });
        let response = problem(&error);
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(
            response.headers().get("retry-after").map(HeaderValue::as_bytes),
            Some(&b"2"[..])
        );
        let nobody = problem(&Error::new(ErrorKind::Unauthenticated, "who?"));
        assert!(nobody.headers().contains_key("www-authenticate"));
    }
}
