use std::fmt;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::ask::{Format, contains, loose, negotiated, parameter, parameters, percent_decoded, timestamp};
use super::model::{Apps, Info, Status};
use super::state::{Refusal, Rules, State};
use super::{json, xml};
use crate::{Clock, Error, Result};

/// How a [`EurekaServer`] behaves. Times are in seconds when written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EurekaServerConfig {
    /// Under which paths it answers, without a slash at the end. `/eureka/v2` and `/eureka`.
    pub base_paths: Vec<String>,
    /// The most instances; a further one is refused with status 503. 10,000.
    pub max_instances: usize,
    /// The most bytes of a request's body, also after decompression. 64 KiB.
    pub max_body: usize,
    /// How often lapsed leases are looked for, in seconds. 60 s, as the public server does.
    pub evict_every: u64,
    /// Ends no lease while less than 85 % of the expected renewals come in. Off: it is made for registers of hundreds
    /// of instances, and keeps the dead of a small one for ever.
    pub self_preservation: bool,
}

impl Default for EurekaServerConfig {
    fn default() -> Self {
        Self {
            base_paths: vec!["/eureka/v2".into(), "/eureka".into()],
            max_instances: 10_000,
            max_body: 64 * 1024,
            evict_every: 60,
            self_preservation: false,
        }
    }
}

impl EurekaServerConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let wrong = |setting: &'static str, message: &'static str| {
            Err(Error::config(message).with("setting", setting))
        };
        if self
            .base_paths
            .iter()
            .any(|path| !path.is_empty() && (!path.starts_with('/') || path.ends_with('/')))
        {
            return wrong(
                "base_paths",
                "a base path begins with a slash and does not end with one",
            );
        }
        if self.base_paths.is_empty() {
            return wrong(
                "base_paths",
                "at least one base path is needed; an empty one is the root",
            );
        }
        if self.max_instances == 0 {
            return wrong("max_instances", "at least one instance");
        }
        if !(1024..=16 * 1024 * 1024).contains(&self.max_body) {
            return wrong("max_body", "a body has 1 KiB to 16 MiB");
        }
        if !(1..=3600).contains(&self.evict_every) {
            return wrong("evict_every", "1 s to 3600 s");
        }
        Ok(())
    }
}

/// A register that speaks the protocol of Netflix Eureka (REST, v2), small enough to embed: one node, in memory, driven
/// by the injected clock, without a task and without a socket. The host hands it requests and sends its answers.
///
/// It answers what clients use: registering in JSON and XML, renewing, leaving, overriding the status, metadata, all
/// applications, one application, one instance, the delta of the last three minutes and virtual addresses. It does not
/// replicate to peers, knows no regions, and has nobody authenticate: put it where only your processes reach it, or
/// behind your own check.
///
/// ```
/// use std::sync::Arc;
/// use crm_core::SystemClock;
/// use crm_core::registry::discovery::eureka::{EurekaServer, EurekaServerConfig};
///
/// let server = EurekaServer::new(EurekaServerConfig::default(), SystemClock::shared()).unwrap();
/// // With axum: `Router::new().fallback(move |request: Request<Bytes>| async move { server.handle(&request) })`.
/// let request = http::Request::get("/eureka/v2/apps/NOPE").body(bytes::Bytes::new()).unwrap();
/// assert_eq!(server.handle(&request).status(), 404);
/// ```
#[derive(Clone)]
pub struct EurekaServer(Arc<Inner>);

