//! What the transport says, in our words.

use std::time::Duration;

use url::Url;

use super::dns::Blocked;
use crate::{Error, ErrorKind};

/// What went wrong on the wire, without the transport's own types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The guard left no address.
    Blocked,
    /// The name does not resolve.
    Name,
    /// No connection: refused, unreachable, TLS.
    Connect,
    /// No connection in time.
    ConnectTimeout,
    /// No whole answer in time.
    Timeout,
    /// The connection broke, or what came was no HTTP.
    Broken,
    /// The body could not be decompressed.
    Decode,
    /// The request itself is impossible.
    Request,
}

impl Failure {
    pub(super) fn of(error: &reqwest::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(e) = cause {
            match e.downcast_ref::<Blocked>() {
                Some(Blocked::Addresses) => return Self::Blocked,
                Some(Blocked::Name) => return Self::Name,
                None => cause = e.source(),
            }
        }
        match (error.is_connect(), error.is_timeout()) {
            (true, true) => Self::ConnectTimeout,
            (true, false) => Self::Connect,
            (false, true) => Self::Timeout,
            _ if error.is_builder() => Self::Request,
            _ if error.is_decode() => Self::Decode,
            _ => Self::Broken,
        }
    }
}

/// `safe` is whether the method changes nothing at the other side (RFC 9110, 9.2.1). When it may, and the request may
/// have been heard, the effect is unknown.
pub(super) fn classify(failure: Failure, safe: bool, url: &Url) -> Error {
    let (kind, message, sent) = match failure {
        Failure::Blocked => {
            return super::guard::refused(&host(url), url.port_or_known_default().unwrap_or(0));
        }
        Failure::Name => (
            ErrorKind::Unavailable,
            "the host's name cannot be resolved",
            false,
        ),
        Failure::Connect => (
            ErrorKind::Unavailable,
            "no connection: refused, unreachable, or TLS failed",
            false,
        ),
        Failure::ConnectTimeout => (ErrorKind::Timeout, "no connection in time", false),
        Failure::Timeout => (ErrorKind::Timeout, "no whole answer in time", true),
        Failure::Broken => (
            ErrorKind::Unavailable,
            "the connection broke before the whole answer was there",
            true,
        ),
        Failure::Decode => (
            ErrorKind::Unavailable,
            "the answer's body is cut off, or its compression is damaged",
            true,
        ),
        Failure::Request => (
            ErrorKind::Invalid,
            "the request cannot be sent: a header or the URL is not valid",
            false,
        ),
    };
    let error = Error::new(kind, message)
        .operation("http.send")
        .with("url", shown(url))
        .with("heard", if sent { "maybe" } else { "no" });
    if sent && !safe {
        error.effect_unknown()
    } else {
        error
    }
}

pub(super) fn too_slow(limit: Duration, safe: bool, url: &Url) -> Error {
    classify(Failure::Timeout, safe, url)
        .with("setting", "total_timeout")
        .with("limit", format!("{limit:?}"))
}

/// A URL as it may stand in errors and logs: no user, no password, no query, no fragment.
pub(super) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), host(url), url.path())
}

pub(super) fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Effect, Retry};

    #[test]
    fn every_failure_has_one_meaning() {
        let url = Url::parse("https://user:pw@site.example:8443/a?token=secret#x").unwrap();
        let again = Retry::Allowed { after: None };
        for (failure, kind, retry_safe, effect_unsafe) in [
            (
                Failure::Blocked,
                ErrorKind::PermissionDenied,
                Retry::Never,
                Effect::None,
            ),
            (Failure::Name, ErrorKind::Unavailable, again, Effect::None),
            (Failure::Connect, ErrorKind::Unavailable, again, Effect::None),
            (Failure::ConnectTimeout, ErrorKind::Timeout, again, Effect::None),
            (Failure::Timeout, ErrorKind::Timeout, again, Effect::Unknown),
            (Failure::Broken, ErrorKind::Unavailable, again, Effect::Unknown),
            (Failure::Decode, ErrorKind::Unavailable, again, Effect::Unknown),
            (Failure::Request, ErrorKind::Invalid, Retry::Never, Effect::None),
        ] {
            let safe = classify(failure, true, &url);
            assert_eq!(
                (safe.kind(), safe.retry(), safe.effect()),
                (kind, retry_safe, Effect::None),
                "{failure:?}"
            );
            let changing = classify(failure, false, &url);
            assert_eq!(
                (changing.kind(), changing.effect()),
                (kind, effect_unsafe),
                "{failure:?}"
            );
            assert_eq!(
                changing.is_retryable(),
                effect_unsafe == Effect::None && safe.is_retryable(),
                "{failure:?}"
            );
            for secret in ["user", "pw", "token", "secret"] {
                assert!(!format!("{safe:?}").contains(secret), "{safe:?}");
            }
        }
    }
}
