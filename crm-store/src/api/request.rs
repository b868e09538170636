//! What every request goes through: who asks, what they sent, how much of it.

use std::collections::BTreeMap;

use axum::body::{Body, to_bytes};
use axum::extract::{OriginalUri, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crm_core::capability::{Credentials, Principal};
use crm_core::record::Version;
use crm_core::{Context, Error, ErrorKind, Result, Secret};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::Shared;
use super::problem::{problem, problem_as};

/// The largest body that is read.
pub(super) const MAX_BODY: usize = 4 << 20;

/// How a handler ends: an answer, or an error that becomes a problem.
pub(super) enum Failed {
    /// As its kind says.
    Error(Error),
    /// With a status of its own.
    As(Error, StatusCode),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

pub(super) type Answer = Result<Response, Failed>;

pub(super) fn respond(answer: Answer) -> Response {
    match answer {
        Ok(response) => response,
        Err(Failed::Error(error)) => problem(&error),
        Err(Failed::As(error, status)) => problem_as(&error, status),
    }
}

/// A request whose sender is known.
pub(super) struct Asked {
    pub(super) principal: Principal,
    pub(super) ctx: Context,
    pub(super) headers: HeaderMap,
    /// The path that was asked for, with what the interface is nested under.
    path: String,
    query: BTreeMap<String, String>,
    body: Option<Body>,
}

impl Asked {
    /// Finds out who sends the request.
    pub(super) async fn by(shared: &Shared, request: Request) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let principal = match parts.extensions.get::<Principal>() {
            // The host knows already who it is; nobody outside can put this there.
            Some(known) => known.clone(),
            None => shared.access.authenticate(&credentials(&parts.headers)?).await?,
        };
        let path = match parts.extensions.get::<OriginalUri>() {
            Some(OriginalUri(uri)) => uri.path(),
            None => parts.uri.path(),
        };
        Ok(Self {
            path: path.trim_end_matches('/').to_owned(),
            ctx: principal.context(),
            principal,
            query: query(parts.uri.query().unwrap_or_default())?,
            headers: parts.headers,
            body: Some(body),
        })
    }

    /// Where something of this id is to be found, beside what the path of this request names after `collection`.
    pub(super) fn place(&self, collection: &str, id: impl std::fmt::Display) -> Option<HeaderValue> {
        let before = self.path.rsplit_once(collection).map_or("", |(before, _)| before);
        HeaderValue::from_str(&format!("{before}{collection}/{id}")).ok()
    }

    /// A parameter of the query, taken out.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.query.remove(name)
    }

    /// Refuses parameters that nobody took: a misspelt filter would otherwise answer with everything.
    pub(super) fn no_more(&self) -> Result<()> {
        match self.query.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::invalid("there is no such parameter here").with("parameter", name)),
        }
    }

    /// The limit of a page.
    pub(super) fn limit(&mut self) -> Result<u32> {
        match self.take("limit") {
            None => Ok(50),
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=1_000).contains(limit))
                .ok_or_else(|| Error::invalid("a page has 1 to 1,000 items").with("parameter", "limit")),
        }
    }

    /// Where the last page ended.
    pub(super) fn cursor(&mut self) -> Result<Option<crm_core::query::Cursor>> {
        self.take("cursor")
            .map(|text| {
                text.parse()
                    .map_err(|error: Error| error.with("parameter", "cursor"))
            })
            .transpose()
    }

    async fn bytes(&mut self) -> Result<Vec<u8>, Failed> {
        let body = self.body.take().unwrap_or_default();
        match to_bytes(body, MAX_BODY).await {
            Ok(bytes) => Ok(bytes.to_vec()),
            Err(_) => Err(Failed::As(
                Error::invalid("the body is too large or ended early").with("limit_bytes", MAX_BODY),
                StatusCode::PAYLOAD_TOO_LARGE,
            )),
        }
    }

    /// The body as JSON of this shape.
    pub(super) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Failed> {
        let kind = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        let kind = kind
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        let is_json =
            kind.eq_ignore_ascii_case("application/json") || kind.to_ascii_lowercase().ends_with("+json");
        if !is_json {
            return Err(Failed::As(
                Error::invalid("the body is JSON; say so with `Content-Type: application/json`"),
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ));
        }
        let bytes = self.bytes().await?;
        read(&bytes).map_err(Failed::Error)
    }

    /// What `If-Match` says.
    pub(super) fn if_match(&self) -> Result<Precondition> {
        let Some(value) = self.headers.get(header::IF_MATCH) else {
            return Ok(Precondition::None);
        };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Precondition::Exists);
        }
        // Weak tags never match (RFC 9110, 13.1.1), nor do those of another kind.
        let versions = text.split(',').filter_map(|tag| version_of(tag.trim())).collect();
        Ok(Precondition::OneOf(versions))
    }

    /// Whether `If-None-Match` names this version: the caller has it already.
    pub(super) fn has(&self, version: Version) -> bool {
        self.headers
            .get(header::IF_NONE_MATCH)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|text| {
                text.trim() == "*"
                    || text
                        .split(',')
                        .any(|tag| version_of(tag.trim().trim_start_matches("W/")) == Some(version))
            })
    }

    /// What `Idempotency-Key` says.
    pub(super) fn key(&self) -> Result<Option<String>> {
        let Some(value) = self.headers.get("idempotency-key") else {
            return Ok(None);
        };
        // The draft has it as a quoted string; most clients send it bare.
        let text = value.to_str().unwrap_or_default().trim().trim_matches('"');
        if text.is_empty() || text.len() > 255 {
            return Err(
                Error::invalid("an idempotency key has 1 to 255 visible characters")
                    .with("header", "Idempotency-Key"),
            );
        }
        Ok(Some(text.to_owned()))
    }
}