struct Inner {
    config: EurekaServerConfig,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

impl fmt::Debug for EurekaServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EurekaServer")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

/// An answer before it is compressed and its headers are set.
struct Answer {
    status: StatusCode,
    media_type: Option<&'static str>,
    body: String,
    /// The recorded server keeps these ready in compressed form, and sets their headers in another order.
    ready: bool,
    allow: Option<&'static str>,
}

impl Answer {
    fn empty(status: StatusCode, format: Format) -> Self {
        Self {
            status,
            media_type: Some(format.media_type()),
            body: String::new(),
            ready: false,
            allow: None,
        }
    }
    fn bare(status: StatusCode) -> Self {
        Self {
            media_type: None,
            ..Self::empty(status, Format::Xml)
        }
    }
    fn with(status: StatusCode, format: Format, body: impl Into<String>) -> Self {
        Self {
            body: body.into(),
            ..Self::empty(status, format)
        }
    }
    fn not_allowed(allow: &'static str) -> Self {
        Self {
            allow: Some(allow),
            ..Self::bare(StatusCode::METHOD_NOT_ALLOWED)
        }
    }
}

impl EurekaServer {
    /// An empty register.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] naming the setting.
    pub fn new(config: EurekaServerConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        config.validate()?;
        let rules = Rules {
            max_instances: config.max_instances,
            evict_every_ms: i64::try_from(config.evict_every * 1000).unwrap_or(i64::MAX),
            self_preservation: config.self_preservation,
        };
        // Which of many lapsed leases ends first is chance; nothing depends on whose.
        let state = Mutex::new(State::new(rules, 20_260_101));
        Ok(Self(Arc::new(Inner { config, clock, state })))
    }

    fn now_ms(&self) -> i64 {
        self.0.clock.now().as_micros().div_euclid(1000)
    }

    /// Ends the leases that lapsed, if a look is due; every request does the same. Gives the time until the next one.
    pub fn tick(&self) -> Duration {
        let now = self.now_ms();
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_millis(state.evict(now).unsigned_abs())
    }

    /// Answers a request. It takes no time worth mentioning: everything is in memory.
    pub fn handle(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let head = request.method() == Method::HEAD;
        let reading = head || request.method() == Method::GET;
        let zips = match request.headers().get(ACCEPT_ENCODING) {
            // Whoever reads gets it compressed, asked for or not; who forbids it gets nothing.
            None => reading,
            Some(value) => contains(value, "gzip"),
        };
        if reading && !zips {
            return plain(StatusCode::NOT_ACCEPTABLE);
        }
        let answer = self.route(request);
        let mut response = plain(answer.status);
        let zipped = zips && !answer.body.is_empty();
        let headers = response.headers_mut();
        let gzip = HeaderValue::from_static("gzip");
        if zipped && answer.ready {
            headers.insert(CONTENT_ENCODING, gzip.clone());
        }
        if let Some(media_type) = answer.media_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        if zipped && !answer.ready {
            headers.insert(CONTENT_ENCODING, gzip);
        }
        if let Some(allow) = answer.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if !head {
            *response.body_mut() = if zipped {
                zip(&answer.body)
            } else {
                answer.body.into()
            };
        }
        response
    }

