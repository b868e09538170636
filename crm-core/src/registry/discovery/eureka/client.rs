use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use tokio::sync::Mutex;
use url::Url;

use super::config::EurekaConfig;
use super::json;
use super::model::{Apps, Status};
use super::translate::{app_of, status_of, to_info};
use super::view::View;
use crate::http::{HttpClient, Response, redacted};
use crate::registry::discovery::watch::Board;
use crate::registry::discovery::{
    BREATH, Discovery, Instance, InstanceStatus, Service, Snapshot, Watch, check_id, not_registered,
};
use crate::{Clock, Error, ErrorKind, Health, Provider, ProviderInfo, Result, Timestamp};

/// A client of Netflix Eureka and of servers that speak its protocol ([`EurekaServer`](super::EurekaServer) for one).
///
/// It fetches the changes of the register every [`EurekaConfig::fetch_every`] seconds and compares the register's hash
/// with its own; when they differ it fetches everything. A heartbeat that is answered with 404 registers again. When a
/// node does not answer, the next one is asked. The status that an operator set is listed as such.
///
/// A register in self-preservation lists the dead. An instance that has not renewed for three leases while others have
/// is listed as [`InstanceStatus::Unknown`], so that a [`Resolver`](crate::registry::discovery::Resolver) asks it itself.
///
/// Requests go through the guarded [`HttpClient`]: nodes in a private network need an entry in
/// [`HttpConfig::allow`](crate::http::HttpConfig::allow).
///
/// ```
/// use crm_core::SystemClock;
/// use crm_core::http::{HttpClient, HttpConfig};
/// use crm_core::registry::discovery::eureka::{EurekaConfig, EurekaDiscovery};
///
/// let mut http = HttpConfig::default();
/// http.allow.push("10.0.0.0/8:8761".parse().unwrap());
/// let config = EurekaConfig::new(vec!["http://10.0.0.5:8761/eureka/v2/".parse().unwrap()]);
/// let discovery = EurekaDiscovery::new("eureka", config, HttpClient::new(http).unwrap(), SystemClock::shared());
/// assert!(discovery.is_ok());
/// ```
#[derive(Clone)]
pub struct EurekaDiscovery(Arc<Inner>);

struct Inner {
    info: ProviderInfo,
    config: EurekaConfig,
    authorization: Option<HeaderValue>,
    http: HttpClient,
    clock: Arc<dyn Clock>,
    board: Board,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The node that answered last.
    peer: usize,
    /// What this process registered, and the version it said.
    mine: BTreeMap<(Service, String), (Instance, i64)>,
    view: View,
    fetched: Option<Timestamp>,
    tried: Option<Timestamp>,
    since_full: u32,
    full_wanted: bool,
    last_dirty: i64,
}

impl fmt::Debug for EurekaDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EurekaDiscovery")
            .field("name", &self.0.info.name)
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

impl EurekaDiscovery {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting.
    pub fn new(
        name: impl Into<String>,
        mut config: EurekaConfig,
        http: HttpClient,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        config.validate()?;
        for peer in &mut config.peers {
            if !peer.path().ends_with('/') {
                let path = format!("{}/", peer.path());
                peer.set_path(&path);
            }
        }
        let authorization = match (&config.user, &config.password) {
            (Some(user), Some(password)) => {
                let pair = zeroize::Zeroizing::new(format!("{user}:{}", password.expose()));
                let coded = base64::engine::general_purpose::STANDARD.encode(pair.as_bytes());
                let mut value = HeaderValue::from_str(&format!("Basic {coded}")).map_err(|_| {
                    Error::config("user and password make no header").with("setting", "password")
                })?;
                value.set_sensitive(true);
                Some(value)
            }
            _ => None,
        };
        Ok(Self(Arc::new(Inner {
            info: ProviderInfo::new("eureka", name),
            config,
            authorization,
            http,
            clock,
            board: Board::default(),
            state: Mutex::default(),
        })))
    }

    fn app(&self, service: &Service) -> String {
        match self.0.config.apps.get(service) {
            Some(app) => app.to_ascii_uppercase(),
            None => app_of(service),
        }
    }

    /// What is known of a service.
    fn known(&self, state: &State, service: &Service) -> Vec<Instance> {
        state.view.instances(&self.app(service), service)
    }