/// On which state of a resource a change is based.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Precondition {
    None,
    Exists,
    OneOf(Vec<Version>),
}

impl Precondition {
    /// # Errors
    /// 412 when the resource is in another state.
    pub(super) fn holds(&self, version: Version) -> Result<(), Failed> {
        match self {
            Self::None | Self::Exists => Ok(()),
            Self::OneOf(versions) if versions.contains(&version) => Ok(()),
            Self::OneOf(_) => Err(Failed::As(
                Error::conflict("it was changed meanwhile; read it again").with("header", "If-Match"),
                StatusCode::PRECONDITION_FAILED,
            )),
        }
    }
}

fn version_of(tag: &str) -> Option<Version> {
    tag.strip_prefix("\"v")?.strip_suffix('"')?.parse().ok()
}

/// The entity tag of a version.
pub(super) fn etag(version: Version) -> HeaderValue {
    HeaderValue::from_str(&format!("\"v{version}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    // Read as a document first, so that what is no JSON and what does not fit are told apart; neither message holds values.
    let json: Json = serde_json::from_slice(bytes).map_err(|error| {
        Error::invalid("the body is not JSON")
            .with("line", error.line())
            .with("column", error.column())
    })?;
    // serde would take an array for the fields of a shape in their order.
    if !json.is_object() {
        return Err(Error::invalid("the body is JSON, but no object"));
    }
    fit(json)
}

/// A document as this shape; the error names the field and no value.
pub(super) fn fit<T: DeserializeOwned>(json: Json) -> Result<T> {
    T::deserialize(json).map_err(|error| {
        let text = error.to_string();
        // serde names fields in backquotes; values stand in double quotes and are left out.
        let field = text.split('`').nth(1).unwrap_or_default().to_owned();
        let what = if text.starts_with("missing field") {
            "a field is missing"
        } else if text.starts_with("unknown field") {
            "there is no such field"
        } else if text.starts_with("unknown variant") {
            "this is none of the values that are possible"
        } else {
            "a field has a value of another type, or none that can be read"
        };
        let error = Error::invalid(what);
        if field.is_empty() {
            error
        } else {
            error.with("field", field)
        }
    })
}

fn credentials(headers: &HeaderMap) -> Result<Credentials> {
    let wrong = || {
        Error::new(
            ErrorKind::Unauthenticated,
            "the header `Authorization` holds neither `Bearer ...` nor `Basic ...`",
        )
    };
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (first, more) = (given.next(), given.next());
    let Some(value) = first else {
        return Ok(Credentials::Nothing);
    };
    if more.is_some() {
        return Err(wrong());
    }
    let (scheme, rest) = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().split_once(' '))
        .ok_or_else(wrong)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Credentials::Bearer(Secret::new(rest)));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(wrong());
    }
    let pair = STANDARD
        .decode(rest)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = Secret::new(pair.ok_or_else(wrong)?);
    let (name, password) = pair.expose().split_once(':').ok_or_else(wrong)?;
    Ok(Credentials::Basic {
        name: name.to_owned(),
        password: Secret::new(password),
    })
}

/// The parameters of a query, each at most once.
fn query(text: &str) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let wrong = |message: &'static str| {
            Error::invalid(message).with("parameter", decode(name).unwrap_or_default())
        };
        let (Some(known), Some(value)) = (decode(name), decode(value)) else {
            return Err(wrong("the query is not percent-encoded UTF-8"));
        };
        if all.insert(known, value).is_some() {
            return Err(wrong("the parameter is there twice"));
        }
    }
    Ok(all)
}

/// Percent-decoding of form data: `+` is a blank.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: u8| (byte as char).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high << 4 | low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// An answer as JSON.
pub(super) fn json(status: StatusCode, body: &impl serde::Serialize) -> Answer {
    let bytes =
        serde_json::to_vec(body).map_err(|error| Error::unexpected("the answer is no JSON").source(error))?;
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Personal data is kept by nobody on the way.
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-cache"),
    );
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    Ok(response)
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_forms_are() {
        let read = query("filter=city+%3D+%27Tartu%27&limit=5&empty=&bare").unwrap();
        assert_eq!(read.get("filter").map(String::as_str), Some("city = 'Tartu'"));
        assert_eq!(read.get("empty").map(String::as_str), Some(""));
        assert_eq!(read.get("bare").map(String::as_str), Some(""));
        for bad in ["a=%", "a=%f", "a=%zz", "a=%ff", "a=1&a=2"] {
            assert_eq!(query(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn errors_of_bodies_name_the_field_and_no_value() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Shape {
            #[allow(dead_code, reason = "only read")]
            visits: i64,
        }
        for (body, field) in [
            (r#"{"visits": "secret"}"#, None),
            (r#"{"visitz": 5}"#, Some("visitz")),
            (r"{}", Some("visits")),
            (r"[", None),
        ] {
            let error = read::<Shape>(body.as_bytes()).unwrap_err();
            assert_eq!(error.context("field"), field, "{body}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn entity_tags() {
        assert_eq!(version_of("\"v7\""), Some(7));
        for other in ["v7", "\"7\"", "W/\"v7\"", "\"v\"", ""] {
            assert_eq!(version_of(other), None, "{other}");
        }
        assert_eq!(etag(7), "\"v7\"");
    }
}