    fn route(&self, request: &Request<Bytes>) -> Answer {
        let path = request.uri().path();
        let inside = self
            .0
            .config
            .base_paths
            .iter()
            .filter_map(|base| {
                path.strip_prefix(base.as_str())
                    .filter(|rest| rest.is_empty() || rest.starts_with('/'))
            })
            .min_by_key(|rest| rest.len());
        let Some(inside) = inside else {
            return Answer::bare(StatusCode::NOT_FOUND);
        };
        let decoded: Vec<String> = inside
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| percent_decoded(part, false))
            .collect();
        let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        let Some(format) = negotiated(request.headers()) else {
            return Answer::bare(StatusCode::NOT_ACCEPTABLE);
        };
        let now = self.now_ms();
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.evict(now);
        // HEAD is answered as GET is, without the body.
        let method = match request.method() {
            method if *method == Method::HEAD => &Method::GET,
            method => method,
        };
        match (parts.as_slice(), method) {
            (["apps"], &Method::GET) => ready(loose(request, format), &state.all()),
            (["apps", "delta"], &Method::GET) => ready(loose(request, format), &state.delta(now)),
            (["vips", address], &Method::GET) => {
                sent(loose(request, format), &state.by_address(address, false))
            }
            (["svips", address], &Method::GET) => {
                sent(loose(request, format), &state.by_address(address, true))
            }
            (["instances", id], &Method::GET) => one(format, state.find(id, now)),
            (["apps", app], &Method::GET) => {
                let format = loose(request, format);
                match state.app(&app.to_uppercase()) {
                    Some(app) => Answer::with(
                        StatusCode::OK,
                        format,
                        match format {
                            Format::Json => json::app(&app),
                            Format::Xml => xml::app(&app),
                        },
                    ),
                    None => Answer::empty(StatusCode::NOT_FOUND, format),
                }
            }
            (["apps", app], &Method::POST) => {
                self.register(&mut state, &app.to_uppercase(), request, format, now)
            }
            (["apps", app, id], &Method::GET) => one(format, state.get(&app.to_uppercase(), id, now)),
            (["apps", app, id], &Method::PUT) => {
                let Ok(dirty) = timestamp(request) else {
                    return Answer::empty(StatusCode::BAD_REQUEST, format);
                };
                done(format, state.renew(&app.to_uppercase(), id, dirty, now))
            }
            (["apps", app, id], &Method::DELETE) => done(format, state.cancel(&app.to_uppercase(), id, now)),
            (["apps", app, id, "status"], &(Method::PUT | Method::DELETE)) => {
                let app = app.to_uppercase();
                if state.get(&app, id, now).is_none() {
                    return Answer::empty(StatusCode::NOT_FOUND, format);
                }
                let overriding = *method == Method::PUT;
                let value = parameter(request, "value");
                let status = match (value.as_deref(), overriding) {
                    (Some(value), _) => Status::exact(value),
                    (None, true) => None,
                    (None, false) => Some(Status::Unknown),
                };
                match (status, timestamp(request)) {
                    (Some(status), Ok(dirty)) => {
                        done(format, state.set_status(&app, id, overriding, status, dirty, now))
                    }
                    // So does the public server.
                    _ => Answer::empty(StatusCode::INTERNAL_SERVER_ERROR, format),
                }
            }
            (["apps", app, id, "metadata"], &Method::PUT) => {
                let mut pairs: Vec<(String, String)> = Vec::new();
                for (key, value) in parameters(request) {
                    if !pairs.iter().any(|(known, _)| *known == key) {
                        pairs.push((key, value));
                    }
                }
                done(format, state.add_metadata(&app.to_uppercase(), id, pairs, now))
            }
            (["apps"] | ["apps", "delta"] | ["vips" | "svips" | "instances", _], _) => {
                Answer::not_allowed("GET")
            }
            (["apps", _], _) => Answer::not_allowed("GET,POST"),
            (["apps", _, _], _) => Answer::not_allowed("GET,PUT,DELETE"),
            (["apps", _, _, "status"], _) => Answer::not_allowed("PUT,DELETE"),
            (["apps", _, _, "metadata"], _) => Answer::not_allowed("PUT"),
            _ => Answer::bare(StatusCode::NOT_FOUND),
        }
    }

    fn register(
        &self,
        state: &mut State,
        app: &str,
        request: &Request<Bytes>,
        format: Format,
        now: i64,
    ) -> Answer {
        let given = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let mut parts = given.split(';').map(str::trim);
        let body_format = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "application/json" => Format::Json,
            "application/xml" => Format::Xml,
            _ => return Answer::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        };
        let other_charset = parts.any(|part| {
            part.to_ascii_lowercase()
                .strip_prefix("charset=")
                .is_some_and(|charset| charset.trim_matches('"') != "utf-8")
        });
        if other_charset {
            return Answer::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let unreadable = || {
            let body = match body_format {
                Format::Json => r#"{"error": "cannot parse request body"}"#,
                Format::Xml => "<error><message>cannot parse request body</message></error>",
            };
            Answer::with(StatusCode::BAD_REQUEST, body_format, body)
        };
        let most = self.0.config.max_body;
        if request.body().len() > most {
            return Answer::empty(StatusCode::PAYLOAD_TOO_LARGE, format);
        }
        let unzipped;
        let body: &[u8] = match request.headers().get(CONTENT_ENCODING) {
            Some(coding) if contains(coding, "gzip") => {
                let mut out = Vec::new();
                let mut reader = GzDecoder::new(request.body().as_ref()).take(most as u64 + 1);
                if reader.read_to_end(&mut out).is_err() {
                    return unreadable();
                }
                if out.len() > most {
                    return Answer::empty(StatusCode::PAYLOAD_TOO_LARGE, format);
                }
                unzipped = out;
                &unzipped
            }
            _ => request.body(),
        };
        let read = match body_format {
            Format::Json => json::read_one(body, now),
            Format::Xml => xml::read_one(body, now),
        };
        let Some(mut info) = read else {
            return unreadable();
        };
        if let Some(missing) = missing(&info, app) {
            return Answer::with(StatusCode::BAD_REQUEST, format, missing);
        }
        complete(&mut info);
        match state.register(info, now) {
            Ok(()) => Answer::empty(StatusCode::NO_CONTENT, format),
            Err(Refusal::Full) => Answer::empty(StatusCode::SERVICE_UNAVAILABLE, format),
            Err(Refusal::Unknown) => Answer::empty(StatusCode::BAD_REQUEST, format),
        }
    }
}