    /// Sends a request to the node that answered last, and to the others in turn when it does not answer or cannot
    /// serve. Everything that is sent may be sent twice: a register is told states, not steps.
    async fn send(
        &self,
        state: &mut State,
        method: &Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&str>,
        operation: &'static str,
    ) -> Result<Response> {
        let peers = &self.0.config.peers;
        let mut failed = None;
        for turn in 0..peers.len() {
            let which = (state.peer + turn) % peers.len();
            let Some(peer) = peers.get(which) else { continue };
            let url = url_of(peer, path, query)?;
            let mut request = Request::builder()
                .method(method.clone())
                .uri(url.as_str())
                .header(ACCEPT, "application/json");
            if body.is_some() {
                request = request.header(CONTENT_TYPE, "application/json");
            }
            if let Some(value) = &self.0.authorization {
                request = request.header(AUTHORIZATION, value);
            }
            let request = request
                .body(Bytes::copy_from_slice(body.unwrap_or_default().as_bytes()))
                .map_err(|error| {
                    Error::invalid("the request cannot be made")
                        .operation(operation)
                        .source(error)
                })?;
            let error = match self.0.http.send(request).await {
                Ok(answer)
                    if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS =>
                {
                    refused(&answer, operation)
                }
                Ok(answer) => {
                    state.peer = which;
                    return Ok(answer);
                }
                Err(error) => error,
            };
            tracing::debug!(provider = %self.0.info, peer = %redacted(peer), kind = %error.kind(), "this node does not serve");
            failed = Some(error);
        }
        let error = failed.unwrap_or_else(|| Error::config("no peers").with("setting", "peers"));
        Err(error
            .operation(operation)
            .with("provider", &self.0.info)
            .with("peers_tried", peers.len()))
    }

    async fn announce(&self, state: &mut State, instance: &Instance) -> Result<()> {
        let key = (instance.service.clone(), instance.id.clone());
        let before = state.mine.get(&key).map(|(old, _)| old.status);
        let app = self.app(&instance.service);
        // Out of service was said with an override, which has to go before anything else is believed.
        if before == Some(InstanceStatus::OutOfService) && instance.status != InstanceStatus::OutOfService {
            let value = status_of(instance.status).as_str();
            let path = ["apps", &app, &instance.id, "status"];
            let answer = self
                .send(
                    state,
                    &Method::DELETE,
                    &path,
                    &[("value", value)],
                    None,
                    "discovery.register",
                )
                .await?;
            if !answer.status.is_success() && answer.status != StatusCode::NOT_FOUND {
                return Err(refused(&answer, "discovery.register"));
            }
        }
        // Each registration is newer than the one before, also within a millisecond.
        let now = self.0.clock.now().as_micros().div_euclid(1000);
        state.last_dirty = now.max(state.last_dirty + 1);
        let dirty = state.last_dirty;
        let body = json::registration(&to_info(&app, instance, dirty));
        let answer = self
            .send(
                state,
                &Method::POST,
                &["apps", &app],
                &[],
                Some(&body),
                "discovery.register",
            )
            .await?;
        if !answer.status.is_success() {
            return Err(refused(&answer, "discovery.register"));
        }
        // Kept only now: what was not taken is not renewed.
        state.mine.insert(key, (instance.clone(), dirty));
        Ok(())
    }

    /// Fetches changes, or everything when that is due or the changes do not add up.
    async fn fetch(&self, state: &mut State) -> Result<()> {
        state.tried = Some(self.0.clock.now());
        let most = self.0.config.max_instances;
        let full = state.fetched.is_none()
            || state.full_wanted
            || state.view.doubts()
            || state.since_full >= self.0.config.full_every;
        let mut done = false;
        if !full {
            // A server may have its deltas switched off.
            if let Some(delta) = self.apps(state, &["apps", "delta"]).await? {
                state.since_full += 1;
                // What it leaves does not add up until everything is there: another reading must not go on with it.
                state.full_wanted = true;
                done = state.view.apply(delta, most);
            }
        }
        if !done {
            let Some(apps) = self.apps(state, &["apps"]).await? else {
                return Err(Error::new(
                    ErrorKind::PermissionDenied,
                    "the register does not let itself be read",
                )
                .operation("discovery.list")
                .with("provider", &self.0.info));
            };
            state.view.replace(apps);
            state.since_full = 0;
        }
        state.full_wanted = false;
        state.fetched = Some(self.0.clock.now());
        Ok(())
    }

    /// A list; `None` when it is forbidden.
    async fn apps(&self, state: &mut State, path: &[&str]) -> Result<Option<Apps>> {
        let answer = self
            .send(state, &Method::GET, path, &[], None, "discovery.list")
            .await?;
        if answer.status == StatusCode::FORBIDDEN {
            return Ok(None);
        }
        if !answer.status.is_success() {
            return Err(refused(&answer, "discovery.list").with("provider", &self.0.info));
        }
        let unreadable = |message: &'static str| {
            Error::new(ErrorKind::Unavailable, message)
                .operation("discovery.list")
                .with("provider", &self.0.info)
                .with("url", redacted(&answer.final_url))
        };
        if answer.truncated {
            return Err(unreadable(
                "the register's answer is larger than the HTTP client's max_body",
            ));
        }
        json::read_apps(&answer.body, self.0.config.max_instances)
            .map(Some)
            .ok_or_else(|| {
                unreadable("the register's answer is no list of applications, or has more than max_instances")
            })
    }

    fn due(&self, state: &State) -> Duration {
        let every = Duration::from_secs(self.0.config.fetch_every);
        match state.tried {
            Some(tried) => every.saturating_sub(self.0.clock.now().since(tried)),
            None => Duration::ZERO,
        }
    }

    /// Fetches when it is due, and tells what is known to all watches.
    async fn follow(&self, state: &mut State) -> Result<()> {
        if !self.due(state).is_zero() {
            return Ok(());
        }
        let outcome = self.fetch(state).await;
        match &outcome {
            Ok(()) => {
                for service in self.0.board.services() {
                    self.0.board.publish(&service, self.known(state, &service), false);
                }
            }
            Err(_) => self.0.board.mark(true),
        }
        outcome
    }
}

fn url_of(peer: &Url, path: &[&str], query: &[(&str, &str)]) -> Result<Url> {
    let mut url = peer.clone();
    url.path_segments_mut()
        .map_err(|()| {
            Error::config("a service URL begins with http:// or https://").with("setting", "peers")
        })?
        .pop_if_empty()
        .extend(path);
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    Ok(url)
}

/// An answer that is no yes.
fn refused(answer: &Response, operation: &'static str) -> Error {
    let (kind, message) = match answer.status.as_u16() {
        401 => (
            ErrorKind::Unauthenticated,
            "the register refuses user and password",
        ),
        403 => (ErrorKind::PermissionDenied, "the register forbids it"),
        404 => (ErrorKind::NotFound, "the register does not know it"),
        429 => (ErrorKind::RateLimited, "the register asks to slow down"),
        400..=499 => (ErrorKind::Invalid, "the register refuses the request"),
        _ => (ErrorKind::Unavailable, "the register cannot serve now"),
    };
    Error::new(kind, message)
        .operation(operation)
        .with("status", answer.status.as_u16())
        .with("url", redacted(&answer.final_url))
}

#[async_trait]
impl Provider for EurekaDiscovery {
    fn info(&self) -> &ProviderInfo {
        &self.0.info
    }

    /// Ready when the register was read the last time it was due, or can be now.
    async fn check(&self) -> Result<Health> {
        let mut state = self.0.state.lock().await;
        if state.fetched.is_none() || state.fetched < state.tried {
            self.fetch(&mut state).await?;
        }
        Ok(Health::Ready)
    }
}

#[async_trait]
impl Discovery for EurekaDiscovery {
    async fn register(&self, instance: &Instance) -> Result<()> {
        instance
            .validate()
            .map_err(|error| error.operation("discovery.register"))?;
        let mut state = self.0.state.lock().await;
        self.announce(&mut state, instance).await
    }

    async fn renew(&self, service: &Service, id: &str) -> Result<()> {
        check_id(id).map_err(|error| error.operation("discovery.renew"))?;
        let mut state = self.0.state.lock().await;
        let mine = state.mine.get(&(service.clone(), id.to_owned())).cloned();
        let app = self.app(service);
        let path = ["apps", &app, id];
        let (status, dirty) = match &mine {
            Some((instance, dirty)) => (status_of(instance.status), dirty.to_string()),
            None => (Status::Up, "0".to_owned()),
        };
        let query = [
            ("status", status.as_str()),
            ("lastDirtyTimestamp", dirty.as_str()),
        ];
        let answer = self
            .send(&mut state, &Method::PUT, &path, &query, None, "discovery.renew")
            .await?;
        match (answer.status, mine) {
            (StatusCode::NOT_FOUND, Some((instance, _))) => self.announce(&mut state, &instance).await,
            (StatusCode::NOT_FOUND, None) => Err(not_registered(service)),
            (status, _) if status.is_success() => Ok(()),
            _ => Err(refused(&answer, "discovery.renew")),
        }
    }

    async fn deregister(&self, service: &Service, id: &str) -> Result<()> {
        check_id(id).map_err(|error| error.operation("discovery.deregister"))?;
        let mut state = self.0.state.lock().await;
        state.mine.remove(&(service.clone(), id.to_owned()));
        let app = self.app(service);
        let answer = self
            .send(
                &mut state,
                &Method::DELETE,
                &["apps", &app, id],
                &[],
                None,
                "discovery.deregister",
            )
            .await?;
        if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND {
            Ok(())
        } else {
            Err(refused(&answer, "discovery.deregister"))
        }
    }

    async fn list(&self, service: &Service) -> Result<Snapshot> {
        let mut state = self.0.state.lock().await;
        let outcome = self.follow(&mut state).await;
        let stale = state.fetched < state.tried;
        match outcome {
            Err(error) if state.fetched.is_none() => Err(error),
            _ if state.fetched.is_none() => Err(Error::new(
                ErrorKind::Unavailable,
                "the register could not be read yet; it is asked again when fetch_every has passed",
            )
            .operation("discovery.list")
            .with("provider", &self.0.info)),
            _ => Ok(self.0.board.publish(service, self.known(&state, service), stale)),
        }
    }

    async fn watch(&self, service: &Service) -> Result<Watch> {
        let watch = self.0.board.watch(service)?;
        let state = self.0.state.lock().await;
        if state.fetched.is_some() {
            let stale = state.fetched < state.tried;
            self.0.board.publish(service, self.known(&state, service), stale);
        }
        Ok(watch)
    }

    async fn tick(&self) -> Result<Duration> {
        let mut state = self.0.state.lock().await;
        self.follow(&mut state).await?;
        Ok(self.due(&state).max(BREATH))
    }
}