/// What a registration lacks, in the order and the words of the public server.
fn missing(info: &Info, app: &str) -> Option<String> {
    let blank = |text: Option<&str>| text.is_none_or(|text| text.trim().is_empty());
    if blank(info.id()) {
        return Some("Missing instanceId".into());
    }
    if blank(info.host.as_deref()) {
        return Some("Missing hostname".into());
    }
    if blank(info.ip.as_deref()) {
        return Some("Missing ip address".into());
    }
    match info.app.as_deref() {
        name if blank(name) => return Some("Missing appName".into()),
        Some(name) if name != app => {
            return Some(format!("Mismatched appName, expecting {app} but was {name}"));
        }
        _ => {}
    }
    match &info.data_center {
        None => Some("Missing dataCenterInfo".into()),
        Some(center) if center.name.is_none() => Some("Missing dataCenterInfo Name".into()),
        Some(_) => None,
    }
}

/// A machine of Amazon's that does not say which one it is goes by the instance's id.
fn complete(info: &mut Info) {
    let id = info.id().map(str::to_owned);
    if let (Some(center), Some(id)) = (&mut info.data_center, id)
        && center.name.as_deref() == Some("Amazon")
        && !center.metadata.iter().any(|(key, _)| key == "instance-id")
    {
        center.metadata.push(("instance-id".into(), id));
    }
}

fn plain(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

fn zip(body: &str) -> Bytes {
    // No name, no time, "unknown" system: the same text gives the same bytes.
    let mut writer = GzBuilder::new()
        .operating_system(255)
        .write(Vec::with_capacity(body.len() / 4 + 64), Compression::default());
    // Writing into memory does not fail.
    let written = writer.write_all(body.as_bytes()).and_then(|()| writer.finish());
    written.unwrap_or_default().into()
}

fn written(format: Format, apps: &Apps) -> String {
    match format {
        Format::Json => json::apps(apps),
        Format::Xml => xml::apps(apps),
    }
}

fn ready(format: Format, apps: &Apps) -> Answer {
    Answer {
        ready: true,
        ..sent(format, apps)
    }
}

fn sent(format: Format, apps: &Apps) -> Answer {
    Answer::with(StatusCode::OK, format, written(format, apps))
}

fn one(format: Format, info: Option<Info>) -> Answer {
    match info {
        None => Answer::empty(StatusCode::NOT_FOUND, format),
        Some(info) => Answer::with(
            StatusCode::OK,
            format,
            match format {
                Format::Json => json::one(&info),
                Format::Xml => xml::one(&info),
            },
        ),
    }
}

fn done(format: Format, result: std::result::Result<(), Refusal>) -> Answer {
    let status = match result {
        Ok(()) => StatusCode::OK,
        Err(Refusal::Unknown) => StatusCode::NOT_FOUND,
        Err(Refusal::Full) => StatusCode::BAD_REQUEST,
    };
    Answer::empty(status, format)
}
